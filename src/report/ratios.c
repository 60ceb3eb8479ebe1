/* For each cell the runs of its blocks are laid beside the baseline's; stats.c does the rest. */
#include "report/ratios.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "report/iteration.h"

#define OUTLIER_MOST 1000 /* runs of a cell that are looked at */

const char *const ratio_names[RATIO_N] = { "SpeedUp",
                                           "MemoryUp",
                                           "EnergyUp",
                                           "Powerup",
                                           "SpeedUp (whole run)",
                                           "Energy-delay product",
                                           "Memory-time product",
                                           "SpeedUp (generation)",
                                           "SpeedUp (scoring)",
                                           "SpeedUp (training)" };

/* How runs of the phases call what is told of every step. */
static const struct {
    const char *phase, *metric, *name;
} judged_by[] = {
    { "reward", "accuracy", "accuracy" },
    { "ppo", "reward", "reward" },
    { "ppo", "kl", "KL" },
};

static bool is_ppo(const struct load_cell *c)
{
    return !c->is_command && strcmp(c->phase, "ppo") == 0;
}

bool ratios_has(const struct load_cell *c, enum ratio_kind kind)
{
    return kind < RATIO_GENERATE || is_ppo(c);
}

const char *ratios_curve(const struct load_cell *c)
{
    return is_ppo(c) ? "reward" : "loss";
}

const char *ratio_source_name(enum ratio_source source)
{
    return source == RATIO_MEASURED ? "measured" : source == RATIO_ESTIMATED ? "estimated" : "unavailable";
}

static bool is_command(const struct loaded *l, const struct load_run *r)
{
    return l->cells[r->cell].is_command;
}

/* Commands are compared on the steps after the warm-up, as phases are, where every run of the baseline's group told its steps;
 * else on the whole run. */
static bool is_whole(const struct loaded *l, const struct load_run *r)
{
    if (!is_command(l, r))
        return false;
    for (int i = 0; i < l->n_runs; i++) {
        const struct load_run *other = &l->runs[i];

        if (l->cells[other->cell].baseline == l->cells[r->cell].baseline && other->block >= 0 && other->done &&
            !(other->steady_s > 0))
            return true;
    }
    return false;
}

static double joules_of(const struct loaded *l, const struct load_run *r)
{
    const char *state = is_whole(l, r) ? r->energy_state : r->steady_energy_state;

    if (strcmp(state, "measured") != 0 && strcmp(state, "estimated") != 0)
        return NAN;
    return is_whole(l, r) ? r->joules : r->steady_j;
}

double ratios_value(const struct loaded *l, const struct load_run *r, enum ratio_kind kind, bool own)
{
    const double time = is_whole(l, r) ? r->seconds : r->steady_s;
    const int64_t memory = own ? r->own_peak_bytes : r->peak_bytes;

    if (!r->done)
        return NAN;
    switch (kind) {
    case RATIO_SPEED:
        return time;
    case RATIO_MEMORY:
        return memory > 0 ? (double)memory : NAN;
    case RATIO_ENERGY:
        return joules_of(l, r);
    case RATIO_POWER:
        return joules_of(l, r) / time;
    case RATIO_ENERGY_DELAY:
        return joules_of(l, r) * time;
    case RATIO_MEMORY_TIME:
        return memory > 0 ? (double)memory * time : NAN;
    case RATIO_GENERATE:
    case RATIO_SCORE:
    case RATIO_TRAIN:
        return load_metric_steady(r, iteration_metrics[kind - RATIO_GENERATE]);
    case RATIO_WHOLE:
    case RATIO_N:
        break;
    }
    return r->seconds;
}

/* Whether every counted run of the cell has its own count. */
static bool own_peaks(const struct loaded *l, int cell)
{
    for (int i = 0; i < l->n_runs; i++)
        if (l->runs[i].cell == cell && l->runs[i].block >= 0 && l->runs[i].done && l->runs[i].own_peak_bytes <= 0)
            return false;
    return true;
}

static bool has_run(const struct loaded *l, int cell)
{
    for (int i = 0; i < l->n_runs; i++)
        if (l->runs[i].cell == cell && l->runs[i].block >= 0 && l->runs[i].done)
            return true;
    return false;
}

bool ratios_gpu_memory(const struct loaded *l, int cell)
{
    const int base = l->cells[cell].baseline;

    return l->cells[base].is_command && has_run(l, base) && own_peaks(l, base);
}

const char *ratios_memory(const struct loaded *l, int cell)
{
    return ratios_gpu_memory(l, cell) ? "GPU" : "host";
}

