#include "engine/scopes.h" /* first: Python.h wants to be */

#include "engine/active.h"
#include "engine/denials.h"
#include "engine/engine.h"
#include "engine/insides.h"

#if PY_VERSION_HEX < 0x030B0000
#include <frameobject.h>
#endif
#if PY_VERSION_HEX < 0x030C0000
#include <structmember.h>
#define Py_T_OBJECT_EX T_OBJECT_EX
#endif

static struct {
    PyObject *core, *owner, *make, *misuse;
} scope_names;

/* A slot of the budget's class or its core's, as it was met first: they are read at each entry and each exit. */
typedef struct ScopeSlot {
    PyMemberDescrObject *member; /* NULL: none was met */
    PyTypeObject *class_;        /* it was met in; classes below that which has the member have it, too */
} ScopeSlot;
static ScopeSlot scope_core_slot, scope_owner_slot;

#define SCOPE_GENERATOR (CO_GENERATOR | CO_COROUTINE | CO_ASYNC_GENERATOR)

#define SCOPE_ROAMS (CO_GENERATOR | CO_ASYNC_GENERATOR)

/* Which generators run in a thread is read from their frames. Where other threads run at the same time theirs change under the
 * reader: there a scope is of its context alone, and generators, which leave their context to their callers, enter none. */
#ifdef Py_GIL_DISABLED
#define SCOPE_READS_FRAMES false
#else
#define SCOPE_READS_FRAMES true
#endif

static int scope_flags_of(PyFrameObject *f) {
    PyCodeObject *code = PyFrame_GetCode(f);
    int flags = code->co_flags;
    Py_DECREF(code);
    return flags & SCOPE_GENERATOR;
}

/* What an entry that `with` does not end with its frame may be left by later. Of a generator or coroutine: those that
 * it runs in, up to the first plain function; one of them goes on in the scope when it has ended. Of a plain function:
 * the innermost generator that it runs in, which may leave it when it is resumed in another context, with the coroutines
 * in between. *callers: a tuple, or as it was; *flags: of all. false with an error set. */
static bool scope_find_callers(PyFrameObject *f, int *flags, PyObject **callers) {
    PyObject *list = PyList_New(0);
    bool is_plain = *flags == 0, goes_on = list != NULL;
    PyFrameObject *back = goes_on ? PyFrame_GetBack(f) : NULL;
    while (back != NULL) {
        int kind = scope_flags_of(back);
        goes_on = kind != 0 ? PyList_Append(list, (PyObject *)back) == 0 && !(is_plain && (kind & SCOPE_ROAMS))
                            : is_plain && PyList_GET_SIZE(list) == 0;
        PyFrameObject *next = goes_on ? PyFrame_GetBack(back) : NULL;
        Py_DECREF(back);
        *flags |= kind;
        back = next;
    }
    bool is_needed = list != NULL && PyList_GET_SIZE(list) > 0 && (!is_plain || (*flags & SCOPE_ROAMS));
    if (is_needed && !PyErr_Occurred()) *callers = PyList_AsTuple(list);
    Py_XDECREF(list);
    return !PyErr_Occurred();
}

/* *asleep: a tuple, or as it was. false with an error set. */
static bool scope_find_asleep(const EntryObject *outer, const PyThreadState *thread, PyObject **asleep) {
    PyObject *list = NULL;
    bool done = true;
    for (const EntryObject *e = outer; done && e != NULL && e->of_generators; e = e->outer) {
        if (nm__entry_is_over(e) || e->context != thread->context || nm__entry_is_active(e, thread)) continue;
        if (list == NULL) list = PyList_New(0);
        done = list != NULL && PyList_Append(list, (PyObject *)e) == 0;
    }
    if (done && list != NULL) done = (*asleep = PyList_AsTuple(list)) != NULL;
    Py_XDECREF(list);
    return done;
}

