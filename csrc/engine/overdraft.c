#include "engine/overdraft.h" /* first: Python.h wants to be */

#include "engine/census.h"
#include "engine/denials.h"
#include "engine/insides.h"
#include "engine/spared.h"
#include "tuning.h"
#include "wrap/sites.h"

#include <sched.h>

nm_heap *nm__overdraft_heap; /* has no budget: its blocks are charged, not what it holds */

/* Every block. site: the owner that is charged, and the process with it; or one of these. */
#define SITE_OF_PROCESS ((uintptr_t)1)
#define SITE_LENT ((uintptr_t)2)           /* to no owner, beyond every limit */
#define SITE_LENT_TO_SPARED ((uintptr_t)3) /* within NM_OVERDRAFT_LENT_TO_SPARED */
#define SITE_LENT_TO_INTERPRETER ((uintptr_t)4) /* within NM_OVERDRAFT_LENT_TO_INTERPRETER */
#define SITE_UNCOUNTED ((uintptr_t)5)      /* beyond all that: an int or a frame */

static struct {
    atomic_bool locked;
    nm__sites table;
    size_t lent, lent_to_interpreter; /* bytes, to no owner */
} overdraft_blocks;

static nm__denial_call overdraft_at_denial;
void nm__overdraft_at_denial(nm__denial_call call) { overdraft_at_denial = call; }

static void overdraft_lock(void) {
    while (NM_UNLIKELY(atomic_exchange_explicit(&overdraft_blocks.locked, true, memory_order_acquire))) sched_yield();
}

static void overdraft_unlock(void) { atomic_store_explicit(&overdraft_blocks.locked, false, memory_order_release); }

bool nm__overdraft_start(nm_budget *of, bool secure) {
    if (nm__overdraft_heap != NULL) return true;
    nm__charge_process = of;
    nm__overdraft_heap = nm_heap_create(NULL, secure);
    if (nm__overdraft_heap == NULL) return false;
    /* for good: so there is a superblock of such cells when the system has no more */
    (void)nm_heap_malloc(nm__overdraft_heap, NM_OVERDRAFT_INT_SIZE);
    nm__spared_learn_library();
    (void)pthread_atfork(overdraft_lock, overdraft_unlock, overdraft_unlock);
    return true;
}

void nm__overdraft_add_census(nm_census *sum) {
    nm_census one;
    nm_heap_census(nm__overdraft_heap, &one);
    nm__census_add(sum, &one);
}

/* As if it had been asked for in vain, though it may have been had from the overdraft. false: it would have been served. */
static bool overdraft_remember_denial(nm__owner *o, size_t bytes) {
    bool held = nm__charge_both(o, bytes, nm__budget_hold);
    if (held) nm__charge_release(o, bytes);
    return !held;
}

/* What the interpreter takes for itself, between the instructions that bear a refusal and outside of calls, cannot go on
 * for long: there is an instruction for each. Where a thread has no safe points that matters. */
static bool overdraft_may_go_on(const PyThreadState *thread, size_t size) {
    return thread == NULL || nm__insides_bears_refusal(thread, size) ||
           (nm__insides_is_in_call(thread) && !nm__insides_is_for_traceback(thread, size));
}

static bool overdraft_is_spared_now(PyThreadState *thread) { return thread == NULL || !nm__spared_may_interrupt(thread); }

/* The int of a handler. Pre: the thread has a state. */
static bool overdraft_may_be_for_handler(size_t size) { return size <= NM_OVERDRAFT_INT_SIZE && PyErr_Occurred() != NULL; }

static bool overdraft_lend_to_all(size_t bytes) {
    overdraft_lock();
    bool may = overdraft_blocks.lent + bytes <= NM_OVERDRAFT_LENT_IN_ALL;
    if (may) overdraft_blocks.lent += bytes;
    overdraft_unlock();
    if (may) nm__denial_here.lent += bytes;
    return may;
}

/* Beyond every limit: what the block is to be known as; 0: it may not be had. */
static uintptr_t overdraft_lend(size_t bytes, size_t size, PyThreadState *thread) {
    if (size > NM_OVERDRAFT_SMALL) return 0;
    bool enough = nm__denial_here.lent + bytes > NM_OVERDRAFT_LENT_TO_SAFE_POINT && overdraft_may_go_on(thread, size);
    if (!enough && overdraft_lend_to_all(bytes)) return SITE_LENT;
    if (nm__denial_here.lent_to_spared + bytes <= NM_OVERDRAFT_LENT_TO_SPARED && overdraft_is_spared_now(thread)) {
        nm__denial_here.lent_to_spared += bytes;
        return SITE_LENT_TO_SPARED;
    }
    if (thread == NULL) return 0;
    return nm__insides_is_for_frame(thread, size) || overdraft_may_be_for_handler(size) ? SITE_UNCOUNTED : 0;
}

