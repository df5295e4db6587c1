/* Python.h, and what of it has another name in each version. To be included first. */
#ifndef NM__PYTHON_H
#define NM__PYTHON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "nativemem.h"

/* The calling thread's; NULL: none is attached. Up to 3.11 it stands in one place for all (insides.c), which is read without a
 * call: it is asked for before each block that an owner may be charged with. */
#if PY_VERSION_HEX >= 0x030D0000
#define nm__thread_state PyThreadState_GetUnchecked
#elif PY_VERSION_HEX >= 0x030C0000
#define nm__thread_state _PyThreadState_UncheckedGet
#else
extern __attribute__((visibility("hidden"))) PyThreadState *const volatile *const nm__insides_thread;
#define nm__thread_state() (*nm__insides_thread)
#endif

/* No collection runs in what bears none in its midst. From 3.12 on none begins inside of a call. */
#if PY_VERSION_HEX >= 0x030C0000
static inline int nm__collections_stop(void) { return 0; }
#else
static inline int nm__collections_stop(void) { return PyGC_Disable(); }
#endif
static inline void nm__collections_go_on(int was_on) {
    if (was_on) PyGC_Enable();
}

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
