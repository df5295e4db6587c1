/* What verified does beyond the port. */
#include <pthread.h>

#include "locks.h"
#include "harness.h"

#include "nativemem.h"
#include "wrap/verified.h"

enum { LEVELS = NM_VERIFY_REDUNDANT + 1 };

static nm_stats stats(nm_allocator a) {
    nm_stats s;
    a.methods->stats(a.self, &s);
    return s;
}

/* A heap, and a verified on it; all of a test goes through these two. */
static nm_heap *heap;
static nm_verified *verified;
static nm_allocator port;
static nm_verified_finding found;

static void begin(nm_verification level) {
    heap = nm_heap_create(NULL, false);
    verified = nm_verified_create(nm_heap_port(heap), level, 1);
    port = nm_verified_port(verified);
}
static void end(void) {
    SOUND(nm_verified_check(verified));
    nm_verified_destroy(verified);
    nm_heap_destroy(heap);
}
static unsigned char *sealed(size_t size) {
    unsigned char *ptr = nm_alloc(port, size, 16);
    memset(ptr, 7, size);
    CHECK(nm_verified_seal(verified, ptr) == NM_OK);
    return ptr;
}

static void test_off(void) {
    begin(NM_VERIFY_OFF);
    CHECK(port.self == nm_heap_port(heap).self && port.methods == nm_heap_port(heap).methods);
    unsigned char *ptr = sealed(100);
    ptr[3] = 8;
    CHECK(nm_verified_verify(verified, &found) == NM_OK && found.compared == 0 && nm_verified_checks(verified) == 0);
    CHECK(nm_verified_unseal(verified, ptr) == NM_OK && nm_free(port, ptr, 100, 16) == NM_OK);
    end();
}

/* What C code asks for with a layout that is not the block's, or twice, or of another allocator. */
static void test_the_ledger(void) {
    for (int level = NM_VERIFY_BASIC; level < LEVELS; level++) {
        begin((nm_verification)level);
        char *ptr = nm_alloc(port, 100, 16), *other = nm_alloc(nm_heap_port(heap), 100, 16);
        CHECK(port.methods->free(port.self, ptr, 99, 16) == NM_INVALID_LAYOUT);
        CHECK(port.methods->free(port.self, ptr, 100, 32) == NM_INVALID_LAYOUT && nm_last_failure().requested == 100);
        CHECK(!port.methods->resize(port.self, ptr, 98, 90, 16) && nm_last_failure().status == NM_INVALID_LAYOUT);
        CHECK(port.methods->free(port.self, other, 100, 16) == NM_FOREIGN_BLOCK);
        CHECK(port.methods->free(port.self, ptr + 16, 84, 16) == NM_FOREIGN_BLOCK);
        CHECK(!port.methods->resize(port.self, other, 100, 90, 16) && nm_last_failure().status == NM_FOREIGN_BLOCK);
        CHECK(nm_verified_seal(verified, other) == NM_FOREIGN_BLOCK && nm_verified_unseal(verified, other) == NM_FOREIGN_BLOCK);
        CHECK(nm_verified_failures(verified) == 8 && nm_verified_checks(verified) > 8);
        CHECK(stats(port).live == 1 && stats(port).used == 100 && stats(port).failures == 0 && stats(port).frees == 0);
        CHECK(nm_free(port, ptr, 100, 16) == NM_OK);
        CHECK(port.methods->free(port.self, ptr, 100, 16) == NM_FOREIGN_BLOCK);
        CHECK(nm_free(nm_heap_port(heap), other, 100, 16) == NM_OK);
        end();
    }
}

/* Every position and bit of blocks of a few sizes; a run of the sum's is 5552 bytes. */
static void test_each_flipped_bit(void) {
    const size_t sizes[] = {1, 2, 100, 5552, 5553, 12000};
    begin(NM_VERIFY_FULL);
    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        unsigned char *ptr = sealed(sizes[i]);
        for (size_t at = 0; at < sizes[i]; at += sizes[i] > 1000 ? 97 : 1) {
            ptr[at] ^= (unsigned char)(1 << at % 8);
            CHECK(nm_verified_unseal(verified, ptr) == NM_CORRUPTED);
            ptr[at] ^= (unsigned char)(1 << at % 8);
            nm__verified_find(verified, ptr)->told = false;
            CHECK(nm_verified_seal(verified, ptr) == NM_OK); /* it is as it was */
        }
        CHECK(nm_free(port, ptr, sizes[i], 16) == NM_OK);
    }
    end();
}

