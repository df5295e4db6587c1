/* Items of a struct format, packed in memory of nativemem: what sequences and tables of such items share.
 *
 * The Python side parses a format once and hands over its fields. What is read and written here without Python are
 * integers, floats, bools and bytes of the machine's own byte order, from objects of just those types. Everything else
 * (other byte orders, half floats, objects with __index__) goes through two functions in Python, which also raise the
 * errors. So the two backends accept the same values and refuse them with the same words. */
#ifndef NM__PACKED_H
#define NM__PACKED_H

#include "engine/python.h" /* first: Python.h wants to be */

#include "base/base.h"
#include "binding/guard.h"
#include "binding/numbers.h"

typedef enum {
    FIELD_I8,
    FIELD_U8,
    FIELD_I16,
    FIELD_U16,
    FIELD_I32,
    FIELD_U32,
    FIELD_I64,
    FIELD_U64,
    FIELD_F32,
    FIELD_F64,
    FIELD_BOOL,
    FIELD_BYTES,
    FIELD_PASCAL,
    FIELD_KINDS
} nm__field_kind;

typedef struct {
    nm__field_kind kind;
    Py_ssize_t offset, size; /* bytes */
} nm__field;

/* Invariants: size > 0 once it is set up;  count == 0 <=> only pack and unpack know the format;
 *   single => an item is the value of one field, otherwise a tuple of `count` */
typedef struct {
    Py_ssize_t size, count;
    nm__field *fields;
    PyObject *pack, *unpack; /* pack(value) -> bytes, or raises; unpack(bytes) -> value */
    bool single, gaps;       /* gaps: some bytes belong to no field */
    bool exact;              /* what comes back is equal to what was packed, as a key has to be; a zero has no sign */
    nm__recent recent;       /* of items that are numbers */
} nm__format;

/* record.spec: (size, single, gaps, exact, ((kind, offset, size), ...), pack, unpack). False with an error set. */
bool nm__format_init(nm__format *f, PyObject *record);
void nm__format_clear(nm__format *f);
int nm__format_traverse(nm__format *f, visitproc visit, void *arg);

/* Whether `value` was packed, without Python code having run and without an error set. On false the bytes at `to` are
 * undefined. */
bool nm__pack_plain(const nm__format *f, PyObject *value, char *to);
/* As that, with f->pack where it is needed, which may run any code. False with an error set. */
bool nm__pack(const nm__format *f, PyObject *value, char *to);
/* Runs Python code only where the format is not single (a tuple's making may run a collection), then on a copy. */
PyObject *nm__unpack(nm__format *f, const char *from);
/* As that, for items that are kept: an object for each. */
PyObject *nm__unpack_new(nm__format *f, const char *from);
/* How many of the n objects from `values` on were packed, one behind the other: all before the first one that
 * nm__pack_plain does not take. */
Py_ssize_t nm__pack_run(const nm__format *f, PyObject *const *values, Py_ssize_t n, char *to);
/* Whether the object's buffer holds just what iterating over it gives, so not of a type with other ideas of the two. */
bool nm__buffer_of_items(PyObject *object);
/* Whether items of the format are what the bytes of such a buffer are, so that these can be copied. */
bool nm__packs_as(const nm__format *f, const Py_buffer *view);

/* Room for one item while it is on its way. */
typedef struct {
    char small[64];
    char *bytes;
} nm__scratch;
static inline char *nm__scratch_get(nm__scratch *s, Py_ssize_t size) {
    s->bytes = (size_t)size <= sizeof s->small ? s->small : PyMem_Malloc((size_t)size);
    if (s->bytes == NULL) (void)PyErr_NoMemory();
    return s->bytes;
}
static inline void nm__scratch_drop(nm__scratch *s) {
    if (s->bytes != s->small) PyMem_Free(s->bytes);
}

/* Has `self._refuse(why, n)` raise; where an error is set, that stays. */
void nm__packed_refuse(PyObject *self, const char *why, Py_ssize_t n);
int nm__packed_add(PyObject *module); /* what gives a class the methods of these types */

#endif
