/* Fault injection: the n-th allocation that a function makes from the interpreter's domains fails.
 *
 * It works in a process that was forked for it and does nothing else: the hooks go into the interpreter's table, above
 * what is there, and never come out. Allocations are counted by thread: those of the thread that runs the function, from
 * its call to its return. What one domain takes from another for a block of its own is part of that block, and has no
 * number. The report lies in memory that the parent process shares, so it outlives the process.
 */
#ifndef NM__INJECTION_H
#define NM__INJECTION_H

#include "engine/python.h"

int nm__injection_add(PyObject *module);

#endif
