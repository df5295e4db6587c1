/* Blocks that one thread takes and others free while it takes more: none is lost on the way back. A cell that is
 * lost keeps its superblock for ever, though all counters say that nothing is in use. */
#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>

#include "heap/heap.h"
#include "harness.h"
#include "nativemem.h"

enum { FREERS = 3, RING = 64, BLOCKS = 200000, SIZE = 600 };

static nm_allocator port;
static _Atomic(void *) ring[FREERS][RING];
static atomic_bool done;

static void *freer(void *arg) {
    _Atomic(void *) *mine = arg;
    size_t broken = 0;
    for (;;) {
        bool last = atomic_load(&done), any = false;
        for (int i = 0; i < RING; i++) {
            void *ptr = atomic_load(&mine[i]);
            if (ptr == NULL) continue;
            any = true;
            atomic_store(&mine[i], NULL);
            broken += nm_free(port, ptr, SIZE, 16) != NM_OK;
        }
        if (last && !any) break;
        if (!any) sched_yield();
    }
    return (void *)broken;
}

static size_t hand_around(void) {
    pthread_t threads[FREERS];
    atomic_store(&done, false);
    for (int i = 0; i < FREERS; i++) CHECK(pthread_create(&threads[i], NULL, freer, ring[i]) == 0);
    for (size_t n = 0; n < BLOCKS;) {
        size_t before = n;
        for (int i = 0; i < FREERS; i++)
            for (int k = 0; k < RING; k++) {
                if (atomic_load(&ring[i][k]) != NULL) continue;
                void *ptr = nm_alloc(port, SIZE, 16);
                CHECK(ptr != NULL);
                atomic_store(&ring[i][k], ptr);
                n++;
            }
        if (n == before) sched_yield();
    }
    atomic_store(&done, true);
    size_t all = 0;
    for (int i = 0; i < FREERS; i++) {
        void *broken;
        CHECK(pthread_join(threads[i], &broken) == 0);
        all += (size_t)broken;
    }
    return all;
}

static void test_heap(bool secure) {
    nm_heap *heap = nm_heap_create(NULL, secure);
    port = nm_heap_port(heap);
    CHECK(hand_around() == 0);
    SOUND(nm_heap_check(heap));
    nm_heap_trim(heap);
    CHECK(nm__heap_held(heap) == 0);
    nm_heap_destroy(heap);
}

static void test_slab(void) {
    nm_system *system = nm_system_create();
    nm_slab *slab = nm_slab_create(nm_system_port(system), (const size_t[]){1024}, 1, false);
    port = nm_slab_port(slab);
    CHECK(hand_around() == 0);
    CHECK(nm_slab_trim(slab) == NM_OK);
    nm_stats s;
    port.methods->stats(port.self, &s);
    CHECK(s.live == 0 && s.reserved == 0);
    nm_slab_destroy(slab);
    nm_system_destroy(system);
}

int main(void) {
    if (nm_region_init((size_t)4 << 30, (size_t)4 << 20, 1000) != NM_OK) return 2;
    RUN(test_heap(false));
    RUN(test_heap(true));
    RUN(test_slab());
    return finish();
}
