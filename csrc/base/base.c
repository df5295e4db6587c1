#include "base/base.h"

#include <stdlib.h>
#include <string.h>

static NM_TLS nm_failure last_failure;

/* Aligned like the strictest block, so that an empty block keeps the promise of its alignment. */
_Alignas(4096) char nm_empty_block[4096];

nm_failure nm_last_failure(void) { return last_failure; }

#ifndef __clang_analyzer__
nm_status nm__fail(nm_status status, size_t requested, size_t used, size_t limit) {
    last_failure = (nm_failure){status, requested, used, limit};
    return status;
}
#endif

void *nm_refuse(nm_status status, size_t requested, size_t used, size_t limit) {
    (void)nm__fail(status, requested, used, limit);
    return NULL;
}

void *nm__meta_alloc(size_t size) {
    void *ptr = calloc(1, size);
    return ptr != NULL ? ptr : nm_refuse(NM_OUT_OF_MEMORY, size, 0, 0);
}

void nm__meta_free(void *ptr) { free(ptr); }

void nm__wipe(void *ptr, size_t size) {
    memset(ptr, 0, size);
    __asm__ volatile("" : : "r"(ptr) : "memory");
}
