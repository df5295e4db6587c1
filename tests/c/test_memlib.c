/* memlib on the core: where it takes its memory from, what it says, and how it ends. What a program sees of the six
 * calls is in tests/memlib. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>

#include "locks.h"
#include "harness.h"

#include "nativemem.h"

/* What another thread does while this one makes the heap and the port: at the `moment`-th memory for a structure. */
void *__real_nm__meta_alloc(size_t size);
void *__wrap_nm__meta_alloc(size_t size);
static int moment;
static nm_plain *given, *found;
void *__wrap_nm__meta_alloc(size_t size) {
    if (moment > 0 && --moment == 0) {
        if (given != NULL) nm_memlib_use(given);
        found = nm_memlib_now();
    }
    return __real_nm__meta_alloc(size);
}

/* In a process of its own: it happens once. 0: as it should be; 1: not; 2: there is no such moment. */
static int first_use_at(int when, bool gives) {
    if (nm_region_init((size_t)1 << 30, (size_t)1 << 20, 1000) != NM_OK) return 1;
    nm_heap *heap = nm_heap_create(NULL, false);
    if (gives) given = nm_plain_create(nm_heap_port(heap), heap);
    moment = when;
    nm_plain *now = nm_memlib_now();
    if (moment != 0) return 2;
    void *block = nm_hmalloc(10);
    bool right = now == found && now == nm_memlib_now() && (!gives || now == given) && nm_heap_of(block) != NULL;
    nm_hfree(block);
    return right && (nm_heap_of(nm_hmalloc(10)) == heap) == gives ? 0 : 1;
}

static void test_first_use_beside_another(void) {
    for (int gives = 0; gives < 2; gives++) {
        int when = 1, status = 0;
        for (;; when++) {
            pid_t child = fork();
            if (child == 0) _exit(first_use_at(when, gives == 1));
            CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) != 1);
            if (!WIFEXITED(status) || WEXITSTATUS(status) != 0) break;
        }
        CHECK(WIFEXITED(status) && WEXITSTATUS(status) == 2 && when > 2); /* a heap and a port at least */
    }
}

/* The thread that comes first makes the heap; there is one in the end. */
static pthread_barrier_t gate;
static void *first_use(void *unused) {
    (void)unused;
    (void)pthread_barrier_wait(&gate);
    return memset(nm_hmalloc(100), 1, 100);
}

static void test_first_use_by_many(void) {
    enum { THREADS = 8 };
    pthread_t threads[THREADS];
    void *blocks[THREADS];
    (void)pthread_barrier_init(&gate, NULL, THREADS);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, first_use, NULL) == 0);
    for (int i = 0; i < THREADS; i++) CHECK(pthread_join(threads[i], &blocks[i]) == 0);
    const nm_heap *one = nm_heap_of(blocks[0]); /* before its memory goes back */
    CHECK(one != NULL);
    for (int i = 0; i < THREADS; i++) {
        CHECK(nm_heap_of(blocks[i]) == one);
        nm_hfree(blocks[i]);
    }
    (void)pthread_barrier_destroy(&gate);
}

static char said[1000];
static int levels[10], messages;

static void listen(nm_log_level level, const char *message) {
    if (messages < 10) levels[messages++] = (int)level;
    strcat(strcat(said, message), "\n");
}

static void forget(void) {
    said[0] = 0;
    messages = 0;
}

static void test_levels(void) {
    static const nm_log_level all[] = {NM_LOG_NOTHING, NM_LOG_USER,  NM_LOG_ERROR, NM_LOG_WARNING,
                                       NM_LOG_INFO,    NM_LOG_DEBUG, NM_LOG_ALL};
    for (int i = 0; i <= 6; i++) CHECK(all[i] == (nm_log_level)i && nm_log_level_of(i) == all[i]);
    CHECK(NM_LOG_FATAL == NM_LOG_USER);
    CHECK(nm_log_level_of(-1) == NM_LOG_INFO && nm_log_level_of(7) == NM_LOG_INFO && nm_log_level_of(INT32_MAX) == NM_LOG_INFO);
    for (int most = -1; most <= 7; most++) {
        nm_log_to(most, listen);
        forget();
        for (int i = 0; i <= 6; i++) nm_log(all[i], "a message");
        int until = most < 0 || most > 6 ? NM_LOG_INFO : most;
        CHECK(messages == until);
        for (int i = 0; i < messages; i++) CHECK(levels[i] == i + 1);
    }
    nm_log_to(NM_LOG_WARNING, NULL);
}

static void test_what_is_said(void) {
    nm_log_to(NM_LOG_ALL, listen);
    forget();
    CHECK(nm_mem_init() && nm_mem_uninit() && nm_mem_init() && nm_mem_init() && nm_mem_uninit());
    CHECK(messages == 5 && levels[0] == NM_LOG_INFO && levels[1] == NM_LOG_INFO);
    CHECK(strstr(said, "mem_init()") == said && strstr(said, "mem_uninit()") != NULL);
    forget();
    _Alignas(16) char mine[64] = {0};
    nm_hfree(mine + 16);
    CHECK(nm_hrealloc(mine + 16, 100) == NULL);
    CHECK(messages == 2 && levels[0] == NM_LOG_ERROR && levels[1] == NM_LOG_ERROR);
    CHECK(strcmp(said, "HFree() ERROR: not a block.\nHRealloc() ERROR: not a block.\n") == 0);
    forget();
    nm_hfree(NULL);
    CHECK(messages == 0);
    nm_log_to(NM_LOG_WARNING, NULL);
}

