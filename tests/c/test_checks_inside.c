/* As test_checks.c, for structures that nothing outside of their source sees into: so the sources are here, too, and the linker
 * takes either copy of what they define (test_checks_inside.link). */
#include "checks.h"

#include "alloc/arena.c" // NOLINT(bugprone-suspicious-include)
#include "alloc/pool.c" // NOLINT(bugprone-suspicious-include)
#include "alloc/slab.c" // NOLINT(bugprone-suspicious-include)
#include "alloc/stack.c" // NOLINT(bugprone-suspicious-include)
#include "nativemem.h"
#include "structures/intern.c" // NOLINT(bugprone-suspicious-include)
#include "wrap/traced.c" // NOLINT(bugprone-suspicious-include)
#include "wrap/verified.c" // NOLINT(bugprone-suspicious-include)

/* As BROKEN, for a counter. */
#define MISCOUNTED(check, counter, wrong, message) \
    do {                                           \
        size_t right_ = nm__get(&(counter));       \
        nm__set(&(counter), (wrong));              \
        CHECK(says(check, message));               \
        nm__set(&(counter), right_);               \
        SOUND(check);                              \
    } while (0)

static nm_system *upstream;

static void test_of_an_arena(void) {
    nm_arena *a = nm_arena_create(nm_system_port(upstream), (nm_arena_options){.hint = 4096, .cap = 1 << 20, .grow = true});
    nm_allocator port = nm_arena_port(a);
    SOUND(nm_arena_check(a));
    static const char nothing[] = "there is a position without a current chunk";
    BROKEN(nm_arena_check(a), a->pos, (char *)a, nothing);
    BROKEN(nm_arena_check(a), a->end, (char *)a, nothing);
    CHECK(nm_alloc(port, 100, 16) != NULL && nm_alloc(port, 5000, 16) != NULL &&
          port.methods->alloc(port.self, 64, 2 * NM_ALIGN_MAX) != NULL);
    SOUND(nm_arena_check(a));
    arena_chunk *lists[] = {a->current, a->current->below, a->large};
    for (int i = 0; i < 3; i++) {
        BROKEN(nm_arena_check(a), lists[i]->align, NM_ALIGN_MAX / 2, "a chunk's base is not aligned");
        BROKEN(nm_arena_check(a), lists[i]->align, (size_t)1 << 62, "a chunk's base is not aligned");
        BROKEN(nm_arena_check(a), lists[i]->capacity, lists[i]->capacity + 1, "reserved is not the sum of the chunks");
    }
    MISCOUNTED(nm_arena_check(a), a->reserved, nm__get(&a->reserved) - 1, "reserved is not the sum of the chunks");
    size_t reserved = nm__get(&a->reserved);
    BROKEN(nm_arena_check(a), a->o.cap, reserved - 1, "reserved is above cap");
    a->o.cap = reserved; /* as much as it may be */
    SOUND(nm_arena_check(a));
    a->o.cap = 0; /* any */
    SOUND(nm_arena_check(a));
    BROKEN(nm_arena_check(a), a->end, a->end - 1, "end is not the current chunk's");
    BROKEN(nm_arena_check(a), a->pos, a->current->base - 1, "pos is outside the current chunk");
    BROKEN(nm_arena_check(a), a->pos, a->end + 1, "pos is outside the current chunk");
    BROKEN(nm_arena_check(a), a->floor, a->current->base - 1, "floor is outside the filled part of the current chunk");
    BROKEN(nm_arena_check(a), a->floor, a->pos + 1, "floor is outside the filled part of the current chunk");
    MISCOUNTED(nm_arena_check(a), a->dropped_bytes, nm__get(&a->total) + 1, "more was dropped than handed out");
    MISCOUNTED(nm_arena_check(a), a->dropped_blocks, nm__get(&a->count) + 1, "more blocks were dropped than handed out");
    char *pos = a->pos;
    a->pos = a->end; /* full, and with a mark at its end: as far as both go */
    a->floor = a->pos;
    SOUND(nm_arena_check(a));
    a->floor = a->pos = a->current->base;
    SOUND(nm_arena_check(a));
    a->pos = pos;
    CHECK(nm_arena_reset(a) == NM_OK && nm_arena_check(a) == NULL);
    nm_arena_destroy(a);
}

