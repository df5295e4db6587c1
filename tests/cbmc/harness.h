/* What the harnesses share: nondeterministic values, an upstream, thread stand-ins, and a look at what changed.
 *
 * The upstream refuses whenever it likes, checks its own preconditions, and places a block at a multiple of the
 * alignment that was asked for, but of no more: CBMC's objects start at address bits that are all zero, so without
 * this skew every proof of an alignment would be vacuous. Nothing lies behind the block: CBMC sees any step out of it.
 */
#ifndef HARNESS_H
#define HARNESS_H

#include <stdlib.h>

#include "base/base.h"
#include "nativemem/port.h"

/* A goal is something that has to be reachable, lest a proof be one of nothing. Goals are looked at in runs of their
 * own, which try to refute them. */
#ifdef COVER
#define CHECK(condition, text) __CPROVER_assume(condition)
#define GOAL(condition) __CPROVER_assert(!(condition), "goal")
#else
#define CHECK(condition, text) __CPROVER_assert(condition, text)
#define GOAL(condition) ((void)0)
#endif
#define ASSUME(condition) __CPROVER_assume(condition)

bool nondet_bool(void);
unsigned nondet_unsigned(void);
unsigned char nondet_byte(void);
size_t nondet_size(void);
void *nondet_pointer(void);

static inline size_t any_align(size_t most) {
    size_t align = nondet_size();
    ASSUME(nm_is_power_of_two(align) && align <= most);
    return align;
}

/* Threads are a number that the harness sets; what would run at a thread's end is called by the harness. */
NM_TLS uintptr_t nm__thread_number, nm__acting_as;
uintptr_t nm__number_thread(void) { return nm__thread_number = nm__acting_as = 1; }
static inline void be(uintptr_t thread) { nm__thread_number = nm__acting_as = thread; }
static void (*at_thread_end)(void);
void nm__at_thread_end(void (*hook)(void)) { at_thread_end = hook; }
void nm__arm_thread_end(void) {}

static const uintptr_t owner_thread = 1, other_thread = 2;

/* While it is set nothing fails: what is made then keeps its constants, which CBMC would lose where a path that makes
 * it meets one that does not. So a constructor of stack or pool that fails is not looked at here. */
static bool reliable;

/* May fail, and tells CBMC the type of what sizeof measured. Entries, where there are such, have one of two sizes: an
 * object of a size that depends on the run costs more than the rest. */
void *calloc(size_t count, size_t size) {
    (void)count;
#ifdef ENTRIES
    typedef struct pair {
        size_t words[2];
    } pair;
    if (!reliable) {
        bool fits = size == ENTRIES * sizeof(pair), twice = size == 2 * ENTRIES * sizeof(pair);
        CHECK(fits || twice, "calloc: entries, and twice as many");
        if (nondet_bool()) return NULL;
        return fits ? __CPROVER_allocate(ENTRIES * sizeof(pair), true) : __CPROVER_allocate(2 * ENTRIES * sizeof(pair), true);
    }
#endif
    if (!reliable && nondet_bool()) return NULL;
    return __CPROVER_allocate(size, true);
}

/* --- what a call changed: two bytes of a structure, any two --- */

typedef struct snapshot {
    const unsigned char *object;
    size_t at[2];
    unsigned char byte[2];
    nm_stats stats;
} snapshot;

static nm_stats stats_of(nm_allocator a) {
    nm_stats stats;
    a.methods->stats(a.self, &stats);
    return stats;
}

static snapshot look(nm_allocator a) {
    snapshot s = {.object = a.self, .at = {nondet_size(), nondet_size()}, .stats = stats_of(a)};
    for (int i = 0; i < 2; i++) {
        ASSUME(s.at[i] < __CPROVER_OBJECT_SIZE(a.self));
        s.byte[i] = s.object[s.at[i]];
    }
    return s;
}

static bool same_stats(nm_stats x, nm_stats y) {
    return x.used == y.used && x.peak == y.peak && x.reserved == y.reserved && x.limit == y.limit && x.total == y.total &&
           x.live == y.live && x.count == y.count && x.frees == y.frees;
}

/* A refusal changes nothing but the count of failures, and that for want of memory only. Bytes that differ are all
 * within one word, whose value is seen to rise by one. */
