/* What the port does not show of stack and pool; the end of a slab's thread; patterns. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include "alloc/cells.h"
#include "harness.h"
#include "nativemem.h"

static nm_system *system_;

static nm_stats stats(nm_allocator a) {
    nm_stats s;
    a.methods->stats(a.self, &s);
    return s;
}
static bool same(nm_stats a, nm_stats b) { return memcmp(&a, &b, sizeof a) == 0; }

/* Runs a function in a thread of its own, to its end. */
static void in_thread(void *(*run)(void *), void *arg) {
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, run, arg) == 0);
    CHECK(pthread_join(thread, NULL) == 0);
}

/* ---- stack ---------------------------------------------------------------------------------------- */

static nm_stack *stack_of(size_t capacity, nm_allocator *port) {
    nm_stack *s = nm_stack_create(nm_system_port(system_), capacity, false);
    *port = nm_stack_port(s);
    return s;
}

static void test_stack_order(void) {
    nm_allocator p;
    nm_stack *s = stack_of(10000, &p);
    char *a = nm_alloc(p, 100, 16), *b = nm_alloc(p, 200, 16), *c = nm_alloc(p, 300, 16);
    nm_stats before = stats(p);
    CHECK(nm_free(p, a, 100, 16) == NM_LIFO_VIOLATION && nm_last_failure().requested == 100);
    CHECK(nm_free(p, b, 200, 16) == NM_LIFO_VIOLATION);
    CHECK(nm_free(p, b + 16, 184, 16) == NM_LIFO_VIOLATION);
    CHECK(nm_free(p, c, 299, 16) == NM_FOREIGN_BLOCK); /* its size is not that */
    CHECK(nm_free(p, &before, 16, 16) == NM_FOREIGN_BLOCK);
    CHECK(nm_free(p, a - 1, 16, 16) == NM_FOREIGN_BLOCK && nm_free(p, a + 10000, 16, 16) == NM_FOREIGN_BLOCK);
    CHECK(nm_free(p, a + 9999, 1, 1) == NM_DOUBLE_FREE); /* inside, above the top */
    CHECK(same(stats(p), before));
    SOUND(nm_stack_check(s));
    CHECK(nm_free(p, c, 300, 16) == NM_OK);
    CHECK(nm_free(p, c, 300, 16) == NM_DOUBLE_FREE);
    CHECK(nm_free(p, b, 200, 16) == NM_OK && nm_free(p, a, 100, 16) == NM_OK);
    CHECK(nm_free(p, a, 100, 16) == NM_DOUBLE_FREE);
    CHECK(stats(p).used == 0 && stats(p).live == 0 && stats(p).frees == 3 && stats(p).peak == 600);
    SOUND(nm_stack_check(s));
    nm_stack_destroy(s);
}

static void test_stack_padding_counts(void) {
    nm_allocator p;
    nm_stack *s = stack_of(1024, &p);
    CHECK(nm_alloc(p, 1, 1) != NULL);
    for (size_t align = 2; align <= 512; align *= 2) {
        CHECK(nm_alloc(p, 1024 - align + 1, align) == NULL && nm_last_failure().status == NM_CAPACITY_EXCEEDED);
        char *whole = nm_alloc(p, 1024 - align, align); /* to the last byte */
        CHECK(whole != NULL && nm_free(p, whole, 1024 - align, align) == NM_OK);
    }
    SOUND(nm_stack_check(s));
    nm_stack_destroy(s);
}

static void test_stack_padding_is_reclaimed(void) {
    nm_allocator p;
    nm_stack *s = stack_of(8192, &p);
    char *first = nm_alloc(p, 1, 1);
    for (size_t align = 1; align <= 4096; align *= 2) {
        char *strict = nm_alloc(p, 3, align);
        CHECK(strict == first + (align == 1 ? 1 : align));
        SOUND(nm_stack_check(s));
        CHECK(nm_free(p, strict, 3, align) == NM_OK);
        char *next = nm_alloc(p, 1, 1); /* the padding is there again */
        CHECK(next == first + 1 && nm_free(p, next, 1, 1) == NM_OK);
        SOUND(nm_stack_check(s));
    }
    nm_stack_destroy(s);
}

static void test_stack_capacity(void) {
    CHECK(nm_stack_create(nm_system_port(system_), 0, false) == NULL);
    CHECK(nm_last_failure().status == NM_INVALID_LAYOUT);
    CHECK(nm_stack_create(nm_system_port(system_), NM_SIZE_MAX + 1, false) == NULL);
    CHECK(nm_last_failure().status == NM_INVALID_LAYOUT);
    nm_budget *budget = nm_budget_create(1000, NULL, NULL);
    nm_limited *l = nm_limited_create(nm_system_port(system_), budget);
    CHECK(nm_stack_create(nm_limited_port(l), 1001, false) == NULL && nm_last_failure().status == NM_OVER_BUDGET);
    CHECK(nm_budget_used(budget) == 0);
    nm_stack *s = nm_stack_create(nm_limited_port(l), 1000, false);
    nm_allocator p = nm_stack_port(s);
    CHECK(nm_budget_used(budget) == 1000 && stats(p).reserved == 1000 && stats(p).limit == 1000);
    char *all = nm_alloc(p, 1000, 1);
    CHECK(all != NULL && nm_alloc(p, 1, 1) == NULL);
    nm_failure f = nm_last_failure();
    CHECK(f.status == NM_CAPACITY_EXCEEDED && f.requested == 1 && f.used == 1000 && f.limit == 1000);
    CHECK(nm_free(p, all, 1000, 1) == NM_OK);
    char *a = nm_alloc(p, 990, 1);
    CHECK(nm_alloc(p, 11, 1) == NULL && nm_alloc(p, 1, 64) == NULL && nm_alloc(p, 8, 16) != NULL);
    CHECK(stats(p).failures == 3);
    CHECK(p.methods->alloc(p.self, 8, NM_PORT_ALIGN_MAX) == NULL);
    CHECK(nm_alloc(p, NM_SIZE_MAX, 1) == NULL);
    SOUND(nm_stack_check(s));
    (void)a;
    CHECK(nm_stack_clear(s) == NM_OK && nm_budget_used(budget) == 0 && stats(p).reserved == 0);
    CHECK(nm_alloc(p, 1, 1) == NULL && nm_last_failure().status == NM_CAPACITY_EXCEEDED);
    CHECK(nm_free(p, a, 990, 1) == NM_FOREIGN_BLOCK);
    SOUND(nm_stack_check(s));
    nm_stack_destroy(s);
    s = nm_stack_create(nm_limited_port(l), 1000, false);
    CHECK(nm_alloc(nm_stack_port(s), 10, 1) != NULL);
    nm_stack_destroy(s); /* with a live block */
    nm_stack_destroy(NULL);
    CHECK(nm_budget_used(budget) == 0);
    nm_limited_destroy(l);
    nm_budget_destroy(budget);
}

