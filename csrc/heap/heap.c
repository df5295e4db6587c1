/* Parts, superblocks and spans. The fast paths are in heap.h. */
#include "heap/heap.h"

#define PAGE NM_SUPERBLOCK

const uint32_t nm__bin_sizes[NM_BINS] = {
    0,    16,   32,   48,   64,   80,   96,   112,  128,  144,  160,  176,   192,   208,   224,   240,   256,   272,   288,
    304,  320,  336,  352,  368,  384,  400,  416,  432,  448,  464,  480,   496,   512,   640,   768,   896,   1024,  1280,
    1536, 1792, 2048, 2560, 3072, 3584, 4096, 5120, 6144, 7168, 8192, 10240, 12288, 14336, 16384, 20480, 24576, 28672, 32768,
};

#define B2(bin) bin, bin
#define B4(bin) B2(bin), B2(bin)
#define B8(bin) B4(bin), B4(bin)
#define B16(bin) B8(bin), B8(bin)
#define B32(bin) B16(bin), B16(bin)
const uint8_t nm__coarse_bins[] = {
    B4(0),  33,     34,     35,     36,      B2(37),  B2(38),  B2(39),  B2(40),  B4(41),  B4(42),  B4(43),  B4(44),
    B8(45), B8(46), B8(47), B8(48), B16(49), B16(50), B16(51), B16(52), B32(53), B32(54), B32(55), B32(56),
};

nm__page nm__no_page = {.part = NULL};

#define NO_SLOT {.page = &nm__no_page}
#define NO_SLOTS4 NO_SLOT, NO_SLOT, NO_SLOT, NO_SLOT
#define NO_SLOTS16 NO_SLOTS4, NO_SLOTS4, NO_SLOTS4, NO_SLOTS4
_Static_assert(NM_BINS == 57, "the initializer below counts the bins");
nm__part nm__no_part = {.slots = {NO_SLOTS16, NO_SLOTS16, NO_SLOTS16, NO_SLOTS4, NO_SLOTS4, NO_SLOT}};

#define NO_PARTS4 &nm__no_part, &nm__no_part, &nm__no_part, &nm__no_part
_Static_assert(NM__TLS_SLOTS == 16, "the initializer below counts the slots");
NM_TLS nm__part *nm__mine[NM__TLS_SLOTS] = {NO_PARTS4, NO_PARTS4, NO_PARTS4, NO_PARTS4};

/* This thread's part of the heap without a slot that it used last. */
typedef struct known_part {
    uint64_t heap; /* its number */
    nm__part *part;
} known_part;
static NM_TLS known_part last_mine;

/* Its parts of heaps that take turns, as long as they stand here: entering one often asks no lock. */
#define TURNS 8
static NM_TLS known_part turns[TURNS];

/* Threads whose nm__mine may hold something: a heap that goes takes it out. Once a thread's end has been seen to, what
 * it still allocates goes without a slot, because nobody would take it off the list again. */
typedef struct thread_entry {
    nm__part **mine;
    struct thread_entry *prev, *next;
    bool listed, ended;
} thread_entry;
static NM_TLS thread_entry this_thread;

/* Invariants, under the lock:
 *   held == PAGE * pages of its superblocks and spans;  what is charged to the budget == held */
struct nm_heap {
    pthread_mutex_t lock; /* parts, spans */
    uint64_t number;      /* of the process's heaps, never used again */
    size_t slot;          /* of nm__mine */
    uintptr_t key, canary; /* key is 0 where the heap is not secure */
    nm__counter random;
    nm_budget *budget, *also; /* charged, and charged too; NULL: none */
    bool shares;              /* takes turns in its slot */
    nm__part *parts;
    nm__page *spans;
    nm__counter held, held_peak, live_spans_bytes, failures;
    nm__counter span_served[NM_SPAN_SIZES];
    nm_heap *next;
};

/* The head counts what it gives back by itself and what it takes by the slot's counter: taking and giving, the two
 * halves of a pair, so do not wait for one another. Each time that it has given back so many cells it is asked whether
 * it is still the one to serve. */
static uint32_t patience(const nm__cells *c) { return c->capacity < 1024 ? 128 : c->capacity / 8; }

/* Cells freed by other threads that are looked at before one counts as live. */
#define FAR_MOST ((size_t)1 << 20)

static uint32_t head_served(const nm__slot *slot) { return (uint32_t)nm__get(&slot->served); }

static uint32_t used_of(const nm__slot *slot, const nm__page *p) {
    return nm__cells_used(&p->cells) + (p == slot->page ? head_served(slot) : 0);
}

/* Of group 0 next to nothing is free: too little to be looked at for each cell that comes back, since with blocks freed
 * all over a large heap superblocks would change lists with each free, and again with each allocation. What waits there
 * is at most a 32nd of a superblock, and is found before a block is refused: there each is looked at once, and those that
 * are full are put aside until a cell comes back. So a refusal does not cost more the more superblocks there are. */
static uint32_t quorum(const nm__cells *c) { return c->capacity < 64 ? 1 : c->capacity / 32; }

/* A superblock of the group has more cells in use than that: half of them, a quarter and so on. */
static uint32_t floor_of(const nm__cells *c, unsigned group) {
    if (group == 0) return c->capacity - quorum(c);
    if (group == NM__FULL) return c->capacity - 1;
    return group == NM__GROUPS - 1 ? 0 : c->capacity >> group;
}

/* Pre: used != 0. */
static unsigned group_of(const nm__cells *c, uint32_t used) {
    unsigned group = 0;
    while (used <= floor_of(c, group)) group++;
    return group;
}

static const char *check_superblock(const nm__page *p, const nm__part *part, size_t bin) {
    const nm__slot *slot = &part->slots[bin];
    uint32_t used = used_of(slot, p);
    if (p->part != part || p->kind != NM__SUPERBLOCK || p->bin != bin) return "a superblock is another part's or bin's";
    if (!nm__cells_check(&p->cells, used, nm__page_base(p), 0, part->heap->key)) return "a superblock's cells do not add up";
    if (p == slot->page)
        return p->cells.count == 0 || p->cells.count > patience(&p->cells) ? "a head's count has run out" : NULL;
    if (used == 0) return "an empty superblock was not returned";
    if (p->group == NM__FULL ? used != p->cells.capacity : p->group != group_of(&p->cells, used))
        return "a superblock is on the wrong list";
    if (p->next != NULL && p->next->prev != p) return "a list of superblocks is broken";
    if (p->cells.count != used - floor_of(&p->cells, p->group)) return "a superblock reports where it should not";
    return NULL;
}

