/* tuneup rlhf: the three phases one after the other, each a process of its own and fed by the one before. Each phase keeps its
 * own checkpoints and knows whether it has finished, so going on is to start each of them again with --resume. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/command.h"
#include "plan/print.h"
#include "run/launch.h"
#include "techniques/technique.h"

extern const struct command cmd_sft, cmd_reward, cmd_ppo;

#define N_PHASES 3
#define QUALITIES 3
#define RUN_JSON_MAX ((size_t)64 << 20)

struct phase_of {
    const struct command *command;
    const char *prefix, *title;
    const char *folder; /* below the output; "" is the output itself */
    struct {
        const char *key, *text; /* what run.json's "measured" says of how good it is */
    } quality[QUALITIES];
};

static const struct phase_of phases[N_PHASES] = {
    { &cmd_sft, "sft_", "Phase 1 alone: what tuneup sft has", "sft", { { "perplexity", "perplexity" } } },
    { &cmd_reward, "reward_", "Phase 2 alone: what tuneup reward has", "reward", { { "eval_accuracy", "accuracy" } } },
    { &cmd_ppo,
      "ppo_",
      "Phase 3 alone: what tuneup ppo has",
      "",
      { { "eval_reward", "reward" }, { "eval_true_share", "right" }, { "eval_kl_answer", "KL" } } },
};

static struct rlhf_options {
    const char *model, *data, *output;
    int reward_from;
    bool resume, overwrite, json;
} rlhf;

/* Told once, for every phase that has the option: what they are called there, and checked by the phase itself. */
static struct shared_options {
    const char *data_split, *max_seq_len, *convention, *batch, *epochs, *seed, *ranks, *threads, *memory_limit,
        *save_interval, *optimize, *optimize_among;
    bool skip_bad_records, jsonfile_spaces;
} shared;

static struct technique_values techniques_shared;

#define AT(field) .offset = offsetof(struct rlhf_options, field)

static const struct option rlhf_options[] = {
    { .name = "model_name_or_path",
      .alias = "model",
      .type = OPTION_STRING,
      AT(model),
      .value = "DIR",
      .help = "the model that phase 1 starts from" },
    { .name = "data_path",
      .alias = "data",
      .type = OPTION_STRING,
      AT(data),
      .value = "FILE",
      .help = "records with prompt, chosen and rejected; each phase takes its share" },
    { .name = "output_dir",
      .alias = "output",
      .type = OPTION_STRING,
      AT(output),
      .value = "DIR",
      .help = "gets sft, reward, actor and critic, and rlhf.json" },
    { .name = "reward_from",
      .type = OPTION_CHOICE,
      AT(reward_from),
      .fallback = "sft",
      .choices = "sft|model",
      .help = "what the reward model starts from: phase 1's result, or the first model" },
    { .name = "resume", .type = OPTION_FLAG, AT(resume), .help = "go on wherever the last run was ended" },
    { .name = "overwrite", .type = OPTION_FLAG, AT(overwrite), .help = "start again in folders that hold results" },
    { .name = "json", .type = OPTION_FLAG, AT(json), .help = "the summary as one JSON document on stdout" },
    { 0 },
};

#undef AT
#define SHARED(option, field, hint)                                                                                    \
    {                                                                                                                  \
        .name = (option), .type = OPTION_STRING, .offset = offsetof(struct shared_options, field), .value = "X",       \
        .help = (hint)                                                                                                 \
    }

static const struct option shared_options[] = {
    SHARED("data_split", data_split, "shares of the records for phases 1, 2, 3"),
    SHARED("max_seq_len", max_seq_len, "ids a row in phases 1 and 2"),
    SHARED("convention", convention, "tuneup or deepspeed-chat"),
    SHARED("per_device_train_batch_size", batch, "rows a rank in a micro-batch"),
    SHARED("num_train_epochs", epochs, "times through the data"),
    SHARED("seed", seed, "of order, split, dropout and sampling"),
    SHARED("ranks", ranks, "processes; starts mpirun"),
    SHARED("threads", threads, "threads a rank"),
    SHARED("memory_limit", memory_limit, "refuse a phase that needs more"),
    SHARED("save_interval", save_interval, "updates between checkpoints"),
    SHARED("optimize", optimize, "techniques by goal, chosen for each phase: speed, memory, energy, balanced or all"),
    SHARED("optimize_among", optimize_among, "what --optimize may switch on: exact, inexact or any"),
    { .name = "skip_bad_records",
      .type = OPTION_FLAG,
      .offset = offsetof(struct shared_options, skip_bad_records),
      .help = "leave faulty records out and list them" },
    { .name = "jsonfile_spaces",
      .type = OPTION_FLAG,
      .offset = offsetof(struct shared_options, jsonfile_spaces),
      .help = "spaces as DeepSpeed-Chat's local/jsonfile reader adds" },
    { 0 },
};

/* The sets in the line: rlhf's own, what phases share, and then each phase's under its prefix from first_set[] on. */
static int first_set[N_PHASES + 1], first_shared;

