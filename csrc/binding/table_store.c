#include "binding/table_store.h"

#include <string.h>

void nm__table_empty(Table *t) {
    memset(t->index, 0, (t->mask + 1) * sizeof *t->index);
    t->oldest = t->newest = t->free = TABLE_NONE;
    t->fresh = 0;
    t->used = 0;
    t->version++;
}

PyObject *nm__table_read(Table *t, uint32_t e, TableWhat what, PyObject *pair) {
    if (what == TABLE_KEYS) return nm__unpack(&t->key, table_entry(t, e)->key);
    if (what == TABLE_VALUES) return nm__unpack(&t->value, table_value(t, e));
    uint64_t version = t->version;
    PyObject *key = NULL, *value = NULL;
    if (pair == NULL) pair = PyTuple_New(2); /* may run a collection, and that anything */
    if (pair != NULL && t->entries != NULL && t->version == version) key = nm__unpack(&t->key, table_entry(t, e)->key);
    if (key != NULL && t->entries != NULL && t->version == version) value = nm__unpack(&t->value, table_value(t, e));
    if (value != NULL) {
        PyTuple_SET_ITEM(pair, 0, key);
        PyTuple_SET_ITEM(pair, 1, value);
        return pair;
    }
    Py_XDECREF(key);
    Py_XDECREF(pair);
    if (!PyErr_Occurred() && table_open(t)) PyErr_SetString(PyExc_RuntimeError, "changed while it was read");
    return NULL;
}

PyObject *nm__table_attach(Table *t, PyObject *args) {
    NM_GUARD_OBJECT(t);
    PyObject *buffer, *key, *value;
    Py_ssize_t capacity, slots, stride;
    if (!PyArg_ParseTuple(args, "OnnnOO", &buffer, &capacity, &slots, &stride, &key, &value)) return NULL;
    if (t->key.pack != NULL) return PyErr_Format(PyExc_RuntimeError, "%s: was initialised before", Py_TYPE(t)->tp_name);
    nm__format k, v = {0};
    if (!nm__format_init(&k, key)) return NULL;
    Py_buffer view = {0};
    if ((value != Py_None && !nm__format_init(&v, value)) || PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0) goto failed;
    if (capacity < 1 || capacity >= TABLE_NONE || slots <= capacity || (slots & (slots - 1)) != 0 || stride % 8 != 0 ||
        stride < (Py_ssize_t)sizeof(Entry) + k.size + v.size ||
        slots > (view.len - capacity * stride) / (Py_ssize_t)sizeof(Slot) || (uintptr_t)view.buf % 8 != 0 ||
        t->key.pack != NULL) {
        PyErr_SetString(PyExc_SystemError, "a table larger than its memory");
        goto failed;
    }
    t->key = k;
    t->value = v;
    t->view = view;
    t->index = view.buf;
    t->entries = (char *)view.buf + slots * (Py_ssize_t)sizeof *t->index;
    t->mask = (size_t)slots - 1;
    t->stride = stride;
    t->capacity = capacity;
    nm__table_empty(t);
    Py_RETURN_NONE;
failed:
    if (view.obj != NULL) PyBuffer_Release(&view);
    nm__format_clear(&k);
    nm__format_clear(&v);
    return NULL;
}

PyObject *nm__table_detach(Table *t, PyObject *unused) {
    NM_GUARD_OBJECT(t);
    (void)unused;
    if (t->entries == NULL) Py_RETURN_NONE;
    t->entries = NULL;
    PyBuffer_Release(&t->view);
    Py_RETURN_NONE;
}
PyObject *nm__table_resume(Table *t, PyObject *buffer) {
    NM_GUARD_OBJECT(t);
    if (t->entries != NULL || t->key.pack == NULL) Py_RETURN_NONE;
    Py_ssize_t index = (Py_ssize_t)((t->mask + 1) * sizeof *t->index);
    Py_buffer view;
    if (PyObject_GetBuffer(buffer, &view, PyBUF_WRITABLE) < 0) return NULL;
    if (t->entries != NULL || view.len < index + t->capacity * t->stride) {
        PyBuffer_Release(&view);
        Py_RETURN_NONE;
    }
    t->view = view;
    t->index = view.buf;
    t->entries = (char *)view.buf + index;
    Py_RETURN_NONE;
}

PyObject *nm__table_closed(Table *t, void *unused) {
    NM_GUARD_OBJECT(t);
    (void)unused;
    return PyBool_FromLong(t->entries == NULL);
}
PyObject *nm__table_capacity(Table *t, void *unused) {
    NM_GUARD_OBJECT(t);
    (void)unused;
    return PyLong_FromSsize_t(t->capacity);
}

int nm__table_traverse(Table *t, visitproc visit, void *arg) {
    if (t->entries != NULL) Py_VISIT(t->view.obj);
    int stop = nm__format_traverse(&t->key, visit, arg);
    return stop != 0 ? stop : nm__format_traverse(&t->value, visit, arg);
}
int nm__table_gc_clear(Table *t) {
    if (t->entries != NULL) {
        t->entries = NULL;
        PyBuffer_Release(&t->view);
    }
    Py_CLEAR(t->key.pack);
    Py_CLEAR(t->key.unpack);
    Py_CLEAR(t->value.pack);
    Py_CLEAR(t->value.unpack);
    return 0;
}
void nm__table_dealloc(Table *t) {
    PyObject_GC_UnTrack(t);
    (void)nm__table_gc_clear(t);
    nm__format_clear(&t->key);
    nm__format_clear(&t->value);
    Py_TYPE(t)->tp_free((PyObject *)t);
}