const char *nm_heap_check(nm_heap *h) {
    const char *broken = NULL;
    size_t pages = 0, span_pages = 0;
    pthread_mutex_lock(&h->lock);
    for (nm__part *part = h->parts; part != NULL && broken == NULL; part = part->next) {
        for (void *at = atomic_load(&part->remote); at != NULL && broken == NULL; at = nm__link(h->key, at, nm__peek(at)))
            if (nm__page_of(at) == NULL || nm__page_of(at)->part != part) broken = "a queued cell is another part's";
        for (size_t bin = 1; bin < NM_BINS && broken == NULL; bin++) {
            const nm__page *head = part->slots[bin].page;
            if (head != &nm__no_page) broken = check_superblock(head, part, bin), pages++;
            for (unsigned group = 0; group <= NM__FULL; group++)
                for (const nm__page *p = part->waiting[bin][group]; p != NULL && broken == NULL; p = p->next, pages++)
                    broken = p->group != group ? "a superblock is on the wrong list" : check_superblock(p, part, bin);
        }
    }
    for (const nm__page *p = h->spans; p != NULL && broken == NULL; p = p->next) {
        if (p->kind != NM__SPAN || p->part != NULL || p->cells.free != h) broken = "a span is not the heap's";
        span_pages += p->npages;
    }
    if (broken == NULL && (pages + span_pages) * PAGE != nm__get(&h->held)) broken = "held is not what is held";
    if (broken == NULL && span_pages * PAGE != nm__get(&h->live_spans_bytes)) broken = "span bytes are not counted right";
    if (broken == NULL && h->budget != NULL && nm_budget_used(h->budget) != nm__get(&h->held))
        broken = "the budget is not charged with what is held";
    pthread_mutex_unlock(&h->lock);
    return broken;
}

/* Every heap of the process, for fork and thread end. The lock comes before a heap's, that before the
 * region's. */
static struct {
    pthread_mutex_t lock;
    nm_heap *first;
    thread_entry *threads;
    uint64_t numbers;
    bool taken[NM__NO_SLOT]; /* slots */
} heaps = {.lock = PTHREAD_MUTEX_INITIALIZER};

size_t nm_bin_size(unsigned bin) { return bin < NM_BINS ? nm__bin_sizes[bin] : 0; }

NM_INLINE size_t aligned_bin(size_t size, size_t align) {
    size_t bin = nm__bin_of(size);
    if (NM_LIKELY(align <= NM_ALIGN_DEFAULT)) return bin; /* as all of them are */
    while (!nm_is_aligned(nm__bin_sizes[bin], align)) bin++; /* the last bin has every alignment up to its size */
    return bin;
}

static nm_heap *heap_of_span(const nm__page *p) { return p->cells.free; }

static size_t pages_for(size_t size) { return (size + (PAGE - 1)) / PAGE; }

/* ---- secure mode: a block ends in a tail, its superblock or span in a page that cannot be touched ------------- */

typedef struct tail {
    uintptr_t size; /* of the block */
    uintptr_t canary;
} tail; /* both mixed with the block's address, the canary also with the size; after a free size is 0 and the canary
         * that of a freed block */
#define TAIL sizeof(tail)

/* The guard is a page of the system's. Where that is as large as a superblock, superblocks have none: the canaries are
 * left. */
static size_t guard_of_span(void) { return nm__region_os_page; }
static size_t guard_of_cells(void) { return nm__region_os_page < PAGE ? nm__region_os_page : 0; }
static size_t guard_size(const nm__page *p) { return p->kind == NM__SPAN ? guard_of_span() : guard_of_cells(); }

static size_t room_of(const nm__page *p) {
    return (p->part != NULL ? p->cells.cell : (size_t)p->npages * PAGE - guard_of_span()) - TAIL;
}
static tail *tail_of(char *ptr, size_t room) { return (tail *)(void *)(ptr + room); }
static uintptr_t live_canary(const nm_heap *h, const char *ptr, size_t size) {
    return (h->canary ^ (uintptr_t)ptr) + size * (uintptr_t)0x9E3779B97F4A7C15U;
}
static uintptr_t freed_canary(const nm_heap *h, const char *ptr) { return ~h->canary ^ (uintptr_t)ptr; }

/* Marks where the block ends. What follows is open to the checkers: it is watched here. */
static void *seal(const nm_heap *h, char *ptr, size_t size, size_t room) {
    *tail_of(ptr, room) = (tail){size ^ h->key ^ (uintptr_t)ptr, live_canary(h, ptr, size)};
    memset(ptr + size, (int)(h->canary & 0xFF), room - size);
    return ptr;
}

static nm_status unseal(const nm_heap *h, char *ptr, size_t room, size_t *size) {
    const tail *t = tail_of(ptr, room);
    NM_REOPEN(t, TAIL);
    if (t->canary == freed_canary(h, ptr)) {
        NM_POISON(t, TAIL);
        return NM_DOUBLE_FREE;
    }
    *size = t->size ^ h->key ^ (uintptr_t)ptr;
    if (t->canary != live_canary(h, ptr, *size) || *size > room) return NM_CORRUPTED;
    for (size_t i = *size; i < room; i++)
        if ((unsigned char)ptr[i] != (h->canary & 0xFF)) return NM_CORRUPTED;
    return NM_OK;
}

static uint64_t next_random(nm_heap *h) { /* splitmix64, Steele, Lea and Flood 2014 */
    uint64_t z = nm__atomic_add(&h->random, 0x9E3779B97F4A7C15U);
    z = (z ^ (z >> 30)) * 0xBF58476D1CE4E5B9U;
    z = (z ^ (z >> 27)) * 0x94D049BB133111EBU;
    return z ^ (z >> 31);
}

/* As nm__cells_extend, for all cells, in random order. Their tails are cleared: in those of an earlier life of the
 * superblock a canary may stand that says of the cell that it was freed. */
static bool extend_shuffled(nm_heap *h, nm__cells *c, char *base) {
    uint16_t order[PAGE / 32]; /* with its tail no cell is smaller */
    uint32_t n = (c->end - c->fresh) / c->cell;
    for (uint32_t i = 0; i < n; i++) {
        uint32_t j = (uint32_t)(next_random(h) % (i + 1));
        order[i] = order[j];
        order[j] = (uint16_t)i;
    }
    for (uint32_t i = 0; i < n; i++) {
        char *cell = base + c->fresh + (size_t)order[i] * c->cell;
        tail *t = tail_of(cell, c->cell - TAIL);
        NM_UNPOISON(t, TAIL);
        *t = (tail){0, 0};
        NM_POISON(t, TAIL);
        nm__poke(cell, nm__link(h->key, cell, c->free));
        c->free = cell;
    }
    c->fresh = c->end;
    return n != 0;
}

static bool extend(nm_heap *h, nm__page *p) {
    return h->key != 0 ? extend_shuffled(h, &p->cells, nm__page_base(p)) : nm__cells_extend(&p->cells, nm__page_base(p));
}

static char *guard_of(const nm__page *p, size_t npages) { return nm__page_base(p) + npages * PAGE - guard_size(p); }

/* A system that cannot guard leaves the canaries. */
static void set_guard(const nm__page *p, size_t npages) {
    if (guard_size(p) != 0) (void)nm__os_guard(guard_of(p, npages), guard_size(p));
}

size_t nm_heap_usable(const nm_heap *h, size_t size, size_t align) {
    if (size == 0) return 0;
    if (h->key != 0) return size; /* what follows is watched */
    if (size <= NM_CELL_MAX && align <= NM_ALIGN_MAX) return nm__bin_sizes[aligned_bin(size, align)];
    return pages_for(size) * PAGE;
}

size_t nm_heap_usable_of(const void *ptr) {
    const nm__page *p = nm__page_of(ptr);
    const nm_heap *h = nm__heap_of_page(p);
    if (h->key != 0) return tail_of((char *)(uintptr_t)ptr, room_of(p))->size ^ h->key ^ (uintptr_t)ptr;
    return p->part != NULL ? p->cells.cell : (size_t)p->npages * PAGE;
}

