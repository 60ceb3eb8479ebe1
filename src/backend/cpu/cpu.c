/* The processor's backend: the table of kernels, and what they have in common. */
#include "backend/cpu/cpu.h"

#include <stdio.h>

#include <omp.h>

#include "backend/cpu/narrow.h"
#include "backend/operands.h"
#include "base/mem.h"

/* An op without a row here is refused by prepare. */
static const struct cpu_op *const ops[OP_N] = {
    [OP_EMBED] = &cpu_embed,
    [OP_EMBED_GRAD] = &cpu_embed_grad,
    [OP_ADD] = &cpu_add,
    [OP_LINEAR] = &cpu_linear,
    [OP_QUANTIZE] = &cpu_quantize,
    [OP_LINEAR_Q8] = &cpu_linear_q8,
    [OP_LINEAR_DX] = &cpu_linear_dx,
    [OP_LINEAR_DW] = &cpu_linear_dw,
    [OP_BIAS_GRAD] = &cpu_bias_grad,
    [OP_RELU] = &cpu_relu,
    [OP_RELU_GRAD] = &cpu_relu_grad,
    [OP_DROPOUT] = &cpu_dropout,
    [OP_SCALE] = &cpu_scale,
    [OP_CONVERT] = &cpu_convert,
    [OP_LAYERNORM] = &cpu_layernorm,
    [OP_LAYERNORM_GRAD] = &cpu_layernorm_grad,
    [OP_ADD_NORM] = &cpu_add_norm,
    [OP_ADD_NORM_GRAD] = &cpu_add_norm_grad,
    [OP_ATTENTION] = &cpu_attention,
    [OP_ATTENTION_GRAD] = &cpu_attention_grad,
    [OP_FLASH_ATTENTION] = &cpu_flash_attention,
    [OP_FLASH_ATTENTION_GRAD] = &cpu_flash_attention_grad,
    [OP_KV_ATTENTION] = &cpu_kv_attention,
    [OP_CROSS_ENTROPY] = &cpu_cross_entropy,
    [OP_CROSS_ENTROPY_GRAD] = &cpu_cross_entropy_grad,
    [OP_LINEAR_CE] = &cpu_linear_ce,
    [OP_LINEAR_CE_TRAIN] = &cpu_linear_ce_train,
    [OP_VALUE_HEAD] = &cpu_value_head,
    [OP_VALUE_HEAD_GRAD] = &cpu_value_head_grad,
    [OP_PAIR_LOSS] = &cpu_pair_loss,
    [OP_PAIR_LOSS_GRAD] = &cpu_pair_loss_grad,
    [OP_VALUE_LOSS] = &cpu_value_loss,
    [OP_VALUE_LOSS_GRAD] = &cpu_value_loss_grad,
    [OP_LIVE_ROWS] = &cpu_live_rows,
    [OP_PACK] = &cpu_pack,
    [OP_UNPACK] = &cpu_unpack,
    [OP_SUMSQ] = &cpu_sumsq,
    [OP_GRAD_SCALE] = &cpu_grad_scale,
    [OP_ADAMW] = &cpu_adamw,
    [OP_ADAMW8] = &cpu_adamw8,
    [OP_EMA] = &cpu_ema,
    [OP_ACCUMULATE] = &cpu_accumulate,
};

int64_t cpu_thread(void)
{
    return omp_get_thread_num();
}

static int prepare(struct backend *b, const struct plan *p, const struct op_step *s, struct kernel *out,
                   struct err *err)
{
    struct kernel k = { .plan = p, .step = s };

    *out = (struct kernel){ 0 };
    if (operands_check(p, s, "cpu", false, err) != 0)
        return -1;
    if (!ops[s->op]) {
        err_set(err, ERR_USAGE, "the cpu backend has no kernel for the op %s", op_rule(s->op)->name);
        return err_hint(err, "Use --backend ref, which has them all.");
    }
    if (ops[s->op]->prepare(b, &k, err) != 0) {
        mem_free(k.own);
        return -1;
    }
    *out = k;
    return 0;
}

static int run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
               const struct run_context *c, struct err *err)
{
    return ops[k->step->op]->run(b, k, in, out, scratch, c, err);
}

static void kernel_free(struct backend *b, struct kernel *k)
{
    (void)b;
    mem_free(k->own);
    *k = (struct kernel){ 0 };
}

static void close_cpu(struct backend *b)
{
    struct cpu *cpu = cpu_of(b);

    if (cpu)
        matmul_close(cpu->matmul);
    mem_free(cpu);
    *b = (struct backend){ 0 };
}

int backend_cpu_open(struct backend *b, int threads, struct err *err)
{
    struct backend made = { .name = "cpu",
                            .threads = threads,
                            .prepare = prepare,
                            .run = run,
                            .kernel_free = kernel_free,
                            .close = close_cpu };
    char version[64];

    *b = (struct backend){ 0 };
    if (threads < 1)
        return err_set(err, ERR_USAGE, "the cpu backend cannot work with %d threads", threads);
    struct cpu *cpu = made.own = mem_array(1, 1, sizeof *cpu, MEM_OTHER, err);
    if (!cpu)
        return -1;
    omp_set_num_threads(threads);
    cpu->isa = matmul_isa();
    cpu->narrow_rows = NARROW_ROWS;
    if (matmul_open(&cpu->matmul, err) != 0) {
        close_cpu(&made);
        return -1;
    }
    matmul_version(version, sizeof version);
    snprintf(made.describe, sizeof made.describe, "%s, %s, %d thread%s", version, matmul_isa_name(cpu->isa), threads,
             threads == 1 ? "" : "s");
    *b = made;
    return 0;
}
