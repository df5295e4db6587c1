/* The objects of the data plane: a Block, an Allocator, and the chain that its allocators share.
 *
 * A chain is an allocator that takes memory from elsewhere (arena, heap ...) and the wrappers in front of it. They share
 * one list of live blocks in the order of their making, so that a reset of the lowest one finds the blocks that a wrapper
 * gave. An allocator that takes its memory from another one, and does not wrap it, begins a chain of its own and counts
 * as a dependent of the other's.
 *
 * All of it is read and written with the interpreter's lock held, or, on builds without it, in the guard of the chain.
 * Between a look at a block's state and the act that the look permits no Python code runs.
 */
#ifndef NM__OBJECTS_H
#define NM__OBJECTS_H

#include "binding/guard.h" /* first: Python.h wants to be */

#include "base/base.h"

typedef struct BlockObject BlockObject;
typedef struct AllocatorObject AllocatorObject;

/* Invariants:
 *   serial and generation never go down
 *   exports == the sum of its live blocks' exports;  dependents == open allocators that stand on a member and wrap none
 *   orphans == its blocks in the state ORPHAN */
typedef struct Chain {
    BlockObject *newest;
    uint64_t serial;     /* of the newest block ever */
    uint64_t generation; /* resets so far */
    Py_ssize_t exports;  /* buffers out of the chain's blocks */
    Py_ssize_t dependents; /* open allocators that take memory from the chain and are not in it */
    Py_ssize_t orphans;  /* of the chain's blocks */
    BlockObject *first_orphan; /* latest first; NULL where lifo: there the list of live blocks leads to those that can go */
    bool lifo;                 /* the chain's lowest allocator is a stack */
} Chain;

/* Which verbs end several of an allocator's blocks at once. */
typedef enum { REWINDS_NEVER, REWINDS_ARENA, REWINDS_STACK } Rewinds;

/* Invariants:
 *   chain == (wraps and not closed) ? upstream->chain : &own
 *   users == open allocators whose upstream this is
 *   closed: port is the closed one;  none of the live blocks is its own;  upstream == NULL, left != NULL */
struct AllocatorObject {
    PyObject_HEAD
    nm_allocator port;
    nm_allocator inner; /* the core's own, closed or not */
    Chain *chain;
    Chain own;
    struct AllocatorObject *upstream;
    PyObject *handle; /* of the C structure behind port; outlives close, so that no call finds it gone */
    PyObject *core;   /* the control plane */
    PyObject *left;   /* of a closed one: its description and its owner, which its upstream knew */
    PyObject *weakrefs;
    Py_ssize_t users;
    uint64_t id;    /* of the process's allocators, never used again; 0: not attached */
    size_t natural; /* what alloc() takes without a size; 0: it needs one */
#ifdef Py_GIL_DISABLED
    _Atomic(PyObject *) guard; /* see guard.h; itself until it is attached */
#endif
    int depth; /* allocators in the chain, this one included */
    Rewinds rewinds;
    bool attached, closed, wraps, autofree;
};

typedef enum { LIVE, FREED, STALE, ORPHAN, DYING, DAMAGED } BlockState;

/* An orphan was collected where its allocator would not take it back: in another thread, or below the top of a
 * stack. It stays on the list without being an object any more (no references, allocator borrowed) until it can
 * be given back, or its allocator goes. A DYING block becomes an orphan once the callbacks of its weak references have run:
 * until then no other code may reuse it. A DAMAGED block is a dying one that the allocator found written over.
 * Invariants:
 *   state is none of FREED and STALE <=> the block is on allocator->chain's list
 *   exports > 0 => state == LIVE
 *   state == ORPHAN and not chain->lifo <=> the block is on chain->first_orphan's list */
struct BlockObject {
    PyObject_HEAD
    AllocatorObject *allocator;
    char *ptr;
    Py_ssize_t size;
    BlockObject *older, *newer;
    uint64_t serial;
    PyObject *weakrefs;
    union {
        Py_ssize_t exports;
        BlockObject *next_orphan; /* of an orphan, and of a block that held.c has yet to deallocate */
    };
    uint32_t align;
    uint16_t state;
    bool damage_told; /* a call about it has failed as it was written over */
};

extern PyTypeObject nm__allocator_type, nm__block_type;

/* The guard of an allocator and of its chain. It is that of the chain's lowest allocator, whose handle those of all others
 * keep, so that it lasts as long as any of them, whichever is closed. What an allocator is not attached to yet is not shared:
 * until then it is the allocator itself, and a call that comes into the midst of that waits and takes the new one. */
#ifdef Py_GIL_DISABLED
static inline void nm__guard_allocator(PyCriticalSection *section, AllocatorObject *a) {
    for (;;) {
        PyObject *guard = atomic_load(&a->guard);
        PyCriticalSection_Begin(section, guard);
        if (NM_LIKELY(guard == atomic_load(&a->guard))) return;
        PyCriticalSection_End(section);
    }
}
#define NM_GUARD_ALLOCATOR(allocator) \
    NM_GUARD_SECTION;                 \
    nm__guard_allocator(&nm__guard_section, allocator)
#else
#define NM_GUARD_ALLOCATOR(allocator) ((void)0)
#endif
#define NM_GUARD_BLOCK(block) NM_GUARD_ALLOCATOR((block)->allocator)

#endif
