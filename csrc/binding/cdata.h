/* C data of cffi's in blocks: what is behind ffi.new of nativemem.hooks.cffi. */
#ifndef NM__CDATA_H
#define NM__CDATA_H

#include "engine/python.h"

/* Registers cdata_new: (allocator, known, view, slow, zero) -> a callable (cdecl, init=None). known: by cdecl, (ctype, size
 * or less than 0, size of an item or 0, alignment). view(ctype, block) makes the data. slow(cdecl, init) does whatever is
 * not as simple. */
int nm__cdata_add(PyObject *module);

#endif
