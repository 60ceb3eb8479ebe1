/* Causal attention over spans of keys (Vaswani et al. 2017, arXiv:1706.03762). The flash ops differ from the others in what
 * they keep for the gradient alone: the log of the softmax's sum in place of the probabilities. */
#include "backend/ref/ref.h"

struct heads {
    struct ref_tensor q, k, v;
    const int32_t *spans;
    const struct live_row *live; /* of packed tensors, or NULL */
    int64_t B, T, H, D;
    double scale;
};

/* One query: of row b, head h, token t, and the keys that it sees. */
struct query {
    int64_t b, h, t;
    int64_t first, end;
};

static struct heads heads_of(const struct ref_call *r, int first, int spans)
{
    const int64_t H = r->attrs->heads, D = ref_in(r, first).width / H;

    return (struct heads){ .q = ref_in(r, first),
                           .k = ref_in(r, first + 1),
                           .v = ref_in(r, first + 2),
                           .spans = r->in[spans],
                           .live = kernel_is_packed(r->kernel) ? r->c->live : NULL,
                           .B = r->c->B,
                           .T = r->c->T,
                           .H = H,
                           .D = D,
                           .scale = 1 / sqrt((double)D) };
}

static int64_t at(const struct heads *a, const struct query *q, int64_t token)
{
    const int64_t n = a->live ? live_at(a->live, q->b, token) : q->b * a->T + token;

    return (n * a->H + q->h) * a->D;
}

/* The first token of row b that is its own: those before are keys of another row. */
static int64_t own_of(const struct heads *a, int64_t b)
{
    return a->live ? a->live[b].first : 0;
}

/* The tokens of row b that are worked on. */
static int64_t tokens_of(const struct heads *a, int64_t b)
{
    return a->live ? a->live[b].end : a->T;
}

/* The i-th of B*H*T queries. */
static struct query query_of(const struct heads *a, int64_t i)
{
    struct query q = { .b = i / (a->H * a->T), .h = i / a->T % a->H, .t = i % a->T };
    const int32_t *span = a->spans + 2 * q.b;

    q.first = span[0] > 0 ? span[0] : 0;
    q.end = span[1] < q.t + 1 ? span[1] : q.t + 1;
    return q;
}

static double dot(const struct heads *a, struct ref_tensor x, int64_t i, struct ref_tensor y, int64_t j)
{
    double sum = 0;

    for (int64_t d = 0; d < a->D; d++)
        sum += ref_get(x, i + d) * ref_get(y, j + d);
    return sum;
}

static double score(const struct heads *a, const struct query *q, int64_t s)
{
    return a->scale * dot(a, a->q, at(a, q, q->t), a->k, at(a, q, s));
}

/* prob[s] for every key s < T, 0 where it is not seen; returns the log of the sum, infinite when none is. */
static double softmax(const struct heads *a, const struct query *q, double *prob)
{
    double max = -INFINITY, sum = 0;

    for (int64_t s = 0; s < a->T; s++)
        prob[s] = 0;
    for (int64_t s = q->first; s < q->end; s++) {
        prob[s] = score(a, q, s);
        max = fmax(max, prob[s]);
    }
    for (int64_t s = q->first; s < q->end; s++) {
        prob[s] = exp(prob[s] - max);
        sum += prob[s];
    }
    for (int64_t s = q->first; s < q->end; s++)
        prob[s] /= sum;
    return q->first < q->end ? max + log(sum) : INFINITY;
}

static void mix(const struct heads *a, const struct query *q, const double *prob, struct ref_tensor o)
{
    for (int64_t d = 0; d < a->D; d++) {
        double sum = 0;

        for (int64_t s = q->first; s < q->end; s++)
            sum += prob[s] * ref_get(a->v, at(a, q, s) + d);
        ref_set(o, at(a, q, q->t) + d, sum);
    }
}

static int attention(const struct ref_call *r)
{
    const struct heads a = heads_of(r, 0, 3);

    for (int64_t i = 0; i < a.B * a.H * a.T; i++) {
        const struct query q = query_of(&a, i);

        if (q.t < own_of(&a, q.b) || q.t >= tokens_of(&a, q.b))
            continue;
        softmax(&a, &q, r->scratch);
        mix(&a, &q, r->scratch, ref_out(r, 0));
        for (int64_t s = 0; s < tokens_of(&a, q.b); s++)
            ref_set(ref_out(r, 1), i * a.T + s, r->scratch[s]);
    }
    return 0;
}

