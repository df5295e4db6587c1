/* What the core takes from the system for itself fails: the first time that it asks, then the second, and so on, once and
 * from then on. That is memory for control structures (nm__meta_alloc) and address space (nm__os_*); the linker puts the
 * functions below in front of them (test_sweep.link). Whatever fails, calls say so and change nothing, blocks keep their
 * contents, all checks hold, and what was made can be ended. */
#include <pthread.h>
#include <stdatomic.h>
#include <sys/wait.h>
#include <unistd.h>

#include "locks.h"
#include "harness.h"

#include "heap/region.h"
#include "base/base.h"
#include "nativemem.h"

/* ---- what fails ------------------------------------------------------------------------------------ */

static atomic_size_t asked, failed, failing_one; /* 0: none fails */
static atomic_bool failing_more;
static atomic_long structures; /* that live */

static bool fails(void) {
    size_t n = atomic_load(&failing_one), call = atomic_fetch_add(&asked, 1) + 1;
    bool now = n != 0 && (call == n || (call > n && atomic_load(&failing_more)));
    if (now) atomic_fetch_add(&failed, 1);
    return now;
}

static void arm(size_t n, bool more) {
    atomic_store(&failing_one, n);
    atomic_store(&failing_more, more);
    atomic_store(&asked, 0);
    atomic_store(&failed, 0);
}

void *__real_nm__meta_alloc(size_t size);
void *__wrap_nm__meta_alloc(size_t size);
void *__wrap_nm__meta_alloc(size_t size) {
    if (fails()) return nm_refuse(NM_OUT_OF_MEMORY, size, 0, 0);
    void *ptr = __real_nm__meta_alloc(size);
    if (ptr != NULL) atomic_fetch_add(&structures, 1);
    return ptr;
}

void __real_nm__meta_free(void *ptr);
void __wrap_nm__meta_free(void *ptr);
void __wrap_nm__meta_free(void *ptr) {
    if (ptr != NULL) atomic_fetch_sub(&structures, 1);
    __real_nm__meta_free(ptr);
}

nm__mapping __real_nm__os_map(void *at, size_t size);
nm__mapping __wrap_nm__os_map(void *at, size_t size);
nm__mapping __wrap_nm__os_map(void *at, size_t size) { return fails() ? NM__REFUSED : __real_nm__os_map(at, size); }

#define WRAP_OS(verb)                                  \
    bool __real_nm__os_##verb(void *ptr, size_t size); \
    bool __wrap_nm__os_##verb(void *ptr, size_t size); \
    bool __wrap_nm__os_##verb(void *ptr, size_t size) { return !fails() && __real_nm__os_##verb(ptr, size); }
WRAP_OS(unmap)
WRAP_OS(open)
WRAP_OS(purge)
WRAP_OS(guard)

/* ---- what it is done to ----------------------------------------------------------------------------- */

static bool is_want(nm_status status) {
    return status == NM_OUT_OF_MEMORY || status == NM_EXHAUSTED || status == NM_OVER_BUDGET || status == NM_CAPACITY_EXCEEDED ||
           status == NM_POOL_EXHAUSTED;
}

static nm_stats stats(nm_allocator a) {
    nm_stats s;
    a.methods->stats(a.self, &s);
    return s;
}

static bool same(nm_stats a, nm_stats b) {
    return a.used == b.used && a.live == b.live && a.total == b.total && a.count == b.count && a.frees == b.frees;
}

/* Blocks with known contents, the newest last. */
typedef struct {
    nm_allocator port;
    struct {
        void *ptr;
        size_t size;
    } block[64];
    unsigned n;
} blocks;

static void take(blocks *b, size_t size, size_t align) {
    nm_stats before = stats(b->port);
    (void)nm__fail(NM_OK, 0, 0, 0);
    void *ptr = nm_alloc(b->port, size, align);
    if (ptr == NULL) {
        /* a pool has one size, and says so */
        CHECK(is_want(nm_last_failure().status) || nm_last_failure().status == NM_INVALID_LAYOUT);
        CHECK(same(before, stats(b->port)));
        return;
    }
    CHECK(nm_is_aligned((uintptr_t)ptr, align) && b->n < sizeof b->block / sizeof *b->block);
    fill(ptr, size, (unsigned)size);
    b->block[b->n].ptr = ptr;
    b->block[b->n++].size = size;
}

