#define _GNU_SOURCE /* MAP_ANONYMOUS, MADV_*, CLOCK_MONOTONIC_COARSE, process_vm_readv */
#include <errno.h>
#include <sys/mman.h>
#include <sys/random.h>
#include <sys/resource.h>
#include <sys/uio.h>
#include <time.h>
#include <unistd.h>

#include "base/base.h"

/* A free between a call that failed and the look at why must not change the answer. */
static bool os_succeeds(int result, int error_before) {
    errno = error_before;
    return result == 0;
}

/* Kernels before 4.17, and Valgrind, take the address for a wish, and map elsewhere where something is in the way. */
#ifndef MAP_FIXED_NOREPLACE
#ifdef __linux__
#define MAP_FIXED_NOREPLACE 0x100000
#else
#define MAP_FIXED_NOREPLACE 0
#endif
#endif

size_t nm__os_page_size(void) {
    long size = sysconf(_SC_PAGESIZE);
    return size > 0 ? (size_t)size : 4096;
}

nm__mapping nm__os_map(void *at, size_t size) {
#ifdef NM__TSAN /* its mmap drops an address that no program may have, and then root gets what is asked for at address 0 */
    if ((uintptr_t)at + size > (uintptr_t)1 << 47) return NM__REFUSED;
#endif
    int before = errno;
    void *ptr = mmap(at, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED_NOREPLACE, -1, 0);
    nm__mapping result = ptr == at ? NM__MAPPED : ptr != MAP_FAILED || errno == EEXIST ? NM__TAKEN : NM__REFUSED;
    if (ptr != at && ptr != MAP_FAILED) (void)munmap(ptr, size);
    errno = before;
    return result;
}

bool nm__os_unmap(void *ptr, size_t size) {
    int before = errno;
    return os_succeeds(munmap(ptr, size), before);
}

uintptr_t nm__os_landing(void) {
    int before = errno;
    size_t size = nm__os_page_size();
    void *ptr = mmap(NULL, size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (ptr != MAP_FAILED) (void)munmap(ptr, size);
    errno = before;
    return ptr == MAP_FAILED ? 0 : (uintptr_t)ptr;
}

bool nm__os_open(void *ptr, size_t size) {
    int before = errno;
    return os_succeeds(mprotect(ptr, size, PROT_READ | PROT_WRITE), before);
}

bool nm__os_purge(void *ptr, size_t size) {
    int before = errno;
    return os_succeeds(madvise(ptr, size, MADV_DONTNEED), before);
}

bool nm__os_guard(void *ptr, size_t size) {
    int before = errno;
    return os_succeeds(mprotect(ptr, size, PROT_NONE), before);
}

/* The system looks, and comes back with an error where this process would end. A system that does not let it look
 * cannot say, and then the answer is yes. */
bool nm__os_is_readable(const void *ptr, size_t size) {
#ifdef __linux__
    char copy[64];
    const struct iovec there = {(void *)(uintptr_t)ptr, size < sizeof copy ? size : sizeof copy};
    const struct iovec here = {copy, there.iov_len};
    int before = errno;
    ssize_t read = process_vm_readv(getpid(), &here, 1, &there, 1, 0);
    bool is_readable = read < 0 ? errno != EFAULT : (size_t)read == there.iov_len;
    errno = before;
    return is_readable;
#else
    (void)ptr, (void)size;
    return true;
#endif
}

/* Early in a system's life there may be no entropy; an address and the clock are then better than nothing. */
uint64_t nm__os_random(void) {
    uint64_t n;
    if (getrandom(&n, sizeof n, GRND_NONBLOCK) == (ssize_t)sizeof n) return n;
    return ((uint64_t)nm__os_time_ns() * 0x9E3779B97F4A7C15U) ^ (uint64_t)(uintptr_t)&n;
}

void nm__os_prefer_huge(void *ptr, size_t size, bool prefer) {
#ifdef MADV_HUGEPAGE
    int before = errno;
    (void)os_succeeds(madvise(ptr, size, prefer ? MADV_HUGEPAGE : MADV_NOHUGEPAGE), before);
#else
    (void)ptr, (void)size, (void)prefer;
#endif
}

uint64_t nm__os_now_ms(void) {
    struct timespec t;
#ifdef CLOCK_MONOTONIC_COARSE
    (void)clock_gettime(CLOCK_MONOTONIC_COARSE, &t);
#else
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
#endif
    return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

int64_t nm__os_time_ns(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_REALTIME, &t);
    return (int64_t)t.tv_sec * 1000000000 + (int64_t)t.tv_nsec;
}
int64_t nm__os_monotonic_ns(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_MONOTONIC, &t);
    return (int64_t)t.tv_sec * 1000000000 + t.tv_nsec;
}

size_t nm__os_address_limit(void) {
    struct rlimit limit;
    if (getrlimit(RLIMIT_AS, &limit) != 0 || limit.rlim_cur == RLIM_INFINITY) return SIZE_MAX;
    return (size_t)limit.rlim_cur;
}
