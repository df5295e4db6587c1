/* Preloaded: says at the end of the process that it came to that, after whatever else runs at exit. */
#include <unistd.h>

__attribute__((destructor)) static void say(void) { (void)!write(1, "ended\n", 6); }
