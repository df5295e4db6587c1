#include "nativemem/traced.h"

#include <pthread.h>
#include <string.h>

#include "alloc/counters.h"
#include "base/base.h"
#include "base/poisson.h"
#include "tuning.h"
#include "wrap/sites.h"

/* What one thread has counted. It stays when the thread ends, for the sums, and the next thread that needs one goes on
 * with it.
 * Invariants, over all tallies of a wrapper:  used == out - back;  live == count - frees;  total == out
 * Of each:  high == back + peak */
typedef struct tally {
    _Alignas(64) nm__counter out;
    nm__counter high, back, peak, count, frees, failures; /* one line of the cache for the seven */
    _Atomic uintptr_t owner; /* 0: none */
    struct tally *next;
    void *memory; /* what to give back */
    /* of the owner alone, where sites are sampled: bytes until the next one, and what it is drawn with */
    int64_t until;
    uint64_t random;
    nm__counter buckets[][2]; /* sizes, latencies: NM_HISTO_BUCKETS with a histogram, else none */
} tally;

struct nm_traced {
    nm_allocator upstream;
    nm_traced_options o;
    uint64_t number; /* of the process's, never used again */
    size_t slot;     /* where this thread's tally stands in mine: bytes from its beginning */
    nm_methods methods;
    _Atomic(tally *) tallies; /* only ever grows */
    nm__sites sites;          /* under the lock of all */
    nm_traced *next, *before;
};

/* Every one of the process, for the end of a thread; the lock is also for the lists of tallies. Nothing is waited for
 * while it is held. */
static struct {
    pthread_mutex_t lock;
    nm_traced *first;
    uint64_t numbers;
    uint64_t past[NM_HISTO_BUCKETS][2]; /* of those that are gone */
} traceds = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* This thread's tallies. Wrappers share slots; the number tells whose stands there. */
typedef struct known_tally {
    uint64_t number; /* 0: none */
    tally *tally;
} known_tally;
static NM_TLS known_tally known_tallies[NM_TRACED_SLOTS];

NM_INLINE known_tally *traced_slot(const nm_traced *t) { return (known_tally *)((char *)known_tallies + t->slot); }
NM_INLINE bool traced_is_known(const nm_traced *t) { return NM_LIKELY(traced_slot(t)->number == t->number); }

static void traced_thread_ends(void) {
    uintptr_t me = nm__thread_id();
    memset(known_tallies, 0, sizeof known_tallies);
    pthread_mutex_lock(&traceds.lock);
    for (nm_traced *t = traceds.first; t != NULL; t = t->next)
        for (tally *y = atomic_load(&t->tallies); y != NULL; y = y->next)
            if (atomic_load(&y->owner) == me) atomic_store(&y->owner, 0);
    pthread_mutex_unlock(&traceds.lock);
}

static void traced_before_fork(void) { pthread_mutex_lock(&traceds.lock); }
static void traced_after_fork(void) { pthread_mutex_unlock(&traceds.lock); }
static void traced_register_hooks(void) {
    nm__at_thread_end(traced_thread_ends);
    (void)pthread_atfork(traced_before_fork, traced_after_fork, traced_after_fork);
}

static NM_COLD int64_t tally_draw(tally *y, size_t sample) { return nm__poisson_gap(&y->random, sample); }

static tally *traced_new_tally(nm_traced *t) {
    size_t buckets = t->o.histogram ? NM_HISTO_BUCKETS * sizeof(nm__counter[2]) : 0;
    void *memory = nm__meta_alloc(sizeof(tally) + buckets + _Alignof(tally));
    if (memory == NULL) return NULL;
    tally *y = (tally *)(((uintptr_t)memory + _Alignof(tally) - 1) & ~(uintptr_t)(_Alignof(tally) - 1));
    y->memory = memory;
    atomic_store(&y->owner, nm__thread_id());
    y->next = atomic_load(&t->tallies);
    y->random = (y->next == NULL ? 1 : y->next->random + 1) * UINT64_C(0x9E3779B97F4A7C15) | 1;
    if (t->o.sample != 0) y->until = tally_draw(y, t->o.sample);
    atomic_store(&t->tallies, y);
    return y;
}

