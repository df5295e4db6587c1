/* The verbs of an Allocator that begin and end its life, and those that end many blocks at once: attach, close, reset,
 * release, detach. They are methods here and not the control plane's, because no Python code, of a signal handler or of
 * a collection, may run between the blocks' end and that of their memory.
 */
#ifndef NM__LIFETIME_H
#define NM__LIFETIME_H

#include "binding/objects.h"

/* Pre: the type Allocator is ready. */
int nm__lifetime_add(PyObject *module);

#endif