static void test_stack_resize(void) {
    nm_allocator p;
    nm_stack *s = stack_of(1000, &p);
    char *a = nm_alloc(p, 100, 16), *b = nm_alloc(p, 100, 16);
    fill(b, 100, 4);
    CHECK(!p.methods->resize(p.self, a, 100, 90, 16) && !p.methods->resize(p.self, a, 100, 120, 16));
    CHECK(p.methods->resize(p.self, a, 100, 100, 16));
    size_t room = 1000 - (size_t)(b - a);
    CHECK(!p.methods->resize(p.self, b, 100, room + 1, 16));
    CHECK(p.methods->resize(p.self, b, 100, room, 16) && filled(b, 100, 4));
    SOUND(nm_stack_check(s));
    CHECK(stats(p).used == 100 + room && stats(p).total == 100 + room && nm_alloc(p, 1, 1) == NULL);
    CHECK(p.methods->resize(p.self, b, room, 10, 16) && filled(b, 10, 4));
    CHECK(stats(p).used == 110 && stats(p).peak == 100 + room);
    char *c = nm_alloc(p, 5, 1);
    CHECK(c == b + 10);
    SOUND(nm_stack_check(s));
    nm_stack_destroy(s);
}

static void test_stack_marks(void) {
    nm_allocator p, q;
    nm_stack *s = stack_of(10000, &p), *other = stack_of(100, &q);
    nm_stack_mark bottom, mark, above;
    CHECK(nm_stack_take_mark(s, &bottom) == NM_OK);
    char *a = nm_alloc(p, 100, 16);
    CHECK(nm_stack_take_mark(s, &mark) == NM_OK);
    char *b = nm_alloc(p, 100, 64);
    CHECK(nm_stack_take_mark(s, &above) == NM_OK);
    nm_stats before = stats(p);
    CHECK(nm_stack_release(other, &bottom) == NM_INVALID_MARK); /* alike in all but the stack */
    CHECK(nm_stack_release(other, &mark) == NM_INVALID_MARK && nm_last_failure().status == NM_INVALID_MARK);
    CHECK(nm_free(p, b, 100, 64) == NM_OK);
    CHECK(nm_stack_release(s, &above) == NM_INVALID_MARK); /* ahead */
    char *again = nm_alloc(p, 100, 64);
    CHECK(again == b && nm_stack_release(s, &above) == NM_INVALID_MARK); /* as high, but another block */
    CHECK(stats(p).used == before.used && stats(p).live == 2);
    CHECK(p.methods->resize(p.self, again, 100, 500, 64)); /* above the mark: of no concern to it */
    SOUND(nm_stack_check(s));
    CHECK(nm_stack_release(s, &mark) == NM_OK && stats(p).used == 100 && stats(p).live == 1);
    CHECK(nm_stack_release(s, &mark) == NM_OK); /* nothing is newer */
    SOUND(nm_stack_check(s));
    CHECK(p.methods->resize(p.self, a, 100, 200, 16)); /* the block on top may grow under its mark */
    CHECK(nm_alloc(p, 50, 1) == a + 200);
    CHECK(nm_stack_release(s, &mark) == NM_OK && stats(p).used == 200 && nm_alloc(p, 1, 1) == a + 200);
    SOUND(nm_stack_check(s));
    CHECK(nm_stack_release(s, &bottom) == NM_OK && stats(p).used == 0 && stats(p).live == 0);
    CHECK(nm_stack_reset(s) == NM_OK);
    CHECK(nm_stack_release(s, &bottom) == NM_INVALID_MARK); /* of an older generation */
    CHECK(nm_stack_release(s, &mark) == NM_INVALID_MARK);
    nm_stack_destroy(other);
    nm_stack_destroy(s);
}

/* What a wrapper has charged comes back, although blocks that are the stack's own lie above. */
static void test_stack_unwinds(void) {
    nm_allocator p;
    nm_stack *s = stack_of(1000, &p);
    nm_stack_mark mark;
    char *below = nm_alloc(p, 100, 16);
    CHECK(nm_stack_take_mark(s, &mark) == NM_OK);
    char *a = nm_alloc(p, 10, 16), *b = nm_alloc(p, 20, 64), *c = nm_alloc(p, 30, 16);
    nm_stack_unwind(s);
    CHECK(nm_free(p, a, 10, 16) == NM_OK && stats(p).live == 4);
    CHECK(nm_free(p, c, 30, 16) == NM_OK && stats(p).live == 3);
    CHECK(nm_free(p, c, 30, 16) == NM_DOUBLE_FREE);
    SOUND(nm_stack_check(s));
    CHECK(nm_stack_release(s, &mark) == NM_OK && stats(p).used == 100 && stats(p).frees == 2);
    SOUND(nm_stack_check(s));
    b = nm_alloc(p, 20, 16);
    CHECK(nm_free(p, below, 100, 16) == NM_LIFO_VIOLATION); /* over with the release */
    CHECK(nm_free(p, b, 20, 16) == NM_OK && nm_free(p, below, 100, 16) == NM_OK);
    nm_stack_destroy(s);
}

