/* The port's contract, on every allocator and on stacks of wrappers over each. To add an allocator: a maker,
 * and a line in `nouns`. */
#include "harness.h"
#include "nativemem.h"

typedef struct chain {
    nm_allocator port;
    void *cores[8];
    void (*destroy[8])(void *);
    const char *(*check[8])(void *);
    nm_status (*hand_over[8])(void *, uintptr_t); /* NULL: any thread may call it */
    int links;
    nm_budget *budget;
    bool reuses;  /* a freed block's memory is given out again, and stats.live falls */
    bool limited; /* the last link charges `budget` */
    bool lifo;    /* frees the newest block only */
    size_t most;  /* largest block there can ever be; 0: any */
} chain;

static void link_core(chain *c, void *core, nm_allocator port, void (*destroy)(void *), const char *(*check)(void *)) {
    c->cores[c->links] = core;
    c->destroy[c->links] = destroy;
    c->hand_over[c->links] = NULL;
    c->check[c->links++] = check;
    c->port = port;
}

#define GLUE(noun)                                                        \
    static void noun##_destroy(void *core) { nm_##noun##_destroy(core); } \
    static const char *noun##_check(void *core)
GLUE(system) { return core == NULL ? "no core" : NULL; }
GLUE(arena) { return nm_arena_check(core); }
GLUE(stack) { return nm_stack_check(core); }
GLUE(pool) { return nm_pool_check(core); }
GLUE(slab) { return nm_slab_check(core); }
GLUE(heap) { return nm_heap_check(core); }
GLUE(limited) { return core == NULL ? "no core" : NULL; }
GLUE(traced) { return nm_traced_check(core); }
GLUE(failing) { return core == NULL ? "no core" : NULL; }
GLUE(verified) { return nm_verified_check(core); }
GLUE(locked) { return core == NULL ? "no core" : NULL; }
#define CONFINED(noun) \
    static nm_status noun##_hand_over(void *core, uintptr_t thread) { return nm_##noun##_hand_over(core, thread); }
CONFINED(arena)
CONFINED(stack)
CONFINED(pool)
CONFINED(slab)

static void make_system(chain *c) {
    nm_system *s = nm_system_create();
    link_core(c, s, nm_system_port(s), system_destroy, system_check);
    c->reuses = true;
}
static void make_arena(chain *c) {
    make_system(c);
    nm_arena *a = nm_arena_create(c->port, (nm_arena_options){.hint = 1000, .grow = true});
    link_core(c, a, nm_arena_port(a), arena_destroy, arena_check);
    c->hand_over[c->links - 1] = arena_hand_over;
    c->reuses = false;
}
static void make_fixed_arena(chain *c) {
    make_system(c);
    nm_arena *a = nm_arena_create(c->port, (nm_arena_options){.hint = 64 << 20, .zero_on_free = true});
    link_core(c, a, nm_arena_port(a), arena_destroy, arena_check);
    c->hand_over[c->links - 1] = arena_hand_over;
    c->reuses = false;
}
static void make_pattern_arena(chain *c) {
    make_system(c);
    nm_arena *a = nm_arena_create(c->port, (nm_arena_options){.hint = 1000, .grow = true, .patterns = true});
    link_core(c, a, nm_arena_port(a), arena_destroy, arena_check);
    c->hand_over[c->links - 1] = arena_hand_over;
    c->reuses = false;
}
static void link_stack(chain *c, bool patterns) {
    make_system(c);
    nm_stack *s = nm_stack_create(c->port, 64 << 20, patterns);
    link_core(c, s, nm_stack_port(s), stack_destroy, stack_check);
    c->hand_over[c->links - 1] = stack_hand_over;
    c->lifo = true;
}
static void make_stack(chain *c) { link_stack(c, false); }
static void make_pattern_stack(chain *c) { link_stack(c, true); }
static void make_pool(chain *c) {
    make_system(c);
    c->most = 25 * 4096; /* a multiple of every alignment that there is */
    nm_pool *p = nm_pool_create(c->port, c->most, 300, false);
    link_core(c, p, nm_pool_port(p), pool_destroy, pool_check);
    c->hand_over[c->links - 1] = pool_hand_over;
}
static void make_growing_pool(chain *c) {
    make_arena(c);
    c->most = 25 * 4096;
    nm_pool *p = nm_pool_create(c->port, c->most, 1, true);
    link_core(c, p, nm_pool_port(p), pool_destroy, pool_check);
    c->hand_over[c->links - 1] = pool_hand_over;
    c->reuses = true;
}
static void make_slab(chain *c) {
    static const size_t bins[] = {32, 48, 64, 256, 4096};
    make_system(c);
    nm_slab *s = nm_slab_create(c->port, bins, 5, false);
    link_core(c, s, nm_slab_port(s), slab_destroy, slab_check);
    c->hand_over[c->links - 1] = slab_hand_over;
}
static void make_slab_on_arena(chain *c) {
    static const size_t bins[] = {128};
    make_arena(c);
    nm_slab *s = nm_slab_create(c->port, bins, 1, true);
    link_core(c, s, nm_slab_port(s), slab_destroy, slab_check);
    c->hand_over[c->links - 1] = slab_hand_over;
    c->reuses = true;
}
static void link_heap(chain *c, bool secure) {
    nm_heap *h = nm_heap_create(NULL, secure);
    link_core(c, h, nm_heap_port(h), heap_destroy, heap_check);
    c->reuses = true;
}
static void make_heap(chain *c) { link_heap(c, false); }
static void make_secure_heap(chain *c) { link_heap(c, true); }

