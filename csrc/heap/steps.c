/* Steps: what a superblock is charged in, and gives up by (decision 75).
 *
 * A step is 16 KiB of a superblock, or a page of the system's, where that is larger, so that what is charged is all that may
 * be resident. The heap is charged with it when a cell that touches it is first used, or with all of the superblock at once,
 * where the bin has filled others: a charge costs as much as some cells. A step that no used cell touches any more can be shed:
 * its memory goes back to the system, the heap is discharged, and the cells that touch it leave the free list. They come back,
 * charged again, before cells that never were used. Superblocks shed when a heap is trimmed and before it refuses a block; so
 * what a cell that stays keeps then is the steps that it touches, not its superblock.
 *
 * What it cannot do: shed a step of another thread's superblock. A secure superblock is charged wholly and sheds nothing: where
 * its free cells lie is not to be learnt.
 *
 * Invariants, checked by nm__steps_check:
 *   a step that is shed is touched by a cell below fresh, by no used one, and by none on the free list
 *   charged == pages of the steps that cells below fresh touch, but those that are shed;  of a secure superblock: all
 *   but where none is shed it may be charged with some that follow, ahead */
#include "heap/internal.h"

_Static_assert(NM_SUPERBLOCK % NM_HEAP_CHARGED_AT_ONCE == 0, "a superblock has whole steps");
_Static_assert(NM_SUPERBLOCK_LARGE / NM_HEAP_CHARGED_AT_ONCE <= 16, "a superblock's mask has a bit for each");

/* Bytes of a step are a power of two: nothing is divided by them. */
static unsigned step_shift(void) {
    size_t step = nm__region_os_page > NM_HEAP_CHARGED_AT_ONCE ? nm__region_os_page : NM_HEAP_CHARGED_AT_ONCE;
    return (unsigned)__builtin_ctzl(step);
}
static uint32_t step_bytes(void) { return 1U << step_shift(); }
static unsigned step_pages(void) { return step_bytes() / NM_PAGE; }
/* How many so many bytes touch, from a step's start. */
static unsigned steps_for(uint32_t bytes) { return (bytes + step_bytes() - 1) >> step_shift(); }

/* The steps of the first so many bytes. */
static unsigned steps_below(uint32_t offset) { return (1U << steps_for(offset)) - 1; }
/* Those that the cell at an offset touches. */
static unsigned steps_of(const nm__cells *c, uint32_t offset) {
    return steps_below(offset + c->cell) & ~((1U << (offset >> step_shift())) - 1);
}
static unsigned steps_count(unsigned steps) { return (unsigned)__builtin_popcount(steps); }

/* Pages that it has to be charged with. */
static unsigned steps_paid(const nm__superblock *sb) {
    return steps_count(steps_below(sb->cells.fresh) & ~(unsigned)sb->shed) * step_pages();
}

size_t nm__steps_charge(const nm__cells *c) { return (size_t)steps_for(nm__cells_stop(c)) * step_pages(); }

bool nm__steps_are_shed(const nm__superblock *sb, size_t offset) {
    return (steps_of(&sb->cells, (uint32_t)offset) & sb->shed) != 0;
}

uint32_t nm__steps_cells_shed(const nm__superblock *sb) {
    uint32_t n = 0;
    for (uint32_t at = 0; sb->shed != 0 && at < sb->cells.fresh; at += sb->cells.cell) n += nm__steps_are_shed(sb, at);
    return n;
}

const char *nm__steps_check(const nm__superblock *sb, bool secure) {
    const char *base = nm__superblock_base(sb);
    unsigned below = steps_below(sb->cells.fresh);
    size_t pages = nm__bin_superblock(sb->bin) / NM_PAGE;
    if ((sb->shed & ~below) != 0 || (secure && sb->shed != 0)) return "a superblock shed what it never had";
    bool ahead = !secure && sb->shed == 0 && sb->charged > steps_paid(sb);
    if (sb->charged > pages || (!ahead && sb->charged != (secure ? pages : steps_paid(sb))))
        return "a superblock is charged with more or less than it has";
    for (const char *at = sb->cells.free; sb->shed != 0 && at != NULL; at = nm__peek(at))
        if (nm__steps_are_shed(sb, (size_t)(at - base))) return "a cell that was shed is on the free list";
    return NULL;
}

static bool steps_pay(nm_heap *h, nm__superblock *sb, unsigned pages) {
    if (!nm__heap_charge(h, pages, true)) return false;
    nm__heap_settle(h);
    sb->charged = (uint8_t)(sb->charged + pages);
    return true;
}

/* Takes back the steps that the first cell that is shed touches, and puts the cells there on the free list. false: refused. */
static __attribute__((noinline)) bool steps_take_back(nm_heap *h, nm__superblock *sb) {
    nm__cells *c = &sb->cells;
    uint32_t lowest = ((uint32_t)__builtin_ctz(sb->shed) << step_shift()) / c->cell * c->cell;
    unsigned back = steps_of(c, lowest) & sb->shed;
    if (!steps_pay(h, sb, steps_count(back) * step_pages())) return false;
    sb->shed = (uint16_t)(sb->shed & ~back);
    char *base = nm__superblock_base(sb);
    for (uint32_t at = c->fresh; at > lowest;) { /* downwards: the list leads upwards, as memory is fetched ahead */
        at -= c->cell;
        unsigned steps = steps_of(c, at);
        if ((steps & back) == 0 || (steps & sb->shed) != 0) continue;
        nm__poke(base + at, c->free);
        c->free = base + at;
    }
    return true;
}

