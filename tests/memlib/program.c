/* Six calls, as a program of the legacy allocator makes them. Compiled and run on both paths, without a change. */
#define _POSIX_C_SOURCE 200809L /* pthread_barrier_t */
#include "memlib.h"

#include <pthread.h>
#include <stdalign.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static int failures;
#define CHECK(condition)                                                          \
    do {                                                                          \
        if (!(condition)) {                                                       \
            failures++;                                                           \
            (void)fprintf(stderr, "%s:%d: %s\n", __FILE__, __LINE__, #condition); \
        }                                                                         \
    } while (0)

static bool all(const unsigned char *bytes, size_t n, int value) {
    for (size_t i = 0; i < n; i++)
        if (bytes[i] != value) return false;
    return true;
}

static void test_lifecycle(void) {
    CHECK(mem_init() && mem_init());
    void *ptr = HMalloc(10);
    CHECK(mem_uninit() && mem_uninit() && mem_init());
    HFree(ptr);
}

static void test_round_trip(void) {
    unsigned char *ptr = HMalloc(64);
    memset(ptr, 0xA5, 64);
    CHECK(all(ptr, 64, 0xA5));
    HFree(ptr);
}

static void test_calloc(void) {
    for (size_t size = 128; size < 2000000; size *= 11) {
        unsigned char *dirty = HMalloc(size);
        memset(dirty, 0xFF, size);
        HFree(dirty);
        unsigned char *ptr = HCalloc(size);
        CHECK(all(ptr, size, 0));
        HFree(ptr);
    }
}

static void test_realloc(void) {
    unsigned char *ptr = HMalloc(32);
    memset(ptr, 7, 32);
    ptr = HRealloc(ptr, 256);
    CHECK(all(ptr, 32, 7));
    ptr = HRealloc(ptr, 1000000);
    CHECK(all(ptr, 32, 7));
    ptr = HRealloc(ptr, 16);
    CHECK(all(ptr, 16, 7));
    HFree(ptr);
    ptr = HRealloc(NULL, 64);
    memset(ptr, 1, 64);
    HFree(ptr);
    HFree(NULL);
}

static void test_alignment(void) {
    void *ptrs[200];
    for (size_t i = 0; i < 200; i++) {
        ptrs[i] = i % 3 == 0 ? HMalloc(i * i + 1) : i % 3 == 1 ? HCalloc(i * i + 1) : HRealloc(NULL, i * i + 1);
        CHECK((uintptr_t)ptrs[i] % alignof(max_align_t) == 0);
        memset(ptrs[i], (int)i, i * i + 1);
    }
    for (size_t i = 0; i < 200; i++) {
        CHECK(all(ptrs[i], i * i + 1, (int)i));
        HFree(ptrs[i]);
    }
}

/* What each path says of no bytes is its own; all of it goes back. */
static void test_no_bytes(void) {
    unsigned char *m = HMalloc(0), *c = HCalloc(0);
    unsigned char *r = HRealloc(HMalloc(100), 0);
#ifdef USE_NATIVE_MEM
    CHECK(m != NULL && c != NULL && r != NULL && m != c && c != r && *c == 0);
    *m = *c = *r = 1;
#endif
    HFree(m);
    HFree(c);
    HFree(r);
}

static void test_argv(int argc, char **argv) {
    char **copy = HMalloc(((size_t)argc + 1) * sizeof *copy);
    for (int i = 0; i < argc; i++) copy[i] = strcpy(HMalloc(strlen(argv[i]) + 1), argv[i]);
    copy[argc] = NULL;
    for (int i = 0; i < argc; i++) {
        CHECK(strcmp(copy[i], argv[i]) == 0);
        HFree(copy[i]);
    }
    HFree(copy);
}

/* Each thread frees what the one before it took. */
enum { THREADS = 4, EACH = 2000 };
static void *handed[THREADS][EACH];
static pthread_barrier_t barrier;

static void *work(void *number) {
    size_t me = (size_t)(uintptr_t)number;
    for (size_t i = 0; i < EACH; i++) handed[me][i] = memset(HMalloc(i % 700 + 1), (int)me, i % 700 + 1);
    (void)pthread_barrier_wait(&barrier);
    size_t from = (me + 1) % THREADS;
    for (size_t i = 0; i < EACH; i++) {
        if (!all(handed[from][i], i % 700 + 1, (int)from)) return number;
        if (i % 2) handed[from][i] = HRealloc(handed[from][i], 2 * i);
        HFree(handed[from][i]);
    }
    return NULL;
}

static void test_threads(void) {
    pthread_t threads[THREADS];
    (void)pthread_barrier_init(&barrier, NULL, THREADS);
    for (size_t i = 0; i < THREADS; i++) CHECK(pthread_create(&threads[i], NULL, work, (void *)(uintptr_t)i) == 0);
    for (size_t i = 0; i < THREADS; i++) {
        void *wrong;
        CHECK(pthread_join(threads[i], &wrong) == 0 && wrong == NULL);
    }
    (void)pthread_barrier_destroy(&barrier);
}

int main(int argc, char **argv) {
    test_lifecycle();
    test_round_trip();
    test_calloc();
    test_realloc();
    test_alignment();
    test_no_bytes();
    test_argv(argc, argv);
    test_threads();
#ifdef USE_NATIVE_MEM
    const char *path = "native";
#else
    const char *path = "system";
#endif
    (void)printf("%s: %d failures\n", path, failures);
    return failures != 0;
}
