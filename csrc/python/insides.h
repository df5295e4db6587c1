/* What is known of the interpreter's insides, one section a version. */
#ifndef NM__INSIDES_H
#define NM__INSIDES_H

#include "python/python.h"

/* Has the thread raise the class at its next safe point in the eval loop, unless it is to raise something already.
 * Allocates nothing and takes no lock. Pre: the calling thread's state; the interpreter's lock is held. */
bool nm__insides_raise_soon(PyThreadState *thread, PyObject *class_);
/* Whether it is still to raise that. */
bool nm__insides_will_raise(PyThreadState *thread, PyObject *class_);
void nm__insides_take_back(PyThreadState *thread, PyObject *class_);
/* Whether an exception of the class is being raised or handled in the thread. */
bool nm__insides_handles(PyThreadState *thread, PyObject *class_);
/* Whether the instruction that the thread's innermost Python code is at takes a refused allocation for an error of its own,
 * in the right place: raised later it could come out of a `try` that has been left. */
bool nm__insides_bears_refusal(PyThreadState *thread, size_t size);
bool nm__insides_is_finalizing(void);

#endif
