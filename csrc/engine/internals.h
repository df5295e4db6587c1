/* The interpreter's own internal headers, and the frame of Python code as each version has it.
 *
 * To be included first, and by the files that read insides alone: frames.c, insides.c and insides_check.c. Here a version
 * that is not known is refused.
 */
#ifndef NM__INTERNALS_H
#define NM__INTERNALS_H

#define Py_BUILD_CORE 1 /* for the headers below */
#include "engine/python.h"

#include <internal/pycore_interp.h>
#if PY_VERSION_HEX < 0x030C0000
#include <internal/pycore_runtime.h>
#endif
#if PY_VERSION_HEX >= 0x030C0000
#include <internal/pycore_dict.h>
#endif
#include <opcode.h>
#if PY_VERSION_HEX >= 0x03100000
#error "the insides of CPython are known up to 3.15; USE_NATIVE_MEM=0 builds the pure backend"
#elif PY_VERSION_HEX >= 0x030E0000
#if PY_VERSION_HEX < 0x030F0000 && defined(NM__FRAMES_C)
#define NEED_OPCODE_METADATA /* the table of what an instruction was before it was specialized; 3.15 exports it */
#endif
#include <internal/pycore_ceval.h>
#include <internal/pycore_frame.h>
#include <internal/pycore_genobject.h>
#include <internal/pycore_interpframe.h>
#include <internal/pycore_opcode_metadata.h>
#elif PY_VERSION_HEX >= 0x030D0000
#ifdef NM__FRAMES_C
#define NEED_OPCODE_METADATA /* the same */
#endif
#include <internal/pycore_ceval.h>
#include <internal/pycore_frame.h>
#include <internal/pycore_opcode_metadata.h>
#elif PY_VERSION_HEX >= 0x030B0000
#ifdef NM__FRAMES_C
#define NEED_OPCODE_TABLES /* the same */
#endif
#include <internal/pycore_frame.h>
#include <internal/pycore_opcode.h>
#else
#include <frameobject.h>
#endif

#if PY_VERSION_HEX >= 0x030B0000
typedef _PyInterpreterFrame nm__frame;
#else
typedef PyFrameObject nm__frame;
#endif

#endif
