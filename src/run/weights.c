/* Parameters are read straight into their places in exec's block. A shard of the master weights cuts tensors anywhere. */
#include "run/weights.h"

#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "phases/trainer.h"

static bool is_param(const struct buffer *b)
{
    return b->kind == KIND_PARAM && strncmp(b->name, "flat/", 5) != 0;
}

static bool is_param_of(const struct buffer *b, const char *model)
{
    return is_param(b) && strcmp(b->model, model) == 0;
}

/* As in a checkpoint: without the model's prefix. */
static const char *canonical(const struct buffer *b)
{
    return b->name + strlen(b->model);
}

/* The master weights of flat buffer `flat`, and where this rank's share begins; -1 = none. */
static int master_of(const struct plan *p, int flat, int64_t *begin)
{
    for (int g = 0; g < p->n_programs; g++)
        for (int i = 0; i < p->programs[g].n_steps; i++) {
            const struct op_step *s = &p->programs[g].steps[i];
            if (s->op == OP_ADAMW && s->out[0] == flat) {
                *begin = s->attrs.begin;
                return s->out[3];
            }
        }
    return -1;
}

static int load_master(struct exec *e, const struct model_dir *m, int param, bool allow_nonfinite, struct err *err)
{
    const struct buffer *b = &e->plan->buffers[param];
    const int64_t count = shape_count(&b->shape);
    int64_t begin = 0;
    const int master = b->parent < 0 ? -1 : master_of(e->plan, b->parent, &begin);

    if (master < 0)
        return 0;
    const int64_t first = b->parent_begin > begin ? b->parent_begin : begin;
    const int64_t own_end = begin + e->plan->buffers[master].count, tensor_end = b->parent_begin + count;
    const int64_t n = (own_end < tensor_end ? own_end : tensor_end) - first;
    if (n <= 0)
        return 0;
    float *out = (float *)exec_address(e, master) + (first - begin);
    return model_dir_read_range(m, canonical(b), out, F32, first - b->parent_begin, n, allow_nonfinite, err);
}

int weights_load(struct exec *e, const char *model, const struct model_dir *m, bool allow_nonfinite, struct err *err)
{
    for (int i = 0; i < e->plan->n_buffers; i++) {
        const struct buffer *b = &e->plan->buffers[i];
        if (!is_param_of(b, model))
            continue;
        if (model_dir_read(m, canonical(b), exec_address(e, i), b->dtype, shape_count(&b->shape), allow_nonfinite,
                           err) != 0 ||
            load_master(e, m, i, allow_nonfinite, err) != 0)
            return -1;
    }
    return 0;
}

int weights_check(const struct exec *e, struct err *err)
{
    for (int i = 0; i < e->plan->n_buffers; i++) {
        const struct buffer *b = &e->plan->buffers[i];
        if (!is_param(b) || trainer_finite(e, i))
            continue;
        err_set(err, ERR_RUN, "the weights are not finite any more: \"%s\"", b->name);
        return err_hint(err, "Lower --learning_rate or add --num_warmup_steps; the last checkpoint is kept.");
    }
    return 0;
}

uint64_t weights_hash(const struct exec *e, const char *model)
{
    uint64_t hash = 0;

    for (int i = 0; i < e->plan->n_buffers; i++)
        if (is_param_of(&e->plan->buffers[i], model))
            hash = hash * 31 + hash_bytes(exec_address(e, i), e->plan->buffers[i].bytes);
    return hash;
}

int weights_save(const struct exec *e, const char *model, const struct hf_config *c, const char *dir, struct err *err)
{
    const struct plan *p = e->plan;
    struct stored_tensor *tensors = mem_array(p->n_buffers, 1, sizeof *tensors, MEM_STORE, err);
    int n = 0;

    if (!tensors)
        return -1;
    for (int i = 0; i < p->n_buffers; i++) {
        const struct buffer *b = &p->buffers[i];
        if (is_param_of(b, model))
            tensors[n++] = (struct stored_tensor){ .name = canonical(b),
                                                   .dtype = b->dtype,
                                                   .shape = b->shape,
                                                   .data = exec_address(e, i),
                                                   .bytes = b->bytes };
    }
    const int result = model_dir_save(dir, c, tensors, n, false, err);
    mem_free(tensors);
    return result;
}
