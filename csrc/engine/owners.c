#include "engine/owners.h" /* first: Python.h wants to be */

#include "engine/array_charges.h"
#include "engine/denials.h"
#include "engine/engine.h"
#include "heap/heap.h"
#include "tuning.h"

/* Those that are retired, the next to be looked at first. */
static struct {
    nm__owner *first, **end;
} owner_retired = {NULL, &owner_retired.first};

/* Every owner, with what those that are gone have served. */
static struct {
    nm__owner *newest;
    uint64_t numbers;
    nm_census past;
} owner_all;

static nm__threads_in owner_threads; /* that allocate from one */

static void owner_in_child(void) { /* without the other threads */
    nm__set(&owner_threads.in, nm__charge_now.owner != NULL);
    atomic_store(&owner_threads.out, 0);
}

/* Those that are in are counted out later, so the order in which the two are read matters to no answer but a late one. */
static bool owner_has_threads(nm__threads_in *t) { return atomic_load(&t->out) != atomic_load(&t->in); }

void nm__owner_stop_looking(void) {
    nm__engine_begin_turn();
    if (nm__charge_scopes.entries == 0 && !owner_has_threads(&owner_threads)) nm__engine_look_for_scopes(false);
    nm__engine_end_turn();
}

/* Pre: there is no reference to it, so that no thread comes to be inside. What a thread charges it does inside: so it is asked
 * first whether there is one. */
static bool owner_is_done(nm__owner *o) {
    return !owner_has_threads(&o->inside) && atomic_load(&o->charges) == 0 && nm__heap_held(o->heap) == 0;
}

/* Its objects' heap, where objects are served. Without the interpreter's lock they are not (decision 90): it serves nothing, and
 * a look at its counts would wait for its lock in the midst of a turn. */
#ifdef Py_GIL_DISABLED
static void owner_enter_heap(const nm__owner *o) { (void)o; }
static void owner_detach_heap(const nm__owner *o) { (void)o; }
static void owner_add_served(nm_census *sum, const nm__owner *o) { (void)sum, (void)o; }
#else
static void owner_enter_heap(const nm__owner *o) {
    nm__charge_now.heap = o == NULL ? NULL : o->heap;
    nm__heap_enter(nm__charge_heap(nm__engine.heap));
}
static void owner_detach_heap(const nm__owner *o) { nm__heap_detach(o->heap); }
static void owner_add_served(nm_census *sum, const nm__owner *o) { nm__census_add_heap(sum, o->heap); }
#endif

void nm__owner_enter(nm__owner *o) {
    nm__now *now = &nm__charge_now;
    nm__owner *left = now->owner;
    if (o == left) return;
    if (o != NULL) {
        nm__thread_goes_in(&o->inside);
        nm__arm_thread_end();
    }
    if (left != NULL) nm__denial_leave_owner(left);
    if (left == NULL) nm__thread_goes_in(&owner_threads);
    else if (o == NULL) nm__thread_goes_out(&owner_threads);
    now->owner = o;
    owner_enter_heap(o);
    if (left != NULL) nm__thread_goes_out(&left->inside);
}

static void owner_count_out(nm__owner *o) {
    atomic_fetch_add(&owner_threads.out, 1);
    atomic_fetch_add(&o->inside.out, 1);
}

void nm__owner_enter_none_elsewhere(void) {
    nm__owner *left = nm__charge_now.owner;
    if (left == NULL) return;
    nm__denial_leave_owner(left);
    nm__charge_now.owner = NULL;
    owner_enter_heap(NULL);
    owner_count_out(left); /* last: from here on a thread with the owners' lock may destroy the heap that was left */
}

static void owner_at_thread_end(void) {
    nm__now *now = &nm__charge_now;
    if (now->owner != NULL) owner_count_out(now->owner);
    *now = (nm__now){.settled = NM__NO_THREAD};
}

void nm__owner_leave(nm__owner *o) {
    nm__now *now = &nm__charge_now;
    if (now->owner == o) nm__owner_enter(NULL);
    nm__charge_forget(); /* the code that runs may be in it still, from further out */
    owner_detach_heap(o);
}

static void owner_list(nm__owner *o) {
    nm__engine_begin_turn();
    o->number = ++owner_all.numbers;
    o->older = owner_all.newest;
    if (o->older != NULL) o->older->newer = o;
    owner_all.newest = o;
    nm__engine_end_turn();
}

static void owner_unlist(nm__owner *o) {
    nm__engine_begin_turn();
    if (o->newer != NULL) o->newer->older = o->older;
    else owner_all.newest = o->older;
    if (o->older != NULL) o->older->newer = o->newer;
    owner_add_served(&owner_all.past, o);
    nm__engine_end_turn();
}

void nm__owner_add_census(nm_census *sum) {
    nm__engine_begin_turn();
    nm__census_add(sum, &owner_all.past);
    for (const nm__owner *o = owner_all.newest; o != NULL; o = o->older) owner_add_served(sum, o);
    nm__engine_end_turn();
}

void nm__owner_each(void (*call)(const nm__owner *o)) {
    for (const nm__owner *o = owner_all.newest; o != NULL; o = o->older) call(o);
}

static void (*owner_at_end)(const nm__owner *o);
void nm__owner_at_end(void (*call)(const nm__owner *o)) { owner_at_end = call; }

