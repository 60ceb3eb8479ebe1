#include "report/recorded.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "report/csv_import.h"

#define RECORDED_MAX_BYTES (256 << 20)
#define MANY 1e300
#define GPU_BYTES ((int64_t)64 << 20) /* as in study/recorder.h: less is not a run's */

static char *copy(const char *text, struct err *err)
{
    return mem_strdup(text ? text : "", MEM_RECORD, err);
}

/* The cell's name: the label, else the words of the command. */
static char *name_of(const json_t *record, struct err *err)
{
    const char *label = json_string_value(json_object_get(record, "label"));
    char text[512] = "";
    size_t i;
    json_t *word;

    if (label && label[0])
        return copy(label, err);
    json_array_foreach(json_object_get(record, "command"), i, word)
    {
        const size_t used = strlen(text);

        snprintf(text + used, sizeof text - used, "%s%s", used ? " " : "",
                 json_string_value(word) ? json_string_value(word) : "?");
    }
    return copy(text[0] ? text : "unnamed", err);
}

static int find_cell(const struct loaded *l, const char *name)
{
    for (int i = 0; i < l->n_cells; i++)
        if (strcmp(l->cells[i].name, name) == 0)
            return i;
    return -1;
}

/* The index of the record's cell, made when it is new; -1 = error. */
static int cell_of(struct loaded *l, const json_t *record, struct err *err)
{
    char *name = name_of(record, err);
    const int found = name ? find_cell(l, name) : -1;

    if (!name || found >= 0) {
        mem_free(name);
        return found;
    }
    struct load_cell *grown = mem_resize(l->cells, l->n_cells + 1, sizeof *grown, MEM_RECORD, err);
    if (!grown) {
        mem_free(name);
        return -1;
    }
    l->cells = grown;
    struct load_cell *c = &l->cells[l->n_cells++];
    char *argv = json_dumps(json_object_get(record, "command"), JSON_COMPACT);
    *c = (struct load_cell){ .id = l->n_cells, .name = name, .ranks = 1, .baseline = 0, .is_command = true };
    c->phase = copy("command", err);
    c->techniques = copy("[]", err);
    c->argv = copy(argv, err);
    free(argv);
    return c->phase && c->techniques && c->argv ? l->n_cells - 1 : -1;
}

/* "package-0 + dram": the meters that add up to the joules. */
static void domain_names(const json_t *energy, char *out, size_t size)
{
    size_t i;
    json_t *domain;

    out[0] = '\0';
    json_array_foreach(json_object_get(energy, "domains"), i, domain)
    {
        const char *name = json_string_value(json_object_get(domain, "name"));
        const size_t used = strlen(out);

        if (name && json_is_true(json_object_get(domain, "counted")))
            snprintf(out + used, size - used, "%s%s%s", used ? " + " : "", name,
                     json_is_true(json_object_get(domain, "integrated")) ? " (integrated)" : "");
    }
}

static int read_energy(struct load_run *r, const json_t *energy, const char *path, struct err *err)
{
    const char *state = "unavailable", *reason = "not recorded", *hint = "";
    char text[900], domains[8192];

    if (json_get_real(energy, path, "joules", 0, MANY, &r->joules, err) < 0 ||
        json_get_string(energy, path, "state", &state, err) < 0 ||
        json_get_string(energy, path, "reason", &reason, err) < 0 ||
        json_get_string(energy, path, "hint", &hint, err) < 0)
        return -1;
    domain_names(energy, domains, sizeof domains);
    snprintf(text, sizeof text, "%.380s%s%.511s", reason, hint[0] ? ". " : "", hint);
    r->energy_state = copy(state, err);
    r->energy_reason = copy(text, err);
    r->energy_domains = copy(domains, err);
    return r->energy_state && r->energy_reason && r->energy_domains ? 0 : -1;
}

