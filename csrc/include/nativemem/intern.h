/* Intern: equal values once, under a number.
 *
 * A value is a string of bytes. `acquire` gives its id: equal values have equal ids, different values never. A value is
 * kept while it has references, and reclaimed with the last one; its id then stands for nothing, now and later, since
 * each use of a place has a generation of its own. Bytes stay where they are for as long as the value is held.
 *
 * It cannot order values or find those with a prefix, and it cannot move what it holds: a chunk of cells goes back to
 * upstream when the last value in it goes, not before.
 *
 * Any thread may call it: values are spread over shards by their hash, each with a lock of its own, and no call holds
 * two of them. After a fork the child may use a table if no other thread was inside a call at the time.
 */
#ifndef NATIVEMEM_INTERN_H
#define NATIVEMEM_INTERN_H

#include "nativemem/port.h"

#ifdef __cplusplus
extern "C" {
#endif

#define NM_INTERN_SHARDS 16                      /* a usual number of them */
#define NM_INTERN_SHARDS_MAX 256
#define NM_INTERN_SIZE_MAX ((size_t)UINT32_MAX)  /* bytes of a value */
#define NM_INTERN_REFERENCES_MAX ((size_t)UINT32_MAX) /* of a value */

typedef struct nm_intern nm_intern;
typedef uint64_t nm_intern_id; /* 0 is none */
typedef uint64_t (*nm_intern_hash)(const void *bytes, size_t size);

/* A value, and its hash as the table's function gives it: for callers that know it already. */
typedef struct nm_intern_value {
    const void *bytes;
    size_t size;
    uint64_t hash;
} nm_intern_value;

/* Invariants:  unique <= references;  hits <= acquires;  stored <= held */
typedef struct nm_intern_stats {
    size_t unique;     /* values held */
    size_t references; /* to them */
    size_t stored;     /* bytes of the values, each once */
    size_t held;       /* bytes of the values, once for each reference; what is saved is held - stored */
    size_t acquires;   /* values that were acquired, ever */
    size_t hits;       /* of them, those that were there already */
    size_t reserved;   /* bytes taken from upstream */
    size_t failures;   /* calls of acquire that failed for want of memory */
} nm_intern_stats;

/* shards: a power of two, at most NM_INTERN_SHARDS_MAX. upstream must serve every thread that calls. hash: NULL for one
 * of the table's own, which is seeded by the process. NULL: out of memory, or NM_INVALID_LAYOUT for other shards. */
nm_intern *nm_intern_create(nm_allocator upstream, size_t shards, nm_intern_hash hash);
/* Once no other call is under way. Gives everything back to upstream. */
void nm_intern_destroy(nm_intern *t);

/* Adds a reference to the value, which is copied where it is new. Refused, and nothing changed: what upstream says;
 * NM_INVALID_LAYOUT for a size above NM_INTERN_SIZE_MAX; NM_CAPACITY_EXCEEDED for more references than can be
 * counted, or where a shard has no numbers left (2^32 cells, or 2^24 generations and more of each). */
nm_status nm_intern_acquire(nm_intern *t, const void *bytes, size_t size, nm_intern_id *out);
/* All of them or none. Each shard is locked once for some hundreds of values, and their memory is fetched ahead. */
nm_status nm_intern_acquire_many(nm_intern *t, const nm_intern_value *values, size_t count, nm_intern_id *out);
/* The same, with the hash for the table to find. */
uint64_t nm_intern_hash_of(const nm_intern *t, const void *bytes, size_t size);

/* These three: NM_CLOSED, and nothing changed, where the id stands for no value (any more). */
/* One more reference. bytes and size may be NULL; else they are told, and good while the reference is held. */
nm_status nm_intern_retain(nm_intern *t, nm_intern_id id, const void **bytes, size_t *size);
/* One less; the last one reclaims the value. */
nm_status nm_intern_release(nm_intern *t, nm_intern_id id);
/* Where the value is: for a caller that holds a reference for as long as it looks. */
nm_status nm_intern_view(nm_intern *t, nm_intern_id id, const void **bytes, size_t *size);

/* Releases each in turn. NM_CLOSED: those from *done on were not, and the first of them is the one that stands for
 * nothing. done may be NULL. */
nm_status nm_intern_release_many(nm_intern *t, const nm_intern_id *ids, size_t count, size_t *done);

/* Reclaims every value, whatever refers to it. Ids from before stand for nothing. No other call may be under way. */
void nm_intern_clear(nm_intern *t);

void nm_intern_read(nm_intern *t, nm_intern_stats *out); /* each shard at one instant, one after the other */
const char *nm_intern_check(nm_intern *t);

#ifdef __cplusplus
}
#endif
#endif
