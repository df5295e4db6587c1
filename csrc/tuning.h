/* Every threshold of the core that somebody might want to turn, with its unit, its reason, and where it was decided. */
#ifndef NM__TUNING_H
#define NM__TUNING_H

#include <stddef.h>

/* ---- the heap -------------------------------------------------------------------------------------- */

/* Bytes from which calloc asks the region for pages that read as zero. To wipe memory that is resident costs a small part of
 * the page faults that memory zeroed by the system costs when it is touched, so below it dirty memory is wiped; most of a
 * larger block may never be touched. The same as glibc's. */
#define NM_HEAP_FRESH_ZERO ((size_t)32 << 20)
/* Cells freed by other threads that nm__heap_is_free looks at before it takes one for live: the list may grow meanwhile. */
#define NM_HEAP_FAR_MOST ((size_t)1 << 20)
/* Heaps that take turns whose thread heaps a thread remembers: entering one of them takes no lock. A power of two. */
#define NM_HEAP_TURNS 8

#endif
