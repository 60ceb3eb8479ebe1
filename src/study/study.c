/* study_run: lock the folder, open the store, make the inputs, then for each block and each cell of it in its order: what
 * is not there yet is run, read, recorded, removed. Signals reach the running cell through job_measure, which tells;
 * between cells a flag catches them. */
#include "study/study.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <math.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <unistd.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"
#include "measure/clock.h"
#include "measure/job.h"
#include "measure/machine.h"
#include "measure/noise.h"
#include "study/builtin.h"
#include "study/recorder.h"
#include "study/supply.h"
#include "study/study_store.h"

#define COMMAND_WARMUP_STEPS 1 /* of those that a command tells */

static volatile sig_atomic_t caught_signal;

struct session {
    const struct cells *s;
    const struct study_options *o;
    char program[FILE_PATH_MAX], run_folder[FILE_PATH_MAX], lock_path[FILE_PATH_MAX];
    char machine[256]; /* as every run is marked with it: a study may go on elsewhere, and must not compare the two */
    int lock;
    struct study_store store;
    struct supply supply;
    int64_t n_all, n_there, n_run, n_failed; /* runs: of the study; recorded before; of this call */
    double start_s;
    struct sigaction old_int, old_term;
};

static void on_signal(int number)
{
    caught_signal = number;
}

static void catch_signals(struct session *session)
{
    const struct sigaction catcher = { .sa_handler = on_signal };

    caught_signal = 0;
    sigaction(SIGINT, &catcher, &session->old_int);
    sigaction(SIGTERM, &catcher, &session->old_term);
}

static void release_signals(const struct session *session)
{
    sigaction(SIGINT, &session->old_int, NULL);
    sigaction(SIGTERM, &session->old_term, NULL);
}

/* ---- One run ---- */

static int add_models(const struct supply *in, const struct cell *c, struct words *out, struct err *err)
{
    if (strcmp(c->phase, "ppo") != 0)
        return words_add(out, err, "--model=%s", in->model);
    return words_add(out, err, "--actor_model_name_or_path=%s", in->model) != 0
               ? -1
               : words_add(out, err, "--critic_model_name_or_path=%s", in->reward_model);
}

static int build_argv(const struct session *session, const struct cell *c, const char *folder, struct words *out,
                      struct err *err)
{
    const struct supply *in = &session->supply;

    if (c->folder && (words_add(out, err, "env") != 0 || words_add(out, err, "--chdir=%s", c->folder) != 0))
        return -1;
    if (!c->is_command &&
        (words_add(out, err, "%s", session->program) != 0 || words_add(out, err, "%s", c->phase) != 0 ||
         add_models(in, c, out, err) != 0 || words_add(out, err, "--data=%s", in->data) != 0 ||
         words_add(out, err, "--output=%s/out", folder) != 0 ||
         words_add(out, err, "--ranks=%" PRId64, c->ranks) != 0 ||
         words_add(out, err, "--seed=%" PRId64, session->s->seed) != 0))
        return -1;
    for (int i = 0; i < c->argv.n; i++)
        if (words_add(out, err, "%s", c->argv.v[i]) != 0)
            return -1;
    return 0;
}

static char *words_text(const struct words *w, struct err *err)
{
    json_t *list = json_array();

    for (int i = 0; i < w->n; i++)
        json_array_append_new(list, json_string(w->v[i]));
    char *text = json_dumps(list, JSON_COMPACT);
    json_decref(list);
    if (!text)
        err_set(err, ERR_MEMORY, "could not write down a command line");
    return text;
}

static void explain_status(const struct session *session, int status, char *out, size_t size)
{
    if (status == 124)
        snprintf(out, size, "it ran longer than %.10g s", session->s->timeout_s);
    else if (status == 128 + SIGKILL)
        snprintf(out, size, "it was killed by signal 9, as happens when memory runs out");
    else if (status > 128)
        snprintf(out, size, "it was ended by signal %d (%s)", status - 128, strsignal(status - 128));
    else
        snprintf(out, size, "it ended with status %d", status);
}

