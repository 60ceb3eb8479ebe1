/* Between the programs all is plain C on small arrays. A piece is a run of rows of the experience, cut to its longest row:
 * padding on the right is seen by nobody. */
#include "phases/ppo.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"
#include "phases/step.h"

#define ROUND_TO 8 /* columns of a piece */

/* ---- the experience ---- */

int ppo_experience_init(struct ppo_experience *out, int64_t room, int64_t T, struct err *err)
{
    struct ppo_experience x = { .room = room, .T = T };
    float **const arrays[] = { &x.logp, &x.ref_logp, &x.values, &x.rewards, &x.advantages, &x.returns, &x.new_logp };
    bool there = true;

    *out = (struct ppo_experience){ 0 };
    x.rows = mem_array(room, 1, sizeof *x.rows, MEM_BATCH, err);
    x.numbers = mem_array(room, 1, sizeof *x.numbers, MEM_BATCH, err);
    x.scores = mem_array(room, 1, sizeof *x.scores, MEM_BATCH, err);
    x.ids = mem_array(room, T, sizeof *x.ids, MEM_BATCH, err);
    for (int i = 0; i < COUNT_OF(arrays); i++) {
        *arrays[i] = mem_array(room, T, sizeof **arrays[i], MEM_BATCH, err);
        there = there && *arrays[i];
    }
    if (!there || !x.rows || !x.numbers || !x.scores || !x.ids) {
        ppo_experience_free(&x);
        return -1;
    }
    *out = x;
    return 0;
}

void ppo_experience_free(struct ppo_experience *x)
{
    void *const owned[] = { x->rows,    x->numbers, x->scores,     x->ids,      x->logp,    x->values,
                            x->rewards, x->returns, x->advantages, x->ref_logp, x->new_logp };

    for (int i = 0; i < COUNT_OF(owned); i++)
        mem_free(owned[i]);
    *x = (struct ppo_experience){ 0 };
}

void ppo_experience_clear(struct ppo_experience *x)
{
    x->n = 0;
    x->entropy = x->n_entropy = 0;
}

void ppo_experience_add(struct ppo_experience *x, enum ppo_convention c, const int32_t *ids, int64_t T, int64_t at,
                        int64_t n_prompt, int64_t n_answer, bool ended, int64_t number)
{
    const int64_t n = T < x->T ? T : x->T;

    MUST(x->n < x->room && at + n_prompt + n_answer + (ended ? 1 : 0) <= n);
    memset(&x->ids[x->n * x->T], 0, (size_t)x->T * sizeof *x->ids);
    memcpy(&x->ids[x->n * x->T], ids, (size_t)n * sizeof *ids);
    x->rows[x->n] = ppo_math_row(c, at, n_prompt, n_answer, ended);
    x->numbers[x->n++] = number;
}

void ppo_experience_answers(struct ppo_experience *x, enum ppo_convention c, const struct generated *g,
                            const int64_t *numbers)
{
    for (int64_t b = 0; b < g->B; b++) {
        const int64_t begin = g->begin[b], answer = g->prompt_end[b], end = g->end[b];
        ppo_experience_add(x, c, &g->ids[b * g->S + begin], g->S - begin, 0, answer - begin,
                           end - answer - (g->ended[b] ? 1 : 0), g->ended[b], numbers[b]);
        for (int64_t t = answer; g->entropies && t < end; t++) {
            x->entropy += (double)g->entropies[b * g->S + t];
            x->n_entropy++;
        }
    }
}

/* ---- the programs ---- */

static int add_logprob(struct graph *g, const struct opt_shape *o, const struct extents *x)
{
    return head_logprob(g, o, opt_trunk(g, o, x));
}

static int add_value(struct graph *g, const struct opt_shape *o, const struct extents *x)
{
    head_value_param(g, o);
    return head_value(g, opt_trunk(g, o, x));
}

static int add_policy_loss(struct graph *g, const struct opt_shape *o, const struct extents *x)
{
    return head_policy_loss(g, o, opt_trunk(g, o, x), PPO_CLIP);
}

