/* The least that an allocator can do: a pointer that moves up to an end. Not thread-safe, frees nothing. */
#ifndef BUMP_H
#define BUMP_H

#include "nativemem.h"

typedef struct bump {
    char *at, *end;
} bump;

/* A port like any other, compiled apart from its callers. */
nm_allocator bump_port(bump *b);

static inline void *bump_take(bump *b, size_t size, size_t align) {
    uintptr_t start = ((uintptr_t)b->at + (align - 1)) & ~(uintptr_t)(align - 1);
    if (size > (uintptr_t)b->end - start) return NULL; /* the end is a multiple of any align in use */
    b->at = (char *)start + size;
    return (char *)start;
}

#endif
