/* Budgets that are watched: their callbacks are told of a crossed level as the last act of a call that may have charged one,
 * and are asked for room before a request is refused.
 */
#ifndef NM__PRESSURE_H
#define NM__PRESSURE_H

#include "base/base.h"
#include "binding/objects.h"

/* Calls the watchers of what was noted. -1 with an error set: an interrupt. */
int nm__pressure_tell(void);
int nm__pressure_tell_aside(void); /* the same, at no owner's charge */
NM_COLD PyObject *nm__pressure_tell_after(PyObject *result);

/* The result of a call that may have charged a budget; NULL instead, with an error set, after an interrupt. */
NM_INLINE PyObject *nm__pressure_after(PyObject *result) {
    return NM_UNLIKELY(atomic_load_explicit(&nm__pressed, memory_order_relaxed)) && result != NULL
               ? nm__pressure_tell_after(result)
               : result;
}

/* Asks the watchers of budgets for room before a request is refused: calls on_pressure("refusal", budget) of `charged`
 * and of its ancestors up to `refuser`, which stood in the way, at no budget's charge, each unless this thread is in the
 * midst of a call of it. Returns 1 where one was called, so that the request may be tried again (once), 0 where none was,
 * -1 with an error set for an interrupt; what else a callback raises has gone to sys.unraisablehook. To be called from the
 * interpreter's loop or a method, where any Python code may run, with both budgets held. Denials stay as counted: a caller
 * that tries again and gets its memory, or counts anew, calls nm__budget_uncount. */
int nm__pressure_ask(struct nm_budget *charged, struct nm_budget *refuser);

/* Whether a request of `a` that was just refused is to be made again: 1, or 0, or -1 with an error set. *asked: a list of
 * the budgets that were asked so far, which are passed over; NULL: none yet. */
NM_COLD int nm__pressure_retry(AllocatorObject *a, nm_failure failure, PyObject **asked);

#endif
