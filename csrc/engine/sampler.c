#include "engine/sampler.h" /* first: Python.h wants to be */

#include <errno.h>
#include <string.h>

#include "engine/array_charges.h"
#include "engine/engine.h"
#include "engine/insides.h"
#include "engine/overdraft.h"
#include "engine/owners.h"
#include "heap/heap.h"
#include "tuning.h"
#include "wrap/sites.h"

atomic_bool nm__sampler_on;
NM_TLS nm__gate nm__sampler_gate;
_Atomic uint8_t nm__sampler_filter[NM__SAMPLER_FILTER];

/* What the gaps of this thread are drawn with; 0: it has drawn none. */
static NM_TLS uint64_t sampler_random;

/* A place in a program: the strings of the recording, and the line; and how to know the code again that they are of. */
typedef struct sampler_line {
    const void *code; /* NULL: none. An address, which may be another's by now. */
    int at, first;
    uint64_t table; /* a sum of the table of its lines */
    uint32_t file, function;
    int line;
} sampler_line;

/* How many are kept: the places that a program allocates at again and again. A power of two. */
#define SAMPLER_LINES ((size_t)4096)

/* Invariants, under the lock:
 *   recording != NULL == nm__sampler_on
 *   a block that is in the table is counted by the filter, and its bytes are in its site's live sums
 *   lines: what was looked up last, by the address of a code object; no reference is held, so it is compared at each use */
static struct {
    pthread_mutex_t lock;
    nm__recording *recording;
    nm__sites table; /* noted blocks that live; site: the recording's */
    _Atomic uint64_t run; /* of the process's profiles, never used again; both are read without the lock */
    nm__counter rate;
    uint32_t outside;    /* the node of what no Python code asked for */
    sampler_line *lines; /* SAMPLER_LINES of them */
} sampler = {.lock = PTHREAD_MUTEX_INITIALIZER};

/* ---- when to note a block --------------------------------------------------------------------------- */

/* With a rate of 1 each block is noted. The gate lets through what is left, so a gap of 1 leaves nothing. */
static int64_t sampler_draw(size_t rate) { return rate <= 1 ? -1 : nm__poisson_gap(&sampler_random, rate) - 1; }

static void sampler_go_on(nm__gate *gate, int64_t gap) {
    gate->left = gap < NM_SAMPLER_PART ? gap : NM_SAMPLER_PART;
    gate->rest = gap - gate->left;
}

NM_COLD bool nm__sampler_turn(nm__gate *gate, size_t size) {
    uint64_t run = atomic_load_explicit(&sampler.run, memory_order_acquire);
    size_t rate = nm__get(&sampler.rate);
    int64_t gap = gate->left + gate->rest;
    if (gate->run != run) { /* a gap of another profile is too short or too long */
        gate->run = run;
        if (sampler_random == 0) sampler_random = (nm__os_random() ^ (uint64_t)nm__thread_id()) | 1;
        gap = sampler_draw(rate);
        if (rate > 1) gap -= (int64_t)size;
    }
    bool is_its_turn = gap < 0;
    sampler_go_on(gate, is_its_turn ? sampler_draw(rate) : gap);
    return is_its_turn;
}

/* ---- which code asked for it ------------------------------------------------------------------------ */

/* Frames of a call path that are noted; outer ones are left out. */
#define SAMPLER_DEPTH 128

/* Bytes of a name that are noted: a longer one is cut. */
#define SAMPLER_NAME 1024

/* A str in UTF-8. Where it is not ASCII its bytes are made in `room`: the interpreter would make an object to keep. */
typedef struct sampler_text {
    const char *bytes;
    size_t size;
    char room[SAMPLER_NAME];
} sampler_text;

static void sampler_encode(PyObject *text, sampler_text *made) {
    made->bytes = made->room;
    made->size = 0;
    if (text == NULL || !PyUnicode_Check(text)) return;
    Py_ssize_t length = PyUnicode_GET_LENGTH(text);
    if (PyUnicode_IS_ASCII(text)) {
        made->bytes = PyUnicode_DATA(text);
        made->size = (size_t)length;
        return;
    }
    char *bytes = made->room;
    size_t n = 0;
    for (Py_ssize_t i = 0; i < length && n + 4 <= sizeof made->room; i++) {
        Py_UCS4 c = PyUnicode_READ_CHAR(text, i);
        if (c >= 0xD800 && c < 0xE000) c = 0xFFFD; /* a surrogate is no UTF-8 */
        if (c < 0x80) {
            bytes[n++] = (char)c;
        } else if (c < 0x800) {
            bytes[n++] = (char)(0xC0 | c >> 6);
            bytes[n++] = (char)(0x80 | (c & 0x3F));
        } else if (c < 0x10000) {
            bytes[n++] = (char)(0xE0 | c >> 12);
            bytes[n++] = (char)(0x80 | (c >> 6 & 0x3F));
            bytes[n++] = (char)(0x80 | (c & 0x3F));
        } else {
            bytes[n++] = (char)(0xF0 | c >> 18);
            bytes[n++] = (char)(0x80 | (c >> 12 & 0x3F));
            bytes[n++] = (char)(0x80 | (c >> 6 & 0x3F));
            bytes[n++] = (char)(0x80 | (c & 0x3F));
        }
    }
    made->size = n;
}

