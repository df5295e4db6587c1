/* Arena: the calls of CALLS in their order, each from the arena's thread or refused from another, so that every part of
 * them is covered too. Any options, sizes and alignments that a port takes; chunks of up to
 * 1023 bytes, for two calls of up to 1 TiB; the upstream, and what holds the control structures, may refuse at any time. Two blocks are followed, any two, and of each one byte:
 * what the arena writes, it writes with memset, whose stand-in looks at the range.
 *
 * a alloc, f free of a block that is followed, r resize of it, m take_mark, R release, z reset
 *
 * cbmc: source csrc/alloc/arena.c csrc/base/base.c
 * cbmc: unwind 6
 * cbmc: run CALLS="ara" UPSTREAM_SIZE_MAX=1023
 * cbmc: run CALLS="amr" UPSTREAM_SIZE_MAX=1023
 * cbmc: run CALLS="amaR" UPSTREAM_SIZE_MAX=1023
 * cbmc: run CALLS="aza" UPSTREAM_SIZE_MAX=1023
 * cbmc: run CALLS="afz" WIPES=true UPSTREAM_SIZE_MAX=1023
 * cbmc: run CALLS="aaz" UPSTREAM_SIZE_MAX=1023
 * cbmc: run CALLS="ar"
 * cbmc: call arena_take_chunk upstream_alloc
 * cbmc: call arena_drop_chunk upstream_free
 * cbmc: call slot_alloc arena_alloc arena_pattern_alloc
 * cbmc: call slot_resize arena_resize
 * cbmc: call slot_free arena_free
 * cbmc: call stats_of arena_stats
 */
#ifndef WIPES
#define WIPES false /* whether zero_on_free and patterns may be set */
#endif
#include "harness.h"

#include "nativemem/arena.h"

/* A block's number is how many were made before it since the last reset; a release drops the highest numbers. */
typedef struct followed {
    block b;
    size_t number;
} followed;
static followed first, second;
static nm_stats model; /* live is the number of the next block */
static nm_arena_options options;

typedef struct mark {
    nm_arena_mark mark;
    size_t live, used;
    bool valid;
} mark;
static mark outer, inner;

static void write_seen(block *b, char *ptr, int c, size_t size) {
    if (b->ptr == NULL) return;
    CHECK(!b->live || !overlap(ptr, size, b->ptr, b->size), "memset: no live block is overwritten");
    size_t start = __CPROVER_POINTER_OFFSET(ptr), probe = __CPROVER_POINTER_OFFSET(b->ptr) + b->probe;
    if (__CPROVER_same_object(ptr, b->ptr) && probe >= start && probe - start < size) b->byte = c;
}

void *memset(void *ptr, int c, size_t size) {
    CHECK(size == 0 || __CPROVER_w_ok(ptr, size), "memset: inside memory");
    if (size != 0) {
        write_seen(&first.b, ptr, c, size);
        write_seen(&second.b, ptr, c, size);
    }
    return ptr;
}

static void *slot_alloc(nm_allocator a, size_t size, size_t align) { return a.methods->alloc(a.self, size, align); }
static bool slot_resize(nm_allocator a, void *ptr, size_t old, size_t size, size_t align) {
    return a.methods->resize(a.self, ptr, old, size, align);
}
static nm_status slot_free(nm_allocator a, void *ptr, size_t size, size_t align) {
    return a.methods->free(a.self, ptr, size, align);
}

static void raise_peak(void) {
    if (model.used > model.peak) model.peak = model.used;
}

static void check_pair(void) {
    CHECK(first.b.ptr == NULL || second.b.ptr == NULL || !overlap(first.b.ptr, first.b.size, second.b.ptr, second.b.size),
          "blocks do not overlap");
}

static void check_state(nm_arena *a, nm_allocator port) {
    nm_stats now = stats_of(port);
    const char *broken = nm_arena_check(a);
    CHECK(broken == NULL, "nm_arena_check holds");
    CHECK(now.used == model.used && now.live == model.live, "used and live are right");
    CHECK(now.peak == model.peak, "peak is right");
    CHECK(now.total == model.total && now.count == model.count && now.frees == model.frees, "totals are right");
    CHECK(now.reserved == upstream.bytes, "reserved is what upstream gave");
    CHECK(options.cap == 0 || upstream.bytes <= options.cap, "the cap is never exceeded");
    CHECK(options.grow || upstream.out <= 1, "a fixed arena has one chunk");
}

static void drop_if(followed *f, size_t live) {
    if (f->b.ptr == NULL || f->number < live) return;
    CHECK(!options.zero_on_free || f->b.byte == 0, "a dropped block was wiped");
    CHECK(options.zero_on_free || !options.patterns || f->b.byte == NM__FREED, "a dropped block has the pattern");
    f->b.ptr = NULL;
}
static void disown_from(size_t live) {
    if (first.number >= live) first.b.live = false;
    if (second.number >= live) second.b.live = false;
}
/* Blocks from a number on are gone. */
static void drop_from(size_t live) {
    drop_if(&first, live);
    drop_if(&second, live);
}

