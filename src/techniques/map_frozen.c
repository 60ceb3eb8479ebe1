/* Weights that no update changes are used where they lie in the model's own files, mapped into memory, rather than in a copy: where
 * the files have a tensor in just the type that the plan wants. The system reads their pages, shares them among all ranks of a
 * machine, and drops them, without writing anything, when memory is wanted for something else. Before what shards or offloads
 * weights, which are left with the others. */
#include "techniques/technique.h"

struct map_options {
    bool frozen;
};

static const struct option options[] = {
    { .name = "map_frozen",
      .type = OPTION_FLAG,
      .offset = offsetof(struct map_options, frozen),
      .help =
          "weights that do not learn are used where they lie in the model's safetensors, if they have the run's type" },
    { 0 },
};

static bool is_on(const void *o)
{
    return ((const struct map_options *)o)->frozen;
}

static int on_plan(const void *o, struct plan *p, const char *model, struct err *err)
{
    (void)o;
    (void)err;
    for (int i = 0; i < p->n_buffers; i++) {
        struct buffer *b = &p->buffers[i];
        if (!plan_is_weight(b, model) || b->parent >= 0)
            continue;
        b->unmapped = !b->mappable;
        if (!b->mappable)
            continue;
        b->tier = TIER_MAPPED;
        b->by = "map_frozen";
    }
    return 0;
}

const struct technique technique_map_frozen = {
    .name = "map_frozen",
    .summary = "Frozen weights",
    .paper = "mmap(2): the page cache is the copy that is there anyway",
    .exact = true,
    .options = options,
    .options_size = sizeof(struct map_options),
    .is_on = is_on,
    .on_plan = on_plan,
};
