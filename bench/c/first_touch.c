/* What the first touch of a large block costs, with huge pages and without.  Usage: first_touch MIB PAUSE_SECONDS ROUNDS
 *
 * Each round maps MIB MiB, writes to each page, and unmaps them: once as they are, once with MADV_HUGEPAGE. Between two maps
 * it sleeps. Prints the milliseconds of CPU time of each, and how many huge pages the system gave while it went on (those of
 * other processes too). Knows nothing of nativemem; docs/decisions/0022-huge-pages-are-taken-back.md says what came out. */
#define _GNU_SOURCE
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define HUGE_PAGE ((size_t)2 << 20)
#define PAGE ((size_t)4096)

static double cpu(void) {
    struct timespec t;
    (void)clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}

static long huge_pages(void) {
    char name[64];
    long value, found = 0;
    FILE *f = fopen("/proc/vmstat", "r");
    if (f == NULL) return 0;
    while (fscanf(f, "%63s %ld", name, &value) == 2)
        if (strcmp(name, "thp_fault_alloc") == 0) found = value;
    (void)fclose(f);
    return found;
}

static void touch(size_t bytes, int huge) {
    char *map = mmap(NULL, bytes + HUGE_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (map == MAP_FAILED) exit(1);
    char *at = (char *)(((size_t)map + HUGE_PAGE - 1) & ~(HUGE_PAGE - 1));
    if (huge) (void)madvise(at, bytes, MADV_HUGEPAGE);
    long before = huge_pages();
    double start = cpu();
    for (size_t i = 0; i < bytes; i += PAGE) ((volatile char *)at)[i] = 1;
    printf("%s %7.1f ms, %ld huge pages\n", huge ? "huge " : "small", cpu() - start, huge_pages() - before);
    (void)munmap(map, bytes + HUGE_PAGE);
}

int main(int argc, char **argv) {
    if (argc != 4) return 2;
    size_t bytes = strtoul(argv[1], NULL, 10) << 20;
    unsigned pause = (unsigned)atoi(argv[2]);
    for (int round = atoi(argv[3]); round > 0; round--)
        for (int huge = 0; huge < 2; huge++) {
            (void)sleep(pause);
            touch(bytes, huge);
        }
    return 0;
}
