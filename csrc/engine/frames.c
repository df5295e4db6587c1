#define NM__FRAMES_C
#include "engine/frames.h" /* first: Python.h wants to be */

#if PY_VERSION_HEX >= 0x030B0000
static const nm__frame *frame_skip_others(const nm__frame *frame) {
    while (frame != NULL && frame->owner > FRAME_OWNED_BY_FRAME_OBJECT) frame = frame->previous;
    return frame;
}
const nm__frame *nm__frame_innermost(const PyThreadState *thread) {
#if PY_VERSION_HEX >= 0x030D0000
    return frame_skip_others(thread->current_frame);
#else
    return frame_skip_others(thread->cframe->current_frame);
#endif
}
const nm__frame *nm__frame_outer(const nm__frame *frame) { return frame_skip_others(frame->previous); }
const nm__frame *nm__frame_calling(const PyThreadState *thread) {
    const nm__frame *frame = nm__frame_innermost(thread);
    while (frame != NULL && _PyFrame_IsIncomplete((nm__frame *)(uintptr_t)frame)) frame = nm__frame_outer(frame);
    return frame;
}

#if PY_VERSION_HEX >= 0x030E0000
PyCodeObject *nm__frame_code(const nm__frame *frame) {
    return (PyCodeObject *)PyStackRef_AsPyObjectBorrow(frame->f_executable);
}
static PyObject *frame_function(const nm__frame *frame) { return PyStackRef_AsPyObjectBorrow(frame->f_funcobj); }
static const _Py_CODEUNIT *frame_instruction(const nm__frame *frame) { return frame->instr_ptr; }
#elif PY_VERSION_HEX >= 0x030D0000
PyCodeObject *nm__frame_code(const nm__frame *frame) { return (PyCodeObject *)frame->f_executable; }
static PyObject *frame_function(const nm__frame *frame) { return frame->f_funcobj; }
static const _Py_CODEUNIT *frame_instruction(const nm__frame *frame) { return frame->instr_ptr; }
#else
PyCodeObject *nm__frame_code(const nm__frame *frame) { return frame->f_code; }
#if PY_VERSION_HEX >= 0x030C0000
static PyObject *frame_function(const nm__frame *frame) { return frame->f_funcobj; }
#endif
static const _Py_CODEUNIT *frame_instruction(const nm__frame *frame) { return frame->prev_instr; }
#endif

/* The first instruction of what the frame runs: without the interpreter's lock each thread has a copy of the code to itself. */
static const _Py_CODEUNIT *frame_first_instruction(const nm__frame *frame) {
#if PY_VERSION_HEX >= 0x030E0000 && defined(Py_GIL_DISABLED)
    return (const _Py_CODEUNIT *)(const void *)_PyCode_GetTLBCArray(nm__frame_code(frame))->entries[frame->tlbc_index];
#else
    return (const _Py_CODEUNIT *)(const void *)nm__frame_code(frame)->co_code_adaptive;
#endif
}

int nm__frame_instruction_offset(const nm__frame *frame) {
    return (int)((const char *)frame_instruction(frame) - (const char *)frame_first_instruction(frame));
}

PyObject *nm__frame_globals(const nm__frame *frame) {
#if PY_VERSION_HEX >= 0x030C0000
    /* The interpreter's own frame around an __init__ is no function's, and has no globals: what stands there is anything. */
    if (frame_function(frame) == NULL || !PyFunction_Check(frame_function(frame))) return NULL;
#endif
    return frame->f_globals;
}

int nm__frame_opcode(const nm__frame *frame, int *special) {
#if PY_VERSION_HEX >= 0x030C0000
    *special = frame_instruction(frame)->op.code;
#else
    *special = _Py_OPCODE(*frame_instruction(frame));
#endif
    return _PyOpcode_Deopt[*special];
}

#if PY_VERSION_HEX >= 0x030C0000 && PY_VERSION_HEX < 0x030E0000
/* What a tracer of lines stands in for. 3.13.3 and later have the size of an entry first, and the opcode first in each;
 * earlier ones have two bytes for each unit. The interpreter decides, not the headers: a wheel is for all of 3.13. */
static int frame_opcode_below_line(const _PyCoMonitoringData *traced, ptrdiff_t unit) {
    const uint8_t *lines = (const uint8_t *)traced->lines;
    return Py_Version >= 0x030D0300 ? lines[1 + unit * lines[0]] : lines[2 * unit];
}

