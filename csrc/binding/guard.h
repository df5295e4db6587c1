/* Guards: what the interpreter's lock does for the data plane on builds without it (Py_GIL_DISABLED), where each object that
 * is shared has a critical section of the interpreter's in its place. A guard holds from its line to the end of its block.
 *
 * It is the lock's like in what the code around it relies on: as long as no Python code runs no other thread is in a section
 * of the same object. Where Python code runs, a thread waits, or a guard of another object is entered that another thread
 * holds, the section is open until that is over; so nothing deadlocks, and what was looked at before has to be looked at again.
 *
 * What is guarded by what: an allocator, its chain and the chain's blocks by the handle of the chain's lowest allocator
 * (`guard` of the AllocatorObject); a collection and its iterators by the collection; what is the process's by a mutex of its
 * file. Guards of two chains are entered together only where an allocator is attached. On builds with the lock all of this is
 * nothing. */
#ifndef NM__GUARD_H
#define NM__GUARD_H

#include "engine/python.h" /* first: Python.h wants to be */

#ifdef Py_GIL_DISABLED
#define NM_UNLOCKED 1

static inline void nm__guard_end(PyCriticalSection *section) { PyCriticalSection_End(section); }
static inline void nm__guard_end_two(PyCriticalSection2 *section) { PyCriticalSection2_End(section); }

#define NM_GUARD_SECTION __attribute__((cleanup(nm__guard_end))) PyCriticalSection nm__guard_section
#define NM_GUARD_OBJECT(object) \
    NM_GUARD_SECTION;           \
    PyCriticalSection_Begin(&nm__guard_section, (PyObject *)(object))
/* Of what is the process's. In the child of a fork module.c opens each. */
#define NM_GUARD_MUTEX(name) PyMutex name
extern PyMutex nm__held_lock, nm__source_lock;
#define NM_GUARD(name) \
    NM_GUARD_SECTION;  \
    PyCriticalSection_BeginMutex(&nm__guard_section, &(name))

/* A list that other threads may change, as it is now. NULL with an error set. To be dropped with nm__list_drop. */
static inline PyObject *nm__list_hold(PyObject *values) {
    return PyList_CheckExact(values) ? PyList_AsTuple(values) : Py_NewRef(values);
}
static inline void nm__list_drop(PyObject *values) { Py_XDECREF(values); }
/* The same of a dictionary, to be iterated over. */
static inline PyObject *nm__dict_hold(PyObject *dict) { return PyDict_Copy(dict); }
static inline void nm__dict_drop(PyObject *dict) { Py_XDECREF(dict); }
#else
#define NM_UNLOCKED 0
#define NM_GUARD_OBJECT(object) ((void)0)
#define NM_GUARD_MUTEX(name) _Static_assert(1, "the interpreter's lock does it")
#define NM_GUARD(name) ((void)0)
static inline PyObject *nm__list_hold(PyObject *values) { return values; }
static inline void nm__list_drop(PyObject *values) { (void)values; }
static inline PyObject *nm__dict_hold(PyObject *dict) { return dict; }
static inline void nm__dict_drop(PyObject *dict) { (void)dict; }
#endif

/* An item of a dictionary that other threads may change: a new reference, or NULL, with or without an error set. */
static inline PyObject *nm__dict_get(PyObject *dict, PyObject *key) {
#if PY_VERSION_HEX >= 0x030D0000
    PyObject *found;
    (void)PyDict_GetItemRef(dict, key, &found);
    return found;
#else
    return Py_XNewRef(PyDict_GetItemWithError(dict, key));
#endif
}

#endif
