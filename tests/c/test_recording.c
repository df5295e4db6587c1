/* Recordings: sums by site, the sites' shares of the peak, time that is thinned out, and what is left of a process that was
 * killed. */
#define _GNU_SOURCE /* MAP_SHARED */
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "locks.h"
#include "harness.h"
#include "observe/recording.h"

#define BOUND ((size_t)4 << 20)
static char folder[64], path[80];

static const void *item(const nm__recording_head *head, nm__section s, size_t i) {
    return (const char *)head + head->section[s].offset + i * head->section[s].item;
}
static const nm__site_sums *site_at(const nm__recording *r, uint32_t i) { return item(nm__recording_view(r), NM__SITES, i); }
static size_t count_of(const nm__recording *r, nm__section s) { return nm__recording_view(r)->section[s].count; }
static uint32_t string(nm__recording *r, const char *text) { return nm__recording_string(r, text, strlen(text)); }

static void test_names_and_paths_are_kept_once(void) {
    nm__recording *r = nm__recording_create(NULL, BOUND, 1);
    uint32_t a = string(r, "a.py"), b = string(r, "b.py");
    CHECK(a != 0 && b != 0 && a != b && string(r, "a.py") == a && string(r, "") != a);
    CHECK(nm__recording_is(r, a, "a.py", 4) && !nm__recording_is(r, a, "b.py", 4) && !nm__recording_is(r, a, "a.pyc", 5));
    uint32_t outer = nm__recording_node(r, 0, a, b, 12), inner = nm__recording_node(r, outer, b, a, 4);
    CHECK(outer != 0 && inner != 0 && inner != outer);
    uint32_t others[] = {nm__recording_node(r, outer, b, a, 6), nm__recording_node(r, outer, a, a, 4),
                         nm__recording_node(r, outer, b, b, 4), nm__recording_node(r, 0, b, a, 4)};
    for (int i = 0; i < 4; i++) CHECK(others[i] > inner && (i == 0 || others[i] > others[i - 1]));
    CHECK(nm__recording_node(r, 0, a, b, 12) == outer && nm__recording_node(r, outer, b, a, 4) == inner);
    uint32_t first = nm__recording_node(r, inner, a, b, 0);
    for (int round = 0; round < 2; round++) /* many that differ in one thing meet in the table */
        for (uint32_t i = 0; i < 2000; i++) CHECK(nm__recording_node(r, inner, a, b, (int)i) == first + i);
    const nm__node *n = item(nm__recording_view(r), NM__NODES, outer);
    CHECK(n->parent == 0 && n->file == a && n->function == b && n->line == 12);
    uint32_t site = nm__recording_site(r, inner, 0, NM__OF_OBJECTS);
    CHECK(site != 0 && nm__recording_site(r, inner, 0, NM__OF_OBJECTS) == site);
    CHECK(nm__recording_site(r, inner, 0, NM__OF_ARRAYS) != site && nm__recording_site(r, outer, 0, NM__OF_OBJECTS) != site);
    char *text = malloc(100000); /* longer than a string may be: cut */
    memset(text, 'x', 100000);
    uint32_t cut = nm__recording_string(r, text, 100000);
    CHECK(cut != 0 && nm__recording_string(r, text, 99999) == cut && nm__recording_is(r, cut, text, 99999));
    free(text);
    SOUND(nm__recording_check(r));
    nm__recording_destroy(r, true);
}

