/* A goal is a score of a plan's cost, in logarithms, so that a tenth less time weighs as much in a balance as a tenth less
 * memory. From the words as they are, the search goes to the best of all choices that differ in one technique, again and again
 * until none is better: some dozens of plans, each made in milliseconds. */
#include "run/optimize.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "plan/print.h"
#include "run/calibrate.h"

#define WORTH 0.002 /* less than that, in the logarithm, is no gain */
#define MAX_ROUNDS (2 * TECHNIQUES_MAX)

union spec_copy {
    struct spec spec;
    _Alignas(16) char bytes[RUN_SPEC_BYTES];
};

static struct spec *copy_spec(const struct optimize_question *q, union spec_copy *to)
{
    const size_t n = q->form->spec_bytes ? q->form->spec_bytes : sizeof(struct spec);

    MUST(n <= sizeof to->bytes);
    memcpy(to->bytes, q->spec, n);
    return &to->spec;
}

static int technique_slots(const struct run_form *form, struct spec *s, struct technique_values **out)
{
    out[0] = &s->techniques;
    return form->techniques ? form->techniques(s, out) : 1;
}

static void set_choice(const struct run_form *form, struct spec *s, const struct optimize_choice *c)
{
    struct technique_values *slots[RUN_TECHNIQUE_SETS];
    const int n = technique_slots(form, s, slots);
    bool plain = true;

    for (int i = 0; techniques[i]; i++) {
        plain &= c->way[i] == OPTIMIZE_OFF;
        for (int k = 0; k < n && c->way[i] != OPTIMIZE_KEEP; k++)
            technique_choose(slots[k], i, c->way[i]);
    }
    if (plain && form->plain)
        form->plain(s);
}

void optimize_pin(struct optimize_question *q, const struct option_given *given, int n_given)
{
    struct technique_values *slots[RUN_TECHNIQUE_SETS];
    const int n = technique_slots(q->form, (struct spec *)q->spec, slots);

    for (int i = 0; techniques[i]; i++)
        for (int k = 0; k < n; k++)
            for (int g = 0; g < n_given; g++)
                q->pinned[i] |= given[g].values == slots[k]->slot[i];
}

struct optimize_choice optimize_keep(void)
{
    struct optimize_choice c;

    for (int i = 0; i < TECHNIQUES_MAX; i++)
        c.way[i] = OPTIMIZE_KEEP;
    return c;
}

struct optimize_choice optimize_plain(void)
{
    struct optimize_choice c;

    for (int i = 0; i < TECHNIQUES_MAX; i++)
        c.way[i] = OPTIMIZE_OFF;
    return c;
}

/* ---- cost ---- */

int optimize_plan(const struct optimize_question *q, const struct optimize_choice *c, struct plan *p, struct err *err)
{
    union spec_copy copy;
    struct spec *s = copy_spec(q, &copy);
    struct exec exec = { 0 };
    struct comm comm;

    comm_alone(&comm);
    set_choice(q->form, s, c);
    if (q->form->plan(s, q->models, q->trains, q->rank, q->ranks, &q->live, p, err) != 0)
        return -1;
    const int result = exec_prepare(&exec, p, q->backend, &comm, err);
    exec_free(&exec);
    if (result != 0)
        plan_free(p);
    return result;
}

int optimize_cost(const struct optimize_question *q, const struct optimize_choice *c, struct optimize_cost *out,
                  struct err *err)
{
    struct plan p = { 0 };

    *out = (struct optimize_cost){ 0 };
    if (optimize_plan(q, c, &p, err) != 0)
        return -1;
    out->bytes = (int64_t)p.tier_bytes[TIER_DEVICE];
    if (q->predictor) {
        const struct prediction t = predict_update(q->predictor, &p);
        out->seconds = t.seconds;
        out->communication_s = t.communication_s;
        out->joules = t.joules;
    }
    plan_free(&p);
    return 0;
}

/* ---- search ---- */

static double score(const struct optimize_cost *c, int goal)
{
    const double time = log(fmax(c->seconds, 1e-12)), memory = log((double)c->bytes);
    const double energy = log(fmax(c->joules, 1e-12));

    switch ((enum optimize_goal)goal) {
    case GOAL_SPEED:
        return time;
    case GOAL_MEMORY:
        return memory;
    case GOAL_ENERGY:
        return energy;
    default:
        return time + memory + energy;
    }
}

