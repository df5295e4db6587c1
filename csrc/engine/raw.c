#include "engine/raw.h" /* first: Python.h wants to be */

#include "engine/domains.h"
#include "engine/place.h"
#include "engine/sampler.h"
#include "engine/serve.h"

#include <sched.h>

static struct {
    atomic_bool hooked;
    PyMemAllocatorEx before;
    nm_heap *heap;
} raw;

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

static int raw_mode(void) {
    raw_is_ready();
    return atomic_load_explicit(&nm__engine.raw, memory_order_acquire);
}

/* Noted where it is: a free looks it up before the address may be another thread's. */
static void *raw_served(int mode, void *ptr, size_t size) {
    if (NM_UNLIKELY(mode & NM__MODE_SAMPLED) && ptr != NULL && nm__sampler_is_due(size) &&
        nm__sampler_turn(&nm__sampler_gate, size))
        nm__sampler_note(ptr, size, NM__OF_RAW);
    return ptr;
}

/* Without the interpreter's lock, perhaps. */
static void *raw_beyond(size_t size, bool zeroed) {
    nm__serve_stop_if_corrupted(nm_last_failure().status);
    void *ptr = nm__engine_has_limit() ? nm__overdraft_take(size, zeroed, true) : NULL;
    nm__serve_watch_pressure();
    return ptr;
}

static bool raw_may_pass_on(void) { return !nm__engine_has_limit(); }

static void *raw_take(size_t size) {
    void *ptr = nm__heap_try(raw.heap, size);
    return NM_LIKELY(ptr != NULL) ? ptr : raw_beyond(size, false);
}

static void *raw_malloc(void *ctx, size_t size) {
    (void)ctx;
    int mode = raw_mode();
    if (NM_LIKELY(mode != NM__MODE_OFF)) {
        void *ptr = raw_take(size);
        if (NM_LIKELY(ptr != NULL) || !raw_may_pass_on()) return raw_served(mode, ptr, size);
    }
    return raw.before.malloc(raw.before.ctx, size);
}

static void *raw_calloc(void *ctx, size_t count, size_t size) {
    (void)ctx;
    size_t bytes;
    int mode = raw_mode();
    if (NM_LIKELY(mode != NM__MODE_OFF && nm_mul(count, size, &bytes))) {
        void *ptr = nm__heap_try_calloc(raw.heap, bytes);
        if (NM_UNLIKELY(ptr == NULL)) ptr = raw_beyond(bytes, true);
        if (NM_LIKELY(ptr != NULL) || !raw_may_pass_on()) return raw_served(mode, ptr, bytes);
    }
    return raw.before.calloc(raw.before.ctx, count, size);
}

static bool raw_owns(const void *ptr) {
    const nm__superblock *sb = nm__superblock_of_cell(ptr);
    const nm__page *p = nm__page_of(ptr);
    return sb != NULL ? sb->theap->heap == raw.heap : p->kind == NM__SPAN && p->heap == raw.heap;
}

bool nm__raw_give(void *ptr) {
    if (NM_UNLIKELY(!raw_owns(ptr) && !nm__overdraft_owns(ptr))) return nm__domain_give(ptr);
    nm_status status = nm__overdraft_owns(ptr) ? nm__overdraft_give(ptr) : nm_heap_free(raw.heap, ptr);
    return NM_LIKELY(status == NM_OK) || !nm__serve_is_of_others(status, ptr);
}

static void raw_free(void *ctx, void *ptr) {
    (void)ctx;
    raw_is_ready();
    nm__sampler_freeing(ptr);
    if (NM_UNLIKELY(nm__superblock_of(ptr) == NULL) || !nm__raw_give(ptr)) raw.before.free(raw.before.ctx, ptr);
}

static void *raw_realloc(void *ctx, void *ptr, size_t size) {
    if (ptr == NULL) return raw_malloc(ctx, size);
    int mode = raw_mode();
    if (nm__superblock_of_block(ptr) == NULL) return raw.before.realloc(raw.before.ctx, ptr, size);
    nm__sampler_freeing(ptr); /* also where it is then refused: what stays is not noted any more */
    if (NM_LIKELY(mode != NM__MODE_OFF)) {
        void *moved = nm__serve_move(raw.heap, ptr, size, raw_take, raw_beyond, nm__raw_give);
        if (NM_LIKELY(moved != NULL) || !raw_may_pass_on()) return raw_served(mode, moved, size);
    }
    return nm__serve_move_out(&raw.before, ptr, size, mode != NM__MODE_OFF, nm__raw_give);
}

static PyMemAllocatorEx raw_hook = {NULL, raw_malloc, raw_calloc, raw_realloc, raw_free};

static PyObject *raw_switch(PyObject *module, PyObject *flag) {
    (void)module;
    int on = PyObject_IsTrue(flag);
    if (on < 0 || nm__engine_is_missing()) return NULL;
    if (on) {
        if (raw.heap == NULL) raw.heap = nm__engine_own_heap(nm__charge_process);
        if (raw.heap == NULL) return PyErr_NoMemory();
        nm__place_stand(PYMEM_DOMAIN_RAW, &raw_hook, &raw.before, &raw.hooked);
    }
    nm__mode_switch(&nm__engine.raw, on != 0);
    Py_RETURN_NONE;
}

bool nm__raw_may_stand(void) { return nm__place_may_stand(PYMEM_DOMAIN_RAW, &raw_hook, raw.hooked, &nm__engine.raw); }

bool nm__raw_serves(void) { return nm__place_serves(PYMEM_DOMAIN_RAW, &raw_hook, &nm__engine.raw); }

void nm__raw_add_census(nm_census *sum) {
    if (raw.heap != NULL) nm__census_add_heap(sum, raw.heap);
}

int nm__raw_add(PyObject *module) {
    static PyMethodDef methods[] = {{"engine_raw", raw_switch, METH_O, "Switches the heap under the raw domain on or off."},
                                    {NULL, NULL, 0, NULL}};
    return PyModule_AddFunctions(module, methods);
}