/* Against a model that copies all sums at each peak. */
#define MOST_SITES 40
static void test_each_sites_share_of_the_peak(void) {
    nm__recording *r = nm__recording_create(NULL, BOUND, 1);
    uint32_t sites[MOST_SITES];
    uint64_t live[MOST_SITES] = {0}, peak[MOST_SITES] = {0}, sum = 0, most = 0, state = 7;
    static struct {
        int site;
        size_t bytes;
    } blocks[3000];
    size_t held = 0;
    for (int i = 0; i < MOST_SITES; i++) {
        sites[i] = nm__recording_site(r, nm__recording_node(r, 0, 0, 0, i), 0, NM__OF_OBJECTS);
    }
    for (int step = 0; step < 20000; step++) {
        if (held < 3000 && below(&state, 100) < (step / 2000 % 2 ? 40 : 60)) {
            int i = (int)below(&state, MOST_SITES);
            size_t bytes = below(&state, 1000) + 1;
            blocks[held].site = i;
            blocks[held++].bytes = bytes;
            nm__recording_add(r, sites[i], bytes);
            live[i] += bytes;
            sum += bytes;
            if (sum > most) {
                most = sum;
                memcpy(peak, live, sizeof peak);
            }
        } else if (held > 0) {
            size_t which = below(&state, held);
            nm__recording_remove(r, sites[blocks[which].site], blocks[which].bytes);
            live[blocks[which].site] -= blocks[which].bytes;
            sum -= blocks[which].bytes;
            blocks[which] = blocks[--held];
        }
        if (step % 1000 == 0) SOUND(nm__recording_check(r));
    }
    const nm__recording_head *head = nm__recording_view(r);
    CHECK(head->live_bytes == sum && head->peak_bytes == most);
    for (int i = 0; i < MOST_SITES; i++) {
        const nm__site_sums *s = site_at(r, sites[i]);
        CHECK(s->live_bytes == live[i]);
        CHECK((s->peak_mark == head->peak_mark ? s->peak_bytes : s->live_bytes) == peak[i]);
    }
    nm__recording_destroy(r, true);
}

static const nm__size_sums *class_of(const nm__recording *r, size_t bytes) {
    const nm__size_sums *s = item(nm__recording_view(r), NM__SIZES, 0);
    while (s->most < bytes) s++;
    return s;
}

static void test_blocks_by_size(void) {
    nm__recording *r = nm__recording_create(NULL, NM__RECORDING_LEAST, 1);
    const nm__size_sums *all = item(nm__recording_view(r), NM__SIZES, 0);
    CHECK(count_of(r, NM__SIZES) == NM__SIZE_CLASSES && all[NM__SIZE_CLASSES - 1].most == UINT64_C(1) << 63);
    for (int i = 1; i < NM__SIZE_CLASSES; i++) { /* within a quarter */
        uint64_t step = all[i].most - all[i - 1].most;
        CHECK(step == 1 || (step > 1 && step <= all[i - 1].most / 4));
    }
    static const size_t sizes[] = {0, 1, 8, 9, 10, 63, 64, 65, 80, 81, 1000, 4096, 4097, (size_t)1 << 40, (size_t)1 << 62};
    const size_t count = sizeof sizes / sizeof *sizes;
    for (size_t i = 0; i < count; i++)
        for (int round = 0; round < 2; round++) nm__recording_add(r, 0, sizes[i]);
    for (size_t i = 0; i < count; i++) {
        uint64_t live = class_of(r, sizes[i])->live_bytes;
        nm__recording_remove(r, 0, sizes[i]);
        const nm__size_sums *s = class_of(r, sizes[i]);
        CHECK(s->live_bytes == live - sizes[i] && s->live_count < s->total_count && s->total_bytes >= 2 * sizes[i]);
        SOUND(nm__recording_check(r));
    }
    CHECK(class_of(r, 64)->most == 64 && class_of(r, 65)->most == 80);
    nm__recording_destroy(r, true);
}

/* Of several blocks of a site: what is left of it after each that goes, here, by size and in all. */
static void test_what_is_left_of_a_site(void) {
    nm__recording *r = nm__recording_create(NULL, NM__RECORDING_LEAST, 1);
    uint32_t site = nm__recording_site(r, nm__recording_node(r, 0, 0, 0, 1), 0, NM__OF_OBJECTS);
    uint32_t other = nm__recording_site(r, nm__recording_node(r, 0, 0, 0, 2), 0, NM__OF_OBJECTS);
    for (int i = 0; i < 5; i++) nm__recording_add(r, site, 100);
    nm__recording_add(r, other, 100);
    for (uint64_t left = 5; left > 0; left--) {
        const nm__site_sums *s = site_at(r, site);
        uint64_t bytes = 0, blocks = 0;
        for (uint32_t i = 0; i < count_of(r, NM__SIZES); i++) {
            const nm__size_sums *size = item(nm__recording_view(r), NM__SIZES, i);
            bytes += size->live_bytes;
            blocks += size->live_count;
        }
        CHECK(s->live_count == left * NM__WHOLE && s->live_bytes == left * 100 && s->total_count == 5 * NM__WHOLE);
        CHECK(bytes == (left + 1) * 100 && blocks == (left + 1) * NM__WHOLE && nm__recording_view(r)->live_bytes == bytes);
        CHECK(site_at(r, other)->live_count == NM__WHOLE && site_at(r, other)->live_bytes == 100);
        nm__recording_remove(r, site, 100);
    }
    SOUND(nm__recording_check(r));
    nm__recording_destroy(r, true);
}

