/* See packed.h. */
#include "binding/packed.h"

#include <math.h>
#include <string.h>

static bool format_init(nm__format *f, PyObject *spec) {
    PyObject *fields, *pack, *unpack;
    Py_ssize_t size;
    int single, gaps, exact;
    if (!PyArg_ParseTuple(spec, "npppO!OO", &size, &single, &gaps, &exact, &PyTuple_Type, &fields, &pack, &unpack))
        return false;
    Py_ssize_t count = PyTuple_GET_SIZE(fields);
    nm__field *made = PyMem_New(nm__field, (size_t)(count == 0 ? 1 : count));
    if (made == NULL) {
        (void)PyErr_NoMemory();
        return false;
    }
    for (Py_ssize_t i = 0; i < count; i++) {
        int kind;
        bool ok = PyArg_ParseTuple(PyTuple_GET_ITEM(fields, i), "inn", &kind, &made[i].offset, &made[i].size) != 0;
        if (ok && (kind < 0 || kind >= FIELD_KINDS || made[i].size < 0 || made[i].offset > size - made[i].size)) {
            PyErr_SetString(PyExc_SystemError, "a field that is not in its item");
            ok = false;
        }
        if (!ok) {
            PyMem_Free(made);
            return false;
        }
        made[i].kind = (nm__field_kind)kind;
    }
    *f = (nm__format){.size = size,
                      .count = count,
                      .fields = made,
                      .pack = Py_NewRef(pack),
                      .unpack = Py_NewRef(unpack),
                      .single = single != 0,
                      .gaps = gaps != 0,
                      .exact = exact != 0};
    return true;
}

bool nm__format_init(nm__format *f, PyObject *record) {
    PyObject *spec = PyObject_GetAttrString(record, "spec");
    bool ok = spec != NULL && format_init(f, spec);
    Py_XDECREF(spec);
    return ok;
}

void nm__format_clear(nm__format *f) {
    PyMem_Free(f->fields);
    f->fields = NULL;
    f->count = 0;
    nm__recent_clear(&f->recent);
    Py_CLEAR(f->pack);
    Py_CLEAR(f->unpack);
}

int nm__format_traverse(nm__format *f, visitproc visit, void *arg) {
    Py_VISIT(f->pack);
    Py_VISIT(f->unpack);
    return 0;
}

/* ---- fields --------------------------------------------------------------------------------------- */

#define STORE(type, value)                  \
    do {                                    \
        type stored = (type)(value);        \
        memcpy(to, &stored, sizeof stored); \
    } while (0)

/* Inlined, so that where the kind is a constant nothing is asked of it. */
NM_INLINE bool store_integer(nm__field_kind kind, int64_t n, char *to) {
    switch (kind) {
    case FIELD_I8:
        if (n < INT8_MIN || n > INT8_MAX) return false;
        STORE(int8_t, n);
        return true;
    case FIELD_U8:
        if (n < 0 || n > UINT8_MAX) return false;
        STORE(uint8_t, n);
        return true;
    case FIELD_I16:
        if (n < INT16_MIN || n > INT16_MAX) return false;
        STORE(int16_t, n);
        return true;
    case FIELD_U16:
        if (n < 0 || n > UINT16_MAX) return false;
        STORE(uint16_t, n);
        return true;
    case FIELD_I32:
        if (n < INT32_MIN || n > INT32_MAX) return false;
        STORE(int32_t, n);
        return true;
    case FIELD_U32:
        if (n < 0 || n > UINT32_MAX) return false;
        STORE(uint32_t, n);
        return true;
    case FIELD_U64:
        if (n < 0) return false;
        STORE(uint64_t, n);
        return true;
    default: STORE(int64_t, n); return true;
    }
}

/* Of an int with more than 60 bits. */
static NM_COLD bool pack_large(nm__field_kind kind, PyObject *value, char *to) {
    if (kind == FIELD_U64) {
        unsigned long long n = PyLong_AsUnsignedLongLong(value);
        if (n == (unsigned long long)-1 && PyErr_Occurred()) {
            PyErr_Clear();
            return false;
        }
        STORE(uint64_t, n);
        return true;
    }
    int overflow;
    long long n = PyLong_AsLongLongAndOverflow(value, &overflow);
    return overflow == 0 && store_integer(kind, n, to);
}

