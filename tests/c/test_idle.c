/* A process that does nothing: what it let go of goes back all the same, by a thread that does not outlast that. */
#define _DEFAULT_SOURCE /* mlock */
#include <errno.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#include "heap/heap.h"
#include "locks.h"
#include "harness.h"
#include "nativemem.h"

#define PAGE NM_SUPERBLOCK
#define MUCH ((size_t)64 * PAGE)
#define LITTLE ((size_t)8 * PAGE)
static nm_heap *heap;

/* The linker puts this before the system's (test_idle.link). */
static bool no_threads;
static int made, to_be_interrupted; /* threads that a signal of the program's could run in */
int __real_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *, const pthread_attr_t *, void *(*)(void *), void *);
int __wrap_pthread_create(pthread_t *thread, const pthread_attr_t *how, void *(*run)(void *), void *with) {
    sigset_t now;
    made++;
    CHECK(pthread_sigmask(SIG_SETMASK, NULL, &now) == 0);
    to_be_interrupted += !(sigismember(&now, SIGINT) == 1 && sigismember(&now, SIGUSR1) == 1 &&
                           sigismember(&now, SIGALRM) == 1);
    return no_threads ? EAGAIN : __real_pthread_create(thread, how, run, with);
}

static void free_one(size_t size) {
    char *ptr = nm_heap_malloc(heap, size);
    memset(ptr, 1, size);
    nm_heap_free(heap, ptr);
}
/* Nothing but this asks anything of the region meanwhile. */
static bool comes(bool (*condition)(void)) {
    for (uint64_t from = nm__os_now_ms(); nm__os_now_ms() - from < 20000; sched_yield())
        if (condition()) return true;
    return false;
}
static bool nothing_kept(void) { return nm_region_dirty() == 0; }
static bool nobody_there(void) { return !nm__region_watched(); }

static void test_what_is_kept_goes_back(void) {
    sigset_t usr2, before, after;
    CHECK(sigemptyset(&usr2) == 0 && sigaddset(&usr2, SIGUSR2) == 0 && pthread_sigmask(SIG_BLOCK, &usr2, &before) == 0);
    made = to_be_interrupted = 0;
    free_one(MUCH);
    CHECK(made == 1 && to_be_interrupted == 0); /* no signal of the program's is handled there */
    CHECK(pthread_sigmask(SIG_SETMASK, &before, &after) == 0 && sigismember(&after, SIGUSR2) == 1);
    CHECK(sigismember(&after, SIGINT) == 0 && sigismember(&after, SIGALRM) == 0);
    CHECK(comes(nothing_kept) && comes(nobody_there));
    for (int i = 0; i < 3; i++) {
        free_one(MUCH);
        CHECK(comes(nothing_kept) && comes(nobody_there)); /* it may have come by now */
        SOUND(nm__region_check());
    }
}

/* What is freed next to it, again and again, does not keep it. */
static void test_much_beside_a_little_that_is_used(void) {
    char *much = nm_heap_malloc(heap, MUCH), *fence = nm_heap_malloc(heap, PAGE);
    memset(much, 1, MUCH);
    nm_heap_free(heap, much);
    size_t least = MUCH;
    for (uint64_t from = nm__os_now_ms(); least > PAGE && nm__os_now_ms() - from < 20000;) {
        free_one(PAGE);
        least = nm_region_dirty() < least ? nm_region_dirty() : least;
    }
    CHECK(least <= PAGE);
    nm_heap_free(heap, fence);
    CHECK(comes(nothing_kept) || nm_region_dirty() <= LITTLE);
    SOUND(nm__region_check());
}

