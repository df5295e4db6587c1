#include "nativemem/intern.h"

#include "structures/intern_store.h"

/* How many values of a batch are looked at together: so many that a shard has some, so few that they fit the stack. */
#define INTERN_BATCH 512
#define INTERN_SLOTS_FIRST 8U

/* A slot is a record's tag, above, and its reference, below; 0: it is empty. A record's home is its tag modulo the
 * slots; it stands there or behind, with no empty slot in between.
 * Invariants:
 *   each slot leads to a live record with its tag, and each live record has one slot
 *   4 * unique <= 3 * slots;  slots is 0 or a power of two
 *   credit: entries that may be moved to make the slots fewer, paid by acquires of new values and reclaims
 *   stored, held, references: sums over the records */
typedef struct shard {
    pthread_mutex_t lock;
    uint64_t *slots;
    size_t count; /* of slots */
    size_t credit;
    nm__intern_store store;
    nm__counter unique, references, stored, held, acquires, hits, failures;
} __attribute__((aligned(64))) shard; /* no two locks in a cache line */

struct nm_intern {
    nm_intern_hash hash;
    uint64_t seed;
    unsigned shard_bits;
    void *memory; /* what to give back for this */
    shard shards[];
};

typedef nm__intern_record record;

/* ---- hashes and ids ---- */

/* Every bit of the result hangs on every bit of h: the shard, the tag and the home are cut out of it, and a caller's
 * function may be plain. (The finalizer of MurmurHash3, Austin Appleby.) */
NM_INLINE uint64_t intern_mix(uint64_t h) {
    h ^= h >> 33;
    h *= 0xFF51AFD7ED558CCDU;
    h ^= h >> 33;
    h *= 0xC4CEB9FE1A85EC53U;
    return h ^ h >> 33;
}

/* Eight bytes at a time; the seed keeps others from choosing values that collide. */
static uint64_t intern_own_hash(uint64_t seed, const void *bytes, size_t size) {
    const unsigned char *at = bytes;
    uint64_t h = seed ^ size;
    for (; size >= 8; size -= 8, at += 8) {
        uint64_t word;
        memcpy(&word, at, sizeof word);
        h = intern_mix(h ^ word);
    }
    uint64_t word = 0;
    if (size != 0) memcpy(&word, at, size);
    return intern_mix(h ^ word);
}

uint64_t nm_intern_hash_of(const nm_intern *t, const void *bytes, size_t size) {
    return t->hash != NULL ? t->hash(bytes, size) : intern_own_hash(t->seed, bytes, size);
}

NM_INLINE size_t intern_shard_of(const nm_intern *t, uint64_t h) { return t->shard_bits == 0 ? 0 : h >> (64 - t->shard_bits); }
NM_INLINE uint32_t intern_tag_of(uint64_t h) { return (uint32_t)h; }
NM_INLINE uint64_t intern_slot_of(uint32_t tag, uint32_t reference) { return (uint64_t)tag << 32 | reference; }
NM_INLINE uint32_t intern_tag_in(uint64_t slot) { return (uint32_t)(slot >> 32); }

/* generation, shard, reference */
NM_INLINE nm_intern_id intern_make_id(const nm_intern *t, size_t shard, uint32_t reference, uint32_t generation) {
    return ((uint64_t)generation << t->shard_bits | shard) << 32 | reference;
}
NM_INLINE shard *intern_shard_in(nm_intern *t, nm_intern_id id) {
    return &t->shards[id >> 32 & (((size_t)1 << t->shard_bits) - 1)];
}
NM_INLINE record *intern_record_in(const nm_intern *t, const shard *s, nm_intern_id id) {
    return nm__intern_store_find(&s->store, (uint32_t)id, (uint32_t)(id >> 32 >> t->shard_bits));
}

/* ---- slots ---- */

NM_INLINE uint64_t *intern_slot_with(const shard *s, uint32_t tag, const void *bytes, size_t size) {
    if (s->count == 0) return NULL;
    size_t mask = s->count - 1;
    for (size_t i = tag & mask; s->slots[i] != 0; i = (i + 1) & mask) {
        if (intern_tag_in(s->slots[i]) != tag) continue;
        const record *r = nm__intern_store_at(&s->store, (uint32_t)s->slots[i]);
        if (r->size == size && memcmp(r->bytes, bytes, size) == 0) return &s->slots[i];
    }
    return NULL;
}