static int flash_attention(const struct ref_call *r)
{
    const struct heads a = heads_of(r, 0, 3);

    for (int64_t i = 0; i < a.B * a.H * a.T; i++) {
        const struct query q = query_of(&a, i);

        if (q.t < own_of(&a, q.b) || q.t >= tokens_of(&a, q.b))
            continue;
        ref_set(ref_out(r, 1), i, softmax(&a, &q, r->scratch));
        mix(&a, &q, r->scratch, ref_out(r, 0));
    }
    return 0;
}

/* Sums of one head: dk and dv [T,D] grow query by query. */
struct head_grads {
    double *dk, *dv, *prob, *dscore;
};

/* o: the stored result of flash attention, from which its gradient takes the mean (so o's rounding shows in bf16); data is
 * NULL where probabilities were stored. */
static void query_grad(const struct heads *a, const struct query *q, struct ref_tensor go, struct ref_tensor o,
                       struct ref_tensor dq, const struct head_grads *sum)
{
    const int64_t here = at(a, q, q->t);
    double mean = 0;

    for (int64_t s = q->first; s < q->end; s++) {
        sum->dscore[s] = dot(a, go, here, a->v, at(a, q, s));
        mean += sum->prob[s] * sum->dscore[s];
    }
    if (o.data)
        mean = dot(a, go, here, o, here);
    for (int64_t s = q->first; s < q->end; s++)
        sum->dscore[s] = sum->prob[s] * (sum->dscore[s] - mean) * a->scale;
    for (int64_t d = 0; d < a->D; d++) {
        double grad = 0;

        for (int64_t s = q->first; s < q->end; s++) {
            grad += sum->dscore[s] * ref_get(a->k, at(a, q, s) + d);
            sum->dk[s * a->D + d] += sum->dscore[s] * ref_get(a->q, here + d);
            sum->dv[s * a->D + d] += sum->prob[s] * ref_get(go, here + d);
        }
        ref_set(dq, here + d, grad);
    }
}

/* probs or lse, whichever was kept, is operand `kept`. */
static int gradient(const struct ref_call *r, int kept, int spans, bool flash)
{
    const struct heads a = heads_of(r, 1, spans);
    const struct ref_tensor keep = ref_in(r, kept);
    double *s = r->scratch;
    const struct head_grads sum = { s, s + a.T * a.D, s + 2 * a.T * a.D, s + 2 * a.T * a.D + a.T };

    for (int64_t i = 0; i < a.B * a.H * a.T; i++) {
        const struct query q = query_of(&a, i);
        const int64_t own = own_of(&a, q.b), n = tokens_of(&a, q.b);

        if (q.t < own || q.t >= n)
            continue;
        if (q.t == own)
            memset(sum.dk, 0, 2 * (size_t)(a.T * a.D) * sizeof *sum.dk);
        for (int64_t key = q.first; key < q.end; key++)
            sum.prob[key] = flash ? exp(score(&a, &q, key) - ref_get(keep, i)) : ref_get(keep, i * a.T + key);
        query_grad(&a, &q, ref_in(r, 0), flash ? ref_in(r, 4) : (struct ref_tensor){ 0 }, ref_out(r, 0), &sum);
        if (q.t < n - 1)
            continue;
        for (int64_t j = 0; j < n * a.D; j++) {
            const int64_t to = at(&a, &q, j / a.D) + j % a.D;
            const bool other = j / a.D < own; /* what the row that has them got from its own queries stands there */
            ref_set(ref_out(r, 1), to, sum.dk[j] + (other ? ref_get(ref_out(r, 1), to) : 0));
            ref_set(ref_out(r, 2), to, sum.dv[j] + (other ? ref_get(ref_out(r, 2), to) : 0));
        }
    }
    return 0;
}

static int attention_grad(const struct ref_call *r)
{
    return gradient(r, 4, 5, false);
}

static int flash_attention_grad(const struct ref_call *r)
{
    return gradient(r, 5, 6, true);
}

/* What is kept for the gradient has lines of T. */
static int64_t prob_scratch(const struct kernel *k)
{
    return kernel_out(k, 1)->shape.dim[2];
}

static int64_t grad_scratch(const struct kernel *k)
{
    const int64_t T = kernel_in(k, k->step->op == OP_ATTENTION_GRAD ? 4 : 5)->shape.dim[2];

    return 2 * T * (kernel_in(k, 0)->shape.dim[1] / k->step->attrs.heads + 1);
}

const struct ref_op ref_attention = { attention, prob_scratch }, ref_attention_grad = { attention_grad, grad_scratch },
                    ref_flash_attention = { flash_attention, prob_scratch },
                    ref_flash_attention_grad = { flash_attention_grad, grad_scratch };
