/* The data plane: the types Allocator and Block, whose calls are too hot for cffi.
 *
 * Everything here runs with the interpreter's lock held and calls no Python code between looking at a
 * block's state and acting on it. Errors are raised by the functions of nativemem.errors, which set_hooks
 * hands over, so that each message stands in one place for both backends.
 *
 * A chain is a noun (arena, heap ...) and the wrappers in front of it. Its allocators share one life: the
 * list of the chain's live blocks in the order of their making, so that a reset of the noun finds those
 * that a wrapper gave. A noun that takes its memory from another allocator has a life of its own and
 * counts as a user of the other's.
 */
#include "engine/python.h" /* first: Python.h wants to be */

#include "base/base.h"
#include "binding/capi.h"
#include "binding/cdata.h"
#include "binding/intern_type.h"
#include "engine/insides.h"
#include "engine/numpy.h"
#include "engine/overdraft.h"
#include "engine/scopes.h"
#include "engine/stacks.h"

/* Owns one C structure. It is no part of the garbage collector and refers to other handles only, so it is
 * destroyed when the last reference goes and at no other time, and the structures it needs go after it.
 * (A cffi pointer with a destructor would be finalized in any order when it is part of a cycle.) */
typedef struct HandleObject {
    PyObject_HEAD
    void *ptr; /* NULL: not made yet, or refused */
    void (*destroy)(void *);
    PyObject *needs; /* tuple of handles */
} HandleObject;

typedef struct BlockObject BlockObject;

typedef struct Life {
    BlockObject *newest;
    uint64_t serial;     /* of the newest block ever */
    uint64_t generation; /* resets so far */
    Py_ssize_t exports;  /* buffers out of the chain's blocks */
    Py_ssize_t nouns;    /* open nouns that take memory from the chain */
    Py_ssize_t orphans;  /* of the chain's blocks */
    BlockObject *first_orphan; /* latest first; NULL where lifo: there the list of blocks leads to those that can go */
    bool lifo;                 /* the chain's noun is a stack */
} Life;

/* Which verbs drop several of a noun's blocks at once. */
typedef enum { REWINDS_NEVER, REWINDS_ARENA, REWINDS_STACK } Rewinds;

/* Invariants:
 *   life == (wraps and not closed) ? upstream->life : &own
 *   users == open allocators whose upstream this is
 *   closed: port is the closed one;  none of the live blocks is its own;  upstream == NULL, left != NULL */
typedef struct AllocatorObject {
    PyObject_HEAD
    nm_allocator port;
    nm_allocator inner; /* the core's own, closed or not */
    Life *life;
    Life own;
    struct AllocatorObject *upstream;
    PyObject *handle; /* of the C structure behind port; outlives close, so that no call finds it gone */
    PyObject *core;   /* the control plane */
    PyObject *left;   /* of a closed one: its description and its owner, which its upstream knew */
    PyObject *weakrefs;
    Py_ssize_t users;
    uint64_t id;    /* of the process's allocators, never used again; 0: not attached */
    size_t natural; /* what alloc() takes without a size; 0: it needs one */
    int depth; /* allocators in the chain, this one included */
    Rewinds rewinds;
    bool attached, closed, wraps, autofree;
} AllocatorObject;

typedef enum { LIVE, FREED, STALE, ORPHAN, DYING, DAMAGED } BlockState;

/* An orphan was collected where its allocator would not take it back: in another thread, or below the top of a
 * stack. It stays on the list without being an object any more (no references, allocator borrowed) until it can
 * be given back, or its allocator goes. DYING is what becomes an orphan once its weak references' callbacks have run:
 * until then no other code may reuse it. DAMAGED is a dying one that the allocator found written over.
 * Invariants:
 *   state is none of FREED and STALE <=> the block is on allocator->life's list
 *   exports > 0 => state == LIVE
 *   state == ORPHAN and not life->lifo <=> the block is on life->first_orphan's list */
struct BlockObject {
    PyObject_HEAD
    AllocatorObject *allocator;
    char *ptr;
    Py_ssize_t size;
    BlockObject *older, *newer;
    uint64_t serial;
    PyObject *weakrefs;
    union {
        Py_ssize_t exports;
        BlockObject *next_orphan; /* of an orphan, and of a block on `departed` */
    };
    uint32_t align;
    uint16_t state;
    bool damage_told; /* a call about it has failed as it was written over */
};

static PyTypeObject Allocator_Type, Block_Type, Handle_Type;

/* Dead Block objects kept for reuse, linked by `older`. */
#define SPARE_MAX 256
static BlockObject *spare;
static int spares;

/* Functions of nativemem.errors, and who tells of pressure, kept in the interpreter's own dictionary: the types are
 * shared by the interpreters of a process, but each has its own exceptions, which go with it. */
typedef enum { COERCE_LAYOUT, RAISE_STATUS, RAISE_BLOCK, RAISE_EXPORTS, TELL, ASK, HOOK_COUNT } Hook;
#define HOOKS "nativemem._dataplane hooks"
/* Some interpreter of the process has them. A process that has only the engine does without. */
static bool any_hooks;

/* ---- errors --------------------------------------------------------------------------------------- */

/* Where this interpreter has no hooks, `instead` is raised, or with NULL nothing done: the engine may have been started
 * alone, without the control plane, and an interpreter that ends runs finalizers after its dictionary has gone. */
static NM_COLD PyObject *call_no_hook(PyObject *instead) {
    if (PyErr_Occurred()) return NULL; /* no memory to find out */
    if (instead == NULL) Py_RETURN_NONE;
    PyErr_SetString(instead, "nativemem: refused, and what could say why is not there");
    return NULL;
}

static NM_COLD PyObject *call_hook(Hook which, PyObject *instead, const char *format, ...) {
    PyObject *dict = PyInterpreterState_GetDict(PyInterpreterState_Get());
    PyObject *key = PyUnicode_FromString(HOOKS); /* PyDict_GetItemString would hide that there is no memory for it */
    if (key == NULL) return NULL;
    PyObject *hooks = dict == NULL ? NULL : PyDict_GetItemWithError(dict, key);
    Py_DECREF(key);
    if (hooks == NULL) return call_no_hook(instead);
    PyObject *hook = Py_NewRef(PyTuple_GET_ITEM(hooks, which));
    va_list values;
    va_start(values, format);
    PyObject *args = Py_VaBuildValue(format, values);
    va_end(values);
    PyObject *result = args == NULL ? NULL : PyObject_Call(hook, args, NULL);
    /* CPython 3.11 can lose an exception where it has no memory for the traceback */
    if (result == NULL && !PyErr_Occurred()) (void)PyErr_NoMemory();
    Py_XDECREF(args);
    Py_DECREF(hook);
    return result;
}

/* The hook raises; should it come back, the call still fails. */
static void after_hook(PyObject *result) {
    if (result != NULL) {
        Py_DECREF(result);
        PyErr_SetString(PyExc_SystemError, "an error hook of nativemem returned");
    }
}

