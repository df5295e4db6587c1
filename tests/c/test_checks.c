/* The functions that check a structure's invariants notice when one does not hold. Every other test asks them whether all is
 * well, which a check that looks at nothing says as well. */
#include "checks.h"
#include "heap/internal.h"
#include "heap/region_internal.h"
#include "nativemem.h"
#include "observe/recording.h"

static nm__recording_head *head_of(const nm__recording *r) { return (nm__recording_head *)(uintptr_t)nm__recording_view(r); }
static void *item(const nm__recording *r, nm__section s, size_t i) {
    return (char *)head_of(r) + head_of(r)->section[s].offset + i * head_of(r)->section[s].item;
}

static void test_of_a_recording(void) {
    nm__recording *r = nm__recording_create(NULL, NM__RECORDING_LEAST, 1);
    bool made;
    uint32_t owner = nm__recording_owner(r, "key", 1, &made), file = nm__recording_string(r, "a.py", 4);
    nm__recording_name(r, owner, file, 0);
    uint32_t outer = nm__recording_node(r, 0, file, file, 1), inner = nm__recording_node(r, outer, file, file, 2);
    uint32_t site = nm__recording_site(r, inner, owner, NM__OF_OBJECTS);
    nm__recording_add(r, site, 1000);
    nm__recording_add(r, site, 64);
    nm__recording_remove(r, site, 64);
    nm__recording_head *head = head_of(r);
    SOUND(nm__recording_check(r));
    for (int s = 0; s < NM__SECTIONS; s++)
        BROKEN(nm__recording_check(r), head->section[s].count, head->section[s].room + 1,
               "a section holds more than it has room for");
    static const char parent[] = "a node's parent does not come before it";
    nm__node *n = item(r, NM__NODES, inner), *first = item(r, NM__NODES, 1);
    BROKEN(nm__recording_check(r), n->parent, inner, parent);
    BROKEN(nm__recording_check(r), first->parent, 1, parent);
    static const char place[] = "a site is of a node or owner that is not there";
    nm__site_sums *of = item(r, NM__SITES, site), *rest = item(r, NM__SITES, 0);
    BROKEN(nm__recording_check(r), of->node, inner + 1, place);
    BROKEN(nm__recording_check(r), of->owner, owner + 1, place);
    BROKEN(nm__recording_check(r), rest->node, inner + 1, place);
    BROKEN(nm__recording_check(r), of->live_bytes, 999, "the live bytes of the sites do not add up");
    BROKEN(nm__recording_check(r), rest->live_bytes, 1, "the live bytes of the sites do not add up");
    BROKEN(nm__recording_check(r), head->live_bytes, 999, "the live bytes of the sizes do not add up");
    nm__size_sums *least = item(r, NM__SIZES, 0), *most = item(r, NM__SIZES, NM__SIZE_CLASSES - 1);
    BROKEN(nm__recording_check(r), least->live_bytes, 1, "the live bytes of the sizes do not add up");
    BROKEN(nm__recording_check(r), most->live_bytes, 1, "the live bytes of the sizes do not add up");
    BROKEN(nm__recording_check(r), head->peak_bytes, 1063, "the sites' bytes at the peak do not add up");
    BROKEN(nm__recording_check(r), of->peak_mark, head->peak_mark + 1, "the sites' bytes at the peak do not add up");
    nm__owner_sums *process = item(r, NM__OWNERS, 0), *whose = item(r, NM__OWNERS, owner);
    BROKEN(nm__recording_check(r), process->parent, 1, "an owner's parent does not come before it");
    BROKEN(nm__recording_check(r), whose->parent, owner + 1, "an owner's parent does not come before it");
    nm__recording_destroy(r, true);
}

