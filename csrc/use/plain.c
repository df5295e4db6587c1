#include "nativemem/plain.h"

#include <pthread.h>

#include "heap/heap.h"
#include "base/base.h"

/* In front of a block that lies in no heap. Its size is a multiple of the alignment that malloc promises. */
typedef struct plain_header {
    size_t size;
    uintptr_t mark; /* made from the address, the size and whose it is; 0: freed */
} plain_header;
_Static_assert(sizeof(plain_header) % 16 == 0, "a block is as aligned as its head");

/* Invariants:
 *   open => upstream.methods != NULL
 *   places[place] == this, or place == NM_PLAIN_PLACES
 *   closed ones, and only they, are on the list of spares */
struct nm_plain {
    nm_allocator upstream;
    const nm_heap *heap; /* NULL: blocks have headers */
    uintptr_t key;
    atomic_bool open;
    size_t place;
    nm_plain *next;
    nm_plain_lzma lzma;
    nm_plain_freetype freetype;
};

static struct {
    pthread_mutex_t lock;
    nm_plain *spare;
    _Atomic(nm_plain *) places[NM_PLAIN_PLACES]; /* whose the functions of a place are */
} plains = {.lock = PTHREAD_MUTEX_INITIALIZER};

static void plains_before_fork(void) { pthread_mutex_lock(&plains.lock); }
static void plains_after_fork(void) { pthread_mutex_unlock(&plains.lock); }
static void plains_register_forks(void) { (void)pthread_atfork(plains_before_fork, plains_after_fork, plains_after_fork); }

static void plain_set_shapes(nm_plain *p);

nm_plain *nm_plain_create(nm_allocator upstream, const nm_heap *heap) {
    static pthread_once_t done = PTHREAD_ONCE_INIT;
    (void)pthread_once(&done, plains_register_forks);
    pthread_mutex_lock(&plains.lock);
    nm_plain *p = plains.spare;
    if (p != NULL) plains.spare = p->next;
    pthread_mutex_unlock(&plains.lock);
    if (p == NULL) p = nm__meta_alloc(sizeof *p);
    if (p == NULL) return NULL;
    p->upstream = upstream;
    p->heap = heap;
    p->key = (uintptr_t)nm__os_random() | 1;
    p->place = NM_PLAIN_PLACES;
    plain_set_shapes(p);
    atomic_store_explicit(&p->open, true, memory_order_release);
    return p;
}

void nm_plain_destroy(nm_plain *p) {
    if (p == NULL) return;
    pthread_mutex_lock(&plains.lock);
    if (!atomic_exchange(&p->open, false)) {
        pthread_mutex_unlock(&plains.lock);
        return;
    }
    if (p->place != NM_PLAIN_PLACES) atomic_store(&plains.places[p->place], NULL);
    p->next = plains.spare;
    plains.spare = p;
    pthread_mutex_unlock(&plains.lock);
}

/* ---- sizes ---------------------------------------------------------------------------------------- */

NM_INLINE bool plain_is_open(const nm_plain *p) {
    return p != NULL && NM_LIKELY(atomic_load_explicit(&((nm_plain *)(uintptr_t)p)->open, memory_order_acquire));
}

NM_INLINE plain_header *plain_header_of(const void *ptr) { return (plain_header *)(uintptr_t)ptr - 1; }

static uintptr_t plain_mark(const nm_plain *p, const void *ptr, size_t size) {
    uintptr_t mark = ((uintptr_t)ptr ^ p->key) + size * (uintptr_t)0x9E3779B97F4A7C15U;
    return mark | 1;
}

/* What is to be asked for; false: no block has so much. */
static bool plain_bytes_for(const nm_plain *p, size_t size, size_t *bytes) {
    if (size > NM_SIZE_MAX - NM_PORT_ALIGN_MAX) return nm__fail(NM_INVALID_LAYOUT, size, 0, 0), false;
    size += size == 0;
    *bytes = p->heap != NULL ? nm_heap_usable(p->heap, size, NM_ALIGN_DEFAULT) : size + sizeof(plain_header);
    return true;
}

