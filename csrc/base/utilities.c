#include "nativemem/utilities.h"

#include <string.h>

#include "base/base.h"

/* libc's are written with the machine's widest vectors; the compiler takes them for its own. */
void nm_copy(void *to, const void *from, size_t size) {
    if (size != 0) memmove(to, from, size);
}

void nm_fill(void *ptr, unsigned char byte, size_t size) {
    if (size != 0) memset(ptr, byte, size);
}

int nm_compare(const void *a, const void *b, size_t size) {
    int difference = size == 0 ? 0 : memcmp(a, b, size);
    return (difference > 0) - (difference < 0);
}

void nm_secure_zero(void *ptr, size_t size) {
    if (size != 0) nm__wipe(ptr, size);
}

typedef uint64_t vector __attribute__((vector_size(32), aligned(1), may_alias));
#define STRETCH 256

/* Every byte is looked at, whatever came before: behind each stretch the compiler is kept from seeing what has been
 * found so far, so it cannot stop early. */
bool nm_equal_constant_time(const void *a, const void *b, size_t size) {
    const unsigned char *x = a, *y = b;
    uint64_t found = 0;
    for (; size >= STRETCH; size -= STRETCH, x += STRETCH, y += STRETCH) {
        vector wide = {0, 0, 0, 0};
        for (size_t i = 0; i < STRETCH; i += sizeof wide)
            wide |= *(const vector *)(const void *)(x + i) ^ *(const vector *)(const void *)(y + i);
        found |= wide[0] | wide[1] | wide[2] | wide[3];
        __asm__ volatile("" : "+r"(found));
    }
    for (size_t i = 0; i < size; i++) {
        found |= (uint64_t)(x[i] ^ y[i]);
        __asm__ volatile("" : "+r"(found));
    }
    return found == 0;
}
