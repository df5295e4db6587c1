/* The engine's heap, its budget, and which of the interpreter's memory it serves.
 *
 * It is started once in a process and never ends: blocks of it live as long as the interpreter does. On and off is a mode
 * that only decides where new memory comes from.
 */
#ifndef NM__ENGINE_H
#define NM__ENGINE_H

#include "engine/charge.h"
#include "nativemem/heap.h"

#pragma GCC visibility push(hidden) /* so that no access takes a detour through a table of the loader's */

/* SCOPED, added to ON: it is found out with each call which owner is charged. SAMPLED, added to ON: a profile counts what is
 * served. */
enum { NM__MODE_OFF, NM__MODE_ON = 1, NM__MODE_SCOPED = 2, NM__MODE_SAMPLED = 4 };

/* Invariants:
 *   heap == NULL <=> the engine was not started <=> nm__charge_process == NULL
 *   a mode is SCOPED => looks_for_scopes;  raw is never SCOPED
 *   looks_for_scopes => has_owners */
typedef struct nm__engine_state {
    nm_heap *heap;
    bool is_secure;
    atomic_bool has_owners; /* there have been some */
    bool looks_for_scopes; /* there may be a thread in a scope: ON is SCOPED, too */
    bool samples;          /* there is a profile: ON is SAMPLED, too */
    atomic_bool limited;   /* a limit of the process was set; asked without the interpreter's lock, too */
    _Atomic int objects, arrays, raw; /* modes */
} nm__engine_state;
extern nm__engine_state nm__engine;

/* The engine's own lock, where the interpreter has none: threads of a free-threaded build take turns at what the engine
 * shares. Elsewhere the interpreter's lock is that, and nothing is left of these calls.
 *
 * It is held for a few instructions, in which nothing waits, allocates or runs code of Python's: a thread that waits for it is
 * attached to its interpreter, which stops the world only when all such threads have come to a safe point. Not reentrant. */
#ifdef Py_GIL_DISABLED
void nm__engine_begin_turn(void);
void nm__engine_end_turn(void);
#else
static inline void nm__engine_begin_turn(void) {}
static inline void nm__engine_end_turn(void) {}
#endif

/* The mode, when it is known which owner is charged. What serves is there before the mode says so, which a thread has to see in
 * that order where no lock does it. */
NM_INLINE int nm__mode_now(_Atomic int *mode) {
#ifdef Py_GIL_DISABLED
    int m = atomic_load_explicit(mode, memory_order_acquire);
#else
    int m = atomic_load_explicit(mode, memory_order_relaxed);
#endif
    if (NM_LIKELY(m == NM__MODE_ON)) return NM__MODE_ON; /* what the caller asks of it is answered here */
    if (m & NM__MODE_SCOPED) nm__charge_sync();
    return m;
}
void nm__mode_switch(_Atomic int *mode, bool on);

static inline bool nm__engine_has_owners(void) { return atomic_load_explicit(&nm__engine.has_owners, memory_order_relaxed); }
static inline bool nm__engine_has_limit(void) { return atomic_load_explicit(&nm__engine.limited, memory_order_relaxed); }
static inline bool nm__engine_is_bounded(void) { return nm__engine_has_limit() || nm__charge_now.owner != NULL; }

nm_budget *nm_engine_budget(void); /* its limit is NM_SIZE_MAX where none was set; NULL before the engine is started */
bool nm__engine_is_on(void); /* for objects or for arrays */
/* Whether a thread may be in a scope: only then is it found out with each call which owner is charged. Pre: it is the thread's
 * turn. */
void nm__engine_look_for_scopes(bool on);
/* Whether a profile counts what is served. */
void nm__engine_sample(bool on);
nm_heap *nm__engine_own_heap(nm_budget *of); /* as secure as the engine's */
bool nm__engine_is_missing(void); /* it was not started; then an error is set */
/* Of a class in Python, which takes it from the module: called on an instance it gets that as its argument. */
bool nm__engine_add_method(PyObject *module, PyMethodDef *method);
int nm__engine_add(PyObject *module);

#pragma GCC visibility pop

#endif
