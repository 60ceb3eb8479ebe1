/* techniques/technique.h - an optimization as a rewrite of a graph or of a plan, composable with every other one. No model,
 * phase, kernel or executor knows of any. A new one is a file here and a line in techniques.c. */
#ifndef TUNEUP_TECHNIQUES_TECHNIQUE_H
#define TUNEUP_TECHNIQUES_TECHNIQUE_H

#include "base/option.h"
#include "plan/plan.h"

/* What a technique may ask about the run before anything is built. */
struct run_facts {
    int ranks;
    bool trains; /* false: evaluation alone */
    bool pairs; /* of rows, whose scores are compared */
    double dropout;
    bool narrow; /* its working type has 16 bits */
};

struct technique {
    const char *name; /* the one word in plans, records and reports; */
    const char *(*called)(const void *options); /* or, where that depends on the options, this one; NULL = name */
    const char *summary;
    const char *paper; /* "Rajbhandari et al. 2020, arXiv:1910.02054" */
    bool exact; /* computes the same numbers, up to the order of sums */
    bool freezes; /* while it is on, some of the model's own weights do not learn */
    const struct option *options; /* its own words on the command line */
    size_t options_size;
    /* How a search switches it on, each a word of its own options: "zero_stage=1", NULL at the end. NULL: by its first option,
     * where that is a flag; else no search does. */
    const char *const *ways;
    bool (*is_on)(const void *options);
    int (*check)(const void *options, const struct run_facts *facts, struct err *err); /* NULL = always possible */
    bool narrows; /* while it is on, the working type has 16 bits */
    double (*drops)(const void *options); /* dropout of its own; NULL = none */
    void (*forget)(void *options); /* all that a model goes without which is like a learning one, but does not learn */
    int (*on_graph)(const void *options, struct graph *g, struct err *err); /* before gradients; NULL = not involved */
    /* After all programs are lowered: on those of one model, told by its prefix. */
    int (*on_plan)(const void *options, struct plan *p, const char *model, struct err *err);
};

extern const struct technique *const techniques[]; /* NULL at the end; order is meaning */
#define TECHNIQUES_MAX 16
#define TECHNIQUE_OPTIONS_MAX 96

/* The values of every technique's options, one slot each, in the order of the table. */
struct technique_values {
    _Alignas(16) char slot[TECHNIQUES_MAX][TECHNIQUE_OPTIONS_MAX];
};
int technique_sets(struct option_set *sets, struct technique_values *values); /* returns how many sets */
/* The same options for one model of several, "actor_" before each; those not given are as in `all`. */
int technique_sets_of(struct option_set *sets, struct technique_values *values, const char *title, const char *prefix,
                      const struct technique_values *all);
/* *facts with what the techniques that are on add to it. */
struct run_facts technique_facts(const struct technique_values *v, const struct run_facts *facts);
int technique_check(const struct technique_values *v, const struct run_facts *facts, struct err *err);
int technique_on_graph(const struct technique_values *v, struct graph *g, struct err *err);
int technique_on_plan(const struct technique_values *v, struct plan *p, const char *model, struct err *err);
bool technique_is_on(const struct technique_values *v, int i);
const char *technique_name(const struct technique_values *v, int i);
int technique_ways(int i); /* in how many ways a search can switch it on */
/* Switches technique i on in way k of them, its other options by default; k = -1: off. */
void technique_choose(struct technique_values *v, int i, int k);
/* Way k as one types it, "--zero_stage 1", or "--no-NAME" for the flags that are off when k is -1; returns out. */
const char *technique_print(int i, int k, char *out, size_t size);
bool technique_freezes(const struct technique_values *v); /* one that is on does */
void technique_forget(struct technique_values *v);
/* The value of a string option, by its name without a prefix. */
const char *technique_text(const struct technique_values *v, const char *option);
void technique_set_text(struct technique_values *v, const char *option, const char *text); /* borrowed */
int technique_find(const char *name); /* index, or -1 */

#endif