static void test_stack_programs(void) {
    enum { MOST = 3000 };
    static struct {
        char *ptr;
        size_t size;
        unsigned seed;
    } blocks[MOST];
    nm_allocator p;
    nm_stack *s = stack_of(1 << 20, &p);
    uint64_t seed = 12345;
    size_t n = 0, used = 0;
    for (int step = 0; step < 20000; step++) {
        if (n < MOST && below(&seed, 100) < (step < 8000 ? 70U : 45U)) {
            size_t size = 1 + below(&seed, 500), align = (size_t)1 << below(&seed, 8);
            char *ptr = nm_alloc(p, size, align);
            if (ptr == NULL) continue;
            CHECK(nm_is_aligned((uintptr_t)ptr, align) && (n == 0 || ptr >= blocks[n - 1].ptr + blocks[n - 1].size));
            fill(ptr, size, (unsigned)step);
            blocks[n].ptr = ptr, blocks[n].size = size, blocks[n++].seed = (unsigned)step;
            used += size;
        } else if (n > 0) {
            n--;
            CHECK(filled(blocks[n].ptr, blocks[n].size, blocks[n].seed));
            CHECK(nm_free(p, blocks[n].ptr, blocks[n].size, 1) == NM_OK);
            used -= blocks[n].size;
        }
        CHECK(stats(p).used == used && stats(p).live == n);
        if (step % 100 == 0) SOUND(nm_stack_check(s));
    }
    nm_stack_destroy(s);
}

static void test_stack_without_memory_for_entries(void) {
    nm_allocator p;
    nm_stack *s = stack_of(1000, &p);
    for (int i = 0; i < 1000; i++) CHECK(nm_alloc(p, 1, 1) != NULL); /* entries grow with the blocks */
    SOUND(nm_stack_check(s));
    CHECK(stats(p).live == 1000 && nm_stack_reset(s) == NM_OK && stats(p).live == 0);
    SOUND(nm_stack_check(s));
    nm_stack_destroy(s);
}

/* ---- pool ----------------------------------------------------------------------------------------- */

static nm_pool *pool_of(size_t size, size_t count, bool grow, nm_allocator *port) {
    nm_pool *p = nm_pool_create(nm_system_port(system_), size, count, grow);
    *port = nm_pool_port(p);
    return p;
}

static void test_pool_layouts(void) {
    static const struct {
        size_t size, cell;
    } rounded[] = {{1, 16}, {16, 16}, {17, 32}, {100, 112}, {4096, 4096}, {5000, 5008}};
    for (size_t i = 0; i < sizeof rounded / sizeof *rounded; i++) {
        nm_allocator p;
        nm_pool *pool = pool_of(rounded[i].size, 5, false, &p);
        size_t cell = rounded[i].cell, most = cell & (0U - cell);
        if (most > 4096) most = 4096;
        CHECK(nm_pool_cell(pool) == cell && stats(p).reserved == 5 * cell && stats(p).limit == 5 * cell);
        for (size_t align = 1; align <= 4096; align *= 2) {
            char *ptr = nm_alloc(p, cell, align);
            if (align > most) {
                CHECK(ptr == NULL && nm_last_failure().status == NM_INVALID_LAYOUT && nm_last_failure().limit == cell);
                continue;
            }
            CHECK(ptr != NULL && nm_is_aligned((uintptr_t)ptr, align));
            CHECK(nm_free(p, ptr, cell, align) == NM_OK);
            SOUND(nm_pool_check(pool));
        }
        CHECK(nm_alloc(p, cell + 1, 1) == NULL && nm_last_failure().status == NM_INVALID_LAYOUT);
        CHECK(stats(p).failures == 0);
        nm_pool_destroy(pool);
    }
    static const size_t bad[][2] = {{0, 1},
                                    {1, 0},
                                    {SIZE_MAX, 1},
                                    {64, SIZE_MAX / 32},
                                    {NM_SIZE_MAX, 1},
                                    {16, NM_SIZE_MAX},
                                    {16, SIZE_MAX / 16 + 2},
                                    {64, SIZE_MAX / 64 + 2}}; /* 16 and 64 bytes, were it not for the rest */
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK(nm_pool_create(nm_system_port(system_), bad[i][0], bad[i][1], false) == NULL);
        CHECK(nm_last_failure().status == NM_INVALID_LAYOUT);
    }
    nm_pool_destroy(NULL);
}

static void test_pool_checks_each_free(void) {
    nm_allocator p;
    nm_pool *pool = pool_of(64, 10, false, &p);
    char *a = nm_alloc(p, 64, 16), *b = nm_alloc(p, 40, 16);
    nm_stats before = stats(p);
    CHECK(nm_free(p, &before, 64, 16) == NM_FOREIGN_BLOCK);
    CHECK(nm_free(p, a - 64, 64, 16) == NM_FOREIGN_BLOCK && nm_free(p, a + 640, 64, 16) == NM_FOREIGN_BLOCK);
    CHECK(nm_free(p, b + 16, 24, 16) == NM_FOREIGN_BLOCK);       /* no boundary */
    CHECK(nm_free(p, a + 5 * 64, 64, 16) == NM_FOREIGN_BLOCK);   /* never handed out */
    CHECK(nm_free(p, a, 65, 16) == NM_FOREIGN_BLOCK && nm_free(p, a, 64, 128) == NM_FOREIGN_BLOCK);
    CHECK(same(stats(p), before));
    CHECK(nm_free(p, a, 64, 16) == NM_OK && nm_free(p, a, 64, 16) == NM_DOUBLE_FREE);
    SOUND(nm_pool_check(pool));
    CHECK(stats(p).live == 1 && stats(p).used == 40 && stats(p).frees == 1);
    CHECK(nm_alloc(p, 64, 16) == a); /* last in, first out */
    CHECK(p.methods->resize(p.self, b, 40, 64, 16) && !p.methods->resize(p.self, b, 64, 65, 16));
    CHECK(stats(p).used == 128 && stats(p).peak == 128 && stats(p).total == 64 + 40 + 64 + 24);
    CHECK(p.methods->resize(p.self, b, 64, 1, 16) && stats(p).used == 65);
    CHECK(nm_free(p, b, 1, 16) == NM_OK && nm_free(p, a, 64, 16) == NM_OK);
    SOUND(nm_pool_check(pool));
    nm_pool_destroy(pool);
}

