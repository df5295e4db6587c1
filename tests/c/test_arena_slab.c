/* What the port does not show of arena and slab. */
#include <pthread.h>

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
    nm_arena *a = nm_arena_create(nm_system_port(system_), 1000, 10000, true, false);
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
    CHECK(nm_arena_reset(a) == NM_OK && taken() == 3000 && stats_of(port).used == 0);
    CHECK(nm_arena_generation(a) == 2);
    CHECK(nm_arena_clear(a) == NM_OK && taken() == 0);
    SOUND(nm_arena_check(a));
    nm_arena_destroy(a);
}

static void test_large_blocks_get_their_own_chunk(void) {
    nm_arena *a = nm_arena_create(nm_system_port(system_), 1000, 0, true, false);
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
}

static void test_marks(void) {
    nm_arena *a = nm_arena_create(nm_system_port(system_), 1000, 0, true, false);
    nm_arena *b = nm_arena_create(nm_system_port(system_), 1000, 0, true, false);
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
    CHECK(nm_alloc(port, 100, 16) == block);
    CHECK(port.methods->resize(port.self, block, 100, 200, 16));
    CHECK(nm_arena_take_mark(a, &second) == NM_OK && nm_arena_reset(a) == NM_OK);
    CHECK(nm_arena_release(a, &second) == NM_INVALID_MARK); /* an earlier generation */
    nm_arena_destroy(a);
    nm_arena_destroy(b);
    CHECK(taken() == 0);
}

static void test_wiping(void) {
    nm_arena *a = nm_arena_create(nm_system_port(system_), 1000, 0, false, true);
    char *block = nm_alloc(nm_arena_port(a), 500, 1);
    memset(block, 7, 500);
    CHECK(nm_arena_reset(a) == NM_OK);
    CHECK(nm_alloc(nm_arena_port(a), 500, 1) == block);
    for (int i = 0; i < 500; i++) CHECK(block[i] == 0);
    nm_arena_destroy(a);
}

static void test_arena_programs_with_marks(void) {
    nm_arena *a = nm_arena_create(nm_system_port(system_), 200, 100000, true, true);
    nm_allocator port = nm_arena_port(a);
    enum { MOST = 400 };
    struct { char *ptr; size_t size; } blocks[MOST];
    struct { nm_arena_mark mark; int blocks; } marks[20];
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
    nm_arena_mark mark;
    CHECK(nm_arena_take_mark(a, &mark) == NM_WRONG_THREAD);
    return NULL;
}
static void test_confinement(void) {
    nm_arena *a = nm_arena_create(nm_system_port(system_), 100, 0, true, false);
    pthread_t thread;
    pthread_create(&thread, NULL, call_from_elsewhere, a);
    pthread_join(thread, NULL);
    CHECK(stats_of(nm_arena_port(a)).failures == 0);
    nm_arena_destroy(a);
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
    for (int i = 0; i < 100; i++) CHECK(nm_free(port, nm_alloc(port, 10, 16), 10, 16) == NM_OK);
    CHECK(taken() == 65536 && stats_of(nm_system_port(system_)).count <= 40);
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

typedef struct batch { nm_allocator port; void *cells[3000]; } batch;
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
    RUN(test_large_blocks_get_their_own_chunk());
    RUN(test_marks());
    RUN(test_wiping());
    RUN(test_arena_programs_with_marks());
    RUN(test_confinement());
    RUN(test_superblocks_come_and_go());
    RUN(test_bad_bins());
    RUN(test_frees_from_other_threads());
    RUN(test_foreign_cells());
    nm_system_destroy(system_);
    return finish();
}
