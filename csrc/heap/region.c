/* The region: one range of addresses for the process, mapped as far as it is needed.
 *
 * It reserves no addresses (decision 23). It has a place where no other mappings are expected, and maps what is needed there,
 * step by step; what is not needed any more it unmaps. A step that meets a mapping of something else leaves that alone: these
 * pages are a hole, and the region goes on behind it. What was never handed out lies beyond the frontier, which only moves up.
 * The region never moves and is never given up; it cannot grow beyond the size that it was made with.
 *
 * Invariants, under the lock, checked by nm__region_check:
 *   frontier <= described <= nm__region_pages, rounded up to NM__TABLE_STEP;  nm__region_reach == frontier, in 64 KiB
 *   every page below the frontier is in exactly one of: superblock, live span, free span, hole
 *   a page is mapped where it is in a superblock, or a live, dirty, spare or clean span;  a page inside one is NM__UNUSED
 *   nm__region_dirty == bytes of the dirty and the spare spans, which are called kept */
#include "heap/region_internal.h"

uintptr_t nm__region_base;
size_t nm__region_pages, nm__region_os_page, nm__region_grain = 1;
nm__page *nm__pages;
char *nm__superblocks;
uintptr_t nm__superblock_bias;
_Atomic size_t nm__region_reach;
nm__counter nm__region_dirty;
struct nm__region nm__region = {.lock = PTHREAD_MUTEX_INITIALIZER};

void nm__region_lock(void) { pthread_mutex_lock(&nm__region.lock); }
void nm__region_unlock(void) { pthread_mutex_unlock(&nm__region.lock); }

/* A thread that has seen a size here sees the region as well. */
size_t nm_region_size(void) {
    nm__region_lock();
    size_t size = nm__region_pages << NM__PAGE_SHIFT;
    nm__region_unlock();
    return size;
}
size_t nm_region_dirty(void) { return nm__get(&nm__region_dirty); }
bool nm_region_owns(const void *ptr) { return nm__region_has(ptr); }

/* The first page before it, or itself, that something begins or ends at, says what it is in. */
bool nm__region_has(const void *ptr) {
    if (nm__superblock_at(ptr) == NULL) return false;
    const nm__page *p = nm__page_of(ptr);
    nm__region_lock();
    size_t index = (size_t)(p - nm__pages);
    while (index > 0 && nm__pages[index].kind == NM__UNUSED) index--;
    bool mapped = (size_t)(p - nm__pages) < nm__region.frontier && nm__kind_is_mapped(nm__pages[index].kind);
    nm__region_unlock();
    return mapped;
}

/* The tables come first, that of pages and that of superblocks, then the region at a multiple of 2 MiB, where huge pages can
 * lie. */
static size_t region_pages_size(size_t size) {
    return nm__round_up((size >> NM__PAGE_SHIFT) * sizeof(nm__page), NM_REGION_HUGE_PAGE);
}
static size_t region_superblocks_size(size_t size) {
    return nm__round_up((size >> NM__SUPERBLOCK_SHIFT) * NM__SUPERBLOCK_ENTRY, NM_REGION_HUGE_PAGE);
}
static size_t region_table_size(size_t size) { return region_pages_size(size) + region_superblocks_size(size); }

/* Maps the descriptors of pages from .. to, both multiples of NM__TABLE_UNIT. false: nothing has changed. */
static bool region_map_table(size_t from, size_t to) {
    char *entries = nm__superblocks + from / NM__SUPERBLOCK_PAGES * NM__SUPERBLOCK_ENTRY;
    size_t bytes = (to - from) / NM__SUPERBLOCK_PAGES * NM__SUPERBLOCK_ENTRY;
    if (nm__os_map(entries, bytes) != NM__MAPPED) return false;
    if (nm__os_map(&nm__pages[from], (to - from) * sizeof(nm__page)) == NM__MAPPED) return true;
    (void)nm__os_unmap(entries, bytes);
    return false;
}