NM_INLINE bool pack_integer(nm__field_kind kind, PyObject *value, char *to) {
    int64_t n;
    if (NM_UNLIKELY(!PyLong_CheckExact(value)) && !PyLong_Check(value)) return false;
    return NM_LIKELY(nm__long_small(value, &n)) ? store_integer(kind, n, to) : pack_large(kind, value, to);
}

static bool pack_float(nm__field_kind kind, PyObject *value, char *to, bool exact) {
    double x;
    if (PyFloat_CheckExact(value)) {
        x = PyFloat_AS_DOUBLE(value);
        if (exact) {
            if (isnan(x)) return false;
            if (x == 0.0) x = 0.0;
        }
    } else if (PyLong_CheckExact(value)) {
        int64_t n;
        if (!nm__long_small(value, &n) || n > (1LL << 53) || n < -(1LL << 53)) return false; /* a double may not hold it */
        x = (double)n;
    } else {
        return false;
    }
    if (kind == FIELD_F64) {
        STORE(double, x);
        return true;
    }
    float narrow = (float)x;
    if (isinf(narrow) && !isinf(x)) return false;
    if (exact && (double)narrow != x) return false;
    STORE(float, narrow);
    return true;
}

static bool pack_bytes(const nm__field *field, PyObject *value, char *to) {
    if (!PyBytes_CheckExact(value)) return false;
    Py_ssize_t n = PyBytes_GET_SIZE(value), room = field->size;
    if (field->kind == FIELD_PASCAL) {
        if (n > room - 1 || n > UINT8_MAX) return false;
        *to++ = (char)(uint8_t)n;
        room--;
    }
    if (n > room) return false;
    memcpy(to, PyBytes_AS_STRING(value), (size_t)n);
    memset(to + n, 0, (size_t)(room - n));
    return true;
}

static inline bool pack_field(const nm__field *field, PyObject *value, char *to, bool exact) {
    switch (field->kind) {
    case FIELD_F32:
    case FIELD_F64: return pack_float(field->kind, value, to, exact);
    case FIELD_BOOL:
        if (value != Py_True && value != Py_False) return false;
        *to = value == Py_True;
        return true;
    case FIELD_BYTES:
    case FIELD_PASCAL: return pack_bytes(field, value, to);
    default: return pack_integer(field->kind, value, to);
    }
}

#define LOAD(type) \
    type loaded;   \
    memcpy(&loaded, from, sizeof loaded)

/* `recent`: NULL, or the numbers that this field gave before */
static inline PyObject *unpack_field(const nm__field *field, const char *from, nm__recent *recent) {
    switch (field->kind) {
    case FIELD_I8: return PyLong_FromLong(*(const signed char *)from); /* those that are always there */
    case FIELD_U8: return PyLong_FromLong(*(const unsigned char *)from);
    case FIELD_I16: {
        LOAD(int16_t);
        return nm__long_again(recent, loaded);
    }
    case FIELD_U16: {
        LOAD(uint16_t);
        return nm__long_again(recent, loaded);
    }
    case FIELD_I32: {
        LOAD(int32_t);
        return nm__long_again(recent, loaded);
    }
    case FIELD_U32: {
        LOAD(uint32_t);
        return nm__long_again(recent, loaded);
    }
    case FIELD_I64: {
        LOAD(int64_t);
        return nm__long_again(recent, loaded);
    }
    case FIELD_U64: {
        LOAD(uint64_t);
        return loaded <= INT64_MAX ? nm__long_again(recent, (int64_t)loaded) : PyLong_FromUnsignedLongLong(loaded);
    }
    case FIELD_F32: {
        LOAD(float);
        return nm__float_again(recent, (double)loaded);
    }
    case FIELD_F64: {
        LOAD(double);
        return nm__float_again(recent, loaded);
    }
    case FIELD_BOOL: return PyBool_FromLong(*from != 0);
    case FIELD_PASCAL: {
        Py_ssize_t n = *(const unsigned char *)from;
        return PyBytes_FromStringAndSize(from + 1, n < field->size ? n : field->size - 1);
    }
    default: return PyBytes_FromStringAndSize(from, field->size);
    }
}

/* ---- items ---------------------------------------------------------------------------------------- */

