/* out_of_memory HOW: calls that there is no memory for. Each ends the process; should one come back, that is exit code
 * 3. Under this program's own malloc, which fails once `denied` is set, and counts. */
#define _GNU_SOURCE /* RTLD_NEXT */
#include "memlib.h"

#include <dlfcn.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "nativemem/log.h"
#ifdef USE_NATIVE_MEM
#include "nativemem/failing.h"
#include "nativemem/plain.h"
#include "nativemem/system.h"
#endif

/* ---- the C library's, failing ---------------------------------------------------------------------- */

static volatile sig_atomic_t denied, asked;

#define BELOW(name, type, ...)                \
    static type below = NULL;                 \
    if (denied) return asked++, NULL;         \
    if (below == NULL) {                      \
        void *found = dlsym(RTLD_NEXT, name); \
        memcpy(&below, &found, sizeof below); \
    }                                         \
    return below(__VA_ARGS__)

typedef void *one(size_t);
typedef void *two(void *, size_t);
void *malloc(size_t size) { BELOW("malloc", one *, size); }
void *realloc(void *ptr, size_t size) { BELOW("realloc", two *, ptr, size); }
void *__libc_calloc(size_t count, size_t size);
void *calloc(size_t count, size_t size) { return denied ? (asked++, NULL) : __libc_calloc(count, size); }

/* Says on its way out what was asked for after the first refusal. */
static void ended(int number) {
    (void)number;
    char line[] = "asked 0\n";
    line[6] = (char)('0' + (asked > 9 ? 9 : asked));
    ssize_t written = write(STDERR_FILENO, line, sizeof line - 1);
    (void)written;
}

static void to_stdout(nm_log_level level, const char *message) {
    char line[] = "level 0: ";
    line[6] = (char)('0' + level);
    ssize_t written = write(STDOUT_FILENO, line, sizeof line - 1);
    written += write(STDOUT_FILENO, message, strlen(message));
    (void)written;
}

int main(int argc, char **argv) {
    const char *how = argc > 1 ? argv[1] : "";
    if (signal(SIGABRT, ended) == SIG_ERR) return 2;
    void *block = HMalloc(100);
#ifdef USE_NATIVE_MEM
    HFree(block); /* memlib's own goes, a failing one comes */
    nm_system *system = nm_system_create();
    nm_failing *failing = nm_failing_create(nm_system_port(system), 0, true);
    nm_memlib_use(nm_plain_create(nm_failing_port(failing), NULL));
    block = HMalloc(100);
    if (strstr(how, "huge") == NULL) nm_failing_arm(failing, 1, true);
#endif
    volatile size_t huge = SIZE_MAX / 2; /* as no compiler lets it pass */
    if (strstr(how, "sink") != NULL) nm_log_to(NM_LOG_ALL, to_stdout);
    if (strstr(how, "nothing") != NULL) nm_log_to(NM_LOG_NOTHING, NULL);
    size_t size = strstr(how, "huge") != NULL ? huge : strstr(how, "empty") != NULL ? 0 : 1000;
    denied = strstr(how, "huge") == NULL;
    if (strstr(how, "HMalloc") != NULL) (void)!HMalloc(size);
    if (strstr(how, "HCalloc") != NULL) (void)!HCalloc(size);
    if (strstr(how, "HRealloc-new") != NULL) (void)!HRealloc(NULL, size);
    else if (strstr(how, "HRealloc") != NULL) (void)!HRealloc(block, size);
    return 3;
}
