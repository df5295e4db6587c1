/* The region where it ends: a small one, filled to the last page. What comes back is joined again. */
#define _POSIX_C_SOURCE 200809L
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "alloc/heap.h"
#include "harness.h"
#include "nativemem.h"

#define PAGE NM_SUPERBLOCK
#define PAGES ((size_t)1024) /* 64 MiB, the least that a region can have */

static nm_heap *heap;

static void sound(void) {
    SOUND(nm_heap_check(heap));
    SOUND(nm__region_check());
}
static nm_census census(void) {
    nm_census c;
    nm_heap_census(heap, &c);
    return c;
}
/* All pages are free and in one piece. */
static void whole(void) {
    nm_region_trim();
    CHECK(census().held == 0 && nm_region_dirty() == 0);
    void *all = nm_heap_malloc(heap, PAGES * PAGE);
    CHECK(all != NULL);
    if (all != NULL) nm_heap_free(heap, all);
    nm_region_trim();
    sound();
}

static void test_frontier(void) { /* first: nothing was handed out before */
    char *span = nm_heap_malloc(heap, 3 * PAGE);
    CHECK((uintptr_t)span == nm__region_base && nm_is_aligned((uintptr_t)span, (size_t)2 << 20));
    fill(span, 3 * PAGE, 2);
    CHECK(nm_heap_realloc(heap, span, 600 * PAGE) == span && filled(span, 3 * PAGE, 2)); /* nothing is behind it */
    CHECK(census().held == 600 * PAGE && census().live_span_bytes == 600 * PAGE);
    size_t bad = 0;
    NM_REOPEN(span, 600 * PAGE); /* pages never used are zero, though a caller may not count on it */
    for (size_t i = 3 * PAGE; i < 600 * PAGE; i++) bad += span[i] != 0;
    CHECK(bad == 0);
    span[600 * PAGE - 1] = 1;
    sound();
    CHECK(nm_heap_realloc(heap, span, 1025 * PAGE) == NULL && nm_last_failure().status == NM_OUT_OF_MEMORY);
    CHECK(census().held == 600 * PAGE && census().held_peak == 600 * PAGE && filled(span, 3 * PAGE, 2));
    CHECK(nm_heap_realloc(heap, span, 1024 * PAGE) == span);
    CHECK(nm_heap_malloc(heap, 1) == NULL && nm_last_failure().status == NM_OUT_OF_MEMORY);
    CHECK(nm_region_size() == PAGES * PAGE && nm_region_owns(span) && nm_region_owns(span + PAGES * PAGE - 1));
    CHECK(!nm_region_owns(span + PAGES * PAGE) && !nm_region_owns(span - 1) && !nm_region_owns(&span));
    nm_heap_free(heap, span);
    sound();
    whole();
}

static void test_a_second_init_changes_no_addresses(void) {
    uintptr_t base = nm__region_base;
    CHECK(nm_region_init((size_t)1 << 40, (size_t)1 << 30, 1000000) == NM_OK);
    CHECK(nm__region_base == base && nm_region_size() == PAGES * PAGE);
}

static void test_every_page_in_a_span_of_its_own(void) {
    static unsigned char *pages[PAGES];
    for (size_t i = 0; i < PAGES; i++) {
        pages[i] = nm_heap_malloc(heap, PAGE);
        CHECK(pages[i] != NULL);
        memset(pages[i], (int)(i % 251), 1000);
    }
    CHECK(nm_heap_malloc(heap, PAGE) == NULL && nm_heap_malloc(heap, 16) == NULL);
    CHECK(census().held == PAGES * PAGE);
    sound();
    for (size_t i = 0; i < PAGES; i += 2) nm_heap_free(heap, pages[i]);
    sound();
    CHECK(nm_region_dirty() == PAGES / 2 * PAGE);
    CHECK(nm_heap_malloc(heap, 2 * PAGE) == NULL); /* half is free, and no two pages touch */
    CHECK(nm_region_dirty() == 0);                 /* nothing was kept that might have helped */
    for (size_t i = 0; i < PAGES; i += 4) CHECK((pages[i] = nm_heap_malloc(heap, PAGE)) != NULL);
    sound();
    for (size_t i = 0; i < PAGES; i++) {
        if (i % 4 == 2) continue;
        if (i % 2 == 1) CHECK(pages[i][0] == i % 251 && pages[i][999] == i % 251);
        nm_heap_free(heap, pages[i]);
        if (i % 16 == 0) sound();
    }
    CHECK(nm_region_dirty() == PAGES / 4 * 3 * PAGE); /* and a quarter is clean */
    void *all = nm_heap_malloc(heap, PAGES * PAGE);
    CHECK(all != NULL && nm_region_dirty() == 0);
    nm_heap_free(heap, all);
    whole();
}

