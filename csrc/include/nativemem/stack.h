/* Stack: blocks that end in the reverse order of their making.
 *
 * It cannot grow, cannot free any block but the newest, and cannot be called from another thread. For that it
 * gives each block's memory back at once, alignment padding included, and refuses a free out of order in every
 * build. Beside the chunk it keeps 16 bytes for each live block, so no block carries a header.
 */
#ifndef NATIVEMEM_STACK_H
#define NATIVEMEM_STACK_H

#include "nativemem/port.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nm_stack nm_stack;

/* A height to come back to. It belongs to one stack and one generation of it. Opaque. */
typedef struct nm_stack_mark {
    const nm_stack *stack;
    uint64_t generation;
    uint64_t serial;
    size_t depth;
} nm_stack_mark;

/* capacity: bytes for blocks and the padding between them, >= 1; taken from upstream at once. patterns: new
 * blocks are filled with 0xCC, freed ones with 0xDD. NULL: the upstream's reason. */
nm_stack *nm_stack_create(nm_allocator upstream, size_t capacity, bool patterns);
/* Any thread, once no other call is under way. */
void nm_stack_destroy(nm_stack *s);
/* alloc: NM_CAPACITY_EXCEEDED where the block does not fit. free: NM_LIFO_VIOLATION for a live block that is not
 * the newest, NM_DOUBLE_FREE for one that is gone. resize serves the newest block only. */
nm_allocator nm_stack_port(nm_stack *s);

/* A reset, release or clear is about to drop blocks that wrappers have counted. Until then a free out of order is no
 * violation: it counts, and leaves the bytes to what follows. Pre: the stack's thread. */
void nm_stack_unwind(nm_stack *s);
/* Drops every block. NM_WRONG_THREAD: unchanged. */
nm_status nm_stack_reset(nm_stack *s);
/* As reset, and gives the chunk back: the stack serves nothing any more. */
nm_status nm_stack_clear(nm_stack *s);
/* The largest block, at alignment 1, that it would serve now. */
size_t nm_stack_largest_free(const nm_stack *s);
nm_status nm_stack_take_mark(nm_stack *s, nm_stack_mark *out);
/* NM_INVALID_MARK: foreign, of an older generation, or the block that was the newest when it was taken is gone. */
nm_status nm_stack_check_mark(const nm_stack *s, const nm_stack_mark *mark);
/* Drops every block newer than the mark. NM_INVALID_MARK as above: nothing changed. */
nm_status nm_stack_release(nm_stack *s, const nm_stack_mark *mark);
nm_status nm_stack_check_thread(const nm_stack *s);
/* From now on it is that thread's, or a Locked's (nm_locked_thread). NM_WRONG_THREAD: it is not the caller's. */
nm_status nm_stack_hand_over(nm_stack *s, uintptr_t thread);
const char *nm_stack_check(const nm_stack *s);

#ifdef __cplusplus
}
#endif
#endif
