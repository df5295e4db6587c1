/* Superblocks: the pages that are cut into cells of one bin (alloc/cells.h), and which of them serves next.
 *
 * Of each bin a thread heap has one current superblock, which serves, and lists of others that wait, by how full they are.
 * When the current one has no cell left, one of the fullest that wait takes its place, so that others become empty and go
 * back to the region (decisions 18 and 19). Nothing here takes a lock or scans blocks: a superblock reports when so many of
 * its cells have come back that something is to be done, by a counter that falls to 0 (nm__superblock_trip).
 *
 * What it cannot do: move a live block, or give back a superblock that has one; a bin's superblocks never serve another bin.
 *
 * Invariants, checked by nm__superblock_check:
 *   a superblock is its bin's current one, or not empty and on its bin's list for how full it is
 *   a superblock that waits reports when its used cells fall to its group's floor;  the current one after
 *   superblock_patience cells at most */
#include "heap/internal.h"

/* A current superblock counts the cells that come back by itself, and those that it serves by its bin's counter: the two
 * halves of a pair so do not wait for one another. Each time that so many cells have come back, nm__superblock_trip asks
 * whether it still is the one to serve. */
static uint32_t superblock_patience(const nm__cells *c) {
    return c->capacity < NM_HEAP_PATIENCE * NM_HEAP_PATIENCE_PART ? NM_HEAP_PATIENCE : c->capacity / NM_HEAP_PATIENCE_PART;
}

static uint32_t bin_served(const nm__bin *b) { return (uint32_t)nm__get(&b->served); }

static uint32_t superblock_used(const nm__bin *b, const nm__page *p) {
    return nm__cells_used(&p->cells) + (p == b->current ? bin_served(b) : 0);
}

/* Fewer free cells than this put a superblock into group 0. That group is not looked at for each cell that comes back: with
 * blocks freed all over a large heap, superblocks would change lists with each free, and again with each allocation. What
 * waits there is at most a 32nd of a superblock, and theap_scrape finds it before a block is refused: it looks at each once,
 * and puts those that are full aside until a cell comes back. So a refusal does not cost more the more superblocks there
 * are. */
static uint32_t superblock_quorum(const nm__cells *c) {
    return c->capacity < 2 * NM_HEAP_QUORUM_PART ? 1 : c->capacity / NM_HEAP_QUORUM_PART;
}

/* A superblock of the group has more used cells than this: half of them, a quarter and so on. */
static uint32_t group_floor(const nm__cells *c, unsigned group) {
    if (group == 0) return c->capacity - superblock_quorum(c);
    if (group == NM__FULL) return c->capacity - 1;
    return group == NM__GROUPS - 1 ? 0 : c->capacity >> group;
}

/* Pre: used != 0. */
static unsigned group_for(const nm__cells *c, uint32_t used) {
    NM_ASSERT(used != 0);
    unsigned group = 0;
    while (used <= group_floor(c, group)) group++;
    return group;
}

const char *nm__superblock_check(const nm__page *p, const nm__theap *theap, size_t bin) {
    const nm__bin *b = &theap->bins[bin];
    uint32_t used = superblock_used(b, p);
    if (p->theap != theap || p->kind != NM__SUPERBLOCK || p->bin != bin)
        return "a superblock is another thread heap's or bin's";
    if (!nm__cells_check(&p->cells, used, nm__page_base(p), 0, theap->heap->key)) return "a superblock's cells do not add up";
    if (p == b->current)
        return p->cells.count == 0 || p->cells.count > superblock_patience(&p->cells)
                   ? "a current superblock's count has run out"
                   : NULL;
    if (used == 0) return "an empty superblock was not returned";
    if (p->group == NM__FULL ? used != p->cells.capacity : p->group != group_for(&p->cells, used))
        return "a superblock is on the wrong list";
    if (p->next != NULL && p->next->prev != p) return "a list of superblocks is broken";
    if (p->cells.count != used - group_floor(&p->cells, p->group)) return "a superblock reports where it should not";
    return NULL;
}

static nm__page *bin_current(const nm__bin *b) { return b->current == &nm__no_page ? NULL : b->current; }

static void superblock_ask_later(nm__cells *c) { nm__cells_report_at(c, nm__cells_used(c) - superblock_patience(c)); }