/* What is used again within the time stays: it is not returned and taken again in a loop. */
static void test_what_is_used_again_stays(void) {
    enum { DECAY = 200 };
    CHECK(nm_region_init(0, (size_t)1 << 30, DECAY) == NM_OK);
    char *first = nm_heap_malloc(heap, MUCH), *second = nm_heap_malloc(heap, MUCH);
    nm_heap_free(heap, first);
    nm_heap_free(heap, second);
    unsigned clean = 0;
    uint64_t start = nm__os_now_ms(), from = start, last = start, now = start;
    for (; now - from < 3 * DECAY && now - start < 20000; last = now, now = nm__os_now_ms()) {
        first = nm_heap_malloc(heap, MUCH), second = nm_heap_malloc(heap, MUCH);
        clean += nm__page_of(first)->zero + nm__page_of(second)->zero;
        nm_heap_free(heap, first);
        nm_heap_free(heap, second);
        if (now - last <= DECAY / 4) continue;
        from = now; /* others had the processor */
        clean = 0;
    }
    CHECK(clean == 0 || now - from < 3 * DECAY); /* the second: others never left it the processor for so long */
    CHECK(nm_region_init(0, (size_t)1 << 30, 10) == NM_OK);
    CHECK(comes(nothing_kept) && comes(nobody_there));
}

#if !defined(NM__WATCHED) && !defined(NM__TSAN) /* sanitizers lock nothing */
/* The system refuses: it is asked again later, by the same thread, and no caller sees anything of it. */
static void test_what_the_system_refuses(void) {
    enum { N = MUCH / LITTLE, MORE = 4 * N };
    char *all[MORE], *little[N]; /* between live ones: a large free one would be unmapped, locked or not */
    for (int i = 0; i < MORE; i++) all[i] = nm_heap_malloc(heap, LITTLE);
    int n = 0;
    bool locked = true;
    for (int i = 1; i + 1 < MORE && n < N; i++) {
        if (all[i - 1] != all[i] - LITTLE || all[i + 1] != all[i] + LITTLE) continue;
        locked &= mlock(all[i], LITTLE) == 0;
        little[n++] = all[i];
        all[i++] = NULL;
    }
    CHECK(n == N);
    if (locked) {
        errno = ENOTTY;
        for (int i = 0; i < N; i++) nm_heap_free(heap, little[i]);
        for (uint64_t from = nm__os_now_ms(); nm__os_now_ms() - from < 200; sched_yield()) /* 20 times the decay time */
            CHECK(nm__region_watched() && nm_region_dirty() == MUCH);
        nm_region_trim();
        CHECK(nm_region_dirty() == MUCH && errno == ENOTTY);
        for (int i = 0; i < N; i++) CHECK(munlock(little[i], LITTLE) == 0);
        CHECK(comes(nothing_kept) && comes(nobody_there));
    } else { /* so much may not be locked here */
        for (int i = 0; i < N; i++) nm_heap_free(heap, little[i]);
    }
    for (int i = 0; i < MORE; i++)
        if (all[i] != NULL) nm_heap_free(heap, all[i]);
    nm_region_trim();
    SOUND(nm__region_check());
}
#endif

/* No thread can be made: what was let go of stays until the next time, and the region is as it was. */
static void test_a_thread_that_cannot_be_made(void) {
    for (int i = 0; i < 3; i++) {
        no_threads = true;
        errno = ENOTTY;
        free_one(MUCH);
        CHECK(errno == ENOTTY && !nm__region_watched() && nm_region_dirty() >= MUCH);
        SOUND(nm__region_check());
        no_threads = false;
        free_one(MUCH);
        CHECK(comes(nothing_kept) && comes(nobody_there));
    }
}

static void test_a_little_may_stay(void) {
    free_one(LITTLE);
    CHECK(nm_region_dirty() == LITTLE && !nm__region_watched());
    nm_region_trim();
}

#ifndef NM__TSAN /* does not support forks of a process with threads */
static int threads(void) {
    FILE *stat = fopen("/proc/self/stat", "r");
    int n = -1;
    if (stat == NULL) return 1;
    if (fscanf(stat, "%*d (%*[^)]) %*c %*d %*d %*d %*d %*d %*u %*u %*u %*u %*u %*u %*u %*d %*d %*d %*d %d", &n) != 1) n = -1;
    fclose(stat);
    return n;
}
static bool alone(void) { return threads() == 1; }

