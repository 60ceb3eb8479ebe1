/* A run's cost is exp(sum of weight x ln of what it took), a positive number like seconds, so that stats.c judges U and the
 * single dimensions alike: they are weights of (1, 0, 0) and so on. */
#include "report/advise.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"

#define WEIGHT_STEPS 50 /* of the search for the range of a weight */

const char *const advise_names[ADVISE_N] = { "speed", "memory", "energy" };
const char *const advise_options[ADVISE_LIMITS] = { "--max_memory", "--max_seconds", "--max_joules",
                                                    "--max_loss_increase" };

/* ---- Priorities ---- */

static int scale(double weight[ADVISE_N], const char *text, struct err *err)
{
    const double sum = weight[0] + weight[1] + weight[2];

    if (!(sum > 0))
        return err_set(err, ERR_USAGE, "--want \"%.60s\" gives weight to nothing", text);
    for (int k = 0; k < ADVISE_N; k++)
        weight[k] /= sum;
    return 0;
}

static int bad_want(const char *text, struct err *err)
{
    err_set(err, ERR_USAGE, "--want \"%.60s\" is no list of priorities", text);
    return err_hint(err, "Write speed, memory, energy, balanced, or weights: --want speed=2,memory=1,energy=1.");
}

int advise_parse(const char *text, double weight[ADVISE_N], struct err *err)
{
    unsigned seen = 0;

    for (int k = 0; k < ADVISE_N; k++)
        if (strcmp(text, advise_names[k]) == 0 || strcmp(text, "balanced") == 0) {
            for (int i = 0; i < ADVISE_N; i++)
                weight[i] = text[0] != 'b' && i == k ? 4 : 1;
            return scale(weight, text, err);
        }
    for (int i = 0; i < ADVISE_N; i++)
        weight[i] = 0;
    for (const char *p = text; *p; p += *p == ',') {
        const size_t n = strcspn(p, "=,");
        int k = 0;
        char *end;

        while (k < ADVISE_N && (strlen(advise_names[k]) != n || strncmp(p, advise_names[k], n) != 0))
            k++;
        if (k == ADVISE_N || p[n] != '=' || (seen & 1u << k))
            return bad_want(text, err);
        weight[k] = strtod(p + n + 1, &end);
        if (end == p + n + 1 || (*end != '\0' && *end != ',') || !(weight[k] >= 0 && weight[k] <= 1e6))
            return bad_want(text, err);
        seen |= 1u << k;
        p = end;
    }
    return scale(weight, text, err);
}

bool advise_names_energy(const char *text)
{
    double weight[ADVISE_N];
    struct err ignored;

    return advise_parse(text, weight, &ignored) == 0 && strstr(text, advise_names[RATIO_ENERGY]) != NULL &&
           weight[RATIO_ENERGY] > 0;
}

/* ---- Two cells against each other ---- */

struct weigher {
    const struct loaded *l;
    struct advise_group *g;
    const struct advise_wish *wish;
    bool own; /* all runs counted their own memory */
    double *a, *b; /* room for a cell's runs each */
};

static double cost(const struct weigher *w, const struct load_run *r, const double weight[ADVISE_N])
{
    double sum = 0;

    for (int k = 0; k < ADVISE_N; k++)
        if (weight[k] > 0)
            sum += weight[k] * log(ratios_value(w->l, r, (enum ratio_kind)k, w->own));
    return exp(sum);
}

/* cost of x / cost of y, with its interval: above 1 when y is better. */
static struct estimate held(const struct weigher *w, int x, int y, const double weight[ADVISE_N])
{
    const bool paired = strcmp(w->l->design, "recorded") != 0;
    int n = 0, m = 0;

    for (int i = 0; i < w->l->n_runs; i++) {
        const struct load_run *r = &w->l->runs[i], *other;

        if (r->block < 0 || (r->cell != y && (paired || r->cell != x)))
            continue;
        if (!paired) {
            (r->cell == x ? w->a : w->b)[r->cell == x ? n++ : m++] = cost(w, r, weight);
        } else if ((other = load_find(w->l, x, r->block)) != NULL) {
            w->a[n] = cost(w, other, weight);
            w->b[n++] = cost(w, r, weight);
        }
    }
    return paired ? stats_paired(w->a, w->b, n) : stats_unpaired(w->a, n, w->b, m);
}

