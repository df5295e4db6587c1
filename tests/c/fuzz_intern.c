/* The entry of a coverage-guided fuzzer for the intern table. */
#include "intern_program.h"

int LLVMFuzzerTestOneInput(const uint8_t *program, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *program, size_t size) {
    run_intern_program(program, size);
    return 0;
}
