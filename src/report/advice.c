/* A group is told in the order in which a reader decides: what to switch on, what that gives, how sure it is, what else is as
 * good, what is out and why, what to measure next. */
#include "report/advice.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "report/exports.h"

static const char *const limit_keys[ADVISE_LIMITS] = { "memory", "seconds", "joules", "loss_increase" };

static const char *name_of(const struct loaded *l, const struct advise_cell *c, char safe[96])
{
    return log_safe(safe, 96, l->cells[c->cell].name);
}

static void amount(enum advise_limit limit, double x, char *out, size_t size)
{
    if (isnan(x))
        snprintf(out, size, "an unknown amount");
    else if (limit == ADVISE_MEMORY)
        exports_bytes(x, out, size);
    else if (limit == ADVISE_LOSS)
        snprintf(out, size, "%+.3g %%", 100 * x);
    else
        snprintf(out, size, "%.4g %s", x, limit == ADVISE_SECONDS ? "s" : "J");
}

void advice_fails(const struct advise_wish *wish, const struct advise_cell *c, char *out, size_t size)
{
    size_t used = 0;

    out[0] = '\0';
    for (int i = 0; i < ADVISE_LIMITS && used < size; i++) {
        char need[48], allowed[48];

        if (!(c->fails & 1u << i))
            continue;
        amount((enum advise_limit)i, c->need[i], need, sizeof need);
        amount((enum advise_limit)i, wish->limit[i], allowed, sizeof allowed);
        used += (size_t)snprintf(out + used, size - used, "%s%s where %s allows %s", used ? ", and " : "", need,
                                 advise_options[i], allowed);
    }
}

/* By how much, as a factor, the worst of its limits is missed. */
static double excess(const struct advise_wish *wish, const struct advise_cell *c)
{
    double worst = 0;

    for (int i = 0; i < ADVISE_LIMITS; i++)
        if (c->fails & 1u << i)
            worst = fmax(worst, isnan(c->need[i]) || wish->limit[i] <= 0 ? 1e9 : c->need[i] / wish->limit[i]);
    return c->excluded[0] ? INFINITY : worst;
}

static bool has_feasible(const struct advise_group *g)
{
    for (int i = 0; i < g->n; i++)
        if (advise_feasible(&g->cells[i]))
            return true;
    return false;
}

const struct advise_group *advice_infeasible(const struct advice *a, const struct loaded *l,
                                             const struct advise_cell **nearest)
{
    for (int i = 0; i < a->n; i++) {
        const struct advise_group *found = &a->groups[i];
        const char *phase = l->cells[found->base].phase;
        bool any = false;

        for (int k = 0; k < a->n; k++)
            any = any || (strcmp(l->cells[a->groups[k].base].phase, phase) == 0 && has_feasible(&a->groups[k]));
        if (any)
            continue;
        *nearest = &found->cells[0];
        for (int k = 1; k < found->n; k++)
            if (excess(&a->wish, &found->cells[k]) < excess(&a->wish, *nearest))
                *nearest = &found->cells[k];
        return found;
    }
    return NULL;
}

/* ---- Words ---- */

static void print_head(FILE *out, const struct loaded *l, const struct advise_group *g)
{
    const struct load_cell *base = &l->cells[g->base];
    char phase[64], name[96], ranks[EXPORTS_RANKS_SIZE];

    fprintf(out, "\n%s%s, over \"%s\"; memory is the %s\n", log_safe(phase, sizeof phase, base->phase),
            exports_ranks(base, ", ", "", ranks), log_safe(name, sizeof name, base->name),
            ratios_gpu_memory(l, g->base) ? "GPUs'" : "host's");
}

/* `"a", "b" and 3 more` of the cells for which is() holds. */
static int print_names(FILE *out, const struct loaded *l, const struct advise_group *g,
                       bool (*is)(const struct advise_group *g, int i))
{
    char safe[96];
    int n = 0;

    for (int i = 0; i < g->n; i++)
        if (is(g, i) && n++ < 8)
            fprintf(out, "%s\"%s\"", n > 1 ? ", " : "", name_of(l, &g->cells[i], safe));
    if (n > 8)
        fprintf(out, " and %d more", n - 8);
    return n;
}

static bool is_also_tied(const struct advise_group *g, int i)
{
    return g->cells[i].tied && i != g->chosen;
}

static bool is_pareto(const struct advise_group *g, int i)
{
    return advise_feasible(&g->cells[i]) && g->cells[i].dominated_by < 0;
}

static int count(const struct advise_group *g, bool (*is)(const struct advise_group *g, int i))
{
    int n = 0;

    for (int i = 0; i < g->n; i++)
        n += is(g, i);
    return n;
}

