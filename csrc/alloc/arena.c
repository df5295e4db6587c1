/* A bump pointer over chunks that double. It cannot free a block alone or serve another thread, and takes no lock, so the
 * fast path is a thread check, a round-up, a compare and three stores. used and live are not counted there: they are total
 * and count less what was dropped. */
#include "nativemem/arena.h"

#include "alloc/confined.h"
#include "alloc/counters.h"

typedef struct arena_chunk {
    struct arena_chunk *below; /* the chunk taken before, in its list */
    char *base;          /* multiple of align */
    size_t capacity;
    size_t align;        /* NM_ALIGN_MAX, or more for a block that wants it */
    uint64_t number;     /* of the arena's chunks, never used again: what a mark knows it by */
} arena_chunk;

/* Invariants:
 *   reserved == sum of capacities of the lists that begin with current and large;  cap == 0 or reserved <= cap
 *   current == NULL: pos == end == NULL;  else current->base <= pos <= end == current->base + current->capacity
 *   used == total - dropped_bytes;  live == count - dropped_blocks */
struct nm_arena {
    char *pos, *end;
    nm__confined thread;
    nm__counter total, count, dropped_bytes, dropped_blocks, peak, frees, failures, reserved;
    arena_chunk *current, *large;
    nm_allocator upstream;
    nm_arena_options o;
    const char *floor; /* of the newest mark in the current chunk: what lies below it must keep its place and size */
    uint64_t generation, chunks; /* ever taken */
};

static const char *arena_check_list(const arena_chunk *c, size_t align_least, size_t *sum) {
    for (; c != NULL; c = c->below) {
        if (c->align < align_least || !nm_is_aligned((uintptr_t)c->base, c->align)) return "a chunk's base is not aligned";
        *sum += c->capacity;
    }
    return NULL;
}

const char *nm_arena_check(const nm_arena *a) {
    size_t sum = 0;
    const char *broken = arena_check_list(a->current, NM_ALIGN_MAX, &sum);
    if (broken == NULL) broken = arena_check_list(a->large, NM_ALIGN_MAX, &sum);
    if (broken != NULL) return broken;
    if (sum != nm__get(&a->reserved)) return "reserved is not the sum of the chunks";
    if (a->o.cap != 0 && sum > a->o.cap) return "reserved is above cap";
    if (a->current == NULL) return a->pos == NULL && a->end == NULL ? NULL : "there is a position without a current chunk";
    if (a->end != a->current->base + a->current->capacity) return "end is not the current chunk's";
    if (a->pos < a->current->base || a->pos > a->end) return "pos is outside the current chunk";
    if (a->floor < a->current->base || a->floor > a->pos) return "floor is outside the filled part of the current chunk";
    if (nm__get(&a->dropped_bytes) > nm__get(&a->total)) return "more was dropped than handed out";
    if (nm__get(&a->dropped_blocks) > nm__get(&a->count)) return "more blocks were dropped than handed out";
    return NULL;
}

NM_INLINE size_t arena_used(const nm_arena *a) { return nm__difference(&a->total, &a->dropped_bytes); }
NM_INLINE size_t arena_live(const nm_arena *a) { return nm__difference(&a->count, &a->dropped_blocks); }

/* used only falls when something is dropped, so the peak need only be looked at then and on reading. */
static void arena_settle_peak(nm_arena *a) {
    size_t used = arena_used(a);
    if (used > nm__get(&a->peak)) nm__set(&a->peak, used);
}

nm_status nm_arena_check_thread(const nm_arena *a) { return nm__confined_check(&a->thread); }
nm_status nm_arena_hand_over(nm_arena *a, uintptr_t thread) { return nm__confined_hand_over(&a->thread, thread); }

nm_arena *nm_arena_create(nm_allocator upstream, nm_arena_options options) {
    if (options.hint == 0 || options.hint > NM_SIZE_MAX) return nm_refuse(NM_INVALID_LAYOUT, options.hint, 0, 0);
    nm_arena *a = nm__meta_alloc(sizeof *a);
    if (a == NULL) return NULL;
    a->thread = nm__confine();
    a->upstream = upstream;
    a->o = options;
    if (!options.grow && options.cap != 0 && options.hint > options.cap) a->o.hint = options.cap;
    a->generation = 1;
    return a;
}

