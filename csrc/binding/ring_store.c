/* The memory of a ring: moving its items, packing new ones before they move in, its life. */
#include "binding/ring_store.h"

#include <string.h>

/* ---- moving ---- */

/* Moves n items between slots that are counted from the start of the buffer, around its end; they may overlap. */
static void ring_move(Ring *r, Py_ssize_t to, Py_ssize_t from, Py_ssize_t n) {
    size_t size = (size_t)r->size;
    if (n <= 0 || to == from) return;
    if (to + n <= r->capacity && from + n <= r->capacity) {
        memmove(r->items + to * r->size, r->items + from * r->size, (size_t)n * size);
        return;
    }
    Py_ssize_t ahead = to - from;
    if (ahead < 0) ahead += r->capacity;
    bool backward = ahead < n; /* the start of `to` lies within `from` */
    for (Py_ssize_t k = 0; k < n; k++) {
        Py_ssize_t i = backward ? n - 1 - k : k;
        memcpy(r->items + ((to + i) % r->capacity) * r->size, r->items + ((from + i) % r->capacity) * r->size, size);
    }
}

/* Copies n packed items into the ring from its item i on. */
static void ring_put(Ring *r, Py_ssize_t i, const char *packed, Py_ssize_t n) {
    Py_ssize_t at = (r->head + i) % r->capacity, first = r->capacity - at < n ? r->capacity - at : n;
    if (n == 0) return;
    memcpy(r->items + at * r->size, packed, (size_t)(first * r->size));
    memcpy(r->items, packed + first * r->size, (size_t)((n - first) * r->size));
}

void nm__ring_splice(Ring *r, Py_ssize_t start, Py_ssize_t stop, const char *packed, Py_ssize_t n) {
    Py_ssize_t more = n - (stop - start), tail = r->used - stop;
    if (more != 0) {
        if (r->linear || start >= tail) {
            ring_move(r, (r->head + start + n) % r->capacity, (r->head + stop) % r->capacity, tail);
        } else {
            Py_ssize_t head = (r->head - more + r->capacity) % r->capacity;
            ring_move(r, head, r->head, start);
            r->head = head;
        }
        r->used += more;
        r->version++;
    }
    ring_put(r, start, packed, n);
}

/* ---- one item ---- */

Py_ssize_t nm__ring_index(Ring *r, PyObject *index, const char *what) {
    if (!PyIndex_Check(index)) {
        PyErr_Format(PyExc_TypeError, "%s indices must be integers or slices, not %s", Py_TYPE(r)->tp_name,
                     Py_TYPE(index)->tp_name);
        return -1;
    }
    Py_ssize_t i = PyNumber_AsSsize_t(index, PyExc_IndexError);
    if ((i == -1 && PyErr_Occurred()) || !ring_open(r)) return -1;
    if (i < 0) i += r->used;
    if (i >= 0 && i < r->used) return i;
    PyErr_Format(PyExc_IndexError, "%s %s out of range", Py_TYPE(r)->tp_name, what);
    return -1;
}

/* ---- packing ---- */

/* Makes room for n more. */
static bool ring_stage_room(Ring *r, RingStaged *s, Py_ssize_t n) {
    Py_ssize_t most = PY_SSIZE_T_MAX / r->size, room = s->room > most / 2 ? most : 2 * s->room;
    if (n <= s->room - s->used) return true;
    if (room < s->used + n) room = s->used + n;
    char *bytes = room > most ? NULL : PyMem_Realloc(s->bytes, (size_t)(room * r->size));
    if (bytes == NULL) {
        (void)PyErr_NoMemory();
        return false;
    }
    s->bytes = bytes;
    s->room = room;
    return true;
}

static bool ring_stage(Ring *r, RingStaged *s, PyObject *value) {
    if (NM_UNLIKELY(s->used == s->room) && !ring_stage_room(r, s, 16)) return false;
    return nm__pack(&r->format, value, s->bytes + s->used++ * r->size);
}