/* What allocators and frameworks say; the first words of the reason, as people look for them. */
static bool out_of_memory(const char *tail)
{
    static const char *const words[] = { "out of memory", "Out of memory", "OutOfMemory", "Cannot allocate memory",
                                         "bad_alloc" };

    for (int i = 0; i < COUNT_OF(words); i++)
        if (strstr(tail, words[i]))
            return true;
    return false;
}

/* A command's own file and words, and what the meter was told. */
static int command_outcome(struct outcome *o, const struct cell *c, const struct job_record *m,
                           const struct steps *steps, const char *folder, struct err *err)
{
    struct steps_window w;

    if (outcome_read_command(o, folder, steps ? steps->path : NULL, c->loss_pattern, err) != 0)
        return -1;
    if (steps)
        steps_window(steps, COMMAND_WARMUP_STEPS, &w);
    return recorder_outcome(o, m, steps, steps ? &w : NULL, err);
}

#define RANKS_SIZE 40

/* " at 2 ranks"; of a command nothing, whose ranks only it knows. */
static const char *at_ranks(const struct cell *c, char out[RANKS_SIZE])
{
    out[0] = '\0';
    if (!c->is_command)
        snprintf(out, RANKS_SIZE, " at %" PRId64 " rank%s", c->ranks, c->ranks == 1 ? "" : "s");
    return out;
}

static int record(struct session *session, int cell, int64_t block, int position, const struct words *argv,
                  const struct job_record *m, const struct noise *noise, const struct steps *steps, const char *folder,
                  struct err *err)
{
    const struct cell *c = &session->s->cells[cell];
    char reason[600] = "", ranks[RANKS_SIZE], tail[2048] = "", path[FILE_PATH_MAX], domains[ENERGY_MAX_DOMAINS * 84];
    char energy_reason[1000];
    struct outcome outcome;
    struct err why;
    bool done = m->exit_status == 0;

    outcome_init(&outcome);
    if (!done) {
        explain_status(session, m->exit_status, reason, sizeof reason);
    } else {
        if (file_join(path, folder, "out", err) != 0)
            return -1;
        done = (c->is_command ? command_outcome(&outcome, c, m, steps, folder, &why)
                              : outcome_read(&outcome, path, &why)) == 0;
        if (!done)
            snprintf(reason, sizeof reason, "its record cannot be read: %.500s", why.what);
    }
    if (!done && file_join(path, folder, "stderr.txt", err) == 0)
        supply_tail(path, tail, sizeof tail);
    if (!done && out_of_memory(tail)) {
        char kept[sizeof reason];

        snprintf(kept, sizeof kept, "%s", reason);
        snprintf(reason, sizeof reason, "out of memory: %.580s", kept);
    }
    energy_covers(&m->energy, domains, sizeof domains);
    snprintf(energy_reason, sizeof energy_reason, "%s%s%s", m->energy.reason, m->energy.hint[0] ? ". " : "",
             m->energy.hint);
    char *argv_json = words_text(argv, err);
    const struct study_run run = { .block = block,
                                   .position = position,
                                   .argv_json = argv_json,
                                   .state = done ? "done" : "failed",
                                   .reason = reason,
                                   .stderr_tail = tail,
                                   .exit_status = m->exit_status,
                                   .seconds = m->seconds,
                                   .cpu_seconds = m->cpu_seconds,
                                   .load_before = m->load_before,
                                   .sample_interval_s = m->sample_interval_s,
                                   .peak_bytes = m->peak_bytes,
                                   .peak_pss_bytes = m->peak_pss_bytes,
                                   .n_samples = m->n_samples,
                                   .energy_state = meter_state_name(m->energy.state),
                                   .energy_reason = energy_reason,
                                   .energy_domains = domains,
                                   .joules = m->energy.state == METER_UNAVAILABLE ? NAN : m->energy.joules,
                                   .noise = *noise,
                                   .machine = session->machine,
                                   .timeline = &m->timeline,
                                   .outcome = done ? &outcome : NULL };
    const int result = argv_json ? study_store_add(&session->store, cell, &run, err) : -1;
    free(argv_json);
    outcome_free(&outcome);
    if (result == 0 && !done) {
        session->n_failed++;
        log_warning("%s, %s%s failed: %s", c->phase, c->name, at_ranks(c, ranks), reason);
    }
    return result;
}

