/* Systems with larger pages, of 16 and 64 KiB as on aarch64: what is asked of them is in whole pages, and a secure heap works
 * with the guards that they allow. The page is given out as larger than it is, and each request is looked at. */
#define _POSIX_C_SOURCE 200809L
#include <sys/wait.h>
#include <unistd.h>

#include "heap/heap.h"
#include "harness.h"
#include "nativemem.h"

#define PAGE ((size_t)65536)

static size_t os_page, requests, guards;

size_t __wrap_nm__os_page_size(void);
size_t __wrap_nm__os_page_size(void) { return os_page; }

static void look(const void *ptr, size_t size) {
    requests++;
    CHECK((uintptr_t)ptr % os_page == 0 && size % os_page == 0 && size != 0);
}

nm__mapping __real_nm__os_map(void *at, size_t size);
nm__mapping __wrap_nm__os_map(void *at, size_t size);
nm__mapping __wrap_nm__os_map(void *at, size_t size) {
    look(at, size);
    return __real_nm__os_map(at, size);
}

#define LOOKED_AT(name)                                 \
    bool __real_nm__os_##name(void *ptr, size_t size);  \
    bool __wrap_nm__os_##name(void *ptr, size_t size);  \
    bool __wrap_nm__os_##name(void *ptr, size_t size) { \
        look(ptr, size);                                \
        return __real_nm__os_##name(ptr, size);         \
    }
LOOKED_AT(unmap)
LOOKED_AT(open)
LOOKED_AT(purge)

bool __real_nm__os_guard(void *ptr, size_t size);
bool __wrap_nm__os_guard(void *ptr, size_t size);
bool __wrap_nm__os_guard(void *ptr, size_t size) {
    look(ptr, size);
    guards++;
    return __real_nm__os_guard(ptr, size);
}

static void use(nm_heap *h) {
    enum { BLOCKS = 200 };
    void *blocks[BLOCKS];
    uint64_t seed = 5;
    for (int round = 0; round < 5; round++) {
        size_t sizes[BLOCKS];
        for (size_t i = 0; i < BLOCKS; i++) {
            sizes[i] = 1 + below(&seed, i % 10 == 0 ? 40 * PAGE : 3000);
            blocks[i] = nm_heap_malloc(h, sizes[i]);
            CHECK(blocks[i] != NULL);
            fill(blocks[i], sizes[i], (unsigned)i);
        }
        for (size_t i = 0; i < BLOCKS; i++) {
            CHECK(filled(blocks[i], sizes[i], (unsigned)i));
            CHECK(nm_heap_free(h, blocks[i]) == NM_OK);
        }
        nm_heap_trim(h);
        SOUND(nm_heap_check(h));
        SOUND(nm__region_check());
    }
}

/* What is charged is at least what may be resident: each of the system's pages that a cell touches. And once only the cells
 * that stay are left, no more than these touch. */
static size_t touched(char **blocks, size_t n, size_t cell) {
    size_t pages = 0;
    uintptr_t last = 0; /* addresses rise within a superblock; one that begins lower starts anew */
    for (size_t i = 0; i < n; i++) {
        uintptr_t from = (uintptr_t)blocks[i] / os_page, to = ((uintptr_t)blocks[i] + cell - 1) / os_page;
        pages += to - from + 1 - (from == last);
        last = to;
    }
    return pages * os_page;
}
static void charged(void) {
    static const size_t sizes[] = {16, 1000, 3000, 8192, 12000, 20000, 32768};
    enum { BLOCKS = 40, STAY = 10 };
    char *blocks[BLOCKS];
    for (size_t s = 0; s < sizeof sizes / sizeof *sizes; s++) {
        nm_budget *b = nm_budget_create(NM_SIZE_MAX, NULL, NULL);
        nm_heap *h = nm_heap_create(b, false);
        size_t step = os_page > NM_HEAP_CHARGED_AT_ONCE ? os_page : NM_HEAP_CHARGED_AT_ONCE;
        for (size_t i = 0; i < BLOCKS; i++) {
            CHECK((blocks[i] = nm_heap_malloc(h, sizes[s])) != NULL);
            size_t all = touched(blocks, i + 1, nm_heap_usable(h, sizes[s], 1));
            CHECK(nm_budget_used(b) % step == 0 && nm_budget_used(b) >= all);
        }
        for (size_t i = 0; i < BLOCKS; i++)
            if (i % (BLOCKS / STAY) == 0) blocks[i / (BLOCKS / STAY)] = blocks[i];
            else nm_heap_free(h, blocks[i]);
        nm_heap_trim(h);
        SOUND(nm_heap_check(h));
        if (os_page == step) CHECK(nm_budget_used(b) == touched(blocks, STAY, nm_heap_usable(h, sizes[s], 1)));
        for (size_t i = 0; i < STAY; i++) nm_heap_free(h, blocks[i]);
        nm_heap_trim(h);
        CHECK(nm_budget_used(b) == 0);
        nm_heap_destroy(h);
        nm_budget_destroy(b);
    }
}

/* The last page of a superblock and of a span is the guard, where a superblock has more than one. */
static void secure(void) {
    nm_heap *h = nm_heap_create(NULL, true);
    char *cell = nm_heap_malloc(h, 100);
    CHECK(guards == (os_page < PAGE));
    char *span = nm_heap_malloc(h, 100000);
    CHECK(guards == (os_page < PAGE) + 1U);
    memset(span, 1, 100000);
    CHECK(nm__superblock_of(cell)->cells.end <= PAGE - (os_page < PAGE ? os_page : 0));
    span[100000] ^= 1;
    CHECK(nm_heap_free(h, span) == NM_CORRUPTED);
    span[100000] ^= 1;
    CHECK(nm_heap_free(h, span) == NM_OK && nm_heap_free(h, cell) == NM_OK);
    use(h);
    nm_heap_destroy(h);
    /* what a secure heap had is whole again: every page of it can be written */
    h = nm_heap_create(NULL, false);
    char *whole = nm_heap_malloc(h, 50 * PAGE);
    memset(whole, 1, 50 * PAGE);
    nm_heap_free(h, whole);
    nm_heap_destroy(h);
    SOUND(nm__region_check());
}

static void in_pages(size_t size) {
    fflush(NULL);
    pid_t child = fork();
    if (child == 0) {
        os_page = size;
        CHECK(nm_region_init((size_t)4 << 30, (size_t)4 << 20, 1000) == NM_OK && nm__region_os_page == size);
        nm_heap *h = nm_heap_create(NULL, false);
        use(h);
        nm_heap_destroy(h);
        charged();
        secure();
        CHECK(requests > 10);
        fflush(NULL);
        _exit(failures_ != 0);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
}

/* Larger than the region's: no system that it could stand on. */
static void test_pages_that_are_too_large(void) {
    os_page = 2 * PAGE;
    CHECK(nm_region_init((size_t)4 << 30, (size_t)4 << 20, 1000) == NM_OUT_OF_MEMORY && nm_region_size() == 0);
}

static void test_pages_of(size_t size) { in_pages(size); }

int main(void) {
    RUN(test_pages_that_are_too_large());
    for (size_t size = 4096; size <= PAGE; size *= 4) RUN(test_pages_of(size));
    return finish();
}
