/* Parameters are read straight into their places in exec's block, or used where they lie in mapped files. A shard of the master
 * weights cuts tensors anywhere. */
#include "run/weights.h"

#include <math.h>
#include <string.h>

#include "base/hash.h"
#include "base/mem.h"
#include "graph/optimizer.h"
#include "phases/trainer.h"
#include "run/feed.h"
#include "store/model_init.h"

static bool is_param(const struct buffer *b)
{
    return b->kind == KIND_PARAM && !b->derived && strncmp(b->name, "flat/", 5) != 0;
}

static bool is_param_of(const struct buffer *b, const char *model)
{
    return is_param(b) && strcmp(b->model, model) == 0;
}

/* In another model's memory: that one reads it. */
static bool is_borrowed(const struct plan *p, const struct buffer *b)
{
    const char *model = b->model;

    while (b->parent >= 0)
        b = &p->buffers[b->parent];
    return strcmp(b->model, model) != 0;
}

/* As in a checkpoint: without the model's prefix. */
static const char *canonical(const struct buffer *b)
{
    return b->name + strlen(b->model);
}

int weights_master(const struct plan *p, int flat, int64_t *begin)
{
    for (int g = 0; g < p->n_programs; g++)
        for (int i = 0; i < p->programs[g].n_steps; i++) {
            const struct op_step *s = &p->programs[g].steps[i];
            if (s->op != OP_ADAMW && s->op != OP_ADAMW8)
                continue;
            /* The flat buffer, whole or itself this rank's share, or a view of the share; or the first of its pieces. */
            const int param = plan_stored(p, s->out[0]);
            const struct buffer *of = &p->buffers[param];
            if (param != flat && of->parent != flat)
                continue;
            *begin = s->attrs.begin + (param != flat ? of->parent_begin : 0);
            if (of->shards > 1)
                *begin += shape_count(&of->shape) / of->shards * p->rank;
            return plan_stored(p, s->out[3]);
        }
    return -1;
}

/* Adapters begin as DeepSpeed-Chat's: the first factor [K,in] uniform in +-1/sqrt(K), the second zero. */
static void draw(const struct weights_source *s, const struct buffer *b, int64_t first, int64_t n, float *values)
{
    if (b->group != GROUP_LORA)
        model_init_fill(&s->files->config, s->seed, canonical(b), first, n, values);
    else if (strstr(b->name, ".lora_A."))
        model_init_uniform(s->seed, canonical(b), 1 / sqrt((double)b->shape.dim[0]), first, n, values);
    else
        memset(values, 0, (size_t)n * sizeof *values);
}

/* A language model that becomes a reward model has no head to score with yet; no model has an adapter. */
static int make(const struct weights_source *s, const struct buffer *b, void *out, enum dtype to, int64_t first,
                int64_t n, struct err *err)
{
    float *values = mem_array(n, 1, sizeof *values, MEM_STORE, err);

    if (!values)
        return -1;
    draw(s, b, first, n, values);
    dtype_convert(out, to, values, F32, n);
    mem_free(values);
    return 0;
}

/* Where a parameter is taken from. */
static const struct model_dir *source_of(const struct weights_source *s, const char *name)
{
    return s->adapter && model_dir_find(s->adapter, name) ? s->adapter : s->files;
}

/* Elements first .. first+n-1 of a parameter. */
static int read_part(const struct weights_source *s, const struct buffer *b, void *out, enum dtype to, int64_t first,
                     int64_t n, struct err *err)
{
    const char *name = canonical(b);
    const struct model_dir *from = source_of(s, name);
    const bool head = strcmp(name, "v_head.weight") == 0, adapter = b->group == GROUP_LORA;

    if (from == s->files && (adapter || (head && s->new_head && !model_dir_find(from, name))))
        return make(s, b, out, to, first, n, err);
    return model_dir_read_range(from, name, out, to, first, n, s->allow_nonfinite, err);
}

/* Where it lies in its file, which has the numbers that the plan wants. */
static int map_param(struct exec *e, const struct weights_source *s, int param, struct err *err)
{
    const struct buffer *b = &e->plan->buffers[param];
    const char *name = canonical(b);
    const struct model_dir *from = source_of(s, name);
    const void *data = model_dir_mapped(from, name, b->dtype, &b->shape);

    if (!data) {
        err_set(err, ERR_INPUT, "tensor \"%s\" does not lie in the model's files as it was planned", name);
        return err_hint(err, "Go without --map_frozen.");
    }
    if (!s->allow_nonfinite && model_dir_check_finite(from, name, err) != 0)
        return -1;
    exec_bind(e, param, data);
    return 0;
}

