#include "binding/allocator.h" /* first: Python.h wants to be */

#include "binding/arguments.h"
#include "binding/block.h"
#include "binding/chain.h"
#include "binding/hooks.h"
#include "binding/pressure.h"
#include "engine/sampler.h"

static void *closed_alloc(void *self, size_t size, size_t align) {
    (void)self, (void)align;
    return nm_refuse(NM_CLOSED, size, 0, 0);
}

static bool closed_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    (void)self, (void)ptr, (void)old, (void)align;
    (void)nm__fail(NM_CLOSED, size, 0, 0);
    return false;
}

static nm_status closed_free(void *self, void *ptr, size_t size, size_t align) {
    (void)self, (void)ptr, (void)align;
    return nm__fail(NM_CLOSED, size, 0, 0);
}

static void closed_stats(void *self, nm_stats *out) {
    (void)self;
    *out = (nm_stats){0};
}

const nm_methods nm__closed_methods = {closed_alloc, closed_resize, closed_free, closed_stats};

/* After a refusal: gives orphans back, and asks the watchers of budgets for room. Post: a spare object is there, or NULL with
 * an error set. */
static NM_COLD char *allocator_retry(AllocatorObject *a, size_t size, size_t align) {
    nm_failure failure = nm_last_failure();
    char *ptr = NULL;
    PyObject *asked = NULL;
    int again = 1;
    if (a->chain->orphans != 0 && nm__chain_sweep(a->chain)) ptr = a->port.methods->alloc(a->port.self, size, align);
    while (ptr == NULL && (again = nm__pressure_retry(a, failure, &asked)) == 1 && nm__block_is_prepared()) {
        ptr = a->port.methods->alloc(a->port.self, size, align);
        if (ptr == NULL) failure = nm_last_failure();
    }
    if (ptr == NULL && again == 0) nm__raise_refusal(a, failure, size, align);
    Py_XDECREF(asked); /* budgets, which their allocators hold: no code runs */
    return ptr;
}

/* A profile runs: whether it notes the block. The name of the budget is asked for before the sampler's lock is taken, as that
 * runs Python code; the block may be gone then. */
static NM_COLD void allocator_sample(AllocatorObject *a, BlockObject *b) {
    size_t size = (size_t)b->size;
    if (!nm__sampler_is_due(size) || !nm__sampler_turn(&nm__sampler_gate, size)) return;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    PyObject *owner = PyObject_GetAttrString((PyObject *)a, "owner");
    PyObject *name = owner == NULL || owner == Py_None ? NULL : PyObject_GetAttrString(owner, "name");
    PyErr_Clear(); /* then it is the process's */
    if (b->state == LIVE) nm__sampler_note_block(b, size, name != NULL && PyUnicode_Check(name) ? name : NULL);
    Py_XDECREF(name);
    Py_XDECREF(owner);
    PyErr_Restore(type, value, traceback);
}

NM_INLINE PyObject *allocator_block_at(BlockObject *spare, AllocatorObject *a, char *ptr, size_t size, size_t align) {
    BlockObject *b = nm__block_take_spare(spare);
    b->allocator = (AllocatorObject *)Py_NewRef((PyObject *)a);
    b->ptr = ptr;
    b->size = (Py_ssize_t)size;
    b->weakrefs = NULL;
    b->exports = 0;
    b->align = (uint32_t)align;
    b->state = LIVE;
    b->damage_told = false;
    nm__chain_link(a->chain, b);
    PyObject_GC_Track(b);
    return (PyObject *)b;
}

PyObject *nm__allocator_block_at(BlockObject *spare, AllocatorObject *a, char *ptr, size_t size, size_t align) {
    return allocator_block_at(spare, a, ptr, size, align);
}

/* Pre: a layout. NULL with an error set: refused. */
NM_INLINE PyObject *allocator_make_block(AllocatorObject *a, size_t size, size_t align) {
    NM_GUARD_ALLOCATOR(a);
    if (NM_UNLIKELY(size == 0) && !nm__core_allows(a, "check")) return NULL;
    BlockObject *spare = nm__block_prepare();
    if (NM_UNLIKELY(spare == NULL)) return NULL;
    if (NM_UNLIKELY(size == 0)) {
        if (!a->closed) return allocator_block_at(spare, a, nm_empty_block, 0, align);
        nm__block_put_back(spare);
        nm__raise_closed(a); /* meanwhile */
        return NULL;
    }
    char *ptr = a->port.methods->alloc(a->port.self, size, align);
    if (NM_UNLIKELY(ptr == NULL) && (ptr = allocator_retry(a, size, align)) == NULL) {
        nm__block_put_back(spare);
        return NULL;
    }
    PyObject *block = allocator_block_at(spare, a, ptr, size, align);
    if (NM_UNLIKELY(nm__sampler_is_on())) allocator_sample(a, (BlockObject *)block);
    return block;
}