/* Whether the first part of each table can be mapped, where it stays, and the first step of the region. */
static bool region_settle_at(uintptr_t base, size_t size) {
    nm__pages = (nm__page *)(base - region_table_size(size));
    nm__superblocks = (char *)(base - region_superblocks_size(size));
    if (!region_map_table(0, NM__TABLE_STEP)) return false;
    if (nm__os_map((void *)base, NM_REGION_STEP_LEAST) != NM__MAPPED) {
        (void)nm__os_unmap(nm__superblocks, NM__TABLE_STEP / NM__SUPERBLOCK_PAGES * NM__SUPERBLOCK_ENTRY);
        (void)nm__os_unmap(nm__pages, NM__TABLE_STEP * sizeof(nm__page));
        return false;
    }
    (void)nm__os_unmap((void *)base, NM_REGION_STEP_LEAST);
    nm__region_base = base;
    nm__superblock_bias = (uintptr_t)nm__superblocks - (base >> NM__SUPERBLOCK_SHIFT) * NM__SUPERBLOCK_ENTRY;
    nm__region.described = NM__TABLE_STEP;
    nm__region_pages = size >> NM__PAGE_SHIFT;
    return true;
}

static bool region_settle(size_t size) {
    nm__region_os_page = nm__os_page_size();
    if (nm__region_os_page > NM_SUPERBLOCK) return false;
    nm__region_grain = nm__max_size(nm__region_os_page >> NM__PAGE_SHIFT, 1);
    uintptr_t near = nm__os_landing() & ~(uintptr_t)(NM_REGION_HUGE_PAGE - 1);
    size_t whole = size + region_table_size(size);
    for (size_t distance = NM_REGION_FARTHEST; near != 0 && distance >= NM_REGION_SMALLEST; distance /= 2) {
        if (near > whole && near - whole > distance && region_settle_at(near - distance - size, size)) return true;
        if (region_settle_at(near + distance + region_table_size(size), size)) return true;
    }
    return false;
}

nm_status nm_region_init(size_t size, size_t retain, unsigned decay_ms) {
    nm_status status = NM_OK;
    nm__region_lock();
    nm__region.retain = retain;
    nm__region.decay_ms = decay_ms;
    nm__decay_start();
    if (nm__region_pages == 0) {
        size = nm__min_size(size, NM_REGION_LARGEST) & ~(NM_REGION_HUGE_PAGE - 1);
        while (size >= NM_REGION_SMALLEST && !region_settle(size)) size = (size / 2) & ~(NM_REGION_HUGE_PAGE - 1);
        if (nm__region_pages == 0) status = nm__fail(NM_OUT_OF_MEMORY, size, 0, 0);
    }
    nm__region_unlock();
    return status;
}

/* No more than has to be where a limit on address space counts what is mapped. */
size_t nm__region_step(void) {
    size_t mapped = nm__region.used + nm__kept_pages() + nm__free_pages_of(NM__CLEAN);
    size_t part = nm__round_up(mapped / NM_REGION_STEP_PART, NM__SUPERBLOCK_PAGES);
    return nm__region.limited
               ? NM__PAGES(NM_REGION_STEP_LEAST)
               : nm__min_size(nm__max_size(part, NM__PAGES(NM_REGION_STEP_LEAST)), NM__PAGES(NM_REGION_STEP_MOST));
}

/* Maps descriptors for the pages below upto. A mapping in the way of the table ends the region. */
static bool region_describe(size_t upto) {
    for (size_t unit = NM__TABLE_STEP; upto > nm__region.described; unit = NM__TABLE_UNIT) {
        size_t to = nm__round_up(upto, unit), from = nm__region.described;
        if (region_map_table(from, to)) nm__region.described = to;
        else if (unit == NM__TABLE_UNIT) return false;
    }
    return true;
}

bool nm__region_reach_out(size_t n, size_t generous) {
    size_t from = nm__region.frontier, upto = nm__min_size(from + nm__max_size(n, generous), nm__region_pages);
    if (upto < from + n || nm__region.holes > NM_REGION_MOST_HOLES || !region_describe(upto)) return false;
    nm__region.frontier = upto;
    nm__free_span_put(&nm__pages[from], upto - from, NM__AWAY);
    atomic_store_explicit(&nm__region_reach, (upto + NM__SUPERBLOCK_PAGES - 1) / NM__SUPERBLOCK_PAGES, memory_order_release);
    return true;
}

nm__page *nm__region_find_away(size_t n, size_t generous) {
    nm__page *p = nm__free_span_find(NM__AWAY, n);
    if (p != NULL) return p;
    const nm__page *last = &nm__pages[nm__region.frontier] - 1;
    size_t there = nm__region.frontier != 0 && last->kind == NM__AWAY ? last->npages : 0;
    return nm__region_reach_out(n - there, nm__max_size(n, generous) - there) ? nm__free_span_find(NM__AWAY, n) : NULL;
}

