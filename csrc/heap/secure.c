/* The secure heap: what watches blocks against mistakes and attacks on freed memory (docs/safety.md).
 *
 * Each block ends in a canary that its address, its size and the heap's secret make; cells are handed out in random order,
 * wiped when freed, and looked at when they are handed out again; links between free cells are hidden by a key; a page that
 * cannot be touched follows each superblock and span. A mistake is found at the free, the resize or the next allocation of
 * the cell, not at the moment when it is made, unless it runs into the guard page. Reads beyond a block are not found.
 *
 * None of it is on the fast paths: threads of a secure heap find nm__no_theap in its slot and so take the slow paths.
 *
 * Invariants:
 *   of a live block: canary == secure_live_canary, the bytes from its size up to the tail == the low byte of h->canary
 *   of a freed cell: all bytes behind its link are 0, canary == secure_freed_canary */
#include "heap/internal.h"

/* A secure block ends in a tail, behind what its user may touch. Both words are mixed with the block's address, the canary
 * also with the size; after a free the size is 0 and the canary that of a freed block. */
typedef struct tail {
    uintptr_t size; /* of the block */
    uintptr_t canary;
} tail;
_Static_assert(sizeof(tail) == NM__SECURE_TAIL, "what the header says of a tail");

/* The guard is a page of the system's. Where that is as large as the smaller superblocks, no superblock has one: the
 * canaries are left. */
size_t nm__secure_span_guard(void) { return nm__region_os_page; }
size_t nm__secure_cell_guard(void) { return nm__region_os_page < NM_SUPERBLOCK ? nm__region_os_page : 0; }
static size_t secure_guard_size(const nm__page *p) {
    return p->kind == NM__SPAN ? nm__secure_span_guard() : nm__secure_cell_guard();
}

static size_t secure_room(const char *ptr) {
    const nm__superblock *sb = nm__superblock_of_cell(ptr);
    size_t whole = sb != NULL ? sb->cells.cell : (size_t)nm__page_of(ptr)->npages * NM_PAGE - nm__secure_span_guard();
    return whole - NM__SECURE_TAIL;
}
static tail *secure_tail(char *ptr, size_t room) { return (tail *)(void *)(ptr + room); }
static uintptr_t secure_live_canary(const nm_heap *h, const char *ptr, size_t size) {
    return (h->canary ^ (uintptr_t)ptr) + size * (uintptr_t)0x9E3779B97F4A7C15U;
}
static uintptr_t secure_freed_canary(const nm_heap *h, const char *ptr) { return ~h->canary ^ (uintptr_t)ptr; }

/* Marks where the block ends. What follows is not poisoned for the memory checkers: the canary watches it. */
static void *secure_write_tail(const nm_heap *h, char *ptr, size_t size, size_t room) {
    *secure_tail(ptr, room) = (tail){size ^ h->key ^ (uintptr_t)ptr, secure_live_canary(h, ptr, size)};
    memset(ptr + size, (int)(h->canary & 0xFF), room - size);
    return ptr;
}

static nm_status secure_read_tail(const nm_heap *h, char *ptr, size_t room, size_t *size) {
    const tail *t = secure_tail(ptr, room);
    NM_REOPEN(t, NM__SECURE_TAIL);
    if (t->canary == secure_freed_canary(h, ptr)) {
        NM_POISON(t, NM__SECURE_TAIL);
        return NM_DOUBLE_FREE;
    }
    *size = t->size ^ h->key ^ (uintptr_t)ptr;
    if (t->canary != secure_live_canary(h, ptr, *size) || *size > room) return NM_CORRUPTED;
    for (size_t i = *size; i < room; i++)
        if ((unsigned char)ptr[i] != (h->canary & 0xFF)) return NM_CORRUPTED;
    return NM_OK;
}

size_t nm__secure_usable_of(const nm_heap *h, const char *ptr) {
    return secure_tail((char *)(uintptr_t)ptr, secure_room(ptr))->size ^ h->key ^ (uintptr_t)ptr;
}
nm_status nm__secure_measure(const nm_heap *h, const char *ptr, size_t *size) {
    return secure_read_tail(h, (char *)(uintptr_t)ptr, secure_room(ptr), size);
}

static uint64_t secure_next_random(nm_heap *h) { /* splitmix64, Steele, Lea and Flood 2014 */
    uint64_t z = nm__atomic_add(&h->random, 0x9E3779B97F4A7C15U);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
}

/* As nm__cells_extend, for all cells, in random order. Their tails are cleared: in those of an earlier life of the
 * superblock a canary may stand that says of the cell that it was freed. */
bool nm__secure_extend(nm_heap *h, nm__cells *c, char *base) {
    uint16_t order[NM_SUPERBLOCK / 32]; /* with its tail no cell is smaller */
    uint32_t n = (c->end - c->fresh) / c->cell;
    if (n == 0) return false; /* a thread that frees reads what is set below: it is set once, before a cell is out */
    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = (uint32_t)(secure_next_random(h) % (i + 1));
        if (j != i) order[i] = order[j];
        order[j] = (uint16_t)i;
    }
    for (uint32_t i = 0; i < n; i++) {
        char *cell = base + c->fresh + (size_t)order[i] * c->cell;
        tail *t = secure_tail(cell, c->cell - NM__SECURE_TAIL);
        NM_UNPOISON(t, NM__SECURE_TAIL);
        *t = (tail){0, 0};
        NM_POISON(t, NM__SECURE_TAIL);
        nm__poke(cell, nm__link(h->key, cell, c->free));
        c->free = cell;
    }
    c->fresh = c->end;
    return true;
}

static char *secure_guard_of(const nm__page *p) {
    return nm__page_base(p) + (size_t)p->npages * NM_PAGE - secure_guard_size(p);
}

