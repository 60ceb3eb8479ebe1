/* One struct says where a row's actions begin and end; once it is filled, both conventions are the same arithmetic. */
#include "phases/ppo_math.h"

#include <math.h>

struct ppo_row ppo_math_row(enum ppo_convention c, int64_t at, int64_t n_prompt, int64_t n_answer, bool ended)
{
    const bool reference = c == PPO_DEEPSPEED_CHAT;
    const int64_t begin = at + n_prompt - 1, steps_end = begin + n_answer + (ended ? 1 : 0);

    return (struct ppo_row){
        .keys_begin = at + (reference ? 1 : 0),
        .keys_end = reference ? begin + 1 + n_answer : steps_end + 1,
        .begin = begin,
        .actions_end = reference ? begin + n_answer : steps_end,
        .end = steps_end,
        .score_at = begin + n_answer,
        .n_answer = n_answer,
        .ended = ended,
        .kept = reference ? n_answer >= 2 : steps_end > begin,
    };
}

struct ppo_row ppo_math_no_row(void)
{
    return (struct ppo_row){ .n_answer = -1 };
}

void ppo_math_inputs(const struct ppo_row *r, int64_t T, int32_t *positions, int32_t span[2])
{
    for (int64_t t = 0; t < T; t++)
        positions[t] = t >= r->keys_begin && t < r->keys_end ? (int32_t)(t - r->keys_begin + 2) : 1;
    span[0] = (int32_t)r->keys_begin;
    span[1] = (int32_t)r->keys_end;
}

void ppo_math_targets(const struct ppo_row *r, int64_t end, const int32_t *ids, int64_t T, int32_t *targets)
{
    for (int64_t t = 0; t < T; t++)
        targets[t] = r->kept && t >= r->begin && t < end ? ids[t + 1] : PPO_NO_TARGET;
}

static double clip(double x, double low, double high)
{
    return x < low ? low : x > high ? high : x;
}

static void reward_row(const struct ppo_options *o, const struct ppo_steps *s, int64_t b)
{
    const struct ppo_row *r = &s->rows[b];
    const double missing = r->ended ? 0 : o->missing_end_penalty, limit = o->reward_clip;
    const double score = (double)s->scores[b] - o->reward_center - missing;

    for (int64_t t = 0; t < s->T; t++) {
        const int64_t i = b * s->T + t;
        double reward = -o->kl_coef * ((double)s->logp[i] - (double)s->ref_logp[i]);
        if (t == r->end - 1)
            reward += limit > 0 ? clip(score, -limit, limit) : score;
        s->rewards[i] = t < r->end ? (float)reward : 0;
        if (t >= r->end)
            s->values[i] = 0;
    }
}

/* delta_t = r_t + gamma V_{t+1} - V_t; A_t = delta_t + gamma lambda A_{t+1}; nothing lies past the end. */
static void advantage_row(const struct ppo_options *o, const struct ppo_steps *s, int64_t b)
{
    const struct ppo_row *r = &s->rows[b];
    double advantage = 0, next_value = 0;

    for (int64_t t = s->T - 1; t >= 0; t--) {
        const int64_t i = b * s->T + t;
        s->advantages[i] = s->returns[i] = 0;
        if (t < r->begin || t >= r->end)
            continue;
        const double value = (double)s->values[i];
        advantage = (double)s->rewards[i] + o->gamma * next_value - value + o->gamma * o->lambda * advantage;
        next_value = value;
        s->advantages[i] = (float)advantage;
        s->returns[i] = (float)(advantage + value);
    }
}

void ppo_math_advantages(const struct ppo_options *o, struct ppo_steps *s)
{
    for (int64_t b = 0; b < s->B; b++) {
        reward_row(o, s, b);
        advantage_row(o, s, b);
    }
}

static int64_t row_actions(const struct ppo_row *r)
{
    return r->kept ? r->actions_end - r->begin : 0;
}

int64_t ppo_math_actions(const struct ppo_row *rows, int64_t B)
{
    int64_t n = 0;

    for (int64_t b = 0; b < B; b++)
        n += row_actions(&rows[b]);
    return n;
}

/* Element of the k-th action of row b. */
static int64_t element(const struct ppo_steps *s, int64_t b, int64_t k)
{
    return b * s->T + s->rows[b].begin + k;
}

void ppo_math_moments(const struct ppo_steps *s, double sums[3])
{
    for (int64_t b = 0; b < s->B; b++)
        for (int64_t k = 0; k < row_actions(&s->rows[b]); k++) {
            const double a = (double)s->advantages[element(s, b, k)];
            sums[0] += 1;
            sums[1] += a;
            sums[2] += a * a;
        }
}

