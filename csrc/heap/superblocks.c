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
 *   superblock_patience cells at most
 *   the thread heap's spare is of 64 KiB, empty, of no thread heap, and has shed nothing
 *   what a superblock is charged with: steps.c */
#include "heap/internal.h"

/* A current superblock counts the cells that come back by itself, and those that it serves by its bin's counter: the two
 * halves of a pair so do not wait for one another. Each time that so many cells have come back, nm__superblock_trip asks
 * whether it still is the one to serve. */
static uint32_t superblock_patience(const nm__cells *c) {
    return c->capacity < NM_HEAP_PATIENCE * NM_HEAP_PATIENCE_PART ? NM_HEAP_PATIENCE : c->capacity / NM_HEAP_PATIENCE_PART;
}

static uint32_t bin_served(const nm__bin *b) { return (uint32_t)nm__get(&b->served); }

static uint32_t superblock_used(const nm__bin *b, const nm__superblock *sb) {
    return nm__cells_used(&sb->cells) + (sb == b->current ? bin_served(b) : 0);
}

/* Fewer free cells than this put a superblock into group 0. That group is not looked at for each cell that comes back: with
 * blocks freed all over a large heap, superblocks would change lists with each free, and again with each allocation. What
 * waits there is at most a 32nd of a superblock, and theap_scrape finds it before a block is refused: it looks at each once,
 * and puts those that are full aside until a cell comes back. So a refusal searches none of their lists twice. */
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

static size_t superblock_pages(const nm__superblock *sb) { return nm__bin_superblock(sb->bin) / NM_PAGE; }

/* What goes through a thread heap passes over the bins that it does not use: most threads use few of them. */
static void theap_mark_opened(nm__theap *theap, size_t bin) { theap->opened[bin / 64] |= (uint64_t)1 << bin % 64; }
static bool theap_is_opened(const nm__theap *theap, size_t bin) { return (theap->opened[bin / 64] >> bin % 64 & 1) != 0; }

/* The lowest bin from there on that may have a superblock; NM__BINS: there is none. */
static size_t theap_opened_from(const nm__theap *theap, size_t bin) {
    for (uint64_t rest; bin < NM__BINS; bin = (bin / 64 + 1) * 64)
        if ((rest = theap->opened[bin / 64] >> bin % 64) != 0) return bin + (size_t)__builtin_ctzll(rest);
    return NM__BINS;
}
#define EACH_OPENED(bin, theap)               \
    size_t bin = theap_opened_from(theap, 0); \
    bin < NM__BINS;                           \
    bin = theap_opened_from(theap, bin + 1)

const char *nm__superblock_check(const nm__superblock *sb, const nm__theap *theap, size_t bin) {
    const nm__bin *b = &theap->bins[bin];
    uint32_t used = superblock_used(b, sb);
    if (!theap_is_opened(theap, bin)) return "a bin's superblock would be passed over";
    if (sb->theap != theap || nm__page_of(nm__superblock_base(sb))->kind != NM__SUPERBLOCK || sb->bin != bin)
        return "a superblock is another thread heap's or bin's";
    if (!nm__cells_check(&sb->cells, used + nm__steps_cells_shed(sb), nm__superblock_base(sb), 0, theap->heap->key))
        return "a superblock's cells do not add up";
    const char *broken = nm__steps_check(sb, theap->heap->key != 0);
    if (broken != NULL) return broken;
    if (sb == b->current)
        return sb->cells.count == 0 || sb->cells.count > superblock_patience(&sb->cells)
                   ? "a current superblock's count has run out"
                   : NULL;
    if (used == 0) return "an empty superblock was not returned";
    if (sb->group == NM__FULL ? used != sb->cells.capacity : sb->group != group_for(&sb->cells, used))
        return "a superblock is on the wrong list";
    if (sb->next != NULL && sb->next->prev != sb) return "a list of superblocks is broken";
    if (sb->cells.count != used - group_floor(&sb->cells, sb->group)) return "a superblock reports where it should not";
    return NULL;
}

