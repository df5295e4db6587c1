/* Begins and ends callgrind's counting, for a program in Python that loads this. */
#include <valgrind/callgrind.h>

void counted_begin(void);
void counted_end(void);

void counted_begin(void) { CALLGRIND_START_INSTRUMENTATION; }
void counted_end(void) { CALLGRIND_STOP_INSTRUMENTATION; }
