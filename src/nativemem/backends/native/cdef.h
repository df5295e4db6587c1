/* The control plane: what C that Python calls through cffi, beyond what each structure has. The contracts stand in
 * csrc/include. For each structure in the list of csrc/binding/owned.h ffi_build.py adds its type, own_<noun>,
 * nm_<noun>_destroy and nm_<noun>_port. tests/test_cdef.py compares all of it with the headers. */

#define NM_BUILT_NATIVE ...

enum nm_status {
    NM_OK,
    NM_OUT_OF_MEMORY,
    NM_EXHAUSTED,
    NM_OVER_BUDGET,
    NM_INVALID_LAYOUT,
    NM_FOREIGN_BLOCK,
    NM_WRONG_THREAD,
    NM_INVALID_MARK,
    NM_CLOSED,
    NM_UNDERFLOW,
    NM_LIFO_VIOLATION,
    NM_DOUBLE_FREE,
    NM_CORRUPTED,
    NM_POOL_EXHAUSTED,
    NM_CAPACITY_EXCEEDED,
    NM_TIMED_OUT,
    ...
};
typedef enum nm_status nm_status;

typedef struct {
    nm_status status;
    size_t requested, used, limit;
    ...;
} nm_failure;
nm_failure nm_last_failure(void);

typedef struct {
    size_t used, peak, reserved, limit, total, live, count, frees, failures;
    ...;
} nm_stats;
typedef struct {
    void (*stats)(void *self, nm_stats *out);
    ...;
} nm_methods;
typedef struct {
    void *self;
    const nm_methods *methods;
    ...;
} nm_allocator;

/* budget */
typedef struct {
    size_t requested, used, limit;
    const nm_budget *refuser;
    int64_t time_ns;
    int kind;
    ...;
} nm_denial;
typedef struct {
    double warn, critical, max_single, overcommit;
    size_t minimum;
    bool auto_rebalance;
    nm_budget *shared;
    size_t shared_max;
    ...;
} nm_budget_options;
bool nm_budget_charge(nm_budget *b, size_t n);
nm_status nm_budget_release(nm_budget *b, size_t n);
void nm_budget_set_limit(nm_budget *b, size_t limit);
void nm__budget_hold_back(nm_budget *b, size_t n);
void nm__budget_introduce(nm_budget *b, const char *name);
typedef struct {
    uint64_t number;
    int64_t time_ns;
    uint64_t thread;
    uint32_t kind, detail;
    uint64_t requested, used, limit;
    char name[40], other[40];
    ...;
} nm__event;
size_t nm__events_read(uint64_t after, nm__event *out, size_t cap);
typedef struct {
    nm_budget *charged, *refuser;
} nm__refusal;
bool nm__budget_take_refusal(nm__refusal *out);
void nm__budget_uncount(nm_budget *charged, nm_budget *refuser);
size_t nm_budget_used(const nm_budget *b);
size_t nm_budget_peak(const nm_budget *b);
size_t nm_budget_take_peak(nm_budget *b);
typedef struct {
    size_t count, bytes;
    ...;
} nm_charges;
nm_charges nm_budget_charges(const nm_budget *b);
size_t nm_budget_limit(const nm_budget *b);
size_t nm_budget_denied(const nm_budget *b);
void nm_budget_lock(nm_budget *b);
bool nm_budget_is_locked(const nm_budget *b);
size_t nm_budget_shared_used(const nm_budget *b);
const char *nm_budget_check(const nm_budget *b);
nm_status nm_budget_lend(nm_budget *from, nm_budget *to, size_t n, int64_t timeout_ns);
typedef struct {
    const nm_budget *from, *to;
    size_t bytes;
    ...;
} nm_move;
size_t nm_budget_rebalance(nm_budget *parent, nm_move *moves, size_t cap);
typedef enum { NM_NORMAL, NM_WARN, NM_CRITICAL, NM_FULL, ... } nm_pressure;
nm_pressure nm_budget_pressure(const nm_budget *b);
bool nm_budget_crossed(const nm_budget **b, int *level, bool *was_normal);
bool nm_budget_last_denial(nm_budget *b, nm_denial *out);

/* arena */
typedef struct {
    uint64_t generation;
    ...;
} nm_arena_mark;
typedef struct {
    size_t hint, cap;
    bool grow, zero_on_free, patterns;
    ...;
} nm_arena_options;
nm_status nm_arena_clear(nm_arena *a);
nm_status nm_arena_check_thread(const nm_arena *a);
nm_status nm_arena_hand_over(nm_arena *a, uintptr_t thread);
size_t nm_arena_largest_free(const nm_arena *a);

/* stack */
typedef struct nm_stack nm_stack;
size_t nm_stack_largest_free(const nm_stack *s);
typedef struct {
    uint64_t generation;
    ...;
} nm_stack_mark;
void nm_stack_destroy(nm_stack *s);
nm_allocator nm_stack_port(nm_stack *s);
nm_status nm_stack_clear(nm_stack *s);
nm_status nm_stack_check_thread(const nm_stack *s);
nm_status nm_stack_hand_over(nm_stack *s, uintptr_t thread);

/* pool */
typedef struct nm_pool nm_pool;
void nm_pool_destroy(nm_pool *p);
nm_allocator nm_pool_port(nm_pool *p);
nm_status nm_pool_clear(nm_pool *p);
size_t nm_pool_cell(const nm_pool *p);
nm_status nm_pool_check_thread(const nm_pool *p);
nm_status nm_pool_hand_over(nm_pool *p, uintptr_t thread);

