/* The type Block: memory handed to a user, as a writable buffer that keeps its allocator alive. */
#ifndef NM__BLOCK_H
#define NM__BLOCK_H

#include "binding/objects.h"

/* Block.free: None, or NULL with an error set. */
PyObject *nm__block_free(BlockObject *b);
/* Gives back the memory of a live block that nothing refers to any more. Post: it is not LIVE. Runs no Python code. */
void nm__block_end(BlockObject *b);
/* One view of the block ends. */
void nm__block_unexport(BlockObject *b);
int nm__block_add(PyObject *module);

#endif
