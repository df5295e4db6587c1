/* The heap under CPython's object domains and under NumPy.
 *
 * The hooks are static functions that ignore their context. They are put into the interpreter's table once
 * and stay there: taking them out would race with calls under way and would send frees of our blocks to an
 * allocator that does not know them. On and off is a flag that only decides where new memory comes from.
 * Whose block an address is, the region says; what is not ours goes to the allocator that was there before.
 *
 * `mem` and `obj` are hooked together and served by one heap, because release builds let a block be taken
 * in one and freed in the other.
 */
#include "engine/python.h"

#include <sched.h>

#include "heap/heap.h"
#include "engine/engine.h"
#include "engine/insides.h"
#include "engine/numpy.h"
#include "engine/overdraft.h"
#include "engine/place.h"
#include "engine/scopes.h"

nm__array_source_table nm__array_sources;
static nm_heap *heap;
static nm_budget *budget;
static bool is_secure;

/* SCOPED: it is found out with each call who is charged. */
enum { OFF, ON, SCOPED };
static bool scoped;  /* there have been owners */
static bool looking; /* ON is SCOPED */

static struct {
    atomic_bool hooked;
    _Atomic int mode;
    PyMemAllocatorEx mem, obj; /* what was there before */
} objects;

/* Beneath the interpreter, where its lock need not be held: nobody is looked up, so it has a heap that no owner has. */
static struct {
    atomic_bool hooked;
    _Atomic int mode; /* never SCOPED */
    PyMemAllocatorEx before;
    nm_heap *heap;
} raw;

/* Arrays that are charged have a heap of their own: objects are charged by what their heap holds, arrays each by
 * itself. */
static struct {
    bool hooked;
    _Atomic int mode;
    nm_heap *heap;
    nm__numpy_handler before;
} arrays;

NM_INLINE bool is_on(_Atomic int *mode) {
    int m = atomic_load_explicit(mode, memory_order_relaxed);
    if (NM_LIKELY(m == ON)) return true;
    if (m == OFF) return false;
    nm__scope_sync();
    return true;
}

static void switch_on(_Atomic int *mode, bool on) { atomic_store(mode, !on ? OFF : looking ? SCOPED : ON); }

nm_heap *nm_engine_heap(void) { return heap; }
nm_budget *nm_engine_budget(void) { return budget; }

static bool start(bool secure) {
    if (heap != NULL) return true;
    is_secure = secure;
    nm_budget *b = nm_budget_create(NM_SIZE_MAX, NULL, NULL);
    if (b == NULL) return false;
    nm__budget_is_unwatched(b);
    nm_heap *h = nm_heap_create(b, secure);
    if (h == NULL || !nm__overdraft_start(b, secure)) {
        nm_heap_destroy(h);
        nm_budget_destroy(b);
        return false;
    }
    nm__heap_claim(h);
    budget = b;
    heap = h;
    return true;
}

/* ---- taking and giving ---------------------------------------------------------------------------- */

static atomic_bool limited; /* a limit of the process was set; asked without the interpreter's lock, too */
static bool has_limit(void) { return atomic_load_explicit(&limited, memory_order_relaxed); }
static bool is_bounded(void) { return has_limit() || nm__scope_now.owner != NULL; }

/* Only a secure heap finds such. Nothing that the program holds can be trusted any more, and the interpreter's
 * calls have no way to say so. */
static NM_COLD void stop_if_corrupted(nm_status status) {
    if (status == NM_CORRUPTED) Py_FatalError("nativemem: bytes behind a block, or in a freed one, were written");
    if (status == NM_DOUBLE_FREE) Py_FatalError("nativemem: a block was freed twice");
}

static void watch_pressure(void) {
    if (NM_UNLIKELY(atomic_load_explicit(&nm__pressed, memory_order_relaxed))) nm__overdraft_wait_for_safe_point();
}

/* What is bounded is served and charged, or refused. Where nothing is, the allocator before us may still have memory
 * when the region has no more. */
static bool may_ask_before(void) {
    nm_status status = nm_last_failure().status;
    stop_if_corrupted(status);
    return status != NM_OVER_BUDGET && !is_bounded();
}

