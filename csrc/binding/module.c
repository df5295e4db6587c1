/* The extension module nativemem._dataplane. Each file of binding/ and engine/ registers its own types, methods and
 * functions; here is the list of these files.
 *
 * The module cannot be unloaded or made twice, and it is the process's: the interpreters of a process share its types.
 */
#include "engine/python.h" /* first: Python.h wants to be */

#include "binding/allocator.h"
#include "binding/bits.h"
#include "binding/block.h"
#include "binding/capi.h"
#include "binding/cdata.h"
#include "binding/handles.h"
#include "binding/held.h"
#include "binding/hooks.h"
#include "binding/intern_type.h"
#include "binding/lifetime.h"
#include "binding/objects.h"
#include "binding/packed.h"
#include "binding/pressure.h"
#include "binding/region.h"
#include "binding/ring.h"
#include "binding/sources.h"
#include "binding/table.h"
#include "engine/account.h"
#include "engine/active.h"
#include "engine/array_charges.h"
#include "engine/arrays.h"
#include "engine/denials.h"
#include "engine/domains.h"
#include "engine/ending.h"
#include "engine/engine.h"
#include "engine/entries.h"
#include "engine/injection.h"
#include "engine/insides_check.h"
#include "engine/owners.h"
#include "engine/raw.h"
#include "engine/sampler.h"
#include "engine/scopes.h"
#include "engine/spared.h"
#include "engine/stacks.h"
#include "engine/strays.h"

/* Keeps an object until let_go, also beyond the interpreter's end. */
static PyObject *module_keep(PyObject *module, PyObject *object) {
    (void)module;
    Py_INCREF(object);
    Py_RETURN_NONE;
}

static PyObject *module_let_go(PyObject *module, PyObject *object) {
    (void)module;
    Py_DECREF(object); /* the caller has a reference of its own */
    Py_RETURN_NONE;
}

#ifdef Py_GIL_DISABLED
/* What a fork does to the guards. The interpreter stops all threads for it, and none of them is in a section then. But a mutex
 * that several wait for may have been handed to one of them that was stopped before it went on. The child does not have that
 * thread, and would wait for it for good. So in the child each guard is opened that no section of its one thread holds. */

/* As _Py_CRITICAL_SECTION_INACTIVE and _TWO_MUTEXES, in a pointer to a section. */
enum { GUARD_IS_OPEN = 1, GUARD_HAS_TWO = 2, GUARD_MARKS = 3 };

static bool module_guard_is_mine(const PyMutex *mutex) {
    for (uintptr_t at = PyThreadState_Get()->critical_section; at != 0;) {
        const PyCriticalSection2 *section = (const PyCriticalSection2 *)(at & ~(uintptr_t)GUARD_MARKS);
        bool holds = section->_cs_base._cs_mutex == mutex || ((at & GUARD_HAS_TWO) != 0 && section->_cs_mutex2 == mutex);
        if (holds && (at & GUARD_IS_OPEN) == 0) return true;
        at = section->_cs_base._cs_prev;
    }
    return false;
}

static void module_open_guard(PyMutex *mutex) {
    if (!module_guard_is_mine(mutex)) *mutex = (PyMutex){0};
}

/* kinds: a tuple of the types whose objects are guards. */
static int module_open_guard_of(PyObject *object, void *kinds) {
    if (PyObject_TypeCheck(object, &nm__allocator_type))
        module_open_guard(&atomic_load(&((AllocatorObject *)object)->guard)->ob_mutex);
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE((PyObject *)kinds); i++)
        if (PyObject_TypeCheck(object, (PyTypeObject *)PyTuple_GET_ITEM((PyObject *)kinds, i)))
            module_open_guard(&object->ob_mutex);
    return 1; /* go on */
}

/* guards_open(types whose objects are guards): in a child, before anything else. The collector has to know the objects. */
static PyObject *module_open_guards(PyObject *module, PyObject *kinds) {
    (void)module;
    if (!PyTuple_CheckExact(kinds)) return PyErr_Format(PyExc_TypeError, "guards_open: takes a tuple");
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(kinds); i++)
        if (!PyType_Check(PyTuple_GET_ITEM(kinds, i))) return PyErr_Format(PyExc_TypeError, "guards_open: takes types");
    module_open_guard(&nm__held_lock);
    module_open_guard(&nm__source_lock);
    PyUnstable_GC_VisitObjects(module_open_guard_of, kinds);
    Py_RETURN_NONE;
}
#endif

static PyMethodDef module_methods[] = {
    {"keep", module_keep, METH_O, "Keeps an object, beyond the interpreter's end."},
    {"let_go", module_let_go, METH_O, "Undoes keep."},
#ifdef Py_GIL_DISABLED
    {"guards_open", module_open_guards, METH_O, "Opens what only threads of the parent hold."},
#endif
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, .m_name = "nativemem._dataplane", .m_size = -1, .m_methods = module_methods};

/* What each file adds. Each needs what those before it have made. */
static int (*const module_parts[])(PyObject *module) = {
    nm__hooks_add,     nm__handles_add, nm__block_add,         nm__allocator_add, nm__lifetime_add, nm__cdata_add,
    nm__capi_add,      nm__region_add,  nm__insides_check_add, nm__spared_add,    nm__engine_add,   nm__domain_add,
    nm__raw_add,       nm__strays_add,  nm__array_charges_add, nm__arrays_add,    nm__owners_add,   nm__entries_add,
    nm__active_add,    nm__scopes_add,  nm__stacks_add,        nm__ending_add,    nm__account_add,  nm__sampler_add,
    nm__sources_add,   nm__intern_add,  nm__ring_add,          nm__table_add,     nm__bits_add,     nm__packed_add,
    nm__injection_add,
};

PyMODINIT_FUNC PyInit__dataplane(void) {
    nm__watchers = (nm__watcher_table){.tell = nm__pressure_tell_aside, .ask = nm__pressure_ask, .drain = nm__held_drain};
    PyObject *m = PyModule_Create(&module_definition);
#ifdef Py_GIL_DISABLED
    /* What is shared has guards of its own (binding/guard.h), so the import leaves the lock off. */
    if (m != NULL && PyUnstable_Module_SetGIL(m, Py_MOD_GIL_NOT_USED) < 0) Py_CLEAR(m);
#endif
    for (size_t i = 0; m != NULL && i < sizeof module_parts / sizeof *module_parts; i++)
        if (module_parts[i](m) < 0) Py_CLEAR(m);
    return m;
}
