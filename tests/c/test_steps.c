/* What a superblock is charged with: what of it no cell touches goes back, and comes again. */
#define _DEFAULT_SOURCE /* mincore */
#include <pthread.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "heap/heap.h"
#include "locks.h"
#include "harness.h"
#include "nativemem.h"

#define STEP NM_HEAP_CHARGED_AT_ONCE
/* Of both kinds of superblocks: sizes that fill steps, that straddle them, and that are larger. */
static const size_t sizes[] = {16, 64, 200, 1000, 1500, 4096, 5000, 8192, 9000, 12000, 16384, 20000, 26000, 32768};
enum { SIZES = sizeof sizes / sizeof *sizes, LIMIT = 2 << 20, MOST = LIMIT / 16 + 2 };
static void *blocks[MOST];

static void sound(const nm_heap *h) {
    SOUND(nm_heap_check((nm_heap *)(uintptr_t)h));
    SOUND(nm__region_check());
}
static size_t held(nm_heap *h) {
    nm_census c;
    nm_heap_census(h, &c);
    return c.held;
}

/* Three superblocks full of a size. */
static size_t fill_three(nm_heap *h, size_t size) {
    size_t n = (size <= 8192 ? NM_SUPERBLOCK : NM_SUPERBLOCK_LARGE) / nm_heap_usable(h, size, 1) * 3;
    for (size_t i = 0; i < n; i++) {
        CHECK((blocks[i] = nm_heap_malloc(h, size)) != NULL);
        fill(blocks[i], size, (unsigned)i);
    }
    return n;
}
static int stays(size_t i, size_t n) { return i == 1 || i == n / 2 || i == n / 2 + 1 || i == n - n / 5; }

/* Bytes of the steps that those which were not freed touch. Superblocks begin at a step. Pre: as fill_three made them. */
static unsigned char freed[MOST];
static size_t touched(size_t n, size_t cell) {
    size_t steps = 0;
    uintptr_t last = 0; /* addresses rise within a superblock; one that begins lower starts anew */
    for (size_t i = 0; i < n; i++) {
        if (freed[i]) continue;
        uintptr_t from = (uintptr_t)blocks[i] / STEP, to = ((uintptr_t)blocks[i] + cell - 1) / STEP;
        steps += to - from + 1 - (from == last);
        last = to;
    }
    return steps * STEP;
}

static void test_what_stays_keeps_its_steps(void) {
    for (size_t s = 0; s < SIZES; s++) {
        nm_budget *b = nm_budget_create(NM_SIZE_MAX, NULL, NULL);
        nm_heap *h = nm_heap_create(b, false);
        size_t n = fill_three(h, sizes[s]), full = held(h), gone = 0;
        for (size_t i = 0; i < n; i++) freed[i] = !stays(i, n);
        for (int round = 0; round < 2; round++) {
            for (size_t i = 0; i < n; i++)
                if (!stays(i, n)) nm_heap_free(h, blocks[i]);
            sound(h);
            nm_heap_trim(h);
            CHECK(held(h) == touched(n, nm_heap_usable(h, sizes[s], 1)) && nm_budget_used(b) == held(h));
            sound(h);
            nm_heap_trim(h); /* it was done */
            CHECK(held(h) == touched(n, nm_heap_usable(h, sizes[s], 1)));
            for (size_t i = 0; i < n; i++) {
                if (stays(i, n)) {
                    CHECK(filled(blocks[i], sizes[s], (unsigned)i) && !nm__heap_is_free(blocks[i]));
                } else if (nm_heap_of(blocks[i]) == h) {
                    gone++;
                    CHECK(nm__heap_is_free(blocks[i]));
                }
            }
            for (size_t i = 0; i < n; i++) {
                if (stays(i, n)) continue;
                CHECK((blocks[i] = nm_heap_malloc(h, sizes[s])) != NULL);
                fill(blocks[i], sizes[s], (unsigned)i);
                if (i % 1000 < 20) sound(h);
            }
            for (size_t i = 0; i < n; i++) CHECK(filled(blocks[i], sizes[s], (unsigned)i));
            CHECK(held(h) == full); /* what was shed serves again, before anything new */
            sound(h);
        }
        CHECK(gone != 0);
        for (size_t i = 0; i < n; i++) nm_heap_free(h, blocks[i]);
        nm_heap_trim(h);
        CHECK(held(h) == 0 && nm_budget_used(b) == 0);
        nm_heap_destroy(h);
        nm_budget_destroy(b);
    }
}