static int add_value_loss(struct graph *g, const struct opt_shape *o, const struct extents *x)
{
    return head_value_loss(g, add_value(g, o, x), PPO_CLIP);
}

static int add_text_loss(struct graph *g, const struct opt_shape *o, const struct extents *x)
{
    return head_lm_loss(g, o, opt_trunk(g, o, x));
}

static const struct phase_program programs[] = {
    { "actor/", "prefill", false, EXTENTS_PREFILL, opt_prefill },
    { "actor/", "decode", false, EXTENTS_DECODE, opt_decode },
    { "actor/", "score", false, EXTENTS_SCORE, add_logprob },
    { "reference/", "score", false, EXTENTS_SCORE, add_logprob },
    { "critic/", "score", false, EXTENTS_SCORE, add_value },
    { "reward/", "score", false, EXTENTS_SCORE, add_value },
    { "actor/", "train", true, EXTENTS_TRAIN, add_policy_loss },
    { "actor/", "text", true, EXTENTS_TEXT, add_text_loss },
    { "critic/", "train", true, EXTENTS_TRAIN, add_value_loss },
    { 0 },
};

static const struct phase_metric metrics[] = {
    [PPO_ACTOR_LOSS] = { "actor_loss", "actor loss", TOLD_OF_UPDATES },
    [PPO_CRITIC_LOSS] = { "critic_loss", "critic loss", TOLD_OF_UPDATES },
    [PPO_TEXT_LOSS] = { "unsupervised_loss", "unsupervised loss", TOLD_OF_UPDATES },
    [PPO_REWARD] = { "reward", "reward", TOLD_ALWAYS },
    [PPO_REWARD_DEVIATION] = { "reward_deviation", "deviation", TOLD_ALWAYS },
    [PPO_TRUE_SHARE] = { "true_share", "right", TOLD_ALWAYS },
    [PPO_KL] = { "kl", "KL", TOLD_ALWAYS },
    [PPO_KL_ANSWER] = { "kl_answer", "KL an answer", TOLD_ALWAYS },
    [PPO_ENTROPY] = { "entropy", "entropy", TOLD_ALWAYS },
    [PPO_CLIP_FRACTION] = { "clip_fraction", "clipped", TOLD_OF_UPDATES },
    [PPO_RATIO_LOWEST] = { "ratio_lowest", "lowest ratio", TOLD_OF_UPDATES },
    [PPO_RATIO_HIGHEST] = { "ratio_highest", "highest ratio", TOLD_OF_UPDATES },
    [PPO_EXPLAINED] = { "explained_variance", "explained", TOLD_OF_UPDATES },
    [PPO_ANSWER_TOKENS] = { "answer_tokens", "ids an answer", TOLD_ALWAYS },
    [PPO_ENDED] = { "ended_share", "ended", TOLD_ALWAYS },
    [PPO_EMPTY] = { "empty_answers", "empty", TOLD_ALWAYS },
    [PPO_LEFT_OUT] = { "answers_left_out", "left out", TOLD_ALWAYS },
    [PPO_CRITIC_RATE] = { "critic_lr", "critic's rate", TOLD_OF_UPDATES },
    [PPO_CRITIC_NORM] = { "critic_grad_norm", "critic's norm", TOLD_OF_UPDATES },
    [PPO_GENERATE_S] = { "generate_seconds", "generate", TOLD_OF_UPDATES },
    [PPO_SCORE_S] = { "score_seconds", "score", TOLD_OF_UPDATES },
    [PPO_TRAIN_S] = { "train_seconds", "train", TOLD_OF_UPDATES },
    { 0 },
};

const struct phase phase_ppo = {
    .name = "ppo", .programs = programs, .number = 3, .samples = SAMPLE_PROMPT, .metrics = metrics
};

