/* Parameters are read straight into their places in exec's block. A shard of the master weights cuts tensors anywhere. */
#include "run/weights.h"

#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "phases/trainer.h"
#include "store/model_init.h"

static bool is_param(const struct buffer *b)
{
    return b->kind == KIND_PARAM && !b->derived && strncmp(b->name, "flat/", 5) != 0;
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
            if (s->op != OP_ADAMW && s->op != OP_ADAMW8)
                continue;
            const struct buffer *of =
                &p->buffers[s->out[0]]; /* the flat buffer, or a view of this rank's share of it */
            if (s->out[0] != flat && of->parent != flat)
                continue;
            *begin = s->attrs.begin + (s->out[0] == flat ? 0 : of->parent_begin);
            return s->out[3];
        }
    return -1;
}

/* A language model that becomes a reward model has no head to score with yet. */
static int make_head(const struct weights_source *s, const char *name, void *out, enum dtype to, int64_t first,
                     int64_t n, struct err *err)
{
    float *values = mem_array(n, 1, sizeof *values, MEM_STORE, err);

    if (!values)
        return -1;
    model_init_fill(&s->files->config, s->seed, name, first, n, values);
    dtype_convert(out, to, values, F32, n);
    mem_free(values);
    return 0;
}

/* Elements first .. first+n-1 of a tensor. */
static int read_part(const struct weights_source *s, const char *name, void *out, enum dtype to, int64_t first,
                     int64_t n, struct err *err)
{
    if (s->new_head && strcmp(name, "v_head.weight") == 0 && !model_dir_find(s->files, name))
        return make_head(s, name, out, to, first, n, err);
    return model_dir_read_range(s->files, name, out, to, first, n, s->allow_nonfinite, err);
}

#define READ_COUNT ((int64_t)1 << 22) /* elements at a time, beside the plan's block */

/* What n bf16 weights lack to be the file's numbers. */
static int read_rest(const struct weights_source *s, const char *name, int16_t *rest, const uint16_t *weights,
                     int64_t first, int64_t n, struct err *err)
{
    const int64_t most = n < READ_COUNT ? n : READ_COUNT;
    float *values = mem_array(most, 1, sizeof *values, MEM_STORE, err);
    int result = values ? 0 : -1;

    for (int64_t i = 0; result == 0 && i < n; i += most) {
        const int64_t count = n - i < most ? n - i : most;
        result = read_part(s, name, values, F32, first + i, count, err);
        for (int64_t k = 0; result == 0 && k < count; k++)
            rest[i + k] = fp32_rest(values[k], weights[i + k]);
    }
    mem_free(values);
    return result;
}

static int load_master(struct exec *e, const struct weights_source *s, int param, struct err *err)
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
    const int64_t at = first - b->parent_begin;
    return read_rest(s, canonical(b), (int16_t *)exec_address(e, master) + (first - begin),
                     (const uint16_t *)exec_address(e, param) + at, at, n, err);
}

int weights_load_from(struct exec *e, const char *model, const struct weights_source *s, struct err *err)
{
    for (int i = 0; i < e->plan->n_buffers; i++) {
        const struct buffer *b = &e->plan->buffers[i];
        if (!is_param_of(b, model))
            continue;
        if (read_part(s, canonical(b), exec_address(e, i), b->dtype, 0, shape_count(&b->shape), err) != 0 ||
            load_master(e, s, i, err) != 0)
            return -1;
    }
    return 0;
}

int weights_load(struct exec *e, const char *model, const struct model_dir *m, bool allow_nonfinite, struct err *err)
{
    const struct weights_source s = { .files = m, .allow_nonfinite = allow_nonfinite };

    return weights_load_from(e, model, &s, err);
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
    bool has_head = false;
    int n = 0;

    if (!tensors)
        return -1;
    for (int i = 0; i < p->n_buffers; i++) {
        const struct buffer *b = &p->buffers[i];
        if (!is_param_of(b, model))
            continue;
        has_head |= strcmp(canonical(b), "v_head.weight") == 0;
        tensors[n++] = (struct stored_tensor){
            .name = canonical(b), .dtype = b->dtype, .shape = b->shape, .data = exec_address(e, i), .bytes = b->bytes
        };
    }
    const int result = model_dir_save(dir, c, tensors, n, has_head, err);
    mem_free(tensors);
    return result;
}
