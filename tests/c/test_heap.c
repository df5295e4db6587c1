/* What the port does not show of heap and region: bins, spans, decay, threads, fork, the limit. */
#define _POSIX_C_SOURCE 200809L
#include <pthread.h>
#include <sched.h>
#include <sys/wait.h>
#include <unistd.h>

#include "heap/heap.h"
#include "locks.h"
#include "harness.h"
#include "nativemem.h"

#define PAGE NM_SUPERBLOCK
/* What a first block of a size is charged with. */
#define STEP (nm__region_os_page > NM_HEAP_CHARGED_AT_ONCE ? nm__region_os_page : (size_t)NM_HEAP_CHARGED_AT_ONCE)
#define LONG_DECAY 1000000U /* ms: nothing decays within a test unless it says so */

static void sound(nm_heap *h) {
    SOUND(nm_heap_check(h));
    SOUND(nm__region_check());
}
static size_t held(nm_heap *h) {
    nm_census c;
    nm_heap_census(h, &c);
    return c.held;
}

static void test_bins(void) {
    size_t last = 1;
    for (size_t size = 1; size <= NM_CELL_MAX; size++) {
        size_t bin = nm__bin_of(size);
        CHECK(bin == last || bin == last + 1);
        CHECK(bin < NM__BINS && nm_bin_size((unsigned)bin) >= size && nm_bin_size((unsigned)bin - 1) < size);
        CHECK(size % 64 != 0 || nm_bin_size((unsigned)bin) % 64 == 0); /* arrays begin at cache lines */
        last = bin;
    }
    CHECK(last == NM__BINS - 1 && nm_bin_size(NM__BINS) == 0 && nm_bin_size(NM_BINS) == 0);
    for (unsigned bin = 1; bin < NM__BINS; bin++) {
        size_t cell = nm_bin_size(bin), whole = cell <= 8192 ? NM_SUPERBLOCK : NM_SUPERBLOCK_LARGE;
        CHECK(cell % 16 == 0 && whole / cell >= 8 && whole % cell < whole / 40);
    }
    nm_heap *h = nm_heap_create(NULL, false);
    CHECK(nm_heap_usable(h, 0, 16) == 0 && nm_heap_usable(h, NM_CELL_MAX + 1, 16) == NM_CELL_MAX + NM_PAGE);
    CHECK(nm_heap_usable(h, 100, 4096) == 4096 && nm_heap_usable(h, 9000, 4096) == 16384);
    nm_heap_destroy(h);
}

static void test_span_reuse_and_merging(void) {
    nm_heap *h = nm_heap_create(NULL, false);
    nm_region_trim();
    size_t dirty = nm_region_dirty();
    char *a = nm_heap_malloc(h, 10 * PAGE), *b = nm_heap_malloc(h, 20 * PAGE), *c = nm_heap_malloc(h, 30 * PAGE);
    CHECK(b == a + 10 * PAGE && c == b + 20 * PAGE && held(h) == 60 * PAGE);
    memset(a, 1, 10 * PAGE), memset(b, 1, 20 * PAGE), memset(c, 1, 30 * PAGE);
    sound(h);
    nm_heap_free(h, a);
    nm_heap_free(h, c);
    sound(h);
    nm_heap_free(h, b); /* joins both */
    sound(h);
    CHECK(nm_region_dirty() == dirty + 60 * PAGE);
    char *whole = nm_heap_malloc(h, 60 * PAGE);
    CHECK(whole == a && nm_region_dirty() == dirty);
    nm_heap_free(h, whole);
    char *part = nm_heap_malloc(h, 7 * PAGE);
    CHECK(part == a && nm_region_dirty() == dirty + 53 * PAGE);
    sound(h);
    nm_heap_free(h, part);
    nm_region_trim();
    CHECK(nm_region_dirty() == 0);
    sound(h);
    nm_heap_destroy(h);
}

static void test_realloc(void) {
    nm_heap *h = nm_heap_create(NULL, false);
    char *span = nm_heap_malloc(h, 4 * PAGE);
    fill(span, 4 * PAGE, 9);
    char *shrunk = nm_heap_realloc(h, span, 2 * PAGE);
    CHECK(shrunk == span && held(h) == 2 * PAGE && nm_heap_usable_of(span) == 2 * PAGE);
    char *grown = nm_heap_realloc(h, span, 3 * PAGE); /* into what it just gave back */
    CHECK(grown == span && held(h) == 3 * PAGE && filled(span, 2 * PAGE, 9));
    sound(h);
    char *fence = nm_heap_malloc(h, PAGE + 1);
    char *cell = nm_heap_realloc(h, grown, 1000);
    CHECK(nm_heap_usable_of(cell) == 1008 && filled(cell, 1000, 9));
    CHECK(nm_heap_realloc(h, cell, 1008) == cell && nm_heap_realloc(h, cell, 757) == cell);
    cell = nm_heap_realloc(h, cell, 756); /* a quarter is too much to leave over */
    CHECK(nm_heap_usable_of(cell) == 768 && filled(cell, 756, 9));
    CHECK(nm_heap_realloc(h, cell, 600) == cell);
    char *back = nm_heap_realloc(h, cell, 5 * PAGE);
    CHECK(filled(back, 600, 9));
    uint64_t seed = 99;
    size_t size = 5 * PAGE;
    fill(back, size, 4);
    for (int i = 0; i < 2000; i++) {
        size_t next = 1 + below(&seed, i % 2 ? 400000 : 3000);
        back = nm_heap_realloc(h, back, next);
        CHECK(filled(back, size < next ? size : next, 4));
        fill(back, next, 4);
        size = next;
        if (i % 100 == 0) sound(h);
    }
    nm_heap_free(h, back);
    nm_heap_free(h, fence);
    sound(h);
    nm_heap_destroy(h);
    SOUND(nm__region_check());
}

/* A block that shrinks goes to a smaller cell if there is one: where there is none nothing was denied. */
static void test_shrinking_is_not_denied(void) {
    nm_budget *b = nm_budget_create(STEP, NULL, NULL);
    nm_heap *h = nm_heap_create(b, false);
    nm_allocator port = nm_heap_port(h);
    char *cell = nm_heap_malloc(h, 1000), *left = NULL;
    fill(cell, 1000, 9);
    for (size_t to = 700; to > 0; to /= 2) {
        CHECK(nm_heap_realloc(h, cell, to) == cell && filled(cell, to, 9));
        CHECK(nm_heap_realloc(h, cell, 0) == cell);
    }
    nm_stats s;
    port.methods->stats(port.self, &s);
    CHECK(nm_budget_denied(b) == 0 && s.failures == 0);
    CHECK((left = nm_heap_malloc(h, 300)) == NULL && nm_budget_denied(b) != 0);
    nm_budget_set_limit(b, 2 * STEP);
    CHECK((left = nm_heap_malloc(h, 300)) != NULL);
    char *moved = nm_heap_realloc(h, cell, 300);
    CHECK(moved != cell && nm_heap_of(moved) == h);
    nm_heap_free(h, moved);
    nm_heap_free(h, left);
    nm_heap_destroy(h);
    nm_budget_destroy(b);
}

static void test_usable(void) {
    nm_heap *h = nm_heap_create(NULL, false);
    nm_allocator port = nm_heap_port(h);
    for (size_t align = 1; align <= NM_ALIGN_MAX; align *= 2) {
        for (unsigned i = 3; i < 3 * NM__BINS; i++) {
            size_t size = nm_bin_size(i / 3) + i % 3 - 1; /* each edge from both sides */
            void *ptr = nm_alloc(port, size, align);
            CHECK(nm_heap_usable_of(ptr) == nm_heap_usable(h, size, align));
            CHECK(nm_free(port, ptr, size, align) == NM_OK);
        }
    }
    nm_heap_destroy(h);
}

