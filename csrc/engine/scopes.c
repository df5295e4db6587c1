#include "engine/scopes.h" /* first: Python.h wants to be */

#include "engine/engine.h"
#include "engine/insides.h"
#include "engine/overdraft.h"
#include "wrap/sites.h"

#include <sched.h>

#if PY_VERSION_HEX < 0x030B0000
#include <frameobject.h>
#endif

NM_TLS nm__now nm__scope_now;

/* ---- owners ----------------------------------------------------------------------------------------- */

/* It outlives the last reference to it as long as something that was charged to it is in use. Under the interpreter's
 * lock, but for `arrays` and `inside`. */
struct nm__owner {
    nm_heap *heap; /* of its objects */
    nm_budget *budget;
    PyObject *budgets_handle; /* strong */
    _Atomic size_t arrays;    /* how many are charged to it, and blocks that are charged one by one */
    atomic_bool due, told;    /* nm__owner_due, nm__owner_told */
    bool asks;                /* nm__owner_asks */
    _Atomic size_t inside;    /* threads that allocate from it, as far as they have found out */
    nm__owner *next;          /* of those that are left */
    nm__owner *newer, *older; /* of all */
};

typedef struct OwnerObject {
    PyObject_HEAD
    nm__owner *owner;
} OwnerObject;

/* Those whom nobody can enter any more, but who are not done. There may be many, so a few are looked at in turn. */
#define A_FEW 8
static struct {
    nm__owner *first, **end;
} left = {NULL, &left.first};

/* Every owner, with what those that are gone have served. */
static struct {
    nm__owner *newest;
    nm_census past;
} owners;

/* Every array that is charged to one. The lock is held for a few instructions, and by the interpreter's lock there is
 * hardly ever anybody to wait: only interpreters with a lock of their own. */
static struct {
    atomic_bool locked;
    nm__sites table; /* site: the owner */
} arrays;

NM_INLINE void lock_arrays(void) {
    while (NM_UNLIKELY(atomic_exchange_explicit(&arrays.locked, true, memory_order_acquire))) sched_yield();
}
NM_INLINE void unlock_arrays(void) { atomic_store_explicit(&arrays.locked, false, memory_order_release); }

static void before_fork(void) { lock_arrays(); }
static void in_parent(void) { unlock_arrays(); }

/* As long as there is neither an entry nor a thread that allocates from an owner, nobody is in a scope. */
static size_t entries; /* under the interpreter's lock */
static _Atomic size_t in_owners;
static void in_child(void) { /* without the other threads */
    atomic_store(&in_owners, nm__scope_now.owner != NULL);
    unlock_arrays();
}
static void nobody_is_in(void) {
    if (entries == 0 && atomic_load(&in_owners) == 0) nm__engine_look_for_scopes(false);
}

nm_budget *nm__owner_budget(const nm__owner *o) { return o->budget; }
void nm__owner_claim(nm__owner *o) { atomic_fetch_add(&o->arrays, 1); }
void nm__owner_let_go(nm__owner *o) { atomic_fetch_sub(&o->arrays, 1); }
atomic_bool *nm__owner_due(nm__owner *o) { return &o->due; }
atomic_bool *nm__owner_told(nm__owner *o) { return &o->told; }
bool nm__owner_asks(const nm__owner *o) { return o->asks; }

static bool is_done(const nm__owner *o) {
    return atomic_load(&o->arrays) == 0 && atomic_load(&o->inside) == 0 && nm__heap_held(o->heap) == 0;
}

/* What the calling thread allocates from; from then on it is found out anew when it changes. */
static void be_in(nm__owner *o) {
    nm__now *now = &nm__scope_now;
    if (o == now->owner) return;
    if (o != NULL) {
        atomic_fetch_add(&o->inside, 1);
        nm__arm_thread_end();
    }
    if (now->owner != NULL) {
        nm__overdraft_leave_owner(now->owner);
        atomic_fetch_sub(&now->owner->inside, 1);
    }
    if (now->owner == NULL) atomic_fetch_add(&in_owners, 1);
    else if (o == NULL) atomic_fetch_sub(&in_owners, 1);
    now->owner = o;
    now->heap = o == NULL ? NULL : o->heap;
    nm__heap_enter(nm__scope_heap(nm_engine_heap()));
}

static void thread_ends(void) {
    nm__now *now = &nm__scope_now;
    if (now->owner != NULL) {
        atomic_fetch_sub(&now->owner->inside, 1);
        atomic_fetch_sub(&in_owners, 1);
    }
    *now = (nm__now){.thread = NULL};
}

/* Its blocks from here on come from elsewhere; what is empty goes back. */
static void leave(nm__owner *o) {
    nm__now *now = &nm__scope_now;
    if (now->owner == o) be_in(NULL);
    now->thread = NULL; /* who runs may be in it still, from further out */
    nm__heap_detach(o->heap);
}

static void list_owner(nm__owner *o) {
    o->older = owners.newest;
    if (o->older != NULL) o->older->newer = o;
    owners.newest = o;
}

static void unlist_owner(nm__owner *o) {
    if (o->newer != NULL) o->newer->older = o->older;
    else owners.newest = o->older;
    if (o->older != NULL) o->older->newer = o->newer;
    nm__engine_add_census(&owners.past, o->heap);
}

void nm__scope_add_census(nm_census *sum) {
    nm__census_add(sum, &owners.past);
    for (const nm__owner *o = owners.newest; o != NULL; o = o->older) nm__engine_add_census(sum, o->heap);
}

static void destroy_owner(nm__owner *o) {
    unlist_owner(o);
    nm_heap_destroy(o->heap);
    Py_XDECREF(o->budgets_handle);
    PyMem_RawFree(o);
}

