/* Budget: a limit on bytes, with ancestors. It holds no memory; it only says yes or no.
 *
 * A charge of n passes if n bytes are left here and in every ancestor, all or nothing; exactly the limit passes. What
 * is left is one number, taken by a compare-and-swap, and a limit is lowered by taking from it like a charge: so no
 * limit is exceeded at any instant, whatever other threads charge, release or lend meanwhile. Every function is safe from
 * any thread.
 */
#ifndef NATIVEMEM_BUDGET_H
#define NATIVEMEM_BUDGET_H

#include "nativemem/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nm_budget nm_budget;

typedef struct nm_budget_options {
    double warn, critical; /* of the limit, in (0, 1]: where pressure begins; warn <= critical. 0: 1 */
    double max_single;     /* of the limit, in (0, 1]: the largest single charge. 0: any */
    double overcommit;     /* of the limit, >= 0: what may be used beyond it */
    size_t minimum;        /* rebalancing leaves the limit no lower */
    bool auto_rebalance;   /* a child's charge that would be refused takes unused limit from its siblings first */
    nm_budget *shared;     /* NULL, or the budget that charges of at most shared_max go to first; must outlive this one */
    size_t shared_max;
} nm_budget_options;

typedef enum nm_denial_kind { NM_DENIED_LIMIT = 0, NM_DENIED_SINGLE = 1, NM_DENIED_LOCKED = 2 } nm_denial_kind;

/* The last charge that was refused. refuser is the budget that stood in the way. */
typedef struct nm_denial {
    size_t requested;
    size_t used;
    size_t limit; /* what may be used at most: with overcommit more than the limit */
    const nm_budget *refuser;
    int64_t time_ns; /* CLOCK_REALTIME */
    int kind;        /* nm_denial_kind */
} nm_denial;

/* limit >= 1; above NM_SIZE_MAX it is NM_SIZE_MAX. parent may be NULL and must outlive the budget. A charge recurses to the root, so trees of
 * thousands of levels want a stack to match. options may be NULL. NULL: out of memory. */
nm_budget *nm_budget_create(size_t limit, nm_budget *parent, const nm_budget_options *options);
/* Gives back to the ancestors, and to the shared budget, whatever is still charged here. */
void nm_budget_destroy(nm_budget *b);

/* false: refused, nothing charged anywhere, denial remembered here and at the refuser, reason in the last failure. */
bool nm_budget_charge(nm_budget *b, size_t n);
/* NM_UNDERFLOW: more than is used; nothing changed. */
nm_status nm_budget_release(nm_budget *b, size_t n);
/* A limit below what is used is taken: it refuses every charge until enough was released. */
void nm_budget_set_limit(nm_budget *b, size_t limit);
/* For good: every charge is refused from now on. */
void nm_budget_lock(nm_budget *b);

size_t nm_budget_used(const nm_budget *b);
size_t nm_budget_peak(const nm_budget *b);
/* The most that was used since this was called last, or since the budget was made. The peak stays what it is. */
size_t nm_budget_take_peak(nm_budget *b);
/* Charges so far, here and in those below, also in those that are gone; and the bytes of all of them. */
typedef struct nm_charges {
    size_t count, bytes;
} nm_charges;
nm_charges nm_budget_charges(const nm_budget *b);
size_t nm_budget_limit(const nm_budget *b);
size_t nm_budget_denied(const nm_budget *b); /* refused charges that this budget saw, as leaf or as refuser */
size_t nm_budget_shared_used(const nm_budget *b); /* charged to the shared budget instead */
bool nm_budget_is_locked(const nm_budget *b);
const char *nm_budget_check(const nm_budget *b); /* while no charge is under way */
bool nm_budget_last_denial(nm_budget *b, nm_denial *out);

/* --- lending --- */

/* Moves n of from's limit to to's, where so much is unused; the sum of the two is the same before and after, and never
 * more in between. NM_OVER_BUDGET: less is unused, or fewer than from's minimum would be left; NM_TIMED_OUT: other
 * moves kept it waiting for timeout_ns. Nothing is changed then. */
nm_status nm_budget_lend(nm_budget *from, nm_budget *to, size_t n, int64_t timeout_ns);

typedef struct nm_move {
    const nm_budget *from, *to;
    size_t bytes;
} nm_move;
/* Among parent's children: from those below their warn level to those at or above it, so much that both end below it.
 * Writes at most cap moves and makes no more than it writes; returns how many. */
size_t nm_budget_rebalance(nm_budget *parent, nm_move *moves, size_t cap);

/* --- pressure --- */

typedef enum nm_pressure { NM_NORMAL = 0, NM_WARN = 1, NM_CRITICAL = 2, NM_FULL = 3 } nm_pressure;
nm_pressure nm_budget_pressure(const nm_budget *b);
/* Nothing is called when a level is crossed upwards: that is inside an allocation. It is kept until this call.
 * false: nothing is there. Else the budget, the level that it came to, and whether it came from NM_NORMAL. */
bool nm_budget_crossed(const nm_budget **b, int *level, bool *was_normal);

#ifdef __cplusplus
}
#endif
#endif
