/* Preloaded: arenas of the interpreter's own allocator stand in whole huge pages, as in a CPython that is configured
 * --with-pymalloc-hugepages, but transparent ones, which need no pool. What is mapped in one megabyte comes in pairs that
 * begin at a multiple of two; all else is as ever. */
#define _GNU_SOURCE
#include <stdint.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#define ARENA ((size_t)1 << 20)
#define HUGE (2 * ARENA)

static void *map(void *at, size_t size, int protection, int flags, int file, off_t offset) {
    return (void *)syscall(SYS_mmap, at, size, protection, flags, file, offset);
}

static void *pairs(void *at, size_t size, int protection, int flags, int file, off_t offset) {
    static char *second;
    if (at != NULL || size != ARENA || file != -1 || protection != (PROT_READ | PROT_WRITE) ||
        flags != (MAP_PRIVATE | MAP_ANONYMOUS))
        return map(at, size, protection, flags, file, offset);
    if (second != NULL) {
        char *arena = second;
        second = NULL;
        return arena;
    }
    char *found = map(NULL, 2 * HUGE, protection, flags, file, offset);
    if (found == MAP_FAILED) return found;
    char *pair = (char *)(((uintptr_t)found + HUGE - 1) & ~(uintptr_t)(HUGE - 1));
    if (pair != found) munmap(found, (size_t)(pair - found));
    munmap(pair + HUGE, (size_t)(found + HUGE - pair));
    madvise(pair, HUGE, MADV_HUGEPAGE);
    second = pair + ARENA;
    return pair;
}

void *mmap(void *at, size_t size, int protection, int flags, int file, off_t offset) {
    return pairs(at, size, protection, flags, file, offset);
}
void *mmap64(void *at, size_t size, int protection, int flags, int file, off64_t offset) {
    return pairs(at, size, protection, flags, file, offset);
}