/* A command that cannot even be started is a failed run like any other. */
static void note_unstarted(const char *folder, const struct err *why)
{
    char path[FILE_PATH_MAX];
    struct err ignored;

    if (file_join(path, folder, "stderr.txt", &ignored) != 0)
        return;
    FILE *f = fopen(path, "w");
    if (f) {
        fprintf(f, "%s\n%s\n", why->what, why->hint);
        fclose(f);
    }
}

static int build_environment(const struct cell *c, struct words *out, struct err *err)
{
    for (int i = 0; i < c->environment.n; i++)
        if (words_add(out, err, "%s", c->environment.v[i]) != 0)
            return -1;
    return 0;
}

/* 0 = recorded, n > 0 = signal n ended it and nothing is recorded, -1 = error. */
static int run_cell(struct session *session, int cell, int64_t block, int position, struct err *err)
{
    const struct cell *c = &session->s->cells[cell];
    const char *folder = session->run_folder;
    char out[FILE_PATH_MAX], errors[FILE_PATH_MAX];
    struct words argv = { 0 }, environment = { 0 };
    struct noise before, after, noise;
    struct job_record measured;
    struct steps steps;
    struct err why;
    const bool told = c->is_command && steps_open(&steps, false, &why) == 0;
    int result = -1;

    if (file_remove_tree(folder, err) != 0 || file_make_dir(folder, err) != 0 ||
        file_join(out, folder, "stdout.txt", err) != 0 || file_join(errors, folder, "stderr.txt", err) != 0 ||
        build_argv(session, c, folder, &argv, err) != 0 || build_environment(c, &environment, err) != 0)
        goto done;
    const struct job_options options = {
        .stdin_path = "/dev/null",
        .stdout_path = out,
        .stderr_path = errors,
        .timeout_s = session->s->timeout_s,
        .own_group = true,
        .extra_env = (const char *const *)environment.v,
        .steps = told ? &steps : NULL,
    };
    noise_read(&before);
    if (job_measure(argv.v, &options, &measured, &why) != 0)
        note_unstarted(folder, &why);
    noise_read(&after);
    noise = noise_between(&before, &after);
    result = measured.passed_signal == SIGINT || measured.passed_signal == SIGTERM ? measured.passed_signal
                                                                                   : (int)caught_signal;
    if (result == 0)
        result = record(session, cell, block, position, &argv, &measured, &noise, told ? &steps : NULL, folder, err);
    if (file_remove_tree(folder, &why) != 0)
        log_warning("%s", why.what);
done:
    words_free(&argv);
    words_free(&environment);
    if (told)
        steps_close(&steps);
    return result;
}

/* ---- The whole ---- */

static void show_progress(const struct session *session, const struct cell *c, int64_t block)
{
    const int64_t k = session->n_there + session->n_run + 1;
    const double spent_s = clock_seconds() - session->start_s;
    char left[48] = "", which[48] = "warm-up", ranks[RANKS_SIZE];

    if (session->n_run > 0) {
        const double left_s = spent_s / (double)session->n_run * (double)(session->n_all - k + 1);

        if (left_s < 90)
            snprintf(left, sizeof left, ", about %.0f s left", left_s);
        else
            snprintf(left, sizeof left, ", about %.0f min left", left_s / 60);
    }
    if (block >= 0)
        snprintf(which, sizeof which, "block %" PRId64 " of %" PRId64, block + 1, session->s->blocks);
    log_progress("run %" PRId64 " of %" PRId64 ": %s, %s%s (%s)%s", k, session->n_all, c->phase, c->name,
                 at_ranks(c, ranks), which, left);
}

static int run_block(struct session *session, int64_t block, const int *order, struct err *err)
{
    for (int i = 0; i < session->s->n_cells; i++) {
        const int there = study_store_has(&session->store, order[i], block, err);

        if (there < 0)
            return -1;
        if (there)
            continue;
        if (caught_signal)
            return (int)caught_signal;
        show_progress(session, &session->s->cells[order[i]], block);
        const int result = run_cell(session, order[i], block, i, err);
        if (result != 0)
            return result;
        session->n_run++;
    }
    return 0;
}

