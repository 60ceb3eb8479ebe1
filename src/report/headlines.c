#include "report/headlines.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "report/exports.h"
#include "report/figures.h"
#include "report/questions.h"
#include "report/iteration.h"

void headlines_say(struct headlines *h, bool bad, const char *format, ...)
{
    va_list args;

    if (h->n == HEADLINES_MAX)
        return;
    va_start(args, format);
    vsnprintf(h->line[h->n], sizeof h->line[0], format, args);
    va_end(args);
    h->bad[h->n++] = bad;
}

static int64_t sum(const int64_t *bytes)
{
    int64_t total = -1;

    for (int k = 0; k < LOAD_N_KINDS; k++)
        if (bytes[k] >= 0)
            total = (total < 0 ? 0 : total) + bytes[k];
    return total;
}

int64_t headlines_planned(const struct load_run *r)
{
    return sum(r->planned);
}

int64_t headlines_allocated(const struct load_run *r)
{
    return sum(r->allocated);
}

static bool is_of(const struct loaded *l, int cell, const char *phase)
{
    return strcmp(l->cells[cell].phase, phase) == 0;
}

static const char *name_of(const struct loaded *l, const struct comparison *row)
{
    return l->cells[row->cell].name;
}

const struct comparison *headlines_best(const struct comparisons *c, int base, enum ratio_kind kind)
{
    const struct comparison *found = NULL;

    for (int i = 0; i < c->n; i++) {
        const struct comparison *row = &c->rows[i];

        if (row->base == base && row->ratios[kind].e.verdict == VERDICT_BETTER && !row->loss_flagged &&
            (!found || row->ratios[kind].e.value > found->ratios[kind].e.value))
            found = row;
    }
    return found;
}

static void say_best(struct headlines *h, const struct loaded *l, const struct comparisons *c, int base,
                     const char *where)
{
    const char *const what[] = { "fastest",
                                 ratios_gpu_memory(l, base) ? "leanest in GPU memory" : "leanest in host memory",
                                 "most frugal in energy" };
    char line[640] = "";

    for (int kind = 0; kind < 3; kind++) {
        const struct comparison *row = headlines_best(c, base, (enum ratio_kind)kind);
        const size_t used = strlen(line);
        char ratio[96];

        if (!row)
            continue;
        exports_ratio(&row->ratios[kind], ratio, sizeof ratio);
        snprintf(line + used, sizeof line - used, "%s the %s is \"%.60s\", %s %s", used ? ";" : "", what[kind],
                 name_of(l, row), ratio_names[kind], ratio);
    }
    if (line[0])
        headlines_say(h, false, "%s%s.", where, line);
}

static void say_winners(struct headlines *h, const struct loaded *l, const struct comparisons *c, int base,
                        const char *where)
{
    char names[480] = "";
    int n_judged = 0;

    for (int i = 0; i < c->n; i++) {
        const struct comparison *row = &c->rows[i];
        const bool energy = row->ratios[RATIO_ENERGY].source != RATIO_UNAVAILABLE;
        const size_t used = strlen(names);

        if (row->base != base || row->ratios[RATIO_SPEED].e.verdict == VERDICT_NONE)
            continue;
        n_judged++;
        if (row->ratios[RATIO_SPEED].e.verdict == VERDICT_BETTER &&
            row->ratios[RATIO_MEMORY].e.verdict == VERDICT_BETTER &&
            (!energy || row->ratios[RATIO_ENERGY].e.verdict == VERDICT_BETTER) && !row->loss_flagged)
            snprintf(names + used, sizeof names - used, "%s%s%s", used ? ", " : "", name_of(l, row),
                     l->cells[row->cell].exact ? "" : " (changes the numbers)");
    }
    if (names[0])
        headlines_say(h, false, "%s, better in every dimension that could be measured: %s.", where, names);
    else if (n_judged > 0)
        headlines_say(h, false, "%s, nothing is better in every dimension that could be measured.", where);
}

