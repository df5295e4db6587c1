/* Table: a bounded hash table of packed keys, with a packed value each or none, which maps and sets are made of.
 *
 * The buffer holds an index of `slots` slots, a power of two and at least 1.25 times the capacity, and behind it `capacity`
 * entries. A slot has 32 bits of the key's hash, so that other keys' entries are left alone. Lookups probe the index one slot
 * after the other (open addressing); a removal moves later slots of the run back, so there are no tombstones and a table that
 * is always full stays as fast as it was (Knuth, TAOCP 3, 6.4, algorithm R). Entries are linked in the order of their
 * insertion, which is the order of iteration, and free ones among themselves: insertion, removal and lookup take constant
 * time, also in the worst order of the two.
 *
 * Keys are equal when their bytes are: they are packed so that what comes back is equal to what went in. Hashes are
 * seeded, since keys may come from strangers. As in ring.c, no Python code runs between a look and a change. */
#include "binding/table.h"

#include "binding/table_iter.h"
#include "binding/table_store.h"

#include <string.h>

static inline bool table_fits(Table *t, Py_ssize_t more) {
    if (NM_LIKELY(more <= t->capacity - t->used)) return true;
    nm__packed_refuse((PyObject *)t, "full", more);
    return false;
}

/* ---- the index --------------------------------------------------------------------------------------- */

static uint64_t seed; /* of the process; set before there is a table */

static inline uint32_t hash_of(const char *key, Py_ssize_t size) {
    if (size <= 8) {
        uint64_t x = 0;
        memcpy(&x, key, (size_t)size);
        x ^= seed; /* then the finalizer of MurmurHash3 */
        x ^= x >> 33;
        x *= 0xff51afd7ed558ccdULL;
        x ^= x >> 33;
        x *= 0xc4ceb9fe1a85ec53ULL;
        return (uint32_t)(x ^ (x >> 33));
    }
    return (uint32_t)nm__hash_bytes(key, size);
}

static inline bool same_key(const char *a, const char *b, Py_ssize_t size) {
    if (size == 8) {
        uint64_t x, y;
        memcpy(&x, a, sizeof x);
        memcpy(&y, b, sizeof y);
        return x == y;
    }
    return memcmp(a, b, (size_t)size) == 0;
}

static inline uint32_t entry_at(const Table *t, size_t i) { return t->index[i].next - 1; }

/* The slot of a key with that hash, or the empty one where it would go. */
static inline size_t table_slot(const Table *t, const char *key, uint32_t hash) {
    size_t i = hash & t->mask;
    for (; t->index[i].next != 0; i = (i + 1) & t->mask)
        if (t->index[i].hash == hash && same_key(table_entry(t, entry_at(t, i))->key, key, t->key.size)) break;
    return i;
}

/* Empties slot i, and moves those behind it that would not be found any more. */
static void index_remove(Table *t, size_t i) {
    for (size_t j = (i + 1) & t->mask; t->index[j].next != 0; j = (j + 1) & t->mask) {
        size_t home = t->index[j].hash & t->mask;
        if (((j - home) & t->mask) >= ((j - i) & t->mask)) {
            t->index[i] = t->index[j];
            i = j;
        }
    }
    t->index[i].next = 0;
}

/* Pre: slot i is empty and where the key goes; used < capacity. Returns the entry, whose value is to be set. */
static uint32_t table_insert(Table *t, size_t i, const char *key, uint32_t hash) {
    uint32_t e = t->free;
    if (e != TABLE_NONE) t->free = table_entry(t, e)->newer;
    else e = t->fresh++;
    Entry *made = table_entry(t, e);
    memcpy(made->key, key, (size_t)t->key.size);
    made->older = t->newest;
    made->newer = TABLE_NONE;
    if (t->newest != TABLE_NONE) table_entry(t, t->newest)->newer = e;
    else t->oldest = e;
    t->newest = e;
    t->index[i] = (Slot){e + 1, hash};
    t->used++;
    t->version++;
    return e;
}

