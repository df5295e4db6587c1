/* The place of a hook in the interpreter's table of allocators, among hooks of others.
 *
 * A hook that stands before another's is lost when the other one ends: it puts back what it had found. Blocks would then
 * be freed into an allocator that does not know them. So a place is taken only before the interpreter's own allocator,
 * and beneath the interpreter's own debug hooks, which keep what they stand on where it can be exchanged.
 */
#ifndef NM__PLACE_H
#define NM__PLACE_H

#include <stdatomic.h>

#include "engine/python.h"

typedef enum {
    NM__PLACE_FREE,  /* the interpreter's own allocator is there */
    NM__PLACE_OURS,  /* the hook is */
    NM__PLACE_THEIRS /* another's hook is, perhaps above ours */
} nm__place_state;

/* An address of the interpreter's code. */
const void *nm__place_python_code(void);

nm__place_state nm__place_look(PyMemAllocatorDomain domain, const PyMemAllocatorEx *hook);
/* Pre: the place is free. What calls are to be passed on to is in before first, then *told is true; only then does the
 * hook stand in the table, where threads without the interpreter's lock may find it. Lock: the interpreter's. */
void nm__place_take(PyMemAllocatorDomain domain, PyMemAllocatorEx *hook, PyMemAllocatorEx *before, atomic_bool *told);
/* Pre: the place is another's. The file that its code is from, borrowed from the loader; NULL where it has none. */
const char *nm__place_owner(PyMemAllocatorDomain domain);

/* As take, also where the hook stood once: another's that had ended may have put back what it found long ago. */
void nm__place_stand(PyMemAllocatorDomain domain, PyMemAllocatorEx *hook, PyMemAllocatorEx *before, atomic_bool *hooked);
/* Whether the hook can be put there, or is reached through whatever stands above it. hooked: it stood there before; mode: as
 * in engine.h, of the hook. */
bool nm__place_may_stand(PyMemAllocatorDomain domain, const PyMemAllocatorEx *hook, bool hooked, _Atomic int *mode);
/* Whether the hook serves: a hook that was taken out serves nothing. */
bool nm__place_serves(PyMemAllocatorDomain domain, const PyMemAllocatorEx *hook, _Atomic int *mode);

#endif