static void test_calloc_on_used_memory(void) {
    nm_heap *h = nm_heap_create(NULL, false);
    for (size_t size = 1; size < 40 << 20; size = size * 5 + 3) {
        for (int i = 0; i < 3; i++) {
            unsigned char *dirty = nm_heap_malloc(h, size);
            memset(dirty, 0xFF, size);
            nm_heap_free(h, dirty);
            unsigned char *zero = nm_heap_calloc(h, 1, size);
            size_t bad = 0;
            for (size_t k = 0; k < size; k++) bad += zero[k] != 0;
            CHECK(bad == 0);
            memset(zero, 0xFF, size);
            nm_heap_free(h, zero);
        }
    }
    CHECK(nm_heap_calloc(h, SIZE_MAX / 2, 3) == NULL && nm_heap_malloc(h, SIZE_MAX) == NULL);
    nm_failure f = nm_last_failure();
    CHECK(f.status == NM_INVALID_LAYOUT && f.requested == SIZE_MAX && f.used == 0 && f.limit == 0);
    unsigned char *huge = nm_heap_malloc(h, NM_OWN_MAPPING + 1);
    huge[0] = huge[NM_OWN_MAPPING] = 7;
    size_t dirty = nm_region_dirty();
    nm_heap_free(h, huge); /* goes back at once */
    CHECK(nm_region_dirty() == dirty);
    sound(h);
    nm_heap_destroy(h);
}

static void test_retain_and_decay(void) {
    nm_heap *h = nm_heap_create(NULL, false);
    nm_region_trim();
    CHECK(nm_region_init(0, 20 * PAGE, LONG_DECAY) == NM_OK); /* later calls set retain and decay */
    void *spans[40], *fences[40];
    for (int i = 0; i < 40; i++) spans[i] = nm_heap_malloc(h, PAGE), fences[i] = nm_heap_malloc(h, PAGE);
    for (int i = 0; i < 40; i++) nm_heap_free(h, spans[i]);
    CHECK(nm_region_dirty() == 20 * PAGE); /* the rest went back as it came */
    sound(h);
    CHECK(nm_region_init(0, (size_t)1 << 30, 0) == NM_OK); /* a decay time of nothing */
    for (int i = 0; i < 40; i++) nm_heap_free(h, fences[i]);
    CHECK(nm_region_dirty() <= 4 * PAGE);
    sound(h);
    CHECK(nm_region_init(0, (size_t)1 << 30, LONG_DECAY) == NM_OK);
    for (int i = 0; i < 40; i++) spans[i] = nm_heap_malloc(h, PAGE), fences[i] = nm_heap_malloc(h, PAGE);
    for (int i = 0; i < 39; i++) nm_heap_free(h, spans[i]);
    size_t dirty = nm_region_dirty();
    CHECK(nm_region_init(0, (size_t)1 << 30, 0) == NM_OK);
    nm_heap_free(h, spans[39]); /* no call pays for more than four */
    CHECK(nm_region_dirty() == dirty + PAGE - 4 * PAGE);
    CHECK(nm_region_init(0, (size_t)1 << 30, LONG_DECAY) == NM_OK);
    spans[0] = nm_heap_malloc(h, PAGE);
    dirty = nm_region_dirty();
    CHECK(dirty > 8 * PAGE &&
          nm_region_init(0, (size_t)1 << 30, 1) == NM_OK); /* counts from now, not from the long one's end */
    for (uint64_t from = nm__os_now_ms(); nm__os_now_ms() - from < 60;) continue;
    nm_heap_free(h, spans[0]);
    CHECK(nm_region_dirty() < dirty);
    CHECK(nm_region_init(0, (size_t)64 << 20, LONG_DECAY) == NM_OK);
    nm_heap_destroy(h);
}

static void test_empty_superblocks_go_back(void) {
    nm_heap *h = nm_heap_create(NULL, false);
    enum { N = 20000 };
    static void *blocks[N];
    for (int i = 0; i < N; i++) blocks[i] = nm_heap_malloc(h, 100);
    CHECK(held(h) >= N * 112 / PAGE * PAGE);
    for (int i = 0; i < N; i++) nm_heap_free(h, blocks[(i * 7919) % N]);
    CHECK(held(h) <= PAGE); /* the one that takes allocations */
    sound(h);
    CHECK(nm_region_dirty() > 0);
    nm_heap_trim(h);
    CHECK(held(h) == 0 && nm_region_dirty() == 0);
    nm_heap_destroy(h);
}

static void test_what_is_no_block(void) {
    nm_heap *h = nm_heap_create(NULL, false);
    char *fence = nm_heap_malloc(h, PAGE), *span = nm_heap_malloc(h, 3 * PAGE), *behind = nm_heap_malloc(h, PAGE);
    CHECK(nm_heap_free(h, span + PAGE) == NM_FOREIGN_BLOCK && nm_last_failure().status == NM_FOREIGN_BLOCK);
    CHECK(nm_heap_free(h, span) == NM_OK);
    CHECK(nm_heap_free(h, span) == NM_FOREIGN_BLOCK && nm_heap_free(h, span + 2 * PAGE) == NM_FOREIGN_BLOCK);
    sound(h);
    CHECK(held(h) == 2 * PAGE);
    CHECK(nm_heap_free(h, fence) == NM_OK && nm_heap_free(h, behind) == NM_OK);
    nm_heap_destroy(h);
}

typedef struct worker {
    nm_heap *heap;
    void **blocks;
    int n;
    unsigned seed;
} worker;

static void *allocate(void *arg) {
    worker *w = arg;
    for (int i = 0; i < w->n; i++) fill(w->blocks[i] = nm_heap_malloc(w->heap, 50 + (size_t)(i % 500)), 50, w->seed);
    return NULL;
}
static void *release(void *arg) {
    worker *w = arg;
    for (int i = 0; i < w->n; i++) {
        CHECK(filled(w->blocks[i], 50, w->seed));
        nm_heap_free(w->heap, w->blocks[i]);
    }
    return NULL;
}
static void in_thread(void *(*run)(void *), worker *w) {
    pthread_t thread;
    pthread_create(&thread, NULL, run, w);
    pthread_join(thread, NULL);
}

static void test_blocks_outlive_their_thread(void) {
    nm_heap *h = nm_heap_create(NULL, false);
    enum { N = 5000 };
    static void *blocks[N];
    worker w = {h, blocks, N, 1};
    size_t first = 0;
    for (int round = 0; round < 10; round++) {
        in_thread(allocate, &w);
        sound(h);
        in_thread(release, &w); /* from a third thread: collected for the one that is gone */
        sound(h);
        nm_census c;
        nm_heap_census(h, &c);
        if (round == 0) first = c.held_peak;
        CHECK(c.held == 0);
        CHECK(c.threads <= 2 && c.held_peak <= first + 2 * PAGE * NM__BINS);
    }
    in_thread(allocate, &w);
    release(&w); /* this thread takes over what is abandoned, and keeps the superblocks that serve next */
    sound(h);
    nm_heap_trim(h);
    CHECK(held(h) == 0);
    sound(h);
    nm_heap_destroy(h);
}

/* Of a thread that is gone, freed by one that has a part of its own: each block goes back to where it came from. */
static void test_frees_into_an_abandoned_part(void) {
    nm_heap *h = nm_heap_create(NULL, false);
    enum { N = 4000 };
    static void *blocks[N];
    worker w = {h, blocks, N, 6};
    void *mine = nm_heap_malloc(h, 5000);
    size_t own = held(h);
    in_thread(allocate, &w);
    CHECK(held(h) > own);
    for (int i = 0; i < N; i++) {
        CHECK(filled(blocks[i], 50, 6));
        nm_heap_free(h, blocks[i]);
        if (i % 100 == 0) sound(h);
    }
    nm_census c;
    nm_heap_census(h, &c);
    CHECK(c.held == own && c.threads == 2);
    in_thread(allocate, &w); /* takes the part over */
    in_thread(release, &w);
    nm_heap_census(h, &c);
    CHECK(c.held == own && c.threads == 2);
    nm_heap_free(h, mine);
    sound(h);
    nm_heap_destroy(h);
}