const nm_heap *nm_heap_of(const void *ptr) {
    const nm__page *p = nm__page_at(ptr);
    if (p == NULL) return NULL;
    const nm__part *part = nm__part_at(p);
    if (part != NULL) { /* reads only what stays: any thread may ask */
        size_t offset = (size_t)((const char *)ptr - nm__page_base(p));
        return offset < p->cells.end && offset % p->cells.cell == 0 ? part->heap : NULL;
    }
    return nm__span_at(p) && ptr == nm__page_base(p) ? heap_of_span(p) : NULL;
}

nm_status nm__heap_measure(const void *ptr, size_t *size) {
    const nm__page *p = nm__page_of(ptr);
    const nm_heap *h = nm__heap_of_page(p);
    if (h->key != 0) return unseal(h, (char *)(uintptr_t)ptr, room_of(p), size);
    *size = nm_heap_usable_of(ptr);
    return NM_OK;
}

/* Follows lists that may change: each step is checked, and there are only so many. */
bool nm__heap_is_free(const void *ptr) {
    const nm__page *p = nm__page_at(ptr);
    nm__part *part = p == NULL ? NULL : nm__part_at(p);
    if (part == NULL) return false;
    uintptr_t key = part->heap->key;
    const char *base = nm__page_base(p);
    if ((uintptr_t)ptr - (uintptr_t)base >= p->cells.fresh) return true;
    const void *at = p->cells.free;
    for (uint32_t n = 0; n < p->cells.capacity && at != NULL && nm__cells_holds(&p->cells, base, 0, at); n++) {
        if (at == ptr) return true;
        at = nm__link(key, at, nm__peek(at));
    }
    at = atomic_load(&part->remote);
    for (size_t n = 0; n < FAR_MOST && nm_heap_of(at) == part->heap; n++) {
        if (at == ptr) return true;
        at = nm__link(key, at, nm__peek(at));
    }
    return false;
}

/* ---- what the heap holds -------------------------------------------------------------------------- */

/* quiet: a refusal is not yet a denial, because the caller can still make room. No peak before settle: the
 * region may have less than the budget allows. */
static bool charge(nm_heap *h, size_t npages, bool quiet) {
    bool (*hold)(nm_budget *, size_t) = quiet ? nm__budget_try : nm__budget_hold;
    size_t bytes = npages * PAGE;
    if (h->budget != NULL && !hold(h->budget, bytes)) return false;
    if (h->also != NULL && !hold(h->also, bytes)) {
        (void)nm_budget_release(h->budget, bytes);
        return false;
    }
    nm__atomic_add(&h->held, bytes);
    return true;
}

static void settle(nm_heap *h) {
    nm__atomic_max(&h->held_peak, nm__get(&h->held));
    if (h->budget != NULL) nm__budget_settle(h->budget);
    if (h->also != NULL) nm__budget_settle(h->also);
}

static void discharge(nm_heap *h, size_t npages) {
    size_t bytes = npages * PAGE;
    nm__atomic_sub(&h->held, bytes);
    if (h->budget != NULL) (void)nm_budget_release(h->budget, bytes);
    if (h->also != NULL) (void)nm_budget_release(h->also, bytes);
}

static nm__page *try_pages(nm_heap *h, size_t npages, nm__kind kind, bool want_zero, bool quiet) {
    if (!charge(h, npages, quiet)) return NULL;
    nm__page *p = nm__region_take(npages, kind, want_zero);
    if (p == NULL) discharge(h, npages);
    else settle(h);
    return p;
}

static void make_room(nm_heap *h);

/* What a thread keeps only for speed may be what stands in the way, so it is given up before the refusal. quiet: who asks
 * can do without, and a refusal is no denial. */
static nm__page *take_pages(nm_heap *h, size_t npages, nm__kind kind, bool want_zero, bool quiet) {
    nm__page *p = try_pages(h, npages, kind, want_zero, true);
    if (NM_LIKELY(p != NULL)) return p;
    make_room(h);
    p = try_pages(h, npages, kind, want_zero, quiet);
    if (p == NULL && !quiet) nm__atomic_add(&h->failures, 1);
    return p;
}

/* ---- superblocks ---------------------------------------------------------------------------------- */

static void push(nm__page **list, nm__page *p) {
    p->prev = NULL;
    p->next = *list;
    if (*list != NULL) (*list)->prev = p;
    *list = p;
}

static void pull(nm__page **list, nm__page *p) {
    if (p->prev != NULL) p->prev->next = p->next;
    else *list = p->next;
    if (p->next != NULL) p->next->prev = p->prev;
}

static nm__page *head_of(const nm__slot *slot) { return slot->page == &nm__no_page ? NULL : slot->page; }

static void ask_later(nm__cells *head) { nm__cells_report_at(head, nm__cells_used(head) - patience(head)); }

static void set_head(nm__slot *slot, nm__page *p) {
    slot->page = p;
    ask_later(&p->cells);
    p->cells.apart -= head_served(slot);
}

/* Pre: there is one. */
static nm__page *take_head(nm__slot *slot) {
    nm__page *head = slot->page;
    head->cells.apart += head_served(slot);
    slot->page = &nm__no_page;
    return head;
}

/* Pre: p is not the head, on no list, and not empty. */
static void let_wait_in(nm__part *part, nm__page *p, unsigned group) {
    p->group = (uint8_t)group;
    nm__cells_report_at(&p->cells, floor_of(&p->cells, group));
    push(&part->waiting[p->bin][group], p);
}

static void let_wait(nm__part *part, nm__page *p) { let_wait_in(part, p, group_of(&p->cells, nm__cells_used(&p->cells))); }

static void pull_waiting(nm__part *part, nm__page *p) { pull(&part->waiting[p->bin][p->group], p); }

/* Opens the guard behind a secure heap's pages; how many of them can go back. Where the system refuses, the last one
 * is taken out of use for good: whoever got it next would run into the guard. */
static size_t unguard(const nm_heap *h, nm__page *p, size_t npages) {
    if (h->key == 0 || guard_size(p) == 0 || nm__os_open(guard_of(p, npages), guard_size(p))) return npages;
    nm__region_retire(p + npages - 1);
    return npages - 1;
}

static void return_superblock(nm_heap *h, nm__page *p) {
    p->part = NULL;
    if (unguard(h, p, 1) != 0) nm__region_give(p, 1);
    discharge(h, 1);
}

/* The fullest of those that wait with cells to give, or NULL. */
static nm__page *fullest(const nm__part *part, size_t bin) {
    for (unsigned group = 1; group < NM__GROUPS; group++)
        if (part->waiting[bin][group] != NULL) return part->waiting[bin][group];
    return NULL;
}

static void set_waiting_head(nm__part *part, nm__page *p) {
    pull_waiting(part, p);
    set_head(&part->slots[p->bin], p);
}

/* A superblock that waits is less full than its group; or a head has given back many cells, and goes where a fuller one
 * waits: a block that stays for long, made after a peak, would keep an empty one of the peak's. An empty head stays where
 * there is no other. Not NM_COLD: gcc would take the fast path that calls it for cold, too. */
