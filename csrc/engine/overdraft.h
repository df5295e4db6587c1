/* Small blocks beyond what a budget lets a heap take.
 *
 * CPython has places that crash, or try for ever, where a small block is refused. So no heap refuses the interpreter a
 * small block outright: what no superblock can be charged for is charged here, block by block. First within the limit;
 * then from the part of the limit that is kept for this, the overdraft, and the thread gets a MemoryError where it can
 * bear one, at its next safe point in the eval loop or at the end of its scope. When the overdraft is used up the
 * request is refused, but never two small ones in a row.
 */
#ifndef NM__OVERDRAFT_H
#define NM__OVERDRAFT_H

#include "engine/python.h"

#include "heap/heap.h"
#include "engine/scopes.h"

/* What the engine has Python code do at a safe point, or before a request is refused: the layer above sets the functions
 * when the module is made, so that the engine knows nothing of it. */
typedef struct nm__watcher_table {
    /* Calls the watchers of budgets with what was noted. -1 with an error set: an interrupt. */
    int (*tell)(void);
    /* Asks the watchers for room: 1 where one was called, 0 where none was, -1 with an error set for an interrupt. Pre: both
     * budgets are held. */
    int (*ask)(nm_budget *charged, nm_budget *refuser);
    /* Runs what is left to run of blocks that arrays had. */
    void (*drain)(void);
} nm__watcher_table;
extern nm__watcher_table nm__watchers;

/* Before the first call of the rest; false: out of memory. process: what all of it is charged to, beside an owner. */
bool nm__overdraft_start(nm_budget *process, bool secure);

/* Pre: a heap has refused. NULL: refused, and the denial is remembered; the status slot says why. With the interpreter's
 * lock; `raw` without, and then only the process is charged and no error is raised later. */
void *nm__overdraft_take(size_t size, bool zeroed, bool raw);

/* Pre: the system has refused, and neither a limit nor an owner is there. What the interpreter would ask for again and again,
 * or NULL. With its lock. */
void *nm__overdraft_take_unbounded(size_t size, bool zeroed);

extern nm_heap *nm__overdraft_heap; /* NULL before the start */
/* Pre: the page of a block. */
NM_INLINE bool nm__overdraft_owns(const nm__page *page) {
    return page->theap != NULL ? page->theap->heap == nm__overdraft_heap
                               : page->kind == NM__SPAN && page->cells.free == nm__overdraft_heap;
}
/* Pre: of its own. */
nm_status nm__overdraft_give(void *ptr);

/* What budgets have to tell, what is left of arrays' blocks, and errors that are due, come at the main thread's next safe point. */
void nm__overdraft_wait_for_safe_point(void);
/* After an error half of the overdraft is had in silence, until the budget has recovered: what still needs a little, to
 * tell of the error or to end, is not to get one after another. Slow paths that got memory ask whether it has. */
extern atomic_bool nm__overdraft_is_told;
void nm__overdraft_look_for_recovery(void);
/* The thread gets an error for a request that has no overdraft. */
void nm__overdraft_refused(void);
/* The owner's scope ends in this thread: whether an error is due that the code in it has not got. */
bool nm__overdraft_is_due(nm__owner *o);
/* The thread is about to allocate in another name: an error that the owner's code was to get waits until it runs again. */
void nm__overdraft_leave_owner(nm__owner *o);

void nm__overdraft_add_census(nm_census *sum);

#endif
