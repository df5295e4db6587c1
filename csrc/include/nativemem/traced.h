/* Traced: exact counters and a size histogram of what passes through. As thread-safe as its upstream. */
#ifndef NATIVEMEM_TRACED_H
#define NATIVEMEM_TRACED_H

#include "nativemem/port.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Buckets 0 - 3: sizes 1 - 4. Above: four buckets for each doubling. nm_histo_size(k) is the largest size in k. */
#define NM_HISTO_BUCKETS 248

typedef struct nm_traced nm_traced;

nm_traced *nm_traced_create(nm_allocator upstream, bool histogram); /* NULL: out of memory */
void nm_traced_destroy(nm_traced *t);
nm_allocator nm_traced_port(nm_traced *t);
/* Copies the counts of NM_HISTO_BUCKETS buckets. false: made without a histogram. */
bool nm_traced_histogram(const nm_traced *t, uint64_t *out);

unsigned nm_histo_bucket(size_t size); /* size >= 1 */
size_t nm_histo_size(unsigned bucket); /* largest size of the bucket */

#ifdef __cplusplus
}
#endif
#endif
