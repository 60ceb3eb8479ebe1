/* What is compared with what is decided here, from lengths (or ids, for deepspeed-chat), and handed to the op as positions. */
#include "phases/reward.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "graph/live.h"

static int add_scores(struct graph *g, const struct opt_shape *o, const struct extents *x)
{
    head_value_param(g, o);
    return head_value(g, opt_trunk(g, o, x));
}

static int add_loss(struct graph *g, const struct opt_shape *o, const struct extents *x)
{
    return head_pair_loss(g, x, add_scores(g, o, x));
}

static const struct phase_program programs[] = {
    { "", "train", true, EXTENTS_TRAIN, add_loss },
    { "", "eval", false, EXTENTS_EVAL, add_loss },
    { "", "score", false, EXTENTS_SCORE, add_scores },
    { 0 },
};

void reward_init(struct reward *r, struct exec *e, const struct reward_options *o)
{
    *r = (struct reward){
        .options = *o,
        .score = plan_find_program(e->plan, "", "score"),
        .pairs = step_buffer(e, "pairs"),
        .scores = exec_buffer(e, "scores"),
    };
    step_init(&r->step, e);
}

/* The first position, of at most n, in which two texts differ; n if they do not. */
static int64_t first_difference(const int32_t *a, const int32_t *b, int64_t n)
{
    int64_t t = 0;

    while (t < n && a[t] == b[t])
        t++;
    return t;
}

/* Rows begin at spans[0] and end before spans[1]. */
static struct reward_pair pair_by_length(enum reward_loss loss, const int32_t *chosen, const int32_t *chosen_span,
                                         const int32_t *rejected, const int32_t *rejected_span)
{
    const int64_t n_chosen = chosen_span[1] - chosen_span[0], n_rejected = rejected_span[1] - rejected_span[0];
    const int64_t shorter = n_chosen < n_rejected ? n_chosen : n_rejected, longer = n_chosen + n_rejected - shorter;
    const int64_t same = first_difference(chosen + chosen_span[0], rejected + rejected_span[0], shorter);
    struct reward_pair p = { .chosen_end = chosen_span[1] - 1,
                             .rejected_end = rejected_span[1] - 1,
                             .equal = same == longer };
    const bool end = loss == REWARD_END;

    p.compared[PAIR_CHOSEN_BEGIN] = (int32_t)(end ? p.chosen_end : chosen_span[0] + same);
    p.compared[PAIR_REJECTED_BEGIN] = (int32_t)(end ? p.rejected_end : rejected_span[0] + same);
    p.compared[PAIR_TERMS] = (int32_t)(end && !p.equal ? 1 : longer - same);
    p.compared[PAIR_CHOSEN_LAST] = (int32_t)p.chosen_end;
    p.compared[PAIR_REJECTED_LAST] = (int32_t)p.rejected_end;
    return p;
}

static int64_t inferred_end(const struct reward_options *o, const int32_t *row, int64_t T)
{
    int64_t seen = 0;

    for (int64_t t = 0; t < T; t++)
        if (row[t] == o->pad && seen++ == o->num_padding_at_beginning)
            return t;
    return T;
}

/* DeepSpeed-Chat's reward_model.py, whose c_ind, r_ind, divergence_ind and end_ind these are. */
static struct reward_pair pair_by_ids(const struct reward_options *o, const int32_t *chosen, const int32_t *rejected,
                                      int64_t T)
{
    const int64_t differ = first_difference(chosen, rejected, T), chosen_end = inferred_end(o, chosen, T);
    const bool equal = differ == T;
    const int64_t rejected_end = equal ? chosen_end : inferred_end(o, rejected, T);
    const int64_t begin = equal ? T - 1 : differ;
    const int64_t end = equal ? T : chosen_end > rejected_end ? chosen_end : rejected_end;

    return (struct reward_pair){
        .compared = { [PAIR_CHOSEN_BEGIN] = (int32_t)begin,
                      [PAIR_REJECTED_BEGIN] = (int32_t)begin,
                      [PAIR_TERMS] = (int32_t)(end > begin ? end - begin : 0),
                      [PAIR_CHOSEN_LAST] = (int32_t)T - 1,
                      [PAIR_REJECTED_LAST] = (int32_t)T - 1 },
        .chosen_end = chosen_end - 1,
        .rejected_end = rejected_end - 1,
        .equal = equal || end <= begin,
    };
}

