/* The region where it ends: a small one, filled to the last page. What comes back is joined again. */
#define _GNU_SOURCE /* MAP_ANONYMOUS */
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "heap/heap.h"
#include "heap/region_internal.h"
#include "locks.h"
#include "harness.h"
#include "nativemem.h"

#define PAGE NM_SUPERBLOCK
#define DECAY_MS 1000001 /* no multiple of the number of windows */
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
    CHECK(nm_region_dirty() >= PAGES / 2 * PAGE); /* and what is not needed again has gone */
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
    CHECK(census().held <= NM_SUPERBLOCK_LARGE);
    nm_heap_trim(heap);
    whole();
}

/* Random spans with every page of each stamped, so that no two share one, against the sum of what is live. */
static void test_programs_near_the_end(void) {
    enum { SLOTS = 40 };
    struct {
        unsigned char *ptr;
        size_t pages;
    } slots[SLOTS] = {0};
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

/* ---- what is mapped --------------------------------------------------------------------------------- */

/* Runs in a child: its region is its own. */
static int in_child(int (*program)(void)) {
    pid_t child = fork();
    if (child == 0) _exit(program());
    int state = -1;
    return waitpid(child, &state, 0) == child && WIFEXITED(state) ? WEXITSTATUS(state) : -1;
}
#define TRY(condition)                                                                              \
    do {                                                                                            \
        if (!(condition)) return fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition), 1; \
    } while (0)

static nm_heap *start_region(void) {
    return nm_region_init((size_t)8 << 30, (size_t)1 << 30, 1000000) == NM_OK ? nm_heap_create(NULL, false) : NULL;
}

/* Something else maps there, and writes into it. */
static char *plant(void *at, size_t size) {
    char *ptr = mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ptr != at) return NULL;
    fill(ptr, size, 9);
    return ptr;
}

static int sound_now(nm_heap *h) {
    const char *broken = nm__region_check();
    if (broken == NULL) broken = nm_heap_check(h);
    if (broken != NULL) fprintf(stderr, "%s\n", broken);
    return broken == NULL;
}

static int a_mapping_in_the_way(void) {
    nm_heap *h = start_region();
    TRY(h != NULL && nm_region_size() == (size_t)8 << 30);
    char *base = (char *)nm__region_base;
    /* A page in what the first step maps, part of one, and many, across the end of the table's first part. */
    char *one = plant(base + 3 * PAGE, PAGE), *part = plant(base + 9 * PAGE + 4096, 4096);
    char *many = plant(base + 1000 * PAGE, 300 * PAGE);
    TRY(one != NULL && part != NULL && many != NULL);
    enum { BLOCKS = 4000 };
    static char *blocks[BLOCKS];
    for (size_t i = 0; i < BLOCKS; i++) {
        size_t size = i % 3 == 0 ? 2 * PAGE : 3000;
        TRY((blocks[i] = nm_heap_malloc(h, size)) != NULL);
        fill(blocks[i], size, (unsigned)i);
        TRY(blocks[i] + size <= one || blocks[i] >= one + PAGE);
        TRY(blocks[i] + size <= part || blocks[i] >= part + 4096);
        TRY(blocks[i] + size <= many || blocks[i] >= many + 300 * PAGE);
    }
    char *large = nm_heap_malloc(h, 900 * PAGE);
    TRY(large >= many + 300 * PAGE && sound_now(h));
    TRY(atomic_load(&nm__region_reach) > 1300);
    for (char *ptr = many; ptr < many + 300 * PAGE; ptr += 77 * 4096) { /* another allocator's blocks */
        TRY(nm__superblock_of(ptr) != NULL && nm__superblock_of_block(ptr) == NULL && !nm__region_has(ptr) &&
            !nm_region_owns(ptr));
        TRY(nm_heap_free(h, ptr) == NM_FOREIGN_BLOCK && nm_heap_of(ptr) == NULL);
    }
    TRY(!nm__region_has(one) && !nm__region_has(part) && nm__region_has(blocks[0]) && nm_region_owns(blocks[0]));
    TRY(nm_heap_free(h, large + PAGE) == NM_FOREIGN_BLOCK && nm__region_has(large + PAGE));
    nm_heap_free(h, large);
    for (size_t i = 0; i < BLOCKS; i++) {
        TRY(filled(blocks[i], i % 3 == 0 ? 2 * PAGE : 3000, (unsigned)i));
        nm_heap_free(h, blocks[i]);
    }
    nm_heap_trim(h);
    TRY(filled(one, PAGE, 9) && filled(part, 4096, 9) && filled(many, 300 * PAGE, 9) && sound_now(h));
    return 0;
}