/* As PyObject_GetAttr: of a slot without a search, where no other thread can change it meanwhile. */
#ifdef Py_GIL_DISABLED
static PyObject *scope_read(PyObject *object, PyObject *name, ScopeSlot *slot) {
    return (void)slot, PyObject_GetAttr(object, name);
}
#else
/* The class's slot of that name, a new reference; NULL: it has none. */
static PyMemberDescrObject *scope_slot_of(PyTypeObject *class_, PyObject *name) {
    PyMemberDescrObject *found = (PyMemberDescrObject *)PyObject_GetAttr((PyObject *)class_, name);
    if (found == NULL) PyErr_Clear();
    else if (!Py_IS_TYPE((PyObject *)found, &PyMemberDescr_Type) || found->d_member->type != Py_T_OBJECT_EX) Py_CLEAR(found);
    return found;
}

static PyObject *scope_read(PyObject *object, PyObject *name, ScopeSlot *slot) {
    if (slot->member == NULL && (slot->member = scope_slot_of(Py_TYPE(object), name)) != NULL)
        slot->class_ = (PyTypeObject *)Py_NewRef((PyObject *)Py_TYPE(object));
    PyObject *value = NULL;
    if (Py_TYPE(object) == slot->class_ || (slot->member != NULL && PyObject_TypeCheck(object, PyDescr_TYPE(slot->member))))
        value = *(PyObject **)((char *)object + slot->member->d_member->offset);
    return value != NULL ? Py_NewRef(value) : PyObject_GetAttr(object, name);
}
#endif

/* budget._core: a new reference; NULL with an error set. */
static PyObject *scope_core_of(PyObject *budget, PyThreadState *thread) {
    if (PyThreadState_GetInterpreter(thread) == nm__scope_home) return scope_read(budget, scope_names.core, &scope_core_slot);
    PyErr_SetString(PyExc_RuntimeError, "only the interpreter that imported nativemem first has owners");
    return NULL;
}

/* budget._core._owner, made if need be: a new reference; NULL with an error set, as where the engine is off and it is to
 * be entered. Slots: to read them takes nothing. */
static PyObject *scope_owner_of(PyObject *core, bool to_enter) {
    PyObject *owner = scope_read(core, scope_names.owner, &scope_owner_slot);
    if (to_enter && (owner == Py_None || (owner != NULL && !nm__engine_is_on()))) {
        Py_DECREF(owner);
        owner = PyObject_CallMethodNoArgs(core, scope_names.make);
    }
    if (owner == NULL || owner == Py_None || Py_IS_TYPE(owner, &nm__owner_type)) return owner;
    Py_DECREF(owner);
    PyErr_SetString(PyExc_TypeError, "takes a budget");
    return NULL;
}

/* What the entry itself takes is no owner's: it comes and goes while none is entered, and what a scope holds is what its code
 * has allocated. */
static int scope_step_aside(void) {
    int was_on = nm__collections_stop();
    nm__charge_now.aside = true;
    nm__owner_enter(NULL);
    return was_on;
}

static void scope_step_back(int was_on) {
    nm__charge_now.aside = false;
    nm__collections_go_on(was_on);
}

/* An entry of another context may go as soon as it is no longer the thread's turn, and one of this context with the variable's
 * value, which may be all that has it. */
#ifdef Py_GIL_DISABLED
static void scope_share(EntryObject *e) { PyUnstable_EnableTryIncRef((PyObject *)e); } /* before another thread knows it */
static EntryObject *scope_hold(EntryObject *e) { /* NULL: it is going */
    return e != NULL && PyUnstable_TryIncRef((PyObject *)e) ? e : NULL;
}
#else
static void scope_share(EntryObject *e) { (void)e; }
static EntryObject *scope_hold(EntryObject *e) { return (EntryObject *)Py_XNewRef((PyObject *)e); }
#endif

/* The frames that an entry counts with, and those that it may be left by. A plain function's frame, which has no object mostly,
 * is none of them, so that it is asked for where another may be. false with an error set: no memory. */
