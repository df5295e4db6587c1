/* Sequences of packed items: lists and queues. */
#ifndef NM__RING_H
#define NM__RING_H

#include "engine/python.h"

int nm__ring_add(PyObject *module);

#endif
