/* Heaps across fork, and what a process registers once.
 *
 * All locks of the heap are held across a fork, in their order, so that the child finds each structure whole. It keeps the
 * thread heaps of threads that it does not have: one of those may have stood in the middle of a change when the process was
 * copied, so the child neither drains nor adopts them. Their live blocks stay valid; frees of them queue up and are not
 * reused. A fork from a signal handler that interrupted an allocation is not served. */
#include "heap/internal.h"

static void heap_before_fork(void) {
    pthread_mutex_lock(&nm__heaps.lock);
    for (nm_heap *h = nm__heaps.first; h != NULL; h = h->next) pthread_mutex_lock(&h->lock);
    nm__region_before_fork();
}

static void heap_after_fork(bool child) {
    nm__region_after_fork(child);
    for (nm_heap *h = nm__heaps.first; h != NULL; h = h->next) pthread_mutex_unlock(&h->lock);
    pthread_mutex_unlock(&nm__heaps.lock);
}

static void heap_in_child(void) {
    nm__threads_forget_others();
    heap_after_fork(true);
}

static void heap_in_parent(void) { heap_after_fork(false); }

/* The handlers before a fork run in reverse order, and the budgets' lock is taken while a heap's is held: so the budgets
 * register first. */
void nm__heap_register_hooks(void) {
    nm__at_thread_end(nm__heap_thread_ends);
    nm__budget_register_forks();
    (void)pthread_atfork(heap_before_fork, heap_in_parent, heap_in_child);
}
