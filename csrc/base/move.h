/* The one place that moves a block: allocate, copy, free. nm_realloc (port.h) has a way of its own, because a port may refuse
 * the free. Not installed. */
#ifndef NM__MOVE_H
#define NM__MOVE_H

#include <string.h>

#include "base/base.h"

/* The end of every move, where a block could not stay: what both places have room for is copied, then the old block is
 * released. `to` NULL: there is no new place, and the old block is untouched. Returns `to`. Inlined, so that a release that
 * is known is called directly. */
NM_INLINE void *nm__move(void *to, void *from, size_t old, size_t size, void (*release)(void *context, void *ptr),
                         void *context) {
    if (to == NULL) return NULL;
    memcpy(to, from, old < size ? old : size);
    release(context, from);
    return to;
}

#endif