static uint32_t sampler_name(PyObject *text) {
    sampler_text encoded;
    sampler_encode(text, &encoded);
    return nm__recording_string(sampler.recording, encoded.bytes, encoded.size);
}

static bool sampler_is(uint32_t string, PyObject *text) {
    sampler_text encoded;
    sampler_encode(text, &encoded);
    return nm__recording_is(sampler.recording, string, encoded.bytes, encoded.size);
}

/* Of the length of a code's table of lines, and of its first and last bytes. */
#define SAMPLER_TABLE ((size_t)64)
static uint64_t sampler_sum(const PyCodeObject *code) {
    if (code->co_linetable == NULL || !PyBytes_Check(code->co_linetable)) return 0;
    const char *bytes = PyBytes_AS_STRING(code->co_linetable);
    size_t size = (size_t)PyBytes_GET_SIZE(code->co_linetable), end = size < SAMPLER_TABLE ? size : SAMPLER_TABLE;
    uint64_t sum = size, word;
    for (size_t i = 0; i < end; i += sizeof word) {
        word = 0;
        memcpy(&word, bytes + i, end - i < sizeof word ? end - i : sizeof word);
        sum = (sum ^ word) * UINT64_C(0x9E3779B97F4A7C15);
        memcpy(&word, bytes + size - end + i, end - i < sizeof word ? end - i : sizeof word);
        sum = (sum ^ word ^ sum >> 32) * UINT64_C(0x9E3779B97F4A7C15);
    }
    return sum;
}

/* To look up a place's names and line takes longer than all the rest of a note. What was found for a code object is what it
 * says as long as it is the same one. Another at its address has other names, or another first line, or other lines: they are
 * compared, where a reference would keep code, and all of its constants, for as long as the profile runs. */
static const sampler_line *sampler_look_up(nm__step step) {
    PyCodeObject *code = step.code;
#if PY_VERSION_HEX >= 0x030B0000
    PyObject *function = code->co_qualname;
#else
    PyObject *function = code->co_name;
#endif
    uint64_t hash = ((uint64_t)(uintptr_t)code ^ (uint64_t)step.at << 32) * UINT64_C(0x9E3779B97F4A7C15),
             table = sampler_sum(code);
    sampler_line *l = &sampler.lines[hash >> 32 & (SAMPLER_LINES - 1)];
    if (l->code == code && l->at == step.at && l->first == code->co_firstlineno && l->table == table &&
        sampler_is(l->function, function) && sampler_is(l->file, code->co_filename))
        return l;
    *l = (sampler_line){code,
                        step.at,
                        code->co_firstlineno,
                        table,
                        sampler_name(code->co_filename),
                        sampler_name(function),
                        PyCode_Addr2Line(code, step.at)};
    if (l->file == 0 || l->function == 0) l->code = NULL; /* there is no room for its names */
    return l->code == NULL ? NULL : l;
}

static uint32_t sampler_node(uint32_t parent, nm__step step) {
    const sampler_line *l = sampler_look_up(step);
    return l == NULL ? 0 : nm__recording_node(sampler.recording, parent, l->file, l->function, l->line);
}

/* Whether the calling thread holds the lock of an interpreter: what of it is read stays as it is. */
static bool sampler_sees_python(void) { return PyGILState_Check() && nm__thread_state() != NULL; }
/* Owners are the main interpreter's. */
static bool sampler_sees_owners(void) { return sampler_sees_python() && PyInterpreterState_Get() == PyInterpreterState_Main(); }

static uint32_t sampler_path(void) {
    nm__step steps[SAMPLER_DEPTH];
    int count = sampler_sees_python() ? nm__insides_steps(nm__thread_state(), steps, SAMPLER_DEPTH) : 0;
    if (count == 0) return sampler.outside;
    uint32_t node = 0;
    for (int i = count - 1; i >= 0; i--) {
        uint32_t below = sampler_node(node, steps[i]);
        if (below == 0) return node; /* there is no more room: it counts for what called */
        node = below;
    }
    return node;
}

