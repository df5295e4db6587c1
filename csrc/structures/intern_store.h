/* The memory of one shard of an intern table: records in cells, cells in chunks, chunks from upstream. Its user holds the
 * shard's lock.
 *
 * A record is named by a reference, which is the number of its chunk and of its cell there, and a generation, which is
 * another for each use of the cell. Chunks of one cell size grow from 512 bytes to 4 KiB as there are more of them, so a
 * small table is small; a value that does not fit a quarter of that has a chunk of its own. A chunk goes back to
 * upstream with its last record.
 *
 * Generations never go down: a free cell remembers its next one; a free chunk number the highest of its cells'; and of
 * numbers that are forgotten, which happens only where most are free, the store keeps the highest. A cell whose
 * generations are used up is retired, and its chunk stays.
 */
#ifndef NM__INTERN_STORE_H
#define NM__INTERN_STORE_H

#include "base/base.h"
#include "nativemem/port.h"

#pragma GCC visibility push(hidden)

#define NM__INTERN_CLASSES 30 /* cell sizes; the last is that of chunks with one cell, of any size */
#define NM__INTERN_CELL_BITS 7 /* of a reference; the other 25 are the chunk's number, which counts from 1 */

typedef struct nm__intern_record {
    uint32_t references; /* 0: the cell is free */
    uint32_t size;       /* of a free cell: the next free one, counted from 1 */
    uint32_t generation; /* of a free cell: of its next use */
    uint32_t tag;
    unsigned char bytes[];
} nm__intern_record;

typedef struct nm__intern_chunk {
    struct nm__intern_chunk *next, *prior; /* of those of its class with a free cell */
    size_t total;                          /* bytes, this header included */
    uint32_t number;
    uint16_t kind; /* its class */
    uint16_t cells, fresh, used, retired;
    uint16_t free; /* first free cell, counted from 1 */
} nm__intern_chunk;

typedef struct nm__intern_place {
    char *cells; /* of the chunk with this number; NULL: the number is free */
    uint32_t cell; /* bytes */
    uint32_t floor; /* of a free number: the least generation of its next use */
} nm__intern_place;

/* Invariants, for each chunk:
 *   used + retired + length of its free list == fresh <= cells;  used + retired > 0
 *   it is on the list of its class <=> it has a free cell, or fresh < cells
 * places[0] is free, and never given;  no number below `lowest` but 0 is free
 * reserved == bytes of chunks and of places */
typedef struct nm__intern_store {
    nm_allocator upstream;
    nm__intern_place *places;
    uint32_t numbers, capacity; /* places that are told apart, and that there are */
    uint32_t lowest, live;      /* where to look for a free number; chunks */
    uint32_t floor, most;       /* generations: the least of a new number; the last of a cell, below UINT32_MAX */
    nm__intern_chunk *open[NM__INTERN_CLASSES];
    uint32_t chunks[NM__INTERN_CLASSES];
    nm__counter reserved;
} nm__intern_store;

void nm__intern_store_init(nm__intern_store *s, nm_allocator upstream, uint32_t most);
/* A record for so many bytes, with size, generation and no references. NULL: refused, nothing changed. */
nm__intern_record *nm__intern_store_take(nm__intern_store *s, size_t size, uint32_t *reference);
void nm__intern_store_give(nm__intern_store *s, uint32_t reference);
/* Every record goes, whatever its references; generations go on. */
void nm__intern_store_clear(nm__intern_store *s);
/* Memory of the shard's other parts, counted with it. */
void *nm__intern_store_alloc(nm__intern_store *s, size_t size);
void nm__intern_store_free(nm__intern_store *s, void *ptr, size_t size);
const char *nm__intern_store_check(const nm__intern_store *s, size_t *records);

/* Pre: a live reference. */
NM_INLINE nm__intern_record *nm__intern_store_at(const nm__intern_store *s, uint32_t reference) {
    const nm__intern_place *p = &s->places[reference >> NM__INTERN_CELL_BITS];
    return (nm__intern_record *)(void *)(p->cells + (size_t)(reference & ((1U << NM__INTERN_CELL_BITS) - 1)) * p->cell);
}

/* Any numbers. NULL: there is no such record. */
nm__intern_record *nm__intern_store_find(const nm__intern_store *s, uint32_t reference, uint32_t generation);

#pragma GCC visibility pop
#endif
