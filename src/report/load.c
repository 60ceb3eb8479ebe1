/* A row is read by a cursor that takes the columns in order (struct row), so that a query and the struct that it fills
 * stand next to each other. */
#include "report/load.h"

#include <inttypes.h>
#include <math.h>
#include <sqlite3.h>
#include <string.h>

#include "base/file.h"
#include "base/mem.h"

const char *const load_kinds[LOAD_N_KINDS] = { "param",      "master", "grad", "optimizer",
                                               "activation", "kv",     "comm", "workspace" };

struct row {
    sqlite3_stmt *q;
    int column;
    struct err *err;
    bool failed;
};

static char *take_text(struct row *r)
{
    const char *text = (const char *)sqlite3_column_text(r->q, r->column++);
    char *copy = mem_strdup(text ? text : "", MEM_RECORD, r->err);

    r->failed = r->failed || !copy;
    return copy;
}

static int64_t take_int(struct row *r)
{
    const int i = r->column++;

    return sqlite3_column_type(r->q, i) == SQLITE_INTEGER ? sqlite3_column_int64(r->q, i) : -1;
}

static double take_real(struct row *r)
{
    const int i = r->column++, type = sqlite3_column_type(r->q, i);

    return type == SQLITE_FLOAT || type == SQLITE_INTEGER ? sqlite3_column_double(r->q, i) : NAN;
}

static int failed(sqlite3 *db, const char *path, struct err *err)
{
    err_set(err, ERR_INPUT, "could not read the study: %s", sqlite3_errmsg(db));
    err_where(err, "file \"%s\"", path);
    return err_hint(err, "A study's file is what `tuneup study` writes, study.db in its output folder.");
}

/* Calls take(l, row) for every row of the query. */
static int each_row(sqlite3 *db, const char *path, const char *sql, struct loaded *l,
                    int (*take)(struct loaded *, struct row *), struct err *err)
{
    struct row r = { .err = err };
    int result;

    if (sqlite3_prepare_v2(db, sql, -1, &r.q, NULL) != SQLITE_OK)
        return failed(db, path, err);
    while ((result = sqlite3_step(r.q)) == SQLITE_ROW) {
        r.column = 0;
        if (take(l, &r) != 0 || r.failed) {
            sqlite3_finalize(r.q);
            return -1;
        }
    }
    sqlite3_finalize(r.q);
    return result == SQLITE_DONE ? 0 : failed(db, path, err);
}

static int take_study(struct loaded *l, struct row *r)
{
    l->name = take_text(r);
    l->design = take_text(r);
    l->machine = take_text(r);
    l->version = take_text(r);
    l->created = take_text(r);
    l->seed = take_int(r);
    l->blocks = take_int(r);
    return 0;
}

/* Doubles the room when n is a power of two. */
static void *grow(void *old, int n, size_t size, struct err *err)
{
    if ((n & (n - 1)) != 0)
        return old;
    return mem_resize(old, n ? 2 * (int64_t)n : 1, size, MEM_RECORD, err);
}

static int take_cell(struct loaded *l, struct row *r)
{
    struct load_cell *grown = grow(l->cells, l->n_cells, sizeof *grown, r->err);

    if (!grown)
        return -1;
    l->cells = grown;
    struct load_cell *c = &l->cells[l->n_cells++];
    *c = (struct load_cell){ .id = take_int(r) };
    c->name = take_text(r);
    c->phase = take_text(r);
    c->techniques = take_text(r);
    c->argv = take_text(r);
    c->ranks = take_int(r);
    c->exact = take_int(r) == 1;
    c->baseline = (int)take_int(r); /* an id until check_cells */
    return 0;
}

static int cell_index(const struct loaded *l, int64_t id)
{
    for (int i = 0; i < l->n_cells; i++)
        if (l->cells[i].id == id)
            return i;
    return -1;
}

static int check_cells(struct loaded *l, const char *path, struct err *err)
{
    for (int i = 0; i < l->n_cells; i++) {
        l->cells[i].baseline = cell_index(l, l->cells[i].baseline);
        if (l->cells[i].baseline < 0) {
            err_set(err, ERR_INPUT, "cell %d has a baseline that is not there", i + 1);
            return err_where(err, "file \"%s\"", path);
        }
    }
    return 0;
}

