/* The loop of phase 3: prompts are answered, the answers are scored, actor and critic learn from them; then one small exchange
 * of what every rank must know, and the record. A step is one such iteration. */
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "data/task.h"
#include "measure/clock.h"
#include "plan/print.h"
#include "run/ppo_run.h"
#include "run/stop.h"

#define SAMPLE_BYTES 400 /* of a text that is shown */
#define EVAL_ROWS ((int64_t)1 << 40) /* held-out prompts have numbers of their own */

/* What ranks tell each other: doubles alone. */
struct together {
    struct ppo_sums sums;
    double entropy, n_entropy, known, right, tokens;
    double peak_bytes, stop;
};

/* ---- answers ---- */

/* The batch at which the batcher stands, answered; rows are added to the experience. */
static int answer(struct run *r, const struct batch *b, int64_t first_number, struct err *err)
{
    struct ppo_work *w = ppo_work_of(r);
    const struct prompts prompts = {
        .B = b->B, .P = b->T, .ids = b->ids, .begin = w->begin, .end = w->end, .rows = w->numbers
    };

    for (int64_t i = 0; i < b->B; i++) {
        w->begin[i] = b->spans[2 * i];
        w->end[i] = b->spans[2 * i + 1];
        w->numbers[i] = first_number + b->first_row + i * b->row_stride;
    }
    if (generator_run(&w->generator, &prompts, err) != 0)
        return -1;
    ppo_experience_answers(&w->answers, w->ppo.settings.math.convention, &w->generator.result, w->numbers);
    return 0;
}

/* The next batch of prompts, through all epochs. */
static int next_prompts(struct run *r, struct err *err)
{
    int more = batcher_step(&r->train, err);

    if (more == 0) {
        r->at.epoch++;
        r->at.batch = 0;
        if (batcher_epoch(&r->train, r->at.epoch, err) != 0)
            return -1;
        more = batcher_step(&r->train, err);
    }
    if (more <= 0)
        return -1;
    r->at.batch++;
    return 0;
}

static int answer_all(struct run *r, struct err *err)
{
    const int64_t rows = r->inputs.train.n + RUN_MAX_RANKS;
    struct ppo_work *w = ppo_work_of(r);

    ppo_experience_clear(&w->answers);
    for (int64_t i = 0; i < ppo_spec_rollouts(ppo_spec_of(r->spec)); i++)
        if (next_prompts(r, err) != 0 || answer(r, &r->train.batch, r->at.epoch * rows, err) != 0)
            return -1;
    return 0;
}

/* ---- what answers are worth ---- */

/* Prompt and answer of a row as text; both are the caller's to free. */
static int texts_of(const struct run *r, int64_t row, char **prompt, char **reply, struct err *err)
{
    const struct ppo_experience *x = &ppo_work_of(r)->answers;
    const int32_t *ids = &x->ids[row * x->T];
    const int64_t begin = x->rows[row].begin;
    size_t n;

    *prompt = *reply = NULL;
    if (bpe_decode(r->inputs.tokenizer, ids + 1, begin, prompt, &n, err) == 0 &&
        bpe_decode(r->inputs.tokenizer, ids + begin + 1, x->rows[row].n_answer, reply, &n, err) == 0)
        return 0;
    mem_free(*prompt);
    *prompt = NULL;
    return -1;
}

static int judge(const struct run *r, struct together *t, struct err *err)
{
    const struct ppo_experience *x = &ppo_work_of(r)->answers;

    for (int64_t row = 0; row < x->n; row++) {
        char *prompt, *reply;
        if (texts_of(r, row, &prompt, &reply, err) != 0)
            return -1;
        if (task_known(prompt)) {
            t->known++;
            t->right += task_right(prompt, reply);
        }
        mem_free(prompt);
        mem_free(reply);
        t->tokens += (double)(x->rows[row].begin + 1 + x->rows[row].n_answer);
    }
    return 0;
}

/* On one line, and harmless to a terminal. */
static void show(char *out, size_t size, char *text)
{
    for (char *c = text; *c; c++)
        if (*c == '\n')
            *c = ' ';
    log_safe(out, size, text);
}

