/* What the files of the heap share. Its fast paths, and what the engine calls, are in heap.h. Not installed. */
#ifndef NM__HEAP_INTERNAL_H
#define NM__HEAP_INTERNAL_H

#include "base/move.h"
#include "heap/heap.h"
#include "tuning.h"

#pragma GCC visibility push(hidden)

struct nm_heap {
    pthread_mutex_t lock; /* thread heaps, spans */
    uint64_t number;      /* of the process's heaps, never used again */
    size_t slot;          /* of nm__theaps */
    uintptr_t key, canary; /* key is 0 where the heap is not secure */
    nm__counter random;
    nm_budget *budget, *also; /* charged, and charged too; NULL: none */
    bool shares;              /* takes turns in its slot */
    nm__theap *theaps;
    nm__page *spans;
    nm__counter held, held_peak, live_spans_bytes, failures;
    nm__counter span_served[NM_SPAN_SIZES];
    nm_heap *next;
};

/* A thread whose nm__theaps may hold something: a heap that goes empties its slot in each. A thread that has ended uses no
 * slot from then on, because nothing would take it off the list again. */
typedef struct nm__thread_entry {
    nm__theap **theaps;
    struct nm__thread_entry *prev, *next;
    bool listed, ended;
} nm__thread_entry;

/* Every heap of the process, for fork and for the end of a thread. */
struct nm__heaps {
    pthread_mutex_t lock; /* before a heap's */
    nm_heap *first;
    nm__thread_entry *threads;
    uint64_t numbers;
    bool slots_taken[NM__NO_SLOT];
};
extern struct nm__heaps nm__heaps;

/* ---- bins.c ---- */

NM_INLINE size_t nm__bin_aligned(size_t size, size_t align) {
    size_t bin = nm__bin_of(size);
    if (NM_LIKELY(align <= NM_ALIGN_DEFAULT)) return bin; /* as all of them are */
    while (!nm_is_aligned(nm__bin_sizes[bin], align)) bin++; /* the last bin has every alignment up to its size */
    return bin;
}

/* Bytes of a bin's superblocks. */
NM_INLINE size_t nm__bin_superblock(size_t bin) {
    return nm__bin_sizes[bin] <= NM_SUPERBLOCK / NM_HEAP_CELLS_LEAST ? NM_SUPERBLOCK : NM_SUPERBLOCK_LARGE;
}

/* ---- heap.c: what the heap holds ---- */

/* Charges its budgets with so many pages. quiet: a refusal is not yet a denial, because the caller can still make room. No
 * peak is raised before nm__heap_settle: the region may have less than the budget allows. */
bool nm__heap_charge(nm_heap *h, size_t npages, bool quiet);
void nm__heap_settle(nm_heap *h);
void nm__heap_discharge(nm_heap *h, size_t npages);
/* Pages for a superblock, of which only so many are charged for now. NULL: refused; nothing is charged. */
nm__page *nm__heap_try_superblock(nm_heap *h, size_t npages, size_t charged, bool quiet);
/* Pages for a span, charged, the first at a multiple of align pages. */
nm__page *nm__heap_try_span(nm_heap *h, size_t npages, size_t align, bool want_zero, bool quiet);
/* Before a refusal the thread gives up what it keeps only for speed, which may be what stands in the way. */
void nm__heap_make_room(nm_heap *h);
/* What was refused in the end. */
NM_INLINE void nm__heap_count_failure(nm_heap *h) { nm__atomic_add(&h->failures, 1); }

/* ---- superblocks.c ---- */

/* A current superblock for the bin that has a free cell. false: refused; quiet as above. */
bool nm__theap_provide(nm__theap *theap, size_t bin, bool quiet);
/* Takes a cell back. Pre: the calling thread is using the thread heap, or holds what keeps others from it. */
void nm__superblock_give(void *ptr, nm__superblock *sb);
/* The same for a thread heap that its thread is not using now, which keeps no empty superblock: nothing says when the
 * thread will use it again. */
void nm__superblock_give_aside(nm__theap *theap, void *ptr, nm__superblock *sb);
/* Takes back what other threads have freed. */
void nm__theap_drain(nm__theap *theap);
/* The same of a thread heap that none uses now. It costs as much as the cells that come back, not as the bins that there are: a
 * thread that frees what it made in a scope that it has left drains for each. */
void nm__theap_drain_aside(nm__theap *theap);
void nm__theap_retire_empty(nm__theap *theap);
void nm__theap_drop_spare(nm__theap *theap);
/* Gives back what it has only for speed. */
void nm__theap_give_up(nm__theap *theap);
/* The same before a refusal. Where that gave nothing, so many refusals that follow leave out superblocks that wait, that each
 * looks at NM_HEAP_LOOKS_A_REFUSAL in the mean. */
void nm__theap_make_room(nm__theap *theap);
void nm__theap_clear(nm__theap *theap);
/* What is broken, or NULL. */
const char *nm__spare_check(const nm__theap *theap);
const char *nm__superblock_check(const nm__superblock *sb, const nm__theap *theap, size_t bin);

