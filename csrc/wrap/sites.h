/* Which block was asked for where: a hash table by address. Not safe from several threads. Not installed. */
#ifndef NM__SITES_H
#define NM__SITES_H

#include "base/base.h"

typedef struct nm__site {
    void *ptr; /* NULL: no block */
    size_t size;
    uintptr_t site;
} nm__site;

/* Invariants:
 *   cap == 0 or a power of two;  count + promised <= cap / 2
 *   a block lies at its home or after it, with no gap in between */
typedef struct nm__sites {
    nm__site *entries;
    size_t cap, count, promised;
} nm__sites;

/* Promises that one more will find room. false: out of memory. */
bool nm__sites_promise(nm__sites *s);
/* Pre: one was promised, and used up now. One that is in is replaced: its block went without a free, with its arena. */
void nm__sites_add(nm__sites *s, nm__site added);
void nm__sites_forget_promise(nm__sites *s);
/* NULL: not in. Valid until the next add or take. */
nm__site *nm__sites_find(const nm__sites *s, const void *ptr);
/* Takes one out; its room is promised. */
nm__site nm__sites_take(nm__sites *s, nm__site *found);
void nm__sites_destroy(nm__sites *s);
const char *nm__sites_check(const nm__sites *s);

#endif
