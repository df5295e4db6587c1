/* Heap: the general allocator. Any size, any thread frees.
 *
 * Small blocks (to 32 KiB) are cells of superblocks that belong to one thread at a time; a block freed by
 * another thread goes onto that thread's lock-free list. Larger blocks are spans. Both come from one
 * region of addresses, so a compare and a descriptor below the region (not in the block) say whether an address
 * is ours, and the rest: no block carries a header. The region is mapped as far as it is needed.
 *
 * A span that becomes free stays dirty for reuse; as much goes back to the system as was not needed for the
 * decay time, or when more than the retained bytes are free, or more than 32 MiB that nothing shows to be needed,
 * or on trim; with the addresses, where it is 1 MiB or more. Freed blocks above 64 MiB go back at once.
 */
#ifndef NATIVEMEM_HEAP_H
#define NATIVEMEM_HEAP_H

#include "nativemem/budget.h"
#include "nativemem/port.h"

#ifdef __cplusplus
extern "C" {
#endif

#define NM_BINS 128                        /* that a census has room for; 0 and the last ones are never used */
#define NM_SPAN_SIZES 48
#define NM_CELL_MAX ((size_t)32768)        /* the largest cell */
#define NM_PAGE ((size_t)4096)             /* the unit of spans: one page of the region */
#define NM_SUPERBLOCK ((size_t)65536)      /* of cells up to 8 KiB */
#define NM_SUPERBLOCK_LARGE ((size_t)262144) /* of larger cells */
#define NM_OWN_MAPPING ((size_t)64 << 20)  /* larger blocks go back to the system as soon as freed */

/* The region, one for the process. Call before the first heap; later calls change retain and decay only.
 * most: bytes that it may have in the end; where no place has so many addresses it is less, down to 64 MiB. Nothing is
 * reserved: what is needed is mapped, in steps. NM_OUT_OF_MEMORY: the system refuses even the first of them. */
nm_status nm_region_init(size_t most, size_t retain, unsigned decay_ms);
bool nm_region_owns(const void *ptr); /* it is the region's memory that is mapped there */
size_t nm_region_size(void);      /* the most that it may have; 0 before init */
size_t nm_region_dirty(void);     /* bytes of free spans kept for reuse */
void nm_region_trim(void);        /* every free span back to the system */

typedef struct nm_heap nm_heap;

/* budget: charged in pages for what the heap holds; may be NULL; must outlive the heap.
 * secure: each block ends in a canary and is wiped when freed; free lists are encoded and handed out in random
 * order; superblocks and spans end in an inaccessible page. A free that finds a canary changed is refused.
 * NULL: out of memory, or the region is not initialised. */
nm_heap *nm_heap_create(nm_budget *budget, bool secure);
/* Once no other call is under way. Frees every block. */
void nm_heap_destroy(nm_heap *h);
nm_allocator nm_heap_port(nm_heap *h);
/* Frees every block at once; no other call may be under way. */
void nm_heap_clear(nm_heap *h);
/* Collects, returns this thread's empty superblocks, and trims the region. */
void nm_heap_trim(nm_heap *h);
/* Bytes behind a block of this layout. */
size_t nm_heap_usable(const nm_heap *h, size_t size, size_t align);

/* malloc's shape, for callers that do not know the size on free. size 0 gives the smallest cell. These do
 * not count `used`; nm_heap_census tells what the heap holds. */
void *nm_heap_malloc(nm_heap *h, size_t size);
void *nm_heap_calloc(nm_heap *h, size_t count, size_t size);
void *nm_heap_realloc(nm_heap *h, void *ptr, size_t size); /* ptr != NULL and in the region */
/* ptr != NULL and in the region. Anything but NM_OK: refused, nothing changed: NM_FOREIGN_BLOCK for what is no
 * block; in a secure heap NM_DOUBLE_FREE, or NM_CORRUPTED where bytes behind the block were written. */
nm_status nm_heap_free(nm_heap *h, void *ptr);
size_t nm_heap_usable_of(const void *ptr);                 /* bytes behind a block in the region */
/* The heap in which a block begins there; NULL: none can, whatever the address. One that is free
 * may still count. */
const nm_heap *nm_heap_of(const void *ptr);

const char *nm_heap_check(nm_heap *h); /* while no other call is under way */

/* What a heap holds, and what it ever served: allocations[b] blocks from bin b, span_allocations apart.
 * Safe from any thread. */
typedef struct nm_census {
    size_t held;      /* bytes of spans, and of superblocks as far as they were ever used */
    size_t held_peak;
    size_t live_span_bytes;
    size_t threads;   /* thread heaps */
    uint64_t allocations[NM_BINS];
    uint64_t span_allocations[NM_SPAN_SIZES]; /* by power of two: [k] counts sizes in (2^(k-1), 2^k] */
} nm_census;
void nm_heap_census(nm_heap *h, nm_census *out);
size_t nm_bin_size(unsigned bin); /* 0: there is no such bin */

#ifdef __cplusplus
}
#endif
#endif
