/* malloc's calls on allocators: with heads, and in heaps without; and the shapes that libraries take. */
#include "locks.h"
#include "harness.h"

#include <stdalign.h>

#include "heap/region.h"
#include "base/poison.h"
#include "nativemem.h"

#define MB ((size_t)1 << 20)

/* What stands below. */
typedef struct bottom {
    const char *name;
    nm_system *system;
    nm_budget *budget;
    nm_limited *limited;
    nm_traced *traced;
    nm_heap *heap;
    nm_allocator port; /* traced */
    const nm_heap *in;
} bottom;

static bottom make(const char *name, bool heap, bool secure) {
    bottom b = {.name = name, .system = nm_system_create(), .budget = nm_budget_create(64 * MB, NULL, NULL)};
    if (heap) b.in = b.heap = nm_heap_create(NULL, secure);
    b.limited = nm_limited_create(heap ? nm_heap_port(b.heap) : nm_system_port(b.system), b.budget);
    b.traced = nm_traced_create(nm_limited_port(b.limited), (nm_traced_options){.histogram = true});
    b.port = nm_traced_port(b.traced);
    return b;
}

static void unmake(bottom *b) {
    CHECK(nm_budget_used(b->budget) == 0);
    nm_traced_destroy(b->traced);
    nm_limited_destroy(b->limited);
    nm_budget_destroy(b->budget);
    nm_heap_destroy(b->heap);
    nm_system_destroy(b->system);
}

static nm_stats stats(nm_allocator a) {
    nm_stats s;
    a.methods->stats(a.self, &s);
    return s;
}

static bool is_aligned(const void *ptr) { return (uintptr_t)ptr % alignof(max_align_t) == 0; }

static void test_the_four(bottom *b) {
    nm_plain *p = nm_plain_create(b->port, b->in);
    static const size_t sizes[] = {1, 7, 8, 16, 17, 100, 1000, 1024, 4096, 32768, 65536, 100000, MB};
    enum { N = sizeof sizes / sizeof *sizes };
    char *blocks[N];
    for (size_t i = 0; i < N; i++) {
        blocks[i] = nm_plain_malloc(p, sizes[i]);
        CHECK(blocks[i] != NULL && is_aligned(blocks[i]));
        CHECK(nm_plain_size(p, blocks[i]) >= sizes[i]);
        fill(blocks[i], nm_plain_size(p, blocks[i]), (unsigned)i); /* all of it is the caller's */
    }
    CHECK(stats(b->port).live == N);
    for (size_t i = 0; i < N; i++) CHECK(filled(blocks[i], sizes[i], (unsigned)i));
    for (size_t i = 0; i < N; i++) {
        size_t more = sizes[i] * 3 + 5;
        blocks[i] = nm_plain_realloc(p, blocks[i], more);
        CHECK(blocks[i] != NULL && is_aligned(blocks[i]) && filled(blocks[i], sizes[i], (unsigned)i));
        CHECK(nm_plain_size(p, blocks[i]) >= more);
        blocks[i] = nm_plain_realloc(p, blocks[i], (sizes[i] + 1) / 2);
        CHECK(blocks[i] != NULL && filled(blocks[i], (sizes[i] + 1) / 2, (unsigned)i));
    }
    for (size_t i = 0; i < N; i++) CHECK(nm_plain_free(p, blocks[i]) == NM_OK);
    CHECK(stats(b->port).live == 0 && stats(b->port).used == 0);
    nm_plain_destroy(p);
}

static void test_zeros(bottom *b) {
    nm_plain *p = nm_plain_create(b->port, b->in);
    for (size_t size = 1; size < 3 * MB; size = size * 5 + 1) {
        char *dirty = nm_plain_malloc(p, size);
        memset(dirty, 0xFF, size);
        CHECK(nm_plain_free(p, dirty) == NM_OK);
        char *zeros = nm_plain_calloc(p, size, 1);
        CHECK(zeros != NULL && zeros[0] == 0 && memcmp(zeros, zeros + 1, size - 1) == 0);
        CHECK(nm_plain_free(p, zeros) == NM_OK);
    }
    char *none[] = {nm_plain_malloc(p, 0), nm_plain_calloc(p, 0, 100), nm_plain_realloc(p, NULL, 0)};
    for (size_t i = 0; i < 3; i++) {
        CHECK(none[i] != NULL && none[i] != none[(i + 1) % 3]);
        none[i][0] = 1;
        CHECK(nm_plain_free(p, none[i]) == NM_OK);
    }
    CHECK(nm_plain_free(p, NULL) == NM_OK && nm_plain_size(p, NULL) == 0);
    nm_plain_destroy(p);
}

