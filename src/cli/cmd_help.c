/* "tuneup help": a command's help, and the same tables as man pages and shell completion for whoever installs. */
#include <string.h>

#include "cli/command.h"
#include "cli/help.h"
#include "cli/manpage.h"

struct help_options {
    bool man, completion, list;
};

static struct help_options options;

static const struct option table[] = {
    { .name = "man",
      .type = OPTION_FLAG,
      .offset = offsetof(struct help_options, man),
      .help = "print the man page, in man(7) form" },
    { .name = "completion",
      .type = OPTION_FLAG,
      .offset = offsetof(struct help_options, completion),
      .help = "print what completes command lines in bash" },
    { .name = "list",
      .type = OPTION_FLAG,
      .offset = offsetof(struct help_options, list),
      .help = "print the names of the commands, one a line" },
    { 0 },
};

static int sets(struct option_set *out)
{
    out[0] = (struct option_set){ .title = "Help", .options = table, .values = &options };
    return 1;
}

static const struct command *find(const struct command_line *line, struct err *err)
{
    char name[64];

    snprintf(name, sizeof name, "%s%s%s", line->words[0], line->n_words > 1 ? " " : "",
             line->n_words > 1 ? line->words[1] : "");
    for (int i = 0; commands[i]; i++)
        if (strcmp(commands[i]->name, name) == 0)
            return commands[i];
    const struct command *near = help_nearest(name);
    err_set(err, ERR_USAGE, "unknown command \"%s\"", name);
    if (near)
        err_hint(err, "Did you mean %s? tuneup help lists all commands.", near->name);
    else
        err_hint(err, "tuneup help lists all commands.");
    return NULL;
}

static int run(struct command_line *line, struct err *err)
{
    const struct option_set *global = &line->sets[line->n_sets - 1];
    struct option_set own[COMMAND_MAX_SETS];

    if (options.list) {
        for (int i = 0; commands[i]; i++)
            puts(commands[i]->name);
        return 0;
    }
    if (options.completion) {
        manpage_completion(stdout, global);
        return 0;
    }
    if (line->n_words == 0) {
        if (options.man)
            manpage_program(stdout, global);
        else
            help_overview(stdout);
        return 0;
    }
    const struct command *c = find(line, err);
    if (!c)
        return -1;
    int n = c->sets(own);
    if (options.man) {
        manpage_command(stdout, c, own, n);
        return 0;
    }
    MUST(n < COMMAND_MAX_SETS);
    own[n++] = *global;
    help_command(stdout, c, own, n);
    return 0;
}

const struct command cmd_help = {
    .name = "help",
    .summary = "the help of a command; man pages and completion for whoever installs",
    .usage = "tuneup help [COMMAND] [options]",
    .examples = "  tuneup help sft\n"
                "  tuneup help --man sft | man -l -\n"
                "  source <(tuneup help --completion)\n",
    .sets = sets,
    .run = run,
};
