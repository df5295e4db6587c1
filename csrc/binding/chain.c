#include "binding/chain.h" /* first: Python.h wants to be */

#include "tuning.h"

#ifdef Py_GIL_DISABLED
void nm__block_discard(BlockObject *b) { PyObject_GC_Del(b); }
#else
BlockObject *nm__block_spares;
int nm__block_spare_count;

bool nm__block_add_spare(void) {
    BlockObject *b = PyObject_GC_New(BlockObject, &nm__block_type);
    if (b == NULL) return false;
    b->older = nm__block_spares;
    nm__block_spares = b;
    nm__block_spare_count++;
    return true;
}

void nm__block_discard(BlockObject *b) {
    if (nm__block_spare_count < NM_BLOCK_SPARES) {
        b->older = nm__block_spares;
        nm__block_spares = b;
        nm__block_spare_count++;
    } else {
        PyObject_GC_Del(b);
    }
}
#endif

/* It runs with each free, so it does not walk through the live blocks: there may be many, and an orphan may stay for
 * long. */
NM_COLD bool nm__chain_sweep(Chain *chain) {
    bool any = false, more = !chain->lifo;
    for (BlockObject *b = chain->newest, *older; chain->lifo && b != NULL && chain->orphans != 0; b = older) {
        older = b->older;
        if (b->state != ORPHAN && b->size != 0) break; /* what is below is not the top */
        if (b->state != ORPHAN) continue;
        if (nm__block_give_back(b, FREED) != NM_OK) break;
        chain->orphans--;
        nm__block_discard(b);
        any = true;
    }
    while (more) { /* again, as one may have stood on another */
        more = false;
        for (BlockObject **link = &chain->first_orphan, *b; (b = *link) != NULL;) {
            if (nm__block_give_back(b, FREED) != NM_OK) {
                link = &b->next_orphan;
                continue;
            }
            *link = b->next_orphan;
            chain->orphans--;
            nm__block_discard(b);
            any = more = true;
        }
    }
    return any;
}

void nm__chain_retire(BlockObject *b) {
    Chain *chain = b->allocator->chain;
    bool orphan = b->state == ORPHAN;
    nm_status status = b->allocator->autofree ? nm__block_give_back(b, STALE) : NM_FOREIGN_BLOCK;
    if (status == NM_CORRUPTED) status = nm__block_give_back(b, STALE); /* as nm_verified has it */
    if (status != NM_OK) {
        nm__chain_unlink(b);
        b->state = STALE;
    }
    if (!orphan) return;
    chain->orphans--;
    if (chain->lifo) nm__block_discard(b); /* the others with nm__chain_forget_retired */
}

void nm__chain_forget_retired(Chain *chain) {
    for (BlockObject **link = &chain->first_orphan, *b; (b = *link) != NULL;) {
        if (b->state == ORPHAN) {
            link = &b->next_orphan;
            continue;
        }
        *link = b->next_orphan;
        nm__block_discard(b);
    }
}

/* Of the chain's blocks after a serial number: those that an allocator gave (NULL: any of the chain), or of these only
 * those with a view. */
static BlockObject *chain_next(BlockObject *b, uint64_t after, const AllocatorObject *of, bool exported) {
    for (; b != NULL && b->serial > after; b = b->older)
        if (b->state == LIVE && (of == NULL || b->allocator == of) && (!exported || b->exports != 0)) return b;
    return NULL;
}

/* With the list's memory all that needs any is done, and from the count to the last item no Python code runs. */
PyObject *nm__chain_list(const Chain *chain, uint64_t after, const AllocatorObject *of, bool exported) {
    Py_ssize_t count = 0, i = 0;
    BlockObject *first = chain_next(chain->newest, after, of, exported);
    for (BlockObject *b = first; b != NULL; b = chain_next(b->older, after, of, exported)) count++;
    int was_on = nm__collections_stop(); /* before 3.12 it would run inside */
    PyObject *list = PyList_New(count);
    nm__collections_go_on(was_on);
    for (BlockObject *b = list == NULL ? NULL : first; b != NULL; b = chain_next(b->older, after, of, exported))
        if (nm__block_reference(b)) PyList_SET_ITEM(list, i++, (PyObject *)b);
    if (NM_UNLIKELY(list != NULL && i < count) && PyList_SetSlice(list, i, count, NULL) < 0) Py_CLEAR(list);
    return list;
}
