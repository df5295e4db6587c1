/* memlib_redirect: a code base that calls malloc, on memlib's calls by this header alone.
 *
 * No source is edited. The compiler puts the header in front of each of the code base's own files, and the program is
 * linked with libnativemem:
 *
 *   cc -include memlib_redirect.h $(pkg-config --cflags nativemem) -c each.c
 *
 *   malloc(n)        HMalloc(n)                 strdup(s)             a copy in HMalloc's memory
 *   calloc(a, b)     HCalloc(a * b), checked    strndup(s, n)         the same
 *   realloc(p, n)    HRealloc(p, n)             reallocarray(p, a, b) HRealloc(p, a * b), checked
 *   free(p)          HFree(p)
 *
 * memlib.h is the contract from there on. So want of memory ends the process, and a product that no size_t holds is
 * want of memory: none of these returns NULL for it.
 *
 * They are function-like macros. A name that no parenthesis follows is still the C library's function, and so is one
 * in parentheses: (free)(p).
 *
 * Hazards. Each is about memory that is handed out on one side and given back on the other.
 *  - free, malloc or realloc as a pointer (`table_make(free)`) is the C library's, and ends the process when it meets
 *    memlib's block. Hand over a function that calls it. nm -u shows which files do: once a file is switched, its object
 *    refers to none of these names.
 *  - What the C library hands out (getline, asprintf, getcwd(NULL, 0), realpath(p, NULL), open_memstream, scanf's %m,
 *    wcsdup) goes back to it: (free)(line). HFree on the native core reports it at NM_LOG_ERROR and leaves it alone,
 *    so it leaks; HRealloc reports it and returns NULL. Never hand getline or getdelim a buffer of malloc's.
 *  - Each file that shares blocks with another is compiled with the header, or neither is. A library beyond the code
 *    base that takes over or hands out blocks has a side too.
 *  - A member or function of another's that has one of the names is renamed where arguments follow: x->free(p) does
 *    not compile. (x->free)(p) does.
 *  - The header includes <stdlib.h> and <string.h>, so a #define _GNU_SOURCE in the file comes too late. Give such
 *    macros on the command line.
 *  - A larger alignment than malloc's is not for memlib, and malloc_usable_size knows its own blocks only. Calls of
 *    these do not compile; in parentheses they do, and (free)(p) takes the block back.
 *  - In C++ std::malloc(n) does not compile. new and delete stay where they are.
 */
#ifndef MEMLIB_REDIRECT_H
#define MEMLIB_REDIRECT_H

/* Before the macros, which would rewrite the declarations in them. C++'s headers undefine such macros. */
#ifdef __cplusplus
#include <cstdlib>
#include <cstring>
#endif
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#ifdef __linux__
#include <malloc.h>
#endif

#include "memlib.h"

/* SIZE_MAX, which no machine has, where no size_t holds the product. */
static inline size_t nm__redirect_product(size_t count, size_t size) {
    return size != 0 && count > SIZE_MAX / size ? SIZE_MAX : count * size;
}

static inline char *nm__redirect_copy(const char *text, size_t length) {
    char *copy = (char *)HMalloc(length + 1);
    memcpy(copy, text, length);
    copy[length] = '\0';
    return copy;
}

static inline char *nm__redirect_strdup(const char *text) { return nm__redirect_copy(text, strlen(text)); }

static inline char *nm__redirect_strndup(const char *text, size_t most) {
    const char *end = (const char *)memchr(text, '\0', most);
    return nm__redirect_copy(text, end != NULL ? (size_t)(end - text) : most);
}

#undef malloc
#undef calloc
#undef realloc
#undef reallocarray
#undef free
#undef strdup
#undef strndup
#define malloc(size) HMalloc(size)
#define calloc(count, size) HCalloc(nm__redirect_product(count, size))
#define realloc(ptr, size) HRealloc(ptr, size)
#define reallocarray(ptr, count, size) HRealloc(ptr, nm__redirect_product(count, size))
#define free(ptr) HFree(ptr)
#define strdup(text) nm__redirect_strdup(text)
#define strndup(text, most) nm__redirect_strndup(text, most)

#undef aligned_alloc
#undef posix_memalign
#undef memalign
#undef valloc
#undef pvalloc
#undef malloc_usable_size
#define aligned_alloc(align, size) memlib_redirect_has_no_aligned_alloc
#define posix_memalign(out, align, size) memlib_redirect_has_no_posix_memalign
#define memalign(align, size) memlib_redirect_has_no_memalign
#define valloc(size) memlib_redirect_has_no_valloc
#define pvalloc(size) memlib_redirect_has_no_pvalloc
#define malloc_usable_size(ptr) memlib_redirect_has_no_malloc_usable_size

#endif
