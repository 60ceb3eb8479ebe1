/* report/ratios.h - a study's runs -> SpeedUp, MemoryUp and EnergyUp of every cell over its baseline, with the quality that
 * was paid for them. Above 1 is better than the baseline, for all three.
 *
 *   SpeedUp  = T_base / T   T: seconds of the steps after the warm-up; of the whole run for commands
 *   MemoryUp = M_base / M   M: the highest sum over all ranks of anonymous, shared and swapped memory
 *   EnergyUp = E_base / E   E: joules over the same window as T; there is none where nothing measured it
 *   Powerup  = SpeedUp / EnergyUp (Abdulsalam, Zong, Gu, Qiu, IGSC 2015, doi 10.1109/IGCC.2015.7393699) */
#ifndef TUNEUP_REPORT_RATIOS_H
#define TUNEUP_REPORT_RATIOS_H

#include "report/load.h"
#include "report/stats.h"

/* An exact technique's losses may leave the baseline's by this much at most: what another order of summation does. */
#define RATIOS_EXACT_TOLERANCE 1e-3

enum ratio_kind { RATIO_SPEED, RATIO_MEMORY, RATIO_ENERGY, RATIO_POWER, RATIO_WHOLE, RATIO_N };
extern const char *const ratio_names[RATIO_N]; /* "SpeedUp", "MemoryUp", "EnergyUp", "Powerup", "SpeedUp (whole run)" */

enum ratio_source { RATIO_MEASURED, RATIO_ESTIMATED, RATIO_UNAVAILABLE };
const char *ratio_source_name(enum ratio_source source);

struct ratio {
    enum ratio_source source;
    char reason[512]; /* why it is unavailable, and how to mend that */
    struct estimate e;
};

struct comparison {
    int cell, base; /* indexes in loaded.cells */
    struct ratio ratios[RATIO_N];
    int n_done, n_failed, n_base_done;
    double loss_gap; /* largest relative difference of the loss over all steps and blocks; NAN = unknown */
    double final_loss, base_final_loss; /* means over the blocks */
    bool loss_flagged; /* an exact technique beyond the tolerance, or without a loss to check */
    const char *category; /* of Powerup: "faster, power grew less than speed"; NULL without energy */
};

struct comparisons {
    struct comparison *rows; /* owned: one for every cell that is no baseline, in the study's order */
    int n;
};

int ratios_build(struct comparisons *c, const struct loaded *l, struct err *err);
void ratios_free(struct comparisons *c);

/* The value that a ratio divides, of one run, NAN if unknown; `own` chooses the run's own count of its memory. */
double ratios_value(const struct loaded *l, const struct load_run *r, enum ratio_kind kind, bool own);
/* Its mean over the counted runs of a cell, and how many there are. */
double ratios_mean(const struct loaded *l, int cell, enum ratio_kind kind, int *n);

#endif