/* The same by several at once: one of them collects, the others leave their blocks to it. */
typedef struct share {
    worker w;
    void *own;
} share;
static pthread_barrier_t start;
static void *free_a_share(void *arg) {
    share *s = arg;
    s->own = nm_heap_malloc(s->w.heap, 5000); /* a part of its own, so that it takes over no other */
    pthread_barrier_wait(&start);             /* which stands until all blocks are there */
    pthread_barrier_wait(&start);
    release(&s->w);
    nm_heap_free(s->w.heap, s->own);
    return NULL;
}
static void test_many_free_into_an_abandoned_part(void) {
    enum { N = 8000, THREADS = 4, ROUNDS = 20 };
    static void *blocks[N];
    nm_heap *h = nm_heap_create(NULL, false);
    worker w = {h, blocks, N, 2};
    pthread_barrier_init(&start, NULL, THREADS + 1);
    for (int round = 0; round < ROUNDS; round++) {
        pthread_t threads[THREADS];
        share shares[THREADS];
        for (int i = 0; i < THREADS; i++) {
            shares[i].w = (worker){h, blocks + i * (N / THREADS), N / THREADS, 2};
            pthread_create(&threads[i], NULL, free_a_share, &shares[i]);
        }
        pthread_barrier_wait(&start);
        in_thread(allocate, &w);
        pthread_barrier_wait(&start);
        for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
        sound(h);
        CHECK(held(h) == 0);
    }
    pthread_barrier_destroy(&start);
    nm_heap_destroy(h);
}

/* Threads that end while others free their blocks: a block is handed on before its maker is gone. */
enum { RELAYS = 400, RELAYED = 300 };
typedef struct relay {
    nm_heap *heap;
    void *_Atomic *from, *_Atomic *to;
    unsigned number;
} relay;
static void *run_relay(void *arg) {
    relay *r = arg;
    for (int i = 0; i < RELAYED; i++) {
        if (r->from != NULL) {
            void *old;
            while ((old = atomic_load(&r->from[i])) == NULL) sched_yield();
            CHECK(filled(old, 40, r->number - 1));
            nm_heap_free(r->heap, old);
        }
        void *block = nm_heap_malloc(r->heap, 40 + (size_t)(i % 7) * 300);
        fill(block, 40, r->number);
        atomic_store(&r->to[i], block);
    }
    return NULL;
}
static void test_threads_end_while_others_free(void) {
    static void *_Atomic blocks[RELAYS][RELAYED];
    static relay relays[RELAYS];
    pthread_t threads[RELAYS];
    nm_heap *h = nm_heap_create(NULL, false);
    enum { ALIVE = 4 };
    for (int i = 0; i < RELAYS; i++) {
        if (i >= ALIVE) pthread_join(threads[i - ALIVE], NULL);
        relays[i] = (relay){h, i == 0 ? NULL : blocks[i - 1], blocks[i], (unsigned)i};
        pthread_create(&threads[i], NULL, run_relay, &relays[i]);
    }
    for (int i = RELAYS - ALIVE; i < RELAYS; i++) pthread_join(threads[i], NULL);
    for (int i = 0; i < RELAYED; i++) nm_heap_free(h, blocks[RELAYS - 1][i]);
    sound(h);
    nm_census c;
    nm_heap_census(h, &c);
    CHECK(c.threads <= 2 * ALIVE + 1); /* more than ALIVE only where frees kept abandoned parts busy */
    nm_heap_trim(h);
    CHECK(held(h) == 0);
    nm_heap_destroy(h);
}

/* Destructors of other thread-specific data run after ours too, and may allocate and free. */
static nm_heap *late_heap;
static int late_rounds;
static pthread_key_t late_key;
static void late_destructor(void *block) {
    for (int i = 0; i < NM__TLS_SLOTS; i++) CHECK(nm__theaps[i] == &nm__no_theap);
    CHECK(filled(block, 70, 8));
    nm_heap_free(late_heap, block);
    nm_heap_free(late_heap, nm_heap_malloc(late_heap, 900));
    if (late_rounds++ % 2 == 0) {
        fill(block = nm_heap_malloc(late_heap, 70), 70, 8);
        pthread_setspecific(late_key, block); /* once more */
    }
}
static void *leave_late(void *unused) {
    (void)unused;
    void *block = nm_heap_malloc(late_heap, 70);
    fill(block, 70, 8);
    pthread_setspecific(late_key, block);
    return NULL;
}
static void test_use_while_the_thread_ends(void) {
    late_heap = nm_heap_create(NULL, false);
    CHECK(pthread_key_create(&late_key, late_destructor) == 0);
    for (int i = 0; i < 20; i++) {
        pthread_t thread;
        pthread_create(&thread, NULL, leave_late, NULL);
        pthread_join(thread, NULL);
        sound(late_heap);
    }
    CHECK(late_rounds == 40);
    nm_census c;
    nm_heap_census(late_heap, &c);
    CHECK(c.threads == 1); /* each thread took over the part of the one before */
    pthread_key_delete(late_key);
    nm_heap_destroy(late_heap);
}

/* Blocks travel from the part that is read last to the one that is read first. */
static nm_allocator watched;
static atomic_bool watching;
static void *_Atomic traveller;
static pthread_barrier_t seats;
static void *take_a_part(void *unused) {
    (void)unused;
    (void)nm_free(watched, nm_alloc(watched, 10, 16), 10, 16);
    pthread_barrier_wait(&seats);
    pthread_barrier_wait(&seats);
    return NULL;
}
static void *send(void *unused) {
    (void)unused;
    (void)nm_free(watched, nm_alloc(watched, 10, 16), 10, 16);
    pthread_barrier_wait(&seats);
    while (atomic_load(&watching))
        if (atomic_load(&traveller) == NULL) atomic_store(&traveller, nm_alloc(watched, 4096, 16));
    pthread_barrier_wait(&seats);
    return NULL;
}
static void *receive(void *unused) {
    (void)unused;
    (void)nm_free(watched, nm_alloc(watched, 10, 16), 10, 16);
    pthread_barrier_wait(&seats);
    while (atomic_load(&watching)) {
        void *block = atomic_exchange(&traveller, NULL);
        if (block != NULL) (void)nm_free(watched, block, 4096, 16);
    }
    pthread_barrier_wait(&seats);
    return NULL;
}
static void test_stats_from_another_thread(void) {
    enum { BETWEEN = 30, READS = 300000 };
    nm_heap *h = nm_heap_create(NULL, false);
    watched = nm_heap_port(h);
    atomic_store(&watching, true);
    pthread_barrier_init(&seats, NULL, BETWEEN + 3);
    pthread_t threads[BETWEEN + 2];
    nm_stats s;
    for (int i = 0; i < BETWEEN + 2; i++) {
        void *(*run)(void *) = i == 0 ? receive : i == BETWEEN + 1 ? send : take_a_part;
        pthread_create(&threads[i], NULL, run, NULL);
        do { /* one after the other: parts are read in the order of their making */
            sched_yield();
            watched.methods->stats(watched.self, &s);
        } while (s.frees <= (size_t)i);
    }
    pthread_barrier_wait(&seats);
    int wrong = 0;
    for (int i = 0; i < READS; i++) {
        watched.methods->stats(watched.self, &s);
        wrong += s.used > (size_t)1 << 40 || s.peak > (size_t)1 << 40 || s.live > (size_t)1 << 40;
    }
    CHECK(wrong == 0);
    atomic_store(&watching, false);
    pthread_barrier_wait(&seats);
    for (int i = 0; i < BETWEEN + 2; i++) pthread_join(threads[i], NULL);
    void *left = atomic_load(&traveller);
    if (left != NULL) (void)nm_free(watched, left, 4096, 16);
    watched.methods->stats(watched.self, &s);
    CHECK(s.used == 0 && s.live == 0);
    pthread_barrier_destroy(&seats);
    sound(h);
    nm_heap_destroy(h);
}

