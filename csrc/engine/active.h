/* Which entry counts now: the innermost that the running code is in, wherever its generators were resumed.
 *
 * The context variable gives the innermost entry of the thread's context. But generators may have been resumed since it was
 * made: within it, or in other contexts than their own. So the result cannot be kept where generators have entered.
 */
#ifndef NM__ACTIVE_H
#define NM__ACTIVE_H

#include "engine/entries.h"

/* The interpreter whose variable it is; NULL before there is one. Another interpreter has no owners. */
extern PyInterpreterState *nm__scope_home;
/* The innermost entry of the context, borrowed; NULL: none. */
EntryObject *nm__active_innermost(void);
/* Pre: collections are stopped. false with an error set. *token: what nm__active_set_back takes, a new reference, or NULL where there is no memory for it;
 * a NULL pointer where none is wanted. */
bool nm__active_set_innermost(EntryObject *e, PyObject **token);
/* Pre: the same. Has the variable as it was before it was set with the token, which ends: with no copy of its own for a value that it had
 * not. false: it is as it was, and no error is set. */
bool nm__active_set_back(PyObject *token);
/* Whether the context is the thread's, or one that was left for it for a while. */
bool nm__active_is_entered(const PyObject *context, const PyThreadState *thread);
/* How deep an entry's generator runs in this thread, if another context has resumed it; else SIZE_MAX, also where the entry's
 * own context has been left for another but for a while: code that does that wants the other's owner. */
size_t nm__active_depth_of_stray(const EntryObject *e, const PyThreadState *thread);
/* The innermost entry whose generator another context has resumed in this thread, borrowed, and how deep it runs; NULL, and
 * SIZE_MAX: none. */
EntryObject *nm__active_find_stray(const PyThreadState *thread, size_t *depth);
/* Borrowed; NULL: none. *unsettled: it is to be found out each time. Pre: innermost is what nm__active_innermost gives; it is the
 * thread's turn, for which the entry is there. */
EntryObject *nm__active_find(const PyThreadState *thread, EntryObject *innermost, bool *unsettled);
/* As nm__charge_find. */
void nm__active_sync(PyThreadState *thread);
/* The same, where the innermost is known. Pre: this is the interpreter that has owners. */
void nm__active_sync_to(PyThreadState *thread, EntryObject *innermost);
int nm__active_add(PyObject *module);

#endif
