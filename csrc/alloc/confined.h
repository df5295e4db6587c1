/* Confinement: which thread an allocator without a lock belongs to, for arena, stack, pool and slab.
 *
 * The owner is a thread's number, or that of a Locked, for which the thread that holds its lock acts. A call of any other
 * thread is refused with NM_WRONG_THREAD and changes nothing. Numbers are never used again, so a new thread cannot be taken
 * for one that has ended. What it cannot do: stop a thread that calls without asking. Not installed. */
#ifndef NM__CONFINED_H
#define NM__CONFINED_H

#include "base/base.h"

/* Invariant:  owner != 0. Written by the owner only, when it hands over. */
typedef struct nm__confined {
    uintptr_t owner;
} nm__confined;

/* Confines to the calling thread. */
NM_INLINE nm__confined nm__confine(void) { return (nm__confined){nm__thread_id()}; }
NM_INLINE bool nm__confined_here(const nm__confined *c) { return nm__may_use(c->owner); }
static inline nm_status nm__confined_check(const nm__confined *c) {
    return nm__confined_here(c) ? NM_OK : nm__fail(NM_WRONG_THREAD, 0, 0, 0);
}
/* NM_WRONG_THREAD: it is not the caller's to hand over. */
static inline nm_status nm__confined_hand_over(nm__confined *c, uintptr_t thread) {
    if (!nm__confined_here(c)) return nm__confined_check(c);
    c->owner = thread;
    return NM_OK;
}

#endif