static int sets(struct option_set *out)
{
    int n = 0;

    out[n++] = (struct option_set){ .title = "The pipeline", .options = rlhf_options, .values = &rlhf };
    first_shared = n;
    out[n++] = (struct option_set){ .title = "All phases that have it", .options = shared_options, .values = &shared };
    n += technique_sets(&out[n], &techniques_shared);
    for (int i = 0; i < N_PHASES; i++) {
        const int end = n + phases[i].command->sets(&out[n]);
        first_set[i] = n;
        for (int s = n; s < end; s++)
            if (!out[s].prefix) { /* those for one model of a phase are for the phase's own command */
                out[n] = out[s];
                out[n].title = phases[i].title;
                out[n++].prefix = phases[i].prefix;
            }
    }
    first_set[N_PHASES] = n;
    return n;
}

#define WORDS_MAX (2 * COMMAND_MAX_GIVEN)

/* A phase's command line. */
struct words {
    const char *at[WORDS_MAX];
    char *made[COMMAND_MAX_GIVEN]; /* owned */
    int n, n_made;
};

static void words_free(struct words *w)
{
    for (int i = 0; i < w->n_made; i++)
        mem_free(w->made[i]);
    *w = (struct words){ 0 };
}

static void add(struct words *w, const char *word)
{
    MUST(w->n < WORDS_MAX);
    w->at[w->n++] = word;
}

static int add_option(struct words *w, const char *name, const char *text, struct err *err)
{
    const size_t size = strlen(name) + strlen(text) + 4;
    char *word = mem_array((int64_t)size, 1, 1, MEM_OTHER, err);

    if (!word)
        return -1;
    MUST(w->n_made < COMMAND_MAX_GIVEN);
    w->made[w->n_made++] = word;
    snprintf(word, size, "--%s=%s", name, text);
    add(w, word);
    return 0;
}

static bool has_option(const struct command_line *line, int phase, const char *name)
{
    for (int s = first_set[phase]; s < first_set[phase + 1]; s++)
        for (const struct option *o = line->sets[s].options; o->name; o++)
            if (strcmp(o->name, name) == 0)
                return true;
    return false;
}

static bool in_sets(const struct command_line *line, int first, int end, const void *values)
{
    for (int s = first; s < end; s++)
        if (line->sets[s].values == values)
            return true;
    return false;
}

/* What was given for all phases, then for this one. */
static int add_given(struct words *w, const struct command_line *line, int phase, struct err *err)
{
    for (int own = 0; own < 2; own++)
        for (int i = 0; i < line->n_given; i++) {
            const struct option_given *g = &line->given[i];
            const bool wanted =
                own ? in_sets(line, first_set[phase], first_set[phase + 1], g->values)
                    : in_sets(line, first_shared, first_set[0], g->values) && has_option(line, phase, g->option->name);
            if (wanted && add_option(w, g->option->name, g->text, err) != 0)
                return -1;
        }
    return 0;
}

static int folder_of(char out[FILE_PATH_MAX], int phase, struct err *err)
{
    if (phases[phase].folder[0])
        return file_join(out, rlhf.output, phases[phase].folder, err);
    snprintf(out, FILE_PATH_MAX, "%s", rlhf.output);
    return 0;
}

/* The files of a phase, told last: they are the pipeline's business. */
static int add_files(struct words *w, int phase, struct err *err)
{
    char output[FILE_PATH_MAX], sft[FILE_PATH_MAX], reward[FILE_PATH_MAX];

    if (folder_of(output, phase, err) != 0 || folder_of(sft, 0, err) != 0 || folder_of(reward, 1, err) != 0 ||
        add_option(w, "data_path", rlhf.data, err) != 0 || add_option(w, "output_dir", output, err) != 0)
        return -1;
    if (phase == 2)
        return add_option(w, "actor_model_name_or_path", sft, err) != 0 ||
                       add_option(w, "critic_model_name_or_path", reward, err) != 0
                   ? -1
                   : 0;
    return add_option(w, "model_name_or_path", phase == 1 && rlhf.reward_from == 0 ? sft : rlhf.model, err);
}

static int run_phase(const struct command_line *line, int phase, struct err *err)
{
    struct words w = { 0 };
    int result = -1;

    add(&w, line->argv[0]);
    add(&w, phases[phase].command->name);
    if (add_given(&w, line, phase, err) == 0 && add_files(&w, phase, err) == 0) {
        if (log_level() != LOG_NORMAL)
            add(&w, log_level() == LOG_QUIET ? "--quiet" : "--verbose");
        if (rlhf.resume || rlhf.overwrite)
            add(&w, rlhf.resume ? "--resume" : "--overwrite");
        log_note("phase %d of %d: tuneup %s", phase + 1, N_PHASES, phases[phase].command->name);
        result = launch_self(w.n, w.at, err);
    }
    words_free(&w);
    return result;
}

