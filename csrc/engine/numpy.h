/* NumPy arrays from allocators: an array's memory is a block, held as by a buffer until NumPy frees it.
 *
 * The interpreter's lock is held by whoever calls, as NumPy does. */
#ifndef NM__NUMPY_H
#define NM__NUMPY_H

#include "engine/python.h"

typedef struct nm__source nm__source; /* an allocator as NumPy sees it */

/* What arrays come from where NumPy was not told otherwise; NULL: the engine, or what was there before. */
extern nm__source *nm__default_source;
/* Arrays from sources that are in use. */
extern size_t nm__sourced;

/* NULL: refused; why is kept aside. Where a budget refuses, those who watch it are asked for room: Python code that may do
 * anything. No other call here runs any. */
void *nm__source_alloc(nm__source *source, size_t size, bool zeroed);
bool nm__source_gave(const void *ptr);
bool nm__source_free(void *ptr); /* false: no source gave it */
/* What a source gave, to what another allocator gives. NULL: nothing moved, as it refused, or as Python code that ran in
 * the midst freed the block; a move in the midst of the same block's is refused. */
void *nm__source_move(void *ptr, size_t size, const nm__numpy_allocator *to_where);

const char *nm__source_name(const nm__source *source);

/* Functions of the module. */
/* (NumPy's table, allocator, name, the locks of imports under way or None) -> capsule. In an empty context. */
PyObject *nm__numpy_make_handler(PyObject *module, PyObject *args);
PyObject *nm__numpy_swap(PyObject *module, PyObject *args);         /* (NumPy's table, capsule) -> the one before */
PyObject *nm__numpy_default(PyObject *module, PyObject *capsule);   /* or None; the engine's hook has to be in */
PyObject *nm__numpy_allocator_of(PyObject *module, PyObject *address); /* -> allocator, or None */
PyObject *nm__numpy_in_use(PyObject *module, PyObject *unused);        /* -> (arrays, bytes) */
PyObject *nm__numpy_refusal(PyObject *module, PyObject *unused);       /* -> the last that NumPy dropped, or None */

#endif
