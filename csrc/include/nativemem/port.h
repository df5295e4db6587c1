/* The port: the one method table that every allocator and wrapper speaks.
 *
 * Size and alignment come back on free, so no allocator needs a header to account exactly. Moving a block
 * (alloc, copy, free) is written once, in nm_realloc below.
 */
#ifndef NATIVEMEM_PORT_H
#define NATIVEMEM_PORT_H

#include <string.h>

#include "nativemem/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Invariants:  used <= peak;  live = blocks not yet given back;  limit == 0 means none.
 * An arena's freed block counts as used and live until reset or release. */
typedef struct nm_stats {
    size_t used;     /* bytes in live blocks, as asked for */
    size_t peak;     /* highest used */
    size_t reserved; /* bytes taken from upstream */
    size_t limit;    /* most that may be reserved or used; 0: none */
    size_t total;    /* bytes ever handed out */
    size_t live;     /* live blocks */
    size_t count;    /* blocks ever handed out */
    size_t frees;    /* blocks given back by free */
    size_t failures; /* alloc and resize calls that failed for want of memory */
} nm_stats;

typedef struct nm_methods {
    /* Pre: 1 <= size <= NM_SIZE_MAX; align a power of two <= NM_PORT_ALIGN_MAX.
     * Success: size bytes at a multiple of align, contents undefined, overlapping no live block.
     * NULL: exhausted or refused; state unchanged but for failures; reason in the last failure. */
    void *(*alloc)(void *self, size_t size, size_t align);
    /* Pre: ptr came from this allocator's alloc with (old, align) and is live; 1 <= size <= NM_SIZE_MAX.
     * true: the block now has size bytes at the same address, min(old, size) kept.
     * false: the block is untouched. Never moves. */
    bool (*resize)(void *self, void *ptr, size_t old, size_t size, size_t align);
    /* Pre: as resize. NM_OK: the block is gone. Anything else: refused, nothing changed. */
    nm_status (*free)(void *self, void *ptr, size_t size, size_t align);
    /* Safe from any thread; reads counters only. */
    void (*stats)(void *self, nm_stats *out);
} nm_methods;

/* By value, like a fat pointer: there is no null allocator to pass. */
typedef struct nm_allocator {
    void *self;
    const nm_methods *methods;
} nm_allocator;

static inline void *nm_alloc(nm_allocator a, size_t size, size_t align) {
    if (!nm_layout_ok(size, align, NM_ALIGN_MAX)) {
        (void)nm_refuse(NM_INVALID_LAYOUT, size, 0, 0);
        return NULL; /* spelled out: else gcc warns of sizes beyond NM_SIZE_MAX where nm_calloc is inlined */
    }
    if (size == 0) return nm_empty_block;
    return a.methods->alloc(a.self, size, align);
}

static inline void *nm_calloc(nm_allocator a, size_t count, size_t size, size_t align) {
    size_t bytes;
    if (!nm_mul(count, size, &bytes)) return nm_refuse(NM_INVALID_LAYOUT, SIZE_MAX, 0, 0);
    void *ptr = nm_alloc(a, bytes, align);
    if (ptr != NULL && bytes != 0) memset(ptr, 0, bytes);
    return ptr;
}

/* ptr == NULL is a no-op, as is the empty block. */
static inline nm_status nm_free(nm_allocator a, void *ptr, size_t size, size_t align) {
    if (ptr == NULL || size == 0) return NM_OK;
    return a.methods->free(a.self, ptr, size, align);
}

/* In place where the allocator can, else alloc, copy, free. NULL: ptr is untouched and still live; also where the
 * allocator does not take it back (a stack, below its newest block). */
static inline void *nm_realloc(nm_allocator a, void *ptr, size_t old, size_t size, size_t align) {
    if (!nm_layout_ok(size, align, NM_ALIGN_MAX)) return nm_refuse(NM_INVALID_LAYOUT, size, 0, 0);
    if (ptr != NULL && old != 0 && size != 0 && a.methods->resize(a.self, ptr, old, size, align)) return ptr;
    void *moved = nm_alloc(a, size, align);
    if (moved == NULL) return NULL;
    if (ptr != NULL && old != 0) {
        memcpy(moved, ptr, old < size ? old : size);
        if (a.methods->free(a.self, ptr, old, align) != NM_OK) {
            (void)nm_free(a, moved, size, align);
            return NULL;
        }
    }
    return moved;
}

#ifdef __cplusplus
}
#endif
#endif