/* Pays for the next stretch, as far as it is not paid for. false: refused. */
static __attribute__((noinline)) bool steps_pay_stretch(nm_heap *h, nm__superblock *sb) {
    uint32_t paid = sb->charged * (uint32_t)NM_PAGE, stop = nm__cells_stop(&sb->cells);
    return stop <= paid || steps_pay(h, sb, steps_for(stop - paid) * step_pages());
}

/* Blocks of one size that come and go by the superblock pass here for every few of them: what is rare is called, so that the
 * rest keeps nothing on the stack for it. */
bool nm__steps_extend(nm_heap *h, nm__superblock *sb) {
    nm__cells *c = &sb->cells;
    NM_ASSERT(c->free == NULL && h->key == 0);
    if (NM_UNLIKELY(sb->shed != 0)) return steps_take_back(h, sb);
    /* Mostly the next stretch is paid for: that is seen without a division. */
    uint32_t paid = sb->charged * (uint32_t)NM_PAGE, stretch = c->cell < NM_CELLS_STRETCH ? NM_CELLS_STRETCH : c->cell;
    if (c->fresh + stretch > paid && !steps_pay_stretch(h, sb)) return false;
    return nm__cells_extend(c, nm__superblock_base(sb));
}

/* Cells on the free list, by number. */
typedef struct cell_set {
    uint64_t bits[NM_SUPERBLOCK / 16 / 64]; /* a larger superblock has fewer */
} cell_set;
static bool cell_set_has(const cell_set *set, uint32_t cell) { return (set->bits[cell / 64] >> cell % 64 & 1) != 0; }

/* false: the list leads elsewhere, or to a cell twice, as a block was freed twice, or written to after its free. */
static bool superblock_free_cells(const nm__superblock *sb, cell_set *set) {
    const char *base = nm__superblock_base(sb);
    memset(set, 0, sizeof *set);
    for (const char *at = sb->cells.free; at != NULL; at = nm__peek(at)) {
        if (!nm__cells_holds(&sb->cells, base, 0, at)) return false;
        uint32_t cell = (uint32_t)(at - base) / sb->cells.cell;
        if (cell_set_has(set, cell)) return false;
        set->bits[cell / 64] |= (uint64_t)1 << cell % 64;
    }
    return true;
}

/* What the system does not take stays charged. */
static unsigned steps_purge(const nm__superblock *sb, unsigned steps) {
    unsigned gone = 0;
    for (unsigned rest = steps, first, n; rest != 0; rest &= ~(((1U << n) - 1) << first)) {
        first = (unsigned)__builtin_ctz(rest);
        n = (unsigned)__builtin_ctz(~(rest >> first));
        if (nm__os_purge(nm__superblock_base(sb) + ((size_t)first << step_shift()), (size_t)n << step_shift()))
            gone |= ((1U << n) - 1) << first;
    }
    return gone;
}

/* Pre: the heap is not secure, and so many cells are used. */
void nm__superblock_shed(nm_heap *h, nm__superblock *sb, uint32_t used) {
    nm__cells *c = &sb->cells;
    NM_ASSERT(h->key == 0);
    sb->looked = (uint16_t)used;
    unsigned ahead = sb->charged - steps_paid(sb);
    if (ahead != 0) {
        sb->charged = (uint8_t)(sb->charged - ahead);
        nm__heap_discharge(h, ahead);
    }
    /* Nor can it be where fewer bytes are in no used cell. */
    if (nm__bin_superblock(sb->bin) - (size_t)used * c->cell < (steps_count(sb->shed) + 1) * (size_t)step_bytes()) return;
    cell_set list;
    if (!superblock_free_cells(sb, &list)) return;
    unsigned busy = 0;
    for (uint32_t at = 0, i = 0; at < c->fresh; at += c->cell, i++)
        if (!cell_set_has(&list, i) && !nm__steps_are_shed(sb, at)) busy |= steps_of(c, at);
    unsigned idle = steps_purge(sb, steps_below(c->fresh) & ~busy & ~(unsigned)sb->shed);
    if (idle == 0) return;
    sb->shed = (uint16_t)(sb->shed | idle);
    c->free = NULL;
    for (uint32_t i = c->fresh / c->cell; i-- > 0;) {
        char *cell = nm__superblock_base(sb) + (size_t)i * c->cell;
        if (!cell_set_has(&list, i) || nm__steps_are_shed(sb, (size_t)i * c->cell)) continue;
        nm__poke(cell, c->free);
        c->free = cell;
    }
    sb->charged = (uint8_t)(sb->charged - steps_count(idle) * step_pages());
    nm__heap_discharge(h, (size_t)steps_count(idle) * step_pages());
}
