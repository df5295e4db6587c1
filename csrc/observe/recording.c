#define _GNU_SOURCE /* MAP_NORESERVE, O_CLOEXEC */
#include "observe/recording.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

/* Shares of the bound, in 64ths. */
static const unsigned shares[NM__SECTIONS] = {
    [NM__STRINGS] = 15, [NM__NODES] = 18,   [NM__SITES] = 18, [NM__OWNERS] = 2, [NM__TIMES] = 4,
    [NM__TIMES_2] = 4,  [NM__REFUSALS] = 1, [NM__SIZES] = 1,  [NM__ABOUT] = 1,
};
static const unsigned items[NM__SECTIONS] = {
    [NM__STRINGS] = 1,
    [NM__NODES] = sizeof(nm__node),
    [NM__SITES] = sizeof(nm__site_sums),
    [NM__OWNERS] = sizeof(nm__owner_sums),
    [NM__TIMES] = sizeof(nm__moment),
    [NM__TIMES_2] = sizeof(nm__moment),
    [NM__REFUSALS] = sizeof(nm__refused),
    [NM__SIZES] = sizeof(nm__size_sums),
    [NM__ABOUT] = sizeof(nm__about),
};

#define HEAD_ROOM ((size_t)4096)
_Static_assert(sizeof(nm__recording_head) <= HEAD_ROOM, "the head has a page");
_Static_assert(NM__SIZE_CLASSES * sizeof(nm__size_sums) <= (NM__RECORDING_LEAST - HEAD_ROOM) / 64 / 64 * 64,
               "the sizes have their section, however small the bound");

/* Blocks on disk are reserved in such steps: where the disk is full, a store to one that is not reserved ends the process. */
#define STEP ((size_t)64 << 10)

/* A moment each 10 ms at first. */
#define FIRST_TICK UINT64_C(10000000)

/* What is looked up by content: numbers of items, by open addressing (Knuth, The Art of Computer Programming, volume 3, 6.4,
 * algorithm L). Invariant: cap == 0 or a power of two; count <= cap / 2. */
typedef struct finder {
    uint32_t *slots; /* 0: none */
    size_t cap, count;
} finder;

/* How an owner is known; its item does not say it. */
typedef struct owner_key {
    const void *key;
    uint64_t number, last_ns, last_used, last_limit;
} owner_key;

struct nm__recording {
    nm__recording_head *head;
    char *base;
    finder strings, nodes, sites, owners;
    owner_key *owner_keys;
    size_t owner_cap;
    int64_t began; /* monotonic */
    int file;      /* -1: none. The program may close it, so it is looked at before it is used. */
    char *made;    /* NULL, or the file's name until it has its own */
    unsigned refused, unasked; /* how often the disk was full in a row, up to MOST_REFUSED; requests that do not ask it again */
    uint64_t device, inode;
    uint64_t reserved[NM__SECTIONS]; /* bytes on disk */
    uint64_t last_tick;
};

/* ---- sections --------------------------------------------------------------------------------------- */

static void *recording_item(const nm__recording *r, nm__section s, size_t i) {
    return r->base + r->head->section[s].offset + i * r->head->section[s].item;
}
static nm__node *recording_node_at(const nm__recording *r, size_t i) { return recording_item(r, NM__NODES, i); }
static nm__site_sums *recording_site_at(const nm__recording *r, size_t i) { return recording_item(r, NM__SITES, i); }
static nm__owner_sums *recording_owner_at(const nm__recording *r, size_t i) { return recording_item(r, NM__OWNERS, i); }
static nm__size_sums *recording_size_at(const nm__recording *r, size_t i) { return recording_item(r, NM__SIZES, i); }

static size_t recording_count(const nm__recording *r, nm__section s) {
    return (size_t)atomic_load_explicit(&r->head->section[s].count, memory_order_relaxed);
}
/* Which file a descriptor is of. In glibc fstat is a symbol of 2.33, and wheels are for older ones, too. */
static bool recording_look(int file, uint64_t *device, uint64_t *inode) {
#ifdef __GLIBC__
    struct statx now;
    if (statx(file, "", AT_EMPTY_PATH, STATX_INO, &now) != 0) return false;
    *device = (uint64_t)now.stx_dev_major << 32 | now.stx_dev_minor;
    *inode = now.stx_ino;
#else
    struct stat now;
    if (fstat(file, &now) != 0) return false;
    *device = (uint64_t)now.st_dev;
    *inode = (uint64_t)now.st_ino;
#endif
    return true;
}