static void owner_destroy(nm__owner *o) {
    owner_unlist(o);
    nm_heap_destroy(o->heap);
    if (owner_at_end != NULL) owner_at_end(o);
    Py_XDECREF(o->budgets_handle);
    Py_XDECREF(o->name);
    PyMem_RawFree(o);
}

static void owner_retire(nm__owner *o) {
    nm__engine_begin_turn();
    o->next = NULL;
    *owner_retired.end = o;
    owner_retired.end = &o->next;
    nm__engine_end_turn();
}

/* NULL: there is none. */
static nm__owner *owner_take_retired(void) {
    nm__engine_begin_turn();
    nm__owner *o = owner_retired.first;
    if (o != NULL) owner_retired.first = o->next;
    if (owner_retired.first == NULL) owner_retired.end = &owner_retired.first;
    nm__engine_end_turn();
    return o;
}

void nm__owner_collect_retired(void) {
    nm__owner *o;
    for (int i = 0; i < NM_SCOPE_TURN && (o = owner_take_retired()) != NULL; i++) {
        if (nm__charge_now.owner != o) owner_detach_heap(o); /* what this thread keeps of it */
        if (owner_is_done(o)) owner_destroy(o); /* runs no Python code but handles' */
        else owner_retire(o);
    }
}

static void owner_dealloc(OwnerObject *self) {
    nm__owner *o = self->owner;
    if (o != NULL) {
        nm__owner_leave(o);
        if (owner_is_done(o)) owner_destroy(o);
        else owner_retire(o);
    }
    PyObject_Free(self);
}

PyTypeObject nm__owner_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nativemem._dataplane.Owner",
    .tp_doc = "A budget's heap, to be entered.",
    .tp_basicsize = sizeof(OwnerObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)owner_dealloc,
};

static PyObject *owner_make(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *handle, *name;
    unsigned long long address;
    int asks;
    if (!PyArg_ParseTuple(args, "OKpU", &handle, &address, &asks, &name)) return NULL;
    if (nm__engine_is_missing()) return NULL;
    nm__owner_collect_retired();
    OwnerObject *self = PyObject_New(OwnerObject, &nm__owner_type);
    if (self == NULL) return NULL;
    self->owner = NULL;
    nm__owner *o = PyMem_RawCalloc(1, sizeof *o);
    nm_budget *budget = (nm_budget *)(uintptr_t)address;
    nm_heap *heap = o == NULL || !nm__array_start() ? NULL : nm__engine_own_heap(budget);
    if (heap == NULL) {
        PyMem_RawFree(o);
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    nm__heap_share(heap, nm__charge_process);
    *o = (nm__owner){
        .heap = heap, .budget = budget, .budgets_handle = Py_NewRef(handle), .name = Py_NewRef(name), .asks = asks != 0};
    atomic_store_explicit(&nm__engine.has_owners, true, memory_order_relaxed);
    owner_list(o);
    self->owner = o;
    return (PyObject *)self;
}

/* (owner, name, most): False, and nothing is changed, where its budget refused a request or has more than `most` bytes in
 * use. Pre: that of nm__budget_renew. What was noted of the owner until now stays under the name and number that it had. */
static PyObject *owner_renew(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *owner, *name;
    Py_ssize_t most;
    if (!PyArg_ParseTuple(args, "O!Un", &nm__owner_type, &owner, &name, &most)) return NULL;
    nm__owner *o = ((OwnerObject *)owner)->owner;
    const char *label = PyUnicode_AsUTF8(name);
    if (label == NULL) return NULL;
    if (nm_budget_denied(o->budget) != 0 || nm_budget_used(o->budget) > (size_t)most) Py_RETURN_FALSE;
    if (owner_at_end != NULL) owner_at_end(o);
    PyObject *before = o->name;
    o->name = Py_NewRef(name);
    nm__engine_begin_turn();
    o->number = ++owner_all.numbers;
    nm__engine_end_turn();
    nm__budget_renew(o->budget, label);
    Py_XDECREF(before);
    Py_RETURN_TRUE;
}

/* The calling thread's superblocks of the owner, where it does not allocate from it now. */
static PyObject *owner_detach(PyObject *module, PyObject *owner) {
    (void)module;
    if (!Py_IS_TYPE(owner, &nm__owner_type) || ((OwnerObject *)owner)->owner == NULL) {
        PyErr_SetString(PyExc_TypeError, "takes an owner");
        return NULL;
    }
    nm__owner *o = ((OwnerObject *)owner)->owner;
    nm__charge_sync();
    if (nm__charge_now.owner != o) owner_detach_heap(o);
    Py_RETURN_NONE;
}

int nm__owners_add(PyObject *module) {
    static PyMethodDef methods[] = {{"scope_owner", owner_make, METH_VARARGS, "A budget's heap, to be entered."},
                                    {"scope_renew", owner_renew, METH_VARARGS, "Its budget begins anew, by another name."},
                                    {"scope_detach", owner_detach, METH_O, "What is empty of an owner goes back."},
                                    {NULL, NULL, 0, NULL}};
    static bool watches;
    if (PyType_Ready(&nm__owner_type) < 0) return -1;
    if (!watches) {
        nm__at_thread_end(owner_at_thread_end);
        (void)pthread_atfork(NULL, NULL, owner_in_child);
        watches = true;
    }
    return PyModule_AddFunctions(module, methods);
}
