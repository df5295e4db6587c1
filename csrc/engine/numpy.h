/* NumPy's handlers of memory, as the engine's hook and the handlers of allocators (binding/sources.c) share them. */
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

/* Arrays that come from sources, allocators of the layer above, though NumPy calls the engine's hook: the layer sets the
 * functions once, and the rest as sources come and go. With the interpreter's lock held. */
typedef struct nm__array_source_table {
    const nm__numpy_allocator *standing; /* what arrays come from where NumPy was not told otherwise; NULL: the engine, or
                                            what was there before */
    const char *standing_name;
    size_t live; /* arrays in use that sources gave */
    bool (*gave)(const void *ptr);
    bool (*take_back)(void *ptr); /* false: no source gave it */
    /* What a source gave, to what another allocator gives. NULL: nothing moved, as it refused, or as Python code that ran in
     * the midst freed the block; a move in the midst of the same block's is refused. */
    void *(*move)(void *ptr, size_t size, const nm__numpy_allocator *to_where);
} nm__array_source_table;
extern nm__array_source_table nm__array_sources;

#endif
