#define Py_BUILD_CORE 1 /* for the headers below */
#include "engine/insides.h"

#include <internal/pycore_interp.h>
#include <opcode.h>
#if PY_VERSION_HEX >= 0x03100000
#error "the insides of CPython are known up to 3.15; USE_NATIVE_MEM=0 builds the pure backend"
#elif PY_VERSION_HEX >= 0x030E0000
#if PY_VERSION_HEX < 0x030F0000
#define NEED_OPCODE_METADATA /* the table of what an instruction was before it was specialized; 3.15 exports it */
#endif
#include <internal/pycore_ceval.h>
#include <internal/pycore_frame.h>
#include <internal/pycore_genobject.h>
#include <internal/pycore_interpframe.h>
#include <internal/pycore_opcode_metadata.h>
#elif PY_VERSION_HEX >= 0x030D0000
#define NEED_OPCODE_METADATA /* the same */
#include <internal/pycore_ceval.h>
#include <internal/pycore_frame.h>
#include <internal/pycore_opcode_metadata.h>
#elif PY_VERSION_HEX >= 0x030B0000
#define NEED_OPCODE_TABLES /* the same */
#include <internal/pycore_frame.h>
#include <internal/pycore_opcode.h>
#else
#include <frameobject.h>
#endif

/* PyThreadState_SetAsyncExc walks the list of threads under a lock that sys._current_frames holds while it allocates. */
#if PY_VERSION_HEX >= 0x030D0000
static void trip(PyThreadState *thread) { _Py_set_eval_breaker_bit(thread, _PY_ASYNC_EXCEPTION_BIT); }
#else
static void trip(PyThreadState *thread) {
    struct _ceval_state *state = &thread->interp->ceval;
    state->pending.async_exc = 1;
    _Py_atomic_store_relaxed(&state->eval_breaker, 1);
}
#endif

bool nm__insides_raise_soon(PyThreadState *thread, PyObject *class_) {
    if (thread->async_exc != NULL) return false;
    thread->async_exc = Py_NewRef(class_);
    trip(thread);
    return true;
}

bool nm__insides_will_raise(PyThreadState *thread, PyObject *class_) { return thread->async_exc == class_; }

/* The eval breaker stays set: the loop looks, and finds nothing. */
void nm__insides_take_back(PyThreadState *thread, PyObject *class_) {
    if (thread->async_exc != class_) return;
    thread->async_exc = NULL;
    Py_DECREF(class_);
}

/* An interrupt is no Exception, nor is what ends a program, a task or a generator. */
static bool goes_first(PyObject *raised) {
    return PyErr_GivenExceptionMatches(raised, PyExc_MemoryError) || !PyErr_GivenExceptionMatches(raised, PyExc_Exception);
}

/* A handler inside a handler hides the outer one's exception from the thread's state; it is the inner one's context. */
#define CONTEXTS 64

static bool is_within_handler(PyObject *handled) {
    for (int i = 0; i < CONTEXTS && handled != NULL && PyExceptionInstance_Check(handled); i++) {
        if (PyErr_GivenExceptionMatches(handled, PyExc_MemoryError)) return true;
        handled = ((PyBaseExceptionObject *)handled)->context;
    }
    return false;
}

bool nm__insides_is_handling(PyThreadState *thread) {
    PyObject *raised = PyErr_Occurred();
    if (raised != NULL && goes_first(raised)) return true;
    for (const _PyErr_StackItem *item = thread->exc_info; item != NULL; item = item->previous_item)
        if (item->exc_value != NULL && item->exc_value != Py_None &&
            (goes_first(item->exc_value) || is_within_handler(item->exc_value)))
            return true;
    return false;
}

/* ---- the Python code that runs: its frames, the innermost first, those that have begun -------------- */

#if PY_VERSION_HEX >= 0x030B0000
typedef _PyInterpreterFrame Frame;

