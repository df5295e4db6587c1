/* Indices and slices of a ring, and what changes many of its items. */
#include "binding/ring_ranges.h"
#include "binding/ring_store.h"

#include <string.h>

/* ---- ranges ---- */

/* Unpacks n items from `start` on, `step` apart. */
static PyObject *ring_list(Ring *r, Py_ssize_t start, Py_ssize_t step, Py_ssize_t n) {
    PyObject *list = PyList_New(n);
    for (Py_ssize_t k = 0; list != NULL && k < n; k++) {
        Py_ssize_t i = start + k * step;
        /* the list's making, or the item's before, may have run a collection */
        PyObject *value = r->items != NULL && i < r->used ? nm__unpack_new(&r->format, ring_slot(r, i)) : NULL;
        if (value == NULL) {
            Py_CLEAR(list);
            if (!PyErr_Occurred() && ring_open(r)) PyErr_SetString(PyExc_RuntimeError, "changed while it was read");
            return NULL;
        }
        PyList_SET_ITEM(list, k, value);
    }
    return list;
}

/* -1 with an error set. Runs Python code. */
static Py_ssize_t ring_range(Ring *r, PyObject *slice, Py_ssize_t *start, Py_ssize_t *stop, Py_ssize_t *step) {
    if (PySlice_Unpack(slice, start, stop, step) < 0 || !ring_open(r)) return -1;
    return PySlice_AdjustIndices(r->used, start, stop, *step);
}

PyObject *nm__ring_subscript(Ring *r, PyObject *index) {
    NM_GUARD_OBJECT(r);
    if (!ring_open(r)) return NULL;
    if (NM_LIKELY(PyLong_CheckExact(index))) {
        Py_ssize_t i = PyLong_AsSsize_t(index);
        if (i < 0 && !PyErr_Occurred()) i += r->used;
        if (NM_LIKELY(i >= 0 && i < r->used)) return nm__unpack(&r->format, ring_slot(r, i));
        PyErr_Clear(); /* nm__ring_index says it */
    }
    if (!PySlice_Check(index)) {
        Py_ssize_t i = nm__ring_index(r, index, "index");
        return i < 0 ? NULL : nm__unpack(&r->format, ring_slot(r, i));
    }
    Py_ssize_t start, stop, step, n = ring_range(r, index, &start, &stop, &step);
    return n < 0 ? NULL : ring_list(r, start, step, n);
}

static int ring_set_item(Ring *r, PyObject *index, PyObject *value) {
    Py_ssize_t i = nm__ring_index(r, index, "assignment index");
    if (i < 0) return -1;
    if (value == NULL) {
        nm__ring_splice(r, i, i + 1, NULL, 0);
        return 0;
    }
    nm__scratch scratch;
    char *packed = nm__scratch_get(&scratch, r->size);
    if (packed == NULL) return -1;
    bool ok = nm__pack(&r->format, value, packed);
    /* packing may have run any code, so the index is looked at again */
    if (ok && (i = nm__ring_index(r, index, "assignment index")) >= 0) memcpy(ring_slot(r, i), packed, (size_t)r->size);
    else ok = false;
    nm__scratch_drop(&scratch);
    return ok ? 0 : -1;
}

static int ring_delete_range(Ring *r, PyObject *slice) {
    Py_ssize_t start, stop, step, n = ring_range(r, slice, &start, &stop, &step);
    if (n < 0) return -1;
    if (n == 0) return 0;
    if (step < 0) {
        start += (n - 1) * step;
        step = -step;
    }
    if (step == 1) {
        nm__ring_splice(r, start, start + n, NULL, 0);
        return 0;
    }
    Py_ssize_t to = start;
    for (Py_ssize_t i = start; i < r->used; i++) {
        if (i % step == start % step && i <= start + (n - 1) * step) continue;
        memcpy(ring_slot(r, to++), ring_slot(r, i), (size_t)r->size);
    }
    r->used -= n;
    r->version++;
    return 0;
}

