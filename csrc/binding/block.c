#include "binding/block.h" /* first: Python.h wants to be */

#include "binding/chain.h"
#include "binding/hooks.h"

void nm__block_end(BlockObject *b) {
    AllocatorObject *a = b->allocator;
    if (!a->autofree) {
        nm__chain_unlink(b);
        b->state = FREED;
        return;
    }
    nm_status status = nm__block_give_back(b, FREED);
    bool is_news = (status == NM_CORRUPTED || status == NM_DOUBLE_FREE) && !b->damage_told;
    if (NM_UNLIKELY(status != NM_OK)) b->state = is_news ? DAMAGED : DYING;
    else if (NM_UNLIKELY(a->chain->orphans != 0)) (void)nm__chain_sweep(a->chain);
}

/* Of a block that is collected there is no call that could fail, so the damage is reported as unraisable. */
static NM_COLD void block_report_damage(BlockObject *b) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    nm__raise_refusal(b->allocator, (nm_failure){NM_CORRUPTED, 0, 0, 0}, (size_t)b->size, b->align);
    PyErr_WriteUnraisable((PyObject *)b->allocator);
    PyErr_Restore(type, value, traceback);
}

/* Pre: nothing refers to it any more. */
static void block_depart(BlockObject *b, AllocatorObject *a) {
    NM_GUARD_ALLOCATOR(a);
    if (b->state == LIVE) nm__block_end(b);
    if (NM_UNLIKELY(b->state == DAMAGED)) block_report_damage(b);
    /* Only now that no list gives it away: a callback may ask the allocator for its blocks, or reset it. */
    if (NM_UNLOCKED || b->weakrefs != NULL) PyObject_ClearWeakRefs((PyObject *)b);
    if (NM_UNLIKELY(b->state == DYING || b->state == DAMAGED)) {
        b->state = ORPHAN;
        a->chain->orphans++;
        if (!a->chain->lifo) {
            b->next_orphan = a->chain->first_orphan;
            a->chain->first_orphan = b;
        }
    } else {
        nm__block_discard(b);
    }
}

static void block_dealloc(BlockObject *b) {
    PyObject_GC_UnTrack(b);
    AllocatorObject *a = b->allocator;
    block_depart(b, a);
    Py_DECREF(a); /* last: it may run any code */
}

static int block_traverse(BlockObject *b, visitproc visit, void *arg) {
    Py_VISIT(b->allocator);
    return 0;
}

static const char *block_dead_word(const BlockObject *b) { return b->state == FREED ? "freed" : "stale"; }

static int block_getbuffer(BlockObject *b, Py_buffer *view, int flags) {
    NM_GUARD_BLOCK(b);
    if (b->state != LIVE) {
        view->obj = NULL;
        nm__raise_block(b->allocator, (PyObject *)b, block_dead_word(b));
        return -1;
    }
    if (PyBuffer_FillInfo(view, (PyObject *)b, b->ptr, b->size, 0, flags) < 0) return -1;
    b->exports++;
    b->allocator->chain->exports++;
    return 0;
}

void nm__block_unexport(BlockObject *b) {
    NM_GUARD_BLOCK(b);
    b->exports--;
    b->allocator->chain->exports--;
}

static void block_releasebuffer(BlockObject *b, Py_buffer *view) {
    (void)view;
    nm__block_unexport(b);
}

static Py_ssize_t block_length(BlockObject *b) {
    NM_GUARD_BLOCK(b);
    return b->size;
}

static PyObject *block_repr(BlockObject *b) {
    NM_GUARD_BLOCK(b);
    if (b->state != LIVE) return PyUnicode_FromFormat("<Block %zd B, %s>", b->size, block_dead_word(b));
    return PyUnicode_FromFormat("<Block %zd B at %p>", b->size, b->ptr);
}

/* Whether the block can be freed; with an error set if not. */
static bool block_may_free(BlockObject *b) {
    if (b->state != LIVE) {
        nm__raise_block(b->allocator, (PyObject *)b, b->state == FREED ? "double" : "stale");
        return false;
    }
    if (b->exports != 0) {
        nm__raise_exported(b, "free");
        return false;
    }
    return true;
}

PyObject *nm__block_free(BlockObject *b) {
    AllocatorObject *a = b->allocator;
    if (!block_may_free(b)) return NULL;
    if (b->size == 0 && !(nm__core_allows(a, "check_free") && block_may_free(b))) return NULL; /* again: it ran Python code */
    nm_status status = nm__block_give_back(b, FREED);
    if (NM_UNLIKELY(status != NM_OK)) {
        b->damage_told = status == NM_CORRUPTED;
        nm__raise_refusal(a, nm_last_failure(), (size_t)b->size, b->align);
        return NULL;
    }
    if (NM_UNLIKELY(a->chain->orphans != 0)) (void)nm__chain_sweep(a->chain);
    Py_RETURN_NONE;
}

static PyObject *block_free(BlockObject *b, PyObject *unused) {
    NM_GUARD_BLOCK(b);
    (void)unused;
    return nm__block_free(b);
}

static PyObject *block_enter(BlockObject *b, PyObject *unused) {
    NM_GUARD_BLOCK(b);
    (void)unused;
    if (b->state != LIVE) {
        nm__raise_block(b->allocator, (PyObject *)b, block_dead_word(b));
        return NULL;
    }
    return Py_NewRef((PyObject *)b);
}

