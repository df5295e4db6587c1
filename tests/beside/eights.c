/* An allocator as a 32-bit Python has it: every other small block begins at a multiple of 8 that is none of 16. */
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t count, size_t size);
    void *(*realloc)(void *ctx, void *ptr, size_t size);
    void (*free)(void *ctx, void *ptr);
} allocator; /* PyMemAllocatorEx */

void PyMem_GetAllocator(int domain, allocator *to);
void PyMem_SetAllocator(int domain, allocator *from);

enum { MEM = 1, SMALL = 512 };
static allocator found;
unsigned long eights;

static int is_eight(const void *ptr) { return (uintptr_t)ptr % 16 == 8; }
static size_t *size_of(void *ptr) { return (size_t *)ptr - 1; }

static void *eights_malloc(void *ctx, size_t size) {
    static unsigned turn;
    (void)ctx;
    if (size > SMALL || turn++ % 2 != 0) return found.malloc(found.ctx, size);
    char *ptr = found.malloc(found.ctx, size + 16);
    if (ptr == NULL) return NULL;
    eights++;
    *size_of(ptr + 8) = size;
    return ptr + 8;
}

static void *eights_calloc(void *ctx, size_t count, size_t size) {
    (void)ctx;
    return found.calloc(found.ctx, count, size);
}

static void eights_free(void *ctx, void *ptr) {
    (void)ctx;
    found.free(found.ctx, is_eight(ptr) ? (char *)ptr - 8 : ptr);
}

static void *eights_realloc(void *ctx, void *ptr, size_t size) {
    if (ptr == NULL) return eights_malloc(ctx, size);
    size_t old = size;
    if (is_eight(ptr)) old = *size_of(ptr) < size ? *size_of(ptr) : size;
    else if ((ptr = found.realloc(found.ctx, ptr, size)) == NULL || size > SMALL) return ptr;
    void *moved = eights_malloc(ctx, size);
    if (moved == NULL) return NULL;
    memcpy(moved, ptr, old);
    eights_free(ctx, ptr);
    return moved;
}

void put(void) {
    PyMem_GetAllocator(MEM, &found);
    allocator ours = {NULL, eights_malloc, eights_calloc, eights_realloc, eights_free};
    PyMem_SetAllocator(MEM, &ours);
}