void ppo_math_normalize(struct ppo_steps *s, const double sums[3])
{
    const double n = fmax(sums[0], 1), mean = sums[1] / n, variance = fmax(sums[2] / n - mean * mean, 0);
    const double scale = 1 / (sqrt(variance) + 1e-8);

    for (int64_t b = 0; b < s->B; b++)
        for (int64_t k = 0; k < row_actions(&s->rows[b]); k++) {
            float *a = &s->advantages[element(s, b, k)];
            *a = (float)(((double)*a - mean) * scale);
        }
}

static void clear(float *x, int64_t n)
{
    for (int64_t i = 0; x && i < n; i++)
        x[i] = 0;
}

double ppo_math_policy_loss(const struct ppo_options *o, const struct ppo_steps *s, const float *new_logp, double n,
                            float *gradient)
{
    double sum = 0;

    clear(gradient, s->B * s->T);
    for (int64_t b = 0; b < s->B; b++)
        for (int64_t k = 0; k < row_actions(&s->rows[b]); k++) {
            const int64_t i = element(s, b, k);
            const double ratio = exp((double)new_logp[i] - (double)s->logp[i]), a = (double)s->advantages[i];
            const double free = -a * ratio, held = -a * clip(ratio, 1 - o->clip, 1 + o->clip);
            sum += fmax(free, held);
            if (gradient)
                gradient[i] = free >= held ? (float)(free / n) : 0;
        }
    return n > 0 ? sum / n : 0;
}

double ppo_math_value_loss(const struct ppo_options *o, const struct ppo_steps *s, const float *new_values, double n,
                           float *gradient)
{
    double sum = 0;

    clear(gradient, s->B * s->T);
    for (int64_t b = 0; b < s->B; b++)
        for (int64_t k = 0; k < row_actions(&s->rows[b]); k++) {
            const int64_t i = element(s, b, k);
            const double v = (double)new_values[i], old = (double)s->values[i];
            const double free = v - (double)s->returns[i];
            const double held = clip(v, old - o->value_clip, old + o->value_clip) - (double)s->returns[i];
            sum += 0.5 * fmax(free * free, held * held);
            if (gradient)
                gradient[i] = free * free >= held * held ? (float)(free / n) : 0;
        }
    return n > 0 ? sum / n : 0;
}

static void sum_row(const struct ppo_steps *s, int64_t b, struct ppo_sums *a)
{
    for (int64_t k = 0; k < row_actions(&s->rows[b]); k++) {
        const int64_t i = element(s, b, k);
        const double value = (double)s->returns[i], miss = value - (double)s->values[i];
        a->kl += (double)s->logp[i] - (double)s->ref_logp[i];
        a->returns += value;
        a->return_squares += value * value;
        a->misses += miss;
        a->miss_squares += miss * miss;
    }
    a->actions += (double)row_actions(&s->rows[b]);
}

void ppo_math_sums(const struct ppo_steps *s, struct ppo_sums *a)
{
    for (int64_t b = 0; b < s->B; b++) {
        const struct ppo_row *r = &s->rows[b];
        if (r->n_answer < 0)
            continue;
        a->empty += r->n_answer == 0;
        a->left_out += !r->kept;
        if (!r->kept)
            continue;
        a->rows++;
        a->ended += r->ended;
        a->answer_ids += (double)r->n_answer;
        a->score += (double)s->scores[b];
        a->score_squares += (double)s->scores[b] * (double)s->scores[b];
        sum_row(s, b, a);
    }
}

void ppo_math_ratios_begin(struct ppo_ratios *r)
{
    *r = (struct ppo_ratios){ .lowest = INFINITY, .highest = -INFINITY };
}

void ppo_math_ratios(const struct ppo_options *o, const struct ppo_steps *s, const float *new_logp,
                     struct ppo_ratios *a)
{
    for (int64_t b = 0; b < s->B; b++)
        for (int64_t k = 0; k < row_actions(&s->rows[b]); k++) {
            const int64_t i = element(s, b, k);
            const double ratio = exp((double)new_logp[i] - (double)s->logp[i]);
            a->actions++;
            a->clipped += ratio < 1 - o->clip || ratio > 1 + o->clip;
            a->lowest = fmin(a->lowest, ratio);
            a->highest = fmax(a->highest, ratio);
        }
}

double ppo_math_explained(const struct ppo_sums *s)
{
    const double n = fmax(s->actions, 1), mean = s->returns / n, miss = s->misses / n;
    const double variance = s->return_squares / n - mean * mean, left = s->miss_squares / n - miss * miss;

    return variance > 1e-12 ? 1 - left / variance : NAN;
}
