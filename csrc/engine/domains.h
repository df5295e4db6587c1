/* The heap under CPython's object domains, `mem` and `obj`.
 *
 * The hooks are static functions that ignore their context. They are put into the interpreter's table once and stay there:
 * taking them out would race with calls under way and would send frees of our blocks to an allocator that does not know
 * them. What is not ours goes to the allocator that was there before. Both domains are hooked together and served by one
 * heap, because release builds let a block be taken in one and freed in the other.
 */
#ifndef NM__DOMAINS_H
#define NM__DOMAINS_H

#include "engine/python.h"

/* The domain in which the hook of others leaves no place for ours; NULL: none. *file: where that hook is from, or NULL. */
const char *nm__domain_stranger(const char **file);
bool nm__domain_serves(void);
/* false: it is no block of the engine's. Pre: an address of the region. */
bool nm__domain_give(void *ptr);
int nm__domain_add(PyObject *module);

#endif
