/* graph/op.h - the op table: what every operation of a plan reads, writes and costs.
 *
 * An op is pure data here: its name, its gradient rule, its cost. Kernels live in backend/, one a backend. Letters:
 * N = B*T token rows, C, E, K, M widths, V vocabulary, H heads, T tokens a row, S columns of a cache. "|[]" marks an optional operand (-1 when
 * missing). Types: the working type (fp32, bf16 or fp16) unless said; "+" marks an output that obeys attrs.accumulate.
 *
 *  op                    in                                         out                                       attrs
 *  embed                 ids[N] i32, table[V,C]                     y[N,C]
 *  embed_grad            ids[N], dy[N,C]                            +dtable[V,C]                              skip_row
 *  add                   a, b                                       y (shape of a)
 *  linear                x[N,K], w[M,K], bias[M]|[], z[N,M]|[]      y[N,M], also f32, as z                    relu
 *  quantize              w[M,K]                                     wq[M,K] i8, scales[M,G] f32
 *  linear_q8             x[N,K], wq[M,K] i8, scales[M,G] f32,       y[N,M], also f32                          relu
 *                        bias[M]|[]
 *  linear_dx             dy[N,M], w[M,K]                            +dx[N,K]
 *  linear_dw             dy[N,M], x[N,K]                            +dw[M,K], +db[M]|[]
 *  bias_grad             dy[N,M]                                    +db[M]
 *  relu                  x                                          y
 *  relu_grad             dy, y                                      dx = dy where y > 0, else 0
 *  dropout               x[N,C]                                     y[N,C] (its own gradient op too)          p site
 *  scale                 x[N,C]                                     y[N,C] (its own gradient op too)          scale
 *  convert               x                                          y, fp32 or bf16 either
 *  layernorm             x[N,C], g[C], b[C]                         y[N,C], stats[N,2] f32 (mean, 1/sd)
 *  layernorm_grad        dy, x, stats, g                            dx, +dg[C]|[], +db[C]|[]
 *  add_norm              a[N,C], r[N,C], g, b                       s = a + dropout(r), y = norm(s), stats    p site
 *  add_norm_grad         dy, ds|[], s, stats, g                     dz (to a), dr (to r; [] if p = 0),
 *                                                                   +dg|[], +db|[]                            p site
 *  attention             q, k, v [N,C], spans[B,2] i32              o[N,C], probs[B,H,T,T]                    heads
 *  attention_grad        do, q, k, v, probs, spans                  dq, dk, dv                                heads
 *  flash_attention       q, k, v [N,C], spans                       o[N,C], lse[B,H,T] f32                    heads
 *  flash_attention_grad  do, q, k, v, o, lse, spans                 dq, dk, dv                                heads
 *  kv_attention          q, k, v [N,C], spans[B,2], at[B] i32       o[N,C], kcache[B,S,C], vcache in place    heads
 *  cross_entropy         logits[N,V], targets[N] i32, norm[2] f32,  loss[1] f32, lse[N] f32, logp[N] f32|[]   clip
 *                        old[N] f32|[], advantage[N] f32|[]
 *  cross_entropy_grad    logits, lse, targets, norm, old|[],        dlogits[N,V]                              clip
 *                        advantage|[]
 *  linear_ce             h[N,E], w[V,E], targets, norm, old|[],     loss[1] f32, logp[N] f32|[]               chunk clip
 *                        advantage|[]
 *  linear_ce_train       h, w, targets, norm, old|[], advantage|[]  loss, dh[N,E], +dw[V,E]|[],               chunk clip
 *                                                                   logp[N] f32|[]
 *  value_head            h[N,E], w[1,E]                             r[N] f32
 *  value_head_grad       dr[N] f32, h, w                            dh[N,E], +dw[1,E]|[]
 *  pair_loss             r[N] f32, pairs[Q,5] i32, norm[2] f32      loss[1] f32
 *  pair_loss_grad        r, pairs, norm                             dr[N] f32
 *  value_loss            v[N] f32, old[N] f32, returns[N] f32,      loss[1] f32                               clip
 *                        targets[N] i32, norm[2] f32
 *  value_loss_grad       v, old, returns, targets, norm             dv[N] f32                                 clip
 *  live_rows             spans[B,2] i32, targets[D] i32|[],         live[B,4] i32, places[N] i32
 *                        pairs[Q,5] i32|[], ids[D] i32|[]                                                   padding shares
 *  pack                  x[D] i32 or f32, places[N]                 y[N]
 *  unpack                y[N] i32 or f32, places[N]                 x[D]
 *  sumsq                 x                                          +sum[1] f64                               begin count
 *  grad_scale            sum[1] f64, hyper f64                      x, in place                               begin count
 *  adamw                 g, hyper f64, sum[1] f64|[]                param, m f32, v f32, master|[]            begin count group
 *  adamw8                g, hyper f64, sum[1] f64|[]                param, m i8, v i8, master|[],             begin count group
 *                                                                   m_scales[Z] f32, v_scales[Z] f32
 *  ema                   param                                      ema, in place                             begin count p
 *  accumulate            x                                          +y                                        begin count
 *  all_reduce            -                                          x, in place                               begin count bucket
 *  reduce_scatter        -                                          g (own shard valid after),                bucket count
 *                                                                   comm[R*bucket]|[]
 *  all_gather            -                                          x (own shard valid before)
 *  file_read             x in a file                                y (valid after file_wait)                 begin count
 *  file_write            x (left alone until file_wait)             y in a file                               begin count
 *  file_wait             -                                          up to 6 of memory: reads and writes done
 *  wait                  x                                          -
 *
 * linear: y = x wT + bias + z, then ReLU; y may have the memory of z. Gradients of what does not learn are
 * left out.
 * norm: layer norm, epsilon 1e-5, biased variance; statistics in fp32 at least.
 * quantize: each row of w in groups of INT8_GROUP, G = K / INT8_GROUP rounded up; a group's scale is its largest magnitude
 * over 127, wq = w * (127 / that magnitude), to the nearest even, all in fp32. A group with what is not finite has the scale
 * NaN, one below 1e-36 the scale 0; their wq are 0. linear_q8 is linear with w = wq * scales. No gradients.
 * attention: scale D^-0.5; query t sees keys s with spans[b][0] <= s < spans[b][1] and s <= t; a query that sees none gives
 * o = 0 (probs 0; lse +inf) and no gradient. Softmax in fp32.
 * kv_attention: attention to what was said before. Row b's T new keys and values go to columns at[b] .. at[b]+T-1 of its
 * caches, then its query t sees columns s with spans[b][0] <= s < spans[b][1] and s <= at[b]+t. No gradient.
 * cross_entropy: loss = norm[0] * sum over the rows whose target is >= 0 of the row's loss, a function of the target's
 * log-probability logp = its logit - logsumexp: -logp; or, with old and advantage (both or none), PPO's clipped policy loss
 * max(-A rho, -A clip(rho, 1-clip, 1+clip)), rho = exp(logp - old). Gradients are norm[1] times the loss's there, 0 in the
 * other rows, as is logp; softmax in fp32.
 * linear_ce, linear_ce_train: the same on logits = h wT, made chunk rows at a time, so that no [N,V] tensor exists.
 * pair_loss: rows p and Q+p of the 2Q = B rows of T scores are the chosen and the rejected answer of pair p. Its line of
 * pairs is chosen begin, rejected begin, n, chosen last, rejected last, positions in 0 .. T-1 (begins may be larger); term k
 * of n compares the scores x = r[min(begin + k, last)] of both rows: -log sigmoid(x chosen - x rejected). A pair's loss is
 * the mean of its terms, or ln 2 without gradient when n = 0; loss = norm[0] * their sum, gradients are times norm[1].
 * value_loss: loss = norm[0] * sum over the rows whose target is >= 0 of 1/2 max((v - returns)^2, (clipped - returns)^2),
 * clipped = clip(v, old-clip, old+clip): PPO's clipped loss of a critic. Its gradient is norm[1] times that of the sum.
 * live_rows, pack, unpack: of the D = B*T places of a batch only N are worked on, where a program's token tensors are packed:
 * row b's places 0 .. end-1, so that causal attention misses nothing. end is the first past its visible keys, its targets and
 * the scores that its pair compares (with attrs.padding: T); some padding may be among them, so that N is a round number. With
 * attrs.shares, a rejected row's places before its first live one are those of the chosen row, which has the same ids there. live: for each row where it
 * begins in packed tensors, its first live place, one past its last, and the row that has the places before (-1: none); places: of each packed row, b*T + t. pack gathers
 * them, unpack puts them back, shared ones twice, 0 elsewhere; its gradient takes shared places from the chosen row alone. Attention keeps its [B,H,..] forms, of which it fills the live places.
 * dropout: keeps x / (1-p) where a 16-bit draw is at least round(p * 65536), see backend/dropout.h; off unless training.
 * sumsq: sum of squares of x[begin .. begin+count) in fp64. adamw, grad_scale: graph/optimizer.h has the formulas; the range
 * is of the flat tensors g and param, while m, v and master hold this rank's share and start at the range's begin.
 * master: fp32 weights, or with bf16 ones what they lack to be fp32 (REST16).
 * adamw with sum clips and undoes the loss's scale as it goes; without it, the gradient was scaled before. adamw8: the same on moments in the 8-bit codes
 * of backend/dynamic8.h, signed for m, unsigned for v, a scale for each STATE_BLOCK elements of the share, Z = count /
 * STATE_BLOCK rounded up. The weights move by the moments as they are before they are coded; all in fp32.
 * ema: ema = p ema + (1-p) param in the range, which is of both tensors; either may be fp32, bf16 or fp16.
 * accumulate: y = x, or y + x, in the range of both flat tensors; either may be fp32, bf16 or fp16.
 * reduce_scatter: through comm, a bucket at a time; without it, g is sent as it lies, and what follows its first count
 * elements, padding, is cleared before. With attrs.begins a step only begins what it does with x, and x is not to be touched
 * until the wait on it.
 * file_read, file_write: start to move elements begin .. begin+count of the share in a file, which in memory begin at 0. */
