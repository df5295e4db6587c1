/* The heap itself: its life, what it holds and is charged for, and what can be asked of a block or of the whole.
 *
 * A heap has a thread heap for each thread that uses it (threads.c), which serve cells of superblocks (superblocks.c), and a
 * list of spans for what is larger (spans.c). Budgets are charged with whole pages, when they are taken from the region and
 * when they go back. A heap cannot give its memory to another one, and is destroyed only when no thread is in it.
 *
 * Locks, in their order: nm__heaps.lock, a heap's, the region's.
 *
 * Invariants, under the heap's lock:
 *   held == NM_PAGE * pages of its spans and those that its superblocks are charged with;  what its budgets are charged with == held */
#include "heap/internal.h"

struct nm__heaps nm__heaps = {.lock = PTHREAD_MUTEX_INITIALIZER};

size_t nm_heap_usable(const nm_heap *h, size_t size, size_t align) {
    if (size == 0) return 0;
    if (h->key != 0) return size; /* the bytes behind it are watched */
    if (size <= NM_CELL_MAX && align <= NM_ALIGN_MAX) return nm__bin_sizes[nm__bin_aligned(size, align)];
    return nm__pages_for(size) * NM_PAGE;
}

size_t nm_heap_usable_of(const void *ptr) {
    const nm_heap *h = nm__heap_of_block(ptr);
    if (h->key != 0) return nm__secure_usable_of(h, ptr);
    const nm__superblock *sb = nm__superblock_of_cell(ptr);
    return sb != NULL ? sb->cells.cell : (size_t)nm__page_of(ptr)->npages * NM_PAGE;
}

const nm_heap *nm_heap_of(const void *ptr) {
    const nm__superblock *sb = nm__superblock_at(ptr);
    if (sb == NULL) return NULL;
    sb = nm__superblock_whole(sb);
    const nm__theap *theap = nm__theap_at(sb);
    if (theap != NULL) { /* reads only what never changes, so any thread may ask */
        size_t offset = (size_t)((const char *)ptr - nm__superblock_base(sb));
        return offset < sb->cells.end && offset % sb->cells.cell == 0 ? theap->heap : NULL;
    }
    const nm__page *p = nm__page_of(ptr);
    if (!nm__span_at(p) || ptr != nm__page_base(p)) return NULL;
    /* Another thread may be giving it back, and a link may stand there. Orders: with the link it is seen that the page is no
     * span any more. */
    nm_heap *h = atomic_load_explicit((_Atomic(nm_heap *) *)(uintptr_t)&p->heap, memory_order_acquire);
    return nm__span_at(p) ? h : NULL;
}

nm_status nm__heap_measure(const void *ptr, size_t *size) {
    const nm_heap *h = nm__heap_of_block(ptr);
    if (h->key != 0) return nm__secure_measure(h, ptr, size);
    *size = nm_heap_usable_of(ptr);
    return NM_OK;
}

/* Follows lists that may change: each step is checked, and there are only so many. */
bool nm__heap_is_free(const void *ptr) {
    const nm__superblock *sb = nm__superblock_at(ptr);
    if (sb != NULL) sb = nm__superblock_whole(sb);
    nm__theap *theap = sb == NULL ? NULL : nm__theap_at(sb);
    if (theap == NULL) return false;
    uintptr_t key = theap->heap->key;
    const char *base = nm__superblock_base(sb);
    if ((uintptr_t)ptr - (uintptr_t)base >= sb->cells.fresh || nm__steps_are_shed(sb, (uintptr_t)ptr - (uintptr_t)base))
        return true;
    const void *at = sb->cells.free;
    for (uint32_t n = 0; n < sb->cells.capacity && at != NULL && nm__cells_holds(&sb->cells, base, 0, at); n++) {
        if (at == ptr) return true;
        at = nm__link(key, at, nm__peek(at));
    }
    at = atomic_load(&theap->remote);
    for (size_t n = 0; n < NM_HEAP_FAR_MOST && nm_heap_of(at) == theap->heap; n++) {
        if (at == ptr) return true;
        at = nm__link(key, at, nm__peek(at));
    }
    return false;
}

