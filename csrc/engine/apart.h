/* Blocks that lie apart from those of the thread's own thread heap: arrays that an owner is charged for, and what a profile
 * notes.
 *
 * They are cells of the heap of arrays, each charged by itself where an owner is to be charged, or spans. So the frees of all
 * other blocks find their thread heap, as ever, and need not ask.
 */
#ifndef NM__APART_H
#define NM__APART_H

#include "engine/array_charges.h"
#include "engine/sampler.h"
#include "engine/serve.h"

#pragma GCC visibility push(hidden) /* so that no access takes a detour through a table of the loader's */

/* Whether a block may be such. Pre: it is of the region. */
NM_INLINE bool nm__is_apart(const void *ptr) {
    const nm__superblock *sb = nm__superblock_of_cell(ptr);
    return sb == NULL || sb->theap->heap == nm__array_heap;
}
NM_INLINE bool nm__is_cell_apart(const void *ptr) { return nm__is_apart(ptr) && nm__superblock_of_cell(ptr) != NULL; }

/* From a heap, aligned as arrays are. */
void *nm__apart_from(nm_heap *h, size_t bytes, bool zeroed);
/* Charged by itself. Pre: there is an owner to charge. */
void *nm__apart_charged(size_t bytes, bool zeroed);
/* Before it is given back. */
void nm__apart_forget(void *ptr);

/* An object that a profile notes, if its turn has come at the gate. NULL: not this way; another is tried, so that a refusal here does not count. */
void *nm__apart_noted(nm__gate *gate, size_t size, bool zeroed);
/* A realloc of an object that may lie apart, or whose turn may have come (due: nm__apart_is_due). NULL: refused. All others are
 * moved as they are without a profile: none of them is noted. */
void *nm__apart_move(void *ptr, size_t size, bool due, bool (*give_it)(void *));

/* As nm__serve_give, for objects. */
bool nm__apart_give_elsewhere(void *ptr, nm__superblock *sb);
NM_INLINE bool nm__apart_give(void *ptr, nm__superblock *sb) { return nm__serve_give_or(ptr, sb, nm__apart_give_elsewhere); }

/* Whether the block that is about to be served may be one to note; it is counted. */
NM_INLINE bool nm__apart_is_due(int mode, size_t size) {
    return NM_UNLIKELY(mode & NM__MODE_SAMPLED) && nm__sampler_is_due(size);
}

#pragma GCC visibility pop

#endif