bool ratios_own_memory(const struct loaded *l, int a, int b)
{
    return l->cells[a].is_command ? ratios_gpu_memory(l, a) : own_peaks(l, a) && own_peaks(l, b);
}

int64_t ratios_peak(const struct loaded *l, const struct load_run *r)
{
    if (is_command(l, r))
        return ratios_gpu_memory(l, r->cell) ? r->own_peak_bytes : r->peak_bytes;
    return r->own_peak_bytes > 0 ? r->own_peak_bytes : r->peak_bytes;
}

double ratios_mean(const struct loaded *l, int cell, enum ratio_kind kind, int *n)
{
    const bool own = ratios_own_memory(l, cell, cell);
    double sum = 0;

    *n = 0;
    for (int i = 0; i < l->n_runs; i++) {
        const struct load_run *r = &l->runs[i];
        const double value = r->cell == cell && r->block >= 0 ? ratios_value(l, r, kind, own) : NAN;

        if (!isnan(value)) {
            sum += value;
            ++*n;
        }
    }
    return *n > 0 ? sum / *n : NAN;
}

unsigned ratios_outlier(const struct loaded *l, const struct load_run *r)
{
    const bool own = ratios_own_memory(l, r->cell, r->cell);
    unsigned found = 0;

    for (int kind = RATIO_SPEED; r->done && r->block >= 0 && kind <= RATIO_ENERGY; kind++) {
        double values[OUTLIER_MOST];
        int n = 0, place = -1;

        for (int i = 0; i < l->n_runs && n < OUTLIER_MOST; i++) {
            const struct load_run *other = &l->runs[i];

            if (other->cell != r->cell || other->block < 0)
                continue;
            if (other == r)
                place = n;
            values[n++] = ratios_value(l, other, (enum ratio_kind)kind, own);
        }
        if (place >= 0 && stats_outlier(values, n, place))
            found |= 1u << kind;
    }
    return found;
}

double ratios_widest(const struct comparisons *c, const struct comparison **row, enum ratio_kind *kind)
{
    double widest = NAN;

    for (int i = 0; i < c->n; i++)
        for (int k = RATIO_SPEED; k <= RATIO_ENERGY; k++) {
            const double width = stats_half_width(&c->rows[i].ratios[k].e);

            if (isnan(width) || width <= widest)
                continue;
            widest = width;
            *row = &c->rows[i];
            *kind = (enum ratio_kind)k;
        }
    return widest;
}

/* ---- One ratio ---- */

/* Values of a cell's counted runs; with `blocks`, also the blocks they are of. */
static int collect(const struct loaded *l, int cell, enum ratio_kind kind, bool own, double *values, int64_t *blocks)
{
    int n = 0;

    for (int i = 0; i < l->n_runs; i++)
        if (l->runs[i].cell == cell && l->runs[i].block >= 0) {
            values[n] = ratios_value(l, &l->runs[i], kind, own);
            blocks[n++] = l->runs[i].block;
        }
    return n;
}

static struct estimate estimate(const struct loaded *l, const struct comparison *c, enum ratio_kind kind,
                                double *scratch, int64_t *blocks)
{
    const bool own = ratios_own_memory(l, c->cell, c->base);
    double *base = scratch, *variant = scratch + l->n_runs;
    int n = collect(l, c->cell, kind, own, variant, blocks);

    if (strcmp(l->design, "recorded") == 0) {
        const int n_base = collect(l, c->base, kind, own, base, blocks);

        return kind == RATIO_POWER ? stats_unpaired(variant, n, base, n_base)
                                   : stats_unpaired(base, n_base, variant, n);
    }
    for (int i = 0; i < n; i++) {
        const struct load_run *r = load_find(l, c->base, blocks[i]);

        base[i] = r ? ratios_value(l, r, kind, own) : NAN;
    }
    /* Powerup is the one that has the variant above: more power is a larger number. */
    return kind == RATIO_POWER ? stats_paired(variant, base, n) : stats_paired(base, variant, n);
}

