/* The core for other extensions of Python: from a table that nativemem hands out at run time, so nothing is linked.
 *
 *     #include <nativemem/capi.h>              // before any other header of nativemem's; nativemem.get_include() has it
 *
 *     static int module_exec(PyObject *m) { return nm_capi_import(); }   // 0, or -1 with an error set
 *
 *     nm_borrowed memory;
 *     if (nm_borrow(allocator, &memory) < 0) return NULL;                // any Allocator of the Python program's
 *     double *x = nm_alloc(memory.port, n * sizeof *x, 64);
 *     if (x == NULL) { nm_raise(&memory); ... }                          // BudgetExceeded and the like
 *     ...
 *     nm_free(memory.port, x, n * sizeof *x, 64);
 *     if (nm_return(&memory) < 0) return NULL;                           // LeakError, if something was not freed
 *
 * Borrowing keeps an allocator from being closed or reset. The port's calls need no interpreter lock; what begins with
 * PyObject, and nm_borrow, nm_return, nm_raise and nm_capi_import, does. Each source file that includes this has the
 * table for itself and calls nm_capi_import once.
 *
 * memlib.h, included after this, leads to the process's memlib, which is that of nativemem.memlib.
 */
#ifndef NATIVEMEM_CAPI_H
#define NATIVEMEM_CAPI_H

#include <Python.h>

#ifndef NM__CAPI_PROVIDER /* the core itself, which fills the table */
#ifdef NATIVEMEM_BASE_H
#error "nativemem/capi.h has to be included before the other headers of nativemem"
#endif
/* what the headers below would have from the linker */
#define NM_FROM_TABLE static inline
#define nm_empty_block (nm_capi_empty_block())
#ifdef __cplusplus
extern "C" {
#endif
static inline char *nm_capi_empty_block(void);
#ifdef __cplusplus
}
#endif
#endif

#include "nativemem/memlib.h"
#include "nativemem/port.h"

#ifdef __cplusplus
extern "C" {
#endif

/* Its first part never changes; what is new comes at its end, and `size` says how far it goes. Should a change break
 * extensions that were built before, the name changes, and nm_capi_import says so. */
#define NM_CAPI_MODULE "nativemem.capi"
#define NM_CAPI_NAME "nativemem.capi._C_API.1"

typedef struct nm_borrowed {
    nm_allocator port; /* counts what is taken, and charges, traces and refuses as the allocator does */
    PyObject *keeper;  /* NULL: returned */
} nm_borrowed;

typedef struct nm_capi {
    size_t size; /* of the table, in bytes */
    nm_failure (*last_failure)(void);
    void *(*refuse)(nm_status status, size_t requested, size_t used, size_t limit);
    char *empty_block;
    int (*borrow)(PyObject *allocator, nm_borrowed *out);
    int (*give_back)(nm_borrowed *memory);
    void (*raise)(const nm_borrowed *memory);
    void *(*hmalloc)(size_t size);
    void *(*hcalloc)(size_t size);
    void *(*hrealloc)(void *ptr, size_t size);
    void (*hfree)(void *ptr);
    bool (*mem_init)(void);
    bool (*mem_uninit)(void);
} nm_capi;

#ifndef NM__CAPI_PROVIDER

static const nm_capi *nm_capi_table;

static inline int nm_capi_import(void) {
    PyObject *module = PyImport_ImportModule(NM_CAPI_MODULE);
    PyObject *capsule = module == NULL ? NULL : PyObject_GetAttrString(module, "_C_API");
    Py_XDECREF(module);
    if (capsule == NULL) return -1;
    const nm_capi *table = (const nm_capi *)PyCapsule_GetPointer(capsule, NM_CAPI_NAME);
    Py_DECREF(capsule); /* the module keeps it, and the process the table */
    if (table == NULL || table->size < sizeof *table) {
        PyErr_Format(PyExc_ImportError,
                     "%s is not what this extension was built for (%s); build it anew, or install a newer nativemem",
                     NM_CAPI_MODULE, NM_CAPI_NAME);
        return -1;
    }
    nm_capi_table = table;
    return 0;
}

/* 0; -1 with an error set: no allocator, a closed one, another thread's, or one of the pure backend. */
static inline int nm_borrow(PyObject *allocator, nm_borrowed *out) { return nm_capi_table->borrow(allocator, out); }
/* 0; -1 with LeakError set, and nothing changed. Of what was returned: 0. An error that was set before stays. */
static inline int nm_return(nm_borrowed *memory) { return nm_capi_table->give_back(memory); }
/* Sets the error that the last refusal of this thread stands for. */
static inline void nm_raise(const nm_borrowed *memory) { nm_capi_table->raise(memory); }

static inline char *nm_capi_empty_block(void) { return nm_capi_table->empty_block; }
static inline nm_failure nm_last_failure(void) { return nm_capi_table->last_failure(); }
static inline void *nm_refuse(nm_status status, size_t requested, size_t used, size_t limit) {
    return nm_capi_table->refuse(status, requested, used, limit);
}

static inline void *nm_hmalloc(size_t size) { return nm_capi_table->hmalloc(size); }
static inline void *nm_hcalloc(size_t size) { return nm_capi_table->hcalloc(size); }
static inline void *nm_hrealloc(void *ptr, size_t size) { return nm_capi_table->hrealloc(ptr, size); }
static inline void nm_hfree(void *ptr) { nm_capi_table->hfree(ptr); }
static inline bool nm_mem_init(void) { return nm_capi_table->mem_init(); }
static inline bool nm_mem_uninit(void) { return nm_capi_table->mem_uninit(); }

#endif

#ifdef __cplusplus
}
#endif
#endif
