/* Free spans are kept by kind (dirty, spare, clean, room, away) in lists by size: one list for each count up to 64, then
 * one for each power of two. A bitmap says which lists are not empty. Neighbours of the same kind are merged
 * through the descriptors of their first and last pages. What was never handed out lies beyond the
 * frontier, which only moves up. Best fit within the exact lists, first fit within the others.
 *
 * The region reserves no addresses. It has a place where no other mappings are expected, and maps what is needed there,
 * step by step; what is not needed any more it unmaps. A step that meets a mapping of something else leaves that alone:
 * these pages are a hole, and the region goes on behind it. */
#define _POSIX_C_SOURCE 200809L /* pthread_condattr_setclock */
#include <errno.h>
#include <signal.h>
#include <time.h>

#include "heap/region.h"

#define PAGE ((size_t)1 << NM__PAGE_SHIFT)
#define EXACT 64
#define LISTS (EXACT + 32)
#define SMALLEST_REGION ((size_t)64 << 20)
/* Huge pages save a large span most of its page faults; under small blocks they would only take memory that
 * nothing asked for. NumPy draws the line at the same size. */
#define HUGE_FROM (((size_t)4 << 20) / PAGE)
#define HUGE_PAGE ((size_t)2 << 20)
/* Pages from which a span is unmapped rather than purged. Each span that is away splits a mapping, of which a process may
 * have some 65,000: so there are at most so many. */
#define UNMAP_FROM (((size_t)1 << 20) / PAGE)
#define MOST_AWAY 8192
/* Pages that are mapped at a time, at least and at most. */
#define SMALLEST_STEP UNMAP_FROM
#define LARGEST_STEP (((size_t)64 << 20) / PAGE)
/* Pages whose descriptors are mapped at a time: those that fill a page of the region, or of the system. */
#define TABLE_STEP (PAGE / sizeof(nm__page))
#define TABLE_UNIT (nm__region_os_page / sizeof(nm__page))
/* Pages of holes: with more the region ends where it is. */
#define MOST_HOLES ((size_t)1 << 16)

uintptr_t nm__region_base;
size_t nm__region_pages, nm__region_os_page;
nm__page *nm__pages;
uintptr_t nm__page_bias;
_Atomic size_t nm__region_reach;
nm__counter nm__region_dirty;

typedef struct lists {
    nm__page *of[LISTS];
    uint64_t filled[2];
    size_t spans, pages;
} lists;

/* Invariants, under the lock:
 *   frontier <= described <= nm__region_pages, rounded up to TABLE_STEP;  nm__region_reach == frontier
 *   every page below the frontier is in exactly one of: superblock, live span, free span, hole
 *   a page is mapped where it is in a superblock, or a live, dirty, spare or clean span
 *   no two free spans of one kind touch;  dirty == bytes of the dirty and the spare ones, which are called kept
 *   room and spare stand behind a live span, or behind a page that is out of use
 *   used == pages in superblocks and live spans;  used + the kept ones <= most + slack, unless purging fails
 *   idle <= low[i];  low[window] <= kept pages;  demand == the sum of needed[i] */
#define WINDOWS 8
static struct {
    pthread_mutex_t lock;
    size_t frontier, described; /* pages */
    size_t used, most;          /* pages; most is the most ever used */
    size_t holes;               /* pages */
    lists free[NM__AWAY - NM__DIRTY + 1];
    nm__page *oldest, *newest;
    size_t retain;
    uint64_t decay_ms;
    /* The fewest pages that were kept in each of the last windows of an eighth of the decay time: as many were not
     * needed for that long, whichever they are. And how many were needed: taken while kept, or taken back from the
     * system soon after they had been given to it. */
    size_t low[WINDOWS], idle; /* idle: of them are to go */
    size_t needed[WINDOWS], demand;
    unsigned window;
    _Atomic uint64_t window_ends_ms;
    /* Pages that lately went back because others were kept, and because they made way; those of the latter that were
     * needed again within the decay time; and how many may therefore be resident beyond the most ever used. */
    size_t gone, made_way, regretted, slack;
    bool limited; /* there is a limit on address space */
} region = {.lock = PTHREAD_MUTEX_INITIALIZER};

void nm__region_lock(void) { pthread_mutex_lock(&region.lock); }
void nm__region_unlock(void) { pthread_mutex_unlock(&region.lock); }

/* A thread that has seen a size here sees the region as well. */
size_t nm_region_size(void) {
    nm__region_lock();
    size_t size = nm__region_pages << NM__PAGE_SHIFT;
    nm__region_unlock();
    return size;
}
size_t nm_region_dirty(void) { return nm__get(&nm__region_dirty); }
bool nm_region_owns(const void *ptr) { return nm__region_has(ptr); }

bool nm__region_has(const void *ptr) {
    const nm__page *p = nm__page_at(ptr);
    if (p == NULL) return false;
    nm__region_lock();
    bool mapped = p->mapped;
    nm__region_unlock();
    return mapped;
}