/* Energy is comparable only between the same counters, and a number that somebody modelled stays marked. */
static void judge_energy(const struct loaded *l, const struct comparison *c, struct ratio *ratio)
{
    const char *domains = NULL, *first_state = NULL;

    for (int i = 0; i < l->n_runs; i++) {
        const struct load_run *r = &l->runs[i];

        if ((r->cell != c->cell && r->cell != c->base) || r->block < 0 || !r->done)
            continue;
        const char *state = is_whole(l, r) ? r->energy_state : r->steady_energy_state;
        if (isnan(joules_of(l, r))) {
            const char *reason = is_whole(l, r) ? r->energy_reason : r->steady_energy_reason;

            ratio->source = RATIO_UNAVAILABLE;
            snprintf(ratio->reason, sizeof ratio->reason, "%s", reason[0] ? reason : "no meter read the energy");
            return;
        }
        if (domains && strcmp(domains, r->energy_domains) != 0) {
            ratio->source = RATIO_UNAVAILABLE;
            snprintf(ratio->reason, sizeof ratio->reason,
                     "not comparable: one run covers \"%.100s\", another \"%.100s\"", domains, r->energy_domains);
            return;
        }
        domains = r->energy_domains;
        if (first_state && strcmp(first_state, state) != 0) {
            ratio->source = RATIO_UNAVAILABLE;
            snprintf(ratio->reason, sizeof ratio->reason, "not comparable: the energy of one run is %s, of another %s",
                     first_state, state);
            return;
        }
        first_state = state;
        if (strcmp(state, "estimated") == 0)
            ratio->source = RATIO_ESTIMATED;
    }
}

/* ---- What may be compared at all ---- */

static bool compared(const struct comparison *c, const struct load_run *r)
{
    return (r->cell == c->cell || r->cell == c->base) && r->block >= 0 && r->done;
}

/* Work that differs makes a ratio of two different jobs. How many ids PPO writes is its own doing. */
static bool other_work(const struct loaded *l, const struct load_run *a, const struct load_run *b, char *out,
                       size_t size)
{
    if (a->n_steps > 0 && b->n_steps > 0 && a->n_steps != b->n_steps)
        snprintf(out, size, "not comparable: one run has %d steps, another %d", a->n_steps, b->n_steps);
    else if (a->tokens > 0 && b->tokens > 0 && a->tokens != b->tokens && !is_ppo(&l->cells[a->cell]))
        snprintf(out, size, "not comparable: one run has %" PRId64 " tokens, another %" PRId64, a->tokens, b->tokens);
    else
        return false;
    return true;
}

/* Whether two runs of the comparison are of different machines or jobs; out: which field differs. */
static bool unlike(const struct loaded *l, const struct comparison *c, char *out, size_t size)
{
    const struct load_run *first = NULL, *placed = NULL;

    for (int i = 0; i < l->n_runs; i++) {
        const struct load_run *r = &l->runs[i];

        if (!compared(c, r))
            continue;
        if (first && other_work(l, first, r, out, size))
            return true;
        first = first ? first : r;
        if (!r->machine || !r->machine[0])
            continue;
        if (placed && strcmp(placed->machine, r->machine) != 0) {
            snprintf(out, size, "not comparable: one run is of machine \"%.150s\", another of \"%.150s\"",
                     placed->machine, r->machine);
            return true;
        }
        placed = placed ? placed : r;
    }
    return false;
}

/* ---- The grain of counters ---- */

/* Seconds between a counter's updates: RAPL's come every millisecond, a graphics card's every tenth of a second. */
static double update_s(const char *domains)
{
    return strstr(domains, "gpu") || strstr(domains, "GPU") ? 0.1 : 0.001;
}

/* An energy is uncertain by what is drawn in one update at either end of its window. The shortest window counts. */
static void widen_by_grain(const struct loaded *l, const struct comparison *c, struct ratio *ratio)
{
    double worst[2] = { 0, 0 }; /* of the cell, of its baseline: update / window */

    for (int i = 0; i < l->n_runs; i++) {
        const struct load_run *r = &l->runs[i];

        if (compared(c, r)) {
            const double window_s = is_whole(l, r) ? r->seconds : r->steady_s;
            double *w = &worst[r->cell == c->base];

            *w = fmax(*w, update_s(r->energy_domains ? r->energy_domains : "") / window_s);
        }
    }
    ratio->grain = sqrt(worst[0] * worst[0] + worst[1] * worst[1]);
    stats_widen(&ratio->e, log1p(ratio->grain));
    if (fmax(worst[0], worst[1]) * RATIOS_MIN_UPDATES > 1 && ratio->e.verdict != VERDICT_NONE) {
        ratio->e.verdict = VERDICT_UNDECIDED;
        ratio->e.blocks_needed = 0;
        snprintf(ratio->reason, sizeof ratio->reason, "a window of less than %d updates of its counter",
                 RATIOS_MIN_UPDATES);
    }
}

static bool has_memory(enum ratio_kind kind)
{
    return kind == RATIO_MEMORY || kind == RATIO_MEMORY_TIME;
}

