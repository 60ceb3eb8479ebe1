/* metrics.jsonl grows by a line an update; run.json is written at the start, so that a run that dies leaves its words, and
 * again at the end. */
#include <inttypes.h>
#include <math.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "measure/clock.h"
#include "measure/machine.h"
#include "plan/print.h"
#include "run/run.h"

static json_t *number(double v)
{
    return isfinite(v) ? json_real(v) : json_null();
}

static json_t *bytes_json(int64_t bytes)
{
    return bytes < 0 ? json_null() : json_integer((json_int_t)bytes);
}

static json_t *energy_json(const struct run *r)
{
    struct energy_result e = { .state = METER_UNAVAILABLE, .joules = NAN };

    if (r->energy)
        energy_read(r->energy, &e);
    json_t *domains = json_array();
    for (int i = 0; i < e.n_domains; i++)
        json_array_append_new(domains, json_pack("{s:s, s:o, s:b}", "name", e.domains[i].name, "joules",
                                                 number(e.domains[i].joules), "counted", e.domains[i].counted));
    return json_pack("{s:o, s:s, s:s, s:s, s:o}", "joules", number(e.joules), "state", meter_state_name(e.state),
                     "reason", e.reason, "hint", e.hint, "domains", domains);
}

/* Will the resumed run write this line again? A checkpoint is made before the evaluation at its step. */
static bool comes_again(const json_t *line, const char *path, int64_t last_step)
{
    struct err ignored;
    int64_t step;

    if (json_get_int(line, path, "step", 0, INT64_MAX, &step, &ignored) != 1)
        return true;
    return step > last_step || (step == last_step && !json_object_get(line, "loss"));
}

static int keep_lines_until(const char *path, int64_t last_step, struct err *err)
{
    struct file_out out;
    size_t n = 0;
    char *text = file_read(path, SIZE_MAX / 2, &n, err);

    if (!text)
        return -1;
    int result = file_out_open(&out, path, err);
    for (char *line = text, *end; result == 0 && line < text + n; line = end + 1) {
        struct err ignored;
        end = strchr(line, '\n');
        if (!end)
            break; /* torn by a crash */
        json_t *object = json_parse(line, (size_t)(end - line), path, 1, &ignored);
        if (object && !comes_again(object, path, last_step))
            fwrite(line, 1, (size_t)(end - line) + 1, out.stream);
        json_decref(object);
    }
    mem_free(text);
    return result == 0 ? file_out_commit(&out, err) : -1;
}

static int write_run_json(struct run *r, const char *state, struct err *err)
{
    char path[FILE_PATH_MAX];
    json_t *json = record_result(r);

    json_object_set_new(json, "state", json_string(state));
    int result = file_join(path, r->spec->output, "run.json", err);
    if (result == 0)
        result = json_write(path, json, JSON_INDENT(2), err);
    json_decref(json);
    return result;
}

int record_open(struct run *r, struct err *err)
{
    char path[FILE_PATH_MAX];

    if (file_join(path, r->spec->output, "metrics.jsonl", err) != 0)
        return -1;
    if (r->at.n_updates > 0 && file_exists(path) && keep_lines_until(path, r->at.n_updates, err) != 0)
        return -1;
    r->metrics = fopen(path, r->at.n_updates > 0 ? "ab" : "wb");
    if (!r->metrics)
        return err_errno(err, "could not write \"%s\"", path);
    if (r->spec->tensorboard && tensorboard_open(&r->tensorboard, r->spec->output, err) != 0)
        return -1;
    return write_run_json(r, "running", err);
}

static int write_line(struct run *r, json_t *object, struct err *err)
{
    const int failed =
        json_dumpf(object, r->metrics, JSON_COMPACT) != 0 || fputc('\n', r->metrics) == EOF || fflush(r->metrics) != 0;

    json_decref(object);
    if (!failed)
        return 0;
    err_errno(err, "could not write \"%s/metrics.jsonl\"", r->spec->output);
    return err_hint(err, "Free space there; --resume goes on from the last checkpoint.");
}

static int chart(struct run *r, const char *tag, double value, struct err *err)
{
    return r->tensorboard.file ? tensorboard_scalar(&r->tensorboard, r->at.n_updates, tag, value, err) : 0;
}

static double joules_now(const struct run *r)
{
    struct energy_result e = { .joules = NAN };

    if (r->energy)
        energy_read(r->energy, &e);
    return e.joules;
}

void record_begin(struct run *r)
{
    r->begin_joules = joules_now(r);
    forecast_begin(r);
}