static void resize_newest(blocks *b, size_t size) {
    if (b->n == 0) return;
    void *ptr = b->block[b->n - 1].ptr;
    size_t old = b->block[b->n - 1].size;
    nm_stats before = stats(b->port);
    if (!b->port.methods->resize(b->port.self, ptr, old, size, 16)) {
        CHECK(same(before, stats(b->port)) && filled(ptr, old, (unsigned)old));
        return;
    }
    CHECK(filled(ptr, old < size ? old : size, (unsigned)old));
    fill(ptr, size, (unsigned)size);
    b->block[b->n - 1].size = size;
}

/* A free may be refused for want of memory, and changes nothing then; the next one may pass. */
static void give_newest(blocks *b) {
    if (b->n == 0) return;
    void *ptr = b->block[b->n - 1].ptr;
    size_t size = b->block[b->n - 1].size;
    CHECK(filled(ptr, size, (unsigned)size));
    nm_stats before = stats(b->port);
    nm_status status = nm_free(b->port, ptr, size, 16);
    if (status != NM_OK) {
        CHECK(status == NM_OUT_OF_MEMORY && same(before, stats(b->port)) && filled(ptr, size, (unsigned)size));
        arm(0, false);
        CHECK(nm_free(b->port, ptr, size, 16) == NM_OK);
    }
    b->n--;
}

static void check_contents(const blocks *b) {
    for (unsigned i = 0; i < b->n; i++) CHECK(filled(b->block[i].ptr, b->block[i].size, (unsigned)b->block[i].size));
}

static void use(blocks *b) {
    for (size_t size = 1; size < 200000; size = size * 3 + 7) take(b, size, 16);
    resize_newest(b, b->n == 0 ? 1 : b->block[b->n - 1].size + 1);
    resize_newest(b, 8);
    for (int i = 0; i < 4; i++) give_newest(b);
    for (int i = 0; i < 6; i++) take(b, 48, 16);
    take(b, 70000, 16);
    check_contents(b);
}

static void give_all(blocks *b) {
    while (b->n > 0) give_newest(b);
    CHECK(stats(b->port).live == 0 && stats(b->port).used == 0);
}

/* For programs that make something: what could not be made is NULL, and the reason is there. */
static bool is_made(const void *thing) {
    if (thing == NULL) CHECK(nm_last_failure().status == NM_OUT_OF_MEMORY);
    return thing != NULL;
}

static size_t swept; /* calls that were made fail */

static nm_system *bottom; /* made once, before anything fails */
static nm_allocator upstream(void) { return nm_system_port(bottom); }

/* ---- programs --------------------------------------------------------------------------------------- */

static void on_system(void) {
    nm_system *s = nm_system_create();
    if (!is_made(s)) return;
    blocks b = {.port = nm_system_port(s)};
    use(&b);
    give_all(&b);
    nm_system_destroy(s);
}

static void on_arena(bool zero) {
    nm_arena *a = nm_arena_create(upstream(), (nm_arena_options){.hint = 1000, .grow = true, .zero_on_free = zero});
    if (!is_made(a)) return;
    blocks b = {.port = nm_arena_port(a)};
    nm_arena_mark mark;
    use(&b);
    SOUND(nm_arena_check(a));
    CHECK(nm_arena_take_mark(a, &mark) == NM_OK);
    unsigned kept = b.n;
    use(&b);
    CHECK(nm_arena_release(a, &mark) == NM_OK);
    b.n = kept;
    check_contents(&b);
    SOUND(nm_arena_check(a));
    CHECK(nm_arena_reset(a) == NM_OK);
    b.n = 0;
    use(&b);
    SOUND(nm_arena_check(a));
    CHECK(nm_arena_clear(a) == NM_OK);
    nm_arena_destroy(a);
}
static void on_plain_arena(void) { on_arena(false); }
static void on_wiping_arena(void) { on_arena(true); }

