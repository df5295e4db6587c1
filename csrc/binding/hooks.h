/* What the data plane asks of Python: an exception for a status, a layout of what is no plain number, a word from an
 * allocator's control plane.
 *
 * The functions are those of nativemem.refusals and of the budgets, so that a message stands in one place for both backends.
 * Each interpreter has its own: the types are shared by the interpreters of a process, exceptions are not.
 */
#ifndef NM__HOOKS_H
#define NM__HOOKS_H

#include "binding/objects.h"

/* The functions, in the order in which set_hooks takes them: the first four are of nativemem.refusals, TELL and ASK of
 * nativemem.budgets.pressure. */
typedef enum { COERCE_LAYOUT, RAISE_STATUS, RAISE_BLOCK, RAISE_EXPORTS, TELL, ASK, HOOK_COUNT } Hook;

/* Some interpreter of the process has hooks. A process that has only the engine does without. */
extern bool nm__hook_any;
/* Calls one with arguments as Py_BuildValue makes them. Where this interpreter has no hooks, `instead` is raised; where
 * that is NULL, the result is None. NULL with an error set. */
PyObject *nm__hook_call(Hook which, PyObject *instead, const char *format, ...);

/* Each of these sets the error that the case stands for. */
void nm__raise_status(AllocatorObject *a, nm_failure f);
void nm__raise_refusal(AllocatorObject *a, nm_failure f, size_t size, size_t align); /* of one block */
void nm__raise_closed(AllocatorObject *a);
/* what: "double", "freed", "stale", "foreign" or "type" */
void nm__raise_block(AllocatorObject *a, PyObject *block, const char *what);
/* blocks: a list of those with a view, a new reference that goes here, or NULL. tops: how many allocators stand on `a`. */
void nm__raise_exports(AllocatorObject *a, const char *action, PyObject *blocks, Py_ssize_t tops);
void nm__raise_exported(BlockObject *b, const char *action);

/* Whether the calling thread may use the allocator: `check` is "check" to allocate and "check_free" to free. Only asked for
 * blocks of no bytes and for verbs that drop many: any other call into the port is told by its status. False with an error
 * set. Runs Python code. */
bool nm__core_allows(AllocatorObject *a, const char *check);

int nm__hooks_add(PyObject *module);

#endif
