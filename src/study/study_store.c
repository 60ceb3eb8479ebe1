/* A run and all that belongs to it go in by one transaction. */
#include "study/study_store.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"

static const char schema[] =
    "CREATE TABLE study(id INTEGER PRIMARY KEY CHECK(id = 1), name TEXT NOT NULL, design TEXT NOT NULL, spec TEXT NOT "
    "NULL,"
    " seed INTEGER NOT NULL, blocks INTEGER NOT NULL, machine TEXT NOT NULL, version TEXT NOT NULL,"
    " program_hash TEXT NOT NULL, created TEXT NOT NULL) STRICT;"
    "CREATE TABLE cell(id INTEGER PRIMARY KEY, name TEXT NOT NULL, phase TEXT NOT NULL, ranks INTEGER NOT NULL,"
    " techniques TEXT NOT NULL, argv TEXT NOT NULL, exact INTEGER NOT NULL, baseline INTEGER NOT NULL REFERENCES "
    "cell(id),"
    " UNIQUE(name, phase, ranks)) STRICT;"
    "CREATE TABLE run(id INTEGER PRIMARY KEY, cell INTEGER NOT NULL REFERENCES cell(id), block INTEGER NOT NULL,"
    " position INTEGER NOT NULL, finished TEXT NOT NULL, argv TEXT NOT NULL, state TEXT NOT NULL, reason TEXT NOT NULL,"
    " stderr_tail TEXT NOT NULL, exit_status INTEGER NOT NULL, seconds REAL, cpu_seconds REAL, load_before REAL,"
    " sample_interval_s REAL, n_samples INTEGER, peak_bytes INTEGER, peak_pss_bytes INTEGER, energy_state TEXT NOT "
    "NULL,"
    " energy_reason TEXT NOT NULL, energy_domains TEXT NOT NULL, joules REAL,"
    " steady_s REAL, steady_j REAL, steady_energy_state TEXT, steady_energy_reason TEXT, warmup_steps INTEGER,"
    " tokens INTEGER, tokens_per_s REAL, own_peak_bytes INTEGER, rank_peak_bytes TEXT, final_loss REAL, eval_loss REAL,"
    " perplexity REAL, planned_peak_bytes INTEGER, planned_flops REAL, planned_bytes_moved REAL, planned_comm_bytes "
    "REAL,"
    " run_json TEXT, UNIQUE(cell, block)) STRICT;"
    "CREATE TABLE memory(run INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE, kind TEXT NOT NULL, planned "
    "INTEGER,"
    " allocated INTEGER, PRIMARY KEY(run, kind)) STRICT, WITHOUT ROWID;"
    "CREATE TABLE step(run INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE, step INTEGER NOT NULL, loss REAL, lr "
    "REAL,"
    " grad_norm REAL, tokens INTEGER, seconds REAL, joules REAL, peak_bytes INTEGER,"
    " PRIMARY KEY(run, step)) STRICT, WITHOUT ROWID;";
static const char schema_2[] = "CREATE TABLE metric(run INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE, step "
                               "INTEGER NOT NULL, name TEXT NOT "
                               "NULL,"
                               " value REAL NOT NULL, PRIMARY KEY(run, step, name)) STRICT, WITHOUT ROWID;";
/* What disturbed a run and where it ran; which cells are commands, whatever their phase is called. */
static const char schema_3[] = "ALTER TABLE run ADD COLUMN steal_s REAL;"
                               "ALTER TABLE run ADD COLUMN cgroup_wait_s REAL;"
                               "ALTER TABLE run ADD COLUMN throttles INTEGER;"
                               "ALTER TABLE run ADD COLUMN swapped_in INTEGER;"
                               "ALTER TABLE run ADD COLUMN machine TEXT;"
                               "ALTER TABLE cell ADD COLUMN command INTEGER NOT NULL DEFAULT 0;"
                               "UPDATE cell SET command = 1 WHERE phase = 'command';";
