#include "nativemem/traced.h"

#include "alloc/counters.h"

struct nm_traced {
    nm_allocator upstream;
    nm__shared_stats stats;
    bool histogram;
    nm__counter buckets[]; /* NM_HISTO_BUCKETS where histogram is true, else none */
};

unsigned nm_histo_bucket(size_t size) {
    if (size <= 4) return (unsigned)size - 1;
    unsigned e = 63U - (unsigned)__builtin_clzll(size - 1);
    return 4 + (e - 2) * 4 + (unsigned)((size - 1 - ((size_t)1 << e)) >> (e - 2));
}

size_t nm_histo_size(unsigned bucket) {
    if (bucket < 4) return bucket + 1;
    unsigned e = (bucket - 4) / 4 + 2;
    return ((size_t)1 << e) + ((size_t)((bucket - 4) % 4 + 1) << (e - 2));
}

static void *traced_alloc(void *self, size_t size, size_t align) {
    nm_traced *t = self;
    void *ptr = t->upstream.methods->alloc(t->upstream.self, size, align);
    if (NM_UNLIKELY(ptr == NULL)) {
        nm__count_failure(&t->stats.failures);
        return NULL;
    }
    nm__count_alloc(&t->stats, size);
    if (t->histogram) nm__atomic_add(&t->buckets[nm_histo_bucket(size)], 1);
    return ptr;
}

static bool traced_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    nm_traced *t = self;
    if (!t->upstream.methods->resize(t->upstream.self, ptr, old, size, align)) return false;
    nm__count_resize(&t->stats, old, size);
    return true;
}

static nm_status traced_free(void *self, void *ptr, size_t size, size_t align) {
    nm_traced *t = self;
    nm_status status = t->upstream.methods->free(t->upstream.self, ptr, size, align);
    if (status == NM_OK) nm__count_free(&t->stats, size);
    return status;
}

static void traced_stats(void *self, nm_stats *out) { nm__shared_read(&((nm_traced *)self)->stats, out); }

static const nm_methods traced_methods = {traced_alloc, traced_resize, traced_free, traced_stats};

nm_traced *nm_traced_create(nm_allocator upstream, bool histogram) {
    size_t buckets = histogram ? NM_HISTO_BUCKETS * sizeof(nm__counter) : 0;
    nm_traced *t = nm__meta_alloc(sizeof *t + buckets);
    if (t == NULL) return NULL;
    t->upstream = upstream;
    t->histogram = histogram;
    return t;
}
void nm_traced_destroy(nm_traced *t) { nm__meta_free(t); }
nm_allocator nm_traced_port(nm_traced *t) { return (nm_allocator){t, &traced_methods}; }

bool nm_traced_histogram(const nm_traced *t, uint64_t *out) {
    if (!t->histogram) return false;
    for (unsigned i = 0; i < NM_HISTO_BUCKETS; i++) out[i] = nm__get(&t->buckets[i]);
    return true;
}
