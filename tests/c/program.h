/* Operation programs: every byte string says which allocator to make, which wrappers to put in front of it and
 * what to call; a model beside it says what must come of each call. After every operation each link of the chain
 * is checked, its counters are compared with the model's and the edges of every block are looked at. What differs
 * is printed with the program, and the process aborts.
 *
 * To add an allocator: a maker, and a line in `nouns`.
 */
#ifndef PROGRAM_H
#define PROGRAM_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "heap/region.h"
#include "nativemem.h"

enum { LINKS = 8, BLOCKS = 64, RAW = 24, MARKS = 8, STEPS = 400 };
#define PLENTY ((size_t)4 << 20) /* bytes in live blocks, above which requests are small */
#define ABSURD ((size_t)1 << 40)  /* and these every one */
#define CERTAIN ((size_t)2 << 20) /* no machine refuses these */

typedef struct link {
    const char *name;
    void *core;
    nm_allocator port;
    void (*destroy)(void *);
    const char *(*check)(void *);
    nm_budget *budget; /* a limited's, or a heap's */
    nm_stats model;    /* of the top noun and the wrappers; without reserved and limit */
    size_t budget_peak, denied;
    bool keeps;        /* freed blocks stay used */
    bool limited, histogram;
} link;

typedef struct block {
    unsigned char *ptr;
    size_t size, align;
    uint64_t id;
} block;

typedef struct mark {
    nm_arena_mark arena;
    nm_stack_mark stack;
    uint64_t generation, id; /* id: of the newest block then */
    size_t used, live;
} mark;

typedef struct run run;

/* A noun lacks what is NULL. */
typedef struct noun {
    const char *name;
    void (*make)(run *, unsigned options);
    nm_status (*reset)(void *core);  /* every block goes; the counters of frees stay */
    nm_status (*clear)(void *core);  /* as reset, and the memory goes too */
    bool clear_frees;                /* clear counts as a free of each block */
    nm_status (*trim)(void *core);
    void (*take_mark)(run *, mark *);
    nm_status (*release)(run *, const mark *);
    bool (*is_valid)(const run *, const mark *);
    void (*misuse)(run *, unsigned how, block *);
    bool outlived; /* some blocks are its upstream's, or have no owner: its destroy leaves them */
    bool lifo;    /* frees the newest block only */
    bool refuses; /* may say no to what a machine has memory for */
    bool heap;    /* has malloc's shape too */
} noun;

struct run {
    const noun *noun;
    link links[LINKS];
    size_t count, top; /* links; which is the noun, behind it come wrappers */
    nm_budget *root;   /* of every limited's budget */
    size_t root_used, root_peak, root_denied;
    block blocks[BLOCKS], raw[RAW]; /* oldest first */
    size_t live, raws;
    mark marks[MARKS];
    size_t nmarks;
    uint64_t ids, generation;
    unsigned fault;  /* the how-manieth request of the noun to its upstream fails */
    unsigned faults; /* so far */
    const uint8_t *program, *at, *end;
    struct {
        const char *name;
        size_t a, b;
    } trace[STEPS];
    size_t steps;
};

static bool program_is_told; /* to stderr, step by step: for what ends without a word, as under a checker */

static _Noreturn void stop_program(const run *r, const char *file, int line, const char *what) {
    fprintf(stderr, "%s:%d: %s\non %s", file, line, what, r->noun->name);
    for (size_t i = r->top + 1; i < r->count; i++) fprintf(stderr, ", %s", r->links[i].name);
    fprintf(stderr, "\n");
    for (size_t i = 0; i < r->steps; i++) fprintf(stderr, "  %s %zu %zu\n", r->trace[i].name, r->trace[i].a, r->trace[i].b);
    fprintf(stderr, "program:");
    for (const uint8_t *p = r->program; p < r->end; p++) fprintf(stderr, " %02x", *p);
    fprintf(stderr, "\n");
    abort();
}
#define MUST(condition)                                                    \
    do {                                                                   \
        if (!(condition)) stop_program(r, __FILE__, __LINE__, #condition); \
    } while (0)

static unsigned next_byte(run *r) { return r->at < r->end ? *r->at++ : 0; }

/* ---- the chain ------------------------------------------------------------------------------------ */

static link *add_link(run *r, const char *name, void *core, nm_allocator port, void (*destroy)(void *),
                      const char *(*check)(void *)) {
    MUST(core != NULL && r->count < LINKS);
    link *l = &r->links[r->count++];
    *l = (link){.name = name, .core = core, .port = port, .destroy = destroy, .check = check};
    return l;
}
static nm_allocator under(const run *r) { return r->links[r->count - 1].port; }

static const char *nothing_to_check(void *core) { return core == NULL ? "no core" : NULL; }
#define GLUE(noun, sound)                                                 \
    static void destroy_##noun(void *core) { nm_##noun##_destroy(core); } \
    static const char *check_##noun(void *core) { return sound(core); }
GLUE(system, nothing_to_check)
GLUE(arena, nm_arena_check)
GLUE(stack, nm_stack_check)
GLUE(pool, nm_pool_check)
GLUE(slab, nm_slab_check)
GLUE(heap, nm_heap_check)
GLUE(limited, nothing_to_check)
GLUE(traced, nothing_to_check)

/* Passes on to the link below, but for the request that a program wants to fail. Absurd ones fail here too:
 * AddressSanitizer would refuse them, but keeps the text of each refusal, in a buffer that it copies each time. */
static void *faulty_alloc(void *self, size_t size, size_t align) {
    run *r = self;
    bool fault = r->fault != 0 && --r->fault == 0;
    if (fault) r->faults++;
    if (fault || size > ABSURD) return nm_refuse(NM_OUT_OF_MEMORY, size, 0, 0);
    return r->links[0].port.methods->alloc(r->links[0].port.self, size, align);
}
static bool faulty_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    const run *r = self;
    return r->links[0].port.methods->resize(r->links[0].port.self, ptr, old, size, align);
}
static nm_status faulty_free(void *self, void *ptr, size_t size, size_t align) {
    const run *r = self;
    return r->links[0].port.methods->free(r->links[0].port.self, ptr, size, align);
}
static void faulty_stats(void *self, nm_stats *out) {
    const run *r = self;
    r->links[0].port.methods->stats(r->links[0].port.self, out);
}
static void leave(void *core) { (void)core; }