static bool recording_is_open(const nm__recording *r) {
    uint64_t device, inode;
    return r->file >= 0 && recording_look(r->file, &device, &inode) && device == r->device && inode == r->inode;
}

/* A disk that is full may take a millisecond to say so, and may have room again later: it is asked less and less often, at
 * the least each 1024th time. */
#define MOST_REFUSED 10

/* false: the disk is full, or the program has closed the file. */
static NM_COLD bool recording_reserve(nm__recording *r, uint64_t offset, uint64_t bytes) {
    if (r->unasked != 0) {
        r->unasked--;
        return false;
    }
    if (!recording_is_open(r)) return false;
    errno = posix_fallocate(r->file, (off_t)offset, (off_t)bytes);
    if (errno == 0) r->refused = 0;
    else if (r->refused < MOST_REFUSED) r->refused++;
    r->unasked = (1U << r->refused) - 1;
    return r->refused == 0;
}

static bool recording_has_room(nm__recording *r, nm__section s, size_t more) {
    size_t count = recording_count(r, s);
    if (r->head->section[s].room - count < more) return false;
    uint64_t end = (count + more) * r->head->section[s].item, all = r->head->section[s].room * r->head->section[s].item;
    while (r->file >= 0 && end > r->reserved[s]) {
        uint64_t step = all - r->reserved[s] < STEP ? all - r->reserved[s] : STEP;
        if (!recording_reserve(r, r->head->section[s].offset + r->reserved[s], step)) return false;
        r->reserved[s] += step;
    }
    return true;
}
/* Orders: the items are whole where a reader, of this process or another, sees the count. */
static void recording_publish(nm__recording *r, nm__section s, size_t count) {
    atomic_store_explicit(&r->head->section[s].count, count, memory_order_release);
}

/* ---- what is looked up ------------------------------------------------------------------------------ */

static uint64_t recording_mix(uint64_t hash, uint64_t word) {
    hash = (hash ^ word) * UINT64_C(0x9E3779B97F4A7C15);
    return hash ^ (hash >> 32);
}
static uint64_t recording_hash_bytes(const char *bytes, size_t size) {
    uint64_t hash = size;
    for (size_t i = 0; i < size; i++) hash = recording_mix(hash, (unsigned char)bytes[i]);
    return hash;
}
static uint64_t recording_hash_node(const nm__node *n) {
    return recording_mix(recording_mix(n->parent, (uint64_t)n->file << 32 | n->function), n->line);
}
static uint64_t recording_hash_site(const nm__site_sums *s) {
    return recording_mix(recording_mix(s->node, s->owner), s->source);
}
static uint64_t recording_hash_owner(owner_key k) { return recording_mix((uintptr_t)k.key, k.number); }

static const char *recording_text(const nm__recording *r, uint32_t offset, uint32_t *size) {
    const char *at = recording_item(r, NM__STRINGS, offset);
    memcpy(size, at, sizeof *size);
    return at + sizeof *size;
}

static uint64_t recording_hash_of(const nm__recording *r, const finder *f, uint32_t i) {
    if (f == &r->strings) {
        uint32_t size;
        const char *bytes = recording_text(r, i, &size);
        return recording_hash_bytes(bytes, size);
    }
    if (f == &r->nodes) return recording_hash_node(recording_node_at(r, i));
    return f == &r->sites ? recording_hash_site(recording_site_at(r, i)) : recording_hash_owner(r->owner_keys[i]);
}

static void finder_put(finder *f, uint64_t hash, uint32_t i) {
    size_t at = (size_t)hash & (f->cap - 1);
    while (f->slots[at] != 0) at = (at + 1) & (f->cap - 1);
    f->slots[at] = i;
    f->count++;
}

