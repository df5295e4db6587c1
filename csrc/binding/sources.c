/* NumPy arrays from allocators: an array's memory is a block, held as by a buffer until NumPy frees it.
 *
 * A source is an allocator as NumPy sees it: a handler behind a capsule. NumPy calls it with the interpreter's lock held, or,
 * on builds without it, with a thread state.
 *
 * NumPy looks at an array before it asks for memory and not again after: code that resized the array in between, as a
 * collection could before 3.12, would leave two arrays with one block. So nothing here runs Python code but the one
 * question for room, and what is moved meanwhile cannot be moved by that. A block is made with collections off, a refusal is
 * kept as numbers, pressure is told from the interpreter's loop, and what goes with an array's memory (weak references to
 * the block, the last reference to the allocator) goes from there as well.
 */
#include "binding/sources.h"

#include "binding/allocator.h"
#include "binding/held.h"
#include "binding/hooks.h"
#include "binding/pressure.h"
#include "engine/arrays.h"
#include "engine/serve.h"
#include "tuning.h"
#include "wrap/sites.h"

typedef struct array_source {
    nm__numpy_handler handler; /* first: what the capsule points to */
    nm__numpy_allocator stays; /* as the handler's, for arrays that are the source's, also during an import */
    PyObject *allocator;       /* strong */
    PyObject *numpys;          /* strong: the capsule of NumPy's default handler */
    PyObject *locks;           /* strong: the locks of the imports that are under way, by module; NULL: not known */
    PyObject *earlier;         /* strong: a list of those that were under way when the source was made */
    size_t asking;             /* calls under way that run Python code: the source outlives its capsule as long */
    bool forgotten;            /* there is no capsule any more */
} array_source;

static PyObject *source_default_capsule; /* strong: of the standing source */

/* Of all that follows here, and of the sources' own. */
NM_GUARD_MUTEX(nm__source_lock);

/* Every array's block, by its address. */
static nm__sites source_table;

static size_t source_bytes;

/* NumPy raises an error of its own, whatever a handler has to say. The last refusal is kept as numbers until the error
 * is asked for, or its source goes: to make an error runs Python code. */
static struct {
    array_source *source; /* NULL: `refusal` is the last one's error */
    nm_failure failure;
    size_t size;
} source_refused;

static PyObject *source_refusal; /* strong */

/* It may be about to raise something, and calls that fail here must not be seen. */
typedef struct Pending {
    PyObject *type, *value, *traceback;
} Pending;

static Pending pending_set_aside(void) {
    Pending p;
    PyErr_Fetch(&p.type, &p.value, &p.traceback);
    return p;
}

static void pending_put_back(Pending p) { PyErr_Restore(p.type, p.value, p.traceback); }

static void source_destroy(array_source *source) {
    Py_XDECREF(source->allocator);
    Py_XDECREF(source->numpys);
    Py_XDECREF(source->locks);
    Py_XDECREF(source->earlier);
    PyMem_RawFree(source);
}

/* Makes the error of the last refusal. Runs Python code. */
static void source_make_refusal(void) {
    NM_GUARD(nm__source_lock);
    array_source *source = source_refused.source;
    source_refused.source = NULL;
    PyObject *allocator = Py_NewRef(source->allocator);
    nm__raise_refusal((AllocatorObject *)allocator, source_refused.failure, source_refused.size, NM_ARRAY_ALIGN);
    Pending p = pending_set_aside();
    PyErr_NormalizeException(&p.type, &p.value, &p.traceback);
    if (p.value != NULL) { /* they would keep frames, and so arrays */
        (void)PyException_SetTraceback(p.value, Py_None);
        PyException_SetContext(p.value, NULL);
    }
    PyObject *before = source_refusal;
    source_refusal = p.value;
    Py_XDECREF(p.type);
    Py_XDECREF(p.traceback);
    Py_XDECREF(before);
    Py_DECREF(allocator);
}

static void source_end(array_source *source) {
    if (source_refused.source == source) source_make_refusal();
    source_destroy(source);
}

/* NumPy would put its own error in an interrupt's place. */
static void source_put_off_interrupt(void) {
    if (PyErr_ExceptionMatches(PyExc_KeyboardInterrupt)) PyErr_SetInterrupt();
    else if (!PyErr_ExceptionMatches(PyExc_MemoryError)) PyErr_WriteUnraisable(NULL);
    PyErr_Clear();
}

/* Asks the watchers of the budget that refused; whether to try again. Runs Python code. */
static NM_COLD bool source_ask_for_room(PyObject *allocator, nm_failure failure) {
    nm__refusal budgets;
    if (failure.status != NM_OVER_BUDGET || !nm__budget_take_refusal(&budgets)) return false;
    PyObject *handle = nm__allocator_handle(allocator); /* keeps the budgets, whatever a callback closes */
    int asked = nm__pressure_ask(budgets.charged, budgets.refuser);
    if (asked < 0) source_put_off_interrupt();
    if (asked == 1) nm__budget_uncount(budgets.charged, budgets.refuser);
    Py_DECREF(handle);
    return asked == 1;
}

