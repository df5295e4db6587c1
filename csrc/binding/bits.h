/* Bits. */
#ifndef NM__BITS_H
#define NM__BITS_H

#include "engine/python.h"

int nm__bits_add(PyObject *module);

#endif
