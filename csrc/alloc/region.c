/* Free spans are kept by kind (dirty, clean, room) in lists by size: one list for each count up to 64, then one
 * for each power of two. A bitmap says which lists are not empty. Neighbours of the same kind are merged
 * through the descriptors of their first and last pages. What was never handed out lies beyond the
 * frontier, which only moves up. Best fit within the exact lists, first fit within the others. */
#define _POSIX_C_SOURCE 200809L /* pthread_condattr_setclock */
#include <errno.h>
#include <signal.h>
#include <time.h>

#include "alloc/region.h"

#define PAGE ((size_t)1 << NM__PAGE_SHIFT)
#define EXACT 64
#define LISTS (EXACT + 32)
#define SMALLEST_REGION ((size_t)64 << 20)
/* Huge pages save a large span most of its page faults; under small blocks they would only take memory that
 * nobody asked for. NumPy draws the line at the same size. */
#define HUGE_FROM (((size_t)4 << 20) / PAGE)
#define HUGE_PAGE ((size_t)2 << 20)

uintptr_t nm__region_base;
size_t nm__region_pages;
nm__page *nm__pages;
uintptr_t nm__page_bias;
_Atomic size_t nm__region_reach;

typedef struct lists {
    nm__page *of[LISTS];
    uint64_t filled[2];
} lists;

/* Invariants, under the lock:
 *   frontier <= committed <= nm__region_pages;  nm__region_reach == frontier
 *   every page below the frontier is in exactly one of: superblock, live span, free span
 *   no two free spans of one kind touch;  dirty == bytes of the dirty ones
 *   room stands behind a live span, or behind a page that is out of use
 *   used == pages in superblocks and live spans;  used + the dirty ones <= most, unless purging fails
 *   idle <= low[i];  low[window] <= dirty pages */
#define WINDOWS 8
static struct {
    pthread_mutex_t lock;
    size_t frontier, committed; /* pages */
    size_t used, most;          /* pages; most is the most ever used */
    lists free[3]; /* dirty, clean, room */
    nm__page *oldest, *newest;
    nm__counter dirty;
    size_t retain;
    uint64_t decay_ms;
    /* The fewest dirty pages there were in each of the last windows of an eighth of the decay time: as many were not
     * needed for that long, whichever they are. */
    size_t low[WINDOWS], idle; /* idle: of them are to go */
    unsigned window;
    uint64_t window_ends_ms;
} region = {.lock = PTHREAD_MUTEX_INITIALIZER};

void nm__region_lock(void) { pthread_mutex_lock(&region.lock); }
void nm__region_unlock(void) { pthread_mutex_unlock(&region.lock); }

/* Whoever has seen a size here sees the region as well. */
size_t nm_region_size(void) {
    nm__region_lock();
    size_t size = nm__region_pages << NM__PAGE_SHIFT;
    nm__region_unlock();
    return size;
}
size_t nm_region_dirty(void) { return nm__get(&region.dirty); }
bool nm_region_owns(const void *ptr) { return nm__page_of(ptr) != NULL; }

/* The descriptors come first, then the region at a multiple of 2 MiB, where huge pages can lie. */
static bool reserve(size_t size) {
    const size_t huge = HUGE_PAGE;
    size_t pages = size >> NM__PAGE_SHIFT;
    size_t table = (pages * sizeof(nm__page) + huge - 1) & ~(huge - 1);
    char *base = nm__os_reserve(table + size + huge);
    if (base == NULL) return false;
    nm__pages = (nm__page *)(((uintptr_t)base + huge - 1) & ~(uintptr_t)(huge - 1));
    nm__region_base = (uintptr_t)nm__pages + table;
    nm__page_bias = (uintptr_t)nm__pages - (nm__region_base >> NM__PAGE_SHIFT) * sizeof(nm__page);
    nm__region_pages = pages;
    return true;
}

static uint64_t window_ms(void) { return region.decay_ms / WINDOWS + 1; }

/* As if nothing had been kept. */
static void start_windows(void) {
    memset(region.low, 0, sizeof region.low);
    region.idle = 0;
    region.window_ends_ms = nm__os_now_ms() + window_ms();
}

