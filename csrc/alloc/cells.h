/* A superblock's cells: what slab and heap share.
 *
 * Cells that were never used are not on the free list; they are threaded onto it a stretch at a time, so
 * that a superblock's memory is touched only as far as it was needed.
 */
#ifndef NM__CELLS_H
#define NM__CELLS_H

#include "base/base.h"
#include "tuning.h"

/* The link of the free cell `at`, from what stands there or to be put there. A key other than 0 hides it, so that
 * code that writes into a freed cell cannot make the list lead to an address of its choice. */
NM_INLINE void *nm__link(uintptr_t key, const void *at, const void *link) {
    return key == 0 ? (void *)(uintptr_t)link : (void *)((uintptr_t)link ^ key ^ (uintptr_t)at);
}

/* Invariants:
 *   fresh <= end, (end - fresh) % cell == 0
 *   cells in use + length of the free list + (end - fresh) / cell == capacity
 *   every entry of the free list is a cell boundary below fresh */
typedef struct nm__cells {
    uint32_t fresh;  /* offset of the first cell never used */
    uint32_t end;
    void *free;      /* first free cell; a free cell's first word links to the next */
    uint32_t cell;   /* bytes */
    uint32_t capacity;
    uint32_t count;  /* cells in use, less apart, modulo 2^32; nm__cells_give reports when it falls to 0 */
    uint32_t apart;  /* its owner's to choose */
} nm__cells;
/* A processor takes a store for the one that a load waits for where the addresses agree in their low 12 bits. Links are at
 * multiples of 16, so what each call reads here is at none: else a pair of calls takes half as long again for one block in 64. */
_Static_assert(offsetof(nm__cells, free) % 16 == 8 && offsetof(nm__cells, count) % 16 == 8, "apart from links");

NM_INLINE void nm__cells_init(nm__cells *c, uint32_t cell, uint32_t start, uint32_t bytes) {
    uint32_t capacity = (bytes - start) / cell;
    *c = (nm__cells){
        .fresh = start,
        .end = start + capacity * cell,
        .cell = cell,
        .capacity = capacity,
    };
}

NM_INLINE uint32_t nm__cells_used(const nm__cells *c) { return c->count + c->apart; }
/* From here on nm__cells_give reports when the cells in use fall to that many. */
NM_INLINE void nm__cells_report_at(nm__cells *c, uint32_t used) {
    c->count = nm__cells_used(c) - used;
    c->apart = used;
}

/* How far the next stretch goes. */
NM_INLINE uint32_t nm__cells_stop(const nm__cells *c) {
    uint32_t stretch = c->cell < NM_CELLS_STRETCH ? NM_CELLS_STRETCH / c->cell * c->cell : c->cell;
    return c->end - c->fresh < stretch ? c->end : c->fresh + stretch;
}

/* false: every cell is in use. Pre: the free list is empty. */
static inline bool nm__cells_extend(nm__cells *c, char *base) {
    NM_ASSERT(c->free == NULL);
    if (c->fresh == c->end) return false;
    uint32_t stop = nm__cells_stop(c);
    char *at = base + c->fresh, *last = base + stop - c->cell; /* upwards, as memory is fetched ahead */
    c->free = at;
    c->fresh = stop;
    for (; at != last; at += c->cell) nm__poke(at, at + c->cell);
    nm__poke(last, NULL);
    return true;
}

/* Pre: the free list is not empty. The caller counts. */
NM_INLINE void *nm__cells_pop(nm__cells *c, uintptr_t key) {
    NM_ASSERT(c->free != NULL);
    void *ptr = c->free;
    c->free = nm__link(key, ptr, nm__peek(ptr));
    NM_UNPOISON(ptr, c->cell);
    return ptr;
}

NM_INLINE void *nm__cells_take(nm__cells *c, uintptr_t key) {
    c->count++;
    return nm__cells_pop(c, key);
}

/* true: count has fallen to 0. */
NM_INLINE bool nm__cells_give(nm__cells *c, void *ptr, uintptr_t key) {
    nm__poke(ptr, nm__link(key, ptr, c->free));
    c->free = ptr;
    NM_POISON(ptr, c->cell);
    return --c->count == 0;
}

NM_INLINE bool nm__cells_full(const nm__cells *c) { return c->free == NULL && c->fresh == c->end; }

/* Whether an address is the start of a cell that was ever used. */
static inline bool nm__cells_holds(const nm__cells *c, const char *base, uint32_t start, const void *at) {
    uintptr_t offset = (uintptr_t)at - (uintptr_t)base;
    return offset >= start && offset < c->fresh && (offset - start) % c->cell == 0;
}

/* Counts the free list; false where an entry is no cell of base's, or where that is not all but the used ones. For
 * checks. */
static inline bool nm__cells_check(const nm__cells *c, uint32_t used, const char *base, uint32_t start, uintptr_t key) {
    uint32_t n = 0;
    for (const void *at = c->free; at != NULL; at = nm__link(key, at, nm__peek(at))) {
        if (!nm__cells_holds(c, base, start, at)) return false;
        if (++n > c->capacity) return false;
    }
    return used + n + (c->end - c->fresh) / c->cell == c->capacity;
}

/* A list that many threads push and one thread takes whole; no entry is ever popped alone, so there is no
 * ABA. Orders: pushing and taking are sequentially consistent, the look before taking, too. A thread that ends stores its
 * state, then takes; one that frees pushes, then loads the state: so one of the two sees the other, and no cell waits for
 * a thread that has ended. The cell's first word is the link. Pre of push: the cell is poisoned; once it is on the list it may be
 * a block again at any moment. */
typedef _Atomic(void *) nm__remote;

NM_INLINE void nm__remote_push(nm__remote *list, void *ptr, uintptr_t key) {
    void *head = atomic_load_explicit(list, memory_order_relaxed);
    do {
        nm__poke(ptr, nm__link(key, ptr, head));
    } while (!atomic_compare_exchange_weak_explicit(list, &head, ptr, memory_order_seq_cst, memory_order_relaxed));
}
NM_INLINE void *nm__remote_take(nm__remote *list) {
    if (atomic_load(list) == NULL) return NULL;
    return atomic_exchange_explicit(list, NULL, memory_order_seq_cst);
}

#endif
