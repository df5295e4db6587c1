/* Programs for an allocator, as bytes: the fuzzer invents them, the corpus keeps those that found new ways.
 *
 * The first three bytes choose a noun, the wrappers in front of it and a limit; then come operations. A model knows
 * every live block. After each operation everything that the port promises is asserted, and every structure checks
 * itself. What does not hold ends the process, with the operation that came before it.
 */
#ifndef PROGRAM_H
#define PROGRAM_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nativemem.h"

#define BLOCKS 64
#define MARKS 8
#define LINKS 6
#define CELL 4096 /* of the pool */

typedef struct link {
    void *core;
    void (*destroy)(void *);
    const char *(*check)(void *);
} link;

typedef struct block {
    unsigned char *ptr;
    size_t size, align;
    unsigned seed;
} block;

typedef enum noun { SYSTEM, ARENA, FIXED, STACK, POOL, GROWING, SLAB, SLAB_ON_ARENA, HEAP, SECURE, NOUN_COUNT } noun;

typedef struct machine {
    noun noun;
    link links[LINKS];
    int nlinks;
    nm_allocator inner, port; /* the noun's, the outermost wrapper's */
    nm_arena *arena;          /* those that the noun is, or NULL */
    nm_stack *stack;
    nm_pool *pool;
    nm_slab *slab;
    nm_heap *heap;
    nm_budget *budget;
    bool limited; /* a link charges the budget */
    block blocks[BLOCKS]; /* oldest first */
    size_t nblocks;
    size_t used;          /* by the live blocks */
    size_t kept, kept_blocks; /* what an arena holds, freed blocks included */
    struct {
        nm_arena_mark arena;
        nm_stack_mark stack;
        size_t nblocks, kept, kept_blocks;
    } marks[MARKS];
    size_t nmarks;
    unsigned step;
} machine;

typedef struct tape {
    const uint8_t *data;
    size_t left;
} tape;

static inline unsigned next_byte(tape *t) {
    if (t->left == 0) return 0;
    t->left--;
    return *t->data++;
}

#define MUST(condition)                                                                                       \
    do {                                                                                                      \
        if (!(condition)) {                                                                                   \
            fprintf(stderr, "%s:%d: %s (noun %d, step %u)\n", __FILE__, __LINE__, #condition, (int)m->noun,   \
                    m->step);                                                                                 \
            abort();                                                                                          \
        }                                                                                                     \
    } while (0)

#define GLUE(kind)                                                            \
    static inline void destroy_##kind(void *core) { nm_##kind##_destroy(core); }
GLUE(system) GLUE(arena) GLUE(stack) GLUE(pool) GLUE(slab) GLUE(heap) GLUE(limited) GLUE(traced)
static inline const char *check_arena(void *core) { return nm_arena_check(core); }
static inline const char *check_stack(void *core) { return nm_stack_check(core); }
static inline const char *check_pool(void *core) { return nm_pool_check(core); }
static inline const char *check_slab(void *core) { return nm_slab_check(core); }
static inline const char *check_heap(void *core) { return nm_heap_check(core); }

static inline void add_link(machine *m, void *core, nm_allocator port, void (*destroy)(void *), const char *(*check)(void *)) {
    MUST(core != NULL && m->nlinks < LINKS);
    m->links[m->nlinks++] = (link){core, destroy, check};
    m->port = port;
}

static inline void add_arena(machine *m, nm_arena_options options) {
    nm_arena *a = nm_arena_create(m->port, options);
    add_link(m, a, nm_arena_port(a), destroy_arena, check_arena);
}

