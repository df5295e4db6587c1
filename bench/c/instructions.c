/* Calls of each fast path, for callgrind to count:  valgrind --tool=callgrind --toggle-collect=counted instructions
 *
 * Each path_<name> makes one call through a function pointer, so that what callgrind books on that call is the
 * function from its first instruction to its return, with what it calls. Everything is warm before counted() runs:
 * a free cell is at hand, a chunk has room, the thread has its part.
 */
#include "bench.h"

#define CALLS 1000 /* bench/instructions.py divides by it */
#define SIZE ((size_t)64)
#define ALIGN ((size_t)16)

/* Copies its argument where the compiler cannot follow. */
#define HIDDEN(value)                       \
    __extension__({                         \
        __typeof__(value) hidden = (value); \
        __asm__("" : "+r"(hidden));         \
        hidden;                             \
    })

static void *block;

#ifndef SIDE_MALLOC

/* Under the wrappers: what it costs is taken off, so that their own work is left. */
static void *bare_alloc(void *self, size_t size, size_t align) {
    static char bytes[64];
    (void)self, (void)size, (void)align;
    return bytes;
}
static bool bare_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    (void)self, (void)ptr, (void)old, (void)size, (void)align;
    return false;
}
static nm_status bare_free(void *self, void *ptr, size_t size, size_t align) {
    (void)self, (void)ptr, (void)size, (void)align;
    return NM_OK;
}
static void bare_stats(void *self, nm_stats *out) { (void)self, *out = (nm_stats){0}; }
static const nm_methods bare_methods = {bare_alloc, bare_resize, bare_free, bare_stats};

static nm_status status;
static nm_heap *heap;
static nm_allocator arena, stack, pool, slab, heap_port, system_port, limited, traced, traced_sizes;
static nm_allocator bare;

static NOINLINE void path_heap_malloc(void) { block = HIDDEN(&nm_heap_malloc)(heap, SIZE); }
static NOINLINE void path_heap_free(void) { status = HIDDEN(&nm_heap_free)(heap, block); }
static NOINLINE void path_heap_malloc_1KiB(void) { block = HIDDEN(&nm_heap_malloc)(heap, 1024); }
static NOINLINE void path_heap_free_1KiB(void) { status = HIDDEN(&nm_heap_free)(heap, block); }

#define PORT_PATHS(name, port)                                                                              \
    static NOINLINE void path_##name##_alloc(void) { block = port.methods->alloc(port.self, SIZE, ALIGN); } \
    static NOINLINE void path_##name##_free(void) { status = port.methods->free(port.self, block, SIZE, ALIGN); }
PORT_PATHS(bare, bare)
PORT_PATHS(arena, arena)
PORT_PATHS(stack, stack)
PORT_PATHS(pool, pool)
PORT_PATHS(slab, slab)
PORT_PATHS(heap_port, heap_port)
PORT_PATHS(system, system_port)
PORT_PATHS(limited, limited)
PORT_PATHS(traced, traced)
PORT_PATHS(traced_sizes, traced_sizes)

static void set_up_all(void) {
    static const size_t bins[] = {32, 64, 128, 256};
    if (nm_region_init((size_t)1 << 30, (size_t)256 << 20, 1000) != NM_OK) die("no region");
    heap = nm_heap_create(NULL, false);
    heap_port = nm_heap_port(heap);
    bare = (nm_allocator){NULL, HIDDEN(&bare_methods)};
    system_port = nm_system_port(nm_system_create());
    arena = nm_arena_port(nm_arena_create(system_port, (nm_arena_options){.hint = (size_t)1 << 20, .grow = true}));
    stack = nm_stack_port(nm_stack_create(system_port, (size_t)1 << 20, false));
    pool = nm_pool_port(nm_pool_create(system_port, SIZE, 1000, false));
    slab = nm_slab_port(nm_slab_create(heap_port, bins, sizeof bins / sizeof *bins, false));
    limited = nm_limited_port(nm_limited_create(bare, nm_budget_create((size_t)1 << 30, NULL, NULL)));
    traced = nm_traced_port(nm_traced_create(bare, (nm_traced_options){0}));
    traced_sizes = nm_traced_port(nm_traced_create(bare, (nm_traced_options){.histogram = true}));
}

static void (*const paths[][2])(void) = {
    {path_heap_malloc, path_heap_free},    {path_heap_malloc_1KiB, path_heap_free_1KiB},
    {path_bare_alloc, path_bare_free},     {path_arena_alloc, path_arena_free},
    {path_stack_alloc, path_stack_free},   {path_pool_alloc, path_pool_free},
    {path_slab_alloc, path_slab_free},     {path_heap_port_alloc, path_heap_port_free},
    {path_system_alloc, path_system_free}, {path_limited_alloc, path_limited_free},
    {path_traced_alloc, path_traced_free}, {path_traced_sizes_alloc, path_traced_sizes_free},
};

#else

static NOINLINE void path_malloc(void) { block = HIDDEN(&malloc)(SIZE); }
static NOINLINE void path_free(void) {
    HIDDEN (&free)(block);
    keep(block);
}
static NOINLINE void path_malloc_1KiB(void) { block = HIDDEN(&malloc)(1024); }
static NOINLINE void path_free_1KiB(void) {
    HIDDEN (&free)(block);
    keep(block);
}
static void set_up_all(void) {}
static void (*const paths[][2])(void) = {
    {path_malloc, path_free},
    {path_malloc_1KiB, path_free_1KiB},
};

#endif

static NOINLINE void run(void) {
    for (size_t p = 0; p < sizeof paths / sizeof *paths; p++) {
        for (int i = 0; i < CALLS; i++) {
            paths[p][0]();
            if (block == NULL) die("out of memory");
            paths[p][1]();
        }
    }
}

static NOINLINE void counted(void) {
    run();
    keep(block);
}

int main(void) {
    set_up_all();
    run();
    counted();
    return 0;
}