/* ---- whose it is ------------------------------------------------------------------------------------ */

static uint32_t sampler_owner(const nm__owner *o) {
    if (o == NULL) return 0;
    bool made;
    uint32_t owner = nm__recording_owner(sampler.recording, o, o->number, &made);
    if (made) nm__recording_name(sampler.recording, owner, sampler_name(o->name), 0);
    return owner;
}

static void sampler_moment(const nm_budget *b, uint32_t owner) {
    nm__recording_moment(sampler.recording, owner, nm_budget_used(b), nm_budget_peak(b), nm_budget_limit(b),
                         nm_budget_denied(b));
}

static void sampler_moment_of(const nm__owner *o) { sampler_moment(o->budget, sampler_owner(o)); }

/* With the interpreter's lock, under which owners come and go. */
static void sampler_moments(bool always) {
    if (!nm__recording_is_due(sampler.recording) && !always) return;
    sampler_moment(nm_engine_budget(), 0);
    nm__owner_each(sampler_moment_of);
}

/* Its line in time ends where it uses nothing; what finds it later at its address is another. */
static void sampler_owner_ends(const nm__owner *o) {
    if (!nm__sampler_is_on()) return;
    pthread_mutex_lock(&sampler.lock);
    if (sampler.recording != NULL) sampler_moment(o->budget, sampler_owner(o));
    pthread_mutex_unlock(&sampler.lock);
}

/* ---- blocks ----------------------------------------------------------------------------------------- */

static void sampler_count(const void *ptr, bool more) {
    _Atomic uint8_t *count = &nm__sampler_filter[nm__sampler_hash(ptr)];
    uint8_t n = atomic_load_explicit(count, memory_order_relaxed);
    if (n != UINT8_MAX) atomic_store_explicit(count, (uint8_t)(more ? n + 1 : n - 1), memory_order_relaxed);
}

static void sampler_remove(const void *ptr) {
    nm__site *found = nm__sites_find(&sampler.table, ptr);
    if (found == NULL) return;
    nm__site taken = nm__sites_take(&sampler.table, found);
    nm__sites_forget_promise(&sampler.table);
    sampler_count(ptr, false);
    nm__recording_remove(sampler.recording, (uint32_t)taken.site, taken.size);
}

/* Pre: the lock is held, and there is a recording. */
static void sampler_put(const void *ptr, size_t size, nm__origin origin, uint32_t owner) {
    sampler_remove(ptr); /* it was given back where nothing tells the sampler */
    if (nm__sites_promise(&sampler.table)) {
        uint32_t site = nm__recording_site(sampler.recording, sampler_path(), owner, origin);
        nm__sites_add(&sampler.table, (nm__site){(void *)(uintptr_t)ptr, size, site});
        sampler_count(ptr, true);
        nm__recording_add(sampler.recording, site, size);
    }
    if (sampler_sees_owners()) sampler_moments(false);
}

NM_COLD void nm__sampler_note(const void *ptr, size_t size, nm__origin origin) {
    int before = errno;
    pthread_mutex_lock(&sampler.lock);
    if (sampler.recording != NULL) {
        const nm__owner *o = origin == NM__OF_RAW ? NULL : nm__charge_now.owner;
        sampler_put(ptr, size, origin, sampler_owner(o));
    }
    pthread_mutex_unlock(&sampler.lock);
    errno = before;
}

/* Under the lock. */
static PyObject *sampler_sought;
static const nm__owner *sampler_found;
static void sampler_compare(const nm__owner *o) {
    if (o->name != NULL && PyUnicode_Check(o->name) && PyUnicode_Compare(o->name, sampler_sought) == 0) sampler_found = o;
}

/* A budget that scopes charge is an owner already; another is known by its name. */
static uint32_t sampler_owner_named(PyObject *name) {
    if (name == NULL) return 0;
    sampler_sought = name;
    sampler_found = NULL;
    nm__owner_each(sampler_compare);
    if (sampler_found != NULL) return sampler_owner(sampler_found);
    bool made;
    uint32_t owner = nm__recording_owner(sampler.recording, &sampler_sought, sampler_name(name), &made);
    if (made) nm__recording_name(sampler.recording, owner, sampler_name(name), 0);
    return owner;
}