static void *plain_put_header(const nm_plain *p, void *ptr, size_t bytes) {
    if (p->heap != NULL || ptr == NULL) return ptr;
    plain_header *h = ptr;
    h->size = bytes - sizeof *h;
    h->mark = plain_mark(p, h + 1, h->size);
    return h + 1;
}

/* The block as upstream knows it. NM_OK only for what looks like one of p's. */
static nm_status plain_find_block(const nm_plain *p, void *ptr, void **block, size_t *bytes) {
    if (p->heap != NULL) {
        if (nm_heap_of(ptr) != p->heap) return nm__fail(NM_FOREIGN_BLOCK, 0, 0, 0);
        *block = ptr;
        nm_status status = nm__heap_measure(ptr, bytes);
        return status == NM_OK ? NM_OK : nm__fail(status, 0, 0, 0);
    }
    plain_header *h = plain_header_of(ptr);
    if (!nm_is_aligned((uintptr_t)ptr, sizeof *h)) return nm__fail(NM_FOREIGN_BLOCK, 0, 0, 0);
    if (h->mark != plain_mark(p, ptr, h->size)) return nm__fail(h->mark == 0 ? NM_DOUBLE_FREE : NM_FOREIGN_BLOCK, 0, 0, 0);
    *block = h;
    *bytes = h->size + sizeof *h;
    return NM_OK;
}

size_t nm_plain_size(const nm_plain *p, const void *ptr) {
    void *block;
    size_t bytes;
    if (ptr == NULL || !plain_is_open(p) || plain_find_block(p, (void *)(uintptr_t)ptr, &block, &bytes) != NM_OK) return 0;
    return p->heap != NULL ? bytes : bytes - sizeof(plain_header);
}

/* ---- the four ------------------------------------------------------------------------------------- */

void *nm_plain_malloc(nm_plain *p, size_t size) {
    size_t bytes;
    if (!plain_is_open(p)) return nm_refuse(NM_CLOSED, size, 0, 0);
    if (!plain_bytes_for(p, size, &bytes)) return NULL;
    return plain_put_header(p, p->upstream.methods->alloc(p->upstream.self, bytes, NM_ALIGN_DEFAULT), bytes);
}

void *nm_plain_calloc(nm_plain *p, size_t count, size_t size) {
    size_t bytes;
    if (!nm_mul(count, size, &bytes)) return nm_refuse(NM_INVALID_LAYOUT, SIZE_MAX, 0, 0);
    bytes += bytes == 0;
    void *ptr = nm_plain_malloc(p, bytes);
    if (ptr != NULL) memset(ptr, 0, bytes);
    return ptr;
}

nm_status nm_plain_free(nm_plain *p, void *ptr) {
    void *block;
    size_t bytes;
    if (ptr == NULL || !plain_is_open(p)) return NM_OK;
    nm_status status = plain_find_block(p, ptr, &block, &bytes);
    if (status != NM_OK) return status;
    uintptr_t mark = 0;
    if (p->heap == NULL) {
        mark = plain_header_of(ptr)->mark;
        plain_header_of(ptr)->mark = 0;
    }
    status = p->upstream.methods->free(p->upstream.self, block, bytes, NM_ALIGN_DEFAULT);
    if (NM_UNLIKELY(status != NM_OK) && p->heap == NULL) plain_header_of(ptr)->mark = mark;
    return status;
}

void *nm_plain_realloc(nm_plain *p, void *ptr, size_t size) {
    void *block;
    size_t had, bytes;
    if (ptr == NULL || !plain_is_open(p)) return nm_plain_malloc(p, size);
    if (plain_find_block(p, ptr, &block, &had) != NM_OK || !plain_bytes_for(p, size, &bytes)) return NULL;
    if (bytes == had) return ptr;
    void *moved = plain_put_header(p, nm_realloc(p->upstream, block, had, bytes, NM_ALIGN_DEFAULT), bytes);
    /* callers do not expect that less is refused, and a block that is too large will do */
    return moved == NULL && bytes < had && nm__is_want(nm_last_failure().status) ? ptr : moved;
}

/* ---- as a port ------------------------------------------------------------------------------------ */

static void *plain_port_alloc(void *self, size_t size, size_t align) {
    if (align > NM_ALIGN_DEFAULT) return nm_refuse(NM_INVALID_LAYOUT, size, 0, 0);
    return nm_plain_malloc(self, size);
}

