#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for dladdr */
#endif
#include "engine/injection.h" /* first: Python.h wants to be */

#include <dlfcn.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/base.h"
#include "engine/crash.h"
#include "engine/engine.h"
#include "engine/insides.h"

/* Frames that make a site: what is further out tells calls of one place apart, and not places. */
#define INJECTION_SITE_FRAMES 10
/* Of Python's stack. */
#define INJECTION_STEPS 32

enum { INJECTION_RAW, INJECTION_MEM, INJECTION_OBJ, INJECTION_DOMAINS };

typedef struct injection_domain {
    PyMemAllocatorEx before;
    unsigned number;
    bool is_hooked;
} injection_domain;

static const PyMemAllocatorDomain injection_ids[] = {PYMEM_DOMAIN_RAW, PYMEM_DOMAIN_MEM, PYMEM_DOMAIN_OBJ};

static struct {
    nm__crash_report *report; /* NULL: there never were hooks */
    bool tells; /* the report is another process's, and has the stack of what was refused */
    injection_domain domains[INJECTION_DOMAINS];
    /* of the call under way */
    unsigned chosen; /* a bit a domain */
    uint64_t nth; /* 0: none is refused */
    bool sticky;
    uint64_t *sites; /* by number, from 1 on at [0]; NULL: not noted */
    size_t site_room;
} injection;

static NM_TLS bool injection_is_armed; /* the thread runs the function */
static NM_TLS bool injection_is_inside; /* the thread is in a hook: what it takes now is part of a block */

/* ---- stacks -------------------------------------------------------------------------------------------- */

/* Frames of this file between the unwinder and a hook's caller, about. */
#define INJECTION_OWN_FRAMES 6

/* The stack from the return address `from` on, which is in it. */
static int injection_stack_from(const void *from, void **frames, int most) {
    void *all[NM__CRASH_FRAMES];
    int wanted = most + INJECTION_OWN_FRAMES, start = 0;
    int count = nm__crash_unwind(all, wanted < NM__CRASH_FRAMES ? wanted : NM__CRASH_FRAMES);
    while (start < count && all[start] != from) start++;
    if (start == count) start = 0;
    count = count - start < most ? count - start : most;
    memcpy(frames, all + start, (size_t)count * sizeof *frames);
    return count;
}

/* The str's characters, one byte each; those that a byte has not as '?'. The interpreter would keep an object for UTF-8. */
static size_t injection_put(char *to, size_t room, PyObject *text) {
    size_t n = 0;
    if (text == NULL || !PyUnicode_Check(text)) return 0;
    for (Py_ssize_t i = 0; i < PyUnicode_GET_LENGTH(text) && n < room; i++) {
        Py_UCS4 c = PyUnicode_READ_CHAR(text, i);
        to[n++] = c >= ' ' && c < 127 ? (char)c : '?';
    }
    return n;
}

static void injection_note_python(char *text, size_t room) {
    nm__step steps[INJECTION_STEPS];
    size_t used = 0;
    PyThreadState *thread = PyGILState_Check() ? nm__thread_state() : NULL;
    int count = thread == NULL ? 0 : nm__insides_steps(thread, steps, INJECTION_STEPS);
    for (int i = 0; i < count && used + 64 < room; i++) {
        PyCodeObject *code = steps[i].code;
        size_t start = used, left = room - 64;
        used += injection_put(text + used, left > used ? left - used : 0, code->co_filename);
        used += (size_t)snprintf(text + used, 32, "\t%d\t", PyCode_Addr2Line(code, steps[i].at));
        used += injection_put(text + used, left > used ? left - used : 0, code->co_name);
        if (used >= left) {
            used = start;
            break;
        }
        text[used++] = '\n';
    }
    text[used] = 0;
}

static uint64_t injection_mix(uint64_t hash, uint64_t value) {
    hash = (hash ^ value) * 0x9E3779B97F4A7C15u;
    return hash ^ hash >> 29;
}