static const nm__parameters alloc_takes = {"alloc", "a size and an optional alignment", {"size", "align"}, 2, 0},
                            free_takes = {"free", "a block", {"block", NULL}, 1, 1},
                            resize_takes = {"resize", "a block and a size", {"block", "size"}, 2, 2};

/* NULL: not given. */
NM_INLINE PyObject *allocator_alloc_of(AllocatorObject *a, PyObject *first, PyObject *second) {
    size_t size, align = NM_ALIGN_DEFAULT;
    if (NM_UNLIKELY(first == NULL || first == Py_Ellipsis) && a->natural == 0) {
        PyErr_SetString(PyExc_TypeError, "alloc() takes a size and an optional alignment (no size given)");
        return NULL;
    }
    if (first == NULL) first = Py_Ellipsis;
    bool plain = nm__argument_size(first, &size);
    if (NM_UNLIKELY(first == Py_Ellipsis)) {
        size = a->natural;
        plain = true;
    }
    if (NM_UNLIKELY(second != NULL)) {
        plain = plain && nm__argument_size(second, &align) && nm_is_power_of_two(align) && align <= NM_ALIGN_MAX;
    }
    if (NM_UNLIKELY(!plain) && !nm__argument_layout(a, first, second, &size, &align)) return NULL;
    return nm__pressure_after(allocator_make_block(a, size, align));
}

static NM_COLD PyObject *allocator_alloc_by_name(AllocatorObject *a, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    PyObject *bound[2];
    return nm__arguments_bind(&alloc_takes, args, nargs, names, bound) ? allocator_alloc_of(a, bound[0], bound[1]) : NULL;
}

static PyObject *allocator_alloc(AllocatorObject *a, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    if (NM_UNLIKELY(names != NULL || nargs > 2)) return allocator_alloc_by_name(a, args, nargs, names);
    return allocator_alloc_of(a, nargs == 0 ? NULL : args[0], nargs == 2 ? args[1] : NULL);
}

bool nm__is_allocator(PyObject *thing) {
    return PyObject_TypeCheck(thing, &nm__allocator_type) && ((AllocatorObject *)thing)->attached;
}

PyObject *nm__allocator_handle(PyObject *allocator) { return Py_NewRef(((AllocatorObject *)allocator)->handle); }

PyObject *nm__allocator_new_block(PyObject *allocator, size_t size, size_t align, bool zero) {
    AllocatorObject *a = (AllocatorObject *)allocator;
    if (!nm_layout_ok(size, align, NM_ALIGN_MAX)) {
        nm__raise_refusal(a, (nm_failure){NM_INVALID_LAYOUT, size, 0, 0}, size, align);
        return NULL;
    }
    NM_GUARD_ALLOCATOR(a);
    PyObject *block = allocator_make_block(a, size, align);
    if (block != NULL && zero) memset(((BlockObject *)block)->ptr, 0, size); /* first: a callback that is told may free it */
    return nm__pressure_after(block);
}

BlockObject *nm__allocator_own_block(AllocatorObject *a, PyObject *arg, const char *action, const char *when_freed) {
    if (!Py_IS_TYPE(arg, &nm__block_type)) {
        nm__raise_block(a, arg, "type");
        return NULL;
    }
    BlockObject *b = (BlockObject *)arg;
    if (b->allocator != a) nm__raise_block(a, arg, "foreign");
    else if (b->state != LIVE) nm__raise_block(a, arg, b->state == FREED ? when_freed : "stale");
    else if (b->exports != 0) nm__raise_exported(b, action);
    else return b;
    return NULL;
}

static PyObject *allocator_free(AllocatorObject *a, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    NM_GUARD_ALLOCATOR(a);
    PyObject *bound[2];
    if (NM_UNLIKELY(nargs != 1 || names != NULL)) {
        if (!nm__arguments_bind(&free_takes, args, nargs, names, bound)) return NULL;
        args = bound;
    }
    BlockObject *b = nm__allocator_own_block(a, args[0], "free", "double");
    return b == NULL ? NULL : nm__block_free(b);
}