static void on_stack(void) {
    nm_stack *s = nm_stack_create(upstream(), 1 << 20, false);
    if (!is_made(s)) return;
    blocks b = {.port = nm_stack_port(s)};
    nm_stack_mark mark;
    use(&b);
    for (int i = 0; i < 40; i++) take(&b, 16, 16); /* more than it has room to note at first */
    SOUND(nm_stack_check(s));
    while (b.n > 5) give_newest(&b);
    CHECK(nm_stack_take_mark(s, &mark) == NM_OK);
    unsigned kept = b.n;
    for (int i = 0; i < 50; i++) take(&b, 16, 16);
    CHECK(nm_stack_release(s, &mark) == NM_OK);
    b.n = kept;
    check_contents(&b);
    give_all(&b);
    use(&b);
    CHECK(nm_stack_reset(s) == NM_OK);
    SOUND(nm_stack_check(s));
    nm_stack_destroy(s);
}

static void on_pool(void) {
    nm_pool *p = nm_pool_create(upstream(), 48, 2, true);
    if (!is_made(p)) return;
    blocks b = {.port = nm_pool_port(p)};
    use(&b);
    for (int i = 0; i < 30; i++) take(&b, 40, 16);
    SOUND(nm_pool_check(p));
    check_contents(&b);
    give_all(&b);
    for (int i = 0; i < 30; i++) take(&b, 48, 16);
    SOUND(nm_pool_check(p));
    nm_pool_destroy(p);
}

static void on_slab(bool zero) {
    static const size_t bins[] = {32, 48, 4096};
    nm_slab *s = nm_slab_create(upstream(), bins, 3, zero);
    if (!is_made(s)) return;
    blocks b = {.port = nm_slab_port(s)};
    use(&b);
    SOUND(nm_slab_check(s));
    give_all(&b);
    CHECK(nm_slab_trim(s) == NM_OK);
    use(&b);
    give_all(&b);
    SOUND(nm_slab_check(s));
    nm_slab_destroy(s);
}
static void on_plain_slab(void) { on_slab(false); }
static void on_wiping_slab(void) { on_slab(true); }

/* A free of the heap never fails. */
static void on_heap(bool secure) {
    nm_budget *parent = nm_budget_create(64 << 20, NULL, NULL);
    nm_budget *budget = is_made(parent) ? nm_budget_create(8 << 20, parent, NULL) : NULL;
    nm_heap *h = budget != NULL ? nm_heap_create(budget, secure) : NULL;
    if (h != NULL) {
        blocks b = {.port = nm_heap_port(h)};
        use(&b);
        SOUND(nm_heap_check(h));
        SOUND(nm__region_check());
        char *small = nm_heap_malloc(h, 100), *zeros = nm_heap_calloc(h, 1000, 3000);
        if (zeros != NULL)
            for (size_t i = 0; i < 3000000; i += 1000) CHECK(zeros[i] == 0);
        if (small != NULL) fill(small, 100, 1);
        char *moved = small != NULL ? nm_heap_realloc(h, small, 300000) : NULL;
        if (small != NULL) CHECK(filled(moved != NULL ? moved : small, 100, 1));
        if (moved != NULL) small = moved;
        CHECK(small == NULL || nm_heap_free(h, small) == NM_OK);
        CHECK(zeros == NULL || nm_heap_free(h, zeros) == NM_OK);
        nm_budget_set_limit(budget, 4 << 20);
        take(&b, 16 << 20, 16);
        nm_heap_trim(h);
        check_contents(&b);
        SOUND(nm_heap_check(h));
        SOUND(nm_budget_check(budget));
        while (b.n > 3) give_newest(&b);
        nm_heap_clear(h);
        CHECK(nm_budget_used(parent) == 0);
        SOUND(nm_heap_check(h));
        SOUND(nm__region_check());
        b.n = 0;
        use(&b);
        nm_heap_destroy(h);
        CHECK(nm_budget_used(parent) == 0);
    }
    if (budget != NULL) nm_budget_destroy(budget);
    if (parent != NULL) nm_budget_destroy(parent);
    nm_region_trim();
    SOUND(nm__region_check());
}
static void on_plain_heap(void) { on_heap(false); }
static void on_secure_heap(void) { on_heap(true); }

