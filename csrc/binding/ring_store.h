/* The memory of a ring: its slots, what is packed for them, its life. */
#ifndef NM__RING_STORE_H
#define NM__RING_STORE_H

#include "binding/ring_internal.h"

/* Puts n packed items in place of those from start to stop.
 * Pre: 0 <= start <= stop <= used;  n <= capacity - used + (stop - start) */
void nm__ring_splice(Ring *r, Py_ssize_t start, Py_ssize_t stop, const char *packed, Py_ssize_t n);

/* Packed items on their way into a ring. */
typedef struct {
    char *bytes;
    Py_ssize_t used, room; /* items */
} RingStaged;

/* Packs all that `values` gives, and stops where that is more than fits in place of `fewer`: it may have no end.
 * The caller frees s->bytes in any case. False with an error set. */
bool nm__ring_stage_all(Ring *r, RingStaged *s, PyObject *values, Py_ssize_t fewer);

/* The item that an index from Python stands for; -1 with an error set. Runs Python code. */
Py_ssize_t nm__ring_index(Ring *r, PyObject *index, const char *what);

/* _attach(buffer, capacity, format, linear, strict): the slots lie at the buffer's start. */
PyObject *nm__ring_attach(Ring *r, PyObject *args);
/* _detach(): lets go of the memory; the items stay in it. */
PyObject *nm__ring_detach(Ring *r, PyObject *unused);
/* _resume(buffer): takes the same memory up again, as _detach left it. */
PyObject *nm__ring_resume(Ring *r, PyObject *buffer);
PyObject *nm__ring_closed(Ring *r, void *unused);
PyObject *nm__ring_capacity(Ring *r, void *unused);

int nm__ring_traverse(Ring *r, visitproc visit, void *arg);
int nm__ring_gc_clear(Ring *r);
void nm__ring_dealloc(Ring *r);

#endif
