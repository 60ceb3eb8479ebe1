/* AdamW's two moments in 8 bits each, with one fp32 scale for each block of 256 elements (Dettmers et al. 2021,
 * arXiv:2110.02861): 2.03 bytes a weight instead of 8. The moments are fp32 again while a block is updated, and rounded to the
 * nearest code after it. Biases and norms keep theirs in fp32: they are few, and everything hangs on them. The embedding is
 * no exception: the paper's own remedy for it changes the model (a norm after it), and what makes its steps without bound, a
 * second moment rounded to 0, does not happen here (backend/dynamic8.h). Behind zero and mixed precision in the table: blocks begin
 * where the share does. */
#include "techniques/technique.h"

#include "graph/optimizer.h"

enum { BITS_32, BITS_8 };

struct optimizer8_options {
    int bits;
};

static const struct option options[] = {
    { .name = "optimizer_bits",
      .type = OPTION_CHOICE,
      .offset = offsetof(struct optimizer8_options, bits),
      .fallback = "32",
      .choices = "32|8",
      .help = "of AdamW's moments; 8 is what others call adamw_8bit" },
    { 0 },
};

static const char *const ways[] = { "optimizer_bits=8", NULL };

static bool is_on(const void *o)
{
    return ((const struct optimizer8_options *)o)->bits == BITS_8;
}

/* The moment becomes codes; returns their scales, which are shared out as it is. */
static int narrow(struct plan *p, int moment, struct err *err)
{
    struct buffer *of = &p->buffers[moment];
    const int64_t count = shape_count(&of->shape) / of->shards, blocks = (count + STATE_BLOCK - 1) / STATE_BLOCK;

    of->dtype = I8;
    of->by = "optimizer8";
    struct buffer scales = *of;
    scales.name = plan_name(p, err, "%s.scales", of->name);
    scales.dtype = F32;
    scales.shape = shape_of(1, blocks * of->shards);
    return scales.name ? plan_add_buffer(p, &scales, err) : -1;
}

static int on_plan(const void *o, struct plan *p, const char *model, struct err *err)
{
    const int update = plan_find_program(p, model, "update");

    (void)o;
    for (int i = 0; update >= 0 && i < p->programs[update].n_steps; i++) {
        struct op_step *s = &p->programs[update].steps[i];
        if (s->op != OP_ADAMW || s->attrs.group == GROUP_NO_DECAY)
            continue;
        s->op = OP_ADAMW8;
        s->by = "optimizer8";
        s->out[4] = narrow(p, s->out[1], err);
        s->out[5] = narrow(p, s->out[2], err);
        if (s->out[4] < 0 || s->out[5] < 0)
            return -1;
    }
    return 0;
}

const struct technique technique_optimizer8 = {
    .name = "optimizer8",
    .summary = "Optimizer state",
    .paper = "Dettmers et al. 2021, arXiv:2110.02861",
    .exact = false,
    .options = options,
    .ways = ways,
    .options_size = sizeof(struct optimizer8_options),
    .is_on = is_on,
    .on_plan = on_plan,
};