/* The last refusal was of a layout, and says of how many bytes; other figures it has none. */
static bool no_layout_of(size_t requested) {
    nm_failure f = nm_last_failure();
    return f.status == NM_INVALID_LAYOUT && f.requested == requested && f.used == 0 && f.limit == 0;
}

static void test_refusals(bottom *b) {
    nm_plain *p = nm_plain_create(b->port, b->in);
    static const size_t too_much[] = {SIZE_MAX, NM_SIZE_MAX, NM_SIZE_MAX - 1, SIZE_MAX - 15, NM_SIZE_MAX - 65536};
    for (size_t i = 0; i < sizeof too_much / sizeof *too_much; i++) {
        CHECK(nm_plain_malloc(p, too_much[i]) == NULL);
        CHECK(too_much[i] <= NM_SIZE_MAX - NM_PORT_ALIGN_MAX || no_layout_of(too_much[i]));
        CHECK(nm_plain_calloc(p, too_much[i], 1) == NULL && nm_plain_calloc(p, 2, too_much[i]) == NULL);
    }
    CHECK(nm_plain_calloc(p, SIZE_MAX / 8 + 2, 8) == NULL && no_layout_of(SIZE_MAX)); /* 8, if the product is not checked */
    char *kept = nm_plain_malloc(p, 1000);
    fill(kept, 1000, 1);
    size_t used = nm_budget_used(b->budget);
    CHECK(nm_plain_realloc(p, kept, 64 * MB) == NULL && nm_last_failure().status == NM_OVER_BUDGET);
    CHECK(nm_plain_realloc(p, kept, SIZE_MAX) == NULL);
    CHECK(filled(kept, 1000, 1) && nm_budget_used(b->budget) == used);
    /* what is no block; a head that is none has to be readable to be seen */
    _Alignas(16) char mine[64] = {0};
    CHECK(nm_plain_free(p, mine + 16) != NM_OK && nm_plain_realloc(p, mine + 16, 10) == NULL);
    if (b->in == NULL) {
        CHECK(nm_plain_free(p, kept + 16) == NM_FOREIGN_BLOCK);
        nm_plain *other = nm_plain_create(b->port, b->in);
        CHECK(nm_plain_free(other, kept) == NM_FOREIGN_BLOCK);
        nm_plain_destroy(other);
    } else {
        CHECK(nm_plain_free(p, mine) == NM_FOREIGN_BLOCK && nm_plain_size(p, mine) == 0);
        char *large = nm_plain_malloc(p, 300000);
        for (size_t offset = 1; offset < 300000; offset = offset * 2 + 1) {
            CHECK(nm_plain_free(p, large + offset) == NM_FOREIGN_BLOCK && nm_plain_realloc(p, large + offset, 1) == NULL);
            if (offset < 1000) CHECK(nm_plain_free(p, kept + offset) == NM_FOREIGN_BLOCK);
        }
        CHECK(nm_plain_free(p, large) == NM_OK);
    }
    CHECK(nm_plain_free(p, kept) == NM_OK && stats(b->port).live == 0);
    nm_plain_destroy(p);
}

/* With a head, or in a secure heap, and while no other block has the memory. */
static void test_twice(void) {
    nm_system *s = nm_system_create();
    nm_arena *a = nm_arena_create(nm_system_port(s), (nm_arena_options){.hint = 4096, .grow = true});
    nm_plain *p = nm_plain_create(nm_arena_port(a), NULL);
    char *ptr = nm_plain_malloc(p, 100);
    CHECK(nm_plain_free(p, ptr) == NM_OK);
#if !defined(NM__ASAN) && !defined(NM_VALGRIND) /* they see that a freed block is looked at */
    CHECK(nm_plain_free(p, ptr) == NM_DOUBLE_FREE);
    CHECK(nm_plain_realloc(p, ptr, 10) == NULL && nm_last_failure().status == NM_DOUBLE_FREE);
#endif
    nm_plain_destroy(p);
    nm_heap *h = nm_heap_create(NULL, true);
    p = nm_plain_create(nm_heap_port(h), h);
    ptr = nm_plain_malloc(p, 100);
    CHECK(nm_plain_free(p, ptr) == NM_OK);
#if !defined(NM__ASAN) && !defined(NM_VALGRIND)
    CHECK(nm_plain_free(p, ptr) == NM_DOUBLE_FREE);
    ptr = nm_plain_malloc(p, 100);
    ptr[100] ^= 1;
    CHECK(nm_plain_free(p, ptr) == NM_CORRUPTED);
    ptr[100] ^= 1;
    CHECK(nm_plain_free(p, ptr) == NM_OK);
#endif
    nm_plain_destroy(p);
    nm_heap_destroy(h);
    nm_arena_destroy(a);
    nm_system_destroy(s);
}