static const char runs_sql[] =
    "SELECT cell, block, position, exit_status, finished, argv, state, reason, stderr_tail, seconds, cpu_seconds,"
    " load_before, peak_bytes, peak_pss_bytes, own_peak_bytes, energy_state, energy_reason, energy_domains, joules,"
    " steady_s, steady_j, steady_energy_state, steady_energy_reason, tokens_per_s, final_loss, eval_loss, warmup_steps,"
    " tokens, planned_peak_bytes, planned_flops, planned_bytes_moved, planned_comm_bytes, run_json"
    " FROM run ORDER BY cell, block";

static int take_run(struct loaded *l, struct row *r)
{
    struct load_run *grown = grow(l->runs, l->n_runs, sizeof *grown, r->err);

    if (!grown)
        return -1;
    l->runs = grown;
    struct load_run *n = &l->runs[l->n_runs++];
    *n = (struct load_run){ .cell = cell_index(l, take_int(r)) };
    n->block = sqlite3_column_int64(r->q, r->column++);
    n->position = take_int(r);
    n->exit_status = take_int(r);
    n->finished = take_text(r);
    n->argv = take_text(r);
    n->state = take_text(r);
    n->reason = take_text(r);
    n->stderr_tail = take_text(r);
    n->seconds = take_real(r);
    n->cpu_seconds = take_real(r);
    n->load_before = take_real(r);
    n->peak_bytes = take_int(r);
    n->peak_pss_bytes = take_int(r);
    n->own_peak_bytes = take_int(r);
    n->energy_state = take_text(r);
    n->energy_reason = take_text(r);
    n->energy_domains = take_text(r);
    n->joules = take_real(r);
    n->steady_s = take_real(r);
    n->steady_j = take_real(r);
    n->steady_energy_state = take_text(r);
    n->steady_energy_reason = take_text(r);
    n->tokens_per_s = take_real(r);
    n->final_loss = take_real(r);
    n->eval_loss = take_real(r);
    n->warmup_steps = take_int(r);
    n->tokens = take_int(r);
    n->planned_peak_bytes = take_int(r);
    n->planned_flops = take_real(r);
    n->planned_bytes_moved = take_real(r);
    n->planned_comm_bytes = take_real(r);
    n->run_json = take_text(r);
    n->done = n->state && strcmp(n->state, "done") == 0;
    for (int i = 0; i < LOAD_N_KINDS; i++)
        n->planned[i] = n->allocated[i] = -1;
    return n->cell < 0 ? err_set(r->err, ERR_INPUT, "a run belongs to a cell that is not in the study") : 0;
}

static struct load_run *find(const struct loaded *l, int cell, int64_t block)
{
    int low = 0, high = l->n_runs;

    while (low < high) {
        const int middle = (low + high) / 2;
        struct load_run *r = &l->runs[middle];

        if (r->cell == cell && r->block == block)
            return r;
        if (r->cell < cell || (r->cell == cell && r->block < block))
            low = middle + 1;
        else
            high = middle;
    }
    return NULL;
}

const struct load_run *load_find(const struct loaded *l, int cell, int64_t block)
{
    return find(l, cell, block);
}

static struct load_run *run_of_row(struct loaded *l, struct row *r)
{
    const int cell = cell_index(l, take_int(r));

    return find(l, cell, sqlite3_column_int64(r->q, r->column++));
}

static int take_memory(struct loaded *l, struct row *r)
{
    struct load_run *run = run_of_row(l, r);
    const char *kind = (const char *)sqlite3_column_text(r->q, r->column++);

    for (int i = 0; run && kind && i < LOAD_N_KINDS; i++)
        if (strcmp(kind, load_kinds[i]) == 0) {
            run->planned[i] = take_int(r);
            run->allocated[i] = take_int(r);
            break;
        }
    return 0;
}

static int take_step(struct loaded *l, struct row *r)
{
    struct load_run *run = run_of_row(l, r);

    if (!run)
        return 0;
    struct load_step *grown = grow(run->steps, run->n_steps, sizeof *grown, r->err);
    if (!grown)
        return -1;
    run->steps = grown;
    struct load_step *s = &run->steps[run->n_steps++];
    s->step = take_int(r);
    s->loss = take_real(r);
    s->seconds = take_real(r);
    return 0;
}

