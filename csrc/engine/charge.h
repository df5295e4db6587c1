/* What the running code's allocations are charged to: where the hooks, the overdraft and the scopes meet.
 *
 * Above stand the scopes, which find the owner out; below stands what only charges it. This file knows the result: the
 * owner that the calling thread allocates in the name of, and the budget of the process.
 */
#ifndef NM__CHARGE_H
#define NM__CHARGE_H

#include "engine/python.h"

#include "base/base.h"
#include "nativemem/budget.h"
#include "nativemem/heap.h"

#pragma GCC visibility push(hidden) /* so that no access takes a detour through a table of the loader's */

/* Threads, counted where an operation that other threads see whole would be half of what entering takes. There are in - out. */
typedef struct nm__threads_in {
    nm__counter in; /* as the interpreter's lock is held, so without one */
    _Atomic size_t out; /* of these, those that left without it: at their end, or in another interpreter */
} nm__threads_in;

/* An owner is a budget with a heap of its own. It outlives the last reference to it as long as something that was charged to
 * it is in use. All of it is used under the interpreter's lock, but for `charges` and `inside`; where there is no such lock,
 * the turn (engine.h) is that of `next`, `newer` and `older`, and the rest stays as it was made. */
typedef struct nm__owner {
    nm_heap *heap; /* of its objects */
    nm_budget *budget;
    PyObject *budgets_handle; /* strong */
    PyObject *name; /* strong: a str */
    uint64_t number; /* of the process's owners, never used again */
    nm__counter arrays; /* charged so far */
    _Atomic size_t charges; /* what is charged to it one by one: arrays, and blocks of the overdraft */
    atomic_bool due; /* the code that it is charged for is still to get a MemoryError */
    atomic_bool told; /* that code got one, and the budget has not recovered since */
    bool asks; /* there is a callback that may free memory before a request is refused */
    nm__threads_in inside; /* that allocate from it, as far as they have found out */
    struct nm__owner *next; /* of those that are retired */
    struct nm__owner *newer, *older; /* of all */
} nm__owner;

/* What is charged to an owner one by one keeps it, from the claim until it is let go. */
static inline void nm__owner_claim(nm__owner *o) { atomic_fetch_add(&o->charges, 1); }
static inline void nm__owner_let_go(nm__owner *o) { atomic_fetch_sub(&o->charges, 1); }

/* What the thread allocates from, as far as it was found out.
 * Invariant: settled == thread, or NM__NO_THREAD where generators that have entered scopes may be resumed. */
typedef struct nm__now {
    const PyThreadState *settled;
    const PyThreadState *thread; /* NULL: it is to be found out anew */
    uint64_t id, version; /* of the thread state, whose place may be another's later; and nm__charge_version */
    const void *running; /* the innermost generator that ran */
    bool unsettled; /* to be found out each time: generators have entered */
    bool aside; /* no owner is charged: a scope is being entered or left */
    nm__owner *owner; /* NULL: none */
    nm_heap *heap; /* NULL: the engine's own */
} nm__now;
extern NM_TLS nm__now nm__charge_now;
#define NM__NO_THREAD ((const PyThreadState *)1) /* no thread has this state, and none may have NULL */

/* Of all threads, under the interpreter's lock, or in turn (engine.h). */
typedef struct nm__charge_counts {
    size_t entries; /* scopes, open ones and those that something still refers to */
    size_t roaming; /* open ones that other contexts may resume: those of generators and async generators */
    uint64_t changes; /* that no thread's context shows: a scope was ended in another one, or is the first that roams */
} nm__charge_counts;
extern nm__charge_counts nm__charge_scopes;

/* Finds the owner out anew, for the calling thread: set by the scopes. In the midst of an allocation, so it allocates
 * nothing, sets no error and runs no Python code. */
extern void (*nm__charge_find)(PyThreadState *thread);

/* Read where it may not be the thread's turn. */
NM_INLINE uint64_t nm__charge_changes(void) {
#ifdef Py_GIL_DISABLED
    return __atomic_load_n(&nm__charge_scopes.changes, __ATOMIC_RELAXED);
#else
    return nm__charge_scopes.changes;
#endif
}

/* Whether there are scopes that other contexts may resume. Without the interpreter's lock there are none: frames of other threads
 * are not to be read there (decision 90). */
NM_INLINE bool nm__charge_roams(void) {
#ifdef Py_GIL_DISABLED
    return false;
#else
    return nm__charge_scopes.roaming != 0;
#endif
}

/* Grows whenever another owner may be charged in the thread: both of the sum only grow, so one number stands for the two. */
NM_INLINE uint64_t nm__charge_version(const PyThreadState *thread) { return thread->context_ver + nm__charge_changes(); }

/* Whether nm__charge_now is true, as far as that is seen without a look at generators. This is before each block: as few
 * instructions as it takes. */
NM_INLINE bool nm__charge_is_known(void) {
    const PyThreadState *thread = nm__thread_state();
    const nm__now *now = &nm__charge_now;
    return NM_LIKELY(thread == now->settled) && NM_LIKELY(nm__charge_version(thread) == now->version) &&
           NM_LIKELY(thread->id == now->id);
}

void nm__charge_sync_slowly(void);
/* Post: nm__charge_now is true. The interpreter's lock is held, or there is no thread state. */
NM_INLINE void nm__charge_sync(void) {
    if (NM_UNLIKELY(!nm__charge_is_known())) nm__charge_sync_slowly();
}
/* It is to be found out anew. */
NM_INLINE void nm__charge_forget(void) {
    nm__charge_now.settled = NM__NO_THREAD;
    nm__charge_now.thread = NULL;
}
NM_INLINE nm_heap *nm__charge_heap(nm_heap *engines) {
    nm_heap *heap = nm__charge_now.heap;
    return heap != NULL ? heap : engines;
}

/* The process's budget, which each charge of an owner goes to as well; NULL before the engine is started. */
extern nm_budget *nm__charge_process;
/* Charges an owner, which may be NULL, and the process; how: nm__budget_hold or another that is settled later. false:
 * one of the two refused, and neither is charged. */
bool nm__charge_both(nm__owner *o, size_t bytes, bool (*how)(nm_budget *, size_t));
void nm__charge_release(nm__owner *o, size_t bytes);
void nm__charge_settle(nm__owner *o);

#pragma GCC visibility pop

#endif
