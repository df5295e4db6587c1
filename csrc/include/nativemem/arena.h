/* Arena: many blocks, one lifetime.
 *
 * Allocation is a pointer bump; there is no per-block free: a freed block keeps its bytes until reset. The
 * arena cannot fragment and cannot leak a single block; it cannot give memory back piecemeal either. It is
 * confined to the thread that made it, so it needs no lock.
 *
 * Chunks double from `hint`, clamped to what is left under `cap`. A block larger than the next chunk gets a
 * chunk of its own, off the doubling sequence. Each chunk starts at a multiple of NM_ALIGN_MAX, so where a
 * block lands depends on sizes and alignments alone, never on addresses.
 */
#ifndef NATIVEMEM_ARENA_H
#define NATIVEMEM_ARENA_H

#include "nativemem/port.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nm_arena nm_arena;

/* A position to come back to. It belongs to one arena and one generation of it. Opaque. */
typedef struct nm_arena_mark {
    const nm_arena *arena;
    uint64_t generation;
    uint64_t chunk;
    uint64_t large;
    const void *floor;
    size_t offset;
    size_t used;
    size_t live;
} nm_arena_mark;

typedef struct nm_arena_options {
    size_t hint;       /* bytes of the first chunk, >= 1 */
    size_t cap;        /* most bytes reserved, 0 for no cap */
    bool grow;         /* false: one chunk of hint bytes, or of cap if that is less, and no more */
    bool zero_on_free; /* wipe what is dropped, in a way that the compiler cannot leave out */
    bool patterns;     /* new blocks are filled with 0xAA, freed and dropped ones with 0xDD */
} nm_arena_options;

/* No chunk is taken before the first alloc. NULL: out of memory, or NM_INVALID_LAYOUT. */
nm_arena *nm_arena_create(nm_allocator upstream, nm_arena_options options);
/* Any thread, once no other call is under way. */
void nm_arena_destroy(nm_arena *a);
/* Its resize serves the newest block only, and that only if no mark is newer: a block older than a mark keeps
 * its place and size, or a release would hand out bytes that it has grown into. */
nm_allocator nm_arena_port(nm_arena *a);

/* Drops every block and keeps the newest chunk of the doubling sequence. NM_WRONG_THREAD: unchanged. */
nm_status nm_arena_reset(nm_arena *a);
/* As reset, and gives that chunk back as well. */
nm_status nm_arena_clear(nm_arena *a);
nm_status nm_arena_take_mark(nm_arena *a, nm_arena_mark *out);
/* NM_INVALID_MARK: foreign, of an older generation, or ahead of the arena. */
nm_status nm_arena_check_mark(const nm_arena *a, const nm_arena_mark *mark);
/* Drops every block newer than the mark, which is used up. NM_INVALID_MARK as above: nothing changed. A mark
 * that is used up, or newer than one already released, is the caller's to know: once the arena has grown past its
 * position again, the arena cannot tell. */
nm_status nm_arena_release(nm_arena *a, const nm_arena_mark *mark);
/* Bytes of the largest block, at alignment 1, that would be served now, if upstream gives what that takes. */
size_t nm_arena_largest_free(const nm_arena *a);
uint64_t nm_arena_generation(const nm_arena *a);
nm_status nm_arena_check_thread(const nm_arena *a);
/* From now on it is that thread's, or a Locked's (nm_locked_thread). NM_WRONG_THREAD: it is not the caller's. */
nm_status nm_arena_hand_over(nm_arena *a, uintptr_t thread);
const char *nm_arena_check(const nm_arena *a);

#ifdef __cplusplus
}
#endif
#endif