static const Frame *skip_others(const Frame *frame) {
    while (frame != NULL && frame->owner > FRAME_OWNED_BY_FRAME_OBJECT) frame = frame->previous;
    return frame;
}
static const Frame *innermost(const PyThreadState *thread) {
#if PY_VERSION_HEX >= 0x030D0000
    return skip_others(thread->current_frame);
#else
    return skip_others(thread->cframe->current_frame);
#endif
}
static const Frame *outer(const Frame *frame) { return skip_others(frame->previous); }

#if PY_VERSION_HEX >= 0x030E0000
static PyCodeObject *code_of(const Frame *frame) { return (PyCodeObject *)PyStackRef_AsPyObjectBorrow(frame->f_executable); }
static PyObject *function_of(const Frame *frame) { return PyStackRef_AsPyObjectBorrow(frame->f_funcobj); }
static const _Py_CODEUNIT *instruction_of(const Frame *frame) { return frame->instr_ptr; }
#elif PY_VERSION_HEX >= 0x030D0000
static PyCodeObject *code_of(const Frame *frame) { return (PyCodeObject *)frame->f_executable; }
static PyObject *function_of(const Frame *frame) { return frame->f_funcobj; }
static const _Py_CODEUNIT *instruction_of(const Frame *frame) { return frame->instr_ptr; }
#else
static PyCodeObject *code_of(const Frame *frame) { return frame->f_code; }
#if PY_VERSION_HEX >= 0x030C0000
static PyObject *function_of(const Frame *frame) { return frame->f_funcobj; }
#endif
static const _Py_CODEUNIT *instruction_of(const Frame *frame) { return frame->prev_instr; }
#endif

/* As it is now, and as it was before it was specialized. */
static int opcode_of(const Frame *frame, int *special) {
#if PY_VERSION_HEX >= 0x030C0000
    *special = instruction_of(frame)->op.code;
#else
    *special = _Py_OPCODE(*instruction_of(frame));
#endif
    return _PyOpcode_Deopt[*special];
}

/* One of the exception table's numbers: six bits a byte, all but the last marked. */
static int next_number(const uint8_t **at) {
    int number = **at & 63;
    while ((*(*at)++ & 64) != 0) number = number << 6 | (**at & 63);
    return number;
}

/* Where code goes that raises now; -1: out. Objects/exception_handling_notes.txt says how the table is made. */
static int handler_of(const Frame *frame) {
    const PyCodeObject *code = code_of(frame);
    const uint8_t *at = (const uint8_t *)PyBytes_AS_STRING(code->co_exceptiontable);
    const uint8_t *end = at + PyBytes_GET_SIZE(code->co_exceptiontable);
    long here = instruction_of(frame) - (const _Py_CODEUNIT *)(const void *)code->co_code_adaptive;
    while (at < end) {
        int from = next_number(&at), size = next_number(&at), target = next_number(&at);
        (void)next_number(&at); /* depth */
        if (here < from) break;
        if (here < from + size) return target;
    }
    return -1;
}
#else
typedef PyFrameObject Frame;
static const Frame *innermost(const PyThreadState *thread) { return thread->frame; }
static const Frame *outer(const Frame *frame) { return frame->f_back; }
static PyCodeObject *code_of(const Frame *frame) { return frame->f_code; }
static int opcode_of(const Frame *frame, int *special) {
    const _Py_CODEUNIT *code = (const _Py_CODEUNIT *)(const void *)PyBytes_AS_STRING(frame->f_code->co_code);
    return *special = frame->f_lasti < 0 ? -1 : _Py_OPCODE(code[frame->f_lasti]);
}
static int handler_of(const Frame *frame) {
    return frame->f_iblock == 0 ? -1 : frame->f_blockstack[frame->f_iblock - 1].b_handler;
}
#endif

/* ---- generators --------------------------------------------------------------------------------------- */