static inline void make_noun(machine *m, unsigned variant) {
    static const size_t bins[] = {16, 48, 64, 1024, 4096};
    bool flag = (variant & 1) != 0;
    nm_system *s = nm_system_create();
    add_link(m, s, nm_system_port(s), destroy_system, NULL);
    switch (m->noun) {
    case ARENA:
        add_arena(m, (nm_arena_options){.hint = 1 + variant * 37, .cap = flag ? 300000 : 0, .grow = true,
                                        .zero_on_free = (variant & 2) != 0, .patterns = (variant & 4) != 0});
        m->arena = m->links[1].core;
        break;
    case FIXED:
        add_arena(m, (nm_arena_options){.hint = 1 + variant * 300, .zero_on_free = flag});
        m->arena = m->links[1].core;
        break;
    case STACK:
        m->stack = nm_stack_create(m->port, 1 + variant * 300, flag);
        add_link(m, m->stack, nm_stack_port(m->stack), destroy_stack, check_stack);
        break;
    case GROWING:
        add_arena(m, (nm_arena_options){.hint = 5000, .grow = true}); /* fall through */
    case POOL:
        m->pool = nm_pool_create(m->port, 1 + variant * 16, 1 + variant % 7, m->noun == GROWING);
        add_link(m, m->pool, nm_pool_port(m->pool), destroy_pool, check_pool);
        break;
    case SLAB_ON_ARENA:
        add_arena(m, (nm_arena_options){.hint = 1000, .grow = true}); /* fall through */
    case SLAB:
        m->slab = nm_slab_create(m->port, bins + variant % 3, 5 - variant % 3, flag);
        add_link(m, m->slab, nm_slab_port(m->slab), destroy_slab, check_slab);
        break;
    case HEAP:
    case SECURE:
        m->heap = nm_heap_create(NULL, m->noun == SECURE);
        add_link(m, m->heap, nm_heap_port(m->heap), destroy_heap, check_heap);
        break;
    case SYSTEM:
    case NOUN_COUNT:
        break;
    }
    m->inner = m->port;
}

static inline void make_wrappers(machine *m, unsigned choice, unsigned limit) {
    m->budget = nm_budget_create(1 + limit * (size_t)1000, NULL);
    for (int i = 0; i < 2; i++, choice >>= 2) {
        if ((choice & 3) == 1 && !m->limited) {
            nm_limited *l = nm_limited_create(m->port, m->budget);
            add_link(m, l, nm_limited_port(l), destroy_limited, NULL);
            m->limited = true;
        } else if ((choice & 3) == 2) {
            nm_traced *t = nm_traced_create(m->port, i == 0);
            add_link(m, t, nm_traced_port(t), destroy_traced, NULL);
        }
    }
}

static inline nm_stats stats_of(nm_allocator a) {
    nm_stats s;
    a.methods->stats(a.self, &s);
    return s;
}

static inline bool is_bare(const machine *m) { return m->port.self == m->inner.self; }

static inline void assert_all(const machine *m) {
    for (int i = 0; i < m->nlinks; i++) {
        const char *broken = m->links[i].check == NULL ? NULL : m->links[i].check(m->links[i].core);
        if (broken != NULL) {
            fprintf(stderr, "link %d: %s (noun %d, step %u)\n", i, broken, (int)m->noun, m->step);
            abort();
        }
    }
    MUST(nm_budget_check(m->budget) == NULL);
    nm_stats outer = stats_of(m->port), inner = stats_of(m->inner);
    if (!is_bare(m) || m->arena == NULL) MUST(outer.used == m->used && outer.live == m->nblocks);
    if (m->arena != NULL) MUST(inner.used == m->kept && inner.live == m->kept_blocks);
    else MUST(inner.used == m->used && inner.live == m->nblocks);
    MUST(outer.used <= outer.peak && inner.used <= inner.peak && inner.used <= inner.reserved);
    if (m->limited) MUST(nm_budget_used(m->budget) == m->used);
    for (size_t i = 0; i < m->nblocks; i++) {
        const block *b = &m->blocks[i];
        MUST(b->ptr[0] == (unsigned char)b->seed && b->ptr[b->size - 1] == (unsigned char)(b->seed + b->size - 1));
    }
}

