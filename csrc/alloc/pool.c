/* Chunks of cells, each with a free list of its own and a bit for each cell in use. The links are numbers of
 * cells, so a link is checked by a comparison and a bit, and following it needs no division. Cells that were
 * never used are on no list: memory is touched only as far as it is needed. */
#include "nativemem/pool.h"

#include "alloc/confined.h"
#include "alloc/counters.h"

typedef struct pool_chunk {
    struct pool_chunk *older; /* all of the pool */
    struct pool_chunk *next;  /* of those with a free cell */
    char *base;
    size_t cells, used, fresh; /* cells from fresh on were never used */
    size_t free;               /* number of the first free cell, counted from 1; a free cell's first word links on */
    uint64_t taken[];          /* a bit for each cell */
} pool_chunk;

/* Invariants, for each chunk:
 *   used == bits set in taken, all below fresh;  fresh <= cells
 *   used + length of the free list == fresh;  no entry of it is taken
 *   it is on the list of those with a free cell <=> used < cells
 * reserved == cell * cells of all chunks;  live == used of all chunks */
struct nm_pool {
    pool_chunk *open; /* with a free cell */
    size_t cell, align;
    unsigned shift; /* cell == 1 << shift; 0: it is no power of two */
    nm__confined thread;
    nm__counter used, peak, total, count, frees, failures, reserved;
    pool_chunk *newest;
    size_t count_first;
    nm_allocator upstream;
    bool grow;
};

NM_INLINE bool pool_is_taken(const pool_chunk *c, size_t i) { return (c->taken[i / 64] >> i % 64 & 1) != 0; }

static size_t pool_next_free(const nm_pool *p, const pool_chunk *c, size_t i) {
    return (size_t)(uintptr_t)nm__peek(c->base + i * p->cell);
}

static const char *pool_check_chunk(const nm_pool *p, const pool_chunk *c) {
    size_t bits = 0, listed = 0;
    if (c->fresh > c->cells) return "more cells were used than there are";
    for (size_t i = 0; i < (c->cells + 63) / 64 * 64; i++) {
        if (!pool_is_taken(c, i)) continue;
        if (i >= c->fresh) return "a cell is taken that was never used";
        bits++;
    }
    if (bits != c->used) return "used is not the number of cells taken";
    for (size_t at = c->free; at != 0; at = pool_next_free(p, c, at - 1)) {
        if (at > c->fresh || pool_is_taken(c, at - 1)) return "the free list leads to what is no free cell";
        if (++listed > c->fresh) return "the free list is a ring";
    }
    return c->used + listed == c->fresh ? NULL : "a free cell is on no list";
}

const char *nm_pool_check(const nm_pool *p) {
    size_t reserved = 0, live = 0, open = 0, listed = 0;
    const char *broken = NULL;
    for (const pool_chunk *c = p->newest; c != NULL && broken == NULL; c = c->older) {
        broken = pool_check_chunk(p, c);
        reserved += c->cells * p->cell;
        live += c->used;
        open += c->used < c->cells;
    }
    if (broken != NULL) return broken;
    for (const pool_chunk *c = p->open; c != NULL; c = c->next)
        if (c->used == c->cells || ++listed > open) return "a full chunk is on the list of those with a free cell";
    if (listed != open) return "a chunk with a free cell is on no list";
    if (reserved != nm__get(&p->reserved)) return "reserved is not the sum of the chunks";
    if (live != nm__get(&p->count) - nm__get(&p->frees)) return "live is not the number of cells taken";
    return NULL;
}

nm_status nm_pool_check_thread(const nm_pool *p) { return nm__confined_check(&p->thread); }
nm_status nm_pool_hand_over(nm_pool *p, uintptr_t thread) { return nm__confined_hand_over(&p->thread, thread); }

size_t nm_pool_cell(const nm_pool *p) { return p->cell; }

