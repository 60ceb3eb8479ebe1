/* tests/backend/op_fixture.h - one step of any op with random operands, ready to run on any backend: made from the op's
 * form, so that a new op needs no code here unless its integers mean something new.
 *
 * Rows beyond the ones in use hold 0xff bytes (NaN, -1): a kernel that reads them shows, and the ones that it must leave
 * alone are checked after each run. Buffers are exactly as large as planned, for the address sanitizer. */
#ifndef TUNEUP_TESTS_OP_FIXTURE_H
#define TUNEUP_TESTS_OP_FIXTURE_H

#include <math.h>

#include "backend/operands.h"
#include "base/mem.h"
#include "base/rng.h"
#include "graph/optimizer.h"
#include "test.h"

#define MAX_OPERANDS (OP_MAX_IN + OP_MAX_OUT)

struct sample {
    enum op op;
    struct op_attrs attrs;
    enum dtype type;
    int64_t B, T, C, K, M, V, E; /* N = B*T */
    int64_t S; /* 0 = some more than T */
    int64_t planned_B, planned_T; /* 0 = as B and T */
    bool wide; /* fp32 where the working type may also be that */
    bool bare; /* without optional operands */
    bool frozen; /* without the gradients that are optional */
    bool later_micro;
    bool packed; /* token tensors hold live rows alone */
    bool shares; /* and some rows share their beginning with another */
};

#define MAX_ROWS 8
#define MAX_PLACES 1000

struct fixture {
    struct sample sample;
    struct op_form form;
    struct plan plan;
    struct buffer buffers[MAX_OPERANDS]; /* inputs, then outputs */
    int64_t used[MAX_OPERANDS]; /* elements at the start that this run works on */
    void *data[MAX_OPERANDS];
    struct op_step step;
    struct run_context c;
    struct live_row live[MAX_ROWS];
    int32_t places[MAX_PLACES];
    int64_t n_live;
};

/* Forward ops and their gradients. in names the gradient's inputs: i2 = the forward's input 2, o1 its output 1, d0 the
 * gradient of its output 0. out: the forward input that each output is the gradient of; '.' = it is none. */
struct gradient_link {
    enum op forward, gradient;
    const char *in, *out;
};

static const struct gradient_link links[] = {
    { OP_EMBED, OP_EMBED_GRAD, "i0 d0", "1" },
    { OP_LINEAR, OP_LINEAR_DX, "d0 i1", "0" },
    { OP_LINEAR, OP_LINEAR_DW, "d0 i0", "12" },
    { OP_LINEAR, OP_BIAS_GRAD, "d0", "2" },
    { OP_RELU, OP_RELU_GRAD, "d0 o0", "0" },
    { OP_DROPOUT, OP_DROPOUT, "d0", "0" },
    { OP_SCALE, OP_SCALE, "d0", "0" },
    { OP_LAYERNORM, OP_LAYERNORM_GRAD, "d0 i0 o1 i1", "012" },
    { OP_ADD_NORM, OP_ADD_NORM_GRAD, "d1 d0 o0 o2 i2", "0123" },
    { OP_ATTENTION, OP_ATTENTION_GRAD, "d0 i0 i1 i2 o1 i3", "012" },
    { OP_FLASH_ATTENTION, OP_FLASH_ATTENTION_GRAD, "d0 i0 i1 i2 o0 o1 i3", "012" },
    { OP_CROSS_ENTROPY, OP_CROSS_ENTROPY_GRAD, "i0 o1 i1 i2 i3 i4", "0" },
    { OP_VALUE_LOSS, OP_VALUE_LOSS_GRAD, "i0 i1 i2 i3 i4", "0" },
    { OP_LINEAR_CE, OP_LINEAR_CE_TRAIN, "i0 i1 i2 i3 i4 i5", ".01" },
    { OP_VALUE_HEAD, OP_VALUE_HEAD_GRAD, "d0 i0 i1", "01" },
    { OP_PAIR_LOSS, OP_PAIR_LOSS_GRAD, "i0 i1 i2", "0" },
    { OP_UNPACK, OP_PACK, "d0 i1", "0" },
};