static void on_budgets(void) {
    nm_budget *parent = nm_budget_create(10000, NULL, NULL), *one = NULL, *two = NULL;
    if (is_made(parent)) one = nm_budget_create(1000, parent, &(nm_budget_options){.warn = 0.5, .critical = 0.9});
    if (one != NULL) two = nm_budget_create(1000, parent, &(nm_budget_options){.warn = 0.5, .critical = 0.9});
    if (two != NULL) {
        nm_move moves[4];
        CHECK(nm_budget_lend(one, two, 400, 0) == NM_OK && nm_budget_limit(one) == 600);
        CHECK(nm_budget_charge(two, 1300) && !nm_budget_charge(two, 200));
        CHECK(nm_budget_lend(two, one, 400, 0) != NM_OK); /* that is in use */
        (void)nm_budget_rebalance(parent, moves, 4);
        CHECK(nm_budget_limit(one) + nm_budget_limit(two) == 2000);
        SOUND(nm_budget_check(two));
        CHECK(nm_budget_release(two, 1300) == NM_OK && nm_budget_used(parent) == 0);
    }
    if (two != NULL) nm_budget_destroy(two);
    if (one != NULL) nm_budget_destroy(one);
    if (parent != NULL) nm_budget_destroy(parent);
}

/* All wrappers over an arena. */
static void on_wrappers(void) {
    nm_budget *budget = nm_budget_create(1 << 30, NULL, NULL);
    nm_arena *a = is_made(budget) ? nm_arena_create(upstream(), (nm_arena_options){.hint = 1000, .grow = true}) : NULL;
    nm_limited *l = a != NULL ? nm_limited_create(nm_arena_port(a), budget) : NULL;
    nm_traced *t = l != NULL
                       ? nm_traced_create(nm_limited_port(l), (nm_traced_options){.histogram = true, .zero_on_free = true})
                       : NULL;
    nm_failing *f = t != NULL ? nm_failing_create(nm_traced_port(t), 5, false) : NULL;
    nm_locked *k = f != NULL ? nm_locked_create(nm_failing_port(f)) : NULL;
    if (k != NULL) {
        CHECK(nm_arena_hand_over(a, nm_locked_thread(k)) == NM_OK);
        blocks b = {.port = nm_locked_port(k)};
        use(&b);
        SOUND(nm_traced_check(t));
        SOUND(nm_budget_check(budget));
        give_all(&b);
        CHECK(nm_budget_used(budget) == 0);
    }
    if (k != NULL) nm_locked_destroy(k);
    if (f != NULL) nm_failing_destroy(f);
    if (t != NULL) nm_traced_destroy(t);
    if (l != NULL) nm_limited_destroy(l);
    if (a != NULL) nm_arena_destroy(a);
    if (budget != NULL) nm_budget_destroy(budget);
}

static void on_verified(void) {
    nm_verified *v = nm_verified_create(upstream(), NM_VERIFY_REDUNDANT, 1);
    if (!is_made(v)) return;
    blocks b = {.port = nm_verified_port(v)};
    use(&b);
    SOUND(nm_verified_check(v));
    give_all(&b);
    nm_verified_destroy(v);
}

static uintptr_t here(void *context) { return (uintptr_t)context; }

static void on_tracing(nm_traced_options options) {
    nm_traced *t = nm_traced_create(upstream(), options);
    if (!is_made(t)) return;
    blocks b = {.port = nm_traced_port(t)};
    use(&b);
    for (int i = 0; i < 30; i++) take(&b, 100, 16);
    SOUND(nm_traced_check(t));
    check_contents(&b);
    give_all(&b);
    SOUND(nm_traced_check(t));
    nm_traced_destroy(t);
}
static void on_a_wiping_traced(void) { on_tracing((nm_traced_options){.zero_on_free = true}); }
static void on_a_traced_with_sites(void) { on_tracing((nm_traced_options){.site = here, .context = &swept}); }

/* Another thread takes blocks from a heap through a Traced and ends; this one gives them back. */
static void *take_some(void *arg) {
    blocks *b = arg;
    for (size_t size = 10; size < 100000; size *= 5) take(b, size, 16);
    return NULL;
}
static void on_threads(bool secure) {
    nm_heap *h = nm_heap_create(NULL, secure);
    nm_traced *t = is_made(h) ? nm_traced_create(nm_heap_port(h), (nm_traced_options){.histogram = true}) : NULL;
    if (t != NULL) {
        blocks b = {.port = nm_traced_port(t)}, theirs = {.port = nm_traced_port(t)};
        pthread_t thread;
        take(&b, 100, 16);
        CHECK(pthread_create(&thread, NULL, take_some, &theirs) == 0 && pthread_join(thread, NULL) == 0);
        SOUND(nm_heap_check(h));
        while (theirs.n > 2) give_newest(&theirs);
        use(&b);
        while (b.n > 0) give_newest(&b);
        give_all(&theirs);
        SOUND(nm_traced_check(t));
        SOUND(nm_heap_check(h));
        nm_traced_destroy(t);
    }
    if (h != NULL) nm_heap_destroy(h);
}
static void on_threads_of_a_heap(void) { on_threads(false); }
static void on_threads_of_a_secure_heap(void) { on_threads(true); }

