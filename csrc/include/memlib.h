/* memlib: six calls, and one flag that says what serves them.
 *
 * With USE_NATIVE_MEM (nm_config.h) they are macros onto the native core; without it the functions of
 * memlib_system.c, on the C library's malloc. No call site changes, and none may take a function's address
 * (&HMalloc), which a macro does not have. For sizes other than zero both behave alike:
 *
 *   HMalloc(n)      n bytes, contents undefined              HRealloc(p, n)  as realloc; p may be NULL
 *   HCalloc(n)      n bytes of zero                          HFree(p)        p may be NULL
 *   mem_init()      may be called first; not needed          mem_uninit()    gives unused memory back
 *
 * Addresses are multiples of alignof(max_align_t). No call returns for want of memory: the process is told so at
 * level NM_LOG_FATAL and aborts. mem_init and mem_uninit return true, as often as they are called, and log at
 * NM_LOG_INFO. The four that deal with blocks may be called from any thread. Nothing unwinds or jumps through them.
 *
 * Zero sizes. Native: HMalloc(0) and HCalloc(0) give one byte, HRealloc(p, 0) frees p and gives HMalloc(0). Without
 * the flag: what the C library does.
 */
#ifndef MEMLIB_H
#define MEMLIB_H

#include <stdbool.h>
#include <stddef.h>

#include "nm_config.h"

#ifdef USE_NATIVE_MEM

#include "nativemem/memlib.h"

#define HMalloc(size) nm_hmalloc(size)
#define HCalloc(size) nm_hcalloc(size)
#define HRealloc(ptr, size) nm_hrealloc(ptr, size)
#define HFree(ptr) nm_hfree(ptr)
#define mem_init() nm_mem_init()
#define mem_uninit() nm_mem_uninit()

#else

#ifdef __cplusplus
extern "C" {
#endif

extern void *HMalloc(size_t size);
extern void *HCalloc(size_t size);
extern void *HRealloc(void *ptr, size_t size);
extern void HFree(void *ptr);
extern bool mem_init(void);
extern bool mem_uninit(void);

#ifdef __cplusplus
}
#endif

#endif
#endif