const char *nm__spare_check(const nm__theap *theap) {
    const nm__superblock *sb = theap->spare;
    if (sb == NULL) return NULL;
    if (sb->theap != NULL || nm__page_of(nm__superblock_base(sb))->kind != NM__SUPERBLOCK || theap->heap->slot == NM__NO_SLOT)
        return "a spare superblock is in use";
    if (sb->cells.free == NULL || !nm__cells_check(&sb->cells, 0, nm__superblock_base(sb), 0, 0))
        return "a spare superblock is not empty";
    return NULL;
}

static nm__superblock *bin_current(const nm__bin *b) { return b->current == &nm__no_superblock ? NULL : b->current; }

static void superblock_ask_later(nm__cells *c) { nm__cells_report_at(c, nm__cells_used(c) - superblock_patience(c)); }

static void bin_set_current(nm__bin *b, nm__superblock *sb) {
    b->current = sb;
    superblock_ask_later(&sb->cells);
    sb->cells.apart -= bin_served(b);
}

/* Pre: there is one. */
static nm__superblock *bin_take_current(nm__bin *b) {
    NM_ASSERT(bin_current(b) != NULL);
    nm__superblock *sb = b->current;
    sb->cells.apart += bin_served(b);
    b->current = &nm__no_superblock;
    return sb;
}

/* Pre: sb is not current, on no list, and not empty. */
static void superblock_wait_in(nm__theap *theap, nm__superblock *sb, unsigned group) {
    NM_ASSERT(sb != theap->bins[sb->bin].current && nm__cells_used(&sb->cells) != 0);
    sb->group = (uint8_t)group;
    sb->looked = 0;
    nm__cells_report_at(&sb->cells, group_floor(&sb->cells, group));
    nm__superblock_push(&theap->waiting[sb->bin][group], sb);
}

static void superblock_wait(nm__theap *theap, nm__superblock *sb) {
    superblock_wait_in(theap, sb, group_for(&sb->cells, nm__cells_used(&sb->cells)));
}

static void superblock_stop_waiting(nm__theap *theap, nm__superblock *sb) {
    nm__superblock_pull(&theap->waiting[sb->bin][sb->group], sb);
}

/* false: no cell is left that was never used or shed, or it is refused. */
static bool superblock_extend(nm_heap *h, nm__superblock *sb) {
    return h->key != 0 ? nm__secure_extend(h, &sb->cells, nm__superblock_base(sb)) : nm__steps_extend(h, sb);
}

static bool superblock_serves(nm_heap *h, nm__superblock *sb) { return sb->cells.free != NULL || superblock_extend(h, sb); }

static void superblock_mark_parts(nm__superblock *sb, size_t n, bool are) {
    for (size_t i = 1; i < n; i++) {
        _Atomic uint8_t *part = (_Atomic uint8_t *)&((nm__superblock *)((uintptr_t)sb + i * NM__SUPERBLOCK_ENTRY))->part;
        atomic_store_explicit(part, are ? (uint8_t)i : 0, memory_order_relaxed);
    }
}

void nm__theap_drop_spare(nm__theap *theap) {
    nm__superblock *sb = theap->spare;
    theap->spare = NULL;
    if (sb != NULL) nm__region_give(nm__page_of(nm__superblock_base(sb)), NM__SUPERBLOCK_PAGES);
}

/* Blocks that come and go in batches empty a superblock and need one again with each batch: the last one is kept, with its
 * cells as they are linked (decision 92). To the heap it is gone: it is not charged, and its cells are no blocks. Heaps without
 * a slot keep none: there may be any number of them, and secure ones are among them. */
static bool theap_keeps_spare(const nm__theap *theap, const nm__superblock *sb) {
    return theap->heap->slot != NM__NO_SLOT && sb->shed == 0 && superblock_pages(sb) == NM__SUPERBLOCK_PAGES;
}
static void theap_keep_spare(nm__theap *theap, nm__superblock *sb) {
    NM_ASSERT(theap_keeps_spare(theap, sb) && nm__cells_used(&sb->cells) == 0);
    if (theap->spare != NULL) nm__theap_drop_spare(theap);
    sb->theap = NULL;
    theap->spare = sb;
    nm__heap_discharge(theap->heap, sb->charged);
}

