#include "engine/overdraft.h" /* first: Python.h wants to be */

#include "engine/engine.h"
#include "engine/insides.h"
#include "wrap/sites.h"

#include <sched.h>
#include <sys/syscall.h>
#include <unistd.h>

/* The largest block that may be overdrawn: larger ones are refused on the spot, which code bears better than to have
 * them and an error later. What a handler of a MemoryError, or code that may not be interrupted, asks for may be larger:
 * a traceback that is to be shown, or the 256 KiB and a header that an event loop reads into. */
#define SMALL NM_CELL_MAX
#define SMALL_IF_URGENT ((size_t)320 << 10)
/* With the overdraft used up, small blocks are had beyond every limit: so many bytes until the thread comes to a safe
 * point, so many after a refusal, and so many at any time in the process. */
#define LENT_TO_SAFE_POINT ((size_t)128 << 10)
#define LENT_AFTER_REFUSAL ((size_t)1024)
#define LENT_IN_ALL ((size_t)2 << 20)
/* Beyond that, too: the int that the interpreter makes, with the exception set, to enter a handler, since without it, it
 * tries for ever; the object of a frame that an exception passes through, since without it the exception is lost; and so
 * many bytes for each thread's code that must not be interrupted: one that is refused while it starts, or between a job
 * and its answer, is waited for in vain. */
#define INT_SIZE ((size_t)32)
#define LENT_TO_SPARED ((size_t)16 << 10)
/* Where a thread cannot be called back: so many overdrawn blocks after an error belong to its handling. */
#define OF_HANDLING 64

nm__watcher_table nm__watchers;
nm_heap *nm__overdraft_heap; /* has no budget: its blocks are charged, not what it holds */
static nm_budget *process;

/* Every block but those OF_FEW. site: the owner that is charged, and the process with it; or one of those below. */
#define OF_PROCESS ((uintptr_t)1)
#define OF_NO_ONE ((uintptr_t)2)
#define OF_SPARED ((uintptr_t)3) /* within LENT_TO_SPARED */
#define OF_FEW ((uintptr_t)4) /* beyond all that: an int or a frame */
static struct {
    atomic_bool locked;
    nm__sites table;
    size_t lent; /* bytes of no one */
} blocks;

/* A thread's errors. The one that is due is kept here where the process's limit stood in the way, with the owner
 * (nm__owner_due) where the owner's did. */
static NM_TLS struct {
    bool due;           /* to be raised at a safe point */
    bool told;          /* it got an error after its last safe point: what it takes until the next is for handling that */
    unsigned handling;  /* the same for a thread that is not called back: blocks */
    PyThreadState *thread; /* that the interpreter is to raise an owner's error in, or NULL */
    size_t lent;        /* since the last safe point or refusal, less what it freed of that */
    size_t lent_to_spared; /* less what it freed of that */
    bool making;        /* a MemoryError: it is not refused */
    nm__refusal refusal; /* that the due one is about */
    nm__place places[NM__PLACES]; /* where it was that something was overdrawn last */
} errors;

static atomic_bool process_told; /* as nm__owner_told */
atomic_bool nm__overdraft_is_told; /* one of them is */

static void lock_blocks(void) {
    while (NM_UNLIKELY(atomic_exchange_explicit(&blocks.locked, true, memory_order_acquire))) sched_yield();
}
static void unlock_blocks(void) { atomic_store_explicit(&blocks.locked, false, memory_order_release); }

static void learn_library(void);

bool nm__overdraft_start(nm_budget *of, bool secure) {
    if (nm__overdraft_heap != NULL) return true;
    process = of;
    nm__overdraft_heap = nm_heap_create(NULL, secure);
    if (nm__overdraft_heap == NULL) return false;
    /* for good: so there is a superblock of such cells when the system has no more */
    (void)nm_heap_malloc(nm__overdraft_heap, INT_SIZE);
    learn_library();
    (void)pthread_atfork(lock_blocks, unlock_blocks, unlock_blocks);
    return true;
}

void nm__overdraft_add_census(nm_census *sum) {
    nm_census one;
    nm_heap_census(nm__overdraft_heap, &one);
    nm__census_add(sum, &one);
}

/* ---- charging --------------------------------------------------------------------------------------- */

