#include "engine/active.h" /* first: Python.h wants to be */

#include "engine/insides.h"
#include "engine/engine.h"

static PyObject *active_variable;
PyInterpreterState *nm__scope_home;

EntryObject *nm__active_innermost(void) {
    PyObject *value = NULL; /* something else may have been put there by hand */
    if (PyContextVar_Get(active_variable, NULL, &value) < 0) return NULL;
    Py_XDECREF(value); /* the context holds it */
    return value == NULL || !Py_IS_TYPE(value, &nm__entry_type) ? NULL : (EntryObject *)value;
}

/* Before 3.12 a collection may run in the midst of it, and finalizers that set variables as well: the interpreter is not
 * made for that. */
bool nm__active_set_innermost(EntryObject *e, PyObject **kept) {
    PyObject *token = PyContextVar_Set(active_variable, e == NULL ? Py_None : (PyObject *)e);
    if (token == NULL) { /* where there is no memory for the token alone, the variable is set all the same */
        PyObject *kind, *error, *trace;
        PyErr_Fetch(&kind, &error, &trace);
        if (nm__active_innermost() != e) {
            PyErr_Restore(kind, error, trace);
            return false;
        }
        Py_XDECREF(kind);
        Py_XDECREF(error);
        Py_XDECREF(trace);
    }
    if (kept != NULL) *kept = token;
    else Py_XDECREF(token);
    return true;
}

bool nm__active_set_back(PyObject *token) {
    bool done = PyContextVar_Reset(active_variable, token) == 0;
    if (!done) PyErr_Clear();
    return done;
}

/* If it is of a generator that runs further in. */
static void active_take_if_inner(EntryObject *e, const PyThreadState *thread, EntryObject **inner, size_t *depth) {
    if (e->ended || e->context != thread->context) return;
    PyFrameObject *f = nm__entry_frame(e);
    size_t at = f == NULL ? SIZE_MAX : nm__entry_depth_of(f, thread);
    if (at >= *depth) return;
    *inner = e;
    *depth = at;
}

/* The newest that counts. But generators may have been resumed since it was made: within it, if it is the context's, and
 * they slept when it was made; if it is a generator's, within that. */
static EntryObject *active_find_in_context(const PyThreadState *thread, EntryObject *innermost, bool *unsettled) {
    EntryObject *e = innermost, *inner = NULL;
    bool late = false; /* inherited when what stood there had ended: then so had those further out */
    *unsettled = false;
    for (; e != NULL; e = e->outer) {
        if (e->frame != NULL && !e->ended && e->context == thread->context) *unsettled = true;
        if (nm__entry_is_active(e, thread) && !(late && e->ended)) break;
        late = late || e->elsewhere;
    }
    if (e == NULL || e->context != thread->context) return e; /* where it is inherited, so are those further out */
    PyFrameObject *f = nm__entry_frame(e);
    size_t depth = f == NULL ? SIZE_MAX : nm__entry_depth_of(f, thread);
    if (f == NULL) {
        *unsettled = *unsettled || e->asleep != NULL;
        Py_ssize_t count = e->asleep == NULL || thread->exc_info->previous_item == NULL ? 0 : PyTuple_GET_SIZE(e->asleep);
        for (Py_ssize_t i = 0; i < count; i++)
            active_take_if_inner((EntryObject *)PyTuple_GET_ITEM(e->asleep, i), thread, &inner, &depth);
    } else
        for (EntryObject *o = e->outer; depth > 0 && o != NULL; o = o->outer) active_take_if_inner(o, thread, &inner, &depth);
    return inner != NULL ? inner : e;
}

/* What stands at the beginning of a context in 3.10 to 3.13. */
struct active_context_head {
    PyObject_HEAD
    PyObject *outer; /* the thread's context before it was entered */
};

bool nm__active_is_entered(const PyObject *context, const PyThreadState *thread) {
    const PyObject *each = thread->context;
    while (each != NULL && each != context) each = ((const struct active_context_head *)(const void *)each)->outer;
    return each != NULL;
}

size_t nm__active_depth_of_stray(const EntryObject *e, const PyThreadState *thread) {
    PyFrameObject *f = e->roams && e->context != thread->context ? nm__entry_home(e) : NULL;
    return f != NULL && !nm__active_is_entered(e->context, thread) ? nm__entry_depth_of(f, thread) : SIZE_MAX;
}

/* The innermost such entry. */
EntryObject *nm__active_find_stray(const PyThreadState *thread, size_t *depth) {
    EntryObject *stray = NULL;
    *depth = SIZE_MAX;
    for (NM__EACH_RUNNING(item, thread)) {
        for (stray = *nm__entry_list_of(item); stray != NULL; stray = stray->older)
            if (stray->item == item && (*depth = nm__active_depth_of_stray(stray, thread)) != SIZE_MAX) break;
        if (stray != NULL) break;
    }
    for (EntryObject *e = nm__entry_lists[NM_SCOPE_LISTS]; e != NULL; e = e->older) {
        size_t at = nm__active_depth_of_stray(e, thread);
        if (at > *depth || at == SIZE_MAX || (at == *depth && e->number < stray->number)) continue;
        stray = e;
        *depth = at;
    }
    return stray;
}

EntryObject *nm__active_find(const PyThreadState *thread, EntryObject *innermost, bool *unsettled) {
    EntryObject *e = active_find_in_context(thread, innermost, unsettled);
    size_t depth;
    EntryObject *stray = !nm__charge_roams() ? NULL : nm__active_find_stray(thread, &depth);
    if (stray == NULL || stray == e) return e;
    PyFrameObject *f = e == NULL || e->context != thread->context ? NULL : nm__entry_frame(e);
    size_t at = f != NULL ? nm__entry_depth_of(f, thread) : depth;
    return at < depth || (at == depth && e != NULL && e->stray == stray) ? e : stray;
}

static void active_sync(PyThreadState *thread, bool at_home, EntryObject *innermost) {
    nm__now *now = &nm__charge_now;
    bool unsettled = false, was_in = now->owner != NULL;
    nm__engine_begin_turn();
    EntryObject *e = at_home ? nm__active_find(thread, innermost, &unsettled) : NULL;
    nm__owner *o = e == NULL ? NULL : e->owner->owner;
    nm__owner_hold(o);
    now->version = nm__charge_version(thread);
    nm__engine_end_turn();
    now->thread = thread;
    now->settled = unsettled || nm__charge_roams() ? NM__NO_THREAD : thread;
    now->id = thread->id;
    now->unsettled = unsettled;
    now->running = thread->exc_info;
    if (at_home) nm__owner_enter(o);
    else nm__owner_enter_none_elsewhere();
    nm__owner_release(o);
    if (o == NULL && was_in && at_home) nm__owner_stop_looking();
}

void nm__active_sync_to(PyThreadState *thread, EntryObject *innermost) {
    if (!nm__charge_now.aside) active_sync(thread, true, innermost);
}

/* Another interpreter may have a thread state and a context version like ours; what the variable remembers by them is not for
 * it, and it may have a lock of its own. */
void nm__active_sync(PyThreadState *thread) {
    if (nm__charge_now.aside) return;
    bool at_home = PyThreadState_GetInterpreter(thread) == nm__scope_home;
    active_sync(thread, at_home, at_home ? nm__active_innermost() : NULL);
}

int nm__active_add(PyObject *module) {
    (void)module;
    if (active_variable != NULL) return 0;
    active_variable = PyContextVar_New("nativemem owner", NULL);
    if (active_variable == NULL) return -1;
    nm__scope_home = PyInterpreterState_Get();
    nm__charge_find = nm__active_sync;
    return 0;
}