static void *beyond(size_t size, bool zeroed) {
    stop_if_corrupted(nm_last_failure().status);
    void *ptr = is_bounded() ? nm__overdraft_take(size, zeroed, false) : nm__overdraft_take_unbounded(size, zeroed);
    watch_pressure();
    return ptr;
}

static NM_COLD void *take_slow(size_t size) {
    void *ptr = nm__heap_try(nm__scope_heap(heap), size);
    if (NM_UNLIKELY(ptr == NULL)) return beyond(size, false);
    if (NM_UNLIKELY(atomic_load_explicit(&nm__overdraft_is_told, memory_order_relaxed))) nm__overdraft_look_for_recovery();
    watch_pressure();
    return ptr;
}

NM_INLINE void *take(size_t size) {
    if (NM_LIKELY(size <= NM__FINE)) {
        void *ptr = nm__theap_alloc(nm__theaps[NM__CLAIMED_SLOT], nm__fine_bin(size));
        if (NM_LIKELY(ptr != NULL)) return ptr;
    }
    return take_slow(size);
}

/* Where the region had to leave a place to a mapping of another allocator. */
static NM_COLD bool is_of_others(nm_status status, const void *ptr) {
    stop_if_corrupted(status);
    return status == NM_FOREIGN_BLOCK && !nm__region_has(ptr);
}

/* not NM_COLD: gcc would take the fast path that calls it for cold, too */
static __attribute__((noinline)) bool give_elsewhere(void *ptr, nm__page *page) {
    nm_status status = nm__overdraft_owns(page) ? nm__overdraft_give(ptr) : nm__heap_free_far(heap, ptr, page);
    return NM_LIKELY(status == NM_OK) || !is_of_others(status, ptr);
}

/* false: the block is for the allocator before us. */
NM_INLINE bool give(void *ptr, nm__page *page) {
    if (NM_UNLIKELY(page == NULL)) return false;
    if (NM_UNLIKELY(page->theap != nm__theaps[NM__CLAIMED_SLOT])) return give_elsewhere(ptr, page);
    if (NM_UNLIKELY(nm__cells_give(&page->cells, ptr, 0))) nm__superblock_trip(page);
    return true;
}

/* ---- CPython -------------------------------------------------------------------------------------- */

NM_INLINE void *domain_malloc(PyMemAllocatorEx *before, size_t size) {
    if (NM_LIKELY(is_on(&objects.mode))) {
        void *ptr = take(size);
        if (NM_LIKELY(ptr != NULL) || !may_ask_before()) return ptr;
    }
    return before->malloc(before->ctx, size);
}

static NM_COLD void *calloc_large(size_t count, size_t size) {
    size_t bytes;
    if (!nm_mul(count, size, &bytes)) return nm_refuse(NM_INVALID_LAYOUT, SIZE_MAX, 0, 0);
    void *ptr = nm__heap_try_calloc(nm__scope_heap(heap), bytes);
    if (NM_UNLIKELY(ptr == NULL)) return beyond(bytes, true);
    watch_pressure();
    return ptr;
}

NM_INLINE void *domain_calloc(PyMemAllocatorEx *before, size_t count, size_t size) {
    if (NM_LIKELY(is_on(&objects.mode))) {
        size_t bytes;
        void *ptr;
        if (nm_mul(count, size, &bytes) && bytes <= NM__FINE) {
            ptr = take(bytes);
            if (NM_LIKELY(ptr != NULL)) return memset(ptr, 0, bytes);
        } else {
            ptr = calloc_large(count, size);
        }
        if (ptr != NULL || !may_ask_before()) return ptr;
    }
    return before->calloc(before->ctx, count, size);
}

static void copy_and_give(void *to, void *from, size_t old, size_t size, bool (*give_it)(void *)) {
    memcpy(to, from, old < size ? old : size);
    (void)give_it(from);
}

