#include "engine/arrays.h" /* first: Python.h wants to be */

#include "engine/apart.h"
#include "tuning.h"

nm__array_source_table nm__array_sources;

static struct {
    bool hooked;
    nm__numpy_handler before;
} arrays;

/* Another thread finds the hook in NumPy's capsule, which is plain memory: without the interpreter's lock perhaps before what the
 * hook needs, which is there a moment later at most. */
#ifdef Py_GIL_DISABLED
#include <sched.h>
static atomic_bool array_is_told;
#endif

static void array_tell(const nm__numpy_handler *before) {
    arrays.before = *before;
#ifdef Py_GIL_DISABLED
    atomic_store(&array_is_told, true);
#endif
}

NM_INLINE const nm__numpy_allocator *array_before(void) {
#ifdef Py_GIL_DISABLED
    while (NM_UNLIKELY(!atomic_load_explicit(&array_is_told, memory_order_acquire))) sched_yield();
#endif
    return &arrays.before.allocator;
}

static size_t array_padded(size_t size) {
    return nm__engine.is_secure || size > NM_SIZE_MAX - 63 ? size : (size + (NM_ARRAY_ALIGN - 1)) & ~(NM_ARRAY_ALIGN - 1);
}

static void *array_move(nm_heap *h, void *ptr, size_t bytes) {
    return nm__engine.is_secure ? nm__heap_realloc_at(h, ptr, bytes, NM_ARRAY_ALIGN) : nm_heap_realloc(h, ptr, bytes);
}

/* Pre: nm__mode_now. An owner is to be charged; where none is, arrays come from the engine's own heap. */
NM_INLINE bool array_is_owned(int mode) { return NM_UNLIKELY(mode & NM__MODE_SCOPED) && nm__charge_now.owner != NULL; }

/* Where no owner is charged: a cell that a profile notes lies apart. */
static nm_heap *array_heap(size_t bytes, bool notes) {
    return NM_UNLIKELY(notes) && bytes <= NM_CELL_MAX ? nm__array_heap : nm__engine.heap;
}
static NM_COLD void *array_noted(void *ptr, size_t bytes) {
    if (ptr != NULL && nm__is_apart(ptr)) nm__sampler_note(ptr, bytes, NM__OF_ARRAYS);
    return ptr;
}
NM_INLINE bool array_is_to_note(int mode, size_t bytes) {
    return nm__apart_is_due(mode, bytes) && nm__sampler_turn(&nm__sampler_gate, bytes);
}

/* NumPy survives a refusal, so arrays have no overdraft. */
static bool array_may_pass_on(void) {
    nm__serve_watch_pressure();
    if (nm__serve_may_pass_on()) return true;
    nm__denial_refused();
    return false;
}

static NM_COLD void *array_slow(size_t bytes) {
    void *ptr = nm__apart_from(nm__engine.heap, bytes, false);
    nm__serve_watch_pressure();
    return ptr;
}

static void *array_malloc(void *ctx, size_t size) {
    (void)ctx;
    if (NM_UNLIKELY(nm__array_sources.standing != NULL))
        return nm__array_sources.standing->malloc(nm__array_sources.standing->ctx, size);
    int mode = nm__mode_now(&nm__engine.arrays);
    if (NM_LIKELY(mode != NM__MODE_OFF)) {
        size_t bytes = array_padded(size);
        void *ptr = NULL;
        bool notes = array_is_to_note(mode, bytes);
        if (NM_UNLIKELY(array_is_owned(mode))) {
            ptr = nm__apart_charged(bytes, false);
        } else if (NM_UNLIKELY(notes)) {
            ptr = nm__apart_from(array_heap(bytes, true), bytes, false);
        } else {
            if (NM_LIKELY(bytes <= NM_CELL_MAX))
                ptr = nm__theap_alloc(nm__theaps[NM__CLAIMED_SLOT], nm__bin_of(bytes + (bytes == 0)));
            if (NM_UNLIKELY(ptr == NULL)) ptr = array_slow(bytes);
        }
        if (NM_LIKELY(ptr != NULL) || !array_may_pass_on()) return NM_UNLIKELY(notes) ? array_noted(ptr, bytes) : ptr;
    }
    return array_before()->malloc(array_before()->ctx, size);
}

