/* NM_ASSERT: what a "Pre:" says, as code. Included by base.h.
 *
 * It is on where NM_DEBUG is defined: in all C tests, the mutants', fuzzing, the Python tests under AddressSanitizer, and in a
 * build with NATIVEMEM_CFLAGS=-DNM_DEBUG. There a broken precondition ends the process with the place and the condition.
 * Elsewhere the condition is not evaluated. It is not for what a user can get wrong: that has a status. */
#ifndef NM__ASSERT_H
#define NM__ASSERT_H

#include <pthread.h>
#include <stdbool.h>

#pragma GCC visibility push(hidden)
/* Says so at NM_LOG_FATAL and aborts, without taking memory. */
_Noreturn void nm__fatal(const char *message);
#pragma GCC visibility pop

#ifdef NM_DEBUG
#define NM__TEXT_OF(number) #number
#define NM__TEXT(number) NM__TEXT_OF(number)
#define NM_ASSERT(condition) \
    ((condition) ? (void)0 : nm__fatal(__FILE__ ":" NM__TEXT(__LINE__) ": precondition broken: " #condition))
#else
#define NM_ASSERT(condition) ((void)sizeof((condition) ? 1 : 0))
#endif

/* Whether any thread holds the lock. For NM_ASSERT. */
static inline bool nm__is_held(pthread_mutex_t *lock) {
    if (pthread_mutex_trylock(lock) != 0) return true;
    pthread_mutex_unlock(lock);
    return false;
}

#endif
