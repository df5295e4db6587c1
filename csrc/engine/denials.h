/* The MemoryErrors of a thread that ran into a limit: which one is due, and when it is raised.
 *
 * A block that was had from the overdraft owes an error to the code that asked. In the main thread it is raised at the next
 * safe point in the eval loop where the code can bear it; in another one at the end of the call that is under way, or at the
 * end of the scope. An error that was raised begins a spell: half of the overdraft is had in silence until the budget has
 * recovered, so that what still needs a little, to tell of the error or to end, does not get one error after another.
 */
#ifndef NM__DENIALS_H
#define NM__DENIALS_H

#include "engine/charge.h"
#include "engine/insides.h"

#pragma GCC visibility push(hidden) /* so that no access takes a detour through a table of the loader's */

/* What the engine has Python code do at a safe point, or before a request is refused: the layer above sets the functions
 * when the module is made, so that the engine knows nothing of it. */
typedef struct nm__watcher_table {
    /* Calls the watchers of budgets with what was noted, at no owner's charge. -1 with an error set: an interrupt. */
    int (*tell)(void);
    /* Asks the watchers for room: 1 where one was called, 0 where none was, -1 with an error set for an interrupt. Pre: both
     * budgets are held. */
    int (*ask)(nm_budget *charged, nm_budget *refuser);
    /* Runs what is left to run of blocks that arrays had. */
    void (*drain)(void);
} nm__watcher_table;
extern nm__watcher_table nm__watchers;

/* A thread's errors. The one that is due is kept here where the process's limit stood in the way, with the owner where the
 * owner's did. */
typedef struct nm__denial_state {
    bool due; /* to be raised at a safe point */
    bool told; /* it got an error after its last safe point: what it takes until the next is for handling that */
    unsigned handling; /* the same for a thread that is not called back: blocks */
    PyThreadState *thread; /* that the interpreter is to raise an owner's error in, or NULL */
    size_t lent; /* beyond every limit since the last safe point or refusal, less what it freed of that */
    size_t lent_to_spared; /* less what it freed of that */
    bool making; /* a MemoryError: it is not refused */
    nm__refusal refusal; /* that the due one is about */
    nm__place places[NM_INSIDES_PLACES]; /* where it was that something was overdrawn last */
} nm__denial_state;
extern NM_TLS nm__denial_state nm__denial_here;

/* A spell has begun and was not seen to end: slow paths that got memory look whether the budget has recovered. */
extern atomic_bool nm__denial_is_told;
void nm__denial_look_for_recovery(void);
bool nm__denial_may_be_silent(nm__owner *o);

/* What budgets have to tell, what is left of arrays' blocks, and errors that are due, come at the main thread's next safe
 * point. */
void nm__denial_wait_for_safe_point(void);
bool nm__denial_is_main_thread(void);
bool nm__denial_has_safe_points(void);

/* A block was had from the overdraft: an error is due from now on. Whether that is news. */
bool nm__denial_put_off(nm__owner *o, PyThreadState *thread);
/* The thread gets its error now. */
void nm__denial_tell(nm__owner *o, bool raw);
/* It gets one for a request that has no overdraft. */
void nm__denial_refused(void);
/* Sees that the interpreter has raised the error that was left to it. */
void nm__denial_notice_raised(void);
/* The owner's scope ends in this thread: whether an error is due that the code in it has not got. */
bool nm__denial_take_due(nm__owner *o);
/* The thread is about to allocate in another name: an error that the owner's code was to get waits until it runs again. */
void nm__denial_leave_owner(nm__owner *o);
/* Before a refusal there is a MemoryError to raise. */
void nm__denial_keep_error_ready(void);

#pragma GCC visibility pop

#endif
