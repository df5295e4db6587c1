/* The functions that check a structure's invariants notice when one does not hold. Every other test asks them whether all is
 * well, which a check that looks at nothing says as well. */
#include "harness.h"
#include "heap/internal.h"
#include "nativemem.h"
#include "observe/recording.h"

static bool says(const char *broken, const char *message) {
    if (broken != NULL && strcmp(broken, message) == 0) return true;
    fprintf(stderr, "not %s: %s\n", message, broken == NULL ? "nothing" : broken);
    return false;
}

/* With `place` as `wrong` the check says so; then all is as it was. */
#define BROKEN(check, place, wrong, message) \
    do {                                     \
        __typeof__(place) sound_ = (place);  \
        (place) = (wrong);                   \
        CHECK(says(check, message));         \
        (place) = sound_;                    \
        SOUND(check);                        \
    } while (0)

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
    RUN(test_of_a_budget());
    return finish();
}
