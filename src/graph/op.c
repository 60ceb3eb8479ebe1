/* The op table: one row an op. An op is added by a row here, a family file in ops/ and a kernel in each backend; the tests
 * of tests/backend then ask for a case of it. */
#include "graph/op.h"

#include "graph/graph.h"

static int64_t count(const struct operand *o)
{
    return shape_count(&o->shape);
}

/* x[N,K] times w[M,K]: out is [N,M]. */
static double linear_flops(const struct operand *in, const struct operand *out, const struct op_attrs *attrs)
{
    (void)attrs;
    return 2.0 * (double)count(&out[0]) * (double)in[1].shape.dim[1];
}

static double linear_dx_flops(const struct operand *in, const struct operand *out, const struct op_attrs *attrs)
{
    (void)out;
    (void)attrs;
    return 2.0 * (double)count(&in[0]) * (double)in[1].shape.dim[1];
}

static double linear_dw_flops(const struct operand *in, const struct operand *out, const struct op_attrs *attrs)
{
    (void)attrs;
    return 2.0 * (double)in[0].shape.dim[0] * (double)count(&out[0]);
}

/* Two products over the scores; flash attention visits only the causal half of them. */
static double scores(const struct operand *qkv, const struct operand *spans)
{
    const double N = (double)qkv->shape.dim[0], B = (double)spans->shape.dim[0];

    return N * (N / B) * (double)qkv->shape.dim[1];
}

static double attention_flops(const struct operand *in, const struct operand *out, const struct op_attrs *attrs)
{
    (void)out;
    (void)attrs;
    return 4.0 * scores(&in[0], &in[3]);
}

static double attention_grad_flops(const struct operand *in, const struct operand *out, const struct op_attrs *attrs)
{
    (void)out;
    (void)attrs;
    return 8.0 * scores(&in[0], &in[5]);
}

static double flash_flops(const struct operand *in, const struct operand *out, const struct op_attrs *attrs)
{
    return attention_flops(in, out, attrs) / 2;
}

static double flash_grad_flops(const struct operand *in, const struct operand *out, const struct op_attrs *attrs)
{
    (void)out;
    (void)attrs;
    return 10.0 / 2 * scores(&in[0], &in[6]); /* scores are made again */
}

/* Each of T > 1 queries sees half of them on the average, a single one may see all that the cache holds. */
static double kv_attention_flops(const struct operand *in, const struct operand *out, const struct op_attrs *attrs)
{
    const double N = (double)in[0].shape.dim[0], T = N / (double)in[3].shape.dim[0];
    const double keys = T > 1 ? T / 2 : (double)out[1].shape.dim[1];

    (void)attrs;
    return 4.0 * N * keys * (double)in[0].shape.dim[1];
}

static double linear_ce_flops(const struct operand *in, const struct operand *out, const struct op_attrs *attrs)
{
    (void)out;
    (void)attrs;
    return 2.0 * (double)in[0].shape.dim[0] * (double)count(&in[1]);
}

static double linear_ce_train_flops(const struct operand *in, const struct operand *out, const struct op_attrs *attrs)
{
    return (out[2].there ? 3 : 2) * linear_ce_flops(in, out, attrs);
}

static double value_head_flops(const struct operand *in, const struct operand *out, const struct op_attrs *attrs)
{
    (void)out;
    (void)attrs;
    return 2.0 * (double)count(&in[0]);
}

static double value_head_grad_flops(const struct operand *in, const struct operand *out, const struct op_attrs *attrs)
{
    (void)in;
    (void)attrs;
    return 3.0 * (double)count(&out[0]);
}