static int run_blocks(struct session *session, struct err *err)
{
    int *order = mem_array(session->s->n_cells, 1, sizeof *order, MEM_RECORD, err);
    int result = order ? 0 : -1;

    session->start_s = clock_seconds();
    for (int64_t block = -session->s->warmup; result == 0 && block < session->s->blocks; block++) {
        cells_order(session->s, block, order);
        result = run_block(session, block, order, err);
    }
    log_progress("%s", "");
    mem_free(order);
    return result;
}

static int count_there(struct session *session, struct err *err)
{
    const struct cells *s = session->s;

    session->n_all = s->n_cells * (s->blocks + s->warmup);
    for (int64_t block = -s->warmup; block < s->blocks; block++)
        for (int i = 0; i < s->n_cells; i++) {
            const int there = study_store_has(&session->store, i, block, err);

            if (there < 0)
                return -1;
            session->n_there += there;
        }
    return 0;
}

/* The lock goes with the process, however it ends. */
static int lock_folder(struct session *session, struct err *err)
{
    if (file_join(session->lock_path, session->o->output, "study.lock", err) != 0)
        return -1;
    session->lock = open(session->lock_path, O_RDWR | O_CREAT | O_CLOEXEC, 0666);
    if (session->lock < 0)
        return err_errno(err, "could not create \"%s\"", session->lock_path);
    if (flock(session->lock, LOCK_EX | LOCK_NB) == 0)
        return 0;
    err_set(err, ERR_USAGE, "another `tuneup study` is running in \"%s\"", session->o->output);
    return err_hint(err, "Wait for it: two studies at once would disturb each other's measurements.");
}

static int check_disk(const struct session *session, struct err *err)
{
    /* A run may write the model with its optimizer's state in full precision, and a checkpoint of it. */
    const int64_t need = BUILTIN_RUN_BYTES + 8 * session->supply.model_bytes;
    const int64_t have = file_free_bytes(session->o->output, err);

    if (have < 0)
        return -1;
    if (have >= need)
        return 0;
    err_set(err, ERR_SYSTEM, "the study may need %" PRId64 " MiB of disk and there are %" PRId64, need >> 20,
            have >> 20);
    err_where(err, "folder \"%s\"", session->o->output);
    return err_hint(err, "Free space there, or choose another folder with --output.");
}

/* FNV-1a over the program's own file: tells one build from another. */
static int hash_program(const char *program, char out[24], struct err *err)
{
    struct file_map m;
    uint64_t hash = 14695981039346656037u;

    if (file_map_open(&m, program, err) != 0)
        return -1;
    for (size_t i = 0; i < m.bytes; i++)
        hash = (hash ^ m.data[i]) * 1099511628211u;
    file_map_close(&m);
    snprintf(out, 24, "%016" PRIx64, hash);
    return 0;
}

static int open_store(struct session *session, struct err *err)
{
    char path[FILE_PATH_MAX], hash[24];
    struct machine machine;
    bool rebuilt = false;

    if (file_join(path, session->o->output, "study.db", err) != 0 || hash_program(session->program, hash, err) != 0 ||
        study_store_open(&session->store, path, err) != 0)
        return -1;
    machine_read(&machine);
    snprintf(session->machine, sizeof session->machine, "%s, %s, %d CPUs", machine.host, machine.cpu, machine.n_cpus);
    json_t *json = machine_json(&machine);
    char *text = json ? json_dumps(json, JSON_COMPACT) : NULL;
    json_decref(json);
    const int result = text ? study_store_begin(&session->store, session->s, text, hash, &rebuilt, err)
                            : err_set(err, ERR_MEMORY, "could not describe this machine");
    free(text);
    if (rebuilt)
        log_warning(
            "this study was begun by another build of tuneup: its earlier runs may not compare with the new ones");
    return result;
}

static int find_program(struct session *session, struct err *err)
{
    if (session->o->program) {
        snprintf(session->program, sizeof session->program, "%s", session->o->program);
        return 0;
    }
    const ssize_t n = readlink("/proc/self/exe", session->program, sizeof session->program - 1);
    if (n <= 0)
        return err_errno(err, "could not find this program's own file");
    session->program[n] = '\0';
    return 0;
}