static int ring_assign_held(Ring *r, PyObject *slice, PyObject *values) {
    Py_ssize_t start, stop, step, n = ring_range(r, slice, &start, &stop, &step);
    if (n < 0) return -1;
    RingStaged s = {NULL, 0, 0};
    bool ok = nm__ring_stage_all(r, &s, values, step == 1 ? n : r->used);
    if (ok) {
        n = ring_range(r, slice, &start, &stop, &step); /* again: other code has run */
        ok = n >= 0;
    }
    if (ok && step == 1) {
        ok = ring_fits(r, s.used, n);
        if (ok) nm__ring_splice(r, start, start + n, s.bytes, s.used);
    } else if (ok && s.used != n) {
        PyErr_Format(PyExc_ValueError, "attempt to assign sequence of size %zd to extended slice of size %zd", s.used, n);
        ok = false;
    } else if (ok) {
        for (Py_ssize_t k = 0; k < n; k++) memcpy(ring_slot(r, start + k * step), s.bytes + k * r->size, (size_t)r->size);
    }
    PyMem_Free(s.bytes);
    return ok ? 0 : -1;
}

static int ring_assign_range(Ring *r, PyObject *slice, PyObject *values) {
    PyObject *held = nm__list_hold(values);
    int result = held == NULL ? -1 : ring_assign_held(r, slice, held);
    nm__list_drop(held);
    return result;
}

int nm__ring_ass_subscript(Ring *r, PyObject *index, PyObject *value) {
    NM_GUARD_OBJECT(r);
    if (!ring_open(r)) return -1;
    if (NM_LIKELY(PyLong_CheckExact(index) && value != NULL && r->format.single)) {
        Py_ssize_t i = PyLong_AsSsize_t(index);
        if (i < 0 && !PyErr_Occurred()) i += r->used;
        char packed[sizeof(int64_t)];
        if (NM_LIKELY(i >= 0 && i < r->used && r->size <= (Py_ssize_t)sizeof packed)) {
            if (NM_LIKELY(nm__pack_plain(&r->format, value, packed))) {
                memcpy(ring_slot(r, i), packed, (size_t)r->size);
                return 0;
            }
        }
        PyErr_Clear();
    }
    if (!PySlice_Check(index)) return ring_set_item(r, index, value);
    return value == NULL ? ring_delete_range(r, index) : ring_assign_range(r, index, value);
}

/* The slot behind the last item, and how many there are from it on without a turn around the end. */
static inline char *ring_behind(const Ring *r, Py_ssize_t *room) {
    Py_ssize_t at = r->head + r->used;
    if (at >= r->capacity) at -= r->capacity;
    *room = r->used == r->capacity ? 0 : r->capacity - (at >= r->head ? at : r->used);
    return r->items + at * r->size;
}

/* Adds the items of a list, a tuple or a buffer at the end, in one pass and without running Python code. False where it is
 * none of these, or the items are not plain, or do not fit in one piece: nothing has changed then, nor is an error set. */
static bool ring_add_plain(Ring *r, PyObject *values) {
    Py_ssize_t room, n;
    if (r->used == r->capacity) return false;
    if (PyList_CheckExact(values) || PyTuple_CheckExact(values)) {
        char *to = ring_behind(r, &room);
        n = PySequence_Fast_GET_SIZE(values);
        /* slots behind the last item hold none, so those that were packed before one that is not plain do no harm */
        if (n > room || nm__pack_run(&r->format, PySequence_Fast_ITEMS(values), n, to) != n) return false;
    } else {
        Py_buffer view;
        if (!nm__buffer_of_items(values)) return false;
        if (PyObject_GetBuffer(values, &view, PyBUF_ND | PyBUF_FORMAT) < 0) {
            PyErr_Clear();
            return false;
        }
        n = view.len / (view.itemsize == 0 ? 1 : view.itemsize);
        char *to = ring_behind(r, &room); /* only now, without the lock the ring may have changed meanwhile */
        bool ok = n <= room && r->items != NULL && nm__packs_as(&r->format, &view);
        if (ok) memmove(to, view.buf, (size_t)view.len);
        PyBuffer_Release(&view);
        if (!ok) return false;
    }
    if (n != 0) {
        r->used += n;
        r->version++;
    }
    return true;
}

