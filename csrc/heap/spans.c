/* Spans: blocks above NM_CELL_MAX bytes, each a run of the region's pages of its own.
 *
 * A span is charged to the heap's budgets by the page, before it is taken, and discharged after it went back. It grows in
 * place where the pages behind it are free, or moves with its contents to a place that has room (region.h). A span cannot be
 * shared: the heap whose it is stands in its descriptor, and any thread may free it, under that heap's lock.
 *
 * Invariants, under the heap's lock:
 *   a live span is on its heap's list, and p->heap is the heap;  no superblock has an entry of its 64 KiB
 *   live_spans_bytes == NM_PAGE * pages of the spans on the list */
#include "heap/internal.h"

static nm__page *span_take(nm_heap *h, size_t npages, size_t align, bool want_zero, bool quiet) {
    nm__page *p = nm__heap_try_span(h, npages, align, want_zero, true);
    if (NM_LIKELY(p != NULL)) return p;
    nm__heap_make_room(h);
    p = nm__heap_try_span(h, npages, align, want_zero, quiet);
    if (p == NULL && !quiet) nm__heap_count_failure(h);
    return p;
}

void *nm__span_alloc(nm_heap *h, size_t size, size_t align, bool want_zero, bool *zero, bool quiet) {
    size_t npages = nm__pages_for(size);
    nm__page *p = span_take(h, npages, align <= NM_PAGE ? 1 : align / NM_PAGE, want_zero, quiet);
    if (p == NULL) return NULL;
    if (zero != NULL) *zero = p->zero;
    p->heap = h;
    unsigned power = size <= 1 ? 0 : 64U - (unsigned)__builtin_clzll(size - 1);
    nm__atomic_add(&h->span_served[power < NM_SPAN_SIZES ? power : NM_SPAN_SIZES - 1], 1);
    nm__atomic_add(&h->live_spans_bytes, npages * NM_PAGE);
    pthread_mutex_lock(&h->lock);
    nm__page_push(&h->spans, p);
    pthread_mutex_unlock(&h->lock);
    return nm__page_base(p);
}

void nm__span_drop(nm_heap *h, nm__page *p) {
    NM_ASSERT(nm__is_held(&h->lock));
    size_t npages = p->npages;
    if (h->key != 0) nm__wipe(nm__page_base(p), npages * NM_PAGE - nm__secure_span_guard());
    nm__page_pull(&h->spans, p);
    nm__atomic_sub(&h->live_spans_bytes, npages * NM_PAGE);
    size_t open = nm__secure_unguard(h, p);
    if (open != 0) nm__region_give(p, open);
    nm__heap_discharge(h, npages);
}

void nm__span_free(nm__page *p) {
    nm_heap *h = nm__span_heap(p);
    pthread_mutex_lock(&h->lock);
    nm__span_drop(h, p);
    pthread_mutex_unlock(&h->lock);
}

void *nm__span_move(nm_heap *h, nm__page *p, size_t npages) {
    size_t now = p->npages, more = npages - now;
    if (npages <= now || !nm__heap_charge(h, more, true)) return NULL;
    pthread_mutex_lock(&h->lock);
    nm__page_pull(&h->spans, p);
    pthread_mutex_unlock(&h->lock);
    nm__page *moved = nm__region_move(p, now, npages);
    if (moved != NULL) {
        nm__heap_settle(h);
        nm__atomic_add(&h->live_spans_bytes, more * NM_PAGE);
    } else {
        nm__heap_discharge(h, more);
    }
    pthread_mutex_lock(&h->lock);
    nm__page_push(&h->spans, moved != NULL ? moved : p);
    pthread_mutex_unlock(&h->lock);
    return moved == NULL ? NULL : nm__page_base(moved);
}

bool nm__span_resize(nm__page *p, size_t npages) {
    nm_heap *h = nm__span_heap(p);
    size_t now = p->npages;
    if (npages < now) {
        p->npages = (uint32_t)npages;
        nm__region_give(p + npages, now - npages);
        nm__heap_discharge(h, now - npages);
        nm__atomic_sub(&h->live_spans_bytes, (now - npages) * NM_PAGE);
    } else if (npages > now) {
        if (!nm__heap_charge(h, npages - now, true)) return false;
        if (!nm__region_extend(p, now, npages - now)) {
            nm__heap_discharge(h, npages - now);
            return false;
        }
        nm__heap_settle(h);
        nm__atomic_add(&h->live_spans_bytes, (npages - now) * NM_PAGE);
    }
    return true;
}
