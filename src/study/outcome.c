/* The steady window is summed here from the steps themselves, so that T and E always cover the same steps. */
#include "study/outcome.h"

#include <math.h>
#include <regex.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

#define RUN_MAX_BYTES (16 << 20)
#define METRICS_MAX_BYTES (256 << 20)
#define MANY 1e300

const char *const outcome_kinds[OUTCOME_N_KINDS] = { "param",      "master", "grad", "optimizer",
                                                     "activation", "kv",     "comm", "workspace" };

void outcome_init(struct outcome *o)
{
    *o = (struct outcome){ .warmup_steps = -1,
                           .tokens = -1,
                           .peak_bytes = -1,
                           .steady_s = NAN,
                           .steady_j = NAN,
                           .tokens_per_s = NAN,
                           .final_loss = NAN,
                           .eval_loss = NAN,
                           .perplexity = NAN,
                           .planned_peak_bytes = -1,
                           .planned_flops = NAN,
                           .planned_bytes_moved = NAN,
                           .planned_comm_bytes = NAN };
    for (int i = 0; i < OUTCOME_N_KINDS; i++)
        o->planned[i] = o->allocated[i] = -1;
    snprintf(o->energy_state, sizeof o->energy_state, "unavailable");
}

void outcome_free(struct outcome *o)
{
    mem_free(o->steps);
    mem_free(o->metrics);
    mem_free(o->run_json);
    o->steps = NULL;
    o->metrics = NULL;
    o->run_json = NULL;
    o->n_steps = o->n_metrics = 0;
}

static int read_kinds(const json_t *object, const char *path, int64_t *out, struct err *err)
{
    for (int i = 0; i < OUTCOME_N_KINDS; i++)
        if (json_get_int(object, path, outcome_kinds[i], 0, INT64_MAX, &out[i], err) < 0)
            return -1;
    return 0;
}

static int read_energy(struct outcome *o, const json_t *energy, const char *path, struct err *err)
{
    const char *state = "unavailable", *reason = "";

    if (json_get_string(energy, path, "state", &state, err) < 0 ||
        json_get_string(energy, path, "reason", &reason, err) < 0)
        return -1;
    snprintf(o->energy_state, sizeof o->energy_state, "%s", state);
    snprintf(o->energy_reason, sizeof o->energy_reason, "%s", reason);
    return 0;
}

static int read_rank_peaks(struct outcome *o, const json_t *list)
{
    for (size_t i = 0; i < json_array_size(list) && i < OUTCOME_MAX_RANKS; i++) {
        const json_t *v = json_array_get(list, i);

        o->rank_peak_bytes[o->n_ranks++] = json_is_integer(v) ? json_integer_value(v) : -1;
    }
    return 0;
}

/* What has a place of its own, in the struct or beside the run. */
static const char *const placed[] = { "step",       "loss",      "lr",         "grad_norm",    "tokens",
                                      "seconds",    "joules",    "peak_bytes", "steps",        "tokens_per_second",
                                      "final_loss", "eval_loss", "perplexity", "warmup_steps", "rank",
                                      NULL };

static bool is_placed(const char *name)
{
    for (const char *const *p = placed; *p; p++)
        if (strcmp(*p, name) == 0)
            return true;
    return false;
}

/* Every other number of the object. */
static int add_metrics(struct outcome *o, const json_t *object, int64_t step, struct err *err)
{
    const char *name;
    json_t *value;
    int n = 0;

    json_object_foreach((json_t *)object, name, value)
    {
        const double number = json_number_value(value);

        if (!json_is_number(value) || !isfinite(number) || is_placed(name) || strlen(name) >= OUTCOME_NAME_MAX ||
            n == OUTCOME_MAX_METRICS)
            continue;
        struct outcome_metric *grown = mem_resize(o->metrics, o->n_metrics + 1, sizeof *grown, MEM_RECORD, err);
        if (!grown)
            return -1;
        o->metrics = grown;
        o->metrics[o->n_metrics] = (struct outcome_metric){ .step = step, .value = number };
        snprintf(o->metrics[o->n_metrics++].name, OUTCOME_NAME_MAX, "%s", name);
        n++;
    }
    return 0;
}

