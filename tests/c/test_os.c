/* What the core asks of the system, call by call; the gaps of samplers; what a thread's end calls. */
#define _GNU_SOURCE /* MAP_ANONYMOUS, process_vm_readv */
#include <errno.h>
#include <pthread.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "harness.h"

#include "base/base.h"
#include "base/poisson.h"
#include "tuning.h"

/* No call may change errno, whether it succeeds or not: a free stands between a program's call and its look at why. */
#define KEEPS_ERRNO(expression) (errno = 77, (expression) && errno == 77)

static void test_memory_at_an_address(void) {
    size_t page = nm__os_page_size();
    CHECK(page == (size_t)sysconf(_SC_PAGESIZE));
    uintptr_t landing = 0;
    CHECK(KEEPS_ERRNO((landing = nm__os_landing()) != 0 && landing % page == 0));
    void *left = (void *)landing; // NOLINT(performance-no-int-to-ptr)
    CHECK(nm__os_map(left, page) == NM__MAPPED && nm__os_unmap(left, page)); /* nothing was left there */
    char *at = mmap(NULL, 2 * page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    CHECK(at != MAP_FAILED && nm__os_map(at, 2 * page) == NM__TAKEN && munmap(at, 2 * page) == 0);
    CHECK(KEEPS_ERRNO(nm__os_map(at, 2 * page) == NM__MAPPED));
    at[0] = at[2 * page - 1] = 5;
    CHECK(KEEPS_ERRNO(nm__os_map(at, page) == NM__TAKEN) && KEEPS_ERRNO(nm__os_map(at + page, 2 * page) == NM__TAKEN));
    CHECK(at[0] == 5 && at[2 * page - 1] == 5);
    CHECK(KEEPS_ERRNO(nm__os_purge(at, page)) && at[0] == 0 && at[2 * page - 1] == 5);
    CHECK(KEEPS_ERRNO(!nm__os_purge(at + 1, page)) && KEEPS_ERRNO(!nm__os_unmap(at + 1, page)) && at[2 * page - 1] == 5);
    CHECK(KEEPS_ERRNO(nm__os_unmap(at, page)) && at[page] == 0 && KEEPS_ERRNO(nm__os_map(at, page) == NM__MAPPED));
    CHECK(KEEPS_ERRNO(nm__os_unmap(at, 2 * page)));
    CHECK(KEEPS_ERRNO(!nm__os_guard(at, page)) && KEEPS_ERRNO(!nm__os_open(at, page)));
    errno = 77;
    nm__os_prefer_huge(at, page, true); /* nothing is there */
    CHECK(errno == 77);
}

static void test_what_no_process_can_map(void) {
    size_t page = nm__os_page_size();
    void *beyond = (void *)((uintptr_t)1 << 60); // NOLINT(performance-no-int-to-ptr)
    bool is_wish = false;
#ifndef NM__TSAN /* whose mmap drops the address: os.c says what comes of that */
    /* Valgrind and qemu take the address for a wish, and map elsewhere: as if something were in the way. */
    void *there = mmap(beyond, page, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    is_wish = there != MAP_FAILED;
    if (is_wish) (void)munmap(there, page);
#endif
    nm__mapping got = NM__MAPPED;
    CHECK(KEEPS_ERRNO((got = nm__os_map(beyond, page)) == NM__REFUSED || (is_wish && got == NM__TAKEN)));
}

/* Whether the system lets a process look into itself so: without that the answer is always yes. */
static bool looks(const void *there, size_t size) {
    char copy[64];
    struct iovec from = {(void *)(uintptr_t)there, size}, to = {copy, size};
    return process_vm_readv(getpid(), &to, 1, &from, 1, 0) == (ssize_t)size;
}

static void test_what_can_be_read(void) {
    size_t page = nm__os_page_size();
    char *at = mmap(NULL, 2 * page, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0), *end = at + page;
    CHECK(at != MAP_FAILED && KEEPS_ERRNO(nm__os_guard(end, page)));
    CHECK(KEEPS_ERRNO(nm__os_is_readable(at, page)) && KEEPS_ERRNO(nm__os_is_readable(end - 16, 16)));
    if (looks(at, 16)) {
        CHECK(!looks(end, 16)); /* so the system can tell, and then so can we */
        CHECK(KEEPS_ERRNO(!nm__os_is_readable(end, 16)) && KEEPS_ERRNO(!nm__os_is_readable(end - 8, 16)));
        CHECK(!nm__os_is_readable(end - 32, 64) && !nm__os_is_readable(end - 63, 64) && !nm__os_is_readable(NULL, 1));
        CHECK(nm__os_is_readable(end - 64, page)); /* the first 64 bytes say it */
    }
    CHECK(KEEPS_ERRNO(nm__os_open(end, page)) && nm__os_is_readable(end - 8, 16));
    end[0] = 1;
    CHECK(munmap(at, 2 * page) == 0);
}

static int64_t clock_ns(clockid_t clock) {
    struct timespec t;
    CHECK(clock_gettime(clock, &t) == 0);
    return (int64_t)t.tv_sec * 1000000000 + (int64_t)t.tv_nsec;
}

static void test_the_clocks_are_the_systems(void) {
    int64_t before = clock_ns(CLOCK_MONOTONIC), now = nm__os_monotonic_ns(), after = clock_ns(CLOCK_MONOTONIC);
    CHECK(before <= now && now <= after);
    for (int i = 0; i < 3; i++) { /* it may be set meanwhile */
        before = clock_ns(CLOCK_REALTIME), now = nm__os_time_ns(), after = clock_ns(CLOCK_REALTIME);
        if (before <= now && now <= after) break;
    }
    CHECK(before <= now && now <= after);
}

static void test_the_limit_of_the_address_space(void) {
    struct rlimit was, limit;
    CHECK(getrlimit(RLIMIT_AS, &was) == 0);
    CHECK(nm__os_address_limit() == (was.rlim_cur == RLIM_INFINITY ? SIZE_MAX : (size_t)was.rlim_cur));
    limit = was;
    limit.rlim_cur = was.rlim_cur == RLIM_INFINITY ? (rlim_t)1 << 50 : was.rlim_cur - 4096;
    CHECK(setrlimit(RLIMIT_AS, &limit) == 0 && nm__os_address_limit() == (size_t)limit.rlim_cur);
    CHECK(setrlimit(RLIMIT_AS, &was) == 0);
}

/* As Vigna's xorshift64* and a C library's logarithm have them. */
static void test_gaps(void) {
    static const struct {
        uint64_t random;
        double gaps[8];
    } known[] = {
        {1, {1269988, 398782, 320417, 1192277, 2879252, 244845, 206087, 395107}},
        {UINT64_C(0x9E3779B97F4A7C15), {2941417, 1105274, 419588, 713431, 569499, 483205, 182012, 907570}},
    };
    for (size_t i = 0; i < sizeof known / sizeof *known; i++) {
        uint64_t random = known[i].random;
        for (size_t k = 0; k < 8; k++) {
            double error = (double)nm__poisson_gap(&random, 1000000) - known[i].gaps[k];
            CHECK(error > -20 && error <= 21); /* 2e-5 of the mean, and what rounding up to the next byte adds */
        }
    }
    uint64_t random = 1;
    double sum = 0;
    for (int i = 0; i < 1000000; i++) {
        int64_t gap = nm__poisson_gap(&random, 100);
        CHECK(gap >= 1);
        sum += (double)gap;
    }
    CHECK(sum > 99.5e6 && sum < 101.5e6); /* the mean, and half a byte */
    for (int i = 0; i < 100; i++) CHECK(nm__poisson_gap(&random, 0) == 1);
    int cut = 0;
    for (int i = 0; i < 100; i++) cut += nm__poisson_gap(&random, SIZE_MAX) == INT64_MAX / 2;
    CHECK(cut > 60 && cut < 95); /* e to the power of -1/4 of them */
}

static void test_a_gate_is_passed_by_so_many_bytes(void) {
    nm__gate gate = {.left = 100};
    CHECK(!nm__gate_is_due(&gate, 60) && !nm__gate_is_due(&gate, 40) && gate.left == 0);
    CHECK(nm__gate_is_due(&gate, 1) && gate.left == -1 && nm__gate_is_due(&gate, 1) && gate.left == -2);
}

/* ---- the end of a thread ---------------------------------------------------------------------------- */

static char called[64];
static void call(char name) { called[strlen(called)] = name; }
#define HOOK(name) \
    static void hook_##name(void) { call(#name[0]); }
HOOK(a)
HOOK(b)
HOOK(c)
HOOK(d)
HOOK(e)
HOOK(f)
HOOK(g)
HOOK(h)
HOOK(i)
HOOK(j)

static bool again;
static void arm_again(void) {
    call('!');
    if (again) nm__arm_thread_end();
    again = false;
}

static void *end_thread(void *armed) {
    if (armed != NULL) nm__arm_thread_end();
    return NULL;
}
static void run_to_its_end(void *armed) {
    pthread_t thread;
    memset(called, 0, sizeof called);
    CHECK(pthread_create(&thread, NULL, end_thread, armed) == 0 && pthread_join(thread, NULL) == 0);
}

static void test_what_a_threads_end_calls(void) {
    nm__at_thread_end(hook_a);
    nm__at_thread_end(hook_b);
    nm__at_thread_end(hook_a); /* is there */
    run_to_its_end(NULL);
    CHECK(strcmp(called, "") == 0);
    run_to_its_end(&again);
    CHECK(strcmp(called, "ab") == 0);
    nm__at_thread_end(arm_again);
    again = true;
    run_to_its_end(&again);
    CHECK(strcmp(called, "ab!ab!") == 0 && !again);
    static void (*const more[])(void) = {hook_c, hook_d, hook_e, hook_f, hook_g, hook_h, hook_i, hook_j};
    for (size_t i = 0; i < sizeof more / sizeof *more; i++) nm__at_thread_end(more[i]);
    _Static_assert(NM_THREAD_HOOKS == 8, "three are there, and five more have room");
    run_to_its_end(&again);
    CHECK(strcmp(called, "ab!cdefg") == 0);
}

static void *number(void *out) {
    CHECK(nm__thread_number == 0 && nm__acting_as == 0);
    *(uintptr_t *)out = nm__thread_id();
    CHECK(nm__thread_number == nm__thread_id() && nm__acting_as == nm__thread_number && nm__may_use(nm__thread_number));
    return NULL;
}

static void test_no_two_threads_have_one_number(void) {
    uintptr_t first = nm__thread_id(), of_thread = 0, made = nm__new_thread_number();
    pthread_t thread;
    CHECK(first != 0 && first == nm__thread_id() && made > first);
    CHECK(pthread_create(&thread, NULL, number, &of_thread) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(of_thread == made + 1 && nm__new_thread_number() == made + 2 && nm__thread_id() == first && !nm__may_use(made));
}

/* ---- counters that any thread may write -------------------------------------------------------------- */

static void test_counters(void) {
    nm__counter c = 5, less = 3;
    CHECK(nm__atomic_add(&c, 4) == 9 && nm__get(&c) == 9 && nm__atomic_sub(&c, 2) == 7 && nm__get_first(&c) == 7);
    nm__atomic_max(&c, 6);
    CHECK(nm__get(&c) == 7);
    nm__atomic_max(&c, 8);
    CHECK(nm__get(&c) == 8 && nm__difference(&c, &less) == 5);
    nm__bump(&c, 2);
    nm__bump_last(&c, 3);
    CHECK(nm__get(&c) == 13);
    nm__set_last(&c, 1);
    CHECK(nm__get(&c) == 1);
}

int main(void) {
    RUN(test_memory_at_an_address());
    RUN(test_what_no_process_can_map());
    RUN(test_what_can_be_read());
    RUN(test_the_clocks_are_the_systems());
    RUN(test_the_limit_of_the_address_space());
    RUN(test_gaps());
    RUN(test_a_gate_is_passed_by_so_many_bytes());
    RUN(test_no_two_threads_have_one_number());
    RUN(test_what_a_threads_end_calls());
    RUN(test_counters());
    return finish();
}