static inline const struct gradient_link *link_of_gradient(enum op op)
{
    for (int i = 0; i < COUNT_OF(links); i++)
        if (links[i].gradient == op && links[i].forward != op)
            return &links[i];
    return NULL;
}

static inline const struct operand_form *form_of(const struct fixture *f, int i)
{
    return i < f->form.n_in ? &f->form.in[i] : &f->form.out[i - f->form.n_in];
}

static inline int n_operands(const struct fixture *f)
{
    return f->form.n_in + f->form.n_out;
}

static inline double get(const struct fixture *f, int i, int64_t at)
{
    const void *p = f->data[i];

    switch (f->buffers[i].dtype) {
    case F32:
        return (double)((const float *)p)[at];
    case BF16:
    case F16:
        return (double)half_to_f32(((const uint16_t *)p)[at], f->buffers[i].dtype);
    case F64:
        return ((const double *)p)[at];
    case I8:
        return (double)((const int8_t *)p)[at];
    default:
        return (double)((const int32_t *)p)[at];
    }
}

static inline void put(struct fixture *f, int i, int64_t at, double x)
{
    if (f->buffers[i].dtype == I32)
        ((int32_t *)f->data[i])[at] = (int32_t)x;
    else if (f->buffers[i].dtype == I8)
        ((int8_t *)f->data[i])[at] = (int8_t)fmax(-127, fmin(127, 40 * x));
    else
        dtype_convert((char *)f->data[i] + (size_t)at * dtype_bytes(f->buffers[i].dtype), f->buffers[i].dtype, &x, F64,
                      1);
}

/* What of row b is live where tensors are packed: never less than fill_spans shows of it. */
static inline int64_t row_end(int64_t b, int64_t T)
{
    const int64_t kinds[5] = { T - T / 4, T, T, T - T / 3, 1 };

    return kinds[b % 5];
}

/* Rows 2 and 3 share with row 1, where that is asked, half of it and all but the last. */
static inline int64_t row_first(const struct sample *s, int64_t b)
{
    return s->shares && b == 2 ? s->T / 2 : s->shares && b == 3 ? row_end(b, s->T) - 1 : 0;
}

static inline int64_t n_live(const struct sample *s)
{
    int64_t n = 0;

    for (int64_t b = 0; b < s->B; b++)
        n += row_end(b, s->T) - row_first(s, b);
    return n;
}

static inline int64_t extent_of(const struct sample *s, char letter, bool planned)
{
    const int64_t B = planned && s->planned_B ? s->planned_B : s->B, T = planned && s->planned_T ? s->planned_T : s->T;

    switch (letter) {
    case 'N':
        return !s->packed || (planned && (s->planned_B || s->planned_T)) ? B * T : n_live(s);
    case 'D':
        return B * T;
    case 'B':
        return B;
    case 'Q':
        return B / 2;
    case 'T':
        return T;
    case 'S':
        return s->S ? s->S : s->T + 9;
    case 'C':
        return s->C;
    case 'K':
        return s->K;
    case 'M':
        return s->M;
    case 'V':
        return s->V;
    case 'E':
        return s->E;
    case 'G':
        return (s->K + INT8_GROUP - 1) / INT8_GROUP;
    case 'H':
        return s->attrs.heads;
    case 'P':
        return HYPER_N;
    case 'Z':
        return (s->attrs.count + STATE_BLOCK - 1) / STATE_BLOCK;
    default:
        return letter - '0';
    }
}

static inline struct shape shape_for(const struct sample *s, const struct operand_form *form, bool planned)
{
    struct shape shape = { 0 };

    if (form->extent[0] == '*')
        return shape_of(2, extent_of(s, 'N', planned), s->C);
    if (form->extent[0] == '~')
        return shape_of(1, s->attrs.count + (form->type == 'v' ? s->attrs.begin + 3 : 0));
    for (; form->extent[shape.rank]; shape.rank++)
        shape.dim[shape.rank] = extent_of(s, form->extent[shape.rank], planned);
    return shape;
}

