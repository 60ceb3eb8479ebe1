/* The second step of the walk, in one place: read build_plan first. */
#include "run/build.h"

#include <string.h>

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

static const struct build_model *model_of(const struct build *b, const struct phase_program *w)
{
    for (int i = 0; i < b->n_models; i++)
        if (strcmp(b->models[i].prefix, w->model) == 0)
            return &b->models[i];
    return NULL;
}

static bool is_planned(const struct build *b, const struct phase_program *w)
{
    return b->extents[w->extents].B > 0 && model_of(b, w);
}

static bool model_trains(const struct build *b, const struct build_model *m)
{
    for (const struct phase_program *w = b->phase->programs; w->name; w++)
        if (w->trains && is_planned(b, w) && model_of(b, w) == m)
            return true;
    return false;
}

/* What a program usually runs on; live places, as the graph leaves them out. */
static struct plan_extents usual_of(const struct graph *g, const struct extents *x)
{
    const struct op_attrs *a = g->live >= 0 ? &g->nodes[graph_producer(g, g->live)].attrs : NULL;
    struct plan_extents usual = { .T = x->live.mean_T > 0 ? x->live.mean_T : x->T, .B = x->B };

    if (a && x->live.mean[0] > 0)
        usual.live = !a->padding ? x->live.mean[a->shares] : x->B * usual.T - (x->live.mean[0] - x->live.mean[1]);
    return usual;
}

static int build_program(const struct build *b, const struct phase_program *w, struct plan *p, struct err *err)
{
    const struct build_model *m = model_of(b, w);
    const struct extents *x = &b->extents[w->extents];
    struct graph g;

    graph_init(&g);
    g.model = m->prefix;
    memcpy(g.live_max, x->live.most, sizeof g.live_max);
    const int loss = w->add(&g, &m->shape, x);
    int result = graph_check(&g, err);
    if (result == 0)
        result = technique_on_graph(m->techniques, &g, err);
    if (result == 0 && w->trains)
        result = graph_gradient(&g, loss, err);
    if (result == 0)
        result = plan_lower(p, &g, w->name, x->B, x->T, err);
    if (result == 0) {
        p->programs[p->n_programs - 1].times = x->times;
        p->programs[p->n_programs - 1].usual = usual_of(&g, x);
    }
    graph_free(&g);
    return result;
}

/* Whether tensors of the files can be used where they lie. */
static void note_files(const struct build_model *m, struct plan *p)
{
    for (int i = 0; i < p->n_buffers; i++) {
        struct buffer *b = &p->buffers[i];
        if (!plan_is_weight(b, m->prefix))
            continue;
        const char *name = b->name + strlen(m->prefix);
        const bool adapted = m->adapter && model_dir_find(m->adapter, name);
        const struct model_dir *in = adapted ? m->adapter : m->stored;
        b->mappable = (m->assumed && !adapted) || (in && model_dir_mapped(in, name, b->dtype, &b->shape));
    }
    p->assumes_files |= m->assumed;
}

/* Each with the first of the same files. */
static void share_weights(const struct build *b, struct plan *p)
{
    for (int i = 1; i < b->n_models; i++)
        for (int k = 0; k < i && b->models[i].files != 0; k++)
            if (b->models[k].files == b->models[i].files)
                plan_share(p, b->models[k].prefix, b->models[i].prefix);
}

int build_plan(const struct build *b, struct plan *p, struct err *err)
{
    int result = 0;

    plan_init(p, b->rank, b->ranks);
    p->micro_steps = (int)b->micro_steps;
    for (int i = 0; i < b->n_models && result == 0; i++) {
        const struct run_facts facts = { .ranks = b->ranks,
                                         .trains = model_trains(b, &b->models[i]),
                                         .pairs = b->phase->samples == SAMPLE_PAIR,
                                         .dropout = b->models[i].shape.dropout };
        result = technique_check(b->models[i].techniques, &facts, err);
    }
    for (const struct phase_program *w = b->phase->programs; w->name && result == 0; w++)
        if (is_planned(b, w))
            result = build_program(b, w, p, err);
    for (int i = 0; i < b->n_models && result == 0; i++)
        if (model_trains(b, &b->models[i]))
            result = plan_update(p, b->models[i].prefix, err);
    for (int i = 0; i < b->n_models && result == 0; i++)
        note_files(&b->models[i], p);
    for (int i = 0; i < b->n_models && result == 0; i++)
        result = technique_on_plan(b->models[i].techniques, p, b->models[i].prefix, err);
    if (result == 0)
        share_weights(b, p);
    if (result == 0 && b->averaged)
        result = plan_average(p, b->averaged, b->average, b->average_decay, err);
    if (result != 0)
        plan_free(p);
    return result;
}
