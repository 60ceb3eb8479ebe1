/* The norm of the gradient, clipping by it, and AdamW: graph/optimizer.h has the formulas. And the average of weights. */
#include "backend/ref/ref.h"

#include "backend/dynamic8.h"
#include "graph/optimizer.h"

static int sumsq(const struct ref_call *r)
{
    const struct ref_tensor x = ref_in(r, 0);
    double sum = 0;

    for (int64_t i = 0; i < r->attrs->count; i++)
        sum += pow(ref_get(x, r->attrs->begin + i), 2);
    ref_give(r, ref_out(r, 0), 0, sum);
    return 0;
}

static int grad_scale(const struct ref_call *r)
{
    const struct ref_tensor x = ref_out(r, 0);
    const double factor = optimizer_clip_factor(*(const double *)r->in[0], r->in[1]);

    for (int64_t i = r->attrs->begin; i < r->attrs->begin + r->attrs->count; i++)
        ref_set(x, i, ref_get(x, i) * factor);
    return 0;
}

/* The fp32 weight that a bf16 one stands for. */
static double whole(const uint16_t *param, const int16_t *rest)
{
    return (double)fp32_whole(*param, *rest);
}

static void set_whole(uint16_t *param, int16_t *rest, double x)
{
    *param = bf16_from_f32((float)x);
    *rest = fp32_rest((float)x, *param);
}

static int adamw(const struct ref_call *r)
{
    const struct ref_tensor g = ref_in(r, 0), sum = ref_in(r, 2), param = ref_out(r, 0), m = ref_out(r, 1),
                            v = ref_out(r, 2), master = ref_out(r, 3);
    const double *hyper = r->in[1];
    const double lr = hyper[HYPER_LR + r->attrs->group], decay = hyper[HYPER_DECAY + r->attrs->group];
    const double factor = sum.data ? optimizer_clip_factor(ref_get(sum, 0), hyper) : 1;
    const bool halves = master.data && master.dtype == REST16;
    uint16_t *bf16 = r->out[0]; /* the two halves */
    int16_t *rest = r->out[3];
    const double b1 = hyper[HYPER_BETA1], b2 = hyper[HYPER_BETA2];

    for (int64_t i = 0; i < r->attrs->count; i++) {
        const int64_t at = r->attrs->begin + i;
        const double grad = ref_get(g, at) * factor;
        const double first = b1 * ref_get(m, i) + (1 - b1) * grad;
        const double second = b2 * ref_get(v, i) + (1 - b2) * grad * grad;
        const double step =
            first / hyper[HYPER_CORRECTION1] / (sqrt(second / hyper[HYPER_CORRECTION2]) + hyper[HYPER_EPSILON]);
        double p = halves ? whole(bf16 + at, rest + i) : master.data ? ref_get(master, i) : ref_get(param, at);

        p -= lr * (step + decay * p);
        ref_set(m, i, first);
        ref_set(v, i, second);
        if (halves) {
            set_whole(bf16 + at, rest + i, p);
            continue;
        }
        if (master.data)
            ref_set(master, i, p);
        ref_set(param, at, master.data ? ref_get(master, i) : p);
    }
    return 0;
}

/* Weight i of the share, in fp32: of the master copy, of the two halves, or the parameter itself. */
static float weight(const struct ref_call *r, int64_t i)
{
    const struct ref_tensor param = ref_out(r, 0), master = ref_out(r, 3);
    const int64_t at = r->attrs->begin + i;
    const uint16_t *bf16 = r->out[0]; /* the two halves */
    const int16_t *rest = r->out[3];

    if (rest && master.dtype == REST16)
        return (float)whole(bf16 + at, rest + i);
    return (float)(master.data ? ref_get(master, i) : ref_get(param, at));
}

static void set_weight(const struct ref_call *r, int64_t i, float p)
{
    const struct ref_tensor param = ref_out(r, 0), master = ref_out(r, 3);
    const int64_t at = r->attrs->begin + i;
    uint16_t *bf16 = r->out[0];
    int16_t *rest = r->out[3];

    if (rest && master.dtype == REST16) {
        set_whole(bf16 + at, rest + i, (double)p);
        return;
    }
    if (master.data)
        ref_set(master, i, (double)p);
    ref_set(param, at, (double)p);
}

