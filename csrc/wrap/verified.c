#include "wrap/verified.h"

#include <pthread.h>

#include "alloc/counters.h"
#include "base/base.h"
#include "tuning.h"
#include "wrap/sites.h"

typedef nm__verified_block live_block;

/* How much depends on an operation: at SAMPLING contents are compared with a probability of so many 256ths. */
enum { VERIFIED_READ = 100, VERIFIED_MUTATION = 150, VERIFIED_CRITICAL = 200 };

/* Invariants, while no call is under way:
 *   ledger.count == blocks on the ring == stats' live;  their sizes sum up to stats' used;  ledger.promised == 0
 *   turn == NULL or on the ring;  failures <= checks
 * leaving: bytes of blocks that are out of the ledger, and that upstream has yet to take back. */
struct nm_verified {
    nm_allocator upstream;
    nm_verification level;
    nm__sites ledger; /* the site of a block: its live_block. All from here to random under the lock of all */
    live_block *turn;
    size_t leaving;
    uint64_t random;
    nm__counter checks, failures;
    nm__shared_stats stats;
};

/* Of all that the process has, so that a fork holds one. Upstream is not called while it is held. */
static pthread_mutex_t verifieds_lock = PTHREAD_MUTEX_INITIALIZER;

static void verifieds_before_fork(void) { pthread_mutex_lock(&verifieds_lock); }
static void verifieds_after_fork(void) { pthread_mutex_unlock(&verifieds_lock); }
static void verifieds_register_forks(void) {
    (void)pthread_atfork(verifieds_before_fork, verifieds_after_fork, verifieds_after_fork);
}

/* ---- checks ----------------------------------------------------------------------------------------- */

/* Adler-32 (RFC 1950). A byte that changes by less than the modulus changes the first sum, so no single one goes
 * unnoticed. */
static uint32_t verified_sum(const void *ptr, size_t size) {
    const unsigned char *byte = ptr;
    uint32_t a = 1, b = 0;
    while (size != 0) {
        size_t n = size < NM_ADLER_RUN ? size : NM_ADLER_RUN;
        size -= n;
        for (; n != 0; n--) b += a += *byte++;
        a %= 65521;
        b %= 65521;
    }
    return b << 16 | a;
}

/* xorshift64* (Vigna, An experimental exploration of Marsaglia's xorshift generators, scrambled, 2016). */
static unsigned verified_roll(nm_verified *v) {
    v->random ^= v->random >> 12;
    v->random ^= v->random << 25;
    v->random ^= v->random >> 27;
    return (unsigned)((v->random * UINT64_C(0x2545F4914F6CDD1D)) >> 56);
}

static bool verified_is_compared(nm_verified *v, unsigned importance) {
    if (v->level == NM_VERIFY_SAMPLING) return verified_roll(v) < importance;
    if (v->level == NM_VERIFY_STANDARD) return importance >= VERIFIED_MUTATION;
    return v->level > NM_VERIFY_STANDARD;
}

/* Counts a comparison. */
static bool verified_holds(nm_verified *v, bool holds) {
    nm__atomic_add(&v->checks, 1);
    if (NM_UNLIKELY(!holds)) nm__atomic_add(&v->failures, 1);
    return holds;
}

/* Whether both copies of what is known of a block are the same. */
static bool verified_is_known(const nm_verified *v, const live_block *b) {
    const nm__site *entry = nm__sites_find(&v->ledger, b->ptr);
    bool same = entry != NULL && entry->site == (uintptr_t)b && entry->size == b->size;
    return same && b->next->before == b && b->before->next == b;
}

/* Whether what is known of a block, and its contents where they are to be compared, are as they were left. */
static bool verified_is_sound(nm_verified *v, live_block *b, bool compare) {
    if (NM_UNLIKELY(b->told)) return false;
    bool sound = true;
    if (v->level == NM_VERIFY_REDUNDANT) sound = verified_holds(v, verified_is_known(v, b));
    if (sound && b->sealed && compare) sound = verified_holds(v, verified_sum(b->ptr, b->size) == b->sum);
    b->told = !sound;
    return sound;
}

/* ---- ledger ----------------------------------------------------------------------------------------- */

nm__verified_block *nm__verified_find(const nm_verified *v, const void *ptr) {
    const nm__site *entry = nm__sites_find(&v->ledger, ptr);
    return entry == NULL ? NULL : (live_block *)entry->site;
}

/* Pre: room is promised. */
static void verified_enter(nm_verified *v, live_block *b) {
    nm__sites_add(&v->ledger, (nm__site){b->ptr, b->size, (uintptr_t)b});
    if (v->turn == NULL) v->turn = b->next = b->before = b;
    b->next = v->turn;
    b->before = v->turn->before;
    b->before->next = b->next->before = b;
}

/* Its room is promised. */
static void verified_leave(nm_verified *v, live_block *b) {
    (void)nm__sites_take(&v->ledger, nm__sites_find(&v->ledger, b->ptr));
    b->before->next = b->next;
    b->next->before = b->before;
    if (v->turn == b) v->turn = b->next == b ? NULL : b->next;
}

