#include "engine/frames.h" /* first: Python.h wants to be */

#include "engine/insides.h"
#include "tuning.h"

#if PY_VERSION_HEX < 0x030C0000
PyThreadState *const volatile *const nm__insides_thread = (void *)&_PyRuntime.gilstate.tstate_current;
#endif

/* PyThreadState_SetAsyncExc walks the list of threads under a lock that sys._current_frames holds while it allocates. */
#if PY_VERSION_HEX >= 0x030D0000
static void insides_trip(PyThreadState *thread) { _Py_set_eval_breaker_bit(thread, _PY_ASYNC_EXCEPTION_BIT); }
#else
static void insides_trip(PyThreadState *thread) {
    struct _ceval_state *state = &thread->interp->ceval;
    state->pending.async_exc = 1;
    _Py_atomic_store_relaxed(&state->eval_breaker, 1);
}
#endif

bool nm__insides_raise_soon(PyThreadState *thread, PyObject *class_) {
    if (thread->async_exc != NULL) return false;
    thread->async_exc = Py_NewRef(class_);
    insides_trip(thread);
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
static bool insides_goes_first(PyObject *raised) {
    return PyErr_GivenExceptionMatches(raised, PyExc_MemoryError) || !PyErr_GivenExceptionMatches(raised, PyExc_Exception);
}

static bool insides_is_within_handler(PyObject *handled) {
    for (int i = 0; i < NM_INSIDES_CONTEXTS && handled != NULL && PyExceptionInstance_Check(handled); i++) {
        if (PyErr_GivenExceptionMatches(handled, PyExc_MemoryError)) return true;
        handled = ((PyBaseExceptionObject *)handled)->context;
    }
    return false;
}

bool nm__insides_is_handling(PyThreadState *thread) {
    PyObject *raised = PyErr_Occurred();
    if (raised != NULL && insides_goes_first(raised)) return true;
    for (const _PyErr_StackItem *item = thread->exc_info; item != NULL; item = item->previous_item)
        if (item->exc_value != NULL && item->exc_value != Py_None &&
            (insides_goes_first(item->exc_value) || insides_is_within_handler(item->exc_value)))
            return true;
    return false;
}

/* ---- generators ----------------------------------------------------------------------------------------- */

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
    const nm__frame *frame = f->f_frame;
    if (frame->owner != FRAME_OWNED_BY_GENERATOR) return NULL; /* the frame object's own, once the generator is done */
    const char *at = (const char *)frame - offsetof(PyGenObject, gi_iframe);
    const PyGenObject *generator = (const void *)at;
    return FRAME_STATE_FINISHED(generator->gi_frame_state) ? NULL : &generator->gi_exc_state;
}
#endif

nm__caller nm__insides_caller(const PyThreadState *thread) {
    const nm__frame *frame = nm__frame_calling(thread);
    if (frame == NULL) return (nm__caller){.flags = 0};
    const PyCodeObject *code = nm__frame_code(frame);
    return (nm__caller){code->co_flags, nm__frame_is_with_at(code, nm__frame_instruction_offset(frame))};
}

/* ---- what runs ---------------------------------------------------------------------------------------- */

int nm__insides_steps(const PyThreadState *thread, nm__step *steps, int most) {
    int count = 0;
    for (const nm__frame *f = nm__frame_innermost(thread); f != NULL && count < most; f = nm__frame_outer(f)) {
        PyCodeObject *code = nm__frame_code(f);
        if (code != NULL && PyCode_Check(code)) steps[count++] = (nm__step){code, nm__frame_instruction_offset(f)};
    }
    return count;
}

PyObject *nm__insides_globals(const PyThreadState *thread, const void **frame) {
    const nm__frame *at = *frame == NULL ? nm__frame_innermost(thread) : nm__frame_outer((const nm__frame *)*frame);
    while (at != NULL && nm__frame_globals(at) == NULL) at = nm__frame_outer(at);
    *frame = at;
    return at == NULL ? NULL : nm__frame_globals(at);
}

PyObject *nm__insides_function_name(const void *frame) { return nm__frame_code((const nm__frame *)frame)->co_name; }

void nm__insides_note_places(const PyThreadState *thread, nm__place places[NM_INSIDES_PLACES]) {
    const nm__frame *frame = nm__frame_innermost(thread);
    for (int i = 0; i < NM_INSIDES_PLACES; i++) {
        places[i] = (nm__place){frame, NULL, -1};
        if (frame == NULL) break;
        places[i].code = nm__frame_code(frame);
        places[i].handler = nm__frame_handler(frame);
        frame = nm__frame_outer(frame);
    }
}

bool nm__insides_is_still_at(const PyThreadState *thread, const nm__place places[NM_INSIDES_PLACES]) {
    if (places[0].frame == NULL) return true;
    const nm__frame *frame = nm__frame_innermost(thread);
    for (int depth = 0; depth < 2 * NM_INSIDES_PLACES && frame != NULL; depth++, frame = nm__frame_outer(frame))
        for (int i = 0; i < NM_INSIDES_PLACES && places[i].frame != NULL; i++)
            if (places[i].frame == frame && places[i].code == nm__frame_code(frame))
                return places[i].handler == nm__frame_handler(frame);
    return false;
}

