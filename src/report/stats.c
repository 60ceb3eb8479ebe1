/* Student's t by the incomplete beta function: its continued fraction (NIST Digital Library of Mathematical Functions,
 * 8.17.22) by Lentz's method, its inverse by Newton's steps, and by bisection where these would leave the bracket. */
#include "report/stats.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>

#define TINY 1e-300
#define BLOCKS_MAX 10000

static double not_zero(double x)
{
    return fabs(x) < TINY ? TINY : x;
}

/* The continued fraction; converges fast for x < (a+1)/(a+b+2). */
static double beta_fraction(double a, double b, double x)
{
    double c = 1, d = 1 / not_zero(1 - (a + b) * x / (a + 1)), f = d;

    for (int m = 1; m < 500; m++) {
        const double even = m * (b - m) * x / ((a + 2 * m - 1) * (a + 2 * m));
        const double odd = -(a + m) * (a + b + m) * x / ((a + 2 * m) * (a + 2 * m + 1));

        d = 1 / not_zero(1 + even * d);
        c = not_zero(1 + even / c);
        f *= c * d;
        d = 1 / not_zero(1 + odd * d);
        c = not_zero(1 + odd / c);
        f *= c * d;
        if (fabs(c * d - 1) < 1e-15)
            break;
    }
    return f;
}

double stats_beta(double a, double b, double x)
{
    if (x <= 0 || x >= 1)
        return x <= 0 ? 0 : 1;
    const double front = exp(lgamma(a + b) - lgamma(a) - lgamma(b) + a * log(x) + b * log1p(-x));
    if (x < (a + 1) / (a + b + 2))
        return front * beta_fraction(a, b, x) / a;
    return 1 - front * beta_fraction(b, a, 1 - x) / b;
}

double stats_t_below(double t, double df)
{
    const double tail = 0.5 * stats_beta(0.5 * df, 0.5, df / (df + t * t));

    return t > 0 ? 1 - tail : tail;
}

double stats_t_quantile(double p, double df)
{
    const double scale = exp(lgamma(0.5 * (df + 1)) - lgamma(0.5 * df)) / sqrt(df * M_PI);
    double low = 0, high = 1, t;

    if (p < 0.5)
        return -stats_t_quantile(1 - p, df);
    while (stats_t_below(high, df) < p && high < 1e300)
        high *= 2;
    t = 0.5 * (low + high);
    for (int i = 0; i < 200; i++) {
        const double apart = stats_t_below(t, df) - p;
        const double slope = scale * pow(1 + t * t / df, -0.5 * (df + 1));

        if (apart < 0)
            low = t;
        else
            high = t;
        double next = t - apart / slope;
        if (!(next > low && next < high))
            next = 0.5 * (low + high);
        if (fabs(next - t) <= 1e-14 * t || next == low || next == high)
            return next;
        t = next;
    }
    return t;
}

/* ---- Ratios ---- */

struct moments {
    int n;
    double mean, variance; /* of the sample: n - 1 below */
};

static bool usable(double x)
{
    return isfinite(x) && x > 0;
}

/* Two passes over f(0..n-1), by way of a copy that holds only what is usable. */
static struct moments moments_of(const double *x, int n)
{
    struct moments m = { .n = n };

    for (int i = 0; i < n; i++)
        m.mean += x[i] / n;
    for (int i = 0; i < n && n > 1; i++)
        m.variance += (x[i] - m.mean) * (x[i] - m.mean) / (n - 1);
    return m;
}

static int needed(double deviation)
{
    const double target = log1p(STATS_PRACTICAL);

    int low = 1, high = BLOCKS_MAX; /* too few; enough, or the most that is looked at */

    if (stats_t_quantile(0.5 + STATS_CONFIDENCE / 2, high - 1) * deviation / sqrt(high) > target)
        return 0;
    while (high - low > 1) {
        const int n = (low + high) / 2;

        if (stats_t_quantile(0.5 + STATS_CONFIDENCE / 2, n - 1) * deviation / sqrt(n) <= target)
            high = n;
        else
            low = n;
    }
    return high;
}

static void judge(struct estimate *e, double deviation)
{
    const double near = 1 + STATS_PRACTICAL;

    if (e->low >= 1 / near && e->high <= near)
        e->verdict = VERDICT_SAME;
    else if (e->low > 1)
        e->verdict = VERDICT_BETTER;
    else if (e->high < 1)
        e->verdict = VERDICT_WORSE;
    else
        e->verdict = VERDICT_UNDECIDED;
    if (e->verdict == VERDICT_UNDECIDED)
        e->blocks_needed = needed(deviation);
}

/* The estimate for a mean log ratio with this standard error. Equal runs (memory often is) have a width of zero. */
static struct estimate estimate_of(int n, double mean, double error, double df, double deviation)
{
    struct estimate e = { .n = n, .value = exp(mean), .low = NAN, .high = NAN, .p = NAN, .p_holm = NAN };

    if (n < 2)
        return e;
    const double half = error > 0 ? stats_t_quantile(0.5 + STATS_CONFIDENCE / 2, df) * error : 0;
    e.low = exp(mean - half);
    e.high = exp(mean + half);
    e.p = error > 0 ? 2 * stats_t_below(-fabs(mean) / error, df) : mean == 0;
    e.p_holm = e.p;
    judge(&e, deviation);
    return e;
}

static struct estimate no_estimate(void)
{
    return (struct estimate){ .value = NAN, .low = NAN, .high = NAN, .p = NAN, .p_holm = NAN };
}

