/* The intern table: against a plain model, where memory ends, between threads, and at the end of its numbers. */
#include <pthread.h>
#include <stdio.h>

#include "locks.h"
#include "harness.h"
#include "intern_program.h"
#include "nativemem.h"
#include "structures/intern_store.h"

static nm_heap *heap;
static nm_allocator port;

static nm_intern_stats numbers(nm_intern *t) {
    nm_intern_stats s;
    nm_intern_read(t, &s);
    return s;
}
static size_t text(char *out, size_t i) { return (size_t)snprintf(out, 64, "value number %zu of many", i * 7919); }
static nm_intern_id acquire(nm_intern *t, const void *bytes, size_t size) {
    nm_intern_id id = 0;
    CHECK(nm_intern_acquire(t, bytes, size, &id) == NM_OK);
    return id;
}
static bool is(nm_intern *t, nm_intern_id id, const void *bytes, size_t size) {
    const void *there;
    size_t bytes_there;
    return nm_intern_view(t, id, &there, &bytes_there) == NM_OK && bytes_there == size && memcmp(there, bytes, size) == 0 &&
           nm_is_aligned((uintptr_t)there, NM_ALIGN_DEFAULT);
}
static void check_sound(nm_intern *t) { SOUND(nm_intern_check(t)); }

static void test_equal_values_have_equal_ids(void) {
    nm_intern *t = nm_intern_create(port, 4, NULL);
    static const char nul[] = "a\0b";
    nm_intern_id a = acquire(t, "a", 1), b = acquire(t, "b", 1), with_nul = acquire(t, nul, 3), none = acquire(t, NULL, 0);
    CHECK(a != 0 && a != b && a != with_nul && none != a && none != 0);
    CHECK(acquire(t, "a", 1) == a && acquire(t, nul, 3) == with_nul && acquire(t, "", 0) == none);
    CHECK(is(t, a, "a", 1) && is(t, with_nul, nul, 3) && is(t, none, "", 0));
    nm_intern_stats s = numbers(t);
    CHECK(s.unique == 4 && s.references == 7 && s.acquires == 7 && s.hits == 3 && s.stored == 5 && s.held == 9);
    check_sound(t);
    nm_intern_destroy(t);
}

static void test_every_size(void) {
    static char value[20000];
    nm_intern *t = nm_intern_create(port, 16, NULL);
    static nm_intern_id ids[2100];
    for (size_t size = 0; size < 2100; size++) {
        memset(value, (int)(size % 251), size);
        ids[size] = acquire(t, value, size);
    }
    check_sound(t);
    for (size_t size = 0; size < 2100; size++) {
        memset(value, (int)(size % 251), size);
        CHECK(is(t, ids[size], value, size));
        CHECK(nm_intern_release(t, ids[size]) == NM_OK);
    }
    nm_intern_id large = acquire(t, value, sizeof value);
    CHECK(is(t, large, value, sizeof value) && numbers(t).stored == sizeof value);
    CHECK(nm_intern_release(t, large) == NM_OK);
    check_sound(t);
    CHECK(numbers(t).unique == 0 && numbers(t).reserved <= 16 * 64 * sizeof(nm__intern_place));
    nm_intern_destroy(t);
}

/* A batch is sorted by shards: of one, of two, and of as many as there may be. */
static void test_a_batch_for_any_number_of_shards(void) {
    enum { VALUES = 700 }; /* more than are sorted together */
    static uint32_t numbered[VALUES];
    static nm_intern_value batch[VALUES];
    static nm_intern_id ids[VALUES], again;
    for (size_t shards = 1; shards <= NM_INTERN_SHARDS_MAX; shards *= 2) {
        nm_intern *t = nm_intern_create(port, shards, NULL);
        for (uint32_t i = 0; i < VALUES; i++) {
            numbered[i] = i;
            batch[i] = (nm_intern_value){&numbered[i], sizeof *numbered, nm_intern_hash_of(t, &numbered[i], sizeof *numbered)};
        }
        CHECK(nm_intern_acquire_many(t, batch, VALUES, ids) == NM_OK && numbers(t).unique == VALUES);
        for (uint32_t i = 0; i < VALUES; i++)
            CHECK(nm_intern_acquire(t, &numbered[i], sizeof *numbered, &again) == NM_OK && again == ids[i]);
        SOUND(nm_intern_check(t));
        nm_intern_destroy(t);
    }
}