static void test_pool_corruption(void) {
    nm_allocator p;
    nm_pool *pool = pool_of(64, 4, false, &p);
    char *a = nm_alloc(p, 64, 16), *b = nm_alloc(p, 64, 16), *c = nm_alloc(p, 64, 16);
    CHECK(nm_free(p, a, 64, 16) == NM_OK && nm_free(p, b, 64, 16) == NM_OK);
    void *good = nm__peek(b); /* b is first, then a */
    nm_stats before = stats(p);
    static const size_t wild[] = {SIZE_MAX, 1000, 5, 4, 3}; /* outside; never used; taken */
    for (size_t i = 0; i < sizeof wild / sizeof *wild; i++) {
        nm__poke(b, (void *)(uintptr_t)wild[i]);
        CHECK(nm_pool_check(pool) != NULL);
        char *first = nm_alloc(p, 64, 16); /* b itself is fine; where it leads is not */
        CHECK(first == b);
        before = stats(p);
        CHECK(nm_alloc(p, 64, 16) == NULL && nm_last_failure().status == NM_CORRUPTED);
        CHECK(same(stats(p), before));
        CHECK(nm_free(p, b, 64, 16) == NM_OK);
        nm__poke(b, good);
        SOUND(nm_pool_check(pool));
    }
    nm__poke(b, (void *)2); /* b leads to itself */
    CHECK(nm_pool_check(pool) != NULL);
    CHECK(nm_alloc(p, 64, 16) == b && nm_alloc(p, 64, 16) == NULL && nm_last_failure().status == NM_CORRUPTED);
    CHECK(nm_free(p, b, 64, 16) == NM_OK);
    nm__poke(b, NULL); /* a is lost */
    CHECK(nm_pool_check(pool) != NULL);
    CHECK(nm_alloc(p, 64, 16) == b && nm_alloc(p, 64, 16) == c + 64);
    CHECK(nm_alloc(p, 64, 16) == NULL && nm_last_failure().status == NM_CORRUPTED);
    nm_pool_destroy(pool);
}

static void test_pool_empty_and_growing(void) {
    nm_allocator p;
    nm_pool *pool = pool_of(32, 3, false, &p);
    void *blocks[3];
    for (int i = 0; i < 3; i++) blocks[i] = nm_alloc(p, 32, 16);
    CHECK(nm_alloc(p, 32, 16) == NULL);
    nm_failure f = nm_last_failure();
    CHECK(f.status == NM_POOL_EXHAUSTED && f.requested == 32 && f.used == 96 && f.limit == 96 && stats(p).failures == 1);
    SOUND(nm_pool_check(pool));
    CHECK(nm_free(p, blocks[1], 32, 16) == NM_OK && nm_alloc(p, 32, 16) == blocks[1]);
    CHECK(nm_pool_clear(pool) == NM_OK && stats(p).reserved == 0 && stats(p).used == 0 && stats(p).live == 0);
    CHECK(nm_alloc(p, 32, 16) == NULL && nm_free(p, blocks[0], 32, 16) == NM_FOREIGN_BLOCK);
    SOUND(nm_pool_check(pool));
    nm_pool_destroy(pool);

    nm_budget *budget = nm_budget_create(12 * 32, NULL, NULL);
    nm_limited *l = nm_limited_create(nm_system_port(system_), budget);
    CHECK(nm_pool_create(nm_limited_port(l), 32, 13, true) == NULL && nm_last_failure().status == NM_OVER_BUDGET);
    pool = nm_pool_create(nm_limited_port(l), 32, 3, true);
    p = nm_pool_port(pool);
    CHECK(stats(p).limit == 0);
    void *many[12];
    for (int i = 0; i < 12; i++) {
        many[i] = nm_alloc(p, 32, 16);
        CHECK(many[i] != NULL);
        fill(many[i], 32, (unsigned)i);
        SOUND(nm_pool_check(pool));
        CHECK(stats(p).reserved == (i < 3 ? 96U : i < 6 ? 192U : 384U) && nm_budget_used(budget) == stats(p).reserved);
    }
    CHECK(nm_alloc(p, 32, 16) == NULL && nm_last_failure().status == NM_OVER_BUDGET && stats(p).failures == 1);
    for (int i = 0; i < 12; i++) {
        CHECK(filled(many[i], 32, (unsigned)i) && nm_free(p, many[i], 32, 16) == NM_OK);
        SOUND(nm_pool_check(pool));
    }
    CHECK(stats(p).used == 0 && stats(p).reserved == 384);
    nm_pool_destroy(pool);
    CHECK(nm_budget_used(budget) == 0);
    nm_limited_destroy(l);
    nm_budget_destroy(budget);
}

/* An upstream whose blocks touch, each below the one before. */
typedef struct falling {
    char *at;
    size_t given;
} falling;
static void *falling_alloc(void *self, size_t size, size_t align) {
    falling *f = self;
    f->at = (char *)((uintptr_t)(f->at - size) & ~(uintptr_t)(align - 1));
    f->given++;
    return f->at;
}
static bool falling_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    (void)self, (void)ptr, (void)old, (void)size, (void)align;
    return false;
}
static nm_status falling_free(void *self, void *ptr, size_t size, size_t align) {
    (void)ptr, (void)size, (void)align;
    ((falling *)self)->given--;
    return NM_OK;
}
static void falling_stats(void *self, nm_stats *out) { *out = (nm_stats){.live = ((falling *)self)->given}; }
static const nm_methods falling_methods = {falling_alloc, falling_resize, falling_free, falling_stats};