static int read_run(struct outcome *o, const json_t *run, const char *path, struct err *err)
{
    const json_t *planned = json_object_get(run, "planned"), *measured = json_object_get(run, "measured");

    if (!json_is_object(measured)) {
        err_set(err, ERR_INPUT, "the run's record has no \"measured\"");
        return err_where(err, "file \"%s\"", path);
    }
    if (read_kinds(json_object_get(planned, "memory"), path, o->planned, err) < 0 ||
        read_kinds(json_object_get(measured, "allocated"), path, o->allocated, err) < 0 ||
        json_get_int(planned, path, "peak_bytes", 0, INT64_MAX, &o->planned_peak_bytes, err) < 0 ||
        json_get_real(planned, path, "flops", 0, MANY, &o->planned_flops, err) < 0 ||
        json_get_real(planned, path, "bytes_moved", 0, MANY, &o->planned_bytes_moved, err) < 0 ||
        json_get_real(planned, path, "comm_bytes", 0, MANY, &o->planned_comm_bytes, err) < 0)
        return -1;
    if (json_get_int(measured, path, "warmup_steps", 0, INT64_MAX, &o->warmup_steps, err) < 0 ||
        json_get_int(measured, path, "tokens", 0, INT64_MAX, &o->tokens, err) < 0 ||
        json_get_int(measured, path, "peak_bytes", 1, INT64_MAX, &o->peak_bytes, err) < 0 ||
        json_get_real(measured, path, "tokens_per_second", 0, MANY, &o->tokens_per_s, err) < 0 ||
        json_get_real(measured, path, "final_loss", -MANY, MANY, &o->final_loss, err) < 0 ||
        json_get_real(measured, path, "eval_loss", -MANY, MANY, &o->eval_loss, err) < 0 ||
        json_get_real(measured, path, "perplexity", 0, MANY, &o->perplexity, err) < 0)
        return -1;
    if (read_energy(o, json_object_get(measured, "energy"), path, err) < 0 || add_metrics(o, measured, 0, err) != 0)
        return -1;
    return read_rank_peaks(o, json_object_get(measured, "peak_bytes_per_rank"));
}

static int read_step(struct outcome_step *s, const json_t *line, const char *path, struct err *err)
{
    *s = (struct outcome_step){ -1, -1, -1, NAN, NAN, NAN, NAN, NAN };
    if (json_get_int(line, path, "step", 0, INT64_MAX, &s->step, err) < 0 ||
        json_get_int(line, path, "tokens", 0, INT64_MAX, &s->tokens, err) < 0 ||
        json_get_int(line, path, "peak_bytes", 0, INT64_MAX, &s->peak_bytes, err) < 0 ||
        json_get_real(line, path, "loss", -MANY, MANY, &s->loss, err) < 0 ||
        json_get_real(line, path, "lr", 0, MANY, &s->lr, err) < 0 ||
        json_get_real(line, path, "grad_norm", 0, MANY, &s->grad_norm, err) < 0 ||
        json_get_real(line, path, "seconds", 0, MANY, &s->seconds, err) < 0 ||
        json_get_real(line, path, "joules", 0, MANY, &s->joules, err) < 0)
        return -1;
    return 0;
}

static int add_step(struct outcome *o, const json_t *line, const char *path, struct err *err)
{
    struct outcome_step s;

    if (read_step(&s, line, path, err) < 0)
        return -1;
    struct outcome_step *grown = mem_resize(o->steps, o->n_steps + 1, sizeof s, MEM_RECORD, err);
    if (!grown)
        return -1;
    o->steps = grown;
    o->steps[o->n_steps++] = s;
    return add_metrics(o, line, s.step, err);
}

/* A command's line, as measure/steps.h has it: of rank 0, with a step after the last one; what is none is left out there too. */
static int add_told(struct outcome *o, const json_t *line, const char *path, struct err *err)
{
    const json_t *step = json_object_get(line, "step"), *rank = json_object_get(line, "rank");
    const json_int_t last = o->n_steps > 0 ? o->steps[o->n_steps - 1].step : -1;

    if (!json_is_integer(step) || json_integer_value(step) <= last || json_integer_value(rank) != 0)
        return 0;
    return add_step(o, line, path, err) == 0 || err->code == ERR_INPUT ? 0 : -1;
}

/* Of a phase, lines without "seconds" are other things (an evaluation): the study keeps optimizer steps, and iterations of
 * PPO, alone. */