__attribute__((noinline)) void nm__part_trip(nm__page *p) {
    nm__part *part = p->part;
    nm__slot *slot = &part->slots[p->bin];
    if (p == slot->page) {
        nm__page *other = fullest(part, p->bin);
        uint32_t used = used_of(slot, p);
        if (other == NULL || (used != 0 && other->group >= group_of(&p->cells, used))) {
            ask_later(&p->cells);
            if (++part->trips % 16 == 0) nm__region_tick();
            return;
        }
        take_head(slot);
        set_waiting_head(part, other);
    } else {
        pull_waiting(part, p);
    }
    if (nm__cells_used(&p->cells) != 0) let_wait(part, p);
    else return_superblock(part->heap, p);
}

static void give_local(void *ptr, nm__page *p) {
    if (nm__cells_give(&p->cells, ptr, p->part->heap->key)) nm__part_trip(p);
}

static void collect(nm__part *part) {
    for (void *ptr = nm__remote_take(&part->remote), *next; ptr != NULL; ptr = next) {
        next = nm__link(part->heap->key, ptr, nm__peek(ptr));
        give_local(ptr, nm__page_of(ptr));
    }
}

static void return_empty_heads(nm__part *part) {
    for (size_t bin = 1; bin < NM_BINS; bin++) {
        nm__slot *slot = &part->slots[bin];
        const nm__page *head = head_of(slot);
        if (head != NULL && used_of(slot, head) == 0) return_superblock(part->heap, take_head(slot));
    }
}

/* Finds the slot a head with a free cell: of those that wait one of the fullest, so that others become empty (Berger,
 * McKinley, Blumofe and Wilson 2000, Hoard). */
static bool refill(nm__part *part, size_t bin) {
    nm__slot *slot = &part->slots[bin];
    nm__page *p = head_of(slot);
    if (p != NULL) {
        if (p->cells.free != NULL || extend(part->heap, p)) return true;
        let_wait(part, take_head(slot));
    }
    p = fullest(part, bin);
    if (p == NULL) return false;
    set_waiting_head(part, p);
    return p->cells.free != NULL || extend(part->heap, p);
}

/* Where nothing else is left: a superblock with a free cell or two. Pre: there is no head. */
static bool scrape(nm__part *part, size_t bin) {
    for (nm__page *p; (p = part->waiting[bin][0]) != NULL; let_wait_in(part, p, NM__FULL)) {
        if (p->cells.free != NULL) {
            set_waiting_head(part, p);
            return true;
        }
        pull_waiting(part, p);
    }
    return false;
}

/* As refill, with a new superblock if need be. */
static bool provide(nm__part *part, size_t bin, bool quiet) {
    if (refill(part, bin)) return true;
    collect(part);
    if (refill(part, bin)) return true;
    nm_heap *h = part->heap;
    nm__page *p = try_pages(h, 1, NM__SUPERBLOCK, false, true);
    if (p == NULL && scrape(part, bin)) return true;
    if (p == NULL) p = take_pages(h, 1, NM__SUPERBLOCK, false, quiet);
    if (p == NULL) return false;
    size_t bytes = PAGE;
    if (h->key != 0) {
        bytes -= guard_of_cells();
        set_guard(p, 1);
    }
    nm__cells_init(&p->cells, nm__bin_sizes[bin], 0, (uint32_t)bytes);
    p->bin = (uint8_t)bin;
    atomic_store_explicit((_Atomic(nm__part *) *)&p->part, part, memory_order_release);
    NM_POISON(nm__page_base(p), bytes);
    set_head(&part->slots[bin], p);
    return extend(h, p);
}

void *nm__part_alloc_slow(nm__part *part, size_t bin) { return provide(part, bin, false) ? nm__part_alloc(part, bin) : NULL; }

static void make_room(nm_heap *h) {
    nm__part *part = nm__heap_attach(h);
    if (part == NULL) return;
    collect(part);
    return_empty_heads(part);
}

/* ---- spans ---------------------------------------------------------------------------------------- */

static void *alloc_span(nm_heap *h, size_t size, bool want_zero, bool *zero, bool quiet) {
    size_t npages = pages_for(size);
    nm__page *p = take_pages(h, npages, NM__SPAN, want_zero, quiet);
    if (p == NULL) return NULL;
    if (zero != NULL) *zero = p->zero;
    p->cells.free = h; /* whose span it is; part stays NULL, which the fast path of free relies on */
    unsigned power = size <= 1 ? 0 : 64U - (unsigned)__builtin_clzll(size - 1);
    nm__atomic_add(&h->span_served[power < NM_SPAN_SIZES ? power : NM_SPAN_SIZES - 1], 1);
    nm__atomic_add(&h->live_spans_bytes, npages * PAGE);
    pthread_mutex_lock(&h->lock);
    push(&h->spans, p);
    pthread_mutex_unlock(&h->lock);
    return nm__page_base(p);
}

/* Under the heap's lock. */
static void drop_span(nm_heap *h, nm__page *p) {
    size_t npages = p->npages;
    if (h->key != 0) nm__wipe(nm__page_base(p), npages * PAGE - guard_of_span());
    pull(&h->spans, p);
    nm__atomic_sub(&h->live_spans_bytes, npages * PAGE);
    size_t open = unguard(h, p, npages);
    if (open != 0) nm__region_give(p, open);
    discharge(h, npages);
}

static void free_span(nm__page *p) {
    nm_heap *h = heap_of_span(p);
    pthread_mutex_lock(&h->lock);
    drop_span(h, p);
    pthread_mutex_unlock(&h->lock);
}

/* To more pages at another place. NULL: it is to be copied like anything else. */
static void *move_span(nm_heap *h, nm__page *p, size_t npages) {
    size_t now = p->npages, more = npages - now;
    if (npages <= now || !charge(h, more, true)) return NULL;
    pthread_mutex_lock(&h->lock);
    pull(&h->spans, p);
    pthread_mutex_unlock(&h->lock);
    nm__page *moved = nm__region_move(p, now, npages);
    if (moved != NULL) {
        settle(h);
        nm__atomic_add(&h->live_spans_bytes, more * PAGE);
    } else {
        discharge(h, more);
    }
    pthread_mutex_lock(&h->lock);
    push(&h->spans, moved != NULL ? moved : p);
    pthread_mutex_unlock(&h->lock);
    return moved == NULL ? NULL : nm__page_base(moved);
}

/* In place: to fewer pages, or to more where those behind are free. */
static bool resize_span(nm__page *p, size_t npages) {
    nm_heap *h = heap_of_span(p);
    size_t now = p->npages;
    if (npages < now) {
        p->npages = (uint32_t)npages;
        nm__region_give(p + npages, now - npages);
        discharge(h, now - npages);
        nm__atomic_sub(&h->live_spans_bytes, (now - npages) * PAGE);
    } else if (npages > now) {
        if (!charge(h, npages - now, true)) return false;
        if (!nm__region_extend(p, now, npages - now)) {
            discharge(h, npages - now);
            return false;
        }
        settle(h);
        nm__atomic_add(&h->live_spans_bytes, (npages - now) * PAGE);
    }
    return true;
}

/* ---- parts and threads ---------------------------------------------------------------------------- */

