/* The self-test of what is known of the interpreter's insides.
 *
 * Known code calls the probe, which compares what insides.c reads with what the interpreter's public functions say:
 * addresses first, so that nothing is read at a place that may be no frame's. A version of the interpreter that has moved
 * something is declined rather than misread.
 */
#include "engine/frames.h" /* first: Python.h wants to be */

#include "engine/insides.h"
#include "engine/insides_check.h"

static const char check_program[] = "def steps():\n"
                                    "    yield probe()\n"
                                    "def guarded():\n"
                                    "    try:\n"
                                    "        probe()\n"
                                    "        for _ in 1, 2, 3: pass\n"
                                    "    except MemoryError:\n"
                                    "        probe()\n"
                                    "class Entry: __enter__ = __exit__ = probe\n"
                                    "def enters():\n"
                                    "    with Entry(): pass\n";

static struct {
    enum { IDLE, IN_STEPS, IN_TRY, IN_HANDLER, AT_WITH, AFTER_WITH } stage;
    PyObject *globals, *generator; /* borrowed */
    const char *wrong; /* the first thing that is not as it should be */
} check;

static bool check_holds(bool fact, const char *otherwise) {
    if (!fact && check.wrong == NULL) check.wrong = otherwise;
    return fact;
}

static bool check_minor_version(void) {
    char known[16];
    int n = snprintf(known, sizeof known, "%d.%d.", PY_MAJOR_VERSION, PY_MINOR_VERSION);
    return strncmp(Py_GetVersion(), known, (size_t)n) == 0;
}

static bool check_thread(PyThreadState *thread) {
    return thread == nm__thread_state() && thread->interp == PyInterpreterState_Get() &&
           thread->id == PyThreadState_GetID(thread) && thread->thread_id == PyThread_get_thread_ident();
}

static bool check_context(PyThreadState *thread) {
    PyObject *context = PyContext_New();
    if (context == NULL || PyContext_Enter(context) < 0) {
        Py_XDECREF(context);
        return false;
    }
    uint64_t version = thread->context_ver;
    bool is = thread->context == context && PyContext_Exit(context) == 0 && thread->context != context &&
              thread->context_ver != version;
    Py_DECREF(context);
    return is;
}

static bool check_async_exception(PyThreadState *thread) {
    if (thread->async_exc != NULL) return true; /* the program's own, which stays */
    PyThreadState_SetAsyncExc(thread->thread_id, PyExc_MemoryError);
    bool is = nm__insides_will_raise(thread, PyExc_MemoryError);
    PyThreadState_SetAsyncExc(thread->thread_id, NULL);
    return is && !nm__insides_will_raise(thread, PyExc_MemoryError);
}

static const char *check_generator_at(size_t offset) { return (const char *)check.generator + offset; }

static bool check_is_generator_frame(const PyFrameObject *f) {
#if PY_VERSION_HEX >= 0x030B0000
    return (const char *)f->f_frame == check_generator_at(offsetof(PyGenObject, gi_iframe)) &&
           f->f_frame->owner == FRAME_OWNED_BY_GENERATOR;
#else
    return (const char *)f->f_gen == check_generator_at(0);
#endif
}

/* Tracers and monitors put instructions of their own in the places of others, which this file takes for none that it knows. */
static bool check_is_instrumented(int special) {
#if PY_VERSION_HEX >= 0x030C0000
    return special >= MIN_INSTRUMENTED_OPCODE;
#else
    return (void)special, false;
#endif
}

static bool check_is_monitored(const PyThreadState *thread) {
    int special;
    (void)nm__frame_opcode(nm__frame_innermost(thread), &special);
    return check_is_instrumented(special);
}