static enum optimize_among class_of(int i)
{
    return techniques[i]->exact ? AMONG_EXACT : techniques[i]->freezes ? AMONG_ANY : AMONG_INEXACT;
}

static bool is_allowed(const struct optimize_question *q, int i, int goal)
{
    const int among = q->spec->optimize_among;

    return (int)class_of(i) <= (goal == GOAL_ALL && among < AMONG_INEXACT ? AMONG_INEXACT : among);
}

static bool may_change(const struct optimize_question *q, int i, int goal)
{
    return !q->pinned[i] && technique_ways(i) > 0 && is_allowed(q, i, goal);
}

/* One technique another way; the best of all such choices into *best. Whether there is a better one than *best was. */
static bool improve(const struct optimize_question *q, int goal, struct optimize_choice *best,
                    struct optimize_cost *cost)
{
    const struct optimize_choice from = *best;
    const double before = score(cost, goal);
    double least = before - WORTH;

    for (int i = 0; techniques[i]; i++)
        for (int k = OPTIMIZE_OFF; k < technique_ways(i) && may_change(q, i, goal); k++) {
            struct optimize_choice other = from;
            struct optimize_cost c;
            struct err refused;
            if (k == from.way[i])
                continue;
            other.way[i] = k;
            if (optimize_cost(q, &other, &c, &refused) != 0 || score(&c, goal) >= least)
                continue;
            least = score(&c, goal);
            *best = other;
            *cost = c;
        }
    return least < before - WORTH;
}

int optimize_search(const struct optimize_question *q, int goal, struct optimize_choice *best,
                    struct optimize_cost *cost, struct err *err)
{
    *best = optimize_keep();
    if (optimize_cost(q, best, cost, err) != 0)
        return -1;
    for (int round = 0; round < MAX_ROUNDS && improve(q, goal, best, cost); round++)
        ;
    return 0;
}

void optimize_apply(const struct optimize_question *q, struct spec *spec, const struct optimize_choice *c)
{
    set_choice(q->form, spec, c);
}

/* ---- words ---- */

void optimize_say(const struct optimize_cost *with, const struct optimize_cost *without, char *out, size_t size)
{
    const double more = (double)(with->bytes - without->bytes);
    char bytes[PRINT_BYTES_MAX], times[64] = "";

    if (with->seconds > 0)
        snprintf(times, sizeof times, "%.3g times as fast, ", without->seconds / with->seconds);
    print_bytes(fabs(more), bytes);
    snprintf(out, size, "%s%s%s", times, more == 0 ? "the same memory" : bytes,
             more == 0  ? ""
             : more > 0 ? " more"
                        : " less");
}

/* The switch that saves most; -1: none does. *cost: with it. */
static int best_saving(const struct optimize_question *q, enum optimize_among kind, struct optimize_choice *c,
                       struct optimize_cost *cost)
{
    const struct optimize_choice from = *c;
    int found = -1;

    for (int i = 0; techniques[i]; i++)
        for (int k = 0; k < technique_ways(i) && class_of(i) == kind; k++) {
            struct optimize_choice other = from;
            struct optimize_cost with;
            struct err refused;
            other.way[i] = k;
            if (k == from.way[i] || optimize_cost(q, &other, &with, &refused) != 0 || with.bytes >= cost->bytes)
                continue;
            found = i;
            *c = other;
            *cost = with;
        }
    return found;
}

/* "--gradient_checkpointing (3.1 GiB less), --dtype bf16 (1.0 GiB less)". Exact techniques come first, those
 * with which other weights learn last. */
static bool gather_switches(const struct optimize_question *q, int64_t beside, int64_t limit, struct optimize_choice *c,
                            struct optimize_cost *cost, char *words, size_t size)
{
    size_t n = 0;