static bool ring_add_held(Ring *r, PyObject *values, bool left) {
    NM_GUARD_OBJECT(r);
    RingStaged s = {NULL, 0, 0};
    if (!left && ring_open(r) && ring_add_plain(r, values)) return true;
    if (PyErr_Occurred()) return false;
    bool ok = ring_open(r) && nm__ring_stage_all(r, &s, values, 0);
    if (!ring_open(r)) ok = false;
    if (ok && ring_fits(r, s.used, 0)) {
        if (left) { /* as a deque's: the last one comes first */
            for (Py_ssize_t i = 0; i < s.used; i++) nm__ring_splice(r, 0, 0, s.bytes + i * r->size, 1);
        } else {
            nm__ring_splice(r, r->used, r->used, s.bytes, s.used);
        }
    } else {
        ok = false;
    }
    PyMem_Free(s.bytes);
    return ok;
}

static bool ring_add_all(Ring *r, PyObject *values, bool left) {
    PyObject *held = nm__list_hold(values);
    bool ok = held != NULL && ring_add_held(r, held, left);
    nm__list_drop(held);
    return ok;
}

PyObject *nm__ring_extend(Ring *r, PyObject *values) {
    NM_GUARD_OBJECT(r);
    if (!ring_open(r) || !ring_add_all(r, values, false)) return NULL;
    Py_RETURN_NONE;
}
PyObject *nm__ring_extend_left(Ring *r, PyObject *values) {
    NM_GUARD_OBJECT(r);
    if (!ring_open(r) || !ring_add_all(r, values, true)) return NULL;
    Py_RETURN_NONE;
}
PyObject *nm__ring_inplace_concat(Ring *r, PyObject *values) {
    NM_GUARD_OBJECT(r);
    if (!ring_open(r) || !ring_add_all(r, values, false)) return NULL;
    return Py_NewRef((PyObject *)r);
}

PyObject *nm__ring_clear(Ring *r, PyObject *unused) {
    NM_GUARD_OBJECT(r);
    (void)unused;
    if (!ring_open(r)) return NULL;
    r->head = r->used = 0;
    r->version++;
    Py_RETURN_NONE;
}

PyObject *nm__ring_reverse(Ring *r, PyObject *unused) {
    NM_GUARD_OBJECT(r);
    (void)unused;
    if (!ring_open(r)) return NULL;
    for (Py_ssize_t i = 0, j = r->used - 1; i < j; i++, j--) {
        char *a = ring_slot(r, i), *b = ring_slot(r, j), swap[64];
        for (Py_ssize_t done = 0, n; done < r->size; done += n) {
            n = r->size - done < (Py_ssize_t)sizeof swap ? r->size - done : (Py_ssize_t)sizeof swap;
            memcpy(swap, a + done, (size_t)n);
            memcpy(a + done, b + done, (size_t)n);
            memcpy(b + done, swap, (size_t)n);
        }
    }
    r->version++;
    Py_RETURN_NONE;
}

/* Moves the last item to the front, n times; a negative n the other way. Pre: not linear, so of the types with deque_methods. */
PyObject *nm__ring_rotate(Ring *r, PyObject *const *args, Py_ssize_t count) {
    NM_GUARD_OBJECT(r);
    Py_ssize_t n = 1;
    if (count > 1) return PyErr_Format(PyExc_TypeError, "rotate expected at most 1 argument, got %zd", count);
    if (count == 1 && (n = PyNumber_AsSsize_t(args[0], PyExc_OverflowError)) == -1 && PyErr_Occurred()) return NULL;
    if (!ring_open(r)) return NULL;
    if (r->used > 1) {
        n %= r->used;
        if (n > r->used / 2) n -= r->used;
        if (n < -(r->used / 2)) n += r->used;
        for (; n > 0; n--) {
            Py_ssize_t head = r->head == 0 ? r->capacity - 1 : r->head - 1;
            if (r->used < r->capacity) memcpy(r->items + head * r->size, ring_slot(r, r->used - 1), (size_t)r->size);
            r->head = head;
        }
        for (; n < 0; n++) {
            if (r->used < r->capacity) memcpy(ring_slot(r, r->used), ring_slot(r, 0), (size_t)r->size);
            r->head = r->head == r->capacity - 1 ? 0 : r->head + 1;
        }
        r->version++;
    }
    Py_RETURN_NONE;
}
