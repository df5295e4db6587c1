/* memlib.h's calls on the C library's malloc: the way back. */
#include "nm_config.h"

#ifdef USE_NATIVE_MEM
#error "memlib_system.c should not be compiled when USE_NATIVE_MEM is enabled"
#endif

#include "memlib.h"

#include <stdlib.h>

#include "base/base.h"
#include "nativemem/log.h"

/* NULL for no bytes is the C library's right. */
static void *memlib_checked(void *ptr, size_t size, const char *message) {
    if (NM_UNLIKELY(ptr == NULL) && size != 0) nm__fatal(message);
    return ptr;
}

void *HMalloc(size_t size) { return memlib_checked(malloc(size), size, "HMalloc() FATAL: out of memory."); }

void *HCalloc(size_t size) { return memlib_checked(calloc(1, size), size, "HCalloc() FATAL: out of memory."); }

void *HRealloc(void *ptr, size_t size) { return memlib_checked(realloc(ptr, size), size, "HRealloc() FATAL: out of memory."); }

void HFree(void *ptr) { free(ptr); }

bool mem_init(void) {
    nm_log(NM_LOG_INFO, "mem_init(): the C library's malloc");
    return true;
}

bool mem_uninit(void) {
    nm_log(NM_LOG_INFO, "mem_uninit(): done");
    return true;
}