static size_t min_size(size_t a, size_t b) { return a < b ? a : b; }
static size_t max_size(size_t a, size_t b) { return a > b ? a : b; }
static size_t round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

/* The descriptors come first, then the region at a multiple of 2 MiB, where huge pages can lie. */
static size_t table_size(size_t size) { return round_up((size >> NM__PAGE_SHIFT) * sizeof(nm__page), HUGE_PAGE); }

/* Whether the first of the table can be mapped, where it stays, and the first of the region. */
static bool settle_at(uintptr_t base, size_t size) {
    uintptr_t table = base - table_size(size);
    if (nm__os_map((void *)table, PAGE) != NM__MAPPED) return false;
    bool fits = nm__os_map((void *)base, SMALLEST_STEP * PAGE) == NM__MAPPED;
    (void)nm__os_unmap((void *)(fits ? base : table), fits ? SMALLEST_STEP * PAGE : PAGE);
    if (!fits) return false;
    nm__pages = (nm__page *)table;
    nm__region_base = base;
    nm__page_bias = table - (base >> NM__PAGE_SHIFT) * sizeof(nm__page);
    region.described = TABLE_STEP;
    nm__region_pages = size >> NM__PAGE_SHIFT;
    return true;
}

/* Away from where the system puts mappings, as far as the addresses allow: they are 47 bits on most machines, and may be
 * as few as 39; a checker leaves even less, and ThreadSanitizer ends a program that asks for more. What the system maps
 * grows down from there, or up. */
#ifdef NM__TSAN
#define FARTHEST ((size_t)128 << 30)
#else
#define FARTHEST ((size_t)8 << 40)
#endif
static bool settle(size_t size) {
    nm__region_os_page = nm__os_page_size();
    if (nm__region_os_page > PAGE) return false;
    uintptr_t near = nm__os_landing() & ~(uintptr_t)(HUGE_PAGE - 1);
    size_t whole = size + table_size(size);
    for (size_t distance = FARTHEST; near != 0 && distance >= SMALLEST_REGION; distance /= 2) {
        if (near > whole && near - whole > distance && settle_at(near - distance - size, size)) return true;
        if (settle_at(near + distance + table_size(size), size)) return true;
    }
    return false;
}

static uint64_t window_ms(void) { return region.decay_ms / WINDOWS + 1; }

/* As if nothing had been kept. */
static void start_windows(void) {
    memset(region.low, 0, sizeof region.low);
    memset(region.needed, 0, sizeof region.needed);
    region.idle = region.demand = region.gone = region.made_way = region.regretted = region.slack = 0;
    region.limited = nm__os_address_limit() != SIZE_MAX;
    atomic_store_explicit(&region.window_ends_ms, nm__os_now_ms() + window_ms(), memory_order_relaxed);
}

nm_status nm_region_init(size_t size, size_t retain, unsigned decay_ms) {
    nm_status status = NM_OK;
    nm__region_lock();
    region.retain = retain;
    region.decay_ms = decay_ms;
    start_windows();
    if (nm__region_pages == 0) {
        size = min_size(size, (size_t)1 << 46) & ~(HUGE_PAGE - 1);
        while (size >= SMALLEST_REGION && !settle(size)) size = (size / 2) & ~(HUGE_PAGE - 1);
        if (nm__region_pages == 0) status = nm__fail(NM_OUT_OF_MEMORY, size, 0, 0);
    }
    nm__region_unlock();
    return status;
}

static const char *check_lists(nm__kind kind);
static size_t dirty_pages(void);
static size_t bytes_of(size_t pages);
static bool is_mapped(nm__kind kind) { return kind != NM__HOLE && kind < NM__ROOM; }
static bool is_dirty(nm__kind kind) { return kind == NM__DIRTY || kind == NM__SPARE; }
static bool is_room(nm__kind kind) { return kind == NM__SPARE || kind == NM__ROOM; }
static bool is_free(const nm__page *p) { return p->kind >= NM__DIRTY; }

static const char *check_page(const nm__page *p, size_t n, int before) {
    if (p->kind == NM__UNUSED || n == 0 || (size_t)(p - nm__pages) + n > region.frontier) return "a page is in no span";
    for (size_t i = 0; i < n; i++)
        if (p[i].mapped != is_mapped(p->kind)) return "a page is mapped where it should not be, or not";
    if (!is_free(p)) return NULL;
    if (is_room(p->kind) && before != NM__SPAN && before != NM__SUPERBLOCK) return "room is behind nothing";
    if (before == p->kind) return "two free spans of one kind touch";
    if (p[n - 1].kind != p->kind || p[n - 1].npages != n) return "a free span's last page does not match";
    return NULL;
}

