/* The heap's fast paths, inlined where a call would cost as much as the work, and what the engine calls. Not installed.
 *
 * The words: a heap has a *thread heap* for each thread that uses it, and of each bin a thread heap has one *current*
 * superblock, which serves. nativemem.h has the others. What the files of the heap share is in heap/internal.h. */
#ifndef NM__HEAP_H
#define NM__HEAP_H

#include "base/poisson.h"
#include "heap/region.h"
#include "tuning.h"

#pragma GCC visibility push(hidden)

/* Bins that there are. A census has room for more, so that a heap may get some and its layout stays. */
#define NM__BINS 119
_Static_assert(NM__BINS <= NM_BINS, "a census has room for each");

typedef struct nm__bin {
    nm__superblock *current;  /* takes allocations, and is on no list */
    nm__counter served; /* blocks ever served; also what the cells of the current superblock are counted by, so that one
                         * count does */
} nm__bin;

/* A bin's other superblocks wait on lists by how full they are. The last list has those that were found to be full to the
 * last cell. */
#define NM__GROUPS 8
#define NM__FULL NM__GROUPS

/* OWNED by a thread, ORPHANED by one that has ended, DRAINING while a thread that freed into an orphan takes back its
 * cells. */
typedef enum nm__theap_state { NM__THEAP_OWNED, NM__THEAP_ORPHANED, NM__THEAP_DRAINING } nm__theap_state;

/* A thread heap: what one thread has of a heap. It is never freed while its heap lives: when the thread ends it is orphaned
 * as it stands, and the next thread to need one adopts it whole, so that a superblock's thread heap never changes and a free
 * from elsewhere never races with a change of owner.
 * Invariants:
 *   a superblock is its bin's current one, or not empty and on its bin's list for how full it is
 *   every cell on `remote` is of a superblock of the thread heap
 *   a bin that has a superblock is in `opened` */
struct nm__theap {
    nm__bin bins[NM__BINS];
    nm__gate gate; /* of blocks that the inlined way serves, for a profile of the heap's user */
    nm__superblock *waiting[NM__BINS][NM__GROUPS + 1];
    struct {
        const nm__superblock *current;
        uint32_t served, used;
    } looked[NM__BINS]; /* at what there was when current ones were last looked at for idle steps */
    uint64_t opened[(NM__BINS + 63) / 64]; /* a bit for each bin that may have a superblock */
    nm__superblock *spare; /* of 64 KiB, the last one that became empty: kept for its bin, not charged; NULL: none */
    nm_heap *heap;
    nm__theap *next; /* of the heap's */
    void *memory;    /* as it was allocated, to be freed */
    _Atomic uintptr_t thread; /* number of the owner; 0: it has none */
    size_t rest;    /* refusals that look at no superblock that waits */
    unsigned trips; /* how often a current superblock was asked whether it still is the one to serve */
    nm__counter total, count, frees, out, back, peak; /* of the port's calls, by the owner */
    _Alignas(64) nm__remote remote; /* cells that other threads have freed */
    _Atomic int state;
};

/* What stands for "no thread heap yet" and "no superblock yet": everything in it is empty, so that the fast path
 * needs no test of its own. Never written. */
extern nm__superblock nm__no_superblock;
extern nm__theap nm__no_theap;

/* The calling thread's thread heaps. A slot is one heap's alone as long as the heap lives, and is emptied in every thread
 * when the heap goes, so what stands there needs no check. The last slot belongs to no heap and stays empty: a secure heap
 * uses it, and one that finds no other left, so that their calls take the slow paths, which know of canaries and look thread
 * heaps up. */
#define NM__TLS_SLOTS 16
#define NM__CLAIMED_SLOT 0
#define NM__NO_SLOT (NM__TLS_SLOTS - 1)
extern NM_TLS nm__theap *nm__theaps[NM__TLS_SLOTS];

/* ---- for the engine -------------------------------------------------------------------------------- */

/* Gives the heap a slot that is known at compile time. Before its first block; by one heap of the process, and for
 * nothing by a secure one: its threads find nm__no_theap there. */
void nm__heap_claim(nm_heap *h);

/* Heaps that take turns in the claimed slot, each thread by itself. From share on a heap serves malloc's calls only in
 * threads that have entered it last; it charges `also`, too. Detaching orphans the thread's thread heap of it. A heap is
 * destroyed when it holds nothing and no thread is in it. */
void nm__heap_share(nm_heap *h, nm_budget *also); /* before its first block */
void nm__heap_enter(nm_heap *h);
void nm__heap_detach(nm_heap *h); /* the slot is empty then, if the thread was in the heap */
size_t nm__heap_held(const nm_heap *h); /* bytes of its superblocks and spans */
/* The usable bytes of what nm_heap_of finds. Anything but NM_OK: a secure heap's is freed, or written over. */
nm_status nm__heap_measure(const void *ptr, size_t *size);
/* Whether a cell where nm_heap_of finds a block is free, as far as can be seen: other threads may take and free meanwhile.
 * Slow; for callers that have nothing but an address. */
