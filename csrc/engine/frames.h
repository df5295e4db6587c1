/* The frames of the Python code that runs: the innermost first, those that have begun. Nothing here allocates, or calls code.
 */
#ifndef NM__FRAMES_H
#define NM__FRAMES_H

#include "engine/internals.h"

const nm__frame *nm__frame_innermost(const PyThreadState *thread); /* NULL: no Python code runs */
const nm__frame *nm__frame_outer(const nm__frame *frame);
/* The one that PyThreadState_GetFrame makes an object for: not one whose function has not come to its first line. */
const nm__frame *nm__frame_calling(const PyThreadState *thread);
PyCodeObject *nm__frame_code(const nm__frame *frame); /* borrowed */
/* The instruction as it was before it was specialized; *special: as it is now. -1: it has not begun. */
int nm__frame_opcode(const nm__frame *frame, int *special);
/* Where the instruction is in its code, in bytes. */
int nm__frame_instruction_offset(const nm__frame *frame);
/* 3.12 and 3.13: the code that the instruction makes a function of, which the one before loads; borrowed. NULL: it makes none. */
PyCodeObject *nm__frame_code_of_new_function(const nm__frame *frame);
/* The globals, borrowed; NULL: it is no function's, and has none. */
PyObject *nm__frame_globals(const nm__frame *frame);
/* Where code goes that raises now; -1: out. */
int nm__frame_handler(const nm__frame *frame);
/* Whether a `with` begins at a place in the code; at: in bytes, negative: the code has not begun. */
bool nm__frame_is_with_at(const PyCodeObject *code, int at);

#endif