static void test_pool_chunks_that_touch(void) {
    static _Alignas(4096) char memory[8 * 64];
    falling f = {memory + sizeof memory, 0};
    nm_pool *pool = nm_pool_create((nm_allocator){&f, &falling_methods}, 64, 2, true);
    nm_allocator p = nm_pool_port(pool);
    char *cells[8];
    for (int i = 0; i < 8; i++) cells[i] = nm_alloc(p, 64, 64);
    CHECK(cells[0] == memory + 6 * 64 && cells[2] == memory + 4 * 64 && cells[4] == memory && f.given == 3);
    for (int i = 0; i < 8; i++) {
        CHECK(nm_free(p, cells[i], 64, 64) == NM_OK);
        CHECK(nm_free(p, cells[i], 64, 64) == NM_DOUBLE_FREE);
        SOUND(nm_pool_check(pool));
    }
    CHECK(nm_free(p, memory + sizeof memory, 64, 64) == NM_FOREIGN_BLOCK);
    nm_pool_destroy(pool);
    CHECK(f.given == 0);
}

/* ---- threads -------------------------------------------------------------------------------------- */

typedef struct all_of_them {
    nm_arena *arena;
    nm_stack *stack;
    nm_pool *pool;
    nm_slab *slab;
    void *blocks[4];
    nm_arena_mark arena_mark;
    nm_stack_mark stack_mark;
} all_of_them;
#define NO_BLOCK(port) (nm_alloc(port, 10, 1) == NULL && nm_last_failure().status == NM_WRONG_THREAD)

static void *elsewhere(void *arg) {
    all_of_them *all = arg;
    nm_stack *mine = nm_stack_create(nm_system_port(system_), 100, false); /* a thread that owns something */
    CHECK(nm_alloc(nm_stack_port(mine), 100, 1) != NULL);
    nm_allocator a = nm_arena_port(all->arena), s = nm_stack_port(all->stack), p = nm_pool_port(all->pool);
    CHECK(NO_BLOCK(a) && NO_BLOCK(s) && NO_BLOCK(p) && NO_BLOCK(nm_slab_port(all->slab)));
    CHECK(nm_free(a, all->blocks[0], 10, 1) == NM_WRONG_THREAD);
    CHECK(nm_free(s, all->blocks[1], 10, 1) == NM_WRONG_THREAD);
    CHECK(nm_free(p, all->blocks[2], 10, 1) == NM_WRONG_THREAD);
    CHECK(!a.methods->resize(a.self, all->blocks[0], 10, 9, 1) && nm_last_failure().status == NM_WRONG_THREAD);
    CHECK(!s.methods->resize(s.self, all->blocks[1], 10, 9, 1) && nm_last_failure().status == NM_WRONG_THREAD);
    CHECK(!p.methods->resize(p.self, all->blocks[2], 10, 9, 1) && nm_last_failure().status == NM_WRONG_THREAD);
    CHECK(nm_stack_reset(all->stack) == NM_WRONG_THREAD && nm_stack_clear(all->stack) == NM_WRONG_THREAD);
    CHECK(nm_stack_take_mark(all->stack, &all->stack_mark) == NM_WRONG_THREAD);
    CHECK(nm_stack_release(all->stack, &all->stack_mark) == NM_WRONG_THREAD);
    CHECK(nm_stack_check_thread(all->stack) == NM_WRONG_THREAD && nm_pool_check_thread(all->pool) == NM_WRONG_THREAD);
    CHECK(nm_pool_clear(all->pool) == NM_WRONG_THREAD && nm_arena_check_thread(all->arena) == NM_WRONG_THREAD);
    CHECK(nm_slab_check_thread(all->slab) == NM_WRONG_THREAD && nm_slab_trim(all->slab) == NM_WRONG_THREAD);
    CHECK(stats(a).failures == 0 && stats(s).failures == 0 && stats(p).failures == 0); /* misuse is none */
    CHECK(stats(nm_slab_port(all->slab)).failures == 0);
    nm_stack_destroy(mine);
    return NULL;
}

static void *make_all(void *arg) {
    all_of_them *all = arg;
    static const size_t bins[] = {64};
    nm_allocator up = nm_system_port(system_);
    all->arena = nm_arena_create(up, (nm_arena_options){.hint = 1000, .grow = true});
    all->stack = nm_stack_create(up, 1000, false);
    all->pool = nm_pool_create(up, 64, 10, false);
    all->slab = nm_slab_create(up, bins, 1, false);
    all->blocks[0] = nm_alloc(nm_arena_port(all->arena), 10, 1);
    all->blocks[1] = nm_alloc(nm_stack_port(all->stack), 10, 1);
    all->blocks[2] = nm_alloc(nm_pool_port(all->pool), 10, 1);
    all->blocks[3] = nm_alloc(nm_slab_port(all->slab), 10, 1);
    CHECK(nm_stack_take_mark(all->stack, &all->stack_mark) == NM_OK);
    return NULL;
}
static void destroy_all(all_of_them *all) {
    nm_arena_destroy(all->arena);
    nm_stack_destroy(all->stack);
    nm_pool_destroy(all->pool);
    nm_slab_destroy(all->slab);
}

static void test_confined_to_the_thread(void) {
    all_of_them all;
    (void)make_all(&all);
    in_thread(elsewhere, &all);
    CHECK(nm_alloc(nm_stack_port(all.stack), 1, 1) != NULL && nm_alloc(nm_pool_port(all.pool), 1, 1) != NULL);
    destroy_all(&all);
}

/* The system uses the place of a thread that has ended for the next one; it is another all the same. */
static void test_a_dead_threads_things_are_nobodys(void) {
    all_of_them all;
    in_thread(make_all, &all);
    (void)elsewhere(&all);
    for (int i = 0; i < 3; i++) in_thread(elsewhere, &all);
    destroy_all(&all);
    CHECK(stats(nm_system_port(system_)).live == 0);
}

/* ---- a slab whose thread has ended ---------------------------------------------------------------- */

#define CELLS 2500 /* of 64 bytes: three superblocks */
typedef struct orphan {
    nm_slab *slab;
    nm_allocator upstream;
    char *blocks[CELLS];
    size_t from, to;
} orphan;

