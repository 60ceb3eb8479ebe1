/* One table of columns says what a run has; JSON and CSV both read it. */
#include "report/runs.h"

#include <inttypes.h>
#include <math.h>
#include <stddef.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "report/exports.h"

enum column_type { COLUMN_TEXT, COLUMN_REAL, COLUMN_COUNT };

struct column {
    const char *name;
    enum column_type type;
    size_t offset; /* in struct load_run */
};

#define TEXT(field)                                                                                                    \
    {                                                                                                                  \
#field, COLUMN_TEXT, offsetof(struct load_run, field)                                                          \
    }
#define REAL(field)                                                                                                    \
    {                                                                                                                  \
#field, COLUMN_REAL, offsetof(struct load_run, field)                                                          \
    }
#define COUNT(field)                                                                                                   \
    {                                                                                                                  \
#field, COLUMN_COUNT, offsetof(struct load_run, field)                                                         \
    }

static const struct column columns[] = {
    COUNT(position),
    TEXT(finished),
    TEXT(state),
    TEXT(reason),
    COUNT(exit_status),
    REAL(seconds),
    REAL(steady_s),
    REAL(cpu_seconds),
    COUNT(peak_bytes),
    COUNT(peak_pss_bytes),
    COUNT(own_peak_bytes),
    REAL(joules),
    TEXT(energy_state),
    TEXT(energy_domains),
    REAL(steady_j),
    TEXT(steady_energy_state),
    COUNT(tokens),
    REAL(tokens_per_s),
    REAL(final_loss),
    REAL(eval_loss),
    COUNT(warmup_steps),
    COUNT(planned_peak_bytes),
    REAL(planned_flops),
    REAL(planned_bytes_moved),
    REAL(planned_comm_bytes),
    REAL(load_before),
    REAL(steal_s),
    REAL(cgroup_wait_s),
    COUNT(throttles),
    COUNT(swapped_in),
    TEXT(machine),
    TEXT(energy_reason), /* the last two are long, and runs_csv may leave them out */
    TEXT(argv),
};

static const char *text_at(const struct load_run *r, const struct column *c)
{
    const char *const *field = (const char *const *)((const char *)r + c->offset);

    return *field ? *field : "";
}

static double real_at(const struct load_run *r, const struct column *c)
{
    return *(const double *)((const char *)r + c->offset);
}

static int64_t count_at(const struct load_run *r, const struct column *c)
{
    return *(const int64_t *)((const char *)r + c->offset);
}

static json_t *value_json(const struct load_run *r, const struct column *c)
{
    if (c->type == COLUMN_TEXT) {
        json_t *text = json_string(text_at(r, c));

        return text ? text : json_null(); /* what is no UTF-8 */
    }
    if (c->type == COLUMN_REAL)
        return isfinite(real_at(r, c)) ? json_real(real_at(r, c)) : json_null();
    return count_at(r, c) < 0 ? json_null() : json_integer(count_at(r, c));
}

