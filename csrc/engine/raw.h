/* The heap under CPython's raw domain, beneath the interpreter, where its lock need not be held.
 *
 * No owner is looked up, so it has a heap that no owner has. It cannot tell a thread without the interpreter's lock from one
 * with it, and so it never touches an object.
 */
#ifndef NM__RAW_H
#define NM__RAW_H

#include "engine/census.h"
#include "engine/python.h"

bool nm__raw_may_stand(void); /* no hook of others is in the way */
bool nm__raw_serves(void);
/* Gives back a block of this heap's, or of the objects', which an allocator of the interpreter's did not know. false: it is none.
 * Pre: an address of the region. */
bool nm__raw_give(void *ptr);
void nm__raw_add_census(nm_census *sum);
int nm__raw_add(PyObject *module);

#endif
