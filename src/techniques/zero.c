/* ZeRO: state in shards over the ranks, Rajbhandari et al. 2020, arXiv:1910.02054.
 * Stage 1: each rank keeps and updates 1/R of the optimizer's state (and of the master weights). Gradients are reduce-scattered,
 * so that a rank gets the sum for its own range alone; after the update the parameters are all-gathered: together the volume
 * of one all-reduce.
 * Stage 2: gradients too: see zero_grads.c. The parts of zero.h are updated one by one.
 * Stage 3: weights too, those of frozen models as well: see zero_params.c. */
#include "techniques/zero.h"

#define BUCKET_ELEMENTS ((int64_t)4 << 20) /* of all ranks together, at most: the staging buffer of a large model */

static const struct option options[] = {
    { .name = "zero_stage",
      .type = OPTION_INT,
      .offset = offsetof(struct zero_options, stage),
      .fallback = "0",
      .min = 0,
      .max = 3,
      .value = "N",
      .help = "in shards over the ranks: 1 optimizer state, 2 gradients too, 3 weights too" },
    { .name = "zero_persistence_threshold",
      .type = OPTION_INT,
      .offset = offsetof(struct zero_options, persistence),
      .fallback = "10000",
      .min = 0,
      .max = 1e15,
      .value = "N",
      .help = "tensors of at most N elements are sent together, and stay whole in stage 3" },
    { .name = "overlap_comm",
      .type = OPTION_FLAG,
      .offset = offsetof(struct zero_options, overlap),
      .help = "stages 2 and 3: send a layer's gradients, and gather the next one's weights, beside other work" },
    { .name = "zero_generation",
      .type = OPTION_CHOICE,
      .offset = offsetof(struct zero_options, generation),
      .fallback = "once",
      .choices = "once|layers",
      .help = "stage 3: gather the weights once a rollout, or, in less memory, layer by layer for each new id" },
    { 0 },
};

static const char *const ways[] = { "zero_stage=1", "zero_stage=2", "zero_stage=3", NULL };

static bool is_on(const void *o)
{
    return ((const struct zero_options *)o)->stage > 0;
}

static int check(const void *o, const struct run_facts *facts, struct err *err)
{
    const int64_t stage = ((const struct zero_options *)o)->stage;

    if (stage > 0 && facts->trains && facts->ranks == 1) {
        err_set(err, ERR_USAGE, "--zero_stage %d has nothing to shard on one rank", (int)stage);
        return err_hint(err, "Add --ranks 2 or more, or leave --zero_stage away.");
    }
    return 0;
}

/* This rank's range of a flat buffer of n elements. */
static void own_range(const struct plan *p, struct op_step *s)
{
    s->attrs.count /= p->ranks;
    s->attrs.begin = s->attrs.count * p->rank;
    s->by = "zero";
}

static int comm_buffer(struct plan *p, const struct op_step *s, struct err *err)
{
    struct buffer b = p->buffers[s->out[0]];
    const int there = plan_find(p, "comm/bucket");
    const int64_t wanted = s->attrs.bucket * p->ranks;

    if (there >= 0) {
        if (p->buffers[there].shape.dim[0] < wanted)
            p->buffers[there].shape.dim[0] = wanted;
        return there;
    }
    b.name = plan_name(p, err, "comm/bucket");
    b.kind = KIND_COMM;
    b.parent = -1;
    b.model = "";
    b.shape = shape_of(1, wanted);
    b.group = -1;
    b.by = "zero";
    return b.name ? plan_add_buffer(p, &b, err) : -1;
}

static int shard_reduction(struct plan *p, struct op_step *s, struct err *err)
{
    s->op = OP_REDUCE_SCATTER;
    s->by = "zero";
    /* An eighth of what there is, so that a small model does not pay with its staging buffer what sharding saves. */
    const int64_t own = s->attrs.count / p->ranks, most = BUCKET_ELEMENTS / p->ranks;
    const int64_t eighth = own < 8 ? own : own / 8;
    s->attrs.bucket = eighth < most ? eighth : most;
    s->out[1] = comm_buffer(p, s, err);
    return s->out[1] < 0 ? -1 : 0;
}

