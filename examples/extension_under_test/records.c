/* A small extension, as many are: its functions are right as long as there is memory.
 *
 * Five of the six lack one check each, which no other test notices; `sweep.py` beside this file finds the five. Each
 * mistake is a common one, and its line says what is missing.
 */
#define PY_SSIZE_T_CLEAN
#include <Python.h>

/* numbers(n): the first n numbers, as a list. */
static PyObject *records_numbers(PyObject *module, PyObject *args) {
    (void)module;
    Py_ssize_t n;
    if (!PyArg_ParseTuple(args, "n", &n)) return NULL;
    PyObject *list = PyList_New(n); /* MISTAKE 1: no check for NULL */
    for (Py_ssize_t i = 0; i < n; i++) {
        PyObject *number = PyLong_FromSsize_t(1000 + i);
        if (number == NULL) {
            Py_DECREF(list);
            return NULL;
        }
        PyList_SET_ITEM(list, i, number);
    }
    return list;
}

/* index(names): a dict with the place of each name. */
static PyObject *records_index(PyObject *module, PyObject *names) {
    (void)module;
    Py_ssize_t n = PySequence_Size(names);
    PyObject *index = n < 0 ? NULL : PyDict_New();
    for (Py_ssize_t i = 0; index != NULL && i < n; i++) {
        PyObject *name = PySequence_GetItem(names, i), *place = PyLong_FromSsize_t(i);
        if (name != NULL && place != NULL) PyDict_SetItem(index, name, place); /* MISTAKE 2: the result is not looked at */
        else Py_CLEAR(index);
        Py_XDECREF(name);
        Py_XDECREF(place);
    }
    return index;
}

/* line(width): a line of dashes, as bytes. */
static PyObject *records_line(PyObject *module, PyObject *args) {
    (void)module;
    Py_ssize_t width;
    if (!PyArg_ParseTuple(args, "n", &width)) return NULL;
    PyObject *line = PyBytes_FromStringAndSize(NULL, width); /* MISTAKE 3: no check for NULL */
    memset(PyBytes_AS_STRING(line), '-', (size_t)width);
    return line;
}

/* pair(a, b): two numbers, each a thousand times as large, in a tuple. */
static PyObject *records_pair(PyObject *module, PyObject *args) {
    (void)module;
    long a, b;
    if (!PyArg_ParseTuple(args, "ll", &a, &b)) return NULL;
    PyObject *first = PyLong_FromLong(a * 1000);
    if (first == NULL) return NULL;
    PyObject *second = PyLong_FromLong(b * 1000);
    if (second == NULL) return NULL; /* MISTAKE 4: the first is not given back */
    PyObject *pair = PyTuple_Pack(2, first, second);
    Py_DECREF(first);
    Py_DECREF(second);
    return pair;
}

typedef struct {
    double sum;
    Py_ssize_t count;
} mean_state;

/* mean(numbers): their mean. */
static PyObject *records_mean(PyObject *module, PyObject *numbers) {
    (void)module;
    mean_state *state = PyMem_Malloc(sizeof *state); /* MISTAKE 5: no check for NULL */
    state->sum = 0;
    state->count = 0;
    PyObject *iterator = PyObject_GetIter(numbers), *item = NULL;
    while (iterator != NULL && (item = PyIter_Next(iterator)) != NULL) {
        state->sum += PyFloat_AsDouble(item);
        state->count++;
        Py_DECREF(item);
    }
    Py_XDECREF(iterator);
    PyObject *mean = PyErr_Occurred() ? NULL : PyFloat_FromDouble(state->count ? state->sum / (double)state->count : 0);
    PyMem_Free(state);
    return mean;
}

/* twice(text): the text, then the text again; all that can fail is checked. */
static PyObject *records_twice(PyObject *module, PyObject *text) {
    (void)module;
    return PyUnicode_Concat(text, text);
}

static PyMethodDef methods[] = {{"numbers", records_numbers, METH_VARARGS, NULL},
                                {"index", records_index, METH_O, NULL},
                                {"line", records_line, METH_VARARGS, NULL},
                                {"pair", records_pair, METH_VARARGS, NULL},
                                {"mean", records_mean, METH_O, NULL},
                                {"twice", records_twice, METH_O, NULL},
                                {NULL, NULL, 0, NULL}};

static struct PyModuleDef definition = {PyModuleDef_HEAD_INIT, .m_name = "records", .m_size = -1, .m_methods = methods};

PyMODINIT_FUNC PyInit_records(void) { return PyModule_Create(&definition); }
