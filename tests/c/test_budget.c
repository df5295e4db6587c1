/* What budgets do beyond a limit: pressure, options, lending, sharing; and that no limit is exceeded, whichever thread does what. */
#define _GNU_SOURCE /* pthread_barrier_t */
#include <errno.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"

#include "base/base.h"
#include "nativemem/budget.h"
#include "tuning.h"

/* The linker puts this before the system's (test_budget.link): a lock that others have so many times more. */
static atomic_int busy, tries;
int __real_pthread_mutex_trylock(pthread_mutex_t *);
int __wrap_pthread_mutex_trylock(pthread_mutex_t *);
int __wrap_pthread_mutex_trylock(pthread_mutex_t *lock) {
    (void)atomic_fetch_add(&tries, 1);
    if (atomic_load(&busy) == 0) return __real_pthread_mutex_trylock(lock);
    (void)atomic_fetch_sub(&busy, 1);
    return EBUSY;
}

static nm_budget *make(size_t limit, nm_budget *parent, nm_budget_options options) {
    nm_budget *b = nm_budget_create(limit, parent, &options);
    CHECK(b != NULL);
    return b;
}

static void no_crossings(void) {
    const nm_budget *b;
    int level;
    bool was_normal;
    CHECK(!nm_budget_crossed(&b, &level, &was_normal) && !atomic_load(&nm__pressed));
}
static void crossing(const nm_budget *b, int level, bool was_normal) {
    const nm_budget *which = NULL;
    int to = -1;
    bool from = false;
    CHECK(atomic_load(&nm__pressed) && nm_budget_crossed(&which, &to, &from));
    CHECK(which == b && to == level && from == was_normal);
}

static void test_pressure(void) {
    nm_budget *b = make(1000, NULL, (nm_budget_options){.warn = 0.8, .critical = 0.95});
    CHECK(nm_budget_charge(b, 799) && nm_budget_pressure(b) == NM_NORMAL);
    no_crossings();
    CHECK(nm_budget_charge(b, 1) && nm_budget_pressure(b) == NM_WARN);
    crossing(b, NM_WARN, true);
    no_crossings();
    CHECK(nm_budget_charge(b, 100)); /* above already */
    no_crossings();
    CHECK(nm_budget_release(b, 101) == NM_OK && nm_budget_pressure(b) == NM_NORMAL);
    CHECK(nm_budget_charge(b, 201) && nm_budget_pressure(b) == NM_FULL); /* all levels at once: one crossing */
    crossing(b, NM_FULL, true);
    no_crossings();
    CHECK(nm_budget_release(b, 10) == NM_OK && nm_budget_pressure(b) == NM_CRITICAL);
    CHECK(nm_budget_charge(b, 10));
    crossing(b, NM_FULL, false);
    CHECK(!nm_budget_charge(b, 1));
    no_crossings();
    nm_budget_set_limit(b, 10000);
    CHECK(nm_budget_pressure(b) == NM_NORMAL);
    nm_budget_set_limit(b, 1000); /* by the limit, too */
    crossing(b, NM_FULL, true);
    SOUND(nm_budget_check(b));
    nm_budget_destroy(b);
    no_crossings();
}

static void test_pressure_of_ancestors(void) {
    nm_budget *root = make(100, NULL, (nm_budget_options){.warn = 0.5, .critical = 0.9});
    nm_budget *leaf = make(40, root, (nm_budget_options){.warn = 0.5, .critical = 0.9}),
              *other = make(90, root, (nm_budget_options){0});
    CHECK(nm_budget_charge(leaf, 30) && nm_budget_charge(other, 30));
    crossing(root, NM_WARN, true);
    crossing(leaf, NM_WARN, true);
    no_crossings();
    CHECK(!nm_budget_charge(leaf, 50) && !nm_budget_charge(other, 50)); /* what is refused crosses nothing */
    no_crossings();
    CHECK(nm_budget_charge(other, 31));
    nm_budget_destroy(other); /* forgets what it had to say */
    nm_budget_destroy(leaf);
    nm_budget_destroy(root);
    no_crossings();
}

/* Each crossing is told once, in whatever order they come and are asked for; the invariants hold after each call. */
static void test_crossings_of_generated_programs(void) {
    for (unsigned program = 1; program <= 60; program++) {
        uint64_t seed = program * 7919U;
        nm_budget *b[3], *root = b[0] = make(1000, NULL, (nm_budget_options){.warn = 0.5, .critical = 0.8});
        b[1] = make(600, root, (nm_budget_options){.warn = 0.3, .critical = 0.9});
        b[2] = make(700, root, (nm_budget_options){.warn = 0.7, .critical = 0.7, .overcommit = 0.2});
        size_t held[3] = {0}, waiting[3][4][2] = {0}, all = 0;
        nm_pressure level[3] = {NM_NORMAL, NM_NORMAL, NM_NORMAL};
        for (int step = 0; step < 300; step++) {
            size_t i = below(&seed, 3), n = 1 + below(&seed, 400), what = below(&seed, 8);
            if (what < 3) {
                if (nm_budget_charge(b[i], n)) held[i] += n;
            } else if (what < 6) {
                n = n < held[i] ? n : held[i];
                CHECK(nm_budget_release(b[i], n) == NM_OK);
                held[i] -= n;
            } else if (what < 7) {
                nm_budget_set_limit(b[i], 500 + below(&seed, 600));
            } else {
                const nm_budget *which = NULL;
                int to = 0;
                bool was_normal = false;
                bool told = nm_budget_crossed(&which, &to, &was_normal);
                CHECK(told == (all != 0));
                for (i = 0; told && b[i] != which;) i++;
                if (told) CHECK(waiting[i][to][was_normal] != 0 && all-- != 0 && waiting[i][to][was_normal]-- != 0);
            }
            for (i = 0; i < 3; i++) {
                nm_pressure now = nm_budget_pressure(b[i]);
                if (now > level[i]) waiting[i][now][level[i] == NM_NORMAL]++, all++;
                level[i] = now;
                SOUND(nm_budget_check(b[i]));
            }
            CHECK(all == 0 || atomic_load(&nm__pressed));
            CHECK(nm_budget_used(root) == held[0] + held[1] + held[2]);
        }
        for (int i = 2; i >= 0; i--) {
            CHECK(nm_budget_release(b[i], held[i]) == NM_OK);
            nm_budget_destroy(b[i]);
        }
        no_crossings();
    }
}