nm_status nm_region_init(size_t size, size_t retain, unsigned decay_ms) {
    nm_status status = NM_OK;
    nm__region_lock();
    region.retain = retain;
    region.decay_ms = decay_ms;
    start_windows();
    if (nm__region_pages == 0) {
        /* Under a limit on address space the rest of the process needs its share. */
        size_t most = nm__os_address_limit() / 2;
        while (size > most) size /= 2;
        size &= ~(PAGE - 1);
        while (size >= SMALLEST_REGION && !reserve(size)) size = (size / 2) & ~(PAGE - 1);
        if (nm__region_pages == 0) status = nm__fail(NM_OUT_OF_MEMORY, size, 0, 0);
    }
    nm__region_unlock();
    return status;
}

static const char *check_lists(nm__kind kind, size_t *pages);
static bool is_free(const nm__page *p) { return p->kind >= NM__DIRTY; }

const char *nm__region_check(void) {
    size_t dirty = 0, clean = 0, walked = 0, used = 0;
    const char *broken;
    nm__region_lock();
    if (region.frontier > region.committed || region.committed > nm__region_pages ||
        atomic_load(&nm__region_reach) != region.frontier) {
        broken = "the frontier is beyond what is committed, or that beyond the region";
    } else if ((broken = check_lists(NM__DIRTY, &dirty)) == NULL && (broken = check_lists(NM__CLEAN, &clean)) == NULL &&
               (broken = check_lists(NM__ROOM, &clean)) == NULL) {
        size_t i = 0, free_pages = 0;
        int before = NM__UNUSED;
        while (broken == NULL && i < region.frontier) {
            const nm__page *p = &nm__pages[i];
            size_t n = p->kind == NM__SUPERBLOCK ? 1 : p->npages;
            if (p->kind == NM__SUPERBLOCK || p->kind == NM__SPAN) used += n;
            if (p->kind == NM__UNUSED || n == 0 || i + n > region.frontier) broken = "a page is in no span";
            if (is_free(p)) {
                free_pages += n;
                if (p->kind == NM__ROOM && before != NM__SPAN && before != NM__SUPERBLOCK) broken = "room is behind nothing";
                if (before == p->kind) broken = "two free spans of one kind touch";
                if (p[n - 1].kind != p->kind || p[n - 1].npages != n) broken = "a free span's last page does not match";
            }
            before = p->kind;
            i += n;
            walked = i;
        }
        if (broken == NULL && walked != region.frontier) broken = "spans do not fill the frontier";
        if (broken == NULL && free_pages != dirty + clean) broken = "a free span is on no list";
        if (broken == NULL && used != region.used) broken = "pages in use are not counted right";
        if (broken == NULL && dirty << NM__PAGE_SHIFT != nm__get(&region.dirty)) broken = "dirty bytes are not counted right";
        for (unsigned i = 0; i < WINDOWS && broken == NULL; i++)
            if (region.idle > region.low[i]) broken = "more is idle than there was";
        if (broken == NULL && region.low[region.window] > dirty) broken = "more was kept than is";
    }
    nm__region_unlock();
    return broken;
}

static nm__aged *aged(nm__page *p) { return (nm__aged *)(void *)&p->cells; }

static unsigned list_for(size_t n) {
    if (n < EXACT) return (unsigned)n;
    unsigned power = 63U - (unsigned)__builtin_clzll(n); /* >= 6 */
    unsigned list = EXACT + power - 6;
    return list < LISTS ? list : LISTS - 1;
}

static lists *lists_of(nm__kind kind) { return &region.free[kind - NM__DIRTY]; }

static const char *check_lists(nm__kind kind, size_t *pages) {
    const lists *l = lists_of(kind);
    for (unsigned i = 0; i < LISTS; i++) {
        if ((l->of[i] != NULL) != ((l->filled[i / 64] >> i % 64 & 1) != 0)) return "the bitmap does not match the lists";
        for (const nm__page *p = l->of[i]; p != NULL; p = p->next) {
            if (p->kind != kind || list_for(p->npages) != i) return "a free span is on the wrong list";
            if (p->next != NULL && p->next->prev != p) return "a list of free spans is broken";
            *pages += p->npages;
        }
    }
    return NULL;
}

static void unlist(nm__page *p) {
    lists *l = lists_of(p->kind);
    unsigned i = list_for(p->npages);
    if (p->prev != NULL) p->prev->next = p->next;
    else if ((l->of[i] = p->next) == NULL) l->filled[i / 64] &= ~(1ULL << i % 64);
    if (p->next != NULL) p->next->prev = p->prev;
    if (p->kind == NM__DIRTY) {
        nm__aged *a = aged(p);
        if (a->older != NULL) aged(a->older)->newer = a->newer;
        else region.oldest = a->newer;
        if (a->newer != NULL) aged(a->newer)->older = a->older;
        else region.newest = a->older;
        nm__set(&region.dirty, nm__get(&region.dirty) - ((size_t)p->npages << NM__PAGE_SHIFT));
    }
    p[p->npages - 1].kind = NM__UNUSED;
    p->kind = NM__UNUSED;
}