static const struct op_rule rules[OP_N] = {
    [OP_EMBED] = { "embed", 2, 1, op_embed_gradient, NULL, false },
    [OP_EMBED_GRAD] = { "embed_grad", 2, 1, NULL, NULL, false },
    [OP_ADD] = { "add", 2, 1, op_add_gradient, NULL, false },
    [OP_LINEAR] = { "linear", 4, 1, op_linear_gradient, linear_flops, true },
    [OP_QUANTIZE] = { "quantize", 1, 2, NULL, NULL, false },
    [OP_LINEAR_Q8] = { "linear_q8", 4, 1, NULL, linear_flops, true },
    [OP_LINEAR_DX] = { "linear_dx", 2, 1, NULL, linear_dx_flops, true },
    [OP_LINEAR_DW] = { "linear_dw", 2, 2, NULL, linear_dw_flops, true },
    [OP_BIAS_GRAD] = { "bias_grad", 1, 1, NULL, NULL, false },
    [OP_RELU] = { "relu", 1, 1, op_relu_gradient, NULL, false },
    [OP_RELU_GRAD] = { "relu_grad", 2, 1, NULL, NULL, false },
    [OP_DROPOUT] = { "dropout", 1, 1, op_dropout_gradient, NULL, false },
    [OP_SCALE] = { "scale", 1, 1, op_dropout_gradient, NULL, false },
    [OP_CONVERT] = { "convert", 1, 1, NULL, NULL, false },
    [OP_LAYERNORM] = { "layernorm", 3, 2, op_layernorm_gradient, NULL, false },
    [OP_LAYERNORM_GRAD] = { "layernorm_grad", 4, 3, NULL, NULL, false },
    [OP_ADD_NORM] = { "add_norm", 4, 3, op_add_norm_gradient, NULL, false },
    [OP_ADD_NORM_GRAD] = { "add_norm_grad", 5, 4, NULL, NULL, false },
    [OP_ATTENTION] = { "attention", 4, 2, op_attention_gradient, attention_flops, false },
    [OP_ATTENTION_GRAD] = { "attention_grad", 6, 3, NULL, attention_grad_flops, false },
    [OP_FLASH_ATTENTION] = { "flash_attention", 4, 2, op_attention_gradient, flash_flops, false },
    [OP_FLASH_ATTENTION_GRAD] = { "flash_attention_grad", 7, 3, NULL, flash_grad_flops, false },
    [OP_KV_ATTENTION] = { "kv_attention", 5, 3, NULL, kv_attention_flops, false },
    [OP_CROSS_ENTROPY] = { "cross_entropy", 5, 3, op_cross_entropy_gradient, NULL, false },
    [OP_CROSS_ENTROPY_GRAD] = { "cross_entropy_grad", 6, 1, NULL, NULL, false },
    [OP_LINEAR_CE] = { "linear_ce", 6, 2, op_linear_ce_gradient, linear_ce_flops, true },
    [OP_LINEAR_CE_TRAIN] = { "linear_ce_train", 6, 4, NULL, linear_ce_train_flops, true },
    [OP_VALUE_HEAD] = { "value_head", 2, 1, op_value_head_gradient, value_head_flops, false },
    [OP_VALUE_HEAD_GRAD] = { "value_head_grad", 3, 2, NULL, value_head_grad_flops, false },
    [OP_PAIR_LOSS] = { "pair_loss", 3, 1, op_pair_loss_gradient, NULL, false },
    [OP_PAIR_LOSS_GRAD] = { "pair_loss_grad", 3, 1, NULL, NULL, false },
    [OP_VALUE_LOSS] = { "value_loss", 5, 1, op_value_loss_gradient, NULL, false },
    [OP_VALUE_LOSS_GRAD] = { "value_loss_grad", 5, 1, NULL, NULL, false },
    [OP_LIVE_ROWS] = { "live_rows", 4, 2, NULL, NULL, false },
    [OP_PACK] = { "pack", 2, 1, NULL, NULL, false },
    [OP_UNPACK] = { "unpack", 2, 1, op_unpack_gradient, NULL, false },
    [OP_SUMSQ] = { "sumsq", 1, 1, NULL, NULL, false },
    [OP_GRAD_SCALE] = { "grad_scale", 2, 1, NULL, NULL, false },
    [OP_ADAMW] = { "adamw", 3, 4, NULL, NULL, false },
    [OP_ADAMW8] = { "adamw8", 3, 6, NULL, NULL, false },
    [OP_EMA] = { "ema", 1, 1, NULL, NULL, false },
    [OP_ACCUMULATE] = { "accumulate", 1, 1, NULL, NULL, false },
    [OP_ALL_REDUCE] = { "all_reduce", 0, 1, NULL, NULL, false },
    [OP_REDUCE_SCATTER] = { "reduce_scatter", 0, 2, NULL, NULL, false },
    [OP_ALL_GATHER] = { "all_gather", 0, 1, NULL, NULL, false },
    [OP_FILE_READ] = { "file_read", 1, 1, NULL, NULL, false },
    [OP_FILE_WRITE] = { "file_write", 1, 1, NULL, NULL, false },
    [OP_FILE_WAIT] = { "file_wait", 0, 6, NULL, NULL, false },
    [OP_WAIT] = { "wait", 1, 0, NULL, NULL, false },
};

bool op_is_collective(enum op op)
{
    return op == OP_ALL_REDUCE || op == OP_REDUCE_SCATTER || op == OP_ALL_GATHER || op == OP_WAIT;
}

int op_in_place(enum op op)
{
    return op == OP_LINEAR ? 3 : -1;
}

const struct op_rule *op_rule(enum op op)
{
    return &rules[op];
}
