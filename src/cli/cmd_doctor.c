/* "tuneup doctor": what this machine offers; for what is missing, why, and the exact mend. */
#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "backend/backend.h"
#include "base/log.h"
#include "cli/command.h"
#include "measure/job.h"
#include "measure/machine.h"
#include "measure/memory.h"
#include "run/calibrate.h"
#include "run/launch.h"

struct doctor_options {
    bool json, profile, quick;
    const char *pair;
    int64_t threads;
};

static struct doctor_options options;

static const struct option table[] = {
    { .name = "json",
      .type = OPTION_FLAG,
      .offset = offsetof(struct doctor_options, json),
      .help = "print the findings as one JSON document" },
    { .name = "profile",
      .type = OPTION_FLAG,
      .offset = offsetof(struct doctor_options, profile),
      .help = "measure what this machine can do, for predictions, and keep it in FILE; takes a minute or two" },
    { .name = "quick",
      .type = OPTION_FLAG,
      .offset = offsetof(struct doctor_options, quick),
      .help = "--profile at the smallest size alone: some seconds, and less exact" },
    { .name = "threads",
      .type = OPTION_INT,
      .offset = offsetof(struct doctor_options, threads),
      .fallback = "0",
      .min = 0,
      .max = 4096,
      .value = "N",
      .help = "threads of --profile; 0: OMP_NUM_THREADS, or all cores" },
    { .name = "profile_pair",
      .type = OPTION_STRING,
      .offset = offsetof(struct doctor_options, pair),
      .value = "FILE",
      .help = "what --profile starts two ranks with: their share of it, into FILE" },
    { 0 },
};

static int sets(struct option_set *out)
{
    out[0] = (struct option_set){ .title = "Doctor", .options = table, .values = &options };
    return 1;
}

struct finding {
    const char *subject;
    const char *state; /* "ok", "missing", "flagged" */
    char what[512], hint[512];
};
#define MAX_FINDINGS 24

struct findings {
    struct finding items[MAX_FINDINGS];
    int n;
};

static struct finding *add(struct findings *f, const char *subject, bool ok)
{
    MUST(f->n < MAX_FINDINGS);
    struct finding *item = &f->items[f->n++];
    *item = (struct finding){ .subject = subject, .state = ok ? "ok" : "missing" };
    return item;
}

/* ---- programs ---- */

/* The first line that a program prints, within 10 seconds; false if it cannot be run. */
static bool first_line(char *const argv[], char *out, size_t size)
{
    char path[] = "/tmp/tuneup-doctor-XXXXXX";
    const int fd = mkstemp(path);
    const struct energy_options none = { 0 }; /* no need to wake a GPU */
    struct job_record r;
    struct err err;

    if (fd < 0)
        return false;
    const struct job_options o = { .stdin_path = "/dev/null",
                                   .stdout_path = path,
                                   .stderr_path = "/dev/null",
                                   .timeout_s = 10,
                                   .own_group = true,
                                   .energy = &none };
    const bool ran = job_measure(argv, &o, &r, &err) == 0 && r.exit_status == 0;
    const ssize_t n = ran ? read(fd, out, size - 1) : 0;
    close(fd);
    unlink(path);
    out[n > 0 ? n : 0] = '\0';
    out[strcspn(out, "\n")] = '\0';
    return n > 0;
}

static void check_program(struct findings *f, const char *subject, const char *program, const char *hint)
{
    char *const argv[] = { (char *)program, (char *)"--version", NULL };
    char line[200], safe[256];
    const bool found = first_line(argv, line, sizeof line);
    struct finding *item = add(f, subject, found);

    if (found) {
        snprintf(item->what, sizeof item->what, "%s", log_safe(safe, sizeof safe, line));
    } else {
        snprintf(item->what, sizeof item->what, "%s is not in PATH, or does not run", program);
        snprintf(item->hint, sizeof item->hint, "%s", hint);
    }
}

/* ---- meters ---- */