static void settle(nm__owner *o) {
    if (o != NULL) nm__budget_settle(nm__owner_budget(o));
    nm__budget_settle(process);
}

static bool charge(nm__owner *o, size_t bytes, bool (*how)(nm_budget *, size_t)) {
    if (o != NULL && !how(nm__owner_budget(o), bytes)) return false;
    if (how(process, bytes)) return true;
    if (o != NULL) (void)nm_budget_release(nm__owner_budget(o), bytes);
    return false;
}

static void release(nm__owner *o, size_t bytes) {
    if (o != NULL) (void)nm_budget_release(nm__owner_budget(o), bytes);
    (void)nm_budget_release(process, bytes);
}

/* As if it had been asked for in vain, though it may have been had from the overdraft. */
static void remember_denial(nm__owner *o, size_t bytes) {
    if (charge(o, bytes, nm__budget_hold)) release(o, bytes);
}

/* What the interpreter takes for itself, between the instructions that bear a refusal and outside of calls, cannot go on
 * for long: there is an instruction for each. Where a thread has no safe points that matters. */
static bool may_go_on(const PyThreadState *thread, size_t size) {
    return thread == NULL || nm__insides_bears_refusal(thread, size) ||
           (nm__insides_is_in_call(thread) && !nm__insides_is_for_traceback(thread, size));
}

static bool is_spared_now(PyThreadState *thread);

/* The int of a handler. Pre: the thread has a state. */
static bool may_be_for_handler(size_t size) { return size <= INT_SIZE && PyErr_Occurred() != NULL; }

static bool lend_to_all(size_t bytes) {
    lock_blocks();
    bool may = blocks.lent + bytes <= LENT_IN_ALL;
    if (may) blocks.lent += bytes;
    unlock_blocks();
    if (may) errors.lent += bytes;
    return may;
}

/* Beyond every limit: what the block is to be known as; 0: it may not be had. */
static uintptr_t lend(size_t bytes, size_t size, PyThreadState *thread) {
    if (size > SMALL) return 0;
    bool enough = errors.lent + bytes > LENT_TO_SAFE_POINT && may_go_on(thread, size);
    if (!enough && lend_to_all(bytes)) return OF_NO_ONE;
    if (errors.lent_to_spared + bytes <= LENT_TO_SPARED && is_spared_now(thread)) {
        errors.lent_to_spared += bytes;
        return OF_SPARED;
    }
    if (thread == NULL) return 0;
    return nm__insides_is_for_frame(thread, size) || may_be_for_handler(size) ? OF_FEW : 0;
}

static void give_back(uintptr_t site, size_t bytes) {
    if (site == OF_NO_ONE) {
        lock_blocks();
        blocks.lent -= bytes;
        unlock_blocks();
        errors.lent -= bytes < errors.lent ? bytes : errors.lent;
    } else if (site == OF_SPARED) {
        errors.lent_to_spared -= bytes < errors.lent_to_spared ? bytes : errors.lent_to_spared;
    } else if (site == OF_PROCESS) {
        release(NULL, bytes);
    } else {
        nm__owner *o = (nm__owner *)site;
        release(o, bytes);
        nm__owner_let_go(o);
    }
}

static void *serve_from_heap(size_t size, bool zeroed) {
    return zeroed ? nm_heap_calloc(nm__overdraft_heap, 1, size) : nm_heap_malloc(nm__overdraft_heap, size);
}

/* The block itself, and where it is charged. NULL: the system has no more; nothing is charged then. What is charged nowhere
 * is in no table: the interpreter needs it where the system has no memory for a larger one. */
static void *serve(size_t size, size_t bytes, bool zeroed, uintptr_t site) {
    if (site == OF_FEW) return serve_from_heap(size, zeroed);
    lock_blocks();
    bool promised = nm__sites_promise(&blocks.table);
    unlock_blocks();
    void *ptr = promised ? serve_from_heap(size, zeroed) : NULL;
    if (site > OF_FEW) nm__owner_claim((nm__owner *)site);
    lock_blocks();
    if (ptr != NULL) nm__sites_add(&blocks.table, (nm__site){ptr, bytes, site});
    else if (promised) nm__sites_forget_promise(&blocks.table);
    unlock_blocks();
    if (ptr == NULL) give_back(site, bytes);
    return ptr;
}