static void say_exactness(struct headlines *h, const struct loaded *l, const struct comparisons *c, const char *phase)
{
    char names[400] = "", gap[32];
    const char *curve = "loss";
    double worst = NAN;
    int n = 0;

    for (int i = 0; i < c->n; i++) {
        const struct comparison *row = &c->rows[i];
        const size_t used = strlen(names);

        if (!is_of(l, row->cell, phase) || !l->cells[row->cell].exact || row->n_done == 0 ||
            (isnan(row->loss_gap) && !row->loss_flagged))
            continue;
        n++;
        curve = ratios_curve(&l->cells[row->cell]);
        worst = fmax(worst, row->loss_gap);
        if (row->loss_flagged)
            snprintf(names + used, sizeof names - used, "%s%s", used ? ", " : "", name_of(l, row));
    }
    exports_gap(worst, gap, sizeof gap);
    if (names[0])
        headlines_say(h, true, "These should compute the baseline's numbers and do not, or left no %s to check: %s.",
                      curve, names);
    else if (n > 0 && worst == 0)
        headlines_say(h, false, "The exact techniques left the %s of every step as it was, to the last bit.", curve);
    else if (n > 0)
        headlines_say(h, false, "The exact techniques left the %s of every step as it was: it differs by %s at most.",
                      curve, gap);
}

static void say_prediction(struct headlines *h, const struct loaded *l, const char *phase)
{
    double worst = -1;
    int n = 0;

    for (int i = 0; i < l->n_cells; i++) {
        const struct load_run *r = figures_example(l, i);

        if (!is_of(l, i, phase) || !r || headlines_planned(r) <= 0 || headlines_allocated(r) < 0)
            continue;
        n++;
        worst = fmax(worst, fabs((double)headlines_allocated(r) / (double)headlines_planned(r) - 1));
    }
    if (n > 0 && worst == 0)
        headlines_say(h, false, "The planned memory was right to the byte in all %d cells.", n);
    else if (n > 0)
        headlines_say(h, worst > 0.05, "The planned memory was right within %.2g %% in all %d cells.", 100 * worst, n);
}

bool headlines_seconds(const struct loaded *l, int cell, double *predicted_s, double *measured_s)
{
    int n = 0;

    *predicted_s = *measured_s = 0;
    for (int i = 0; i < l->n_runs; i++) {
        const struct load_run *r = &l->runs[i];
        const int64_t warmup = r->warmup_steps < 0 ? 0 : r->warmup_steps, steps = r->n_steps - warmup;
        const double predicted = load_metric_steady(r, "predicted_seconds");

        if (r->cell != cell || r->block < 0 || !r->done || steps < 1 || !(predicted > 0) || !(r->steady_s > 0))
            continue;
        *predicted_s += predicted / (double)steps;
        *measured_s += r->steady_s / (double)steps;
        n++;
    }
    *predicted_s /= n;
    *measured_s /= n;
    return n > 0;
}

static int compare_reals(const void *a, const void *b)
{
    const double x = *(const double *)a, y = *(const double *)b;

    return (x > y) - (x < y);
}

/* Of the cells of one phase; of all without one. */
static void say_seconds(struct headlines *h, const struct loaded *l, const char *phase)
{
    double off[512], predicted_s, measured_s;
    int n = 0;

    for (int i = 0; i < l->n_cells && n < (int)(sizeof off / sizeof off[0]); i++)
        if ((!phase || is_of(l, i, phase)) && headlines_seconds(l, i, &predicted_s, &measured_s))
            off[n++] = 100 * fabs(predicted_s / measured_s - 1);
    if (n == 0)
        return;
    qsort(off, (size_t)n, sizeof off[0], compare_reals);
    const double median = n % 2 ? off[n / 2] : (off[n / 2 - 1] + off[n / 2]) / 2;
    headlines_say(
        h, median > 20,
        "The predicted seconds of a step were off by %.2g %% in the median cell and by %.2g %% in the worst of "
        "%d.",
        median, off[n - 1], n);
}

