/* A flat buffer's element belongs to a tensor, whichever rank has it: all that is read is ranges of tensors. */
#include "run/statemap.h"

#include <inttypes.h>
#include <string.h>

#include "base/mem.h"
#include "run/run.h"
#include "store/checkpoint.h"

#define MANY ((int64_t)1 << 48)
#define CHUNK_COUNT ((int64_t)1 << 18) /* elements at a time, of what goes to files */

static const char *const states[] = { "param", "m", "v", "master", "m_scales", "v_scales" }; /* as AdamW's outputs */

/* What buffer b is, and of which flat buffer of parameters (itself where it is one). */
static const char *what_is(const struct plan *p, int b, int *flat)
{
    *flat = b;
    for (int g = 0; g < p->n_programs; g++)
        for (int i = 0; i < p->programs[g].n_steps; i++) {
            const struct op_step *s = &p->programs[g].steps[i];
            for (int k = 1; (s->op == OP_ADAMW || s->op == OP_ADAMW8) && k < COUNT_OF(states); k++)
                if (plan_stored(p, s->out[k]) == b) {
                    const int param = plan_stored(p, s->out[0]), parent = p->buffers[param].parent;
                    *flat = parent < 0 ? param : parent; /* of a view of this rank's share */
                    return states[k];
                }
        }
    return states[0];
}

/* Is buffer i a tensor of the flat one, or the one itself where it is no flat one? */
static bool is_tensor_of(const struct plan *p, int i, int flat)
{
    const struct buffer *b = &p->buffers[i];
    const bool named = strncmp(b->name, "flat/", 5) != 0;

    return named && (i == flat || (b->kind == KIND_PARAM && b->persistent && b->parent == flat));
}

static int64_t begin_in(const struct plan *p, int tensor, int flat)
{
    return tensor == flat ? 0 : p->buffers[tensor].parent_begin;
}

static json_t *tensors_json(const struct plan *p, int flat)
{
    json_t *list = json_array();

    for (int i = 0; i < p->n_buffers; i++)
        if (is_tensor_of(p, i, flat))
            json_array_append_new(list, json_pack("{s:s, s:I, s:I}", "name", p->buffers[i].name, "begin",
                                                  (json_int_t)begin_in(p, i, flat), "count",
                                                  (json_int_t)shape_count(&p->buffers[i].shape)));
    return list;
}

json_t *statemap_json(const struct plan *p, const int *pieces, int n, struct err *err)
{
    json_t *list = json_array();

    for (int i = 0; i < n; i++) {
        const struct buffer *b = &p->buffers[pieces[i]];
        int flat;
        const char *what = what_is(p, pieces[i], &flat);
        json_array_append_new(list, json_pack("{s:s, s:s, s:i, s:I, s:o}", "state", what, "type", dtype_name(b->dtype),
                                              "shards", b->shards, "share", (json_int_t)b->count, "tensors",
                                              tensors_json(p, flat)));
    }
    if (list && json_array_size(list) == (size_t)n)
        return list;
    json_decref(list);
    err_set(err, ERR_MEMORY, "there is no memory for the map of the state");
    return NULL;
}

/* A tensor's state in a checkpoint. */
struct place {
    int64_t shards, share; /* of the piece that it lies in */
    int64_t base; /* bytes before that piece in its part */
    int64_t begin, count; /* elements of the piece's whole */
};

static int bad_map(const char *path, struct err *err)
{
    err_set(err, ERR_INPUT, "the map of the state is not as it should be");
    return err_where(err, "checkpoint \"%s\"", path);
}

/* 1 = the piece holds the tensor. */
static int look_in(const json_t *piece, const char *tensor, const char *path, struct place *out, struct err *err)
{
    const json_t *list = json_object_get(piece, "tensors"), *t;
    size_t i;

    json_array_foreach(list, i, t)
    {
        const char *name = json_string_value(json_object_get(t, "name"));
        if (!name || strcmp(name, tensor) != 0)
            continue;
        if (json_get_int(t, path, "begin", 0, MANY, &out->begin, err) != 1 ||
            json_get_int(t, path, "count", 1, MANY, &out->count, err) != 1 ||
            out->begin + out->count > out->shards * out->share)
            return bad_map(path, err);
        return 1;
    }
    return 0;
}

/* Finds one kind of state of a tensor, of the type that is wanted. */
static int find_place(const json_t *map, const char *what, const char *tensor, enum dtype type, const char *path,
                      struct place *out, struct err *err)
{
    int64_t shared = 0, sharded = 0; /* bytes of the pieces before, in parts of either sort */
    const json_t *piece;
    size_t i;

