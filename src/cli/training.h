/* cli/training.h - what the commands that train have in common: ranks, the run itself, and how a stopped one ends. */
#ifndef TUNEUP_CLI_TRAINING_H
#define TUNEUP_CLI_TRAINING_H

#include "cli/command.h"
#include "run/run.h"

/* The spec is checked already. Starts ranks when more than one is asked for. The exit status, or -1. */
int training_run(const struct run_form *form, struct spec *s, struct command_line *line, struct err *err);
int training_no_words(const struct command_line *line, struct err *err); /* ERR_USAGE for a word that is no option */

#endif
