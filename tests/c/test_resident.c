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
    char *low = nm_heap_malloc(heap, 50 * PAGE), *fence = nm_heap_malloc(heap, PAGE);
    char *high = nm_heap_malloc(heap, 50 * PAGE), *fence2 = nm_heap_malloc(heap, PAGE);
    memset(fence, 1, PAGE);
    nm_heap_free(heap, low);
    nm_heap_free(heap, high);
    CHECK(used() == 2 && kept() == 100); /* 102 were in use */
    char *other = nm_heap_malloc(heap, 60 * PAGE); /* fits into neither */
    CHECK(used() == 62 && kept() == 40);
    sound();
    char *third = nm_heap_malloc(heap, 39 * PAGE); /* what is left was the newest, and takes it */
    CHECK(used() == 101 && kept() == 1);
    char *more = nm_heap_malloc(heap, 70 * PAGE); /* never were there so many */
    CHECK(used() == 171 && kept() == 0);
    sound();
    nm_heap_free(heap, third);
    CHECK(kept() == 39);
    unsigned char *zeros = nm_heap_calloc(heap, 1, 45 * PAGE); /* clean ones take the place of dirty ones */
    CHECK(used() == 177 && kept() == 0);
    sound();
    nm_heap_free(heap, zeros);
    nm_heap_free(heap, more);
    nm_heap_free(heap, other);
    nm_heap_free(heap, fence);
    nm_heap_free(heap, fence2);
    CHECK(used() == 0);
    sound();
}

static void test_growing_in_place(void) {
    char *a = nm_heap_malloc(heap, 20 * PAGE), *fence = nm_heap_malloc(heap, PAGE);
    memset(a, 1, 20 * PAGE);
    nm_heap_free(heap, a);
    char *last = nm_heap_malloc(heap, 300 * PAGE); /* the most ever */
    CHECK(used() == 301 && kept() == 0);
    nm_heap_free(heap, last);
    size_t before = kept();
    CHECK(before == 300);
    last = nm_heap_malloc(heap, 200 * PAGE);
    last = nm_heap_realloc(heap, last, 290 * PAGE); /* into kept memory */
    CHECK(used() == 291 && kept() == 10);
    sound();
    nm_heap_free(heap, last);
    nm_heap_free(heap, fence);
    sound();
}

int main(void) {
    nm_region_init((size_t)1 << 30, (size_t)1 << 30, 3600000);
    heap = nm_heap_create(NULL, false);
    RUN(test_sizes_that_do_not_fit_do_not_add_up());
    RUN(test_growing_in_place());
    nm_heap_destroy(heap);
    return finish();
}