/* A part that no thread owns is collected by whoever frees into it, so that its memory does not wait for
 * a thread to take it over. Pushing comes before looking at the state, abandoning before collecting: one
 * of the two sees the other. */
static void collect_abandoned(nm__part *part) {
    while (atomic_load(&part->remote) != NULL) {
        int expected = NM__ABANDONED;
        if (!atomic_compare_exchange_strong(&part->state, &expected, NM__BUSY)) return;
        collect(part);
        return_empty_heads(part);
        atomic_store(&part->state, NM__ABANDONED);
    }
}

static void abandon(nm__part *part) {
    collect(part);
    return_empty_heads(part);
    atomic_store(&part->thread, 0); /* first: nobody may take the next owner's for its own */
    atomic_store(&part->state, NM__ABANDONED);
    collect_abandoned(part);
}

static void free_cell_far(nm__part *part, void *ptr) {
    NM_POISON(ptr, nm__page_in(ptr)->cells.cell);
    nm__remote_push(&part->remote, ptr, part->heap->key);
    if (atomic_load(&part->state) == NM__ABANDONED) collect_abandoned(part);
}

/* A part that its thread is not using now keeps no empty head: who knows when it does again. */
static void give_aside(nm__part *part, void *ptr, nm__page *p) {
    nm__slot *slot = &part->slots[p->bin];
    give_local(ptr, p);
    if (p != slot->page || used_of(slot, p) != 0) return; /* where it was returned it is no head any more */
    return_superblock(part->heap, take_head(slot));
}

static void free_cell(nm__part *part, void *ptr, nm__page *p) {
    if (nm__mine[part->heap->slot] == part || (last_mine.part == part && last_mine.heap == part->heap->number))
        give_local(ptr, p);
    else if (atomic_load_explicit(&part->thread, memory_order_relaxed) == nm__thread_id()) give_aside(part, ptr, p);
    else free_cell_far(part, ptr);
}

/* Nothing is touched before the block is known for one. */
static nm_status secure_free(nm_heap *h, char *ptr, nm__page *p) {
    size_t size, room = room_of(p), offset = (size_t)(ptr - nm__page_base(p));
    nm__part *part = p->part;
    if (part != NULL ? offset % p->cells.cell != 0 || offset >= p->cells.end : offset != 0) return NM_FOREIGN_BLOCK;
    nm_status status = unseal(h, ptr, room, &size);
    if (status != NM_OK) return status;
    if (part == NULL) {
        free_span(p);
        return NM_OK;
    }
    nm__wipe(ptr, room);
    *tail_of(ptr, room) = (tail){0, freed_canary(h, ptr)};
    free_cell(part, ptr, p);
    return NM_OK;
}

/* not NM_COLD, as above */
__attribute__((noinline)) nm_status nm__heap_free_far(nm_heap *caller, void *ptr, nm__page *p) {
    (void)caller;
    nm__part *part = p->part;
    if (part == NULL && p->kind != NM__SPAN) /* neither a cell nor the start of a span */
        return nm__fail(NM_FOREIGN_BLOCK, 0, 0, 0);
    nm_heap *h = part != NULL ? part->heap : heap_of_span(p);
    if (h->key != 0) {
        nm_status status = secure_free(h, ptr, p);
        return status == NM_OK ? NM_OK : nm__fail(status, 0, 0, 0);
    }
    if (part == NULL) free_span(p);
    else free_cell(part, ptr, p);
    return NM_OK;
}

static void list_thread(void) {
    if (this_thread.listed || this_thread.ended) return;
    pthread_mutex_lock(&heaps.lock);
    this_thread = (thread_entry){.mine = nm__mine, .next = heaps.threads, .listed = true};
    if (heaps.threads != NULL) heaps.threads->prev = &this_thread;
    heaps.threads = &this_thread;
    pthread_mutex_unlock(&heaps.lock);
}

/* Under the lock of heaps. */
static void unlist_thread(void) {
    if (this_thread.prev != NULL) this_thread.prev->next = this_thread.next;
    else if (this_thread.listed) heaps.threads = this_thread.next;
    if (this_thread.next != NULL) this_thread.next->prev = this_thread.prev;
    this_thread = (thread_entry){.ended = true};
}

static void thread_ends(void) {
    uintptr_t me = nm__thread_id();
    pthread_mutex_lock(&heaps.lock);
    unlist_thread();
    for (unsigned i = 0; i < NM__TLS_SLOTS; i++) nm__mine[i] = &nm__no_part;
    last_mine.heap = 0;
    memset(turns, 0, sizeof turns);
    for (nm_heap *h = heaps.first; h != NULL; h = h->next) {
        pthread_mutex_lock(&h->lock);
        for (nm__part *part = h->parts; part != NULL; part = part->next)
            if (atomic_load(&part->thread) == me) abandon(part);
        pthread_mutex_unlock(&h->lock);
    }
    pthread_mutex_unlock(&heaps.lock);
}

/* Found, taken over, or made. */
static nm__part *find_part(nm_heap *h) {
    uintptr_t me = nm__thread_id();
    nm__part *part;
    list_thread();
    pthread_mutex_lock(&h->lock);
    for (part = h->parts; part != NULL; part = part->next)
        if (atomic_load(&part->thread) == me) goto found;
    for (part = h->parts; part != NULL; part = part->next) {
        int expected = NM__ABANDONED;
        if (atomic_compare_exchange_strong(&part->state, &expected, NM__OWNED)) goto adopted;
    }
    void *memory = nm__meta_alloc(sizeof *part + _Alignof(nm__part));
    if (memory == NULL) {
        pthread_mutex_unlock(&h->lock);
        return NULL;
    }
    part = (nm__part *)(((uintptr_t)memory + _Alignof(nm__part) - 1) & ~(uintptr_t)(_Alignof(nm__part) - 1));
    part->memory = memory;
    for (size_t bin = 0; bin < NM_BINS; bin++) part->slots[bin].page = &nm__no_page;
    part->heap = h;
    part->next = h->parts;
    h->parts = part;
adopted:
    atomic_store(&part->thread, me);
found:
    pthread_mutex_unlock(&h->lock);
    nm__arm_thread_end();
    return part;
}

static NM_COLD nm__part *part_slow(nm_heap *h) {
    if (last_mine.heap == h->number) return last_mine.part;
    nm__part *part = find_part(h);
    if (part == NULL) return NULL;
    if (h->slot == NM__NO_SLOT || this_thread.ended) {
        last_mine.heap = h->number;
        last_mine.part = part;
    } else {
        nm__mine[h->slot] = part;
    }
    return part;
}

NM_INLINE nm__part *attach(nm_heap *h) {
    nm__part *part = nm__mine[h->slot];
    return NM_LIKELY(part != &nm__no_part) ? part : part_slow(h);
}
nm__part *nm__heap_attach(nm_heap *h) { return attach(h); }

/* A thread that has ended, and a secure heap, have nothing in a slot: their calls look the part up. */
void nm__heap_enter(nm_heap *h) {
    nm__mine[NM__CLAIMED_SLOT] = &nm__no_part;
    if (h->key != 0 || this_thread.ended) return;
    known_part *turn = &turns[h->number % TURNS];
    if (turn->heap != h->number) {
        nm__part *part = find_part(h);
        if (part == NULL) return;
        *turn = (known_part){h->number, part};
    }
    nm__mine[NM__CLAIMED_SLOT] = turn->part;
}