static void test_of_a_stack(void) {
    nm_stack *s = nm_stack_create(nm_system_port(upstream), 4096, false);
    nm_allocator port = nm_stack_port(s);
    SOUND(nm_stack_check(s));
    CHECK(nm_alloc(port, 10, 16) != NULL && nm_alloc(port, 20, 16) != NULL && nm_alloc(port, 30, 16) != NULL);
    SOUND(nm_stack_check(s));
    stack_entry *e = s->entries;
    static const char outside[] = "pos is outside the chunk", behind[] = "an entry does not start behind the one before";
    BROKEN(nm_stack_check(s), s->pos, s->base - 1, outside);
    BROKEN(nm_stack_check(s), s->pos, s->end + 1, outside);
    BROKEN(nm_stack_check(s), s->room, 2, "there are more entries than room for them");
    size_t room = s->room;
    s->room = 3; /* just enough */
    SOUND(nm_stack_check(s));
    s->room = room;
    BROKEN(nm_stack_check(s), e[0].start, 16, behind);
    BROKEN(nm_stack_check(s), e[0], ((stack_entry){e[0].start, e[0].serial, 1}), behind);
    BROKEN(nm_stack_check(s), e[1], ((stack_entry){e[1].start, e[0].serial, e[1].padding}), "serials do not rise");
    BROKEN(nm_stack_check(s), e[2], ((stack_entry){e[2].start, e[0].serial, e[2].padding}), "serials do not rise");
    BROKEN(nm_stack_check(s), s->pos, s->base + e[2].start, "a block has no bytes");
    BROKEN(nm_stack_check(s), e[1].start, e[1].padding, "a block has no bytes");
    BROKEN(nm_stack_check(s), s->depth, 0, "pos is not the end of the newest block");
    BROKEN(nm_stack_check(s), s->pos, s->pos + 1, "used is not the sum of the blocks");
    MISCOUNTED(nm_stack_check(s), s->dropped_bytes, 1, "used is not the sum of the blocks");
    MISCOUNTED(nm_stack_check(s), s->dropped_blocks, 1, "live is not the number of entries");
    CHECK(nm_alloc(port, 4096 - (size_t)(s->pos - s->base), 1) != NULL && s->pos == s->end);
    SOUND(nm_stack_check(s));
    nm_stack_destroy(s);
}

