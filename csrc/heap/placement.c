/* Placement: which pages a span or a superblock gets, where it grows, and where it moves.
 *
 * What is kept is handed out before what is clean, and that before pages never mapped, so that little becomes resident that
 * was not. A span that outgrows its place moves to where much is kept behind it (decision 39), or, from
 * NM_REGION_APART_FROM on, to a mapping of its own, piece by piece, with room behind it that is not mapped (decision 21).
 * A live span is never moved but by the call that grows it.
 *
 * Invariants, under the region's lock:
 *   used == pages in superblocks and live spans;  most is the most that used ever was
 *   room and spare stand behind a live span, or behind a page that is out of use */
#include "heap/region_internal.h"

static void placement_count_used(size_t n) {
    nm__region.used += n;
    if (nm__region.used > nm__region.most) nm__region.most = nm__region.used;
}

/* What is kept and lies behind a span that grows is spare: other spans get it when nothing else is resident, and then from its
 * end. */
static void placement_keep_spare(nm__page *p) {
    if ((size_t)(p - nm__pages) >= nm__region.frontier || p->kind != NM__DIRTY) return;
    size_t n = p->npages;
    nm__free_span_unlist(p);
    nm__free_span_enlist(p, n, NM__SPARE);
}

/* n pages of those that are kept, with at least a fourth as many behind them, for a span that grows: where there are twice
 * as many, else where there are most, which may be half of what is spare for another span. */
static nm__page *placement_take_kept(size_t n) {
    nm__page *p = nm__free_span_find(NM__DIRTY, 2 * n), *others = nm__free_span_find_large(NM__SPARE);
    if (p == NULL) p = nm__free_span_find_large(NM__DIRTY);
    size_t found = p == NULL ? 0 : p->npages,
           half = others == NULL ? 0 : others->npages / 2 / nm__region_grain * nm__region_grain;
    if (found < 2 * n && half > found) {
        p = others;
        found = half;
    }
    if (found <= n + n / 4) return NULL;
    p = nm__free_span_cut_back(p, found);
    nm__free_span_enlist(p + n, found - n, NM__SPARE);
    return p;
}

/* Else a span of that many pages moves to a mapping of its own. The room there is not mapped: it costs addresses only. So
 * there is much, where there are many: under a limit on address space a large block can grow further than it could move,
 * since for a while both places are mapped. */
static nm__page *placement_take_apart(size_t n) {
    if (nm__free_lists_of(NM__ROOM)->spans + nm__free_lists_of(NM__AWAY)->spans >= NM_REGION_MOST_AWAY) return NULL;
    size_t room = n < NM__PAGES(NM_REGION_HUGE_FROM) ? NM__PAGES(NM_REGION_ROOM_SMALL)
                                                     : nm__max_size(n, NM__PAGES(NM_REGION_ROOM));
    nm__page *p = nm__region_find_away(n + room, 0);
    if (p == NULL) p = nm__region_find_away(n + (room = n), 0);
    if (p == NULL) return NULL;
    nm__free_span_cut(p, n + room);
    if (nm__os_map(nm__page_base(p), nm__bytes_of(n)) != NM__MAPPED) {
        nm__free_span_put(p, n + room, NM__AWAY);
        return NULL;
    }
    nm__free_span_enlist(p + n, room, NM__ROOM);
    return p;
}

/* Pages behind the last n of a span that start at a multiple of align. */
static size_t placement_behind(const nm__page *p, size_t n, size_t align) {
    return ((size_t)(p - nm__pages) + p->npages - n) & (align - 1);
}

/* In which n pages start at a multiple of align, or NULL. */
static nm__page *placement_find_kept(size_t n, size_t align) {
    nm__page *p = nm__free_span_find_aligned(NM__DIRTY, n, align);
    if (p != NULL) return p;
    p = nm__free_span_find_large(NM__SPARE);
    return p == NULL || p->npages < n || p->npages < n + placement_behind(p, n, align) ? NULL : p;
}

/* The last n pages of a spare span that start there. What is behind them is no longer behind the span that it was kept for. */
static nm__page *placement_cut_spare(nm__page *p, size_t n, size_t align) {
    size_t behind = placement_behind(p, n, align);
    p = nm__free_span_cut_back(p, n + behind);
    if (behind != 0) (void)nm__free_span_put(p + n, behind, NM__DIRTY);
    return p;
}

