/* The executor knows three sorts of steps: collectives, which go to comm, pieces of files, which go to the disk, and everything
 * else, which goes to the backend. */
#include "exec/exec.h"

#include <stdint.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>

#include "base/mem.h"

#define SCRATCH_ALIGNMENT 64

static int prepare_program(struct exec *e, int program, struct err *err)
{
    struct program *g = &e->plan->programs[program];

    e->kernels[program] = mem_array(g->n_steps, 1, sizeof(struct kernel), MEM_PLAN, err);
    if (!e->kernels[program])
        return -1;
    for (int i = 0; i < g->n_steps; i++) {
        struct kernel *k = &e->kernels[program][i];
        if (op_is_collective(g->steps[i].op) || op_moves_files(g->steps[i].op))
            continue;
        k->plan = e->plan;
        k->step = &g->steps[i];
        if (e->backend->prepare(e->backend, e->plan, &g->steps[i], k, err) != 0)
            return -1;
        g->steps[i].scratch_bytes = k->scratch_bytes;
    }
    return 0;
}

int exec_prepare(struct exec *e, struct plan *p, struct backend *b, struct comm *c, struct err *err)
{
    *e = (struct exec){ .plan = p, .backend = b, .comm = c };
    cost_fill(p);
    for (int i = 0; i < p->n_programs; i++)
        if (prepare_program(e, i, err) != 0) {
            exec_free(e);
            return -1;
        }
    return layout_assign(p, err);
}

/* The elements that a step moves, as bytes of the buffer in the file. */
static const struct buffer *file_range(const struct plan *p, const struct op_step *s, size_t *offset, size_t *bytes)
{
    const struct buffer *b = &p->buffers[s->op == OP_FILE_READ ? s->in[0] : s->out[0]];
    const size_t size = dtype_bytes(b->dtype);

    MUST(b->tier == TIER_FILE && s->attrs.begin >= 0 && s->attrs.count >= 0 &&
         s->attrs.begin + s->attrs.count <= b->count);
    *offset = b->offset + (size_t)s->attrs.begin * size;
    *bytes = (size_t)s->attrs.count * size;
    return b;
}

/* Whether all pieces begin on blocks, and end on them or with their buffer. */
static bool moves_blocks(const struct plan *p)
{
    size_t offset, bytes;

    for (int g = 0; g < p->n_programs; g++)
        for (int i = 0; i < p->programs[g].n_steps; i++) {
            const struct op_step *s = &p->programs[g].steps[i];
            if (s->op != OP_FILE_READ && s->op != OP_FILE_WRITE)
                continue;
            const struct buffer *b = file_range(p, s, &offset, &bytes);
            const bool ends = s->attrs.begin + s->attrs.count == b->count;
            if (offset % PLAN_FILE_BLOCK != 0 || (bytes % PLAN_FILE_BLOCK != 0 && !ends))
                return false;
        }
    return true;
}

static int allocate_file(struct exec *e, struct err *err)
{
    const size_t bytes = e->plan->tier_bytes[TIER_FILE];

    if (bytes == 0)
        return 0;
    if (!e->plan->file_folder) {
        err_set(err, ERR_USAGE, "there is no folder for what is offloaded");
        return err_hint(err, "Name one on a local disk with --offload_dir.");
    }
    return disk_open(&e->disk, e->plan->file_folder, bytes, moves_blocks(e->plan), err);
}

/* Of what is in memory. */
static int set_addresses(struct exec *e, struct err *err)
{
    const struct plan *p = e->plan;

    e->addresses = mem_array(p->n_buffers, 1, sizeof *e->addresses, MEM_PLAN, err);
    for (int i = 0; e->addresses && i < p->n_buffers; i++)
        e->addresses[i] = p->buffers[i].tier == TIER_DEVICE ? e->block + p->buffers[i].offset : NULL;
    return e->addresses ? 0 : -1;
}

/* Touching pages now, in parallel, keeps overcommit from ending the run in its third hour, and steps from paying for it. */
int exec_allocate(struct exec *e, struct err *err)
{
    const size_t bytes = e->plan->tier_bytes[TIER_DEVICE];
    char *block =
        mmap(NULL, bytes ? bytes : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);

    if (block == MAP_FAILED) {
        err_set(err, ERR_MEMORY, "could not allocate the %zu bytes that the plan needs", bytes);
        return err_hint(err, "`tuneup plan` with the same options shows what takes the memory.");
    }
    madvise(block, bytes, MADV_HUGEPAGE); /* advice: where there are none, small pages do */
    const int64_t page = 4096, n_pages = ((int64_t)bytes + page - 1) / page;
#pragma omp parallel for schedule(static) num_threads(e->backend->threads)
    for (int64_t i = 0; i < n_pages; i++)
        *(volatile char *)(block + i * page) = 0;
    e->block = block;
    e->block_bytes = bytes;
    return set_addresses(e, err) == 0 ? allocate_file(e, err) : -1;
}

