/* Blocks that C code holds, as by a buffer: their memory is an array's, say. As long as one is held its allocator can be
 * neither reset nor closed. Taking and releasing run no Python code, as NumPy asks for memory in the midst of changing an
 * array: what goes with a block (callbacks of weak references, the end of its allocator) waits for nm__held_drain.
 */
#ifndef NM__HELD_H
#define NM__HELD_H

#include "binding/objects.h"

/* NULL: refused, for the reason in *refused; no error is set. */
PyObject *nm__held_take(PyObject *allocator, size_t size, size_t align, void **ptr, nm_failure *refused);
void nm__held_release(PyObject *block);
/* Runs what is left to run of blocks that were released. To be called where any Python code may run. */
void nm__held_drain(void);

#endif