static bool scope_note_frames(EntryObject *e, nm__caller caller, PyThreadState *thread) {
    int flags = caller.flags & SCOPE_GENERATOR;
    bool is_plain = flags == 0, looks_out = !caller.is_at_with && thread->exc_info->previous_item != NULL;
    e->of_with = caller.is_at_with;
    if (SCOPE_READS_FRAMES && (!is_plain || looks_out)) {
        PyFrameObject *frame = PyThreadState_GetFrame(thread);
        if (frame == NULL) PyErr_NoMemory();
        if (frame == NULL || (looks_out && !scope_find_callers(frame, &flags, &e->callers))) {
            Py_XDECREF(frame);
            return false;
        }
        if (is_plain) Py_DECREF(frame);
        else e->frame = frame;
        PyFrameObject *home = nm__entry_home(e);
        e->item = home == NULL ? NULL : nm__insides_item_of(home);
        e->roams = (flags & SCOPE_ROAMS) != 0;
    }
    e->of_generators = e->frame != NULL || (e->outer != NULL && e->outer->of_generators);
    return (!is_plain && caller.is_at_with) || scope_find_asleep(e->outer, thread, &e->asleep);
}

/* Nothing here runs code: neither between what is asked of the context and the answer, nor for the memory that it takes. */
static bool scope_push(OwnerObject *owner, nm__caller caller, PyThreadState *thread) {
    int was_on = scope_step_aside();
    EntryObject *innermost = nm__active_innermost(), *e = nm__entry_new();
    bool done = e != NULL;
    if (done) {
        scope_share(e);
        e->owner = (OwnerObject *)Py_NewRef(owner);
        e->outer = (EntryObject *)Py_XNewRef((PyObject *)innermost);
        e->covered = innermost;
        size_t depth;
        if (nm__charge_roams()) e->stray = (EntryObject *)Py_XNewRef((PyObject *)nm__active_find_stray(thread, &depth));
        done = scope_note_frames(e, caller, thread) && nm__active_set_innermost(e, &e->token);
    }
    if (done) {
        e->context = Py_NewRef(thread->context);
        nm__engine_begin_turn();
        nm__engine_look_for_scopes(true);
        nm__entry_list(e);
        nm__engine_end_turn();
        PyObject_GC_Track(e);
        innermost = e;
    }
    Py_XDECREF(e);
    scope_step_back(was_on);
    nm__active_sync_to(thread, innermost);
    return done;
}

/* What is wrong about entering or leaving here. */
typedef enum ScopeMisuseKind {
    MISUSE_NONE,
    MISUSE_NOT_OPEN,
    MISUSE_BEFORE_ANOTHER,
    MISUSE_IN_ANOTHER_CONTEXT,
    MISUSE_IN_GENERATOR
} ScopeMisuseKind;

typedef struct ScopeMisuse {
    ScopeMisuseKind kind;
    PyObject *context; /* that it was entered in; a reference, as the next one */
    OwnerObject *another; /* that is left open inside */
    bool ended;
} ScopeMisuse;

static void misuse_raise(PyObject *core, const ScopeMisuse *wrong, PyObject *exception);

/* false with an error set. */
static bool scope_may_begin(PyObject *core, nm__caller caller) {
    if (SCOPE_READS_FRAMES || (caller.flags & SCOPE_ROAMS) == 0) return true;
    misuse_raise(core, &(ScopeMisuse){MISUSE_IN_GENERATOR, NULL, NULL, false}, Py_None);
    return false;
}

/* In C, as leaving is: an exception of a signal's handler, say, would else get between what has been done and `with`. */
static PyObject *scope_enter(PyObject *budget, PyObject *unused) {
    (void)unused;
    PyThreadState *thread = PyThreadState_Get();
    PyObject *core = scope_core_of(budget, thread), *owner = core == NULL ? NULL : scope_owner_of(core, true);
    nm__caller caller = nm__insides_caller(thread);
    bool may = owner != NULL && scope_may_begin(core, caller);
    Py_XDECREF(core);
    if (owner == NULL) return NULL;
    bool done = may && (owner == Py_None || scope_push((OwnerObject *)owner, caller, thread));
    Py_DECREF(owner);
    return done ? Py_NewRef(budget) : NULL;
}

