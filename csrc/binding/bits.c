/* Bits: a bounded set of small integers, one bit each, in a buffer that the Python side has taken.
 *
 * What needs whole numbers of the buffer's size (and, or, xor) is done in Python, whose integers are as fast; here is what
 * would be slow there: single bits, ranges, searches, iteration. As in ring.c, no Python code runs between a look and a
 * change. */
#include "binding/packed.h"
#include "binding/bits.h"

#include <string.h>

/* Invariants: closed <=> words == NULL;  bits from `capacity` on are 0 */
typedef struct {
    PyObject_HEAD
    uint64_t *words;
    Py_ssize_t capacity; /* bits */
    Py_buffer view;
} Bits;

typedef struct {
    PyObject_HEAD
    Bits *bits; /* NULL: finished */
    Py_ssize_t next; /* negative: finished */
} BitsIter;

static PyTypeObject Bits_Type, BitsIter_Type;

#define WORD 64

static inline bool bits_open(Bits *b) {
    if (NM_LIKELY(b->words != NULL)) return true;
    nm__packed_refuse((PyObject *)b, "closed", 0);
    return false;
}
static inline Py_ssize_t words_of(const Bits *b) { return b->capacity / WORD + (b->capacity % WORD != 0); }
static inline bool has(const Bits *b, Py_ssize_t i) { return (b->words[i / WORD] >> (i % WORD) & 1) != 0; }

/* The first bit from i on that is `value`; capacity: there is none. Pre: 0 <= i */
static Py_ssize_t bits_next(const Bits *b, Py_ssize_t i, bool value) {
    while (i < b->capacity) {
        uint64_t word = value ? b->words[i / WORD] : ~b->words[i / WORD];
        word >>= i % WORD;
        if (word != 0) {
            i += __builtin_ctzll(word);
            break;
        }
        i += WORD - i % WORD;
    }
    return i < b->capacity ? i : b->capacity;
}

typedef enum { SET, CLEAR, TOGGLE } Verb;

/* Whether a bit of the range has changed. Pre: 0 <= start <= stop <= capacity */
static bool bits_change(Bits *b, Verb verb, Py_ssize_t start, Py_ssize_t stop) {
    uint64_t changed = 0;
    while (start < stop) {
        Py_ssize_t w = start / WORD, n = WORD - start % WORD;
        if (n > stop - start) n = stop - start;
        uint64_t mask = (n == WORD ? ~UINT64_C(0) : (UINT64_C(1) << n) - 1) << (start % WORD);
        uint64_t was = b->words[w], is = verb == SET ? was | mask : verb == CLEAR ? was & ~mask : was ^ mask;
        b->words[w] = is;
        changed |= was ^ is;
        start += n;
    }
    return changed != 0;
}

/* A bit's number from Python; -1 with an error set. Runs Python code. */
static Py_ssize_t bit_number(Bits *b, PyObject *arg) {
    Py_ssize_t i;
    if (NM_LIKELY(PyLong_CheckExact(arg))) {
        i = PyLong_AsSsize_t(arg);
        if (NM_LIKELY(i >= 0 && i < b->capacity)) return bits_open(b) ? i : -1;
        if (i == -1 && PyErr_Occurred()) PyErr_Clear();
    } else {
        if (!PyIndex_Check(arg)) {
            PyErr_Format(PyExc_TypeError, "%s takes ints, not %s", Py_TYPE(b)->tp_name, Py_TYPE(arg)->tp_name);
            return -1;
        }
        i = PyNumber_AsSsize_t(arg, NULL);
        if (i == -1 && PyErr_Occurred()) return -1;
    }
    if (!bits_open(b)) return -1;
    if (i >= 0 && i < b->capacity) return i;
    PyErr_Format(PyExc_IndexError, "%s: there is no bit %.200S of %zd", Py_TYPE(b)->tp_name, arg, b->capacity);
    return -1;
}

