/* Allocators are made, used and ended in several threads at once, while threads that used them end. The lists that all
 * of a kind are in, the calls at a thread's end and the end of what it used meet here; the sums are exact afterwards.
 * What else goes wrong is ThreadSanitizer's to see. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "heap/region.h"
#include "base/base.h"
#include "locks.h"
#include "harness.h"
#include "nativemem.h"

enum { MAKERS = 3, USERS = 2, ROUNDS = 60, BLOCKS = 24, TRACED = 777 };

/* What all makers share. */
static struct {
    nm_budget *parent;
    nm_system *system;
    nm_heap *heap;
    nm_traced *traced;
    nm_plain *plain;
    atomic_bool over;
} common;

/* One maker's of one round, which its users use too. */
typedef struct round {
    nm_heap *heap;
    nm_traced *traced;
    nm_limited *limited;
    nm_locked *locked;
    nm_slab *slab;
    nm_plain *plain;
    void *of_slab[BLOCKS];      /* freed by the users */
    void *left[USERS][BLOCKS];  /* by the maker */
    atomic_int at, done;
    atomic_size_t broken;
} round_of;

static nm_stats stats(nm_allocator a) {
    nm_stats s;
    a.methods->stats(a.self, &s);
    return s;
}

static size_t use(nm_allocator a, size_t size) {
    void *blocks[BLOCKS];
    size_t broken = 0;
    for (unsigned i = 0; i < BLOCKS; i++)
        if ((blocks[i] = nm_alloc(a, size, 16)) != NULL) fill(blocks[i], size, i);
    for (unsigned i = 0; i < BLOCKS; i++) {
        broken += blocks[i] == NULL || !filled(blocks[i], size, i);
        broken += blocks[i] != NULL && nm_free(a, blocks[i], size, 16) != NM_OK;
    }
    return broken;
}

static size_t use_plain(nm_plain *p) {
    void *ptr = nm_plain_realloc(p, nm_plain_malloc(p, 100), 5000);
    return ptr == NULL || nm_plain_free(p, ptr) != NM_OK;
}

/* Says that it is done while it has still to end. */
static void *user(void *arg) {
    round_of *r = arg;
    int me = atomic_fetch_add(&r->at, 1);
    size_t broken = 0;
    for (int i = 0; i < BLOCKS; i++)
        if ((r->left[me][i] = nm_heap_malloc(r->heap, 48)) == NULL) broken++;
    for (int i = me; i < BLOCKS; i += USERS) broken += nm_free(nm_slab_port(r->slab), r->of_slab[i], 100, 16) != NM_OK;
    broken += use(nm_heap_port(r->heap), 300) + use(nm_traced_port(r->traced), TRACED) + use(nm_limited_port(r->limited), 90);
    broken += use(nm_locked_port(r->locked), 200) + use(nm_heap_port(common.heap), 500) + use_plain(r->plain);
    broken += use(nm_traced_port(common.traced), TRACED) + use_plain(common.plain);
    atomic_fetch_add(&r->broken, broken);
    atomic_fetch_add(&r->done, 1);
    return NULL;
}

