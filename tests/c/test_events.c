/* Events, and the figures that telemetry and measuring take from budgets. */
#include <pthread.h>
#include <stdatomic.h>
#include <string.h>

#include "locks.h"
#include "harness.h"

#include "base/events.h"
#include "nativemem/budget.h"

static nm__event found[NM_EVENTS];

/* The number of the newest event. */
static uint64_t newest(void) {
    size_t count = nm__events_read(0, found, NM_EVENTS);
    return count == 0 ? 0 : found[count - 1].number;
}

static nm_budget *named(size_t limit, nm_budget *parent, const char *name) {
    nm_budget *b = nm_budget_create(limit, parent, NULL);
    CHECK(b != NULL);
    nm__budget_introduce(b, name);
    return b;
}

static void test_what_is_noted(void) {
    uint64_t before = newest();
    nm_budget *parent = named(1000, NULL, "parent"), *child = named(1000, parent, "child");
    nm_budget *nameless = nm_budget_create(5000, parent, NULL);
    CHECK(nm_budget_charge(parent, 900) && !nm_budget_charge(child, 200) && !nm_budget_charge(nameless, 300));
    nm_budget_set_limit(nameless, 400);
    nm_budget_destroy(nameless);
    nm_budget_destroy(child);
    CHECK(nm__events_read(before, found, NM_EVENTS) == 5);
    CHECK(found[0].kind == NM__EVENT_MADE && strcmp(found[0].name, "parent") == 0 && found[0].number == before + 1);
    CHECK(found[2].kind == NM__EVENT_DENIED && strcmp(found[2].name, "parent") == 0);
    CHECK(strcmp(found[2].other, "child") == 0 && found[2].requested == 200 && found[2].used == 900);
    CHECK(found[3].requested == 300 && found[3].other[0] == 0 && found[3].detail == NM_DENIED_LIMIT);
    CHECK(found[4].kind == NM__EVENT_CLOSED && found[4].limit == 1000 && found[4].time_ns >= found[0].time_ns);
    CHECK(nm__events_read(before, found, 2) == 2 && nm__events_read(found[1].number, found, 9) == 3);
    nm_budget_destroy(parent);
}

/* Every kind with each of its figures; what an event does not have is 0. */
static void is(const nm__event *e, nm__event_kind kind, unsigned detail, const char *name, const char *other,
               const size_t figures[3]) {
    CHECK(e->kind == (uint32_t)kind && e->detail == detail && strcmp(e->name, name) == 0 && strcmp(e->other, other) == 0);
    CHECK(e->requested == figures[0] && e->used == figures[1] && e->limit == figures[2]);
    CHECK(e->thread == (uint64_t)(uintptr_t)pthread_self());
}
#define IS(event, kind, detail, name, other, ...) is(event, kind, detail, name, other, (const size_t[3]){__VA_ARGS__})

static void test_every_kind_of_event(void) {
    uint64_t before = newest();
    int64_t start = nm__os_time_ns();
    nm_budget *a = nm_budget_create(1000, NULL, &(nm_budget_options){.warn = 0.5, .critical = 0.8});
    nm__budget_introduce(a, "a");
    nm_budget *b = named(300, NULL, "b"), *leaf = named(100, a, "leaf");
    CHECK(nm_budget_charge(a, 10));
    nm_budget_set_limit(a, 900);
    nm_budget_set_limit(a, 900); /* no news */
    CHECK(nm_budget_lend(a, b, 200, 0) == NM_OK && nm_budget_lend(a, a, 5, 0) == NM_OK);
    CHECK(nm_budget_charge(a, 600));
    CHECK(!nm_budget_charge(leaf, 101) && !nm_budget_charge(leaf, 99));
    nm_budget_lock(b);
    CHECK(!nm_budget_charge(b, 1));
    nm_budget_destroy(leaf);
    nm_budget_destroy(b);
    CHECK(nm_budget_release(a, 610) == NM_OK);
    nm_budget_destroy(a);
    CHECK(nm__events_read(before, found, NM_EVENTS) == 13);
    IS(&found[0], NM__EVENT_MADE, 0, "a", "", 0, 0, 1000);
    IS(&found[1], NM__EVENT_MADE, 0, "b", "", 0, 0, 300);
    IS(&found[2], NM__EVENT_MADE, 0, "leaf", "", 0, 0, 100);
    IS(&found[3], NM__EVENT_LIMIT, 0, "a", "", 1000, 10, 900);
    IS(&found[4], NM__EVENT_LENT, 0, "a", "b", 200, 10, 700);
    IS(&found[5], NM__EVENT_PRESSURE, NM_CRITICAL, "a", "", 0, 610, 700);
    IS(&found[6], NM__EVENT_DENIED, NM_DENIED_LIMIT, "leaf", "", 101, 0, 100);
    IS(&found[7], NM__EVENT_DENIED, NM_DENIED_LIMIT, "a", "leaf", 99, 610, 700);
    IS(&found[8], NM__EVENT_LOCKED, 0, "b", "", 0, 0, 500);
    IS(&found[9], NM__EVENT_DENIED, NM_DENIED_LOCKED, "b", "", 1, 0, 500);
    IS(&found[10], NM__EVENT_CLOSED, 0, "leaf", "", 0, 0, 100);
    IS(&found[11], NM__EVENT_CLOSED, 0, "b", "", 0, 0, 500);
    IS(&found[12], NM__EVENT_CLOSED, 0, "a", "", 0, 0, 700);
    for (uint64_t i = 0; i < 13; i++) {
        CHECK(found[i].number == before + 1 + i && found[i].time_ns >= start && found[i].time_ns <= nm__os_time_ns());
        CHECK(i == 0 || found[i].time_ns >= found[i - 1].time_ns - 1000000000); /* the clock may be set */
    }
    nm_budget *crossed;
    while (nm_budget_crossed((const nm_budget **)&crossed, &(int){0}, &(bool){false})) {}
}