/* Makes room for one more. false: out of memory. */
static bool finder_reserve(const nm__recording *r, finder *f) {
    if (NM_LIKELY(f->count < f->cap / 2)) return true;
    finder larger = {NULL, f->cap == 0 ? 256 : f->cap * 2, 0};
    larger.slots = nm__meta_alloc(larger.cap * sizeof *larger.slots);
    if (larger.slots == NULL) return false;
    for (size_t at = 0; at < f->cap; at++)
        if (f->slots[at] != 0) finder_put(&larger, recording_hash_of(r, f, f->slots[at]), f->slots[at]);
    nm__meta_free(f->slots);
    *f = larger;
    return true;
}

/* The private keys beside the owners. */
static bool keys_reserve(owner_key **keys, size_t *cap, size_t count) {
    if (NM_LIKELY(count < *cap)) return true;
    size_t larger = *cap == 0 ? 256 : *cap * 2;
    owner_key *moved = nm__meta_alloc(larger * sizeof *moved);
    if (moved == NULL) return false;
    if (*keys != NULL) memcpy(moved, *keys, *cap * sizeof *moved);
    nm__meta_free(*keys);
    *keys = moved;
    *cap = larger;
    return true;
}

/* ---- beginning and end ------------------------------------------------------------------------------ */

static size_t recording_lay_out(nm__recording_head *head, size_t bound) {
    size_t at = HEAD_ROOM;
    for (int s = 0; s < NM__SECTIONS; s++) {
        size_t bytes = (bound - HEAD_ROOM) / 64 * shares[s] / 64 * 64;
        head->section[s].offset = at;
        head->section[s].item = items[s];
        head->section[s].room = bytes / items[s];
        at += bytes;
    }
    return at;
}

/* Beside `path`, whose name it takes once it is a recording: where there is no room for one, what was there stays. */
static bool recording_open(nm__recording *r, const char *path, size_t size) {
    static const char own[] = ".nativemem-XXXXXX";
    const char *last = strrchr(path, '/');
    size_t folder = last == NULL ? 0 : (size_t)(last - path) + 1;
    r->made = nm__meta_alloc(folder + sizeof own);
    if (r->made == NULL) return false;
    memcpy(r->made, path, folder);
    memcpy(r->made + folder, own, sizeof own);
    r->file = mkostemp(r->made, O_CLOEXEC);
    if (r->file < 0 || !recording_look(r->file, &r->device, &r->inode)) return false;
    return ftruncate(r->file, (off_t)size) == 0 && recording_reserve(r, 0, HEAD_ROOM);
}

static bool recording_map(nm__recording *r, const char *path, size_t size) {
    int flags = path == NULL ? MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE : MAP_SHARED;
    if (path != NULL && !recording_open(r, path, size)) return false;
    void *mapped = mmap(NULL, size, PROT_READ | PROT_WRITE, flags, r->file, 0);
    if (mapped != MAP_FAILED) r->base = mapped;
    return mapped != MAP_FAILED;
}

/* Up to 8 bytes each size has a class, then a doubling has four, whose largest are at its quarters. */
static size_t recording_class(size_t bytes) {
    size_t n = bytes == 0 ? 0 : bytes - 1;
    if (n < 8) return n;
    unsigned e = 63u - (unsigned)__builtin_clzll(n);
    size_t class = 8 + (e - 3) * 4 + ((n >> (e - 2)) & 3);
    return class < NM__SIZE_CLASSES ? class : NM__SIZE_CLASSES - 1;
}
static uint64_t recording_largest(size_t class) {
    return class < 8 ? class + 1 : (uint64_t)(5 + (class - 8) % 4) << ((class - 8) / 4 + 1);
}