static void leave_behind(nm__owner *o) {
    o->next = NULL;
    *left.end = o;
    left.end = &o->next;
}

static void see_to_those_left(void) {
    for (int i = 0; i < A_FEW && left.first != NULL; i++) {
        nm__owner *o = left.first;
        left.first = o->next;
        if (left.first == NULL) left.end = &left.first;
        if (nm__scope_now.owner != o) nm__heap_detach(o->heap); /* what this thread keeps of it */
        if (is_done(o)) destroy_owner(o); /* runs no Python code but handles' */
        else leave_behind(o);
    }
}

static void owner_dealloc(OwnerObject *self) {
    nm__owner *o = self->owner;
    if (o != NULL) {
        leave(o);
        if (is_done(o)) destroy_owner(o);
        else leave_behind(o);
    }
    PyObject_Free(self);
}

static PyTypeObject Owner_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nativemem._dataplane.Owner",
    .tp_doc = "A budget's heap, to be entered.",
    .tp_basicsize = sizeof(OwnerObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)owner_dealloc,
};

PyObject *nm__scope_owner(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *handle;
    unsigned long long address;
    int asks;
    if (!PyArg_ParseTuple(args, "OKp", &handle, &address, &asks)) return NULL;
    if (nm_engine_heap() == NULL) {
        PyErr_SetString(PyExc_RuntimeError, "the engine's heap was not started");
        return NULL;
    }
    see_to_those_left();
    OwnerObject *self = PyObject_New(OwnerObject, &Owner_Type);
    if (self == NULL) return NULL;
    self->owner = NULL;
    nm__owner *o = PyMem_RawCalloc(1, sizeof *o);
    nm_budget *budget = (nm_budget *)(uintptr_t)address;
    nm_heap *heap = o == NULL || !nm__engine_use_scopes() ? NULL : nm__engine_own_heap(budget);
    if (heap == NULL) {
        PyMem_RawFree(o);
        Py_DECREF(self);
        return PyErr_NoMemory();
    }
    nm__heap_share(heap, nm_engine_budget());
    *o = (nm__owner){.heap = heap, .budget = budget, .budgets_handle = Py_NewRef(handle), .asks = asks != 0};
    list_owner(o);
    self->owner = o;
    return (PyObject *)self;
}

/* ---- entries ---------------------------------------------------------------------------------------- */

/* One `with`. The value of the variable is the innermost, or None. */
typedef struct EntryObject {
    PyObject_HEAD
    OwnerObject *owner;
    struct EntryObject *outer;
    PyFrameObject *frame; /* of the generator or coroutine that entered; NULL: a plain function did, for its context */
    PyObject *callers;    /* NULL, or a tuple of frames of generators and coroutines, the nearest first: see callers_of */
    struct EntryObject *newer, *older, **list; /* of those that have not ended; `list` NULL: it is in none */
    const void *item;     /* of the generator or coroutine that it was made in, or NULL: see item_of */
    struct EntryObject *stray; /* that it was made within, or NULL: see find_stray */
    PyObject *context;    /* that it was made in */
    PyObject *asleep;     /* NULL, or a tuple of outer ones whose generators did not run when it was made */
    bool ended;
    bool elsewhere; /* ended in another context: a copy of its own has it still */
    bool of_generators; /* this one or an outer one has been made by a generator or coroutine */
    uint64_t number; /* in the order in which all were made */
    bool of_with;   /* which ends it before its frame ends */
    bool roams;     /* a generator's or async generator's, which other contexts may resume */
    struct EntryObject *next; /* of those that have outlived their context */
} EntryObject;

static PyTypeObject Entry_Type;
static PyObject *variable;
static struct {
    PyObject *core, *owner, *make, *misuse, *of_modules;
} names;
PyObject *nm__scope_name_of_modules(void) { return names.of_modules; }
static PyInterpreterState *home; /* the interpreter whose variable it is */

/* Those that have not ended, the newest of each list first: by item; in the last list those that may come to be of
 * another one. */
#define LISTS 256
static EntryObject *open_entries[LISTS + 1];
static uint64_t entered;
nm__scopes nm__scope_all;

static EntryObject **list_of(const void *item) {
    return &open_entries[(((uintptr_t)item >> 4) * UINT64_C(0x9E3779B97F4A7C15)) >> 56];
}

static int entry_traverse(EntryObject *e, visitproc visit, void *arg) {
    Py_VISIT(e->owner);
    Py_VISIT(e->outer);
    Py_VISIT(e->frame);
    Py_VISIT(e->callers);
    Py_VISIT(e->stray);
    Py_VISIT(e->context);
    Py_VISIT(e->asleep);
    return 0;
}

static void list_entry(EntryObject *e) {
    Py_ssize_t frames = (e->frame != NULL) + (e->callers != NULL ? PyTuple_GET_SIZE(e->callers) : 0);
    e->list = frames > 1 ? &open_entries[LISTS] : list_of(e->item);
    e->newer = NULL;
    e->older = *e->list;
    if (e->older != NULL) e->older->newer = e;
    *e->list = e;
    if (e->roams) nm__scope_all.roaming++;
}

static void unlist_entry(EntryObject *e) {
    if (e->list == NULL) return;
    if (e->newer != NULL) e->newer->older = e->older;
    else *e->list = e->older;
    if (e->older != NULL) e->older->newer = e->newer;
    e->list = NULL;
    if (e->roams) nm__scope_all.roaming--;
}

static void entry_dealloc(EntryObject *e);

