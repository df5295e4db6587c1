#include "python/scopes.h" /* first: Python.h wants to be */

#include "python/engine.h"
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
    _Atomic size_t arrays;    /* how many are charged to it */
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
    if (now->owner != NULL) atomic_fetch_sub(&now->owner->inside, 1);
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
    nm__heap_leave(o->heap);
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
        if (nm__scope_now.owner != o) nm__heap_leave(o->heap); /* what this thread keeps of it */
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
    if (!PyArg_ParseTuple(args, "OK", &handle, &address)) return NULL;
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
    *o = (nm__owner){.heap = heap, .budget = budget, .budgets_handle = Py_NewRef(handle)};
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
    PyFrameObject *frame; /* of the generator or coroutine that made it, as long as it has not ended; or NULL */
    struct EntryObject *newer, *older; /* of all that have a frame */
    PyObject *context;    /* that it was made in */
    PyObject *asleep;     /* NULL, or a tuple of outer ones whose generators were not running when it was made */
    bool ended;
    bool elsewhere; /* ended by its generator in another context: whoever copies its own finds it still */
    bool of_generators; /* this one or an outer one has been made by a generator or coroutine */
} EntryObject;

static PyTypeObject Entry_Type;
static EntryObject *newest; /* that has a frame */
static PyObject *variable;
static struct {
    PyObject *core, *owner, *make;
} names;
static PyInterpreterState *home; /* the interpreter whose variable it is */

static int entry_traverse(EntryObject *e, visitproc visit, void *arg) {
    Py_VISIT(e->owner);
    Py_VISIT(e->outer);
    Py_VISIT(e->frame);
    Py_VISIT(e->context);
    Py_VISIT(e->asleep);
    return 0;
}

static void list_entry(EntryObject *e) {
    e->newer = NULL;
    e->older = newest;
    if (newest != NULL) newest->newer = e;
    newest = e;
}

static void forget_frame(EntryObject *e) {
    if (e->frame == NULL) return;
    if (e->newer != NULL) e->newer->older = e->older;
    else newest = e->older;
    if (e->older != NULL) e->older->newer = e->newer;
    Py_CLEAR(e->frame);
}

/* The frame would keep what the generator's variables hold, and outer entries stay until the inner ones have ended. */
static void end_entry(EntryObject *e) {
    e->ended = true;
    forget_frame(e);
}

static void entry_dealloc(EntryObject *e) {
    PyObject_GC_UnTrack(e);
    Py_TRASHCAN_BEGIN(e, entry_dealloc) /* each holds the next outer one */
    Py_XDECREF(e->owner);
    Py_XDECREF(e->outer);
    forget_frame(e);
    Py_XDECREF(e->context);
    Py_XDECREF(e->asleep);
    PyObject_GC_Del(e);
    entries--;
    nobody_is_in();
    Py_TRASHCAN_END
}

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

#if PY_VERSION_HEX >= 0x030E0000
#error "where CPython keeps the state of a generator is known up to 3.13; USE_NATIVE_MEM=0 builds the pure backend"
#elif PY_VERSION_HEX < 0x030B0000
static bool is_running(PyFrameObject *f) { return f->f_state == FRAME_EXECUTING || f->f_state == FRAME_UNWINDING; }
#else
/* What stands at the beginning of a frame object in 3.11 to 3.13. */
struct frame_head {
    PyObject_HEAD
    PyFrameObject *f_back;
    char *f_frame; /* the frame itself: in the generator, or in the object once the generator is done with it */
};

static bool is_running(PyFrameObject *f) {
    const char *frame = ((struct frame_head *)(void *)f)->f_frame, *object = (char *)f;
    if (frame >= object && frame < object + Py_TYPE(f)->tp_basicsize) return false;
    const PyGenObject *generator = (const void *)(frame - offsetof(PyGenObject, gi_iframe));
    return generator->gi_frame_state == 0; /* FRAME_EXECUTING */
}
#endif

static bool is_active(const EntryObject *e, const PyThreadState *thread) {
    if (e->context != thread->context) return !e->elsewhere; /* inherited */
    return !e->ended && (e->frame == NULL || is_running(e->frame));
}

