#include "binding/held.h" /* first: Python.h wants to be */

#include "binding/allocator.h"
#include "binding/block.h"
#include "binding/chain.h"
#include "engine/denials.h"

/* Blocks that are to be deallocated where Python code may run; each with the last reference to it. */
static BlockObject *held_departed;

void nm__held_drain(void) {
    for (BlockObject *b; (b = held_departed) != NULL;) {
        held_departed = b->next_orphan;
        b->exports = 0;
        Py_DECREF(b);
    }
}

/* As Py_DECREF, without Python code: its memory goes now, what a callback may see of it later. */
static void held_drop(BlockObject *b) {
    bool last = Py_REFCNT((PyObject *)b) == 1;
    if (last && b->state == LIVE) nm__block_end(b);
    if (!last || (b->weakrefs == NULL && b->state != DAMAGED && Py_REFCNT((PyObject *)b->allocator) > 1)) {
        Py_DECREF(b);
        return;
    }
    b->next_orphan = held_departed;
    held_departed = b;
    nm__denial_wait_for_safe_point();
}

PyObject *nm__held_take(PyObject *allocator, size_t size, size_t align, void **ptr, nm_failure *refused) {
    AllocatorObject *a = (AllocatorObject *)allocator;
    *refused = (nm_failure){NM_INVALID_LAYOUT, size, 0, 0};
    if (!nm_layout_ok(size, align, NM_ALIGN_MAX)) return NULL;
    int was_on = PyGC_Disable(); /* before 3.12 it would run inside */
    bool spared = nm__block_prepare();
    if (was_on) PyGC_Enable();
    if (!spared) {
        PyErr_Clear();
        *refused = (nm_failure){NM_OUT_OF_MEMORY, size, 0, 0};
        return NULL;
    }
    char *memory = a->port.methods->alloc(a->port.self, size, align);
    if (memory == NULL) {
        *refused = nm_last_failure();
        if (a->chain->orphans == 0 || !nm__chain_sweep(a->chain)) return NULL;
        if ((memory = a->port.methods->alloc(a->port.self, size, align)) == NULL) return NULL;
    }
    BlockObject *b = (BlockObject *)nm__allocator_block_at(a, memory, size, align);
    b->exports++;
    b->allocator->chain->exports++;
    *ptr = memory;
    return (PyObject *)b;
}

void nm__held_release(PyObject *block) {
    nm__block_unexport((BlockObject *)block);
    held_drop((BlockObject *)block);
}
