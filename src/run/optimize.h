/* run/optimize.h - which techniques to switch on: a search over the plans of a run, by what they are predicted to take.
 *
 * Used by --optimize, by `tuneup plan --machine`, and by the hint of a run that does not fit. Nothing is allocated: a plan is
 * made, its memory is its own, its seconds and joules are plan/predict.h's. Deterministic. */
#ifndef TUNEUP_RUN_OPTIMIZE_H
#define TUNEUP_RUN_OPTIMIZE_H

#include "plan/predict.h"
#include "run/run.h"

enum { OPTIMIZE_OFF = -1, OPTIMIZE_KEEP = -2 }; /* beside the way by which a technique is on (technique_choose) */

/* A way for each technique of the table. KEEP: as the words of the run have it. */
struct optimize_choice {
    int way[TECHNIQUES_MAX];
};

struct optimize_cost {
    double seconds, communication_s, joules; /* an optimizer step; 0 without a predictor */
    int64_t bytes; /* of the plan, a rank */
};

struct optimize_question {
    const struct run_form *form;
    const struct spec *spec; /* the words; borrowed, as is all here */
    const struct run_model *models; /* descriptions alone are read */
    bool trains;
    int rank, ranks, local_ranks;
    struct run_live live; /* of the data; {0}: they were not looked at */
    const struct predictor *predictor; /* NULL: memory alone is asked for */
    struct backend *backend;
    bool pinned[TECHNIQUES_MAX]; /* given on the command line: not touched */
};

/* pinned: the techniques of which a word was given. */
void optimize_pin(struct optimize_question *q, const struct option_given *given, int n_given);
struct optimize_choice optimize_keep(void); /* everything as the words have it */
struct optimize_choice optimize_plain(void); /* all off, those pinned too */
/* What the run would take with this choice. ERR_USAGE where a technique refuses. */
int optimize_cost(const struct optimize_question *q, const struct optimize_choice *c, struct optimize_cost *out,
                  struct err *err);
/* The plan itself, prepared, with the backend's scratch; the caller frees it. */
int optimize_plan(const struct optimize_question *q, const struct optimize_choice *c, struct plan *p, struct err *err);
/* The best choice for the goal (an index of OPTIMIZE_GOALS, not 0) that can be found by changing one technique at a time,
 * beginning with the words as they are, among those that the spec's optimize_among allows. A choice that is refused is left
 * out. */
int optimize_search(const struct optimize_question *q, int goal, struct optimize_choice *best,
                    struct optimize_cost *cost, struct err *err);
/* Makes it the words of the run. */
void optimize_apply(const struct optimize_question *q, struct spec *spec, const struct optimize_choice *c);
/* One technique of a choice without which the rest is: "--flash_attention: 1.20 times as fast, 340 MiB less". */
void optimize_say(const struct optimize_cost *with, const struct optimize_cost *without, char *out, size_t size);
/* Notes, one for each technique that is on and was not given: what the run would be without it; and for each that was left out:
 * why, and what the run would be with it. q->spec is as decided. The same as JSON: {"on": [..], "left_out": [..]}. */
json_t *optimize_explain(const struct optimize_question *q, const struct optimize_choice *c,
                         const struct optimize_cost *cost);
/* For a run that needs more than limit: the switches that make it fit, each with what it saves. */
void optimize_suggest(const struct optimize_question *q, int64_t beside, int64_t limit, char *out, size_t size);

/* --optimize of a run: decides on rank 0, tells all ranks, changes the words, says what and why. */
int optimize_run(struct run *r, struct err *err);

#endif