static bool has_energy(enum ratio_kind kind)
{
    return kind == RATIO_ENERGY || kind == RATIO_POWER || kind == RATIO_ENERGY_DELAY;
}

static void build_ratio(const struct loaded *l, struct comparison *c, enum ratio_kind kind, double *scratch,
                        int64_t *blocks)
{
    struct ratio *ratio = &c->ratios[kind];

    *ratio = (struct ratio){ .source = RATIO_MEASURED };
    if (unlike(l, c, ratio->reason, sizeof ratio->reason)) {
        ratio->source = RATIO_UNAVAILABLE;
    } else if (has_memory(kind) && ratios_gpu_memory(l, c->base) && !own_peaks(l, c->cell)) {
        ratio->source = RATIO_UNAVAILABLE;
        snprintf(ratio->reason, sizeof ratio->reason,
                 "not comparable: the baseline held memory of GPUs, and a run of this cell held none");
    } else if (has_energy(kind)) {
        judge_energy(l, c, ratio);
    }
    if (ratio->source == RATIO_UNAVAILABLE) {
        ratio->e = stats_paired(NULL, NULL, 0);
        return;
    }
    ratio->e = estimate(l, c, kind, scratch, blocks);
    if (ratio->e.n > 0 && has_energy(kind) && ratio->source == RATIO_MEASURED)
        widen_by_grain(l, c, ratio);
    if (ratio->e.n > 0)
        return;
    ratio->source = RATIO_UNAVAILABLE;
    snprintf(ratio->reason, sizeof ratio->reason, "%s",
             c->n_done == 0        ? c->n_failed ? "all its runs failed" : "not run yet"
             : c->n_base_done == 0 ? "the baseline has no completed run"
                                   : "no block has this number from both sides");
}

/* ---- Quality ---- */

static double curve_at(const struct load_run *r, int i, bool ppo)
{
    return ppo ? load_metric(r, r->steps[i].step, "reward") : r->steps[i].loss;
}

/* A loss is held against the other loss of the same step. A reward may be close to 0 at any step, so that it is held
 * against the largest one. */
static double pair_gap(const struct load_run *a, const struct load_run *b, bool ppo)
{
    double gap = 0, largest = 0;
    const int n = a->n_steps < b->n_steps ? a->n_steps : b->n_steps;

    if (n == 0 || a->n_steps != b->n_steps)
        return NAN;
    for (int i = 0; ppo && i < n; i++)
        largest = fmax(largest, fabs(curve_at(b, i, ppo)));
    for (int i = 0; i < n; i++) {
        const double base = curve_at(b, i, ppo);
        const double apart = fabs(curve_at(a, i, ppo) - base) / fmax(ppo ? largest : fabs(base), 1e-12);

        if (isnan(apart))
            return NAN;
        gap = fmax(gap, apart);
    }
    return gap;
}

static double metric_mean(const struct loaded *l, int cell, const char *name)
{
    double sum = 0;
    int n = 0;

    for (int i = 0; i < l->n_runs; i++) {
        const struct load_run *r = &l->runs[i];
        const double value = r->cell == cell && r->block >= 0 && r->done ? load_metric_mean(r, name) : NAN;

        if (!isnan(value)) {
            sum += value;
            n++;
        }
    }
    return n ? sum / n : NAN;
}

static void add_qualities(const struct loaded *l, struct comparison *c)
{
    for (int i = 0; i < COUNT_OF(judged_by); i++)
        if (strcmp(judged_by[i].phase, l->cells[c->cell].phase) == 0)
            c->qualities[c->n_qualities++] =
                (struct quality){ judged_by[i].name, metric_mean(l, c->cell, judged_by[i].metric),
                                  metric_mean(l, c->base, judged_by[i].metric) };
}

static void add_final(const struct load_run *r, double *sum, int *n)
{
    if (r->done && !isnan(r->final_loss)) {
        *sum += r->final_loss;
        ++*n;
    }
}

static void judge_quality(const struct loaded *l, struct comparison *c)
{
    double sum = 0, base_sum = 0;
    int n = 0, n_base = 0, n_pairs = 0;

    c->loss_gap = NAN;
    for (int i = 0; i < l->n_runs; i++) {
        const struct load_run *r = &l->runs[i];

        if (r->block < 0 || (r->cell != c->cell && r->cell != c->base))
            continue;
        add_final(r, r->cell == c->cell ? &sum : &base_sum, r->cell == c->cell ? &n : &n_base);
        const struct load_run *b = r->cell == c->cell ? load_find(l, c->base, r->block) : NULL;
        if (r->done && b && b->done) {
            c->loss_gap = fmax(c->loss_gap, pair_gap(r, b, is_ppo(&l->cells[c->cell]))); /* fmax passes over a NAN */
            n_pairs++;
        }
    }
    add_qualities(l, c);
    c->final_loss = n ? sum / n : NAN;
    c->base_final_loss = n_base ? base_sum / n_base : NAN;
    c->loss_flagged = l->cells[c->cell].exact && n_pairs > 0 && !(c->loss_gap <= RATIOS_EXACT_TOLERANCE);
}