static inline enum dtype dtype_for(const struct sample *s, const struct operand_form *form)
{
    switch (form->type) {
    case 'i':
        return I32;
    case 'd':
        return F64;
    case 'q':
        return I8;
    case 'o':
        return s->wide && (s->type == BF16 || s->type == F16) ? F32 : s->type;
    case 'x':
        return s->wide ? I32 : s->type == F64 ? F64 : F32;
    case 'f':
    case 'm':
        return s->type == F64 ? F64 : F32;
    default:
        return s->type;
    }
}

static inline void lay_live(struct fixture *f)
{
    assert_true(f->sample.B <= MAX_ROWS && f->sample.B * f->sample.T <= MAX_PLACES);
    for (int64_t b = 0; b < f->sample.B; b++) {
        const int32_t end = (int32_t)row_end(b, f->sample.T), first = (int32_t)row_first(&f->sample, b);
        f->live[b] = (struct live_row){ (int32_t)f->n_live, first, end, first > 0 ? 1 : -1 };
        for (int64_t t = first; t < f->live[b].end; t++)
            f->places[f->n_live++] = (int32_t)(b * f->sample.T + t);
    }
}

static inline void fixture_init(struct fixture *f, const struct sample *s)
{
    struct err err = { 0 };

    *f = (struct fixture){ .sample = *s };
    operands_form(s->op, &f->form);
    if ((f->form.n_in > 1 && f->form.in[1].extent[0] == 'Q') || s->op == OP_LIVE_ROWS) { /* rows come in pairs */
        f->sample.B += s->B % 2;
        f->sample.planned_B += s->planned_B % 2;
        s = &f->sample;
    }
    if (s->op == OP_PACK || s->op == OP_UNPACK || s->packed) {
        f->sample.packed = true;
        s = &f->sample;
        lay_live(f);
    }
    f->plan = (struct plan){ .buffers = f->buffers, .n_buffers = n_operands(f) };
    f->step = (struct op_step){ .op = s->op, .attrs = s->attrs };
    memset(f->step.in, -1, sizeof f->step.in);
    memset(f->step.out, -1, sizeof f->step.out);
    for (int i = 0; i < n_operands(f); i++) {
        const struct operand_form *form = form_of(f, i);
        const struct shape used = shape_for(s, form, false);
        struct buffer *b = &f->buffers[i];
        static const char *const names[] = { "operand 0", "operand 1", "operand 2", "operand 3",
                                             "operand 4", "operand 5", "operand 6", "operand 7",
                                             "operand 8", "operand 9", "operand 10" };

        *b = (struct buffer){ .name = names[i],
                              .kind = KIND_ACTIVATION,
                              .dtype = dtype_for(s, form),
                              .shape = shape_for(s, form, true),
                              .packed = s->packed && (form->extent[0] == 'N' || form->extent[0] == '*'),
                              .shards = 1,
                              .parent = -1 };
        f->used[i] = shape_count(&used);
        if (form->optional && (s->bare || (s->frozen && form->adds)))
            continue;
        *(i < f->form.n_in ? &f->step.in[i] : &f->step.out[i - f->form.n_in]) = i;
        b->count = shape_count(&b->shape);
        b->bytes = (size_t)b->count * dtype_bytes(b->dtype);
        f->data[i] = mem_array((int64_t)b->bytes, 1, 1, MEM_OTHER, &err);
        assert_non_null(f->data[i]);
        memset(f->data[i], 0xff, b->bytes);
    }
    f->c = (struct run_context){ .B = s->B,
                                 .T = s->T,
                                 .first_row = 5,
                                 .row_step = 3,
                                 .seed = 0x123456789abcu,
                                 .training = true,
                                 .first_micro = !s->later_micro };
}

static inline void fixture_free(struct fixture *f)
{
    for (int i = 0; i < MAX_OPERANDS; i++) {
        mem_free(f->data[i]);
        f->data[i] = NULL;
    }
}