enum { RING = 512, PRODUCED = 60000 };
static _Atomic(void *) ring[RING];
static void *produce(void *arg) {
    worker *w = arg;
    uint64_t seed = 7;
    for (int i = 0; i < PRODUCED; i++) {
        size_t size = 16 + below(&seed, i % 50 == 0 ? 100000 : 800);
        char *block = nm_heap_malloc(w->heap, size);
        memcpy(block, &size, sizeof size);
        memset(block + sizeof size, (int)(size & 0x7F), size - sizeof size);
        while (atomic_exchange(&ring[i % RING], NULL) != NULL) {
        } /* never: the consumer takes what is there before it comes round */
        atomic_store(&ring[i % RING], block);
        while (i % RING == RING - 1 && atomic_load(&ring[RING - 1]) != NULL) sched_yield();
    }
    return NULL;
}
static void *consume(void *arg) {
    worker *w = arg;
    for (int i = 0; i < PRODUCED; i++) {
        char *block;
        while ((block = atomic_exchange(&ring[i % RING], NULL)) == NULL) sched_yield();
        size_t size;
        memcpy(&size, block, sizeof size);
        int good = block[size - 1] == (char)(size & 0x7F) && block[sizeof size] == (char)(size & 0x7F);
        if (size > sizeof size) CHECK(good);
        nm_heap_free(w->heap, block);
    }
    return NULL;
}
static void test_producer_and_consumer(void) {
    nm_heap *h = nm_heap_create(NULL, false);
    worker w = {h, NULL, 0, 0};
    pthread_t producer, consumer;
    pthread_create(&producer, NULL, produce, &w);
    pthread_create(&consumer, NULL, consume, &w);
    pthread_join(producer, NULL);
    pthread_join(consumer, NULL);
    CHECK(held(h) == 0);
    sound(h);
    nm_heap_destroy(h);
}

static void *churn(void *arg) {
    worker *w = arg;
    enum { SLOTS = 300 };
    struct {
        char *ptr;
        size_t size;
    } slots[SLOTS] = {0};
    uint64_t seed = 1000 + w->seed;
    for (int step = 0; step < 30000; step++) {
        size_t i = below(&seed, SLOTS);
        if (slots[i].ptr != NULL) {
            CHECK(filled(slots[i].ptr, slots[i].size < 64 ? slots[i].size : 64, (unsigned)i));
            nm_heap_free(w->heap, slots[i].ptr);
            slots[i].ptr = NULL;
        } else {
            slots[i].size = 1 + below(&seed, step % 200 == 0 ? 300000 : 1500);
            slots[i].ptr = nm_heap_malloc(w->heap, slots[i].size);
            fill(slots[i].ptr, slots[i].size < 64 ? slots[i].size : 64, (unsigned)i);
        }
    }
    for (int i = 0; i < SLOTS; i++)
        if (slots[i].ptr != NULL) nm_heap_free(w->heap, slots[i].ptr);
    return NULL;
}
static void test_several_heaps_and_threads(void) {
    enum { HEAPS = 10, THREADS = 4 }; /* more heaps than a thread has slots for */
    nm_heap *h[HEAPS];
    for (int i = 0; i < HEAPS; i++) h[i] = nm_heap_create(NULL, false);
    pthread_t threads[THREADS];
    worker workers[THREADS];
    for (int i = 0; i < THREADS; i++) {
        workers[i] = (worker){h[i / 2], NULL, 0, (unsigned)i};
        pthread_create(&threads[i], NULL, churn, &workers[i]);
    }
    void *blocks[HEAPS * 50];
    for (int i = 0; i < HEAPS * 50; i++) fill(blocks[i] = nm_heap_malloc(h[i % HEAPS], 40), 40, (unsigned)i);
    for (int i = 0; i < HEAPS * 50; i++) CHECK(filled(blocks[i], 40, (unsigned)i));
    for (int i = 0; i < THREADS; i++) pthread_join(threads[i], NULL);
    nm_allocator first = nm_heap_port(h[0]);
    CHECK(nm_free(first, blocks[1], 40, 16) == NM_FOREIGN_BLOCK && nm_free(first, blocks, 40, 16) == NM_FOREIGN_BLOCK);
    for (int i = 0; i < HEAPS; i++) {
        nm_census c;
        nm_heap_census(h[i], &c);
        CHECK(i < 2 ? c.threads <= 3 : c.threads == 1); /* a thread finds its part again after another heap took the slot */
        sound(h[i]);
        nm_heap_destroy(h[i]); /* with live blocks */
    }
    SOUND(nm__region_check());
}

/* What is held back is for overdrafts: a heap does not get it. */
static void test_limit_and_reserve(void) {
    nm_budget *b = nm_budget_create(32 * PAGE, NULL, NULL);
    nm_heap *h = nm_heap_create(b, false);
    nm__budget_hold_back(b, 4 * PAGE);
    void *spans[40];
    int n = 0;
    while (n < 40 && (spans[n] = nm_heap_malloc(h, PAGE)) != NULL) n++;
    CHECK(n == 28 && nm_last_failure().status == NM_OVER_BUDGET && nm_budget_denied(b) == 1);
    CHECK(nm_last_failure().limit == 32 * PAGE && nm_budget_pressure(b) == NM_FULL);
    CHECK(nm_heap_malloc(h, 10) == NULL && nm_heap_calloc(h, 1, 10) == NULL);
    CHECK(nm_heap_realloc(h, spans[0], 2 * PAGE) == NULL && nm_heap_realloc(h, spans[0], 100) == spans[0]);
    CHECK(nm_budget_denied(b) == 4);
    CHECK(nm__heap_try(h, 10) == NULL && nm__heap_try(h, PAGE) == NULL && nm__heap_try_calloc(h, 10) == NULL);
    CHECK(nm__heap_try_realloc(h, spans[0], 2 * PAGE) == NULL && nm_last_failure().status == NM_OVER_BUDGET);
    CHECK(nm_budget_denied(b) == 4); /* only asked */
    CHECK(nm__budget_overdraw(b, 4 * PAGE) && !nm__budget_overdraw(b, 1)); /* to the last byte */
    CHECK(nm_budget_used(b) == 32 * PAGE && nm__budget_left(b) == -(int64_t)(4 * PAGE));
    nm__budget_settle(b);
    SOUND(nm_budget_check(b));
    nm_heap_free(h, spans[--n]);
    CHECK(nm_heap_malloc(h, 10) == NULL); /* what comes back fills the overdraft first */
    CHECK(nm_budget_release(b, 4 * PAGE) == NM_OK && (spans[n++] = nm_heap_malloc(h, PAGE)) != NULL);
    sound(h);
    while (n > 0) nm_heap_free(h, spans[--n]);
    CHECK(nm_budget_used(b) == 0 && nm_heap_malloc(h, 10) != NULL);
    sound(h);
    nm_heap_destroy(h);
    CHECK(nm_budget_used(b) == 0);
    nm_budget_destroy(b);
}

/* The region has less than the budget allows: no peak, no denial. */
static void test_a_refused_block_leaves_no_trace(void) {
    nm_budget *b = nm_budget_create(SIZE_MAX, NULL, NULL);
    nm_heap *h = nm_heap_create(b, false);
    char *kept = nm_heap_malloc(h, 3 * PAGE), *fence = nm_heap_malloc(h, PAGE);
    fill(kept, 3 * PAGE, 2);
    const size_t huge[] = {NM_SIZE_MAX / 2, NM_SIZE_MAX / 2 - PAGE, (size_t)1 << 60, nm_region_size() + 1};
    for (size_t i = 0; i < sizeof huge / sizeof *huge; i++) {
        CHECK(nm_heap_malloc(h, huge[i]) == NULL && nm_last_failure().status == NM_OUT_OF_MEMORY);
        CHECK(nm_heap_realloc(h, kept, huge[i]) == NULL && nm_heap_calloc(h, 1, huge[i]) == NULL);
    }
    nm_census c;
    nm_heap_census(h, &c);
    CHECK(c.held == 4 * PAGE && c.held_peak == 4 * PAGE && c.live_span_bytes == 4 * PAGE);
    CHECK(nm_budget_used(b) == 4 * PAGE && nm_budget_peak(b) == 4 * PAGE && nm_budget_denied(b) == 0);
    CHECK(filled(kept, 3 * PAGE, 2));
    nm_heap_free(h, fence);
    CHECK(nm_budget_used(b) == 3 * PAGE && nm_budget_peak(b) == 4 * PAGE);
    sound(h);
    nm_heap_destroy(h);
    nm_budget_destroy(b);
}

