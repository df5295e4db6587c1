/* The list of a chain's live blocks: what goes on it, how a block ends, and what is left where an allocator cannot take one
 * back.
 *
 * A Block object is made before its memory is taken, because making an object may run a collection, and so any Python
 * code. Dead objects are kept for reuse. An orphan, a block that was collected where its allocator would not take it back,
 * stays on the list without being an object any more.
 */
#ifndef NM__CHAIN_H
#define NM__CHAIN_H

#include "base/base.h"
#include "binding/objects.h"
#include "engine/sampler.h"

/* Pre: the block is on no list. */
static inline void nm__chain_link(Chain *chain, BlockObject *b) {
    b->serial = ++chain->serial;
    b->newer = NULL;
    b->older = chain->newest;
    if (b->older != NULL) b->older->newer = b;
    chain->newest = b;
}

static inline void nm__chain_unlink(BlockObject *b) {
    nm__sampler_freeing(b);
    if (b->newer != NULL) b->newer->older = b->older;
    else b->allocator->chain->newest = b->older;
    if (b->older != NULL) b->older->newer = b->newer;
}

/* A spare object is prepared before memory is taken, as a collection may run then: a reset or a close of the allocator among
 * other code. From there to the linked block no Python code runs. A call that does not use the one it prepared puts it
 * back. */
#ifdef Py_GIL_DISABLED
/* Each call has its own: an object that one thread has let go of is not another's to be used again. */
static inline BlockObject *nm__block_prepare(void) { return PyObject_GC_New(BlockObject, &nm__block_type); }
static inline bool nm__block_is_prepared(void) { return true; }
static inline void nm__block_put_back(BlockObject *spare) { PyObject_GC_Del(spare); }
static inline BlockObject *nm__block_take_spare(BlockObject *spare) {
    PyUnstable_EnableTryIncRef((PyObject *)spare); /* see nm__block_reference */
    return spare;
}
/* A new reference to a block on the chain's list; false where the last one has just gone: another thread waits for the guard
 * to end it. */
static inline bool nm__block_reference(BlockObject *b) { return PyUnstable_TryIncRef((PyObject *)b) != 0; }
#else
/* Dead Block objects kept for reuse, linked by `older`. */
extern BlockObject *nm__block_spares;
extern int nm__block_spare_count;
NM_COLD bool nm__block_add_spare(void);

/* Where there is one it is the first in the list: Python code that runs may take it, so it is asked for again after that.
 * NULL with an error set. */
static inline BlockObject *nm__block_prepare(void) {
    return NM_LIKELY(nm__block_spares != NULL) || nm__block_add_spare() ? nm__block_spares : NULL;
}
static inline bool nm__block_is_prepared(void) { return nm__block_prepare() != NULL; }
static inline void nm__block_put_back(BlockObject *spare) { (void)spare; }
static inline BlockObject *nm__block_take_spare(BlockObject *spare) {
    spare = nm__block_spares;
    nm__block_spares = spare->older;
    nm__block_spare_count--;
#ifdef Py_DEBUG
    _Py_NewReference((PyObject *)spare); /* keeps the interpreter's own count of references */
#else
    Py_SET_REFCNT((PyObject *)spare, 1); /* the type is still set */
#endif
    return spare;
}
static inline bool nm__block_reference(BlockObject *b) {
    Py_INCREF((PyObject *)b);
    return true;
}
#endif

/* Frees a live block without exports, or an orphan. Another status than NM_OK: its allocator would not take it back, and
 * nothing changed. */
static inline nm_status nm__block_give_back(BlockObject *b, BlockState state) {
    AllocatorObject *a = b->allocator;
    if (b->size != 0) {
        nm_status status = a->inner.methods->free(a->inner.self, b->ptr, (size_t)b->size, b->align);
        if (NM_UNLIKELY(status != NM_OK)) return status;
    }
    nm__chain_unlink(b);
    b->state = (uint16_t)state;
    return NM_OK;
}

/* Puts the object of a block away that nothing refers to any more. */
void nm__block_discard(BlockObject *b);
/* Gives back those orphans that can be given back by now; whether there was one. */
NM_COLD bool nm__chain_sweep(Chain *chain);
/* Takes a live block or an orphan out of use, whatever its allocator says. */
void nm__chain_retire(BlockObject *b);
/* Takes off the list of orphans what is none any more. To be called after nm__chain_retire. */
void nm__chain_forget_retired(Chain *chain);
/* A list of the chain's live blocks after a serial number: those that an allocator gave (NULL: any of the chain), or of
 * these only those with a view. */
PyObject *nm__chain_list(const Chain *chain, uint64_t after, const AllocatorObject *of, bool exported);

#endif
