/* Every threshold of the core that might be turned, with its unit, its reason, and where it was decided. */
#ifndef NM__TUNING_H
#define NM__TUNING_H

#include "base/poison.h"

/* ---- budgets ---------------------------------------------------------------------------------------- */

/* Looks at what is in use before one that fell between two halves of a limit's move is believed: a move is a few stores. */
#define NM_BUDGET_READS 100
/* Tries for the lock of a denial's details, with a yield after each: in a child of fork it may be held for ever. */
#define NM_BUDGET_LOCK_TRIES 1000
/* Siblings that one charge borrows from, at most: what it would have to give back is on the stack. */
#define NM_BUDGET_MOST_GIVERS 64

/* ---- events ------------------------------------------------------------------------------------------- */

/* The last so many are kept for telemetry, of about 140 bytes each: docs/observe.md. */
#define NM_EVENTS 1024
/* Looks, with a yield after each, at an event that is being written. */
#define NM_EVENT_TRIES 100

/* ---- threads, stack, wrappers, memlib ---------------------------------------------------------------- */

/* Files with something to do at the end of a thread, at most. */
#define NM_THREAD_HOOKS 8
/* Entries that a stack has room for at first, 16 bytes each; it doubles. */
#ifndef NM_STACK_ENTRIES
#define NM_STACK_ENTRIES 64
#endif
/* Traced wrappers whose tallies a thread finds without a lock; others share the places. */
#define NM_TRACED_SLOTS 8
/* Entries of a table of sites at first, a power of two. At most half of them are used. */
#define NM_SITES_FIRST ((size_t)64)
/* Bytes that both sums of an Adler-32 take before they are reduced: the most with which the second still fits 32 bits
 * (zlib's NMAX). */
#define NM_ADLER_RUN ((size_t)5552)
/* What a program's first heap makes of the machine where the program has not made the region: bytes of addresses, bytes of
 * free spans that are kept at most, and milliseconds until they go. The same as the engine's defaults but for the machine. */
#define NM_MEMLIB_REGION ((size_t)64 << 30)
#define NM_MEMLIB_RETAIN ((size_t)64 << 20)
#define NM_MEMLIB_DECAY_MS 1000

/* ---- cells and superblocks: decisions 18 and 19 ------------------------------------------------------ */

/* Bytes of cells that are linked at a time: a page of most systems, since linking touches them. */
#define NM_CELLS_STRETCH 4096u
/* Cells that come back to a current superblock before it is asked whether it still is the one to serve: so many, or such a
 * part of its cells, whichever is more. */
#define NM_HEAP_PATIENCE 128u
#define NM_HEAP_PATIENCE_PART 8u
/* A full superblock waits until such a part of its cells is free. */
#define NM_HEAP_QUORUM_PART 32u
/* Such questions between two looks at the clock: what is kept decays where nothing comes and goes but cells, too. */
#define NM_HEAP_TICK_TRIPS 16
/* A block that shrinks stays where no more than such a part of its cell is left over, or its cell has no more bytes than
 * these: a move would cost more than they are worth. */
#define NM_HEAP_WASTE_PART 4
#define NM_HEAP_STAYS 64

/* A superblock has room for so many cells at least: larger cells have large superblocks. And bytes that a superblock is charged
 * in: what was never used of it is not charged. Decision 75. */
#define NM_HEAP_CELLS_LEAST 8
#define NM_HEAP_CHARGED_AT_ONCE ((size_t)16 << 10)
/* Superblocks that wait, of which each refusal looks at so many in the mean, where that finds nothing: some 5 ns each. Beyond all
 * limits there is a refusal for each small block. Decision 75. */
#define NM_HEAP_LOOKS_A_REFUSAL 64

/* ---- the heap -------------------------------------------------------------------------------------- */

/* Bytes from which calloc asks the region for pages that read as zero. To wipe memory that is resident costs a small part of
 * the page faults that memory zeroed by the system costs when it is touched, so below it dirty memory is wiped; most of a
 * larger block may never be touched. The same as glibc's. */
#define NM_HEAP_FRESH_ZERO ((size_t)32 << 20)
/* Cells freed by other threads that nm__heap_is_free looks at before it takes one for live: the list may grow meanwhile. */
#define NM_HEAP_FAR_MOST ((size_t)1 << 20)
/* Heaps that take turns whose thread heaps a thread remembers: entering one of them takes no lock. A power of two. */
#define NM_HEAP_TURNS 8