static EntryObject *misuse_found(EntryObject *e, ScopeMisuseKind kind, const EntryObject *where, const EntryObject *another,
                                 ScopeMisuse *wrong) {
    wrong->kind = kind;
    wrong->context = where == NULL ? NULL : Py_XNewRef(where->context);
    wrong->another = another == NULL ? NULL : (OwnerObject *)Py_NewRef(another->owner);
    wrong->ended = e != NULL;
    return e;
}

/* Of those that the frame entered, whatever context that was in, the newest. */
static EntryObject *scope_find_entered_by(PyFrameObject *frame, const OwnerObject *owner) {
    EntryObject *lists[] = {*nm__entry_list_of(nm__insides_item_of(frame)), nm__entry_lists[NM_SCOPE_LISTS]};
    for (size_t i = 0; i < 2; i++)
        for (EntryObject *e = lists[i]; e != NULL; e = e->older)
            if (e->owner == owner && e->frame != NULL && nm__entry_frame(e) == frame) return e;
    return NULL;
}

/* Where no entry is this context's: one that was made within a generator that runs here, which another context has
 * resumed; else *open, one that this context inherited, or a context has that is left for this one for a while; and if
 * none of these either, NULL and any. */
static EntryObject *scope_find_of_others(const OwnerObject *owner, const PyThreadState *thread, EntryObject *innermost,
                                         EntryObject **open) {
    for (size_t i = 0; i <= NM_SCOPE_LISTS; i++)
        for (EntryObject *e = nm__entry_lists[i]; e != NULL; e = e->older) {
            if (e->owner != owner || nm__entry_is_over(e)) continue;
            PyFrameObject *f = nm__entry_home(e);
            bool may_leave = (e->frame != NULL && e->roams) || !nm__active_is_entered(e->context, thread);
            if (f != NULL && may_leave && nm__entry_depth_of(f, thread) != SIZE_MAX) return e;
            if (*open == NULL || nm__active_is_entered(e->context, thread)) *open = e;
        }
    for (EntryObject *e = innermost; e != NULL; e = e->outer)
        if (e->owner == owner && e->context != thread->context && !e->elsewhere) {
            *open = e;
            return e;
        }
    return *open != NULL && nm__active_is_entered((*open)->context, thread) ? *open : NULL;
}

/* The entry that leaving the owner's scope ends: the innermost that counts, or one that the frame that leaves has made
 * itself. Where another one is the innermost, or that is not this context's, leaving is wrong; the entry ends all the
 * same, wherever it is plain which one is meant. NULL: it is not. */
static EntryObject *scope_entry_to_end(const OwnerObject *owner, PyFrameObject *frame, const PyThreadState *thread,
                                       EntryObject *innermost, ScopeMisuse *wrong) {
    bool unsettled;
    EntryObject *now = nm__active_find(thread, innermost, &unsettled), *e = NULL, *open = NULL;
    bool is_ours = now != NULL && now->owner == owner &&
                   (now->context == thread->context || nm__active_depth_of_stray(now, thread) != SIZE_MAX);
    if (frame != NULL && !(is_ours && nm__entry_frame(now) == frame)) e = scope_find_entered_by(frame, owner);
    if (e != NULL && e->context != thread->context &&
        nm__active_depth_of_stray(e, thread) == SIZE_MAX) { /* it does not count here */
        /* a generator that was resumed here may leave; a coroutine has but one context, unless by hand */
        return e->roams || !nm__active_is_entered(e->context, thread)
                   ? e
                   : misuse_found(e, MISUSE_IN_ANOTHER_CONTEXT, e, NULL, wrong);
    }
    if (is_ours) return now;
    if (e != NULL) return now == e || now == NULL ? e : misuse_found(e, MISUSE_BEFORE_ANOTHER, NULL, now, wrong);

    EntryObject *asleep = NULL;
    bool is_inner = false, inner_of_asleep = false;
    for (e = innermost; e != NULL; e = e->outer) {
        is_inner = is_inner || e == now;
        if (e->owner != owner || nm__entry_is_over(e) || e->context != thread->context) continue;
        if (nm__entry_is_active(e, thread)) return misuse_found(e, MISUSE_BEFORE_ANOTHER, NULL, now, wrong);
        if (asleep != NULL) continue;
        asleep = e;
        inner_of_asleep = is_inner;
    }
    if (asleep != NULL) return inner_of_asleep ? misuse_found(asleep, MISUSE_BEFORE_ANOTHER, NULL, now, wrong) : asleep;
    e = scope_find_of_others(owner, thread, innermost, &open);
    if (e != NULL && e != open) return e;
    return misuse_found(e, open != NULL ? MISUSE_IN_ANOTHER_CONTEXT : MISUSE_NOT_OPEN, open, NULL, wrong);
}