static int work(struct session *session, struct err *err)
{
    if (open_store(session, err) != 0)
        return -1;
    if (session->o->retry_failed && study_store_forget_failed(&session->store, err) < 0)
        return -1;
    if (count_there(session, err) != 0)
        return -1;
    if (session->n_there == session->n_all)
        return 0;
    if (session->n_there > 0 && !session->o->again)
        log_note("going on: %" PRId64 " of %" PRId64 " runs are recorded already", session->n_there, session->n_all);
    if (supply_prepare(&session->supply, session->s, session->o->output, session->program, err) != 0)
        return -1;
    if (check_disk(session, err) != 0)
        return -1;
    return run_blocks(session, err);
}

int study_run(const struct cells *s, const struct study_options *o, int *n_failed, struct err *err)
{
    struct session session = { .s = s, .o = o, .lock = -1 };
    int result = -1;

    *n_failed = 0;
    if (find_program(&session, err) != 0 || file_make_dir(o->output, err) != 0 ||
        file_join(session.run_folder, o->output, "run", err) != 0 || lock_folder(&session, err) != 0)
        goto done;
    catch_signals(&session);
    result = work(&session, err);
    if (result < 0 && err->code == ERR_STOPPED)
        result = err->exit_status > 128 ? err->exit_status - 128 : SIGINT;
    release_signals(&session);
done:
    study_store_close(&session.store);
    if (session.lock >= 0)
        close(session.lock);
    *n_failed = (int)session.n_failed;
    return result;
}

/* As a shell would take it; nothing of it goes through one. */
static void print_word(FILE *out, const char *before, const char *word, const char *after)
{
    const bool plain =
        word[0] &&
        strspn(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=./:,@%") == strlen(word);

    fprintf(out, "%s%s ", before[0] ? " " : "", before);
    if (plain) {
        fprintf(out, "%s%s", word, after);
        return;
    }
    fputc('\'', out);
    for (; *word; word++)
        if (*word == '\'')
            fputs("'\\''", out);
        else
            fputc((unsigned char)*word < 0x20 || *word == 0x7f ? '?' : *word, out);
    fprintf(out, "'%s", after);
}

void study_print(const struct cells *s, FILE *out)
{
    char safe_name[256];

    fprintf(out, "%s: %d cell%s x %" PRId64 " block%s", log_safe(safe_name, sizeof safe_name, s->name), s->n_cells,
            s->n_cells == 1 ? "" : "s", s->blocks, s->blocks == 1 ? "" : "s");
    if (s->warmup > 0)
        fprintf(out, " (and %" PRId64 " discarded first)", s->warmup);
    fprintf(out, ", seed %" PRId64 "\n", s->seed);
    if (cells_have_phase(s, NULL))
        fprintf(out, "model: %s\ndata: %s\n", s->model ? s->model : "made by the study",
                s->data ? s->data : "made by the study");
    if (cells_have_phase(s, "ppo"))
        fprintf(out, "reward model: %s\n", s->reward_model ? s->reward_model : "made by the study");
    for (int i = 0; i < s->n_cells; i++) {
        const struct cell *c = &s->cells[i];
        char ranks[RANKS_SIZE], safe[256];

        fprintf(out, "\n%s, ", log_safe(safe, sizeof safe, c->phase));
        fprintf(out, "%s%s, against ", log_safe(safe, sizeof safe, c->name), at_ranks(c, ranks));
        fprintf(out, "%s\n ",
                strcmp(c->name, c->baseline) == 0 ? "nothing: a baseline" : log_safe(safe, sizeof safe, c->baseline));
        if (c->folder)
            print_word(out, "cd", c->folder, " &&");
        for (int k = 0; k < c->environment.n; k++)
            print_word(out, "", c->environment.v[k], "");
        if (!c->is_command)
            fprintf(out, " tuneup %s", c->phase);
        for (int k = 0; k < c->argv.n; k++)
            print_word(out, "", c->argv.v[k], "");
        fputc('\n', out);
    }
}