static void test_bad_arguments(void) {
    for (size_t shards = 0; shards < 600; shards++) {
        nm_intern *t = nm_intern_create(port, shards, NULL);
        bool good = nm_is_power_of_two(shards) && shards <= NM_INTERN_SHARDS_MAX;
        CHECK((t != NULL) == good);
        if (t == NULL) CHECK(nm_last_failure().status == NM_INVALID_LAYOUT);
        nm_intern_destroy(t);
    }
    nm_intern *t = nm_intern_create(port, 1, NULL);
    nm_intern_id id = 77;
    CHECK(nm_intern_acquire(t, "x", NM_INTERN_SIZE_MAX + 1, &id) == NM_INVALID_LAYOUT && id == 77);
    nm_intern_value two[] = {{"x", 1, nm_intern_hash_of(t, "x", 1)}, {"x", NM_INTERN_SIZE_MAX + 1, 0}};
    CHECK(nm_intern_acquire_many(t, two, 2, &id) == NM_INVALID_LAYOUT && numbers(t).unique == 0);
    nm_intern_destroy(t);
}

static void test_an_id_ends_with_its_last_reference(void) {
    nm_intern *t = nm_intern_create(port, 16, NULL);
    nm_intern_id id = acquire(t, "once", 4);
    CHECK(nm_intern_retain(t, id, NULL, NULL) == NM_OK && nm_intern_release(t, id) == NM_OK && is(t, id, "once", 4));
    CHECK(nm_intern_release(t, id) == NM_OK);
    const void *bytes = &bytes;
    size_t size = 9;
    for (int again = 0; again < 2; again++) {
        CHECK(nm_intern_release(t, id) == NM_CLOSED && nm_last_failure().status == NM_CLOSED);
        CHECK(nm_intern_retain(t, id, &bytes, &size) == NM_CLOSED && nm_intern_view(t, id, &bytes, &size) == NM_CLOSED);
        CHECK(bytes == &bytes && size == 9);
        CHECK(again == 1 || acquire(t, "once", 4) != id); /* the same place, another generation */
    }
    nm_intern_stats s = numbers(t);
    CHECK(s.unique == 1 && s.references == 1);
    /* whatever number: only one of them stands for a value */
    uint64_t seed = 5;
    for (int i = 0; i < 100000; i++) CHECK(nm_intern_release(t, next_random(&seed)) == NM_CLOSED);
    for (uint64_t low = 0; low < 4096; low++) CHECK(nm_intern_release(t, low) == NM_CLOSED);
    CHECK(numbers(t).references == 1);
    check_sound(t);
    nm_intern_destroy(t);
}

static void test_release_many_stops_at_the_first_that_is_none(void) {
    nm_intern *t = nm_intern_create(port, 2, NULL);
    nm_intern_id a = acquire(t, "a", 1), b = acquire(t, "b", 1), ids[] = {a, b, b, a};
    size_t done = 9;
    (void)acquire(t, "a", 1);
    CHECK(nm_intern_release_many(t, ids, 4, &done) == NM_CLOSED && done == 2 && numbers(t).references == 1);
    CHECK(nm_intern_release_many(t, ids, 1, NULL) == NM_OK && numbers(t).unique == 0);
    nm_intern_destroy(t);
}

static uint64_t hash_badly(const void *bytes, size_t size) {
    (void)bytes;
    return size % 3;
}

static void test_values_with_one_hash(void) {
    nm_intern *t = nm_intern_create(port, 16, hash_badly);
    nm_intern_id long_one = acquire(t, "abcdef", 6), prefix = acquire(t, "abc", 3), other = acquire(t, "abd", 3);
    CHECK(long_one != prefix && prefix != other && long_one != other && acquire(t, "abc", 3) == prefix);
    CHECK(is(t, prefix, "abc", 3) && numbers(t).unique == 3);
    nm_intern_destroy(t);
}

