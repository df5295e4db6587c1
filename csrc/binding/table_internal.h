/* What the files of the table share: its state, and what is too hot for a call. For binding/table*.[ch] alone. */
#ifndef NM__TABLE_INTERNAL_H
#define NM__TABLE_INTERNAL_H

#include "binding/packed.h"

#define TABLE_NONE UINT32_MAX

typedef struct {
    uint32_t older, newer; /* of a free entry: newer is the next free one */
    char key[];            /* and the value behind it */
} Entry;

typedef struct {
    uint32_t next; /* the number of an entry, plus 1; 0: the slot is empty */
    uint32_t hash;
} Slot;

/* Invariants:
 *   closed <=> entries == NULL
 *   used entries are in the index once, and on the list from oldest to newest; used <= capacity
 *   entries from `fresh` on were never used; the other free ones are on the list `free`
 *   version changes with each insertion and removal */
typedef struct {
    PyObject_HEAD
    Slot *index;
    char *entries;
    size_t mask; /* slots - 1 */
    Py_ssize_t stride, capacity, used;
    uint32_t oldest, newest, free, fresh;
    uint64_t version;
    nm__format key, value; /* value.size 0: a set */
    Py_buffer view;
} Table;

typedef enum { TABLE_KEYS, TABLE_VALUES, TABLE_ITEMS } TableWhat;

static inline Entry *table_entry(const Table *t, uint32_t e) { return (Entry *)(t->entries + (Py_ssize_t)e * t->stride); }
static inline char *table_value(const Table *t, uint32_t e) { return table_entry(t, e)->key + t->key.size; }

static inline bool table_open(Table *t) {
    if (NM_LIKELY(t->entries != NULL)) return true;
    nm__packed_refuse((PyObject *)t, "closed", 0);
    return false;
}

#endif
