/* A charge walks from the leaf to the root and rolls back on a refusal. While it is under way the leaf
 * already counts it, so another charge may be refused that would have passed a moment later; never the
 * reverse. Peaks and pressure are settled only when the whole charge has passed. */
#define _POSIX_C_SOURCE 200809L /* pthread_mutex_timedlock */
#include "nativemem/budget.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <time.h>

#include "base/events.h"
#include "tuning.h"

#define BUDGET_LEVELS 4

/* Invariants:
 *   room == allowed - held_back;  used == room - left, where limits are not on the move;
 *   left >= 0 whenever a charge has passed, left >= -held_back whenever an overdraft has (set_limit and hold_back may
 *   take it below either);  peak >= used.
 * Where limits move, left is taken from before the limit is lowered, and added to after it was raised: what reads both
 * sees too much in use rather than too little, but never more than is allowed. */
struct nm_budget {
    _Atomic int64_t left, room;
    _Atomic int64_t alarm, calm; /* the level rises where left <= alarm, falls where left >= calm */
    nm__counter count, bytes;  /* charges that began here, and what they were of */
    nm__counter recent;        /* the peak since it was taken last; at most peak */
    nm__counter limit, allowed, held_back, peak, denied, overruns, in_shared;
    nm__counter single; /* the largest charge; 0 once locked */
    nm__counter moves;  /* of limits; odd while one is under way */
    atomic_bool locked;
    _Atomic int level;
    nm_budget *parent;
    nm_budget_options o;
    pthread_mutex_t lock; /* last, has_last */
    nm_denial last;
    bool has_last;
    char name[NM__EVENT_NAME]; /* empty: it is in no event */
    /* under the lock of all */
    nm_charges past; /* of children that are gone */
    nm_budget *children, *next, *prev; /* siblings */
    nm_budget *next_crossed;
    uint16_t crossed[2][BUDGET_LEVELS]; /* by whether the level before was NM_NORMAL, and the one reached */
    bool is_listed, is_unwatched;
};

/* The lock is for limits, levels and the tree. Nothing is waited for while it is held. */
static struct {
    pthread_mutex_t lock;
    nm_budget *crossed;
} budgets = {.lock = PTHREAD_MUTEX_INITIALIZER};
atomic_bool nm__pressed;

static void budgets_before_fork(void) { pthread_mutex_lock(&budgets.lock); }
static void budgets_after_fork(void) { pthread_mutex_unlock(&budgets.lock); }
static void budgets_register_forks(void) { (void)pthread_atfork(budgets_before_fork, budgets_after_fork, budgets_after_fork); }

void nm__budget_register_forks(void) {
    static pthread_once_t done = PTHREAD_ONCE_INIT;
    (void)pthread_once(&done, budgets_register_forks);
}

/* Sequentially consistent, as budget_set_level needs it. */
NM_INLINE int64_t budget_left(const nm_budget *b) { return atomic_load((_Atomic int64_t *)&b->left); }
NM_INLINE int64_t budget_room(const nm_budget *b) {
    return atomic_load_explicit((_Atomic int64_t *)&b->room, memory_order_acquire);
}

static size_t budget_used(const nm_budget *b) {
    size_t used = 0;
    for (int i = 0; i < NM_BUDGET_READS; i++) {
        size_t moves = nm__get_first(&b->moves);
        int64_t room = budget_room(b), left = budget_left(b);
        used = room > left ? (size_t)(room - left) : 0;
        atomic_thread_fence(memory_order_acquire);
        if (moves % 2 == 0 && nm__get(&b->moves) == moves) break;
    }
    return used;
}

/* ---- events ----------------------------------------------------------------------------------------- */

static NM_COLD void budget_note(nm__event_kind kind, const nm_budget *b, const nm_budget *other, size_t requested, int detail) {
    if (b->name[0] == 0 && other != NULL) b = other, other = NULL;
    if (b->name[0] == 0) return;
    nm__event event = {
        .kind = kind, .detail = (uint32_t)detail, .requested = requested, .used = budget_used(b), .limit = nm__get(&b->limit)};
    memcpy(event.name, b->name, sizeof event.name);
    if (other != NULL && other != b) memcpy(event.other, other->name, sizeof event.other);
    nm__event_note(event);
}