/* The eight regions of (SpeedUp, Powerup): green saves energy, red wastes it; "equal" is what the interval cannot tell from 1. */
static const char *category_of(const struct comparison *c)
{
    const struct estimate *s = &c->ratios[RATIO_SPEED].e, *p = &c->ratios[RATIO_POWER].e,
                          *g = &c->ratios[RATIO_ENERGY].e;

    if (c->ratios[RATIO_POWER].source == RATIO_UNAVAILABLE || p->verdict == VERDICT_NONE)
        return NULL;
    if (g->verdict != VERDICT_BETTER && g->verdict != VERDICT_WORSE)
        return g->verdict == VERDICT_SAME ? "as much energy as the baseline" : "green or red: energy undecided";
    const bool green = g->verdict == VERDICT_BETTER;
    const bool more = p->low > 1, less = p->high < 1;
    if (s->value > 1)
        return !green ? "red: faster, but power grew more than speed"
               : more ? "green: faster, power grew less than speed"
               : less ? "green: faster and less power"
                      : "green: faster at equal power";
    return green  ? "green: slower, but power fell more than speed"
           : more ? "red: slower and more power"
           : less ? "red: slower, power fell too little"
                  : "red: slower at equal power";
}

static void count_runs(const struct loaded *l, struct comparison *c)
{
    for (int i = 0; i < l->n_runs; i++) {
        const struct load_run *r = &l->runs[i];

        if (r->block < 0)
            continue;
        c->n_done += r->cell == c->cell && r->done;
        c->n_failed += r->cell == c->cell && !r->done;
        c->n_base_done += r->cell == c->base && r->done;
    }
}

static int correct(struct comparisons *c, struct err *err)
{
    struct estimate **family = mem_array(c->n, 3, sizeof *family, MEM_RECORD, err);

    if (!family)
        return -1;
    for (int i = 0; i < c->n; i++)
        for (int k = 0; k < 3; k++)
            family[3 * i + k] = &c->rows[i].ratios[k].e;
    stats_holm(family, 3 * c->n);
    mem_free(family);
    return 0;
}

int ratios_build(struct comparisons *c, const struct loaded *l, struct err *err)
{
    double *scratch = mem_array(l->n_runs, 2, sizeof *scratch, MEM_RECORD, err);
    int64_t *blocks = mem_array(l->n_runs, 1, sizeof *blocks, MEM_RECORD, err);
    int result = -1;

    *c = (struct comparisons){ .rows = mem_array(l->n_cells, 1, sizeof *c->rows, MEM_RECORD, err) };
    if (!scratch || !blocks || !c->rows)
        goto done;
    for (int i = 0; i < l->n_cells; i++) {
        if (l->cells[i].baseline == i)
            continue;
        struct comparison *row = &c->rows[c->n++];
        *row = (struct comparison){ .cell = i, .base = l->cells[i].baseline };
        count_runs(l, row);
        for (int kind = 0; kind < RATIO_N; kind++)
            if (ratios_has(&l->cells[i], (enum ratio_kind)kind))
                build_ratio(l, row, (enum ratio_kind)kind, scratch, blocks);
        judge_quality(l, row);
        row->category = category_of(row);
    }
    result = correct(c, err);
done:
    mem_free(scratch);
    mem_free(blocks);
    if (result != 0)
        ratios_free(c);
    return result;
}

int ratios_of_phase(struct comparisons *out, const struct comparisons *all, const struct loaded *l, const char *phase,
                    struct err *err)
{
    *out = (struct comparisons){ .rows = mem_array(all->n, 1, sizeof *out->rows, MEM_RECORD, err) };
    if (!out->rows)
        return -1;
    for (int i = 0; i < all->n; i++)
        if (strcmp(l->cells[all->rows[i].cell].phase, phase) == 0)
            out->rows[out->n++] = all->rows[i];
    return 0;
}

void ratios_free(struct comparisons *c)
{
    mem_free(c->rows);
    *c = (struct comparisons){ 0 };
}