/* What goes when it is no longer the thread's turn, as its end may run code. */
typedef struct ScopeDropped {
    PyObject *objects[16];
    int count;
} ScopeDropped;

#ifdef Py_GIL_DISABLED
static bool scope_may_drop(const ScopeDropped *dropped) { return dropped->count + 2 <= 16; } /* the rest with the next */
static void scope_drop(PyObject *object, ScopeDropped *dropped) {
    if (object != NULL) dropped->objects[dropped->count++] = object;
}
static void scope_let_go(ScopeDropped *dropped) {
    while (dropped->count > 0) Py_DECREF(dropped->objects[--dropped->count]);
}
#else
static bool scope_may_drop(const ScopeDropped *dropped) { return (void)dropped, true; }
static void scope_drop(PyObject *object, ScopeDropped *dropped) {
    (void)dropped;
    Py_XDECREF(object);
}
static void scope_let_go(ScopeDropped *dropped) { (void)dropped; }
#endif

/* Those that ended before ones further in did would else stay as long as these. */
static void scope_drop_ended(EntryObject *top, const PyThreadState *thread, ScopeDropped *dropped) {
    for (EntryObject *e = top; e != NULL && e->context == thread->context; e = e->outer)
        for (EntryObject *o = e->outer;
             o != NULL && nm__entry_is_over(o) && o->context == thread->context && scope_may_drop(dropped); o = e->outer) {
            PyObject *token = e->token; /* which has it, too */
            e->outer = (EntryObject *)Py_XNewRef((PyObject *)o->outer);
            e->token = NULL;
            scope_drop(token, dropped);
            scope_drop((PyObject *)o, dropped);
        }
}

/* Pre: it is the thread's turn; *innermost is the context's. Post: it is not its turn any more; *innermost is as it is now. */
static bool scope_end_entry(EntryObject *e, PyThreadState *thread, EntryObject **innermost) {
    ScopeDropped dropped = {.count = 0};
    if (!e->ended) e->elsewhere = e->context != thread->context;
    if (e->elsewhere) nm__charge_scopes.changes++;
    e->ended = true;
    nm__entry_unlist(e);
    EntryObject *top = *innermost, *before = top;
    /* one that another context has ended is still inherited here */
    while (top != NULL && (top == e || (nm__entry_is_over(top) && top->context == thread->context))) top = top->outer;
    scope_drop_ended(top, thread, &dropped);
    top = scope_hold(top);
    nm__engine_end_turn();
    scope_let_go(&dropped);
    bool done = true;
    if (top != before) {
        /* Mostly the scope ends as it began: then the context has no more variables than before it. */
        bool nests = e->context == thread->context && e->token != NULL && before == e && top == e->covered;
        done = (nests && nm__active_set_back(e->token)) || nm__active_set_innermost(top, NULL);
        *innermost = done ? top : nm__active_innermost();
    }
    Py_XDECREF(top);
    return done;
}