static bool is_told(const struct phase_metric *m, bool evaluated)
{
    return m->told != (evaluated ? TOLD_OF_UPDATES : TOLD_OF_EVALUATIONS);
}

/* "eval_loss", and "perplexity" as it stands. */
static const char *eval_name(const struct phase_metric *m, char out[64])
{
    snprintf(out, 64, "%s%s", m->told == TOLD_OF_EVALUATIONS ? "" : "eval_", m->name);
    return out;
}

const char *record_words(const struct phase *p, const double *metrics, bool evaluated, const char *between, char *out,
                         size_t size)
{
    size_t n = 0;

    out[0] = '\0';
    for (int i = 0; p->metrics[i].name && n < size; i++)
        if (isfinite(metrics[i]) && is_told(&p->metrics[i], evaluated))
            n += (size_t)snprintf(out + n, size - n, "%s%s %.4g", n ? between : "", p->metrics[i].label, metrics[i]);
    return out;
}

static void add_metrics(json_t *line, const struct phase *p, const double *metrics)
{
    for (int i = 1; p->metrics[i].name; i++)
        if (is_told(&p->metrics[i], false))
            json_object_set_new(line, p->metrics[i].name, number(metrics[i]));
}

static int chart_metrics(struct run *r, const char *side, const double *metrics, bool evaluated, struct err *err)
{
    const struct phase_metric *m = r->spec->phase->metrics;
    char tag[64];

    for (int i = 0; m[i].name; i++) {
        snprintf(tag, sizeof tag, "%s/%s", side, m[i].name);
        if (is_told(&m[i], evaluated) && chart(r, tag, metrics[i], err) != 0)
            return -1;
    }
    return 0;
}

/* The scale that the model's loss has now; NULL: none. */
static const struct loss_scale *scale_of(const struct run *r, int model)
{
    const struct trainer *t = &r->models[model].trainer;

    return r->models[model].learns && t->exec && trainer_scales(t) ? &t->scale : NULL;
}

/* "loss_scale"; of PPO's critic "critic_loss_scale": as other numbers, the actor's has no word before it. */
static const char *scale_name(const struct run *r, int model, const char *between, const char *what, char out[64])
{
    const char *prefix = r->models[model].prefix;
    const int n = strcmp(prefix, "actor/") == 0 ? 0 : (int)strcspn(prefix, "/");

    snprintf(out, 64, "%.*s%s%s", n, prefix, n > 0 ? between : "", what);
    return out;
}

static void add_scales(json_t *line, const struct run *r, bool values)
{
    char name[64];

    for (int i = 0; i < r->n_models; i++) {
        const struct loss_scale *s = scale_of(r, i);
        if (s && values)
            json_object_set_new(line, scale_name(r, i, "_", "loss_scale", name), json_real(s->value));
        if (s)
            json_object_set_new(line, scale_name(r, i, "_", "skipped_updates", name),
                                json_integer((json_int_t)s->skipped));
    }
}

const char *record_scale_words(const struct run *r, char *out, size_t size)
{
    size_t n = 0;
    char name[64];

    out[0] = '\0';
    for (int i = 0; i < r->n_models && n < size; i++) {
        const struct loss_scale *s = scale_of(r, i);
        if (s)
            n += (size_t)snprintf(out + n, size - n, "  %s %.10g, %" PRId64 " skipped",
                                  scale_name(r, i, " ", "loss scale", name), s->value, s->skipped);
    }
    return out;
}

static int chart_scales(struct run *r, struct err *err)
{
    char name[64], tag[80];

    for (int i = 0; i < r->n_models; i++) {
        const struct loss_scale *s = scale_of(r, i);
        snprintf(tag, sizeof tag, "train/%s", scale_name(r, i, "_", "loss_scale", name));
        if (s && chart(r, tag, s->value, err) != 0)
            return -1;
    }
    return 0;
}

int record_update(struct run *r, const struct record_update *u, struct err *err)
{
    if (!r->metrics)
        return 0;
    json_t *line = json_pack("{s:I, s:s, s:o, s:f, s:o, s:I, s:f, s:o, s:o}", "step", (json_int_t)r->at.n_updates,
                             "phase", r->spec->phase->name, "loss", number(u->metrics[0]), "lr", u->rate, "grad_norm",
                             number(u->grad_norm), "tokens", (json_int_t)u->tokens, "seconds", u->seconds, "joules",
                             number(joules_now(r) - r->begin_joules), "peak_bytes", bytes_json(r->peak_bytes));
    add_metrics(line, r->spec->phase, u->metrics);
    add_scales(line, r, true);
    if (r->forecast.there)
        json_object_set_new(line, "predicted_seconds", number(forecast_since_begin(r)));
    if (write_line(r, line, err) != 0 || chart_metrics(r, "train", u->metrics, false, err) != 0 ||
        chart(r, "train/lr", u->rate, err) != 0 || chart(r, "train/grad_norm", u->grad_norm, err) != 0 ||
        chart_scales(r, err) != 0)
        return -1;
    return chart(r, "train/tokens_per_second", (double)u->tokens / u->seconds, err);
}

