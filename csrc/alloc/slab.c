/* Each superblock starts with a header, found from a cell by masking its address; the cells follow. Per
 * bin a list holds the superblocks that have a free cell; full ones are on no list but counted. */
#include "nativemem/slab.h"

#include <sched.h>

#include "alloc/cells.h"
#include "alloc/counters.h"

#define SUPERBLOCK ((size_t)65536)

typedef struct superblock {
    nm__cells cells;
    nm_slab *slab;                   /* also says that a masked address is a header of ours */
    struct superblock *prev, *next;  /* in the bin's list of those with a free cell */
    struct superblock *older, *newer; /* all of the slab */
    uint32_t start;
    uint16_t bin;
    bool listed;
} superblock;
_Static_assert(sizeof(superblock) <= 192, "cells may start at 192");

typedef struct bin {
    superblock *list; /* those with a free cell, latest to get one first */
    superblock *spare; /* one that is empty; also on the list */
    uint32_t cell, start;
} bin;

/* Invariants:
 *   reserved == superblocks * SUPERBLOCK + passed (bytes of blocks that upstream serves)
 *   a superblock is on its bin's list <=> it has a free cell;  at most one of a bin is empty */
struct nm_slab {
    uintptr_t thread;
    _Atomic int state;
    nm_allocator upstream;
    nm__counter total, count, frees, failures, local_out, peak, superblocks;
    nm__counter remote_out, remote_frees, passed; /* written by any thread */
    nm__remote remote;
    superblock *all;
    bool zero_on_free;
    nm_slab *next, *before; /* all slabs of the process */
    uint32_t nbins;
    bin bins[];
};

/* A slab whose thread has ended belongs to nobody; whoever frees into it collects it, one at a time. LOST: a fork
 * came in between, and the child does not have the thread that was busy. */
enum { OWNED, ABANDONED, BUSY, LOST };

/* Every slab of the process, for the end of a thread. */
static struct {
    pthread_mutex_t lock;
    nm_slab *first;
} slabs = {.lock = PTHREAD_MUTEX_INITIALIZER};

const char *nm_slab_check(const nm_slab *s) {
    size_t superblocks = 0;
    for (const superblock *sb = s->all; sb != NULL; sb = sb->older, superblocks++) {
        const bin *b = &s->bins[sb->bin];
        if (sb->slab != s || sb->cells.cell != b->cell) return "a superblock is another slab's or bin's";
        if (!nm__cells_check(&sb->cells, nm__cells_used(&sb->cells), (const char *)sb, sb->start, 0))
            return "a superblock's cells do not add up";
        if (sb->listed == nm__cells_full(&sb->cells)) return "a superblock is listed and full, or neither";
        if (nm__cells_used(&sb->cells) == 0 && b->spare != sb) return "an empty superblock is not its bin's spare";
        if (sb->older != NULL && sb->older->newer != sb) return "the list of all superblocks is broken";
    }
    if (superblocks != nm__get(&s->superblocks)) return "superblocks are not counted right";
    for (uint32_t i = 0; i < s->nbins; i++) {
        const superblock *spare = s->bins[i].spare;
        if (spare != NULL && (nm__cells_used(&spare->cells) != 0 || !spare->listed)) return "a spare is in use, or unlisted";
        for (const superblock *sb = s->bins[i].list; sb != NULL; sb = sb->next) {
            if (!sb->listed || sb->bin != i) return "a bin's list has a superblock of another";
            if (sb->next != NULL && sb->next->prev != sb) return "a bin's list is broken";
        }
    }
    return NULL;
}

NM_INLINE bool is_mine(const nm_slab *s) { return nm__may_use(s->thread); }

nm_status nm_slab_check_thread(const nm_slab *s) { return is_mine(s) ? NM_OK : nm__fail(NM_WRONG_THREAD, 0, 0, 0); }
nm_status nm_slab_hand_over(nm_slab *s, uintptr_t thread) {
    if (!is_mine(s)) return nm_slab_check_thread(s);
    s->thread = thread;
    nm__arm_thread_end(); /* it may be this thread's from now on */
    return NM_OK;
}

static void thread_ends(void);

static void lock_slabs(void) { pthread_mutex_lock(&slabs.lock); }
static void unlock_slabs(void) { pthread_mutex_unlock(&slabs.lock); }
static void in_child(void) {
    for (nm_slab *s = slabs.first; s != NULL; s = s->next)
        if (atomic_load(&s->state) == BUSY) atomic_store(&s->state, LOST);
    unlock_slabs();
}
static void once(void) {
    nm__at_thread_end(thread_ends);
    (void)pthread_atfork(lock_slabs, unlock_slabs, in_child);
}

static void enroll(nm_slab *s) {
    static pthread_once_t done = PTHREAD_ONCE_INIT;
    (void)pthread_once(&done, once);
    lock_slabs();
    s->next = slabs.first;
    if (s->next != NULL) s->next->before = s;
    slabs.first = s;
    unlock_slabs();
    nm__arm_thread_end();
}

