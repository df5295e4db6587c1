/* The intern table's calls from Python, which are too hot for cffi: one call takes a list of values.
 *
 * Everything here runs with the interpreter's lock or the table's guard held, and no Python code runs between the look at a
 * value and its copy. A call that the table refuses returns the failure as a tuple; the facade raises what it stands for.
 *
 * A value is its bytes; those of a str are its UTF-8, a lone surrogate as if it were a character. The hash is the
 * interpreter's own, which a str of ASCII and a bytes object of the same bytes share, and keep.
 */
#include "engine/python.h" /* first: Python.h wants to be */

#include "base/base.h"
#include "binding/guard.h"
#include "binding/intern_type.h"
#include "binding/pressure.h"
#include "nativemem/intern.h"

enum { BLOCK = 512 };
#define SCRATCH_FIRST ((size_t)1 << 16)

/* It is no part of the garbage collector, so it goes with its last reference, and what it needs goes after it. */
typedef struct InternObject {
    PyObject_HEAD
    nm_intern *table;
    bool closed; /* takes no memory any more: the upstream may be gone */
    PyObject *needs; /* tuple: what keeps the upstream open, and the handle of its structure */
} InternObject;

static nm_intern *intern_table_of(PyObject *self) { return ((InternObject *)self)->table; }
static bool intern_is_closed(PyObject *self) {
    if (NM_LIKELY(!((InternObject *)self)->closed)) return false;
    (void)nm__fail(NM_CLOSED, 0, 0, 0);
    return true;
}

static PyObject *intern_failure(void) {
    nm_failure f = nm_last_failure();
    return Py_BuildValue("(innn)", (int)f.status, (Py_ssize_t)f.requested, (Py_ssize_t)f.used, (Py_ssize_t)f.limit);
}

static uint64_t intern_hash_of(const void *bytes, size_t size) { return (uint64_t)nm__hash_bytes(bytes, (Py_ssize_t)size); }

/* ---- values ---- */

/* Where the UTF-8 of values is that are not ASCII, until they are acquired. */
typedef struct scratch {
    unsigned char *bytes;
    size_t used, size;
} scratch;

static size_t intern_encode(PyObject *text, unsigned char *to) {
    int kind = (int)PyUnicode_KIND(text);
    const void *data = PyUnicode_DATA(text);
    unsigned char *at = to;
    for (Py_ssize_t i = 0, n = PyUnicode_GET_LENGTH(text); i < n; i++) {
        Py_UCS4 c = PyUnicode_READ(kind, data, i);
        if (c < 0x80) {
            *at++ = (unsigned char)c;
            continue;
        }
        if (c < 0x800) {
            *at++ = (unsigned char)(0xC0 | c >> 6);
        } else {
            if (c < 0x10000) {
                *at++ = (unsigned char)(0xE0 | c >> 12);
            } else {
                *at++ = (unsigned char)(0xF0 | c >> 18);
                *at++ = (unsigned char)(0x80 | (c >> 12 & 0x3F));
            }
            *at++ = (unsigned char)(0x80 | (c >> 6 & 0x3F));
        }
        *at++ = (unsigned char)(0x80 | (c & 0x3F));
    }
    return (size_t)(at - to);
}