/* Random programs on a few values, singly and in batches, and the count of each value's references. */
static void run_model(size_t shards, nm_intern_hash hash, unsigned seed_number) {
    enum { VALUES = 700, STEPS = 4000, MANY = 1300 };
    static size_t counts[VALUES];
    static nm_intern_id ids[VALUES], out[MANY];
    static nm_intern_value values[MANY];
    static char texts[VALUES][64];
    static size_t sizes[VALUES], which[MANY];
    nm_intern *t = nm_intern_create(port, shards, hash);
    uint64_t seed = seed_number;
    memset(counts, 0, sizeof counts);
    for (size_t i = 0; i < VALUES; i++) sizes[i] = text(texts[i], i);
    for (int step = 0; step < STEPS; step++) {
        size_t i = below(&seed, VALUES);
        switch (below(&seed, step % 1000 < 500 ? 6 : 9)) {
        case 0:
            for (size_t n = 0, count = below(&seed, step % 40 == 0 ? MANY : 20); n <= count; n++) {
                which[n] = below(&seed, VALUES);
                values[n] = (nm_intern_value){texts[which[n]], sizes[which[n]], 0};
                values[n].hash = nm_intern_hash_of(t, texts[which[n]], sizes[which[n]]);
                if (n < count) continue;
                CHECK(nm_intern_acquire_many(t, values, count, out) == NM_OK);
                for (size_t k = 0; k < count; k++) {
                    CHECK(counts[which[k]] == 0 || ids[which[k]] == out[k]);
                    ids[which[k]] = out[k];
                    counts[which[k]]++;
                }
            }
            break;
        case 1:
        case 2: {
            nm_intern_id id = acquire(t, texts[i], sizes[i]);
            CHECK(counts[i] == 0 || ids[i] == id);
            ids[i] = id;
            counts[i]++;
            break;
        }
        case 3:
            CHECK(nm_intern_retain(t, ids[i], NULL, NULL) == (counts[i] != 0 ? NM_OK : NM_CLOSED));
            counts[i] += counts[i] != 0;
            break;
        default: CHECK(nm_intern_release(t, ids[i]) == (counts[i] != 0 ? NM_OK : NM_CLOSED)); counts[i] -= counts[i] != 0;
        }
        CHECK(counts[i] == 0 || is(t, ids[i], texts[i], sizes[i]));
        if (step % 64 == 0) check_sound(t);
    }
    size_t unique = 0, references = 0, stored = 0, held = 0;
    for (size_t i = 0; i < VALUES; i++) {
        unique += counts[i] != 0;
        references += counts[i];
        stored += counts[i] != 0 ? sizes[i] : 0;
        held += counts[i] * sizes[i];
    }
    nm_intern_stats s = numbers(t);
    CHECK(s.unique == unique && s.references == references && s.stored == stored && s.held == held && s.failures == 0);
    for (size_t i = 0; i < VALUES; i++)
        while (counts[i] != 0 && counts[i]--) CHECK(nm_intern_release(t, ids[i]) == NM_OK);
    check_sound(t);
    CHECK(numbers(t).unique == 0 && numbers(t).held == 0);
    nm_intern_destroy(t);
}
static void test_model(void) {
    run_model(1, NULL, 11);
    run_model(16, NULL, 12);
    run_model(256, NULL, 13);
    run_model(4, hash_badly, 14);
}

/* What there is before: `kept` values. Then many others, which go. */
static void churn(nm_intern *t, size_t from, size_t to) {
    char value[64];
    nm_intern_id *ids = malloc((to - from) * sizeof *ids);
    CHECK(ids != NULL);
    for (size_t i = from; i < to; i++) ids[i - from] = acquire(t, value, text(value, i));
    for (size_t i = from; i < to; i++) CHECK(nm_intern_release(t, ids[i - from]) == NM_OK);
    free(ids);
}
static void test_memory_after_churn(void) {
    enum { KEPT = 20000, OTHERS = 60000 };
    char value[64];
    nm_intern *t = nm_intern_create(port, 16, NULL);
    for (size_t i = 0; i < KEPT; i++) (void)acquire(t, value, text(value, i));
    size_t before = numbers(t).reserved;
    const void *at, *later;
    size_t size;
    nm_intern_id id = acquire(t, value, text(value, 3));
    CHECK(nm_intern_view(t, id, &at, &size) == NM_OK);
    for (int turn = 0; turn < 3; turn++) {
        churn(t, KEPT, KEPT + OTHERS);
        CHECK(numbers(t).reserved <= before + NM_SUPERBLOCK && numbers(t).reserved >= before);
        check_sound(t);
    }
    CHECK(nm_intern_view(t, id, &later, &size) == NM_OK && later == at && is(t, id, value, text(value, 3)));
    nm_intern_destroy(t);
    nm_heap_trim(heap);
    nm_stats s;
    port.methods->stats(port.self, &s);
    CHECK(s.used == 0 && s.live == 0);
}