static void make_system(run *r, unsigned options) {
    (void)options;
    nm_system *s = nm_system_create();
    add_link(r, "system", s, nm_system_port(s), destroy_system, check_system);
}
static void make_bottom(run *r) {
    static const nm_methods methods = {faulty_alloc, faulty_resize, faulty_free, faulty_stats};
    make_system(r, 0);
    add_link(r, "faulty", r, (nm_allocator){r, &methods}, leave, nothing_to_check);
}
static void add_arena(run *r, unsigned options, bool grow) {
    static const size_t hints[] = {1000, 1, 64, 4096, 70000}, caps[] = {0, 5000, 100000, (size_t)1 << 20};
    nm_arena_options o = {.hint = hints[options % 5],
                          .cap = grow ? caps[options / 5 % 4] : 0,
                          .grow = grow,
                          .zero_on_free = options / 20 % 2 != 0,
                          .patterns = options / 40 % 2 != 0};
    nm_arena *a = nm_arena_create(under(r), o);
    add_link(r, "arena", a, nm_arena_port(a), destroy_arena, check_arena)->keeps = true;
}
static void make_arena(run *r, unsigned options) { make_bottom(r), add_arena(r, options, true); }
static void make_fixed_arena(run *r, unsigned options) { make_bottom(r), add_arena(r, options, false); }
static void add_stack(run *r, unsigned options) {
    static const size_t capacities[] = {5000, 1, 100, (size_t)1 << 20};
    nm_stack *s = nm_stack_create(under(r), capacities[options % 4], options / 4 % 2 != 0);
    add_link(r, "stack", s, nm_stack_port(s), destroy_stack, check_stack);
}
static void make_stack(run *r, unsigned options) { make_bottom(r), add_stack(r, options); }
static void add_pool(run *r, unsigned options) {
    static const size_t sizes[] = {64, 1, 48, 100, 4096}, counts[] = {3, 1, 64, 65};
    nm_pool *p = nm_pool_create(under(r), sizes[options % 5], counts[options / 5 % 4], options / 20 % 2 == 0);
    add_link(r, "pool", p, nm_pool_port(p), destroy_pool, check_pool);
}
static void make_pool(run *r, unsigned options) { make_bottom(r), add_pool(r, options); }
static void add_slab(run *r, unsigned options) {
    static const size_t bins[][4] = {{32, 64, 128, 256}, {16}, {48, 112, 4096}, {4096}}, n[] = {4, 1, 3, 1};
    nm_slab *s = nm_slab_create(under(r), bins[options % 4], n[options % 4], options / 4 % 2 != 0);
    add_link(r, "slab", s, nm_slab_port(s), destroy_slab, check_slab);
}
static void make_slab(run *r, unsigned options) { make_bottom(r), add_slab(r, options); }
static void add_heap(run *r, unsigned options, bool secure) {
    static const size_t limits[] = {0, NM_SUPERBLOCK, 4 * NM_SUPERBLOCK, 20 * NM_SUPERBLOCK};
    size_t limit = limits[options % 4];
    nm_budget *budget = limit == 0 ? NULL : nm_budget_create(limit, NULL, NULL);
    nm_heap *h = nm_heap_create(budget, secure);
    if (limit != 0 && options / 4 % 2 != 0) nm__budget_hold_back(budget, NM_SUPERBLOCK);
    add_link(r, "heap", h, nm_heap_port(h), destroy_heap, check_heap)->budget = budget;
}
static void make_heap(run *r, unsigned options) { add_heap(r, options, false); }
static void make_secure_heap(run *r, unsigned options) { add_heap(r, options, true); }

static void make_slab_on_arena(run *r, unsigned options) {
    make_bottom(r), add_arena(r, options, true), add_slab(r, options / 5);
}
static void make_pool_on_arena(run *r, unsigned options) {
    make_bottom(r), add_arena(r, options % 5, true), add_pool(r, options / 5);
}
static void make_arena_on_slab(run *r, unsigned options) { make_bottom(r), add_slab(r, options), add_arena(r, options, true); }
static void make_arena_on_heap(run *r, unsigned options) { add_heap(r, 0, options % 2 != 0), add_arena(r, options, true); }
static void make_slab_on_heap(run *r, unsigned options) { add_heap(r, 0, options % 2 != 0), add_slab(r, options / 2); }
static void make_stack_on_pool(run *r, unsigned options) {
    make_bottom(r);
    nm_pool *p = nm_pool_create(under(r), 8192, 1, false);
    add_link(r, "pool", p, nm_pool_port(p), destroy_pool, check_pool);
    add_stack(r, options % 4 == 3 ? options - 3 : options);
}

static void add_wrapper(run *r, bool limited, bool histogram, size_t limit) {
    if (limited) {
        nm_budget *budget = nm_budget_create(limit, r->root, NULL);
        nm_limited *l = nm_limited_create(under(r), budget);
        link *made = add_link(r, "limited", l, nm_limited_port(l), destroy_limited, check_limited);
        made->budget = budget;
        made->limited = true;
    } else {
        nm_traced *t = nm_traced_create(under(r), (nm_traced_options){.histogram = histogram});
        add_link(r, "traced", t, nm_traced_port(t), destroy_traced, check_traced)->histogram = histogram;
    }
}

/* ---- what nouns can do besides ---------------------------------------------------------------------- */

static void *noun_core(const run *r) { return r->links[r->top].core; }

