/* The exit code of a program under `nativemem run`. */
#ifndef NM__ENDING_H
#define NM__ENDING_H

#include "engine/python.h"

int nm__ending_add(PyObject *module);

#endif