static PyTypeObject Entry_Type = {
    PyVarObject_HEAD_INIT(NULL, 0)
    .tp_name = "nativemem._dataplane.Entry",
    .tp_doc = "A budget that was entered.",
    .tp_basicsize = sizeof(EntryObject),
    .tp_flags = Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_GC | Py_TPFLAGS_DISALLOW_INSTANTIATION,
    .tp_dealloc = (destructor)entry_dealloc,
    .tp_traverse = (traverseproc)entry_traverse,
};

#define IS_GENERATOR (CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR)
#define ROAMS (CO_GENERATOR | CO_ASYNC_GENERATOR)

/* A thread has a stack of the exceptions that are being handled, and each generator that runs has its item there, the
 * innermost on top: so it tells which generators run in the thread. Items may be other extensions', whose generators
 * are not the interpreter's: their addresses are compared, nothing but the next item is read. */
#define EACH_RUNNING(item, thread)                                                  \
    const _PyErr_StackItem *item = (thread)->exc_info;                              \
    item != NULL && item->previous_item != NULL; /* the last is the thread's own */ \
    item = item->previous_item

/* How many generators run in this thread inside the frame's. SIZE_MAX: it does not run here. */
static size_t depth_of(PyFrameObject *f, const PyThreadState *thread) {
    const void *own = nm__insides_item_of(f);
    size_t depth = 0;
    for (EACH_RUNNING(item, thread)) {
        if (item == own) return depth;
        depth++;
    }
    return SIZE_MAX;
}

/* The generator or coroutine that an entry was made in, or, when that has ended, the nearest of those that it ran in:
 * the frame, borrowed, or NULL. */
static PyFrameObject *home_of(const EntryObject *e) {
    if (e->frame != NULL && nm__insides_item_of(e->frame) != NULL) return e->frame;
    for (Py_ssize_t i = 0; e->callers != NULL && i < PyTuple_GET_SIZE(e->callers); i++) {
        PyFrameObject *f = (PyFrameObject *)PyTuple_GET_ITEM(e->callers, i);
        if (nm__insides_item_of(f) != NULL) return f;
    }
    return NULL;
}

/* The frame that an entry counts with: when a generator or coroutine has ended with its scope open, what goes on in it
 * is the code that called. NULL: it counts in all of its context. */
static PyFrameObject *frame_of(const EntryObject *e) { return e->frame == NULL ? NULL : home_of(e); }

/* Those whose context is gone, but whose generator is not: it has the scope to leave yet. A few are looked at in turn. */
static struct {
    EntryObject *first, **end;
} orphans = {NULL, &orphans.first};

static void add_orphan(EntryObject *e) {
    e->next = NULL;
    *orphans.end = e;
    orphans.end = &e->next;
}

static void see_to_orphans(void) {
    for (int i = 0; i < A_FEW && orphans.first != NULL; i++) {
        EntryObject *e = orphans.first;
        orphans.first = e->next;
        if (orphans.first == NULL) orphans.end = &orphans.first;
        if (e->ended || home_of(e) == NULL) Py_DECREF(e);
        else add_orphan(e);
    }
}

static void entry_dealloc(EntryObject *e) {
    if (!e->ended && e->roams && e->list != NULL && home_of(e) != NULL) {
        Py_SET_REFCNT((PyObject *)e, 1); /* the list's; nothing else has it */
        add_orphan(e);
        Py_CLEAR(e->outer);
        return;
    }
    PyObject_GC_UnTrack(e);
    Py_TRASHCAN_BEGIN(e, entry_dealloc) /* each holds the next outer one */
        unlist_entry(e);
    Py_XDECREF(e->owner);
    Py_XDECREF(e->outer);
    Py_XDECREF(e->frame);
    Py_XDECREF(e->callers);
    Py_XDECREF(e->stray);
    Py_XDECREF(e->context);
    Py_XDECREF(e->asleep);
    PyObject_GC_Del(e);
    entries--;
    nobody_is_in();
    Py_TRASHCAN_END
}

/* Also when its generator is gone without having left it: one that yields when it is closed. */
static bool is_over(const EntryObject *e) {
    return e->ended || (e->of_with && e->frame != NULL && nm__insides_item_of(e->frame) == NULL);
}

static bool is_active(const EntryObject *e, const PyThreadState *thread) {
    if (e->context != thread->context) return !e->elsewhere; /* inherited */
    if (is_over(e)) return false;
    PyFrameObject *f = frame_of(e);
    return f == NULL || depth_of(f, thread) != SIZE_MAX;
}

/* Borrowed; NULL: none. Whoever copies a context by hand may have put something else there. */
static EntryObject *innermost(void) {
    PyObject *value = NULL;
    if (PyContextVar_Get(variable, NULL, &value) < 0) return NULL;
    Py_XDECREF(value); /* the context holds it */
    return value == NULL || !Py_IS_TYPE(value, &Entry_Type) ? NULL : (EntryObject *)value;
}

/* If it is of a generator that runs further in. */
static void take_if_inner(EntryObject *e, const PyThreadState *thread, EntryObject **inner, size_t *depth) {
    if (e->ended || e->context != thread->context) return;
    PyFrameObject *f = frame_of(e);
    size_t at = f == NULL ? SIZE_MAX : depth_of(f, thread);
    if (at >= *depth) return;
    *inner = e;
    *depth = at;
}

/* The newest that counts. But generators may have been resumed since it was made: within it, if it is the context's, and
 * they slept when it was made; if it is a generator's, within that. */