/* To the allocator that was there before. */
static NM_COLD void *move_out(PyMemAllocatorEx *before, void *ptr, size_t size, bool on, bool (*give_it)(void *)) {
    size_t old = nm_heap_usable_of(ptr);
    if (!on && size <= old) return ptr;
    void *moved = before->malloc(before->ctx, size);
    if (moved != NULL) copy_and_give(moved, ptr, old, size, give_it);
    return moved;
}

/* From the overdraft, or into it. */
static NM_COLD void *move_across(void *ptr, size_t size, void *(*take_it)(size_t), void *(*beyond_it)(size_t, bool),
                                 bool (*give_it)(void *)) {
    size_t old = nm_heap_usable_of(ptr);
    if (size <= old && nm__heap_stays(size, old)) return ptr;
    void *moved = nm__overdraft_owns(nm__page_of(ptr)) ? take_it(size) : beyond_it(size, false);
    if (moved == NULL) return size <= old ? ptr : NULL;
    copy_and_give(moved, ptr, old, size, give_it);
    return moved;
}

NM_INLINE void *move_by(nm_heap *h, void *ptr, size_t size, void *(*take_it)(size_t), void *(*beyond_it)(size_t, bool),
                        bool (*give_it)(void *)) {
    void *moved = NULL;
    if (NM_LIKELY(!nm__overdraft_owns(nm__page_of(ptr)))) moved = nm__heap_try_realloc(h, ptr, size);
    return NM_LIKELY(moved != NULL) ? moved : move_across(ptr, size, take_it, beyond_it, give_it);
}

static bool give_any(void *ptr) { return give(ptr, nm__page_of(ptr)); }

NM_INLINE void *domain_realloc(PyMemAllocatorEx *before, void *ptr, size_t size) {
    if (ptr == NULL) return domain_malloc(before, size);
    if (nm__page_of_block(ptr) == NULL) return before->realloc(before->ctx, ptr, size);
    bool on = is_on(&objects.mode);
    if (NM_LIKELY(on)) {
        void *moved = move_by(nm__scope_heap(heap), ptr, size, take_slow, beyond, give_any);
        if (NM_LIKELY(moved != NULL) || !may_ask_before()) return moved;
    }
    return move_out(before, ptr, size, on, give_any);
}

NM_INLINE void domain_free(PyMemAllocatorEx *before, void *ptr) {
    if (NM_UNLIKELY(!give(ptr, nm__page_of(ptr)))) before->free(before->ctx, ptr);
}

#define DOMAIN(name)                                                   \
    static void *name##_malloc(void *ctx, size_t size) {               \
        (void)ctx;                                                     \
        return domain_malloc(&objects.name, size);                     \
    }                                                                  \
    static void *name##_calloc(void *ctx, size_t count, size_t size) { \
        (void)ctx;                                                     \
        return domain_calloc(&objects.name, count, size);              \
    }                                                                  \
    static void *name##_realloc(void *ctx, void *ptr, size_t size) {   \
        (void)ctx;                                                     \
        return domain_realloc(&objects.name, ptr, size);               \
    }                                                                  \
    static void name##_free(void *ctx, void *ptr) {                    \
        (void)ctx;                                                     \
        domain_free(&objects.name, ptr);                               \
    }                                                                  \
    static PyMemAllocatorEx name##_hook = {NULL, name##_malloc, name##_calloc, name##_realloc, name##_free};

DOMAIN(mem)
DOMAIN(obj)

/* ---- beneath it ----------------------------------------------------------------------------------- */

/* A thread without the interpreter's lock finds the hook in the interpreter's table, which is plain memory: it may be there
 * before what the hook needs, the region, the heap and the allocator before it. And it may take a block here whose free
 * would still go past the hook. Orders: what the hook needs is written, then hooked is set; then comes the table; then
 * the mode. Each call begins with raw_is_ready, which waits for the first, a moment at most; one that takes memory acquires
 * the mode, and what frees that block sees the table. Both contexts are NULL (nm__place_look), so nothing goes wrong where a
 * thread finds one of two and the function of the other. x86-64 keeps stores in order: there is nothing to wait for. */
NM_INLINE void raw_is_ready(void) {
#if !defined(__x86_64__) || defined(NM__TSAN)
    while (NM_UNLIKELY(!atomic_load_explicit(&raw.hooked, memory_order_acquire))) sched_yield();
#endif
}