static json_t *real_or_null(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static void add_details(json_t *o, const struct load_run *r)
{
    json_t *steps = json_array(), *metrics = json_array(), *memory = json_object(), *own;

    for (int i = 0; i < r->n_steps; i++) {
        const struct load_step *s = &r->steps[i];

        json_array_append_new(steps, json_pack("{s:I, s:o, s:o, s:o, s:o}", "step", (json_int_t)s->step, "loss",
                                               real_or_null(s->loss), "seconds", real_or_null(s->seconds), "joules",
                                               real_or_null(s->joules), "peak_bytes",
                                               s->peak_bytes < 0 ? json_null() : json_integer(s->peak_bytes)));
    }
    for (int i = 0; i < r->n_metrics; i++)
        json_array_append_new(metrics, json_pack("{s:I, s:s, s:f}", "step", (json_int_t)r->metrics[i].step, "name",
                                                 r->metrics[i].name, "value", r->metrics[i].value));
    for (int k = 0; k < LOAD_N_KINDS; k++)
        if (r->planned[k] >= 0 || r->allocated[k] >= 0)
            json_object_set_new(memory, load_kinds[k],
                                json_pack("{s:o, s:o}", "planned",
                                          r->planned[k] < 0 ? json_null() : json_integer(r->planned[k]), "allocated",
                                          r->allocated[k] < 0 ? json_null() : json_integer(r->allocated[k])));
    own = r->run_json && r->run_json[0] ? json_loads(r->run_json, 0, NULL) : NULL;
    json_object_set_new(o, "stderr_tail", json_string(r->stderr_tail ? r->stderr_tail : ""));
    json_object_set_new(o, "memory", memory);
    json_object_set_new(o, "steps", steps);
    json_object_set_new(o, "metrics", metrics);
    json_object_set_new(o, "run_json", own ? own : json_null());
}

json_t *runs_json(const struct loaded *l, const struct load_run *r, bool whole)
{
    const struct load_cell *cell = &l->cells[r->cell];
    json_t *techniques = json_loads(cell->techniques, 0, NULL);
    json_t *o =
        json_pack("{s:I, s:s, s:s, s:I, s:o, s:s, s:I}", "id", (json_int_t)r->id, "phase", cell->phase, "cell",
                  cell->name, "ranks", (json_int_t)cell->ranks, "techniques", techniques ? techniques : json_null(),
                  "baseline", l->cells[cell->baseline].name, "block", (json_int_t)r->block);

    for (int i = 0; o && i < COUNT_OF(columns); i++)
        json_object_set_new(o, columns[i].name, value_json(r, &columns[i]));
    if (o && whole)
        add_details(o, r);
    return o;
}

void runs_csv(FILE *out, const struct loaded *l, bool whole)
{
    const int n = COUNT_OF(columns) - (whole ? 0 : 2);

    fputs("id,phase,cell,ranks,techniques,baseline,block", out);
    for (int i = 0; i < n; i++)
        fprintf(out, ",%s", columns[i].name);
    fputs("\r\n", out);
    for (int k = 0; k < l->n_runs; k++) {
        const struct load_run *r = &l->runs[k];
        const struct load_cell *cell = &l->cells[r->cell];

        fprintf(out, "%" PRId64 ",", r->id);
        exports_csv_text(out, cell->phase);
        fputc(',', out);
        exports_csv_text(out, cell->name);
        fprintf(out, ",%" PRId64 ",", cell->ranks);
        exports_csv_text(out, cell->techniques);
        fputc(',', out);
        exports_csv_text(out, l->cells[cell->baseline].name);
        fprintf(out, ",%" PRId64, r->block);
        for (int i = 0; i < n; i++) {
            const struct column *c = &columns[i];

            fputc(',', out);
            if (c->type == COLUMN_TEXT)
                exports_csv_text(out, text_at(r, c));
            else if (c->type == COLUMN_REAL && isfinite(real_at(r, c)))
                fprintf(out, "%.10g", real_at(r, c));
            else if (c->type == COLUMN_COUNT && count_at(r, c) >= 0)
                fprintf(out, "%" PRId64, count_at(r, c));
        }
        fputs("\r\n", out);
    }
}

static const char *real_text(char out[24], double x)
{
    snprintf(out, 24, isfinite(x) ? "%.4g" : "-", x);
    return out;
}

void runs_table(FILE *out, const struct loaded *l)
{
    fprintf(out, "%5s %5s  %-10s %-28s %5s %-7s %9s %11s %9s %9s\n", "id", "block", "phase", "cell", "ranks", "state",
            "seconds", "peak", "joules", "loss");
    for (int i = 0; i < l->n_runs; i++) {
        const struct load_run *r = &l->runs[i];
        const struct load_cell *cell = &l->cells[r->cell];
        char phase[16], name[40], state[12], peak[24] = "-", seconds[24], joules[24], loss[24], reason[160];

        if (r->peak_bytes >= 0)
            exports_bytes((double)r->peak_bytes, peak, sizeof peak);
        fprintf(out, "%5" PRId64 " %5" PRId64 "  %-10s %-28s %5" PRId64 " %-7s %9s %11s %9s %9s%s%s\n", r->id, r->block,
                log_safe(phase, sizeof phase, cell->phase), log_safe(name, sizeof name, cell->name), cell->ranks,
                log_safe(state, sizeof state, r->state), real_text(seconds, r->seconds), peak,
                real_text(joules, r->joules), real_text(loss, r->final_loss), r->reason[0] ? "  " : "",
                log_safe(reason, sizeof reason, r->reason));
    }
}

const struct load_run *runs_find(const struct loaded *l, int64_t id)
{
    for (int i = 0; i < l->n_runs; i++)
        if (l->runs[i].id == id)
            return &l->runs[i];
    return NULL;
}
