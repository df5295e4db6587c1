#include "binding/handles.h" /* first: Python.h wants to be */

#include "binding/objects.h"

/* Owns one C structure. It is no part of the garbage collector and refers to other handles only, so it is
 * destroyed when the last reference goes and at no other time, and the structures it needs go after it.
 * (A cffi pointer with a destructor would be finalized in any order when it is part of a cycle.) */
typedef struct HandleObject {
    PyObject_HEAD
    void *ptr; /* NULL: not made yet, or refused */
    void (*destroy)(void *);
    PyObject *needs; /* tuple of handles */
} HandleObject;

static void handle_dealloc(HandleObject *h) {
    if (h->ptr != NULL) h->destroy(h->ptr);
    Py_XDECREF(h->needs);
    PyObject_Free(h);
}

static PyObject *handle_place(HandleObject *h, void *unused) {
    (void)unused;
    return PyLong_FromVoidPtr(&h->ptr);
}

static PyGetSetDef handle_getset[] = {
    {"place", (getter)handle_place, NULL, "Address of where the structure's is to be put.", NULL},
    {NULL, NULL, NULL, NULL, NULL}};

PyTypeObject nm__handle_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nativemem._dataplane.Handle",
    .tp_doc = "Owns one structure of the core.",
    .tp_basicsize = sizeof(HandleObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)handle_dealloc,
    .tp_getset = handle_getset,
};

/* own(address of the destroy function, tuple of the handles that the structure needs) */
static PyObject *handle_own(PyObject *module, PyObject *args) {
    (void)module;
    unsigned long long destroy;
    PyObject *needs;
    if (!PyArg_ParseTuple(args, "KO!", &destroy, &PyTuple_Type, &needs)) return NULL;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(needs); i++) {
        if (!Py_IS_TYPE(PyTuple_GET_ITEM(needs, i), &nm__handle_type)) {
            PyErr_SetString(PyExc_TypeError, "own: takes a tuple of handles");
            return NULL;
        }
    }
    HandleObject *h = PyObject_New(HandleObject, &nm__handle_type);
    if (h == NULL) return NULL;
    h->ptr = NULL;
    h->destroy = (void (*)(void *))(uintptr_t)destroy;
    h->needs = Py_NewRef(needs);
    return (PyObject *)h;
}

/* A stack and a pool take memory from their upstream when they are made. They are not made through cffi, which lets go of
 * the interpreter's lock: a Traced allocator below looks at the Python code that asks. False: refused; the last
 * failure says why. See owned.h for `place`. */
static PyObject *handle_own_stack(PyObject *module, PyObject *args) {
    (void)module;
    unsigned long long place, self, methods;
    Py_ssize_t capacity;
    int patterns;
    if (!PyArg_ParseTuple(args, "K(KK)np", &place, &self, &methods, &capacity, &patterns)) return NULL;
    nm_allocator upstream = {(void *)(uintptr_t)self, (const nm_methods *)(uintptr_t)methods};
    void *made = nm_stack_create(upstream, (size_t)capacity, patterns != 0);
    *(void **)(uintptr_t)place = made;
    return PyBool_FromLong(made != NULL);
}

static PyObject *handle_own_pool(PyObject *module, PyObject *args) {
    (void)module;
    unsigned long long place, self, methods;
    Py_ssize_t block_size, count;
    int grow;
    if (!PyArg_ParseTuple(args, "K(KK)nnp", &place, &self, &methods, &block_size, &count, &grow)) return NULL;
    nm_allocator upstream = {(void *)(uintptr_t)self, (const nm_methods *)(uintptr_t)methods};
    void *made = nm_pool_create(upstream, (size_t)block_size, (size_t)count, grow != 0);
    *(void **)(uintptr_t)place = made;
    return PyBool_FromLong(made != NULL);
}

/* (handle, REWINDS_ARENA or REWINDS_STACK, address of the mark) -> status. Not through cffi either: a Locked above lets other
 * threads allocate while its owner takes a mark, and only here their calls and this one exclude each other. */
static PyObject *handle_take_mark(PyObject *module, PyObject *args) {
    (void)module;
    HandleObject *h;
    int rewinds;
    unsigned long long mark;
    if (!PyArg_ParseTuple(args, "O!iK", &nm__handle_type, &h, &rewinds, &mark)) return NULL;
    NM_GUARD_OBJECT(h);
    void *out = (void *)(uintptr_t)mark;
    nm_status status = rewinds == REWINDS_ARENA ? nm_arena_take_mark(h->ptr, out) : nm_stack_take_mark(h->ptr, out);
    return PyLong_FromLong((long)status);
}

int nm__handles_add(PyObject *module) {
    static PyMethodDef methods[] = {
        {"own", handle_own, METH_VARARGS, "A handle for a structure of the core that is about to be made."},
        {"own_stack", handle_own_stack, METH_VARARGS, "Makes a stack and puts it into a handle."},
        {"take_mark", handle_take_mark, METH_VARARGS, "Takes a mark of an arena or a stack."},
        {"own_pool", handle_own_pool, METH_VARARGS, "Makes a pool and puts it into a handle."},
        {NULL, NULL, 0, NULL}};
    return PyType_Ready(&nm__handle_type) < 0 ? -1 : PyModule_AddFunctions(module, methods);
}