static void table_remove(Table *t, size_t i) {
    uint32_t e = entry_at(t, i);
    Entry *gone = table_entry(t, e);
    index_remove(t, i);
    if (gone->older != TABLE_NONE) table_entry(t, gone->older)->newer = gone->newer;
    else t->oldest = gone->newer;
    if (gone->newer != TABLE_NONE) table_entry(t, gone->newer)->older = gone->older;
    else t->newest = gone->older;
    gone->newer = t->free;
    t->free = e;
    t->used--;
    t->version++;
}

/* ---- keys from Python -------------------------------------------------------------------------------- */

static NM_COLD void raise_missing(PyObject *key) {
    PyObject *args = PyTuple_Pack(1, key); /* a tuple by itself would be taken for several arguments */
    if (args != NULL) PyErr_SetObject(PyExc_KeyError, args);
    Py_XDECREF(args);
}

/* Looks a key up: 1 found, 0 not, -1 with an error set. What the format cannot hold is not there. The slot is valid until
 * Python code runs. */
static int table_find(Table *t, PyObject *key, size_t *at) {
    if (!table_open(t)) return -1;
    nm__scratch scratch;
    char *packed = nm__scratch_get(&scratch, t->key.size);
    if (packed == NULL) return -1;
    int found = -1;
    if (NM_LIKELY(nm__pack_plain(&t->key, key, packed))) {
        found = 1;
    } else {
        PyObject *sought = PyObject_CallMethod((PyObject *)t, "_sought", "(O)", key); /* bytes; None: no such key */
        if (sought == Py_None) {
            found = 0;
        } else if (sought != NULL && PyBytes_Check(sought) && PyBytes_GET_SIZE(sought) == t->key.size) {
            memcpy(packed, PyBytes_AS_STRING(sought), (size_t)t->key.size);
            found = 1;
        } else if (sought != NULL) {
            PyErr_SetString(PyExc_SystemError, "a key was packed to bytes of another size");
        }
        Py_XDECREF(sought);
        if (found >= 0 && !table_open(t)) found = -1;
    }
    if (found == 1) {
        *at = table_slot(t, packed, hash_of(packed, t->key.size));
        found = t->index[*at].next != 0;
    }
    nm__scratch_drop(&scratch);
    return found;
}

static int table_put(Table *t, PyObject *key, PyObject *value) {
    if (!table_open(t)) return -1;
    nm__scratch keys, values;
    char *k = nm__scratch_get(&keys, t->key.size);
    if (k == NULL) return -1;
    char *v = nm__scratch_get(&values, t->value.size);
    bool ok = v != NULL && nm__pack(&t->key, key, k) && (value == NULL || nm__pack(&t->value, value, v)) && table_open(t);
    if (ok) {
        uint32_t hash = hash_of(k, t->key.size);
        size_t i = table_slot(t, k, hash);
        if (t->index[i].next != 0) {
            memcpy(table_value(t, entry_at(t, i)), v, (size_t)t->value.size);
        } else if (table_fits(t, 1)) {
            memcpy(table_value(t, table_insert(t, i, k, hash)), v, (size_t)t->value.size);
        } else {
            ok = false;
        }
    }
    if (v != NULL) nm__scratch_drop(&values);
    nm__scratch_drop(&keys);
    return ok ? 0 : -1;
}

/* ---- maps -------------------------------------------------------------------------------------------- */

static Py_ssize_t table_length(Table *t) {
    NM_GUARD_OBJECT(t);
    return table_open(t) ? t->used : -1;
}

static int table_contains(Table *t, PyObject *key) {
    NM_GUARD_OBJECT(t);
    size_t at;
    return table_find(t, key, &at);
}

static PyObject *map_subscript(Table *t, PyObject *key) {
    NM_GUARD_OBJECT(t);
    size_t at;
    int found = table_find(t, key, &at);
    if (NM_LIKELY(found > 0)) return nm__unpack(&t->value, table_value(t, entry_at(t, at)));
    if (found == 0) raise_missing(key);
    return NULL;
}

