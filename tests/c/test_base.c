/* Arithmetic, the last failure, budgets, the histogram. */
#define _GNU_SOURCE /* CLOCK_MONOTONIC_COARSE */
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include "alloc/cells.h"
#include "base/base.h"
#include "harness.h"
#include "nativemem.h"

static void test_checked_arithmetic(void) {
    size_t out = 7;
    CHECK(nm_add(SIZE_MAX - 1, 1, &out) && out == SIZE_MAX);
    CHECK(!nm_add(SIZE_MAX, 1, &out) && !nm_add(SIZE_MAX / 2 + 1, SIZE_MAX / 2 + 1, &out) && out == SIZE_MAX);
    CHECK(nm_mul((size_t)1 << 32, ((size_t)1 << 32) - 1, &out) && nm_mul(0, SIZE_MAX, &out) && out == 0);
    CHECK(nm_mul(SIZE_MAX / 3, 3, &out) && out == SIZE_MAX && nm_mul(0, SIZE_MAX, &out) && out == 0);
    CHECK(!nm_mul((size_t)1 << 32, (size_t)1 << 32, &out) && !nm_mul(SIZE_MAX, 2, &out));
    CHECK(nm_align_up(1, 4096, &out) && out == 4096 && nm_align_up(4096, 4096, &out) && out == 4096);
    CHECK(nm_align_up(0, 16, &out) && out == 0);
    CHECK(!nm_align_up(SIZE_MAX - 14, 16, &out) && nm_align_up(SIZE_MAX - 15, 16, &out) && out == SIZE_MAX - 15);
    CHECK(!nm_is_power_of_two(0) && nm_is_power_of_two(1) && !nm_is_power_of_two(6));
}

static void *fail_here(void *unused) {
    (void)unused;
    CHECK(nm_last_failure().status == NM_OK); /* a thread starts with none */
    CHECK(nm_refuse(NM_EXHAUSTED, 1, 2, 3) == NULL);
    nm_failure f = nm_last_failure();
    CHECK(f.status == NM_EXHAUSTED && f.requested == 1 && f.used == 2 && f.limit == 3);
    return NULL;
}
static void test_each_thread_has_a_status_slot(void) {
    CHECK(nm__fail(NM_INVALID_MARK, 7, 0, 0) == NM_INVALID_MARK);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, fail_here, NULL) == 0);
    pthread_join(thread, NULL);
    CHECK(nm_last_failure().status == NM_INVALID_MARK && nm_last_failure().requested == 7);
}

static void test_limits_and_ancestors(void) {
    nm_budget *root = nm_budget_create(100, NULL, NULL), *leaf = nm_budget_create(80, root, NULL),
              *other = nm_budget_create(SIZE_MAX, root, NULL);
    CHECK(nm_budget_charge(leaf, 80) && nm_budget_used(leaf) == 80 && nm_budget_used(root) == 80);
    CHECK(!nm_budget_charge(leaf, 1) && nm_last_failure().status == NM_OVER_BUDGET);
    CHECK(!nm_budget_charge(other, 21) && nm_budget_charge(other, 20)); /* exactly the limit passes */
    CHECK(nm_budget_used(other) == 20 && nm_budget_used(root) == 100);
    CHECK(!nm_budget_charge(other, SIZE_MAX) && nm_budget_used(other) == 20); /* the sum overflows */
    nm_denial d;
    CHECK(nm_budget_last_denial(root, &d) && d.refuser == root && d.requested == 21 && d.used == 80 && d.limit == 100);
    CHECK(nm_budget_last_denial(leaf, &d) && d.refuser == leaf && d.requested == 1 && d.time_ns > 0);
    CHECK(nm_budget_denied(root) == 1 && nm_budget_denied(leaf) == 1 && nm_budget_denied(other) == 2);
    CHECK(nm_budget_release(leaf, 81) == NM_UNDERFLOW && nm_budget_used(leaf) == 80 && nm_budget_used(root) == 100);
    CHECK(nm_budget_release(leaf, NM_SIZE_MAX) == NM_UNDERFLOW && nm_budget_used(leaf) == 80);
    CHECK(nm_budget_release(leaf, SIZE_MAX) == NM_UNDERFLOW && nm_budget_used(leaf) == 80);
    CHECK(nm_budget_release(leaf, 80) == NM_OK && nm_budget_used(root) == 20 && nm_budget_peak(root) == 100);
    nm_budget_set_limit(other, 10);
    CHECK(!nm_budget_charge(other, 1) && nm_budget_release(other, 11) == NM_OK && nm_budget_charge(other, 1));
    SOUND(nm_budget_check(leaf));
    SOUND(nm_budget_check(other));
    nm_budget_destroy(other); /* gives back to its ancestors what it still has */
    CHECK(nm_budget_used(root) == 0);
    nm_budget_destroy(leaf);
    nm_budget_destroy(root);
}