static void *make_slab(void *arg) {
    orphan *o = arg;
    static const size_t bins[] = {64};
    o->slab = nm_slab_create(o->upstream, bins, 1, false);
    for (size_t i = 0; i < CELLS; i++) {
        o->blocks[i] = nm_alloc(nm_slab_port(o->slab), 60, 16);
        fill(o->blocks[i], 60, (unsigned)i);
    }
    for (size_t i = 0; i < 100; i++) CHECK(nm_free(nm_slab_port(o->slab), o->blocks[i], 60, 16) == NM_OK);
    SOUND(nm_slab_check(o->slab));
    return NULL;
}
static void *free_some(void *arg) {
    orphan *o = arg;
    for (size_t i = o->from; i < o->to; i++) {
        CHECK(filled(o->blocks[i], 60, (unsigned)i));
        CHECK(nm_free(nm_slab_port(o->slab), o->blocks[i], 60, 16) == NM_OK);
    }
    return NULL;
}

static void test_a_slab_outlives_its_thread(void) {
    static orphan o;
    nm_system *upstream = nm_system_create();
    o.upstream = nm_system_port(upstream);
    in_thread(make_slab, &o);
    CHECK(stats(o.upstream).live == 3 && stats(nm_slab_port(o.slab)).live == CELLS - 100);
    o.from = 100, o.to = 1100;
    (void)free_some(&o); /* the first superblock holds 1021 cells */
    SOUND(nm_slab_check(o.slab));
    CHECK(stats(o.upstream).live == 2);
    o.from = 1100, o.to = CELLS - 1;
    in_thread(free_some, &o);
    SOUND(nm_slab_check(o.slab));
    CHECK(stats(o.upstream).live == 1 && filled(o.blocks[CELLS - 1], 60, CELLS - 1));
    o.from = CELLS - 1, o.to = CELLS;
    in_thread(free_some, &o);
    CHECK(stats(o.upstream).live == 0); /* no spare is kept for a thread that is gone */
    CHECK(stats(nm_slab_port(o.slab)).used == 0 && stats(nm_slab_port(o.slab)).reserved == 0);
    SOUND(nm_slab_check(o.slab));
    nm_slab_destroy(o.slab);
    in_thread(make_slab, &o);
    nm_slab_destroy(o.slab); /* with live blocks */
    CHECK(stats(o.upstream).live == 0);
    nm_system_destroy(upstream);
}

static void test_two_free_into_a_slab_of_nobody(void) {
    static orphan o, half;
    nm_system *upstream = nm_system_create();
    for (int round = 0; round < 10; round++) {
        o.upstream = nm_system_port(upstream);
        in_thread(make_slab, &o);
        half = o;
        o.from = 100, o.to = 1300;
        half.from = 1300, half.to = CELLS;
        pthread_t thread;
        CHECK(pthread_create(&thread, NULL, free_some, &half) == 0);
        (void)free_some(&o);
        CHECK(pthread_join(thread, NULL) == 0);
        SOUND(nm_slab_check(o.slab));
        CHECK(stats(o.upstream).live == 0 && stats(nm_slab_port(o.slab)).live == 0);
        nm_slab_destroy(o.slab);
    }
    nm_system_destroy(upstream);
}

/* Frees while the owner is on its way out, so that some come before and some after. */
static atomic_bool made, go_on;
static void *make_slab_and_wait(void *arg) {
    (void)make_slab(arg);
    atomic_store(&made, true);
    while (!atomic_load(&go_on)) {}
    return NULL;
}
static void test_frees_while_the_thread_ends(void) {
    static orphan o;
    nm_system *upstream = nm_system_create();
    for (int round = 0; round < 20; round++) {
        pthread_t thread;
        o.upstream = nm_system_port(upstream);
        atomic_store(&made, false);
        atomic_store(&go_on, false);
        CHECK(pthread_create(&thread, NULL, make_slab_and_wait, &o) == 0);
        while (!atomic_load(&made)) {}
        o.from = 100, o.to = 1200;
        (void)free_some(&o);
        atomic_store(&go_on, true);
        o.from = 1200, o.to = CELLS;
        (void)free_some(&o);
        CHECK(pthread_join(thread, NULL) == 0);
        SOUND(nm_slab_check(o.slab));
        CHECK(stats(o.upstream).live == 0);
        nm_slab_destroy(o.slab);
    }
    nm_system_destroy(upstream);
}

/* An upstream that does something before it takes a block back, which for a slab without an owner is while it is busy. */
static struct {
    nm_allocator under;
    void (*before_free)(void);
} meddler;
static void *meddler_alloc(void *self, size_t size, size_t align) {
    (void)self;
    return meddler.under.methods->alloc(meddler.under.self, size, align);
}
static bool meddler_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    (void)self;
    return meddler.under.methods->resize(meddler.under.self, ptr, old, size, align);
}
static nm_status meddler_free(void *self, void *ptr, size_t size, size_t align) {
    (void)self;
    void (*once)(void) = meddler.before_free;
    meddler.before_free = NULL;
    if (once != NULL) once();
    return meddler.under.methods->free(meddler.under.self, ptr, size, align);
}
static void meddler_stats(void *self, nm_stats *out) {
    (void)self;
    meddler.under.methods->stats(meddler.under.self, out);
}
static const nm_methods meddler_methods = {meddler_alloc, meddler_resize, meddler_free, meddler_stats};
static nm_allocator meddlers_port(nm_system *under, void (*before_free)(void)) {
    meddler.under = nm_system_port(under);
    meddler.before_free = before_free;
    return (nm_allocator){&meddler, &meddler_methods};
}

/* Two superblocks of which one is empty, a spare: it goes upstream as the thread ends. */
static struct {
    nm_slab *slab;
    nm_allocator upstream;
    void *last;
} ending;
static void *make_slab_with_a_spare(void *unused) {
    (void)unused;
    static const size_t bins[] = {4096};
    void *blocks[16];
    ending.slab = nm_slab_create(ending.upstream, bins, 1, false);
    nm_allocator port = nm_slab_port(ending.slab);
    for (int i = 0; i < 16; i++) blocks[i] = nm_alloc(port, 4096, 16); /* 15 to a superblock */
    for (int i = 0; i < 15; i++) CHECK(nm_free(port, blocks[i], 4096, 16) == NM_OK);
    ending.last = blocks[15];
    SOUND(nm_slab_check(ending.slab));
    return NULL;
}

