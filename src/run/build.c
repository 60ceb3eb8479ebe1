/* The second step of the walk, in one place: read build_plan first. */
#include "run/build.h"

int build_shape(const struct hf_config *c, double dropout, struct opt_shape *out, struct err *err)
{
    *out = (struct opt_shape){
        .C = c->hidden_size,
        .L = c->n_layers,
        .H = c->n_heads,
        .F = c->ffn_dim,
        .E = c->word_embed_proj_dim,
        .V = c->vocab_size,
        .position_rows = c->max_positions + 2,
        .norm_before = c->norm_before,
        .final_norm = hf_config_has_final_norm(c),
        .dropout = dropout < 0 ? c->dropout : dropout,
    };
    if (c->attention_dropout > 0) {
        err_set(err, ERR_INPUT, "attention_dropout is %g, only 0 is supported", c->attention_dropout);
        return err_hint(err, "Set it to 0 in config.json; every published OPT model has 0.");
    }
    return 0;
}

static int build_program(const struct build *b, const struct phase_program *wanted, struct plan *p, struct err *err)
{
    const int64_t B = wanted->trains ? b->train_B : b->eval_B;
    struct graph g;

    graph_init(&g);
    const int loss = wanted->add(&g, &b->shape, B, b->T);
    int result = graph_check(&g, err);
    if (result == 0)
        result = technique_on_graph(b->techniques, &g, err);
    if (result == 0 && wanted->trains)
        result = graph_gradient(&g, loss, err);
    if (result == 0)
        result = plan_lower(p, &g, wanted->name, B, b->T, err);
    graph_free(&g);
    return result;
}

int build_plan(const struct build *b, struct plan *p, struct err *err)
{
    const struct run_facts facts = { .ranks = b->ranks, .trains = b->train_B > 0 };
    int result = technique_check(b->techniques, &facts, err);

    plan_init(p, b->rank, b->ranks);
    p->micro_steps = (int)b->micro_steps;
    for (const struct phase_program *w = b->phase->programs; w->name && result == 0; w++)
        if (w->trains ? b->train_B > 0 : b->eval_B > 0)
            result = build_program(b, w, p, err);
    if (result == 0 && facts.trains)
        result = plan_update(p, err);
    if (result == 0)
        result = technique_on_plan(b->techniques, p, err);
    if (result != 0)
        plan_free(p);
    return result;
}