static void enlist(nm__page *p, size_t n, nm__kind kind) {
    lists *l = lists_of(kind);
    unsigned i = list_for(n);
    p[n - 1].npages = (uint32_t)n;
    p[n - 1].kind = (uint8_t)kind;
    p->npages = (uint32_t)n;
    p->kind = (uint8_t)kind;
    p->part = NULL;
    p->prev = NULL;
    p->next = l->of[i];
    if (p->next != NULL) p->next->prev = p;
    l->of[i] = p;
    l->filled[i / 64] |= 1ULL << i % 64;
    if (kind == NM__DIRTY) {
        nm__aged *a = aged(p);
        a->newer = NULL;
        a->older = region.newest;
        if (region.newest != NULL) aged(region.newest)->newer = p;
        else region.oldest = p;
        region.newest = p;
        nm__set(&region.dirty, nm__get(&region.dirty) + (n << NM__PAGE_SHIFT));
    }
}

/* Merges with free neighbours of the same kind and lists the result. */
static void put(nm__page *p, size_t n, nm__kind kind) {
    size_t index = (size_t)(p - nm__pages);
    if (index + n < region.frontier && p[n].kind == kind) {
        size_t behind = p[n].npages;
        unlist(p + n);
        n += behind;
    }
    if (index > 0 && p[-1].kind == kind) {
        size_t before = p[-1].npages;
        p -= before;
        unlist(p);
        n += before;
    }
    enlist(p, n, kind);
}

/* To all. */
static void open_room(nm__page *room) {
    size_t n = room->npages;
    unlist(room);
    put(room, n, NM__CLEAN);
}

static nm__page *find(nm__kind kind, size_t n) {
    const lists *l = lists_of(kind);
    unsigned i = list_for(n);
    if (i >= EXACT) { /* this list holds sizes below n too */
        for (nm__page *p = l->of[i]; p != NULL; p = p->next)
            if (p->npages >= n) return p;
        i++;
    }
    for (unsigned word = i / 64; word < 2; word++) {
        uint64_t filled = l->filled[word];
        if (word == i / 64) filled &= i % 64 == 0 ? ~0ULL : ~0ULL << i % 64;
        if (filled == 0) continue;
        nm__page *p = l->of[word * 64 + (unsigned)__builtin_ctzll(filled)];
        for (; p != NULL; p = p->next)
            if (p->npages >= n) return p;
    }
    return NULL;
}

static nm__page *cut(nm__page *p, size_t n) {
    nm__kind kind = p->kind;
    size_t total = p->npages;
    unlist(p);
    if (total > n) enlist(p + n, total - n, kind);
    return p;
}

static size_t min_size(size_t a, size_t b) { return a < b ? a : b; }

static bool commit(size_t pages) {
    if (pages <= region.committed) return true;
    if (pages > nm__region_pages) return false;
    /* Steps that grow with what is in use keep the number of system calls small; the exact amount is
     * tried last, for systems that count what is committed. */
    size_t step = region.committed < 256 ? 256 : min_size(region.committed, 4096);
    size_t generous = min_size(pages > region.committed + step ? pages : region.committed + step, nm__region_pages);
    for (size_t upto = generous;; upto = pages) {
        const size_t os = NM__OS_PAGE - 1;
        uintptr_t from = (uintptr_t)&nm__pages[region.committed] & ~(uintptr_t)os;
        uintptr_t to = ((uintptr_t)&nm__pages[upto] + os) & ~(uintptr_t)os;
        char *base = (char *)nm__region_base;
        size_t start = region.committed << NM__PAGE_SHIFT;
        size_t size = (upto << NM__PAGE_SHIFT) - start;
        if (nm__os_commit((void *)from, to - from) && nm__os_commit(base + start, size)) {
            region.committed = upto;
            return true;
        }
        if (upto == pages) return false;
    }
}

static nm__page *advance(size_t n) {
    size_t upto;
    if (!nm_add(region.frontier, n, &upto) || !commit(upto)) return NULL;
    nm__page *p = &nm__pages[region.frontier];
    region.frontier = upto;
    atomic_store_explicit(&nm__region_reach, upto, memory_order_release);
    return p;
}

