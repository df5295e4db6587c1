#include "binding/pressure.h" /* first: Python.h wants to be */

#include "binding/hooks.h"
#include "engine/scopes.h"

NM_COLD PyObject *nm__pressure_tell_after(PyObject *result) {
    PyObject *done = nm__hook_call(TELL, NULL, "()");
    if (done == NULL) Py_CLEAR(result); /* an interrupt: the block goes with it */
    Py_XDECREF(done);
    return result;
}

int nm__pressure_tell(void) {
    if (!nm__hook_any) { /* the engine alone: there is no budget yet that anything could be told of */
        const nm_budget *budget;
        int level;
        bool was_normal;
        while (nm_budget_crossed(&budget, &level, &was_normal)) {}
        return 0;
    }
    PyObject *done = nm__hook_call(TELL, NULL, "()");
    Py_XDECREF(done);
    return done == NULL ? -1 : 0;
}

int nm__pressure_tell_aside(void) { return nm__scope_without(nm__pressure_tell); }

/* As nm__pressure_ask; the budgets that were asked join the list *asked (NULL: none yet), whose members are passed over. */
static NM_COLD int pressure_ask(nm__refusal refusal, PyObject **asked) {
    if (!nm__hook_any) return 0; /* the engine alone: nothing watches a budget */
    PyObject *now = nm__hook_call(ASK, NULL, "(KKO)", (unsigned long long)(uintptr_t)refusal.charged,
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

int nm__pressure_ask(nm_budget *charged, nm_budget *refuser) {
    PyObject *asked = NULL;
    int result = pressure_ask((nm__refusal){charged, refuser}, &asked);
    Py_XDECREF(asked);
    return result;
}

NM_COLD int nm__pressure_retry(AllocatorObject *a, nm_failure failure, PyObject **asked) {
    nm__refusal refusal;
    if (failure.status != NM_OVER_BUDGET || !nm__budget_take_refusal(&refusal)) return 0;
    PyObject *handle = Py_NewRef(a->handle); /* keeps the budgets, whatever a callback closes */
    int ran = pressure_ask(refusal, asked);
    if (ran == 1) nm__budget_uncount(refusal.charged, refusal.refuser);
    Py_DECREF(handle);
    return ran;
}
