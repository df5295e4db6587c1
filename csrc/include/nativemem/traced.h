/* Traced: exact counters, histograms of sizes and latencies, and the sites of live blocks, of what passes through. As
 * thread-safe as its upstream.
 *
 * Each thread counts for itself and readers add up, so a count costs a few plain instructions. All sums are exact after
 * each call on any thread; peak is exact as long as one thread at a time has had blocks, and else at most too high: it is
 * the sum of the threads' own. */
#ifndef NATIVEMEM_TRACED_H
#define NATIVEMEM_TRACED_H

#include "nativemem/port.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Buckets 0 - 3: sizes 1 - 4. Above: four buckets for each doubling. nm_histo_size(k) is the largest size in k. */
#define NM_HISTO_BUCKETS 248

typedef struct nm_traced nm_traced;

typedef struct nm_traced_options {
    bool histogram;    /* of sizes, and of the nanoseconds that upstream takes for an alloc */
    bool zero_on_free; /* a block is wiped before upstream has it back */
    /* NULL, or what is called after each block for the site that asked for it: a number of the caller's. It must
     * neither take from the allocator nor free. A block that has no site, as one of another allocator, is refused by
     * free then (NM_FOREIGN_BLOCK), unless sites are sampled. */
    uintptr_t (*site)(void *context);
    void *context;
    size_t sample; /* 0: each block; else on average one for so many bytes: the same ones in each run */
} nm_traced_options;

nm_traced *nm_traced_create(nm_allocator upstream, nm_traced_options o); /* NULL: out of memory */
void nm_traced_destroy(nm_traced *t);
nm_allocator nm_traced_port(nm_traced *t);
/* Writes the counts of NM_HISTO_BUCKETS buckets, of sizes and of latencies in ns; either may be NULL. t may be NULL: of
 * all that the process has had. false: made without a histogram. */
bool nm_traced_histogram(const nm_traced *t, uint64_t *sizes, uint64_t *latencies);
/* Site and size of up to cap of the live blocks whose site is known, in no order. Returns how many there are. */
size_t nm_traced_sites(const nm_traced *t, uintptr_t *sites, size_t *sizes, size_t cap);
/* 0: not known. */
uintptr_t nm_traced_site_of(const nm_traced *t, const void *ptr);
const char *nm_traced_check(const nm_traced *t); /* while no call is under way */

unsigned nm_histo_bucket(size_t size); /* size >= 1 */
size_t nm_histo_size(unsigned bucket); /* largest size of the bucket */

#ifdef __cplusplus
}
#endif
#endif