static PyObject *source_hold(array_source *source, size_t size, void **ptr, nm_failure *failure) {
    if (!nm__sites_promise(&source_table)) return NULL;
    PyObject *block = nm__held_take(source->allocator, size + (size == 0), NM_ARRAY_ALIGN, ptr, failure);
    if (block == NULL) nm__sites_forget_promise(&source_table);
    return block;
}

static void *source_alloc(array_source *source, size_t size, bool zeroed) {
    NM_GUARD(nm__source_lock);
    Pending pending = pending_set_aside();
    nm_failure failure = {NM_OUT_OF_MEMORY, size, 0, 0};
    void *ptr = NULL;
    source->asking++;
    PyObject *block = source_hold(source, size, &ptr, &failure);
    if (NM_UNLIKELY(block == NULL) && source_ask_for_room(source->allocator, failure))
        block = source_hold(source, size, &ptr, &failure);
    source->asking--;
    if (block == NULL) {
        source_refused.source = source;
        source_refused.failure = failure;
        source_refused.size = size;
    } else {
        nm__sites_add(&source_table, (nm__site){ptr, size, (uintptr_t)block});
        nm__array_sources.live++;
        source_bytes += size;
        if (zeroed) memset(ptr, 0, size);
    }
    if (NM_UNLIKELY(source->forgotten && source->asking == 0)) source_end(source);
    nm__serve_watch_pressure();
    pending_put_back(pending);
    return ptr;
}

/* A realloc under way. */
typedef struct Move {
    void *ptr;
    bool freed; /* meanwhile */
    struct Move *next;
} Move;

static Move *source_moves;

static Move *move_of(const void *ptr) {
    Move *m = source_moves;
    while (m != NULL && m->ptr != ptr) m = m->next;
    return m;
}

static void move_end(const Move *move) {
    Move **link = &source_moves;
    while (*link != move) link = &(*link)->next;
    *link = move->next;
}

static bool source_gave(const void *ptr) {
    NM_GUARD(nm__source_lock);
    return nm__sites_find(&source_table, ptr) != NULL;
}

static bool source_take_back(void *ptr) {
    NM_GUARD(nm__source_lock);
    nm__site *found = nm__sites_find(&source_table, ptr);
    if (found == NULL) return false;
    Move *move = move_of(ptr);
    if (NM_UNLIKELY(move != NULL)) { /* by code that runs in the midst of it: the address must not be another's yet */
        move->freed = true;
        return true;
    }
    nm__site gone = nm__sites_take(&source_table, found);
    nm__sites_forget_promise(&source_table);
    nm__array_sources.live--;
    source_bytes -= gone.size;
    nm__held_release((PyObject *)gone.site);
    return true;
}

static void *source_move(void *ptr, size_t size, const nm__numpy_allocator *to_where) {
    NM_GUARD(nm__source_lock);
    if (move_of(ptr) != NULL) return NULL;
    nm__numpy_allocator where = *to_where; /* its source may go in the midst */
    Move move = {ptr, false, source_moves};
    source_moves = &move;
    void *to = where.malloc(where.ctx, size);
    move_end(&move);
    if (NM_UNLIKELY(move.freed)) { /* the code that did that has given the array other memory */
        (void)source_take_back(ptr);
        if (to != NULL) where.free(where.ctx, to, size);
        return NULL;
    }
    if (to == NULL) return NULL;
    size_t had = nm__sites_find(&source_table, ptr)->size;
    memcpy(to, ptr, had < size ? had : size);
    (void)source_take_back(ptr);
    return to;
}

/* ---- imports ---------------------------------------------------------------------------------------- */

/* What a module keeps from its import lives as long as the process, and would keep an arena from being reset for good.
 * So the arrays of an import that begins while a source is in use come from where they would without the source. */

static bool import_is_among(PyObject *names, PyObject *name) {
    for (Py_ssize_t i = 0; i < PyList_GET_SIZE(names); i++)
        if (PyUnicode_Compare(PyList_GET_ITEM(names, i), name) == 0) return true;
    return false;
}

/* A new reference; NULL: it is gone. */
static PyObject *import_lock_behind(PyObject *reference) {
    PyObject *lock = NULL;
#if PY_VERSION_HEX >= 0x030D0000
    if (PyWeakref_Check(reference)) (void)PyWeakref_GetRef(reference, &lock);
#else
    if (PyWeakref_Check(reference) && (lock = PyWeakref_GET_OBJECT(reference)) != Py_None) return Py_NewRef(lock);
    lock = NULL;
#endif
    return lock;
}

