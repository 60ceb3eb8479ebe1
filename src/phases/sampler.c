/* One pass finds the largest logit and anything that is no number. Plain sampling is then one pass of weights. Top-k and top-p
 * look at a histogram of the logits for the few that may be kept, and take these from a heap of keys, logit above id, as long
 * as they are: no vocabulary is ever sorted. */
#include "phases/sampler.h"

#include <float.h>
#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/mem.h"
#include "base/rng.h"

#define SUM_BLOCK 256 /* floats summed as floats, the blocks' sums as doubles */
#define BINS 512 /* of a histogram: eight for each factor e of a weight */

static int check_options(const struct sampler_options *o, int64_t V, struct err *err)
{
    if (V < 1 || V > INT32_MAX)
        return err_set(err, ERR_USAGE, "a vocabulary of %" PRId64 " ids cannot be sampled from", V);
    if (!(o->temperature >= 0 && o->temperature <= 1e6))
        return err_set(err, ERR_USAGE, "the temperature is %g, it must be 0 (greedy) or more", o->temperature);
    if (o->top_k < 0)
        return err_set(err, ERR_USAGE, "top_k is %" PRId64 ", it must be 0 (all) or more", o->top_k);
    if (!(o->top_p > 0 && o->top_p <= 1))
        return err_set(err, ERR_USAGE, "top_p is %g, it must be above 0 and at most 1", o->top_p);
    return 0;
}

int sampler_init(struct sampler *out, const struct sampler_options *o, int64_t V, struct err *err)
{
    struct sampler s = { .options = *o, .V = V };

    *out = (struct sampler){ 0 };
    if (check_options(o, V, err) != 0)
        return -1;
    s.weights = mem_array(V, 1, sizeof *s.weights, MEM_BATCH, err);
    s.keys = mem_array(V, 1, sizeof *s.keys, MEM_BATCH, err);
    if (!s.weights || !s.keys) {
        sampler_free(&s);
        return -1;
    }
    *out = s;
    return 0;
}

void sampler_free(struct sampler *s)
{
    mem_free(s->weights);
    mem_free(s->keys);
    *s = (struct sampler){ 0 };
}

double sampler_uniform(uint64_t seed, int64_t row, int64_t position)
{
    const uint64_t r = (uint64_t)row;
    const struct rng_block b = rng_philox((uint32_t)seed, (uint32_t)(seed >> 32), (uint32_t)position, (uint32_t)r,
                                          RNG_SAMPLE, (uint32_t)(r >> 32));

    return (double)((uint64_t)b.v[0] << 21 ^ b.v[1] >> 11) * 0x1p-53;
}

static int not_finite(const float *logits, int64_t V, int64_t row, int64_t position, struct err *err)
{
    int64_t id = 0;

    while (id < V - 1 && fabsf(logits[id]) <= FLT_MAX)
        id++;
    err_set(err, ERR_RUN, "the tensor \"logits\" holds %g", (double)logits[id]);
    err_where(err, "id %" PRId64 ", row %" PRId64 ", new token %" PRId64, id, row, position);
    return err_hint(err, "The model's weights have diverged, or its type has too small a range: try --dtype fp32.");
}

/* The largest of logits[first .. end) and of start; *finite becomes false for a NaN or infinity. */
static float largest(const float *logits, int64_t first, int64_t end, float start, bool *finite)
{
    float top = start;
    int bad = 0;

#pragma omp simd reduction(max : top) reduction(| : bad)
    for (int64_t i = first; i < end; i++) {
        top = logits[i] > top ? logits[i] : top;
        bad |= !(fabsf(logits[i]) <= FLT_MAX);
    }
    *finite = *finite && !bad;
    return top;
}

static int32_t first_equal(const float *logits, float top, int32_t forbidden)
{
    int32_t id = 0;

    while (logits[id] != top || id == forbidden)
        id++;
    return id;
}

/* Finite, so that the largest logit's weight stays 1 at any temperature. */
static float scale_of(const struct sampler *s)
{
    return (float)fmin(1 / s->options.temperature, 1e30);
}

/* exp(x) of x <= 0, within 2e-7 of itself, 0 below e^-87 (and 1 above 0, where only a forbidden id's may be). Free of branches
 * and calls, so that loops over it are vector code. x = n ln 2 + r, and a polynomial of r (Cephes's expf). */