/* A value that comes and goes where the slots would grow and shrink: they do not, each time. */
static size_t slot_arrays;
static void *counting_alloc(void *self, size_t size, size_t align) {
    (void)self;
    slot_arrays += size == 2048 * sizeof(uint64_t);
    return port.methods->alloc(port.self, size, align);
}
static nm_status counting_free(void *self, void *ptr, size_t size, size_t align) {
    (void)self;
    return port.methods->free(port.self, ptr, size, align);
}
static void test_the_edge_costs_nothing(void) {
    const nm_methods methods = {counting_alloc, NULL, counting_free, NULL};
    char value[64];
    nm_intern *t = nm_intern_create((nm_allocator){NULL, &methods}, 1, NULL);
    slot_arrays = 0;
    for (size_t i = 0; i < 768; i++) (void)acquire(t, value, text(value, i));
    CHECK(slot_arrays == 0); /* 1024 do for as many as 3/4 of it */
    for (int i = 0; i < 10000; i++) CHECK(nm_intern_release(t, acquire(t, "one more", 8)) == NM_OK);
    CHECK(slot_arrays > 0 && slot_arrays < 2 * 10000 / 256 + 10);
    nm_intern_destroy(t);
}

/* Each allocation refused, the first to the last: a call that fails changes nothing. */
static void test_where_memory_ends(void) {
    enum { VALUES = 700 }; /* more than one batch */
    static char texts[VALUES][64];
    static nm_intern_value values[VALUES];
    static nm_intern_id out[VALUES];
    size_t refused = 0;
    for (size_t n = 1;; n++) {
        nm_failing *failing = nm_failing_create(port, n, false);
        nm_intern *t = nm_intern_create(nm_failing_port(failing), 4, NULL);
        CHECK(t != NULL);
        nm_intern_id id = 0;
        while (nm_intern_acquire(t, "first", 5, &id) != NM_OK) refused++;
        for (size_t i = 0; i < VALUES; i++) {
            size_t size = text(texts[i], i);
            values[i] = (nm_intern_value){texts[i], size, nm_intern_hash_of(t, texts[i], size)};
        }
        size_t tries = 0;
        nm_intern_stats before = numbers(t);
        while (nm_intern_acquire_many(t, values, VALUES, out) != NM_OK) {
            CHECK(nm_last_failure().status == NM_OUT_OF_MEMORY);
            nm_intern_stats after = numbers(t);
            CHECK(after.unique == 1 && after.references == 1 && after.held == 5);
            CHECK(after.failures == before.failures + 1 && is(t, id, "first", 5));
            check_sound(t);
            tries++;
        }
        refused += tries;
        for (size_t i = 0; i < VALUES; i++) CHECK(is(t, out[i], values[i].bytes, values[i].size));
        check_sound(t);
        CHECK(nm_intern_release_many(t, out, VALUES, NULL) == NM_OK && nm_intern_release(t, id) == NM_OK);
        CHECK(numbers(t).unique == 0);
        bool reached = nm_failing_failed(failing) != 0;
        nm_intern_destroy(t);
        nm_failing_destroy(failing);
        if (!reached) break;
    }
    CHECK(refused > 30);
}

static void test_clear(void) {
    nm_intern *t = nm_intern_create(port, 2, NULL);
    char value[64];
    nm_intern_id ids[100];
    for (size_t i = 0; i < 100; i++) ids[i] = acquire(t, value, text(value, i));
    nm_intern_clear(t);
    CHECK(numbers(t).reserved == 0 && numbers(t).unique == 0 && numbers(t).references == 0 && numbers(t).acquires == 100);
    check_sound(t);
    for (size_t i = 0; i < 100; i++) {
        nm_intern_id now = acquire(t, value, text(value, i));
        for (size_t k = 0; k < 100; k++) CHECK(now != ids[k]);
        CHECK(nm_intern_release(t, ids[i]) == NM_CLOSED);
    }
    nm_intern_destroy(t);
}

