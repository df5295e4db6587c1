#include "wrap/sites.h"

#include "tuning.h"

/* Linear probing; what comes after a gap that a block leaves moves up (Knuth, The Art of Computer Programming,
 * volume 3, 6.4, algorithm R), so no entry is ever marked as used before. */

/* The upper bits of the product depend on all bits of the address (Fibonacci hashing, ibid.). */
NM_INLINE size_t site_home(const nm__sites *s, const void *ptr) {
    return (size_t)(((uint64_t)(uintptr_t)ptr * UINT64_C(0x9E3779B97F4A7C15)) >> 32) & (s->cap - 1);
}
NM_INLINE size_t site_after(const nm__sites *s, size_t i) { return (i + 1) & (s->cap - 1); }

static void sites_place(nm__sites *s, nm__site added) {
    size_t i = site_home(s, added.ptr);
    while (s->entries[i].ptr != NULL) i = site_after(s, i);
    s->entries[i] = added;
}

static NM_COLD bool sites_grow(nm__sites *s) {
    nm__sites larger = {NULL, s->cap == 0 ? NM_SITES_FIRST : s->cap * 2, s->count, s->promised};
    size_t bytes;
    if (!nm_mul(larger.cap, sizeof(nm__site), &bytes)) return false;
    larger.entries = nm__meta_alloc(bytes);
    if (larger.entries == NULL) return false;
    for (size_t i = 0; i < s->cap; i++)
        if (s->entries[i].ptr != NULL) sites_place(&larger, s->entries[i]);
    nm__meta_free(s->entries);
    *s = larger;
    return true;
}

bool nm__sites_promise(nm__sites *s) {
    if (NM_UNLIKELY(s->count + s->promised >= s->cap / 2) && !sites_grow(s)) return false;
    s->promised++;
    return true;
}

void nm__sites_forget_promise(nm__sites *s) { s->promised--; }

nm__site *nm__sites_find(const nm__sites *s, const void *ptr) {
    if (s->count == 0) return NULL;
    size_t i = site_home(s, ptr);
    while (s->entries[i].ptr != NULL && s->entries[i].ptr != ptr) i = site_after(s, i);
    return s->entries[i].ptr == NULL ? NULL : &s->entries[i];
}

void nm__sites_add(nm__sites *s, nm__site added) {
    nm__site *before = nm__sites_find(s, added.ptr);
    NM_ASSERT(s->promised != 0);
    s->promised--;
    if (before != NULL) {
        *before = added;
        return;
    }
    sites_place(s, added);
    s->count++;
}

nm__site nm__sites_take(nm__sites *s, nm__site *found) {
    nm__site taken = *found;
    size_t gap = (size_t)(found - s->entries);
    for (size_t i = site_after(s, gap); s->entries[i].ptr != NULL; i = site_after(s, i)) {
        size_t from_home = (i - site_home(s, s->entries[i].ptr)) & (s->cap - 1), from_gap = (i - gap) & (s->cap - 1);
        if (from_home < from_gap) continue;
        s->entries[gap] = s->entries[i];
        gap = i;
    }
    s->entries[gap] = (nm__site){NULL, 0, 0};
    s->count--;
    s->promised++;
    return taken;
}

void nm__sites_destroy(nm__sites *s) { nm__meta_free(s->entries); }

const char *nm__sites_check(const nm__sites *s) {
    size_t count = 0;
    for (size_t i = 0; i < s->cap; i++) {
        if (s->entries[i].ptr == NULL) continue;
        count++;
        if (nm__sites_find(s, s->entries[i].ptr) != &s->entries[i]) return "a block's site is not where it is looked for";
    }
    if (count != s->count) return "the number of sites is wrong";
    return count + s->promised > s->cap / 2 && s->cap != 0 ? "too many sites" : NULL;
}