bool nm__heap_charge(nm_heap *h, size_t npages, bool quiet) {
    bool (*hold)(nm_budget *, size_t) = quiet ? nm__budget_try : nm__budget_hold;
    size_t bytes = npages * NM_PAGE;
    if (h->budget != NULL && !hold(h->budget, bytes)) return false;
    if (h->also != NULL && !hold(h->also, bytes)) {
        (void)nm_budget_release(h->budget, bytes);
        return false;
    }
    nm__atomic_add(&h->held, bytes);
    return true;
}

void nm__heap_settle(nm_heap *h) {
    nm__atomic_max(&h->held_peak, nm__get(&h->held));
    if (h->budget != NULL) nm__budget_settle(h->budget);
    if (h->also != NULL) nm__budget_settle(h->also);
}

void nm__heap_discharge(nm_heap *h, size_t npages) {
    size_t bytes = npages * NM_PAGE;
    nm__atomic_sub(&h->held, bytes);
    if (h->budget != NULL) (void)nm_budget_release(h->budget, bytes);
    if (h->also != NULL) (void)nm_budget_release(h->also, bytes);
}

static nm__page *heap_settle_for(nm_heap *h, nm__page *p, size_t charged) {
    if (p == NULL) nm__heap_discharge(h, charged);
    else nm__heap_settle(h);
    return p;
}

nm__page *nm__heap_try_superblock(nm_heap *h, size_t npages, size_t charged, bool quiet) {
    if (!nm__heap_charge(h, charged, quiet)) return NULL;
    return heap_settle_for(h, nm__region_take(npages, NM__SUPERBLOCK_PAGES, NM__SUPERBLOCK, false), charged);
}

nm__page *nm__heap_try_span(nm_heap *h, size_t npages, size_t align, bool want_zero, bool quiet) {
    if (!nm__heap_charge(h, npages, quiet)) return NULL;
    return heap_settle_for(h, nm__region_take(npages, align, NM__SPAN, want_zero), npages);
}

void nm__heap_make_room(nm_heap *h) {
    nm__theap *theap = nm__heap_attach(h);
    if (theap != NULL) nm__theap_make_room(theap);
}

nm_heap *nm_heap_create(nm_budget *budget, bool secure) {
    static pthread_once_t done = PTHREAD_ONCE_INIT;
    (void)pthread_once(&done, nm__heap_register_hooks);
    if (nm__region_pages == 0) return nm_refuse(NM_OUT_OF_MEMORY, 0, 0, 0);
    nm_heap *h = nm__meta_alloc(sizeof *h);
    if (h == NULL) return NULL;
    (void)pthread_mutex_init(&h->lock, NULL);
    h->budget = budget;
    if (secure) {
        h->key = (uintptr_t)nm__os_random() | 1;
        h->canary = (uintptr_t)nm__os_random();
        nm__set(&h->random, (size_t)nm__os_random());
    }
    pthread_mutex_lock(&nm__heaps.lock);
    h->number = ++nm__heaps.numbers;
    h->slot = NM__NO_SLOT;
    if (!secure) nm__heap_take_slot(h, NM__CLAIMED_SLOT + 1);
    h->next = nm__heaps.first;
    nm__heaps.first = h;
    pthread_mutex_unlock(&nm__heaps.lock);
    return h;
}

void nm__heap_claim(nm_heap *h) {
    if (h->key != 0) return;
    pthread_mutex_lock(&nm__heaps.lock);
    nm__heap_leave_slot(h);
    nm__heap_take_slot(h, NM__CLAIMED_SLOT);
    pthread_mutex_unlock(&nm__heaps.lock);
}

void nm__heap_share(nm_heap *h, nm_budget *also) {
    h->also = also;
    if (h->key != 0) return;
    pthread_mutex_lock(&nm__heaps.lock);
    nm__heap_leave_slot(h);
    h->shares = true;
    h->slot = NM__CLAIMED_SLOT;
    pthread_mutex_unlock(&nm__heaps.lock);
}

