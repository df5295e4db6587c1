/* A recording: what a heap profile has added up, by call path and owner, and what owners used over time.
 *
 * It is one mapping, of a file where it has a path, whose layout below a reader finds its way in: the head names the
 * sections, each an array with room for a fixed number of items. What was written stays when the process is killed; the
 * size of the file never grows, and its blocks on disk are those that were written to.
 *
 * It cannot: be written from several threads at once (its user has a lock), grow beyond its bound (what finds no more room
 * is added to item 0 of its section and counted as dropped), or forget a name.
 *
 * Invariants:
 *   of each section the first `count` items are whole: an item is written before its count (release)
 *   item 0 of strings, nodes and sites stands for all that found no room
 *   a node's parent comes before it;  a site's node, an owner's name and parent are in their sections
 *   sum over sites of live_bytes == head.live_bytes;  head.peak_bytes == the most that it was
 *   a site's share of the peak is peak_bytes where its peak_mark == head.peak_mark, else its live_bytes
 *   sum over sizes of live_bytes == head.live_bytes */
#ifndef NM__RECORDING_H
#define NM__RECORDING_H

#include "base/base.h"

typedef enum nm__section {
    NM__STRINGS,  /* bytes: at an offset a uint32_t length, and so much UTF-8; padded to 4 */
    NM__NODES,    /* nm__node: a call path is its innermost node, and that node's parents */
    NM__SITES,    /* nm__site_sums */
    NM__OWNERS,   /* nm__owner_sums; 0 is the process */
    NM__TIMES,    /* nm__moment; this one or the next, as head.times says */
    NM__TIMES_2,
    NM__REFUSALS, /* nm__refused */
    NM__SIZES,    /* nm__size_sums, NM__SIZE_CLASSES of them, ascending */
    NM__ABOUT,    /* nm__about: what the process is */
    NM__SECTIONS
} nm__section;

typedef struct nm__node {
    uint32_t parent; /* 0: it is the outermost */
    uint32_t file, function; /* offsets of strings */
    uint32_t line;
} nm__node;

/* Where memory comes from. */
typedef enum nm__origin { NM__OF_OBJECTS, NM__OF_RAW, NM__OF_ARRAYS, NM__OF_BLOCKS } nm__origin;

/* A block is so much in a count: a sampled one stands for a number that is not whole. */
#define NM__WHOLE 1024
typedef struct nm__site_sums {
    uint32_t node, owner, source, peak_mark;
    uint64_t live_bytes, live_count, total_bytes, total_count, peak_bytes, peak_count;
} nm__site_sums;

typedef struct nm__owner_sums {
    uint32_t name, parent;
    uint64_t limit, used, peak, denials; /* limit: UINT64_MAX where there is none */
} nm__owner_sums;

typedef struct nm__moment {
    uint64_t ns; /* since the beginning */
    uint32_t owner, unused;
    uint64_t used, limit;
} nm__moment;

typedef struct nm__refused {
    uint64_t ns, requested, used, limit;
    uint32_t owner, node;
} nm__refused;

/* Blocks by size: four classes to a doubling, so that a percentile is known within a quarter. */
#define NM__SIZE_CLASSES 248
typedef struct nm__size_sums {
    uint64_t most; /* bytes of the largest block of the class */
    uint64_t live_bytes, live_count, total_bytes, total_count;
} nm__size_sums;

typedef struct nm__about {
    uint32_t name, text; /* offsets of strings */
} nm__about;

#define NM__RECORDING_MAGIC "NMRECORD"
#define NM__RECORDING_VERSION 2 /* 1 had neither sizes nor about */

typedef struct nm__recording_head {
    char magic[8];
    uint32_t version, sections;
    uint64_t size;       /* of the mapping */
    uint64_t began;      /* ns since the epoch */
    uint64_t ended;      /* ns after the beginning; 0: it goes on, or the process was killed */
    uint64_t pid, rate;  /* bytes between samples in the mean; 1: each block */
    uint64_t tick;       /* ns between moments; doubles when their section is full */
    uint64_t dropped;    /* items that found no room */
    uint64_t samples;    /* blocks that were sampled */
    uint64_t live_bytes, peak_bytes;
    uint64_t peak_ns;
    uint32_t peak_mark;
    _Atomic uint32_t times; /* NM__TIMES or NM__TIMES_2 */
    struct {
        uint64_t offset, room, item;
        _Atomic uint64_t count; /* items; of strings bytes */
    } section[NM__SECTIONS];
} nm__recording_head;

typedef struct nm__recording nm__recording;

/* The least that a recording may be bounded to, in bytes. */
#define NM__RECORDING_LEAST ((size_t)1 << 20)

/* path: NULL for memory of its own. An existing file is replaced by a whole one, or stays. NULL: errno says why. Pre: bound >= NM__RECORDING_LEAST. */
nm__recording *nm__recording_create(const char *path, size_t bound, size_t rate);
/* Unmaps it; the file, if there is one, stays. `finish`: it has come to its end here, rather than in a process that forked
 * from its own. */
void nm__recording_destroy(nm__recording *r, bool finish);
const nm__recording_head *nm__recording_view(const nm__recording *r);

/* Notes a word about the process, such as its command line: offsets of strings. */
void nm__recording_tell(nm__recording *r, uint32_t name, uint32_t text);

/* The offset of such a string; 0: no room. */
uint32_t nm__recording_string(nm__recording *r, const char *bytes, size_t size);
/* Whether a string is of those bytes. */
bool nm__recording_is(const nm__recording *r, uint32_t string, const char *bytes, size_t size);
/* The node below `parent` of a place in a program: it is known by what it says, so that it names nothing that may go, and code
 * that is made anew is where it was. file, function: strings. 0: no room. */
uint32_t nm__recording_node(nm__recording *r, uint32_t parent, uint32_t file, uint32_t function, int line);
uint32_t nm__recording_site(nm__recording *r, uint32_t node, uint32_t owner, nm__origin origin);
/* A sampled block of `bytes` comes and goes; it stands for as many of its size as its chance says. */
void nm__recording_add(nm__recording *r, uint32_t site, size_t bytes);
void nm__recording_remove(nm__recording *r, uint32_t site, size_t bytes);

/* An owner of that key; `made`: it is new, and its name and parent are to be set. 0, the process, where there is no room. */
uint32_t nm__recording_owner(nm__recording *r, const void *key, uint64_t number, bool *made);
void nm__recording_name(nm__recording *r, uint32_t owner, uint32_t name, uint32_t parent);
/* What an owner uses now; a moment is written where something changed since its last. */
void nm__recording_moment(nm__recording *r, uint32_t owner, size_t used, size_t peak, size_t limit, uint64_t denials);
/* Whether so much time has passed that moments are due. */
bool nm__recording_is_due(nm__recording *r);
void nm__recording_refusal(nm__recording *r, uint32_t owner, uint32_t node, size_t requested, size_t used, size_t limit);

/* NULL, or which invariant does not hold. */
const char *nm__recording_check(const nm__recording *r);

#endif