static nm_status reset_arena(void *core) { return nm_arena_reset(core); }
static nm_status clear_arena(void *core) { return nm_arena_clear(core); }
static void mark_arena(run *r, mark *m) { MUST(nm_arena_take_mark(noun_core(r), &m->arena) == NM_OK); }
static nm_status release_arena(run *r, const mark *m) { return nm_arena_release(noun_core(r), &m->arena); }
static bool arena_mark_is_valid(const run *r, const mark *m) { return m->generation == r->generation; }

static nm_status reset_stack(void *core) { return nm_stack_reset(core); }
static nm_status clear_stack(void *core) { return nm_stack_clear(core); }
static void mark_stack(run *r, mark *m) { MUST(nm_stack_take_mark(noun_core(r), &m->stack) == NM_OK); }
static nm_status release_stack(run *r, const mark *m) { return nm_stack_release(noun_core(r), &m->stack); }
static bool stack_mark_is_valid(const run *r, const mark *m) {
    return m->generation == r->generation && m->live <= r->live && (m->live == 0 || r->blocks[m->live - 1].id == m->id);
}

static nm_status clear_pool(void *core) { return nm_pool_clear(core); }
static nm_status trim_slab(void *core) { return nm_slab_trim(core); }
static nm_status clear_heap(void *core) { return nm_heap_clear(core), NM_OK; }
static nm_status trim_heap(void *core) { return nm_heap_trim(core), NM_OK; }

/* A free that the contract says is refused. */
static void refused(run *r, nm_status why, void *ptr, size_t size, size_t align) {
    nm_status status = nm_free(r->links[r->count - 1].port, ptr, size, align);
    MUST(status == why && nm_last_failure().status == why);
}
static void give_block(run *r, size_t i);
static char nobodys[64];

static void misuse_stack(run *r, unsigned how, block *b) {
    refused(r, NM_FOREIGN_BLOCK, nobodys, 16, 16);
    if (b == NULL) return;
    block newest = r->blocks[r->live - 1];
    if (how % 3 == 0) {
        refused(r, b == &r->blocks[r->live - 1] ? NM_FOREIGN_BLOCK : NM_LIFO_VIOLATION, b->ptr, b->size + 1, b->align);
    } else if (how % 3 == 1 && newest.size > 1) {
        refused(r, NM_LIFO_VIOLATION, newest.ptr + 1, newest.size - 1, 1);
    } else {
        give_block(r, r->live - 1);
        refused(r, NM_DOUBLE_FREE, newest.ptr, newest.size, newest.align);
    }
}
static void misuse_pool(run *r, unsigned how, block *b) {
    size_t cell = nm_pool_cell(noun_core(r));
    refused(r, NM_FOREIGN_BLOCK, nobodys, 1, 16);
    if (b == NULL) return;
    block gone = *b;
    if (how % 3 == 0) refused(r, NM_FOREIGN_BLOCK, b->ptr + 1 + how % (cell - 1), b->size, b->align);
    else if (how % 3 == 1) refused(r, NM_FOREIGN_BLOCK, b->ptr, cell + 1, b->align);
    else {
        give_block(r, (size_t)(b - r->blocks));
        refused(r, NM_DOUBLE_FREE, gone.ptr, gone.size, gone.align);
    }
}
static void misuse_slab(run *r, unsigned how, block *b) {
    nm_slab *s = noun_core(r);
    if (b == NULL) return;
    size_t cell = nm_slab_usable(s, b->size, b->align);
    if (cell == 0) return; /* upstream's: what it takes is its own matter */
    size_t other = 1 + how * 16 % 4096;
    if (nm_slab_usable(s, other, 1) != 0 && nm_slab_usable(s, other, 1) != cell) refused(r, NM_FOREIGN_BLOCK, b->ptr, other, 1);
    nm_slab *stranger = nm_slab_create(r->links[0].port, (const size_t[]){cell}, 1, false);
    void *theirs = nm_alloc(nm_slab_port(stranger), cell, 1);
    refused(r, NM_FOREIGN_BLOCK, theirs, b->size, b->align);
    MUST(nm_free(nm_slab_port(stranger), theirs, cell, 1) == NM_OK);
    nm_slab_destroy(stranger);
}
static void misuse_heap(run *r, unsigned how, block *b) {
    refused(r, NM_FOREIGN_BLOCK, nobodys, 16, 16);
    nm_heap *stranger = nm_heap_create(NULL, how % 2 != 0);
    size_t size = how % 8 == 0 ? 40000 : 1 + (size_t)how;
    void *theirs = nm_heap_malloc(stranger, size);
    MUST(theirs != NULL);
    refused(r, NM_FOREIGN_BLOCK, theirs, size, 1);
    if (b != NULL && b->size > 1) MUST(nm_free(nm_heap_port(stranger), b->ptr, b->size, b->align) == NM_FOREIGN_BLOCK);
    MUST(nm_heap_free(stranger, theirs) == NM_OK);
    nm_heap_destroy(stranger);
}
static void misuse_secure_heap(run *r, unsigned how, block *b) {
    misuse_heap(r, how, b);
    if (b == NULL) return;
    block gone = *b;
    switch (how % 3) {
    case 0: /* the slack or the canary */
        b->ptr[b->size + how % 16] ^= 0x10;
        refused(r, NM_CORRUPTED, b->ptr, b->size, b->align);
        b->ptr[b->size + how % 16] ^= 0x10;
        break;
    case 1: refused(r, NM_FOREIGN_BLOCK, b->ptr + 16, b->size, b->align); break;
    default: {
        give_block(r, (size_t)(b - r->blocks));
        nm_status status = nm_free(r->links[r->count - 1].port, gone.ptr, gone.size, gone.align);
        MUST(status == NM_DOUBLE_FREE || status == NM_FOREIGN_BLOCK); /* its superblock may be the region's again */
    }
    }
}