static NM_COLD uint64_t injection_site(const void *from) {
    void *frames[INJECTION_SITE_FRAMES];
    int count = injection_stack_from(from, frames, INJECTION_SITE_FRAMES);
    uint64_t hash = 1;
    for (int i = 0; i < count; i++) hash = injection_mix(hash, (uintptr_t)frames[i]);
    nm__step step;
    PyThreadState *thread = PyGILState_Check() ? nm__thread_state() : NULL;
    if (thread != NULL && nm__insides_steps(thread, &step, 1) == 1)
        hash = injection_mix(injection_mix(hash, (uintptr_t)step.code), (uint64_t)step.at);
    return hash;
}

static NM_COLD void injection_note(unsigned domain, size_t size, const void *from) {
    nm__crash_report *r = injection.report;
    void *frames[NM__CRASH_FRAMES];
    int count = injection_stack_from(from, frames, NM__CRASH_FRAMES);
    count = nm__crash_within(frames, count);
    for (int i = 0; i < count; i++) r->refusal.addresses[i] = (uintptr_t)frames[i];
    r->refusal.count = count;
    r->site = injection_site(from);
    r->size = size;
    r->domain = domain;
    injection_note_python(r->python, sizeof r->python);
}

/* ---- hooks --------------------------------------------------------------------------------------------- */

static NM_COLD bool injection_counts(unsigned domain, size_t size, const void *from) {
    if ((injection.chosen >> domain & 1) == 0) return false;
    nm__crash_report *r = injection.report;
    uint64_t number = ++r->allocations;
    if (injection.sites != NULL && number <= injection.site_room) injection.sites[number - 1] = injection_site(from);
    if (injection.nth == 0 || number < injection.nth || (number > injection.nth && !injection.sticky)) return false;
    if (r->refused++ == 0 && injection.tells) injection_note(domain, size, from);
    return true;
}

static void injection_has(int64_t more) { __atomic_fetch_add(&injection.report->live, more, __ATOMIC_RELAXED); }

/* Around what a hook passes on. `call` is made once, by a thread that is inside from then on to its end. */
#define INJECTION_PASS_ON(result, call) \
    do {                                \
        bool was = injection_is_inside; \
        injection_is_inside = true;     \
        (result) = (call);              \
        injection_is_inside = was;      \
        if (was) return result;         \
    } while (0)

#define INJECTION_REFUSES(domain, size) \
    (injection_is_armed && !injection_is_inside && injection_counts((domain)->number, size, __builtin_return_address(0)))

static __attribute__((noinline)) void *injection_malloc(void *ctx, size_t size) {
    injection_domain *domain = ctx;
    void *ptr;
    if (INJECTION_REFUSES(domain, size)) return NULL;
    INJECTION_PASS_ON(ptr, domain->before.malloc(domain->before.ctx, size));
    if (ptr != NULL) injection_has(1);
    return ptr;
}

static __attribute__((noinline)) void *injection_calloc(void *ctx, size_t count, size_t size) {
    injection_domain *domain = ctx;
    void *ptr;
    if (INJECTION_REFUSES(domain, count * size)) return NULL;
    INJECTION_PASS_ON(ptr, domain->before.calloc(domain->before.ctx, count, size));
    if (ptr != NULL) injection_has(1);
    return ptr;
}

static __attribute__((noinline)) void *injection_realloc(void *ctx, void *old, size_t size) {
    injection_domain *domain = ctx;
    void *ptr;
    if (INJECTION_REFUSES(domain, size)) return NULL;
    INJECTION_PASS_ON(ptr, domain->before.realloc(domain->before.ctx, old, size));
    if (ptr != NULL && old == NULL) injection_has(1);
    return ptr;
}

static void injection_free(void *ctx, void *ptr) {
    injection_domain *domain = ctx;
    bool was = injection_is_inside;
    injection_is_inside = true;
    domain->before.free(domain->before.ctx, ptr);
    injection_is_inside = was;
    if (ptr != NULL && !was) injection_has(-1);
}

/* A child of the function's own is not the one that is looked at. */
static void injection_disarm(void) { injection_is_armed = false; }

static void injection_put_hooks(void) {
    for (unsigned i = 0; i < INJECTION_DOMAINS; i++) {
        injection_domain *d = &injection.domains[i];
        if (d->is_hooked) continue;
        PyMemAllocatorEx hook = {d, injection_malloc, injection_calloc, injection_realloc, injection_free};
        d->number = i;
        d->is_hooked = true;
        PyMem_GetAllocator(injection_ids[i], &d->before);
        PyMem_SetAllocator(injection_ids[i], &hook);
    }
}

