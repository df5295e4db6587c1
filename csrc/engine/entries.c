#include "engine/entries.h" /* first: Python.h wants to be */

#include "engine/engine.h"

EntryObject *nm__entry_lists[NM_SCOPE_LISTS + 1];

EntryObject **nm__entry_list_of(const void *item) {
    return &nm__entry_lists[(((uintptr_t)item >> 4) * UINT64_C(0x9E3779B97F4A7C15)) >> 56];
}

static int entry_traverse(EntryObject *e, visitproc visit, void *arg) {
    Py_VISIT(e->owner);
    Py_VISIT(e->outer);
    Py_VISIT(e->frame);
    Py_VISIT(e->callers);
    Py_VISIT(e->stray);
    Py_VISIT(e->context);
    Py_VISIT(e->token);
    Py_VISIT(e->asleep);
    return 0;
}

void nm__entry_list(EntryObject *e) {
    Py_ssize_t frames = (e->frame != NULL) + (e->callers != NULL ? PyTuple_GET_SIZE(e->callers) : 0);
    e->list = frames > 1 ? &nm__entry_lists[NM_SCOPE_LISTS] : nm__entry_list_of(e->item);
    e->newer = NULL;
    e->older = *e->list;
    if (e->older != NULL) e->older->newer = e;
    *e->list = e;
    if (e->roams && nm__charge_scopes.roaming++ == 0) nm__charge_scopes.changes++;
}

void nm__entry_unlist(EntryObject *e) {
    if (e->list == NULL) return;
    if (e->newer != NULL) e->newer->older = e->older;
    else *e->list = e->older;
    if (e->older != NULL) e->older->newer = e->newer;
    e->list = NULL;
    if (e->roams) nm__charge_scopes.roaming--;
}

size_t nm__entry_depth_of(PyFrameObject *f, const PyThreadState *thread) {
    const void *own = nm__insides_item_of(f);
    size_t depth = 0;
    for (NM__EACH_RUNNING(item, thread)) {
        if (item == own) return depth;
        depth++;
    }
    return SIZE_MAX;
}

PyFrameObject *nm__entry_home(const EntryObject *e) {
    if (e->frame != NULL && nm__insides_item_of(e->frame) != NULL) return e->frame;
    for (Py_ssize_t i = 0; e->callers != NULL && i < PyTuple_GET_SIZE(e->callers); i++) {
        PyFrameObject *f = (PyFrameObject *)PyTuple_GET_ITEM(e->callers, i);
        if (nm__insides_item_of(f) != NULL) return f;
    }
    return NULL;
}

/* Those whose context is gone, but whose generator is not: it has the scope to leave yet. */
static struct {
    EntryObject *first, **end;
} entry_orphans = {NULL, &entry_orphans.first};

static void entry_orphan(EntryObject *e) {
    e->next = NULL;
    *entry_orphans.end = e;
    entry_orphans.end = &e->next;
}

void nm__entry_collect_orphans(void) {
    for (int i = 0; i < NM_SCOPE_TURN && entry_orphans.first != NULL; i++) {
        EntryObject *e = entry_orphans.first;
        entry_orphans.first = e->next;
        if (entry_orphans.first == NULL) entry_orphans.end = &entry_orphans.first;
        if (e->ended || nm__entry_home(e) == NULL) Py_DECREF(e);
        else entry_orphan(e);
    }
}

/* Entries come and go with each scope: what a few of them were in is kept. */
#ifdef Py_GIL_DISABLED
static EntryObject *entry_take_spare(void) { return NULL; }
static bool entry_keep(EntryObject *e) { return (void)e, false; }
#else
static struct {
    EntryObject *first; /* by `next` */
    size_t count;
} entry_spares;

static EntryObject *entry_take_spare(void) {
    EntryObject *e = entry_spares.first;
    if (e == NULL) return NULL;
    entry_spares.first = e->next;
    entry_spares.count--;
    return (EntryObject *)PyObject_Init((PyObject *)e, &nm__entry_type);
}

static bool entry_keep(EntryObject *e) {
    if (entry_spares.count == NM_SCOPE_SPARES) return false;
    e->next = entry_spares.first;
    entry_spares.first = e;
    entry_spares.count++;
    return true;
}
#endif

EntryObject *nm__entry_new(void) {
    static uint64_t made;
    EntryObject *e = entry_take_spare();
    if (e == NULL) e = PyObject_GC_New(EntryObject, &nm__entry_type);
    if (e == NULL) return NULL;
    memset((char *)e + sizeof(PyObject), 0, sizeof *e - sizeof(PyObject));
    nm__engine_begin_turn();
    nm__charge_scopes.entries++;
    e->number = ++made;
    nm__engine_end_turn();
    return e;
}

static void entry_dealloc(EntryObject *e) {
    if (!e->ended && e->roams && e->list != NULL && nm__entry_home(e) != NULL) {
        Py_SET_REFCNT((PyObject *)e, 1); /* the list's; nothing else has it */
        entry_orphan(e);
        Py_CLEAR(e->outer);
        Py_CLEAR(e->token);
        return;
    }
    PyObject_GC_UnTrack(e);
    Py_TRASHCAN_BEGIN(e, entry_dealloc) /* each holds the next outer one */
        nm__engine_begin_turn();
    nm__entry_unlist(e);
    nm__engine_end_turn();
    Py_XDECREF(e->owner);
    Py_XDECREF(e->outer);
    Py_XDECREF(e->frame);
    Py_XDECREF(e->callers);
    Py_XDECREF(e->stray);
    Py_XDECREF(e->context);
    Py_XDECREF(e->token);
    Py_XDECREF(e->asleep);
    if (!entry_keep(e)) PyObject_GC_Del(e);
    nm__engine_begin_turn();
    nm__charge_scopes.entries--;
    nm__engine_end_turn();
    nm__owner_stop_looking();
    Py_TRASHCAN_END
}

PyTypeObject nm__entry_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nativemem._dataplane.Entry",
    .tp_doc = "A budget that was entered.",
    .tp_basicsize = sizeof(EntryObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)entry_dealloc,
    .tp_traverse = (traverseproc)entry_traverse,
};

int nm__entries_add(PyObject *module) {
    (void)module;
    return PyType_Ready(&nm__entry_type);
}