static bool raw_on(void) {
    raw_is_ready();
    return atomic_load_explicit(&raw.mode, memory_order_acquire) != OFF;
}

/* Without the interpreter's lock, perhaps. */
static void *raw_beyond(size_t size, bool zeroed) {
    stop_if_corrupted(nm_last_failure().status);
    void *ptr = has_limit() ? nm__overdraft_take(size, zeroed, true) : NULL;
    watch_pressure();
    return ptr;
}

static bool raw_may_ask_before(void) { return !has_limit(); }

static void *raw_take(size_t size) {
    void *ptr = nm__heap_try(raw.heap, size);
    return NM_LIKELY(ptr != NULL) ? ptr : raw_beyond(size, false);
}

static void *raw_malloc(void *ctx, size_t size) {
    (void)ctx;
    if (NM_LIKELY(raw_on())) {
        void *ptr = raw_take(size);
        if (NM_LIKELY(ptr != NULL) || !raw_may_ask_before()) return ptr;
    }
    return raw.before.malloc(raw.before.ctx, size);
}

static void *raw_calloc(void *ctx, size_t count, size_t size) {
    (void)ctx;
    size_t bytes;
    if (NM_LIKELY(raw_on() && nm_mul(count, size, &bytes))) {
        void *ptr = nm__heap_try_calloc(raw.heap, bytes);
        if (NM_UNLIKELY(ptr == NULL)) ptr = raw_beyond(bytes, true);
        if (NM_LIKELY(ptr != NULL) || !raw_may_ask_before()) return ptr;
    }
    return raw.before.calloc(raw.before.ctx, count, size);
}

/* false: as give. */
static bool raw_give(void *ptr) {
    nm_status status = nm__overdraft_owns(nm__page_of(ptr)) ? nm__overdraft_give(ptr) : nm_heap_free(raw.heap, ptr);
    return NM_LIKELY(status == NM_OK) || !is_of_others(status, ptr);
}

static void raw_free(void *ctx, void *ptr) {
    (void)ctx;
    raw_is_ready();
    if (NM_UNLIKELY(nm__page_of(ptr) == NULL) || !raw_give(ptr)) raw.before.free(raw.before.ctx, ptr);
}

static void *raw_realloc(void *ctx, void *ptr, size_t size) {
    if (ptr == NULL) return raw_malloc(ctx, size);
    bool on = raw_on();
    if (nm__page_of_block(ptr) == NULL) return raw.before.realloc(raw.before.ctx, ptr, size);
    if (NM_LIKELY(on)) {
        void *moved = move_by(raw.heap, ptr, size, raw_take, raw_beyond, raw_give);
        if (NM_LIKELY(moved != NULL) || !raw_may_ask_before()) return moved;
    }
    return move_out(&raw.before, ptr, size, on, raw_give);
}

static PyMemAllocatorEx raw_hook = {NULL, raw_malloc, raw_calloc, raw_realloc, raw_free};

static bool no_heap(void) {
    if (heap != NULL) return false;
    PyErr_SetString(PyExc_RuntimeError, "the engine's heap was not started");
    return true;
}

PyObject *nm__engine_start(PyObject *module, PyObject *secure) {
    (void)module;
    int is = PyObject_IsTrue(secure);
    return is < 0 ? NULL : PyBool_FromLong(start(is != 0));
}

PyObject *nm__engine_budget(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    if (heap == NULL) Py_RETURN_NONE;
    return Py_BuildValue("(NNNK)", PyLong_FromSize_t(nm_budget_used(budget)), PyLong_FromSize_t(nm_budget_peak(budget)),
                         PyLong_FromSize_t(nm_budget_limit(budget)), (unsigned long long)nm_budget_denied(budget));
}

static void set_limit(size_t limit, size_t reserve) {
    nm_budget_set_limit(budget, limit);
    nm__budget_hold_back(budget, reserve);
    atomic_store(&limited, limit < NM_SIZE_MAX);
}