/* ---- the region: decision 23 ----------------------------------------------------------------------- */

/* Bytes of the smallest region that is of use, and of the largest: the numbers of its pages fit into 31 bits. */
#define NM_REGION_SMALLEST ((size_t)64 << 20)
#define NM_REGION_LARGEST ((size_t)1 << 43)
/* Bytes between the region and where the system puts mappings, as far as the addresses allow: they are 47 bits on most
 * machines, and may be as few as 39; a checker leaves even less, and ThreadSanitizer ends a program that asks for more. What
 * the system maps grows down from there, or up. */
#ifdef NM__TSAN
#define NM_REGION_FARTHEST ((size_t)128 << 30)
#else
#define NM_REGION_FARTHEST ((size_t)8 << 40)
#endif
/* Bytes from which a span asks for huge pages, which save it most of its page faults; under small blocks they would only take
 * memory that nothing asked for. NumPy draws the line at the same size. And bytes of such a page. */
#define NM_REGION_HUGE_FROM ((size_t)4 << 20)
#define NM_REGION_HUGE_PAGE ((size_t)2 << 20)
/* Bytes from which a span is unmapped rather than purged. */
#define NM_REGION_UNMAP_FROM ((size_t)1 << 20)
/* Free spans that are away, at most: each splits a mapping, of which a process may have some 65,000. */
#define NM_REGION_MOST_AWAY 8192
/* Pages of holes: with more the region ends where it is. */
#define NM_REGION_MOST_HOLES ((size_t)1 << 20)
/* Free spans of a list that are looked at for one in which a superblock's start lies well; a larger span has a place anyway. */
#define NM_REGION_LOOKS 16
/* Bytes that are mapped at a time: an 8th of what is mapped, so that there are few calls and little that is not needed is
 * mapped; at least, and at most. */
#define NM_REGION_STEP_PART 8
#define NM_REGION_STEP_LEAST NM_REGION_UNMAP_FROM
#define NM_REGION_STEP_MOST ((size_t)64 << 20)
/* Bytes from which a span that outgrows its place moves to a mapping of its own, and addresses that are left behind it there,
 * in bytes: of one below NM_REGION_HUGE_FROM, and of others. They cost nothing but addresses. Decision 21. */
#define NM_REGION_APART_FROM NM_REGION_UNMAP_FROM
#define NM_REGION_ROOM_SMALL ((size_t)64 << 20)
#define NM_REGION_ROOM ((size_t)1 << 30)

/* ---- decay: decisions 20, 24, 25 ------------------------------------------------------------------- */

/* Windows that the decay time is divided into: what was not needed in any of them goes. */
#define NM_DECAY_WINDOWS 8
/* Spans that one call purges, at most: no single call pays for a large program's whole past. */
#define NM_DECAY_SPANS_AT_ONCE 4
/* Bytes that are kept although nothing shows yet that they are needed: no more where no thread will give them back. */
#define NM_DECAY_KEPT_ANYWAY ((size_t)32 << 20)
/* Under a limit on address space no more is kept than such a part of it. */
#define NM_DECAY_LIMIT_PART 32
/* Bytes that may stay in an idle process: with less no thread is started. And at a fork. */
#define NM_DECAY_WATCHED_FROM ((size_t)4 << 20)
/* Milliseconds that the clock may be late: it is the coarse one. */
#define NM_DECAY_CLOCK_MS 10
/* Bytes that made way and were needed again within the decay time: up to here they cost next to nothing. */
#define NM_DECAY_REGRETTED ((size_t)4 << 20)
/* Slack, at most: such a part of what was ever used, and bytes. It ends the regrets of any loop that was tried. */
#define NM_DECAY_SLACK_PART 4
#define NM_DECAY_SLACK ((size_t)4 << 20)

/* ---- blocks of Python's ----------------------------------------------------------------------------- */

/* Dead Block objects that are kept for reuse: more than a burst of short-lived blocks needs, and less than 32 KiB. */
#define NM_BLOCK_SPARES 256

/* ---- the engine ------------------------------------------------------------------------------------- */

/* Alignment of arrays, in bytes: what vector code likes, and the size of a cache line. In multiples of it every cell starts
 * at one. */
#define NM_ARRAY_ALIGN ((size_t)64)

