/* What the port does not show of arena and slab. */
#include <pthread.h>

#include "base/poison.h"
#include "harness.h"
#include "nativemem.h"

static nm_system *system_;
static size_t taken(void) {
    nm_stats s;
    nm_allocator port = nm_system_port(system_);
    port.methods->stats(port.self, &s);
    return s.used;
}
static nm_stats stats_of(nm_allocator port) {
    nm_stats s;
    port.methods->stats(port.self, &s);
    return s;
}

static void test_chunks_double_up_to_the_cap(void) {
    nm_arena *a = nm_arena_create(nm_system_port(system_), (nm_arena_options){.hint = 1000, .cap = 10000, .grow = true});
    nm_allocator port = nm_arena_port(a);
    CHECK(taken() == 0);
    CHECK(nm_alloc(port, 1, 1) != NULL && taken() == 1000);
    CHECK(nm_alloc(port, 1000, 1) != NULL && taken() == 3000);
    CHECK(nm_alloc(port, 2000, 1) != NULL && taken() == 7000);
    CHECK(nm_alloc(port, 3001, 1) == NULL && nm_last_failure().status == NM_EXHAUSTED);
    CHECK(nm_last_failure().used == 7000 && nm_last_failure().limit == 10000);
    CHECK(nm_alloc(port, 3000, 1) != NULL && taken() == 10000); /* clamped to what is left */
    CHECK(nm_alloc(port, 1, 1) == NULL && nm_alloc(port, 1000, 1) == NULL);
    SOUND(nm_arena_check(a));
    CHECK(nm_arena_reset(a) == NM_OK && taken() == 3000 && stats_of(port).used == 0 && stats_of(port).peak == 6001);
    CHECK(nm_alloc(port, 10, 1) != NULL && stats_of(port).peak == 6001);
    CHECK(nm_arena_generation(a) == 2);
    CHECK(nm_arena_clear(a) == NM_OK && taken() == 0);
    SOUND(nm_arena_check(a));
    nm_arena_destroy(a);
}

static void test_bad_hints(void) {
    const size_t bad[] = {0, NM_SIZE_MAX + 1, SIZE_MAX};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK(nm_arena_create(nm_system_port(system_), (nm_arena_options){.hint = bad[i], .grow = true}) == NULL);
        CHECK(nm_last_failure().status == NM_INVALID_LAYOUT);
    }
}

static void test_to_the_last_byte(void) {
    nm_arena *a = nm_arena_create(nm_system_port(system_), (nm_arena_options){.hint = 1000});
    nm_allocator port = nm_arena_port(a);
    char *first = nm_alloc(port, 600, 1), *last = nm_alloc(port, 400, 1);
    CHECK(first != NULL && last == first + 600 && nm_alloc(port, 1, 1) == NULL && nm_arena_largest_free(a) == 0);
    CHECK(port.methods->resize(port.self, first, 600, 600, 1)); /* nothing to do */
    CHECK(!port.methods->resize(port.self, last, 400, 401, 1));
    CHECK(port.methods->resize(port.self, last, 400, 10, 1) && port.methods->resize(port.self, last, 10, 400, 1));
    CHECK(nm_arena_reset(a) == NM_OK && nm_alloc(port, 1000, 1) == first && nm_alloc(port, 1, 1) == NULL);
    nm_arena_destroy(a);
    a = nm_arena_create(nm_system_port(system_), (nm_arena_options){.hint = 1000, .cap = 999}); /* fixed, and capped */
    CHECK(nm_alloc(nm_arena_port(a), 1000, 1) == NULL && nm_alloc(nm_arena_port(a), 999, 1) != NULL && taken() == 999);
    SOUND(nm_arena_check(a));
    nm_arena_destroy(a);
    a = nm_arena_create(nm_system_port(system_), (nm_arena_options){.hint = 1000, .cap = 6000, .grow = true});
    CHECK(nm_alloc(nm_arena_port(a), 1, 1) != NULL && nm_alloc(nm_arena_port(a), 5001, 1) == NULL);
    CHECK(nm_alloc(nm_arena_port(a), 5000, 1) != NULL && taken() == 6000); /* one of its own, all that is left */
    SOUND(nm_arena_check(a));
    nm_arena_destroy(a);
    CHECK(taken() == 0);
}

/* What it says is served, and a byte more is not. */
static void check_largest(nm_arena *a, size_t expected) {
    nm_arena_mark mark;
    CHECK(nm_arena_largest_free(a) == expected && nm_arena_take_mark(a, &mark) == NM_OK);
    if (expected < NM_SIZE_MAX) CHECK(nm_alloc(nm_arena_port(a), expected + 1, 1) == NULL);
    if (expected < NM_SIZE_MAX) CHECK(nm_alloc(nm_arena_port(a), expected, 1) != NULL);
    CHECK(nm_arena_release(a, &mark) == NM_OK && nm_arena_largest_free(a) == expected);
}

