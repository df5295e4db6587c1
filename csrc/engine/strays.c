#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for dl_iterate_phdr */
#endif
#include "engine/strays.h" /* first: Python.h wants to be */

#include "engine/place.h"
#include "engine/raw.h"
#include "engine/sampler.h"
#include "engine/serve.h"

#if defined(__linux__) && defined(__LP64__) && (defined(__x86_64__) || defined(__aarch64__))

#include <dlfcn.h>
#include <link.h>
#include <sys/mman.h>
#include <unistd.h>

#ifdef __x86_64__
#define STRAYS_IS_SLOT(type) ((type) == R_X86_64_JUMP_SLOT || (type) == R_X86_64_GLOB_DAT)
#else
#define STRAYS_IS_SLOT(type) ((type) == R_AARCH64_JUMP_SLOT || (type) == R_AARCH64_GLOB_DAT)
#endif

typedef struct {
    void *(*realloc)(void *ptr, size_t size);
    void (*free)(void *ptr);
} strays_calls;
static const strays_calls strays_libc = {realloc, free};
/* What stood in the places. From the start something stands here: a thread may see a place taken before it sees this. */
static strays_calls strays_before = {realloc, free};
/* Another tool that took a place after us calls what it found there, which is ours, and we call it once it was found there. */
static NM_TLS bool strays_inside;

static NM_COLD void strays_free_beneath(void *ptr) {
    if (strays_inside) {
        strays_libc.free(ptr);
        return;
    }
    strays_inside = true;
    strays_before.free(ptr);
    strays_inside = false;
}

static void *strays_realloc_beneath(void *ptr, size_t size) {
    if (strays_inside) return strays_libc.realloc(ptr, size);
    strays_inside = true;
    void *moved = strays_before.realloc(ptr, size);
    strays_inside = false;
    return moved;
}

/* Without the interpreter's lock, perhaps, and for any address that the C library gave. */
static void strays_free(void *ptr) {
    if (NM_UNLIKELY(ptr != NULL && nm__superblock_at(ptr) != NULL)) {
        nm__sampler_freeing(ptr);
        if (nm__raw_give(ptr)) return;
    }
    if (NM_LIKELY(strays_before.free == strays_libc.free)) strays_libc.free(ptr);
    else strays_free_beneath(ptr);
}

static void *strays_realloc(void *ptr, size_t size) {
    if (NM_LIKELY(ptr == NULL || nm__superblock_at(ptr) == NULL) || !nm_region_owns(ptr))
        return strays_realloc_beneath(ptr, size);
    nm__sampler_freeing(ptr);
    size_t old = nm_heap_usable_of(ptr);
    void *moved = strays_realloc_beneath(NULL, size);
    if (moved == NULL) return NULL;
    memcpy(moved, ptr, old < size ? old : size);
    (void)nm__raw_give(ptr);
    return moved;
}

/* A file that the loader has mapped. */
typedef struct {
    const void *code; /* the address in it that is looked for */
    uintptr_t base, from, to;
    const ElfW(Dyn) * dynamic;
} strays_file;

static int strays_visit(struct dl_phdr_info *info, size_t size, void *context) {
    (void)size;
    strays_file *file = context;
    uintptr_t code = (uintptr_t)file->code;
    bool has_it = false;
    const ElfW(Dyn) *dynamic = NULL;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        const ElfW(Phdr) *part = &info->dlpi_phdr[i];
        uintptr_t from = info->dlpi_addr + part->p_vaddr;
        if (part->p_type == PT_DYNAMIC) dynamic = (const void *)from;
        if (part->p_type != PT_LOAD || code < from || code >= from + part->p_memsz) continue;
        has_it = true;
        file->from = from;
        file->to = from + part->p_memsz;
    }
    if (!has_it) return 0;
    file->base = info->dlpi_addr;
    file->dynamic = dynamic;
    return 1;
}

/* glibc has made an address of what stands there, other loaders have not. */
static const void *strays_at(const strays_file *file, ElfW(Addr) value) {
    return (const void *)(value < file->base ? file->base + value : value);
}

/* Code of another file stands in the place, and no stub that has still to find it and would then put that there. */
static bool strays_is_found(const strays_file *file, const void *there) {
    uintptr_t address = (uintptr_t)there;
    return there != NULL && (address < file->from || address >= file->to);
}