    json_array_foreach(map, i, piece)
    {
        const char *state = json_string_value(json_object_get(piece, "state"));
        const char *stored = json_string_value(json_object_get(piece, "type"));
        if (!state || !stored || json_get_int(piece, path, "shards", 1, RUN_MAX_RANKS, &out->shards, err) != 1 ||
            json_get_int(piece, path, "share", 0, MANY / RUN_MAX_RANKS, &out->share, err) != 1)
            return bad_map(path, err);
        int64_t *before = out->shards > 1 ? &sharded : &shared;
        out->base = *before;
        if (strcmp(state, what) == 0 && strcmp(stored, dtype_name(type)) == 0) {
            const int found = look_in(piece, tensor, path, out, err);
            if (found != 0)
                return found < 0 ? -1 : 0;
        }
        enum dtype t = F32;
        while (t < DTYPE_N && strcmp(dtype_name(t), stored) != 0)
            t++;
        if (t == DTYPE_N || *before > (int64_t)1 << 60)
            return bad_map(path, err);
        *before += out->share * (int64_t)dtype_bytes(t);
    }
    err_set(err, ERR_INPUT, "the checkpoint has no %s of \"%s\"", what, tensor);
    err_where(err, "\"%s\"", path);
    return err_hint(err, "Resume with the options that wrote it.");
}

/* Elements first .. first+n-1 of the tensor, from as many shards as they lie in. */
static int read_range(const struct place *from, const char *path, int64_t first, int64_t n, size_t size, char *out,
                      struct err *err)
{
    MUST(from->share > 0);
    for (int64_t at = from->begin + first, end = at + n; at < end;) {
        const int64_t rank = at / from->share, within = at % from->share;
        const int64_t left = end - at, here = from->share - within < left ? from->share - within : left;
        char name[CHECKPOINT_NAME_MAX] = "shared";
        if (from->shards > 1)
            snprintf(name, sizeof name, "rank-%" PRId64, rank);
        if (checkpoint_read_range(path, name, from->base + within * (int64_t)size, out, (size_t)here * size, err) != 0)
            return -1;
        out += (size_t)here * size;
        at += here;
    }
    return 0;
}

/* The same to a buffer, from its element `at` on, wherever it lies. */
static int load_range(struct exec *e, int buffer, int64_t at, const struct place *from, const char *path, int64_t first,
                      int64_t n, struct err *err)
{
    const size_t size = dtype_bytes(e->plan->buffers[buffer].dtype);
    int result = 0;

    if (e->plan->buffers[buffer].tier != TIER_FILE)
        return read_range(from, path, first, n, size, (char *)exec_address(e, buffer) + (size_t)at * size, err);
    char *chunk = mem_array(CHUNK_COUNT, 1, size, MEM_STORE, err);
    if (!chunk)
        return -1;
    for (int64_t i = 0; result == 0 && i < n; i += CHUNK_COUNT) {
        const int64_t count = n - i < CHUNK_COUNT ? n - i : CHUNK_COUNT;
        result = read_range(from, path, first + i, count, size, chunk, err);
        if (result == 0)
            result = exec_put(e, buffer, (size_t)(at + i) * size, chunk, (size_t)count * size, err);
    }
    mem_free(chunk);
    return result;
}

/* What this rank holds of one tensor in a piece. */
static int load_tensor(struct exec *e, int piece, const char *what, int tensor, int flat, const json_t *map,
                       const char *path, struct err *err)
{
    const struct plan *p = e->plan;
    const struct buffer *b = &p->buffers[piece], *t = &p->buffers[tensor];
    const int64_t own = b->shards > 1 ? b->count * p->rank : 0, own_end = own + b->count;
    const int64_t begin = begin_in(p, tensor, flat), end = begin + shape_count(&t->shape);
    const int64_t first = begin > own ? begin : own, stop = end < own_end ? end : own_end;
    struct place from = { 0 };

    if (stop <= first)
        return 0;
    if (find_place(map, what, t->name, b->dtype, path, &from, err) != 0)
        return -1;
    if (from.count != end - begin)
        return bad_map(path, err);
    return load_range(e, piece, first - own, &from, path, first - begin, stop - first, err);
}

int statemap_load(struct exec *e, const int *pieces, int n, const json_t *map, const char *path, struct err *err)
{
    for (int i = 0; i < n; i++) {
        int flat;
        const char *what = what_is(e->plan, pieces[i], &flat);
        if (e->plan->buffers[pieces[i]].dtype == I8) {
            err_set(err, ERR_USAGE, "moments in 8 bits lie in blocks of a rank's share, and the shares are others");
            err_where(err, "checkpoint \"%s\"", path);
            return err_hint(err, "Resume with the ranks and the ZeRO stage that wrote it.");
        }
        for (int t = 0; t < e->plan->n_buffers; t++)
            if (is_tensor_of(e->plan, t, flat) && load_tensor(e, pieces[i], what, t, flat, map, path, err) != 0)
                return -1;
    }
    return 0;
}