static void intern_put_slot(uint64_t *slots, size_t count, uint64_t slot) {
    size_t i = intern_tag_in(slot) & (count - 1);
    while (slots[i] != 0) i = (i + 1) & (count - 1);
    slots[i] = slot;
}

/* Empties a slot, and moves those behind it that would no longer be found. */
static void intern_remove_slot(shard *s, size_t hole) {
    size_t mask = s->count - 1;
    for (size_t i = (hole + 1) & mask; s->slots[i] != 0; i = (i + 1) & mask) {
        size_t home = intern_tag_in(s->slots[i]) & mask;
        if (((i - home) & mask) < ((i - hole) & mask)) continue;
        s->slots[hole] = s->slots[i];
        hole = i;
    }
    s->slots[hole] = 0;
}

/* false: no memory; nothing changed. */
static NM_COLD bool intern_resize_slots(shard *s, size_t count) {
    uint64_t *slots = NULL;
    if (count != 0) {
        slots = nm__intern_store_alloc(&s->store, count * sizeof *slots);
        if (slots == NULL) return false;
        memset(slots, 0, count * sizeof *slots);
    }
    for (size_t i = 0; i < s->count; i++)
        if (s->slots[i] != 0) intern_put_slot(slots, count, s->slots[i]);
    nm__intern_store_free(&s->store, s->slots, s->count * sizeof *slots);
    s->slots = slots;
    s->count = count;
    return true;
}

/* Fewer slots, where half as many would do: as many as if there had never been more values. What that costs is paid from
 * the credit, so that a value at the edge that comes and goes does not move all others each time. */
static void intern_fit_slots(shard *s) {
    size_t unique = nm__get(&s->unique);
    while (s->count != 0 && (unique == 0 || (s->count > INTERN_SLOTS_FIRST && 8 * unique <= 3 * s->count))) {
        if (s->credit < s->count / 4) return;
        s->credit -= s->count / 4;
        if (!intern_resize_slots(s, unique == 0 ? 0 : s->count / 2)) return;
    }
}

/* ---- references, with the shard's lock ---- */

static NM_COLD nm_status intern_refuse_want(shard *s) {
    nm_status status = nm_last_failure().status;
    NM_ASSERT(status != NM_OK);
    if (nm__is_want(status)) nm__bump(&s->failures, 1);
    return status;
}

static nm_status intern_add_value(shard *s, uint32_t tag, const void *bytes, size_t size, uint32_t *reference) {
    size_t unique = nm__get(&s->unique);
    if (4 * (unique + 1) > 3 * s->count && !intern_resize_slots(s, s->count == 0 ? INTERN_SLOTS_FIRST : 2 * s->count))
        return intern_refuse_want(s);
    record *r = nm__intern_store_take(&s->store, size, reference);
    if (r == NULL) return intern_refuse_want(s);
    if (size != 0) memcpy(r->bytes, bytes, size);
    r->tag = tag;
    intern_put_slot(s->slots, s->count, intern_slot_of(tag, *reference));
    s->credit++;
    nm__set(&s->unique, unique + 1);
    nm__bump(&s->stored, size);
    return NM_OK;
}

static nm_status intern_add_reference(shard *s, record *r) {
    if (NM_UNLIKELY(r->references == UINT32_MAX)) {
        nm__bump(&s->failures, 1);
        return nm__fail(NM_CAPACITY_EXCEEDED, 1, NM_INTERN_REFERENCES_MAX, NM_INTERN_REFERENCES_MAX);
    }
    r->references++;
    nm__bump(&s->references, 1);
    nm__bump(&s->held, r->size);
    return NM_OK;
}

