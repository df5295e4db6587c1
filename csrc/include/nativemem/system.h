/* System: libc's allocator behind the port, counted. The bottom of every chain. Safe from any thread. */
#ifndef NATIVEMEM_SYSTEM_H
#define NATIVEMEM_SYSTEM_H

#include "nativemem/port.h"

#ifdef __cplusplus
extern "C" {
#endif

typedef struct nm_system nm_system;

nm_system *nm_system_create(void); /* NULL: out of memory */
/* Pre: no live blocks, or the caller accepts that they can no longer be freed. */
void nm_system_destroy(nm_system *s);
nm_allocator nm_system_port(nm_system *s);

#ifdef __cplusplus
}
#endif
#endif
