/* The front door: finds the command, parses its options against its tables, runs it, and is the only place that prints
 * an error and picks the exit status. A new command is one file and one line in the table below. */
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/mem.h"
#include "base/option.h"
#include "cli/command.h"
#include "cli/help.h"

/* One a line, in the order in which --help lists them. */
/* clang-format off */
extern const struct command cmd_advise;
extern const struct command cmd_chat;
extern const struct command cmd_compare;
extern const struct command cmd_data_check;
extern const struct command cmd_data_new;
extern const struct command cmd_doctor;
extern const struct command cmd_eval;
extern const struct command cmd_generate;
extern const struct command cmd_help;
extern const struct command cmd_measure;
extern const struct command cmd_model_info;
extern const struct command cmd_model_new;
extern const struct command cmd_plan;
extern const struct command cmd_plan_ppo;
extern const struct command cmd_ppo;
extern const struct command cmd_report;
extern const struct command cmd_reward;
extern const struct command cmd_rlhf;
extern const struct command cmd_runs_export;
extern const struct command cmd_runs_ls;
extern const struct command cmd_runs_rm;
extern const struct command cmd_runs_show;
extern const struct command cmd_score;
extern const struct command cmd_sft;
extern const struct command cmd_study;
extern const struct command cmd_tokenize;
extern const struct command cmd_tokenizer;

const struct command *const commands[] = {
    &cmd_study,
    &cmd_sft,
    &cmd_reward,
    &cmd_ppo,
    &cmd_rlhf,
    &cmd_eval,
    &cmd_score,
    &cmd_generate,
    &cmd_chat,
    &cmd_plan,
    &cmd_plan_ppo,
    &cmd_compare,
    &cmd_report,
    &cmd_advise,
    &cmd_runs_ls,
    &cmd_runs_show,
    &cmd_runs_rm,
    &cmd_runs_export,
    &cmd_measure,
    &cmd_doctor,
    &cmd_model_new,
    &cmd_model_info,
    &cmd_data_new,
    &cmd_data_check,
    &cmd_tokenize,
    &cmd_tokenizer,
    &cmd_help,
    NULL,
};
/* clang-format on */

struct global_options {
    bool help, version, quiet, verbose, no_color;
};

static const struct option global_table[] = {
    { .name = "help",
      .alias = "h",
      .type = OPTION_FLAG,
      .offset = offsetof(struct global_options, help),
      .help = "show this help, examples first" },
    { .name = "version",
      .type = OPTION_FLAG,
      .offset = offsetof(struct global_options, version),
      .help = "print the version" },
    { .name = "quiet",
      .alias = "q",
      .type = OPTION_FLAG,
      .offset = offsetof(struct global_options, quiet),
      .help = "print results and errors only" },
    { .name = "verbose",
      .alias = "v",
      .type = OPTION_FLAG,
      .offset = offsetof(struct global_options, verbose),
      .help = "print details too" },
    { .name = "no_color",
      .type = OPTION_FLAG,
      .offset = offsetof(struct global_options, no_color),
      .help = "no colour (NO_COLOR in the environment does the same)" },
    { 0 },
};

static int report_error(const struct err *err)
{
    char safe[4096];

    log_progress("%s", "");
    /* Another rank tells it, and has the exit status: mpirun kills the others, the teller among them, when one fails. */
    if (err->what[0] == '\0')
        return 0;
    fprintf(stderr, "tuneup: error: %s\n", log_safe_lines(safe, sizeof safe, err->what));
    if (err->where[0])
        fprintf(stderr, "  where: %s\n", log_safe_lines(safe, sizeof safe, err->where));
    if (err->hint[0])
        fprintf(stderr, "  hint: %s\n", log_safe_lines(safe, sizeof safe, err->hint));
    return err->exit_status ? err->exit_status : err_exit_code(err->code);
}

