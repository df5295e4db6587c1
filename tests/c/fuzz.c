/* The entry of a coverage-guided fuzzer: libFuzzer's, or any other that knows its interface. */
#include "program.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *program, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    if (!programs_init()) abort();
    return 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *program, size_t size) {
    run_program(program, size);
    return 0;
}
