/* Heaps that take turns in one slot of a thread: what scopes are made of. */
#include <pthread.h>

#include "locks.h"
#include "harness.h"

#include "heap/heap.h"
#include "base/base.h"
#include "nativemem.h"

#define PAGE NM_SUPERBLOCK

static nm_budget *process;
static nm_heap *plain;

typedef struct owner {
    nm_budget *budget;
    nm_heap *heap;
} owner;

static owner make(size_t limit, bool secure) {
    owner o = {nm_budget_create(limit, NULL, NULL), NULL};
    o.heap = nm_heap_create(o.budget, secure);
    nm__heap_share(o.heap, process);
    return o;
}

static void destroy(owner o) {
    CHECK(nm__heap_held(o.heap) == 0);
    nm_heap_destroy(o.heap);
    nm_budget_destroy(o.budget);
}

/* As the engine takes: from whatever stands in the slot. */
static void *take(nm_heap *h, size_t size) {
    void *ptr = size <= NM__FINE ? nm__theap_alloc(nm__theaps[NM__CLAIMED_SLOT], nm__fine_bin(size)) : NULL;
    return ptr != NULL ? ptr : nm_heap_malloc(h, size);
}
static void give(void *ptr) {
    nm__superblock *sb = nm__superblock_of(ptr);
    CHECK(sb != NULL && nm__theap_free(plain, nm__theaps[NM__CLAIMED_SLOT], ptr, sb) == NM_OK);
}
static nm_heap *heap_of(void *ptr) { return nm__heap_of_block(ptr); }

static void test_each_serves_in_its_turn(void) {
    owner a = make(NM_SIZE_MAX, false), b = make(NM_SIZE_MAX, false);
    nm_heap *turns[] = {plain, a.heap, b.heap};
    void *blocks[300];
    uint64_t seed = 3;
    for (int i = 0; i < 300; i++) {
        nm_heap *h = turns[i % 3];
        nm__heap_enter(h);
        blocks[i] = take(h, 1 + below(&seed, i % 10 == 0 ? 100000 : 600));
        CHECK(heap_of(blocks[i]) == h);
    }
    CHECK(nm_budget_used(a.budget) == nm__heap_held(a.heap) && nm__heap_held(a.heap) > 0);
    CHECK(nm_budget_used(process) == nm__heap_held(a.heap) + nm__heap_held(b.heap) + nm__heap_held(plain));
    nm__heap_enter(b.heap);
    for (int i = 0; i < 300; i++) give(blocks[i]); /* in the wrong turn, two of three times */
    nm__heap_enter(a.heap);
    CHECK(nm__heap_held(a.heap) == 0); /* no empty head was kept aside */
    nm__heap_detach(b.heap);
    CHECK(nm__heap_held(b.heap) == 0);
    SOUND(nm_heap_check(a.heap));
    nm__heap_enter(plain);
    destroy(a);
    destroy(b);
}

static void test_what_is_freed_after_it_was_left(void) {
    owner a = make(NM_SIZE_MAX, false);
    void *blocks[5000];
    for (int round = 0; round < 3; round++) {
        nm__heap_enter(a.heap);
        for (int i = 0; i < 5000; i++) CHECK((blocks[i] = take(a.heap, 100)) != NULL && heap_of(blocks[i]) == a.heap);
        nm__heap_detach(a.heap);
        CHECK(nm__theaps[NM__CLAIMED_SLOT] == &nm__no_theap);
        nm__heap_enter(plain);
        SOUND(nm_heap_check(a.heap));
        for (int i = 0; i < 5000; i++) give(blocks[i]);
        CHECK(nm__heap_held(a.heap) == 0 && nm_budget_used(a.budget) == 0);
    }
    nm_census census;
    nm_heap_census(a.heap, &census);
    CHECK(census.threads == 1); /* its part was taken over each time */
    destroy(a);
}

/* A spare superblock is kept by the heap that a thread is in, and by no other. */
static void test_no_spare_out_of_turn(void) {
    enum { N = 2 * NM_SUPERBLOCK / 1024 };
    static void *blocks[N];
    owner a = make(NM_SIZE_MAX, false);
    for (int aside = 0; aside < 2; aside++) {
        nm_heap_trim(plain);
        nm__heap_enter(a.heap);
        for (size_t i = 0; i < N; i++) CHECK((blocks[i] = nm_heap_malloc(a.heap, 1024)) != NULL);
        if (aside) nm__heap_enter(plain);
        for (size_t i = N; i-- > 0;) give(blocks[i]);
        CHECK(nm_region_dirty() == (aside ? (size_t)2 * PAGE : 0));
        nm__heap_enter(plain);
        CHECK(nm_region_dirty() == (aside ? (size_t)2 * PAGE : PAGE));
        SOUND(nm_heap_check(a.heap));
        nm__heap_detach(a.heap);
        CHECK(nm_region_dirty() == (size_t)2 * PAGE && nm__heap_held(a.heap) == 0);
    }
    destroy(a);
}

