/* Growing arrays with the plan's own copies of names. Steps refer to buffers by index, which never changes. */
#include "plan/plan.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "graph/optimizer.h"

void plan_init(struct plan *p, int rank, int ranks)
{
    *p = (struct plan){ .rank = rank, .ranks = ranks, .micro_steps = 1 };
}

void plan_free(struct plan *p)
{
    for (int i = 0; i < p->n_names; i++)
        mem_free(p->names[i]);
    mem_free(p->names);
    mem_free(p->buffers);
    for (int i = 0; i < p->n_programs; i++)
        mem_free(p->programs[i].steps);
    plan_init(p, 0, 1);
}

static int grow(void **array, int n, int *room, size_t size, struct err *err)
{
    if (n < *room)
        return 0;
    const int larger = *room ? *room * 2 : 64;
    void *q = mem_resize(*array, larger, size, MEM_PLAN, err);
    if (!q)
        return -1;
    *array = q;
    *room = larger;
    return 0;
}

const char *plan_name(struct plan *p, struct err *err, const char *format, ...)
{
    char text[192];
    va_list args;

    va_start(args, format);
    vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (grow((void **)&p->names, p->n_names, &p->names_room, sizeof *p->names, err) != 0)
        return NULL;
    char *copy = mem_strdup(text, MEM_PLAN, err);
    if (copy)
        p->names[p->n_names++] = copy;
    return copy;
}

int plan_add_buffer(struct plan *p, const struct buffer *b, struct err *err)
{
    if (grow((void **)&p->buffers, p->n_buffers, &p->buffers_room, sizeof *p->buffers, err) != 0)
        return -1;
    p->buffers[p->n_buffers] = *b;
    if (p->buffers[p->n_buffers].shards < 1)
        p->buffers[p->n_buffers].shards = 1;
    if (!p->buffers[p->n_buffers].model)
        p->buffers[p->n_buffers].model = "";
    return p->n_buffers++;
}

int plan_add_like(struct plan *p, int buffer, const char *prefix, const char *by, struct err *err)
{
    struct buffer b = p->buffers[buffer];

    b.name = plan_name(p, err, "%s/%s", prefix, b.name);
    b.by = by;
    return b.name ? plan_add_buffer(p, &b, err) : -1;
}

int plan_add_program(struct plan *p, const char *model, const char *name, int64_t B, int64_t T, struct err *err)
{
    MUST(p->n_programs < PLAN_MAX_PROGRAMS);
    const char *copy = plan_name(p, err, "%s%s", model, name);
    if (!copy)
        return -1;
    p->programs[p->n_programs] =
        (struct program){ .name = copy, .model = model, .B = B, .T = T, .live = -1, .places = -1, .times = 1 };
    return p->n_programs++;
}

int plan_insert(struct plan *p, int program, int at, const struct op_step *s, struct err *err)
{
    struct program *g = &p->programs[program];
    const struct op_step step = *s; /* *s may lie in the array that grows */

    if (grow((void **)&g->steps, g->n_steps, &g->room, sizeof *g->steps, err) != 0)
        return -1;
    MUST(at >= 0 && at <= g->n_steps);
    memmove(&g->steps[at + 1], &g->steps[at], (size_t)(g->n_steps - at) * sizeof *g->steps);
    g->steps[at] = step;
    g->n_steps++;
    return 0;
}

void plan_remove(struct plan *p, int program, int at)
{
    struct program *g = &p->programs[program];

    memmove(&g->steps[at], &g->steps[at + 1], (size_t)(g->n_steps - at - 1) * sizeof *g->steps);
    g->n_steps--;
}

int plan_find(const struct plan *p, const char *name)
{
    for (int i = 0; i < p->n_buffers; i++)
        if (strcmp(p->buffers[i].name, name) == 0)
            return i;
    return -1;
}

int plan_find_program(const struct plan *p, const char *model, const char *name)
{
    for (int i = 0; i < p->n_programs; i++)
        if (strcmp(p->programs[i].model, model) == 0 && strcmp(p->programs[i].name + strlen(model), name) == 0)
            return i;
    return -1;
}

bool plan_trains(const struct plan *p, int program, const char *model)
{
    const struct program *g = &p->programs[program];

    for (int i = 0; i < g->n_steps && strcmp(g->model, model) == 0; i++)
        if (g->steps[i].pass == PASS_BACKWARD)
            return true;
    return false;
}

bool plan_sends(const struct plan *p, int program)
{
    const struct program *g = &p->programs[program];

    for (int i = 0; i < g->n_steps; i++)
        if (op_is_collective(g->steps[i].op))
            return true;
    return false;
}

bool plan_is_sharded(const struct plan *p, int buffer)
{
    const int flat = p->buffers[buffer].parent;

    return flat >= 0 && p->buffers[flat].shards > 1;
}

bool plan_is_tensor(const struct buffer *b, const char *model)
{
    return b->kind == KIND_PARAM && b->persistent && !b->derived && strncmp(b->name, "flat/", 5) != 0 &&
           strcmp(b->model, model) == 0;
}

bool plan_is_weight(const struct buffer *b, const char *model)
{
    return plan_is_tensor(b, model) && b->tier != TIER_FILE && b->group != GROUP_LORA;
}

bool plan_maps(const struct plan *p, const char *model)
{
    for (int i = 0; i < p->n_buffers; i++)
        if (p->buffers[i].tier == TIER_MAPPED && p->buffers[i].parent < 0 && strcmp(p->buffers[i].model, model) == 0)
            return true;
    return false;
}

int64_t plan_held(const struct plan *p, int buffer, int rank, int64_t *first, int64_t *count)
{
    const struct buffer *b = &p->buffers[buffer];
    const int64_t n = shape_count(&b->shape);

    *first = 0;
    *count = n;
    if (!plan_is_sharded(p, buffer))
        return 0;
    const struct buffer *flat = &p->buffers[b->parent];
    const int64_t share = shape_count(&flat->shape) / flat->shards, own = share * rank, end = b->parent_begin + n;
    const int64_t begin = b->parent_begin > own ? b->parent_begin : own, stop = end < own + share ? end : own + share;
    if (stop <= begin) {
        *count = 0;
        return 0;
    }
    *first = begin - b->parent_begin;
    *count = stop - begin;
    return begin - own;
}

bool plan_step_reads(const struct op_step *s, int buffer)
{
    for (int k = 0; k < OP_MAX_IN; k++)
        if (s->in[k] == buffer)
            return true;
    return false;
}

struct op_step plan_step(enum op op, const char *by)
{
    struct op_step s = { .op = op, .by = by, .layer = -1, .pass = PASS_UPDATE };

    for (int i = 0; i < OP_MAX_IN; i++)
        s.in[i] = -1;
    for (int i = 0; i < OP_MAX_OUT; i++)
        s.out[i] = -1;
    return s;
}