static void test_largest_free(void) {
    nm_arena *a = nm_arena_create(nm_system_port(system_), (nm_arena_options){.hint = 1000, .cap = 5000});
    CHECK(nm_arena_largest_free(a) == 1000 && nm_alloc(nm_arena_port(a), 100, 1) != NULL);
    check_largest(a, 900);
    CHECK(nm_arena_clear(a) == NM_OK && nm_arena_largest_free(a) == 1000);
    nm_arena_destroy(a);
    a = nm_arena_create(nm_system_port(system_), (nm_arena_options){.hint = 1000, .cap = 2500, .grow = true});
    CHECK(nm_arena_largest_free(a) == 2500 && nm_alloc(nm_arena_port(a), 100, 1) != NULL);
    check_largest(a, 1500); /* a chunk of its own */
    CHECK(nm_alloc(nm_arena_port(a), 1100, 1) != NULL); /* the next chunk has all that is left */
    check_largest(a, 400);
    nm_arena_destroy(a);
    a = nm_arena_create(nm_system_port(system_), (nm_arena_options){.hint = 1000, .grow = true});
    check_largest(a, NM_SIZE_MAX);
    nm_arena_destroy(a);
    CHECK(taken() == 0);
}

static void test_large_blocks_get_their_own_chunk(void) {
    nm_arena *a = nm_arena_create(nm_system_port(system_), (nm_arena_options){.hint = 1000, .grow = true});
    nm_allocator port = nm_arena_port(a);
    char *small = nm_alloc(port, 10, 1), *large = nm_alloc(port, 5000, 1), *next = nm_alloc(port, 10, 1);
    CHECK(next == small + 10 && taken() == 6000); /* the head goes on being filled */
    fill(large, 5000, 3);
    nm_arena_mark mark;
    CHECK(nm_arena_take_mark(a, &mark) == NM_OK);
    CHECK(nm_alloc(port, 7000, 1) != NULL && nm_alloc(port, 1500, 1) != NULL && taken() == 15000);
    CHECK(nm_arena_release(a, &mark) == NM_OK && taken() == 6000 && filled(large, 5000, 3));
    CHECK(nm_alloc(port, 10, 1) == next + 10);
    SOUND(nm_arena_check(a));
    nm_arena_destroy(a);
    CHECK(taken() == 0);
    a = nm_arena_create(nm_system_port(system_), (nm_arena_options){.hint = 1000, .grow = true});
    port = nm_arena_port(a);
    large = nm_alloc(port, 5000, 1); /* before there is a head */
    CHECK(!port.methods->resize(port.self, large, 5000, 5001, 1) && !port.methods->resize(port.self, large, 5000, 1, 1));
    SOUND(nm_arena_check(a));
    nm_arena_destroy(a);
}

static void test_marks(void) {
    nm_arena *a = nm_arena_create(nm_system_port(system_), (nm_arena_options){.hint = 1000, .grow = true});
    nm_arena *b = nm_arena_create(nm_system_port(system_), (nm_arena_options){.hint = 1000, .grow = true});
    nm_allocator port = nm_arena_port(a);
    nm_arena_mark first, second, ahead;
    CHECK(nm_arena_take_mark(a, &first) == NM_OK);
    char *block = nm_alloc(port, 100, 16);
    CHECK(nm_arena_take_mark(a, &second) == NM_OK);
    CHECK(nm_alloc(port, 50, 16) != NULL && nm_arena_take_mark(a, &ahead) == NM_OK);
    CHECK(!port.methods->resize(port.self, block, 100, 200, 16)); /* older than a mark */
    CHECK(nm_arena_release(b, &second) == NM_INVALID_MARK);
    CHECK(nm_arena_release(a, &second) == NM_OK && stats_of(port).used == 100 && stats_of(port).live == 1);
    CHECK(nm_arena_release(a, &ahead) == NM_INVALID_MARK && stats_of(port).used == 100);
    CHECK(nm_arena_release(a, &first) == NM_OK && stats_of(port).used == 0);
    SOUND(nm_arena_check(a));
    CHECK(nm_alloc(port, 1, 1) != NULL && nm_alloc(port, 1, 64) != NULL && nm_arena_take_mark(a, &ahead) == NM_OK);
    CHECK(nm_arena_release(a, &first) == NM_OK);
    CHECK(nm_alloc(port, 1, 1) != NULL && nm_alloc(port, 1, 1) != NULL); /* as many bytes and blocks, less padding */
    CHECK(nm_arena_release(a, &ahead) == NM_INVALID_MARK && stats_of(port).used == 2);
    CHECK(nm_arena_release(a, &first) == NM_OK && stats_of(port).used == 0);
    SOUND(nm_arena_check(a));
    CHECK(nm_alloc(port, 100, 16) == block);
    CHECK(port.methods->resize(port.self, block, 100, 200, 16));
    CHECK(nm_arena_take_mark(a, &second) == NM_OK && nm_arena_reset(a) == NM_OK);
    CHECK(nm_arena_release(a, &second) == NM_INVALID_MARK); /* an earlier generation */
    for (int i = 0; i < 3; i++) CHECK(nm_alloc(port, 300, 16) != NULL);
    CHECK(nm_arena_release(a, &second) == NM_INVALID_MARK && stats_of(port).used == 900);
    for (int i = 0; i < 3; i++) CHECK(nm_alloc(nm_arena_port(b), 300, 16) != NULL);
    CHECK(nm_arena_reset(b) == NM_OK && nm_arena_take_mark(b, &first) == NM_OK); /* a twin's, alike in all else */
    CHECK(nm_arena_release(a, &first) == NM_INVALID_MARK && nm_arena_release(b, &first) == NM_OK);
    CHECK(stats_of(port).used == 900);
    nm_arena_destroy(a);
    nm_arena_destroy(b);
    CHECK(taken() == 0);
}