static void print_techniques(FILE *out, const struct load_cell *cell)
{
    json_t *list = json_loads(cell->techniques, 0, NULL), *word;
    char safe[96];
    size_t i;

    json_array_foreach(list, i, word)
    {
        fprintf(out, "%s%s", i ? ", " : " (", log_safe(safe, sizeof safe, json_string_value(word)));
    }
    fputs(json_array_size(list) ? ")" : "", out);
    json_decref(list);
}

static void print_gains(FILE *out, const struct advise_group *g, const struct advise_cell *c)
{
    for (int k = 0; k < ADVISE_N; k++) {
        const struct ratio *r = &c->row->ratios[k];
        char ratio[96], verdict[128];

        exports_ratio(r, ratio, sizeof ratio);
        stats_verdict(&r->e, verdict, sizeof verdict);
        if (r->source != RATIO_UNAVAILABLE)
            fprintf(out, "    %-10s%s, %s%s\n", ratio_names[k], ratio, verdict,
                    r->source == RATIO_ESTIMATED ? ", estimated" : "");
        else if (!g->known[k])
            fprintf(out, "    %-10sunavailable\n", ratio_names[k]);
    }
}

static void print_loss(FILE *out, const struct loaded *l, const struct comparison *row)
{
    char gap[32], quality[160];

    if (row->n_done == 0 || (isnan(row->loss_gap) && isnan(row->final_loss)))
        return;
    exports_gap(row->loss_gap, gap, sizeof gap);
    exports_quality(row, quality, sizeof quality);
    fprintf(out, "    quality   the %s differs by %s at most%s%s", ratios_curve(&l->cells[row->cell]), gap,
            quality[0] ? "; " : "", quality);
    if (isfinite(row->final_loss) && isfinite(row->base_final_loss))
        fprintf(out, "; last loss %.4f, baseline %.4f", row->final_loss, row->base_final_loss);
    fputs(l->cells[row->cell].exact ? "; it computes the same numbers\n" : "\n", out);
}

static void print_utility(FILE *out, const struct advise_cell *c)
{
    const struct ratio u = { .source = RATIO_MEASURED, .e = c->utility };
    char text[96];

    exports_ratio(&u, text, sizeof text);
    fprintf(out, "    for your priorities it is %s times the baseline\n", text);
}

static void print_ties(FILE *out, const struct loaded *l, const struct advise_group *g)
{
    char safe[96];

    if (count(g, is_also_tied) == 0)
        return;
    fputs("  As good, as far as can be told: ", out);
    print_names(out, l, g, is_also_tied);
    fputs(g->cells[g->chosen].n_switches == 0 ? ". The advised one switches nothing on."
                                              : ". The advised one has the fewest switches.",
          out);
    if (g->blocks_needed > STATS_SENSIBLE_BLOCKS)
        fprintf(out, " It is too noisy here to tell it from \"%s\".", name_of(l, &g->cells[g->best], safe));
    else if (g->blocks_needed > 0)
        fprintf(out, " About %d blocks would tell it from \"%s\".", g->blocks_needed,
                name_of(l, &g->cells[g->best], safe));
    fputc('\n', out);
}

static void print_ranges(FILE *out, const struct advise_group *g)
{
    bool first = true;

    for (int k = 0; k < ADVISE_N; k++)
        if (!isnan(g->low[k]) && g->n > 1) {
            fprintf(out, "%s%s from %.0f to %.0f %% (now %.0f)",
                    first ? "  It stays the answer for a share of " : ", of ", advise_names[k], 100 * g->low[k],
                    100 * g->high[k], 100 * g->weight[k]);
            first = false;
        }
    fputs(first ? "" : ".\n", out);
}

static void print_left_out(FILE *out, const struct advice *a, const struct loaded *l, const struct advise_group *g)
{
    char safe[96], other[96], fails[400];

    for (int i = 0; i < g->n; i++) {
        const struct advise_cell *c = &g->cells[i];

        advice_fails(&a->wish, c, fails, sizeof fails);
        name_of(l, c, safe);
        if (c->excluded[0])
            fprintf(out, "  Left out: \"%s\": %s.\n", safe, log_safe(fails, sizeof fails, c->excluded));
        else if (c->fails)
            fprintf(out, "  Beyond the limits: \"%s\" needs %s.\n", safe, fails);
        else if (c->dominated_by >= 0)
            fprintf(out,
                    "  Beaten: \"%s\", by \"%s\", which is better in one thing and, as far as can be told, worse in "
                    "none.\n",
                    safe, name_of(l, &g->cells[c->dominated_by], other));
    }
}

static void print_next(FILE *out, const struct advise_group *g)
{
    json_t *list = json_loads(g->next, 0, NULL), *word;
    char safe[96];
    size_t i;

    if (json_array_size(list) > 0) {
        fputs("  Measure next: ", out);
        json_array_foreach(list, i, word)
        {
            fprintf(out, "%s%s", i ? " + " : "", log_safe(safe, sizeof safe, json_string_value(word)));
        }
        fputs(" together, which no cell has; ratios of single techniques do not multiply.\n", out);
    }
    json_decref(list);
}

