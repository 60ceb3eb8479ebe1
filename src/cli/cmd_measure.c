/* "tuneup measure -- CMD": any command under the meters. The command owns stdout, stderr and the exit status; our own
 * words come after its last, on stderr. */
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"
#include "cli/command.h"
#include "measure/job.h"
#include "measure/machine.h"

struct measure_options {
    const char *output, *label;
    bool json;
    int require;
};
enum { REQUIRE_NONE, REQUIRE_ENERGY };

static struct measure_options options;

static const struct option table[] = {
    { .name = "output",
      .type = OPTION_STRING,
      .offset = offsetof(struct measure_options, output),
      .value = "FILE",
      .help = "-o: write the record to FILE.json, or append it as a line to FILE.jsonl" },
    { .name = "label",
      .type = OPTION_STRING,
      .offset = offsetof(struct measure_options, label),
      .value = "TEXT",
      .help = "a name for this run, kept in the record" },
    { .name = "json",
      .type = OPTION_FLAG,
      .offset = offsetof(struct measure_options, json),
      .help = "print the record as one line of JSON on stdout, after the command's own output" },
    { .name = "require",
      .type = OPTION_CHOICE,
      .offset = offsetof(struct measure_options, require),
      .fallback = "none",
      .choices = "none|energy",
      .help = "do not start, and exit 4, where this cannot be measured" },
    { 0 },
};

static int sets(struct option_set *out)
{
    out[0] = (struct option_set){ .title = "Measure", .options = table, .values = &options };
    return 1;
}

/* ---- where the record goes: opened before the command runs, so that a long run is not lost to a wrong path ---- */

struct sink {
    struct file_out whole; /* FILE.json */
    int lines; /* FILE.jsonl, or -1 */
};

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), k = strlen(end);

    return n > k && strcmp(text + n - k, end) == 0;
}

static int sink_open(struct sink *s, const char *path, struct err *err)
{
    *s = (struct sink){ .lines = -1 };
    if (!path)
        return 0;
    if (ends_with(path, ".json"))
        return file_out_open(&s->whole, path, err);
    if (!ends_with(path, ".jsonl")) {
        err_set(err, ERR_USAGE, "cannot tell the form of \"%s\"", path);
        return err_hint(err, "Let the name end in .json for one record, or in .jsonl to add a line to the file.");
    }
    s->lines = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    return s->lines < 0 ? err_errno(err, "could not open \"%s\"", path) : 0;
}

static int write_line(int fd, const char *path, const char *text, struct err *err)
{
    const size_t n = strlen(text);

    /* One write each: lines of concurrent measurements do not mix. */
    const ssize_t got = write(fd, text, n);
    if (got != (ssize_t)n || fsync(fd) != 0) {
        if (got >= 0 && got != (ssize_t)n)
            errno = ENOSPC;
        return err_errno(err, "could not add a line to \"%s\"", path);
    }
    return 0;
}

static int sink_write(struct sink *s, const char *path, const json_t *record, struct err *err)
{
    char *text = json_dumps(record, s->whole.stream ? JSON_INDENT(2) : JSON_COMPACT);
    char *line = NULL;
    int status = -1;

    if (!text || asprintf(&line, "%s\n", text) < 0) {
        err_set(err, ERR_MEMORY, "no memory for the record");
    } else if (s->lines >= 0) {
        status = write_line(s->lines, path, line, err);
    } else if (fputs(line, s->whole.stream) == EOF) {
        err_errno(err, "could not write \"%s\"", path);
    } else {
        status = file_out_commit(&s->whole, err);
    }
    free(line);
    free(text);
    return status;
}

static void sink_close(struct sink *s)
{
    file_out_abort(&s->whole);
    if (s->lines >= 0)
        close(s->lines);
}

/* ---- the record ---- */

static json_t *text_or_null(const char *text)
{
    json_t *value = text ? json_string(text) : NULL; /* NULL too for what is not UTF-8 */

    return value ? value : json_null();
}

static json_t *command_words(const struct command_line *line)
{
    json_t *words = json_array();

    for (int i = 0; i < line->n_words; i++)
        json_array_append_new(words, text_or_null(line->words[i]));
    return words;
}

static json_t *make_record(const struct command_line *line, const struct job_record *r, const char *started)
{
    struct machine machine;
    json_t *all = json_pack("{s:o, s:o, s:s, s:s}", "label", text_or_null(options.label), "command",
                            command_words(line), "started", started, "version", TUNEUP_VERSION);
    json_t *measured = job_json(r);

    machine_read(&machine);
    json_object_update(all, measured);
    json_decref(measured);
    json_object_set_new(all, "machine", machine_json(&machine));
    return all;
}

static const char *bytes_text(char *out, size_t size, int64_t bytes)
{
    static const char *const units[] = { "bytes", "KiB", "MiB", "GiB", "TiB" };
    double value = (double)bytes;
    int i = 0;

    for (; value >= 1024 && i + 1 < COUNT_OF(units); i++)
        value /= 1024;
    snprintf(out, size, "%.*f %s", i ? 2 : 0, value, units[i]);
    return out;
}

