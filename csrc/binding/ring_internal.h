/* What the files of the ring share: its state, and what is too hot for a call. For binding/ring*.[ch] alone. */
#ifndef NM__RING_INTERNAL_H
#define NM__RING_INTERNAL_H

#include "binding/packed.h"

/* Invariants:
 *   closed <=> items == NULL
 *   0 <= used <= capacity;  0 <= head < capacity;  linear => head == 0
 *   version changes whenever `used` or the place of an item does */
typedef struct {
    PyObject_HEAD
    char *items;
    Py_ssize_t head, used, capacity;
    Py_ssize_t size; /* of an item, bytes */
    uint64_t version;
    nm__format format;
    Py_buffer view;
    bool linear, strict; /* strict: iterators refuse to go on after a change, as a deque's */
} Ring;

static inline char *ring_slot(const Ring *r, Py_ssize_t i) {
    Py_ssize_t at = r->head + i;
    return r->items + (at >= r->capacity ? at - r->capacity : at) * r->size;
}

static inline bool ring_open(Ring *r) {
    if (NM_LIKELY(r->items != NULL)) return true;
    nm__packed_refuse((PyObject *)r, "closed", 0);
    return false;
}

/* Whether `more` items fit in place of `fewer`; with an error set if not. */
static inline bool ring_fits(Ring *r, Py_ssize_t more, Py_ssize_t fewer) {
    if (NM_LIKELY(more <= r->capacity - r->used + fewer)) return true;
    nm__packed_refuse((PyObject *)r, "full", more - fewer);
    return false;
}

#endif