static void wrap_limited(chain *c) {
    c->budget = nm_budget_create((size_t)1 << 40, NULL, NULL);
    nm_limited *l = nm_limited_create(c->port, c->budget);
    link_core(c, l, nm_limited_port(l), limited_destroy, limited_check);
    c->limited = true;
}
static uintptr_t somewhere(void *context) { return ++*(uintptr_t *)context; }
static void wrap_traced(chain *c) { /* every other one knows where its blocks came from */
    static uintptr_t sites;
    static unsigned turn;
    nm_traced_options o = {.histogram = true, .site = turn++ % 2 == 0 ? somewhere : NULL, .context = &sites};
    nm_traced *t = nm_traced_create(c->port, o);
    link_core(c, t, nm_traced_port(t), traced_destroy, traced_check);
    c->limited = false;
}
static void wrap_failing(chain *c) { /* which does not */
    nm_failing *f = nm_failing_create(c->port, 0, true);
    link_core(c, f, nm_failing_port(f), failing_destroy, failing_check);
    c->limited = false;
}
static void wrap_verified(chain *c) { /* at each level in turn but OFF, which counts nothing of its own */
    static unsigned turn;
    nm_verified *v = nm_verified_create(c->port, (nm_verification)(1 + turn++ % 5), 1);
    link_core(c, v, nm_verified_port(v), verified_destroy, verified_check);
    c->limited = false;
}
static void wrap_locked(chain *c) {
    nm_locked *l = nm_locked_create(c->port);
    for (int i = c->links; i-- > 0;)
        if (c->hand_over[i] != NULL) {
            CHECK(c->hand_over[i](c->cores[i], nm_locked_thread(l)) == NM_OK);
            CHECK(c->hand_over[i](c->cores[i], 1) == NM_WRONG_THREAD); /* it is no longer ours to give */
        }
    link_core(c, l, nm_locked_port(l), locked_destroy, locked_check);
    c->limited = false;
}

static const struct {
    const char *name;
    void (*make)(chain *);
} nouns[] = {{"system", make_system},
             {"arena", make_arena},
             {"fixed arena", make_fixed_arena},
             {"arena with patterns", make_pattern_arena},
             {"stack", make_stack},
             {"stack with patterns", make_pattern_stack},
             {"pool", make_pool},
             {"growing pool", make_growing_pool},
             {"slab", make_slab},
             {"slab on arena", make_slab_on_arena},
             {"heap", make_heap},
             {"secure heap", make_secure_heap}};
#define NOUNS (sizeof nouns / sizeof *nouns)

/* Any of them, in any order, from the bottom up; a letter for each. */
static const struct {
    char letter;
    void (*wrap)(chain *);
} wraps[] = {{'L', wrap_limited}, {'T', wrap_traced}, {'F', wrap_failing}, {'K', wrap_locked}, {'V', wrap_verified}};
#define WRAPS (sizeof wraps / sizeof *wraps)
#define DEEPEST 3
#define ORDERS 86 /* of none, one, two or three of five */
static char orders[ORDERS][WRAPS + 1];

static size_t find_orders(const char *begin, size_t count) {
    strcpy(orders[count++], begin);
    for (size_t i = 0; strlen(begin) < DEEPEST && i < WRAPS; i++) {
        char longer[WRAPS + 1] = {0};
        if (strchr(begin, wraps[i].letter) != NULL) continue;
        strcpy(longer, begin);
        longer[strlen(begin)] = wraps[i].letter;
        count = find_orders(longer, count);
    }
    return count;
}

