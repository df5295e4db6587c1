/* Each superblock starts with a header, found from a cell by masking its address; the cells follow. Per
 * bin a list holds the superblocks that have a free cell; full ones are on no list but counted. */
#include "nativemem/slab.h"

#include <sched.h>

#include "alloc/cells.h"
#include "alloc/confined.h"
#include "alloc/counters.h"

#define SLAB_SUPERBLOCK ((size_t)64 << 10) /* bytes, and what they are aligned to */
#define SLAB_HEADER 192u                    /* bytes before the first cell, at least */

typedef struct slab_superblock {
    nm__cells cells;
    nm_slab *slab;                   /* also says that a masked address is a header of ours */
    struct slab_superblock *prev, *next;  /* in the bin's list of those with a free cell */
    struct slab_superblock *older, *newer; /* all of the slab */
    uint32_t start;
    uint16_t bin;
    bool listed;
} slab_superblock;
_Static_assert(sizeof(slab_superblock) <= SLAB_HEADER, "cells start behind the header");

typedef struct slab_bin {
    slab_superblock *list; /* those with a free cell, latest to get one first */
    slab_superblock *spare; /* one that is empty; also on the list */
    uint32_t cell, start;
} slab_bin;

/* Invariants:
 *   reserved == superblocks * SUPERBLOCK + passed (bytes of blocks that upstream serves)
 *   a superblock is on its bin's list <=> it has a free cell;  at most one of a bin is empty */
struct nm_slab {
    nm__confined thread;
    _Atomic int state;
    nm_allocator upstream;
    nm__counter total, count, frees, failures, local_out, peak, superblocks;
    nm__counter remote_out, remote_frees, passed; /* written by any thread */
    nm__remote remote;
    slab_superblock *all;
    bool zero_on_free;
    nm_slab *next, *before; /* all slabs of the process */
    uint32_t nbins;
    slab_bin bins[];
};

/* A slab whose thread has ended is an orphan; a thread that frees into it drains it, one at a time. LOST: a fork came in
 * between, and the child does not have the thread that was draining. */
enum { SLAB_OWNED, SLAB_ORPHANED, SLAB_DRAINING, SLAB_LOST };

/* Every slab of the process, for the end of a thread. */
static struct {
    pthread_mutex_t lock;
    nm_slab *first;
} slabs = {.lock = PTHREAD_MUTEX_INITIALIZER};

const char *nm_slab_check(const nm_slab *s) {
    size_t superblocks = 0;
    for (const slab_superblock *sb = s->all; sb != NULL; sb = sb->older, superblocks++) {
        const slab_bin *b = &s->bins[sb->bin];
        if (sb->slab != s || sb->cells.cell != b->cell) return "a superblock is another slab's or bin's";
        if (!nm__cells_check(&sb->cells, nm__cells_used(&sb->cells), (const char *)sb, sb->start, 0))
            return "a superblock's cells do not add up";
        if (sb->listed == nm__cells_full(&sb->cells)) return "a superblock is listed and full, or neither";
        if (nm__cells_used(&sb->cells) == 0 && b->spare != sb) return "an empty superblock is not its bin's spare";
        if (sb->older != NULL && sb->older->newer != sb) return "the list of all superblocks is broken";
    }
    if (superblocks != nm__get(&s->superblocks)) return "superblocks are not counted right";
    for (uint32_t i = 0; i < s->nbins; i++) {
        const slab_superblock *spare = s->bins[i].spare;
        if (spare != NULL && (nm__cells_used(&spare->cells) != 0 || !spare->listed)) return "a spare is in use, or unlisted";
        for (const slab_superblock *sb = s->bins[i].list; sb != NULL; sb = sb->next) {
            if (!sb->listed || sb->bin != i) return "a bin's list has a superblock of another";
            if (sb->next != NULL && sb->next->prev != sb) return "a bin's list is broken";
        }
    }
    return NULL;
}

nm_status nm_slab_check_thread(const nm_slab *s) { return nm__confined_check(&s->thread); }
nm_status nm_slab_hand_over(nm_slab *s, uintptr_t thread) {
    nm_status status = nm__confined_hand_over(&s->thread, thread);
    if (status == NM_OK) nm__arm_thread_end(); /* it may be this thread's from now on */
    return status;
}

static void slab_thread_ends(void);