#ifndef TUNEUP_GRAPH_OP_H
#define TUNEUP_GRAPH_OP_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

enum op {
    OP_EMBED,
    OP_EMBED_GRAD,
    OP_ADD,
    OP_LINEAR,
    OP_QUANTIZE,
    OP_LINEAR_Q8,
    OP_LINEAR_DX,
    OP_LINEAR_DW,
    OP_BIAS_GRAD,
    OP_RELU,
    OP_RELU_GRAD,
    OP_DROPOUT,
    OP_SCALE,
    OP_CONVERT,
    OP_LAYERNORM,
    OP_LAYERNORM_GRAD,
    OP_ADD_NORM,
    OP_ADD_NORM_GRAD,
    OP_ATTENTION,
    OP_ATTENTION_GRAD,
    OP_FLASH_ATTENTION,
    OP_FLASH_ATTENTION_GRAD,
    OP_KV_ATTENTION,
    OP_CROSS_ENTROPY,
    OP_CROSS_ENTROPY_GRAD,
    OP_LINEAR_CE,
    OP_LINEAR_CE_TRAIN,
    OP_VALUE_HEAD,
    OP_VALUE_HEAD_GRAD,
    OP_PAIR_LOSS,
    OP_PAIR_LOSS_GRAD,
    OP_VALUE_LOSS,
    OP_VALUE_LOSS_GRAD,
    OP_LIVE_ROWS,
    OP_PACK,
    OP_UNPACK,
    OP_SUMSQ,
    OP_GRAD_SCALE,
    OP_ADAMW,
    OP_ADAMW8,
    OP_EMA,
    OP_ACCUMULATE,
    OP_ALL_REDUCE,
    OP_REDUCE_SCATTER,
    OP_ALL_GATHER,
    OP_FILE_READ,
    OP_FILE_WRITE,
    OP_FILE_WAIT,
    OP_WAIT,
    OP_N,
};

