/* Log: what memlib has to say, and the last words of a process that has no memory. Nothing here allocates. */
#ifndef NATIVEMEM_LOG_H
#define NATIVEMEM_LOG_H

#ifdef __cplusplus
extern "C" {
#endif

typedef enum nm_log_level {
    NM_LOG_NOTHING = 0,
    NM_LOG_USER = 1,
    NM_LOG_FATAL = NM_LOG_USER, /* another name, no other level */
    NM_LOG_ERROR = 2,
    NM_LOG_WARNING = 3,
    NM_LOG_INFO = 4,
    NM_LOG_DEBUG = 5,
    NM_LOG_ALL = 6
} nm_log_level;

/* A number that is no level counts as NM_LOG_INFO. */
nm_log_level nm_log_level_of(int number);

/* Without a terminating newline. May be called from any thread, and with no memory left: it must not allocate. */
typedef void nm_log_sink(nm_log_level level, const char *message);

/* Messages up to `most` go to `sink`; NULL: a line on standard error. At first: NM_LOG_WARNING, NULL. While no other
 * thread logs. */
void nm_log_to(int most, nm_log_sink *sink);
void nm_log(nm_log_level level, const char *message);

#ifdef __cplusplus
}
#endif
#endif
