/* nativemem: the C core. One port, several allocators, wrappers in front of them.
 *
 * Glossary, used verbatim in C, Python, tests and docs:
 *   block       memory handed to a user          size      bytes asked for
 *   usable      bytes actually behind a block    cell      memory of a fixed size
 *   superblock  cells of one bin, at a multiple of 64 KiB: 64 KiB of them, in a heap 256 KiB of those above 8 KiB
 *   bin         a cell size                      span      whole pages of the region for one larger block
 *   chunk       one backing unit of an arena     region    the addresses that superblocks and spans come from
 *   used / reserved / peak / limit
 *               bytes in live blocks / taken from upstream / highest used / most allowed
 *   upstream    the allocator that another takes its memory from
 *   owner       the named budget that a block is charged to
 *   port        the allocator method table       wrapper   a port in front of an upstream port
 */
#ifndef NATIVEMEM_H
#define NATIVEMEM_H

#include "nativemem/arena.h"
#include "nativemem/base.h"
#include "nativemem/budget.h"
#include "nativemem/failing.h"
#include "nativemem/heap.h"
#include "nativemem/intern.h"
#include "nativemem/limited.h"
#include "nativemem/locked.h"
#include "nativemem/log.h"
#include "nativemem/memlib.h"
#include "nativemem/plain.h"
#include "nativemem/pool.h"
#include "nativemem/port.h"
#include "nativemem/slab.h"
#include "nativemem/stack.h"
#include "nativemem/system.h"
#include "nativemem/traced.h"
#include "nativemem/utilities.h"
#include "nativemem/verified.h"

#endif