/* Spans with room left, right and on both sides, a whole row and one that sees nothing. */
static inline void fill_spans(struct fixture *f, int i)
{
    const int64_t T = extent_of(&f->sample, f->sample.op == OP_KV_ATTENTION ? 'S' : 'T', false);

    for (int64_t b = 0; b < f->sample.B; b++) { /* rows that share see the same keys there */
        const int64_t kinds[5][2] = {
            { T / 3, T - T / 4 }, { 0, T }, { f->sample.shares ? 0 : T / 2, T }, { 0, T - T / 3 }, { T, T }
        };

        put(f, i, 2 * b, (double)kinds[b % 5][0]);
        put(f, i, 2 * b + 1, (double)kinds[b % 5][1]);
    }
}

/* Pairs that go on past the end of one row, past that of both, compare nothing, all, the last scores alone. */
static inline void fill_pairs(struct fixture *f, int i)
{
    const int64_t T = f->sample.T, last = T - 1;

    for (int64_t p = 0; p < f->sample.B / 2; p++) {
        const int64_t kinds[5][PAIR_N] = { { T / 2, T / 3, T - T / 2, last / 2, last },
                                           { T / 2, T, T, last / 3, last / 2 },
                                           { T, T, 0, last, 0 },
                                           { 0, 0, T, last, last },
                                           { last, last, 1, last, last } };

        for (int k = 0; k < PAIR_N; k++)
            put(f, i, PAIR_N * p + k, (double)kinds[p % 5][k]);
    }
}

static inline void fill_ids(struct fixture *f, int i, struct rng *rng)
{
    const bool targets = f->sample.op != OP_EMBED && f->sample.op != OP_EMBED_GRAD;

    for (int64_t n = 0; n < f->used[i]; n++) {
        const bool none = targets && (n < f->sample.T / 2 || rng_below(rng, 5) == 0);

        put(f, i, n, none && n + 1 < f->used[i] ? -1 : (double)rng_below(rng, (uint32_t)f->sample.V));
    }
}

/* Columns of a cache: the first, the last that there is room for, and between. */
static inline void fill_columns(struct fixture *f, int i)
{
    const int64_t last = extent_of(&f->sample, 'S', false) - f->sample.T;

    for (int64_t b = 0; b < f->sample.B; b++)
        put(f, i, b, (double)(b % 3 == 0 ? last : b % 3 == 1 ? 0 : last / 2));
}

static inline void fill_hyper(struct fixture *f, int i)
{
    static const double hyper[HYPER_N] = { [HYPER_LR] = 1e-3,           [HYPER_LR + 1] = 5e-3,
                                           [HYPER_LR + 2] = 2e-3,       [HYPER_DECAY] = 0.1,
                                           [HYPER_DECAY + 1] = 0.01,    [HYPER_BETA1] = 0.9,
                                           [HYPER_BETA2] = 0.95,        [HYPER_EPSILON] = 1e-8,
                                           [HYPER_CORRECTION1] = 0.271, [HYPER_CORRECTION2] = 0.142625,
                                           [HYPER_CLIP] = 1.0,          [HYPER_LOSS_SCALE] = 1.0 };

    for (int h = 0; h < HYPER_N; h++)
        put(f, i, h, hyper[h]);
}

static inline void fill_operand(struct fixture *f, int i, struct rng *rng)
{
    const struct operand_form *form = form_of(f, i);
    const bool moment = f->sample.op == OP_ADAMW && i == f->form.n_in + 2; /* v */
    const bool square = moment || form->extent[0] == 'Z';

    if (!f->data[i])
        return;
    if (form->type == 'i' && strcmp(form->extent, "B") == 0) {
        fill_columns(f, i);
    } else if (form->type == 'i' && form->extent[0] == 'N' && (f->sample.op == OP_PACK || f->sample.op == OP_UNPACK)) {
        for (int64_t n = 0; n < f->n_live; n++)
            put(f, i, n, (double)f->places[n]);
    } else if (form->type == 'i' && form->extent[0] == 'B') {
        fill_spans(f, i);
    } else if (form->type == 'i' && form->extent[0] == 'Q') {
        fill_pairs(f, i);
    } else if (form->type == 'i') {
        fill_ids(f, i, rng);
    } else if (form->extent[0] == 'P') {
        fill_hyper(f, i);
    } else if (form->type == 'f' && strcmp(form->extent, "2") == 0) {
        put(f, i, 0, 0.125);
        put(f, i, 1, 0.125);
    } else if (form->type == 'd') {
        put(f, i, 0, 6.25);
    } else {
        for (int64_t n = 0; n < f->used[i]; n++)
            put(f, i, n, square ? fabs(rng_normal(rng)) : rng_normal(rng));
    }
}

