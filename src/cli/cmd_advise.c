/* "tuneup advise": a study's file, limits and priorities -> what to switch on. */
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "cli/command.h"
#include "report/advice.h"
#include "run/spec.h"

struct advise_command_options {
    const char *want, *max_memory, *phases;
    double max_seconds, max_joules;
    const char *max_loss_increase;
    int64_t steps;
    bool energy, json;
};

static struct advise_command_options options;

static const struct option table[] = {
    { .name = "want",
      .type = OPTION_STRING,
      .offset = offsetof(struct advise_command_options, want),
      .fallback = "balanced",
      .value = "WEIGHTS",
      .help = "speed, memory or energy (four times as much as the others), balanced, or speed=2,memory=1,energy=1" },
    { .name = "energy",
      .type = OPTION_FLAG,
      .offset = offsetof(struct advise_command_options, energy),
      .fallback = "true",
      .help = "--no-energy weighs speed and memory alone; --energy, like a weight of it, refuses where it was not "
              "measured" },
    { .name = "max_memory",
      .type = OPTION_STRING,
      .offset = offsetof(struct advise_command_options, max_memory),
      .value = "BYTES",
      .help = "the most that all ranks together may take, e.g. 8GiB; 5 % of headroom are added to what was measured" },
    { .name = "max_seconds",
      .type = OPTION_REAL,
      .offset = offsetof(struct advise_command_options, max_seconds),
      .min = 0,
      .max = 1e12,
      .value = "S",
      .help = "the longest that a run may take" },
    { .name = "max_joules",
      .type = OPTION_REAL,
      .offset = offsetof(struct advise_command_options, max_joules),
      .min = 0,
      .max = 1e15,
      .value = "J",
      .help = "the most energy that a run may take" },
    { .name = "max_loss_increase",
      .type = OPTION_STRING,
      .offset = offsetof(struct advise_command_options, max_loss_increase),
      .value = "X",
      .help = "how far the loss may lie above the baseline's (PPO: the reward below), e.g. 0.01 or 1%" },
    { .name = "steps",
      .type = OPTION_INT,
      .offset = offsetof(struct advise_command_options, steps),
      .min = 1,
      .max = 1000000000,
      .value = "N",
      .help = "limits of seconds and joules are for a run of N steps; else for runs as they were measured" },
    { .name = "phases",
      .type = OPTION_STRING,
      .offset = offsetof(struct advise_command_options, phases),
      .value = "A,B",
      .help = "only these phases: sft, reward, ppo, command" },
    { .name = "json",
      .type = OPTION_FLAG,
      .offset = offsetof(struct advise_command_options, json),
      .help = "one JSON document" },
    { 0 },
};

static int sets(struct option_set *out)
{
    out[0] = (struct option_set){ .title = "Advise", .options = table, .values = &options };
    return 1;
}

static int parse_share(const char *text, double *out, struct err *err)
{
    char *end;
    const double x = strtod(text, &end);
    const bool percent = strcmp(end, "%") == 0;

    if (end == text || (*end != '\0' && !percent) || !(fabs(x) <= 1e6)) {
        err_set(err, ERR_USAGE, "--max_loss_increase \"%.60s\" is no share", text);
        return err_hint(err, "Write 0.01 or 1%% for a loss at most one hundredth above the baseline's.");
    }
    *out = percent ? x / 100 : x;
    return 0;
}

static bool was_given(const struct command_line *line, const char *name)
{
    for (int i = 0; i < line->n_given; i++)
        if (strcmp(line->given[i].option->name, name) == 0)
            return true;
    return false;
}

static int read_wish(const struct command_line *line, struct advise_wish *wish, struct err *err)
{
    int64_t bytes = 0;

    *wish = (struct advise_wish){ .limit = { NAN, NAN, NAN, NAN },
                                  .steps = options.steps,
                                  .insist = was_given(line, "energy") || advise_names_energy(options.want) };
    if (advise_parse(options.want, wish->weight, err) != 0)
        return -1;
    if (!options.energy) {
        const double rest = wish->weight[RATIO_SPEED] + wish->weight[RATIO_MEMORY];

        if (!(rest > 0))
            return err_set(err, ERR_USAGE, "--want \"%.60s\" with --no-energy gives weight to nothing", options.want);
        *wish = (struct advise_wish){ .weight = { wish->weight[RATIO_SPEED] / rest, wish->weight[RATIO_MEMORY] / rest },
                                      .limit = { NAN, NAN, NAN, NAN },
                                      .steps = options.steps };
    }
    if (options.max_memory) {
        if (spec_bytes(options.max_memory, &bytes, err) != 0)
            return -1;
        wish->limit[ADVISE_MEMORY] = (double)bytes;
    }
    if (was_given(line, "max_seconds"))
        wish->limit[ADVISE_SECONDS] = options.max_seconds;
    if (was_given(line, "max_joules"))
        wish->limit[ADVISE_JOULES] = options.max_joules;
    return options.max_loss_increase ? parse_share(options.max_loss_increase, &wish->limit[ADVISE_LOSS], err) : 0;
}