/* But for those that a hook of others stands on by now: these stay, and pass on. */
static void injection_take_hooks(void) {
    for (unsigned i = 0; i < INJECTION_DOMAINS; i++) {
        injection_domain *d = &injection.domains[i];
        PyMemAllocatorEx now;
        PyMem_GetAllocator(injection_ids[i], &now);
        if (now.ctx != d || now.malloc != injection_malloc) continue;
        PyMem_SetAllocator(injection_ids[i], &d->before);
        d->is_hooked = false;
    }
}

static bool injection_report_to(nm__crash_report *report, bool tells) {
    static bool watches;
    if (!watches && pthread_atfork(NULL, NULL, injection_disarm) != 0) return false;
    watches = true;
    injection.report = report;
    injection.tells = tells;
    injection_put_hooks();
    return true;
}

static void injection_set(unsigned chosen, uint64_t nth, bool sticky, uint64_t *sites, size_t room) {
    injection.chosen = chosen;
    injection.nth = nth;
    injection.sticky = sticky;
    injection.sites = sites;
    injection.site_room = room;
    injection.report->allocations = injection.report->refused = injection.report->site = 0;
}

/* ---- what Python calls --------------------------------------------------------------------------------- */

/* The memory of a buffer, which stays: what it belongs to is not freed while the process lives. */
static void *injection_memory(PyObject *object, size_t least, size_t *size) {
    Py_buffer view;
    if (PyObject_GetBuffer(object, &view, PyBUF_WRITABLE) < 0) return NULL;
    void *memory = view.buf;
    *size = (size_t)view.len;
    PyBuffer_Release(&view);
    if (*size >= least && (uintptr_t)memory % _Alignof(nm__crash_report) == 0) return memory;
    PyErr_SetString(PyExc_ValueError, "the memory is too small");
    return NULL;
}

/* Stacks end before it. */
static __attribute__((noinline)) PyObject *injection_run(PyObject *function) {
    injection_is_armed = true;
    PyObject *result = PyObject_CallNoArgs(function);
    injection_is_armed = false;
    return result;
}

static PyObject *injection_open(PyObject *module, PyObject *shared) {
    (void)module;
    size_t size;
    nm__crash_report *report = injection_memory(shared, sizeof *report, &size);
    if (report == NULL) return NULL;
    void *first[1];
    (void)nm__crash_unwind(first, 1); /* which loads what it needs */
    if (!injection_report_to(report, true)) return PyErr_NoMemory();
    PyObject *(*run)(PyObject *) = injection_run;
    const void *outermost;
    memcpy(&outermost, &run, sizeof outermost);
    if (!nm__crash_watch(report, outermost)) return PyErr_SetFromErrno(PyExc_OSError);
    Py_RETURN_NONE;
}

static PyObject *injection_call(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *function, *sites;
    unsigned long long nth;
    int chosen, sticky;
    if (!PyArg_ParseTuple(args, "OiKpO", &function, &chosen, &nth, &sticky, &sites)) return NULL;
    if (injection.report == NULL || !injection.tells || injection_is_armed) {
        PyErr_SetString(PyExc_RuntimeError, "the hooks are not there, or a call is under way");
        return NULL;
    }
    size_t size = 0;
    uint64_t *numbers = sites == Py_None ? NULL : injection_memory(sites, 1, &size);
    if (sites != Py_None && numbers == NULL) return NULL;
    injection_set((unsigned)chosen, nth, sticky != 0, numbers, size / sizeof *numbers);
    return injection_run(function);
}

/* ---- within a block of the process itself ---- */

static struct {
    nm__crash_report counts;
    PyObject *arguments; /* the name of the attribute: (domains, n) */
    PyObject *counted;   /* of that which gets (calls, failed) */
    pid_t process;       /* that is in a block; 0: none is */
    bool collects;       /* before the block */
} injection_block;

