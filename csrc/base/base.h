/* What the layers above share of the operating system and the compiler. Not installed. */
#ifndef NM__BASE_H
#define NM__BASE_H

#include <pthread.h>
#include <stdatomic.h>

#include "base/assert.h"
#include "base/poison.h"
#include "nativemem/base.h"

#if defined(__GNUC__) || defined(__clang__)
#define NM_LIKELY(x) __builtin_expect(!!(x), 1)
#define NM_UNLIKELY(x) __builtin_expect(!!(x), 0)
#define NM_COLD __attribute__((noinline, cold))
#define NM_INLINE static inline __attribute__((always_inline))
/* Of glibc the loader keeps some static TLS for objects that it opens late, and the few bytes used fit: an access is then
 * an offset from the thread's register. musl's loader keeps none and refuses such an object (dlopen: "initial-exec TLS
 * resolves to dynamic definition"), and others need not keep any: there the compiler's model is the one for shared
 * objects. It asks no allocator in musl, which makes a thread's TLS with the thread. */
#ifdef __GLIBC__
#define NM_TLS _Thread_local __attribute__((tls_model("initial-exec")))
#else
#define NM_TLS _Thread_local
#endif
#else
#error "nativemem's core needs gcc or clang; build with USE_NATIVE_MEM=0 for the pure backend"
#endif

/* Hidden from the dynamic linker: inside a shared object a call of these takes no detour. */
#pragma GCC visibility push(hidden)

/* Control structures only; blocks never come from here. Zeroed; NULL with the last failure set. */
void *nm__meta_alloc(size_t size);
void nm__meta_free(void *ptr);

/* Sets the last failure and returns the status. */
#ifndef __clang_analyzer__
nm_status nm__fail(nm_status status, size_t requested, size_t used, size_t limit);
#else /* which does not look into other files, and has to know what comes back */
static inline nm_status nm__fail(nm_status status, size_t requested, size_t used, size_t limit) {
    return (void)requested, (void)used, (void)limit, status;
}
#endif
/* Want of memory, rather than misuse: the calls that stats count as failures. */
static inline bool nm__is_want(nm_status status) {
    return status == NM_OUT_OF_MEMORY || status == NM_EXHAUSTED || status == NM_OVER_BUDGET || status == NM_POOL_EXHAUSTED ||
           status == NM_CAPACITY_EXCEEDED;
}

/* nm_budget_charge in two steps: a charge that is released again before it is settled leaves no peak. */
struct nm_budget;
bool nm__budget_hold(struct nm_budget *b, size_t n);
/* As nm__budget_hold, but a refusal is neither counted nor remembered. */
bool nm__budget_try(struct nm_budget *b, size_t n);
void nm__budget_settle(struct nm_budget *b);
/* A charge that nm__budget_hold refused: the budget that was to be charged, and the one on its line that stood in the way. */
typedef struct nm__refusal {
    struct nm_budget *charged, *refuser;
} nm__refusal;
/* The calling thread's last, once. False: there is none, or nothing that was freed would have helped (max_single, a lock). */
bool nm__budget_take_refusal(nm__refusal *out);
/* The request is tried again, so what was counted as denied is so no longer. Pre: it was, with these two. */
void nm__budget_uncount(struct nm_budget *charged, struct nm_budget *refuser);
/* The last n bytes of the limit are for overdrafts alone. */
void nm__budget_hold_back(struct nm_budget *b, size_t n);
/* As nm__budget_try, but it may take what is held back, here and in the ancestors, too: for small blocks that the interpreter
 * does not survive without. Not settled either. */
bool nm__budget_overdraw(struct nm_budget *b, size_t n);
/* Bytes that a charge could take; below 0 what is overdrawn. */
int64_t nm__budget_left(const struct nm_budget *b);
bool nm__budget_is_deep(const struct nm_budget *b); /* more than half of the overdraft is drawn, here or in an ancestor */
bool nm__budget_has_recovered(const struct nm_budget *b); /* a charge of a quarter as much would pass, here and there */
/* Registers what budgets do about a fork, once: before code registers that calls budgets with a lock of its own held. */
void nm__budget_register_forks(void);
/* Crossings of its levels are not kept: there is no callback to be told of them. */
void nm__budget_is_unwatched(struct nm_budget *b);
/* What it is called in events, UTF-8; cut where it is long. Before other threads have it. Without it there are none. */
void nm__budget_introduce(struct nm_budget *b, const char *name);
/* As if it had just been made, by that name, but that what is in use stays charged. Pre: no other thread charges it, it has no
 * children, and nothing is lent. */
void nm__budget_renew(struct nm_budget *b, const char *name);
/* Whether nm_budget_crossed has something. */
extern atomic_bool nm__pressed;

/* Wipes in a way that the compiler cannot drop. */
void nm__wipe(void *ptr, size_t size);

/* What debug patterns are made of. */
#define NM__FRESH_ARENA 0xAA
#define NM__FRESH_STACK 0xCC
#define NM__FREED 0xDD

