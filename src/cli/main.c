/* The front door: finds the command, parses its options against its tables, runs it, and is the only place that prints
 * an error and picks the exit status. A new command is one file and one line in the table below. */
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/log.h"
#include "base/option.h"
#include "cli/command.h"

const struct command *const commands[] = {
    NULL,
};

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

static void print_commands(FILE *out)
{
    fputs("tuneup fine-tunes OPT models and measures what every optimization does to time, memory and energy.\n\n"
          "  tuneup study                                       the built-in study, with a report\n"
          "  tuneup sft --model DIR --data FILE --output DIR    fine-tune your own model\n"
          "\nCommands (tuneup COMMAND --help shows examples and options):\n",
          out);
    for (int i = 0; commands[i]; i++)
        fprintf(out, "  %-18s %s\n", commands[i]->name, commands[i]->summary);
    fputs("\nGlobal options: --help --version --quiet --verbose --no-color\n"
          "Exit status: 0 done, 1 failed, 2 usage or bad input, 3 infeasible, 4 measurement unavailable, "
          "130/143 stopped by a signal\n",
          out);
}

static void print_help(const struct command *c, const struct option_set *sets, int n_sets)
{
    printf("%s\n\nUsage: %s\n", c->summary, c->usage);
    if (c->examples)
        printf("\nExamples:\n%s", c->examples);
    if (c->details)
        printf("\n%s\n", c->details);
    option_help(stdout, sets, n_sets);
}

static int report_error(const struct err *err)
{
    log_progress("%s", "");
    fprintf(stderr, "tuneup: error: %s\n", err->what);
    if (err->where[0])
        fprintf(stderr, "  where: %s\n", err->where);
    if (err->hint[0])
        fprintf(stderr, "  hint: %s\n", err->hint);
    return err_exit_code(err->code);
}

/* "-q" is "--quiet": the only short forms there are. */
static void expand_short(int argc, char **argv)
{
    static const struct {
        const char *from;
        char to[12];
    } shorts[] = { { "-h", "--help" }, { "-q", "--quiet" }, { "-v", "--verbose" }, { "-V", "--version" } };

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
    fprintf(stderr, "tuneup: error: unknown command \"%s\"\n  hint: The commands are", name);
    for (int i = 0; commands[i]; i++)
        fprintf(stderr, "%s %s", i ? "," : "", commands[i]->name);
    fputs(". See tuneup --help.\n", stderr);
    return 2;
}

int main(int argc, char **argv)
{
    static struct command_line line;
    struct global_options global = { 0 };
    struct err err = { 0 };
    int skip = 0;

    if (argc < 2 || strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0) {
        print_commands(stdout);
        return argc < 2 ? 2 : 0;
    }
    if (strcmp(argv[1], "--version") == 0 || strcmp(argv[1], "-V") == 0) {
        puts("tuneup " TUNEUP_VERSION);
        return 0;
    }
    const struct command *c = find_command(argc, argv, &skip);
    if (!c)
        return unknown_command(argv[1]);

    signal(SIGPIPE, SIG_DFL); /* "tuneup ... | head" ends quietly */
    line.argc = argc;
    line.argv = argv;
    line.n_sets = c->sets(line.sets);
    line.sets[line.n_sets++] = (struct option_set){ "Global", global_table, &global };
    option_defaults(line.sets, line.n_sets);
    expand_short(argc, argv);
    if (option_parse(line.sets, line.n_sets, argc - skip, argv + skip, line.given, COMMAND_MAX_GIVEN, &line.n_given,
                     line.words, COMMAND_MAX_WORDS, &line.n_words, &err) != 0 &&
        !global.help)
        return report_error(&err);
    if (global.help) {
        print_help(c, line.sets, line.n_sets);
        return 0;
    }
    log_set(global.quiet ? LOG_QUIET : global.verbose ? LOG_VERBOSE : LOG_NORMAL, true);

    int status = c->run(&line, &err);
    if (status < 0)
        status = report_error(&err);
    if (fflush(stdout) != 0) {
        fprintf(stderr, "tuneup: error: could not write to standard output\n");
        return status ? status : 1;
    }
    return status;
}