/* What zlib's adler32 gives; the second sum of the larger one would be above 32 bits. */
static void test_the_sum_is_adler_32(void) {
    begin(NM_VERIFY_BASIC);
    void *ptr = nm_alloc(port, 9, 16);
    memcpy(ptr, "Wikipedia", 9);
    CHECK(nm_verified_seal(verified, ptr) == NM_OK && nm__verified_find(verified, ptr)->sum == 0x11E60398);
    CHECK(nm_free(port, ptr, 9, 16) == NM_OK);
    ptr = nm_alloc(port, 12000, 16);
    memset(ptr, 0xFF, 12000);
    CHECK(nm_verified_seal(verified, ptr) == NM_OK && nm__verified_find(verified, ptr)->sum == 0x9B1B3D3);
    CHECK(nm_free(port, ptr, 12000, 16) == NM_OK);
    end();
}

/* Which call finds it: a bit for each of free, resize, seal, unseal, alloc. */
static unsigned found_by(nm_verification level) {
    unsigned calls = 0;
    for (unsigned call = 0; call < 5; call++) {
        begin(level);
        unsigned char *ptr = sealed(64);
        ptr[63]++;
        nm_status status = NM_OK;
        void *more = NULL;
        if (call == 0) status = port.methods->free(port.self, ptr, 64, 16);
        if (call == 1) status = port.methods->resize(port.self, ptr, 64, 63, 16) ? NM_OK : nm_last_failure().status;
        if (call == 2) status = nm_verified_seal(verified, ptr);
        if (call == 3) status = nm_verified_unseal(verified, ptr);
        if (call == 4) status = (more = nm_alloc(port, 10, 16)) != NULL ? NM_OK : nm_last_failure().status;
        CHECK(status == NM_OK || status == NM_CORRUPTED);
        calls |= (unsigned)(status == NM_CORRUPTED) << call;
        if (status == NM_CORRUPTED) CHECK(stats(port).live == 1 && stats(port).used == 64 && stats(port).count == 1);
        end();
    }
    return calls;
}

static void test_what_each_call_compares(void) {
    CHECK(found_by(NM_VERIFY_BASIC) == 0);
    CHECK(found_by(NM_VERIFY_STANDARD) == 0xF);
    CHECK(found_by(NM_VERIFY_FULL) == 0x1F && found_by(NM_VERIFY_REDUNDANT) == 0x1F);
}

static void test_by_the_dice(void) {
    unsigned hits[3] = {0};
    begin(NM_VERIFY_SAMPLING);
    for (int n = 0; n < 3000; n++) {
        unsigned char *ptr = sealed(64);
        *ptr ^= 1;
        for (int kind = 0; kind < 3; kind++) {
            size_t before = nm_verified_failures(verified);
            if (kind == 0) (void)port.methods->resize(port.self, ptr, 64, 64, 16);
            if (kind == 1) (void)nm_verified_unseal(verified, ptr);
            if (kind == 2) (void)nm_free(port, nm_alloc(port, 10, 16), 10, 16);
            hits[kind] += nm_verified_failures(verified) != before;
            nm__verified_block *b = nm__verified_find(verified, ptr);
            b->told = false;
            *ptr ^= 1;
            (void)nm_verified_seal(verified, ptr);
            *ptr ^= 1;
        }
        *ptr ^= 1;
        (void)nm_verified_unseal(verified, ptr);
        CHECK(nm_free(port, ptr, 64, 16) == NM_OK);
    }
    CHECK(hits[0] > 2200 && hits[0] < 2480); /* 200 / 256 of 3000: 2344 */
    CHECK(hits[1] > 1640 && hits[1] < 1880); /* 150 / 256: 1758 */
    CHECK(hits[2] > 1060 && hits[2] < 1290); /* 100 / 256: 1172 */
    end();
}

