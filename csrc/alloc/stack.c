/* A pointer that goes up with each block and down again with its free. What lies below a block, padding or the
 * block before, cannot be told from its address; a list of entries beside the chunk remembers it, which also
 * makes the order of frees certain rather than trusted. */
#include "nativemem/stack.h"

#include "alloc/confined.h"
#include "alloc/counters.h"
#include "tuning.h"

/* One for each live block, oldest first. */
typedef struct stack_entry {
    size_t start; /* offset of the block */
    uint64_t serial : 48;
    uint64_t padding : 16; /* bytes below it, less than its alignment */
} stack_entry;
_Static_assert(NM_ALIGN_MAX <= 65536, "padding has 16 bits");

/* Invariants:
 *   base <= pos <= base + capacity;  depth == 0 <=> pos == base
 *   entry i starts padding bytes behind the end of entry i - 1, or behind base;  serials rise
 *   used == total - dropped_bytes == bytes of the entries' blocks;  live == count - dropped_blocks == depth */
struct nm_stack {
    char *pos, *base, *end; /* all NULL once cleared */
    nm__confined thread;
    stack_entry *entries;
    size_t depth, room; /* entries in use, and at hand */
    uint64_t serial;    /* of the newest block ever */
    nm__counter total, count, dropped_bytes, dropped_blocks, peak, frees, failures, reserved;
    uint64_t generation;
    size_t capacity;
    nm_allocator upstream;
    bool patterns, unwinds;
};

static size_t stack_used(const nm_stack *s) { return nm__difference(&s->total, &s->dropped_bytes); }

const char *nm_stack_check(const nm_stack *s) {
    size_t end = 0, used = 0;
    if (s->pos < s->base || s->pos > s->end) return "pos is outside the chunk";
    if (s->depth > s->room) return "there are more entries than room for them";
    for (size_t i = 0; i < s->depth; i++) {
        const stack_entry *e = &s->entries[i];
        bool last = i + 1 == s->depth;
        if (e->start != end + e->padding) return "an entry does not start behind the one before";
        if (i > 0 && e->serial <= s->entries[i - 1].serial) return "serials do not rise";
        end = last ? (size_t)(s->pos - s->base) : s->entries[i + 1].start - s->entries[i + 1].padding;
        if (end <= e->start) return "a block has no bytes";
        used += end - e->start;
    }
    if (end != (size_t)(s->pos - s->base)) return "pos is not the end of the newest block";
    if (used != stack_used(s)) return "used is not the sum of the blocks";
    if (nm__get(&s->count) - nm__get(&s->dropped_blocks) != s->depth) return "live is not the number of entries";
    return NULL;
}

nm_status nm_stack_check_thread(const nm_stack *s) { return nm__confined_check(&s->thread); }
nm_status nm_stack_hand_over(nm_stack *s, uintptr_t thread) { return nm__confined_hand_over(&s->thread, thread); }

static void stack_settle_peak(nm_stack *s) {
    size_t used = stack_used(s);
    if (used > nm__get(&s->peak)) nm__set(&s->peak, used);
}

static NM_COLD bool stack_grow_entries(nm_stack *s) {
    size_t room = s->room == 0 ? NM_STACK_ENTRIES : 2 * s->room;
    stack_entry *entries = nm__meta_alloc(room * sizeof *entries);
    if (entries == NULL) return false;
    if (s->depth != 0) memcpy(entries, s->entries, s->depth * sizeof *entries);
    nm__meta_free(s->entries);
    s->entries = entries;
    s->room = room;
    return true;
}

static NM_COLD void *stack_refuse(nm_stack *s, nm_status status, size_t size) {
    if (nm__is_want(status)) nm__bump(&s->failures, 1);
    return nm_refuse(status, size, (size_t)(s->pos - s->base), s->capacity);
}

static void *stack_alloc(void *self, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_stack *s = self;
    if (NM_UNLIKELY(!nm__confined_here(&s->thread))) return stack_refuse(s, NM_WRONG_THREAD, size);
    /* The base is aligned to NM_ALIGN_MAX only: beyond that, what fits would depend on its address. */
    size_t padding = (size_t)(-(uintptr_t)s->pos & (align - 1)), left = (size_t)(s->end - s->pos);
    if (NM_UNLIKELY(padding > left || size > left - padding || align > NM_ALIGN_MAX))
        return stack_refuse(s, NM_CAPACITY_EXCEEDED, size);
    if (NM_UNLIKELY(s->depth == s->room) && !stack_grow_entries(s)) return stack_refuse(s, NM_OUT_OF_MEMORY, size);
    char *ptr = s->pos + padding;
    stack_entry *e = &s->entries[s->depth++];
    e->start = (size_t)(ptr - s->base);
    e->serial = ++s->serial & (((uint64_t)1 << 48) - 1);
    e->padding = padding & 0xFFFF;
    s->pos = ptr + size;
    nm__bump(&s->total, size);
    nm__bump(&s->count, 1);
    NM_UNPOISON(ptr, size);
    return ptr;
}