int reward_pair_of(const struct reward_options *o, const struct batch *b, int64_t p, struct reward_pair *out,
                   struct err *err)
{
    const int64_t q = b->B / 2 + p;
    const int32_t *chosen = b->ids + p * b->T, *rejected = b->ids + q * b->T;

    if (o->loss != REWARD_DEEPSPEED_CHAT) {
        *out = pair_by_length(o->loss, chosen, b->spans + 2 * p, rejected, b->spans + 2 * q);
        return 0;
    }
    *out = pair_by_ids(o, chosen, rejected, b->T);
    if (out->compared[PAIR_CHOSEN_BEGIN] > 0 && out->chosen_end >= 0 && out->rejected_end >= 0)
        return 0;
    err_set(err, ERR_INPUT,
            "pair %" PRId64 " of the batch has no common beginning that is longer than %" PRId64 " of the id %" PRId32,
            p + 1, o->num_padding_at_beginning, o->pad);
    return err_hint(err, "Check --num_padding_at_beginning (1 for OPT), or use --reward_loss masked.");
}

static int set_inputs(struct reward *r, const struct batch *b, struct run_context *c, struct err *err)
{
    step_set(&r->step, b, c);
    for (int64_t p = 0; p < b->B / 2; p++) {
        struct reward_pair pair;

        if (reward_pair_of(&r->options, b, p, &pair, err) != 0)
            return -1;
        memcpy(r->pairs + PAIR_N * p, pair.compared, sizeof pair.compared);
    }
    return 0;
}

int reward_micro_step(struct reward *r, const struct batch *b, struct run_context *c, double *loss, struct err *err)
{
    return set_inputs(r, b, c, err) != 0 ? -1 : step_train(&r->step, b->B / 2, c, loss, err);
}

int reward_eval_step(struct reward *r, const struct batch *b, struct run_context *c, double *loss, struct err *err)
{
    return set_inputs(r, b, c, err) != 0 ? -1 : step_eval(&r->step, b->B / 2, c, loss, err);
}

void reward_count(const struct reward *r, const struct batch *b, double loss, struct reward_sums *sums)
{
    const int64_t n = b->B / 2;

    for (int64_t p = 0; p < n; p++) {
        struct reward_pair pair;
        struct err err = { 0 };

        MUST(reward_pair_of(&r->options, b, p, &pair, &err) == 0); /* the step has seen it */
        const float chosen = r->scores[p * b->T + pair.chosen_end];
        const float rejected = r->scores[(n + p) * b->T + pair.rejected_end];
        sums->correct += chosen > rejected && !pair.equal; /* equal texts may differ by a rounding */
        sums->equal += pair.equal;
        sums->chosen += (double)chosen;
        sums->rejected += (double)rejected;
    }
    sums->pairs += n;
    sums->loss += loss * (double)n;
}

int reward_score(struct reward *r, const struct batch *b, struct run_context *c, double *scores, struct err *err)
{
    step_set(&r->step, b, c);
    if (exec_run(r->step.exec, r->score, c, err) != 0)
        return -1;
    for (int64_t row = 0; row < b->B; row++) {
        scores[row] = (double)r->scores[row * b->T + b->spans[2 * row + 1] - 1];
        if (!isfinite(scores[row])) {
            err_set(err, ERR_RUN, "the score is %g", scores[row]);
            return err_where(err, "row %" PRId64 " of the batch", row + 1);
        }
    }
    return 0;
}

/* ---- as run/ drives it ---- */

struct words {
    int loss; /* 0: as the convention says, else 1 + enum reward_loss */
    int64_t num_padding_at_beginning;
};

static const struct option options[] = {
    { .name = "reward_loss",
      .type = OPTION_CHOICE,
      .offset = offsetof(struct words, loss),
      .fallback = "auto",
      .choices = "auto|" REWARD_LOSS_NAMES,
      .help =
          "scores that a pair compares: where texts differ, up to their ends; DeepSpeed-Chat's, with those at padding; "
          "the last ones. auto: masked, or as --convention says" },
    { .name = "num_padding_at_beginning",
      .type = OPTION_INT,
      .offset = offsetof(struct words, num_padding_at_beginning),
      .fallback = "1",
      .min = 0,
      .max = 1 << 20,
      .value = "N",
      .help = "for deepspeed-chat: end ids that stand before a text; OPT has one" },
    { 0 },
};

struct state {
    struct reward reward;
    bool by_batch; /* DeepSpeed-Chat's means are over batches, however many pairs each has */
};

