#include "binding/held.h" /* first: Python.h wants to be */

#include "binding/allocator.h"
#include "binding/block.h"
#include "binding/chain.h"
#include "engine/denials.h"

/* Blocks that are to be deallocated where Python code may run; each with the last reference to it. */
static BlockObject *held_departed;
NM_GUARD_MUTEX(nm__held_lock);

static void held_add(BlockObject *b) {
    NM_GUARD(nm__held_lock);
    b->next_orphan = held_departed;
    held_departed = b;
}
static BlockObject *held_next(void) {
    NM_GUARD(nm__held_lock);
    BlockObject *b = held_departed;
    if (b != NULL) held_departed = b->next_orphan;
    return b;
}

void nm__held_drain(void) {
    for (BlockObject *b; (b = held_next()) != NULL;) {
        b->exports = 0;
        Py_DECREF(b);
    }
}

/* Ends a block whose last reference this is: only in the guard another thread could get one, but of a weak reference. Whether
 * to let go of it runs no Python code. */
static bool held_end(BlockObject *b) {
    NM_GUARD_BLOCK(b);
    bool last = Py_REFCNT((PyObject *)b) == 1;
    if (last && b->state == LIVE && !(NM_UNLOCKED && b->weakrefs != NULL)) nm__block_end(b);
    if (!last) return true;
    return b->weakrefs == NULL && b->state != DAMAGED && Py_REFCNT((PyObject *)b->allocator) > 1;
}

/* As Py_DECREF, without Python code: its memory goes now, what a callback may see of it later. */
static void held_drop(BlockObject *b) {
    if (held_end(b)) {
        Py_DECREF(b);
        return;
    }
    held_add(b);
    nm__denial_wait_for_safe_point();
}

PyObject *nm__held_take(PyObject *allocator, size_t size, size_t align, void **ptr, nm_failure *refused) {
    AllocatorObject *a = (AllocatorObject *)allocator;
    NM_GUARD_ALLOCATOR(a);
    *refused = (nm_failure){NM_INVALID_LAYOUT, size, 0, 0};
    if (!nm_layout_ok(size, align, NM_ALIGN_MAX)) return NULL;
    int was_on = nm__collections_stop(); /* before 3.12 it would run inside */
    BlockObject *spare = nm__block_prepare();
    nm__collections_go_on(was_on);
    if (spare == NULL) {
        PyErr_Clear();
        *refused = (nm_failure){NM_OUT_OF_MEMORY, size, 0, 0};
        return NULL;
    }
    char *memory = a->port.methods->alloc(a->port.self, size, align);
    if (memory == NULL) {
        *refused = nm_last_failure();
        if (a->chain->orphans != 0 && nm__chain_sweep(a->chain)) memory = a->port.methods->alloc(a->port.self, size, align);
        if (memory == NULL) {
            nm__block_put_back(spare);
            return NULL;
        }
    }
    BlockObject *b = (BlockObject *)nm__allocator_block_at(spare, a, memory, size, align);
    b->exports++;
    b->allocator->chain->exports++;
    *ptr = memory;
    return (PyObject *)b;
}

void nm__held_release(PyObject *block) {
    nm__block_unexport((BlockObject *)block);
    held_drop((BlockObject *)block);
}
