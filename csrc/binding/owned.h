/* Creation for the control plane: what was made is in its handle before anything can fail. A pointer that is
 * returned needs a Python object first, and where there is no memory for that the structure would be lost. */
#ifndef NM__OWNED_H
#define NM__OWNED_H

#include "nativemem.h"

/* bool own_<noun>(void **place, ...): as nm_<noun>_create, with the result in *place; false where it is NULL. For stack and
 * pool it is in handles.c. */
#define NM__OWNED(noun, parameters, arguments) \
    static bool own_##noun parameters { return (*place = nm_##noun##_create arguments) != NULL; }

NM__OWNED(budget, (void **place, size_t limit, nm_budget *parent, const nm_budget_options *options), (limit, parent, options))
NM__OWNED(system, (void **place), ())
NM__OWNED(arena, (void **place, nm_allocator upstream, nm_arena_options options), (upstream, options))
NM__OWNED(slab, (void **place, nm_allocator upstream, const size_t *bins, size_t nbins, bool zero_on_free),
          (upstream, bins, nbins, zero_on_free))
NM__OWNED(heap, (void **place, nm_budget *budget, bool secure), (budget, secure))
NM__OWNED(limited, (void **place, nm_allocator upstream, nm_budget *budget), (upstream, budget))
NM__OWNED(traced, (void **place, nm_allocator upstream, nm_traced_options options), (upstream, options))
NM__OWNED(failing, (void **place, nm_allocator upstream, size_t n, bool sticky), (upstream, n, sticky))
NM__OWNED(verified, (void **place, nm_allocator upstream, nm_verification level, uint64_t seed), (upstream, level, seed))
NM__OWNED(plain, (void **place, nm_allocator upstream, const nm_heap *heap), (upstream, heap))
NM__OWNED(locked, (void **place, nm_allocator upstream), (upstream))

#undef NM__OWNED

/* Whether nothing of a port is out: for a caller that has no memory for its numbers. */
static bool own_is_idle(void *self, const nm_methods *methods) {
    nm_stats stats;
    methods->stats(self, &stats);
    return stats.live == 0;
}
#endif