static struct reward_options options_of(const void *given, const struct phase_facts *f)
{
    const struct words *w = given;
    const enum reward_loss by_convention = f->reference ? REWARD_DEEPSPEED_CHAT : REWARD_MASKED;

    return (struct reward_options){ .loss = w->loss == 0 ? by_convention : (enum reward_loss)(w->loss - 1),
                                    .pad = f->pad,
                                    .num_padding_at_beginning = w->num_padding_at_beginning };
}

static int live(const void *given, const struct phase_facts *f, const struct batch *b, int64_t n[2], struct err *err)
{
    const struct reward_options o = options_of(given, f);
    const int64_t Q = b->B / 2;

    n[0] = n[1] = 0;
    for (int64_t p = 0; p < Q; p++) {
        struct reward_pair pair;
        if (reward_pair_of(&o, b, p, &pair, err) != 0)
            return -1;
        const struct live_inputs chosen = {
            .span = b->spans + 2 * p, .pair = pair.compared, .chosen = true, .T = b->T
        };
        const struct live_inputs rejected = { .span = b->spans + 2 * (Q + p), .pair = pair.compared, .T = b->T };
        n[0] += live_end(&chosen) + live_end(&rejected);
        n[1] -= live_shared(&chosen, b->ids + p * b->T, &rejected, b->ids + (Q + p) * b->T);
    }
    n[1] += n[0];
    return 0;
}

static void open_state(void *state, struct exec *e, const void *given, const struct phase_facts *f)
{
    const struct reward_options o = options_of(given, f);
    struct state *s = state;

    reward_init(&s->reward, e, &o);
    s->by_batch = f->reference;
}

enum { LOSS, ACCURACY, CHOSEN_MEAN, REJECTED_MEAN, N_MEANS, MARGIN = N_MEANS };

static void add_means(const struct reward *r, const struct batch *b, double loss, bool by_batch,
                      struct phase_mean *means)
{
    struct reward_sums sums = { 0 };

    reward_count(r, b, loss, &sums);
    const double n = (double)sums.pairs, weight = by_batch ? 1 : n;
    const double of_pairs[N_MEANS] = { sums.loss, (double)sums.correct, sums.chosen, sums.rejected };
    for (int i = 0; i < N_MEANS; i++) {
        const double w = i == ACCURACY ? n : weight; /* a share of pairs in both */
        means[i].sum += of_pairs[i] / n * w;
        means[i].weight += w;
    }
}

static int micro_step(void *state, const struct batch *b, struct run_context *c, struct phase_mean *means,
                      struct err *err)
{
    struct state *s = state;
    double loss;

    if (reward_micro_step(&s->reward, b, c, &loss, err) != 0)
        return -1;
    add_means(&s->reward, b, loss, true, means); /* what is learned from is the mean of micro-batches */
    return 0;
}

static int eval_step(void *state, const struct batch *b, struct run_context *c, struct phase_mean *means,
                     struct err *err)
{
    struct state *s = state;
    double loss;

    if (reward_eval_step(&s->reward, b, c, &loss, err) != 0)
        return -1;
    add_means(&s->reward, b, loss, s->by_batch, means);
    return 0;
}

static void derive(double *metrics)
{
    metrics[MARGIN] = metrics[CHOSEN_MEAN] - metrics[REJECTED_MEAN];
}

static const struct phase_metric metrics[] = {
    [LOSS] = { "loss", "loss", TOLD_ALWAYS },
    [ACCURACY] = { "accuracy", "accuracy", TOLD_ALWAYS },
    [CHOSEN_MEAN] = { "chosen_mean", "chosen mean", TOLD_ALWAYS },
    [REJECTED_MEAN] = { "rejected_mean", "rejected mean", TOLD_ALWAYS },
    [MARGIN] = { "margin", "margin", TOLD_ALWAYS },
    { 0 },
};

const struct phase phase_reward = {
    .name = "reward",
    .programs = programs,
    .number = 2,
    .samples = SAMPLE_PAIR,
    .value_head = true,
    .learning_rate = "5e-5",
    .options = options,
    .options_bytes = sizeof(struct words),
    .metrics = metrics,
    .n_means = N_MEANS,
    .derive = derive,
    .live = live,
    .state_bytes = sizeof(struct state),
    .open = open_state,
    .micro_step = micro_step,
    .eval_step = eval_step,
};