static const noun nouns[] = {
    {.name = "system", .make = make_system, .outlived = true},
    {.name = "arena",
     .make = make_arena,
     .reset = reset_arena,
     .clear = clear_arena,
     .take_mark = mark_arena,
     .release = release_arena,
     .is_valid = arena_mark_is_valid,
     .refuses = true},
    {.name = "fixed arena",
     .make = make_fixed_arena,
     .reset = reset_arena,
     .clear = clear_arena,
     .take_mark = mark_arena,
     .release = release_arena,
     .is_valid = arena_mark_is_valid,
     .refuses = true},
    {.name = "stack",
     .make = make_stack,
     .reset = reset_stack,
     .clear = clear_stack,
     .take_mark = mark_stack,
     .release = release_stack,
     .is_valid = stack_mark_is_valid,
     .misuse = misuse_stack,
     .lifo = true,
     .refuses = true},
    {.name = "pool", .make = make_pool, .clear = clear_pool, .clear_frees = true, .misuse = misuse_pool, .refuses = true},
    {.name = "slab", .make = make_slab, .trim = trim_slab, .misuse = misuse_slab, .outlived = true},
    {.name = "heap",
     .make = make_heap,
     .clear = clear_heap,
     .clear_frees = true,
     .trim = trim_heap,
     .misuse = misuse_heap,
     .heap = true},
    {.name = "secure heap",
     .make = make_secure_heap,
     .clear = clear_heap,
     .clear_frees = true,
     .trim = trim_heap,
     .misuse = misuse_secure_heap,
     .heap = true},
    {.name = "slab on arena",
     .make = make_slab_on_arena,
     .trim = trim_slab,
     .misuse = misuse_slab,
     .outlived = true,
     .refuses = true},
    {.name = "pool on arena",
     .make = make_pool_on_arena,
     .misuse = misuse_pool,
     .clear = clear_pool,
     .clear_frees = true,
     .refuses = true},
    {.name = "arena on slab",
     .make = make_arena_on_slab,
     .reset = reset_arena,
     .clear = clear_arena,
     .take_mark = mark_arena,
     .release = release_arena,
     .is_valid = arena_mark_is_valid,
     .refuses = true},
    {.name = "arena on heap",
     .make = make_arena_on_heap,
     .reset = reset_arena,
     .clear = clear_arena,
     .take_mark = mark_arena,
     .release = release_arena,
     .is_valid = arena_mark_is_valid,
     .refuses = true},
    {.name = "slab on heap", .make = make_slab_on_heap, .trim = trim_slab, .misuse = misuse_slab, .outlived = true},
    {.name = "stack on pool",
     .make = make_stack_on_pool,
     .reset = reset_stack,
     .clear = clear_stack,
     .take_mark = mark_stack,
     .release = release_stack,
     .is_valid = stack_mark_is_valid,
     .misuse = misuse_stack,
     .lifo = true,
     .refuses = true},
};
enum { NOUNS = sizeof nouns / sizeof *nouns };

/* ---- contents ------------------------------------------------------------------------------------- */

/* The same positions for blocks of any size, so that a shorter one keeps what it keeps: all up to 512, then some. */
static size_t next_position(size_t i) { return i < 512 ? i + 1 : i + 251; }
static unsigned char content(uint64_t id, size_t i) { return (unsigned char)(id * 31 + i * 7 + 1); }
static void fill_block(const block *b) {
    for (size_t i = 0; i < b->size; i = next_position(i)) b->ptr[i] = content(b->id, i);
    b->ptr[b->size - 1] = content(b->id, b->size - 1);
}
static bool is_filled(const unsigned char *ptr, size_t size, uint64_t id) {
    for (size_t i = 0; i < size; i = next_position(i))
        if (ptr[i] != content(id, i)) return false;
    return true;
}
static bool is_whole(const block *b) {
    return is_filled(b->ptr, b->size, b->id) && b->ptr[b->size - 1] == content(b->id, b->size - 1);
}
static bool has_its_edges(const block *b) {
    return is_filled(b->ptr, b->size < 16 ? b->size : 16, b->id) && b->ptr[b->size - 1] == content(b->id, b->size - 1);
}
static bool is_zero(const unsigned char *ptr, size_t size) { return *ptr == 0 && memcmp(ptr, ptr + 1, size - 1) == 0; }
static bool apart(const block *a, const block *b) {
    return a == b || (uintptr_t)a->ptr + a->size <= (uintptr_t)b->ptr || (uintptr_t)b->ptr + b->size <= (uintptr_t)a->ptr;
}
static void must_be_apart(run *r, const block *b) {
    for (size_t i = 0; i < r->live; i++) MUST(apart(&r->blocks[i], b));
    for (size_t i = 0; i < r->raws; i++) MUST(apart(&r->raw[i], b));
}

/* ---- the model ------------------------------------------------------------------------------------ */

static size_t larger(size_t a, size_t b) { return a > b ? a : b; }

static void model_charge(run *r, size_t n) {
    for (size_t i = r->count; i-- > r->top + 1;) {
        link *l = &r->links[i];
        if (!l->limited) continue;
        l->budget_peak = larger(l->budget_peak, l->model.used);
        r->root_used += n;
    }
    r->root_peak = larger(r->root_peak, r->root_used);
}
static void model_release(run *r, size_t n) {
    for (size_t i = r->top + 1; i < r->count; i++)
        if (r->links[i].limited) r->root_used -= n;
}

/* Which limited will not have n bytes more: the first from outside whose budget or whose root says no. count:
 * none. */
static size_t who_refuses(const run *r, size_t n, bool *root) {
    size_t held = r->root_used;
    *root = false;
    for (size_t i = r->count; i-- > r->top + 1;) {
        const link *l = &r->links[i];
        if (!l->limited) continue;
        if (l->model.used + n > nm_budget_limit(l->budget)) return i;
        *root = held + n > nm_budget_limit(r->root);
        if (*root) return i;
        held += n;
    }
    return r->count;
}
static void model_denial(run *r, size_t refuser, bool root) {
    r->links[refuser].denied++;
    if (root) r->root_denied++;
}