static int read_metrics(struct outcome *o, const char *path, bool command, struct err *err)
{
    size_t n = 0;
    char *text = file_read(path, METRICS_MAX_BYTES, &n, err);
    int64_t number = 0;
    int failed = text ? 0 : -1;

    for (char *line = text, *end; !failed && line < text + n; line = end + 1) {
        end = memchr(line, '\n', (size_t)(text + n - line));
        if (!end)
            end = text + n;
        number++;
        if (end == line)
            continue;
        json_t *value = json_parse(line, (size_t)(end - line), path, number, err);
        failed = command                             ? add_told(o, value, path, err)
                 : !value                            ? -1
                 : json_object_get(value, "seconds") ? add_step(o, value, path, err)
                                                     : 0;
        json_decref(value);
    }
    mem_free(text);
    return failed;
}

/* T and E over the steps after the warm-up. One step without joules makes E unknown. */
static void sum_steady(struct outcome *o)
{
    double seconds = 0, joules = 0;
    int n = 0;

    for (int i = o->warmup_steps > 0 ? (int)o->warmup_steps : 0; i < o->n_steps; i++, n++) {
        seconds += o->steps[i].seconds;
        joules += o->steps[i].joules;
    }
    if (n > 0 && seconds > 0)
        o->steady_s = seconds;
    if (n > 0 && joules > 0 && strcmp(o->energy_state, "unavailable") != 0)
        o->steady_j = joules;
    if (isnan(o->steady_j) && strcmp(o->energy_state, "unavailable") != 0) {
        snprintf(o->energy_state, sizeof o->energy_state, "unavailable");
        snprintf(o->energy_reason, sizeof o->energy_reason, "not every step after the warm-up has a reading");
    }
}

int outcome_read(struct outcome *o, const char *folder, struct err *err)
{
    char path[FILE_PATH_MAX];
    size_t n = 0;

    outcome_init(o);
    if (file_join(path, folder, "run.json", err) != 0)
        return -1;
    o->run_json = file_read(path, RUN_MAX_BYTES, &n, err);
    json_t *run = o->run_json ? json_parse(o->run_json, n, path, 1, err) : NULL;
    const int failed = !run || read_run(o, run, path, err) != 0;
    json_decref(run);
    if (failed || file_join(path, folder, "metrics.jsonl", err) != 0 || read_metrics(o, path, false, err) != 0) {
        outcome_free(o);
        return -1;
    }
    sum_steady(o);
    return 0;
}

/* ---- Commands ---- */

/* The last match in the file, line by line; NAN when there is none. */
static double last_match(const char *path, const regex_t *re)
{
    FILE *f = fopen(path, "r");
    char *line = NULL;
    size_t room = 0;
    double found = NAN;

    while (f && getline(&line, &room, f) > 0) {
        regmatch_t m[2];
        char *end;

        for (const char *at = line; regexec(re, at, 2, m, at == line ? 0 : REG_NOTBOL) == 0 && m[1].rm_so >= 0;
             at += m[0].rm_eo) {
            const double value = strtod(at + m[1].rm_so, &end);

            if (end > at + m[1].rm_so && isfinite(value))
                found = value;
            if (m[0].rm_eo == m[0].rm_so)
                break;
        }
    }
    free(line);
    if (f)
        fclose(f);
    return found;
}

static int find_loss(struct outcome *o, const char *folder, const char *pattern, struct err *err)
{
    static const char *const files[] = { "stderr.txt", "stdout.txt" };
    char path[FILE_PATH_MAX];
    regex_t re;

    if (regcomp(&re, pattern, REG_EXTENDED | REG_NEWLINE) != 0)
        return err_set(err, ERR_INPUT, "the loss pattern \"%.80s\" is no regular expression", pattern);
    for (int i = 0; i < COUNT_OF(files); i++) {
        const double found = file_join(path, folder, files[i], err) == 0 ? last_match(path, &re) : NAN;

        if (!isnan(found))
            o->final_loss = found;
    }
    regfree(&re);
    return 0;
}

int outcome_read_command(struct outcome *o, const char *folder, const char *metrics, const char *pattern,
                         struct err *err)
{
    outcome_init(o);
    if (metrics && read_metrics(o, metrics, true, err) != 0)
        goto failed;
    for (int i = 0; i < o->n_steps; i++)
        if (!isnan(o->steps[i].loss))
            o->final_loss = o->steps[i].loss;
    if (pattern && find_loss(o, folder, pattern, err) != 0)
        goto failed;
    return 0;
failed:
    outcome_free(o);
    return -1;
}
