/* No work on padding: the rows of a batch are packed back to back at their real lengths, and every op on tokens sees those
 * alone; attention goes by row (Krell et al. 2021, arXiv:2107.02027; Zeng et al. 2022, arXiv:2208.08124). Which places are live
 * is found by the program's first step from its inputs; where padding is read, as DeepSpeed-Chat's loss of pairs does, it stays.
 * What programs are given and give back keeps its form. Draws of dropout are those of the place in the batch.
 *
 * Memory is planned for the most live rows of any batch, when the data tell, else for whole batches. */
#include <inttypes.h>

#include "techniques/packing.h"
#include "techniques/technique.h"

struct remove_options {
    bool on;
    int64_t most;
};

static const struct option options[] = {
    { .name = "remove_padding",
      .type = OPTION_FLAG,
      .offset = offsetof(struct remove_options, on),
      .help = "work on ids alone: rows are packed at their real lengths" },
    { .name = "max_packed_tokens",
      .type = OPTION_INT,
      .offset = offsetof(struct remove_options, most),
      .fallback = "0",
      .min = 0,
      .max = 1 << 30,
      .value = "N",
      .help = "memory for so many ids of a micro-batch, and no more; 0: as many as the data have" },
    { 0 },
};

static bool is_on(const void *o)
{
    return ((const struct remove_options *)o)->on;
}

static int check_most(const struct remove_options *o, const struct graph *g, struct err *err)
{
    if (o->most == 0 || g->live_max[0] <= o->most)
        return 0;
    err_set(err, ERR_USAGE, "--max_packed_tokens is %" PRId64 ", but a batch has %" PRId64 " ids", o->most,
            g->live_max[0]);
    return err_hint(err, "Leave it away: memory is planned for the largest batch. Or lower the batch size.");
}

static int on_graph(const void *o, struct graph *g, struct err *err)
{
    const struct remove_options *remove = o;

    if (!packing_begin(g))
        return 0;
    packing_attrs(g)->padding = false;
    packing_limit(g, remove->most > 0 ? remove->most : g->live_max[0]);
    return check_most(remove, g, err);
}

const struct technique technique_remove_padding = {
    .name = "remove_padding",
    .summary = "Padding removal",
    .paper = "Krell et al. 2021, arXiv:2107.02027; Zeng et al. 2022, arXiv:2208.08124",
    .exact = true,
    .options = options,
    .options_size = sizeof(struct remove_options),
    .is_on = is_on,
    .on_graph = on_graph,
};
