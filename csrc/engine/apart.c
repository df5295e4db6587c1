#include "engine/apart.h" /* first: Python.h wants to be */

#include "tuning.h"

void *nm__apart_from(nm_heap *h, size_t bytes, bool zeroed) {
    if (nm__engine.is_secure) return nm__heap_malloc_at(h, bytes, NM_ARRAY_ALIGN, zeroed);
    return zeroed ? nm_heap_calloc(h, 1, bytes) : nm_heap_malloc(h, bytes);
}

void *nm__apart_charged(size_t bytes, bool zeroed) {
    if (!nm__array_charge(bytes)) return NULL;
    void *ptr = nm__apart_from(nm__array_heap, bytes, zeroed);
    if (NM_UNLIKELY(ptr != NULL && !nm__array_know(ptr, bytes))) {
        (void)nm_heap_free(nm__array_heap, ptr);
        ptr = nm_refuse(NM_OUT_OF_MEMORY, bytes, 0, 0);
    }
    if (NM_UNLIKELY(ptr == NULL)) nm__array_credit(bytes);
    nm__serve_watch_pressure();
    return ptr;
}

void nm__apart_forget(void *ptr) {
    nm__sampler_freeing(ptr);
    if (nm__engine_has_owners()) nm__array_forget(ptr);
}

/* A span of an owner is of the owner's heap, and charged with that. */
static void *apart_take(size_t size, bool zeroed) {
    void *ptr;
    nm_heap *h = size <= NM_CELL_MAX ? nm__array_heap : nm__charge_heap(nm__engine.heap);
    if (h == nm__array_heap && nm__charge_now.owner != NULL) ptr = nm__apart_charged(size, zeroed);
    else ptr = zeroed ? nm__heap_try_calloc(h, size) : nm__heap_try(h, size);
    nm__refusal refusal;
    if (ptr == NULL && nm__budget_take_refusal(&refusal)) nm__budget_uncount(refusal.charged, refusal.refuser);
    return ptr;
}

NM_COLD void *nm__apart_noted(nm__gate *gate, size_t size, bool zeroed) {
    void *ptr = nm__sampler_turn(gate, size) ? apart_take(size, zeroed) : NULL;
    if (ptr != NULL) nm__sampler_note(ptr, size, NM__OF_OBJECTS);
    return ptr;
}

/* A cell that lies apart, or is to, is copied: it would not be charged for its new size where it is. */
NM_COLD void *nm__apart_move(void *ptr, size_t size, bool due, bool (*give_it)(void *)) {
    bool notes = due && nm__sampler_turn(&nm__sampler_gate, size);
    void *moved = NULL;
    if (nm__is_cell_apart(ptr) || (notes && size <= NM_CELL_MAX)) {
        if (notes) moved = apart_take(size, false);
        bool noted = moved != NULL;
        if (!noted) moved = nm__serve_slow(size);
        size_t old = nm_heap_usable_of(ptr);
        if (moved == NULL) return size <= old ? ptr : NULL;
        memcpy(moved, ptr, old < size ? old : size);
        (void)give_it(ptr);
        if (noted) nm__sampler_note(moved, size, NM__OF_OBJECTS);
        return moved;
    }
    moved = nm__serve_move(nm__charge_heap(nm__engine.heap), ptr, size, nm__serve_slow, nm__serve_beyond, give_it);
    if (moved != NULL) nm__sampler_freeing(ptr);
    if (moved != NULL && notes) nm__sampler_note(moved, size, NM__OF_OBJECTS);
    return moved;
}

/* not NM_COLD: gcc would take the fast path that calls it for cold, too */
__attribute__((noinline)) bool nm__apart_give_elsewhere(void *ptr, nm__superblock *sb) {
    if (NM_UNLIKELY(nm__is_apart(ptr))) nm__apart_forget(ptr);
    return nm__serve_give_elsewhere(ptr, sb);
}
