/* P5: patterns of allocation, timed.  Usage: patterns WORKLOAD SIZE THREADS QUICK
 *
 * pair, lifo, fifo   one thread, blocks of SIZE bytes; a step is an alloc and a free
 * larson             a working set of 1000 blocks a thread, 16 to 1023 bytes; a step replaces one at random; every
 *                    quarter of a sample the threads end, and new ones take over each other's sets
 * mstress            a step allocates a block, mostly small, rarely to 64 KiB, and frees one of the last 512, or
 *                    swaps it with one that any thread may have put there
 * xmalloc            one thread allocates, the other frees; a step is one block
 *
 * Prints {"time": seconds a step and thread}. With one thread it is the process's CPU time, so that what else the
 * machine does does not count; with two it is the time that passed.
 */
#include "bench.h"

#include <stdatomic.h>

static size_t size;
static size_t nthreads;

static double cpu(void) { return seconds(CLOCK_PROCESS_CPUTIME_ID); }

/* One byte is written: a program uses what it allocates. */
static inline void *take_used(size_t bytes) {
    char *ptr = take(bytes);
    if (__builtin_expect(ptr == NULL, 0)) die("out of memory");
    *(volatile char *)ptr = 1;
    return ptr;
}

static NOINLINE double pair(size_t n) {
    double start = cpu();
    for (size_t i = 0; i < n; i++) give(take_used(size));
    return cpu() - start;
}

#define BATCH 100
static NOINLINE double lifo(size_t n) {
    void *blocks[BATCH];
    double start = cpu();
    for (size_t i = 0; i < n; i += BATCH) {
        for (int k = 0; k < BATCH; k++) blocks[k] = take_used(size);
        for (int k = BATCH; k-- > 0;) give(blocks[k]);
    }
    return cpu() - start;
}

static NOINLINE double fifo(size_t n) {
    void *blocks[BATCH];
    double start = cpu();
    for (size_t i = 0; i < n; i += BATCH) {
        for (int k = 0; k < BATCH; k++) blocks[k] = take_used(size);
        for (int k = 0; k < BATCH; k++) give(blocks[k]);
    }
    return cpu() - start;
}

/* ---- threads ---- */

#define THREADS_MAX 2

typedef struct lane {
    _Alignas(128) pthread_t thread;
    rng random;
    size_t n;
    void **set;
} lane;

static lane lanes[THREADS_MAX];
static pthread_barrier_t gate;

typedef void *thread_fn(void *);

/* Seconds from all threads being there to all having ended, or the CPU time of the one. */
static double run_threads(thread_fn *body, size_t n) {
    (void)pthread_barrier_init(&gate, NULL, (unsigned)nthreads + 1);
    for (size_t t = 0; t < nthreads; t++) {
        lanes[t].n = n;
        if (pthread_create(&lanes[t].thread, NULL, body, &lanes[t]) != 0) die("no thread");
    }
    clockid_t clock = nthreads == 1 ? CLOCK_PROCESS_CPUTIME_ID : CLOCK_MONOTONIC;
    double start = seconds(clock);
    (void)pthread_barrier_wait(&gate);
    for (size_t t = 0; t < nthreads; t++) (void)pthread_join(lanes[t].thread, NULL);
    double took = seconds(clock) - start;
    (void)pthread_barrier_destroy(&gate);
    return took;
}

#define SET 1000
static void *sets[THREADS_MAX][SET];

static size_t larson_size(rng *r) { return 16 + below(r, 1008); }

static void *larson_thread(void *arg) {
    lane *l = arg;
    rng r = l->random;
    (void)pthread_barrier_wait(&gate);
    for (size_t i = 0; i < l->n; i++) {
        void **at = &l->set[below(&r, SET)];
        give(*at);
        *at = take_used(larson_size(&r));
    }
    l->random = r;
    return NULL;
}

static double larson(size_t n) {
    static size_t generation;
    double took = 0;
    if (sets[0][0] == NULL)
        for (size_t t = 0; t < nthreads; t++)
            for (int k = 0; k < SET; k++) sets[t][k] = take_used(larson_size(&lanes[t].random));
    for (int quarter = 0; quarter < 4; quarter++, generation++) {
        for (size_t t = 0; t < nthreads; t++) lanes[t].set = sets[(t + generation) % nthreads];
        took += run_threads(larson_thread, n / 4 + 1);
    }
    return took;
}