static struct estimate held_in(const struct weigher *w, int x, int y, int dimension)
{
    double weight[ADVISE_N] = { 0 };

    weight[dimension] = 1;
    return held(w, x, y, weight);
}

/* ---- Limits ---- */

static int collect(const struct weigher *w, int cell, enum advise_limit what, double *out)
{
    int n = 0;

    for (int i = 0; i < w->l->n_runs; i++) {
        const struct load_run *r = &w->l->runs[i];
        const double steps = r->n_steps - (r->warmup_steps > 0 ? (double)r->warmup_steps : 0);
        const double more = w->wish->steps > 0 ? (double)w->wish->steps : NAN;

        if (r->cell != cell || r->block < 0 || !r->done)
            continue;
        if (what == ADVISE_MEMORY)
            out[n++] = ratios_gpu_memory(w->l, cell)   ? (double)r->own_peak_bytes
                       : !w->l->cells[cell].is_command ? fmax((double)r->peak_bytes, (double)r->own_peak_bytes)
                                                       : (double)r->peak_bytes;
        else if (what == ADVISE_SECONDS) /* what is no step stays, steps are scaled */
            out[n++] = isnan(more) ? r->seconds : r->seconds - r->steady_s + r->steady_s / steps * more;
        else
            out[n++] = isnan(more) ? r->joules : r->joules - r->steady_j + r->steady_j / steps * more;
    }
    return n;
}

static double quality_of(const struct load_run *r, bool ppo)
{
    return ppo ? load_metric_mean(r, "reward") : isnan(r->eval_loss) ? r->final_loss : r->eval_loss;
}

/* How far the loss is above the baseline's, or PPO's mean reward below it, relative: the upper end over the blocks. */
static double loss_increase(const struct weigher *w, int cell)
{
    const bool ppo = strcmp(ratios_curve(&w->l->cells[cell]), "reward") == 0,
               paired = strcmp(w->l->design, "recorded") != 0;
    double sum = 0, squares = 0;
    int n = 0;

    for (int i = 0; i < w->l->n_runs; i++) {
        const struct load_run *r = &w->l->runs[i], *b;

        if (r->cell != cell || r->block < 0 || !r->done)
            continue;
        b = load_find(w->l, w->g->base, paired ? r->block : 0);
        if (!b || !b->done)
            continue;
        const double base = quality_of(b, ppo), apart = quality_of(r, ppo) - base;
        const double x = (ppo ? -apart : apart) / fmax(fabs(base), 1e-12);
        w->a[n++] = x;
        sum += x;
    }
    for (int i = 0; i < n; i++)
        squares += (w->a[i] - sum / n) * (w->a[i] - sum / n);
    if (n < 2)
        return n ? sum : NAN;
    return sum / n + stats_t_quantile(0.5 + STATS_CONFIDENCE / 2, n - 1) * sqrt(squares / (n - 1) / n);
}

static void measure_needs(struct weigher *w, struct advise_cell *c)
{
    int n = collect(w, c->cell, ADVISE_MEMORY, w->a);
    double peak = NAN;

    for (int i = 0; i < n; i++)
        peak = w->a[i] > 0 ? fmax(peak, w->a[i]) : NAN; /* fmax passes over a NAN */
    c->need[ADVISE_MEMORY] = ADVISE_HEADROOM * fmax(peak, stats_upper(w->a, n));
    if (isnan(peak))
        c->need[ADVISE_MEMORY] = NAN;
    n = collect(w, c->cell, ADVISE_SECONDS, w->a);
    c->need[ADVISE_SECONDS] = stats_upper(w->a, n);
    n = collect(w, c->cell, ADVISE_JOULES, w->a);
    c->need[ADVISE_JOULES] = stats_upper(w->a, n);
    c->need[ADVISE_LOSS] = c->row ? loss_increase(w, c->cell) : 0;
    for (int i = 0; i < ADVISE_LIMITS; i++)
        if (!isnan(w->wish->limit[i]) && !(c->need[i] <= w->wish->limit[i]))
            c->fails |= 1u << i;
}

/* ---- A group's cells ---- */

