/* Methods of a ring that look for a value. */
#ifndef NM__RING_SEARCH_H
#define NM__RING_SEARCH_H

#include "binding/ring_internal.h"

int nm__ring_contains(Ring *r, PyObject *value);
PyObject *nm__ring_index_of(Ring *r, PyObject *args);
PyObject *nm__ring_count(Ring *r, PyObject *value);
PyObject *nm__ring_remove(Ring *r, PyObject *value);

#endif