/* ---- what is kept, and for how long ----------------------------------------------------------------
 *
 * By a span's age nothing could be said of it: it is merged with what is freed next to it, and cut for what fits. So
 * the pages are counted, and those go that nobody needed for the decay time, the span first that changed longest ago.
 */

static size_t dirty_pages(void) { return nm__get(&region.dirty) >> NM__PAGE_SHIFT; }

/* Before the number of dirty pages changes: it has been the same since the last change. */
static void look_at_the_clock(void) {
    uint64_t now = nm__os_now_ms();
    if (now < region.window_ends_ms) return;
    uint64_t passed = (now - region.window_ends_ms) / window_ms() + 1;
    region.window_ends_ms += passed * window_ms();
    region.idle = SIZE_MAX;
    for (unsigned i = 0; i < WINDOWS && i < passed; i++) {
        region.window = (region.window + 1) % WINDOWS;
        region.low[region.window] = dirty_pages();
    }
    for (unsigned i = 0; i < WINDOWS; i++) region.idle = min_size(region.idle, region.low[i]);
}

/* Dirty pages were taken for use. */
static void note_need(void) {
    size_t *low = &region.low[region.window];
    *low = min_size(*low, dirty_pages());
    region.idle = min_size(region.idle, *low);
}

/* Of the one that changed longest ago, at most so many pages. Returns how many; 0: the system would not have them. */
static size_t purge_oldest(size_t most) {
    size_t n = min_size(most, region.oldest->npages);
    nm__page *p = cut(region.oldest, n);
    bool purged = nm__os_purge(nm__page_base(p), n << NM__PAGE_SHIFT);
    put(p, n, purged ? NM__CLEAN : NM__DIRTY);
    if (!purged) return 0;
    for (unsigned i = 0; i < WINDOWS; i++) region.low[i] -= min_size(region.low[i], n);
    region.idle -= min_size(region.idle, n);
    return n;
}

static size_t due(void) {
    size_t kept = dirty_pages(), retain = region.decay_ms == 0 ? 0 : region.retain >> NM__PAGE_SHIFT;
    return kept > retain && kept - retain > region.idle ? kept - retain : region.idle;
}

/* A few at a time, so that no single call pays for a large program's whole past. */
static void decay(void) {
    for (int i = 0; i < 4 && due() != 0; i++)
        if (purge_oldest(due()) == 0) return;
}

static void purge_all(void) {
    while (region.oldest != NULL && purge_oldest(SIZE_MAX) != 0) {
    }
}

/* ---- in an idle process ---------------------------------------------------------------------------- */

/* Decay happens as spans come and go. Where nothing comes and goes any more a thread does the rest, and ends. It never
 * holds up a fork, nor is it in the way of the warnings about forks with threads: before one it is ended. */
static struct {
    bool wanted, there, stop; /* under the region's lock */
    pthread_cond_t wake;
    pthread_mutex_t lock; /* taken before the region's; for the two below */
    pthread_t thread;     /* to be joined, if it was started */
    bool started;
} watcher = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* Less than this may stay. */
#define WATCHED_FROM ((size_t)4 << 20)

static void *watch(void *unused) {
    (void)unused;
    nm__region_lock();
    while (!watcher.stop && region.oldest != NULL) {
        look_at_the_clock();
        if (due() != 0) {
            size_t before = dirty_pages();
            decay();
            if (dirty_pages() != before) {
                nm__region_unlock(); /* whoever waits goes first */
                nm__region_lock();
                continue;
            }
        } /* what the system would not have, a locked page perhaps, it is offered again later */
        uint64_t next = region.window_ends_ms + 10; /* the clock that is looked at is a coarse one */
        struct timespec until = {(time_t)(next / 1000), (long)(next % 1000) * 1000000};
        (void)pthread_cond_timedwait(&watcher.wake, &region.lock, &until);
    }
    watcher.there = false;
    nm__region_unlock();
    return NULL;
}

/* Not under the lock: making a thread takes memory. */
static void start_watcher(void) {
    int error = errno;
    sigset_t all, before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the program's business */
    pthread_mutex_lock(&watcher.lock);
    if (watcher.started) (void)pthread_join(watcher.thread, NULL); /* it has ended, or is about to */
    bool started = watcher.started = pthread_create(&watcher.thread, NULL, watch, NULL) == 0;
    pthread_mutex_unlock(&watcher.lock);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = error;
    if (started) return;
    nm__region_lock();
    watcher.there = false; /* the next time, perhaps */
    nm__region_unlock();
}