/* self.__enter__(): in C, as leaving is, so that nothing that the harness takes has a number or is refused. */
static PyObject *injection_enter(PyObject *module, PyObject *self) {
    (void)module;
    int chosen;
    unsigned long long nth;
    PyObject *arguments = PyObject_GetAttr(self, injection_block.arguments);
    if (arguments == NULL) return NULL;
    bool is_good = PyArg_ParseTuple(arguments, "iK", &chosen, &nth) != 0;
    Py_DECREF(arguments);
    if (!is_good) return NULL;
    if (injection_block.process == getpid() || injection_is_armed) {
        PyErr_SetString(PyExc_RuntimeError, "one block at a time refuses what a process takes from the interpreter");
        return NULL;
    }
    PyGC_Collect(); /* free lists are emptied by it, so that the numbers are the same each time */
    if (!injection_report_to(&injection_block.counts, false)) return PyErr_NoMemory();
    injection_block.collects = PyGC_Disable() != 0;
    injection_block.process = getpid();
    injection_set((unsigned)chosen, nth, false, NULL, 0);
    injection_is_armed = true;
    return Py_NewRef(self);
}

static PyObject *injection_exit(PyObject *module, PyObject *const *args, Py_ssize_t count) {
    (void)module;
    bool is_here = injection_block.process == getpid();
    if (injection_block.process == 0 || (is_here && !injection_is_armed)) {
        PyErr_SetString(PyExc_RuntimeError,
                        is_here ? "the thread that entered the block has to leave it" : "no block was entered");
        return NULL;
    }
    injection_is_armed = false; /* in the child of a fork it is already */
    injection_block.process = 0;
    injection_take_hooks();
    if (injection_block.collects) PyGC_Enable();
    if (count < 1) return PyErr_Format(PyExc_TypeError, "takes what was entered");
    const nm__crash_report *r = &injection_block.counts;
    PyObject *pair = Py_BuildValue("(KK)", (unsigned long long)r->allocations, (unsigned long long)r->refused);
    bool is_told = pair != NULL && PyObject_SetAttr(args[0], injection_block.counted, pair) == 0;
    Py_XDECREF(pair);
    return is_told ? Py_NewRef(Py_False) : NULL;
}

static PyObject *injection_named(PyObject *module, PyObject *none) {
    (void)module;
    (void)none;
    if (injection.report != NULL) nm__crash_describe(&injection.report->refusal, false);
    Py_RETURN_NONE;
}

/* The file that has the interpreter. */
static PyObject *injection_python(PyObject *module, PyObject *none) {
    (void)module;
    (void)none;
    Dl_info info;
    const void *known;
    memcpy(&known, &PyUnicode_Type.tp_hash, sizeof known); /* of an exported function it could be a stub's address */
    if (dladdr(known, &info) == 0 || info.dli_fname == NULL) Py_RETURN_NONE;
    return PyUnicode_DecodeFSDefault(info.dli_fname);
}

int nm__injection_add(PyObject *module) {
    static PyMethodDef enter_method = {"injection_enter", injection_enter, METH_O, "Begins a block that is refused memory."};
    static PyMethodDef exit_method = {"injection_exit", (PyCFunction)(void (*)(void))injection_exit, METH_FASTCALL,
                                      "Ends the block that injection_enter began."};
    static PyMethodDef methods[] = {
        {"injection_open", injection_open, METH_O, "Puts the hooks in, and has signals write to the shared report."},
        {"injection_call", injection_call, METH_VARARGS, "Calls a function, whose n-th allocation is refused."},
        {"injection_named", injection_named, METH_NOARGS, "Names the addresses of the refusal's stack, in the report."},
        {"injection_python", injection_python, METH_NOARGS, "The file that has the interpreter's code."},
        {NULL, NULL, 0, NULL}};
    if (injection_block.arguments == NULL) injection_block.arguments = PyUnicode_InternFromString("_arguments");
    if (injection_block.counted == NULL) injection_block.counted = PyUnicode_InternFromString("_counted");
    if (injection_block.arguments == NULL || injection_block.counted == NULL) return -1;
    if (!nm__engine_add_method(module, &enter_method) || !nm__engine_add_method(module, &exit_method)) return -1;
    if (PyModule_AddIntConstant(module, "injection_size", (long)sizeof(nm__crash_report)) < 0) return -1;
    return PyModule_AddFunctions(module, methods);
}
