/* vector.Vector(allocator): doubles in one block, which grows. Its memory is the allocator's: charged, traced and
 * refused like any other of it. */
#include <nativemem/capi.h> /* first; it has Python.h */

#include <structmember.h>

enum { ALIGN = 64 }; /* what vector code likes */

typedef struct {
    PyObject_HEAD
    nm_borrowed memory;
    double *items;
    Py_ssize_t length, room;
} Vector;

static PyObject *vector_new(PyTypeObject *type, PyObject *args, PyObject *keywords) {
    static char *names[] = {"allocator", NULL};
    PyObject *allocator;
    if (!PyArg_ParseTupleAndKeywords(args, keywords, "O", names, &allocator)) return NULL;
    Vector *v = (Vector *)type->tp_alloc(type, 0); /* zeroed: nothing is borrowed */
    if (v == NULL) return NULL;
    if (nm_borrow(allocator, &v->memory) < 0) {
        Py_DECREF(v);
        return NULL;
    }
    return (PyObject *)v;
}

static int clear(Vector *v) {
    (void)nm_free(v->memory.port, v->items, (size_t)v->room * sizeof(double), ALIGN);
    v->items = NULL;
    v->length = v->room = 0;
    return nm_return(&v->memory);
}

static void vector_dealloc(Vector *v) {
    PyObject *type, *value, *traceback; /* of an error on its way, if there is one */
    PyErr_Fetch(&type, &value, &traceback);
    if (clear(v) < 0) PyErr_WriteUnraisable((PyObject *)v);
    PyErr_Restore(type, value, traceback);
    Py_TYPE(v)->tp_free((PyObject *)v);
}

static PyObject *vector_close(Vector *v, PyObject *unused) {
    (void)unused;
    if (clear(v) < 0) return NULL;
    Py_RETURN_NONE;
}

/* All or nothing: where there is no room the vector stays as it is. */
static PyObject *vector_append(Vector *v, PyObject *number) {
    double x = PyFloat_AsDouble(number);
    if (x == -1.0 && PyErr_Occurred()) return NULL;
    if (v->memory.keeper == NULL) return PyErr_Format(PyExc_ValueError, "the vector is closed");
    if (v->length == v->room) {
        Py_ssize_t room = v->room == 0 ? 8 : v->room * 2;
        double *items = nm_realloc(v->memory.port, v->items, (size_t)v->room * sizeof(double), (size_t)room * sizeof(double),
                                   ALIGN);
        if (items == NULL) {
            nm_raise(&v->memory); /* BudgetExceeded and the like, with the budget's name */
            return NULL;
        }
        v->items = items;
        v->room = room;
    }
    v->items[v->length++] = x;
    Py_RETURN_NONE;
}

static PyObject *vector_sum(Vector *v, PyObject *unused) {
    (void)unused;
    double sum = 0;
    Py_BEGIN_ALLOW_THREADS for (Py_ssize_t i = 0; i < v->length; i++) sum += v->items[i];
    Py_END_ALLOW_THREADS return PyFloat_FromDouble(sum);
}

static Py_ssize_t vector_length(PyObject *v) { return ((Vector *)v)->length; }

static PyMethodDef methods[] = {
    {"append", (PyCFunction)vector_append, METH_O, "Adds a number. Raises what the allocator refuses with."},
    {"sum", (PyCFunction)vector_sum, METH_NOARGS, "Of all numbers."},
    {"close", (PyCFunction)vector_close, METH_NOARGS, "Gives the memory back, and the allocator."},
    {NULL, NULL, 0, NULL},
};

static PySequenceMethods sequence = {.sq_length = vector_length};

static PyTypeObject Vector_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "vector.Vector",
    .tp_doc = "Vector(allocator): numbers in memory of a nativemem allocator.",
    .tp_basicsize = sizeof(Vector),
    .tp_flags = Py_TPFLAGS_DEFAULT,
    .tp_new = vector_new,
    .tp_dealloc = (destructor)vector_dealloc,
    .tp_methods = methods,
    .tp_as_sequence = &sequence,
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "vector", .m_size = -1};

PyMODINIT_FUNC PyInit_vector(void) {
    if (nm_capi_import() < 0 || PyType_Ready(&Vector_Type) < 0) return NULL;
    PyObject *m = PyModule_Create(&module);
    if (m != NULL && PyModule_AddObjectRef(m, "Vector", (PyObject *)&Vector_Type) < 0) Py_CLEAR(m);
    return m;
}