/* The one place that says whether a block may be freed now. */
static nm_status stack_check_top(const nm_stack *s, const char *ptr, size_t size) {
    /* as numbers: pointers into different objects must not be compared */
    size_t offset = (uintptr_t)ptr - (uintptr_t)s->base, end = (size_t)(s->pos - s->base);
    if (offset >= (size_t)(s->end - s->base)) return NM_FOREIGN_BLOCK;
    if (offset >= end) return NM_DOUBLE_FREE;
    if (s->entries[s->depth - 1].start != offset) return NM_LIFO_VIOLATION;
    return size == end - offset ? NM_OK : NM_FOREIGN_BLOCK;
}

static void stack_drop_bytes(nm_stack *s, size_t size) {
    stack_settle_peak(s);
    nm__bump_last(&s->dropped_bytes, size);
}

/* What lies between the top and where it was before. */
NM_INLINE void stack_erase(const nm_stack *s, const char *before) {
    size_t size = (size_t)(before - s->pos);
    if (NM_UNLIKELY(s->patterns)) {
        NM_UNPOISON(s->pos, size);
        memset(s->pos, NM__FREED, size);
    }
    NM_POISON(s->pos, size);
}

/* Drops the blocks above a depth. */
static void stack_pop_to(nm_stack *s, size_t depth) {
    const char *before = s->pos;
    size_t bytes = 0;
    s->unwinds = false;
    if (depth == s->depth) return;
    nm__bump_last(&s->dropped_blocks, s->depth - depth);
    while (s->depth > depth) {
        const stack_entry *e = &s->entries[--s->depth];
        bytes += (size_t)(s->pos - s->base) - e->start;
        s->pos = s->base + e->start - e->padding;
    }
    stack_drop_bytes(s, bytes);
    stack_erase(s, before);
}

static nm_status stack_free(void *self, void *ptr, size_t size, size_t align) {
    nm_stack *s = self;
    (void)align;
    if (NM_UNLIKELY(!nm__confined_here(&s->thread))) return nm__fail(NM_WRONG_THREAD, 0, 0, 0);
    nm_status status = stack_check_top(s, ptr, size);
    if (NM_UNLIKELY(status == NM_LIFO_VIOLATION && s->unwinds)) {
        nm__bump(&s->frees, 1);
        return NM_OK;
    }
    if (NM_UNLIKELY(status != NM_OK)) return nm__fail(status, size, 0, 0);
    const char *before = s->pos;
    s->pos = (char *)ptr - s->entries[--s->depth].padding;
    stack_drop_bytes(s, size);
    nm__bump_last(&s->dropped_blocks, 1);
    nm__bump(&s->frees, 1);
    stack_erase(s, before);
    return NM_OK;
}

static bool stack_resize(void *self, void *block, size_t old, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_stack *s = self;
    char *ptr = block;
    (void)align;
    if (NM_UNLIKELY(!nm__confined_here(&s->thread))) {
        (void)nm__fail(NM_WRONG_THREAD, size, 0, 0);
        return false;
    }
    if (size == old) return true;
    if (stack_check_top(s, ptr, old) != NM_OK || size > (size_t)(s->end - ptr)) return false;
    if (size > old) {
        nm__bump(&s->total, size - old);
        NM_UNPOISON(ptr + old, size - old);
        if (s->patterns) memset(ptr + old, NM__FRESH_STACK, size - old);
    } else {
        stack_drop_bytes(s, old - size);
        if (s->patterns) memset(ptr + size, NM__FREED, old - size);
        NM_POISON(ptr + size, old - size);
    }
    s->pos = ptr + size;
    return true;
}