bool nm__heap_is_free(const void *ptr);

/* As nm_heap_malloc and nm_heap_realloc, for callers that may have the block from elsewhere: NULL is no denial yet. */
void *nm__heap_try(nm_heap *h, size_t size);
void *nm__heap_try_calloc(nm_heap *h, size_t bytes);
void *nm__heap_try_realloc(nm_heap *h, void *ptr, size_t size);
/* Whether a block that shrinks stays. Python's strings are written into more than they need and cut to size, and many
 * live long: so no more than a quarter is left over, as with pymalloc. */
NM_INLINE bool nm__wastes_little(size_t size, size_t cell) { return size > cell - cell / NM_HEAP_WASTE_PART; }
/* Pre: size <= cell. */
NM_INLINE bool nm__heap_stays(size_t size, size_t cell) {
    NM_ASSERT(size <= cell);
    return nm__wastes_little(size, cell) || cell <= NM_HEAP_STAYS;
}
/* The superblock whose cell an address of the region is; NULL: of none, it may be a span. */
NM_INLINE nm__superblock *nm__superblock_of_cell(const void *ptr) {
    nm__superblock *sb = nm__superblock_whole(nm__superblock_in(ptr));
    return sb->theap != NULL ? sb : NULL;
}
/* Pre: the start of a block. */
NM_INLINE nm_heap *nm__heap_of_block(const void *ptr) {
    const nm__superblock *sb = nm__superblock_of_cell(ptr);
    NM_ASSERT(sb != NULL || nm__span_at(nm__page_of(ptr)));
    return sb != NULL ? sb->theap->heap : nm__page_of(ptr)->heap;
}

/* malloc's calls with an alignment, of secure heaps alone, which watch the bytes behind a block: a size that is rounded up
 * for it hides some of them. */
void *nm__heap_malloc_at(nm_heap *h, size_t size, size_t align, bool zeroed);
void *nm__heap_realloc_at(nm_heap *h, void *ptr, size_t size, size_t align);

/* ---- slow paths of what follows -------------------------------------------------------------------- */

nm__theap *nm__heap_attach(nm_heap *h); /* NULL: no memory for a thread heap */
void *nm__theap_alloc_slow(nm__theap *theap, size_t bin);
void nm__superblock_trip(nm__superblock *sb);
/* The first argument is not used: it is there so that the fast path has its own where it needs them. */
nm_status nm__heap_free_far(nm_heap *caller, void *ptr, nm__superblock *sb);

/* ---- fast paths ------------------------------------------------------------------------------------ */

extern const uint32_t nm__bin_sizes[NM__BINS];

/* Up to NM__FINE bytes bins are 16 apart: the most that a block of an object or a buffer usually has, so that sizes in turn do
 * not make the processor guess which of two ways comes next (decision 92). Bin 0, of no bytes, never has a cell: its way is the
 * slow one. */
#define NM__FINE 1024
NM_INLINE size_t nm__fine_bin(size_t size) { return (size + 15) >> 4; }
/* Above it they are further apart. By the number of the NM__COARSE bytes in which a size ends. */
#define NM__COARSE 64
extern const uint8_t nm__coarse_bins[NM_CELL_MAX / NM__COARSE];

/* Pre: 1 <= size <= NM_CELL_MAX. */
NM_INLINE size_t nm__bin_of(size_t size) {
    NM_ASSERT(1 <= size && size <= NM_CELL_MAX);
    return size <= NM__FINE ? nm__fine_bin(size) : nm__coarse_bins[(size - 1) / NM__COARSE];
}

/* For NM_ASSERT. */
bool nm__theap_is_mine(const nm__theap *theap);

/* Whether the inlined way has a block. */
NM_INLINE bool nm__theap_has(const nm__theap *theap, size_t bin) {
    return NM_LIKELY(theap->bins[bin].current->cells.free != NULL);
}

/* Pre: the thread heap is the calling thread's and of a heap that is not secure, or nm__no_theap. NULL: take the slow path. */
NM_INLINE void *nm__theap_alloc(nm__theap *theap, size_t bin) {
    NM_ASSERT(nm__theap_is_mine(theap));
    nm__bin *b = &theap->bins[bin];
    nm__superblock *sb = b->current;
    if (NM_UNLIKELY(sb->cells.free == NULL)) return NULL;
    nm__bump(&b->served, 1);
    return nm__cells_pop(&sb->cells, 0);
}

/* Pre: as above. */
NM_INLINE nm_status nm__theap_free(nm_heap *caller, nm__theap *theap, void *ptr, nm__superblock *sb) {
    NM_ASSERT(nm__theap_is_mine(theap));
    if (NM_UNLIKELY(sb->theap != theap)) return nm__heap_free_far(caller, ptr, sb);
    if (NM_UNLIKELY(nm__cells_give(&sb->cells, ptr, 0))) nm__superblock_trip(sb);
    return NM_OK;
}

#pragma GCC visibility pop
#endif