/* What no code of the program's has asked for, or would be told of: how much of that may be lent; 0: it is none. */
static size_t overdraft_most_for_interpreter(PyThreadState *thread, size_t size) {
    if (nm__insides_is_for_interned(thread, size)) return NM_OVERDRAFT_LENT_TO_INTERPRETER / 2;
    bool shows, own = nm__spared_is_without_program(thread, &shows) &&
                      PyThreadState_GetInterpreter(thread) == PyInterpreterState_Main() &&
                      (shows || nm__denial_is_main_thread()); /* in others the library works for the program's code */
    return own ? NM_OVERDRAFT_LENT_TO_INTERPRETER : 0;
}

static bool overdraft_lend_to_interpreter(size_t bytes, size_t most) {
    overdraft_lock();
    bool may = overdraft_blocks.lent_to_interpreter <= most && bytes <= most - overdraft_blocks.lent_to_interpreter;
    if (may) overdraft_blocks.lent_to_interpreter += bytes;
    overdraft_unlock();
    return may;
}

static void overdraft_give_back(uintptr_t site, size_t bytes) {
    if (site == SITE_LENT) {
        overdraft_lock();
        overdraft_blocks.lent -= bytes;
        overdraft_unlock();
        nm__denial_here.lent -= bytes < nm__denial_here.lent ? bytes : nm__denial_here.lent;
    } else if (site == SITE_LENT_TO_INTERPRETER) {
        overdraft_lock();
        overdraft_blocks.lent_to_interpreter -= bytes;
        overdraft_unlock();
    } else if (site == SITE_LENT_TO_SPARED) {
        nm__denial_here.lent_to_spared -= bytes < nm__denial_here.lent_to_spared ? bytes : nm__denial_here.lent_to_spared;
    } else if (site == SITE_OF_PROCESS) {
        nm__charge_release(NULL, bytes);
    } else {
        nm__owner *o = (nm__owner *)site;
        nm__charge_release(o, bytes);
        nm__owner_let_go(o);
    }
}

static void *overdraft_serve_from_heap(size_t size, bool zeroed) {
    return zeroed ? nm_heap_calloc(nm__overdraft_heap, 1, size) : nm_heap_malloc(nm__overdraft_heap, size);
}

/* The block itself, and where it is charged. NULL: the system has no more; nothing is charged then. What is charged nowhere
 * is in no table: the interpreter needs it where the system has no memory for a larger one. */
static void *overdraft_serve(size_t size, size_t bytes, bool zeroed, uintptr_t site) {
    if (site == SITE_UNCOUNTED) return overdraft_serve_from_heap(size, zeroed);
    overdraft_lock();
    bool promised = nm__sites_promise(&overdraft_blocks.table);
    overdraft_unlock();
    void *ptr = promised ? overdraft_serve_from_heap(size, zeroed) : NULL;
    if (site > SITE_UNCOUNTED) nm__owner_claim((nm__owner *)site);
    overdraft_lock();
    if (ptr != NULL) nm__sites_add(&overdraft_blocks.table, (nm__site){ptr, bytes, site});
    else if (promised) nm__sites_forget_promise(&overdraft_blocks.table);
    overdraft_unlock();
    if (ptr == NULL) overdraft_give_back(site, bytes);
    return ptr;
}

nm_status nm__overdraft_give(void *ptr) {
    overdraft_lock();
    nm__site *found = nm__sites_find(&overdraft_blocks.table, ptr), known = {NULL, 0, 0};
    if (found != NULL) {
        known = nm__sites_take(&overdraft_blocks.table, found);
        nm__sites_forget_promise(&overdraft_blocks.table);
    }
    overdraft_unlock();
    if (found == NULL) return nm_heap_free(nm__overdraft_heap, ptr); /* one SITE_UNCOUNTED; or no block: it says so */
    nm_status status = nm_heap_free(nm__overdraft_heap, ptr);
    if (status == NM_OK) overdraft_give_back(known.site, known.size);
    return status;
}

static void *overdraft_refuse(nm__owner *o, size_t bytes, bool raw) {
    if (!raw) nm__denial_keep_error_ready();
    (void)overdraft_remember_denial(o, bytes);
    nm__denial_tell(o, raw);
    return NULL;
}

