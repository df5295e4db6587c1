/* Who allocated: stacks of Python frames, each kept once. */
#ifndef NM__STACKS_H
#define NM__STACKS_H

#include "engine/python.h"

/* Functions of the module; each is called with the interpreter's lock held. */
PyObject *nm__own_stacks(PyObject *module, PyObject *args);    /* (slot of a handle, depth, package) -> True */
PyObject *nm__stacks_frames(PyObject *module, PyObject *args); /* (site) -> ((file, line, function), ...) */
typedef struct nm_stacks nm_stacks;
void nm_stacks_destroy(nm_stacks *s);
/* The site of an nm_traced; 0 where no Python code is running. */
uintptr_t nm__stacks_site(void *stacks);

#endif