static PyObject *kind_of(nm_status status) { return nm__is_want(status) ? PyExc_MemoryError : PyExc_ValueError; }
static void raise_status(AllocatorObject *a, nm_failure f) {
    after_hook(call_hook(RAISE_STATUS, kind_of(f.status), "(Oinnn)", a, (int)f.status, (Py_ssize_t)f.requested,
                         (Py_ssize_t)f.used, (Py_ssize_t)f.limit));
}
/* As raise_status, where the call was about one block. */
static void raise_refusal(AllocatorObject *a, nm_failure f, size_t size, size_t align) {
    after_hook(call_hook(RAISE_STATUS, kind_of(f.status), "(Oinnn(nn))", a, (int)f.status, (Py_ssize_t)f.requested,
                         (Py_ssize_t)f.used, (Py_ssize_t)f.limit, (Py_ssize_t)size, (Py_ssize_t)align));
}
void nm__raise_refusal(PyObject *allocator, nm_failure failure, size_t size, size_t align) {
    raise_refusal((AllocatorObject *)allocator, failure, size, align);
}
void nm__raise_failure(PyObject *allocator, nm_failure failure) { raise_status((AllocatorObject *)allocator, failure); }
static void raise_closed(AllocatorObject *a) { raise_status(a, (nm_failure){NM_CLOSED, 0, 0, 0}); }
static void raise_block(AllocatorObject *a, PyObject *block, const char *what) {
    after_hook(call_hook(RAISE_BLOCK, PyExc_ValueError, "(OOs)", a, block, what));
}
/* blocks: those with a view, a new reference that goes here, or NULL. tops: how many allocators stand on it. */
static void raise_exports(AllocatorObject *a, const char *action, PyObject *blocks, Py_ssize_t tops) {
    if (blocks == NULL) PyErr_Clear(); /* no memory to list them */
    after_hook(call_hook(RAISE_EXPORTS, PyExc_BufferError, "(OsOn)", a, action, blocks == NULL ? Py_None : blocks, tops));
    Py_XDECREF(blocks);
}
static void raise_exported(BlockObject *b, const char *action) {
    raise_exports(b->allocator, action, Py_BuildValue("[O]", b), 0);
}

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
static const nm_methods closed_methods = {closed_alloc, closed_resize, closed_free, closed_stats};

/* May the calling thread alloc, or free (`check` is "check" or "check_free")? Only asked for where no call into
 * the port tells, which is for blocks of no bytes. */
static bool check_use(AllocatorObject *a, const char *check) {
    if (!a->attached || a->closed) {
        raise_closed(a);
        return false;
    }
    PyObject *status = PyObject_CallMethod(a->core, check, NULL);
    if (status == NULL) return false;
    long code = PyLong_AsLong(status);
    Py_DECREF(status);
    if (code == -1 && PyErr_Occurred()) return false;
    if (code != NM_OK) raise_status(a, (nm_failure){(nm_status)code, 0, 0, 0});
    else if (a->closed) raise_closed(a); /* meanwhile: Python code ran */
    else return true;
    return false;
}

/* ---- blocks --------------------------------------------------------------------------------------- */

static inline void link_block(Life *life, BlockObject *b) {
    b->serial = ++life->serial;
    b->newer = NULL;
    b->older = life->newest;
    if (b->older != NULL) b->older->newer = b;
    life->newest = b;
}

static inline void unlink_block(BlockObject *b) {
    if (b->newer != NULL) b->newer->older = b->older;
    else b->allocator->life->newest = b->older;
    if (b->older != NULL) b->older->newer = b->newer;
}

/* Making an object may run a collection, and so any Python code: a reset or a close of the allocator among it.
 * Therefore it comes before memory is taken, and from there to the linked block no Python code runs. */
static inline bool have_spare(void) {
    if (NM_LIKELY(spare != NULL)) return true;
    BlockObject *b = PyObject_GC_New(BlockObject, &Block_Type);
    if (b == NULL) return false;
    b->older = spare;
    spare = b;
    spares++;
    return true;
}

/* Pre: have_spare(). */
static inline PyObject *new_block(AllocatorObject *a, char *ptr, size_t size, size_t align) {
    BlockObject *b = spare;
    spare = b->older;
    spares--;
#ifdef Py_DEBUG
    _Py_NewReference((PyObject *)b); /* keeps the interpreter's own count of references */
#else
    Py_SET_REFCNT((PyObject *)b, 1); /* the type is still set */
#endif
    b->allocator = (AllocatorObject *)Py_NewRef((PyObject *)a);
    b->ptr = ptr;
    b->size = (Py_ssize_t)size;
    b->weakrefs = NULL;
    b->exports = 0;
    b->align = (uint32_t)align;
    b->state = LIVE;
    b->damage_told = false;
    link_block(a->life, b);
    PyObject_GC_Track(b);
    return (PyObject *)b;
}

/* Takes a live block without exports out of use. */
static inline nm_status give_back(BlockObject *b, BlockState state) {
    AllocatorObject *a = b->allocator;
    if (b->size != 0) {
        nm_status status = a->inner.methods->free(a->inner.self, b->ptr, (size_t)b->size, b->align);
        if (NM_UNLIKELY(status != NM_OK)) return status;
    }
    unlink_block(b);
    b->state = (uint16_t)state;
    return NM_OK;
}

/* Puts away what is left of a block that nothing refers to any more. */
static void discard(BlockObject *b) {
    if (spares < SPARE_MAX) {
        b->older = spare;
        spare = b;
        spares++;
    } else {
        PyObject_GC_Del(b);
    }
}

/* Gives back what can be given back by now. It runs with each free, so live blocks are not walked through: there may
 * be many, and an orphan may stay for long. */
static NM_COLD bool sweep_orphans(Life *life) {
    bool any = false, more = !life->lifo;
    for (BlockObject *b = life->newest, *older; life->lifo && b != NULL && life->orphans != 0; b = older) {
        older = b->older;
        if (b->state != ORPHAN && b->size != 0) break; /* what is below is not the top */
        if (b->state != ORPHAN) continue;
        if (give_back(b, FREED) != NM_OK) break;
        life->orphans--;
        discard(b);
        any = true;
    }
    while (more) { /* again, as one may have stood on another */
        more = false;
        for (BlockObject **link = &life->first_orphan, *b; (b = *link) != NULL;) {
            if (give_back(b, FREED) != NM_OK) {
                link = &b->next_orphan;
                continue;
            }
            *link = b->next_orphan;
            life->orphans--;
            discard(b);
            any = more = true;
        }
    }
    return any;
}

/* Takes a live block or an orphan out of use, whatever its allocator says. */
static void retire(BlockObject *b) {
    Life *life = b->allocator->life;
    bool orphan = b->state == ORPHAN;
    if (!b->allocator->autofree || give_back(b, STALE) != NM_OK) {
        unlink_block(b);
        b->state = STALE;
    }
    if (!orphan) return;
    life->orphans--;
    if (life->lifo) discard(b); /* the others with forget_retired */
}

/* Post: on the list of orphans there are only such. To be called after retire. */
static void forget_retired(Life *life) {
    for (BlockObject **link = &life->first_orphan, *b; (b = *link) != NULL;) {
        if (b->state == ORPHAN) {
            link = &b->next_orphan;
            continue;
        }
        *link = b->next_orphan;
        discard(b);
    }
}

/* Gives back the memory of a live block that nothing refers to any more. Runs no Python code. */
static void part_from_memory(BlockObject *b) {
    AllocatorObject *a = b->allocator;
    if (!a->autofree) {
        unlink_block(b);
        b->state = FREED;
        return;
    }
    nm_status status = give_back(b, FREED);
    bool is_news = (status == NM_CORRUPTED || status == NM_DOUBLE_FREE) && !b->damage_told;
    if (NM_UNLIKELY(status != NM_OK)) b->state = is_news ? DAMAGED : DYING;
    else if (NM_UNLIKELY(a->life->orphans != 0)) (void)sweep_orphans(a->life);
}

