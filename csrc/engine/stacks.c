#include "engine/stacks.h" /* first: Python.h wants to be */

#include "engine/engine.h"
#include "tuning.h"

#if PY_VERSION_HEX < 0x030B0000
#include <frameobject.h>
#endif

typedef struct frame {
    PyCodeObject *code; /* strong */
    int line;
} frame;

typedef struct stack {
    struct stack *next; /* in its bucket */
    size_t hash;
    int count;
    frame frames[]; /* innermost first */
} stack;

/* Stacks are kept until the whole goes: a program has few different ones, and a site is the address of its stack. */
struct nm_stacks {
    int depth;
    PyObject *package; /* str: frames of files whose names begin so are not the caller's */
    stack *buckets[NM_STACKS_BUCKETS];
};

static void stack_free(stack *k) {
    for (int n = 0; n < k->count; n++) Py_DECREF(k->frames[n].code);
    PyMem_RawFree(k);
}

void nm_stacks_destroy(nm_stacks *s) {
    for (size_t i = 0; i < NM_STACKS_BUCKETS; i++) {
        for (stack *k = s->buckets[i], *next; k != NULL; k = next) {
            next = k->next;
            stack_free(k);
        }
    }
    Py_DECREF(s->package);
    PyMem_RawFree(s);
}

static PyObject *stacks_own(PyObject *module, PyObject *args) {
    (void)module;
    unsigned long long place;
    int depth;
    PyObject *package;
    if (!PyArg_ParseTuple(args, "KiU", &place, &depth, &package)) return NULL;
    if (depth < 1 || depth > NM_STACKS_FRAMES) return PyErr_Format(PyExc_ValueError, "1 to %d frames", NM_STACKS_FRAMES);
    nm_stacks *s = PyMem_RawCalloc(1, sizeof *s);
    if (s == NULL) return PyErr_NoMemory();
    s->depth = depth;
    s->package = Py_NewRef(package);
    *(void **)(uintptr_t)place = s;
    Py_RETURN_TRUE;
}

static PyObject *stacks_frames(PyObject *module, PyObject *args) {
    (void)module;
    unsigned long long site;
    if (!PyArg_ParseTuple(args, "K", &site)) return NULL;
    const stack *k = (const stack *)(uintptr_t)site;
    PyObject *frames = PyTuple_New(k == NULL ? 0 : k->count);
    for (Py_ssize_t i = 0; frames != NULL && i < PyTuple_GET_SIZE(frames); i++) {
        PyCodeObject *code = k->frames[i].code;
#if PY_VERSION_HEX >= 0x030B0000
        PyObject *name = code->co_qualname;
#else
        PyObject *name = code->co_name;
#endif
        PyObject *f = Py_BuildValue("(OiO)", code->co_filename, k->frames[i].line, name);
        if (f == NULL) Py_CLEAR(frames);
        else PyTuple_SET_ITEM(frames, i, f);
    }
    return frames;
}

/* In the bucket; NULL: it is new. Pre: it is the thread's turn. */
static stack *stacks_look_up(stack *first, size_t hash, const frame *frames, int count) {
    for (stack *k = first; k != NULL; k = k->next) {
        bool same = k->hash == hash && k->count == count;
        for (int i = 0; same && i < count; i++)
            same = k->frames[i].code == frames[i].code && k->frames[i].line == frames[i].line;
        if (same) return k;
    }
    return NULL;
}

static stack *stacks_find(nm_stacks *s, const frame *frames, int count) {
    size_t hash = 0;
    for (int i = 0; i < count; i++) {
        hash = (hash ^ ((uintptr_t)frames[i].code >> 4) ^ ((size_t)frames[i].line << 40)) * (size_t)0x9E3779B97F4A7C15;
        hash ^= hash >> 32;
    }
    stack **bucket = &s->buckets[hash % NM_STACKS_BUCKETS];
    nm__engine_begin_turn();
    stack *known = stacks_look_up(*bucket, hash, frames, count);
    nm__engine_end_turn();
    if (known != NULL) return known;
    stack *k = PyMem_RawMalloc(sizeof *k + (size_t)count * sizeof *frames);
    if (k == NULL) return NULL;
    k->hash = hash;
    k->count = count;
    for (int i = 0; i < count; i++) {
        k->frames[i] = frames[i];
        Py_INCREF(frames[i].code);
    }
    nm__engine_begin_turn();
    known = stacks_look_up(*bucket, hash, frames, count); /* another thread's by now */
    if (known == NULL) {
        k->next = *bucket;
        *bucket = k;
    }
    nm__engine_end_turn();
    if (known == NULL) return k;
    stack_free(k);
    return known;
}

static bool stacks_is_of_package(const nm_stacks *s, PyCodeObject *code) {
    return PyUnicode_Tailmatch(code->co_filename, s->package, 0, PY_SSIZE_T_MAX, -1) > 0;
}

/* Called in the middle of an allocation, so no Python code may run: making a frame object could start a collection
 * before Python 3.12, and an error that is set stays set. The code objects stay alive: their frames are running. */
uintptr_t nm__stacks_site(void *self) {
    nm_stacks *s = self;
    frame frames[NM_STACKS_FRAMES];
    int count = 0;
    if (!PyGILState_Check() || nm__thread_state() == NULL) return 0;
    int was_on = nm__collections_stop();
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    for (PyFrameObject *f = PyThreadState_GetFrame(PyThreadState_Get()), *back; f != NULL; f = back) {
        PyCodeObject *code = PyFrame_GetCode(f);
        if (count > 0 || !stacks_is_of_package(s, code)) frames[count++] = (frame){code, PyFrame_GetLineNumber(f)};
        back = count < s->depth ? PyFrame_GetBack(f) : NULL;
        Py_DECREF(code);
        Py_DECREF(f);
    }
    stack *k = count == 0 ? NULL : stacks_find(s, frames, count);
    PyErr_Restore(type, value, traceback);
    nm__collections_go_on(was_on);
    return (uintptr_t)k;
}

int nm__stacks_add(PyObject *module) {
    static PyMethodDef methods[] = {
        {"own_stacks", stacks_own, METH_VARARGS, "Makes a collection of stacks and puts it into a handle."},
        {"stacks_frames", stacks_frames, METH_VARARGS, "File, line and function of each frame of a site."},
        {NULL, NULL, 0, NULL}};
    return PyModule_AddFunctions(module, methods);
}