bool nm__pack_plain(const nm__format *f, PyObject *value, char *to) {
    if (f->count == 0) return false;
    if (f->gaps) memset(to, 0, (size_t)f->size);
    if (f->single) return pack_field(f->fields, value, to + f->fields->offset, f->exact);
    if (!PyTuple_CheckExact(value) || PyTuple_GET_SIZE(value) != f->count) return false;
    for (Py_ssize_t i = 0; i < f->count; i++)
        if (!pack_field(&f->fields[i], PyTuple_GET_ITEM(value, i), to + f->fields[i].offset, f->exact)) return false;
    return true;
}

static NM_COLD bool pack_in_python(const nm__format *f, PyObject *value, char *to) {
    PyObject *call = Py_NewRef(f->pack); /* what it runs may close the collection */
    Py_ssize_t size = f->size;
    PyObject *packed = PyObject_CallOneArg(call, value);
    Py_DECREF(call);
    if (packed == NULL) return false;
    bool ok = PyBytes_Check(packed) && PyBytes_GET_SIZE(packed) == size;
    if (ok) memcpy(to, PyBytes_AS_STRING(packed), (size_t)size);
    else PyErr_SetString(PyExc_SystemError, "an item was packed to bytes of another size");
    Py_DECREF(packed);
    return ok;
}

bool nm__pack(const nm__format *f, PyObject *value, char *to) {
    return NM_LIKELY(nm__pack_plain(f, value, to)) || pack_in_python(f, value, to);
}

static PyObject *unpack_in_python(const nm__format *f, const char *from) {
    PyObject *raw = PyBytes_FromStringAndSize(from, f->size);
    if (raw == NULL) return NULL;
    PyObject *call = Py_NewRef(f->unpack), *value = PyObject_CallOneArg(call, raw);
    Py_DECREF(call);
    Py_DECREF(raw);
    return value;
}

static PyObject *unpack_fields(const nm__format *f, const char *from) {
    nm__scratch copy;
    char *bytes = nm__scratch_get(&copy, f->size);
    if (bytes == NULL) return NULL;
    memcpy(bytes, from, (size_t)f->size);
    const nm__field *fields = f->fields; /* stay while the collection does, which the caller has a reference to */
    Py_ssize_t count = f->count;
    PyObject *values = PyTuple_New(count);
    for (Py_ssize_t i = 0; values != NULL && i < count; i++) {
        PyObject *value = unpack_field(&fields[i], bytes + fields[i].offset, NULL);
        if (value == NULL) Py_CLEAR(values);
        else PyTuple_SET_ITEM(values, i, value);
    }
    nm__scratch_drop(&copy);
    return values;
}

PyObject *nm__unpack(nm__format *f, const char *from) {
    if (NM_LIKELY(f->single && f->count != 0)) return unpack_field(f->fields, from + f->fields->offset, &f->recent);
    return f->count == 0 ? unpack_in_python(f, from) : unpack_fields(f, from);
}

PyObject *nm__unpack_new(nm__format *f, const char *from) {
    if (NM_LIKELY(f->single && f->count != 0)) return unpack_field(f->fields, from + f->fields->offset, NULL);
    return f->count == 0 ? unpack_in_python(f, from) : unpack_fields(f, from);
}

/* ---- many at once --------------------------------------------------------------------------------- */

/* `pack` takes value and to, and gives whether it was packed; it is inlined, so what it asks of the kind is asked once. */
#define RUN(pack)                            \
    do {                                     \
        for (; i < n; i++, to += size) {     \
            PyObject *value = values[i];     \
            if (NM_UNLIKELY(!(pack))) break; \
        }                                    \
    } while (0)

Py_ssize_t nm__pack_run(const nm__format *f, PyObject *const *values, Py_ssize_t n, char *to) {
    Py_ssize_t i = 0, size = f->size;
    if (f->single && !f->gaps && f->count != 0 && !f->exact) {
        nm__field_kind kind = f->fields->kind;
        switch (kind) {
        case FIELD_I32: RUN(pack_integer(FIELD_I32, value, to)); return i;
        case FIELD_I64: RUN(pack_integer(FIELD_I64, value, to)); return i;
        case FIELD_F64: RUN(pack_float(FIELD_F64, value, to, false)); return i;
        default: break;
        }
    }
    RUN(nm__pack_plain(f, value, to));
    return i;
}