/* As a slice's start and stop are taken, but for negative ones. */
static bool bit_bound(Bits *b, PyObject *arg, Py_ssize_t *out) {
    if (!PyIndex_Check(arg)) {
        PyErr_Format(PyExc_TypeError, "%s takes ints, not %s", Py_TYPE(b)->tp_name, Py_TYPE(arg)->tp_name);
        return false;
    }
    Py_ssize_t i = PyNumber_AsSsize_t(arg, NULL);
    if (i == -1 && PyErr_Occurred()) return false;
    if (i < 0) {
        PyErr_Format(PyExc_IndexError, "%s: there is no bit %zd of %zd", Py_TYPE(b)->tp_name, i, b->capacity);
        return false;
    }
    *out = i < b->capacity ? i : b->capacity;
    return true;
}

static PyObject *bits_do(Bits *b, Verb verb, PyObject *const *args, Py_ssize_t n, const char *name) {
    NM_GUARD_OBJECT(b);
    Py_ssize_t start = 0, stop = b->capacity;
    if (n > 2 || (n == 0 && verb != CLEAR))
        return PyErr_Format(PyExc_TypeError, "%s takes a bit, or start and stop (%zd arguments given)", name, n);
    if (n == 1) {
        if ((start = bit_number(b, args[0])) < 0) return NULL;
        stop = start + 1;
    } else if (n == 2 && !(bit_bound(b, args[0], &start) && bit_bound(b, args[1], &stop))) {
        return NULL;
    }
    return bits_open(b) ? PyBool_FromLong(bits_change(b, verb, start, stop)) : NULL;
}
static PyObject *bits_set(Bits *b, PyObject *const *args, Py_ssize_t n) { return bits_do(b, SET, args, n, "set"); }
static PyObject *bits_clear(Bits *b, PyObject *const *args, Py_ssize_t n) { return bits_do(b, CLEAR, args, n, "clear"); }
static PyObject *bits_toggle(Bits *b, PyObject *const *args, Py_ssize_t n) { return bits_do(b, TOGGLE, args, n, "toggle"); }

static PyObject *bits_add(Bits *b, PyObject *arg) {
    NM_GUARD_OBJECT(b);
    Py_ssize_t i = bit_number(b, arg);
    if (i < 0) return NULL;
    (void)bits_change(b, SET, i, i + 1);
    Py_RETURN_NONE;
}

static Py_ssize_t bits_length(Bits *b) {
    NM_GUARD_OBJECT(b);
    Py_ssize_t n = 0;
    if (!bits_open(b)) return -1;
    for (Py_ssize_t w = 0; w < words_of(b); w++) n += __builtin_popcountll(b->words[w]);
    return n;
}

/* The bit that is equal to what is looked for, if it is one of these and set; else -1, or -2 with an error. Runs
 * Python code for what is no int. */
static Py_ssize_t bits_sought(Bits *b, PyObject *arg) {
    if (!bits_open(b)) return -2;
    PyObject *number = PyLong_CheckExact(arg) ? Py_NewRef(arg) : PyObject_CallMethod((PyObject *)b, "_sought", "(O)", arg);
    if (number == NULL) return -2;
    Py_ssize_t i = number == Py_None ? -1 : PyNumber_AsSsize_t(number, NULL);
    Py_DECREF(number);
    if ((i == -1 && PyErr_Occurred()) || !bits_open(b)) return -2;
    return i >= 0 && i < b->capacity && has(b, i) ? i : -1;
}

static int bits_contains(Bits *b, PyObject *arg) {
    NM_GUARD_OBJECT(b);
    Py_ssize_t i = bits_sought(b, arg);
    return i < -1 ? -1 : i >= 0;
}

static PyObject *bits_discard(Bits *b, PyObject *arg) {
    NM_GUARD_OBJECT(b);
    Py_ssize_t i = bits_sought(b, arg);
    if (i < -1) return NULL;
    if (i >= 0) (void)bits_change(b, CLEAR, i, i + 1);
    Py_RETURN_NONE;
}