/* The store by itself, with so few generations that they are used up. */
static void test_generations_are_used_once(void) {
    enum { MOST = 5, PLACES = 4096 };
    static uint8_t seen[PLACES][MOST + 1];
    nm__intern_store s = {0};
    uint32_t ref;
    size_t taken = 0;
    nm__intern_store_init(&s, port, MOST);
    for (; taken < 5000; taken++) {
        nm__intern_record *r = nm__intern_store_take(&s, 40, &ref);
        CHECK(r != NULL && r->generation <= MOST && ref < PLACES && seen[ref][r->generation]++ == 0);
        r->references = 1;
        CHECK(nm__intern_store_find(&s, ref, r->generation) == r && nm__intern_store_at(&s, ref) == r);
        uint32_t generation = r->generation;
        size_t records = 0;
        SOUND(nm__intern_store_check(&s, &records));
        CHECK(records == 1);
        nm__intern_store_give(&s, ref);
        CHECK(nm__intern_store_find(&s, ref, generation) == NULL);
        if (ref > PLACES - 300) break;
    }
    CHECK(taken > 100);
    for (int turn = 0; turn <= MOST; turn++) {
        nm__intern_store_clear(&s);
        CHECK(nm__get(&s.reserved) == 0);
        nm__intern_record *r = nm__intern_store_take(&s, 40, &ref);
        if (r == NULL) break;
        CHECK(seen[ref][r->generation]++ == 0);
        r->references = 1;
    }
    CHECK(nm__intern_store_take(&s, 40, &ref) == NULL && nm_last_failure().status == NM_CAPACITY_EXCEEDED);
    nm__intern_store_clear(&s);
}

/* Numbers of chunks that were many once are forgotten, and what comes later is told apart all the same. */
static void test_numbers_are_forgotten(void) {
    enum { CHUNKS = 1000 };
    static uint32_t refs[CHUNKS], generations[CHUNKS];
    nm__intern_store s = {0};
    nm__intern_store_init(&s, port, 1000);
    for (size_t i = 0; i < CHUNKS; i++) {
        nm__intern_record *r = nm__intern_store_take(&s, 5000, &refs[i]);
        r->references = 1;
        generations[i] = r->generation;
    }
    CHECK(s.numbers == CHUNKS + 1 && s.capacity >= CHUNKS);
    for (size_t i = CHUNKS; i-- > 0;) nm__intern_store_give(&s, refs[i]);
    CHECK(s.numbers < 80 && s.capacity < 160 && s.live == 0);
    for (size_t i = 0; i < CHUNKS; i++) {
        uint32_t ref;
        nm__intern_record *r = nm__intern_store_take(&s, 5000, &ref);
        CHECK(ref == refs[i] && r->generation > generations[i]); /* lowest first */
        r->references = 1;
        CHECK(nm__intern_store_find(&s, refs[i], generations[i]) == NULL);
    }
    nm__intern_store_clear(&s);
}

static void test_references_have_an_end(void) {
    nm_intern *t = nm_intern_create(port, 1, NULL);
    nm_intern_id id = acquire(t, "many", 4);
    const void *bytes;
    size_t size;
    CHECK(nm_intern_view(t, id, &bytes, &size) == NM_OK);
    nm__intern_record *r = (nm__intern_record *)((uintptr_t)bytes - sizeof(nm__intern_record));
    r->references = UINT32_MAX;
    CHECK(nm_intern_retain(t, id, NULL, NULL) == NM_CAPACITY_EXCEEDED);
    nm_intern_id other = 0;
    CHECK(nm_intern_acquire(t, "many", 4, &other) == NM_CAPACITY_EXCEEDED && other == 0);
    CHECK(r->references == UINT32_MAX && numbers(t).references == 1 && numbers(t).failures == 2);
    r->references = 1;
    CHECK(nm_intern_release(t, id) == NM_OK);
    nm_intern_destroy(t);
}

