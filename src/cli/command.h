/* cli/command.h - a command of the command line: a const descriptor in its own cmd_NAME.c, one line in main.c's table. */
#ifndef TUNEUP_CLI_COMMAND_H
#define TUNEUP_CLI_COMMAND_H

#include "base/err.h"
#include "base/option.h"

#define COMMAND_MAX_SETS 128
#define COMMAND_MAX_GIVEN 256

/* What main hands a command: its options are parsed and in their structs already. */
struct command_line {
    struct option_set sets[COMMAND_MAX_SETS]; /* the command's own and the global one, last */
    int n_sets;
    struct option_given given[COMMAND_MAX_GIVEN];
    int n_given;
    const char **words; /* what is no option, the command's own name not included; NULL at the end */
    int n_words;
    int argc; /* the command line as it was typed, for starting ranks and for records */
    char **argv;
    bool pipe_ignored; /* SIGPIPE was, before main made it end the program */
};

struct command {
    const char *name; /* "sft", or "data check" for a command of two words */
    const char *summary; /* one line for the list of commands */
    const char *usage; /* "tuneup sft --model DIR --data FILE --output DIR [options]" */
    const char *examples; /* shown first by --help: lines of "  tuneup ...\n" */
    const char *details; /* a paragraph or NULL: what it reads, writes, prints */
    bool computes; /* with OpenMP's threads, in this process */
    int (*sets)(struct option_set *sets); /* fills in its option sets, returns how many */
    /* The exit status, or -1 with err set. stdout is for results alone. */
    int (*run)(struct command_line *line, struct err *err);
};

extern const struct command *const commands[]; /* NULL at the end: main.c */

#endif