/* The study's own runs load the machine too, by as many threads as it has CPUs at most; what is well beyond that is others. */
static void say_busy(struct headlines *h, const struct loaded *l)
{
    json_t *machine = json_loads(l->machine, 0, NULL);
    const double cpus = json_number_value(json_object_get(machine, "cpus"));
    int busy = 0, counted = 0;

    json_decref(machine);
    for (int i = 0; cpus > 0 && i < l->n_runs; i++)
        if (l->runs[i].block >= 0 && !isnan(l->runs[i].load_before)) {
            counted++;
            busy += l->runs[i].load_before > 1.5 * cpus + 0.5;
        }
    if (busy > 0)
        headlines_say(
            h, true,
            "Other programs were at work: before %d of %d runs the load was above %.3g on %g CPUs. Times are only as "
            "good as "
            "the machine was quiet.",
            busy, counted, 1.5 * cpus + 0.5, cpus);
}

/* Causes, not symptoms: what took the processor away while runs were measured. */
static void say_disturbed(struct headlines *h, const struct loaded *l)
{
    int stolen = 0, held = 0, hot = 0, swapped = 0, counted = 0;

    for (int i = 0; i < l->n_runs; i++) {
        const struct load_run *r = &l->runs[i];

        if (r->block < 0)
            continue;
        counted++;
        stolen += r->steal_s > 0.1 + 0.02 * r->seconds;
        held += r->cgroup_wait_s > 0.1 + 0.02 * r->seconds;
        hot += r->throttles > 0;
        swapped += r->swapped_in > 256;
    }
    if (stolen)
        headlines_say(h, true, "A hypervisor took more than 2 %% of the time away from %d of %d runs.", stolen,
                      counted);
    if (held)
        headlines_say(h, true, "A CPU limit of the cgroup held back %d of %d runs.", held, counted);
    if (hot)
        headlines_say(h, true, "Processors throttled themselves during %d of %d runs.", hot, counted);
    if (swapped)
        headlines_say(h, true, "Memory came back from swap during %d of %d runs.", swapped, counted);
}

static void say_failures(struct headlines *h, const struct loaded *l)
{
    int failed = 0, counted = 0;

    for (int i = 0; i < l->n_runs; i++) {
        counted += l->runs[i].block >= 0;
        failed += l->runs[i].block >= 0 && !l->runs[i].done;
    }
    if (failed)
        headlines_say(h, true, "%d of %d runs failed; what they said is in the list of all runs.", failed, counted);
    if (strcmp(l->design, "recorded") != 0 && counted < l->blocks * l->n_cells)
        headlines_say(h, true, "The study is not complete: %d of %" PRId64 " runs are there.", counted,
                      l->blocks * l->n_cells);
}

/* Of the baselines: techniques move the shares, the figure shows how. */
static void say_split(struct headlines *h, const struct loaded *l, int base, const char *where)
{
    double seconds[ITERATION_N], sum = 0;
    char parts[128] = "";
    size_t used = 0;

    if (!iteration_parts(l, base, seconds))
        return;
    for (int i = 0; i < ITERATION_N; i++)
        sum += seconds[i];
    for (int i = 0; i < ITERATION_N; i++)
        if (seconds[i] > 0)
            used += (size_t)snprintf(parts + used, sizeof parts - used, "%s%.0f %% %s", used ? ", " : "",
                                     100 * seconds[i] / sum, iteration_names[i]);
    headlines_say(h, false, "%s, an iteration of the baseline takes %.3g s: %s.", where, sum, parts);
}

void headlines_phase(struct headlines *h, const struct loaded *l, const struct comparisons *c, const char *phase)
{
    h->n = 0;
    for (int i = 0; i < l->n_cells; i++) {
        char where[64]; /* no shorter than EXPORTS_RANKS_SIZE */

        if (l->cells[i].baseline != i || !is_of(l, i, phase))
            continue;
        if (l->cells[i].is_command)
            snprintf(where, sizeof where, "Over \"%.50s\"", l->cells[i].name);
        else
            exports_ranks(&l->cells[i], "At ", "", where);
        say_best(h, l, c, i, where);
        say_winners(h, l, c, i, where);
        say_split(h, l, i, where);
    }
    say_exactness(h, l, c, phase);
    say_prediction(h, l, phase);
    say_seconds(h, l, phase);
}

void headlines_overall(struct headlines *h, const struct loaded *l, const struct comparisons *c)
{
    h->n = 0;
    questions_answer(h, l, c);
    say_seconds(h, l, NULL);
    say_busy(h, l);
    say_disturbed(h, l);
    say_failures(h, l);
}