static PyObject *bits_search(Bits *b, PyObject *const *args, Py_ssize_t n, bool value) {
    NM_GUARD_OBJECT(b);
    Py_ssize_t i = 0;
    if (n > 1) return PyErr_Format(PyExc_TypeError, "takes at most 1 argument (%zd given)", n);
    if ((n == 1 && !bit_bound(b, args[0], &i)) || !bits_open(b)) return NULL;
    i = bits_next(b, i, value);
    if (i == b->capacity) Py_RETURN_NONE;
    return PyLong_FromSsize_t(i);
}
static PyObject *bits_next_set(Bits *b, PyObject *const *args, Py_ssize_t n) { return bits_search(b, args, n, true); }
static PyObject *bits_next_clear(Bits *b, PyObject *const *args, Py_ssize_t n) { return bits_search(b, args, n, false); }

static PyObject *bits_iter(Bits *b) {
    NM_GUARD_OBJECT(b);
    if (!bits_open(b)) return NULL;
    BitsIter *it = PyObject_GC_New(BitsIter, &BitsIter_Type);
    if (it == NULL) return NULL;
    it->bits = (Bits *)Py_NewRef((PyObject *)b);
    it->next = 0;
    PyObject_GC_Track(it);
    return (PyObject *)it;
}
/* One that is finished lets go of the bits, but where the guard of another thread in iter_next is theirs. */
static inline bool iter_is_finished(const BitsIter *it) { return NM_UNLOCKED ? it->next < 0 : it->bits == NULL; }
static void iter_finish(BitsIter *it) {
    if (NM_UNLOCKED) it->next = -1;
    else Py_CLEAR(it->bits);
}

static PyObject *iter_next(BitsIter *it) {
    NM_GUARD_OBJECT(it->bits);
    Bits *b = it->bits;
    if (iter_is_finished(it) || !bits_open(b)) return NULL;
    Py_ssize_t i = bits_next(b, it->next, true);
    if (i < b->capacity) {
        it->next = i + 1;
        return PyLong_FromSsize_t(i);
    }
    iter_finish(it);
    return NULL;
}
static int iter_traverse(BitsIter *it, visitproc visit, void *arg) {
    Py_VISIT(it->bits);
    return 0;
}
static void iter_dealloc(BitsIter *it) {
    PyObject_GC_UnTrack(it);
    Py_XDECREF(it->bits);
    PyObject_GC_Del(it);
}

/* ---- life -------------------------------------------------------------------------------------------- */

static bool bits_take(Bits *b, PyObject *buffer, Py_ssize_t capacity) {
    Py_buffer view;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0) return false;
    if (b->words != NULL || capacity < 1 || view.len % 8 != 0 || (uintptr_t)view.buf % 8 != 0 ||
        (capacity - 1) / 8 >= view.len) {
        PyBuffer_Release(&view);
        PyErr_SetString(PyExc_SystemError, "a bit set larger than its memory");
        return false;
    }
    b->view = view;
    b->words = view.buf;
    b->capacity = capacity;
    return true;
}

/* _attach(buffer, capacity) */
static PyObject *bits_attach(Bits *b, PyObject *args) {
    NM_GUARD_OBJECT(b);
    PyObject *buffer;
    Py_ssize_t capacity;
    if (!PyArg_ParseTuple(args, "On", &buffer, &capacity)) return NULL;
    if (b->capacity != 0) return PyErr_Format(PyExc_RuntimeError, "%s: was initialised before", Py_TYPE(b)->tp_name);
    if (!bits_take(b, buffer, capacity)) return NULL;
    memset(b->words, 0, (size_t)words_of(b) * sizeof *b->words);
    Py_RETURN_NONE;
}
static PyObject *bits_detach(Bits *b, PyObject *unused) {
    NM_GUARD_OBJECT(b);
    (void)unused;
    if (b->words == NULL) Py_RETURN_NONE;
    b->words = NULL;
    PyBuffer_Release(&b->view);
    Py_RETURN_NONE;
}
static PyObject *bits_resume(Bits *b, PyObject *buffer) {
    NM_GUARD_OBJECT(b);
    if (b->words == NULL && b->capacity != 0 && !bits_take(b, buffer, b->capacity)) return NULL;
    Py_RETURN_NONE;
}

