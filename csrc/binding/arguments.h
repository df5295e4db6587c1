/* What the hot methods are called with: sizes, and arguments by place or by name. The common case takes no call of
 * another function.
 */
#ifndef NM__ARGUMENTS_H
#define NM__ARGUMENTS_H

#include "base/base.h"
#include "binding/objects.h"

/* What a method takes: up to two parameters, the first `needed` of which must be given. */
typedef struct nm__parameters {
    const char *method, *takes, *names[2];
    int count, needed;
} nm__parameters;

/* The arguments of a call by their place (borrowed; NULL: not given), wherever there are keywords or not the right number
 * of arguments. false with an error set. */
NM_COLD bool nm__arguments_bind(const nm__parameters *p, PyObject *const *args, Py_ssize_t nargs, PyObject *names,
                                PyObject **out);
/* A layout of what is no plain size: strings such as "64 KiB", objects with __index__. align NULL: the default. false with
 * an error set: not a layout. Runs Python code. */
bool nm__argument_layout(AllocatorObject *a, PyObject *size, PyObject *align, size_t *out_size, size_t *out_align);

/* A plain int that is a size. false: it is to be looked at by nm__argument_layout; no error is set. */
static inline bool nm__argument_size(PyObject *arg, size_t *out) {
    if (NM_UNLIKELY(!PyLong_CheckExact(arg))) return false;
#if PY_VERSION_HEX >= 0x030C0000
    if (NM_LIKELY(PyUnstable_Long_IsCompact((PyLongObject *)arg))) {
        Py_ssize_t small = PyUnstable_Long_CompactValue((PyLongObject *)arg);
        *out = (size_t)small;
        return small >= 0;
    }
#else
    if (NM_LIKELY(Py_SIZE(arg) == 1)) { /* positive, of one digit */
        *out = (size_t)((PyLongObject *)arg)->ob_digit[0];
        return true;
    }
#endif
    Py_ssize_t n = PyLong_AsSsize_t(arg);
    if (NM_UNLIKELY(n < 0)) {
        PyErr_Clear(); /* too large, or negative: coerce says so */
        return false;
    }
    *out = (size_t)n;
    return true;
}

#endif