static void model_alloc(run *r, size_t size) {
    for (size_t i = r->top; i < r->count; i++) {
        nm_stats *m = &r->links[i].model;
        m->used += size;
        m->peak = larger(m->peak, m->used);
        m->total += size;
        m->count++;
        m->live++;
    }
    model_charge(r, size);
}
static void model_resize(run *r, size_t old, size_t size) {
    for (size_t i = r->top; i < r->count; i++) {
        nm_stats *m = &r->links[i].model;
        m->used += size - old;
        m->peak = larger(m->peak, m->used);
        if (size > old) m->total += size - old;
    }
    if (size > old) model_charge(r, size - old);
    else model_release(r, old - size);
}
static void model_free(run *r, size_t size) {
    for (size_t i = r->top; i < r->count; i++) {
        nm_stats *m = &r->links[i].model;
        m->frees++;
        if (i == r->top && r->links[i].keeps) continue;
        m->used -= size;
        m->live--;
    }
    model_release(r, size);
}
/* A NULL from alloc: which allocator counted it as a failure, and whether any of them may have refused at all. */
static void model_refusal(run *r, size_t size, size_t refuser, bool root, bool certain) {
    nm_status status = nm_last_failure().status;
    bool want = status == NM_OUT_OF_MEMORY || status == NM_EXHAUSTED || status == NM_OVER_BUDGET ||
                status == NM_POOL_EXHAUSTED || status == NM_CAPACITY_EXCEEDED;
    if (refuser < r->count) {
        MUST(status == NM_OVER_BUDGET);
        model_denial(r, refuser, root);
    } else {
        MUST(want || (status == NM_INVALID_LAYOUT && r->noun->refuses));
        MUST(r->noun->refuses || !certain || size > CERTAIN || r->links[r->top].budget != NULL);
        refuser = r->top;
    }
    for (size_t i = refuser; want && i < r->count; i++) r->links[i].model.failures++;
}

static nm_stats stats_of(const link *l) {
    nm_stats s;
    l->port.methods->stats(l->port.self, &s);
    return s;
}

static void check_link(run *r, size_t i) {
    const link *l = &r->links[i];
    const char *broken = l->check(l->core);
    if (broken != NULL) stop_program(r, l->name, (int)i, broken);
    nm_stats s = stats_of(l);
    MUST(s.peak >= s.used && s.total >= s.used && s.reserved >= s.used);
    if (i > 0 && i <= r->top && !r->links[i - 1].keeps && l->core != r) MUST(stats_of(&r->links[i - 1]).used == s.reserved);
    if (i < r->top) return;
    const nm_stats *m = &l->model;
    MUST(s.used == m->used);
    MUST(s.peak == m->peak);
    MUST(s.total == m->total);
    MUST(s.live == m->live);
    MUST(s.count == m->count);
    MUST(s.frees == m->frees);
    MUST(s.failures == m->failures);
    if (l->limited) {
        MUST(nm_budget_used(l->budget) == m->used && s.limit == nm_budget_limit(l->budget));
        MUST(nm_budget_peak(l->budget) == l->budget_peak && nm_budget_denied(l->budget) == l->denied);
    }
    if (l->budget != NULL && (broken = nm_budget_check(l->budget)) != NULL) stop_program(r, l->name, (int)i, broken);
    if (l->histogram && r->at == r->end) {
        uint64_t buckets[NM_HISTO_BUCKETS], sum = 0;
        MUST(nm_traced_histogram(l->core, buckets, NULL));
        for (size_t k = 0; k < NM_HISTO_BUCKETS; k++) sum += buckets[k];
        MUST(sum == s.count);
    }
}

static void check_all(run *r) {
    for (size_t i = 0; i < r->count; i++) check_link(r, i);
    MUST(nm_budget_used(r->root) == r->root_used && nm_budget_peak(r->root) == r->root_peak);
    MUST(nm_budget_denied(r->root) == r->root_denied);
    const char *broken = r->links[0].destroy == destroy_heap ? nm__region_check() : NULL;
    if (broken != NULL) stop_program(r, "region", 0, broken);
    if ((broken = nm_budget_check(r->root)) != NULL) stop_program(r, "root", 0, broken);
    for (size_t i = 0; i < r->live; i++) MUST(has_its_edges(&r->blocks[i]));
    for (size_t i = 0; i < r->raws; i++) MUST(has_its_edges(&r->raw[i]));
}

/* ---- operations ----------------------------------------------------------------------------------- */

static nm_allocator port_of(const run *r) { return r->links[r->count - 1].port; }

/* Small, up to 8 KiB, up to 64 KiB, up to 384 KiB, around a power of two, or absurd. */
static size_t take_size(run *r) {
    size_t low = next_byte(r), word = next_byte(r) << 8 | low, size;
    switch (word >> 13) {
    case 0:
    case 1: size = low; break;
    case 2: size = word & 0x3FF; break;
    case 3: size = word & 0x1FFF; break;
    case 4: size = (word & 0xFFF) * 16; break;
    case 5: size = (word & 0x1FFF) * 48; break;
    case 6: size = ((size_t)1 << (word & 15)) + ((word >> 4) & 7) - 4; break;
    default: return ((word & 0x100) != 0 || r->noun->make == make_system ? SIZE_MAX : NM_SIZE_MAX) - low;
    }
    size_t used = r->links[r->top].model.used;
    for (size_t i = 0; i < r->raws; i++) used += r->raw[i].size;
    return used > PLENTY && size > 256 && size <= NM_SIZE_MAX ? size % 256 : size;
}
static size_t take_align(run *r) {
    unsigned byte = next_byte(r);
    if (byte < 128) return (size_t)1 << byte % 5;
    if (byte < 248) return (size_t)1 << byte % 13;
    static const size_t odd[] = {0, 3, 8192, SIZE_MAX, 6, 24, 65536, (size_t)1 << 63};
    return odd[byte % 8];
}