void ppo_open(struct ppo *p, struct exec *e, const struct ppo_settings *s)
{
    const struct plan *plan = e->plan;

    *p = (struct ppo){
        .settings = *s,
        .exec = e,
        .actor_score = plan_find_program(plan, "actor/", "score"),
        .reference_score = plan_find_program(plan, "reference/", "score"),
        .critic_score = plan_find_program(plan, "critic/", "score"),
        .reward_score = plan_find_program(plan, "reward/", "score"),
        .actor_train = plan_find_program(plan, "actor/", "train"),
        .critic_train = plan_find_program(plan, "critic/", "train"),
        .actor_text = plan_find_program(plan, "actor/", "text"),
        .average = plan_find_program(plan, "actor_ema/", "update"),
        .ids = exec_buffer(e, "ids"),
        .positions = exec_buffer(e, "positions"),
        .spans = exec_buffer(e, "spans"),
        .targets = exec_buffer(e, "targets"),
        .logp = exec_buffer(e, "logp"),
        .values = exec_buffer(e, "scores"),
        .norm = step_buffer(e, "norm"),
        .loss = step_buffer(e, "loss"),
        .old_logp = step_buffer(e, "old_logp"),
        .old_values = step_buffer(e, "old_values"),
        .advantages = step_buffer(e, "advantages"),
        .returns = step_buffer(e, "returns"),
    };
    p->score_B = plan->programs[p->actor_score].B;
    p->train_B = p->actor_train < 0 ? 0 : plan->programs[p->actor_train].B;
}

/* Rows first .. first + B - 1 of an experience, of which T columns are used. */
struct piece {
    struct ppo_experience *x;
    int64_t first, B, T;
};

static struct piece piece_of(const struct ppo *ppo, struct ppo_experience *x, int64_t first, int64_t most)
{
    struct piece p = { x, first, x->n - first < most ? x->n - first : most, 0 };

    for (int64_t b = 0; b < p.B; b++)
        if (x->rows[first + b].end + 1 > p.T)
            p.T = x->rows[first + b].end + 1;
    p.T = (p.T + ROUND_TO - 1) / ROUND_TO * ROUND_TO;
    if (p.T > x->T || ppo->settings.pad_to_max)
        p.T = x->T;
    return p;
}

static struct ppo_steps steps_of(const struct piece *p)
{
    struct ppo_experience *x = p->x;
    const int64_t at = p->first * x->T;

    return (struct ppo_steps){ .B = p->B,
                               .T = x->T,
                               .rows = &x->rows[p->first],
                               .logp = &x->logp[at],
                               .ref_logp = &x->ref_logp[at],
                               .scores = &x->scores[p->first],
                               .values = &x->values[at],
                               .rewards = &x->rewards[at],
                               .advantages = &x->advantages[at],
                               .returns = &x->returns[at] };
}

/* What every program is given. actions: targets of what is trained, rather than of all that has a reward. */
static void set_rows(const struct ppo *p, const struct piece *piece, bool actions)
{
    for (int64_t b = 0; b < piece->B; b++) {
        const struct ppo_row *r = &piece->x->rows[piece->first + b];
        const int32_t *ids = &piece->x->ids[(piece->first + b) * piece->x->T];
        memcpy(&p->ids[b * piece->T], ids, (size_t)piece->T * sizeof *ids);
        ppo_math_inputs(r, piece->T, &p->positions[b * piece->T], &p->spans[2 * b]);
        ppo_math_targets(r, actions ? r->actions_end : r->end, ids, piece->T, &p->targets[b * piece->T]);
    }
}

static void put(const struct piece *p, float *program, const float *experience)
{
    for (int64_t b = 0; b < p->B; b++)
        memcpy(&program[b * p->T], &experience[(p->first + b) * p->x->T], (size_t)p->T * sizeof *program);
}

static void take(const struct piece *p, const float *program, float *experience)
{
    for (int64_t b = 0; b < p->B; b++)
        memcpy(&experience[(p->first + b) * p->x->T], &program[b * p->T], (size_t)p->T * sizeof *program);
}

/* Rows are numbered so that no two runs of one row draw the same dropout: `use` is 0 for scoring, then the epochs. */
static struct run_context context_of(const struct ppo *p, const struct piece *piece, int64_t use, bool training)
{
    const int64_t *numbers = &piece->x->numbers[piece->first], uses = p->settings.epochs + 1;

    return (struct run_context){ .B = piece->B,
                                 .T = piece->T,
                                 .first_row = numbers[0] * uses + use,
                                 .row_step = piece->B > 1 ? (numbers[1] - numbers[0]) * uses : 1,
                                 .seed = p->settings.seed,
                                 .training = training };
}