static int a_mapping_where_memory_was_given_back(void) {
    nm_heap *h = start_region();
    char *first = nm_heap_malloc(h, 100 * PAGE), *fence = nm_heap_malloc(h, PAGE), *other = nm_heap_malloc(h, 200 * PAGE);
    nm_heap_free(h, first);
    nm_heap_free(h, other);
    nm_region_trim();
    TRY(!nm_region_owns(first) && nm_region_owns(fence) && sound_now(h));
    char *planted = plant(first + 40 * PAGE, 3 * PAGE);
    TRY(planted != NULL);
    char *again = nm_heap_malloc(h, 90 * PAGE); /* the best fit, if nothing were there */
    TRY(again != NULL && (again + 90 * PAGE <= planted || again >= planted + 3 * PAGE) && sound_now(h));
    fill(again, 90 * PAGE, 1);
    char *behind = plant(fence + 3 * PAGE, 4096); /* where a span might grow */
    TRY(behind != NULL || nm__region_has(fence + 3 * PAGE));
    char *grown = nm_heap_realloc(h, fence, 6 * PAGE);
    TRY(grown != NULL && sound_now(h));
    fill(grown, 6 * PAGE, 2);
    TRY(filled(planted, 3 * PAGE, 9) && (behind == NULL || filled(behind, 4096, 9)));
    TRY(nm_heap_free(h, planted) == NM_FOREIGN_BLOCK && !nm__region_has(planted));
    TRY(filled(again, 90 * PAGE, 1));
    nm_heap_free(h, again);
    nm_heap_free(h, grown);
    nm_region_trim();
    TRY(sound_now(h));
    return 0;
}

static int a_mapping_where_a_span_would_grow(void) {
    nm_heap *h = start_region();
    char *block = nm_heap_malloc(h, PAGE), *planted = plant(block + 20 * PAGE, 4096);
    TRY(planted != NULL && !nm__region_has(planted));
    fill(block, PAGE, 3);
    char *grown = nm_heap_realloc(h, block, 60 * PAGE);
    TRY(grown >= planted + PAGE && filled(grown, PAGE, 3) && sound_now(h));
    fill(grown, 60 * PAGE, 2);
    TRY(filled(planted, 4096, 9));
    nm_heap_free(h, grown);
    return !sound_now(h);
}

