/* The programs that the fuzzer has kept, and random ones. Run from the project's root, as make does. */
#define _POSIX_C_SOURCE 200809L
#include <dirent.h>

#include "harness.h"
#include "program.h"

#define CORPUS "tests/c/corpus"

static void test_the_corpus(void) {
    static uint8_t data[1 << 16];
    char path[512];
    int files = 0;
    DIR *folder = opendir(CORPUS);
    CHECK(folder != NULL);
    if (folder == NULL) return;
    for (struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        if (entry->d_name[0] == '.') continue;
        (void)snprintf(path, sizeof path, CORPUS "/%s", entry->d_name);
        FILE *file = fopen(path, "rb");
        CHECK(file != NULL);
        if (file == NULL) continue;
        size_t size = fread(data, 1, sizeof data, file);
        (void)fclose(file);
        run_program(data, size);
        files++;
    }
    (void)closedir(folder);
    CHECK(files > 50);
}

static void test_random_programs(void) {
    uint8_t data[800];
    uint64_t seed = 0xC0FFEE;
    for (int round = 0; round < 60 * NOUN_COUNT; round++) {
        for (size_t i = 0; i < sizeof data; i++) data[i] = (uint8_t)next_random(&seed);
        data[0] = (uint8_t)(round % NOUN_COUNT);
        run_program(data, sizeof data);
    }
}

int main(void) {
    if (nm_region_init((size_t)64 << 30, (size_t)64 << 20, 1000000) != NM_OK) return 2;
    RUN(test_the_corpus());
    RUN(test_random_programs());
    return finish();
}
