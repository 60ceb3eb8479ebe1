#include "measure/model.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_W 1e6

static bool watts_after(const char *text, const char *word, double *out, const char **end)
{
    const size_t n = strlen(word);
    char *stop;

    if (strncmp(text, word, n) != 0)
        return false;
    *out = strtod(text + n, &stop);
    *end = stop;
    return stop != text + n && *out >= 0 && *out <= MAX_W;
}

int model_parse(const char *text, struct model *out, struct err *err)
{
    const char *end = "";

    *out = (struct model){ 0 };
    if (!text || strcmp(text, "none") == 0)
        return 0;
    if (watts_after(text, "tdp:", &out->max_w, &end) && !*end)
        out->idle_w = 0.1 * out->max_w;
    else if (!watts_after(text, "idle:", &out->idle_w, &end) || *end != ',' ||
             !watts_after(end + 1, "max:", &out->max_w, &end) || *end)
        out->max_w = -1;
    out->on = out->max_w > 0 && out->idle_w <= out->max_w;
    if (out->on)
        return 0;
    err_set(err, ERR_USAGE, "cannot make an energy model of \"%.80s\"", text);
    return err_hint(err, "Give none, tdp:WATTS or idle:WATTS,max:WATTS, best as a meter at the wall told them.");
}

void model_apply(const struct model *m, int n_cpus, struct job_record *r)
{
    struct energy_result *e = &r->energy;

    if (!m->on || e->state != METER_UNAVAILABLE || !(r->seconds > 0) || n_cpus < 1)
        return;
    const double busy = fmin(r->cpu_seconds / (r->seconds * n_cpus), 1);
    const double watts = m->idle_w + (m->max_w - m->idle_w) * busy;
    char why[sizeof e->reason];

    snprintf(why, sizeof why, "%s", e->reason);
    e->state = METER_ESTIMATED;
    e->joules = watts * r->seconds;
    e->window_s = r->seconds;
    snprintf(e->reason, sizeof e->reason,
             "no measurement: %.4g W + %.4g W x %.2f of %d CPUs busy; says little beyond time and CPU use (%.120s)",
             m->idle_w, m->max_w - m->idle_w, busy, n_cpus, why);
    e->n_domains = 1;
    e->domains[0] = (struct energy_domain){
        .joules = e->joules, .state = METER_ESTIMATED, .counted = true, .source = "model", .integrated_j = NAN
    };
    snprintf(e->domains[0].name, sizeof e->domains[0].name, "model(idle:%.4g,max:%.4g)", m->idle_w, m->max_w);
}