static bool pool_take_chunk(nm_pool *p, size_t cells) {
    size_t bytes, words = cells / 64 + 1, meta;
    if (!nm_mul(cells, p->cell, &bytes) || bytes > NM_SIZE_MAX || !nm_mul(words, sizeof(uint64_t), &meta) ||
        !nm_add(meta, sizeof(pool_chunk), &meta)) {
        (void)nm__fail(NM_INVALID_LAYOUT, SIZE_MAX, 0, 0);
        return false;
    }
    /* the upstream first: its refusal of an absurd size comes before a bitmap of one */
    char *base = p->upstream.methods->alloc(p->upstream.self, bytes, p->align);
    if (base == NULL) return false;
    pool_chunk *c = nm__meta_alloc(meta);
    if (c == NULL) {
        (void)p->upstream.methods->free(p->upstream.self, base, bytes, p->align);
        return false;
    }
    c->base = base;
    c->cells = cells;
    c->older = p->newest;
    c->next = p->open;
    p->newest = p->open = c;
    nm__bump(&p->reserved, bytes);
    NM_POISON(base, bytes);
    return true;
}

static NM_COLD void *pool_refuse(nm_pool *p, nm_status status, size_t size) {
    return nm_refuse(status, size, nm__get(&p->used), p->cell);
}

static NM_COLD bool pool_grow(nm_pool *p, size_t size) {
    bool done = false;
    size_t cells = nm__get(&p->reserved) / p->cell;
    if (!p->grow || cells == 0) (void)nm__fail(NM_POOL_EXHAUSTED, size, nm__get(&p->used), nm__get(&p->reserved));
    else done = pool_take_chunk(p, cells);
    if (!done && nm__is_want(nm_last_failure().status)) nm__bump(&p->failures, 1);
    return done;
}

static void *pool_alloc(void *self, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_pool *p = self;
    if (NM_UNLIKELY(!nm__confined_here(&p->thread))) return pool_refuse(p, NM_WRONG_THREAD, size);
    if (NM_UNLIKELY(size > p->cell || align > p->align)) return pool_refuse(p, NM_INVALID_LAYOUT, size);
    if (NM_UNLIKELY(p->open == NULL) && !pool_grow(p, size)) return NULL;
    pool_chunk *c = p->open;
    size_t i = c->free;
    char *ptr;
    if (i != 0) {
        i--;
        if (NM_UNLIKELY(i >= c->fresh || pool_is_taken(c, i))) return pool_refuse(p, NM_CORRUPTED, size);
        ptr = c->base + i * p->cell;
        c->free = pool_next_free(p, c, i);
    } else {
        /* Where a link was overwritten with 0 there may be no fresh cell either. */
        if (NM_UNLIKELY(c->fresh == c->cells)) return pool_refuse(p, NM_CORRUPTED, size);
        i = c->fresh++;
        ptr = c->base + i * p->cell;
    }
    NM_UNPOISON(ptr, size);
    c->taken[i / 64] |= (uint64_t)1 << i % 64;
    if (NM_UNLIKELY(++c->used == c->cells)) p->open = c->next;
    size_t used = nm__get(&p->used) + size;
    nm__set(&p->used, used);
    if (used > nm__get(&p->peak)) nm__set(&p->peak, used);
    nm__bump(&p->total, size);
    nm__bump(&p->count, 1);
    return ptr;
}

/* The chunk that an address lies in; chunks double, so there are few, and half of the cells are in the newest. As
 * numbers: pointers into different objects must not be compared. */
static pool_chunk *pool_chunk_of(const nm_pool *p, const char *ptr) {
    pool_chunk *c = p->newest;
    while (c != NULL && (uintptr_t)ptr - (uintptr_t)c->base >= c->cells * p->cell) c = c->older;
    return c;
}