static void test_fork_ends_it_and_both_sides_have_it_again(void) {
    CHECK(nm_region_init(0, (size_t)1 << 30, 1000000) == NM_OK); /* it waits */
    free_one(MUCH);
    CHECK(nm__region_watched() && threads() == 2);
    pid_t child = fork();
    CHECK(!nm__region_watched() && nm_region_dirty() == 0);
    CHECK(comes(alone)); /* a joined thread is counted for a moment yet */
    CHECK(nm_region_init(0, (size_t)1 << 30, 10) == NM_OK);
    free_one(MUCH);
    CHECK(comes(nothing_kept) && comes(nobody_there));
    if (child == 0) _exit(failures_ != 0);
    int state = -1;
    CHECK(waitpid(child, &state, 0) == child && state == 0);
}

static atomic_bool go_on = true;
static atomic_int running;
static void *churn(void *seed) {
    uint64_t random = (uint64_t)(uintptr_t)seed;
    free_one(PAGE);
    atomic_fetch_add(&running, 1);
    while (atomic_load(&go_on)) free_one(PAGE * (1 + below(&random, 200)));
    return NULL;
}
static bool all_run(void) { return atomic_load(&running) == 3; }
static void test_forks_of_a_busy_process(void) {
    CHECK(nm_region_init(0, (size_t)1 << 30, 1) == NM_OK);
    pthread_t busy[3];
    for (uintptr_t i = 0; i < 3; i++) CHECK(pthread_create(&busy[i], NULL, churn, (void *)(i + 1)) == 0);
    CHECK(comes(all_run)); /* a starting thread may hold a lock of the sanitizer's, which a fork would keep for good */
    for (int i = 0; i < 30; i++) {
        pid_t child = fork();
        if (child == 0) {
            for (int k = 0; k < 20; k++) free_one(MUCH);
            _exit(!comes(nothing_kept));
        }
        int state = -1;
        CHECK(waitpid(child, &state, 0) == child && state == 0);
    }
    atomic_store(&go_on, false);
    for (int i = 0; i < 3; i++) pthread_join(busy[i], NULL);
    CHECK(comes(nothing_kept) && comes(nobody_there));
    SOUND(nm__region_check());
}

/* A heap was there before any budget; the level is left with a heap's lock held. */
static nm_heap *charged;
static void *go_up_and_down(void *unused) {
    (void)unused;
    while (atomic_load(&go_on)) nm_heap_free(charged, nm_heap_malloc(charged, 40 * PAGE));
    return NULL;
}
static void test_forks_beside_a_heap_with_a_budget(void) {
    nm_budget *budget = nm_budget_create(64 * PAGE, NULL, &(nm_budget_options){.warn = 0.5, .critical = 0.9});
    charged = nm_heap_create(budget, false);
    pthread_t other;
    atomic_store(&go_on, true);
    CHECK(pthread_create(&other, NULL, go_up_and_down, NULL) == 0);
    for (int i = 0; i < 300; i++) {
        pid_t child = fork();
        if (child == 0) _exit(nm_budget_used(budget) % PAGE != 0);
        int state = -1;
        CHECK(waitpid(child, &state, 0) == child && state == 0);
    }
    atomic_store(&go_on, false);
    pthread_join(other, NULL);
    CHECK(nm_budget_used(budget) == 0);
    nm_heap_destroy(charged);
    nm_budget_destroy(budget);
}

#endif

int main(void) {
    if (nm_region_init((size_t)1 << 30, (size_t)1 << 30, 10) != NM_OK || (heap = nm_heap_create(NULL, false)) == NULL) return 2;
    free_one(MUCH); /* no call asked for it yet */
    CHECK(!nm__region_watched());
    nm_region_trim();
    nm__region_watch();
    RUN(test_a_little_may_stay());
    RUN(test_what_is_kept_goes_back());
    RUN(test_a_thread_that_cannot_be_made());
    RUN(test_much_beside_a_little_that_is_used());
    RUN(test_what_is_used_again_stays());
#if !defined(NM__WATCHED) && !defined(NM__TSAN)
    RUN(test_what_the_system_refuses());
#endif
#ifndef NM__TSAN
    RUN(test_fork_ends_it_and_both_sides_have_it_again());
    RUN(test_forks_of_a_busy_process());
    RUN(test_forks_beside_a_heap_with_a_budget());
#endif
    nm__region_before_fork(); /* ends the last of them */
    nm__region_after_fork(false);
    nm_heap_destroy(heap);
    return finish();
}