    words[0] = '\0';
    for (int kind = AMONG_EXACT; kind <= AMONG_ANY; kind++)
        for (int64_t before = cost->bytes; (cost->bytes + beside) * q->local_ranks > limit; before = cost->bytes) {
            char word[64], less[PRINT_BYTES_MAX];
            const int i = best_saving(q, (enum optimize_among)kind, c, cost);
            if (i < 0 || n >= size)
                break;
            n += (size_t)snprintf(words + n, size - n, "%s%s (%s less)", n ? ", " : "",
                                  technique_print(i, c->way[i], word, sizeof word),
                                  print_bytes((double)(before - cost->bytes), less));
        }
    return (cost->bytes + beside) * q->local_ranks <= limit;
}

/* The same with one row at a time. */
static bool fits_small(const struct optimize_question *q, int64_t beside, int64_t limit,
                       const struct optimize_choice *c, struct optimize_cost *cost)
{
    union spec_copy copy;
    struct optimize_question small = *q;
    struct spec *s = copy_spec(q, &copy);
    struct err ignored;

    s->train_batch = s->eval_batch = 1;
    small.spec = s;
    return optimize_cost(&small, c, cost, &ignored) == 0 && (cost->bytes + beside) * q->local_ranks <= limit;
}

void optimize_suggest(const struct optimize_question *q, int64_t beside, int64_t limit, char *out, size_t size)
{
    const char *rows = strcmp(q->spec->phase->name, "ppo") == 0 ? "--per_device_training_batch_size 1"
                                                                : "--per_device_train_batch_size 1 "
                                                                  "--per_device_eval_batch_size 1";
    struct optimize_choice c = optimize_keep();
    struct optimize_cost cost;
    char words[640], text[PRINT_BYTES_MAX];
    struct err ignored;

    if (optimize_cost(q, &c, &cost, &ignored) != 0)
        snprintf(out, size, "Use a smaller model, shorter rows or more machines.");
    else if (gather_switches(q, beside, limit, &c, &cost, words, sizeof words))
        snprintf(out, size, "%s would fit, with %s.", words,
                 print_bytes((double)((cost.bytes + beside) * q->local_ranks), text));
    else if (fits_small(q, beside, limit, &c, &cost))
        snprintf(out, size, "%s%s%s would fit, with %s.", words, words[0] ? ", " : "", rows,
                 print_bytes((double)((cost.bytes + beside) * q->local_ranks), text));
    else
        snprintf(out, size, "No switch makes it fit here: use a smaller model, shorter rows or more machines.");
}

/* ---- a run ---- */

static const char *goal_name(int goal)
{
    static const char *const names[] = { "off", "speed", "memory", "energy", "balanced", "all" };

    return names[goal];
}

static json_t *explain_on(const struct optimize_question *q, const struct optimize_choice *c,
                          const struct optimize_cost *cost)
{
    json_t *list = json_array();

    for (int i = 0; techniques[i]; i++) {
        struct optimize_choice other = *c;
        struct optimize_cost without;
        struct err refused;
        char word[64], effect[160];

        other.way[i] = OPTIMIZE_OFF;
        if (q->pinned[i] || !technique_is_on(&q->spec->techniques, i) || technique_ways(i) == 0 ||
            optimize_cost(q, &other, &without, &refused) != 0)
            continue;
        technique_print(i, c->way[i] >= 0 ? c->way[i] : 0, word, sizeof word);
        optimize_say(cost, &without, effect, sizeof effect);
        log_note("  %s is %s", word, effect);
        json_array_append_new(list, json_pack("{s:s, s:s, s:f, s:f, s:I}", "technique",
                                              technique_name(&q->spec->techniques, i), "words", word, "seconds_without",
                                              without.seconds, "joules_without", without.joules, "bytes_without",
                                              (json_int_t)without.bytes));
    }
    return list;
}

/* Why the run does not have technique i, which would do. */
static const char *why_off(const struct optimize_question *q, int i)
{
    if (q->pinned[i])
        return "it was switched off by a word";
    if (is_allowed(q, i, q->spec->optimize))
        return "nothing is gained for this goal";
    return class_of(i) == AMONG_ANY ? "other weights learn with it: --optimize_among any allows it"
                                    : "it changes the numbers: --optimize_among inexact allows it";
}

