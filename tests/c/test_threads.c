/* What any thread may call, called by several at once: no block is given to two threads, and the sums are exact.
 * What else goes wrong between threads is ThreadSanitizer's to see. */
#define _GNU_SOURCE /* pthread_barrier_t */
#include <pthread.h>

#include "base/base.h"
#include "locks.h"
#include "harness.h"
#include "nativemem.h"

enum { THREADS = 4, ROUNDS = 3000, SLOTS = 40 };

static nm_allocator port;
static nm_budget *budget;
static size_t limit;

typedef struct share {
    unsigned seed;
    size_t total, count, failures, broken;
} share;

static nm_stats stats(nm_allocator a) {
    nm_stats s;
    a.methods->stats(a.self, &s);
    return s;
}

static void *churn(void *arg) {
    share *mine = arg;
    struct {
        unsigned char *ptr;
        size_t size;
    } slots[SLOTS] = {0};
    uint64_t seed = mine->seed;
    for (int round = 0; round < ROUNDS; round++) {
        size_t i = below(&seed, SLOTS), size = 1 + below(&seed, round % 50 == 0 ? 70000 : 400);
        if (slots[i].ptr == NULL) {
            slots[i].ptr = nm_alloc(port, size, 16);
            slots[i].size = size;
            if (slots[i].ptr == NULL) {
                mine->failures++;
                continue;
            }
            mine->total += size;
            mine->count++;
            fill(slots[i].ptr, size, mine->seed);
        } else if (round % 3 == 0 && size < slots[i].size &&
                   port.methods->resize(port.self, slots[i].ptr, slots[i].size, size, 16)) {
            slots[i].size = size;
        } else {
            mine->broken += !filled(slots[i].ptr, slots[i].size, mine->seed);
            mine->broken += nm_free(port, slots[i].ptr, slots[i].size, 16) != NM_OK;
            slots[i].ptr = NULL;
        }
        nm_stats seen = stats(port);
        mine->broken += seen.used > seen.peak || (limit != 0 && seen.used > limit);
    }
    for (size_t i = 0; i < SLOTS; i++)
        if (slots[i].ptr != NULL) mine->broken += nm_free(port, slots[i].ptr, slots[i].size, 16) != NM_OK;
    return NULL;
}

static void run_shares(void) {
    pthread_t threads[THREADS];
    share shares[THREADS] = {0};
    size_t total = 0, count = 0, failures = 0;
    for (unsigned i = 0; i < THREADS; i++) {
        shares[i].seed = 17 + i;
        CHECK(pthread_create(&threads[i], NULL, churn, &shares[i]) == 0);
    }
    for (int i = 0; i < THREADS; i++) {
        pthread_join(threads[i], NULL);
        CHECK(shares[i].broken == 0);
        total += shares[i].total;
        count += shares[i].count;
        failures += shares[i].failures;
    }
    nm_stats s = stats(port);
    CHECK(s.used == 0 && s.live == 0 && s.total == total && s.count == count && s.frees == count);
    CHECK(s.failures == failures && s.peak > 0 && (limit == 0 ? failures == 0 : s.peak <= limit));
}

enum { NUMBERS = 500000 };
static pthread_barrier_t together;
static void *take_numbers(void *arg) {
    size_t *broken = arg;
    (void)pthread_barrier_wait(&together);
    for (uintptr_t i = 0, last = 0; i < NUMBERS; i++) {
        uintptr_t number = nm__new_thread_number();
        *broken += number <= last;
        last = number;
    }
    return NULL;
}

/* By which cells, parts and tallies are known to be a thread's: none is given twice. */
static void test_numbers_of_threads(void) {
    pthread_t threads[THREADS];
    size_t broken[THREADS] = {0};
    CHECK(pthread_barrier_init(&together, NULL, THREADS) == 0);
    uintptr_t first = nm__new_thread_number();
    for (int i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, take_numbers, &broken[i]) == 0);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0 && broken[i] == 0);
    (void)pthread_barrier_destroy(&together);
    CHECK(nm__new_thread_number() == first + THREADS * NUMBERS + 1);
}

static void test_system(void) {
    nm_system *system = nm_system_create();
    port = nm_system_port(system);
    limit = 0;
    run_shares();
    nm_system_destroy(system);
}

static void test_heap(bool secure) {
    nm_heap *heap = nm_heap_create(NULL, secure);
    port = nm_heap_port(heap);
    limit = 0;
    run_shares();
    SOUND(nm_heap_check(heap));
    nm_heap_destroy(heap);
}

static void test_wrappers(nm_allocator upstream) {
    limit = 60000; /* each thread alone would hold more at times */
    nm_budget *root = nm_budget_create(1 << 20, NULL, NULL);
    budget = nm_budget_create(limit, root, NULL);
    nm_traced *inner = nm_traced_create(upstream, (nm_traced_options){.histogram = true});
    nm_limited *limited = nm_limited_create(nm_traced_port(inner), budget);
    port = nm_limited_port(limited);
    run_shares();
    CHECK(stats(port).failures > 0 && nm_budget_denied(budget) == stats(port).failures);
    CHECK(nm_budget_used(budget) == 0 && nm_budget_used(root) == 0 && nm_budget_peak(budget) <= limit);
    CHECK(stats(nm_traced_port(inner)).count == stats(port).count && stats(nm_traced_port(inner)).used == 0);
    SOUND(nm_budget_check(budget));
    nm_limited_destroy(limited);
    nm_traced_destroy(inner);
    nm_budget_destroy(budget);
    nm_budget_destroy(root);
}

int main(void) {
    if (nm_region_init((size_t)4 << 30, (size_t)4 << 20, 1000) != NM_OK) return 2;
    RUN(test_numbers_of_threads());
    RUN(test_system());
    RUN(test_heap(false));
    RUN(test_heap(true));
    nm_system *system = nm_system_create();
    RUN(test_wrappers(nm_system_port(system)));
    nm_system_destroy(system);
    nm_heap *heap = nm_heap_create(NULL, false);
    RUN(test_wrappers(nm_heap_port(heap)));
    nm_heap_destroy(heap);
    return finish();
}