static PyObject *allocator_resize(AllocatorObject *a, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    NM_GUARD_ALLOCATOR(a);
    size_t size, align;
    PyObject *bound[2];
    if (NM_UNLIKELY(nargs != 2 || names != NULL)) {
        if (!nm__arguments_bind(&resize_takes, args, nargs, names, bound)) return NULL;
        args = bound;
    }
    if (nm__allocator_own_block(a, args[0], "resize", "freed") == NULL) return NULL;
    if (!nm__argument_size(args[1], &size) && !nm__argument_layout(a, args[1], NULL, &size, &align)) return NULL;
    PyObject *asked = NULL, *result = NULL;
    BlockObject *b;
    int again = 1;
    while (again == 1 &&
           (b = nm__allocator_own_block(a, args[0], "resize", "freed")) != NULL) { /* each time: Python code may have run */
        (void)nm__fail(NM_OK, 0, 0, 0);
        if (b->size == 0 || size == 0) {
            result = Py_NewRef((size_t)b->size == size ? Py_True : Py_False);
        } else if (a->port.methods->resize(a->port.self, b->ptr, (size_t)b->size, size, b->align)) {
            b->size = (Py_ssize_t)size;
            nm__sampler_freeing(b);
            if (NM_UNLIKELY(nm__sampler_is_on())) allocator_sample(a, b);
            result = Py_NewRef(Py_True);
        } else if (nm_last_failure().status == NM_OK) {
            result = Py_NewRef(Py_False);
        }
        if (result != NULL) break;
        nm_failure failure = nm_last_failure();
        align = b->align;
        again = nm__pressure_retry(a, failure, &asked);
        if (again == 0) nm__raise_refusal(a, failure, size, align);
    }
    Py_XDECREF(asked);
    return nm__pressure_after(result);
}

void nm__allocator_leave_upstream(AllocatorObject *upstream, bool wraps) {
    if (upstream == NULL) return;
    NM_GUARD_ALLOCATOR(upstream);
    upstream->users--;
    if (!wraps) upstream->chain->dependents--;
}

static PyObject *allocator_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args, (void)kwargs; /* the facade's __init__ takes them */
    AllocatorObject *a = (AllocatorObject *)type->tp_alloc(type, 0);
    if (a == NULL) return NULL;
    a->port.methods = a->inner.methods = &nm__closed_methods;
    a->chain = &a->own;
#ifdef Py_GIL_DISABLED
    atomic_init(&a->guard, (PyObject *)a);
#endif
    return (PyObject *)a;
}

/* There is no clear: blocks that are collected in the same breath still need the upstream. Cycles run
 * through attributes, which the subclass clears. */
static int allocator_traverse(AllocatorObject *a, visitproc visit, void *arg) {
    Py_VISIT(a->core);
    Py_VISIT(a->upstream);
    Py_VISIT(a->left);
    return 0;
}

/* Its orphans go with it. */
static void allocator_depart(AllocatorObject *a) {
    NM_GUARD_ALLOCATOR(a);
    for (BlockObject *b = a->chain->newest, *older; b != NULL && a->chain->orphans != 0; b = older) {
        older = b->older;
        if (b->state == ORPHAN && b->allocator == a) nm__chain_retire(b);
    }
    nm__chain_forget_retired(a->chain);
}

static void allocator_dealloc(AllocatorObject *a) {
    PyObject_GC_UnTrack(a);
    if (NM_UNLOCKED || a->weakrefs != NULL) PyObject_ClearWeakRefs((PyObject *)a);
    allocator_depart(a);
    if (a->attached && !a->closed) nm__allocator_leave_upstream(a->upstream, a->wraps);
    Py_CLEAR(a->core);
    Py_CLEAR(a->handle);
    Py_CLEAR(a->upstream);
    Py_CLEAR(a->left);
    Py_TYPE(a)->tp_free((PyObject *)a);
}

static PyObject *allocator_closed(AllocatorObject *a, void *unused) {
    NM_GUARD_ALLOCATOR(a);
    (void)unused;
    return PyBool_FromLong(a->closed || !a->attached);
}

static PyObject *allocator_upstream(AllocatorObject *a, void *unused) {
    NM_GUARD_ALLOCATOR(a);
    (void)unused;
    return Py_NewRef(a->upstream == NULL ? Py_None : (PyObject *)a->upstream);
}

static PyObject *allocator_left(AllocatorObject *a, void *unused) {
    NM_GUARD_ALLOCATOR(a);
    (void)unused;
    return Py_NewRef(a->left == NULL ? Py_None : a->left);
}

static PyObject *allocator_core(AllocatorObject *a, void *unused) {
    NM_GUARD_ALLOCATOR(a);
    (void)unused;
    return Py_NewRef(a->core == NULL ? Py_None : a->core);
}

static PyObject *allocator_id(AllocatorObject *a, void *unused) {
    NM_GUARD_ALLOCATOR(a);
    (void)unused;
    return PyLong_FromUnsignedLongLong(a->id);
}

