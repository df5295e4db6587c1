/* Status codes, the last failure, checked arithmetic and alignment.
 *
 * The core never prints, never sets errno and never aborts on bad input. A call that fails leaves its
 * arguments as they were and says why in the calling thread's last failure.
 */
#ifndef NATIVEMEM_BASE_H
#define NATIVEMEM_BASE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#ifdef __cplusplus
extern "C" {
#endif

/* An extension of Python has these from a table (capi.h) instead of the linker. */
#ifndef NM_FROM_TABLE
#define NM_FROM_TABLE extern
#endif

/* One line of meaning each; src/nativemem/refusals.py maps each to one exception. */
typedef enum nm_status {
    NM_OK = 0,             /* done */
    NM_OUT_OF_MEMORY = 1,  /* the upstream, or the operating system, has no more */
    NM_EXHAUSTED = 2,      /* this allocator's own capacity or cap is reached */
    NM_OVER_BUDGET = 3,    /* the limit of a budget would be exceeded */
    NM_INVALID_LAYOUT = 4, /* size or alignment outside what the port takes */
    NM_FOREIGN_BLOCK = 5,  /* the block is not of this allocator */
    NM_WRONG_THREAD = 6,   /* a thread-confined allocator was called from another thread */
    NM_INVALID_MARK = 7,   /* the mark is foreign, stale, or ahead of the arena */
    NM_CLOSED = 8,         /* the allocator was closed, or what the handle stood for is gone */
    NM_UNDERFLOW = 9,      /* more was to be released than is used */
    NM_LIFO_VIOLATION = 10, /* the block is not the newest of its stack */
    NM_DOUBLE_FREE = 11,   /* the block was freed before */
    NM_CORRUPTED = 12,     /* the allocator's own data were overwritten */
    NM_POOL_EXHAUSTED = 13, /* every cell of the pool is in use */
    NM_CAPACITY_EXCEEDED = 14, /* a structure of fixed capacity is full */
    NM_TIMED_OUT = 15      /* others kept it waiting for too long */
} nm_status;

/* Why the last failing call of this thread failed. requested, used and limit are bytes; limit is 0 where
 * there is none. */
typedef struct nm_failure {
    nm_status status;
    size_t requested;
    size_t used;
    size_t limit;
} nm_failure;

/* The calling thread's last failure. It is written by failing calls only, so read it only after one. */
NM_FROM_TABLE nm_failure nm_last_failure(void);

/* Makes it the calling thread's last failure and returns NULL, so that `return nm_refuse(...)` reads well. */
NM_FROM_TABLE void *nm_refuse(nm_status status, size_t requested, size_t used, size_t limit);

/* What alloc(0) hands out: a valid address, aligned to NM_ALIGN_MAX, of no bytes. */
#ifndef nm_empty_block
extern char nm_empty_block[];
#endif

/* Every nm_<noun>_check returns NULL where the structure's invariants hold, else the one that does not. They
 * are for tests and debugging: they walk everything. */

#define NM_ALIGN_DEFAULT ((size_t)16)     /* alignof(max_align_t) on every supported platform */
#define NM_ALIGN_MAX ((size_t)4096)       /* the most that a user may ask for */
#define NM_PORT_ALIGN_MAX ((size_t)65536) /* the most that a port must serve: a superblock's */
#define NM_SIZE_MAX ((size_t)PTRDIFF_MAX)

static inline bool nm_is_power_of_two(size_t n) { return n != 0 && (n & (n - 1)) == 0; }

/* false: the sum, product or rounded value does not fit; *out is untouched. */
static inline bool nm_add(size_t a, size_t b, size_t *out) {
    if (a > SIZE_MAX - b) return false;
    *out = a + b;
    return true;
}
static inline bool nm_mul(size_t a, size_t b, size_t *out) {
    if (b != 0 && a > SIZE_MAX / b) return false;
    *out = a * b;
    return true;
}
/* Precondition: align is a power of two. */
static inline bool nm_align_up(size_t n, size_t align, size_t *out) {
    if (n > SIZE_MAX - (align - 1)) return false;
    *out = (n + (align - 1)) & ~(align - 1);
    return true;
}
static inline bool nm_is_aligned(uintptr_t address, size_t align) { return (address & (uintptr_t)(align - 1)) == 0; }
static inline bool nm_layout_ok(size_t size, size_t align, size_t align_max) {
    return size <= NM_SIZE_MAX && nm_is_power_of_two(align) && align <= align_max;
}

#ifdef __cplusplus
}
#endif
#endif
