#include "engine/spared.h" /* first: Python.h wants to be */

#include "engine/insides.h"
#include "tuning.h"

/* By the first part of the module's name. */
/* clang-format off */
static const char *const spared_names[] = {
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
static int spared_compare_first_part(const char *module, const char *name) {
    size_t n = strlen(name);
    int order = strncmp(module, name, n);
    return order != 0 ? order : module[n] == '\0' || module[n] == '.' ? 0 : 1;
}

static bool spared_is_named(const char *module) {
    for (size_t i = 0; i < sizeof spared_names / sizeof *spared_names; i++)
        if (spared_compare_first_part(module, spared_names[i]) == 0) return true;
    return false;
}

/* The rest of the standard library works for what calls it: `re` for a console that shows a traceback, or for a program. */
static struct {
    const char *names[NM_SPARED_LIBRARY]; /* sorted. The strings live as long as the interpreter */
    size_t count;
} spared_library;

static int spared_compare_names(const void *a, const void *b) {
    return strcmp(*(const char *const *)a, *(const char *const *)b);
}

static int spared_compare_to_name(const void *module, const void *name) {
    return spared_compare_first_part((const char *)module, *(const char *const *)name);
}

static const char *spared_ascii(PyObject *text) {
    return PyUnicode_Check(text) && PyUnicode_IS_COMPACT_ASCII(text) ? (const char *)PyUnicode_1BYTE_DATA(text) : NULL;
}

void nm__spared_learn_library(void) {
    PyObject *names = PySys_GetObject("stdlib_module_names"), *key; /* borrowed */
    if (spared_library.count > 0 || names == NULL || !PyFrozenSet_CheckExact(names)) return;
    PyObject *each = PyObject_GetIter(Py_NewRef(names)); /* for good: the program may take it out of sys */
    while (each != NULL && spared_library.count < sizeof spared_library.names / sizeof *spared_library.names &&
           (key = PyIter_Next(each)) != NULL) {
        if (spared_ascii(key) != NULL) spared_library.names[spared_library.count++] = spared_ascii(key);
        Py_DECREF(key); /* the set has it */
    }
    Py_XDECREF(each);
    PyErr_Clear();
    qsort(spared_library.names, spared_library.count, sizeof *spared_library.names, spared_compare_names);
}

static bool spared_is_library(const char *module) {
    static const char made[] = "namedtuple_"; /* how `collections` calls the module of a constructor that it makes */
    if (strncmp(module, made, sizeof made - 1) == 0) return true;
    return spared_library.count > 0 && bsearch(module, spared_library.names, spared_library.count, sizeof *spared_library.names,
                                               spared_compare_to_name) != NULL;
}

/* Where the import system asks a finder. Finders are of any package of the environment (setuptools puts one into each), and
 * with an error in one an import of code that is spared fails. What is imported is code as any other. */
static const char *const spared_import_system[] = {"importlib", "_frozen_importlib", "_frozen_importlib_external"};
static const char *const spared_searches[] = {"_find_spec", "_get_spec", "_path_hooks"};

static PyObject *spared_name_key; /* "__name__", strong */

/* Of a frame's globals; NULL: there is no such name. */
static const char *spared_module_of(PyObject *globals) {
    PyObject *module = PyDict_GetItemWithError(globals, spared_name_key);
    return module == NULL ? NULL : spared_ascii(module);
}

static bool spared_is_of_imports(const char *module) {
    for (size_t i = 0; i < sizeof spared_import_system / sizeof *spared_import_system; i++)
        if (spared_compare_first_part(module, spared_import_system[i]) == 0) return true;
    return false;
}

/* Whether the innermost of the frames further out that is of the import system has asked a finder. */
static bool spared_is_search(PyThreadState *thread, const void *frame) {
    PyObject *globals;
    for (int i = 0; i < NM_SPARED_FRAMES && (globals = nm__insides_globals(thread, &frame)) != NULL; i++) {
        const char *text = spared_module_of(globals);
        if (text == NULL) return false;
        if (!spared_is_of_imports(text)) continue;
        const char *function = spared_ascii(nm__insides_function_name(frame));
        for (size_t k = 0; function != NULL && k < sizeof spared_searches / sizeof *spared_searches; k++)
            if (strcmp(function, spared_searches[k]) == 0) return true;
        return false;
    }
    return false;
}

int nm__spared_add(PyObject *module) {
    (void)module;
    if (spared_name_key == NULL) spared_name_key = PyUnicode_InternFromString("__name__");
    return spared_name_key == NULL ? -1 : 0;
}

bool nm__spared_may_interrupt(PyThreadState *thread) {
    const void *frame = NULL;
    PyObject *globals = spared_name_key == NULL ? NULL : nm__insides_globals(thread, &frame);
    if (globals == NULL) return false;
    for (int i = 0; i < NM_SPARED_FRAMES && globals != NULL; i++) {
        const char *text = spared_module_of(globals);
        if (text == NULL) return true;
        if (spared_is_named(text)) return false;
        if (!spared_is_library(text)) return !spared_is_search(thread, frame);
        globals = nm__insides_globals(thread, &frame);
    }
    return globals != NULL; /* with nothing but the library on the stack, what called it is the interpreter */
}

/* Below it stand the frames of the command by which `nativemem run` starts a program without a start-up file. */
static const char spared_starter[] = "nativemem.commands.start";

bool nm__spared_is_without_program(PyThreadState *thread, bool *shows) {
    *shows = false;
    if (spared_name_key == NULL) return false;
    const void *frame = NULL;
    bool is_imported = true; /* what is further in and not the library's: a finder, or a module of the environment's */
    for (int i = 0; i < NM_SPARED_FRAMES; i++) {
        PyObject *globals = nm__insides_globals(thread, &frame);
        const char *text = globals == NULL ? spared_starter : spared_module_of(globals);
        if (text == NULL || strcmp(text, "runpy") == 0) return false;
        if (strcmp(text, spared_starter) == 0) return is_imported;
        if (strcmp(text, "traceback") == 0) *shows = true;
        if (spared_is_of_imports(text)) is_imported = true;
        else if (!spared_is_library(text) && spared_compare_first_part(text, "nativemem") != 0) is_imported = false;
    }
    return false;
}
