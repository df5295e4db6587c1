/* The heap under NumPy: a hook in NumPy's default handler.
 *
 * Arrays that an owner is charged for have a heap of their own: objects are charged by what their heap holds, arrays each by
 * itself. NumPy survives a refusal, so arrays have no overdraft.
 */
#ifndef NM__ARRAYS_H
#define NM__ARRAYS_H

#include "engine/numpy.h"

#pragma GCC visibility push(hidden) /* so that no access takes a detour through a table of the loader's */

/* Arrays that come from sources, allocators of the layer above, though NumPy calls the engine's hook: the layer sets the
 * functions once, and the rest as sources come and go. With the interpreter's lock held. */
typedef struct nm__array_source_table {
    const nm__numpy_allocator *standing; /* what arrays come from where NumPy was not told otherwise; NULL: the engine, or
                                            what was there before */
    const char *standing_name;
    size_t live; /* arrays in use that sources gave */
    bool (*gave)(const void *ptr);
    bool (*take_back)(void *ptr); /* false: no source gave it */
    /* What a source gave, to what another allocator gives. NULL: nothing moved, as it refused, or as Python code that ran in
     * the midst freed the block; a move in the midst of the same block's is refused. */
    void *(*move)(void *ptr, size_t size, const nm__numpy_allocator *to_where);
} nm__array_source_table;
extern nm__array_source_table nm__array_sources;

int nm__arrays_add(PyObject *module);

#pragma GCC visibility pop

#endif