static void test_refusals_are_taken_once(void) {
    nm_budget *root = make(100, NULL, (nm_budget_options){0}), *leaf = make(200, root, (nm_budget_options){.max_single = 0.9});
    nm__refusal r;
    (void)nm__budget_take_refusal(&r); /* of a test before */
    CHECK(nm_budget_charge(leaf, 60) && !nm__budget_take_refusal(&r));
    CHECK(!nm_budget_charge(leaf, 60) && nm__budget_take_refusal(&r) && r.charged == leaf && r.refuser == root);
    CHECK(!nm__budget_take_refusal(&r) && nm_budget_denied(leaf) == 1 && nm_budget_denied(root) == 1);
    nm__budget_uncount(leaf, root);
    CHECK(nm_budget_denied(leaf) == 0 && nm_budget_denied(root) == 0);
    CHECK(!nm_budget_charge(root, 60) && nm__budget_take_refusal(&r) && r.charged == root && r.refuser == root);
    nm__budget_uncount(root, root);
    CHECK(nm_budget_denied(root) == 0);
    CHECK(!nm_budget_charge(leaf, 60) && !nm__budget_try(leaf, 60) && !nm__budget_take_refusal(&r)); /* of the last alone */
    CHECK(!nm_budget_charge(leaf, 60) && !nm_budget_charge(leaf, 190) && !nm__budget_take_refusal(&r)); /* max_single */
    nm_budget_lock(leaf);
    CHECK(!nm_budget_charge(leaf, 1) && !nm__budget_take_refusal(&r));
    nm_budget_destroy(leaf);
    nm_budget_destroy(root);
}

static void test_options(void) {
    nm_budget *b = make(1000, NULL, (nm_budget_options){.max_single = 0.25, .overcommit = 0.1});
    nm_denial d;
    CHECK(!nm_budget_charge(b, 251) && nm_budget_last_denial(b, &d) && d.kind == NM_DENIED_SINGLE && d.used == 0);
    for (int i = 0; i < 4; i++) CHECK(nm_budget_charge(b, 250));
    CHECK(nm_budget_pressure(b) == NM_FULL && nm_budget_charge(b, 100) && !nm_budget_charge(b, 1));
    CHECK(nm_budget_last_denial(b, &d) && d.kind == NM_DENIED_LIMIT && d.used == 1100 && d.limit == 1100);
    CHECK(nm_budget_limit(b) == 1000 && nm_budget_release(b, 1100) == NM_OK);
    nm_budget_set_limit(b, 2000);
    CHECK(nm_budget_charge(b, 500) && !nm_budget_charge(b, 501));
    nm_budget_lock(b);
    CHECK(nm_budget_is_locked(b) && !nm_budget_charge(b, 1) && nm_budget_last_denial(b, &d) && d.kind == NM_DENIED_LOCKED);
    nm_budget_set_limit(b, 4000);
    CHECK(!nm_budget_charge(b, 1) && nm_budget_charge(b, 0) && nm_budget_release(b, 500) == NM_OK);
    SOUND(nm_budget_check(b));
    nm_budget_destroy(b);
}

/* What is held back makes a budget full with what it uses already: that is told at once, and not with the next charge. */
static void test_held_back_is_a_crossing(void) {
    nm_budget *b = make(1000, NULL, (nm_budget_options){.warn = 0.7, .critical = 0.9});
    CHECK(nm_budget_charge(b, 500));
    no_crossings();
    nm__budget_hold_back(b, 499); /* at 501 it is full */
    no_crossings();
    nm__budget_hold_back(b, 500);
    crossing(b, NM_FULL, true);
    no_crossings();
    nm__budget_hold_back(b, 0);
    SOUND(nm_budget_check(b));
    CHECK(nm_budget_pressure(b) == NM_NORMAL && nm_budget_charge(b, 200));
    crossing(b, NM_WARN, true);
    no_crossings();
    CHECK(nm_budget_release(b, 700) == NM_OK);
    nm_budget_destroy(b);
}

static void pass_all_crossings(void) {
    while (atomic_load(&nm__pressed)) (void)nm_budget_crossed(&(const nm_budget *){NULL}, &(int){0}, &(bool){false});
}