static void *release_half(void *arg) {
    worker *w = arg;
    for (int i = 0; i < w->n; i += 2) nm_heap_free(w->heap, w->blocks[i]);
    return NULL;
}
/* Without a trim: a thread looks at its queue before it takes another superblock. */
static void test_what_others_freed_is_used_again(void) {
    nm_heap *h = nm_heap_create(NULL, false);
    enum { N = 6000 };
    static void *blocks[N];
    worker w = {h, blocks, N, 1};
    size_t most = 0;
    for (int round = 0; round < 5; round++) {
        allocate(&w);
        if (round == 0) most = held(h);
        in_thread(release, &w);
        CHECK(held(h) == most);
        sound(h);
    }
    allocate(&w);
    in_thread(release, &w);
    nm_heap_trim(h); /* looks too */
    CHECK(held(h) == 0);
    sound(h);
    nm_heap_destroy(h);
}

/* A full superblock is not looked at for each cell that comes back to it, but before anything is refused. */
static void test_a_few_cells_of_many_superblocks(void) {
    enum { SUPERBLOCKS = 8, EACH = PAGE / 64, ALL = SUPERBLOCKS * EACH, APART = 100, GONE = ALL / APART };
    nm_budget *b = nm_budget_create(SUPERBLOCKS * PAGE, NULL, NULL);
    nm_heap *h = nm_heap_create(b, false);
    static void *blocks[ALL];
    for (size_t i = 0; i < ALL; i++) CHECK((blocks[i] = nm_heap_malloc(h, 64)) != NULL);
    CHECK(nm_heap_malloc(h, 64) == NULL && nm_budget_denied(b) == 1);
    for (size_t round = 0; round < 3; round++) {
        for (size_t i = 0; i < GONE; i++) CHECK(nm_heap_free(h, blocks[i * APART]) == NM_OK);
        sound(h);
        for (size_t i = 0; i < GONE; i++) CHECK((blocks[i * APART] = nm_heap_malloc(h, 64)) != NULL);
        sound(h);
        CHECK(nm_budget_denied(b) == 1 && nm_budget_used(b) == SUPERBLOCKS * PAGE);
    }
    CHECK(nm_heap_malloc(h, 64) == NULL && nm_budget_denied(b) == 2);
    CHECK(nm_heap_free(h, blocks[0]) == NM_OK && nm_heap_malloc(h, 80) == NULL && nm_budget_denied(b) == 3);
    CHECK((blocks[0] = nm_heap_malloc(h, 64)) != NULL);
    /* one whose cells all come back goes back whole */
    for (size_t i = 0; i < ALL; i++) CHECK(nm_heap_free(h, blocks[i]) == NM_OK);
    sound(h);
    CHECK(nm_budget_used(b) <= PAGE);
    nm_heap_destroy(h);
    nm_budget_destroy(b);
}

/* Of superblocks that wait the fullest serve first, whatever the order in which they came to wait. */
static void test_the_fullest_serve_first(void) {
    enum { SUPERBLOCKS = 5, EACH = PAGE / 64, ALL = SUPERBLOCKS * EACH };
    static const size_t free_of[][SUPERBLOCKS] = {{98, 65, 80, 40, 0}, {40, 65, 80, 98, 0}, {80, 98, 40, 65, 0}}; /* % */
    static void *blocks[SUPERBLOCKS][EACH];
    nm_heap *h = nm_heap_create(NULL, false);
    for (size_t round = 0; round < 3; round++) {
        for (size_t s = 0; s < SUPERBLOCKS; s++) /* the last one becomes the head */
            for (size_t i = 0; i < EACH; i++) CHECK((blocks[s][i] = nm_heap_malloc(h, 64)) != NULL);
        for (size_t i = 0; i < EACH; i++) /* all at once, so that each comes to wait on every list on its way */
            for (size_t s = 0; s < SUPERBLOCKS; s++)
                if (i < EACH * free_of[round][s] / 100) CHECK(nm_heap_free(h, blocks[s][i]) == NM_OK);
        sound(h);
        static const size_t fullest[] = {40, 65, 80, 98};
        for (size_t turn = 0; turn < 4; turn++) {
            size_t most = fullest[turn], s = 0;
            while (free_of[round][s] != most) s++;
            for (size_t i = 0; i < EACH * most / 100; i++) {
                CHECK((blocks[s][i] = nm_heap_malloc(h, 64)) != NULL);
                CHECK(nm__superblock_of(blocks[s][i]) == nm__superblock_of(blocks[s][EACH - 1]));
            }
            sound(h);
        }
        CHECK(held(h) == SUPERBLOCKS * PAGE);
        for (size_t s = 0; s < SUPERBLOCKS; s++)
            for (size_t i = 0; i < EACH; i++) CHECK(nm_heap_free(h, blocks[s][i]) == NM_OK);
        sound(h);
        nm_heap_trim(h);
        CHECK(held(h) == 0);
    }
    nm_heap_destroy(h);
}

static void test_clear(void) {
    nm_budget *b = nm_budget_create(NM_SIZE_MAX, NULL, NULL);
    nm_heap *h = nm_heap_create(b, false);
    nm_allocator port = nm_heap_port(h);
    void *blocks[100];
    worker w = {h, blocks, 100, 1};
    for (int round = 0; round < 3; round++) {
        in_thread(allocate, &w); /* in a part that is abandoned */
        for (int i = 0; i < 3000; i++) CHECK(nm_alloc(port, 1 + (size_t)i * 30, 16) != NULL);
        allocate(&w);
        in_thread(release_half, &w); /* into the queue of this thread's part */
        nm_heap_clear(h);
        sound(h);
        nm_stats s;
        port.methods->stats(port.self, &s);
        CHECK(held(h) == 0 && nm_budget_used(b) == 0 && s.used == 0 && s.live == 0 && s.reserved == 0);
    }
    nm_heap_destroy(h);
    nm_budget_destroy(b);
}

static void test_census(void) {
    nm_heap *h = nm_heap_create(NULL, false);
    for (int i = 0; i < 10; i++) nm_heap_free(h, nm_heap_malloc(h, 100));
    for (int i = 0; i < 7; i++) nm_heap_free(h, nm_heap_malloc(h, (size_t)1 << 17));
    for (int i = 0; i < 5; i++) nm_heap_free(h, nm_heap_malloc(h, ((size_t)1 << 17) + 1));
    nm_heap_free(h, nm_heap_malloc(h, 0));
    nm_census c;
    nm_heap_census(h, &c);
    CHECK(c.allocations[nm__bin_of(100)] == 10 && c.allocations[1] == 1 && c.threads == 1);
    CHECK(c.span_allocations[17] == 7 && c.span_allocations[18] == 5);
    uint64_t sum = 0;
    for (unsigned bin = 0; bin < NM_BINS; bin++) sum += c.allocations[bin];
    for (unsigned k = 0; k < NM_SPAN_SIZES; k++) sum += c.span_allocations[k];
    CHECK(sum == 23);
    nm_heap_destroy(h);
}

/* A head that has given back many cells stays the head where no other waits, even when it is empty. */
static void test_a_heads_count_runs_out(void) {
    nm_heap *h = nm_heap_create(NULL, false);
    void *kept = nm_heap_malloc(h, 5000);
    nm__superblock *p = nm__superblock_of(kept);
    for (int round = 0; round < 2; round++) {
        for (int i = 0; i < 300; i++) {
            void *block = nm_heap_malloc(h, 5000);
            CHECK(nm__superblock_of(block) == p);
            nm_heap_free(h, block);
            sound(h);
        }
        if (round == 0) nm_heap_free(h, kept);
    }
    CHECK(held(h) == STEP);
    nm_heap_destroy(h);
}

