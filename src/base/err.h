/* base/err.h - what went wrong, where, and how to mend it.
 *
 * A fallible function returns -1 (or NULL) and fills the struct err that is its last parameter. Library code never
 * prints and never exits: cli/main.c prints the three parts and turns the code into the exit status. */
#ifndef TUNEUP_BASE_ERR_H
#define TUNEUP_BASE_ERR_H

#include <stdbool.h>
#include <stddef.h>

enum err_code {
    ERR_NONE = 0,
    ERR_USAGE, /* the command line or an option: exit 2 */
    ERR_INPUT, /* a file from outside: exit 2 */
    ERR_INFEASIBLE, /* does not fit a limit: exit 3 */
    ERR_UNAVAILABLE, /* a required measurement cannot be made here: exit 4 */
    ERR_MEMORY, /* an allocation failed: exit 1 */
    ERR_SYSTEM, /* a system call failed: exit 1 */
    ERR_RUN, /* the run itself failed (NaN, a lost rank): exit 1 */
    ERR_STOPPED, /* a signal asked to stop and the state is saved: exit 130 or 143 */
};

struct err {
    enum err_code code;
    int exit_status; /* where the code's own does not say enough (143, or env(1)'s 125 to 127); 0 = by code */
    char what[1024]; /* begins in lower case, no full stop; names both values */
    char where[768]; /* file and line or byte, tensor, rank, step; may be empty */
    char hint[1024]; /* whole sentences; may be empty */
};

#define ERR_PRINTF(f, a) __attribute__((format(printf, f, a)))

/* Each returns -1, so that "return err_set(...)" reads as one step. A later err_set replaces an earlier one. */
int err_set(struct err *err, enum err_code code, const char *format, ...) ERR_PRINTF(3, 4);
int err_where(struct err *err, const char *format, ...) ERR_PRINTF(2, 3);
int err_hint(struct err *err, const char *format, ...) ERR_PRINTF(2, 3);
/* err_set with ": " and the words for errno appended; the code is ERR_SYSTEM. */
int err_errno(struct err *err, const char *format, ...) ERR_PRINTF(2, 3);
/* The exit status of the command line contract for an error code (ERR_STOPPED: 130). */
int err_exit_code(enum err_code code);

/* Our own bugs, never bad input; stays on in every build. */
#define MUST(x) ((x) ? (void)0 : err_must_failed(#x, __FILE__, __LINE__))
_Noreturn void err_must_failed(const char *expression, const char *file, int line);

#define COUNT_OF(array) ((int)(sizeof(array) / sizeof(array)[0]))

#endif