/* A level begins with the first whole byte that is at its part of the limit, at the limit at most, and never with nothing used. */
static void test_where_levels_begin(void) {
    nm_budget *b = make(1001, NULL, (nm_budget_options){.warn = 0.5, .critical = 0.8}); /* 500.5 and 800.8 */
    CHECK(nm_budget_charge(b, 500) && nm_budget_pressure(b) == NM_NORMAL);
    CHECK(nm_budget_charge(b, 1) && nm_budget_pressure(b) == NM_WARN);
    CHECK(nm_budget_charge(b, 299) && nm_budget_pressure(b) == NM_WARN);
    CHECK(nm_budget_charge(b, 1) && nm_budget_pressure(b) == NM_CRITICAL);
    CHECK(nm_budget_charge(b, 199) && nm_budget_pressure(b) == NM_CRITICAL);
    CHECK(nm_budget_charge(b, 1) && nm_budget_pressure(b) == NM_FULL);
    SOUND(nm_budget_check(b));
    CHECK(nm_budget_release(b, 1001) == NM_OK);
    nm__budget_hold_back(b,
                         501); /* a budget is full where nothing but the overdraft is left: the levels below begin there, too */
    CHECK(nm_budget_charge(b, 499) && nm_budget_pressure(b) == NM_NORMAL && nm_budget_charge(b, 1));
    CHECK(nm_budget_pressure(b) == NM_FULL && !nm_budget_charge(b, 1) && nm_budget_release(b, 500) == NM_OK);
    nm_budget_destroy(b);
    b = make(100, NULL, (nm_budget_options){.warn = 0.0001, .critical = 1});
    CHECK(nm_budget_pressure(b) == NM_NORMAL && nm_budget_charge(b, 1) && nm_budget_pressure(b) == NM_WARN);
    CHECK(nm_budget_charge(b, 98) && nm_budget_pressure(b) == NM_WARN && nm_budget_charge(b, 1));
    CHECK(nm_budget_pressure(b) == NM_FULL && nm_budget_release(b, 100) == NM_OK);
    nm_budget_destroy(b);
    b = make(2, NULL, (nm_budget_options){.warn = 0.5, .critical = 1}); /* just one byte */
    CHECK(nm_budget_charge(b, 1) && nm_budget_pressure(b) == NM_WARN && nm_budget_release(b, 1) == NM_OK);
    nm_budget_destroy(b);
    b = make(100, NULL, (nm_budget_options){0}); /* none but full */
    CHECK(nm_budget_charge(b, 99) && nm_budget_pressure(b) == NM_NORMAL && nm_budget_charge(b, 1));
    CHECK(nm_budget_pressure(b) == NM_FULL && nm_budget_release(b, 100) == NM_OK);
    nm_budget_destroy(b);
    pass_all_crossings();
}

/* More crossings than are counted: the rest are forgotten, and the count does not begin anew. */
static void test_crossings_that_nobody_asks_for(void) {
    nm_budget *b = make(1, NULL, (nm_budget_options){0}), *other = make(1, NULL, (nm_budget_options){0});
    for (int i = 0; i < UINT16_MAX + 10; i++) CHECK(nm_budget_charge(b, 1) && nm_budget_release(b, 1) == NM_OK);
    nm_budget *unwatched = make(1, NULL, (nm_budget_options){0});
    nm__budget_is_unwatched(unwatched);
    CHECK(nm_budget_charge(unwatched, 1) && nm_budget_release(unwatched, 1) == NM_OK && nm_budget_charge(other, 1));
    crossing(other, NM_FULL, true);
    for (int i = 0; i < UINT16_MAX; i++) crossing(b, NM_FULL, true);
    no_crossings();
    CHECK(nm_budget_release(other, 1) == NM_OK);
    nm_budget *all[] = {make(1, NULL, (nm_budget_options){0}), b, other}; /* it is taken out of the middle of those that wait */
    for (int i = 0; i < 3; i++) CHECK(nm_budget_charge(all[i], 1) && nm_budget_release(all[i], 1) == NM_OK);
    nm_budget_destroy(b);
    crossing(other, NM_FULL, true);
    crossing(all[0], NM_FULL, true);
    no_crossings();
    nm_budget_destroy(other);
    nm_budget_destroy(unwatched);
    nm_budget_destroy(all[0]);
}

/* Sizes near the end of what can be counted. */
static void test_the_largest_limits(void) {
    nm_budget *b = make(SIZE_MAX, NULL, (nm_budget_options){.overcommit = 0.5, .max_single = 1});
    CHECK(nm_budget_limit(b) == NM_SIZE_MAX && nm__budget_left(b) == (int64_t)NM_SIZE_MAX);
    CHECK(nm_budget_charge(b, NM_SIZE_MAX) && !nm_budget_charge(b, 1) && nm_budget_release(b, NM_SIZE_MAX) == NM_OK);
    nm_budget_set_limit(b, 100);
    CHECK(nm_budget_limit(b) == 100 && nm__budget_left(b) == 150);
    nm_budget_set_limit(b, SIZE_MAX);
    CHECK(nm_budget_limit(b) == NM_SIZE_MAX && nm__budget_left(b) == (int64_t)NM_SIZE_MAX);
    nm_budget *from = make(1000, NULL, (nm_budget_options){0});
    CHECK(nm_budget_lend(from, b, 1, 0) == NM_OVER_BUDGET && nm_budget_limit(from) == 1000);
    CHECK(nm_last_failure().requested == 1 && nm_last_failure().used == 0 && nm_last_failure().limit == 1000);
    nm_budget_set_limit(b, NM_SIZE_MAX - 5);
    nm_budget *to = make(NM_SIZE_MAX - 5, NULL, (nm_budget_options){0});
    CHECK(nm_budget_lend(from, to, 6, 0) == NM_OVER_BUDGET && nm_budget_lend(from, to, 5, 0) == NM_OK);
    CHECK(nm_budget_limit(to) == NM_SIZE_MAX && nm_budget_limit(from) == 995);
    nm__budget_hold_back(from, SIZE_MAX);
    CHECK(nm__budget_left(from) == 0 && !nm_budget_charge(from, 1));
    nm__budget_hold_back(from, 995);
    CHECK(nm__budget_left(from) == 0);
    nm__budget_hold_back(from, 0);
    CHECK(nm__budget_left(from) == 995);
    SOUND(nm_budget_check(b));
    nm_budget_destroy(to);
    nm_budget_destroy(from);
    nm_budget_destroy(b);
    pass_all_crossings();
}

