/* What is kept for reuse never makes the process larger than it once had to be. */
#include "heap/heap.h"
#include "locks.h"
#include "harness.h"
#include "nativemem.h"

#define PAGE NM_SUPERBLOCK
static nm_heap *heap;

static size_t used(void) { /* pages */
    nm_census c;
    nm_heap_census(heap, &c);
    return c.held / PAGE;
}
static size_t kept(void) { return nm_region_dirty() / PAGE; }
/* What was needed, and the slack. */
static void forget(void) { CHECK(nm_region_init(0, (size_t)1 << 30, 3600000) == NM_OK); }
static void sound(void) {
    SOUND(nm_heap_check(heap));
    SOUND(nm__region_check());
}

/* Few enough pages make way here that no loop is seen in it: there is no slack yet. */
static void test_sizes_that_do_not_fit_do_not_add_up(void) {
    char *low = nm_heap_malloc(heap, 12 * PAGE), *fence = nm_heap_malloc(heap, PAGE);
    char *high = nm_heap_malloc(heap, 12 * PAGE), *fence2 = nm_heap_malloc(heap, PAGE);
    nm_heap_free(heap, low);
    nm_heap_free(heap, high);
    CHECK(used() == 2 && kept() == 24); /* 26 were in use */
    char *other = nm_heap_malloc(heap, 14 * PAGE); /* fits into neither */
    CHECK(used() == 16 && kept() == 10);
    sound();
    char *third = nm_heap_malloc(heap, 9 * PAGE); /* what is left was the newest, and takes it */
    CHECK(used() == 25 && kept() == 1);
    char *more = nm_heap_malloc(heap, 17 * PAGE); /* never were there so many */
    CHECK(used() == 42 && kept() == 0);
    sound();
    nm_heap_free(heap, third);
    CHECK(kept() == 9);
    unsigned char *zeros = nm_heap_calloc(heap, 1, 12 * PAGE); /* clean ones take the place of dirty ones */
    CHECK(used() == 45 && kept() == 0);
    sound();
    nm_heap_free(heap, zeros);
    nm_heap_free(heap, more);
    nm_heap_free(heap, other);
    nm_heap_free(heap, fence);
    nm_heap_free(heap, fence2);
    CHECK(used() == 0);
    sound();
}

static void test_growing_in_place(void) { /* first: what grows lies where nothing was handed out before */
    char *low = nm_heap_malloc(heap, 10 * PAGE), *fence = nm_heap_malloc(heap, PAGE);
    char *last = nm_heap_malloc(heap, 5 * PAGE);
    nm_heap_free(heap, low);
    CHECK(used() == 6 && kept() == 10); /* 16 were in use */
    CHECK(nm_heap_realloc(heap, last, 12 * PAGE) == last);
    CHECK(used() == 13 && kept() == 3);
    sound();
    nm_heap_free(heap, last);
    CHECK(kept() == 15);
    last = nm_heap_malloc(heap, 6 * PAGE);
    CHECK(nm_heap_realloc(heap, last, 11 * PAGE) == last); /* into what is kept */
    CHECK(used() == 12 && kept() == 4);
    nm_heap_free(heap, last);
    nm_heap_free(heap, fence);
    nm_region_trim();
    sound();
}