/* Says so: there is no call that could fail. */
static NM_COLD void report_damage(BlockObject *b) {
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    raise_refusal(b->allocator, (nm_failure){NM_CORRUPTED, 0, 0, 0}, (size_t)b->size, b->align);
    PyErr_WriteUnraisable((PyObject *)b->allocator);
    PyErr_Restore(type, value, traceback);
}

static void block_dealloc(BlockObject *b) {
    PyObject_GC_UnTrack(b);
    AllocatorObject *a = b->allocator;
    if (b->state == LIVE) part_from_memory(b);
    if (NM_UNLIKELY(b->state == DAMAGED)) report_damage(b);
    /* Only now that no list gives it away: a callback may ask the allocator for its blocks, or reset it. */
    if (b->weakrefs != NULL) PyObject_ClearWeakRefs((PyObject *)b);
    if (NM_UNLIKELY(b->state == DYING || b->state == DAMAGED)) {
        b->state = ORPHAN;
        a->life->orphans++;
        if (!a->life->lifo) {
            b->next_orphan = a->life->first_orphan;
            a->life->first_orphan = b;
        }
    } else {
        discard(b);
    }
    Py_DECREF(a); /* last: it may run any code */
}

/* Blocks that are to be deallocated where Python code may run; each with the last reference to it. */
static BlockObject *departed;

void nm__see_off_blocks(void) {
    for (BlockObject *b; (b = departed) != NULL;) {
        departed = b->next_orphan;
        b->exports = 0;
        Py_DECREF(b);
    }
}

/* As Py_DECREF, without Python code: its memory goes now, what a callback may see of it later. */
static void drop_quietly(BlockObject *b) {
    bool last = Py_REFCNT((PyObject *)b) == 1;
    if (last && b->state == LIVE) part_from_memory(b);
    if (!last || (b->weakrefs == NULL && b->state != DAMAGED && Py_REFCNT((PyObject *)b->allocator) > 1)) {
        Py_DECREF(b);
        return;
    }
    b->next_orphan = departed;
    departed = b;
    nm__overdraft_wait_for_safe_point();
}

static int block_traverse(BlockObject *b, visitproc visit, void *arg) {
    Py_VISIT(b->allocator);
    return 0;
}

static const char *dead_word(const BlockObject *b) { return b->state == FREED ? "freed" : "stale"; }

static int block_getbuffer(BlockObject *b, Py_buffer *view, int flags) {
    if (b->state != LIVE) {
        view->obj = NULL;
        raise_block(b->allocator, (PyObject *)b, dead_word(b));
        return -1;
    }
    if (PyBuffer_FillInfo(view, (PyObject *)b, b->ptr, b->size, 0, flags) < 0) return -1;
    b->exports++;
    b->allocator->life->exports++;
    return 0;
}

static void block_releasebuffer(BlockObject *b, Py_buffer *view) {
    (void)view;
    b->exports--;
    b->allocator->life->exports--;
}

static Py_ssize_t block_length(BlockObject *b) { return b->size; }

static PyObject *block_repr(BlockObject *b) {
    if (b->state != LIVE) return PyUnicode_FromFormat("<Block %zd B, %s>", b->size, dead_word(b));
    return PyUnicode_FromFormat("<Block %zd B at %p>", b->size, b->ptr);
}

/* Whether the block can be freed; with an error set if not. */
static bool may_free(BlockObject *b) {
    if (b->state != LIVE) {
        raise_block(b->allocator, (PyObject *)b, b->state == FREED ? "double" : "stale");
        return false;
    }
    if (b->exports != 0) {
        raise_exported(b, "free");
        return false;
    }
    return true;
}

static PyObject *free_block(BlockObject *b) {
    AllocatorObject *a = b->allocator;
    if (!may_free(b)) return NULL;
    if (b->size == 0 && !(check_use(a, "check_free") && may_free(b))) return NULL; /* again: it ran Python code */
    nm_status status = give_back(b, FREED);
    if (NM_UNLIKELY(status != NM_OK)) {
        b->damage_told = status == NM_CORRUPTED;
        raise_refusal(a, nm_last_failure(), (size_t)b->size, b->align);
        return NULL;
    }
    if (NM_UNLIKELY(a->life->orphans != 0)) (void)sweep_orphans(a->life);
    Py_RETURN_NONE;
}

static PyObject *block_free(BlockObject *b, PyObject *unused) {
    (void)unused;
    return free_block(b);
}

static PyObject *block_enter(BlockObject *b, PyObject *unused) {
    (void)unused;
    if (b->state != LIVE) {
        raise_block(b->allocator, (PyObject *)b, dead_word(b));
        return NULL;
    }
    return Py_NewRef((PyObject *)b);
}