/* ---- scoring ---- */

static int not_finite(const struct ppo *p, int program, int64_t row, double got, struct err *err)
{
    err_set(err, ERR_RUN, "the answers' numbers are not finite: \"%s\" gives %g", p->exec->plan->programs[program].name,
            got);
    err_where(err, "answer %" PRId64 " of this rank", row);
    return err_hint(err,
                    "Lower the learning rates, raise --kl_coef, or use --dtype fp32; the last checkpoint is kept.");
}

static int check_finite(const struct ppo *p, const struct piece *piece, int program, const float *x, struct err *err)
{
    for (int64_t b = 0; b < piece->B; b++) {
        const struct ppo_row *r = &piece->x->rows[piece->first + b];
        for (int64_t t = r->begin; t < r->end; t++)
            if (!isfinite(x[b * piece->T + t]))
                return not_finite(p, program, piece->first + b, (double)x[b * piece->T + t], err);
    }
    return 0;
}

static int score_with(const struct ppo *p, const struct piece *piece, int program, const float *got, float *into,
                      struct err *err)
{
    /* The reference scores with its learning models in training mode. */
    const bool learns = program == p->actor_score || program == p->critic_score;
    const bool training = learns && p->settings.math.convention == PPO_DEEPSPEED_CHAT;
    const struct run_context c = context_of(p, piece, 0, training);

    if (exec_run(p->exec, program, &c, err) != 0 || check_finite(p, piece, program, got, err) != 0)
        return -1;
    take(piece, got, into);
    return 0;
}

static int score_piece(const struct ppo *p, const struct piece *piece, struct err *err)
{
    struct ppo_experience *x = piece->x;

    set_rows(p, piece, false);
    p->norm[0] = p->norm[1] = 0;
    if (score_with(p, piece, p->actor_score, p->logp, x->logp, err) != 0 ||
        score_with(p, piece, p->reference_score, p->logp, x->ref_logp, err) != 0 ||
        score_with(p, piece, p->critic_score, p->values, x->values, err) != 0 ||
        score_with(p, piece, p->reward_score, p->values, x->new_logp, err) != 0)
        return -1;
    for (int64_t b = 0; b < piece->B; b++) {
        const int64_t row = piece->first + b;
        x->scores[row] = x->new_logp[row * x->T + x->rows[row].score_at];
        if (!isfinite(x->scores[row]))
            return not_finite(p, p->reward_score, row, (double)x->scores[row], err);
    }
    return 0;
}

int ppo_score(struct ppo *p, struct ppo_experience *x, struct err *err)
{
    const struct piece all = piece_of(p, x, 0, x->n);
    struct ppo_steps steps = steps_of(&all);
    struct comm *comm = p->exec->comm;
    double moments[3] = { 0 };

    for (int64_t first = 0; first < x->n; first += p->score_B) {
        const struct piece piece = piece_of(p, x, first, p->score_B);
        if (score_piece(p, &piece, err) != 0)
            return -1;
    }
    ppo_math_advantages(&p->settings.math, &steps);
    if (!p->settings.normalize)
        return 0;
    ppo_math_moments(&steps, moments);
    if (comm->all_reduce(comm, moments, 3, F64, err) != 0)
        return -1;
    ppo_math_normalize(&steps, moments);
    return 0;
}

void ppo_sums(const struct ppo_experience *x, struct ppo_sums *add_to)
{
    struct ppo_experience copy = *x;
    const struct piece all = { &copy, 0, x->n, x->T };
    const struct ppo_steps steps = steps_of(&all);

    ppo_math_sums(&steps, add_to);
}

/* ---- learning ---- */

int64_t ppo_updates(const struct ppo_settings *s, int64_t train_B, int64_t n_rows)
{
    const int64_t pieces = (n_rows + train_B - 1) / train_B;

    return s->epochs * ((pieces + s->micro_steps - 1) / s->micro_steps);
}

/* The pieces of one update, and by what their sums are divided. */
struct group {
    struct piece pieces[PPO_MAX_MICRO_STEPS];
    int n;
    double actions; /* of all of them on all ranks */
    int64_t epoch;
};