void exec_bind(struct exec *e, int buffer, const void *data)
{
    const struct plan *p = e->plan;
    const struct buffer *b = &p->buffers[buffer];

    MUST(b->tier == TIER_MAPPED && b->parent < 0 && (uintptr_t)data % dtype_bytes(b->dtype) == 0);
    e->mapped_bytes += e->addresses[buffer] ? 0 : b->bytes;
    for (int i = 0; i < p->n_buffers; i++) {
        int whole = i;
        while (p->buffers[whole].parent >= 0)
            whole = p->buffers[whole].parent;
        if (whole == buffer)
            e->addresses[i] = (char *)data + (p->buffers[i].offset - b->offset);
    }
}

void exec_free(struct exec *e)
{
    for (int i = 0; e->plan && i < PLAN_MAX_PROGRAMS; i++) {
        for (int s = 0; e->kernels[i] && s < e->plan->programs[i].n_steps; s++)
            if (e->kernels[i][s].step)
                e->backend->kernel_free(e->backend, &e->kernels[i][s]);
        mem_free(e->kernels[i]);
    }
    disk_close(e->disk); /* first: pieces may be on their way to the block */
    if (e->block)
        munmap(e->block, e->block_bytes);
    mem_free(e->addresses);
    *e = (struct exec){ 0 };
}

void *exec_address(const struct exec *e, int buffer)
{
    if (buffer < 0)
        return NULL;
    MUST(e->addresses[buffer]);
    return e->addresses[buffer];
}

int exec_get(const struct exec *e, int buffer, size_t at, void *out, size_t bytes, struct err *err)
{
    const struct buffer *b = &e->plan->buffers[buffer];

    MUST(bytes <= b->bytes && at <= b->bytes - bytes);
    if (b->tier == TIER_FILE)
        return disk_get(e->disk, b->offset + at, out, bytes, err);
    memcpy(out, (char *)exec_address(e, buffer) + at, bytes);
    return 0;
}

int exec_put(struct exec *e, int buffer, size_t at, const void *from, size_t bytes, struct err *err)
{
    const struct buffer *b = &e->plan->buffers[buffer];

    MUST(bytes <= b->bytes && at <= b->bytes - bytes);
    if (b->tier == TIER_FILE)
        return disk_put(e->disk, b->offset + at, from, bytes, err);
    MUST(b->tier != TIER_MAPPED);
    memcpy((char *)exec_address(e, buffer) + at, from, bytes);
    return 0;
}

void *exec_held(const struct exec *e, int buffer, int64_t *first, int64_t *count)
{
    const struct buffer *b = &e->plan->buffers[buffer];
    const int64_t at = plan_held(e->plan, buffer, e->plan->rank, first, count);
    const int whole = plan_is_sharded(e->plan, buffer) ? b->parent : buffer;

    return (char *)exec_address(e, whole) + (size_t)at * dtype_bytes(b->dtype);
}

void *exec_buffer(const struct exec *e, const char *name)
{
    const int b = plan_find(e->plan, name);

    MUST(b >= 0);
    return exec_address(e, b);
}

static int all_reduce(struct exec *e, const struct op_step *s, struct err *err)
{
    const enum dtype t = e->plan->buffers[s->out[0]].dtype;
    char *x = (char *)exec_address(e, s->out[0]) + (size_t)s->attrs.begin * dtype_bytes(t);

    for (int64_t at = 0; at < s->attrs.count; at += s->attrs.bucket) {
        const int64_t left = s->attrs.count - at, n = left < s->attrs.bucket ? left : s->attrs.bucket;
        if (comm_run(e->comm, COMM_ALL_REDUCE, x + (size_t)at * dtype_bytes(t), n, t, err) != 0)
            return -1;
    }
    return 0;
}

/* Of a flat buffer as it lies, R parts: done, or only begun. */
static int whole_collective(struct exec *e, const struct op_step *s, enum collective what, struct err *err)
{
    const struct buffer *b = &e->plan->buffers[s->out[0]];
    void *x = exec_address(e, s->out[0]);

    if (!s->attrs.begins)
        return comm_run(e->comm, what, x, b->count / e->plan->ranks, b->dtype, err);
    e->n_pending++;
    return comm_begin(e->comm, what, x, b->count / e->plan->ranks, b->dtype, err);
}

