/* Slab: small blocks of a few sizes, allocated and freed in any order.
 *
 * Each bin serves cells of one size out of superblocks of 64 KiB. The smallest bin that fits size and
 * alignment serves the block; larger blocks go to upstream. A superblock whose last cell comes back returns
 * to upstream; one spare is kept for each bin, so that a block at the edge does not take and return one in
 * a loop. A slab belongs to its thread: alloc elsewhere is refused; a free elsewhere is queued without a
 * lock and collected by the owner. When that thread ends its blocks stay as they are, and each superblock goes
 * back with the last free into it, from whatever thread it comes.
 */
#ifndef NATIVEMEM_SLAB_H
#define NATIVEMEM_SLAB_H

#include "nativemem/port.h"

#ifdef __cplusplus
extern "C" {
#endif

#define NM_SLAB_BINS_MAX 256
#define NM_SLAB_CELL_MAX ((size_t)4096)

typedef struct nm_slab nm_slab;

/* bins: nbins cell sizes, ascending, each a multiple of 16 and at most NM_SLAB_CELL_MAX.
 * NULL: out of memory, or NM_INVALID_LAYOUT for bins of another form. */
nm_slab *nm_slab_create(nm_allocator upstream, const size_t *bins, size_t nbins, bool zero_on_free);
/* Any thread, once no other call is under way. Returns the superblocks; blocks that came straight from
 * upstream must have been freed. */
void nm_slab_destroy(nm_slab *s);
nm_allocator nm_slab_port(nm_slab *s);
/* Collects what other threads freed and returns every empty superblock. NM_WRONG_THREAD: unchanged. */
nm_status nm_slab_trim(nm_slab *s);
/* Bytes behind a block of this layout; 0: upstream serves it, and knows. */
size_t nm_slab_usable(const nm_slab *s, size_t size, size_t align);
nm_status nm_slab_check_thread(const nm_slab *s);
/* From now on it is that thread's, or a Locked's (nm_locked_thread). NM_WRONG_THREAD: it is not the caller's. */
nm_status nm_slab_hand_over(nm_slab *s, uintptr_t thread);
const char *nm_slab_check(const nm_slab *s); /* from the slab's thread */

#ifdef __cplusplus
}
#endif
#endif