/* Owners, and entries, that have outlived their budget or context and are looked at with each call that may see one go: there
 * may be many, so each call looks at a few in turn. */
#define NM_SCOPE_TURN 8
/* Lists of open entries, by the generator that each was made in. A power of two. */
#define NM_SCOPE_LISTS 256
/* Entries that are kept for the next: as many as scopes are mostly within each other, 200 bytes each. */
#define NM_SCOPE_SPARES 8

/* The overdraft; docs/decisions/0032-overdraft.md. All in bytes.
 * The largest block that may be overdrawn: larger ones are refused on the spot, which code bears better than to have them
 * and an error later. What a handler of a MemoryError, or code that may not be interrupted, asks for may be larger: a
 * traceback that is to be shown, or the 256 KiB and a header that an event loop reads into. */
#define NM_OVERDRAFT_SMALL NM_CELL_MAX
#define NM_OVERDRAFT_SMALL_IF_URGENT ((size_t)320 << 10)
/* With the overdraft used up, small blocks are had beyond every limit: so many bytes until the thread comes to a safe point,
 * so many after a refusal, and so many at any time in the process. */
#define NM_OVERDRAFT_LENT_TO_SAFE_POINT ((size_t)128 << 10)
#define NM_OVERDRAFT_LENT_AFTER_REFUSAL ((size_t)1024)
#define NM_OVERDRAFT_LENT_IN_ALL ((size_t)2 << 20)
/* Beyond that, too: the int that the interpreter makes, with the exception set, to enter a handler, since without it, it
 * tries for ever; the object of a frame that an exception passes through, since without it the exception is lost; and so
 * many bytes for each thread's code that must not be interrupted: one that is refused while it starts, or between a job
 * and its answer, is waited for in vain. */
#define NM_OVERDRAFT_INT_SIZE ((size_t)32)
#define NM_OVERDRAFT_LENT_TO_SPARED ((size_t)16 << 10)
/* What the interpreter does for itself, with no code of the program's on its stack, is bounded by this alone: when it shows
 * the error that has ended the program it imports some 40 modules (2.4 MiB of objects in 3.15) and reads sources.
 * Its table of interned strings, which a program may fill, has no more than half of that. */
#define NM_OVERDRAFT_LENT_TO_INTERPRETER ((size_t)16 << 20)
/* Where a thread cannot be called back: so many overdrawn blocks after an error belong to its handling. */
#define NM_DENIAL_HANDLING_BLOCKS 64
/* Frames of the standard library, the innermost ones, that are looked at for the code that called it. */
#define NM_SPARED_FRAMES 100
/* Names of modules of the standard library; some 300 in each version. */
#define NM_SPARED_LIBRARY 512
/* A handler inside a handler hides the outer one's exception from the thread's state; it is the inner one's context. So many
 * contexts are followed. */
#define NM_INSIDES_CONTEXTS 64
/* Frames, the innermost ones, in which it is noted where something was overdrawn. */
#define NM_INSIDES_PLACES 8

/* Stacks of frames (nm_traced's sites): buckets of the table, and the deepest stack, in frames. */
#define NM_STACKS_BUCKETS 1024
#define NM_STACKS_FRAMES 128

/* ---- profiles ---- */

/* Bytes that a thread serves at most until it looks whether the profile is still the one that its gap is of. A look is a
 * call, so not for each block; what a thread serves before it is missed by a profile that notes each block. */
#define NM_SAMPLER_PART ((int64_t)64 << 10)

/* ---- the intern table: decision 48 ------------------------------------------------------------------- */

/* Bytes of a class's first chunk, so that a small table is small; each is twice the one before, up to a page. The proofs
 * have them smaller. */
#ifndef NM_INTERN_CHUNK_FIRST
#define NM_INTERN_CHUNK_FIRST ((size_t)512)
#endif
#define NM_INTERN_CHUNK_LAST ((size_t)4096)
/* Chunks that a shard has names for at first, 16 bytes each; it doubles. */
#ifndef NM_INTERN_PLACES_FIRST
#define NM_INTERN_PLACES_FIRST 8U
#endif
/* Numbers that are free beyond as many as there are chunks, before they are forgotten: forgetting raises the floor of
 * all, so it has to be rare. */
#ifndef NM_INTERN_NUMBERS_SPARE
#define NM_INTERN_NUMBERS_SPARE 64U
#endif

#endif
