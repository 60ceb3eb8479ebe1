/* base/log.h - messages for people, on stderr; results go to stdout and never through here.
 * The one piece of global state besides const tables. */
#ifndef TUNEUP_BASE_LOG_H
#define TUNEUP_BASE_LOG_H

#include "base/err.h"

enum log_level { LOG_QUIET = -1, LOG_NORMAL = 0, LOG_VERBOSE = 1 };

void log_set(enum log_level level, bool show); /* show = false silences all but warnings' cause: ranks other than 0 */
enum log_level log_level(void);
void log_note(const char *format, ...) ERR_PRINTF(1, 2); /* progress and news, unless -q */
void log_detail(const char *format, ...) ERR_PRINTF(1, 2); /* with -v */
void log_warning(const char *format, ...) ERR_PRINTF(1, 2); /* always, from the rank that shows */
/* The live line: drawn over itself on a terminal, one line every few seconds elsewhere; "" ends it. */
void log_progress(const char *format, ...) ERR_PRINTF(1, 2);
/* Copies text to out with control characters made visible, so that words from files cannot drive a terminal. What the functions
 * above print is made so by themselves. */
const char *log_safe(char *out, size_t size, const char *text);
const char *log_safe_lines(char *out, size_t size, const char *text); /* the same, ends of lines and tabs kept */

#endif
