#include "engine/arrays.h" /* first: Python.h wants to be */

#include "engine/array_charges.h"
#include "engine/serve.h"
#include "tuning.h"

nm__array_source_table nm__array_sources;

static struct {
    bool hooked;
    nm__numpy_handler before;
} arrays;

static size_t array_padded(size_t size) {
    return nm__engine.is_secure || size > NM_SIZE_MAX - 63 ? size : (size + (NM_ARRAY_ALIGN - 1)) & ~(NM_ARRAY_ALIGN - 1);
}

static void *array_from(nm_heap *h, size_t bytes, bool zeroed) {
    if (nm__engine.is_secure) return nm__heap_malloc_at(h, bytes, NM_ARRAY_ALIGN, zeroed);
    return zeroed ? nm_heap_calloc(h, 1, bytes) : nm_heap_malloc(h, bytes);
}

static void *array_move(nm_heap *h, void *ptr, size_t bytes) {
    return nm__engine.is_secure ? nm__heap_realloc_at(h, ptr, bytes, NM_ARRAY_ALIGN) : nm_heap_realloc(h, ptr, bytes);
}

NM_INLINE bool array_looks_for_owner(void) {
    return atomic_load_explicit(&nm__engine.arrays, memory_order_relaxed) == NM__MODE_SCOPED;
}

/* Pre: nm__mode_is_on. Whether an owner is to be charged; arrays of no owner come from the engine's own heap, as ever. */
NM_INLINE bool array_is_owned(void) { return NM_UNLIKELY(array_looks_for_owner()) && nm__charge_now.owner != NULL; }

/* Small ones that are charged are in the heap of arrays, so of any others it need not be looked up. */
NM_INLINE bool array_may_be_owned(const nm__page *page) { return page->theap == NULL || page->theap->heap == nm__array_heap; }

/* NumPy survives a refusal, so arrays have no overdraft. */
static bool array_may_pass_on(void) {
    nm__serve_watch_pressure();
    if (nm__serve_may_pass_on()) return true;
    nm__denial_refused();
    return false;
}

static NM_COLD void *array_slow(size_t bytes) {
    void *ptr = array_from(nm__engine.heap, bytes, false);
    nm__serve_watch_pressure();
    return ptr;
}

static void *array_of_owner(size_t bytes, bool zeroed) {
    if (!nm__array_charge(bytes)) return NULL;
    void *ptr = array_from(nm__array_heap, bytes, zeroed);
    if (NM_UNLIKELY(ptr != NULL && !nm__array_know(ptr, bytes))) {
        (void)nm_heap_free(nm__array_heap, ptr);
        ptr = nm_refuse(NM_OUT_OF_MEMORY, bytes, 0, 0);
    }
    if (NM_UNLIKELY(ptr == NULL)) nm__array_credit(bytes);
    nm__serve_watch_pressure();
    return ptr;
}

static void *array_malloc(void *ctx, size_t size) {
    (void)ctx;
    if (NM_UNLIKELY(nm__array_sources.standing != NULL))
        return nm__array_sources.standing->malloc(nm__array_sources.standing->ctx, size);
    if (NM_LIKELY(nm__mode_is_on(&nm__engine.arrays))) {
        size_t bytes = array_padded(size);
        void *ptr = NULL;
        if (NM_UNLIKELY(array_is_owned())) {
            ptr = array_of_owner(bytes, false);
        } else {
            if (NM_LIKELY(bytes <= NM_CELL_MAX))
                ptr = nm__theap_alloc(nm__theaps[NM__CLAIMED_SLOT], nm__bin_of(bytes + (bytes == 0)));
            if (NM_UNLIKELY(ptr == NULL)) ptr = array_slow(bytes);
        }
        if (NM_LIKELY(ptr != NULL) || !array_may_pass_on()) return ptr;
    }
    return arrays.before.allocator.malloc(arrays.before.allocator.ctx, size);
}

static void *array_calloc(void *ctx, size_t count, size_t size) {
    (void)ctx;
    size_t bytes;
    if (!nm_mul(count, size, &bytes)) return NULL;
    if (NM_UNLIKELY(nm__array_sources.standing != NULL))
        return nm__array_sources.standing->calloc(nm__array_sources.standing->ctx, 1, bytes);
    if (NM_LIKELY(nm__mode_is_on(&nm__engine.arrays))) {
        void *ptr = array_is_owned() ? array_of_owner(array_padded(bytes), true)
                                     : array_from(nm__engine.heap, array_padded(bytes), true);
        if (NM_LIKELY(ptr != NULL) || !array_may_pass_on()) return ptr;
    }
    return arrays.before.allocator.calloc(arrays.before.allocator.ctx, count, size);
}

/* The size that NumPy gives is not to be trusted, and not needed. */
static void array_free(void *ctx, void *ptr, size_t size) {
    (void)ctx;
    if (NM_UNLIKELY(nm__array_sources.live != 0) && nm__array_sources.take_back(ptr)) return;
    nm__page *page = nm__page_of(ptr);
    if (NM_UNLIKELY(nm__engine.has_owners) && page != NULL && array_may_be_owned(page)) nm__array_forget(ptr);
    if (NM_UNLIKELY(!nm__serve_give(ptr, page))) arrays.before.allocator.free(arrays.before.allocator.ctx, ptr, size);
}