static float largest_of(const float *x, int64_t n)
{
    float largest = 0;

    for (int64_t i = 0; i < n; i++)
        largest = isfinite(x[i]) ? fmaxf(largest, fabsf(x[i])) : INFINITY; /* which no later one is above */
    return largest;
}

/* Elements first .. first+n-1 of the share, one block; fp32 in the order of the formula, as the op asks. */
static void adamw8_block(const struct ref_call *r, int64_t first, int64_t n)
{
    const struct ref_tensor g = ref_in(r, 0), sum = ref_in(r, 2), m_scales = ref_out(r, 4), v_scales = ref_out(r, 5);
    const double *hyper = r->in[1];
    const float clip = sum.data ? (float)optimizer_clip_factor(ref_get(sum, 0), hyper) : 1.0f;
    const float lr = (float)hyper[HYPER_LR + r->attrs->group], decay = (float)hyper[HYPER_DECAY + r->attrs->group];
    const float b1 = (float)hyper[HYPER_BETA1], rest1 = (float)(1 - hyper[HYPER_BETA1]);
    const float b2 = (float)hyper[HYPER_BETA2], rest2 = (float)(1 - hyper[HYPER_BETA2]);
    const float inverse1 = (float)(1 / hyper[HYPER_CORRECTION1]), inverse2 = (float)(1 / hyper[HYPER_CORRECTION2]);
    int8_t *mq = (int8_t *)r->out[1] + first;
    uint8_t *vq = (uint8_t *)r->out[2] + first;
    const int64_t block = first / STATE_BLOCK;
    const float m_old = (float)ref_get(m_scales, block), v_old = (float)ref_get(v_scales, block);
    float m[STATE_BLOCK], v[STATE_BLOCK];

    for (int64_t i = 0; i < n; i++) {
        const float grad = (float)ref_get(g, r->attrs->begin + first + i) * clip;
        const float p = weight(r, first + i);

        m[i] = b1 * dynamic8_signed(mq[i], m_old) + rest1 * grad;
        v[i] = b2 * dynamic8_unsigned(vq[i], v_old) + rest2 * grad * grad;
        const float step = m[i] * inverse1 / (sqrtf(v[i] * inverse2) + (float)hyper[HYPER_EPSILON]);
        set_weight(r, first + i, p - lr * (step + decay * p));
    }
    const float m_scale = dynamic8_scale(largest_of(m, n)), v_scale = dynamic8_scale(largest_of(v, n));
    for (int64_t i = 0; i < n; i++) {
        mq[i] = (int8_t)(m_scale > 0 ? dynamic8_to_signed(m[i], 1 / m_scale) : 0);
        vq[i] = (uint8_t)(v_scale > 0 ? dynamic8_to_unsigned(v[i], 1 / v_scale) : 0);
    }
    ref_set(m_scales, block, (double)m_scale);
    ref_set(v_scales, block, (double)v_scale);
}

static int adamw8(const struct ref_call *r)
{
    for (int64_t i = 0; i < r->attrs->count; i += STATE_BLOCK)
        adamw8_block(r, i, r->attrs->count - i < STATE_BLOCK ? r->attrs->count - i : STATE_BLOCK);
    return 0;
}

static int ema(const struct ref_call *r)
{
    const struct ref_tensor param = ref_in(r, 0), average = ref_out(r, 0);
    const double decay = (double)r->attrs->p;

    for (int64_t i = r->attrs->begin; i < r->attrs->begin + r->attrs->count; i++)
        ref_set(average, i, decay * ref_get(average, i) + (1 - decay) * ref_get(param, i));
    return 0;
}

static int accumulate(const struct ref_call *r)
{
    const struct ref_tensor x = ref_in(r, 0), y = ref_out(r, 0);

    for (int64_t i = r->attrs->begin; i < r->attrs->begin + r->attrs->count; i++)
        ref_give(r, y, i, ref_get(x, i));
    return 0;
}

const struct ref_op ref_sumsq = { sumsq, NULL }, ref_grad_scale = { grad_scale, NULL }, ref_adamw = { adamw, NULL },
                    ref_adamw8 = { adamw8, NULL }, ref_ema = { ema, NULL }, ref_accumulate = { accumulate, NULL };