static void test_wiping(void) {
    nm_arena *a = nm_arena_create(nm_system_port(system_), (nm_arena_options){.hint = 1000, .zero_on_free = true});
    char *block = nm_alloc(nm_arena_port(a), 500, 1);
    memset(block, 7, 500);
    CHECK(nm_arena_reset(a) == NM_OK);
    CHECK(nm_alloc(nm_arena_port(a), 500, 1) == block);
    NM_REOPEN(block, 500);
    for (int i = 0; i < 500; i++) CHECK(block[i] == 0);
    nm_arena_destroy(a);
}

/* An upstream that keeps what it gave and looks at it when it comes back: `secret` must not be in it. */
static struct {
    nm_allocator under;
    unsigned char secret;
    int found, given;
} witness;
static void *witness_alloc(void *self, size_t size, size_t align) {
    (void)self;
    void *ptr = witness.under.methods->alloc(witness.under.self, size, align);
    if (ptr != NULL) memset(ptr, 0, size), witness.given++;
    return ptr;
}
static bool witness_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    (void)self, (void)ptr, (void)old, (void)size, (void)align;
    return false;
}
static nm_status witness_free(void *self, void *ptr, size_t size, size_t align) {
    (void)self;
    const unsigned char *bytes = ptr;
    size_t run = 0; /* a single byte may be of an address */
    witness.given--;
    NM_REOPEN(ptr, size);
    for (size_t i = 0; i < size && run < 8; i++) run = bytes[i] == witness.secret ? run + 1 : 0;
    witness.found += run == 8;
    return witness.under.methods->free(witness.under.self, ptr, size, align);
}
static void witness_stats(void *self, nm_stats *out) {
    (void)self;
    witness.under.methods->stats(witness.under.self, out);
}
static nm_allocator witness_port(unsigned char secret) {
    static const nm_methods methods = {witness_alloc, witness_resize, witness_free, witness_stats};
    witness.under = nm_system_port(system_);
    witness.secret = secret;
    witness.found = witness.given = 0;
    return (nm_allocator){&witness, &methods};
}

/* Takes chunks and own chunks, drops some by release, some by reset, the rest by destroy. */
static void keep_secrets(nm_allocator upstream, bool zero_on_free) {
    nm_arena *a = nm_arena_create(upstream, (nm_arena_options){.hint = 300, .grow = true, .zero_on_free = zero_on_free});
    nm_allocator port = nm_arena_port(a);
    nm_arena_mark mark;
    for (int round = 0; round < 4; round++) {
        memset(nm_alloc(port, 200, 16), witness.secret, 200);
        CHECK(nm_arena_take_mark(a, &mark) == NM_OK);
        for (size_t size = 50; size < 20000; size *= 3) memset(nm_alloc(port, size, 16), witness.secret, size);
        char *last = nm_alloc(port, 100, 16);
        memset(last, witness.secret, 100);
        CHECK(port.methods->resize(port.self, last, 100, 40, 16));
        if (round % 2 == 0) CHECK(nm_arena_release(a, &mark) == NM_OK);
        if (round == 1) CHECK(nm_arena_reset(a) == NM_OK);
    }
    nm_arena_destroy(a);
    CHECK(witness.given == 0);
}
static void test_nothing_readable_goes_back_upstream(void) {
    keep_secrets(witness_port(0xA7), true);
    CHECK(witness.found == 0);
    keep_secrets(witness_port(0xA7), false);
    CHECK(witness.found > 0);
    static const size_t bins[] = {32, 256};
    for (int zero = 0; zero < 2; zero++) {
        nm_slab *s = nm_slab_create(witness_port(0xA7), bins, 2, zero != 0);
        char *cells[600];
        for (int i = 0; i < 600; i++) memset(cells[i] = nm_alloc(nm_slab_port(s), 200, 16), 0xA7, 200);
        for (int i = 0; i < 600; i++) CHECK(nm_free(nm_slab_port(s), cells[i], 200, 16) == NM_OK);
        nm_slab_destroy(s);
        CHECK(witness.given == 0 && (witness.found == 0) == (zero != 0));
    }
}