PyObject *nm__engine_set_limit(PyObject *module, PyObject *args) {
    (void)module;
    Py_ssize_t limit, reserve;
    if (!PyArg_ParseTuple(args, "nn", &limit, &reserve) || no_heap()) return NULL;
    set_limit((size_t)limit, (size_t)reserve);
    Py_RETURN_NONE;
}

/* Also where the hook was once: another's that had ended may have put back what it found long ago. */
static void stand(PyMemAllocatorDomain domain, PyMemAllocatorEx *hook, PyMemAllocatorEx *before, atomic_bool *hooked) {
    if (nm__place_look(domain, hook) == NM__PLACE_FREE) nm__place_take(domain, hook, before, hooked);
    atomic_store(hooked, true);
}

/* What the domain gives comes from the region, whatever stands above the hook. Pre: the mode is not OFF. */
static bool is_reached(PyMemAllocatorDomain domain) {
    PyMemAllocatorEx there;
    PyMem_GetAllocator(domain, &there);
    void *ptr = there.malloc(there.ctx, 1);
    if (ptr == NULL) return true; /* refused by a limit: no other allocator has one */
    bool reached = nm_region_owns(ptr);
    there.free(there.ctx, ptr);
    return reached;
}

static bool may_stand(PyMemAllocatorDomain domain, const PyMemAllocatorEx *hook, bool hooked, _Atomic int *mode) {
    if (nm__place_look(domain, hook) != NM__PLACE_THEIRS) return true;
    if (!hooked) return false;
    int was = atomic_load(mode);
    if (was == OFF) atomic_store(mode, ON);
    bool reached = is_reached(domain);
    atomic_store(mode, was);
    return reached;
}

/* The domain in which the hook of others leaves no place for ours, and where that hook is from, or None; None: there is
 * none such. */
PyObject *nm__engine_stranger(PyObject *module, PyObject *args) {
    (void)module;
    int for_objects, for_raw;
    if (!PyArg_ParseTuple(args, "pp", &for_objects, &for_raw) || no_heap()) return NULL;
    if (for_raw && !may_stand(PYMEM_DOMAIN_RAW, &raw_hook, raw.hooked, &raw.mode))
        return Py_BuildValue("sz", "raw", nm__place_owner(PYMEM_DOMAIN_RAW));
    if (for_objects && !may_stand(PYMEM_DOMAIN_MEM, &mem_hook, objects.hooked, &objects.mode))
        return Py_BuildValue("sz", "mem", nm__place_owner(PYMEM_DOMAIN_MEM));
    if (for_objects && !may_stand(PYMEM_DOMAIN_OBJ, &obj_hook, objects.hooked, &objects.mode))
        return Py_BuildValue("sz", "obj", nm__place_owner(PYMEM_DOMAIN_OBJ));
    Py_RETURN_NONE;
}

PyObject *nm__engine_objects(PyObject *module, PyObject *flag) {
    (void)module;
    int on = PyObject_IsTrue(flag);
    if (on < 0 || no_heap()) return NULL;
    if (on) {
        stand(PYMEM_DOMAIN_MEM, &mem_hook, &objects.mem, &objects.hooked);
        stand(PYMEM_DOMAIN_OBJ, &obj_hook, &objects.obj, &objects.hooked);
    }
    switch_on(&objects.mode, on != 0);
    Py_RETURN_NONE;
}

nm_heap *nm__engine_own_heap(nm_budget *of) { return nm_heap_create(of, is_secure); }

PyObject *nm__engine_raw(PyObject *module, PyObject *flag) {
    (void)module;
    int on = PyObject_IsTrue(flag);
    if (on < 0 || no_heap()) return NULL;
    if (on) {
        if (raw.heap == NULL) raw.heap = nm__engine_own_heap(budget);
        if (raw.heap == NULL) return PyErr_NoMemory();
        stand(PYMEM_DOMAIN_RAW, &raw_hook, &raw.before, &raw.hooked);
    }
    atomic_store(&raw.mode, on ? ON : OFF);
    Py_RETURN_NONE;
}

