/* The region: one range of addresses per process, handed out in pages of 4 KiB. It is mapped as far as it is needed.
 *
 * Two tables of descriptors lie below it: one entry for each page, of which only the first and the last of a span are used,
 * and one for each 64 KiB, where superblocks start. So the fast path finds a block's superblock by its address, and the
 * descriptors of neighbouring superblocks do not share cache sets as headers at 64 KiB steps would.
 */
#ifndef NM__REGION_H
#define NM__REGION_H

#include "alloc/cells.h"
#include "nativemem/heap.h"

#define NM__PAGE_SHIFT 12
#define NM__SUPERBLOCK_SHIFT 16
#define NM__SUPERBLOCK_PAGES ((size_t)1 << (NM__SUPERBLOCK_SHIFT - NM__PAGE_SHIFT))
_Static_assert((size_t)1 << NM__PAGE_SHIFT == NM_PAGE && (size_t)1 << NM__SUPERBLOCK_SHIFT == NM_SUPERBLOCK, "one size each");

#pragma GCC visibility push(hidden)

typedef enum nm__kind {
    NM__UNUSED = 0,     /* beyond the frontier, or inside a span */
    NM__SUPERBLOCK = 1, /* first page of a superblock */
    NM__SPAN = 2,       /* the first page of a live span */
    NM__HOLE = 3,       /* a page where something else was mapped when it was to be */
    NM__DIRTY = 4,      /* first and last page of a free span whose memory is kept */
    NM__SPARE = 5,      /* the same, for the live span before it to grow into */
    NM__CLEAN = 6,      /* first and last page of a free span that reads as zero */
    NM__ROOM = 7,       /* the same of one that is not mapped, for the live span before it to grow into */
    NM__AWAY = 8        /* the same, for all */
} nm__kind;

/* A free span that is kept also stands in the queue by when it changed last; by numbers of pages plus 1, 0 for none. */
typedef struct nm__aged {
    uint32_t older, newer;
} nm__aged;

typedef struct nm__page {
    struct nm__page *prev, *next; /* one list at a time: a heap's spans, or free spans of a size */
    union {
        nm_heap *heap; /* live span: whose */
        nm__aged aged; /* free span that is kept */
    };
    uint32_t npages; /* of a span, a superblock, a free span (first and last page) */
    uint8_t kind;
    bool zero; /* span: its memory reads as zero */
} nm__page;
_Static_assert(sizeof(void *) != 8 || sizeof(nm__page) == 32, "half a cache line");

typedef struct nm__theap nm__theap; /* what a heap has for one thread; heap.h */

/* What begins in 64 KiB of addresses. A larger superblock has the entry of its first 64 KiB; the others say how far back that
 * is. */
typedef struct nm__superblock {
    nm__cells cells;
    struct nm__superblock *prev; /* of the thread heap's list */
    nm__theap *theap; /* whose; NULL where no superblock starts, which the fast path relies on */
    struct nm__superblock *next;
    uint8_t bin;
    uint8_t group;   /* one that is not current: which of its bin's lists it is on */
    uint8_t charged; /* pages that its heap is charged with */
    uint8_t part;    /* 0: it starts here, or there is none */
    uint16_t shed;   /* a bit for each step that was shed: steps.c */
    uint16_t looked; /* one that waits: used cells when it was last looked at for them; 0: never */
} nm__superblock;
_Static_assert(sizeof(nm__superblock) <= 64, "one cache line");
_Static_assert(sizeof(void *) != 8 || offsetof(nm__superblock, theap) % 16 == 8, "apart from links, as cells.h says");

/* Set once by nm_region_init, constant after. */
extern uintptr_t nm__region_base;
extern size_t nm__region_pages; /* 0: there is no region */
extern size_t nm__region_os_page; /* bytes: the system's page, at most a superblock */
extern size_t nm__region_grain;   /* pages of ours in one of the system's, at least 1: spans come in multiples of them */
extern nm__page *nm__pages;
extern char *nm__superblocks;         /* entries of a cache line each */
extern uintptr_t nm__superblock_bias; /* where the entry of address 0 would lie: the fast path need not subtract the base */
#define NM__SUPERBLOCK_ENTRY 64