/* An upstream that says no: nothing changes but the failures, and the reason is the upstream's. */
static void test_refusals_of_the_upstream(void) {
    nm_budget *b = nm_budget_create(5000, NULL, NULL);
    nm_limited *l = nm_limited_create(nm_system_port(system_), b);
    nm_arena *a = nm_arena_create(nm_limited_port(l), (nm_arena_options){.hint = 1000, .grow = true});
    nm_allocator port = nm_arena_port(a);
    char *first = nm_alloc(port, 900, 16);
    fill(first, 900, 1);
    CHECK(nm_alloc(port, 1500, 16) != NULL && nm_budget_used(b) == 3000);
    nm_stats before = stats_of(port);
    CHECK(nm_alloc(port, 900, 16) == NULL && nm_last_failure().status == NM_OVER_BUDGET); /* wants a chunk of 4000 */
    CHECK(nm_alloc(port, 4001, 16) == NULL && nm_last_failure().status == NM_OVER_BUDGET); /* and one of its own */
    nm_stats after = stats_of(port);
    CHECK(after.failures == before.failures + 2);
    after.failures = before.failures;
    CHECK(memcmp(&before, &after, sizeof before) == 0 && filled(first, 900, 1));
    SOUND(nm_arena_check(a));
    CHECK(nm_alloc(port, 400, 16) != NULL); /* there was room in the chunk */
    CHECK(nm_arena_reset(a) == NM_OK && nm_budget_used(b) == 2000);
    nm_arena_destroy(a);
    static const size_t bins[] = {64};
    nm_slab *s = nm_slab_create(nm_limited_port(l), bins, 1, false);
    CHECK(nm_alloc(nm_slab_port(s), 64, 16) == NULL && nm_last_failure().status == NM_OVER_BUDGET);
    CHECK(nm_alloc(nm_slab_port(s), 5001, 16) == NULL && stats_of(nm_slab_port(s)).failures == 2);
    SOUND(nm_slab_check(s));
    nm_budget_set_limit(b, 70000);
    void *cell = nm_alloc(nm_slab_port(s), 64, 16), *large = nm_alloc(nm_slab_port(s), 4000, 16);
    CHECK(cell != NULL && large != NULL && nm_budget_used(b) == 65536 + 4000);
    CHECK(stats_of(nm_slab_port(s)).reserved == 65536 + 4000);
    CHECK(nm_slab_port(s).methods->resize(s, large, 4000, 3000, 16)); /* the upstream's to do, and it can */
    CHECK(stats_of(nm_slab_port(s)).reserved == 65536 + 3000 && nm_budget_used(b) == 65536 + 3000);
    CHECK(!nm_slab_port(s).methods->resize(s, large, 3000, 64, 16)); /* would be a cell */
    CHECK(nm_free(nm_slab_port(s), large, 3000, 16) == NM_OK && nm_free(nm_slab_port(s), cell, 64, 16) == NM_OK);
    CHECK(stats_of(nm_slab_port(s)).used == 0 && stats_of(nm_slab_port(s)).reserved == 65536);
    nm_slab_destroy(s);
    CHECK(nm_budget_used(b) == 0);
    nm_limited_destroy(l);
    a = nm_arena_create(nm_system_port(system_), (nm_arena_options){.hint = 100});
    l = nm_limited_create(nm_arena_port(a), b);
    size_t denied = nm_budget_denied(b);
    CHECK(nm_alloc(nm_limited_port(l), 101, 1) == NULL && nm_last_failure().status == NM_EXHAUSTED);
    CHECK(stats_of(nm_limited_port(l)).failures == 1 && nm_budget_used(b) == 0 && nm_budget_denied(b) == denied);
    nm_limited_destroy(l);
    nm_arena_destroy(a);
    nm_budget_destroy(b);
}