static nm_status intern_acquire_in(nm_intern *t, size_t which, uint32_t tag, const void *bytes, size_t size,
                                   nm_intern_id *out) {
    shard *s = &t->shards[which];
    uint64_t *slot = intern_slot_with(s, tag, bytes, size);
    uint32_t reference;
    if (NM_LIKELY(slot != NULL)) {
        reference = (uint32_t)*slot;
    } else {
        nm_status status = intern_add_value(s, tag, bytes, size, &reference);
        if (NM_UNLIKELY(status != NM_OK)) return status;
    }
    record *r = nm__intern_store_at(&s->store, reference);
    nm_status status = intern_add_reference(s, r);
    if (NM_UNLIKELY(status != NM_OK)) return status;
    nm__bump(&s->acquires, 1);
    if (slot != NULL) nm__bump(&s->hits, 1);
    *out = intern_make_id(t, which, reference, r->generation);
    return NM_OK;
}

static void intern_reclaim(shard *s, uint32_t reference, record *r) {
    size_t mask = s->count - 1, i = r->tag & mask;
    while (s->slots[i] != intern_slot_of(r->tag, reference)) i = (i + 1) & mask;
    intern_remove_slot(s, i);
    nm__set(&s->unique, nm__get(&s->unique) - 1);
    nm__set(&s->stored, nm__get(&s->stored) - r->size);
    nm__intern_store_give(&s->store, reference);
    s->credit++;
    intern_fit_slots(s);
}

static nm_status intern_drop_reference(const nm_intern *t, shard *s, nm_intern_id id) {
    record *r = intern_record_in(t, s, id);
    if (NM_UNLIKELY(r == NULL)) return nm__fail(NM_CLOSED, 0, 0, 0);
    nm__set(&s->references, nm__get(&s->references) - 1);
    nm__set(&s->held, nm__get(&s->held) - r->size);
    if (--r->references == 0) intern_reclaim(s, (uint32_t)id, r);
    return NM_OK;
}

/* ---- calls ---- */

static bool intern_is_size(size_t size) {
    if (NM_LIKELY(size <= NM_INTERN_SIZE_MAX)) return true;
    (void)nm__fail(NM_INVALID_LAYOUT, size, 0, 0);
    return false;
}

nm_status nm_intern_acquire(nm_intern *t, const void *bytes, size_t size, nm_intern_id *out) {
    if (!intern_is_size(size)) return NM_INVALID_LAYOUT;
    uint64_t h = intern_mix(nm_intern_hash_of(t, bytes, size));
    size_t which = intern_shard_of(t, h);
    pthread_mutex_lock(&t->shards[which].lock);
    nm_status status = intern_acquire_in(t, which, intern_tag_of(h), bytes, size, out);
    pthread_mutex_unlock(&t->shards[which].lock);
    return status;
}

/* Asks memory for what the next steps will look at: the slots, then what the first with the tag leads to. */
static void intern_fetch_ahead(const shard *s, const uint64_t *hashes, const uint16_t *order, size_t count) {
    if (s->count == 0) return;
    size_t mask = s->count - 1;
    /* NOLINTNEXTLINE(clang-analyzer-core.uninitialized.ArraySubscript): counting has written all of `order` */
    for (size_t i = 0; i < count; i++) __builtin_prefetch(&s->slots[intern_tag_of(hashes[order[i]]) & mask]);
    for (size_t i = 0; i < count; i++) {
        uint32_t tag = intern_tag_of(hashes[order[i]]);
        size_t at = tag & mask;
        while (s->slots[at] != 0 && intern_tag_in(s->slots[at]) != tag) at = (at + 1) & mask;
        if (s->slots[at] != 0) __builtin_prefetch(nm__intern_store_at(&s->store, (uint32_t)s->slots[at]));
    }
}