/* A block that grows again and again, with something behind it each time. */
static void test_growing_among_others(size_t first, size_t most_moves) {
    enum { LAST = 400 };
    nm_region_trim();
    forget();
    static char *fences[3 * LAST];
    char *ptr = nm_heap_malloc(heap, first * PAGE);
    size_t pages = first, n = 0, moves = 0;
    for (size_t i = 0; i < pages; i++) ptr[i * PAGE] = ptr[(i + 1) * PAGE - 1] = (char)i;
    while (pages < LAST) {
        for (size_t i = 0; i < pages / 4; i++) fences[n++] = nm_heap_malloc(heap, PAGE);
        size_t next = pages + pages / 8;
        char *grown = nm_heap_realloc(heap, ptr, next * PAGE);
        moves += grown != ptr;
        ptr = grown;
        size_t bad = 0;
        for (size_t i = 0; i < pages; i++) bad += ptr[i * PAGE] != (char)i || ptr[(i + 1) * PAGE - 1] != (char)i;
        CHECK(bad == 0);
        for (size_t i = pages; i < next; i++) ptr[i * PAGE] = ptr[(i + 1) * PAGE - 1] = (char)i;
        pages = next;
        CHECK(used() == pages + n && kept() == 0);
        sound();
    }
    CHECK(moves >= 1 && moves <= most_moves); /* with each doubling */
    nm_heap_free(heap, ptr);
    CHECK(kept() == pages);
    ptr = nm_heap_malloc(heap, (pages + 10) * PAGE); /* the old place and the new were never in use at once */
    CHECK(used() == pages + 10 + n && kept() == 0);
    unsigned char *zeros = nm_heap_calloc(heap, 1, first * PAGE); /* where it was at first */
    size_t bad = 0;
    for (size_t i = 0; i < first * PAGE; i++) bad += zeros[i] != 0;
    CHECK(bad == 0);
    sound();
    nm_heap_free(heap, zeros);
    nm_heap_free(heap, ptr);
    while (n > 0) nm_heap_free(heap, fences[--n]);
    nm_region_trim();
    CHECK(used() == 0);
    sound();
}

/* Whether the system may make huge pages there, by its own account; false where it gives none. */
static bool may_be_huge(const void *ptr) {
    FILE *maps = fopen("/proc/self/smaps", "r");
    char line[512];
    bool here = false, huge = false;
    while (maps != NULL && fgets(line, sizeof line, maps) != NULL) {
        unsigned long from, to;
        if (sscanf(line, "%lx-%lx ", &from, &to) == 2) here = from <= (uintptr_t)ptr && (uintptr_t)ptr < to;
        if (here && strncmp(line, "VmFlags:", 8) == 0) huge = strstr(line, " hg") != NULL;
    }
    if (maps != NULL) fclose(maps);
    return huge;
}

/* Or it puts small blocks that are left into a huge page, long after the large one has gone back. */
static void test_huge_pages_are_for_large_blocks(void) {
    char *large = nm_heap_malloc(heap, 4096 * PAGE);
    bool there_are = may_be_huge(large);
    nm_heap_free(heap, large);
    CHECK(!may_be_huge(large) && !may_be_huge(large + 2000 * PAGE));
    nm_region_trim();
    char *again = nm_heap_calloc(heap, 1, 4096 * PAGE);
    CHECK(may_be_huge(again) == there_are);
    char *shrunk = nm_heap_realloc(heap, again, 4060 * PAGE);
    CHECK(shrunk == again && !may_be_huge(again + 4070 * PAGE) && may_be_huge(again) == there_are);
    nm_heap_free(heap, shrunk);
    CHECK(!may_be_huge(again));
    nm_region_trim();
    sound();
}

/* A table that grows among small things, and takes the place of the one before: what is free and what is needed do not
 * fit, in each turn anew. Returns how many pages had to be taken from the system. */
enum { THINGS = 60 };
typedef struct generation {
    char *table, *things[THINGS];
} generation;
static size_t fresh;
static char *take_pages(size_t n) {
    char *ptr = nm_heap_malloc(heap, n * PAGE);
    fresh += nm__page_of(ptr)->zero ? n : 0;
    return ptr;
}
static void drop(generation *g) {
    nm_heap_free(heap, g->table);
    for (int i = 0; i < THINGS; i++) nm_heap_free(heap, g->things[i]);
}
static size_t build_again(generation *g) {
    static const size_t sizes[] = {2, 5, 11, 23, 48};
    generation next = {0};
    fresh = 0;
    for (size_t i = 0, n = 0; i < 5; i++) {
        char *larger = take_pages(sizes[i]);
        if (next.table != NULL) nm_heap_free(heap, next.table);
        next.table = larger;
        while (n < THINGS * (i + 1) / 5) next.things[n++] = take_pages(1);
    }
    if (g->table != NULL) drop(g);
    *g = next;
    return fresh;
}
static size_t peak(void) {
    nm_census c;
    nm_heap_census(heap, &c);
    return c.held_peak / PAGE;
}
static void test_a_loop_gets_the_slack_that_it_needs(void) {
    nm_region_trim();
    generation g = {0};
    size_t early = 0, late = 0;
    for (int turn = 0; turn < 40; turn++) {
        size_t n = build_again(&g);
        if (turn >= 2 && turn < 6) early += n;
        if (turn >= 36) late += n;
        sound();
    }
    CHECK(early != 0 && late == 0);
    CHECK(used() + kept() <= peak() * 5 / 4 + 64);
    drop(&g);
    nm_region_trim();
}