/* A name is cut where there is no more room, and of one with no name only the other is known. */
static void test_names_in_events(void) {
    char name[NM__EVENT_NAME + 10] = {0};
    memset(name, 'n', NM__EVENT_NAME - 1);
    uint64_t before = newest();
    nm_budget *just = named(100, NULL, name);
    name[NM__EVENT_NAME - 1] = name[NM__EVENT_NAME] = 'x';
    nm_budget *cut = named(100, NULL, name), *child = nm_budget_create(200, just, NULL);
    CHECK(!nm_budget_charge(child, 150) && !nm_budget_charge(child, 201));
    CHECK(nm__events_read(before, found, 9) == 3);
    name[NM__EVENT_NAME - 1] = 0;
    CHECK(strcmp(found[0].name, name) == 0 && strcmp(found[1].name, name) == 0 && strcmp(found[2].name, name) == 0);
    nm_budget *nameless = nm_budget_create(100, NULL, NULL), *leaf = named(200, nameless, "leaf");
    CHECK(!nm_budget_charge(leaf, 150) && nm__events_read(before, found, 9) == 5);
    IS(&found[4], NM__EVENT_DENIED, NM_DENIED_LIMIT, "leaf", "", 150, 0, 200);
    nm_budget_destroy(leaf);
    nm_budget_destroy(nameless);
    nm_budget_destroy(child);
    nm_budget_destroy(cut);
    nm_budget_destroy(just);
}

/* A ring keeps so many, whichever number one asks from; and one that a thread has begun and not written yet is not there. */
static void test_what_a_ring_keeps(void) {
    uint64_t before = newest();
    for (size_t i = 0; i < NM_EVENTS + 3; i++) nm__event_note((nm__event){.kind = NM__EVENT_ENGINE, .requested = i});
    CHECK(nm__events_read(0, found, NM_EVENTS) == NM_EVENTS && nm__events_read(before, found, NM_EVENTS) == NM_EVENTS);
    for (size_t i = 0; i < NM_EVENTS; i++) CHECK(found[i].number == before + 4 + i && found[i].requested == 3 + i);
    uint64_t last = before + NM_EVENTS + 3;
    CHECK(nm__events_read(last - NM_EVENTS, found, NM_EVENTS) == NM_EVENTS && found[0].number == last - NM_EVENTS + 1);
    CHECK(nm__events_read(last - NM_EVENTS + 1, found, NM_EVENTS) == NM_EVENTS - 1);
    CHECK(nm__events_read(last - 1, found, NM_EVENTS) == 1 && found[0].number == last);
    CHECK(nm__events_read(last, found, NM_EVENTS) == 0 && nm__events_read(last + 5, found, NM_EVENTS) == 0);
    CHECK(nm__events_read(before, found, 0) == 0);
}

static void test_a_budget_begins_anew(void) {
    nm_budget *b = named(1000, NULL, "the first of them");
    nm_denial denial;
    CHECK(nm_budget_charge(b, 800) && !nm_budget_charge(b, 300) && nm_budget_last_denial(b, &denial));
    nm_budget_release(b, 700);
    nm__budget_renew(b, "b");
    SOUND(nm_budget_check(b));
    nm_charges charges = nm_budget_charges(b);
    CHECK(nm_budget_used(b) == 100 && nm_budget_peak(b) == 100 && nm_budget_take_peak(b) == 100 && nm_budget_limit(b) == 1000);
    CHECK(nm_budget_denied(b) == 0 && !nm_budget_last_denial(b, &denial) && charges.count == 0 && charges.bytes == 0);
    uint64_t before = newest();
    CHECK(nm__events_read(before - 1, found, 1) == 1 && found[0].kind == NM__EVENT_MADE && strcmp(found[0].name, "b") == 0);
    CHECK(!nm_budget_charge(b, 901) && nm__events_read(before, found, 1) == 1 && strcmp(found[0].name, "b") == 0);
    for (int i = 0; i < 2; i++) CHECK(nm_budget_last_denial(b, &denial) && denial.requested == 901);
    nm_budget_release(b, 100);
    nm_budget_destroy(b);
}

#define WRITERS 3
static atomic_int writing;