static void slabs_lock(void) { pthread_mutex_lock(&slabs.lock); }
static void slabs_unlock(void) { pthread_mutex_unlock(&slabs.lock); }
static void slabs_in_child(void) {
    for (nm_slab *s = slabs.first; s != NULL; s = s->next)
        if (atomic_load(&s->state) == SLAB_DRAINING) atomic_store(&s->state, SLAB_LOST);
    slabs_unlock();
}
static void slabs_register_hooks(void) {
    nm__at_thread_end(slab_thread_ends);
    (void)pthread_atfork(slabs_lock, slabs_unlock, slabs_in_child);
}

static void slab_enroll(nm_slab *s) {
    static pthread_once_t done = PTHREAD_ONCE_INIT;
    (void)pthread_once(&done, slabs_register_hooks);
    slabs_lock();
    s->next = slabs.first;
    if (s->next != NULL) s->next->before = s;
    slabs.first = s;
    slabs_unlock();
    nm__arm_thread_end();
}

static void slab_strike_off(nm_slab *s) {
    slabs_lock();
    if (s->before != NULL) s->before->next = s->next;
    else slabs.first = s->next;
    if (s->next != NULL) s->next->before = s->before;
    slabs_unlock();
}

nm_slab *nm_slab_create(nm_allocator upstream, const size_t *bins, size_t nbins, bool zero_on_free) {
    if (nbins == 0 || nbins > NM_SLAB_BINS_MAX) return nm_refuse(NM_INVALID_LAYOUT, nbins, 0, 0);
    for (size_t i = 0; i < nbins; i++) {
        bool ascending = i == 0 || bins[i - 1] < bins[i];
        if (!ascending || bins[i] == 0 || bins[i] % 16 != 0 || bins[i] > NM_SLAB_CELL_MAX)
            return nm_refuse(NM_INVALID_LAYOUT, bins[i], 0, 0);
    }
    nm_slab *s = nm__meta_alloc(sizeof *s + nbins * sizeof *s->bins);
    if (s == NULL) return NULL;
    s->thread = nm__confine();
    s->upstream = upstream;
    s->zero_on_free = zero_on_free;
    s->nbins = (uint32_t)nbins;
    for (size_t i = 0; i < nbins; i++) {
        uint32_t cell = (uint32_t)bins[i];
        uint32_t divisor = cell & (0U - cell); /* cells keep this alignment if the first one has it */
        s->bins[i].cell = cell;
        s->bins[i].start = divisor >= SLAB_HEADER ? divisor : (SLAB_HEADER + divisor - 1) / divisor * divisor;
    }
    slab_enroll(s);
    return s;
}

static slab_bin *slab_bin_for(const nm_slab *s, size_t size, size_t align) {
    for (uint32_t i = 0; i < s->nbins; i++) {
        const slab_bin *b = &s->bins[i];
        if (b->cell >= size && nm_is_aligned(b->cell, align)) return (slab_bin *)b;
    }
    return NULL;
}

size_t nm_slab_usable(const nm_slab *s, size_t size, size_t align) {
    const slab_bin *b = slab_bin_for(s, size, align);
    return b == NULL ? 0 : b->cell;
}

static void slab_list_push(slab_bin *b, slab_superblock *sb) {
    sb->prev = NULL;
    sb->next = b->list;
    if (b->list != NULL) b->list->prev = sb;
    b->list = sb;
    sb->listed = true;
}

static void slab_list_remove(slab_bin *b, slab_superblock *sb) {
    if (sb->prev != NULL) sb->prev->next = sb->next;
    else b->list = sb->next;
    if (sb->next != NULL) sb->next->prev = sb->prev;
    sb->listed = false;
}

static slab_superblock *slab_take_superblock(nm_slab *s, slab_bin *b) {
    slab_superblock *sb = s->upstream.methods->alloc(s->upstream.self, SLAB_SUPERBLOCK, SLAB_SUPERBLOCK);
    if (sb == NULL) return NULL;
    nm__cells_init(&sb->cells, b->cell, b->start, (uint32_t)SLAB_SUPERBLOCK);
    sb->slab = s;
    sb->start = b->start;
    sb->bin = (uint16_t)(b - s->bins);
    sb->newer = NULL;
    sb->older = s->all;
    if (s->all != NULL) s->all->newer = sb;
    s->all = sb;
    NM_POISON((char *)sb + sizeof *sb, SLAB_SUPERBLOCK - sizeof *sb);
    nm__bump(&s->superblocks, 1);
    slab_list_push(b, sb);
    return sb;
}