void nm__budget_introduce(nm_budget *b, const char *name) {
    size_t i = 0;
    for (; i < sizeof b->name - 1 && name[i] != 0; i++) b->name[i] = name[i];
    b->name[i] = 0;
    budget_note(NM__EVENT_MADE, b, NULL, 0, 0);
}

void nm__budget_renew(nm_budget *b, const char *name) {
    pthread_mutex_lock(&b->lock);
    b->has_last = false;
    pthread_mutex_unlock(&b->lock);
    nm__counter *counters[] = {&b->count, &b->bytes, &b->denied, &b->overruns};
    for (size_t i = 0; i < sizeof counters / sizeof *counters; i++) nm__set(counters[i], 0);
    size_t used = budget_used(b);
    nm__set(&b->recent, used); /* first: it is never above the peak */
    nm__set(&b->peak, used);
    nm__budget_introduce(b, name);
}

/* ---- levels: under the lock of all ------------------------------------------------------------------ */

static size_t budget_part_of(double fraction, size_t limit) {
    double bytes = fraction * (double)limit;
    if (bytes >= (double)limit) return limit;
    size_t down = (size_t)bytes;
    return (double)down < bytes ? down + 1 : down;
}

/* The bytes in use at which a level begins. Full is a budget when nothing is left but the overdraft. */
static size_t budget_level_from(const nm_budget *b, int level) {
    size_t limit = nm__get(&b->limit), held = nm__get(&b->held_back), full = held < limit ? limit - held : 0;
    size_t from = level == NM_FULL ? full : budget_part_of(level == NM_WARN ? b->o.warn : b->o.critical, limit);
    return from < full ? from : full;
}

static int budget_level_at(const nm_budget *b, size_t used) {
    int level = NM_FULL;
    while (level > NM_NORMAL && used < budget_level_from(b, level)) level--;
    return level;
}

static void budget_note_crossing(nm_budget *b, int before, int level) {
    budget_note(NM__EVENT_PRESSURE, b, NULL, 0, level);
    if (b->is_unwatched) return;
    uint16_t *count = &b->crossed[before == NM_NORMAL][level];
    if (*count < UINT16_MAX) ++*count;
    if (!b->is_listed) {
        b->is_listed = true;
        b->next_crossed = budgets.crossed;
        budgets.crossed = b;
    }
    atomic_store_explicit(&nm__pressed, true, memory_order_release);
}

/* A thread that changes left after alarm and calm were set looks at them; one that did before is seen by the second look.
 * Orders: each of the two stores, then loads what the other stores, so all four are sequentially consistent: with less,
 * both may see the state before, and the level stays wrong until the next change. */
static void budget_set_level(nm_budget *b) {
    int level;
    do {
        level = budget_level_at(b, budget_used(b));
        int before = atomic_exchange(&b->level, level);
        if (level > before) budget_note_crossing(b, before, level);
        int64_t room = budget_room(b);
        int64_t alarm = level == NM_FULL ? INT64_MIN : room - (int64_t)budget_level_from(b, level + 1);
        int64_t calm = level == NM_NORMAL ? INT64_MAX : room - (int64_t)budget_level_from(b, level) + 1;
        atomic_store(&b->alarm, alarm);
        atomic_store(&b->calm, calm);
    } while (budget_level_at(b, budget_used(b)) != level);
}

static NM_COLD void budget_review(nm_budget *b) {
    pthread_mutex_lock(&budgets.lock);
    budget_set_level(b);
    pthread_mutex_unlock(&budgets.lock);
}

void nm__budget_is_unwatched(nm_budget *b) { b->is_unwatched = true; }

nm_pressure nm_budget_pressure(const nm_budget *b) { return (nm_pressure)budget_level_at(b, budget_used(b)); }

