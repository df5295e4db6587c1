/* Python.h, and what of it has another name in each version. To be included first. */
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
