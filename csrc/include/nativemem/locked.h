/* Locked: lets any thread use allocators that are one thread's, one call at a time. */
#ifndef NATIVEMEM_LOCKED_H
#define NATIVEMEM_LOCKED_H

#include "nativemem/port.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nm_locked nm_locked;

/* The confined allocators below it have to be handed over: nm_arena_hand_over(a, nm_locked_thread(l)) and so on. From
 * then on they refuse every thread, that which made them too, but for calls that come through here. A child of fork
 * that is made while another thread is inside finds it locked for good. NULL: out of memory. */
nm_locked *nm_locked_create(nm_allocator upstream);
void nm_locked_destroy(nm_locked *l);
nm_allocator nm_locked_port(nm_locked *l);

/* The calling thread, to hand allocators back to it (after nm_locked_enter). */
uintptr_t nm_this_thread(void);
/* The thread that it acts as: a number that is no thread's. */
uintptr_t nm_locked_thread(const nm_locked *l);
size_t nm_locked_contended(const nm_locked *l); /* calls that had to wait for another */

/* Has the calling thread act as the owner of what was handed over, for calls that the port does not have (a reset, a
 * mark). Other threads must stay away meanwhile; nothing is locked. Returns what leave wants. */
uintptr_t nm_locked_enter(nm_locked *l);
void nm_locked_leave(uintptr_t before);

#ifdef __cplusplus
}
#endif
#endif