/* ---- steps.c: of superblocks that are not secure ---- */

/* Pages that a new superblock with such cells is charged with. */
size_t nm__steps_charge(const nm__cells *c);
/* As nm__cells_extend, charged. false: nothing is left, or it is refused. */
bool nm__steps_extend(nm_heap *h, nm__superblock *sb);
/* Gives the steps back that no used cell touches. */
void nm__superblock_shed(nm_heap *h, nm__superblock *sb, uint32_t used);
/* Whether the cell at an offset touches one that was shed: it is free, and on no list. And how many do. */
bool nm__steps_are_shed(const nm__superblock *sb, size_t offset);
uint32_t nm__steps_cells_shed(const nm__superblock *sb);
const char *nm__steps_check(const nm__superblock *sb, bool secure); /* what is broken, or NULL */

#define NM__LIST_OF(noun)                                                    \
    NM_INLINE void nm__##noun##_push(nm__##noun **list, nm__##noun *entry) { \
        entry->prev = NULL;                                                  \
        entry->next = *list;                                                 \
        if (*list != NULL) (*list)->prev = entry;                            \
        *list = entry;                                                       \
    }                                                                        \
    NM_INLINE void nm__##noun##_pull(nm__##noun **list, nm__##noun *entry) { \
        if (entry->prev != NULL) entry->prev->next = entry->next;            \
        else *list = entry->next;                                            \
        if (entry->next != NULL) entry->next->prev = entry->prev;            \
    }
NM__LIST_OF(page)
NM__LIST_OF(superblock)

/* ---- malloc.c ---- */

void nm__heap_release(void *heap, void *ptr); /* nm_heap_free, as nm__move takes it */

/* ---- spans.c ---- */

/* Pre: a span's first page. */
NM_INLINE nm_heap *nm__span_heap(const nm__page *p) {
    NM_ASSERT(nm__span_at(p));
    return p->heap;
}
/* zero, if not NULL, says whether it reads as zero; want_zero prefers pages that do. NULL: refused; quiet as above. */
void *nm__span_alloc(nm_heap *h, size_t size, size_t align, bool want_zero, bool *zero, bool quiet);
void nm__span_free(nm__page *p);
/* Pre: the heap's lock is held. */
void nm__span_drop(nm_heap *h, nm__page *p);
/* To more pages at another place, with its contents. NULL: the caller has to copy. */
void *nm__span_move(nm_heap *h, nm__page *p, size_t npages);
/* In place: to fewer pages, or to more where those behind are free. */
bool nm__span_resize(nm__page *p, size_t npages);

/* ---- threads.c ---- */

nm__theap *nm__theap_current_slow(nm_heap *h);
/* The calling thread's thread heap. NULL: no memory for one. */
NM_INLINE nm__theap *nm__theap_current(nm_heap *h) {
    nm__theap *theap = nm__theaps[h->slot];
    return NM_LIKELY(theap != &nm__no_theap) ? theap : nm__theap_current_slow(h);
}
void nm__theap_free_cell(nm__theap *theap, void *ptr, nm__superblock *sb); /* from any thread */
void nm__heap_thread_ends(void);
void nm__threads_forget_others(void);
/* Pre, of both: nm__heaps.lock is held. */
void nm__heap_take_slot(nm_heap *h, size_t from);
void nm__heap_leave_slot(nm_heap *h);

/* ---- fork.c ---- */

void nm__heap_register_hooks(void); /* once */

/* ---- secure.c ---- */

#define NM__SECURE_TAIL (2 * sizeof(uintptr_t)) /* bytes that a block's tail takes */
/* Bytes of the guard behind a span, and behind a superblock: 0 where the system's page is as large as the smaller ones. */
size_t nm__secure_span_guard(void);
size_t nm__secure_cell_guard(void);
void nm__secure_set_guard(const nm__page *p);
/* Opens the guard behind a heap's span or superblock, if it is secure. Returns how many of the pages can go back. */
size_t nm__secure_unguard(const nm_heap *h, nm__page *p);
/* As nm__cells_extend, for all cells, in random order. */
bool nm__secure_extend(nm_heap *h, nm__cells *c, char *base);
/* zero: as nm__span_alloc's, of spans. */
void *nm__secure_alloc(nm_heap *h, size_t size, size_t align, bool *zero, bool quiet);
nm_status nm__secure_free(nm_heap *h, char *ptr);
nm_status nm__secure_resize(char *ptr, size_t size); /* in place, if its tail is whole */
void *nm__secure_realloc(nm_heap *h, char *ptr, size_t size, size_t align, bool quiet);
size_t nm__secure_usable_of(const nm_heap *h, const char *ptr); /* unchecked */
nm_status nm__secure_measure(const nm_heap *h, const char *ptr, size_t *size);

#pragma GCC visibility pop
#endif