static void test_a_refused_charge_leaves_no_trace(void) {
    nm_budget *root = nm_budget_create(100, NULL, NULL), *middle = nm_budget_create(200, root, NULL),
              *leaf = nm_budget_create(300, middle, NULL);
    CHECK(nm_budget_charge(leaf, 40));
    CHECK(!nm_budget_charge(leaf, 61)); /* the root says no, after leaf and middle said yes */
    CHECK(nm_budget_used(leaf) == 40 && nm_budget_used(middle) == 40 && nm_budget_used(root) == 40);
    CHECK(nm_budget_peak(leaf) == 40 && nm_budget_peak(middle) == 40 && nm_budget_peak(root) == 40);
    CHECK(nm_budget_denied(leaf) == 1 && nm_budget_denied(middle) == 0 && nm_budget_denied(root) == 1);
    nm_denial at_leaf, at_root;
    CHECK(nm_budget_last_denial(leaf, &at_leaf) && nm_budget_last_denial(root, &at_root));
    CHECK(at_leaf.refuser == root && at_leaf.used == 40 && at_leaf.limit == 100 && at_leaf.requested == 61);
    CHECK(at_root.refuser == root && at_root.time_ns == at_leaf.time_ns);
    nm_failure f = nm_last_failure();
    CHECK(f.status == NM_OVER_BUDGET && f.requested == 61 && f.used == 40 && f.limit == 100);
    CHECK(!nm_budget_last_denial(middle, &at_leaf));
    CHECK(nm_refuse(NM_OK, 0, 0, 0) == NULL);
    CHECK(!nm__budget_try(leaf, 61) && nm_budget_denied(leaf) == 1); /* only asked */
    CHECK(nm_last_failure().status == NM_OVER_BUDGET && nm_last_failure().limit == 100);
    CHECK(nm__budget_try(leaf, 60) && nm_budget_used(root) == 100);
    CHECK(nm_budget_release(leaf, 60) == NM_OK);
    CHECK(nm__budget_hold(leaf, 30) && nm_budget_release(leaf, 30) == NM_OK); /* given up before it was settled */
    nm_budget_set_limit(root, 1000);
    CHECK(nm_budget_peak(leaf) == 40 && nm_budget_peak(root) == 40);
    CHECK(nm__budget_hold(leaf, 30));
    nm__budget_settle(leaf);
    CHECK(nm_budget_release(leaf, 30) == NM_OK && nm_budget_peak(leaf) == 70 && nm_budget_peak(root) == 70);
    SOUND(nm_budget_check(leaf));
    nm__budget_hold_back(root, 900);
    CHECK(!nm_budget_charge(leaf, 61) && nm_budget_charge(leaf, 60));
    CHECK(nm_budget_last_denial(leaf, &at_leaf) && at_leaf.limit == 1000); /* the limit is what it was */
    nm__budget_hold_back(root, SIZE_MAX);
    CHECK(!nm_budget_charge(leaf, 1));
    nm_budget_destroy(leaf);
    CHECK(nm_budget_used(root) == 0 && nm_budget_used(middle) == 0);
    nm_budget_destroy(middle);
    nm_budget_destroy(root);
}

enum { LIMIT = 1000, THREADS = 4, ROUNDS = 100000 };
static nm_budget *shared_root, *leaves[2];
static atomic_size_t holding, highest;
static pthread_barrier_t start; /* or the first thread may be done before the last begins */

static void *charge_and_release(void *arg) {
    uint64_t seed = 1234567 + (uint64_t)(uintptr_t)arg;
    nm_budget *leaf = leaves[(uintptr_t)arg % 2];
    (void)pthread_barrier_wait(&start);
    for (int i = 0; i < ROUNDS; i++) {
        size_t n = 1 + below(&seed, 600);
        if (!nm_budget_charge(leaf, n)) continue;
        /* what is held is counted after the charge and before the release, so it is never more than charged */
        size_t now = atomic_fetch_add(&holding, n) + n, seen = atomic_load(&highest);
        while (seen < now && !atomic_compare_exchange_weak(&highest, &seen, now)) {}
        atomic_fetch_sub(&holding, n);
        if (nm_budget_release(leaf, n) != NM_OK) atomic_store(&highest, SIZE_MAX);
    }
    return NULL;
}