static nm_status pool_free(void *self, void *block, size_t size, size_t align) {
    nm_pool *p = self;
    char *ptr = block;
    if (NM_UNLIKELY(!nm__confined_here(&p->thread))) return nm__fail(NM_WRONG_THREAD, 0, 0, 0);
    pool_chunk *c = pool_chunk_of(p, ptr);
    size_t offset = c == NULL ? 0 : (size_t)(ptr - c->base);
    size_t i = NM_LIKELY(p->shift != 0) ? offset >> p->shift : offset / p->cell;
    if (NM_UNLIKELY(c == NULL || i * p->cell != offset || i >= c->fresh || size > p->cell || align > p->align))
        return nm__fail(NM_FOREIGN_BLOCK, size, 0, 0);
    if (NM_UNLIKELY(!pool_is_taken(c, i))) return nm__fail(NM_DOUBLE_FREE, size, 0, 0);
    c->taken[i / 64] &= ~((uint64_t)1 << i % 64);
    nm__poke(ptr, (void *)(uintptr_t)c->free);
    c->free = i + 1;
    NM_POISON(ptr, p->cell);
    if (NM_UNLIKELY(c->used-- == c->cells)) {
        c->next = p->open;
        p->open = c;
    }
    nm__set(&p->used, nm__get(&p->used) - size);
    nm__bump_last(&p->frees, 1);
    return NM_OK;
}

static bool pool_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_pool *p = self;
    (void)align;
    if (NM_UNLIKELY(!nm__confined_here(&p->thread))) {
        (void)nm__fail(NM_WRONG_THREAD, size, 0, 0);
        return false;
    }
    if (size > p->cell) return false;
    if (size > old) NM_UNPOISON((char *)ptr + old, size - old);
    else NM_POISON((char *)ptr + size, old - size);
    size_t used = nm__get(&p->used) - old + size;
    nm__set(&p->used, used);
    if (used > nm__get(&p->peak)) nm__set(&p->peak, used);
    if (size > old) nm__bump(&p->total, size - old);
    return true;
}

static void pool_stats(void *self, nm_stats *out) {
    nm_pool *p = self;
    out->used = nm__get(&p->used);
    out->peak = nm__get(&p->peak);
    if (out->peak < out->used) out->peak = out->used;
    out->reserved = nm__get(&p->reserved);
    out->limit = p->grow ? 0 : p->count_first * p->cell;
    out->total = nm__get(&p->total);
    out->frees = nm__get_first(&p->frees);
    out->count = nm__get(&p->count);
    out->live = out->count - out->frees;
    out->failures = nm__get(&p->failures);
}

static const nm_methods pool_methods = {pool_alloc, pool_resize, pool_free, pool_stats};

nm_allocator nm_pool_port(nm_pool *p) { return (nm_allocator){p, &pool_methods}; }

nm_pool *nm_pool_create(nm_allocator upstream, size_t block_size, size_t count, bool grow) {
    size_t cell;
    if (block_size == 0 || count == 0 || !nm_align_up(block_size, NM_ALIGN_DEFAULT, &cell))
        return nm_refuse(NM_INVALID_LAYOUT, block_size, 0, 0);
    nm_pool *p = nm__meta_alloc(sizeof *p);
    if (p == NULL) return NULL;
    size_t divisor = cell & (0U - cell);
    p->cell = cell;
    p->shift = divisor == cell ? (unsigned)__builtin_ctzll(cell) : 0;
    p->align = divisor < NM_ALIGN_MAX ? divisor : NM_ALIGN_MAX;
    p->thread = nm__confine();
    p->count_first = count;
    p->upstream = upstream;
    p->grow = grow;
    if (!pool_take_chunk(p, count)) {
        nm__meta_free(p);
        return NULL;
    }
    return p;
}

static void pool_abolish(nm_pool *p) {
    for (pool_chunk *c = p->newest, *older; c != NULL; c = older) {
        older = c->older;
        NM_UNPOISON(c->base, c->cells * p->cell);
        (void)p->upstream.methods->free(p->upstream.self, c->base, c->cells * p->cell, p->align);
        nm__meta_free(c);
    }
    p->newest = p->open = NULL;
    nm__set(&p->reserved, 0);
    nm__set(&p->used, 0);
    nm__set_last(&p->frees, nm__get(&p->count));
}

nm_status nm_pool_clear(nm_pool *p) {
    if (!nm__confined_here(&p->thread)) return nm__confined_check(&p->thread);
    pool_abolish(p);
    return NM_OK;
}

void nm_pool_destroy(nm_pool *p) {
    if (p == NULL) return;
    pool_abolish(p);
    nm__meta_free(p);
}
