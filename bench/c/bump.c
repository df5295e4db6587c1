#include "bump.h"

static void *bump_alloc(void *self, size_t size, size_t align) { return bump_take(self, size, align); }
static bool bump_resize(void *self, void *ptr, size_t old, size_t size, size_t align) {
    (void)self, (void)ptr, (void)old, (void)size, (void)align;
    return false;
}
static nm_status bump_free(void *self, void *ptr, size_t size, size_t align) {
    (void)self, (void)ptr, (void)size, (void)align;
    return NM_OK;
}
static void bump_stats(void *self, nm_stats *out) { (void)self, *out = (nm_stats){0}; }

static const nm_methods bump_methods = {bump_alloc, bump_resize, bump_free, bump_stats};

nm_allocator bump_port(bump *b) { return (nm_allocator){b, &bump_methods}; }
