#include "structures/intern_store.h"

#include "tuning.h"

enum { STORE_SMALL = 16, STORE_LARGE = NM__INTERN_CLASSES - 1 };
#define STORE_NUMBERS_MAX (1U << (32 - NM__INTERN_CELL_BITS))

/* From the 17th class on: as many whole cells as fit a full chunk. */
static const uint16_t store_wider[STORE_LARGE - STORE_SMALL - 1] = {288, 320, 368, 400,  448,  496,
                                                                    576, 672, 800, 1008, 1344, 2016};

typedef nm__intern_store store;
typedef nm__intern_chunk chunk;
typedef nm__intern_place place;
typedef nm__intern_record record;

/* Of cells: they begin at multiples of 16. */
#define STORE_HEADER ((sizeof(chunk) + NM_ALIGN_DEFAULT - 1) / NM_ALIGN_DEFAULT * NM_ALIGN_DEFAULT)
_Static_assert(sizeof(record) == NM_ALIGN_DEFAULT, "values begin at multiples of 16 as well");

static char *store_cells_of(const chunk *c) { return (char *)(uintptr_t)c + STORE_HEADER; }
static chunk *store_chunk_of(const place *p) { return (chunk *)(void *)(p->cells - STORE_HEADER); }
static record *store_record_of(const place *p, size_t cell) { return (record *)(void *)(p->cells + cell * p->cell); }

void nm__intern_store_init(store *s, nm_allocator upstream, uint32_t most) {
    s->upstream = upstream;
    s->floor = s->lowest = 1;
    s->most = most;
}

void *nm__intern_store_alloc(store *s, size_t size) {
    void *ptr = nm_alloc(s->upstream, size, NM_ALIGN_DEFAULT);
    if (ptr != NULL) nm__bump(&s->reserved, size);
    return ptr;
}

void nm__intern_store_free(store *s, void *ptr, size_t size) {
    if (ptr == NULL) return;
    (void)nm_free(s->upstream, ptr, size, NM_ALIGN_DEFAULT);
    nm__set(&s->reserved, nm__get(&s->reserved) - size);
}

static unsigned store_class_of(size_t bytes) {
    if (bytes <= (size_t)STORE_SMALL * NM_ALIGN_DEFAULT) return (unsigned)((bytes + NM_ALIGN_DEFAULT - 1) / NM_ALIGN_DEFAULT);
    unsigned kind = STORE_SMALL + 1;
    while (kind < STORE_LARGE && bytes > store_wider[kind - STORE_SMALL - 1]) kind++;
    return kind;
}

/* false: no memory for them; nothing changed. */
static bool store_resize_places(store *s, uint32_t capacity) {
    place *places = nm__intern_store_alloc(s, capacity * sizeof *places);
    if (places == NULL) return false;
    if (s->numbers != 0) memcpy(places, s->places, s->numbers * sizeof *places);
    nm__intern_store_free(s, s->places, s->capacity * sizeof *places);
    s->places = places;
    s->capacity = capacity;
    return true;
}

/* The lowest free number; 0: refused. It is not taken yet. */
static uint32_t store_free_number(store *s) {
    uint32_t number = s->lowest;
    while (number < s->numbers && s->places[number].cells != NULL) number++;
    s->lowest = number;
    if (number < s->numbers) return number;
    if (number >= STORE_NUMBERS_MAX || s->floor > s->most) {
        (void)nm__fail(NM_CAPACITY_EXCEEDED, 1, STORE_NUMBERS_MAX - 1, STORE_NUMBERS_MAX - 1);
        return 0;
    }
    if (number >= s->capacity && !store_resize_places(s, s->capacity == 0 ? NM_INTERN_PLACES_FIRST : 2 * s->capacity)) return 0;
    if (s->numbers == 0) s->places[0] = (place){NULL, 0, 0};
    s->places[number] = (place){NULL, 0, s->floor};
    s->numbers = number + 1;
    return number;
}