/* 1; 0: the scratch has no room as long as it is in use; -1: an error is set. */
static int intern_look_at(PyObject *value, nm_intern_value *out, scratch *s) {
    if (PyBytes_Check(value)) {
        out->bytes = PyBytes_AS_STRING(value);
        out->size = (size_t)PyBytes_GET_SIZE(value);
        out->hash = (uint64_t)PyBytes_Type.tp_hash(value); /* not a subclass's */
        return 1;
    }
    if (!PyUnicode_Check(value)) {
        PyErr_Format(PyExc_TypeError, "InternTable: takes str or bytes, not %.100s", Py_TYPE(value)->tp_name);
        return -1;
    }
#if PY_VERSION_HEX < 0x030C0000
    if (PyUnicode_READY(value) < 0) return -1;
#endif
    if (PyUnicode_IS_ASCII(value)) {
        out->bytes = PyUnicode_DATA(value);
        out->size = (size_t)PyUnicode_GET_LENGTH(value);
        out->hash = (uint64_t)PyUnicode_Type.tp_hash(value);
        return 1;
    }
    size_t most = (size_t)PyUnicode_GET_LENGTH(value) * (PyUnicode_KIND(value) == PyUnicode_1BYTE_KIND ? 2 : 4);
    if (most > s->size - s->used) {
        if (s->used != 0) return 0;
        PyMem_Free(s->bytes);
        s->size = most < SCRATCH_FIRST ? SCRATCH_FIRST : most;
        s->bytes = PyMem_Malloc(s->size);
        if (s->bytes == NULL) {
            s->size = 0;
            (void)PyErr_NoMemory();
            return -1;
        }
    }
    out->bytes = s->bytes + s->used;
    out->size = intern_encode(value, s->bytes + s->used);
    out->hash = intern_hash_of(out->bytes, out->size);
    s->used += out->size;
    return 1;
}

/* ---- methods ---- */

/* Budgets may have come to a level of theirs. -1: an interrupt. */
static inline int intern_tell(void) {
    return NM_UNLIKELY(atomic_load_explicit(&nm__pressed, memory_order_relaxed)) ? nm__pressure_tell() : 0;
}

static PyObject *intern_acquire(PyObject *self, PyObject *value) {
    NM_GUARD_OBJECT(self);
    nm_intern_value v;
    nm_intern_id id = 0;
    scratch s = {NULL, 0, 0};
    if (intern_is_closed(self)) return intern_failure();
    if (intern_look_at(value, &v, &s) < 0) return NULL;
    nm_status status = nm_intern_acquire_many(intern_table_of(self), &v, 1, &id);
    PyMem_Free(s.bytes);
    if (status != NM_OK) return intern_failure();
    PyObject *result = intern_tell() < 0 ? NULL : PyLong_FromUnsignedLongLong(id);
    if (result == NULL) (void)nm_intern_release(intern_table_of(self), id);
    return result;
}

/* Of the items those from *from on: as many as are looked at together. 1; 0: refused; -1: an error is set. */
static int intern_acquire_block(nm_intern *t, PyObject **items, size_t count, size_t *from, nm_intern_id *out, scratch *s) {
    nm_intern_value values[BLOCK];
    size_t n = 0;
    int looked = 1;
    s->used = 0;
    while (n < BLOCK && *from + n < count) {
        if (*from + n + 8 < count) __builtin_prefetch(items[*from + n + 8]);
        looked = intern_look_at(items[*from + n], &values[n], s);
        if (looked <= 0) break;
        n++;
    }
    if (looked < 0) return -1;
    if (nm_intern_acquire_many(t, values, n, out + *from) != NM_OK) return 0;
    *from += n;
    return 1;
}

/* (values, where to put the ids). None, a failure, or an error; in the last two cases nothing was acquired. */
static PyObject *intern_acquire_many(PyObject *self, PyObject *const *args, Py_ssize_t nargs) {
    NM_GUARD_OBJECT(self);
    Py_buffer out;
    if (nargs != 2) return PyErr_Format(PyExc_TypeError, "acquire_many: takes values and where to put the ids");
    PyObject *values = NM_UNLOCKED && PyList_Check(args[0]) /* other threads may change it meanwhile */
                           ? PyList_AsTuple(args[0])
                           : PySequence_Fast(args[0], "InternTable.acquire_many: takes an iterable of str or bytes");
    if (values == NULL) return NULL;
    if (PyObject_GetBuffer(args[1], &out, PyBUF_WRITABLE) < 0) {
        Py_DECREF(values);
        return NULL;
    }
    size_t count = (size_t)PySequence_Fast_GET_SIZE(values), from = 0;
    scratch s = {NULL, 0, 0};
    int went = 1;
    PyObject *result = NULL;
    if ((size_t)out.len != count * sizeof(nm_intern_id)) {
        PyErr_SetString(PyExc_ValueError, "acquire_many: the ids are of another number");
        went = -1;
    }
    if (intern_is_closed(self)) went = 0;
    while (went > 0 && from < count)
        went = intern_acquire_block(intern_table_of(self), PySequence_Fast_ITEMS(values), count, &from, out.buf, &s);
    if (went == 0) result = intern_failure();
    PyMem_Free(s.bytes);
    if (went > 0 && intern_tell() == 0) result = Py_NewRef(Py_None);
    else if (from != 0) (void)nm_intern_release_many(intern_table_of(self), out.buf, from, NULL);
    PyBuffer_Release(&out);
    Py_DECREF(values);
    return result;
}