/* What is kept behind a block that grows is spare: others have it when there is nothing else, and then its end. */
static void test_what_is_kept_behind_a_block_that_grows(void) {
    enum { HOLE = 80, SMALL = 3, GROWS = 4 };
    char *ones[SMALL + GROWS];
    nm_region_trim();
    forget();
    char *hole = nm_heap_malloc(heap, HOLE * PAGE), *fence = nm_heap_malloc(heap, PAGE);
    char *small = nm_heap_malloc(heap, SMALL * PAGE), *fence2 = nm_heap_malloc(heap, PAGE);
    char *ptr = nm_heap_malloc(heap, GROWS * PAGE), *fence3 = nm_heap_malloc(heap, PAGE);
    fill(ptr, GROWS * PAGE, 4);
    nm_heap_free(heap, hole);
    nm_heap_free(heap, small);
    CHECK(nm_heap_realloc(heap, ptr, (GROWS + 1) * PAGE) == hole && filled(hole, GROWS * PAGE, 4));
    ptr = hole;
    CHECK(used() == GROWS + 4 && kept() == HOLE + SMALL - 1);
    sound();
    for (int i = 0; i < SMALL + GROWS; i++) {
        ones[i] = nm_heap_malloc(heap, PAGE);
        CHECK(ones[i] < hole || ones[i] >= fence);
    }
    char *end = nm_heap_malloc(heap, 2 * PAGE);
    CHECK(end == hole + (HOLE - 2) * PAGE);
    sound();
    CHECK(nm_heap_realloc(heap, ptr, 60 * PAGE) == ptr && filled(ptr, GROWS * PAGE, 4));
    CHECK(used() == 60 + SMALL + GROWS + 2 + 3 && kept() == HOLE - 62);
    nm_heap_free(heap, end); /* it is spare again */
    end = nm_heap_malloc(heap, PAGE);
    CHECK(end == hole + (HOLE - 1) * PAGE);
    nm_heap_free(heap, end);
    CHECK(nm_heap_realloc(heap, ptr, HOLE * PAGE) == ptr && filled(ptr, GROWS * PAGE, 4));
    CHECK(kept() == 0);
    CHECK(nm_heap_realloc(heap, ptr, 20 * PAGE) == ptr && kept() == HOLE - 20);
    CHECK(nm_heap_realloc(heap, ptr, 21 * PAGE) == ptr); /* what lies behind is spare from now on */
    sound();
    /* Another one that grows has the half of it. */
    char *half = hole + HOLE * PAGE - (HOLE - 21) * PAGE / 2;
    CHECK(nm_heap_realloc(heap, fence2, 2 * PAGE) == half);
    sound();
    nm_heap_free(heap, half);
    nm_heap_free(heap, ptr);
    CHECK(kept() == HOLE + 1);
    ptr = nm_heap_malloc(heap, HOLE * PAGE); /* in one piece, for all */
    CHECK(ptr == hole && kept() == 1);
    nm_heap_free(heap, ptr);
    /* What is idle goes back, spare or not. */
    ptr = nm_heap_malloc(heap, 2 * PAGE);
    CHECK(ptr == hole && nm_heap_realloc(heap, ptr, 3 * PAGE) == ptr && kept() == HOLE - 3 + 1);
    char *large = nm_heap_malloc(heap, (peak() - used() - kept() + 40) * PAGE); /* a part of it makes way */
    CHECK(large != NULL && kept() == HOLE - 2 - 40);
    sound();
    nm_heap_free(heap, large);
    nm_region_trim();
    CHECK(kept() == 0);
    sound();
    nm_heap_free(heap, ptr);
    for (int i = 0; i < SMALL + GROWS; i++) nm_heap_free(heap, ones[i]);
    nm_heap_free(heap, fence);
    nm_heap_free(heap, fence3);
    nm_region_trim();
    CHECK(used() == 0);
    sound();
}

