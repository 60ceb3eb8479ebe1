/* A group is a baseline and the cells held against it: one phase at one rank count. */
#include "report/questions.h"

#include <inttypes.h>
#include <math.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/json.h"
#include "report/exports.h"

static const char *const dimensions[] = { "time", "memory", "energy" };

/* Text that grows; what does not fit is cut. */
struct text {
    char s[800];
    size_t used;
};

static void add(struct text *t, const char *format, ...) ERR_PRINTF(2, 3);

static void add(struct text *t, const char *format, ...)
{
    va_list args;

    va_start(args, format);
    const int n = vsnprintf(t->s + t->used, sizeof t->s - t->used, format, args);
    va_end(args);
    if (n > 0)
        t->used += (size_t)n < sizeof t->s - t->used ? (size_t)n : sizeof t->s - t->used - 1;
}

static const char *between(const struct text *t)
{
    return t->used ? ", " : "";
}

static bool is_group(const struct loaded *l, const struct comparisons *c, int base)
{
    bool any = false;

    for (int i = 0; i < c->n; i++)
        any = any || (c->rows[i].base == base && c->rows[i].ratios[RATIO_SPEED].e.verdict != VERDICT_NONE);
    return any && strcmp(l->cells[base].phase, "command") != 0;
}

static void add_group(struct text *t, const struct loaded *l, int base)
{
    char ranks[EXPORTS_RANKS_SIZE];

    add(t, "%.16s%s", l->cells[base].phase, exports_ranks(&l->cells[base], " at ", "", ranks));
}

static bool is_measured(const struct loaded *l, const struct comparisons *c, int base, int kind)
{
    for (int i = 0; i < c->n; i++)
        if (c->rows[i].ratios[kind].source != RATIO_UNAVAILABLE &&
            strcmp(l->cells[c->rows[i].base].phase, "command") != 0 && (base < 0 || c->rows[i].base == base))
            return true;
    return false;
}

static void add_measured(struct text *t, const struct loaded *l, const struct comparisons *c)
{
    int n = 0, all = 0;

    for (int kind = 0; kind < COUNT_OF(dimensions); kind++)
        all += is_measured(l, c, -1, kind);
    for (int kind = 0; kind < COUNT_OF(dimensions); kind++)
        if (is_measured(l, c, -1, kind)) {
            n++;
            add(t, "%s%s", n == 1 ? "" : n == all ? " and " : ", ", dimensions[kind]);
        }
}

static bool is_better(const struct comparison *row, int kind)
{
    return row->ratios[kind].e.verdict == VERDICT_BETTER && !row->loss_flagged;
}

/* The one row of the group that is the best in every measured dimension, surely better than the baseline. */
static const struct comparison *champion(const struct loaded *l, const struct comparisons *c, int base)
{
    const struct comparison *found = NULL;

    for (int kind = 0; kind < COUNT_OF(dimensions); kind++) {
        const struct comparison *best = headlines_best(c, base, (enum ratio_kind)kind);

        if (!is_measured(l, c, base, kind))
            continue;
        if (!best || (found && best != found))
            return NULL;
        found = best;
    }
    return found;
}

static void ask_champion(struct headlines *h, const struct loaded *l, const struct comparisons *c)
{
    struct text winners = { 0 }, measured = { 0 };
    int n = 0, n_won = 0;

    for (int base = 0; base < l->n_cells; base++) {
        if (!is_group(l, c, base))
            continue;
        const struct comparison *row = champion(l, c, base);
        n++;
        n_won += row != NULL;
        if (row) {
            add(&winners, "%s\"%.60s\" (", between(&winners), l->cells[row->cell].name);
            add_group(&winners, l, base);
            add(&winners, ")");
        }
    }
    add_measured(&measured, l, c);
    if (n > 0 && n_won == 0)
        headlines_say(h, false,
                      "Does one choice win every dimension? No: in no phase is the same one the best in %s at once.",
                      measured.s);
    else if (n > 0)
        headlines_say(
            h, false,
            "Does one choice win every dimension? In %d of %d comparisons (a phase at a rank count) one is the "
            "best in %s at once: %s.",
            n_won, n, measured.s, winners.s);
}

