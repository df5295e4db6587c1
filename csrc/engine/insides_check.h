/* The self-test of what insides.h says: on code that it knows, once. */
#ifndef NM__INSIDES_CHECK_H
#define NM__INSIDES_CHECK_H

#include "engine/python.h"

/* Registers insides_check: None, or what is not as it is expected. An error where there is no memory, or an interrupt comes.
 * Nothing of insides.h is to be called unless it passed. */
int nm__insides_check_add(PyObject *module);

#endif