/* Marks that are used up or newer than one already released: refused or harmless, the arena stays sound. */
static void test_marks_against_the_rules(void) {
    uint64_t seed = 7919;
    for (int round = 0; round < 600; round++) {
        size_t cap = round % 3 == 0 ? 0 : 4000 + below(&seed, 8000);
        nm_arena *a = nm_arena_create(nm_system_port(system_),
                                      (nm_arena_options){.hint = 64, .cap = cap, .grow = true, .zero_on_free = round % 2 == 0});
        nm_allocator port = nm_arena_port(a);
        nm_arena_mark marks[16];
        size_t n = 0;
        for (int step = 0; step < 200; step++) {
            size_t what = below(&seed, 10);
            if (what < 6) {
                size_t size = 1 + below(&seed, below(&seed, 8) != 0 ? 200 : 3000);
                char *ptr = nm_alloc(port, size, 1);
                if (ptr != NULL) memset(ptr, 1, size);
            } else if (what < 8) {
                CHECK(nm_arena_take_mark(a, &marks[n < 16 ? n++ : below(&seed, 16)]) == NM_OK);
            } else if (n > 0) {
                nm_stats before = stats_of(port);
                nm_status status = nm_arena_release(a, &marks[below(&seed, n)]);
                nm_stats after = stats_of(port);
                CHECK(after.used <= before.used && after.live <= before.live);
                if (status != NM_OK) CHECK(status == NM_INVALID_MARK && memcmp(&before, &after, sizeof before) == 0);
            }
            SOUND(nm_arena_check(a));
        }
        nm_arena_destroy(a);
    }
    CHECK(taken() == 0);
}

static void test_arena_programs_with_marks(void) {
    nm_arena *a = nm_arena_create(nm_system_port(system_),
                                  (nm_arena_options){.hint = 200, .cap = 100000, .grow = true, .zero_on_free = true});
    nm_allocator port = nm_arena_port(a);
    enum { MOST = 400 };
    struct {
        char *ptr;
        size_t size;
    } blocks[MOST];
    struct {
        nm_arena_mark mark;
        int blocks;
    } marks[20];
    int nblocks = 0, nmarks = 0;
    uint64_t seed = 42;
    for (int step = 0; step < 20000; step++) {
        size_t what = below(&seed, 20);
        if (what == 0 && nmarks < 20) {
            CHECK(nm_arena_take_mark(a, &marks[nmarks].mark) == NM_OK);
            marks[nmarks++].blocks = nblocks;
        } else if (what == 1 && nmarks > 0) {
            nmarks = (int)below(&seed, (size_t)nmarks);
            CHECK(nm_arena_release(a, &marks[nmarks].mark) == NM_OK);
            nblocks = marks[nmarks].blocks;
        } else if (what == 2 && below(&seed, 20) == 0) {
            CHECK(nm_arena_reset(a) == NM_OK);
            nblocks = nmarks = 0;
        } else if (what == 3 && nblocks > 0) {
            size_t size = 1 + below(&seed, 300);
            bool newest = nmarks == 0 || marks[nmarks - 1].blocks < nblocks;
            char *ptr = blocks[nblocks - 1].ptr;
            size_t old = blocks[nblocks - 1].size;
            if (port.methods->resize(port.self, ptr, old, size, 16)) {
                CHECK(newest || size == old);
                CHECK(filled(ptr, old < size ? old : size, (unsigned)nblocks - 1));
                blocks[nblocks - 1].size = size;
                fill(ptr, size, (unsigned)nblocks - 1);
            }
        } else if (nblocks < MOST) {
            size_t size = 1 + below(&seed, step % 30 == 0 ? 3000 : 100);
            char *ptr = nm_alloc(port, size, (size_t)1 << below(&seed, 8));
            if (ptr == NULL) {
                CHECK(nm_last_failure().status == NM_EXHAUSTED);
                continue;
            }
            blocks[nblocks].ptr = ptr;
            blocks[nblocks].size = size;
            fill(ptr, size, (unsigned)nblocks++);
        }
        SOUND(nm_arena_check(a));
        if (step % 50 == 0)
            for (int i = 0; i < nblocks; i++) CHECK(filled(blocks[i].ptr, blocks[i].size, (unsigned)i));
    }
    nm_arena_destroy(a);
    CHECK(taken() == 0);
}