static int check_schema(sqlite3 *db, const char *path, struct err *err)
{
    int64_t found[2] = { -1, -1 };
    static const char *const pragmas[] = { "PRAGMA application_id", "PRAGMA user_version" };

    for (int i = 0; i < 2; i++) {
        sqlite3_stmt *q = NULL;

        if (sqlite3_prepare_v2(db, pragmas[i], -1, &q, NULL) == SQLITE_OK && sqlite3_step(q) == SQLITE_ROW)
            found[i] = sqlite3_column_int64(q, 0);
        if (sqlite3_finalize(q) != SQLITE_OK)
            return failed(db, path, err);
    }
    if (found[0] != LOAD_APPLICATION) {
        err_set(err, ERR_INPUT, "the file is no study");
        err_where(err, "file \"%s\"", path);
        return err_hint(err, "A study's file is what `tuneup study` writes, study.db in its output folder.");
    }
    if (found[1] > LOAD_SCHEMA) {
        err_set(err, ERR_INPUT, "the study's file has schema %" PRId64 ", this tuneup knows up to %d", found[1],
                LOAD_SCHEMA);
        err_where(err, "file \"%s\"", path);
        return err_hint(err, "Use the newer tuneup that wrote it.");
    }
    return 0;
}

static int load_all(struct loaded *l, sqlite3 *db, const char *path, struct err *err)
{
    if (check_schema(db, path, err) != 0 ||
        each_row(db, path, "SELECT name, design, machine, version, created, seed, blocks FROM study", l, take_study,
                 err) != 0 ||
        each_row(db, path, "SELECT id, name, phase, techniques, argv, ranks, exact, baseline FROM cell ORDER BY id", l,
                 take_cell, err) != 0 ||
        check_cells(l, path, err) != 0 || each_row(db, path, runs_sql, l, take_run, err) != 0)
        return -1;
    if (!l->name) {
        err_set(err, ERR_INPUT, "the study's file is empty");
        return err_where(err, "file \"%s\"", path);
    }
    if (each_row(db, path,
                 "SELECT r.cell, r.block, m.kind, m.planned, m.allocated FROM memory m JOIN run r ON r.id = m.run", l,
                 take_memory, err) != 0)
        return -1;
    return each_row(db, path,
                    "SELECT r.cell, r.block, s.step, s.loss, s.seconds FROM step s JOIN run r ON r.id = s.run"
                    " ORDER BY s.run, s.step",
                    l, take_step, err);
}

int load_study(struct loaded *l, const char *path, struct err *err)
{
    sqlite3 *db = NULL;
    int result = -1;

    *l = (struct loaded){ 0 };
    FILE *regular = file_open_read(path, err); /* says what it is when it is no regular file */
    if (!regular)
        return -1;
    fclose(regular);
    if (sqlite3_open_v2(path, &db, SQLITE_OPEN_READWRITE, NULL) != SQLITE_OK) {
        failed(db, path, err);
    } else {
        sqlite3_busy_timeout(db, 10000);
        sqlite3_exec(db, "BEGIN", NULL, NULL, NULL); /* one view of a study that is being written */
        result = load_all(l, db, path, err);
    }
    sqlite3_close(db);
    if (result != 0)
        load_free(l);
    return result;
}

static void free_run(struct load_run *r)
{
    char *const texts[] = { r->finished,
                            r->argv,
                            r->state,
                            r->reason,
                            r->stderr_tail,
                            r->energy_state,
                            r->energy_reason,
                            r->energy_domains,
                            r->steady_energy_state,
                            r->steady_energy_reason,
                            r->run_json };

    for (int i = 0; i < COUNT_OF(texts); i++)
        mem_free(texts[i]);
    mem_free(r->steps);
}

void load_free(struct loaded *l)
{
    for (int i = 0; i < l->n_runs; i++)
        free_run(&l->runs[i]);
    for (int i = 0; i < l->n_cells; i++) {
        mem_free(l->cells[i].name);
        mem_free(l->cells[i].phase);
        mem_free(l->cells[i].techniques);
        mem_free(l->cells[i].argv);
    }
    mem_free(l->runs);
    mem_free(l->cells);
    mem_free(l->name);
    mem_free(l->design);
    mem_free(l->machine);
    mem_free(l->version);
    mem_free(l->created);
    *l = (struct loaded){ 0 };
}