static void strike_off(nm_slab *s) {
    lock_slabs();
    if (s->before != NULL) s->before->next = s->next;
    else slabs.first = s->next;
    if (s->next != NULL) s->next->before = s->before;
    unlock_slabs();
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
    s->thread = nm__thread_id();
    s->upstream = upstream;
    s->zero_on_free = zero_on_free;
    s->nbins = (uint32_t)nbins;
    for (size_t i = 0; i < nbins; i++) {
        uint32_t cell = (uint32_t)bins[i];
        uint32_t divisor = cell & (0U - cell); /* cells keep this alignment if the first one has it */
        s->bins[i].cell = cell;
        s->bins[i].start = divisor >= 192 ? divisor : (192 + divisor - 1) / divisor * divisor;
    }
    enroll(s);
    return s;
}

static bin *bin_for(const nm_slab *s, size_t size, size_t align) {
    for (uint32_t i = 0; i < s->nbins; i++) {
        const bin *b = &s->bins[i];
        if (b->cell >= size && nm_is_aligned(b->cell, align)) return (bin *)b;
    }
    return NULL;
}

size_t nm_slab_usable(const nm_slab *s, size_t size, size_t align) {
    const bin *b = bin_for(s, size, align);
    return b == NULL ? 0 : b->cell;
}

static void list_push(bin *b, superblock *sb) {
    sb->prev = NULL;
    sb->next = b->list;
    if (b->list != NULL) b->list->prev = sb;
    b->list = sb;
    sb->listed = true;
}

static void list_remove(bin *b, superblock *sb) {
    if (sb->prev != NULL) sb->prev->next = sb->next;
    else b->list = sb->next;
    if (sb->next != NULL) sb->next->prev = sb->prev;
    sb->listed = false;
}

static superblock *take_superblock(nm_slab *s, bin *b) {
    superblock *sb = s->upstream.methods->alloc(s->upstream.self, SUPERBLOCK, SUPERBLOCK);
    if (sb == NULL) return NULL;
    nm__cells_init(&sb->cells, b->cell, b->start, (uint32_t)SUPERBLOCK);
    sb->slab = s;
    sb->start = b->start;
    sb->bin = (uint16_t)(b - s->bins);
    sb->newer = NULL;
    sb->older = s->all;
    if (s->all != NULL) s->all->newer = sb;
    s->all = sb;
    NM_POISON((char *)sb + sizeof *sb, SUPERBLOCK - sizeof *sb);
    nm__bump(&s->superblocks, 1);
    list_push(b, sb);
    return sb;
}

static void return_superblock(nm_slab *s, superblock *sb) {
    bin *b = &s->bins[sb->bin];
    if (sb->listed) list_remove(b, sb);
    if (b->spare == sb) b->spare = NULL;
    if (sb->newer != NULL) sb->newer->older = sb->older;
    else s->all = sb->older;
    if (sb->older != NULL) sb->older->newer = sb->newer;
    nm__set(&s->superblocks, nm__get(&s->superblocks) - 1);
    sb->slab = NULL;
    NM_UNPOISON(sb, SUPERBLOCK);
    (void)s->upstream.methods->free(s->upstream.self, sb, SUPERBLOCK, SUPERBLOCK);
}

static superblock *superblock_of(void *ptr) { return (superblock *)(void *)((uintptr_t)ptr & ~(uintptr_t)(SUPERBLOCK - 1)); }

static void give_local(nm_slab *s, superblock *sb, void *ptr) {
    bin *b = &s->bins[sb->bin];
    (void)nm__cells_give(&sb->cells, ptr, 0);
    if (!sb->listed) list_push(b, sb);
    if (nm__cells_used(&sb->cells) == 0) {
        if (b->spare == NULL) b->spare = sb;
        else return_superblock(s, sb);
    }
}

static void collect(nm_slab *s) {
    for (void *ptr = nm__remote_take(&s->remote), *next; ptr != NULL; ptr = next) {
        next = nm__peek(ptr);
        give_local(s, superblock_of(ptr), ptr);
    }
}

static void return_if(nm_slab *s, bool all) {
    collect(s);
    for (superblock *sb = s->all, *older; sb != NULL; sb = older) {
        older = sb->older;
        if (all || nm__cells_used(&sb->cells) == 0) return_superblock(s, sb);
    }
}

/* Who pushes looks at the state afterwards and waits for one that is busy, which may have looked too early; who is
 * busy need not look again, and so never touches a slab that has been given up. */
static void collect_abandoned(nm_slab *s) {
    int state = ABANDONED;
    while (atomic_load(&s->remote) != NULL && state != OWNED && state != LOST) {
        state = ABANDONED;
        if (atomic_compare_exchange_strong(&s->state, &state, BUSY)) {
            return_if(s, false);
            atomic_store(&s->state, ABANDONED);
        } else if (state == BUSY) {
            (void)sched_yield();
        }
    }
}

