/* "tuneup measure -- CMD": any command under the meters. The command owns stdout, stderr and the exit status; our own
 * words come after its last, on stderr. */
#include <errno.h>
#include <math.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#include "base/log.h"
#include "cli/command.h"
#include "cli/measure_sink.h"
#include "cli/measure_words.h"
#include "measure/machine.h"
#include "measure/model.h"

struct measure_options {
    const char *output, *label, *db, *vs, *trace, *wall, *energy_model;
    bool json;
    int require, metrics;
    int64_t repeat, max_repeat, warmup_steps;
    double idle, ci_width;
};
enum { REQUIRE_NONE, REQUIRE_ENERGY };
enum { METRICS_FILE, METRICS_FD, METRICS_NONE };

static struct measure_options options;

static const struct option table[] = {
    { .name = "output",
      .type = OPTION_STRING,
      .offset = offsetof(struct measure_options, output),
      .value = "FILE",
      .help = "-o: write the record to FILE.json, or append it as a line to FILE.jsonl" },
    { .name = "db",
      .type = OPTION_STRING,
      .offset = offsetof(struct measure_options, db),
      .value = "FILE",
      .help = "add the record to a file that compare and report read; it is made where it is missing" },
    { .name = "label",
      .type = OPTION_STRING,
      .offset = offsetof(struct measure_options, label),
      .value = "TEXT",
      .help = "a name for this run, kept in the record; runs of one name are repetitions" },
    { .name = "repeat",
      .type = OPTION_INT,
      .offset = offsetof(struct measure_options, repeat),
      .fallback = "1",
      .min = 1,
      .max = 100000,
      .value = "N",
      .help = "run the command N times, a record each; the first failure ends it" },
    { .name = "vs",
      .type = OPTION_STRING,
      .offset = offsetof(struct measure_options, vs),
      .value = "LABEL",
      .help = "afterwards, print SpeedUp, MemoryUp and EnergyUp over the runs of LABEL in the same file" },
    { .name = "ci_width",
      .type = OPTION_REAL,
      .offset = offsetof(struct measure_options, ci_width),
      .fallback = "0",
      .min = 0,
      .max = 1,
      .value = "X",
      .help = "with --vs: repeat until no 95 % interval of the ratios is wider than +-X, e.g. 0.03" },
    { .name = "max_repeat",
      .type = OPTION_INT,
      .offset = offsetof(struct measure_options, max_repeat),
      .fallback = "30",
      .min = 1,
      .max = 100000,
      .value = "N",
      .help = "with --ci_width: stop after N runs in any case" },
    { .name = "warmup_steps",
      .type = OPTION_INT,
      .offset = offsetof(struct measure_options, warmup_steps),
      .fallback = "1",
      .min = 0,
      .max = 1e9,
      .value = "N",
      .help = "of the steps that the command tells, leave out the first N; 0: count from its start" },
    { .name = "metrics",
      .type = OPTION_CHOICE,
      .offset = offsetof(struct measure_options, metrics),
      .fallback = "file",
      .choices = "file|fd|none",
      .help = "how it tells steps: the file that TUNEUP_METRICS_FILE names; fd: TUNEUP_METRICS_FD too; none" },
    { .name = "idle",
      .type = OPTION_REAL,
      .offset = offsetof(struct measure_options, idle),
      .fallback = "0",
      .min = 0,
      .max = 3600,
      .value = "SECONDS",
      .help = "first read the machine's draw for so long, to give the joules beyond it beside the whole" },
    { .name = "wall",
      .type = OPTION_STRING,
      .offset = offsetof(struct measure_options, wall),
      .value = "FILE|cmd:PROGRAM",
      .help = "a meter at the wall: a file that grows by lines TIME,WATTS or WATTS, or a program that prints them" },
    { .name = "energy_model",
      .type = OPTION_STRING,
      .offset = offsetof(struct measure_options, energy_model),
      .fallback = "none",
      .value = "MODEL",
      .help = "where nothing measures energy, estimate it, marked ~: tdp:WATTS or idle:WATTS,max:WATTS" },
    { .name = "trace",
      .type = OPTION_STRING,
      .offset = offsetof(struct measure_options, trace),
      .value = "FILE",
      .help = "write memory and power over time as CSV, five lines a second at most" },
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

/* What all runs of this call share. */
struct session {
    struct command_line *line;
    struct energy_options energy;
    struct model model;
    struct measure_sink sink;
    struct machine machine;
    struct measure_idle idle;
    char name[512]; /* the label, else the command's words */
    FILE *trace;
};

/* ---- the record ---- */

static json_t *text_or_null(const char *text)
{
    json_t *value = text ? json_string(text) : NULL; /* NULL too for what is not UTF-8 */

    return value ? value : json_null();
}

static json_t *real_or_null(double value)
{
    return isfinite(value) ? json_real(value) : json_null();
}

static json_t *command_words(const struct command_line *line)
{
    json_t *words = json_array();

    for (int i = 0; i < line->n_words; i++)
        json_array_append_new(words, text_or_null(line->words[i]));
    return words;
}

static json_t *make_record(const struct session *s, const struct job_record *r, const struct steps *steps,
                           const struct steps_window *w, const char *started)
{
    json_t *all = json_pack("{s:o, s:o, s:s, s:s}", "label", text_or_null(options.label), "command",
                            command_words(s->line), "started", started, "version", TUNEUP_VERSION);
    json_t *measured = job_json(r);

    json_object_update(all, measured);
    json_decref(measured);
    json_object_set_new(all, "machine", machine_json(&s->machine));
    if (steps)
        json_object_set_new(all, "steps", steps_json(steps, w));
    if (options.idle > 0)
        json_object_set_new(all, "idle",
                            json_pack("{s:f, s:o, s:o}", "seconds", s->idle.seconds, "watts",
                                      real_or_null(s->idle.watts), "net_joules", real_or_null(s->idle.net_j)));
    return all;
}

/* ---- before ---- */

static int energy_needed(const struct energy_result *e, struct err *err)
{
    if (e->state == METER_MEASURED)
        return 0;
    err_set(err, ERR_UNAVAILABLE, "energy is required and %s: %s", meter_state_name(e->state), e->reason);
    return err_hint(err, "%s", e->hint[0] ? e->hint : "tuneup doctor shows what this machine can measure.");
}

static int check_requirements(const struct session *s, struct err *err)
{
    struct energy_result e;

    if (options.require != REQUIRE_ENERGY)
        return 0;
    return energy_check(&s->energy, &e, err) != 0 ? -1 : energy_needed(&e, err);
}

/* The machine as it draws when the command does not run, with our own meters open as they will be. */
static int read_idle(struct session *s, struct err *err)
{
    const struct timespec wait = { .tv_sec = (time_t)options.idle, .tv_nsec = (long)(fmod(options.idle, 1) * 1e9) };
    struct energy_meter *m;
    struct energy_result r;

    s->idle = (struct measure_idle){ options.idle, NAN, NAN };
    if (options.idle <= 0)
        return 0;
    if (energy_open(&m, &s->energy, err) != 0)
        return -1;
    nanosleep(&wait, NULL);
    energy_read(m, &r);
    energy_stop(m);
    if (r.state != METER_UNAVAILABLE)
        s->idle.watts = r.joules / r.window_s;
    else
        log_warning("the machine's idle draw is unavailable: %s", r.reason);
    return 0;
}

static void name_run(struct session *s)
{
    size_t used = 0;

    if (options.label)
        snprintf(s->name, sizeof s->name, "%.500s", options.label);
    for (int i = 0; !options.label && i < s->line->n_words && used < sizeof s->name; i++)
        used += (size_t)snprintf(s->name + used, sizeof s->name - used, "%s%s", i ? " " : "", s->line->words[i]);
}

static int open_trace(struct session *s, struct err *err)
{
    if (!options.trace)
        return 0;
    s->trace = fopen(options.trace, "we");
    if (!s->trace)
        return err_errno(err, "could not open \"%s\"", options.trace);
    fputs("seconds,memory_bytes,pss_bytes,processes,watts,gpu_bytes\n", s->trace);
    return 0;
}

static int check_options(const struct session *s, struct err *err)
{
    const size_t n = options.output ? strlen(options.output) : 0;
    const bool whole = n > 5 && strcmp(options.output + n - 5, ".json") == 0;

    if (s->line->n_words == 0) {
        err_set(err, ERR_USAGE, "there is no command to measure");
        return err_hint(err, "Write it after --, as in: tuneup measure -- python train.py");
    }
    if (options.repeat > 1 && whole) {
        err_set(err, ERR_USAGE, "\"%s\" holds one record, and --repeat makes %lld", options.output,
                (long long)options.repeat);
        return err_hint(err, "Let the name end in .jsonl, or use --db.");
    }
    if (options.ci_width > 0 && !options.vs) {
        err_set(err, ERR_USAGE, "--ci_width is of ratios, and there is nothing to compare with");
        return err_hint(err, "Add --vs LABEL; or let a study run both in turn: tuneup study --ci_width.");
    }
    if (!options.vs || options.db || (options.output && !whole))
        return 0;
    err_set(err, ERR_USAGE, "--vs needs the file in which the runs of \"%.80s\" are", options.vs);
    return err_hint(err, "Add --db FILE or -o FILE.jsonl, the same as for those runs.");
}

/* ---- the command ---- */

/* What the command did comes first: its failure is not hidden behind ours. */
static int deliver(struct session *s, struct job_record *r, struct steps *steps, const char *started, struct err *err)
{
    struct steps_window w;
    int status = 0;

    if (steps)
        steps_window(steps, options.warmup_steps, &w);
    model_apply(&s->model, s->machine.n_cpus, r);
    const double net_j = r->energy.joules - s->idle.watts * r->energy.window_s;
    s->idle.net_j = net_j >= 0 ? net_j : NAN;
    json_t *record = make_record(s, r, steps, &w, started);
    measure_words_print(r, options.label, steps, &w, &s->idle);
    status = measure_sink_write(&s->sink, record, err);
    if (status == 0 && s->sink.recording)
        status = recorder_add(&s->sink.recorder, s->name, json_object_get(record, "command"), &s->machine, r, steps,
                              steps ? &w : NULL, err);
    if (status != 0)
        err->exit_status = r->exit_status ? r->exit_status : 125;
    if (options.json &&
        (json_dumpf(record, stdout, JSON_COMPACT) != 0 || putchar('\n') == EOF || fflush(stdout) != 0) && status == 0)
        status = err_errno(err, "could not write the record to standard output");
    json_decref(record);
    if (status == 0 && r->exit_status == 0 && options.require == REQUIRE_ENERGY)
        status = energy_needed(&r->energy, err);
    return status == 0 ? r->exit_status : -1;
}

/* *stop: a signal asked for the end. */
static int run_once(struct session *s, bool *stop, struct err *err)
{
    struct job_record record;
    struct steps steps;
    struct err why;
    char started[32];
    const time_t now = time(NULL);
    struct tm utc;

    strftime(started, sizeof started, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    const bool told = options.metrics != METRICS_NONE && steps_open(&steps, options.metrics == METRICS_FD, &why) == 0;
    if (options.metrics != METRICS_NONE && !told)
        log_warning("the command cannot tell its steps: %s", why.what);
    const struct job_options o = { .energy = &s->energy, .steps = told ? &steps : NULL, .trace = s->trace };
    if (s->line->pipe_ignored)
        signal(SIGPIPE, SIG_IGN); /* as the command would have found it without us */
    int status = job_measure((char *const *)s->line->words, &o, &record, err);
    signal(SIGPIPE, SIG_DFL);
    *stop = record.passed_signal == SIGINT || record.passed_signal == SIGTERM || record.passed_signal == SIGHUP;
    if (status != 0)
        err->exit_status = record.exit_status;
    else
        status = deliver(s, &record, told ? &steps : NULL, started, err);
    if (told)
        steps_close(&steps);
    return status;
}

/* A sensor that looks a part of the time only must not meet each repetition in the same phase. */
static void wait_a_little(void)
{
    const struct timespec wait = { .tv_nsec = random() % 100000000 };

    nanosleep(&wait, NULL);
}

/* The file that --vs reads. */
static const char *runs_path(void)
{
    return options.db ? options.db : options.output;
}

/* After n runs: whether there is to be another one, -1 = error. */
static int wants_more(const struct session *s, int64_t n, struct err *err)
{
    double width;

    if (n < options.repeat || !(options.ci_width > 0))
        return n < options.repeat;
    if (measure_words_width(runs_path(), s->name, options.vs, &width, err) != 0)
        return -1;
    if (width <= options.ci_width)
        return 0;
    if (isnan(width) && n > 1) {
        log_warning("a single run of \"%.80s\" leaves no interval: --ci_width ends here", options.vs);
        return 0;
    }
    if (n >= options.max_repeat) {
        log_note("after %lld runs the widest interval is +-%.1f %%: --max_repeat ends it here", (long long)n,
                 100 * width);
        return 0;
    }
    return 1;
}

static int run_all(struct session *s, struct err *err)
{
    bool stop = false;
    int status = 0, more = 1;

    srandom((unsigned)time(NULL) ^ (unsigned)getpid());
    for (int64_t n = 0; more > 0 && status == 0 && !stop; more = status == 0 ? wants_more(s, n, err) : 0) {
        if (n++ > 0)
            wait_a_little();
        status = run_once(s, &stop, err);
    }
    return more < 0 ? -1 : status;
}

static int run(struct command_line *line, struct err *err)
{
    struct session s = { .line = line, .energy = { .devices = true, .wall = options.wall }, .sink = { .lines = -1 } };
    int status = -1;

    machine_read(&s.machine);
    name_run(&s);
    if (check_options(&s, err) != 0 || model_parse(options.energy_model, &s.model, err) != 0 ||
        check_requirements(&s, err) != 0 || measure_sink_open(&s.sink, options.output, options.db, err) != 0)
        return -1;
    if (open_trace(&s, err) == 0 && read_idle(&s, err) == 0)
        status = run_all(&s, err);
    if (s.trace && fclose(s.trace) != 0)
        log_warning("the trace \"%s\" is not whole: %s", options.trace, strerror(errno));
    measure_sink_close(&s.sink);
    if (status == 0 && options.vs && measure_words_versus(runs_path(), s.name, options.vs, err) != 0)
        status = -1;
    return status;
}

const struct command cmd_measure = {
    .name = "measure",
    .summary = "meter any command: time, peak memory of its process tree, energy",
    .usage = "tuneup measure [options] -- COMMAND [ARGUMENT...]",
    .examples =
        "  tuneup measure -- python train.py\n"
        "  tuneup measure --db runs.db --label plain --repeat 5 -- deepspeed main.py\n"
        "  tuneup measure --db runs.db --label zero1 --repeat 5 --vs plain -- deepspeed main.py --zero_stage 1\n"
        "  tuneup measure --json -- mpirun -n 2 ./solver | tail -n 1\n",
    .details =
        "The command runs unchanged: streams, terminal, signals, exit status and environment (but for TUNEUP_RUN and\n"
        "TUNEUP_METRICS_*) are its own. Peak memory is the highest sum, over all its processes, of anonymous, shared "
        "and\n"
        "swapped memory; shared pages are split among their users. Energy is the whole machine's while the command "
        "runs:\n"
        "processors, memory and GPUs, as far as their meters can be read. What cannot be measured is null in the "
        "record,\n"
        "with the reason beside it. A command that adds a JSON line {\"step\": N} to the file TUNEUP_METRICS_FILE "
        "after each\n"
        "step has its warm-up left out; docs/measuring.md has the ten lines of Python.\n"
        "Exit status: the command's; 128 + n if signal n ended it; 127 not found, 126 not executable, 125 for a\n"
        "failure of the meter's own.",
    .sets = sets,
    .run = run,
};