/* The live block, if it may be given back or resized; else NULL with the failure set. Under the lock. What is damaged is
 * refused to be given back once: the caller knows then, and its memory is not lost. As long as what is known of the block is
 * not whole it stays refused. */
static live_block *verified_take_up(nm_verified *v, void *ptr, size_t size, size_t align, bool ends) {
    live_block *b = nm__verified_find(v, ptr);
    nm_status status = NM_OK;
    if (!verified_holds(v, b != NULL)) status = NM_FOREIGN_BLOCK;
    else if (!(ends && b->refused && verified_is_known(v, b)) &&
             !verified_is_sound(v, b, verified_is_compared(v, VERIFIED_CRITICAL))) {
        status = NM_CORRUPTED;
        b->refused |= ends;
    } else if (!verified_holds(v, b->size == size && b->align == align)) status = NM_INVALID_LAYOUT;
    if (NM_LIKELY(status == NM_OK)) return b;
    return nm_refuse(status, size, 0, 0);
}

/* Looks at the block whose turn it is, and promises room for another. Under the lock. */
static bool verified_make_room(nm_verified *v, size_t size) {
    live_block *b = v->turn;
    if (b != NULL) {
        v->turn = b->next;
        if (b->sealed && !b->told && !verified_is_sound(v, b, verified_is_compared(v, VERIFIED_READ)))
            return nm_refuse(NM_CORRUPTED, size, 0, 0) != NULL;
    }
    if (nm__sites_promise(&v->ledger)) return true;
    nm__count_failure(&v->stats.failures);
    return false;
}

/* Enters what upstream gave. False: it is no block, or another's. Under the lock; room is promised. */
static bool verified_receive(nm_verified *v, live_block *b) {
    live_block *there = nm__verified_find(v, b->ptr);
    if (!verified_holds(v, nm_is_aligned((uintptr_t)b->ptr, b->align) && (there == NULL || there->told))) {
        nm__sites_forget_promise(&v->ledger);
        return false;
    }
    if (there != NULL) { /* damaged, and dropped with all that it lay among */
        verified_leave(v, there);
        nm__sites_forget_promise(&v->ledger);
        nm__count_free(&v->stats, there->size);
        nm__meta_free(there);
    }
    verified_enter(v, b);
    nm__count_alloc(&v->stats, b->size);
    return true;
}

/* ---- the port --------------------------------------------------------------------------------------- */

static void *verified_alloc(void *self, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_verified *v = self;
    live_block *b = nm__meta_alloc(sizeof *b);
    if (b == NULL) {
        nm__count_failure(&v->stats.failures);
        return NULL;
    }
    pthread_mutex_lock(&verifieds_lock);
    bool room = verified_make_room(v, size);
    pthread_mutex_unlock(&verifieds_lock);
    if (NM_UNLIKELY(!room)) {
        nm__meta_free(b);
        return NULL;
    }
    void *ptr = v->upstream.methods->alloc(v->upstream.self, size, align);
    *b = (live_block){.ptr = ptr, .size = size, .align = align};
    pthread_mutex_lock(&verifieds_lock);
    bool received = ptr != NULL && verified_receive(v, b);
    if (ptr == NULL) nm__sites_forget_promise(&v->ledger);
    pthread_mutex_unlock(&verifieds_lock);
    if (NM_LIKELY(received)) return ptr;
    nm__meta_free(b);
    if (ptr != NULL) return nm_refuse(NM_CORRUPTED, size, 0, 0); /* not given back: it is not known whose it is */
    nm__count_failure(&v->stats.failures);
    return NULL;
}

static bool verified_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_verified *v = self;
    pthread_mutex_lock(&verifieds_lock);
    live_block *b = verified_take_up(v, ptr, old, align, false);
    pthread_mutex_unlock(&verifieds_lock);
    if (b == NULL || !v->upstream.methods->resize(v->upstream.self, ptr, old, size, align)) return false;
    pthread_mutex_lock(&verifieds_lock);
    nm__sites_find(&v->ledger, ptr)->size = b->size = size;
    b->sealed = false;
    nm__count_resize(&v->stats, old, size);
    pthread_mutex_unlock(&verifieds_lock);
    return true;
}

/* It leaves the ledger first: once upstream has the block another thread may be given it. */
static nm_status verified_free(void *self, void *ptr, size_t size, size_t align) {
    nm_verified *v = self;
    pthread_mutex_lock(&verifieds_lock);
    live_block *b = verified_take_up(v, ptr, size, align, true);
    if (b != NULL) {
        verified_leave(v, b);
        v->leaving += size;
    }
    pthread_mutex_unlock(&verifieds_lock);
    if (b == NULL) return nm_last_failure().status;
    nm_status status = v->upstream.methods->free(v->upstream.self, ptr, size, align);
    pthread_mutex_lock(&verifieds_lock);
    v->leaving -= size;
    if (status == NM_OK) {
        nm__sites_forget_promise(&v->ledger);
        nm__count_free(&v->stats, size);
    } else {
        verified_enter(v, b);
    }
    pthread_mutex_unlock(&verifieds_lock);
    if (status == NM_OK) nm__meta_free(b);
    return status;
}

