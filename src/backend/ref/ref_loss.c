/* Cross-entropy of the next token, from stored logits or from hidden states, and PPO's losses. Rows without a target cost
 * nothing: loss, gradient, lse and logp are 0 there. */
#include "backend/ref/ref.h"

#include "backend/row_loss.h"

static double log_sum(const double *x, int64_t n)
{
    double max = -INFINITY, sum = 0;

    for (int64_t i = 0; i < n; i++)
        max = fmax(max, x[i]);
    for (int64_t i = 0; i < n; i++)
        sum += exp(x[i] - max);
    return max + log(sum);
}

/* The loss of row n by its target's log-probability; in[old] and the input after it may be missing. */
static struct row_loss token_loss(const struct ref_call *r, int old, int64_t n, double logp)
{
    if (!r->in[old])
        return (struct row_loss){ -logp, -1 };
    return row_loss_policy(logp, ref_get(ref_in(r, old), n), ref_get(ref_in(r, old + 1), n), r->attrs->clip);
}

static void set_logp(const struct ref_call *r, int out, int64_t n, double logp)
{
    if (r->out[out])
        ref_set(ref_out(r, out), n, logp);
}

static void stored_logits(struct ref_tensor logits, int64_t n, double *out)
{
    for (int64_t v = 0; v < logits.width; v++)
        out[v] = ref_get(logits, n * logits.width + v);
}

static int cross_entropy(const struct ref_call *r)
{
    const struct ref_tensor logits = ref_in(r, 0), norm = ref_in(r, 2), lse = ref_out(r, 1);
    const int32_t *target = r->in[1];
    double loss = 0;

    if (operands_check_ids(target, ref_rows(r), INT32_MIN, logits.width, "target", r->err) != 0)
        return -1;
    for (int64_t n = 0; n < ref_rows(r); n++) {
        double sum = 0, logp = 0;

        if (target[n] >= 0) {
            stored_logits(logits, n, r->scratch);
            sum = log_sum(r->scratch, logits.width);
            logp = r->scratch[target[n]] - sum;
            loss += token_loss(r, 3, n, logp).loss;
        }
        ref_set(lse, n, sum);
        set_logp(r, 2, n, logp);
    }
    ref_set(ref_out(r, 0), 0, loss * ref_get(norm, 0));
    return 0;
}

static int cross_entropy_grad(const struct ref_call *r)
{
    const struct ref_tensor logits = ref_in(r, 0), lse = ref_in(r, 1), norm = ref_in(r, 3), dlogits = ref_out(r, 0);
    const int32_t *target = r->in[2];
    const int64_t V = logits.width;

    if (operands_check_ids(target, ref_rows(r), INT32_MIN, V, "target", r->err) != 0)
        return -1;
    for (int64_t n = 0; n < ref_rows(r); n++) {
        const double logp = target[n] >= 0 ? ref_get(logits, n * V + target[n]) - ref_get(lse, n) : 0;
        const double scale = target[n] >= 0 ? -token_loss(r, 4, n, logp).slope * ref_get(norm, 1) : 0;

        for (int64_t v = 0; v < V; v++) {
            const double p = exp(ref_get(logits, n * V + v) - ref_get(lse, n));

            ref_set(dlogits, n * V + v, target[n] >= 0 ? (p - (v == target[n])) * scale : 0);
        }
    }
    return 0;
}

/* logits of row n; returns the target's log-probability. */
static double row_logp(const struct ref_call *r, int64_t n, double *logits)
{
    const struct ref_tensor h = ref_in(r, 0), w = ref_in(r, 1);
    const int64_t E = h.width, V = kernel_in(r->kernel, 1)->shape.dim[0];
    const int32_t *target = r->in[2];

    for (int64_t v = 0; v < V; v++) {
        logits[v] = 0;
        for (int64_t e = 0; e < E; e++)
            logits[v] += ref_get(h, n * E + e) * ref_get(w, v * E + e);
    }
    return logits[target[n]] - log_sum(logits, V);
}

static int linear_ce(const struct ref_call *r)
{
    const int32_t *target = r->in[2];
    double loss = 0;

    if (operands_check_ids(target, ref_rows(r), INT32_MIN, kernel_in(r->kernel, 1)->shape.dim[0], "target", r->err) !=
        0)
        return -1;
    for (int64_t n = 0; n < ref_rows(r); n++) {
        const double logp = target[n] >= 0 ? row_logp(r, n, r->scratch) : 0;

        if (target[n] >= 0)
            loss += token_loss(r, 4, n, logp).loss;
        set_logp(r, 1, n, logp);
    }
    ref_set(ref_out(r, 0), 0, loss * ref_get(ref_in(r, 3), 0));
    return 0;
}