static void print_chosen(FILE *out, const struct loaded *l, const struct advise_group *g)
{
    const struct advise_cell *c = &g->cells[g->chosen];
    char safe[96];

    if (!c->row) {
        fprintf(out, "  Stay with the baseline, \"%s\".\n", name_of(l, c, safe));
    } else {
        fprintf(out, "  Switch on \"%s\"", name_of(l, c, safe));
        print_techniques(out, &l->cells[c->cell]);
        fputs(":\n", out);
        print_gains(out, g, c);
        print_utility(out, c);
        print_loss(out, l, c->row);
    }
    if (g->one_run)
        fputs(
            "  One run of each gives no interval: this is the largest number, not one beyond noise. Run more blocks.\n",
            out);
    print_ties(out, l, g);
    print_ranges(out, g);
}

static void print_energy(FILE *out, const struct advise_group *g)
{
    const bool apart = strncmp(g->unknown_reason, "not comparable", 14) == 0;
    char safe[512];

    if (g->known[RATIO_ENERGY] && !g->energy_dropped)
        return;
    log_safe(safe, sizeof safe, g->unknown_reason);
    fprintf(out, "  Energy %s: %s%s\n",
            g->known[RATIO_ENERGY] ? "is not known of every cell"
            : apart                ? "cannot be compared"
                                   : "was not measured",
            safe, exports_stop(safe));
    if (g->energy_dropped)
        fprintf(out, "  Its weight goes to the others: speed %.0f %%, memory %.0f %%.\n", 100 * g->weight[RATIO_SPEED],
                100 * g->weight[RATIO_MEMORY]);
    else if (g->weight[RATIO_ENERGY] > 0)
        fputs("  It was asked for, so that nothing is advised; --no-energy weighs the rest without it.\n", out);
    else
        fputs("  It has no weight here: time and memory alone are weighed, as told.\n", out);
}

static void print_group(FILE *out, const struct advice *a, const struct loaded *l, const struct advise_group *g)
{
    print_head(out, l, g);
    print_energy(out, g);
    if (g->chosen >= 0) {
        print_chosen(out, l, g);
    } else if (!has_feasible(g)) {
        fputs("  No cell meets the limits.\n", out);
    }
    if (count(g, is_pareto) > 0) {
        fputs("  Not beaten by any other: ", out);
        print_names(out, l, g, is_pareto);
        fputs(".\n", out);
    }
    print_left_out(out, a, l, g);
    print_next(out, g);
    if (g->constant_power && g->weight[RATIO_SPEED] > 0 && g->weight[RATIO_ENERGY] > 0)
        fputs("  Power hardly changes here, so that energy goes as time does: weighing both counts it twice.\n", out);
}

void advice_print(FILE *out, const struct advice *a, const struct loaded *l)
{
    fprintf(out, "Priorities: speed %.0f %%, memory %.0f %%, energy %.0f %%", 100 * a->wish.weight[0],
            100 * a->wish.weight[1], 100 * a->wish.weight[2]);
    for (int i = 0, n = 0; i < ADVISE_LIMITS; i++) {
        char text[48];

        if (isnan(a->wish.limit[i]))
            continue;
        amount((enum advise_limit)i, a->wish.limit[i], text, sizeof text);
        fprintf(out, "%s%s at most %s", n++ ? ", " : "; limits: ", limit_keys[i], text);
    }
    if (a->wish.steps > 0)
        fprintf(out, "; for a run of %" PRId64 " steps", a->wish.steps);
    fputs(".\n", out);
    for (int i = 0; i < a->n; i++)
        print_group(out, a, l, &a->groups[i]);
}

/* ---- JSON ---- */

static json_t *number(double x)
{
    return isfinite(x) ? json_real(x) : json_null();
}

static json_t *name_or_null(const struct loaded *l, const struct advise_group *g, int i)
{
    return i < 0 ? json_null() : json_string(l->cells[g->cells[i].cell].name);
}

static json_t *names(const struct loaded *l, const struct advise_group *g,
                     bool (*is)(const struct advise_group *g, int i))
{
    json_t *list = json_array();

    for (int i = 0; i < g->n; i++)
        if (is(g, i))
            json_array_append_new(list, name_or_null(l, g, i));
    return list;
}

static bool is_tied(const struct advise_group *g, int i)
{
    return g->cells[i].tied;
}

static json_t *list_of(const char *json)
{
    json_t *list = json[0] ? json_loads(json, 0, NULL) : NULL;

    return list ? list : json_null();
}