static int show(const struct advice *a, const struct loaded *l, struct err *err)
{
    if (!options.json) {
        advice_print(stdout, a, l);
        return 0;
    }
    json_t *all = advice_json(a, l);
    if (!all)
        return err_set(err, ERR_MEMORY, "could not put the advice together");
    const int failed = json_dumpf(all, stdout, JSON_INDENT(2)) != 0 || fputc('\n', stdout) == EOF;
    json_decref(all);
    return failed ? err_errno(err, "could not write the advice") : 0;
}

/* What kept a phase from being advised, after all that could be said was. */
static int judge(const struct advice *a, const struct loaded *l, struct err *err)
{
    const struct advise_cell *nearest = NULL;
    const struct advise_group *g;
    char fails[400];

    for (int i = 0; i < a->n; i++) {
        g = &a->groups[i];
        if (!g->known[RATIO_ENERGY] && (g->weight[RATIO_ENERGY] > 0 || !isnan(a->wish.limit[ADVISE_JOULES]))) {
            err_set(err, ERR_UNAVAILABLE, "energy was asked for and was not measured: %.600s", g->unknown_reason);
            return err_hint(err, "Without a weight or a limit of it, speed and memory are weighed: --no-energy.");
        }
    }
    g = advice_infeasible(a, l, &nearest);
    if (!g)
        return 0;
    advice_fails(&a->wish, nearest, fails, sizeof fails);
    if (!fails[0])
        return err_set(err, ERR_INFEASIBLE, "no cell of phase %s can be advised: \"%.80s\": %s",
                       l->cells[g->base].phase, l->cells[nearest->cell].name, nearest->excluded);
    err_set(err, ERR_INFEASIBLE, "no cell of phase %s meets the limits: the nearest, \"%.80s\", needs %s",
            l->cells[g->base].phase, l->cells[nearest->cell].name, fails);
    return err_hint(err, "Raise that limit, or measure further techniques: those of the Measure next lines above.");
}

static int run(struct command_line *line, struct err *err)
{
    struct comparisons c = { 0 };
    struct advice a = { 0 };
    struct advise_wish wish;
    struct loaded l;
    int result = -1;

    if (line->n_words < 1) {
        err_set(err, ERR_USAGE, "a study's file, or lists of runs, are needed");
        return err_hint(err, "For example: tuneup advise tuneup-study/study.db");
    }
    if (read_wish(line, &wish, err) != 0 || load_runs(&l, line->words, line->n_words, err) != 0)
        return -1;
    if (ratios_build(&c, &l, err) == 0 && advise_build(&a, &l, &c, &wish, options.phases, err) == 0 &&
        show(&a, &l, err) == 0)
        result = judge(&a, &l, err);
    advise_free(&a);
    ratios_free(&c);
    load_free(&l);
    return result;
}

const struct command cmd_advise = {
    .name = "advise",
    .summary = "what to switch on, for your limits and priorities, from a study's numbers",
    .usage = "tuneup advise STUDY.db|RUNS.jsonl [--want WEIGHTS] [limits] [--json]",
    .examples = "  tuneup advise tuneup-study/study.db                           all three alike\n"
                "  tuneup advise tuneup-study/study.db --want speed              four times as much as the others\n"
                "  tuneup advise tuneup-study/study.db --max_memory 8GiB --want speed=2,memory=1,energy=1\n"
                "  tuneup advise tuneup-study/study.db --max_loss_increase 1% --json\n",
    .details =
        "Limits come first, then what no other cell beats beyond noise, then the largest U = SpeedUp^s MemoryUp^m\n"
        "EnergyUp^g for your weights. Of what cannot be told from the best, the cell with the fewest switches is\n"
        "advised. Energy that was not measured is left out, and said to be so; exit status 4 where it was asked for, "
        "by\n"
        "--want energy, a weight or a limit. Exit status 3: no cell of a phase meets the limits. docs/advise.md\n"
        "explains each line.",
    .sets = sets,
    .run = run,
};