static void test_of_a_pool(void) {
    nm_pool *p = nm_pool_create(nm_system_port(upstream), 32, 70, true); /* two words of bits a chunk */
    nm_allocator port = nm_pool_port(p);
    void *blocks[140];
    for (int i = 0; i < 75; i++) CHECK((blocks[i] = nm_alloc(port, 32, 16)) != NULL);
    for (int i = 70; i < 73; i++) CHECK(nm_free(port, blocks[i], 32, 16) == NM_OK); /* of the second chunk */
    SOUND(nm_pool_check(p));
    pool_chunk *open = p->newest, *full = open->older;
    CHECK(p->open == open && full->used == 70 && open->fresh == 5 && open->used == 2 && open->free == 3);
    static const char unused[] = "a cell is taken that was never used", link[] = "the free list leads to what is no free cell";
    BROKEN(nm_pool_check(p), open->fresh, open->cells + 1, "more cells were used than there are");
    BROKEN(nm_pool_check(p), open->taken[0], open->taken[0] | 32, unused);
    BROKEN(nm_pool_check(p), open->taken[1], 32, unused);
    BROKEN(nm_pool_check(p), full->taken[1], full->taken[1] | 64, unused); /* one behind the last */
    BROKEN(nm_pool_check(p), open->taken[0], open->taken[0] & ~(uint64_t)16, "used is not the number of cells taken");
    BROKEN(nm_pool_check(p), open->used, 3, "used is not the number of cells taken");
    BROKEN(nm_pool_check(p), open->free, 6, link); /* fresh */
    BROKEN(nm_pool_check(p), open->free, 5, link); /* taken */
    BROKEN(nm_pool_check(p), open->free, 2, "a free cell is on no list");
    BROKEN(nm_pool_check(p), open->free, 0, "a free cell is on no list");
    void *first = open->base, *was = nm__peek(first);
    nm__poke(first, (void *)3); // NOLINT(performance-no-int-to-ptr)
    CHECK(says(nm_pool_check(p), "the free list is a ring"));
    nm__poke(first, was);
    SOUND(nm_pool_check(p));
    static const char on[] = "a full chunk is on the list of those with a free cell";
    BROKEN(nm_pool_check(p), p->open, full, on);
    BROKEN(nm_pool_check(p), open->next, open, on);
    BROKEN(nm_pool_check(p), p->open, NULL, "a chunk with a free cell is on no list");
    MISCOUNTED(nm_pool_check(p), p->reserved, nm__get(&p->reserved) + 1, "reserved is not the sum of the chunks");
    MISCOUNTED(nm_pool_check(p), p->frees, nm__get(&p->frees) + 1, "live is not the number of cells taken");
    for (int i = 0; i < 2; i++) CHECK(nm_free(port, blocks[i], 32, 16) == NM_OK);
    SOUND(nm_pool_check(p));
    CHECK(p->open == full && full->next == open);
    BROKEN(nm_pool_check(p), full->next, NULL, "a chunk with a free cell is on no list");
    nm_pool_destroy(p);
}

static void test_of_a_slab(void) {
    nm_slab *s = nm_slab_create(nm_system_port(upstream), (const size_t[]){64, 1024}, 2, false);
    nm_allocator port = nm_slab_port(s);
    char *blocks[300];
    SOUND(nm_slab_check(s));
    for (int i = 0; i < 300; i++) CHECK((blocks[i] = nm_alloc(port, 1024, 16)) != NULL);
    char *small = nm_alloc(port, 64, 16), *gone = nm_alloc(port, 64, 16);
    CHECK(nm_free(port, gone, 64, 16) == NM_OK && nm_free(port, blocks[0], 1024, 16) == NM_OK);
    SOUND(nm_slab_check(s));
    slab_superblock *of_small = s->all, *newest = of_small->older, *other = slab_superblock_of(blocks[1]);
    CHECK(of_small->bin == 0 && newest->bin == 1 && other != newest && s->bins[1].list == other && other->next == newest);
    static const char whose[] = "a superblock is another slab's or bin's", cells[] = "a superblock's cells do not add up";
    slab_superblock *all[] = {of_small, newest, other};
    for (int i = 0; i < 3; i++) {
        slab_superblock *sb = all[i];
        BROKEN(nm_slab_check(s), sb->slab, NULL, whose);
        BROKEN(nm_slab_check(s), sb->bin, (uint16_t)!sb->bin, whose);
        BROKEN(nm_slab_check(s), sb->cells.count, sb->cells.count + 1, cells);
        BROKEN(nm_slab_check(s), sb->cells.fresh, sb->cells.fresh - sb->cells.cell, cells);
        BROKEN(nm_slab_check(s), sb->listed, false, "a superblock is listed and full, or neither");
        if (sb->cells.free == NULL) continue; /* its next are fresh */
        BROKEN(nm_slab_check(s), sb->cells.free, NULL, cells);
        BROKEN(nm_slab_check(s), sb->cells.free, (char *)sb->cells.free + 16, cells);
    }
    slab_superblock *full = newest;
    while (full->listed) full = full->older;
    BROKEN(nm_slab_check(s), full->listed, true, "a superblock is listed and full, or neither");
    BROKEN(nm_slab_check(s), newest->newer, NULL, "the list of all superblocks is broken");
    MISCOUNTED(nm_slab_check(s), s->superblocks, nm__get(&s->superblocks) - 1, "superblocks are not counted right");
    BROKEN(nm_slab_check(s), s->bins[0].spare, of_small, "a spare is in use, or unlisted");
    BROKEN(nm_slab_check(s), s->bins[1].spare, newest, "a spare is in use, or unlisted");
    BROKEN(nm_slab_check(s), s->bins[0].list, newest, "a bin's list has a superblock of another");
    BROKEN(nm_slab_check(s), s->bins[1].list, full, "a bin's list has a superblock of another");
    BROKEN(nm_slab_check(s), newest->prev, NULL, "a bin's list is broken");
    CHECK(nm_free(port, small, 64, 16) == NM_OK && s->bins[0].spare == of_small);
    SOUND(nm_slab_check(s));
    BROKEN(nm_slab_check(s), s->bins[0].spare, NULL, "an empty superblock is not its bin's spare");
    for (int i = 1; i < 300; i++) CHECK(nm_free(port, blocks[i], 1024, 16) == NM_OK);
    SOUND(nm_slab_check(s));
    nm_slab_destroy(s);
}

