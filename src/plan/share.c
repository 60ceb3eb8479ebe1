/* Weights that two models read from the same files, and that neither changes, are in memory once: those of the second become
 * views of the first's, tensor by tensor, or by flat buffers where they lie in shards. So an actor that learns adapters alone is
 * its own reference. A tensor that lies alone does not learn, nor do those of a flat buffer of no group. Mapped ones are shared
 * too, so that they are counted once. */
#include "plan/plan.h"

#include <stdio.h>
#include <string.h>

static bool is_flat(const struct buffer *b)
{
    return strncmp(b->name, "flat/", 5) == 0;
}

/* The tensor of `model` that is tensor i of `with`; -1 = none. */
static int same_tensor(const struct plan *p, int i, const char *model, const char *with)
{
    const struct buffer *b = &p->buffers[i];
    char name[192];

    snprintf(name, sizeof name, "%s%s", model, b->name + strlen(with));
    const int same = plan_find(p, name);
    if (same < 0 || !plan_is_weight(&p->buffers[same], model) || p->buffers[same].tier != b->tier ||
        p->buffers[same].dtype != b->dtype || !shape_equal(&p->buffers[same].shape, &b->shape))
        return -1;
    return same;
}

/* The flat buffer of `model` that holds what `flat` holds, where it does; -1 = none. */
static int same_flat(const struct plan *p, int flat, const char *model, const char *with)
{
    const struct buffer *f = &p->buffers[flat];
    int found = -1;

    for (int i = 0; i < p->n_buffers; i++) {
        if (p->buffers[i].parent != flat || !plan_is_weight(&p->buffers[i], with))
            continue;
        const int same = same_tensor(p, i, model, with), in = same < 0 ? -1 : p->buffers[same].parent;
        if (in < 0 || (found >= 0 && in != found) || p->buffers[same].parent_begin != p->buffers[i].parent_begin)
            return -1;
        found = in;
    }
    if (found < 0 || p->buffers[found].group >= 0 || p->buffers[found].shards != f->shards ||
        !shape_equal(&p->buffers[found].shape, &f->shape))
        return -1;
    return found;
}

void plan_share(struct plan *p, const char *model, const char *with)
{
    for (int i = 0; i < p->n_buffers; i++) {
        struct buffer *b = &p->buffers[i];
        const bool own = b->kind == KIND_PARAM && b->parent < 0 && b->group < 0 && strcmp(b->model, with) == 0;
        const int same = plan_is_weight(b, with) && b->parent < 0 ? same_tensor(p, i, model, with)
                         : own && is_flat(b)                      ? same_flat(p, i, model, with)
                                                                  : -1;
        if (same < 0 || (!is_flat(b) && p->buffers[same].parent >= 0))
            continue;
        b->parent = same;
        b->parent_begin = 0;
        b->by = "share";
    }
}
