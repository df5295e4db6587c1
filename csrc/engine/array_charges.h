/* Arrays that an owner is charged for, each by itself: which owner, and how many bytes.
 *
 * A charge is made before the memory is had; then it is known by the array's address, or given back. An array keeps its
 * owner until it is forgotten.
 */
#ifndef NM__ARRAY_CHARGES_H
#define NM__ARRAY_CHARGES_H

#include "engine/census.h"
#include "engine/charge.h"

#pragma GCC visibility push(hidden) /* so that no access takes a detour through a table of the loader's */

extern nm_heap *nm__array_heap; /* of arrays that are charged; NULL: there has been no owner yet */
/* Before the first call of the rest. false: out of memory. */
bool nm__array_start(void);

/* To the owner of now. Pre: there is one. false: refused. */
bool nm__array_charge(size_t bytes);
bool nm__array_know(void *ptr, size_t bytes); /* false: out of memory */
void nm__array_credit(size_t bytes);
void nm__array_forget(void *ptr);

/* A realloc: charged first, to the owner of now; then what came of it, NULL for nothing. */
typedef struct nm__recharge {
    nm__owner *owner, *before;
    size_t bytes, had, more;
} nm__recharge;
bool nm__array_recharge(void *ptr, size_t bytes, nm__recharge *change); /* false: refused */
void nm__array_moved(const nm__recharge *change, void *ptr, void *moved);

void nm__array_add_census(nm_census *sum);
int nm__array_charges_add(PyObject *module);

#pragma GCC visibility pop

#endif