/* Lua up to 5.3 takes for granted that a block can be made smaller. */
static void test_less_is_never_refused(bottom *b) {
    static const size_t sizes[] = {100, 3000, 40000, 200000, 3 * MB};
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        nm_failing *f = nm_failing_create(b->port, 0, false);
        nm_plain *p = nm_plain_create(nm_failing_port(f), b->in);
        char *ptr = nm_plain_malloc(p, sizes[i]);
        fill(ptr, sizes[i], 5);
        nm_failing_arm(f, 1, true); /* there is no room to move to */
        for (size_t size = sizes[i]; size != 0; size /= 3) {
            ptr = nm_plain_lua(p, ptr, size, size);
            CHECK(ptr != NULL && filled(ptr, size, 5) && nm_plain_size(p, ptr) >= size);
        }
        CHECK(nm_plain_realloc(p, ptr, sizes[i] * 8) == NULL && nm_last_failure().status == NM_OUT_OF_MEMORY);
        CHECK(nm_plain_free(p, ptr) == NM_OK && stats(b->port).live == 0);
        nm_plain_destroy(p);
        nm_failing_destroy(f);
    }
}

static void test_as_a_port(bottom *b) {
    nm_plain *p = nm_plain_create(b->port, b->in);
    nm_allocator port = nm_plain_port(p);
    char *here = nm_alloc(port, 100, 16), *there = nm_plain_malloc(p, 100);
    CHECK(stats(port).live == 2 && stats(port).used == stats(b->port).used);
    fill(here, 100, 3);
    here = nm_realloc(port, here, 100, 5000, 16);
    CHECK(filled(here, 100, 3) && nm_plain_size(p, here) >= 5000);
    CHECK(nm_plain_free(p, here) == NM_OK && nm_free(port, there, 100, 16) == NM_OK);
    CHECK(nm_alloc(port, 100, 32) == NULL && no_layout_of(100));
    CHECK(stats(port).live == 0);
    nm_plain_destroy(p);
}

static void test_resize_in_place(void) {
    nm_system *s = nm_system_create();
    nm_arena *a = nm_arena_create(nm_system_port(s), (nm_arena_options){.hint = 4096, .grow = true});
    nm_plain *p = nm_plain_create(nm_arena_port(a), NULL);
    nm_allocator port = nm_plain_port(p);
    char *ptr = nm_alloc(port, 100, 16);
    CHECK(port.methods->resize(port.self, ptr, 100, 1000, 16) && nm_plain_size(p, ptr) == 1000);
    CHECK(nm_plain_realloc(p, ptr, 500) == ptr && nm_plain_size(p, ptr) == 500);
    CHECK(!port.methods->resize(port.self, ptr, 500, 8000, 16) && nm_plain_size(p, ptr) == 500);
    CHECK(nm_plain_free(p, ptr) == NM_OK);
    nm_plain_destroy(p);
    nm_arena_destroy(a);
    nm_system_destroy(s);
}

static void test_after_its_end(bottom *b) {
    nm_plain *p = nm_plain_create(b->port, b->in);
    const nm_plain_calls *calls = nm_plain_calls_of(p);
    CHECK(calls != NULL && calls == nm_plain_calls_of(p));
    void *ptr = calls->malloc(10);
    CHECK(ptr != NULL && calls->usable_size(ptr) >= 10);
    calls->free(ptr);
    nm_plain_destroy(p);
    nm_plain_destroy(p);
    nm_plain *next = nm_plain_create(b->port, b->in), *other = nm_plain_create(b->port, b->in);
    CHECK(next != other);
    nm_plain_destroy(other);
    CHECK(nm_plain_calls_of(other) == NULL && nm_last_failure().status == NM_CLOSED);
    CHECK(nm_plain_sqlite_of(other) == NULL && nm_last_failure().status == NM_CLOSED);
    nm_plain_destroy(next);
    CHECK(calls->malloc(10) == NULL && calls->calloc(1, 1) == NULL && calls->realloc(NULL, 10) == NULL);
    CHECK(nm_plain_malloc(p, 10) == NULL && nm_last_failure().status == NM_CLOSED);
    CHECK(nm_plain_lua(p, NULL, 0, 10) == NULL && stats(nm_plain_port(p)).live == 0);
    calls->free(ptr);
    CHECK(calls->usable_size(ptr) == 0);
}

