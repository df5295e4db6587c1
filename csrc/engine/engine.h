/* The engine's heap and limit, for the control plane: no call here needs the interpreter's lock. */
#ifndef NM__ENGINE_H
#define NM__ENGINE_H

#include "nativemem/heap.h"

nm_heap *nm_engine_heap(void);     /* NULL before it is started */
nm_budget *nm_engine_budget(void); /* its limit is NM_SIZE_MAX where none was set */

/* There are owners from now on. false: out of memory. */
bool nm__engine_use_scopes(void);
/* Whether anybody may be in a scope: only then is it found out with each call who is charged. */
void nm__engine_look_for_scopes(bool on);
bool nm__engine_is_on(void); /* for objects or for arrays */
void nm__engine_watch_pressure(void); /* has what is noted told soon, from the interpreter's loop */
nm_heap *nm__engine_own_heap(nm_budget *of); /* as secure as the engine's */
void nm__census_add(nm_census *sum, const nm_census *more); /* what was allocated */
void nm__engine_add_census(nm_census *sum, nm_heap *h);
/* How many blocks of each size the engine served, for the process and for owners. Pre: it was started. */
void nm__engine_census(nm_census *out);

#endif
