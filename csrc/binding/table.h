/* Maps and sets of packed items. */
#ifndef NM__TABLE_H
#define NM__TABLE_H

#include "engine/python.h"

int nm__table_add(PyObject *module);

#endif