/* Where no memory is, and where a secure heap's block was written over: as much is looked at as can be. */
static void test_no_blocks(void) {
    nm_heap *heap = nm_heap_create(NULL, true);
    nm_plain *p = nm_plain_create(nm_heap_port(heap), heap);
    char *whole = nm_plain_malloc(p, 3 * NM_SUPERBLOCK);
    const char *last = whole + 2 * NM_SUPERBLOCK;
    CHECK(nm_region_owns(last) && nm_heap_of(last) == NULL && nm_plain_size(p, last) == 0);
    CHECK(nm_plain_free(p, (void *)(uintptr_t)last) == NM_FOREIGN_BLOCK);
    CHECK(nm_plain_realloc(p, (void *)(uintptr_t)last, 100) == NULL && nm_last_failure().status == NM_FOREIGN_BLOCK);
    CHECK(nm_plain_free(p, whole) == NM_OK);
    char *block = nm_plain_malloc(p, 40), behind[24];
    fill(block, 40, 1);
    memcpy(behind, block + 40, sizeof behind);
    memset(block + 40, 0x41, sizeof behind);
    CHECK(nm_plain_realloc(p, block, 200000) == NULL && nm_last_failure().status == NM_CORRUPTED);
    CHECK(nm_plain_realloc(p, block, 20) == NULL && nm_last_failure().status == NM_CORRUPTED);
    CHECK(nm_plain_size(p, block) == 0 && nm_plain_free(p, block) == NM_CORRUPTED);
    memcpy(block + 40, behind, sizeof behind);
    block = nm_plain_realloc(p, block, 200000);
    CHECK(block != NULL && filled(block, 40, 1) && nm_plain_free(p, block) == NM_OK);
    block = nm_plain_malloc(p, 100);
    CHECK(nm_plain_free(p, block) == NM_OK);
    CHECK(nm_plain_realloc(p, block, 200000) == NULL && nm_last_failure().status == NM_DOUBLE_FREE);
    CHECK(stats(nm_heap_port(heap)).live == 0);
    nm_plain_destroy(p);
    nm_heap_destroy(heap);
}

static void test_shapes_with_a_context(bottom *b) {
    nm_plain *p = nm_plain_create(b->port, b->in);
    char *ptr = nm_plain_lua(p, NULL, 5, 100);
    fill(ptr, 100, 7);
    ptr = nm_plain_lua(p, ptr, 100, 3000);
    CHECK(ptr != NULL && filled(ptr, 100, 7));
    ptr = nm_plain_lua(p, ptr, 3000, 20);
    CHECK(ptr != NULL && filled(ptr, 20, 7));
    CHECK(nm_plain_lua(p, ptr, 20, 0) == NULL && nm_plain_lua(p, NULL, 0, 0) == NULL);
    CHECK(nm_plain_zalloc(p, UINT32_MAX, UINT32_MAX) == NULL && nm_plain_bzalloc(p, -1, 10) == NULL);
    void *z = nm_plain_zalloc(p, 10, 20), *bz = nm_plain_bzalloc(p, 10, 20);
    CHECK(nm_plain_size(p, z) >= 200 && nm_plain_size(p, bz) >= 200 && stats(b->port).live == 2);
    nm_plain_zfree(p, z);
    nm_plain_zfree(p, bz);
    nm_plain_zfree(p, NULL);
    CHECK(nm_plain_alloc(p, SIZE_MAX) == NULL);
    void *zstd = nm_plain_alloc(p, 300);
    const nm_plain_lzma *lzma = nm_plain_lzma_of(p);
    CHECK(lzma->alloc(lzma->opaque, SIZE_MAX / 2, 3) == NULL && no_layout_of(SIZE_MAX));
    void *x = lzma->alloc(lzma->opaque, 10, 30);
    CHECK(nm_plain_size(p, zstd) >= 300 && nm_plain_size(p, x) >= 300 && stats(b->port).live == 2);
    nm_plain_zfree(p, zstd);
    lzma->free(lzma->opaque, x);
    lzma->free(lzma->opaque, NULL);
    nm_plain_freetype *ft = nm_plain_freetype_of(p);
    CHECK(ft->alloc(ft, -1) == NULL && ft->realloc(ft, 0, -1, NULL) == NULL);
    char *glyph = ft->alloc(ft, 100);
    fill(glyph, 100, 3);
    glyph = ft->realloc(ft, 100, 5000, glyph);
    CHECK(glyph != NULL && filled(glyph, 100, 3) && nm_plain_size(p, glyph) >= 5000);
    CHECK(ft->realloc(ft, 5000, (long)(128 * MB), glyph) == NULL && filled(glyph, 100, 3));
    ft->free(ft, glyph);
    ft->free(ft, NULL);
    CHECK(stats(b->port).live == 0);
    nm_plain_destroy(p);
    CHECK(lzma->alloc(lzma->opaque, 1, 1) == NULL && ft->alloc(ft, 1) == NULL); /* a library that still has them */
}