/* A cell at a time goes, in an order without a pattern, and as many steps as none touches any more. */
static void test_step_by_step(void) {
    static const size_t some[] = {3000, 12000, 16384, 20000, 26000, 32768};
    for (size_t s = 0; s < sizeof some / sizeof *some; s++) {
        nm_heap *h = nm_heap_create(NULL, false);
        size_t n = fill_three(h, some[s]), cell = nm_heap_usable(h, some[s], 1);
        memset(freed, 0, n);
        for (size_t k = 0, i = 0; k < n; k++) {
            for (i = (i + 17) % n; freed[i]; i = (i + 1) % n) continue;
            nm_heap_free(h, blocks[i]);
            freed[i] = 1;
            nm_heap_trim(h);
            CHECK(held(h) == touched(n, cell));
            sound(h);
        }
        CHECK(held(h) == 0);
        nm_heap_destroy(h);
    }
}

/* One that served meanwhile, and waits again with as many cells, is looked at again. */
static void test_as_many_cells_but_others(void) {
    enum { CELLS = NM_SUPERBLOCK_LARGE / STEP, LEFT = 6 };
    nm_heap *h = nm_heap_create(NULL, false);
    for (size_t i = 0; i < 2 * CELLS; i++) blocks[i] = nm_heap_malloc(h, STEP);
    for (size_t i = LEFT; i < CELLS; i++) nm_heap_free(h, blocks[i]);
    nm_heap_trim(h);
    CHECK(held(h) == (LEFT + CELLS) * STEP);
    CHECK(nm_heap_malloc(h, STEP) == blocks[LEFT]); /* the first that was shed: its superblock serves now */
    nm_heap_free(h, blocks[CELLS]);                 /* of the other one */
    nm_heap_free(h, blocks[0]);
    for (size_t i = 1; i < NM_HEAP_PATIENCE; i++) { /* until it makes way for that */
        CHECK(nm_heap_malloc(h, STEP) == blocks[0]);
        nm_heap_free(h, blocks[0]);
    }
    CHECK(nm_heap_malloc(h, STEP) == blocks[CELLS]);
    CHECK(held(h) == (LEFT + 1 + CELLS) * STEP);
    nm_heap_trim(h);
    CHECK(held(h) == (LEFT + CELLS) * STEP);
    sound(h);
    nm_heap_destroy(h);
}

/* A heap that a thread is done with, though a block of it lives. */
static void test_what_a_thread_leaves(void) {
    nm_heap *h = nm_heap_create(NULL, false);
    nm__heap_share(h, NULL);
    nm__heap_enter(h);
    size_t n = fill_three(h, 1024);
    for (size_t i = 0; i < n; i++)
        if (i != n / 2) nm_heap_free(h, blocks[i]);
    CHECK(held(h) > STEP);
    nm__heap_detach(h);
    CHECK(held(h) == STEP && filled(blocks[n / 2], 1024, (unsigned)n / 2));
    sound(h);
    nm_heap_free(h, blocks[n / 2]);
    CHECK(held(h) == 0);
    nm_heap_destroy(h);
}

/* The memory itself goes, not only its charge. */
static void test_what_is_shed_is_not_resident(void) {
    nm_heap *h = nm_heap_create(NULL, false);
    size_t n = fill_three(h, 16384);
    for (size_t i = 0; i < n; i++)
        if (i % 2 != 0) nm_heap_free(h, blocks[i]);
    nm_heap_trim(h);
    for (size_t i = 0; i < n; i++) {
        unsigned char in[16384 / 4096] = {0};
        CHECK(mincore(blocks[i], 16384, in) == 0);
        for (size_t k = 0; k < sizeof in && nm__region_os_page == 4096; k++) CHECK((in[k] & 1) == (i % 2 == 0));
    }
    nm_heap_destroy(h);
}

