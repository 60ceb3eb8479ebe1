/* y = x wT + bias + z, and its gradients. */
#include "backend/ref/ref.h"

static int linear(const struct ref_call *r)
{
    const struct ref_tensor x = ref_in(r, 0), w = ref_in(r, 1), bias = ref_in(r, 2), z = ref_in(r, 3),
                            y = ref_out(r, 0);
    const int64_t N = ref_rows(r), K = x.width, M = y.width;

    for (int64_t n = 0; n < N; n++)
        for (int64_t m = 0; m < M; m++) {
            double sum = (bias.data ? ref_get(bias, m) : 0) + (z.data ? ref_get(z, n * M + m) : 0);

            for (int64_t k = 0; k < K; k++)
                sum += ref_get(x, n * K + k) * ref_get(w, m * K + k);
            ref_set(y, n * M + m, r->attrs->relu && sum < 0 ? 0 : sum);
        }
    return 0;
}

static int linear_dx(const struct ref_call *r)
{
    const struct ref_tensor dy = ref_in(r, 0), w = ref_in(r, 1), dx = ref_out(r, 0);
    const int64_t N = ref_rows(r), K = dx.width, M = dy.width;

    for (int64_t n = 0; n < N; n++)
        for (int64_t k = 0; k < K; k++) {
            double sum = 0;

            for (int64_t m = 0; m < M; m++)
                sum += ref_get(dy, n * M + m) * ref_get(w, m * K + k);
            ref_give(r, dx, n * K + k, sum);
        }
    return 0;
}

static void sum_rows(const struct ref_call *r, struct ref_tensor dy, struct ref_tensor db)
{
    for (int64_t m = 0; m < dy.width; m++) {
        double sum = 0;

        for (int64_t n = 0; n < ref_rows(r); n++)
            sum += ref_get(dy, n * dy.width + m);
        ref_give(r, db, m, sum);
    }
}

static int bias_grad(const struct ref_call *r)
{
    sum_rows(r, ref_in(r, 0), ref_out(r, 0));
    return 0;
}

static int linear_dw(const struct ref_call *r)
{
    const struct ref_tensor dy = ref_in(r, 0), x = ref_in(r, 1), dw = ref_out(r, 0), db = ref_out(r, 1);
    const int64_t N = ref_rows(r), K = dw.width, M = dy.width;

    for (int64_t m = 0; m < M; m++)
        for (int64_t k = 0; k < K; k++) {
            double sum = 0;

            for (int64_t n = 0; n < N; n++)
                sum += ref_get(dy, n * M + m) * ref_get(x, n * K + k);
            ref_give(r, dw, m * K + k, sum);
        }
    if (db.data)
        sum_rows(r, dy, db);
    return 0;
}

const struct ref_op ref_linear = { linear, NULL }, ref_linear_dx = { linear_dx, NULL },
                    ref_linear_dw = { linear_dw, NULL }, ref_bias_grad = { bias_grad, NULL };
