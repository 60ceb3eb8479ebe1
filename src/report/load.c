/* Queries, and what takes their columns in order. Rows that do not fit together are refused here, so that nobody
 * above has to look again. */
#include "report/load.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/db.h"
#include "base/file.h"
#include "base/mem.h"
#include "report/recorded.h"

const char *const load_kinds[LOAD_N_KINDS] = { "param",      "master", "grad", "optimizer",
                                               "activation", "kv",     "comm", "workspace" };

static int take_study(void *user, struct db_row *r)
{
    struct loaded *l = user;

    if (l->name)
        return err_set(r->err, ERR_INPUT, "the file holds two studies");
    l->name = db_take_text(r);
    l->design = db_take_text(r);
    l->machine = db_take_text(r);
    l->version = db_take_text(r);
    l->created = db_take_text(r);
    l->seed = db_take_int(r);
    l->blocks = db_take_int(r);
    return 0;
}

/* Doubles the room when n is a power of two. */
static void *grow(void *old, int n, size_t size, struct err *err)
{
    if ((n & (n - 1)) != 0)
        return old;
    return mem_resize(old, n ? 2 * (int64_t)n : 1, size, MEM_RECORD, err);
}

static int take_cell(void *user, struct db_row *r)
{
    struct loaded *l = user;
    struct load_cell *grown = grow(l->cells, l->n_cells, sizeof *grown, r->err);

    if (!grown)
        return -1;
    l->cells = grown;
    struct load_cell *c = &l->cells[l->n_cells++];
    *c = (struct load_cell){ .id = db_take_int(r) };
    c->name = db_take_text(r);
    c->phase = db_take_text(r);
    c->techniques = db_take_text(r);
    c->argv = db_take_text(r);
    c->ranks = db_take_int(r);
    c->exact = db_take_int(r) == 1;
    c->baseline = (int)db_take_int(r); /* an id until check_cells */
    c->is_command = db_take_int(r) == 1;
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

void load_run_init(struct load_run *r)
{
    *r = (struct load_run){ .position = -1,
                            .seconds = NAN,
                            .cpu_seconds = NAN,
                            .load_before = NAN,
                            .peak_bytes = -1,
                            .peak_pss_bytes = -1,
                            .own_peak_bytes = -1,
                            .joules = NAN,
                            .steady_s = NAN,
                            .steady_j = NAN,
                            .tokens_per_s = NAN,
                            .final_loss = NAN,
                            .eval_loss = NAN,
                            .warmup_steps = -1,
                            .tokens = -1,
                            .planned_peak_bytes = -1,
                            .planned_flops = NAN,
                            .planned_bytes_moved = NAN,
                            .planned_comm_bytes = NAN,
                            .steal_s = NAN,
                            .cgroup_wait_s = NAN,
                            .throttles = -1,
                            .swapped_in = -1 };
    for (int i = 0; i < LOAD_N_KINDS; i++)
        r->planned[i] = r->allocated[i] = -1;
}

#define RUN_COLUMNS                                                                                                    \
    "SELECT id, cell, block, position, exit_status, finished, argv, state, reason, stderr_tail, seconds, cpu_seconds," \
    " load_before, peak_bytes, peak_pss_bytes, own_peak_bytes, energy_state, energy_reason, energy_domains, joules,"   \
    " steady_s, steady_j, steady_energy_state, steady_energy_reason, tokens_per_s, final_loss, eval_loss,"             \
    " warmup_steps, tokens, planned_peak_bytes, planned_flops, planned_bytes_moved, planned_comm_bytes, run_json"

static const char runs_sql[] =
    RUN_COLUMNS ", steal_s, cgroup_wait_s, throttles, swapped_in, machine FROM run ORDER BY cell, block";
static const char older_runs_sql[] = RUN_COLUMNS ", NULL, NULL, NULL, NULL, NULL FROM run ORDER BY cell, block";

static int take_run(void *user, struct db_row *r)
{
    struct loaded *l = user;
    struct load_run *grown = grow(l->runs, l->n_runs, sizeof *grown, r->err);

    if (!grown)
        return -1;
    l->runs = grown;
    struct load_run *n = &l->runs[l->n_runs++];
    load_run_init(n);
    n->id = db_take_int(r);
    n->cell = cell_index(l, db_take_int(r));
    n->block = db_take_int(r);
    n->position = db_take_int(r);
    n->exit_status = db_take_int(r);
    n->finished = db_take_text(r);
    n->argv = db_take_text(r);
    n->state = db_take_text(r);
    n->reason = db_take_text(r);
    n->stderr_tail = db_take_text(r);
    n->seconds = db_take_real(r);
    n->cpu_seconds = db_take_real(r);
    n->load_before = db_take_real(r);
    n->peak_bytes = db_take_int(r);
    n->peak_pss_bytes = db_take_int(r);
    n->own_peak_bytes = db_take_int(r);
    n->energy_state = db_take_text(r);
    n->energy_reason = db_take_text(r);
    n->energy_domains = db_take_text(r);
    n->joules = db_take_real(r);
    n->steady_s = db_take_real(r);
    n->steady_j = db_take_real(r);
    n->steady_energy_state = db_take_text(r);
    n->steady_energy_reason = db_take_text(r);
    n->tokens_per_s = db_take_real(r);
    n->final_loss = db_take_real(r);
    n->eval_loss = db_take_real(r);
    n->warmup_steps = db_take_int(r);
    n->tokens = db_take_int(r);
    n->planned_peak_bytes = db_take_int(r);
    n->planned_flops = db_take_real(r);
    n->planned_bytes_moved = db_take_real(r);
    n->planned_comm_bytes = db_take_real(r);
    n->run_json = db_take_text(r);
    n->steal_s = db_take_real(r);
    n->cgroup_wait_s = db_take_real(r);
    n->throttles = db_take_int(r);
    n->swapped_in = db_take_int(r);
    n->machine = db_take_text(r);
    n->done = n->state && strcmp(n->state, "done") == 0;
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

static struct load_run *run_of_row(struct loaded *l, struct db_row *r)
{
    const int cell = cell_index(l, db_take_int(r));

    return find(l, cell, db_take_int(r));
}

static int take_memory(void *user, struct db_row *r)
{
    struct loaded *l = user;
    struct load_run *run = run_of_row(l, r);
    char *kind = db_take_text(r);

    for (int i = 0; run && kind && i < LOAD_N_KINDS; i++)
        if (strcmp(kind, load_kinds[i]) == 0) {
            run->planned[i] = db_take_int(r);
            run->allocated[i] = db_take_int(r);
            break;
        }
    mem_free(kind);
    return 0;
}

static int take_step(void *user, struct db_row *r)
{
    struct loaded *l = user;
    struct load_run *run = run_of_row(l, r);

    if (!run)
        return 0;
    struct load_step *grown = grow(run->steps, run->n_steps, sizeof *grown, r->err);
    if (!grown)
        return -1;
    run->steps = grown;
    struct load_step *s = &run->steps[run->n_steps++];
    s->step = db_take_int(r);
    s->loss = db_take_real(r);
    s->seconds = db_take_real(r);
    s->joules = db_take_real(r);
    s->peak_bytes = db_take_int(r);
    return 0;
}

static int take_point(void *user, struct db_row *r)
{
    struct loaded *l = user;
    struct load_run *run = run_of_row(l, r);

    if (!run)
        return 0;
    struct load_point *grown = grow(run->trace, run->n_trace, sizeof *grown, r->err);
    if (!grown)
        return -1;
    run->trace = grown;
    struct load_point *p = &run->trace[run->n_trace++];
    p->seconds = db_take_real(r);
    p->memory_bytes = db_take_int(r);
    p->gpu_bytes = db_take_int(r);
    p->watts = db_take_real(r);
    return 0;
}

static int take_metric(void *user, struct db_row *r)
{
    struct loaded *l = user;
    struct load_run *run = run_of_row(l, r);

    if (!run)
        return 0;
    struct load_metric *grown = grow(run->metrics, run->n_metrics, sizeof *grown, r->err);
    if (!grown)
        return -1;
    run->metrics = grown;
    struct load_metric *m = &run->metrics[run->n_metrics++];
    m->step = db_take_int(r);
    m->name = db_take_text(r);
    m->value = db_take_real(r);
    return 0;
}

double load_metric(const struct load_run *r, int64_t step, const char *name)
{
    for (int i = 0; i < r->n_metrics; i++)
        if (r->metrics[i].step == step && strcmp(r->metrics[i].name, name) == 0)
            return r->metrics[i].value;
    return NAN;
}

/* A step without it makes the sum NAN. */
static double sum_metric(const struct load_run *r, const char *name, int from)
{
    double sum = 0;

    for (int i = from; i < r->n_steps; i++)
        sum += load_metric(r, r->steps[i].step, name);
    return from < r->n_steps ? sum : NAN;
}

double load_metric_mean(const struct load_run *r, const char *name)
{
    return sum_metric(r, name, 0) / r->n_steps;
}

double load_metric_steady(const struct load_run *r, const char *name)
{
    const int64_t warmup = r->warmup_steps < 0 ? 0 : r->warmup_steps;

    return warmup < r->n_steps ? sum_metric(r, name, (int)warmup) : NAN;
}

bool load_begins_phase(const struct loaded *l, int cell)
{
    for (int i = 0; i < cell; i++)
        if (strcmp(l->cells[i].phase, l->cells[cell].phase) == 0)
            return false;
    return true;
}

static int check_schema(struct db *d, int64_t *schema, struct err *err)
{
    int64_t application = 0;

    if (db_exec(d, err, &application, "PRAGMA application_id", "") != 0 ||
        db_exec(d, err, schema, "PRAGMA user_version", "") != 0)
        return -1;
    if (application != LOAD_APPLICATION) {
        err_set(err, ERR_INPUT, "the file is no study");
        err_where(err, "file \"%s\"", d->path);
        return err_hint(err, "A study's file is what `tuneup study` writes, study.db in its output folder.");
    }
    if (*schema > LOAD_SCHEMA) {
        err_set(err, ERR_INPUT, "the study's file has schema %" PRId64 ", this tuneup knows up to %d", *schema,
                LOAD_SCHEMA);
        err_where(err, "file \"%s\"", d->path);
        return err_hint(err, "Use the newer tuneup that wrote it.");
    }
    return 0;
}

#define CELL_COLUMNS "SELECT id, name, phase, techniques, argv, ranks, exact, baseline, "

static const char cells_sql[] = CELL_COLUMNS "command FROM cell ORDER BY id";
static const char older_cells_sql[] = CELL_COLUMNS "phase = 'command' FROM cell ORDER BY id";

static int load_all(struct loaded *l, struct db *d, struct err *err)
{
    int64_t schema = 0;

    if (check_schema(d, &schema, err) != 0 ||
        db_exec(d, err, NULL, "BEGIN", "") != 0 || /* one view, also while it is written */
        db_each(d, "SELECT name, design, machine, version, created, seed, blocks FROM study", take_study, l, err) !=
            0 ||
        db_each(d, schema >= 3 ? cells_sql : older_cells_sql, take_cell, l, err) != 0 ||
        check_cells(l, d->path, err) != 0 || db_each(d, schema >= 3 ? runs_sql : older_runs_sql, take_run, l, err) != 0)
        return -1;
    if (!l->name) {
        err_set(err, ERR_INPUT, "the study's file is empty");
        return err_where(err, "file \"%s\"", d->path);
    }
    if (db_each(d, "SELECT r.cell, r.block, m.kind, m.planned, m.allocated FROM memory m JOIN run r ON r.id = m.run",
                take_memory, l, err) != 0)
        return -1;
    if (schema >= 2 &&
        db_each(d,
                "SELECT r.cell, r.block, m.step, m.name, m.value FROM metric m JOIN run r ON r.id = m.run"
                " ORDER BY m.run, m.step",
                take_metric, l, err) != 0)
        return -1;
    if (schema >= 4 && db_each(d,
                               "SELECT r.cell, r.block, t.seconds, t.memory_bytes, t.gpu_bytes, t.watts FROM trace t"
                               " JOIN run r ON r.id = t.run ORDER BY t.run, t.point",
                               take_point, l, err) != 0)
        return -1;
    return db_each(d,
                   "SELECT r.cell, r.block, s.step, s.loss, s.seconds, s.joules, s.peak_bytes FROM step s JOIN run r "
                   "ON r.id = s.run"
                   " ORDER BY s.run, s.step",
                   take_step, l, err);
}

/* Whether the file begins as one of SQLite's does; -1 when it cannot be read. */
static int is_database(const char *path, struct err *err)
{
    static const char magic[16] = "SQLite format 3";
    char start[sizeof magic] = "";
    FILE *f = file_open_read(path, err);

    if (!f)
        return -1;
    const size_t n = fread(start, 1, sizeof start, f);
    fclose(f);
    return n == sizeof start && memcmp(start, magic, sizeof start) == 0;
}

int load_study(struct loaded *l, const char *path, struct err *err)
{
    struct db d;
    const int database = is_database(path, err);

    *l = (struct loaded){ 0 };
    if (database <= 0)
        return database < 0 ? -1 : recorded_load(l, &path, 1, err);
    if (db_open(&d, path, false, err) != 0)
        return -1;
    const int result = load_all(l, &d, err);
    db_close(&d);
    if (result != 0)
        load_free(l);
    return result;
}

int load_runs(struct loaded *l, const char *const *paths, int n, struct err *err)
{
    return n == 1 ? load_study(l, paths[0], err) : recorded_load(l, paths, n, err);
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
                            r->run_json,
                            r->machine };

    for (int i = 0; i < COUNT_OF(texts); i++)
        mem_free(texts[i]);
    mem_free(r->steps);
    mem_free(r->trace);
    for (int i = 0; i < r->n_metrics; i++)
        mem_free(r->metrics[i].name);
    mem_free(r->metrics);
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
