#include "engine/engine.h" /* first: Python.h wants to be */

#include "base/events.h"
#include "engine/overdraft.h"
#include "heap/heap.h"

nm__engine_state nm__engine;

#ifdef Py_GIL_DISABLED
#include <pthread.h>
#include <sched.h>

static atomic_bool engine_turn_is_taken;

void nm__engine_begin_turn(void) {
    while (NM_UNLIKELY(atomic_exchange_explicit(&engine_turn_is_taken, true, memory_order_acquire))) sched_yield();
}

void nm__engine_end_turn(void) { atomic_store_explicit(&engine_turn_is_taken, false, memory_order_release); }

static bool engine_watches_forks(void) {
    static atomic_bool watches;
    return atomic_exchange(&watches, true) ||
           pthread_atfork(nm__engine_begin_turn, nm__engine_end_turn, nm__engine_end_turn) == 0;
}
#else
static bool engine_watches_forks(void) { return true; }
#endif

/* Pre: it is the thread's turn, as threads may switch one mode for different reasons. */
static void engine_switch(_Atomic int *mode, bool on) {
    bool scoped = nm__engine.looks_for_scopes && mode != &nm__engine.raw;
    bool was_on = atomic_load(mode) != NM__MODE_OFF;
    int of_on = NM__MODE_ON | (scoped ? NM__MODE_SCOPED : 0) | (nm__engine.samples ? NM__MODE_SAMPLED : 0);
    atomic_store_explicit(mode, on ? of_on : NM__MODE_OFF, memory_order_release);
    if (on == was_on || nm__charge_process == NULL) return;
    nm__event_note((nm__event){.kind = NM__EVENT_ENGINE,
                               .detail = (atomic_load(&nm__engine.objects) != NM__MODE_OFF ? 1U : 0U) |
                                         (atomic_load(&nm__engine.arrays) != NM__MODE_OFF ? 2U : 0U) |
                                         (atomic_load(&nm__engine.raw) != NM__MODE_OFF ? 4U : 0U),
                               .used = nm_budget_used(nm__charge_process),
                               .limit = nm_budget_limit(nm__charge_process)});
}

nm_budget *nm_engine_budget(void) { return nm__charge_process; }

static bool engine_make(bool secure) {
    if (nm__engine.heap != NULL) return true;
    nm__engine.is_secure = secure;
    nm_budget *b = nm_budget_create(NM_SIZE_MAX, NULL, NULL);
    if (b == NULL) return false;
    nm__budget_is_unwatched(b);
    nm__budget_introduce(b, "process");
    nm_heap *h = nm_heap_create(b, secure);
    if (h == NULL || !nm__overdraft_start(b, secure)) {
        nm_heap_destroy(h);
        nm_budget_destroy(b);
        return false;
    }
    nm__heap_claim(h);
    nm__charge_process = b;
    nm__engine.heap = h;
    return true;
}

bool nm__engine_is_missing(void) {
    if (nm__engine.heap != NULL) return false;
    PyErr_SetString(PyExc_RuntimeError, "the engine's heap was not started");
    return true;
}

nm_heap *nm__engine_own_heap(nm_budget *of) { return nm_heap_create(of, nm__engine.is_secure); }

/* What is added to ON. Pre: it is the thread's turn. */
static void engine_add(_Atomic int *mode, int what, bool on) {
    int m = atomic_load(mode);
    if (m != NM__MODE_OFF) atomic_store_explicit(mode, on ? m | what : m & ~what, memory_order_release);
}

void nm__mode_switch(_Atomic int *mode, bool on) {
    nm__engine_begin_turn();
    engine_switch(mode, on);
    nm__engine_end_turn();
}

void nm__engine_look_for_scopes(bool on) {
    if (on == nm__engine.looks_for_scopes) return;
    nm__engine.looks_for_scopes = on;
    engine_add(&nm__engine.objects, NM__MODE_SCOPED, on);
    engine_add(&nm__engine.arrays, NM__MODE_SCOPED, on);
}