static void test_of_a_heap(void) {
    nm_budget *b = nm_budget_create((size_t)64 << 20, NULL, NULL);
    nm_heap *h = nm_heap_create(b, false), *other = nm_heap_create(NULL, false);
    nm_allocator port = nm_heap_port(h);
    char *blocks[3000], *span = nm_alloc(port, 1 << 20, 16), *far = nm_alloc(nm_heap_port(other), 1 << 20, 16);
    for (int i = 0; i < 3000; i++) blocks[i] = nm_alloc(port, 100, 16);
    SOUND(nm_heap_check(h));
    nm__superblock *full = nm__superblock_whole(nm__superblock_of(blocks[0]));
    nm__superblock *current = nm__superblock_whole(nm__superblock_of(blocks[2999]));
    CHECK(full != current && full->theap == current->theap);
    nm__superblock *two[] = {full, current};
    for (int i = 0; i < 2; i++) {
        nm__superblock *sb = two[i];
        BROKEN(nm_heap_check(h), sb->bin, sb->bin + 1, "a superblock is another thread heap's or bin's");
        BROKEN(nm_heap_check(h), sb->theap, NULL, "a superblock is another thread heap's or bin's");
        BROKEN(nm_heap_check(h), sb->cells.apart, sb->cells.apart + 1, "a superblock's cells do not add up");
        BROKEN(nm_heap_check(h), sb->cells.fresh, sb->cells.fresh - sb->cells.cell, "a superblock's cells do not add up");
        BROKEN(nm_heap_check(h), sb->cells.free, (void *)(blocks[0] + 1), "a superblock's cells do not add up");
        BROKEN(nm_heap_check(h), sb->charged, 0, "a superblock is charged with more or less than it has");
        BROKEN(nm_heap_check(h), sb->charged, 255, "a superblock is charged with more or less than it has");
    }
    BROKEN(nm_heap_check(h), full->group, (uint8_t)(full->group ^ 1), "a superblock is on the wrong list");
    nm__page *p = nm__page_of(span);
    BROKEN(nm_heap_check(h), p->heap, other, "a span is not the heap's");
    BROKEN(nm_heap_check(h), p->kind, NM__SUPERBLOCK, "a span is not the heap's");
    size_t held = nm__get(&h->held), spans = nm__get(&h->live_spans_bytes);
    nm__set(&h->held, held + 1);
    CHECK(says(nm_heap_check(h), "held is not what is held"));
    nm__set(&h->held, held);
    nm__set(&h->live_spans_bytes, spans + 1);
    CHECK(says(nm_heap_check(h), "span bytes are not counted right"));
    nm__set(&h->live_spans_bytes, spans);
    CHECK(nm_budget_charge(b, 1));
    CHECK(says(nm_heap_check(h), "the budget is not charged with what is held"));
    CHECK(nm_budget_release(b, 1) == NM_OK);
    SOUND(nm_heap_check(h));
    for (int i = 0; i < 3000; i++) CHECK(nm_free(port, blocks[i], 100, 16) == NM_OK);
    CHECK(nm_free(port, span, 1 << 20, 16) == NM_OK && nm_free(nm_heap_port(other), far, 1 << 20, 16) == NM_OK);
    nm_heap_destroy(h);
    nm_heap_destroy(other);
    CHECK(nm_budget_used(b) == 0);
    nm_budget_destroy(b);
}

