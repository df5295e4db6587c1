/* The owners: their heaps, the threads that allocate from them, and their ends.
 *
 * An owner whose budget is gone is retired: it stays until nothing that was charged to it is in use. There may be many, so
 * a few are looked at in turn.
 */
#ifndef NM__OWNERS_H
#define NM__OWNERS_H

#include "engine/census.h"
#include "engine/charge.h"

typedef struct OwnerObject {
    PyObject_HEAD
    nm__owner *owner;
} OwnerObject;
extern PyTypeObject nm__owner_type;

/* Pre: the lock of the interpreter that has the owners is held, where it has one. */
#ifdef Py_GIL_DISABLED
static inline void nm__thread_goes_in(nm__threads_in *t) { atomic_fetch_add(&t->in, 1); }
static inline void nm__thread_goes_out(nm__threads_in *t) { atomic_fetch_sub(&t->in, 1); }
#else
static inline void nm__thread_goes_in(nm__threads_in *t) { nm__bump(&t->in, 1); }
static inline void nm__thread_goes_out(nm__threads_in *t) { nm__bump(&t->in, (size_t)-1); }
#endif

/* Where threads do not wait for each other an owner that was found in the entry of a scope is held until the thread is inside.
 * Pre: the owner's object is referred to; NULL: none. */
#ifdef Py_GIL_DISABLED
static inline void nm__owner_hold(nm__owner *o) {
    if (o != NULL) nm__thread_goes_in(&o->inside);
}
static inline void nm__owner_release(nm__owner *o) {
    if (o != NULL) nm__thread_goes_out(&o->inside);
}
#else
static inline void nm__owner_hold(nm__owner *o) { (void)o; }
static inline void nm__owner_release(nm__owner *o) { (void)o; }
#endif
/* What the calling thread allocates from; NULL: no owner's. It is found out anew when it may have changed. Pre: that of
 * nm__thread_goes_in. */
void nm__owner_enter(nm__owner *o);
/* The thread is in another interpreter, and in no owner. */
void nm__owner_enter_none_elsewhere(void);
/* A scope of the owner ends in the calling thread: later blocks come from elsewhere, and what is empty goes back. */
void nm__owner_leave(nm__owner *o);
/* As long as there is neither an entry nor a thread that allocates from an owner, no thread is in a scope. */
void nm__owner_stop_looking(void);
void nm__owner_collect_retired(void);

void nm__owner_each(void (*call)(const nm__owner *o)); /* with the interpreter's lock */
/* What is called when an owner's heap is gone, and it is about to be forgotten. One; with the interpreter's lock. */
void nm__owner_at_end(void (*call)(const nm__owner *o));

/* What all owners have served, those that are gone as well. */
void nm__owner_add_census(nm_census *sum);
int nm__owners_add(PyObject *module);

#endif