/* Lets go of an entry that has ended, which may run code. It stays until those inside have ended, and the frames would keep what
 * the variables hold. */
static void scope_forget(EntryObject *e, const PyThreadState *thread) {
    if (Py_REFCNT((PyObject *)e) > 1) {
        Py_CLEAR(e->frame);
        Py_CLEAR(e->callers);
        Py_CLEAR(e->stray);
        Py_CLEAR(e->asleep);
        if (SCOPE_READS_FRAMES || e->context == thread->context) Py_CLEAR(e->token);
    }
    Py_DECREF(e);
}

/* Whatever is needed to leave must not be refused by the very budget that is full. */
static bool scope_leave(OwnerObject *owner, PyThreadState *thread, ScopeMisuse *wrong) {
    bool is_plain = !SCOPE_READS_FRAMES || (nm__insides_caller(thread).flags & SCOPE_GENERATOR) == 0;
    int was_on = scope_step_aside();
    PyFrameObject *frame = is_plain ? NULL
                                    : PyThreadState_GetFrame(thread); /* without memory: as if a plain function left it */
    nm__engine_begin_turn();
    EntryObject *innermost = nm__active_innermost();
    EntryObject *e = scope_hold(scope_entry_to_end(owner, frame, thread, innermost, wrong));
    bool done = true;
    if (e != NULL) done = scope_end_entry(e, thread, &innermost);
    else nm__engine_end_turn();
    Py_XDECREF(frame); /* the code that runs in it holds it */
    scope_step_back(was_on);
    nm__owner_leave(owner->owner);
    nm__active_sync_to(thread, innermost);
    nm__owner_stop_looking();
    if (done) nm__owner_collect_retired();
    nm__entry_collect_orphans();
    if (e != NULL) scope_forget(e, thread);
    return done;
}

/* core.misuse(kind, address of the other's budget, both contexts, ended, exception): it raises. */
static void misuse_raise(PyObject *core, const ScopeMisuse *wrong, PyObject *exception) {
    PyObject *kind = PyLong_FromLong(wrong->kind), *here = PyThreadState_Get()->context;
    PyObject *contexts = PyTuple_Pack(2, wrong->context != NULL ? wrong->context : Py_None, here != NULL ? here : Py_None);
    PyObject *another = PyLong_FromVoidPtr(wrong->another == NULL ? NULL : (void *)wrong->another->owner->budget);
    PyObject *ended = wrong->ended ? Py_True : Py_False;
    if (kind != NULL && contexts != NULL && another != NULL)
        Py_XDECREF(PyObject_CallMethodObjArgs(core, scope_names.misuse, kind, another, contexts, ended, exception, NULL));
    Py_XDECREF(contexts);
    Py_XDECREF(another);
    Py_XDECREF(kind);
}

static PyObject *scope_exit(PyObject *budget, PyObject *const *error, Py_ssize_t count) {
    PyThreadState *thread = PyThreadState_Get();
    PyObject *core = scope_core_of(budget, thread), *owner = core == NULL ? NULL : scope_owner_of(core, false);
    ScopeMisuse wrong = {MISUSE_NONE, NULL, NULL, false};
    bool done = owner != NULL, due = done && owner != Py_None && nm__denial_take_due(((OwnerObject *)owner)->owner);
    if (owner == Py_None) (void)misuse_found(NULL, MISUSE_NOT_OPEN, NULL, NULL, &wrong);
    else if (done) done = scope_leave((OwnerObject *)owner, thread, &wrong);
    if (done && wrong.kind != MISUSE_NONE) {
        misuse_raise(core, &wrong, count > 1 ? error[1] : Py_None);
        done = false;
    }
    Py_XDECREF(wrong.another);
    Py_XDECREF(wrong.context);
    Py_XDECREF(owner);
    Py_XDECREF(core);
    if (done && due && (count < 1 || error[0] == Py_None))
        return PyErr_NoMemory(); /* else the block ends with an error anyway */
    return done ? Py_NewRef(Py_None) : NULL;
}