/* What a heap sheds before it refuses is another size's. Nothing was denied. */
static void test_shed_before_a_refusal(void) {
    for (size_t s = 0; s < SIZES; s++) {
        size_t n = 0, cell;
        nm_budget *b = nm_budget_create(LIMIT, NULL, NULL);
        nm_heap *h = nm_heap_create(b, false);
        while ((blocks[n] = nm_heap_malloc(h, sizes[s])) != NULL) n++;
        size_t denied = nm_budget_denied(b);
        cell = nm_heap_usable(h, sizes[s], 1);
        for (size_t i = 0; i < n; i++)
            if (i * cell / 250000 == (i + 1) * cell / 250000) nm_heap_free(h, blocks[i]); /* eight stay */
        char *other = nm_heap_malloc(h, LIMIT / 2);
        CHECK(other != NULL && nm_budget_denied(b) == denied);
        sound(h);
        CHECK(nm_heap_malloc(h, LIMIT) == NULL && nm_budget_denied(b) == denied + 1);
        for (size_t i = 0; nm_heap_malloc(h, sizes[s]) != NULL; i++) CHECK(i < n);
        sound(h);
        nm_heap_free(h, other);
        nm_heap_destroy(h);
        nm_budget_destroy(b);
    }
}

/* Once a bin has filled a superblock the next is charged whole, if it may, and gives up what it does not use. */
static void test_charged_ahead(void) {
    enum { CELLS = NM_SUPERBLOCK / 1024 };
    nm_budget *b = nm_budget_create(NM_SUPERBLOCK + STEP, NULL, NULL);
    nm_heap *h = nm_heap_create(b, false);
    for (size_t i = 0; i < CELLS; i++) CHECK(nm_heap_malloc(h, 1024) != NULL && held(h) == (i * 1024 / STEP + 1) * STEP);
    CHECK(nm_heap_malloc(h, 1024) != NULL && held(h) == NM_SUPERBLOCK + STEP && nm_budget_denied(b) == 0);
    nm_budget_set_limit(b, 4 * NM_SUPERBLOCK);
    for (size_t i = 1; i < CELLS; i++) CHECK(nm_heap_malloc(h, 1024) != NULL);
    CHECK(held(h) == 2 * NM_SUPERBLOCK);
    void *last = nm_heap_malloc(h, 1024);
    CHECK(held(h) == 3 * NM_SUPERBLOCK && nm_budget_used(b) == held(h));
    sound(h);
    nm_heap_trim(h);
    CHECK(held(h) == 2 * NM_SUPERBLOCK + STEP && nm_budget_used(b) == held(h));
    sound(h);
    for (size_t i = 1; i < CELLS; i++) CHECK(nm_heap_malloc(h, 1024) == (char *)last + i * 1024);
    CHECK(held(h) == 3 * NM_SUPERBLOCK);
    CHECK(nm_heap_malloc(h, 1024) != NULL && held(h) == 4 * NM_SUPERBLOCK);
    CHECK(nm_heap_malloc(h, 2 * STEP + 1) != NULL && nm_budget_denied(b) == 0); /* what was ahead is had by another */
    CHECK(held(h) == 3 * NM_SUPERBLOCK + STEP + 2 * STEP + NM_PAGE);
    sound(h);
    nm_heap_destroy(h);
    nm_budget_destroy(b);
}