bool nm__engine_use_scopes(void) {
    if (scoped) return true;
    arrays.heap = nm__engine_own_heap(budget);
    if (arrays.heap == NULL) return false;
    scoped = true;
    return true;
}

void nm__engine_look_for_scopes(bool on) {
    if (on == looking) return;
    looking = on;
    switch_on(&objects.mode, atomic_load(&objects.mode) != OFF);
    switch_on(&arrays.mode, atomic_load(&arrays.mode) != OFF);
}

bool nm__engine_is_on(void) { return atomic_load(&objects.mode) != OFF || atomic_load(&arrays.mode) != OFF; }

void nm__census_add(nm_census *sum, const nm_census *more) {
    for (size_t i = 0; i < NM_BINS; i++) sum->allocations[i] += more->allocations[i];
    for (size_t i = 0; i < NM_SPAN_SIZES; i++) sum->span_allocations[i] += more->span_allocations[i];
}

void nm__engine_add_census(nm_census *sum, nm_heap *h) {
    nm_census one;
    nm_heap_census(h, &one);
    nm__census_add(sum, &one);
}

void nm__engine_census(nm_census *out) {
    nm_heap_census(heap, out);
    nm__overdraft_add_census(out);
    if (arrays.heap != NULL) nm__engine_add_census(out, arrays.heap);
    if (raw.heap != NULL) nm__engine_add_census(out, raw.heap);
    nm__scope_add_census(out);
}

/* ---- NumPy ---------------------------------------------------------------------------------------- */

/* In multiples of 64 bytes every cell starts at one, which is what vector code likes. A secure heap watches what is behind
 * a block, so there the size stays what it is. */
#define ARRAY_ALIGN ((size_t)64)
static size_t padded(size_t size) {
    return is_secure || size > NM_SIZE_MAX - 63 ? size : (size + (ARRAY_ALIGN - 1)) & ~(ARRAY_ALIGN - 1);
}

static void *array_from(nm_heap *h, size_t bytes, bool zeroed) {
    if (is_secure) return nm__heap_malloc_at(h, bytes, ARRAY_ALIGN, zeroed);
    return zeroed ? nm_heap_calloc(h, 1, bytes) : nm_heap_malloc(h, bytes);
}

static void *array_moved(nm_heap *h, void *ptr, size_t bytes) {
    return is_secure ? nm__heap_realloc_at(h, ptr, bytes, ARRAY_ALIGN) : nm_heap_realloc(h, ptr, bytes);
}

NM_INLINE bool arrays_scoped(void) { return atomic_load_explicit(&arrays.mode, memory_order_relaxed) == SCOPED; }

/* Pre: is_on. Somebody is to be charged; nobody's arrays come from the engine's own heap, as ever. */
NM_INLINE bool arrays_owned(void) { return NM_UNLIKELY(arrays_scoped()) && nm__scope_now.owner != NULL; }

/* Small ones that are charged are in the heap of arrays, so of any others it need not be looked up. */
NM_INLINE bool may_be_owned(const nm__page *page) { return page->theap == NULL || page->theap->heap == arrays.heap; }

/* NumPy survives a refusal, so arrays have no overdraft. */
static bool may_ask_for_arrays(void) {
    watch_pressure();
    if (may_ask_before()) return true;
    nm__overdraft_refused();
    return false;
}

static NM_COLD void *array_slow(size_t bytes) {
    void *ptr = array_from(heap, bytes, false);
    watch_pressure();
    return ptr;
}

void nm__engine_watch_pressure(void) { watch_pressure(); }

static void *scoped_array(size_t bytes, bool zeroed) {
    if (!nm__scope_charge_array(bytes)) return NULL;
    void *ptr = array_from(arrays.heap, bytes, zeroed);
    if (NM_UNLIKELY(ptr != NULL && !nm__scope_know_array(ptr, bytes))) {
        (void)nm_heap_free(arrays.heap, ptr);
        ptr = nm_refuse(NM_OUT_OF_MEMORY, bytes, 0, 0);
    }
    if (NM_UNLIKELY(ptr == NULL)) nm__scope_credit_array(bytes);
    watch_pressure();
    return ptr;
}

