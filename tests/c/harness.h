/* A test is a function; CHECK counts what fails and goes on. One program a file: list the tests in MAIN. */
#ifndef HARNESS_H
#define HARNESS_H

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures_, failed_tests_, passed_tests_;

#define CHECK(condition)                                                    \
    do {                                                                    \
        if (!(condition)) {                                                 \
            failures_++;                                                    \
            fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
        }                                                                   \
    } while (0)

/* An nm_<noun>_check: NULL is sound. */
#define SOUND(expression)                                                                 \
    do {                                                                                  \
        const char *broken_ = (expression);                                               \
        if (broken_ != NULL) {                                                            \
            failures_++;                                                                  \
            fprintf(stderr, "%s:%d: %s: %s\n", __FILE__, __LINE__, #expression, broken_); \
        }                                                                                 \
    } while (0)

/* With locks.h: locks that this thread has taken and not given up. */
#ifdef LOCKS_H
#define LOCKS_LEFT() locks_mine_count
#else
#define LOCKS_LEFT() 0
#endif

#define RUN(test)                                  \
    do {                                           \
        int before_ = failures_;                   \
        test;                                      \
        CHECK(LOCKS_LEFT() == 0);                  \
        if (failures_ == before_) passed_tests_++; \
        else {                                     \
            failed_tests_++;                       \
            fprintf(stderr, "FAILED %s\n", #test); \
        }                                          \
    } while (0)

static inline int finish(void) {
    printf("%d passed, %d failed\n", passed_tests_, failed_tests_);
    return failed_tests_ != 0;
}

/* xorshift64: the same programs in every run. */
static inline uint64_t next_random(uint64_t *state) {
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}
static inline size_t below(uint64_t *state, size_t n) { return (size_t)(next_random(state) % n); }

/* Contents that tell whose block a byte is. */
static inline void fill(void *ptr, size_t size, unsigned seed) {
    unsigned char *bytes = ptr;
    for (size_t i = 0; i < size; i++) bytes[i] = (unsigned char)(seed * 31 + i * 7);
}
static inline int filled(const void *ptr, size_t size, unsigned seed) {
    const unsigned char *bytes = ptr;
    for (size_t i = 0; i < size; i++)
        if (bytes[i] != (unsigned char)(seed * 31 + i * 7)) return 0;
    return 1;
}

#endif