/* Borrowed; NULL: none. Whoever copies a context by hand may have put something else there. */
static EntryObject *innermost(void) {
    PyObject *value = NULL;
    if (PyContextVar_Get(variable, NULL, &value) < 0) return NULL;
    Py_XDECREF(value); /* the context holds it */
    return value == NULL || !Py_IS_TYPE(value, &Entry_Type) ? NULL : (EntryObject *)value;
}

static EntryObject *find_active(PyThreadState *thread, bool *unsettled) {
    EntryObject *e = innermost();
    bool late = false; /* inherited when what stood there had ended: then so had those further out */
    *unsettled = false;
    for (; e != NULL; e = e->outer) {
        if (e->frame != NULL && e->context == thread->context) *unsettled = true;
        if (is_active(e, thread) && !(late && e->ended)) break;
        late = late || e->elsewhere;
    }
    for (Py_ssize_t i = 0; e != NULL && e->asleep != NULL && i < PyTuple_GET_SIZE(e->asleep);) {
        EntryObject *other = (EntryObject *)PyTuple_GET_ITEM(e->asleep, i++);
        if (other->ended || other->context != thread->context) continue; /* where both are inherited e is the inner one */
        *unsettled = true;
        if (!is_active(other, thread)) continue;
        e = other; /* it has been resumed within e */
        i = 0;
    }
    return e;
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
    be_in(e == NULL ? NULL : e->owner->owner);
    if (e == NULL && was_in && at_home) nobody_is_in();
}

/* The frame of the Python function that called us, if it is a generator's or coroutine's: a new reference, or NULL.
 * false: no memory to find out, with the error set. Asks for no memory where the frame is known already. */
static bool callers_frame(PyThreadState *thread, PyFrameObject **caller) {
    *caller = PyThreadState_GetFrame(thread);
    if (*caller == NULL) {
        PyErr_NoMemory();
        return false;
    }
    PyCodeObject *code = PyFrame_GetCode(*caller);
    bool of_a_generator = (code->co_flags & IS_GENERATOR) != 0;
    Py_DECREF(code);
    if (!of_a_generator) Py_CLEAR(*caller);
    return true;
}

