/* What the plan's costs say on this machine's profile, program by program as they run: so the prediction is for the lengths
 * that the batches really had, and stands beside the same seconds that are measured. */
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "run/calibrate.h"
#include "run/run.h"

static void note_run(void *context, int program, const struct run_context *c)
{
    struct run *r = context;
    struct run_forecast *f = &r->forecast;
    const bool tokens = r->plan.programs[program].B > 0;
    const int64_t B = tokens ? c->B : 0, T = tokens ? c->T : 0;

    if (f->last[program].seconds == 0 || f->last[program].B != B || f->last[program].T != T) {
        struct prediction one = { 0 };
        predict_program(&f->predictor, &r->plan, program, B, T, &one);
        f->last[program].B = B;
        f->last[program].T = T;
        f->last[program].seconds = one.seconds;
    }
    f->so_far_s += f->last[program].seconds;
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

double forecast_since_begin(const struct run *r)
{
    return r->forecast.there ? r->forecast.so_far_s - r->forecast.begin_s : NAN;
}

json_t *forecast_json(const struct run *r)
{
    const struct run_forecast *f = &r->forecast;

    if (!f->there)
        return json_pack("{s:n, s:n, s:n, s:s}", "seconds", "joules", "profile", "reason", f->why);
    return json_pack("{s:f, s:f, s:f, s:f, s:s, s:s}", "seconds", f->update.seconds, "communication_seconds",
                     f->update.communication_s, "host_seconds", f->update.host_s, "joules", f->update.joules,
                     "joules_state", "modelled", "profile", f->profile);
}