static size_t threads_of(nm_heap *h) {
    nm_census census;
    nm_heap_census(h, &census);
    return census.threads;
}

/* To enter a heap and to leave it asks nothing of it: its thread heap is looked for with the first block, and found at once
 * when its turn comes again. */
static void test_entered_for_nothing(void) {
    owner a = make(NM_SIZE_MAX, false), b = make(NM_SIZE_MAX, false);
    nm__heap_enter(a.heap);
    nm__heap_detach(a.heap);
    CHECK(threads_of(a.heap) == 0 && nm__theaps[NM__CLAIMED_SLOT] == &nm__no_theap);
    nm__heap_enter(a.heap);
    void *block = take(a.heap, 100);
    const nm__theap *theap = nm__theaps[NM__CLAIMED_SLOT];
    CHECK(theap->heap == a.heap && threads_of(a.heap) == 1);
    nm__heap_enter(b.heap);
    nm__heap_enter(a.heap);
    CHECK(nm__theaps[NM__CLAIMED_SLOT] == theap);
    nm__heap_detach(a.heap);
    nm__heap_enter(a.heap);
    CHECK(nm__theaps[NM__CLAIMED_SLOT] == &nm__no_theap); /* another thread may have it by now */
    nm__heap_enter(plain);
    give(block);
    destroy(a);
    destroy(b);
}

static void *take_one(void *heap) { return nm_heap_malloc(heap, 100); }

/* A thread heap that was left, and that its thread has again, is no other's to adopt. */
static void test_no_two_have_one_thread_heap(void) {
    owner a = make(NM_SIZE_MAX, false);
    nm__heap_enter(a.heap);
    void *first = take(a.heap, 100), *third = NULL;
    nm__heap_detach(a.heap);
    nm__heap_enter(a.heap);
    void *second = take(a.heap, 100);
    CHECK(threads_of(a.heap) == 1);
    pthread_t other;
    CHECK(pthread_create(&other, NULL, take_one, a.heap) == 0 && pthread_join(other, &third) == 0 && third != NULL);
    CHECK(threads_of(a.heap) == 2);
    SOUND(nm_heap_check(a.heap));
    nm_heap_free(a.heap, first);
    nm_heap_free(a.heap, second);
    nm_heap_free(a.heap, third);
    nm__heap_detach(a.heap);
    nm__heap_enter(plain);
    destroy(a);
}

/* What goes through a thread heap passes over bins without superblocks: those that lost theirs, too, and have one again. */
static void test_bins_that_are_passed_over(void) {
    owner a = make(NM_SIZE_MAX, false);
    const size_t sizes[] = {16, 1024, 2048, NM_CELL_MAX}; /* in both words of the thread heap's bits */
    enum { SIZES = sizeof sizes / sizeof *sizes, EACH = 600 };
    static void *blocks[SIZES][EACH];
    for (int round = 0; round < 2; round++) {
        nm__heap_enter(a.heap);
        for (size_t i = 0; i < SIZES; i++)
            for (size_t k = 0; k < EACH; k++) CHECK((blocks[i][k] = nm_heap_malloc(a.heap, sizes[i])) != NULL);
        nm__heap_detach(a.heap);
        nm__heap_enter(a.heap);
        CHECK(take(a.heap, 16) != NULL);
        SOUND(nm_heap_check(a.heap)); /* all that wait are seen */
        nm_heap_clear(a.heap);
        CHECK(nm__heap_held(a.heap) == 0);
        nm__heap_detach(a.heap);
    }
    nm__heap_enter(plain);
    destroy(a);
}

static void test_refused_by_the_second(void) {
    owner a = make(NM_SIZE_MAX, false);
    size_t used = nm_budget_used(process);
    nm_budget_set_limit(process, used + 3 * PAGE);
    nm__heap_enter(a.heap);
    void *blocks[10];
    int n = 0;
    while (n < 10 && (blocks[n] = take(a.heap, PAGE)) != NULL) n++;
    CHECK(n == 3 && nm_last_failure().status == NM_OVER_BUDGET);
    CHECK(nm_budget_used(a.budget) == 3 * PAGE && nm_budget_used(process) == used + 3 * PAGE);
    CHECK(nm_budget_denied(process) > 0 && nm_budget_denied(a.budget) == 0);
    while (n-- > 0) give(blocks[n]);
    nm_budget_set_limit(process, NM_SIZE_MAX);
    nm__heap_enter(plain);
    CHECK(nm_budget_used(process) == used);
    destroy(a);
}

