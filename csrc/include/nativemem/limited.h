/* Limited: charges each block's requested bytes to a budget. As thread-safe as its upstream. */
#ifndef NATIVEMEM_LIMITED_H
#define NATIVEMEM_LIMITED_H

#include "nativemem/budget.h"
#include "nativemem/port.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nm_limited nm_limited;

/* budget must outlive the wrapper. NULL: out of memory. */
nm_limited *nm_limited_create(nm_allocator upstream, nm_budget *budget);
/* Once no other call is under way; while the budget is there. */
void nm_limited_destroy(nm_limited *l);
/* Gives back what is still charged: for blocks that will not be freed through the wrapper any more. */
void nm_limited_clear(nm_limited *l);
nm_allocator nm_limited_port(nm_limited *l);

#ifdef __cplusplus
}
#endif
#endif
