#include "binding/lifetime.h" /* first: Python.h wants to be */

#include "heap/heap.h"
#include "binding/allocator.h"
#include "binding/chain.h"
#include "binding/handles.h"
#include "binding/hooks.h"

#ifdef Py_GIL_DISABLED
static void lifetime_guard_two(PyCriticalSection2 *sections, AllocatorObject *a, AllocatorObject *up) {
    for (;;) {
        PyObject *own = atomic_load(&a->guard), *its = up == NULL ? own : atomic_load(&up->guard);
        PyCriticalSection2_Begin(sections, own, its);
        if (own == atomic_load(&a->guard) && (up == NULL || its == atomic_load(&up->guard))) return;
        PyCriticalSection2_End(sections);
    }
}
#define NM_GUARD_ATTACH(allocator, up)                                                 \
    __attribute__((cleanup(nm__guard_end_two))) PyCriticalSection2 nm__guard_sections; \
    lifetime_guard_two(&nm__guard_sections, allocator, up)

/* The last act of attaching: calls that waited for the allocator itself take this one. */
static void lifetime_set_guard(AllocatorObject *a) {
    atomic_store(&a->guard, a->wraps ? atomic_load(&a->upstream->guard) : a->handle);
}
static uint64_t lifetime_new_id(void) {
    static _Atomic uint64_t ids;
    return atomic_fetch_add(&ids, 1) + 1;
}
#else
#define NM_GUARD_ATTACH(allocator, up) ((void)0)
static void lifetime_set_guard(AllocatorObject *a) { (void)a; }
static uint64_t lifetime_new_id(void) {
    static uint64_t ids;
    return ++ids;
}
#endif

static PyObject *allocator_attach(AllocatorObject *a, PyObject *args) {
    PyObject *core, *upstream;
    int wraps, autofree;
    Py_ssize_t natural;
    if (!PyArg_ParseTuple(args, "OOppn", &core, &upstream, &wraps, &autofree, &natural)) return NULL;
    if (a->attached) {
        PyErr_Format(PyExc_RuntimeError, "%s: was initialised before", Py_TYPE(a)->tp_name);
        return NULL;
    }
    if (upstream != Py_None && !PyObject_TypeCheck(upstream, &nm__allocator_type)) {
        PyErr_SetString(PyExc_TypeError, "upstream must be an Allocator or None");
        return NULL;
    }
    PyObject *port = PyObject_GetAttrString(core, "port"); /* a slot: no Python code runs */
    if (port == NULL) return NULL;
    PyObject *handle;
    unsigned long long self, methods;
    int rewinds;
    if (!PyArg_ParseTuple(port, "O!KKi", &nm__handle_type, &handle, &self, &methods, &rewinds)) {
        Py_DECREF(port);
        return NULL;
    }
    Py_INCREF(handle);
    Py_DECREF(port);
    AllocatorObject *up = upstream == Py_None ? NULL : (AllocatorObject *)upstream;
    NM_GUARD_ATTACH(a, up);
    if (a->attached) { /* meanwhile */
        Py_DECREF(handle);
        PyErr_Format(PyExc_RuntimeError, "%s: was initialised before", Py_TYPE(a)->tp_name);
        return NULL;
    }
    if (up != NULL && (!up->attached || up->closed)) {
        Py_DECREF(handle);
        nm__raise_closed(up);
        return NULL;
    }
    a->id = lifetime_new_id();
    a->handle = handle;
    a->inner = a->port = (nm_allocator){(void *)(uintptr_t)self, (const nm_methods *)(uintptr_t)methods};
    a->core = Py_NewRef(core);
    a->wraps = wraps != 0;
    a->autofree = autofree != 0;
    a->rewinds = (Rewinds)rewinds;
    a->own.lifo = rewinds == REWINDS_STACK;
    a->natural = wraps && up != NULL ? up->natural : (size_t)natural;
    a->depth = up == NULL ? 1 : up->depth + 1;
    if (up != NULL) {
        a->upstream = (AllocatorObject *)Py_NewRef(upstream);
        up->users++;
        if (a->wraps) a->chain = up->chain;
        else up->chain->dependents++;
    }
    a->attached = true;
    lifetime_set_guard(a);
    Py_RETURN_NONE;
}

