/* The extension module nativemem._dataplane. Each file of binding/ and engine/ registers its own types, methods and
 * functions; here is the list of these files.
 *
 * The module cannot be unloaded or made twice, and it is the process's: the interpreters of a process share its types.
 */
#include "engine/python.h" /* first: Python.h wants to be */

#include "binding/allocator.h"
#include "binding/block.h"
#include "binding/capi.h"
#include "binding/cdata.h"
#include "binding/handles.h"
#include "binding/held.h"
#include "binding/hooks.h"
#include "binding/intern_type.h"
#include "binding/lifetime.h"
#include "binding/packed.h"
#include "binding/pressure.h"
#include "binding/region.h"
#include "binding/sources.h"
#include "engine/insides.h"
#include "engine/overdraft.h"
#include "engine/scopes.h"
#include "engine/stacks.h"

/* Keeps an object until let_go, also beyond the interpreter's end. */
static PyObject *module_keep(PyObject *module, PyObject *object) {
    (void)module;
    Py_INCREF(object);
    Py_RETURN_NONE;
}

static PyObject *module_let_go(PyObject *module, PyObject *object) {
    (void)module;
    Py_DECREF(object); /* the caller has a reference of its own */
    Py_RETURN_NONE;
}

static PyMethodDef module_methods[] = {
    {"keep", module_keep, METH_O, "Keeps an object, beyond the interpreter's end."},
    {"let_go", module_let_go, METH_O, "Undoes keep."},
    {"own_stacks", nm__own_stacks, METH_VARARGS, "Makes a collection of stacks and puts it into a handle's slot."},
    {"stacks_frames", nm__stacks_frames, METH_VARARGS, "File, line and function of each frame of a site."},
    {"scope_aside", nm__scope_aside, METH_O, "Calls something at no owner's charge."},
    {"scope_owner", nm__scope_owner, METH_VARARGS, "A budget's heap, to be entered."},
    {"scope_current", nm__scope_current, METH_NOARGS, "The owner that is charged now, or None."},
    {"scope_array_budget", nm__scope_array_budget, METH_O, "Address of the budget that an array is charged to, or 0."},
    {"insides_check", nm__insides_check, METH_NOARGS, "None, or what of the interpreter is not where it is expected."},
    {"engine_start", nm__engine_start, METH_O, "Makes the engine's heap, once. False: no memory."},
    {"engine_budget", nm__engine_budget, METH_NOARGS, "(used, peak, limit, denied); None where there is no heap."},
    {"engine_set_limit", nm__engine_set_limit, METH_VARARGS, "The engine's limit, and what of it is in reserve."},
    {"engine_stranger", nm__engine_stranger, METH_VARARGS,
     "Of the domains asked for, objects' and raw, the one that a hook of others is in, and the hook's file; or None."},
    {"engine_objects", nm__engine_objects, METH_O, "Switches the heap under the object domains on or off."},
    {"engine_raw", nm__engine_raw, METH_O, "Switches the heap under the raw domain on or off."},
    {"engine_hook_arrays", nm__engine_hook_arrays, METH_O, "Puts the hook under NumPy's default handler."},
    {"engine_array_handler", nm__engine_array_handler, METH_O, "Name of what gave an array's memory, or would give."},
    {"engine_arrays", nm__engine_arrays, METH_O, "Switches the heap under NumPy on or off."},
    {"engine_account", nm__engine_account, METH_NOARGS, "([(size, blocks)], the last denial) of the engine."},
    {"engine_lift", nm__engine_lift, METH_NOARGS, "Takes the engine's limit away, then returns the peak under it."},
    {"engine_state", nm__engine_state, METH_NOARGS, "(objects on, arrays on, raw on)."},
    {"ending_watch", nm__ending_watch, METH_NOARGS, "Looks at the process's exit code from now on. False: it cannot."},
    {"ending_plan", nm__ending_plan, METH_VARARGS, "What is done with the exit code: (over, fd, at, width)."},
    {NULL, NULL, 0, NULL}};

static struct PyModuleDef module_definition = {
    PyModuleDef_HEAD_INIT, .m_name = "nativemem._dataplane", .m_size = -1, .m_methods = module_methods};

/* What each file adds. Each needs what those before it have made. */
static int (*const module_parts[])(PyObject *module) = {
    nm__hooks_add, nm__handles_add, nm__block_add,   nm__allocator_add, nm__lifetime_add, nm__cdata_add,
    nm__capi_add,  nm__region_add,  nm__sources_add, nm__intern_add,    nm__packed_add,   nm__scope_ready,
};

PyMODINIT_FUNC PyInit__dataplane(void) {
    nm__watchers = (nm__watcher_table){.tell = nm__pressure_tell, .ask = nm__pressure_ask, .drain = nm__held_drain};
    PyObject *m = PyModule_Create(&module_definition);
    for (size_t i = 0; m != NULL && i < sizeof module_parts / sizeof *module_parts; i++)
        if (module_parts[i](m) < 0) Py_CLEAR(m);
    return m;
}
