#include "engine/numpy.h" /* first: Python.h wants to be */

#include "engine/engine.h"
#include "wrap/sites.h"

/* Places in NumPy's C-API table, since 1.22: PyDataMem_SetHandler and PyDataMem_GetHandler. */
#define NUMPY_SET_HANDLER 304
#define NUMPY_GET_HANDLER 305

/* What vector code likes. */
#define ARRAY_ALIGN 64

struct nm__source {
    nm__numpy_handler handler; /* first: what the capsule points to */
    nm__numpy_allocator stays; /* as the handler's, for arrays that are the source's, also during an import */
    PyObject *allocator;       /* strong */
    PyObject *numpys;          /* strong: the capsule of NumPy's default handler */
    PyObject *locks;           /* strong: the locks of the imports that are under way, by module; NULL: not known */
    PyObject *earlier;         /* strong: a list of those that were under way when the source was made */
    size_t asking;             /* calls under way that run Python code: the source outlives its capsule as long */
    bool forgotten;            /* there is no capsule any more */
};

nm__source *nm__default_source;
size_t nm__sourced;
static PyObject *default_capsule; /* strong: of nm__default_source */

/* Every array's block, by its address. */
static nm__sites table;
static size_t bytes_in_use;

/* NumPy raises an error of its own, whatever a handler has to say. The last refusal is kept as numbers until the error
 * is asked for, or its source goes: to make an error runs Python code. */
static struct {
    nm__source *source; /* NULL: `refusal` is the last one's error */
    nm_failure failure;
    size_t size;
} refused;
static PyObject *refusal; /* strong */

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

/* ---- taking and giving ------------------------------------------------------------------------------ */

/* NumPy looks at an array before it asks for memory and not again after: code that resized the array in between, as a
 * collection could before 3.12, would leave two arrays with one block. So nothing here runs Python code but the one
 * question for room, and what is moved meanwhile cannot be moved by that. A block is made with collections off, a refusal is
 * kept as numbers, pressure is told from the interpreter's loop, and what goes with an array's memory (weak references to
 * the block, the last reference to the allocator) goes from there as well. */

static void destroy_source(nm__source *source) {
    Py_XDECREF(source->allocator);
    Py_XDECREF(source->numpys);
    Py_XDECREF(source->locks);
    Py_XDECREF(source->earlier);
    PyMem_RawFree(source);
}

/* Makes the error of the last refusal. Runs Python code. */
static void make_refusal(void) {
    nm__source *source = refused.source;
    refused.source = NULL;
    PyObject *allocator = Py_NewRef(source->allocator);
    nm__raise_refusal(allocator, refused.failure, refused.size, ARRAY_ALIGN);
    Pending p = set_aside();
    PyErr_NormalizeException(&p.type, &p.value, &p.traceback);
    if (p.value != NULL) { /* they would keep frames, and so arrays */
        (void)PyException_SetTraceback(p.value, Py_None);
        PyException_SetContext(p.value, NULL);
    }
    PyObject *before = refusal;
    refusal = p.value;
    Py_XDECREF(p.type);
    Py_XDECREF(p.traceback);
    Py_XDECREF(before);
    Py_DECREF(allocator);
}

static void end_source(nm__source *source) {
    if (refused.source == source) make_refusal();
    destroy_source(source);
}

/* NumPy would put its own error in an interrupt's place. */
static void put_off_interrupt(void) {
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) PyErr_SetInterrupt();
    else if (!PyErr_ExceptionMatches(PyExc_MemoryError)) PyErr_WriteUnraisable(NULL);
    PyErr_Clear();
}

/* Asks those who watch the budget that refused; whether to try again. Runs Python code. */
static NM_COLD bool ask_for_room(PyObject *allocator, nm_failure failure) {
    nm__refusal budgets;
    if (failure.status != NM_OVER_BUDGET || !nm__budget_take_refusal(&budgets)) return false;
    PyObject *handle = nm__allocator_handle(allocator); /* keeps the budgets, whatever a callback closes */
    int asked = nm__ask_for_room(budgets.charged, budgets.refuser);
    if (asked < 0) put_off_interrupt();
    if (asked == 1) nm__budget_uncount(budgets.charged, budgets.refuser);
    Py_DECREF(handle);
    return asked == 1;
}

static PyObject *hold(nm__source *source, size_t size, void **ptr, nm_failure *failure) {
    if (!nm__sites_promise(&table)) return NULL;
    PyObject *block = nm__hold_block(source->allocator, size + (size == 0), ARRAY_ALIGN, ptr, failure);
    if (block == NULL) nm__sites_forget_promise(&table);
    return block;
}

