/* Bins: the cell sizes of the heap, up to NM_CELL_MAX bytes, and how large the superblocks of each are.
 *
 * Up to NM__FINE bytes bins are 16 bytes apart, so no block wastes more than 15, and 16 to each power of two up to 2 KiB. From
 * there on each is a part of its superblock, so that little is left over: the next larger one that lies in it once or twice
 * less, at least eight times. So of what a full superblock is charged with, at least 86 in 100 bytes are its blocks', from 97 bytes on
 * (decision 89). The tables are constant; a size is turned into its bin in heap.h. The sizes are part of the census and of the
 * engine's accounts: they cannot be changed while a process runs.
 *
 * Invariants:
 *   nm__bin_sizes rises;  nm__bin_sizes[nm__bin_of(size)] is the least one >= size, for 1 <= size <= NM_CELL_MAX
 *   each size is a multiple of 16;  that of a multiple of 64 is one, too;  the last has every alignment up to itself
 *   a superblock has room for eight cells at least, and less than a 40th of it is left over */
#include "heap/internal.h"

const uint32_t nm__bin_sizes[NM__BINS] = {
    0,     16,    32,    48,    64,    80,    96,    112,   128,   144,   160,   176,   192,   208,  224,  240,   256,   272,
    288,   304,   320,   336,   352,   368,   384,   400,   416,   432,   448,   464,   480,   496,  512,  544,   576,   608,
    640,   672,   704,   736,   768,   800,   832,   864,   896,   928,   960,   992,   1024,  1088, 1152, 1216,  1280,  1344,
    1408,  1472,  1536,  1600,  1664,  1728,  1792,  1856,  1920,  1984,  2048,  2176,  2304,  2496, 2688, 2816,  2944,  3072,
    3264,  3392,  3584,  3840,  4096,  4352,  4672,  4992,  5440,  5952,  6528,  7232,  8192,  8704, 9344, 10048, 10880, 11904,
    13056, 13760, 14528, 15360, 16384, 17472, 18688, 20160, 21824, 23808, 26176, 29120, 32768,
};

/* Sizes above one and up to the next, by the number of the NM__COARSE bytes in which they end. */
#define UPTO(bin, below, size) [(below) / NM__COARSE...(size) / NM__COARSE - 1] = bin
const uint8_t nm__coarse_bins[NM_CELL_MAX / NM__COARSE] = {
    UPTO(33, 512, 544),     UPTO(34, 544, 576),     UPTO(35, 576, 608),      UPTO(36, 608, 640),      UPTO(37, 640, 672),
    UPTO(38, 672, 704),     UPTO(39, 704, 736),     UPTO(40, 736, 768),      UPTO(41, 768, 800),      UPTO(42, 800, 832),
    UPTO(43, 832, 864),     UPTO(44, 864, 896),     UPTO(45, 896, 928),      UPTO(46, 928, 960),      UPTO(47, 960, 992),
    UPTO(48, 992, 1024),    UPTO(49, 1024, 1088),   UPTO(50, 1088, 1152),    UPTO(51, 1152, 1216),    UPTO(52, 1216, 1280),
    UPTO(53, 1280, 1344),   UPTO(54, 1344, 1408),   UPTO(55, 1408, 1472),    UPTO(56, 1472, 1536),    UPTO(57, 1536, 1600),
    UPTO(58, 1600, 1664),   UPTO(59, 1664, 1728),   UPTO(60, 1728, 1792),    UPTO(61, 1792, 1856),    UPTO(62, 1856, 1920),
    UPTO(63, 1920, 1984),   UPTO(64, 1984, 2048),   UPTO(65, 2048, 2176),    UPTO(66, 2176, 2304),    UPTO(67, 2304, 2496),
    UPTO(68, 2496, 2688),   UPTO(69, 2688, 2816),   UPTO(70, 2816, 2944),    UPTO(71, 2944, 3072),    UPTO(72, 3072, 3264),
    UPTO(73, 3264, 3392),   UPTO(74, 3392, 3584),   UPTO(75, 3584, 3840),    UPTO(76, 3840, 4096),    UPTO(77, 4096, 4352),
    UPTO(78, 4352, 4672),   UPTO(79, 4672, 4992),   UPTO(80, 4992, 5440),    UPTO(81, 5440, 5952),    UPTO(82, 5952, 6528),
    UPTO(83, 6528, 7232),   UPTO(84, 7232, 8192),   UPTO(85, 8192, 8704),    UPTO(86, 8704, 9344),    UPTO(87, 9344, 10048),
    UPTO(88, 10048, 10880), UPTO(89, 10880, 11904), UPTO(90, 11904, 13056),  UPTO(91, 13056, 13760),  UPTO(92, 13760, 14528),
    UPTO(93, 14528, 15360), UPTO(94, 15360, 16384), UPTO(95, 16384, 17472),  UPTO(96, 17472, 18688),  UPTO(97, 18688, 20160),
    UPTO(98, 20160, 21824), UPTO(99, 21824, 23808), UPTO(100, 23808, 26176), UPTO(101, 26176, 29120), UPTO(102, 29120, 32768),
};

size_t nm_bin_size(unsigned bin) { return bin < NM__BINS ? nm__bin_sizes[bin] : 0; }
