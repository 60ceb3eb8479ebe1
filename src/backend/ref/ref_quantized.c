/* Weights in int8 with a scale for each group of a row, and products with them. The arithmetic of quantize is fp32's whatever
 * the type of w, as the op asks: all backends then give the same bits. */
#include "backend/ref/ref.h"

/* n weights of a row from element `at` on; returns their scale. */
static double quantize_group(struct ref_tensor w, int8_t *out, int64_t at, int64_t n)
{
    float largest = 0;
    bool finite = true;

    for (int64_t k = 0; k < n; k++) {
        const float size = fabsf((float)ref_get(w, at + k));
        finite = finite && isfinite(size);
        largest = size > largest ? size : largest;
    }
    const bool none = !finite || largest < 1e-36f;
    for (int64_t k = 0; k < n; k++)
        out[at + k] = none ? 0 : (int8_t)lrintf((float)ref_get(w, at + k) * (127.0f / largest));
    return (double)(!finite ? NAN : none ? 0.0f : largest / 127.0f);
}

static int quantize(const struct ref_call *r)
{
    const struct ref_tensor w = ref_in(r, 0), scales = ref_out(r, 1);
    const int64_t M = kernel_in(r->kernel, 0)->shape.dim[0], K = w.width;

    for (int64_t m = 0; m < M; m++)
        for (int64_t g = 0; g < scales.width; g++) {
            const int64_t k = g * INT8_GROUP, left = K - k;
            ref_set(scales, m * scales.width + g,
                    quantize_group(w, r->out[0], m * K + k, left < INT8_GROUP ? left : INT8_GROUP));
        }
    return 0;
}

static int linear_q8(const struct ref_call *r)
{
    const struct ref_tensor x = ref_in(r, 0), scales = ref_in(r, 2), bias = ref_in(r, 3), y = ref_out(r, 0);
    const int64_t N = ref_rows(r), K = x.width, M = y.width;
    const int8_t *q = r->in[1];

    for (int64_t n = 0; n < N; n++)
        for (int64_t m = 0; m < M; m++) {
            double sum = bias.data ? ref_get(bias, m) : 0;

            for (int64_t k = 0; k < K; k++)
                sum += ref_get(x, n * K + k) * q[m * K + k] * ref_get(scales, m * scales.width + k / INT8_GROUP);
            ref_set(y, n * M + m, r->attrs->relu && sum < 0 ? 0 : sum);
        }
    return 0;
}

const struct ref_op ref_quantize = { quantize, NULL }, ref_linear_q8 = { linear_q8, NULL };