nm_status nm__overdraft_give(void *ptr) {
    lock_blocks();
    nm__site *found = nm__sites_find(&blocks.table, ptr), known = {NULL, 0, 0};
    if (found != NULL) {
        known = nm__sites_take(&blocks.table, found);
        nm__sites_forget_promise(&blocks.table);
    }
    unlock_blocks();
    if (found == NULL) return nm_heap_free(nm__overdraft_heap, ptr); /* one OF_FEW; or no block: it says so */
    nm_status status = nm_heap_free(nm__overdraft_heap, ptr);
    if (status == NM_OK) give_back(known.site, known.size);
    return status;
}

/* ---- spells ------------------------------------------------------------------------------------------ */

static void begin_spell(nm__owner *o) {
    atomic_store(o == NULL ? &process_told : nm__owner_told(o), true);
    atomic_store(&nm__overdraft_is_told, true);
}

static bool may_be_silent(nm__owner *o) {
    bool told = atomic_load(&process_told) || (o != NULL && atomic_load(nm__owner_told(o)));
    return told && !nm__budget_is_deep(process) && (o == NULL || !nm__budget_is_deep(nm__owner_budget(o)));
}

void nm__overdraft_look_for_recovery(void) {
    nm__owner *o = nm__scope_now.owner;
    if (o != NULL && nm__budget_has_recovered(nm__owner_budget(o))) atomic_store(nm__owner_told(o), false);
    if (!nm__budget_has_recovered(process)) return;
    atomic_store(&process_told, false);
    if (o == NULL || !atomic_load(nm__owner_told(o))) atomic_store(&nm__overdraft_is_told, false);
}

/* ---- errors that are due ---------------------------------------------------------------------------- */

/* Code that is written as if no exception came out of nowhere: with one in its middle a lock is never released, a worker
 * ends without an answer, a loop that serves others ends. It goes on with the overdraft, and whatever called it gets the
 * error. By the first part of the module's name. */
/* clang-format off */
static const char *const spared[] = {
    "threading", "queue",   "_weakrefset", "weakref",   "concurrent", "asyncio",     "selectors", "multiprocessing",
    "importlib", "contextlib", "_frozen_importlib", "_frozen_importlib_external", "traceback", "linecache", "tokenize",
    "logging",   "warnings", "unittest",  "pytest",     "_pytest",    "pluggy",    "xdist",   "execnet",     "code",
    "codeop",    "_pyrepl", "runpy",       "nativemem", "ipykernel",  "IPython",     "traitlets", "zmq",     "tornado",
    "jupyter_client", "stack_data", "executing", "pygments", "uvloop", "anyio", "trio", "gunicorn", "celery", "billiard",
    "kombu", "distributed", "uvicorn", "hypercorn", "aiohttp", "werkzeug", "socketserver", "wsgiref", "http",
    "jedi", "parso", "prompt_toolkit", "comm", "debugpy", "matplotlib_inline", "wcwidth", "pure_eval", "asttokens", "decorator",
    "iniconfig", "_hypothesis_pytestplugin", "starlette", "fastapi", "flask", "django",
};
/* clang-format on */

/* Of a module's name, as far as its first dot. */
static int compare_first_part(const char *module, const char *name) {
    size_t n = strlen(name);
    int order = strncmp(module, name, n);
    return order != 0 ? order : module[n] == '\0' || module[n] == '.' ? 0 : 1;
}

static bool is_spared(const char *module) {
    for (size_t i = 0; i < sizeof spared / sizeof *spared; i++)
        if (compare_first_part(module, spared[i]) == 0) return true;
    return false;
}

/* The rest of the standard library works for what calls it: `re` for a console that shows a traceback, or for a program. */
static struct {
    const char *names[512]; /* sorted; some 300 in each version. The strings live as long as the interpreter */
    size_t count;
} library;

static int compare_names(const void *a, const void *b) { return strcmp(*(const char *const *)a, *(const char *const *)b); }
static int compare_to_name(const void *module, const void *name) {
    return compare_first_part((const char *)module, *(const char *const *)name);
}

static const char *ascii(PyObject *text) {
    return PyUnicode_Check(text) && PyUnicode_IS_COMPACT_ASCII(text) ? (const char *)PyUnicode_1BYTE_DATA(text) : NULL;
}