static void test_what_is_told_of_the_process(void) {
    nm__recording *r = nm__recording_create(NULL, NM__RECORDING_LEAST, 1);
    uint32_t name = string(r, "python"), text = string(r, "CPython 3.13");
    nm__recording_tell(r, name, text);
    const nm__about *a = item(nm__recording_view(r), NM__ABOUT, 0);
    CHECK(count_of(r, NM__ABOUT) == 1 && a->name == name && a->text == text);
    for (int i = 0; i < 10000; i++) nm__recording_tell(r, name, text);
    CHECK(count_of(r, NM__ABOUT) == nm__recording_view(r)->section[NM__ABOUT].room && nm__recording_view(r)->dropped > 0);
    nm__recording_destroy(r, true);
}

/* What is sampled is as much as there is, within what chance makes of it. */
static void test_samples_stand_for_the_rest(void) {
    const size_t rate = 4096;
    static const size_t sizes[] = {16, 300, 4096, 20000, 1 << 20};
    uint64_t state = 11;
    for (size_t k = 0; k < sizeof sizes / sizeof *sizes; k++) {
        nm__recording *r = nm__recording_create(NULL, BOUND, rate);
        uint32_t site = nm__recording_site(r, nm__recording_node(r, 0, 0, 0, 1), 0, NM__OF_OBJECTS);
        size_t n = 2000 * (sizes[k] < rate ? rate / sizes[k] : 1);
        /* each byte is sampled with the same small chance, and a block with one of its bytes */
        for (size_t i = 0; i < n; i++) {
            bool sampled = false;
            for (size_t left = sizes[k]; left != 0 && !sampled;) {
                size_t part = left < 64 ? left : 64;
                sampled = below(&state, rate) < part;
                left -= part;
                if (sizes[k] > 20 * rate) sampled = true;
            }
            if (sampled) nm__recording_add(r, site, sizes[k]);
        }
        double seen = (double)site_at(r, site)->live_bytes / (double)(n * sizes[k]);
        CHECK(seen > 0.9 && seen < 1.1);
        double number = (double)site_at(r, site)->live_count / NM__WHOLE / (double)n;
        CHECK(number > 0.9 && number < 1.1);
        nm__recording_destroy(r, true);
    }
}

static void test_what_finds_no_room_is_counted(void) {
    nm__recording *r = nm__recording_create(NULL, NM__RECORDING_LEAST, 1);
    uint32_t last = 1;
    int nodes = 0;
    for (; last != 0 && nodes < 1000000; nodes++) last = nm__recording_node(r, 0, 0, 0, nodes);
    CHECK(last == 0 && nodes > 1000 && nm__recording_view(r)->dropped == 1);
    uint32_t site = nm__recording_site(r, last, 0, NM__OF_RAW);
    nm__recording_add(r, site, 100);
    for (uint32_t node = 1; (site = nm__recording_site(r, node, 0, NM__OF_RAW)) != 0; node++) {}
    nm__recording_add(r, site, 100); /* to site 0 */
    CHECK(site_at(r, 0)->live_bytes == 100 && nm__recording_view(r)->live_bytes == 200);
    char text[32];
    int strings = 0;
    do (void)snprintf(text, sizeof text, "%d", strings++);
    while (string(r, text) != 0);
    CHECK(strings > 1000);
    for (int i = 0; i < 100000; i++) nm__recording_refusal(r, 0, 0, 1, 2, 3);
    CHECK(count_of(r, NM__REFUSALS) == nm__recording_view(r)->section[NM__REFUSALS].room);
    SOUND(nm__recording_check(r));
    nm__recording_destroy(r, true);
}