static void test_of_superblocks(void) {
    nm_heap *h = nm_heap_create(NULL, false), *secure = nm_heap_create(NULL, true);
    nm_allocator port = nm_heap_port(h), secure_port = nm_heap_port(secure);
    enum { N = 20000 };
    char *blocks[N], *hidden = nm_alloc(secure_port, 100, 16), *large[4];
    for (int i = 0; i < N; i++) CHECK((blocks[i] = nm_alloc(port, 100, 16)) != NULL);
    for (int i = 0; i < 4; i++) CHECK((large[i] = nm_alloc(port, 5000, 16)) != NULL);
    nm__superblock *full = nm__superblock_whole(nm__superblock_of(blocks[0])),
                   *next = full->prev != NULL ? full->prev : full->next;
    nm__superblock *current = nm__superblock_whole(nm__superblock_of(blocks[N - 1]));
    nm__superblock *guarded = nm__superblock_whole(nm__superblock_of(hidden));
    nm__theap *theap = full->theap;
    SOUND(nm_heap_check(h));
    SOUND(nm_heap_check(secure));
    CHECK(full->group == 0 && next != NULL && current != full && theap->bins[current->bin].current == current);
    size_t bin = full->bin;
    BROKEN(nm_heap_check(h), theap->opened[bin / 64], theap->opened[bin / 64] & ~((uint64_t)1 << bin % 64),
           "a bin's superblock would be passed over");
    BROKEN(nm_heap_check(h), current->cells.count, 0, "a superblock's cells do not add up");
    static const char out[] = "a current superblock's count has run out";
    nm__bin *b = &theap->bins[bin];
    uint32_t count = current->cells.count, apart = current->cells.apart;
    for (uint32_t wrong = 0; wrong < 2; wrong++) { /* as many cells are in use, counted in the other place */
        current->cells.count = wrong == 0 ? 0 : UINT32_MAX / 2;
        current->cells.apart = apart + count - current->cells.count;
        CHECK(says(nm__superblock_check(current, theap, bin), out));
    }
    current->cells.count = count, current->cells.apart = apart;
    SOUND(nm_heap_check(h));
    CHECK(b->current == current);
    static const char reports[] = "a superblock reports where it should not";
    full->cells.count--, full->cells.apart++;
    CHECK(says(nm_heap_check(h), reports));
    full->cells.count++, full->cells.apart--;
    nm__superblock *first = full->prev != NULL ? next : full;
    BROKEN(nm__superblock_check(first, theap, bin), first->next->prev, NULL, "a list of superblocks is broken");
    static const char shed[] = "a superblock shed what it never had",
                      paid[] = "a superblock is charged with more or less than it has";
    BROKEN(nm_heap_check(h), full->charged, (uint8_t)(nm__bin_superblock(bin) / NM_PAGE + 1), paid);
    BROKEN(nm_heap_check(h), full->charged, (uint8_t)(full->charged - 1), paid);
    BROKEN(nm_heap_check(secure), guarded->charged, (uint8_t)(guarded->charged - 1), paid);
    BROKEN(nm_heap_check(secure), guarded->charged, (uint8_t)(guarded->charged + 1), paid);
    BROKEN(nm__steps_check(guarded, true), guarded->shed, 1, shed);
    nm__superblock *sparse = nm__superblock_whole(nm__superblock_of(large[0]));
    BROKEN(nm__steps_check(sparse, false), sparse->shed, (__typeof__(sparse->shed))(1 << 15), shed);
    if (sparse->cells.free != NULL) {
        uint8_t charged = sparse->charged;
        uint32_t fresh = sparse->cells.fresh;
        sparse->shed = 1; /* the first of its steps, and one of its cells is free */
        size_t pages = nm__region_os_page > NM_HEAP_CHARGED_AT_ONCE ? nm__region_os_page : NM_HEAP_CHARGED_AT_ONCE;
        pages /= NM_PAGE;
        size_t steps = (fresh + pages * NM_PAGE - 1) / (pages * NM_PAGE);
        sparse->charged = (uint8_t)((steps - 1) * pages);
        void *was = sparse->cells.free;
        sparse->cells.free = nm__superblock_base(sparse);
        CHECK(says(nm__steps_check(sparse, false), "a cell that was shed is on the free list"));
        sparse->cells.free = was;
        sparse->shed = 0;
        sparse->charged = charged;
        SOUND(nm_heap_check(h));
    }
    for (int i = 0; i < N; i += 2) {
        if (nm__superblock_whole(nm__superblock_of(blocks[i])) != full) continue;
        CHECK(nm_free(port, blocks[i], 100, 16) == NM_OK);
        blocks[i] = NULL;
    }
    CHECK(full->group != 0 && nm_heap_check(h) == NULL);
    static const char list[] = "a superblock is on the wrong list";
    BROKEN(nm_heap_check(h), full->group, NM__FULL, list);
    BROKEN(nm_heap_check(h), full->group, 0, list);
    for (int i = 0; i < N; i++)
        if (blocks[i] != NULL) CHECK(nm_free(port, blocks[i], 100, 16) == NM_OK);
    for (int i = 0; i < 4; i++) CHECK(nm_free(port, large[i], 5000, 16) == NM_OK);
    SOUND(nm_heap_check(h));
    nm__superblock *spare = theap->spare;
    if (spare != NULL) {
        BROKEN(nm_heap_check(h), spare->theap, theap, "a spare superblock is in use");
        BROKEN(nm_heap_check(h), nm__page_of(nm__superblock_base(spare))->kind, NM__SPAN, "a spare superblock is in use");
        BROKEN(nm__spare_check(theap), spare->cells.free, NULL, "a spare superblock is not empty");
        BROKEN(nm__spare_check(theap), spare->cells.fresh, spare->cells.fresh - spare->cells.cell,
               "a spare superblock is not empty");
    }
    CHECK(nm_free(secure_port, hidden, 100, 16) == NM_OK);
    nm_heap_destroy(h);
    nm_heap_destroy(secure);
}