void *nm__source_alloc(nm__source *source, size_t size, bool zeroed) {
    Pending pending = set_aside();
    nm_failure failure = {NM_OUT_OF_MEMORY, size, 0, 0};
    void *ptr = NULL;
    source->asking++;
    PyObject *block = hold(source, size, &ptr, &failure);
    if (NM_UNLIKELY(block == NULL) && ask_for_room(source->allocator, failure)) block = hold(source, size, &ptr, &failure);
    source->asking--;
    if (block == NULL) {
        refused.source = source;
        refused.failure = failure;
        refused.size = size;
    } else {
        nm__sites_add(&table, (nm__site){ptr, size, (uintptr_t)block});
        nm__sourced++;
        bytes_in_use += size;
        if (zeroed) memset(ptr, 0, size);
    }
    if (NM_UNLIKELY(source->forgotten && source->asking == 0)) end_source(source);
    nm__engine_watch_pressure();
    put_back(pending);
    return ptr;
}

/* A realloc under way. */
typedef struct Move {
    void *ptr;
    bool freed; /* meanwhile */
    struct Move *next;
} Move;
static Move *moves;

static Move *move_of(const void *ptr) {
    Move *m = moves;
    while (m != NULL && m->ptr != ptr) m = m->next;
    return m;
}

static void end_move(const Move *move) {
    Move **link = &moves;
    while (*link != move) link = &(*link)->next;
    *link = move->next;
}

bool nm__source_gave(const void *ptr) { return nm__sites_find(&table, ptr) != NULL; }

bool nm__source_free(void *ptr) {
    nm__site *found = nm__sites_find(&table, ptr);
    if (found == NULL) return false;
    Move *move = move_of(ptr);
    if (NM_UNLIKELY(move != NULL)) { /* by code that runs in the midst of it: the address must not be another's yet */
        move->freed = true;
        return true;
    }
    nm__site gone = nm__sites_take(&table, found);
    nm__sites_forget_promise(&table);
    nm__sourced--;
    bytes_in_use -= gone.size;
    nm__let_go_of_block((PyObject *)gone.site);
    return true;
}

void *nm__source_move(void *ptr, size_t size, const nm__numpy_allocator *to_where) {
    if (move_of(ptr) != NULL) return NULL;
    nm__numpy_allocator where = *to_where; /* its source may go in the midst */
    Move move = {ptr, false, moves};
    moves = &move;
    void *to = where.malloc(where.ctx, size);
    end_move(&move);
    if (NM_UNLIKELY(move.freed)) { /* whoever did that has given the array other memory */
        (void)nm__source_free(ptr);
        if (to != NULL) where.free(where.ctx, to, size);
        return NULL;
    }
    if (to == NULL) return NULL;
    size_t had = nm__sites_find(&table, ptr)->size;
    memcpy(to, ptr, had < size ? had : size);
    (void)nm__source_free(ptr);
    return to;
}

/* ---- imports ---------------------------------------------------------------------------------------- */

/* What a module keeps from its import lives as long as the process, and would keep an arena from being reset for good.
 * So the arrays of an import that begins while a source is in use come from where they would without the source. */

static bool is_among(PyObject *names, PyObject *name) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(names); i++)
        if (PyUnicode_Compare(PyList_GET_ITEM(names, i), name) == 0) return true;
    return false;
}

/* Borrowed; NULL: it is gone. The import that holds it keeps it, so nothing goes with our reference. */
static PyObject *lock_behind(PyObject *reference) {
    PyObject *lock = NULL;
#if PY_VERSION_HEX >= 0x030D0000
    if (PyWeakref_Check(reference) && PyWeakref_GetRef(reference, &lock) > 0) Py_DECREF(lock);
#else
    if (PyWeakref_Check(reference)) lock = PyWeakref_GET_OBJECT(reference);
#endif
    return lock == Py_None ? NULL : lock;
}

static PyObject *owner_word; /* strong */

static bool is_mine(PyObject *lock) {
    PyObject *owner = lock == NULL ? NULL : PyObject_GetAttr(lock, owner_word);
    bool mine = owner != NULL && PyLong_Check(owner) && PyLong_AsUnsignedLong(owner) == PyThread_get_thread_ident();
    Py_XDECREF(owner);
    PyErr_Clear();
    return mine;
}

static NM_COLD bool begun_since(const nm__source *source) {
    PyObject *name, *reference;
    bool any = false;
    Pending pending = set_aside();
    int was_on = PyGC_Disable(); /* an error's making could start a collection */
    for (Py_ssize_t i = 0; !any && PyDict_Next(source->locks, &i, &name, &reference);)
        any = PyUnicode_Check(name) && !is_among(source->earlier, name) && is_mine(lock_behind(reference));
    if (was_on) PyGC_Enable();
    put_back(pending);
    return any;
}

