/* What the engine as a whole says of itself. */
#ifndef NM__ACCOUNT_H
#define NM__ACCOUNT_H

#include "engine/python.h"

int nm__account_add(PyObject *module);

#endif