static NM_COLD tally *traced_find_tally(nm_traced *t) {
    uintptr_t me = nm__thread_id();
    pthread_mutex_lock(&traceds.lock);
    tally *y = atomic_load(&t->tallies), *idle = NULL;
    while (y != NULL && atomic_load(&y->owner) != me) {
        if (atomic_load(&y->owner) == 0) idle = y;
        y = y->next;
    }
    if (y == NULL && idle != NULL) atomic_store(&(y = idle)->owner, me);
    if (y == NULL) y = traced_new_tally(t);
    pthread_mutex_unlock(&traceds.lock);
    if (y == NULL) return NULL;
    *traced_slot(t) = (known_tally){t->number, y};
    nm__arm_thread_end();
    return y;
}

NM_INLINE tally *traced_tally_of(nm_traced *t) { return traced_is_known(t) ? traced_slot(t)->tally : traced_find_tally(t); }

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

NM_INLINE void tally_count_out(tally *y, size_t size) {
    nm__bump(&y->out, size);
    size_t out = nm__get(&y->out);
    if (NM_LIKELY(out <= nm__get(&y->high))) return;
    nm__set(&y->high, out);
    nm__set(&y->peak, out - nm__get(&y->back));
}

NM_INLINE void tally_count_back(tally *y, size_t size) {
    nm__bump_last(&y->back, size);
    nm__bump(&y->high, size);
}

static NM_COLD void tally_count_failure(tally *y) {
    if (nm__is_want(nm_last_failure().status)) nm__bump(&y->failures, 1);
}

static void *traced_alloc(void *self, size_t size, size_t align);
static NM_COLD void *traced_first_alloc(nm_traced *t, size_t size, size_t align) {
    return traced_find_tally(t) == NULL ? NULL : traced_alloc(t, size, align);
}

static void *traced_alloc(void *self, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_traced *t = self;
    if (NM_UNLIKELY(!traced_is_known(t))) return traced_first_alloc(t, size, align);
    tally *y = traced_slot(t)->tally;
    void *ptr = t->upstream.methods->alloc(t->upstream.self, size, align);
    if (NM_UNLIKELY(ptr == NULL)) {
        tally_count_failure(y);
        return NULL;
    }
    nm__bump(&y->count, 1);
    tally_count_out(y, size);
    return ptr;
}

static void *traced_measured_alloc(void *self, size_t size, size_t align) {
    nm_traced *t = self;
    tally *y = traced_tally_of(t);
    if (NM_UNLIKELY(y == NULL)) return NULL;
    int64_t start = nm__os_monotonic_ns();
    void *ptr = traced_alloc(self, size, align);
    int64_t took = nm__os_monotonic_ns() - start;
    if (ptr == NULL) return NULL;
    nm__bump(&y->buckets[nm_histo_bucket(size)][0], 1);
    nm__bump(&y->buckets[nm_histo_bucket(took > 0 ? (size_t)took : 1)][1], 1);
    return ptr;
}

static bool traced_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_traced *t = self;
    tally *y = traced_tally_of(t);
    if (NM_UNLIKELY(y == NULL) || !t->upstream.methods->resize(t->upstream.self, ptr, old, size, align)) return false;
    if (size > old) tally_count_out(y, size - old);
    else tally_count_back(y, old - size);
    return true;
}

static nm_status traced_free(void *self, void *ptr, size_t size, size_t align);
static NM_COLD nm_status traced_first_free(nm_traced *t, void *ptr, size_t size, size_t align) {
    return traced_find_tally(t) == NULL ? NM_OUT_OF_MEMORY : traced_free(t, ptr, size, align);
}

static nm_status traced_free(void *self, void *ptr, size_t size, size_t align) {
    nm_traced *t = self;
    if (NM_UNLIKELY(!traced_is_known(t))) return traced_first_free(t, ptr, size, align);
    tally *y = traced_slot(t)->tally;
    nm_status status = t->upstream.methods->free(t->upstream.self, ptr, size, align);
    if (NM_UNLIKELY(status != NM_OK)) return status;
    nm__bump_last(&y->frees, 1);
    tally_count_back(y, size);
    return NM_OK;
}

/* A copy is kept until upstream has taken the block: one that is refused is still its owner's, as it was. */
static nm_status traced_wiping_free(void *self, void *ptr, size_t size, size_t align) {
    void *kept = nm__meta_alloc(size);
    if (kept == NULL) return nm_last_failure().status;
    memcpy(kept, ptr, size);
    nm__wipe(ptr, size);
    nm_status status = traced_free(self, ptr, size, align);
    if (status != NM_OK) memcpy(ptr, kept, size);
    nm__wipe(kept, size);
    nm__meta_free(kept);
    return status;
}

