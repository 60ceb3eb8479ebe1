/* One pass splits the text into rows of fields; a row becomes a record by looking columns up by name. */
#include "report/csv_import.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"

#define KWH 3.6e6
#define MIB 1048576.0
#define MANY 1e300

struct row {
    char *fields[CSV_IMPORT_MAX_COLUMNS]; /* in the reader's copy of the text */
    int n;
    long line;
};

struct reader {
    char *at, *end; /* of a copy that is cut into fields as it is read */
    long line;
    const char *path;
    struct err *err;
    struct row head;
};

static int wrong_line(const struct reader *r, long line)
{
    return err_where(r->err, "file \"%s\", line %ld", r->path, line);
}

/* The field at r->at, unquoted in place and ended by a zero; *more: another one of this row follows. NULL: a quote without end. */
static char *next_field(struct reader *r, bool *more)
{
    char *start = r->at, *out = r->at, *p = r->at;
    bool quoted = *p == '"';

    p += quoted;
    for (; p < r->end; p++) {
        if (quoted && *p == '"' && p[1] == '"') {
            p++;
        } else if (quoted && *p == '"') {
            quoted = false;
            continue;
        } else if (!quoted && (*p == ',' || *p == '\n')) {
            break;
        }
        r->line += *p == '\n';
        *out++ = *p;
    }
    if (quoted)
        return NULL;
    *more = p < r->end && *p == ',';
    r->line += p < r->end && *p == '\n';
    r->at = p < r->end ? p + 1 : p;
    if (!*more && out > start && out[-1] == '\r')
        out--;
    *out = '\0';
    return start;
}

/* 1 = a row, 0 = the end, -1 = error. Empty lines are passed over. */
static int next_row(struct reader *r, struct row *row)
{
    bool more = true;

    while (r->at < r->end && (*r->at == '\n' || *r->at == '\r')) {
        r->line += *r->at == '\n';
        r->at++;
    }
    *row = (struct row){ .line = r->line };
    if (r->at >= r->end)
        return 0;
    while (more) {
        if (row->n == CSV_IMPORT_MAX_COLUMNS) {
            err_set(r->err, ERR_INPUT, "a row has more than %d fields", CSV_IMPORT_MAX_COLUMNS);
            return wrong_line(r, row->line);
        }
        char *field = next_field(r, &more);
        if (!field) {
            err_set(r->err, ERR_INPUT, "a quoted field does not end");
            return wrong_line(r, row->line);
        }
        row->fields[row->n++] = field;
    }
    return 1;
}

/* ---- Columns by name ---- */

static int column(const struct row *head, const char *name)
{
    for (int i = 0; i < head->n; i++)
        if (strcmp(head->fields[i], name) == 0)
            return i;
    return -1;
}

static const char *text_of(const struct reader *r, const struct row *row, const char *name)
{
    const int i = column(&r->head, name);

    return i >= 0 && i < row->n ? row->fields[i] : "";
}

/* *out is NAN for an absent or empty field. */
static int number_of(const struct reader *r, const struct row *row, const char *name, double *out)
{
    const char *text = text_of(r, row, name);
    char *end, safe[64];

    *out = NAN;
    if (!text[0])
        return 0;
    *out = strtod(text, &end);
    if (*end == '\0' && *out >= 0 && *out < MANY)
        return 0;
    err_set(r->err, ERR_INPUT, "\"%s\" is \"%s\", it must be a number of at least 0", name,
            log_safe(safe, sizeof safe, text));
    return wrong_line(r, row->line);
}

static int seconds_of(const struct reader *r, const struct row *row, const char *name, double *out)
{
    if (number_of(r, row, name, out) != 0)
        return -1;
    if (!isnan(*out))
        return 0;
    err_set(r->err, ERR_INPUT, "the row has no \"%s\"", name);
    return wrong_line(r, row->line);
}