bool nm__ring_stage_all(Ring *r, RingStaged *s, PyObject *values, Py_ssize_t fewer) {
    if (values == (PyObject *)r) { /* while it is read nothing changes it */
        if (!ring_open(r)) return false;
        s->bytes = PyMem_Malloc((size_t)(r->used * r->size + 1));
        if (s->bytes == NULL) {
            (void)PyErr_NoMemory();
            return false;
        }
        for (Py_ssize_t i = 0; i < r->used; i++) memcpy(s->bytes + i * r->size, ring_slot(r, i), (size_t)r->size);
        s->used = s->room = r->used;
        return true;
    }
    if (PyList_CheckExact(values) || PyTuple_CheckExact(values)) {
        if (!ring_fits(r, PySequence_Fast_GET_SIZE(values), fewer)) return false;
        if (!ring_stage_room(r, s, PySequence_Fast_GET_SIZE(values))) return false;
        s->used = nm__pack_run(&r->format, PySequence_Fast_ITEMS(values), PySequence_Fast_GET_SIZE(values), s->bytes);
        for (Py_ssize_t i = s->used; i < PySequence_Fast_GET_SIZE(values); i++) {
            PyObject *value = Py_NewRef(PySequence_Fast_GET_ITEM(values, i));
            bool ok = ring_stage(r, s, value);
            Py_DECREF(value);
            if (!ok || !ring_open(r) || !ring_fits(r, s->used, fewer)) return false;
        }
        return true;
    }
    PyObject *iterator = PyObject_GetIter(values), *value;
    if (iterator == NULL) return false;
    while ((value = PyIter_Next(iterator)) != NULL) {
        bool ok = ring_stage(r, s, value);
        Py_DECREF(value);
        ok = ok && ring_open(r) && ring_fits(r, s->used, fewer);
        if (!ok) break;
    }
    Py_DECREF(iterator);
    return !PyErr_Occurred();
}

/* ---- life ---- */

PyObject *nm__ring_attach(Ring *r, PyObject *args) {
    NM_GUARD_OBJECT(r);
    PyObject *buffer, *spec;
    Py_ssize_t capacity;
    int linear, strict;
    if (!PyArg_ParseTuple(args, "OnOpp", &buffer, &capacity, &spec, &linear, &strict)) return NULL;
    if (r->format.pack != NULL) {
        PyErr_Format(PyExc_RuntimeError, "%s: was initialised before", Py_TYPE(r)->tp_name);
        return NULL;
    }
    nm__format format;
    if (!nm__format_init(&format, spec)) return NULL;
    Py_buffer view;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0) {
        nm__format_clear(&format);
        return NULL;
    }
    if (capacity < 1 || format.size < 1 || capacity > view.len / format.size || r->format.pack != NULL) {
        PyErr_SetString(PyExc_SystemError, "a ring larger than its memory");
        PyBuffer_Release(&view);
        nm__format_clear(&format);
        return NULL;
    }
    r->format = format;
    r->size = format.size;
    r->view = view;
    r->items = view.buf;
    r->capacity = capacity;
    r->linear = linear != 0;
    r->strict = strict != 0;
    Py_RETURN_NONE;
}

PyObject *nm__ring_detach(Ring *r, PyObject *unused) {
    NM_GUARD_OBJECT(r);
    (void)unused;
    if (r->items == NULL) Py_RETURN_NONE;
    r->items = NULL;
    PyBuffer_Release(&r->view);
    Py_RETURN_NONE;
}
PyObject *nm__ring_resume(Ring *r, PyObject *buffer) {
    NM_GUARD_OBJECT(r);
    if (r->items != NULL || r->format.pack == NULL) Py_RETURN_NONE;
    Py_buffer view;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0) return NULL;
    if (r->items != NULL || view.len < r->capacity * r->size) {
        PyBuffer_Release(&view);
        Py_RETURN_NONE;
    }
    r->view = view;
    r->items = view.buf;
    Py_RETURN_NONE;
}

PyObject *nm__ring_closed(Ring *r, void *unused) {
    NM_GUARD_OBJECT(r);
    (void)unused;
    return PyBool_FromLong(r->items == NULL);
}
PyObject *nm__ring_capacity(Ring *r, void *unused) {
    NM_GUARD_OBJECT(r);
    (void)unused;
    return PyLong_FromSsize_t(r->capacity);
}

int nm__ring_traverse(Ring *r, visitproc visit, void *arg) {
    if (r->items != NULL) Py_VISIT(r->view.obj);
    return nm__format_traverse(&r->format, visit, arg);
}
int nm__ring_gc_clear(Ring *r) {
    if (r->items != NULL) {
        r->items = NULL;
        PyBuffer_Release(&r->view);
    }
    Py_CLEAR(r->format.pack);
    Py_CLEAR(r->format.unpack);
    return 0;
}
void nm__ring_dealloc(Ring *r) {
    PyObject_GC_UnTrack(r);
    (void)nm__ring_gc_clear(r);
    nm__format_clear(&r->format);
    Py_TYPE(r)->tp_free((PyObject *)r);
}