static nm__page *placement_take_free(size_t n, size_t align, bool want_zero, bool *zero) {
    nm__page *dirty = placement_find_kept(n, align), *clean = NULL, *p;
    if (dirty == NULL || want_zero) clean = nm__free_span_find_aligned(NM__CLEAN, n, align);
    *zero = clean != NULL || dirty == NULL;
    if (clean != NULL) {
        p = nm__free_span_cut_aligned(clean, n, align);
        nm__decay_make_way(n);
    } else if (dirty != NULL) {
        /* Purging what is there, rather than taking pages never touched: or a loop of zeroed blocks would
         * leave a trail of dirty ones. */
        p = dirty->kind == NM__SPARE ? placement_cut_spare(dirty, n, align) : nm__free_span_cut_aligned(dirty, n, align);
        nm__decay_note_need(n);
        *zero = want_zero && nm__os_purge(nm__page_base(p), nm__bytes_of(n));
    } else {
        nm__decay_make_way(n);
        p = nm__region_take_fresh(n, align);
        /* A dirty and a clean span that touch, room for others, or what is kept while a limit refuses more. */
        if (p == NULL && nm__region_release_all()) p = nm__region_take_fresh(n, align);
    }
    return p;
}

nm__page *nm__region_take(size_t n, size_t align, nm__kind kind, bool want_zero) {
    NM_ASSERT(n % nm__region_grain == 0 && align <= NM__SUPERBLOCK_PAGES);
    if (n == 0 || n > nm__region_pages) return nm_refuse(NM_OUT_OF_MEMORY, n << NM__PAGE_SHIFT, 0, 0);
    nm__region_lock();
    nm__decay_advance();
    bool zero;
    nm__page *p = placement_take_free(n, align, want_zero, &zero);
    if (p != NULL) {
        if (zero && n >= NM__PAGES(NM_REGION_HUGE_FROM)) nm__os_prefer_huge(nm__page_base(p), nm__bytes_of(n), true);
        placement_count_used(n);
        p->npages = (uint32_t)n;
        p->zero = zero;
        p->heap = NULL; /* of no heap yet: a free span has links there */
        atomic_store_explicit((_Atomic uint8_t *)&p->kind, (uint8_t)kind, memory_order_release);
        if (zero) NM_REOPEN(nm__page_base(p), nm__bytes_of(n));
        else NM_UNPOISON(nm__page_base(p), nm__bytes_of(n));
        nm__decay_some();
    }
    nm__region_unlock();
    if (p == NULL) return nm_refuse(NM_OUT_OF_MEMORY, nm__bytes_of(n), 0, 0);
    return p;
}

/* Pre: the pages are a live span's. */
static void placement_end_use(nm__page *first, size_t n) {
    NM_ASSERT(!nm__page_is_free(first));
    nm__page *behind = first + n;
    nm__region.used -= n;
    /* Orders: before a link stands where the heap did, see nm_heap_of; a store alone would not keep later ones behind it. */
    (void)atomic_exchange((_Atomic uint8_t *)&first->kind, (uint8_t)NM__UNUSED);
    if ((size_t)(behind - nm__pages) < nm__region.frontier && nm__kind_is_room(behind->kind))
        (void)nm__free_span_open_room(behind);
}

void nm__region_give(nm__page *first, size_t n) {
    NM_POISON(nm__page_base(first), nm__bytes_of(n));
    nm__region_lock();
    nm__decay_advance();
    placement_end_use(first, n);
    if (nm__bytes_of(n) > NM_OWN_MAPPING) {
        (void)nm__region_let_go(first, n);
    } else {
        /* Or the system makes a huge page of what is left in time, though all but a small block has gone back. */
        if (nm__bytes_of(n) >= NM_REGION_HUGE_PAGE) nm__os_prefer_huge(nm__page_base(first), nm__bytes_of(n), false);
        nm__free_span_put(first, n, NM__DIRTY);
    }
    nm__decay_some();
    bool start = nm__decay_wants_watcher();
    nm__region_unlock();
    if (NM_UNLIKELY(start)) nm__decay_start_watcher();
}

/* Copies up to where a huge page would end, as the system takes no part of one, and purges what was copied. Returns the bytes
 * that are purged. */
static size_t placement_copy_some(char *to, char *from, size_t most) {
    size_t n = nm__min_size(most, NM_REGION_HUGE_PAGE - ((uintptr_t)from & (NM_REGION_HUGE_PAGE - 1)));
    memcpy(to, from, n);
    return nm__os_purge(from, n) ? n : 0;
}

/* A list of Python's that grows while other things are made has something behind it each time. With room it is moved
 * once, or as often as its size doubles. Into what is kept it is copied whole: that was resident, and the place that it
 * leaves is kept instead. */
