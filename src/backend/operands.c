/* The forms are short texts, parsed when asked for: "+w?[V,C]" is an optional output of the working type that obeys
 * accumulate. A step is checked by binding each letter to the first extent that it meets. */
#include "backend/operands.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>

#include "graph/optimizer.h"

static const char *const forms[OP_N][2] = {
    [OP_EMBED] = { "i[N] w[V,C]", "w[N,C]" },
    [OP_EMBED_GRAD] = { "i[N] w[N,C]", "+w[V,C]" },
    [OP_ADD] = { "w[*] w[*]", "w[*]" },
    [OP_LINEAR] = { "w[N,K] w[M,K] w?[M] o?[N,M]", "o[N,M]" },
    [OP_QUANTIZE] = { "w[M,K]", "q[M,K] f[M,G]" },
    [OP_LINEAR_Q8] = { "w[N,K] q[M,K] f[M,G] w?[M]", "o[N,M]" },
    [OP_LINEAR_DX] = { "w[N,M] w[M,K]", "+w[N,K]" },
    [OP_LINEAR_DW] = { "w[N,M] w[N,K]", "+w[M,K] +w?[M]" },
    [OP_BIAS_GRAD] = { "w[N,M]", "+w[M]" },
    [OP_RELU] = { "w[*]", "w[*]" },
    [OP_RELU_GRAD] = { "w[*] w[*]", "w[*]" },
    [OP_DROPOUT] = { "w[N,C]", "w[N,C]" },
    [OP_SCALE] = { "w[N,C]", "w[N,C]" },
    [OP_CONVERT] = { "v[*]", "v[*]" },
    [OP_LAYERNORM] = { "w[N,C] w[C] w[C]", "w[N,C] f[N,2]" },
    [OP_LAYERNORM_GRAD] = { "w[N,C] w[N,C] f[N,2] w[C]", "w[N,C] +w?[C] +w?[C]" },
    [OP_ADD_NORM] = { "w[N,C] w[N,C] w[C] w[C]", "w[N,C] w[N,C] f[N,2]" },
    [OP_ADD_NORM_GRAD] = { "w[N,C] w?[N,C] w[N,C] f[N,2] w[C]", "w[N,C] w?[N,C] +w?[C] +w?[C]" },
    [OP_ATTENTION] = { "w[N,C] w[N,C] w[N,C] i[B,2]", "w[N,C] w[B,H,T,T]" },
    [OP_ATTENTION_GRAD] = { "w[N,C] w[N,C] w[N,C] w[N,C] w[B,H,T,T] i[B,2]", "w[N,C] w[N,C] w[N,C]" },
    [OP_FLASH_ATTENTION] = { "w[N,C] w[N,C] w[N,C] i[B,2]", "w[N,C] f[B,H,T]" },
    [OP_FLASH_ATTENTION_GRAD] = { "w[N,C] w[N,C] w[N,C] w[N,C] w[N,C] f[B,H,T] i[B,2]", "w[N,C] w[N,C] w[N,C]" },
    [OP_KV_ATTENTION] = { "w[N,C] w[N,C] w[N,C] i[B,2] i[B]", "w[N,C] w[B,S,C] w[B,S,C]" },
    [OP_CROSS_ENTROPY] = { "w[N,V] i[N] f[2] f?[N] f?[N]", "f[1] f[N] f?[N]" },
    [OP_CROSS_ENTROPY_GRAD] = { "w[N,V] f[N] i[N] f[2] f?[N] f?[N]", "w[N,V]" },
    [OP_LINEAR_CE] = { "w[N,E] w[V,E] i[N] f[2] f?[N] f?[N]", "f[1] f?[N]" },
    [OP_LINEAR_CE_TRAIN] = { "w[N,E] w[V,E] i[N] f[2] f?[N] f?[N]", "f[1] w[N,E] +w?[V,E] f?[N]" },
    [OP_VALUE_HEAD] = { "w[N,E] w[1,E]", "f[N]" },
    [OP_VALUE_HEAD_GRAD] = { "f[N] w[N,E] w[1,E]", "w[N,E] +w?[1,E]" },
    [OP_PAIR_LOSS] = { "f[N] i[Q,5] f[2]", "f[1]" },
    [OP_PAIR_LOSS_GRAD] = { "f[N] i[Q,5] f[2]", "f[N]" },
    [OP_VALUE_LOSS] = { "f[N] f[N] f[N] i[N] f[2]", "f[1]" },
    [OP_VALUE_LOSS_GRAD] = { "f[N] f[N] f[N] i[N] f[2]", "f[N]" },
    [OP_LIVE_ROWS] = { "i[B,2] i?[D] i?[Q,5] i?[D]", "i[B,4] i[N]" },
    [OP_PACK] = { "x[D] i[N]", "x[N]" },
    [OP_UNPACK] = { "x[N] i[N]", "x[D]" },
    [OP_SUMSQ] = { "v[~]", "+d[1]" },
    [OP_GRAD_SCALE] = { "d[1] d[P]", "v[~]" },
    [OP_ADAMW] = { "v[~] d[P] d?[1]", "v[~] f[~] f[~] m?[~]" },
    [OP_ADAMW8] = { "v[~] d[P] d?[1]", "v[~] q[~] q[~] m?[~] f[Z] f[Z]" },
    [OP_EMA] = { "v[~]", "v[~]" },
    [OP_ACCUMULATE] = { "v[~]", "+v[~]" },
};

