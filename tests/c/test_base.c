/* Arithmetic, budgets, the histogram. */
#include <pthread.h>
#include <stdatomic.h>

#include "harness.h"
#include "nativemem.h"

static void test_checked_arithmetic(void) {
    size_t out = 7;
    CHECK(nm_add(SIZE_MAX - 1, 1, &out) && out == SIZE_MAX);
    CHECK(!nm_add(SIZE_MAX, 1, &out) && !nm_add(SIZE_MAX / 2 + 1, SIZE_MAX / 2 + 1, &out) && out == SIZE_MAX);
    CHECK(nm_mul((size_t)1 << 32, ((size_t)1 << 32) - 1, &out) && nm_mul(0, SIZE_MAX, &out) && out == 0);
    CHECK(!nm_mul((size_t)1 << 32, (size_t)1 << 32, &out) && !nm_mul(SIZE_MAX, 2, &out));
    CHECK(nm_align_up(1, 4096, &out) && out == 4096 && nm_align_up(4096, 4096, &out) && out == 4096);
    CHECK(nm_align_up(0, 16, &out) && out == 0);
    CHECK(!nm_align_up(SIZE_MAX - 14, 16, &out) && nm_align_up(SIZE_MAX - 15, 16, &out) && out == SIZE_MAX - 15);
    CHECK(!nm_is_power_of_two(0) && nm_is_power_of_two(1) && !nm_is_power_of_two(6));
}

static void test_limits_and_ancestors(void) {
    nm_budget *root = nm_budget_create(100, NULL), *leaf = nm_budget_create(80, root), *other = nm_budget_create(SIZE_MAX, root);
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

enum { LIMIT = 1000, THREADS = 4, ROUNDS = 40000 };
static nm_budget *shared_root, *leaves[2];
static atomic_size_t holding, highest;

static void *charge_and_release(void *arg) {
    uint64_t seed = 1234567 + (uint64_t)(uintptr_t)arg;
    nm_budget *leaf = leaves[(uintptr_t)arg % 2];
    for (int i = 0; i < ROUNDS; i++) {
        size_t n = 1 + below(&seed, 600);
        if (!nm_budget_charge(leaf, n)) continue;
        /* what is held is counted after the charge and before the release, so it is never more than charged */
        size_t now = atomic_fetch_add(&holding, n) + n, seen = atomic_load(&highest);
        while (seen < now && !atomic_compare_exchange_weak(&highest, &seen, now)) {
        }
        atomic_fetch_sub(&holding, n);
        if (nm_budget_release(leaf, n) != NM_OK) atomic_store(&highest, SIZE_MAX);
    }
    return NULL;
}

static void test_never_over_the_limit_under_threads(void) {
    shared_root = nm_budget_create(LIMIT, NULL);
    leaves[0] = nm_budget_create(LIMIT, shared_root);
    leaves[1] = nm_budget_create(700, shared_root);
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, charge_and_release, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    CHECK(atomic_load(&highest) <= LIMIT && atomic_load(&highest) > 0);
    CHECK(nm_budget_peak(shared_root) <= LIMIT && nm_budget_peak(leaves[1]) <= 700);
    CHECK(nm_budget_used(shared_root) == 0 && nm_budget_used(leaves[0]) == 0 && nm_budget_used(leaves[1]) == 0);
    nm_budget_destroy(leaves[0]);
    nm_budget_destroy(leaves[1]);
    nm_budget_destroy(shared_root);
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

int main(void) {
    RUN(test_checked_arithmetic());
    RUN(test_limits_and_ancestors());
    RUN(test_never_over_the_limit_under_threads());
    RUN(test_histogram_buckets());
    return finish();
}