/* What the command told of its steps, and the memory that its GPUs held. */
static int read_own_words(struct load_run *r, const json_t *record, const char *path, struct err *err)
{
    const json_t *steps = json_object_get(record, "steps");
    int64_t gpu_bytes = -1;

    if (json_get_int(record, path, "gpu_peak_bytes", 0, INT64_MAX, &gpu_bytes, err) < 0)
        return -1;
    if (gpu_bytes >= GPU_BYTES)
        r->own_peak_bytes = gpu_bytes;
    if (!json_is_object(steps))
        return 0;
    return json_get_int(steps, path, "warmup_steps", 0, INT64_MAX, &r->warmup_steps, err) < 0 ||
                   json_get_real(steps, path, "steady_seconds", 0, MANY, &r->steady_s, err) < 0 ||
                   json_get_real(steps, path, "steady_joules", 0, MANY, &r->steady_j, err) < 0 ||
                   json_get_real(steps, path, "tokens_per_second", 0, MANY, &r->tokens_per_s, err) < 0 ||
                   json_get_real(steps, path, "final_loss", -MANY, MANY, &r->final_loss, err) < 0
               ? -1
               : 0;
}

static int read_numbers(struct load_run *r, const json_t *record, const char *path, struct err *err)
{
    if (json_get_int(record, path, "exit_status", 0, 255, &r->exit_status, err) < 0 ||
        json_get_real(record, path, "seconds", 0, MANY, &r->seconds, err) < 0 ||
        json_get_real(record, path, "cpu_seconds", 0, MANY, &r->cpu_seconds, err) < 0 ||
        json_get_real(record, path, "load_before", 0, MANY, &r->load_before, err) < 0 ||
        json_get_int(record, path, "peak_bytes", 0, INT64_MAX, &r->peak_bytes, err) < 0 ||
        json_get_int(record, path, "peak_pss_bytes", 0, INT64_MAX, &r->peak_pss_bytes, err) < 0 ||
        json_get_int(record, path, "tokens", 0, INT64_MAX, &r->tokens, err) < 0 ||
        json_get_real(record, path, "steal_seconds", 0, MANY, &r->steal_s, err) < 0 ||
        json_get_real(record, path, "final_loss", -MANY, MANY, &r->final_loss, err) < 0)
        return -1;
    if (read_own_words(r, record, path, err) != 0)
        return -1;
    if (!isnan(r->seconds))
        return 0;
    err_set(err, ERR_INPUT, "the record has no \"seconds\"");
    return err_hint(err, "This reads what `tuneup measure -o FILE.jsonl` writes.");
}

/* By which two runs are held to be of one machine. */
static char *machine_of(const json_t *record, struct err *err)
{
    const json_t *m = json_object_get(record, "machine");
    const char *name = json_string_value(json_object_get(record, "machine_name"));
    const char *host = json_string_value(json_object_get(m, "host")),
               *cpu = json_string_value(json_object_get(m, "cpu"));

    if (name)
        return copy(name, err);
    return mem_printf(MEM_RECORD, err, "%s%s%s", host ? host : "", host && cpu ? ", " : "", cpu ? cpu : "");
}

static int read_words(struct load_run *r, const json_t *record, struct err *err)
{
    char *argv = json_dumps(json_object_get(record, "command"), JSON_COMPACT), reason[64] = "";
    const json_t *energy_state = json_object_get(json_object_get(record, "energy"), "state");

    if (!r->done)
        snprintf(reason, sizeof reason, "it ended with status %lld", (long long)r->exit_status);
    r->finished = copy(json_string_value(json_object_get(record, "started")), err);
    r->argv = copy(argv, err);
    r->state = copy(r->done ? "done" : "failed", err);
    r->reason = copy(reason, err);
    r->stderr_tail = copy("", err);
    r->steady_energy_state = copy(isnan(r->steady_j) ? "unavailable" : json_string_value(energy_state), err);
    r->steady_energy_reason = copy(isnan(r->steady_j) ? "no joules are known of its steps' window" : "", err);
    r->run_json = copy("", err);
    r->machine = machine_of(record, err);
    free(argv);
    return r->finished && r->argv && r->state && r->reason && r->stderr_tail && r->steady_energy_state &&
                   r->steady_energy_reason && r->run_json && r->machine
               ? 0
               : -1;
}

