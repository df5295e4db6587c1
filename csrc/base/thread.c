/* Threads: who they are, and what is done when one ends. */
#include "base/base.h"

#define HOOKS 8 /* one for each file that has something to do then */

NM_TLS uintptr_t nm__thread_number, nm__acting_as;

static _Atomic uintptr_t numbers;

static struct {
    pthread_key_t key;
    pthread_mutex_t lock;
    void (*_Atomic hooks[HOOKS])(void);
} ends = {.lock = PTHREAD_MUTEX_INITIALIZER};

uintptr_t nm__new_thread_number(void) { return atomic_fetch_add_explicit(&numbers, 1, memory_order_relaxed) + 1; }

uintptr_t nm__number_thread(void) { return nm__thread_number = nm__acting_as = nm__new_thread_number(); }

static void thread_ends(void *unused) {
    (void)unused;
    for (int i = 0; i < HOOKS; i++) {
        void (*hook)(void) = atomic_load(&ends.hooks[i]);
        if (hook != NULL) hook();
    }
}

static void make_key(void) { (void)pthread_key_create(&ends.key, thread_ends); }

void nm__at_thread_end(void (*hook)(void)) {
    static pthread_once_t once = PTHREAD_ONCE_INIT;
    (void)pthread_once(&once, make_key);
    pthread_mutex_lock(&ends.lock);
    for (int i = 0; i < HOOKS; i++) {
        void (*there)(void) = atomic_load(&ends.hooks[i]);
        if (there == hook) break;
        if (there == NULL) {
            atomic_store(&ends.hooks[i], hook);
            break;
        }
    }
    pthread_mutex_unlock(&ends.lock);
}

void nm__arm_thread_end(void) { (void)pthread_setspecific(ends.key, &ends); /* any value but NULL */ }