static void traced_stats(void *self, nm_stats *out) {
    nm_traced *t = self;
    size_t back = 0;
    *out = (nm_stats){0};
    /* In two rounds: a block may be given by one thread and taken back by another. */
    for (tally *y = atomic_load(&t->tallies); y != NULL; y = y->next) {
        back += nm__get_first(&y->back);
        out->frees += nm__get_first(&y->frees);
    }
    for (tally *y = atomic_load(&t->tallies); y != NULL; y = y->next) {
        out->peak += nm__get(&y->peak);
        out->total += nm__get(&y->out);
        out->count += nm__get(&y->count);
        out->failures += nm__get(&y->failures);
    }
    out->used = out->reserved = out->total - back;
    if (out->peak < out->used) out->peak = out->used;
    out->live = out->count - out->frees;
}

/* ---- sites ------------------------------------------------------------------------------------------ */

static bool tally_is_sampled(tally *y, size_t size, size_t sample) {
    if (NM_LIKELY(y->until > (int64_t)size)) {
        y->until -= (int64_t)size;
        return false;
    }
    y->until = tally_draw(y, sample);
    return true;
}

/* Room is promised first: what upstream gave is never without its site for want of memory. */
static void *traced_recorded_alloc(void *self, size_t size, size_t align) {
    nm_traced *t = self;
    tally *y = traced_tally_of(t);
    if (NM_UNLIKELY(y == NULL)) return NULL;
    bool wanted = t->o.sample == 0 || tally_is_sampled(y, size, t->o.sample);
    if (wanted) {
        pthread_mutex_lock(&traceds.lock);
        bool promised = nm__sites_promise(&t->sites);
        pthread_mutex_unlock(&traceds.lock);
        if (!promised) return NULL;
    }
    void *ptr = t->o.histogram ? traced_measured_alloc(self, size, align) : traced_alloc(self, size, align);
    if (!wanted) return ptr;
    uintptr_t site = ptr == NULL ? 0 : t->o.site(t->o.context);
    pthread_mutex_lock(&traceds.lock);
    if (ptr == NULL) nm__sites_forget_promise(&t->sites);
    else nm__sites_add(&t->sites, (nm__site){ptr, size, site});
    pthread_mutex_unlock(&traceds.lock);
    return ptr;
}

static bool traced_recorded_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    nm_traced *t = self;
    if (!traced_resize(self, ptr, old, size, align)) return false;
    pthread_mutex_lock(&traceds.lock);
    nm__site *found = nm__sites_find(&t->sites, ptr);
    if (found != NULL) found->size = size;
    pthread_mutex_unlock(&traceds.lock);
    return true;
}

/* The site goes first: once upstream has the block another thread may be given it. */
static nm_status traced_recorded_free(void *self, void *ptr, size_t size, size_t align) {
    nm_traced *t = self;
    nm__site taken = {NULL, 0, 0};
    pthread_mutex_lock(&traceds.lock);
    nm__site *found = nm__sites_find(&t->sites, ptr);
    if (found != NULL) taken = nm__sites_take(&t->sites, found);
    pthread_mutex_unlock(&traceds.lock);
    if (found == NULL && t->o.sample == 0) return nm__fail(NM_FOREIGN_BLOCK, size, 0, 0);
    nm_status status = t->o.zero_on_free ? traced_wiping_free(self, ptr, size, align) : traced_free(self, ptr, size, align);
    if (found == NULL) return status;
    pthread_mutex_lock(&traceds.lock);
    if (status == NM_OK) nm__sites_forget_promise(&t->sites);
    else nm__sites_add(&t->sites, taken);
    pthread_mutex_unlock(&traceds.lock);
    return status;
}

uintptr_t nm_traced_site_of(const nm_traced *t, const void *ptr) {
    pthread_mutex_lock(&traceds.lock);
    const nm__site *found = nm__sites_find(&t->sites, ptr);
    uintptr_t site = found == NULL ? 0 : found->site;
    pthread_mutex_unlock(&traceds.lock);
    return site;
}