/* false: there is none of the bin, or its charge is refused. Pre: the bin has no current one. */
static bool theap_use_spare(nm__theap *theap, size_t bin) {
    nm__superblock *sb = theap->spare;
    NM_ASSERT(bin_current(&theap->bins[bin]) == NULL);
    if (sb == NULL || sb->bin != bin || !nm__heap_charge(theap->heap, sb->charged, true)) return false;
    nm__heap_settle(theap->heap);
    theap->spare = NULL;
    atomic_store_explicit((_Atomic(nm__theap *) *)&sb->theap, theap, memory_order_release);
    bin_set_current(&theap->bins[bin], sb);
    return true;
}

static void superblock_retire(nm_heap *h, nm__superblock *sb) {
    size_t charged = sb->charged, parts = superblock_pages(sb) / NM__SUPERBLOCK_PAGES;
    nm__page *p = nm__page_of(nm__superblock_base(sb));
    sb->theap = NULL;
    superblock_mark_parts(sb, parts, false);
    size_t open = nm__secure_unguard(h, p);
    if (open != 0) nm__region_give(p, open);
    nm__heap_discharge(h, charged);
}

/* Of the superblocks that wait and have cells to give one of the fullest, or NULL. */
static nm__superblock *theap_fullest(const nm__theap *theap, size_t bin) {
    for (unsigned group = 1; group < NM__GROUPS; group++)
        if (theap->waiting[bin][group] != NULL) return theap->waiting[bin][group];
    return NULL;
}

static void bin_promote(nm__theap *theap, nm__superblock *sb) {
    superblock_stop_waiting(theap, sb);
    bin_set_current(&theap->bins[sb->bin], sb);
}

/* Called when a superblock's count has fallen to 0. Either it waits and is now less full than its group; or it is current and
 * many cells have come back: then it makes way for a fuller one that waits, or a block that lives long, made after a peak,
 * would keep one alive that the peak left nearly empty. An empty current superblock stays where there is no other. Not NM_COLD: gcc would take the fast path that calls it for cold, too. */
__attribute__((noinline)) void nm__superblock_trip(nm__superblock *sb) {
    nm__theap *theap = sb->theap;
    nm__bin *b = &theap->bins[sb->bin];
    if (sb == b->current) {
        nm__superblock *other = theap_fullest(theap, sb->bin);
        uint32_t used = superblock_used(b, sb);
        if (other == NULL || (used != 0 && other->group >= group_for(&sb->cells, used))) {
            superblock_ask_later(&sb->cells);
            if (++theap->trips % NM_HEAP_TICK_TRIPS == 0) nm__region_tick();
            return;
        }
        bin_take_current(b);
        bin_promote(theap, other);
    } else {
        superblock_stop_waiting(theap, sb);
    }
    if (nm__cells_used(&sb->cells) != 0) superblock_wait(theap, sb);
    else if (theap_keeps_spare(theap, sb)) theap_keep_spare(theap, sb);
    else superblock_retire(theap->heap, sb);
}

void nm__superblock_give(void *ptr, nm__superblock *sb) {
    if (nm__cells_give(&sb->cells, ptr, sb->theap->heap->key)) nm__superblock_trip(sb);
}

NM_INLINE void theap_take_back(nm__theap *theap, bool aside) {
    for (void *ptr = nm__remote_take(&theap->remote), *next; ptr != NULL; ptr = next) {
        next = nm__link(theap->heap->key, ptr, nm__peek(ptr));
        if (aside) nm__superblock_give_aside(theap, ptr, nm__superblock_of_cell(ptr));
        else nm__superblock_give(ptr, nm__superblock_of_cell(ptr));
    }
}
void nm__theap_drain(nm__theap *theap) { theap_take_back(theap, false); }
void nm__theap_drain_aside(nm__theap *theap) { theap_take_back(theap, true); }

static bool theap_has_bin(const nm__theap *theap, size_t bin) {
    bool waits = false;
    for (unsigned group = 0; group <= NM__FULL; group++) waits = waits || theap->waiting[bin][group] != NULL;
    return waits || bin_current(&theap->bins[bin]) != NULL;
}

void nm__theap_retire_empty(nm__theap *theap) {
    nm__theap_drop_spare(theap);
    for (EACH_OPENED(bin, theap)) {
        nm__bin *b = &theap->bins[bin];
        const nm__superblock *sb = bin_current(b);
        if (sb != NULL && superblock_used(b, sb) == 0) superblock_retire(theap->heap, bin_take_current(b));
        if (!theap_has_bin(theap, bin)) theap->opened[bin / 64] &= ~((uint64_t)1 << bin % 64);
    }
}