static void strays_take(const strays_file *file, void **slot, const char *name, void *ours, void **before) {
    void *there = *slot;
    if (there == ours) return;
    if (!strays_is_found(file, there)) there = dlsym(RTLD_DEFAULT, name);
    if (there == NULL) return;
    *before = there;
    uintptr_t page = (uintptr_t)slot & ~((uintptr_t)sysconf(_SC_PAGESIZE) - 1);
    if (mprotect((void *)page, (size_t)sysconf(_SC_PAGESIZE), PROT_READ | PROT_WRITE) != 0) return;
    atomic_store((_Atomic(void *) *)(void *)slot,
                 ours); /* it stays writable, as it is where names are found when they are used */
}

static void strays_take_all(const strays_file *file, const ElfW(Rela) * entries, size_t bytes, const ElfW(Sym) * symbols,
                            const char *strings) {
    static void (*const our_free)(void *) = strays_free;
    static void *(*const our_realloc)(void *, size_t) = strays_realloc;
    for (size_t i = 0; i < bytes / sizeof *entries; i++) {
        if (!STRAYS_IS_SLOT(ELF64_R_TYPE(entries[i].r_info))) continue;
        const char *name = strings + symbols[ELF64_R_SYM(entries[i].r_info)].st_name;
        if (*name != 'f' && *name != 'r') continue; /* two in some thousand */
        void **slot = (void **)(file->base + entries[i].r_offset), *ours;
        if (strcmp(name, "free") == 0) {
            memcpy(&ours, &our_free, sizeof ours);
            strays_take(file, slot, name, ours, (void **)(void *)&strays_before.free);
        } else if (strcmp(name, "realloc") == 0) {
            memcpy(&ours, &our_realloc, sizeof ours);
            strays_take(file, slot, name, ours, (void **)(void *)&strays_before.realloc);
        }
    }
}

/* Takes the places of both, where the file's table is of the kind that is known. Called again it passes on to what another tool has put
 * there since. Lock: the interpreter's. */
static void strays_catch(void) {
    strays_file file = {.code = nm__place_python_code()};
    if (dl_iterate_phdr(strays_visit, &file) == 0 || file.dynamic == NULL) return;
    const ElfW(Rela) *calls = NULL, *others = NULL;
    const ElfW(Sym) *symbols = NULL;
    const char *strings = NULL;
    size_t bytes_of_calls = 0, bytes_of_others = 0, nameless = 0;
    for (const ElfW(Dyn) *each = file.dynamic; each->d_tag != DT_NULL; each++) {
        if (each->d_tag == DT_JMPREL) calls = strays_at(&file, each->d_un.d_ptr);
        else if (each->d_tag == DT_PLTRELSZ) bytes_of_calls = each->d_un.d_val;
        else if (each->d_tag == DT_RELA) others = strays_at(&file, each->d_un.d_ptr);
        else if (each->d_tag == DT_RELASZ) bytes_of_others = each->d_un.d_val;
        else if (each->d_tag == DT_RELACOUNT) nameless = each->d_un.d_val;
        else if (each->d_tag == DT_SYMTAB) symbols = strays_at(&file, each->d_un.d_ptr);
        else if (each->d_tag == DT_STRTAB) strings = strays_at(&file, each->d_un.d_ptr);
    }
    if (symbols == NULL || strings == NULL) return;
    if (calls != NULL) strays_take_all(&file, calls, bytes_of_calls, symbols, strings);
    /* The linker puts those first that are of no symbol, and tells how many: they are nearly all. */
    if (nameless > bytes_of_others / sizeof *others) nameless = 0;
    if (others != NULL)
        strays_take_all(&file, others + nameless, bytes_of_others - nameless * sizeof *others, symbols, strings);
}

#else
static void strays_catch(void) {} /* their tables are of another form */
#endif

static PyObject *strays_switch_on(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    if (nm__engine_is_missing()) return NULL;
    strays_catch();
    Py_RETURN_NONE;
}

int nm__strays_add(PyObject *module) {
    static PyMethodDef methods[] = {{"engine_catch_strays", strays_switch_on, METH_NOARGS,
                                     "Takes back blocks that the interpreter gives to the C library."},
                                    {NULL, NULL, 0, NULL}};
    return PyModule_AddFunctions(module, methods);
}