static json_t *real_or_null(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *bytes_or_null(double x)
{
    return x >= 0 && x < 9e18 ? json_integer((json_int_t)x) : json_null();
}

/* "a + b" -> [{"name": "a + b", "counted": true}]: the words by which two energies are held to be of one kind. */
static json_t *energy(double joules, const char *state, const char *reason, const char *domains)
{
    return json_pack("{s:o, s:s, s:s, s:[{s:s, s:b}]}", "joules", real_or_null(joules), "state",
                     isnan(joules) ? "unavailable" : state, "reason", reason, "domains", "name", domains, "counted", 1);
}

static json_t *record(const char *label, const char *file_label, const char *started, double seconds)
{
    return json_pack("{s:s, s:[], s:s, s:s, s:f, s:i}", "label", file_label ? file_label : label, "command", "started",
                     started, "version", "", "seconds", seconds, "exit_status", 0);
}

/* ---- CodeCarbon ---- */

static json_t *take_codecarbon(const struct reader *r, const struct row *row, const char *label)
{
    static const char *const parts[] = { "cpu_energy", "gpu_energy", "ram_energy" };
    const char *project = text_of(r, row, "project_name");
    char domains[64] = "", machine[400];
    double seconds, kwh, part;

    if (seconds_of(r, row, "duration", &seconds) != 0 || number_of(r, row, "energy_consumed", &kwh) != 0)
        return NULL;
    for (int i = 0; i < COUNT_OF(parts); i++) {
        const size_t used = strlen(domains);

        if (number_of(r, row, parts[i], &part) != 0)
            return NULL;
        if (part > 0)
            snprintf(domains + used, sizeof domains - used, "%s%.3s", used ? " + " : "", parts[i]);
    }
    json_t *o = record(project[0] ? project : "codecarbon", label, text_of(r, row, "timestamp"), seconds);
    json_object_set_new(o, "energy",
                        energy(kwh > 0 ? kwh * KWH : NAN, "estimated",
                               kwh > 0 ? "CodeCarbon does not say which part was measured; that of memory is a model"
                                       : "CodeCarbon wrote 0, which is no measurement",
                               domains));
    snprintf(machine, sizeof machine, "%.150s %.100s %.100s", text_of(r, row, "cpu_model"),
             text_of(r, row, "gpu_model"), text_of(r, row, "os"));
    json_object_set_new(o, "machine_name", json_string(machine));
    return o;
}

/* ---- Zeus ---- */

/* Of the columns NAME_energy: their sum, and their names. A part that is empty makes the sum unknown. */
static int sum_energy(const struct reader *r, const struct row *row, double *joules, char *domains, size_t size)
{
    size_t used = 0;

    *joules = 0;
    domains[0] = '\0';
    for (int i = 0; i < r->head.n; i++) {
        const char *name = r->head.fields[i], *end = strstr(name, "_energy");
        double part;

        if (!end || end == name || end[7] != '\0')
            continue;
        if (number_of(r, row, name, &part) != 0)
            return -1;
        *joules += part;
        if (used < size)
            used += (size_t)snprintf(domains + used, size - used, "%s%.*s", used ? " + " : "", (int)(end - name), name);
    }
    return 0;
}

static json_t *take_zeus(const struct reader *r, const struct row *row, const char *label)
{
    char domains[512];
    double seconds, joules;

    if (seconds_of(r, row, "elapsed_time", &seconds) != 0 || sum_energy(r, row, &joules, domains, sizeof domains) != 0)
        return NULL;
    json_t *o = record(text_of(r, row, "window_name"), label, text_of(r, row, "start_time"), seconds);
    json_object_set_new(o, "energy",
                        energy(joules > 0 ? joules : NAN, "measured",
                               joules > 0 ? "read by Zeus" : "Zeus has no joules of this window", domains));
    return o;
}

/* ---- Any table ---- */

static const char *first_of(const struct reader *r, const struct row *row, const char *const *names)
{
    for (; *names; names++)
        if (text_of(r, row, *names)[0])
            return text_of(r, row, *names);
    return "";
}

static json_t *take_plain(const struct reader *r, const struct row *row, const char *label)
{
    static const char *const labels[] = { "label", "name", "cell", "variant", NULL };
    double seconds, bytes, mib, joules, loss, other_loss, status, tokens;
    const char *name = first_of(r, row, labels), *domains = text_of(r, row, "domains");

    if (seconds_of(r, row, "seconds", &seconds) != 0 || number_of(r, row, "peak_bytes", &bytes) != 0 ||
        number_of(r, row, "peak_mib", &mib) != 0 || number_of(r, row, "joules", &joules) != 0 ||
        number_of(r, row, "final_loss", &loss) != 0 || number_of(r, row, "loss", &other_loss) != 0 ||
        number_of(r, row, "exit_status", &status) != 0 || number_of(r, row, "tokens", &tokens) != 0)
        return NULL;
    json_t *o = record(name[0] ? name : "unnamed", name[0] ? NULL : label, text_of(r, row, "started"), seconds);
    json_object_set_new(o, "peak_bytes", bytes_or_null(isnan(bytes) ? mib * MIB : bytes));
    json_object_set_new(o, "energy",
                        energy(joules > 0 ? joules : NAN, "measured",
                               joules > 0 ? "as the table says" : "the table has no joules of this run",
                               domains[0] ? domains : "as in the table"));
    json_object_set_new(o, "final_loss", real_or_null(isnan(loss) ? other_loss : loss));
    json_object_set_new(o, "tokens", bytes_or_null(tokens));
    if (status > 0)
        json_object_set_new(o, "exit_status", json_integer(status < 256 ? (json_int_t)status : 255));
    json_object_set_new(o, "machine_name", json_string(text_of(r, row, "machine")));
    return o;
}

typedef json_t *take_row(const struct reader *r, const struct row *row, const char *label);

static take_row *form_of(const struct reader *r)
{
    const struct row *head = &r->head;

    if (column(head, "duration") >= 0 && column(head, "energy_consumed") >= 0)
        return take_codecarbon;
    if (column(head, "window_name") >= 0 && column(head, "elapsed_time") >= 0)
        return take_zeus;
    return column(head, "seconds") >= 0 ? take_plain : NULL;
}

static int take_rows(struct reader *r, const char *label, json_t *out)
{
    take_row *take;
    struct row row;
    int more = next_row(r, &r->head);

    if (more < 0)
        return -1;
    take = form_of(r);
    if (!take) {
        err_set(r->err, ERR_INPUT, "the file is no study, no list of runs and no table of runs that is known here");
        err_where(r->err, "file \"%s\"", r->path);
        return err_hint(r->err,
                        "A table needs a first line with a column \"seconds\", or to be CodeCarbon's or Zeus's.");
    }
    while ((more = next_row(r, &row)) > 0) {
        json_t *o = take(r, &row, label);

        if (!o && r->err->code == ERR_NONE)
            err_set(r->err, ERR_INPUT, "the row is not valid UTF-8");
        if (!o)
            return wrong_line(r, row.line);
        if (json_array_append_new(out, o) != 0)
            return err_set(r->err, ERR_MEMORY, "could not keep the rows of \"%s\"", r->path);
    }
    return more;
}

json_t *csv_import_records(const char *text, size_t n, const char *path, const char *label, struct err *err)
{
    const size_t mark = n >= 3 && memcmp(text, "\xef\xbb\xbf", 3) == 0 ? 3 : 0;
    char *copy = mem_strndup(text + mark, n - mark, MEM_RECORD, err);
    struct reader r = { .at = copy, .end = copy ? copy + strlen(copy) : NULL, .line = 1, .path = path, .err = err };
    json_t *out = json_array();

    err->code = ERR_NONE;
    if (!copy || !out || take_rows(&r, label, out) != 0) {
        if (err->code == ERR_NONE)
            err_set(err, ERR_MEMORY, "could not read \"%s\"", path);
        json_decref(out);
        out = NULL;
    }
    mem_free(copy);
    return out;
}