#if PY_VERSION_HEX < 0x030B0000
const void *nm__insides_item_of(PyFrameObject *f) {
    bool has_ended = f->f_state == FRAME_RETURNED || f->f_state == FRAME_RAISED || f->f_state == FRAME_CLEARED;
    return has_ended || f->f_gen == NULL ? NULL : &((PyGenObject *)f->f_gen)->gi_exc_state;
}
#else
#ifndef FRAME_STATE_FINISHED /* since 3.13 */
#define FRAME_STATE_FINISHED(state) ((state) >= FRAME_COMPLETED)
#endif

const void *nm__insides_item_of(PyFrameObject *f) {
    const Frame *frame = f->f_frame;
    if (frame->owner != FRAME_OWNED_BY_GENERATOR) return NULL; /* the frame object's own, once the generator is done */
    const char *at = (const char *)frame - offsetof(PyGenObject, gi_iframe);
    const PyGenObject *generator = (const void *)at;
    return FRAME_STATE_FINISHED(generator->gi_frame_state) ? NULL : &generator->gi_exc_state;
}
#endif

/* at: of the instruction, in bytes; negative: it has not begun. */
static bool is_with_at(const PyCodeObject *code, int at) {
#if PY_VERSION_HEX >= 0x030E0000 /* a call, after what only `with` has; one unit alone may be another's cache */
    static const uint8_t before[] = {LOAD_SPECIAL, SPECIAL___EXIT__, SWAP, 2, SWAP, 3, LOAD_SPECIAL, SPECIAL___ENTER__};
    return at >= (int)sizeof before && memcmp(&code->co_code_adaptive[at] - sizeof before, before, sizeof before) == 0;
#elif PY_VERSION_HEX >= 0x030B0000
    return at >= 0 && (unsigned char)code->co_code_adaptive[at] == BEFORE_WITH;
#else
    return at >= 0 && (unsigned char)PyBytes_AS_STRING(code->co_code)[(size_t)at] == SETUP_WITH;
#endif
}

bool nm__insides_is_at_with(PyFrameObject *f) {
    PyCodeObject *code = PyFrame_GetCode(f);
#if PY_VERSION_HEX >= 0x030B0000
    bool is = is_with_at(code, PyFrame_GetLasti(f));
#else
    bool is = is_with_at(code, f->f_lasti * (int)sizeof(_Py_CODEUNIT));
#endif
    Py_DECREF(code);
    return is;
}

/* ---- what runs ---------------------------------------------------------------------------------------- */

PyObject *nm__insides_globals(const PyThreadState *thread, const void **frame) {
    const Frame *at = *frame == NULL ? innermost(thread) : outer((const Frame *)*frame);
#if PY_VERSION_HEX >= 0x030C0000
    /* The interpreter's own frame around an __init__ is no function's, and has no globals: what stands there is anything. */
    while (at != NULL && (function_of(at) == NULL || !PyFunction_Check(function_of(at)))) at = outer(at);
#endif
    *frame = at;
    return at == NULL ? NULL : at->f_globals;
}

void nm__insides_note_places(const PyThreadState *thread, nm__place places[NM__PLACES]) {
    const Frame *frame = innermost(thread);
    for (int i = 0; i < NM__PLACES; i++) {
        places[i] = (nm__place){frame, NULL, -1};
        if (frame == NULL) break;
        places[i].code = code_of(frame);
        places[i].handler = handler_of(frame);
        frame = outer(frame);
    }
}

bool nm__insides_is_still_at(const PyThreadState *thread, const nm__place places[NM__PLACES]) {
    if (places[0].frame == NULL) return true;
    const Frame *frame = innermost(thread);
    for (int depth = 0; depth < 2 * NM__PLACES && frame != NULL; depth++, frame = outer(frame))
        for (int i = 0; i < NM__PLACES && places[i].frame != NULL; i++)
            if (places[i].frame == frame && places[i].code == code_of(frame)) return places[i].handler == handler_of(frame);
    return false;
}