/* Memory and power over time. */
static const char schema_4[] =
    "CREATE TABLE trace(run INTEGER NOT NULL REFERENCES run(id) ON DELETE CASCADE, point INTEGER NOT NULL,"
    " seconds REAL NOT NULL, memory_bytes INTEGER, gpu_bytes INTEGER, watts REAL,"
    " PRIMARY KEY(run, point)) STRICT, WITHOUT ROWID;";
static const char *const steps[STUDY_STORE_SCHEMA] = { schema, schema_2, schema_3,
                                                       schema_4 }; /* steps[n] makes n + 1 of n */

static void now_text(char *out, size_t size)
{
    const time_t now = time(NULL);
    struct tm tm;

    gmtime_r(&now, &tm);
    strftime(out, size, "%Y-%m-%dT%H:%M:%SZ", &tm);
}

/* Inside a transaction, so that two programs that open a new file at once do not both make its tables. */
static int create_or_check(struct study_store *s, struct err *err)
{
    int64_t version = 0, application = 0, tables = 0;
    char pragma[64];

    if (db_exec(&s->db, err, &version, "PRAGMA user_version", "") != 0 ||
        db_exec(&s->db, err, &application, "PRAGMA application_id", "") != 0 ||
        db_exec(&s->db, err, &tables, "SELECT count(*) FROM sqlite_schema", "") != 0)
        return -1;
    if (tables > 0 && application != STUDY_STORE_APPLICATION) {
        err_set(err, ERR_INPUT, "the file is a database of another program");
        return err_where(err, "file \"%s\"", s->db.path);
    }
    if (version > STUDY_STORE_SCHEMA) {
        err_set(err, ERR_INPUT, "the study's file has schema %" PRId64 ", this tuneup knows up to %d", version,
                STUDY_STORE_SCHEMA);
        err_where(err, "file \"%s\"", s->db.path);
        return err_hint(err, "Use the newer tuneup that wrote it.");
    }
    if (tables > 0 && version == STUDY_STORE_SCHEMA)
        return 0;
    if (tables > 0 && version < 1) {
        err_set(err, ERR_INPUT, "the study's file has no schema number");
        return err_where(err, "file \"%s\"", s->db.path);
    }
    for (int64_t i = tables == 0 ? 0 : version; i < STUDY_STORE_SCHEMA; i++)
        if (db_script(&s->db, steps[i], err) != 0)
            return -1;
    snprintf(pragma, sizeof pragma, "PRAGMA application_id = %d", STUDY_STORE_APPLICATION);
    if (db_exec(&s->db, err, NULL, pragma, "") != 0)
        return -1;
    snprintf(pragma, sizeof pragma, "PRAGMA user_version = %d", STUDY_STORE_SCHEMA);
    return db_exec(&s->db, err, NULL, pragma, "");
}

/* An older file is kept as it was: "study.db.schema-2". One that is there already is an earlier attempt's, and as good. */
static int keep_older(struct study_store *s, struct err *err)
{
    int64_t version = 0, application = 0;
    char copy[FILE_PATH_MAX];

    if (db_exec(&s->db, err, &version, "PRAGMA user_version", "") != 0 ||
        db_exec(&s->db, err, &application, "PRAGMA application_id", "") != 0)
        return -1;
    if (application != STUDY_STORE_APPLICATION || version < 1 || version >= STUDY_STORE_SCHEMA)
        return 0;
    if ((size_t)snprintf(copy, sizeof copy, "%s.schema-%" PRId64, s->db.path, version) >= sizeof copy)
        return err_set(err, ERR_USAGE, "the path \"%.80s...\" is too long", s->db.path);
    return file_exists(copy) ? 0 : db_copy(&s->db, copy, err);
}

