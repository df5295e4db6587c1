/* The entries of scopes: one for each `with budget:`, on the list that a context variable holds.
 *
 * An entry that a generator or coroutine made counts only while that runs; a generator's wherever that runs. Which of them
 * run in a thread is told by the thread's stack of handled exceptions (nm__insides_item_of).
 */
#ifndef NM__ENTRIES_H
#define NM__ENTRIES_H

#include "engine/insides.h"
#include "engine/owners.h"
#include "tuning.h"

/* One `with`. The value of the variable is the innermost, or None. */
typedef struct EntryObject {
    PyObject_HEAD
    OwnerObject *owner;
    struct EntryObject *outer;
    PyFrameObject *frame; /* of the generator or coroutine that entered; NULL: a plain function did, for its context */
    PyObject *callers; /* NULL, or a tuple of frames of generators and coroutines, the nearest first: see scope_callers_of */
    struct EntryObject *newer, *older, **list; /* of those that have not ended; `list` NULL: it is in none */
    const void *item; /* of the generator or coroutine that it was made in, or NULL: see nm__insides_item_of */
    struct EntryObject *stray; /* that it was made within, or NULL: see nm__active_find_stray */
    PyObject *context; /* that it was made in */
    PyObject *token;   /* of the variable, for nm__active_set_back; or NULL */
    struct EntryObject *covered; /* what the variable had then; to be compared, while there is the token, which has it */
    PyObject *asleep; /* NULL, or a tuple of outer ones whose generators did not run when it was made */
    bool ended;
    bool elsewhere; /* ended in another context: a copy of its own has it still */
    bool of_generators; /* this one or an outer one has been made by a generator or coroutine */
    uint64_t number; /* in the order in which all were made */
    bool of_with; /* which ends it before its frame ends */
    bool roams; /* a generator's or async generator's, which other contexts may resume */
    struct EntryObject *next; /* of those that have outlived their context */
} EntryObject;

extern PyTypeObject nm__entry_type;
/* An entry that is of nothing yet, not tracked, and counted in nm__charge_scopes: to be given back, as any. NULL with an error
 * set: no memory. */
EntryObject *nm__entry_new(void);

/* A thread has a stack of the exceptions that are being handled, and each generator that runs has its item there, the
 * innermost on top: so it tells which generators run in the thread. Items may be other extensions', whose generators
 * are not the interpreter's: their addresses are compared, nothing but the next item is read. */
#define NM__EACH_RUNNING(item, thread)                                              \
    const _PyErr_StackItem *item = (thread)->exc_info;                              \
    item != NULL && item->previous_item != NULL; /* the last is the thread's own */ \
    item = item->previous_item

/* Those that have not ended, the newest of each list first: by item; in the last list those that may come to be of
 * another one. */
extern EntryObject *nm__entry_lists[NM_SCOPE_LISTS + 1];
EntryObject **nm__entry_list_of(const void *item);
void nm__entry_list(EntryObject *e);
void nm__entry_unlist(EntryObject *e);

/* How many generators run in this thread inside the frame's. SIZE_MAX: it does not run here. */
size_t nm__entry_depth_of(PyFrameObject *f, const PyThreadState *thread);
/* The generator or coroutine that an entry was made in, or, when that has ended, the nearest of those that it ran in: the
 * frame, borrowed, or NULL. */
PyFrameObject *nm__entry_home(const EntryObject *e);
/* The frame that an entry counts with: when a generator or coroutine has ended with its scope open, what goes on in it is
 * the code that called. NULL: it counts in all of its context. */
static inline PyFrameObject *nm__entry_frame(const EntryObject *e) { return e->frame == NULL ? NULL : nm__entry_home(e); }
/* Whether it has ended, or its generator is gone without having left it: one that yields when it is closed. */
static inline bool nm__entry_is_over(const EntryObject *e) {
    return e->ended || (e->of_with && e->frame != NULL && nm__insides_item_of(e->frame) == NULL);
}
/* Whether it counts in the thread. */
static inline bool nm__entry_is_active(const EntryObject *e, const PyThreadState *thread) {
    if (e->context != thread->context) return !e->elsewhere; /* inherited */
    if (nm__entry_is_over(e)) return false;
    PyFrameObject *f = nm__entry_frame(e);
    return f == NULL || nm__entry_depth_of(f, thread) != SIZE_MAX;
}
/* Looks at a few of those that have outlived their context. */
void nm__entry_collect_orphans(void);
int nm__entries_add(PyObject *module);

#endif