/* At most INTERN_BATCH of them. On a refusal *done says how many have an id, which is those of `order` up to there. */
static nm_status intern_acquire_batch(nm_intern *t, const nm_intern_value *values, size_t count, nm_intern_id *out,
                                      uint16_t *order, size_t *done) {
    uint64_t hashes[INTERN_BATCH];
    uint16_t ends[NM_INTERN_SHARDS_MAX + 1] = {0};
    size_t shards = (size_t)1 << t->shard_bits;
    for (size_t i = 0; i < count; i++) {
        hashes[i] = intern_mix(values[i].hash);
        ends[intern_shard_of(t, hashes[i]) + 1]++;
    }
    for (size_t i = 0; i < shards; i++) ends[i + 1] = (uint16_t)(ends[i + 1] + ends[i]);
    for (size_t i = 0; i < count; i++) order[ends[intern_shard_of(t, hashes[i])]++] = (uint16_t)i;
    nm_status status = NM_OK;
    for (size_t which = 0, i = 0; which < shards && status == NM_OK; which++) {
        if (i == ends[which]) continue;
        shard *s = &t->shards[which];
        pthread_mutex_lock(&s->lock);
        intern_fetch_ahead(s, hashes, order + i, ends[which] - i);
        for (; i < ends[which] && status == NM_OK; i++) {
            /* NOLINTNEXTLINE(clang-analyzer-core.uninitialized.ArraySubscript): as above */
            const nm_intern_value *v = &values[order[i]];
            status = intern_acquire_in(t, which, intern_tag_of(hashes[order[i]]), v->bytes, v->size, &out[order[i]]);
        }
        pthread_mutex_unlock(&s->lock);
        *done = status == NM_OK ? i : i - 1;
    }
    return status;
}

nm_status nm_intern_acquire_many(nm_intern *t, const nm_intern_value *values, size_t count, nm_intern_id *out) {
    uint16_t order[INTERN_BATCH];
    for (size_t i = 0; i < count; i++)
        if (!intern_is_size(values[i].size)) return NM_INVALID_LAYOUT;
    for (size_t from = 0; from < count; from += INTERN_BATCH) {
        size_t done = 0, n = count - from < INTERN_BATCH ? count - from : INTERN_BATCH;
        nm_status status = intern_acquire_batch(t, values + from, n, out + from, order, &done);
        if (NM_LIKELY(status == NM_OK)) continue;
        nm_failure why = nm_last_failure();
        for (size_t i = 0; i < done; i++) (void)nm_intern_release(t, out[from + order[i]]);
        (void)nm_intern_release_many(t, out, from, NULL);
        return nm__fail(why.status, why.requested, why.used, why.limit);
    }
    return NM_OK;
}

nm_status nm_intern_retain(nm_intern *t, nm_intern_id id, const void **bytes, size_t *size) {
    shard *s = intern_shard_in(t, id);
    pthread_mutex_lock(&s->lock);
    record *r = intern_record_in(t, s, id);
    nm_status status = r == NULL ? nm__fail(NM_CLOSED, 0, 0, 0) : intern_add_reference(s, r);
    if (status == NM_OK && bytes != NULL) *bytes = r->bytes;
    if (status == NM_OK && size != NULL) *size = r->size;
    pthread_mutex_unlock(&s->lock);
    return status;
}

nm_status nm_intern_release(nm_intern *t, nm_intern_id id) {
    shard *s = intern_shard_in(t, id);
    pthread_mutex_lock(&s->lock);
    nm_status status = intern_drop_reference(t, s, id);
    pthread_mutex_unlock(&s->lock);
    return status;
}

nm_status nm_intern_release_many(nm_intern *t, const nm_intern_id *ids, size_t count, size_t *done) {
    nm_status status = NM_OK;
    size_t i = 0;
    while (i < count && (status = nm_intern_release(t, ids[i])) == NM_OK) i++;
    if (done != NULL) *done = i;
    return status;
}

nm_status nm_intern_view(nm_intern *t, nm_intern_id id, const void **bytes, size_t *size) {
    shard *s = intern_shard_in(t, id);
    pthread_mutex_lock(&s->lock);
    const record *r = intern_record_in(t, s, id);
    if (r != NULL) {
        *bytes = r->bytes;
        *size = r->size;
    }
    pthread_mutex_unlock(&s->lock);
    return r != NULL ? NM_OK : nm__fail(NM_CLOSED, 0, 0, 0);
}