/* "-q" is "--quiet": these are the only short forms there are. */
static void expand_short(int argc, char **argv)
{
    static const struct {
        const char *from;
        char to[12];
    } shorts[] = {
        { "-h", "--help" }, { "-q", "--quiet" }, { "-v", "--verbose" }, { "-V", "--version" }, { "-o", "--output" }
    };

    for (int i = 1; i < argc && strcmp(argv[i], "--") != 0; i++)
        for (int k = 0; k < COUNT_OF(shorts); k++)
            if (strcmp(argv[i], shorts[k].from) == 0)
                argv[i] = (char *)shorts[k].to;
}

/* The command of the longest name that the first words spell: "data check" before "data". */
static const struct command *find_command(int argc, char **argv, int *n_words)
{
    const struct command *best = NULL;

    for (int i = 0; commands[i]; i++) {
        const char *name = commands[i]->name, *space = strchr(name, ' ');
        const size_t n = space ? (size_t)(space - name) : strlen(name);

        if (strlen(argv[1]) != n || strncmp(argv[1], name, n) != 0)
            continue;
        if (space && (argc < 3 || strcmp(argv[2], space + 1) != 0))
            continue;
        if (!best || space) {
            best = commands[i];
            *n_words = space ? 2 : 1;
        }
    }
    return best;
}

static int unknown_command(const char *name)
{
    const struct command *near = help_nearest(name);
    char safe[128];

    fprintf(stderr, "tuneup: error: unknown command \"%s\"\n  hint: ", log_safe(safe, sizeof safe, name));
    if (near)
        fprintf(stderr, "Did you mean %s? ", near->name);
    fputs("tuneup --help lists the commands.\n", stderr);
    return 2;
}

/* A full disk behind stdout is a failure, however well the command itself went. */
static int end_output(int status)
{
    if (fflush(stdout) == 0)
        return status;
    fprintf(stderr, "tuneup: error: could not write to standard output\n");
    return status ? status : 1;
}

#define SPINS "1000" /* some tens of microseconds */

/* A thread that waits for the others looks whether they are there before it gives its core away. GNU's OpenMP does so for
 * milliseconds, which on a machine with other work are taken from the very threads that it waits for. It reads its
 * environment as it is loaded, so the program starts itself again; ranks that it starts find the variable set. */
static void wait_briefly(char **argv)
{
    if (!getenv("OMP_WAIT_POLICY") && !getenv("GOMP_SPINCOUNT") && setenv("GOMP_SPINCOUNT", SPINS, 1) == 0)
        execv("/proc/self/exe", argv); /* where it fails, waiting takes longer and nothing else changes */
}

int main(int argc, char **argv)
{
    static struct command_line line;
    struct global_options global = { 0 };
    struct err err = { 0 };
    int skip = 0;

    line.pipe_ignored = signal(SIGPIPE, SIG_DFL) == SIG_IGN; /* "tuneup ... | head" ends quietly */
    if (argc < 2) {
        help_overview(stderr);
        return 2;
    }
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0) {
        help_overview(stdout);
        return end_output(0);
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        puts("tuneup " TUNEUP_VERSION);
        return end_output(0);
    }
    const struct command *c = find_command(argc, argv, &skip);
    if (!c)
        return unknown_command(argv[1]);
    if (c->computes)
        wait_briefly(argv);

    line.argc = argc;
    line.argv = argv;
    line.n_sets = c->sets(line.sets);
    line.sets[line.n_sets++] = (struct option_set){ .title = "Global", .options = global_table, .values = &global };
    option_defaults(line.sets, line.n_sets);
    expand_short(argc, argv);
    line.words = mem_array(argc + 1, 1, sizeof *line.words, MEM_OTHER, &err);
    if (!line.words)
        return report_error(&err);
    if (option_parse(line.sets, line.n_sets, argc - skip, argv + skip, line.given, COMMAND_MAX_GIVEN, &line.n_given,
                     line.words, argc, &line.n_words, &err) != 0 &&
        !global.help)
        return report_error(&err);
    if (global.help) {
        help_command(stdout, c, line.sets, line.n_sets);
        return end_output(0);
    }
    log_set(global.quiet ? LOG_QUIET : global.verbose ? LOG_VERBOSE : LOG_NORMAL, true);

    int status = c->run(&line, &err);
    if (status < 0)
        status = report_error(&err);
    return end_output(status);
}
