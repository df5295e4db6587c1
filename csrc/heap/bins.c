/* Bins: the cell sizes of the heap, up to NM_CELL_MAX bytes.
 *
 * Up to NM__FINE bytes bins are 16 bytes apart, so no block wastes more than 15; above that there are four to each power of
 * two, so none wastes more than a fifth. The tables are constant; a size is turned into its bin in heap.h. The sizes are part
 * of the census and of the engine's accounts: they cannot be changed while a process runs.
 *
 * Invariants:
 *   nm__bin_sizes rises;  nm__bin_sizes[nm__bin_of(size)] is the least one >= size, for 1 <= size <= NM_CELL_MAX
 *   each size is a multiple of 16, and the last has every alignment up to itself */
#include "heap/internal.h"

const uint32_t nm__bin_sizes[NM_BINS] = {
    0,    16,   32,   48,   64,   80,   96,   112,  128,  144,  160,  176,   192,   208,   224,   240,   256,   272,   288,
    304,  320,  336,  352,  368,  384,  400,  416,  432,  448,  464,  480,   496,   512,   640,   768,   896,   1024,  1280,
    1536, 1792, 2048, 2560, 3072, 3584, 4096, 5120, 6144, 7168, 8192, 10240, 12288, 14336, 16384, 20480, 24576, 28672, 32768,
};

#define B2(bin) bin, bin
#define B4(bin) B2(bin), B2(bin)
#define B8(bin) B4(bin), B4(bin)
#define B16(bin) B8(bin), B8(bin)
#define B32(bin) B16(bin), B16(bin)
const uint8_t nm__coarse_bins[] = {
    B4(0),  33,     34,     35,     36,      B2(37),  B2(38),  B2(39),  B2(40),  B4(41),  B4(42),  B4(43),  B4(44),
    B8(45), B8(46), B8(47), B8(48), B16(49), B16(50), B16(51), B16(52), B32(53), B32(54), B32(55), B32(56),
};

size_t nm_bin_size(unsigned bin) { return bin < NM_BINS ? nm__bin_sizes[bin] : 0; }