void nm_intern_read(nm_intern *t, nm_intern_stats *out) {
    *out = (nm_intern_stats){0};
    for (size_t i = 0; i < (size_t)1 << t->shard_bits; i++) {
        shard *s = &t->shards[i];
        pthread_mutex_lock(&s->lock);
        out->unique += nm__get(&s->unique);
        out->references += nm__get(&s->references);
        out->stored += nm__get(&s->stored);
        out->held += nm__get(&s->held);
        out->acquires += nm__get(&s->acquires);
        out->hits += nm__get(&s->hits);
        out->reserved += nm__get(&s->store.reserved);
        out->failures += nm__get(&s->failures);
        pthread_mutex_unlock(&s->lock);
    }
}

/* ---- life ---- */

nm_intern *nm_intern_create(nm_allocator upstream, size_t shards, nm_intern_hash hash) {
    if (!nm_is_power_of_two(shards) || shards > NM_INTERN_SHARDS_MAX) return nm_refuse(NM_INVALID_LAYOUT, shards, 0, 0);
    const size_t align = _Alignof(nm_intern);
    char *memory = nm__meta_alloc(sizeof(nm_intern) + shards * sizeof(shard) + align);
    if (memory == NULL) return NULL;
    nm_intern *t = (void *)(memory + (align - ((uintptr_t)memory & (align - 1))));
    t->memory = memory;
    t->hash = hash;
    t->seed = nm__os_random();
    t->shard_bits = (unsigned)__builtin_ctzll(shards);
    uint32_t most = (uint32_t)((UINT64_C(1) << (32 - t->shard_bits)) - 2);
    for (size_t i = 0; i < shards; i++) {
        (void)pthread_mutex_init(&t->shards[i].lock, NULL);
        nm__intern_store_init(&t->shards[i].store, upstream, most);
    }
    return t;
}

void nm_intern_clear(nm_intern *t) {
    for (size_t i = 0; i < (size_t)1 << t->shard_bits; i++) {
        shard *s = &t->shards[i];
        nm__intern_store_free(&s->store, s->slots, s->count * sizeof *s->slots);
        nm__intern_store_clear(&s->store);
        s->slots = NULL;
        s->count = s->credit = 0;
        nm__set(&s->unique, 0);
        nm__set(&s->references, 0);
        nm__set(&s->stored, 0);
        nm__set(&s->held, 0);
    }
}

void nm_intern_destroy(nm_intern *t) {
    if (t == NULL) return;
    nm_intern_clear(t);
    for (size_t i = 0; i < (size_t)1 << t->shard_bits; i++) (void)pthread_mutex_destroy(&t->shards[i].lock);
    nm__meta_free(t->memory);
}

static const char *intern_check_shard(const shard *s) {
    size_t records = 0, slots = 0, references = 0, stored = 0, held = 0;
    const char *broken = nm__intern_store_check(&s->store, &records);
    if (broken != NULL) return broken;
    for (size_t i = 0; i < s->count; i++) {
        if (s->slots[i] == 0) continue;
        const record *r = nm__intern_store_at(&s->store, (uint32_t)s->slots[i]);
        if (r->references == 0 || r->tag != intern_tag_in(s->slots[i])) return "a slot leads to another record";
        for (size_t at = r->tag & (s->count - 1); at != i; at = (at + 1) & (s->count - 1))
            if (s->slots[at] == 0) return "a record is not found from its home";
        slots++;
        references += r->references;
        stored += r->size;
        held += (size_t)r->references * r->size;
    }
    if (slots != records || slots != nm__get(&s->unique)) return "unique is not the number of records";
    if (4 * slots > 3 * s->count) return "there are too few slots";
    if (references != nm__get(&s->references)) return "references is not the sum of the records'";
    if (stored != nm__get(&s->stored) || held != nm__get(&s->held)) return "bytes are not the sum of the records'";
    return NULL;
}

const char *nm_intern_check(nm_intern *t) {
    const char *broken = NULL;
    for (size_t i = 0; i < (size_t)1 << t->shard_bits && broken == NULL; i++) {
        pthread_mutex_lock(&t->shards[i].lock);
        broken = intern_check_shard(&t->shards[i]);
        pthread_mutex_unlock(&t->shards[i].lock);
    }
    return broken;
}
