/* Attention to a cache of keys and values, query by query. */
#include "backend/ref/ref.h"

struct cached {
    struct ref_tensor q, keys, values, o;
    const int32_t *spans, *at;
    int64_t T, S, C, D;
    double scale;
};

static int64_t columns_of(const struct kernel *k)
{
    return kernel_out(k, 1)->shape.dim[1];
}

static struct cached cached_of(const struct ref_call *r)
{
    const int64_t C = ref_in(r, 0).width, D = C / r->attrs->heads;

    return (struct cached){ .q = ref_in(r, 0),
                            .keys = ref_out(r, 1),
                            .values = ref_out(r, 2),
                            .o = ref_out(r, 0),
                            .spans = r->in[3],
                            .at = r->in[4],
                            .T = r->c->T,
                            .S = columns_of(r->kernel),
                            .C = C,
                            .D = D,
                            .scale = 1 / sqrt((double)D) };
}

static void append(const struct cached *a, const struct ref_call *r, int64_t b)
{
    for (int64_t i = 0; i < a->T * a->C; i++) {
        ref_set(a->keys, (b * a->S + a->at[b]) * a->C + i, ref_get(ref_in(r, 1), b * a->T * a->C + i));
        ref_set(a->values, (b * a->S + a->at[b]) * a->C + i, ref_get(ref_in(r, 2), b * a->T * a->C + i));
    }
}

/* The query at element q of row b, with the columns from first to end. */
static void attend(const struct cached *a, int64_t b, int64_t q, int64_t first, int64_t end, double *prob)
{
    const int64_t head = b * a->S * a->C + q % a->C;
    double max = -INFINITY, sum = 0;

    for (int64_t s = first; s < end; s++) {
        prob[s] = 0;
        for (int64_t d = 0; d < a->D; d++)
            prob[s] += a->scale * ref_get(a->q, q + d) * ref_get(a->keys, head + s * a->C + d);
        max = fmax(max, prob[s]);
    }
    for (int64_t s = first; s < end; s++) {
        prob[s] = exp(prob[s] - max);
        sum += prob[s];
    }
    for (int64_t d = 0; d < a->D; d++) {
        double mean = 0;

        for (int64_t s = first; s < end; s++)
            mean += prob[s] / sum * ref_get(a->values, head + s * a->C + d);
        ref_set(a->o, q + d, mean);
    }
}

static int kv_attention(const struct ref_call *r)
{
    const struct cached a = cached_of(r);

    if (operands_check_columns(a.at, r->c->B, a.S - a.T, r->err) != 0)
        return -1;
    for (int64_t b = 0; b < r->c->B; b++) {
        const int32_t *span = a.spans + 2 * b;

        append(&a, r, b);
        for (int64_t t = 0; t < a.T; t++) {
            const int64_t last = a.at[b] + t + 1;

            for (int64_t c = 0; c < a.C; c += a.D)
                attend(&a, b, (b * a.T + t) * a.C + c, span[0] > 0 ? span[0] : 0, span[1] < last ? span[1] : last,
                       r->scratch);
        }
    }
    return 0;
}

const struct ref_op ref_kv_attention = { kv_attention, columns_of };