static PyObject *those_asleep(const EntryObject *outer, const PyThreadState *thread) {
    PyObject *list = NULL;
    for (const EntryObject *e = outer; e != NULL && e->of_generators; e = e->outer) {
        if (e->frame == NULL || e->context != thread->context || e->ended || is_running(e->frame)) continue;
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

/* budget._core._owner, made if need be: a new reference; NULL with an error set, as where the engine is off and it is to
 * be entered. Slots: to read them takes nothing. */
static PyObject *owner_of(PyObject *budget, bool to_enter) {
    if (PyInterpreterState_Get() != home) {
        PyErr_SetString(PyExc_RuntimeError, "only the interpreter that imported nativemem first has owners");
        return NULL;
    }
    PyObject *core = PyObject_GetAttr(budget, names.core);
    PyObject *owner = core == NULL ? NULL : PyObject_GetAttr(core, names.owner);
    if (owner == Py_None || (owner != NULL && to_enter && !nm__engine_is_on())) {
        Py_DECREF(owner);
        owner = PyObject_CallMethodNoArgs(core, names.make);
    }
    Py_XDECREF(core);
    if (owner == NULL || owner == Py_None || Py_IS_TYPE(owner, &Owner_Type)) return owner;
    Py_DECREF(owner);
    PyErr_SetString(PyExc_TypeError, "takes a budget");
    return NULL;
}

static bool enter(OwnerObject *owner, PyThreadState *thread) {
    PyFrameObject *frame;
    if (!callers_frame(thread, &frame)) return false;
    EntryObject *outer = (EntryObject *)Py_XNewRef((PyObject *)innermost());
    PyObject *asleep = those_asleep(outer, thread);
    EntryObject *e = asleep == NULL ? NULL : PyObject_GC_New(EntryObject, &Entry_Type);
    if (e == NULL) {
        Py_XDECREF(asleep);
        Py_XDECREF(outer);
        Py_XDECREF(frame);
        return false;
    }
    entries++;
    nm__engine_look_for_scopes(true);
    if (asleep == Py_None) Py_CLEAR(asleep);
    e->owner = (OwnerObject *)Py_NewRef(owner);
    e->outer = outer;
    e->frame = frame;
    if (frame != NULL) list_entry(e);
    e->context = NULL;
    e->asleep = asleep;
    e->ended = e->elsewhere = false;
    e->of_generators = e->frame != NULL || (outer != NULL && outer->of_generators);
    bool done = set_innermost(e);
    if (done) e->context = Py_NewRef(thread->context);
    PyObject_GC_Track(e);
    Py_DECREF(e);
    if (done) nm__scope_find(thread);
    return done;
}

/* In C, as leaving is: an exception of a signal's handler, say, would else get between what has been done and `with`. */
static PyObject *scope_enter(PyObject *module, PyObject *budget) {
    (void)module;
    PyObject *owner = owner_of(budget, true);
    if (owner == NULL) return NULL;
    bool done = owner == Py_None || enter((OwnerObject *)owner, PyThreadState_Get());
    Py_DECREF(owner);
    return done ? Py_NewRef(budget) : NULL;
}

/* The innermost of the owner's that the calling frame made, or, for one that is no generator's, that no generator did.
 * A generator may have made it in another context. Without memory to know the frame: the innermost that counts. */
static EntryObject *entry_to_end(const OwnerObject *owner, const PyFrameObject *frame, bool known,
                                 const PyThreadState *thread) {
    for (EntryObject *e = innermost(); e != NULL; e = e->outer)
        if (e->owner == owner && !e->ended && (known ? e->frame == frame : is_active(e, thread))) return e;
    for (EntryObject *e = frame == NULL ? NULL : newest; e != NULL; e = e->older)
        if (e->owner == owner && e->frame == frame) return e;
    return NULL;
}

static bool end_innermost(OwnerObject *owner, PyThreadState *thread) {
    PyFrameObject *frame;
    bool known = callers_frame(thread, &frame);
    if (!known) PyErr_Clear();
    EntryObject *e = entry_to_end(owner, frame, known, thread);
    Py_XDECREF(frame); /* whoever runs in it holds it */
    if (e == NULL) return true; /* made in a context that is not this one, nor one that this was copied from */
    e->elsewhere = frame != NULL && e->context != thread->context;
    end_entry(e);
    EntryObject *top = innermost(), *before = top;
    /* one that another context has ended is still inherited here */
    while (top != NULL && (top == e || (top->ended && top->context == thread->context))) top = top->outer;
    return top == before || set_innermost(top);
}

/* Whatever is needed to leave must not be refused by the very budget that is full. */
static bool leave_scope(OwnerObject *owner, PyThreadState *thread) {
    int was_on = PyGC_Disable();
    nm__scope_now.aside = true;
    be_in(NULL);
    bool done = end_innermost(owner, thread);
    nm__scope_now.aside = false;
    if (was_on) PyGC_Enable();
    leave(owner->owner);
    nm__scope_find(thread);
    nobody_is_in();
    if (done) see_to_those_left();
    return done;
}

static PyObject *scope_exit(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    if (count < 1) return PyErr_Format(PyExc_TypeError, "takes a budget");
    PyObject *owner = owner_of(args[0], false);
    if (owner == NULL) return NULL;
    bool done = owner == Py_None || leave_scope((OwnerObject *)owner, PyThreadState_Get());
    Py_DECREF(owner);
    if (!done) return NULL;
    Py_RETURN_NONE;
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

/* The owner that is charged now, or None. */
PyObject *nm__scope_current(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    bool unsettled;
    EntryObject *e = PyInterpreterState_Get() != home ? NULL : find_active(PyThreadState_Get(), &unsettled);
    return Py_NewRef(e == NULL ? Py_None : (PyObject *)e->owner);
}

/* ---- arrays ----------------------------------------------------------------------------------------- */

static void credit(nm__owner *o, size_t bytes) {
    (void)nm_budget_release(o->budget, bytes);
    nm__budget_close_reserves(o->budget);
}

static bool charge(nm__owner *o, size_t bytes) {
    if (nm_budget_charge(o->budget, bytes)) return true;
    nm__budget_open_reserves(o->budget);
    return false;
}

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
    if (names.core == NULL || names.owner == NULL || names.make == NULL) return -1;
    variable = PyContextVar_New("nativemem owner", NULL);
    if (variable == NULL) return -1;
    home = PyInterpreterState_Get();
    nm__at_thread_end(thread_ends);
    (void)pthread_atfork(before_fork, in_parent, in_child);
    return 0;
}