static void check_refused(nm_allocator a, snapshot s) {
    nm_stats now = stats_of(a);
    bool differs[2] = {s.object[s.at[0]] != s.byte[0], s.object[s.at[1]] != s.byte[1]};
    size_t more = nm__is_want(nm_last_failure().status) ? 1 : 0;
    CHECK(nm_last_failure().status != NM_OK, "a refusal has a reason");
    CHECK(same_stats(s.stats, now), "a refusal leaves the counters");
    CHECK(now.failures == s.stats.failures + more, "a refusal for want of memory is counted, no other");
    CHECK(more == 1 || !differs[0], "misuse leaves every byte of the structure");
    CHECK(!(differs[0] && differs[1]) || s.at[0] / 8 == s.at[1] / 8, "a refusal changes one counter at most");
}

/* --- the upstream: counts everything, and follows one block, any one --- */

#ifndef UPSTREAM_SIZE_MAX
#define UPSTREAM_SIZE_MAX ((size_t)1 << 40)
#endif

static struct {
    size_t taken, out, bytes; /* blocks ever; blocks and their bytes that have not come back */
    size_t watched;           /* number of the block that is followed */
    char *ptr;
    size_t size, align;
    bool is_out;
} upstream;

static void *upstream_alloc(void *self, size_t size, size_t align) {
    (void)self;
    CHECK(size >= 1 && size <= NM_SIZE_MAX, "upstream: a size that a port takes");
    CHECK(nm_is_power_of_two(align) && align <= NM_PORT_ALIGN_MAX, "upstream: an alignment that a port takes");
    if (size > UPSTREAM_SIZE_MAX || (!reliable && nondet_bool())) return nm_refuse(NM_OUT_OF_MEMORY, size, 0, 0);
    char *object = __CPROVER_allocate(size + align, false);
    upstream.out++;
    upstream.bytes += size;
    if (upstream.taken++ == upstream.watched) {
        upstream.ptr = object + align;
        upstream.size = size;
        upstream.align = align;
        upstream.is_out = true;
    }
    return object + align;
}

static bool upstream_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    (void)self, (void)ptr, (void)old, (void)size, (void)align;
    return false;
}

static nm_status upstream_free(void *self, void *ptr, size_t size, size_t align) {
    (void)self;
    if (__CPROVER_same_object(ptr, upstream.ptr)) {
        CHECK(upstream.is_out, "upstream: what comes back was taken, and once");
        CHECK(ptr == (void *)upstream.ptr && size == upstream.size && align == upstream.align,
              "upstream: a block comes back with its own layout");
        upstream.is_out = false;
    }
    upstream.out--;
    upstream.bytes -= size;
    free((char *)ptr - __CPROVER_POINTER_OFFSET(ptr)); /* as malloc gave it; once, as CBMC checks */
    return NM_OK;
}

static void upstream_stats(void *self, nm_stats *out) {
    (void)self;
    *out = (nm_stats){.used = upstream.bytes, .reserved = upstream.bytes};
}

static const nm_methods upstream_methods = {upstream_alloc, upstream_resize, upstream_free, upstream_stats};
static nm_allocator upstream_port(void) {
    upstream.watched = nondet_size();
    return (nm_allocator){NULL, &upstream_methods};
}

/* --- two blocks that are followed, any two --- */

typedef struct block {
    char *ptr; /* NULL: not made yet, or dropped */
    size_t size, align, probe; /* probe: offset of a byte that is followed, any one */
    int byte;                  /* what was last written there by memset, -1: nothing */
    bool live;                 /* its bytes are its owner's */
} block;

static inline bool overlap(const char *p, size_t m, const char *q, size_t n) {
    return __CPROVER_same_object(p, q) && __CPROVER_POINTER_OFFSET(p) < __CPROVER_POINTER_OFFSET(q) + n &&
           __CPROVER_POINTER_OFFSET(q) < __CPROVER_POINTER_OFFSET(p) + m;
}

/* Inside the memory that upstream gave, where that is what is followed; and the alignment holds. */
static void check_place(const block *b) {
    CHECK(nm_is_aligned((uintptr_t)b->ptr, b->align), "a block is aligned");
    CHECK(__CPROVER_w_ok(b->ptr, b->size), "a block is inside memory");
    if (__CPROVER_same_object(b->ptr, upstream.ptr))
        CHECK(__CPROVER_POINTER_OFFSET(b->ptr) >= upstream.align, "a block is inside what upstream gave");
}

#endif
