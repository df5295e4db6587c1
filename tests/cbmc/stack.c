/* Stack: the calls of CALLS in their order, each from the stack's thread or refused from another, any capacity up to
 * 1 TiB for two calls and up to 255 bytes for more, any sizes and alignments; a free of any address with any size.
 * Entries have room for 2 to begin with, not 64; what holds them may refuse at any time.
 *
 * a alloc, f free of a block that is followed, w free of anything, r resize, m take_mark, R release, z reset
 *
 * cbmc: source csrc/alloc/stack.c csrc/base/base.c
 * cbmc: unwind 5
 * cbmc: call nm_stack_create upstream_alloc
 * cbmc: call stack_abolish upstream_free
 * cbmc: call slot_alloc stack_alloc
 * cbmc: call slot_resize stack_resize
 * cbmc: call slot_free stack_free
 * cbmc: call stats_of stack_stats
 * cbmc: run CALLS="aa"
 * cbmc: run CALLS="ar"
 * cbmc: run CALLS="afa" UPSTREAM_SIZE_MAX=255
 * cbmc: run CALLS="aaf" UPSTREAM_SIZE_MAX=255
 * cbmc: run CALLS="aaw" UPSTREAM_SIZE_MAX=255
 * cbmc: run CALLS="amaR" UPSTREAM_SIZE_MAX=255
 */
#define ENTRIES 2 /* NM_STACK_ENTRIES */
#include "harness.h"

#include "nativemem/stack.h"

/* Entries are all that is copied. */
void *memcpy(void *to, const void *from, size_t size) {
    CHECK(size == ENTRIES * 16, "memcpy: of all entries, and before there are twice as many");
    for (unsigned i = 0; i < ENTRIES * 2; i++) ((size_t *)to)[i] = ((const size_t *)from)[i];
    return to;
}

/* A block's number is how many lie below it. */
typedef struct followed {
    block b;
    size_t number, below; /* height before it was made */
} followed;
static followed first, second;
static nm_stats model;
static size_t capacity, height; /* bytes, and those up to the end of the newest block */
static char foreign[64];

typedef struct mark {
    nm_stack_mark mark;
    size_t live, used, height;
    bool valid;
} mark;
static mark outer, inner;

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

static void check_state(nm_stack *s, nm_allocator port) {
    nm_stats now = stats_of(port);
    const char *broken = nm_stack_check(s);
    CHECK(broken == NULL, "nm_stack_check holds");
    CHECK(now.used == model.used && now.live == model.live, "used and live are right");
    CHECK(now.peak == model.peak, "peak is right");
    CHECK(now.total == model.total && now.count == model.count && now.frees == model.frees, "totals are right");
    CHECK(now.reserved == capacity && now.limit == capacity, "reserved is the capacity");
}

static void drop_from(size_t live) {
    if (first.number >= live) first.b.ptr = NULL;
    if (second.number >= live) second.b.ptr = NULL;
    if (outer.live > live) outer.valid = false;
    if (inner.live > live) inner.valid = false;
}

static void step_alloc(nm_allocator port, bool mine, followed *f) {
    size_t size = nondet_size(), align = any_align(NM_PORT_ALIGN_MAX);
    ASSUME(size >= 1 && size <= NM_SIZE_MAX);
    snapshot before = look(port);
    char *ptr = slot_alloc(port, size, align);
    if (ptr == NULL) {
        nm_status status = nm_last_failure().status;
        check_refused(port, before);
        GOAL(mine && status == NM_CAPACITY_EXCEEDED && size < capacity);
        GOAL(mine && status == NM_OUT_OF_MEMORY);
        return;
    }
    CHECK(mine, "another thread is refused");
    block made = {.ptr = ptr, .size = size, .align = align, .live = true};
    check_place(&made);
    size_t start = (size_t)(ptr - upstream.ptr);
    CHECK(start == ((height + align - 1) & ~(align - 1)), "a block lies where the one before ends, but for its padding");
    if (f != NULL && f->b.ptr == NULL) *f = (followed){made, model.live, height};
    GOAL(start > height);
    GOAL(model.frees > 0);
    height = start + size;
    check_pair();
    model.used += size;
    model.total += size;
    model.live++;
    model.count++;
    raise_peak();
}

static void step_free(nm_allocator port, bool mine, followed *f) {
    snapshot before = look(port);
    nm_status status = slot_free(port, f->b.ptr, f->b.size, f->b.align);
    if (status == NM_OK) {
        CHECK(mine && f->number + 1 == model.live, "only the newest is freed, and by its thread");
        height = f->below; /* as the next alloc has to find it */
        model.used -= f->b.size;
        model.live--;
        model.frees++;
        drop_from(model.live);
    } else {
        CHECK(status == (mine ? NM_LIFO_VIOLATION : NM_WRONG_THREAD), "any other is out of order");
        CHECK(!mine || f->number + 1 < model.live, "the newest is taken");
        check_refused(port, before);
        GOAL(mine);
    }
}

