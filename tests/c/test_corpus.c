/* Every program of the corpus that fuzzing has found, without the fuzzer; then as many of random bytes, so that a
 * machine where nobody fuzzes sees new ones too. Given files, it runs those and says each step before it is taken. */
#include <dirent.h>

#include "harness.h"
#include "program.h"

#define CORPUS "tests/c/corpus"
#define RANDOM_PROGRAMS 2000

static size_t read_file(const char *path, uint8_t *bytes, size_t room) {
    FILE *file = fopen(path, "rb");
    if (file == NULL) {
        perror(path);
        exit(2);
    }
    size_t n = fread(bytes, 1, room, file);
    fclose(file);
    return n;
}

static size_t run_corpus(void) {
    static uint8_t bytes[4096];
    size_t n = 0;
    DIR *folder = opendir(CORPUS);
    if (folder == NULL) {
        perror(CORPUS " (run this from the top of the tree)");
        exit(2);
    }
    for (const struct dirent *entry; (entry = readdir(folder)) != NULL;) {
        char path[sizeof CORPUS + sizeof entry->d_name + 1];
        if (entry->d_name[0] == '.') continue;
        snprintf(path, sizeof path, "%s/%s", CORPUS, entry->d_name);
        run_program(bytes, read_file(path, bytes, sizeof bytes));
        n++;
    }
    closedir(folder);
    return n;
}

static void run_random(unsigned kind, uint64_t *seed) {
    uint8_t bytes[300];
    size_t size = 4 + below(seed, sizeof bytes - 4);
    for (size_t i = 0; i < size; i++) bytes[i] = (uint8_t)next_random(seed);
    bytes[0] = (uint8_t)kind;
    run_program(bytes, size);
}

int main(int argc, char **argv) {
    static uint8_t bytes[1 << 16];
    if (!programs_init()) return 2;
    program_is_told = argc > 1;
    for (int i = 1; i < argc; i++) run_program(bytes, read_file(argv[i], bytes, sizeof bytes));
    if (argc > 1) return 0;
    size_t corpus = run_corpus();
    CHECK(corpus > 0);
    uint64_t seed = 0x2545F4914F6CDD1DU;
    for (unsigned i = 0; i < RANDOM_PROGRAMS; i++) run_random(i, &seed);
    printf("%zu programs of the corpus, %d random ones\n", corpus, RANDOM_PROGRAMS);
    return failures_ != 0;
}
