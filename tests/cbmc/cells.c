/* Cells, which slab and heap cut superblocks into: any STEPS calls of take (with extend before it where the list is
 * empty), give, and a push onto the remote list that the owner then takes whole, one after the other. Owners of cells
 * write any words into them. One superblock of 4 cells of 16 bytes behind a header of 32; links that a key hides are
 * no pointers to CBMC, so the key is 0.
 *
 * cbmc: unwind 6
 * cbmc: loop main.1 33
 * cbmc: run STEPS=5
 */
#include "harness.h"

#include "alloc/cells.h"

#define CELL 16
#define START 32
#define COUNT 4

static _Alignas(16) char base[START + COUNT * CELL + 8]; /* too few bytes behind the last cell for another one */
static nm__cells cells;
static nm__remote remote;
static bool in_use[COUNT], ever[COUNT];
static uint32_t used, queued;
static const uintptr_t key = 0;

static void take(void) {
    if (cells.free == NULL && !nm__cells_extend(&cells, base)) {
        CHECK(used + queued == COUNT, "where a cell is free it is found");
        CHECK(nm__cells_full(&cells), "and nm__cells_full says the same");
        GOAL(true);
        return;
    }
    char *ptr = nm__cells_take(&cells, key);
    CHECK(__CPROVER_same_object(ptr, base), "a cell is of the superblock");
    size_t offset = (size_t)(ptr - base) - START, i = offset / CELL;
    CHECK(offset % CELL == 0 && i < COUNT, "a cell lies on a boundary, behind the header");
    CHECK(!in_use[i], "no cell is handed out twice");
    GOAL(ever[i]);
    in_use[i] = ever[i] = true;
    used++;
    ((size_t *)(void *)ptr)[0] = nondet_size();
    ((size_t *)(void *)ptr)[1] = nondet_size();
}

static void give(void) {
    size_t i = nondet_size();
    ASSUME(i < COUNT && in_use[i]);
    in_use[i] = false;
    used--;
    uint32_t level = nondet_unsigned();
    nm__cells_report_at(&cells, level);
    bool reported = nm__cells_give(&cells, base + START + i * CELL, key);
    CHECK(reported == (used + queued == level), "give reports just at the level that was set");
    GOAL(reported);
}

/* The cell stays in use for its superblock until the owner collects it. */
static void push(void) {
    size_t i = nondet_size();
    ASSUME(i < COUNT && in_use[i]);
    in_use[i] = false;
    used--;
    queued++;
    nm__remote_push(&remote, base + START + i * CELL, key);
}

static void collect(void) {
    for (void *ptr = nm__remote_take(&remote), *next; ptr != NULL; ptr = next) {
        next = nm__link(key, ptr, *(void **)ptr);
        queued--;
        (void)nm__cells_give(&cells, ptr, key);
        GOAL(next != NULL);
    }
    CHECK(queued == 0, "what was pushed is collected, once");
}

int main(void) {
    nm__cells_init(&cells, CELL, START, sizeof base);
    CHECK(cells.capacity == COUNT && cells.end == START + COUNT * CELL, "as many cells as fit");
    for (int i = 0; i < STEPS; i++) {
        unsigned op = nondet_unsigned();
        if (op == 0) take();
        else if (op == 1 && used != 0) give();
        else if (op == 2 && used != 0) push();
        else if (op == 3) collect();
        CHECK(nm__cells_used(&cells) == used + queued, "used is right");
    }
    CHECK(nm__cells_check(&cells, used + queued, base, START, key), "nm__cells_check holds: the free list is closed");
    for (int i = 0; i < START; i++) CHECK(base[i] == 0, "the header was not written to");
    return 0;
}
