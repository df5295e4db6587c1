/* The fuzzer's way in; see program.h. */
#include "program.h"

int LLVMFuzzerInitialize(int *argc, char ***argv);
int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerInitialize(int *argc, char ***argv) {
    (void)argc, (void)argv;
    return nm_region_init((size_t)1 << 30, (size_t)64 << 20, 1000000) == NM_OK ? 0 : 1;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size) {
    run_program(data, size);
    return 0;
}
