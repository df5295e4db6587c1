#define _POSIX_C_SOURCE 200809L /* posix_memalign */
#include "nativemem/system.h"

#include <stdlib.h>

#include "alloc/counters.h"

/* libc's allocator, counted. It knows the size of its blocks, so nothing is stored beside the counters.
 * Invariants:  live == count - frees;  used <= peak. */
struct nm_system {
    nm__shared_stats stats;
};

static void *system_alloc(void *self, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_system *s = self;
    void *ptr = NULL;
    if (align <= NM_ALIGN_DEFAULT) {
        ptr = malloc(size);
    } else if (posix_memalign(&ptr, align, size) != 0) {
        ptr = NULL;
    }
    if (NM_UNLIKELY(ptr == NULL)) {
        nm__atomic_add(&s->stats.failures, 1);
        return nm_refuse(NM_OUT_OF_MEMORY, size, 0, 0);
    }
    nm__count_alloc(&s->stats, size);
    return ptr;
}

/* libc cannot grow in place on request, so only shrinking is served; the tail stays with the block. */
static bool system_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_system *s = self;
    (void)align;
    if (size > old) return false;
    NM_POISON((char *)ptr + size, old - size);
    nm__count_resize(&s->stats, old, size);
    return true;
}

static nm_status system_free(void *self, void *ptr, size_t size, size_t align) {
    nm_system *s = self;
    (void)align;
    nm__count_free(&s->stats, size);
    free(ptr);
    return NM_OK;
}

static void system_stats(void *self, nm_stats *out) { nm__shared_read(&((nm_system *)self)->stats, out); }

static const nm_methods system_methods = {system_alloc, system_resize, system_free, system_stats};

nm_system *nm_system_create(void) { return nm__meta_alloc(sizeof(nm_system)); }
void nm_system_destroy(nm_system *s) { nm__meta_free(s); }
nm_allocator nm_system_port(nm_system *s) { return (nm_allocator){s, &system_methods}; }
