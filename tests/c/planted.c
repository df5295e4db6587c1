/* Mistakes, one a run, for the checkers to find: `planted NAME`. Each is inside memory that libc has handed out
 * whole, so that only a checker that is told of blocks can see it. What a run prints is of no interest; that the checker ends
 * it with an error is. test_checkers.py runs them. */
#include <pthread.h>
#include <stdio.h>

#include "nativemem.h"

static nm_system *system_;
static nm_allocator up;

/* Stops the compiler from knowing what is done with a byte. */
static volatile unsigned char sink;
static void look(const unsigned char *ptr) { sink = *(const volatile unsigned char *)ptr; }
static void write_to(unsigned char *ptr) { *(volatile unsigned char *)ptr = 1; }

static nm_arena *arena(void) { return nm_arena_create(up, (nm_arena_options){.hint = 4096, .grow = true}); }
static nm_slab *slab(void) { return nm_slab_create(up, (const size_t[]){64, 256}, 2, false); }

static void nothing(void) {
    nm_arena *a = arena();
    nm_slab *s = slab();
    nm_heap *h = nm_heap_create(NULL, false);
    nm_stack *k = nm_stack_create(up, 1000, false);
    nm_pool *p = nm_pool_create(up, 64, 10, false);
    const nm_allocator ports[] = {up, nm_arena_port(a), nm_slab_port(s), nm_heap_port(h), nm_stack_port(k), nm_pool_port(p)};
    for (size_t i = 0; i < sizeof ports / sizeof *ports; i++) {
        unsigned char *ptr = nm_alloc(ports[i], 50, 16);
        for (int j = 0; j < 50; j++) write_to(ptr + j);
        ptr = nm_realloc(ports[i], ptr, 50, 60, 16);
        for (int j = 50; j < 60; j++) write_to(ptr + j);
        for (int j = 0; j < 60; j++) look(ptr + j);
        if (ptr[59] != 1 || nm_free(ports[i], ptr, 60, 16) != NM_OK) printf("unexpected\n");
    }
    nm_pool_destroy(p);
    nm_stack_destroy(k);
    nm_heap_destroy(h);
    nm_slab_destroy(s);
    nm_arena_destroy(a);
}

static void arena_overrun(void) {
    nm_arena *a = arena();
    unsigned char *ptr = nm_alloc(nm_arena_port(a), 24, 16);
    (void)nm_alloc(nm_arena_port(a), 24, 16);
    write_to(ptr + 24);
}

static void arena_use_after_reset(void) {
    nm_arena *a = arena();
    unsigned char *ptr = nm_calloc(nm_arena_port(a), 24, 1, 16);
    (void)nm_arena_reset(a);
    look(ptr);
}

static void arena_use_after_release(void) {
    nm_arena *a = arena();
    nm_arena_mark mark;
    (void)nm_alloc(nm_arena_port(a), 24, 16);
    (void)nm_arena_take_mark(a, &mark);
    unsigned char *ptr = nm_calloc(nm_arena_port(a), 24, 1, 16);
    (void)nm_arena_release(a, &mark);
    look(ptr);
}

static void arena_use_after_free(void) {
    nm_arena *a = arena();
    unsigned char *ptr = nm_calloc(nm_arena_port(a), 24, 1, 16);
    (void)nm_free(nm_arena_port(a), ptr, 24, 16);
    look(ptr);
}

/* One byte into what lies between the block's size and its cell's end. */
static void overrun(nm_allocator port, size_t size) {
    unsigned char *ptr = nm_alloc(port, size, 16);
    (void)nm_alloc(port, size, 16);
    write_to(ptr + size);
}
static void slab_overrun(void) { overrun(nm_slab_port(slab()), 50); }
static void pool_overrun(void) { overrun(nm_pool_port(nm_pool_create(up, 64, 10, false)), 50); }
static void stack_overrun(void) { overrun(nm_stack_port(nm_stack_create(up, 1000, false)), 50); }
static void heap_overrun(void) { overrun(nm_heap_port(nm_heap_create(NULL, false)), 50); }
static void heap_span_overrun(void) { overrun(nm_heap_port(nm_heap_create(NULL, false)), 100001); }

static void shrunk(nm_allocator port) {
    unsigned char *ptr = nm_calloc(port, 60, 1, 16);
    if (port.methods->resize(port.self, ptr, 60, 51, 16)) look(ptr + 51);
}
static void slab_shrunk(void) { shrunk(nm_slab_port(slab())); }
static void heap_shrunk(void) { shrunk(nm_heap_port(nm_heap_create(NULL, false))); }
static void pool_shrunk(void) { shrunk(nm_pool_port(nm_pool_create(up, 64, 10, false))); }
static void system_shrunk(void) { shrunk(up); }

/* The first byte: where the allocator keeps a link. */
static void use_after_free(nm_allocator port, size_t size) {
    unsigned char *ptr = nm_calloc(port, size, 1, 16);
    (void)nm_calloc(port, size, 1, 16);
    (void)nm_free(port, ptr, size, 16);
    look(ptr);
}
static void slab_use_after_free(void) { use_after_free(nm_slab_port(slab()), 50); }
static void pool_use_after_free(void) { use_after_free(nm_pool_port(nm_pool_create(up, 64, 10, false)), 50); }
static void heap_use_after_free(void) { use_after_free(nm_heap_port(nm_heap_create(NULL, false)), 50); }
static void heap_span_use_after_free(void) { use_after_free(nm_heap_port(nm_heap_create(NULL, false)), 100000); }
static void secure_use_after_free(void) { use_after_free(nm_heap_port(nm_heap_create(NULL, true)), 50); }