/* What stays for long, made after a peak, does not keep a superblock of the peak's. */
static void test_a_head_makes_way_for_a_fuller_one(void) {
    enum { SUPERBLOCKS = 3, EACH = PAGE / 64, ALL = SUPERBLOCKS * EACH };
    static void *blocks[ALL];
    nm_heap *h = nm_heap_create(NULL, false);
    for (size_t i = 0; i < ALL; i++) CHECK((blocks[i] = nm_heap_malloc(h, 64)) != NULL);
    const nm__superblock *first = nm__superblock_of(blocks[0]), *head = nm__superblock_of(blocks[ALL - 1]);
    for (size_t i = 0; i < EACH / 3; i++) nm_heap_free(h, blocks[i]);
    nm_heap_free(h, blocks[ALL - 1]);
    CHECK((blocks[ALL - 1] = nm_heap_malloc(h, 64)) != NULL && nm__superblock_of(blocks[ALL - 1]) == head); /* fuller yet */
    for (size_t i = EACH; i < ALL; i++) { /* the end of the peak */
        nm_heap_free(h, blocks[i]);
        if (i % 64 == 0) sound(h);
    }
    for (size_t i = 0; i < EACH / 3; i++) {
        CHECK((blocks[i] = nm_heap_malloc(h, 64)) != NULL && nm__superblock_of(blocks[i]) == first);
        sound(h);
    }
    CHECK(held(h) == PAGE);
    for (size_t i = 0; i < EACH; i++) nm_heap_free(h, blocks[i]);
    sound(h);
    CHECK(held(h) == PAGE);
    nm_heap_destroy(h);
}

/* Every heap has a slot of its own as long as there are any; one that finds none works all the same. */
static void test_slots(void) {
    nm_heap *claimed = nm_heap_create(NULL, false), *others[2 * NM__TLS_SLOTS];
    CHECK(nm__theaps[NM__CLAIMED_SLOT] == &nm__no_theap);
    nm__heap_claim(claimed);
    void *first = nm_heap_malloc(claimed, 100);
    nm__theap *part = nm__theaps[NM__CLAIMED_SLOT];
    CHECK(part != &nm__no_theap && nm__superblock_of(first)->theap == part);
    for (int i = 0; i < 2 * NM__TLS_SLOTS; i++) {
        others[i] = nm_heap_create(NULL, false);
        CHECK(nm_heap_malloc(others[i], 100) != NULL && nm__theaps[NM__CLAIMED_SLOT] == part);
    }
    CHECK(nm__theaps[NM__NO_SLOT] == &nm__no_theap);
    for (size_t i = 0; i < NM__NO_SLOT; i++)
        for (size_t j = 0; j < i; j++) CHECK(nm__theaps[i] != nm__theaps[j]);
    for (int round = 0; round < 3; round++)
        for (int i = 0; i < 2 * NM__TLS_SLOTS; i++) nm_heap_free(others[i], nm_heap_malloc(others[i], 100));
    nm_census c;
    for (int i = 0; i < 2 * NM__TLS_SLOTS; i++) {
        sound(others[i]);
        nm_heap_census(others[i], &c);
        CHECK(c.threads == 1 && c.held == STEP);
        nm_heap_destroy(others[i]);
    }
    for (size_t i = 0; i <= NM__NO_SLOT; i++) CHECK((nm__theaps[i] == &nm__no_theap) == (i != NM__CLAIMED_SLOT));
    nm_heap_free(claimed, first);
    sound(claimed);
    nm_heap_destroy(claimed);
    CHECK(nm__theaps[NM__CLAIMED_SLOT] == &nm__no_theap);
}

/* A heap goes while another thread has a part of it; the next one gets the slot, and may get the part's memory. */
typedef struct successor {
    nm_heap *heap;
    void *block;
    pthread_barrier_t step;
} successor;
static void *use_two(void *arg) {
    successor *s = arg;
    nm_heap_free(s->heap, nm_heap_malloc(s->heap, 64));
    (void)pthread_barrier_wait(&s->step); /* it goes, and another comes */
    (void)pthread_barrier_wait(&s->step);
    for (size_t i = 0; i < NM__NO_SLOT; i++) CHECK(nm__theaps[i] == &nm__no_theap);
    nm_heap_free(s->heap, s->block); /* of the other thread's part */
    CHECK(nm_heap_malloc(s->heap, 64) != NULL);
    return NULL;
}
static void test_a_slot_is_used_again(void) {
    successor s = {.heap = nm_heap_create(NULL, false)};
    (void)pthread_barrier_init(&s.step, NULL, 2);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, use_two, &s) == 0);
    (void)pthread_barrier_wait(&s.step);
    nm_heap_destroy(s.heap);
    s.heap = nm_heap_create(NULL, false);
    s.block = nm_heap_malloc(s.heap, 64);
    (void)pthread_barrier_wait(&s.step);
    CHECK(pthread_join(thread, NULL) == 0);
    sound(s.heap);
    nm_census c;
    nm_heap_census(s.heap, &c);
    CHECK(c.threads == 2 && c.held == 2 * STEP);
    nm_heap_destroy(s.heap);
    (void)pthread_barrier_destroy(&s.step);
}

/* An address may be asked about while it becomes a block's, or no block's any more. Either answer will do, but no third.
 * Not under ThreadSanitizer: what is read of a page that changes is a guess, and a race by its book. */
#ifndef NM__TSAN
static void *come_and_go(void *arg) {
    nm_heap *h = arg;
    for (size_t round = 0; atomic_load(&watching); round++) {
        void *spans[4], *cell = nm_heap_malloc(h, 16 + round % 30000);
        for (size_t i = 0; i < 4; i++) spans[i] = nm_heap_malloc(h, PAGE * (1 + (round + i) % 3));
        nm_heap_free(h, cell);
        for (size_t i = 0; i < 4; i++) nm_heap_free(h, spans[(i + round) % 4]);
    }
    return NULL;
}
static void test_what_an_address_is_while_it_changes(void) {
    enum { READS = 300000, PAGES = 64 };
    nm_heap *h = nm_heap_create(NULL, false);
    char *middle = nm_heap_malloc(h, PAGE);
    atomic_store(&watching, true);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, come_and_go, h) == 0);
    size_t wrong = 0;
    for (size_t i = 0; i < READS; i++) {
        const nm_heap *there = nm_heap_of(middle + (i % PAGES) * PAGE - PAGES / 2 * PAGE);
        wrong += there != NULL && there != h;
    }
    CHECK(wrong == 0);
    atomic_store(&watching, false);
    pthread_join(thread, NULL);
    nm_heap_free(h, middle);
    sound(h);
    nm_heap_destroy(h);
}
#endif

/* Blocks until the budget refuses one, linked by their first words; sizes in turn. Returns the bytes of all. */
static size_t fill_up(nm_heap *h, const size_t *in_turn, size_t n) {
    size_t data = 0, i = 0;
    for (void *last = NULL, *block; (block = nm_heap_malloc(h, in_turn[i % n])) != NULL; last = block) {
        data += in_turn[i++ % n];
        nm__poke(block, last);
    }
    return data;
}
/* Of a limit so many in 100 bytes are data at least. Blocks lie at multiples of 16, so no heap can do better than the sizes
 * below 97 do here. */
static size_t least_data(size_t size) {
    if (size == 64 || size > 112) return 88;
    if (size > 96) return 86;
    return size * 100 / ((size + 15) / 16 * 16);
}
static void budget_takes(size_t size, size_t limit) {
    nm_budget *b = nm_budget_create(limit, NULL, NULL);
    nm_heap *h = nm_heap_create(b, false);
    size_t data = fill_up(h, &size, 1), least = limit / 100 * least_data(size);
    if (data < least) fprintf(stderr, "%zu: %zu of %zu\n", size, data, limit);
    CHECK(data >= least);
    sound(h);
    nm_heap_destroy(h);
    nm_budget_destroy(b);
}
static void test_a_budget_takes_data(void) {
    static const size_t spans[] = {32769, 33000,  33792,  36865,  40961,   65536,   66000,   69633,
                                   98305, 131073, 262145, 999999, 1048577, 4194305, 8388609, 16777216};
    enum { SPANS = sizeof spans / sizeof *spans, MIXED = NM__BINS + SPANS / 2 };
    size_t mix[MIXED], n = 0;
    for (size_t size = 64; size <= NM_CELL_MAX; size = nm_bin_size((unsigned)nm__bin_of(size)) + 1) /* the worst of each bin */
        budget_takes(mix[n++] = size, (size_t)8 << 20);
    for (size_t i = 0; i < SPANS; i++) budget_takes(spans[i], spans[i] < 500000 ? (size_t)8 << 20 : spans[i] * 16 + 16 * PAGE);
    for (size_t i = 0; i < SPANS / 2; i++) mix[n++] = spans[i];
    nm_budget *b = nm_budget_create((size_t)64 << 20, NULL, NULL);
    nm_heap *h = nm_heap_create(b, false);
    CHECK(fill_up(h, mix, n) >= ((size_t)64 << 20) / 100 * 88);
    sound(h);
    nm_heap_destroy(h);
    nm_budget_destroy(b);
}