static chain make(size_t noun, size_t order) {
    chain c = {0};
    nouns[noun].make(&c);
    for (const char *letter = orders[order]; *letter != 0; letter++)
        for (size_t i = 0; i < WRAPS; i++)
            if (wraps[i].letter == *letter) wraps[i].wrap(&c);
    return c;
}
static void sound(chain *c) {
    for (int i = 0; i < c->links; i++) SOUND(c->check[i](c->cores[i]));
    if (c->budget != NULL) SOUND(nm_budget_check(c->budget));
}
static void unmake(chain *c) {
    sound(c);
    while (c->links > 0) {
        c->links--;
        c->destroy[c->links](c->cores[c->links]);
    }
    nm_budget_destroy(c->budget);
}
static nm_stats stats(const chain *c) {
    nm_stats s;
    c->port.methods->stats(c->port.self, &s);
    return s;
}

static void test_every_alignment(chain c) {
    for (size_t align = 1; align <= NM_ALIGN_MAX; align *= 2) {
        for (size_t size = 1; size < 100000; size = size * 3 + 1) {
            void *ptr = nm_alloc(c.port, size, align);
            CHECK(ptr != NULL && nm_is_aligned((uintptr_t)ptr, align));
            memset(ptr, 0xAB, size);
            CHECK(nm_free(c.port, ptr, size, align) == NM_OK);
        }
        sound(&c);
    }
    void *strict = c.port.methods->alloc(c.port.self, 1000, NM_PORT_ALIGN_MAX);
    if (strict != NULL) { /* a fixed arena, a stack and a pool have no place for it */
        CHECK(nm_is_aligned((uintptr_t)strict, NM_PORT_ALIGN_MAX));
        memset(strict, 1, 1000);
        CHECK(c.port.methods->free(c.port.self, strict, 1000, NM_PORT_ALIGN_MAX) == NM_OK);
    }
    unmake(&c);
}

static void test_zero_and_bad_layouts(chain c) {
    nm_stats before = stats(&c);
    void *empty = nm_alloc(c.port, 0, 4096);
    CHECK(empty != NULL && nm_is_aligned((uintptr_t)empty, 4096));
    CHECK(nm_free(c.port, empty, 0, 4096) == NM_OK && nm_free(c.port, NULL, 10, 1) == NM_OK);
    const size_t bad[][2] = {{NM_SIZE_MAX + 1, 16}, {SIZE_MAX, 16}, {1, 0}, {1, 3}, {1, 8192}, {1, SIZE_MAX}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK(nm_alloc(c.port, bad[i][0], bad[i][1]) == NULL);
        CHECK(nm_last_failure().status == NM_INVALID_LAYOUT);
    }
    CHECK(nm_calloc(c.port, SIZE_MAX / 2, 3, 16) == NULL && nm_last_failure().status == NM_INVALID_LAYOUT);
    nm_stats after = stats(&c);
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    void *kept = nm_alloc(c.port, 100, 16);
    before = stats(&c);
    CHECK(nm_realloc(c.port, kept, 100, SIZE_MAX, 16) == NULL && nm_last_failure().status == NM_INVALID_LAYOUT);
    CHECK(nm_realloc(c.port, kept, 100, 90, 3) == NULL && nm_last_failure().status == NM_INVALID_LAYOUT);
    after = stats(&c);
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    CHECK(nm_free(c.port, kept, 100, 16) == NM_OK);
    unmake(&c);
}

static void test_refusal_changes_nothing(chain c) {
    void *kept = nm_alloc(c.port, 100, 16);
    fill(kept, 100, 1);
    nm_stats before = stats(&c);
    CHECK(nm_alloc(c.port, NM_SIZE_MAX, 16) == NULL);
    nm_status status = nm_last_failure().status;
    bool want = status == NM_OUT_OF_MEMORY || status == NM_EXHAUSTED || status == NM_OVER_BUDGET ||
                status == NM_CAPACITY_EXCEEDED;
    CHECK(want || (status == NM_INVALID_LAYOUT && c.most != 0));
    nm_stats after = stats(&c);
    CHECK(after.failures == before.failures + want);
    after.failures = before.failures;
    CHECK(memcmp(&before, &after, sizeof before) == 0 && filled(kept, 100, 1));
    if (c.limited) {
        nm_budget_set_limit(c.budget, nm_budget_used(c.budget) + 49);
        CHECK(nm_alloc(c.port, 50, 16) == NULL && nm_last_failure().status == NM_OVER_BUDGET);
        void *fits = nm_alloc(c.port, 49, 16);
        CHECK(fits != NULL && nm_free(c.port, fits, 49, 16) == NM_OK);
        before = stats(&c);
        CHECK(!c.port.methods->resize(c.port.self, kept, 100, 150, 16) && nm_last_failure().status == NM_OVER_BUDGET);
        after = stats(&c);
        CHECK(after.failures == before.failures + 1 && after.used == before.used && after.peak == before.peak);
        CHECK(nm_budget_used(c.budget) == after.used && filled(kept, 100, 1));
    }
    CHECK(nm_free(c.port, kept, 100, 16) == NM_OK);
    unmake(&c);
}