static int map_ass_subscript(Table *t, PyObject *key, PyObject *value) {
    NM_GUARD_OBJECT(t);
    if (value != NULL) return table_put(t, key, value);
    size_t at;
    int found = table_find(t, key, &at);
    if (found > 0) table_remove(t, at);
    else if (found == 0) raise_missing(key);
    return found > 0 ? 0 : -1;
}

static bool one_or_two(const char *name, Py_ssize_t n) {
    if (n == 1 || n == 2) return true;
    PyErr_Format(PyExc_TypeError, "%s expected 1 or 2 arguments, got %zd", name, n);
    return false;
}

static PyObject *map_get(Table *t, PyObject *const *args, Py_ssize_t n) {
    NM_GUARD_OBJECT(t);
    size_t at;
    if (!one_or_two("get", n)) return NULL;
    int found = table_find(t, args[0], &at);
    if (found > 0) return nm__unpack(&t->value, table_value(t, entry_at(t, at)));
    return found < 0 ? NULL : Py_NewRef(n == 2 ? args[1] : Py_None);
}

static PyObject *map_set_default(Table *t, PyObject *const *args, Py_ssize_t n) {
    NM_GUARD_OBJECT(t);
    size_t at;
    if (!one_or_two("setdefault", n)) return NULL;
    int found = table_find(t, args[0], &at);
    if (found == 0 && table_put(t, args[0], n == 2 ? args[1] : Py_None) < 0) return NULL;
    return found < 0 ? NULL : map_subscript(t, args[0]);
}

/* Takes out what is at the slot. */
static PyObject *table_take(Table *t, size_t at, TableWhat what) {
    uint64_t version = t->version;
    PyObject *thing = nm__table_read(t, entry_at(t, at), what, NULL);
    if (thing == NULL) return NULL;
    if (t->entries != NULL && t->version == version) {
        table_remove(t, at);
        return thing;
    }
    Py_DECREF(thing);
    if (table_open(t)) PyErr_SetString(PyExc_RuntimeError, "changed while it was read");
    return NULL;
}

static PyObject *map_pop(Table *t, PyObject *const *args, Py_ssize_t n) {
    NM_GUARD_OBJECT(t);
    size_t at;
    if (!one_or_two("pop", n)) return NULL;
    int found = table_find(t, args[0], &at);
    if (found > 0) return table_take(t, at, TABLE_VALUES);
    if (found == 0 && n == 2) return Py_NewRef(args[1]);
    if (found == 0) raise_missing(args[0]);
    return NULL;
}

static size_t newest_slot(Table *t) {
    const char *key = table_entry(t, t->newest)->key;
    return table_slot(t, key, hash_of(key, t->key.size));
}

static PyObject *take_newest(Table *t, TableWhat what) {
    NM_GUARD_OBJECT(t);
    if (!table_open(t)) return NULL;
    if (t->used == 0) return PyErr_Format(PyExc_KeyError, "pop from an empty %s", Py_TYPE(t)->tp_name);
    return table_take(t, newest_slot(t), what);
}
static PyObject *map_pop_item(Table *t, PyObject *unused) {
    (void)unused;
    return take_newest(t, TABLE_ITEMS);
}

static PyObject *table_clear(Table *t, PyObject *unused) {
    NM_GUARD_OBJECT(t);
    (void)unused;
    if (!table_open(t)) return NULL;
    nm__table_empty(t);
    Py_RETURN_NONE;
}