void nm__heap_leave(nm_heap *h) {
    uintptr_t me = nm__thread_id();
    known_part *turn = &turns[h->number % TURNS];
    if (turn->heap == h->number) turn->heap = 0;
    if (last_mine.heap == h->number) last_mine.heap = 0;
    if (nm__mine[NM__CLAIMED_SLOT]->heap == h) nm__mine[NM__CLAIMED_SLOT] = &nm__no_part;
    pthread_mutex_lock(&h->lock);
    for (nm__part *part = h->parts; part != NULL; part = part->next)
        if (atomic_load(&part->thread) == me) abandon(part);
    pthread_mutex_unlock(&h->lock);
}

size_t nm__heap_held(const nm_heap *h) { return nm__get_first(&h->held); }

/* ---- fork: the child keeps the parts of threads that it does not have -------------------------------- */

static void before_fork(void) {
    pthread_mutex_lock(&heaps.lock);
    for (nm_heap *h = heaps.first; h != NULL; h = h->next) pthread_mutex_lock(&h->lock);
    nm__region_before_fork();
}

static void after_fork_of(bool child) {
    nm__region_after_fork(child);
    for (nm_heap *h = heaps.first; h != NULL; h = h->next) pthread_mutex_unlock(&h->lock);
    pthread_mutex_unlock(&heaps.lock);
}

/* Parts of the other threads stay owned by threads that are no more: one of those may have stood in the
 * middle of a change when the process was copied. Their live blocks stay valid; frees of them queue up. */
static void in_child(void) {
    heaps.threads = this_thread.listed ? &this_thread : NULL;
    this_thread.prev = this_thread.next = NULL;
    after_fork_of(true);
}

static void in_parent(void) { after_fork_of(false); }

/* The handlers before a fork run in reverse order, and budgets' lock is taken with a heap's held: so theirs is the first
 * to be registered. */
static void once(void) {
    nm__at_thread_end(thread_ends);
    nm__budget_see_to_forks();
    (void)pthread_atfork(before_fork, in_parent, in_child);
}

/* ---- malloc's shape ------------------------------------------------------------------------------- */

/* A free cell of a secure heap is still as its free left it, or somebody has written through a dangling pointer. */
static bool is_untouched(const nm_heap *h, const nm__page *p, char *ptr) {
    size_t room = room_of(p);
    const void *next = nm__link(h->key, ptr, *(void **)(void *)ptr);
    if (next != NULL && !nm__cells_holds(&p->cells, nm__page_base(p), 0, next)) return false;
    if (tail_of(ptr, room)->canary != freed_canary(h, ptr)) return true; /* its first use */
    for (size_t i = sizeof(void *); i < room + sizeof(uintptr_t); i++)
        if (ptr[i] != 0) return false;
    return true;
}

/* To wipe memory that is resident costs a small part of the page faults that memory zeroed by the system costs when it is
 * touched. From here on that is preferred, as with glibc: most of so large a block may never be touched. */
#define FRESH_ZERO ((size_t)32 << 20)

static void *secure_alloc(nm_heap *h, size_t size, size_t align, bool *zero, bool quiet) {
    if (size > NM_CELL_MAX - TAIL || align > NM_ALIGN_MAX) {
        bool want_zero = zero != NULL && size >= FRESH_ZERO;
        char *ptr = alloc_span(h, size + TAIL + guard_of_span(), want_zero, zero, quiet);
        if (ptr == NULL) return NULL;
        const nm__page *p = nm__page_of(ptr);
        set_guard(p, p->npages);
        return seal(h, ptr, size, room_of(p));
    }
    nm__part *part = nm__heap_attach(h);
    if (part == NULL) return NULL;
    size_t bin = aligned_bin(size + TAIL, align);
    nm__slot *slot = &part->slots[bin];
    if (slot->page->cells.free == NULL && !provide(part, bin, quiet)) return NULL;
    nm__page *p = slot->page;
    NM_REOPEN(p->cells.free, p->cells.cell);
    if (!is_untouched(h, p, p->cells.free)) return nm_refuse(NM_CORRUPTED, size, 0, 0);
    nm__bump(&slot->served, 1);
    return seal(h, nm__cells_pop(&p->cells, h->key), size, room_of(p));
}

static NM_COLD void *malloc_slow(nm_heap *h, size_t size, bool quiet) {
    if (size > NM_SIZE_MAX) return nm_refuse(NM_INVALID_LAYOUT, size, 0, 0);
    size += size == 0;
    if (NM_UNLIKELY(h->key != 0)) return secure_alloc(h, size, 1, NULL, quiet);
    if (size > NM_CELL_MAX) return alloc_span(h, size, false, NULL, quiet);
    nm__part *part = nm__heap_attach(h);
    if (NM_UNLIKELY(part == NULL)) return NULL;
    size_t bin = nm__bin_of(size);
    void *ptr = nm__part_alloc(part, bin);
    if (NM_LIKELY(ptr != NULL)) return ptr;
    return provide(part, bin, quiet) ? nm__part_alloc(part, bin) : NULL;
}

NM_INLINE void *heap_malloc(nm_heap *h, size_t size, bool quiet) {
    nm__part *part = nm__mine[h->slot];
    void *ptr = NULL;
    if (NM_LIKELY(size <= NM__FINE)) ptr = nm__part_alloc(part, nm__fine_bin(size));
    else if (size <= NM_CELL_MAX) ptr = nm__part_alloc(part, nm__bin_of(size));
    return NM_LIKELY(ptr != NULL) ? ptr : malloc_slow(h, size, quiet);
}

void *nm_heap_malloc(nm_heap *h, size_t size) { return heap_malloc(h, size, false); }
void *nm__heap_try(nm_heap *h, size_t size) { return heap_malloc(h, size, true); }

static void *heap_calloc(nm_heap *h, size_t bytes, bool quiet) {
    if (bytes > NM_SIZE_MAX) return nm_refuse(NM_INVALID_LAYOUT, SIZE_MAX, 0, 0);
    bool zero = false;
    void *ptr;
    if (h->key != 0 && bytes > NM_CELL_MAX) ptr = secure_alloc(h, bytes, 1, &zero, quiet);
    else if (bytes <= NM_CELL_MAX) ptr = heap_malloc(h, bytes, quiet);
    else ptr = alloc_span(h, bytes, bytes >= FRESH_ZERO, &zero, quiet);
    if (ptr != NULL && !zero) memset(ptr, 0, bytes);
    return ptr;
}

void *nm_heap_calloc(nm_heap *h, size_t count, size_t size) {
    size_t bytes;
    return heap_calloc(h, nm_mul(count, size, &bytes) ? bytes : SIZE_MAX, false);
}
void *nm__heap_try_calloc(nm_heap *h, size_t bytes) { return heap_calloc(h, bytes, true); }

nm_status nm_heap_free(nm_heap *h, void *ptr) { return nm__part_free(h, nm__mine[h->slot], ptr, nm__page_in(ptr)); }

/* A block that shrinks and finds no smaller place stays: NULL then, but nothing was denied. */
static void *move_to(void *moved, nm_heap *h, void *ptr, size_t old, size_t size) {
    if (moved == NULL) return NULL;
    memcpy(moved, ptr, old < size ? old : size);
    (void)nm_heap_free(h, ptr);
    return moved;
}

