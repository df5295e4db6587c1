/* Thread heaps: the share that each thread has of a heap, and how a thread finds its own.
 *
 * A thread finds its thread heap in thread-local storage (nm__theaps), in a slot that belongs to the heap as long as it
 * lives; a heap without a slot is looked up. When the thread exits, its thread heap is orphaned as it stands: the thread
 * that frees into it drains it, one at a time, and the next thread to need one adopts it whole. A thread heap is never
 * dissolved while its heap lives, so a superblock's thread heap never changes and no free races with a change of owner.
 *
 * What it cannot do: reuse a cell that another thread freed before the owner, or the thread that frees into an orphan, has
 * drained the list it is on.
 *
 * Invariants:
 *   nm__theaps[slot] is the calling thread's thread heap of the heap that has the slot, or nm__no_theap
 *   theap->thread == the owner's number while it has one, else 0;  an orphan that has cells queued is being drained, or is
 *   drained by the thread that queued them */
#include "heap/internal.h"

nm__superblock nm__no_superblock = {.theap = NULL};

nm__theap nm__no_theap = {
    .bins = {[0 ... NM__BINS - 1] = {.current = &nm__no_superblock}},
};

#define NO_THEAPS4 &nm__no_theap, &nm__no_theap, &nm__no_theap, &nm__no_theap
_Static_assert(NM__TLS_SLOTS == 16, "the initializer below counts the slots");
NM_TLS nm__theap *nm__theaps[NM__TLS_SLOTS] = {NO_THEAPS4, NO_THEAPS4, NO_THEAPS4, NO_THEAPS4};

/* A thread heap that this thread remembers; heap numbers are never used again, so it cannot be mistaken for another heap's. */
typedef struct known_theap {
    uint64_t heap; /* its number */
    nm__theap *theap;
} known_theap;
/* Of the heap without a slot that this thread used last. */
static NM_TLS known_theap theap_looked_up;
/* Of heaps that take turns, as long as they stand here: entering one often takes no lock. */
static NM_TLS known_theap theap_turns[NM_HEAP_TURNS];

/* Thread heaps that it has of heaps that nm__heap_share was told of, at most: those of heaps that are gone are counted too. */
static NM_TLS size_t theaps_shared;

static NM_TLS nm__thread_entry this_thread; /* its place in the list of nm__heaps */

bool nm__theap_is_mine(const nm__theap *theap) {
    if (theap == &nm__no_theap) return true;
    return theap->heap->key == 0 && atomic_load((_Atomic uintptr_t *)(uintptr_t)&theap->thread) == nm__thread_id();
}

void nm__heap_take_slot(nm_heap *h, size_t from) {
    NM_ASSERT(nm__is_held(&nm__heaps.lock));
    size_t slot = from;
    while (slot != NM__NO_SLOT && nm__heaps.slots_taken[slot]) slot++;
    if (slot != NM__NO_SLOT) nm__heaps.slots_taken[slot] = true;
    h->slot = slot;
}

void nm__heap_leave_slot(nm_heap *h) {
    NM_ASSERT(nm__is_held(&nm__heaps.lock));
    if (h->slot == NM__NO_SLOT) return;
    if (h->shares) {
        if (nm__theaps[h->slot]->heap == h) nm__theaps[h->slot] = &nm__no_theap;
        return;
    }
    for (nm__thread_entry *t = nm__heaps.threads; t != NULL; t = t->next) t->theaps[h->slot] = &nm__no_theap;
    nm__heaps.slots_taken[h->slot] = false;
    h->slot = NM__NO_SLOT;
}

/* The thread that frees into an orphan drains it, so that its memory does not wait for a thread to adopt it. That thread
 * pushes, then looks at the state; the thread that ends sets the state, then drains: one of the two sees the other. */
static void theap_drain_orphan(nm__theap *theap) {
    while (atomic_load(&theap->remote) != NULL) {
        int expected = NM__THEAP_ORPHANED;
        if (!atomic_compare_exchange_strong(&theap->state, &expected, NM__THEAP_DRAINING)) return;
        nm__theap_drain_aside(theap);
        atomic_store(&theap->state, NM__THEAP_ORPHANED);
    }
}

static void theap_orphan(nm__theap *theap) {
    nm__theap_drain(theap);
    nm__theap_retire_empty(theap);
    atomic_store(&theap->thread, 0); /* before the state, or it would overwrite the number of a thread that adopts it */
    atomic_store(&theap->state, NM__THEAP_ORPHANED);
    theap_drain_orphan(theap);
}

static void theap_free_far(nm__theap *theap, void *ptr) {
    NM_POISON(ptr, nm__superblock_of_cell(ptr)->cells.cell);
    nm__remote_push(&theap->remote, ptr, theap->heap->key);
    if (atomic_load(&theap->state) == NM__THEAP_ORPHANED) theap_drain_orphan(theap);
}

void nm__theap_free_cell(nm__theap *theap, void *ptr, nm__superblock *sb) {
    if (nm__theaps[theap->heap->slot] == theap ||
        (theap_looked_up.theap == theap && theap_looked_up.heap == theap->heap->number))
        nm__superblock_give(ptr, sb);
    else if (atomic_load_explicit(&theap->thread, memory_order_relaxed) == nm__thread_id())
        nm__superblock_give_aside(theap, ptr, sb);
    else theap_free_far(theap, ptr);
}

static void thread_enlist(void) {
    if (this_thread.listed || this_thread.ended) return;
    pthread_mutex_lock(&nm__heaps.lock);
    this_thread = (nm__thread_entry){.theaps = nm__theaps, .next = nm__heaps.threads, .listed = true};
    if (nm__heaps.threads != NULL) nm__heaps.threads->prev = &this_thread;
    nm__heaps.threads = &this_thread;
    pthread_mutex_unlock(&nm__heaps.lock);
}