static PyObject *import_owner_word; /* strong */

/* The import that holds a lock keeps it, so nothing goes with our reference. */
static bool import_is_mine(PyObject *reference) {
    PyObject *lock = import_lock_behind(reference);
    PyObject *owner = lock == NULL ? NULL : PyObject_GetAttr(lock, import_owner_word);
    bool mine = owner != NULL && PyLong_Check(owner) && PyLong_AsUnsignedLong(owner) == PyThread_get_thread_ident();
    Py_XDECREF(owner);
    Py_XDECREF(lock);
    PyErr_Clear();
    return mine;
}

static NM_COLD bool import_begun_since(const array_source *source) {
    PyObject *name, *reference;
    bool any = false;
    Pending pending = pending_set_aside();
    int was_on = nm__collections_stop(); /* an error's making could start a collection */
    PyObject *locks = nm__dict_hold(source->locks);
    for (Py_ssize_t i = 0; locks != NULL && !any && PyDict_Next(locks, &i, &name, &reference);)
        any = PyUnicode_Check(name) && !import_is_among(source->earlier, name) && import_is_mine(reference);
    nm__dict_drop(locks);
    nm__collections_go_on(was_on);
    pending_put_back(pending);
    return any;
}

NM_INLINE bool source_is_importing(const array_source *source) {
    return NM_UNLIKELY(source->locks != NULL && PyDict_GET_SIZE(source->locks) != 0) && import_begun_since(source);
}

static const nm__numpy_allocator *source_numpys(const array_source *source) {
    return &((nm__numpy_handler *)PyCapsule_GetPointer(source->numpys, NM__NUMPY_CAPSULE))->allocator;
}

/* ---- as NumPy's handler ----------------------------------------------------------------------------- */

static void *source_stay_malloc(void *ctx, size_t size) { return source_alloc(ctx, size, false); }

static void *source_stay_calloc(void *ctx, size_t count, size_t size) {
    size_t bytes;
    return nm_mul(count, size, &bytes) ? source_alloc(ctx, bytes, true) : NULL;
}

static void *source_malloc(void *ctx, size_t size) {
    array_source *source = ctx;
    if (source_is_importing(source)) return source_numpys(source)->malloc(source_numpys(source)->ctx, size);
    return source_alloc(source, size, false);
}

static void *source_calloc(void *ctx, size_t count, size_t size) {
    array_source *source = ctx;
    size_t bytes;
    if (!nm_mul(count, size, &bytes)) return NULL;
    if (source_is_importing(source)) return source_numpys(source)->calloc(source_numpys(source)->ctx, count, size);
    return source_alloc(source, bytes, true);
}

/* The size that NumPy gives is not to be trusted, and not needed. */
static void source_free(void *ctx, void *ptr, size_t size) {
    if (ptr != NULL && !source_take_back(ptr)) source_numpys(ctx)->free(source_numpys(ctx)->ctx, ptr, size);
}

/* An array stays where it is from. */
static void *source_realloc(void *ctx, void *ptr, size_t size) {
    if (ptr == NULL) return source_malloc(ctx, size);
    if (!source_gave(ptr)) return source_numpys(ctx)->realloc(source_numpys(ctx)->ctx, ptr, size);
    return source_move(ptr, size, &((array_source *)ctx)->stays);
}

/* The last array is gone, too. */
static void source_forget(PyObject *capsule) {
    NM_GUARD(nm__source_lock);
    array_source *source = PyCapsule_GetPointer(capsule, NM__NUMPY_CAPSULE);
    Pending pending = pending_set_aside();
    source->forgotten = true;
    if (source->asking == 0) source_end(source);
    pending_put_back(pending);
}

/* To be called in a context without a handler of its own: then the handler in use is NumPy's default. */
static PyObject *source_current_capsule(PyObject *api) {
    void **functions = PyCapsule_GetPointer(api, NULL);
    if (functions == NULL) return NULL;
    PyObject *(*get_handler)(void);
    memcpy(&get_handler, &functions[NM__NUMPY_GET_HANDLER], sizeof get_handler);
    PyObject *capsule = get_handler();
    if (capsule != NULL && PyCapsule_GetPointer(capsule, NM__NUMPY_CAPSULE) == NULL) Py_CLEAR(capsule);
    return capsule;
}

/* ---- functions of the module ------------------------------------------------------------------------ */

