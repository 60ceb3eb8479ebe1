/* One transaction makes the study's row and the cell where they are missing, and gives the run its block. */
#include "study/recorder.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/mem.h"

int recorder_open(struct recorder *r, const char *path, struct err *err)
{
    int64_t others = 0;

    if (study_store_open(&r->store, path, err) != 0)
        return -1;
    if (db_exec(&r->store.db, err, &others, "SELECT count(*) FROM study WHERE design <> 'recorded'", "") == 0 &&
        others == 0)
        return 0;
    if (others > 0) {
        err_set(err, ERR_USAGE, "the file holds a study, which single runs cannot be added to");
        err_where(err, "file \"%s\"", path);
        err_hint(err, "Choose another file, or add the command to the study as a cell.");
    }
    recorder_close(r);
    return -1;
}

void recorder_close(struct recorder *r)
{
    study_store_close(&r->store);
}

/* ---- rows ---- */

static int add_study(struct db *db, const char *machine, struct err *err)
{
    const time_t now = time(NULL);
    struct tm tm;
    char text[32];
    int64_t there = 0;

    if (db_exec(db, err, &there, "SELECT count(*) FROM study", "") != 0)
        return -1;
    if (there > 0)
        return 0;
    strftime(text, sizeof text, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    return db_exec(db, err, NULL,
                   "INSERT INTO study(id, name, design, spec, seed, blocks, machine, version, program_hash, created)"
                   " VALUES(1, 'measured commands', 'recorded', '{}', 0, 0, ?, ?, '', ?)",
                   "ttt", machine, TUNEUP_VERSION, text);
}

/* Its id; -1 = error. */
static int64_t cell_of(struct db *db, const char *label, const char *argv, struct err *err)
{
    int64_t id = 0, first = 0;

    if (db_exec(db, err, &id, "SELECT id FROM cell WHERE name = ? AND phase = 'command'", "t", label) != 0 ||
        db_exec(db, err, &first, "SELECT min(id) FROM cell", "") != 0)
        return -1;
    if (id > 0)
        return id;
    if (db_exec(db, err, &id, "SELECT coalesce(max(id), 0) + 1 FROM cell", "") != 0 ||
        db_exec(db, err, NULL,
                "INSERT INTO cell(id, name, phase, ranks, techniques, argv, exact, baseline, command)"
                " VALUES(?, ?, 'command', 1, '[]', ?, 0, ?, 1)",
                "itti", id, label, argv, first > 0 ? first : id) != 0)
        return -1;
    return id;
}

/* ---- what the command told of itself ---- */

static int add_metric(struct outcome *o, const char *name, double value, struct err *err)
{
    if (!isfinite(value))
        return 0;
    struct outcome_metric *grown = mem_resize(o->metrics, o->n_metrics + 1, sizeof *grown, MEM_RECORD, err);
    if (!grown)
        return -1;
    o->metrics = grown;
    o->metrics[o->n_metrics] = (struct outcome_metric){ .value = value };
    snprintf(o->metrics[o->n_metrics++].name, OUTCOME_NAME_MAX, "%s", name);
    return 0;
}

static double known(int64_t value)
{
    return value < 0 ? NAN : (double)value;
}

static int add_numbers(struct outcome *o, const struct job_record *r, const struct steps_window *w, struct err *err)
{
    double busy = 0;

    for (int i = 0; i < r->gpus.n; i++)
        busy += r->gpus.gpus[i].busy / r->gpus.n;
    if (add_metric(o, "context_switches", known(r->n_switches), err) != 0 ||
        add_metric(o, "preemptions", known(r->n_preemptions), err) != 0 ||
        add_metric(o, "read_bytes", known(r->read_bytes), err) != 0 ||
        add_metric(o, "written_bytes", known(r->written_bytes), err) != 0 ||
        add_metric(o, "steal_seconds", r->steal_seconds, err) != 0 ||
        add_metric(o, "gpu_peak_bytes", known(r->gpus.peak_bytes), err) != 0)
        return -1;
    if (r->gpus.n > 0 && add_metric(o, "gpu_utilisation", busy, err) != 0)
        return -1;
    return w ? add_metric(o, "allocated_bytes", known(w->allocated_bytes), err) : 0;
}

/* What the meter saw of a step goes over what the outcome has of it already. */
static void fill_step(struct outcome_step *out, const struct steps_one *one, double before_s, double before_j)
{
    out->step = one->step;
    out->tokens = one->tokens;
    out->peak_bytes = one->allocated_bytes;
    out->loss = one->loss;
    out->seconds = one->at_s - before_s;
    out->joules = one->joules - before_j;
}

static int add_steps(struct outcome *o, const struct steps *s, const struct steps_window *w, struct err *err)
{
    if (o->n_steps != s->n) {
        void *grown = mem_resize(o->steps, s->n, sizeof *o->steps, MEM_RECORD, err);

        if (!grown)
            return -1;
        o->steps = grown;
        for (int64_t i = 0; i < s->n; i++)
            o->steps[i] = (struct outcome_step){ .lr = NAN, .grad_norm = NAN };
        o->n_steps = (int)s->n;
    }
    for (int64_t i = 0; i < s->n; i++)
        fill_step(&o->steps[i], &s->items[i], i > 0 ? s->items[i - 1].at_s : s->start_s,
                  i > 0 ? s->items[i - 1].joules : 0);
    o->warmup_steps = w->warmup;
    o->steady_s = w->seconds;
    o->steady_j = w->joules;
    if (isnan(o->final_loss))
        o->final_loss = w->final_loss;
    o->tokens = w->tokens >= 0 && w->tokens < 1e18 ? (int64_t)w->tokens : -1;
    o->tokens_per_s = w->tokens / w->seconds;
    return 0;
}

int recorder_outcome(struct outcome *o, const struct job_record *r, const struct steps *s, const struct steps_window *w,
                     struct err *err)
{
    if (s && s->n > 0 && add_steps(o, s, w, err) != 0)
        return -1;
    if (!isnan(o->steady_j))
        snprintf(o->energy_state, sizeof o->energy_state, "%s", meter_state_name(r->energy.state));
    snprintf(o->energy_reason, sizeof o->energy_reason, "%.500s",
             isnan(o->steady_j) && s && s->n > 0 && w->reason[0] ? w->reason : r->energy.reason);
    if (r->gpus.peak_bytes >= RECORDER_GPU_BYTES)
        o->peak_bytes = r->gpus.peak_bytes;
    return add_numbers(o, r, s ? w : NULL, err);
}

/* ---- the run ---- */

static int add_run(struct recorder *rec, int64_t cell, const char *argv, const char *machine,
                   const struct job_record *r, const struct outcome *o, struct err *err)
{
    char reason[64] = "", energy_reason[1000], domains[ENERGY_MAX_DOMAINS * 84];
    int64_t block = 0;

    if (db_exec(&rec->store.db, err, &block, "SELECT coalesce(max(block), -1) + 1 FROM run WHERE cell = ?", "i",
                cell) != 0 ||
        db_exec(&rec->store.db, err, NULL, "UPDATE study SET blocks = max(blocks, ?)", "i", block + 1) != 0)
        return -1;
    if (r->exit_status != 0)
        snprintf(reason, sizeof reason, "it ended with status %d", r->exit_status);
    snprintf(energy_reason, sizeof energy_reason, "%s%s%s", r->energy.reason, r->energy.hint[0] ? ". " : "",
             r->energy.hint);
    energy_covers(&r->energy, domains, sizeof domains);
    const struct study_run run = { .block = block,
                                   .argv_json = argv,
                                   .state = r->exit_status == 0 ? "done" : "failed",
                                   .reason = reason,
                                   .stderr_tail = "",
                                   .exit_status = r->exit_status,
                                   .seconds = r->seconds,
                                   .cpu_seconds = r->cpu_seconds,
                                   .load_before = r->load_before,
                                   .sample_interval_s = r->sample_interval_s,
                                   .peak_bytes = r->peak_bytes,
                                   .peak_pss_bytes = r->peak_pss_bytes,
                                   .n_samples = r->n_samples,
                                   .energy_state = meter_state_name(r->energy.state),
                                   .energy_reason = energy_reason,
                                   .energy_domains = domains,
                                   .joules = r->energy.state == METER_UNAVAILABLE ? NAN : r->energy.joules,
                                   .noise = r->noise,
                                   .machine = machine,
                                   .timeline = &r->timeline,
                                   .outcome = o };
    return study_store_add_run(&rec->store, cell, &run, err);
}

int recorder_add(struct recorder *rec, const char *label, const json_t *command, const struct machine *machine,
                 const struct job_record *record, const struct steps *steps, const struct steps_window *w,
                 struct err *err)
{
    json_t *described = machine_json(machine);
    char *argv = json_dumps(command, JSON_COMPACT),
         *machine_text = described ? json_dumps(described, JSON_COMPACT) : NULL;
    struct db *db = &rec->store.db;
    struct outcome o;
    char place[256];
    int result = -1;

    outcome_init(&o);
    json_decref(described);
    snprintf(place, sizeof place, "%s, %s, %d CPUs", machine->host, machine->cpu, machine->n_cpus);
    if (!argv || !machine_text)
        err_set(err, ERR_MEMORY, "could not write down the run");
    else if (recorder_outcome(&o, record, steps, w, err) == 0 && db_begin(db, err) == 0) {
        const int64_t cell = add_study(db, machine_text, err) != 0 ? -1 : cell_of(db, label, argv, err);
        result = db_end(db, cell < 0 ? -1 : add_run(rec, cell, argv, place, record, &o, err), err);
    }
    outcome_free(&o);
    free(argv);
    free(machine_text);
    return result;
}
