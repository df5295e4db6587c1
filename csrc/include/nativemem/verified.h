/* Verified: checks what passes through, as deep as its level says. As thread-safe as its upstream.
 *
 * It keeps a ledger of live blocks, so a free or a resize of what it did not give, or with another layout, is refused, and
 * so is what upstream gives twice. A block that is sealed has its final contents: any byte of it that changes otherwise is
 * found when the block is next compared, and the call fails with NM_CORRUPTED. A free that fails so gives the block back when
 * it is called once more.
 *
 * It does not see what writes, and adds no bytes to a block: what is written past the end of a block is found where a sealed
 * block is hit, or by a secure heap below. What is below may not drop blocks that are live here (nm_arena_reset and the
 * like). */
#ifndef NATIVEMEM_VERIFIED_H
#define NATIVEMEM_VERIFIED_H

#include "nativemem/port.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nm_verified nm_verified;

/* In no order: each is a choice of what to check when. */
typedef enum nm_verification {
    NM_VERIFY_OFF = 0,      /* nothing: its port is upstream's own */
    NM_VERIFY_BASIC = 1,    /* the ledger */
    NM_VERIFY_SAMPLING = 2, /* also sealed contents, by dice: 200 of 256 frees and resizes of their block, 150 of its seals
                               and unseals, 100 of allocs, which look at one sealed block each, in turn */
    NM_VERIFY_STANDARD = 3, /* each free, resize, seal and unseal */
    NM_VERIFY_FULL = 4,     /* each of these calls, alloc too */
    NM_VERIFY_REDUNDANT = 5 /* as full; what is known of a block is kept twice and compared */
} nm_verification;

/* seed: of the dice; 0: another each time. NULL: out of memory. */
nm_verified *nm_verified_create(nm_allocator upstream, nm_verification level, uint64_t seed);
void nm_verified_destroy(nm_verified *v);
nm_allocator nm_verified_port(nm_verified *v);

/* From now on, until it is unsealed or resized, the contents of the block are what they are. NM_FOREIGN_BLOCK: it has no
 * such live block. NM_CORRUPTED: it was sealed before and has changed since; it stays as it was. At OFF nothing. */
nm_status nm_verified_seal(nm_verified *v, void *ptr);
nm_status nm_verified_unseal(nm_verified *v, void *ptr);

typedef struct nm_verified_finding {
    const void *ptr; /* of the damaged block; NULL: the ledger and the counters do not agree */
    size_t size;
    size_t compared; /* sealed blocks that were looked at */
} nm_verified_finding;
/* Compares every sealed block, whatever the level, and the ledger with the counters. NM_CORRUPTED: *out says where. */
nm_status nm_verified_verify(nm_verified *v, nm_verified_finding *out);

size_t nm_verified_checks(const nm_verified *v);   /* comparisons so far */
size_t nm_verified_failures(const nm_verified *v); /* of these, that found something */
const char *nm_verified_check(const nm_verified *v); /* while no call is under way */

#ifdef __cplusplus
}
#endif
#endif
