/* P7: what a step costs by the number of live blocks and of threads.  Usage: scale KIND BLOCKS THREADS QUICK
 *
 * BLOCKS blocks of 16 to 127 bytes are live in each thread, which works on its own; a step takes one of them at random.
 *
 * replace   frees it and allocates another in its place
 * touch     writes to it: what the machine's caches have in a step of replace
 *
 * Prints {"time": seconds that passed a step, of all threads together}. Every block was replaced once or so before,
 * so neighbours in the table are not neighbours in memory.
 */
#include "bench.h"

#define THREADS_MAX 2

typedef struct lane {
    _Alignas(128) pthread_t thread;
    rng random;
    void **blocks;
    double began, ended;
} lane;

static lane lanes[THREADS_MAX];
static size_t nthreads, nblocks, steps;
static bool touches;
static pthread_barrier_t gate;

static void *new_block(rng *r) {
    char *ptr = take(16 + below(r, 112));
    if (__builtin_expect(ptr == NULL, 0)) die("out of memory");
    *(volatile char *)ptr = 1;
    return ptr;
}

static NOINLINE void replace(lane *l, size_t n) {
    rng r = l->random;
    for (size_t i = 0; i < n; i++) {
        void **at = &l->blocks[below(&r, (uint32_t)nblocks)];
        give(*at);
        *at = new_block(&r);
    }
    l->random = r;
}

static NOINLINE void touch(lane *l, size_t n) {
    rng r = l->random;
    for (size_t i = 0; i < n; i++) {
        void **at = &l->blocks[below(&r, (uint32_t)nblocks)];
        *(volatile char *)*at = (char)rnd(&r); /* as many random numbers as replace */
        keep(*at);
    }
    l->random = r;
}

static double times[SAMPLES + 1];

/* From the first thread's beginning to the last one's end. */
static double lasted(void) {
    double began = lanes[0].began, ended = lanes[0].ended;
    for (size_t t = 1; t < nthreads; t++) {
        if (lanes[t].began < began) began = lanes[t].began;
        if (lanes[t].ended > ended) ended = lanes[t].ended;
    }
    return ended - began;
}

static void *body(void *arg) {
    lane *l = arg;
    for (size_t i = 0; i < nblocks; i++) l->blocks[i] = new_block(&l->random);
    replace(l, nblocks);
    for (int i = 0; i < SAMPLES + 1; i++) { /* the first one warms up */
        (void)pthread_barrier_wait(&gate);
        l->began = seconds(CLOCK_MONOTONIC);
        if (touches) touch(l, steps);
        else replace(l, steps);
        l->ended = seconds(CLOCK_MONOTONIC);
        (void)pthread_barrier_wait(&gate);
        if (l == lanes) times[i] = lasted() / (double)(steps * nthreads);
        (void)pthread_barrier_wait(&gate);
    }
    return NULL;
}

int main(int argc, char **argv) {
    if (argc != 5) die("usage: scale KIND BLOCKS THREADS QUICK");
    touches = strcmp(argv[1], "touch") == 0;
    if (!touches && strcmp(argv[1], "replace") != 0) die("no such kind");
    nblocks = strtoul(argv[2], NULL, 10);
    if (nblocks < 1 || nblocks > UINT32_MAX) die("from 1 to 2^32 - 1 blocks");
    nthreads = strtoul(argv[3], NULL, 10);
    if (nthreads < 1 || nthreads > THREADS_MAX) die("1 or 2 threads");
    steps = *argv[4] == '1' ? 2000 : nblocks < 100000 ? 4000000 : 400000;
    set_up();
    (void)pthread_barrier_init(&gate, NULL, (unsigned)nthreads);
    for (size_t t = 0; t < nthreads; t++) {
        lanes[t].random.state = 88172645463325252U + t;
        lanes[t].blocks = malloc(nblocks * sizeof(void *));
        if (lanes[t].blocks == NULL) die("out of memory");
        if (pthread_create(&lanes[t].thread, NULL, body, &lanes[t]) != 0) die("no thread");
    }
    for (size_t t = 0; t < nthreads; t++) (void)pthread_join(lanes[t].thread, NULL);
    qsort(times + 1, SAMPLES, sizeof *times, by_value);
    printf("{\"time\": %.6e}\n", times[1 + SAMPLES / 2]);
    return 0;
}