/* Fifty sizes cost their first pages, not as many superblocks. */
static void test_a_superblock_is_charged_as_it_is_used(void) {
    nm_budget *b = nm_budget_create(NM_SIZE_MAX, NULL, NULL);
    nm_heap *h = nm_heap_create(b, false);
    enum { SIZES = 50 };
    void *blocks[SIZES];
    for (size_t i = 0; i < SIZES; i++) blocks[i] = nm_heap_malloc(h, nm_bin_size((unsigned)i + 1));
    CHECK(nm_budget_used(b) == SIZES * STEP);
    sound(h);
    for (size_t i = 0; i < SIZES; i++) nm_heap_free(h, blocks[i]);
    nm_heap_trim(h);
    CHECK(nm_budget_used(b) == 0);
    void *cell = nm_heap_malloc(h, 64);
    for (size_t i = 1; i < PAGE / 64; i++) {
        CHECK(nm_budget_used(b) == (i * 64 + STEP - 1) / STEP * STEP);
        CHECK(nm_heap_malloc(h, 64) == (char *)cell + i * 64);
    }
    CHECK(nm_budget_used(b) == PAGE);
    sound(h);
    /* With no more to be charged cells that are free serve, wherever they are. */
    void *large = nm_heap_malloc(h, 16384), *second = nm_heap_malloc(h, 16384);
    nm_heap_free(h, large);
    nm_budget_set_limit(b, nm_budget_used(b));
    CHECK((large = nm_heap_malloc(h, 16384)) != NULL && nm_heap_malloc(h, 16384) == NULL);
    CHECK(nm_heap_malloc(h, 64) == NULL);
    nm_heap_free(h, cell);
    CHECK(nm_heap_malloc(h, 64) == cell);
    nm_heap_free(h, second);
    sound(h);
    nm_heap_destroy(h);
    nm_budget_destroy(b);
}

/* As many blocks as fill three superblocks, freed last to first: the third stays current, the second goes when the first is
 * empty. */
static void *batch[3 * NM_SUPERBLOCK / 1024];
static void batch_take(nm_heap *h, size_t size, size_t n) {
    for (size_t i = 0; i < n; i++) CHECK((batch[i] = nm_heap_malloc(h, size)) != NULL);
}
static void batch_give(nm_heap *h, size_t n) {
    for (size_t i = n; i-- > 0;) CHECK(nm_heap_free(h, batch[i]) == NM_OK);
    sound(h);
}
static void *batch_of_a_thread(void *h) {
    batch_take(h, 1024, 3 * NM_SUPERBLOCK / 1024);
    batch_give(h, 3 * NM_SUPERBLOCK / 1024);
    return NULL;
}

/* Heaps may be many, so those that found no slot of their own keep none: what no budget is charged with has an end. */
static void test_no_spare_without_a_slot(void) {
    enum { CELLS = NM_SUPERBLOCK / 1024 };
    nm_heap *heaps[NM__TLS_SLOTS];
    for (size_t i = 0; i < NM__TLS_SLOTS; i++) heaps[i] = nm_heap_create(NULL, false);
    nm_heap *h = heaps[NM__TLS_SLOTS - 1];
    nm_region_trim();
    batch_take(h, 1024, 3 * CELLS);
    batch_give(h, 3 * CELLS);
    CHECK(held(h) == PAGE && nm_region_dirty() == (size_t)2 * PAGE);
    for (size_t i = 0; i < NM__TLS_SLOTS; i++) nm_heap_destroy(heaps[i]);
}

/* Of superblocks that become empty a thread keeps the last: the next batch has it, and meanwhile it is not the heap's. */
static void test_a_spare_superblock(void) {
    enum { CELLS = NM_SUPERBLOCK / 1024 };
    nm_budget *b = nm_budget_create(NM_SIZE_MAX, NULL, NULL);
    nm_heap *h = nm_heap_create(b, false);
    nm_region_trim();
    batch_take(h, 1024, 3 * CELLS);
    batch_give(h, 3 * CELLS);
    void *first = batch[0];
    CHECK(nm_region_dirty() == PAGE && held(h) == PAGE && nm_budget_used(b) == PAGE);
    CHECK(nm_heap_of(first) == NULL && nm_heap_free(h, first) == NM_FOREIGN_BLOCK);
    batch_take(h, 1024, 2 * CELLS);
    CHECK(nm_region_dirty() == PAGE && held(h) == 2 * PAGE && nm_budget_used(b) == 2 * PAGE);
    CHECK((size_t)((char *)batch[CELLS] - (char *)first) < PAGE && nm_heap_of(first) == h);
    for (int i = 0; i < 100; i++) {
        batch_give(h, 2 * CELLS);
        CHECK(nm_region_dirty() == PAGE && held(h) == PAGE);
        batch_take(h, 1024, 2 * CELLS);
        CHECK(nm_region_dirty() == PAGE && held(h) == 2 * PAGE);
    }
    batch_give(h, 2 * CELLS);
    /* What it is charged with is refused: then it goes, as all that is kept for speed. */
    nm_budget_set_limit(b, PAGE);
    batch_take(h, 1024, CELLS);
    CHECK(nm_heap_malloc(h, 1024) == NULL && nm_region_dirty() == 2 * PAGE && held(h) == PAGE);
    nm_budget_set_limit(b, NM_SIZE_MAX);
    batch_give(h, CELLS);
    /* One, of whichever bin: not of those whose superblocks are large. */
    batch_take(h, 1024, 3 * CELLS), batch_give(h, 3 * CELLS);
    batch_take(h, 2048, 3 * CELLS / 2), batch_give(h, 3 * CELLS / 2);
    CHECK(held(h) == 2 * PAGE);
    size_t dirty = nm_region_dirty();
    batch_take(h, 1024, 2 * CELLS); /* of them one superblock is not the spare, which is the other bin's */
    CHECK(nm_region_dirty() == dirty - PAGE);
    batch_give(h, 2 * CELLS);
    CHECK(nm_region_dirty() == dirty);
    nm_heap_trim(h);
    CHECK(held(h) == 0 && nm_region_dirty() == 0);
    batch_take(h, 16384, 2 * NM_SUPERBLOCK_LARGE / 16384);
    batch_give(h, 2 * NM_SUPERBLOCK_LARGE / 16384);
    CHECK(nm_region_dirty() == NM_SUPERBLOCK_LARGE);
    nm_heap_trim(h);
    /* One that shed steps has not all of its cells. */
    batch_take(h, 1024, 3 * CELLS);
    for (size_t i = 1; i < 3 * CELLS; i++) CHECK(nm_heap_free(h, batch[i]) == NM_OK);
    nm_heap_trim(h);
    CHECK(held(h) == STEP && nm_heap_free(h, batch[0]) == NM_OK);
    sound(h);
    /* It goes with its thread, and with what is cleared. */
    nm_heap_trim(h);
    pthread_t thread;
    CHECK(pthread_create(&thread, NULL, batch_of_a_thread, h) == 0 && pthread_join(thread, NULL) == 0);
    CHECK(held(h) == 0 && nm_region_dirty() == 3 * PAGE);
    batch_take(h, 1024, 3 * CELLS), batch_give(h, 3 * CELLS);
    nm_heap_clear(h);
    CHECK(held(h) == 0 && nm_region_dirty() == 3 * PAGE);
    sound(h);
    nm_heap_destroy(h);
    nm_budget_destroy(b);
}

