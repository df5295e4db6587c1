/* The secure heap: what it finds, what it wipes, where its blocks lie. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <sys/random.h>
#include <sys/wait.h>
#include <unistd.h>

#include "heap/internal.h"
#include "locks.h"
#include "harness.h"
#include "nativemem.h"

static const size_t sizes[] = {1, 15, 16, 17, 100, 496, 497, 2000, 32752, 32753, 65536, 200000};
#define SIZES (sizeof sizes / sizeof *sizes)

static void sound(nm_heap *h) {
    SOUND(nm_heap_check(h));
    SOUND(nm__region_check());
}
static size_t live(nm_heap *h) {
    nm_stats s;
    nm_allocator port = nm_heap_port(h);
    port.methods->stats(port.self, &s);
    return s.live;
}

/* Under a checker a freed cell cannot be looked at, which is its own way to find the mistake. */
#ifdef NM__WATCHED
#define LOOKS_AT_FREED false
#else
#define LOOKS_AT_FREED true
#endif

/* Of its cell or span, before the guard. */
static size_t room_of(const void *ptr) {
    const nm__superblock *sb = nm__superblock_of_cell(ptr);
    return sb != NULL ? sb->cells.cell : (size_t)nm__page_of(ptr)->npages * NM_PAGE - nm__region_os_page;
}

static void test_overflow(void) {
    nm_heap *h = nm_heap_create(NULL, true);
    nm_allocator port = nm_heap_port(h);
    for (size_t i = 0; i < SIZES; i++) {
        size_t size = sizes[i];
        unsigned char *ptr = nm_alloc(port, size, 16);
        size_t end = room_of(ptr);
        CHECK(nm_heap_usable_of(ptr) == size && end >= size + 16);
        for (size_t at = size; at < end; at += at < size + 40 || at >= end - 40 ? 1 : 13) { /* slack, size, canary */
            ptr[at] ^= 0x41;
            CHECK(nm_free(port, ptr, size, 16) == NM_CORRUPTED && nm_last_failure().status == NM_CORRUPTED);
            CHECK(live(h) == 1);
            ptr[at] ^= 0x41;
        }
        CHECK(nm_free(port, ptr, size, 16) == NM_OK);
        CHECK(live(h) == 0);
    }
    nm_heap_destroy(h);
}

/* In place as far as the cell or span goes, with the tail behind the new size; a no is no failure. */
static void test_resize(void) {
    nm_heap *h = nm_heap_create(NULL, true);
    nm_allocator port = nm_heap_port(h);
    for (size_t i = 0; i < SIZES; i++) {
        size_t size = sizes[i];
        unsigned char *ptr = nm_alloc(port, size, 16);
        size_t room = room_of(ptr) - 16;
        fill(ptr, size, 3);
        (void)nm_refuse(NM_CLOSED, 0, 0, 0);
        for (size_t to = room + 40; to > room; to--) CHECK(!port.methods->resize(port.self, ptr, size, to, 16));
        CHECK(nm_last_failure().status == NM_CLOSED);
        CHECK(nm_heap_usable_of(ptr) == size && filled(ptr, size, 3));
        CHECK(port.methods->resize(port.self, ptr, size, room, 16));
        CHECK(nm_heap_usable_of(ptr) == room && filled(ptr, size, 3));
        ptr[room] ^= 1;
        CHECK(nm_free(port, ptr, room, 16) == NM_CORRUPTED);
        ptr[room] ^= 1;
        CHECK(nm_free(port, ptr, room, 16) == NM_OK);
    }
    sound(h);
    nm_heap_destroy(h);
}

