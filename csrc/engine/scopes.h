/* Who what the running code allocates is charged to.
 *
 * An owner is a budget with a heap of its own. `with budget:` pushes an entry onto a list that a context variable
 * holds, so the owner follows threads, contexts and tasks as the variable does. One thing it does not follow: an entry
 * that a generator or coroutine made counts only while that runs; a generator's wherever that runs.
 */
#ifndef NM__SCOPES_H
#define NM__SCOPES_H

#include "engine/python.h"

#include "heap/heap.h"
#include "base/base.h"

typedef struct nm__owner nm__owner;

/* What the thread allocates from, as far as it was found out. */
typedef struct nm__now {
    PyThreadState *thread;
    uint64_t id, version; /* of the thread state, whose place may be another's later; and of its context */
    const void *running; /* the innermost generator that ran */
    size_t elsewhere;    /* as of all, when it was found out */
    bool unsettled;    /* to be found out each time: generators have entered */
    bool aside;        /* nobody is charged: a scope is being left */
    nm__owner *owner;  /* NULL: nobody's */
    nm_heap *heap;     /* NULL: the engine's own */
} nm__now;
extern NM_TLS nm__now nm__scope_now;
/* Of all threads, under the interpreter's lock: how many scopes are open that other contexts may resume, those of
 * generators and async generators; and how many have been ended in other contexts than their own. */
typedef struct nm__scopes {
    size_t roaming, elsewhere;
} nm__scopes;
extern nm__scopes nm__scope_all;

/* The interpreter's lock is held, or there is no thread state. */
void nm__scope_find(PyThreadState *thread);
NM_INLINE void nm__scope_sync(void) {
    PyThreadState *thread = nm__thread_state();
    nm__now *now = &nm__scope_now;
    if (NM_UNLIKELY(thread == NULL)) return;
    if (NM_UNLIKELY(thread != now->thread || thread->context_ver != now->version || thread->id != now->id || now->unsettled ||
                    now->elsewhere != nm__scope_all.elsewhere ||
                    (nm__scope_all.roaming != 0 && thread->exc_info != now->running)))
        nm__scope_find(thread);
}
NM_INLINE nm_heap *nm__scope_heap(nm_heap *engines) {
    nm_heap *heap = nm__scope_now.heap;
    return heap != NULL ? heap : engines;
}

/* Arrays are charged one by one. */
/* To the owner of now, of whom there is one: charged before it is had; known after, or given back. false: refused. */
bool nm__scope_charge_array(size_t bytes);
bool nm__scope_know_array(void *ptr, size_t bytes);
void nm__scope_credit_array(size_t bytes);
void nm__scope_forget_array(void *ptr);
/* A realloc: charged first, to who runs now; then what came of it, NULL for nothing. */
typedef struct nm__recharge {
    nm__owner *owner, *before;
    size_t bytes, had, more;
} nm__recharge;
bool nm__scope_recharge_array(void *ptr, size_t bytes, nm__recharge *change); /* false: refused */
void nm__scope_moved_array(const nm__recharge *change, void *ptr, void *moved);

/* What is charged to an owner one by one keeps it, from the claim until it is let go. */
nm_budget *nm__owner_budget(const nm__owner *o);
void nm__owner_claim(nm__owner *o);
void nm__owner_let_go(nm__owner *o);
atomic_bool *nm__owner_due(nm__owner *o);  /* the code that it is charged for is still to get a MemoryError */
atomic_bool *nm__owner_told(nm__owner *o); /* that code got one, and the budget has not recovered since */
bool nm__owner_asks(const nm__owner *o);   /* there is a callback that may free memory before a request is refused */
PyObject *nm__scope_name_of_modules(void); /* "__name__", borrowed */

/* What all owners have served, those that are gone as well. */
void nm__scope_add_census(nm_census *sum);

/* Functions of the module; each is called with the interpreter's lock held. */
PyObject *nm__scope_owner(PyObject *module, PyObject *args); /* (budget's handle, its address, whether it asks) -> owner */
PyObject *nm__scope_current(PyObject *module, PyObject *unused);
PyObject *nm__scope_aside(PyObject *module, PyObject *call);
PyObject *nm__scope_array_budget(PyObject *module, PyObject *address); /* -> its budget's address, or 0 */
/* Makes the types, the variable, and the methods of a budget that begin and end a scope; -1 with an error set. */
int nm__scope_ready(PyObject *module);
/* Calls it with nobody charged. */
int nm__scope_without(int (*call)(void));

#endif
