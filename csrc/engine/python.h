/* Shared by the files that see Python.h: the data plane and the hooks. */
#ifndef NM__PYTHON_H
#define NM__PYTHON_H

#define PY_SSIZE_T_CLEAN
#include <Python.h>

#include "nativemem.h"

/* The calling thread's; NULL: none is attached. */
#if PY_VERSION_HEX >= 0x030D0000
#define nm__thread_state PyThreadState_GetUnchecked
#else
#define nm__thread_state _PyThreadState_UncheckedGet
#endif

/* The handler that NumPy expects behind a capsule named "mem_handler" (NEP 49, version 1). Declared here
 * so that neither building nor importing needs NumPy. */
typedef struct {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t nelem, size_t elsize);
    void *(*realloc)(void *ctx, void *ptr, size_t new_size);
    void (*free)(void *ctx, void *ptr, size_t size);
} nm__numpy_allocator;
typedef struct {
    char name[127];
    uint8_t version;
    nm__numpy_allocator allocator;
} nm__numpy_handler;

#define NM__NUMPY_CAPSULE "mem_handler"

/* A block that only nm__let_go_of_block frees, as long as its allocator is open: that cannot be reset or closed. */
bool nm__is_allocator(PyObject *thing);
PyObject *nm__allocator_handle(PyObject *allocator); /* a new reference: keeps its structures, and the budgets it charges */
PyObject *nm__hold_block(PyObject *allocator, size_t size, size_t align, void **ptr, nm_failure *refused); /* or NULL */
void nm__let_go_of_block(PyObject *block); /* neither of the two runs Python code */
/* Runs what is left to run of blocks that were let go of: callbacks of weak references, ends of allocators. To be called
 * where any Python code may run. */
void nm__see_off_blocks(void);
/* As the allocator's alloc; zero: wiped. Pre: nm__is_allocator. */
PyObject *nm__new_block(PyObject *allocator, size_t size, size_t align, bool zero);
/* Sets the error that a refusal stands for, of an allocator. */
void nm__raise_failure(PyObject *allocator, nm_failure failure);
void nm__raise_refusal(PyObject *allocator, nm_failure failure, size_t size, size_t align); /* of one block */

/* Functions of the module; each is called with the interpreter's lock held. */
/* Calls who watches budgets. -1 with an error set: an interrupt. */
int nm__tell_pressure(void);
/* Asks the watchers of budgets for room before a request is refused: calls on_pressure("refusal", budget) of `charged`
 * and of its ancestors up to `refuser`, which stood in the way, at nobody's charge, each unless this thread is in the midst
 * of a call of it. Returns 1 where one was called, so that the request may be tried again (once), 0 where none was, -1 with
 * an error set for an interrupt; what else a callback raises has gone to sys.unraisablehook. To be called from the
 * interpreter's loop or a method, where any Python code may run, with both budgets held. Denials stay as counted: a caller
 * that tries again and gets its memory, or counts anew, calls nm__budget_uncount. */
struct nm_budget;
int nm__ask_for_room(struct nm_budget *charged, struct nm_budget *refuser);
PyObject *nm__region_size(PyObject *module, PyObject *unused);
PyObject *nm__region_init(PyObject *module, PyObject *args);
PyObject *nm__region_decay_when_idle(PyObject *module, PyObject *unused);
PyObject *nm__region_owns(PyObject *module, PyObject *address);
PyObject *nm__engine_start(PyObject *module, PyObject *secure);
PyObject *nm__engine_budget(PyObject *module, PyObject *unused);
PyObject *nm__engine_set_limit(PyObject *module, PyObject *args);
PyObject *nm__engine_stranger(PyObject *module, PyObject *args);
PyObject *nm__engine_objects(PyObject *module, PyObject *on);
PyObject *nm__engine_raw(PyObject *module, PyObject *on);
PyObject *nm__engine_hook_arrays(PyObject *module, PyObject *api);
PyObject *nm__engine_array_handler(PyObject *module, PyObject *address);
PyObject *nm__engine_arrays(PyObject *module, PyObject *on);
PyObject *nm__engine_lift(PyObject *module, PyObject *unused);
PyObject *nm__engine_state(PyObject *module, PyObject *unused);
PyObject *nm__ending_watch(PyObject *module, PyObject *unused);
PyObject *nm__ending_plan(PyObject *module, PyObject *args);
PyObject *nm__engine_account(PyObject *module, PyObject *unused);

#endif
