/* ZeRO-3. Of a part's weights each rank keeps its share. Wherever a program uses them, all ranks' shares are gathered into a
 * buffer that lives from the step before the first use to the last; a layer's forward and backward steps are two such uses.
 * What answers (the programs over a key-value cache) would gather every weight once an id: there the whole weights are a cache
 * too, filled once a rollout by the program "gather", or, to save that memory, gathered layer by layer after all. */
#include <string.h>

#include "base/mem.h"
#include "techniques/zero.h"

static bool uses_part(const struct zero_parts *parts, const struct plan *p, const struct op_step *s, int part)
{
    for (int k = 0; k < OP_MAX_IN; k++)
        if (zero_part_of(parts, s->in[k]) == part && p->buffers[s->in[k]].kind == KIND_PARAM)
            return true;
    return false;
}

/* Whether a program's steps belong to answering: they name a key-value cache, or make what decoding reads of the weights. */
static bool answers(const struct plan *p, const struct program *g)
{
    for (int i = 0; i < g->n_steps; i++)
        for (int k = 0; k < OP_MAX_OUT; k++) {
            const struct buffer *b = g->steps[i].out[k] < 0 ? NULL : &p->buffers[g->steps[i].out[k]];
            if (b && (b->kind == KIND_KV || b->derived))
                return true;
        }
    return false;
}

/* The last use of the part at or before step `last`, and the first one of the same stay: no step of another layer lies
 * between two of its uses. -1 = there is none. */
static int find_stay(const struct zero_parts *parts, const struct plan *p, const struct program *g, int part, int *last)
{
    int first = -1;

    while (*last >= 0 && !uses_part(parts, p, &g->steps[*last], part))
        (*last)--;
    for (int i = *last; i >= 0 && g->steps[i].layer == g->steps[*last].layer; i--)
        if (uses_part(parts, p, &g->steps[i], part))
            first = i;
    return first;
}

/* The own share goes to its place in the whole, and the others' come from their ranks. */
static int add_gather(struct plan *p, int program, int at, int share, int whole, int layer, enum pass pass,
                      struct err *err)
{
    struct op_step copy = plan_step(OP_ACCUMULATE, "zero"), gather = plan_step(OP_ALL_GATHER, "zero");

    copy.in[0] = share;
    copy.out[0] = zero_own_share(p, whole, err);
    copy.attrs.count = shape_count(&p->buffers[whole].shape) / p->ranks;
    gather.out[0] = whole;
    copy.layer = gather.layer = layer;
    copy.pass = gather.pass = pass;
    if (copy.out[0] < 0 || plan_insert(p, program, at, &copy, err) != 0)
        return -1;
    return plan_insert(p, program, at + 1, &gather, err);
}

/* Every stay, from the last to the first: what is inserted does not move those before it. */
static int gather_for_stays(struct plan *p, int program, const struct zero_parts *parts, int part, struct err *err)
{
    int last = p->programs[program].n_steps - 1, first;

    while ((first = find_stay(parts, p, &p->programs[program], part, &last)) >= 0) {
        const struct op_step *s = &p->programs[program].steps[first];
        const int layer = s->layer;
        const enum pass pass = s->pass;
        const int whole = zero_transient(p, program, parts, part, false, first, last, err);
        if (whole < 0 || add_gather(p, program, first, parts->list[part].param, whole, layer, pass, err) != 0)
            return -1;
        last = first - 1;
    }
    return 0;
}

