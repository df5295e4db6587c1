/* Tests of functions that check invariants: each message, for a place that is wrong. */
#ifndef CHECKS_H
#define CHECKS_H

#include <stdbool.h>

#include "harness.h"

static inline bool says(const char *broken, const char *message) {
    if (broken != NULL && strcmp(broken, message) == 0) return true;
    fprintf(stderr, "not %s: %s\n", message, broken == NULL ? "nothing" : broken);
    return false;
}

/* With `place` as `wrong` the check says so; then all is as it was. */
#define BROKEN(check, place, wrong, message) \
    do {                                     \
        __typeof__(place) sound_ = (place);  \
        (place) = (wrong);                   \
        CHECK(says(check, message));         \
        (place) = sound_;                    \
        SOUND(check);                        \
    } while (0)

#endif