static void *call_from_elsewhere(void *arena) {
    nm_arena *a = arena;
    nm_allocator port = nm_arena_port(a);
    CHECK(nm_alloc(port, 10, 16) == NULL && nm_last_failure().status == NM_WRONG_THREAD);
    CHECK(nm_free(port, arena, 10, 16) == NM_WRONG_THREAD);
    CHECK(nm_arena_reset(a) == NM_WRONG_THREAD && nm_arena_clear(a) == NM_WRONG_THREAD);
    nm_arena_mark mark = {0};
    CHECK(nm_arena_take_mark(a, &mark) == NM_WRONG_THREAD && nm_arena_release(a, &mark) == NM_WRONG_THREAD);
    CHECK(nm_refuse(NM_OK, 0, 0, 0) == NULL); /* empties the last failure */
    CHECK(!port.methods->resize(port.self, a, 10, 5, 16) && nm_last_failure().status == NM_WRONG_THREAD);
    CHECK(nm_arena_check_thread(a) == NM_WRONG_THREAD);
    return NULL;
}
static void test_confinement(void) {
    nm_arena *a = nm_arena_create(nm_system_port(system_), (nm_arena_options){.hint = 100, .grow = true});
    pthread_t thread;
    pthread_create(&thread, NULL, call_from_elsewhere, a);
    pthread_join(thread, NULL);
    nm_stats s = stats_of(nm_arena_port(a)); /* misuse, not want of memory */
    CHECK(s.failures == 0 && s.frees == 0 && s.count == 0 && nm_arena_generation(a) == 1);
    CHECK(nm_arena_check_thread(a) == NM_OK);
    nm_arena_destroy(a);
}

static void *call_slab_from_elsewhere(void *slab) {
    nm_slab *s = slab;
    nm_allocator port = nm_slab_port(s);
    CHECK(nm_alloc(port, 10, 16) == NULL && nm_last_failure().status == NM_WRONG_THREAD);
    CHECK(nm_refuse(NM_OK, 0, 0, 0) == NULL); /* empties the last failure */
    CHECK(!port.methods->resize(port.self, s, 10, 5, 16) && nm_last_failure().status == NM_WRONG_THREAD);
    CHECK(nm_slab_trim(s) == NM_WRONG_THREAD);
    CHECK(nm_slab_check_thread(s) == NM_WRONG_THREAD);
    return NULL;
}
static void test_slab_confinement(void) {
    static const size_t bins[] = {48, 64};
    nm_slab *s = nm_slab_create(nm_system_port(system_), bins, 2, false);
    pthread_t thread;
    pthread_create(&thread, NULL, call_slab_from_elsewhere, s);
    pthread_join(thread, NULL);
    CHECK(stats_of(nm_slab_port(s)).failures == 0 && nm_slab_check_thread(s) == NM_OK);
    CHECK(nm_slab_usable(s, 10, 16) == 48 && nm_slab_usable(s, 10, 32) == 64 && nm_slab_usable(s, 49, 1) == 64);
    CHECK(nm_slab_usable(s, 65, 1) == 0 && nm_slab_usable(s, 10, 128) == 0);
    nm_slab_destroy(s);
}

static void test_slab_programs(void) {
    static const size_t bins[] = {16, 48, 1024, 4096};
    nm_slab *s = nm_slab_create(nm_system_port(system_), bins, 4, false);
    nm_allocator port = nm_slab_port(s);
    enum { SLOTS = 500 };
    struct {
        unsigned char *ptr;
        size_t size;
    } slots[SLOTS] = {0};
    uint64_t seed = 31;
    size_t used = 0, peak = 0, live = 0;
    for (int step = 0; step < 20000; step++) {
        size_t i = below(&seed, step / 4000 % 2 == 0 ? SLOTS : SLOTS / 10), size = 1 + below(&seed, 5000);
        if (step % 3 == 0) size = 1 + below(&seed, 48);
        unsigned char *ptr = slots[i].ptr;
        if (ptr != NULL && below(&seed, 4) == 0 && port.methods->resize(port.self, ptr, slots[i].size, size, 16)) {
            used += size - slots[i].size;
            slots[i].size = size;
            fill(ptr, size, (unsigned)i);
        } else if (ptr != NULL) {
            CHECK(filled(ptr, slots[i].size, (unsigned)i));
            CHECK(nm_free(port, ptr, slots[i].size, 16) == NM_OK);
            used -= slots[i].size, live--;
            slots[i].ptr = NULL;
        } else {
            fill(slots[i].ptr = nm_alloc(port, size, 16), size, (unsigned)i);
            slots[i].size = size;
            used += size, live++;
        }
        if (used > peak) peak = used;
        nm_stats now = stats_of(port);
        CHECK(now.used == used && now.peak == peak && now.live == live && now.reserved == taken());
        if (step % 8 == 0) SOUND(nm_slab_check(s));
        if (step % 1000 == 0) CHECK(nm_slab_trim(s) == NM_OK);
    }
    for (size_t i = 0; i < SLOTS; i++)
        if (slots[i].ptr != NULL) CHECK(nm_free(port, slots[i].ptr, slots[i].size, 16) == NM_OK);
    CHECK(taken() <= 4 * 65536); /* a spare for each bin */
    CHECK(nm_slab_trim(s) == NM_OK && taken() == 0 && stats_of(port).used == 0);
    SOUND(nm_slab_check(s));
    nm_slab_destroy(s);
}