/* Anything but a live block with its own size. */
static void step_free_wrongly(nm_allocator port, bool mine) {
    size_t size = nondet_size(), at = nondet_size();
    bool inside = nondet_bool();
    ASSUME(size >= 1 && size <= NM_SIZE_MAX && at < (inside ? capacity : sizeof foreign));
    char *ptr = inside ? upstream.ptr + at : foreign + at;
    ASSUME(!inside || at >= height || at + size != height); /* it might be the newest */
    snapshot before = look(port);
    nm_status status = slot_free(port, ptr, size, 1);
    CHECK(status != NM_OK, "what is no block is refused");
    CHECK(!mine || inside || status == NM_FOREIGN_BLOCK, "outside the chunk it is foreign");
    CHECK(!mine || !inside || at < height || status == NM_DOUBLE_FREE, "above the newest block it was freed before");
    check_refused(port, before);
    GOAL(mine && status == NM_FOREIGN_BLOCK && inside);
    GOAL(mine && status == NM_DOUBLE_FREE);
    GOAL(mine && status == NM_LIFO_VIOLATION);
}

static void step_resize(nm_allocator port, bool mine, followed *f) {
    block *b = &f->b;
    size_t size = nondet_size(), old = b->size;
    ASSUME(size >= 1 && size <= NM_SIZE_MAX);
    snapshot before = look(port);
    if (slot_resize(port, b->ptr, old, size, b->align)) {
        CHECK(mine && (size == old || f->number + 1 == model.live), "only the newest is resized, and by its thread");
        height = height - old + size;
        b->size = size;
        check_place(b);
        check_pair();
        model.used = model.used - old + size;
        if (size > old) model.total += size - old;
        raise_peak();
        GOAL(size > old);
        GOAL(size < old);
    } else {
        CHECK(same_stats(before.stats, stats_of(port)), "a resize that fails leaves the counters");
        CHECK(before.object[before.at[0]] == before.byte[0], "a resize that fails leaves every byte");
        GOAL(mine && f->number + 1 == model.live);
    }
}

static void step_mark(nm_stack *s, bool mine, mark *m) {
    if (nm_stack_take_mark(s, &m->mark) != NM_OK) return;
    CHECK(mine, "another thread is refused");
    *m = (mark){.mark = m->mark, .live = model.live, .used = model.used, .height = height, .valid = true};
}

static void step_release(nm_stack *s, nm_allocator port, bool mine, mark *m) {
    snapshot before = look(port);
    nm_stack_mark given = m->mark;
    bool stale = nondet_bool();
    if (stale) given.generation -= 1;
    if (nm_stack_release(s, &given) == NM_OK) {
        CHECK(mine && !stale && m->valid, "a mark that is stale, or of another thread, is refused");
        height = m->height;
        model.used = m->used;
        model.live = m->live;
        drop_from(m->live);
        GOAL(before.stats.used > m->used && m->used > 0);
    } else {
        CHECK(!mine || stale || !m->valid, "a mark that is right is taken");
        check_refused(port, before);
    }
}

static void step_reset(nm_stack *s, nm_allocator port, bool mine) {
    snapshot before = look(port);
    if (nm_stack_reset(s) == NM_OK) {
        CHECK(mine, "another thread is refused");
        height = 0;
        model.used = model.live = 0;
        first.b.ptr = second.b.ptr = NULL;
        outer.valid = inner.valid = false;
    } else {
        check_refused(port, before);
    }
}

int main(void) {
    be(owner_thread);
    capacity = nondet_size();
    nm_allocator below = upstream_port();
    upstream.watched = 0;
    ASSUME(capacity >= 1 && capacity <= UPSTREAM_SIZE_MAX);
    reliable = true;
    nm_stack *s = nm_stack_create(below, capacity, false);
    reliable = false;
    nm_allocator port = nm_stack_port(s);
    for (const char *call = CALLS; *call != 0; call++) {
        bool mine = nondet_bool();
        followed *f = nondet_bool() ? &first : &second;
        be(mine ? owner_thread : other_thread);
        if (*call == 'a') step_alloc(port, mine, nondet_bool() ? f : NULL);
        else if (*call == 'f' && f->b.ptr != NULL) step_free(port, mine, f);
        else if (*call == 'w') step_free_wrongly(port, mine);
        else if (*call == 'r' && f->b.ptr != NULL) step_resize(port, mine, f);
        else if (*call == 'm') step_mark(s, mine, outer.valid ? &inner : &outer);
        else if (*call == 'R' && outer.mark.stack != NULL) step_release(s, port, mine, &outer);
        else if (*call == 'z') step_reset(s, port, mine);
    }
    check_state(s, port);
    nm_stack_destroy(s);
    CHECK(upstream.out == 0, "the chunk comes back");
    return 0;
}
