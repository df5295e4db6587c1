/* Which Python code allocated: stacks of frames, each kept once.
 *
 * A site is the address of its stack. Stacks are kept until the whole collection goes, as a program has few different ones.
 */
#ifndef NM__STACKS_H
#define NM__STACKS_H

#include "engine/python.h"

typedef struct nm_stacks nm_stacks;
void nm_stacks_destroy(nm_stacks *s);
/* The site of an nm_traced; 0 where no Python code is running. Runs no Python code, and leaves an error that is set. */
uintptr_t nm__stacks_site(void *stacks);
int nm__stacks_add(PyObject *module);

#endif