/* One word of a form; returns what follows it. */
static const char *parse_operand(const char *s, struct operand_form *out)
{
    int n = 0;

    *out = (struct operand_form){ .adds = *s == '+' };
    s += out->adds;
    out->type = *s++;
    out->optional = *s == '?';
    s += out->optional;
    for (s++; *s != ']'; s++)
        if (*s != ',')
            out->extent[n++] = *s;
    return s[1] == ' ' ? s + 2 : s + 1;
}

bool operands_form(enum op op, struct op_form *out)
{
    *out = (struct op_form){ 0 };
    if (!forms[op][0])
        return false;
    for (const char *s = forms[op][0]; *s; out->n_in++)
        s = parse_operand(s, &out->in[out->n_in]);
    for (const char *s = forms[op][1]; *s; out->n_out++)
        s = parse_operand(s, &out->out[out->n_out]);
    return true;
}

struct checker {
    const struct plan *plan;
    const struct op_step *step;
    const char *backend;
    enum dtype working; /* DTYPE_N until an operand has shown it */
    bool fp64;
    const struct shape *same; /* of "*" operands */
    int64_t bound[128]; /* extents by letter; -1 = not met yet */
    struct err *err;
};

static int refuse(const struct checker *c, const struct buffer *b, const char *why)
{
    char shape[SHAPE_TEXT_MAX];

    err_set(c->err, ERR_RUN, "backend %s cannot do %s with \"%s\" %s of %s: %s", c->backend, op_rule(c->step->op)->name,
            b->name, shape_print(&b->shape, shape), dtype_name(b->dtype), why);
    return err_hint(c->err, "The plan is wrong: please report it with the command line that made it.");
}

static bool type_fits(struct checker *c, enum dtype t, char wanted)
{
    const bool fp32_or_more = t == F32 || (c->fp64 && t == F64);

    switch (wanted) {
    case 'w':
        if (c->working == DTYPE_N && (t == BF16 || t == F16 || fp32_or_more))
            c->working = t;
        return t == c->working;
    case 'x':
        if (c->working == DTYPE_N && (t == I32 || fp32_or_more))
            c->working = t;
        return t == c->working;
    case 'o':
        return t == c->working || fp32_or_more;
    case 'v':
        return t == BF16 || t == F16 || fp32_or_more;
    case 'f':
        return fp32_or_more;
    case 'm':
        return t == REST16 || fp32_or_more;
    case 'd':
        return t == F64;
    case 'q':
        return t == I8;
    default:
        return t == I32;
    }
}

static bool shape_fits(struct checker *c, const struct shape *s, const char *extent)
{
    const int rank = (int)strlen(extent);

    if (extent[0] == '~')
        return shape_count(s) >= 0;
    if (extent[0] == '*') {
        c->same = c->same ? c->same : s;
        return shape_equal(s, c->same);
    }
    if (s->rank != rank)
        return extent[0] == '1' && shape_count(s) == 1;
    for (int i = 0; i < rank; i++) {
        int64_t *bound = &c->bound[(int)extent[i]];

        if (*bound < 0)
            *bound = s->dim[i];
        if (*bound != s->dim[i])
            return false;
    }
    return true;
}

static int check_operand(struct checker *c, int index, const struct operand_form *form)
{
    const struct buffer *b;

    if (index < 0 && form->optional)
        return 0;
    if (index < 0)
        return err_set(c->err, ERR_RUN, "%s lacks an operand [%s]", op_rule(c->step->op)->name, form->extent);
    b = &c->plan->buffers[index];
    if (!type_fits(c, b->dtype, form->type))
        return refuse(c, b, "not a type that it takes there");
    if (!shape_fits(c, &b->shape, form->extent))
        return refuse(c, b, "the shape does not go with the others");
    return 0;
}