/* What the region counts, and its lists of what is free. */
static void test_of_the_region(void) {
    nm_heap *h = nm_heap_create(NULL, false);
    enum { N = 12, SIZE = 8 * NM_SUPERBLOCK };
    char *blocks[N];
    for (int i = 0; i < N; i++) {
        CHECK((blocks[i] = nm_heap_malloc(h, SIZE)) != NULL);
        memset(blocks[i], 1, SIZE);
    }
    for (int i = 1; i < N; i += 2) nm_heap_free(h, blocks[i]);
    SOUND(nm__region_check());
    nm__free_lists *l = nm__free_lists_of(NM__DIRTY);
    unsigned i = 0;
    while (i < NM__FREE_LISTS && (l->of[i] == NULL || l->of[i]->next == NULL)) i++;
    CHECK(i < NM__FREE_LISTS); /* one with two spans */
    nm__page *p = l->of[i], *live = nm__page_of(blocks[0]);
    static const char map[] = "the bitmap does not match the lists", kinds[] = "the free spans of a kind are not counted right";
    BROKEN(nm__region_check(), l->filled[i / 64], l->filled[i / 64] & ~((uint64_t)1 << i % 64), map);
    unsigned empty = NM__FREE_LISTS - 1;
    CHECK(l->of[empty] == NULL);
    BROKEN(nm__region_check(), l->filled[empty / 64], l->filled[empty / 64] | (uint64_t)1 << empty % 64, map);
    BROKEN(nm__region_check(), p->kind, NM__CLEAN, "a free span is on the wrong list");
    BROKEN(nm__region_check(), p->next->npages, p->next->npages * 4, "a free span is on the wrong list");
    BROKEN(nm__region_check(), p->next->prev, NULL, "a list of free spans is broken");
    BROKEN(nm__region_check(), l->spans, l->spans + 1, kinds);
    BROKEN(nm__region_check(), l->pages, l->pages + 1, kinds);
    BROKEN(nm__region_check(), p[p->npages - 1].kind, NM__UNUSED, "a free span's last page does not match");
    BROKEN(nm__region_check(), p[p->npages - 1].npages, p->npages - 1, "a free span's last page does not match");
    BROKEN(nm__region_check(), live[1].kind, NM__SPAN, "a page inside a span is something by itself");
    BROKEN(nm__region_check(), p[p->npages - 2].kind, NM__SPAN, "a page inside a span is something by itself");
    BROKEN(nm__region_check(), live->kind, NM__UNUSED, "a page is in no span");
    BROKEN(nm__region_check(), live->npages, 0, "a page is in no span");
    BROKEN(nm__region_check(), live->npages, (uint32_t)nm__region.frontier + 1, "a page is in no span");
    BROKEN(nm__region_check(), nm__region.frontier, nm__region.described + 1,
           "the frontier is beyond what has descriptors, or that beyond the region");
    BROKEN(nm__region_check(), nm__region.described, (size_t)1 << 60,
           "the frontier is beyond what has descriptors, or that beyond the region");
    BROKEN(nm__region_check(), nm__region.used, nm__region.used - 1, "pages in use are not counted right");
    BROKEN(nm__region_check(), nm__region.demand, nm__region.demand + 1, "what was needed is not counted right");
    for (int w = 0; w < NM_DECAY_WINDOWS; w += NM_DECAY_WINDOWS - 1) {
        BROKEN(nm__region_check(), nm__region.needed[w], nm__region.needed[w] + 1, "what was needed is not counted right");
        BROKEN(nm__region_check(), nm__region.idle, nm__region.low[w] + 1, "more is idle than there was");
    }
    BROKEN(nm__region_check(), nm__region.low[nm__region.window], nm__kept_pages() + 1, "more was kept than is");
    size_t dirty = nm__get(&nm__region_dirty);
    nm__set(&nm__region_dirty, dirty + 1);
    CHECK(says(nm__region_check(), "dirty bytes are not counted right"));
    nm__set(&nm__region_dirty, dirty);
    for (int k = 0; k < N; k += 2) nm_heap_free(h, blocks[k]);
    SOUND(nm__region_check());
    nm_heap_destroy(h);
    nm_region_trim();
}