static void add_evaluation(json_t *line, const struct run *r)
{
    char name[64];

    for (const struct phase_metric *m = r->spec->phase->metrics; m->name; m++)
        if (is_told(m, true))
            json_object_set_new(line, eval_name(m, name), number(r->evaluation[m - r->spec->phase->metrics]));
}

int record_eval(struct run *r, struct err *err)
{
    if (!r->metrics)
        return 0;
    json_t *line = json_pack("{s:I, s:s}", "step", (json_int_t)r->at.n_updates, "phase", r->spec->phase->name);
    add_evaluation(line, r);
    forecast_begin(r); /* of its batches, before the next update's time is taken */
    if (write_line(r, line, err) != 0)
        return -1;
    return chart_metrics(r, "eval", r->evaluation, true, err);
}

/* What this rank sent for the steps of plans, since the process began: by the ideal form of each collective. */
static json_t *sent_json(const struct run *r)
{
    json_t *json = json_object();

    for (int k = 0; k < COMM_COLLECTIVES; k++)
        json_object_set_new(json, comm_word((enum collective)k),
                            json_pack("{s:I, s:f, s:f}", "calls", (json_int_t)r->comm.sent[k].calls, "elements",
                                      r->comm.sent[k].elements, "bytes", r->comm.sent[k].bytes));
    return json;
}

static json_t *measured_json(const struct run *r)
{
    json_t *peaks = json_array(), *allocated = json_object();

    for (int i = 0; r->rank_peaks && i < r->comm.ranks; i++)
        json_array_append_new(peaks, bytes_json(r->rank_peaks[i]));
    for (int k = 0; k < KIND_N; k++)
        json_object_set_new(allocated, kind_name((enum buffer_kind)k), json_integer((json_int_t)r->plan.kind_bytes[k]));
    json_t *json = json_pack(
        "{s:I, s:I, s:f, s:f, s:f, s:I, s:I, s:o, s:o, s:o, s:o, s:I, s:I, s:o, s:o}", "steps",
        (json_int_t)r->at.n_updates, "warmup_steps", (json_int_t)r->spec->measure_warmup, "steady_seconds",
        r->steady_seconds, "seconds", r->at.seconds, "wall_seconds", clock_seconds() - r->started_s, "steady_steps",
        (json_int_t)r->n_steady, "tokens", (json_int_t)r->at.n_tokens, "tokens_per_second",
        r->steady_seconds > 0 ? json_real((double)r->steady_tokens / r->steady_seconds) : json_null(), "peak_bytes",
        bytes_json(r->peak_bytes), "peak_bytes_per_rank", peaks, "allocated", allocated, "allocated_bytes",
        (json_int_t)r->exec.block_bytes, "allocated_file_bytes", (json_int_t)disk_bytes(r->exec.disk), "energy",
        energy_json(r), "final_loss", r->at.n_updates ? number(r->at.last_loss) : json_null());
    json_object_set_new(json, "mapped_bytes", json_integer((json_int_t)r->exec.mapped_bytes));
    json_object_set_new(json, "sent", sent_json(r));
    add_scales(json, r, false);
    add_evaluation(json, r);
    return json;
}

static json_t *techniques_json(const struct run *r)
{
    json_t *list = json_array();

    for (int i = 0; techniques[i]; i++)
        if (technique_is_on(&r->spec->techniques, i))
            json_array_append_new(list, json_string(technique_name(&r->spec->techniques, i)));
    return list;
}

static json_t *planned_json(const struct run *r)
{
    json_t *json = print_plan_json(&r->plan);

    json_object_set_new(json, "prediction", forecast_json(r));
    return json;
}

/* The words of technique i, in each set that has them, were decided by --optimize. */
static void mark_optimized(json_t *all, const struct option_set *set, int i)
{
    char name[128];

    for (const struct option *o = set->options; set->options == techniques[i]->options && o->name; o++) {
        snprintf(name, sizeof name, "%s%s", set->prefix ? set->prefix : "", o->name);
        json_object_set_new(json_object_get(all, name), "origin", json_string("optimize"));
    }
}