static void *move(nm_heap *h, void *ptr, size_t old, size_t size, bool quiet) {
    return move_to(heap_malloc(h, size, quiet || size <= old), h, ptr, old, size);
}

/* In the block's own cell or span, if its tail is whole. */
static nm_status secure_resize(char *ptr, size_t size) {
    const nm__page *p = nm__page_of(ptr);
    const nm_heap *h = nm__heap_of_page(p);
    size_t old, room = room_of(p);
    nm_status status = unseal(h, ptr, room, &old);
    if (status != NM_OK) return status;
    if (size > room) return NM_EXHAUSTED;
    (void)seal(h, ptr, size, room);
    return NM_OK;
}

static NM_COLD void *secure_realloc(nm_heap *h, char *ptr, size_t size, size_t align, bool quiet) {
    const nm__page *p = nm__page_of(ptr);
    const nm_heap *whose = nm__heap_of_page(p);
    size_t old, room = room_of(p);
    if (size > NM_SIZE_MAX) return nm_refuse(NM_INVALID_LAYOUT, size, 0, 0);
    nm_status status = unseal(whose, ptr, room, &old);
    if (status != NM_OK) return nm_refuse(status, size, 0, 0);
    size += size == 0;
    if (size <= room && (size >= old || nm__wastes_little(size, room))) return seal(whose, ptr, size, room);
    void *moved = move_to(secure_alloc(h, size, align, NULL, quiet || size <= old), h, ptr, old, size);
    return moved != NULL || size > room ? moved : seal(whose, ptr, size, room);
}

void *nm__heap_malloc_at(nm_heap *h, size_t size, size_t align, bool zeroed) {
    if (size > NM_SIZE_MAX) return nm_refuse(NM_INVALID_LAYOUT, size, 0, 0);
    size += size == 0;
    bool zero = false;
    void *ptr = secure_alloc(h, size, align, zeroed ? &zero : NULL, false);
    if (ptr != NULL && zeroed && !zero) memset(ptr, 0, size);
    return ptr;
}

void *nm__heap_realloc_at(nm_heap *h, void *ptr, size_t size, size_t align) {
    return secure_realloc(h, ptr, size, align, false);
}

NM_INLINE void *heap_realloc(nm_heap *h, void *ptr, size_t size, bool quiet) {
    nm__page *p = nm__page_of(ptr);
    size_t old;
    if (NM_UNLIKELY(h->key != 0)) return secure_realloc(h, ptr, size, 1, quiet);
    if (p->part != NULL) {
        old = p->cells.cell;
        if (size <= old && nm__heap_stays(size, old)) return ptr;
    } else {
        old = (size_t)p->npages * PAGE;
        /* One of another heap's does not grow here: it is for this one to be charged, and to refuse. */
        bool may = size <= old || heap_of_span(p) == h;
        if (may && size > NM_CELL_MAX && size <= NM_SIZE_MAX) {
            if (resize_span(p, pages_for(size))) return ptr;
            void *moved = move_span(h, p, pages_for(size));
            if (moved != NULL) return moved;
        }
    }
    void *moved = move(h, ptr, old, size + (size == 0), quiet);
    return moved != NULL || size > old ? moved : ptr;
}

void *nm_heap_realloc(nm_heap *h, void *ptr, size_t size) { return heap_realloc(h, ptr, size, false); }
void *nm__heap_try_realloc(nm_heap *h, void *ptr, size_t size) { return heap_realloc(h, ptr, size, true); }

/* ---- the port ------------------------------------------------------------------------------------- */

/* Counted in this thread's part. A block freed by another thread is counted there, so only the sum over
 * the parts means anything; a part's peak is of its own sum, exact as long as one thread uses the heap. */
NM_INLINE void count_out(nm__part *part, size_t size) {
    size_t out = nm__get(&part->out) + size, back = nm__get(&part->back);
    nm__set(&part->out, out);
    nm__bump(&part->total, size);
    if (out > back && out - back > nm__get(&part->peak)) nm__set(&part->peak, out - back);
}

NM_INLINE void *count_alloc(nm__part *part, void *ptr, size_t size) {
    nm__bump(&part->count, 1);
    count_out(part, size);
    return ptr;
}

/* Only where the size is known: of malloc's shape the whole cell is the block. */
NM_INLINE void watch_slack(void *ptr, size_t size) { NM_POISON((char *)ptr + size, nm_heap_usable_of(ptr) - size); }

static NM_COLD void *alloc_slow(nm_heap *h, nm__part *part, size_t size, size_t align) {
    void *ptr;
    if (size <= NM_CELL_MAX && align <= NM_ALIGN_MAX) ptr = nm__part_alloc_slow(part, aligned_bin(size, align));
    else ptr = alloc_span(h, size, false, NULL, false); /* spans start at multiples of NM_SLOT_ALIGN_MAX */
    if (ptr == NULL) return NULL;
    watch_slack(ptr, size);
    return count_alloc(part, ptr, size);
}

static void *heap_alloc(void *self, size_t size, size_t align) {
    nm_heap *h = self;
    nm__part *part = attach(h);
    if (NM_UNLIKELY(part == NULL)) return NULL;
    if (NM_LIKELY(size <= NM_CELL_MAX && align <= NM_ALIGN_MAX)) {
        void *ptr = nm__part_alloc(part, aligned_bin(size, align));
        if (NM_LIKELY(ptr != NULL)) {
            watch_slack(ptr, size);
            return count_alloc(part, ptr, size);
        }
    }
    return alloc_slow(h, part, size, align);
}

static void *secure_port_alloc(void *self, size_t size, size_t align) {
    nm_heap *h = self;
    nm__part *part = attach(h);
    void *ptr = part == NULL ? NULL : secure_alloc(h, size, align, NULL, false);
    return ptr == NULL ? NULL : count_alloc(part, ptr, size);
}

/* Blocks of the same are resized in place. */
static size_t size_class(const nm_heap *h, size_t size, size_t align) {
    bool secure = h->key != 0;
    size_t whole = size + (secure ? TAIL : 0);
    if (whole <= NM_CELL_MAX && align <= NM_ALIGN_MAX) return nm__bin_sizes[aligned_bin(whole, align)];
    return pages_for(whole + (secure ? guard_of_span() : 0)) * PAGE;
}

static bool heap_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    nm_heap *h = self;
    if (size_class(h, old, align) != size_class(h, size, align)) return false;
    nm__part *part = attach(h);
    if (part == NULL) return false;
    if (h->key != 0) {
        nm_status status = secure_resize(ptr, size);
        if (status != NM_OK) return nm__fail(status, size, 0, 0), false;
    } else if (size > old) {
        NM_UNPOISON((char *)ptr + old, size - old);
    } else {
        NM_POISON((char *)ptr + size, old - size);
    }
    if (size > old) count_out(part, size - old);
    else nm__bump_last(&part->back, old - size);
    return true;
}