static int open_file(struct study_store *s, const char *path, bool create, struct err *err)
{
    if (db_open(&s->db, path, create, err) != 0)
        return -1;
    if (keep_older(s, err) != 0) {
        study_store_close(s);
        return -1;
    }
    /* The check comes before the journal's mode, which is written into the file: it may be somebody else's. */
    if (db_begin(&s->db, err) != 0 || db_end(&s->db, create_or_check(s, err), err) != 0 ||
        db_durable(&s->db, err) != 0) {
        study_store_close(s);
        return -1;
    }
    return 0;
}

int study_store_open(struct study_store *s, const char *path, struct err *err)
{
    return open_file(s, path, true, err);
}

int study_store_open_existing(struct study_store *s, const char *path, struct err *err)
{
    return open_file(s, path, false, err);
}

void study_store_close(struct study_store *s)
{
    db_close(&s->db);
}

/* ---- The study and its cells ---- */

static int add_study(struct study_store *s, const char *name, const char *design, const char *spec, int64_t seed,
                     int64_t blocks, const char *machine, const char *binary, struct err *err)
{
    char now[32];

    now_text(now, sizeof now);
    return db_exec(&s->db, err, NULL, "INSERT INTO study VALUES(1, ?, ?, ?, ?, ?, ?, ?, ?, ?)", "tttiitttt", name,
                   design, spec, seed, blocks, machine, TUNEUP_VERSION, binary, now);
}

static int add_cell(struct study_store *s, int64_t id, const json_t *cell, int64_t baseline, bool command,
                    struct err *err)
{
    char *techniques = json_dumps(json_object_get(cell, "techniques"), JSON_COMPACT);
    char *argv = json_dumps(json_object_get(cell, "argv"), JSON_COMPACT);
    int result = -1;

    if (techniques && argv)
        result =
            db_exec(&s->db, err, NULL, "INSERT INTO cell VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)", "ittittiii", id,
                    json_string_value(json_object_get(cell, "name")), json_string_value(json_object_get(cell, "phase")),
                    (int64_t)json_integer_value(json_object_get(cell, "ranks")), techniques, argv,
                    (int64_t)json_is_true(json_object_get(cell, "exact")), baseline, (int64_t)command);
    else
        err_set(err, ERR_MEMORY, "could not write down a cell");
    free(techniques);
    free(argv);
    return result;
}

static int write_all(struct study_store *s, const struct cells *cells, const json_t *spec, const char *text,
                     const char *machine, const char *binary, struct err *err)
{
    if (db_exec(&s->db, err, NULL, "PRAGMA defer_foreign_keys = ON", "") != 0 ||
        add_study(s, cells->name, "blocks", text, cells->seed, cells->blocks, machine, binary, err) != 0)
        return -1;
    for (int i = 0; i < cells->n_cells; i++)
        if (add_cell(s, i + 1, json_array_get(json_object_get(spec, "cells"), (size_t)i), cells_baseline(cells, i) + 1,
                     cells->cells[i].is_command, err) != 0)
            return -1;
    return 0;
}

static int take_one_text(void *user, struct db_row *r)
{
    *(char **)user = db_take_text(r);
    return 0;
}

/* The stored text of one column of the study's row; *out is NULL where there is no row. The caller frees it. */
static int study_text(struct study_store *s, const char *sql, char **out, struct err *err)
{
    *out = NULL;
    return db_each(&s->db, sql, take_one_text, out, err);
}

/* More blocks than before continue a study; everything else has to be what it was. */
static int compare(struct study_store *s, const char *stored_text, const json_t *asked, struct err *err)
{
    json_t *stored = json_parse(stored_text, strlen(stored_text), s->db.path, 1, err);
    const json_int_t blocks = json_integer_value(json_object_get(asked, "blocks"));
    char difference[640];

    if (!stored)
        return -1;
    const bool grows = blocks > json_integer_value(json_object_get(stored, "blocks"));
    if (grows)
        json_object_set_new(stored, "blocks", json_integer(blocks));
    const bool differs = cells_difference(stored, asked, difference, sizeof difference);
    char *text = json_dumps(stored, JSON_COMPACT);
    json_decref(stored);
    int result = 0;
    if (differs) {
        err_set(err, ERR_USAGE, "the study here is another one: %s", difference);
        err_where(err, "file \"%s\"", s->db.path);
        result = err_hint(err, "Choose another --output for the changed study, or remove this one.");
    } else if (grows) {
        result = db_exec(&s->db, err, NULL, "UPDATE study SET blocks = ?, spec = ?", "it", (int64_t)blocks, text);
    }
    free(text);
    return result;
}

