#include "engine/serve.h" /* first: Python.h wants to be */

#include "engine/insides.h"
#include "engine/sampler.h"

NM_COLD void nm__serve_stop_if_corrupted(nm_status status) {
    if (status == NM_CORRUPTED) Py_FatalError("nativemem: bytes behind a block, or in a freed one, were written");
    if (status == NM_DOUBLE_FREE) Py_FatalError("nativemem: a block was freed twice");
}

bool nm__serve_may_pass_on(void) {
    nm_failure failure = nm_last_failure();
    nm__serve_stop_if_corrupted(failure.status);
    if (failure.status != NM_OVER_BUDGET && !nm__engine_is_bounded()) return true;
    if (NM_UNLIKELY(nm__sampler_is_on()))
        nm__sampler_refused(nm__charge_now.owner, failure.requested, failure.used, failure.limit);
    return false;
}

void *nm__serve_beyond(size_t size, bool zeroed) {
    nm__serve_stop_if_corrupted(nm_last_failure().status);
    bool bounded = nm__engine_is_bounded(); /* what is refused is passed on to no other then */
    void *ptr = bounded ? nm__overdraft_take(size, zeroed, false) : nm__overdraft_take_unbounded(size, zeroed);
    PyThreadState *thread = ptr == NULL && bounded ? nm__thread_state() : NULL;
    if (thread != NULL) nm__insides_prepare_refusal(thread, size);
    nm__serve_watch_pressure();
    return ptr;
}

NM_COLD void *nm__serve_slow(size_t size) {
    void *ptr = nm__heap_try(nm__charge_heap(nm__engine.heap), size);
    if (NM_UNLIKELY(ptr == NULL)) return nm__serve_beyond(size, false);
    if (NM_UNLIKELY(atomic_load_explicit(&nm__denial_is_told, memory_order_relaxed))) nm__denial_look_for_recovery();
    nm__serve_watch_pressure();
    return ptr;
}

NM_COLD bool nm__serve_is_of_others(nm_status status, const void *ptr) {
    nm__serve_stop_if_corrupted(status);
    return status == NM_FOREIGN_BLOCK && !nm__region_has(ptr);
}

/* not NM_COLD: gcc would take the fast path that calls it for cold, too */
__attribute__((noinline)) bool nm__serve_give_elsewhere(void *ptr, nm__superblock *sb) {
    nm_status status = nm__overdraft_owns(ptr) ? nm__overdraft_give(ptr) : nm__heap_free_far(nm__engine.heap, ptr, sb);
    return NM_LIKELY(status == NM_OK) || !nm__serve_is_of_others(status, ptr);
}

static void serve_copy_and_give(void *to, void *from, size_t old, size_t size, bool (*give_it)(void *)) {
    memcpy(to, from, old < size ? old : size);
    (void)give_it(from);
}

NM_COLD void *nm__serve_move_out(PyMemAllocatorEx *before, void *ptr, size_t size, bool on, bool (*give_it)(void *)) {
    size_t old = nm_heap_usable_of(ptr);
    if (!on && size <= old) return ptr;
    void *moved = before->malloc(before->ctx, size);
    if (moved != NULL) serve_copy_and_give(moved, ptr, old, size, give_it);
    return moved;
}

NM_COLD void *nm__serve_move_across(void *ptr, size_t size, void *(*take_it)(size_t), void *(*beyond_it)(size_t, bool),
                                    bool (*give_it)(void *)) {
    size_t old = nm_heap_usable_of(ptr);
    if (size <= old && nm__heap_stays(size, old)) return ptr;
    void *moved = nm__overdraft_owns(ptr) ? take_it(size) : beyond_it(size, false);
    if (moved == NULL) return size <= old ? ptr : NULL;
    serve_copy_and_give(moved, ptr, old, size, give_it);
    return moved;
}
