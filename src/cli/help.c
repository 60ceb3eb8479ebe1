/* What --help prints. Examples come before options: most readers look for a line to copy. */
#include "cli/help.h"

#include <string.h>

void help_overview(FILE *out)
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

void help_command(FILE *out, const struct command *c, const struct option_set *sets, int n_sets)
{
    fprintf(out, "%s\n\nUsage: %s\n", c->summary, c->usage);
    if (c->examples)
        fprintf(out, "\nExamples:\n%s", c->examples);
    if (c->details)
        fprintf(out, "\n%s\n", c->details);
    option_help(out, sets, n_sets);
}

const struct command *help_nearest(const char *word)
{
    const struct command *nearest = NULL;
    int best = 1 + (int)strlen(word) / 3;

    for (int i = 0; commands[i]; i++) {
        const int apart = option_distance(word, commands[i]->name);

        if (apart <= best) {
            best = apart;
            nearest = commands[i];
        }
    }
    return nearest;
}