int study_store_begin(struct study_store *s, const struct cells *cells, const char *machine_json, const char *binary,
                      bool *rebuilt, struct err *err)
{
    json_t *spec = cells_json(cells);
    char *text = spec ? json_dumps(spec, JSON_COMPACT) : NULL, *stored = NULL, *built = NULL;
    int result = -1;

    *rebuilt = false;
    if (!text) {
        err_set(err, ERR_USAGE, "the study's words cannot be written down: one is not valid UTF-8");
        goto done;
    }
    if (db_begin(&s->db, err) != 0)
        goto done;
    result = study_text(s, "SELECT spec FROM study", &stored, err);
    if (result == 0 && stored)
        result = compare(s, stored, spec, err);
    else if (result == 0)
        result = write_all(s, cells, spec, text, machine_json, binary, err);
    if (result == 0)
        result = study_text(s, "SELECT program_hash FROM study", &built, err);
    result = db_end(&s->db, result, err);
    *rebuilt = built && strcmp(built, binary) != 0;
done:
    json_decref(spec);
    free(text);
    mem_free(stored);
    mem_free(built);
    return result;
}

int study_store_has(struct study_store *s, int cell, int64_t block, struct err *err)
{
    int64_t n = 0;

    if (db_exec(&s->db, err, &n, "SELECT count(*) FROM run WHERE cell = ? AND block = ?", "ii", (int64_t)cell + 1,
                block) != 0)
        return -1;
    return n > 0;
}

int study_store_remove(struct study_store *s, int64_t id, struct err *err)
{
    if (db_exec(&s->db, err, NULL, "DELETE FROM run WHERE id = ?", "i", id) != 0)
        return -1;
    if (db_changes(&s->db) > 0)
        return 0;
    err_set(err, ERR_USAGE, "there is no run %" PRId64, id);
    err_where(err, "file \"%s\"", s->db.path);
    return err_hint(err, "`tuneup runs ls` shows the numbers.");
}

int study_store_forget_failed(struct study_store *s, struct err *err)
{
    if (db_exec(&s->db, err, NULL, "DELETE FROM run WHERE state = 'failed'", "") != 0)
        return -1;
    return (int)db_changes(&s->db);
}

/* ---- Runs ---- */

