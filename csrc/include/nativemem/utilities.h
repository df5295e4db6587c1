/* Utilities: alignment and bytes. No state; any thread. */
#ifndef NATIVEMEM_UTILITIES_H
#define NATIVEMEM_UTILITIES_H

#include "nativemem/base.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Precondition of all with an alignment: it is a power of two. */
static inline size_t nm_align_down(size_t n, size_t align) { return n & ~(align - 1); }
/* Bytes from n to the next multiple of align. */
static inline size_t nm_padding_needed(size_t n, size_t align) { return (0 - n) & (align - 1); }
/* The least power of two >= n; 1 for 0. false: it does not fit; *out is untouched. */
static inline bool nm_next_power_of_two(size_t n, size_t *out) {
    size_t power = 1;
    if (n > SIZE_MAX / 2 + 1) return false;
    while (power < n) power *= 2;
    *out = power;
    return true;
}

/* The areas may overlap. */
void nm_copy(void *to, const void *from, size_t size);
void nm_fill(void *ptr, unsigned char byte, size_t size);
/* -1, 0 or 1, by the first byte that differs, as unsigned. */
int nm_compare(const void *a, const void *b, size_t size);
/* Zeroes in a way that the compiler cannot drop. */
void nm_secure_zero(void *ptr, size_t size);
/* Whether both are the same, in a time that depends on size alone. */
bool nm_equal_constant_time(const void *a, const void *b, size_t size);

#ifdef __cplusplus
}
#endif
#endif