/* norm: the loss's, then the gradient's, of which share has the scale. The reference divides by the actions of each piece and
 * averages; we count every action of the update alike, whatever piece or rank it lies in. */
static void set_norm(const struct ppo *p, const struct group *g, const struct piece *piece, double share)
{
    const bool reference = p->settings.math.convention == PPO_DEEPSPEED_CHAT;
    const double own = (double)ppo_math_actions(&piece->x->rows[piece->first], piece->B);
    const double parts = (double)g->n * p->exec->comm->ranks, n = reference ? own * parts : g->actions;

    p->norm[0] = n > 0 ? (float)(1 / n) : 0;
    p->norm[1] = n > 0 ? (float)(share / n) : 0;
}

static int learn(const struct ppo *p, int program, const struct run_context *c, double *loss, struct err *err)
{
    if (exec_run(p->exec, program, c, err) != 0)
        return -1;
    *loss += (double)p->loss[0];
    if (isfinite(p->loss[0]))
        return 0;
    err_set(err, ERR_RUN, "the loss of \"%s\" is %g", p->exec->plan->programs[program].name, (double)p->loss[0]);
    return err_hint(err,
                    "Lower the learning rates, raise --kl_coef, or use --dtype fp32; the last checkpoint is kept.");
}

/* Mean loss of the next texts, times coef, in the gradients of the same update. */
static int learn_text(const struct ppo *p, const struct group *g, double share, double *loss, struct err *err)
{
    struct batcher *texts = p->unsupervised;
    int more = batcher_step(texts, err);

    if (more == 0 && batcher_epoch(texts, texts->epoch + 1, err) == 0)
        more = batcher_step(texts, err);
    if (more <= 0)
        return -1;
    const struct batch *b = &texts->batch;
    const double mean = b->n_targets > 0 ? 1.0 / (double)b->n_targets : 0;
    const double parts = (double)g->n * p->exec->comm->ranks;
    const struct run_context c = { .B = b->B,
                                   .T = b->T,
                                   .first_row = texts->epoch * texts->samples->n + b->first_row,
                                   .row_step = b->row_stride,
                                   .seed = p->settings.seed + 1,
                                   .training = true };
    memcpy(p->ids, b->ids, (size_t)(b->B * b->T) * sizeof *b->ids);
    memcpy(p->positions, b->positions, (size_t)(b->B * b->T) * sizeof *b->positions);
    memcpy(p->targets, b->targets, (size_t)(b->B * b->T) * sizeof *b->targets);
    memcpy(p->spans, b->spans, (size_t)(2 * b->B) * sizeof *b->spans);
    p->norm[0] = (float)(mean / parts);
    p->norm[1] = (float)(share * p->settings.unsupervised_coef * mean / parts);
    return learn(p, p->actor_text, &c, loss, err);
}

/* The reference counts texts as micro-batches of their own: each sort has half a share then. At the scale of the loss. */
static double actor_share(const struct ppo *p)
{
    const double share = p->unsupervised && p->settings.math.convention == PPO_DEEPSPEED_CHAT ? 0.5 : 1;

    return share * p->actor->scale.value;
}

/* Adds the norm of an update to the sum, unless it was skipped; returns whether it was made. */
static bool count_step(double norm, double *sum, int64_t *steps)
{
    if (!isfinite(norm))
        return false;
    *sum += norm;
    ++*steps;
    return true;
}

static int update_actor(struct ppo *p, const struct group *g, struct ppo_learned *out, double losses[3],
                        struct err *err)
{
    struct run_context c = { .training = true };
    double norm = 0;