static bool overdraft_is_urgent(PyThreadState *thread) {
    return nm__charge_now.aside || nm__insides_is_handling(thread) || !nm__spared_may_interrupt(thread);
}

void *nm__overdraft_take_unbounded(size_t size, bool zeroed) {
    if (nm__thread_state() == NULL || !overdraft_may_be_for_handler(size)) return NULL;
    return overdraft_serve(size, nm_heap_usable(nm__overdraft_heap, size + (size == 0), 1), zeroed, SITE_UNCOUNTED);
}

void *nm__overdraft_take(size_t size, bool zeroed, bool raw) {
    bool by_system = nm_last_failure().status == NM_OUT_OF_MEMORY;
    if (size > NM_SIZE_MAX) return nm_refuse(NM_INVALID_LAYOUT, size, 0, 0);
    PyThreadState *thread = raw ? NULL : nm__thread_state();
    if (thread == NULL) raw = true;
    nm__owner *o = raw ? NULL : nm__charge_now.owner;
    size_t bytes = nm_heap_usable(nm__overdraft_heap, size + (size == 0), 1); /* what it would take */
    if (nm__denial_here.making) return overdraft_serve(size, bytes, zeroed, SITE_UNCOUNTED);
    if (size > NM_OVERDRAFT_SMALL_IF_URGENT && (raw || overdraft_most_for_interpreter(thread, size) == 0))
        return overdraft_refuse(o, bytes, raw);
    /* The code itself does not use up what is there for its errors. */
    if (by_system && !raw &&
        (size <= NM_OVERDRAFT_INT_SIZE ? !overdraft_may_be_for_handler(size)
                                       : overdraft_may_go_on(thread, size) && !overdraft_is_urgent(thread)))
        return overdraft_refuse(o, bytes, raw);
    uintptr_t site = o != NULL ? (uintptr_t)o : SITE_OF_PROCESS;
    if (size <= NM_CELL_MAX && nm__charge_both(o, bytes, nm__budget_try)) {
        void *ptr = overdraft_serve(size, bytes, zeroed, site);
        if (ptr == NULL) return overdraft_refuse(o, bytes, raw);
        nm__charge_settle(o);
        if (!raw && atomic_load(&nm__denial_is_told)) nm__denial_look_for_recovery();
        return ptr;
    }
    if (!raw && overdraft_lend_to_interpreter(bytes, overdraft_most_for_interpreter(thread, size))) {
        void *ptr = overdraft_serve(size, bytes, zeroed, SITE_LENT_TO_INTERPRETER);
        return ptr != NULL ? ptr : overdraft_refuse(o, bytes, raw);
    }
    bool ends = nm__insides_is_finalizing();
    bool urgent = raw || ends || overdraft_is_urgent(thread);
    nm__denial_notice_raised();
    bool silent = urgent || nm__denial_here.told || nm__denial_may_be_silent(o);
    bool asks = o != NULL && o->asks && !atomic_load(&o->told) && nm__denial_is_main_thread();
    if (!silent && !asks && nm__denial_here.handling == 0 && nm__insides_bears_refusal(thread, size))
        return overdraft_refuse(o, bytes, raw);
    void *ptr = NULL;
    if (size <= (urgent ? NM_OVERDRAFT_SMALL_IF_URGENT : NM_OVERDRAFT_SMALL) &&
        nm__charge_both(o, bytes, nm__budget_overdraw)) {
        ptr = overdraft_serve(size, bytes, zeroed, site);
        if (ptr != NULL) nm__charge_settle(o);
    } else {
        uintptr_t lent = overdraft_lend(bytes, size, thread);
        if (lent == 0 && ends && size <= NM_OVERDRAFT_SMALL_IF_URGENT) lent = SITE_UNCOUNTED;
        if (lent != 0 && !raw && nm__denial_has_safe_points())
            nm__denial_wait_for_safe_point(); /* it may have as much again then */
        if (lent != 0) ptr = overdraft_serve(size, bytes, zeroed, lent);
    }
    if (ptr == NULL) return overdraft_refuse(o, bytes, raw);
    if (!silent && nm__denial_put_off(o, thread)) {
        bool denied = overdraft_remember_denial(o, bytes);
        nm_failure failure = nm_last_failure();
        if (denied && overdraft_at_denial != NULL) overdraft_at_denial(o, failure.requested, failure.used, failure.limit);
        (void)nm__budget_take_refusal(&nm__denial_here.refusal);
    }
    return ptr;
}
