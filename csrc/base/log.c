#define _DEFAULT_SOURCE /* writev */
#include "nativemem/log.h"

#include <stdlib.h>
#include <string.h>
#include <sys/uio.h>

#include "base/base.h"

nm_log_level nm_log_level_of(int number) {
    return number < NM_LOG_NOTHING || number > NM_LOG_ALL ? NM_LOG_INFO : (nm_log_level)number;
}

/* In one call, so that lines of several threads do not mix. What cannot be written is lost. */
static void log_to_stderr(nm_log_level level, const char *message) {
    (void)level;
    struct iovec parts[2] = {{.iov_len = strlen(message)}, {.iov_len = 1}};
    memcpy(&parts[0].iov_base, &message, sizeof message); /* writev only reads; its type does not say so */
    char newline = '\n';
    parts[1].iov_base = &newline;
    ssize_t written = writev(2, parts, 2);
    (void)written;
}

static nm_log_level log_most = NM_LOG_WARNING;
static nm_log_sink *log_sink = log_to_stderr;

void nm_log_to(int level, nm_log_sink *to) {
    log_most = nm_log_level_of(level);
    log_sink = to != NULL ? to : log_to_stderr;
}

void nm_log(nm_log_level level, const char *message) {
    if (level <= log_most && level != NM_LOG_NOTHING) log_sink(level, message);
}

void nm__fatal(const char *message) {
    nm_log(NM_LOG_FATAL, message);
    abort();
}