static bool check_call(const PyThreadState *thread, PyFrameObject *f) {
    const nm__frame *frame = nm__frame_innermost(thread);
    PyCodeObject *code = PyFrame_GetCode(f);
    bool is = nm__frame_code(frame) == code;
    Py_DECREF(code);
    if (!is) return false;
    int special, opcode = nm__frame_opcode(frame, &special);
#if PY_VERSION_HEX >= 0x030B0000
    if (nm__frame_instruction_offset(frame) != PyFrame_GetLasti(f)) return false;
#endif
#if PY_VERSION_HEX >= 0x030B0000
    bool is_call = opcode == CALL;
#else
    bool is_call = opcode == CALL_FUNCTION;
#endif
    return check_is_instrumented(special) || (is_call && nm__insides_is_in_call(thread));
}

static void check_in_steps(PyThreadState *thread, PyFrameObject *f) {
    const void *at = NULL;
    nm__place places[NM_INSIDES_PLACES];
    if (!check_holds(check_is_generator_frame(f), "the frame of a generator") ||
        !check_holds((const char *)thread->exc_info == check_generator_at(offsetof(PyGenObject, gi_exc_state)),
                     "the state of a generator") ||
        !check_holds(nm__insides_item_of(f) == thread->exc_info, "whether a generator has ended") ||
        !check_holds(thread->exc_info->previous_item != NULL, "the stack of handled exceptions") ||
#if PY_VERSION_HEX >= 0x030B0000
        !check_holds(nm__frame_innermost(thread) == f->f_frame, "the frame that runs") ||
#else
        !check_holds(nm__frame_innermost(thread) == f, "the frame that runs") ||
#endif
        !check_holds(nm__frame_calling(thread) == nm__frame_innermost(thread), "the frame that calls") ||
        !check_holds((nm__insides_caller(thread).flags & CO_GENERATOR) != 0, "what the code is of") ||
        !check_holds(check_call(thread, f), "the instruction that runs"))
        return;
    check_holds(nm__insides_globals(thread, &at) == check.globals, "the globals of what runs");
    nm__insides_note_places(thread, places);
    check_holds(nm__insides_is_still_at(thread, places), "the frame that runs");
}

static PyObject *check_probe(PyObject *module, PyObject *args) {
    (void)module, (void)args;
    PyThreadState *thread = PyThreadState_Get();
    PyFrameObject *f = PyThreadState_GetFrame(thread);
    if (f == NULL) return PyErr_NoMemory();
    nm__place places[NM_INSIDES_PLACES];
    if (check.wrong == NULL) switch (check.stage) {
        case IN_STEPS: check_in_steps(thread, f); break;
        case IN_TRY:
            nm__insides_note_places(thread, places);
            check_holds(places[0].handler >= 0, "the handlers of what runs");
            check_holds(thread->async_exc != NULL || nm__insides_raise_soon(thread, PyExc_MemoryError),
                        "the exceptions of others");
            check.stage = IN_HANDLER;
            break;
        case IN_HANDLER:
            check_holds(nm__insides_is_handling(thread), "the exception that is handled");
            check.stage = IDLE;
            break;
        case AT_WITH:
            nm__insides_note_places(thread, places);
            check_holds(places[0].handler < 0, "the handlers of what runs");
            check_holds(check_is_monitored(thread) || nm__insides_caller(thread).is_at_with,
                        "the instruction that begins a with");
            check.stage = AFTER_WITH;
            break;
        case AFTER_WITH:
            check_holds(!nm__insides_caller(thread).is_at_with, "the instruction that ends a with");
            check.stage = IDLE;
            break;
        case IDLE: break;
        }
    Py_DECREF(f);
    Py_RETURN_NONE;
}

/* false: an error is set. */
static bool check_run_function(const char *name) {
    PyObject *function = PyDict_GetItemString(check.globals, name); /* borrowed */
    PyObject *result = function == NULL ? NULL : PyObject_CallNoArgs(function);
    Py_XDECREF(result);
    return result != NULL;
}

