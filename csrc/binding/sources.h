/* NumPy arrays from allocators. */
#ifndef NM__SOURCES_H
#define NM__SOURCES_H

#include "engine/python.h"

int nm__sources_add(PyObject *module);

#endif