static int add_run(struct loaded *l, const json_t *record, const char *path, struct err *err)
{
    const int cell = cell_of(l, record, err);
    int64_t block = 0;

    if (cell < 0)
        return -1;
    struct load_run *grown = mem_resize(l->runs, l->n_runs + 1, sizeof *grown, MEM_RECORD, err);
    if (!grown)
        return -1;
    l->runs = grown;
    for (int i = 0; i < l->n_runs; i++)
        block += l->runs[i].cell == cell;
    struct load_run *r = &l->runs[l->n_runs++];
    load_run_init(r);
    r->id = l->n_runs;
    r->cell = cell;
    r->block = block;
    if (read_numbers(r, record, path, err) != 0)
        return -1;
    r->done = r->exit_status == 0;
    return read_words(r, record, err) != 0 ? -1 : read_energy(r, json_object_get(record, "energy"), path, err);
}

/* What a study's row says, from the first record. */
static int add_study(struct loaded *l, const json_t *record, struct err *err)
{
    char *machine = json_dumps(json_object_get(record, "machine"), JSON_COMPACT);

    l->name = copy("measured commands", err);
    l->design = copy("recorded", err);
    l->machine = copy(machine ? machine : "{}", err);
    l->version = copy(json_string_value(json_object_get(record, "version")), err);
    l->created = copy(json_string_value(json_object_get(record, "started")), err);
    free(machine);
    return l->name && l->design && l->machine && l->version && l->created ? 0 : -1;
}

static int by_cell(const void *a, const void *b)
{
    const struct load_run *x = a, *y = b;

    if (x->cell != y->cell)
        return (x->cell > y->cell) - (x->cell < y->cell);
    return (x->block > y->block) - (x->block < y->block);
}

/* Adds a record; where tells its line. */
static int add_record(struct loaded *l, const json_t *record, const char *path, long long line, struct err *err)
{
    if ((l->name || add_study(l, record, err) == 0) && add_run(l, record, path, err) == 0)
        return 0;
    return err->code == ERR_INPUT ? err_where(err, "file \"%s\", line %lld", path, line) : -1;
}

static int read_lines(struct loaded *l, char *text, size_t n, const char *path, struct err *err)
{
    int64_t number = 0;

    for (char *line = text, *end; line < text + n; line = end + 1) {
        end = memchr(line, '\n', (size_t)(text + n - line));
        if (!end)
            end = text + n;
        number++;
        if (end == line)
            continue;
        json_t *record = json_parse(line, (size_t)(end - line), path, number, err);
        const int failed = !record || add_record(l, record, path, (long long)number, err) != 0;
        json_decref(record);
        if (failed)
            return -1;
    }
    return 0;
}

/* "runs/zero1.csv" -> "zero1" */
static void stem_of(const char *path, char *out, size_t size)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path, *dot = strrchr(name, '.');

    snprintf(out, size, "%.*s", dot && dot > name ? (int)(dot - name) : (int)strlen(name), name);
}

static int read_table(struct loaded *l, const char *text, size_t n, const char *path, bool several, struct err *err)
{
    char label[256];
    size_t i;
    json_t *record;
    int failed = 0;

    stem_of(path, label, sizeof label);
    json_t *records = csv_import_records(text, n, path, several ? label : NULL, err);
    json_array_foreach(records, i, record)
    {
        failed = failed ? failed : add_record(l, record, path, (long long)i + 2, err);
    }
    const bool read = records != NULL;
    json_decref(records);
    return read && !failed ? 0 : -1;
}

static int read_file(struct loaded *l, const char *path, bool several, struct err *err)
{
    size_t n = 0;
    char *text = file_read(path, RECORDED_MAX_BYTES, &n, err);

    if (!text)
        return -1;
    const int result = text[0] == '{' ? read_lines(l, text, n, path, err) : read_table(l, text, n, path, several, err);
    mem_free(text);
    return result;
}

int recorded_load(struct loaded *l, const char *const *paths, int n, struct err *err)
{
    int result = 0;

    *l = (struct loaded){ 0 };
    for (int i = 0; i < n && result == 0; i++)
        result = read_file(l, paths[i], n > 1, err);
    if (result == 0 && l->n_runs == 0) {
        err_set(err, ERR_INPUT, "the file holds no runs");
        result = err_where(err, "file \"%s\"", paths[0]);
    }
    if (result != 0)
        load_free(l);
    else
        qsort(l->runs, (size_t)l->n_runs, sizeof *l->runs, by_cell);
    return result;
}