static arena_chunk *arena_take_chunk(nm_arena *a, size_t capacity, size_t align) {
    arena_chunk *c = nm__meta_alloc(sizeof *c);
    if (c == NULL) return NULL;
    c->capacity = capacity;
    c->align = align;
    c->base = a->upstream.methods->alloc(a->upstream.self, capacity, align);
    if (c->base == NULL) {
        nm__meta_free(c);
        return NULL;
    }
    c->number = ++a->chunks;
    NM_POISON(c->base, capacity);
    nm__bump(&a->reserved, capacity);
    return c;
}

/* Wipes or marks bytes that are in no block any more. The caller poisons them. */
static void arena_erase(const nm_arena *a, char *ptr, size_t size) {
    if (a->o.zero_on_free) nm__wipe(ptr, size);
    else if (a->o.patterns) memset(ptr, NM__FREED, size);
}

/* Returns the chunk below. filled: bytes from the base that blocks may have used. */
static arena_chunk *arena_drop_chunk(nm_arena *a, arena_chunk *c, size_t filled) {
    arena_chunk *below = c->below;
    NM_UNPOISON(c->base, c->capacity);
    arena_erase(a, c->base, filled);
    nm__set(&a->reserved, nm__get(&a->reserved) - c->capacity);
    (void)a->upstream.methods->free(a->upstream.self, c->base, c->capacity, c->align);
    nm__meta_free(c);
    return below;
}

static void arena_set_current(nm_arena *a, arena_chunk *c, size_t offset) {
    a->current = c;
    a->floor = c == NULL ? NULL : c->base;
    a->pos = c == NULL ? NULL : c->base + offset;
    a->end = c == NULL ? NULL : c->base + c->capacity;
}

static void *arena_account(nm_arena *a, char *ptr, size_t size) {
    nm__bump(&a->total, size);
    nm__bump(&a->count, 1);
    NM_UNPOISON(ptr, size);
    return ptr;
}

/* A block of stricter alignment than a chunk has gets a chunk of its own as well: where it lies in another
 * would depend on that one's address. */
static NM_COLD void *arena_alloc_slow(nm_arena *a, size_t size, size_t align) {
    size_t reserved = nm__get(&a->reserved);
    size_t want = a->o.hint;
    arena_chunk *c;
    bool own = align > NM_ALIGN_MAX;
    if (!a->o.grow) {
        if (a->current != NULL || size > want || own) goto exhausted;
    } else {
        if (a->current != NULL) want = a->current->capacity > NM_SIZE_MAX / 2 ? NM_SIZE_MAX : 2 * a->current->capacity;
        if (a->o.cap != 0 && want > a->o.cap - reserved) want = a->o.cap - reserved;
        if (size > want || own) {
            if (a->o.cap != 0 && size > a->o.cap - reserved) goto exhausted;
            if ((c = arena_take_chunk(a, size, own ? align : NM_ALIGN_MAX)) == NULL) goto refused;
            c->below = a->large;
            a->large = c;
            return arena_account(a, c->base, size);
        }
    }
    if ((c = arena_take_chunk(a, want, NM_ALIGN_MAX)) == NULL) goto refused;
    c->below = a->current;
    arena_set_current(a, c, size);
    return arena_account(a, c->base, size);
exhausted:
    (void)nm__fail(NM_EXHAUSTED, size, reserved, a->o.grow ? a->o.cap : a->o.hint);
refused: /* the upstream's reason is the last failure */
    nm__count_failure(&a->failures);
    return NULL;
}

