/* Where every buffer lies. Persistent buffers follow each other; the transient buffers of each program are packed into one
 * region that all programs share, by lifetime: largest first, each at the lowest offset where it overlaps no placed buffer
 * that lives at the same time (greedy by size: Pisarchyk and Lee 2020, arXiv:2001.03288). A result takes over the place of an
 * operand that it can be written over. Caches begin that region: the programs that use them find them there from run to run,
 * the others write over them. Then comes the scratch that the hungriest kernel wants. What lives in files follows each other
 * there; what is mapped lies where the model's files have it. The answer is the prediction and the allocation at once. */
#include "plan/plan.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"

#define ALIGNMENT ((size_t)64)

static size_t aligned_to(size_t bytes, size_t alignment)
{
    return (bytes + alignment - 1) / alignment * alignment;
}

static size_t aligned(size_t bytes)
{
    return aligned_to(bytes, ALIGNMENT);
}

static size_t alignment_of(const struct buffer *b)
{
    return b->staging || b->tier == TIER_FILE ? PLAN_FILE_BLOCK : ALIGNMENT;
}

static size_t room_of(const struct buffer *b)
{
    return aligned_to(b->bytes, alignment_of(b));
}

static int size_buffer(struct buffer *b, struct err *err)
{
    const int64_t whole = shape_count(&b->shape);
    char text[SHAPE_TEXT_MAX];
    size_t bytes;

    if (whole < 0 || !mem_mul((size_t)whole, dtype_bytes(b->dtype), &bytes) || bytes > PTRDIFF_MAX / 4)
        return err_set(err, ERR_INFEASIBLE, "tensor \"%s\" of shape %s is larger than memory can be", b->name,
                       shape_print(&b->shape, text));
    b->count = whole / b->shards;
    b->bytes = (size_t)b->count * dtype_bytes(b->dtype);
    b->first_step = b->last_step = -1;
    return 0;
}

/* Whoever uses a view uses what it is a view of. */
static void note_use(struct plan *p, int buffer, int step)
{
    for (; buffer >= 0; buffer = p->buffers[buffer].parent) {
        struct buffer *b = &p->buffers[buffer];
        if (b->first_step < 0)
            b->first_step = step;
        b->last_step = step;
    }
}

static void find_lifetimes(struct plan *p)
{
    for (int g = 0; g < p->n_programs; g++)
        for (int s = 0; s < p->programs[g].n_steps; s++) {
            const struct op_step *step = &p->programs[g].steps[s];
            for (int k = 0; k < OP_MAX_IN; k++)
                note_use(p, step->in[k], s);
            for (int k = 0; k < OP_MAX_OUT; k++)
                note_use(p, step->out[k], s);
        }
}

static bool has_own_place(const struct plan *p, int buffer, int program)
{
    const struct buffer *b = buffer < 0 ? NULL : &p->buffers[buffer];

    return b && b->parent < 0 && !b->persistent && b->program == program;
}

/* Where an op can write its result over an operand that is dead after it, the operand becomes a view of the result. */
static void share_places(struct plan *p)
{
    for (int g = 0; g < p->n_programs; g++)
        for (int i = 0; i < p->programs[g].n_steps; i++) {
            const struct op_step *s = &p->programs[g].steps[i];
            const int over = op_in_place(s->op), from = over < 0 ? -1 : s->in[over], to = s->out[0];
            if (!has_own_place(p, from, g) || !has_own_place(p, to, g))
                continue;
            struct buffer *dead = &p->buffers[from], *result = &p->buffers[to];
            if (dead->last_step != i || result->first_step != i || dead->bytes != result->bytes)
                continue;
            dead->parent = to;
            dead->parent_begin = 0;
            result->first_step = dead->first_step;
        }
}

struct span {
    size_t begin, end;
};

static int compare_spans(const void *a, const void *b)
{
    const struct span *x = a, *y = b;

    return (x->begin > y->begin) - (x->begin < y->begin);
}

