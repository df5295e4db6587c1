/* Events: the last things that budgets and the engine did that a person would want to know, for telemetry.
 *
 * A ring of fixed size in the core. Noting an event takes no lock, waits for nothing and allocates nothing, so it may be
 * done inside an allocation; reading allocates nothing either. It cannot keep more than NM_EVENTS: older ones are gone.
 *
 * Invariants: an event has a number, from 1 on, that no other has; its slot is that number's in the ring;
 *   a slot's mark is 2 * number when the event in it is whole, 2 * number - 1 while it is written. */
#ifndef NM__EVENTS_H
#define NM__EVENTS_H

#include "base/base.h"
#include "tuning.h"

typedef enum nm__event_kind {
    NM__EVENT_DENIED = 1, /* name: the one that refused; other: charged, where it is another; detail: nm_denial_kind */
    NM__EVENT_PRESSURE,   /* detail: the level that it came to */
    NM__EVENT_LIMIT,      /* requested: the limit before */
    NM__EVENT_LENT,       /* name: from; other: to; limit: name's after it */
    NM__EVENT_MADE,
    NM__EVENT_CLOSED,
    NM__EVENT_LOCKED,
    NM__EVENT_ENGINE,     /* detail: 1 objects, 2 arrays, 4 raw that are on now */
    NM__EVENT_KINDS
} nm__event_kind;

#define NM__EVENT_NAME 40 /* bytes, with the zero at the end */

typedef struct nm__event {
    uint64_t number;
    int64_t time_ns;  /* since the epoch */
    uint64_t thread;  /* pthread_self() */
    uint32_t kind, detail;
    uint64_t requested, used, limit;
    char name[NM__EVENT_NAME], other[NM__EVENT_NAME]; /* of budgets; empty: none */
} nm__event;

#pragma GCC visibility push(hidden)

/* number, time and thread are filled in. */
void nm__event_note(nm__event event);
/* Those after a number, the oldest first, at most cap. Returns how many. */
size_t nm__events_read(uint64_t after, nm__event *out, size_t cap);

#pragma GCC visibility pop
#endif