void nm__engine_sample(bool on) {
    nm__engine_begin_turn();
    nm__engine.samples = on;
    engine_add(&nm__engine.objects, NM__MODE_SAMPLED, on);
    engine_add(&nm__engine.arrays, NM__MODE_SAMPLED, on);
    engine_add(&nm__engine.raw, NM__MODE_SAMPLED, on);
    nm__engine_end_turn();
}

bool nm__engine_is_on(void) {
    return atomic_load(&nm__engine.objects) != NM__MODE_OFF || atomic_load(&nm__engine.arrays) != NM__MODE_OFF;
}

static PyObject *engine_start(PyObject *module, PyObject *secure) {
    (void)module;
    int is = PyObject_IsTrue(secure);
    return is < 0 ? NULL : PyBool_FromLong(engine_make(is != 0));
}

static PyObject *engine_budget(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    if (nm__engine.heap == NULL) Py_RETURN_NONE;
    return Py_BuildValue(
        "(NNNK)", PyLong_FromSize_t(nm_budget_used(nm__charge_process)), PyLong_FromSize_t(nm_budget_peak(nm__charge_process)),
        PyLong_FromSize_t(nm_budget_limit(nm__charge_process)), (unsigned long long)nm_budget_denied(nm__charge_process));
}

static void engine_limit_to(size_t limit, size_t reserve) {
    nm_budget_set_limit(nm__charge_process, limit);
    nm__budget_hold_back(nm__charge_process, reserve);
    atomic_store(&nm__engine.limited, limit < NM_SIZE_MAX);
}

static PyObject *engine_set_limit(PyObject *module, PyObject *args) {
    (void)module;
    Py_ssize_t limit, reserve;
    if (!PyArg_ParseTuple(args, "nn", &limit, &reserve) || nm__engine_is_missing()) return NULL;
    engine_limit_to((size_t)limit, (size_t)reserve);
    Py_RETURN_NONE;
}

/* Takes the limit away and returns the peak under it. Allocates nothing before the limit is gone, so that a
 * program that has run into it can still be ended in good order. */
static PyObject *engine_lift(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    if (nm__engine_is_missing()) return NULL;
    size_t peak = nm_budget_peak(nm__charge_process);
    engine_limit_to(NM_SIZE_MAX, 0);
    return PyLong_FromSize_t(peak);
}

static PyObject *engine_kept(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return PyLong_FromSize_t(nm_region_dirty());
}

/* As nm_budget_take_peak; None where there is no heap. */
static PyObject *engine_take_peak(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    if (nm__engine.heap == NULL) Py_RETURN_NONE;
    return PyLong_FromSize_t(nm_budget_take_peak(nm__charge_process));
}

bool nm__engine_add_method(PyObject *module, PyMethodDef *method) {
    PyObject *function = PyCFunction_New(method, NULL);
    PyObject *bound = function == NULL ? NULL : PyInstanceMethod_New(function);
    Py_XDECREF(function);
    if (bound != NULL && PyModule_AddObject(module, method->ml_name, bound) == 0) return true;
    Py_XDECREF(bound);
    return false;
}

int nm__engine_add(PyObject *module) {
    static PyMethodDef methods[] = {
        {"engine_start", engine_start, METH_O, "Makes the engine's heap, once. False: no memory."},
        {"engine_budget", engine_budget, METH_NOARGS, "(used, peak, limit, denied); None where there is no heap."},
        {"engine_set_limit", engine_set_limit, METH_VARARGS, "The engine's limit, and what of it is in reserve."},
        {"engine_kept", engine_kept, METH_NOARGS, "Bytes of free memory that the region keeps."},
        {"engine_take_peak", engine_take_peak, METH_NOARGS, "The peak since this was called last, or None."},
        {"engine_lift", engine_lift, METH_NOARGS, "Takes the engine's limit away, then returns the peak under it."},
        {NULL, NULL, 0, NULL}};
    if (!engine_watches_forks()) {
        (void)PyErr_NoMemory();
        return -1;
    }
    return PyModule_AddFunctions(module, methods);
}