static void test_moments_become_fewer_and_cover_all_time(void) {
    nm__recording *r = nm__recording_create(NULL, NM__RECORDING_LEAST, 1);
    bool made;
    uint32_t owner = nm__recording_owner(r, r, 1, &made);
    CHECK(owner == 1 && made && nm__recording_owner(r, r, 1, &made) == 1 && !made);
    CHECK(nm__recording_owner(r, r, 2, &made) == 2 && made); /* at the same place, another */
    nm__recording_name(r, owner, string(r, "cache"), 0);
    const nm__recording_head *head = nm__recording_view(r);
    uint64_t tick = head->tick;
    for (size_t i = 0; i < 50000; i++) {
        nm__recording_moment(r, 0, i + 1, i + 1, SIZE_MAX, 0);
        nm__recording_moment(r, owner, i * 2, i * 2, 4096, i);
        if (i % 5000 == 0) SOUND(nm__recording_check(r));
    }
    CHECK(head->tick > tick);
    size_t count = count_of(r, (nm__section)head->times);
    CHECK(count > 0 && count <= head->section[head->times].room);
    const nm__moment *last = item(head, (nm__section)head->times, count - 1);
    CHECK(last->owner == owner && last->used == 99998 && last->limit == 4096);
    for (size_t i = 1; i < count; i++) {
        const nm__moment *m = item(head, (nm__section)head->times, i);
        CHECK(m[-1].ns <= m->ns);
    }
    size_t before = count;
    nm__recording_moment(r, owner, 99998, 99998, 4096, 0); /* nothing new */
    CHECK(count_of(r, (nm__section)head->times) == before);
    const nm__owner_sums *o = item(head, NM__OWNERS, owner);
    CHECK(o->used == 99998 && o->limit == 4096 && o->name == string(r, "cache"));
    nm__recording_destroy(r, true);
}

static const nm__recording_head *opened(size_t *size) {
    int file = open(path, O_RDONLY);
    struct stat now;
    CHECK(file >= 0 && fstat(file, &now) == 0);
    *size = (size_t)now.st_size;
    const void *mapped = mmap(NULL, *size, PROT_READ, MAP_SHARED, file, 0);
    (void)close(file);
    CHECK(mapped != MAP_FAILED);
    return mapped;
}

static void test_what_a_killed_process_leaves(void) {
    pid_t child = fork();
    if (child == 0) {
        nm__recording *r = nm__recording_create(path, BOUND, 1);
        uint32_t node = nm__recording_node(r, 0, string(r, "killed.py"), string(r, "main"), 3);
        nm__recording_add(r, nm__recording_site(r, node, 0, NM__OF_ARRAYS), 12345);
        (void)raise(SIGKILL);
    }
    int status;
    CHECK(waitpid(child, &status, 0) == child && WIFSIGNALED(status));
    size_t size;
    const nm__recording_head *head = opened(&size);
    CHECK(memcmp(head->magic, NM__RECORDING_MAGIC, 8) == 0 && head->size == size && size <= BOUND);
    CHECK(head->live_bytes == 12345 && head->ended == 0 && head->pid == (uint64_t)child);
    const nm__site_sums *site = item(head, NM__SITES, 1);
    CHECK(head->section[NM__SITES].count == 2 && site->live_bytes == 12345 && site->source == NM__OF_ARRAYS);
    (void)munmap((void *)(uintptr_t)head, size);
}

/* Of a sparse file the blocks that were written to, and not the whole bound. */
static void test_a_file_takes_what_it_needs(void) {
    nm__recording *r = nm__recording_create(path, (size_t)64 << 20, 1);
    if (r == NULL) { /* the system allows no file of that size */
        CHECK(errno == EFBIG);
        return;
    }
    struct stat now;
    CHECK(stat(path, &now) == 0 && (size_t)now.st_blocks * 512 < ((size_t)1 << 20) && (now.st_mode & 0777) == 0600);
    nm__recording_destroy(r, true);
    size_t size;
    const nm__recording_head *head = opened(&size);
    CHECK(head->ended != 0);
    (void)munmap((void *)(uintptr_t)head, size);
}

/* The linker has the recording call this. */
static int blocks_left = 1 << 30, times_asked;
int __real_posix_fallocate(int file, off_t offset, off_t size);
int __wrap_posix_fallocate(int file, off_t offset, off_t size);
int __wrap_posix_fallocate(int file, off_t offset, off_t size) {
    times_asked++;
    return blocks_left-- > 0 ? __real_posix_fallocate(file, offset, size) : ENOSPC;
}

