/* study/cells.h - what a study is before anything runs: cells (phase x techniques x ranks, or a command), how often, in
 * which order.
 * A cell names techniques; the words of its command line follow from the table below, where every technique that is not
 * named is switched off in so many words, so that a baseline is plain whatever the program's defaults are.
 * Read by study_file.c, run by study.c, stored as JSON by study_store.c. */
#ifndef TUNEUP_STUDY_CELLS_H
#define TUNEUP_STUDY_CELLS_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/json.h"

#define CELLS_MAX 512
#define CELLS_MAX_WORDS 256 /* of one command line */
#define CELLS_MAX_RANKS 65536

struct words {
    char **v; /* owned; v[n] is NULL once there is one word */
    int n;
};
int words_add(struct words *w, struct err *err, const char *format, ...) __attribute__((format(printf, 3, 4)));
bool words_have(const struct words *w, const char *word);
void words_free(struct words *w);

enum { CELLS_N_PHASES = 3 };
extern const char *const cells_phases[CELLS_N_PHASES + 1]; /* "sft", "reward", "ppo"; NULL at the end */
int cells_phase(const char *name); /* its index there; -1: a command, or none */

struct technique_word {
    const char *name; /* the word in study files, records and reports */
    const char *on, *off; /* the word on a phase's command line; off NULL: that of the one before it */
    bool exact; /* computes the same numbers */
    int64_t min_ranks;
    const char *phase; /* the only one that has it; NULL: all */
};
extern const struct technique_word technique_words[]; /* NULL name at the end */

struct cell {
    char *name; /* unique together with phase and ranks */
    char *phase; /* "sft", "reward", "ppo", or "command" */
    char *baseline; /* the name of the cell it is compared with; its own name for a baseline */
    int64_t ranks; /* 0 until cells_finish: one cell for each of the study's rank counts */
    struct words techniques;
    struct words argv; /* phase: options after `tuneup PHASE`; command: the whole argument vector */
    bool is_command; /* of a phase of any name: what cells of one name are held against each other */
    struct words parameters; /* command: "name=value", before the study's own */
    struct words environment; /* command: "NAME=value" */
    char *folder; /* command: the folder that it runs in; NULL: where the study was started */
    char *loss_pattern; /* command: what its output calls the loss, with one group; NULL: it tells none */
    bool exact; /* all its techniques are */
    bool few_ranks; /* a template: the first rank count is enough, unless the user names rank counts */
};

struct cells {
    char *name;
    char *model, *reward_model, *data; /* NULL: made by the study */
    int64_t blocks, warmup, seed; /* warmup: discarded blocks before the first */
    double timeout_s; /* of one run */
    int64_t *ranks;
    int n_ranks;
    bool builtin; /* cells that no rank count fits are left out in silence */
    struct words options; /* for every phase cell, before the cell's own */
    struct words phase_options[CELLS_N_PHASES]; /* after these: for the cells of one phase */
    struct words parameters; /* "name=value": what ${name} in a command stands for */
    struct cell *cells;
    int n_cells;
};

/* What the command line may change; 0 and NULL leave the study's own. */
struct cells_choice {
    const char *phases, *cells, *ranks; /* "sft,ppo", "a,b" and "1,2" */
    const char *model, *reward_model, *data;
    int64_t blocks;
    const char *const *parameters; /* "name=value", before all others; NULL at the end, or NULL */
};

/* The built-in study, and an empty one with the same defaults. */
int cells_builtin(struct cells *s, struct err *err);
int cells_init(struct cells *s, const char *name, struct err *err);
/* A new cell with this name, phase and baseline; of a command when the phase is none of this program's. NULL on error. It belongs to s until the next cells_add. */
struct cell *cells_add(struct cells *s, const char *name, const char *phase, const char *baseline, struct err *err);
/* Applies the choice, makes one cell for each rank count, composes the command lines and checks: ERR_USAGE for unknown
 * techniques and baselines, two cells of one name, a technique without a rank count that it can run at. */
int cells_finish(struct cells *s, const struct cells_choice *choice, struct err *err);
void cells_free(struct cells *s);

bool cells_have_phase(const struct cells *s, const char *phase); /* of this program's own: no commands; NULL: any */

/* order[n_cells]: the cells of a block (0, 1, ...; warm-up blocks are -1, -2, ...) in the order they run in. */
void cells_order(const struct cells *s, int64_t block, int *order);
/* The index of the baseline of a cell: the cell of that name with the same phase and ranks, or -1. */
int cells_baseline(const struct cells *s, int cell);
/* All that decides what is run, as stored. NULL without memory. */
json_t *cells_json(const struct cells *s);
/* In words, the first thing in which two such objects differ; false when they are equal. */
bool cells_difference(const json_t *stored, const json_t *asked, char *out, size_t size);

#endif
