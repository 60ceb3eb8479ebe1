/* backend/ref/ref.h - what the files of ref/ share. ref is the oracle: plain loops, sums in double precision, one rounding
 * at each output, whatever the type of the operands (fp64 too, so that finite differences are sharp). */
#ifndef TUNEUP_BACKEND_REF_REF_H
#define TUNEUP_BACKEND_REF_REF_H

#include <math.h>

#include "backend/backend.h"
#include "backend/operands.h"

struct ref_call {
    const struct kernel *kernel;
    const struct op_attrs *attrs;
    void *const *in;
    void *const *out;
    double *scratch;
    const struct run_context *c;
    struct err *err;
};

struct ref_op {
    int (*run)(const struct ref_call *r);
    int64_t (*scratch)(const struct kernel *k); /* doubles; NULL = none */
};

extern const struct ref_op ref_embed, ref_embed_grad, ref_add, ref_relu, ref_relu_grad, ref_dropout, ref_scale,
    ref_convert;
extern const struct ref_op ref_linear, ref_linear_dx, ref_linear_dw, ref_bias_grad;
extern const struct ref_op ref_quantize, ref_linear_q8;
extern const struct ref_op ref_layernorm, ref_layernorm_grad, ref_add_norm, ref_add_norm_grad;
extern const struct ref_op ref_attention, ref_attention_grad, ref_flash_attention, ref_flash_attention_grad;
extern const struct ref_op ref_kv_attention;
extern const struct ref_op ref_cross_entropy, ref_cross_entropy_grad, ref_linear_ce, ref_linear_ce_train;
extern const struct ref_op ref_value_head, ref_value_head_grad, ref_pair_loss, ref_pair_loss_grad;
extern const struct ref_op ref_value_loss, ref_value_loss_grad;
extern const struct ref_op ref_live_rows, ref_pack, ref_unpack;
extern const struct ref_op ref_sumsq, ref_grad_scale, ref_adamw, ref_adamw8, ref_ema, ref_accumulate;

/* An operand: data is NULL when it is missing. */
struct ref_tensor {
    void *data;
    enum dtype dtype;
    int64_t width; /* its last extent */
};

static inline struct ref_tensor ref_tensor(const struct buffer *b, void *data)
{
    return b ? (struct ref_tensor){ data, b->dtype, b->shape.rank > 0 ? b->shape.dim[b->shape.rank - 1] : 1 }
             : (struct ref_tensor){ 0 };
}

static inline struct ref_tensor ref_in(const struct ref_call *r, int i)
{
    return ref_tensor(kernel_in(r->kernel, i), r->in[i]);
}

static inline struct ref_tensor ref_out(const struct ref_call *r, int i)
{
    return ref_tensor(kernel_out(r->kernel, i), r->out[i]);
}

static inline double ref_get(struct ref_tensor t, int64_t i)
{
    MUST(t.data);
    return t.dtype == F32   ? (double)((const float *)t.data)[i]
           : t.dtype == F64 ? ((const double *)t.data)[i]
                            : (double)half_to_f32(((const uint16_t *)t.data)[i], t.dtype);
}

/* Through fp32 to 16 bits would be two roundings: a fp32 value made odd where it was inexact rounds on like the double. */
static inline uint16_t ref_half(double x, enum dtype type)
{
    float f = (float)x;
    uint32_t u;

    if ((double)f != x && isfinite(f)) {
        f = fabs((double)f) > fabs(x) ? nextafterf(f, 0) : f;
        memcpy(&u, &f, 4);
        u |= 1u;
        memcpy(&f, &u, 4);
    }
    return half_from_f32(f, type);
}

static inline void ref_set(struct ref_tensor t, int64_t i, double x)
{
    MUST(t.data);
    if (t.dtype == F32)
        ((float *)t.data)[i] = (float)x;
    else if (t.dtype == F64)
        ((double *)t.data)[i] = x;
    else
        ((uint16_t *)t.data)[i] = ref_half(x, t.dtype);
}

/* Writes an element of a "+" output. */
static inline void ref_give(const struct ref_call *r, struct ref_tensor t, int64_t i, double x)
{
    ref_set(t, i, kernel_adds(r->kernel, r->c) ? ref_get(t, i) + x : x);
}

static inline int64_t ref_rows(const struct ref_call *r)
{
    return kernel_rows(r->kernel, r->c);
}

/* x after dropout at channel ch of token row n; dropout is a line of its own everywhere, so it may be slow. */
double ref_dropped(const struct ref_call *r, int64_t n, int64_t ch, double x);

#endif
