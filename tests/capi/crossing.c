/* For the tests: memlib's six calls, and the port's, from an extension. */
#include <nativemem/capi.h>

#include <memlib.h>

static PyObject *address_of(void *ptr) { return PyLong_FromVoidPtr(ptr); }

static PyObject *c_malloc(PyObject *self, PyObject *args) {
    Py_ssize_t size;
    int zeroed = 0;
    (void)self;
    if (!PyArg_ParseTuple(args, "n|p", &size, &zeroed)) return NULL;
    return address_of(zeroed ? HCalloc((size_t)size) : HMalloc((size_t)size));
}

static PyObject *c_realloc(PyObject *self, PyObject *args) {
    unsigned long long address;
    Py_ssize_t size;
    (void)self;
    if (!PyArg_ParseTuple(args, "Kn", &address, &size)) return NULL;
    return address_of(HRealloc((void *)(uintptr_t)address, (size_t)size));
}

static PyObject *c_free(PyObject *self, PyObject *address) {
    (void)self;
    void *ptr = PyLong_AsVoidPtr(address);
    if (ptr == NULL && PyErr_Occurred()) return NULL;
    HFree(ptr);
    Py_RETURN_NONE;
}

/* Copies the words as a program copies its argv, and joins them again. */
static PyObject *c_argv(PyObject *self, PyObject *words) {
    (void)self;
    Py_ssize_t n = PyList_Size(words), total = 1;
    if (n < 0) return NULL;
    char **argv = HCalloc(((size_t)n + 1) * sizeof *argv);
    for (Py_ssize_t i = 0; i < n; i++) {
        Py_ssize_t length;
        const char *word = PyUnicode_AsUTF8AndSize(PyList_GET_ITEM(words, i), &length);
        if (word == NULL) break;
        argv[i] = memcpy(HMalloc((size_t)length + 1), word, (size_t)length + 1);
        total += length;
    }
    char *joined = HCalloc((size_t)total);
    for (char **word = argv; *word != NULL; word++) {
        strcat(joined, *word);
        HFree(*word);
    }
    HFree(argv);
    PyObject *result = PyErr_Occurred() ? NULL : PyUnicode_FromString(joined);
    HFree(joined);
    return result;
}

static PyObject *lifecycle(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    return PyBool_FromLong(mem_init() && mem_init() && mem_uninit() && mem_uninit() && mem_init());
}

/* Takes and keeps, or frees, without the interpreter's lock: (allocator, size, align, keep) -> address, 0 where refused. */
static nm_borrowed kept;
static void *kept_block;
static size_t kept_size, kept_align;

static PyObject *take(PyObject *self, PyObject *args) {
    PyObject *allocator;
    Py_ssize_t size, align;
    (void)self;
    if (!PyArg_ParseTuple(args, "Onn", &allocator, &size, &align)) return NULL;
    if (kept.keeper != NULL) return PyErr_Format(PyExc_RuntimeError, "there is one");
    if (nm_borrow(allocator, &kept) < 0) return NULL;
    Py_BEGIN_ALLOW_THREADS kept_block = nm_calloc(kept.port, 1, (size_t)size, (size_t)align);
    Py_END_ALLOW_THREADS if (kept_block == NULL) {
        nm_raise(&kept);
        PyObject *type, *value, *traceback;
        PyErr_Fetch(&type, &value, &traceback);
        int bad = nm_return(&kept);
        if (!bad) PyErr_Restore(type, value, traceback);
        return NULL;
    }
    kept_size = (size_t)size;
    kept_align = (size_t)align;
    return address_of(kept_block);
}

static PyObject *let_go(PyObject *self, PyObject *unused) {
    (void)self, (void)unused;
    if (nm_return(&kept) == 0) return PyErr_Format(PyExc_RuntimeError, "it was returned with a block out");
    PyObject *type, *value, *traceback;
    PyErr_Fetch(&type, &value, &traceback);
    nm_status status = nm_free(kept.port, kept_block, kept_size, kept_align);
    int left = nm_return(&kept) < 0 || nm_return(&kept) < 0;
    Py_XDECREF(traceback);
    Py_XDECREF(value);
    if (left) {
        Py_XDECREF(type);
        return NULL;
    }
    PyObject *answer = Py_BuildValue("(iN)", (int)status, type);
    return answer;
}

static PyMethodDef methods[] = {
    {"malloc", c_malloc, METH_VARARGS, NULL},
    {"realloc", c_realloc, METH_VARARGS, NULL},
    {"free", c_free, METH_O, NULL},
    {"argv", c_argv, METH_O, NULL},
    {"lifecycle", lifecycle, METH_NOARGS, NULL},
    {"take", take, METH_VARARGS, NULL},
    {"let_go", let_go, METH_NOARGS, NULL},
    {NULL, NULL, 0, NULL},
};

static struct PyModuleDef module = {PyModuleDef_HEAD_INIT, .m_name = "crossing", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_crossing(void) { return nm_capi_import() < 0 ? NULL : PyModule_Create(&module); }