static void slab_return_superblock(nm_slab *s, slab_superblock *sb) {
    slab_bin *b = &s->bins[sb->bin];
    if (sb->listed) slab_list_remove(b, sb);
    if (b->spare == sb) b->spare = NULL;
    if (sb->newer != NULL) sb->newer->older = sb->older;
    else s->all = sb->older;
    if (sb->older != NULL) sb->older->newer = sb->newer;
    nm__set(&s->superblocks, nm__get(&s->superblocks) - 1);
    sb->slab = NULL;
    NM_UNPOISON(sb, SLAB_SUPERBLOCK);
    (void)s->upstream.methods->free(s->upstream.self, sb, SLAB_SUPERBLOCK, SLAB_SUPERBLOCK);
}

static slab_superblock *slab_superblock_of(void *ptr) {
    return (slab_superblock *)(void *)((uintptr_t)ptr & ~(uintptr_t)(SLAB_SUPERBLOCK - 1));
}

static void slab_give(nm_slab *s, slab_superblock *sb, void *ptr) {
    slab_bin *b = &s->bins[sb->bin];
    (void)nm__cells_give(&sb->cells, ptr, 0);
    if (!sb->listed) slab_list_push(b, sb);
    if (nm__cells_used(&sb->cells) == 0) {
        if (b->spare == NULL) b->spare = sb;
        else slab_return_superblock(s, sb);
    }
}

static void slab_drain(nm_slab *s) {
    for (void *ptr = nm__remote_take(&s->remote), *next; ptr != NULL; ptr = next) {
        next = nm__peek(ptr);
        slab_give(s, slab_superblock_of(ptr), ptr);
    }
}

static void slab_retire(nm_slab *s, bool all) {
    slab_drain(s);
    for (slab_superblock *sb = s->all, *older; sb != NULL; sb = older) {
        older = sb->older;
        if (all || nm__cells_used(&sb->cells) == 0) slab_return_superblock(s, sb);
    }
}

/* A thread that pushes looks at the state afterwards and waits for one that is draining, which may have looked too early. The
 * one that is draining need not look again, and so never touches a slab that has been destroyed. */
static void slab_drain_orphan(nm_slab *s) {
    int state = SLAB_ORPHANED;
    while (atomic_load(&s->remote) != NULL && state != SLAB_OWNED && state != SLAB_LOST) {
        state = SLAB_ORPHANED;
        if (atomic_compare_exchange_strong(&s->state, &state, SLAB_DRAINING)) {
            slab_retire(s, false);
            atomic_store(&s->state, SLAB_ORPHANED);
        } else if (state == SLAB_DRAINING) {
            (void)sched_yield();
        }
    }
}

/* The list is not locked while superblocks go to upstream, whose locks may be taken the other way round by a fork;
 * SLAB_DRAINING keeps the slab from being destroyed meanwhile. */
static void slab_thread_ends(void) {
    for (;;) {
        slabs_lock();
        nm_slab *s = slabs.first;
        while (s != NULL && !(nm__confined_here(&s->thread) && atomic_load(&s->state) == SLAB_OWNED)) s = s->next;
        if (s != NULL) atomic_store(&s->state, SLAB_DRAINING);
        slabs_unlock();
        if (s == NULL) return;
        slab_retire(s, false);
        atomic_store(&s->state, SLAB_ORPHANED);
    }
}

/* used counts what this thread gave and took back less what others freed; it can rise only here. */
static size_t slab_used(const nm_slab *s) { return nm__difference(&s->local_out, &s->remote_out); }

static void *slab_account(nm_slab *s, void *ptr, size_t size) {
    nm__bump(&s->local_out, size);
    nm__bump(&s->total, size);
    nm__bump(&s->count, 1);
    size_t used = slab_used(s);
    if (used > nm__get(&s->peak)) nm__set(&s->peak, used);
    return ptr;
}

static NM_COLD void slab_extend(slab_superblock *sb) { (void)nm__cells_extend(&sb->cells, (char *)sb); }

static void *slab_alloc(void *self, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_slab *s = self;
    if (NM_UNLIKELY(!nm__confined_here(&s->thread))) return nm_refuse(NM_WRONG_THREAD, size, 0, 0);
    slab_bin *b = slab_bin_for(s, size, align);
    if (NM_UNLIKELY(b == NULL)) {
        void *ptr = s->upstream.methods->alloc(s->upstream.self, size, align);
        if (ptr == NULL) {
            nm__count_failure(&s->failures);
            return NULL;
        }
        nm__atomic_add(&s->passed, size);
        return slab_account(s, ptr, size);
    }
    slab_superblock *sb = b->list;
    if (NM_UNLIKELY(sb == NULL)) {
        slab_drain(s);
        sb = b->list;
        if (sb == NULL && (sb = slab_take_superblock(s, b)) == NULL) {
            nm__count_failure(&s->failures);
            return NULL;
        }
    }
    if (NM_UNLIKELY(sb->cells.free == NULL)) slab_extend(sb);
    if (b->spare == sb) b->spare = NULL;
    void *ptr = nm__cells_take(&sb->cells, 0);
    NM_POISON((char *)ptr + size, b->cell - size);
    if (NM_UNLIKELY(nm__cells_full(&sb->cells))) slab_list_remove(b, sb);
    return slab_account(s, ptr, size);
}