bool nm_budget_crossed(const nm_budget **out, int *level, bool *was_normal) {
    bool found = false;
    pthread_mutex_lock(&budgets.lock);
    for (nm_budget *b; !found && (b = budgets.crossed) != NULL;) {
        for (int i = 0; i < 2 * BUDGET_LEVELS && !found; i++) {
            uint16_t *count = &b->crossed[i % 2][i / 2];
            if (*count == 0) continue;
            --*count;
            *out = b;
            *level = i / 2;
            *was_normal = i % 2 != 0;
            found = true;
        }
        if (!found) {
            budgets.crossed = b->next_crossed;
            b->is_listed = false;
        }
    }
    if (!found) atomic_store_explicit(&nm__pressed, false, memory_order_relaxed);
    pthread_mutex_unlock(&budgets.lock);
    return found;
}

/* ---- limits: under the lock of all ------------------------------------------------------------------ */

static void budget_begin_move(nm_budget *b) { (void)atomic_fetch_add(&b->moves, 1); }
static void budget_end_move(nm_budget *b) { (void)atomic_fetch_add(&b->moves, 1); }

/* All that hangs on the limit. The overcommitted bytes stay as they are unless it was set anew. */
static void budget_put_limit(nm_budget *b, size_t limit, size_t allowed) {
    nm__set(&b->limit, limit);
    nm__set(&b->allowed, allowed);
    atomic_store(&b->room, (int64_t)allowed - (int64_t)nm__get(&b->held_back));
    if (!atomic_load(&b->locked))
        nm__set(&b->single, b->o.max_single > 0 ? (size_t)(b->o.max_single * (double)limit) : NM_SIZE_MAX);
}

static size_t budget_with_overcommit(const nm_budget *b, size_t limit) {
    double more = b->o.overcommit * (double)limit;
    return more < (double)(NM_SIZE_MAX - limit) ? limit + (size_t)more : NM_SIZE_MAX;
}

static void budget_raise_limit(nm_budget *b, size_t limit, size_t allowed) {
    int64_t more = (int64_t)(allowed - nm__get(&b->allowed));
    budget_begin_move(b);
    budget_put_limit(b, limit, allowed);
    (void)atomic_fetch_add(&b->left, more);
    budget_end_move(b);
    budget_set_level(b);
}

/* even_used: although less than that is left. */
static bool budget_lower_limit(nm_budget *b, size_t limit, size_t allowed, bool even_used) {
    int64_t less = (int64_t)(nm__get(&b->allowed) - allowed), left = budget_left(b);
    bool done = true;
    budget_begin_move(b);
    do {
        if (left < less && !even_used) done = false;
    } while (done && !atomic_compare_exchange_weak(&b->left, &left, left - less));
    if (done) budget_put_limit(b, limit, allowed);
    budget_end_move(b);
    if (done) budget_set_level(b);
    return done;
}

void nm_budget_set_limit(nm_budget *b, size_t limit) {
    if (limit > NM_SIZE_MAX) limit = NM_SIZE_MAX;
    size_t allowed = budget_with_overcommit(b, limit);
    pthread_mutex_lock(&budgets.lock);
    size_t before = nm__get(&b->limit);
    if (allowed >= nm__get(&b->allowed)) budget_raise_limit(b, limit, allowed);
    else (void)budget_lower_limit(b, limit, allowed, true);
    if (limit != before) budget_note(NM__EVENT_LIMIT, b, NULL, before, 0);
    pthread_mutex_unlock(&budgets.lock);
}

static void budget_hold_back(nm_budget *b, size_t n) {
    size_t held = nm__get(&b->held_back), allowed = nm__get(&b->allowed);
    if (n > allowed) n = allowed;
    budget_begin_move(b);
    if (n >= held) (void)atomic_fetch_sub(&b->left, (int64_t)(n - held));
    nm__set(&b->held_back, n);
    atomic_store(&b->room, (int64_t)allowed - (int64_t)n);
    if (n < held) (void)atomic_fetch_add(&b->left, (int64_t)(held - n));
    budget_end_move(b);
    budget_set_level(b);
}

