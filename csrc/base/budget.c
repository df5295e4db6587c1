/* A charge walks from the leaf to the root and rolls back on a refusal. While it is under way the leaf
 * already counts it, so another charge may be refused that would have passed a moment later; never the
 * reverse. Peaks are settled only when the whole charge has passed. */
#include "nativemem/budget.h"

#include <sched.h>

#include "base/base.h"

/* Invariants:  used <= limit whenever a charge passes (set_limit may go below used);  peak >= used. */
struct nm_budget {
    nm__counter used, limit, held_back, peak, denied;
    nm_budget *parent;
    pthread_mutex_t lock; /* last, has_last */
    nm_denial last;
    bool has_last;
};

const char *nm_budget_check(const nm_budget *b) {
    for (; b != NULL; b = b->parent) {
        if (nm__get(&b->peak) < nm__get(&b->used)) return "used is above peak";
        if (b->parent != NULL && nm__get(&b->parent->used) < nm__get(&b->used)) return "a parent uses less than its child";
    }
    return NULL;
}

nm_budget *nm_budget_create(size_t limit, nm_budget *parent) {
    nm_budget *b = nm__meta_alloc(sizeof *b);
    if (b == NULL) return NULL;
    nm__set(&b->limit, limit);
    b->parent = parent;
    (void)pthread_mutex_init(&b->lock, NULL);
    return b;
}

/* Saturates: who releases at a parent what was charged through a child takes it from there once only. */
static void discharge(nm_budget *b, size_t n) {
    for (; b != NULL; b = b->parent) {
        size_t used = nm__get(&b->used);
        while (!atomic_compare_exchange_weak_explicit(&b->used, &used, used > n ? used - n : 0,
                                                      memory_order_relaxed, memory_order_relaxed)) {
        }
    }
}

void nm_budget_destroy(nm_budget *b) {
    if (b == NULL) return;
    discharge(b->parent, nm__get(&b->used));
    (void)pthread_mutex_destroy(&b->lock);
    nm__meta_free(b);
}

/* The lock is held for a few stores. In a child of fork it may be held by a thread that is not there: what was
 * denied last is not worth waiting for ever. */
static bool lock_briefly(nm_budget *b) {
    for (int i = 0; i < 1000; i++) {
        if (pthread_mutex_trylock(&b->lock) == 0) return true;
        (void)sched_yield();
    }
    return false;
}

static void remember(nm_budget *b, const nm_denial *denial) {
    nm__atomic_add(&b->denied, 1);
    if (!lock_briefly(b)) return;
    b->last = *denial;
    b->has_last = true;
    pthread_mutex_unlock(&b->lock);
}

static bool charge(nm_budget *b, size_t n, nm_denial *denial) {
    size_t used = nm__get(&b->used);
    size_t after;
    do {
        size_t limit = nm__get(&b->limit);
        size_t held_back = nm__get(&b->held_back);
        if (!nm_add(used, n, &after) || after > (held_back < limit ? limit - held_back : 0)) {
            *denial = (nm_denial){n, used, limit, b, nm__os_time_ns()};
            return false;
        }
    } while (!atomic_compare_exchange_weak_explicit(&b->used, &used, after, memory_order_relaxed,
                                                    memory_order_relaxed));
    if (b->parent != NULL && !charge(b->parent, n, denial)) {
        nm__atomic_sub(&b->used, n);
        return false;
    }
    return true;
}

void nm__budget_settle(nm_budget *b) {
    for (; b != NULL; b = b->parent) nm__atomic_max(&b->peak, nm__get(&b->used));
}

bool nm__budget_hold(nm_budget *b, size_t n) {
    nm_denial denial;
    if (NM_LIKELY(charge(b, n, &denial))) return true;
    remember(b, &denial);
    if (denial.refuser != b) remember((nm_budget *)denial.refuser, &denial);
    (void)nm__fail(NM_OVER_BUDGET, denial.requested, denial.used, denial.limit);
    return false;
}

bool nm_budget_charge(nm_budget *b, size_t n) {
    if (!nm__budget_hold(b, n)) return false;
    nm__budget_settle(b);
    return true;
}

bool nm__budget_try(nm_budget *b, size_t n) {
    nm_denial denial;
    if (charge(b, n, &denial)) return true;
    (void)nm__fail(NM_OVER_BUDGET, denial.requested, denial.used, denial.limit);
    return false;
}

nm_status nm_budget_release(nm_budget *b, size_t n) {
    size_t used = nm__get(&b->used);
    do {
        if (n > used) return nm__fail(NM_UNDERFLOW, n, used, nm__get(&b->limit));
    } while (!atomic_compare_exchange_weak_explicit(&b->used, &used, used - n, memory_order_relaxed,
                                                    memory_order_relaxed));
    discharge(b->parent, n);
    return NM_OK;
}

void nm__budget_hold_back(nm_budget *b, size_t n) { nm__set(&b->held_back, n); }
void nm_budget_set_limit(nm_budget *b, size_t limit) { nm__set(&b->limit, limit); }
size_t nm_budget_used(const nm_budget *b) { return nm__get(&b->used); }
size_t nm_budget_peak(const nm_budget *b) {
    size_t used = nm__get(&b->used), peak = nm__get(&b->peak);
    return peak > used ? peak : used;
}
size_t nm_budget_limit(const nm_budget *b) { return nm__get(&b->limit); }
size_t nm_budget_denied(const nm_budget *b) { return nm__get(&b->denied); }

bool nm_budget_last_denial(nm_budget *b, nm_denial *out) {
    if (!lock_briefly(b)) return false;
    bool has = b->has_last;
    if (has) *out = b->last;
    pthread_mutex_unlock(&b->lock);
    return has;
}
