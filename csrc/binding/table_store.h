/* The memory of a table: what is read from it, its life. */
#ifndef NM__TABLE_STORE_H
#define NM__TABLE_STORE_H

#include "binding/table_internal.h"

void nm__table_empty(Table *t);
/* The item of entry e, key and value, or one of the two; runs Python code where a format is not single. `pair`: what the
 * item is put into, or NULL; taken over. */
PyObject *nm__table_read(Table *t, uint32_t e, TableWhat what, PyObject *pair);

/* _attach(buffer, capacity, slots, stride, key, value): key and value are formats; value None: a set. */
PyObject *nm__table_attach(Table *t, PyObject *args);
PyObject *nm__table_detach(Table *t, PyObject *unused);
/* _resume(buffer): takes the same memory up again, as _detach left it. */
PyObject *nm__table_resume(Table *t, PyObject *buffer);
PyObject *nm__table_closed(Table *t, void *unused);
PyObject *nm__table_capacity(Table *t, void *unused);

int nm__table_traverse(Table *t, visitproc visit, void *arg);
int nm__table_gc_clear(Table *t);
void nm__table_dealloc(Table *t);

#endif