/* Cells that came or went since the bin's current superblock was looked at last. Pre: it has one. */
static bool bin_has_changed(nm__theap *theap, size_t bin) {
    const nm__bin *b = &theap->bins[bin];
    uint32_t served = bin_served(b), used = superblock_used(b, b->current);
    if (theap->looked[bin].current == b->current && theap->looked[bin].served == served && theap->looked[bin].used == used)
        return false;
    theap->looked[bin].current = b->current;
    theap->looked[bin].served = served;
    theap->looked[bin].used = used;
    return true;
}

/* One that waits gets no new cells, so it is as it was if it has as many: free lists are followed only where cells came back
 * since the last time. Returns how many of those that wait were looked at. */
static size_t theap_shed(nm__theap *theap, bool waiting_too) {
    nm_heap *h = theap->heap;
    size_t n = 0;
    if (h->key != 0) return 0;
    for (EACH_OPENED(bin, theap)) {
        nm__bin *b = &theap->bins[bin];
        nm__superblock *current = bin_current(b);
        if (current != NULL && bin_has_changed(theap, bin)) nm__superblock_shed(h, current, superblock_used(b, current));
        for (unsigned group = 1; waiting_too && group < NM__GROUPS; group++)
            for (nm__superblock *sb = theap->waiting[bin][group]; sb != NULL; sb = sb->next, n++)
                if (sb->looked != nm__cells_used(&sb->cells)) nm__superblock_shed(h, sb, nm__cells_used(&sb->cells));
    }
    return n;
}

void nm__theap_give_up(nm__theap *theap) {
    nm__theap_drain(theap);
    nm__theap_retire_empty(theap);
    (void)theap_shed(theap, true);
}

void nm__theap_make_room(nm__theap *theap) {
    size_t held = nm__heap_held(theap->heap);
    nm__theap_drain(theap);
    nm__theap_retire_empty(theap);
    bool all = theap->rest == 0;
    size_t looked = theap_shed(theap, all);
    if (nm__heap_held(theap->heap) != held) theap->rest = 0;
    else theap->rest = all ? looked / NM_HEAP_LOOKS_A_REFUSAL : theap->rest - 1;
}

/* Finds the bin a current superblock with a free cell: of those that wait one of the fullest, so that others become empty
 * (Berger, McKinley, Blumofe and Wilson 2000, Hoard). false: none has one. */
static bool theap_refill(nm__theap *theap, size_t bin) {
    nm__bin *b = &theap->bins[bin];
    nm__superblock *sb = bin_current(b);
    if (sb != NULL) {
        if (superblock_serves(theap->heap, sb)) return true;
        superblock_wait(theap, bin_take_current(b));
    }
    sb = theap_fullest(theap, bin);
    if (sb == NULL) return false;
    bin_promote(theap, sb);
    if (superblock_serves(theap->heap, sb)) return true;
    superblock_wait(theap, bin_take_current(b)); /* what it would be charged with was refused */
    return false;
}

/* Where nothing else is left: a superblock with a free cell or two, or one that is not charged for more than it has. Pre: the
 * bin has no current one. */
static bool theap_scrape(nm__theap *theap, size_t bin) {
    NM_ASSERT(bin_current(&theap->bins[bin]) == NULL);
    for (unsigned group = 1; group < NM__GROUPS; group++)
        for (nm__superblock *sb = theap->waiting[bin][group]; sb != NULL; sb = sb->next)
            if (sb->cells.free != NULL) {
                bin_promote(theap, sb);
                return true;
            }
    for (nm__superblock *sb; (sb = theap->waiting[bin][0]) != NULL; superblock_wait_in(theap, sb, NM__FULL)) {
        if (sb->cells.free != NULL) {
            bin_promote(theap, sb);
            return true;
        }
        superblock_stop_waiting(theap, sb);
    }
    return false;
}

