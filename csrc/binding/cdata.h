/* What makes C data of cffi's in blocks. */
#ifndef NM__CDATA_H
#define NM__CDATA_H

#include "engine/python.h"

/* (allocator, known, view, slow, zero) -> a callable (cdecl, init=None). known: by cdecl, (ctype, size or less than 0,
 * size of an item or 0, alignment). view(ctype, block) makes the data. slow(cdecl, init) does whatever is not as simple. */
PyObject *nm__cdata_new(PyObject *module, PyObject *args);
int nm__cdata_ready(void);

#endif