static PyObject *bits_closed(Bits *b, void *unused) {
    NM_GUARD_OBJECT(b);
    (void)unused;
    return PyBool_FromLong(b->words == NULL);
}
static PyObject *bits_capacity(Bits *b, void *unused) {
    NM_GUARD_OBJECT(b);
    (void)unused;
    return PyLong_FromSsize_t(b->capacity);
}
static int bits_traverse(Bits *b, visitproc visit, void *arg) {
    if (b->words != NULL) Py_VISIT(b->view.obj);
    return 0;
}
static int bits_gc_clear(Bits *b) {
    if (b->words != NULL) {
        b->words = NULL;
        PyBuffer_Release(&b->view);
    }
    return 0;
}
static void bits_dealloc(Bits *b) {
    PyObject_GC_UnTrack(b);
    (void)bits_gc_clear(b);
    Py_TYPE(b)->tp_free((PyObject *)b);
}

#define FAST(function) (PyCFunction)(void (*)(void))(function), METH_FASTCALL
static PyMethodDef bits_methods[] = {
    {"set", FAST(bits_set), "set(bit) or set(start, stop): sets bits; returns whether one has changed."},
    {"clear", FAST(bits_clear), "clear(bit), clear(start, stop) or clear(): clears bits; returns whether one has changed."},
    {"toggle", FAST(bits_toggle), "toggle(bit) or toggle(start, stop): changes bits; returns whether there was one."},
    {"next_set", FAST(bits_next_set), "next_set($self, start=0, /)\n--\n\nThe first set bit from start on, or None."},
    {"next_clear", FAST(bits_next_clear), "next_clear($self, start=0, /)\n--\n\nThe first clear bit from start on, or None."},
    {"add", (PyCFunction)bits_add, METH_O, "add($self, bit, /)\n--\n\nSets a bit."},
    {"discard", (PyCFunction)bits_discard, METH_O, "discard($self, bit, /)\n--\n\nClears a bit, if it is set."},
    {"_attach", (PyCFunction)bits_attach, METH_VARARGS, NULL},
    {"_detach", (PyCFunction)bits_detach, METH_NOARGS, NULL},
    {"_resume", (PyCFunction)bits_resume, METH_O, NULL},
    {NULL, NULL, 0, NULL}};

static PyGetSetDef bits_getset[] = {{"closed", (getter)bits_closed, NULL, "Whether it was closed.", NULL},
                                    {"capacity", (getter)bits_capacity, NULL, "How many bits it has.", NULL},
                                    {NULL, NULL, NULL, NULL, NULL}};
static PySequenceMethods bits_sequence = {.sq_length = (lenfunc)bits_length, .sq_contains = (objobjproc)bits_contains};

static PyTypeObject Bits_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nativemem._dataplane.Bits",
    .tp_basicsize = sizeof(Bits),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = (destructor)bits_dealloc,
    .tp_traverse = (traverseproc)bits_traverse,
    .tp_clear = (inquiry)bits_gc_clear,
    .tp_iter = (getiterfunc)bits_iter,
    .tp_as_sequence = &bits_sequence,
    .tp_methods = bits_methods,
    .tp_getset = bits_getset,
};
static PyTypeObject BitsIter_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nativemem._dataplane.BitsIterator",
    .tp_basicsize = sizeof(BitsIter),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)iter_dealloc,
    .tp_traverse = (traverseproc)iter_traverse,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = (iternextfunc)iter_next,
};

int nm__bits_add(PyObject *module) {
    if (PyType_Ready(&Bits_Type) < 0 || PyType_Ready(&BitsIter_Type) < 0) return -1;
    return PyModule_AddObjectRef(module, "Bits", (PyObject *)&Bits_Type);
}
