/* "tuneup study": the cells of a study file, or the built-in ones, run in blocks; then the table and the report. */
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"
#include "base/log.h"
#include "cli/command.h"
#include "report/exports.h"
#include "report/headlines.h"
#include "report/html.h"
#include "study/cells.h"
#include "study/study.h"
#include "study/study_file.h"

struct study_command_options {
    const char *output, *data, *phases, *cells, *ranks, *model, *reward_model;
    const char *set[65];
    int64_t blocks, max_blocks;
    double ci_width;
    bool dry_run, retry_failed;
};

static struct study_command_options options;

static const struct option table[] = {
    { .name = "output",
      .alias = "output_dir",
      .type = OPTION_STRING,
      .offset = offsetof(struct study_command_options, output),
      .fallback = "./tuneup-study",
      .value = "DIR",
      .help = "folder for study.db and report.html; a study there goes on where it stopped" },
    { .name = "model",
      .alias = "model_name_or_path",
      .type = OPTION_STRING,
      .offset = offsetof(struct study_command_options, model),
      .value = "DIR",
      .help = "the model to study; a small one is made unless given" },
    { .name = "reward_model",
      .type = OPTION_STRING,
      .offset = offsetof(struct study_command_options, reward_model),
      .value = "DIR",
      .help = "PPO's critic and reward model; one is made of --model unless given" },
    { .name = "data_path",
      .alias = "data",
      .type = OPTION_STRING,
      .offset = offsetof(struct study_command_options, data),
      .value = "PATH",
      .help = "the records to train on; task data is made unless given" },
    { .name = "blocks",
      .type = OPTION_INT,
      .offset = offsetof(struct study_command_options, blocks),
      .min = 1,
      .max = 10000,
      .value = "N",
      .help = "how often each cell runs; more than before adds to a study" },
    { .name = "ci_width",
      .type = OPTION_REAL,
      .offset = offsetof(struct study_command_options, ci_width),
      .fallback = "0",
      .min = 0,
      .max = 1,
      .value = "X",
      .help = "then go on, block by block, until no 95 % interval of a ratio is wider than +-X, e.g. 0.03" },
    { .name = "max_blocks",
      .type = OPTION_INT,
      .offset = offsetof(struct study_command_options, max_blocks),
      .fallback = "30",
      .min = 2,
      .max = 10000,
      .value = "N",
      .help = "with --ci_width: stop after N blocks in any case" },
    { .name = "phases",
      .type = OPTION_STRING,
      .offset = offsetof(struct study_command_options, phases),
      .value = "A,B",
      .help = "only the cells of these phases: sft, reward, ppo" },
    { .name = "cells",
      .type = OPTION_STRING,
      .offset = offsetof(struct study_command_options, cells),
      .value = "A,B",
      .help = "only these cells, and the baselines they are compared with" },
    { .name = "ranks",
      .type = OPTION_STRING,
      .offset = offsetof(struct study_command_options, ranks),
      .value = "1,2",
      .help = "the rank counts that each phase cell runs at" },
    { .name = "set",
      .type = OPTION_STRING,
      .offset = offsetof(struct study_command_options, set),
      .many = 64,
      .value = "NAME=VALUE ...",
      .help = "what ${NAME} stands for in the commands of a study file" },
    { .name = "retry_failed",
      .type = OPTION_FLAG,
      .offset = offsetof(struct study_command_options, retry_failed),
      .help = "run failed cells again instead of keeping their failure" },
    { .name = "dry_run",
      .type = OPTION_FLAG,
      .offset = offsetof(struct study_command_options, dry_run),
      .help = "print the cells and their command lines, and run nothing" },
    { 0 },
};

static int sets(struct option_set *out)
{
    out[0] = (struct option_set){ .title = "Study", .options = table, .values = &options };
    return 1;
}

static void print_lines(const char *title, const struct headlines *h)
{
    char safe[1100];

    if (h->n > 0)
        printf("\n%s\n", log_safe(safe, sizeof safe, title));
    for (int i = 0; i < h->n; i++)
        printf("- %s\n", log_safe(safe, sizeof safe, h->line[i]));
}

static void print_found(const struct loaded *l, const struct comparisons *c)
{
    struct headlines h;

    for (int i = 0; i < l->n_cells; i++)
        if (load_begins_phase(l, i)) {
            headlines_phase(&h, l, c, l->cells[i].phase);
            print_lines(l->cells[i].phase, &h);
        }
    headlines_overall(&h, l, c);
    print_lines("overall", &h);
}

static bool any_done(const struct loaded *l)
{
    for (int i = 0; i < l->n_runs; i++)
        if (l->runs[i].done)
            return true;
    return false;
}