int nm__scope_without(int (*call)(void)) {
    nm__now *now = &nm__charge_now;
    if (nm__scope_home == NULL || now->aside || PyInterpreterState_Get() != nm__scope_home) return call();
    int was_on = nm__collections_stop(), result = -1;
    now->aside = true;
    nm__owner_enter(NULL);
    PyObject *context = PyContext_CopyCurrent();
    bool entered = context != NULL && PyContext_Enter(context) == 0, ready = entered && nm__active_set_innermost(NULL, NULL);
    now->aside = false;
    nm__charge_forget();
    nm__collections_go_on(was_on);
    if (ready) result = call();
    if (entered) (void)PyContext_Exit(context);
    Py_XDECREF(context);
    nm__charge_forget();
    return result;
}

/* Runs a callable at no owner's charge. */
static NM_TLS PyObject *scope_aside_call, *scope_aside_result;

static int scope_call_aside(void) {
    scope_aside_result = PyObject_CallNoArgs(scope_aside_call);
    return scope_aside_result == NULL ? -1 : 0;
}

static PyObject *scope_aside(PyObject *module, PyObject *call) {
    (void)module;
    PyObject *before = scope_aside_call, *result = NULL;
    scope_aside_call = call;
    if (nm__scope_without(scope_call_aside) == 0) result = scope_aside_result;
    scope_aside_call = before;
    return result;
}

static PyObject *scope_current(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    bool unsettled;
    PyThreadState *thread = PyThreadState_Get();
    bool at_home = PyThreadState_GetInterpreter(thread) == nm__scope_home;
    EntryObject *innermost = at_home ? nm__active_innermost() : NULL;
    nm__engine_begin_turn();
    EntryObject *e = at_home ? nm__active_find(thread, innermost, &unsettled) : NULL;
    PyObject *owner = Py_NewRef(e == NULL ? Py_None : (PyObject *)e->owner);
    nm__engine_end_turn();
    return owner;
}

/* Gives a class of budgets its way in and its way out: descriptors of its own, which a `with` calls without a look at more. */
static PyObject *scope_own_methods(PyObject *module, PyObject *class_) {
    static PyMethodDef own[] = {{"__enter__", scope_enter, METH_NOARGS, "Begins a scope of the budget."},
                                {"__exit__", (PyCFunction)(void (*)(void))scope_exit, METH_FASTCALL, "Ends the scope."}};
    (void)module;
    if (!PyType_Check(class_)) return PyErr_Format(PyExc_TypeError, "scope_own_methods: takes a class");
    for (size_t i = 0; i < sizeof own / sizeof *own; i++) {
        PyObject *descriptor = PyDescr_NewMethod((PyTypeObject *)class_, &own[i]);
        int failed = descriptor == NULL ? -1 : PyObject_SetAttrString(class_, own[i].ml_name, descriptor);
        Py_XDECREF(descriptor);
        if (failed) return NULL;
    }
    Py_RETURN_NONE;
}

int nm__scopes_add(PyObject *module) {
    static PyMethodDef methods[] = {{"scope_own_methods", scope_own_methods, METH_O, "Gives a class of budgets its scopes."},
                                    {"scope_aside", scope_aside, METH_O, "Calls something at no owner's charge."},
                                    {"scope_current", scope_current, METH_NOARGS, "The owner that is charged now, or None."},
                                    {NULL, NULL, 0, NULL}};
    if (scope_names.core == NULL) scope_names.core = PyUnicode_InternFromString("_core");
    if (scope_names.owner == NULL) scope_names.owner = PyUnicode_InternFromString("_owner");
    if (scope_names.make == NULL) scope_names.make = PyUnicode_InternFromString("owner");
    if (scope_names.misuse == NULL) scope_names.misuse = PyUnicode_InternFromString("misuse");
    if (scope_names.core == NULL || scope_names.owner == NULL || scope_names.make == NULL || scope_names.misuse == NULL)
        return -1;
    return PyModule_AddFunctions(module, methods);
}