static json_t *explain_off(const struct optimize_question *q, const struct optimize_choice *c,
                           const struct optimize_cost *cost)
{
    json_t *list = json_array();

    for (int i = 0; techniques[i]; i++) {
        struct optimize_choice other = *c;
        struct optimize_cost with;
        struct err refused;
        char word[64], effect[160];

        if (technique_is_on(&q->spec->techniques, i) || technique_ways(i) == 0)
            continue;
        other.way[i] = 0;
        technique_print(i, 0, word, sizeof word);
        const bool can = optimize_cost(q, &other, &with, &refused) == 0;
        const char *why = can ? why_off(q, i) : refused.what;
        json_t *row = json_pack("{s:s, s:s, s:s}", "technique", techniques[i]->name, "words", word, "why", why);
        if (can) {
            optimize_say(&with, cost, effect, sizeof effect);
            json_object_set_new(row, "seconds_with", json_real(with.seconds));
            json_object_set_new(row, "joules_with", json_real(with.joules));
            json_object_set_new(row, "bytes_with", json_integer((json_int_t)with.bytes));
        }
        log_note("  left out: %s%s%s; %s", word, can ? ", " : "", can ? effect : "", why);
        json_array_append_new(list, row);
    }
    return list;
}

json_t *optimize_explain(const struct optimize_question *q, const struct optimize_choice *c,
                         const struct optimize_cost *cost)
{
    char memory[PRINT_BYTES_MAX];

    log_note("--optimize %s predicts %.3g s an update and %s a rank; over the run without it,",
             goal_name(q->spec->optimize), cost->seconds, print_bytes((double)cost->bytes, memory));
    json_t *on = explain_on(q, c, cost);
    return json_pack("{s:o, s:o}", "on", on, "left_out", explain_off(q, c, cost));
}

static int tell(struct run *r, const struct optimize_question *q, const struct optimize_choice *c,
                const struct optimize_cost *cost, const char *machine)
{
    json_t *told = optimize_explain(q, c, cost);

    json_decref(r->optimized);
    r->optimized =
        json_pack("{s:s, s:s, s:f, s:f, s:I, s:O, s:O}", "goal", goal_name(r->spec->optimize), "machine", machine,
                  "seconds", cost->seconds, "joules", cost->joules, "bytes", (json_int_t)cost->bytes, "techniques",
                  json_object_get(told, "on"), "left_out", json_object_get(told, "left_out"));
    json_decref(told);
    return 0;
}

static int decide(struct run *r, const struct optimize_question *asked, struct optimize_choice *best, struct err *err)
{
    struct optimize_question q = *asked;
    struct predictor predictor;
    struct backend backend;
    struct profile machine;
    struct optimize_cost cost;

    if (calibrate_local_or_assumed(&machine, err) != 0)
        return -1;
    if (backend_open(&backend, spec_backend_name(r->spec), setup_threads(r->spec, r->comm.local_ranks), err) != 0) {
        profile_free(&machine);
        return -1;
    }
    int result = predict_open(&predictor, &machine, r->comm.ranks, r->comm.local_ranks, backend.threads, err);
    q.predictor = &predictor;
    q.backend = &backend;
    if (result == 0)
        result = optimize_search(&q, r->spec->optimize, best, &cost, err);
    if (result == 0) {
        optimize_apply(&q, r->request.spec, best);
        result = tell(r, &q, best, &cost, machine.describe);
    }
    predict_close(&predictor);
    backend.close(&backend);
    profile_free(&machine);
    return result;
}

int optimize_run(struct run *r, struct err *err)
{
    struct optimize_choice best = optimize_keep();
    struct optimize_question q = { .form = r->form,
                                   .spec = r->spec,
                                   .models = r->models,
                                   .trains = r->trains,
                                   .rank = r->comm.rank,
                                   .ranks = r->comm.ranks,
                                   .local_ranks = r->comm.local_ranks,
                                   .live = r->live };
    int result = 0;

    optimize_pin(&q, r->request.given, r->request.n_given);
    if (r->comm.rank == 0)
        result = decide(r, &q, &best, err);
    if (comm_agree(&r->comm, result, err) != 0 ||
        (r->comm.ranks > 1 && r->comm.broadcast(&r->comm, &best, (int64_t)sizeof best, err) != 0))
        return -1;
    if (r->comm.rank > 0)
        optimize_apply(&q, r->request.spec, &best);
    for (int i = 0; techniques[i]; i++)
        r->was_optimized[i] = best.way[i] != OPTIMIZE_KEEP;
    return 0;
}
