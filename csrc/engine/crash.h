/* The C stack of a process that a signal ends, without a debugger: it is written to a report that another process reads.
 *
 * It can't see through damaged stacks, nor through code without unwind tables; where it fails itself, the signal takes its
 * course. What handled a signal before is called afterwards, faulthandler's say, which writes Python's stack.
 */
#ifndef NM__CRASH_H
#define NM__CRASH_H

#include "engine/python.h"

/* Return addresses of a stack that are kept, innermost first. */
#define NM__CRASH_FRAMES 64
/* Bytes of the text of a stack: a line a frame. */
#define NM__CRASH_TEXT 12288

typedef struct nm__crash_stack {
    int64_t count;
    uint64_t addresses[NM__CRASH_FRAMES];
    char text[NM__CRASH_TEXT]; /* see nm__crash_describe; empty: it was not described */
} nm__crash_stack;

/* src/nativemem/testing/injection_report.py reads it. */
typedef struct nm__crash_report {
    uint64_t allocations; /* counted since the function began */
    uint64_t refused;
    uint64_t site; /* of the first that was refused: a hash of its stack */
    uint64_t size; /* of that, in bytes */
    uint64_t domain; /* of that: 0 raw, 1 mem, 2 obj */
    int64_t live; /* blocks taken and not freed since the hooks are there, in all threads */
    int64_t signal; /* that ended the process; 0: none did */
    int64_t code; /* the system's reason for it */
    uint64_t address; /* that it is about */
    nm__crash_stack refusal; /* what asked for the first that was refused */
    nm__crash_stack end; /* where the signal met the process */
    char python[NM__CRASH_TEXT]; /* Python's stack at the refusal: file, line and function, tabs between them */
} nm__crash_report;

/* For the calling thread, and for all signals that end a process by its own fault. Stacks end before the frame of the
 * function `outermost`, a small one. false: errno says why not. */
bool nm__crash_watch(nm__crash_report *report, const void *outermost);
/* The calling thread's return addresses, innermost first; 0: the system's library has none to give. The first call may take
 * memory. */
int nm__crash_unwind(void **frames, int most);
/* How many of these frames are within what the outermost function called. */
int nm__crash_within(void *const *frames, int count);
/* Names the addresses of a stack: module, offset in it, symbol and offset from that, tabs between them. Takes the loader's
 * lock, and no memory. The first is exact where a signal met it; all others are return addresses. */
void nm__crash_describe(nm__crash_stack *stack, bool first_is_exact);

#endif
