#include "nativemem/failing.h"

#include "alloc/counters.h"

struct nm_failing {
    nm_allocator upstream;
    nm__counter n, calls, failed;
    atomic_bool sticky;
    nm__shared_stats stats;
};

static void *failing_alloc(void *self, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_failing *f = self;
    size_t call = nm__atomic_add(&f->calls, 1), n = nm__get(&f->n);
    if (NM_UNLIKELY(n != 0 && (call == n || (call > n && atomic_load(&f->sticky))))) {
        nm__atomic_add(&f->failed, 1);
        nm__atomic_add(&f->stats.failures, 1);
        return nm_refuse(NM_OUT_OF_MEMORY, size, 0, 0);
    }
    void *ptr = f->upstream.methods->alloc(f->upstream.self, size, align);
    if (NM_UNLIKELY(ptr == NULL)) nm__count_failure(&f->stats.failures);
    else nm__count_alloc(&f->stats, size);
    return ptr;
}

static bool failing_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_failing *f = self;
    if (!f->upstream.methods->resize(f->upstream.self, ptr, old, size, align)) return false;
    nm__count_resize(&f->stats, old, size);
    return true;
}

static nm_status failing_free(void *self, void *ptr, size_t size, size_t align) {
    nm_failing *f = self;
    nm_status status = f->upstream.methods->free(f->upstream.self, ptr, size, align);
    if (status == NM_OK) nm__count_free(&f->stats, size);
    return status;
}

static void failing_stats(void *self, nm_stats *out) { nm__shared_read(&((nm_failing *)self)->stats, out); }

static const nm_methods failing_methods = {failing_alloc, failing_resize, failing_free, failing_stats};

nm_failing *nm_failing_create(nm_allocator upstream, size_t n, bool sticky) {
    nm_failing *f = nm__meta_alloc(sizeof *f);
    if (f == NULL) return NULL;
    f->upstream = upstream;
    nm_failing_arm(f, n, sticky);
    return f;
}
void nm_failing_destroy(nm_failing *f) { nm__meta_free(f); }
nm_allocator nm_failing_port(nm_failing *f) { return (nm_allocator){f, &failing_methods}; }

void nm_failing_arm(nm_failing *f, size_t n, bool sticky) {
    nm__set(&f->n, n);
    atomic_store(&f->sticky, sticky);
    nm__set(&f->calls, 0);
    nm__set(&f->failed, 0);
}
size_t nm_failing_calls(const nm_failing *f) { return nm__get(&f->calls); }
size_t nm_failing_failed(const nm_failing *f) { return nm__get(&f->failed); }
