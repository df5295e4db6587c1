/* Runs a shared object's main: what a program of a C library does that opens the core late, as an interpreter does with an
 * extension module. Usage: load OBJECT */
#include <dlfcn.h>
#include <stdio.h>
#include <string.h>

int main(int argc, char **argv) {
    void *object = argc == 2 ? dlopen(argv[1], RTLD_NOW | RTLD_LOCAL) : NULL, *symbol = NULL;
    if (object != NULL) symbol = dlsym(object, "main");
    if (symbol == NULL) {
        const char *why = dlerror();
        fprintf(stderr, "load: %s\n", why != NULL ? why : "usage: load OBJECT");
        return 2;
    }
    int (*its_main)(int, char **);
    memcpy(&its_main, &symbol, sizeof its_main);
    return its_main(argc, argv);
}