NM_COLD void nm__sampler_note_block(const void *object, size_t size, PyObject *owner) {
    pthread_mutex_lock(&sampler.lock);
    if (sampler.recording != NULL) sampler_put(object, size, NM__OF_BLOCKS, sampler_owner_named(owner));
    pthread_mutex_unlock(&sampler.lock);
}

NM_COLD void nm__sampler_forget(const void *ptr) {
    pthread_mutex_lock(&sampler.lock);
    if (sampler.recording != NULL) sampler_remove(ptr);
    pthread_mutex_unlock(&sampler.lock);
}

NM_COLD void nm__sampler_refused(const nm__owner *owner, size_t requested, size_t used, size_t limit) {
    int before = errno;
    pthread_mutex_lock(&sampler.lock);
    if (sampler.recording != NULL) {
        uint32_t o = sampler_owner(owner);
        nm__recording_refusal(sampler.recording, o, sampler_path(), requested, used, limit);
        sampler_moment(owner == NULL ? nm_engine_budget() : owner->budget, o);
    }
    pthread_mutex_unlock(&sampler.lock);
    errno = before;
}

static void sampler_denied(const nm__owner *owner, size_t requested, size_t used, size_t limit) {
    if (nm__sampler_is_on()) nm__sampler_refused(owner, requested, used, limit);
}

/* ---- beginning and end ------------------------------------------------------------------------------ */

/* Pre: the lock is held. */
static void sampler_end(bool finish) {
    atomic_store(&nm__sampler_on, false);
    nm__recording_destroy(sampler.recording, finish);
    sampler.recording = NULL;
    nm__sites_destroy(&sampler.table);
    sampler.table = (nm__sites){NULL, 0, 0, 0};
    for (size_t i = 0; i < NM__SAMPLER_FILTER; i++) atomic_store_explicit(&nm__sampler_filter[i], 0, memory_order_relaxed);
    nm__meta_free(sampler.lines);
    sampler.lines = NULL;
}

static void sampler_before_fork(void) { pthread_mutex_lock(&sampler.lock); }
static void sampler_in_parent(void) { pthread_mutex_unlock(&sampler.lock); }
/* The recording goes on in the parent. */
static void sampler_in_child(void) {
    if (sampler.recording != NULL) sampler_end(false);
    pthread_mutex_unlock(&sampler.lock);
}

static void sampler_name_outside(void) {
    static const char name[] = "(no Python code)";
    uint32_t text = nm__recording_string(sampler.recording, name, sizeof name - 1);
    sampler.outside = nm__recording_node(sampler.recording, 0, 0, text, 0);
}

/* `about`: names and texts in turn. */
static void sampler_tell(PyObject *about) {
    for (Py_ssize_t i = 0; i + 1 < PyTuple_GET_SIZE(about); i += 2) {
        uint32_t name = sampler_name(PyTuple_GET_ITEM(about, i)), text = sampler_name(PyTuple_GET_ITEM(about, i + 1));
        nm__recording_tell(sampler.recording, name, text);
    }
}

static PyObject *sampler_start(PyObject *module, PyObject *args) {
    (void)module;
    static bool forks;
    PyObject *path, *about;
    Py_ssize_t bound, rate;
    if (!PyArg_ParseTuple(args, "OnnO!", &path, &bound, &rate, &PyTuple_Type, &about)) return NULL;
    if ((path != Py_None && !PyBytes_Check(path)) || bound < (Py_ssize_t)NM__RECORDING_LEAST || rate < 1) {
        PyErr_SetString(PyExc_ValueError, "a path's bytes or None, a bound of a MiB or more, a rate of 1 or more");
        return NULL;
    }
    if (nm__engine.heap == NULL || sampler.recording != NULL) {
        PyErr_SetString(PyExc_RuntimeError, sampler.recording != NULL ? "there is a profile" : "the engine was not started");
        return NULL;
    }
    if (!nm__array_start()) return PyErr_NoMemory(); /* what is noted lies there */
    if (!forks && pthread_atfork(sampler_before_fork, sampler_in_parent, sampler_in_child) != 0) return PyErr_NoMemory();
    forks = true;
    nm__recording *made = nm__recording_create(path == Py_None ? NULL : PyBytes_AS_STRING(path), (size_t)bound, (size_t)rate);
    if (made == NULL) return PyErr_SetFromErrnoWithFilenameObject(PyExc_OSError, path == Py_None ? NULL : path);
    sampler_line *lines = nm__meta_alloc(SAMPLER_LINES * sizeof *lines);
    if (lines == NULL) {
        nm__recording_destroy(made, false);
        return PyErr_NoMemory();
    }
    pthread_mutex_lock(&sampler.lock);
    sampler.recording = made;
    sampler.lines = lines;
    nm__set(&sampler.rate, (size_t)rate);
    atomic_fetch_add(&sampler.run, 1);
    sampler_name_outside();
    sampler_tell(about);
    sampler_moments(true);
    nm__sampler_gate.left = 0; /* this thread notices at once, but for a scope in which it has no heap yet */
    if (nm__theaps[NM__CLAIMED_SLOT] != &nm__no_theap) nm__theaps[NM__CLAIMED_SLOT]->gate.left = 0;
    atomic_store(&nm__sampler_on, true);
    pthread_mutex_unlock(&sampler.lock);
    nm__engine_sample(true);
    Py_RETURN_NONE;
}