static int count_words(const char *json, const char *but_not)
{
    json_t *list = json_loads(json, 0, NULL), *others = json_loads(but_not, 0, NULL), *word, *other;
    size_t i, k;
    int n = 0;

    json_array_foreach(list, i, word)
    {
        bool there = false;

        json_array_foreach(others, k, other)
        {
            there = there || json_equal(word, other);
        }
        n += !there;
    }
    json_decref(list);
    json_decref(others);
    return n;
}

static void exclude(const struct weigher *w, struct advise_cell *c)
{
    const struct comparison *row = c->row;

    for (int k = 0; row && k < ADVISE_N && !c->excluded[0]; k++)
        if (row->ratios[k].source == RATIO_UNAVAILABLE && w->g->known[k] && w->g->weight[k] > 0)
            snprintf(c->excluded, sizeof c->excluded, "its %s is unknown: %.200s", advise_names[k],
                     row->ratios[k].reason);
    if (row && row->n_done == 0)
        snprintf(c->excluded, sizeof c->excluded, "%s", row->n_failed ? "all its runs failed" : "it has not run yet");
    else if (row && row->loss_flagged)
        snprintf(c->excluded, sizeof c->excluded, "it should compute the baseline's numbers, and does not");
}

bool advise_feasible(const struct advise_cell *c)
{
    return !c->fails && !c->excluded[0];
}

static int add_cells(struct weigher *w, const struct comparisons *c, struct err *err)
{
    struct advise_group *g = w->g;
    const struct load_cell *base = &w->l->cells[g->base];
    const bool command = base->is_command;

    g->cells = mem_array(c->n + 1, 1, sizeof *g->cells, MEM_RECORD, err);
    if (!g->cells)
        return -1;
    g->cells[g->n++] = (struct advise_cell){ .cell = g->base, .dominated_by = -1 };
    for (int i = 0; i < c->n; i++)
        if (c->rows[i].base == g->base) {
            const struct load_cell *cell = &w->l->cells[c->rows[i].cell];

            g->cells[g->n++] = (struct advise_cell){
                .cell = c->rows[i].cell,
                .row = &c->rows[i],
                .dominated_by = -1,
                .n_switches = count_words(cell->techniques, "[]"),
            };
            if (command && g->cells[g->n - 1].n_switches == 0)
                g->cells[g->n - 1].n_switches = count_words(cell->argv, base->argv);
        }
    return 0;
}

/* A dimension is known when the baseline has it, and energy when a cell can be compared with it. */
static void find_known(struct weigher *w)
{
    struct advise_group *g = w->g;
    bool any = g->n == 1;
    int n;

    for (int k = 0; k < ADVISE_N; k++)
        g->known[k] = !isnan(ratios_mean(w->l, g->base, (enum ratio_kind)k, &n));
    for (int i = 1; i < g->n; i++) {
        const struct ratio *r = &g->cells[i].row->ratios[RATIO_ENERGY];

        any = any || r->source != RATIO_UNAVAILABLE;
        if (!g->unknown_reason && r->source == RATIO_UNAVAILABLE && g->cells[i].row->n_done > 0)
            g->unknown_reason = r->reason;
    }
    g->known[RATIO_ENERGY] = g->known[RATIO_ENERGY] && any;
    if (!g->unknown_reason)
        g->unknown_reason = "no run of the baseline has joules";
}

static void find_weights(struct weigher *w)
{
    struct advise_group *g = w->g;
    const double rest = w->wish->weight[RATIO_SPEED] + w->wish->weight[RATIO_MEMORY];
    bool whole = g->known[RATIO_ENERGY];

    memcpy(g->weight, w->wish->weight, sizeof g->weight);
    for (int i = 1; i < g->n; i++)
        whole = whole &&
                (g->cells[i].row->n_done == 0 || g->cells[i].row->ratios[RATIO_ENERGY].source != RATIO_UNAVAILABLE);
    if (whole || w->wish->insist || g->weight[RATIO_ENERGY] == 0 || !(rest > 0))
        return;
    for (int k = 0; k < ADVISE_N; k++)
        g->weight[k] = k == RATIO_ENERGY ? 0 : g->weight[k] / rest;
    g->energy_dropped = true;
}

/* ---- What nothing beats ---- */