static void test_never_over_the_limit_under_threads(void) {
    shared_root = nm_budget_create(LIMIT, NULL, NULL);
    leaves[0] = nm_budget_create(LIMIT, shared_root, NULL);
    leaves[1] = nm_budget_create(700, shared_root, NULL);
    pthread_t threads[THREADS];
    CHECK(pthread_barrier_init(&start, NULL, THREADS) == 0);
    for (uintptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, charge_and_release, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    CHECK(atomic_load(&highest) <= LIMIT && atomic_load(&highest) > 0);
    pthread_barrier_destroy(&start);
    CHECK(nm_budget_peak(shared_root) <= LIMIT && nm_budget_peak(leaves[1]) <= 700);
    CHECK(nm_budget_used(shared_root) == 0 && nm_budget_used(leaves[0]) == 0 && nm_budget_used(leaves[1]) == 0);
    nm_budget_destroy(leaves[0]);
    nm_budget_destroy(leaves[1]);
    nm_budget_destroy(shared_root);
}

static uint64_t coarse_ms(void) {
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}
static void test_clocks(void) {
    uint64_t before = coarse_ms(), now = nm__os_now_ms(), after = coarse_ms();
    CHECK(before <= now && now <= after);
    int64_t second = time(NULL), ns = nm__os_time_ns();
    CHECK(second - 1 <= ns / 1000000000 && ns / 1000000000 <= time(NULL) + 1);
}

static void test_histogram_buckets(void) {
    CHECK(nm_histo_bucket(1) == 0 && nm_histo_size(0) == 1);
    unsigned last = 0;
    for (size_t size = 1; size < 100000; size++) {
        unsigned bucket = nm_histo_bucket(size);
        CHECK(bucket == last || bucket == last + 1);
        CHECK(size <= nm_histo_size(bucket) && (bucket == 0 || size > nm_histo_size(bucket - 1)));
        last = bucket;
    }
    for (unsigned bucket = 0; bucket < NM_HISTO_BUCKETS; bucket++) CHECK(nm_histo_bucket(nm_histo_size(bucket)) == bucket);
    CHECK(nm_histo_bucket(NM_SIZE_MAX) < NM_HISTO_BUCKETS);
}

static void test_histogram_counts(void) {
    nm_system *s = nm_system_create();
    nm_traced *t = nm_traced_create(nm_system_port(s), (nm_traced_options){.histogram = true}),
              *plain = nm_traced_create(nm_system_port(s), (nm_traced_options){0});
    nm_allocator port = nm_traced_port(t);
    uint64_t counts[NM_HISTO_BUCKETS], sum = 0;
    for (size_t size = 1; size <= 1000; size++) CHECK(nm_free(port, nm_alloc(port, size, 16), size, 16) == NM_OK);
    CHECK(nm_alloc(port, NM_SIZE_MAX, 16) == NULL); /* not handed out, so not counted */
    CHECK(nm_traced_histogram(t, counts, NULL));
    for (unsigned bucket = 0; bucket < NM_HISTO_BUCKETS; bucket++) {
        size_t below_it = bucket == 0 ? 0 : nm_histo_size(bucket - 1);
        if (nm_histo_size(bucket) <= 1000) CHECK(counts[bucket] == nm_histo_size(bucket) - below_it);
        sum += counts[bucket];
    }
    CHECK(sum == 1000);
    CHECK(!nm_traced_histogram(plain, counts, NULL));
    nm_traced_destroy(plain);
    nm_traced_destroy(t);
    nm_system_destroy(s);
}

static void test_limited_gives_back_what_is_left(void) {
    nm_system *s = nm_system_create();
    nm_budget *root = nm_budget_create(1000, NULL, NULL), *budget = nm_budget_create(500, root, NULL);
    nm_allocator below_it = nm_system_port(s);
    for (int clears = 0; clears < 2; clears++) {
        nm_limited *l = nm_limited_create(below_it, budget);
        void *block = nm_alloc(nm_limited_port(l), 300, 16);
        CHECK(nm_budget_used(budget) == 300 && nm_budget_used(root) == 300);
        if (clears) {
            nm_limited_clear(l);
            nm_stats stats;
            nm_limited_port(l).methods->stats(l, &stats);
            CHECK(stats.used == 0 && nm_budget_used(budget) == 0);
        }
        nm_limited_destroy(l); /* the block is its upstream's from now on */
        CHECK(nm_budget_used(budget) == 0 && nm_budget_used(root) == 0);
        CHECK(nm_free(below_it, block, 300, 16) == NM_OK);
    }
    nm_limited_destroy(NULL);
    nm_budget_destroy(budget);
    nm_budget_destroy(root);
    nm_system_destroy(s);
}

/* NM_ASSERT, which is on here. */
static void test_a_broken_precondition_ends_the_process(void) {
    int status, ends[2];
    CHECK(pipe(ends) == 0);
    pid_t child = fork();
    if (child == 0) {
        (void)dup2(ends[1], STDERR_FILENO);
        (void)signal(SIGABRT, SIG_DFL);
        nm__cells full = {.cell = 16};
        (void)nm__cells_pop(&full, 0);
        _exit(0);
    }
    (void)close(ends[1]);
    char text[200] = {0};
    CHECK(read(ends[0], text, sizeof text - 1) > 0);
    (void)close(ends[0]);
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK(strstr(text, "alloc/cells.h:") != NULL && strstr(text, ": precondition broken: c->free != NULL\n") != NULL);
}

int main(void) {
    RUN(test_checked_arithmetic());
    RUN(test_each_thread_has_a_status_slot());
    RUN(test_limits_and_ancestors());
    RUN(test_a_refused_charge_leaves_no_trace());
    RUN(test_never_over_the_limit_under_threads());
    RUN(test_limited_gives_back_what_is_left());
    RUN(test_clocks());
    RUN(test_a_broken_precondition_ends_the_process());
    RUN(test_histogram_buckets());
    RUN(test_histogram_counts());
    return finish();
}
