/* malloc's calls on a heap: callers that do not know a block's size and alignment when they free it.
 *
 * The fast path of each is in heap.h, inlined here. Blocks served by these are not counted in the statistics of the port,
 * which need sizes; the census counts them by bin. A block may be freed through any heap: its page says whose it is.
 * Only a block of the calling heap grows in place: another heap's is moved, so that the right budget is charged. */
#include "heap/internal.h"

/* Not NM_COLD: gcc would take the fast path that calls it for cold, too. */
__attribute__((noinline)) nm_status nm__heap_free_far(nm_heap *caller, void *ptr, nm__superblock *sb) {
    (void)caller;
    sb = nm__superblock_whole(sb);
    nm__theap *theap = sb->theap;
    nm__page *p = nm__page_of(ptr);
    if (theap == NULL && p->kind != NM__SPAN) /* neither a cell nor the start of a span */
        return nm__fail(NM_FOREIGN_BLOCK, 0, 0, 0);
    nm_heap *h = theap != NULL ? theap->heap : nm__span_heap(p);
    if (h->key != 0) {
        nm_status status = nm__secure_free(h, ptr);
        return status == NM_OK ? NM_OK : nm__fail(status, 0, 0, 0);
    }
    if (theap == NULL) nm__span_free(p);
    else nm__theap_free_cell(theap, ptr, sb);
    return NM_OK;
}

static NM_COLD void *heap_malloc_slow(nm_heap *h, size_t size, bool quiet) {
    if (size > NM_SIZE_MAX) return nm_refuse(NM_INVALID_LAYOUT, size, 0, 0);
    size += size == 0;
    if (NM_UNLIKELY(h->key != 0)) return nm__secure_alloc(h, size, 1, NULL, quiet);
    if (size > NM_CELL_MAX) return nm__span_alloc(h, size, 1, false, NULL, quiet);
    nm__theap *theap = nm__heap_attach(h);
    if (NM_UNLIKELY(theap == NULL)) return NULL;
    size_t bin = nm__bin_of(size);
    void *ptr = nm__theap_alloc(theap, bin);
    if (NM_LIKELY(ptr != NULL)) return ptr;
    return nm__theap_provide(theap, bin, quiet) ? nm__theap_alloc(theap, bin) : NULL;
}

NM_INLINE void *heap_malloc(nm_heap *h, size_t size, bool quiet) {
    nm__theap *theap = nm__theaps[h->slot];
    void *ptr = NULL;
    if (NM_LIKELY(size <= NM__FINE)) ptr = nm__theap_alloc(theap, nm__fine_bin(size));
    else if (size <= NM_CELL_MAX) ptr = nm__theap_alloc(theap, nm__bin_of(size));
    return NM_LIKELY(ptr != NULL) ? ptr : heap_malloc_slow(h, size, quiet);
}

void *nm_heap_malloc(nm_heap *h, size_t size) { return heap_malloc(h, size, false); }
void *nm__heap_try(nm_heap *h, size_t size) { return heap_malloc(h, size, true); }

static void *heap_calloc(nm_heap *h, size_t bytes, bool quiet) {
    if (bytes > NM_SIZE_MAX) return nm_refuse(NM_INVALID_LAYOUT, SIZE_MAX, 0, 0);
    bool zero = false;
    void *ptr;
    if (h->key != 0 && bytes > NM_CELL_MAX) ptr = nm__secure_alloc(h, bytes, 1, &zero, quiet);
    else if (bytes <= NM_CELL_MAX) ptr = heap_malloc(h, bytes, quiet);
    else ptr = nm__span_alloc(h, bytes, 1, bytes >= NM_HEAP_FRESH_ZERO, &zero, quiet);
    if (ptr != NULL && !zero) memset(ptr, 0, bytes);
    return ptr;
}

void *nm_heap_calloc(nm_heap *h, size_t count, size_t size) {
    size_t bytes;
    return heap_calloc(h, nm_mul(count, size, &bytes) ? bytes : SIZE_MAX, false);
}
void *nm__heap_try_calloc(nm_heap *h, size_t bytes) { return heap_calloc(h, bytes, true); }

nm_status nm_heap_free(nm_heap *h, void *ptr) { return nm__theap_free(h, nm__theaps[h->slot], ptr, nm__superblock_in(ptr)); }

void nm__heap_release(void *heap, void *ptr) { (void)nm_heap_free(heap, ptr); }

/* A block that shrinks and finds no smaller place stays: NULL then, but nothing was denied. */
static void *heap_move(nm_heap *h, void *ptr, size_t old, size_t size, bool quiet) {
    return nm__move(heap_malloc(h, size, quiet || size <= old), ptr, old, size, nm__heap_release, h);
}

NM_INLINE void *heap_realloc(nm_heap *h, void *ptr, size_t size, bool quiet) {
    size_t old;
    if (NM_UNLIKELY(h->key != 0)) return nm__secure_realloc(h, ptr, size, 1, quiet);
    const nm__superblock *sb = nm__superblock_of_cell(ptr);
    if (sb != NULL) {
        old = sb->cells.cell;
        if (size <= old && nm__heap_stays(size, old)) return ptr;
    } else {
        nm__page *p = nm__page_of(ptr);
        old = (size_t)p->npages * NM_PAGE;
        /* Another heap's span does not grow in place: this heap is the one to be charged, and to refuse. */
        bool may = size <= old || nm__span_heap(p) == h;
        if (may && size > NM_CELL_MAX && size <= NM_SIZE_MAX) {
            if (nm__span_resize(p, nm__pages_for(size))) return ptr;
            void *moved = nm__span_move(h, p, nm__pages_for(size));
            if (moved != NULL) return moved;
        }
    }
    void *moved = heap_move(h, ptr, old, size + (size == 0), quiet);
    return moved != NULL || size > old ? moved : ptr;
}

void *nm_heap_realloc(nm_heap *h, void *ptr, size_t size) { return heap_realloc(h, ptr, size, false); }
void *nm__heap_try_realloc(nm_heap *h, void *ptr, size_t size) { return heap_realloc(h, ptr, size, true); }