static bool dominates(const struct weigher *w, int x, int y)
{
    bool better = false;

    for (int k = 0; k < ADVISE_N; k++) {
        if (!w->g->known[k])
            continue;
        const struct estimate e = held_in(w, w->g->cells[y].cell, w->g->cells[x].cell, k);
        if (e.verdict == VERDICT_NONE || e.verdict == VERDICT_WORSE || e.value < 1 / (1 + STATS_PRACTICAL))
            return false;
        better = better || e.verdict == VERDICT_BETTER;
    }
    return better;
}

/* Two cells can each be better by less than 2 % in other dimensions; only one of them may push the other out. */
static void find_pareto(const struct weigher *w)
{
    struct advise_group *g = w->g;

    for (int i = 0; i < g->n; i++)
        for (int k = 0; k < g->n && advise_feasible(&g->cells[i]) && g->cells[i].dominated_by < 0; k++)
            if (k != i && advise_feasible(&g->cells[k]) && g->cells[k].dominated_by < 0 && dominates(w, k, i))
                g->cells[i].dominated_by = k;
}

static bool candidate(const struct advise_cell *c)
{
    return advise_feasible(c) && c->dominated_by < 0;
}

/* ---- Priorities ---- */

struct decision {
    int best, chosen;
    int blocks_needed;
};

static bool is_tied(const struct weigher *w, int best, int other, const double weight[ADVISE_N], int *blocks_needed)
{
    const struct estimate e = held(w, w->g->cells[other].cell, w->g->cells[best].cell, weight);

    *blocks_needed = e.blocks_needed;
    return e.verdict != VERDICT_NONE && e.verdict != VERDICT_BETTER;
}

/* log_u[i]: ln U of each cell for these weights; NAN for what is no candidate. */
static struct decision decide(const struct weigher *w, const double *log_u, const double weight[ADVISE_N])
{
    struct advise_group *g = w->g;
    struct decision d = { .best = -1, .chosen = -1 };
    int needed;

    for (int i = 0; i < g->n; i++)
        if (!isnan(log_u[i]) && (d.best < 0 || log_u[i] > log_u[d.best]))
            d.best = i;
    d.chosen = d.best;
    for (int i = 0; i < g->n; i++) {
        const int fewer = d.best < 0 ? 0 : g->cells[d.chosen].n_switches - g->cells[i].n_switches;

        if (!isnan(log_u[i]) && i != d.best && (fewer > 0 || (fewer == 0 && log_u[i] > log_u[d.chosen])) &&
            is_tied(w, d.best, i, weight, &needed)) {
            d.chosen = i;
            d.blocks_needed = needed;
        }
    }
    return d;
}

/* ln of each dimension's mean ratio over the baseline, so that U at any weights is a dot product. */
static void fill_logs(const struct weigher *w, double (*logs)[ADVISE_N])
{
    const struct advise_group *g = w->g;

    for (int i = 0; i < g->n; i++)
        for (int k = 0; k < ADVISE_N; k++)
            logs[i][k] = i == 0 || !g->known[k] ? 0 : log(held_in(w, g->base, g->cells[i].cell, k).value);
}

static void fill_utilities(const struct advise_group *g, double (*logs)[ADVISE_N], const double weight[ADVISE_N],
                           double *log_u)
{
    for (int i = 0; i < g->n; i++) {
        log_u[i] = candidate(&g->cells[i]) ? 0 : NAN;
        for (int k = 0; k < ADVISE_N; k++)
            log_u[i] += weight[k] > 0 ? weight[k] * logs[i][k] : 0;
    }
}

/* The weights when that of dimension k is x and the others keep their proportion. */
static void move_weight(const struct weigher *w, int k, double x, double out[ADVISE_N])
{
    double rest = 0;
    int others = 0;

    for (int i = 0; i < ADVISE_N; i++)
        if (i != k && w->g->known[i]) {
            rest += w->g->weight[i];
            others++;
        }
    for (int i = 0; i < ADVISE_N; i++)
        out[i] = i == k                           ? x
                 : !w->g->known[i] || others == 0 ? 0
                 : rest > 0                       ? (1 - x) * w->g->weight[i] / rest
                                                  : (1 - x) / others;
}

