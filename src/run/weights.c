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

/* The master weights of flat buffer `flat`, and where in it this rank's share begins; -1 = none. */
static int master_of(const struct plan *p, int flat, int64_t *begin)
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

#define READ_COUNT ((int64_t)1 << 21) /* elements at a time, beside the plan's block */

/* Elements `at` .. at+n of a master buffer: what bf16 weights lack to be the file's numbers, from its element first on. */
static int read_rest(struct exec *e, const struct weights_source *s, const char *name, int master, int64_t at,
                     int64_t first, int64_t n, struct err *err)
{
    const int64_t most = n < READ_COUNT ? n : READ_COUNT;
    float *values = mem_array(most, 1, sizeof *values, MEM_STORE, err);
    int16_t *rest = mem_array(most, 1, sizeof *rest, MEM_STORE, err);
    int result = values && rest ? 0 : -1;

    for (int64_t i = 0; result == 0 && i < n; i += most) {
        const int64_t count = n - i < most ? n - i : most;
        result = read_part(s, name, values, F32, first + i, count, err);
        for (int64_t k = 0; result == 0 && k < count; k++)
            rest[k] = fp32_rest(values[k], bf16_from_f32(values[k]));
        if (result == 0)
            result = exec_put(e, master, (size_t)(at + i) * sizeof *rest, rest, (size_t)count * sizeof *rest, err);
    }
    mem_free(values);
    mem_free(rest);
    return result;
}

static int load_master(struct exec *e, const struct weights_source *s, int param, struct err *err)
{
    const struct buffer *b = &e->plan->buffers[param];
    int64_t begin = 0;
    const int master = b->parent < 0 ? -1 : master_of(e->plan, b->parent, &begin);

    if (master < 0)
        return 0;
    const int64_t first = b->parent_begin > begin ? b->parent_begin : begin;
    const int64_t own_end = begin + e->plan->buffers[master].count,
                  tensor_end = b->parent_begin + shape_count(&b->shape);
    const int64_t n = (own_end < tensor_end ? own_end : tensor_end) - first;
    if (n <= 0)
        return 0;
    return read_rest(e, s, canonical(b), master, first - begin, first - b->parent_begin, n, err);
}

/* What this rank holds of it; a piece at a time where it lies in a file. */
static int load_param(struct exec *e, const struct weights_source *s, int param, struct err *err)
{
    const struct buffer *b = &e->plan->buffers[param];
    const int64_t count = shape_count(&b->shape), most = count < READ_COUNT ? count : READ_COUNT;
    const size_t size = dtype_bytes(b->dtype);
    int64_t first, held;
    int result = 0;

    if (b->tier != TIER_FILE) {
        void *x = exec_held(e, param, &first, &held);
        return read_part(s, canonical(b), x, b->dtype, first, held, err);
    }
    void *values = mem_array(most, 1, size, MEM_STORE, err);
    if (!values)
        return -1;
    for (int64_t i = 0; result == 0 && i < count; i += most) {
        const int64_t n = count - i < most ? count - i : most;
        result = read_part(s, canonical(b), values, b->dtype, i, n, err);
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
        if (is_param_of(b, model) && (load_param(e, s, i, err) != 0 || load_master(e, s, i, err) != 0))
            return -1;
    }
    return 0;
}