static EntryObject *find_in_context(const PyThreadState *thread, bool *unsettled) {
    EntryObject *e = innermost(), *inner = NULL;
    bool late = false; /* inherited when what stood there had ended: then so had those further out */
    *unsettled = false;
    for (; e != NULL; e = e->outer) {
        if (e->frame != NULL && !e->ended && e->context == thread->context) *unsettled = true;
        if (is_active(e, thread) && !(late && e->ended)) break;
        late = late || e->elsewhere;
    }
    if (e == NULL || e->context != thread->context) return e; /* where it is inherited, so are those further out */
    PyFrameObject *f = frame_of(e);
    size_t depth = f == NULL ? SIZE_MAX : depth_of(f, thread);
    if (f == NULL) {
        *unsettled = *unsettled || e->asleep != NULL;
        Py_ssize_t count = e->asleep == NULL || thread->exc_info->previous_item == NULL ? 0 : PyTuple_GET_SIZE(e->asleep);
        for (Py_ssize_t i = 0; i < count; i++)
            take_if_inner((EntryObject *)PyTuple_GET_ITEM(e->asleep, i), thread, &inner, &depth);
    } else
        for (EntryObject *o = e->outer; depth > 0 && o != NULL; o = o->outer) take_if_inner(o, thread, &inner, &depth);
    return inner != NULL ? inner : e;
}

/* What stands at the beginning of a context in 3.10 to 3.13. */
struct context_head {
    PyObject_HEAD
    PyObject *outer; /* the thread's context before it was entered */
};

static bool is_entered(const PyObject *context, const PyThreadState *thread) {
    const PyObject *each = thread->context;
    while (each != NULL && each != context) each = ((const struct context_head *)(const void *)each)->outer;
    return each != NULL;
}

/* How deep an entry's generator runs in this thread, if another context has resumed it; else SIZE_MAX, also where the
 * entry's own context has been left for another but for a while: who does that wants the other's owner. */
static size_t depth_of_stray(const EntryObject *e, const PyThreadState *thread) {
    PyFrameObject *f = e->roams && e->context != thread->context ? home_of(e) : NULL;
    return f != NULL && !is_entered(e->context, thread) ? depth_of(f, thread) : SIZE_MAX;
}

/* The innermost such entry. */
static EntryObject *find_stray(const PyThreadState *thread, size_t *depth) {
    EntryObject *stray = NULL;
    *depth = SIZE_MAX;
    for (EACH_RUNNING(item, thread)) {
        for (stray = *list_of(item); stray != NULL; stray = stray->older)
            if (stray->item == item && (*depth = depth_of_stray(stray, thread)) != SIZE_MAX) break;
        if (stray != NULL) break;
    }
    for (EntryObject *e = open_entries[LISTS]; e != NULL; e = e->older) {
        size_t at = depth_of_stray(e, thread);
        if (at > *depth || at == SIZE_MAX || (at == *depth && e->number < stray->number)) continue;
        stray = e;
        *depth = at;
    }
    return stray;
}

static EntryObject *find_active(const PyThreadState *thread, bool *unsettled) {
    EntryObject *e = find_in_context(thread, unsettled);
    size_t depth;
    EntryObject *stray = nm__scope_all.roaming == 0 ? NULL : find_stray(thread, &depth);
    if (stray == NULL || stray == e) return e;
    PyFrameObject *f = e == NULL || e->context != thread->context ? NULL : frame_of(e);
    size_t at = f != NULL ? depth_of(f, thread) : depth;
    return at < depth || (at == depth && e != NULL && e->stray == stray) ? e : stray;
}

/* Called in the middle of an allocation: nothing here allocates objects, sets an error or runs Python code. */
void nm__scope_find(PyThreadState *thread) {
    nm__now *now = &nm__scope_now;
    bool unsettled = false;
    if (now->aside) return;
    /* Another interpreter may have a thread state and a context version like ours; what the variable remembers by them is
     * not for it, and it may have a lock of its own. */
    bool at_home = PyThreadState_GetInterpreter(thread) == home, was_in = now->owner != NULL;
    EntryObject *e = at_home ? find_active(thread, &unsettled) : NULL;
    now->thread = thread;
    now->id = thread->id;
    now->version = thread->context_ver;
    now->unsettled = unsettled;
    now->running = thread->exc_info;
    now->elsewhere = nm__scope_all.elsewhere;
    be_in(e == NULL ? NULL : e->owner->owner);
    if (e == NULL && was_in && at_home) nobody_is_in();
}

static int flags_of(PyFrameObject *f) {
    PyCodeObject *code = PyFrame_GetCode(f);
    int flags = code->co_flags;
    Py_DECREF(code);
    return flags & IS_GENERATOR;
}

/* The frame of the Python function that called us, a new reference. NULL: no memory to find out, with the error set.
 * Asks for no memory where the frame is known already. */
static PyFrameObject *calling_frame(PyThreadState *thread) {
    PyFrameObject *f = PyThreadState_GetFrame(thread);
    if (f == NULL) PyErr_NoMemory();
    return f;
}

/* What an entry that `with` does not end with its frame may be left by later. Of a generator or coroutine: those that
 * it runs in, up to the first plain function; one of them goes on in the scope when it has ended. Of a plain function:
 * the innermost generator that it runs in, which may leave it when it is resumed in another context, with the coroutines
 * in between. A tuple, or None; NULL with an error set. *flags: of all. */