/* None where there is no profile. */
static PyObject *sampler_describe(const nm__recording_head *head) {
    if (head->size == 0) Py_RETURN_NONE;
    return Py_BuildValue("(KKKK)", (unsigned long long)head->rate, (unsigned long long)head->samples,
                         (unsigned long long)head->dropped, (unsigned long long)head->size);
}

static PyObject *sampler_state(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    nm__recording_head head = {.size = 0};
    pthread_mutex_lock(&sampler.lock);
    if (sampler.recording != NULL) head = *nm__recording_view(sampler.recording);
    pthread_mutex_unlock(&sampler.lock);
    return sampler_describe(&head);
}

static PyObject *sampler_stop(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    nm__engine_sample(false);
    pthread_mutex_lock(&sampler.lock);
    nm__recording_head head = {.size = 0};
    if (sampler.recording != NULL) {
        sampler_moments(true);
        head = *nm__recording_view(sampler.recording);
        sampler_end(true);
    }
    pthread_mutex_unlock(&sampler.lock);
    return sampler_describe(&head);
}

/* The sizes are looked at before the objects are made, whose making may add to what is there: that is left out. Nothing is
 * allocated while the lock is held, which an allocation may wait for. */
static PyObject *sampler_read(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    size_t sizes[NM__SECTIONS];
    pthread_mutex_lock(&sampler.lock);
    const nm__recording *r = sampler.recording;
    if (r != NULL) sampler_moments(true);
    for (int s = 0; s < NM__SECTIONS && r != NULL; s++)
        sizes[s] = (size_t)(nm__recording_view(r)->section[s].count * nm__recording_view(r)->section[s].item);
    uint64_t run = atomic_load(&sampler.run);
    pthread_mutex_unlock(&sampler.lock);
    if (r == NULL) Py_RETURN_NONE;
    PyObject *parts = PyTuple_New(NM__SECTIONS + 1);
    for (int s = 0; s <= NM__SECTIONS && parts != NULL; s++) {
        size_t size = s == 0 ? sizeof(nm__recording_head) : sizes[s - 1];
        PyObject *part = PyBytes_FromStringAndSize(NULL, (Py_ssize_t)size);
        if (part == NULL) Py_CLEAR(parts);
        else PyTuple_SET_ITEM(parts, s, part);
    }
    if (parts == NULL) return NULL;
    pthread_mutex_lock(&sampler.lock);
    bool same = sampler.recording != NULL && atomic_load(&sampler.run) == run;
    if (same) {
        const nm__recording_head *head = nm__recording_view(sampler.recording);
        memcpy(PyBytes_AS_STRING(PyTuple_GET_ITEM(parts, 0)), head, sizeof *head);
        for (int s = 0; s < NM__SECTIONS; s++)
            memcpy(PyBytes_AS_STRING(PyTuple_GET_ITEM(parts, s + 1)), (const char *)head + head->section[s].offset, sizes[s]);
    }
    pthread_mutex_unlock(&sampler.lock);
    if (same) return parts;
    Py_DECREF(parts); /* it ended while there was other code to run */
    Py_RETURN_NONE;
}

int nm__sampler_add(PyObject *module) {
    static PyMethodDef methods[] = {
        {"profile_start", sampler_start, METH_VARARGS, "Begins one: (path or None, bound, rate, names and texts in turn)."},
        {"profile_stop", sampler_stop, METH_NOARGS, "Ends it; its last state."},
        {"profile_state", sampler_state, METH_NOARGS, "(rate, samples, dropped, bytes at the most); None: there is none."},
        {"profile_read", sampler_read, METH_NOARGS, "Head and sections of its recording, as bytes; None: there is none."},
        {NULL, NULL, 0, NULL}};
    nm__owner_at_end(sampler_owner_ends);
    nm__overdraft_at_denial(sampler_denied);
    return PyModule_AddFunctions(module, methods);
}
