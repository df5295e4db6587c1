/* Iterators of a table. */
#ifndef NM__TABLE_ITER_H
#define NM__TABLE_ITER_H

#include "binding/table_internal.h"

/* Before the first of the others: 0, or -1 with an error set. */
int nm__table_iter_start(void);
PyObject *nm__table_iter(Table *t);
PyObject *nm__table_reversed(Table *t, PyObject *unused);
/* _iter(what, back) */
PyObject *nm__table_iter_of(Table *t, PyObject *args);

#endif