static void remove_block(block *list, size_t *n, size_t i) { memmove(&list[i], &list[i + 1], (--*n - i) * sizeof *list); }
static void add_block(run *r, void *ptr, size_t size, size_t align) {
    block b = {ptr, size, align, ++r->ids};
    MUST(nm_is_aligned((uintptr_t)ptr, align));
    must_be_apart(r, &b);
    fill_block(&b);
    r->blocks[r->live++] = b;
}

static void take_block(run *r, size_t size, size_t align, size_t count) {
    bool root, is_layout = nm_layout_ok(size, align, NM_ALIGN_MAX);
    unsigned faults = r->faults;
    if (r->live == BLOCKS) return;
    size_t refuser = is_layout ? who_refuses(r, size, &root) : r->count;
    unsigned char *ptr = count == 0 ? nm_alloc(port_of(r), size, align) : nm_calloc(port_of(r), count, size / count, align);
    if (!is_layout) {
        MUST(ptr == NULL && nm_last_failure().status == NM_INVALID_LAYOUT);
    } else if (size == 0) {
        MUST(ptr == (unsigned char *)nm_empty_block && nm_free(port_of(r), ptr, 0, align) == NM_OK);
    } else if (ptr == NULL) {
        model_refusal(r, size, refuser, root, r->faults == faults);
    } else {
        MUST(refuser == r->count);
        if (count != 0) MUST(is_zero(ptr, size));
        model_alloc(r, size);
        add_block(r, ptr, size, align);
    }
}

static void give_block(run *r, size_t i) {
    block b = r->blocks[i];
    MUST(is_whole(&b));
    nm_status status = nm_free(port_of(r), b.ptr, b.size, b.align);
    if (r->noun->lifo && i + 1 != r->live) {
        MUST(status == NM_LIFO_VIOLATION && is_whole(&b));
        return;
    }
    MUST(status == NM_OK);
    remove_block(r->blocks, &r->live, i);
    model_free(r, b.size);
}

static void resized(run *r, block *b, size_t size) {
    MUST(is_filled(b->ptr, b->size < size ? b->size : size, b->id));
    model_resize(r, b->size, size);
    b->size = size;
    must_be_apart(r, b);
    fill_block(b);
}

static void resize_block(run *r, size_t i, size_t size) {
    block *b = &r->blocks[i];
    if (size == 0 || size > NM_SIZE_MAX) return;
    bool root, grows = size > b->size;
    size_t refuser = grows ? who_refuses(r, size - b->size, &root) : r->count;
    if (port_of(r).methods->resize(port_of(r).self, b->ptr, b->size, size, b->align)) {
        MUST(refuser == r->count);
        resized(r, b, size);
    } else {
        MUST(size != b->size && is_whole(b));
        if (refuser == r->count) return;
        model_denial(r, refuser, root);
        r->links[refuser].model.failures++;
    }
}

static void realloc_block(run *r, size_t i, size_t size) {
    block old = r->blocks[i];
    bool root = false, grows = size > old.size, is_layout = size <= NM_SIZE_MAX;
    unsigned faults = r->faults;
    size_t refuser = grows && is_layout ? who_refuses(r, size - old.size, &root) : r->count;
    unsigned char *ptr = nm_realloc(port_of(r), old.ptr, old.size, size, old.align);
    nm_status status = ptr == NULL ? nm_last_failure().status : NM_OK;
    if (!is_layout) {
        MUST(ptr == NULL && status == NM_INVALID_LAYOUT && is_whole(&old));
    } else if (size == 0) {
        MUST((ptr == NULL) == (r->noun->lifo && i + 1 != r->live));
        if (ptr == NULL) return;
        remove_block(r->blocks, &r->live, i);
        model_free(r, old.size);
    } else if (ptr == old.ptr) {
        MUST(refuser == r->count);
        resized(r, &r->blocks[i], size);
    } else {
        if (refuser < r->count) {
            model_denial(r, refuser, root);
            r->links[refuser].model.failures++;
        }
        refuser = who_refuses(r, size, &root);
        if (ptr == NULL && status != NM_LIFO_VIOLATION) {
            model_refusal(r, size, refuser, root, r->faults == faults);
            MUST(is_whole(&old));
            return;
        }
        MUST(refuser == r->count);
        model_alloc(r, size);
        if (ptr == NULL) { /* the new block has gone again, the old one stays */
            MUST(r->noun->lifo && i + 1 != r->live && is_whole(&old));
            model_free(r, size);
            return;
        }
        MUST(is_filled(ptr, old.size < size ? old.size : size, old.id));
        block moved = {ptr, size, old.align, old.id};
        MUST(apart(&moved, &old) && nm_is_aligned((uintptr_t)ptr, old.align));
        remove_block(r->blocks, &r->live, i);
        model_free(r, old.size);
        add_block(r, ptr, size, old.align);
    }
}

