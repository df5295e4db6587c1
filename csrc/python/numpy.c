#include "python/numpy.h" /* first: Python.h wants to be */

#include "wrap/sites.h"

/* PyDataMem_SetHandler's place in NumPy's C-API table, since 1.22. */
#define NUMPY_SET_HANDLER 304

/* What vector code likes. */
#define ARRAY_ALIGN 64

struct nm__source {
    nm__numpy_handler handler; /* first: what the capsule points to */
    PyObject *allocator;       /* strong */
};

nm__source *nm__default_source;
size_t nm__sourced;
static PyObject *default_capsule; /* strong: of nm__default_source */

/* Every array's block, by its address. */
static nm__sites table;
static size_t bytes_in_use;

/* NumPy raises an error of its own, whatever a handler has to say. */
static PyObject *refusal;

/* It may be about to raise something, and calls that fail here must not be seen. */
typedef struct Pending {
    PyObject *type, *value, *traceback;
} Pending;

static Pending set_aside(void) {
    Pending p;
    PyErr_Fetch(&p.type, &p.value, &p.traceback);
    return p;
}

static void put_back(Pending p) { PyErr_Restore(p.type, p.value, p.traceback); }

static void keep_refusal(void) {
    Pending p = set_aside();
    PyErr_NormalizeException(&p.type, &p.value, &p.traceback);
    PyObject *before = refusal;
    refusal = p.value;
    Py_XDECREF(p.type);
    Py_XDECREF(p.traceback);
    Py_XDECREF(before);
}

/* ---- taking and giving ------------------------------------------------------------------------------ */

/* A block may be long in coming: making it may collect garbage, and that may run any code. */
void *nm__source_alloc(nm__source *source, size_t size, bool zeroed) {
    Pending pending = set_aside();
    PyObject *allocator = Py_NewRef(source->allocator);
    void *ptr = NULL;
    PyObject *block = NULL;
    if (!nm__sites_promise(&table)) {
        PyErr_NoMemory();
    } else if ((block = nm__hold_block(allocator, size + (size == 0), ARRAY_ALIGN, &ptr)) == NULL) {
        nm__sites_forget_promise(&table);
    }
    if (block == NULL) {
        keep_refusal();
    } else {
        nm__sites_add(&table, (nm__site){ptr, size, (uintptr_t)block});
        nm__sourced++;
        bytes_in_use += size;
        if (zeroed) memset(ptr, 0, size);
    }
    Py_DECREF(allocator);
    put_back(pending);
    return ptr;
}

bool nm__source_gave(const void *ptr) { return nm__sites_find(&table, ptr) != NULL; }

bool nm__source_free(void *ptr) {
    nm__site *found = nm__sites_find(&table, ptr);
    if (found == NULL) return false;
    nm__site gone = nm__sites_take(&table, found);
    nm__sites_forget_promise(&table);
    nm__sourced--;
    bytes_in_use -= gone.size;
    Pending pending = set_aside();
    nm__let_go_of_block((PyObject *)gone.site);
    put_back(pending);
    return true;
}

void *nm__source_move(void *ptr, void *to, size_t size) {
    if (to == NULL) return NULL;
    size_t had = nm__sites_find(&table, ptr)->size;
    memcpy(to, ptr, had < size ? had : size);
    (void)nm__source_free(ptr);
    return to;
}

const char *nm__source_name(const nm__source *source) { return source->handler.name; }

/* ---- as NumPy's handler ----------------------------------------------------------------------------- */

static void *source_malloc(void *ctx, size_t size) { return nm__source_alloc(ctx, size, false); }

static void *source_calloc(void *ctx, size_t count, size_t size) {
    size_t bytes;
    return nm_mul(count, size, &bytes) ? nm__source_alloc(ctx, bytes, true) : NULL;
}

/* The size that NumPy gives is not to be trusted, and not needed. */
static void source_free(void *ctx, void *ptr, size_t size) {
    (void)ctx, (void)size;
    if (ptr != NULL) (void)nm__source_free(ptr);
}

static void *source_realloc(void *ctx, void *ptr, size_t size) {
    void *to = nm__source_alloc(ctx, size, false);
    return ptr == NULL || !nm__source_gave(ptr) ? to : nm__source_move(ptr, to, size);
}

/* The last array is gone, too. */
static void forget_source(PyObject *capsule) {
    nm__source *source = PyCapsule_GetPointer(capsule, NM__NUMPY_CAPSULE);
    Pending pending = set_aside();
    Py_DECREF(source->allocator);
    put_back(pending);
    PyMem_RawFree(source);
}

PyObject *nm__numpy_make_handler(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *allocator;
    const char *name;
    if (!PyArg_ParseTuple(args, "Os", &allocator, &name)) return NULL;
    if (!nm__is_allocator(allocator)) return PyErr_Format(PyExc_TypeError, "not an allocator of this backend");
    nm__source *source = PyMem_RawCalloc(1, sizeof *source);
    if (source == NULL) return PyErr_NoMemory();
    source->allocator = Py_NewRef(allocator);
    source->handler.version = 1;
    source->handler.allocator =
        (nm__numpy_allocator){source, source_malloc, source_calloc, source_realloc, source_free};
    (void)PyOS_snprintf(source->handler.name, sizeof source->handler.name, "%s", name);
    PyObject *capsule = PyCapsule_New(source, NM__NUMPY_CAPSULE, forget_source);
    if (capsule == NULL) {
        Py_DECREF(allocator);
        PyMem_RawFree(source);
    }
    return capsule;
}

PyObject *nm__numpy_swap(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *api, *capsule;
    if (!PyArg_ParseTuple(args, "OO", &api, &capsule)) return NULL;
    void **functions = PyCapsule_GetPointer(api, NULL);
    if (functions == NULL || PyCapsule_GetPointer(capsule, NM__NUMPY_CAPSULE) == NULL) return NULL;
    PyObject *(*set_handler)(PyObject *);
    memcpy(&set_handler, &functions[NUMPY_SET_HANDLER], sizeof set_handler);
    return set_handler(capsule);
}

PyObject *nm__numpy_default(PyObject *module, PyObject *capsule) {
    (void)module;
    nm__source *source = NULL;
    if (capsule != Py_None) {
        source = PyCapsule_GetPointer(capsule, NM__NUMPY_CAPSULE);
        if (source == NULL) return NULL;
    }
    PyObject *before = default_capsule;
    default_capsule = source == NULL ? NULL : Py_NewRef(capsule);
    nm__default_source = source;
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

PyObject *nm__numpy_allocator_of(PyObject *module, PyObject *address) {
    (void)module;
    const void *ptr = PyLong_AsVoidPtr(address);
    if (ptr == NULL && PyErr_Occurred()) return NULL;
    const nm__site *found = nm__sites_find(&table, ptr);
    if (found == NULL) Py_RETURN_NONE;
    return PyObject_GetAttrString((PyObject *)found->site, "allocator");
}

PyObject *nm__numpy_in_use(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return Py_BuildValue("(nn)", (Py_ssize_t)nm__sourced, (Py_ssize_t)bytes_in_use);
}

PyObject *nm__numpy_refusal(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    return Py_NewRef(refusal == NULL ? Py_None : refusal);
}
