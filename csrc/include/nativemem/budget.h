/* Budget: a limit on bytes, with ancestors. It holds no memory; it only says yes or no.
 *
 * A charge of n passes if used + n <= limit here and in every ancestor, all or nothing; exactly the limit
 * passes. The limit is checked by a compare-and-swap that includes the sum, so it is never exceeded at any
 * instant. Every function is safe from any thread.
 */
#ifndef NATIVEMEM_BUDGET_H
#define NATIVEMEM_BUDGET_H

#include "nativemem/base.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nm_budget nm_budget;

/* The last charge that was refused. refuser is the budget whose limit stood in the way. */
typedef struct nm_denial {
    size_t requested;
    size_t used;
    size_t limit;
    const nm_budget *refuser;
    int64_t time_ns; /* CLOCK_REALTIME */
} nm_denial;

/* limit >= 1. parent may be NULL and must outlive the budget. A charge recurses to the root, so trees of
 * thousands of levels want a stack to match. NULL: out of memory. */
nm_budget *nm_budget_create(size_t limit, nm_budget *parent);
/* Gives back to the ancestors whatever is still charged here. */
void nm_budget_destroy(nm_budget *b);

/* false: refused, nothing charged anywhere, denial remembered here and at the refuser, reason in the slot. */
bool nm_budget_charge(nm_budget *b, size_t n);
/* NM_UNDERFLOW: more than is used; nothing changed. */
nm_status nm_budget_release(nm_budget *b, size_t n);
/* A limit below what is used is taken: it refuses every charge until enough was released. */
void nm_budget_set_limit(nm_budget *b, size_t limit);

size_t nm_budget_used(const nm_budget *b);
size_t nm_budget_peak(const nm_budget *b);
size_t nm_budget_limit(const nm_budget *b);
size_t nm_budget_denied(const nm_budget *b); /* refused charges that this budget saw, as leaf or as refuser */
const char *nm_budget_check(const nm_budget *b); /* while no charge is under way */
bool nm_budget_last_denial(nm_budget *b, nm_denial *out);

#ifdef __cplusplus
}
#endif
#endif