void nm__budget_hold_back(nm_budget *b, size_t n) {
    pthread_mutex_lock(&budgets.lock);
    budget_hold_back(b, n);
    pthread_mutex_unlock(&budgets.lock);
}

void nm_budget_lock(nm_budget *b) {
    pthread_mutex_lock(&budgets.lock);
    atomic_store(&b->locked, true);
    nm__set_last(&b->single, 0);
    budget_note(NM__EVENT_LOCKED, b, NULL, 0, 0);
    pthread_mutex_unlock(&budgets.lock);
}

/* ---- lending: under the lock of all ----------------------------------------------------------------- */

static bool budget_move_limit(nm_budget *from, nm_budget *to, size_t n) {
    size_t lower = nm__get(&from->limit), higher = nm__get(&to->limit);
    size_t least = from->o.minimum > 1 ? from->o.minimum : 1;
    if (lower < least || n > lower - least || nm__get(&to->allowed) > NM_SIZE_MAX - n) return false;
    if (!budget_lower_limit(from, lower - n, nm__get(&from->allowed) - n, false)) return false;
    budget_raise_limit(to, higher + n, nm__get(&to->allowed) + n);
    budget_note(NM__EVENT_LENT, from, to, n, 0);
    return true;
}

static bool budgets_lock_within(int64_t timeout_ns) {
    if (pthread_mutex_trylock(&budgets.lock) == 0) return true;
    if (timeout_ns <= 0) return false;
    int64_t until = nm__os_time_ns() + timeout_ns;
    struct timespec t = {.tv_sec = (time_t)(until / 1000000000), .tv_nsec = (long)(until % 1000000000)};
    return pthread_mutex_timedlock(&budgets.lock, &t) == 0;
}

nm_status nm_budget_lend(nm_budget *from, nm_budget *to, size_t n, int64_t timeout_ns) {
    if (!budgets_lock_within(timeout_ns)) return nm__fail(NM_TIMED_OUT, n, 0, 0);
    bool moved = from == to || budget_move_limit(from, to, n);
    pthread_mutex_unlock(&budgets.lock);
    return moved ? NM_OK : nm__fail(NM_OVER_BUDGET, n, budget_used(from), nm__get(&from->limit));
}

/* The least limit at which what is used is below the warn level. */
static size_t budget_comfortable(const nm_budget *b) {
    double bytes = (double)budget_used(b) / b->o.warn;
    return bytes < (double)NM_SIZE_MAX / 2 ? (size_t)bytes + 1 : NM_SIZE_MAX;
}

/* What an idle budget can do without. */
static size_t budget_can_spare(const nm_budget *b) {
    size_t limit = nm__get(&b->limit), keep = budget_comfortable(b);
    int64_t left = budget_left(b);
    if (keep < b->o.minimum) keep = b->o.minimum;
    if (keep >= limit || left <= 0 || budget_level_at(b, budget_used(b)) != NM_NORMAL) return 0;
    return limit - keep < (size_t)left ? limit - keep : (size_t)left;
}

/* From the siblings, in their order from *from on, up to need bytes. Returns what was moved. */
static size_t budget_gather(nm_budget *to, nm_budget **from, size_t need, nm_move *moves, size_t cap, size_t *count) {
    size_t sum = 0;
    while (*from != NULL && sum < need && *count < cap) {
        size_t n = *from == to ? 0 : budget_can_spare(*from);
        if (n > need - sum) n = need - sum;
        if (n != 0 && budget_move_limit(*from, to, n)) {
            moves[(*count)++] = (nm_move){*from, to, n};
            sum += n;
        }
        if (sum < need) *from = (*from)->next;
    }
    return sum;
}

size_t nm_budget_rebalance(nm_budget *parent, nm_move *moves, size_t cap) {
    size_t count = 0;
    pthread_mutex_lock(&budgets.lock);
    nm_budget *from = parent->children;
    for (nm_budget *to = parent->children; to != NULL && from != NULL && count < cap; to = to->next) {
        size_t limit = nm__get(&to->limit), want = budget_comfortable(to);
        if (budget_level_at(to, budget_used(to)) != NM_NORMAL && want > limit)
            (void)budget_gather(to, &from, want - limit, moves, cap, &count);
    }
    pthread_mutex_unlock(&budgets.lock);
    return count;
}

