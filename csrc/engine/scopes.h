/* Scopes: `with budget:` begins and ends one.
 *
 * It pushes an entry onto the list that a context variable holds, so the owner follows threads, contexts and tasks as the
 * variable does. To end a scope out of order, or in another context than its own, is an error; the entry ends all the same
 * where it is plain which one is meant.
 */
#ifndef NM__SCOPES_H
#define NM__SCOPES_H

#include "engine/python.h"

/* Makes the call with no owner charged, in a context of its own. */
int nm__scope_without(int (*call)(void));
/* Adds the methods of a budget that begin and end a scope, and functions. */
int nm__scopes_add(PyObject *module);

#endif
