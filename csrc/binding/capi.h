/* The table that other extensions have. */
#ifndef NM__CAPI_H
#define NM__CAPI_H

#include "engine/python.h"

PyObject *nm__capi_capsule(PyObject *module, PyObject *unused);

#endif