struct estimate stats_paired(const double *base, const double *variant, int n)
{
    double d[BLOCKS_MAX];
    int used = 0;

    for (int i = 0; i < n && used < BLOCKS_MAX; i++)
        if (usable(base[i]) && usable(variant[i]))
            d[used++] = log(base[i]) - log(variant[i]);
    if (used == 0)
        return no_estimate();
    const struct moments m = moments_of(d, used);
    struct estimate e = estimate_of(used, m.mean, sqrt(m.variance / used), used - 1, sqrt(m.variance));
    e.paired = true;
    return e;
}

static struct moments log_moments(const double *x, int n)
{
    double logs[BLOCKS_MAX];
    int used = 0;

    for (int i = 0; i < n && used < BLOCKS_MAX; i++)
        if (usable(x[i]))
            logs[used++] = log(x[i]);
    return moments_of(logs, used);
}

struct estimate stats_unpaired(const double *base, int n_base, const double *variant, int n_variant)
{
    const struct moments a = log_moments(base, n_base), b = log_moments(variant, n_variant);
    const int n = a.n < b.n ? a.n : b.n;

    if (n == 0)
        return no_estimate();
    const double va = a.variance / a.n, vb = b.variance / b.n, error = sqrt(va + vb);
    const double df = n < 2 || error == 0 ? 1 : (va + vb) * (va + vb) / (va * va / (a.n - 1) + vb * vb / (b.n - 1));
    return estimate_of(n, a.mean - b.mean, error, df, sqrt(a.variance + b.variance));
}

double stats_upper(const double *values, int n)
{
    const struct moments m = log_moments(values, n);

    if (n == 0 || m.n < n)
        return NAN;
    return exp(m.mean + (n < 2 ? 0 : stats_t_quantile(0.5 + STATS_CONFIDENCE / 2, n - 1) * sqrt(m.variance / n)));
}

/* p becomes that of the wider interval, by the same Student's t: the standard error grows as the interval does. */
void stats_widen(struct estimate *e, double half)
{
    const double mean = log(e->value), own = 0.5 * (log(e->high) - log(e->low));

    if (e->verdict == VERDICT_NONE || !(half > 0))
        return;
    const double wide = sqrt(own * own + half * half), df = e->n - 1;
    const double t = fabs(mean) / wide * stats_t_quantile(0.5 + STATS_CONFIDENCE / 2, df);
    const int needed_before = e->blocks_needed;

    e->low = exp(mean - wide);
    e->high = exp(mean + wide);
    e->p = e->p_holm = 2 * stats_t_below(-t, df);
    judge(e, 0);
    e->blocks_needed = e->verdict == VERDICT_UNDECIDED ? needed_before : 0;
}

double stats_half_width(const struct estimate *e)
{
    return fmax(e->high / e->value, e->value / e->low) - 1;
}

static int ascending(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Sorts x. */
static double median_of(double *x, int n)
{
    qsort(x, (size_t)n, sizeof *x, ascending);
    return 0.5 * (x[(n - 1) / 2] + x[n / 2]);
}

bool stats_outlier(const double *values, int n, int i)
{
    double logs[BLOCKS_MAX];
    int used = 0;

    for (int k = 0; k < n && used < BLOCKS_MAX; k++)
        if (usable(values[k]))
            logs[used++] = log(values[k]);
    if (used < STATS_OUTLIER_RUNS || !usable(values[i]))
        return false;
    const double median = median_of(logs, used), apart = fabs(log(values[i]) - median);
    for (int k = 0; k < used; k++)
        logs[k] = fabs(logs[k] - median);
    return apart > log1p(STATS_PRACTICAL) && apart > STATS_OUTLIER_Z * 1.4826 * median_of(logs, used);
}

static int by_p(const void *a, const void *b)
{
    const double x = (*(struct estimate *const *)a)->p, y = (*(struct estimate *const *)b)->p;

    return (x > y) - (x < y);
}

void stats_holm(struct estimate *const *estimates, int n)
{
    struct estimate *sorted[BLOCKS_MAX];
    int m = 0;
    double running = 0;

    for (int i = 0; i < n && m < BLOCKS_MAX; i++)
        if (!isnan(estimates[i]->p))
            sorted[m++] = estimates[i];
    qsort(sorted, (size_t)m, sizeof *sorted, by_p);
    for (int i = 0; i < m; i++) {
        const double corrected = fmin(1, (m - i) * sorted[i]->p);

        running = fmax(running, corrected);
        sorted[i]->p_holm = running;
    }
}

const char *stats_verdict_word(enum verdict v)
{
    static const char *const words[] = { "no verdict", "better", "worse", "no practical difference", "inconclusive" };

    return words[v];
}

void stats_verdict(const struct estimate *e, char *out, size_t size)
{
    const char *word = stats_verdict_word(e->verdict);

    if (e->verdict == VERDICT_NONE)
        snprintf(out, size, e->n == 1 ? "no verdict (one run)" : "no verdict");
    else if (e->verdict == VERDICT_UNDECIDED && (e->blocks_needed == 0 || e->blocks_needed > STATS_SENSIBLE_BLOCKS))
        snprintf(out, size, "%s (n=%d; too noisy: try a quieter machine)", word, e->n);
    else if (e->verdict == VERDICT_UNDECIDED && e->blocks_needed > e->n)
        snprintf(out, size, "%s (n=%d; about %d blocks needed for ±2 %%)", word, e->n, e->blocks_needed);
    else if (e->verdict == VERDICT_UNDECIDED)
        snprintf(out, size, "%s (n=%d)", word, e->n);
    else
        snprintf(out, size, "%s", word);
}