static void test_the_reserves_of_ancestors(void) {
    nm_budget *parent = nm_budget_create(10 * PAGE, NULL, NULL), *b = nm_budget_create(100 * PAGE, parent, NULL);
    nm_heap *h = nm_heap_create(b, false);
    nm__heap_share(h, process);
    nm__budget_hold_back(parent, 2 * PAGE);
    nm__budget_hold_back(b, PAGE);
    nm__heap_enter(h);
    void *blocks[20];
    int n = 0;
    while ((blocks[n] = take(h, PAGE)) != NULL) n++;
    CHECK(n == 8 && nm__budget_left(b) == (int64_t)(91 * PAGE));
    CHECK(nm__budget_overdraw(b, 2 * PAGE) && !nm__budget_overdraw(b, 1)); /* the parent's reserve is drawn on, too */
    CHECK(nm_budget_used(parent) == 10 * PAGE && nm_budget_used(b) == 10 * PAGE);
    CHECK(nm_budget_release(b, 2 * PAGE) == NM_OK && nm_budget_used(parent) == 8 * PAGE);
    while (n > 0) give(blocks[--n]);
    nm__heap_enter(plain);
    nm_heap_destroy(h);
    nm_budget_destroy(b);
    nm_budget_destroy(parent);
}

static void test_a_secure_one(void) {
    owner a = make(NM_SIZE_MAX, true);
    nm__heap_enter(a.heap);
    CHECK(nm__theaps[NM__CLAIMED_SLOT] == &nm__no_theap);
    void *block = nm_heap_malloc(a.heap, 100), *span = nm_heap_malloc(a.heap, 100000);
    CHECK(heap_of(block) == a.heap && nm_budget_used(process) >= nm_budget_used(a.budget));
    nm__heap_detach(a.heap);
    nm__heap_enter(plain);
    give(block);
    give(span);
    destroy(a);
}

/* Threads go in and out of the same heaps, and free what others took. */
enum { THREADS = 4, STEPS = 3000, BLOCKS = 64 };
static owner shared[3];
static _Atomic(void *) board[BLOCKS];

static void *churn(void *arg) {
    uint64_t seed = 11 + (uint64_t)(uintptr_t)arg;
    for (int i = 0; i < STEPS; i++) {
        size_t which = below(&seed, 4);
        nm_heap *h = which < 3 ? shared[which].heap : plain;
        nm__heap_enter(h);
        for (int k = 0; k < 20; k++) {
            size_t size = 16 + below(&seed, 400);
            unsigned char *block = take(h, size), *before;
            CHECK(block != NULL && heap_of(block) == h);
            *block = 1;
            before = atomic_exchange(&board[below(&seed, BLOCKS)], block);
            if (before == NULL) continue;
            CHECK(*before == 1);
            give(before);
        }
        if (below(&seed, 2) == 0 && which < 3) nm__heap_detach(h);
    }
    return NULL;
}

static void test_threads(void) {
    for (int i = 0; i < 3; i++) shared[i] = make(NM_SIZE_MAX, false);
    pthread_t threads[THREADS];
    for (uintptr_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, churn, (void *)i) == 0);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    nm__heap_enter(plain);
    for (int i = 0; i < BLOCKS; i++)
        if (board[i] != NULL) give(board[i]);
    for (int i = 0; i < 3; i++) {
        SOUND(nm_heap_check(shared[i].heap));
        CHECK(nm_budget_used(shared[i].budget) == 0);
        destroy(shared[i]);
    }
}

int main(void) {
    if (nm_region_init((size_t)4 << 30, (size_t)4 << 20, 1000) != NM_OK) return 2;
    process = nm_budget_create(NM_SIZE_MAX, NULL, NULL);
    plain = nm_heap_create(process, false);
    nm__heap_claim(plain);
    nm__heap_enter(plain);
    RUN(test_each_serves_in_its_turn());
    RUN(test_what_is_freed_after_it_was_left());
    RUN(test_no_spare_out_of_turn());
    RUN(test_entered_for_nothing());
    RUN(test_no_two_have_one_thread_heap());
    RUN(test_bins_that_are_passed_over());
    RUN(test_refused_by_the_second());
    RUN(test_the_reserves_of_ancestors());
    RUN(test_a_secure_one());
    RUN(test_threads());
    return finish();
}
