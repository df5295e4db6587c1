/* Linked into the programs of scripts/switch_over.py: how often the code base's own objects call each of the four.
 *
 * The linker's --wrap leads their references here. Calls that a library makes of its own are not seen, on any side.
 * The counters are in a file that all processes of a side share, so that they outlast however one ends.
 *
 *   COUNTS    the file's name
 *   SWITCHED  built with memlib_redirect.h: MALLOC, CALLOC, REALLOC, FREE are what its macros lead to
 */
#include <fcntl.h>
#include <stdatomic.h>
#include <stddef.h>
#include <sys/mman.h>
#include <unistd.h>

enum { AT_MALLOC, AT_CALLOC, AT_REALLOC, AT_FREE, AT_ERROR, SLOTS };
static atomic_ulong before_start[SLOTS];
static atomic_ulong *counts = before_start;

__attribute__((constructor)) static void start(void) {
    int file = open(COUNTS, O_RDWR | O_CLOEXEC);
    if (file < 0) return;
    void *shared = mmap(NULL, sizeof before_start, PROT_READ | PROT_WRITE, MAP_SHARED, file, 0);
    (void)close(file);
    if (shared == MAP_FAILED) return;
    counts = shared;
    for (size_t i = 0; i < SLOTS; i++) (void)atomic_fetch_add(&counts[i], atomic_load(&before_start[i]));
}

#define WRAP_(name, slot, type, parameters, arguments)                           \
    extern type __real_##name parameters;                                        \
    extern type __wrap_##name parameters;                                        \
    type __wrap_##name parameters {                                              \
        (void)atomic_fetch_add_explicit(&counts[slot], 1, memory_order_relaxed); \
        return __real_##name arguments;                                          \
    }
#define WRAP(name, slot, type, parameters, arguments) WRAP_(name, slot, type, parameters, arguments)

#ifdef SWITCHED

WRAP(MALLOC, AT_MALLOC, void *, (size_t size), (size))
WRAP(CALLOC, AT_CALLOC, void *, (size_t size), (size))
WRAP(REALLOC, AT_REALLOC, void *, (void *ptr, size_t size), (ptr, size))

extern void __real_nm_log(int level, const char *message);
extern void __wrap_nm_log(int level, const char *message);
void __wrap_nm_log(int level, const char *message) {
    if (level <= 2 /* NM_LOG_ERROR */) (void)atomic_fetch_add(&counts[AT_ERROR], 1);
    __real_nm_log(level, message);
}

#else

#define FREE free
WRAP(malloc, AT_MALLOC, void *, (size_t size), (size))
WRAP(strdup, AT_MALLOC, char *, (const char *text), (text))
WRAP(strndup, AT_MALLOC, char *, (const char *text, size_t most), (text, most))
WRAP(calloc, AT_CALLOC, void *, (size_t count, size_t size), (count, size))
WRAP(realloc, AT_REALLOC, void *, (void *ptr, size_t size), (ptr, size))
WRAP(reallocarray, AT_REALLOC, void *, (void *ptr, size_t count, size_t size), (ptr, count, size))

#endif

WRAP(FREE, AT_FREE, void, (void *ptr), (ptr))
