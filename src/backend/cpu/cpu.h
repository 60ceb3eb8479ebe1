/* backend/cpu/cpu.h - the table of the processor's kernels: each family of ops has one .c file here that defines the
 * struct cpu_op of its ops, and cpu.c lists them by op.
 *
 * All kernels are deterministic for a given number of threads and instruction set: no atomics, and reductions in an order
 * that depends on extents and thread count alone. Called by exec through backend.h. */
#ifndef TUNEUP_BACKEND_CPU_CPU_H
#define TUNEUP_BACKEND_CPU_CPU_H

#include "backend/backend.h"
#include "backend/cpu/matmul.h"

struct cpu_op {
    /* Sets k->scratch_bytes, and k->own if it wants to keep something: memory of mem_array that holds nothing to be freed
     * in turn, as kernel_free releases it. *k comes zeroed but for plan and step, whose operands are checked. */
    int (*prepare)(struct backend *b, struct kernel *k, struct err *err);
    int (*run)(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
               const struct run_context *c, struct err *err);
};

/* What backend.own of the processor's backend points to. */
struct cpu {
    enum cpu_isa isa;
    struct matmul *matmul;
    int64_t narrow_rows; /* products of at most so many rows are narrow.h's; bench/ sets 0 to compare */
};

static inline struct cpu *cpu_of(const struct backend *b)
{
    return b->own;
}

/* Which of the backend's threads this is, in a parallel region. */
int64_t cpu_thread(void);

extern const struct cpu_op cpu_linear, cpu_linear_dx, cpu_linear_dw, cpu_bias_grad, cpu_linear_ce, cpu_linear_ce_train;
extern const struct cpu_op cpu_quantize, cpu_linear_q8;
extern const struct cpu_op cpu_embed, cpu_embed_grad, cpu_add, cpu_relu, cpu_relu_grad, cpu_dropout, cpu_scale,
    cpu_convert;
extern const struct cpu_op cpu_layernorm, cpu_layernorm_grad, cpu_add_norm, cpu_add_norm_grad;
extern const struct cpu_op cpu_value_head, cpu_value_head_grad, cpu_pair_loss, cpu_pair_loss_grad;
extern const struct cpu_op cpu_cross_entropy, cpu_cross_entropy_grad, cpu_value_loss, cpu_value_loss_grad;
extern const struct cpu_op cpu_live_rows, cpu_pack, cpu_unpack;
extern const struct cpu_op cpu_sumsq, cpu_grad_scale, cpu_adamw, cpu_adamw8, cpu_ema, cpu_accumulate;
extern const struct cpu_op cpu_attention, cpu_attention_grad, cpu_flash_attention, cpu_flash_attention_grad;
extern const struct cpu_op cpu_kv_attention;

#endif