/* The range of a flat tensor, and m, v and master, which start at its begin. */
static int check_range(const struct checker *c, const struct op_form *form)
{
    const struct op_attrs *a = &c->step->attrs;
    const bool adamw = c->step->op == OP_ADAMW || c->step->op == OP_ADAMW8;

    if (a->begin < 0 || a->count < 0 || (adamw && (a->group < 0 || a->group >= OPTIMIZER_GROUPS)))
        return err_set(c->err, ERR_RUN, "%s of elements %" PRId64 " and %" PRId64 " more, group %d",
                       op_rule(c->step->op)->name, a->begin, a->count, a->group);
    if (adamw && c->step->out[3] >= 0) {
        const struct buffer *param = &c->plan->buffers[c->step->out[0]], *master = &c->plan->buffers[c->step->out[3]];
        if (master->dtype == REST16 && param->dtype != BF16)
            return refuse(c, master, "it is what bf16 weights lack");
    }
    if (c->step->op == OP_ADAMW8 && c->bound['Z'] < (a->count + STATE_BLOCK - 1) / STATE_BLOCK)
        return refuse(c, &c->plan->buffers[c->step->out[4]], "blocks lack a scale");
    for (int i = 0; i < form->n_in + form->n_out; i++) {
        const bool out = i >= form->n_in;
        const struct operand_form *f = out ? &form->out[i - form->n_in] : &form->in[i];
        const int index = out ? c->step->out[i - form->n_in] : c->step->in[i];

        if (index < 0 || f->extent[0] != '~')
            continue;
        const struct buffer *b = &c->plan->buffers[index];
        if (shape_count(&b->shape) - (f->type == 'v' ? a->begin : 0) < a->count)
            return refuse(c, b, "the range ends beyond it");
    }
    return 0;
}

/* PPO's losses; those over the vocabulary are meant as such when their last two inputs, old and advantage, are there. */
static int check_clip(const struct checker *c, const struct op_form *form)
{
    const int old = c->step->in[form->n_in - 2], advantage = c->step->in[form->n_in - 1];
    const char *name = op_rule(c->step->op)->name;

    if ((old < 0) != (advantage < 0))
        return err_set(c->err, ERR_RUN, "%s with one of old and advantage, but not both", name);
    if (old >= 0 && !(c->step->attrs.clip > 0))
        return err_set(c->err, ERR_RUN, "%s with the clip %g", name, c->step->attrs.clip);
    return 0;
}

/* The places of a batch are whole rows, and live ones are some of them. */
static int check_live(const struct checker *c)
{
    const int64_t B = c->bound['B'], D = c->bound['D'], N = c->bound['N'], Q = c->bound['Q'];

    if (B > 0 && N > 0 && (D < 0 || (D % B == 0 && N <= D)) && (Q < 0 || 2 * Q == B))
        return 0;
    return err_set(c->err, ERR_RUN,
                   "live_rows of %" PRId64 " rows: %" PRId64 " places of %" PRId64 ", %" PRId64 " pairs", B, N, D, Q);
}

