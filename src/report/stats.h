/* report/stats.h - from repeated measurements to a ratio with an interval and a verdict.
 *
 * All of it happens on logarithms: a ratio is exp(mean of ln(base) - ln(variant)), its interval Student's t around that
 * mean, so swapping base and variant gives exactly the inverse, and no bound is ever negative. Runs of one block are
 * compared with each other (paired); runs that share no block by Welch's method with Satterthwaite's degrees of freedom.
 * One run gives a ratio but neither an interval nor a verdict. */
#ifndef TUNEUP_REPORT_STATS_H
#define TUNEUP_REPORT_STATS_H

#include <stdbool.h>
#include <stddef.h>

#define STATS_CONFIDENCE 0.95
#define STATS_SENSIBLE_BLOCKS 100 /* nobody waits for more */
#define STATS_PRACTICAL 0.02 /* ratios within 1/(1+d) and 1+d do not matter to anyone */

enum verdict {
    VERDICT_NONE, /* one run, or none */
    VERDICT_BETTER, /* the interval lies above 1, and beyond what VERDICT_SAME takes in */
    VERDICT_WORSE,
    VERDICT_SAME, /* no practical difference: the interval lies within +-2 %, on whichever side of 1 */
    VERDICT_UNDECIDED,
};

struct estimate {
    int n; /* pairs, or runs of the smaller side */
    double value, low, high; /* NAN where there is none */
    double p, p_holm; /* two-sided, for "the ratio is 1"; p_holm is p until stats_holm */
    enum verdict verdict;
    int blocks_needed; /* of an undecided one: about so many for +-2 %, 0 = unknown */
    bool paired;
};

/* I_x(a,b), the regularised incomplete beta function, a and b > 0, x in [0,1]. */
double stats_beta(double a, double b, double x);
/* P(T <= t) and its inverse, Student's t with df > 0 degrees of freedom, p in (0,1). */
double stats_t_below(double t, double df);
double stats_t_quantile(double p, double df);

/* base[i] and variant[i] are of one block; pairs with a value that is no positive number are left out. */
struct estimate stats_paired(const double *base, const double *variant, int n);
struct estimate stats_unpaired(const double *base, int n_base, const double *variant, int n_variant);
/* The upper end of the interval of one cell's mean, by logarithms; of one value that value. NAN where one is no positive
 * number, or there is none. */
double stats_upper(const double *values, int n);
/* Adds a further uncertainty of the log ratio, as wide as half an interval, in quadrature, and judges again. */
void stats_widen(struct estimate *e, double half);
/* How far the ends of the interval lie from the value, relative: 0.04 for 4 %. NAN: there is no interval. */
double stats_half_width(const struct estimate *e);

#define STATS_OUTLIER_RUNS 5 /* fewer have no shape to lie outside of */
#define STATS_OUTLIER_Z 3.5
/* Does values[i] lie apart from the others: its logarithm by more than 3.5 robust standard deviations (1.4826 times the median
 * absolute deviation) from the median (Iglewicz and Hoaglin, "How to detect and handle outliers", 1993), and by more than
 * STATS_PRACTICAL? Values that are no positive number are left out. Such a run is marked, and counts like any other. */
bool stats_outlier(const double *values, int n, int i);
/* Holm's step-down correction over the family estimates[n]: sets p_holm. Those without a p are left out. */
void stats_holm(struct estimate *const *estimates, int n);

/* "better", "inconclusive (n=5; about 12 blocks needed for +-2 %)", ... */
void stats_verdict(const struct estimate *e, char *out, size_t size);
const char *stats_verdict_word(enum verdict v); /* "better", "worse", "no practical difference", ... */

#endif