static void test_the_best_fit_is_taken(void) {
    static const size_t sizes[] = {70, 9, 30, 3, 200, 5, 63, 64, 130};
    enum { N = sizeof sizes / sizeof *sizes };
    char *spans[N], *fences[N];
    for (int clean = 0; clean < 2; clean++) {
        for (int i = 0; i < N; i++) {
            spans[i] = nm_heap_malloc(heap, sizes[i] * PAGE);
            fences[i] = nm_heap_malloc(heap, PAGE);
        }
        for (int i = 0; i < N; i++) nm_heap_free(heap, spans[i]);
        if (clean) nm_region_trim();
        for (size_t want = 1; want <= 64; want++) {
            int best = -1;
            for (int i = 0; i < N; i++)
                if (sizes[i] >= want && sizes[i] <= 64 && (best < 0 || sizes[i] < sizes[best])) best = i;
            char *ptr = nm_heap_malloc(heap, want * PAGE);
            CHECK(ptr == spans[best]);
            nm_heap_free(heap, ptr);
            if (clean) nm_region_trim();
        }
        for (size_t want = 65; want <= 200; want += 9) { /* any that is large enough, if there is one */
            char *ptr = nm_heap_malloc(heap, want * PAGE);
            int from = 0;
            while (from < N && ptr != spans[from]) from++;
            CHECK(from < N && sizes[from] >= want);
            nm_heap_free(heap, ptr);
            if (clean) nm_region_trim();
        }
        sound();
        for (int i = 0; i < N; i++) nm_heap_free(heap, fences[i]);
        whole();
    }
}

/* Dirty and clean spans are not merged with each other. That must not cost a block that fits. */
static void test_kept_and_returned_memory_make_one_block(void) {
    char *low = nm_heap_malloc(heap, 400 * PAGE), *high = nm_heap_malloc(heap, 600 * PAGE);
    memset(low, 1, 400 * PAGE);
    memset(high, 1, 600 * PAGE);
    nm_heap_free(heap, low);
    nm_region_trim();
    nm_heap_free(heap, high);
    CHECK(nm_region_dirty() == 600 * PAGE);
    sound();
    unsigned char *both = nm_heap_calloc(heap, 1, 1000 * PAGE);
    CHECK(both != NULL);
    if (both != NULL) {
        size_t bad = 0;
        for (size_t i = 0; i < 1000 * PAGE; i++) bad += both[i] != 0;
        CHECK(bad == 0);
        sound();
        nm_heap_free(heap, both);
    }
    whole();
}

/* The room behind a block that has grown is for others where there is nothing else. */
static void test_room_is_not_lost(void) {
    static void *pages[PAGES];
    char *ptr = nm_heap_malloc(heap, 64 * PAGE), *fence = nm_heap_malloc(heap, PAGE);
    fill(ptr, 64 * PAGE, 3);
    char *grown = nm_heap_realloc(heap, ptr, 72 * PAGE), *behind = nm_heap_malloc(heap, PAGE);
    CHECK(grown != ptr && filled(grown, 64 * PAGE, 3) && census().held == 74 * PAGE);
    CHECK(behind < grown || behind >= grown + 2 * 72 * PAGE);
    sound();
    size_t n = 0;
    while (n < PAGES && (pages[n] = nm_heap_malloc(heap, PAGE)) != NULL) n++;
    CHECK(n == PAGES - 74 && census().held == PAGES * PAGE);
    sound();
    CHECK(nm_heap_realloc(heap, grown, 80 * PAGE) == NULL && filled(grown, 64 * PAGE, 3));
    while (n > 0) nm_heap_free(heap, pages[--n]);
    CHECK(nm_heap_realloc(heap, grown, 80 * PAGE) == grown && filled(grown, 64 * PAGE, 3));
    sound();
    nm_heap_free(heap, grown);
    nm_heap_free(heap, behind);
    nm_heap_free(heap, fence);
    whole();
}

static void test_cells_to_the_last_page(void) {
    nm_allocator port = nm_heap_port(heap);
    static void *blocks[PAGES * 2 + 1];
    size_t n = 0;
    while (n < PAGES * 2 && (blocks[n] = nm_alloc(port, 30000, 16)) != NULL) n++;
    CHECK(n == PAGES * 2 && census().held == PAGES * PAGE);
    nm_stats before, after;
    port.methods->stats(port.self, &before);
    CHECK(nm_alloc(port, 30000, 16) == NULL && nm_last_failure().status == NM_OUT_OF_MEMORY);
    CHECK(nm_alloc(port, 16, 16) == NULL && nm_alloc(port, 70000, 16) == NULL);
    port.methods->stats(port.self, &after);
    CHECK(after.failures == before.failures + 3);
    after.failures = before.failures;
    CHECK(memcmp(&before, &after, sizeof before) == 0);
    sound();
    CHECK(nm_free(port, blocks[--n], 30000, 16) == NM_OK);
    CHECK((blocks[n++] = nm_alloc(port, 30000, 16)) != NULL); /* in the superblock that has room */
    while (n > 0) CHECK(nm_free(port, blocks[--n], 30000, 16) == NM_OK);
    sound();
    CHECK(census().held <= PAGE);
    nm_heap_trim(heap);
    whole();
}

