/* channel_start, then channel_poll again and again, then channel_judge: from readings to one channel's joules. A reading that
 * fails keeps the last good one: a counter is cumulative, so the next good one makes up for it, unless so much time has
 * passed that energy_delta calls it lost. Power that was not read has no such way back: a long gap is a hole. */
#include "measure/channel.h"

#include <ctype.h>
#include <errno.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "measure/clock.h"

#define SLOW_S 0.5 /* a meter that answers slowly is not asked again before it can have news */

/* ---- the rules ---- */

enum energy_step energy_delta(int64_t last_uj, int64_t now_uj, int64_t range_uj, double limit_w, double elapsed_s,
                              double update_s, int64_t *used_uj)
{
    /* What can have been used at most: the counter moves in steps, so the window is widened by some of them. */
    const double most_uj = 1e6 * limit_w * (elapsed_s + 10 * update_s);
    int64_t delta;

    *used_uj = 0;
    if (last_uj < 0 || now_uj < 0 || (range_uj > 0 && most_uj >= (double)range_uj))
        return ENERGY_STEP_LOST;
    if (now_uj >= last_uj)
        delta = now_uj - last_uj;
    else if (range_uj <= 0 || last_uj > range_uj)
        return ENERGY_STEP_LOST;
    else
        delta = range_uj - last_uj + 1 + now_uj; /* the order in which it cannot overflow */
    if ((double)delta > most_uj)
        return ENERGY_STEP_JUMP;
    *used_uj = delta;
    return ENERGY_STEP_GOOD;
}

bool energy_mirrored(int64_t a_start_uj, double a_joules, int64_t b_start_uj, double b_joules)
{
    const double update_j = 0.5; /* one update at 500 W: the two are not read at the same instant */
    const double larger = a_joules > b_joules ? a_joules : b_joules;
    const double apart_j = fabs(a_joules - b_joules);

    return fabs((double)a_start_uj - (double)b_start_uj) * 1e-6 <= update_j && larger > 0 &&
           apart_j <= fmax(1e-3 * larger, fmin(update_j, 0.1 * larger));
}

/* ---- making ---- */

void channel_word(char *out, size_t size, const char *text)
{
    snprintf(out, size, "%s", text);
    out[strcspn(out, "\n")] = '\0';
    for (char *c = out; *c; c++) /* it is printed on terminals */
        if (!isprint((unsigned char)*c))
            *c = '?';
}

struct channel *channel_add(struct channel_set *set, const struct energy_source *source, void *own, const char *name)
{
    if (set->n == ENERGY_MAX_DOMAINS) {
        set->truncated = true;
        return NULL;
    }
    struct channel *c = &set->items[set->n++];
    *c = (struct channel){ .source = source,
                           .own = own,
                           .memory_bytes = -1,
                           .limit_w = CHANNEL_LIMIT_W,
                           .update_s = 0.001,
                           .every_s = 1,
                           .start_bytes = -1,
                           .peak_bytes = -1 };
    channel_word(c->name, sizeof c->name, name);
    return c;
}

bool channel_source_whole(const struct channel_set *set, const struct energy_source *source)
{
    bool some = false;

    for (int i = 0; i < set->n; i++) {
        const struct channel *c = &set->items[i];

        if (c->source != source || c->role == CHANNEL_LISTED)
            continue;
        if (c->first_error != 0)
            return false;
        some = true;
    }
    return some;
}

/* ---- gathering ---- */

static int look(const struct channel *c, struct channel_reading *r)
{
    *r = (struct channel_reading){ .uj = -1, .power_w = NAN, .used_bytes = -1, .busy = NAN, .joules = NAN };
    const int status = c->source->read(c, r);

    if (status != 0)
        return -status;
    if (c->counter && r->uj < 0)
        return EIO; /* it told before, and no more */
    if (!isnan(r->power_w) && !(r->power_w >= 0 && r->power_w <= 1000 * CHANNEL_LIMIT_W))
        r->power_w = NAN;
    return !c->counter && isnan(r->power_w) ? EIO : 0;
}

static void keep_memory(struct channel *c, const struct channel_reading *r)
{
    if (r->used_bytes > c->peak_bytes)
        c->peak_bytes = r->used_bytes;
    if (r->busy >= 0 && r->busy <= 1) {
        c->busy_sum += r->busy;
        c->n_busy++;
    }
}

/* before: the last power that was told. */
static void keep_power(struct channel *c, const struct channel_reading *r, double before_w, double now_s)
{
    if (isnan(r->power_w))
        return;
    if (c->n_power++ > 0) {
        const double gap_s = now_s - c->power_s;

        c->integral_j = isnan(r->joules) ? c->integral_j + 0.5 * (before_w + r->power_w) * gap_s : r->joules;
        c->longest_gap_s = fmax(c->longest_gap_s, gap_s);
    }
    c->power_s = now_s;
}