/* Adds a row's share to dw [V,E] and dh [E], both in double precision. slope: of its loss, by logp. */
static void row_grad(const struct ref_call *r, int64_t n, double *logits, double logp, double slope, double *dw,
                     double *dh)
{
    const struct ref_tensor h = ref_in(r, 0), w = ref_in(r, 1);
    const int64_t E = h.width, V = kernel_in(r->kernel, 1)->shape.dim[0];
    const int32_t *target = r->in[2];
    const double lse = logits[target[n]] - logp, scale = -slope * ref_get(ref_in(r, 3), 1);

    for (int64_t v = 0; v < V; v++) {
        const double d = (exp(logits[v] - lse) - (v == target[n])) * scale;

        for (int64_t e = 0; e < E; e++) {
            dw[v * E + e] += d * ref_get(h, n * E + e);
            dh[e] += d * ref_get(w, v * E + e);
        }
    }
}

static int linear_ce_train(const struct ref_call *r)
{
    const int64_t E = ref_in(r, 0).width, V = kernel_in(r->kernel, 1)->shape.dim[0];
    const int32_t *target = r->in[2];
    double *logits = r->scratch, *dh = logits + V, *dw = dh + E, sum = 0;

    if (operands_check_ids(target, ref_rows(r), INT32_MIN, V, "target", r->err) != 0)
        return -1;
    memset(dw, 0, (size_t)(V * E) * sizeof *dw);
    for (int64_t n = 0; n < ref_rows(r); n++) {
        const double logp = target[n] >= 0 ? row_logp(r, n, logits) : 0;

        memset(dh, 0, (size_t)E * sizeof *dh);
        if (target[n] >= 0) {
            const struct row_loss row = token_loss(r, 4, n, logp);

            sum += row.loss;
            row_grad(r, n, logits, logp, row.slope, dw, dh);
        }
        set_logp(r, 3, n, logp);
        for (int64_t e = 0; e < E; e++)
            ref_set(ref_out(r, 1), n * E + e, dh[e]);
    }
    for (int64_t i = 0; ref_out(r, 2).data && i < V * E; i++)
        ref_give(r, ref_out(r, 2), i, dw[i]);
    ref_set(ref_out(r, 0), 0, sum * ref_get(ref_in(r, 3), 0));
    return 0;
}

static struct row_loss critic_loss(const struct ref_call *r, int64_t n)
{
    if (((const int32_t *)r->in[3])[n] < 0)
        return (struct row_loss){ 0, 0 };
    return row_loss_value(ref_get(ref_in(r, 0), n), ref_get(ref_in(r, 1), n), ref_get(ref_in(r, 2), n), r->attrs->clip);
}

static int value_loss(const struct ref_call *r)
{
    double sum = 0;

    for (int64_t n = 0; n < ref_rows(r); n++)
        sum += critic_loss(r, n).loss;
    ref_set(ref_out(r, 0), 0, sum * ref_get(ref_in(r, 4), 0));
    return 0;
}

static int value_loss_grad(const struct ref_call *r)
{
    for (int64_t n = 0; n < ref_rows(r); n++)
        ref_set(ref_out(r, 0), n, critic_loss(r, n).slope * ref_get(ref_in(r, 4), 1));
    return 0;
}

static int64_t logits_scratch(const struct kernel *k)
{
    return kernel_in(k, 0)->shape.dim[1];
}

static int64_t vocabulary_scratch(const struct kernel *k)
{
    return kernel_in(k, 1)->shape.dim[0];
}

static int64_t train_scratch(const struct kernel *k)
{
    const int64_t V = kernel_in(k, 1)->shape.dim[0], E = kernel_in(k, 1)->shape.dim[1];

    return V + E + V * E;
}

const struct ref_op ref_cross_entropy = { cross_entropy, logits_scratch },
                    ref_cross_entropy_grad = { cross_entropy_grad, NULL },
                    ref_linear_ce = { linear_ce, vocabulary_scratch },
                    ref_linear_ce_train = { linear_ce_train, train_scratch }, ref_value_loss = { value_loss, NULL },
                    ref_value_loss_grad = { value_loss_grad, NULL };