static inline void write_all(const block *b) {
    for (size_t i = 0; i < b->size; i++) b->ptr[i] = (unsigned char)(b->seed + i);
}
static inline void read_all(const machine *m, const block *b, size_t size) {
    for (size_t i = 0; i < size; i++) MUST(b->ptr[i] == (unsigned char)(b->seed + i));
}

static inline void assert_refusal(const machine *m, nm_stats before) {
    nm_status status = nm_last_failure().status;
    MUST(status == NM_OUT_OF_MEMORY || status == NM_EXHAUSTED || status == NM_OVER_BUDGET ||
         status == NM_POOL_EXHAUSTED || status == NM_CAPACITY_EXCEEDED ||
         (status == NM_INVALID_LAYOUT && m->pool != NULL));
    nm_stats after = stats_of(m->port);
    MUST(after.failures >= before.failures);
    after.failures = before.failures;
    after.reserved = before.reserved; /* a slab may have collected, and given superblocks back */
    MUST(memcmp(&before, &after, sizeof before) == 0);
}

static inline size_t size_from(tape *t) {
    unsigned code = next_byte(t), fine = next_byte(t);
    if (code < 200) return 1 + code * 2 + fine % 3;
    if (code < 240) return 1 + (code - 200) * 250 + fine;
    if (code < 254) return 1 + (code - 239) * 9000 + fine;
    return NM_SIZE_MAX - fine;
}

static inline void accept(machine *m, void *ptr, size_t size, size_t align) {
    block *b = &m->blocks[m->nblocks];
    MUST(nm_is_aligned((uintptr_t)ptr, align));
    for (size_t i = 0; i < m->nblocks; i++) {
        uintptr_t x = (uintptr_t)m->blocks[i].ptr, y = (uintptr_t)ptr;
        MUST(x + m->blocks[i].size <= y || y + size <= x);
    }
    *b = (block){ptr, size, align, m->step * 7};
    write_all(b);
    m->nblocks++;
    m->used += size;
    m->kept += size;
    m->kept_blocks++;
}

static inline void do_alloc(machine *m, tape *t) {
    size_t size = size_from(t), align = (size_t)1 << (next_byte(t) % 13);
    if (m->nblocks == BLOCKS) return;
    nm_stats before = stats_of(m->port);
    void *ptr = nm_alloc(m->port, size, align);
    if (ptr == NULL) assert_refusal(m, before);
    else accept(m, ptr, size, align);
}

static inline void forget(machine *m, size_t i) {
    m->used -= m->blocks[i].size;
    m->nblocks--;
    memmove(&m->blocks[i], &m->blocks[i + 1], (m->nblocks - i) * sizeof *m->blocks);
    for (size_t k = 0; k < m->nmarks; k++)
        if (m->marks[k].nblocks > i) m->marks[k].nblocks--;
    if (m->arena == NULL) {
        m->kept = m->used;
        m->kept_blocks = m->nblocks;
    }
}

static inline void do_free(machine *m, tape *t) {
    unsigned choice = next_byte(t);
    if (m->nblocks == 0) return;
    size_t i = choice % m->nblocks;
    block b = m->blocks[i];
    read_all(m, &b, b.size);
    nm_status status = nm_free(m->port, b.ptr, b.size, b.align);
    if (m->stack != NULL && i + 1 != m->nblocks) {
        MUST(status == NM_LIFO_VIOLATION);
        return;
    }
    MUST(status == NM_OK);
    forget(m, i);
    if (m->stack != NULL || m->pool != NULL)
        MUST(nm_free(m->port, b.ptr, b.size, b.align) == (m->noun == STACK || m->pool != NULL ? NM_DOUBLE_FREE : NM_OK));
}

static inline void do_resize(machine *m, tape *t) {
    unsigned choice = next_byte(t);
    size_t size = size_from(t);
    if (m->nblocks == 0) return;
    block *b = &m->blocks[choice % m->nblocks];
    nm_stats before = stats_of(m->port);
    size_t old = b->size;
    if (!m->port.methods->resize(m->port.self, b->ptr, old, size, b->align)) {
        nm_stats after = stats_of(m->port);
        after.failures = before.failures;
        MUST(memcmp(&before, &after, sizeof before) == 0);
        read_all(m, b, old);
        return;
    }
    read_all(m, b, old < size ? old : size);
    b->size = size;
    write_all(b);
    m->used += size - old;
    m->kept += size - old;
}