static bool recording_begin(nm__recording *r, const nm__recording_head *head) {
    r->head = (nm__recording_head *)(void *)r->base;
    memcpy(r->base, head, sizeof *head);
    r->began = nm__os_monotonic_ns();
    bool ready = keys_reserve(&r->owner_keys, &r->owner_cap, 1);
    for (int s = NM__STRINGS; s <= NM__OWNERS; s++) { /* item 0; of strings an empty one */
        size_t first = s == NM__STRINGS ? sizeof(uint32_t) : 1;
        ready = ready && recording_has_room(r, (nm__section)s, first);
        if (ready) recording_publish(r, (nm__section)s, first);
    }
    if (!ready || !recording_has_room(r, NM__SIZES, NM__SIZE_CLASSES)) return false;
    recording_owner_at(r, 0)->limit = UINT64_MAX;
    for (size_t i = 0; i < NM__SIZE_CLASSES; i++) recording_size_at(r, i)->most = recording_largest(i);
    recording_publish(r, NM__SIZES, NM__SIZE_CLASSES);
    /* last: a file that does not begin so is none */
    memcpy(r->head->magic, NM__RECORDING_MAGIC, sizeof r->head->magic);
    return true;
}

/* A reader that has an earlier file open keeps it. */
static bool recording_take_name(nm__recording *r, const char *path) {
    if (path != NULL && rename(r->made, path) != 0) return false;
    nm__meta_free(r->made);
    r->made = NULL;
    return true;
}

nm__recording *nm__recording_create(const char *path, size_t bound, size_t rate) {
    nm__recording *r = nm__meta_alloc(sizeof *r);
    if (r == NULL) return NULL;
    nm__recording_head head = {.version = NM__RECORDING_VERSION,
                               .sections = NM__SECTIONS,
                               .began = (uint64_t)nm__os_time_ns(),
                               .pid = (uint64_t)getpid(),
                               .rate = rate,
                               .tick = FIRST_TICK,
                               .times = NM__TIMES};
    head.size = recording_lay_out(&head, bound);
    r->file = -1;
    if (recording_map(r, path, head.size) && recording_begin(r, &head) && recording_take_name(r, path)) return r;
    int why = errno;
    if (r->file >= 0) {
        (void)unlink(r->made);
        (void)close(r->file); /* ours still: no other code has run */
        r->file = -1;
    }
    nm__recording_destroy(r, false);
    errno = why;
    return NULL;
}

static uint64_t recording_now(const nm__recording *r) { return (uint64_t)(nm__os_monotonic_ns() - r->began); }

void nm__recording_destroy(nm__recording *r, bool finish) {
    if (r == NULL) return;
    if (finish) r->head->ended = recording_now(r);
    if (r->head != NULL) (void)munmap(r->base, r->head->size);
    if (recording_is_open(r)) (void)close(r->file);
    nm__meta_free(r->made);
    nm__meta_free(r->strings.slots);
    nm__meta_free(r->nodes.slots);
    nm__meta_free(r->sites.slots);
    nm__meta_free(r->owners.slots);
    nm__meta_free(r->owner_keys);
    nm__meta_free(r);
}

const nm__recording_head *nm__recording_view(const nm__recording *r) { return r->head; }

void nm__recording_tell(nm__recording *r, uint32_t name, uint32_t text) {
    size_t i = recording_count(r, NM__ABOUT);
    if (!recording_has_room(r, NM__ABOUT, 1)) {
        r->head->dropped++;
        return;
    }
    *(nm__about *)recording_item(r, NM__ABOUT, i) = (nm__about){name, text};
    recording_publish(r, NM__ABOUT, i + 1);
}

/* ---- names and call paths --------------------------------------------------------------------------- */

static uint32_t recording_drop(nm__recording *r) {
    r->head->dropped++;
    return 0;
}

/* A string is cut where it would be longer. */
#define LONGEST ((size_t)4096)

bool nm__recording_is(const nm__recording *r, uint32_t string, const char *bytes, size_t size) {
    uint32_t had;
    const char *text = recording_text(r, string, &had);
    return had == (size > LONGEST ? LONGEST : size) && memcmp(text, bytes, had) == 0;
}

