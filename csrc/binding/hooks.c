#include "binding/hooks.h" /* first: Python.h wants to be */

#include "base/base.h"

/* Where the functions are in the interpreter's own dictionary. */
#define HOOK_KEY "nativemem._dataplane hooks"
bool nm__hook_any;

/* Where this interpreter has no hooks, `instead` is raised, or with NULL nothing done: the engine may have been started
 * alone, without the control plane, and an interpreter that ends runs finalizers after its dictionary has gone. */
static NM_COLD PyObject *hook_missing(PyObject *instead) {
    if (PyErr_Occurred()) return NULL; /* no memory to find out */
    if (instead == NULL) Py_RETURN_NONE;
    PyErr_SetString(instead, "nativemem: refused, and what could say why is not there");
    return NULL;
}

NM_COLD PyObject *nm__hook_call(Hook which, PyObject *instead, const char *format, ...) {
    PyObject *dict = PyInterpreterState_GetDict(PyInterpreterState_Get());
    PyObject *key = PyUnicode_FromString(HOOK_KEY); /* PyDict_GetItemString would hide that there is no memory for it */
    if (key == NULL) return NULL;
    PyObject *hooks = dict == NULL ? NULL : nm__dict_get(dict, key);
    Py_DECREF(key);
    if (hooks == NULL) return hook_missing(instead);
    PyObject *hook = Py_NewRef(PyTuple_GET_ITEM(hooks, which));
    Py_DECREF(hooks);
    va_list values;
    va_start(values, format);
    PyObject *args = Py_VaBuildValue(format, values);
    va_end(values);
    PyObject *result = args == NULL ? NULL : PyObject_Call(hook, args, NULL);
    /* CPython 3.11 can lose an exception where it has no memory for the traceback */
    if (result == NULL && !PyErr_Occurred()) (void)PyErr_NoMemory();
    Py_XDECREF(args);
    Py_DECREF(hook);
    return result;
}

/* The hook raises; should it come back, the call still fails. */
static void hook_returned(PyObject *result) {
    if (result != NULL) {
        Py_DECREF(result);
        PyErr_SetString(PyExc_SystemError, "an error hook of nativemem returned");
    }
}

static PyObject *hook_class_of(nm_status status) { return nm__is_want(status) ? PyExc_MemoryError : PyExc_ValueError; }

void nm__raise_status(AllocatorObject *a, nm_failure f) {
    hook_returned(nm__hook_call(RAISE_STATUS, hook_class_of(f.status), "(Oinnn)", a, (int)f.status, (Py_ssize_t)f.requested,
                                (Py_ssize_t)f.used, (Py_ssize_t)f.limit));
}

/* As nm__raise_status, where the call was about one block. */
void nm__raise_refusal(AllocatorObject *a, nm_failure f, size_t size, size_t align) {
    hook_returned(nm__hook_call(RAISE_STATUS, hook_class_of(f.status), "(Oinnn(nn))", a, (int)f.status, (Py_ssize_t)f.requested,
                                (Py_ssize_t)f.used, (Py_ssize_t)f.limit, (Py_ssize_t)size, (Py_ssize_t)align));
}

void nm__raise_closed(AllocatorObject *a) { nm__raise_status(a, (nm_failure){NM_CLOSED, 0, 0, 0}); }

void nm__raise_block(AllocatorObject *a, PyObject *block, const char *what) {
    hook_returned(nm__hook_call(RAISE_BLOCK, PyExc_ValueError, "(OOs)", a, block, what));
}

/* blocks: those with a view, a new reference that goes here, or NULL. tops: how many allocators stand on it. */
void nm__raise_exports(AllocatorObject *a, const char *action, PyObject *blocks, Py_ssize_t tops) {
    if (blocks == NULL) PyErr_Clear(); /* no memory to list them */
    hook_returned(
        nm__hook_call(RAISE_EXPORTS, PyExc_BufferError, "(OsOn)", a, action, blocks == NULL ? Py_None : blocks, tops));
    Py_XDECREF(blocks);
}

void nm__raise_exported(BlockObject *b, const char *action) {
    nm__raise_exports(b->allocator, action, Py_BuildValue("[O]", b), 0);
}

/* May the calling thread alloc, or free (`check` is "check" or "check_free")? Only asked for where no call into
 * the port tells, which is for blocks of no bytes. */
bool nm__core_allows(AllocatorObject *a, const char *check) {
    if (!a->attached || a->closed) {
        nm__raise_closed(a);
        return false;
    }
    PyObject *status = PyObject_CallMethod(a->core, check, NULL);
    if (status == NULL) return false;
    long code = PyLong_AsLong(status);
    Py_DECREF(status);
    if (code == -1 && PyErr_Occurred()) return false;
    if (code != NM_OK) nm__raise_status(a, (nm_failure){(nm_status)code, 0, 0, 0});
    else if (a->closed) nm__raise_closed(a); /* meanwhile: Python code ran */
    else return true;
    return false;
}

static PyObject *hook_set_all(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *dict = PyInterpreterState_GetDict(PyInterpreterState_Get());
    if (dict == NULL) return PyErr_NoMemory();
    if (PyTuple_GET_SIZE(args) != HOOK_COUNT) {
        PyErr_SetString(PyExc_TypeError, "set_hooks: takes six functions");
        return NULL;
    }
    if (PyDict_SetItemString(dict, HOOK_KEY, args) < 0) return NULL;
    nm__hook_any = true;
    Py_RETURN_NONE;
}

int nm__hooks_add(PyObject *module) {
    static PyMethodDef methods[] = {{"set_hooks", hook_set_all, METH_VARARGS,
                                     "The functions of nativemem.refusals and nativemem.budgets.pressure that the types call."},
                                    {NULL, NULL, 0, NULL}};
    return PyModule_AddFunctions(module, methods);
}