/* The list is not locked while superblocks go to upstream, whose locks may be taken the other way round by a fork;
 * BUSY keeps the slab from being destroyed meanwhile. */
static void thread_ends(void) {
    for (;;) {
        lock_slabs();
        nm_slab *s = slabs.first;
        while (s != NULL && !(is_mine(s) && atomic_load(&s->state) == OWNED)) s = s->next;
        if (s != NULL) atomic_store(&s->state, BUSY);
        unlock_slabs();
        if (s == NULL) return;
        return_if(s, false);
        atomic_store(&s->state, ABANDONED);
    }
}

/* used counts what this thread gave and took back less what others freed; it can rise only here. */
static size_t used_of(const nm_slab *s) { return nm__difference(&s->local_out, &s->remote_out); }

static void *account(nm_slab *s, void *ptr, size_t size) {
    nm__bump(&s->local_out, size);
    nm__bump(&s->total, size);
    nm__bump(&s->count, 1);
    size_t used = used_of(s);
    if (used > nm__get(&s->peak)) nm__set(&s->peak, used);
    return ptr;
}

static NM_COLD void extend(superblock *sb) { (void)nm__cells_extend(&sb->cells, (char *)sb); }

static void *slab_alloc(void *self, size_t size, size_t align) {
    nm_slab *s = self;
    if (NM_UNLIKELY(!is_mine(s))) return nm_refuse(NM_WRONG_THREAD, size, 0, 0);
    bin *b = bin_for(s, size, align);
    if (NM_UNLIKELY(b == NULL)) {
        void *ptr = s->upstream.methods->alloc(s->upstream.self, size, align);
        if (ptr == NULL) {
            nm__count_failure(&s->failures);
            return NULL;
        }
        nm__atomic_add(&s->passed, size);
        return account(s, ptr, size);
    }
    superblock *sb = b->list;
    if (NM_UNLIKELY(sb == NULL)) {
        collect(s);
        sb = b->list;
        if (sb == NULL && (sb = take_superblock(s, b)) == NULL) {
            nm__count_failure(&s->failures);
            return NULL;
        }
    }
    if (NM_UNLIKELY(sb->cells.free == NULL)) extend(sb);
    if (b->spare == sb) b->spare = NULL;
    void *ptr = nm__cells_take(&sb->cells, 0);
    NM_POISON((char *)ptr + size, b->cell - size);
    if (NM_UNLIKELY(nm__cells_full(&sb->cells))) list_remove(b, sb);
    return account(s, ptr, size);
}

static NM_COLD void free_far(nm_slab *s, void *ptr, size_t cell) {
    NM_POISON(ptr, cell);
    nm__remote_push(&s->remote, ptr, 0);
    if (atomic_load(&s->state) != OWNED) collect_abandoned(s);
}

static nm_status slab_free(void *self, void *ptr, size_t size, size_t align) {
    nm_slab *s = self;
    bin *b = bin_for(s, size, align);
    bool mine = is_mine(s);
    if (b == NULL) {
        nm_status status = s->upstream.methods->free(s->upstream.self, ptr, size, align);
        if (status != NM_OK) return status;
        nm__atomic_sub(&s->passed, size);
    } else {
        superblock *sb = superblock_of(ptr);
        if (sb->slab != s || sb->cells.cell != b->cell) return nm__fail(NM_FOREIGN_BLOCK, size, 0, 0);
        if (s->zero_on_free) {
            NM_UNPOISON(ptr, b->cell);
            nm__wipe(ptr, b->cell);
        }
        if (mine) give_local(s, sb, ptr);
        else free_far(s, ptr, b->cell);
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
    nm_slab *s = self;
    if (!is_mine(s)) {
        (void)nm__fail(NM_WRONG_THREAD, size, 0, 0);
        return false;
    }
    bin *b = bin_for(s, old, align);
    if (bin_for(s, size, align) != b) return false;
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
    size_t used = used_of(s);
    if (used > nm__get(&s->peak)) nm__set(&s->peak, used);
    return true;
}

static void slab_stats(void *self, nm_stats *out) {
    nm_slab *s = self;
    out->used = used_of(s);
    out->peak = nm__get(&s->peak);
    if (out->peak < out->used) out->peak = out->used;
    out->reserved = nm__get(&s->superblocks) * SUPERBLOCK + nm__get(&s->passed);
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
    if (!is_mine(s)) return nm_slab_check_thread(s);
    return_if(s, false);
    return NM_OK;
}

void nm_slab_destroy(nm_slab *s) {
    if (s == NULL) return;
    strike_off(s);
    while (atomic_load(&s->state) == BUSY) (void)sched_yield();
    if (atomic_load(&s->state) != LOST) return_if(s, true);
    nm__meta_free(s);
}