    for (int i = 0; i < g->n; i++) {
        const struct piece *piece = &g->pieces[i];
        const struct ppo_steps steps = steps_of(piece);
        const int64_t at = piece->first * piece->x->T;
        set_rows(p, piece, true);
        put(piece, p->old_logp, piece->x->logp);
        put(piece, p->advantages, piece->x->advantages);
        set_norm(p, g, piece, actor_share(p));
        c = context_of(p, piece, 1 + g->epoch, true);
        c.first_micro = i == 0;
        if (learn(p, p->actor_train, &c, &losses[0], err) != 0)
            return -1;
        take(piece, p->logp, piece->x->new_logp);
        ppo_math_ratios(&p->settings.math, &steps, &piece->x->new_logp[at], &out->ratios);
        if (p->unsupervised && learn_text(p, g, actor_share(p), &losses[2], err) != 0)
            return -1;
    }
    if (trainer_step(p->actor, &c, &norm, &out->actor_rate, err) != 0)
        return -1;
    const bool moved = count_step(norm, &out->actor_norm, &out->actor_steps);
    return p->average < 0 || !moved ? 0 : exec_run(p->exec, p->average, &c, err);
}

static int update_critic(struct ppo *p, const struct group *g, struct ppo_learned *out, double losses[3],
                         struct err *err)
{
    struct run_context c = { .training = true };
    double norm = 0;

    for (int i = 0; i < g->n; i++) {
        const struct piece *piece = &g->pieces[i];
        set_rows(p, piece, true);
        put(piece, p->old_values, piece->x->values);
        put(piece, p->returns, piece->x->returns);
        set_norm(p, g, piece, p->critic->scale.value);
        c = context_of(p, piece, 1 + g->epoch, true);
        c.first_micro = i == 0;
        if (learn(p, p->critic_train, &c, &losses[1], err) != 0)
            return -1;
    }
    if (trainer_step(p->critic, &c, &norm, &out->critic_rate, err) != 0)
        return -1;
    count_step(norm, &out->critic_norm, &out->critic_steps);
    return 0;
}

static int update(struct ppo *p, struct group *g, struct ppo_learned *out, struct err *err)
{
    struct comm *comm = p->exec->comm;
    double losses[3] = { 0 };

    g->actions = 0;
    for (int i = 0; i < g->n; i++)
        g->actions += (double)ppo_math_actions(&g->pieces[i].x->rows[g->pieces[i].first], g->pieces[i].B);
    if (comm->all_reduce(comm, &g->actions, 1, F64, err) != 0 || update_actor(p, g, out, losses, err) != 0 ||
        update_critic(p, g, out, losses, err) != 0 || comm->all_reduce(comm, losses, 3, F64, err) != 0)
        return -1;
    out->n_updates++;
    out->actor_loss += losses[0];
    out->critic_loss += losses[1];
    out->unsupervised_loss += losses[2];
    return 0;
}

/* Piece number `place` of an epoch: in order the first time, mixed after. */
static void shuffle(int64_t *order, int64_t n, uint64_t seed, int64_t iteration, int64_t epoch)
{
    struct rng rng = {
        .seed = seed, .purpose = RNG_SHUFFLE, .stream = (uint32_t)iteration, .counter = (uint64_t)epoch << 32
    };

    for (int64_t i = 0; i < n; i++)
        order[i] = i;
    for (int64_t i = n - 1; epoch > 0 && i > 0; i--) {
        const int64_t j = (int64_t)rng_below(&rng, (uint32_t)i + 1), kept = order[i];
        order[i] = order[j];
        order[j] = kept;
    }
}

int ppo_update(struct ppo *p, struct ppo_experience *x, int64_t iteration, struct ppo_learned *out, struct err *err)
{
    const int64_t n = (x->n + p->train_B - 1) / p->train_B;
    int64_t *order = mem_array(n, 1, sizeof *order, MEM_BATCH, err);
    int result = order ? 0 : -1;

    *out = (struct ppo_learned){ 0 };
    ppo_math_ratios_begin(&out->ratios);
    for (int64_t epoch = 0; result == 0 && epoch < p->settings.epochs; epoch++) {
        shuffle(order, n, p->settings.seed, iteration, epoch);
        for (int64_t at = 0; result == 0 && at < n; at += p->settings.micro_steps) {
            struct group g = { .epoch = epoch };
            for (; g.n < p->settings.micro_steps && at + g.n < n; g.n++)
                g.pieces[g.n] = piece_of(p, x, order[at + g.n] * p->train_B, p->train_B);
            result = update(p, &g, out, err);
        }
    }
    mem_free(order);
    return result;
}