static void *arena_alloc(void *self, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_arena *a = self;
    if (NM_UNLIKELY(!nm__confined_here(&a->thread))) return nm_refuse(NM_WRONG_THREAD, size, 0, 0);
    uintptr_t at = ((uintptr_t)a->pos + (align - 1)) & ~(uintptr_t)(align - 1);
    if (NM_UNLIKELY(at > (uintptr_t)a->end || size > (uintptr_t)a->end - at || align > NM_ALIGN_MAX))
        return arena_alloc_slow(a, size, align);
    a->pos = (char *)at + size;
    return arena_account(a, (char *)at, size);
}

/* As numbers: pointers into different objects must not be compared. */
static bool arena_in_current(const nm_arena *a, const char *ptr) {
    return a->current != NULL && (uintptr_t)ptr - (uintptr_t)a->current->base < a->current->capacity;
}

static bool arena_resize(void *self, void *block, size_t old, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_arena *a = self;
    char *ptr = block;
    (void)align;
    if (!nm__confined_here(&a->thread)) {
        (void)nm__fail(NM_WRONG_THREAD, size, 0, 0);
        return false;
    }
    if (size == old) return true;
    if (!arena_in_current(a, ptr) || ptr + old != a->pos || ptr < a->floor) return false;
    if (size > old) {
        if (size > (size_t)(a->end - ptr)) return false;
        nm__bump(&a->total, size - old);
        NM_UNPOISON(ptr + old, size - old);
        if (a->o.patterns) memset(ptr + old, NM__FRESH_ARENA, size - old);
    } else {
        arena_settle_peak(a);
        nm__bump_last(&a->dropped_bytes, old - size);
        arena_erase(a, ptr + size, old - size);
        NM_POISON(ptr + size, old - size);
    }
    a->pos = ptr + size;
    return true;
}

static nm_status arena_free(void *self, void *ptr, size_t size, size_t align) {
    nm_arena *a = self;
    (void)align;
    if (!nm__confined_here(&a->thread)) return nm__fail(NM_WRONG_THREAD, 0, 0, 0);
    nm__bump(&a->frees, 1);
    if (a->o.patterns) memset(ptr, NM__FREED, size);
    NM_POISON(ptr, size);
    return NM_OK;
}

static void arena_stats(void *self, nm_stats *out) {
    nm_arena *a = self;
    out->used = arena_used(a);
    out->peak = nm__get(&a->peak);
    if (out->used > out->peak) out->peak = out->used;
    out->reserved = nm__get(&a->reserved);
    out->limit = a->o.grow ? a->o.cap : a->o.hint;
    out->total = nm__get(&a->total);
    out->live = arena_live(a);
    out->count = nm__get(&a->count);
    out->frees = nm__get(&a->frees);
    out->failures = nm__get(&a->failures);
}

static const nm_methods arena_methods = {arena_alloc, arena_resize, arena_free, arena_stats};

/* A table of its own: without patterns nothing asks for them. */
static void *arena_pattern_alloc(void *self, size_t size, size_t align) {
    void *ptr = arena_alloc(self, size, align);
    return ptr == NULL ? NULL : memset(ptr, NM__FRESH_ARENA, size);
}
static const nm_methods arena_pattern_methods = {arena_pattern_alloc, arena_resize, arena_free, arena_stats};

nm_allocator nm_arena_port(nm_arena *a) { return (nm_allocator){a, a->o.patterns ? &arena_pattern_methods : &arena_methods}; }

/* Drops blocks down to used bytes in live blocks. */
static void arena_drop_to(nm_arena *a, size_t used, size_t live) {
    arena_settle_peak(a);
    nm__set_last(&a->dropped_bytes, nm__get(&a->total) - used);
    nm__set_last(&a->dropped_blocks, nm__get(&a->count) - live);
}

static uint64_t arena_chunk_number(const arena_chunk *c) { return c == NULL ? 0 : c->number; }

static void arena_drop_large(nm_arena *a, uint64_t until) {
    while (arena_chunk_number(a->large) != until) a->large = arena_drop_chunk(a, a->large, a->large->capacity);
}

static void arena_rewind(nm_arena *a, size_t offset) {
    size_t filled = (size_t)(a->pos - a->current->base);
    if (filled > offset) {
        NM_UNPOISON(a->current->base + offset, filled - offset);
        arena_erase(a, a->current->base + offset, filled - offset);
    }
    arena_set_current(a, a->current, offset);
    NM_POISON(a->current->base + offset, a->current->capacity - offset);
}

