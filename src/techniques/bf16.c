/* bf16 mixed precision: weights, activations and gradients in bfloat16, the optimizer on fp32 master weights (Micikevicius
 * et al. 2018, arXiv:1710.03740; Kalamkar et al. 2019, arXiv:1905.12322). bfloat16 has fp32's range, so the loss needs no
 * scaling. A master weight is kept as what its bf16 weight lacks (after the split of Kalamkar et al. 2020, arXiv:2005.04680), so
 * that the two take 4 bytes rather than 6. Statistics of norms, logsumexp, the loss and every sum inside a kernel stay fp32. */
#include "techniques/technique.h"

#include "graph/optimizer.h"

enum { DTYPE_FP32, DTYPE_BF16, DTYPE_FP16 };

struct bf16_options {
    int dtype;
};

static const struct option options[] = {
    { .name = "dtype",
      .type = OPTION_CHOICE,
      .offset = offsetof(struct bf16_options, dtype),
      .fallback = "fp32",
      .choices = "fp32|bf16|fp16",
      .help = "working type; with bf16, master weights stay fp32" },
    { 0 },
};

static const char *const ways[] = { "dtype=bf16", NULL };

static bool is_on(const void *o)
{
    return ((const struct bf16_options *)o)->dtype == DTYPE_BF16;
}

static int check(const void *o, const struct run_facts *facts, struct err *err)
{
    (void)facts;
    if (((const struct bf16_options *)o)->dtype != DTYPE_FP16)
        return 0;
    err_set(err, ERR_USAGE, "--dtype fp16 is not supported");
    return err_hint(err, "Use --dtype bf16: the same memory, fp32's range, and no loss scaling.");
}

static int on_graph(const void *o, struct graph *g, struct err *err)
{
    (void)o;
    (void)err;
    for (int i = 0; i < g->n_values; i++)
        if (g->values[i].working)
            g->values[i].dtype = BF16;
    return 0;
}

static int on_plan(const void *o, struct plan *p, const char *model, struct err *err)
{
    const int program = plan_find_program(p, model, "update");

    (void)o;
    for (int i = 0; program >= 0 && i < p->programs[program].n_steps; i++) {
        if (p->programs[program].steps[i].op != OP_ADAMW)
            continue;
        struct buffer master = p->buffers[p->programs[program].steps[i].out[1]]; /* as m: its shape, its group */
        master.kind = KIND_MASTER;
        master.dtype = REST16;
        master.by = "bf16";
        master.name = plan_name(p, err, "flat/%smaster.%d", model, master.group);
        const int b = master.name ? plan_add_buffer(p, &master, err) : -1;
        if (b < 0)
            return -1;
        p->programs[program].steps[i].out[3] = b;
    }
    return 0;
}

const struct technique technique_bf16 = {
    .name = "bf16",
    .summary = "Number format",
    .paper = "Micikevicius et al. 2018, arXiv:1710.03740; Kalamkar et al. 2019, arXiv:1905.12322",
    .exact = false,
    .narrows = true,
    .options = options,
    .ways = ways,
    .options_size = sizeof(struct bf16_options),
    .is_on = is_on,
    .check = check,
    .on_graph = on_graph,
    .on_plan = on_plan,
};