static void shard_state(struct plan *p, const struct op_step *s)
{
    for (int k = 1; k < 4; k++)
        if (s->out[k] >= 0) {
            p->buffers[s->out[k]].shards = p->ranks;
            p->buffers[s->out[k]].by = "zero";
        }
}

static int on_program(struct plan *p, int program, int sum, struct err *err)
{
    for (int i = 0; i < p->programs[program].n_steps; i++) {
        struct op_step *s = &p->programs[program].steps[i];
        struct op_step total = plan_step(OP_ALL_REDUCE, "zero"), gather = plan_step(OP_ALL_GATHER, "zero");
        const bool last = i + 1 == p->programs[program].n_steps;

        switch (s->op) {
        case OP_ALL_REDUCE:
            if (s->out[0] != sum && shard_reduction(p, s, err) != 0)
                return -1;
            break;
        case OP_SUMSQ:
            own_range(p, s);
            total.out[0] = sum;
            total.attrs.count = total.attrs.bucket = 1;
            if (last && plan_insert(p, program, i + 1, &total, err) != 0)
                return -1;
            break;
        case OP_GRAD_SCALE:
            own_range(p, s);
            break;
        case OP_ADAMW:
            own_range(p, s);
            shard_state(p, s);
            gather.out[0] = s->out[0];
            if (plan_insert(p, program, i + 1, &gather, err) != 0)
                return -1;
            break;
        default:
            break;
        }
    }
    return 0;
}

static int stage1(struct plan *p, const char *model, struct err *err)
{
    const char *sum = plan_name(p, err, "%sgrad_sum", model);

    if (!sum || on_program(p, plan_find_program(p, model, "reduce"), plan_find(p, sum), err) != 0)
        return -1;
    return on_program(p, plan_find_program(p, model, "update"), -1, err);
}

/* Each rank updates its share of every part; then all get the whole, but for weights that stay in shards. */
static int update_shares(struct plan *p, const char *model, struct err *err)
{
    const int update = plan_find_program(p, model, "update");
    struct op_step gather = plan_step(OP_ALL_GATHER, "zero");

    for (int i = 0; i < p->programs[update].n_steps; i++) {
        struct op_step *s = &p->programs[update].steps[i];
        if (s->op != OP_ADAMW && s->op != OP_GRAD_SCALE)
            continue;
        s->attrs.count /= p->ranks;
        s->by = "zero";
        if (s->op != OP_ADAMW)
            continue;
        shard_state(p, s);
        if (p->buffers[s->out[0]].shards > 1)
            continue;
        gather.out[0] = s->out[0];
        s->out[0] = zero_own_share(p, s->out[0], err);
        if (s->out[0] < 0 || plan_insert(p, update, i + 1, &gather, err) != 0)
            return -1;
    }
    return 0;
}

/* Stages 2 and 3. A frozen model has nothing to shard but its weights. */
static int by_parts(const struct zero_options *o, struct plan *p, const char *model, struct err *err)
{
    const bool learns = plan_find_program(p, model, "update") >= 0;
    struct zero_parts parts;

    if (zero_parts_make(&parts, p, model, o, o->stage == 3, err) != 0)
        return -1;
    int result = learns ? zero_shard_grads(p, model, &parts, err) : 0;
    if (result == 0 && o->stage == 3)
        result = zero_shard_params(p, model, &parts, o, err);
    if (result == 0 && o->overlap)
        result = zero_overlap(p, model, err);
    if (result == 0 && learns)
        result = update_shares(p, model, err);
    zero_parts_free(&parts);
    return result;
}

static int on_plan(const void *options_given, struct plan *p, const char *model, struct err *err)
{
    const struct zero_options *o = options_given;

    if (p->ranks == 1 || (o->stage < 3 && plan_find_program(p, model, "update") < 0))
        return 0;
    return o->stage == 1 ? stage1(p, model, err) : by_parts(o, p, model, err);
}

const struct technique technique_zero = {
    .name = "zero",
    .summary = "ZeRO",
    .paper = "Rajbhandari et al. 2020, arXiv:1910.02054",
    .exact = true,
    .options = options,
    .ways = ways,
    .options_size = sizeof(struct zero_options),
    .is_on = is_on,
    .check = check,
    .on_plan = on_plan,
};
