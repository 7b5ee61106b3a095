/* log.h - the only way the library says anything on its own: levelled lines through one sink.
 * Default sink: stderr, level from FATHOM_LOG (error, warn, info, debug; default warn), read
 * once by the program and set with log_set_level. Control characters, which may come from outside,
 * are written as '?': a line stays one line. Thread-safe. */
#ifndef BASE_LOG_H
#define BASE_LOG_H

enum log_level { LOG_ERROR, LOG_WARN, LOG_INFO, LOG_DEBUG };

void log_set_level(enum log_level level);
/* Replaces the sink; NULL restores stderr. fn gets one line without newline. */
void log_set_sink(void (*fn)(void *user, enum log_level level, const char *line), void *user);
void log_at(enum log_level level, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

#define log_error(...) log_at(LOG_ERROR, __VA_ARGS__)
#define log_warn(...) log_at(LOG_WARN, __VA_ARGS__)
#define log_info(...) log_at(LOG_INFO, __VA_ARGS__)
#define log_debug(...) log_at(LOG_DEBUG, __VA_ARGS__)

#endif
