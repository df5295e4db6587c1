/* What is kept for reuse never makes the process larger than it once had to be. */
#include "alloc/heap.h"
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
static void sound(void) {
    SOUND(nm_heap_check(heap));
    SOUND(nm__region_check());
}

static void test_sizes_that_do_not_fit_do_not_add_up(void) {
    char *low = nm_heap_malloc(heap, 100 * PAGE), *fence = nm_heap_malloc(heap, PAGE);
    char *high = nm_heap_malloc(heap, 100 * PAGE), *fence2 = nm_heap_malloc(heap, PAGE);
    nm_heap_free(heap, low);
    nm_heap_free(heap, high);
    CHECK(used() == 2 && kept() == 200); /* 202 were in use */
    char *other = nm_heap_malloc(heap, 110 * PAGE); /* fits into neither */
    CHECK(used() == 112 && kept() == 90);
    sound();
    char *third = nm_heap_malloc(heap, 89 * PAGE); /* what is left was the newest, and takes it */
    CHECK(used() == 201 && kept() == 1);
    char *more = nm_heap_malloc(heap, 130 * PAGE); /* never were there so many */
    CHECK(used() == 331 && kept() == 0);
    sound();
    nm_heap_free(heap, third);
    CHECK(kept() == 89);
    unsigned char *zeros = nm_heap_calloc(heap, 1, 95 * PAGE); /* clean ones take the place of dirty ones */
    CHECK(used() == 337 && kept() == 0);
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
    char *low = nm_heap_malloc(heap, 100 * PAGE), *fence = nm_heap_malloc(heap, PAGE);
    char *last = nm_heap_malloc(heap, 50 * PAGE);
    nm_heap_free(heap, low);
    CHECK(used() == 51 && kept() == 100); /* 151 were in use */
    CHECK(nm_heap_realloc(heap, last, 120 * PAGE) == last);
    CHECK(used() == 121 && kept() == 30);
    sound();
    nm_heap_free(heap, last);
    CHECK(kept() == 150);
    last = nm_heap_malloc(heap, 60 * PAGE);
    CHECK(nm_heap_realloc(heap, last, 110 * PAGE) == last); /* into what is kept */
    CHECK(used() == 111 && kept() == 40);
    nm_heap_free(heap, last);
    nm_heap_free(heap, fence);
    nm_region_trim();
    sound();
}

/* A block that grows again and again, with something behind it each time. */
static void test_growing_among_others(void) {
    enum { FIRST = 64, LAST = 600 };
    nm_region_trim();
    static char *fences[2 * LAST];
    char *ptr = nm_heap_malloc(heap, FIRST * PAGE);
    size_t pages = FIRST, n = 0, moves = 0;
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
    CHECK(moves >= 1 && moves <= 4); /* with each doubling */
    nm_heap_free(heap, ptr);
    CHECK(kept() == pages);
    ptr = nm_heap_malloc(heap, (pages + 10) * PAGE); /* the old place and the new were never in use at once */
    CHECK(used() == pages + 10 + n && kept() == 0);
    unsigned char *zeros = nm_heap_calloc(heap, 1, FIRST * PAGE); /* where it was at first */
    size_t bad = 0;
    for (size_t i = 0; i < FIRST * PAGE; i++) bad += zeros[i] != 0;
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

int main(void) {
    nm_region_init((size_t)1 << 30, (size_t)1 << 30, 3600000);
    heap = nm_heap_create(NULL, false);
    RUN(test_growing_in_place());
    RUN(test_sizes_that_do_not_fit_do_not_add_up());
    RUN(test_growing_among_others());
    RUN(test_huge_pages_are_for_large_blocks());
    nm_heap_destroy(heap);
    return finish();
}
