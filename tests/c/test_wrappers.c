/* What failing and locked do beyond the port. */
#define _GNU_SOURCE /* pthread_barrier_t */
#include <pthread.h>

#include "locks.h"
#include "harness.h"

#include "base/poison.h"
#include "nativemem.h"

static nm_stats stats(nm_allocator a) {
    nm_stats s;
    a.methods->stats(a.self, &s);
    return s;
}

static void test_the_nth_fails(void) {
    nm_system *system = nm_system_create();
    nm_failing *f = nm_failing_create(nm_system_port(system), 3, false);
    nm_allocator port = nm_failing_port(f);
    for (size_t round = 0; round < 2; round++) {
        for (size_t i = 1; i <= 5; i++) {
            void *ptr = nm_alloc(port, 100, 16);
            CHECK((ptr == NULL) == (i == 3));
            if (ptr == NULL) CHECK(nm_last_failure().status == NM_OUT_OF_MEMORY && nm_last_failure().requested == 100);
            else CHECK(nm_free(port, ptr, 100, 16) == NM_OK);
        }
        CHECK(nm_failing_calls(f) == 5 && nm_failing_failed(f) == 1);
        nm_failing_arm(f, 3, false);
        CHECK(nm_failing_calls(f) == 0 && nm_failing_failed(f) == 0);
    }
    CHECK(stats(port).failures == 2 && stats(nm_system_port(system)).count == 8);
    nm_failing_arm(f, 2, true);
    void *first = nm_alloc(port, 10, 16);
    for (int i = 0; i < 4; i++) CHECK(nm_alloc(port, 10, 16) == NULL);
    CHECK(nm_failing_failed(f) == 4 && nm_free(port, first, 10, 16) == NM_OK);
    nm_failing_arm(f, 0, true);
    for (int i = 0; i < 4; i++) CHECK(nm_free(port, nm_alloc(port, 10, 16), 10, 16) == NM_OK);
    nm_failing_destroy(f);
    CHECK(stats(nm_system_port(system)).live == 0);
    nm_system_destroy(system);
}

static void test_what_was_handed_over(void) {
    nm_system *system = nm_system_create();
    nm_arena *a = nm_arena_create(nm_system_port(system), (nm_arena_options){.hint = 1000, .grow = true});
    nm_locked *l = nm_locked_create(nm_arena_port(a));
    nm_allocator arena = nm_arena_port(a), port = nm_locked_port(l);
    CHECK(nm_locked_thread(l) != nm_this_thread());
    CHECK(nm_alloc(port, 10, 16) == NULL && nm_last_failure().status == NM_WRONG_THREAD); /* not its yet */
    CHECK(nm_arena_hand_over(a, nm_locked_thread(l)) == NM_OK);
    CHECK(nm_alloc(arena, 10, 16) == NULL && nm_last_failure().status == NM_WRONG_THREAD);
    CHECK(nm_arena_hand_over(a, nm_this_thread()) == NM_WRONG_THREAD && nm_arena_reset(a) == NM_WRONG_THREAD);
    CHECK(nm_alloc(port, 10, 16) != NULL && nm_alloc(arena, 10, 16) == NULL);
    uintptr_t before = nm_locked_enter(l);
    CHECK(nm_alloc(arena, 10, 16) != NULL && nm_alloc(port, 10, 16) != NULL && nm_alloc(arena, 10, 16) != NULL);
    CHECK(nm_arena_hand_over(a, nm_this_thread()) == NM_OK && nm_alloc(arena, 10, 16) == NULL);
    nm_locked_leave(before);
    CHECK(nm_alloc(arena, 10, 16) != NULL && nm_locked_contended(l) == 0);
    nm_locked_destroy(l);
    nm_arena_destroy(a);
    nm_system_destroy(system);
}

enum { THREADS = 4, ROUNDS = 20000 };
static nm_allocator shared;
static nm_arena *arena_below;
static nm_locked *lock;
static pthread_barrier_t start;