/* A number that is none of the table's stands for no value. false: an error is set. */
static bool intern_id_of(PyObject *number, nm_intern_id *id) {
    if (!PyLong_Check(number)) {
        PyErr_Format(PyExc_TypeError, "InternTable: takes a handle, which is an int, not %.100s", Py_TYPE(number)->tp_name);
        return false;
    }
    *id = PyLong_AsUnsignedLongLong(number);
    if (*id != (nm_intern_id)-1 || !PyErr_Occurred()) return true;
    if (!PyErr_ExceptionMatches(PyExc_OverflowError)) return false;
    PyErr_Clear();
    *id = 0;
    return true;
}

static PyObject *intern_retain(PyObject *self, PyObject *number) {
    NM_GUARD_OBJECT(self);
    nm_intern_id id;
    if (!intern_id_of(number, &id)) return NULL;
    return nm_intern_retain(intern_table_of(self), id, NULL, NULL) == NM_OK ? Py_NewRef(Py_None) : intern_failure();
}

static PyObject *intern_release(PyObject *self, PyObject *number) {
    NM_GUARD_OBJECT(self);
    nm_intern_id id;
    if (!intern_id_of(number, &id)) return NULL;
    return nm_intern_release(intern_table_of(self), id) == NM_OK ? Py_NewRef(Py_None) : intern_failure();
}

/* (buffer of ids). None, or how many were released before the first that is none. */
static PyObject *intern_release_many(PyObject *self, PyObject *ids) {
    NM_GUARD_OBJECT(self);
    Py_buffer in;
    size_t done = 0;
    if (PyObject_GetBuffer(ids, &in, PyBUF_SIMPLE) < 0) return NULL;
    nm_status status = nm_intern_release_many(intern_table_of(self), in.buf, (size_t)in.len / sizeof(nm_intern_id), &done);
    PyBuffer_Release(&in);
    return status == NM_OK ? Py_NewRef(Py_None) : PyLong_FromSize_t(done);
}

/* The value is held while it is copied: making an object takes memory, and that may run other code. */
static PyObject *value_of(PyObject *self, PyObject *number, bool as_text) {
    NM_GUARD_OBJECT(self);
    nm_intern_id id;
    const void *bytes;
    size_t size;
    if (!intern_id_of(number, &id)) return NULL;
    if (nm_intern_retain(intern_table_of(self), id, &bytes, &size) != NM_OK) return intern_failure();
    PyObject *value = as_text ? PyUnicode_DecodeUTF8(bytes, (Py_ssize_t)size, "surrogatepass")
                              : PyBytes_FromStringAndSize(bytes, (Py_ssize_t)size);
    (void)nm_intern_release(intern_table_of(self), id);
    return value;
}
static PyObject *intern_view(PyObject *self, PyObject *number) { return value_of(self, number, false); }
static PyObject *intern_text(PyObject *self, PyObject *number) { return value_of(self, number, true); }

static PyObject *intern_stats(PyObject *self, PyObject *unused) {
    NM_GUARD_OBJECT(self);
    (void)unused;
    nm_intern_stats s;
    nm_intern_read(intern_table_of(self), &s);
    return Py_BuildValue("(nnnnnnnn)", (Py_ssize_t)s.unique, (Py_ssize_t)s.references, (Py_ssize_t)s.stored, (Py_ssize_t)s.held,
                         (Py_ssize_t)s.acquires, (Py_ssize_t)s.hits, (Py_ssize_t)s.reserved, (Py_ssize_t)s.failures);
}