static void take_raw(run *r, size_t size, bool zero) {
    nm_heap *h = noun_core(r);
    size_t failures = r->links[r->top].model.failures;
    if (r->raws == RAW) return;
    unsigned char *ptr = zero ? nm_heap_calloc(h, 1, size) : nm_heap_malloc(h, size);
    if (ptr == NULL) {
        MUST(size > CERTAIN || r->links[r->top].budget != NULL);
        r->links[r->top].model.failures = failures + (nm_last_failure().status != NM_INVALID_LAYOUT);
        return;
    }
    if (zero && size != 0) MUST(is_zero(ptr, size));
    block b = {ptr, nm_heap_usable_of(ptr), 1, ++r->ids};
    MUST(b.size >= size);
    must_be_apart(r, &b);
    fill_block(&b);
    r->raw[r->raws++] = b;
}
static void realloc_raw(run *r, size_t i, size_t size) {
    nm_heap *h = noun_core(r);
    block b = r->raw[i];
    MUST(is_whole(&b));
    unsigned char *ptr = nm_heap_realloc(h, b.ptr, size);
    /* Moving to a smaller cell may be refused within; the caller does not see it, but it is counted. */
    size_t failures = stats_of(&r->links[r->top]).failures - r->links[r->top].model.failures;
    MUST(failures <= 1);
    r->links[r->top].model.failures += failures;
    if (ptr == NULL) {
        MUST(is_whole(&b) && (size > CERTAIN || r->links[r->top].budget != NULL));
        return;
    }
    MUST(is_filled(ptr, b.size < size ? b.size : size, b.id));
    remove_block(r->raw, &r->raws, i);
    b = (block){ptr, nm_heap_usable_of(ptr), 1, ++r->ids};
    MUST(b.size >= size);
    must_be_apart(r, &b);
    fill_block(&b);
    r->raw[r->raws++] = b;
}
static void give_raw(run *r, size_t i) {
    block b = r->raw[i];
    MUST(is_whole(&b));
    remove_block(r->raw, &r->raws, i);
    MUST(nm_heap_free(noun_core(r), b.ptr) == NM_OK);
}

static void must_be_whole(run *r) {
    for (size_t i = 0; i < r->live; i++) MUST(is_whole(&r->blocks[i]));
}
/* Blocks above the first n are gone, without a free. The wrappers do not know. */
static void drop_blocks(run *r, size_t n, size_t used, size_t live) {
    r->live = n;
    r->links[r->top].model.used = used;
    r->links[r->top].model.live = live;
}
/* For blocks that will not be freed through the wrapper any more. */
static void clear_limited(run *r) {
    for (size_t i = r->top + 1; i < r->count; i++) {
        link *l = &r->links[i];
        if (!l->limited) continue;
        nm_limited_clear(l->core);
        r->root_used -= l->model.used;
        l->model.used = 0;
    }
}
static void drop_all(run *r, bool clear, bool limits_too) {
    must_be_whole(r);
    MUST((clear ? r->noun->clear : r->noun->reset)(noun_core(r)) == NM_OK);
    if (clear && r->noun->clear_frees) r->links[r->top].model.frees = r->links[r->top].model.count;
    r->raws = 0;
    r->generation++;
    drop_blocks(r, 0, 0, 0);
    if (limits_too) clear_limited(r);
}

static void take_mark(run *r) {
    if (r->nmarks == MARKS) memmove(r->marks, r->marks + 1, --r->nmarks * sizeof *r->marks);
    mark *m = &r->marks[r->nmarks++];
    *m = (mark){.generation = r->generation, .used = r->links[r->top].model.used, .live = r->links[r->top].model.live};
    m->id = r->links[r->top].keeps ? r->ids : r->live == 0 ? 0 : r->blocks[r->live - 1].id;
    r->noun->take_mark(r, m);
}
static void release_mark(run *r, size_t i) {
    mark m = r->marks[i];
    bool valid = r->noun->is_valid(r, &m);
    must_be_whole(r);
    nm_status status = r->noun->release(r, &m);
    MUST(status == (valid ? NM_OK : NM_INVALID_MARK));
    if (!valid) return;
    size_t n = 0;
    while (n < r->live && r->blocks[n].id <= m.id) n++;
    drop_blocks(r, n, m.used, m.live);
    if (!r->links[r->top].keeps) return; /* a stack knows which of its marks are still good */
    size_t kept = 0; /* used up, with every newer one of its generation */
    for (size_t k = 0; k < r->nmarks; k++)
        if (r->marks[k].generation != r->generation || k < i) r->marks[kept++] = r->marks[k];
    r->nmarks = kept;
}

static void set_limit(run *r, unsigned which, size_t limit) {
    size_t i = r->top + 1 + which % (LINKS - 1);
    if (limit == 0) limit = 1;
    nm_budget_set_limit(i < r->count && r->links[i].limited ? r->links[i].budget : r->root, limit);
}

/* Blocks of a stack change their `used` when resized, so its marks are of heights: see stack_mark_is_valid. */
static size_t used_below(const run *r, size_t n) {
    size_t used = 0;
    for (size_t i = 0; i < n; i++) used += r->blocks[i].size;
    return used;
}

enum operation {
    ALLOC,
    CALLOC,
    FREE,
    POP,
    RESIZE,
    REALLOC,
    RESET,
    CLEAR,
    MARK,
    RELEASE,
    TRIM,
    MISUSE,
    LIMIT,
    FAULT,
    RAW_ALLOC,
    RAW_CALLOC,
    RAW_REALLOC,
    RAW_FREE
};
static const char *const names[] = {"alloc", "calloc", "free",   "pop",        "resize",      "realloc",
                                    "reset", "clear",  "mark",   "release",    "trim",        "misuse",
                                    "limit", "fault",  "malloc", "calloc raw", "realloc raw", "free raw"};
static const uint8_t weights[] = {
    ALLOC,   ALLOC,   ALLOC,     ALLOC,     ALLOC,      ALLOC,       ALLOC,       CALLOC,   CALLOC,   FREE,
    FREE,    FREE,    FREE,      FREE,      POP,        POP,         POP,         RESIZE,   RESIZE,   RESIZE,
    REALLOC, REALLOC, REALLOC,   RESET,     CLEAR,      MARK,        MARK,        RELEASE,  TRIM,     MISUSE,
    LIMIT,   FAULT,   RAW_ALLOC, RAW_ALLOC, RAW_CALLOC, RAW_REALLOC, RAW_REALLOC, RAW_FREE, RAW_FREE,
};