/* Each alloc looks at one block, in turn. */
static void test_in_turn(void) {
    enum { BLOCKS = 5 };
    unsigned char *blocks[BLOCKS];
    begin(NM_VERIFY_FULL);
    for (int i = 0; i < BLOCKS; i++) blocks[i] = sealed(32);
    for (int i = 0; i < BLOCKS; i++) {
        blocks[i][5]++;
        int failed = 0;
        for (int n = 0; n < 2 * BLOCKS; n++) {
            void *ptr = nm_alloc(port, 10, 16);
            failed += ptr == NULL;
            if (ptr != NULL) CHECK(nm_free(port, ptr, 10, 16) == NM_OK);
        }
        CHECK(failed == 1 && nm_verified_verify(verified, &found) == NM_CORRUPTED); /* told once */
        CHECK(found.ptr == blocks[i] && found.size == 32 && found.compared == BLOCKS - 1);
        CHECK(port.methods->free(port.self, blocks[i], 32, 16) == NM_CORRUPTED);
        blocks[i][5]--;
        nm__verified_find(verified, blocks[i])->told = nm__verified_find(verified, blocks[i])->refused = false;
        CHECK(nm_verified_verify(verified, &found) == NM_OK && found.compared == BLOCKS);
    }
    for (int i = 0; i < BLOCKS; i++) CHECK(nm_free(port, blocks[i], 32, 16) == NM_OK);
    end();
}

/* Else its memory would be lost. Another call about it is refused as often as it comes. */
static void test_the_second_free(void) {
    for (int level = NM_VERIFY_STANDARD; level < LEVELS; level++) {
        begin((nm_verification)level);
        unsigned char *ptr = sealed(64);
        ptr[5]++;
        for (int i = 0; i < 2; i++) CHECK(nm_verified_unseal(verified, ptr) == NM_CORRUPTED);
        for (int i = 0; i < 2; i++) CHECK(!port.methods->resize(port.self, ptr, 64, 60, 16));
        CHECK(port.methods->free(port.self, ptr, 64, 16) == NM_CORRUPTED && stats(port).live == 1);
        CHECK(!port.methods->resize(port.self, ptr, 64, 60, 16) && nm_last_failure().status == NM_CORRUPTED);
        CHECK(port.methods->free(port.self, ptr, 63, 16) == NM_INVALID_LAYOUT);
        CHECK(port.methods->free(port.self, ptr, 64, 16) == NM_OK && stats(port).live == 0);
        CHECK(stats(nm_heap_port(heap)).live == 0 && nm_verified_verify(verified, &found) == NM_OK);
        end();
    }
}

static void test_a_resize_unseals(void) {
    begin(NM_VERIFY_REDUNDANT);
    unsigned char *ptr = sealed(100);
    CHECK(port.methods->resize(port.self, ptr, 100, 98, 16));
    ptr[97]++;
    CHECK(nm_verified_verify(verified, &found) == NM_OK && found.compared == 0 && stats(port).used == 98);
    CHECK(nm_free(port, ptr, 98, 16) == NM_OK);
    end();
}

/* Whatever was changed of the two copies. */
static void test_the_second_copy(void) {
    for (int what = 0; what < 4; what++) {
        begin(NM_VERIFY_REDUNDANT);
        void *first = nm_alloc(port, 100, 16), *second = nm_alloc(port, 100, 16);
        nm__verified_block *b = nm__verified_find(verified, first), was = *b;
        if (what == 0) b->size = 90;
        if (what == 1) b->ptr = second;
        if (what == 2) b->next = b;
        if (what == 3) b->before = b;
        for (int i = 0; i < 2; i++) CHECK(port.methods->free(port.self, first, 100, 16) == NM_CORRUPTED);
        *b = was;
        CHECK(nm_free(port, first, 100, 16) == NM_OK && nm_free(port, second, 100, 16) == NM_OK);
        end();
    }
    begin(NM_VERIFY_FULL);
    void *ptr = nm_alloc(port, 100, 16);
    nm__verified_find(verified, ptr)->size = 90;
    CHECK(port.methods->free(port.self, ptr, 100, 16) == NM_INVALID_LAYOUT); /* with one copy nothing else can be told */
    nm__verified_find(verified, ptr)->size = 100;
    CHECK(nm_free(port, ptr, 100, 16) == NM_OK);
    end();
}

/* An upstream that is broken, as its structures were written over: it gives the same block each time, or one that is not
 * aligned, or none; and it takes none back. */
static _Alignas(64) char only[128];
static size_t skew;
static bool has_none, takes_none;
static void *broken_alloc(void *self, size_t size, size_t align) {
    (void)self, (void)align;
    return has_none ? nm_refuse(NM_OUT_OF_MEMORY, size, 0, 0) : only + skew;
}
static bool broken_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    (void)self, (void)ptr, (void)old, (void)size, (void)align;
    return false;
}
static nm_status broken_free(void *self, void *ptr, size_t size, size_t align) {
    (void)self, (void)ptr, (void)align;
    return takes_none ? (nm_refuse(NM_WRONG_THREAD, size, 0, 0), NM_WRONG_THREAD) : NM_OK;
}
static void broken_stats(void *self, nm_stats *out) {
    (void)self;
    *out = (nm_stats){0};
}

