/* cli/manpage.h - man pages (man(7)) and bash completion, printed from the tables that --help reads.
 * Called by cli/cmd_help.c; tools/manpages writes them to files when the program is built. */
#ifndef TUNEUP_CLI_MANPAGE_H
#define TUNEUP_CLI_MANPAGE_H

#include <stdio.h>

#include "cli/command.h"

/* tuneup(1). global: the options that every command has. */
void manpage_program(FILE *out, const struct option_set *global);
/* tuneup-NAME(1); a space in the name becomes "-". sets: the command's own. */
void manpage_command(FILE *out, const struct command *c, const struct option_set *sets, int n_sets);
void manpage_completion(FILE *out, const struct option_set *global);

#endif