static inline float exp_of(float x)
{
    static const float to_integer = 12582912; /* 1.5 * 2^23: adding it rounds */
    const float bounded = x > -87 ? (x < 0 ? x : 0) : -87;
    const float n = (bounded * 1.44269504f + to_integer) - to_integer;
    const float r = (bounded - n * 0.693359375f) + n * 2.12194440e-4f;
    const int32_t bits = ((int32_t)n + 127) * (1 << 23);
    float p = 1.9875691500e-4f, power;

    p = p * r + 1.3981999507e-3f;
    p = p * r + 8.3334519073e-3f;
    p = p * r + 4.1665795894e-2f;
    p = p * r + 1.6666665459e-1f;
    p = p * r + 5.0000001201e-1f;
    memcpy(&power, &bits, sizeof power);
    return x > -87 ? (p * r * r + r + 1) * power : 0;
}

/* weights[i] = exp((logits[i] - top) / temperature), 0 for the forbidden one. */
static void fill_weights(struct sampler *s, const float *logits, float top, int32_t forbidden)
{
    const float scale = scale_of(s);

    for (int64_t i = 0; i < s->V; i++)
        s->weights[i] = exp_of((logits[i] - top) * scale);
    if (forbidden >= 0 && forbidden < s->V)
        s->weights[forbidden] = 0;
}

static double block_sum(const float *weights, int64_t n)
{
    float sum = 0;

#pragma omp simd reduction(+ : sum)
    for (int64_t i = 0; i < n; i++)
        sum += weights[i];
    return (double)sum;
}

static int64_t block_at(int64_t first, int64_t n)
{
    return n - first < SUM_BLOCK ? n - first : SUM_BLOCK;
}

static double sum_weights(const float *weights, int64_t n)
{
    double sum = 0;

    for (int64_t i = 0; i < n; i += SUM_BLOCK)
        sum += block_sum(weights + i, block_at(i, n));
    return sum;
}

/* The index at which the running sum of the weights passes u of the whole: block by block, then one by one. A weight of zero
 * is never chosen, also where rounding leaves something over at the end. */
static int64_t pick_weight(const float *weights, int64_t n, double u)
{
    const double target = u * sum_weights(weights, n);
    double before = 0;
    int64_t first = 0, chosen = -1;

    for (; first < n; first += SUM_BLOCK) {
        const double sum = block_sum(weights + first, block_at(first, n));
        if (before + sum > target)
            break;
        before += sum;
    }
    for (int64_t i = first; i < n; i++) {
        if (weights[i] > 0)
            chosen = i;
        before += (double)weights[i];
        if (before > target && chosen >= 0)
            return chosen;
    }
    for (int64_t i = n - 1; chosen < 0; i--)
        if (weights[i] > 0)
            chosen = i;
    return chosen;
}

/* Larger logits have larger keys; of equal ones, lower ids. */
static uint64_t key_of(float logit, int64_t id)
{
    const float x = logit + 0.0f; /* -0 becomes 0 */
    uint32_t bits;

    memcpy(&bits, &x, sizeof bits);
    bits ^= bits >> 31 ? UINT32_MAX : 0x80000000u;
    return (uint64_t)bits << 32 | (UINT32_MAX - (uint32_t)id);
}

static int32_t id_of(uint64_t key)
{
    return (int32_t)(UINT32_MAX - (uint32_t)key);
}

static void sift_down(uint64_t *heap, int64_t n, int64_t at)
{
    const uint64_t key = heap[at];

    for (int64_t child; (child = 2 * at + 1) < n; at = child) {
        if (child + 1 < n && heap[child + 1] > heap[child])
            child++;
        if (heap[child] < key)
            break;
        heap[at] = heap[child];
    }
    heap[at] = key;
}

/* The largest of the heap's n keys, moved behind the others. */
static uint64_t take_top(uint64_t *heap, int64_t n)
{
    const uint64_t top = heap[0];

    heap[0] = heap[n - 1];
    heap[n - 1] = top;
    sift_down(heap, n - 1, 0);
    return top;
}

/* Falls never as the logit falls. */
static int bin_of(float logit, float top, float scale)
{
    const float bin = (top - logit) * (scale * 8);

    return bin < BINS - 1 ? (int)bin : BINS - 1;
}

/* The last bin of those that hold the top_k largest logits, or without top_k the largest that reach top_p of mass. */
static int last_bin(const struct sampler *s, const float *logits, float top, int32_t forbidden, double mass)
{
    const struct sampler_options *o = &s->options;
    const float scale = scale_of(s);
    double weight[BINS] = { 0 }, sum = 0;
    int64_t n[BINS] = { 0 }, count = 0;

    for (int64_t i = 0; i < s->V; i++) {
        const int bin = i == forbidden ? BINS - 1 : bin_of(logits[i], top, scale);
        n[bin]++;
        weight[bin] += (double)s->weights[i];
    }
    for (int bin = 0; bin < BINS - 1; bin++) {
        count += n[bin];
        sum += weight[bin];
        if (o->top_k > 0 ? count >= o->top_k : sum >= o->top_p * mass)
            return bin;
    }
    return BINS - 1;
}

