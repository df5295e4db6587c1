/* Items of a ring that are equal to a value. */
#include "binding/ring_search.h"
#include "binding/ring_store.h"

#include <string.h>

/* ---- search ---- */

/* Returns from the function. */
#define SEARCH(type, wanted)                             \
    do {                                                 \
        for (; i < stop; i++) {                          \
            type item;                                   \
            memcpy(&item, ring_slot(r, i), sizeof item); \
            if (item == (wanted)) return i;              \
        }                                                \
        return -1;                                       \
    } while (0)

/* First item from i on, before stop, that is equal to value; -1: none; -2: an error. Runs Python code unless both are
 * plain numbers. */
static Py_ssize_t ring_find(Ring *r, PyObject *value, Py_ssize_t i, Py_ssize_t stop) {
    if (stop > r->used) stop = r->used;
    if (r->format.single && r->format.count != 0) {
        char wanted[sizeof(int64_t)];
        nm__field_kind kind = r->format.fields->kind;
        if (kind <= FIELD_U64 && PyLong_CheckExact(value)) {
            if (!nm__pack_plain(&r->format, value, wanted)) return -1; /* beyond its range */
            uint64_t bits = 0;
            memcpy(&bits, wanted, (size_t)r->size);
            switch (r->size) {
            case 1: SEARCH(uint8_t, (uint8_t)bits);
            case 2: SEARCH(uint16_t, (uint16_t)bits);
            case 4: SEARCH(uint32_t, (uint32_t)bits);
            default: SEARCH(uint64_t, bits);
            }
        }
        if (PyFloat_CheckExact(value) && kind == FIELD_F64) SEARCH(double, PyFloat_AS_DOUBLE(value));
        if (PyFloat_CheckExact(value) && kind == FIELD_F32) SEARCH(float, PyFloat_AS_DOUBLE(value));
    }
    for (; i < stop && i < r->used; i++) {
        PyObject *item = nm__unpack(&r->format, ring_slot(r, i));
        if (item == NULL) return -2;
        int same = PyObject_RichCompareBool(item, value, Py_EQ);
        Py_DECREF(item);
        if (same < 0 || !ring_open(r)) return -2;
        if (same) return i;
    }
    return -1;
}

int nm__ring_contains(Ring *r, PyObject *value) {
    NM_GUARD_OBJECT(r);
    if (!ring_open(r)) return -1;
    Py_ssize_t i = ring_find(r, value, 0, r->used);
    return i == -2 ? -1 : i >= 0;
}

static int ring_to_bound(PyObject *arg, void *out) { /* as list.index takes them */
    if (!PyIndex_Check(arg)) {
        PyErr_SetString(PyExc_TypeError, "slice indices must be integers or have an __index__ method");
        return 0;
    }
    Py_ssize_t bound = PyNumber_AsSsize_t(arg, NULL);
    *(Py_ssize_t *)out = bound;
    return !(bound == -1 && PyErr_Occurred());
}

PyObject *nm__ring_index_of(Ring *r, PyObject *args) {
    NM_GUARD_OBJECT(r);
    PyObject *value;
    Py_ssize_t start = 0, stop = PY_SSIZE_T_MAX;
    if (!PyArg_ParseTuple(args, "O|O&O&:index", &value, ring_to_bound, &start, ring_to_bound, &stop) || !ring_open(r))
        return NULL;
    if (start < 0 && (start += r->used) < 0) start = 0;
    if (stop < 0 && (stop += r->used) < 0) stop = 0;
    Py_ssize_t i = ring_find(r, value, start, stop);
    if (i >= 0) return PyLong_FromSsize_t(i);
    if (i == -1) PyErr_Format(PyExc_ValueError, "%R is not in the %s", value, Py_TYPE(r)->tp_name);
    return NULL;
}

PyObject *nm__ring_count(Ring *r, PyObject *value) {
    NM_GUARD_OBJECT(r);
    Py_ssize_t n = 0, i = 0;
    if (!ring_open(r)) return NULL;
    while ((i = ring_find(r, value, i, PY_SSIZE_T_MAX)) >= 0) {
        n++;
        i++;
    }
    return i == -2 ? NULL : PyLong_FromSsize_t(n);
}

PyObject *nm__ring_remove(Ring *r, PyObject *value) {
    NM_GUARD_OBJECT(r);
    if (!ring_open(r)) return NULL;
    uint64_t version = r->version;
    Py_ssize_t i = ring_find(r, value, 0, r->used);
    if (i == -2) return NULL;
    if (i == -1) return PyErr_Format(PyExc_ValueError, "%R is not in the %s", value, Py_TYPE(r)->tp_name);
    if (r->version != version) return PyErr_Format(PyExc_RuntimeError, "%s mutated during remove()", Py_TYPE(r)->tp_name);
    nm__ring_splice(r, i, i + 1, NULL, 0);
    Py_RETURN_NONE;
}