uint32_t nm__recording_string(nm__recording *r, const char *bytes, size_t size) {
    if (size > LONGEST) size = LONGEST;
    uint64_t hash = recording_hash_bytes(bytes, size);
    for (size_t at = (size_t)hash & (r->strings.cap - 1); r->strings.cap != 0; at = (at + 1) & (r->strings.cap - 1)) {
        uint32_t i = r->strings.slots[at];
        if (i == 0) break;
        if (nm__recording_is(r, i, bytes, size)) return i;
    }
    size_t begin = recording_count(r, NM__STRINGS), needed = (sizeof(uint32_t) + size + 3) & ~(size_t)3;
    if (!recording_has_room(r, NM__STRINGS, needed) || !finder_reserve(r, &r->strings)) return recording_drop(r);
    char *at = recording_item(r, NM__STRINGS, begin);
    uint32_t length = (uint32_t)size;
    memcpy(at, &length, sizeof length);
    memcpy(at + sizeof length, bytes, size);
    recording_publish(r, NM__STRINGS, begin + needed);
    finder_put(&r->strings, hash, (uint32_t)begin);
    return (uint32_t)begin;
}

uint32_t nm__recording_node(nm__recording *r, uint32_t parent, uint32_t file, uint32_t function, int line) {
    nm__node sought = {parent, file, function, line < 0 ? 0 : (uint32_t)line};
    uint64_t hash = recording_hash_node(&sought);
    for (size_t at = (size_t)hash & (r->nodes.cap - 1); r->nodes.cap != 0; at = (at + 1) & (r->nodes.cap - 1)) {
        uint32_t i = r->nodes.slots[at];
        if (i == 0) break;
        const nm__node *had = recording_node_at(r, i);
        if (had->parent == parent && had->file == file && had->function == function && had->line == sought.line) return i;
    }
    size_t i = recording_count(r, NM__NODES);
    if (!recording_has_room(r, NM__NODES, 1) || !finder_reserve(r, &r->nodes)) return recording_drop(r);
    *recording_node_at(r, i) = sought;
    recording_publish(r, NM__NODES, i + 1);
    finder_put(&r->nodes, hash, (uint32_t)i);
    return (uint32_t)i;
}

uint32_t nm__recording_site(nm__recording *r, uint32_t node, uint32_t owner, nm__origin origin) {
    nm__site_sums sought = {.node = node, .owner = owner, .source = (uint32_t)origin};
    uint64_t hash = recording_hash_site(&sought);
    for (size_t at = (size_t)hash & (r->sites.cap - 1); r->sites.cap != 0; at = (at + 1) & (r->sites.cap - 1)) {
        uint32_t i = r->sites.slots[at];
        if (i == 0) break;
        const nm__site_sums *had = recording_site_at(r, i);
        if (had->node == node && had->owner == owner && had->source == (uint32_t)origin) return i;
    }
    size_t i = recording_count(r, NM__SITES);
    if (!recording_has_room(r, NM__SITES, 1) || !finder_reserve(r, &r->sites)) return recording_drop(r);
    *recording_site_at(r, i) = sought;
    recording_publish(r, NM__SITES, i + 1);
    finder_put(&r->sites, hash, (uint32_t)i);
    return (uint32_t)i;
}

/* ---- sums ------------------------------------------------------------------------------------------- */

/* 1 - exp(-x): the chance that a block is sampled whose size is x times the rate. The series of exp(-y) at y = x / 2^k below
 * 1/16, of which five terms are within 1e-8, squared k times. */
static double recording_chance(double x) {
    if (x > 40) return 1;
    int k = 0;
    double y = x;
    while (y > 0.0625) {
        y /= 2;
        k++;
    }
    double less = y * (1 - y / 2 * (1 - y / 3 * (1 - y / 4 * (1 - y / 5)))); /* 1 - exp(-y): small, and exact */
    for (; k > 0; k--) less = less * (2 - less);
    return less;
}

/* How many blocks of its size a sampled one stands for, in bytes and in parts of NM__WHOLE. */
static void recording_weigh(const nm__recording *r, size_t bytes, uint64_t *weight, uint64_t *number) {
    *weight = bytes, *number = NM__WHOLE;
    if (r->head->rate <= 1 || bytes == 0) return;
    double chance = recording_chance((double)bytes / (double)r->head->rate);
    *weight = (uint64_t)((double)bytes / chance + 0.5);
    *number = (uint64_t)(NM__WHOLE / chance + 0.5);
}

