#include "nativemem/limited.h"

#include "alloc/counters.h"

/* Invariant:  stats.used <= what this wrapper has charged to the budget, and equal while no call is under way. What is
 * counted is taken back before the charge, or another thread's would be seen on top of it. */
struct nm_limited {
    nm_allocator upstream;
    nm_budget *budget;
    nm__shared_stats stats;
};

static void *limited_alloc(void *self, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_limited *l = self;
    if (!nm__budget_hold(l->budget, size)) {
        nm__count_failure(&l->stats.failures);
        return NULL;
    }
    void *ptr = l->upstream.methods->alloc(l->upstream.self, size, align);
    if (NM_UNLIKELY(ptr == NULL)) {
        nm__count_failure(&l->stats.failures);
        (void)nm_budget_release(l->budget, size);
        return NULL;
    }
    nm__budget_settle(l->budget);
    nm__count_alloc(&l->stats, size);
    return ptr;
}

static bool limited_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_limited *l = self;
    if (size > old && !nm__budget_hold(l->budget, size - old)) {
        nm__count_failure(&l->stats.failures);
        return false;
    }
    if (!l->upstream.methods->resize(l->upstream.self, ptr, old, size, align)) {
        if (size > old) (void)nm_budget_release(l->budget, size - old);
        return false;
    }
    nm__count_resize(&l->stats, old, size);
    if (size < old) (void)nm_budget_release(l->budget, old - size);
    nm__budget_settle(l->budget);
    return true;
}

static nm_status limited_free(void *self, void *ptr, size_t size, size_t align) {
    nm_limited *l = self;
    nm_status status = l->upstream.methods->free(l->upstream.self, ptr, size, align);
    if (status != NM_OK) return status;
    nm__count_free(&l->stats, size);
    (void)nm_budget_release(l->budget, size);
    return NM_OK;
}

static void limited_stats(void *self, nm_stats *out) {
    nm_limited *l = self;
    nm__shared_read(&l->stats, out);
    out->limit = nm_budget_limit(l->budget);
}

static const nm_methods limited_methods = {limited_alloc, limited_resize, limited_free, limited_stats};

nm_limited *nm_limited_create(nm_allocator upstream, nm_budget *budget) {
    nm_limited *l = nm__meta_alloc(sizeof *l);
    if (l == NULL) return NULL;
    l->upstream = upstream;
    l->budget = budget;
    return l;
}
void nm_limited_clear(nm_limited *l) {
    size_t used = nm__get(&l->stats.used);
    nm__atomic_sub(&l->stats.used, used);
    (void)nm_budget_release(l->budget, used);
}
void nm_limited_destroy(nm_limited *l) {
    if (l == NULL) return;
    nm_limited_clear(l);
    nm__meta_free(l);
}
nm_allocator nm_limited_port(nm_limited *l) { return (nm_allocator){l, &limited_methods}; }