static int conclude(const char *folder, struct err *err)
{
    char study[FILE_PATH_MAX], report[FILE_PATH_MAX];
    struct comparisons c = { 0 };
    struct loaded l;

    if (file_join(study, folder, "study.db", err) != 0 || file_join(report, folder, "report.html", err) != 0 ||
        load_study(&l, study, err) != 0)
        return -1;
    int result = ratios_build(&c, &l, err);
    if (result == 0) {
        exports_table(stdout, &l, &c);
        print_found(&l, &c);
        result = html_report(study, report, NULL, err);
    }
    if (result == 0)
        printf("\nreport: %s\n", report);
    if (result == 0 && !any_done(&l))
        result =
            err_set(err, ERR_RUN, "every run of the study failed: %s", l.n_runs ? l.runs[0].reason : "none is there");
    if (result < 0 && err->code == ERR_RUN && l.n_runs)
        err_where(err, "%s", l.runs[0].stderr_tail);
    ratios_free(&c);
    load_free(&l);
    return result;
}

/* ---- Until the intervals are narrow ---- */

/* A study that grew before goes on from there. */
static int begin_growing(struct cells *s, const char *study, struct err *err)
{
    struct loaded l;

    if (s->blocks < 2) /* one has no interval */
        s->blocks = 2;
    if (access(study, F_OK) != 0)
        return 0;
    if (load_study(&l, study, err) != 0)
        return -1;
    if (l.blocks > s->blocks)
        s->blocks = l.blocks;
    load_free(&l);
    return 0;
}

/* 1: another block is wanted, 0: enough, -1: error. */
static int wants_more(const struct cells *s, const char *study, struct err *err)
{
    const struct comparison *row = NULL;
    enum ratio_kind kind = RATIO_SPEED;
    struct comparisons c = { 0 };
    struct loaded l;
    char name[80];

    if (load_study(&l, study, err) != 0)
        return -1;
    int result = ratios_build(&c, &l, err);
    const double width = result == 0 ? ratios_widest(&c, &row, &kind) : NAN;
    if (row && width > options.ci_width) {
        result = s->blocks < options.max_blocks;
        log_note("after %lld blocks the widest interval is +-%.1f %%, %s of \"%s\"%s", (long long)s->blocks,
                 100 * width, ratio_names[kind], log_safe(name, sizeof name, l.cells[row->cell].name),
                 result ? "" : ": --max_blocks ends it here");
    }
    ratios_free(&c);
    load_free(&l);
    return result;
}

static int run_blocks(struct cells *s, struct err *err)
{
    struct study_options o = { .output = options.output, .retry_failed = options.retry_failed };
    char study[FILE_PATH_MAX];
    int n_failed, more = 0, result;

    if (file_join(study, options.output, "study.db", err) != 0 ||
        (options.ci_width > 0 && begin_growing(s, study, err) != 0))
        return -1;
    do {
        s->blocks += more;
        result = study_run(s, &o, &n_failed, err);
        o = (struct study_options){ .output = options.output, .again = true };
        more = result == 0 && options.ci_width > 0 ? wants_more(s, study, err) : 0;
    } while (more > 0);
    return more < 0 ? -1 : result;
}

static int run_cells(struct cells *s, struct err *err)
{
    if (options.dry_run) {
        study_print(s, stdout);
        return 0;
    }
    const int result = run_blocks(s, err);
    if (result < 0)
        return -1;
    if (result > 0) {
        log_note("stopped; the same command goes on where this one stopped");
        return 128 + result;
    }
    return conclude(options.output, err);
}

static int run(struct command_line *line, struct err *err)
{
    const struct cells_choice choice = { .phases = options.phases,
                                         .cells = options.cells,
                                         .ranks = options.ranks,
                                         .model = options.model,
                                         .reward_model = options.reward_model,
                                         .data = options.data,
                                         .parameters = options.set,
                                         .blocks = options.blocks };
    char path[FILE_PATH_MAX];
    struct cells s;

    if (line->n_words > 1)
        return err_set(err, ERR_USAGE, "one study file at most, %d words are given", line->n_words);
    if (line->n_words && study_file_find(path, line->words[0], err) != 0)
        return -1;
    if ((line->n_words ? study_file_load(&s, path, err) : cells_builtin(&s, err)) != 0)
        return -1;
    const int result = cells_finish(&s, &choice, err) == 0 ? run_cells(&s, err) : -1;
    cells_free(&s);
    return result;
}

const struct command cmd_study = {
    .name = "study",
    .summary = "measure what each optimization does to time, memory and energy, in all phases",
    .usage = "tuneup study [FILE|NAME] [--output DIR] [options]",
    .examples =
        "  tuneup study                                   the three phases on a small model, about ten minutes\n"
        "  tuneup study --model DIR --data_path FILE      the same techniques on your model and data\n"
        "  tuneup study mine.yaml --blocks 10             cells of your own, commands of others included\n"
        "  tuneup study mine.yaml --ci_width 0.03         until every ratio is known to 3 %, or 30 blocks have run\n"
        "  tuneup study deepspeed-chat-opt-350m --dry_run another program's phases, as commands\n"
        "  tuneup study --phases ppo --ranks 1            one phase of it\n"
        "  tuneup study --cells bf16,zero-1 --ranks 2     some of the cells\n",
    .details =
        "Every cell runs once in each block, in a random order, as a process group of its own. Interrupt it when\n"
        "you like: the same command goes on where it stopped. At the end it prints the ratios and the path of\n"
        "report.html. A cell that fails is a result, with its last lines of error. The form of a study file is in\n"
        "docs/study.md.",
    .sets = sets,
    .run = run,
};