/* One answer, so that people see what is rewarded. */
static int show_sample(const struct run *r, struct err *err)
{
    const struct ppo_experience *x = &ppo_work_of(r)->answers;
    char *prompt, *reply, asked[SAMPLE_BYTES], said[SAMPLE_BYTES];

    if (texts_of(r, 0, &prompt, &reply, err) != 0)
        return -1;
    const char *worth = !task_known(prompt) ? "" : task_right(prompt, reply) ? " (right)" : " (wrong)";
    const size_t n = strlen(prompt), most = sizeof asked / 2;
    show(asked, sizeof asked, n < most ? prompt : prompt + n - most);
    show(said, sizeof said, reply);
    log_note("step %" PRId64 ", an answer with the score %.3f%s:\n  %s%s\n  ->%s%s", r->at.n_updates,
             (double)x->scores[0], worth, n < most ? "" : "...", asked, said, x->rows[0].ended ? "" : " [cut]");
    mem_free(prompt);
    mem_free(reply);
    return 0;
}

/* Sums over the rows of this rank that are scored. */
static int add_rows(const struct run *r, struct together *t, struct err *err)
{
    const struct ppo_experience *x = &ppo_work_of(r)->answers;

    ppo_sums(x, &t->sums);
    t->entropy += x->entropy;
    t->n_entropy += x->n_entropy;
    return judge(r, t, err);
}

static double ratio(double a, double b)
{
    return b > 0 ? a / b : NAN;
}

static void metrics_of(const struct together *t, double *m)
{
    const struct ppo_sums *s = &t->sums;
    const double mean = ratio(s->score, s->rows);

    for (int i = 0; i < PHASE_MAX_METRICS; i++)
        m[i] = NAN;
    m[PPO_REWARD] = mean;
    m[PPO_REWARD_DEVIATION] = sqrt(fmax(ratio(s->score_squares, s->rows) - mean * mean, 0));
    m[PPO_TRUE_SHARE] = ratio(t->right, t->known);
    m[PPO_KL] = ratio(s->kl, s->actions);
    m[PPO_KL_ANSWER] = ratio(s->kl, s->rows);
    m[PPO_ENTROPY] = ratio(t->entropy, t->n_entropy);
    m[PPO_EXPLAINED] = ppo_math_explained(s);
    m[PPO_ANSWER_TOKENS] = ratio(s->answer_ids, s->rows);
    m[PPO_ENDED] = ratio(s->ended, s->rows);
    m[PPO_EMPTY] = s->empty;
    m[PPO_LEFT_OUT] = s->left_out;
}

static int tell_all(struct run *r, struct together *t, struct err *err)
{
    if (r->memory)
        memory_sampler_note(r->memory);
    t->peak_bytes = r->memory ? (double)memory_sampler_peak(r->memory) : NAN; /* one unknown makes the sum unknown */
    t->stop = stop_wanted() ? 1 : 0;
    if (r->comm.all_reduce(&r->comm, t, (int64_t)(sizeof *t / sizeof(double)), F64, err) != 0)
        return -1;
    r->peak_bytes = isfinite(t->peak_bytes) ? (int64_t)t->peak_bytes : -1;
    return 0;
}

/* ---- evaluation ---- */

static int stopped(struct err *err)
{
    err_set(err, ERR_STOPPED, "stopped by a signal after saving a checkpoint");
    return err_hint(err, "The same command with --resume goes on from there.");
}

/* Where in the run; what is known better goes first. */
static int failed_at(const struct run *r, const char *doing, struct err *err)
{
    const struct err known = *err;

    return err_where(err, "%s%s%s, step %" PRId64, known.where, known.where[0] ? ", " : "", doing, r->at.n_updates + 1);
}

static int evaluate_batch(struct run *r, struct together *t, struct err *err)
{
    struct ppo_work *w = ppo_work_of(r);

    ppo_experience_clear(&w->answers);
    if (answer(r, &r->eval.batch, EVAL_ROWS, err) != 0 || ppo_score(&w->ppo, &w->answers, err) != 0)
        return failed_at(r, "evaluation", err);
    return add_rows(r, t, err);
}

/* Over at most eval_batches. 1: a signal came, and there is no result. */
static int evaluate_all(struct run *r, struct err *err)
{
    const int64_t limit = r->spec->eval_batches;
    struct together t = { 0 };
    int more;

    if (batcher_epoch(&r->eval, 0, err) != 0)
        return -1;
    for (int64_t n = 0; (limit < 0 || n < limit) && (more = batcher_step(&r->eval, err)) != 0; n++) {
        double stop = stop_wanted() ? 1 : 0;
        if (more < 0 || r->comm.all_reduce(&r->comm, &stop, 1, F64, err) != 0)
            return -1;
        if (stop > 0)
            return 1;
        if (evaluate_batch(r, &t, err) != 0)
            return -1;
    }
    if (tell_all(r, &t, err) != 0)
        return -1;
    metrics_of(&t, r->evaluation);
    return 0;
}