/* Random spans with every page of each stamped, so that no two share one, against the sum of what is live. */
static void test_programs_near_the_end(void) {
    enum { SLOTS = 40 };
    struct { unsigned char *ptr; size_t pages; } slots[SLOTS] = {0};
    uint64_t seed = 5;
    size_t live = 0, refusals = 0;
    for (int step = 0; step < 30000; step++) {
        size_t i = below(&seed, SLOTS), pages = 1 + below(&seed, step % 5 == 0 ? 300 : 40);
        unsigned char *ptr = slots[i].ptr;
        size_t old = slots[i].pages;
        for (size_t k = 0; ptr != NULL && k < old; k++) CHECK(ptr[k * PAGE] == i && ptr[(k + 1) * PAGE - 1] == i);
        if (ptr != NULL && step % 3 == 0) {
            unsigned char *moved = nm_heap_realloc(heap, ptr, pages * PAGE);
            if (moved == NULL) {
                CHECK(nm_last_failure().status == NM_OUT_OF_MEMORY && pages > old);
                refusals++;
                continue;
            }
            for (size_t k = 0; k < (old < pages ? old : pages); k++) CHECK(moved[k * PAGE] == i);
            live += pages - old;
            slots[i].ptr = ptr = moved;
        } else if (ptr != NULL) {
            nm_heap_free(heap, ptr);
            live -= old;
            slots[i].ptr = ptr = NULL;
        } else {
            bool zeroed = step % 2 == 0;
            ptr = zeroed ? nm_heap_calloc(heap, 1, pages * PAGE) : nm_heap_malloc(heap, pages * PAGE);
            if (ptr == NULL) {
                CHECK(nm_last_failure().status == NM_OUT_OF_MEMORY);
                refusals++;
                continue;
            }
            for (size_t k = 0; zeroed && k < pages; k++) CHECK(ptr[k * PAGE] == 0 && ptr[(k + 1) * PAGE - 1] == 0);
            live += pages;
            slots[i].ptr = ptr;
        }
        slots[i].pages = pages;
        for (size_t k = 0; ptr != NULL && k < pages; k++) ptr[k * PAGE] = ptr[(k + 1) * PAGE - 1] = (unsigned char)i;
        CHECK(census().held == live * PAGE && census().live_span_bytes == live * PAGE);
        if (step % 700 == 0) nm_region_trim();
        if (step % 10 == 0) sound();
    }
    CHECK(refusals > 10); /* or it was not near the end */
    for (size_t i = 0; i < SLOTS; i++)
        if (slots[i].ptr != NULL) nm_heap_free(heap, slots[i].ptr);
    whole();
}

#if !defined(NM__WATCHED) && !defined(NM__TSAN) /* a checker's own address space exceeds any limit */
static int in_child(size_t limit, size_t taken, bool there_is_a_region) {
    pid_t child = fork();
    if (child == 0) {
        struct rlimit r = {limit, limit};
        if (setrlimit(RLIMIT_AS, &r) != 0) _exit(2);
        char *volatile other = malloc(taken);
        if (other == NULL) _exit(3);
        nm_status status = nm_region_init((size_t)64 << 30, 0, 1000);
        nm_heap *h = nm_heap_create(NULL, false);
        if (!there_is_a_region) _exit(status != NM_OUT_OF_MEMORY || h != NULL || nm_region_size() != 0);
        char *block = h == NULL ? NULL : nm_heap_malloc(h, (size_t)40 << 20);
        if (status != NM_OK || block == NULL || nm_region_size() > limit / 2) _exit(1);
        memset(block, 1, (size_t)40 << 20);
        _exit(nm_region_size() < limit / 8);
    }
    int state = -1;
    return waitpid(child, &state, 0) == child && WIFEXITED(state) ? WEXITSTATUS(state) : -1;
}
static void test_little_address_space(void) { /* before there is a region here */
    CHECK(in_child((size_t)1 << 30, 1, true) == 0); /* half is left to the rest of the process */
    CHECK(in_child((size_t)1 << 30, (size_t)600 << 20, true) == 0); /* which has more already: asked for less */
    CHECK(in_child((size_t)100 << 20, 1, false) == 0);
}
#endif

int main(void) {
#if !defined(NM__WATCHED) && !defined(NM__TSAN)
    RUN(test_little_address_space());
#endif
    if (nm_region_init(PAGES * PAGE, (size_t)1 << 30, 1000000) != NM_OK || nm_region_size() != PAGES * PAGE) return 2;
    if ((heap = nm_heap_create(NULL, false)) == NULL) return 2;
    RUN(test_frontier());
    RUN(test_a_second_init_changes_no_addresses());
    RUN(test_every_page_in_a_span_of_its_own());
    RUN(test_the_best_fit_is_taken());
    RUN(test_kept_and_returned_memory_make_one_block());
    RUN(test_room_is_not_lost());
    RUN(test_cells_to_the_last_page());
    RUN(test_programs_near_the_end());
    nm_heap_destroy(heap);
    return finish();
}