/* A heap of the keys of the logits in these bins; returns how many. */
static int64_t fill_heap(struct sampler *s, const float *logits, float top, int32_t forbidden, int last)
{
    const float scale = scale_of(s);
    int64_t n = 0;

    for (int64_t i = 0; i < s->V; i++)
        if (i != forbidden && bin_of(logits[i], top, scale) <= last)
            s->keys[n++] = key_of(logits[i], i);
    for (int64_t i = n / 2 - 1; i >= 0; i--)
        sift_down(s->keys, n, i);
    return n;
}

/* How many of the n_kept largest weights, in falling order, make up top_p of `mass`. */
static int64_t cut_top_p(const float *weights, int64_t n_kept, double mass, double top_p)
{
    double sum = 0;
    int64_t n = 0;

    while (n < n_kept && (n == 0 || sum < top_p * mass))
        sum += (double)weights[n++];
    return n;
}

/* Takes from the heap of n the top_k largest, or without top_k as many as reach top_p of mass; then s->weights[i] is the weight
 * of the i-th largest, and its key lies at keys[n-1-i]. Returns how many are kept. */
static int64_t keep_largest(struct sampler *s, const float *logits, float top, int64_t n, double mass)
{
    const struct sampler_options *o = &s->options;
    const int64_t most = o->top_k > 0 && o->top_k < n ? o->top_k : n;
    const float scale = scale_of(s);
    int64_t n_kept = 0;
    double sum = 0;

    while (n_kept < most && (o->top_k > 0 || n_kept == 0 || sum < o->top_p * mass)) {
        const float logit = logits[id_of(take_top(s->keys, n - n_kept))];
        s->weights[n_kept] = exp_of((logit - top) * scale);
        sum += (double)s->weights[n_kept++];
    }
    return o->top_k > 0 ? cut_top_p(s->weights, n_kept, sum, o->top_p) : n_kept;
}

static int32_t draw(struct sampler *s, const float *logits, float top, int32_t forbidden, double u)
{
    const struct sampler_options *o = &s->options;

    fill_weights(s, logits, top, forbidden);
    if (o->top_p >= 1 && (o->top_k == 0 || o->top_k >= s->V))
        return (int32_t)pick_weight(s->weights, s->V, u);
    const double mass = sum_weights(s->weights, s->V);
    const int last = last_bin(s, logits, top, forbidden, mass);
    const int64_t n = fill_heap(s, logits, top, forbidden, last);
    const int64_t n_kept = keep_largest(s, logits, top, n, mass);
    return id_of(s->keys[n - 1 - pick_weight(s->weights, n_kept, u)]);
}

int sampler_pick(struct sampler *s, const float *logits, int64_t row, int64_t position, int32_t forbidden, int32_t *id,
                 struct err *err)
{
    const int64_t hole = forbidden >= 0 && forbidden < s->V ? forbidden : s->V;
    bool finite = true;

    MUST(s->V > 1 || hole == s->V);
    float top = largest(logits, 0, hole, -FLT_MAX, &finite);
    top = largest(logits, hole + 1, s->V, top, &finite);
    if (!finite)
        return not_finite(logits, s->V, row, position, err);
    if (s->options.temperature <= 0 || s->options.top_k == 1)
        *id = first_equal(logits, top, forbidden);
    else
        *id = draw(s, logits, top, forbidden, sampler_uniform(s->options.seed, row, position));
    return 0;
}

void sampler_describe(const float *logits, int64_t V, int32_t id, float *logprob, float *entropy)
{
    bool finite = true;
    const float top = largest(logits, 0, V, -FLT_MAX, &finite);
    double sum = 0, weighted = 0;

    for (int64_t first = 0; first < V; first += SUM_BLOCK) {
        const int64_t end = first + block_at(first, V);
        float block = 0, block_weighted = 0;
#pragma omp simd reduction(+ : block, block_weighted)
        for (int64_t i = first; i < end; i++) {
            const float x = logits[i] - top, weight = exp_of(x);
            block += weight;
            block_weighted += weight > 0 ? weight * x : 0; /* x may be -infinity */
        }
        sum += (double)block;
        weighted += (double)block_weighted;
    }
    *logprob = (float)((double)(logits[id] - top) - log(sum));
    *entropy = (float)(log(sum) - weighted / sum);
}
