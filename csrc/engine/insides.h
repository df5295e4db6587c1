/* What is known of the interpreter's insides, in each version that is known. How a frame lies in memory: internals.h.
 *
 * Pre of all: insides_check has passed, and the interpreter's lock is held. Nothing here allocates or runs Python code.
 */
#ifndef NM__INSIDES_H
#define NM__INSIDES_H

#include "engine/python.h"
#include "tuning.h"

/* Has the thread raise the class at its next safe point in the eval loop, unless it is to raise something already.
 * Allocates nothing and takes no lock. Pre: the calling thread's state; the interpreter's lock is held. */
bool nm__insides_raise_soon(PyThreadState *thread, PyObject *class_);
/* Whether it is still to raise that. */
bool nm__insides_will_raise(PyThreadState *thread, PyObject *class_);
void nm__insides_take_back(PyThreadState *thread, PyObject *class_);
/* Whether a MemoryError is being raised or handled in the thread, also where another exception that was raised meanwhile
 * is, or an exception that none may take the place of. */
bool nm__insides_is_handling(PyThreadState *thread);
/* The globals of the Python code that runs; with `*frame` as it was left, of what called it. NULL: there is no more.
 * Pre: *frame is NULL at first. Allocates nothing. */
PyObject *nm__insides_globals(const PyThreadState *thread, const void **frame);
PyObject *nm__insides_function_name(const void *frame); /* borrowed: what such a frame runs */
/* A frame's code, and the byte of it that its instruction is at. */
typedef struct nm__step {
    PyCodeObject *code; /* borrowed: its frame runs */
    int at;
} nm__step;
/* The innermost frames of the thread, at most `most`; how many there are. */
int nm__insides_steps(const PyThreadState *thread, nm__step *steps, int most);
/* Whether the instruction that the thread's innermost Python code is at takes a refused allocation for an error of its own,
 * in the right place: raised later it could come out of a `try` that has been left. */
bool nm__insides_bears_refusal(const PyThreadState *thread, size_t size);
/* What a refusal at that instruction needs so that the interpreter stays whole: 3.12 and 3.13 give a code object back twice
 * where the function for it has no memory, so that it is freed, in the end, in use. To be called once for each block that is
 * refused. */
void nm__insides_prepare_refusal(const PyThreadState *thread, size_t size);
/* Whether a block of that size may be one that an exception needs to pass through the innermost Python code. */
bool nm__insides_is_for_traceback(const PyThreadState *thread, size_t size);
/* Whether it is that code's frame object, which it has not got yet. */
bool nm__insides_is_for_frame(const PyThreadState *thread, size_t size);
/* Whether it is a call that ends with a safe point, and no `with` has made it. */
bool nm__insides_is_in_call(const PyThreadState *thread);
/* Whether it is the call by which a `with` begins, at whose end, since 3.14, is a safe point: with an exception there what
 * was entered, a lock say, is never left. */
bool nm__insides_is_entering(const PyThreadState *thread);

/* A frame of the thread, and which `try` encloses the instruction that it is at. */
typedef struct nm__place {
    const void *frame, *code; /* to be compared; the frame may be gone */
    int handler;
} nm__place;
/* The innermost; the last one's frame is NULL where there are fewer. */
void nm__insides_note_places(const PyThreadState *thread, nm__place places[NM_INSIDES_PLACES]);
/* Whether an exception that is raised now goes to the same `try`. True where no places were noted. */
bool nm__insides_is_still_at(const PyThreadState *thread, const nm__place places[NM_INSIDES_PLACES]);
bool nm__insides_is_finalizing(void);
/* Whether a block of that size is the one that the interpreter's table of interned strings needs to grow: a refusal
 * becomes no error there, and 3.13.0 miscounts its entries then. Always false before 3.12, where the table cannot be read. */
bool nm__insides_is_for_interned(const PyThreadState *thread, size_t size);

/* Of the frame of a generator or coroutine: its item on the stack of handled exceptions, which a thread has it on while it
 * runs. NULL: it has ended. To be compared, not to be read. */
const void *nm__insides_item_of(PyFrameObject *f);
/* The Python function that called us. */
typedef struct nm__caller {
    int flags; /* of its code: 0 where no Python code runs */
    /* It is in the midst of the instruction that begins a `with`, which ends its scope before the frame ends. false where that
     * cannot be seen, under a tracer. */
    bool is_at_with;
} nm__caller;
/* Makes no object for the frame, which most have not got. */
nm__caller nm__insides_caller(const PyThreadState *thread);

#endif
