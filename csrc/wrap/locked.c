#include "nativemem/locked.h"

#include <pthread.h>

#include "alloc/counters.h"

struct nm_locked {
    nm_allocator upstream;
    uintptr_t thread;
    pthread_mutex_t lock;
    nm__counter contended;
    nm__shared_stats stats;
};

static uintptr_t locked_begin(nm_locked *l) {
    if (NM_UNLIKELY(pthread_mutex_trylock(&l->lock) != 0)) {
        nm__atomic_add(&l->contended, 1);
        pthread_mutex_lock(&l->lock);
    }
    return nm_locked_enter(l);
}
static void locked_end(nm_locked *l, uintptr_t before) {
    nm_locked_leave(before);
    pthread_mutex_unlock(&l->lock);
}

static void *locked_alloc(void *self, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_locked *l = self;
    uintptr_t before = locked_begin(l);
    void *ptr = l->upstream.methods->alloc(l->upstream.self, size, align);
    locked_end(l, before);
    if (NM_UNLIKELY(ptr == NULL)) nm__count_failure(&l->stats.failures);
    else nm__count_alloc(&l->stats, size);
    return ptr;
}

static bool locked_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_locked *l = self;
    uintptr_t before = locked_begin(l);
    bool done = l->upstream.methods->resize(l->upstream.self, ptr, old, size, align);
    locked_end(l, before);
    if (done) nm__count_resize(&l->stats, old, size);
    return done;
}

static nm_status locked_free(void *self, void *ptr, size_t size, size_t align) {
    nm_locked *l = self;
    uintptr_t before = locked_begin(l);
    nm_status status = l->upstream.methods->free(l->upstream.self, ptr, size, align);
    locked_end(l, before);
    if (status == NM_OK) nm__count_free(&l->stats, size);
    return status;
}

static void locked_stats(void *self, nm_stats *out) { nm__shared_read(&((nm_locked *)self)->stats, out); }

static const nm_methods locked_methods = {locked_alloc, locked_resize, locked_free, locked_stats};

nm_locked *nm_locked_create(nm_allocator upstream) {
    nm_locked *l = nm__meta_alloc(sizeof *l);
    if (l == NULL) return NULL;
    l->upstream = upstream;
    l->thread = nm__new_thread_number();
    (void)pthread_mutex_init(&l->lock, NULL);
    return l;
}
void nm_locked_destroy(nm_locked *l) {
    if (l == NULL) return;
    (void)pthread_mutex_destroy(&l->lock);
    nm__meta_free(l);
}
nm_allocator nm_locked_port(nm_locked *l) { return (nm_allocator){l, &locked_methods}; }
uintptr_t nm_this_thread(void) { return nm__thread_id(); }
uintptr_t nm_locked_thread(const nm_locked *l) { return l->thread; }
size_t nm_locked_contended(const nm_locked *l) { return nm__get(&l->contended); }

uintptr_t nm_locked_enter(nm_locked *l) {
    (void)nm__thread_id(); /* has a number from here on, and so something to come back to */
    uintptr_t before = nm__acting_as;
    nm__acting_as = l->thread;
    return before;
}
void nm_locked_leave(uintptr_t before) { nm__acting_as = before; }
