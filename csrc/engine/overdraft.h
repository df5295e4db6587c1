/* Small blocks beyond what a budget lets a heap take.
 *
 * CPython has places that crash, or try for ever, where a small block is refused. So no heap refuses the interpreter a
 * small block outright: what no superblock can be charged for is charged here, block by block. First within the limit;
 * then from the part of the limit that is kept for this, the overdraft, and the thread gets a MemoryError where it can
 * bear one, at its next safe point in the eval loop or at the end of its scope. When the overdraft is used up the
 * request is refused, but never two small ones in a row.
 */
#ifndef NM__OVERDRAFT_H
#define NM__OVERDRAFT_H

#include "engine/python.h"

#include "heap/heap.h"
#include "engine/charge.h"

/* Before the first call of the rest; false: out of memory. process: what all of it is charged to, beside an owner. */
bool nm__overdraft_start(nm_budget *process, bool secure);

/* Pre: a heap has refused. NULL: refused, and the denial is remembered; the last failure says why. With the interpreter's
 * lock; `raw` without, and then only the process is charged and no error is raised later. */
void *nm__overdraft_take(size_t size, bool zeroed, bool raw);

/* Pre: the system has refused, and neither a limit nor an owner is there. What the interpreter would ask for again and again,
 * or NULL. With its lock. */
void *nm__overdraft_take_unbounded(size_t size, bool zeroed);

/* What is called when a request was served beyond a limit and its error is put off: no caller sees that refusal. One. */
typedef void (*nm__denial_call)(const nm__owner *owner, size_t requested, size_t used, size_t limit);
void nm__overdraft_at_denial(nm__denial_call call);

extern nm_heap *nm__overdraft_heap; /* NULL before the start */
/* Pre: an address of the region. */
NM_INLINE bool nm__overdraft_owns(const void *ptr) {
    const nm__superblock *sb = nm__superblock_of_cell(ptr);
    const nm__page *p = nm__page_of(ptr);
    return sb != NULL ? sb->theap->heap == nm__overdraft_heap : p->kind == NM__SPAN && p->heap == nm__overdraft_heap;
}
/* Pre: of its own. */
nm_status nm__overdraft_give(void *ptr);

void nm__overdraft_add_census(nm_census *sum);

#endif
