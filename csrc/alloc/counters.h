/* What the methods of a port share: the precondition of alloc and resize, and counting, as nm_stats wants it. */
#ifndef NM__COUNTERS_H
#define NM__COUNTERS_H

#include "base/base.h"
#include "nativemem/port.h"

/* As nm_methods says of what it is called with. */
NM_INLINE bool nm__is_layout(size_t size, size_t align) { return size != 0 && nm_layout_ok(size, align, NM_PORT_ALIGN_MAX); }

/* The counters of nm_stats for allocators that any thread may call. peak >= used at every instant that a
 * reader can see, because used is read first and peak raised before the call that raised used returns. */
typedef struct nm__shared_stats {
    nm__counter used, peak, total, count, frees, failures;
} nm__shared_stats;
static inline void nm__count_alloc(nm__shared_stats *s, size_t size) {
    nm__atomic_max(&s->peak, nm__atomic_add(&s->used, size));
    nm__atomic_add(&s->total, size);
    nm__atomic_add(&s->count, 1);
}
static inline void nm__count_free(nm__shared_stats *s, size_t size) {
    nm__atomic_sub(&s->used, size);
    nm__atomic_add(&s->frees, 1);
}
/* Want of memory counts as a failure, misuse does not. */
static inline void nm__count_failure(nm__counter *failures) {
    if (nm__is_want(nm_last_failure().status)) nm__atomic_add(failures, 1);
}
static inline void nm__count_resize(nm__shared_stats *s, size_t old, size_t size) {
    if (size > old) {
        nm__atomic_max(&s->peak, nm__atomic_add(&s->used, size - old));
        nm__atomic_add(&s->total, size - old);
    } else {
        nm__atomic_sub(&s->used, old - size);
    }
}
static inline void nm__shared_read(const nm__shared_stats *s, nm_stats *out) {
    out->used = nm__get(&s->used);
    out->peak = nm__get(&s->peak);
    if (out->peak < out->used) out->peak = out->used;
    out->reserved = out->used;
    out->limit = 0;
    out->total = nm__get(&s->total);
    out->frees = nm__get_first(&s->frees);
    out->count = nm__get(&s->count);
    out->live = out->count - out->frees;
    out->failures = nm__get(&s->failures);
}

#endif
