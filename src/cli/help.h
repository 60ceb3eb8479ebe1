/* cli/help.h - everything that is said about the commands: --help, man pages, completion. All of it is read from the
 * command table and its option tables, so that none of it can drift. Called by cli/main.c and cli/cmd_help.c. */
#ifndef TUNEUP_CLI_HELP_H
#define TUNEUP_CLI_HELP_H

#include <stdio.h>

#include "cli/command.h"

void help_overview(FILE *out);
/* The command's --help. sets: its own and the global one. */
void help_command(FILE *out, const struct command *c, const struct option_set *sets, int n_sets);
/* The command whose name is most like this word, or NULL when none is. */
const struct command *help_nearest(const char *word);

#endif