/* A new current superblock. false: refused. Pre: the bin has none. */
static bool theap_open(nm__theap *theap, size_t bin, bool quiet) {
    NM_ASSERT(bin_current(&theap->bins[bin]) == NULL);
    if (theap_use_spare(theap, bin)) return true; /* its cells that were never used are charged for as ever */
    nm_heap *h = theap->heap;
    size_t bytes = nm__bin_superblock(bin), npages = bytes / NM_PAGE, parts = npages / NM__SUPERBLOCK_PAGES;
    nm__cells cells;
    if (h->key != 0) bytes -= nm__secure_cell_guard();
    nm__cells_init(&cells, nm__bin_sizes[bin], 0, (uint32_t)bytes);
    bool secure = h->key != 0, fills = theap->waiting[bin][0] != NULL || theap->waiting[bin][NM__FULL] != NULL;
    bool ahead = !secure && fills && npages == NM__SUPERBLOCK_PAGES; /* of larger cells few are served between two charges */
    size_t charged = secure || ahead ? npages : nm__steps_charge(&cells);
    nm__page *p = nm__heap_try_superblock(h, npages, charged, quiet || ahead);
    if (p == NULL && ahead) p = nm__heap_try_superblock(h, npages, charged = nm__steps_charge(&cells), quiet);
    if (p == NULL) return false;
    nm__superblock *sb = nm__superblock_in(nm__page_base(p));
    if (secure) nm__secure_set_guard(p);
    sb->cells = cells;
    sb->bin = (uint8_t)bin;
    sb->charged = (uint8_t)charged;
    sb->shed = 0;
    superblock_mark_parts(sb, parts, true);
    atomic_store_explicit((_Atomic(nm__theap *) *)&sb->theap, theap, memory_order_release);
    NM_POISON(nm__superblock_base(sb), bytes);
    theap_mark_opened(theap, bin);
    bin_set_current(&theap->bins[bin], sb);
    if (secure) return nm__secure_extend(h, &sb->cells, nm__superblock_base(sb));
    return nm__cells_extend(&sb->cells, nm__superblock_base(sb)); /* paid for above */
}

/* As theap_refill, with a new superblock if there has to be one; what other threads have freed is used before cells that never
 * were. */
bool nm__theap_provide(nm__theap *theap, size_t bin, bool quiet) {
    nm__theap_drain(theap);
    if (theap_refill(theap, bin) || theap_open(theap, bin, true) || theap_scrape(theap, bin)) return true;
    nm__heap_make_room(theap->heap);
    if (theap_refill(theap, bin) || theap_open(theap, bin, quiet)) return true;
    if (!quiet) nm__heap_count_failure(theap->heap);
    return false;
}

void *nm__theap_alloc_slow(nm__theap *theap, size_t bin) {
    return nm__theap_provide(theap, bin, false) ? nm__theap_alloc(theap, bin) : NULL;
}

void nm__superblock_give_aside(nm__theap *theap, void *ptr, nm__superblock *sb) {
    nm__bin *b = &theap->bins[sb->bin];
    nm__superblock_give(ptr, sb);
    nm__theap_drop_spare(theap);
    if (sb != b->current || superblock_used(b, sb) != 0) return; /* where it was retired it is not current any more */
    superblock_retire(theap->heap, bin_take_current(b));
}

static void superblock_drop(nm_heap *h, nm__superblock *sb) {
    if (h->key != 0) {
        size_t bytes = nm__bin_superblock(sb->bin) - nm__secure_cell_guard();
        NM_UNPOISON(nm__superblock_base(sb), bytes);
        nm__wipe(nm__superblock_base(sb), bytes);
    }
    superblock_retire(h, sb);
}

/* Gives all of a thread heap's superblocks back, with whatever is in them, and counts their blocks as freed. Pre: the heap's
 * lock is held, and no other thread uses the thread heap. */
void nm__theap_clear(nm__theap *theap) {
    nm_heap *h = theap->heap;
    NM_ASSERT(nm__is_held(&h->lock));
    atomic_store(&theap->remote, NULL);
    nm__theap_drop_spare(theap);
    for (EACH_OPENED(bin, theap)) {
        if (bin_current(&theap->bins[bin]) != NULL) superblock_drop(h, bin_take_current(&theap->bins[bin]));
        for (unsigned group = 0; group <= NM__FULL; group++)
            for (nm__superblock *sb; (sb = theap->waiting[bin][group]) != NULL; superblock_drop(h, sb))
                superblock_stop_waiting(theap, sb);
    }
    nm__set_last(&theap->back, nm__get(&theap->out));
    nm__set_last(&theap->frees, nm__get(&theap->count));
}
