#ifndef _GNU_SOURCE
#define _GNU_SOURCE /* for dladdr, dl_iterate_phdr */
#endif
#include "engine/place.h"

#include "engine/engine.h"
#include "nativemem/heap.h"

#include <dlfcn.h>
#ifdef __linux__
#include <link.h>
#endif

/* The part of a program, its file or a library, that an address belongs to; NULL: none. */
static void *place_part_of(const void *address, const char **file) {
    Dl_info info;
    if (address == NULL || dladdr(address, &info) == 0) return NULL;
    if (file != NULL) *file = info.dli_fname;
    return info.dli_fbase;
}

static const void *place_code_of(const PyMemAllocatorEx *a) {
    const void *code;
    memcpy(&code, &a->malloc, sizeof code);
    return code;
}

/* By a function that only a type of the interpreter's points to: the address of an exported one may be a stub's. */
const void *nm__place_python_code(void) {
    const void *known;
    memcpy(&known, &PyUnicode_Type.tp_hash, sizeof known);
    return known;
}

#ifdef __linux__
/* dladdr looks the symbol up, too, in the whole of the interpreter's table: a tenth of a millisecond. */
typedef struct {
    uintptr_t python, address;
    bool is_both;
} place_pair;

static int place_visit(struct dl_phdr_info *info, size_t size, void *context) {
    (void)size;
    place_pair *pair = context;
    bool has_python = false, has_address = false;
    for (int i = 0; i < info->dlpi_phnum; i++) {
        if (info->dlpi_phdr[i].p_type != PT_LOAD) continue;
        uintptr_t from = info->dlpi_addr + info->dlpi_phdr[i].p_vaddr, bytes = info->dlpi_phdr[i].p_memsz;
        has_python = has_python || pair->python - from < bytes;
        has_address = has_address || pair->address - from < bytes;
    }
    pair->is_both = has_python && has_address;
    return has_python; /* the last to be looked at */
}

static bool place_is_of_python(const void *address) {
    place_pair pair = {.python = (uintptr_t)nm__place_python_code(), .address = (uintptr_t)address};
    return dl_iterate_phdr(place_visit, &pair) != 0 && pair.is_both;
}
#else
static bool place_is_of_python(const void *address) {
    void *python = place_part_of(nm__place_python_code(), NULL);
    return python != NULL && place_part_of(address, NULL) == python;
}
#endif

/* What the interpreter's debug hooks have as their context in each version, debug_alloc_api_t. */
typedef struct {
    char domain;
    PyMemAllocatorEx beneath;
} place_debug_context;

/* What the debug hook stands on; NULL: it is none. Another context of the interpreter's begins with a pointer, which is
 * none of these letters: their lowest bits are not those of an aligned address. */
static PyMemAllocatorEx *place_beneath_debug(PyMemAllocatorDomain domain, const PyMemAllocatorEx *a) {
    char letter = domain == PYMEM_DOMAIN_RAW ? 'r' : domain == PYMEM_DOMAIN_MEM ? 'm' : 'o';
#ifdef Py_DEBUG /* such an interpreter puts malloc beneath that hook whenever it wants its first allocator */
    if (domain == PYMEM_DOMAIN_RAW) return NULL;
#endif
    if (!place_is_of_python(place_code_of(a)) || !place_is_of_python(a->ctx)) return NULL;
    place_debug_context *debug = a->ctx;
    return debug->domain == letter ? &debug->beneath : NULL;
}

/* The allocator at the place; in it is where it can be exchanged, NULL: in the table. */
static PyMemAllocatorEx place_allocator(PyMemAllocatorDomain domain, PyMemAllocatorEx **in) {
    PyMemAllocatorEx there;
    PyMem_GetAllocator(domain, &there);
    *in = there.ctx == NULL ? NULL : place_beneath_debug(domain, &there);
    return *in == NULL ? there : **in;
}

nm__place_state nm__place_look(PyMemAllocatorDomain domain, const PyMemAllocatorEx *hook) {
    PyMemAllocatorEx *in, there = place_allocator(domain, &in);
    if (there.malloc == hook->malloc) return NM__PLACE_OURS;
    return there.ctx == NULL && place_is_of_python(place_code_of(&there)) ? NM__PLACE_FREE : NM__PLACE_THEIRS;
}

void nm__place_take(PyMemAllocatorDomain domain, PyMemAllocatorEx *hook, PyMemAllocatorEx *before, atomic_bool *told) {
    PyMemAllocatorEx *in;
    *before = place_allocator(domain, &in);
    atomic_store(told, true);
    if (in != NULL) *in = *hook;
    else PyMem_SetAllocator(domain, hook);
}

const char *nm__place_owner(PyMemAllocatorDomain domain) {
    const char *file = NULL;
    PyMemAllocatorEx *in, there = place_allocator(domain, &in);
    (void)place_part_of(place_code_of(&there), &file);
    return file;
}

void nm__place_stand(PyMemAllocatorDomain domain, PyMemAllocatorEx *hook, PyMemAllocatorEx *before, atomic_bool *hooked) {
    if (nm__place_look(domain, hook) == NM__PLACE_FREE) nm__place_take(domain, hook, before, hooked);
    atomic_store(hooked, true);
}

/* What the domain gives comes from the region, whatever stands above the hook. Pre: the mode is not OFF. */
static bool place_is_reached(PyMemAllocatorDomain domain) {
    PyMemAllocatorEx there;
    PyMem_GetAllocator(domain, &there);
    void *ptr = there.malloc(there.ctx, 1);
    if (ptr == NULL) return true; /* refused by a limit: no other allocator has one */
    bool reached = nm_region_owns(ptr);
    there.free(there.ctx, ptr);
    return reached;
}

bool nm__place_may_stand(PyMemAllocatorDomain domain, const PyMemAllocatorEx *hook, bool hooked, _Atomic int *mode) {
    if (nm__place_look(domain, hook) != NM__PLACE_THEIRS) return true;
    if (!hooked) return false;
    int was = atomic_load(mode);
    if (was == NM__MODE_OFF) atomic_store(mode, NM__MODE_ON);
    bool reached = place_is_reached(domain);
    atomic_store(mode, was);
    return reached;
}

bool nm__place_serves(PyMemAllocatorDomain domain, const PyMemAllocatorEx *hook, _Atomic int *mode) {
    return atomic_load(mode) != NM__MODE_OFF && nm__place_look(domain, hook) != NM__PLACE_FREE;
}
