/* Pool: the calls of CALLS in their order, each from the pool's thread or refused from another, so that every part of
 * them is covered too, on a pool of COUNT cells of 16 bytes.
 *
 * What is freed is any address, inside the pool's memory or outside of it, at any offset, in use or not, with any size
 * and alignment; what is overwritten is a cell not in use, with any word. The memory in front of the cells and behind
 * them is another's: CBMC refuses a step behind it, and one byte in front, any one, is looked at in the end.
 *
 * a alloc, f free of anything, r resize, o overwrite the link of a freed cell
 *
 * cbmc: source csrc/alloc/pool.c csrc/base/base.c
 * cbmc: unwind 2
 * cbmc: loop main.0 7
 * cbmc: loop look.0 3
 * cbmc: loop pool_check_chunk.0 65
 * cbmc: loop pool_check_chunk.1 5
 * cbmc: call pool_take_chunk upstream_alloc
 * cbmc: call pool_take_chunk.2 upstream_free
 * cbmc: call pool_abolish upstream_free
 * cbmc: call slot_alloc pool_alloc
 * cbmc: call slot_resize pool_resize
 * cbmc: call slot_free pool_free
 * cbmc: call stats_of pool_stats
 * cbmc: run COUNT=2 CALLS="aafa"
 * cbmc: run COUNT=2 CALLS="aaffa"
 * cbmc: run COUNT=2 CALLS="afoaa"
 * cbmc: run COUNT=2 CALLS="aar"
 * cbmc: run COUNT=2 CALLS="aaaf"
 * cbmc: run COUNT=2 CALLS="af" WALK=true
 */
#define UPSTREAM_SIZE_MAX (COUNT * 16)
#ifndef WALK
#define WALK false /* whether nm_pool_check looks at the end: it walks 64 bits, which costs more than the calls */
#endif
#include "harness.h"

#include "nativemem/pool.h"

#define CELL 16
static char foreign[64];
static nm_stats model;
static bool in_use[COUNT], ever[COUNT];
static size_t size_of[COUNT];
static bool overwritten; /* a freed cell was */

static void *slot_alloc(nm_allocator a, size_t size, size_t align) { return a.methods->alloc(a.self, size, align); }
static bool slot_resize(nm_allocator a, void *ptr, size_t old, size_t size, size_t align) {
    return a.methods->resize(a.self, ptr, old, size, align);
}
static nm_status slot_free(nm_allocator a, void *ptr, size_t size, size_t align) {
    return a.methods->free(a.self, ptr, size, align);
}

static void check_state(nm_pool *p, nm_allocator port) {
    nm_stats now = stats_of(port);
    if (WALK && !overwritten) {
        const char *broken = nm_pool_check(p);
        CHECK(broken == NULL, "nm_pool_check holds: the free list is closed");
    }
    CHECK(now.used == model.used && now.live == model.live, "used and live are right");
    CHECK(now.peak == model.peak, "peak is right");
    CHECK(now.total == model.total && now.count == model.count && now.frees == model.frees, "totals are right");
    CHECK(now.reserved == COUNT * CELL, "reserved is the cells");
}

static void step_alloc(nm_allocator port, bool mine) {
    size_t size = nondet_size(), align = any_align(NM_PORT_ALIGN_MAX);
    ASSUME(size >= 1 && size <= NM_SIZE_MAX);
    snapshot before = look(port);
    char *ptr = slot_alloc(port, size, align);
    if (ptr == NULL) {
        nm_status status = nm_last_failure().status;
        check_refused(port, before);
        CHECK(mine || status == NM_WRONG_THREAD, "another thread is refused");
        if (!mine) return;
        CHECK((status == NM_INVALID_LAYOUT) == (size > CELL || align > CELL), "what no cell holds is refused");
        if (status == NM_INVALID_LAYOUT) return;
        CHECK(status == NM_POOL_EXHAUSTED ? model.live == COUNT : status == NM_CORRUPTED && overwritten,
              "a pool with a free cell refuses only where one was overwritten");
        GOAL(status == NM_POOL_EXHAUSTED);
        GOAL(status == NM_CORRUPTED);
        return;
    }
    CHECK(mine, "another thread is refused");
    CHECK(__CPROVER_same_object(ptr, upstream.ptr) && ptr >= upstream.ptr, "a block is inside the pool");
    size_t offset = (size_t)(ptr - upstream.ptr), i = offset / CELL;
    CHECK(offset % CELL == 0 && i < COUNT, "a block is a cell");
    CHECK(nm_is_aligned((uintptr_t)ptr, align), "a block is aligned");
    CHECK(!in_use[i], "no cell is handed out twice");
    GOAL(ever[i]);
    GOAL(overwritten);
    in_use[i] = ever[i] = true;
    size_of[i] = size;
    model.used += size;
    if (model.used > model.peak) model.peak = model.used;
    model.total += size;
    model.live++;
    model.count++;
}

