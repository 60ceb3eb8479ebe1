/* measure/steps.h - what a measured command tells of itself: a file, named in its environment by TUNEUP_METRICS_FILE, to which it
 * adds a JSON object a line as it finishes a step. With them the warm-up can be left out of time and energy, and memory that only
 * a framework knows is recorded.
 *
 *   {"step": 12, "loss": 2.31, "tokens": 4096, "allocated_bytes": 123456, "rank": 0}
 *
 * "step" is needed, and counts up; lines of ranks other than 0 give their allocated_bytes alone. Whoever writes there is not
 * trusted: a line that is no such object is counted and left out, and no more than STEPS_MAX are kept. */
#ifndef TUNEUP_MEASURE_STEPS_H
#define TUNEUP_MEASURE_STEPS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/json.h"
#include "measure/energy.h"

#define STEPS_AGAIN_S 0.05 /* lines that come faster share a look, and with it their time and joules */
enum { STEPS_MAX = 200000, STEPS_MAX_LINE = 16384, STEPS_MAX_RANKS = 1024 };

struct steps_one {
    int64_t step, tokens, allocated_bytes; /* -1 = not told, as for the next two */
    double loss; /* NAN = not told */
    double at_s; /* clock_seconds when it was seen */
    double joules; /* of the run until then; NAN = unknown */
};
struct steps {
    char path[64], file_env[96], fd_env[48];
    int fd; /* for reading; -1 = closed */
    int inherit; /* for the command to write to, by number; -1 = none */
    int watch; /* tells of new lines by SIGIO; -1 = none: they are seen a little later */
    char *line; /* owned: the beginning of one that is not whole yet */
    int64_t n_line;
    bool too_long;
    struct steps_one *items; /* owned */
    int64_t n, capacity, n_rejected, n_left_out; /* no lines of the form; beyond STEPS_MAX */
    char rejected[160]; /* why the first one was */
    int64_t rank_bytes[STEPS_MAX_RANKS]; /* highest allocated_bytes of each; -1 */
    double start_s, read_s;
};

/* by_fd: TUNEUP_METRICS_FD too, a descriptor of the same file. Errors: ERR_SYSTEM, ERR_MEMORY. On error *s is closed. */
int steps_open(struct steps *s, bool by_fd, struct err *err);
void steps_close(struct steps *s);
void steps_watch(struct steps *s); /* from here on new lines send SIGIO to this thread, which has blocked it */
void steps_unwatch(struct steps *s);
/* Reads what is new, unless that was done just now; final: the last time. energy may be NULL. */
void steps_poll(struct steps *s, struct energy_meter *energy, bool final);

/* One line of n bytes: false if it is not of the form. */
bool steps_parse(const char *text, int64_t n, struct steps_one *out, int64_t *rank, char *why, size_t size);

/* The steps after the first `warmup` ones; warmup 0: from the start of the command. */
struct steps_window {
    int64_t n, warmup; /* steps in the window; left out before it */
    double seconds, joules, tokens; /* NAN = unknown */
    double final_loss;
    int64_t allocated_bytes; /* sum over ranks of each one's highest; -1 */
    char reason[160]; /* why there is no window; else empty */
};
void steps_window(const struct steps *s, int64_t warmup, struct steps_window *out);
json_t *steps_json(const struct steps *s, const struct steps_window *w); /* NULL when there is no memory */

#endif
