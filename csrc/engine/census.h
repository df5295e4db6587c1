/* How many blocks of each size were served: sums of heaps' counts. */
#ifndef NM__CENSUS_H
#define NM__CENSUS_H

#include "nativemem/heap.h"

/* Of two counts, what was allocated. */
static inline void nm__census_add(nm_census *sum, const nm_census *more) {
    for (size_t i = 0; i < NM_BINS; i++) sum->allocations[i] += more->allocations[i];
    for (size_t i = 0; i < NM_SPAN_SIZES; i++) sum->span_allocations[i] += more->span_allocations[i];
}

static inline void nm__census_add_heap(nm_census *sum, nm_heap *h) {
    nm_census one;
    nm_heap_census(h, &one);
    nm__census_add(sum, &one);
}

#endif