/* What is drawn of what is held back, and when that is much, or made good. */
static void test_how_deep_an_overdraft_is(void) {
    nm_budget *root = make(10000, NULL, (nm_budget_options){0}), *b = make(1000, root, (nm_budget_options){.max_single = 0.9});
    nm__budget_hold_back(b, 100);
    CHECK(nm__budget_left(b) == 900 && nm_budget_charge(b, 900) && !nm_budget_charge(b, 1) && nm_budget_denied(b) == 1);
    CHECK(nm__budget_overdraw(b, 50) && nm__budget_left(b) == -50 && !nm__budget_is_deep(b) && !nm__budget_has_recovered(b));
    CHECK(nm__budget_overdraw(b, 1) && nm__budget_is_deep(b) && nm_budget_used(b) == 951 && nm_budget_used(root) == 951);
    CHECK(!nm__budget_overdraw(b, 50) && nm__budget_overdraw(b, 49) && nm_budget_denied(b) == 1 &&
          nm_budget_charges(b).count == 4);
    CHECK(nm_budget_charges(b).bytes == 1000 && nm_budget_used(root) == 1000);
    CHECK(nm_budget_release(b, 124) == NM_OK && nm__budget_left(b) == 24 && !nm__budget_has_recovered(b));
    CHECK(nm_budget_release(b, 1) == NM_OK && nm__budget_left(b) == 25 && nm__budget_has_recovered(b) &&
          !nm__budget_is_deep(b));
    nm__budget_hold_back(root, 9100); /* an ancestor's counts as its own */
    CHECK(nm__budget_left(root) == 25 && !nm__budget_has_recovered(b) && nm_budget_charge(root, 25));
    CHECK(nm__budget_overdraw(root, 4550) && !nm__budget_is_deep(b) && nm__budget_overdraw(root, 1) && nm__budget_is_deep(b));
    CHECK(nm_budget_release(root, 4576) == NM_OK);
    nm__budget_hold_back(root, 9124); /* no more than the root has, whatever the leaf could have */
    CHECK(nm_budget_used(root) == 875 && nm__budget_left(root) == 1 && nm__budget_overdraw(b, 2));
    nm_budget_set_limit(root, 9125);
    nm__budget_hold_back(root, 8249);
    CHECK(nm__budget_left(root) == -1 && nm_budget_used(b) == 877);
    nm__budget_hold_back(root, 0);
    CHECK(nm_budget_charge(root, 8248) && !nm__budget_overdraw(b, 1) && nm_budget_used(b) == 877); /* given back at the leaf */
    CHECK(nm_budget_release(root, 8248) == NM_OK && nm_budget_release(b, 877) == NM_OK && nm_budget_used(root) == 0);
    nm_budget_destroy(b);
    nm_budget_destroy(root);
    pass_all_crossings();
}

/* More of a shared budget: what went there is counted there, and nothing goes there from a locked one. */
static void test_what_a_shared_budget_counts(void) {
    nm_budget *parent = make(1000, NULL, (nm_budget_options){0}), *shared = make(100, NULL, (nm_budget_options){0});
    nm_budget *own = make(500, parent, (nm_budget_options){.shared = shared, .shared_max = 60});
    CHECK(nm_budget_charge(own, 60) && nm_budget_charge(own, 61) && nm_budget_used(parent) == 61);
    nm_charges charges = nm_budget_charges(shared), of_own = nm_budget_charges(own);
    CHECK(charges.count == 1 && charges.bytes == 60 && of_own.count == 1 && of_own.bytes == 61);
    CHECK(nm_budget_release(own, 122) == NM_UNDERFLOW && nm_last_failure().requested == 122 && nm_last_failure().limit == 500);
    CHECK(nm_budget_shared_used(own) == 60 && nm_budget_used(shared) == 60 && nm_budget_used(own) == 61);
    CHECK(nm_budget_release(own, 70) == NM_OK && nm_budget_shared_used(own) == 0 && nm_budget_used(own) == 51);
    CHECK(nm_budget_used(parent) == 51 && nm_budget_used(shared) == 0 && nm_budget_peak(shared) == 60);
    nm_budget_lock(own);
    CHECK(!nm_budget_charge(own, 1) && nm_budget_used(shared) == 0 && nm_budget_release(own, 51) == NM_OK);
    SOUND(nm_budget_check(own));
    nm_budget_destroy(own);
    nm_budget_destroy(shared);
    nm_budget_destroy(parent);
}

/* From more siblings than are asked for one charge nothing is taken, and with one fewer missing all of it is. */
static void test_as_many_givers_as_there_may_be(void) {
    enum { GIVERS = 70, MOST = 64 };
    nm_budget *root = make(100000, NULL, (nm_budget_options){.auto_rebalance = true}), *b[GIVERS];
    for (int i = 0; i < GIVERS; i++) b[i] = make(11, root, (nm_budget_options){.minimum = 1});
    nm_budget *needy = make(10, root, (nm_budget_options){0});
    CHECK(!nm_budget_charge(needy, 10 + 10 * MOST + 1) && nm_budget_limit(needy) == 10);
    for (int i = 0; i < GIVERS; i++) CHECK(nm_budget_limit(b[i]) == 11);
    nm_denial d;
    CHECK(nm_budget_last_denial(needy, &d) && d.refuser == needy && d.requested == 10 + 10 * MOST + 1 && d.limit == 10);
    CHECK(nm_budget_charge(needy, 10 + 10 * MOST) && nm_budget_limit(needy) == 10 + 10 * MOST);
    size_t left = 0;
    for (int i = 0; i < GIVERS; i++) left += nm_budget_limit(b[i]);
    CHECK(left == 11 * GIVERS - 10 * MOST);
    for (int i = 0; i < GIVERS; i++) nm_budget_destroy(b[i]);
    nm_budget_destroy(needy);
    nm_budget_destroy(root);
    pass_all_crossings();
}

