/* Threads: their numbers, and what is done when one exits. */
#include "base/base.h"
#include "tuning.h"

NM_TLS uintptr_t nm__thread_number, nm__acting_as;

static _Atomic uintptr_t thread_numbers;

static struct {
    pthread_key_t key;
    pthread_mutex_t lock;
    void (*_Atomic hooks[NM_THREAD_HOOKS])(void);
} thread_exit_hooks = {.lock = PTHREAD_MUTEX_INITIALIZER};

uintptr_t nm__new_thread_number(void) { return atomic_fetch_add_explicit(&thread_numbers, 1, memory_order_relaxed) + 1; }

uintptr_t nm__number_thread(void) { return nm__thread_number = nm__acting_as = nm__new_thread_number(); }

static NM_TLS bool thread_is_armed;

static void thread_exits(void *unused) {
    (void)unused;
    thread_is_armed = false; /* the system has taken the value: a hook may want another turn */
    for (int i = 0; i < NM_THREAD_HOOKS; i++) {
        void (*hook)(void) = atomic_load(&thread_exit_hooks.hooks[i]);
        if (hook != NULL) hook();
    }
}

static void thread_make_key(void) { (void)pthread_key_create(&thread_exit_hooks.key, thread_exits); }

void nm__at_thread_end(void (*hook)(void)) {
    static pthread_once_t done = PTHREAD_ONCE_INIT;
    (void)pthread_once(&done, thread_make_key);
    pthread_mutex_lock(&thread_exit_hooks.lock);
    for (int i = 0; i < NM_THREAD_HOOKS; i++) {
        void (*there)(void) = atomic_load(&thread_exit_hooks.hooks[i]);
        if (there == hook) break;
        if (there == NULL) {
            atomic_store(&thread_exit_hooks.hooks[i], hook);
            break;
        }
    }
    pthread_mutex_unlock(&thread_exit_hooks.lock);
}

void nm__arm_thread_end(void) {
    if (!thread_is_armed)
        thread_is_armed = pthread_setspecific(thread_exit_hooks.key, &thread_exit_hooks) == 0; /* any value but NULL */
}