static void print_energy(const struct energy_result *e)
{
    const double end_s = 0.002; /* a counter update at each end of the window */

    if (e->state == METER_UNAVAILABLE) {
        log_note("energy  unavailable: %s", e->reason);
        if (e->hint[0])
            log_detail("        %s", e->hint);
        return;
    }
    log_note("energy  %s%.4g J, %.4g W on average; %s", e->state == METER_MEASURED ? "" : "~", e->joules,
             e->joules / e->window_s, e->reason);
    if (end_s > 0.01 * e->window_s)
        log_note("        the window is short: give or take %.0f %%", 100 * end_s / e->window_s);
}

static void print_memory(const struct job_record *r)
{
    char peak[32], pss[32];

    if (r->peak_bytes < 0) {
        log_note("memory  unavailable: %s", job_memory_reason(r));
        return;
    }
    log_note("memory  %s at the peak, %s with mapped files; up to %d process%s, %" PRId64 " readings, every %.0f ms",
             bytes_text(peak, sizeof peak, r->peak_bytes), bytes_text(pss, sizeof pss, r->peak_pss_bytes),
             r->n_processes, r->n_processes == 1 ? "" : "es", r->n_samples, 1e3 * r->sample_interval_s);
    if (r->n_unreadable > 0)
        log_warning("%d process%s of another user could not be read: the peak lacks their memory", r->n_unreadable,
                    r->n_unreadable == 1 ? "" : "es");
}

static void print_record(const struct job_record *r)
{
    char safe[256];

    log_note("%s%sexit status %d", options.label ? log_safe(safe, sizeof safe, options.label) : "",
             options.label ? ": " : "", r->exit_status);
    log_note("time    %.3f s, CPU %.3f s", r->seconds, r->cpu_seconds);
    print_memory(r);
    print_energy(&r->energy);
    if (r->steal_seconds > 0.1 + 0.02 * r->seconds)
        log_warning("the hypervisor took %.2f s of CPU away meanwhile: repeat on a quieter machine", r->steal_seconds);
}

/* ---- the command ---- */

static int energy_needed(const struct energy_result *e, struct err *err)
{
    if (e->state == METER_MEASURED)
        return 0;
    err_set(err, ERR_UNAVAILABLE, "energy is required and %s: %s", meter_state_name(e->state), e->reason);
    return err_hint(err, "%s", e->hint[0] ? e->hint : "tuneup doctor shows what this machine can measure.");
}

static int check_requirements(struct err *err)
{
    struct energy_result e;

    if (options.require != REQUIRE_ENERGY)
        return 0;
    return energy_check(&(struct energy_options){ .devices = true }, &e, err) != 0 ? -1 : energy_needed(&e, err);
}

/* What the command did comes first: its failure is not hidden behind ours. */
static int deliver(struct sink *s, const struct command_line *line, const struct job_record *r, const char *started,
                   struct err *err)
{
    json_t *record = make_record(line, r, started);
    int status = 0;

    print_record(r);
    if (options.output)
        status = sink_write(s, options.output, record, err);
    if (status != 0)
        err->exit_status = r->exit_status ? r->exit_status : 125;
    if (options.json && (json_dumpf(record, stdout, JSON_COMPACT) != 0 || putchar('\n') == EOF) && status == 0)
        status = err_errno(err, "could not write the record to standard output");
    json_decref(record);
    if (status == 0 && r->exit_status == 0 && options.require == REQUIRE_ENERGY)
        status = energy_needed(&r->energy, err);
    return status == 0 ? r->exit_status : -1;
}

static int run(struct command_line *line, struct err *err)
{
    struct job_record record;
    struct sink sink;
    char started[32];
    const time_t now = time(NULL);
    struct tm utc;
    int status;

    if (line->n_words == 0) {
        err_set(err, ERR_USAGE, "there is no command to measure");
        return err_hint(err, "Write it after --, as in: tuneup measure -- python train.py");
    }
    strftime(started, sizeof started, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    if (check_requirements(err) != 0 || sink_open(&sink, options.output, err) != 0)
        return -1;
    if (line->pipe_ignored)
        signal(SIGPIPE, SIG_IGN); /* as the command would have found it without us */
    status = job_measure((char *const *)line->words, NULL, &record, err);
    signal(SIGPIPE, SIG_DFL);
    if (status != 0)
        err->exit_status = record.exit_status;
    else
        status = deliver(&sink, line, &record, started, err);
    sink_close(&sink);
    return status;
}

const struct command cmd_measure = {
    .name = "measure",
    .summary = "meter any command: time, peak memory of its process tree, energy",
    .usage = "tuneup measure [options] -- COMMAND [ARGUMENT...]",
    .examples = "  tuneup measure -- python train.py\n"
                "  tuneup measure --label zero1 -o runs.jsonl -- deepspeed main.py --zero_stage 1\n"
                "  tuneup measure --json -- mpirun -n 2 ./solver | tail -n 1\n",
    .details =
        "The command runs unchanged: streams, terminal, signals, exit status and environment (but for TUNEUP_RUN) are\n"
        "its own. Peak memory is the highest sum, over all its processes, of anonymous, shared and swapped memory;\n"
        "shared pages are split among their users. Energy is the whole machine's while the command runs. What cannot\n"
        "be measured is null in the record, with the reason beside it.\n"
        "Exit status: the command's; 128 + n if signal n ended it; 127 not found, 126 not executable, 125 for a\n"
        "failure of the meter's own.",
    .sets = sets,
    .run = run,
};