static PyObject *allocator_live(AllocatorObject *a, PyObject *unused) {
    NM_GUARD_ALLOCATOR(a);
    (void)unused;
    return nm__chain_list(a->chain, 0, a, false);
}

static PyObject *allocator_serial(AllocatorObject *a, PyObject *unused) {
    NM_GUARD_ALLOCATOR(a);
    (void)unused;
    return PyLong_FromUnsignedLongLong(a->chain->serial);
}

/* Makes every block of the chain newer than serial stale. false: refused with an error set, nothing changed. */
static bool lifetime_drop(AllocatorObject *a, uint64_t serial, const char *action) {
    Chain *chain = a->chain;
    Py_ssize_t users = chain->dependents;
    if (chain->exports != 0) {
        for (BlockObject *b = chain->newest; b != NULL && b->serial > serial; b = b->older)
            if (b->state == LIVE) users += b->exports;
    }
    if (users != 0) {
        nm__raise_exports(a, action, nm__chain_list(chain, serial, NULL, true), chain->dependents);
        return false;
    }
    if (a->rewinds == REWINDS_STACK) nm_stack_unwind(a->inner.self);
    while (chain->newest != NULL && chain->newest->serial > serial) nm__chain_retire(chain->newest);
    nm__chain_forget_retired(chain);
    return true;
}

static PyObject *allocator_reset(AllocatorObject *a, PyObject *unused) {
    NM_GUARD_ALLOCATOR(a);
    (void)unused;
    if (!nm__core_allows(a, "check") || !lifetime_drop(a, 0, "reset")) return NULL;
    if (a->rewinds == REWINDS_ARENA) (void)nm_arena_reset(a->inner.self);
    if (a->rewinds == REWINDS_STACK) (void)nm_stack_reset(a->inner.self);
    a->chain->generation++;
    Py_RETURN_NONE;
}