static PyObject *callers_of(PyFrameObject *f, int *flags) {
    PyObject *list = PyList_New(0), *tuple = NULL;
    bool is_plain = *flags == 0, goes_on = list != NULL;
    PyFrameObject *back = goes_on ? PyFrame_GetBack(f) : NULL;
    while (back != NULL) {
        int kind = flags_of(back);
        goes_on = kind != 0 ? PyList_Append(list, (PyObject *)back) == 0 && !(is_plain && (kind & ROAMS))
                            : is_plain && PyList_GET_SIZE(list) == 0;
        PyFrameObject *next = goes_on ? PyFrame_GetBack(back) : NULL;
        Py_DECREF(back);
        *flags |= kind;
        back = next;
    }
    bool is_needed = list != NULL && PyList_GET_SIZE(list) > 0 && (!is_plain || (*flags & ROAMS));
    if (!PyErr_Occurred()) tuple = is_needed ? PyList_AsTuple(list) : Py_NewRef(Py_None);
    Py_XDECREF(list);
    return tuple;
}

static PyObject *those_asleep(const EntryObject *outer, const PyThreadState *thread) {
    PyObject *list = NULL;
    for (const EntryObject *e = outer; e != NULL && e->of_generators; e = e->outer) {
        if (is_over(e) || e->context != thread->context || is_active(e, thread)) continue;
        if (list == NULL && (list = PyList_New(0)) == NULL) return NULL;
        if (PyList_Append(list, (PyObject *)e) < 0) {
            Py_DECREF(list);
            return NULL;
        }
    }
    PyObject *tuple = list == NULL ? Py_NewRef(Py_None) : PyList_AsTuple(list);
    Py_XDECREF(list);
    return tuple;
}

/* Before 3.12 a collection may run in the midst of it, and finalizers that set variables as well: the interpreter is not
 * made for that. */
static bool set_innermost(EntryObject *e) {
    int was_on = PyGC_Disable();
    PyObject *token = PyContextVar_Set(variable, e == NULL ? Py_None : (PyObject *)e);
    Py_XDECREF(token);
    if (was_on) PyGC_Enable();
    return token != NULL;
}

/* budget._core: a new reference; NULL with an error set. */
static PyObject *core_of(PyObject *budget) {
    if (PyInterpreterState_Get() == home) return PyObject_GetAttr(budget, names.core);
    PyErr_SetString(PyExc_RuntimeError, "only the interpreter that imported nativemem first has owners");
    return NULL;
}

/* budget._core._owner, made if need be: a new reference; NULL with an error set, as where the engine is off and it is to
 * be entered. Slots: to read them takes nothing. */
static PyObject *owner_of(PyObject *core, bool to_enter) {
    PyObject *owner = PyObject_GetAttr(core, names.owner);
    if (to_enter && (owner == Py_None || (owner != NULL && !nm__engine_is_on()))) {
        Py_DECREF(owner);
        owner = PyObject_CallMethodNoArgs(core, names.make);
    }
    if (owner == NULL || owner == Py_None || Py_IS_TYPE(owner, &Owner_Type)) return owner;
    Py_DECREF(owner);
    PyErr_SetString(PyExc_TypeError, "takes a budget");
    return NULL;
}

static bool enter(OwnerObject *owner, PyThreadState *thread) {
    PyFrameObject *frame = calling_frame(thread);
    if (frame == NULL) return false;
    int flags = flags_of(frame);
    bool is_plain = flags == 0, ends_first = nm__insides_is_at_with(frame);
    bool runs_in_none = thread->exc_info->previous_item == NULL;
    PyObject *callers = ends_first || runs_in_none ? Py_NewRef(Py_None) : callers_of(frame, &flags);
    if (is_plain) Py_CLEAR(frame);
    EntryObject *outer = (EntryObject *)Py_XNewRef((PyObject *)innermost());
    PyObject *asleep = callers == NULL ? NULL : !is_plain && ends_first ? Py_NewRef(Py_None) : those_asleep(outer, thread);
    EntryObject *e = asleep == NULL ? NULL : PyObject_GC_New(EntryObject, &Entry_Type);
    if (e == NULL) {
        Py_XDECREF(callers);
        Py_XDECREF(asleep);
        Py_XDECREF(outer);
        Py_XDECREF(frame);
        return false;
    }
    entries++;
    e->number = ++entered;
    nm__engine_look_for_scopes(true);
    if (asleep == Py_None) Py_CLEAR(asleep);
    if (callers == Py_None) Py_CLEAR(callers);
    size_t depth;
    e->stray = nm__scope_all.roaming == 0 ? NULL : (EntryObject *)Py_XNewRef((PyObject *)find_stray(thread, &depth));
    e->owner = (OwnerObject *)Py_NewRef(owner);
    e->outer = outer;
    e->frame = frame;
    e->callers = callers;
    e->item = home_of(e) == NULL ? NULL : nm__insides_item_of(home_of(e));
    e->context = NULL;
    e->asleep = asleep;
    e->ended = e->elsewhere = false;
    e->of_generators = e->frame != NULL || (outer != NULL && outer->of_generators);
    e->roams = (flags & ROAMS) != 0;
    e->of_with = ends_first;
    e->list = NULL;
    bool done = set_innermost(e);
    if (done) {
        e->context = Py_NewRef(thread->context);
        list_entry(e);
    }
    PyObject_GC_Track(e);
    Py_DECREF(e);
    if (done) nm__scope_find(thread);
    return done;
}

/* In C, as leaving is: an exception of a signal's handler, say, would else get between what has been done and `with`. */
static PyObject *scope_enter(PyObject *module, PyObject *budget) {
    (void)module;
    PyObject *core = core_of(budget), *owner = core == NULL ? NULL : owner_of(core, true);
    Py_XDECREF(core);
    if (owner == NULL) return NULL;
    bool done = owner == Py_None || enter((OwnerObject *)owner, PyThreadState_Get());
    Py_DECREF(owner);
    return done ? Py_NewRef(budget) : NULL;
}