static nm_stats stats(nm_allocator a) {
    nm_stats s;
    a.methods->stats(a.self, &s);
    return s;
}

static void test_whose_memory(void) {
    char *own = nm_hmalloc(100);
    CHECK(nm_heap_of(own) != NULL);
    nm_hfree(own);
    nm_system *system = nm_system_create();
    nm_allocator port = nm_system_port(system);
    nm_plain *p = nm_plain_create(port, NULL);
    nm_memlib_use(p);
    CHECK(nm_memlib_now() == p);
    char *other = nm_hcalloc(100);
    CHECK(nm_heap_of(other) == NULL && stats(port).live == 1 && other[0] == 0 && other[99] == 0);
    fill(other, 100, 5);
    other = nm_hrealloc(other, 10000);
    CHECK(filled(other, 100, 5) && stats(port).live == 1);
    other = nm_hrealloc(other, 0);
    CHECK(other != NULL && stats(port).live == 1 && stats(port).used < 100);
    nm_hfree(other);
    CHECK(stats(port).live == 0);
    nm_memlib_use(NULL);
    CHECK(nm_memlib_now() != p && nm_memlib_now() != NULL);
    own = nm_hmalloc(0);
    CHECK(nm_heap_of(own) != NULL);
    nm_hfree(own);
    nm_plain_destroy(p);
    nm_system_destroy(system);
}

/* In a child, whose standard error is read: the message alone, and an abort. */
static void ends(void (*how)(void), const char *message) {
    int pipe_[2], status;
    CHECK(pipe(pipe_) == 0);
    pid_t child = fork();
    if (child == 0) {
        (void)dup2(pipe_[1], STDERR_FILENO);
        (void)signal(SIGABRT, SIG_DFL);
        how();
        _exit(0);
    }
    (void)close(pipe_[1]);
    char text[200] = {0};
    size_t n = 0;
    for (ssize_t more; n < sizeof text - 1 && (more = read(pipe_[0], text + n, sizeof text - 1 - n)) > 0;) n += (size_t)more;
    (void)close(pipe_[0]);
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
    CHECK(strcmp(text, message) == 0);
}

static void deny(void) {
    nm_failing *f = nm_failing_create(nm_system_port(nm_system_create()), 1, true);
    nm_memlib_use(nm_plain_create(nm_failing_port(f), NULL));
}
static void no_malloc(void) { deny(), (void)nm_hmalloc(10); }
static void no_byte(void) { deny(), (void)nm_hmalloc(0); }
static void no_calloc(void) { deny(), (void)nm_hcalloc(10); }
static void no_realloc(void) { deny(), (void)nm_hrealloc(NULL, 10); }
static void no_byte_again(void) {
    nm_failing *f = nm_failing_create(nm_system_port(nm_system_create()), 0, true);
    nm_memlib_use(nm_plain_create(nm_failing_port(f), NULL));
    void *block = nm_hmalloc(10);
    nm_failing_arm(f, 1, true);
    (void)nm_hrealloc(block, 0);
}
static void too_much(void) { (void)nm_hmalloc(SIZE_MAX / 2); }
static void far_too_much(void) { (void)nm_hcalloc(SIZE_MAX); }

static void test_ends(void) {
    ends(no_malloc, "HMalloc() FATAL: out of memory.\n");
    ends(no_byte, "HMalloc() FATAL: out of memory.\n");
    ends(no_calloc, "HCalloc() FATAL: out of memory.\n");
    ends(no_realloc, "HRealloc() FATAL: out of memory.\n");
    ends(no_byte_again, "HRealloc() FATAL: out of memory.\n");
    ends(too_much, "HMalloc() FATAL: out of memory.\n");
    ends(far_too_much, "HCalloc() FATAL: out of memory.\n");
}

/* A child goes on with the parent's blocks, and with blocks of its own. */
static void test_fork(void) {
    char *block = nm_hmalloc(1000);
    fill(block, 1000, 1);
    pid_t child = fork();
    if (child == 0) {
        int ok = filled(block, 1000, 1);
        block = nm_hrealloc(block, 100000);
        ok = ok && filled(block, 1000, 1);
        nm_hfree(block);
        nm_hfree(nm_hcalloc(100));
        _exit(ok ? 0 : 1);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    CHECK(filled(block, 1000, 1));
    nm_hfree(block);
}

int main(void) {
    RUN(test_first_use_beside_another()); /* before any other */
    RUN(test_first_use_by_many());
    RUN(test_levels());
    RUN(test_what_is_said());
    RUN(test_whose_memory());
    RUN(test_ends());
    RUN(test_fork());
    return finish();
}