/* Pre: the pages are away, and on no list. What the system maps is clean then. Pages where something else is mapped become
 * holes. false: it refused; some may be mapped all the same. */
static bool region_map(nm__page *p, size_t n) {
    NM_ASSERT(!nm__page_is_free(p));
    nm__mapping result = nm__os_map(nm__page_base(p), nm__bytes_of(n));
    if (result == NM__TAKEN && nm__region.holes > NM_REGION_MOST_HOLES) result = NM__REFUSED;
    if (result == NM__MAPPED) {
        NM_POISON(nm__page_base(p), nm__bytes_of(n));
        nm__free_span_put(p, n, NM__CLEAN);
    } else if (result == NM__REFUSED) {
        nm__free_span_put(p, n, NM__AWAY);
    } else if (n <= NM__SUPERBLOCK_PAGES) {
        p->kind = NM__HOLE;
        p->npages = (uint32_t)n;
        nm__region.holes += n;
    } else {
        size_t half = nm__round_up(n / 2, NM__SUPERBLOCK_PAGES);
        bool mapped = region_map(p, half);
        if (mapped) return region_map(p + half, n - half);
        nm__free_span_put(p + half, n - half, NM__AWAY);
        return false;
    }
    return result != NM__REFUSED;
}

bool nm__region_map_some(nm__page *p, size_t n, size_t generous) {
    size_t some = nm__min_size(nm__max_size(n, generous), p->npages);
    if (region_map(nm__free_span_cut(p, some), some)) return true;
    return some > n && p->kind == NM__AWAY && p->npages >= n && region_map(nm__free_span_cut(p, n), n);
}

nm__page *nm__region_take_fresh(size_t n, size_t align) {
    size_t most = n + align - nm__min_size(align, nm__region_grain); /* wherever it starts */
    for (;;) {
        size_t generous = nm__region_step();
        nm__page *p = nm__region_find_away(most, generous);
        if (p == NULL || !nm__region_map_some(p, most, generous)) return NULL;
        p = nm__free_span_find_aligned(NM__CLEAN, n, align); /* there may have been a hole */
        if (p != NULL) return nm__free_span_cut_aligned(p, n, align);
    }
}

bool nm__region_unmap(nm__page *p, size_t n) {
    NM_ASSERT(!nm__page_is_free(p));
    size_t index = (size_t)(p - nm__pages);
    bool joins = (index > 0 && p[-1].kind == NM__AWAY) || (index + n < nm__region.frontier && p[n].kind == NM__AWAY);
    if (!joins && nm__free_lists_of(NM__AWAY)->spans >= NM_REGION_MOST_AWAY) return false;
    NM_UNPOISON(nm__page_base(p), nm__bytes_of(n)); /* the addresses may become another mapping */
    if (!nm__os_unmap(nm__page_base(p), nm__bytes_of(n))) {
        NM_POISON(nm__page_base(p), nm__bytes_of(n));
        return false;
    }
    nm__free_span_put(p, n, NM__AWAY);
    return true;
}

void nm__region_put_clean(nm__page *p, size_t n) {
    p = nm__free_span_put(p, n, NM__CLEAN);
    n = p->npages;
    if (n < NM__PAGES(NM_REGION_UNMAP_FROM) || nm__free_pages_of(NM__CLEAN) <= nm__region_step()) return;
    nm__free_span_unlist(p);
    if (!nm__region_unmap(p, n)) nm__free_span_enlist(p, n, NM__CLEAN);
}

bool nm__region_let_go(nm__page *p, size_t n) {
    NM_ASSERT(!nm__page_is_free(p));
    if (n >= NM__PAGES(NM_REGION_UNMAP_FROM) && nm__region_unmap(p, n)) return true;
    bool purged = nm__os_purge(nm__page_base(p), nm__bytes_of(n));
    if (purged) nm__region_put_clean(p, n);
    else nm__free_span_put(p, n, NM__DIRTY);
    return purged;
}

