/* The type Handle: owns one structure of the core. */
#ifndef NM__HANDLES_H
#define NM__HANDLES_H

#include "engine/python.h"

extern PyTypeObject nm__handle_type;
int nm__handles_add(PyObject *module);

#endif
