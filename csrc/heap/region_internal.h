/* What the files of the region share: region.c, free_spans.c, decay.c, placement.c. What the heap calls is in region.h.
 * Everything here is under the region's lock, and sizes are in pages of the region, unless it says bytes. Not installed. */
#ifndef NM__REGION_INTERNAL_H
#define NM__REGION_INTERNAL_H

#include <string.h>

#include "heap/region.h"
#include "tuning.h"

#pragma GCC visibility push(hidden)

#define NM__PAGE_SIZE ((size_t)1 << NM__PAGE_SHIFT)
#define NM__PAGES(bytes) ((bytes) / NM__PAGE_SIZE)
/* Lists of free spans: one for each size below EXACT, then eight for each power of two. */
#define NM__FREE_EXACT 64
#define NM__FREE_LISTS (NM__FREE_EXACT + 8 * 26)
/* Pages whose descriptors are mapped at a time: the part of each table fills pages of the system. */
#define NM__TABLE_UNIT (nm__region_os_page / NM__SUPERBLOCK_ENTRY * NM__SUPERBLOCK_PAGES)
#define NM__TABLE_STEP (4 * NM__TABLE_UNIT)

typedef struct nm__free_lists {
    nm__page *of[NM__FREE_LISTS];
    uint64_t filled[(NM__FREE_LISTS + 63) / 64];
    size_t spans, pages;
} nm__free_lists;

/* The state of the region. Its invariants are at the top of the file that keeps them. */
struct nm__region {
    pthread_mutex_t lock;
    size_t frontier, described; /* pages */
    size_t used, most;          /* pages; most is the most ever used */
    size_t holes;               /* pages */
    nm__free_lists free[NM__AWAY - NM__DIRTY + 1];
    uint32_t oldest, newest; /* of the queue of kept spans: numbers of pages plus 1, 0 for none */
    size_t retain;
    uint64_t decay_ms;
    /* The fewest pages that were kept in each of the last windows of an eighth of the decay time: as many were not
     * needed for that long, whichever they are. And how many were needed: taken while kept, or taken back from the
     * system soon after they had been given to it. */
    size_t low[NM_DECAY_WINDOWS], idle; /* idle: of them are to go */
    size_t needed[NM_DECAY_WINDOWS], demand;
    unsigned window;
    _Atomic uint64_t window_ends_ms;
    /* Pages that lately went back because others were kept, and because they made way; those of the latter that were
     * needed again within the decay time; and how many may therefore be resident beyond the most ever used. */
    size_t gone, made_way, regretted, slack;
    bool limited; /* there is a limit on address space */
};
extern struct nm__region nm__region;

NM_INLINE size_t nm__min_size(size_t a, size_t b) { return a < b ? a : b; }
NM_INLINE size_t nm__max_size(size_t a, size_t b) { return a > b ? a : b; }
NM_INLINE size_t nm__round_up(size_t n, size_t to) { return (n + to - 1) / to * to; }

NM_INLINE bool nm__kind_is_mapped(nm__kind kind) { return kind != NM__HOLE && kind < NM__ROOM; }
NM_INLINE bool nm__kind_is_kept(nm__kind kind) { return kind == NM__DIRTY || kind == NM__SPARE; }
NM_INLINE bool nm__kind_is_room(nm__kind kind) { return kind == NM__SPARE || kind == NM__ROOM; }
NM_INLINE bool nm__page_is_free(const nm__page *p) { return p->kind >= NM__DIRTY; }
NM_INLINE size_t nm__bytes_of(size_t pages) { return pages << NM__PAGE_SHIFT; }
NM_INLINE nm__free_lists *nm__free_lists_of(nm__kind kind) { return &nm__region.free[kind - NM__DIRTY]; }
NM_INLINE size_t nm__free_pages_of(nm__kind kind) { return nm__free_lists_of(kind)->pages; }
/* Dirty and spare: resident, though no block is in them. */
NM_INLINE size_t nm__kept_pages(void) { return nm__free_pages_of(NM__DIRTY) + nm__free_pages_of(NM__SPARE); }

/* ---- free_spans.c ---- */

unsigned nm__free_span_list_index(size_t n);
void nm__free_span_enlist(nm__page *p, size_t n, nm__kind kind); /* unmerged */
void nm__free_span_unlist(nm__page *p);
/* Merges with free neighbours of the same kind, lists the result, and returns it. */
nm__page *nm__free_span_put(nm__page *p, size_t n, nm__kind kind);
/* Room behind a live span becomes free for all. Returns the span that it is in then. */
nm__page *nm__free_span_open_room(nm__page *room);
/* Of n pages at least, or NULL. */
nm__page *nm__free_span_find(nm__kind kind, size_t n);
/* One in which n pages start at a multiple of align pages, or NULL. */
nm__page *nm__free_span_find_aligned(nm__kind kind, size_t n, size_t align);
/* The free span that is kept and changed longest ago, or NULL. */
nm__page *nm__free_span_oldest(void);
/* One with most pages, or nearly so, or NULL. */
nm__page *nm__free_span_find_large(nm__kind kind);
/* Takes the first n pages of a free span off the lists, or the last. Pre: it has as many. */
nm__page *nm__free_span_cut(nm__page *p, size_t n);
nm__page *nm__free_span_cut_back(nm__page *p, size_t n);
/* Takes n pages that start at a multiple of align pages, the first that do. Pre: there are such. */
nm__page *nm__free_span_cut_aligned(nm__page *p, size_t n, size_t align);
const char *nm__free_span_check(nm__kind kind); /* what is broken, or NULL */

/* ---- region.c: what is mapped ---- */

/* How many pages are mapped at a time. As many may stay mapped that are clean. */
size_t nm__region_step(void);
/* Moves the frontier by n pages, or up to `generous`. They are away. false: there are no more addresses. */
bool nm__region_reach_out(size_t n, size_t generous);
/* A span of at least n pages that are away, or NULL. */
nm__page *nm__region_find_away(size_t n, size_t generous);
/* Maps the first pages of a span that is away: as many as are generous, or those that have to be. */
bool nm__region_map_some(nm__page *p, size_t n, size_t generous);
/* Pages never used, off the lists; or NULL. align: as of nm__region_take. */
nm__page *nm__region_take_fresh(size_t n, size_t align);
/* Pre: the pages are mapped, and on no list. false: nothing has changed. */
bool nm__region_unmap(nm__page *p, size_t n);
void nm__region_put_clean(nm__page *p, size_t n);
/* The memory goes back to the system, with the addresses if they are many. Pre: as of unmap. false: the system would not have
 * it, and the pages are dirty. */
bool nm__region_let_go(nm__page *p, size_t n);
/* Gives up all that is free: memory, addresses, and room. false: there was nothing. */
bool nm__region_release_all(void);

/* ---- decay.c ---- */

void nm__decay_start(void); /* as if nothing had been kept */
/* Looks at the clock. To be called before the number of kept pages changes: it has been the same since the last change. */
void nm__decay_advance(void);
/* Purges what is due, a few spans at most. */
void nm__decay_some(void);
void nm__decay_purge_all(void); /* but what the system will not have now */
/* So many kept pages were taken for use. */
void nm__decay_note_need(size_t n);
/* So many pages that are not resident are about to be used: what is kept makes way, so that never more is resident than the
 * program once had in use, and some slack. Sizes that do not fit into each other must not add up. */
void nm__decay_make_way(size_t n);
bool nm__decay_wants_watcher(void);
void nm__decay_start_watcher(void); /* not under the lock: making a thread takes memory */

#pragma GCC visibility pop
#endif