static void check_memory(struct findings *f)
{
    struct memory_reading r;
    struct err err = { 0 };
    struct finding *item = add(f, "peak memory", memory_self(&r, &err) == 0);

    snprintf(item->what, sizeof item->what, "%.500s",
             err.code ? err.what : "proportional share of every process, from smaps_rollup");
    snprintf(item->hint, sizeof item->hint, "%.500s", err.hint);
}

static int check_energy(struct findings *f, struct energy_result *e, struct err *err)
{
    if (energy_check(&(struct energy_options){ .devices = true }, e, err) != 0)
        return -1;
    struct finding *item = add(f, "energy", e->state == METER_MEASURED);
    if (e->state == METER_ESTIMATED)
        item->state = "flagged";
    snprintf(item->what, sizeof item->what, "%s", e->reason);
    snprintf(item->hint, sizeof item->hint, "%s", e->hint);
    return 0;
}

static bool is_gpu_source(const char *source)
{
    return strcmp(source, "nvml") == 0 || strcmp(source, "amdsmi") == 0 || strcmp(source, "rocm") == 0;
}

static void list_gpus(struct findings *f, const struct energy_result *e)
{
    struct finding *item = NULL;

    for (int i = 0; i < e->n_domains; i++) {
        const struct energy_domain *d = &e->domains[i];

        if (!is_gpu_source(d->source))
            continue;
        item = item ? item : add(f, "GPU", true);
        const size_t n = strlen(item->what);
        snprintf(item->what + n, sizeof item->what - n, "%s%s by %s%s%s", n ? "; " : "", d->name, d->source,
                 d->integrated ? " (integrated power)" : "", d->state == METER_MEASURED ? "" : ", not readable");
    }
    if (item)
        return;
    item = add(f, "GPU", false);
    const bool device = access("/dev/nvidiactl", F_OK) == 0 || access("/dev/kfd", F_OK) == 0;
    snprintf(item->what, sizeof item->what, "%s",
             device ? "there is one, and its library tells nothing" : "none found");
    if (device)
        snprintf(
            item->hint, sizeof item->hint,
            "Make nvidia-smi (or amd-smi) work first. TUNEUP_NVML=PATH names libnvidia-ml.so.1 where it is elsewhere.");
}

/* What a meter that one could have here says against itself. */
static void list_sources(struct findings *f, const struct energy_result *e)
{
    for (int i = 0; i < e->n_findings; i++) {
        const struct energy_finding *source = &e->findings[i];

        if (!source->why[0])
            continue;
        struct finding *item = add(f, source->source, source->n_channels > 0);
        item->state = "flagged";
        snprintf(item->what, sizeof item->what, "%s", source->why);
        snprintf(item->hint, sizeof item->hint, "%s", source->hint);
    }
}

static void check_compute(struct findings *f)
{
    struct backend b = { 0 };
    struct err err = { 0 };
    const bool opened = backend_open(&b, "cpu", 1, &err) == 0;
    struct finding *item = add(f, "compute library", opened);

    snprintf(item->what, sizeof item->what, "%.*s", opened ? (int)strcspn(b.describe, ",") : 400,
             opened ? b.describe : err.what);
    snprintf(item->hint, sizeof item->hint, "%.500s", err.hint);
    if (opened)
        b.close(&b);
}

/* ---- the machine ---- */

static void check_instructions(struct findings *f, const struct machine *m)
{
    struct finding *item = add(f, "instruction sets", m->avx2);

    snprintf(item->what, sizeof item->what, "%s%s%s%s%s%s%s", m->avx2 ? "avx2" : "no avx2", m->avx512 ? " avx512" : "",
             m->avx512_bf16 ? " avx512_bf16" : "", m->avx512_vnni ? " avx512_vnni" : "", m->amx_bf16 ? " amx_bf16" : "",
             m->amx_int8 ? " amx_int8" : "",
             m->avx512_bf16 || m->amx_bf16 ? "; fp16 saves memory, not time"
                                           : "; bf16 and fp16 save memory here, not time");
    if (!m->avx2)
        snprintf(item->hint, sizeof item->hint, "Runs work and are slow; use a processor with AVX2 or newer.");
}