const char *nm__region_check(void) {
    size_t used = 0, free_pages = 0, listed = 0, demand = 0;
    const char *broken = NULL;
    nm__region_lock();
    if (region.frontier > region.described || atomic_load(&nm__region_reach) != region.frontier ||
        region.described > round_up(nm__region_pages, TABLE_STEP))
        broken = "the frontier is beyond what has descriptors, or that beyond the region";
    for (nm__kind kind = NM__DIRTY; kind <= NM__AWAY && broken == NULL; kind++) {
        broken = check_lists(kind);
        listed += region.free[kind - NM__DIRTY].pages;
    }
    int before = NM__UNUSED;
    for (size_t i = 0, n; i < region.frontier && broken == NULL; i += n) {
        const nm__page *p = &nm__pages[i];
        n = p->kind == NM__SUPERBLOCK ? 1 : p->npages;
        broken = check_page(p, n, before);
        if (p->kind == NM__SUPERBLOCK || p->kind == NM__SPAN) used += n;
        if (is_free(p)) free_pages += n;
        before = p->kind;
    }
    if (broken == NULL && free_pages != listed) broken = "a free span is on no list";
    if (broken == NULL && used != region.used) broken = "pages in use are not counted right";
    if (broken == NULL && bytes_of(dirty_pages()) != nm__get(&nm__region_dirty)) broken = "dirty bytes are not counted right";
    for (unsigned i = 0; i < WINDOWS && broken == NULL; i++) {
        demand += region.needed[i];
        if (region.idle > region.low[i]) broken = "more is idle than there was";
    }
    if (broken == NULL && demand != region.demand) broken = "what was needed is not counted right";
    if (broken == NULL && region.low[region.window] > dirty_pages()) broken = "more was kept than is";
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

static const char *check_lists(nm__kind kind) {
    const lists *l = lists_of(kind);
    size_t spans = 0, pages = 0;
    for (unsigned i = 0; i < LISTS; i++) {
        if ((l->of[i] != NULL) != ((l->filled[i / 64] >> i % 64 & 1) != 0)) return "the bitmap does not match the lists";
        for (const nm__page *p = l->of[i]; p != NULL; p = p->next) {
            if (p->kind != kind || list_for(p->npages) != i) return "a free span is on the wrong list";
            if (p->next != NULL && p->next->prev != p) return "a list of free spans is broken";
            spans++;
            pages += p->npages;
        }
    }
    return spans == l->spans && pages == l->pages ? NULL : "the free spans of a kind are not counted right";
}

static void unlist(nm__page *p) {
    lists *l = lists_of(p->kind);
    unsigned i = list_for(p->npages);
    l->spans--;
    l->pages -= p->npages;
    if (p->prev != NULL) p->prev->next = p->next;
    else if ((l->of[i] = p->next) == NULL) l->filled[i / 64] &= ~(1ULL << i % 64);
    if (p->next != NULL) p->next->prev = p->prev;
    if (is_dirty(p->kind)) {
        nm__aged *a = aged(p);
        if (a->older != NULL) aged(a->older)->newer = a->newer;
        else region.oldest = a->newer;
        if (a->newer != NULL) aged(a->newer)->older = a->older;
        else region.newest = a->older;
        nm__set(&nm__region_dirty, nm__get(&nm__region_dirty) - ((size_t)p->npages << NM__PAGE_SHIFT));
    }
    p[p->npages - 1].kind = NM__UNUSED;
    p->kind = NM__UNUSED;
}

static void enlist(nm__page *p, size_t n, nm__kind kind) {
    lists *l = lists_of(kind);
    unsigned i = list_for(n);
    l->spans++;
    l->pages += n;
    p[n - 1].npages = (uint32_t)n;
    p[n - 1].kind = (uint8_t)kind;
    p->npages = (uint32_t)n;
    p->kind = (uint8_t)kind;
    p->theap = NULL;
    p->prev = NULL;
    p->next = l->of[i];
    if (p->next != NULL) p->next->prev = p;
    l->of[i] = p;
    l->filled[i / 64] |= 1ULL << i % 64;
    if (is_dirty(kind)) {
        nm__aged *a = aged(p);
        a->newer = NULL;
        a->older = region.newest;
        if (region.newest != NULL) aged(region.newest)->newer = p;
        else region.oldest = p;
        region.newest = p;
        nm__set(&nm__region_dirty, nm__get(&nm__region_dirty) + (n << NM__PAGE_SHIFT));
    }
}

/* Merges with free neighbours of the same kind, lists the result, and returns it. */
static nm__page *put(nm__page *p, size_t n, nm__kind kind) {
    size_t index = (size_t)(p - nm__pages);
    if (index + n < region.frontier && p[n].kind == kind) {
        size_t behind = p[n].npages;
        unlist(p + n);
        n += behind;
    }
    if (index > 0 && kind == NM__DIRTY && p[-1].kind == NM__SPARE) kind = NM__SPARE;
    if (index > 0 && p[-1].kind == kind) {
        size_t before = p[-1].npages;
        p -= before;
        unlist(p);
        n += before;
    }
    enlist(p, n, kind);
    return p;
}

/* To all. Returns the span that it is in then. */
static nm__page *open_room(nm__page *room) {
    size_t n = room->npages;
    nm__kind kind = room->kind == NM__SPARE ? NM__DIRTY : NM__AWAY;
    unlist(room);
    return put(room, n, kind);
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

/* The last pages. */
static nm__page *cut_back(nm__page *p, size_t n) {
    nm__kind kind = p->kind;
    size_t rest = p->npages - n;
    unlist(p);
    if (rest != 0) enlist(p, rest, kind);
    return p + rest;
}

/* Of those of a kind one with most pages, or nearly so. */
static nm__page *find_large(nm__kind kind) {
    const lists *l = lists_of(kind);
    for (unsigned word = 2; word-- > 0;)
        if (l->filled[word] != 0) return l->of[word * 64 + 63 - (unsigned)__builtin_clzll(l->filled[word])];
    return NULL;
}

/* ---- what is mapped -------------------------------------------------------------------------------- */

static size_t pages_of(nm__kind kind) { return lists_of(kind)->pages; }
static size_t dirty_pages(void) { return pages_of(NM__DIRTY) + pages_of(NM__SPARE); }
static size_t bytes_of(size_t pages) { return pages << NM__PAGE_SHIFT; }

/* How many pages are mapped at a time: an eighth of what is, so that there are few calls and little that is not needed
 * is mapped; no more than it takes where a limit counts what is mapped. As many may stay mapped that are clean. */
static size_t step(void) {
    size_t mapped = region.used + dirty_pages() + pages_of(NM__CLEAN);
    return region.limited ? SMALLEST_STEP : min_size(max_size(mapped / 8, SMALLEST_STEP), LARGEST_STEP);
}

static void mark_mapped(nm__page *p, size_t n, bool mapped) {
    for (size_t i = 0; i < n; i++) p[i].mapped = mapped;
}

/* Descriptors for the pages below that. What lies in the way of the table ends the region. */
static bool describe(size_t upto) {
    for (size_t unit = TABLE_STEP; upto > region.described; unit = TABLE_UNIT) {
        size_t to = round_up(upto, unit), from = region.described;
        if (nm__os_map(&nm__pages[from], (to - from) * sizeof(nm__page)) == NM__MAPPED) region.described = to;
        else if (unit == TABLE_UNIT) return false;
    }
    return true;
}

/* Moves the frontier by n pages, or by more. They are away. false: there are no more addresses. */
static bool reach_out(size_t n, size_t generous) {
    size_t from = region.frontier, upto = min_size(from + max_size(n, generous), nm__region_pages);
    if (upto < from + n || region.holes > MOST_HOLES || !describe(upto)) return false;
    region.frontier = upto;
    put(&nm__pages[from], upto - from, NM__AWAY);
    atomic_store_explicit(&nm__region_reach, upto, memory_order_release);
    return true;
}

/* A span of at least n pages that are away. */
static nm__page *find_away(size_t n, size_t generous) {
    nm__page *p = find(NM__AWAY, n);
    if (p != NULL) return p;
    const nm__page *last = &nm__pages[region.frontier] - 1;
    size_t there = region.frontier != 0 && last->kind == NM__AWAY ? last->npages : 0;
    return reach_out(n - there, max_size(n, generous) - there) ? find(NM__AWAY, n) : NULL;
}

/* Pre: the pages are away, and on no list. What the system maps is clean then. Pages where something else is mapped become
 * holes. false: it refused; some may be mapped all the same. */
static bool map(nm__page *p, size_t n) {
    nm__mapping result = nm__os_map(nm__page_base(p), bytes_of(n));
    if (result == NM__TAKEN && region.holes > MOST_HOLES) result = NM__REFUSED;
    if (result == NM__MAPPED) {
        NM_POISON(nm__page_base(p), bytes_of(n));
        mark_mapped(p, n, true);
        put(p, n, NM__CLEAN);
    } else if (result == NM__REFUSED) {
        put(p, n, NM__AWAY);
    } else if (n == 1) {
        p->kind = NM__HOLE;
        p->npages = 1;
        region.holes++;
    } else {
        bool mapped = map(p, n / 2);
        if (mapped) return map(p + n / 2, n - n / 2);
        put(p + n / 2, n - n / 2, NM__AWAY);
        return false;
    }
    return result != NM__REFUSED;
}

/* The first pages of a span that is away: as many as are generous, or those that have to be. */
static bool map_some(nm__page *p, size_t n, size_t generous) {
    size_t some = min_size(max_size(n, generous), p->npages);
    if (map(cut(p, some), some)) return true;
    return some > n && p->kind == NM__AWAY && p->npages >= n && map(cut(p, n), n);
}

/* Memory never used. */
static nm__page *take_fresh(size_t n) {
    for (;;) {
        size_t generous = step();
        nm__page *p = find_away(n, generous);
        if (p == NULL || !map_some(p, n, generous)) return NULL;
        p = find(NM__CLEAN, n); /* there may have been a hole */
        if (p != NULL) return cut(p, n);
    }
}

/* Pre: the pages are mapped, and on no list. false: nothing has changed. */
static bool unmap(nm__page *p, size_t n) {
    size_t index = (size_t)(p - nm__pages);
    bool joins = (index > 0 && p[-1].kind == NM__AWAY) || (index + n < region.frontier && p[n].kind == NM__AWAY);
    if (!joins && lists_of(NM__AWAY)->spans >= MOST_AWAY) return false;
    NM_UNPOISON(nm__page_base(p), bytes_of(n)); /* it may be for others now */
    if (!nm__os_unmap(nm__page_base(p), bytes_of(n))) {
        NM_POISON(nm__page_base(p), bytes_of(n));
        return false;
    }
    mark_mapped(p, n, false);
    put(p, n, NM__AWAY);
    return true;
}

static void put_clean(nm__page *p, size_t n) {
    p = put(p, n, NM__CLEAN);
    n = p->npages;
    if (n < UNMAP_FROM || pages_of(NM__CLEAN) <= step()) return;
    unlist(p);
    if (!unmap(p, n)) enlist(p, n, NM__CLEAN);
}

/* Pre: as of unmap. The memory goes back to the system, with the addresses if they are many. false: it would not have it,
 * and the pages are dirty. */
static bool let_go(nm__page *p, size_t n) {
    if (n >= UNMAP_FROM && unmap(p, n)) return true;
    bool purged = nm__os_purge(nm__page_base(p), bytes_of(n));
    if (purged) put_clean(p, n);
    else put(p, n, NM__DIRTY);
    return purged;
}

/* ---- what is kept, and for how long ----------------------------------------------------------------
 *
 * By a span's age nothing could be said of it: it is merged with what is freed next to it, and cut for what fits. So
 * the pages are counted, and those go that nobody needed for the decay time, the span first that changed longest ago.
 */

static void pass_window(void) {
    region.window = (region.window + 1) % WINDOWS;
    region.low[region.window] = dirty_pages();
    region.demand -= region.needed[region.window];
    region.needed[region.window] = 0;
    region.gone /= 2;
    region.made_way /= 2;
    if (region.window != 0) return;
    region.regretted = 0;
    region.slack -= (region.slack + 7) / 8;
}

/* Before the number of dirty pages changes: it has been the same since the last change. */
static void look_at_the_clock(void) {
    uint64_t now = nm__os_now_ms(), end = atomic_load_explicit(&region.window_ends_ms, memory_order_relaxed);
    if (now < end) return;
    uint64_t passed = (now - end) / window_ms() + 1;
    atomic_store_explicit(&region.window_ends_ms, end + passed * window_ms(), memory_order_relaxed);
    for (unsigned i = 0; i < WINDOWS && i < passed; i++) pass_window();
    region.idle = SIZE_MAX;
    for (unsigned i = 0; i < WINDOWS; i++) region.idle = min_size(region.idle, region.low[i]);
    region.limited = nm__os_address_limit() != SIZE_MAX;
}

static void count_demand(size_t n) {
    region.needed[region.window] += n;
    region.demand += n;
}

/* So many dirty pages were taken for use. */
static void note_need(size_t n) {
    size_t *low = &region.low[region.window];
    *low = min_size(*low, dirty_pages());
    region.idle = min_size(region.idle, *low);
    count_demand(n);
}

/* Of the one that changed longest ago, at most so many pages. Returns how many; 0: the system would not have them. */
static size_t purge_oldest(size_t most) {
    nm__page *p = region.oldest->kind == NM__SPARE ? open_room(region.oldest) : region.oldest;
    size_t n = min_size(most, p->npages);
    if (!let_go(cut(p, n), n)) return 0;
    for (unsigned i = 0; i < WINDOWS; i++) region.low[i] -= min_size(region.low[i], n);
    region.idle -= min_size(region.idle, n);
    return n;
}

/* What is kept although nothing shows yet that it is needed, in pages: no more where no thread will give it back. */
#define KEPT_ANYWAY (((size_t)32 << 20) / PAGE)
static bool thread_sees_to_it(void);

static size_t due(void) {
    size_t kept = dirty_pages(), retain = region.decay_ms == 0 ? 0 : region.retain >> NM__PAGE_SHIFT, more = 0;
    size_t proven = KEPT_ANYWAY + region.demand;
    if (region.limited) retain = min_size(retain, nm__os_address_limit() / PAGE / 32);
    if (kept > retain) more = kept - retain;
    else if (kept >= proven + UNMAP_FROM && !thread_sees_to_it()) more = kept - proven; /* some at a time */
    return max_size(more, region.idle);
}

/* A few at a time, so that no single call pays for a large program's whole past. */
static void decay(void) {
    for (size_t i = 0, n; i < 4 && (n = due()) != 0; i++) {
        if ((n = purge_oldest(n)) == 0) return;
        region.gone += n;
    }
}

void nm__region_tick_slowly(void) {
    if (nm__os_now_ms() < atomic_load_explicit(&region.window_ends_ms, memory_order_relaxed)) return;
    nm__region_lock();
    look_at_the_clock();
    decay();
    nm__region_unlock();
}

/* What the system will not have now is passed over. */
static void purge_all(void) {
    size_t spans = lists_of(NM__DIRTY)->spans + lists_of(NM__SPARE)->spans;
    for (; spans > 0 && region.oldest != NULL; spans--) (void)purge_oldest(SIZE_MAX);
}

/* Of at least so many pages each. */
static void unmap_clean(size_t least) {
    for (unsigned i = list_for(least); i < LISTS; i++)
        for (nm__page *p = lists_of(NM__CLEAN)->of[i], *next; p != NULL; p = next) {
            size_t n = p->npages;
            next = p->next;
            unlist(p);
            if (!unmap(p, n)) enlist(p, n, NM__CLEAN);
        }
}

/* All that is free: memory, addresses, and room. false: there was nothing. */
static bool release_all(void) {
    size_t before = dirty_pages() + pages_of(NM__CLEAN) + pages_of(NM__ROOM);
    purge_all();
    unmap_clean(1);
    for (unsigned i = 0; i < LISTS; i++)
        while (lists_of(NM__ROOM)->of[i] != NULL) (void)open_room(lists_of(NM__ROOM)->of[i]);
    return dirty_pages() + pages_of(NM__CLEAN) < before;
}

/* ---- in an idle process ---------------------------------------------------------------------------- */

/* Decay happens as spans come and go. Where nothing comes and goes any more a thread does the rest, if it is asked for,
 * and ends. It never holds up a fork, nor is it in the way of the warnings about forks with threads: before one it is
 * ended. */
static struct {
    bool wanted, there, stop; /* under the region's lock */
    pthread_cond_t wake;
    pthread_mutex_t lock; /* taken before the region's; for the two below */
    pthread_t thread;     /* to be joined, if it was started */
    bool started;
} watcher = {.lock = PTHREAD_MUTEX_INITIALIZER};

static bool thread_sees_to_it(void) { return watcher.wanted; }

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
                nm__region_unlock(); /* what waits goes first */
                nm__region_lock();
                continue;
            }
        } /* what the system would not have, a locked page perhaps, it is offered again later */
        uint64_t next = atomic_load_explicit(&region.window_ends_ms, memory_order_relaxed) +
                        10; /* the clock that is looked at is a coarse one */
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