/* The block that moved is the newest now. */
static inline void do_realloc(machine *m, tape *t) {
    unsigned choice = next_byte(t);
    size_t size = size_from(t);
    if (m->nblocks == 0) return;
    size_t i = choice % m->nblocks;
    block b = m->blocks[i];
    unsigned char *ptr = nm_realloc(m->port, b.ptr, b.size, size, b.align);
    if (ptr == NULL) {
        read_all(m, &b, b.size);
        nm_stats inner = stats_of(m->inner); /* an arena keeps what a refused move took for a moment */
        if (m->arena != NULL) m->kept = inner.used, m->kept_blocks = inner.live;
        return;
    }
    block moved = {ptr, b.size < size ? b.size : size, b.align, b.seed};
    read_all(m, &moved, moved.size);
    if (ptr == b.ptr) {
        m->blocks[i].size = size;
        write_all(&m->blocks[i]);
        m->used += size - b.size;
        m->kept += size - b.size;
    } else {
        forget(m, i);
        accept(m, ptr, size, b.align);
    }
}

static inline void do_calloc(machine *m, tape *t) {
    size_t count = 1 + next_byte(t) % 50, size = 1 + next_byte(t);
    if (m->nblocks == BLOCKS) return;
    nm_stats before = stats_of(m->port);
    unsigned char *ptr = nm_calloc(m->port, count, size, 16);
    if (ptr == NULL) {
        assert_refusal(m, before);
        return;
    }
    for (size_t i = 0; i < count * size; i++) MUST(ptr[i] == 0);
    accept(m, ptr, count * size, 16);
}

static inline void free_down_to(machine *m, size_t nblocks) {
    while (m->nblocks > nblocks) {
        block b = m->blocks[m->nblocks - 1];
        read_all(m, &b, b.size);
        MUST(nm_free(m->port, b.ptr, b.size, b.align) == NM_OK);
        forget(m, m->nblocks - 1);
    }
}

static inline void do_reset(machine *m) {
    if (m->arena == NULL && m->stack == NULL) return;
    free_down_to(m, 0);
    if (m->arena != NULL) MUST(nm_arena_reset(m->arena) == NM_OK);
    if (m->stack != NULL) MUST(nm_stack_reset(m->stack) == NM_OK);
    for (size_t i = 0; i < m->nmarks; i++) {
        if (m->arena != NULL) MUST(nm_arena_release(m->arena, &m->marks[i].arena) == NM_INVALID_MARK);
        if (m->stack != NULL) MUST(nm_stack_release(m->stack, &m->marks[i].stack) == NM_INVALID_MARK);
    }
    m->nmarks = m->kept = m->kept_blocks = 0;
}

static inline void do_mark(machine *m) {
    if (m->nmarks == MARKS || (m->arena == NULL && m->stack == NULL)) return;
    if (m->arena != NULL) MUST(nm_arena_take_mark(m->arena, &m->marks[m->nmarks].arena) == NM_OK);
    if (m->stack != NULL) MUST(nm_stack_take_mark(m->stack, &m->marks[m->nmarks].stack) == NM_OK);
    m->marks[m->nmarks].nblocks = m->nblocks;
    m->marks[m->nmarks].kept = m->kept;
    m->marks[m->nmarks++].kept_blocks = m->kept_blocks;
}