/* All that is missing, or nothing. */
static NM_COLD bool budget_take_from_siblings(nm_budget *b, size_t n) {
    nm_move moves[NM_BUDGET_MOST_GIVERS];
    size_t count = 0, sum = 0, need = 0;
    if (b->parent == NULL || !b->parent->o.auto_rebalance) return false;
    pthread_mutex_lock(&budgets.lock);
    int64_t left = budget_left(b);
    if (left < (int64_t)n) {
        need = (size_t)((int64_t)n - left);
        nm_budget *from = b->parent->children;
        sum = budget_gather(b, &from, need, moves, NM_BUDGET_MOST_GIVERS, &count);
        while (sum < need && count > 0) {
            count--;
            (void)budget_move_limit(b, (nm_budget *)moves[count].from, moves[count].bytes);
        }
    }
    pthread_mutex_unlock(&budgets.lock);
    return sum >= need;
}

/* ---- charging --------------------------------------------------------------------------------------- */

/* The lock is held for a few stores. In a child of fork it may be held by a thread that is not there: what was
 * denied last is not worth waiting for ever. */
static bool budget_lock_briefly(nm_budget *b) {
    for (int i = 0; i < NM_BUDGET_LOCK_TRIES; i++) {
        if (pthread_mutex_trylock(&b->lock) == 0) return true;
        (void)sched_yield();
    }
    return false;
}

static void budget_remember(nm_budget *b, const nm_denial *denial) {
    nm__atomic_add(&b->denied, 1);
    if (!budget_lock_briefly(b)) return;
    b->last = *denial;
    b->has_last = true;
    pthread_mutex_unlock(&b->lock);
}

/* Orders: single is lowered last, and looked at again here: a thread that met the 0 of a lock sees the lock. */
static NM_COLD nm_denial_kind budget_kind_of_single(const nm_budget *b) {
    bool none = nm__get_first(&b->single) == 0;
    return none && atomic_load((atomic_bool *)&b->locked) ? NM_DENIED_LOCKED : NM_DENIED_SINGLE;
}

static NM_COLD bool budget_deny(const nm_budget *b, size_t n, nm_denial_kind kind, nm_denial *denial) {
    *denial = (nm_denial){n, budget_used(b), nm__get(&b->allowed), b, nm__os_time_ns(), (int)kind};
    return false;
}

static void budget_give(nm_budget *b, size_t n) { (void)atomic_fetch_add(&b->left, (int64_t)n); }

/* Of this budget alone, down to the floor. */
NM_INLINE bool budget_charge_one(nm_budget *b, size_t n, int64_t floor, bool may_ask, nm_denial *denial) {
    if (NM_UNLIKELY(n > nm__get(&b->single))) return budget_deny(b, n, budget_kind_of_single(b), denial);
    int64_t left = budget_left(b);
    do {
        while (NM_UNLIKELY(left - floor < (int64_t)n)) {
            if (!may_ask || !budget_take_from_siblings(b, n)) return budget_deny(b, n, NM_DENIED_LIMIT, denial);
            may_ask = false;
            left = budget_left(b);
        }
    } while (!atomic_compare_exchange_weak(&b->left, &left, left - (int64_t)n));
    /* Compared with what was left at the very moment of the exchange: overruns stays 0 unless the loop above is wrong. */
    if (NM_UNLIKELY(left - (int64_t)n < floor)) nm__atomic_add(&b->overruns, 1);
    return true;
}

static bool budget_charge_line(nm_budget *b, size_t n, nm_denial *denial) {
    if (!budget_charge_one(b, n, 0, true, denial)) return false;
    if (b->parent == NULL || budget_charge_line(b->parent, n, denial)) return true;
    budget_give(b, n);
    return false;
}