static bool stays(const struct weigher *w, double (*logs)[ADVISE_N], double *log_u, int k, double x)
{
    double weight[ADVISE_N];

    move_weight(w, k, x, weight);
    fill_utilities(w->g, logs, weight, log_u);
    return decide(w, log_u, weight).chosen == w->g->chosen;
}

static void find_ranges(const struct weigher *w, double (*logs)[ADVISE_N], double *log_u)
{
    struct advise_group *g = w->g;

    for (int k = 0; k < ADVISE_N; k++) {
        const double now = w->g->weight[k];

        g->low[k] = g->high[k] = NAN;
        if (!g->known[k] || (k == RATIO_ENERGY && g->energy_dropped) || g->n < 2)
            continue;
        g->low[k] = g->high[k] = now;
        for (int i = (int)ceil(now * WEIGHT_STEPS) - 1; i >= 0; i--) {
            if (!stays(w, logs, log_u, k, (double)i / WEIGHT_STEPS))
                break;
            g->low[k] = (double)i / WEIGHT_STEPS;
        }
        for (int i = (int)floor(now * WEIGHT_STEPS) + 1; i <= WEIGHT_STEPS; i++) {
            if (!stays(w, logs, log_u, k, (double)i / WEIGHT_STEPS))
                break;
            g->high[k] = (double)i / WEIGHT_STEPS;
        }
    }
}

static int choose(struct weigher *w, struct err *err)
{
    struct advise_group *g = w->g;
    double(*logs)[ADVISE_N] = mem_array(g->n, 1, sizeof *logs, MEM_RECORD, err);
    double *log_u = mem_array(g->n, 1, sizeof *log_u, MEM_RECORD, err);
    int result = -1, needed;

    if (!logs || !log_u)
        goto done;
    fill_logs(w, logs);
    fill_utilities(g, logs, w->g->weight, log_u);
    const struct decision d = decide(w, log_u, w->g->weight);
    g->best = d.best;
    g->chosen = d.chosen;
    g->blocks_needed = d.best == d.chosen ? 0 : d.blocks_needed;
    for (int i = 0; i < g->n; i++) {
        struct advise_cell *c = &g->cells[i];

        c->utility = held(w, g->base, c->cell, w->g->weight);
        g->one_run = g->one_run || (candidate(c) && c->utility.n < 2);
        c->tied = d.best >= 0 && candidate(c) && (i == d.best || is_tied(w, d.best, i, w->g->weight, &needed));
    }
    if (d.chosen >= 0)
        find_ranges(w, logs, log_u);
    result = 0;
done:
    mem_free(logs);
    mem_free(log_u);
    return result;
}

/* ---- What to measure next ---- */

static bool same_set(const json_t *a, const json_t *b)
{
    size_t i, k;
    json_t *x, *y;

    if (json_array_size(a) != json_array_size(b))
        return false;
    json_array_foreach(a, i, x)
    {
        bool found = false;

        json_array_foreach(b, k, y)
        {
            found = found || json_equal(x, y);
        }
        if (!found)
            return false;
    }
    return true;
}

static bool is_measured(const struct weigher *w, const json_t *set)
{
    bool found = false;

    for (int i = 0; i < w->g->n && !found; i++) {
        json_t *have = json_loads(w->l->cells[w->g->cells[i].cell].techniques, 0, NULL);

        found = same_set(set, have);
        json_decref(have);
    }
    return found;
}

/* The single technique with the largest U, better beyond doubt, that the set lacks and that nobody has measured with it;
 * NULL when there is none. */
static json_t *extended(const struct weigher *w, const json_t *set)
{
    const struct advise_cell *found = NULL;
    json_t *best = NULL;

    for (int i = 1; i < w->g->n; i++) {
        const struct advise_cell *c = &w->g->cells[i];
        json_t *alone = json_loads(w->l->cells[c->cell].techniques, 0, NULL), *both = json_deep_copy(set);

        if (!c->excluded[0] && json_array_size(alone) == 1 && c->utility.verdict == VERDICT_BETTER &&
            (!found || c->utility.value > found->utility.value) && !(c->fails & (1u << ADVISE_LOSS)) &&
            json_array_extend(both, alone) == 0 && !same_set(set, alone) && !is_measured(w, both)) {
            bool there = false;
            for (size_t k = 0; k < json_array_size(set); k++)
                there = there || json_equal(json_array_get(set, k), json_array_get(alone, 0));
            if (!there) {
                found = c;
                json_decref(best);
                best = json_incref(both);
            }
        }
        json_decref(alone);
        json_decref(both);
    }
    return best;
}

