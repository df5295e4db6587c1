#include "binding/cdata.h" /* first: Python.h wants to be */

#include <structmember.h>

#include "base/base.h"
#include "binding/allocator.h"

typedef struct CdataNew {
    PyObject_HEAD
    vectorcallfunc call;
    PyObject *allocator, *known, *view, *slow;
    bool zero;
} CdataNew;

/* The bytes of a type with an initialiser; false: that takes more than a look, and there may be an error, of a count
 * that fits no size. */
static bool cdata_is_simple(PyObject *entry, PyObject *init, size_t *bytes, size_t *align) {
    Py_ssize_t size = PyLong_AsSsize_t(PyTuple_GET_ITEM(entry, 1)), count = 1;
    if (init != Py_None) {
        size = PyLong_AsSsize_t(PyTuple_GET_ITEM(entry, 2));
        if (size == 0 || !PyLong_CheckExact(init)) return false;
        count = PyLong_AsSsize_t(init);
    }
    Py_ssize_t at = PyLong_AsSsize_t(PyTuple_GET_ITEM(entry, 3));
    if (size < 0 || count < 0 || at < 0) return false;
    *align = (size_t)at;
    return nm_mul((size_t)size, (size_t)count, bytes);
}

static PyObject *cdata_new_call(CdataNew *self, PyObject *const *args, size_t flags, PyObject *names) {
    Py_ssize_t n = PyVectorcall_NARGS(flags);
    size_t bytes, align;
    if (NM_UNLIKELY(names != NULL || n < 1 || n > 2)) return PyObject_Vectorcall(self->slow, args, flags, names);
    PyObject *init = n == 2 ? args[1] : Py_None;
    PyObject *entry = nm__dict_get(self->known, args[0]);
    if (NM_UNLIKELY(entry == NULL || !cdata_is_simple(entry, init, &bytes, &align))) {
        Py_XDECREF(entry);
        PyErr_Clear(); /* also of a type that cannot be looked up */
        return PyObject_Vectorcall(self->slow, args, flags, names);
    }
    PyObject *ctype = Py_NewRef(PyTuple_GET_ITEM(entry, 0));
    Py_DECREF(entry);
    PyObject *block = nm__allocator_new_block(self->allocator, bytes, align, self->zero), *data = NULL;
    if (block != NULL) {
        PyObject *pair[] = {ctype, block};
        data = PyObject_Vectorcall(self->view, pair, 2, NULL);
        Py_DECREF(block);
    }
    Py_DECREF(ctype);
    return data;
}

/* There is no clear, as for allocators: nothing that it refers to leads back. */
static int cdata_new_traverse(CdataNew *self, visitproc visit, void *arg) {
    Py_VISIT(self->allocator);
    Py_VISIT(self->known);
    Py_VISIT(self->view);
    Py_VISIT(self->slow);
    return 0;
}

static void cdata_new_dealloc(CdataNew *self) {
    PyObject_GC_UnTrack(self);
    Py_XDECREF(self->allocator);
    Py_XDECREF(self->known);
    Py_XDECREF(self->view);
    Py_XDECREF(self->slow);
    Py_TYPE(self)->tp_free((PyObject *)self);
}

static PyTypeObject cdata_new_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nativemem._dataplane.New",
    .tp_doc = "new(cdecl, init=None): C data in a block, as ffi.new makes it elsewhere.",
    .tp_basicsize = sizeof(CdataNew),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_HAVE_VECTORCALL | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_vectorcall_offset = offsetof(CdataNew, call),
    .tp_call = PyVectorcall_Call,
    .tp_traverse = (traverseproc)cdata_new_traverse,
    .tp_dealloc = (destructor)cdata_new_dealloc,
};

static PyObject *cdata_new(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *allocator, *known, *view, *slow;
    int zero;
    if (!PyArg_ParseTuple(args, "OO!OOp", &allocator, &PyDict_Type, &known, &view, &slow, &zero)) return NULL;
    if (!nm__is_allocator(allocator)) return PyErr_Format(PyExc_TypeError, "not an allocator of this backend");
    CdataNew *self = PyObject_GC_New(CdataNew, &cdata_new_type);
    if (self == NULL) return NULL;
    self->call = (vectorcallfunc)(void (*)(void))cdata_new_call;
    self->allocator = Py_NewRef(allocator);
    self->known = Py_NewRef(known);
    self->view = Py_NewRef(view);
    self->slow = Py_NewRef(slow);
    self->zero = zero != 0;
    PyObject_GC_Track(self);
    return (PyObject *)self;
}

int nm__cdata_add(PyObject *module) {
    static PyMethodDef methods[] = {{"cdata_new", cdata_new, METH_VARARGS, "A callable that makes C data of cffi's in blocks."},
                                    {NULL, NULL, 0, NULL}};
    return PyType_Ready(&cdata_new_type) < 0 ? -1 : PyModule_AddFunctions(module, methods);
}