static void bin_set_current(nm__bin *b, nm__page *p) {
    b->current = p;
    superblock_ask_later(&p->cells);
    p->cells.apart -= bin_served(b);
}

/* Pre: there is one. */
static nm__page *bin_take_current(nm__bin *b) {
    NM_ASSERT(bin_current(b) != NULL);
    nm__page *p = b->current;
    p->cells.apart += bin_served(b);
    b->current = &nm__no_page;
    return p;
}

/* Pre: p is not current, on no list, and not empty. */
static void superblock_wait_in(nm__theap *theap, nm__page *p, unsigned group) {
    NM_ASSERT(p != theap->bins[p->bin].current && nm__cells_used(&p->cells) != 0);
    p->group = (uint8_t)group;
    nm__cells_report_at(&p->cells, group_floor(&p->cells, group));
    nm__list_push(&theap->waiting[p->bin][group], p);
}

static void superblock_wait(nm__theap *theap, nm__page *p) {
    superblock_wait_in(theap, p, group_for(&p->cells, nm__cells_used(&p->cells)));
}

static void superblock_stop_waiting(nm__theap *theap, nm__page *p) { nm__list_pull(&theap->waiting[p->bin][p->group], p); }

static bool superblock_extend(nm_heap *h, nm__page *p) {
    return h->key != 0 ? nm__secure_extend(h, &p->cells, nm__page_base(p)) : nm__cells_extend(&p->cells, nm__page_base(p));
}

static void superblock_retire(nm_heap *h, nm__page *p) {
    p->theap = NULL;
    if (nm__secure_unguard(h, p, 1) != 0) nm__region_give(p, 1);
    nm__heap_discharge(h, 1);
}

/* Of the superblocks that wait and have cells to give one of the fullest, or NULL. */
static nm__page *theap_fullest(const nm__theap *theap, size_t bin) {
    for (unsigned group = 1; group < NM__GROUPS; group++)
        if (theap->waiting[bin][group] != NULL) return theap->waiting[bin][group];
    return NULL;
}

static void bin_promote(nm__theap *theap, nm__page *p) {
    superblock_stop_waiting(theap, p);
    bin_set_current(&theap->bins[p->bin], p);
}

/* Called when a superblock's count has fallen to 0. Either it waits and is now less full than its group; or it is current and
 * many cells have come back: then it makes way for a fuller one that waits, or a block that lives long, made after a peak,
 * would keep one alive that the peak left nearly empty. An empty current superblock stays where there is no other. Not NM_COLD: gcc would take the fast path that calls it for cold, too. */
__attribute__((noinline)) void nm__superblock_trip(nm__page *p) {
    nm__theap *theap = p->theap;
    nm__bin *b = &theap->bins[p->bin];
    if (p == b->current) {
        nm__page *other = theap_fullest(theap, p->bin);
        uint32_t used = superblock_used(b, p);
        if (other == NULL || (used != 0 && other->group >= group_for(&p->cells, used))) {
            superblock_ask_later(&p->cells);
            if (++theap->trips % NM_HEAP_TICK_TRIPS == 0) nm__region_tick();
            return;
        }
        bin_take_current(b);
        bin_promote(theap, other);
    } else {
        superblock_stop_waiting(theap, p);
    }
    if (nm__cells_used(&p->cells) != 0) superblock_wait(theap, p);
    else superblock_retire(theap->heap, p);
}

void nm__superblock_give(void *ptr, nm__page *p) {
    if (nm__cells_give(&p->cells, ptr, p->theap->heap->key)) nm__superblock_trip(p);
}

void nm__theap_drain(nm__theap *theap) {
    for (void *ptr = nm__remote_take(&theap->remote), *next; ptr != NULL; ptr = next) {
        next = nm__link(theap->heap->key, ptr, nm__peek(ptr));
        nm__superblock_give(ptr, nm__page_of(ptr));
    }
}

void nm__theap_retire_empty(nm__theap *theap) {
    for (size_t bin = 1; bin < NM_BINS; bin++) {
        nm__bin *b = &theap->bins[bin];
        const nm__page *p = bin_current(b);
        if (p != NULL && superblock_used(b, p) == 0) superblock_retire(theap->heap, bin_take_current(b));
    }
}