/* The whole of a part's flat buffer as a cache, and a view of it for each of its tensors. */
static int add_cache(struct plan *p, const struct zero_parts *parts, int part, int *view_of, struct err *err)
{
    struct buffer b = p->buffers[parts->list[part].param];

    b.name = plan_name(p, err, "whole/%s", b.name);
    b.kind = KIND_COMM;
    b.shards = 1;
    b.cache = b.derived = true;
    b.group = -1;
    const int whole = b.name ? plan_add_buffer(p, &b, err) : -1;
    for (int i = 0; whole >= 0 && i < parts->n_of; i++) {
        if (parts->of[i] != part || p->buffers[i].kind != KIND_PARAM)
            continue;
        b = p->buffers[i];
        b.name = plan_name(p, err, "whole/%s", b.name);
        b.kind = KIND_COMM;
        b.parent = whole;
        b.cache = b.derived = true;
        view_of[i] = b.name ? plan_add_buffer(p, &b, err) : -1;
        if (view_of[i] < 0)
            return -1;
    }
    return whole;
}

static bool reads_to_answer(const struct plan *p, int program, const char *model, const struct zero_parts *parts,
                            int part)
{
    const struct program *g = &p->programs[program];

    if (strcmp(g->model, model) != 0 || !answers(p, g))
        return false;
    for (int i = 0; i < g->n_steps; i++)
        if (uses_part(parts, p, &g->steps[i], part))
            return true;
    return false;
}

static void read_cache(struct plan *p, int program, const struct zero_parts *parts, int part, const int *view_of)
{
    struct program *g = &p->programs[program];

    for (int i = 0; i < g->n_steps; i++)
        for (int k = 0; k < OP_MAX_IN; k++)
            if (zero_part_of(parts, g->steps[i].in[k]) == part && p->buffers[g->steps[i].in[k]].kind == KIND_PARAM)
                g->steps[i].in[k] = view_of[g->steps[i].in[k]];
}

/* The program that fills the caches of the model, once for each time that prompts are read. */
static int gather_program(struct plan *p, const char *model, struct err *err)
{
    const int there = plan_find_program(p, model, "gather"), prefill = plan_find_program(p, model, "prefill");
    const int made = there >= 0 ? there : plan_add_program(p, model, "gather", 0, 0, err);

    if (made >= 0 && prefill >= 0)
        p->programs[made].times = p->programs[prefill].times;
    return made;
}

/* What answers reads a part from a cache. */
static int cache_part(struct plan *p, const char *model, const struct zero_parts *parts, int part, int *view_of,
                      struct err *err)
{
    int whole = -1;

    for (int g = 0; g < p->n_programs; g++) {
        if (!reads_to_answer(p, g, model, parts, part))
            continue;
        if (whole < 0 && (whole = add_cache(p, parts, part, view_of, err)) < 0)
            return -1;
        read_cache(p, g, parts, part, view_of);
    }
    const int program = whole < 0 ? -1 : gather_program(p, model, err);
    if (program < 0)
        return whole < 0 ? 0 : -1;
    return add_gather(p, program, p->programs[program].n_steps, parts->list[part].param, whole, -1, PASS_FORWARD, err);
}

static int cache_parts(struct plan *p, const char *model, const struct zero_parts *parts, struct err *err)
{
    int *view_of = mem_array(parts->n_of, 1, sizeof *view_of, MEM_PLAN, err);
    int result = view_of ? 0 : -1;

    for (int part = 0; part < parts->n && result == 0; part++)
        if (!parts->list[part].small)
            result = cache_part(p, model, parts, part, view_of, err);
    mem_free(view_of);
    return result;
}

int zero_shard_params(struct plan *p, const char *model, const struct zero_parts *parts, const struct zero_options *o,
                      struct err *err)
{
    for (int part = 0; part < parts->n; part++)
        if (!parts->list[part].small) {
            p->buffers[parts->list[part].param].shards = p->ranks;
            p->buffers[parts->list[part].param].by = "zero";
        }
    if (o->generation == ZERO_ONCE && cache_parts(p, model, parts, err) != 0)
        return -1;
    for (int g = 0; g < p->n_programs; g++)
        for (int part = 0; part < parts->n && strcmp(p->programs[g].model, model) == 0; part++)
            if (!parts->list[part].small && gather_for_stays(p, g, parts, part, err) != 0)
                return -1;
    return 0;
}
