/* What a Verified knows of a live block, for its tests. Not installed. */
#ifndef NM__VERIFIED_H
#define NM__VERIFIED_H

#include "nativemem/verified.h"

/* ptr and size are the second copy of what the ledger's table has. */
typedef struct nm__verified_block {
    void *ptr;
    size_t size, align;
    uint32_t sum; /* of a sealed one */
    bool sealed;
    bool told;    /* a call has failed as it was damaged: its memory is not read again */
    bool refused; /* that call was a free of it: the next one gives it back */
    struct nm__verified_block *next, *before; /* a ring, in which allocs look at one after the other */
} nm__verified_block;

/* NULL: it has no such live block. */
nm__verified_block *nm__verified_find(const nm_verified *v, const void *ptr);

#endif