/* Calls that are specialized so far that they do not look whether there is something to do when they are done. */
static bool calls_without_safe_point(int special) {
#if PY_VERSION_HEX >= 0x030D0000
    return special == CALL_LIST_APPEND || special == CALL_LEN;
#elif PY_VERSION_HEX >= 0x030C0000
    return special == CALL_NO_KW_LIST_APPEND || special == CALL_NO_KW_LEN;
#elif PY_VERSION_HEX >= 0x030B0000
    return special == PRECALL_NO_KW_LIST_APPEND || special == PRECALL_NO_KW_LEN;
#else
    return (void)special, false;
#endif
}

/* What is made while an exception passes through code: its frame object, and an item of the traceback. Without them it is
 * lost, and it may be any exception, whatever the instruction is. */
static bool is_for_a_traceback(size_t size, const PyCodeObject *code) {
    const size_t head = sizeof(PyGC_Head);
    size_t slots = (size_t)(code->co_nlocals + code->co_stacksize);
#if PY_VERSION_HEX >= 0x030B0000
    slots = (size_t)(code->co_nlocalsplus + code->co_stacksize);
#endif
    return size == head + (size_t)PyTraceBack_Type.tp_basicsize ||
           size == head + (size_t)PyFrame_Type.tp_basicsize + slots * (size_t)PyFrame_Type.tp_itemsize;
}

bool nm__insides_is_for_traceback(const PyThreadState *thread, size_t size) {
    const Frame *frame = innermost(thread);
    return frame != NULL && is_for_a_traceback(size, code_of(frame));
}

bool nm__insides_is_for_frame(const PyThreadState *thread, size_t size) {
#if PY_VERSION_HEX >= 0x030B0000
    const Frame *frame = innermost(thread);
    if (frame == NULL || frame->frame_obj != NULL) return false;
    const PyCodeObject *code = code_of(frame);
    return size == sizeof(PyGC_Head) + (size_t)PyFrame_Type.tp_basicsize +
                       (size_t)(code->co_nlocalsplus + code->co_stacksize) * (size_t)PyFrame_Type.tp_itemsize;
#else
    return (void)thread, (void)size, false; /* each has one from the start */
#endif
}

/* Those that make an object, in each version, as its documentation of `dis` lists them. Calls are not among them: most
 * end with a safe point, and what they call may be any code. */
bool nm__insides_bears_refusal(const PyThreadState *thread, size_t size) {
    const Frame *frame = innermost(thread);
    if (frame == NULL) return false;
    const PyCodeObject *code = code_of(frame);
    int special, opcode = opcode_of(frame, &special);
    switch (opcode) {
    case BUILD_LIST: /* these five raise nothing else, and a list is as large as an item of a traceback */
    case BUILD_SLICE:
    case BUILD_STRING:
    case BUILD_TUPLE:
    case LIST_APPEND: return true;
    case BUILD_MAP:
    case BUILD_SET:
    case COMPARE_OP:
    case DICT_MERGE:
    case DICT_UPDATE:
    case FOR_ITER:
    case GET_ITER:
    case LIST_EXTEND:
    case MAP_ADD:
    case SET_ADD:
    case SET_UPDATE:
    case STORE_SUBSCR:
    case UNARY_INVERT:
    case UNARY_NEGATIVE:
#if PY_VERSION_HEX >= 0x030E0000
    case BUILD_INTERPOLATION:
    case BUILD_TEMPLATE:
#else
    case BINARY_SUBSCR:
    case BUILD_CONST_KEY_MAP:
#endif
#if PY_VERSION_HEX >= 0x030D0000
    case CONVERT_VALUE:
    case FORMAT_SIMPLE:
    case FORMAT_WITH_SPEC:
#else
    case FORMAT_VALUE:
#endif
#if PY_VERSION_HEX >= 0x030C0000
    case BINARY_SLICE:
#endif
#if PY_VERSION_HEX >= 0x030B0000
    case BINARY_OP:
#else
    case BINARY_ADD:
    case BINARY_AND:
    case BINARY_FLOOR_DIVIDE:
    case BINARY_LSHIFT:
    case BINARY_MODULO:
    case BINARY_MULTIPLY:
    case BINARY_OR:
    case BINARY_POWER:
    case BINARY_RSHIFT:
    case BINARY_SUBTRACT:
    case BINARY_TRUE_DIVIDE:
    case BINARY_XOR:
    case INPLACE_ADD:
    case INPLACE_AND:
    case INPLACE_FLOOR_DIVIDE:
    case INPLACE_LSHIFT:
    case INPLACE_MODULO:
    case INPLACE_MULTIPLY:
    case INPLACE_OR:
    case INPLACE_POWER:
    case INPLACE_RSHIFT:
    case INPLACE_SUBTRACT:
    case INPLACE_TRUE_DIVIDE:
    case INPLACE_XOR:
#endif
        return !is_for_a_traceback(size, code);
    default: return calls_without_safe_point(special) && !is_for_a_traceback(size, code);
    }
}

