/* The one file that knows the memory checkers.
 *
 * AddressSanitizer and Valgrind see what malloc and mmap give: chunks, superblocks, spans. Told here what of
 * them is a block, they find mistakes to the byte. Under AddressSanitizer that happens by itself; for Valgrind the
 * core is compiled with NM_VALGRIND. Elsewhere all of this is nothing.
 *
 *   NM_POISON    these bytes are in no block: a touch is a mistake
 *   NM_UNPOISON  they are in a block, or the allocator's, and nothing is known of their contents
 *   NM_REOPEN    as NM_UNPOISON, with the contents that were there
 *
 * NM_UNPOISON of bytes in a live block makes Valgrind forget that they were written: only what is new in the
 * block may be named.
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
#if defined(__SANITIZE_THREAD__)
#define NM__TSAN 1
#endif

#if defined(NM__ASAN)
#include <sanitizer/asan_interface.h>
#define NM_POISON(ptr, size) ASAN_POISON_MEMORY_REGION((ptr), (size))
#define NM_UNPOISON(ptr, size) ASAN_UNPOISON_MEMORY_REGION((ptr), (size))
#define NM_REOPEN(ptr, size) ASAN_UNPOISON_MEMORY_REGION((ptr), (size))
#elif defined(NM_VALGRIND)
#include <valgrind/memcheck.h>
#define NM_POISON(ptr, size) ((void)VALGRIND_MAKE_MEM_NOACCESS((ptr), (size)))
#define NM_UNPOISON(ptr, size) ((void)VALGRIND_MAKE_MEM_UNDEFINED((ptr), (size)))
#define NM_REOPEN(ptr, size) ((void)VALGRIND_MAKE_MEM_DEFINED((ptr), (size)))
#else
#define NM_POISON(ptr, size) ((void)sizeof(ptr), (void)sizeof(size)) /* not evaluated */
#define NM_UNPOISON(ptr, size) NM_POISON(ptr, size)
#define NM_REOPEN(ptr, size) NM_POISON(ptr, size)
#endif

/* A checker looks on: a test that reads or writes a freed block on purpose must be left out, or open the block first. */
#if defined(NM__ASAN) || defined(NM_VALGRIND)
#define NM__WATCHED 1
#endif

/* The first word of a free cell is the allocator's: a link. To all other code it is as dead as the rest. */
static inline __attribute__((always_inline)) void *nm__peek(const void *cell) {
    NM_REOPEN(cell, sizeof(void *));
    void *word = *(void *const *)cell;
    NM_POISON(cell, sizeof(void *));
    return word;
}
static inline __attribute__((always_inline)) void nm__poke(void *cell, void *word) {
    NM_REOPEN(cell, sizeof(void *));
    *(void **)cell = word;
    NM_POISON(cell, sizeof(void *));
}

#endif