/* Largest first; equal sizes in the order of their first use, so that the answer is one and the same everywhere. */
static int compare_buffers(const void *a, const void *b)
{
    const struct buffer *x = *(struct buffer *const *)a, *y = *(struct buffer *const *)b;

    if (x->bytes != y->bytes)
        return x->bytes < y->bytes ? 1 : -1;
    if (x->first_step != y->first_step)
        return x->first_step < y->first_step ? -1 : 1;
    return (x > y) - (x < y);
}

static size_t lowest_gap(struct buffer *const *placed, int n, const struct buffer *b, struct span *busy)
{
    int n_busy = 0;
    size_t at = 0;

    for (int i = 0; i < n; i++)
        if (placed[i]->first_step <= b->last_step && b->first_step <= placed[i]->last_step)
            busy[n_busy++] = (struct span){ placed[i]->offset, placed[i]->offset + room_of(placed[i]) };
    qsort(busy, (size_t)n_busy, sizeof *busy, compare_spans);
    for (int i = 0; i < n_busy; i++) {
        if (busy[i].begin >= at + room_of(b))
            break;
        if (busy[i].end > at)
            at = aligned_to(busy[i].end, alignment_of(b));
    }
    return at;
}

/* A cache, or a view of one. */
static bool is_cache(const struct plan *p, int buffer)
{
    return buffer >= 0 && p->buffers[buffer].cache;
}

static bool uses_caches(const struct plan *p, const struct program *g)
{
    bool uses = false;

    for (int s = 0; s < g->n_steps && !uses; s++) {
        for (int k = 0; k < OP_MAX_IN; k++)
            uses |= is_cache(p, g->steps[s].in[k]);
        for (int k = 0; k < OP_MAX_OUT; k++)
            uses |= is_cache(p, g->steps[s].out[k]);
    }
    return uses;
}

/* Offsets from the region's begin; returns its size for this program, whose buffers stand from `first` on. */
static size_t pack_program(struct plan *p, int program, size_t first, struct buffer **order, struct span *busy)
{
    size_t top = 0;
    int n = 0;

    for (int i = 0; i < p->n_buffers; i++) {
        struct buffer *b = &p->buffers[i];
        if (!b->persistent && b->parent < 0 && b->program == program && b->first_step >= 0)
            order[n++] = b;
    }
    qsort(order, (size_t)n, sizeof *order, compare_buffers);
    for (int i = 0; i < n; i++) {
        order[i]->offset = lowest_gap(order, i, order[i], busy);
        if (order[i]->offset + room_of(order[i]) > top)
            top = order[i]->offset + room_of(order[i]);
    }
    for (int i = 0; i < n; i++)
        order[i]->offset += first;
    return first + top;
}

/* Persistent buffers of memory one after the other, from `at` on: the caches, or all others. Returns the end. */
static size_t place_persistent(struct plan *p, bool caches, size_t at)
{
    for (int i = 0; i < p->n_buffers; i++) {
        struct buffer *b = &p->buffers[i];
        if (!b->persistent || b->parent >= 0 || b->tier != TIER_DEVICE || b->cache != caches)
            continue;
        b->offset = at;
        at += room_of(b);
        p->kind_bytes[b->kind] += room_of(b);
    }
    return at;
}

/* Those of files, which are no memory. Returns their bytes. */
static size_t place_files(struct plan *p)
{
    size_t at = 0;

    for (int i = 0; i < p->n_buffers; i++) {
        struct buffer *b = &p->buffers[i];
        if (b->tier != TIER_FILE || b->parent >= 0)
            continue;
        MUST(b->persistent);
        b->offset = at;
        at += room_of(b);
    }
    return at;
}

/* Those of the model's files have offsets only to tell them apart; returns their bytes. Beside them are the weights that could
 * not be mapped, each once: not what a technique made after them, nor what another model has. */