static int add_outcome(struct study_store *s, int64_t run, const struct outcome *o, struct err *err)
{
    char ranks[OUTCOME_MAX_RANKS * 24] = "[";
    size_t used = 1;

    for (int i = 0; i < o->n_ranks; i++)
        used += (size_t)snprintf(ranks + used, sizeof ranks - used, "%s%" PRId64, i ? "," : "", o->rank_peak_bytes[i]);
    snprintf(ranks + used, sizeof ranks - used, "]");
    if (db_exec(&s->db, err, NULL,
                "UPDATE run SET steady_s = ?, steady_j = ?, steady_energy_state = ?, steady_energy_reason = ?,"
                " warmup_steps = ?, tokens = ?, tokens_per_s = ?, own_peak_bytes = ?, rank_peak_bytes = ?,"
                " final_loss = ?, eval_loss = ?, perplexity = ?, planned_peak_bytes = ?, planned_flops = ?,"
                " planned_bytes_moved = ?, planned_comm_bytes = ?, run_json = ? WHERE id = ?",
                "ddttnndntdddndddti", o->steady_s, o->steady_j, o->energy_state, o->energy_reason, o->warmup_steps,
                o->tokens, o->tokens_per_s, o->peak_bytes, ranks, o->final_loss, o->eval_loss, o->perplexity,
                o->planned_peak_bytes, o->planned_flops, o->planned_bytes_moved, o->planned_comm_bytes, o->run_json,
                run) != 0)
        return -1;
    for (int i = 0; i < OUTCOME_N_KINDS; i++)
        if (db_exec(&s->db, err, NULL, "INSERT INTO memory VALUES(?, ?, ?, ?)", "itnn", run, outcome_kinds[i],
                    o->planned[i], o->allocated[i]) != 0)
            return -1;
    for (int i = 0; i < o->n_steps; i++) {
        const struct outcome_step *t = &o->steps[i];

        if (db_exec(&s->db, err, NULL, "INSERT INTO step VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?)", "iidddnddn", run, t->step,
                    t->loss, t->lr, t->grad_norm, t->tokens, t->seconds, t->joules, t->peak_bytes) != 0)
            return -1;
    }
    for (int i = 0; i < o->n_metrics; i++)
        if (db_exec(&s->db, err, NULL, "INSERT INTO metric VALUES(?, ?, ?, ?)", "iitd", run, o->metrics[i].step,
                    o->metrics[i].name, o->metrics[i].value) != 0)
            return -1;
    return 0;
}

static int add_timeline(struct study_store *s, int64_t run, const struct timeline *t, struct err *err)
{
    for (int i = 0; t && i < t->n; i++) {
        const struct timeline_point *p = &t->points[i];

        if (db_exec(&s->db, err, NULL, "INSERT INTO trace VALUES(?, ?, ?, ?, ?, ?)", "iidnnd", run, (int64_t)i,
                    p->seconds, p->memory_bytes, p->gpu_bytes, p->watts) != 0)
            return -1;
    }
    return 0;
}

int study_store_add_run(struct study_store *s, int64_t cell, const struct study_run *r, struct err *err)
{
    int64_t there = 0;
    char now[32];

    now_text(now, sizeof now);
    if (db_exec(&s->db, err, &there, "SELECT count(*) FROM run WHERE cell = ? AND block = ?", "ii", cell, r->block) !=
        0)
        return -1;
    if (there > 0) {
        err_set(err, ERR_USAGE, "cell %" PRId64 " has a result in block %" PRId64 " already", cell, r->block);
        return err_where(err, "file \"%s\"", s->db.path);
    }
    if (db_exec(&s->db, err, NULL,
                "INSERT INTO run(cell, block, position, finished, argv, state, reason, stderr_tail, exit_status,"
                " seconds, cpu_seconds, load_before, sample_interval_s, n_samples, peak_bytes, peak_pss_bytes,"
                " energy_state, energy_reason, energy_domains, joules, steal_s, cgroup_wait_s, throttles, swapped_in,"
                " machine) VALUES(?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)",
                "iiitttttiddddnnntttdddnnt", cell, r->block, (int64_t)r->position, now, r->argv_json, r->state,
                r->reason, r->stderr_tail, (int64_t)r->exit_status, r->seconds, r->cpu_seconds, r->load_before,
                r->sample_interval_s, r->n_samples, r->peak_bytes, r->peak_pss_bytes, r->energy_state, r->energy_reason,
                r->energy_domains, r->joules, r->noise.steal_s, r->noise.cgroup_wait_s, r->noise.throttles,
                r->noise.swapped_in, r->machine) != 0)
        return -1;
    const int64_t run = db_last_id(&s->db);
    if (add_timeline(s, run, r->timeline, err) != 0)
        return -1;
    return r->outcome ? add_outcome(s, run, r->outcome, err) : 0;
}

int study_store_add(struct study_store *s, int cell, const struct study_run *run, struct err *err)
{
    if (db_begin(&s->db, err) != 0)
        return -1;
    return db_end(&s->db, study_store_add_run(s, (int64_t)cell + 1, run, err), err);
}