/* What is charged from now on must not stay in the heap of what no owner has, or its free would not be noticed. */
static void *array_realloc_owned(const nm__recharge *change, void *ptr, size_t bytes) {
    if (change->owner == NULL || array_may_be_owned(nm__page_of(ptr))) return array_move(nm__array_heap, ptr, bytes);
    size_t old = nm_heap_usable_of(ptr);
    void *moved = array_from(nm__array_heap, bytes, false);
    if (moved == NULL) return NULL;
    memcpy(moved, ptr, old < bytes ? old : bytes);
    (void)nm_heap_free(nm__engine.heap, ptr);
    return moved;
}

static nm__numpy_handler array_handler;

static void *array_realloc(void *ctx, void *ptr, size_t size) {
    if (ptr == NULL) return array_malloc(ctx, size);
    if (NM_UNLIKELY(nm__array_sources.live != 0) && nm__array_sources.gave(ptr))
        return nm__array_sources.move(ptr, size, &array_handler.allocator);
    if (nm__page_of_block(ptr) == NULL) return arrays.before.allocator.realloc(arrays.before.allocator.ctx, ptr, size);
    bool on = nm__mode_is_on(&nm__engine.arrays);
    if (NM_UNLIKELY(on && nm__engine.has_owners)) {
        nm__recharge change;
        if (!nm__array_recharge(ptr, array_padded(size), &change)) {
            nm__denial_refused();
            return NULL;
        }
        void *moved = array_realloc_owned(&change, ptr, array_padded(size));
        nm__array_moved(&change, ptr, moved);
        if (NM_LIKELY(moved != NULL) || !array_may_pass_on()) return moved;
    } else if (NM_LIKELY(on)) {
        void *moved = array_move(nm__engine.heap, ptr, array_padded(size));
        if (NM_LIKELY(moved != NULL) || !array_may_pass_on()) return moved;
    }
    size_t old = nm_heap_usable_of(ptr);
    if (!on && size <= old) return ptr;
    void *moved = arrays.before.allocator.malloc(arrays.before.allocator.ctx, size);
    if (moved == NULL) return NULL;
    memcpy(moved, ptr, old < size ? old : size);
    array_free(ctx, ptr, 0);
    return moved;
}

static nm__numpy_handler array_handler = {"nativemem", 1, {NULL, array_malloc, array_calloc, array_realloc, array_free}};

/* The capsule of the handler in use is made to point to ours; arrays that were made before hold the same
 * capsule, and their frees are passed on. */
static bool array_redirect(PyObject *capsule) {
    nm__numpy_handler *before = PyCapsule_GetPointer(capsule, NM__NUMPY_CAPSULE);
    if (before == NULL) return false;
    if (before->version != 1) {
        PyErr_Format(PyExc_RuntimeError, "NumPy's memory handler is of the unknown version %d", before->version);
        return false;
    }
    arrays.before = *before;
    return PyCapsule_SetPointer(capsule, &array_handler) == 0;
}

/* NumPy's C-API table, in a context without a handler of its own: then the handler in use is NumPy's default, which
 * new threads get too. */
static PyObject *array_hook(PyObject *module, PyObject *api) {
    (void)module;
    if (arrays.hooked) Py_RETURN_NONE;
    void **table = PyCapsule_GetPointer(api, NULL);
    if (table == NULL) return NULL;
    PyObject *(*get_handler)(void);
    memcpy(&get_handler, &table[NM__NUMPY_GET_HANDLER], sizeof get_handler);
    PyObject *capsule = get_handler();
    if (capsule == NULL) return NULL;
    arrays.hooked = array_redirect(capsule);
    Py_DECREF(capsule);
    if (!arrays.hooked) return NULL;
    Py_RETURN_NONE;
}

/* The name of the handler that gave an array's memory, as far as the hook did; with None, of the one that would give the
 * next. */
static PyObject *array_handler_of(PyObject *module, PyObject *address) {
    (void)module;
    bool ours;
    if (address == Py_None) {
        if (nm__array_sources.standing != NULL) return PyUnicode_FromString(nm__array_sources.standing_name);
        ours = atomic_load(&nm__engine.arrays) != NM__MODE_OFF;
    } else {
        const void *ptr = PyLong_AsVoidPtr(address);
        if (ptr == NULL && PyErr_Occurred()) return NULL;
        ours = nm__page_of_block(ptr) != NULL;
    }
    return PyUnicode_FromString(ours ? array_handler.name : arrays.before.name);
}

static PyObject *array_switch(PyObject *module, PyObject *flag) {
    (void)module;
    int on = PyObject_IsTrue(flag);
    if (on < 0 || nm__engine_is_missing()) return NULL;
    nm__mode_switch(&nm__engine.arrays, on != 0);
    Py_RETURN_NONE;
}

int nm__arrays_add(PyObject *module) {
    static PyMethodDef methods[] = {
        {"engine_hook_arrays", array_hook, METH_O, "Puts the hook under NumPy's default handler."},
        {"engine_array_handler", array_handler_of, METH_O, "Name of what gave an array's memory, or would give."},
        {"engine_arrays", array_switch, METH_O, "Switches the heap under NumPy on or off."},
        {NULL, NULL, 0, NULL}};
    return PyModule_AddFunctions(module, methods);
}