static void test_what_upstream_gives(void) {
    static const nm_methods methods = {broken_alloc, broken_resize, broken_free, broken_stats};
    verified = nm_verified_create((nm_allocator){NULL, &methods}, NM_VERIFY_BASIC, 0);
    port = nm_verified_port(verified);
    void *ptr = nm_alloc(port, 10, 16);
    CHECK(ptr == only && nm_alloc(port, 10, 16) == NULL && nm_last_failure().status == NM_CORRUPTED);
    skew = 8;
    CHECK(nm_alloc(port, 10, 16) == NULL && nm_last_failure().status == NM_CORRUPTED);
    void *at_eight = nm_alloc(port, 10, 8);
    CHECK(at_eight == only + 8 && nm_verified_failures(verified) == 2);
    CHECK(stats(port).live == 2 && stats(port).used == 20 && stats(port).failures == 0);
    has_none = true;
    CHECK(nm_alloc(port, 10, 16) == NULL && nm_last_failure().status == NM_OUT_OF_MEMORY && stats(port).failures == 1);
    takes_none = true;
    CHECK(nm_verified_seal(verified, ptr) == NM_OK && nm_free(port, ptr, 10, 16) == NM_WRONG_THREAD);
    CHECK(stats(port).live == 2 && nm_verified_verify(verified, &found) == NM_OK && found.compared == 1);
    CHECK(!port.methods->resize(port.self, ptr, 10, 9, 16) && nm__verified_find(verified, ptr)->sealed);
    takes_none = has_none = false;
    skew = 0;
    nm__verified_find(verified, ptr)->told = true; /* it went with all that it lay among */
    CHECK(nm_alloc(port, 12, 16) == ptr && stats(port).live == 2 && stats(port).used == 22);
    CHECK(nm_free(port, ptr, 12, 16) == NM_OK && nm_free(port, at_eight, 10, 8) == NM_OK);
    SOUND(nm_verified_check(verified));
    nm_verified_destroy(verified);
}

static void test_ledger_and_counters(void) {
    begin(NM_VERIFY_BASIC);
    void *ptr = nm_alloc(port, 100, 16);
    nm__verified_find(verified, ptr)->size = 99;
    CHECK(nm_verified_verify(verified, &found) == NM_CORRUPTED && found.ptr == NULL && found.size == 0);
    nm__verified_find(verified, ptr)->size = 100;
    CHECK(nm_verified_verify(verified, &found) == NM_OK && nm_free(port, ptr, 100, 16) == NM_OK);
    end();
}

static void *work(void *unused) {
    for (size_t n = 0; n < 2000; n++) {
        nm_verified_finding mine;
        unsigned char *ptr = sealed(16 + n % 200);
        if (n % 100 == 0) CHECK(nm_verified_verify(verified, &mine) == NM_OK);
        CHECK(nm_verified_unseal(verified, ptr) == NM_OK);
        ptr[0]++;
        CHECK(nm_free(port, ptr, 16 + n % 200, 16) == NM_OK);
    }
    return unused;
}

static void test_threads(void) {
    pthread_t threads[3];
    begin(NM_VERIFY_REDUNDANT);
    for (int i = 0; i < 3; i++) CHECK(pthread_create(&threads[i], NULL, work, NULL) == 0);
    for (int i = 0; i < 3; i++) pthread_join(threads[i], NULL);
    CHECK(nm_verified_failures(verified) == 0 && stats(port).live == 0 && stats(port).count == 6000);
    end();
}

int main(void) {
    if (nm_region_init((size_t)64 << 30, (size_t)64 << 20, 1000) != NM_OK) return 2;
    RUN(test_off());
    RUN(test_the_ledger());
    RUN(test_each_flipped_bit());
    RUN(test_the_sum_is_adler_32());
    RUN(test_what_each_call_compares());
    RUN(test_by_the_dice());
    RUN(test_in_turn());
    RUN(test_the_second_free());
    RUN(test_a_resize_unseals());
    RUN(test_the_second_copy());
    RUN(test_what_upstream_gives());
    RUN(test_ledger_and_counters());
    RUN(test_threads());
    return finish();
}