static PyObject *allocator_release(AllocatorObject *a, PyObject *args) {
    NM_GUARD_ALLOCATOR(a);
    unsigned long long serial, mark;
    PyObject *owner;
    nm_status status = NM_OK;
    if (!PyArg_ParseTuple(args, "K(OK)", &serial, &owner, &mark)) return NULL;
    if (!nm__core_allows(a, "check")) return NULL;
    const void *place = (const void *)(uintptr_t)mark;
    if (a->rewinds == REWINDS_ARENA) status = nm_arena_check_mark(a->inner.self, place);
    if (a->rewinds == REWINDS_STACK) status = nm_stack_check_mark(a->inner.self, place);
    if (status == NM_OK && !lifetime_drop(a, serial, "release")) return NULL;
    if (a->rewinds == REWINDS_ARENA && status == NM_OK) status = nm_arena_release(a->inner.self, place);
    if (a->rewinds == REWINDS_STACK && status == NM_OK) status = nm_stack_release(a->inner.self, place);
    if (status != NM_OK) {
        nm__raise_status(a, nm_last_failure());
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Nothing leads from a closed allocator to what it stood on. */
static void lifetime_forget_upstream(AllocatorObject *a) {
    AllocatorObject *upstream = a->upstream;
    if (a->wraps) {
        a->own.generation = a->chain->generation;
        a->own.serial = a->chain->serial;
        a->chain = &a->own;
    }
    a->upstream = NULL;
    nm__allocator_leave_upstream(upstream, a->wraps); /* its guard is another where this one did not wrap it */
    Py_XDECREF(upstream);                             /* last: it may run any code */
}

static PyObject *allocator_shut(AllocatorObject *a, PyObject *left) {
    NM_GUARD_ALLOCATOR(a);
    if (!a->attached || a->closed) Py_RETURN_NONE;
    PyObject *clear = PyObject_GetAttrString(a->core, "clear"); /* what needs memory first: it may collect garbage */
    if (clear == NULL) return NULL;
    if (a->closed) {
        Py_DECREF(clear);
        Py_RETURN_NONE;
    }
    Py_ssize_t users = a->users;
    if (a->chain->exports != 0) {
        for (BlockObject *b = a->chain->newest; b != NULL; b = b->older)
            if (b->allocator == a && b->state == LIVE) users += b->exports;
    }
    if (users != 0) {
        Py_DECREF(clear);
        nm__raise_exports(a, "close", nm__chain_list(a->chain, 0, a, true), a->users);
        return NULL;
    }
    for (BlockObject *b = a->chain->newest, *older; b != NULL; b = older) {
        older = b->older;
        if (b->allocator == a) nm__chain_retire(b);
    }
    nm__chain_forget_retired(a->chain);
    a->closed = true;
    a->port.methods = &nm__closed_methods;
    PyObject *status = PyObject_CallNoArgs(clear);
    Py_DECREF(clear);
    if (status == NULL) { /* its memory is still there: it may be closed again */
        a->closed = false;
        a->port = a->inner;
        return NULL;
    }
    a->left = Py_NewRef(left);
    Py_DECREF(status);
    lifetime_forget_upstream(a);
    Py_RETURN_NONE;
}

/* Ends a Block whose memory C will free: as its free does, but for the memory. Returns the address. */
static PyObject *allocator_detach(AllocatorObject *a, PyObject *arg) {
    NM_GUARD_ALLOCATOR(a);
    PyObject *address = NULL;
    BlockObject *b = nm__allocator_own_block(a, arg, "detach", "double");
    if (b == NULL || (address = PyLong_FromVoidPtr(b->ptr)) == NULL) return NULL;
    nm__chain_unlink(b);
    b->state = FREED;
    return address;
}

/* Frees what C has, or had: any address, which is looked at as far as that is safe. In one call that keeps the lock, so
 * that of two threads with the same address one is refused. headed: blocks have a header in front of them. None: a
 * block of Python's lies there. */
static PyObject *allocator_free_at(AllocatorObject *a, PyObject *args) {
    NM_GUARD_ALLOCATOR(a);
    unsigned long long address;
    int headed;
    if (!PyArg_ParseTuple(args, "Kp", &address, &headed)) return NULL;
    if (!a->attached || a->closed) {
        nm__raise_closed(a);
        return NULL;
    }
    char *ptr = (char *)(uintptr_t)address;
    for (const BlockObject *b = a->chain->newest; b != NULL; b = b->older)
        if (b->ptr == ptr) Py_RETURN_NONE;
    nm_status status;
    bool foreign = headed && (nm_heap_of(ptr) != NULL || /* whose blocks have none */
                              !nm__os_is_readable((void *)((uintptr_t)ptr - NM_ALIGN_DEFAULT), NM_ALIGN_DEFAULT));
    if (foreign) status = NM_FOREIGN_BLOCK;
    else if (nm__heap_is_free(ptr)) status = NM_DOUBLE_FREE;
    else status = a->inner.methods->free(a->inner.self, ptr, 0, NM_ALIGN_DEFAULT);
    return PyLong_FromLong((long)status);
}

static PyMethodDef lifetime_methods[] = {{"_attach", (PyCFunction)allocator_attach, METH_VARARGS, NULL},
                                         {"_live", (PyCFunction)allocator_live, METH_NOARGS, NULL},
                                         {"_serial", (PyCFunction)allocator_serial, METH_NOARGS, NULL},
                                         {"_reset", (PyCFunction)allocator_reset, METH_NOARGS, NULL},
                                         {"_release", (PyCFunction)allocator_release, METH_VARARGS, NULL},
                                         {"_detach", (PyCFunction)allocator_detach, METH_O, NULL},
                                         {"_free_at", (PyCFunction)allocator_free_at, METH_VARARGS, NULL},
                                         {"_shut", (PyCFunction)allocator_shut, METH_O, NULL},
                                         {NULL, NULL, 0, NULL}};

static int lifetime_add_method(PyMethodDef *method) {
    PyObject *descriptor = PyDescr_NewMethod(&nm__allocator_type, method);
    int failed = descriptor == NULL ? -1 : PyDict_SetItemString(nm__allocator_type.tp_dict, method->ml_name, descriptor);
    Py_XDECREF(descriptor);
    return failed;
}

int nm__lifetime_add(PyObject *module) {
    for (PyMethodDef *method = lifetime_methods; method->ml_name != NULL; method++)
        if (lifetime_add_method(method) < 0) return -1;
    PyType_Modified(&nm__allocator_type);
    if (PyModule_AddIntMacro(module, REWINDS_NEVER) < 0 || PyModule_AddIntMacro(module, REWINDS_ARENA) < 0) return -1;
    return PyModule_AddIntMacro(module, REWINDS_STACK);
}