static void test_superblocks_come_and_go(void) {
    static const size_t bins[] = {4096};
    nm_slab *s = nm_slab_create(nm_system_port(system_), bins, 1, false);
    nm_allocator port = nm_slab_port(s);
    void *cells[31];
    for (int i = 0; i < 15; i++) cells[i] = nm_alloc(port, 4000, 4096);
    CHECK(taken() == 65536);
    for (int i = 15; i < 31; i++) cells[i] = nm_alloc(port, 4000, 4096);
    CHECK(taken() == 3 * 65536);
    for (int i = 30; i >= 0; i--) {
        CHECK(nm_free(port, cells[i], 4000, 4096) == NM_OK);
        SOUND(nm_slab_check(s));
    }
    CHECK(taken() == 65536); /* one spare */
    size_t count = stats_of(nm_system_port(system_)).count;
    for (int i = 0; i < 15; i++) cells[i] = nm_alloc(port, 10, 16); /* all of the spare's */
    for (int i = 0; i < 100; i++) CHECK(nm_free(port, nm_alloc(port, 10, 16), 10, 16) == NM_OK); /* at the edge */
    CHECK(taken() == 2 * 65536 && stats_of(nm_system_port(system_)).count == count + 1);
    for (int i = 0; i < 15; i++) CHECK(nm_free(port, cells[i], 10, 16) == NM_OK);
    SOUND(nm_slab_check(s));
    CHECK(taken() == 65536);
    CHECK(nm_slab_trim(s) == NM_OK && taken() == 0);
    nm_slab_destroy(s);
}

static void test_bad_bins(void) {
    static const size_t bad[][2] = {{64, 32}, {64, 64}, {8, 16}, {0, 16}, {24, 32}, {16, 4112}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        CHECK(nm_slab_create(nm_system_port(system_), bad[i], 2, false) == NULL);
        CHECK(nm_last_failure().status == NM_INVALID_LAYOUT);
    }
    CHECK(nm_slab_create(nm_system_port(system_), NULL, 0, false) == NULL);
}

typedef struct batch {
    nm_allocator port;
    void *cells[3000];
} batch;
static void *free_elsewhere(void *arg) {
    batch *b = arg;
    for (int i = 0; i < 3000; i++) CHECK(nm_free(b->port, b->cells[i], 60, 16) == NM_OK);
    return NULL;
}
static void test_frees_from_other_threads(void) {
    static const size_t bins[] = {64};
    static batch batches[2];
    nm_slab *s = nm_slab_create(nm_system_port(system_), bins, 1, false);
    for (int b = 0; b < 2; b++) {
        batches[b].port = nm_slab_port(s);
        for (int i = 0; i < 3000; i++) fill(batches[b].cells[i] = nm_alloc(nm_slab_port(s), 60, 16), 60, 1);
    }
    pthread_t threads[2];
    for (int b = 0; b < 2; b++) pthread_create(&threads[b], NULL, free_elsewhere, &batches[b]);
    for (int i = 0; i < 3000; i++) { /* meanwhile the owner goes on */
        void *ptr = nm_alloc(nm_slab_port(s), 64, 16);
        fill(ptr, 64, 2);
        CHECK(nm_free(nm_slab_port(s), ptr, 64, 16) == NM_OK);
    }
    for (int b = 0; b < 2; b++) pthread_join(threads[b], NULL);
    CHECK(stats_of(nm_slab_port(s)).used == 0 && stats_of(nm_slab_port(s)).live == 0);
    CHECK(nm_slab_trim(s) == NM_OK && taken() == 0);
    SOUND(nm_slab_check(s));
    nm_slab_destroy(s);
}

/* Without a trim: the owner looks at the queue before it takes another superblock. */
static void test_what_others_freed_is_used_again(void) {
    static const size_t bins[] = {64};
    static batch batch_;
    nm_slab *s = nm_slab_create(nm_system_port(system_), bins, 1, false);
    batch_.port = nm_slab_port(s);
    size_t most = 0;
    for (int round = 0; round < 5; round++) {
        for (int i = 0; i < 3000; i++) batch_.cells[i] = nm_alloc(nm_slab_port(s), 60, 16);
        if (round == 0) most = taken();
        pthread_t thread;
        pthread_create(&thread, NULL, free_elsewhere, &batch_);
        pthread_join(thread, NULL);
        CHECK(taken() == most);
        SOUND(nm_slab_check(s));
    }
    nm_slab_destroy(s);
}

