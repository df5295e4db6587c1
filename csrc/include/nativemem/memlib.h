/* What memlib.h leads to with USE_NATIVE_MEM, and where that takes its memory from. memlib.h is the contract. */
#ifndef NATIVEMEM_MEMLIB_H
#define NATIVEMEM_MEMLIB_H

#include "nativemem/base.h"

#ifdef __cplusplus
extern "C" {
#endif

NM_FROM_TABLE void *nm_hmalloc(size_t size);
NM_FROM_TABLE void *nm_hcalloc(size_t size);
NM_FROM_TABLE void *nm_hrealloc(void *ptr, size_t size);
/* A pointer that is no block of memlib's is reported at NM_LOG_ERROR where that can be told, and left alone. */
NM_FROM_TABLE void nm_hfree(void *ptr);
NM_FROM_TABLE bool nm_mem_init(void);
NM_FROM_TABLE bool nm_mem_uninit(void);

struct nm_plain; /* plain.h */

/* From now on memlib takes its memory there; NULL: from a heap of its own, as it does at first. Pre: none of its
 * blocks is live, and no other call is under way. */
void nm_memlib_use(struct nm_plain *plain);
/* What it takes from now. NULL: there is no memory for a heap. */
struct nm_plain *nm_memlib_now(void);

#ifdef __cplusplus
}
#endif
#endif