/* Whether the cells of that name are better in every measured dimension wherever they were run, in two phases at least. */
static bool lifts_all(const struct loaded *l, const struct comparisons *c, const char *name)
{
    const char *first = NULL;
    bool two = false;

    for (int i = 0; i < c->n; i++) {
        const struct load_cell *cell = &l->cells[c->rows[i].cell];

        if (strcmp(cell->name, name) != 0 || strcmp(cell->phase, "command") == 0)
            continue;
        two = two || (first && strcmp(first, cell->phase) != 0);
        first = cell->phase;
        for (int kind = 0; kind < COUNT_OF(dimensions); kind++)
            if (is_measured(l, c, c->rows[i].base, kind) && !is_better(&c->rows[i], kind))
                return false;
    }
    return two;
}

static int count_phases(const struct loaded *l)
{
    int n = 0;

    for (int i = 0; i < l->n_cells; i++)
        n += load_begins_phase(l, i) && strcmp(l->cells[i].phase, "command") != 0;
    return n;
}

static void ask_lift(struct headlines *h, const struct loaded *l, const struct comparisons *c)
{
    struct text names = { 0 }, measured = { 0 };
    bool judged = false;

    for (int base = 0; base < l->n_cells; base++)
        judged = judged || is_group(l, c, base);
    if (!judged || count_phases(l) < 2)
        return;
    for (int i = 0; i < c->n; i++) {
        const char *name = l->cells[c->rows[i].cell].name;
        bool again = false;

        for (int k = 0; k < i; k++)
            again = again || strcmp(l->cells[c->rows[k].cell].name, name) == 0;
        if (!again && lifts_all(l, c, name))
            add(&names, "%s%.60s%s", between(&names), name,
                l->cells[c->rows[i].cell].exact ? "" : " (changes the numbers)");
    }
    add_measured(&measured, l, c);
    headlines_say(h, false, "Is anything better than the baseline in %s, in every phase and at every rank count? %s%s.",
                  measured.s, names.used ? "Yes: " : "Nothing, beyond doubt", names.s);
}

/* Whether the cell has this technique and no other; NULL: one, whichever. */
static bool is_alone(const struct load_cell *cell, const char *technique)
{
    json_t *list = json_loads(cell->techniques, 0, NULL);
    const char *word = json_string_value(json_array_get(list, 0));
    const bool alone = json_array_size(list) == 1 && word && (!technique || strcmp(word, technique) == 0);

    json_decref(list);
    return alone;
}

static void ask_zero(struct headlines *h, const struct loaded *l, const struct comparisons *c)
{
    struct text t = { 0 };
    int n = 0, n_faster = 0;

    for (int i = 0; i < c->n; i++) {
        const struct comparison *row = &c->rows[i];
        char ratio[96];

        if (!is_group(l, c, row->base) || !is_alone(&l->cells[row->cell], "zero-1"))
            continue;
        exports_ratio(&row->ratios[RATIO_SPEED], ratio, sizeof ratio);
        add(&t, "%s", between(&t));
        add_group(&t, l, row->base);
        add(&t, " %s (%s)", ratio, stats_verdict_word(row->ratios[RATIO_SPEED].e.verdict));
        n++;
        n_faster += is_better(row, RATIO_SPEED);
    }
    if (n > 0)
        headlines_say(h, false, "Does ZeRO-1 speed up every phase? %s SpeedUp: %s.",
                      n_faster == n   ? "Yes."
                      : n_faster == 0 ? "Not on this machine, in none of them beyond doubt."
                                      : "Not all of them.",
                      t.s);
}

/* The best in a dimension of each group, among single techniques; NULL when none is better beyond doubt. */
static const struct comparison *best_alone(const struct loaded *l, const struct comparisons *c, int base,
                                           enum ratio_kind kind)
{
    const struct comparison *best = NULL;

    for (int i = 0; i < c->n && is_group(l, c, base); i++) {
        const struct comparison *row = &c->rows[i];

        if (row->base == base && is_alone(&l->cells[row->cell], NULL) && is_better(row, kind) &&
            (!best || row->ratios[kind].e.value > best->ratios[kind].e.value))
            best = row;
    }
    return best;
}