/* Finds the bin a current superblock with a free cell: of those that wait one of the fullest, so that others become empty
 * (Berger, McKinley, Blumofe and Wilson 2000, Hoard). false: none has one. */
static bool theap_refill(nm__theap *theap, size_t bin) {
    nm__bin *b = &theap->bins[bin];
    nm__page *p = bin_current(b);
    if (p != NULL) {
        if (p->cells.free != NULL || superblock_extend(theap->heap, p)) return true;
        superblock_wait(theap, bin_take_current(b));
    }
    p = theap_fullest(theap, bin);
    if (p == NULL) return false;
    bin_promote(theap, p);
    return p->cells.free != NULL || superblock_extend(theap->heap, p);
}

/* Where nothing else is left: a superblock with a free cell or two. Pre: the bin has no current one. */
static bool theap_scrape(nm__theap *theap, size_t bin) {
    NM_ASSERT(bin_current(&theap->bins[bin]) == NULL);
    for (nm__page *p; (p = theap->waiting[bin][0]) != NULL; superblock_wait_in(theap, p, NM__FULL)) {
        if (p->cells.free != NULL) {
            bin_promote(theap, p);
            return true;
        }
        superblock_stop_waiting(theap, p);
    }
    return false;
}

/* As theap_refill, with a new superblock if there has to be one. */
bool nm__theap_provide(nm__theap *theap, size_t bin, bool quiet) {
    if (theap_refill(theap, bin)) return true;
    nm__theap_drain(theap);
    if (theap_refill(theap, bin)) return true;
    nm_heap *h = theap->heap;
    nm__page *p = nm__heap_try_pages(h, 1, NM__SUPERBLOCK, false, true);
    if (p == NULL && theap_scrape(theap, bin)) return true;
    if (p == NULL) p = nm__heap_take_pages(h, 1, NM__SUPERBLOCK, false, quiet);
    if (p == NULL) return false;
    size_t bytes = NM_SUPERBLOCK;
    if (h->key != 0) {
        bytes -= nm__secure_cell_guard();
        nm__secure_set_guard(p, 1);
    }
    nm__cells_init(&p->cells, nm__bin_sizes[bin], 0, (uint32_t)bytes);
    p->bin = (uint8_t)bin;
    atomic_store_explicit((_Atomic(nm__theap *) *)&p->theap, theap, memory_order_release);
    NM_POISON(nm__page_base(p), bytes);
    bin_set_current(&theap->bins[bin], p);
    return superblock_extend(h, p);
}

void *nm__theap_alloc_slow(nm__theap *theap, size_t bin) {
    return nm__theap_provide(theap, bin, false) ? nm__theap_alloc(theap, bin) : NULL;
}

void nm__superblock_give_aside(nm__theap *theap, void *ptr, nm__page *p) {
    nm__bin *b = &theap->bins[p->bin];
    nm__superblock_give(ptr, p);
    if (p != b->current || superblock_used(b, p) != 0) return; /* where it was retired it is not current any more */
    superblock_retire(theap->heap, bin_take_current(b));
}

static void superblock_drop(nm_heap *h, nm__page *p) {
    if (h->key != 0) {
        NM_UNPOISON(nm__page_base(p), NM_SUPERBLOCK - nm__secure_cell_guard());
        nm__wipe(nm__page_base(p), NM_SUPERBLOCK - nm__secure_cell_guard());
    }
    superblock_retire(h, p);
}

/* Gives all of a thread heap's superblocks back, with whatever is in them, and counts their blocks as freed. Pre: the heap's
 * lock is held, and no other thread uses the thread heap. */
void nm__theap_clear(nm__theap *theap) {
    nm_heap *h = theap->heap;
    NM_ASSERT(nm__is_held(&h->lock));
    atomic_store(&theap->remote, NULL);
    for (size_t bin = 1; bin < NM_BINS; bin++) {
        if (bin_current(&theap->bins[bin]) != NULL) superblock_drop(h, bin_take_current(&theap->bins[bin]));
        for (unsigned group = 0; group <= NM__FULL; group++)
            for (nm__page *p; (p = theap->waiting[bin][group]) != NULL; superblock_drop(h, p))
                superblock_stop_waiting(theap, p);
    }
    nm__set_last(&theap->back, nm__get(&theap->out));
    nm__set_last(&theap->frees, nm__get(&theap->count));
}
