#include "engine/denials.h" /* first: Python.h wants to be */

#include "engine/spared.h"
#include "tuning.h"

#include <sys/syscall.h>
#include <unistd.h>

nm__watcher_table nm__watchers;
NM_TLS nm__denial_state nm__denial_here;

static atomic_bool denial_process_told; /* as nm__owner's `told` */

atomic_bool nm__denial_is_told;

static void denial_begin_spell(nm__owner *o) {
    atomic_store(o == NULL ? &denial_process_told : &o->told, true);
    atomic_store(&nm__denial_is_told, true);
}

bool nm__denial_may_be_silent(nm__owner *o) {
    bool told = atomic_load(&denial_process_told) || (o != NULL && atomic_load(&o->told));
    return told && !nm__budget_is_deep(nm__charge_process) && (o == NULL || !nm__budget_is_deep(o->budget));
}

void nm__denial_look_for_recovery(void) {
    nm__owner *o = nm__charge_now.owner;
    if (o != NULL && nm__budget_has_recovered(o->budget)) atomic_store(&o->told, false);
    if (!nm__budget_has_recovered(nm__charge_process)) return;
    atomic_store(&denial_process_told, false);
    if (o == NULL || !atomic_load(&o->told)) atomic_store(&nm__denial_is_told, false);
}

bool nm__denial_is_main_thread(void) { return (pid_t)syscall(SYS_gettid) == getpid(); }

/* It is set as long as a call waits or runs: CPython 3.11 goes round for ever in a function's first instruction where code
 * under a profiler or a tracer runs in a pending call and another one waits. */
static atomic_bool denial_call_waits;

/* Whether the budgets' callbacks freed some after all. -1: an interrupt. Pre: the owner's code runs. */
static int denial_find_room(nm__owner *o) {
    nm__refusal refusal = nm__denial_here.refusal;
    nm__denial_here.refusal.charged = NULL;
    if (refusal.charged == NULL || (refusal.charged != nm__charge_process && (o == NULL || refusal.charged != o->budget)))
        return 0;
    int ran = nm__watchers.ask(refusal.charged, refusal.refuser);
    if (ran <= 0 || !nm__charge_both(o, 1, nm__budget_try)) return ran < 0 ? -1 : 0;
    nm__charge_release(o, 1);
    nm__budget_uncount(refusal.charged, refusal.refuser);
    return 1;
}

static int denial_at_safe_point(void *unused) {
    (void)unused;
    int result = 0;
    bool told = nm__denial_here.told;
    nm__denial_here.told = true; /* what follows is had in silence */
    if (atomic_load_explicit(&nm__pressed, memory_order_relaxed) && nm__watchers.tell() < 0) {
        if (PyErr_ExceptionMatches(PyExc_MemoryError)) PyErr_Clear(); /* it would be raised in whatever happens to run */
        else result = -1;
    }
    if (result == 0) nm__watchers.drain();
    if (nm__charge_process == NULL) { /* without the engine */
        nm__denial_here.told = told;
        atomic_store(&denial_call_waits, false);
        return result;
    }
    nm__charge_sync();
    nm__owner *o = nm__charge_now.owner;
    bool due = nm__denial_here.due || (o != NULL && atomic_load(&o->due));
    bool recovered = nm__budget_has_recovered(nm__charge_process) && (o == NULL || nm__budget_has_recovered(o->budget));
    bool has_it = told || recovered || nm__insides_is_handling(PyThreadState_Get());
    bool answers = due && !has_it && result == 0 && nm__spared_may_interrupt(PyThreadState_Get()) &&
                   nm__insides_is_still_at(PyThreadState_Get(), nm__denial_here.places) &&
                   !nm__insides_is_entering(PyThreadState_Get());
    if (answers || has_it) {
        nm__denial_here.due = false;
        if (o != NULL) atomic_store(&o->due, false);
    }
    if (answers) {
        int found = denial_find_room(o);
        answers = found == 0;
        if (found < 0) result = -1;
    }
    nm__denial_here.told = answers;
    nm__denial_here.lent = 0;
    atomic_store(&denial_call_waits, false);
    if (!answers) return result;
    denial_begin_spell(o);
    nm__denial_wait_for_safe_point(); /* the one after: what is called now is not called again before we return */
    PyErr_NoMemory();
    return -1;
}

void nm__denial_wait_for_safe_point(void) {
    if (atomic_exchange(&denial_call_waits, true)) return;
    if (Py_AddPendingCall(denial_at_safe_point, NULL) < 0)
        atomic_store(&denial_call_waits, false); /* too many wait: with the next */
}

static void denial_take_back(void) {
    nm__insides_take_back(nm__denial_here.thread, PyExc_MemoryError);
    nm__denial_here.thread = NULL;
}