/* Where the system gives no more blocks nothing is written there: it would be a SIGBUS. */
static void test_a_disk_that_is_full(void) {
    nm__recording *r = nm__recording_create(path, BOUND, 1);
    blocks_left = 2;
    uint32_t node = 1;
    int nodes = 0;
    for (; node != 0 && nodes < 1000000; nodes++) node = nm__recording_node(r, 0, 0, 0, nodes);
    CHECK(node == 0 && nm__recording_view(r)->dropped == 1);
    CHECK(count_of(r, NM__NODES) < nm__recording_view(r)->section[NM__NODES].room);
    for (size_t i = 0; i < 5000; i++) nm__recording_moment(r, 0, i, i, SIZE_MAX, 0);
    SOUND(nm__recording_check(r));
    times_asked = 0;
    for (int i = 0; i < 20480; i++) CHECK(nm__recording_node(r, 0, 0, 0, 2000000 + i) == 0);
    CHECK(1 <= times_asked && times_asked <= 30);
    blocks_left = 1 << 30;
    int again = 0; /* there is room: it is found within 1024 */
    while (again < 1024 && nm__recording_node(r, 0, 0, 0, 3000000 + again) == 0) again++;
    CHECK(again < 1024 && nm__recording_node(r, 0, 0, 0, 4000000) != 0);
    SOUND(nm__recording_check(r));
    nm__recording_destroy(r, true);
    size_t size;
    struct stat before, after;
    CHECK(stat(path, &before) == 0);
    for (int n = 0; n < 6; n++) { /* the head, and the first of five sections */
        blocks_left = n;
        CHECK(nm__recording_create(path, BOUND, 1) == NULL && errno == ENOSPC);
    }
    blocks_left = 1 << 30;
    CHECK(stat(path, &after) == 0 && after.st_ino == before.st_ino); /* the one before is still there, and whole */
    const nm__recording_head *whole = opened(&size);
    CHECK(memcmp(whole->magic, NM__RECORDING_MAGIC, 8) == 0);
    (void)munmap((void *)(uintptr_t)whole, size);
    CHECK(nm__recording_create("/dev/null/x", BOUND, 1) == NULL && errno == ENOTDIR);
    CHECK(unlink(path) == 0 && mkdir(path, 0700) == 0);
    CHECK(nm__recording_create(path, BOUND, 1) == NULL && errno == EISDIR);
    CHECK(rmdir(path) == 0 && rmdir(folder) == 0); /* of those that could not be made nothing is left */
    CHECK(mkdir(folder, 0700) == 0);
}

/* The program may close every descriptor, and open files of its own in their places. */
static void test_a_program_that_closes_the_file(void) {
    nm__recording *r = nm__recording_create(path, BOUND, 1);
    int own = open("/dev/null", O_RDONLY), file = own - 1; /* the recording's is the last before it */
    struct stat theirs;
    CHECK(dup2(own, file) == file);
    for (int i = 0; i < 100000; i++) (void)nm__recording_node(r, 0, 0, 0, i);
    CHECK(nm__recording_view(r)->dropped > 0);
    nm__recording_destroy(r, true);
    CHECK(fstat(file, &theirs) == 0 && S_ISCHR(theirs.st_mode)); /* it is still open */
    (void)close(file);
    (void)close(own);
}

int main(void) {
    (void)signal(SIGXFSZ, SIG_IGN); /* as Python does */
    (void)snprintf(folder, sizeof folder, "/tmp/nm-recording-XXXXXX");
    CHECK(mkdtemp(folder) != NULL);
    (void)snprintf(path, sizeof path, "%s/recording", folder);
    RUN(test_names_and_paths_are_kept_once());
    RUN(test_each_sites_share_of_the_peak());
    RUN(test_blocks_by_size());
    RUN(test_what_is_left_of_a_site());
    RUN(test_what_is_told_of_the_process());
    RUN(test_samples_stand_for_the_rest());
    RUN(test_what_finds_no_room_is_counted());
    RUN(test_moments_become_fewer_and_cover_all_time());
    RUN(test_what_a_killed_process_leaves());
    RUN(test_a_file_takes_what_it_needs());
    RUN(test_a_disk_that_is_full());
    RUN(test_a_program_that_closes_the_file());
    CHECK(unlink(path) == 0 && rmdir(folder) == 0);
    return finish();
}
