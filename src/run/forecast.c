/* What the plan's costs say on this machine's profile, program by program as they run: so the prediction is for the lengths
 * that the batches really had, live rows alone where padding is removed, and stands beside the same seconds that are measured.
 * Runs are noted while time is taken, and predicted when nobody measures. */
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "run/calibrate.h"
#include "run/run.h"

static bool is_alike(const struct forecast_runs *a, const struct forecast_runs *b)
{
    return a->program == b->program && a->at.B == b->at.B && a->at.T == b->at.T && a->at.live == b->at.live;
}

/* Predicts what was noted; returns the seconds of all runs so far. */
static double settle(struct run *r)
{
    struct run_forecast *f = &r->forecast;

    for (int i = 0; i < f->n_noted; i++) {
        struct forecast_runs *noted = &f->noted[i], *last = &f->last[noted->program];
        if (last->seconds == 0 || !is_alike(last, noted)) {
            struct prediction one = { 0 };
            predict_program(&f->predictor, &r->plan, noted->program, &noted->at, &one);
            *last = *noted;
            last->seconds = one.seconds;
        }
        f->so_far_s += last->seconds * noted->times;
    }
    f->n_noted = 0;
    return f->so_far_s;
}

static void note_run(void *context, int program, const struct run_context *c)
{
    struct run *r = context;
    struct run_forecast *f = &r->forecast;
    struct forecast_runs now = { .program = program, .times = 1 };

    if (r->plan.programs[program].B > 0)
        now.at = (struct plan_extents){ c->B, c->T, c->live ? live_count(c) : 0 };
    for (int i = 0; i < f->n_noted; i++)
        if (is_alike(&f->noted[i], &now)) {
            f->noted[i].times++;
            return;
        }
    if (f->n_noted == FORECAST_NOTES)
        settle(r);
    f->noted[f->n_noted++] = now;
}

void forecast_open(struct run *r)
{
    struct run_forecast *f = &r->forecast;
    struct err err;

    if (r->comm.rank != 0)
        return;
    if (strcmp(r->backend.name, "cpu") != 0) {
        snprintf(f->why, sizeof f->why, "the profile is of the cpu backend");
        return;
    }
    const int there = calibrate_local(&f->machine, f->why, sizeof f->why, &err);
    if (there < 0) {
        snprintf(f->why, sizeof f->why, "%.600s", err.what);
        log_warning("nothing is predicted: %s; %s; %s", err.what, err.where, err.hint);
    }
    if (there <= 0 ||
        predict_open(&f->predictor, &f->machine, r->comm.ranks, r->comm.local_ranks, r->backend.threads, &err) != 0)
        return;
    f->there = true;
    snprintf(f->profile, sizeof f->profile, "%s", f->machine.describe);
    f->update = predict_update(&f->predictor, &r->plan);
    r->exec.run_hook = note_run;
    r->exec.run_hook_context = r;
}

void forecast_close(struct run *r)
{
    predict_close(&r->forecast.predictor);
    profile_free(&r->forecast.machine);
}

void forecast_begin(struct run *r)
{
    r->forecast.begin_s = settle(r);
}

double forecast_since_begin(struct run *r)
{
    return r->forecast.there ? settle(r) - r->forecast.begin_s : NAN;
}

json_t *forecast_json(const struct run *r)
{
    const struct run_forecast *f = &r->forecast;

    if (!f->there)
        return json_pack("{s:n, s:n, s:n, s:s}", "seconds", "joules", "profile", "reason", f->why);
    const char *rows = r->live.of[EXTENTS_TRAIN].mean[0] > 0 ? "data" : "full"; /* of what lengths `seconds` is */
    return json_pack("{s:f, s:f, s:f, s:f, s:s, s:s, s:s}", "seconds", f->update.seconds, "communication_seconds",
                     f->update.communication_s, "host_seconds", f->update.host_s, "joules", f->update.joules,
                     "joules_state", "modelled", "profile", f->profile, "rows", rows);
}