/* In the main thread. Whether that is news. */
static bool denial_put_off_to_safe_point(nm__owner *o, const PyThreadState *thread) {
    nm__insides_note_places(thread, nm__denial_here.places);
    bool was = o != NULL ? atomic_exchange(&o->due, true) : nm__denial_here.due;
    if (o == NULL) nm__denial_here.due = true;
    nm__denial_wait_for_safe_point();
    return !was;
}

void nm__denial_notice_raised(void) {
    if (nm__denial_here.thread == NULL || nm__insides_will_raise(nm__denial_here.thread, PyExc_MemoryError)) return;
    nm__denial_here.thread = NULL;
    nm__denial_here.handling = NM_DENIAL_HANDLING_BLOCKS;
    nm__denial_here.lent = 0;
}

/* Other threads cannot be called back; the interpreter can raise an error in them, but not look where: so only at the end
 * of a call that is under way. At the end of a plain scope it is taken back. In a generator's scope it could come out in the generator's caller, so there it waits for
 * the scope's end; without a scope it could end a pool's worker between a job and its answer. */
static bool denial_put_off_to_call(nm__owner *o, PyThreadState *thread) {
    if (nm__denial_here.thread != NULL) return false;
    if (nm__denial_here.handling > 0) {
        nm__denial_here.handling--;
        return false;
    }
    bool is_plain = o != NULL && !nm__charge_now.unsettled && !nm__charge_roams();
    bool raised = is_plain && nm__insides_is_in_call(thread) && nm__insides_raise_soon(thread, PyExc_MemoryError);
    if (raised) {
        nm__denial_here.thread = thread;
        denial_begin_spell(o);
    }
    return o != NULL && !atomic_exchange(&o->due, !raised);
}

bool nm__denial_has_safe_points(void) {
    return nm__denial_is_main_thread() && PyInterpreterState_Get() == PyInterpreterState_Main();
}

bool nm__denial_put_off(nm__owner *o, PyThreadState *thread) {
    if (PyThreadState_GetInterpreter(thread) != PyInterpreterState_Main()) return false; /* safe points are the main one's */
    return nm__denial_is_main_thread() ? denial_put_off_to_safe_point(o, thread) : denial_put_off_to_call(o, thread);
}

void nm__denial_tell(nm__owner *o, bool raw) {
    nm__denial_here.lent = NM_OVERDRAFT_LENT_TO_SAFE_POINT - NM_OVERDRAFT_LENT_AFTER_REFUSAL;
    if (raw) return;
    denial_begin_spell(o);
    if (o != NULL) atomic_store(&o->due, false);
    nm__denial_here.due = false;
    if (nm__denial_here.thread != NULL) denial_take_back();
    if (nm__denial_is_main_thread()) {
        nm__denial_here.told = true;
        nm__denial_wait_for_safe_point();
    } else {
        nm__denial_here.handling = NM_DENIAL_HANDLING_BLOCKS;
    }
}

/* Whether it was still to be raised. */
static bool denial_take_back_owners(void) {
    if (nm__denial_here.thread == NULL) return false;
    bool pending = nm__insides_will_raise(nm__denial_here.thread, PyExc_MemoryError);
    denial_take_back();
    return pending;
}

void nm__denial_refused(void) { nm__denial_tell(nm__charge_now.owner, false); }

bool nm__denial_take_due(nm__owner *o) {
    bool was_pending = denial_take_back_owners();
    return (atomic_load(&o->due) && atomic_exchange(&o->due, false)) || was_pending;
}

void nm__denial_leave_owner(nm__owner *o) {
    if (NM_UNLIKELY(nm__denial_here.thread != NULL) && denial_take_back_owners()) atomic_store(&o->due, true);
}

#if PY_VERSION_HEX < 0x030C0000
/* The interpreter keeps some MemoryErrors to raise. A program may have them all; then it needs memory for one, and where that
 * is refused 32 times it ends the process. So before a refusal there is one. */
void nm__denial_keep_error_ready(void) {
    if (nm__denial_here.making) return;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    int was_on = PyGC_Disable();
    nm__denial_here.making = true;
    PyObject *nothing = PyTuple_New(0); /* there is but one */
    if (nothing != NULL)
        Py_XDECREF(((PyTypeObject *)PyExc_MemoryError)->tp_new((PyTypeObject *)PyExc_MemoryError, nothing, NULL));
    Py_XDECREF(nothing);
    nm__denial_here.making = false;
    if (was_on) PyGC_Enable();
    PyErr_Restore(type, value, traceback);
}
#else
void nm__denial_keep_error_ready(void) {} /* it has one that is never freed */
#endif