static PyObject *source_make_handler(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *api, *allocator, *locks, *capsule = NULL;
    const char *name;
    if (!PyArg_ParseTuple(args, "OOsO", &api, &allocator, &name, &locks)) return NULL;
    if (!nm__is_allocator(allocator)) return PyErr_Format(PyExc_TypeError, "not an allocator of this backend");
    if (import_owner_word == NULL && (import_owner_word = PyUnicode_InternFromString("owner")) == NULL) return NULL;
    array_source *source = PyMem_RawCalloc(1, sizeof *source);
    if (source == NULL) return PyErr_NoMemory();
    source->allocator = Py_NewRef(allocator);
    source->numpys = source_current_capsule(api);
    if (PyDict_Check(locks)) {
        source->locks = Py_NewRef(locks);
        source->earlier = PyDict_Keys(locks);
    }
    source->handler.version = 1;
    source->handler.allocator = (nm__numpy_allocator){source, source_malloc, source_calloc, source_realloc, source_free};
    source->stays = source->handler.allocator;
    source->stays.malloc = source_stay_malloc;
    source->stays.calloc = source_stay_calloc;
    (void)PyOS_snprintf(source->handler.name, sizeof source->handler.name, "%s", name);
    if (source->numpys != NULL && (source->locks == NULL) == (source->earlier == NULL))
        capsule = PyCapsule_New(source, NM__NUMPY_CAPSULE, source_forget);
    if (capsule == NULL) source_destroy(source);
    return capsule;
}

static PyObject *source_swap(PyObject *module, PyObject *args) {
    (void)module;
    PyObject *api, *capsule;
    if (!PyArg_ParseTuple(args, "OO", &api, &capsule)) return NULL;
    void **functions = PyCapsule_GetPointer(api, NULL);
    if (functions == NULL || PyCapsule_GetPointer(capsule, NM__NUMPY_CAPSULE) == NULL) return NULL;
    PyObject *(*set_handler)(PyObject *);
    memcpy(&set_handler, &functions[NM__NUMPY_SET_HANDLER], sizeof set_handler);
    int was_on = nm__collections_stop(); /* before 3.12 it would run inside, and context variables do not stand that */
    PyObject *before = set_handler(capsule);
    nm__collections_go_on(was_on);
    return before;
}

static PyObject *source_set_default(PyObject *module, PyObject *capsule) {
    NM_GUARD(nm__source_lock);
    (void)module;
    array_source *source = NULL;
    if (capsule != Py_None) {
        source = PyCapsule_GetPointer(capsule, NM__NUMPY_CAPSULE);
        if (source == NULL) return NULL;
    }
    PyObject *before = source_default_capsule;
    source_default_capsule = source == NULL ? NULL : Py_NewRef(capsule);
    nm__array_sources.standing = source == NULL ? NULL : &source->stays;
    nm__array_sources.standing_name = source == NULL ? NULL : source->handler.name;
    Py_XDECREF(before);
    Py_RETURN_NONE;
}

static PyObject *source_allocator_of(PyObject *module, PyObject *address) {
    NM_GUARD(nm__source_lock);
    (void)module;
    const void *ptr = PyLong_AsVoidPtr(address);
    if (ptr == NULL && PyErr_Occurred()) return NULL;
    const nm__site *found = nm__sites_find(&source_table, ptr);
    if (found == NULL) Py_RETURN_NONE;
    PyObject *block = Py_NewRef((PyObject *)found->site);
    PyObject *allocator = PyObject_GetAttrString(block, "allocator");
    Py_DECREF(block);
    return allocator;
}

static PyObject *source_in_use(PyObject *module, PyObject *unused) {
    NM_GUARD(nm__source_lock);
    (void)module, (void)unused;
    return Py_BuildValue("(nn)", (Py_ssize_t)nm__array_sources.live, (Py_ssize_t)source_bytes);
}

static PyObject *source_last_refusal(PyObject *module, PyObject *unused) {
    NM_GUARD(nm__source_lock);
    (void)module, (void)unused;
    if (source_refused.source != NULL) source_make_refusal();
    return Py_NewRef(source_refusal == NULL ? Py_None : source_refusal);
}

int nm__sources_add(PyObject *module) {
    static PyMethodDef methods[] = {
        {"numpy_handler", source_make_handler, METH_VARARGS, "An allocator as NumPy's handler: a capsule."},
        {"numpy_swap", source_swap, METH_VARARGS, "Sets the context's handler, and returns the one before."},
        {"numpy_default", source_set_default, METH_O, "Sets the handler of contexts that have not set one; None: none."},
        {"numpy_allocator_of", source_allocator_of, METH_O, "The allocator that gave an array's memory, or None."},
        {"numpy_in_use", source_in_use, METH_NOARGS, "(arrays, bytes) that allocators gave."},
        {"numpy_refusal", source_last_refusal, METH_NOARGS, "The last error that NumPy dropped, or None."},
        {NULL, NULL, 0, NULL}};
    nm__array_sources.gave = source_gave;
    nm__array_sources.take_back = source_take_back;
    nm__array_sources.move = source_move;
    return PyModule_AddFunctions(module, methods);
}