static json_t *options_json(const struct run *r)
{
    json_t *all = option_json(r->request.sets, r->request.n_sets, r->request.given, r->request.n_given);

    for (int i = 0; techniques[i]; i++)
        for (int s = 0; s < r->request.n_sets && r->was_optimized[i]; s++)
            mark_optimized(all, &r->request.sets[s], i);
    return all;
}

json_t *record_result(const struct run *r)
{
    struct machine machine;

    machine_read(&machine);
    json_t *json = json_pack(
        "{s:i, s:s, s:o, s:{s:s, s:s}, s:o, s:I, s:o, s:i, s:i, s:o, s:o, s:{s:I, s:I, s:I}}", "schema_version", 1,
        "phase", r->spec->phase->name, "options", options_json(r), "versions", "tuneup", TUNEUP_VERSION, "backend",
        r->backend.describe, "machine", machine_json(&machine), "seed", (json_int_t)r->spec->seed, "techniques",
        techniques_json(r), "ranks", r->comm.ranks, "threads", r->backend.threads, "planned", planned_json(r),
        "measured", measured_json(r), "records", "train", (json_int_t)r->inputs.train.n, "eval",
        (json_int_t)r->inputs.eval.n, "skipped", (json_int_t)r->inputs.n_skipped);
    if (json && r->optimized)
        json_object_set(json, "optimize", r->optimized);
    return json;
}

int record_finish(struct run *r, const char *state, struct err *err)
{
    if (r->metrics && (fflush(r->metrics) != 0 || fsync(fileno(r->metrics)) != 0))
        return err_errno(err, "could not write \"%s/metrics.jsonl\"", r->spec->output);
    return write_run_json(r, state, err);
}

void record_close(struct run *r)
{
    if (r->metrics)
        fclose(r->metrics);
    r->metrics = NULL;
    tensorboard_close(&r->tensorboard);
}

static void profile_summary(const struct run *r)
{
    double all = 0, matmul = 0;

    for (int i = 0; i < OP_N; i++) {
        all += r->op_seconds[i];
        matmul += op_rule((enum op)i)->matmul ? r->op_seconds[i] : 0;
    }
    for (int i = 0; i < OP_N; i++)
        if (r->op_seconds[i] > 0)
            log_note("  %-22s %9.3f s %5.1f %%", op_rule((enum op)i)->name, r->op_seconds[i],
                     100 * r->op_seconds[i] / all);
    log_note("  products with weights take %.1f %% of the %.3f s in steps", 100 * matmul / all, all);
}

static void tell_evaluations(const struct run *r)
{
    char first[512], last[512];

    record_words(r->spec->phase, r->at.first_eval, true, ", ", first, sizeof first);
    record_words(r->spec->phase, r->evaluation, true, ", ", last, sizeof last);
    if (first[0])
        log_note("evaluation at the start: %s", first);
    if (last[0])
        log_note("evaluation at the end: %s", last);
}

void record_summary(const struct run *r)
{
    const double wall = clock_seconds() - r->started_s;
    char memory[PRINT_BYTES_MAX], planned[PRINT_BYTES_MAX];
    struct energy_result e = { .state = METER_UNAVAILABLE, .reason = "no meter" };

    if (r->energy)
        energy_read(r->energy, &e);
    log_note("%" PRId64 " updates, %" PRId64
             " tokens in %.1f s (%.1f s with loading, evaluation and saving), %.0f tokens/s",
             r->at.n_updates, r->at.n_tokens, r->at.seconds, wall, (double)r->at.n_tokens / r->at.seconds);
    for (int i = 0; i < r->n_models; i++) {
        const struct loss_scale *s = scale_of(r, i);
        if (s && s->skipped > 0)
            log_note("%s%" PRId64 " updates were skipped, since gradients overflowed fp16; the loss scale is %.10g",
                     r->models[i].prefix, s->skipped, s->value);
    }
    if (r->inputs.n_skipped > 0)
        log_note("%" PRId64 " faulty records were left out", r->inputs.n_skipped);
    log_note("peak memory %s measured over all ranks, %s planned for tensors",
             r->peak_bytes < 0 ? "not" : print_bytes((double)r->peak_bytes, memory),
             print_bytes((double)r->exec.block_bytes * r->comm.ranks, planned));
    if (e.state == METER_UNAVAILABLE)
        log_note("energy unavailable: %s", e.reason);
    else
        log_note("energy %.1f J (%s)", e.joules, meter_state_name(e.state));
    tell_evaluations(r);
    if (r->spec->profile)
        profile_summary(r);
}