static void step_alloc(nm_allocator port, bool mine, followed *f) {
    size_t size = nondet_size(), align = any_align(NM_PORT_ALIGN_MAX);
    ASSUME(size >= 1 && size <= NM_SIZE_MAX);
    snapshot before = look(port);
    size_t chunks = upstream.out;
    char *ptr = slot_alloc(port, size, align);
    if (ptr == NULL) {
        check_refused(port, before);
        CHECK(upstream.out == chunks, "a refusal takes no chunk");
        GOAL(mine && nm_last_failure().status == NM_EXHAUSTED);
        GOAL(mine && nm_last_failure().status == NM_OUT_OF_MEMORY);
        return;
    }
    CHECK(mine, "another thread is refused");
    block made = {.ptr = ptr, .size = size, .align = align, .probe = nondet_size(), .byte = -1, .live = true};
    ASSUME(made.probe < size);
    check_place(&made);
    if (f != NULL && f->b.ptr == NULL) *f = (followed){made, model.live};
    check_pair();
    model.used += size;
    model.total += size;
    model.live++;
    model.count++;
    raise_peak();
    GOAL(chunks == upstream.out && model.live > 1);
    GOAL(chunks != upstream.out && model.live > 1);
    GOAL(align > NM_ALIGN_MAX);
}

static void step_free(nm_allocator port, bool mine, block *b) {
    snapshot before = look(port);
    b->live = false;
    if (slot_free(port, b->ptr, b->size, b->align) == NM_OK) {
        CHECK(mine, "another thread is refused");
        model.frees++;
    } else {
        CHECK(!mine, "a free is taken");
        check_refused(port, before);
        b->live = true;
    }
}

static void step_resize(nm_allocator port, bool mine, followed *f) {
    block *b = &f->b;
    size_t size = nondet_size(), old = b->size;
    ASSUME(size >= 1 && size <= NM_SIZE_MAX);
    snapshot before = look(port);
    if (size < old) b->size = size; /* what is cut off may be written to */
    if (slot_resize(port, b->ptr, old, size, b->align)) {
        CHECK(mine, "another thread is refused");
        CHECK(size == old || !(outer.valid && f->number < outer.live) && !(inner.valid && f->number < inner.live),
              "a block older than a mark keeps its size");
        b->size = size;
        ASSUME(b->probe < size);
        check_place(b);
        check_pair();
        model.used = model.used - old + size;
        if (size > old) model.total += size - old;
        raise_peak();
        GOAL(size > old);
        GOAL(size < old);
    } else {
        b->size = old;
        CHECK(same_stats(before.stats, stats_of(port)), "a resize that fails leaves the counters");
        CHECK(before.object[before.at[0]] == before.byte[0], "a resize that fails leaves every byte");
        GOAL(mine && f->number + 1 == model.live);
    }
}

static void step_mark(nm_arena *a, bool mine, mark *m) {
    if (nm_arena_take_mark(a, &m->mark) == NM_OK) {
        CHECK(mine, "another thread is refused");
        m->live = model.live;
        m->used = model.used;
        m->valid = true;
    }
}

static void step_release(nm_arena *a, nm_allocator port, bool mine, mark *m) {
    snapshot before = look(port);
    nm_arena_mark given = m->mark;
    bool stale = nondet_bool();
    if (stale) given.generation -= 1;
    else if (mine) disown_from(m->live);
    if (nm_arena_release(a, &given) == NM_OK) {
        CHECK(mine && !stale, "a mark of another generation, or thread, is refused");
        drop_from(m->live);
        model.used = m->used;
        model.live = m->live;
        if (m == &outer) inner.valid = false;
        m->valid = false;
        GOAL(before.stats.used > m->used && m->used > 0);
        GOAL(before.stats.reserved > upstream.bytes);
    } else {
        CHECK(!mine || stale, "a mark that is right is taken");
        check_refused(port, before);
    }
}

static void step_reset(nm_arena *a, nm_allocator port, bool mine) {
    snapshot before = look(port);
    uint64_t generation = nm_arena_generation(a);
    if (mine) disown_from(0);
    if (nm_arena_reset(a) == NM_OK) {
        CHECK(mine, "another thread is refused");
        CHECK(nm_arena_generation(a) == generation + 1, "a reset begins a generation");
        CHECK(upstream.out <= 1, "a reset keeps one chunk at most");
        drop_from(0);
        model.used = model.live = 0;
        outer.valid = inner.valid = false;
        GOAL(before.stats.reserved > upstream.bytes && upstream.out == 1);
    } else {
        check_refused(port, before);
    }
}

int main(void) {
    be(owner_thread);
    options = (nm_arena_options){.hint = nondet_size(),
                                 .cap = nondet_size(),
                                 .grow = nondet_bool(),
                                 .zero_on_free = WIPES && nondet_bool(),
                                 .patterns = WIPES && nondet_bool()};
    nm_arena *a = nm_arena_create(upstream_port(), options);
    if (a == NULL) return 0;
    nm_allocator port = nm_arena_port(a);
    for (const char *call = CALLS; *call != 0; call++) {
        bool mine = nondet_bool();
        followed *f = nondet_bool() ? &first : &second;
        be(mine ? owner_thread : other_thread);
        if (*call == 'a') step_alloc(port, mine, nondet_bool() ? f : NULL);
        else if (*call == 'f' && f->b.ptr != NULL && f->b.live) step_free(port, mine, &f->b);
        else if (*call == 'r' && f->b.ptr != NULL && f->b.live) step_resize(port, mine, f);
        else if (*call == 'm') step_mark(a, mine, outer.valid ? &inner : &outer);
        else if (*call == 'R' && outer.valid) step_release(a, port, mine, inner.valid && nondet_bool() ? &inner : &outer);
        else if (*call == 'z') step_reset(a, port, mine);
    }
    check_state(a, port);
    disown_from(0);
    nm_arena_destroy(a);
    drop_from(0);
    CHECK(upstream.out == 0, "every chunk comes back");
    return 0;
}