/* A slab ends with its thread, the block it gave does not. */
static nm_slab *left;
static blocks left_blocks;
static void *make_slab(void *arg) {
    static const size_t bins[] = {32, 64};
    (void)arg;
    left = nm_slab_create(upstream(), bins, 2, false);
    if (left == NULL) return NULL;
    left_blocks = (blocks){.port = nm_slab_port(left)};
    for (int i = 0; i < 5; i++) take(&left_blocks, 30, 16);
    return NULL;
}
static void on_a_slab_of_a_thread(void) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, make_slab, NULL) == 0 && pthread_join(thread, NULL) == 0);
    if (left == NULL) return;
    check_contents(&left_blocks);
    give_all(&left_blocks);
    nm_slab_destroy(left);
}

/* ---- sweeps ------------------------------------------------------------------------------------------ */

static void test_each_failure(void (*program)(void)) {
    nm_region_trim();
    for (int more = 0; more < 2; more++) {
        size_t n = 0, some;
        do {
            long before = atomic_load(&structures);
            nm_stats below_it = stats(upstream());
            arm(++n, more != 0);
            program();
            some = atomic_load(&failed);
            bool disarmed = atomic_load(&failing_one) == 0; /* by a free that had to be tried again */
            arm(0, false);
            CHECK(atomic_load(&structures) == before && stats(upstream()).live == below_it.live);
            SOUND(nm__region_check());
            swept += some != 0 || disarmed;
            if (disarmed) some = 1;
        } while (some != 0 && n < 5000);
        CHECK(n < 5000);
    }
    arm(0, false);
    program(); /* all is well again */
}

/* The region is made once in a process, so each of these is one. */
static void test_a_region_that_is_refused(void) {
    const size_t size = (size_t)1 << 34;
    for (size_t n = 1; n <= 40; n++) {
        pid_t child = fork();
        CHECK(child >= 0);
        if (child == 0) {
            arm(n, false);
            nm_status status = nm_region_init(size, 0, 0);
            bool there = status == NM_OK && nm_region_size() == size; /* at another place */
            arm(1, true);
            if (nm_region_init(size, 0, 0) != NM_OK) there = false; /* it is there already */
            _exit(there ? 0 : 1);
        }
        int status;
        CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    }
    arm(1, true);
    CHECK(nm_region_init(size, 0, 0) == NM_OUT_OF_MEMORY && nm_region_size() == 0);
    CHECK(nm_last_failure().status == NM_OUT_OF_MEMORY);
    arm(0, false);
    CHECK(nm_region_init(size, 1 << 20, 0) == NM_OK && nm_region_size() == size); /* later there is room */
}

int main(void) {
    RUN(test_a_region_that_is_refused());
    bottom = nm_system_create();
    RUN(test_each_failure(on_system));
    RUN(test_each_failure(on_plain_arena));
    RUN(test_each_failure(on_wiping_arena));
    RUN(test_each_failure(on_stack));
    RUN(test_each_failure(on_pool));
    RUN(test_each_failure(on_plain_slab));
    RUN(test_each_failure(on_wiping_slab));
    RUN(test_each_failure(on_plain_heap));
    RUN(test_each_failure(on_secure_heap));
    RUN(test_each_failure(on_budgets));
    RUN(test_each_failure(on_wrappers));
    RUN(test_each_failure(on_verified));
    RUN(test_each_failure(on_a_wiping_traced));
    RUN(test_each_failure(on_a_traced_with_sites));
    RUN(test_each_failure(on_threads_of_a_heap));
    RUN(test_each_failure(on_threads_of_a_secure_heap));
    RUN(test_each_failure(on_a_slab_of_a_thread));
    CHECK(swept > 100);
    nm_system_destroy(bottom);
    printf("%zu calls made fail\n", swept);
    return finish();
}