static void *note_on(void *arg) {
    uint64_t mine = (uint64_t)(uintptr_t)arg;
    nm__event event = {.kind = NM__EVENT_LIMIT, .requested = mine, .used = mine, .limit = mine};
    memset(event.name, 'a' + (int)mine, sizeof event.name - 1);
    for (int i = 0; i < 4000; i++) nm__event_note(event);
    (void)atomic_fetch_sub(&writing, 1);
    return NULL;
}

static void test_no_event_is_mixed_of_two(void) {
    pthread_t threads[WRITERS];
    uint64_t seen = newest(), wrong = 0, read = 0;
    atomic_store(&writing, WRITERS);
    for (size_t i = 0; i < WRITERS; i++) CHECK(pthread_create(&threads[i], NULL, note_on, (void *)(i + 1)) == 0);
    for (bool last = false; !last;) {
        last = atomic_load(&writing) == 0;
        size_t count = nm__events_read(seen, found, NM_EVENTS);
        for (size_t i = 0; i < count; i++) {
            const nm__event *e = &found[i];
            bool same = e->requested == e->used && e->used == e->limit && e->number > seen;
            for (size_t c = 0; c < sizeof e->name - 1; c++) same = same && e->name[c] == 'a' + (int)e->used;
            wrong += !same;
            seen = e->number;
        }
        read += count;
    }
    for (int i = 0; i < WRITERS; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(wrong == 0 && read >= NM_EVENTS / 2 && nm__events_read(seen, found, NM_EVENTS) == 0);
    /* One that a thread wrote while the others went around the whole ring is lost: of each thread one at most. */
    size_t kept = nm__events_read(0, found, NM_EVENTS);
    CHECK(kept >= NM_EVENTS - WRITERS && found[kept - 1].number == seen);
}

static void test_charges_are_counted(void) {
    nm_budget *root = nm_budget_create(1000, NULL, NULL), *b = nm_budget_create(1000, root, NULL);
    nm_budget *leaf = nm_budget_create(100, b, NULL);
    CHECK(nm_budget_charge(root, 10) && nm_budget_charge(b, 20) && nm_budget_charge(leaf, 30) && !nm_budget_charge(leaf, 80));
    CHECK(nm_budget_release(leaf, 30) == NM_OK && nm_budget_charge(leaf, 40));
    nm_charges sum = nm_budget_charges(root), of_leaf = nm_budget_charges(leaf);
    CHECK(sum.count == 4 && sum.bytes == 100 && of_leaf.count == 2 && of_leaf.bytes == 70);
    nm_budget_destroy(leaf);
    nm_budget_destroy(b);
    sum = nm_budget_charges(root);
    CHECK(sum.count == 4 && sum.bytes == 100 && nm_budget_used(root) == 10);
    nm_budget *more[2] = {nm_budget_create(100, root, NULL), nm_budget_create(100, root, NULL)}; /* what is gone adds up */
    for (int i = 0; i < 2; i++) CHECK(nm_budget_charge(more[i], 5) && nm_budget_charge(more[i], 6));
    for (int i = 0; i < 2; i++) nm_budget_destroy(more[i]);
    sum = nm_budget_charges(root);
    CHECK(sum.count == 8 && sum.bytes == 122 && nm_budget_used(root) == 10);
    nm_budget_destroy(root);
}

static void *rise(void *arg) {
    nm_budget *b = arg;
    for (int i = 0; i < 20000; i++) CHECK(nm_budget_charge(b, 7) && nm_budget_release(b, 7) == NM_OK);
    (void)atomic_fetch_sub(&writing, 1);
    return NULL;
}

/* Whatever takes the recent peak meanwhile: the peak for life is there, and none is above it. */
static void test_a_peak_is_taken_while_others_charge(void) {
    nm_budget *b = nm_budget_create(1000, NULL, NULL);
    pthread_t threads[2];
    size_t most = 0;
    atomic_store(&writing, 2);
    for (int i = 0; i < 2; i++) CHECK(pthread_create(&threads[i], NULL, rise, b) == 0);
    while (atomic_load(&writing) != 0) {
        size_t peak = nm_budget_take_peak(b);
        if (peak > most) most = peak;
    }
    for (int i = 0; i < 2; i++) CHECK(pthread_join(threads[i], NULL) == 0);
    CHECK(most <= 14 && nm_budget_peak(b) <= 14 && nm_budget_peak(b) >= 7 && nm_budget_check(b) == NULL);
    (void)nm_budget_take_peak(b);
    CHECK(nm_budget_take_peak(b) == 0 && nm_budget_charge(b, 5) && nm_budget_take_peak(b) == 5 &&
          nm_budget_charges(b).count == 40001);
    CHECK(nm_budget_release(b, 5) == NM_OK && nm_budget_take_peak(b) == 5 && nm_budget_take_peak(b) == 0);
    nm_budget_destroy(b);
}

int main(void) {
    RUN(test_what_is_noted());
    RUN(test_every_kind_of_event());
    RUN(test_names_in_events());
    RUN(test_what_a_ring_keeps());
    RUN(test_a_budget_begins_anew());
    RUN(test_no_event_is_mixed_of_two());
    RUN(test_charges_are_counted());
    RUN(test_a_peak_is_taken_while_others_charge());
    return finish();
}
