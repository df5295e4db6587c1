#define Py_BUILD_CORE 1 /* for the headers below */
#include "python/insides.h"

#include <internal/pycore_interp.h>
#include <opcode.h>
#if PY_VERSION_HEX >= 0x030D0000
#define NEED_OPCODE_METADATA /* the table of what an instruction was before it was specialized */
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

bool nm__insides_handles(PyThreadState *thread, PyObject *class_) {
    PyObject *raised = PyErr_Occurred();
    if (raised != NULL && PyErr_GivenExceptionMatches(raised, class_)) return true;
    for (const _PyErr_StackItem *item = thread->exc_info; item != NULL; item = item->previous_item)
        if (item->exc_value != NULL && item->exc_value != Py_None && PyErr_GivenExceptionMatches(item->exc_value, class_))
            return true;
    return false;
}

/* The instruction under way in the innermost Python code, as it is now and as it was before it was specialized; -1: none. */
static int instruction(PyThreadState *thread, int *special, PyCodeObject **code) {
#if PY_VERSION_HEX >= 0x030B0000
#if PY_VERSION_HEX >= 0x030D0000
    const _PyInterpreterFrame *frame = thread->current_frame;
#else
    const _PyInterpreterFrame *frame = thread->cframe->current_frame;
#endif
    if (frame == NULL || frame->owner > FRAME_OWNED_BY_FRAME_OBJECT) return -1;
#if PY_VERSION_HEX >= 0x030D0000
    const _Py_CODEUNIT *at = frame->instr_ptr;
    *code = (PyCodeObject *)frame->f_executable;
#else
    const _Py_CODEUNIT *at = frame->prev_instr;
    *code = frame->f_code;
#endif
#if PY_VERSION_HEX >= 0x030C0000
    *special = at->op.code;
#else
    *special = _Py_OPCODE(*at);
#endif
    return _PyOpcode_Deopt[*special];
#else
    const PyFrameObject *frame = thread->frame;
    if (frame == NULL || frame->f_lasti < 0) return -1;
    *code = frame->f_code;
    return *special = _Py_OPCODE(((const _Py_CODEUNIT *)(const void *)PyBytes_AS_STRING(frame->f_code->co_code))[frame->f_lasti]);
#endif
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

/* Those that make an object, in each version, as its documentation of `dis` lists them. Calls are not among them: most
 * end with a safe point, and what they call may be any code. */
bool nm__insides_bears_refusal(PyThreadState *thread, size_t size) {
    PyCodeObject *code = NULL;
    int special = -1, opcode = instruction(thread, &special, &code);
    if (opcode < 0) return false;
    switch (opcode) {
    case BUILD_LIST: /* these five raise nothing else, and a list is as large as an item of a traceback */
    case BUILD_SLICE:
    case BUILD_STRING:
    case BUILD_TUPLE:
    case LIST_APPEND:
        return true;
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
#if PY_VERSION_HEX < 0x030E0000
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
    default:
        return calls_without_safe_point(special) && !is_for_a_traceback(size, code);
    }
}

bool nm__insides_is_finalizing(void) {
#if PY_VERSION_HEX >= 0x030D0000
    return Py_IsFinalizing();
#else
    return _Py_IsFinalizing();
#endif
}