static void verified_stats(void *self, nm_stats *out) { nm__shared_read(&((nm_verified *)self)->stats, out); }

static const nm_methods verified_methods = {verified_alloc, verified_resize, verified_free, verified_stats};

/* ---- contents --------------------------------------------------------------------------------------- */

static nm_status verified_set_seal(nm_verified *v, void *ptr, bool sealed) {
    if (v->level == NM_VERIFY_OFF) return NM_OK;
    nm_status status = NM_OK;
    pthread_mutex_lock(&verifieds_lock);
    live_block *b = nm__verified_find(v, ptr);
    if (!verified_holds(v, b != NULL)) status = NM_FOREIGN_BLOCK;
    else if (!verified_is_sound(v, b, verified_is_compared(v, VERIFIED_MUTATION))) status = NM_CORRUPTED;
    if (status == NM_OK) {
        b->sealed = sealed;
        if (sealed) b->sum = verified_sum(b->ptr, b->size);
    }
    pthread_mutex_unlock(&verifieds_lock);
    return status == NM_OK ? NM_OK : nm__fail(status, 0, 0, 0);
}

nm_status nm_verified_seal(nm_verified *v, void *ptr) { return verified_set_seal(v, ptr, true); }
nm_status nm_verified_unseal(nm_verified *v, void *ptr) { return verified_set_seal(v, ptr, false); }

nm_status nm_verified_verify(nm_verified *v, nm_verified_finding *out) {
    bool sound = true;
    size_t used = 0;
    *out = (nm_verified_finding){0};
    pthread_mutex_lock(&verifieds_lock);
    for (size_t left = v->ledger.count; left != 0; left--) {
        live_block *b = v->turn;
        v->turn = b->next;
        used += b->size;
        out->compared += b->sealed && !b->told;
        if (verified_is_sound(v, b, true) || !sound) continue;
        sound = false;
        out->ptr = b->ptr;
        out->size = b->size;
    }
    if (v->level != NM_VERIFY_OFF && !verified_holds(v, used + v->leaving == nm__get(&v->stats.used))) sound = false;
    pthread_mutex_unlock(&verifieds_lock);
    return sound ? NM_OK : nm__fail(NM_CORRUPTED, 0, 0, 0);
}

size_t nm_verified_checks(const nm_verified *v) { return nm__get(&v->checks); }
size_t nm_verified_failures(const nm_verified *v) { return nm__get(&v->failures); }

/* ---- life ------------------------------------------------------------------------------------------- */

nm_verified *nm_verified_create(nm_allocator upstream, nm_verification level, uint64_t seed) {
    static pthread_once_t done = PTHREAD_ONCE_INIT;
    (void)pthread_once(&done, verifieds_register_forks);
    nm_verified *v = nm__meta_alloc(sizeof *v);
    if (v == NULL) return NULL;
    v->upstream = upstream;
    v->level = level;
    v->random = seed != 0 ? seed : nm__os_random() | 1;
    return v;
}

void nm_verified_destroy(nm_verified *v) {
    if (v == NULL) return;
    for (size_t left = v->ledger.count; left != 0; left--) {
        live_block *next = v->turn->next;
        nm__meta_free(v->turn);
        v->turn = next;
    }
    nm__sites_destroy(&v->ledger);
    nm__meta_free(v);
}

nm_allocator nm_verified_port(nm_verified *v) {
    return v->level == NM_VERIFY_OFF ? v->upstream : (nm_allocator){v, &verified_methods};
}

const char *nm_verified_check(const nm_verified *v) {
    if (v->level == NM_VERIFY_OFF) return v->turn == NULL ? NULL : "there is a ledger at OFF";
    nm_stats s;
    verified_stats((void *)(uintptr_t)v, &s);
    size_t used = 0, count = 0;
    const live_block *b = v->turn;
    for (; b != NULL && count < v->ledger.count; b = b->next, count++) {
        const nm__site *entry = nm__sites_find(&v->ledger, b->ptr);
        if (entry == NULL || entry->site != (uintptr_t)b || entry->size != b->size) return "the two copies differ";
        if (b->next->before != b) return "the ring is broken";
        used += b->size;
    }
    if (b != v->turn || count != v->ledger.count) return "the ring has other blocks than the table";
    if (used + v->leaving != s.used || count != s.live) return "ledger and counters do not agree";
    if (v->ledger.promised != 0) return "room in the ledger is promised to no block";
    if (nm_verified_failures(v) > nm_verified_checks(v)) return "more failures than checks";
    return nm__sites_check(&v->ledger);
}
