/* Operation programs for the intern table: every byte string says how many shards there are, how values are hashed, where
 * memory ends, and what to call; a model beside it says what must come of each call. After each operation the table
 * is checked and its counters are compared with the model's. What differs is printed, and the process aborts.
 */
#ifndef INTERN_PROGRAM_H
#define INTERN_PROGRAM_H

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "nativemem.h"

enum { VALUES = 24, ENDED = 64, STEPS = 300, BATCH = 7 };

typedef struct intern_value {
    unsigned char bytes[700];
    size_t size;
    nm_intern_id id; /* while it has references */
    size_t references;
} intern_value;

typedef struct intern_run {
    nm_intern *table;
    intern_value values[VALUES];
    nm_intern_id ended[ENDED]; /* ids that stand for nothing, the last ones */
    size_t ends;
    uint64_t acquires, hits;
    size_t blocks, left; /* out of upstream; blocks that it still gives, SIZE_MAX: any number */
    const uint8_t *program;
    size_t size, at;
} intern_run;

#define MUST(condition)                                                                              \
    do {                                                                                             \
        if (!(condition)) {                                                                          \
            fprintf(stderr, "%s:%d: %s, at byte %zu of\n", __FILE__, __LINE__, #condition, run->at); \
            for (size_t k_ = 0; k_ < run->size; k_++) fprintf(stderr, "%02x", run->program[k_]);     \
            fprintf(stderr, "\n");                                                                   \
            abort();                                                                                 \
        }                                                                                            \
    } while (0)

static uint8_t next_byte(intern_run *run) { return run->at < run->size ? run->program[run->at++] : 0; }

/* ---- an upstream that ends ---- */

static void *few_alloc(void *self, size_t size, size_t align) {
    intern_run *run = self;
    if (run->left == 0) return nm_refuse(NM_OUT_OF_MEMORY, size, 0, 0);
    void *ptr = aligned_alloc(align, (size + align - 1) / align * align);
    if (ptr == NULL) return nm_refuse(NM_OUT_OF_MEMORY, size, 0, 0);
    if (run->left != SIZE_MAX) run->left--;
    run->blocks++;
    return ptr;
}
static bool few_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    (void)self, (void)ptr, (void)old, (void)size, (void)align;
    return false;
}
static nm_status few_free(void *self, void *ptr, size_t size, size_t align) {
    intern_run *run = self;
    (void)size, (void)align;
    run->blocks--;
    free(ptr);
    return NM_OK;
}
static void few_stats(void *self, nm_stats *out) {
    (void)self;
    *out = (nm_stats){0};
}
static const nm_methods few_methods = {few_alloc, few_resize, few_free, few_stats};

/* ---- hashes: the table's own, few different ones, and one ---- */

static uint64_t hash_by_size(const void *bytes, size_t size) {
    (void)bytes;
    return size % 5;
}
static uint64_t hash_of_none(const void *bytes, size_t size) {
    (void)bytes, (void)size;
    return 7;
}

/* ---- operations ---- */

static void check_run(intern_run *run) {
    nm_intern_stats now;
    size_t unique = 0, references = 0, stored = 0, held = 0;
    for (size_t i = 0; i < VALUES; i++) {
        const intern_value *v = &run->values[i];
        unique += v->references != 0;
        references += v->references;
        stored += v->references != 0 ? v->size : 0;
        held += v->references * v->size;
    }
    nm_intern_read(run->table, &now);
    const char *broken = nm_intern_check(run->table);
    if (broken != NULL) fprintf(stderr, "%s\n", broken);
    MUST(broken == NULL);
    MUST(now.unique == unique && now.references == references && now.stored == stored && now.held == held);
    MUST(now.acquires == run->acquires && now.hits == run->hits);
}

/* An id is another one than each that stands for something, and each of the last that stood for something. */
static void check_new_id(intern_run *run, nm_intern_id id) {
    MUST(id != 0);
    for (size_t i = 0; i < VALUES; i++) MUST(run->values[i].references == 0 || run->values[i].id != id);
    for (size_t i = 0; i < run->ends && i < ENDED; i++) MUST(run->ended[i] != id);
}

static void got_id(intern_run *run, intern_value *v, nm_intern_id id) {
    if (v->references == 0) check_new_id(run, id);
    else MUST(v->id == id);
    run->acquires++;
    run->hits += v->references != 0;
    v->id = id;
    v->references++;
}

static void end_id(intern_run *run, intern_value *v) { run->ended[run->ends++ % ENDED] = v->id; }

static intern_value *value_with(intern_run *run, nm_intern_id id) {
    for (size_t i = 0; i < VALUES; i++)
        if (run->values[i].references != 0 && run->values[i].id == id) return &run->values[i];
    return NULL;
}

/* An id of a value, of one that has ended, or one that is nearly one of those. */
static nm_intern_id some_id(intern_run *run) {
    uint8_t how = next_byte(run), which = next_byte(run);
    nm_intern_id id = run->values[which % VALUES].id;
    if (how % 4 == 1 && run->ends != 0) id = run->ended[which % (run->ends < ENDED ? run->ends : ENDED)];
    if (how % 4 == 2) id ^= (nm_intern_id)1 << (how / 4 + (which & 1) * 32) % 64;
    if (how % 4 == 3 && how > 200) id = (nm_intern_id)how << 56 | (nm_intern_id)which << 32 | how;
    return id;
}

