/* P8: what a program's memory comes to after churn.  Usage: churn MIX THREADS SEED MIB ROUNDS
 *
 * As in a service: it fills to MIB MiB of live blocks, frees 70 % of them at random, and does so again with sizes of
 * another kind, six times over. Then it goes on for ROUNDS rounds with what it has come down to: a thousand steps and
 * a millisecond's rest each; a step replaces a block at random.
 *
 * MIX small: 16 to 511 bytes. MIX service: mostly small, one in 20 to 32 KiB, one in 1000 to 512 KiB.
 * With two threads, each works on its own blocks, and after each phase they exchange them: so most blocks are freed
 * by the thread that did not allocate them.
 *
 * Prints, of the last phase when it is full ("full") and when 70 % are freed ("freed"), and of the end ("later"):
 * live, the bytes of live blocks as asked for, and rss, the resident bytes less those from before the first block.
 */
#include "bench.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <unistd.h>

#define THREADS_MAX 2
#define PHASES 6

typedef struct item {
    char *ptr;
    size_t size;
} item;

/* count of items are live, of `live` bytes together */
typedef struct set {
    item *items;
    size_t count, live;
} set;

typedef struct lane {
    _Alignas(128) pthread_t thread;
    rng random;
    set set;
} lane;

static lane lanes[THREADS_MAX];
static size_t nthreads, items_max, target, rounds;
static bool service;
static pthread_barrier_t gate;

static void meet(void) {
    if (nthreads > 1) (void)pthread_barrier_wait(&gate);
}

/* Without stdio, which allocates. */
static size_t rss(void) {
    char text[128] = {0};
    int file = open("/proc/self/statm", O_RDONLY);
    if (file < 0 || read(file, text, sizeof text - 1) <= 0) die("no /proc/self/statm");
    (void)close(file);
    char *resident = strchr(text, ' ');
    if (resident == NULL) die("/proc/self/statm has another form");
    return strtoul(resident, NULL, 10) * (size_t)sysconf(_SC_PAGESIZE);
}

static void *zeroed_pages(size_t bytes) {
    void *ptr = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_POPULATE, -1, 0);
    if (ptr == MAP_FAILED) die("out of memory");
    return ptr;
}

static size_t pick_size(rng *r, int phase) {
    uint32_t kind = below(r, 1000);
    if (service && kind == 0) return log_size(r, 32768, 524288);
    if (service && kind <= 50) return log_size(r, 512, 32768);
    switch (phase % 3) { /* each within 16 to 511 bytes */
    case 0: return log_size(r, 16, 128);
    case 1: return log_size(r, 64, 512);
    default: return log_size(r, 16, 512);
    }
}

/* Every page of the block is written to. */
static void fill_item(lane *l, item *at, int phase) {
    at->size = pick_size(&l->random, phase);
    at->ptr = take(at->size);
    if (at->ptr == NULL) die("out of memory");
    for (size_t i = 0; i < at->size; i += 4096) at->ptr[i] = 1;
    at->ptr[at->size - 1] = 1;
    l->set.live += at->size;
}

static void empty_item(lane *l, item *at) {
    give(at->ptr);
    l->set.live -= at->size;
}

static void fill_set(lane *l, int phase) {
    set *s = &l->set;
    while (s->live < target) {
        if (s->count == items_max) die("too many blocks");
        fill_item(l, &s->items[s->count++], phase);
    }
}

static void thin_out(lane *l) {
    set *s = &l->set;
    for (size_t drop = s->count / 10 * 7; drop > 0; drop--) {
        item *at = &s->items[below(&l->random, (uint32_t)s->count)];
        empty_item(l, at);
        *at = s->items[--s->count];
    }
}

static void go_on(lane *l) {
    const struct timespec pause = {.tv_nsec = 1000000};
    for (size_t round = 0; round < rounds; round++) {
        for (int i = 0; i < 1000; i++) {
            item *at = &l->set.items[below(&l->random, (uint32_t)l->set.count)];
            empty_item(l, at);
            fill_item(l, at, PHASES - 1);
        }
        (void)nanosleep(&pause, NULL);
    }
}

static size_t before;

static void tell(const char *when, const char *after) {
    size_t live = 0, resident = rss();
    for (size_t t = 0; t < nthreads; t++) live += lanes[t].set.live;
    printf("\"%s\": {\"live\": %zu, \"rss\": %zu}%s", when, live, resident > before ? resident - before : 0, after);
}

static void *body(void *arg) {
    lane *l = arg;
    for (int phase = 0; phase < PHASES; phase++) {
        fill_set(l, phase);
        meet();
        if (l == lanes && phase == PHASES - 1) tell("full", ", ");
        meet();
        thin_out(l);
        meet();
        if (l == lanes && nthreads > 1) {
            set other = lanes[1].set;
            lanes[1].set = l->set;
            l->set = other;
        }
        meet();
    }
    if (l == lanes) tell("freed", ", ");
    meet();
    go_on(l);
    meet();
    if (l == lanes) tell("later", "}\n");
    meet();
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 6) die("usage: churn MIX THREADS SEED MIB ROUNDS");
    service = strcmp(argv[1], "service") == 0;
    if (!service && strcmp(argv[1], "small") != 0) die("no such mix");
    nthreads = strtoul(argv[2], NULL, 10);
    if (nthreads < 1 || nthreads > THREADS_MAX) die("1 or 2 threads");
    target = (strtoul(argv[4], NULL, 10) << 20) / nthreads;
    rounds = strtoul(argv[5], NULL, 10);
    items_max = target / 32;
    for (size_t t = 0; t < nthreads; t++) {
        lanes[t].set.items = zeroed_pages(items_max * sizeof(item));
        lanes[t].random.state = strtoul(argv[3], NULL, 10) * 2654435761U + 1 + t;
    }
    static char out[256];
    (void)setvbuf(stdout, out, _IOFBF, sizeof out);
    printf("{");
    (void)pthread_barrier_init(&gate, NULL, (unsigned)nthreads);
    before = rss();
    set_up();
    if (nthreads > 1 && pthread_create(&lanes[1].thread, NULL, body, &lanes[1]) != 0) die("no thread");
    (void)body(&lanes[0]);
    if (nthreads > 1) (void)pthread_join(lanes[1].thread, NULL);
    return 0;
}