static void stack_use_after_free(void) {
    nm_allocator port = nm_stack_port(nm_stack_create(up, 1000, false));
    unsigned char *ptr = nm_calloc(port, 50, 1, 16);
    (void)nm_free(port, ptr, 50, 16);
    look(ptr);
}

static nm_slab *shared;
static unsigned char *passed;
static void *free_it(void *unused) {
    (void)nm_free(nm_slab_port(shared), passed, 50, 16);
    return unused;
}
/* Queued for the owner, not yet collected. */
static void slab_use_after_remote_free(void) {
    pthread_t thread;
    shared = slab();
    passed = nm_calloc(nm_slab_port(shared), 50, 1, 16);
    if (pthread_create(&thread, NULL, free_it, NULL) == 0) pthread_join(thread, NULL);
    look(passed + 8);
}

static void uninitialised(nm_allocator port) {
    unsigned char *ptr = nm_calloc(port, 50, 1, 16);
    (void)nm_free(port, ptr, 50, 16);
    ptr = nm_alloc(port, 50, 16);
    if (ptr[20] == 7) printf("seven\n");
}
static void slab_uninitialised(void) { uninitialised(nm_slab_port(slab())); }
static void heap_uninitialised(void) { uninitialised(nm_heap_port(nm_heap_create(NULL, false))); }
static void pool_uninitialised(void) { uninitialised(nm_pool_port(nm_pool_create(up, 64, 10, false))); }
static void stack_uninitialised(void) { uninitialised(nm_stack_port(nm_stack_create(up, 1000, false))); }

static void arena_uninitialised(void) {
    nm_arena *a = arena();
    (void)nm_calloc(nm_arena_port(a), 50, 1, 16);
    (void)nm_arena_reset(a);
    const unsigned char *ptr = nm_alloc(nm_arena_port(a), 50, 16);
    if (ptr[20] == 7) printf("seven\n");
}

/* Volatile, so that the pointer is stored nowhere else; far below, so that no register keeps it. */
static void *volatile lost;
static __attribute__((noinline)) void lose(void) { lost = nm_alloc(up, 100, 16); }
static void leak(void) {
    lose();
    lost = NULL;
}

static void *count_up(void *counter) {
    for (int i = 0; i < 1000; i++) *(int *)counter += 1;
    return NULL;
}
static void race(void) {
    pthread_t threads[2];
    nm_heap *h = nm_heap_create(NULL, false);
    int *counter = nm_heap_calloc(h, 1, sizeof *counter);
    for (int i = 0; i < 2; i++) (void)pthread_create(&threads[i], NULL, count_up, counter);
    for (int i = 0; i < 2; i++) pthread_join(threads[i], NULL);
    nm_heap_destroy(h);
}

static void overflow(void) {
    volatile int n = 0x7FFFFFFF;
    n += 1;
}

#define MISTAKE(name) {#name, name}
static const struct {
    const char *name;
    void (*make)(void);
} mistakes[] = {
    MISTAKE(nothing),
    MISTAKE(arena_overrun),
    MISTAKE(arena_use_after_reset),
    MISTAKE(arena_use_after_release),
    MISTAKE(arena_use_after_free),
    MISTAKE(slab_overrun),
    MISTAKE(pool_overrun),
    MISTAKE(stack_overrun),
    MISTAKE(heap_overrun),
    MISTAKE(heap_span_overrun),
    MISTAKE(slab_shrunk),
    MISTAKE(heap_shrunk),
    MISTAKE(pool_shrunk),
    MISTAKE(system_shrunk),
    MISTAKE(slab_use_after_free),
    MISTAKE(pool_use_after_free),
    MISTAKE(heap_use_after_free),
    MISTAKE(heap_span_use_after_free),
    MISTAKE(secure_use_after_free),
    MISTAKE(stack_use_after_free),
    MISTAKE(slab_use_after_remote_free),
    MISTAKE(slab_uninitialised),
    MISTAKE(heap_uninitialised),
    MISTAKE(pool_uninitialised),
    MISTAKE(stack_uninitialised),
    MISTAKE(arena_uninitialised),
    MISTAKE(leak),
    MISTAKE(race),
    MISTAKE(overflow),
};

int main(int argc, char **argv) {
    if (nm_region_init((size_t)1 << 30, (size_t)1 << 20, 1000) != NM_OK) return 2;
    if ((system_ = nm_system_create()) == NULL) return 2;
    up = nm_system_port(system_);
    for (size_t i = 0; i < sizeof mistakes / sizeof *mistakes; i++) {
        if (argc < 2) printf("%s\n", mistakes[i].name);
        else if (strcmp(argv[1], mistakes[i].name) == 0) {
            mistakes[i].make();
            if (i == 0) nm_system_destroy(system_);
            return 0;
        }
    }
    return argc < 2 ? 0 : 2;
}