/* NumPy asks for the buffer first, and, where that is refused, would make an array of one object. */
static PyObject *block_array(BlockObject *b, PyObject *args, PyObject *kwargs) {
    NM_GUARD_BLOCK(b);
    if (b->state != LIVE) {
        nm__raise_block(b->allocator, (PyObject *)b, block_dead_word(b));
        return NULL;
    }
    PyObject *result = NULL, *numpy = PyImport_ImportModule("numpy");
    PyObject *asarray = numpy == NULL ? NULL : PyObject_GetAttrString(numpy, "asarray");
    PyObject *view = asarray == NULL ? NULL : PyMemoryView_FromObject((PyObject *)b);
    PyObject *first = view == NULL ? NULL : PyTuple_Pack(1, view);
    PyObject *all = first == NULL ? NULL : PySequence_Concat(first, args);
    if (all != NULL) result = PyObject_Call(asarray, all, kwargs);
    Py_XDECREF(all);
    Py_XDECREF(first);
    Py_XDECREF(view);
    Py_XDECREF(asarray);
    Py_XDECREF(numpy);
    return result;
}

static PyObject *block_exit(BlockObject *b, PyObject *args) {
    NM_GUARD_BLOCK(b);
    (void)args;
    if (b->state != LIVE) Py_RETURN_NONE;
    return nm__block_free(b);
}

static PyObject *block_size(BlockObject *b, void *unused) {
    NM_GUARD_BLOCK(b);
    (void)unused;
    return PyLong_FromSsize_t(b->size);
}

static PyObject *block_align(BlockObject *b, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLong(b->align);
}

static PyObject *block_alive(BlockObject *b, void *unused) {
    NM_GUARD_BLOCK(b);
    (void)unused;
    return PyBool_FromLong(b->state == LIVE);
}

static PyObject *block_address(BlockObject *b, void *unused) {
    NM_GUARD_BLOCK(b);
    (void)unused;
    if (b->state != LIVE) {
        nm__raise_block(b->allocator, (PyObject *)b, block_dead_word(b));
        return NULL;
    }
    return PyLong_FromVoidPtr(b->ptr);
}

static PyObject *block_usable(BlockObject *b, void *unused) {
    NM_GUARD_BLOCK(b);
    (void)unused;
    if (b->state != LIVE) {
        nm__raise_block(b->allocator, (PyObject *)b, block_dead_word(b));
        return NULL;
    }
    return PyObject_CallMethod((PyObject *)b->allocator, "_usable", "nk", b->size, (unsigned long)b->align);
}

static PyObject *block_allocator(BlockObject *b, void *unused) {
    (void)unused;
    return Py_NewRef((PyObject *)b->allocator);
}

static PyObject *block_owner(BlockObject *b, void *unused) {
    (void)unused;
    return PyObject_GetAttrString((PyObject *)b->allocator, "owner");
}

static PyMethodDef block_methods[] = {
    {"free", (PyCFunction)block_free, METH_NOARGS,
     "free()\n--\n\nGives the block back. DoubleFree or StaleBlock if it is gone, BufferError while a view is out."},
    {"__enter__", (PyCFunction)block_enter, METH_NOARGS, NULL},
    {"__exit__", (PyCFunction)block_exit, METH_VARARGS, NULL},
    {"__array__", (PyCFunction)(void (*)(void))block_array, METH_VARARGS | METH_KEYWORDS, NULL},
    {NULL, NULL, 0, NULL}};

static PyGetSetDef block_getset[] = {
    {"size", (getter)block_size, NULL, "Bytes asked for.", NULL},
    {"usable", (getter)block_usable, NULL, "Bytes actually behind the block.", NULL},
    {"align", (getter)block_align, NULL, "Alignment asked for, in bytes.", NULL},
    {"address", (getter)block_address, NULL, "Address of the first byte; valid while the block is alive.", NULL},
    {"alive", (getter)block_alive, NULL, "Whether the block can be used.", NULL},
    {"allocator", (getter)block_allocator, NULL, "The allocator that gave the block.", NULL},
    {"owner", (getter)block_owner, NULL, "The Budget that the block is charged to, or None.", NULL},
    {NULL, NULL, NULL, NULL, NULL}};

static PyBufferProcs block_buffer = {(getbufferproc)block_getbuffer, (releasebufferproc)block_releasebuffer};

static PySequenceMethods block_sequence = {.sq_length = (lenfunc)block_length};

PyTypeObject nm__block_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nativemem.Block",
    .tp_doc = "Memory handed to a user: a writable buffer that keeps its allocator alive.\n\n"
              "Made by an allocator's alloc; freed by free(), at the end of a `with` block, or, where its\n"
              "allocator takes single blocks back, when it is collected. As thread-safe as its allocator.",
    .tp_basicsize = sizeof(BlockObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)block_dealloc,
    .tp_traverse = (traverseproc)block_traverse,
    .tp_repr = (reprfunc)block_repr,
    .tp_as_buffer = &block_buffer,
    .tp_as_sequence = &block_sequence,
    .tp_methods = block_methods,
    .tp_getset = block_getset,
    .tp_weaklistoffset = offsetof(BlockObject, weakrefs),
};

int nm__block_add(PyObject *module) {
    if (PyType_Ready(&nm__block_type) < 0) return -1;
    return PyModule_AddObjectRef(module, "Block", (PyObject *)&nm__block_type);
}