static void note(run *r, size_t a, size_t b) {
    r->trace[r->steps - 1].a = a;
    r->trace[r->steps - 1].b = b;
    if (program_is_told) fprintf(stderr, "  %s %zu %zu\n", r->trace[r->steps - 1].name, a, b);
}

static void step(run *r) {
    enum operation op = weights[next_byte(r) % sizeof weights];
    size_t a, b;
    if (!r->noun->heap && op >= RAW_ALLOC) op = op == RAW_REALLOC ? REALLOC : op == RAW_FREE ? FREE : ALLOC;
    r->trace[r->steps].name = names[op];
    r->steps++;
#define NOTE(x, y) (a = (x), b = (y), note(r, a, b))
    switch (op) {
    case ALLOC: NOTE(take_size(r), take_align(r)), take_block(r, a, b, 0); break;
    case CALLOC: {
        NOTE(take_size(r), take_align(r));
        size_t count = a % 3 == 0 && a > 0 ? 3 : 1;
        take_block(r, a, b, count);
        break;
    }
    case FREE:
        if (r->live > 0) NOTE(next_byte(r) % r->live, 0), give_block(r, a);
        break;
    case POP:
        if (r->live > 0) NOTE(r->live - 1, 0), give_block(r, a);
        break;
    case RESIZE:
        if (r->live > 0) NOTE(next_byte(r) % r->live, take_size(r)), resize_block(r, a, b);
        break;
    case REALLOC:
        if (r->live > 0) NOTE(next_byte(r) % r->live, take_size(r)), realloc_block(r, a, b);
        break;
    case RESET:
        if (r->noun->reset != NULL) NOTE(next_byte(r) % 2, 0), drop_all(r, false, a != 0);
        break;
    case CLEAR:
        if (r->noun->clear != NULL) NOTE(next_byte(r) % 2, 0), drop_all(r, true, a != 0);
        break;
    case MARK:
        if (r->noun->take_mark != NULL) take_mark(r);
        break;
    case RELEASE: {
        if (r->noun->release == NULL || r->nmarks == 0) break;
        NOTE(next_byte(r) % r->nmarks, 0);
        if (r->noun->lifo) r->marks[a].used = used_below(r, r->marks[a].live < r->live ? r->marks[a].live : r->live);
        release_mark(r, a);
        break;
    }
    case TRIM:
        if (r->noun->trim != NULL) MUST(r->noun->trim(noun_core(r)) == NM_OK);
        break;
    case MISUSE: {
        NOTE(next_byte(r), r->live == 0 ? 0 : next_byte(r) % r->live);
        if (r->noun->misuse != NULL) r->noun->misuse(r, (unsigned)a, r->live == 0 ? NULL : &r->blocks[b]);
        break;
    }
    case LIMIT: NOTE(next_byte(r), take_size(r)), set_limit(r, (unsigned)a, b); break;
    case FAULT: NOTE(1 + next_byte(r) % 4, 0), r->fault = (unsigned)a; break;
    case RAW_ALLOC: NOTE(take_size(r), 0), take_raw(r, a, false); break;
    case RAW_CALLOC: NOTE(take_size(r), 0), take_raw(r, a, true); break;
    case RAW_REALLOC:
        if (r->raws > 0) NOTE(next_byte(r) % r->raws, take_size(r)), realloc_raw(r, a, b);
        break;
    case RAW_FREE:
        if (r->raws > 0) NOTE(next_byte(r) % r->raws, 0), give_raw(r, a);
        break;
    }
#undef NOTE
}

/* Once, before the first program. The region stays small enough to be looked at after each operation. */
static bool programs_init(void) { return nm_region_init((size_t)4 << 30, (size_t)4 << 20, 1000000) == NM_OK; }

static void run_program(const uint8_t *program, size_t size) {
    static run r_; /* large, and what is in it must not be on the stack when blocks are searched for leaks */
    run *r = &r_;
    static const size_t limits[] = {NM_SIZE_MAX, 100, 1000, 10000, 100000, (size_t)1 << 20, 64, 1};
    memset(r, 0, sizeof *r);
    r->program = r->at = program;
    r->end = program + size;
    r->generation = 1;
    unsigned kind = next_byte(r), wrappers = next_byte(r), limit = next_byte(r), options = next_byte(r);
    r->noun = &nouns[kind % NOUNS];
    r->noun->make(r, options);
    r->top = r->count - 1;
    r->root = nm_budget_create(limits[limit % 8], NULL, NULL);
    MUST(r->root != NULL);
    for (unsigned i = 0; i < wrappers % 4; i++)
        add_wrapper(r, (wrappers >> 2 >> i & 1) == 0, (wrappers >> 5 >> i & 1) != 0, limits[limit / 8 % 8]);
    check_all(r);
    while (r->at < r->end && r->steps < STEPS) {
        step(r);
        check_all(r);
    }
    /* The end: every block is as it was left. */
    r->fault = 0;
    while (r->raws > 0) give_raw(r, r->raws - 1);
    for (size_t i = r->live; i-- > 0;) {
        MUST(is_whole(&r->blocks[i]));
        if (options % 2 == 0 || r->noun->outlived) give_block(r, i);
    }
    check_all(r);
    if (r->live == 0 && !r->links[r->top].keeps) MUST(stats_of(&r->links[r->top]).used == 0);
    while (r->count > 0) {
        link l = r->links[--r->count];
        l.destroy(l.core);
        if (l.budget != NULL) {
            MUST(nm_budget_used(l.budget) == 0);
            nm_budget_destroy(l.budget);
        }
        if (r->count > 0 && r->count <= r->top && !r->links[r->count - 1].keeps && l.destroy != leave)
            MUST(stats_of(&r->links[r->count - 1]).used == 0 && stats_of(&r->links[r->count - 1]).live == 0);
    }
    MUST(nm_budget_used(r->root) == 0);
    nm_budget_destroy(r->root);
}

#endif