static PyObject *allocator_depth(AllocatorObject *a, void *unused) {
    NM_GUARD_ALLOCATOR(a);
    (void)unused;
    return PyLong_FromLong(a->depth);
}

static PyObject *allocator_natural(AllocatorObject *a, void *unused) {
    NM_GUARD_ALLOCATOR(a);
    (void)unused;
    return PyLong_FromSize_t(a->natural);
}

static PyObject *allocator_generation(AllocatorObject *a, void *unused) {
    NM_GUARD_ALLOCATOR(a);
    (void)unused;
    return PyLong_FromUnsignedLongLong(a->chain->generation);
}

/* The hot ones, which allocator_own_methods gives each facade class; the others are in lifetime.c. */
static PyMethodDef allocator_methods[] = {
    {"alloc", (PyCFunction)(void (*)(void))allocator_alloc, METH_FASTCALL | METH_KEYWORDS,
     "alloc($self, /, size=..., align=16)\n--\n\nA new Block of `size` bytes (an int or a string such as '64 KiB') at a\n"
     "multiple of `align`. A pool takes its block size where none is given. Contents are undefined. Raises InvalidLayout for a "
     "size or alignment that no\n"
     "block can have, and a MemoryError of the allocator's kind where there is no room."},
    {"free", (PyCFunction)(void (*)(void))allocator_free, METH_FASTCALL | METH_KEYWORDS,
     "free($self, /, block)\n--\n\nGives a block back. Raises DoubleFree, StaleBlock, ForeignBlock, or BufferError\n"
     "while a view of it is out; nothing changes then."},
    {"resize", (PyCFunction)(void (*)(void))allocator_resize, METH_FASTCALL | METH_KEYWORDS,
     "resize($self, /, block, size)\n--\n\nChanges the block's size in place. False: it cannot, and nothing changed."},
    {NULL, NULL, 0, NULL}};

static PyGetSetDef allocator_getset[] = {
    {"closed", (getter)allocator_closed, NULL, "Whether the allocator was closed.", NULL},
    {"upstream", (getter)allocator_upstream, NULL, "The allocator that this one takes its memory from, or None.", NULL},
    {"id", (getter)allocator_id, NULL, "A number that no other allocator of the process has or will have.", NULL},
    {"generation", (getter)allocator_generation, NULL, "Resets so far.", NULL},
    {"_core", (getter)allocator_core, NULL, NULL, NULL},
    {"_left", (getter)allocator_left, NULL, NULL, NULL},
    {"_depth", (getter)allocator_depth, NULL, NULL, NULL},
    {"_natural", (getter)allocator_natural, NULL, NULL, NULL},
    {NULL, NULL, NULL, NULL, NULL}};

PyTypeObject nm__allocator_type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nativemem._dataplane.Allocator",
    .tp_doc = "The data plane of an allocator; the facade classes inherit it.",
    .tp_basicsize = sizeof(AllocatorObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_BASETYPE | Py_TPFLAGS_HAVE_GC,
    .tp_new = allocator_new,
    .tp_dealloc = (destructor)allocator_dealloc,
    .tp_traverse = (traverseproc)allocator_traverse,
    .tp_methods = allocator_methods,
    .tp_getset = allocator_getset,
    .tp_weaklistoffset = offsetof(AllocatorObject, weakrefs),
};

/* Gives a class descriptors of its own for the hot methods. The interpreter's fast call of a C method wants the
 * object to be of just the class that the descriptor was made for, and the facade's classes inherit ours. */
static PyObject *allocator_own_methods(PyObject *module, PyObject *cls) {
    (void)module;
    if (!PyType_Check(cls) || !PyType_IsSubtype((PyTypeObject *)cls, &nm__allocator_type)) {
        PyErr_SetString(PyExc_TypeError, "own_hot_methods: takes a subclass of Allocator");
        return NULL;
    }
    for (PyMethodDef *method = allocator_methods; method->ml_name != NULL; method++) {
        PyObject *descriptor = PyDescr_NewMethod((PyTypeObject *)cls, method);
        if (descriptor == NULL) return NULL;
        int failed = PyObject_SetAttrString(cls, method->ml_name, descriptor);
        Py_DECREF(descriptor);
        if (failed) return NULL;
    }
    Py_RETURN_NONE;
}

int nm__allocator_add(PyObject *module) {
    static PyMethodDef methods[] = {
        {"own_hot_methods", allocator_own_methods, METH_O, "Gives a facade class its own alloc, free and resize."},
        {NULL, NULL, 0, NULL}};
    if (PyType_Ready(&nm__allocator_type) < 0 || PyModule_AddFunctions(module, methods) < 0) return -1;
    return PyModule_AddObjectRef(module, "Allocator", (PyObject *)&nm__allocator_type);
}
