/* The table that other extensions have. */
#ifndef NM__CAPI_H
#define NM__CAPI_H

#include "engine/python.h"

int nm__capi_add(PyObject *module);

#endif
