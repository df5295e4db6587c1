/* Bins: the cell sizes of the heap, up to NM_CELL_MAX bytes, and how large the superblocks of each are.
 *
 * Up to NM__FINE bytes bins are 16 bytes apart, so no block wastes more than 15; above that about eight to each power of two,
 * so none wastes more than a seventh. From 4 KiB on each is a part of its superblock, in which at least eight lie, so that what
 * is left over is little, too (decision 75). The tables are constant; a size is turned into its bin in heap.h. The sizes are
 * part of the census and of the engine's accounts: they cannot be changed while a process runs.
 *
 * Invariants:
 *   nm__bin_sizes rises;  nm__bin_sizes[nm__bin_of(size)] is the least one >= size, for 1 <= size <= NM_CELL_MAX
 *   each size is a multiple of 16, above NM__FINE of 64, and the last has every alignment up to itself
 *   a superblock has room for eight cells at least, and less than a tenth of it is left over */
#include "heap/internal.h"

const uint32_t nm__bin_sizes[NM_BINS] = {
    0,    16,    32,    48,    64,    80,    96,    112,   128,   144,   160,   176,   192,   208,  224,  240,
    256,  272,   288,   304,   320,   336,   352,   368,   384,   400,   416,   432,   448,   464,  480,  496,
    512,  576,   640,   704,   768,   832,   896,   960,   1024,  1152,  1280,  1408,  1536,  1664, 1792, 1920,
    2048, 2304,  2560,  2816,  3072,  3328,  3584,  3840,  4096,  4672,  4992,  5440,  5952,  6528, 7232, 8192,
    9344, 10432, 11904, 13056, 14528, 16384, 18688, 20160, 21824, 23808, 26176, 29120, 32768,
};

/* Sizes above one and up to the next, by the number of the 64 bytes in which they end. */
#define UPTO(bin, below, size) [(below) / 64 ...(size) / 64 - 1] = bin
const uint8_t nm__coarse_bins[NM_CELL_MAX >> 6] = {
    UPTO(33, 512, 576),     UPTO(34, 576, 640),     UPTO(35, 640, 704),     UPTO(36, 704, 768),     UPTO(37, 768, 832),
    UPTO(38, 832, 896),     UPTO(39, 896, 960),     UPTO(40, 960, 1024),    UPTO(41, 1024, 1152),   UPTO(42, 1152, 1280),
    UPTO(43, 1280, 1408),   UPTO(44, 1408, 1536),   UPTO(45, 1536, 1664),   UPTO(46, 1664, 1792),   UPTO(47, 1792, 1920),
    UPTO(48, 1920, 2048),   UPTO(49, 2048, 2304),   UPTO(50, 2304, 2560),   UPTO(51, 2560, 2816),   UPTO(52, 2816, 3072),
    UPTO(53, 3072, 3328),   UPTO(54, 3328, 3584),   UPTO(55, 3584, 3840),   UPTO(56, 3840, 4096),   UPTO(57, 4096, 4672),
    UPTO(58, 4672, 4992),   UPTO(59, 4992, 5440),   UPTO(60, 5440, 5952),   UPTO(61, 5952, 6528),   UPTO(62, 6528, 7232),
    UPTO(63, 7232, 8192),   UPTO(64, 8192, 9344),   UPTO(65, 9344, 10432),  UPTO(66, 10432, 11904), UPTO(67, 11904, 13056),
    UPTO(68, 13056, 14528), UPTO(69, 14528, 16384), UPTO(70, 16384, 18688), UPTO(71, 18688, 20160), UPTO(72, 20160, 21824),
    UPTO(73, 21824, 23808), UPTO(74, 23808, 26176), UPTO(75, 26176, 29120), UPTO(76, 29120, 32768),
};

size_t nm_bin_size(unsigned bin) { return bin < NM_BINS ? nm__bin_sizes[bin] : 0; }
