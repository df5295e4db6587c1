#include "binding/capi.h" /* first: Python.h wants to be */

#include "binding/hooks.h"

#define NM__CAPI_PROVIDER
#include "nativemem/capi.h"

static int capi_borrow(PyObject *allocator, nm_borrowed *out) {
    *out = (nm_borrowed){.keeper = NULL};
    PyObject *module = PyImport_ImportModule(NM_CAPI_MODULE);
    PyObject *found = module == NULL ? NULL : PyObject_CallMethod(module, "_borrow", "O", allocator);
    Py_XDECREF(module);
    if (found == NULL) return -1;
    PyObject *keeper;
    unsigned long long self, methods;
    int ok = PyArg_ParseTuple(found, "OKK", &keeper, &self, &methods);
    if (ok) {
        out->keeper = Py_NewRef(keeper);
        out->port = (nm_allocator){(void *)(uintptr_t)self, (const nm_methods *)(uintptr_t)methods};
    }
    Py_DECREF(found);
    return ok ? 0 : -1;
}

/* An error that is being raised, as where a dealloc calls, is put back; a new one takes its place. */
static int capi_give_back(nm_borrowed *memory) {
    if (memory->keeper == NULL) return 0;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *closed = PyObject_CallMethod(memory->keeper, "close", NULL);
    if (closed == NULL) {
        Py_XDECREF(type);
        Py_XDECREF(value);
        Py_XDECREF(traceback);
        return -1;
    }
    Py_DECREF(closed);
    Py_CLEAR(memory->keeper);
    PyErr_Restore(type, value, traceback);
    return 0;
}

/* The last failure is read first: what is called here may fail at something of its own. */
static void capi_raise(const nm_borrowed *memory) {
    nm_failure failure = nm_last_failure();
    PyObject *allocator = memory->keeper == NULL ? NULL : PyObject_GetAttrString(memory->keeper, "allocator");
    if (allocator != NULL) nm__raise_status((AllocatorObject *)allocator, failure);
    else if (!PyErr_Occurred()) PyErr_SetString(PyExc_ValueError, "nm_raise: nothing is borrowed");
    Py_XDECREF(allocator);
}

static PyObject *capi_capsule(PyObject *module, PyObject *unused) {
    static nm_capi table = {
        .size = sizeof table,
        .last_failure = nm_last_failure,
        .refuse = nm_refuse,
        .empty_block = nm_empty_block,
        .borrow = capi_borrow,
        .give_back = capi_give_back,
        .raise = capi_raise,
        .hmalloc = nm_hmalloc,
        .hcalloc = nm_hcalloc,
        .hrealloc = nm_hrealloc,
        .hfree = nm_hfree,
        .mem_init = nm_mem_init,
        .mem_uninit = nm_mem_uninit,
    };
    (void)module, (void)unused;
    return PyCapsule_New(&table, NM_CAPI_NAME, NULL);
}

int nm__capi_add(PyObject *module) {
    static PyMethodDef methods[] = {{"capi", capi_capsule, METH_NOARGS, "The capsule that other extensions import."},
                                    {NULL, NULL, 0, NULL}};
    return PyModule_AddFunctions(module, methods);
}
