/* The heap's port: nativemem/port.h's four methods.
 *
 * Counted in the calling thread's thread heap, without locks. A block that another thread frees is counted there, so only the
 * sums over all thread heaps mean anything; stats takes what was freed before what was given (see nm__set_last).
 *
 * Invariants, over all thread heaps of a heap:  used == out - back;  live == count - frees;  used <= peak */
#include "alloc/counters.h"
#include "heap/internal.h"

/* The peak is of this thread heap's own sum, so it is exact as long as one thread uses the heap. */
NM_INLINE void theap_count_out(nm__theap *theap, size_t size) {
    size_t out = nm__get(&theap->out) + size, back = nm__get(&theap->back);
    nm__set(&theap->out, out);
    nm__bump(&theap->total, size);
    if (out > back && out - back > nm__get(&theap->peak)) nm__set(&theap->peak, out - back);
}

NM_INLINE void *theap_count_alloc(nm__theap *theap, void *ptr, size_t size) {
    nm__bump(&theap->count, 1);
    theap_count_out(theap, size);
    return ptr;
}

/* For memory checkers: the bytes of the cell behind the block. malloc's calls give out the whole cell. */
NM_INLINE void heap_watch_slack(void *ptr, size_t size) { NM_POISON((char *)ptr + size, nm_heap_usable_of(ptr) - size); }

static NM_COLD void *heap_alloc_slow(nm_heap *h, nm__theap *theap, size_t size, size_t align) {
    void *ptr;
    if (size <= NM_CELL_MAX && align <= NM_ALIGN_MAX) ptr = nm__theap_alloc_slow(theap, nm__bin_aligned(size, align));
    else ptr = nm__span_alloc(h, size, align, false, NULL, false);
    if (ptr == NULL) return NULL;
    heap_watch_slack(ptr, size);
    return theap_count_alloc(theap, ptr, size);
}

static void *heap_alloc(void *self, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_heap *h = self;
    nm__theap *theap = nm__theap_current(h);
    if (NM_UNLIKELY(theap == NULL)) return NULL;
    if (NM_LIKELY(size <= NM_CELL_MAX && align <= NM_ALIGN_MAX)) {
        void *ptr = nm__theap_alloc(theap, nm__bin_aligned(size, align));
        if (NM_LIKELY(ptr != NULL)) {
            heap_watch_slack(ptr, size);
            return theap_count_alloc(theap, ptr, size);
        }
    }
    return heap_alloc_slow(h, theap, size, align);
}

static void *secure_port_alloc(void *self, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_heap *h = self;
    nm__theap *theap = nm__theap_current(h);
    void *ptr = theap == NULL ? NULL : nm__secure_alloc(h, size, align, NULL, false);
    return ptr == NULL ? NULL : theap_count_alloc(theap, ptr, size);
}

/* Bytes behind a block. A block whose new size has the same is resized in place. */
static size_t heap_size_class(const nm_heap *h, size_t size, size_t align) {
    bool secure = h->key != 0;
    size_t whole = size + (secure ? NM__SECURE_TAIL : 0);
    if (whole <= NM_CELL_MAX && align <= NM_ALIGN_MAX) return nm__bin_sizes[nm__bin_aligned(whole, align)];
    return nm__pages_for(whole + (secure ? nm__secure_span_guard() : 0)) * NM_PAGE;
}

static bool heap_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    NM_ASSERT(nm__is_layout(size, align));
    nm_heap *h = self;
    if (heap_size_class(h, old, align) != heap_size_class(h, size, align)) return false;
    nm__theap *theap = nm__theap_current(h);
    if (theap == NULL) return false;
    if (h->key != 0) {
        nm_status status = nm__secure_resize(ptr, size);
        if (status != NM_OK) return nm__fail(status, size, 0, 0), false;
    } else if (size > old) {
        NM_UNPOISON((char *)ptr + old, size - old);
    } else {
        NM_POISON((char *)ptr + size, old - size);
    }
    if (size > old) theap_count_out(theap, size - old);
    else nm__bump_last(&theap->back, old - size);
    return true;
}

NM_INLINE void theap_count_free(nm__theap *theap, size_t size) {
    nm__bump_last(&theap->frees, 1);
    nm__bump_last(&theap->back, size);
}

static bool heap_has(const nm_heap *h, const void *ptr) {
    const nm__superblock *sb = nm__superblock_of_cell(ptr);
    const nm__page *p = nm__page_of(ptr);
    return sb != NULL ? sb->theap->heap == h : p->kind == NM__SPAN && nm__span_heap(p) == h;
}

/* Of a secure heap, of another thread, a span, a cell in a large superblock but not in its first 64 KiB, or another heap's. */
static NM_COLD nm_status heap_free_slow(nm_heap *h, nm__theap *theap, void *ptr, size_t size) {
    nm_status status = heap_has(h, ptr) ? nm__heap_free_far(h, ptr, nm__superblock_of(ptr)) : NM_FOREIGN_BLOCK;
    if (status == NM_FOREIGN_BLOCK) return nm__fail(NM_FOREIGN_BLOCK, size, 0, 0);
    if (status == NM_OK) theap_count_free(theap, size);
    return status;
}

/* What the calling thread's own cells cost is counted before they are given back, so that nothing has to be kept across the
 * call that a superblock's report is. Such a cell is of the heap, as its thread heap is. */
static nm_status heap_free(void *self, void *ptr, size_t size, size_t align) {
    nm_heap *h = self;
    (void)align;
    nm__superblock *sb = nm__superblock_of(ptr);
    if (NM_UNLIKELY(sb == NULL)) return nm__fail(NM_FOREIGN_BLOCK, size, 0, 0);
    nm__theap *theap = nm__theap_current(h);
    if (NM_UNLIKELY(theap == NULL)) return NM_OUT_OF_MEMORY;
    if (NM_UNLIKELY(h->key != 0 || sb->theap != theap)) return heap_free_slow(h, theap, ptr, size);
    theap_count_free(theap, size);
    if (NM_UNLIKELY(nm__cells_give(&sb->cells, ptr, 0))) nm__superblock_trip(sb);
    return NM_OK;
}

static void heap_stats(void *self, nm_stats *out) {
    nm_heap *h = self;
    *out = (nm_stats){.reserved = nm__get(&h->held), .failures = nm__get(&h->failures)};
    size_t given = 0, back = 0;
    pthread_mutex_lock(&h->lock);
    /* In two rounds: a block may come from one thread heap and go back through another. */
    for (nm__theap *theap = h->theaps; theap != NULL; theap = theap->next) {
        back += nm__get_first(&theap->back);
        out->frees += nm__get_first(&theap->frees);
    }
    for (nm__theap *theap = h->theaps; theap != NULL; theap = theap->next) {
        given += nm__get(&theap->out);
        out->peak += nm__get(&theap->peak);
        out->total += nm__get(&theap->total);
        out->count += nm__get(&theap->count);
    }
    pthread_mutex_unlock(&h->lock);
    out->used = given - back;
    if (out->peak < out->used) out->peak = out->used;
    out->live = out->count - out->frees;
}

static const nm_methods heap_methods = {heap_alloc, heap_resize, heap_free, heap_stats};

static const nm_methods secure_methods = {secure_port_alloc, heap_resize, heap_free, heap_stats};

nm_allocator nm_heap_port(nm_heap *h) { return (nm_allocator){h, h->key != 0 ? &secure_methods : &heap_methods}; }
