/* The region, for Python. */
#ifndef NM__BINDING_REGION_H
#define NM__BINDING_REGION_H

#include "engine/python.h"

int nm__region_add(PyObject *module);

#endif