static bool plain_port_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    nm_plain *p = self;
    void *block;
    size_t had, bytes;
    (void)old;
    if (!plain_is_open(p) || plain_find_block(p, ptr, &block, &had) != NM_OK || !plain_bytes_for(p, size, &bytes)) return false;
    if (bytes == had) return true;
    if (!p->upstream.methods->resize(p->upstream.self, block, had, bytes, align)) return false;
    (void)plain_put_header(p, block, bytes);
    return true;
}

static nm_status plain_port_free(void *self, void *ptr, size_t size, size_t align) {
    (void)size, (void)align;
    return nm_plain_free(self, ptr);
}

static void plain_port_stats(void *self, nm_stats *out) {
    const nm_plain *p = self;
    *out = (nm_stats){0};
    if (plain_is_open(p)) p->upstream.methods->stats(p->upstream.self, out);
}

nm_allocator nm_plain_port(nm_plain *p) {
    static const nm_methods plain_port_methods = {plain_port_alloc, plain_port_resize, plain_port_free, plain_port_stats};
    return (nm_allocator){p, &plain_port_methods};
}

/* ---- shapes with a context ------------------------------------------------------------------------ */

void *nm_plain_lua(void *plain, void *ptr, size_t old, size_t size) {
    (void)old; /* without a block it is the type of what is asked for */
    if (size != 0) return nm_plain_realloc(plain, ptr, size);
    (void)nm_plain_free(plain, ptr);
    return NULL;
}

void *nm_plain_zalloc(void *plain, unsigned items, unsigned size) { return nm_plain_malloc(plain, (size_t)items * size); }

void *nm_plain_bzalloc(void *plain, int items, int size) {
    if (items < 0 || size < 0) return nm_refuse(NM_INVALID_LAYOUT, SIZE_MAX, 0, 0);
    return nm_plain_malloc(plain, (size_t)items * (size_t)size);
}

void nm_plain_zfree(void *plain, void *ptr) { (void)nm_plain_free(plain, ptr); }

void *nm_plain_alloc(void *plain, size_t size) { return nm_plain_malloc(plain, size); }

static void *plain_lzma_alloc(void *plain, size_t items, size_t size) {
    size_t bytes;
    if (!nm_mul(items, size, &bytes)) return nm_refuse(NM_INVALID_LAYOUT, SIZE_MAX, 0, 0);
    return nm_plain_malloc(plain, bytes);
}

/* FreeType's sizes are longs; it asks for none below 1. */
static void *plain_freetype_alloc(nm_plain_freetype *memory, long size) {
    if (size < 0) return nm_refuse(NM_INVALID_LAYOUT, SIZE_MAX, 0, 0);
    return nm_plain_malloc(memory->user, (size_t)size);
}
static void plain_freetype_free(nm_plain_freetype *memory, void *ptr) { (void)nm_plain_free(memory->user, ptr); }
static void *plain_freetype_realloc(nm_plain_freetype *memory, long old, long size, void *ptr) {
    (void)old;
    if (size < 0) return nm_refuse(NM_INVALID_LAYOUT, SIZE_MAX, 0, 0);
    return nm_plain_realloc(memory->user, ptr, (size_t)size);
}

/* Of a spare they are the same already: a library may still read them. */
static void plain_set_shapes(nm_plain *p) {
    if (p->freetype.user != NULL) return;
    p->lzma = (nm_plain_lzma){plain_lzma_alloc, nm_plain_zfree, p};
    p->freetype = (nm_plain_freetype){p, plain_freetype_alloc, plain_freetype_free, plain_freetype_realloc};
}

const nm_plain_lzma *nm_plain_lzma_of(nm_plain *p) { return &p->lzma; }
nm_plain_freetype *nm_plain_freetype_of(nm_plain *p) { return &p->freetype; }

/* ---- shapes without: a set of functions for each place ---------------------------------------------- */

NM_INLINE nm_plain *plain_in_place(size_t i) { return atomic_load_explicit(&plains.places[i], memory_order_acquire); }

