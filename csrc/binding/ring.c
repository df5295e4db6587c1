/* Ring: a bounded sequence of packed items, which lists, stacks, queues and deques are made of.
 *
 * The items lie in `capacity` slots of a buffer that the Python side has taken, one behind the other from slot `head` on,
 * around the end. It never grows: what does not fit is refused before anything has changed. New items are packed into
 * memory of their own first, because packing may run any Python code, which may change or close the ring; between the last
 * look at the ring's state and the change no Python code runs. */
#include "binding/packed.h"
#include "binding/ring.h"

#include <string.h>

/* Invariants:
 *   closed <=> items == NULL
 *   0 <= used <= capacity;  0 <= head < capacity;  linear => head == 0
 *   version changes whenever `used` or the place of an item does */
typedef struct {
    PyObject_HEAD
    char *items;
    Py_ssize_t head, used, capacity;
    Py_ssize_t size; /* of an item, bytes */
    uint64_t version;
    nm__format format;
    Py_buffer view;
    bool linear, strict; /* strict: iterators refuse to go on after a change, as a deque's */
} Ring;

typedef struct {
    PyObject_HEAD
    Ring *ring; /* NULL: exhausted */
    Py_ssize_t next, step;
    uint64_t version;
} RingIter;

static PyTypeObject Ring_Type, RingIter_Type;

static inline char *slot(const Ring *r, Py_ssize_t i) {
    Py_ssize_t at = r->head + i;
    return r->items + (at >= r->capacity ? at - r->capacity : at) * r->size;
}

static inline bool ring_open(Ring *r) {
    if (NM_LIKELY(r->items != NULL)) return true;
    nm__packed_refuse((PyObject *)r, "closed", 0);
    return false;
}

/* Whether `more` items fit in place of `fewer`; with an error set if not. */
static inline bool ring_fits(Ring *r, Py_ssize_t more, Py_ssize_t fewer) {
    if (NM_LIKELY(more <= r->capacity - r->used + fewer)) return true;
    nm__packed_refuse((PyObject *)r, "full", more - fewer);
    return false;
}

/* ---- moving ---------------------------------------------------------------------------------------- */

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

/* Puts n packed items in place of those from start to stop.
 * Pre: 0 <= start <= stop <= used;  n <= capacity - used + (stop - start) */