/* A site's share of the peak is kept when its sums change first after it, and not at the peak itself, which comes often. */
static nm__site_sums *recording_touch(nm__recording *r, uint32_t site) {
    nm__site_sums *s = recording_site_at(r, site);
    if (s->peak_mark != r->head->peak_mark) {
        s->peak_bytes = s->live_bytes;
        s->peak_count = s->live_count;
        s->peak_mark = r->head->peak_mark;
    }
    return s;
}

void nm__recording_add(nm__recording *r, uint32_t site, size_t bytes) {
    uint64_t weight, number;
    recording_weigh(r, bytes, &weight, &number);
    nm__site_sums *s = recording_touch(r, site);
    s->live_bytes += weight;
    s->live_count += number;
    s->total_bytes += weight;
    s->total_count += number;
    nm__size_sums *size = recording_size_at(r, recording_class(bytes));
    size->live_bytes += weight;
    size->live_count += number;
    size->total_bytes += weight;
    size->total_count += number;
    nm__recording_head *head = r->head;
    head->samples++;
    head->live_bytes += weight;
    if (head->live_bytes <= head->peak_bytes) return;
    head->peak_bytes = head->live_bytes;
    head->peak_ns = recording_now(r);
    head->peak_mark++; /* from here on live sums are the peak's, until they change */
}

void nm__recording_remove(nm__recording *r, uint32_t site, size_t bytes) {
    uint64_t weight, number;
    recording_weigh(r, bytes, &weight, &number);
    nm__site_sums *s = recording_touch(r, site);
    s->live_bytes -= weight;
    s->live_count -= number;
    nm__size_sums *size = recording_size_at(r, recording_class(bytes));
    size->live_bytes -= weight;
    size->live_count -= number;
    r->head->live_bytes -= weight;
}

/* ---- owners and time -------------------------------------------------------------------------------- */

uint32_t nm__recording_owner(nm__recording *r, const void *key, uint64_t number, bool *made) {
    owner_key sought = {.key = key, .number = number, .last_used = UINT64_MAX};
    uint64_t hash = recording_hash_owner(sought);
    *made = false;
    for (size_t at = (size_t)hash & (r->owners.cap - 1); r->owners.cap != 0; at = (at + 1) & (r->owners.cap - 1)) {
        uint32_t i = r->owners.slots[at];
        if (i == 0) break;
        if (r->owner_keys[i].key == key && r->owner_keys[i].number == number) return i;
    }
    size_t i = recording_count(r, NM__OWNERS);
    if (!recording_has_room(r, NM__OWNERS, 1) || !finder_reserve(r, &r->owners) ||
        !keys_reserve(&r->owner_keys, &r->owner_cap, i))
        return recording_drop(r);
    *recording_owner_at(r, i) = (nm__owner_sums){.limit = UINT64_MAX};
    r->owner_keys[i] = sought;
    recording_publish(r, NM__OWNERS, i + 1);
    finder_put(&r->owners, hash, (uint32_t)i);
    *made = true;
    return (uint32_t)i;
}

void nm__recording_name(nm__recording *r, uint32_t owner, uint32_t name, uint32_t parent) {
    nm__owner_sums *o = recording_owner_at(r, owner);
    o->name = name;
    o->parent = parent;
}

bool nm__recording_is_due(nm__recording *r) {
    uint64_t now = recording_now(r);
    if (now - r->last_tick < r->head->tick) return false;
    r->last_tick = now;
    return true;
}

/* Half as many moments for the same time: of each owner the first in each of the doubled ticks. They are written to the
 * other section, so that a reader has a whole one at any time. */