/* Calls that are specialized so far that they do not look whether there is something to do when they are done. */
static bool insides_calls_without_safe_point(int special) {
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
static bool insides_is_for_traceback(size_t size, const PyCodeObject *code) {
    const size_t head = sizeof(PyGC_Head);
#if PY_VERSION_HEX >= 0x030B0000
    const size_t slots = (size_t)code->co_nlocalsplus + (size_t)code->co_stacksize;
#else
    const size_t slots = (size_t)code->co_nlocals + (size_t)code->co_stacksize;
#endif
    return size == head + (size_t)PyTraceBack_Type.tp_basicsize ||
           size == head + (size_t)PyFrame_Type.tp_basicsize + slots * (size_t)PyFrame_Type.tp_itemsize;
}

bool nm__insides_is_for_traceback(const PyThreadState *thread, size_t size) {
    const nm__frame *frame = nm__frame_innermost(thread);
    return frame != NULL && insides_is_for_traceback(size, nm__frame_code(frame));
}

bool nm__insides_is_for_frame(const PyThreadState *thread, size_t size) {
#if PY_VERSION_HEX >= 0x030B0000
    const nm__frame *frame = nm__frame_innermost(thread);
    if (frame == NULL || frame->frame_obj != NULL) return false;
    const PyCodeObject *code = nm__frame_code(frame);
    return size == sizeof(PyGC_Head) + (size_t)PyFrame_Type.tp_basicsize +
                       ((size_t)code->co_nlocalsplus + (size_t)code->co_stacksize) * (size_t)PyFrame_Type.tp_itemsize;
#else
    return (void)thread, (void)size, false; /* each has one from the start */
#endif
}

/* Those that make an object, in each version, as its documentation of `dis` lists them. Calls are not among them: most
 * end with a safe point, and what they call may be any code. */
bool nm__insides_bears_refusal(const PyThreadState *thread, size_t size) {
    const nm__frame *frame = nm__frame_innermost(thread);
    if (frame == NULL) return false;
    const PyCodeObject *code = nm__frame_code(frame);
    int special, opcode = nm__frame_opcode(frame, &special);
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
        return !insides_is_for_traceback(size, code);
    default: return insides_calls_without_safe_point(special) && !insides_is_for_traceback(size, code);
    }
}

void nm__insides_prepare_refusal(const PyThreadState *thread, size_t size) {
#if PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030E0000
    const nm__frame *frame = nm__frame_innermost(thread);
    if (frame == NULL || size != sizeof(PyGC_Head) + (size_t)PyFunction_Type.tp_basicsize) return;
    Py_XINCREF((PyObject *)nm__frame_code_of_new_function(frame));
#else
    (void)thread;
    (void)size;
#endif
}

bool nm__insides_is_in_call(const PyThreadState *thread) {
    const nm__frame *frame = nm__frame_innermost(thread);
    if (frame == NULL) return false;
    int special, opcode = nm__frame_opcode(frame, &special);
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
        return !insides_calls_without_safe_point(special) && !nm__insides_is_entering(thread);
    default: return false;
    }
}

bool nm__insides_is_entering(const PyThreadState *thread) {
#if PY_VERSION_HEX >= 0x030E0000
    const nm__frame *frame = nm__frame_innermost(thread);
    if (frame == NULL) return false;
    const PyCodeObject *code = nm__frame_code(frame);
    return nm__frame_is_with_at(code, nm__frame_instruction_offset(frame));
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

#if PY_VERSION_HEX >= 0x030C0000
/* As new_keys_object() of Objects/dictobject.c makes keys that are all strings, in a table of `1 << bits` places. */
static size_t insides_keys_size(unsigned bits) {
    size_t places = (size_t)1 << bits, index = bits < 8 ? 1 : bits < 16 ? 2 : bits < 32 ? 4 : 8;
    return sizeof(PyDictKeysObject) + places * index + (places << 1) / 3 * sizeof(PyDictUnicodeEntry);
}

bool nm__insides_is_for_interned(const PyThreadState *thread, size_t size) {
    const PyObject *table = thread->interp->cached_objects.interned_strings;
    if (table == NULL || !PyDict_CheckExact(table)) return false;
    const PyDictObject *dict = (const PyDictObject *)table;
    if (dict->ma_keys->dk_usable > 0) return false;
    /* it grows to three times what it has, so one table is as large as the next or the one after */
    for (unsigned bits = dict->ma_keys->dk_log2_size; bits <= dict->ma_keys->dk_log2_size + 2U; bits++)
        if (size == insides_keys_size(bits)) return true;
    return false;
}
#else
bool nm__insides_is_for_interned(const PyThreadState *thread, size_t size) { return (void)thread, (void)size, false; }
#endif
