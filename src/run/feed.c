/* Nothing is allocated once ranks wait for each other's pieces, and a rank 0 that fails goes on taking them. */
#include "run/feed.h"

#include <string.h>

#include "base/mem.h"
#include "run/adapter.h"

int feed_init(struct feed *f, const struct exec *e, struct err *err)
{
    *f = (struct feed){ .e = e };
    f->tensors = mem_array(e->plan->n_buffers, 1, sizeof *f->tensors, MEM_STORE, err);
    f->buffers = f->tensors ? mem_array(e->plan->n_buffers, 1, sizeof *f->buffers, MEM_STORE, err) : NULL;
    if (f->buffers)
        return 0;
    feed_free(f);
    return -1;
}

void feed_free(struct feed *f)
{
    mem_free(f->tensors);
    mem_free(f->buffers);
    mem_free(f->piece);
    mem_free(f->values);
    mem_free(f->first);
    mem_free(f->second);
    *f = (struct feed){ 0 };
}

static void note_factor(struct feed *f, int k, int buffer)
{
    const int64_t n = shape_count(&f->e->plan->buffers[buffer].shape);

    f->factors[k] = n > f->factors[k] ? n : f->factors[k];
    f->sends |= plan_is_sharded(f->e->plan, buffer);
}

void feed_add(struct feed *f, int buffer, const char *name, enum dtype as)
{
    const struct plan *p = f->e->plan;
    const struct buffer *b = &p->buffers[buffer];
    const int adapter = adapter_of(p, buffer);
    const bool in_shards = plan_is_sharded(p, buffer),
               as_it_is = b->dtype == as && adapter < 0 && !in_shards && b->tier != TIER_FILE;

    if (adapter >= 0) {
        note_factor(f, 0, adapter);
        note_factor(f, 1, adapter_second(p, adapter));
    }
    f->sends |= in_shards;
    f->buffers[f->n] = buffer;
    f->tensors[f->n++] = (struct stored_tensor){ .name = name,
                                                 .dtype = as,
                                                 .shape = b->shape,
                                                 .data = as_it_is ? exec_address(f->e, buffer) : NULL,
                                                 .bytes = (size_t)shape_count(&b->shape) * dtype_bytes(as) };
}

/* ---- pieces ---- */

/* What rank r holds of count elements from `first` on; returns where they begin among those. */
static int64_t overlap(const struct feed *f, int buffer, int r, int64_t first, int64_t *count)
{
    int64_t held, n;

    plan_held(f->e->plan, buffer, r, &held, &n);
    const int64_t begin = held > first ? held : first, end = held + n < first + *count ? held + n : first + *count;
    *count = end > begin ? end - begin : 0;
    return begin - first;
}

/* The n elements from `first` on that this rank holds: to rank 0, or on rank 0 to their place. */
static int give(const struct feed *f, int buffer, int64_t first, int64_t n, void *place, struct err *err)
{
    const size_t size = dtype_bytes(f->e->plan->buffers[buffer].dtype), bytes = (size_t)n * size;
    struct comm *comm = f->e->comm;
    int64_t held, n_held;
    const char *own = exec_held(f->e, buffer, &held, &n_held);

    own += (size_t)(first - held) * size;
    if (comm->rank != 0)
        return comm->send(comm, own, (int64_t)bytes, 0, err);
    MUST(place);
    memcpy(place, own, bytes);
    return 0;
}

/* Elements of a buffer, of its own type: rank 0 puts them together in out, the others give what they hold. */
static int exchange(const struct feed *f, int buffer, int64_t first, int64_t count, void *out, struct err *err)
{
    struct comm *comm = f->e->comm;
    const int64_t size = (int64_t)dtype_bytes(f->e->plan->buffers[buffer].dtype);
    int result = 0;

    for (int r = 0; r < comm->ranks && result == 0; r++) {
        int64_t n = count;
        const int64_t at = overlap(f, buffer, r, first, &n);
        char *place = comm->rank == 0 ? (char *)out + at * size : NULL;
        if (n > 0 && comm->rank == r)
            result = give(f, buffer, first + at, n, place, err);
        else if (n > 0 && comm->rank == 0)
            result = comm->receive(comm, place, n * size, r, err);
    }
    return result;
}

/* The same of a buffer that rank 0 has whole, in memory or in its file. */
static int take(const struct feed *f, int buffer, int64_t first, int64_t count, void *out, struct err *err)
{
    const size_t size = dtype_bytes(f->e->plan->buffers[buffer].dtype);

    return f->e->comm->rank == 0 ? exec_get(f->e, buffer, (size_t)first * size, out, (size_t)count * size, err) : 0;
}