/* What is wrong about leaving here. */
typedef enum Wrong { NOTHING, NOT_OPEN, BEFORE_ANOTHER, IN_ANOTHER_CONTEXT } Wrong;
typedef struct Misuse {
    Wrong kind;
    PyObject *context;    /* that it was entered in; a reference, as the next one */
    OwnerObject *another; /* that is left open inside */
    bool ended;
} Misuse;

static EntryObject *is_wrong(EntryObject *e, Wrong kind, const EntryObject *where, const EntryObject *another, Misuse *wrong) {
    wrong->kind = kind;
    wrong->context = where == NULL ? NULL : Py_XNewRef(where->context);
    wrong->another = another == NULL ? NULL : (OwnerObject *)Py_NewRef(another->owner);
    wrong->ended = e != NULL;
    return e;
}

/* Of those that the frame entered, whatever context that was in, the newest. */
static EntryObject *find_entered_by(PyFrameObject *frame, const OwnerObject *owner) {
    EntryObject *lists[] = {*list_of(nm__insides_item_of(frame)), open_entries[LISTS]};
    for (size_t i = 0; i < 2; i++)
        for (EntryObject *e = lists[i]; e != NULL; e = e->older)
            if (e->owner == owner && e->frame != NULL && frame_of(e) == frame) return e;
    return NULL;
}

/* Where no entry is this context's: one that was made within a generator that runs here, which another context has
 * resumed; else *open, one that this context inherited, or a context has that is left for this one for a while; and if
 * none of these either, NULL and any. */
static EntryObject *find_of_others(const OwnerObject *owner, const PyThreadState *thread, EntryObject **open) {
    for (size_t i = 0; i <= LISTS; i++)
        for (EntryObject *e = open_entries[i]; e != NULL; e = e->older) {
            if (e->owner != owner || is_over(e)) continue;
            PyFrameObject *f = home_of(e);
            bool may_leave = (e->frame != NULL && e->roams) || !is_entered(e->context, thread);
            if (f != NULL && may_leave && depth_of(f, thread) != SIZE_MAX) return e;
            if (*open == NULL || is_entered(e->context, thread)) *open = e;
        }
    for (EntryObject *e = innermost(); e != NULL; e = e->outer)
        if (e->owner == owner && e->context != thread->context && !e->elsewhere) {
            *open = e;
            return e;
        }
    return *open != NULL && is_entered((*open)->context, thread) ? *open : NULL;
}

/* The entry that leaving the owner's scope ends: the innermost that counts, or one that the frame that leaves has made
 * itself. Where another one is the innermost, or that is not this context's, leaving is wrong; the entry ends all the
 * same, wherever it is plain which one is meant. NULL: it is not. */
static EntryObject *entry_to_end(const OwnerObject *owner, PyFrameObject *frame, const PyThreadState *thread, Misuse *wrong) {
    bool unsettled;
    EntryObject *now = find_active(thread, &unsettled), *e = NULL, *open = NULL;
    bool is_ours = now != NULL && now->owner == owner &&
                   (now->context == thread->context || depth_of_stray(now, thread) != SIZE_MAX);
    if (frame != NULL && !(is_ours && frame_of(now) == frame)) e = find_entered_by(frame, owner);
    if (e != NULL && e->context != thread->context && depth_of_stray(e, thread) == SIZE_MAX) { /* it does not count here */
        /* a generator that was resumed here may leave; a coroutine has but one context, unless by hand */
        return e->roams || !is_entered(e->context, thread) ? e : is_wrong(e, IN_ANOTHER_CONTEXT, e, NULL, wrong);
    }
    if (is_ours) return now;
    if (e != NULL) return now == e || now == NULL ? e : is_wrong(e, BEFORE_ANOTHER, NULL, now, wrong);

    EntryObject *asleep = NULL;
    bool is_inner = false, inner_of_asleep = false;
    for (e = innermost(); e != NULL; e = e->outer) {
        is_inner = is_inner || e == now;
        if (e->owner != owner || is_over(e) || e->context != thread->context) continue;
        if (is_active(e, thread)) return is_wrong(e, BEFORE_ANOTHER, NULL, now, wrong);
        if (asleep != NULL) continue;
        asleep = e;
        inner_of_asleep = is_inner;
    }
    if (asleep != NULL) return inner_of_asleep ? is_wrong(asleep, BEFORE_ANOTHER, NULL, now, wrong) : asleep;
    e = find_of_others(owner, thread, &open);
    if (e != NULL && e != open) return e;
    return is_wrong(e, open != NULL ? IN_ANOTHER_CONTEXT : NOT_OPEN, open, NULL, wrong);
}

/* Those that ended before ones further in did would else stay as long as these. */
static void drop_ended(EntryObject *top, const PyThreadState *thread) {
    for (EntryObject *e = top; e != NULL && e->context == thread->context; e = e->outer)
        for (EntryObject *o = e->outer; o != NULL && is_over(o) && o->context == thread->context; o = e->outer) {
            e->outer = (EntryObject *)Py_XNewRef((PyObject *)o->outer);
            Py_DECREF(o);
        }
}

static bool end_entry(EntryObject *e, PyThreadState *thread) {
    if (!e->ended) e->elsewhere = e->context != thread->context;
    if (e->elsewhere) nm__scope_all.elsewhere++;
    e->ended = true;
    unlist_entry(e);
    EntryObject *top = innermost(), *before = top;
    /* one that another context has ended is still inherited here */
    while (top != NULL && (top == e || (is_over(top) && top->context == thread->context))) top = top->outer;
    drop_ended(top, thread);
    return top == before || set_innermost(top);
}

