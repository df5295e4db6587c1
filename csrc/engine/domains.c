#include "engine/domains.h" /* first: Python.h wants to be */

#include "engine/apart.h"
#include "engine/place.h"

static struct {
    atomic_bool hooked;
    PyMemAllocatorEx mem, obj; /* what was there before */
} domains;

static __attribute__((noinline)) void *domain_malloc_anyhow(PyMemAllocatorEx *before, size_t size) {
    int mode = nm__mode_now(&nm__engine.objects);
    if (NM_LIKELY(mode != NM__MODE_OFF)) {
        void *ptr = nm__apart_is_due(mode, size) ? nm__apart_noted(&nm__sampler_gate, size, false) : NULL;
        if (NM_UNLIKELY(ptr != NULL)) return ptr;
        ptr = nm__serve_take(size);
        if (NM_LIKELY(ptr != NULL) || !nm__serve_may_pass_on()) return ptr;
    }
    return before->malloc(before->ctx, size);
}

/* Counted by the gate of the thread heap, and so by no other. */
static NM_COLD void *domain_malloc_due(PyMemAllocatorEx *before, size_t size) {
    void *ptr = nm__apart_noted(&nm__theaps[NM__CLAIMED_SLOT]->gate, size, false);
    if (ptr == NULL) ptr = nm__serve_take(size);
    if (NM_LIKELY(ptr != NULL) || !nm__serve_may_pass_on()) return ptr;
    return before->malloc(before->ctx, size);
}

/* Where there are scopes: the same, once it is known that the thread heap at hand is that of the owner that is to be charged.
 * A function of its own, so that the way without scopes saves no register for a call. */
NM_INLINE void *domain_malloc_scoped(PyMemAllocatorEx *before, size_t size) {
    NM_ASSERT(size <= NM__FINE);
    void *ptr = NM_LIKELY(nm__charge_is_known()) ? nm__theap_alloc(nm__theaps[NM__CLAIMED_SLOT], nm__fine_bin(size)) : NULL;
    return NM_LIKELY(ptr != NULL) ? ptr : domain_malloc_anyhow(before, size);
}
typedef void *(*domain_way)(size_t size);

/* What is asked for most, without a call: so no register is saved. The gate of a profile is in the thread heap, which is at
 * hand. */
NM_INLINE void *domain_malloc(PyMemAllocatorEx *before, size_t size, domain_way scoped) {
    int mode = atomic_load_explicit(&nm__engine.objects, memory_order_relaxed);
    if (NM_LIKELY(size <= NM__FINE) && NM_LIKELY(mode == NM__MODE_ON)) {
        void *ptr = nm__theap_alloc(nm__theaps[NM__CLAIMED_SLOT], nm__fine_bin(size));
        if (NM_LIKELY(ptr != NULL)) return ptr;
    } else if (NM_LIKELY(size <= NM__FINE) && mode == (NM__MODE_ON | NM__MODE_SCOPED)) {
        return scoped(size);
    } else if (NM_LIKELY(size <= NM__FINE) && mode == (NM__MODE_ON | NM__MODE_SAMPLED)) {
        nm__theap *theap = nm__theaps[NM__CLAIMED_SLOT];
        if (nm__theap_has(theap, nm__fine_bin(size))) {
            if (nm__gate_is_due(&theap->gate, size)) return domain_malloc_due(before, size);
            return nm__theap_alloc(theap, nm__fine_bin(size));
        }
    }
    return domain_malloc_anyhow(before, size);
}

static NM_COLD void *domain_calloc_large(size_t count, size_t size) {
    size_t bytes;
    if (!nm_mul(count, size, &bytes)) return nm_refuse(NM_INVALID_LAYOUT, SIZE_MAX, 0, 0);
    void *ptr = nm__heap_try_calloc(nm__charge_heap(nm__engine.heap), bytes);
    if (NM_UNLIKELY(ptr == NULL)) return nm__serve_beyond(bytes, true);
    nm__serve_watch_pressure();
    return ptr;
}

NM_INLINE void *domain_calloc(PyMemAllocatorEx *before, size_t count, size_t size, domain_way scoped) {
    size_t bytes;
    bool fits = nm_mul(count, size, &bytes);
    int mode = atomic_load_explicit(&nm__engine.objects, memory_order_relaxed);
    if (NM_LIKELY(mode != NM__MODE_OFF) && NM_LIKELY(fits && bytes <= NM__FINE)) {
        void *ptr = domain_malloc(before, bytes, scoped);
        return NM_LIKELY(ptr != NULL) ? memset(ptr, 0, bytes) : NULL;
    }
    if (nm__mode_now(&nm__engine.objects) != NM__MODE_OFF) {
        void *ptr = fits && nm__apart_is_due(mode, bytes) ? nm__apart_noted(&nm__sampler_gate, bytes, true) : NULL;
        if (ptr == NULL) ptr = domain_calloc_large(count, size);
        if (ptr != NULL || !nm__serve_may_pass_on()) return ptr;
    }
    return before->calloc(before->ctx, count, size);
}