static size_t one_round(int number) {
    round_of r = {0};
    pthread_t users[USERS];
    size_t broken = 0;
    nm_budget *budget = nm_budget_create(8 << 20, common.parent, NULL);
    r.heap = nm_heap_create(budget, number % 4 == 0);
    r.traced = nm_traced_create(nm_heap_port(r.heap), (nm_traced_options){.histogram = true});
    r.limited = nm_limited_create(nm_system_port(common.system), budget);
    r.locked = nm_locked_create(nm_limited_port(r.limited));
    r.slab = nm_slab_create(nm_system_port(common.system), (size_t[]){64, 128}, 2, false);
    r.plain = nm_plain_create(nm_heap_port(r.heap), NULL);
    if (budget == NULL || !r.heap || !r.traced || !r.limited || !r.locked || !r.slab || !r.plain) return 1;
    (void)nm_plain_calls_of(r.plain); /* one of the places, if there is one */
    for (int i = 0; i < BLOCKS; i++) broken += (r.of_slab[i] = nm_alloc(nm_slab_port(r.slab), 100, 16)) == NULL;
    for (int i = 0; i < USERS; i++)
        if (pthread_create(&users[i], NULL, user, &r) != 0) return 1;
    broken += use(nm_traced_port(r.traced), TRACED);
    while (atomic_load(&r.done) != USERS) (void)sched_yield();
    for (int u = 0; u < USERS; u++)
        for (int i = 0; i < BLOCKS; i++) broken += nm_heap_free(r.heap, r.left[u][i]) != NM_OK;
    broken += atomic_load(&r.broken);
    /* nothing of it waits for the users' ends */
    nm_plain_destroy(r.plain);
    nm_slab_destroy(r.slab);
    nm_locked_destroy(r.locked);
    nm_limited_destroy(r.limited);
    broken += nm_traced_check(r.traced) != NULL || stats(nm_traced_port(r.traced)).count != (USERS + 1) * BLOCKS;
    nm_traced_destroy(r.traced);
    broken += nm_heap_check(r.heap) != NULL;
    nm_heap_destroy(r.heap);
    broken += nm_budget_used(budget) != 0;
    nm_budget_destroy(budget);
    for (int i = 0; i < USERS; i++) broken += pthread_join(users[i], NULL) != 0;
    return broken;
}

static void *maker(void *arg) {
    size_t *broken = arg;
    for (int i = 0; i < ROUNDS; i++) *broken += one_round(i);
    return NULL;
}

/* Looks at all there is meanwhile. */
static void *watcher(void *unused) {
    static uint64_t sizes[NM_HISTO_BUCKETS];
    unsigned bucket = nm_histo_bucket(TRACED);
    uint64_t before = 0;
    size_t *broken = unused;
    while (!atomic_load(&common.over)) {
        const nm_budget *crossed;
        int level;
        bool was_normal;
        nm_census census;
        (void)nm_traced_histogram(NULL, sizes, NULL);
        *broken += sizes[bucket] < before;
        before = sizes[bucket];
        nm_heap_census(common.heap, &census);
        (void)nm_budget_crossed(&crossed, &level, &was_normal);
        (void)nm_region_dirty();
        (void)stats(nm_traced_port(common.traced));
        (void)sched_yield();
    }
    return NULL;
}

static void test_made_used_and_ended_at_once(void) {
    static uint64_t before[NM_HISTO_BUCKETS], after[NM_HISTO_BUCKETS];
    pthread_t makers[MAKERS], watching;
    size_t broken[MAKERS + 1] = {0};
    common.parent = nm_budget_create(64 << 20, NULL, NULL);
    common.system = nm_system_create();
    common.heap = nm_heap_create(common.parent, false);
    common.traced = nm_traced_create(nm_heap_port(common.heap), (nm_traced_options){.histogram = true});
    common.plain = nm_plain_create(nm_heap_port(common.heap), common.heap);
    CHECK(nm_traced_histogram(NULL, before, NULL));
    CHECK(pthread_create(&watching, NULL, watcher, &broken[MAKERS]) == 0);
    for (int i = 0; i < MAKERS; i++) CHECK(pthread_create(&makers[i], NULL, maker, &broken[i]) == 0);
    for (int i = 0; i < MAKERS; i++) CHECK(pthread_join(makers[i], NULL) == 0);
    atomic_store(&common.over, true);
    CHECK(pthread_join(watching, NULL) == 0);
    for (int i = 0; i <= MAKERS; i++) CHECK(broken[i] == 0);

    size_t rounds = MAKERS * ROUNDS;
    unsigned bucket = nm_histo_bucket(TRACED);
    CHECK(nm_traced_histogram(NULL, after, NULL));
    CHECK(after[bucket] - before[bucket] == rounds * (USERS + 1 + USERS) * BLOCKS);
    nm_stats s = stats(nm_traced_port(common.traced));
    CHECK(s.live == 0 && s.used == 0 && s.count == rounds * USERS * BLOCKS && s.total == s.count * TRACED);
    SOUND(nm_traced_check(common.traced));
    SOUND(nm_heap_check(common.heap));
    nm_plain_destroy(common.plain);
    nm_traced_destroy(common.traced);
    nm_heap_destroy(common.heap);
    CHECK(nm_budget_used(common.parent) == 0);
    SOUND(nm_budget_check(common.parent));
    nm_budget_destroy(common.parent);
    CHECK(stats(nm_system_port(common.system)).live == 0);
    nm_system_destroy(common.system);
    SOUND(nm__region_check());
}

