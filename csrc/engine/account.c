/* What the engine as a whole says of itself: what it serves, whose hooks are in its way, and how much it served. */
#include "engine/account.h"

#include "engine/array_charges.h"
#include "engine/domains.h"
#include "engine/engine.h"
#include "engine/overdraft.h"
#include "engine/owners.h"
#include "engine/place.h"
#include "engine/raw.h"

/* How many blocks of each size the engine served, for the process and for owners. Pre: it was started. */
static void account_census(nm_census *out) {
    nm_heap_census(nm__engine.heap, out);
    nm__overdraft_add_census(out);
    nm__array_add_census(out);
    nm__raw_add_census(out);
    nm__owner_add_census(out);
}

static bool account_append(PyObject *list, size_t size, uint64_t count) {
    if (count == 0) return true;
    PyObject *pair = Py_BuildValue("(NK)", PyLong_FromSize_t(size), (unsigned long long)count);
    bool added = pair != NULL && PyList_Append(list, pair) == 0;
    Py_XDECREF(pair);
    return added;
}

static PyObject *account_sizes(const nm_census *census) {
    PyObject *sizes = PyList_New(0);
    bool added = sizes != NULL;
    for (unsigned b = 0; b < NM__BINS && added; b++) added = account_append(sizes, nm_bin_size(b), census->allocations[b]);
    for (unsigned k = 0; k < NM_SPAN_SIZES && added; k++)
        added = account_append(sizes, (size_t)1 << k, census->span_allocations[k]);
    if (!added) Py_CLEAR(sizes);
    return sizes;
}

/* ([(size, blocks ever served)], (requested, used, limit) of the last denial or None); None where there is no heap.
 * Without cffi: the program may have left an interpreter in which nothing can be imported any more. */
static PyObject *account_of_engine(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    if (nm__engine.heap == NULL) Py_RETURN_NONE;
    nm_census census;
    account_census(&census);
    PyObject *sizes = account_sizes(&census);
    if (sizes == NULL) return NULL;
    nm_denial denial;
    PyObject *refused = NULL;
    if (nm_budget_last_denial(nm_engine_budget(), &denial)) {
        refused = Py_BuildValue("(NNN)", PyLong_FromSize_t(denial.requested), PyLong_FromSize_t(denial.used),
                                PyLong_FromSize_t(denial.limit));
        if (refused == NULL) {
            Py_DECREF(sizes);
            return NULL;
        }
    }
    return refused != NULL ? Py_BuildValue("(NN)", sizes, refused) : Py_BuildValue("(NO)", sizes, Py_None);
}

/* The domain in which the hook of others leaves no place for ours, and where that hook is from, or None; None: there is
 * none such. */
static PyObject *account_stranger(PyObject *module, PyObject *args) {
    (void)module;
    int for_objects, for_raw;
    const char *file = NULL;
    if (!PyArg_ParseTuple(args, "pp", &for_objects, &for_raw) || nm__engine_is_missing()) return NULL;
    if (for_raw && !nm__raw_may_stand()) return Py_BuildValue("sz", "raw", nm__place_owner(PYMEM_DOMAIN_RAW));
    const char *domain = for_objects ? nm__domain_stranger(&file) : NULL;
    if (domain != NULL) return Py_BuildValue("sz", domain, file);
    Py_RETURN_NONE;
}

/* (bytes that the owner's heap holds, arrays ever charged, [(size, blocks ever served)]). */
static PyObject *account_of_owner(PyObject *module, PyObject *owner) {
    (void)module;
    if (!Py_IS_TYPE(owner, &nm__owner_type) || ((OwnerObject *)owner)->owner == NULL) {
        PyErr_SetString(PyExc_TypeError, "takes an owner");
        return NULL;
    }
    const nm__owner *o = ((OwnerObject *)owner)->owner;
    nm_census census;
    nm_heap_census(o->heap, &census);
    PyObject *sizes = account_sizes(&census);
    if (sizes == NULL) return NULL;
    return Py_BuildValue("(NNN)", PyLong_FromSize_t(census.held), PyLong_FromSize_t(nm__get(&o->arrays)), sizes);
}

static PyObject *account_state(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return Py_BuildValue("(NNN)", PyBool_FromLong(nm__domain_serves()),
                         PyBool_FromLong(atomic_load(&nm__engine.arrays) != NM__MODE_OFF), PyBool_FromLong(nm__raw_serves()));
}

int nm__account_add(PyObject *module) {
    static PyMethodDef methods[] = {
        {"engine_stranger", account_stranger, METH_VARARGS,
         "Of the domains asked for, objects' and raw, the one that a hook of others is in, and the hook's file; or None."},
        {"engine_state", account_state, METH_NOARGS, "(objects on, arrays on, raw on)."},
        {"engine_account", account_of_engine, METH_NOARGS, "([(size, blocks)], the last denial) of the engine."},
        {"scope_account", account_of_owner, METH_O, "(held, arrays, [(size, blocks)]) of an owner."},
        {NULL, NULL, 0, NULL}};
    return PyModule_AddFunctions(module, methods);
}