static void ask_checkpointing(struct headlines *h, const struct loaded *l, const struct comparisons *c)
{
    struct text t = { 0 };
    int n = 0, n_best = 0;

    for (int base = 0; base < l->n_cells; base++) {
        const struct comparison *best = best_alone(l, c, base, RATIO_MEMORY), *own = NULL;
        char memory[96], energy[96];

        for (int i = 0; i < c->n && is_group(l, c, base); i++)
            if (c->rows[i].base == base && is_alone(&l->cells[c->rows[i].cell], "gradient_checkpointing"))
                own = &c->rows[i];
        if (!own)
            continue;
        n++;
        n_best += best == own;
        exports_ratio(&own->ratios[RATIO_MEMORY], memory, sizeof memory);
        exports_ratio(&own->ratios[RATIO_ENERGY], energy, sizeof energy);
        add(&t, "%s", between(&t));
        add_group(&t, l, base);
        add(&t, " MemoryUp %s, EnergyUp %s", memory, energy);
    }
    if (n > 0)
        headlines_say(
            h, false,
            "Does gradient checkpointing save the most memory, and the least energy? It is the single technique "
            "with the best MemoryUp in %d of %d comparisons: %s.",
            n_best, n, t.s);
}

/* "Much" is a tenth: the joules of one run in ten. */
static void ask_energy(struct headlines *h, const struct loaded *l, const struct comparisons *c)
{
    const struct comparison *most = NULL;
    struct text t = { 0 };
    char ratio[96];

    for (int i = 0; i < c->n; i++)
        if (is_group(l, c, c->rows[i].base) && is_better(&c->rows[i], RATIO_ENERGY) &&
            (!most || c->rows[i].ratios[RATIO_ENERGY].e.value > most->ratios[RATIO_ENERGY].e.value))
            most = &c->rows[i];
    if (!is_measured(l, c, -1, RATIO_ENERGY))
        return;
    if (!most) {
        headlines_say(h, false, "Does any of them save much energy? None saves any, beyond doubt.");
        return;
    }
    exports_ratio(&most->ratios[RATIO_ENERGY], ratio, sizeof ratio);
    add_group(&t, l, most->base);
    headlines_say(
        h, false, "Does any of them save much energy? %s the largest EnergyUp is that of \"%.60s\" in %s, %s.",
        most->ratios[RATIO_ENERGY].e.low > 1.1 ? "Yes:" : "Not a tenth:", l->cells[most->cell].name, t.s, ratio);
}

static void ask_alone(struct headlines *h, const struct loaded *l, const struct comparisons *c, enum ratio_kind kind,
                      const char *question)
{
    struct text t = { 0 };
    bool judged = false;

    for (int base = 0; base < l->n_cells; base++) {
        const struct comparison *best = best_alone(l, c, base, kind);
        char ratio[24];

        judged = judged || is_group(l, c, base);
        if (!best)
            continue;
        exports_number(best->ratios[kind].e.value, ratio, sizeof ratio);
        add(&t, "%s%.60s in ", between(&t), l->cells[best->cell].name);
        add_group(&t, l, base);
        add(&t, " (%s)", ratio);
    }
    if (judged && is_measured(l, c, -1, kind))
        headlines_say(h, false, "%s %s.", question, t.used ? t.s : "None, beyond doubt");
}

void questions_answer(struct headlines *h, const struct loaded *l, const struct comparisons *c)
{
    ask_champion(h, l, c);
    ask_lift(h, l, c);
    ask_zero(h, l, c);
    ask_checkpointing(h, l, c);
    ask_energy(h, l, c);
    ask_alone(h, l, c, RATIO_SPEED, "Which single technique saves the most time?");
    ask_alone(h, l, c, RATIO_MEMORY, "Which single technique saves the most memory?");
    ask_alone(h, l, c, RATIO_ENERGY, "Which single technique saves the most energy?");
    if (exports_energy_reason(c))
        headlines_say(h, true,
                      "Whether any of them saves energy is not answered here, as it could not be measured: %s%s",
                      exports_energy_reason(c), exports_stop(exports_energy_reason(c)));
}