int weights_load(struct exec *e, const char *model, const struct model_dir *m, bool allow_nonfinite, struct err *err)
{
    const struct weights_source s = { .files = m, .allow_nonfinite = allow_nonfinite };

    return weights_load_from(e, model, &s, err);
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

/* Tensors in shards on their way to rank 0: all ranks go through the same pieces of the same tensors. */
struct feed {
    const struct exec *e;
    const struct stored_tensor *tensors;
    const int *buffers; /* of each tensor */
    int n;
    void *spare; /* SAFETENSORS_PIECE bytes, for what comes when nobody wants it any more */
    int tensor; /* where it stands: the next piece */
    int64_t first;
};

/* What rank r holds of count elements from `first` on; returns where they begin among those. */
static int64_t overlap(const struct feed *f, int i, int r, int64_t first, int64_t *count)
{
    int64_t held, n;

    plan_held(f->e->plan, f->buffers[i], r, &held, &n);
    const int64_t begin = held > first ? held : first, end = held + n < first + *count ? held + n : first + *count;
    *count = end > begin ? end - begin : 0;
    return begin - first;
}

/* The n elements from `first` on that this rank holds: to rank 0, or on rank 0 to their place. */
static int give(const struct feed *f, int i, int64_t first, int64_t n, void *place, struct err *err)
{
    const size_t size = dtype_bytes(f->tensors[i].dtype), bytes = (size_t)n * size;
    struct comm *comm = f->e->comm;
    int64_t held, n_held;
    const char *own = exec_held(f->e, f->buffers[i], &held, &n_held);

    own += (size_t)(first - held) * size;
    if (comm->rank != 0)
        return comm->send(comm, own, (int64_t)bytes, 0, err);
    MUST(place);
    memcpy(place, own, bytes);
    return 0;
}

/* One piece: rank 0 puts it together in out, the others give what they hold. */
static int exchange(const struct feed *f, int i, int64_t first, int64_t count, void *out, struct err *err)
{
    struct comm *comm = f->e->comm;
    const int64_t size = (int64_t)dtype_bytes(f->tensors[i].dtype);
    int result = 0;

    for (int r = 0; r < comm->ranks && result == 0; r++) {
        int64_t n = count;
        const int64_t at = overlap(f, i, r, first, &n);
        char *place = comm->rank == 0 ? (char *)out + at * size : NULL;
        if (n > 0 && comm->rank == r)
            result = give(f, i, first + at, n, place, err);
        else if (n > 0 && comm->rank == 0)
            result = comm->receive(comm, place, n * size, r, err);
    }
    return result;
}

static int produce(void *context, int i, int64_t first, int64_t count, void *out, struct err *err)
{
    struct feed *f = context;

    const size_t size = dtype_bytes(f->tensors[i].dtype);

    f->tensor = i;
    f->first = first + count;
    if (!plan_is_sharded(f->e->plan, f->buffers[i])) /* it lies in this rank's own file */
        return exec_get(f->e, f->buffers[i], (size_t)first * size, out, (size_t)count * size, err);
    return exchange(f, i, first, count, out, err);
}

/* The pieces that are left, from where the feed stands. */
static int drain(struct feed *f, struct err *err)
{
    for (; f->tensor < f->n; f->tensor++, f->first = 0) {
        const struct stored_tensor *t = &f->tensors[f->tensor];
        const int64_t total = shape_count(&t->shape), piece = (int64_t)(SAFETENSORS_PIECE / dtype_bytes(t->dtype));
        for (; plan_is_sharded(f->e->plan, f->buffers[f->tensor]) && f->first < total; f->first += piece) {
            const int64_t count = total - f->first < piece ? total - f->first : piece;
            if (exchange(f, f->tensor, f->first, count, f->spare, err) != 0)
                return -1;
        }
    }
    return 0;
}

/* The parameters of a model, those in shards or in files without data; returns how many are in shards. */
static int list_tensors(const struct exec *e, const char *model, struct stored_tensor *tensors, int *buffers, int *n,
                        bool *has_head)
{
    const struct plan *p = e->plan;
    int sharded = 0;

    for (int i = 0; i < p->n_buffers; i++) {
        const struct buffer *b = &p->buffers[i];
        const bool in_shards = plan_is_sharded(p, i);
        if (!is_param_of(b, model))
            continue;
        *has_head |= strcmp(canonical(b), "v_head.weight") == 0;
        sharded += in_shards;
        buffers[*n] = i;
        tensors[(*n)++] = (struct stored_tensor){ .name = canonical(b),
                                                  .dtype = b->dtype,
                                                  .shape = b->shape,
                                                  .data = in_shards || b->tier == TIER_FILE ? NULL : exec_address(e, i),
                                                  .bytes = b->bytes };
    }
    return sharded;
}

/* Rank 0 writes; if it cannot, the others still wait to be rid of their pieces. */
static int save(struct feed *f, const struct hf_config *c, const char *dir, bool has_head, struct err *err)
{
    const struct tensor_source source = { .produce = produce, .context = f };
    struct err drained;

    if (f->e->comm->rank != 0)
        return drain(f, err);
    const int result = model_dir_save_from(dir, c, f->tensors, f->n, has_head, &source, err);
    if (result != 0 && drain(f, &drained) != 0)
        f->e->comm->abort(f->e->comm, err_exit_code(err->code));
    return result;
}

int weights_save(const struct exec *e, const char *model, const struct hf_config *c, const char *dir, struct err *err)
{
    struct stored_tensor *tensors = mem_array(e->plan->n_buffers, 1, sizeof *tensors, MEM_STORE, err);
    int *buffers = mem_array(e->plan->n_buffers, 1, sizeof *buffers, MEM_STORE, err);
    void *spare = mem_array(SAFETENSORS_PIECE, 1, 1, MEM_STORE, err);
    bool has_head = false;
    int n = 0, result = comm_agree(e->comm, tensors && buffers && spare ? 0 : -1, err);

    if (result == 0 && tensors && buffers && spare) {
        const int sharded = list_tensors(e, model, tensors, buffers, &n, &has_head);
        struct feed f = { .e = e, .tensors = tensors, .buffers = buffers, .n = n, .spare = spare };
        result = e->comm->rank == 0 || sharded > 0 ? save(&f, c, dir, has_head, err) : 0;
    }
    mem_free(tensors);
    mem_free(buffers);
    mem_free(spare);
    return result;
}
