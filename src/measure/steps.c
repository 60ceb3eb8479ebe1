/* The file is ours and exclusively made; the command gets its name. A step's time is when its line is seen: SIGIO, which the
 * thread of the job waits for among its other signals, makes that a matter of milliseconds. */
#include "measure/steps.h"

#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <unistd.h>

#include "base/mem.h"
#include "measure/clock.h"

#define MANY (INT64_MAX / 4)

/* ---- the file ---- */

void steps_close(struct steps *s)
{
    steps_unwatch(s);
    if (s->inherit >= 0)
        close(s->inherit);
    if (s->fd >= 0) {
        close(s->fd);
        unlink(s->path);
    }
    mem_free(s->line);
    mem_free(s->items);
    *s = (struct steps){ .fd = -1, .inherit = -1, .watch = -1 };
}

int steps_open(struct steps *s, bool by_fd, struct err *err)
{
    *s = (struct steps){ .path = "/tmp/tuneup-metrics-XXXXXX", .fd = -1, .inherit = -1, .watch = -1 };
    for (int i = 0; i < STEPS_MAX_RANKS; i++)
        s->rank_bytes[i] = -1;
    s->line = mem_array(STEPS_MAX_LINE, 1, 1, MEM_RECORD, err);
    if (!s->line)
        return -1;
    s->fd = mkostemp(s->path, O_CLOEXEC);
    if (s->fd >= 0 && by_fd)
        s->inherit = open(s->path, O_WRONLY | O_APPEND);
    if (s->fd < 0 || (by_fd && s->inherit < 0)) {
        err_errno(err, "could not make the file \"%s\"", s->path);
        steps_close(s);
        return -1;
    }
    snprintf(s->file_env, sizeof s->file_env, "TUNEUP_METRICS_FILE=%s", s->path);
    if (by_fd)
        snprintf(s->fd_env, sizeof s->fd_env, "TUNEUP_METRICS_FD=%d", s->inherit);
    s->start_s = s->read_s = clock_seconds();
    return 0;
}

void steps_watch(struct steps *s)
{
    const struct f_owner_ex self = { .type = F_OWNER_TID, .pid = gettid() };

    s->watch = inotify_init1(IN_NONBLOCK | IN_CLOEXEC);
    if (s->watch < 0)
        return;
    if (inotify_add_watch(s->watch, s->path, IN_MODIFY) < 0 || fcntl(s->watch, F_SETOWN_EX, &self) != 0 ||
        fcntl(s->watch, F_SETSIG, SIGIO) != 0 || fcntl(s->watch, F_SETFL, O_NONBLOCK | O_ASYNC) != 0)
        steps_unwatch(s);
}

void steps_unwatch(struct steps *s)
{
    if (s->watch >= 0)
        close(s->watch);
    s->watch = -1;
}

/* ---- lines ---- */

static int read_members(const json_t *object, struct steps_one *out, int64_t *rank, struct err *err)
{
    if (json_get_int(object, "line", "step", 0, MANY, &out->step, err) < 0 ||
        json_get_int(object, "line", "tokens", 0, MANY, &out->tokens, err) < 0 ||
        json_get_int(object, "line", "allocated_bytes", 0, MANY / STEPS_MAX_RANKS, &out->allocated_bytes, err) < 0 ||
        json_get_int(object, "line", "rank", 0, STEPS_MAX_RANKS - 1, rank, err) < 0 ||
        json_get_real(object, "line", "loss", -1e300, 1e300, &out->loss, err) < 0)
        return -1;
    return out->step >= 0 ? 0 : err_set(err, ERR_INPUT, "it has no \"step\"");
}

bool steps_parse(const char *text, int64_t n, struct steps_one *out, int64_t *rank, char *why, size_t size)
{
    struct err err = { 0 };
    json_t *object = json_parse(text, (size_t)n, "line", 1, &err);

    *out = (struct steps_one){ -1, -1, -1, NAN, NAN, NAN };
    *rank = 0;
    const bool good = object && (json_is_object(object) || err_set(&err, ERR_INPUT, "it is no object") == 0) &&
                      read_members(object, out, rank, &err) == 0;
    json_decref(object);
    if (!good)
        snprintf(why, size, "%.150s", err.what);
    return good;
}

static void reject(struct steps *s, const char *why)
{
    if (s->n_rejected++ == 0)
        snprintf(s->rejected, sizeof s->rejected, "%.159s", why);
}

/* A step that is told again, as by gradient accumulation, ends when it is told last. */
static void keep(struct steps *s, const struct steps_one *one)
{
    struct err ignored;

    if (s->n > 0 && one->step < s->items[s->n - 1].step) {
        reject(s, "its step is before the last one's");
        return;
    }
    const bool again = s->n > 0 && one->step == s->items[s->n - 1].step;
    if (!again && s->n == s->capacity) {
        const int64_t capacity = s->capacity ? 2 * s->capacity : 256;
        void *grown = s->n < STEPS_MAX ? mem_resize(s->items, capacity, sizeof *s->items, MEM_RECORD, &ignored) : NULL;
        if (!grown) {
            s->n_left_out++;
            return;
        }
        s->items = grown;
        s->capacity = capacity;
    }
    s->items[again ? s->n - 1 : s->n++] = *one;
}