static PyObject *intern_check(PyObject *self, PyObject *unused) {
    NM_GUARD_OBJECT(self);
    (void)unused;
    const char *broken = nm_intern_check(intern_table_of(self));
    return broken == NULL ? Py_NewRef(Py_None) : PyUnicode_FromString(broken);
}

/* No other call is under way: each has the interpreter's lock, or its guard. */
static PyObject *intern_close(PyObject *self, PyObject *unused) {
    NM_GUARD_OBJECT(self);
    (void)unused;
    ((InternObject *)self)->closed = true;
    nm_intern_clear(intern_table_of(self));
    Py_RETURN_NONE;
}

static int intern_traverse(InternObject *o, visitproc visit, void *arg) {
    Py_VISIT(o->needs);
    return 0;
}

static void intern_dealloc(InternObject *o) {
    PyObject_GC_UnTrack(o);
    nm_intern_destroy(o->table);
    Py_DECREF(o->needs);
    PyObject_GC_Del(o);
}

static PyMethodDef intern_methods[] = {
    {"acquire", intern_acquire, METH_O, "The id of a value, with one more reference."},
    {"acquire_many", (PyCFunction)(void (*)(void))intern_acquire_many, METH_FASTCALL, "Those of many."},
    {"retain", intern_retain, METH_O, "One more reference."},
    {"release", intern_release, METH_O, "One less."},
    {"release_many", intern_release_many, METH_O, "One less of each."},
    {"view", intern_view, METH_O, "The value as bytes."},
    {"text", intern_text, METH_O, "The value as a str."},
    {"stats", intern_stats, METH_NOARGS, "unique, references, stored, held, acquires, hits, reserved, failures."},
    {"check", intern_check, METH_NOARGS, "None, or the invariant that does not hold."},
    {"close", intern_close, METH_NOARGS, "Reclaims every value, and takes none any more."},
    {NULL, NULL, 0, NULL}};

static PyTypeObject Intern_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nativemem._dataplane.Intern",
    .tp_doc = "Owns one intern table.",
    .tp_basicsize = sizeof(InternObject),
    /* the collector's, because a fork finds the guards of a process by it (module.c) */
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION | Py_TPFLAGS_HAVE_GC,
    .tp_dealloc = (destructor)intern_dealloc,
    .tp_traverse = (traverseproc)intern_traverse,
    .tp_methods = intern_methods,
};

/* ((self, methods) of the upstream's port, shards, what it needs). A table, or a failure. */
static PyObject *intern_new(PyObject *module, PyObject *args) {
    (void)module;
    unsigned long long self, methods;
    Py_ssize_t shards;
    PyObject *needs;
    if (!PyArg_ParseTuple(args, "(KK)nO!", &self, &methods, &shards, &PyTuple_Type, &needs)) return NULL;
    InternObject *o = PyObject_GC_New(InternObject, &Intern_Type);
    if (o == NULL) return NULL;
    nm_allocator upstream = {(void *)(uintptr_t)self, (const nm_methods *)(uintptr_t)methods};
    o->closed = false;
    o->needs = Py_NewRef(needs);
    o->table = nm_intern_create(upstream, (size_t)shards, intern_hash_of);
    PyObject_GC_Track(o);
    if (o->table != NULL) return (PyObject *)o;
    PyObject *why = intern_failure();
    Py_DECREF(o);
    return why;
}

int nm__intern_add(PyObject *module) {
    static PyMethodDef methods[] = {{"intern_new", intern_new, METH_VARARGS, "An intern table."}, {NULL, NULL, 0, NULL}};
    if (PyType_Ready(&Intern_Type) < 0 || PyModule_AddObjectRef(module, "Intern", (PyObject *)&Intern_Type) < 0) return -1;
    return PyModule_AddFunctions(module, methods);
}