static void test_sqlite(bottom *b) {
    nm_plain *p = nm_plain_create(b->port, b->in);
    const nm_plain_sqlite *m = nm_plain_sqlite_of(p);
    CHECK(m->xInit(m->pAppData) == 0 && m->xRoundup(1) == 8 && m->xRoundup(64) == 64 && m->xRoundup(INT32_MAX) == INT32_MAX);
    CHECK(m->xMalloc(0) == NULL && m->xMalloc(-1) == NULL);
    char *ptr = m->xMalloc(100);
    fill(ptr, 100, 9);
    CHECK(m->xSize(ptr) >= 100 && m->xSize(NULL) == 0);
    ptr = m->xRealloc(ptr, 10000);
    CHECK(filled(ptr, 100, 9) && m->xSize(ptr) >= 10000);
    m->xFree(ptr);
    m->xFree(NULL);
    m->xShutdown(m->pAppData);
    CHECK(stats(b->port).live == 0);
    nm_plain_destroy(p);
}

/* The largest that SQLite asks for; in a heap there lies more behind it than an int can say. */
static void test_sqlite_largest(void) {
#if !defined(NM__ASAN) && !defined(NM_VALGRIND) /* they would touch a shadow of all of it */
    nm_heap *h = nm_heap_create(NULL, false);
    nm_plain *p = nm_plain_create(nm_heap_port(h), h);
    const nm_plain_sqlite *m = nm_plain_sqlite_of(p);
    void *ptr = m->xMalloc(0x7fffff00);
    CHECK(ptr == NULL || m->xSize(ptr) >= 0x7fffff00);
    m->xFree(ptr);
    nm_plain_destroy(p);
    nm_heap_destroy(h);
#endif
}

static void test_places(bottom *b) {
    nm_plain *all[NM_PLAIN_PLACES + 1];
    for (size_t i = 0; i <= NM_PLAIN_PLACES; i++) {
        all[i] = nm_plain_create(b->port, b->in);
        bool room = i < NM_PLAIN_PLACES;
        CHECK((nm_plain_calls_of(all[i]) != NULL) == room && (nm_plain_sqlite_of(all[i]) != NULL) == room);
        if (!room) CHECK(nm_last_failure().status == NM_CAPACITY_EXCEEDED);
        for (size_t k = 0; room && k < i; k++) CHECK(nm_plain_calls_of(all[k]) != nm_plain_calls_of(all[i]));
    }
    const nm_plain_calls *calls = nm_plain_calls_of(all[3]);
    void *ptr = calls->malloc(10);
    nm_plain_destroy(all[5]);
    CHECK(nm_plain_calls_of(all[NM_PLAIN_PLACES]) != NULL); /* its place */
    calls->free(ptr);
    for (size_t i = 0; i <= NM_PLAIN_PLACES; i++)
        if (i != 5) nm_plain_destroy(all[i]);
    CHECK(stats(b->port).live == 0);
}

int main(void) {
    (void)nm_region_init((size_t)1 << 32, 16 * MB, 1000);
    for (int i = 0; i < 3; i++) {
        bottom b = make(i == 0 ? "system" : i == 1 ? "heap" : "secure heap", i > 0, i == 2);
        RUN(test_the_four(&b));
        RUN(test_zeros(&b));
        RUN(test_refusals(&b));
        RUN(test_less_is_never_refused(&b));
        RUN(test_as_a_port(&b));
        RUN(test_after_its_end(&b));
        RUN(test_shapes_with_a_context(&b));
        RUN(test_sqlite(&b));
        RUN(test_places(&b));
        unmake(&b);
    }
    RUN(test_no_blocks());
    RUN(test_sqlite_largest());
    RUN(test_twice());
    RUN(test_resize_in_place());
    return finish();
}