static atomic_bool inside, freed;
static void wait_for_the_free(void) {
    atomic_store(&inside, true);
    for (int i = 0; i < 10000 && !atomic_load(&freed); i++) (void)sched_yield(); /* a sound slab lets it not come */
}
static void *free_the_last(void *unused) {
    (void)unused;
    while (!atomic_load(&inside)) (void)sched_yield();
    CHECK(nm_free(nm_slab_port(ending.slab), ending.last, 4096, 16) == NM_OK);
    atomic_store(&freed, true);
    return NULL;
}
/* The thread has collected for the last time, and its slab has an owner for a moment more. */
static void test_the_last_free_while_the_thread_ends(void) {
    nm_system *upstream = nm_system_create();
    pthread_t thread;
    atomic_store(&inside, false);
    atomic_store(&freed, false);
    ending.upstream = meddlers_port(upstream, wait_for_the_free);
    CHECK(pthread_create(&thread, NULL, free_the_last, NULL) == 0);
    in_thread(make_slab_with_a_spare, NULL);
    CHECK(atomic_load(&inside));
    atomic_store(&inside, true); /* or the other would wait for ever */
    CHECK(pthread_join(thread, NULL) == 0);
    SOUND(nm_slab_check(ending.slab));
    CHECK(stats(ending.upstream).live == 0);
    nm_slab_destroy(ending.slab);
    nm_system_destroy(upstream);
}