NM_INLINE bool is_importing(const nm__source *source) {
    return NM_UNLIKELY(source->locks != NULL && PyDict_GET_SIZE(source->locks) != 0) && begun_since(source);
}

static const nm__numpy_allocator *numpys(const nm__source *source) {
    return &((nm__numpy_handler *)PyCapsule_GetPointer(source->numpys, NM__NUMPY_CAPSULE))->allocator;
}

const char *nm__source_name(const nm__source *source) { return source->handler.name; }

/* ---- as NumPy's handler ----------------------------------------------------------------------------- */

static void *stay_malloc(void *ctx, size_t size) { return nm__source_alloc(ctx, size, false); }

static void *source_malloc(void *ctx, size_t size) {
    nm__source *source = ctx;
    if (is_importing(source)) return numpys(source)->malloc(numpys(source)->ctx, size);
    return nm__source_alloc(source, size, false);
}

static void *source_calloc(void *ctx, size_t count, size_t size) {
    nm__source *source = ctx;
    size_t bytes;
    if (!nm_mul(count, size, &bytes)) return NULL;
    if (is_importing(source)) return numpys(source)->calloc(numpys(source)->ctx, count, size);
    return nm__source_alloc(source, bytes, true);
}

/* The size that NumPy gives is not to be trusted, and not needed. */
static void source_free(void *ctx, void *ptr, size_t size) {
    if (ptr != NULL && !nm__source_free(ptr)) numpys(ctx)->free(numpys(ctx)->ctx, ptr, size);
}

/* An array stays where it is from. */
static void *source_realloc(void *ctx, void *ptr, size_t size) {
    if (ptr == NULL) return source_malloc(ctx, size);
    if (!nm__source_gave(ptr)) return numpys(ctx)->realloc(numpys(ctx)->ctx, ptr, size);
    return nm__source_move(ptr, size, &((nm__source *)ctx)->stays);
}

/* The last array is gone, too. */
static void forget_source(PyObject *capsule) {
    nm__source *source = PyCapsule_GetPointer(capsule, NM__NUMPY_CAPSULE);
    Pending pending = set_aside();
    source->forgotten = true;
    if (source->asking == 0) end_source(source);
    put_back(pending);
}

/* To be called in a context without a handler of its own: then the handler in use is NumPy's default. */
static PyObject *current_capsule(PyObject *api) {
    void **functions = PyCapsule_GetPointer(api, NULL);
    if (functions == NULL) return NULL;
    PyObject *(*get_handler)(void);
    memcpy(&get_handler, &functions[NUMPY_GET_HANDLER], sizeof get_handler);
    PyObject *capsule = get_handler();
    if (capsule != NULL && PyCapsule_GetPointer(capsule, NM__NUMPY_CAPSULE) == NULL) Py_CLEAR(capsule);
    return capsule;
}

PyObject *nm__numpy_make_handler(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *api, *allocator, *locks, *capsule = NULL;
    const char *name;
    if (!PyArg_ParseTuple(args, "OOsO", &api, &allocator, &name, &locks)) return NULL;
    if (!nm__is_allocator(allocator)) return PyErr_Format(PyExc_TypeError, "not an allocator of this backend");
    if (owner_word == NULL && (owner_word = PyUnicode_InternFromString("owner")) == NULL) return NULL;
    nm__source *source = PyMem_RawCalloc(1, sizeof *source);
    if (source == NULL) return PyErr_NoMemory();
    source->allocator = Py_NewRef(allocator);
    source->numpys = current_capsule(api);
    if (PyDict_Check(locks)) {
        source->locks = Py_NewRef(locks);
        source->earlier = PyDict_Keys(locks);
    }
    source->handler.version = 1;
    source->handler.allocator = (nm__numpy_allocator){source, source_malloc, source_calloc, source_realloc, source_free};
    source->stays = source->handler.allocator;
    source->stays.malloc = stay_malloc;
    (void)PyOS_snprintf(source->handler.name, sizeof source->handler.name, "%s", name);
    if (source->numpys != NULL && (source->locks == NULL) == (source->earlier == NULL))
        capsule = PyCapsule_New(source, NM__NUMPY_CAPSULE, forget_source);
    if (capsule == NULL) destroy_source(source);
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
    int was_on = PyGC_Disable(); /* before 3.12 it would run inside, and context variables do not stand that */
    PyObject *before = set_handler(capsule);
    if (was_on) PyGC_Enable();
    return before;
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
    if (refused.source != NULL) make_refusal();
    return Py_NewRef(refusal == NULL ? Py_None : refusal);
}
