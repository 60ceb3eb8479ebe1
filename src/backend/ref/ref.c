/* The table of kernels and the seam. A kernel of ref has no state: all is in the step. */
#include "backend/ref/ref.h"

#include <stdio.h>

static const struct ref_op *const ops[OP_N] = {
    [OP_EMBED] = &ref_embed,
    [OP_EMBED_GRAD] = &ref_embed_grad,
    [OP_ADD] = &ref_add,
    [OP_LINEAR] = &ref_linear,
    [OP_QUANTIZE] = &ref_quantize,
    [OP_LINEAR_Q8] = &ref_linear_q8,
    [OP_LINEAR_DX] = &ref_linear_dx,
    [OP_LINEAR_DW] = &ref_linear_dw,
    [OP_BIAS_GRAD] = &ref_bias_grad,
    [OP_RELU] = &ref_relu,
    [OP_RELU_GRAD] = &ref_relu_grad,
    [OP_DROPOUT] = &ref_dropout,
    [OP_SCALE] = &ref_scale,
    [OP_CONVERT] = &ref_convert,
    [OP_LAYERNORM] = &ref_layernorm,
    [OP_LAYERNORM_GRAD] = &ref_layernorm_grad,
    [OP_ADD_NORM] = &ref_add_norm,
    [OP_ADD_NORM_GRAD] = &ref_add_norm_grad,
    [OP_ATTENTION] = &ref_attention,
    [OP_ATTENTION_GRAD] = &ref_attention_grad,
    [OP_FLASH_ATTENTION] = &ref_flash_attention,
    [OP_FLASH_ATTENTION_GRAD] = &ref_flash_attention_grad,
    [OP_KV_ATTENTION] = &ref_kv_attention,
    [OP_CROSS_ENTROPY] = &ref_cross_entropy,
    [OP_CROSS_ENTROPY_GRAD] = &ref_cross_entropy_grad,
    [OP_LINEAR_CE] = &ref_linear_ce,
    [OP_LINEAR_CE_TRAIN] = &ref_linear_ce_train,
    [OP_VALUE_HEAD] = &ref_value_head,
    [OP_VALUE_HEAD_GRAD] = &ref_value_head_grad,
    [OP_PAIR_LOSS] = &ref_pair_loss,
    [OP_PAIR_LOSS_GRAD] = &ref_pair_loss_grad,
    [OP_VALUE_LOSS] = &ref_value_loss,
    [OP_VALUE_LOSS_GRAD] = &ref_value_loss_grad,
    [OP_LIVE_ROWS] = &ref_live_rows,
    [OP_PACK] = &ref_pack,
    [OP_UNPACK] = &ref_unpack,
    [OP_SUMSQ] = &ref_sumsq,
    [OP_GRAD_SCALE] = &ref_grad_scale,
    [OP_ADAMW] = &ref_adamw,
    [OP_ADAMW8] = &ref_adamw8,
    [OP_EMA] = &ref_ema,
    [OP_ACCUMULATE] = &ref_accumulate,
};

static int prepare(struct backend *b, const struct plan *p, const struct op_step *s, struct kernel *out,
                   struct err *err)
{
    *out = (struct kernel){ 0 };
    if (operands_check(p, s, b->name, true, err) != 0)
        return -1;
    *out = (struct kernel){ .plan = p, .step = s };
    if (ops[s->op]->scratch)
        out->scratch_bytes = (size_t)ops[s->op]->scratch(out) * sizeof(double);
    return 0;
}

static int run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
               const struct run_context *c, struct err *err)
{
    const struct ref_call r = {
        .kernel = k, .attrs = &k->step->attrs, .in = in, .out = out, .scratch = scratch, .c = c, .err = err
    };

    (void)b;
    return ops[k->step->op]->run(&r);
}

static void kernel_free(struct backend *b, struct kernel *k)
{
    (void)b;
    *k = (struct kernel){ 0 };
}

static void close_backend(struct backend *b)
{
    *b = (struct backend){ 0 };
}

int backend_ref_open(struct backend *b, int threads, struct err *err)
{
    (void)threads;
    (void)err;
    *b = (struct backend){
        .name = "ref", .threads = 1, .prepare = prepare, .run = run, .kernel_free = kernel_free, .close = close_backend
    };
    snprintf(b->describe, sizeof b->describe, "plain loops in double precision, 1 thread");
    return 0;
}