static const char *gib(char *out, size_t size, int64_t bytes)
{
    if (bytes < 0)
        snprintf(out, size, "unknown");
    else if (bytes == INT64_MAX)
        snprintf(out, size, "none");
    else
        snprintf(out, size, "%.2f GiB", (double)bytes / (1 << 30));
    return out;
}

static void check_limits(struct findings *f, const struct machine *m, int64_t limit)
{
    char a[24], b[24], c[24], d[24];
    struct finding *item = add(f, "memory limit", limit != INT64_MAX);

    snprintf(item->what, sizeof item->what, "%s for a new run; available %s, cgroup limit %s, address space limit %s",
             gib(a, sizeof a, limit), gib(b, sizeof b, m->available_bytes), gib(c, sizeof c, m->cgroup_bytes),
             gib(d, sizeof d, m->address_bytes));
    if (limit == INT64_MAX)
        snprintf(item->hint, sizeof item->hint, "Mount /proc: without it no run can be checked to fit.");
}

/* ---- printing ---- */

static json_t *findings_json(const struct findings *f, const struct machine *m, int64_t limit,
                             const struct energy_result *e)
{
    json_t *list = json_array();

    for (int i = 0; i < f->n; i++)
        json_array_append_new(list, json_pack("{s:s, s:s, s:s, s:s}", "subject", f->items[i].subject, "state",
                                              f->items[i].state, "what", f->items[i].what, "hint", f->items[i].hint));
    return json_pack("{s:s, s:o, s:o, s:o, s:o}", "version", TUNEUP_VERSION, "machine", machine_json(m),
                     "memory_limit_bytes", limit == INT64_MAX ? json_null() : json_integer(limit), "energy",
                     energy_json(e), "findings", list);
}

static void print_findings(const struct findings *f, const struct machine *m, const struct energy_result *e)
{
    printf("tuneup %s on %s, %d CPUs%s, %s\n\n", TUNEUP_VERSION, m->cpu[0] ? m->cpu : "an unnamed processor", m->n_cpus,
           m->virtual_machine ? " (virtual machine)" : "", m->kernel);
    for (int i = 0; i < f->n; i++) {
        const struct finding *item = &f->items[i];
        printf("%-18s%-9s%s\n", item->subject, item->state, item->what);
        if (item->hint[0])
            printf("%-18s%-9s%s\n", "", "mend:", item->hint);
        for (int k = 0; k < e->n_domains && strcmp(item->subject, "energy") == 0; k++)
            printf("%-18s%-9s%s: %s%s%s\n", "", "", e->domains[k].name,
                   e->domains[k].counted ? "counted" : "not counted", e->domains[k].reason[0] ? ", " : "",
                   e->domains[k].reason);
    }
}

/* ---- the profile ---- */

/* Two ranks of this program; whatever goes wrong there leaves them unmeasured, with a warning. */
static bool measure_pair(struct profile *pair, const char *folder, char *self)
{
    char path[FILE_PATH_MAX], word[] = "doctor", option[] = "--profile_pair", quick[] = "--quick";
    char *argv[] = { self, word, option, path, options.quick ? quick : NULL, NULL };
    struct err err = { 0 };

    *pair = (struct profile){ 0 };
    if (file_join(path, folder, "profile-pair.tmp", &err) != 0)
        return false;
    const int status = launch_ranks(2, options.quick ? 5 : 4, argv, &err);
    const bool there = status == 0 && profile_load(pair, path, &err) == 0;
    if (!there)
        log_warning("what two ranks do at once is not measured: %s", status > 0 ? "they failed" : err.what);
    unlink(path);
    return there;
}

static void print_profile(const struct profile *p, const char *path)
{
    printf("%s\n\n", p->describe);
    for (int i = 0; i < PROFILE_FIGURES; i++)
        printf("%-22s %12.4g  %s\n", profile_figure_name((enum profile_figure)i), p->figures[i].value,
               p->figures[i].source);
    printf("\n%d samples of ops; kept in %s\n", p->n_samples, path);
}