static void *array_calloc(void *ctx, size_t count, size_t size) {
    (void)ctx;
    size_t bytes;
    if (!nm_mul(count, size, &bytes)) return NULL;
    if (NM_UNLIKELY(nm__array_sources.standing != NULL))
        return nm__array_sources.standing->calloc(nm__array_sources.standing->ctx, 1, bytes);
    int mode = nm__mode_now(&nm__engine.arrays);
    if (NM_LIKELY(mode != NM__MODE_OFF)) {
        size_t whole = array_padded(bytes);
        bool notes = array_is_to_note(mode, whole);
        void *ptr = array_is_owned(mode) ? nm__apart_charged(whole, true)
                                         : nm__apart_from(array_heap(whole, notes), whole, true);
        if (NM_LIKELY(ptr != NULL) || !array_may_pass_on()) return NM_UNLIKELY(notes) ? array_noted(ptr, whole) : ptr;
    }
    return array_before()->calloc(array_before()->ctx, count, size);
}

/* The size that NumPy gives is not to be trusted, and not needed. */
static void array_free(void *ctx, void *ptr, size_t size) {
    (void)ctx;
    if (NM_UNLIKELY(nm__array_sources.live != 0) && nm__array_sources.take_back(ptr)) return;
    nm__superblock *sb = nm__superblock_of(ptr);
    if (NM_UNLIKELY(nm__array_heap != NULL) && sb != NULL && nm__is_apart(ptr)) nm__apart_forget(ptr);
    if (NM_UNLIKELY(!nm__serve_give(ptr, sb))) array_before()->free(array_before()->ctx, ptr, size);
}

/* What is charged from now on must not stay in the heap of what no owner has, or its free would not be noticed. */
static void *array_realloc_owned(const nm__recharge *change, void *ptr, size_t bytes) {
    if (change->owner == NULL || nm__is_apart(ptr)) return array_move(nm__array_heap, ptr, bytes);
    size_t old = nm_heap_usable_of(ptr);
    void *moved = nm__apart_from(nm__array_heap, bytes, false);
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
    if (nm__superblock_of_block(ptr) == NULL) return array_before()->realloc(array_before()->ctx, ptr, size);
    int mode = nm__mode_now(&nm__engine.arrays);
    bool on = mode != NM__MODE_OFF, notes = array_is_to_note(mode, array_padded(size));
    if (NM_UNLIKELY(on && nm__engine_has_owners())) {
        nm__recharge change;
        if (!nm__array_recharge(ptr, array_padded(size), &change)) {
            nm__denial_refused();
            return NULL;
        }
        void *moved = array_realloc_owned(&change, ptr, array_padded(size));
        nm__array_moved(&change, ptr, moved);
        if (NM_LIKELY(moved != NULL)) nm__sampler_freeing(ptr);
        if (NM_LIKELY(moved != NULL) || !array_may_pass_on()) return notes ? array_noted(moved, array_padded(size)) : moved;
    } else if (NM_LIKELY(on)) {
        void *moved = array_move(array_heap(array_padded(size), notes), ptr, array_padded(size));
        if (NM_LIKELY(moved != NULL)) nm__sampler_freeing(ptr);
        if (NM_LIKELY(moved != NULL) || !array_may_pass_on()) return notes ? array_noted(moved, array_padded(size)) : moved;
    }
    size_t old = nm_heap_usable_of(ptr);
    if (!on && size <= old) return ptr;
    void *moved = array_before()->malloc(array_before()->ctx, size);
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
    array_tell(before);
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
        ours = nm__superblock_of_block(ptr) != NULL;
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