static void recording_thin_out(nm__recording *r) {
    nm__recording_head *head = r->head;
    nm__section from = head->times, to = from == NM__TIMES ? NM__TIMES_2 : NM__TIMES;
    size_t count = recording_count(r, from), kept = 0;
    head->tick *= 2;
    recording_publish(r, to, 0);
    for (size_t i = 0; i < r->owner_cap; i++) r->owner_keys[i].last_ns = UINT64_MAX;
    for (size_t i = 0; i < count; i++) {
        const nm__moment *m = recording_item(r, from, i);
        owner_key *k = &r->owner_keys[m->owner];
        if (k->last_ns != UINT64_MAX && m->ns / head->tick == k->last_ns / head->tick) continue;
        k->last_ns = m->ns;
        recording_publish(r, to, kept);
        if (!recording_has_room(r, to, 1)) break;
        *(nm__moment *)recording_item(r, to, kept++) = *m;
    }
    /* Where each owner has one moment only there is nothing to leave out: the older half goes. */
    if (kept > count / 4 * 3) {
        size_t half = kept / 2;
        memmove(recording_item(r, to, 0), recording_item(r, to, half), (kept - half) * sizeof(nm__moment));
        kept -= half;
        head->dropped += half;
    }
    recording_publish(r, to, kept);
    atomic_store_explicit(&head->times, (uint32_t)to, memory_order_release);
}

void nm__recording_moment(nm__recording *r, uint32_t owner, size_t used, size_t peak, size_t limit, uint64_t denials) {
    nm__owner_sums *o = recording_owner_at(r, owner);
    o->used = used, o->peak = peak, o->limit = limit == SIZE_MAX ? UINT64_MAX : limit, o->denials = denials;
    owner_key *k = &r->owner_keys[owner];
    if (k->last_used == used && k->last_limit == o->limit) return;
    if (!recording_has_room(r, r->head->times, 1)) recording_thin_out(r);
    if (!recording_has_room(r, r->head->times, 1)) { /* the disk is full */
        (void)recording_drop(r);
        return;
    }
    k->last_used = used, k->last_limit = o->limit;
    nm__section s = r->head->times;
    size_t i = recording_count(r, s);
    *(nm__moment *)recording_item(r, s,
                                  i) = (nm__moment){.ns = recording_now(r), .owner = owner, .used = used, .limit = o->limit};
    recording_publish(r, s, i + 1);
}

void nm__recording_refusal(nm__recording *r, uint32_t owner, uint32_t node, size_t requested, size_t used, size_t limit) {
    if (!recording_has_room(r, NM__REFUSALS, 1)) {
        (void)recording_drop(r);
        return;
    }
    size_t i = recording_count(r, NM__REFUSALS);
    *(nm__refused *)recording_item(r, NM__REFUSALS, i) = (nm__refused){recording_now(r), requested, used, limit, owner, node};
    recording_publish(r, NM__REFUSALS, i + 1);
}

const char *nm__recording_check(const nm__recording *r) {
    const nm__recording_head *head = r->head;
    uint64_t live = 0, at_peak = 0, by_size = 0;
    for (int s = 0; s < NM__SECTIONS; s++)
        if (recording_count(r, (nm__section)s) > head->section[s].room) return "a section holds more than it has room for";
    for (size_t i = 1; i < recording_count(r, NM__NODES); i++)
        if (recording_node_at(r, i)->parent >= i) return "a node's parent does not come before it";
    for (size_t i = 0; i < recording_count(r, NM__SITES); i++) {
        const nm__site_sums *s = recording_site_at(r, i);
        if (s->node >= recording_count(r, NM__NODES) || s->owner >= recording_count(r, NM__OWNERS))
            return "a site is of a node or owner that is not there";
        live += s->live_bytes;
        at_peak += s->peak_mark == head->peak_mark ? s->peak_bytes : s->live_bytes;
    }
    for (size_t i = 0; i < NM__SIZE_CLASSES; i++) by_size += recording_size_at(r, i)->live_bytes;
    if (by_size != head->live_bytes) return "the live bytes of the sizes do not add up";
    if (live != head->live_bytes) return "the live bytes of the sites do not add up";
    if (at_peak != head->peak_bytes) return "the sites' bytes at the peak do not add up";
    for (size_t i = 0; i < recording_count(r, NM__OWNERS); i++)
        if (recording_owner_at(r, i)->parent > i) return "an owner's parent does not come before it";
    return NULL;
}