/* The opcode of a unit. In its place may be one that calls a tracer, for a line or for each instruction, or both. */
static int frame_opcode_below_tracers(const PyCodeObject *code, ptrdiff_t unit) {
    const _PyCoMonitoringData *traced = code->_co_monitoring;
    int opcode = ((const _Py_CODEUNIT *)(const void *)code->co_code_adaptive)[unit].op.code;
    if (opcode == INSTRUMENTED_LINE) opcode = frame_opcode_below_line(traced, unit);
    if (opcode == INSTRUMENTED_INSTRUCTION) opcode = traced->per_instruction_opcodes[unit];
    return opcode;
}

PyCodeObject *nm__frame_code_of_new_function(const nm__frame *frame) {
    PyCodeObject *code = nm__frame_code(frame);
    const _Py_CODEUNIT *first = (const _Py_CODEUNIT *)(const void *)code->co_code_adaptive;
    ptrdiff_t unit = frame_instruction(frame) - first;
    if (unit < 1 || frame_opcode_below_tracers(code, unit) != MAKE_FUNCTION) return NULL;
    size_t number = 0; /* of the constant; a unit has eight bits of it, the ones before have the higher ones */
    for (int shift = 0; shift < 32; shift += 8) {
        number |= (size_t)first[--unit].op.arg << shift;
        if (unit == 0 || frame_opcode_below_tracers(code, unit - 1) != EXTENDED_ARG) break;
    }
    if (number >= (size_t)PyTuple_GET_SIZE(code->co_consts)) return NULL;
    PyObject *constant = PyTuple_GET_ITEM(code->co_consts, (Py_ssize_t)number);
    return PyCode_Check(constant) ? (PyCodeObject *)constant : NULL;
}
#endif

/* One of the exception table's numbers: six bits a byte, all but the last marked. */
static int frame_next_number(const uint8_t **at) {
    int number = **at & 63;
    while ((*(*at)++ & 64) != 0) number = number << 6 | (**at & 63);
    return number;
}

/* Objects/exception_handling_notes.txt says how the table is made. */
int nm__frame_handler(const nm__frame *frame) {
    const PyCodeObject *code = nm__frame_code(frame);
    const uint8_t *at = (const uint8_t *)PyBytes_AS_STRING(code->co_exceptiontable);
    const uint8_t *end = at + PyBytes_GET_SIZE(code->co_exceptiontable);
    long here = frame_instruction(frame) - frame_first_instruction(frame);
    while (at < end) {
        int from = frame_next_number(&at), size = frame_next_number(&at), target = frame_next_number(&at);
        (void)frame_next_number(&at); /* depth */
        if (here < from) break;
        if (here < from + size) return target;
    }
    return -1;
}
#else
const nm__frame *nm__frame_innermost(const PyThreadState *thread) { return thread->frame; }
const nm__frame *nm__frame_outer(const nm__frame *frame) { return frame->f_back; }
const nm__frame *nm__frame_calling(const PyThreadState *thread) { return thread->frame; }
PyCodeObject *nm__frame_code(const nm__frame *frame) { return frame->f_code; }
int nm__frame_instruction_offset(const nm__frame *frame) { return frame->f_lasti * (int)sizeof(_Py_CODEUNIT); }
PyObject *nm__frame_globals(const nm__frame *frame) { return frame->f_globals; }
int nm__frame_opcode(const nm__frame *frame, int *special) {
    const _Py_CODEUNIT *code = (const _Py_CODEUNIT *)(const void *)PyBytes_AS_STRING(frame->f_code->co_code);
    return *special = frame->f_lasti < 0 ? -1 : _Py_OPCODE(code[frame->f_lasti]);
}
int nm__frame_handler(const nm__frame *frame) {
    return frame->f_iblock == 0 ? -1 : frame->f_blockstack[frame->f_iblock - 1].b_handler;
}
#endif

bool nm__frame_is_with_at(const PyCodeObject *code, int at) {
#if PY_VERSION_HEX >= 0x030E0000 /* a call, after what only `with` has; one unit alone may be another's cache */
    static const uint8_t before[] = {LOAD_SPECIAL, SPECIAL___EXIT__, SWAP, 2, SWAP, 3, LOAD_SPECIAL, SPECIAL___ENTER__};
    return at >= (int)sizeof before && memcmp(&code->co_code_adaptive[at] - sizeof before, before, sizeof before) == 0;
#elif PY_VERSION_HEX >= 0x030B0000
    return at >= 0 && (unsigned char)code->co_code_adaptive[at] == BEFORE_WITH;
#else
    return at >= 0 && (unsigned char)PyBytes_AS_STRING(code->co_code)[(size_t)at] == SETUP_WITH;
#endif
}
