/* The gaps of a Poisson process over bytes, for samplers: each byte has the same small chance of being noted. */
#ifndef NM__POISSON_H
#define NM__POISSON_H

#include "base/base.h"

/* Bytes to the next sample, 1 or more: -ln of a random number in (0, 1], times the mean. Of the logarithm's series in
 * (m - 1) / (m + 1) four terms are within 1e-5 for m in [1, 2). *random is Marsaglia's xorshift64 with Vigna's multiplier.
 * Pre: *random != 0. */
static inline int64_t nm__poisson_gap(uint64_t *random, size_t mean) {
    uint64_t x = *random;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *random = x;
    x = x * UINT64_C(0x2545F4914F6CDD1D) | 1;
    int zeros = __builtin_clzll(x);
    double m = (double)(x << zeros) * 0x1p-63, s = (m - 1) / (m + 1), s2 = s * s;
    double ln_m = 2 * s * (1 + s2 * (1.0 / 3 + s2 * (1.0 / 5 + s2 / 7)));
    double gap = ((zeros + 1) * 0.69314718055994531 - ln_m) * (double)mean;
    return gap < 0x1p62 ? (int64_t)gap + 1 : INT64_MAX / 2;
}

#endif
