/* Each lock is given up by the thread that took it, and none is kept: what a lock that is forgotten does to others would show
 * in some runs only, with another thread in the midst of just that code. Where this is included before harness.h, the program's
 * .link has the four functions below wrapped, RUN asks after each test whether its thread has one left, and a thread that gives
 * up what it has not ends the program. A condition variable gives up its lock and takes it back itself: that is not seen. */
#ifndef LOCKS_H
#define LOCKS_H

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

/* The most that one thread has: a fork takes each lock that there is. */
#define LOCKS_MOST 1024

static _Thread_local pthread_mutex_t *locks_mine[LOCKS_MOST];
static _Thread_local int locks_mine_count;

int __real_pthread_mutex_lock(pthread_mutex_t *lock);
int __real_pthread_mutex_trylock(pthread_mutex_t *lock);
int __real_pthread_mutex_timedlock(pthread_mutex_t *lock, const struct timespec *until);
int __real_pthread_mutex_unlock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_lock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_trylock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_timedlock(pthread_mutex_t *lock, const struct timespec *until);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock);

static void locks_end(const char *what) {
    fprintf(stderr, "a thread %s\n", what);
    abort();
}

static int locks_taken(pthread_mutex_t *lock, int result) {
    if (result != 0) return result;
    if (locks_mine_count == LOCKS_MOST) locks_end("has more locks than are watched");
    locks_mine[locks_mine_count++] = lock;
    return result;
}

int __wrap_pthread_mutex_lock(pthread_mutex_t *lock) { return locks_taken(lock, __real_pthread_mutex_lock(lock)); }
int __wrap_pthread_mutex_trylock(pthread_mutex_t *lock) { return locks_taken(lock, __real_pthread_mutex_trylock(lock)); }
int __wrap_pthread_mutex_timedlock(pthread_mutex_t *lock, const struct timespec *until) {
    return locks_taken(lock, __real_pthread_mutex_timedlock(lock, until));
}

int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock) {
    int i = locks_mine_count - 1;
    while (i >= 0 && locks_mine[i] != lock) i--;
    if (i < 0) locks_end("gives up a lock that it has not taken");
    locks_mine[i] = locks_mine[--locks_mine_count];
    return __real_pthread_mutex_unlock(lock);
}

#endif
