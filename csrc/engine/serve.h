/* Taking memory from the engine's heap and giving it back, for the hooks of all domains.
 *
 * An address is the engine's where the region says so; all others are of the allocator that was there before the hook. The
 * fast path is a call of the heap's inlined one; all else is out of line.
 */
#ifndef NM__SERVE_H
#define NM__SERVE_H

#include "heap/heap.h"
#include "engine/denials.h"
#include "engine/engine.h"
#include "engine/overdraft.h"

#pragma GCC visibility push(hidden) /* so that no access takes a detour through a table of the loader's */

/* Only a secure heap finds such. Nothing that the program holds can be trusted any more, and the interpreter's calls have
 * no way to say so. */
NM_COLD void nm__serve_stop_if_corrupted(nm_status status);

/* After a call that may have charged a budget. */
static inline void nm__serve_watch_pressure(void) {
    if (NM_UNLIKELY(atomic_load_explicit(&nm__pressed, memory_order_relaxed))) nm__denial_wait_for_safe_point();
}

/* After a refusal: whether the allocator before us may be asked. What is bounded is served and charged, or refused; where
 * nothing is, that allocator may still have memory when the region has no more. */
bool nm__serve_may_pass_on(void);
/* What the heap refused, from the overdraft; NULL: refused. */
void *nm__serve_beyond(size_t size, bool zeroed);
NM_COLD void *nm__serve_slow(size_t size);

NM_INLINE void *nm__serve_take(size_t size) {
    if (NM_LIKELY(size <= NM__FINE)) {
        void *ptr = nm__theap_alloc(nm__theaps[NM__CLAIMED_SLOT], nm__fine_bin(size));
        if (NM_LIKELY(ptr != NULL)) return ptr;
    }
    return nm__serve_slow(size);
}

/* Whether the region had to leave the address to a mapping of another allocator. status: why it is no block. */
NM_COLD bool nm__serve_is_of_others(nm_status status, const void *ptr);
/* Of a superblock that is not the calling thread's, or does not start there, or a span. */
bool nm__serve_give_elsewhere(void *ptr, nm__superblock *sb);

/* false: the block is for the allocator before us. elsewhere: gives what the fast path cannot. */
NM_INLINE bool nm__serve_give_or(void *ptr, nm__superblock *sb, bool (*elsewhere)(void *, nm__superblock *)) {
    if (NM_UNLIKELY(sb == NULL)) return false;
    if (NM_UNLIKELY(sb->theap != nm__theaps[NM__CLAIMED_SLOT])) return elsewhere(ptr, sb);
    if (NM_UNLIKELY(nm__cells_give(&sb->cells, ptr, 0))) nm__superblock_trip(sb);
    return true;
}
NM_INLINE bool nm__serve_give(void *ptr, nm__superblock *sb) { return nm__serve_give_or(ptr, sb, nm__serve_give_elsewhere); }

/* To the allocator that was there before. on: the mode; where it is off a block that is large enough stays. */
NM_COLD void *nm__serve_move_out(PyMemAllocatorEx *before, void *ptr, size_t size, bool on, bool (*give_it)(void *));
/* From the overdraft, or into it. */
NM_COLD void *nm__serve_move_across(void *ptr, size_t size, void *(*take_it)(size_t), void *(*beyond_it)(size_t, bool),
                                    bool (*give_it)(void *));

NM_INLINE void *nm__serve_move(nm_heap *h, void *ptr, size_t size, void *(*take_it)(size_t), void *(*beyond_it)(size_t, bool),
                               bool (*give_it)(void *)) {
    void *moved = NULL;
    if (NM_LIKELY(!nm__overdraft_owns(ptr))) moved = nm__heap_try_realloc(h, ptr, size);
    return NM_LIKELY(moved != NULL) ? moved : nm__serve_move_across(ptr, size, take_it, beyond_it, give_it);
}

#pragma GCC visibility pop

#endif