/* Cells of a large superblock begin in other 64 KiB than that itself: its entry is found from there. */
static void *free_quarters(void *arg) {
    worker *w = arg;
    for (int i = 0; i < w->n; i++)
        if (i % 4 == 1) nm_heap_free(w->heap, w->blocks[i]);
    return NULL;
}
static void test_large_superblocks(void) {
    enum { N = 64 };
    static void *blocks[N];
    nm_heap *h = nm_heap_create(NULL, false);
    nm_allocator port = nm_heap_port(h);
    for (size_t size = 8193; size <= NM_CELL_MAX; size += 3001) {
        worker w = {h, blocks, N, 1};
        for (int i = 0; i < N; i++) {
            CHECK((blocks[i] = nm_heap_malloc(h, size)) != NULL && nm_heap_of(blocks[i]) == h);
            CHECK(nm_heap_of((char *)blocks[i] + 16) == NULL && nm_heap_usable_of(blocks[i]) >= size);
            fill(blocks[i], size, (unsigned)i);
        }
        in_thread(free_quarters, &w);
        for (int i = 0; i < N; i++) {
            if (i % 4 == 1) continue;
            CHECK(filled(blocks[i], size, (unsigned)i));
            if (i % 4 == 0) blocks[i] = nm_heap_realloc(h, blocks[i], size + 5000);
            CHECK(filled(blocks[i], size, (unsigned)i));
            nm_heap_free(h, blocks[i]);
        }
        sound(h);
    }
    /* What they leave is spans' again, without a trace. */
    nm_heap_trim(h);
    CHECK(held(h) == 0);
    char *span = nm_heap_malloc(h, 100 * PAGE);
    for (size_t i = 0; i < 100; i++) CHECK((nm_heap_of(span + i * PAGE) == h) == (i == 0));
    CHECK(nm_heap_free(h, span + 3 * PAGE) == NM_FOREIGN_BLOCK);
    nm_heap_free(h, span);
    void *aligned = nm_alloc(port, 10000, 64);
    CHECK(nm_free(port, aligned, 10000, 64) == NM_OK);
    nm_heap_destroy(h);
}

/* Superblocks lie at multiples of 64 KiB, and so does what a slab asks for, among spans that do not. */
static void test_alignment_among_pages(void) {
    enum { N = 200 };
    static void *spans[N], *cells[N], *slabs[N];
    nm_heap *h = nm_heap_create(NULL, false);
    nm_allocator port = nm_heap_port(h);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < N; i++) {
            spans[i] = nm_heap_malloc(h, NM_CELL_MAX + 1 + i * NM_PAGE % 70000);
            cells[i] = nm_heap_malloc(h, 1000 + 40 * i);
            slabs[i] = port.methods->alloc(port.self, PAGE, PAGE);
            CHECK(nm_is_aligned((uintptr_t)spans[i], NM_PAGE) && nm_is_aligned((uintptr_t)slabs[i], PAGE));
        }
        sound(h);
        for (size_t i = 0; i < N; i++) {
            size_t at = (i * 37 + (size_t)round) % N;
            nm_heap_free(h, spans[at]);
            nm_heap_free(h, cells[at]);
            CHECK(port.methods->free(port.self, slabs[at], PAGE, PAGE) == NM_OK);
            if (i % 20 == 0) sound(h);
        }
    }
    nm_heap_destroy(h);
}

static void test_idle_superblocks_make_room(void) {
    nm_budget *b = nm_budget_create(4 * STEP, NULL, NULL);
    nm_heap *h = nm_heap_create(b, false);
    for (size_t size = 16; size <= 64; size += 16) nm_heap_free(h, nm_heap_malloc(h, size));
    CHECK(nm_budget_used(b) == 4 * STEP); /* four that are empty, kept for speed */
    CHECK(nm_heap_malloc(h, 3 * STEP) != NULL && nm_budget_denied(b) == 0);
    sound(h);
    nm_heap_destroy(h);
    nm_budget_destroy(b);
}

/* ThreadSanitizer lets no code start a thread in the child of a process that had several. */
#ifndef NM__TSAN
static pthread_barrier_t barrier;
static void *hold_blocks(void *arg) {
    worker *w = arg;
    allocate(w);
    pthread_barrier_wait(&barrier);
    pthread_barrier_wait(&barrier);
    release(w);
    return NULL;
}
static void test_fork(void) {
    enum { N = 2000 };
    static void *blocks[N], *mine[N];
    nm_heap *h = nm_heap_create(NULL, false);
    worker w = {h, blocks, N, 3}, v = {h, mine, N, 4};
    pthread_barrier_init(&barrier, NULL, 2);
    pthread_t thread;
    pthread_create(&thread, NULL, hold_blocks, &w);
    pthread_barrier_wait(&barrier);
    allocate(&v);
    pid_t child = fork();
    if (child == 0) {
        int before = failures_;
        release(&v); /* its own thread's */
        release(&w); /* of a thread that it does not have */
        worker again = {h, blocks, N, 5};
        in_thread(allocate, &again);
        in_thread(release, &again);
        nm_census c;
        nm_heap_census(h, &c);
        CHECK(c.threads == 3); /* the new threads have left the part of the one that is not here alone */
        _exit(failures_ == before ? 0 : 1);
    }
    int status = -1;
    CHECK(waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == 0);
    release(&v);
    pthread_barrier_wait(&barrier);
    pthread_join(thread, NULL);
    sound(h);
    nm_heap_destroy(h);
    pthread_barrier_destroy(&barrier);
}
#endif

static void test_region_programs(void) {
    nm_heap *h = nm_heap_create(NULL, false);
    enum { SLOTS = 60 };
    struct {
        unsigned char *ptr;
        size_t size;
    } slots[SLOTS] = {0};
    uint64_t seed = 20;
    for (int step = 0; step < 20000; step++) {
        size_t i = below(&seed, SLOTS);
        if (slots[i].ptr != NULL) {
            CHECK(slots[i].ptr[0] == i && slots[i].ptr[slots[i].size - 1] == i);
            nm_heap_free(h, slots[i].ptr);
            slots[i].ptr = NULL;
        } else {
            slots[i].size = NM_CELL_MAX + 1 + below(&seed, below(&seed, 10) == 0 ? 200 * PAGE : 9 * PAGE);
            slots[i].ptr = step % 3 ? nm_heap_malloc(h, slots[i].size) : nm_heap_calloc(h, 1, slots[i].size);
            slots[i].ptr[0] = slots[i].ptr[slots[i].size - 1] = (unsigned char)i;
        }
        if (step % 1000 == 0) nm_region_trim();
        if (step % 20 == 0) sound(h);
    }
    nm_heap_destroy(h);
    SOUND(nm__region_check());
}

int main(void) {
    if (nm_heap_create(NULL, false) != NULL) return 2; /* there is no region yet */
    if (nm_region_init((size_t)64 << 30, (size_t)64 << 20, LONG_DECAY) != NM_OK) return 2;
    RUN(test_bins());
    RUN(test_span_reuse_and_merging());
    RUN(test_realloc());
    RUN(test_shrinking_is_not_denied());
    RUN(test_usable());
    RUN(test_calloc_on_used_memory());
    RUN(test_retain_and_decay());
    RUN(test_empty_superblocks_go_back());
    RUN(test_what_is_no_block());
    RUN(test_blocks_outlive_their_thread());
    RUN(test_frees_into_an_abandoned_part());
    RUN(test_many_free_into_an_abandoned_part());
    RUN(test_threads_end_while_others_free());
    RUN(test_use_while_the_thread_ends());
    RUN(test_stats_from_another_thread());
    RUN(test_producer_and_consumer());
    RUN(test_several_heaps_and_threads());
    RUN(test_limit_and_reserve());
    RUN(test_a_refused_block_leaves_no_trace());
    RUN(test_what_others_freed_is_used_again());
    RUN(test_a_few_cells_of_many_superblocks());
    RUN(test_the_fullest_serve_first());
    RUN(test_clear());
    RUN(test_census());
    RUN(test_a_heads_count_runs_out());
    RUN(test_a_head_makes_way_for_a_fuller_one());
    RUN(test_slots());
    RUN(test_a_slot_is_used_again());
#ifndef NM__TSAN
    RUN(test_what_an_address_is_while_it_changes());
#endif
    RUN(test_idle_superblocks_make_room());
    RUN(test_a_budget_takes_data());
    RUN(test_a_superblock_is_charged_as_it_is_used());
    RUN(test_a_spare_superblock());
    RUN(test_no_spare_without_a_slot());
    RUN(test_large_superblocks());
    RUN(test_alignment_among_pages());
#ifndef NM__TSAN
    RUN(test_fork());
#endif
    RUN(test_region_programs());
    return finish();
}