size_t nm_traced_sites(const nm_traced *t, uintptr_t *sites, size_t *sizes, size_t cap) {
    pthread_mutex_lock(&traceds.lock);
    size_t count = t->sites.count;
    for (size_t i = 0, n = 0; n < cap && i < t->sites.cap; i++) {
        if (t->sites.entries[i].ptr == NULL) continue;
        sites[n] = t->sites.entries[i].site;
        sizes[n++] = t->sites.entries[i].size;
    }
    pthread_mutex_unlock(&traceds.lock);
    return count;
}

/* ---- life ------------------------------------------------------------------------------------------- */

nm_traced *nm_traced_create(nm_allocator upstream, nm_traced_options o) {
    static pthread_once_t done = PTHREAD_ONCE_INIT;
    (void)pthread_once(&done, traced_register_hooks);
    nm_traced *t = nm__meta_alloc(sizeof *t);
    if (t == NULL) return NULL;
    t->upstream = upstream;
    t->o = o;
    t->methods = (nm_methods){o.histogram ? traced_measured_alloc : traced_alloc, traced_resize,
                              o.zero_on_free ? traced_wiping_free : traced_free, traced_stats};
    if (o.site != NULL)
        t->methods = (nm_methods){traced_recorded_alloc, traced_recorded_resize, traced_recorded_free, traced_stats};
    pthread_mutex_lock(&traceds.lock);
    t->number = ++traceds.numbers;
    t->slot = t->number % NM_TRACED_SLOTS * sizeof *known_tallies;
    t->next = traceds.first;
    if (t->next != NULL) t->next->before = t;
    traceds.first = t;
    pthread_mutex_unlock(&traceds.lock);
    return t;
}
static uint64_t traced_counted(const nm_traced *t, unsigned bucket, int kind) {
    uint64_t n = 0;
    for (tally *y = atomic_load((_Atomic(tally *) *)&t->tallies); y != NULL; y = y->next)
        n += nm__get(&y->buckets[bucket][kind]);
    return n;
}

void nm_traced_destroy(nm_traced *t) {
    if (t == NULL) return;
    pthread_mutex_lock(&traceds.lock);
    if (t->before != NULL) t->before->next = t->next;
    else traceds.first = t->next;
    if (t->next != NULL) t->next->before = t->before;
    for (unsigned i = 0; t->o.histogram && i < NM_HISTO_BUCKETS; i++)
        for (int k = 0; k < 2; k++) traceds.past[i][k] += traced_counted(t, i, k);
    pthread_mutex_unlock(&traceds.lock);
    for (tally *y = atomic_load(&t->tallies), *next; y != NULL; y = next) {
        next = y->next;
        nm__meta_free(y->memory);
    }
    nm__sites_destroy(&t->sites);
    nm__meta_free(t);
}
nm_allocator nm_traced_port(nm_traced *t) { return (nm_allocator){t, &t->methods}; }

bool nm_traced_histogram(const nm_traced *t, uint64_t *sizes, uint64_t *latencies) {
    if (t != NULL && !t->o.histogram) return false;
    pthread_mutex_lock(&traceds.lock);
    for (unsigned i = 0; i < NM_HISTO_BUCKETS; i++) {
        uint64_t count[2] = {0, 0};
        for (int k = 0; k < 2; k++) {
            if (t != NULL) count[k] = traced_counted(t, i, k);
            else count[k] = traceds.past[i][k];
            for (const nm_traced *each = t == NULL ? traceds.first : NULL; each != NULL; each = each->next)
                if (each->o.histogram) count[k] += traced_counted(each, i, k);
        }
        if (sizes != NULL) sizes[i] = count[0];
        if (latencies != NULL) latencies[i] = count[1];
    }
    pthread_mutex_unlock(&traceds.lock);
    return true;
}

const char *nm_traced_check(const nm_traced *t) {
    nm_stats s;
    traced_stats((void *)(uintptr_t)t, &s);
    if (s.used > s.total || s.live > s.count) return "more was taken back than given";
    if ((s.used == 0) != (s.live == 0)) return "bytes and blocks do not agree";
    if (t->o.site != NULL && t->o.sample == 0 && t->sites.count != s.live) return "not each block has its site";
    if (t->sites.promised != 0) return "room for a site is promised to no block";
    return nm__sites_check(&t->sites);
}