/* Whatever is needed to leave must not be refused by the very budget that is full. */
static bool leave_scope(OwnerObject *owner, PyThreadState *thread, Misuse *wrong) {
    int was_on = PyGC_Disable();
    nm__scope_now.aside = true;
    be_in(NULL);
    PyFrameObject *frame = calling_frame(thread);
    if (frame == NULL) PyErr_Clear(); /* as if a plain function left it */
    else if (flags_of(frame) == 0) Py_CLEAR(frame);
    EntryObject *e = entry_to_end(owner, frame, thread, wrong);
    Py_XDECREF(frame); /* whoever runs in it holds it */
    PyObject *held[4] = {NULL, NULL, NULL, NULL};
    bool done = true;
    if (e != NULL) {
        /* The frames would keep what the variables hold, and an entry stays until those inside have ended. */
        held[0] = (PyObject *)e->frame, e->frame = NULL;
        held[1] = e->callers, e->callers = NULL;
        held[2] = (PyObject *)e->stray, e->stray = NULL;
        held[3] = e->asleep, e->asleep = NULL;
        done = end_entry(e, thread);
    }
    nm__scope_now.aside = false;
    if (was_on) PyGC_Enable();
    leave(owner->owner);
    nm__scope_find(thread);
    nobody_is_in();
    if (done) see_to_those_left();
    see_to_orphans();
    for (int i = 0; i < 4; i++) Py_XDECREF(held[i]); /* may run code */
    return done;
}

/* core.misuse(kind, address of the other's budget, both contexts, ended, exception): it raises. */
static void raise_misuse(PyObject *core, Misuse *wrong, PyObject *exception) {
    PyObject *kind = PyLong_FromLong(wrong->kind), *here = PyThreadState_Get()->context;
    PyObject *contexts = PyTuple_Pack(2, wrong->context != NULL ? wrong->context : Py_None, here != NULL ? here : Py_None);
    PyObject *another = PyLong_FromVoidPtr(wrong->another == NULL ? NULL : (void *)wrong->another->owner->budget);
    PyObject *ended = wrong->ended ? Py_True : Py_False;
    if (kind != NULL && contexts != NULL && another != NULL)
        Py_XDECREF(PyObject_CallMethodObjArgs(core, names.misuse, kind, another, contexts, ended, exception, NULL));
    Py_XDECREF(contexts);
    Py_XDECREF(another);
    Py_XDECREF(kind);
}

static PyObject *scope_exit(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count < 1) return PyErr_Format(PyExc_TypeError, "takes a budget");
    PyObject *core = core_of(args[0]), *owner = core == NULL ? NULL : owner_of(core, false);
    Misuse wrong = {NOTHING, NULL, NULL, false};
    bool done = owner != NULL, due = done && owner != Py_None && nm__overdraft_is_due(((OwnerObject *)owner)->owner);
    if (owner == Py_None) (void)is_wrong(NULL, NOT_OPEN, NULL, NULL, &wrong);
    else if (done) done = leave_scope((OwnerObject *)owner, PyThreadState_Get(), &wrong);
    if (done && wrong.kind != NOTHING) {
        raise_misuse(core, &wrong, count > 2 ? args[2] : Py_None);
        done = false;
    }
    Py_XDECREF(wrong.another);
    Py_XDECREF(wrong.context);
    Py_XDECREF(owner);
    Py_XDECREF(core);
    if (done && due && (count < 2 || args[1] == Py_None))
        return PyErr_NoMemory(); /* else the block ends with an error anyway */
    return done ? Py_NewRef(Py_None) : NULL;
}

/* Calls it with nobody charged, in a context of its own. */
int nm__scope_without(int (*call)(void)) {
    nm__now *now = &nm__scope_now;
    if (variable == NULL || now->aside || PyInterpreterState_Get() != home) return call();
    int was_on = PyGC_Disable(), result = -1;
    now->aside = true;
    be_in(NULL);
    PyObject *context = PyContext_CopyCurrent();
    bool entered = context != NULL && PyContext_Enter(context) == 0, ready = entered && set_innermost(NULL);
    now->aside = false;
    now->thread = NULL;
    if (was_on) PyGC_Enable();
    if (ready) result = call();
    if (entered) (void)PyContext_Exit(context);
    Py_XDECREF(context);
    now->thread = NULL;
    return result;
}

/* Runs a callable at no owner's charge. */
static NM_TLS PyObject *scope_aside_call, *scope_aside_result;

static int scope_call_aside(void) {
    scope_aside_result = PyObject_CallNoArgs(scope_aside_call);
    return scope_aside_result == NULL ? -1 : 0;
}

PyObject *nm__scope_aside(PyObject *module, PyObject *call) {
    (void)module;
    PyObject *before = scope_aside_call, *result = NULL;
    scope_aside_call = call;
    if (nm__scope_without(scope_call_aside) == 0) result = scope_aside_result;
    scope_aside_call = before;
    return result;
}

/* The owner that is charged now, or None. */
PyObject *nm__scope_current(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    bool unsettled;
    EntryObject *e = PyInterpreterState_Get() != home ? NULL : find_active(PyThreadState_Get(), &unsettled);
    return Py_NewRef(e == NULL ? Py_None : (PyObject *)e->owner);
}

/* ---- arrays ----------------------------------------------------------------------------------------- */

static void credit(nm__owner *o, size_t bytes) { (void)nm_budget_release(o->budget, bytes); }

static bool charge(nm__owner *o, size_t bytes) { return nm_budget_charge(o->budget, bytes); }