static uintptr_t site_of(void *context) { return *(uintptr_t *)context; }

static void test_of_what_is_traced(void) {
    uintptr_t site = 7;
    nm_traced *t = nm_traced_create(nm_system_port(upstream), (nm_traced_options){.site = site_of, .context = &site});
    nm_allocator port = nm_traced_port(t);
    void *blocks[20];
    SOUND(nm_traced_check(t));
    for (int i = 0; i < 20; i++) CHECK((blocks[i] = nm_alloc(port, 100, 16)) != NULL);
    SOUND(nm_traced_check(t));
    tally *y = atomic_load(&t->tallies);
    MISCOUNTED(nm_traced_check(t), y->back, 2001, "more was taken back than given");
    MISCOUNTED(nm_traced_check(t), y->frees, 21, "more was taken back than given");
    MISCOUNTED(nm_traced_check(t), y->back, 2000, "bytes and blocks do not agree");
    MISCOUNTED(nm_traced_check(t), y->frees, 20, "bytes and blocks do not agree");
    MISCOUNTED(nm_traced_check(t), y->frees, 1, "not each block has its site");
    BROKEN(nm_traced_check(t), t->sites.promised, 1, "room for a site is promised to no block");
    size_t at = (size_t)(nm__sites_find(&t->sites, blocks[3]) - t->sites.entries), empty = 0;
    while (t->sites.entries[empty].ptr != NULL || t->sites.entries[(empty - 1) & (t->sites.cap - 1)].ptr != NULL) empty++;
    nm__site *entries = t->sites.entries, moved = entries[at];
    entries[empty] = moved; /* it is not at its home, nor behind it, or it is there twice */
    entries[at] = (nm__site){0};
    CHECK(says(nm__sites_check(&t->sites), "a block's site is not where it is looked for"));
    CHECK(says(nm_traced_check(t), "a block's site is not where it is looked for"));
    entries[at] = moved;
    entries[empty] = (nm__site){0};
    SOUND(nm_traced_check(t));
    BROKEN(nm__sites_check(&t->sites), t->sites.count, 19, "the number of sites is wrong");
    BROKEN(nm__sites_check(&t->sites), t->sites.promised, t->sites.cap / 2 - 19, "too many sites");
    t->sites.promised = t->sites.cap / 2 - 20; /* just enough */
    SOUND(nm__sites_check(&t->sites));
    t->sites.promised = 0;
    SOUND(nm__sites_check(&(nm__sites){0}));
    for (int i = 0; i < 20; i++) CHECK(nm_free(port, blocks[i], 100, 16) == NM_OK);
    SOUND(nm_traced_check(t));
    nm_traced_destroy(t);
}