static NM_COLD void slab_free_far(nm_slab *s, void *ptr, size_t cell) {
    NM_POISON(ptr, cell);
    nm__remote_push(&s->remote, ptr, 0);
    if (atomic_load(&s->state) != SLAB_OWNED) slab_drain_orphan(s);
}

static nm_status slab_free(void *self, void *ptr, size_t size, size_t align) {
    nm_slab *s = self;
    slab_bin *b = slab_bin_for(s, size, align);
    bool mine = nm__confined_here(&s->thread);
    if (b == NULL) {
        nm_status status = s->upstream.methods->free(s->upstream.self, ptr, size, align);
        if (status != NM_OK) return status;
        nm__atomic_sub(&s->passed, size);
    } else {
        slab_superblock *sb = slab_superblock_of(ptr);
        if (sb->slab != s || sb->cells.cell != b->cell) return nm__fail(NM_FOREIGN_BLOCK, size, 0, 0);
        if (s->zero_on_free) {
            NM_UNPOISON(ptr, b->cell);
            nm__wipe(ptr, b->cell);
        }
        if (mine) slab_give(s, sb, ptr);
        else slab_free_far(s, ptr, b->cell);
    }
    if (mine) {
        nm__set(&s->local_out, nm__get(&s->local_out) - size);
        nm__bump_last(&s->frees, 1);
    } else {
        nm__atomic_add(&s->remote_out, size);
        nm__atomic_add(&s->remote_frees, 1);
    }
    return NM_OK;
}

static bool slab_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_slab *s = self;
    if (!nm__confined_here(&s->thread)) {
        (void)nm__fail(NM_WRONG_THREAD, size, 0, 0);
        return false;
    }
    slab_bin *b = slab_bin_for(s, old, align);
    if (slab_bin_for(s, size, align) != b) return false;
    if (b == NULL) {
        if (!s->upstream.methods->resize(s->upstream.self, ptr, old, size, align)) return false;
        nm__atomic_add(&s->passed, size - old); /* wraps to a subtraction when it shrinks */
    } else if (size > old) {
        NM_UNPOISON((char *)ptr + old, size - old);
    } else {
        NM_POISON((char *)ptr + size, old - size);
    }
    if (size > old) nm__bump(&s->total, size - old);
    nm__set(&s->local_out, nm__get(&s->local_out) + size - old);
    size_t used = slab_used(s);
    if (used > nm__get(&s->peak)) nm__set(&s->peak, used);
    return true;
}

static void slab_stats(void *self, nm_stats *out) {
    nm_slab *s = self;
    out->used = slab_used(s);
    out->peak = nm__get(&s->peak);
    if (out->peak < out->used) out->peak = out->used;
    out->reserved = nm__get(&s->superblocks) * SLAB_SUPERBLOCK + nm__get(&s->passed);
    out->limit = 0;
    out->total = nm__get(&s->total);
    out->frees = nm__get_first(&s->frees) + nm__get_first(&s->remote_frees);
    out->count = nm__get(&s->count);
    out->live = out->count - out->frees;
    out->failures = nm__get(&s->failures);
}

static const nm_methods slab_methods = {slab_alloc, slab_resize, slab_free, slab_stats};

nm_allocator nm_slab_port(nm_slab *s) { return (nm_allocator){s, &slab_methods}; }

nm_status nm_slab_trim(nm_slab *s) {
    if (!nm__confined_here(&s->thread)) return nm__confined_check(&s->thread);
    slab_retire(s, false);
    return NM_OK;
}

void nm_slab_destroy(nm_slab *s) {
    if (s == NULL) return;
    slab_strike_off(s);
    while (atomic_load(&s->state) == SLAB_DRAINING) (void)sched_yield();
    if (atomic_load(&s->state) != SLAB_LOST) slab_retire(s, true);
    nm__meta_free(s);
}
