/* report/ratios.h - a study's runs -> SpeedUp, MemoryUp and EnergyUp of every cell over its baseline, with the quality that
 * was paid for them. Above 1 is better than the baseline, for all three.
 *
 *   SpeedUp  = T_base / T   T: seconds of the steps after the warm-up; of the whole run for commands
 *   MemoryUp = M_base / M   M: the highest sum over all ranks of anonymous, shared and swapped memory; or what the GPUs held,
 *                           where every run of a baseline that is a command held some (ratios_gpu_memory): never both
 *   EnergyUp = E_base / E   E: joules over the same window as T; there is none where nothing measured it
 *   energy-delay product: SpeedUp x EnergyUp; memory-time product: SpeedUp x MemoryUp, as a bill for a share of a machine goes
 *   Powerup  = SpeedUp / EnergyUp (Abdulsalam, Zong, Gu, Qiu, IGSC 2015, doi 10.1109/IGCC.2015.7393699) */
#ifndef TUNEUP_REPORT_RATIOS_H
#define TUNEUP_REPORT_RATIOS_H

#include "report/load.h"
#include "report/stats.h"

/* An exact technique's losses may leave the baseline's by this much at most: what another order of summation does. */
#define RATIOS_EXACT_TOLERANCE 1e-3

/* A counter's energy is judged from this many of its updates on. */
#define RATIOS_MIN_UPDATES 50

/* The last three are SpeedUps of the parts of PPO's iterations; other phases have none. */
enum ratio_kind {
    RATIO_SPEED,
    RATIO_MEMORY,
    RATIO_ENERGY,
    RATIO_POWER,
    RATIO_WHOLE,
    RATIO_ENERGY_DELAY,
    RATIO_MEMORY_TIME,
    RATIO_GENERATE,
    RATIO_SCORE,
    RATIO_TRAIN,
    RATIO_N
};
extern const char
    *const ratio_names[RATIO_N]; /* "SpeedUp", "MemoryUp", "EnergyUp", "Powerup", "SpeedUp (whole run)", ... */
bool ratios_has(const struct load_cell *c, enum ratio_kind kind); /* false: cells of this phase have no such ratio */

enum ratio_source { RATIO_MEASURED, RATIO_ESTIMATED, RATIO_UNAVAILABLE };
const char *ratio_source_name(enum ratio_source source);

struct ratio {
    enum ratio_source source;
    char reason[512]; /* why it is unavailable, and how to mend that */
    struct estimate e;
    double grain; /* of energy: what the counters' updates leave open, relative; it is within the interval */
};

/* What a phase is judged by beside its loss: "accuracy" of a reward model, "reward" and "KL" of PPO. */
enum { RATIOS_MAX_QUALITIES = 2 };
struct quality {
    const char *name;
    double value, base; /* means over all steps and blocks; NAN = unknown */
};

struct comparison {
    int cell, base; /* indexes in loaded.cells */
    struct ratio ratios[RATIO_N];
    int n_done, n_failed, n_base_done;
    /* Largest relative difference of the curve (ratios_curve) over all steps and blocks; NAN = unknown. */
    double loss_gap;
    double final_loss, base_final_loss; /* means over the blocks */
    bool loss_flagged; /* an exact technique beyond the tolerance, or without a curve to check */
    struct quality qualities[RATIOS_MAX_QUALITIES];
    int n_qualities;
    const char *category; /* of Powerup: "faster, power grew less than speed"; NULL without energy */
};

struct comparisons {
    struct comparison *rows; /* owned: one for every cell that is no baseline, in the study's order */
    int n;
};

/* The curve over the steps by which cells of a phase are held against their baseline: "loss", "reward". */
const char *ratios_curve(const struct load_cell *c);

int ratios_build(struct comparisons *c, const struct loaded *l, struct err *err);
/* The rows of one phase; ratios_free releases them. */
int ratios_of_phase(struct comparisons *out, const struct comparisons *all, const struct loaded *l, const char *phase,
                    struct err *err);
void ratios_free(struct comparisons *c);

/* Which memory the cells of a baseline are compared by: the GPUs' if all its runs held some; a cell that held none then has no
 * MemoryUp. Else the host's. */
bool ratios_gpu_memory(const struct loaded *l, int cell);
const char *ratios_memory(const struct loaded *l, int cell); /* "GPU", "host" */
/* Whether two cells are compared by the peaks that their runs counted, which miss no moment, rather than by what a meter saw
 * from outside. Of a command, what the GPUs held. */
bool ratios_own_memory(const struct loaded *l, int a, int b);
/* The value that a ratio divides, of one run, NAN if unknown; `own`: by the run's own count of its memory. */
double ratios_value(const struct loaded *l, const struct load_run *r, enum ratio_kind kind, bool own);
int64_t ratios_peak(const struct loaded *l,
                    const struct load_run *r); /* its peak, of the memory compared; -1 = unknown */
/* In which of the first three ratios the run lies apart from its cell's others (stats_outlier): bit 1 << kind. */
unsigned ratios_outlier(const struct loaded *l, const struct load_run *r);
/* The widest interval among SpeedUp, MemoryUp and EnergyUp of the rows, as stats_half_width; NAN: there is none. */
double ratios_widest(const struct comparisons *c, const struct comparison **row, enum ratio_kind *kind);
/* Its mean over the counted runs of a cell, and how many there are. */
double ratios_mean(const struct loaded *l, int cell, enum ratio_kind kind, int *n);

#endif