static json_t *limits_json(const double limit[ADVISE_LIMITS])
{
    json_t *o = json_object();

    for (int i = 0; i < ADVISE_LIMITS; i++)
        json_object_set_new(o, limit_keys[i], number(limit[i]));
    return o;
}

static json_t *fails_json(const struct advise_wish *wish, const struct advise_cell *c)
{
    json_t *list = json_array();

    for (int i = 0; i < ADVISE_LIMITS; i++)
        if (c->fails & 1u << i)
            json_array_append_new(list, json_pack("{s:s, s:o, s:o}", "limit", limit_keys[i], "needs",
                                                  number(c->need[i]), "allowed", number(wish->limit[i])));
    return list;
}

static json_t *ratios_json(const struct comparison *row)
{
    json_t *o = json_object();

    for (int kind = 0; row && kind < ADVISE_N; kind++)
        json_object_set_new(o, ratio_names[kind], exports_ratio_json(&row->ratios[kind], (enum ratio_kind)kind));
    return o;
}

static json_t *cell_json(const struct advice *a, const struct loaded *l, const struct advise_group *g, int i)
{
    const struct advise_cell *c = &g->cells[i];
    const struct load_cell *cell = &l->cells[c->cell];
    const struct ratio u = { .source = g->weighed ? RATIO_MEASURED : RATIO_UNAVAILABLE, .e = c->utility };

    return json_pack("{s:s, s:s, s:I, s:o, s:b, s:b, s:o, s:o, s:b, s:o, s:b, s:i, s:o, s:o, s:o, s:o}", "phase",
                     cell->phase, "cell", cell->name, "ranks", (json_int_t)cell->ranks, "techniques",
                     list_of(cell->techniques), "exact", (int)cell->exact, "feasible", (int)advise_feasible(c), "fails",
                     fails_json(&a->wish, c), "excluded", c->excluded[0] ? json_string(c->excluded) : json_null(),
                     "pareto", (int)is_pareto(g, i), "dominated_by", name_or_null(l, g, c->dominated_by), "tied",
                     (int)c->tied, "switches", c->n_switches, "needs", limits_json(c->need), "ratios",
                     ratios_json(c->row), "utility",
                     g->weighed && advise_feasible(c) ? exports_ratio_json(&u, RATIO_SPEED) : json_null(), "final_loss",
                     c->row ? number(c->row->final_loss) : json_null());
}

static json_t *group_json(const struct advice *a, const struct loaded *l, const struct advise_group *g)
{
    json_t *cells = json_array(), *weights = json_object();
    const char *reason = g->chosen >= 0     ? NULL
                         : !has_feasible(g) ? "no cell meets the limits"
                         : !g->weighed      ? "energy was asked for and was not measured"
                                            : "nothing could be compared";

    for (int i = 0; i < g->n; i++)
        json_array_append_new(cells, cell_json(a, l, g, i));
    for (int k = 0; k < ADVISE_N; k++)
        json_object_set_new(
            weights, advise_names[k],
            json_pack("{s:f, s:o, s:o}", "value", g->weight[k], "low", number(g->low[k]), "high", number(g->high[k])));
    json_t *o =
        json_pack("{s:s, s:I, s:s, s:o, s:s?, s:o, s:o, s:o, s:o, s:o, s:b, s:o}", "phase", l->cells[g->base].phase,
                  "ranks", (json_int_t)l->cells[g->base].ranks, "baseline", l->cells[g->base].name, "recommended",
                  name_or_null(l, g, g->chosen), "reason", reason, "best", name_or_null(l, g, g->best), "tied",
                  names(l, g, is_tied), "pareto", names(l, g, is_pareto), "weights", weights, "next", list_of(g->next),
                  "one_run", (int)g->one_run, "cells", cells);
    json_object_set_new(o, "memory", json_string(ratios_memory(l, g->base)));
    json_object_set_new(o, "energy_unavailable", g->known[RATIO_ENERGY] ? json_null() : json_string(g->unknown_reason));
    json_object_set_new(o, "blocks_needed", g->blocks_needed ? json_integer(g->blocks_needed) : json_null());
    return o;
}

json_t *advice_json(const struct advice *a, const struct loaded *l)
{
    json_t *groups = json_array(), *want = json_object();

    for (int k = 0; k < ADVISE_N; k++)
        json_object_set_new(want, advise_names[k], json_real(a->wish.weight[k]));
    for (int i = 0; i < a->n; i++)
        json_array_append_new(groups, group_json(a, l, &a->groups[i]));
    return json_pack("{s:i, s:s, s:o, s:o, s:o, s:f, s:o}", "schema_version", 1, "study", l->name, "want", want,
                     "limits", limits_json(a->wish.limit), "steps",
                     a->wish.steps ? json_integer(a->wish.steps) : json_null(), "memory_headroom", ADVISE_HEADROOM,
                     "groups", groups);
}