/* A charge that is not settled yet is in none of what is settled. */
static void test_of_a_budget_that_is_not_settled(void) {
    nm_budget *b = nm_budget_create(100, NULL, &(nm_budget_options){.warn = 0.5, .critical = 0.9});
    nm_budget *leaf = nm_budget_create(100, b, NULL);
    CHECK(nm__budget_hold(b, 30));
    CHECK(says(nm_budget_check(b), "used is above peak") && says(nm_budget_check(leaf), "used is above peak"));
    nm__budget_settle(b);
    SOUND(nm_budget_check(leaf));
    CHECK(nm_budget_release(b, 30) == NM_OK && nm_budget_take_peak(b) == 30 && nm__budget_hold(b, 30));
    CHECK(says(nm_budget_check(leaf), "the recent peak is not between used and peak"));
    CHECK(nm_budget_release(b, 30) == NM_OK);
    SOUND(nm_budget_check(leaf));
    CHECK(nm_budget_charge(b, 95) && nm_budget_release(b, 95) == NM_OK && nm__budget_hold(b, 50));
    CHECK(says(nm_budget_check(leaf), "the level is not that of what is used"));
    nm__budget_settle(b);
    SOUND(nm_budget_check(leaf));
    CHECK(nm_budget_release(b, 50) == NM_OK);
    nm_budget_destroy(leaf);
    nm_budget_destroy(b);
    while (atomic_load(&nm__pressed)) (void)nm_budget_crossed(&(const nm_budget *){NULL}, &(int){0}, &(bool){false});
}

/* What is released at the parent alone. */
static void test_of_a_budget(void) {
    nm_budget *parent = nm_budget_create(1000, NULL, NULL), *one = nm_budget_create(1000, parent, NULL);
    nm_budget *two = nm_budget_create(1000, parent, NULL);
    CHECK(nm_budget_charge(one, 100) && nm_budget_charge(two, 100));
    SOUND(nm_budget_check(one));
    CHECK(nm_budget_release(parent, 1) == NM_OK);
    CHECK(says(nm_budget_check(one), "a parent uses less than its children"));
    CHECK(says(nm_budget_check(parent), "a parent uses less than its children"));
    CHECK(nm_budget_charge(parent, 1));
    SOUND(nm_budget_check(two));
    CHECK(nm_budget_release(one, 100) == NM_OK && nm_budget_release(two, 100) == NM_OK);
    CHECK(nm_budget_used(parent) == 0);
    nm_budget_destroy(one);
    nm_budget_destroy(two);
    nm_budget_destroy(parent);
}

int main(void) {
    if (nm_region_init((size_t)4 << 30, (size_t)64 << 20, 1000000) != NM_OK) return 2;
    RUN(test_of_a_recording());
    RUN(test_of_a_heap());
    RUN(test_of_superblocks());
    RUN(test_of_the_region());
    RUN(test_of_a_budget());
    RUN(test_of_a_budget_that_is_not_settled());
    return finish();
}