/* A superblock begins at a multiple of 64 KiB: what of a spare span lies behind it is kept for all. */
static void test_what_is_behind_the_end_of_a_spare_span(void) {
    enum { HOLE = 80, GROWS = 4, BEHIND = 5, WHOLE = HOLE * PAGE + BEHIND * NM_PAGE };
    nm_region_trim();
    forget();
    char *hole = nm_heap_malloc(heap, WHOLE + (1 + GROWS + 1) * PAGE); /* cut, as what is kept is taken first */
    CHECK(nm_heap_realloc(heap, hole, WHOLE) == hole);
    char *fence = nm_heap_malloc(heap, PAGE), *ptr = nm_heap_malloc(heap, GROWS * PAGE), *fence2 = nm_heap_malloc(heap, PAGE);
    CHECK(nm_is_aligned((uintptr_t)hole, PAGE) && fence == hole + WHOLE && nm_region_dirty() == 0);
    nm_heap_free(heap, hole);
    CHECK(nm_heap_realloc(heap, ptr, (GROWS + 1) * PAGE) == hole);
    char *left = nm_heap_malloc(heap, GROWS * PAGE); /* where it was; all else that is kept is spare */
    CHECK(left == ptr);
    size_t before = nm_region_dirty();
    nm_heap *h = nm_heap_create(NULL, false);
    CHECK((char *)nm_heap_malloc(h, 64) == hole + (HOLE - 1) * PAGE && nm_region_dirty() == before - PAGE);
    sound();
    ptr = nm_heap_malloc(heap, BEHIND * NM_PAGE + NM_CELL_MAX); /* more than that: from the spare span's end */
    CHECK(ptr == hole + (HOLE - 1) * PAGE - BEHIND * NM_PAGE - NM_CELL_MAX);
    sound();
    nm_heap_destroy(h);
    char *all[] = {hole, ptr, left, fence, fence2};
    for (size_t i = 0; i < sizeof all / sizeof *all; i++) nm_heap_free(heap, all[i]);
    nm_region_trim();
    CHECK(used() == 0);
    sound();
}

/* A zeroed block up to 32 MiB is wiped where memory is kept: page faults cost many times as much. */
static void test_zeroed_blocks_use_what_is_kept(void) {
    enum { SMALL = 8, LARGE = 512 };
    static const size_t sizes[] = {SMALL, LARGE - 1, LARGE};
    for (int i = 0; i < 3; i++) {
        size_t n = sizes[i], bad = 0;
        nm_region_trim();
        forget();
        char *ptr = nm_heap_malloc(heap, n * PAGE), *fence = nm_heap_malloc(heap, PAGE);
        memset(ptr, 1, n * PAGE);
        nm_heap_free(heap, ptr);
        CHECK(kept() == n);
        unsigned char *zeros = nm_heap_calloc(heap, n, PAGE);
        CHECK(nm__page_of(zeros)->zero == (n >= LARGE) && (n >= LARGE || (char *)zeros == ptr));
        for (size_t k = 0; k < n * PAGE; k++) bad += zeros[k] != 0;
        CHECK(bad == 0);
        nm_heap_free(heap, zeros);
        nm_heap_free(heap, fence);
    }
    nm_region_trim();
    sound();
}

/* Where it fits but could not grow a large block is not moved to. */
static void test_a_tight_place_is_none(void) {
    nm_region_trim();
    forget();
    char *hole = nm_heap_malloc(heap, (22 + 1 + 16 + 1 + 16 + 1) * PAGE); /* cut, as what is kept is taken first */
    CHECK(nm_heap_realloc(heap, hole, 22 * PAGE) == hole);
    char *fence = nm_heap_malloc(heap, PAGE), *one = nm_heap_malloc(heap, 16 * PAGE);
    char *fence2 = nm_heap_malloc(heap, PAGE), *two = nm_heap_malloc(heap, 16 * PAGE);
    char *fence3 = nm_heap_malloc(heap, PAGE);
    CHECK(kept() == 0);
    nm_heap_free(heap, hole);
    char *moved = nm_heap_realloc(heap, one, 18 * PAGE); /* 22 are no fourth more */
    CHECK(moved != hole && moved != one);
    CHECK(nm_heap_realloc(heap, two, 17 * PAGE) == hole);
    sound();
    nm_heap_free(heap, moved);
    nm_heap_free(heap, hole);
    nm_heap_free(heap, fence);
    nm_heap_free(heap, fence2);
    nm_heap_free(heap, fence3);
    nm_region_trim();
    sound();
}