void nm__region_watch(void) {
    nm__region_lock();
    if (!watcher.wanted) {
        pthread_condattr_t monotonic;
        watcher.wanted = pthread_condattr_init(&monotonic) == 0 &&
                         pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC) == 0 &&
                         pthread_cond_init(&watcher.wake, &monotonic) == 0;
    }
    nm__region_unlock();
}

bool nm__region_watched(void) {
    nm__region_lock();
    bool there = watcher.there;
    nm__region_unlock();
    return there;
}

void nm__region_before_fork(void) {
    pthread_mutex_lock(&watcher.lock);
    nm__region_lock();
    if (!watcher.started) return;
    watcher.stop = true;
    pthread_cond_signal(&watcher.wake);
    nm__region_unlock();
    (void)pthread_join(watcher.thread, NULL);
    watcher.started = false;
    nm__region_lock();
    watcher.stop = false;
    /* Nobody might be there to do it afterwards, on either side, and to use a page that both have costs a copy. */
    purge_all();
}

void nm__region_after_fork(bool in_child) {
    if (in_child) watcher.there = false; /* though a thread of the parent was about to start it */
    nm__region_unlock();
    pthread_mutex_unlock(&watcher.lock);
}

static void count_used(size_t n) {
    region.used += n;
    if (region.used > region.most) region.most = region.used;
}

/* Pages that were not resident are about to be used. What is kept for reuse makes way for them, so that never more is
 * resident than the program once had in use: sizes that do not fit into each other must not add up. */
static void make_way(size_t n) {
    size_t used = region.used + n, most = used > region.most ? used : region.most;
    while (region.oldest != NULL && used + dirty_pages() > most)
        if (purge_oldest(used + dirty_pages() - most) == 0) return;
}

static nm__page *take_with_room(size_t n) {
    nm__page *p = find(NM__CLEAN, 2 * n);
    if (p != NULL) p = cut(p, 2 * n);
    else if ((p = advance(2 * n)) == NULL) return NULL;
    enlist(p + n, n, NM__ROOM);
    return p;
}

/* Whatever could still make a span of the size: a dirty and a clean one that touch, and room for others. */
static nm__page *scrape_together(size_t n) {
    purge_all();
    for (unsigned i = 0; i < LISTS; i++)
        while (lists_of(NM__ROOM)->of[i] != NULL) open_room(lists_of(NM__ROOM)->of[i]);
    nm__page *p = find(NM__CLEAN, n);
    return p == NULL ? NULL : cut(p, n);
}

nm__page *nm__region_take(size_t n, nm__kind kind, bool want_zero) {
    if (n == 0 || n > nm__region_pages) return nm_refuse(NM_OUT_OF_MEMORY, n << NM__PAGE_SHIFT, 0, 0);
    nm__region_lock();
    look_at_the_clock();
    nm__page *p = NULL;
    bool zero = false;
    nm__page *dirty = find(NM__DIRTY, n), *clean = NULL;
    if (dirty == NULL || want_zero) clean = find(NM__CLEAN, n);
    if (clean != NULL) {
        p = cut(clean, n);
        make_way(n);
        zero = true;
    } else if (dirty != NULL) {
        /* Purging what is there, rather than taking pages never touched: or a loop of zeroed blocks would
         * leave a trail of dirty ones. */
        p = cut(dirty, n);
        note_need();
        zero = want_zero && nm__os_purge(nm__page_base(p), n << NM__PAGE_SHIFT);
    } else if ((p = advance(n)) != NULL) {
        make_way(n);
        zero = true;
    } else {
        p = scrape_together(n);
        zero = true;
    }
    if (p != NULL) {
        if (zero && n >= HUGE_FROM) nm__os_prefer_huge(nm__page_base(p), n << NM__PAGE_SHIFT, true);
        count_used(n);
        p->kind = (uint8_t)kind;
        p->npages = (uint32_t)n;
        p->zero = zero;
        p->part = NULL;
        if (zero) NM_REOPEN(nm__page_base(p), n << NM__PAGE_SHIFT);
        else NM_UNPOISON(nm__page_base(p), n << NM__PAGE_SHIFT);
        decay();
    }
    nm__region_unlock();
    if (p == NULL) return nm_refuse(NM_OUT_OF_MEMORY, n << NM__PAGE_SHIFT, 0, 0);
    return p;
}

