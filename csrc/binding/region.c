/* The region for the start of a process, which is neither to wait for cffi nor to hold it: so these four functions are
 * the module's own. */
#include "binding/region.h"

#include "heap/region.h"

static PyObject *region_size(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromSize_t(nm_region_size());
}

static PyObject *region_init(PyObject *module, PyObject *args) {
    (void)module;
    Py_ssize_t reserve, retain;
    unsigned decay_ms;
    if (!PyArg_ParseTuple(args, "nnI", &reserve, &retain, &decay_ms)) return NULL;
    return PyBool_FromLong(nm_region_init((size_t)reserve, (size_t)retain, decay_ms) == NM_OK);
}

static PyObject *region_decay_when_idle(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    nm__region_watch();
    Py_RETURN_NONE;
}

static PyObject *region_owns(PyObject *module, PyObject *address) {
    (void)module;
    const void *ptr = PyLong_AsVoidPtr(address);
    if (ptr == NULL && PyErr_Occurred()) return NULL;
    return PyBool_FromLong(nm_region_owns(ptr));
}

int nm__region_add(PyObject *module) {
    static PyMethodDef methods[] = {
        {"region_size", region_size, METH_NOARGS, "Bytes of addresses that are reserved."},
        {"region_init", region_init, METH_VARARGS, "Makes the region, or sets what it keeps. False: the system refused."},
        {"region_decay_when_idle", region_decay_when_idle, METH_NOARGS, "From now on a thread gives back what is kept."},
        {"region_owns", region_owns, METH_O, "Whether an address is the region's."},
        {NULL, NULL, 0, NULL}};
    return PyModule_AddFunctions(module, methods);
}
