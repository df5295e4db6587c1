#include "engine/charge.h" /* first: Python.h wants to be */

NM_TLS nm__now nm__charge_now = {.settled = NM__NO_THREAD};
nm__charge_counts nm__charge_scopes;
void (*nm__charge_find)(PyThreadState *thread);
nm_budget *nm__charge_process;

/* Where generators roam, and the same one runs as when it was found out, in the same context, nothing has changed. */
void nm__charge_sync_slowly(void) {
    PyThreadState *thread = nm__thread_state();
    const nm__now *now = &nm__charge_now;
    if (thread == NULL) return;
    if (thread != now->thread || nm__charge_version(thread) != now->version || thread->id != now->id || now->unsettled ||
        !nm__charge_roams() || thread->exc_info != now->running)
        nm__charge_find(thread);
}

bool nm__charge_both(nm__owner *o, size_t bytes, bool (*how)(nm_budget *, size_t)) {
    if (o != NULL && !how(o->budget, bytes)) return false;
    if (how(nm__charge_process, bytes)) return true;
    if (o != NULL) (void)nm_budget_release(o->budget, bytes);
    return false;
}

void nm__charge_release(nm__owner *o, size_t bytes) {
    if (o != NULL) (void)nm_budget_release(o->budget, bytes);
    (void)nm_budget_release(nm__charge_process, bytes);
}

void nm__charge_settle(nm__owner *o) {
    if (o != NULL) nm__budget_settle(o->budget);
    nm__budget_settle(nm__charge_process);
}