/* SQLite's sizes are ints; it takes none above 0x7fffff00. */
NM_INLINE void *plain_sqlite_malloc(nm_plain *p, int size) { return size <= 0 ? NULL : nm_plain_malloc(p, (size_t)size); }
NM_INLINE void *plain_sqlite_realloc(nm_plain *p, void *ptr, int size) {
    return size <= 0 ? NULL : nm_plain_realloc(p, ptr, (size_t)size);
}
NM_INLINE int plain_sqlite_size(nm_plain *p, void *ptr) {
    size_t size = nm_plain_size(p, ptr);
    return size > INT32_MAX ? INT32_MAX : (int)size; /* behind the largest lie 2 GiB */
}
static int plain_sqlite_round_up(int size) { return size > INT32_MAX - 7 ? size : (size + 7) & ~7; }
static int plain_sqlite_begin(void *unused) { return (void)unused, 0; }
static void plain_sqlite_end(void *unused) { (void)unused; }

#define EACH_PLACE(X) X(0) X(1) X(2) X(3) X(4) X(5) X(6) X(7) X(8) X(9) X(10) X(11) X(12) X(13) X(14) X(15)

#define FUNCTIONS(i)                                                                                                    \
    static void *malloc_##i(size_t size) { return nm_plain_malloc(plain_in_place(i), size); }                           \
    static void *realloc_##i(void *ptr, size_t size) { return nm_plain_realloc(plain_in_place(i), ptr, size); }         \
    static void free_##i(void *ptr) { (void)nm_plain_free(plain_in_place(i), ptr); }                                    \
    static void *calloc_##i(size_t count, size_t size) { return nm_plain_calloc(plain_in_place(i), count, size); }      \
    static size_t size_##i(void *ptr) { return nm_plain_size(plain_in_place(i), ptr); }                                 \
    static void *sqlite_malloc_##i(int size) { return plain_sqlite_malloc(plain_in_place(i), size); }                   \
    static void *sqlite_realloc_##i(void *ptr, int size) { return plain_sqlite_realloc(plain_in_place(i), ptr, size); } \
    static int sqlite_size_##i(void *ptr) { return plain_sqlite_size(plain_in_place(i), ptr); }
EACH_PLACE(FUNCTIONS)

#define CALLS(i) {malloc_##i, realloc_##i, free_##i, calloc_##i, size_##i},
static const nm_plain_calls plain_malloc_methods[] = {EACH_PLACE(CALLS)};
_Static_assert(sizeof plain_malloc_methods / sizeof *plain_malloc_methods == NM_PLAIN_PLACES,
               "a set of functions for each place");

#define SQLITE(i)                                                                    \
    {sqlite_malloc_##i,     free_##i,           sqlite_realloc_##i, sqlite_size_##i, \
     plain_sqlite_round_up, plain_sqlite_begin, plain_sqlite_end,   NULL},
static const nm_plain_sqlite plain_sqlite_methods[] = {EACH_PLACE(SQLITE)};

static size_t plain_place_of(nm_plain *p) {
    pthread_mutex_lock(&plains.lock);
    bool open = plain_is_open(p); /* a spare would keep the place */
    for (size_t i = 0; open && p->place == NM_PLAIN_PLACES && i < NM_PLAIN_PLACES; i++) {
        if (plain_in_place(i) != NULL) continue;
        atomic_store(&plains.places[i], p);
        p->place = i;
    }
    size_t place = open ? p->place : NM_PLAIN_PLACES;
    pthread_mutex_unlock(&plains.lock);
    if (!open) (void)nm__fail(NM_CLOSED, 0, 0, 0);
    else if (place == NM_PLAIN_PLACES) (void)nm__fail(NM_CAPACITY_EXCEEDED, 1, NM_PLAIN_PLACES, NM_PLAIN_PLACES);
    return place;
}

const nm_plain_calls *nm_plain_calls_of(nm_plain *p) {
    size_t place = plain_place_of(p);
    return place == NM_PLAIN_PLACES ? NULL : &plain_malloc_methods[place];
}

const nm_plain_sqlite *nm_plain_sqlite_of(nm_plain *p) {
    size_t place = plain_place_of(p);
    return place == NM_PLAIN_PLACES ? NULL : &plain_sqlite_methods[place];
}