static void *array_malloc(void *ctx, size_t size) {
    (void)ctx;
    if (NM_UNLIKELY(nm__array_sources.standing != NULL))
        return nm__array_sources.standing->malloc(nm__array_sources.standing->ctx, size);
    if (NM_LIKELY(is_on(&arrays.mode))) {
        size_t bytes = padded(size);
        void *ptr = NULL;
        if (NM_UNLIKELY(arrays_owned())) {
            ptr = scoped_array(bytes, false);
        } else {
            if (NM_LIKELY(bytes <= NM_CELL_MAX))
                ptr = nm__theap_alloc(nm__theaps[NM__CLAIMED_SLOT], nm__bin_of(bytes + (bytes == 0)));
            if (NM_UNLIKELY(ptr == NULL)) ptr = array_slow(bytes);
        }
        if (NM_LIKELY(ptr != NULL) || !may_ask_for_arrays()) return ptr;
    }
    return arrays.before.allocator.malloc(arrays.before.allocator.ctx, size);
}

static void *array_calloc(void *ctx, size_t count, size_t size) {
    (void)ctx;
    size_t bytes;
    if (!nm_mul(count, size, &bytes)) return NULL;
    if (NM_UNLIKELY(nm__array_sources.standing != NULL))
        return nm__array_sources.standing->calloc(nm__array_sources.standing->ctx, 1, bytes);
    if (NM_LIKELY(is_on(&arrays.mode))) {
        void *ptr = arrays_owned() ? scoped_array(padded(bytes), true) : array_from(heap, padded(bytes), true);
        if (NM_LIKELY(ptr != NULL) || !may_ask_for_arrays()) return ptr;
    }
    return arrays.before.allocator.calloc(arrays.before.allocator.ctx, count, size);
}

/* The size that NumPy gives is not to be trusted, and not needed. */
static void array_free(void *ctx, void *ptr, size_t size) {
    (void)ctx;
    if (NM_UNLIKELY(nm__array_sources.live != 0) && nm__array_sources.take_back(ptr)) return;
    nm__page *page = nm__page_of(ptr);
    if (NM_UNLIKELY(scoped) && page != NULL && may_be_owned(page)) nm__scope_forget_array(ptr);
    if (NM_UNLIKELY(!give(ptr, page))) arrays.before.allocator.free(arrays.before.allocator.ctx, ptr, size);
}

/* What is charged from now on must not stay where nobody's is, or its free would not be noticed. */
static void *realloc_scoped(const nm__recharge *change, void *ptr, size_t bytes) {
    if (change->owner == NULL || may_be_owned(nm__page_of(ptr))) return array_moved(arrays.heap, ptr, bytes);
    size_t old = nm_heap_usable_of(ptr);
    void *moved = array_from(arrays.heap, bytes, false);
    if (moved == NULL) return NULL;
    memcpy(moved, ptr, old < bytes ? old : bytes);
    (void)nm_heap_free(heap, ptr);
    return moved;
}

static nm__numpy_handler handler;

static void *array_realloc(void *ctx, void *ptr, size_t size) {
    if (ptr == NULL) return array_malloc(ctx, size);
    if (NM_UNLIKELY(nm__array_sources.live != 0) && nm__array_sources.gave(ptr))
        return nm__array_sources.move(ptr, size, &handler.allocator);
    if (nm__page_of_block(ptr) == NULL) return arrays.before.allocator.realloc(arrays.before.allocator.ctx, ptr, size);
    bool on = is_on(&arrays.mode);
    if (NM_UNLIKELY(on && scoped)) {
        nm__recharge change;
        if (!nm__scope_recharge_array(ptr, padded(size), &change)) {
            nm__overdraft_refused();
            return NULL;
        }
        void *moved = realloc_scoped(&change, ptr, padded(size));
        nm__scope_moved_array(&change, ptr, moved);
        if (NM_LIKELY(moved != NULL) || !may_ask_for_arrays()) return moved;
    } else if (NM_LIKELY(on)) {
        void *moved = array_moved(heap, ptr, padded(size));
        if (NM_LIKELY(moved != NULL) || !may_ask_for_arrays()) return moved;
    }
    size_t old = nm_heap_usable_of(ptr);
    if (!on && size <= old) return ptr;
    void *moved = arrays.before.allocator.malloc(arrays.before.allocator.ctx, size);
    if (moved == NULL) return NULL;
    memcpy(moved, ptr, old < size ? old : size);
    array_free(ctx, ptr, 0);
    return moved;
}