/* A free that the upstream refuses is not counted and releases nothing. */
static void *free_into_wrappers(void *arg) {
    nm_allocator *ports = arg;
    for (int i = 0; i < 2; i++) CHECK(nm_free(ports[i], nm_empty_block, 100, 16) == NM_WRONG_THREAD);
    return NULL;
}
static void test_a_refused_free_changes_no_wrapper(void) {
    nm_arena *a = nm_arena_create(nm_system_port(system_), (nm_arena_options){.hint = 1000, .grow = true});
    nm_budget *b = nm_budget_create(1000, NULL, NULL);
    nm_limited *l = nm_limited_create(nm_arena_port(a), b);
    nm_traced *t = nm_traced_create(nm_arena_port(a), (nm_traced_options){0});
    nm_allocator ports[2] = {nm_limited_port(l), nm_traced_port(t)};
    for (int i = 0; i < 2; i++) CHECK(nm_alloc(ports[i], 100, 16) != NULL);
    pthread_t thread;
    pthread_create(&thread, NULL, free_into_wrappers, ports);
    pthread_join(thread, NULL);
    for (int i = 0; i < 2; i++) CHECK(stats_of(ports[i]).used == 100 && stats_of(ports[i]).frees == 0);
    CHECK(nm_budget_used(b) == 100);
    nm_traced_destroy(t);
    nm_limited_destroy(l);
    nm_budget_destroy(b);
    nm_arena_destroy(a);
}

static void test_growing_in_place_counts_for_the_peak(void) {
    nm_budget *b = nm_budget_create(1000, NULL, NULL);
    nm_arena *a = nm_arena_create(nm_system_port(system_), (nm_arena_options){.hint = 1000, .grow = true});
    nm_limited *l = nm_limited_create(nm_arena_port(a), b);
    nm_allocator port = nm_limited_port(l);
    void *block = nm_alloc(port, 100, 16);
    CHECK(port.methods->resize(port.self, block, 100, 700, 16) && nm_budget_used(b) == 700);
    CHECK(port.methods->resize(port.self, block, 700, 50, 16) && nm_budget_used(b) == 50);
    CHECK(nm_budget_peak(b) == 700 && stats_of(port).peak == 700);
    CHECK(!port.methods->resize(port.self, block, 50, 1001, 16)); /* beyond the budget */
    nm_budget_set_limit(b, 10000);
    CHECK(!port.methods->resize(port.self, block, 50, 1001, 16)); /* beyond the chunk */
    CHECK(nm_budget_used(b) == 50 && nm_budget_peak(b) == 700 && stats_of(port).peak == 700);
    nm_limited_destroy(l);
    nm_arena_destroy(a);
    nm_budget_destroy(b);
}

static void test_destroy_returns_all(void) {
    static const size_t bins[] = {64, 512};
    nm_slab *s = nm_slab_create(nm_system_port(system_), bins, 2, false);
    for (int i = 0; i < 3000; i++) CHECK(nm_alloc(nm_slab_port(s), i % 2 ? 60 : 500, 16) != NULL);
    CHECK(taken() > 0);
    nm_slab_destroy(s);
    CHECK(taken() == 0);
}

static void test_foreign_cells(void) {
    static const size_t bins[] = {64, 128};
    nm_slab *s = nm_slab_create(nm_system_port(system_), bins, 2, false);
    nm_slab *t = nm_slab_create(nm_system_port(system_), bins, 2, false);
    void *cell = nm_alloc(nm_slab_port(s), 64, 16);
    CHECK(nm_free(nm_slab_port(t), cell, 64, 16) == NM_FOREIGN_BLOCK);
    CHECK(nm_free(nm_slab_port(s), cell, 100, 16) == NM_FOREIGN_BLOCK); /* another bin's size */
    CHECK(nm_free(nm_slab_port(s), cell, 64, 16) == NM_OK);
    nm_slab_destroy(s);
    nm_slab_destroy(t);
}

int main(void) {
    system_ = nm_system_create();
    RUN(test_chunks_double_up_to_the_cap());
    RUN(test_bad_hints());
    RUN(test_to_the_last_byte());
    RUN(test_largest_free());
    RUN(test_large_blocks_get_their_own_chunk());
    RUN(test_marks());
    RUN(test_wiping());
    RUN(test_nothing_readable_goes_back_upstream());
    RUN(test_refusals_of_the_upstream());
    RUN(test_marks_against_the_rules());
    RUN(test_arena_programs_with_marks());
    RUN(test_confinement());
    RUN(test_slab_confinement());
    RUN(test_slab_programs());
    RUN(test_superblocks_come_and_go());
    RUN(test_bad_bins());
    RUN(test_frees_from_other_threads());
    RUN(test_what_others_freed_is_used_again());
    RUN(test_a_refused_free_changes_no_wrapper());
    RUN(test_growing_in_place_counts_for_the_peak());
    RUN(test_destroy_returns_all());
    RUN(test_foreign_cells());
    nm_system_destroy(system_);
    return finish();
}