static int check_attrs(const struct checker *c, const struct op_form *form)
{
    const struct op_attrs *a = &c->step->attrs;
    const int64_t *bound = c->bound;
    const char *name = op_rule(c->step->op)->name;
    const bool packed = kernel_is_packed(&(struct kernel){ .plan = c->plan, .step = c->step });

    if (c->step->op == OP_LIVE_ROWS)
        return check_live(c);
    if (bound['B'] > 0 && ((!packed && bound['N'] % bound['B'] != 0) || a->heads < 1 || bound['C'] % a->heads != 0))
        return err_set(c->err, ERR_RUN,
                       "%s of %" PRId64 " rows in %" PRId64 ", %" PRId64 " channels in %" PRId64 " heads", name,
                       bound['N'], bound['B'], bound['C'], a->heads);
    if (bound['T'] >= 0 && (packed ? bound['B'] * bound['T'] < bound['N'] : bound['B'] * bound['T'] != bound['N']))
        return err_set(c->err, ERR_RUN, "%s of %" PRId64 " x %" PRId64 " tokens in %" PRId64 " rows", name, bound['B'],
                       bound['T'], bound['N']);
    if (bound['Q'] == 0 || (bound['Q'] > 0 && bound['N'] % (2 * bound['Q']) != 0))
        return err_set(c->err, ERR_RUN, "%s of %" PRId64 " scores in %" PRId64 " pairs of rows", name, bound['N'],
                       bound['Q']);
    if (bound['G'] >= 0 && bound['G'] != (bound['K'] + INT8_GROUP - 1) / INT8_GROUP)
        return err_set(c->err, ERR_RUN, "%s of %" PRId64 " columns in %" PRId64 " groups", name, bound['K'],
                       bound['G']);
    if (!(a->p >= 0 && a->p < 1))
        return err_set(c->err, ERR_RUN, "%s with the probability or decay %g", name, (double)a->p);
    switch (c->step->op) {
    case OP_LINEAR:
        if (c->step->in[3] >= 0 && c->plan->buffers[c->step->in[3]].dtype != c->plan->buffers[c->step->out[0]].dtype)
            return refuse(c, &c->plan->buffers[c->step->in[3]], "it is not of the result's type");
        return 0;
    case OP_SCALE:
        return isfinite(a->scale) ? 0 : err_set(c->err, ERR_RUN, "%s by %g", name, a->scale);
    case OP_LINEAR_CE:
    case OP_LINEAR_CE_TRAIN:
        if (a->chunk < 1)
            return err_set(c->err, ERR_RUN, "%s by %" PRId64 " rows", name, a->chunk);
        return check_clip(c, form);
    case OP_CROSS_ENTROPY:
    case OP_CROSS_ENTROPY_GRAD:
    case OP_VALUE_LOSS:
    case OP_VALUE_LOSS_GRAD:
        return check_clip(c, form);
    default:
        return check_range(c, form);
    }
}

int operands_check(const struct plan *p, const struct op_step *s, const char *backend, bool fp64, struct err *err)
{
    struct checker c = { .plan = p, .step = s, .backend = backend, .working = DTYPE_N, .fp64 = fp64, .err = err };
    struct op_form form;

    if (!operands_form(s->op, &form))
        return err_set(err, ERR_RUN, "backend %s has no %s: comm does it", backend, op_rule(s->op)->name);
    memset(c.bound, -1, sizeof c.bound);
    c.bound['1'] = 1;
    c.bound['2'] = 2;
    c.bound['4'] = 4;
    c.bound['5'] = 5;
    c.bound['P'] = HYPER_N;
    if (s->attrs.heads > 0)
        c.bound['H'] = s->attrs.heads;
    for (int i = 0; i < form.n_in; i++)
        if (check_operand(&c, s->in[i], &form.in[i]) != 0)
            return -1;
    for (int i = 0; i < form.n_out; i++)
        if (check_operand(&c, s->out[i], &form.out[i]) != 0)
            return -1;
    return check_attrs(&c, &form);
}

int operands_check_ids(const int32_t *ids, int64_t count, int32_t low, int64_t n, const char *what, struct err *err)
{
    for (int64_t i = 0; i < count; i++)
        if (ids[i] < low || ids[i] >= n)
            return err_set(err, ERR_RUN, "%s %" PRId64 " is %" PRId32 ", which is not in 0 .. %" PRId64, what, i,
                           ids[i], n - 1);
    return 0;
}

int operands_check_columns(const int32_t *at, int64_t B, int64_t last, struct err *err)
{
    for (int64_t b = 0; b < B; b++)
        if (at[b] < 0 || at[b] > last)
            return err_set(err, ERR_RUN,
                           "row %" PRId64 " is to be cached from column %" PRId32 " on, which is not in 0 .. %" PRId64,
                           b, at[b], last);
    return 0;
}

int operands_check_pairs(const int32_t *pairs, int64_t B, int64_t T, struct err *err)
{
    if (B % 2 != 0)
        return err_set(err, ERR_RUN, "%" PRId64 " rows of scores do not come in pairs", B);
    for (int64_t p = 0; p < B / 2; p++) {
        const int32_t *pair = pairs + PAIR_N * p;
        const bool begins = pair[PAIR_CHOSEN_BEGIN] >= 0 && pair[PAIR_REJECTED_BEGIN] >= 0;
        const bool lasts = pair[PAIR_CHOSEN_LAST] >= 0 && pair[PAIR_CHOSEN_LAST] < T && pair[PAIR_REJECTED_LAST] >= 0 &&
                           pair[PAIR_REJECTED_LAST] < T;

        if (!begins || !lasts || pair[PAIR_TERMS] < 0 || pair[PAIR_TERMS] > T)
            return err_set(err, ERR_RUN, "pair %" PRId64 " compares scores that are not in its rows of %" PRId64, p, T);
    }
    return 0;
}