/* A system that cannot guard leaves the canaries. */
void nm__secure_set_guard(const nm__page *p) {
    if (secure_guard_size(p) != 0) (void)nm__os_guard(secure_guard_of(p), secure_guard_size(p));
}

/* Where the system refuses to open the guard, its pages are taken out of use for good: the next block there would run into
 * it. */
size_t nm__secure_unguard(const nm_heap *h, nm__page *p) {
    size_t npages = p->npages, guarded = secure_guard_size(p) / NM_PAGE;
    if (h->key == 0 || guarded == 0 || nm__os_open(secure_guard_of(p), secure_guard_size(p))) return npages;
    nm__region_withdraw(p + npages - guarded, guarded);
    return npages - guarded;
}

/* Whether a free cell is still as its free left it. If not, it was written through a dangling pointer. */
static bool secure_is_untouched(const nm_heap *h, const nm__superblock *sb, char *ptr) {
    size_t room = secure_room(ptr);
    const void *next = nm__link(h->key, ptr, *(void **)(void *)ptr);
    if (next != NULL && !nm__cells_holds(&sb->cells, nm__superblock_base(sb), 0, next)) return false;
    if (secure_tail(ptr, room)->canary != secure_freed_canary(h, ptr)) return true; /* its first use */
    for (size_t i = sizeof(void *); i < room + sizeof(uintptr_t); i++)
        if (ptr[i] != 0) return false;
    return true;
}

void *nm__secure_alloc(nm_heap *h, size_t size, size_t align, bool *zero, bool quiet) {
    if (size > NM_CELL_MAX - NM__SECURE_TAIL || align > NM_ALIGN_MAX) {
        bool want_zero = zero != NULL && size >= NM_HEAP_FRESH_ZERO;
        size_t whole = size + NM__SECURE_TAIL + nm__secure_span_guard();
        char *ptr = nm__span_alloc(h, whole, align, want_zero, zero, quiet);
        if (ptr == NULL) return NULL;
        nm__secure_set_guard(nm__page_of(ptr));
        return secure_write_tail(h, ptr, size, secure_room(ptr));
    }
    nm__theap *theap = nm__heap_attach(h);
    if (theap == NULL) return NULL;
    size_t bin = nm__bin_aligned(size + NM__SECURE_TAIL, align);
    nm__bin *b = &theap->bins[bin];
    if (b->current->cells.free == NULL && !nm__theap_provide(theap, bin, quiet)) return NULL;
    nm__superblock *sb = b->current;
    NM_REOPEN(sb->cells.free, sb->cells.cell);
    if (!secure_is_untouched(h, sb, sb->cells.free)) return nm_refuse(NM_CORRUPTED, size, 0, 0);
    nm__bump(&b->served, 1);
    char *ptr = nm__cells_pop(&sb->cells, h->key);
    return secure_write_tail(h, ptr, size, secure_room(ptr));
}

nm_status nm__secure_resize(char *ptr, size_t size) {
    const nm_heap *h = nm__heap_of_block(ptr);
    size_t old, room = secure_room(ptr);
    nm_status status = secure_read_tail(h, ptr, room, &old);
    if (status != NM_OK) return status;
    if (size > room) return NM_EXHAUSTED;
    (void)secure_write_tail(h, ptr, size, room);
    return NM_OK;
}

NM_COLD void *nm__secure_realloc(nm_heap *h, char *ptr, size_t size, size_t align, bool quiet) {
    const nm_heap *owner = nm__heap_of_block(ptr);
    size_t old, room = secure_room(ptr);
    if (size > NM_SIZE_MAX) return nm_refuse(NM_INVALID_LAYOUT, size, 0, 0);
    nm_status status = secure_read_tail(owner, ptr, room, &old);
    if (status != NM_OK) return nm_refuse(status, size, 0, 0);
    size += size == 0;
    if (size <= room && (size >= old || nm__wastes_little(size, room))) return secure_write_tail(owner, ptr, size, room);
    void *moved = nm__move(nm__secure_alloc(h, size, align, NULL, quiet || size <= old), ptr, old, size, nm__heap_release, h);
    return moved != NULL || size > room ? moved : secure_write_tail(owner, ptr, size, room);
}

void *nm__heap_malloc_at(nm_heap *h, size_t size, size_t align, bool zeroed) {
    if (size > NM_SIZE_MAX) return nm_refuse(NM_INVALID_LAYOUT, size, 0, 0);
    size += size == 0;
    bool zero = false;
    void *ptr = nm__secure_alloc(h, size, align, zeroed ? &zero : NULL, false);
    if (ptr != NULL && zeroed && !zero) memset(ptr, 0, size);
    return ptr;
}

void *nm__heap_realloc_at(nm_heap *h, void *ptr, size_t size, size_t align) {
    return nm__secure_realloc(h, ptr, size, align, false);
}

/* Nothing is written before the address is known to be a live block's. */
nm_status nm__secure_free(nm_heap *h, char *ptr) {
    nm__superblock *sb = nm__superblock_of_cell(ptr);
    nm__page *p = nm__page_of(ptr);
    if (sb != NULL ? !nm__cells_holds(&sb->cells, nm__superblock_base(sb), 0, ptr) : ptr != nm__page_base(p))
        return NM_FOREIGN_BLOCK;
    size_t size, room = secure_room(ptr);
    nm_status status = secure_read_tail(h, ptr, room, &size);
    if (status != NM_OK) return status;
    if (sb == NULL) {
        nm__span_free(p);
        return NM_OK;
    }
    nm__wipe(ptr, room);
    *secure_tail(ptr, room) = (tail){0, secure_freed_canary(h, ptr)};
    nm__theap_free_cell(sb->theap, ptr, sb);
    return NM_OK;
}