static void test_double_free(void) {
    nm_heap *h = nm_heap_create(NULL, true), *other = nm_heap_create(NULL, true);
    nm_allocator port = nm_heap_port(h);
    void *kept = nm_alloc(port, 100, 16), *ptr = nm_alloc(port, 100, 16);
    CHECK(nm_free(nm_heap_port(other), ptr, 100, 16) == NM_FOREIGN_BLOCK);
    CHECK(nm_free(port, (char *)ptr + 16, 84, 16) == NM_FOREIGN_BLOCK);
    CHECK(nm_free(port, ptr, 100, 16) == NM_OK);
    CHECK(nm_free(port, ptr, 100, 16) == NM_DOUBLE_FREE);
    CHECK(nm_heap_free(h, ptr) == NM_DOUBLE_FREE);
    CHECK(live(h) == 1);
    sound(h);
    CHECK(nm_free(port, kept, 100, 16) == NM_OK);
    void *span = nm_alloc(port, 100000, 16);
    CHECK(nm_free(port, (char *)span + 65536, 100, 16) == NM_FOREIGN_BLOCK);
    CHECK(nm_free(port, span, 100000, 16) == NM_OK);
    CHECK(nm_free(port, span, 100000, 16) == NM_FOREIGN_BLOCK); /* its pages belong to no block by now */
    nm_heap_destroy(other);
    nm_heap_destroy(h);
}

static void test_freed_memory_is_wiped_and_watched(void) {
    nm_heap *h = nm_heap_create(NULL, true);
    nm_allocator port = nm_heap_port(h);
    if (LOOKS_AT_FREED) {
        char *ptr = nm_alloc(port, 200, 16), *kept = nm_alloc(port, 200, 16);
        memset(ptr, 'x', 200);
        CHECK(nm_free(port, ptr, 200, 16) == NM_OK);
        for (size_t i = sizeof(void *); i < 200; i++) CHECK(ptr[i] == 0);
        ptr[100] = 'y';
        CHECK(nm_alloc(port, 200, 16) == NULL && nm_last_failure().status == NM_CORRUPTED);
        CHECK(live(h) == 1);
        ptr[100] = 0;
        uintptr_t link = *(uintptr_t *)(void *)ptr;
        *(uintptr_t *)(void *)ptr = (uintptr_t)&link; /* not what an encoded link looks like */
        CHECK(nm_alloc(port, 200, 16) == NULL && nm_last_failure().status == NM_CORRUPTED);
        *(uintptr_t *)(void *)ptr = link;
        CHECK(nm_alloc(port, 200, 16) == ptr);
        CHECK(nm_free(port, ptr, 200, 16) == NM_OK && nm_free(port, kept, 200, 16) == NM_OK);
        sound(h);
        char *span = nm_heap_malloc(h, 100000); /* its pages stay readable */
        memset(span, 'x', 100000);
        CHECK(nm_heap_free(h, span) == NM_OK);
        size_t left = 0;
        for (size_t i = 0; i < 100000; i++) left += span[i] == 'x';
        CHECK(left == 0);
    }
    nm_heap_destroy(h);
}

static void test_links_show_no_addresses(void) {
    nm_heap *h = nm_heap_create(NULL, true);
    nm_allocator port = nm_heap_port(h);
    void *cells[50];
    for (int i = 0; i < 50; i++) cells[i] = nm_alloc(port, 48, 16);
    for (int i = 0; i < 50; i++) {
        CHECK(nm_free(port, cells[i], 48, 16) == NM_OK);
        if (LOOKS_AT_FREED) CHECK(!nm_region_owns(*(void **)cells[i])); /* by chance it is one in 2^28 */
    }
    sound(h);
    nm_heap_destroy(h);
}

static void test_cells_are_shuffled(void) {
    nm_heap *h = nm_heap_create(NULL, true);
    nm_allocator port = nm_heap_port(h);
    size_t in_order = 0;
    char *last = nm_alloc(port, 48, 16);
    for (int i = 0; i < 200; i++) {
        char *ptr = nm_alloc(port, 48, 16);
        in_order += ptr == last + 64 || ptr == last - 64;
        last = ptr;
    }
    CHECK(in_order < 20); /* of 200; by chance there are about two in five runs */
    nm_heap_destroy(h);
}