#define RETAINED 512
#define SHARED 1024
static _Atomic(void *) shared[SHARED];

static size_t mstress_size(rng *r) {
    uint32_t kind = below(r, 1000);
    return kind < 900 ? log_size(r, 8, 256) : kind < 990 ? log_size(r, 256, 4096) : log_size(r, 4096, 65536);
}

static void *mstress_thread(void *arg) {
    lane *l = arg;
    rng r = l->random;
    void *retained[RETAINED] = {NULL};
    (void)pthread_barrier_wait(&gate);
    for (size_t i = 0; i < l->n; i++) {
        void **at = &retained[below(&r, RETAINED)];
        if (below(&r, 4) == 0) *at = atomic_exchange(&shared[below(&r, SHARED)], *at);
        if (*at != NULL) give(*at);
        *at = take_used(mstress_size(&r));
    }
    for (int k = 0; k < RETAINED; k++)
        if (retained[k] != NULL) give(retained[k]);
    l->random = r;
    return NULL;
}

static double mstress(size_t n) { return run_threads(mstress_thread, n); }

/* Batches travel through a ring; the lock is taken once for each PACK blocks. */
#define PACK 256
#define RING 8
static struct {
    pthread_mutex_t lock;
    pthread_cond_t moved;
    size_t filled, emptied; /* batches so far */
    void *blocks[RING][PACK];
} ring = {.lock = PTHREAD_MUTEX_INITIALIZER, .moved = PTHREAD_COND_INITIALIZER};

static void advance(size_t *count) {
    pthread_mutex_lock(&ring.lock);
    ++*count;
    pthread_cond_signal(&ring.moved);
    pthread_mutex_unlock(&ring.lock);
}

static void *xmalloc_thread(void *arg) {
    lane *l = arg;
    rng r = l->random;
    size_t batches = l->n / PACK + 1;
    (void)pthread_barrier_wait(&gate);
    for (size_t i = 0; i < batches; i++) {
        void **blocks = ring.blocks[i % RING];
        pthread_mutex_lock(&ring.lock);
        if (l == &lanes[0])
            while (ring.filled - ring.emptied == RING) pthread_cond_wait(&ring.moved, &ring.lock);
        else
            while (ring.filled == ring.emptied) pthread_cond_wait(&ring.moved, &ring.lock);
        pthread_mutex_unlock(&ring.lock);
        if (l == &lanes[0])
            for (int k = 0; k < PACK; k++) blocks[k] = take_used(log_size(&r, 16, 1024));
        else
            for (int k = 0; k < PACK; k++) give(blocks[k]);
        advance(l == &lanes[0] ? &ring.filled : &ring.emptied);
    }
    l->random = r;
    return NULL;
}

static double xmalloc(size_t n) {
    ring.filled = ring.emptied = 0;
    return run_threads(xmalloc_thread, n);
}

static const struct {
    const char *name;
    sample_fn *sample;
    bool threads; /* the number of steps is fixed: how soon a thread is woken says nothing of a step */
} workloads[] = {
    {"pair", pair, false},    {"lifo", lifo, false},      {"fifo", fifo, false},
    {"larson", larson, true}, {"mstress", mstress, true}, {"xmalloc", xmalloc, true},
};

int main(int argc, char **argv) {
    if (argc != 5) die("usage: patterns WORKLOAD SIZE THREADS QUICK");
    size = strtoul(argv[2], NULL, 10);
    nthreads = strtoul(argv[3], NULL, 10);
    if (nthreads < 1 || nthreads > THREADS_MAX) die("1 or 2 threads");
    for (size_t t = 0; t < THREADS_MAX; t++) lanes[t].random.state = 88172645463325252U + t;
    set_up();
    for (size_t i = 0; i < sizeof workloads / sizeof *workloads; i++) {
        if (strcmp(argv[1], workloads[i].name) != 0) continue;
        sample_fn *sample = workloads[i].sample;
        bool quick = *argv[4] == '1';
        size_t n = workloads[i].threads ? (quick ? 4000 : 400000) : steps_for(sample, quick ? 1e-4 : 6e-3);
        if (workloads[i].threads) (void)sample(n);
        printf("{\"time\": %.6e}\n", measure(sample, n));
        return 0;
    }
    die("no such workload");
    return 1;
}