/* Address space. Sizes and addresses are multiples of the system's page. */
size_t nm__os_page_size(void); /* 4 KiB on x86-64; 4, 16 or 64 KiB on aarch64, as the kernel was built */
/* Maps memory at an address, zero at first touch. Where any part of it is mapped, nothing changes. */
typedef enum nm__mapping { NM__MAPPED, NM__TAKEN /* by another mapping */, NM__REFUSED /* there is no more */ } nm__mapping;
nm__mapping nm__os_map(void *at, size_t size);
bool nm__os_unmap(void *ptr, size_t size); /* false: the process has too many mappings; nothing has changed */
uintptr_t nm__os_landing(void); /* about where the system maps what has no address; 0: it maps nothing */
bool nm__os_open(void *ptr, size_t size); /* undoes nm__os_guard */
bool nm__os_purge(void *ptr, size_t size); /* pages back to the system, zero when touched again */
bool nm__os_guard(void *ptr, size_t size); /* inaccessible until opened */
bool nm__os_is_readable(const void *ptr, size_t size); /* slow; holds until the memory is unmapped */
uint64_t nm__os_random(void);
/* Pages of 2 MiB where they fit, if the system has them; or none but those there are. */
void nm__os_prefer_huge(void *ptr, size_t size, bool prefer);
uint64_t nm__os_now_ms(void); /* monotonic, coarse, no system call */
int64_t nm__os_time_ns(void); /* since the epoch */
int64_t nm__os_monotonic_ns(void);
size_t nm__os_address_limit(void); /* bytes of address space allowed; SIZE_MAX: no limit */

/* No two threads ever have the same number, so what belonged to a thread that has ended belongs to none. 0 is no
 * thread's. */
extern NM_TLS uintptr_t nm__thread_number;
uintptr_t nm__number_thread(void);
uintptr_t nm__new_thread_number(void); /* for what is no thread but owns things like one */
NM_INLINE uintptr_t nm__thread_id(void) { return NM_LIKELY(nm__thread_number != 0) ? nm__thread_number : nm__number_thread(); }
/* Whose confined allocators the thread may use: its own, or those that a Locked has it act for. 0 before the thread
 * has a number. */
extern NM_TLS uintptr_t nm__acting_as;
/* Pre: id != 0. */
NM_INLINE bool nm__may_use(uintptr_t owner) {
    NM_ASSERT(owner != 0);
    return nm__acting_as == owner;
}

/* Has every thread that is armed call `hook` when it ends. A hook that takes memory may arm its thread again;
 * it is then called once more. */
void nm__at_thread_end(void (*hook)(void));
void nm__arm_thread_end(void);

/* Counters that one thread writes and any may read: plain adds, no lock prefix, no torn reads. */
typedef _Atomic size_t nm__counter;
NM_INLINE size_t nm__get(const nm__counter *c) { return atomic_load_explicit((nm__counter *)c, memory_order_relaxed); }
NM_INLINE void nm__set(nm__counter *c, size_t n) { atomic_store_explicit(c, n, memory_order_relaxed); }
/* One instruction where the compilers make three of the load, the sum and the store. */
#if defined(__x86_64__) && !defined(NM__TSAN)
NM_INLINE void nm__bump(nm__counter *c, size_t n) { __asm__("addq %1, %0" : "+m"(*(size_t *)(void *)c) : "er"(n) : "cc"); }
#else
NM_INLINE void nm__bump(nm__counter *c, size_t n) { nm__set(c, nm__get(c) + n); }
#endif

/* Of two counters that a reader subtracts the smaller one is raised last and read first, so that no difference is below
 * zero. Orders: raising it releases, reading it acquires. What the thread that raises it has seen of the larger counter,
 * which other threads may have raised, is seen by each thread that reads the smaller one first. x86-64 keeps stores in
 * order, so there it is the same instruction, which the compiler must leave where it is. */
NM_INLINE void nm__set_last(nm__counter *c, size_t n) { atomic_store_explicit(c, n, memory_order_release); }
#if defined(__x86_64__) && !defined(NM__TSAN)
NM_INLINE void nm__bump_last(nm__counter *c, size_t n) {
    __asm__("addq %1, %0" : "+m"(*(size_t *)(void *)c) : "er"(n) : "cc", "memory");
}
#else
NM_INLINE void nm__bump_last(nm__counter *c, size_t n) { nm__set_last(c, nm__get(c) + n); }
#endif
NM_INLINE size_t nm__get_first(const nm__counter *c) { return atomic_load_explicit((nm__counter *)c, memory_order_acquire); }
NM_INLINE size_t nm__difference(const nm__counter *more, const nm__counter *less) {
    size_t n = nm__get_first(less);
    return nm__get(more) - n;
}

/* Counters that any thread may write. Orders: each write releases, as nm__bump_last does; a reader that concludes
 * something of other memory reads with nm__get_first. */
NM_INLINE size_t nm__atomic_add(nm__counter *c, size_t n) { return atomic_fetch_add_explicit(c, n, memory_order_release) + n; }
NM_INLINE size_t nm__atomic_sub(nm__counter *c, size_t n) { return atomic_fetch_sub_explicit(c, n, memory_order_release) - n; }
static inline void nm__atomic_max(nm__counter *c, size_t n) {
    size_t seen = nm__get(c);
    while (seen < n && !atomic_compare_exchange_weak_explicit(c, &seen, n, memory_order_relaxed, memory_order_relaxed)) {}
}

#pragma GCC visibility pop
#endif