static void test_counters(chain c) {
    void *a = nm_alloc(c.port, 100, 16), *b = nm_alloc(c.port, 200, 64);
    nm_stats s = stats(&c);
    CHECK(s.used == 300 && s.peak == 300 && s.total == 300 && s.live == 2 && s.count == 2 && s.frees == 0);
    CHECK(s.reserved >= s.used);
    CHECK(nm_free(c.port, c.lifo ? b : a, c.lifo ? 200 : 100, c.lifo ? 64 : 16) == NM_OK);
    s = stats(&c);
    CHECK(s.frees == 1 && s.peak == 300 && s.total == 300);
    if (c.reuses) CHECK(s.used == (c.lifo ? 100U : 200U) && s.live == 1);
    CHECK(nm_free(c.port, c.lifo ? a : b, c.lifo ? 100 : 200, c.lifo ? 16 : 64) == NM_OK);
    if (c.reuses) CHECK(stats(&c).used == 0 && stats(&c).live == 0);
    unmake(&c);
}

static void test_resize_and_realloc(chain c) {
    uint64_t seed = 88172645463325252U;
    for (int round = 0; round < 400; round++) {
        size_t old = 1 + below(&seed, round % 5 == 0 ? 60000 : 600);
        size_t size = 1 + below(&seed, round % 7 == 0 ? 60000 : 600);
        unsigned char *ptr = nm_alloc(c.port, old, 16);
        fill(ptr, old, 5);
        nm_stats before = stats(&c);
        bool done = c.port.methods->resize(c.port.self, ptr, old, size, 16);
        nm_stats after = stats(&c);
        if (done) {
            CHECK(filled(ptr, old < size ? old : size, 5));
            CHECK(after.used == before.used + size - old && after.live == before.live);
            CHECK(after.total == before.total + (size > old ? size - old : 0) && after.count == before.count);
            memset(ptr, 1, size);
        } else {
            CHECK(memcmp(&before, &after, sizeof before) == 0 && filled(ptr, old, 5));
            size = old;
        }
        if (c.limited) CHECK(nm_budget_used(c.budget) == stats(&c).used);
        fill(ptr, size, 6);
        size_t moved = 1 + below(&seed, 3000);
        ptr = nm_realloc(c.port, ptr, size, moved, 16);
        CHECK(ptr != NULL && filled(ptr, size < moved ? size : moved, 6));
        CHECK(nm_free(c.port, ptr, moved, 16) == NM_OK);
        if (round % 50 == 0) sound(&c);
    }
    nm_stats before_move;
    unsigned char *stays = nm_alloc(c.port, 100, 16);
    CHECK(nm_realloc(c.port, stays, 100, 98, 16) == stays && nm_free(c.port, stays, 98, 16) == NM_OK);
    unsigned char *fresh = nm_realloc(c.port, NULL, 0, 64, 16), *zeroed = nm_calloc(c.port, 10, 30, 16);
    CHECK(fresh != NULL && zeroed != NULL);
    for (size_t i = 0; i < 300; i++) CHECK(zeroed[i] == 0);
    if (c.lifo) { /* moving would leave a hole below */
        before_move = stats(&c);
        CHECK(nm_realloc(c.port, fresh, 64, 100, 16) == NULL && nm_last_failure().status == NM_LIFO_VIOLATION);
        CHECK(stats(&c).used == before_move.used && stats(&c).live == before_move.live);
    }
    CHECK(nm_free(c.port, zeroed, 300, 16) == NM_OK);
    CHECK(nm_realloc(c.port, fresh, 64, 0, 16) != NULL);
    if (c.reuses) CHECK(stats(&c).used == 0 && stats(&c).live == 0);
    unmake(&c);
}