/* Which moves are made: from each giver in order what it can do without, no more than a taker wants, no more moves than asked
 * for; and the moves say what was done. */
static void test_the_moves_of_a_rebalancing(void) {
    nm_budget_options half = {.warn = 0.5, .critical = 1};
    nm_budget *root = make(10000, NULL, half), *b[4];
    for (int i = 3; i >= 0; i--) b[i] = make(100, root, half); /* they stand in this order: the newest first */
    CHECK(nm_budget_charge(b[0], 80) && nm_budget_charge(b[1], 20) && nm_budget_charge(b[3], 30));
    nm_move m[8];
    CHECK(nm_budget_rebalance(root, m, 1) == 1 && m[0].from == b[1] && m[0].to == b[0] && m[0].bytes == 59);
    CHECK(nm_budget_limit(b[0]) == 159 && nm_budget_limit(b[1]) == 41 && nm_budget_pressure(b[0]) == NM_WARN);
    CHECK(nm_budget_rebalance(root, m, 8) == 1 && m[0].from == b[2] && m[0].to == b[0] && m[0].bytes == 2);
    CHECK(nm_budget_limit(b[0]) == 161 && nm_budget_limit(b[2]) == 98 && nm_budget_pressure(b[0]) == NM_NORMAL);
    CHECK(nm_budget_limit(b[3]) == 100 && nm_budget_rebalance(root, m, 8) == 0);
    CHECK(nm_budget_charge(b[3], 50) && nm_budget_rebalance(root, m, 8) == 1 && m[0].from == b[2] && m[0].bytes == 61);
    CHECK(nm_budget_limit(b[3]) == 161 && nm_budget_charge(b[1], 1)); /* a budget that needs some itself gives none */
    CHECK(nm_budget_rebalance(root, m, 8) == 1 && m[0].from == b[2] && m[0].to == b[1] && m[0].bytes == 2);
    for (int i = 0; i < 4; i++) nm_budget_destroy(b[i]);
    nm_budget_destroy(root);
    pass_all_crossings();
}

/* What was denied last is not waited for without end: it is counted all the same. */
static void test_a_denial_beside_others(void) {
    nm_budget *b = make(100, NULL, (nm_budget_options){0}), *other = make(100, NULL, (nm_budget_options){0});
    nm_denial d;
    atomic_store(&tries, 0);
    atomic_store(&busy, NM_BUDGET_LOCK_TRIES - 1);
    CHECK(!nm_budget_charge(b, 101) && atomic_load(&tries) == NM_BUDGET_LOCK_TRIES && atomic_load(&busy) == 0);
    atomic_store(&busy, NM_BUDGET_LOCK_TRIES);
    CHECK(!nm_budget_charge(b, 102) && atomic_load(&tries) == 2 * NM_BUDGET_LOCK_TRIES && atomic_load(&busy) == 0);
    CHECK(nm_budget_denied(b) == 2 && nm_budget_last_denial(b, &d) && d.requested == 101 && d.refuser == b);
    atomic_store(&busy, NM_BUDGET_LOCK_TRIES);
    d.requested = 7;
    CHECK(!nm_budget_last_denial(b, &d) && d.requested == 7 && atomic_load(&busy) == 0);
    CHECK(nm_budget_last_denial(b, &d) && d.requested == 101 && nm_budget_denied(b) == 2);
    atomic_store(&busy, 1);
    CHECK(nm_budget_lend(b, other, 1, 0) == NM_TIMED_OUT && nm_budget_limit(b) == 100 && atomic_load(&busy) == 0);
    atomic_store(&busy, 1);
    CHECK(nm_budget_lend(b, other, 1, 1000000000) == NM_OK && nm_budget_limit(b) == 99 && nm_budget_limit(other) == 101);
    nm_budget_destroy(b);
    nm_budget_destroy(other);
}

/* While another lender has the lock, which here is this thread before its fork. */
static nm_budget *lender, *borrower;
static int waits;
static void lend_in_vain(void) {
    if (lender == NULL) return;
    struct timespec from, to;
    CHECK(nm_budget_lend(lender, borrower, 7, 0) == NM_TIMED_OUT && nm_last_failure().requested == 7);
    CHECK(nm_last_failure().used == 0 && nm_last_failure().limit == 0 &&
          nm_budget_lend(lender, borrower, 7, -1) == NM_TIMED_OUT);
    CHECK(clock_gettime(CLOCK_REALTIME, &from) == 0 && nm_budget_lend(lender, borrower, 7, 30000000) == NM_TIMED_OUT);
    CHECK(clock_gettime(CLOCK_REALTIME, &to) == 0);
    int64_t waited = (to.tv_sec - from.tv_sec) * 1000000000 + (to.tv_nsec - from.tv_nsec);
    CHECK(waited >= 30000000 && waited < 1000000000000);
    waits++;
}
static void test_lending_waits_no_longer_than_it_may(void) {
    lender = make(100, NULL, (nm_budget_options){0}), borrower = make(100, NULL, (nm_budget_options){0});
    pid_t child = fork();
    if (child == 0) _exit(failures_ != 0);
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && status == 0 && waits == 1);
    CHECK(nm_budget_limit(lender) == 100 && nm_budget_lend(lender, borrower, 7, 0) == NM_OK && nm_budget_limit(lender) == 93);
    nm_budget_destroy(lender);
    nm_budget_destroy(borrower);
    lender = borrower = NULL;
}

