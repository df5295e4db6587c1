#include "nativemem/memlib.h"

#include "base/base.h"
#include "nativemem/heap.h"
#include "nativemem/log.h"
#include "nativemem/plain.h"
#include "tuning.h"

/* Made where they are first needed, without a lock: the thread that comes second gives back what it made. So a process may fork at
 * any moment.
 * Invariant:  now == given, or now == own, or NULL before first use. */
static struct {
    _Atomic(nm_heap *) heap;
    _Atomic(nm_plain *) own, now;
} memlib;

static nm_plain *memlib_make_own(void) {
    nm_heap *heap = NULL;
    nm_plain *own = NULL;
    if (nm_region_size() == 0 && nm_region_init(NM_MEMLIB_REGION, NM_MEMLIB_RETAIN, NM_MEMLIB_DECAY_MS) != NM_OK) return NULL;
    if (atomic_load(&memlib.heap) == NULL) {
        nm_heap *made = nm_heap_create(NULL, false);
        if (made != NULL && !atomic_compare_exchange_strong(&memlib.heap, &heap, made)) nm_heap_destroy(made);
    }
    heap = atomic_load(&memlib.heap);
    if (heap == NULL) return NULL;
    if (atomic_load(&memlib.own) == NULL) {
        nm_plain *made = nm_plain_create(nm_heap_port(heap), heap);
        if (made != NULL && !atomic_compare_exchange_strong(&memlib.own, &own, made)) nm_plain_destroy(made);
    }
    return atomic_load(&memlib.own);
}

static NM_COLD nm_plain *memlib_start(void) {
    nm_plain *own = memlib_make_own(), *now = NULL;
    if (own == NULL || atomic_compare_exchange_strong(&memlib.now, &now, own)) return own;
    return now;
}

nm_plain *nm_memlib_now(void) {
    nm_plain *p = atomic_load_explicit(&memlib.now, memory_order_acquire);
    return NM_LIKELY(p != NULL) ? p : memlib_start();
}

void nm_memlib_use(nm_plain *plain) { atomic_store(&memlib.now, plain != NULL ? plain : atomic_load(&memlib.own)); }

NM_INLINE void *memlib_checked(void *ptr, const char *message) {
    if (NM_UNLIKELY(ptr == NULL)) nm__fatal(message);
    return ptr;
}

void *nm_hmalloc(size_t size) {
    return memlib_checked(nm_plain_malloc(nm_memlib_now(), size), "HMalloc() FATAL: out of memory.");
}

void *nm_hcalloc(size_t size) {
    return memlib_checked(nm_plain_calloc(nm_memlib_now(), 1, size), "HCalloc() FATAL: out of memory.");
}

/* A block that the core does not take back is not to be blamed on memory. */
static bool memlib_is_block(nm_status status, const char *message) {
    if (NM_LIKELY(status != NM_FOREIGN_BLOCK && status != NM_DOUBLE_FREE && status != NM_CORRUPTED)) return true;
    nm_log(NM_LOG_ERROR, message);
    return false;
}

/* For no bytes the block goes first, so that there is room for the byte that is to stand for it. */
void *nm_hrealloc(void *ptr, size_t size) {
    static const char message[] = "HRealloc() FATAL: out of memory.";
    nm_plain *p = nm_memlib_now();
    if (size == 0) {
        nm_hfree(ptr);
        return memlib_checked(nm_plain_malloc(p, 0), message);
    }
    void *moved = nm_plain_realloc(p, ptr, size);
    if (NM_UNLIKELY(moved == NULL) && !memlib_is_block(nm_last_failure().status, "HRealloc() ERROR: not a block.")) return NULL;
    return memlib_checked(moved, message);
}

void nm_hfree(void *ptr) { (void)memlib_is_block(nm_plain_free(nm_memlib_now(), ptr), "HFree() ERROR: not a block."); }

bool nm_mem_init(void) {
    (void)nm_memlib_now(); /* should there be no memory yet, the first call that needs some says so */
    nm_log(NM_LOG_INFO, "mem_init(): the native core");
    return true;
}

bool nm_mem_uninit(void) {
    nm_heap *heap = atomic_load(&memlib.heap);
    if (heap != NULL) nm_heap_trim(heap);
    nm_log(NM_LOG_INFO, "mem_uninit(): done");
    return true;
}