static size_t place_mapped(struct plan *p)
{
    size_t at = 0;

    p->unmapped_bytes = 0;
    for (int i = 0; i < p->n_buffers; i++) {
        struct buffer *b = &p->buffers[i];
        const struct buffer *whole = b;

        while (whole->parent >= 0)
            whole = &p->buffers[whole->parent];
        if (b->unmapped && b->persistent && !b->derived && strcmp(whole->model, b->model) == 0)
            p->unmapped_bytes += b->bytes;
        if (b->tier != TIER_MAPPED || whole != b)
            continue;
        MUST(b->persistent && b->shards == 1);
        b->offset = at;
        at += b->bytes;
    }
    return at;
}

/* What the transient region and the caches in it begin on. */
static size_t region_alignment(const struct plan *p)
{
    for (int i = 0; i < p->n_buffers; i++)
        if (p->buffers[i].staging)
            return PLAN_FILE_BLOCK;
    return ALIGNMENT;
}

/* Behind `base`; returns the region's size. */
static size_t place_transient(struct plan *p, size_t base, size_t caches, struct err *err)
{
    struct buffer **order = mem_array(p->n_buffers, 1, sizeof(struct buffer *), MEM_PLAN, err);
    struct span *busy = mem_array(p->n_buffers, 1, sizeof *busy, MEM_PLAN, err);
    size_t region = SIZE_MAX;

    if (order && busy) {
        region = caches;
        for (int g = 0; g < p->n_programs; g++) {
            const size_t top = pack_program(p, g, uses_caches(p, &p->programs[g]) ? caches : 0, order, busy);
            region = top > region ? top : region;
        }
        for (int i = 0; i < p->n_buffers; i++)
            if (!p->buffers[i].persistent && p->buffers[i].parent < 0)
                p->buffers[i].offset += base;
    }
    mem_free(order);
    mem_free(busy);
    return region;
}

/* A view may be of a view: its place is counted from the buffer that has memory. */
static void place_views(struct plan *p)
{
    for (int i = 0; i < p->n_buffers; i++) {
        const struct buffer *at = &p->buffers[i];
        size_t begin = 0;

        for (; at->parent >= 0; at = &p->buffers[at->parent])
            begin += (size_t)at->parent_begin * dtype_bytes(at->dtype);
        p->buffers[i].offset = at->offset + begin;
    }
}

int layout_assign(struct plan *p, struct err *err)
{
    for (int k = 0; k < KIND_N; k++)
        p->kind_bytes[k] = 0;
    p->scratch_bytes = 0;
    for (int i = 0; i < p->n_buffers; i++)
        if (size_buffer(&p->buffers[i], err) != 0)
            return -1;
    find_lifetimes(p);
    share_places(p);
    for (int g = 0; g < p->n_programs; g++)
        for (int s = 0; s < p->programs[g].n_steps; s++)
            if (p->programs[g].steps[s].scratch_bytes > p->scratch_bytes)
                p->scratch_bytes = p->programs[g].steps[s].scratch_bytes;

    const size_t region = region_alignment(p), persistent = place_persistent(p, false, 0);
    const size_t base = aligned_to(persistent, region), caches = place_persistent(p, true, base) - base;
    const size_t transient = place_transient(p, base, aligned_to(caches, region), err);
    if (transient == SIZE_MAX)
        return -1;
    p->tier_bytes[TIER_FILE] = place_files(p);
    p->tier_bytes[TIER_MAPPED] = place_mapped(p);
    place_views(p);
    p->scratch_offset = base + transient;
    p->kind_bytes[KIND_ACTIVATION] += p->scratch_offset - persistent - caches;
    p->kind_bytes[KIND_WORKSPACE] += aligned(p->scratch_bytes);
    p->tier_bytes[TIER_DEVICE] = p->scratch_offset + aligned(p->scratch_bytes);
    return 0;
}
