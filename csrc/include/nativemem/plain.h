/* Plain: malloc's calls, which know no size on free, on any allocator; and the same in the shapes that C libraries
 * take. As thread-safe as its upstream.
 *
 * In a heap a block's size can be told from its address, so nothing is added there, and what is taken, and charged by
 * wrappers, is all that lies behind it. Elsewhere each block has 16 bytes in front of it that know.
 */
#ifndef NATIVEMEM_PLAIN_H
#define NATIVEMEM_PLAIN_H

#include "nativemem/heap.h"
#include "nativemem/port.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nm_plain nm_plain;

/* heap: that in which upstream's blocks lie, if they lie in one; else NULL. upstream serves alignments of
 * NM_ALIGN_DEFAULT at least. NULL: out of memory. */
nm_plain *nm_plain_create(nm_allocator upstream, const nm_heap *heap);
/* From now on nothing is served: alloc gives NULL, free does nothing. The few bytes of the structure stay for the next
 * one, so that a library that still holds its address meets no other memory. Of one that was destroyed: a no-op. */
void nm_plain_destroy(nm_plain *p);

/* Zero sizes give one byte. NULL: refused, the last failure says why; a realloc's block is as it was. A realloc
 * to less is not refused for want of memory: a block that cannot move stays as large as it was. */
void *nm_plain_malloc(nm_plain *p, size_t size);
void *nm_plain_calloc(nm_plain *p, size_t count, size_t size);
void *nm_plain_realloc(nm_plain *p, void *ptr, size_t size); /* ptr may be NULL */
/* NULL is a no-op. NM_FOREIGN_BLOCK, NM_DOUBLE_FREE: that is none, as far as it can be told; nothing changed. */
nm_status nm_plain_free(nm_plain *p, void *ptr);
size_t nm_plain_size(const nm_plain *p, const void *ptr); /* usable bytes; 0 for NULL */

/* The same as a port, for blocks that either side may free: a size that comes back is not looked at. Alignments up to
 * NM_ALIGN_DEFAULT. */
nm_allocator nm_plain_port(nm_plain *p);

/* --- shapes with a context, which is the nm_plain --- */

/* Lua: lua_Alloc. What it says of the old size is not needed. */
void *nm_plain_lua(void *plain, void *ptr, size_t old, size_t size);
/* zlib, bzip2: alloc_func, free_func. */
void *nm_plain_zalloc(void *plain, unsigned items, unsigned size);
void *nm_plain_bzalloc(void *plain, int items, int size);
void nm_plain_zfree(void *plain, void *ptr);
/* zstd: ZSTD_allocFunction; brotli: brotli_alloc_func. Both free as zlib does. */
void *nm_plain_alloc(void *plain, size_t size);
/* What libraries want as a structure at an address that stays: p's own, which is theirs for as long as the process. */
/* lzma: lzma_allocator. */
typedef struct nm_plain_lzma {
    void *(*alloc)(void *opaque, size_t items, size_t size);
    void (*free)(void *opaque, void *ptr);
    void *opaque;
} nm_plain_lzma;
const nm_plain_lzma *nm_plain_lzma_of(nm_plain *p);
/* FreeType: FT_MemoryRec_, whose functions are given its address. */
typedef struct nm_plain_freetype nm_plain_freetype;
struct nm_plain_freetype {
    void *user;
    void *(*alloc)(nm_plain_freetype *memory, long size);
    void (*free)(nm_plain_freetype *memory, void *ptr);
    void *(*realloc)(nm_plain_freetype *memory, long old, long size, void *ptr);
};
nm_plain_freetype *nm_plain_freetype_of(nm_plain *p);

/* --- shapes without: each function has to know its allocator, so there is a fixed number of them --- */

#define NM_PLAIN_PLACES 16
/* The first three are, in this order, expat's XML_Memory_Handling_Suite. */
typedef struct nm_plain_calls {
    void *(*malloc)(size_t size);
    void *(*realloc)(void *ptr, size_t size);
    void (*free)(void *ptr);
    void *(*calloc)(size_t count, size_t size);
    size_t (*usable_size)(void *ptr);
} nm_plain_calls;
/* SQLite's sqlite3_mem_methods, for SQLITE_CONFIG_MALLOC. */
typedef struct nm_plain_sqlite {
    void *(*xMalloc)(int size);
    void (*xFree)(void *ptr);
    void *(*xRealloc)(void *ptr, int size);
    int (*xSize)(void *ptr);
    int (*xRoundup)(int size);
    int (*xInit)(void *);
    void (*xShutdown)(void *);
    void *pAppData;
} nm_plain_sqlite;

/* Functions that are p's until it is destroyed; the same ones each time. NULL: all places are taken
 * (NM_CAPACITY_EXCEEDED), or p was destroyed (NM_CLOSED). */
const nm_plain_calls *nm_plain_calls_of(nm_plain *p);
const nm_plain_sqlite *nm_plain_sqlite_of(nm_plain *p);

#ifdef __cplusplus
}
#endif
#endif
