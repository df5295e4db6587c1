/* Bins: the cell sizes of the heap, up to NM_CELL_MAX bytes, and how large the superblocks of each are.
 *
 * Up to NM__FINE bytes bins are 16 bytes apart, so no block wastes more than 15, and 64 up to 2 KiB. From there on
 * each is a part of its superblock, so that little is left over: the next larger one that lies in it once or twice
 * less, at least eight times. So of what a full superblock is charged with, at least 86 in 100 bytes are its blocks', from 97 bytes on
 * (decisions 89 and 92). The tables are constant; a size is turned into its bin in heap.h. The sizes are part of the census and of the
 * engine's accounts: they cannot be changed while a process runs.
 *
 * Invariants:
 *   nm__bin_sizes rises;  nm__bin_sizes[nm__bin_of(size)] is the least one >= size, for 1 <= size <= NM_CELL_MAX
 *   each size is a multiple of 16;  that of a multiple of 64 is one, too;  the last has every alignment up to itself
 *   a superblock has room for eight cells at least, and less than a 40th of it is left over */
#include "heap/internal.h"

const uint32_t nm__bin_sizes[NM__BINS] = {
    0,    16,    32,    48,    64,    80,    96,    112,   128,   144,   160,   176,   192,   208,   224,   240,   256,
    272,  288,   304,   320,   336,   352,   368,   384,   400,   416,   432,   448,   464,   480,   496,   512,   528,
    544,  560,   576,   592,   608,   624,   640,   656,   672,   688,   704,   720,   736,   752,   768,   784,   800,
    816,  832,   848,   864,   880,   896,   912,   928,   944,   960,   976,   992,   1008,  1024,  1088,  1152,  1216,
    1280, 1344,  1408,  1472,  1536,  1600,  1664,  1728,  1792,  1856,  1920,  1984,  2048,  2176,  2304,  2496,  2688,
    2816, 2944,  3072,  3264,  3392,  3584,  3840,  4096,  4352,  4672,  4992,  5440,  5952,  6528,  7232,  8192,  8704,
    9344, 10048, 10880, 11904, 13056, 13760, 14528, 15360, 16384, 17472, 18688, 20160, 21824, 23808, 26176, 29120, 32768,
};

/* Sizes above one and up to the next, by the number of the NM__COARSE bytes in which they end. */
#define UPTO(bin, below, size) [(below) / NM__COARSE...(size) / NM__COARSE - 1] = bin
const uint8_t nm__coarse_bins[NM_CELL_MAX / NM__COARSE] = {
    UPTO(65, 1024, 1088),    UPTO(66, 1088, 1152),    UPTO(67, 1152, 1216),    UPTO(68, 1216, 1280),    UPTO(69, 1280, 1344),
    UPTO(70, 1344, 1408),    UPTO(71, 1408, 1472),    UPTO(72, 1472, 1536),    UPTO(73, 1536, 1600),    UPTO(74, 1600, 1664),
    UPTO(75, 1664, 1728),    UPTO(76, 1728, 1792),    UPTO(77, 1792, 1856),    UPTO(78, 1856, 1920),    UPTO(79, 1920, 1984),
    UPTO(80, 1984, 2048),    UPTO(81, 2048, 2176),    UPTO(82, 2176, 2304),    UPTO(83, 2304, 2496),    UPTO(84, 2496, 2688),
    UPTO(85, 2688, 2816),    UPTO(86, 2816, 2944),    UPTO(87, 2944, 3072),    UPTO(88, 3072, 3264),    UPTO(89, 3264, 3392),
    UPTO(90, 3392, 3584),    UPTO(91, 3584, 3840),    UPTO(92, 3840, 4096),    UPTO(93, 4096, 4352),    UPTO(94, 4352, 4672),
    UPTO(95, 4672, 4992),    UPTO(96, 4992, 5440),    UPTO(97, 5440, 5952),    UPTO(98, 5952, 6528),    UPTO(99, 6528, 7232),
    UPTO(100, 7232, 8192),   UPTO(101, 8192, 8704),   UPTO(102, 8704, 9344),   UPTO(103, 9344, 10048),  UPTO(104, 10048, 10880),
    UPTO(105, 10880, 11904), UPTO(106, 11904, 13056), UPTO(107, 13056, 13760), UPTO(108, 13760, 14528), UPTO(109, 14528, 15360),
    UPTO(110, 15360, 16384), UPTO(111, 16384, 17472), UPTO(112, 17472, 18688), UPTO(113, 18688, 20160), UPTO(114, 20160, 21824),
    UPTO(115, 21824, 23808), UPTO(116, 23808, 26176), UPTO(117, 26176, 29120), UPTO(118, 29120, 32768),
};

size_t nm_bin_size(unsigned bin) { return bin < NM__BINS ? nm__bin_sizes[bin] : 0; }