static bool check_run_steps(PyThreadState *thread) {
    PyObject *function = PyDict_GetItemString(check.globals, "steps");
    PyObject *generator = function == NULL ? NULL : PyObject_CallNoArgs(function);
    PyObject *f = generator == NULL ? NULL : PyObject_GetAttrString(generator, "gi_frame");
    bool done = f != NULL;
    if (done) {
        check.generator = generator;
        check.stage = IN_STEPS;
        PyObject *value = PyIter_Next(generator);
        done = value != NULL;
        Py_XDECREF(value);
    }
    if (done && check.wrong == NULL) {
        const void *item = nm__insides_item_of((PyFrameObject *)f);
        check_holds(item != NULL && thread->exc_info != item, "whether a generator runs");
        PyObject *closed = PyObject_CallMethod(generator, "close", NULL);
        done = closed != NULL;
        Py_XDECREF(closed);
        if (done) check_holds(nm__insides_item_of((PyFrameObject *)f) == NULL, "whether a generator has ended");
    }
    Py_XDECREF(f);
    Py_XDECREF(generator);
    check.generator = NULL;
    return done;
}

static bool check_run_guarded(PyThreadState *thread) {
    if (thread->async_exc != NULL) return true;
    check.stage = IN_TRY;
    bool done = check_run_function("guarded");
    nm__insides_take_back(thread, PyExc_MemoryError);
    if (done) check_holds(check.stage == IDLE, "the exceptions of others");
    return done;
}

static bool check_run_program(PyThreadState *thread) {
    static PyMethodDef probe_method = {"probe", check_probe, METH_VARARGS, NULL};
    PyObject *function = PyCFunction_New(&probe_method, NULL), *code = NULL, *result = NULL;
    check.globals = function == NULL ? NULL : PyDict_New();
    bool done = check.globals != NULL && PyDict_SetItemString(check.globals, "probe", function) == 0 &&
                PyDict_SetItemString(check.globals, "__builtins__", PyEval_GetBuiltins()) == 0 &&
                (code = Py_CompileString(check_program, "<nativemem>", Py_file_input)) != NULL &&
                (result = PyEval_EvalCode(code, check.globals, check.globals)) != NULL && check_run_steps(thread) &&
                (check.wrong != NULL || check_run_guarded(thread));
    check.stage = AT_WITH;
    done = done && (check.wrong != NULL || check_run_function("enters"));
    check.stage = IDLE;
    Py_XDECREF(result);
    Py_XDECREF(code);
    Py_XDECREF(function);
    Py_CLEAR(check.globals);
    return done;
}

static void check_hide_from_tracers(PyThreadState *thread, bool hide) {
#if PY_VERSION_HEX >= 0x030B0000
    if (hide) PyThreadState_EnterTracing(thread);
    else PyThreadState_LeaveTracing(thread);
#else
    thread->tracing += hide ? 1 : -1;
    thread->cframe->use_tracing = thread->tracing == 0 && (thread->c_tracefunc != NULL || thread->c_profilefunc != NULL);
#endif
}

static PyObject *check_insides(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    static bool passed;
    if (passed) Py_RETURN_NONE;
    PyThreadState *thread = PyThreadState_Get();
    check.wrong = NULL;
    bool done = true;
    if (check_holds(check_minor_version(), "the version") && check_holds(check_thread(thread), "the state of a thread") &&
        check_holds(check_context(thread), "the context of a thread") &&
        check_holds(check_async_exception(thread), "the exceptions of others")) {
        check_hide_from_tracers(thread, true);
        done = check_run_program(thread);
        check_hide_from_tracers(thread, false);
    }
    if (PyErr_Occurred() != NULL) return NULL; /* for want of memory nothing is known to have moved */
    if (!done) return PyErr_NoMemory();        /* a look-up in the program's names swallows it */
    if (check.wrong != NULL) return PyUnicode_FromString(check.wrong);
    passed = true;
    Py_RETURN_NONE;
}

int nm__insides_check_add(PyObject *module) {
    static PyMethodDef methods[] = {
        {"insides_check", check_insides, METH_NOARGS, "None, or what of the interpreter is not where it is expected."},
        {NULL, NULL, 0, NULL}};
    return PyModule_AddFunctions(module, methods);
}