static void test_a_locked_ancestor(void) {
    nm_budget *root = make(1000, NULL, (nm_budget_options){0}), *leaf = make(500, root, (nm_budget_options){0});
    nm_denial d;
    nm_budget_lock(root);
    CHECK(!nm_budget_charge(leaf, 1) && nm_budget_used(leaf) == 0);
    CHECK(nm_budget_last_denial(leaf, &d) && d.refuser == root && d.kind == NM_DENIED_LOCKED);
    nm_budget_destroy(leaf);
    nm_budget_destroy(root);
}

static void test_lending(void) {
    nm_budget *from = make(1000, NULL, (nm_budget_options){.minimum = 300}), *to = make(100, NULL, (nm_budget_options){0});
    CHECK(nm_budget_charge(from, 400));
    CHECK(nm_budget_lend(from, to, 601, 0) == NM_OVER_BUDGET && nm_last_failure().used == 400);
    CHECK(nm_budget_limit(from) == 1000 && nm_budget_limit(to) == 100);
    CHECK(nm_budget_lend(from, to, 600, 0) == NM_OK && nm_budget_limit(from) == 400 && nm_budget_limit(to) == 700);
    CHECK(!nm_budget_charge(from, 1) && nm_budget_charge(to, 700) && !nm_budget_charge(to, 1));
    CHECK(nm_budget_lend(to, from, 1, 0) == NM_OVER_BUDGET);
    CHECK(nm_budget_release(from, 400) == NM_OK && nm_budget_lend(from, to, 101, 0) == NM_OVER_BUDGET); /* its minimum */
    CHECK(nm_budget_lend(from, to, 100, 0) == NM_OK && nm_budget_lend(from, to, 1, 0) == NM_OVER_BUDGET);
    CHECK(nm_budget_release(to, 700) == NM_OK && nm_budget_lend(to, from, 700, 0) == NM_OK);
    CHECK(nm_budget_limit(from) == 1000 && nm_budget_limit(to) == 100);
    CHECK(nm_budget_lend(to, from, 100, 0) == NM_OVER_BUDGET); /* a limit of nothing is none */
    CHECK(nm_budget_lend(from, from, 500, 0) == NM_OK && nm_budget_limit(from) == 1000);
    SOUND(nm_budget_check(from));
    SOUND(nm_budget_check(to));
    nm_budget_destroy(from);
    nm_budget_destroy(to);
}

static void test_rebalancing(void) {
    nm_budget_options o = {.warn = 0.8, .critical = 0.9};
    nm_budget *root = make(10000, NULL, o), *b[4];
    for (int i = 0; i < 4; i++) b[i] = make(1000, root, o);
    CHECK(nm_budget_charge(b[0], 900) && nm_budget_charge(b[1], 900) && nm_budget_charge(b[2], 700));
    nm_move moves[8];
    CHECK(nm_budget_rebalance(root, moves, 0) == 0);
    size_t n = nm_budget_rebalance(root, moves, 8), sum = 0;
    CHECK(n >= 2);
    for (size_t i = 0; i < n; i++) {
        sum += moves[i].bytes;
        CHECK((moves[i].from == b[3] || moves[i].from == b[2]) && (moves[i].to == b[0] || moves[i].to == b[1]));
    }
    CHECK(nm_budget_limit(b[0]) == 1126 && nm_budget_limit(b[1]) == 1126 && sum == 252); /* 900 / 0.8, and one */
    for (int i = 0; i < 4; i++) CHECK(nm_budget_pressure(b[i]) == NM_NORMAL);
    size_t limits = 0;
    for (int i = 0; i < 4; i++) limits += nm_budget_limit(b[i]);
    CHECK(limits == 4000 && nm_budget_rebalance(root, moves, 8) == 0);
    for (int i = 0; i < 4; i++) nm_budget_destroy(b[i]);
    nm_budget_destroy(root);
    while (atomic_load(&nm__pressed)) (void)nm_budget_crossed(&(const nm_budget *){NULL}, &(int){0}, &(bool){false});
}

static void test_rebalancing_before_a_denial(void) {
    nm_budget *root = make(10000, NULL, (nm_budget_options){.auto_rebalance = true});
    nm_budget *needy = make(100, root, (nm_budget_options){0}), *busy = make(100, root, (nm_budget_options){0});
    nm_budget *idle = make(100, root, (nm_budget_options){.minimum = 40}), *fourth = make(100, root, (nm_budget_options){0});
    CHECK(nm_budget_charge(busy, 100) && nm_budget_charge(fourth, 80));
    CHECK(nm_budget_charge(needy, 150) && nm_budget_limit(needy) == 150 && nm_budget_denied(needy) == 0);
    CHECK(nm_budget_limit(busy) == 100 && nm_budget_limit(idle) + nm_budget_limit(fourth) == 150);
    CHECK(!nm_budget_charge(needy, 100)); /* more than they can do without: nothing is moved */
    CHECK(nm_budget_limit(needy) == 150 && nm_budget_limit(idle) + nm_budget_limit(fourth) == 150 &&
          nm_budget_denied(needy) == 1);
    CHECK(nm_budget_charge(needy, 29) && nm_budget_limit(idle) == 40 && nm_budget_limit(fourth) == 81);
    CHECK(!nm_budget_charge(needy, 1) && nm_budget_used(root) == 359);
    for (nm_budget *b[] = {needy, busy, idle, fourth}, **at = b; at < b + 4; at++) {
        SOUND(nm_budget_check(*at));
        nm_budget_destroy(*at);
    }
    CHECK(nm_budget_used(root) == 0);
    nm_budget_destroy(root);
    while (atomic_load(&nm__pressed)) (void)nm_budget_crossed(&(const nm_budget *){NULL}, &(int){0}, &(bool){false});
}

