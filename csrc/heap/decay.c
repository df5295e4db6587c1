/* Decay: what is kept for reuse, for how long, and what makes way (decisions 20, 24 and 25).
 *
 * By a span's age nothing can be said of it: it is merged with what is freed next to it, and cut for what fits. So the pages
 * are counted, and those go that nothing needed for the decay time, the span first that changed longest ago. No call purges
 * more than a few spans, so that none pays for a large program's whole past. What decays goes back to the system as spans come
 * and go, at a fork, or by a thread in an idle process; without one nothing decays while nothing is called.
 *
 * Invariants, under the region's lock:
 *   idle <= low[i];  low[window] <= kept pages;  demand == the sum of needed[i]
 *   used + kept pages <= most + slack, unless purging fails */
#define _POSIX_C_SOURCE 200809L /* pthread_condattr_setclock */
#include <errno.h>
#include <signal.h>
#include <time.h>

#include "heap/region_internal.h"

static uint64_t decay_window_ms(void) { return nm__region.decay_ms / NM_DECAY_WINDOWS + 1; }

void nm__decay_start(void) {
    memset(nm__region.low, 0, sizeof nm__region.low);
    memset(nm__region.needed, 0, sizeof nm__region.needed);
    nm__region.idle = nm__region.demand = nm__region.gone = nm__region.made_way = nm__region.regretted = nm__region.slack = 0;
    nm__region.limited = nm__os_address_limit() != SIZE_MAX;
    atomic_store_explicit(&nm__region.window_ends_ms, nm__os_now_ms() + decay_window_ms(), memory_order_relaxed);
}

static void decay_pass_window(void) {
    nm__region.window = (nm__region.window + 1) % NM_DECAY_WINDOWS;
    nm__region.low[nm__region.window] = nm__kept_pages();
    nm__region.demand -= nm__region.needed[nm__region.window];
    nm__region.needed[nm__region.window] = 0;
    nm__region.gone /= 2;
    nm__region.made_way /= 2;
    if (nm__region.window != 0) return;
    nm__region.regretted = 0;
    nm__region.slack -= (nm__region.slack + 7) / 8;
}

void nm__decay_advance(void) {
    uint64_t now = nm__os_now_ms(), end = atomic_load_explicit(&nm__region.window_ends_ms, memory_order_relaxed);
    if (now < end) return;
    uint64_t passed = (now - end) / decay_window_ms() + 1;
    atomic_store_explicit(&nm__region.window_ends_ms, end + passed * decay_window_ms(), memory_order_relaxed);
    for (unsigned i = 0; i < NM_DECAY_WINDOWS && i < passed; i++) decay_pass_window();
    nm__region.idle = SIZE_MAX;
    for (unsigned i = 0; i < NM_DECAY_WINDOWS; i++) nm__region.idle = nm__min_size(nm__region.idle, nm__region.low[i]);
    nm__region.limited = nm__os_address_limit() != SIZE_MAX;
}

static void decay_count_demand(size_t n) {
    nm__region.needed[nm__region.window] += n;
    nm__region.demand += n;
}

void nm__decay_note_need(size_t n) {
    size_t *low = &nm__region.low[nm__region.window];
    *low = nm__min_size(*low, nm__kept_pages());
    nm__region.idle = nm__min_size(nm__region.idle, *low);
    decay_count_demand(n);
}

/* Purges so many pages of the kept span that changed longest ago, or all of it if they are fewer; rounded up, so that no call
 * of the system is for a page or two. Returns how many; 0: the system would not have them. */
static size_t decay_purge_oldest(size_t most) {
    nm__page *p = nm__free_span_oldest();
    if (p->kind == NM__SPARE) p = nm__free_span_open_room(p);
    size_t n = most < p->npages ? nm__min_size(nm__round_up(most, NM__SUPERBLOCK_PAGES), p->npages) : p->npages;
    if (!nm__region_let_go(nm__free_span_cut(p, n), n)) return 0;
    for (unsigned i = 0; i < NM_DECAY_WINDOWS; i++) nm__region.low[i] -= nm__min_size(nm__region.low[i], n);
    nm__region.idle -= nm__min_size(nm__region.idle, n);
    return n;
}

/* Decay happens as spans come and go. Where nothing comes and goes any more, a thread does the rest, if the program asked for
 * one, and ends (decision 24). A fork does not wait for it and does not copy it: it is ended before. */
static struct {
    bool wanted, there, stop; /* under the region's lock */
    pthread_cond_t wake;
    pthread_mutex_t lock; /* taken before the region's; for the two below */
    pthread_t thread;     /* to be joined, if it was started */
    bool started;
} decay_watcher = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool decay_is_watched(void) { return decay_watcher.wanted; }

/* Pages that are to go. */
static size_t decay_due(void) {
    size_t kept = nm__kept_pages(), retain = nm__region.decay_ms == 0 ? 0 : nm__region.retain >> NM__PAGE_SHIFT, more = 0;
    size_t proven = NM__PAGES(NM_DECAY_KEPT_ANYWAY) + nm__region.demand;
    if (nm__region.limited) retain = nm__min_size(retain, NM__PAGES(nm__os_address_limit()) / NM_DECAY_LIMIT_PART);
    if (kept > retain) more = kept - retain;
    else if (kept >= proven + NM__PAGES(NM_REGION_UNMAP_FROM) && !decay_is_watched()) more = kept - proven; /* some at a time */
    return nm__max_size(more, nm__region.idle);
}

void nm__decay_some(void) {
    for (size_t i = 0, n; i < NM_DECAY_SPANS_AT_ONCE && (n = decay_due()) != 0; i++) {
        if ((n = decay_purge_oldest(n)) == 0) return;
        nm__region.gone += n;
    }
}