/* slab */
nm_status nm_slab_trim(nm_slab *s);
size_t nm_slab_usable(const nm_slab *s, size_t size, size_t align);
nm_status nm_slab_check_thread(const nm_slab *s);
nm_status nm_slab_hand_over(nm_slab *s, uintptr_t thread);

/* heap and region */
void nm_heap_clear(nm_heap *h);
void nm_heap_trim(nm_heap *h);
size_t nm_heap_usable(const nm_heap *h, size_t size, size_t align);

bool own_is_idle(void *self, const nm_methods *methods);

/* malloc's shape, for C code */
#define NM_PLAIN_PLACES ...
nm_status nm_plain_free(nm_plain *p, void *ptr);
void *nm_plain_lua(void *plain, void *ptr, size_t old, size_t size);
void *nm_plain_zalloc(void *plain, unsigned int items, unsigned int size);
void *nm_plain_bzalloc(void *plain, int items, int size);
void nm_plain_zfree(void *plain, void *ptr);
void *nm_plain_alloc(void *plain, size_t size);
typedef struct {
    void *(*alloc)(void *opaque, size_t items, size_t size);
    void (*free)(void *opaque, void *ptr);
    void *opaque;
} nm_plain_lzma;
const nm_plain_lzma *nm_plain_lzma_of(nm_plain *p);
typedef struct nm_plain_freetype nm_plain_freetype;
struct nm_plain_freetype {
    void *user;
    void *(*alloc)(nm_plain_freetype *memory, long size);
    void (*free)(nm_plain_freetype *memory, void *ptr);
    void *(*realloc)(nm_plain_freetype *memory, long old, long size, void *ptr);
};
nm_plain_freetype *nm_plain_freetype_of(nm_plain *p);
typedef struct {
    void *(*malloc)(size_t size);
    void *(*realloc)(void *ptr, size_t size);
    void (*free)(void *ptr);
    void *(*calloc)(size_t count, size_t size);
    size_t (*usable_size)(void *ptr);
} nm_plain_calls;
typedef struct {
    void *(*xMalloc)(int size);
    void (*xFree)(void *ptr);
    void *(*xRealloc)(void *ptr, int size);
    int (*xSize)(void *ptr);
    int (*xRoundup)(int size);
    int (*xInit)(void *);
    void (*xShutdown)(void *);
    void *pAppData;
} nm_plain_sqlite;
const nm_plain_calls *nm_plain_calls_of(nm_plain *p);
const nm_plain_sqlite *nm_plain_sqlite_of(nm_plain *p);

/* memlib */
void *nm_hmalloc(size_t size);
bool nm_mem_uninit(void);
void nm_memlib_use(nm_plain *plain);
nm_plain *nm_memlib_now(void);

/* wrappers */
void nm_limited_clear(nm_limited *l);

#define NM_HISTO_BUCKETS ...
typedef struct {
    bool histogram, zero_on_free;
    uintptr_t (*site)(void *context);
    void *context;
    size_t sample;
    ...;
} nm_traced_options;
bool nm_traced_histogram(const nm_traced *t, uint64_t *sizes, uint64_t *latencies);
uintptr_t nm_traced_site_of(const nm_traced *t, const void *ptr);
size_t nm_traced_sites(const nm_traced *t, uintptr_t *sites, size_t *sizes, size_t cap);
size_t nm_histo_size(unsigned bucket);
typedef struct nm_stacks nm_stacks;
void nm_stacks_destroy(nm_stacks *s);
uintptr_t nm__stacks_site(void *stacks);

/* failing */
void nm_failing_arm(nm_failing *f, size_t n, bool sticky);
size_t nm_failing_calls(const nm_failing *f);
size_t nm_failing_failed(const nm_failing *f);

/* verified */
typedef enum {
    NM_VERIFY_OFF, NM_VERIFY_BASIC, NM_VERIFY_SAMPLING, NM_VERIFY_STANDARD, NM_VERIFY_FULL, NM_VERIFY_REDUNDANT, ...
} nm_verification;
nm_status nm_verified_seal(nm_verified *v, void *ptr);
nm_status nm_verified_unseal(nm_verified *v, void *ptr);
typedef struct {
    const void *ptr;
    size_t size, compared;
    ...;
} nm_verified_finding;
nm_status nm_verified_verify(nm_verified *v, nm_verified_finding *out);
size_t nm_verified_checks(const nm_verified *v);
size_t nm_verified_failures(const nm_verified *v);

/* locked */
uintptr_t nm_locked_thread(const nm_locked *l);
size_t nm_locked_contended(const nm_locked *l);
uintptr_t nm_locked_enter(nm_locked *l);
void nm_locked_leave(uintptr_t before);
uintptr_t nm_this_thread(void);

/* utilities */
size_t nm_align_down(size_t n, size_t align);
size_t nm_padding_needed(size_t n, size_t align);
bool nm_next_power_of_two(size_t n, size_t *out);
bool nm_align_up(size_t n, size_t align, size_t *out);
bool nm_is_aligned(uintptr_t address, size_t align);
void nm_copy(void *to, const void *from, size_t size);
void nm_fill(void *ptr, unsigned char byte, size_t size);
int nm_compare(const void *a, const void *b, size_t size);
void nm_secure_zero(void *ptr, size_t size);
bool nm_equal_constant_time(const void *a, const void *b, size_t size);

/* engine */
nm_budget *nm_engine_budget(void);
