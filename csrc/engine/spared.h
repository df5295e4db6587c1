/* Code that must not be interrupted by an error out of nowhere: with one in its middle a lock is never released, a worker
 * ends without an answer, a loop that serves others ends. It goes on with the overdraft, and what called it gets the error.
 *
 * It is known by the names of modules, a finder of imports by the function that asks it. It cannot be known of code that has
 * neither.
 */
#ifndef NM__SPARED_H
#define NM__SPARED_H

#include "engine/python.h"

/* Whether the Python code that runs in the thread may be interrupted. Allocates nothing. */
bool nm__spared_may_interrupt(PyThreadState *thread);
/* Whether no code of the program's runs in the thread: the interpreter works for itself, before the program's first
 * line, or when it shows the error that has ended it. The standard library's own code may run. *shows: that which shows errors
 * does. Allocates nothing. */
bool nm__spared_is_without_program(PyThreadState *thread, bool *shows);
/* What the standard library's modules are called. Without them the library is code as any other. */
void nm__spared_learn_library(void);
int nm__spared_add(PyObject *module);

#endif
