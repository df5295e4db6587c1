/* Failing: makes one allocation fail, to see what the caller makes of it. As thread-safe as its upstream. */
#ifndef NATIVEMEM_FAILING_H
#define NATIVEMEM_FAILING_H

#include "nativemem/port.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nm_failing nm_failing;

/* The n-th alloc is refused with NM_OUT_OF_MEMORY, before upstream is asked; with sticky every one from then on.
 * 0: none. resize never moves a block here, so it needs no memory and is not counted. NULL: out of memory. */
nm_failing *nm_failing_create(nm_allocator upstream, size_t n, bool sticky);
void nm_failing_destroy(nm_failing *f);
nm_allocator nm_failing_port(nm_failing *f);

/* Counts from zero again, with another n. */
void nm_failing_arm(nm_failing *f, size_t n, bool sticky);
size_t nm_failing_calls(const nm_failing *f);  /* allocs since it was armed */
size_t nm_failing_failed(const nm_failing *f); /* of those, refused by this wrapper */

#ifdef __cplusplus
}
#endif
#endif