/* Every operand that is there gets a value: outputs too, since some are added to, and some change in place. */
static inline void fixture_fill(struct fixture *f, uint32_t stream)
{
    struct rng rng = { .seed = 7, .stream = stream };

    for (int i = 0; i < n_operands(f); i++)
        fill_operand(f, i, &rng);
}

static inline void copy_operand(struct fixture *to, int i, const struct fixture *from, int j)
{
    if (!to->data[i])
        return;
    assert_int_equal(to->buffers[i].bytes, from->buffers[j].bytes);
    memcpy(to->data[i], from->data[j], to->buffers[i].bytes);
}

static inline void tail_is_untouched(const struct fixture *f, int i)
{
    const size_t begin = (size_t)f->used[i] * dtype_bytes(f->buffers[i].dtype);
    const unsigned char *p = f->data[i];

    for (size_t k = begin; p && k < f->buffers[i].bytes; k++)
        if (p[k] != 0xff)
            fail_msg("%s: operand %d is changed at byte %zu, beyond the %zu in use", op_rule(f->sample.op)->name, i, k,
                     begin);
}

static inline void fixture_run(struct fixture *f, struct backend *b)
{
    struct err err = { 0 };
    struct kernel k;
    void *in[OP_MAX_IN] = { 0 }, *out[OP_MAX_OUT] = { 0 };

    f->plan.buffers = f->buffers; /* it may have moved */
    f->c.live = f->sample.packed ? f->live : NULL;
    f->c.places = f->sample.packed ? f->places : NULL;
    if (b->prepare(b, &f->plan, &f->step, &k, &err) != 0)
        fail_msg("%s on %s: %s", op_rule(f->sample.op)->name, b->name, err.what);
    for (int i = 0; i < f->form.n_in; i++)
        in[i] = f->data[i];
    for (int i = 0; i < f->form.n_out; i++)
        out[i] = f->data[f->form.n_in + i];
    void *scratch = aligned_alloc(64, (k.scratch_bytes + 63) / 64 * 64 + 64);

    assert_non_null(scratch);
    memset(scratch, 0xff, k.scratch_bytes);
    if (b->run(b, &k, in, out, scratch, &f->c, &err) != 0)
        fail_msg("%s on %s: %s", op_rule(f->sample.op)->name, b->name, err.what);
    free(scratch);
    b->kernel_free(b, &k);
    for (int i = 0; i < n_operands(f); i++)
        tail_is_untouched(f, i);
}

/* Makes the inputs of a gradient op from a run of its forward op, which is left in *forward. */
static inline void fill_from_forward(struct fixture *f, const struct gradient_link *link, struct fixture *forward,
                                     struct backend *b)
{
    struct sample s = f->sample;

    s.op = link->forward;
    s.attrs.relu = false;
    s.attrs.accumulate = ACCUMULATE_NO;
    fixture_init(forward, &s);
    fixture_fill(forward, 1);
    fixture_run(forward, b);
    fixture_fill(f, 2);
    for (int i = 0; i < f->form.n_in; i++) {
        const char *word = link->in + 3 * i;

        if (word[0] != 'd')
            copy_operand(f, i, forward, word[1] - '0' + (word[0] == 'o' ? forward->form.n_in : 0));
    }
}

/* A fixture with operands that go together, whatever the op. */
static inline void fixture_make(struct fixture *f, const struct sample *s, struct backend *ref)
{
    const struct gradient_link *link = link_of_gradient(s->op);
    struct fixture forward;

    fixture_init(f, s);
    if (!link) {
        fixture_fill(f, 1);
        return;
    }
    fill_from_forward(f, link, &forward, ref);
    fixture_free(&forward);
}

#endif
