/* What intern_type.c registers in the data plane's module. */
#ifndef NM__INTERN_TYPE_H
#define NM__INTERN_TYPE_H

#include "engine/python.h"

int nm__intern_add(PyObject *module);

#endif
