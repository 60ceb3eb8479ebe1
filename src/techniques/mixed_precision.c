/* Mixed precision (Micikevicius et al. 2018, arXiv:1710.03740): weights, activations and gradients in 16 bits, the optimizer on
 * fp32 master weights. Statistics of norms, logsumexp, the loss and every sum inside a kernel stay fp32. Two formats:
 *
 * bf16 (Kalamkar et al. 2019, arXiv:1905.12322) has fp32's range, so the loss needs no scaling. A master weight is kept as
 * what its bf16 weight lacks (after the split of Kalamkar et al. 2020, arXiv:2005.04680), so that the two take 4 bytes rather
 * than 6.
 *
 * fp16 has three more bits of precision, but ends at 65504 and at 2^-24: gradients are made at a scale that keeps them between
 * (phases/loss_scale.h). A scaled gradient may only be scaled back where it is fp32, which is within AdamW; and no fp16 weight
 * tells enough of its master for a split, so masters are whole. */
#include "techniques/technique.h"

#include <math.h>

#include "graph/optimizer.h"

enum { DTYPE_FP32, DTYPE_BF16, DTYPE_FP16 };

struct mixed_options {
    int dtype;
    int64_t initial_power, window, hysteresis;
    double min;
};

#define AT(field) .offset = offsetof(struct mixed_options, field)

/* The type last: what comes before it is for those who train (run/generation.c). */
static const struct option options[] = {
    { .name = "initial_scale_power",
      .type = OPTION_INT,
      AT(initial_power),
      .fallback = "16",
      .min = -24,
      .max = 64,
      .value = "N",
      .help = "fp16: the loss scale begins at 2^N" },
    { .name = "loss_scale_window",
      .type = OPTION_INT,
      AT(window),
      .fallback = "100",
      .min = 1,
      .max = 1e9,
      .value = "N",
      .help = "fp16: the loss scale doubles after N updates without an overflow" },
    { .name = "loss_scale_hysteresis",
      .type = OPTION_INT,
      AT(hysteresis),
      .fallback = "2",
      .min = 1,
      .max = 1e6,
      .value = "N",
      .help = "fp16: the N-th overflow since the scale last doubled halves it, and so does each one after" },
    { .name = "min_loss_scale",
      .type = OPTION_REAL,
      AT(min),
      .fallback = "1",
      .min = 0x1p-24,
      .max = 0x1p64,
      .value = "X",
      .help = "fp16: an overflow at this loss scale ends the run" },
    { .name = "dtype",
      .type = OPTION_CHOICE,
      AT(dtype),
      .fallback = "fp32",
      .choices = "fp32|bf16|fp16",
      .help = "working type; with bf16 and fp16, master weights stay fp32; fp16 is multiplied in fp32, and the loss "
              "scaled" },
    { 0 },
};

static const char *const ways[] = { "dtype=bf16", NULL }; /* which takes less memory than fp16, and never overflows */

static bool is_on(const void *o)
{
    return ((const struct mixed_options *)o)->dtype != DTYPE_FP32;
}

static bool is_fp16(const void *o)
{
    return ((const struct mixed_options *)o)->dtype == DTYPE_FP16;
}

static const char *called(const void *o)
{
    return is_fp16(o) ? "fp16" : "bf16";
}

static int check(const void *options_of, const struct run_facts *facts, struct err *err)
{
    const struct mixed_options *o = options_of;

    if (!is_fp16(o) || !facts->trains || o->min <= ldexp(1, (int)o->initial_power))
        return 0;
    err_set(err, ERR_USAGE, "the loss scale begins at 2^%d, below --min_loss_scale %g", (int)o->initial_power, o->min);
    return err_hint(err, "Raise --initial_scale_power or lower --min_loss_scale.");
}

static int on_graph(const void *o, struct graph *g, struct err *err)
{
    (void)err;
    for (int i = 0; i < g->n_values; i++)
        if (g->values[i].working)
            g->values[i].dtype = is_fp16(o) ? F16 : BF16;
    return 0;
}

static void scale_loss(const struct mixed_options *o, struct plan *p, const char *model, int update)
{
    plan_clip_in_adamw(p, model, "fp16");
    p->programs[update].loss_scaling = (struct loss_scaling){
        .initial = ldexp(1, (int)o->initial_power), .min = o->min, .window = o->window, .hysteresis = o->hysteresis
    };
}

static int on_plan(const void *o, struct plan *p, const char *model, struct err *err)
{
    const int program = plan_find_program(p, model, "update");

    if (program >= 0 && is_fp16(o))
        scale_loss(o, p, model, program);
    for (int i = 0; program >= 0 && i < p->programs[program].n_steps; i++) {
        if (p->programs[program].steps[i].op != OP_ADAMW)
            continue;
        struct buffer master = p->buffers[p->programs[program].steps[i].out[1]]; /* as m: its shape, its group */
        master.kind = KIND_MASTER;
        master.dtype = is_fp16(o) ? F32 : REST16;
        master.by = called(o);
        master.name = plan_name(p, err, "flat/%smaster.%d", model, master.group);
        const int b = master.name ? plan_add_buffer(p, &master, err) : -1;
        if (b < 0)
            return -1;
        p->programs[program].steps[i].out[3] = b;
    }
    return 0;
}

const struct technique technique_mixed_precision = {
    .name = "mixed_precision",
    .called = called,
    .summary = "Number format",
    .paper = "Micikevicius et al. 2018, arXiv:1710.03740; Kalamkar et al. 2019, arXiv:1905.12322",
    .exact = false,
    .narrows = true,
    .options = options,
    .ways = ways,
    .options_size = sizeof(struct mixed_options),
    .is_on = is_on,
    .check = check,
    .on_graph = on_graph,
    .on_plan = on_plan,
};
