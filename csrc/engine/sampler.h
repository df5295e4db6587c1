/* The sampled heap profile: of what the engine serves, each byte has the same small chance of being noted, and with it the
 * block, the Python code that asked for it, and the owner that it is charged to.
 *
 * It cannot note what other allocators serve, nor give a line for memory that was asked for without the interpreter's lock. */
#ifndef NM__SAMPLER_H
#define NM__SAMPLER_H

#include "engine/python.h"

#include "base/poisson.h"
#include "observe/recording.h"

#pragma GCC visibility push(hidden) /* so that no access takes a detour through a table of the loader's */

/* Read without a lock, by each call that gives memory back. */
extern atomic_bool nm__sampler_on;
NM_INLINE bool nm__sampler_is_on(void) { return atomic_load_explicit(&nm__sampler_on, memory_order_relaxed); }

/* The thread's gate for what does not pass that of its thread heap. */
extern NM_TLS nm__gate nm__sampler_gate;
/* A block whose turn it was was served. Keeps errno and the error that is set; allocates no object. */
void nm__sampler_note(const void *ptr, size_t size, nm__origin origin);
/* A block of an allocator's whose turn it was: under the address of its object, which is inside a block of the engine's and
 * so is no other's. owner: the name of the budget that it is charged to, a str; NULL: there is none. With the interpreter's
 * lock. Given back, or dropped with its allocator, the object is passed to nm__sampler_freeing. */
void nm__sampler_note_block(const void *object, size_t size, PyObject *owner);
/* Counts what is about to be served; true: its turn may have come. */
NM_INLINE bool nm__sampler_is_due(size_t size) { return nm__gate_is_due(&nm__sampler_gate, size); }
/* Whether it has: where it is due. */
bool nm__sampler_turn(nm__gate *gate, size_t size);

/* How many noted blocks there may be of an address, by a hash of it: a count that came to 255 stays. */
#define NM__SAMPLER_FILTER ((size_t)1 << 15)
extern _Atomic uint8_t nm__sampler_filter[NM__SAMPLER_FILTER];
NM_INLINE size_t nm__sampler_hash(const void *ptr) {
    return (size_t)(((uint64_t)(uintptr_t)ptr * UINT64_C(0x9E3779B97F4A7C15)) >> 49);
}
_Static_assert(NM__SAMPLER_FILTER == (size_t)1 << (64 - 49), "the hash has as many values as the filter has counts");

void nm__sampler_forget(const void *ptr);
/* A block is about to be given back: after that it may be another's. */
NM_INLINE void nm__sampler_freeing(const void *ptr) {
    if (NM_LIKELY(!nm__sampler_is_on())) return;
    if (NM_UNLIKELY(atomic_load_explicit(&nm__sampler_filter[nm__sampler_hash(ptr)], memory_order_relaxed) != 0))
        nm__sampler_forget(ptr);
}

/* The limit of an owner (NULL: the process) refused a request. */
struct nm__owner;
void nm__sampler_refused(const struct nm__owner *owner, size_t requested, size_t used, size_t limit);

int nm__sampler_add(PyObject *module);

#pragma GCC visibility pop

#endif