static int a_mapping_over_all_that_follows(void) {
    nm_heap *h = start_region();
    char *block = nm_heap_malloc(h, 3000), *base = (char *)nm__region_base;
    size_t reach = atomic_load(&nm__region_reach);
    char *wall = mmap(base + reach * PAGE, ((size_t)7 << 30), PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    TRY(wall == base + reach * PAGE);
    for (int i = 0; i < 3; i++) TRY(nm_heap_malloc(h, (size_t)5 << 30) == NULL && nm_last_failure().status == NM_OUT_OF_MEMORY);
    fill(block, 3000, 4);
    char *more = nm_heap_malloc(h, 2 * PAGE); /* what is mapped is good */
    TRY(more != NULL && sound_now(h) && filled(block, 3000, 4));
    return 0;
}

static int a_mapping_in_the_table(void) {
    nm_heap *h = start_region();
    char *block = nm_heap_malloc(h, 3000), *table = (char *)nm__pages;
    fill(block, 3000, 5);
    char *planted = plant(table + (128 << 20) / NM_PAGE * sizeof(nm__page), 4096); /* of pages from 128 MiB on */
    TRY(planted != NULL);
    char *most = nm_heap_malloc(h, 1900 * PAGE), *beyond = nm_heap_malloc(h, 300 * PAGE);
    TRY(most != NULL && beyond == NULL && nm_last_failure().status == NM_OUT_OF_MEMORY);
    nm_heap_free(h, most);
    TRY(nm_heap_malloc(h, 300 * PAGE) != NULL);
    TRY(filled(planted, 4096, 9) && filled(block, 3000, 5) && sound_now(h));
    return 0;
}

#if !defined(NM__WATCHED) && !defined(NM__TSAN) /* a checker keeps notes of each byte of 9 GiB */
/* A process may have some 65,000 mappings: with many free spans that are not mapped no block gets one of its own. */
static int many_spans_that_are_away(void) {
    enum { SPANS = 8300, LEAST = 16 };
    static char *spans[SPANS], *fences[SPANS];
    TRY(nm_region_init((size_t)16 << 30, (size_t)1 << 30, 1000000) == NM_OK);
    nm_heap *h = nm_heap_create(NULL, false);
    char *early = nm_heap_malloc(h, LEAST * PAGE), *fence = nm_heap_malloc(h, PAGE);
    early = nm_heap_realloc(h, early, (LEAST + 1) * PAGE);
    TRY(early != NULL && !nm__region_has(early + (LEAST + 1) * PAGE)); /* room */
    for (size_t i = 0; i < SPANS; i++) { /* untouched */
        spans[i] = nm_heap_malloc(h, LEAST * PAGE);
        fences[i] = nm_heap_malloc(h, PAGE);
        TRY(spans[i] != NULL && fences[i] != NULL);
    }
    for (size_t i = 0; i < SPANS; i++) nm_heap_free(h, spans[i]);
    nm_region_trim();
    char *late = nm_heap_malloc(h, (LEAST + 1) * PAGE), *fence2 = nm_heap_malloc(h, (LEAST + 1) * PAGE);
    fill(late, (LEAST + 1) * PAGE, 6);
    char *moved = nm_heap_realloc(h, late, (LEAST + 2) * PAGE);
    TRY(moved != late && filled(moved, (LEAST + 1) * PAGE, 6) && nm__region_has(moved + (LEAST + 2) * PAGE));
    TRY(fence != NULL && fence2 != NULL);
    return !sound_now(h);
}
#endif

static void test_mappings_of_others_are_left_alone(void) { /* before there is a region here */
    CHECK(in_child(a_mapping_in_the_way) == 0);
    CHECK(in_child(a_mapping_where_memory_was_given_back) == 0);
    CHECK(in_child(a_mapping_where_a_span_would_grow) == 0);
    CHECK(in_child(a_mapping_over_all_that_follows) == 0);
    CHECK(in_child(a_mapping_in_the_table) == 0);
#if !defined(NM__WATCHED) && !defined(NM__TSAN)
    CHECK(in_child(many_spans_that_are_away) == 0);
#endif
}

#if !defined(NM__WATCHED) && !defined(NM__TSAN) /* a checker's own address space is larger, and exceeds any limit */
static size_t virtual_size(void) {
    unsigned long pages = 0;
    FILE *statm = fopen("/proc/self/statm", "r");
    if (statm == NULL || fscanf(statm, "%lu", &pages) != 1) pages = 0;
    if (statm != NULL) fclose(statm);
    return pages * 4096;
}
static bool limit_to(size_t size) { return setrlimit(RLIMIT_AS, &(struct rlimit){size, RLIM_INFINITY}) == 0; }
static bool can_map(size_t size) {
    void *ptr = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    return ptr != MAP_FAILED && munmap(ptr, size) == 0;
}
#define MIB ((size_t)1 << 20)

/* Blocks of a size until there are no more; how many. */
static char *kept_blocks[300000];
static size_t fill_up(nm_heap *h, size_t size) {
    size_t n = 0;
    while (n < sizeof kept_blocks / sizeof *kept_blocks && (kept_blocks[n] = nm_heap_malloc(h, size)) != NULL) n++;
    return n;
}
static void drain(nm_heap *h, size_t n) {
    while (n > 0) nm_heap_free(h, kept_blocks[--n]);
}

static int little_is_mapped(void) {
    size_t before = virtual_size();
    nm_heap *h = start_region();
    char *block = nm_heap_malloc(h, 100);
    TRY(block != NULL && virtual_size() - before <= 4 * MIB);
    static const size_t sizes[] = {3000, 90000, 3 * MIB, 80 * MIB};
    for (int i = 0; i < 4; i++) {
        size_t n = 400 * MIB / sizes[i];
        for (size_t k = 0; k < n; k++) TRY((kept_blocks[k] = nm_heap_malloc(h, sizes[i])) != NULL);
        size_t mapped = virtual_size() - before;
        TRY(mapped >= 390 * MIB && mapped <= 700 * MIB); /* an eighth more; pages round 90,000 up */
        drain(h, n);
        TRY(virtual_size() - before <= 100 * MIB); /* as glibc keeps */
        nm_heap_trim(h);
        TRY(virtual_size() - before <= 8 * MIB && sound_now(h));
        TRY(nm_region_init(0, (size_t)1 << 30, 1000000) == NM_OK); /* forgets what was needed */
    }
    return 0;
}

/* The rest of the process can have what the heap does not use, and the heap what the rest does not. */
static int under_a_limit(size_t size) {
    TRY(limit_to(virtual_size() + 300 * MIB));
    nm_heap *h = start_region();
    TRY(h != NULL && nm_region_size() == (size_t)8 << 30);
    for (int turn = 0; turn < 3; turn++) {
        size_t n = fill_up(h, size);
        TRY(n * size >= 250 * MIB && n * size <= 300 * MIB && nm_last_failure().status == NM_OUT_OF_MEMORY);
        TRY(sound_now(h) && nm_heap_malloc(h, size) == NULL);
        drain(h, n);
        TRY(can_map(250 * MIB) && sound_now(h));
    }
    return 0;
}
static int cells_under_a_limit(void) { return under_a_limit(4000); }
static int spans_under_a_limit(void) { return under_a_limit(8 * PAGE); }
static int large_blocks_under_a_limit(void) { return under_a_limit(20 * MIB); }

static int a_limit_that_comes_later(void) {
    nm_heap *h = start_region();
    TRY(nm_region_init(0, 256 * MIB, 1000000) == NM_OK);
    for (int i = 0; i < 2; i++) { /* what was the peak does not matter */
        size_t n = 900 * MIB / (i == 0 ? 4000 : 8 * MIB);
        for (size_t k = 0; k < n; k++) kept_blocks[k] = nm_heap_malloc(h, i == 0 ? 4000 : 8 * MIB);
        drain(h, n);
    }
    TRY(limit_to(virtual_size() + 200 * MIB));
    TRY(can_map(190 * MIB));
    TRY(nm_heap_malloc(h, 500 * MIB) == NULL && nm_last_failure().status == NM_OUT_OF_MEMORY);
    TRY(can_map(190 * MIB)); /* nothing was lost by that */
    size_t n = fill_up(h, MIB);
    TRY(n >= 190 && n <= 500 && sound_now(h));
    drain(h, n);
    TRY(can_map(190 * MIB) && sound_now(h));
    TRY(limit_to(RLIM_INFINITY));
    TRY(nm_heap_malloc(h, 500 * MIB) != NULL);
    return 0;
}

/* What is kept for reuse is given up before anything is refused. */
static int kept_is_given_up(void) {
    nm_heap *h = start_region();
    char *block = nm_heap_malloc(h, 30 * MIB), *fence = nm_heap_malloc(h, 100);
    nm_heap_free(h, block);
    TRY(nm_region_dirty() >= 30 * MIB);
    TRY(limit_to(virtual_size() + 15 * MIB));
    TRY(nm_heap_malloc(h, 40 * MIB) != NULL && fence != NULL && nm_region_dirty() == 0 && sound_now(h));
    return 0;
}

/* Then there is place to grow, though not to move. */
static int kept_is_given_up_to_grow(void) {
    nm_heap *h = start_region();
    char *other = nm_heap_malloc(h, 30 * MIB), *fence = nm_heap_malloc(h, PAGE), *block = nm_heap_malloc(h, 20 * MIB);
    fill(block, 20 * MIB, 7);
    nm_heap_free(h, other);
    TRY(nm_region_dirty() >= 30 * MIB && fence != NULL);
    TRY(limit_to(virtual_size() + 5 * MIB));
    TRY(nm_heap_realloc(h, block, 45 * MIB) == block && filled(block, 20 * MIB, 7) && sound_now(h));
    return 0;
}

/* Among others it grows as far as the limit allows: it need not be there twice. */
static int a_block_grows_under_a_limit(void) {
    nm_heap *h = start_region();
    TRY(limit_to(virtual_size() + 300 * MIB));
    char *block = nm_heap_malloc(h, 5 * MIB);
    fill(block, 5 * MIB, 8);
    for (size_t size = 6 * MIB, n = 0; size < 288 * MIB; size += size / 16, n++) {
        TRY((kept_blocks[n] = nm_heap_malloc(h, PAGE)) != NULL);
        char *grown = nm_heap_realloc(h, block, size);
        TRY(grown != NULL && filled(grown, 5 * MIB, 8) && sound_now(h));
        block = grown;
    }
    return 0;
}

/* A limit that is set later is seen within a window: less is kept then. */
static int a_limit_is_seen(void) {
    nm_heap *h = start_region();
    TRY(nm_region_init(0, (size_t)1 << 30, 80) == NM_OK && limit_to(virtual_size() + 256 * MIB));
    for (uint64_t from = nm__os_now_ms(); nm__os_now_ms() - from < 40;) continue;
    char *block = nm_heap_malloc(h, 30 * MIB);
    TRY(block != NULL);
    nm_heap_free(h, block);
    TRY(nm_region_dirty() <= 10 * MIB && sound_now(h));
    return 0;
}

static int no_address_space(void) {
    TRY(limit_to(virtual_size()));
    TRY(nm_region_init((size_t)64 << 30, 0, 1000) == NM_OUT_OF_MEMORY && nm_region_size() == 0);
    TRY(nm_last_failure().status == NM_OUT_OF_MEMORY && nm_heap_create(NULL, false) == NULL);
    TRY(limit_to(RLIM_INFINITY));
    TRY(start_region() != NULL);
    return 0;
}

static void test_address_space(void) { /* before there is a region here */
    CHECK(in_child(little_is_mapped) == 0);
    CHECK(in_child(cells_under_a_limit) == 0);
    CHECK(in_child(spans_under_a_limit) == 0);
    CHECK(in_child(large_blocks_under_a_limit) == 0);
    CHECK(in_child(a_limit_that_comes_later) == 0);
    CHECK(in_child(kept_is_given_up) == 0);
    CHECK(in_child(kept_is_given_up_to_grow) == 0);
    CHECK(in_child(a_block_grows_under_a_limit) == 0);
    CHECK(in_child(a_limit_is_seen) == 0);
    CHECK(in_child(no_address_space) == 0);
}
#endif

/* A block that comes back where no more can be had is found again, and that search costs nothing where there is none. */
static int each_is_looked_at_once(void) {
    TRY(nm_region_init(PAGES * PAGE, 0, 1000000) == NM_OK);
    nm_heap *h = nm_heap_create(NULL, false);
    size_t bin = nm__bin_of(100), n = 0;
    static char *blocks[PAGES * 700];
    while ((blocks[n] = nm_heap_malloc(h, 100)) != NULL) n++;
    nm__theap *part = nm__heap_attach(h);
    TRY(n == PAGES * (PAGE / 112) && part->waiting[bin][0] == NULL && part->waiting[bin][NM__FULL] != NULL && sound_now(h));
    for (size_t i = 0; i < n; i += n / 10) {
        nm_heap_free(h, blocks[i]);
        TRY(sound_now(h));
        TRY((blocks[i] = nm_heap_malloc(h, 100)) != NULL && nm_heap_malloc(h, 100) == NULL);
        TRY(part->waiting[bin][0] == NULL && sound_now(h));
    }
    while (n > 0) nm_heap_free(h, blocks[--n]);
    nm_heap_trim(h);
    TRY(sound_now(h) && nm__heap_held(h) == 0);
    return 0;
}
static void test_a_full_region_is_searched_once(void) { CHECK(in_child(each_is_looked_at_once) == 0); }

/* What was free in each window goes: together they are as long as the decay time, or memory would go before it. */
static void test_windows_make_up_the_decay_time(void) {
    uint64_t from, to;
    do { /* within one millisecond */
        from = nm__os_now_ms();
        nm__region_lock();
        nm__decay_start();
        nm__region_unlock();
        to = nm__os_now_ms();
    } while (from != to);
    uint64_t window = atomic_load(&nm__region.window_ends_ms) - to;
    CHECK(NM_DECAY_WINDOWS * window >= DECAY_MS && NM_DECAY_WINDOWS * (window - 1) <= DECAY_MS);
}

int main(void) {
    RUN(test_mappings_of_others_are_left_alone());
#if !defined(NM__WATCHED) && !defined(NM__TSAN)
    RUN(test_address_space());
#endif
    RUN(test_a_full_region_is_searched_once());
    if (nm_region_init(PAGES * PAGE, (size_t)1 << 30, DECAY_MS) != NM_OK || nm_region_size() != PAGES * PAGE) return 2;
    if ((heap = nm_heap_create(NULL, false)) == NULL) return 2;
    RUN(test_windows_make_up_the_decay_time());
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