/* Without them the library is code as any other. */
static void learn_library(void) {
    PyObject *names = PySys_GetObject("stdlib_module_names"), *key; /* borrowed */
    if (library.count > 0 || names == NULL || !PyFrozenSet_CheckExact(names)) return;
    PyObject *each = PyObject_GetIter(Py_NewRef(names)); /* for good: the program may take it out of sys */
    while (each != NULL && library.count < sizeof library.names / sizeof *library.names && (key = PyIter_Next(each)) != NULL) {
        if (ascii(key) != NULL) library.names[library.count++] = ascii(key);
        Py_DECREF(key); /* the set has it */
    }
    Py_XDECREF(each);
    PyErr_Clear();
    qsort(library.names, library.count, sizeof *library.names, compare_names);
}

static bool is_library(const char *module) {
    static const char made[] = "namedtuple_"; /* how `collections` calls the module of a constructor that it makes */
    if (strncmp(module, made, sizeof made - 1) == 0) return true;
    return library.count > 0 && bsearch(module, library.names, library.count, sizeof *library.names, compare_to_name) != NULL;
}

/* Frames of the library, the innermost ones, that are looked at. */
#define FRAMES 100

/* Whether the Python code that runs may be interrupted. Allocates nothing. */
static bool may_interrupt(PyThreadState *thread) {
    PyObject *name = nm__scope_name_of_modules(); /* made when the module was */
    const void *frame = NULL;
    PyObject *globals = name == NULL ? NULL : nm__insides_globals(thread, &frame);
    if (globals == NULL) return false;
    for (int i = 0; i < FRAMES && globals != NULL; i++) {
        PyObject *module = PyDict_GetItemWithError(globals, name);
        const char *text = module == NULL ? NULL : ascii(module);
        if (text == NULL) return true;
        if (is_spared(text)) return false;
        if (!is_library(text)) return true;
        globals = nm__insides_globals(thread, &frame);
    }
    return true;
}

static bool is_spared_now(PyThreadState *thread) { return thread == NULL || !may_interrupt(thread); }

static bool is_main_thread(void) { return (pid_t)syscall(SYS_gettid) == getpid(); }

/* It is set as long as a call waits or runs: CPython 3.11 goes round for ever in a function's first instruction where code
 * under a profiler or a tracer runs in a pending call and another one waits. */
static atomic_bool called;

/* In the main thread, from the eval loop: this and what follows. */

/* Whether the budgets' callbacks freed some after all. -1: an interrupt. Pre: the owner's code runs. */
static int find_room(nm__owner *o) {
    nm__refusal refusal = errors.refusal;
    errors.refusal.charged = NULL;
    if (refusal.charged == NULL || (refusal.charged != process && (o == NULL || refusal.charged != nm__owner_budget(o))))
        return 0;
    int ran = nm__watchers.ask(refusal.charged, refusal.refuser);
    if (ran <= 0 || !charge(o, 1, nm__budget_try)) return ran < 0 ? -1 : 0;
    release(o, 1);
    nm__budget_uncount(refusal.charged, refusal.refuser);
    return 1;
}

static int at_safe_point(void *unused) {
    (void)unused;
    int result = 0;
    bool told = errors.told;
    errors.told = true; /* what follows is had in silence */
    if (atomic_load_explicit(&nm__pressed, memory_order_relaxed) && nm__scope_without(nm__watchers.tell) < 0) {
        if (PyErr_ExceptionMatches(PyExc_MemoryError)) PyErr_Clear(); /* it would be raised in whatever happens to run */
        else result = -1;
    }
    if (result == 0) nm__watchers.drain();
    if (process == NULL) { /* without the engine */
        errors.told = told;
        atomic_store(&called, false);
        return result;
    }
    nm__scope_sync();
    nm__owner *o = nm__scope_now.owner;
    bool due = errors.due || (o != NULL && atomic_load(nm__owner_due(o)));
    bool recovered = nm__budget_has_recovered(process) && (o == NULL || nm__budget_has_recovered(nm__owner_budget(o)));
    bool has_it = told || recovered || nm__insides_is_handling(PyThreadState_Get());
    bool answers = due && !has_it && result == 0 && may_interrupt(PyThreadState_Get()) &&
                   nm__insides_is_still_at(PyThreadState_Get(), errors.places) && !nm__insides_is_entering(PyThreadState_Get());
    if (answers || has_it) {
        errors.due = false;
        if (o != NULL) atomic_store(nm__owner_due(o), false);
    }
    if (answers) {
        int found = find_room(o);
        answers = found == 0;
        if (found < 0) result = -1;
    }
    errors.told = answers;
    errors.lent = 0;
    atomic_store(&called, false);
    if (!answers) return result;
    begin_spell(o);
    nm__overdraft_wait_for_safe_point(); /* the one after: what is called now is not called again before we return */
    PyErr_NoMemory();
    return -1;
}