/* ---- budgets ---- */

enum { HOLDERS = 4, TURNS = 400 };

typedef struct holder {
    nm_budget *parent, *sibling;
    int number;
    size_t broken;
} holder;

/* Whatever moves meanwhile, what is charged is charged once, in each of a line. */
static void *hold(void *arg) {
    holder *h = arg;
    uint64_t seed = (uint64_t)h->number + 1;
    for (int i = 0; i < TURNS; i++) {
        nm_budget *mine = nm_budget_create(4000, h->parent, NULL);
        size_t n = 1 + below(&seed, 3000);
        if (nm_budget_charge(mine, n)) {
            h->broken += nm_budget_used(mine) != n;
            if (i % 3 == 0 && nm_budget_lend(mine, h->sibling, 500, 0) == NM_OK)
                h->broken += nm_budget_lend(h->sibling, mine, 500, 1000000000) != NM_OK;
            if (i % 5 == 0) nm_budget_set_limit(mine, 4000 + below(&seed, 100));
            h->broken += nm_budget_release(mine, n) != NM_OK;
        }
        h->broken += nm_budget_used(mine) != 0;
        if (i % 7 == 0) nm_budget_lock(mine);
        if (i % 11 == 0) nm__budget_hold_back(h->parent, below(&seed, 3000));
        if (i % 13 == 0 && nm__budget_overdraw(h->sibling, 10)) h->broken += nm_budget_release(h->sibling, 10) != NM_OK;
        nm_denial last;
        (void)nm_budget_last_denial(h->parent, &last);
        nm_budget_destroy(mine);
    }
    return NULL;
}

static void test_budgets_of_many_threads_end(void) {
    pthread_t threads[HOLDERS];
    holder holders[HOLDERS];
    nm_budget *root = nm_budget_create(9000, NULL, NULL), *sibling = nm_budget_create(2000, root, NULL);
    for (int i = 0; i < HOLDERS; i++) {
        holders[i] = (holder){root, sibling, i, 0};
        CHECK(pthread_create(&threads[i], NULL, hold, &holders[i]) == 0);
    }
    for (int i = 0; i < HOLDERS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    for (int i = 0; i < HOLDERS; i++) CHECK(holders[i].broken == 0);
    CHECK(nm_budget_used(root) == 0 && nm_budget_used(sibling) == 0 && nm_budget_limit(sibling) == 2000);
    nm__budget_hold_back(root, 0);
    CHECK(nm_budget_charge(root, 9000) && !nm_budget_charge(root, 1) && nm_budget_release(root, 9000) == NM_OK);
    SOUND(nm_budget_check(root));
    SOUND(nm_budget_check(sibling));
    nm_budget_destroy(sibling);
    nm_budget_destroy(root);
}

int main(void) {
    if (nm_region_init((size_t)4 << 30, (size_t)4 << 20, 1000) != NM_OK) return 2;
    RUN(test_made_used_and_ended_at_once());
    RUN(test_budgets_of_many_threads_end());
    return finish();
}