/* Forks; true where the child ends well, and soon. */
static bool child_does(void (*run)(void)) {
    pid_t child = fork();
    if (child == 0) {
        int before = failures_;
        (void)alarm(10);
        run();
        _exit(failures_ != before);
    }
    int status = -1;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

static void destroy_the_lost(void) {
    CHECK(nm_free(nm_slab_port(ending.slab), ending.last, 4096, 16) == NM_OK); /* queued for ever */
    nm_slab_destroy(ending.slab);
}
static void fork_now(void) { CHECK(child_does(destroy_the_lost)); }
static void test_fork_while_the_thread_ends(void) {
    nm_system *upstream = nm_system_create();
    ending.upstream = meddlers_port(upstream, fork_now);
    in_thread(make_slab_with_a_spare, NULL);
    SOUND(nm_slab_check(ending.slab));
    CHECK(stats(ending.upstream).live == 1);
    CHECK(nm_free(nm_slab_port(ending.slab), ending.last, 4096, 16) == NM_OK && stats(ending.upstream).live == 0);
    nm_slab_destroy(ending.slab);
    nm_system_destroy(upstream);
}

/* A child has the slabs of the threads that it does not have: owned, or without an owner. */
static orphan left;
static void free_the_owned(void) {
    left.from = 100, left.to = CELLS;
    (void)free_some(&left);
    CHECK(stats(nm_slab_port(left.slab)).live == 0 && stats(left.upstream).live == 3); /* its owner is not here */
    nm_slab_destroy(left.slab);
    CHECK(stats(left.upstream).live == 0);
}
static void free_the_abandoned(void) {
    left.from = 100, left.to = CELLS;
    (void)free_some(&left);
    CHECK(stats(left.upstream).live == 0);
    nm_slab_destroy(left.slab);
}
static void test_fork_with_slabs_of_others(void) {
    nm_system *upstream = nm_system_create();
    pthread_t thread;
    left.upstream = nm_system_port(upstream);
    atomic_store(&made, false);
    atomic_store(&go_on, false);
    CHECK(pthread_create(&thread, NULL, make_slab_and_wait, &left) == 0);
    while (!atomic_load(&made)) (void)sched_yield();
    CHECK(child_does(free_the_owned));
    atomic_store(&go_on, true);
    CHECK(pthread_join(thread, NULL) == 0);
    CHECK(child_does(free_the_abandoned));
    free_the_abandoned();
    CHECK(stats(left.upstream).live == 0);
    nm_system_destroy(upstream);
}

/* Each kind has its own to do when a thread ends. */
static nm_heap *shared_heap;
static void *use_slab_and_heap(void *arg) {
    (void)make_slab(arg);
    CHECK(nm_heap_free(shared_heap, nm_heap_malloc(shared_heap, 100)) == NM_OK);
    return NULL;
}
static void test_a_thread_with_slab_and_heap(void) {
    static orphan o;
    nm_system *upstream = nm_system_create();
    o.upstream = nm_system_port(upstream);
    shared_heap = nm_heap_create(NULL, false);
    for (int i = 0; i < 3; i++) {
        in_thread(use_slab_and_heap, &o);
        nm_census census;
        nm_heap_census(shared_heap, &census);
        CHECK(census.held == 0 && census.threads == 1); /* it kept nothing, and the next takes its part over */
        SOUND(nm_heap_check(shared_heap));
        o.from = 100, o.to = CELLS;
        (void)free_some(&o);
        CHECK(stats(o.upstream).live == 0);
        nm_slab_destroy(o.slab);
    }
    nm_heap_destroy(shared_heap);
    nm_system_destroy(upstream);
}

/* ---- patterns ------------------------------------------------------------------------------------- */

static bool all_bytes(const unsigned char *ptr, size_t size, unsigned char byte) {
    for (size_t i = 0; i < size; i++)
        if (ptr[i] != byte) return false;
    return true;
}
#ifdef NM__WATCHED
#define SEEN_DEAD(ptr, size, byte) true /* the checker lets no code look */
#else
#define SEEN_DEAD(ptr, size, byte) all_bytes(ptr, size, byte)
#endif

static void test_patterns(void) {
    nm_allocator up = nm_system_port(system_);
    nm_arena *a = nm_arena_create(up, (nm_arena_options){.hint = 4096, .grow = true, .patterns = true});
    nm_allocator p = nm_arena_port(a);
    unsigned char *x = nm_alloc(p, 100, 16), *y = nm_alloc(p, 50, 16);
    CHECK(all_bytes(x, 100, 0xAA) && all_bytes(y, 50, 0xAA));
    memset(x, 1, 100);
    memset(y, 2, 50);
    CHECK(p.methods->resize(p.self, y, 50, 80, 16) && all_bytes(y, 50, 2) && all_bytes(y + 50, 30, 0xAA));
    CHECK(p.methods->resize(p.self, y, 80, 20, 16) && SEEN_DEAD(y + 20, 60, 0xDD));
    CHECK(nm_free(p, x, 100, 16) == NM_OK && SEEN_DEAD(x, 100, 0xDD));
    CHECK(nm_arena_reset(a) == NM_OK && SEEN_DEAD(y, 20, 0xDD));
    nm_arena_destroy(a);
    a = nm_arena_create(up, (nm_arena_options){.hint = 4096, .grow = true, .patterns = true, .zero_on_free = true});
    x = nm_alloc(nm_arena_port(a), 100, 16);
    CHECK(all_bytes(x, 100, 0xAA) && nm_arena_reset(a) == NM_OK && SEEN_DEAD(x, 100, 0));
    nm_arena_destroy(a);

    nm_stack *s = nm_stack_create(up, 1000, true);
    p = nm_stack_port(s);
    x = nm_alloc(p, 100, 16), y = nm_alloc(p, 50, 16);
    CHECK(all_bytes(x, 100, 0xCC) && all_bytes(y, 50, 0xCC));
    memset(y, 2, 50);
    CHECK(p.methods->resize(p.self, y, 50, 80, 16) && all_bytes(y, 50, 2) && all_bytes(y + 50, 30, 0xCC));
    CHECK(p.methods->resize(p.self, y, 80, 20, 16) && SEEN_DEAD(y + 20, 60, 0xDD));
    CHECK(nm_free(p, y, 20, 16) == NM_OK && SEEN_DEAD(y, 20, 0xDD));
    CHECK(nm_stack_reset(s) == NM_OK && SEEN_DEAD(x, 100, 0xDD));
    nm_stack_destroy(s);
}

/* What the user may have written goes, not only what was asked for. A checker lets no code write that. */
#ifndef NM__WATCHED
static void test_a_slab_wipes_whole_cells(void) {
    static const size_t bins[] = {64};
    nm_slab *s = nm_slab_create(nm_system_port(system_), bins, 1, true);
    nm_allocator p = nm_slab_port(s);
    unsigned char *cell = nm_alloc(p, 20, 16);
    memset(cell, 7, nm_slab_usable(s, 20, 16));
    CHECK(nm_free(p, cell, 20, 16) == NM_OK && SEEN_DEAD(cell + sizeof(void *), 64 - sizeof(void *), 0));
    CHECK(nm_alloc(p, 20, 16) == cell && all_bytes(cell + sizeof(void *), 64 - sizeof(void *), 0));
    nm_slab_destroy(s);
}
#endif

static void test_utilities(void) {
    size_t out = 7;
    CHECK(nm_align_down(100, 64) == 64 && nm_align_down(64, 64) == 64 && nm_align_down(SIZE_MAX, 1) == SIZE_MAX);
    CHECK(nm_padding_needed(100, 64) == 28 && nm_padding_needed(0, 64) == 0 && nm_padding_needed(SIZE_MAX, 4096) == 1);
    CHECK(nm_next_power_of_two(0, &out) && out == 1 && nm_next_power_of_two(5, &out) && out == 8);
    CHECK(nm_next_power_of_two(SIZE_MAX / 2 + 1, &out) && out == SIZE_MAX / 2 + 1);
    CHECK(!nm_next_power_of_two(SIZE_MAX / 2 + 2, &out) && out == SIZE_MAX / 2 + 1);
    unsigned char a[1000], b[1000];
    for (size_t size = 0; size < 1000; size += size < 70 ? 1 : 37) {
        fill(a, 1000, 1);
        nm_fill(b, 0x5A, 1000);
        nm_copy(b, a, size);
        CHECK(memcmp(a, b, size) == 0 && (size == 1000 || all_bytes(b + size, 1000 - size, 0x5A)));
        CHECK(nm_compare(a, b, size) == 0 && nm_equal_constant_time(a, b, size));
        for (size_t at = 0; at < size; at += 1 + size / 7) {
            b[at] ^= 0x80;
            bool less = a[at] < b[at];
            CHECK(nm_compare(a, b, size) == (less ? -1 : 1) && !nm_equal_constant_time(a, b, size));
            b[at] ^= 0x80;
        }
        nm_secure_zero(b, size);
        CHECK(all_bytes(b, size, 0) && (size == 1000 || b[size] == 0x5A));
    }
    fill(a, 1000, 9);
    nm_copy(a + 1, a, 999); /* overlapping */
    fill(b, 1000, 9);
    CHECK(a[0] == b[0] && memcmp(a + 1, b, 999) == 0);
}

int main(void) {
    if (nm_region_init((size_t)64 << 30, (size_t)64 << 20, 1000) != NM_OK) return 2;
    if ((system_ = nm_system_create()) == NULL) return 2;
    RUN(test_stack_order());
    RUN(test_stack_padding_counts());
    RUN(test_stack_padding_is_reclaimed());
    RUN(test_stack_capacity());
    RUN(test_stack_resize());
    RUN(test_stack_marks());
    RUN(test_stack_unwinds());
    RUN(test_stack_programs());
    RUN(test_stack_without_memory_for_entries());
    RUN(test_pool_layouts());
    RUN(test_pool_checks_each_free());
    RUN(test_pool_corruption());
    RUN(test_pool_empty_and_growing());
    RUN(test_pool_chunks_that_touch());
    RUN(test_confined_to_the_thread());
    RUN(test_a_dead_threads_things_are_nobodys());
    RUN(test_a_slab_outlives_its_thread());
    RUN(test_two_free_into_a_slab_of_nobody());
    RUN(test_frees_while_the_thread_ends());
    RUN(test_the_last_free_while_the_thread_ends());
    RUN(test_fork_while_the_thread_ends());
    RUN(test_fork_with_slabs_of_others());
    RUN(test_a_thread_with_slab_and_heap());
    RUN(test_patterns());
#ifndef NM__WATCHED
    RUN(test_a_slab_wipes_whole_cells());
#endif
    RUN(test_utilities());
    nm_system_destroy(system_);
    return finish();
}
