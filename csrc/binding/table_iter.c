/* Iterators of a table: of its keys, its values, or both, from the oldest or from the newest. */
#include "binding/table_iter.h"

#include "binding/table_store.h"

typedef struct {
    PyObject_HEAD
    Table *table; /* NULL: finished */
    uint64_t version;
    uint32_t next;
    TableWhat what;
    bool back, finished;
    PyObject *pairs[2]; /* those of the last two items; NULL: none yet, or builds without the lock */
    unsigned turn;
} TableIter;

static PyTypeObject TableIter_Type;

static PyObject *table_iterator(Table *t, TableWhat what, bool back) {
    NM_GUARD_OBJECT(t);
    if (!table_open(t)) return NULL;
    TableIter *it = PyObject_GC_New(TableIter, &TableIter_Type);
    if (it == NULL) return NULL;
    it->table = (Table *)Py_NewRef((PyObject *)t);
    it->version = t->version;
    it->next = back ? t->newest : t->oldest;
    it->what = what;
    it->back = back;
    it->finished = false;
    it->pairs[0] = it->pairs[1] = NULL;
    it->turn = 0;
    PyObject_GC_Track(it);
    return (PyObject *)it;
}
PyObject *nm__table_iter(Table *t) { return table_iterator(t, TABLE_KEYS, false); }
PyObject *nm__table_reversed(Table *t, PyObject *unused) {
    (void)unused;
    return table_iterator(t, TABLE_KEYS, true);
}
PyObject *nm__table_iter_of(Table *t, PyObject *args) {
    NM_GUARD_OBJECT(t);
    int what, back;
    if (!PyArg_ParseTuple(args, "ip", &what, &back)) return NULL;
    if (what < TABLE_KEYS || what > TABLE_ITEMS || (what != TABLE_KEYS && t->value.size == 0)) {
        PyErr_SetString(PyExc_ValueError, "_iter: takes 0 to 2");
        return NULL;
    }
    return table_iterator(t, (TableWhat)what, back != 0);
}

/* One of the last two pairs that nothing else has a reference to, emptied; NULL: there is none. Dropping what it held runs
 * no Python code: keys and values are numbers, bytes, and tuples of those. */
static PyObject *table_iter_pair(TableIter *it) {
    it->turn ^= 1; /* the older of the two first; a new pair takes its place */
    for (unsigned k = 0; k < 2; k++) {
        PyObject **place = &it->pairs[it->turn ^ k], *pair = *place;
        if (pair == NULL || Py_REFCNT(pair) != 1) continue;
        *place = it->pairs[it->turn]; /* none of them is whole now but one */
        it->pairs[it->turn] = NULL;
        Py_CLEAR(((PyTupleObject *)pair)->ob_item[0]);
        Py_CLEAR(((PyTupleObject *)pair)->ob_item[1]);
#if PY_VERSION_HEX >= 0x030E0000
        ((PyTupleObject *)pair)->ob_hash = -1;
#endif
        return pair;
    }
    return NULL;
}

/* One that is finished lets go of the table, but where the guard of another thread in table_iter_next is the table's. */
static inline bool table_iter_is_finished(const TableIter *it) { return NM_UNLOCKED ? it->finished : it->table == NULL; }
static void table_iter_finish(TableIter *it) {
    it->finished = true;
    if (!NM_UNLOCKED) Py_CLEAR(it->table);
}

static PyObject *table_iter_next(TableIter *it) {
    NM_GUARD_OBJECT(it->table);
    Table *t = it->table;
    if (table_iter_is_finished(it) || !table_open(t)) return NULL;
    if (NM_UNLIKELY(it->version != t->version))
        return PyErr_Format(PyExc_RuntimeError, "%s changed size during iteration", Py_TYPE(t)->tp_name);
    uint32_t e = it->next;
    if (NM_LIKELY(e != TABLE_NONE)) {
        it->next = it->back ? table_entry(t, e)->older : table_entry(t, e)->newer;
        if (it->what != TABLE_ITEMS) return nm__table_read(t, e, it->what, NULL);
        PyObject *pair = nm__table_read(t, e, TABLE_ITEMS, table_iter_pair(it));
        if (!NM_UNLOCKED && pair != NULL) Py_XSETREF(it->pairs[it->turn], Py_NewRef(pair));
        return pair;
    }
    table_iter_finish(it);
    return NULL;
}
static int table_iter_traverse(TableIter *it, visitproc visit, void *arg) {
    Py_VISIT(it->pairs[0]);
    Py_VISIT(it->pairs[1]);
    Py_VISIT(it->table);
    return 0;
}
static void table_iter_dealloc(TableIter *it) {
    PyObject_GC_UnTrack(it);
    Py_XDECREF(it->pairs[0]);
    Py_XDECREF(it->pairs[1]);
    Py_XDECREF(it->table);
    PyObject_GC_Del(it);
}

static PyTypeObject TableIter_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nativemem._dataplane.TableIterator",
    .tp_basicsize = sizeof(TableIter),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)table_iter_dealloc,
    .tp_traverse = (traverseproc)table_iter_traverse,
    .tp_iter = PyObject_SelfIter,
    .tp_iternext = (iternextfunc)table_iter_next,
};

int nm__table_iter_start(void) { return PyType_Ready(&TableIter_Type); }