/* Elements in fp32, from wherever they are. */
static int fetch(const struct feed *f, int buffer, int64_t first, int64_t count, float *out, struct err *err)
{
    const enum dtype type = f->e->plan->buffers[buffer].dtype;
    const int64_t most = (int64_t)(SAFETENSORS_PIECE / dtype_bytes(type));

    const bool in_shards = plan_is_sharded(f->e->plan, buffer);

    for (int64_t i = 0; i < count; i += most) {
        const int64_t n = count - i < most ? count - i : most;
        if ((in_shards ? exchange : take)(f, buffer, first + i, n, f->piece, err) != 0)
            return -1;
        if (f->e->comm->rank == 0)
            dtype_convert(out + i, F32, f->piece, type, n);
    }
    return 0;
}

static int fetch_factors(const struct feed *f, int adapter, struct err *err)
{
    const struct plan *p = f->e->plan;
    const int second = adapter_second(p, adapter);

    if (fetch(f, adapter, 0, shape_count(&p->buffers[adapter].shape), f->first, err) != 0)
        return -1;
    return fetch(f, second, 0, shape_count(&p->buffers[second].shape), f->second, err);
}

/* Elements of tensor i as they are to be written; ranks but 0 only give. */
static int make_piece(const struct feed *f, int i, int64_t first, int64_t count, void *out, struct err *err)
{
    const struct plan *p = f->e->plan;
    const int buffer = f->buffers[i], adapter = adapter_of(p, buffer);

    if (adapter < 0 && p->buffers[buffer].dtype == f->tensors[i].dtype)
        return (plan_is_sharded(p, buffer) ? exchange : take)(f, buffer, first, count, out, err);
    if (adapter >= 0 && first == 0 && fetch_factors(f, adapter, err) != 0)
        return -1;
    if (fetch(f, buffer, first, count, f->values, err) != 0)
        return -1;
    if (f->e->comm->rank != 0)
        return 0;
    if (adapter >= 0)
        adapter_add(&p->buffers[adapter], f->first, f->second, first, count, f->values);
    dtype_convert(out, f->tensors[i].dtype, f->values, F32, count);
    return 0;
}

static int produce(void *context, int i, int64_t first, int64_t count, void *out, struct err *err)
{
    struct feed *f = context;

    f->tensor = i;
    f->at = first + count;
    return make_piece(f, i, first, count, out, err);
}

/* The pieces that are left, from where the feed stands: to nowhere. */
static int drain(struct feed *f, struct err *err)
{
    for (; f->tensor < f->n; f->tensor++, f->at = 0) {
        const struct stored_tensor *t = &f->tensors[f->tensor];
        const int64_t total = shape_count(&t->shape), piece = (int64_t)(SAFETENSORS_PIECE / dtype_bytes(t->dtype));
        for (; !t->data && f->at < total; f->at += piece) {
            const int64_t count = total - f->at < piece ? total - f->at : piece;
            if (make_piece(f, f->tensor, f->at, count, f->piece, err) != 0)
                return -1;
        }
    }
    return 0;
}

/* ---- the whole ---- */

/* A piece in 16 bits has twice as many elements as one in fp32. */
static int allocate(struct feed *f, struct err *err)
{
    f->piece = mem_array(SAFETENSORS_PIECE, 1, 1, MEM_STORE, err);
    f->values = f->piece ? mem_array(SAFETENSORS_PIECE / 2, 1, sizeof *f->values, MEM_STORE, err) : NULL;
    f->first = f->values ? mem_array(f->factors[0] + 1, 1, sizeof *f->first, MEM_STORE, err) : NULL;
    f->second = f->first ? mem_array(f->factors[1] + 1, 1, sizeof *f->second, MEM_STORE, err) : NULL;
    return f->second ? 0 : -1;
}

int feed_save(struct feed *f,
              int (*write)(void *context, const struct feed *f, const struct tensor_source *source, struct err *err),
              void *context, struct err *err)
{
    const struct tensor_source source = { .produce = produce, .context = f };
    struct comm *comm = f->e->comm;
    struct err drained;

    if (comm_agree(comm, allocate(f, err), err) != 0)
        return -1;
    if (comm->rank != 0)
        return f->sends ? drain(f, err) : 0;
    const int result = write(context, f, &source, err);
    if (result != 0 && f->sends && drain(f, &drained) != 0)
        comm->abort(comm, err_exit_code(err->code));
    return result;
}