/* Room in the table, and a claim on the owner. */
static bool promise(nm__owner *o) {
    lock_arrays();
    bool promised = nm__sites_promise(&arrays.table);
    unlock_arrays();
    if (promised) atomic_fetch_add(&o->arrays, 1);
    return promised;
}

static void let_go(nm__owner *o) { atomic_fetch_sub(&o->arrays, 1); }

static void keep_promise(nm__owner *o, void *ptr, size_t bytes) {
    lock_arrays();
    if (ptr != NULL) nm__sites_add(&arrays.table, (nm__site){ptr, bytes, (uintptr_t)o});
    else nm__sites_forget_promise(&arrays.table);
    unlock_arrays();
    if (ptr == NULL) let_go(o);
}

bool nm__scope_charge_array(size_t bytes) { return charge(nm__scope_now.owner, bytes); }

void nm__scope_credit_array(size_t bytes) { credit(nm__scope_now.owner, bytes); }

bool nm__scope_know_array(void *ptr, size_t bytes) {
    nm__owner *o = nm__scope_now.owner;
    lock_arrays();
    bool promised = nm__sites_promise(&arrays.table);
    if (promised) nm__sites_add(&arrays.table, (nm__site){ptr, bytes, (uintptr_t)o});
    unlock_arrays();
    if (promised) atomic_fetch_add(&o->arrays, 1);
    return promised;
}

/* site 0: not known. */
static nm__site take(void *ptr) {
    nm__site known = {NULL, 0, 0};
    lock_arrays();
    nm__site *found = nm__sites_find(&arrays.table, ptr);
    if (found != NULL) {
        known = nm__sites_take(&arrays.table, found);
        nm__sites_forget_promise(&arrays.table);
    }
    unlock_arrays();
    return known;
}

void nm__scope_forget_array(void *ptr) {
    nm__site known = take(ptr);
    nm__owner *o = (nm__owner *)known.site;
    if (o == NULL) return;
    credit(o, known.size);
    let_go(o);
}

PyObject *nm__scope_array_budget(PyObject *module, PyObject *address) {
    (void)module;
    const void *ptr = PyLong_AsVoidPtr(address);
    if (ptr == NULL && PyErr_Occurred()) return NULL;
    lock_arrays();
    const nm__site *found = nm__sites_find(&arrays.table, ptr);
    void *budget = found == NULL ? NULL : ((nm__owner *)found->site)->budget;
    unlock_arrays();
    return PyLong_FromVoidPtr(budget);
}

/* Grown or shrunk in one owner's hands only the difference counts: what is full may still shrink. */
bool nm__scope_recharge_array(void *ptr, size_t bytes, nm__recharge *change) {
    lock_arrays();
    const nm__site *found = nm__sites_find(&arrays.table, ptr);
    nm__site known = found == NULL ? (nm__site){NULL, 0, 0} : *found;
    unlock_arrays();
    nm__owner *owner = nm__scope_now.owner, *before = (nm__owner *)known.site;
    size_t more = owner == NULL ? 0 : owner != before ? bytes : bytes > known.size ? bytes - known.size : 0;
    *change = (nm__recharge){owner, before, bytes, known.size, more};
    if (owner == NULL) return true;
    if (more != 0 && !charge(owner, more)) return false;
    if (promise(owner)) return true;
    credit(owner, more);
    return false;
}

void nm__scope_moved_array(const nm__recharge *change, void *ptr, void *moved) {
    nm__owner *owner = change->owner, *before = change->before;
    if (moved == NULL) {
        if (owner == NULL) return;
        credit(owner, change->more);
        keep_promise(owner, NULL, 0);
        return;
    }
    if (before != NULL) {
        (void)take(ptr);
        if (before != owner) credit(before, change->had);
        else if (change->had > change->bytes) credit(before, change->had - change->bytes);
        let_go(before);
    }
    if (owner != NULL) keep_promise(owner, moved, change->bytes);
}

/* ---- life ------------------------------------------------------------------------------------------- */

static bool add_method(PyObject *module, PyMethodDef *method) {
    PyObject *function = PyCFunction_New(method, NULL);
    PyObject *bound = function == NULL ? NULL : PyInstanceMethod_New(function);
    Py_XDECREF(function);
    if (bound != NULL && PyModule_AddObject(module, method->ml_name, bound) == 0) return true;
    Py_XDECREF(bound);
    return false;
}

int nm__scope_ready(PyObject *module) {
    static PyMethodDef enter_method = {"scope_enter", scope_enter, METH_O, "Begins a scope of the budget."};
    static PyMethodDef exit_method = {"scope_exit", (PyCFunction)(void (*)(void))scope_exit, METH_FASTCALL,
                                      "Ends the scope that scope_enter began."};
    if (!add_method(module, &enter_method) || !add_method(module, &exit_method)) return -1;
    if (PyType_Ready(&Owner_Type) < 0 || PyType_Ready(&Entry_Type) < 0) return -1;
    if (variable != NULL) return 0;
    names.core = PyUnicode_InternFromString("_core");
    names.owner = PyUnicode_InternFromString("_owner");
    names.make = PyUnicode_InternFromString("owner");
    names.misuse = PyUnicode_InternFromString("misuse");
    names.of_modules = PyUnicode_InternFromString("__name__");
    if (names.core == NULL || names.owner == NULL || names.make == NULL || names.misuse == NULL || names.of_modules == NULL)
        return -1;
    variable = PyContextVar_New("nativemem owner", NULL);
    if (variable == NULL) return -1;
    home = PyInterpreterState_Get();
    nm__at_thread_end(thread_ends);
    (void)pthread_atfork(before_fork, in_parent, in_child);
    return 0;
}