#define READ_COUNT ((int64_t)1 << 21) /* elements at a time, beside the plan's block */

/* Elements `at` .. at+n of a master buffer: the file's numbers from its element first on, or what bf16 weights lack to be
 * them. */
static int read_master(struct exec *e, const struct weights_source *s, const struct buffer *b, int master, int64_t at,
                       int64_t first, int64_t n, struct err *err)
{
    const int64_t most = n < READ_COUNT ? n : READ_COUNT;
    const enum dtype type = e->plan->buffers[master].dtype;
    const size_t size = dtype_bytes(type);
    float *values = mem_array(most, 1, sizeof *values, MEM_STORE, err);
    int16_t *rest = mem_array(most, 1, sizeof *rest, MEM_STORE, err);
    int result = values && rest ? 0 : -1;

    for (int64_t i = 0; result == 0 && i < n; i += most) {
        const int64_t count = n - i < most ? n - i : most;
        result = read_part(s, b, values, F32, first + i, count, err);
        for (int64_t k = 0; result == 0 && type == REST16 && k < count; k++)
            rest[k] = fp32_rest(values[k], bf16_from_f32(values[k]));
        if (result == 0)
            result = exec_put(e, master, (size_t)(at + i) * size, type == REST16 ? (void *)rest : values,
                              (size_t)count * size, err);
    }
    mem_free(values);
    mem_free(rest);
    return result;
}

static int load_master(struct exec *e, const struct weights_source *s, int param, struct err *err)
{
    const struct buffer *b = &e->plan->buffers[param];
    int64_t begin = 0;
    const int master = b->parent < 0 ? -1 : weights_master(e->plan, b->parent, &begin);

    if (master < 0)
        return 0;
    const int64_t first = b->parent_begin > begin ? b->parent_begin : begin;
    const int64_t own_end = begin + e->plan->buffers[master].count,
                  tensor_end = b->parent_begin + shape_count(&b->shape);
    const int64_t n = (own_end < tensor_end ? own_end : tensor_end) - first;
    if (n <= 0)
        return 0;
    return read_master(e, s, b, master, first - begin, first - b->parent_begin, n, err);
}

/* What this rank holds of it; a piece at a time where it lies in a file. */
static int load_param(struct exec *e, const struct weights_source *s, int param, struct err *err)
{
    const struct buffer *b = &e->plan->buffers[param];
    const int64_t count = shape_count(&b->shape), most = count < READ_COUNT ? count : READ_COUNT;
    const size_t size = dtype_bytes(b->dtype);
    int64_t first, held;
    int result = 0;

    if (b->tier == TIER_MAPPED)
        return map_param(e, s, param, err);
    if (b->tier != TIER_FILE) {
        void *x = exec_held(e, param, &first, &held);
        return read_part(s, b, x, b->dtype, first, held, err);
    }
    void *values = mem_array(most, 1, size, MEM_STORE, err);
    if (!values)
        return -1;
    for (int64_t i = 0; result == 0 && i < count; i += most) {
        const int64_t n = count - i < most ? count - i : most;
        result = read_part(s, b, values, b->dtype, i, n, err);
        if (result == 0)
            result = exec_put(e, param, (size_t)i * size, values, (size_t)n * size, err);
    }
    mem_free(values);
    return result;
}

int weights_load_from(struct exec *e, const char *model, const struct weights_source *s, struct err *err)
{
    for (int i = 0; i < e->plan->n_buffers; i++) {
        const struct buffer *b = &e->plan->buffers[i];
        if (is_param_of(b, model) && !is_borrowed(e->plan, b) &&
            (load_param(e, s, i, err) != 0 || load_master(e, s, i, err) != 0))
            return -1;
    }
    return 0;
}

int weights_load(struct exec *e, const char *model, const struct model_dir *m, bool allow_nonfinite, struct err *err)
{
    const struct weights_source s = { .files = m, .allow_nonfinite = allow_nonfinite };

    return weights_load_from(e, model, &s, err);
}

void weights_close(const struct plan *p, const char *model, struct model_dir *files, struct model_dir *adapter)
{
    const bool maps = plan_maps(p, model);

    if (!maps || files->files[0].is_torch)
        model_dir_close(files);
    if (!maps)
        model_dir_close(adapter);
}

