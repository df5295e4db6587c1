#include "engine/array_charges.h" /* first: Python.h wants to be */

#include "engine/engine.h"
#include "wrap/sites.h"

#include <sched.h>

nm_heap *nm__array_heap;

/* Every array that is charged to an owner. The lock is held for a few instructions. Under the interpreter's lock a thread
 * waits for it only where another interpreter has a lock of its own. */
static struct {
    atomic_bool locked;
    nm__sites table; /* site: the owner */
} array_charges;

NM_INLINE void array_lock(void) {
    while (NM_UNLIKELY(atomic_exchange_explicit(&array_charges.locked, true, memory_order_acquire))) sched_yield();
}

NM_INLINE void array_unlock(void) { atomic_store_explicit(&array_charges.locked, false, memory_order_release); }

bool nm__array_start(void) {
    static atomic_bool watches_forks;
    if (nm__array_heap != NULL) return true;
    nm_heap *heap = nm__engine_own_heap(nm__charge_process), *none = NULL;
    if (heap == NULL) return false;
    if (!__atomic_compare_exchange_n(&nm__array_heap, &none, heap, false, __ATOMIC_ACQ_REL, __ATOMIC_ACQUIRE))
        nm_heap_destroy(heap); /* another thread came first */
    if (!atomic_exchange(&watches_forks, true)) (void)pthread_atfork(array_lock, array_unlock, array_unlock);
    return true;
}

static void array_release(nm__owner *o, size_t bytes) { (void)nm_budget_release(o->budget, bytes); }

static bool array_hold(nm__owner *o, size_t bytes) { return nm_budget_charge(o->budget, bytes); }

/* Room in the table, and a claim on the owner. */
static bool array_promise(nm__owner *o) {
    array_lock();
    bool promised = nm__sites_promise(&array_charges.table);
    array_unlock();
    if (promised) nm__owner_claim(o);
    return promised;
}

static void array_keep_promise(nm__owner *o, void *ptr, size_t bytes) {
    array_lock();
    if (ptr != NULL) nm__sites_add(&array_charges.table, (nm__site){ptr, bytes, (uintptr_t)o});
    else nm__sites_forget_promise(&array_charges.table);
    array_unlock();
    if (ptr == NULL) nm__owner_let_go(o);
}

bool nm__array_charge(size_t bytes) {
    if (!array_hold(nm__charge_now.owner, bytes)) return false;
    nm__atomic_add(&nm__charge_now.owner->arrays, 1);
    return true;
}

void nm__array_credit(size_t bytes) { array_release(nm__charge_now.owner, bytes); }

bool nm__array_know(void *ptr, size_t bytes) {
    nm__owner *o = nm__charge_now.owner;
    array_lock();
    bool promised = nm__sites_promise(&array_charges.table);
    if (promised) nm__sites_add(&array_charges.table, (nm__site){ptr, bytes, (uintptr_t)o});
    array_unlock();
    if (promised) nm__owner_claim(o);
    return promised;
}

/* site 0: not known. keep_room: it may be put back. */
static nm__site array_take(void *ptr, bool keep_room) {
    nm__site known = {NULL, 0, 0};
    array_lock();
    nm__site *found = nm__sites_find(&array_charges.table, ptr);
    if (found != NULL) {
        known = nm__sites_take(&array_charges.table, found);
        if (!keep_room) nm__sites_forget_promise(&array_charges.table);
    }
    array_unlock();
    return known;
}

void nm__array_forget(void *ptr) {
    nm__site known = array_take(ptr, false);
    nm__owner *o = (nm__owner *)known.site;
    if (o == NULL) return;
    array_release(o, known.size);
    nm__owner_let_go(o);
}

static PyObject *array_budget(PyObject *module, PyObject *address) {
    (void)module;
    const void *ptr = PyLong_AsVoidPtr(address);
    if (ptr == NULL && PyErr_Occurred()) return NULL;
    array_lock();
    const nm__site *found = nm__sites_find(&array_charges.table, ptr);
    void *budget = found == NULL ? NULL : ((nm__owner *)found->site)->budget;
    array_unlock();
    return PyLong_FromVoidPtr(budget);
}

static void array_forget_room(void) {
    array_lock();
    nm__sites_forget_promise(&array_charges.table);
    array_unlock();
}

static void array_put_back(const nm__recharge *change, void *ptr) {
    array_lock();
    nm__sites_add(&array_charges.table, (nm__site){ptr, change->had, (uintptr_t)change->before});
    array_unlock();
}

/* Grown or shrunk in one owner's hands only the difference counts: what is full may still shrink. Once the array has moved its
 * address may be another's, in another thread: so it is not known while it moves. */
bool nm__array_recharge(void *ptr, size_t bytes, nm__recharge *change) {
    nm__site known = array_take(ptr, true);
    nm__owner *owner = nm__charge_now.owner, *before = (nm__owner *)known.site;
    size_t more = owner == NULL ? 0 : owner != before ? bytes : bytes > known.size ? bytes - known.size : 0;
    *change = (nm__recharge){owner, before, bytes, known.size, more};
    if (owner == NULL) return true;
    bool held = more == 0 || array_hold(owner, more);
    if (held && array_promise(owner)) return true;
    if (held) array_release(owner, more);
    if (before != NULL) array_put_back(change, ptr);
    return false;
}

void nm__array_moved(const nm__recharge *change, void *ptr, void *moved) {
    nm__owner *owner = change->owner, *before = change->before;
    if (moved == NULL) {
        if (before != NULL) array_put_back(change, ptr);
        if (owner == NULL) return;
        array_release(owner, change->more);
        array_keep_promise(owner, NULL, 0);
        return;
    }
    if (before != NULL) {
        array_forget_room();
        if (before != owner) array_release(before, change->had);
        else if (change->had > change->bytes) array_release(before, change->had - change->bytes);
        nm__owner_let_go(before);
    }
    if (owner != NULL) array_keep_promise(owner, moved, change->bytes);
}

void nm__array_add_census(nm_census *sum) {
    if (nm__array_heap != NULL) nm__census_add_heap(sum, nm__array_heap);
}

int nm__array_charges_add(PyObject *module) {
    static PyMethodDef methods[] = {
        {"scope_array_budget", array_budget, METH_O, "Address of the budget that an array is charged to, or 0."},
        {NULL, NULL, 0, NULL}};
    return PyModule_AddFunctions(module, methods);
}