/* The flat buffer is R parts, one a rank; a bucket takes the same piece of every part. Without a bucket the whole is one. */
static int reduce_scatter(struct exec *e, const struct op_step *s, struct err *err)
{
    const struct buffer *flat = &e->plan->buffers[s->out[0]];
    const size_t size = dtype_bytes(flat->dtype);
    const int64_t part = flat->count / e->plan->ranks;
    char *x = exec_address(e, s->out[0]), *bucket = exec_address(e, s->out[1]);

    MUST(x);
    if (!bucket) { /* padding counts as nothing */
        memset(x + (size_t)s->attrs.count * size, 0, (size_t)(flat->count - s->attrs.count) * size);
        return whole_collective(e, s, COMM_REDUCE_SCATTER, err);
    }
    for (int64_t at = 0; at < part; at += s->attrs.bucket) {
        const int64_t left = part - at, n = left < s->attrs.bucket ? left : s->attrs.bucket;
        for (int r = 0; r < e->plan->ranks; r++)
            memcpy(bucket + (size_t)(r * n) * size, x + (size_t)(r * part + at) * size, (size_t)n * size);
        if (comm_run(e->comm, COMM_REDUCE_SCATTER, bucket, n, flat->dtype, err) != 0)
            return -1;
        const int own = e->plan->rank;
        memcpy(x + (size_t)(own * part + at) * size, bucket + (size_t)(own * n) * size, (size_t)n * size);
    }
    return 0;
}

static int run_collective(struct exec *e, const struct op_step *s, struct err *err)
{
    switch (s->op) {
    case OP_ALL_REDUCE:
        return all_reduce(e, s, err);
    case OP_REDUCE_SCATTER:
        return reduce_scatter(e, s, err);
    case OP_WAIT:
        e->n_pending--;
        return e->comm->end(e->comm, exec_address(e, s->in[0]), err);
    default:
        return whole_collective(e, s, COMM_ALL_GATHER, err);
    }
}

static int run_file(struct exec *e, const struct op_step *s, struct err *err)
{
    size_t offset, bytes;

    if (s->op != OP_FILE_WAIT)
        file_range(e->plan, s, &offset, &bytes);
    switch (s->op) {
    case OP_FILE_READ:
        disk_read(e->disk, exec_address(e, s->out[0]), offset, bytes);
        return 0;
    case OP_FILE_WRITE:
        disk_write(e->disk, exec_address(e, s->in[0]), offset, bytes);
        return 0;
    default:
        for (int k = 0; k < OP_MAX_OUT; k++)
            if (s->out[k] >= 0 && disk_wait(e->disk, exec_address(e, s->out[k]), err) != 0)
                return -1;
        return 0;
    }
}

static int run_step(struct exec *e, int program, int i, const struct run_context *c, struct err *err)
{
    const struct op_step *s = &e->plan->programs[program].steps[i];
    void *in[OP_MAX_IN], *out[OP_MAX_OUT];

    if (op_is_collective(s->op))
        return run_collective(e, s, err);
    if (op_moves_files(s->op))
        return run_file(e, s, err);
    for (int k = 0; k < OP_MAX_IN; k++)
        in[k] = exec_address(e, s->in[k]);
    for (int k = 0; k < OP_MAX_OUT; k++)
        out[k] = exec_address(e, s->out[k]);
    return e->backend->run(e->backend, &e->kernels[program][i], in, out, e->block + e->plan->scratch_offset, c, err);
}

static double seconds_now(void)
{
    struct timespec t;

    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

int exec_run(struct exec *e, int program, const struct run_context *c, struct err *err)
{
    const struct program *g = &e->plan->programs[program];
    struct run_context own = *c;

    MUST(g->B == 0 || (c->B <= g->B && c->T <= g->T));
    own.live = exec_address(e, g->live);
    own.places = exec_address(e, g->places);
    for (int i = 0; i < g->n_steps; i++) {
        const double start_s = e->hook ? seconds_now() : 0;
        if (e->n_pending > 0)
            e->comm->progress(e->comm);
        if (run_step(e, program, i, &own, err) != 0) {
            if (!err->where[0])
                err_where(err, "program %s, step %d (%s)", g->name, i, op_rule(g->steps[i].op)->name);
            return -1;
        }
        if (e->hook)
            e->hook(e->hook_context, g, &g->steps[i], seconds_now() - start_s);
    }
    if (e->run_hook)
        e->run_hook(e->run_hook_context, program, &own);
    return 0;
}
