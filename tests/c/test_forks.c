/* What is locked across a fork: each lock that a handler opens afterwards was taken before, by the thread that forks, in the
 * parent and in the child. A handler that forgets one is seen by no other test: it takes another thread, in the midst of just
 * that lock. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <sys/wait.h>
#include <unistd.h>

#include "harness.h"
#include "nativemem.h"

#define MOST 64
static struct {
    pthread_mutex_t *lock;
    int depth, taken;
} locks[MOST];
static bool watching;
static int wrong;

static void note(pthread_mutex_t *lock, int by) {
    int i = 0;
    if (!watching) return;
    while (i < MOST - 1 && locks[i].lock != lock && locks[i].lock != NULL) i++;
    locks[i].lock = lock;
    locks[i].depth += by;
    locks[i].taken += by > 0;
    wrong += locks[i].depth < 0 || locks[i].depth > 1;
}

int __real_pthread_mutex_lock(pthread_mutex_t *lock);
int __real_pthread_mutex_unlock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_lock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock);
int __wrap_pthread_mutex_lock(pthread_mutex_t *lock) {
    note(lock, 1);
    return __real_pthread_mutex_lock(lock);
}
int __wrap_pthread_mutex_unlock(pthread_mutex_t *lock) {
    note(lock, -1);
    return __real_pthread_mutex_unlock(lock);
}

/* How many locks were taken; -1 where one was not given back, or given back without it. */
static int taken(void) {
    int count = 0;
    for (int i = 0; i < MOST; i++) {
        count += locks[i].taken != 0;
        if (locks[i].depth != 0) wrong++;
    }
    return wrong == 0 ? count : -1;
}

static int taken_by_a_fork(void) {
    memset(locks, 0, sizeof locks);
    watching = true;
    pid_t child = fork();
    watching = false;
    if (child == 0) _exit(taken() < 0 ? 255 : taken());
    int status = 0, here = taken();
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == here);
    return here;
}

/* Where the child sees them: it ends without giving them back. */
static nm_budget *b, *inner;
static nm_heap *h;
static nm_plain *plain;
static nm_verified *v;
static nm_traced *traced;
static nm_slab *slab;

static void test_locks_across_a_fork(void) {
    int before = taken_by_a_fork(), after;
    CHECK(before >= 0);
    b = nm_budget_create(1 << 20, NULL, NULL);
    inner = nm_budget_create(1 << 10, b, NULL);
    after = taken_by_a_fork();
    CHECK(after > before);
    before = after;
    CHECK(nm_region_init((size_t)1 << 30, (size_t)1 << 20, 1000) == NM_OK);
    h = nm_heap_create(b, false);
    void *block = nm_alloc(nm_heap_port(h), 100, 16);
    after = taken_by_a_fork();
    CHECK(block != NULL && after > before);
    before = after;
    plain = nm_plain_create(nm_heap_port(h), h);
    after = taken_by_a_fork();
    CHECK(plain != NULL && after > before);
    before = after;
    v = nm_verified_create(nm_heap_port(h), NM_VERIFY_FULL, 1);
    after = taken_by_a_fork();
    CHECK(v != NULL && after > before);
    before = after;
    traced = nm_traced_create(nm_heap_port(h), (nm_traced_options){.histogram = true});
    after = taken_by_a_fork();
    CHECK(traced != NULL && after > before);
    before = after;
    slab = nm_slab_create(nm_heap_port(h), (const size_t[]){32}, 1, false);
    void *cell = nm_alloc(nm_slab_port(slab), 32, 16);
    after = taken_by_a_fork();
    CHECK(cell != NULL && after > before);
    nm_slab_destroy(slab);
    nm_traced_destroy(traced);
    nm_verified_destroy(v);
    nm_plain_destroy(plain);
    CHECK(nm_free(nm_heap_port(h), block, 100, 16) == NM_OK);
    nm_heap_destroy(h);
    nm_budget_destroy(inner);
    nm_budget_destroy(b);
}

int main(void) {
    RUN(test_locks_across_a_fork());
    return finish();
}