static void take_line(struct steps *s, double now_s, double joules)
{
    struct steps_one one;
    int64_t rank;
    char why[160];

    if (s->n_line == 0)
        return;
    if (s->too_long || !steps_parse(s->line, s->n_line, &one, &rank, why, sizeof why)) {
        reject(s, s->too_long ? "it is too long" : why);
        return;
    }
    if (one.allocated_bytes > s->rank_bytes[rank])
        s->rank_bytes[rank] = one.allocated_bytes;
    one.at_s = now_s;
    one.joules = joules;
    if (rank == 0)
        keep(s, &one);
}

static void take(struct steps *s, const char *text, ssize_t n, double now_s, double joules)
{
    for (ssize_t i = 0; i < n; i++) {
        if (text[i] == '\n') {
            take_line(s, now_s, joules);
            s->n_line = 0;
            s->too_long = false;
        } else if (s->n_line < STEPS_MAX_LINE) {
            s->line[s->n_line++] = text[i];
        } else {
            s->too_long = true;
        }
    }
}

void steps_poll(struct steps *s, struct energy_meter *energy, bool final)
{
    const double now_s = clock_seconds();
    char text[16384];
    ssize_t n;

    if (s->fd < 0 || (!final && now_s - s->read_s < STEPS_AGAIN_S))
        return;
    while (s->watch >= 0 && read(s->watch, text, sizeof text) > 0)
        continue; /* only that something is new matters */
    double joules = NAN;
    for (int i = 0; i < 64 && (n = read(s->fd, text, sizeof text)) > 0; i++) { /* a flood waits for the next look */
        if (i == 0 && energy) {
            struct energy_result r;
            energy_read(energy, &r);
            joules = r.joules;
        }
        s->read_s = now_s;
        take(s, text, n, now_s, joules);
    }
    if (final && s->n_line > 0)
        take(s, "\n", 1, now_s, joules);
}

/* ---- the window ---- */

static double tokens_of(const struct steps *s, int64_t first)
{
    double sum = 0;

    for (int64_t i = first; i < s->n; i++)
        sum += s->items[i].tokens < 0 ? NAN : (double)s->items[i].tokens;
    return sum;
}

static int64_t allocated(const struct steps *s)
{
    int64_t sum = -1;

    for (int i = 0; i < STEPS_MAX_RANKS; i++)
        if (s->rank_bytes[i] >= 0)
            sum = (sum < 0 ? 0 : sum) + s->rank_bytes[i];
    return sum;
}

void steps_window(const struct steps *s, int64_t warmup, struct steps_window *out)
{
    *out = (struct steps_window){ .warmup = warmup,
                                  .seconds = NAN,
                                  .joules = NAN,
                                  .tokens = NAN,
                                  .final_loss = s->n > 0 ? s->items[s->n - 1].loss : NAN,
                                  .allocated_bytes = allocated(s) };
    if (s->n_left_out > 0)
        snprintf(out->reason, sizeof out->reason, "it told more than %d steps", STEPS_MAX);
    else if (s->n == 0)
        snprintf(out->reason, sizeof out->reason, "the command told no steps");
    else if (s->n <= warmup)
        snprintf(out->reason, sizeof out->reason, "it told %lld steps, and %lld are warm-up", (long long)s->n,
                 (long long)warmup);
    if (out->reason[0])
        return;
    const struct steps_one *last = &s->items[s->n - 1];
    out->n = s->n - warmup;
    out->seconds = last->at_s - (warmup > 0 ? s->items[warmup - 1].at_s : s->start_s);
    out->joules = last->joules - (warmup > 0 ? s->items[warmup - 1].joules : 0);
    out->tokens = tokens_of(s, warmup);
    if (!(out->seconds > 0))
        snprintf(out->reason, sizeof out->reason, "its steps were too fast to be told apart");
    if (!(out->seconds > 0) || !(out->joules > 0))
        out->joules = NAN;
}

static json_t *real_or_null(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

json_t *steps_json(const struct steps *s, const struct steps_window *w)
{
    return json_pack("{s:I, s:I, s:o, s:o, s:o, s:o, s:o, s:o, s:I, s:s, s:s}", "told", (json_int_t)s->n,
                     "warmup_steps", (json_int_t)w->warmup, "steady_seconds", real_or_null(w->seconds), "steady_joules",
                     real_or_null(w->joules), "tokens", real_or_null(w->tokens), "tokens_per_second",
                     real_or_null(w->tokens / w->seconds), "final_loss", real_or_null(w->final_loss), "allocated_bytes",
                     w->allocated_bytes < 0 ? json_null() : json_integer(w->allocated_bytes), "rejected_lines",
                     (json_int_t)s->n_rejected, "rejected_reason", s->rejected, "reason", w->reason);
}
