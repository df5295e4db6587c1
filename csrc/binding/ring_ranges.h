/* Methods of a ring: indices, slices, and what changes many items. */
#ifndef NM__RING_RANGES_H
#define NM__RING_RANGES_H

#include "binding/ring_internal.h"

PyObject *nm__ring_subscript(Ring *r, PyObject *index);
int nm__ring_ass_subscript(Ring *r, PyObject *index, PyObject *value);
PyObject *nm__ring_extend(Ring *r, PyObject *values);
PyObject *nm__ring_extend_left(Ring *r, PyObject *values);
PyObject *nm__ring_inplace_concat(Ring *r, PyObject *values);
PyObject *nm__ring_clear(Ring *r, PyObject *unused);
PyObject *nm__ring_reverse(Ring *r, PyObject *unused);
PyObject *nm__ring_rotate(Ring *r, PyObject *const *args, Py_ssize_t count);

#endif