static void test_a_shared_budget(void) {
    nm_budget *shared = make(100, NULL, (nm_budget_options){0});
    nm_budget *own = make(1000, NULL, (nm_budget_options){.shared = shared, .shared_max = 60});
    CHECK(nm_budget_charge(own, 61) && nm_budget_used(own) == 61 && nm_budget_used(shared) == 0);
    CHECK(nm_budget_charge(own, 60) && nm_budget_used(own) == 61 && nm_budget_shared_used(own) == 60);
    CHECK(nm_budget_charge(own, 50) && nm_budget_used(own) == 111); /* the shared one has no more: its own */
    CHECK(nm_budget_used(shared) == 60 && nm_budget_denied(own) == 0 && nm_budget_denied(shared) == 0);
    CHECK(nm_budget_release(own, 172) == NM_UNDERFLOW && nm_last_failure().used == 171 && nm_budget_used(shared) == 60);
    CHECK(nm_budget_release(own, 100) == NM_OK && nm_budget_used(shared) == 0 && nm_budget_used(own) == 71);
    CHECK(nm_budget_release(own, 71) == NM_OK && nm_budget_charge(own, 10));
    nm_budget_destroy(own);
    CHECK(nm_budget_used(shared) == 0 && nm_budget_peak(shared) == 60);
    nm_budget_destroy(shared);
    while (atomic_load(&nm__pressed)) (void)nm_budget_crossed(&(const nm_budget *){NULL}, &(int){0}, &(bool){false});
}

static void test_many_owners(void) {
    enum { OWNERS = 70000 };
    static nm_budget *owners[OWNERS];
    nm_budget *root = make((size_t)1 << 40, NULL, (nm_budget_options){0});
    for (int i = 0; i < OWNERS; i++) CHECK(nm_budget_charge(owners[i] = make(1 << 20, root, (nm_budget_options){0}), 16));
    CHECK(nm_budget_used(root) == 16 * OWNERS);
    SOUND(nm_budget_check(owners[OWNERS / 2]));
    for (int i = 0; i < OWNERS; i += 2) nm_budget_destroy(owners[i]);
    for (int i = 1; i < OWNERS; i += 2) nm_budget_destroy(owners[i]);
    CHECK(nm_budget_used(root) == 0);
    SOUND(nm_budget_check(root));
    nm_budget_destroy(root);
}

/* Ten threads, a million operations: charges, releases, loans and their return, rebalancing, and limits that are set.
 * The watcher in the core looks at what is left at the very moment of each charge (nm_budget_check). */
enum { THREADS = 10, STEPS = 100000, OWNERS = 6, LIMIT = 5000 };
static nm_budget *root, *owners[OWNERS], *pooled;
static pthread_barrier_t start;

static void *mix(void *arg) {
    uint64_t seed = 77 + (uint64_t)(uintptr_t)arg;
    size_t mine[OWNERS] = {0}, lent[OWNERS][OWNERS] = {{0}};
    nm_move moves[8];
    (void)pthread_barrier_wait(&start);
    for (int i = 0; i < STEPS; i++) {
        size_t o = below(&seed, OWNERS), other = below(&seed, OWNERS), n = 1 + below(&seed, 900);
        switch (below(&seed, 8)) {
        case 0:
        case 1:
        case 2:
            if (nm_budget_charge(owners[o], n)) mine[o] += n;
            break;
        case 3:
        case 4:
        case 5:
            if (n > mine[o]) n = mine[o];
            CHECK(nm_budget_release(owners[o], n) == NM_OK);
            mine[o] -= n;
            break;
        case 6:
            if (nm_budget_lend(owners[o], owners[other], n, 1000000000) == NM_OK) lent[o][other] += n;
            break;
        default:
            n = lent[o][other];
            if (nm_budget_lend(owners[other], owners[o], n, 1000000000) == NM_OK) lent[o][other] = 0;
            if (i % 64 == 0) (void)nm_budget_rebalance(root, moves, 8);
            if (i % 8 == 0) nm__budget_hold_back(owners[o], below(&seed, 2) == 0 ? 0 : below(&seed, 500));
            if (i % 100 == 0) (void)nm_budget_crossed(&(const nm_budget *){NULL}, &(int){0}, &(bool){false});
        }
    }
    for (size_t o = 0; o < OWNERS; o++) CHECK(nm_budget_release(owners[o], mine[o]) == NM_OK);
    return NULL;
}

/* What one thread changes of a budget's limit and reserve, and what another charges meanwhile, add up: no update of what is
 * left is lost. */
static atomic_bool settled;

static void *charge_on(void *arg) {
    nm_budget *b = arg;
    size_t held = 0;
    for (size_t i = 0; !atomic_load(&settled); i++) {
        if (held < 2000 && nm_budget_charge(b, 1 + i % 9)) held += 1 + i % 9;
        else if (held != 0) {
            CHECK(nm_budget_release(b, held) == NM_OK);
            held = 0;
        }
    }
    CHECK(nm_budget_release(b, held) == NM_OK);
    return NULL;
}