void nm__region_tick_slowly(void) {
    if (nm__os_now_ms() < atomic_load_explicit(&nm__region.window_ends_ms, memory_order_relaxed)) return;
    nm__region_lock();
    nm__decay_advance();
    nm__decay_some();
    nm__region_unlock();
}

void nm__decay_purge_all(void) {
    size_t spans = nm__free_lists_of(NM__DIRTY)->spans + nm__free_lists_of(NM__SPARE)->spans;
    for (; spans > 0 && nm__region.oldest != 0; spans--) (void)decay_purge_oldest(SIZE_MAX);
}

static void *decay_watch(void *unused) {
    (void)unused;
    nm__region_lock();
    while (!decay_watcher.stop && nm__region.oldest != 0) {
        nm__decay_advance();
        if (decay_due() != 0) {
            size_t before = nm__kept_pages();
            nm__decay_some();
            if (nm__kept_pages() != before) {
                nm__region_unlock(); /* for threads that wait for it */
                nm__region_lock();
                continue;
            }
        } /* what the system would not have, a locked page perhaps, is offered again later */
        uint64_t next = atomic_load_explicit(&nm__region.window_ends_ms, memory_order_relaxed) +
                        NM_DECAY_CLOCK_MS; /* nm__os_now_ms is that coarse */
        struct timespec until = {(time_t)(next / 1000), (long)(next % 1000) * 1000000};
        (void)pthread_cond_timedwait(&decay_watcher.wake, &nm__region.lock, &until);
    }
    decay_watcher.there = false;
    nm__region_unlock();
    return NULL;
}

void nm__decay_start_watcher(void) {
    int error = errno;
    sigset_t all, before;
    (void)sigfillset(&all);
    (void)pthread_sigmask(SIG_SETMASK, &all, &before); /* signals are the program's business */
    pthread_mutex_lock(&decay_watcher.lock);
    if (decay_watcher.started) (void)pthread_join(decay_watcher.thread, NULL); /* it has ended, or is about to */
    bool started = decay_watcher.started = pthread_create(&decay_watcher.thread, NULL, decay_watch, NULL) == 0;
    pthread_mutex_unlock(&decay_watcher.lock);
    (void)pthread_sigmask(SIG_SETMASK, &before, NULL);
    errno = error;
    if (started) return;
    nm__region_lock();
    decay_watcher.there = false; /* the next time, perhaps */
    nm__region_unlock();
}

/* Pre: the region's lock is held. true: the caller starts one, after it has given up the lock. */
bool nm__decay_wants_watcher(void) {
    NM_ASSERT(nm__is_held(&nm__region.lock));
    bool start = decay_watcher.wanted && !decay_watcher.there && !decay_watcher.stop &&
                 nm_region_dirty() >= NM_DECAY_WATCHED_FROM;
    if (start) decay_watcher.there = true;
    return start;
}

void nm__region_watch(void) {
    nm__region_lock();
    if (!decay_watcher.wanted) {
        pthread_condattr_t monotonic;
        decay_watcher.wanted = pthread_condattr_init(&monotonic) == 0 &&
                               pthread_condattr_setclock(&monotonic, CLOCK_MONOTONIC) == 0 &&
                               pthread_cond_init(&decay_watcher.wake, &monotonic) == 0;
    }
    nm__region_unlock();
}

bool nm__region_watched(void) {
    nm__region_lock();
    bool there = decay_watcher.there;
    nm__region_unlock();
    return there;
}

/* Afterwards neither side may free another span for a long time, and to use a page that both have costs a copy: so what is
 * kept goes back here. */
void nm__region_before_fork(void) {
    pthread_mutex_lock(&decay_watcher.lock);
    nm__region_lock();
    if (decay_watcher.started) {
        decay_watcher.stop = true;
        pthread_cond_signal(&decay_watcher.wake);
        nm__region_unlock();
        (void)pthread_join(decay_watcher.thread, NULL);
        decay_watcher.started = false;
        nm__region_lock();
        decay_watcher.stop = false;
    }
    if (nm_region_dirty() >= NM_DECAY_WATCHED_FROM) nm__decay_purge_all();
}

void nm__region_after_fork(bool in_child) {
    if (in_child) decay_watcher.there = false; /* though a thread of the parent was about to start it */
    nm__region_unlock();
    pthread_mutex_unlock(&decay_watcher.lock);
}

static size_t decay_most_slack(void) { return nm__region.most / NM_DECAY_SLACK_PART + NM__PAGES(NM_DECAY_SLACK); }

/* Pages that are not resident are about to be used: counts those that were resident a moment ago. A program that takes the
 * same pages again and again gets slack. */
static void decay_count_regret(size_t n) {
    size_t way = nm__min_size(n, nm__region.made_way), kept = nm__min_size(n - way, nm__region.gone);
    nm__region.made_way -= way;
    nm__region.gone -= kept;
    decay_count_demand(way + kept);
    nm__region.regretted += way;
    if (nm__region.regretted > NM__PAGES(NM_DECAY_REGRETTED))
        nm__region.slack = nm__min_size(nm__region.slack + way, decay_most_slack());
}

void nm__decay_make_way(size_t n) {
    decay_count_regret(n);
    size_t used = nm__region.used + n, most = nm__max_size(used, nm__region.most) + nm__region.slack;
    while (nm__region.oldest != 0 && used + nm__kept_pages() > most) {
        size_t purged = decay_purge_oldest(used + nm__kept_pages() - most);
        if (purged == 0) return;
        nm__region.made_way += purged;
    }
}
