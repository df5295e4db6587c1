/* Ring: a bounded sequence of packed items, which lists, stacks, queues and deques are made of.
 *
 * The items lie in `capacity` slots of a buffer that the Python side has taken, one behind the other from slot `head` on,
 * around the end. It never grows: what does not fit is refused before anything has changed. New items are packed into
 * memory of their own first, because packing may run any Python code, which may change or close the ring; between the last
 * look at the ring's state and the change no Python code runs. */
#include "binding/ring.h"

#include "binding/ring_ranges.h"
#include "binding/ring_search.h"
#include "binding/ring_store.h"

#include <string.h>

typedef struct {
    PyObject_HEAD
    Ring *ring; /* NULL: finished */
    Py_ssize_t next, step; /* step 0: finished */
    uint64_t version;
} RingIter;

static PyTypeObject Ring_Type, RingIter_Type;

/* ---- one item ---- */

static Py_ssize_t ring_length(Ring *r) {
    NM_GUARD_OBJECT(r);
    return ring_open(r) ? r->used : -1;
}

static PyObject *ring_item(Ring *r, Py_ssize_t i) { /* for PySequence_GetItem, which has added the length */
    NM_GUARD_OBJECT(r);
    if (!ring_open(r)) return NULL;
    if (i >= 0 && i < r->used) return nm__unpack(&r->format, ring_slot(r, i));
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
        nm__ring_splice(r, at, at, packed, 1);
    }
    nm__scratch_drop(&scratch);
    return ok;
}

static PyObject *ring_append(Ring *r, PyObject *value) {
    NM_GUARD_OBJECT(r);
    if (!ring_open(r)) return NULL;
    if (NM_LIKELY(r->format.single && r->used < r->capacity)) {
        /* the slot behind the last item holds none, so a value that turns out not to be plain does no harm there */
        if (NM_LIKELY(nm__pack_plain(&r->format, value, ring_slot(r, r->used)))) {
            r->used++;
            r->version++;
            Py_RETURN_NONE;
        }
    }
    if (!ring_insert_at(r, value, PY_SSIZE_T_MAX)) return NULL;
    Py_RETURN_NONE;
}

static PyObject *ring_append_left(Ring *r, PyObject *value) {
    NM_GUARD_OBJECT(r);
    if (!ring_open(r) || !ring_insert_at(r, value, 0)) return NULL;
    Py_RETURN_NONE;
}

static PyObject *ring_insert(Ring *r, PyObject *const *args, Py_ssize_t n) {
    NM_GUARD_OBJECT(r);
    if (n != 2) return PyErr_Format(PyExc_TypeError, "insert expected 2 arguments, got %zd", n);
    Py_ssize_t at = PyNumber_AsSsize_t(args[0], NULL);
    if ((at == -1 && PyErr_Occurred()) || !ring_open(r) || !ring_insert_at(r, args[1], at)) return NULL;
    Py_RETURN_NONE;
}

/* Takes item i out. Pre: it is there, which is looked at again where reading it has run Python code. */
static PyObject *ring_take(Ring *r, Py_ssize_t i) {
    uint64_t version = r->version;
    PyObject *value = nm__unpack(&r->format, ring_slot(r, i));
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
        nm__ring_splice(r, i, i + 1, NULL, 0);
    }
    return value;
}

static PyObject *ring_pop_at(Ring *r, PyObject *const *args, Py_ssize_t n, bool oldest) {
    NM_GUARD_OBJECT(r);
    if (n > 1) return PyErr_Format(PyExc_TypeError, "pop expected at most 1 argument, got %zd", n);
    if (!ring_open(r)) return NULL;
    if (NM_UNLIKELY(r->used == 0)) return PyErr_Format(PyExc_IndexError, "pop from an empty %s", Py_TYPE(r)->tp_name);
    if (n == 0) return ring_take(r, oldest ? 0 : r->used - 1);
    Py_ssize_t i = nm__ring_index(r, args[0], "pop index");
    return i < 0 ? NULL : ring_take(r, i);
}
static PyObject *ring_pop(Ring *r, PyObject *const *args, Py_ssize_t n) { return ring_pop_at(r, args, n, false); }
static PyObject *ring_pop_oldest(Ring *r, PyObject *const *args, Py_ssize_t n) { return ring_pop_at(r, args, n, true); }
static PyObject *ring_pop_left(Ring *r, PyObject *unused) {
    (void)unused;
    return ring_pop_at(r, NULL, 0, true);
}

