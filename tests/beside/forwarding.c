/* An allocator hook such as tools have: it counts, and passes on to what it found. */
#include <stddef.h>

typedef struct {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t count, size_t size);
    void *(*realloc)(void *ctx, void *ptr, size_t size);
    void (*free)(void *ctx, void *ptr);
} allocator; /* PyMemAllocatorEx */

void PyMem_GetAllocator(int domain, allocator *to);
void PyMem_SetAllocator(int domain, allocator *from);

static allocator found[2][3];
unsigned long calls;

static void *forward_malloc(void *ctx, size_t size) {
    allocator *a = ctx;
    calls++;
    return a->malloc(a->ctx, size);
}

static void *forward_calloc(void *ctx, size_t count, size_t size) {
    allocator *a = ctx;
    calls++;
    return a->calloc(a->ctx, count, size);
}

static void *forward_realloc(void *ctx, void *ptr, size_t size) {
    allocator *a = ctx;
    calls++;
    return a->realloc(a->ctx, ptr, size);
}

static void forward_free(void *ctx, void *ptr) {
    allocator *a = ctx;
    calls++;
    a->free(a->ctx, ptr);
}

void look(int hook) {
    for (int domain = 0; domain < 3; domain++) PyMem_GetAllocator(domain, &found[hook][domain]);
}

void put(int hook) {
    look(hook);
    for (int domain = 0; domain < 3; domain++) {
        allocator ours = {&found[hook][domain], forward_malloc, forward_calloc, forward_realloc, forward_free};
        PyMem_SetAllocator(domain, &ours);
    }
}

void restore_domain(int hook, int domain) { PyMem_SetAllocator(domain, &found[hook][domain]); }

void restore(int hook) {
    for (int domain = 0; domain < 3; domain++) restore_domain(hook, domain);
}
