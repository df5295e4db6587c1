// For the tests: the header in C++.
#include <nativemem/capi.h>

#include <memlib.h>

static PyObject *round_trip(PyObject *, PyObject *allocator) {
    nm_borrowed memory;
    if (nm_borrow(allocator, &memory) < 0) return nullptr;
    void *block = nm_alloc(memory.port, 100, 32), *empty = nm_alloc(memory.port, 0, 16);
    void *mine = HMalloc(10);
    HFree(mine);
    bool ok = block != nullptr && empty != nullptr && nm_free(memory.port, block, 100, 32) == NM_OK;
    if (nm_return(&memory) < 0) return nullptr;
    return PyBool_FromLong(ok);
}

static PyMethodDef methods[] = {{"round_trip", round_trip, METH_O, nullptr}, {nullptr, nullptr, 0, nullptr}};
static PyModuleDef module = {PyModuleDef_HEAD_INIT, "crossing_cxx", nullptr, -1, methods, nullptr, nullptr, nullptr, nullptr};

PyMODINIT_FUNC PyInit_crossing_cxx() { return nm_capi_import() < 0 ? nullptr : PyModule_Create(&module); }