/* It may also take what is held back, here and in the ancestors; limits do not move for its sake. */
static NM_COLD bool budget_overdraw(nm_budget *b, size_t n) {
    nm_denial denial;
    if (!budget_charge_one(b, n, -(int64_t)nm__get(&b->held_back), false, &denial)) return false;
    if (b->parent == NULL || budget_overdraw(b->parent, n)) return true;
    budget_give(b, n);
    return false;
}

/* unsigned: room >= left, and no n is too large to be compared with what lies between */
NM_INLINE bool budget_is_used(int64_t room, int64_t left, size_t n) { return n <= (size_t)room - (size_t)left; }

/* Less is used, or it only seemed so because a limit was lowered between the two looks: here room stays. */
static NM_COLD bool budget_release_one_slowly(nm_budget *b, size_t n, bool all_or_nothing) {
    pthread_mutex_lock(&budgets.lock);
    int64_t left = budget_left(b), room = budget_room(b), after;
    do {
        after = budget_is_used(room, left, n) ? left + (int64_t)n : all_or_nothing ? left : room;
    } while (!atomic_compare_exchange_weak(&b->left, &left, after));
    budget_set_level(b);
    pthread_mutex_unlock(&budgets.lock);
    return after != left || n == 0 || !all_or_nothing;
}

/* false: less is used. */
NM_INLINE bool budget_release_one(nm_budget *b, size_t n, bool all_or_nothing) {
    int64_t left = budget_left(b);
    do {
        if (NM_UNLIKELY(!budget_is_used(budget_room(b), left, n))) return budget_release_one_slowly(b, n, all_or_nothing);
    } while (!atomic_compare_exchange_weak(&b->left, &left, left + (int64_t)n));
    if (NM_UNLIKELY(left + (int64_t)n >= atomic_load(&b->calm))) budget_review(b);
    return true;
}

/* Saturates: where a parent is released what was charged through a child, it is taken off the parent once only. */
static void budget_discharge_line(nm_budget *b, size_t n) {
    for (; b != NULL; b = b->parent) (void)budget_release_one(b, n, false);
}

/* In this order: no charge that recent has seen is missing in peak. */
static NM_COLD void budget_note_peak(nm_budget *b) {
    size_t used = budget_used(b);
    nm__atomic_max(&b->peak, used);
    nm__atomic_max(&b->recent, used);
}

/* A charge that is not settled yet is above peak, and is to be noted when it is. */
size_t nm_budget_take_peak(nm_budget *b) {
    size_t was = atomic_exchange(&b->recent, 0), used = budget_used(b), peak = nm__get(&b->peak);
    nm__atomic_max(&b->recent, used < peak ? used : peak);
    return was > used ? was : used;
}

NM_INLINE void budget_count(nm_budget *b, size_t n) {
    (void)nm__atomic_add(&b->count, 1);
    (void)nm__atomic_add(&b->bytes, n);
}

/* Under the lock of all. */
static nm_charges budget_sum_charges(const nm_budget *b) {
    nm_charges sum = {nm__get(&b->count) + b->past.count, nm__get(&b->bytes) + b->past.bytes};
    for (const nm_budget *c = b->children; c != NULL; c = c->next) {
        nm_charges more = budget_sum_charges(c);
        sum = (nm_charges){sum.count + more.count, sum.bytes + more.bytes};
    }
    return sum;
}

nm_charges nm_budget_charges(const nm_budget *b) {
    pthread_mutex_lock(&budgets.lock);
    nm_charges sum = budget_sum_charges(b);
    pthread_mutex_unlock(&budgets.lock);
    return sum;
}

static void budget_settle_line(nm_budget *b) {
    for (; b != NULL; b = b->parent) {
        int64_t left = budget_left(b);
        if (NM_UNLIKELY(budget_room(b) - left > (int64_t)nm__get(&b->recent))) budget_note_peak(b);
        if (NM_UNLIKELY(left <= atomic_load(&b->alarm))) budget_review(b);
    }
}