nm__page *nm__region_move(nm__page *first, size_t n, size_t to) {
    nm__region_lock();
    nm__decay_advance();
    nm__page *p = nm__bytes_of(n) > NM_OWN_MAPPING ? NULL : placement_take_kept(to);
    bool kept = p != NULL;
    if (kept) {
        nm__decay_note_need(to);
        nm__region.used += to;
    } else if (to >= NM__PAGES(NM_REGION_APART_FROM) && (p = placement_take_apart(to)) != NULL) {
        nm__decay_make_way(to - n);
        placement_count_used(to - n); /* what is copied goes from the old one at once */
    }
    if (p != NULL) {
        p->heap = first->heap; /* before another thread can see it */
        p->npages = (uint32_t)to;
        p->zero = false;
        atomic_store_explicit((_Atomic uint8_t *)&p->kind, (uint8_t)NM__SPAN, memory_order_release);
        NM_UNPOISON(nm__page_base(p), nm__bytes_of(to));
    }
    nm__region_unlock();
    if (p == NULL) return NULL;
    char *new = nm__page_base(p), *old = nm__page_base(first);
    size_t size = nm__bytes_of(n), done = 0, some;
    if (!kept && to >= NM__PAGES(NM_REGION_HUGE_FROM)) nm__os_prefer_huge(new, nm__bytes_of(to), true);
    while (!kept && done < size && (some = placement_copy_some(new + done, old + done, size - done)) != 0) done += some;
    memcpy(new + done, old + done, size - done);
    NM_POISON(old, size);
    nm__region_lock();
    if (!kept) nm__region.used += n;
    placement_end_use(first, n);
    placement_count_used(0);
    if (kept && size >= NM_REGION_HUGE_PAGE) nm__os_prefer_huge(old, size, false);
    if (done != size) nm__free_span_put(first, n, NM__DIRTY);
    else if (!nm__region_unmap(first, n)) nm__region_put_clean(first, n);
    nm__decay_some();
    nm__region_unlock();
    return p;
}

/* Maps n pages from there on, if they are free or away. MAPPED: all of them are free and mapped now. */
static nm__mapping placement_map_behind(nm__page *from, size_t n, size_t generous) {
    size_t at = 0, before = (size_t)(from - nm__pages);
    for (; at < n && before + at < nm__region.frontier; at += from[at].npages)
        if (!nm__page_is_free(from + at)) return NM__TAKEN;
    if (at < n && !nm__region_reach_out(n - at, generous)) return NM__REFUSED;
    for (at = 0; at < n;) {
        nm__page *p = from + at;
        if (!nm__page_is_free(p)) return NM__TAKEN; /* there was a hole */
        if (nm__kind_is_mapped(p->kind)) {
            at += p->npages;
            continue;
        }
        if (!nm__region_map_some(p, nm__min_size(p->npages, n - at), generous)) return NM__REFUSED;
        at = 0; /* it may have been merged with the one before */
    }
    return NM__MAPPED;
}

/* What is left of room that was opened is room again, if it is still away. */
static void placement_keep_room(nm__page *p, size_t n) {
    if (p->kind != NM__AWAY || p->npages < n) return;
    nm__free_span_cut(p, n);
    nm__free_span_enlist(p, n, NM__ROOM);
}

static bool placement_is_kept(const nm__page *from, size_t n) {
    for (size_t at = 0, before = (size_t)(from - nm__pages); at < n; at += from[at].npages)
        if (before + at >= nm__region.frontier || !nm__kind_is_kept(from[at].kind)) return false;
    return true;
}

/* Whether a span had better move to pages that are kept than grow into pages that are not resident, for which those would
 * have to make way: a copy costs as much as the page faults of two pages of the region. */
static bool placement_is_better_moved(const nm__page *first, size_t n, size_t more) {
    return nm__bytes_of(n) <= NM_OWN_MAPPING && !placement_is_kept(first + n, more) &&
           nm__free_span_find(NM__DIRTY, 2 * (n + more)) != NULL;
}

bool nm__region_extend(nm__page *first, size_t n, size_t more) {
    nm__region_lock();
    nm__decay_advance();
    nm__page *behind = first + n;
    size_t fresh = 0, room = 0;
    if (placement_is_better_moved(first, n, more)) {
        nm__region_unlock();
        return false;
    }
    if ((size_t)(behind - nm__pages) < nm__region.frontier && behind->kind == NM__ROOM) {
        room = behind->npages;
        (void)nm__free_span_open_room(behind);
    }
    nm__mapping result = placement_map_behind(behind, more, room == 0 ? nm__region_step() : 0);
    if (result == NM__REFUSED && nm__region_release_all()) result = placement_map_behind(behind, more, 0);
    bool done = result == NM__MAPPED;
    for (size_t at = 0, some; done && at < more; at += some) {
        some = nm__min_size(behind[at].npages, more - at);
        if (behind[at].kind == NM__CLEAN) fresh += some;
        nm__free_span_cut(behind + at, some);
    }
    if (!done && room != 0) placement_keep_room(behind, room);
    if (done && room > more) placement_keep_room(behind + more, room - more);
    if (done) {
        placement_keep_spare(behind + more);
        if (fresh != more) nm__decay_note_need(more - fresh);
        if (fresh != 0) nm__decay_make_way(fresh);
        if (fresh != 0 && n + more >= NM__PAGES(NM_REGION_HUGE_FROM))
            nm__os_prefer_huge(nm__page_base(behind), nm__bytes_of(more), true);
        placement_count_used(more);
        NM_UNPOISON(nm__page_base(behind), nm__bytes_of(more));
        first->npages = (uint32_t)(n + more);
        first->zero = false;
    }
    nm__region_unlock();
    return done;
}
