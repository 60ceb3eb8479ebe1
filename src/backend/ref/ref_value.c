/* One number a token, and the loss of pairs of rows of them (Ouyang et al. 2022, arXiv:2203.02155, eq. 1, at every position
 * that graph/op.h's pairs name). */
#include "backend/ref/ref.h"

static int value_head(const struct ref_call *r)
{
    const struct ref_tensor h = ref_in(r, 0), w = ref_in(r, 1);

    for (int64_t n = 0; n < ref_rows(r); n++) {
        double sum = 0;

        for (int64_t e = 0; e < w.width; e++)
            sum += ref_get(h, n * w.width + e) * ref_get(w, e);
        ref_set(ref_out(r, 0), n, sum);
    }
    return 0;
}

static int value_head_grad(const struct ref_call *r)
{
    const struct ref_tensor dr = ref_in(r, 0), h = ref_in(r, 1), w = ref_in(r, 2);

    for (int64_t e = 0; e < w.width; e++) {
        double sum = 0;

        for (int64_t n = 0; n < ref_rows(r); n++) {
            sum += ref_get(dr, n) * ref_get(h, n * w.width + e);
            ref_set(ref_out(r, 0), n * w.width + e, ref_get(dr, n) * ref_get(w, e));
        }
        if (ref_out(r, 1).data)
            ref_give(r, ref_out(r, 1), e, sum);
    }
    return 0;
}

struct pair_term {
    int64_t chosen, rejected; /* of all scores */
    double difference;
};

static struct pair_term pair_term(const struct ref_call *r, int64_t p, int64_t k)
{
    const int32_t *pair = (const int32_t *)r->in[1] + PAIR_N * p;
    const int64_t T = r->c->T, chosen = pair[PAIR_CHOSEN_BEGIN] + k, rejected = pair[PAIR_REJECTED_BEGIN] + k;
    const int64_t chosen_last = pair[PAIR_CHOSEN_LAST], rejected_last = pair[PAIR_REJECTED_LAST];
    struct pair_term t = { .chosen = p * T + (chosen < chosen_last ? chosen : chosen_last),
                           .rejected = (r->c->B / 2 + p) * T + (rejected < rejected_last ? rejected : rejected_last) };

    t.difference = ref_get(ref_in(r, 0), t.chosen) - ref_get(ref_in(r, 0), t.rejected);
    return t;
}

static int64_t pair_terms(const struct ref_call *r, int64_t p)
{
    return ((const int32_t *)r->in[1])[PAIR_N * p + PAIR_TERMS];
}

static int pair_loss(const struct ref_call *r)
{
    double loss = 0;

    if (operands_check_pairs(r->in[1], r->c->B, r->c->T, r->err) != 0)
        return -1;
    for (int64_t p = 0; p < r->c->B / 2; p++) {
        const int64_t n = pair_terms(r, p);
        double sum = 0;

        for (int64_t k = 0; k < n; k++) {
            const double x = pair_term(r, p, k).difference;

            sum += x >= 0 ? log1p(exp(-x)) : log1p(exp(x)) - x;
        }
        loss += n > 0 ? sum / (double)n : log(2);
    }
    ref_set(ref_out(r, 0), 0, loss * ref_get(ref_in(r, 2), 0));
    return 0;
}

/* Several terms may be about one score, so the sums are made before they are rounded. */
static int pair_loss_grad(const struct ref_call *r)
{
    double *dr = r->scratch;

    if (operands_check_pairs(r->in[1], r->c->B, r->c->T, r->err) != 0)
        return -1;
    memset(dr, 0, (size_t)ref_rows(r) * sizeof *dr);
    for (int64_t p = 0; p < r->c->B / 2; p++)
        for (int64_t k = 0, n = pair_terms(r, p); k < n; k++) {
            const struct pair_term t = pair_term(r, p, k);
            const double slope = ref_get(ref_in(r, 2), 1) / ((double)n * (1 + exp(t.difference)));

            dr[t.chosen] -= slope;
            dr[t.rejected] += slope;
        }
    for (int64_t n = 0; n < ref_rows(r); n++)
        ref_set(ref_out(r, 0), n, dr[n]);
    return 0;
}

static int64_t scores_scratch(const struct kernel *k)
{
    return kernel_in(k, 0)->shape.dim[0];
}

const struct ref_op ref_value_head = { value_head, NULL }, ref_value_head_grad = { value_head_grad, NULL },
                    ref_pair_loss = { pair_loss, NULL }, ref_pair_loss_grad = { pair_loss_grad, scores_scratch };