/* The columns of pair_loss's pairs. */
enum pair { PAIR_CHOSEN_BEGIN, PAIR_REJECTED_BEGIN, PAIR_TERMS, PAIR_CHOSEN_LAST, PAIR_REJECTED_LAST, PAIR_N };

/* The columns of live_rows' live. */
enum live { LIVE_BEGIN, LIVE_FIRST, LIVE_END, LIVE_SHARES, LIVE_N };

#define INT8_GROUP 128 /* weights of a row that share a scale */

#define STATE_BLOCK 256 /* moments in 8 bits that share a scale */

#define OP_MAX_IN 7
#define OP_MAX_OUT 6

/* How a "+" output is written: overwritten; added to; or overwritten in the first micro-batch of an update and added to in
 * the later ones (the first writer of a parameter's gradient). */
enum accumulate { ACCUMULATE_NO, ACCUMULATE_YES, ACCUMULATE_UNLESS_FIRST };

struct op_attrs {
    int64_t heads;
    bool relu;
    float p; /* dropout probability; ema's decay */
    int32_t site; /* which dropout of the model: its own stream of draws */
    int32_t skip_row; /* embed_grad: the row that gets no gradient, or -1 */
    enum accumulate accumulate; /* of every "+" output */
    int64_t chunk; /* linear_ce: rows at a time */
    bool padding, shares; /* live_rows: padding is live too; a rejected row begins where its text does */
    double clip; /* of PPO's losses */
    double scale;
    int64_t begin, count; /* a range of elements of a flat tensor */
    int64_t bucket; /* elements sent at a time */
    bool begins; /* a later OP_WAIT ends it */
    int group; /* adamw: which of the hyper's learning rates and decays */
    double rate; /* adamw: the group's own highest learning rate; 0: the run's */
};