/* Threads that take and drop the same values: no count is lost, and each id is the value's while it is held. */
enum { THREADS = 4, ROUNDS = 4000, SHARED = 97, BATCHED = 40 };
static nm_intern *shared;
static void *contend(void *arg) {
    size_t *broken = arg;
    uint64_t seed = *broken + 99;
    nm_intern_id held[SHARED] = {0};
    *broken = 0;
    for (int round = 0; round < ROUNDS; round++) {
        char value[64], many[BATCHED][64];
        size_t i = below(&seed, SHARED), size = text(value, i);
        if (held[i] == 0) {
            *broken += nm_intern_acquire(shared, value, size, &held[i]) != NM_OK;
        } else {
            *broken += !is(shared, held[i], value, size);
            *broken += nm_intern_retain(shared, held[i], NULL, NULL) != NM_OK;
            *broken += nm_intern_release(shared, held[i]) != NM_OK || nm_intern_release(shared, held[i]) != NM_OK;
            held[i] = 0;
        }
        if (round % 50 != 0) continue;
        nm_intern_value values[BATCHED];
        nm_intern_id ids[BATCHED];
        for (size_t k = 0; k < BATCHED; k++) {
            size_t bytes = text(many[k], below(&seed, SHARED));
            values[k] = (nm_intern_value){many[k], bytes, nm_intern_hash_of(shared, many[k], bytes)};
        }
        *broken += nm_intern_acquire_many(shared, values, BATCHED, ids) != NM_OK;
        for (size_t k = 0; k < BATCHED; k++) *broken += !is(shared, ids[k], values[k].bytes, values[k].size);
        *broken += nm_intern_release_many(shared, ids, BATCHED, NULL) != NM_OK;
        *broken += numbers(shared).hits > numbers(shared).acquires;
    }
    for (size_t i = 0; i < SHARED; i++) *broken += held[i] != 0 && nm_intern_release(shared, held[i]) != NM_OK;
    return NULL;
}
static void run_threads(size_t shards) {
    pthread_t threads[THREADS];
    size_t broken[THREADS];
    shared = nm_intern_create(port, shards, NULL);
    for (size_t i = 0; i < THREADS; i++) {
        broken[i] = i;
        CHECK(pthread_create(&threads[i], NULL, contend, &broken[i]) == 0);
    }
    for (size_t i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], NULL) == 0 && broken[i] == 0);
    nm_intern_stats s = numbers(shared);
    CHECK(s.unique == 0 && s.references == 0 && s.stored == 0 && s.held == 0 && s.acquires > ROUNDS);
    check_sound(shared);
    nm_intern_destroy(shared);
}
static void test_threads(void) {
    run_threads(1);
    run_threads(16);
}

/* The programs of the fuzzer, some drawn at random. */
static void test_programs(void) {
    uint64_t seed = 2026;
    uint8_t program[400];
    for (size_t n = 0; n < 2000; n++) {
        for (size_t i = 0; i < sizeof program; i++) program[i] = (uint8_t)(next_random(&seed) >> 24);
        run_intern_program(program, n % sizeof program + 1);
    }
}

int main(void) {
    if (nm_region_init((size_t)1 << 30, 0, 0) != NM_OK) return 2;
    heap = nm_heap_create(NULL, false);
    port = nm_heap_port(heap);
    RUN(test_equal_values_have_equal_ids());
    RUN(test_every_size());
    RUN(test_bad_arguments());
    RUN(test_a_batch_for_any_number_of_shards());
    RUN(test_an_id_ends_with_its_last_reference());
    RUN(test_release_many_stops_at_the_first_that_is_none());
    RUN(test_values_with_one_hash());
    RUN(test_model());
    RUN(test_memory_after_churn());
    RUN(test_the_edge_costs_nothing());
    RUN(test_where_memory_ends());
    RUN(test_clear());
    RUN(test_generations_are_used_once());
    RUN(test_numbers_are_forgotten());
    RUN(test_references_have_an_end());
    RUN(test_programs());
    RUN(test_threads());
    SOUND(nm_heap_check(heap));
    nm_heap_destroy(heap);
    return finish();
}