bool nm__domain_give(void *ptr) { return nm__apart_give(ptr, nm__superblock_of(ptr)); }

NM_INLINE void *domain_realloc(PyMemAllocatorEx *before, void *ptr, size_t size, domain_way scoped) {
    if (ptr == NULL) return domain_malloc(before, size, scoped);
    if (nm__superblock_of_block(ptr) == NULL) return before->realloc(before->ctx, ptr, size);
    int mode = nm__mode_now(&nm__engine.objects);
    if (NM_LIKELY(mode != NM__MODE_OFF)) {
        bool due = nm__apart_is_due(mode, size);
        void *moved = due || nm__is_apart(ptr) ? nm__apart_move(ptr, size, due, nm__domain_give)
                                               : nm__serve_move(nm__charge_heap(nm__engine.heap), ptr, size, nm__serve_slow,
                                                                nm__serve_beyond, nm__domain_give);
        if (NM_LIKELY(moved != NULL) || !nm__serve_may_pass_on()) return moved;
    }
    return nm__serve_move_out(before, ptr, size, mode != NM__MODE_OFF, nm__domain_give);
}

NM_INLINE void domain_free(PyMemAllocatorEx *before, void *ptr) {
    if (NM_UNLIKELY(!nm__apart_give(ptr, nm__superblock_of(ptr)))) before->free(before->ctx, ptr);
}

#define DOMAIN(name)                                                                                                        \
    static __attribute__((noinline)) void *name##_scoped(size_t size) { return domain_malloc_scoped(&domains.name, size); } \
    static void *name##_malloc(void *ctx, size_t size) {                                                                    \
        (void)ctx;                                                                                                          \
        return domain_malloc(&domains.name, size, name##_scoped);                                                           \
    }                                                                                                                       \
    static void *name##_calloc(void *ctx, size_t count, size_t size) {                                                      \
        (void)ctx;                                                                                                          \
        return domain_calloc(&domains.name, count, size, name##_scoped);                                                    \
    }                                                                                                                       \
    static void *name##_realloc(void *ctx, void *ptr, size_t size) {                                                        \
        (void)ctx;                                                                                                          \
        return domain_realloc(&domains.name, ptr, size, name##_scoped);                                                     \
    }                                                                                                                       \
    static void name##_free(void *ctx, void *ptr) {                                                                         \
        (void)ctx;                                                                                                          \
        domain_free(&domains.name, ptr);                                                                                    \
    }                                                                                                                       \
    static PyMemAllocatorEx name##_hook = {NULL, name##_malloc, name##_calloc, name##_realloc, name##_free};

DOMAIN(mem)

DOMAIN(obj)

const char *nm__domain_stranger(const char **file) {
    bool mem = nm__place_may_stand(PYMEM_DOMAIN_MEM, &mem_hook, domains.hooked, &nm__engine.objects);
    if (mem && nm__place_may_stand(PYMEM_DOMAIN_OBJ, &obj_hook, domains.hooked, &nm__engine.objects)) return NULL;
    *file = nm__place_owner(mem ? PYMEM_DOMAIN_OBJ : PYMEM_DOMAIN_MEM);
    return mem ? "obj" : "mem";
}

bool nm__domain_serves(void) {
    return nm__place_serves(PYMEM_DOMAIN_MEM, &mem_hook, &nm__engine.objects) &&
           nm__place_serves(PYMEM_DOMAIN_OBJ, &obj_hook, &nm__engine.objects);
}

static PyObject *domain_switch(PyObject *module, PyObject *flag) {
    (void)module;
    int on = PyObject_IsTrue(flag);
    if (on < 0 || nm__engine_is_missing()) return NULL;
    if (on) {
        nm__place_stand(PYMEM_DOMAIN_MEM, &mem_hook, &domains.mem, &domains.hooked);
        nm__place_stand(PYMEM_DOMAIN_OBJ, &obj_hook, &domains.obj, &domains.hooked);
    }
    nm__mode_switch(&nm__engine.objects, on != 0);
    Py_RETURN_NONE;
}

int nm__domain_add(PyObject *module) {
    static PyMethodDef methods[] = {
        {"engine_objects", domain_switch, METH_O, "Switches the heap under the object domains on or off."},
        {NULL, NULL, 0, NULL}};
    return PyModule_AddFunctions(module, methods);
}