/* Forgets the free numbers at the end, where most of all are free. */
static void store_forget_numbers(store *s) {
    if (s->numbers <= 2 * s->live + NM_INTERN_NUMBERS_SPARE) return;
    while (s->numbers > 1 && s->places[s->numbers - 1].cells == NULL) {
        uint32_t floor = s->places[--s->numbers].floor;
        if (floor > s->floor) s->floor = floor;
    }
    if (s->lowest > s->numbers) s->lowest = s->numbers;
    uint32_t capacity = s->capacity;
    while (capacity > NM_INTERN_PLACES_FIRST && s->numbers <= capacity / 2) capacity /= 2;
    if (capacity < s->capacity) (void)store_resize_places(s, capacity);
}

static bool store_has_room(const chunk *c) { return c->free != 0 || c->fresh < c->cells; }

static void store_open_chunk(store *s, chunk *c) {
    c->prior = NULL;
    c->next = s->open[c->kind];
    if (c->next != NULL) c->next->prior = c;
    s->open[c->kind] = c;
}

static void store_close_chunk(store *s, chunk *c) {
    if (c->next != NULL) c->next->prior = c->prior;
    if (c->prior != NULL) c->prior->next = c->next;
    else s->open[c->kind] = c->next;
}

static chunk *store_take_chunk(store *s, unsigned kind, size_t bytes) {
    size_t cell = kind <= STORE_SMALL  ? kind * NM_ALIGN_DEFAULT
                  : kind < STORE_LARGE ? store_wider[kind - STORE_SMALL - 1]
                                       : bytes;
    size_t most = NM_INTERN_CHUNK_FIRST << (s->chunks[kind] < 3 ? s->chunks[kind] : 3);
    if (most > NM_INTERN_CHUNK_LAST) most = NM_INTERN_CHUNK_LAST;
    size_t cells = most < STORE_HEADER + 2 * cell ? 1 : (most - STORE_HEADER) / cell;
    if (cells > 1U << NM__INTERN_CELL_BITS) cells = 1U << NM__INTERN_CELL_BITS;
    uint32_t number = store_free_number(s);
    if (number == 0) return NULL;
    size_t total = STORE_HEADER + cells * cell;
    chunk *c = nm__intern_store_alloc(s, total);
    if (c == NULL) return NULL;
    *c = (chunk){.total = total, .number = number, .kind = (uint16_t)kind, .cells = (uint16_t)cells};
    NM_POISON(store_cells_of(c), cells * cell);
    /* of a large one the cell is never multiplied by more than 0 */
    s->places[number] = (place){store_cells_of(c), kind < STORE_LARGE ? (uint32_t)cell : 0, s->places[number].floor};
    s->chunks[kind]++;
    s->live++;
    store_open_chunk(s, c);
    return c;
}

static void store_drop_chunk(store *s, chunk *c) {
    place *p = &s->places[c->number];
    uint32_t floor = p->floor;
    for (size_t i = 0; i < c->fresh; i++)
        if (store_record_of(p, i)->generation > floor) floor = store_record_of(p, i)->generation;
    uint32_t number = c->number;
    *p = (place){NULL, 0, floor};
    s->chunks[c->kind]--;
    s->live--;
    if (number < s->lowest) s->lowest = number;
    NM_UNPOISON(store_cells_of(c), c->total - STORE_HEADER);
    nm__intern_store_free(s, c, c->total);
}

record *nm__intern_store_take(store *s, size_t size, uint32_t *reference) {
    size_t bytes = sizeof(record) + size;
    unsigned kind = store_class_of(bytes);
    chunk *c = s->open[kind];
    if (c == NULL && (c = store_take_chunk(s, kind, bytes)) == NULL) return NULL;
    const place *p = &s->places[c->number];
    size_t i = c->free;
    record *r;
    if (i != 0) {
        r = store_record_of(p, --i);
        c->free = (uint16_t)r->size;
    } else {
        i = c->fresh++;
        r = store_record_of(p, i);
        NM_UNPOISON(r, sizeof *r);
        r->generation = p->floor;
    }
    NM_UNPOISON(&r->bytes[0], size);
    r->references = 0;
    r->size = (uint32_t)size;
    c->used++;
    if (!store_has_room(c)) store_close_chunk(s, c);
    *reference = c->number << NM__INTERN_CELL_BITS | (uint32_t)i;
    return r;
}