void nm__overdraft_wait_for_safe_point(void) {
    if (atomic_exchange(&called, true)) return;
    if (Py_AddPendingCall(at_safe_point, NULL) < 0) atomic_store(&called, false); /* too many wait: with the next */
}

static void take_back(void) {
    nm__insides_take_back(errors.thread, PyExc_MemoryError);
    errors.thread = NULL;
}

/* In the main thread. Whether that is news. */
static bool be_due_at_safe_point(nm__owner *o, const PyThreadState *thread) {
    nm__insides_note_places(thread, errors.places);
    bool was = o != NULL ? atomic_exchange(nm__owner_due(o), true) : errors.due;
    if (o == NULL) errors.due = true;
    nm__overdraft_wait_for_safe_point();
    return !was;
}

static void notice_that_it_was_raised(void) {
    if (errors.thread == NULL || nm__insides_will_raise(errors.thread, PyExc_MemoryError)) return;
    errors.thread = NULL;
    errors.handling = OF_HANDLING;
    errors.lent = 0;
}

/* Other threads cannot be called back; the interpreter can raise an error in them, but not look where: so only at the end
 * of a call that is under way. At the end of a plain scope it is taken back. In a generator's scope it could come out in the generator's caller, so there it waits for
 * the scope's end; without a scope it could end a pool's worker between a job and its answer. */
static bool be_due_in_thread(nm__owner *o, PyThreadState *thread) {
    if (errors.thread != NULL) return false;
    if (errors.handling > 0) {
        errors.handling--;
        return false;
    }
    bool is_plain = o != NULL && !nm__scope_now.unsettled && nm__scope_all.roaming == 0;
    bool raised = is_plain && nm__insides_is_in_call(thread) && nm__insides_raise_soon(thread, PyExc_MemoryError);
    if (raised) {
        errors.thread = thread;
        begin_spell(o);
    }
    return o != NULL && atomic_exchange(nm__owner_due(o), !raised) == raised;
}

static bool has_safe_points(void) { return is_main_thread() && PyInterpreterState_Get() == PyInterpreterState_Main(); }

/* A block was had from the overdraft. */
static bool be_due(nm__owner *o, PyThreadState *thread) {
    if (PyThreadState_GetInterpreter(thread) != PyInterpreterState_Main()) return false; /* safe points are the main one's */
    return is_main_thread() ? be_due_at_safe_point(o, thread) : be_due_in_thread(o, thread);
}

/* The thread gets its error now. */
static void be_told(nm__owner *o, bool raw) {
    errors.lent = LENT_TO_SAFE_POINT - LENT_AFTER_REFUSAL;
    if (raw) return;
    begin_spell(o);
    if (o != NULL) atomic_store(nm__owner_due(o), false);
    errors.due = false;
    if (errors.thread != NULL) take_back();
    if (is_main_thread()) {
        errors.told = true;
        nm__overdraft_wait_for_safe_point();
    } else {
        errors.handling = OF_HANDLING;
    }
}

/* Whether it was still to be raised. */
static bool take_back_owners(void) {
    if (errors.thread == NULL) return false;
    bool pending = nm__insides_will_raise(errors.thread, PyExc_MemoryError);
    take_back();
    return pending;
}

void nm__overdraft_refused(void) { be_told(nm__scope_now.owner, false); }

bool nm__overdraft_is_due(nm__owner *o) {
    bool was_pending = take_back_owners();
    return atomic_exchange(nm__owner_due(o), false) || was_pending;
}

void nm__overdraft_leave_owner(nm__owner *o) {
    if (NM_UNLIKELY(errors.thread != NULL) && take_back_owners()) atomic_store(nm__owner_due(o), true);
}

/* ---- taking ----------------------------------------------------------------------------------------- */