/* _merge(dict): puts all of it, or nothing. Of a set the dict's values are of no account. */
static PyObject *table_merge_held(Table *t, PyObject *dict) {
    NM_GUARD_OBJECT(t);
    if (!table_open(t)) return NULL;
    Py_ssize_t stride = t->key.size + t->value.size, n = 0, at = 0, room = PyDict_GET_SIZE(dict);
    PyObject *key, *value;
    char *staged = room > PY_SSIZE_T_MAX / stride ? NULL : PyMem_Malloc((size_t)(room * stride + 1));
    if (staged == NULL) return PyErr_NoMemory();
    bool ok = true;
    while (ok && n < room && PyDict_Next(dict, &at, &key, &value)) { /* n < room: packing may run code that changes it */
        char *to = staged + n++ * stride;
        Py_INCREF(key);
        Py_INCREF(value);
        ok = nm__pack(&t->key, key, to) && (t->value.size == 0 || nm__pack(&t->value, value, to + t->key.size));
        Py_DECREF(key);
        Py_DECREF(value);
    }
    ok = ok && table_open(t);
    if (ok && n > t->capacity - t->used) { /* unless some are there; several that are equal when packed count once */
        Py_ssize_t added = 0;
        uint32_t newest = t->newest;
        uint64_t version = t->version;
        for (Py_ssize_t k = 0; k < n && t->used < t->capacity; k++) {
            uint32_t hash = hash_of(staged + k * stride, t->key.size);
            size_t i = table_slot(t, staged + k * stride, hash);
            if (t->index[i].next == 0) {
                (void)table_insert(t, i, staged + k * stride, hash); /* its value comes below, or it goes again */
                added++;
            }
        }
        Py_ssize_t missing = 0;
        for (Py_ssize_t k = 0; k < n; k++) {
            const char *packed = staged + k * stride;
            missing += t->index[table_slot(t, packed, hash_of(packed, t->key.size))].next == 0;
        }
        if (missing != 0) {
            while (t->newest != newest) table_remove(t, newest_slot(t));
            t->version = version; /* all is as it was, for iterators too */
            nm__packed_refuse((PyObject *)t, "full", added + missing);
            ok = false;
        }
    }
    for (Py_ssize_t k = 0; ok && k < n; k++) {
        const char *packed = staged + k * stride;
        uint32_t hash = hash_of(packed, t->key.size);
        size_t i = table_slot(t, packed, hash);
        uint32_t e = t->index[i].next != 0 ? entry_at(t, i) : table_insert(t, i, packed, hash);
        memcpy(table_value(t, e), packed + t->key.size, (size_t)t->value.size);
    }
    PyMem_Free(staged);
    if (!ok) return NULL;
    Py_RETURN_NONE;
}

static PyObject *table_merge(Table *t, PyObject *dict) {
    if (!PyDict_CheckExact(dict)) return PyErr_Format(PyExc_TypeError, "_merge: takes a dict");
    PyObject *held = nm__dict_hold(dict);
    PyObject *result = held == NULL ? NULL : table_merge_held(t, held);
    nm__dict_drop(held);
    return result;
}

/* ---- sets -------------------------------------------------------------------------------------------- */

static PyObject *set_add(Table *t, PyObject *key) {
    NM_GUARD_OBJECT(t);
    if (table_put(t, key, NULL) < 0) return NULL;
    Py_RETURN_NONE;
}
static PyObject *set_discard(Table *t, PyObject *key) {
    NM_GUARD_OBJECT(t);
    size_t at;
    int found = table_find(t, key, &at);
    if (found < 0) return NULL;
    if (found > 0) table_remove(t, at);
    Py_RETURN_NONE;
}
static PyObject *set_remove(Table *t, PyObject *key) { return map_ass_subscript(t, key, NULL) < 0 ? NULL : Py_NewRef(Py_None); }
static PyObject *set_pop(Table *t, PyObject *unused) {
    (void)unused;
    return take_newest(t, TABLE_KEYS);
}

static PyMethodDef table_methods[] = {
    {"clear", (PyCFunction)table_clear, METH_NOARGS, "clear($self, /)\n--\n\nRemoves everything."},
    {"__reversed__", (PyCFunction)nm__table_reversed, METH_NOARGS, NULL},
    {"_merge", (PyCFunction)table_merge, METH_O, NULL},
    {"_iter", (PyCFunction)nm__table_iter_of, METH_VARARGS, NULL},
    {"_attach", (PyCFunction)nm__table_attach, METH_VARARGS, NULL},
    {"_detach", (PyCFunction)nm__table_detach, METH_NOARGS, NULL},
    {"_resume", (PyCFunction)nm__table_resume, METH_O, NULL},
    {NULL, NULL, 0, NULL}};