/* What is advised, and the best single technique that it lacks: single ratios do not multiply, so that it has to be run. */
static void find_next(struct weigher *w)
{
    struct advise_group *g = w->g;

    if (g->chosen < 0)
        return;
    json_t *set = json_loads(w->l->cells[g->cells[g->chosen].cell].techniques, 0, NULL);
    json_t *both = set ? extended(w, set) : NULL;
    char *text = both ? json_dumps(both, JSON_COMPACT) : NULL;
    if (text && strlen(text) < sizeof g->next)
        snprintf(g->next, sizeof g->next, "%s", text);
    free(text);
    json_decref(both);
    json_decref(set);
}

/* ---- All ---- */

static void find_constant_power(struct advise_group *g)
{
    int n = 0, same = 0;

    for (int i = 1; i < g->n; i++) {
        const struct ratio *r = &g->cells[i].row->ratios[RATIO_POWER];

        if (r->source == RATIO_UNAVAILABLE)
            continue;
        n++;
        same += fabs(r->e.value - 1) <= 0.05;
    }
    g->constant_power = n > 0 && same == n;
}

static int build_group(struct weigher *w, const struct comparisons *c, struct err *err)
{
    struct advise_group *g = w->g;

    *g = (struct advise_group){ .base = g->base, .best = -1, .chosen = -1, .weighed = true };
    if (add_cells(w, c, err) != 0)
        return -1;
    find_known(w);
    find_weights(w);
    w->own = true;
    for (int i = 0; i < g->n; i++)
        w->own = w->own && ratios_own_memory(w->l, g->cells[i].cell, g->base);
    for (int i = 0; i < g->n; i++) {
        exclude(w, &g->cells[i]);
        measure_needs(w, &g->cells[i]);
    }
    if (!g->known[RATIO_SPEED])
        snprintf(g->cells[0].excluded, sizeof g->cells[0].excluded, "it has no completed run");
    for (int k = 0; k < ADVISE_N; k++) {
        g->low[k] = g->high[k] = NAN;
        g->weighed = g->weighed && (g->known[k] || w->g->weight[k] == 0);
    }
    find_pareto(w);
    find_constant_power(g);
    if (g->weighed && choose(w, err) != 0)
        return -1;
    find_next(w);
    return 0;
}

static bool listed(const char *list, const char *name)
{
    const size_t n = strlen(name);

    for (const char *p = list; p && *p; p += strcspn(p, ",") + (p[strcspn(p, ",")] != '\0'))
        if (strcspn(p, ",") == n && strncmp(p, name, n) == 0)
            return true;
    return !list;
}

int advise_build(struct advice *a, const struct loaded *l, const struct comparisons *c, const struct advise_wish *wish,
                 const char *phases, struct err *err)
{
    struct weigher w = { .l = l, .wish = &a->wish };
    int result = -1;

    *a = (struct advice){ .wish = *wish };
    a->groups = mem_array(l->n_cells, 1, sizeof *a->groups, MEM_RECORD, err);
    w.a = mem_array(l->n_runs, 1, sizeof *w.a, MEM_RECORD, err);
    w.b = mem_array(l->n_runs, 1, sizeof *w.b, MEM_RECORD, err);
    if (!a->groups || !w.a || !w.b)
        goto done;
    for (int i = 0; i < l->n_cells; i++)
        if (l->cells[i].baseline == i && listed(phases, l->cells[i].phase)) {
            w.g = &a->groups[a->n];
            a->groups[a->n++].base = i;
            if (build_group(&w, c, err) != 0)
                goto done;
        }
    result = a->n > 0 ? 0 : err_set(err, ERR_USAGE, "the study has no phase \"%.60s\"", phases ? phases : "");
done:
    mem_free(w.a);
    mem_free(w.b);
    if (result != 0)
        advise_free(a);
    return result;
}

void advise_free(struct advice *a)
{
    for (int i = 0; i < a->n; i++)
        mem_free(a->groups[i].cells);
    mem_free(a->groups);
    a->groups = NULL;
    a->n = 0;
}
