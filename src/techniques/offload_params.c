/* Weights in files: each program of the model reads a matrix shortly before the steps that want it, into memory that it gives back
 * after them, once in the forward pass and once more in the backward pass. What is on its way is about a layer, as
 * ZeRO-Infinity prefetches (Rajbhandari et al. 2021, arXiv:2104.07857, section 6.2). Biases and norms stay: they are many, and next
 * to nothing. A model that learns writes its weights in its updates alone, with the optimizer's state: offload.c. */
#include "techniques/offload.h"

#include <string.h>

#include "base/mem.h"
#include "graph/optimizer.h"

#define SMALL 10000 /* elements that are not worth a read: DeepSpeed's persistence threshold */
#define AHEAD 6 /* matrices that are being read: those of a layer of the decoder */

/* Steps of one layer that want one matrix. */
struct visit {
    int buffer, first, region; /* region: consecutive steps of one layer and pass */
    int staged;
};

struct walk {
    struct plan *p;
    int program;
    struct op_step *steps; /* as they were */
    int n_steps;
    struct visit *visits; /* in the order of their first steps */
    int n_visits;
};

/* ---- what moves ---- */

static void move_buffer(struct plan *p, int buffer)
{
    p->buffers[buffer].tier = TIER_FILE;
    p->buffers[buffer].by = "offload";
}

static int in_shards(struct err *err)
{
    err_set(err, ERR_USAGE, "weights in shards over the ranks cannot be offloaded");
    return err_hint(err, "Use --zero_stage 0 with --offload_params, or --offload alone.");
}

/* What an AdamW step learns, and the tensors that are its parts. */
static int move_learned(struct plan *p, const struct op_step *adamw, struct err *err)
{
    const int flat = adamw->out[0];

    if (adamw->attrs.group == GROUP_NO_DECAY)
        return 0;
    if (p->buffers[flat].parent >= 0 || adamw->attrs.count != shape_count(&p->buffers[flat].shape))
        return in_shards(err);
    move_buffer(p, flat);
    for (int i = 0; i < p->n_buffers; i++)
        if (p->buffers[i].parent == flat)
            move_buffer(p, i);
    return 0;
}

static int choose(struct plan *p, const char *model, struct err *err)
{
    const int update = plan_find_program(p, model, "update");

    if (update >= 0 && plan_find_program(p, model, "decode") >= 0) {
        err_set(err, ERR_USAGE, "--offload_params is not supported for a model that answers");
        return err_hint(err, "All of its weights would be read for each token. In PPO give it to others: "
                             "--critic_offload_params, --offload_reference_model, --offload_reward_model.");
    }
    for (int i = 0; i < p->n_buffers; i++) {
        const struct buffer *b = &p->buffers[i];
        if (b->kind == KIND_PARAM && strcmp(b->model, model) == 0 && plan_is_sharded(p, i))
            return in_shards(err);
        const bool mapped = b->tier == TIER_MAPPED; /* in a file already */
        if (plan_is_tensor(b, model) && b->parent < 0 && !mapped && shape_count(&b->shape) > SMALL)
            move_buffer(p, i);
    }
    for (int i = 0; update >= 0 && i < p->programs[update].n_steps; i++) {
        const struct op_step *s = &p->programs[update].steps[i];
        if ((s->op == OP_ADAMW || s->op == OP_ADAMW8) && move_learned(p, s, err) != 0)
            return -1;
    }
    return 0;
}

static bool is_moved(const struct plan *p, int buffer)
{
    return buffer >= 0 && p->buffers[buffer].kind == KIND_PARAM && p->buffers[buffer].tier == TIER_FILE;
}

/* ---- one program ---- */

static struct visit *find_visit(const struct walk *w, int buffer, int region)
{
    for (int i = w->n_visits - 1; i >= 0 && w->visits[i].region == region; i--)
        if (w->visits[i].buffer == buffer)
            return &w->visits[i];
    return NULL;
}

static int add_visit(struct walk *w, int buffer, int step, int region, struct err *err)
{
    struct visit *more = mem_resize(w->visits, w->n_visits + 1, sizeof *more, MEM_PLAN, err);

    if (!more)
        return -1;
    w->visits = more;
    const int staged = offload_stage(w->p, w->program, buffer, 0, shape_count(&w->p->buffers[buffer].shape), err);
    w->visits[w->n_visits++] = (struct visit){ buffer, step, region, staged };
    return staged < 0 ? -1 : 0;
}

/* The steps now read what is staged. */
static int find_visits(struct walk *w, struct err *err)
{
    int region = 0;

    for (int i = 0; i < w->n_steps; i++) {
        struct op_step *s = &w->steps[i];

        region += i > 0 && (s->layer != s[-1].layer || s->pass != s[-1].pass);
        for (int k = 0; k < OP_MAX_OUT; k++)
            MUST(!is_moved(w->p, s->out[k])); /* none but the update writes to them */
        for (int k = 0; k < OP_MAX_IN; k++) {
            if (!is_moved(w->p, s->in[k]))
                continue;
            if (!find_visit(w, s->in[k], region) && add_visit(w, s->in[k], i, region, err) != 0)
                return -1;
            s->in[k] = find_visit(w, s->in[k], region)->staged;
        }
    }
    return 0;
}

static int start_read(const struct walk *w, int visit, struct err *err)
{
    if (visit >= w->n_visits)
        return 0;
    return offload_move(w->p, w->program, OP_FILE_READ, w->visits[visit].buffer, w->visits[visit].staged, 0, err);
}

static int wait_for(const struct walk *w, int visit, struct err *err)
{
    struct op_step s = plan_step(OP_FILE_WAIT, "offload");

    s.out[0] = w->visits[visit].staged;
    return offload_add(w->p, w->program, &s, err);
}

static int rebuild(const struct walk *w, struct err *err)
{
    int result = 0, next = 0;

    for (int i = 0; i < AHEAD && result == 0; i++)
        result = start_read(w, i, err);
    for (int i = 0; i < w->n_steps && result == 0; i++) {
        for (; next < w->n_visits && w->visits[next].first == i && result == 0; next++) {
            result = start_read(w, next + AHEAD, err);
            if (result == 0)
                result = wait_for(w, next, err);
        }
        if (result == 0)
            result = offload_add(w->p, w->program, &w->steps[i], err);
    }
    return result;
}

static int on_program(struct plan *p, int program, struct err *err)
{
    struct walk w = { .p = p, .program = program };

    w.steps = offload_take_steps(p, program, &w.n_steps, err);
    const int result = !w.steps || find_visits(&w, err) != 0 || rebuild(&w, err) != 0 ? -1 : 0;
    mem_free(w.steps);
    mem_free(w.visits);
    return result;
}

int offload_params(struct plan *p, const char *model, struct err *err)
{
    if (choose(p, model, err) != 0)
        return -1;
    for (int i = 0; i < p->n_programs; i++)
        if (strcmp(p->programs[i].model, model) == 0 && i != plan_find_program(p, model, "update") &&
            on_program(p, i, err) != 0)
            return -1;
    return 0;
}
