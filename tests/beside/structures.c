/* Preloaded: calloc refuses what one shared object asks for, the n-th time from arm(n, more) on, and with `more` from then on. */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stddef.h>
#include <string.h>

extern void *__libc_calloc(size_t count, size_t size); /* glibc's own */

static const char *whose = "";
static unsigned long asked, failing_one; /* 0: none fails */
static int failing_more;
unsigned long refused;

void arm(unsigned long n, int more, const char *file) {
    whose = file;
    failing_more = more;
    asked = refused = 0;
    failing_one = n;
}

static int is_theirs(const void *caller) {
    Dl_info where;
    return dladdr(caller, &where) != 0 && where.dli_fname != NULL && strstr(where.dli_fname, whose) != NULL;
}

void *calloc(size_t count, size_t size) {
    if (failing_one != 0 && is_theirs(__builtin_return_address(0)))
        if (++asked == failing_one || (failing_more && asked > failing_one)) return refused++, NULL;
    return __libc_calloc(count, size);
}