static int evaluate(struct run *r, struct err *err)
{
    char words[512];

    if (r->inputs.eval.n == 0 || r->spec->eval_batches == 0 || r->evaluated_at == r->at.n_updates)
        return 0;
    const int result = evaluate_all(r, err);
    if (result != 0)
        return result < 0 || resume_save(r, err) != 0 ? -1 : stopped(err);
    r->evaluated_at = r->at.n_updates;
    if (r->at.n_updates == 0)
        memcpy(r->at.first_eval, r->evaluation, sizeof r->evaluation);
    log_note("step %" PRId64 ": held-out prompts: %s", r->at.n_updates,
             record_words(r->spec->phase, r->evaluation, true, ", ", words, sizeof words));
    return record_eval(r, err);
}

/* ---- an iteration ---- */

/* Rank 0 learns the extremes of all. */
static int gather_ratios(struct run *r, const struct ppo_ratios *own, struct ppo_ratios *all, struct err *err)
{
    struct ppo_ratios *each = ppo_work_of(r)->ratios;

    if (r->comm.gather_bytes(&r->comm, own, each, (int64_t)sizeof *own, err) != 0)
        return -1;
    ppo_math_ratios_begin(all);
    for (int i = 0; r->comm.rank == 0 && i < r->comm.ranks; i++) {
        all->actions += each[i].actions;
        all->clipped += each[i].clipped;
        all->lowest = fmin(all->lowest, each[i].lowest);
        all->highest = fmax(all->highest, each[i].highest);
    }
    return 0;
}

static void learned_metrics(const struct run *r, const struct ppo_learned *l, const struct ppo_ratios *ratios,
                            struct record_update *u)
{
    const double n = fmax((double)l->n_updates, 1);
    double *m = u->metrics;

    m[PPO_ACTOR_LOSS] = l->actor_loss / n;
    m[PPO_CRITIC_LOSS] = l->critic_loss / n;
    m[PPO_TEXT_LOSS] = ppo_spec_of(r->spec)->unsupervised ? l->unsupervised_loss / n : NAN;
    m[PPO_CLIP_FRACTION] = ratio(ratios->clipped, ratios->actions);
    m[PPO_RATIO_LOWEST] = ratios->lowest;
    m[PPO_RATIO_HIGHEST] = ratios->highest;
    m[PPO_CRITIC_RATE] = l->critic_rate;
    m[PPO_CRITIC_NORM] = ratio(l->critic_norm, (double)l->critic_steps);
    u->rate = l->actor_rate;
    u->grad_norm = ratio(l->actor_norm, (double)l->actor_steps);
}

static void show_progress(struct run *r, const struct record_update *u)
{
    const struct run_position *at = &r->at;
    const double *m = u->metrics,
                 left_s = at->seconds / (double)at->n_updates * (double)(r->total_updates - at->n_updates);
    char memory[PRINT_BYTES_MAX], scales[96], right[32] = "";

    if (isfinite(m[PPO_TRUE_SHARE]))
        snprintf(right, sizeof right, "  right %.3f", m[PPO_TRUE_SHARE]);
    if (stop_status_wanted())
        log_note("step %" PRId64 "/%" PRId64 ", reward %.4f, %.0f s left", at->n_updates, r->total_updates,
                 m[PPO_REWARD], left_s);
    log_progress("step %" PRId64 "/%" PRId64 "  reward %.3f%s  KL %.4f%s  %.0f ids an answer  %.2f s (answers %.2f, "
                 "scores %.2f, learning %.2f)  %s  %d:%02d left",
                 at->n_updates, r->total_updates, m[PPO_REWARD], right, m[PPO_KL],
                 record_scale_words(r, scales, sizeof scales), m[PPO_ANSWER_TOKENS], u->seconds, m[PPO_GENERATE_S],
                 m[PPO_SCORE_S], m[PPO_TRAIN_S],
                 r->peak_bytes < 0 ? "memory unknown" : print_bytes((double)r->peak_bytes, memory), (int)(left_s / 60),
                 (int)left_s % 60);
}

static void count(struct run *r, const struct record_update *u)
{
    r->at.last_loss = u->metrics[PPO_ACTOR_LOSS];
    r->at.n_tokens += u->tokens;
    r->at.seconds += u->seconds;
    if (r->at.n_updates <= r->spec->measure_warmup)
        return;
    r->steady_seconds += u->seconds;
    r->steady_tokens += u->tokens;
    r->n_steady++;
}

