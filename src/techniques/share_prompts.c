/* The two rows of a pair begin with the same prompt: what they have in common is computed once, in the chosen row, and the
 * rejected row's queries see its keys there. Causal attention makes hidden states of a common beginning the same in both rows,
 * so nothing changes but the work, unless dropout draws apart for the two (prefix sharing: Juravsky et al. 2024,
 * arXiv:2402.05099). Of a pair's ids a quarter and more are its prompt's second copy. */
#include "techniques/packing.h"
#include "techniques/technique.h"

struct share_options {
    bool on;
};

static const struct option options[] = {
    { .name = "share_prompts",
      .type = OPTION_FLAG,
      .offset = offsetof(struct share_options, on),
      .help = "of pairs: compute what both rows begin with once; nothing elsewhere" },
    { 0 },
};

static bool is_on(const void *o)
{
    return ((const struct share_options *)o)->on;
}

static int check(const void *o, const struct run_facts *facts, struct err *err)
{
    if (!is_on(o) || !facts->pairs || !facts->trains || facts->dropout <= 0)
        return 0;
    err_set(err, ERR_USAGE, "--share_prompts with dropout %g: the two rows of a pair draw apart", facts->dropout);
    return err_hint(err, "Add --dropout 0, or leave --share_prompts away.");
}

static int on_graph(const void *o, struct graph *g, struct err *err)
{
    (void)o;
    (void)err;
    if (graph_find(g, "pairs") < 0 || !packing_begin(g))
        return 0;
    packing_attrs(g)->shares = true;
    if (!packing_attrs(g)->padding)
        packing_limit(g, g->live_max[1]);
    return 0;
}

const struct technique technique_share_prompts = {
    .name = "share_prompts",
    .summary = "Shared prompts",
    .paper = "Juravsky et al. 2024, arXiv:2402.05099",
    .exact = true,
    .options = options,
    .options_size = sizeof(struct share_options),
    .is_on = is_on,
    .check = check,
    .on_graph = on_graph,
};
