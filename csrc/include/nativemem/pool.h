/* Pool: cells of one size, taken and given in any order in constant time.
 *
 * It cannot serve a block larger than its cells and cannot be called from another thread. Every free is checked
 * against the chunk's range, the cell boundary and an occupancy bit; every link of the free list before it is
 * followed.
 */
#ifndef NATIVEMEM_POOL_H
#define NATIVEMEM_POOL_H

#include "nativemem/port.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nm_pool nm_pool;

/* block_size: bytes, >= 1, rounded up to a multiple of 16, which is the cell. count: cells, >= 1, taken from
 * upstream at once. grow: when all are in use, as many again are taken from upstream, else NM_POOL_EXHAUSTED.
 * NULL: NM_INVALID_LAYOUT where the product is no size, else the upstream's reason. */
nm_pool *nm_pool_create(nm_allocator upstream, size_t block_size, size_t count, bool grow);
/* Any thread, once no other call is under way. */
void nm_pool_destroy(nm_pool *p);
/* alloc: NM_INVALID_LAYOUT for a size above the cell or an alignment that the cell is no multiple of;
 * NM_CORRUPTED where the free list leads to what is no free cell. free: NM_FOREIGN_BLOCK for what is no cell of
 * the pool, NM_DOUBLE_FREE for a cell that is not in use. Nothing changes on either. */
nm_allocator nm_pool_port(nm_pool *p);
/* Gives every chunk back: the pool serves nothing any more. NM_WRONG_THREAD: unchanged. */
nm_status nm_pool_clear(nm_pool *p);
size_t nm_pool_cell(const nm_pool *p);  /* bytes of a cell */
nm_status nm_pool_check_thread(const nm_pool *p);
/* From now on it is that thread's, or a Locked's (nm_locked_thread). NM_WRONG_THREAD: it is not the caller's. */
nm_status nm_pool_hand_over(nm_pool *p, uintptr_t thread);
const char *nm_pool_check(const nm_pool *p);

#ifdef __cplusplus
}
#endif
#endif