static void test_of_what_is_verified(void) {
    nm_verified *v = nm_verified_create(nm_system_port(upstream), NM_VERIFY_REDUNDANT, 1);
    nm_verified *off = nm_verified_create(nm_system_port(upstream), NM_VERIFY_OFF, 1);
    nm_allocator port = nm_verified_port(v);
    void *blocks[5];
    for (int i = 0; i < 5; i++) CHECK((blocks[i] = nm_alloc(port, 100 + (size_t)i, 16)) != NULL);
    SOUND(nm_verified_check(v));
    live_block *b = v->turn, *third = b->next->next;
    BROKEN(nm_verified_check(off), off->turn, b, "there is a ledger at OFF");
    live_block *two[] = {b, third};
    for (int i = 0; i < 2; i++) {
        nm__site *entry = nm__sites_find(&v->ledger, two[i]->ptr);
        BROKEN(nm_verified_check(v), two[i]->size, two[i]->size + 1, "the two copies differ");
        BROKEN(nm_verified_check(v), entry->site, entry->site + 1, "the two copies differ");
        BROKEN(nm_verified_check(v), entry->size, entry->size + 1, "the two copies differ");
        BROKEN(nm_verified_check(v), two[i]->ptr, &blocks[0], "the two copies differ");
        BROKEN(nm_verified_check(v), two[i]->before, two[i], "the ring is broken");
    }
    BROKEN(nm_verified_check(v), v->turn, NULL, "the ring has other blocks than the table");
    BROKEN(nm_verified_check(v), v->ledger.count, 4, "the ring has other blocks than the table");
    BROKEN(nm_verified_check(v), v->leaving, 1, "ledger and counters do not agree");
    MISCOUNTED(nm_verified_check(v), v->stats.used, nm__get(&v->stats.used) - 1, "ledger and counters do not agree");
    MISCOUNTED(nm_verified_check(v), v->stats.count, 6, "ledger and counters do not agree");
    BROKEN(nm_verified_check(v), v->ledger.promised, 1, "room in the ledger is promised to no block");
    MISCOUNTED(nm_verified_check(v), v->failures, nm_verified_checks(v) + 1, "more failures than checks");
    for (int i = 0; i < 5; i++) CHECK(nm_free(port, blocks[i], 100 + (size_t)i, 16) == NM_OK);
    SOUND(nm_verified_check(v));
    nm_verified_destroy(v);
    nm_verified_destroy(off);
}

static uint64_t plain_hash(const void *bytes, size_t size) {
    uint32_t n;
    CHECK(size >= sizeof n);
    memcpy(&n, bytes, sizeof n);
    return n;
}