static PyObject *ring_peek_at(Ring *r, bool oldest) {
    NM_GUARD_OBJECT(r);
    if (!ring_open(r)) return NULL;
    if (r->used == 0) return PyErr_Format(PyExc_IndexError, "peek at an empty %s", Py_TYPE(r)->tp_name);
    return nm__unpack(&r->format, ring_slot(r, oldest ? 0 : r->used - 1));
}
static PyObject *ring_peek(Ring *r, PyObject *unused) {
    (void)unused;
    return ring_peek_at(r, false);
}
static PyObject *ring_peek_oldest(Ring *r, PyObject *unused) {
    (void)unused;
    return ring_peek_at(r, true);
}

/* ---- iteration ---- */

static PyObject *ring_iterator(Ring *r, Py_ssize_t step) {
    NM_GUARD_OBJECT(r);
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

/* One that is finished lets go of the ring, but where the guard of another thread in iter_next is the ring's. */
static inline bool iter_is_finished(const RingIter *it) { return NM_UNLOCKED ? it->step == 0 : it->ring == NULL; }
static void iter_finish(RingIter *it) {
    if (NM_UNLOCKED) it->step = 0;
    else Py_CLEAR(it->ring);
}

static PyObject *iter_next(RingIter *it) {
    NM_GUARD_OBJECT(it->ring);
    Ring *r = it->ring;
    if (iter_is_finished(it) || !ring_open(r)) return NULL;
    if (NM_UNLIKELY(r->strict && it->version != r->version))
        return PyErr_Format(PyExc_RuntimeError, "%s mutated during iteration", Py_TYPE(r)->tp_name);
    Py_ssize_t i = it->next;
    if (NM_LIKELY(i >= 0 && i < r->used)) {
        it->next = i + it->step;
        return nm__unpack(&r->format, ring_slot(r, i));
    }
    iter_finish(it);
    return NULL;
}
static PyObject *iter_hint(RingIter *it, PyObject *unused) {
    NM_GUARD_OBJECT(it->ring);
    (void)unused;
    Ring *r = it->ring;
    Py_ssize_t n = iter_is_finished(it) || r->items == NULL ? 0 : it->step > 0 ? r->used - it->next : it->next + 1;
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

/* ---- types ---- */

/* The hot ones are copied to each class by packed_own_methods. */
static PyMethodDef ring_methods[] = {
    {"append", (PyCFunction)ring_append, METH_O, "append($self, value, /)\n--\n\nAdds ``value`` behind the last item."},
    {"extend", (PyCFunction)nm__ring_extend, METH_O,
     "extend($self, values, /)\n--\n\nAdds all of ``values`` behind the last item, or none."},
    {"insert", (PyCFunction)(void (*)(void))ring_insert, METH_FASTCALL,
     "insert($self, index, value, /)\n--\n\nAdds ``value`` before the item at ``index``."},
    {"pop", (PyCFunction)(void (*)(void))ring_pop, METH_FASTCALL,
     "pop($self, index=-1, /)\n--\n\nTakes the item at ``index`` out, the last unless told otherwise."},
    {"clear", (PyCFunction)nm__ring_clear, METH_NOARGS, "clear($self, /)\n--\n\nRemoves all items."},
    {"reverse", (PyCFunction)nm__ring_reverse, METH_NOARGS, "reverse($self, /)\n--\n\nTurns the order round, in place."},
    {"index", (PyCFunction)nm__ring_index_of, METH_VARARGS,
     "index($self, value, start=0, stop=9223372036854775807, /)\n--\n\nIndex of the first item equal to ``value``, from "
     "``start`` to before ``stop``."},
    {"count", (PyCFunction)nm__ring_count, METH_O, "count($self, value, /)\n--\n\nHow many items are equal to ``value``."},
    {"remove", (PyCFunction)nm__ring_remove, METH_O,
     "remove($self, value, /)\n--\n\nRemoves the first item equal to ``value``."},
    {"__reversed__", (PyCFunction)ring_reversed, METH_NOARGS, NULL},
    {"_attach", (PyCFunction)nm__ring_attach, METH_VARARGS, NULL},
    {"_detach", (PyCFunction)nm__ring_detach, METH_NOARGS, NULL},
    {"_resume", (PyCFunction)nm__ring_resume, METH_O, NULL},
    {NULL, NULL, 0, NULL}};

#define PUSH {"push", (PyCFunction)ring_append, METH_O, "push($self, value, /)\n--\n\nAdds ``value`` behind the last item."}

static PyMethodDef stack_methods[] = {
    PUSH,
    {"peek", (PyCFunction)ring_peek, METH_NOARGS, "peek($self, /)\n--\n\nThe newest item, which stays."},
    {NULL, NULL, 0, NULL}};

static PyMethodDef deque_methods[] = {
    {"appendleft", (PyCFunction)ring_append_left, METH_O,
     "appendleft($self, value, /)\n--\n\nAdds ``value`` before the first item."},
    {"extendleft", (PyCFunction)nm__ring_extend_left, METH_O,
     "extendleft($self, values, /)\n--\n\nAdds ``values`` one after the other before the first item, or none."},
    {"popleft", (PyCFunction)ring_pop_left, METH_NOARGS, "popleft($self, /)\n--\n\nTakes the first item out."},
    {"peek", (PyCFunction)ring_peek, METH_NOARGS, "peek($self, /)\n--\n\nThe last item, which stays."},
    {"peekleft", (PyCFunction)ring_peek_oldest, METH_NOARGS, "peekleft($self, /)\n--\n\nThe first item, which stays."},
    {"rotate", (PyCFunction)(void (*)(void))nm__ring_rotate, METH_FASTCALL,
     "rotate($self, n=1, /)\n--\n\nMoves the last n items to the front."},
    {NULL, NULL, 0, NULL}};

static PyMethodDef queue_methods[] = {
    PUSH,
    {"pop", (PyCFunction)(void (*)(void))ring_pop_oldest, METH_FASTCALL,
     "pop($self, index=0, /)\n--\n\nTakes the item at ``index`` out, the oldest unless told otherwise."},
    {"peek", (PyCFunction)ring_peek_oldest, METH_NOARGS, "peek($self, /)\n--\n\nThe oldest item, which stays."},
    {NULL, NULL, 0, NULL}};

static PyGetSetDef ring_getset[] = {{"closed", (getter)nm__ring_closed, NULL, "Whether it was closed.", NULL},
                                    {"capacity", (getter)nm__ring_capacity, NULL, "Most items that it holds.", NULL},
                                    {NULL, NULL, NULL, NULL, NULL}};

static PyMappingMethods ring_mapping = {.mp_length = (lenfunc)ring_length,
                                        .mp_subscript = (binaryfunc)nm__ring_subscript,
                                        .mp_ass_subscript = (objobjargproc)nm__ring_ass_subscript};
static PySequenceMethods ring_sequence = {.sq_length = (lenfunc)ring_length,
                                          .sq_item = (ssizeargfunc)ring_item,
                                          .sq_contains = (objobjproc)nm__ring_contains,
                                          .sq_inplace_concat = (binaryfunc)nm__ring_inplace_concat};

static PyTypeObject Ring_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nativemem._dataplane.Ring",
    .tp_basicsize = sizeof(Ring),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = (destructor)nm__ring_dealloc,
    .tp_traverse = (traverseproc)nm__ring_traverse,
    .tp_clear = (inquiry)nm__ring_gc_clear,
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
        .tp_methods = (methods),                                               \
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