static void stack_stats(void *self, nm_stats *out) {
    nm_stack *s = self;
    out->used = stack_used(s);
    out->peak = nm__get(&s->peak);
    if (out->peak < out->used) out->peak = out->used;
    out->reserved = nm__get(&s->reserved);
    out->limit = s->capacity;
    out->total = nm__get(&s->total);
    out->live = nm__difference(&s->count, &s->dropped_blocks);
    out->count = nm__get(&s->count);
    out->frees = nm__get(&s->frees);
    out->failures = nm__get(&s->failures);
}

static const nm_methods stack_methods = {stack_alloc, stack_resize, stack_free, stack_stats};

/* A table of its own: without patterns nothing asks for them. */
static void *stack_pattern_alloc(void *self, size_t size, size_t align) {
    void *ptr = stack_alloc(self, size, align);
    return ptr == NULL ? NULL : memset(ptr, NM__FRESH_STACK, size);
}
static const nm_methods stack_pattern_methods = {stack_pattern_alloc, stack_resize, stack_free, stack_stats};

nm_allocator nm_stack_port(nm_stack *s) { return (nm_allocator){s, s->patterns ? &stack_pattern_methods : &stack_methods}; }

nm_stack *nm_stack_create(nm_allocator upstream, size_t capacity, bool patterns) {
    if (capacity == 0 || capacity > NM_SIZE_MAX) return nm_refuse(NM_INVALID_LAYOUT, capacity, 0, 0);
    nm_stack *s = nm__meta_alloc(sizeof *s);
    if (s == NULL) return NULL;
    s->base = upstream.methods->alloc(upstream.self, capacity, NM_ALIGN_MAX);
    if (s->base == NULL) {
        nm__meta_free(s);
        return NULL;
    }
    s->thread = nm__confine();
    s->upstream = upstream;
    s->capacity = capacity;
    s->patterns = patterns;
    s->pos = s->base;
    s->end = s->base + capacity;
    nm__set(&s->reserved, capacity);
    NM_POISON(s->base, capacity);
    return s;
}

static void stack_empty(nm_stack *s) {
    stack_pop_to(s, 0);
    s->generation++;
}

static void stack_abolish(nm_stack *s) {
    stack_empty(s);
    if (s->base == NULL) return;
    NM_UNPOISON(s->base, s->capacity);
    (void)s->upstream.methods->free(s->upstream.self, s->base, s->capacity, NM_ALIGN_MAX);
    s->base = s->pos = s->end = NULL;
    nm__set(&s->reserved, 0);
    nm__meta_free(s->entries);
    s->entries = NULL;
    s->room = 0;
}

void nm_stack_unwind(nm_stack *s) {
    NM_ASSERT(nm__confined_here(&s->thread));
    s->unwinds = true;
}

nm_status nm_stack_reset(nm_stack *s) {
    if (!nm__confined_here(&s->thread)) return nm__confined_check(&s->thread);
    stack_empty(s);
    return NM_OK;
}

nm_status nm_stack_clear(nm_stack *s) {
    if (!nm__confined_here(&s->thread)) return nm__confined_check(&s->thread);
    stack_abolish(s);
    return NM_OK;
}

void nm_stack_destroy(nm_stack *s) {
    if (s == NULL) return;
    stack_abolish(s);
    nm__meta_free(s);
}

static uint64_t stack_serial_at(const nm_stack *s, size_t depth) { return depth == 0 ? 0 : s->entries[depth - 1].serial; }

size_t nm_stack_largest_free(const nm_stack *s) { return s->base == NULL ? 0 : (size_t)(s->end - s->pos); }

nm_status nm_stack_take_mark(nm_stack *s, nm_stack_mark *out) {
    if (!nm__confined_here(&s->thread)) return nm__confined_check(&s->thread);
    *out = (nm_stack_mark){.stack = s, .generation = s->generation, .serial = stack_serial_at(s, s->depth), .depth = s->depth};
    return NM_OK;
}

nm_status nm_stack_check_mark(const nm_stack *s, const nm_stack_mark *mark) {
    if (mark->stack != s || mark->generation != s->generation || mark->depth > s->depth ||
        mark->serial != stack_serial_at(s, mark->depth))
        return nm__fail(NM_INVALID_MARK, 0, 0, 0);
    return NM_OK;
}

nm_status nm_stack_release(nm_stack *s, const nm_stack_mark *mark) {
    if (!nm__confined_here(&s->thread)) return nm__confined_check(&s->thread);
    if (nm_stack_check_mark(s, mark) != NM_OK) return NM_INVALID_MARK;
    stack_pop_to(s, mark->depth);
    return NM_OK;
}