void nm__intern_store_give(store *s, uint32_t reference) {
    const place *p = &s->places[reference >> NM__INTERN_CELL_BITS];
    chunk *c = store_chunk_of(p);
    size_t i = reference & ((1U << NM__INTERN_CELL_BITS) - 1);
    record *r = store_record_of(p, i);
    bool was_open = store_has_room(c);
    NM_POISON(&r->bytes[0], r->size);
    r->references = 0;
    c->used--;
    if (NM_UNLIKELY(r->generation++ == s->most)) {
        c->retired++;
    } else {
        r->size = c->free;
        c->free = (uint16_t)(i + 1);
        if (!was_open) store_open_chunk(s, c);
    }
    if (c->used != 0 || c->retired != 0) return;
    store_close_chunk(s, c);
    store_drop_chunk(s, c);
    store_forget_numbers(s);
}

record *nm__intern_store_find(const store *s, uint32_t reference, uint32_t generation) {
    uint32_t number = reference >> NM__INTERN_CELL_BITS, i = reference & ((1U << NM__INTERN_CELL_BITS) - 1);
    if (number >= s->numbers || s->places[number].cells == NULL) return NULL;
    const place *p = &s->places[number];
    if (i >= store_chunk_of(p)->fresh) return NULL;
    record *r = store_record_of(p, i);
    return r->references != 0 && r->generation == generation ? r : NULL;
}

void nm__intern_store_clear(store *s) {
    uint32_t floor = s->floor;
    for (uint32_t number = 1; number < s->numbers; number++) {
        if (s->places[number].cells != NULL) {
            chunk *c = store_chunk_of(&s->places[number]);
            for (size_t i = 0; i < c->fresh; i++) {
                record *r = store_record_of(&s->places[number], i);
                if (r->references != 0) r->generation++;
            }
            store_drop_chunk(s, c);
        }
        if (s->places[number].floor > floor) floor = s->places[number].floor;
    }
    s->floor = floor;
    for (int kind = 0; kind < NM__INTERN_CLASSES; kind++) s->open[kind] = NULL;
    nm__intern_store_free(s, s->places, s->capacity * sizeof *s->places);
    s->places = NULL;
    s->numbers = s->capacity = 0;
    s->lowest = 1;
}

static const char *store_check_chunk(const store *s, uint32_t number, size_t *records) {
    const place *p = &s->places[number];
    const chunk *c = store_chunk_of(p);
    size_t used = 0, retired = 0, listed = 0;
    if (c->number != number) return "a chunk has another number than its place";
    if (c->fresh > c->cells) return "more cells were used than there are";
    for (size_t i = 0; i < c->fresh; i++) {
        used += store_record_of(p, i)->references != 0;
        retired += store_record_of(p, i)->generation > s->most;
    }
    for (size_t at = c->free; at != 0; at = store_record_of(p, at - 1)->size) {
        if (at > c->fresh || store_record_of(p, at - 1)->references != 0) return "the free list leads to what is no free cell";
        if (++listed > c->fresh) return "the free list is a ring";
    }
    if (used != c->used) return "used is not the number of records";
    if (retired != c->retired) return "retired is not the number of cells without generations";
    if (used + c->retired + listed != c->fresh) return "a free cell is on no list";
    if (used + c->retired == 0) return "an empty chunk was kept";
    *records += used;
    return NULL;
}

const char *nm__intern_store_check(const store *s, size_t *records) {
    size_t bytes = s->capacity * sizeof *s->places, open = 0, live = 0;
    for (uint32_t number = 1; number < s->numbers; number++) {
        if (s->places[number].cells == NULL) {
            if (number < s->lowest) return "a number below the lowest free one is free";
            continue;
        }
        const char *broken = store_check_chunk(s, number, records);
        if (broken != NULL) return broken;
        bytes += store_chunk_of(&s->places[number])->total;
        open += store_has_room(store_chunk_of(&s->places[number]));
        live++;
    }
    for (unsigned kind = 0; kind < NM__INTERN_CLASSES; kind++) {
        for (const chunk *c = s->open[kind]; c != NULL; c = c->next) {
            if (!store_has_room(c) || c->kind != kind) return "the list of chunks with room leads to another";
            if (open-- == 0) return "the list of chunks with room is a ring";
        }
    }
    if (open != 0) return "a chunk with room is on no list";
    if (live != s->live) return "live is not the number of chunks";
    /* the rest of reserved is the shard's own */
    return bytes <= nm__get(&s->reserved) ? NULL : "reserved is less than the chunks";
}