static void test_of_an_intern_table(void) {
    nm_intern *t = nm_intern_create(nm_system_port(upstream), 1, plain_hash);
    nm_intern_id ids[40];
    struct {
        uint32_t n;
        char rest[300];
    } value = {0};
    for (uint32_t i = 0; i < 40; i++) { /* chunks of two classes, one of them with room */
        value.n = i;
        CHECK(nm_intern_acquire(t, &value, i < 20 ? 20 : 280, &ids[i]) == NM_OK);
    }
    for (int i = 3; i < 6; i++) CHECK(nm_intern_release(t, ids[i]) == NM_OK);
    SOUND(nm_intern_check(t));
    shard *s = &t->shards[0];
    uint32_t reference = (uint32_t)ids[0], number = reference >> NM__INTERN_CELL_BITS;
    nm__intern_place *p = &s->store.places[number];
    nm__intern_chunk *c = (nm__intern_chunk *)(void *)(p->cells - (sizeof(nm__intern_chunk) + 15) / 16 * 16);
    record *r = nm__intern_store_at(&s->store, reference);
    CHECK(c->number == number && s->store.open[c->kind] == c);
    BROKEN(nm_intern_check(t), c->number, number + 1, "a chunk has another number than its place");
    BROKEN(nm_intern_check(t), c->fresh, (uint16_t)(c->cells + 1), "more cells were used than there are");
    uint16_t taken = 1 + (reference & ((1U << NM__INTERN_CELL_BITS) - 1)), unused = (uint16_t)(c->fresh + 1);
    static const char link[] = "the free list leads to what is no free cell";
    BROKEN(nm_intern_check(t), c->free, taken, link);
    BROKEN(nm_intern_check(t), c->free, unused, link);
    record *free = (record *)(void *)(p->cells + (size_t)(c->free - 1) * p->cell);
    BROKEN(nm_intern_check(t), free->size, c->free, "the free list is a ring");
    BROKEN(nm_intern_check(t), c->used, (uint16_t)(c->used + 1), "used is not the number of records");
    BROKEN(nm_intern_check(t), c->retired, 1, "retired is not the number of cells without generations");
    BROKEN(nm_intern_check(t), c->free, 0, "a free cell is on no list");
    static const char another[] = "the list of chunks with room leads to another";
    BROKEN(nm_intern_check(t), c->kind, (uint16_t)(c->kind + 1), another);
    BROKEN(nm_intern_check(t), c->next, c, "the list of chunks with room is a ring");
    BROKEN(nm_intern_check(t), s->store.open[c->kind], NULL, "a chunk with room is on no list");
    BROKEN(nm_intern_check(t), s->store.live, s->store.live + 1, "live is not the number of chunks");
    MISCOUNTED(nm_intern_check(t), s->store.reserved, 100, "reserved is less than the chunks");
    size_t slot = (size_t)(intern_slot_with(s, r->tag, r->bytes, r->size) - s->slots), mask = s->count - 1, gap = 0;
    BROKEN(nm_intern_check(t), s->slots[slot], s->slots[slot] ^ (uint64_t)1 << 32, "a slot leads to another record");
    while (s->slots[gap] != 0 || s->slots[(gap - 1) & mask] != 0 || ((gap - r->tag) & mask) == 0) gap++;
    uint64_t was = s->slots[slot];
    s->slots[slot] = 0;
    CHECK(nm_intern_check(t) != NULL); /* that one, or one that lay behind it, is not found */
    s->slots[gap] = was;
    CHECK(says(nm_intern_check(t), "a record is not found from its home"));
    s->slots[gap] = 0;
    s->slots[slot] = was;
    SOUND(nm_intern_check(t));
    static const char sums[] = "bytes are not the sum of the records'";
    MISCOUNTED(nm_intern_check(t), s->unique, 38, "unique is not the number of records");
    MISCOUNTED(nm_intern_check(t), s->references, 38, "references is not the sum of the records'");
    MISCOUNTED(nm_intern_check(t), s->stored, nm__get(&s->stored) + 1, sums);
    MISCOUNTED(nm_intern_check(t), s->held, nm__get(&s->held) + 1, sums);
    BROKEN(nm_intern_check(t), r->references, 2, "references is not the sum of the records'");
    for (int i = 0; i < 20; i++)
        if (i < 3 || i > 5) CHECK(nm_intern_release(t, ids[i]) == NM_OK);
    CHECK(s->store.places[number].cells == NULL && s->store.numbers > number + 1); /* its number is free, others are not */
    BROKEN(nm_intern_check(t), s->store.lowest, number + 1, "a number below the lowest free one is free");
    nm_intern_destroy(t);
}

int main(void) {
    upstream = nm_system_create();
    RUN(test_of_an_arena());
    RUN(test_of_a_stack());
    RUN(test_of_a_pool());
    RUN(test_of_a_slab());
    RUN(test_of_what_is_traced());
    RUN(test_of_what_is_verified());
    RUN(test_of_an_intern_table());
    nm_system_destroy(upstream);
    return finish();
}
