/* A code base that has never heard of memlib. As it is, and with memlib_redirect.h in front of it, on both paths.
 *
 *   redirect            checks, then says how many failed and whether a block of libc's is taken for one of ours
 *   redirect overflow   asks calloc for more than there is a number for, and says what it got
 *   redirect array      the same of reallocarray
 */
#include <malloc.h>
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

/* names that are not followed by arguments are left alone */
struct table {
    void *(*malloc)(size_t);
    void (*free)(void *);
};

static void test_blocks(void) {
    for (size_t n = 1; n < 100000; n = n * 3 + 1) {
        unsigned char *bytes = malloc(n);
        CHECK((uintptr_t)bytes % alignof(max_align_t) == 0);
        memset(bytes, 0xA5, n);
        bytes = realloc(bytes, 2 * n);
        CHECK(bytes[0] == 0xA5 && bytes[n - 1] == 0xA5);
        bytes = reallocarray(bytes, n, 3);
        CHECK(bytes[0] == 0xA5 && bytes[n - 1] == 0xA5);
        memset(bytes, 0xFF, 3 * n);
        free(bytes);
        unsigned char *zeros = calloc(n, 3);
        for (size_t i = 0; i < 3 * n; i++) CHECK(zeros[i] == 0);
        free(zeros);
    }
    free(NULL);
    int *fresh = realloc(NULL, sizeof *fresh);
    *fresh = 1;
    free(fresh);
}

/* How a macro sees its arguments: each once, and each as a whole. */
static void test_arguments(void) {
    size_t n = 3, asked = 0;
    char *a = calloc(asked++ ? 100 : 10, 1 + n);
    CHECK(asked == 1);
    memset(a, 1, 40);
    char *b = malloc(n | 64);
    memset(b, 1, 67);
    const char *text = "ab";
    char *c = strdup(text++), *d = strndup(text++, n - 3 ? 1 : 1 + 1);
    CHECK(strcmp(c, "ab") == 0 && strcmp(d, "b") == 0 && *text == '\0');
    free(a), free(b);
    free(c);
    free((d));
}

static void test_text(void) {
    char bytes[] = {'a', 'b', 'c'}; /* has no end */
    char *none = strdup(""), *all = strdup("text"), *some = strndup("text", 2), *more = strndup("text", 100);
    char *nothing = strndup("text", 0), *cut = strndup(bytes, sizeof bytes);
    CHECK(strcmp(none, "") == 0 && strcmp(all, "text") == 0 && strcmp(some, "te") == 0 && strcmp(more, "text") == 0);
    CHECK(strcmp(nothing, "") == 0 && strcmp(cut, "abc") == 0);
    char *texts[] = {none, all, some, more, nothing, cut};
    for (size_t i = 0; i < sizeof texts / sizeof *texts; i++) free(texts[i]);
}

/* What each path says of no bytes is its own; all of it goes back. */
static void test_no_bytes(void) {
    volatile size_t many = SIZE_MAX; /* compilers know such a call when they see one */
    char *m = malloc(0), *c = calloc(0, 8), *d = calloc(many, 0), *r = realloc(malloc(10), 0);
#ifdef USE_NATIVE_MEM
    CHECK(m != NULL && c != NULL && d != NULL && r != NULL && *c == 0 && *d == 0);
    *m = *c = *d = *r = 1;
#endif
    free(m);
    free(c);
    free(d);
    if (r != NULL) free(r);
}

static void test_libc_is_left_alone(void) {
    struct table table = {.malloc = malloc, .free = free};
    void *theirs = table.malloc == NULL ? NULL : (malloc)(10);
    (table.free)(theirs);
    void *aligned = (aligned_alloc)(64, 64);
    CHECK((uintptr_t)aligned % 64 == 0 && (malloc_usable_size)(aligned) >= 64);
    (free)(aligned);
    free((malloc)(10)); /* a mistake: the native core says so, and leaves it alone */
}

int main(int argc, char **argv) {
    volatile size_t half = SIZE_MAX / 2 + 1;
    if (argc > 1) {
        void *got = strcmp(argv[1], "overflow") == 0 ? calloc(half, 2) : reallocarray(NULL, 2, half);
        (void)printf("%s\n", got == NULL ? "nothing" : "something");
        return 0;
    }
    test_blocks();
    test_arguments();
    test_text();
    test_no_bytes();
    test_libc_is_left_alone();
    (void)printf("%d failures\n", failures);
    return failures != 0;
}