void nm__budget_settle(nm_budget *b) {
    budget_settle_line(b);
    if (NM_UNLIKELY(b->o.shared != NULL)) budget_settle_line(b->o.shared);
}

static NM_COLD bool budget_hold_in_shared(nm_budget *b, size_t n, nm_denial *denial) {
    if (n > b->o.shared_max || atomic_load(&b->locked) || !budget_charge_line(b->o.shared, n, denial)) return false;
    nm__atomic_add(&b->in_shared, n);
    budget_count(b->o.shared, n);
    return true;
}

NM_INLINE bool budget_hold(nm_budget *b, size_t n, nm_denial *denial) {
    if (NM_UNLIKELY(b->o.shared != NULL) && budget_hold_in_shared(b, n, denial)) return true;
    if (!budget_charge_line(b, n, denial)) return false;
    budget_count(b, n);
    return true;
}

static NM_TLS nm__refusal budget_refusal; /* charged: NULL where there is none */

bool nm__budget_take_refusal(nm__refusal *out) {
    *out = budget_refusal;
    budget_refusal.charged = NULL;
    return out->charged != NULL;
}

void nm__budget_uncount(nm_budget *charged, nm_budget *refuser) {
    NM_ASSERT(nm__get(&charged->denied) != 0 && nm__get(&refuser->denied) != 0);
    nm__atomic_sub(&charged->denied, 1);
    if (refuser != charged) nm__atomic_sub(&refuser->denied, 1);
}

bool nm__budget_hold(nm_budget *b, size_t n) {
    nm_denial denial;
    if (NM_LIKELY(budget_hold(b, n, &denial))) return true;
    budget_refusal = (nm__refusal){denial.kind == NM_DENIED_LIMIT ? b : NULL, (nm_budget *)denial.refuser};
    budget_remember(b, &denial);
    if (denial.refuser != b) budget_remember((nm_budget *)denial.refuser, &denial);
    budget_note(NM__EVENT_DENIED, denial.refuser, b, n, denial.kind);
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
    if (budget_hold(b, n, &denial)) return true;
    budget_refusal.charged = NULL;
    (void)nm__fail(NM_OVER_BUDGET, denial.requested, denial.used, denial.limit);
    return false;
}

bool nm__budget_overdraw(nm_budget *b, size_t n) {
    if (!budget_overdraw(b, n)) return false;
    budget_count(b, n);
    return true;
}

int64_t nm__budget_left(const nm_budget *b) { return budget_left(b); }

bool nm__budget_is_deep(const nm_budget *b) {
    while (b != NULL && budget_left(b) >= -(int64_t)(nm__get(&b->held_back) / 2)) b = b->parent;
    return b != NULL;
}

bool nm__budget_has_recovered(const nm_budget *b) {
    while (b != NULL && budget_left(b) >= (int64_t)(nm__get(&b->held_back) / 4)) b = b->parent;
    return b == NULL;
}

/* Takes up to n of what is charged to the shared budget; the caller gives it back there. */
static NM_COLD size_t budget_take_shared(nm_budget *b, size_t n) {
    size_t shared = nm__get(&b->in_shared), back;
    do {
        back = shared < n ? shared : n;
    } while (!atomic_compare_exchange_weak(&b->in_shared, &shared, shared - back));
    return back;
}

/* What was charged to the shared budget goes back there first: which bytes they were is of no account. */
nm_status nm_budget_release(nm_budget *b, size_t n) {
    size_t back = NM_UNLIKELY(b->o.shared != NULL) ? budget_take_shared(b, n) : 0;
    if (NM_UNLIKELY(!budget_release_one(b, n - back, true))) {
        nm__atomic_add(&b->in_shared, back);
        return nm__fail(NM_UNDERFLOW, n, budget_used(b) + nm__get(&b->in_shared), nm__get(&b->allowed));
    }
    if (b->parent != NULL) budget_discharge_line(b->parent, n - back);
    if (NM_UNLIKELY(back != 0)) budget_discharge_line(b->o.shared, back);
    return NM_OK;
}

/* ---- life ------------------------------------------------------------------------------------------- */