static void put_back(nm__page *first, size_t n, nm__kind kind) {
    nm__page *behind = first + n;
    region.used -= n;
    first->part = NULL;
    first->kind = NM__UNUSED;
    if ((size_t)(behind - nm__pages) < region.frontier && behind->kind == NM__ROOM) open_room(behind);
    /* Or the system makes one of what is left of it in time, though all but a small block has gone back. */
    if (n >= HUGE_PAGE / PAGE) nm__os_prefer_huge(nm__page_base(first), n << NM__PAGE_SHIFT, false);
    put(first, n, kind);
}

void nm__region_give(nm__page *first, size_t n) {
    size_t bytes = n << NM__PAGE_SHIFT;
    NM_POISON(nm__page_base(first), bytes);
    nm__region_lock();
    look_at_the_clock();
    bool clean = bytes > NM_OWN_MAPPING && nm__os_purge(nm__page_base(first), bytes);
    put_back(first, n, clean ? NM__CLEAN : NM__DIRTY);
    decay();
    bool start = watcher.wanted && !watcher.there && !watcher.stop && nm__get(&region.dirty) >= WATCHED_FROM;
    if (start) watcher.there = true;
    nm__region_unlock();
    if (NM_UNLIKELY(start)) start_watcher();
}

/* Up to where a huge page would end, as part of one is not returned. */
static size_t copy_some(char *to, char *from, size_t most) {
    size_t n = min_size(most, HUGE_PAGE - ((uintptr_t)from & (HUGE_PAGE - 1)));
    memcpy(to, from, n);
    return nm__os_purge(from, n) ? n : 0;
}

/* A list of Python's that grows while other things are made has something behind it each time. With room it is moved as
 * often as its size doubles. Room costs addresses only. */
nm__page *nm__region_move(nm__page *first, size_t n, size_t to) {
    if (to < HUGE_FROM) return NULL;
    nm__region_lock();
    look_at_the_clock();
    nm__page *p = take_with_room(to);
    if (p != NULL) {
        make_way(to - n);
        count_used(to - n);        /* what is copied goes from the old one at once */
        p->cells = first->cells;   /* whose it is, before anybody can see it */
        p->kind = NM__SPAN;
        p->npages = (uint32_t)to;
        p->zero = false;
        p->part = NULL;
        NM_UNPOISON(nm__page_base(p), to << NM__PAGE_SHIFT);
    }
    nm__region_unlock();
    if (p == NULL) return NULL;
    char *new = nm__page_base(p), *old = nm__page_base(first);
    nm__os_prefer_huge(new, to << NM__PAGE_SHIFT, true);
    size_t size = n << NM__PAGE_SHIFT, done = 0, some;
    while (done < size && (some = copy_some(new + done, old + done, size - done)) != 0) done += some;
    memcpy(new + done, old + done, size - done);
    NM_POISON(old, size);
    nm__region_lock();
    region.used += n;
    put_back(first, n, done == size ? NM__CLEAN : NM__DIRTY);
    nm__region_unlock();
    return p;
}

void nm__region_retire(nm__page *p) {
    NM_POISON(nm__page_base(p), PAGE);
    nm__region_lock();
    p->part = NULL;
    p->kind = NM__SUPERBLOCK; /* of nobody */
    nm__region_unlock();
}

bool nm__region_extend(nm__page *first, size_t n, size_t more) {
    nm__region_lock();
    look_at_the_clock();
    size_t index = (size_t)(first - nm__pages);
    bool done = false;
    bool fresh = true;
    if (index + n == region.frontier) {
        done = advance(more) != NULL;
    } else {
        nm__page *behind = first + n;
        if (is_free(behind) && behind->npages >= more) {
            fresh = behind->kind != NM__DIRTY;
            cut(behind, more);
            note_need();
            done = true;
        }
    }
    if (done) {
        if (fresh) make_way(more);
        if (fresh && n + more >= HUGE_FROM) nm__os_prefer_huge(nm__page_base(first + n), more << NM__PAGE_SHIFT, true);
        count_used(more);
        NM_UNPOISON(nm__page_base(first + n), more << NM__PAGE_SHIFT);
        first->npages = (uint32_t)(n + more);
        first->zero = false;
    }
    nm__region_unlock();
    return done;
}

void nm_region_trim(void) {
    nm__region_lock();
    purge_all();
    nm__region_unlock();
}