static nm__numpy_handler handler = {"nativemem", 1, {NULL, array_malloc, array_calloc, array_realloc, array_free}};

/* The capsule of the handler in use is made to point to ours; arrays that were made before hold the same
 * capsule, and their frees are passed on. */
static bool redirect(PyObject *capsule) {
    nm__numpy_handler *before = PyCapsule_GetPointer(capsule, NM__NUMPY_CAPSULE);
    if (before == NULL) return false;
    if (before->version != 1) {
        PyErr_Format(PyExc_RuntimeError, "NumPy's memory handler is of the unknown version %d", before->version);
        return false;
    }
    arrays.before = *before;
    return PyCapsule_SetPointer(capsule, &handler) == 0;
}

/* NumPy's C-API table, in a context without a handler of its own: then the handler in use is NumPy's default, which
 * new threads get too. */
PyObject *nm__engine_hook_arrays(PyObject *module, PyObject *api) {
    (void)module;
    if (arrays.hooked) Py_RETURN_NONE;
    void **table = PyCapsule_GetPointer(api, NULL);
    if (table == NULL) return NULL;
    PyObject *(*get_handler)(void);
    memcpy(&get_handler, &table[NM__NUMPY_GET_HANDLER], sizeof get_handler);
    PyObject *capsule = get_handler();
    if (capsule == NULL) return NULL;
    arrays.hooked = redirect(capsule);
    Py_DECREF(capsule);
    if (!arrays.hooked) return NULL;
    Py_RETURN_NONE;
}

/* The name of who gave an array's memory, as far as the hook did; with None, of who would give the next. */
PyObject *nm__engine_array_handler(PyObject *module, PyObject *address) {
    (void)module;
    bool ours;
    if (address == Py_None) {
        if (nm__array_sources.standing != NULL) return PyUnicode_FromString(nm__array_sources.standing_name);
        ours = atomic_load(&arrays.mode) != OFF;
    } else {
        const void *ptr = PyLong_AsVoidPtr(address);
        if (ptr == NULL && PyErr_Occurred()) return NULL;
        ours = nm__page_of_block(ptr) != NULL;
    }
    return PyUnicode_FromString(ours ? handler.name : arrays.before.name);
}

PyObject *nm__engine_arrays(PyObject *module, PyObject *flag) {
    (void)module;
    int on = PyObject_IsTrue(flag);
    if (on < 0 || no_heap()) return NULL;
    switch_on(&arrays.mode, on != 0);
    Py_RETURN_NONE;
}

/* Takes the limit away and returns the peak under it. Allocates nothing before the limit is gone, so that a
 * program that has run into it can still be ended in good order. */
PyObject *nm__engine_lift(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    if (no_heap()) return NULL;
    size_t peak = nm_budget_peak(budget);
    set_limit(NM_SIZE_MAX, 0);
    return PyLong_FromSize_t(peak);
}

/* A hook that was taken out serves nothing. */
static bool serves(PyMemAllocatorDomain domain, const PyMemAllocatorEx *hook, _Atomic int *mode) {
    return atomic_load(mode) != OFF && nm__place_look(domain, hook) != NM__PLACE_FREE;
}

PyObject *nm__engine_state(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    bool serves_objects = serves(PYMEM_DOMAIN_MEM, &mem_hook, &objects.mode) &&
                          serves(PYMEM_DOMAIN_OBJ, &obj_hook, &objects.mode);
    return Py_BuildValue("(NNN)", PyBool_FromLong(serves_objects), PyBool_FromLong(atomic_load(&arrays.mode) != OFF),
                         PyBool_FromLong(serves(PYMEM_DOMAIN_RAW, &raw_hook, &raw.mode)));
}