static void *work(void *arg) {
    unsigned me = (unsigned)(uintptr_t)arg;
    uint64_t seed = 99 + me;
    void *blocks[16] = {NULL};
    size_t sizes[16];
    (void)pthread_barrier_wait(&start);
    for (int i = 0; i < ROUNDS; i++) {
        size_t k = arena_below != NULL ? 0 : below(&seed, 16);
        if (blocks[k] != NULL) {
            CHECK(filled(blocks[k], sizes[k], me));
            CHECK(nm_free(shared, blocks[k], sizes[k], 16) == NM_OK);
        }
        sizes[k] = 1 + below(&seed, 100);
        blocks[k] = nm_alloc(shared, sizes[k], 16);
        CHECK(blocks[k] != NULL);
        if (blocks[k] == NULL) break;
        fill(blocks[k], sizes[k], me);
    }
    for (int k = 0; k < 16; k++)
        if (blocks[k] != NULL) CHECK(filled(blocks[k], sizes[k], me) && nm_free(shared, blocks[k], sizes[k], 16) == NM_OK);
    return NULL;
}

static void run_threads(void) {
    pthread_t threads[THREADS];
    CHECK(pthread_barrier_init(&start, NULL, THREADS) == 0);
    for (uintptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, work, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    (void)pthread_barrier_destroy(&start);
    CHECK(stats(shared).live == 0 && stats(shared).used == 0 && stats(shared).count == THREADS * ROUNDS);
}

static void test_threads_on_an_arena(void) {
    nm_heap *h = nm_heap_create(NULL, false); /* each thread has its own part of it, whomever it acts for */
    arena_below = nm_arena_create(nm_heap_port(h), (nm_arena_options){.hint = 4096, .grow = true});
    lock = nm_locked_create(nm_arena_port(arena_below));
    CHECK(nm_arena_hand_over(arena_below, nm_locked_thread(lock)) == NM_OK);
    shared = nm_locked_port(lock);
    run_threads();
    SOUND(nm_arena_check(arena_below));
    SOUND(nm_heap_check(h));
    nm_locked_destroy(lock);
    nm_arena_destroy(arena_below);
    SOUND(nm_heap_check(h));
    nm_heap_destroy(h);
    arena_below = NULL;
}

static void test_threads_on_a_slab(void) {
    static const size_t bins[] = {32, 64, 128};
    nm_system *system = nm_system_create();
    nm_slab *s = nm_slab_create(nm_system_port(system), bins, 3, false);
    lock = nm_locked_create(nm_slab_port(s));
    CHECK(nm_slab_hand_over(s, nm_locked_thread(lock)) == NM_OK);
    shared = nm_locked_port(lock);
    run_threads();
    SOUND(nm_slab_check(s));
    nm_locked_destroy(lock);
    nm_slab_destroy(s);
    CHECK(stats(nm_system_port(system)).live == 0);
    nm_system_destroy(system);
}

/* A slab that comes back to a thread ends with it. */
static void *take_back(void *arg) {
    nm_slab *s = arg;
    uintptr_t before = nm_locked_enter(lock);
    CHECK(nm_slab_hand_over(s, nm_this_thread()) == NM_OK);
    nm_locked_leave(before);
    void *ptr = nm_alloc(nm_slab_port(s), 100, 16);
    CHECK(ptr != NULL);
    return ptr;
}
static void test_a_slab_ends_with_who_took_it_back(void) {
    static const size_t bins[] = {128};
    nm_system *system = nm_system_create();
    nm_slab *s = nm_slab_create(nm_system_port(system), bins, 1, false);
    lock = nm_locked_create(nm_slab_port(s));
    CHECK(nm_slab_hand_over(s, nm_locked_thread(lock)) == NM_OK);
    pthread_t thread;
    void *block = NULL;
    CHECK(pthread_create(&thread, NULL, take_back, s) == 0 && pthread_join(thread, &block) == 0);
    CHECK(stats(nm_system_port(system)).live == 1);
    CHECK(nm_free(nm_slab_port(s), block, 100, 16) == NM_OK);
    CHECK(stats(nm_system_port(system)).live == 0); /* no other call would give the superblock back */
    nm_locked_destroy(lock);
    nm_slab_destroy(s);
    nm_system_destroy(system);
}

/* Many threads come and go; what they counted stays, and they do not leave a tally each. */
static nm_allocator counted;
static void *count_some(void *arg) {
    void *block = nm_alloc(counted, 100, 16);
    for (int i = 0; i < 100; i++) CHECK(nm_free(counted, nm_alloc(counted, 50, 16), 50, 16) == NM_OK);
    if (arg != NULL) CHECK(nm_free(counted, arg, 100, 16) == NM_OK); /* the one before's */
    return block;
}
static void test_threads_counted(void) {
    nm_system *system = nm_system_create();
    nm_traced *t = nm_traced_create(nm_system_port(system), (nm_traced_options){.histogram = true});
    counted = nm_traced_port(t);
    void *block = NULL;
    for (int i = 0; i < 50; i++) {
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, count_some, block) == 0 && pthread_join(thread, &block) == 0);
        nm_stats s = stats(counted);
        CHECK(s.live == 1 && s.used == 100 && s.count == 101U * (unsigned)(i + 1) && s.total == 5100U * (unsigned)(i + 1));
        CHECK(s.peak >= 150 && s.peak <= 250);
        SOUND(nm_traced_check(t));
    }
    CHECK(nm_free(counted, block, 100, 16) == NM_OK && stats(counted).live == 0);
    uint64_t sizes[NM_HISTO_BUCKETS], latencies[NM_HISTO_BUCKETS], sum[2] = {0, 0};
    CHECK(nm_traced_histogram(t, sizes, latencies));
    for (int i = 0; i < NM_HISTO_BUCKETS; i++) sum[0] += sizes[i], sum[1] += latencies[i];
    CHECK(sum[0] == 5050 && sum[1] == 5050 && sizes[nm_histo_bucket(50)] == 5000 && sizes[nm_histo_bucket(100)] == 50);
    nm_traced_destroy(t);
    nm_system_destroy(system);
}