static PyMethodDef map_methods[] = {
    {"get", (PyCFunction)(void (*)(void))map_get, METH_FASTCALL,
     "get($self, key, default=None, /)\n--\n\nThe value of a key, or the default."},
    {"setdefault", (PyCFunction)(void (*)(void))map_set_default, METH_FASTCALL,
     "setdefault($self, key, default=None, /)\n--\n\nThe value of a key, which is the default if the key was not there."},
    {"pop", (PyCFunction)(void (*)(void))map_pop, METH_FASTCALL,
     "pop($self, key, default=<unrepresentable>, /)\n--\n\nTakes a key out and returns its value, or the default."},
    {"popitem", (PyCFunction)map_pop_item, METH_NOARGS, "popitem($self, /)\n--\n\nTakes the newest key and value out."},
    {NULL, NULL, 0, NULL}};

static PyMethodDef set_methods[] = {
    {"add", (PyCFunction)set_add, METH_O, "add($self, value, /)\n--\n\nAdds a value."},
    {"discard", (PyCFunction)set_discard, METH_O, "discard($self, value, /)\n--\n\nRemoves a value if it is there."},
    {"remove", (PyCFunction)set_remove, METH_O, "remove($self, value, /)\n--\n\nRemoves a value."},
    {"pop", (PyCFunction)set_pop, METH_NOARGS, "pop($self, /)\n--\n\nTakes the newest value out."},
    {NULL, NULL, 0, NULL}};

static PyGetSetDef table_getset[] = {{"closed", (getter)nm__table_closed, NULL, "Whether it was closed.", NULL},
                                     {"capacity", (getter)nm__table_capacity, NULL, "Most keys that it holds.", NULL},
                                     {NULL, NULL, NULL, NULL, NULL}};

static PySequenceMethods table_sequence = {.sq_length = (lenfunc)table_length, .sq_contains = (objobjproc)table_contains};
static PyMappingMethods map_mapping = {.mp_length = (lenfunc)table_length,
                                       .mp_subscript = (binaryfunc)map_subscript,
                                       .mp_ass_subscript = (objobjargproc)map_ass_subscript};

static PyTypeObject Table_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nativemem._dataplane.Table",
    .tp_basicsize = sizeof(Table),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_BASETYPE,
    .tp_new = PyType_GenericNew,
    .tp_dealloc = (destructor)nm__table_dealloc,
    .tp_traverse = (traverseproc)nm__table_traverse,
    .tp_clear = (inquiry)nm__table_gc_clear,
    .tp_iter = (getiterfunc)nm__table_iter,
    .tp_as_sequence = &table_sequence,
    .tp_methods = table_methods,
    .tp_getset = table_getset,
};
static PyTypeObject TableMap_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nativemem._dataplane.TableMap",
    .tp_basicsize = sizeof(Table),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_base = &Table_Type,
    .tp_as_mapping = &map_mapping,
    .tp_methods = map_methods,
};
static PyTypeObject TableSet_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nativemem._dataplane.TableSet",
    .tp_basicsize = sizeof(Table),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE,
    .tp_base = &Table_Type,
    .tp_methods = set_methods,
};

int nm__table_add(PyObject *module) {
    /* what CPython hashes strings with is as secret as its own */
    PyObject *word = PyUnicode_FromString("nativemem's tables of packed keys");
    Py_hash_t hash = word == NULL ? -1 : PyObject_Hash(word);
    Py_XDECREF(word);
    if (hash == -1) return -1;
    seed = (uint64_t)hash;
    if (PyType_Ready(&Table_Type) < 0 || PyType_Ready(&TableMap_Type) < 0 || PyType_Ready(&TableSet_Type) < 0 ||
        nm__table_iter_start() < 0 || PyModule_AddObjectRef(module, "TableMap", (PyObject *)&TableMap_Type) < 0)
        return -1;
    return PyModule_AddObjectRef(module, "TableSet", (PyObject *)&TableSet_Type);
}
