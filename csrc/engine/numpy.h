/* NumPy's handlers of memory, as its C-API has them: declarations only. */
#ifndef NM__NUMPY_H
#define NM__NUMPY_H

#include "engine/python.h"

/* The handler that NumPy expects behind a capsule named "mem_handler" (NEP 49, version 1). Declared here so that neither
 * building nor importing needs NumPy. */
typedef struct {
    void *ctx;
    void *(*malloc)(void *ctx, size_t size);
    void *(*calloc)(void *ctx, size_t nelem, size_t elsize);
    void *(*realloc)(void *ctx, void *ptr, size_t new_size);
    void (*free)(void *ctx, void *ptr, size_t size);
} nm__numpy_allocator;
typedef struct {
    char name[127];
    uint8_t version;
    nm__numpy_allocator allocator;
} nm__numpy_handler;

#define NM__NUMPY_CAPSULE "mem_handler"
/* Places in NumPy's C-API table, since 1.22: PyDataMem_SetHandler and PyDataMem_GetHandler. */
#define NM__NUMPY_SET_HANDLER 304
#define NM__NUMPY_GET_HANDLER 305

#endif