/* Whether a look at ptr, or writing there, ends the process. */
static bool is_fatal(char *ptr, bool writing) {
    pid_t pid = fork();
    if (pid == 0) {
        (void)freopen("/dev/null", "w", stderr); /* a sanitizer's report of it is not wanted */
        if (writing) *(volatile char *)ptr = 1;
        else (void)*(volatile char *)ptr;
        _exit(0);
    }
    int status;
    return waitpid(pid, &status, 0) == pid && !(WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

static bool is_guarded(char *ptr) { return is_fatal(ptr, true) && is_fatal(ptr, false); }

static void test_guards(void) {
    nm_heap *h = nm_heap_create(NULL, true);
    nm_allocator port = nm_heap_port(h);
    char *cell = nm_alloc(port, 100, 16), *span = nm_alloc(port, 100000, 16);
    char *superblock = (char *)((uintptr_t)cell & ~(uintptr_t)65535);
    size_t os_page = nm__region_os_page, end = (size_t)nm__page_of(span)->npages * NM_PAGE;
    if (os_page < 65536) CHECK(is_guarded(superblock + 65536 - os_page) && is_guarded(superblock + 65535));
    CHECK(is_guarded(span + end - os_page) && is_guarded(span + end - 1));
    CHECK(!is_fatal(span + 99999, true) && !is_fatal(span + 99999, false));
    CHECK(nm_free(port, cell, 100, 16) == NM_OK && nm_free(port, span, 100000, 16) == NM_OK);
    nm_heap_trim(h);
    nm_heap_destroy(h);
    h = nm_heap_create(NULL, false); /* the heap that gets the pages next can write all of them */
    span = nm_heap_malloc(h, 4 * 65536);
    memset(span, 1, 4 * 65536);
    CHECK(nm_heap_free(h, span) == NM_OK);
    nm_heap_destroy(h);
}

static void test_mallocs_shape(void) {
    nm_heap *h = nm_heap_create(NULL, true);
    uint64_t seed = 7;
    for (int round = 0; round < 300; round++) {
        size_t size = below(&seed, round % 9 == 0 ? 100000 : 700), next = below(&seed, round % 7 == 0 ? 100000 : 700);
        unsigned char *ptr = nm_heap_malloc(h, size);
        CHECK(ptr != NULL && nm_heap_usable_of(ptr) == size + (size == 0));
        fill(ptr, size, 3);
        ptr = nm_heap_realloc(h, ptr, next);
        CHECK(ptr != NULL && filled(ptr, size < next ? size : next, 3) && nm_heap_usable_of(ptr) == next + (next == 0));
        CHECK(nm_heap_free(h, ptr) == NM_OK);
        ptr = nm_heap_calloc(h, 1, size);
        for (size_t i = 0; i < size; i++) CHECK(ptr[i] == 0);
        CHECK(nm_heap_free(h, ptr) == NM_OK);
        sound(h);
    }
    unsigned char *zeroed = nm_heap_calloc(h, 3, 200000);
    CHECK(zeroed != NULL && zeroed[0] == 0 && zeroed[599999] == 0 && nm_heap_free(h, zeroed) == NM_OK);
    CHECK(nm_heap_malloc(h, SIZE_MAX) == NULL && nm_last_failure().status == NM_INVALID_LAYOUT);
    unsigned char *ptr = nm_heap_malloc(h, 100);
    ptr[100] ^= 1;
    CHECK(nm_heap_realloc(h, ptr, 105) == NULL && nm_last_failure().status == NM_CORRUPTED);
    CHECK(nm_heap_free(h, ptr) == NM_CORRUPTED);
    ptr[100] ^= 1;
    CHECK(nm_heap_free(h, ptr) == NM_OK);
    nm_heap_destroy(h);
}

/* A block that moves is looked at as one that is freed or stays. */
static void test_realloc_looks_first(void) {
    static const size_t to[] = {0, 1, 20, 76, 99, 100, 105, 600, 70000};
    nm_heap *h = nm_heap_create(NULL, true);
    for (size_t i = 0; i < sizeof to / sizeof *to; i++) {
        unsigned char *ptr = nm_heap_malloc(h, 100);
        ptr[100] ^= 1;
        CHECK(nm_heap_realloc(h, ptr, to[i]) == NULL && nm_last_failure().status == NM_CORRUPTED);
        ptr[100] ^= 1;
        CHECK(nm_heap_free(h, ptr) == NM_OK);
        if (!LOOKS_AT_FREED) continue;
        CHECK(nm_heap_realloc(h, ptr, to[i]) == NULL && nm_last_failure().status == NM_DOUBLE_FREE);
    }
    sound(h);
    nm_heap_destroy(h);
}

/* There may be no smaller place: then it stays, with its tail behind the new size, and nothing was denied. */
static void test_shrinking_where_there_is_no_more(void) {
    nm_budget *b = nm_budget_create(65536, NULL, NULL);
    nm_heap *h = nm_heap_create(b, true);
    unsigned char *ptr = nm_heap_malloc(h, 2000);
    fill(ptr, 2000, 3);
    CHECK(nm_heap_realloc(h, ptr, 20) == ptr && nm_heap_usable_of(ptr) == 20 && filled(ptr, 20, 3));
    CHECK(nm_budget_denied(b) == 0);
    ptr[20] ^= 1;
    CHECK(nm_heap_free(h, ptr) == NM_CORRUPTED);
    ptr[20] ^= 1;
    CHECK(nm_heap_realloc(h, ptr, 5000) == NULL && nm_last_failure().status == NM_OVER_BUDGET && nm_budget_denied(b) == 1);
    CHECK(nm_heap_free(h, ptr) == NM_OK);
    sound(h);
    nm_heap_destroy(h);
    nm_budget_destroy(b);
}

typedef struct share {
    nm_heap *heap;
    void *blocks[400];
} share;
static void *free_all(void *arg) {
    share *s = arg;
    for (int i = 0; i < 400; i++) CHECK(nm_heap_free(s->heap, s->blocks[i]) == NM_OK);
    return NULL;
}
static void *make_all(void *arg) {
    share *s = arg;
    for (int i = 0; i < 400; i++) s->blocks[i] = memset(nm_heap_malloc(s->heap, 40 + (size_t)i), i, 40 + (size_t)i);
    return NULL;
}

/* Beside its guard page a superblock has room for seven of the largest cells. */
static void test_the_largest_cells_are_returned(void) {
    enum { N = 70 };
    void *blocks[N];
    nm_census before, after;
    nm_heap *h = nm_heap_create(NULL, true);
    for (int i = 0; i < N; i++) blocks[i] = nm_heap_malloc(h, 31000);
    nm_heap_census(h, &before);
    CHECK(before.held == N / 7 * NM_SUPERBLOCK_LARGE);
    for (int i = 0; i < N; i++) {
        CHECK(nm_heap_free(h, blocks[i]) == NM_OK);
        sound(h);
    }
    nm_heap_census(h, &after);
    CHECK(after.held == NM_SUPERBLOCK_LARGE); /* the first of the list stays, for the next block */
    nm_heap_trim(h);
    nm_heap_census(h, &after);
    CHECK(after.held == 0);
    nm_heap_destroy(h);
}

/* The same page for cells of two sizes in turn: what one left behind is no freed cell of the other. */
static void test_a_page_changes_its_bin(void) {
    nm_budget *one = nm_budget_create(NM_SUPERBLOCK, NULL, NULL);
    nm_heap *h = nm_heap_create(one, true);
    nm_allocator port = nm_heap_port(h);
    static const size_t two[] = {7104, 80};
    for (int i = 0; i < 8; i++) {
        void *ptr = nm_alloc(port, two[i % 2], 16);
        CHECK(ptr != NULL);
        if (ptr != NULL) CHECK(nm_free(port, memset(ptr, 'x', two[i % 2]), two[i % 2], 16) == NM_OK);
        sound(h);
    }
    nm_heap_destroy(h);
    nm_budget_destroy(one);
}

/* Encoded links on the way from thread to thread, and into the part of one that has ended. */
static void test_threads(void) {
    share s = {.heap = nm_heap_create(NULL, true)};
    pthread_t thread;
    for (int round = 0; round < 4; round++) {
        (void)make_all(&s);
        if (pthread_create(&thread, NULL, free_all, &s) == 0) pthread_join(thread, NULL);
        sound(s.heap);
        if (pthread_create(&thread, NULL, make_all, &s) == 0) pthread_join(thread, NULL);
        sound(s.heap);
        (void)free_all(&s);
        sound(s.heap);
    }
    nm_heap_trim(s.heap);
    sound(s.heap);
    nm_heap_destroy(s.heap);
}

static void test_a_secure_heap_claims_nothing(void) {
    nm_heap *h = nm_heap_create(NULL, true);
    nm__heap_claim(h);
    void *ptr = nm_heap_malloc(h, 64);
    CHECK(nm__theaps[NM__CLAIMED_SLOT] == &nm__no_theap);
    CHECK(nm__theap_alloc(nm__theaps[NM__CLAIMED_SLOT], nm__fine_bin(64)) == NULL);
    CHECK(nm__theap_free(h, nm__theaps[NM__CLAIMED_SLOT], ptr, nm__superblock_of(ptr)) == NM_OK);
    sound(h);
    nm_heap_destroy(h);
}

/* What the system gives for entropy: all that is asked for, less, or nothing, as early in its life. */
static enum { ANY, SAME, FEW, NONE } entropy;
ssize_t __real_getrandom(void *, size_t, unsigned);
ssize_t __wrap_getrandom(void *, size_t, unsigned);
ssize_t __wrap_getrandom(void *to, size_t size, unsigned flags) {
    if (entropy == ANY) return __real_getrandom(to, size, flags);
    CHECK(flags == GRND_NONBLOCK); /* an allocator that waits may stop a system's start */
    memset(to, 0x5A, size);
    return entropy == SAME ? (ssize_t)size : entropy == FEW ? (ssize_t)size - 1 : -1;
}

static void test_keys_are_of_the_systems_entropy(void) {
    const uint64_t given = 0x5A5A5A5A5A5A5A5A;
    entropy = SAME;
    CHECK(nm__os_random() == given);
    nm_heap *h = nm_heap_create(NULL, true);
    CHECK(h->key == (given | 1) && h->canary == given);
    nm_heap_destroy(h);
    for (entropy = FEW; entropy <= NONE; entropy++) CHECK(nm__os_random() != given);
    entropy = ANY;
    CHECK(nm__os_random() != nm__os_random());
}

int main(void) {
    if (nm_region_init((size_t)64 << 30, (size_t)64 << 20, 1000) != NM_OK) return 2;
    RUN(test_overflow());
    RUN(test_resize());
    RUN(test_double_free());
    RUN(test_freed_memory_is_wiped_and_watched());
    RUN(test_links_show_no_addresses());
    RUN(test_cells_are_shuffled());
    RUN(test_guards());
    RUN(test_mallocs_shape());
    RUN(test_realloc_looks_first());
    RUN(test_shrinking_where_there_is_no_more());
    RUN(test_the_largest_cells_are_returned());
    RUN(test_a_page_changes_its_bin());
    RUN(test_threads());
    RUN(test_a_secure_heap_claims_nothing());
    RUN(test_keys_are_of_the_systems_entropy());
    return finish();
}
