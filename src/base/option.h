/* base/option.h - one table describes a set of options; parsing, help, man pages, shell completion and run.json all read
 * it, so they cannot drift apart. Commands and techniques each own tables; a command line is parsed against several. */
#ifndef TUNEUP_BASE_OPTION_H
#define TUNEUP_BASE_OPTION_H

#include <stdint.h>
#include <stdio.h>

#include "base/err.h"
#include "base/json.h"

enum option_type {
    OPTION_FLAG, /* bool: "--name" or "--name true|false" by "=", and "--no-name" */
    OPTION_INT, /* int64_t */
    OPTION_REAL, /* double */
    OPTION_STRING, /* const char *, borrowed from argv or the table */
    OPTION_CHOICE, /* int: index in choices */
};

struct option {
    const char *name; /* "zero_stage"; '-' and '_' are alike on the command line */
    const char *alias; /* a second name ("model" for "model_name_or_path") or NULL */
    enum option_type type;
    size_t offset; /* of the value in the options struct */
    const char *fallback; /* the default, in words as one would type it; NULL = zero / not given */
    double min, max; /* INT and REAL: inclusive range, ignored when both are 0 */
    int many; /* STRING: up to so many words, in an array that NULL ends, of many + 1; 0: one word */
    const char *choices; /* CHOICE: "fp32|bf16" */
    const char *value; /* what --help calls the value: "N", "DIR"; NULL for flags */
    const char *help; /* one line, no full stop */
};

/* A table and the struct that it fills. The table ends with an entry whose name is NULL. */
struct option_set {
    const char *title; /* heading in --help: "Data", "ZeRO" */
    const struct option *options;
    void *values;
    /* A copy of another set for one part of the run: its options are "--actor_zero_stage" with prefix "actor_", and those
     * that are not given take what the other set's values got. NULL: none. */
    const char *prefix;
    const void *inherits;
};

/* Fills every set with its defaults. */
void option_defaults(const struct option_set *sets, int n_sets);
/* Parses argv[1..]: "--name value", "--name=value". Words that are no options go to words[0..*n_words-1] (at most
 * max_words), but for those behind an option that takes many; "--" ends the options, and what follows it is words. What was given, in order, goes to given[] (at most
 * max_given), for option_json. ERR_USAGE names the nearest option for an unknown one. */
struct option_given {
    const struct option *option;
    const char *text;
    const void *values; /* which set's it is */
};
int option_parse(const struct option_set *sets, int n_sets, int argc, char **argv, struct option_given *given,
                 int max_given, int *n_given, const char **words, int max_words, int *n_words, struct err *err);
/* Sets one option from text: the way of run files and of option_parse. */
int option_set_text(const struct option *option, void *values, const char *text, struct err *err);
/* The current value, as one would type it, into out. */
void option_print(const struct option *option, const void *values, char *out, size_t size);
/* {"name": {"value": ..., "origin": "default"|"command line"}} of all sets. NULL when there is no memory. */
json_t *option_json(const struct option_set *sets, int n_sets, const struct option_given *given, int n_given);
/* How many letters apart two names are ('-' and '_' in a are alike), for "did you mean". */
int option_distance(const char *a, const char *b);
void option_help(FILE *out, const struct option_set *sets, int n_sets);

#endif
