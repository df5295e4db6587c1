/* Ints and floats of Python, read and handed out without a call where their layout is known.
 *
 * A packed collection makes an object of each item that is read, and most of these live until the next one is read: the
 * allocation costs more than all the rest. So the last two are remembered, and one that nothing else has a reference to any
 * more is written anew, as CPython does with the tuples of zip() and dict.items(). Two, because a loop's variable has the
 * last one until it gets the next. Nothing can see the difference: whatever could has a reference, and a number without
 * one would have been freed, and its memory used for the next.
 *
 * Cannot be done where the count of references is not one word (free-threaded builds); there, and with digits of 15 bits,
 * numbers are made as always. */
#ifndef NM__NUMBERS_H
#define NM__NUMBERS_H

#include "engine/python.h"

#include "base/base.h"

#if PY_VERSION_HEX < 0x030B0000
#include <longintrepr.h>
#endif

#if PYLONG_BITS_IN_DIGIT == 30 && !defined(Py_GIL_DISABLED)
#define NM_KNOWS_NUMBERS 1
#else
#define NM_KNOWS_NUMBERS 0
#endif

/* Ints below this are made by CPython: it has some of them for good (up to 1024 in 3.15), and asks by their value. */
#define NM_LEAST_AGAIN (1 << 12)

/* Invariant: each is NULL, or a reference to an exact int of one or two digits and at least NM_LEAST_AGAIN, or to an exact
 * float: all of a format that has one are of the same type */
typedef struct {
    PyObject *kept[2];
    unsigned turn; /* 0 or 1: the one to look at first */
} nm__recent;

static inline void nm__recent_clear(nm__recent *r) {
    Py_CLEAR(r->kept[0]);
    Py_CLEAR(r->kept[1]);
}

#if NM_KNOWS_NUMBERS

/* Sign and number of digits in one word, as they stand in an int. */
#if PY_VERSION_HEX >= 0x030C0000
typedef uintptr_t nm__long_tag;
#define NM_LONG_DIGITS(o) (((PyLongObject *)(o))->long_value.ob_digit)
static inline nm__long_tag nm__long_tag_of(PyObject *o) { return ((PyLongObject *)o)->long_value.lv_tag; }
static inline nm__long_tag nm__long_tag_for(unsigned digits, bool negative) {
    return (nm__long_tag)digits << _PyLong_NON_SIZE_BITS | (negative ? 2 : 0);
}
static inline size_t nm__long_split(nm__long_tag tag, bool *negative) {
    *negative = (tag & _PyLong_SIGN_MASK) == 2;
    return (size_t)(tag >> _PyLong_NON_SIZE_BITS);
}
#else
typedef Py_ssize_t nm__long_tag;
#define NM_LONG_DIGITS(o) (((PyLongObject *)(o))->ob_digit)
static inline nm__long_tag nm__long_tag_of(PyObject *o) { return Py_SIZE(o); }
static inline nm__long_tag nm__long_tag_for(unsigned digits, bool negative) {
    return negative ? -(nm__long_tag)digits : (nm__long_tag)digits;
}
static inline size_t nm__long_split(nm__long_tag tag, bool *negative) {
    *negative = tag < 0;
    return (size_t)(tag < 0 ? -tag : tag);
}
#endif

/* The value of an int, where it has at most 60 bits. Pre: PyLong_Check(value) */
static inline bool nm__long_small(PyObject *value, int64_t *out) {
    bool negative;
    nm__long_tag tag = nm__long_tag_of(value);
    const digit *d = NM_LONG_DIGITS(value);
    if (NM_LIKELY(tag == nm__long_tag_for(2, false))) { /* the same as below, in half of the instructions */
        *out = (int64_t)d[1] << 30 | (int64_t)d[0];
        return true;
    }
    size_t digits = nm__long_split(tag, &negative);
    if (NM_UNLIKELY(digits > 2)) return false;
    int64_t n = digits == 0 ? 0 : (int64_t)d[0];
    if (digits == 2) n |= (int64_t)d[1] << 30;
    *out = negative ? -n : n;
    return true;
}

static inline PyObject *nm__recent_free(nm__recent *r, unsigned turn) {
    PyObject *o = r->kept[turn];
    return o != NULL && Py_REFCNT(o) == 1 ? o : NULL;
}
static inline PyObject *nm__recent_give(nm__recent *r, unsigned turn, PyObject *o) {
    r->turn = turn ^ 1;
    return Py_NewRef(o);
}
/* Remembers a number that was made. */
static inline PyObject *nm__recent_keep(nm__recent *r, PyObject *made) {
    if (NM_LIKELY(made != NULL)) {
        Py_XSETREF(r->kept[r->turn], Py_NewRef(made));
        r->turn ^= 1;
    }
    return made;
}

static inline PyObject *nm__long_again(nm__recent *r, int64_t n) {
    uint64_t size = n < 0 ? 0 - (uint64_t)n : (uint64_t)n;
    if (r == NULL || size < NM_LEAST_AGAIN || NM_UNLIKELY(size >> 60 != 0)) return PyLong_FromLongLong(n);
    nm__long_tag tag = nm__long_tag_for(size >> 30 != 0 ? 2 : 1, n < 0);
    for (unsigned k = 0, turn = r->turn; k < 2; k++, turn ^= 1) {
        PyObject *o = nm__recent_free(r, turn);
        if (NM_UNLIKELY(o == NULL || nm__long_tag_of(o) != tag)) continue;
        NM_LONG_DIGITS(o)[0] = (digit)(size & PyLong_MASK);
        if (size >> 30 != 0) NM_LONG_DIGITS(o)[1] = (digit)(size >> 30);
        return nm__recent_give(r, turn, o);
    }
    return nm__recent_keep(r, PyLong_FromLongLong(n));
}

static inline PyObject *nm__float_again(nm__recent *r, double x) {
    if (r == NULL) return PyFloat_FromDouble(x);
    for (unsigned k = 0, turn = r->turn; k < 2; k++, turn ^= 1) {
        PyObject *o = nm__recent_free(r, turn);
        if (NM_UNLIKELY(o == NULL)) continue;
        ((PyFloatObject *)o)->ob_fval = x;
        return nm__recent_give(r, turn, o);
    }
    return nm__recent_keep(r, PyFloat_FromDouble(x));
}

#else /* numbers are made as always */

static inline bool nm__long_small(PyObject *value, int64_t *out) {
    int overflow;
    long long n = PyLong_AsLongLongAndOverflow(value, &overflow);
    *out = n;
    return overflow == 0;
}
static inline PyObject *nm__long_again(nm__recent *r, int64_t n) {
    (void)r;
    return PyLong_FromLongLong(n);
}
static inline PyObject *nm__float_again(nm__recent *r, double x) {
    (void)r;
    return PyFloat_FromDouble(x);
}

#endif
#endif