static nm_status heap_free(void *self, void *ptr, size_t size, size_t align) {
    nm_heap *h = self;
    (void)align;
    nm__page *p = nm__page_of(ptr);
    if (NM_UNLIKELY(p == NULL)) return nm__fail(NM_FOREIGN_BLOCK, size, 0, 0);
    if (p->part != NULL ? p->part->heap != h : p->kind != NM__SPAN || heap_of_span(p) != h)
        return nm__fail(NM_FOREIGN_BLOCK, size, 0, 0);
    nm__part *part = attach(h);
    if (NM_UNLIKELY(part == NULL)) return NM_OUT_OF_MEMORY;
    nm_status status = nm__part_free(h, h->key != 0 ? &nm__no_part : part, ptr, p);
    if (NM_UNLIKELY(status != NM_OK)) return status;
    nm__bump_last(&part->frees, 1);
    nm__bump_last(&part->back, size);
    return NM_OK;
}

static void heap_stats(void *self, nm_stats *out) {
    nm_heap *h = self;
    *out = (nm_stats){.reserved = nm__get(&h->held), .failures = nm__get(&h->failures)};
    size_t given = 0, back = 0;
    pthread_mutex_lock(&h->lock);
    /* In two rounds: a block may come from one part and go back through another. */
    for (nm__part *part = h->parts; part != NULL; part = part->next) {
        back += nm__get_first(&part->back);
        out->frees += nm__get_first(&part->frees);
    }
    for (nm__part *part = h->parts; part != NULL; part = part->next) {
        given += nm__get(&part->out);
        out->peak += nm__get(&part->peak);
        out->total += nm__get(&part->total);
        out->count += nm__get(&part->count);
    }
    pthread_mutex_unlock(&h->lock);
    out->used = given - back;
    if (out->peak < out->used) out->peak = out->used;
    out->live = out->count - out->frees;
}

static const nm_methods heap_methods = {heap_alloc, heap_resize, heap_free, heap_stats};

static const nm_methods secure_methods = {secure_port_alloc, heap_resize, heap_free, heap_stats};

nm_allocator nm_heap_port(nm_heap *h) { return (nm_allocator){h, h->key != 0 ? &secure_methods : &heap_methods}; }

/* ---- life ----------------------------------------------------------------------------------------- */

/* Both under the lock of heaps. */
static void take_slot(nm_heap *h, size_t from) {
    size_t slot = from;
    while (slot != NM__NO_SLOT && heaps.taken[slot]) slot++;
    if (slot != NM__NO_SLOT) heaps.taken[slot] = true;
    h->slot = slot;
}

static void leave_slot(nm_heap *h) {
    if (h->slot == NM__NO_SLOT) return;
    if (h->shares) {
        if (nm__mine[h->slot]->heap == h) nm__mine[h->slot] = &nm__no_part;
        return;
    }
    for (thread_entry *t = heaps.threads; t != NULL; t = t->next) t->mine[h->slot] = &nm__no_part;
    heaps.taken[h->slot] = false;
    h->slot = NM__NO_SLOT;
}

nm_heap *nm_heap_create(nm_budget *budget, bool secure) {
    static pthread_once_t done = PTHREAD_ONCE_INIT;
    (void)pthread_once(&done, once);
    if (nm__region_pages == 0) return nm_refuse(NM_OUT_OF_MEMORY, 0, 0, 0);
    nm_heap *h = nm__meta_alloc(sizeof *h);
    if (h == NULL) return NULL;
    (void)pthread_mutex_init(&h->lock, NULL);
    h->budget = budget;
    if (secure) {
        h->key = (uintptr_t)nm__os_random() | 1;
        h->canary = (uintptr_t)nm__os_random();
        nm__set(&h->random, (size_t)nm__os_random());
    }
    pthread_mutex_lock(&heaps.lock);
    h->number = ++heaps.numbers;
    h->slot = NM__NO_SLOT;
    if (!secure) take_slot(h, NM__CLAIMED_SLOT + 1);
    h->next = heaps.first;
    heaps.first = h;
    pthread_mutex_unlock(&heaps.lock);
    return h;
}

void nm__heap_claim(nm_heap *h) {
    if (h->key != 0) return;
    pthread_mutex_lock(&heaps.lock);
    leave_slot(h);
    take_slot(h, NM__CLAIMED_SLOT);
    pthread_mutex_unlock(&heaps.lock);
}

void nm__heap_share(nm_heap *h, nm_budget *also) {
    h->also = also;
    if (h->key != 0) return;
    pthread_mutex_lock(&heaps.lock);
    leave_slot(h);
    h->shares = true;
    h->slot = NM__CLAIMED_SLOT;
    pthread_mutex_unlock(&heaps.lock);
}

static void drop_superblock(nm_heap *h, nm__page *p) {
    if (h->key != 0) {
        NM_UNPOISON(nm__page_base(p), PAGE - guard_of_cells());
        nm__wipe(nm__page_base(p), PAGE - guard_of_cells());
    }
    return_superblock(h, p);
}

void nm_heap_clear(nm_heap *h) {
    pthread_mutex_lock(&h->lock);
    for (nm__part *part = h->parts; part != NULL; part = part->next) {
        atomic_store(&part->remote, NULL);
        for (size_t bin = 1; bin < NM_BINS; bin++) {
            if (head_of(&part->slots[bin]) != NULL) drop_superblock(h, take_head(&part->slots[bin]));
            for (unsigned group = 0; group <= NM__FULL; group++)
                for (nm__page *p; (p = part->waiting[bin][group]) != NULL; drop_superblock(h, p)) pull_waiting(part, p);
        }
        nm__set_last(&part->back, nm__get(&part->out));
        nm__set_last(&part->frees, nm__get(&part->count));
    }
    while (h->spans != NULL) drop_span(h, h->spans);
    pthread_mutex_unlock(&h->lock);
}

void nm_heap_destroy(nm_heap *h) {
    if (h == NULL) return;
    nm_heap_clear(h);
    pthread_mutex_lock(&heaps.lock);
    nm_heap **link = &heaps.first;
    while (*link != h) link = &(*link)->next;
    *link = h->next;
    leave_slot(h);
    pthread_mutex_unlock(&heaps.lock);
    while (h->parts != NULL) {
        nm__part *part = h->parts;
        h->parts = part->next;
        nm__meta_free(part->memory);
    }
    (void)pthread_mutex_destroy(&h->lock);
    nm__meta_free(h);
}

void nm_heap_trim(nm_heap *h) {
    nm__part *part = attach(h);
    pthread_mutex_lock(&h->lock);
    if (part != NULL) {
        collect(part);
        return_empty_heads(part);
    }
    pthread_mutex_unlock(&h->lock);
    nm_region_trim();
}

void nm_heap_census(nm_heap *h, nm_census *out) {
    *out = (nm_census){.held = nm__get(&h->held), .held_peak = nm__get(&h->held_peak)};
    out->live_span_bytes = nm__get(&h->live_spans_bytes);
    for (unsigned i = 0; i < NM_SPAN_SIZES; i++) out->span_allocations[i] = nm__get(&h->span_served[i]);
    pthread_mutex_lock(&h->lock);
    for (const nm__part *part = h->parts; part != NULL; part = part->next) {
        out->threads++;
        for (size_t bin = 1; bin < NM_BINS; bin++) {
            out->allocations[bin] += nm__get(&part->slots[bin].served);
        }
    }
    pthread_mutex_unlock(&h->lock);
}