static void ring_splice(Ring *r, Py_ssize_t start, Py_ssize_t stop, const char *packed, Py_ssize_t n) {
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

/* ---- packing --------------------------------------------------------------------------------------- */

typedef struct {
    char *bytes;
    Py_ssize_t used, room; /* items */
} Staged;

static bool stage(Ring *r, Staged *s, PyObject *value) {
    if (s->used == s->room) {
        Py_ssize_t room = s->room == 0 ? 16 : 2 * s->room;
        char *bytes = room > PY_SSIZE_T_MAX / r->size ? NULL : PyMem_Realloc(s->bytes, (size_t)(room * r->size));
        if (bytes == NULL) {
            (void)PyErr_NoMemory();
            return false;
        }
        s->bytes = bytes;
        s->room = room;
    }
    return nm__pack(&r->format, value, s->bytes + s->used++ * r->size);
}

/* Packs all that `values` gives, and stops where that is more than fits in place of `fewer`: it may have no end.
 * The caller frees s->bytes in any case. */
static bool stage_all(Ring *r, Staged *s, PyObject *values, Py_ssize_t fewer) {
    if (values == (PyObject *)r) { /* while it is read nothing changes it */
        if (!ring_open(r)) return false;
        s->bytes = PyMem_Malloc((size_t)(r->used * r->size + 1));
        if (s->bytes == NULL) {
            (void)PyErr_NoMemory();
            return false;
        }
        for (Py_ssize_t i = 0; i < r->used; i++) memcpy(s->bytes + i * r->size, slot(r, i), (size_t)r->size);
        s->used = s->room = r->used;
        return true;
    }
    if (PyList_CheckExact(values) || PyTuple_CheckExact(values)) {
        if (!ring_fits(r, PySequence_Fast_GET_SIZE(values), fewer)) return false;
        for (Py_ssize_t i = 0; i < PySequence_Fast_GET_SIZE(values); i++) {
            PyObject *value = Py_NewRef(PySequence_Fast_GET_ITEM(values, i));
            bool ok = stage(r, s, value);
            Py_DECREF(value);
            if (!ok || !ring_open(r) || !ring_fits(r, s->used, fewer)) return false;
        }
        return true;
    }
    PyObject *iterator = PyObject_GetIter(values), *value;
    if (iterator == NULL) return false;
    while ((value = PyIter_Next(iterator)) != NULL) {
        bool ok = stage(r, s, value);
        Py_DECREF(value);
        ok = ok && ring_open(r) && ring_fits(r, s->used, fewer);
        if (!ok) break;
    }
    Py_DECREF(iterator);
    return !PyErr_Occurred();
}

/* ---- one item --------------------------------------------------------------------------------------- */

/* The item that an index from Python stands for; -1 with an error set. Runs Python code. */
static Py_ssize_t ring_index(Ring *r, PyObject *index, const char *what) {
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

static Py_ssize_t ring_length(Ring *r) { return ring_open(r) ? r->used : -1; }

static PyObject *ring_item(Ring *r, Py_ssize_t i) { /* for PySequence_GetItem, which has added the length */
    if (!ring_open(r)) return NULL;
    if (i >= 0 && i < r->used) return nm__unpack(&r->format, slot(r, i));
    PyErr_Format(PyExc_IndexError, "%s index out of range", Py_TYPE(r)->tp_name);
    return NULL;
}

static bool ring_insert_at(Ring *r, PyObject *value, Py_ssize_t at) {
    nm__scratch scratch;
    char *packed = nm__scratch_get(&scratch, r->size);
    if (packed == NULL) return false;
    bool ok = nm__pack(&r->format, value, packed) && ring_open(r) && ring_fits(r, 1, 0);
    if (ok) {
        if (at < 0 && (at += r->used) < 0) at = 0; /* as list.insert */
        if (at > r->used) at = r->used;
        ring_splice(r, at, at, packed, 1);
    }
    nm__scratch_drop(&scratch);
    return ok;
}

static PyObject *ring_append(Ring *r, PyObject *value) {
    if (!ring_open(r)) return NULL;
    if (NM_LIKELY(r->format.single && r->used < r->capacity)) {
        /* the slot behind the last item is nobody's, so a value that turns out not to be plain does no harm there */
        if (NM_LIKELY(nm__pack_plain(&r->format, value, slot(r, r->used)))) {
            r->used++;
            r->version++;
            Py_RETURN_NONE;
        }
    }
    if (!ring_insert_at(r, value, PY_SSIZE_T_MAX)) return NULL;
    Py_RETURN_NONE;
}

static PyObject *ring_append_left(Ring *r, PyObject *value) {
    if (!ring_open(r) || !ring_insert_at(r, value, 0)) return NULL;
    Py_RETURN_NONE;
}

static PyObject *ring_insert(Ring *r, PyObject *const *args, Py_ssize_t n) {
    if (n != 2) return PyErr_Format(PyExc_TypeError, "insert expected 2 arguments, got %zd", n);
    Py_ssize_t at = PyNumber_AsSsize_t(args[0], NULL);
    if ((at == -1 && PyErr_Occurred()) || !ring_open(r) || !ring_insert_at(r, args[1], at)) return NULL;
    Py_RETURN_NONE;
}

/* Takes item i out. Pre: it is there, which is looked at again where reading it has run Python code. */
static PyObject *ring_take(Ring *r, Py_ssize_t i) {
    uint64_t version = r->version;
    PyObject *value = nm__unpack(&r->format, slot(r, i));
    if (value == NULL) return NULL;
    if (NM_UNLIKELY(r->items == NULL || r->version != version)) {
        Py_DECREF(value);
        if (ring_open(r)) PyErr_SetString(PyExc_RuntimeError, "the collection was changed by what its item's reading ran");
        return NULL;
    }
    if (i == r->used - 1) {
        r->used--;
        r->version++;
    } else {
        ring_splice(r, i, i + 1, NULL, 0);
    }
    return value;
}

static PyObject *ring_pop_at(Ring *r, PyObject *const *args, Py_ssize_t n, bool oldest) {
    if (n > 1) return PyErr_Format(PyExc_TypeError, "pop expected at most 1 argument, got %zd", n);
    if (!ring_open(r)) return NULL;
    if (NM_UNLIKELY(r->used == 0)) return PyErr_Format(PyExc_IndexError, "pop from an empty %s", Py_TYPE(r)->tp_name);
    if (n == 0) return ring_take(r, oldest ? 0 : r->used - 1);
    Py_ssize_t i = ring_index(r, args[0], "pop index");
    return i < 0 ? NULL : ring_take(r, i);
}
static PyObject *ring_pop(Ring *r, PyObject *const *args, Py_ssize_t n) { return ring_pop_at(r, args, n, false); }
static PyObject *ring_pop_oldest(Ring *r, PyObject *const *args, Py_ssize_t n) { return ring_pop_at(r, args, n, true); }
static PyObject *ring_pop_left(Ring *r, PyObject *unused) {
    (void)unused;
    return ring_pop_at(r, NULL, 0, true);
}

static PyObject *ring_peek_at(Ring *r, bool oldest) {
    if (!ring_open(r)) return NULL;
    if (r->used == 0) return PyErr_Format(PyExc_IndexError, "peek at an empty %s", Py_TYPE(r)->tp_name);
    return nm__unpack(&r->format, slot(r, oldest ? 0 : r->used - 1));
}
static PyObject *ring_peek(Ring *r, PyObject *unused) {
    (void)unused;
    return ring_peek_at(r, false);
}
static PyObject *ring_peek_oldest(Ring *r, PyObject *unused) {
    (void)unused;
    return ring_peek_at(r, true);
}

/* ---- ranges ------------------------------------------------------------------------------------------ */

/* Unpacks n items from `start` on, `step` apart. */
static PyObject *ring_list(Ring *r, Py_ssize_t start, Py_ssize_t step, Py_ssize_t n) {
    PyObject *list = PyList_New(n);
    for (Py_ssize_t k = 0; list != NULL && k < n; k++) {
        Py_ssize_t i = start + k * step;
        /* the list's making, or the item's before, may have run a collection */
        PyObject *value = r->items != NULL && i < r->used ? nm__unpack(&r->format, slot(r, i)) : NULL;
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

static PyObject *ring_subscript(Ring *r, PyObject *index) {
    if (!ring_open(r)) return NULL;
    if (NM_LIKELY(PyLong_CheckExact(index))) {
        Py_ssize_t i = PyLong_AsSsize_t(index);
        if (i < 0 && !PyErr_Occurred()) i += r->used;
        if (NM_LIKELY(i >= 0 && i < r->used)) return nm__unpack(&r->format, slot(r, i));
        PyErr_Clear(); /* ring_index says it */
    }
    if (!PySlice_Check(index)) {
        Py_ssize_t i = ring_index(r, index, "index");
        return i < 0 ? NULL : nm__unpack(&r->format, slot(r, i));
    }
    Py_ssize_t start, stop, step, n = ring_range(r, index, &start, &stop, &step);
    return n < 0 ? NULL : ring_list(r, start, step, n);
}

static int ring_set_item(Ring *r, PyObject *index, PyObject *value) {
    Py_ssize_t i = ring_index(r, index, "assignment index");
    if (i < 0) return -1;
    if (value == NULL) {
        ring_splice(r, i, i + 1, NULL, 0);
        return 0;
    }
    nm__scratch scratch;
    char *packed = nm__scratch_get(&scratch, r->size);
    if (packed == NULL) return -1;
    bool ok = nm__pack(&r->format, value, packed);
    /* packing may have run any code, so the index is looked at again */
    if (ok && (i = ring_index(r, index, "assignment index")) >= 0) memcpy(slot(r, i), packed, (size_t)r->size);
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
        ring_splice(r, start, start + n, NULL, 0);
        return 0;
    }
    Py_ssize_t to = start;
    for (Py_ssize_t i = start; i < r->used; i++) {
        if (i % step == start % step && i <= start + (n - 1) * step) continue;
        memcpy(slot(r, to++), slot(r, i), (size_t)r->size);
    }
    r->used -= n;
    r->version++;
    return 0;
}

static int ring_assign_range(Ring *r, PyObject *slice, PyObject *values) {
    Py_ssize_t start, stop, step, n = ring_range(r, slice, &start, &stop, &step);
    if (n < 0) return -1;
    Staged s = {NULL, 0, 0};
    bool ok = stage_all(r, &s, values, step == 1 ? n : r->used);
    if (ok) {
        n = ring_range(r, slice, &start, &stop, &step); /* again: other code has run */
        ok = n >= 0;
    }
    if (ok && step == 1) {
        ok = ring_fits(r, s.used, n);
        if (ok) ring_splice(r, start, start + n, s.bytes, s.used);
    } else if (ok && s.used != n) {
        PyErr_Format(PyExc_ValueError, "attempt to assign sequence of size %zd to extended slice of size %zd", s.used, n);
        ok = false;
    } else if (ok) {
        for (Py_ssize_t k = 0; k < n; k++) memcpy(slot(r, start + k * step), s.bytes + k * r->size, (size_t)r->size);
    }
    PyMem_Free(s.bytes);
    return ok ? 0 : -1;
}

static int ring_ass_subscript(Ring *r, PyObject *index, PyObject *value) {
    if (!ring_open(r)) return -1;
    if (NM_LIKELY(PyLong_CheckExact(index) && value != NULL && r->format.single)) {
        Py_ssize_t i = PyLong_AsSsize_t(index);
        if (i < 0 && !PyErr_Occurred()) i += r->used;
        char packed[sizeof(int64_t)];
        if (NM_LIKELY(i >= 0 && i < r->used && r->size <= (Py_ssize_t)sizeof packed)) {
            if (NM_LIKELY(nm__pack_plain(&r->format, value, packed))) {
                memcpy(slot(r, i), packed, (size_t)r->size);
                return 0;
            }
        }
        PyErr_Clear();
    }
    if (!PySlice_Check(index)) return ring_set_item(r, index, value);
    return value == NULL ? ring_delete_range(r, index) : ring_assign_range(r, index, value);
}

static bool ring_add_all(Ring *r, PyObject *values, bool left) {
    Staged s = {NULL, 0, 0};
    bool ok = ring_open(r) && stage_all(r, &s, values, 0);
    if (!ring_open(r)) ok = false;
    if (ok && ring_fits(r, s.used, 0)) {
        if (left) { /* as a deque's: the last one comes first */
            for (Py_ssize_t i = 0; i < s.used; i++) ring_splice(r, 0, 0, s.bytes + i * r->size, 1);
        } else {
            ring_splice(r, r->used, r->used, s.bytes, s.used);
        }
    } else {
        ok = false;
    }
    PyMem_Free(s.bytes);
    return ok;
}

static PyObject *ring_extend(Ring *r, PyObject *values) {
    if (!ring_open(r) || !ring_add_all(r, values, false)) return NULL;
    Py_RETURN_NONE;
}
static PyObject *ring_extend_left(Ring *r, PyObject *values) {
    if (!ring_open(r) || !ring_add_all(r, values, true)) return NULL;
    Py_RETURN_NONE;
}
static PyObject *ring_inplace_concat(Ring *r, PyObject *values) {
    if (!ring_open(r) || !ring_add_all(r, values, false)) return NULL;
    return Py_NewRef((PyObject *)r);
}

static PyObject *ring_clear_items(Ring *r, PyObject *unused) {
    (void)unused;
    if (!ring_open(r)) return NULL;
    r->head = r->used = 0;
    r->version++;
    Py_RETURN_NONE;
}

static PyObject *ring_reverse(Ring *r, PyObject *unused) {
    (void)unused;
    if (!ring_open(r)) return NULL;
    for (Py_ssize_t i = 0, j = r->used - 1; i < j; i++, j--) {
        char *a = slot(r, i), *b = slot(r, j), swap[64];
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
static PyObject *ring_rotate(Ring *r, PyObject *const *args, Py_ssize_t count) {
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
            if (r->used < r->capacity) memcpy(r->items + head * r->size, slot(r, r->used - 1), (size_t)r->size);
            r->head = head;
        }
        for (; n < 0; n++) {
            if (r->used < r->capacity) memcpy(slot(r, r->used), slot(r, 0), (size_t)r->size);
            r->head = r->head == r->capacity - 1 ? 0 : r->head + 1;
        }
        r->version++;
    }
    Py_RETURN_NONE;
}

/* ---- search ------------------------------------------------------------------------------------------ */

/* Returns from the function. */
#define SEARCH(type, wanted)                        \
    do {                                            \
        for (; i < stop; i++) {                     \
            type item;                              \
            memcpy(&item, slot(r, i), sizeof item); \
            if (item == (wanted)) return i;         \
        }                                           \
        return -1;                                  \
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
        PyObject *item = nm__unpack(&r->format, slot(r, i));
        if (item == NULL) return -2;
        int same = PyObject_RichCompareBool(item, value, Py_EQ);
        Py_DECREF(item);
        if (same < 0 || !ring_open(r)) return -2;
        if (same) return i;
    }
    return -1;
}

static int ring_contains(Ring *r, PyObject *value) {
    if (!ring_open(r)) return -1;
    Py_ssize_t i = ring_find(r, value, 0, r->used);
    return i == -2 ? -1 : i >= 0;
}

static int to_bound(PyObject *arg, void *out) { /* as list.index takes them */
    if (!PyIndex_Check(arg)) {
        PyErr_SetString(PyExc_TypeError, "slice indices must be integers or have an __index__ method");
        return 0;
    }
    Py_ssize_t bound = PyNumber_AsSsize_t(arg, NULL);
    *(Py_ssize_t *)out = bound;
    return !(bound == -1 && PyErr_Occurred());
}

static PyObject *ring_index_of(Ring *r, PyObject *args) {
    PyObject *value;
    Py_ssize_t start = 0, stop = PY_SSIZE_T_MAX;
    if (!PyArg_ParseTuple(args, "O|O&O&:index", &value, to_bound, &start, to_bound, &stop) || !ring_open(r)) return NULL;
    if (start < 0 && (start += r->used) < 0) start = 0;
    if (stop < 0 && (stop += r->used) < 0) stop = 0;
    Py_ssize_t i = ring_find(r, value, start, stop);
    if (i >= 0) return PyLong_FromSsize_t(i);
    if (i == -1) PyErr_Format(PyExc_ValueError, "%R is not in the %s", value, Py_TYPE(r)->tp_name);
    return NULL;
}

static PyObject *ring_count(Ring *r, PyObject *value) {
    Py_ssize_t n = 0, i = 0;
    if (!ring_open(r)) return NULL;
    while ((i = ring_find(r, value, i, PY_SSIZE_T_MAX)) >= 0) {
        n++;
        i++;
    }
    return i == -2 ? NULL : PyLong_FromSsize_t(n);
}

static PyObject *ring_remove(Ring *r, PyObject *value) {
    if (!ring_open(r)) return NULL;
    uint64_t version = r->version;
    Py_ssize_t i = ring_find(r, value, 0, r->used);
    if (i == -2) return NULL;
    if (i == -1) return PyErr_Format(PyExc_ValueError, "%R is not in the %s", value, Py_TYPE(r)->tp_name);
    if (r->version != version) return PyErr_Format(PyExc_RuntimeError, "%s mutated during remove()", Py_TYPE(r)->tp_name);
    ring_splice(r, i, i + 1, NULL, 0);
    Py_RETURN_NONE;
}

/* ---- iteration --------------------------------------------------------------------------------------- */

static PyObject *ring_iterator(Ring *r, Py_ssize_t step) {
    if (!ring_open(r)) return NULL;
    RingIter *it = PyObject_GC_New(RingIter, &RingIter_Type);
    if (it == NULL) return NULL;
    it->ring = (Ring *)Py_NewRef((PyObject *)r);
    it->next = step > 0 ? 0 : r->used - 1;
    it->step = step;
    it->version = r->version;
    PyObject_GC_Track(it);
    return (PyObject *)it;
}
static PyObject *ring_iter(Ring *r) { return ring_iterator(r, 1); }
static PyObject *ring_reversed(Ring *r, PyObject *unused) {
    (void)unused;
    return ring_iterator(r, -1);
}

static PyObject *iter_next(RingIter *it) {
    Ring *r = it->ring;
    if (r == NULL || !ring_open(r)) return NULL;
    if (NM_UNLIKELY(r->strict && it->version != r->version))
        return PyErr_Format(PyExc_RuntimeError, "%s mutated during iteration", Py_TYPE(r)->tp_name);
    Py_ssize_t i = it->next;
    if (NM_LIKELY(i >= 0 && i < r->used)) {
        it->next = i + it->step;
        return nm__unpack(&r->format, slot(r, i));
    }
    it->ring = NULL;
    Py_DECREF(r);
    return NULL;
}
static PyObject *iter_hint(RingIter *it, PyObject *unused) {
    (void)unused;
    Ring *r = it->ring;
    Py_ssize_t n = r == NULL || r->items == NULL ? 0 : it->step > 0 ? r->used - it->next : it->next + 1;
    return PyLong_FromSsize_t(n < 0 ? 0 : n);
}
static int iter_traverse(RingIter *it, visitproc visit, void *arg) {
    Py_VISIT(it->ring);
    return 0;
}
static void iter_dealloc(RingIter *it) {
    PyObject_GC_UnTrack(it);
    Py_XDECREF(it->ring);
    PyObject_GC_Del(it);
}

/* ---- life -------------------------------------------------------------------------------------------- */

/* _attach(buffer, capacity, format, linear, strict): the slots lie at the buffer's start. */
static PyObject *ring_attach(Ring *r, PyObject *args) {
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

/* _detach(): lets go of the memory; the items stay in it. */
static PyObject *ring_detach(Ring *r, PyObject *unused) {
    (void)unused;
    if (r->items == NULL) Py_RETURN_NONE;
    r->items = NULL;
    PyBuffer_Release(&r->view);
    Py_RETURN_NONE;
}
/* _resume(buffer): takes the same memory up again, as _detach left it. */
static PyObject *ring_resume(Ring *r, PyObject *buffer) {
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

static PyObject *ring_closed(Ring *r, void *unused) {
    (void)unused;
    return PyBool_FromLong(r->items == NULL);
}
static PyObject *ring_capacity(Ring *r, void *unused) {
    (void)unused;
    return PyLong_FromSsize_t(r->capacity);
}

static int ring_traverse(Ring *r, visitproc visit, void *arg) {
    if (r->items != NULL) Py_VISIT(r->view.obj);
    return nm__format_traverse(&r->format, visit, arg);
}
static int ring_gc_clear(Ring *r) {
    if (r->items != NULL) {
        r->items = NULL;
        PyBuffer_Release(&r->view);
    }
    Py_CLEAR(r->format.pack);
    Py_CLEAR(r->format.unpack);
    return 0;
}
static void ring_dealloc(Ring *r) {
    PyObject_GC_UnTrack(r);
    (void)ring_gc_clear(r);
    nm__format_clear(&r->format);
    Py_TYPE(r)->tp_free((PyObject *)r);
}

/* The hot ones are copied to each class by packed_own_methods. */
static PyMethodDef ring_methods[] = {
    {"append", (PyCFunction)ring_append, METH_O, "append($self, value, /)\n--\n\nAdds an item behind the last."},
    {"extend", (PyCFunction)ring_extend, METH_O, "extend($self, values, /)\n--\n\nAdds all behind the last item, or none."},
    {"insert", (PyCFunction)(void (*)(void))ring_insert, METH_FASTCALL,
     "insert($self, index, value, /)\n--\n\nAdds an item before the one at an index."},
    {"pop", (PyCFunction)(void (*)(void))ring_pop, METH_FASTCALL,
     "pop($self, index=-1, /)\n--\n\nTakes an item out, the last unless told otherwise."},
    {"clear", (PyCFunction)ring_clear_items, METH_NOARGS, "clear($self, /)\n--\n\nRemoves all items."},
    {"reverse", (PyCFunction)ring_reverse, METH_NOARGS, "reverse($self, /)\n--\n\nTurns the order round, in place."},
    {"index", (PyCFunction)ring_index_of, METH_VARARGS,
     "index($self, value, start=0, stop=9223372036854775807, /)\n--\n\nIndex of the first item equal to it."},
    {"count", (PyCFunction)ring_count, METH_O, "count($self, value, /)\n--\n\nHow many items are equal to it."},
    {"remove", (PyCFunction)ring_remove, METH_O, "remove($self, value, /)\n--\n\nRemoves the first item equal to it."},
    {"__reversed__", (PyCFunction)ring_reversed, METH_NOARGS, NULL},
    {"_attach", (PyCFunction)ring_attach, METH_VARARGS, NULL},
    {"_detach", (PyCFunction)ring_detach, METH_NOARGS, NULL},
    {"_resume", (PyCFunction)ring_resume, METH_O, NULL},
    {NULL, NULL, 0, NULL}};

#define PUSH {"push", (PyCFunction)ring_append, METH_O, "push($self, value, /)\n--\n\nAdds an item behind the last."}

static PyMethodDef stack_methods[] = {
    PUSH,
    {"peek", (PyCFunction)ring_peek, METH_NOARGS, "peek($self, /)\n--\n\nThe newest item, which stays."},
    {NULL, NULL, 0, NULL}};

static PyMethodDef deque_methods[] = {
    {"appendleft", (PyCFunction)ring_append_left, METH_O, "appendleft($self, value, /)\n--\n\nAdds an item before the first."},
    {"extendleft", (PyCFunction)ring_extend_left, METH_O,
     "extendleft($self, values, /)\n--\n\nAdds one after the other before the first item, or none."},
    {"popleft", (PyCFunction)ring_pop_left, METH_NOARGS, "popleft($self, /)\n--\n\nTakes the first item out."},
    {"peek", (PyCFunction)ring_peek, METH_NOARGS, "peek($self, /)\n--\n\nThe last item, which stays."},
    {"peekleft", (PyCFunction)ring_peek_oldest, METH_NOARGS, "peekleft($self, /)\n--\n\nThe first item, which stays."},
    {"rotate", (PyCFunction)(void (*)(void))ring_rotate, METH_FASTCALL,
     "rotate($self, n=1, /)\n--\n\nMoves the last n items to the front."},
    {NULL, NULL, 0, NULL}};

static PyMethodDef queue_methods[] = {
    PUSH,
    {"pop", (PyCFunction)(void (*)(void))ring_pop_oldest, METH_FASTCALL,
     "pop($self, index=0, /)\n--\n\nTakes an item out, the oldest unless told otherwise."},
    {"peek", (PyCFunction)ring_peek_oldest, METH_NOARGS, "peek($self, /)\n--\n\nThe oldest item, which stays."},
    {NULL, NULL, 0, NULL}};

static PyGetSetDef ring_getset[] = {{"closed", (getter)ring_closed, NULL, "Whether it was closed.", NULL},
                                    {"capacity", (getter)ring_capacity, NULL, "Most items that it holds.", NULL},
                                    {NULL, NULL, NULL, NULL, NULL}};

static PyMappingMethods ring_mapping = {.mp_length = (lenfunc)ring_length,
                                        .mp_subscript = (binaryfunc)ring_subscript,
                                        .mp_ass_subscript = (objobjargproc)ring_ass_subscript};
static PySequenceMethods ring_sequence = {.sq_length = (lenfunc)ring_length,
                                          .sq_item = (ssizeargfunc)ring_item,
                                          .sq_contains = (objobjproc)ring_contains,
                                          .sq_inplace_concat = (binaryfunc)ring_inplace_concat};

static PyTypeObject Ring_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nativemem._dataplane.Ring",
    .tp_basicsize = sizeof(Ring),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = (destructor)ring_dealloc,
    .tp_traverse = (traverseproc)ring_traverse,
    .tp_clear = (inquiry)ring_gc_clear,
    .tp_iter = (getiterfunc)ring_iter,
    .tp_as_mapping = &ring_mapping,
    .tp_as_sequence = &ring_sequence,
    .tp_methods = ring_methods,
    .tp_getset = ring_getset,
};

#define KIND_OF_RING(variable, name, methods)                                  \
    static PyTypeObject variable = {                                           \
        PyVarObject_HEAD_INIT(NULL, 0).tp_name = "nativemem._dataplane." name, \
        .tp_basicsize = sizeof(Ring),                                          \
        .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,                  \
        .tp_base = &Ring_Type,                                                 \
        .tp_methods = methods,                                                 \
    }
KIND_OF_RING(RingStack_Type, "RingStack", stack_methods);
KIND_OF_RING(RingDeque_Type, "RingDeque", deque_methods);
KIND_OF_RING(RingQueue_Type, "RingQueue", queue_methods);

static PyMethodDef iter_methods[] = {{"__length_hint__", (PyCFunction)iter_hint, METH_NOARGS, NULL}, {NULL, NULL, 0, NULL}};
static PyTypeObject RingIter_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nativemem._dataplane.RingIterator",
    .tp_basicsize = sizeof(RingIter),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)iter_dealloc,
    .tp_traverse = (traverseproc)iter_traverse,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = (iternextfunc)iter_next,
    .tp_methods = iter_methods,
};

int nm__ring_add(PyObject *module) {
    if (PyType_Ready(&Ring_Type) < 0 || PyType_Ready(&RingStack_Type) < 0 || PyType_Ready(&RingDeque_Type) < 0 ||
        PyType_Ready(&RingQueue_Type) < 0 || PyType_Ready(&RingIter_Type) < 0)
        return -1;
    if (PyModule_AddObjectRef(module, "Ring", (PyObject *)&Ring_Type) < 0 ||
        PyModule_AddObjectRef(module, "RingStack", (PyObject *)&RingStack_Type) < 0 ||
        PyModule_AddObjectRef(module, "RingDeque", (PyObject *)&RingDeque_Type) < 0)
        return -1;
    return PyModule_AddObjectRef(module, "RingQueue", (PyObject *)&RingQueue_Type);
}