static void arena_empty(nm_arena *a) {
    arena_drop_to(a, 0, 0);
    arena_drop_large(a, 0);
    if (a->current != NULL) {
        while (a->current->below != NULL)
            a->current->below = arena_drop_chunk(a, a->current->below, a->current->below->capacity);
        arena_rewind(a, 0);
    }
    a->generation++;
}

static void arena_abolish(nm_arena *a) {
    arena_empty(a);
    if (a->current != NULL) arena_set_current(a, arena_drop_chunk(a, a->current, 0), 0);
}

nm_status nm_arena_reset(nm_arena *a) {
    if (!nm__confined_here(&a->thread)) return nm__confined_check(&a->thread);
    arena_empty(a);
    return NM_OK;
}

nm_status nm_arena_clear(nm_arena *a) {
    if (!nm__confined_here(&a->thread)) return nm__confined_check(&a->thread);
    arena_abolish(a);
    return NM_OK;
}

void nm_arena_destroy(nm_arena *a) {
    if (a == NULL) return;
    arena_abolish(a);
    nm__meta_free(a);
}

nm_status nm_arena_take_mark(nm_arena *a, nm_arena_mark *out) {
    if (!nm__confined_here(&a->thread)) return nm__confined_check(&a->thread);
    *out = (nm_arena_mark){
        .arena = a,
        .generation = a->generation,
        .chunk = arena_chunk_number(a->current),
        .large = arena_chunk_number(a->large),
        .floor = a->floor,
        .offset = a->current == NULL ? 0 : (size_t)(a->pos - a->current->base),
        .used = arena_used(a),
        .live = arena_live(a),
    };
    a->floor = a->pos;
    return NM_OK;
}

static bool arena_in_list(const arena_chunk *c, uint64_t number) {
    while (arena_chunk_number(c) > number) c = c->below; /* numbers fall from chunk to chunk, to 0 below the last */
    return arena_chunk_number(c) == number;
}

nm_status nm_arena_check_mark(const nm_arena *a, const nm_arena_mark *mark) {
    if (mark->arena != a || mark->generation != a->generation || !arena_in_list(a->current, mark->chunk) ||
        !arena_in_list(a->large, mark->large) ||
        (mark->chunk == arena_chunk_number(a->current) && a->current != NULL &&
         mark->offset > (size_t)(a->pos - a->current->base)) ||
        mark->used > arena_used(a) || mark->live > arena_live(a))
        return nm__fail(NM_INVALID_MARK, 0, 0, 0);
    return NM_OK;
}

nm_status nm_arena_release(nm_arena *a, const nm_arena_mark *mark) {
    if (!nm__confined_here(&a->thread)) return nm__confined_check(&a->thread);
    if (nm_arena_check_mark(a, mark) != NM_OK) return NM_INVALID_MARK;
    arena_drop_to(a, mark->used, mark->live);
    arena_drop_large(a, mark->large);
    /* A mark from before the first chunk keeps that chunk, so that a scope in a loop does not take and
     * return it each time. */
    while (arena_chunk_number(a->current) != mark->chunk && a->current->below != NULL) {
        arena_chunk *below = arena_drop_chunk(a, a->current, a->current->capacity);
        arena_set_current(a, below, below->capacity);
    }
    if (a->current != NULL) arena_rewind(a, mark->offset);
    if (arena_chunk_number(a->current) == mark->chunk) a->floor = mark->floor;
    return NM_OK;
}

size_t nm_arena_largest_free(const nm_arena *a) {
    size_t rest = (size_t)(a->end - a->pos), left;
    if (!a->o.grow) return a->current == NULL ? a->o.hint : rest;
    left = a->o.cap == 0 ? NM_SIZE_MAX : a->o.cap - nm__get(&a->reserved);
    return rest > left ? rest : left;
}
uint64_t nm_arena_generation(const nm_arena *a) { return a->generation; }
