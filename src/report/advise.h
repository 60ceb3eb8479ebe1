/* report/advise.h - from a study's ratios to what to switch on: limits first, then what nothing else beats, then the
 * reader's priorities.
 *
 *   1. Limits. A cell that needs more than one of them allows is out, by the upper end of its 95 % interval; memory by its
 *      highest peak and 5 % more.
 *   2. The Pareto set under uncertainty: A dominates B only if it is better beyond noise in one dimension, and in none worse
 *      beyond noise or by more than 2 %.
 *   3. Of these the largest U = SpeedUp^s MemoryUp^m EnergyUp^g with s + m + g = 1: a weighted geometric mean, so that neither
 *      units nor the choice of the baseline decide (Fleming and Wallace 1986, doi 10.1145/5666.5673). Its interval is that of ln U
 *      over the blocks, which knows how the three move together.
 *   4. Whatever the same test cannot tell from the best is tied with it; of those the one with the fewest switches is advised.
 *
 * A group is a baseline and the cells that are held against it: one phase at one rank count. */
#ifndef TUNEUP_REPORT_ADVISE_H
#define TUNEUP_REPORT_ADVISE_H

#include "report/ratios.h"

#define ADVISE_HEADROOM 1.05 /* on peak memory, which a longer run may exceed a little */

enum { ADVISE_N = 3 }; /* the first three of enum ratio_kind */
extern const char *const advise_names[ADVISE_N]; /* "speed", "memory", "energy" */

enum advise_limit { ADVISE_MEMORY, ADVISE_SECONDS, ADVISE_JOULES, ADVISE_LOSS, ADVISE_LIMITS };
extern const char *const advise_options[ADVISE_LIMITS]; /* "--max_memory", ... */

struct advise_wish {
    double weight[ADVISE_N]; /* not negative, their sum is 1 */
    bool
        insist; /* on energy: where it has a weight and is unknown nothing is advised; else the others are weighed without */
    double limit[ADVISE_LIMITS]; /* bytes, seconds, joules, relative increase; NAN: none */
    int64_t steps; /* seconds and joules are those of a run of so many steps; 0: of the run as it was measured */
};
/* "speed=2,memory=1,energy=1", or a preset: speed, memory, energy (4 to 1 to 1), balanced. ERR_USAGE. */
int advise_parse(const char *text, double weight[ADVISE_N], struct err *err);
/* Whether such a text asks for energy by name, rather than by what a preset adds to speed or memory. */
bool advise_names_energy(const char *text);

struct advise_cell {
    int cell; /* index in loaded.cells */
    const struct comparison *row; /* NULL: the baseline */
    int n_switches; /* techniques; of a command, words that its baseline does not have */
    double need[ADVISE_LIMITS]; /* what is held against the limits; NAN = unknown */
    unsigned fails; /* bit i: limit i is not met, or cannot be checked */
    char excluded[256]; /* why there is nothing to weigh; "" */
    int dominated_by; /* index in the group's cells; -1: in the Pareto set, or not judged */
    struct estimate utility; /* U over the baseline */
    bool tied; /* with the best, as far as can be told */
};

struct advise_group {
    int base; /* index in loaded.cells */
    struct advise_cell *cells; /* owned; the baseline first */
    int n;
    bool known[ADVISE_N]; /* measured in the baseline */
    const char *unknown_reason; /* of energy; borrowed */
    double weight[ADVISE_N]; /* the wish's, or what is left of it without energy */
    bool energy_dropped; /* its weight went to the others: it is not known of every cell that ran */
    bool weighed; /* false: a dimension that has a weight is unknown, and nothing is advised */
    bool one_run; /* no interval can be had: nothing is beyond noise */
    int best, chosen; /* indexes in cells; -1: none */
    int blocks_needed; /* to tell the best from what is chosen, about; 0 = unknown, or they are the same */
    double low[ADVISE_N], high[ADVISE_N]; /* the range of each weight in which `chosen` stays; NAN = none */
    bool constant_power; /* energy goes as time does: weighing both counts it twice */
    char next[256]; /* techniques to measure together, as JSON; "" */
};

struct advice {
    struct advise_wish wish;
    struct advise_group *groups; /* owned; in the study's order */
    int n;
};

/* phases: "sft,ppo", NULL = all. c must outlive the advice. ERR_USAGE: no such phase. */
int advise_build(struct advice *a, const struct loaded *l, const struct comparisons *c, const struct advise_wish *wish,
                 const char *phases, struct err *err);
void advise_free(struct advice *a);
bool advise_feasible(const struct advise_cell *c); /* meets the limits, and there is something to weigh */

#endif
