/* The one file that knows the memory checkers.
 *
 * Under AddressSanitizer bytes that nobody may touch are poisoned, so that the checker sees blocks and not
 * only the chunks and superblocks that they are cut from. Elsewhere both macros are nothing.
 */
#ifndef NM__POISON_H
#define NM__POISON_H

#if defined(__has_feature)
#if __has_feature(address_sanitizer)
#define NM__ASAN 1
#endif
#if __has_feature(thread_sanitizer)
#define NM__TSAN 1
#endif
#endif
#if defined(__SANITIZE_ADDRESS__)
#define NM__ASAN 1
#endif

#ifdef NM__ASAN
#include <sanitizer/asan_interface.h>
#define NM_POISON(ptr, size) ASAN_POISON_MEMORY_REGION((ptr), (size))
#define NM_UNPOISON(ptr, size) ASAN_UNPOISON_MEMORY_REGION((ptr), (size))
#else
#define NM_POISON(ptr, size) ((void)(ptr), (void)(size))
#define NM_UNPOISON(ptr, size) ((void)(ptr), (void)(size))
#endif

#endif