static void step_free(nm_allocator port, bool mine) {
    size_t at = nondet_size(), size = nondet_size(), align = any_align(NM_PORT_ALIGN_MAX), i = at / CELL;
    bool inside = nondet_bool();
    ASSUME(size >= 1 && size <= NM_SIZE_MAX && at < (inside ? COUNT * CELL : sizeof foreign));
    bool right = inside && at % CELL == 0 && in_use[i];
    if (right && size <= CELL) ASSUME(size == size_of[i]); /* its size is the caller's to know */
    char *ptr = inside ? upstream.ptr + at : foreign + at;
    snapshot before = look(port);
    nm_status status = slot_free(port, ptr, size, align);
    if (status == NM_OK) {
        CHECK(mine && right, "only a cell in use is freed, and by its thread");
        in_use[i] = false;
        model.used -= size;
        model.live--;
        model.frees++;
        return;
    }
    check_refused(port, before);
    if (!mine) return;
    CHECK(!right || size > CELL || align > CELL, "a cell in use is taken back");
    if (!inside || at % CELL != 0) CHECK(status == NM_FOREIGN_BLOCK, "what is no cell is foreign");
    else if (!right && size <= CELL && align <= CELL)
        CHECK(status == (ever[i] ? NM_DOUBLE_FREE : NM_FOREIGN_BLOCK), "a cell not in use was freed before, or never given");
    GOAL(status == NM_DOUBLE_FREE);
    GOAL(status == NM_FOREIGN_BLOCK && inside);
    GOAL(!inside);
}

static void step_resize(nm_allocator port, bool mine) {
    size_t i = nondet_size(), size = nondet_size();
    ASSUME(i < COUNT && in_use[i] && size >= 1 && size <= NM_SIZE_MAX);
    snapshot before = look(port);
    if (slot_resize(port, upstream.ptr + i * CELL, size_of[i], size, 1)) {
        CHECK(mine && size <= CELL, "a block stays inside its cell");
        GOAL(size > size_of[i]);
        GOAL(size < size_of[i]);
        model.used = model.used - size_of[i] + size;
        if (size > size_of[i]) model.total += size - size_of[i];
        if (model.used > model.peak) model.peak = model.used;
        size_of[i] = size;
    } else {
        CHECK(!mine || size > CELL, "what the cell holds is taken");
        CHECK(same_stats(before.stats, stats_of(port)), "a resize that fails leaves the counters");
        GOAL(mine);
    }
}

static void overwrite(void) {
    size_t i = nondet_size(), word = nondet_size();
    ASSUME(i < COUNT && !in_use[i] && ever[i]);
    *(size_t *)(void *)(upstream.ptr + i * CELL) = word;
    overwritten = true;
}

int main(void) {
    be(owner_thread);
    nm_allocator below = upstream_port();
    upstream.watched = 0;
    reliable = true;
    nm_pool *p = nm_pool_create(below, 16, COUNT, false);
    reliable = false;
    nm_allocator port = nm_pool_port(p);
    size_t front = nondet_size();
    ASSUME(front < upstream.align);
    char kept = (upstream.ptr - upstream.align)[front];
    for (const char *call = CALLS; *call != 0; call++) {
        bool mine = nondet_bool();
        be(mine ? owner_thread : other_thread);
        if (*call == 'a') step_alloc(port, mine);
        else if (*call == 'f') step_free(port, mine);
        else if (*call == 'r' && model.live > 0) step_resize(port, mine);
        else if (*call == 'o' && model.count > model.live && nondet_bool()) overwrite();
    }
    check_state(p, port);
    CHECK((upstream.ptr - upstream.align)[front] == kept, "nothing in front of the cells was written");
    nm_pool_destroy(p);
    CHECK(upstream.out == 0, "the chunk comes back");
    return 0;
}
