/* Free spans: which runs of pages are free, found by size.
 *
 * They are kept by kind (dirty, spare, clean, room, away) in lists by size: one list for each count of pages up to
 * NM__FREE_EXACT, then eight for each power of two. A bitmap says which lists are not empty. Neighbours of the same kind are
 * merged through the descriptors of their first and last pages. Best fit within the exact lists, first fit within the others.
 * Nothing here maps, unmaps or takes a lock: the caller holds the region's.
 *
 * Invariants, checked by nm__free_span_check and nm__region_check:
 *   bit i of filled is set <=> of[i] is not empty;  spans and pages count what the lists hold
 *   no two free spans of one kind touch;  the first and the last page of a free span have its kind and its size */
#include "heap/region_internal.h"

static uint32_t free_span_number(const nm__page *p) { return p == NULL ? 0 : (uint32_t)(p - nm__pages) + 1; }
static nm__page *free_span_numbered(uint32_t number) { return number == 0 ? NULL : &nm__pages[number - 1]; }

nm__page *nm__free_span_oldest(void) { return free_span_numbered(nm__region.oldest); }

unsigned nm__free_span_list_index(size_t n) {
    if (n < NM__FREE_EXACT) return (unsigned)n;
    unsigned power = 63U - (unsigned)__builtin_clzll(n); /* >= 6 */
    unsigned list = NM__FREE_EXACT + (power - 6) * 8 + (unsigned)(n >> (power - 3) & 7);
    return list < NM__FREE_LISTS ? list : NM__FREE_LISTS - 1;
}

const char *nm__free_span_check(nm__kind kind) {
    const nm__free_lists *l = nm__free_lists_of(kind);
    size_t spans = 0, pages = 0;
    for (unsigned i = 0; i < NM__FREE_LISTS; i++) {
        if ((l->of[i] != NULL) != ((l->filled[i / 64] >> i % 64 & 1) != 0)) return "the bitmap does not match the lists";
        for (const nm__page *p = l->of[i]; p != NULL; p = p->next) {
            if (p->kind != kind || nm__free_span_list_index(p->npages) != i) return "a free span is on the wrong list";
            if (p->next != NULL && p->next->prev != p) return "a list of free spans is broken";
            spans++;
            pages += p->npages;
        }
    }
    return spans == l->spans && pages == l->pages ? NULL : "the free spans of a kind are not counted right";
}

void nm__free_span_unlist(nm__page *p) {
    nm__free_lists *l = nm__free_lists_of(p->kind);
    unsigned i = nm__free_span_list_index(p->npages);
    l->spans--;
    l->pages -= p->npages;
    if (p->prev != NULL) p->prev->next = p->next;
    else if ((l->of[i] = p->next) == NULL) l->filled[i / 64] &= ~(1ULL << i % 64);
    if (p->next != NULL) p->next->prev = p->prev;
    if (nm__kind_is_kept(p->kind)) {
        nm__page *older = free_span_numbered(p->aged.older), *newer = free_span_numbered(p->aged.newer);
        *(older != NULL ? &older->aged.newer : &nm__region.oldest) = p->aged.newer;
        *(newer != NULL ? &newer->aged.older : &nm__region.newest) = p->aged.older;
        nm__set(&nm__region_dirty, nm__get(&nm__region_dirty) - ((size_t)p->npages << NM__PAGE_SHIFT));
    }
    p[p->npages - 1].kind = NM__UNUSED;
    p->kind = NM__UNUSED;
}

void nm__free_span_enlist(nm__page *p, size_t n, nm__kind kind) {
    nm__free_lists *l = nm__free_lists_of(kind);
    unsigned i = nm__free_span_list_index(n);
    l->spans++;
    l->pages += n;
    p[n - 1].npages = (uint32_t)n;
    p[n - 1].kind = (uint8_t)kind;
    p->npages = (uint32_t)n;
    p->kind = (uint8_t)kind;
    p->prev = NULL;
    p->next = l->of[i];
    if (p->next != NULL) p->next->prev = p;
    l->of[i] = p;
    l->filled[i / 64] |= 1ULL << i % 64;
    if (nm__kind_is_kept(kind)) {
        nm__page *older = free_span_numbered(nm__region.newest);
        p->aged = (nm__aged){.older = nm__region.newest, .newer = 0};
        *(older != NULL ? &older->aged.newer : &nm__region.oldest) = free_span_number(p);
        nm__region.newest = free_span_number(p);
        nm__set(&nm__region_dirty, nm__get(&nm__region_dirty) + (n << NM__PAGE_SHIFT));
    }
}

