/* P5: 1000 blocks of 64 bytes through the port, then all of them dropped, timed.  Usage: ports NOUN QUICK
 *
 * bump      the limit: a bare pointer bump behind the port, dropped by putting the pointer back
 * inline    the same with no call at all
 * arena     dropped by reset;   stack  by releasing a mark
 * stack_free, pool, slab, heap, system    by 1000 frees, newest first
 * limited, traced     the same on a heap
 *
 * Prints {"time": seconds of CPU a block}.
 */
#include "bench.h"
#include "bump.h"

#define BLOCKS 1000
#define SIZE ((size_t)64)
#define ALIGN ((size_t)16)

static nm_allocator port;
static void *blocks[BLOCKS];
static bump bare;
static char *bare_start;
static nm_arena *arena;
static nm_stack *stack;

static double cpu(void) { return seconds(CLOCK_PROCESS_CPUTIME_ID); }

static void drop_bump(void) { bare.at = bare_start; }
static void drop_arena(void) { (void)nm_arena_reset(arena); }

/* The one loop of all nouns that drop at once, so that they differ in nothing else. */
static NOINLINE void fill(void) {
    for (int i = 0; i < BLOCKS; i++) {
        void *ptr = nm_alloc(port, SIZE, ALIGN);
        if (__builtin_expect(ptr == NULL, 0)) die("out of memory");
        keep(ptr);
    }
}

static double dropped(size_t n, void (*drop)(void)) {
    double start = cpu();
    for (size_t i = 0; i < n; i += BLOCKS) {
        fill();
        drop();
    }
    return cpu() - start;
}

static double by_bump(size_t n) { return dropped(n, drop_bump); }
static double by_arena(size_t n) { return dropped(n, drop_arena); }

static double by_stack(size_t n) {
    nm_stack_mark mark;
    double start = cpu();
    for (size_t i = 0; i < n; i += BLOCKS) {
        if (nm_stack_take_mark(stack, &mark) != NM_OK) die("no mark");
        fill();
        if (nm_stack_release(stack, &mark) != NM_OK) die("no release");
    }
    return cpu() - start;
}

static NOINLINE double by_inline(size_t n) {
    double start = cpu();
    for (size_t i = 0; i < n; i += BLOCKS) {
        for (int k = 0; k < BLOCKS; k++) {
            void *ptr = bump_take(&bare, SIZE, ALIGN);
            if (__builtin_expect(ptr == NULL, 0)) die("out of memory");
            keep(ptr);
        }
        drop_bump();
    }
    return cpu() - start;
}

static NOINLINE double by_free(size_t n) {
    double start = cpu();
    for (size_t i = 0; i < n; i += BLOCKS) {
        for (int k = 0; k < BLOCKS; k++) {
            blocks[k] = nm_alloc(port, SIZE, ALIGN);
            if (__builtin_expect(blocks[k] == NULL, 0)) die("out of memory");
        }
        for (int k = BLOCKS; k-- > 0;)
            if (nm_free(port, blocks[k], SIZE, ALIGN) != NM_OK) die("a free was refused");
    }
    return cpu() - start;
}

static sample_fn *make(const char *noun) {
    static const size_t bins[] = {32, 64, 128, 256};
    size_t room = BLOCKS * SIZE;
    if (nm_region_init((size_t)64 << 30, (size_t)256 << 20, 1000) != NM_OK) die("no region");
    nm_allocator heap = nm_heap_port(nm_heap_create(NULL, false)), system = nm_system_port(nm_system_create());
    if (strcmp(noun, "bump") == 0 || strcmp(noun, "inline") == 0) {
        bare_start = nm_alloc(system, room, NM_ALIGN_MAX);
        if (bare_start == NULL) die("out of memory");
        bare = (bump){bare_start, bare_start + room};
        port = bump_port(&bare);
        return *noun == 'b' ? by_bump : by_inline;
    }
    if (strcmp(noun, "arena") == 0) {
        arena = nm_arena_create(system, (nm_arena_options){.hint = (size_t)64 << 10, .grow = true});
        port = nm_arena_port(arena);
        return by_arena;
    }
    if (strncmp(noun, "stack", 5) == 0) {
        stack = nm_stack_create(system, room, false);
        port = nm_stack_port(stack);
        return strcmp(noun, "stack") == 0 ? by_stack : by_free;
    }
    if (strcmp(noun, "pool") == 0) port = nm_pool_port(nm_pool_create(system, SIZE, BLOCKS, false));
    else if (strcmp(noun, "slab") == 0) port = nm_slab_port(nm_slab_create(heap, bins, sizeof bins / sizeof *bins, false));
    else if (strcmp(noun, "heap") == 0) port = heap;
    else if (strcmp(noun, "system") == 0) port = system;
    else if (strcmp(noun, "limited") == 0)
        port = nm_limited_port(nm_limited_create(heap, nm_budget_create((size_t)1 << 30, NULL, NULL)));
    else if (strcmp(noun, "traced") == 0) port = nm_traced_port(nm_traced_create(heap, (nm_traced_options){.histogram = true}));
    else die("no such noun");
    return by_free;
}

int main(int argc, char **argv) {
    if (argc != 3) die("usage: ports NOUN QUICK");
    sample_fn *sample = make(argv[1]);
    printf("{\"time\": %.6e}\n", measure(sample, (steps_for(sample, *argv[2] == '1' ? 1e-4 : 6e-3) / BLOCKS + 1) * BLOCKS));
    return 0;
}