/* A free cell that is paid for serves before one that is not, in a superblock that is fuller. */
static void test_free_cells_serve_where_no_more_may_be_charged(void) {
    enum { FIRST = 16, SECOND = 6 };
    nm_budget *b = nm_budget_create(NM_SIZE_MAX, NULL, NULL);
    nm_heap *h = nm_heap_create(b, false);
    for (size_t i = 0; i < FIRST + SECOND; i++) blocks[i] = nm_heap_malloc(h, 16384);
    for (size_t i = 0; i < FIRST - 2; i++) nm_heap_free(h, blocks[i]);
    nm_budget_set_limit(b, nm_budget_used(b));
    char *served = nm_heap_malloc(h, 16384);
    CHECK(served >= (char *)blocks[0] && served < (char *)blocks[FIRST - 2] && nm_budget_denied(b) == 0);
    sound(h);
    nm_heap_destroy(h);
    nm_budget_destroy(b);
}

/* A cell that another thread freed is not free before it was collected. */
static void *free_odd(void *h) {
    for (size_t i = 1; blocks[i] != NULL; i += 2) nm_heap_free(h, blocks[i]);
    return NULL;
}
static void test_cells_freed_afar(void) {
    nm_heap *h = nm_heap_create(NULL, false);
    size_t n = fill_three(h, 32768) / 2 * 2;
    blocks[n] = blocks[n + 1] = NULL;
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, free_odd, h) == 0 && pthread_join(thread, NULL) == 0);
    sound(h);
    nm_heap_trim(h);
    CHECK(held(h) == n / 2 * 32768);
    for (size_t i = 0; i < n; i += 2) CHECK(filled(blocks[i], 32768, (unsigned)i));
    sound(h);
    nm_heap_destroy(h);
}

/* Programs: blocks of a few sizes come and go, under a limit that moves, with a look at everything now and then. */
static void test_programs(void) {
    enum { SLOTS = 400, STEPS = 12000 };
    static size_t size[SLOTS];
    uint64_t state = 88172645463325252U;
    for (int program = 0; program < 6; program++) {
        nm_budget *b = nm_budget_create((size_t)3 << 20, NULL, NULL);
        nm_heap *h = nm_heap_create(b, program == 5);
        memset(blocks, 0, sizeof *blocks * SLOTS);
        for (int step = 0; step < STEPS; step++) {
            size_t i = below(&state, SLOTS), kind = below(&state, 1000);
            if (kind < 3) nm_heap_trim(h);
            if (kind == 4) nm_budget_set_limit(b, below(&state, (size_t)4 << 20));
            if (blocks[i] != NULL) {
                CHECK(filled(blocks[i], size[i], (unsigned)i));
                CHECK(nm_heap_free(h, blocks[i]) == NM_OK);
                blocks[i] = NULL;
            } else if (step / 2000 % 2 == 0 || kind < 300) { /* there are ebbs, too */
                size[i] = kind < 990 ? sizes[(size_t)(program + step / 1000) % SIZES] + below(&state, 60) : 40000;
                blocks[i] = nm_heap_malloc(h, size[i]);
                if (blocks[i] != NULL) fill(blocks[i], size[i], (unsigned)i);
            }
            if (step % 200 == 0) sound(h);
        }
        nm_heap_destroy(h);
        CHECK(nm_budget_used(b) == 0);
        nm_budget_destroy(b);
    }
}

/* Of a large heap not every refusal looks at all that wait, but soon one does. */
static void test_a_refusal_looks_at_so_many(void) {
    enum { SUPERBLOCKS = 10 * NM_HEAP_LOOKS_A_REFUSAL, CELL = 8192, IN = NM_SUPERBLOCK / CELL, N = SUPERBLOCKS * IN };
    static void *all[N];
    nm_budget *b = nm_budget_create((size_t)SUPERBLOCKS * NM_SUPERBLOCK, NULL, NULL);
    nm_heap *h = nm_heap_create(b, false);
    for (size_t i = 0; i < N; i++) CHECK((all[i] = nm_heap_malloc(h, CELL)) != NULL);
    for (size_t i = 0; i < N; i += IN) nm_heap_free(h, all[i]); /* they wait, with a cell each */
    CHECK(nm_heap_malloc(h, (size_t)SUPERBLOCKS * NM_SUPERBLOCK / 2) == NULL);
    for (size_t i = 0; i < N; i++)
        if (i % IN != 0 && i % IN != IN - 1) nm_heap_free(h, all[i]);
    size_t refused = 0;
    while (nm_heap_malloc(h, (size_t)SUPERBLOCKS * NM_SUPERBLOCK / 2) == NULL && refused < 100) refused++;
    CHECK(refused > 0 && refused <= SUPERBLOCKS / NM_HEAP_LOOKS_A_REFUSAL);
    sound(h);
    nm_heap_destroy(h);
    nm_budget_destroy(b);
}