/* Pre: nm__heaps.lock is held. */
static void thread_unlist(void) {
    NM_ASSERT(nm__is_held(&nm__heaps.lock));
    if (this_thread.prev != NULL) this_thread.prev->next = this_thread.next;
    else if (this_thread.listed) nm__heaps.threads = this_thread.next;
    if (this_thread.next != NULL) this_thread.next->prev = this_thread.prev;
    this_thread = (nm__thread_entry){.ended = true};
}

void nm__heap_thread_ends(void) {
    uintptr_t me = nm__thread_id();
    pthread_mutex_lock(&nm__heaps.lock);
    thread_unlist();
    for (unsigned i = 0; i < NM__TLS_SLOTS; i++) nm__theaps[i] = &nm__no_theap;
    theap_looked_up.heap = 0;
    memset(theap_turns, 0, sizeof theap_turns);
    theaps_shared = 0;
    for (nm_heap *h = nm__heaps.first; h != NULL; h = h->next) {
        pthread_mutex_lock(&h->lock);
        for (nm__theap *theap = h->theaps; theap != NULL; theap = theap->next)
            if (atomic_load(&theap->thread) == me) {
                if (h->shares) nm__theap_give_up(theap); /* of others the next thread has it */
                theap_orphan(theap);
            }
        pthread_mutex_unlock(&h->lock);
    }
    pthread_mutex_unlock(&nm__heaps.lock);
}

/* The thread heap that the thread has already, an orphan that it adopts, or a new one. NULL: no memory. */
static nm__theap *heap_find_theap(nm_heap *h) {
    uintptr_t me = nm__thread_id();
    nm__theap *theap;
    thread_enlist();
    pthread_mutex_lock(&h->lock);
    for (theap = h->theaps; theap != NULL; theap = theap->next)
        if (atomic_load(&theap->thread) == me) goto found;
    for (theap = h->theaps; theap != NULL; theap = theap->next) {
        int expected = NM__THEAP_ORPHANED;
        if (atomic_compare_exchange_strong(&theap->state, &expected, NM__THEAP_OWNED)) goto adopted;
    }
    void *memory = nm__meta_alloc(sizeof *theap + _Alignof(nm__theap));
    if (memory == NULL) {
        pthread_mutex_unlock(&h->lock);
        return NULL;
    }
    theap = (nm__theap *)(((uintptr_t)memory + _Alignof(nm__theap) - 1) & ~(uintptr_t)(_Alignof(nm__theap) - 1));
    theap->memory = memory;
    for (size_t bin = 0; bin < NM__BINS; bin++) theap->bins[bin].current = &nm__no_superblock;
    theap->heap = h;
    theap->next = h->theaps;
    h->theaps = theap;
adopted:
    atomic_store(&theap->thread, me);
    if (h->also != NULL) theaps_shared++;
found:
    pthread_mutex_unlock(&h->lock);
    nm__arm_thread_end();
    return theap;
}

NM_COLD nm__theap *nm__theap_current_slow(nm_heap *h) {
    if (theap_looked_up.heap == h->number) return theap_looked_up.theap;
    nm__theap *theap = heap_find_theap(h);
    if (theap == NULL) return NULL;
    if (h->slot == NM__NO_SLOT || this_thread.ended) {
        theap_looked_up.heap = h->number;
        theap_looked_up.theap = theap;
    } else {
        nm__theaps[h->slot] = theap;
        if (h->slot == NM__CLAIMED_SLOT) theap_turns[h->number % NM_HEAP_TURNS] = (known_theap){h->number, theap};
    }
    return theap;
}

nm__theap *nm__heap_attach(nm_heap *h) { return nm__theap_current(h); }

/* The thread heap is looked for with the first block, as scopes are entered in which nothing is allocated. A thread that has
 * ended, and a secure heap, have nothing in a slot: their calls look the thread heap up. */
void nm__heap_enter(nm_heap *h) {
    nm__theap *left = nm__theaps[NM__CLAIMED_SLOT];
    if (left->spare != NULL) nm__theap_drop_spare(left); /* a thread keeps one, not one for each heap that took a turn */
    nm__theaps[NM__CLAIMED_SLOT] = &nm__no_theap;
    if (h->key != 0 || this_thread.ended) return;
    const known_theap *turn = &theap_turns[h->number % NM_HEAP_TURNS];
    if (turn->heap == h->number) nm__theaps[NM__CLAIMED_SLOT] = turn->theap;
}

void nm__heap_detach(nm_heap *h) {
    if (h->also != NULL && theaps_shared == 0) return; /* no lock where nothing was allocated */
    uintptr_t me = nm__thread_id();
    known_theap *turn = &theap_turns[h->number % NM_HEAP_TURNS];
    if (turn->heap == h->number) turn->heap = 0;
    if (theap_looked_up.heap == h->number) theap_looked_up.heap = 0;
    if (nm__theaps[NM__CLAIMED_SLOT]->heap == h) nm__theaps[NM__CLAIMED_SLOT] = &nm__no_theap;
    pthread_mutex_lock(&h->lock);
    for (nm__theap *theap = h->theaps; theap != NULL; theap = theap->next)
        if (atomic_load(&theap->thread) == me) {
            nm__theap_give_up(theap); /* no other thread can, and it may be long until one needs the rest */
            theap_orphan(theap);
            if (h->also != NULL) theaps_shared--;
        }
    pthread_mutex_unlock(&h->lock);
}

/* In the child of a fork this thread is the only one. */
void nm__threads_forget_others(void) {
    nm__heaps.threads = this_thread.listed ? &this_thread : NULL;
    this_thread.prev = this_thread.next = NULL;
}