/* Whichever block is resized, and however, the others keep their place and contents. */
static void test_resize_beside_others(chain c) {
    enum { BLOCKS = 12 };
    unsigned char *blocks[BLOCKS];
    size_t size[BLOCKS];
    uint64_t seed = 271828;
    for (size_t i = 0; i < BLOCKS; i++) {
        size[i] = 1 + below(&seed, 200);
        blocks[i] = nm_alloc(c.port, size[i], 16);
        fill(blocks[i], size[i], (unsigned)i);
    }
    for (int step = 0; step < 500; step++) {
        size_t i = below(&seed, BLOCKS), to = 1 + below(&seed, step % 3 == 0 ? 300 : size[i]);
        nm_stats before = stats(&c);
        if (c.port.methods->resize(c.port.self, blocks[i], size[i], to, 16)) {
            CHECK(filled(blocks[i], size[i] < to ? size[i] : to, (unsigned)i));
            CHECK(stats(&c).used == before.used + to - size[i]);
            size[i] = to;
            fill(blocks[i], to, (unsigned)i);
        } else {
            CHECK(stats(&c).used == before.used);
        }
        if (step % 50 == 0) {
            unsigned char *above = nm_alloc(c.port, 40, 16); /* may not lie on what is live either */
            fill(above, 40, 99);
            CHECK(nm_free(c.port, above, 40, 16) == NM_OK);
        }
        for (size_t k = 0; k < BLOCKS; k++) CHECK(filled(blocks[k], size[k], (unsigned)k));
        if (step % 10 == 0) sound(&c);
    }
    for (size_t i = BLOCKS; i-- > 0;) CHECK(nm_free(c.port, blocks[i], size[i], 16) == NM_OK);
    if (c.reuses) CHECK(stats(&c).used == 0);
    unmake(&c);
}

/* Blocks of many sizes, in any order; each must keep its contents until it is freed. */
static void test_programs(chain c) {
    enum { SLOTS = 200 };
    struct {
        unsigned char *ptr;
        size_t size, align;
    } slots[SLOTS] = {0};
    uint64_t seed = 0x9E3779B97F4A7C15U;
    size_t used = 0, newest[SLOTS], live = 0;
    for (int step = 0; step < 6000; step++) {
        size_t i = below(&seed, SLOTS);
        if (slots[i].ptr != NULL) {
            if (c.lifo) i = newest[--live];
            CHECK(filled(slots[i].ptr, slots[i].size, (unsigned)i));
            CHECK(nm_free(c.port, slots[i].ptr, slots[i].size, slots[i].align) == NM_OK);
            used -= slots[i].size;
            slots[i].ptr = NULL;
        } else {
            size_t scale = step % 100 == 0 ? 100000 : step % 10 == 0 ? 5000 : 300;
            slots[i].size = 1 + below(&seed, scale);
            slots[i].align = (size_t)1 << below(&seed, step % 20 == 0 ? 13 : 5);
            slots[i].ptr = nm_alloc(c.port, slots[i].size, slots[i].align);
            CHECK(slots[i].ptr != NULL);
            if (slots[i].ptr == NULL) break;
            fill(slots[i].ptr, slots[i].size, (unsigned)i);
            used += slots[i].size;
            if (c.lifo) newest[live++] = i;
        }
        if (c.reuses) CHECK(stats(&c).used == used);
        if (step % 200 == 0) sound(&c);
    }
    for (size_t n = 0; n < SLOTS; n++) {
        size_t i = c.lifo && live > 0 ? newest[--live] : n;
        if (slots[i].ptr == NULL) continue;
        CHECK(filled(slots[i].ptr, slots[i].size, (unsigned)i));
        CHECK(nm_free(c.port, slots[i].ptr, slots[i].size, slots[i].align) == NM_OK);
        slots[i].ptr = NULL;
    }
    if (c.reuses) CHECK(stats(&c).used == 0 && stats(&c).live == 0);
    if (c.budget != NULL) CHECK(nm_budget_used(c.budget) == 0);
    unmake(&c);
}

int main(void) {
    if (nm_region_init((size_t)64 << 30, (size_t)64 << 20, 1000) != NM_OK) return 2;
    CHECK(find_orders("", 0) == ORDERS);
    const char *every = getenv("NM_TEST_EVERY"); /* so many orders, where all take too long */
    size_t step = every != NULL ? (size_t)atoi(every) : 1;
    for (size_t noun = 0; noun < NOUNS; noun++) {
        for (size_t wrap = 0; wrap < ORDERS; wrap += step) {
            int before = failed_tests_;
            RUN(test_every_alignment(make(noun, wrap)));
            RUN(test_zero_and_bad_layouts(make(noun, wrap)));
            RUN(test_refusal_changes_nothing(make(noun, wrap)));
            RUN(test_counters(make(noun, wrap)));
            RUN(test_resize_and_realloc(make(noun, wrap)));
            RUN(test_resize_beside_others(make(noun, wrap)));
            RUN(test_programs(make(noun, wrap)));
            if (failed_tests_ != before) fprintf(stderr, "  on %s, %s\n", nouns[noun].name, orders[wrap]);
        }
    }
    return finish();
}