extern _Atomic size_t nm__region_reach; /* in 64 KiB, up to the frontier: only these have entries. Never falls */
/* An instruction less than an atomic load and a compare: compilers do not make one of the two. */
#if defined(__x86_64__) && !defined(NM__TSAN)
NM_INLINE size_t nm__region_reached(void) { return *(const size_t *)(const void *)&nm__region_reach; }
#else
NM_INLINE size_t nm__region_reached(void) { return nm__get(&nm__region_reach); }
#endif
NM_INLINE nm__superblock *nm__superblock_number(size_t index) {
    return (nm__superblock *)(void *)(nm__superblocks + index * NM__SUPERBLOCK_ENTRY);
}
/* The entry of the address's 64 KiB; NULL: no block of the region's. Pre: a block, so its making is seen. */
NM_INLINE nm__superblock *nm__superblock_of(const void *ptr) {
    size_t index = ((uintptr_t)ptr - nm__region_base) >> NM__SUPERBLOCK_SHIFT;
    return NM_LIKELY(index < nm__region_reached()) ? nm__superblock_number(index) : NULL;
}
/* For addresses that may be anything. */
NM_INLINE nm__superblock *nm__superblock_at(const void *ptr) {
    size_t index = ((uintptr_t)ptr - nm__region_base) >> NM__SUPERBLOCK_SHIFT;
    return index < atomic_load_explicit(&nm__region_reach, memory_order_acquire) ? nm__superblock_number(index) : NULL;
}
/* Pre: an address of the region. */
NM_INLINE nm__superblock *nm__superblock_in(const void *ptr) {
    NM_ASSERT(((uintptr_t)ptr - nm__region_base) >> NM__SUPERBLOCK_SHIFT < nm__region_reached());
    return (nm__superblock *)(nm__superblock_bias + ((uintptr_t)ptr >> NM__SUPERBLOCK_SHIFT) * NM__SUPERBLOCK_ENTRY);
}
/* The entry of the superblock that the 64 KiB are of, if they are of one. */
NM_INLINE nm__superblock *nm__superblock_whole(const nm__superblock *sb) {
    size_t part = atomic_load_explicit((_Atomic uint8_t *)(uintptr_t)&sb->part, memory_order_relaxed);
    return (nm__superblock *)((uintptr_t)sb - part * NM__SUPERBLOCK_ENTRY);
}
NM_INLINE char *nm__superblock_base(const nm__superblock *sb) {
    return (char *)nm__region_base +
           ((size_t)((const char *)sb - nm__superblocks) << (NM__SUPERBLOCK_SHIFT - 6)); /* entries of 64 bytes */
}

/* Pre: an address of the region. */
NM_INLINE nm__page *nm__page_of(const void *ptr) { return &nm__pages[((uintptr_t)ptr - nm__region_base) >> NM__PAGE_SHIFT]; }
NM_INLINE char *nm__page_base(const nm__page *p) {
    return (char *)nm__region_base + ((size_t)(p - nm__pages) << NM__PAGE_SHIFT);
}
/* Pages that hold so many bytes. */
NM_INLINE size_t nm__pages_for(size_t size) {
    size_t unit = nm__region_grain << NM__PAGE_SHIFT;
    return ((size + (unit - 1)) & ~(unit - 1)) >> NM__PAGE_SHIFT;
}
/* What an address is may be asked while it becomes something else. Orders: the kind of a span, and the thread heap of a
 * superblock, are stored last and release; read with these two they acquire, and what is said beside them is there. */
NM_INLINE nm__theap *nm__theap_at(const nm__superblock *sb) {
    return atomic_load_explicit((_Atomic(nm__theap *) *)(uintptr_t)&sb->theap, memory_order_acquire);
}
NM_INLINE bool nm__span_at(const nm__page *p) {
    return atomic_load_explicit((_Atomic uint8_t *)(uintptr_t)&p->kind, memory_order_acquire) == NM__SPAN;
}
/* Whether it is a block of the region's, where other allocators may have blocks in a part of the region that is not mapped. */
NM_INLINE nm__superblock *nm__superblock_of_block(const void *ptr) {
    nm__superblock *sb = nm__superblock_of(ptr);
    return sb != NULL && NM_LIKELY(sb->theap != NULL || sb->part != 0 || nm__page_of(ptr)->kind == NM__SPAN) ? sb : NULL;
}
bool nm__region_has(const void *ptr); /* whether it is the region's memory that is mapped there; takes the lock */
/* Takes n contiguous pages, the first at a multiple of align pages, a power of two up to NM__SUPERBLOCK_PAGES; kind and npages
 * of the first are set, zero says whether they read as zero. want_zero prefers such pages. NULL: the region, or the system,
 * has no more. */
nm__page *nm__region_take(size_t n, size_t align, nm__kind kind, bool want_zero);
void nm__region_give(nm__page *first, size_t n);
/* Takes pages that cannot be given back out of use, for good. */
void nm__region_withdraw(nm__page *p, size_t n);
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