bool nm__buffer_of_items(PyObject *object) {
    PyTypeObject *type = Py_TYPE(object);
    if (type == &PyBytes_Type || type == &PyByteArray_Type || type == &PyMemoryView_Type) return true;
    /* a class of a program may have such a name, and iterate over something else */
    if ((type->tp_flags & (Py_TPFLAGS_HEAPTYPE | Py_TPFLAGS_IMMUTABLETYPE)) == Py_TPFLAGS_HEAPTYPE) return false;
    return strcmp(type->tp_name, "array.array") == 0 || strcmp(type->tp_name, "numpy.ndarray") == 0;
}

/* The kind of numbers that a buffer's format stands for; FIELD_KINDS: none of those, or not of this machine's order. */
static nm__field_kind buffer_kind(const Py_buffer *view) {
    const char *code = view->format == NULL ? "B" : view->format;
    const char native[] = {'@', '=', PY_LITTLE_ENDIAN ? '<' : '>', 0};
    if (*code != 0 && strchr(native, *code) != NULL) code++;
    if (code[0] == 0 || code[1] != 0) return FIELD_KINDS;
    bool has_sign = strchr("bhilqn", code[0]) != NULL;
    if (has_sign || strchr("BHILQN", code[0]) != NULL) {
        switch (view->itemsize) {
        case 1: return has_sign ? FIELD_I8 : FIELD_U8;
        case 2: return has_sign ? FIELD_I16 : FIELD_U16;
        case 4: return has_sign ? FIELD_I32 : FIELD_U32;
        case 8: return has_sign ? FIELD_I64 : FIELD_U64;
        default: return FIELD_KINDS;
        }
    }
    if (code[0] == 'f' && view->itemsize == 4) return FIELD_F32;
    return code[0] == 'd' && view->itemsize == 8 ? FIELD_F64 : FIELD_KINDS;
}

bool nm__packs_as(const nm__format *f, const Py_buffer *view) {
    if (!f->single || f->gaps || f->exact || f->count == 0 || view->ndim != 1) return false;
    return f->fields->kind == buffer_kind(view) && f->size == view->itemsize;
}

/* ---- what the types share ------------------------------------------------------------------------- */

void nm__packed_refuse(PyObject *self, const char *why, Py_ssize_t n) {
    if (PyErr_Occurred()) return; /* it has been refused by now */
    PyObject *done = PyObject_CallMethod(self, "_refuse", "sn", why, n);
    if (done == NULL) return;
    Py_DECREF(done);
    PyErr_SetString(PyExc_SystemError, "a refusal of nativemem returned");
}

/* Gives a class descriptors of its own for the methods of its base, a type of these: the interpreter calls those faster. */
static PyObject *packed_own_methods(PyObject *module, PyObject *cls) {
    (void)module;
    PyTypeObject *base = PyType_Check(cls) ? ((PyTypeObject *)cls)->tp_base : NULL;
    while (base != NULL && (base->tp_flags & Py_TPFLAGS_HEAPTYPE)) base = base->tp_base;
    if (base == NULL || base == &PyBaseObject_Type) {
        PyErr_SetString(PyExc_TypeError, "packed_own_methods: takes a class with a base of packed items");
        return NULL;
    }
    for (; base != &PyBaseObject_Type; base = base->tp_base)
        for (PyMethodDef *method = base->tp_methods; method != NULL && method->ml_name != NULL; method++) {
            PyObject *found = method->ml_name[0] == '_' ? NULL : PyObject_GetAttrString(cls, method->ml_name);
            bool ours = found != NULL && Py_IS_TYPE(found, &PyMethodDescr_Type) &&
                        ((PyMethodDescrObject *)found)->d_method == method;
            Py_XDECREF(found);
            PyErr_Clear();
            if (!ours) continue; /* private, or a class in between has its own */
            PyObject *descriptor = PyDescr_NewMethod((PyTypeObject *)cls, method);
            if (descriptor == NULL) return NULL;
            int failed = PyObject_SetAttrString(cls, method->ml_name, descriptor);
            Py_DECREF(descriptor);
            if (failed) return NULL;
        }
    Py_RETURN_NONE;
}

static PyMethodDef packed_functions[] = {
    {"packed_own_methods", packed_own_methods, METH_O, "Gives a class of packed items methods of its own."},
    {NULL, NULL, 0, NULL}};

int nm__packed_add(PyObject *module) { return PyModule_AddFunctions(module, packed_functions); }