nm__page *nm__free_span_put(nm__page *p, size_t n, nm__kind kind) {
    size_t index = (size_t)(p - nm__pages);
    if (index + n < nm__region.frontier && p[n].kind == kind) {
        size_t behind = p[n].npages;
        nm__free_span_unlist(p + n);
        n += behind;
    }
    if (index > 0 && kind == NM__DIRTY && p[-1].kind == NM__SPARE) kind = NM__SPARE;
    if (index > 0 && p[-1].kind == kind) {
        size_t before = p[-1].npages;
        p -= before;
        nm__free_span_unlist(p);
        n += before;
    }
    nm__free_span_enlist(p, n, kind);
    return p;
}

nm__page *nm__free_span_open_room(nm__page *room) {
    size_t n = room->npages;
    nm__kind kind = room->kind == NM__SPARE ? NM__DIRTY : NM__AWAY;
    nm__free_span_unlist(room);
    return nm__free_span_put(room, n, kind);
}

/* The first list from there on that is not empty, or NM__FREE_LISTS. */
static unsigned free_lists_next(const nm__free_lists *l, unsigned from) {
    for (unsigned word = from / 64; word < sizeof l->filled / sizeof l->filled[0]; word++) {
        uint64_t filled = l->filled[word] & (word == from / 64 ? ~0ULL << from % 64 : ~0ULL);
        if (filled != 0) return word * 64 + (unsigned)__builtin_ctzll(filled);
    }
    return NM__FREE_LISTS;
}

nm__page *nm__free_span_find(nm__kind kind, size_t n) {
    const nm__free_lists *l = nm__free_lists_of(kind);
    unsigned i = nm__free_span_list_index(n); /* one that is not exact holds sizes below n, too */
    for (i = free_lists_next(l, i); i < NM__FREE_LISTS; i = free_lists_next(l, i + 1))
        for (nm__page *p = l->of[i]; p != NULL; p = p->next)
            if (p->npages >= n) return p;
    return NULL;
}

static size_t free_span_ahead(const nm__page *p, size_t align) { return -(size_t)(p - nm__pages) & (align - 1); }

nm__page *nm__free_span_find_aligned(nm__kind kind, size_t n, size_t align) {
    if (align <= nm__region_grain) return nm__free_span_find(kind, n);
    const nm__free_lists *l = nm__free_lists_of(kind);
    for (unsigned i = free_lists_next(l, nm__free_span_list_index(n)); i < NM__FREE_LISTS; i = free_lists_next(l, i + 1)) {
        unsigned looks = NM_REGION_LOOKS;
        for (nm__page *p = l->of[i]; p != NULL && (looks-- > 0 || p->npages >= n + align); p = p->next)
            if (p->npages >= n + free_span_ahead(p, align)) return p;
    }
    return NULL;
}

nm__page *nm__free_span_cut(nm__page *p, size_t n) {
    NM_ASSERT(nm__page_is_free(p) && n <= p->npages);
    nm__kind kind = p->kind;
    size_t total = p->npages;
    nm__free_span_unlist(p);
    if (total > n) nm__free_span_enlist(p + n, total - n, kind);
    return p;
}

nm__page *nm__free_span_cut_back(nm__page *p, size_t n) {
    NM_ASSERT(nm__page_is_free(p) && n <= p->npages);
    nm__kind kind = p->kind;
    size_t rest = p->npages - n;
    nm__free_span_unlist(p);
    if (rest != 0) nm__free_span_enlist(p, rest, kind);
    return p + rest;
}

nm__page *nm__free_span_cut_aligned(nm__page *p, size_t n, size_t align) {
    NM_ASSERT(nm__page_is_free(p) && n + free_span_ahead(p, align) <= p->npages);
    nm__kind kind = p->kind;
    size_t ahead = free_span_ahead(p, align), behind = p->npages - ahead - n;
    nm__free_span_unlist(p);
    if (ahead != 0) nm__free_span_enlist(p, ahead, kind);
    if (behind != 0) nm__free_span_enlist(p + ahead + n, behind, kind);
    return p + ahead;
}

nm__page *nm__free_span_find_large(nm__kind kind) {
    const nm__free_lists *l = nm__free_lists_of(kind);
    for (unsigned word = sizeof l->filled / sizeof l->filled[0]; word-- > 0;)
        if (l->filled[word] != 0) return l->of[word * 64 + 63 - (unsigned)__builtin_clzll(l->filled[word])];
    return NULL;
}