/* A list that grows by an eighth at a time among its items, and takes the place of the one before. */
static size_t grow_again(generation *g) {
    enum { LAST = 48 };
    generation next = {.table = nm_heap_malloc(heap, PAGE)};
    size_t pages = 1, n = 0, moves = 0;
    while (pages < LAST) {
        size_t more = pages / 8 + 1, to = pages + more < LAST ? pages + more : LAST;
        while (n < THINGS * to / LAST) next.things[n++] = take_pages(1);
        char *grown = nm_heap_realloc(heap, next.table, to * PAGE);
        moves += grown != next.table;
        next.table = grown;
        pages = to;
    }
    if (g->table != NULL) drop(g);
    *g = next;
    return moves;
}
static void test_a_list_that_is_built_again_needs_no_slack(void) {
    nm_region_trim();
    forget();
    generation g = {0};
    size_t there = 0;
    for (int turn = 0; turn < 60; turn++) {
        fresh = 0;
        size_t moves = grow_again(&g);
        if (turn == 3) there = used() + kept();
        if (turn >= 3) CHECK(fresh == 0 && moves <= 4 && used() + kept() <= there);
        sound();
    }
    drop(&g);
    nm_region_trim();
}

/* No size fits where the one before was: slack would never be enough, and has an end. */
static void test_slack_has_an_end(void) {
    enum { FROM = 20, TO = 120 };
    static char *fences[TO];
    forget();
    size_t most = 0;
    for (size_t n = FROM; n < TO; n++) {
        char *ptr = nm_heap_malloc(heap, n * PAGE);
        fences[n] = nm_heap_malloc(heap, PAGE);
        nm_heap_free(heap, ptr);
        most = used() + kept() > most ? used() + kept() : most;
    }
    CHECK(most <= peak() * 5 / 4 + 64);
    for (size_t n = FROM; n < TO; n++) nm_heap_free(heap, fences[n]);
    nm_region_trim();
    sound();
}

/* What is kept after a peak is little, unless it is used again; then it is as much as that. */
static void test_a_peak_leaves_little(void) {
    enum { PEAK = 900, SPAN = 30, ANYWAY = 512 };
    static char *spans[PEAK / SPAN];
    nm_region_trim();
    forget();
    for (int turn = 0; turn < 4; turn++) {
        for (int i = 0; i < PEAK / SPAN; i++) spans[i] = nm_heap_malloc(heap, SPAN * PAGE);
        for (int i = 0; i < PEAK / SPAN; i++) nm_heap_free(heap, spans[i]);
        if (turn == 0) CHECK(kept() >= ANYWAY && kept() <= ANYWAY + SPAN);
        if (turn == 3) CHECK(kept() >= PEAK && kept() <= PEAK + PEAK / 4 + 64);
        sound();
    }
    nm_region_trim();
}

int main(void) {
    nm_region_init((size_t)1 << 30, (size_t)1 << 30, 3600000);
    heap = nm_heap_create(NULL, false);
    RUN(test_growing_in_place());
    RUN(test_sizes_that_do_not_fit_do_not_add_up());
    RUN(test_a_loop_gets_the_slack_that_it_needs());
    RUN(test_what_is_kept_behind_a_block_that_grows());
    RUN(test_a_tight_place_is_none());
    RUN(test_a_list_that_is_built_again_needs_no_slack());
    RUN(test_slack_has_an_end());
    RUN(test_growing_among_others(64, 3));
    RUN(test_growing_among_others(16, 5));
    RUN(test_a_peak_leaves_little());
    RUN(test_huge_pages_are_for_large_blocks());
    RUN(test_zeroed_blocks_use_what_is_kept());
    RUN(test_what_is_behind_the_end_of_a_spare_span());
    nm_heap_destroy(heap);
    return finish();
}
