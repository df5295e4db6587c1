/* Checked arithmetic and alignment, for every 64-bit argument, against arithmetic of 128 bits.
 *
 * One exception: a product of two free factors is beyond a SAT solver, so nm_mul's first or second factor is any, the
 * other one of a list: the sizes that the core multiplies with, powers of two, the edges.
 *
 * cbmc: unwind 65
 * cbmc: run PART=sum
 * cbmc: run PART=product
 */
#include "harness.h"

#include "nativemem/utilities.h"

typedef unsigned __int128 wide;

static void product_is_right(size_t a, size_t b) {
    size_t out = 7;
    wide right = (wide)a * b;
    bool ok = nm_mul(a, b, &out);
    CHECK(ok == (right <= SIZE_MAX), "nm_mul: false just where the product does not fit");
    CHECK(out == (ok ? (size_t)right : 7), "nm_mul: the product, or untouched");
    GOAL(ok && a > 1 && b > 1);
    GOAL(!ok);
}

static void product(void) {
    static const size_t some[] = {0, 1, 2, 3, 8, 16, 24, 32, 48, 80, 4096, 65536, SIZE_MAX};
    for (unsigned i = 0; i < sizeof some / sizeof *some; i++) {
        product_is_right(nondet_size(), some[i]);
        product_is_right(some[i], nondet_size());
    }
}

static void sum(void) {
    size_t a = nondet_size(), b = nondet_size(), align = nondet_size(), most = nondet_size(), out = 7;
    bool ok = nm_add(a, b, &out);
    CHECK(ok == ((wide)a + b <= SIZE_MAX), "nm_add: false just where the sum does not fit");
    CHECK(out == (ok ? a + b : 7), "nm_add: the sum, or untouched");
    GOAL(ok);
    GOAL(!ok);

    CHECK(nm_layout_ok(a, align, most) == (a <= PTRDIFF_MAX && align <= most && __builtin_popcountll(align) == 1),
          "nm_layout_ok: a size, a power of two, not above the most");
    GOAL(nm_layout_ok(a, align, most));

    out = 7;
    ok = nm_next_power_of_two(a, &out);
    CHECK(ok == (a <= (size_t)1 << 63), "nm_next_power_of_two: false just where there is none");
    CHECK(ok ? nm_is_power_of_two(out) && out >= a && (out == 1 || out / 2 < a) : out == 7,
          "nm_next_power_of_two: the least that is enough, or untouched");
    GOAL(ok && out != a);

    unsigned shift = nondet_unsigned();
    ASSUME(shift < 64);
    align = (size_t)1 << shift;
    wide up = ((wide)a + align - 1) >> shift << shift;
    size_t down = a >> shift << shift;
    out = 7;
    ok = nm_align_up(a, align, &out);
    CHECK(ok == (up <= SIZE_MAX), "nm_align_up: false just where the multiple does not fit");
    CHECK(out == (ok ? (size_t)up : 7), "nm_align_up: the next multiple, or untouched");
    GOAL(ok && out != a);
    GOAL(!ok);
    CHECK(nm_is_aligned(a, align) == (a == down), "nm_is_aligned: no remainder");
    CHECK(nm_align_down(a, align) == down, "nm_align_down: without the remainder");
    CHECK((wide)a + nm_padding_needed(a, align) == up, "nm_padding_needed: what is left to the next multiple");
}

int main(void) {
    PART();
    return 0;
}
