#include "base/events.h"

#include <pthread.h>
#include <sched.h>
#include <string.h>

#define EVENT_WORDS (sizeof(nm__event) / sizeof(uint64_t))
_Static_assert(sizeof(nm__event) % sizeof(uint64_t) == 0, "an event is copied by words");

typedef struct event_slot {
    _Atomic uint64_t mark;
    _Atomic uint64_t words[EVENT_WORDS];
} event_slot;

static struct {
    _Atomic uint64_t last; /* the highest number that was given out */
    event_slot slots[NM_EVENTS];
} events;

void nm__event_note(nm__event event) {
    uint64_t words[EVENT_WORDS], number = atomic_fetch_add(&events.last, 1) + 1;
    event.number = number;
    event.time_ns = nm__os_time_ns();
    event.thread = (uint64_t)(uintptr_t)pthread_self();
    memcpy(words, &event, sizeof words);
    event_slot *slot = &events.slots[number % NM_EVENTS];
    uint64_t mark = atomic_load(&slot->mark);
    /* Another thread writes here that is a whole ring behind or ahead: one of the two is lost, not mixed. */
    if (mark % 2 != 0 || mark > 2 * number || !atomic_compare_exchange_strong(&slot->mark, &mark, 2 * number - 1)) return;
    for (size_t i = 0; i < EVENT_WORDS; i++) atomic_store(&slot->words[i], words[i]);
    atomic_store(&slot->mark, 2 * number);
}

/* false: it is not there, or no longer. */
static bool event_copy(uint64_t number, nm__event *out) {
    event_slot *slot = &events.slots[number % NM_EVENTS];
    uint64_t words[EVENT_WORDS];
    /* A thread may have the number and not have written yet. In a child of fork it never will. */
    for (int i = 0; i < NM_EVENT_TRIES && atomic_load(&slot->mark) < 2 * number; i++) (void)sched_yield();
    if (atomic_load(&slot->mark) != 2 * number) return false;
    for (size_t i = 0; i < EVENT_WORDS; i++) words[i] = atomic_load(&slot->words[i]);
    if (atomic_load(&slot->mark) != 2 * number) return false;
    memcpy(out, words, sizeof words);
    return true;
}

size_t nm__events_read(uint64_t after, nm__event *out, size_t cap) {
    uint64_t last = atomic_load(&events.last);
    size_t count = 0;
    if (last > NM_EVENTS && after < last - NM_EVENTS) after = last - NM_EVENTS;
    while (after < last && count < cap)
        if (event_copy(++after, &out[count])) count++;
    return count;
}
