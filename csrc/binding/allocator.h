/* The type Allocator: alloc, free and resize of every allocator, whose calls are too hot for cffi. The facade's classes
 * inherit it; what an allocator can do beyond these three is its control plane's, or in lifetime.c.
 */
#ifndef NM__ALLOCATOR_H
#define NM__ALLOCATOR_H

#include "binding/objects.h"

bool nm__is_allocator(PyObject *thing); /* an attached one */
PyObject *nm__allocator_handle(PyObject *allocator); /* a new reference: keeps its structures, and the budgets it charges */
/* As the allocator's alloc; zero: wiped. Pre: nm__is_allocator. */
PyObject *nm__allocator_new_block(PyObject *allocator, size_t size, size_t align, bool zero);
/* The Block of memory that the allocator's port gave: live, on the chain, with a reference to the allocator.
 * Pre: nm__block_prepare(). */
PyObject *nm__allocator_block_at(BlockObject *spare, AllocatorObject *a, char *ptr, size_t size, size_t align);
/* The block, if it is one of this allocator's, live and without exports; else NULL with an error set. action: what was to
 * be done; when_freed: what nm__raise_block calls a block that was freed. */
BlockObject *nm__allocator_own_block(AllocatorObject *a, PyObject *arg, const char *action, const char *when_freed);
/* One that stood on it is closed, or gone; wraps: it was in its chain. */
void nm__allocator_leave_upstream(AllocatorObject *upstream, bool wraps);
/* The port of an allocator that is closed, or not attached yet: each call fails with NM_CLOSED. */
extern const nm_methods nm__closed_methods;
int nm__allocator_add(PyObject *module);

#endif