/* NumPy asks for the buffer first, and, where that is refused, would make an array of one object. */
static PyObject *block_array(BlockObject *b, PyObject *args, PyObject *kwargs) {
    if (b->state != LIVE) {
        raise_block(b->allocator, (PyObject *)b, dead_word(b));
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
    (void)args;
    if (b->state != LIVE) Py_RETURN_NONE;
    return free_block(b);
}

static PyObject *block_size(BlockObject *b, void *unused) {
    (void)unused;
    return PyLong_FromSsize_t(b->size);
}
static PyObject *block_align(BlockObject *b, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLong(b->align);
}
static PyObject *block_alive(BlockObject *b, void *unused) {
    (void)unused;
    return PyBool_FromLong(b->state == LIVE);
}
static PyObject *block_address(BlockObject *b, void *unused) {
    (void)unused;
    if (b->state != LIVE) {
        raise_block(b->allocator, (PyObject *)b, dead_word(b));
        return NULL;
    }
    return PyLong_FromVoidPtr(b->ptr);
}
static PyObject *block_usable(BlockObject *b, void *unused) {
    (void)unused;
    if (b->state != LIVE) {
        raise_block(b->allocator, (PyObject *)b, dead_word(b));
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

static PyTypeObject Block_Type = {
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

/* ---- allocators ----------------------------------------------------------------------------------- */

/* false with an error set: not a layout. */
static bool coerce(AllocatorObject *a, PyObject *size, PyObject *align, size_t *out_size, size_t *out_align) {
    PyObject *pair = align == NULL ? call_hook(COERCE_LAYOUT, PyExc_ValueError, "(OO)", a, size)
                                   : call_hook(COERCE_LAYOUT, PyExc_ValueError, "(OOO)", a, size, align);
    if (pair == NULL) return false;
    Py_ssize_t n, k;
    bool ok = PyArg_ParseTuple(pair, "nn", &n, &k) != 0;
    Py_DECREF(pair);
    if (!ok) return false;
    if (n < 0 || !nm_layout_ok((size_t)n, (size_t)k, NM_ALIGN_MAX)) {
        PyErr_SetString(PyExc_SystemError, "coerce_layout gave a layout that it should have refused");
        return false;
    }
    *out_size = (size_t)n;
    *out_align = (size_t)k;
    return true;
}

static bool plain_size(PyObject *arg, size_t *out) {
    if (NM_UNLIKELY(!PyLong_CheckExact(arg))) return false;
#if PY_VERSION_HEX >= 0x030C0000
    if (NM_LIKELY(PyUnstable_Long_IsCompact((PyLongObject *)arg))) {
        Py_ssize_t small = PyUnstable_Long_CompactValue((PyLongObject *)arg);
        *out = (size_t)small;
        return small >= 0;
    }
#else
    if (NM_LIKELY(Py_SIZE(arg) == 1)) { /* positive, of one digit */
        *out = (size_t)((PyLongObject *)arg)->ob_digit[0];
        return true;
    }
#endif
    Py_ssize_t n = PyLong_AsSsize_t(arg);
    if (NM_UNLIKELY(n < 0)) {
        PyErr_Clear(); /* too large, or negative: coerce says so */
        return false;
    }
    *out = (size_t)n;
    return true;
}

/* Whoever watches budgets is told as the last act of a call that may have charged one. */
static NM_COLD PyObject *tell(PyObject *result) {
    PyObject *done = call_hook(TELL, NULL, "()");
    if (done == NULL) Py_CLEAR(result); /* an interrupt: the block goes with it */
    Py_XDECREF(done);
    return result;
}
int nm__tell_pressure(void) {
    if (!any_hooks) { /* the engine alone: there is no budget yet that anything could be told of */
        const nm_budget *budget;
        int level;
        bool was_normal;
        while (nm_budget_crossed(&budget, &level, &was_normal)) {}
        return 0;
    }
    PyObject *done = call_hook(TELL, NULL, "()");
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

/* As nm__ask_for_room; those that were asked join the list *asked (NULL: none yet), whose members are passed over. */
static NM_COLD int ask_for_room(nm__refusal refusal, PyObject **asked) {
    if (!any_hooks) return 0; /* the engine alone: there is no watcher */
    PyObject *now = call_hook(ASK, NULL, "(KKO)", (unsigned long long)(uintptr_t)refusal.charged,
                              (unsigned long long)(uintptr_t)refusal.refuser, *asked == NULL ? Py_None : *asked);
    if (now == NULL) return -1;
    if (now == Py_None) {
        Py_DECREF(now);
        return 0;
    }
    Py_XDECREF(*asked);
    *asked = now;
    return 1;
}
int nm__ask_for_room(nm_budget *charged, nm_budget *refuser) {
    PyObject *asked = NULL;
    int result = ask_for_room((nm__refusal){charged, refuser}, &asked);
    Py_XDECREF(asked);
    return result;
}

/* Whether a request of `a` that was just refused is to be made again: 1, or 0, or -1 with an error set. */
static NM_COLD int may_try_again(AllocatorObject *a, nm_failure failure, PyObject **asked) {
    nm__refusal refusal;
    if (failure.status != NM_OVER_BUDGET || !nm__budget_take_refusal(&refusal)) return 0;
    PyObject *handle = Py_NewRef(a->handle); /* keeps the budgets, whatever a callback closes */
    int ran = ask_for_room(refusal, asked);
    if (ran == 1) nm__budget_uncount(refusal.charged, refusal.refuser);
    Py_DECREF(handle);
    return ran;
}

/* Runs a callable at nobody's charge. */
static NM_TLS PyObject *aside_call, *aside_result;
static int call_aside(void) {
    aside_result = PyObject_CallNoArgs(aside_call);
    return aside_result == NULL ? -1 : 0;
}
static PyObject *scope_aside(PyObject *module, PyObject *call) {
    (void)module;
    PyObject *before = aside_call, *result = NULL;
    aside_call = call;
    if (nm__scope_without(call_aside) == 0) result = aside_result;
    aside_call = before;
    return result;
}

NM_INLINE PyObject *told(PyObject *result) {
    return NM_UNLIKELY(atomic_load_explicit(&nm__pressed, memory_order_relaxed)) && result != NULL ? tell(result) : result;
}

/* When an allocation was refused: gives orphans back, asks those who watch budgets for room. Post: have_spare(), or NULL
 * with an error set. */
static NM_COLD char *alloc_after_all(AllocatorObject *a, size_t size, size_t align) {
    nm_failure failure = nm_last_failure();
    char *ptr = NULL;
    PyObject *asked = NULL;
    int again = 1;
    if (a->life->orphans != 0 && sweep_orphans(a->life)) ptr = a->port.methods->alloc(a->port.self, size, align);
    while (ptr == NULL && (again = may_try_again(a, failure, &asked)) == 1 && have_spare()) {
        ptr = a->port.methods->alloc(a->port.self, size, align);
        if (ptr == NULL) failure = nm_last_failure();
    }
    if (ptr == NULL && again == 0) raise_refusal(a, failure, size, align);
    Py_XDECREF(asked); /* budgets, which their allocators hold: no code runs */
    return ptr;
}

/* Pre: a layout. NULL with an error set: refused. */
NM_INLINE PyObject *make_block(AllocatorObject *a, size_t size, size_t align) {
    if (NM_UNLIKELY(size == 0) && !check_use(a, "check")) return NULL;
    if (NM_UNLIKELY(!have_spare())) return NULL;
    if (NM_UNLIKELY(size == 0)) {
        if (!a->closed) return new_block(a, nm_empty_block, 0, align);
        raise_closed(a); /* meanwhile */
        return NULL;
    }
    char *ptr = a->port.methods->alloc(a->port.self, size, align);
    if (NM_UNLIKELY(ptr == NULL) && (ptr = alloc_after_all(a, size, align)) == NULL) return NULL;
    return new_block(a, ptr, size, align);
}

/* What a method takes: up to two parameters, the first `needed` of which must be given. */
typedef struct Parameters {
    const char *method, *takes, *names[2];
    int count, needed;
} Parameters;
static const Parameters alloc_takes = {"alloc", "a size and an optional alignment", {"size", "align"}, 2, 0},
                        free_takes = {"free", "a block", {"block", NULL}, 1, 1},
                        resize_takes = {"resize", "a block and a size", {"block", "size"}, 2, 2};

/* The arguments of a call by their place (borrowed; NULL: not given), wherever there are keywords or not the right number
 * of arguments. false with an error set. */
static NM_COLD bool bind(const Parameters *p, PyObject *const *args, Py_ssize_t nargs, PyObject *names, PyObject **out) {
    Py_ssize_t given = nargs + (names == NULL ? 0 : PyTuple_GET_SIZE(names));
    if (nargs > p->count) {
        PyErr_Format(PyExc_TypeError, "%s() takes %s (%zd given)", p->method, p->takes, given);
        return false;
    }
    for (int i = 0; i < p->count; i++) out[i] = i < nargs ? args[i] : NULL;
    for (Py_ssize_t k = nargs; k < given; k++) {
        PyObject *name = PyTuple_GET_ITEM(names, k - nargs);
        int i = 0;
        while (i < p->count && PyUnicode_CompareWithASCIIString(name, p->names[i]) != 0) i++;
        if (i == p->count) PyErr_Format(PyExc_TypeError, "%s() got an unexpected keyword argument '%U'", p->method, name);
        else if (out[i] != NULL) PyErr_Format(PyExc_TypeError, "%s() got multiple values for argument '%U'", p->method, name);
        else out[i] = args[k];
        if (PyErr_Occurred()) return false;
    }
    for (int i = 0; i < p->needed; i++) {
        if (out[i] != NULL) continue;
        PyErr_Format(PyExc_TypeError, "%s() takes %s (%zd given)", p->method, p->takes, given);
        return false;
    }
    return true;
}

/* NULL: not given. */
NM_INLINE PyObject *alloc_of(AllocatorObject *a, PyObject *first, PyObject *second) {
    size_t size, align = NM_ALIGN_DEFAULT;
    if (NM_UNLIKELY(first == NULL || first == Py_Ellipsis) && a->natural == 0) {
        PyErr_SetString(PyExc_TypeError, "alloc() takes a size and an optional alignment (no size given)");
        return NULL;
    }
    if (first == NULL) first = Py_Ellipsis;
    bool plain = plain_size(first, &size);
    if (NM_UNLIKELY(first == Py_Ellipsis)) {
        size = a->natural;
        plain = true;
    }
    if (NM_UNLIKELY(second != NULL)) {
        plain = plain && plain_size(second, &align) && nm_is_power_of_two(align) && align <= NM_ALIGN_MAX;
    }
    if (NM_UNLIKELY(!plain) && !coerce(a, first, second, &size, &align)) return NULL;
    return told(make_block(a, size, align));
}

static NM_COLD PyObject *alloc_by_name(AllocatorObject *a, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    PyObject *bound[2];
    return bind(&alloc_takes, args, nargs, names, bound) ? alloc_of(a, bound[0], bound[1]) : NULL;
}

static PyObject *allocator_alloc(AllocatorObject *a, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    if (NM_UNLIKELY(names != NULL || nargs > 2)) return alloc_by_name(a, args, nargs, names);
    return alloc_of(a, nargs == 0 ? NULL : args[0], nargs == 2 ? args[1] : NULL);
}

bool nm__is_allocator(PyObject *thing) {
    return PyObject_TypeCheck(thing, &Allocator_Type) && ((AllocatorObject *)thing)->attached;
}

PyObject *nm__allocator_handle(PyObject *allocator) { return Py_NewRef(((AllocatorObject *)allocator)->handle); }

PyObject *nm__new_block(PyObject *allocator, size_t size, size_t align, bool zero) {
    AllocatorObject *a = (AllocatorObject *)allocator;
    if (!nm_layout_ok(size, align, NM_ALIGN_MAX)) {
        raise_refusal(a, (nm_failure){NM_INVALID_LAYOUT, size, 0, 0}, size, align);
        return NULL;
    }
    PyObject *block = make_block(a, size, align);
    if (block != NULL && zero) memset(((BlockObject *)block)->ptr, 0, size); /* whoever is told may free it */
    return told(block);
}

PyObject *nm__hold_block(PyObject *allocator, size_t size, size_t align, void **ptr, nm_failure *refused) {
    AllocatorObject *a = (AllocatorObject *)allocator;
    *refused = (nm_failure){NM_INVALID_LAYOUT, size, 0, 0};
    if (!nm_layout_ok(size, align, NM_ALIGN_MAX)) return NULL;
    int was_on = PyGC_Disable(); /* before 3.12 it would run inside */
    bool spared = have_spare();
    if (was_on) PyGC_Enable();
    if (!spared) {
        PyErr_Clear();
        *refused = (nm_failure){NM_OUT_OF_MEMORY, size, 0, 0};
        return NULL;
    }
    char *memory = a->port.methods->alloc(a->port.self, size, align);
    if (memory == NULL) {
        *refused = nm_last_failure();
        if (a->life->orphans == 0 || !sweep_orphans(a->life)) return NULL;
        if ((memory = a->port.methods->alloc(a->port.self, size, align)) == NULL) return NULL;
    }
    BlockObject *b = (BlockObject *)new_block(a, memory, size, align);
    b->exports++;
    b->allocator->life->exports++;
    *ptr = memory;
    return (PyObject *)b;
}

void nm__let_go_of_block(PyObject *block) {
    block_releasebuffer((BlockObject *)block, NULL);
    drop_quietly((BlockObject *)block);
}

/* The block, if it is one of this allocator's, live and without exports; else NULL with an error set. */
static BlockObject *own_block(AllocatorObject *a, PyObject *arg, const char *action, const char *when_freed) {
    if (!Py_IS_TYPE(arg, &Block_Type)) {
        raise_block(a, arg, "type");
        return NULL;
    }
    BlockObject *b = (BlockObject *)arg;
    if (b->allocator != a) raise_block(a, arg, "foreign");
    else if (b->state != LIVE) raise_block(a, arg, b->state == FREED ? when_freed : "stale");
    else if (b->exports != 0) raise_exported(b, action);
    else return b;
    return NULL;
}

static PyObject *allocator_free(AllocatorObject *a, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    PyObject *bound[2];
    if (NM_UNLIKELY(nargs != 1 || names != NULL)) {
        if (!bind(&free_takes, args, nargs, names, bound)) return NULL;
        args = bound;
    }
    BlockObject *b = own_block(a, args[0], "free", "double");
    return b == NULL ? NULL : free_block(b);
}

static PyObject *allocator_resize(AllocatorObject *a, PyObject *const *args, Py_ssize_t nargs, PyObject *names) {
    size_t size, align;
    PyObject *bound[2];
    if (NM_UNLIKELY(nargs != 2 || names != NULL)) {
        if (!bind(&resize_takes, args, nargs, names, bound)) return NULL;
        args = bound;
    }
    if (own_block(a, args[0], "resize", "freed") == NULL) return NULL;
    if (!plain_size(args[1], &size) && !coerce(a, args[1], NULL, &size, &align)) return NULL;
    PyObject *asked = NULL, *result = NULL;
    BlockObject *b;
    int again = 1;
    while (again == 1 && (b = own_block(a, args[0], "resize", "freed")) != NULL) { /* each time: Python code may have run */
        (void)nm__fail(NM_OK, 0, 0, 0);
        if (b->size == 0 || size == 0) {
            result = Py_NewRef((size_t)b->size == size ? Py_True : Py_False);
        } else if (a->port.methods->resize(a->port.self, b->ptr, (size_t)b->size, size, b->align)) {
            b->size = (Py_ssize_t)size;
            result = Py_NewRef(Py_True);
        } else if (nm_last_failure().status == NM_OK) {
            result = Py_NewRef(Py_False);
        }
        if (result != NULL) break;
        nm_failure failure = nm_last_failure();
        align = b->align;
        again = may_try_again(a, failure, &asked);
        if (again == 0) raise_refusal(a, failure, size, align);
    }
    Py_XDECREF(asked);
    return told(result);
}

static PyObject *allocator_attach(AllocatorObject *a, PyObject *args) {
    PyObject *core, *upstream;
    int wraps, autofree;
    Py_ssize_t natural;
    if (!PyArg_ParseTuple(args, "OOppn", &core, &upstream, &wraps, &autofree, &natural)) return NULL;
    if (a->attached) {
        PyErr_Format(PyExc_RuntimeError, "%s: was initialised before", Py_TYPE(a)->tp_name);
        return NULL;
    }
    if (upstream != Py_None && !PyObject_TypeCheck(upstream, &Allocator_Type)) {
        PyErr_SetString(PyExc_TypeError, "upstream must be an Allocator or None");
        return NULL;
    }
    PyObject *port = PyObject_CallMethod(core, "port", NULL);
    if (port == NULL) return NULL;
    PyObject *handle;
    unsigned long long self, methods;
    int rewinds;
    if (!PyArg_ParseTuple(port, "O!KKi", &Handle_Type, &handle, &self, &methods, &rewinds)) {
        Py_DECREF(port);
        return NULL;
    }
    Py_INCREF(handle);
    Py_DECREF(port);
    if (a->attached) { /* meanwhile */
        Py_DECREF(handle);
        PyErr_Format(PyExc_RuntimeError, "%s: was initialised before", Py_TYPE(a)->tp_name);
        return NULL;
    }
    AllocatorObject *up = upstream == Py_None ? NULL : (AllocatorObject *)upstream;
    if (up != NULL && (!up->attached || up->closed)) {
        Py_DECREF(handle);
        raise_closed(up);
        return NULL;
    }
    static uint64_t ids;
    a->id = ++ids;
    a->handle = handle;
    a->inner = a->port = (nm_allocator){(void *)(uintptr_t)self, (const nm_methods *)(uintptr_t)methods};
    a->core = Py_NewRef(core);
    a->wraps = wraps != 0;
    a->autofree = autofree != 0;
    a->rewinds = (Rewinds)rewinds;
    a->own.lifo = rewinds == REWINDS_STACK;
    a->natural = wraps && up != NULL ? up->natural : (size_t)natural;
    a->depth = up == NULL ? 1 : up->depth + 1;
    if (up != NULL) {
        a->upstream = (AllocatorObject *)Py_NewRef(upstream);
        up->users++;
        if (a->wraps) a->life = up->life;
        else up->life->nouns++;
    }
    a->attached = true;
    Py_RETURN_NONE;
}

static void leave_upstream(AllocatorObject *a) {
    if (a->upstream == NULL) return;
    a->upstream->users--;
    if (!a->wraps) a->upstream->life->nouns--;
}

/* Of the life's blocks after a serial number: those that an allocator gave (NULL: any of the chain), or of these only
 * those with a view. */
static BlockObject *next_such(BlockObject *b, uint64_t after, const AllocatorObject *of, bool exported) {
    for (; b != NULL && b->serial > after; b = b->older)
        if (b->state == LIVE && (of == NULL || b->allocator == of) && (!exported || b->exports != 0)) return b;
    return NULL;
}

/* With the list's memory all that needs any is done, and from the count to the last item no Python code runs. */
static PyObject *list_blocks(const Life *life, uint64_t after, const AllocatorObject *of, bool exported) {
    Py_ssize_t count = 0, i = 0;
    BlockObject *first = next_such(life->newest, after, of, exported);
    for (BlockObject *b = first; b != NULL; b = next_such(b->older, after, of, exported)) count++;
    int was_on = PyGC_Disable(); /* before 3.12 it would run inside */
    PyObject *list = PyList_New(count);
    if (was_on) PyGC_Enable();
    for (BlockObject *b = list == NULL ? NULL : first; b != NULL; b = next_such(b->older, after, of, exported))
        PyList_SET_ITEM(list, i++, Py_NewRef((PyObject *)b));
    return list;
}

static PyObject *allocator_live(AllocatorObject *a, PyObject *unused) {
    (void)unused;
    return list_blocks(a->life, 0, a, false);
}

static PyObject *allocator_serial(AllocatorObject *a, PyObject *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(a->life->serial);
}

/* Makes every block of the chain newer than serial stale. false: refused with an error set, nothing changed. */
static bool drop(AllocatorObject *a, uint64_t serial, const char *action) {
    Life *life = a->life;
    Py_ssize_t users = life->nouns;
    if (life->exports != 0) {
        for (BlockObject *b = life->newest; b != NULL && b->serial > serial; b = b->older)
            if (b->state == LIVE) users += b->exports;
    }
    if (users != 0) {
        raise_exports(a, action, list_blocks(life, serial, NULL, true), life->nouns);
        return false;
    }
    if (a->rewinds == REWINDS_STACK) nm_stack_unwind(a->inner.self);
    while (life->newest != NULL && life->newest->serial > serial) retire(life->newest);
    forget_retired(life);
    return true;
}

/* The verbs of arena and stack are here and not in the control plane, because no Python code, of a signal handler or
 * of a collection, may run between the blocks' end and that of their memory. */
static PyObject *allocator_reset(AllocatorObject *a, PyObject *unused) {
    (void)unused;
    if (!check_use(a, "check") || !drop(a, 0, "reset")) return NULL;
    if (a->rewinds == REWINDS_ARENA) (void)nm_arena_reset(a->inner.self);
    if (a->rewinds == REWINDS_STACK) (void)nm_stack_reset(a->inner.self);
    a->life->generation++;
    Py_RETURN_NONE;
}

static PyObject *allocator_release(AllocatorObject *a, PyObject *args) {
    unsigned long long serial, mark;
    PyObject *owner;
    nm_status status = NM_OK;
    if (!PyArg_ParseTuple(args, "K(OK)", &serial, &owner, &mark)) return NULL;
    if (!check_use(a, "check")) return NULL;
    const void *place = (const void *)(uintptr_t)mark;
    if (a->rewinds == REWINDS_ARENA) status = nm_arena_check_mark(a->inner.self, place);
    if (a->rewinds == REWINDS_STACK) status = nm_stack_check_mark(a->inner.self, place);
    if (status == NM_OK && !drop(a, serial, "release")) return NULL;
    if (a->rewinds == REWINDS_ARENA && status == NM_OK) status = nm_arena_release(a->inner.self, place);
    if (a->rewinds == REWINDS_STACK && status == NM_OK) status = nm_stack_release(a->inner.self, place);
    if (status != NM_OK) {
        raise_status(a, nm_last_failure());
        return NULL;
    }
    Py_RETURN_NONE;
}

/* Nothing leads from a closed allocator to what it stood on. */
static void forget_upstream(AllocatorObject *a) {
    AllocatorObject *upstream = a->upstream;
    leave_upstream(a);
    if (a->wraps) {
        a->own.generation = a->life->generation;
        a->own.serial = a->life->serial;
        a->life = &a->own;
    }
    a->upstream = NULL;
    Py_XDECREF(upstream); /* last: it may run any code */
}

static PyObject *allocator_shut(AllocatorObject *a, PyObject *left) {
    if (!a->attached || a->closed) Py_RETURN_NONE;
    PyObject *clear = PyObject_GetAttrString(a->core, "clear"); /* what needs memory first: it may collect garbage */
    if (clear == NULL) return NULL;
    if (a->closed) {
        Py_DECREF(clear);
        Py_RETURN_NONE;
    }
    Py_ssize_t users = a->users;
    if (a->life->exports != 0) {
        for (BlockObject *b = a->life->newest; b != NULL; b = b->older)
            if (b->allocator == a && b->state == LIVE) users += b->exports;
    }
    if (users != 0) {
        Py_DECREF(clear);
        raise_exports(a, "close", list_blocks(a->life, 0, a, true), a->users);
        return NULL;
    }
    for (BlockObject *b = a->life->newest, *older; b != NULL; b = older) {
        older = b->older;
        if (b->allocator == a) retire(b);
    }
    forget_retired(a->life);
    a->closed = true;
    a->port.methods = &closed_methods;
    PyObject *status = PyObject_CallNoArgs(clear);
    Py_DECREF(clear);
    if (status == NULL) { /* its memory is still there: it may be closed again */
        a->closed = false;
        a->port = a->inner;
        return NULL;
    }
    a->left = Py_NewRef(left);
    Py_DECREF(status);
    forget_upstream(a);
    Py_RETURN_NONE;
}

/* Ends a Block whose memory C will free: as its free does, but for the memory. Returns the address. */
static PyObject *allocator_detach(AllocatorObject *a, PyObject *arg) {
    PyObject *address = NULL;
    BlockObject *b = own_block(a, arg, "detach", "double");
    if (b == NULL || (address = PyLong_FromVoidPtr(b->ptr)) == NULL) return NULL;
    unlink_block(b);
    b->state = FREED;
    return address;
}

/* Frees what C has, or had: any address, which is looked at as far as that is safe. In one call that keeps the lock, so
 * that of two threads with the same address one is refused. headed: blocks have something in front of them. None: a
 * block of Python's lies there. */
static PyObject *allocator_free_at(AllocatorObject *a, PyObject *args) {
    unsigned long long address;
    int headed;
    if (!PyArg_ParseTuple(args, "Kp", &address, &headed)) return NULL;
    if (!a->attached || a->closed) {
        raise_closed(a);
        return NULL;
    }
    char *ptr = (char *)(uintptr_t)address;
    for (const BlockObject *b = a->life->newest; b != NULL; b = b->older)
        if (b->ptr == ptr) Py_RETURN_NONE;
    nm_status status;
    bool foreign = headed && (nm_heap_of(ptr) != NULL || /* which begins with no head */
                              !nm__os_is_readable((void *)((uintptr_t)ptr - NM_ALIGN_DEFAULT), NM_ALIGN_DEFAULT));
    if (foreign) status = NM_FOREIGN_BLOCK;
    else if (nm__heap_is_free(ptr)) status = NM_DOUBLE_FREE;
    else status = a->inner.methods->free(a->inner.self, ptr, 0, NM_ALIGN_DEFAULT);
    return PyLong_FromLong((long)status);
}

static PyObject *allocator_new(PyTypeObject *type, PyObject *args, PyObject *kwargs) {
    (void)args, (void)kwargs; /* the facade's __init__ takes them */
    AllocatorObject *a = (AllocatorObject *)type->tp_alloc(type, 0);
    if (a == NULL) return NULL;
    a->port.methods = a->inner.methods = &closed_methods;
    a->life = &a->own;
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

static void allocator_dealloc(AllocatorObject *a) {
    PyObject_GC_UnTrack(a);
    if (a->weakrefs != NULL) PyObject_ClearWeakRefs((PyObject *)a);
    for (BlockObject *b = a->life->newest, *older; b != NULL && a->life->orphans != 0; b = older) {
        older = b->older;
        if (b->state == ORPHAN && b->allocator == a) retire(b);
    }
    forget_retired(a->life);
    if (a->attached && !a->closed) leave_upstream(a);
    Py_CLEAR(a->core);
    Py_CLEAR(a->handle);
    Py_CLEAR(a->upstream);
    Py_CLEAR(a->left);
    Py_TYPE(a)->tp_free((PyObject *)a);
}

static PyObject *allocator_closed(AllocatorObject *a, void *unused) {
    (void)unused;
    return PyBool_FromLong(a->closed || !a->attached);
}
static PyObject *allocator_upstream(AllocatorObject *a, void *unused) {
    (void)unused;
    return Py_NewRef(a->upstream == NULL ? Py_None : (PyObject *)a->upstream);
}
static PyObject *allocator_left(AllocatorObject *a, void *unused) {
    (void)unused;
    return Py_NewRef(a->left == NULL ? Py_None : a->left);
}
static PyObject *allocator_core(AllocatorObject *a, void *unused) {
    (void)unused;
    return Py_NewRef(a->core == NULL ? Py_None : a->core);
}
static PyObject *allocator_id(AllocatorObject *a, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(a->id);
}
static PyObject *allocator_depth(AllocatorObject *a, void *unused) {
    (void)unused;
    return PyLong_FromLong(a->depth);
}
static PyObject *allocator_natural(AllocatorObject *a, void *unused) {
    (void)unused;
    return PyLong_FromSize_t(a->natural);
}
static PyObject *allocator_generation(AllocatorObject *a, void *unused) {
    (void)unused;
    return PyLong_FromUnsignedLongLong(a->life->generation);
}

/* The hot ones first; own_hot_methods stops at the first that is private. */
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
    {"_attach", (PyCFunction)allocator_attach, METH_VARARGS, NULL},
    {"_live", (PyCFunction)allocator_live, METH_NOARGS, NULL},
    {"_serial", (PyCFunction)allocator_serial, METH_NOARGS, NULL},
    {"_reset", (PyCFunction)allocator_reset, METH_NOARGS, NULL},
    {"_release", (PyCFunction)allocator_release, METH_VARARGS, NULL},
    {"_detach", (PyCFunction)allocator_detach, METH_O, NULL},
    {"_free_at", (PyCFunction)allocator_free_at, METH_VARARGS, NULL},
    {"_shut", (PyCFunction)allocator_shut, METH_O, NULL},
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

static PyTypeObject Allocator_Type = {
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

/* ---- handles -------------------------------------------------------------------------------------- */

static void handle_dealloc(HandleObject *h) {
    if (h->ptr != NULL) h->destroy(h->ptr);
    Py_XDECREF(h->needs);
    PyObject_Free(h);
}

static PyObject *handle_slot(HandleObject *h, void *unused) {
    (void)unused;
    return PyLong_FromVoidPtr(&h->ptr);
}
static PyGetSetDef handle_getset[] = {
    {"slot", (getter)handle_slot, NULL, "Address of where the structure's is to be put.", NULL},
    {NULL, NULL, NULL, NULL, NULL}};

static PyTypeObject Handle_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nativemem._dataplane.Handle",
    .tp_doc = "Owns one structure of the core.",
    .tp_basicsize = sizeof(HandleObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)handle_dealloc,
    .tp_getset = handle_getset,
};

/* own(address of the destroy function, tuple of the handles that the structure needs) */
static PyObject *own(PyObject *module, PyObject *args) {
    (void)module;
    unsigned long long destroy;
    PyObject *needs;
    if (!PyArg_ParseTuple(args, "KO!", &destroy, &PyTuple_Type, &needs)) return NULL;
    for (Py_ssize_t i = 0; i < PyTuple_GET_SIZE(needs); i++) {
        if (!Py_IS_TYPE(PyTuple_GET_ITEM(needs, i), &Handle_Type)) {
            PyErr_SetString(PyExc_TypeError, "own: takes a tuple of handles");
            return NULL;
        }
    }
    HandleObject *h = PyObject_New(HandleObject, &Handle_Type);
    if (h == NULL) return NULL;
    h->ptr = NULL;
    h->destroy = (void (*)(void *))(uintptr_t)destroy;
    h->needs = Py_NewRef(needs);
    return (PyObject *)h;
}

/* What takes memory from its upstream when it is made. Not through cffi, which lets go of the interpreter's lock: who
 * asks is to be seen by a Traced below. False: refused, and why is in the status slot. See owned.h for the slot. */
static PyObject *own_stack(PyObject *module, PyObject *args) {
    (void)module;
    unsigned long long slot, self, methods;
    Py_ssize_t capacity;
    int patterns;
    if (!PyArg_ParseTuple(args, "K(KK)np", &slot, &self, &methods, &capacity, &patterns)) return NULL;
    nm_allocator upstream = {(void *)(uintptr_t)self, (const nm_methods *)(uintptr_t)methods};
    void *made = nm_stack_create(upstream, (size_t)capacity, patterns != 0);
    *(void **)(uintptr_t)slot = made;
    return PyBool_FromLong(made != NULL);
}

static PyObject *own_pool(PyObject *module, PyObject *args) {
    (void)module;
    unsigned long long slot, self, methods;
    Py_ssize_t block_size, count;
    int grow;
    if (!PyArg_ParseTuple(args, "K(KK)nnp", &slot, &self, &methods, &block_size, &count, &grow)) return NULL;
    nm_allocator upstream = {(void *)(uintptr_t)self, (const nm_methods *)(uintptr_t)methods};
    void *made = nm_pool_create(upstream, (size_t)block_size, (size_t)count, grow != 0);
    *(void **)(uintptr_t)slot = made;
    return PyBool_FromLong(made != NULL);
}

/* ---- module --------------------------------------------------------------------------------------- */

static PyObject *set_hooks(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *dict = PyInterpreterState_GetDict(PyInterpreterState_Get());
    if (dict == NULL) return PyErr_NoMemory();
    if (PyTuple_GET_SIZE(args) != HOOK_COUNT) {
        PyErr_SetString(PyExc_TypeError, "set_hooks: takes six functions");
        return NULL;
    }
    if (PyDict_SetItemString(dict, HOOKS, args) < 0) return NULL;
    any_hooks = true;
    Py_RETURN_NONE;
}

/* Gives a class descriptors of its own for the hot methods. The interpreter's fast call of a C method wants the
 * object to be of just the class that the descriptor was made for, and the facade's classes inherit ours. */
static PyObject *own_hot_methods(PyObject *module, PyObject *cls) {
    (void)module;
    if (!PyType_Check(cls) || !PyType_IsSubtype((PyTypeObject *)cls, &Allocator_Type)) {
        PyErr_SetString(PyExc_TypeError, "own_hot_methods: takes a subclass of Allocator");
        return NULL;
    }
    for (PyMethodDef *method = allocator_methods; method->ml_name[0] != '_'; method++) {
        PyObject *descriptor = PyDescr_NewMethod((PyTypeObject *)cls, method);
        if (descriptor == NULL) return NULL;
        int failed = PyObject_SetAttrString(cls, method->ml_name, descriptor);
        Py_DECREF(descriptor);
        if (failed) return NULL;
    }
    Py_RETURN_NONE;
}

/* Keeps an object until let_go, also beyond the interpreter's end. */
static PyObject *keep(PyObject *module, PyObject *object) {
    (void)module;
    Py_INCREF(object);
    Py_RETURN_NONE;
}
static PyObject *let_go(PyObject *module, PyObject *object) {
    (void)module;
    Py_DECREF(object); /* the caller has a reference of its own */
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"own_hot_methods", own_hot_methods, METH_O, "Gives a facade class its own alloc, free and resize."},
    {"set_hooks", set_hooks, METH_VARARGS, "The functions of nativemem.errors that the types call."},
    {"own", own, METH_VARARGS, "A handle for a structure of the core that is about to be made."},
    {"cdata_new", nm__cdata_new, METH_VARARGS, "A callable that makes C data of cffi's in blocks."},
    {"capi", nm__capi_capsule, METH_NOARGS, "The capsule that other extensions import."},
    {"keep", keep, METH_O, "Keeps an object, beyond the interpreter's end."},
    {"let_go", let_go, METH_O, "Undoes keep."},
    {"own_stack", own_stack, METH_VARARGS, "Makes a stack and puts it into a handle's slot."},
    {"own_pool", own_pool, METH_VARARGS, "Makes a pool and puts it into a handle's slot."},
    {"intern_new", nm__intern_new, METH_VARARGS, "An intern table."},
    {"own_stacks", nm__own_stacks, METH_VARARGS, "Makes a collection of stacks and puts it into a handle's slot."},
    {"stacks_frames", nm__stacks_frames, METH_VARARGS, "File, line and function of each frame of a site."},
    {"scope_aside", scope_aside, METH_O, "Calls something at nobody's charge."},
    {"scope_owner", nm__scope_owner, METH_VARARGS, "A budget's heap, to be entered."},
    {"scope_current", nm__scope_current, METH_NOARGS, "The owner that is charged now, or None."},
    {"scope_array_budget", nm__scope_array_budget, METH_O, "Address of the budget that an array is charged to, or 0."},
    {"region_size", nm__region_size, METH_NOARGS, "Bytes of addresses that are reserved."},
    {"region_init", nm__region_init, METH_VARARGS, "Makes the region, or sets what it keeps. False: the system refused."},
    {"region_decay_when_idle", nm__region_decay_when_idle, METH_NOARGS, "From now on a thread gives back what is kept."},
    {"region_owns", nm__region_owns, METH_O, "Whether an address is the region's."},
    {"insides_check", nm__insides_check, METH_NOARGS, "None, or what of the interpreter is not where it is expected."},
    {"engine_start", nm__engine_start, METH_O, "Makes the engine's heap, once. False: no memory."},
    {"engine_budget", nm__engine_budget, METH_NOARGS, "(used, peak, limit, denied); None where there is no heap."},
    {"engine_set_limit", nm__engine_set_limit, METH_VARARGS, "The engine's limit, and what of it is in reserve."},
    {"engine_stranger", nm__engine_stranger, METH_VARARGS,
     "Of the domains asked for, objects' and raw, the one that a hook of others is in, and the hook's file; or None."},
    {"engine_objects", nm__engine_objects, METH_O, "Switches the heap under the object domains on or off."},
    {"engine_raw", nm__engine_raw, METH_O, "Switches the heap under the raw domain on or off."},
    {"numpy_handler", nm__numpy_make_handler, METH_VARARGS, "An allocator as NumPy's handler: a capsule."},
    {"numpy_swap", nm__numpy_swap, METH_VARARGS, "Sets the context's handler, and returns the one before."},
    {"numpy_default", nm__numpy_default, METH_O, "Sets the handler of whoever has not set one; None: none."},
    {"numpy_allocator_of", nm__numpy_allocator_of, METH_O, "The allocator that gave an array's memory, or None."},
    {"numpy_in_use", nm__numpy_in_use, METH_NOARGS, "(arrays, bytes) that allocators gave."},
    {"numpy_refusal", nm__numpy_refusal, METH_NOARGS, "The last error that NumPy dropped, or None."},
    {"engine_hook_arrays", nm__engine_hook_arrays, METH_O, "Puts the hook under NumPy's default handler."},
    {"engine_array_handler", nm__engine_array_handler, METH_O, "Who gave an array's memory, or would give; a name."},
    {"engine_arrays", nm__engine_arrays, METH_O, "Switches the heap under NumPy on or off."},
    {"engine_account", nm__engine_account, METH_NOARGS, "([(size, blocks)], the last denial) of the engine."},
    {"engine_lift", nm__engine_lift, METH_NOARGS, "Takes the engine's limit away, then returns the peak under it."},
    {"engine_state", nm__engine_state, METH_NOARGS, "(objects on, arrays on, raw on)."},
    {"ending_watch", nm__ending_watch, METH_NOARGS, "Looks at the process's exit code from now on. False: it cannot."},
    {"ending_plan", nm__ending_plan, METH_VARARGS, "What is done with the exit code: (over, fd, at, width)."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef module = {
    PyModuleDef_HEAD_INIT, .m_name = "nativemem._dataplane", .m_size = -1, .m_methods = module_methods};

PyMODINIT_FUNC PyInit__dataplane(void) {
    if (PyType_Ready(&Allocator_Type) < 0 || PyType_Ready(&Block_Type) < 0 || PyType_Ready(&Handle_Type) < 0 ||
        nm__cdata_ready() < 0)
        return NULL;
    PyObject *m = PyModule_Create(&module);
    if (m == NULL) return NULL;
    if (nm__scope_ready(m) < 0) {
        Py_DECREF(m);
        return NULL;
    }
    if (PyModule_AddObjectRef(m, "Allocator", (PyObject *)&Allocator_Type) < 0 ||
        PyModule_AddObjectRef(m, "Block", (PyObject *)&Block_Type) < 0 || PyModule_AddIntMacro(m, REWINDS_NEVER) < 0 ||
        PyModule_AddIntMacro(m, REWINDS_ARENA) < 0 || PyModule_AddIntMacro(m, REWINDS_STACK) < 0) {
        Py_DECREF(m);
        return NULL;
    }
    return m;
}