static void test_changes_while_another_thread_charges(void) {
    nm_budget *parent = make(20000, NULL, (nm_budget_options){0}), *b = make(9000, parent, (nm_budget_options){0});
    pthread_t charging;
    atomic_store(&settled, false);
    CHECK(pthread_create(&charging, NULL, charge_on, b) == 0);
    for (int i = 0; i < 40000; i++) {
        nm__budget_hold_back(b, i % 2 == 0 ? 700 : 0);
        nm_budget_set_limit(b, i % 3 == 0 ? 8000 : 9000);
        if (i % 512 == 0) nm_budget_set_limit(parent, i % 1024 == 0 ? 21000 : 1); /* which refuses what b had let pass */
    }
    atomic_store(&settled, true);
    CHECK(pthread_join(charging, NULL) == 0);
    nm__budget_hold_back(b, 0);
    nm_budget_set_limit(b, 9000);
    nm_budget_set_limit(parent, 20000);
    SOUND(nm_budget_check(b));
    SOUND(nm_budget_check(parent));
    CHECK(nm_budget_used(b) == 0 && nm_budget_used(parent) == 0);
    CHECK(nm_budget_charge(b, 9000) && !nm_budget_charge(b, 1) && nm_budget_charge(parent, 11000) &&
          !nm_budget_charge(parent, 1));
    CHECK(nm_budget_release(parent, 11000) == NM_OK && nm_budget_release(b, 9000) == NM_OK);
    nm_budget_destroy(b);
    nm_budget_destroy(parent);
}

static void test_no_limit_is_ever_exceeded(void) {
    nm_budget_options o = {.warn = 0.7, .critical = 0.9, .minimum = 100};
    root = make(3 * LIMIT, NULL, (nm_budget_options){.warn = 0.5, .critical = 0.6, .auto_rebalance = true});
    pooled = make(2000, NULL, (nm_budget_options){0});
    for (int i = 0; i < OWNERS; i++) {
        o.shared = i % 2 != 0 ? pooled : NULL;
        o.shared_max = 200;
        owners[i] = make(LIMIT, root, o);
    }
    pthread_t threads[THREADS];
    CHECK(pthread_barrier_init(&start, NULL, THREADS) == 0);
    for (uintptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, mix, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    (void)pthread_barrier_destroy(&start);
    size_t limits = 0;
    for (int i = 0; i < OWNERS; i++) {
        nm__budget_hold_back(owners[i], 0);
        SOUND(nm_budget_check(owners[i]));
        CHECK(nm_budget_used(owners[i]) == 0 && nm_budget_shared_used(owners[i]) == 0);
        limits += nm_budget_limit(owners[i]);
    }
    CHECK(limits == OWNERS * LIMIT && nm_budget_used(root) == 0 && nm_budget_peak(root) <= 3 * LIMIT);
    CHECK(nm_budget_used(pooled) == 0 && nm_budget_peak(pooled) <= 2000 && nm_budget_peak(pooled) > 0);
    CHECK(nm_budget_denied(root) > 0);
    for (int i = 0; i < OWNERS; i++) nm_budget_destroy(owners[i]);
    nm_budget_destroy(pooled);
    nm_budget_destroy(root);
}

static void test_what_was_released_at_the_parent_is_not_released_twice(void) {
    nm_budget *parent = make(500, NULL, (nm_budget_options){0}), *b = make(500, parent, (nm_budget_options){0});
    CHECK(nm_budget_charge(b, 100) && nm_budget_release(parent, 60) == NM_OK && nm_budget_used(parent) == 40);
    CHECK(nm_budget_release(b, 100) == NM_OK && nm_budget_used(b) == 0 && nm_budget_used(parent) == 0);
    CHECK(nm_budget_charge(parent, 500) && !nm_budget_charge(parent, 1) && nm_budget_release(parent, 500) == NM_OK);
    nm_budget_destroy(b);
    nm_budget_destroy(parent);
}

/* A limit goes up and down without end: what is charged can be released all the same, to the last byte. */
static _Atomic int moving;
static void *move_it(void *arg) {
    for (int i = 0; i < 300000; i++) {
        nm_budget_set_limit(arg, 4950);
        nm_budget_set_limit(arg, 5000);
    }
    (void)atomic_fetch_sub(&moving, 1);
    return NULL;
}
static void test_release_while_the_limit_moves(void) {
    nm_budget *parent = make(5000, NULL, (nm_budget_options){0}), *b = make(5000, parent, (nm_budget_options){0});
    pthread_t threads[2];
    atomic_store(&moving, 2);
    CHECK(pthread_create(&threads[0], NULL, move_it, b) == 0 && pthread_create(&threads[1], NULL, move_it, parent) == 0);
    int refused = 0;
    while (atomic_load(&moving) != 0) {
        if (!nm_budget_charge(b, 100) || nm_budget_release(b, 100) != NM_OK) refused++;
    }
    for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(refused == 0 && nm_budget_used(b) == 0 && nm_budget_used(parent) == 0);
    nm_budget_destroy(b);
    nm_budget_destroy(parent);
}

int main(void) {
    CHECK(pthread_atfork(lend_in_vain, NULL, NULL) == 0); /* before a budget is made: so it is called with their lock held */
    RUN(test_pressure());
    RUN(test_held_back_is_a_crossing());
    RUN(test_where_levels_begin());
    RUN(test_crossings_that_nobody_asks_for());
    RUN(test_the_largest_limits());
    RUN(test_how_deep_an_overdraft_is());
    RUN(test_what_a_shared_budget_counts());
    RUN(test_as_many_givers_as_there_may_be());
    RUN(test_the_moves_of_a_rebalancing());
    RUN(test_a_denial_beside_others());
    RUN(test_lending_waits_no_longer_than_it_may());
    RUN(test_pressure_of_ancestors());
    RUN(test_crossings_of_generated_programs());
    RUN(test_refusals_are_taken_once());
    RUN(test_options());
    RUN(test_a_locked_ancestor());
    RUN(test_lending());
    RUN(test_rebalancing());
    RUN(test_rebalancing_before_a_denial());
    RUN(test_a_shared_budget());
    RUN(test_many_owners());
    RUN(test_what_was_released_at_the_parent_is_not_released_twice());
    RUN(test_release_while_the_limit_moves());
    RUN(test_changes_while_another_thread_charges());
    RUN(test_no_limit_is_ever_exceeded());
    return finish();
}