#define CHUNK_BYTES ((size_t)1 << 20) /* of what is in files, at a time */

/* Calls look with each megabyte of a parameter in a file; until it returns other than 0, which is the answer. */
static int each_chunk(const struct exec *e, int param,
                      int (*look)(void *context, const struct buffer *b, const char *chunk, size_t n), void *context,
                      struct err *err)
{
    const struct buffer *b = &e->plan->buffers[param];
    char *chunk = mem_array(1, 1, CHUNK_BYTES, MEM_STORE, err);
    int result = chunk ? 0 : -1;

    for (size_t at = 0, n; result == 0 && at < b->bytes; at += n) {
        n = b->bytes - at < CHUNK_BYTES ? b->bytes - at : CHUNK_BYTES;
        result = exec_get(e, param, at, chunk, n, err);
        if (result == 0)
            result = look(context, b, chunk, n);
    }
    mem_free(chunk);
    return result;
}

static int look_at_numbers(void *context, const struct buffer *b, const char *chunk, size_t n)
{
    (void)context;
    return trainer_finite_values(chunk, b->dtype, (int64_t)(n / dtype_bytes(b->dtype))) ? 0 : 1;
}

/* 1 = finite, 0 = not, -1 = could not be read. */
static int all_finite(const struct exec *e, int param, struct err *err)
{
    if (e->plan->buffers[param].tier != TIER_FILE)
        return trainer_finite(e, param);
    const int found = each_chunk(e, param, look_at_numbers, NULL, err);
    return found < 0 ? -1 : !found;
}

int weights_check(const struct exec *e, struct err *err)
{
    for (int i = 0; i < e->plan->n_buffers; i++) {
        const struct buffer *b = &e->plan->buffers[i];
        const int good = is_param(b) ? all_finite(e, i, err) : 1;
        if (good > 0)
            continue;
        if (good < 0)
            return -1;
        err_set(err, ERR_RUN, "the weights are not finite any more: \"%s\"", b->name);
        return err_hint(err, "Lower --learning_rate or add --num_warmup_steps; the last checkpoint is kept.");
    }
    return 0;
}

static int add_hash(void *hash, const struct buffer *b, const char *chunk, size_t n)
{
    (void)b;
    *(uint64_t *)hash = *(uint64_t *)hash * 31 + hash_bytes(chunk, n);
    return 0;
}

int weights_hash(const struct exec *e, const char *model, uint64_t *hash, struct err *err)
{
    *hash = 0;
    for (int i = 0; i < e->plan->n_buffers; i++) {
        const struct buffer *b = &e->plan->buffers[i];
        if (!is_param_of(b, model) || plan_is_sharded(e->plan, i))
            continue;
        if (b->tier != TIER_FILE)
            *hash = *hash * 31 + hash_bytes(exec_address(e, i), b->bytes);
        else if (each_chunk(e, i, add_hash, hash, err) != 0)
            return -1;
    }
    return 0;
}

/* ---- saving ---- */

struct saving {
    const struct hf_config *config;
    const char *dir;
    bool has_head;
};

static int write_model(void *context, const struct feed *f, const struct tensor_source *source, struct err *err)
{
    const struct saving *s = context;

    return model_dir_save_from(s->dir, s->config, f->tensors, f->n, s->has_head, source, err);
}

/* A moving average may be finer than what does not move. */
static enum dtype type_of(const struct plan *p, const char *model)
{
    enum dtype type = F32;

    for (int i = 0; i < p->n_buffers; i++)
        if (is_param_of(&p->buffers[i], model) && p->buffers[i].group != GROUP_LORA) {
            type = p->buffers[i].dtype;
            if (type == F32)
                break;
        }
    return type;
}

int weights_save(const struct exec *e, const char *model, const struct hf_config *c, const char *dir, struct err *err)
{
    const struct plan *p = e->plan;
    const enum dtype type = type_of(p, model);
    struct saving saving = { c, dir, false };
    struct feed feed;
    int result = comm_agree(e->comm, feed_init(&feed, e, err), err);

    for (int i = 0; i < p->n_buffers && result == 0; i++)
        if (is_param_of(&p->buffers[i], model) && p->buffers[i].group != GROUP_LORA) {
            feed_add(&feed, i, canonical(&p->buffers[i]), type);
            saving.has_head |= strcmp(canonical(&p->buffers[i]), "v_head.weight") == 0;
        }
    if (result == 0)
        result = feed_save(&feed, write_model, &saving, err);
    feed_free(&feed);
    return result;
}
