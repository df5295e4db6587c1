/* Blocks of the engine that are given to the C library, by an allocator of the interpreter's that does not know them.
 *
 * A tool that looked at the interpreter's table of allocators before the engine came, and puts back what it found, takes the
 * hooks out. The interpreter's own allocator passes on what it does not know to `free` and `realloc`, which end the process.
 * So the interpreter's calls of these two are looked at, where the loader has put their addresses: in the table of the
 * file that the interpreter is (decision 82).
 */
#ifndef NM__STRAYS_H
#define NM__STRAYS_H

#include "engine/python.h"

int nm__strays_add(PyObject *module);

#endif
