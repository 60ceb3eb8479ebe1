/* What the backward pass wants of the forward pass waits for it in bf16: delayed precision reduction (Jain et al. 2018, doi
 * 10.1109/ISCA.2018.00070). The forward pass works on fp32 as ever. After the last of its steps that touches a tensor a copy of
 * half the size is made, whose fp32 form is made again for the backward steps of each layer that reads it. So the loss has the same
 * bits, and gradients are rounded where a 16-bit run rounds more.
 *
 * After recomputation in the table: what is made again waits for nobody, and what it is made of waits in bf16. */
#include "techniques/technique.h"

struct compression_options {
    bool on;
};

static const struct option options[] = {
    { .name = "activation_compression",
      .type = OPTION_FLAG,
      .offset = offsetof(struct compression_options, on),
      .help = "in fp32, keep in bf16 what the backward pass wants of the forward pass" },
    { 0 },
};

static bool is_on(const void *o)
{
    return ((const struct compression_options *)o)->on;
}

static int check(const void *o, const struct run_facts *facts, struct err *err)
{
    if (!is_on(o) || !facts->trains || !facts->narrow)
        return 0;
    err_set(err, ERR_USAGE, "--activation_compression with a --dtype of 16 bits: activations are in 16 bits already");
    return err_hint(err, "Leave one of the two away.");
}

static bool touches(const struct op_step *s, int buffer)
{
    bool writes = false;

    for (int k = 0; k < OP_MAX_OUT && !writes; k++)
        writes = s->out[k] == buffer;
    return writes || plan_step_reads(s, buffer);
}

/* The step behind the last forward one that touches b, if b then waits for a backward step while another layer than the one
 * that made it works: only then is there memory to gain. Else -1. */
static int waits_from(const struct program *g, int b)
{
    bool waits = false;
    int from = -1, maker = -1;

    for (int i = 0; i < g->n_steps; i++) {
        const struct op_step *s = &g->steps[i];
        if (!touches(s, b)) {
            waits |= from >= 0 && s->layer != maker;
            continue;
        }
        if (s->pass != PASS_FORWARD)
            return waits ? from : -1;
        maker = from < 0 ? s->layer : maker;
        from = i + 1;
        waits = false;
    }
    return -1;
}

static int convert(struct plan *p, int program, int at, int from, int to, const struct op_step *beside, struct err *err)
{
    struct op_step s = plan_step(OP_CONVERT, "activation_compression");

    s.in[0] = from;
    s.out[0] = to;
    s.pass = beside->pass;
    s.layer = beside->layer;
    return plan_insert(p, program, at, &s, err);
}

/* From step `from` on, backward steps alone touch b. */
static int compress(struct plan *p, int program, int b, int from, struct err *err)
{
    struct program *g = &p->programs[program];
    const int kept = plan_add_like(p, b, "bf16", "activation_compression", err);
    int wide = -1, layer = -1;

    if (kept < 0 || convert(p, program, from, b, kept, &g->steps[from - 1], err) != 0)
        return -1;
    p->buffers[kept].dtype = BF16;
    for (int i = from + 1; i < g->n_steps; i++) {
        if (!plan_step_reads(&g->steps[i], b))
            continue;
        if (wide < 0 || g->steps[i].layer != layer) {
            layer = g->steps[i].layer;
            wide = plan_add_like(p, b, "again", "activation_compression", err);
            if (wide < 0 || convert(p, program, i, kept, wide, &g->steps[i], err) != 0)
                return -1;
            i++;
        }
        for (int k = 0; k < OP_MAX_IN; k++)
            if (g->steps[i].in[k] == b)
                g->steps[i].in[k] = wide;
    }
    return 0;
}

/* Statistics, which are small and whose ops take fp32 alone, are not of the working type. */
static bool is_large(const struct buffer *b, int program)
{
    return b->program == program && b->kind == KIND_ACTIVATION && b->working && b->dtype == F32;
}

static int on_plan(const void *o, struct plan *p, const char *model, struct err *err)
{
    const int n = p->n_buffers; /* copies are added behind */

    (void)o;
    for (int g = 0; g < p->n_programs; g++)
        for (int b = 0; b < n && plan_trains(p, g, model); b++) {
            const int from = is_large(&p->buffers[b], g) ? waits_from(&p->programs[g], b) : -1;
            if (from >= 0 && compress(p, g, b, from, err) != 0)
                return -1;
        }
    return 0;
}

const struct technique technique_activation_compression = {
    .name = "activation_compression",
    .summary = "Compressed activations",
    .paper = "Jain et al. 2018, doi 10.1109/ISCA.2018.00070",
    .exact = false,
    .options = options,
    .options_size = sizeof(struct compression_options),
    .is_on = is_on,
    .check = check,
    .on_plan = on_plan,
};