void nm_heap_clear(nm_heap *h) {
    pthread_mutex_lock(&h->lock);
    for (nm__theap *theap = h->theaps; theap != NULL; theap = theap->next) nm__theap_clear(theap);
    while (h->spans != NULL) nm__span_drop(h, h->spans);
    pthread_mutex_unlock(&h->lock);
}

void nm_heap_destroy(nm_heap *h) {
    if (h == NULL) return;
    nm_heap_clear(h);
    pthread_mutex_lock(&nm__heaps.lock);
    nm_heap **link = &nm__heaps.first;
    while (*link != h) link = &(*link)->next;
    *link = h->next;
    nm__heap_leave_slot(h);
    pthread_mutex_unlock(&nm__heaps.lock);
    while (h->theaps != NULL) {
        nm__theap *theap = h->theaps;
        h->theaps = theap->next;
        nm__meta_free(theap->memory);
    }
    (void)pthread_mutex_destroy(&h->lock);
    nm__meta_free(h);
}

void nm_heap_trim(nm_heap *h) {
    nm__theap *theap = nm__theap_current(h);
    pthread_mutex_lock(&h->lock);
    if (theap != NULL) nm__theap_give_up(theap);
    pthread_mutex_unlock(&h->lock);
    nm_region_trim();
}

void nm_heap_census(nm_heap *h, nm_census *out) {
    *out = (nm_census){.held = nm__get(&h->held), .held_peak = nm__get(&h->held_peak)};
    out->live_span_bytes = nm__get(&h->live_spans_bytes);
    for (unsigned i = 0; i < NM_SPAN_SIZES; i++) out->span_allocations[i] = nm__get(&h->span_served[i]);
    pthread_mutex_lock(&h->lock);
    for (const nm__theap *theap = h->theaps; theap != NULL; theap = theap->next) {
        out->threads++;
        for (size_t bin = 1; bin < NM__BINS; bin++) {
            out->allocations[bin] += nm__get(&theap->bins[bin].served);
        }
    }
    pthread_mutex_unlock(&h->lock);
}

const char *nm_heap_check(nm_heap *h) {
    const char *broken = NULL;
    size_t pages = 0, span_pages = 0;
    pthread_mutex_lock(&h->lock);
    for (nm__theap *theap = h->theaps; theap != NULL && broken == NULL; theap = theap->next) {
        for (void *at = atomic_load(&theap->remote); at != NULL && broken == NULL; at = nm__link(h->key, at, nm__peek(at)))
            if (nm__superblock_of(at) == NULL || nm__superblock_whole(nm__superblock_of(at))->theap != theap)
                broken = "a queued cell is another thread heap's";
        if (broken == NULL) broken = nm__spare_check(theap);
        for (size_t bin = 1; bin < NM__BINS && broken == NULL; bin++) {
            const nm__superblock *current = theap->bins[bin].current;
            if (current != &nm__no_superblock) broken = nm__superblock_check(current, theap, bin), pages += current->charged;
            for (unsigned group = 0; group <= NM__FULL; group++)
                for (const nm__superblock *sb = theap->waiting[bin][group]; sb != NULL && broken == NULL;
                     pages += sb->charged, sb = sb->next)
                    broken = sb->group != group ? "a superblock is on the wrong list" : nm__superblock_check(sb, theap, bin);
        }
    }
    for (const nm__page *p = h->spans; p != NULL && broken == NULL; p = p->next) {
        if (p->kind != NM__SPAN || p->heap != h) broken = "a span is not the heap's";
        span_pages += p->npages;
    }
    if (broken == NULL && (pages + span_pages) * NM_PAGE != nm__get(&h->held)) broken = "held is not what is held";
    if (broken == NULL && span_pages * NM_PAGE != nm__get(&h->live_spans_bytes)) broken = "span bytes are not counted right";
    if (broken == NULL && h->budget != NULL && nm_budget_used(h->budget) != nm__get(&h->held))
        broken = "the budget is not charged with what is held";
    pthread_mutex_unlock(&h->lock);
    return broken;
}

size_t nm__heap_held(const nm_heap *h) { return nm__get_first(&h->held); }
