/* What the benchmark programs share: clocks, samples, random sizes, and the calls that are measured.
 *
 * A program is compiled once for each side. SIDE_HEAP: nm_heap_malloc and nm_heap_free of libnativemem.so.
 * SIDE_MALLOC: malloc and free, libc's or those of a preloaded library. Both are calls of a function in a shared
 * object, and neither is inlined, so what differs is what the function does.
 */
#ifndef BENCH_H
#define BENCH_H

#define _GNU_SOURCE
#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#ifndef SIDE_MALLOC
#include "nativemem.h"
#endif

#define NOINLINE __attribute__((noinline))

static inline void die(const char *why) {
    fprintf(stderr, "%s\n", why);
    exit(1);
}

/* ---- the calls that are measured ---- */

#if defined(SIDE_HEAP)
static nm_heap *heap;
static inline void *take(size_t size) { return nm_heap_malloc(heap, size); }
static inline void give(void *ptr) { (void)nm_heap_free(heap, ptr); }
/* 256 MiB of free spans kept for a second, as in the package. */
static inline void set_up(void) {
    if (nm_region_init((size_t)64 << 30, (size_t)256 << 20, 1000) != NM_OK) die("no region");
    heap = nm_heap_create(NULL, false);
    if (heap == NULL) die("no heap");
}
#elif defined(SIDE_MALLOC)
static inline void *take(size_t size) { return malloc(size); }
static inline void give(void *ptr) { free(ptr); }
static inline void set_up(void) {}
#endif

/* Keeps a block that is not read, and the calls in their order. */
static inline void keep(void *ptr) { __asm__ volatile("" : : "r"(ptr) : "memory"); }

/* ---- samples ---- */

static inline double seconds(clockid_t clock) {
    struct timespec t;
    (void)clock_gettime(clock, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

/* Runs n steps of the workload; returns the seconds that they took. */
typedef double sample_fn(size_t n);

static inline int by_value(const void *a, const void *b) {
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

#define SAMPLES 7

/* How many steps take about `want` seconds. Warms up. */
static inline size_t steps_for(sample_fn *sample, double want) {
    size_t n = 64;
    double took;
    while ((took = sample(n)) < want / 2) n = took < want / 20 ? n * 8 : (size_t)((double)n * want / took) + 1;
    return (size_t)((double)n * want / took) + 1;
}

/* The median time of a step, in samples of n steps. */
static inline double measure(sample_fn *sample, size_t n) {
    double times[SAMPLES];
    for (int i = 0; i < SAMPLES; i++) times[i] = sample(n) / (double)n;
    qsort(times, SAMPLES, sizeof *times, by_value);
    return times[SAMPLES / 2];
}

/* ---- random numbers: xorshift64*, Vigna 2014 ---- */

typedef struct rng {
    uint64_t state; /* not 0 */
} rng;
static inline uint32_t rnd(rng *r) {
    r->state ^= r->state >> 12;
    r->state ^= r->state << 25;
    r->state ^= r->state >> 27;
    return (uint32_t)((r->state * 0x2545F4914F6CDD1DU) >> 32);
}
static inline uint32_t below(rng *r, uint32_t n) { return (uint32_t)((uint64_t)rnd(r) * n >> 32); }

/* From low to high bytes, each doubling as likely as the next. Both are powers of two. */
static inline size_t log_size(rng *r, uint32_t low, uint32_t high) {
    uint32_t doublings = (uint32_t)(__builtin_ctz(high) - __builtin_ctz(low));
    uint32_t base = low << below(r, doublings);
    return base + below(r, base);
}

#endif