bool nm__insides_is_in_call(const PyThreadState *thread) {
    const Frame *frame = innermost(thread);
    if (frame == NULL) return false;
    int special, opcode = opcode_of(frame, &special);
    switch (opcode) {
    case CALL_FUNCTION_EX:
#if PY_VERSION_HEX >= 0x030D0000
    case CALL_KW:
#endif
#if PY_VERSION_HEX >= 0x030B0000
    case CALL:
#if PY_VERSION_HEX < 0x030C0000
    case PRECALL:
#endif
#else
    case CALL_FUNCTION:
    case CALL_FUNCTION_KW:
    case CALL_METHOD:
#endif
        return !calls_without_safe_point(special) && !nm__insides_is_entering(thread);
    default: return false;
    }
}

bool nm__insides_is_entering(const PyThreadState *thread) {
#if PY_VERSION_HEX >= 0x030E0000
    const Frame *frame = innermost(thread);
    if (frame == NULL) return false;
    const PyCodeObject *code = code_of(frame);
    return is_with_at(code, (int)((const char *)instruction_of(frame) - code->co_code_adaptive));
#else
    return (void)thread, false; /* that instruction has no safe point */
#endif
}

bool nm__insides_is_finalizing(void) {
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}

/* ---- the self-test ------------------------------------------------------------------------------------ */

/* Known code calls the probe, which compares what this file reads with what the interpreter's public functions say:
 * addresses first, so that nothing is read at a place that may be no frame's. A version of the interpreter that has moved
 * something is declined rather than misread. */

static const char program[] = "def steps():\n"
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
} test;

static bool holds(bool fact, const char *otherwise) {
    if (!fact && test.wrong == NULL) test.wrong = otherwise;
    return fact;
}

static bool is_minor_version(void) {
    char known[16];
    int n = snprintf(known, sizeof known, "%d.%d.", PY_MAJOR_VERSION, PY_MINOR_VERSION);
    return strncmp(Py_GetVersion(), known, (size_t)n) == 0;
}

static bool is_thread_known(PyThreadState *thread) {
    return thread->interp == PyInterpreterState_Get() && thread->id == PyThreadState_GetID(thread) &&
           thread->thread_id == PyThread_get_thread_ident();
}