/* Answers, scores and learning, each with its seconds. */
static int work(struct run *r, struct ppo_learned *learned, double seconds[3], struct err *err)
{
    struct ppo_work *w = ppo_work_of(r);
    const double start_s = clock_seconds();

    if (answer_all(r, err) != 0)
        return failed_at(r, "answers", err);
    const double answered_s = clock_seconds();
    if (ppo_score(&w->ppo, &w->answers, err) != 0)
        return failed_at(r, "scores", err);
    const double scored_s = clock_seconds();
    if (ppo_update(&w->ppo, &w->answers, r->at.n_updates, learned, err) != 0)
        return failed_at(r, "learning", err);
    seconds[0] = answered_s - start_s;
    seconds[1] = scored_s - answered_s;
    seconds[2] = clock_seconds() - scored_s;
    return 0;
}

static int iteration(struct run *r, struct err *err)
{
    const int64_t samples = ppo_spec_of(r->spec)->sample_interval;
    struct ppo_learned learned = { 0 };
    struct ppo_ratios ratios = { 0 };
    struct record_update u = { 0 };
    struct together t = { 0 };
    double seconds[3] = { 0 };

    record_begin(r);
    if (work(r, &learned, seconds, err) != 0 || add_rows(r, &t, err) != 0 || tell_all(r, &t, err) != 0 ||
        gather_ratios(r, &learned.ratios, &ratios, err) != 0)
        return -1;
    r->at.n_updates++;
    metrics_of(&t, u.metrics);
    learned_metrics(r, &learned, &ratios, &u);
    for (int i = 0; i < 3; i++)
        u.metrics[PPO_GENERATE_S + i] = seconds[i];
    u.seconds = seconds[0] + seconds[1] + seconds[2];
    u.tokens = (int64_t)t.tokens;
    count(r, &u);
    show_progress(r, &u);
    if (record_update(r, &u, err) != 0 ||
        (samples > 0 && r->comm.rank == 0 && r->at.n_updates % samples == 0 && show_sample(r, err) != 0))
        return -1;
    const bool due = r->spec->save_interval > 0 && r->at.n_updates % r->spec->save_interval == 0;
    if ((due || t.stop > 0) && resume_save(r, err) != 0)
        return -1;
    return t.stop > 0 ? stopped(err) : 0;
}

static bool evaluation_is_due(const struct run *r)
{
    const int64_t interval = r->spec->eval_interval;

    return r->at.n_updates == 0 || (interval > 0 && r->at.n_updates % interval == 0);
}

static int train(struct run *r, struct err *err)
{
    if (batcher_seek(&r->train, r->at.epoch, r->at.batch, err) != 0)
        return -1;
    while (r->at.n_updates < r->total_updates)
        if ((evaluation_is_due(r) && evaluate(r, err) != 0) || iteration(r, err) != 0)
            return -1;
    if (evaluate(r, err) != 0)
        return -1;
    log_progress("%s", "");
    return 0;
}

/* ---- checkpoints ---- */

static int save_state(const struct run *r, json_t *state, struct err *err)
{
    const struct batcher *texts = ppo_work_of(r)->ppo.unsupervised;
    json_t *at = texts
                     ? json_pack("{s:I, s:I}", "epoch", (json_int_t)texts->epoch, "batch", (json_int_t)texts->next_step)
                     : json_null();

    return json_object_set_new(state, "unsupervised", at) == 0
               ? 0
               : err_set(err, ERR_MEMORY, "there is no memory for the state of the run");
}

static int load_state(struct run *r, const json_t *state, const char *path, struct err *err)
{
    struct batcher *texts = ppo_work_of(r)->ppo.unsupervised;
    const json_t *at = json_object_get(state, "unsupervised");
    int64_t epoch = 0, batch = 0;

    if (!texts)
        return 0;
    if (json_get_int(at, path, "epoch", 0, UINT32_MAX, &epoch, err) < 0 ||
        json_get_int(at, path, "batch", 0, (int64_t)1 << 53, &batch, err) < 0)
        return -1;
    return batcher_seek(texts, epoch, batch, err);
}

const struct run_form run_ppo = {
    .models = ppo_models,
    .plan = ppo_plan,
    .data = ppo_data,
    .start = ppo_start,
    .train = train,
    .save_state = save_state,
    .load_state = load_state,
    .techniques = ppo_techniques,
    .plain = ppo_plain,
    .spec_bytes = sizeof(struct ppo_spec),
    .close = ppo_close,
};