nm_budget *nm_budget_create(size_t limit, nm_budget *parent, const nm_budget_options *options) {
    nm__budget_register_forks();
    nm_budget *b = nm__meta_alloc(sizeof *b);
    if (b == NULL) return NULL;
    if (options != NULL) b->o = *options;
    if (!(b->o.warn > 0)) b->o.warn = 1;
    if (!(b->o.critical > 0)) b->o.critical = 1;
    if (limit > NM_SIZE_MAX) limit = NM_SIZE_MAX;
    b->parent = parent;
    (void)pthread_mutex_init(&b->lock, NULL);
    pthread_mutex_lock(&budgets.lock);
    budget_put_limit(b, limit, budget_with_overcommit(b, limit));
    atomic_store(&b->left, (int64_t)nm__get(&b->allowed));
    budget_set_level(b);
    if (parent != NULL) {
        b->next = parent->children;
        if (b->next != NULL) b->next->prev = b;
        parent->children = b;
    }
    pthread_mutex_unlock(&budgets.lock);
    return b;
}

void nm_budget_destroy(nm_budget *b) {
    if (b == NULL) return;
    budget_note(NM__EVENT_CLOSED, b, NULL, 0, 0);
    budget_discharge_line(b->parent, budget_used(b));
    budget_discharge_line(b->o.shared, nm__get(&b->in_shared));
    pthread_mutex_lock(&budgets.lock);
    if (b->parent != NULL) {
        nm_charges sum = budget_sum_charges(b);
        b->parent->past.count += sum.count;
        b->parent->past.bytes += sum.bytes;
    }
    if (b->prev != NULL) b->prev->next = b->next;
    else if (b->parent != NULL) b->parent->children = b->next;
    if (b->next != NULL) b->next->prev = b->prev;
    if (b->is_listed) {
        nm_budget **link = &budgets.crossed;
        while (*link != b) link = &(*link)->next_crossed;
        *link = b->next_crossed;
    }
    pthread_mutex_unlock(&budgets.lock);
    (void)pthread_mutex_destroy(&b->lock);
    nm__meta_free(b);
}

size_t nm_budget_used(const nm_budget *b) { return budget_used(b); }
size_t nm_budget_peak(const nm_budget *b) {
    size_t used = budget_used(b), peak = nm__get(&b->peak);
    return peak > used ? peak : used;
}
size_t nm_budget_limit(const nm_budget *b) { return nm__get(&b->limit); }
size_t nm_budget_denied(const nm_budget *b) { return nm__get(&b->denied); }
size_t nm_budget_shared_used(const nm_budget *b) { return nm__get(&b->in_shared); }
bool nm_budget_is_locked(const nm_budget *b) { return atomic_load((atomic_bool *)&b->locked); }

bool nm_budget_last_denial(nm_budget *b, nm_denial *out) {
    if (!budget_lock_briefly(b)) return false;
    bool has = b->has_last;
    if (has) *out = b->last;
    pthread_mutex_unlock(&b->lock);
    return has;
}

const char *nm_budget_check(const nm_budget *b) {
    const char *broken = NULL;
    pthread_mutex_lock(&budgets.lock);
    for (; b != NULL && broken == NULL; b = b->parent) {
        size_t sum = 0, used = budget_used(b);
        for (const nm_budget *c = b->children; c != NULL; c = c->next) sum += budget_used(c);
        if (nm__get(&b->overruns) != 0) broken = "a limit was exceeded";
        else if (nm__get(&b->peak) < used) broken = "used is above peak";
        else if (nm__get(&b->recent) < used || nm__get(&b->recent) > nm__get(&b->peak))
            broken = "the recent peak is not between used and peak";
        else if (used < sum) broken = "a parent uses less than its children";
        else if (atomic_load((_Atomic int *)&b->level) != budget_level_at(b, used))
            broken = "the level is not that of what is used";
        else if (nm__get(&b->moves) % 2 != 0) broken = "a limit is on the move";
    }
    pthread_mutex_unlock(&budgets.lock);
    return broken;
}
