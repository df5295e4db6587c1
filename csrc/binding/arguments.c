#include "binding/arguments.h" /* first: Python.h wants to be */

#include "binding/hooks.h"

bool nm__argument_layout(AllocatorObject *a, PyObject *size, PyObject *align, size_t *out_size, size_t *out_align) {
    PyObject *pair = align == NULL ? nm__hook_call(COERCE_LAYOUT, PyExc_ValueError, "(OO)", a, size)
                                   : nm__hook_call(COERCE_LAYOUT, PyExc_ValueError, "(OOO)", a, size, align);
    if (pair == NULL) return false;
    Py_ssize_t n, k;
    bool ok = PyArg_ParseTuple(pair, "nn", &n, &k) != 0;
    Py_DECREF(pair);
    if (!ok) return false;
    if (n < 0 || !nm_layout_ok((size_t)n, (size_t)k, NM_ALIGN_MAX)) {
        PyErr_SetString(PyExc_SystemError, "coerce_layout gave a layout that it should have refused");
        return false;
    }
    *out_size = (size_t)n;
    *out_align = (size_t)k;
    return true;
}

NM_COLD bool nm__arguments_bind(const nm__parameters *p, PyObject *const *args, Py_ssize_t nargs, PyObject *names,
                                PyObject **out) {
    Py_ssize_t given = nargs + (names == NULL ? 0 : PyTuple_GET_SIZE(names));
    if (nargs > p->count) {
        PyErr_Format(PyExc_TypeError, "%s() takes %s (%zd given)", p->method, p->takes, given);
        return false;
    }
    for (int i = 0; i < p->count; i++) out[i] = i < nargs ? args[i] : NULL;
    for (Py_ssize_t k = nargs; k < given; k++) {
        PyObject *name = PyTuple_GET_ITEM(names, k - nargs);
        int i = 0;
        while (i < p->count && PyUnicode_CompareWithASCIIString(name, p->names[i]) != 0) i++;
        if (i == p->count) PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", p->method, name);
        else if (out[i] != NULL) PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'", p->method, name);
        else out[i] = args[k];
        if (PyErr_Occurred()) return false;
    }
    for (int i = 0; i < p->needed; i++) {
        if (out[i] != NULL) continue;
        PyErr_Format(PyExc_TypeError, "%s() takes %s (%zd given)", p->method, p->takes, given);
        return false;
    }
    return true;
}
