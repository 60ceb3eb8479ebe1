/* Layer norm (Ba et al. 2016, arXiv:1607.06450), alone and after a residual sum with dropout. The sum is normalized as it
 * was stored, which is what the gradient sees. */
#include "backend/ref/ref.h"

static void norm_row(struct ref_tensor x, struct ref_tensor g, struct ref_tensor b, struct ref_tensor y,
                     struct ref_tensor stats, int64_t n)
{
    const int64_t C = x.width;
    double mean = 0, variance = 0;

    for (int64_t c = 0; c < C; c++)
        mean += ref_get(x, n * C + c) / (double)C;
    for (int64_t c = 0; c < C; c++)
        variance += pow(ref_get(x, n * C + c) - mean, 2) / (double)C;
    const double inverse = 1 / sqrt(variance + 1e-5);
    for (int64_t c = 0; c < C; c++)
        ref_set(y, n * C + c, (ref_get(x, n * C + c) - mean) * inverse * ref_get(g, c) + ref_get(b, c));
    ref_set(stats, 2 * n, mean);
    ref_set(stats, 2 * n + 1, inverse);
}

static int layernorm(const struct ref_call *r)
{
    for (int64_t n = 0; n < ref_rows(r); n++)
        norm_row(ref_in(r, 0), ref_in(r, 1), ref_in(r, 2), ref_out(r, 0), ref_out(r, 1), n);
    return 0;
}

static int add_norm(const struct ref_call *r)
{
    const struct ref_tensor a = ref_in(r, 0), z = ref_in(r, 1), s = ref_out(r, 0);
    const int64_t C = s.width;

    for (int64_t n = 0; n < ref_rows(r); n++) {
        for (int64_t c = 0; c < C; c++)
            ref_set(s, n * C + c, ref_get(a, n * C + c) + ref_dropped(r, n, c, ref_get(z, n * C + c)));
        norm_row(s, ref_in(r, 2), ref_in(r, 3), ref_out(r, 1), ref_out(r, 2), n);
    }
    return 0;
}

struct norm_grad {
    struct ref_tensor dy, x, stats, g;
};

static double normalized(const struct norm_grad *k, int64_t n, int64_t c)
{
    return (ref_get(k->x, n * k->x.width + c) - ref_get(k->stats, 2 * n)) * ref_get(k->stats, 2 * n + 1);
}

/* Gradient of element [n,c], given the means over the row of dy g and of dy g times the normalized x. */
static double element_grad(const struct norm_grad *k, int64_t n, int64_t c, const double mean[2])
{
    const double dyg = ref_get(k->dy, n * k->x.width + c) * ref_get(k->g, c);

    return ref_get(k->stats, 2 * n + 1) * (dyg - mean[0] - normalized(k, n, c) * mean[1]);
}

static void row_means(const struct norm_grad *k, int64_t n, double mean[2])
{
    const int64_t C = k->x.width;

    mean[0] = mean[1] = 0;
    for (int64_t c = 0; c < C; c++) {
        const double dyg = ref_get(k->dy, n * C + c) * ref_get(k->g, c);

        mean[0] += dyg / (double)C;
        mean[1] += dyg * normalized(k, n, c) / (double)C;
    }
}

static void parameter_grads(const struct ref_call *r, const struct norm_grad *k, struct ref_tensor dg,
                            struct ref_tensor db)
{
    const int64_t C = dg.data || db.data ? k->x.width : 0;

    for (int64_t c = 0; c < C; c++) {
        double sum_g = 0, sum_b = 0;

        for (int64_t n = 0; n < ref_rows(r); n++) {
            sum_g += ref_get(k->dy, n * C + c) * normalized(k, n, c);
            sum_b += ref_get(k->dy, n * C + c);
        }
        if (dg.data)
            ref_give(r, dg, c, sum_g);
        if (db.data)
            ref_give(r, db, c, sum_b);
    }
}

static int layernorm_grad(const struct ref_call *r)
{
    const struct norm_grad k = { ref_in(r, 0), ref_in(r, 1), ref_in(r, 2), ref_in(r, 3) };
    const int64_t C = k.x.width;
    double mean[2];

    for (int64_t n = 0; n < ref_rows(r); n++) {
        row_means(&k, n, mean);
        for (int64_t c = 0; c < C; c++)
            ref_set(ref_out(r, 0), n * C + c, element_grad(&k, n, c, mean));
    }
    parameter_grads(r, &k, ref_out(r, 1), ref_out(r, 2));
    return 0;
}

static int add_norm_grad(const struct ref_call *r)
{
    const struct norm_grad k = { ref_in(r, 0), ref_in(r, 2), ref_in(r, 3), ref_in(r, 4) };
    const struct ref_tensor ds = ref_in(r, 1), dz = ref_out(r, 0), dr = ref_out(r, 1);
    const int64_t C = k.x.width;
    double mean[2];

    for (int64_t n = 0; n < ref_rows(r); n++) {
        row_means(&k, n, mean);
        for (int64_t c = 0; c < C; c++) {
            const double d = element_grad(&k, n, c, mean) + (ds.data ? ref_get(ds, n * C + c) : 0);

            ref_set(dz, n * C + c, d);
            if (dr.data)
                ref_set(dr, n * C + c, ref_dropped(r, n, c, d));
        }
    }
    parameter_grads(r, &k, ref_out(r, 2), ref_out(r, 3));
    return 0;
}

const struct ref_op ref_layernorm = { layernorm, NULL }, ref_layernorm_grad = { layernorm_grad, NULL },
                    ref_add_norm = { add_norm, NULL }, ref_add_norm_grad = { add_norm_grad, NULL };