/* Clean spans of at least so many pages each. */
static void region_unmap_clean(size_t least) {
    for (unsigned i = nm__free_span_list_index(least); i < NM__FREE_LISTS; i++)
        for (nm__page *p = nm__free_lists_of(NM__CLEAN)->of[i], *next; p != NULL; p = next) {
            size_t n = p->npages;
            next = p->next;
            nm__free_span_unlist(p);
            if (!nm__region_unmap(p, n)) nm__free_span_enlist(p, n, NM__CLEAN);
        }
}

bool nm__region_release_all(void) {
    size_t before = nm__kept_pages() + nm__free_pages_of(NM__CLEAN) + nm__free_pages_of(NM__ROOM);
    nm__decay_purge_all();
    region_unmap_clean(1);
    for (unsigned i = 0; i < NM__FREE_LISTS; i++)
        while (nm__free_lists_of(NM__ROOM)->of[i] != NULL) (void)nm__free_span_open_room(nm__free_lists_of(NM__ROOM)->of[i]);
    return nm__kept_pages() + nm__free_pages_of(NM__CLEAN) < before;
}

void nm__region_withdraw(nm__page *p, size_t n) {
    NM_POISON(nm__page_base(p), nm__bytes_of(n));
    nm__region_lock();
    p->npages = (uint32_t)n;
    p->kind = NM__SUPERBLOCK; /* of no thread heap */
    nm__region_unlock();
}

void nm_region_trim(void) {
    nm__region_lock();
    nm__decay_purge_all();
    region_unmap_clean(NM__PAGES(NM_REGION_UNMAP_FROM));
    nm__region_unlock();
}

static const char *region_check_page(const nm__page *p, size_t n, int before) {
    if (p->kind == NM__UNUSED || n == 0 || (size_t)(p - nm__pages) + n > nm__region.frontier) return "a page is in no span";
    for (size_t i = 1; i < n - nm__page_is_free(p); i++)
        if (p[i].kind != NM__UNUSED) return "a page inside a span is something by itself";
    if (!nm__page_is_free(p)) return NULL;
    if (nm__kind_is_room(p->kind) && before != NM__SPAN && before != NM__SUPERBLOCK) return "room is behind nothing";
    if (before == p->kind) return "two free spans of one kind touch";
    if (p[n - 1].kind != p->kind || p[n - 1].npages != n) return "a free span's last page does not match";
    return NULL;
}

const char *nm__region_check(void) {
    size_t used = 0, free_pages = 0, listed = 0, demand = 0;
    const char *broken = NULL;
    nm__region_lock();
    if (nm__region.frontier > nm__region.described ||
        atomic_load(&nm__region_reach) != (nm__region.frontier + NM__SUPERBLOCK_PAGES - 1) / NM__SUPERBLOCK_PAGES ||
        nm__region.described > nm__round_up(nm__region_pages, NM__TABLE_STEP))
        broken = "the frontier is beyond what has descriptors, or that beyond the region";
    for (nm__kind kind = NM__DIRTY; kind <= NM__AWAY && broken == NULL; kind++) {
        broken = nm__free_span_check(kind);
        listed += nm__region.free[kind - NM__DIRTY].pages;
    }
    int before = NM__UNUSED;
    for (size_t i = 0, n; i < nm__region.frontier && broken == NULL; i += n) {
        const nm__page *p = &nm__pages[i];
        n = p->npages;
        broken = region_check_page(p, n, before);
        if (p->kind == NM__SUPERBLOCK || p->kind == NM__SPAN) used += n;
        if (nm__page_is_free(p)) free_pages += n;
        before = p->kind;
    }
    if (broken == NULL && free_pages != listed) broken = "a free span is on no list";
    if (broken == NULL && used != nm__region.used) broken = "pages in use are not counted right";
    if (broken == NULL && nm__bytes_of(nm__kept_pages()) != nm__get(&nm__region_dirty))
        broken = "dirty bytes are not counted right";
    for (unsigned i = 0; i < NM_DECAY_WINDOWS && broken == NULL; i++) {
        demand += nm__region.needed[i];
        if (nm__region.idle > nm__region.low[i]) broken = "more is idle than there was";
    }
    if (broken == NULL && demand != nm__region.demand) broken = "what was needed is not counted right";
    if (broken == NULL && nm__region.low[nm__region.window] > nm__kept_pages()) broken = "more was kept than is";
    nm__region_unlock();
    return broken;
}