#if PY_VERSION_HEX < 0x030C0000
/* The interpreter keeps some MemoryErrors to raise. A program may have them all; then it needs memory for one, and where that
 * is refused 32 times it ends the process. So before a refusal there is one. */
static void keep_error_ready(void) {
    if (errors.making) return;
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    int was_on = PyGC_Disable();
    errors.making = true;
    PyObject *nothing = PyTuple_New(0); /* there is but one */
    if (nothing != NULL)
        Py_XDECREF(((PyTypeObject *)PyExc_MemoryError)->tp_new((PyTypeObject *)PyExc_MemoryError, nothing, NULL));
    Py_XDECREF(nothing);
    errors.making = false;
    if (was_on) PyGC_Enable();
    PyErr_Restore(type, value, traceback);
}
#else
static void keep_error_ready(void) {} /* it has one that is never freed */
#endif

static void *refuse(nm__owner *o, size_t bytes, bool raw) {
    if (!raw) keep_error_ready();
    remember_denial(o, bytes);
    be_told(o, raw);
    return NULL;
}

static bool is_urgent(PyThreadState *thread) {
    return nm__scope_now.aside || nm__insides_is_handling(thread) || !may_interrupt(thread);
}

void *nm__overdraft_take_unbounded(size_t size, bool zeroed) {
    if (nm__thread_state() == NULL || !may_be_for_handler(size)) return NULL;
    return serve(size, nm_heap_usable(nm__overdraft_heap, size + (size == 0), 1), zeroed, OF_FEW);
}

void *nm__overdraft_take(size_t size, bool zeroed, bool raw) {
    bool by_system = nm_last_failure().status == NM_OUT_OF_MEMORY;
    if (size > NM_SIZE_MAX) return nm_refuse(NM_INVALID_LAYOUT, size, 0, 0);
    PyThreadState *thread = raw ? NULL : nm__thread_state();
    if (thread == NULL) raw = true;
    nm__owner *o = raw ? NULL : nm__scope_now.owner;
    size_t bytes = nm_heap_usable(nm__overdraft_heap, size + (size == 0), 1); /* what it would take */
    if (errors.making) return serve(size, bytes, zeroed, OF_FEW);
    if (size > SMALL_IF_URGENT) return refuse(o, bytes, raw);
    /* The code itself does not use up what is there for its errors. */
    if (by_system && !raw && (size <= INT_SIZE ? !may_be_for_handler(size) : may_go_on(thread, size) && !is_urgent(thread)))
        return refuse(o, bytes, raw);
    uintptr_t site = o != NULL ? (uintptr_t)o : OF_PROCESS;
    if (size <= NM_CELL_MAX && charge(o, bytes, nm__budget_try)) {
        void *ptr = serve(size, bytes, zeroed, site);
        if (ptr == NULL) return refuse(o, bytes, raw);
        settle(o);
        if (!raw && atomic_load(&nm__overdraft_is_told)) nm__overdraft_look_for_recovery();
        return ptr;
    }
    bool ends = nm__insides_is_finalizing();
    bool urgent = raw || ends || is_urgent(thread);
    notice_that_it_was_raised();
    bool silent = urgent || errors.told || may_be_silent(o);
    bool asks = o != NULL && nm__owner_asks(o) && !atomic_load(nm__owner_told(o)) && is_main_thread();
    if (!silent && !asks && errors.handling == 0 && nm__insides_bears_refusal(thread, size)) return refuse(o, bytes, raw);
    void *ptr = NULL;
    if (size <= (urgent ? SMALL_IF_URGENT : SMALL) && charge(o, bytes, nm__budget_overdraw)) {
        ptr = serve(size, bytes, zeroed, site);
        if (ptr != NULL) settle(o);
    } else {
        uintptr_t lent = lend(bytes, size, thread);
        if (lent == 0 && ends) lent = OF_FEW;
        if (lent != 0 && !raw && has_safe_points()) nm__overdraft_wait_for_safe_point(); /* it may have as much again then */
        if (lent != 0) ptr = serve(size, bytes, zeroed, lent);
    }
    if (ptr == NULL) return refuse(o, bytes, raw);
    if (!silent && be_due(o, thread)) {
        remember_denial(o, bytes);
        (void)nm__budget_take_refusal(&errors.refusal);
    }
    return ptr;
}