static int find_folder(const struct command_line *line, char *path, char *folder, struct err *err)
{
    if (line->n_words == 0 && calibrate_path(path, err) != 0)
        return -1;
    if (line->n_words == 1)
        snprintf(path, FILE_PATH_MAX, "%s", line->words[0]);
    snprintf(folder, FILE_PATH_MAX, "%s", path);
    char *slash = strrchr(folder, '/');
    if (slash && slash > folder)
        *slash = '\0';
    else
        snprintf(folder, FILE_PATH_MAX, "%s", slash ? "/" : ".");
    return file_make_dir(folder, err);
}

static int measure_profile(struct command_line *line, struct err *err)
{
    char path[FILE_PATH_MAX], folder[FILE_PATH_MAX];
    struct profile p, pair;

    if (find_folder(line, path, folder, err) != 0)
        return -1;
    log_note("measuring this machine; other programs disturb it");
    const bool there = measure_pair(&pair, folder, line->argv[0]);
    const struct calibrate_options o = { (int)options.threads, folder, options.quick };
    int result = calibrate_measure(&p, &o, there ? &pair : NULL, err);
    profile_free(&pair);
    if (result != 0)
        return -1;
    result = profile_save(&p, path, err);
    if (result == 0 && !options.json)
        print_profile(&p, path);
    profile_free(&p);
    return result;
}

static int run(struct command_line *line, struct err *err)
{
    struct findings f = { 0 };
    struct energy_result energy;
    struct machine machine;
    const int64_t limit = machine_memory_limit();

    if (line->n_words > (options.profile ? 1 : 0))
        return err_set(err, ERR_USAGE, "unexpected word \"%.80s\"", line->words[line->n_words - 1]);
    if (options.pair)
        return calibrate_pair(options.pair, options.quick, err);
    if (options.profile)
        return measure_profile(line, err);
    machine_read(&machine);
    snprintf(add(&f, "time", true)->what, sizeof f.items[0].what, "the monotonic clock");
    check_memory(&f);
    if (check_energy(&f, &energy, err) != 0)
        return -1;
    list_gpus(&f, &energy);
    list_sources(&f, &energy);
    check_compute(&f);
    check_instructions(&f, &machine);
    check_limits(&f, &machine, limit);
    check_program(&f, "MPI", "mpirun", "Install one for runs of several ranks: apt-get install openmpi-bin");
    check_program(&f, "gnuplot", "gnuplot", "Install it for figures: apt-get install gnuplot-nox");
    if (!options.json) {
        print_findings(&f, &machine, &energy);
        return 0;
    }
    json_t *all = findings_json(&f, &machine, limit, &energy);
    const int failed = json_dumpf(all, stdout, JSON_INDENT(2)) != 0 || putchar('\n') == EOF;
    json_decref(all);
    return failed ? err_errno(err, "could not write to standard output") : 0;
}

const struct command cmd_doctor = {
    .name = "doctor",
    .summary = "what this machine can measure and run, and how to mend what is missing",
    .usage = "tuneup doctor [--json] [--profile [FILE]]",
    .examples = "  tuneup doctor\n"
                "  tuneup doctor --profile\n"
                "  tuneup doctor --json | jq .energy.reason\n",
    .details =
        "Looks at the meters (time, memory, energy, GPUs), instruction sets, the compute library, memory limits,\n"
        "MPI and gnuplot. "
        "Changes nothing.\n"
        "--profile times matrix products, every other op at several sizes, memory, disk and what two ranks send "
        "each other, and\n"
        "keeps the result, FILE or else TUNEUP_PROFILE or tuneup/profile.json in the cache folder, with what "
        "machine it is of.\n"
        "Predictions (tuneup plan --machine local, --optimize, the records of runs) are made with it.",
    .computes = true,
    .sets = sets,
    .run = run,
};
