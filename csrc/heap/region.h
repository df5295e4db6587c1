/* The region: one range of addresses per process, handed out in pages of 64 KiB. It is mapped as far as it is needed.
 *
 * A descriptor for each page lies below the region, 64 bytes each, so that descriptors of neighbouring
 * superblocks do not share cache sets as headers at 64 KiB steps would.
 */
#ifndef NM__REGION_H
#define NM__REGION_H

#include "alloc/cells.h"
#include "nativemem/heap.h"

#define NM__PAGE_SHIFT 16

#pragma GCC visibility push(hidden)

typedef enum nm__kind {
    NM__UNUSED = 0,     /* beyond the frontier, or inside a span */
    NM__SUPERBLOCK = 1, /* cells */
    NM__SPAN = 2,       /* the first page of a live span */
    NM__HOLE = 3,       /* a page where something else was mapped when it was to be */
    NM__DIRTY = 4,      /* first and last page of a free span whose memory is kept */
    NM__SPARE = 5,      /* the same, for the live span before it to grow into */
    NM__CLEAN = 6,      /* first and last page of a free span that reads as zero */
    NM__ROOM = 7,       /* the same of one that is not mapped, for the live span before it to grow into */
    NM__AWAY = 8        /* the same, for all */
} nm__kind;

typedef struct nm__theap nm__theap; /* a heap's share of one thread; heap.c */

typedef struct nm__page {
    nm__cells cells;  /* superblock */
    nm__theap *theap;   /* superblock: whose; NULL for everything else, which the fast path relies on */
    struct nm__page *prev, *next; /* one list at a time: thread heap's, heap's spans, or free spans of a size */
    uint32_t npages;  /* span, free span (first and last page) */
    uint8_t kind;
    uint8_t bin;      /* superblock */
    uint8_t group;    /* superblock that is not a head: which of its bin's lists it is on */
    bool zero : 1;    /* span: its memory reads as zero */
    bool mapped : 1;  /* each page: a block that lies in one that is not is of another allocator */
} nm__page;
_Static_assert(sizeof(nm__page) == 64, "one cache line");

/* A free dirty span also stands in the queue by when it changed last; the links use the place of the cells. */
typedef struct nm__aged {
    nm__page *older, *newer;
} nm__aged;
_Static_assert(sizeof(nm__aged) <= sizeof(nm__cells), "the queue's links use the cells' place");

/* Set once by nm_region_init, constant after. */
extern uintptr_t nm__region_base;
extern size_t nm__region_pages; /* 0: there is no region */
extern size_t nm__region_os_page; /* bytes: the system's page, at most one of the region's */
extern nm__page *nm__pages;
extern uintptr_t nm__page_bias; /* where the descriptor of address 0 would lie: the fast path need not subtract the base */

extern _Atomic size_t nm__region_reach; /* pages below the frontier: only those have a descriptor. Never falls */
/* An instruction less than an atomic load and a compare: compilers do not make one of the two. */
#if defined(__x86_64__) && !defined(NM__TSAN)
NM_INLINE size_t nm__region_reached(void) { return *(const size_t *)(const void *)&nm__region_reach; }
#else
NM_INLINE size_t nm__region_reached(void) { return nm__get(&nm__region_reach); }
#endif
/* NULL: no block of the region's. Pre: a block, so its making is seen. */
NM_INLINE nm__page *nm__page_of(const void *ptr) {
    size_t index = ((uintptr_t)ptr - nm__region_base) >> NM__PAGE_SHIFT;
    return NM_LIKELY(index < nm__region_reached()) ? &nm__pages[index] : NULL;
}
/* The same, where other allocators may have blocks in a part of the region that is not mapped. */
NM_INLINE nm__page *nm__page_of_block(const void *ptr) {
    nm__page *p = nm__page_of(ptr);
    return p != NULL && NM_LIKELY(p->theap != NULL || p->kind == NM__SPAN) ? p : NULL;
}
/* For addresses that may be anything. */
NM_INLINE nm__page *nm__page_at(const void *ptr) {
    size_t index = ((uintptr_t)ptr - nm__region_base) >> NM__PAGE_SHIFT;
    return index < atomic_load_explicit(&nm__region_reach, memory_order_acquire) ? &nm__pages[index] : NULL;
}
/* What a page is may be asked while it becomes something else. Orders: the kind of a span, and the thread heap of a superblock,
 * are stored last and release; read with these two they acquire, and what is said beside them is there. */
NM_INLINE nm__theap *nm__theap_at(const nm__page *p) {
    return atomic_load_explicit((_Atomic(nm__theap *) *)(uintptr_t)&p->theap, memory_order_acquire);
}
NM_INLINE bool nm__span_at(const nm__page *p) {
    return atomic_load_explicit((_Atomic uint8_t *)(uintptr_t)&p->kind, memory_order_acquire) == NM__SPAN;
}
bool nm__region_has(const void *ptr); /* whether it is the region's memory that is mapped there; takes the lock */
/* Pre: an address of the region. */
NM_INLINE nm__page *nm__page_in(const void *ptr) {
    NM_ASSERT(((uintptr_t)ptr - nm__region_base) >> NM__PAGE_SHIFT < nm__region_reached());
    return (nm__page *)(nm__page_bias + ((uintptr_t)ptr >> NM__PAGE_SHIFT) * sizeof(nm__page));
}
NM_INLINE char *nm__page_base(const nm__page *p) {
    return (char *)nm__region_base + ((size_t)(p - nm__pages) << NM__PAGE_SHIFT);
}

/* Takes n contiguous pages; kind and npages of the first are set, zero says whether they read as zero.
 * want_zero prefers such pages. NULL: the region, or the system, has no more. */
nm__page *nm__region_take(size_t n, nm__kind kind, bool want_zero);
void nm__region_give(nm__page *first, size_t n);
/* Takes a page that cannot be given back out of use, for good. */
void nm__region_withdraw(nm__page *p);
/* Grows a span of n pages to more where the pages behind it are free. false: they are not, or it had better move. */
bool nm__region_extend(nm__page *first, size_t n, size_t more);
/* Moves a span of n pages to one of so many, more than n, with room behind it, and gives the old one back. What is
 * copied is not resident twice, or was resident before. NULL: there is no such place; nothing has changed. */
nm__page *nm__region_move(nm__page *first, size_t n, size_t to);

extern nm__counter nm__region_dirty; /* bytes of dirty spans */
/* From time to time, where nothing comes and goes but cells: what is kept decays then, too. */
void nm__region_tick_slowly(void);
NM_INLINE void nm__region_tick(void) {
    if (nm__get(&nm__region_dirty) != 0) nm__region_tick_slowly();
}

const char *nm__region_check(void);

/* From now on free spans decay in a process that does nothing, too: a thread sees to that while there are some. */
void nm__region_watch(void);
bool nm__region_watched(void); /* there is one at the moment */

/* fork: hold the lock across it, and end the thread. */
void nm__region_before_fork(void);
void nm__region_after_fork(bool in_child);
void nm__region_lock(void);
void nm__region_unlock(void);

#pragma GCC visibility pop
#endif