/* A stack's mark does not outlive the block that was the newest; the model does not follow that, and asks. */
static inline void do_release(machine *m, tape *t) {
    unsigned choice = next_byte(t);
    if (m->nmarks == 0) return;
    size_t i = choice % m->nmarks;
    bool valid = m->stack == NULL || nm_stack_check_mark(m->stack, &m->marks[i].stack) == NM_OK;
    if (!valid) {
        nm_stats before = stats_of(m->inner);
        MUST(nm_stack_release(m->stack, &m->marks[i].stack) == NM_INVALID_MARK);
        nm_stats after = stats_of(m->inner);
        MUST(memcmp(&before, &after, sizeof before) == 0);
        return;
    }
    free_down_to(m, m->marks[i].nblocks);
    if (m->stack != NULL) MUST(nm_stack_release(m->stack, &m->marks[i].stack) == NM_OK);
    if (m->arena != NULL) {
        MUST(nm_arena_release(m->arena, &m->marks[i].arena) == NM_OK);
        m->kept = m->marks[i].kept;
        m->kept_blocks = m->marks[i].kept_blocks;
    }
    m->nmarks = i;
}

static inline void do_trim(machine *m) {
    if (m->slab != NULL) MUST(nm_slab_trim(m->slab) == NM_OK);
    if (m->heap != NULL) nm_heap_trim(m->heap);
}

static inline void do_bad_layout(machine *m, tape *t) {
    static const size_t bad[][2] = {{NM_SIZE_MAX + 1, 16}, {SIZE_MAX, 1}, {10, 0}, {10, 3}, {10, 8192}, {0, 6}};
    const size_t *layout = bad[next_byte(t) % 6];
    nm_stats before = stats_of(m->port);
    MUST(nm_alloc(m->port, layout[0], layout[1]) == NULL && nm_last_failure().status == NM_INVALID_LAYOUT);
    nm_stats after = stats_of(m->port);
    MUST(memcmp(&before, &after, sizeof before) == 0);
}

/* What no allocator but these is asked to tell: an address that is none of its blocks. */
static inline void do_foreign(machine *m, tape *t) {
    unsigned choice = next_byte(t);
    unsigned char outside[64];
    if (m->stack == NULL && m->pool == NULL && m->heap == NULL) return;
    MUST(nm_free(m->port, outside + 16, 16, 16) == NM_FOREIGN_BLOCK);
    if (m->nblocks == 0 || m->pool == NULL) return;
    block b = m->blocks[choice % m->nblocks];
    MUST(nm_free(m->port, b.ptr + 1 + choice % 15, 1, 1) == NM_FOREIGN_BLOCK);
}

static inline void do_limit(machine *m, tape *t) { nm_budget_set_limit(m->budget, 1 + next_byte(t) * (size_t)2000); }

static inline void run_program(const uint8_t *data, size_t size) {
    static machine machine_;
    machine *m = &machine_;
    tape t = {data, size};
    memset(m, 0, sizeof *m);
    m->noun = (noun)(next_byte(&t) % NOUN_COUNT);
    unsigned wrappers = next_byte(&t), limit = next_byte(&t);
    make_noun(m, next_byte(&t));
    make_wrappers(m, wrappers, limit);
    while (t.left > 0 && m->step < 400) {
        m->step++;
        switch (next_byte(&t) % 16) {
        case 0: case 1: case 2: case 3: case 4: do_alloc(m, &t); break;
        case 5: case 6: case 7: do_free(m, &t); break;
        case 8: do_resize(m, &t); break;
        case 9: do_realloc(m, &t); break;
        case 10: do_calloc(m, &t); break;
        case 11: do_mark(m); break;
        case 12: do_release(m, &t); break;
        case 13: do_trim(m); break;
        case 14: next_byte(&t) % 4 != 0 ? do_limit(m, &t) : do_reset(m); break;
        default: next_byte(&t) % 2 != 0 ? do_bad_layout(m, &t) : do_foreign(m, &t); break;
        }
        assert_all(m);
    }
    free_down_to(m, 0);
    assert_all(m);
    while (m->nlinks > 0) {
        m->nlinks--;
        m->links[m->nlinks].destroy(m->links[m->nlinks].core);
    }
    MUST(nm_budget_used(m->budget) == 0);
    nm_budget_destroy(m->budget);
}

#endif
