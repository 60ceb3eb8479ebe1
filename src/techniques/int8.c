/* Weights in int8 for decoding: a step of it reads all weights for a few rows, so its time is their bytes. The decode program's
 * products read a second copy of their weights, a byte each and one fp32 scale a row and group of 128, which the program
 * "quantize" makes of the full ones: once after loading, or before each use where the weights learn. Everything else, prefill
 * included, works with the full weights, which stay beside the copy; adapters are small, and stay as they are. Activations keep their type: weights alone in int8, with
 * a scale a group, lose little (Yao et al. 2022, arXiv:2206.01861; Dettmers et al. 2022, arXiv:2208.07339). */
#include "techniques/technique.h"

#include "graph/optimizer.h"

struct int8_options {
    bool generation;
};

static const struct option options[] = {
    { .name = "int8_generation",
      .type = OPTION_FLAG,
      .offset = offsetof(struct int8_options, generation),
      .help = "new tokens are computed with weights in int8; what generates none is not touched" },
    { 0 },
};

static bool is_on(const void *o)
{
    return ((const struct int8_options *)o)->generation;
}

/* A buffer made of weight w: "actor/layers.0.fc1.weight" + suffix. */
static int add_copy(struct plan *p, int w, const char *suffix, enum dtype type, struct shape shape, struct err *err)
{
    const struct buffer *of = &p->buffers[w];
    const struct buffer b = { .name = plan_name(p, err, "%s.%s", of->name, suffix),
                              .kind = KIND_PARAM,
                              .dtype = type,
                              .shape = shape,
                              .shards = 1,
                              .parent = -1,
                              .group = -1,
                              .persistent = true,
                              .derived = true,
                              .program = -1,
                              .by = "int8",
                              .model = of->model };

    return b.name ? plan_add_buffer(p, &b, err) : -1;
}

/* Adds the copy of a product's weight to the program quantize, and lets the product read it. */
static int use_copy(struct plan *p, struct op_step *s, int quantize, struct err *err)
{
    struct op_step make = plan_step(OP_QUANTIZE, "int8");
    const struct shape shape = p->buffers[s->in[1]].shape;
    const int64_t groups = (shape.dim[1] + INT8_GROUP - 1) / INT8_GROUP;

    make.in[0] = s->in[1];
    make.pass = PASS_FORWARD;
    make.layer = s->layer;
    make.out[0] = add_copy(p, s->in[1], "int8", I8, shape, err);
    make.out[1] = add_copy(p, s->in[1], "scales", F32, shape_of(2, shape.dim[0], groups), err);
    if (make.out[0] < 0 || make.out[1] < 0 || plan_insert(p, quantize, p->programs[quantize].n_steps, &make, err) != 0)
        return -1;
    s->op = OP_LINEAR_Q8;
    s->by = "int8";
    s->in[3] = s->in[2];
    s->in[1] = make.out[0];
    s->in[2] = make.out[1];
    return 0;
}

static int on_plan(const void *o, struct plan *p, const char *model, struct err *err)
{
    const int decode = plan_find_program(p, model, "decode"), prefill = plan_find_program(p, model, "prefill");
    const int quantize = decode < 0 ? -1 : plan_add_program(p, model, "quantize", 0, 0, err);

    (void)o;
    if (quantize < 0)
        return decode < 0 ? 0 : -1;
    p->programs[quantize].times = prefill < 0 ? 1 : p->programs[prefill].times;
    for (int i = 0; i < p->programs[decode].n_steps; i++) {
        struct op_step *s = &p->programs[decode].steps[i];
        const struct buffer *w = &p->buffers[s->in[1]];
        if (s->op == OP_LINEAR && w->kind == KIND_PARAM && w->group != GROUP_LORA && use_copy(p, s, quantize, err) != 0)
            return -1;
    }
    return 0;
}

const struct technique technique_int8 = {
    .name = "int8",
    .summary = "Weights for generation",
    .paper = "Dettmers et al. 2022, arXiv:2208.07339; Yao et al. 2022, arXiv:2206.01861",
    .exact = false,
    .options = options,
    .options_size = sizeof(struct int8_options),
    .is_on = is_on,
    .on_plan = on_plan,
};