struct op_cost {
    double flops; /* a multiplication and an addition are two */
    double bytes_moved; /* each operand read once and each result written once */
    double comm_bytes; /* sent by one rank */
    double file_bytes; /* read from files and written to them */
};

/* What cost rules see of an operand. */
struct operand {
    enum dtype dtype;
    struct shape shape;
    bool there;
};

struct graph;

struct op_rule {
    const char *name;
    int n_in, n_out;
    /* Adds the backward pass of node n: dout[i] is the gradient of its output i, or -1. NULL: no gradient flows. */
    int (*gradient)(struct graph *g, int node, const int *dout, struct err *err);
    /* flops alone; bytes_moved is counted for all ops alike. ranks: how many take part. NULL: no flops. */
    double (*flops)(const struct operand *in, const struct operand *out, const struct op_attrs *attrs);
    bool matmul; /* its flops are matrix products */
};

const struct op_rule *op_rule(enum op op);
int op_in_place(enum op op); /* the input over which output 0 may be written, if nobody reads it any more; -1 = none */
bool op_is_collective(enum op op); /* by all ranks together, through comm rather than a kernel */
static inline bool op_moves_files(enum op op)
{
    return op == OP_FILE_READ || op == OP_FILE_WRITE || op == OP_FILE_WAIT;
}

/* The families of graph/ops: each row of the table names its functions there. */
int op_embed_gradient(struct graph *g, int node, const int *dout, struct err *err);
int op_add_gradient(struct graph *g, int node, const int *dout, struct err *err);
int op_linear_gradient(struct graph *g, int node, const int *dout, struct err *err);
int op_relu_gradient(struct graph *g, int node, const int *dout, struct err *err);
int op_dropout_gradient(struct graph *g, int node, const int *dout, struct err *err); /* scale's too */
int op_layernorm_gradient(struct graph *g, int node, const int *dout, struct err *err);
int op_add_norm_gradient(struct graph *g, int node, const int *dout, struct err *err);
int op_attention_gradient(struct graph *g, int node, const int *dout, struct err *err);
int op_cross_entropy_gradient(struct graph *g, int node, const int *dout, struct err *err);
int op_linear_ce_gradient(struct graph *g, int node, const int *dout, struct err *err);
int op_value_head_gradient(struct graph *g, int node, const int *dout, struct err *err);
int op_pair_loss_gradient(struct graph *g, int node, const int *dout, struct err *err);
int op_value_loss_gradient(struct graph *g, int node, const int *dout, struct err *err);
int op_unpack_gradient(struct graph *g, int node, const int *dout, struct err *err);

#endif