static void do_acquire(intern_run *run) {
    intern_value *v = &run->values[next_byte(run) % VALUES];
    nm_intern_id id = 0;
    nm_status status = nm_intern_acquire(run->table, v->bytes, v->size, &id);
    if (status == NM_OK) got_id(run, v, id);
    else MUST(status == NM_OUT_OF_MEMORY && run->left == 0 && v->references == 0 && id == 0);
}

static void do_acquire_many(intern_run *run) {
    nm_intern_value batch[BATCH];
    nm_intern_id ids[BATCH];
    intern_value *values[BATCH];
    size_t count = next_byte(run) % (BATCH + 1);
    for (size_t i = 0; i < count; i++) {
        values[i] = &run->values[next_byte(run) % VALUES];
        const intern_value *v = values[i];
        batch[i] = (nm_intern_value){v->bytes, v->size, nm_intern_hash_of(run->table, v->bytes, v->size)};
    }
    nm_status status = nm_intern_acquire_many(run->table, batch, count, ids);
    if (status == NM_OK) {
        for (size_t i = 0; i < count; i++) got_id(run, values[i], ids[i]);
        return;
    }
    MUST(status == NM_OUT_OF_MEMORY && run->left == 0);
    nm_intern_stats now; /* those that came before it were acquired, and released again */
    nm_intern_read(run->table, &now);
    MUST(now.acquires >= run->acquires && now.acquires < run->acquires + count);
    run->acquires = now.acquires;
    run->hits = now.hits;
}

static void do_retain(intern_run *run) {
    nm_intern_id id = some_id(run);
    intern_value *v = value_with(run, id);
    const void *bytes = NULL;
    size_t size = 0;
    nm_status status = nm_intern_retain(run->table, id, &bytes, &size);
    MUST(status == (v != NULL ? NM_OK : NM_CLOSED));
    if (v == NULL) return;
    MUST(size == v->size && memcmp(bytes, v->bytes, size) == 0);
    v->references++;
}

static void do_release(intern_run *run) {
    nm_intern_id id = some_id(run);
    intern_value *v = value_with(run, id);
    MUST(nm_intern_release(run->table, id) == (v != NULL ? NM_OK : NM_CLOSED));
    if (v != NULL && --v->references == 0) end_id(run, v);
}

static void do_view(intern_run *run) {
    nm_intern_id id = some_id(run);
    const intern_value *v = value_with(run, id);
    const void *bytes;
    size_t size;
    MUST(nm_intern_view(run->table, id, &bytes, &size) == (v != NULL ? NM_OK : NM_CLOSED));
    if (v != NULL) MUST(size == v->size && memcmp(bytes, v->bytes, size) == 0 && nm_is_aligned((uintptr_t)bytes, 16));
}

static void do_clear(intern_run *run) {
    if (next_byte(run) % 4 != 0) return; /* seldom, or nothing grows */
    nm_intern_clear(run->table);
    for (size_t i = 0; i < VALUES; i++) {
        if (run->values[i].references != 0) end_id(run, &run->values[i]);
        run->values[i].references = 0;
    }
    MUST(run->blocks == 0);
}

static void run_intern_program(const uint8_t *program, size_t size) {
    static const nm_intern_hash hashes[] = {NULL, hash_by_size, hash_of_none};
    intern_run state = {.left = SIZE_MAX, .program = program, .size = size}, *run = &state;
    uint8_t options = next_byte(run), step = next_byte(run);
    for (size_t i = 0; i < VALUES; i++) { /* of every class of cells, some of one size */
        intern_value *v = &run->values[i];
        v->size = i * (step % 30) < sizeof v->bytes ? i * (step % 30) : sizeof v->bytes;
        memset(v->bytes, (int)i + 1, v->size);
        if (v->size >= 2 && i % 2 == 1) memset(v->bytes, 'x', v->size - 1);
        if (v->size == 0 && i != 0) {
            v->size = 1 + i / 12;
            memset(v->bytes, (int)i + 1, v->size);
        }
    }
    run->table = nm_intern_create((nm_allocator){run, &few_methods}, (size_t)1 << options % 4, hashes[options / 4 % 3]);
    if (run->table == NULL) return;
    for (size_t i = 0; i < STEPS && run->at < run->size; i++) {
        uint8_t call = next_byte(run);
        run->left = call >= 240 ? 0 : call >= 224 ? 1 : SIZE_MAX;
        switch (call % 8) {
        case 0:
        case 1: do_acquire(run); break;
        case 2: do_acquire_many(run); break;
        case 3: do_retain(run); break;
        case 4:
        case 5: do_release(run); break;
        case 6: do_view(run); break;
        default: do_clear(run); break;
        }
        check_run(run);
    }
    nm_intern_destroy(run->table);
    MUST(run->blocks == 0);
}

#endif