static json_t *summary_of(int phase, struct err *err)
{
    char folder[FILE_PATH_MAX], path[FILE_PATH_MAX];

    if (folder_of(folder, phase, err) != 0 || file_join(path, folder, "run.json", err) != 0)
        return NULL;
    json_t *run = json_read(path, RUN_JSON_MAX, err), *m = json_object_get(run, "measured");
    json_t *out = json_pack("{s:s, s:s, s:O?, s:O?, s:O?}", "phase", phases[phase].command->name, "folder", folder,
                            "seconds", json_object_get(m, "wall_seconds"), "peak_bytes",
                            json_object_get(m, "peak_bytes"), "energy", json_object_get(m, "energy"));
    for (int i = 0; i < QUALITIES && out && phases[phase].quality[i].key; i++)
        if (json_object_get(m, phases[phase].quality[i].key))
            json_object_set(out, phases[phase].quality[i].key, json_object_get(m, phases[phase].quality[i].key));
    json_decref(run);
    if (!out && err->code == ERR_NONE)
        err_set(err, ERR_MEMORY, "no memory for the summary");
    return out;
}

static void print_phase(const json_t *s, int phase)
{
    const json_t *peak = json_object_get(s, "peak_bytes");
    const json_t *joules = json_object_get(json_object_get(s, "energy"), "joules");
    char memory[PRINT_BYTES_MAX] = "unknown", energy[32] = "unavailable";

    if (json_is_number(peak))
        print_bytes(json_number_value(peak), memory);
    if (json_is_number(joules))
        snprintf(energy, sizeof energy, "%.0f J", json_number_value(joules));
    printf("%-8s %10.1f %12s %14s  ", phases[phase].command->name, json_number_value(json_object_get(s, "seconds")),
           memory, energy);
    for (int i = 0; i < QUALITIES && phases[phase].quality[i].key; i++)
        if (json_is_number(json_object_get(s, phases[phase].quality[i].key)))
            printf(" %s %.4g", phases[phase].quality[i].text,
                   json_number_value(json_object_get(s, phases[phase].quality[i].key)));
    putchar('\n');
}

static int summarize(struct err *err)
{
    json_t *list = json_array(), *all = json_pack("{s:o}", "phases", list);
    char path[FILE_PATH_MAX];
    int result = all ? file_join(path, rlhf.output, "rlhf.json", err) : err_set(err, ERR_MEMORY, "no memory");

    for (int i = 0; i < N_PHASES && result == 0; i++) {
        json_t *s = summary_of(i, err);
        result = s ? json_array_append_new(list, s) : -1;
    }
    if (result == 0)
        result = json_write(path, all, JSON_INDENT(2), err);
    if (result == 0 && rlhf.json) {
        json_dumpf(all, stdout, JSON_INDENT(2));
        putchar('\n');
    } else if (result == 0) {
        printf("%-8s %10s %12s %14s   %s\n", "phase", "seconds", "peak memory", "energy", "result");
        for (int i = 0; i < N_PHASES; i++)
            print_phase(json_array_get(list, (size_t)i), i);
        log_note("talk to it: tuneup chat --model %s/actor", rlhf.output);
    }
    json_decref(all);
    return result;
}

static int check(const struct command_line *line, struct err *err)
{
    if (line->n_words > 0)
        return err_set(err, ERR_USAGE, "unexpected word \"%.80s\"", line->words[0]);
    if (!rlhf.model || !rlhf.data || !rlhf.output) {
        err_set(err, ERR_USAGE, "--model, --data and --output are needed");
        return err_hint(err, "For example: tuneup rlhf --model opt-350m --data records.jsonl --output out");
    }
    if (rlhf.resume && rlhf.overwrite) {
        err_set(err, ERR_USAGE, "--resume and --overwrite exclude each other");
        return err_hint(err, "--resume goes on with the run in the output folder, --overwrite drops it.");
    }
    return file_make_dir(rlhf.output, err);
}

static int run(struct command_line *line, struct err *err)
{
    if (check(line, err) != 0)
        return -1;
    for (int i = 0; i < N_PHASES; i++) {
        const int status = run_phase(line, i, err);
        if (status == 130 || status == 143)
            log_note("stopped in phase %d (%s); the same command with --resume goes on from there", i + 1,
                     phases[i].command->name);
        if (status != 0)
            return status; /* the phase has told why */
    }
    return summarize(err);
}

const struct command cmd_rlhf = {
    .name = "rlhf",
    .summary = "all three phases, each fed by the one before",
    .usage = "tuneup rlhf --model DIR --data FILE --output DIR [options]",
    .examples =
        "  tuneup rlhf --model opt-350m --data records.jsonl --output out\n"
        "  tuneup rlhf --model opt-350m --data records.jsonl --output out --dtype bf16 --gradient_checkpointing "
        "\\\n"
        "              --sft_learning_rate 1e-4 --ppo_kl_coef 0.05 --save_interval 50\n"
        "  tuneup rlhf --model opt-350m --data records.jsonl --output out --resume\n",
    .details =
        "Fine-tunes the model (out/sft), makes a reward model of the result (out/reward), and lets PPO improve the\n"
        "fine-tuned model by it (out/actor, out/critic). Any option of a phase can be given to it alone, with sft_,\n"
        "reward_ or ppo_ before its name. Ctrl-C saves and leaves; --resume goes on in the phase that was ended.",
    .sets = sets,
    .run = run,
};
