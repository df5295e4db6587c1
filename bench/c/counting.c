/* What counting costs: an alloc and a free through a port that does nothing, and through what counts in front of it.
 *
 *   counting bare | traced | atomic    time of a pair, in ns
 *
 * atomic: the same counters (bytes in use with their peak, bytes in all, blocks given, blocks back), each an atomic add.
 */
#include <stdatomic.h>

#include "bench.h"

#define SIZE ((size_t)64)
#define ALIGN ((size_t)16)

static nm_allocator port;

static NOINLINE void *bare_alloc(void *self, size_t size, size_t align) {
    static char bytes[64];
    (void)self, (void)size, (void)align;
    return bytes;
}
static NOINLINE bool bare_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    (void)self, (void)ptr, (void)old, (void)size, (void)align;
    return false;
}
static NOINLINE nm_status bare_free(void *self, void *ptr, size_t size, size_t align) {
    (void)self, (void)ptr, (void)size, (void)align;
    return NM_OK;
}
static void bare_stats(void *self, nm_stats *out) { (void)self, *out = (nm_stats){0}; }
static const nm_methods bare_methods = {bare_alloc, bare_resize, bare_free, bare_stats};

typedef struct counted {
    nm_allocator upstream;
    atomic_size_t used, peak, total, count, frees;
} counted;
static void *atomic_alloc(void *self, size_t size, size_t align) {
    counted *c = self;
    void *ptr = c->upstream.methods->alloc(c->upstream.self, size, align);
    if (ptr == NULL) return NULL;
    size_t used = atomic_fetch_add_explicit(&c->used, size, memory_order_relaxed) + size;
    size_t peak = atomic_load_explicit(&c->peak, memory_order_relaxed);
    while (peak < used &&
           !atomic_compare_exchange_weak_explicit(&c->peak, &peak, used, memory_order_relaxed, memory_order_relaxed)) {}
    atomic_fetch_add_explicit(&c->total, size, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->count, 1, memory_order_relaxed);
    return ptr;
}
static nm_status atomic_free(void *self, void *ptr, size_t size, size_t align) {
    counted *c = self;
    nm_status status = c->upstream.methods->free(c->upstream.self, ptr, size, align);
    atomic_fetch_sub_explicit(&c->used, size, memory_order_relaxed);
    atomic_fetch_add_explicit(&c->frees, 1, memory_order_relaxed);
    return status;
}
static const nm_methods atomic_methods = {atomic_alloc, bare_resize, atomic_free, bare_stats};

static NOINLINE double pairs(size_t n) {
    double start = seconds(CLOCK_PROCESS_CPUTIME_ID);
    for (size_t i = 0; i < n; i++) {
        void *ptr = port.methods->alloc(port.self, SIZE, ALIGN);
        keep(ptr);
        if (port.methods->free(port.self, ptr, SIZE, ALIGN) != NM_OK) die("a free was refused");
    }
    return seconds(CLOCK_PROCESS_CPUTIME_ID) - start;
}

int main(int argc, char **argv) {
    static counted plain;
    nm_allocator bare = {NULL, &bare_methods};
    if (argc < 2) die("usage: counting bare|traced|atomic [quick]");
    if (strcmp(argv[1], "bare") == 0) port = bare;
    else if (strcmp(argv[1], "traced") == 0) port = nm_traced_port(nm_traced_create(bare, (nm_traced_options){0}));
    else {
        plain.upstream = bare;
        port = (nm_allocator){&plain, &atomic_methods};
    }
    size_t n = steps_for(pairs, argc > 2 && strcmp(argv[2], "1") == 0 ? 0.01 : 0.2);
    printf("{\"time\": %.6e}\n", measure(pairs, n));
    return 0;
}
