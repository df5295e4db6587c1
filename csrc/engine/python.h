/* Shared by the files that see Python.h: the data plane and the hooks. */
#ifndef NM__PYTHON_H
#define NM__PYTHON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "nativemem.h"

/* The calling thread's; NULL: none is attached. */
#if PY_VERSION_HEX >= 0x030D0000
#define nm__thread_state PyThreadState_GetUnchecked
#else
#define nm__thread_state _PyThreadState_UncheckedGet
#endif

/* Functions of the module; each is called with the interpreter's lock held. */
PyObject *nm__engine_start(PyObject *module, PyObject *secure);
PyObject *nm__engine_budget(PyObject *module, PyObject *unused);
PyObject *nm__engine_set_limit(PyObject *module, PyObject *args);
PyObject *nm__engine_stranger(PyObject *module, PyObject *args);
PyObject *nm__engine_objects(PyObject *module, PyObject *on);
PyObject *nm__engine_raw(PyObject *module, PyObject *on);
PyObject *nm__engine_hook_arrays(PyObject *module, PyObject *api);
PyObject *nm__engine_array_handler(PyObject *module, PyObject *address);
PyObject *nm__engine_arrays(PyObject *module, PyObject *on);
PyObject *nm__engine_lift(PyObject *module, PyObject *unused);
PyObject *nm__engine_state(PyObject *module, PyObject *unused);
PyObject *nm__ending_watch(PyObject *module, PyObject *unused);
PyObject *nm__ending_plan(PyObject *module, PyObject *args);
PyObject *nm__engine_account(PyObject *module, PyObject *unused);

/* The interpreter's hash of bytes, which has a secret. 3.13 exports its function and does not declare it publicly. */
#if PY_VERSION_HEX >= 0x030E0000
#define nm__hash_bytes Py_HashBuffer
#else
#if PY_VERSION_HEX >= 0x030D0000
PyAPI_FUNC(Py_hash_t) _Py_HashBytes(const void *, Py_ssize_t);
#endif
#define nm__hash_bytes _Py_HashBytes
#endif

#endif