static void *churn(void *arg) {
    (void)arg;
    for (int i = 0; i < 20000; i++) CHECK(nm_free(counted, nm_alloc(counted, 24, 16), 24, 16) == NM_OK);
    return NULL;
}
static void test_more_wrappers_than_slots(void) {
    nm_heap *h = nm_heap_create(NULL, false);
    nm_traced *all[20];
    for (int i = 0; i < 20; i++)
        all[i] = nm_traced_create(i == 0 ? nm_heap_port(h) : nm_traced_port(all[i - 1]), (nm_traced_options){0});
    counted = nm_traced_port(all[19]);
    pthread_t threads[3];
    for (int i = 0; i < 3; i++) CHECK(pthread_create(&threads[i], NULL, churn, NULL) == 0);
    for (int i = 0; i < 3; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    for (int i = 20; i-- > 0;) {
        nm_stats s = stats(nm_traced_port(all[i]));
        CHECK(s.count == 60000 && s.frees == 60000 && s.used == 0 && s.peak >= 24 && s.peak <= 72);
        nm_traced_destroy(all[i]);
    }
    nm_heap_destroy(h);
}

static void test_wiped(void) {
    nm_system *system = nm_system_create();
    nm_stack *stack = nm_stack_create(nm_system_port(system), 1000, false);
    nm_traced *t = nm_traced_create(nm_stack_port(stack), (nm_traced_options){.zero_on_free = true});
    nm_allocator port = nm_traced_port(t);
    char *first = nm_alloc(port, 40, 16), *second = nm_alloc(port, 64, 16);
    fill(first, 40, 1);
    fill(second, 64, 2);
    CHECK(nm_free(port, first, 40, 16) == NM_LIFO_VIOLATION && filled(first, 40, 1)); /* refused: as it was */
    CHECK(nm_free(port, second, 64, 16) == NM_OK);
#ifndef NM__WATCHED /* a checker would mind the look at it */
    for (int i = 0; i < 64; i++) CHECK(second[i] == 0);
#endif
    CHECK(nm_free(port, first, 40, 16) == NM_OK && stats(port).live == 0);
    nm_traced_destroy(t);
    nm_stack_destroy(stack);
    nm_system_destroy(system);
}

/* ---- sites ------------------------------------------------------------------------------------------ */

enum { KEPT = 3000 };
static uintptr_t site_now; /* what the caller says */
static uintptr_t site_is(void *context) { return *(uintptr_t *)context; }

static size_t bytes_at(nm_traced *t, uintptr_t site, size_t *blocks) {
    static uintptr_t sites[KEPT];
    static size_t sizes[KEPT];
    size_t sum = 0, count = nm_traced_sites(t, sites, sizes, KEPT);
    *blocks = 0;
    CHECK(count <= KEPT);
    for (size_t i = 0; i < count; i++) {
        if (sites[i] != site) continue;
        sum += sizes[i];
        ++*blocks;
    }
    return sum;
}

static void test_where_blocks_came_from(void) {
    nm_heap *h = nm_heap_create(NULL, false);
    nm_traced *t = nm_traced_create(nm_heap_port(h), (nm_traced_options){.site = site_is, .context = &site_now});
    nm_allocator port = nm_traced_port(t);
    static void *kept[KEPT];
    size_t sizes[KEPT], sums[4] = {0}, counts[4] = {0}, blocks;
    uint64_t seed = 5;
    for (size_t i = 0; i < KEPT; i++) {
        site_now = i % 3 + 1;
        kept[i] = nm_alloc(port, sizes[i] = 1 + below(&seed, 400), 16);
        sums[site_now] += sizes[i];
        counts[site_now]++;
    }
    SOUND(nm_traced_check(t));
    CHECK(nm_traced_sites(t, NULL, NULL, 0) == KEPT);
    for (size_t i = 0; i < KEPT; i++) { /* in another order than they came */
        size_t at = i * 7 % KEPT, site = at % 3 + 1;
        CHECK(bytes_at(t, site, &blocks) == sums[site] && blocks == counts[site]);
        CHECK(nm_traced_site_of(t, kept[at]) == site);
        CHECK(nm_free(port, kept[at], sizes[at], 16) == NM_OK && nm_traced_site_of(t, kept[at]) == 0);
        CHECK(nm_free(port, kept[at], sizes[at], 16) == NM_FOREIGN_BLOCK); /* and the heap is not asked */
        sums[site] -= sizes[at];
        counts[site]--;
        if (i % 100 == 0) SOUND(nm_traced_check(t));
    }
    SOUND(nm_traced_check(t));
    CHECK(nm_traced_sites(t, NULL, NULL, 0) == 0);
    char *grown = nm_alloc(port, 40, 16);
    CHECK(port.methods->resize(port.self, grown, 40, 48, 16) && bytes_at(t, site_now, &blocks) == 48 && blocks == 1);
    CHECK(nm_free(nm_heap_port(h), grown, 48, 16) == NM_OK); /* past it, and the heap gives the place again */
    CHECK(nm_alloc(port, 40, 16) == grown && bytes_at(t, site_now, &blocks) == 40 && blocks == 1);
    CHECK(nm_free(port, grown, 40, 16) == NM_OK);
    nm_traced_destroy(t);
    nm_heap_destroy(h);
}

static void test_sites_of_what_is_refused(void) {
    nm_system *system = nm_system_create();
    nm_stack *stack = nm_stack_create(nm_system_port(system), 200, false);
    nm_traced *t = nm_traced_create(nm_stack_port(stack), (nm_traced_options){.site = site_is, .context = &site_now});
    nm_allocator port = nm_traced_port(t);
    size_t blocks;
    void *first = nm_alloc(port, 40, 16), *second = nm_alloc(port, 64, 16);
    for (int i = 0; i < 100; i++) CHECK(nm_alloc(port, 1000, 16) == NULL);
    SOUND(nm_traced_check(t));
    CHECK(nm_free(port, first, 40, 16) == NM_LIFO_VIOLATION && bytes_at(t, site_now, &blocks) == 104 && blocks == 2);
    SOUND(nm_traced_check(t));
    CHECK(nm_free(port, second, 64, 16) == NM_OK && nm_free(port, first, 40, 16) == NM_OK);
    CHECK(nm_traced_sites(t, NULL, NULL, 0) == 0);
    nm_traced_destroy(t);
    nm_stack_destroy(stack);
    nm_system_destroy(system);
}

/* A block is seen with a probability of 1 - exp(-size / sample): for one of a tenth of it that is 0.0952. */
static void test_a_sample_of_sites(void) {
    nm_system *system = nm_system_create();
    nm_traced_options o = {.site = site_is, .context = &site_now, .sample = 1000};
    nm_traced *t = nm_traced_create(nm_system_port(system), o);
    nm_allocator port = nm_traced_port(t);
    size_t seen = 0, blocks;
    for (int i = 0; i < 100000; i++) {
        void *ptr = nm_alloc(port, 100, 16);
        (void)bytes_at(t, site_now, &blocks);
        seen += blocks;
        CHECK(nm_free(port, ptr, 100, 16) == NM_OK);
    }
    CHECK(seen > 9516 - 464 && seen < 9516 + 464); /* five standard deviations */
    for (int i = 0; i < 100; i++) { /* one of twenty samples is not seen once in 5e8 */
        void *ptr = nm_alloc(port, 20000, 16);
        CHECK(bytes_at(t, site_now, &blocks) == 20000);
        CHECK(nm_free(port, ptr, 20000, 16) == NM_OK);
    }
    SOUND(nm_traced_check(t));
    nm_traced_destroy(t);
    nm_system_destroy(system);
}

static void *with_sites(void *arg) {
    nm_allocator *port = arg;
    void *mine[50] = {NULL};
    for (int i = 0; i < 20000; i++) {
        void **slot = &mine[i % 50];
        if (*slot != NULL) CHECK(nm_free(*port, *slot, 30, 16) == NM_OK);
        CHECK((*slot = nm_alloc(*port, 30, 16)) != NULL);
    }
    for (int i = 0; i < 50; i++) CHECK(nm_free(*port, mine[i], 30, 16) == NM_OK);
    return NULL;
}

static void test_sites_under_threads(void) {
    nm_heap *h = nm_heap_create(NULL, false);
    nm_traced *t = nm_traced_create(nm_heap_port(h), (nm_traced_options){.site = site_is, .context = &site_now});
    nm_allocator port = nm_traced_port(t);
    pthread_t threads[4];
    for (int i = 0; i < 4; i++) CHECK(pthread_create(&threads[i], NULL, with_sites, &port) == 0);
    for (int i = 0; i < 4; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    SOUND(nm_traced_check(t));
    CHECK(nm_traced_sites(t, NULL, NULL, 0) == 0 && stats(port).live == 0);
    nm_traced_destroy(t);
    nm_heap_destroy(h);
}

static void test_the_histogram_of_the_process(void) {
    static uint64_t before[NM_HISTO_BUCKETS], after[NM_HISTO_BUCKETS];
    nm_system *system = nm_system_create();
    CHECK(nm_traced_histogram(NULL, before, NULL));
    nm_traced *gone = nm_traced_create(nm_system_port(system), (nm_traced_options){.histogram = true});
    nm_traced *here = nm_traced_create(nm_traced_port(gone), (nm_traced_options){.histogram = true});
    nm_traced *without = nm_traced_create(nm_traced_port(here), (nm_traced_options){0});
    nm_allocator port = nm_traced_port(without);
    CHECK(nm_free(port, nm_alloc(port, 777, 16), 777, 16) == NM_OK);
    unsigned bucket = nm_histo_bucket(777);
    CHECK(nm_traced_histogram(NULL, after, NULL) && after[bucket] == before[bucket] + 2);
    nm_traced_destroy(without);
    nm_traced_destroy(here);
    nm_traced_destroy(gone);
    CHECK(nm_traced_histogram(NULL, after, NULL) && after[bucket] == before[bucket] + 2);
    nm_system_destroy(system);
}

int main(void) {
    if (nm_region_init((size_t)4 << 30, (size_t)4 << 20, 1000) != NM_OK) return 2;
    RUN(test_the_nth_fails());
    RUN(test_what_was_handed_over());
    RUN(test_threads_on_an_arena());
    RUN(test_threads_on_a_slab());
    RUN(test_a_slab_ends_with_who_took_it_back());
    RUN(test_threads_counted());
    RUN(test_more_wrappers_than_slots());
    RUN(test_wiped());
    RUN(test_where_blocks_came_from());
    RUN(test_sites_of_what_is_refused());
    RUN(test_a_sample_of_sites());
    RUN(test_sites_under_threads());
    RUN(test_the_histogram_of_the_process());
    return finish();
}