/* The thread ends, and a block of each size lives: as where it leaves a scope, no other thread could give the rest up later. */
static void *leave_some(void *heap) {
    nm_heap *h = heap;
    for (size_t s = 0; s < SIZES; s++) {
        size_t n = fill_three(h, sizes[s]);
        for (size_t i = 0; i < n; i++)
            if (i != 1) nm_heap_free(h, blocks[i]);
        blocks[MOST - 1 - s] = blocks[1];
    }
    return NULL;
}
static void test_what_an_ended_thread_leaves(void) {
    nm_budget *b = nm_budget_create(NM_SIZE_MAX, NULL, NULL);
    nm_heap *h = nm_heap_create(b, false);
    nm__heap_share(h, NULL);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, leave_some, h) == 0 && pthread_join(thread, NULL) == 0);
    size_t steps = 0;
    for (size_t s = 0; s < SIZES; s++) {
        uintptr_t at = (uintptr_t)blocks[MOST - 1 - s];
        steps += (at + nm_heap_usable(h, sizes[s], 1) - 1) / STEP - at / STEP + 1;
    }
    CHECK(held(h) == steps * STEP && nm_budget_used(b) == held(h));
    sound(h);
    for (size_t s = 0; s < SIZES; s++) nm_heap_free(h, blocks[MOST - 1 - s]);
    CHECK(held(h) == 0);
    nm_heap_destroy(h);
    nm_budget_destroy(b);
}

#ifndef NM__TSAN /* does not support forks of a process with threads */
/* A block that was freed twice is on the list twice, which has no end then; one that is written to after its free leads
 * anywhere. Neither is followed. */
static void test_a_free_list_that_is_broken(void) {
    for (int written = 0; written < 2; written++) {
        pid_t child = fork();
        if (child == 0) {
            nm_heap *h = nm_heap_create(NULL, false);
            size_t n = fill_three(h, 1000);
            for (size_t i = 1; i < n; i++) nm_heap_free(h, blocks[i]);
            void *again = nm_heap_malloc(h, 1000);
            for (int i = 0; i < 2; i++) CHECK(nm_heap_malloc(h, 1000) != NULL); /* or it would pass for empty, and go whole */
            nm_heap_free(h, again);
            if (written) nm__poke(again, (char *)sizeof(void *)); /* not mapped */
            else nm_heap_free(h, again);
            (void)alarm(60);
            nm_heap_trim(h);
            _exit(0);
        }
        int state = -1;
        CHECK(waitpid(child, &state, 0) == child && state == 0);
    }
}
#endif

int main(void) {
    CHECK(nm_region_init((size_t)1 << 33, (size_t)256 << 20, 1000000) == NM_OK);
    RUN(test_what_stays_keeps_its_steps());
    RUN(test_step_by_step());
    RUN(test_as_many_cells_but_others());
    RUN(test_what_a_thread_leaves());
    RUN(test_what_is_shed_is_not_resident());
    RUN(test_shed_before_a_refusal());
    RUN(test_charged_ahead());
    RUN(test_free_cells_serve_where_no_more_may_be_charged());
    RUN(test_cells_freed_afar());
    RUN(test_programs());
    RUN(test_a_refusal_looks_at_so_many());
    RUN(test_what_an_ended_thread_leaves());
#ifndef NM__TSAN
    RUN(test_a_free_list_that_is_broken());
#endif
    return finish();
}