/* Afterwards neither side may free another span for a long time, and to use a page that both have costs a copy: so what is
 * kept goes back here. */
void nm__region_before_fork(void) {
    pthread_mutex_lock(&watcher.lock);
    nm__region_lock();
    if (watcher.started) {
        watcher.stop = true;
        pthread_cond_signal(&watcher.wake);
        nm__region_unlock();
        (void)pthread_join(watcher.thread, NULL);
        watcher.started = false;
        nm__region_lock();
        watcher.stop = false;
    }
    if (nm_region_dirty() >= WATCHED_FROM) purge_all();
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

/* Pages that made way and were needed again within the decay time: up to here they cost next to nothing. Slack up to a
 * quarter of what was ever used, and 4 MiB, ends it for any loop that was tried. */
#define REGRETTED_MOST UNMAP_FROM * 4
static size_t most_slack(void) { return region.most / 4 + UNMAP_FROM * 4; }

/* Pages that were not resident are about to be used. Were they resident a moment ago? */
static void count_regret(size_t n) {
    size_t way = min_size(n, region.made_way), kept = min_size(n - way, region.gone);
    region.made_way -= way;
    region.gone -= kept;
    count_demand(way + kept);
    region.regretted += way;
    if (region.regretted > REGRETTED_MOST) region.slack = min_size(region.slack + way, most_slack());
}

/* What is kept for reuse makes way for them, so that never more is resident than the program once had in use: sizes that
 * do not fit into each other must not add up. Where a program takes the same pages again and again there is some slack. */
static void make_way(size_t n) {
    count_regret(n);
    size_t used = region.used + n, most = max_size(used, region.most) + region.slack;
    while (region.oldest != NULL && used + dirty_pages() > most) {
        size_t purged = purge_oldest(used + dirty_pages() - most);
        if (purged == 0) return;
        region.made_way += purged;
    }
}

/* What is kept and lies behind a span that grows is spare: others have it when there is nothing else that is resident, and
 * then its end. */
static void keep_spare(nm__page *p) {
    if ((size_t)(p - nm__pages) >= region.frontier || p->kind != NM__DIRTY) return;
    size_t n = p->npages;
    unlist(p);
    enlist(p, n, NM__SPARE);
}

/* n pages of those that are kept, with at least a fourth as many behind them, for a span that grows: where there are twice
 * as many, or the most there are, which may be half of what is spare for another. */
static nm__page *take_kept_with_room(size_t n) {
    nm__page *p = find(NM__DIRTY, 2 * n), *others = find_large(NM__SPARE);
    if (p == NULL) p = find_large(NM__DIRTY);
    size_t found = p == NULL ? 0 : p->npages, half = others == NULL ? 0 : others->npages / 2;
    if (found < 2 * n && half > found) {
        p = others;
        found = half;
    }
    if (found <= n + n / 4) return NULL;
    p = cut_back(p, found);
    enlist(p + n, found - n, NM__SPARE);
    return p;
}

/* Else a span of that many pages moves to a mapping of its own. The room there is not mapped: it costs addresses only. So
 * there is much, where there are many: under a limit on address space a large block can grow further than it could move,
 * since for a while both places are mapped. */
#define APART_FROM UNMAP_FROM
#define MUCH_ROOM (((size_t)1 << 30) / PAGE)

static nm__page *take_with_room(size_t n) {
    if (lists_of(NM__ROOM)->spans + lists_of(NM__AWAY)->spans >= MOST_AWAY) return NULL;
    size_t room = n < HUGE_FROM ? MUCH_ROOM / 16 : max_size(n, MUCH_ROOM);
    nm__page *p = find_away(n + room, 0);
    if (p == NULL) p = find_away(n + (room = n), 0);
    if (p == NULL) return NULL;
    cut(p, n + room);
    if (nm__os_map(nm__page_base(p), bytes_of(n)) != NM__MAPPED) {
        put(p, n + room, NM__AWAY);
        return NULL;
    }
    mark_mapped(p, n, true);
    enlist(p + n, room, NM__ROOM);
    return p;
}

/* Of n pages at least, or NULL. */
static nm__page *find_kept(size_t n) {
    nm__page *p = find(NM__DIRTY, n);
    if (p == NULL) p = find_large(NM__SPARE);
    return p == NULL || p->npages < n ? NULL : p;
}

static nm__page *take_free(size_t n, bool want_zero, bool *zero) {
    nm__page *dirty = find_kept(n), *clean = NULL, *p;
    if (dirty == NULL || want_zero) clean = find(NM__CLEAN, n);
    *zero = clean != NULL || dirty == NULL;
    if (clean != NULL) {
        p = cut(clean, n);
        make_way(n);
    } else if (dirty != NULL) {
        /* Purging what is there, rather than taking pages never touched: or a loop of zeroed blocks would
         * leave a trail of dirty ones. */
        p = dirty->kind == NM__SPARE ? cut_back(dirty, n) : cut(dirty, n);
        note_need(n);
        *zero = want_zero && nm__os_purge(nm__page_base(p), bytes_of(n));
    } else {
        make_way(n);
        p = take_fresh(n);
        /* A dirty and a clean span that touch, room for others, or what is kept while a limit refuses more. */
        if (p == NULL && release_all()) p = take_fresh(n);
    }
    return p;
}

nm__page *nm__region_take(size_t n, nm__kind kind, bool want_zero) {
    if (n == 0 || n > nm__region_pages) return nm_refuse(NM_OUT_OF_MEMORY, n << NM__PAGE_SHIFT, 0, 0);
    nm__region_lock();
    look_at_the_clock();
    bool zero;
    nm__page *p = take_free(n, want_zero, &zero);
    if (p != NULL) {
        if (zero && n >= HUGE_FROM) nm__os_prefer_huge(nm__page_base(p), bytes_of(n), true);
        count_used(n);
        p->npages = (uint32_t)n;
        p->zero = zero;
        p->theap = NULL;
        p->cells.free = NULL; /* of no heap yet: a free span has a link there */
        atomic_store_explicit((_Atomic uint8_t *)&p->kind, (uint8_t)kind, memory_order_release);
        if (zero) NM_REOPEN(nm__page_base(p), bytes_of(n));
        else NM_UNPOISON(nm__page_base(p), bytes_of(n));
        decay();
    }
    nm__region_unlock();
    if (p == NULL) return nm_refuse(NM_OUT_OF_MEMORY, bytes_of(n), 0, 0);
    return p;
}

/* Pre: the pages are a live span's. */
static void end_use(nm__page *first, size_t n) {
    nm__page *behind = first + n;
    region.used -= n;
    first->theap = NULL;
    first->kind = NM__UNUSED;
    if ((size_t)(behind - nm__pages) < region.frontier && is_room(behind->kind)) (void)open_room(behind);
}

void nm__region_give(nm__page *first, size_t n) {
    NM_POISON(nm__page_base(first), bytes_of(n));
    nm__region_lock();
    look_at_the_clock();
    end_use(first, n);
    if (bytes_of(n) > NM_OWN_MAPPING) {
        (void)let_go(first, n);
    } else {
        /* Or the system makes one of what is left of it in time, though all but a small block has gone back. */
        if (bytes_of(n) >= HUGE_PAGE) nm__os_prefer_huge(nm__page_base(first), bytes_of(n), false);
        put(first, n, NM__DIRTY);
    }
    decay();
    bool start = watcher.wanted && !watcher.there && !watcher.stop && nm_region_dirty() >= WATCHED_FROM;
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

/* A list of Python's that grows while other things are made has something behind it each time. With room it is moved
 * once, or as often as its size doubles. Into what is kept it is copied whole: that was resident, and the place that it
 * leaves is kept instead. */
nm__page *nm__region_move(nm__page *first, size_t n, size_t to) {
    nm__region_lock();
    look_at_the_clock();
    nm__page *p = bytes_of(n) > NM_OWN_MAPPING ? NULL : take_kept_with_room(to);
    bool kept = p != NULL;
    if (kept) {
        note_need(to);
        region.used += to;
    } else if (to >= APART_FROM && (p = take_with_room(to)) != NULL) {
        make_way(to - n);
        count_used(to - n); /* what is copied goes from the old one at once */
    }
    if (p != NULL) {
        p->cells = first->cells; /* whose it is, before another thread can see it */
        p->npages = (uint32_t)to;
        p->zero = false;
        p->theap = NULL;
        atomic_store_explicit((_Atomic uint8_t *)&p->kind, (uint8_t)NM__SPAN, memory_order_release);
        NM_UNPOISON(nm__page_base(p), bytes_of(to));
    }
    nm__region_unlock();
    if (p == NULL) return NULL;
    char *new = nm__page_base(p), *old = nm__page_base(first);
    size_t size = bytes_of(n), done = 0, some;
    if (!kept && to >= HUGE_FROM) nm__os_prefer_huge(new, bytes_of(to), true);
    while (!kept && done < size && (some = copy_some(new + done, old + done, size - done)) != 0) done += some;
    memcpy(new + done, old + done, size - done);
    NM_POISON(old, size);
    nm__region_lock();
    if (!kept) region.used += n;
    end_use(first, n);
    count_used(0);
    if (kept && size >= HUGE_PAGE) nm__os_prefer_huge(old, size, false);
    if (done != size) put(first, n, NM__DIRTY);
    else if (!unmap(first, n)) put_clean(first, n);
    decay();
    nm__region_unlock();
    return p;
}

void nm__region_withdraw(nm__page *p) {
    NM_POISON(nm__page_base(p), PAGE);
    nm__region_lock();
    p->theap = NULL;
    p->kind = NM__SUPERBLOCK; /* of no part */
    nm__region_unlock();
}

/* So that all of these pages are free and mapped, if they are free or may become so. */
static nm__mapping map_behind(nm__page *from, size_t n, size_t generous) {
    size_t at = 0, before = (size_t)(from - nm__pages);
    for (; at < n && before + at < region.frontier; at += from[at].npages)
        if (!is_free(from + at)) return NM__TAKEN;
    if (at < n && !reach_out(n - at, generous)) return NM__REFUSED;
    for (at = 0; at < n;) {
        nm__page *p = from + at;
        if (!is_free(p)) return NM__TAKEN; /* there was a hole */
        if (is_mapped(p->kind)) {
            at += p->npages;
            continue;
        }
        if (!map_some(p, min_size(p->npages, n - at), generous)) return NM__REFUSED;
        at = 0; /* it may have been merged with the one before */
    }
    return NM__MAPPED;
}

/* What is left of room that was opened is room again, if it is still away. */
static void keep_room(nm__page *p, size_t n) {
    if (p->kind != NM__AWAY || p->npages < n) return;
    cut(p, n);
    enlist(p, n, NM__ROOM);
}

static bool is_kept(const nm__page *from, size_t n) {
    for (size_t at = 0, before = (size_t)(from - nm__pages); at < n; at += from[at].npages)
        if (before + at >= region.frontier || !is_dirty(from[at].kind)) return false;
    return true;
}

/* Rather than taking pages that are not resident where many are kept, which would have to make way for them: what a copy
 * costs, the page faults of two pages of the region cost. */
static bool is_better_moved(const nm__page *first, size_t n, size_t more) {
    return bytes_of(n) <= NM_OWN_MAPPING && !is_kept(first + n, more) && find(NM__DIRTY, 2 * (n + more)) != NULL;
}

bool nm__region_extend(nm__page *first, size_t n, size_t more) {
    nm__region_lock();
    look_at_the_clock();
    nm__page *behind = first + n;
    size_t fresh = 0, room = 0;
    if (is_better_moved(first, n, more)) {
        nm__region_unlock();
        return false;
    }
    if ((size_t)(behind - nm__pages) < region.frontier && behind->kind == NM__ROOM) {
        room = behind->npages;
        (void)open_room(behind);
    }
    nm__mapping result = map_behind(behind, more, room == 0 ? step() : 0);
    if (result == NM__REFUSED && release_all()) result = map_behind(behind, more, 0);
    bool done = result == NM__MAPPED;
    for (size_t at = 0, some; done && at < more; at += some) {
        some = min_size(behind[at].npages, more - at);
        if (behind[at].kind == NM__CLEAN) fresh += some;
        cut(behind + at, some);
    }
    if (!done && room != 0) keep_room(behind, room);
    if (done && room > more) keep_room(behind + more, room - more);
    if (done) {
        keep_spare(behind + more);
        if (fresh != more) note_need(more - fresh);
        if (fresh != 0) make_way(fresh);
        if (fresh != 0 && n + more >= HUGE_FROM) nm__os_prefer_huge(nm__page_base(behind), bytes_of(more), true);
        count_used(more);
        NM_UNPOISON(nm__page_base(behind), bytes_of(more));
        first->npages = (uint32_t)(n + more);
        first->zero = false;
    }
    nm__region_unlock();
    return done;
}

void nm_region_trim(void) {
    nm__region_lock();
    purge_all();
    unmap_clean(UNMAP_FROM);
    nm__region_unlock();
}
