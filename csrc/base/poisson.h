/* The gaps of a Poisson process over bytes, for samplers: each byte has the same small chance of being noted. */
#ifndef NM__POISSON_H
#define NM__POISSON_H

#include "base/base.h"

/* A gate: what passes it is counted, until the next sample. It is one thread's, and may be one of several of that thread, if
 * each byte passes one of them: processes over parts of the bytes are together one over all.
 * What is counted down is a part of the gap at most, so that a gate of another run, with a long gap, notices that soon. */
typedef struct nm__gate {
    int64_t left;
    int64_t rest; /* of the gap, beyond what is left */
    uint64_t run; /* in which the gap was drawn; 0: in none */
} nm__gate;

/* true: its turn may have come, as the gate's user finds out where it is due. */
NM_INLINE bool nm__gate_is_due(nm__gate *gate, size_t size) {
    gate->left -= (int64_t)size;
    return NM_UNLIKELY(gate->left < 0);
}

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