static bool is_context_known(PyThreadState *thread) {
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

static bool is_async_exception_known(PyThreadState *thread) {
    if (thread->async_exc != NULL) return true; /* the program's own, which stays */
    PyThreadState_SetAsyncExc(thread->thread_id, PyExc_MemoryError);
    bool is = nm__insides_will_raise(thread, PyExc_MemoryError);
    PyThreadState_SetAsyncExc(thread->thread_id, NULL);
    return is && !nm__insides_will_raise(thread, PyExc_MemoryError);
}

static const char *generator_at(size_t offset) { return (const char *)test.generator + offset; }

static bool is_generator_frame(const PyFrameObject *f) {
#if PY_VERSION_HEX >= 0x030B0000
    return (const char *)f->f_frame == generator_at(offsetof(PyGenObject, gi_iframe)) &&
           f->f_frame->owner == FRAME_OWNED_BY_GENERATOR;
#else
    return (const char *)f->f_gen == generator_at(0);
#endif
}

/* Tracers and monitors put instructions of their own in the places of others, which this file takes for none that it knows. */
static bool is_instrumented(int special) {
#if PY_VERSION_HEX >= 0x030C0000
    return special >= MIN_INSTRUMENTED_OPCODE;
#else
    return (void)special, false;
#endif
}

static bool is_monitored(const PyThreadState *thread) {
    int special;
    (void)opcode_of(innermost(thread), &special);
    return is_instrumented(special);
}

static bool is_call_known(const PyThreadState *thread, PyFrameObject *f) {
    const Frame *frame = innermost(thread);
    PyCodeObject *code = PyFrame_GetCode(f);
    bool is = code_of(frame) == code;
    Py_DECREF(code);
    if (!is) return false;
    int special, opcode = opcode_of(frame, &special);
#if PY_VERSION_HEX >= 0x030B0000
    const char *start = (const char *)code->co_code_adaptive;
    if ((const char *)instruction_of(frame) - start != PyFrame_GetLasti(f)) return false;
#endif
#if PY_VERSION_HEX >= 0x030B0000
    bool is_call = opcode == CALL;
#else
    bool is_call = opcode == CALL_FUNCTION;
#endif
    return is_instrumented(special) || (is_call && nm__insides_is_in_call(thread));
}

static void check_in_steps(PyThreadState *thread, PyFrameObject *f) {
    const void *at = NULL;
    nm__place places[NM__PLACES];
    if (!holds(is_generator_frame(f), "the frame of a generator") ||
        !holds((const char *)thread->exc_info == generator_at(offsetof(PyGenObject, gi_exc_state)),
               "the state of a generator") ||
        !holds(nm__insides_item_of(f) == thread->exc_info, "whether a generator has ended") ||
        !holds(thread->exc_info->previous_item != NULL, "the stack of handled exceptions") ||
#if PY_VERSION_HEX >= 0x030B0000
        !holds(innermost(thread) == f->f_frame, "the frame that runs") ||
#else
        !holds(innermost(thread) == f, "the frame that runs") ||
#endif
        !holds(is_call_known(thread, f), "the instruction that runs"))
        return;
    holds(nm__insides_globals(thread, &at) == test.globals, "the globals of what runs");
    nm__insides_note_places(thread, places);
    holds(nm__insides_is_still_at(thread, places), "the frame that runs");
}

static PyObject *probe(PyObject *module, PyObject *args) {
    (void)module, (void)args;
    PyThreadState *thread = PyThreadState_Get();
    PyFrameObject *f = PyThreadState_GetFrame(thread);
    if (f == NULL) return PyErr_NoMemory();
    nm__place places[NM__PLACES];
    if (test.wrong == NULL) switch (test.stage) {
        case IN_STEPS: check_in_steps(thread, f); break;
        case IN_TRY:
            nm__insides_note_places(thread, places);
            holds(places[0].handler >= 0, "the handlers of what runs");
            holds(thread->async_exc != NULL || nm__insides_raise_soon(thread, PyExc_MemoryError), "the exceptions of others");
            test.stage = IN_HANDLER;
            break;
        case IN_HANDLER:
            holds(nm__insides_is_handling(thread), "the exception that is handled");
            test.stage = IDLE;
            break;
        case AT_WITH:
            nm__insides_note_places(thread, places);
            holds(places[0].handler < 0, "the handlers of what runs");
            holds(is_monitored(thread) || nm__insides_is_at_with(f), "the instruction that begins a with");
            test.stage = AFTER_WITH;
            break;
        case AFTER_WITH:
            holds(!nm__insides_is_at_with(f), "the instruction that ends a with");
            test.stage = IDLE;
            break;
        case IDLE: break;
        }
    Py_DECREF(f);
    Py_RETURN_NONE;
}

/* false: an error is set. */
static bool call(const char *name) {
    PyObject *function = PyDict_GetItemString(test.globals, name); /* borrowed */
    PyObject *result = function == NULL ? NULL : PyObject_CallNoArgs(function);
    Py_XDECREF(result);
    return result != NULL;
}

static bool run_steps(PyThreadState *thread) {
    PyObject *function = PyDict_GetItemString(test.globals, "steps");
    PyObject *generator = function == NULL ? NULL : PyObject_CallNoArgs(function);
    PyObject *f = generator == NULL ? NULL : PyObject_GetAttrString(generator, "gi_frame");
    bool done = f != NULL;
    if (done) {
        test.generator = generator;
        test.stage = IN_STEPS;
        PyObject *value = PyIter_Next(generator);
        done = value != NULL;
        Py_XDECREF(value);
    }
    if (done && test.wrong == NULL) {
        const void *item = nm__insides_item_of((PyFrameObject *)f);
        holds(item != NULL && thread->exc_info != item, "whether a generator runs");
        PyObject *closed = PyObject_CallMethod(generator, "close", NULL);
        done = closed != NULL;
        Py_XDECREF(closed);
        if (done) holds(nm__insides_item_of((PyFrameObject *)f) == NULL, "whether a generator has ended");
    }
    Py_XDECREF(f);
    Py_XDECREF(generator);
    test.generator = NULL;
    return done;
}

static bool run_guarded(PyThreadState *thread) {
    if (thread->async_exc != NULL) return true;
    test.stage = IN_TRY;
    bool done = call("guarded");
    nm__insides_take_back(thread, PyExc_MemoryError);
    if (done) holds(test.stage == IDLE, "the exceptions of others");
    return done;
}

static bool run_program(PyThreadState *thread) {
    static PyMethodDef probe_method = {"probe", probe, METH_VARARGS, NULL};
    PyObject *function = PyCFunction_New(&probe_method, NULL), *code = NULL, *result = NULL;
    test.globals = function == NULL ? NULL : PyDict_New();
    bool done = test.globals != NULL && PyDict_SetItemString(test.globals, "probe", function) == 0 &&
                PyDict_SetItemString(test.globals, "__builtins__", PyEval_GetBuiltins()) == 0 &&
                (code = Py_CompileString(program, "<nativemem>", Py_file_input)) != NULL &&
                (result = PyEval_EvalCode(code, test.globals, test.globals)) != NULL && run_steps(thread) &&
                (test.wrong != NULL || run_guarded(thread));
    test.stage = AT_WITH;
    done = done && (test.wrong != NULL || call("enters"));
    test.stage = IDLE;
    Py_XDECREF(result);
    Py_XDECREF(code);
    Py_XDECREF(function);
    Py_CLEAR(test.globals);
    return done;
}

static void hide_from_tracers(PyThreadState *thread, bool hide) {
#if PY_VERSION_HEX >= 0x030B0000
    if (hide) PyThreadState_EnterTracing(thread);
    else PyThreadState_LeaveTracing(thread);
#else
    thread->tracing += hide ? 1 : -1;
    thread->cframe->use_tracing = thread->tracing == 0 && (thread->c_tracefunc != NULL || thread->c_profilefunc != NULL);
#endif
}

PyObject *nm__insides_check(PyObject *module, PyObject *unused) {
    (void)module, (void)unused;
    static bool passed;
    if (passed) Py_RETURN_NONE;
    PyThreadState *thread = PyThreadState_Get();
    test.wrong = NULL;
    bool done = true;
    if (holds(is_minor_version(), "the version") && holds(is_thread_known(thread), "the state of a thread") &&
        holds(is_context_known(thread), "the context of a thread") &&
        holds(is_async_exception_known(thread), "the exceptions of others")) {
        hide_from_tracers(thread, true);
        done = run_program(thread);
        hide_from_tracers(thread, false);
    }
    if (!done) return NULL;
    if (test.wrong != NULL) return PyUnicode_FromString(test.wrong);
    passed = true;
    Py_RETURN_NONE;
}