void channel_start(struct channel *c)
{
    const double now_s = clock_seconds();

    c->first_error = c->first_error ? c->first_error : look(c, &c->last);
    c->start_s = c->last_s = now_s;
    if (c->first_error)
        return;
    c->start_uj = c->last.uj;
    c->start_bytes = c->last.used_bytes;
    keep_memory(c, &c->last);
    keep_power(c, &c->last, NAN, now_s);
}

static void count(struct channel *c, int64_t now_uj, double elapsed_s)
{
    int64_t used_uj;
    enum energy_step step = energy_delta(c->last.uj, now_uj, c->range_uj, c->limit_w, elapsed_s, c->update_s, &used_uj);

    if (__builtin_add_overflow(c->used_uj, used_uj, &c->used_uj))
        step = ENERGY_STEP_LOST;
    if (step != ENERGY_STEP_GOOD)
        c->worst = step;
}

void channel_poll(struct channel *c)
{
    const double before_s = clock_seconds(); /* this thread may be held up before and after it has read */
    struct channel_reading r;

    if (c->first_error != 0 || (c->update_s > SLOW_S && before_s - c->last_s < c->update_s))
        return;
    c->last_error = look(c, &r);
    if (c->last_error != 0)
        return;
    if (c->counter)
        count(c, r.uj, clock_seconds() - c->last_s);
    keep_memory(c, &r);
    keep_power(c, &r, c->last.power_w, before_s);
    if (isnan(r.power_w))
        r.power_w = c->last.power_w; /* for the next trapezoid */
    c->last = r;
    c->last_s = before_s;
}

/* ---- judging ---- */

static double integral(const struct channel *c, double now_s)
{
    if (c->n_power == 0)
        return NAN;
    return c->integral_j + c->last.power_w * fmin(now_s - c->power_s, 2 * fmax(c->every_s, c->update_s));
}

double channel_joules(const struct channel *c, double now_s)
{
    return c->counter ? 1e-6 * (double)c->used_uj : integral(c, now_s);
}

static void judge_counter(const struct channel *c, char *reason, size_t size)
{
    const double joules = 1e-6 * (double)c->used_uj;

    if (c->worst == ENERGY_STEP_JUMP)
        snprintf(reason, size, "the counter jumped, as by a reset; at least %.3g J", joules);
    else if (c->worst == ENERGY_STEP_LOST)
        snprintf(reason, size, "the counter %s; at least %.3g J",
                 c->range_uj > 0 ? "may have wrapped unseen" : "fell and its range is unknown", joules);
    else if (c->used_uj == 0)
        snprintf(reason, size, "the counter did not move");
}

static void judge_power(const struct channel *c, double now_s, char *reason, size_t size)
{
    const double gap_s = fmax(c->longest_gap_s, now_s - c->power_s);

    if (gap_s > fmax(CHANNEL_GAP_S, 5 * fmax(c->every_s, c->update_s)))
        snprintf(reason, size, "its power was not told for %.3g s", gap_s);
    else if (!(integral(c, now_s) > 0))
        snprintf(reason, size, "its power is told as 0 W");
}

/* The counter and the power readings are two views of one draw: where they differ, people should know both. */
static void compare_views(const struct channel *c, double now_s, struct energy_domain *d)
{
    const double other_j = d->integrated_j;
    const size_t n = strlen(d->reason);

    if (c->n_power < 10 || now_s - c->start_s < 10 * c->update_s || !(other_j > 0) ||
        (d->state == METER_MEASURED && fabs(other_j - d->joules) <= 0.05 * d->joules))
        return;
    snprintf(d->reason + n, sizeof d->reason - n, "%sits power readings give %.4g J", n ? "; " : "", other_j);
}

void channel_judge(const struct channel *c, double now_s, struct energy_domain *d)
{
    *d = (struct energy_domain){ .joules = NAN,
                                 .state = METER_UNAVAILABLE,
                                 .counted = c->role != CHANNEL_LISTED,
                                 .source = c->source->name,
                                 .integrated = !c->counter,
                                 .integrated_j = integral(c, now_s) };
    memcpy(d->name, c->name, sizeof d->name);
    if (c->first_error != 0)
        snprintf(d->reason, sizeof d->reason, "cannot be read: %s", strerror(c->first_error));
    else if (c->last_error != 0)
        snprintf(d->reason, sizeof d->reason, "became unreadable %.3g s after the start: %s; %.3g J until then",
                 c->last_s - c->start_s, strerror(c->last_error), channel_joules(c, c->last_s));
    else if (c->counter)
        judge_counter(c, d->reason, sizeof d->reason);
    else
        judge_power(c, now_s, d->reason, sizeof d->reason);
    if (!d->reason[0]) {
        d->joules = channel_joules(c, now_s);
        d->state = METER_MEASURED;
        snprintf(d->reason, sizeof d->reason, "%s", c->note);
    }
    if (c->counter)
        compare_views(c, now_s, d);
    if (c->role == CHANNEL_LISTED)
        snprintf(d->reason, sizeof d->reason, "%s", c->note);
}
