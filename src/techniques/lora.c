/* Low-rank adaptation (Hu et al. 2021, arXiv:2106.09685, eq. 3): beside each chosen product with weights W come two thin ones,
 * y = x WT + b + s (x AT) BT, with A [K,in] random and B [out,K] zero at the start; W stays as it was. So W needs no gradient,
 * no optimizer state and no master copy, and the model begins as what it was.
 *
 * First in the table: what comes after sees four plain ops where there was one, and parameters that do not learn. Nothing is
 * ever added into W: answers are generated with base and adapter side by side, and only a saved model is their sum.
 *
 * Which products: those whose full name holds --lora_module_name (DeepSpeed-Chat's words), those that --lora_target_modules
 * ends (PEFT's), or those that a saved adapter says. */
#include "techniques/technique.h"

#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "graph/optimizer.h"

#define CONFIG_MAX ((size_t)1 << 20)
#define DIM_MAX (1 << 14)
#define FIRST_SITE 0x4000 /* of dropout: behind those of the model's own */
#define OUTER "model.decoder." /* what a full name has before a parameter's */

struct lora_options {
    int64_t dim;
    const char *module_name, *targets, *adapter;
    double alpha, dropout, learning_rate;
    bool only;
};

static const struct option options[] = {
    { .name = "lora_dim",
      .type = OPTION_INT,
      .offset = offsetof(struct lora_options, dim),
      .fallback = "0",
      .min = 0,
      .max = DIM_MAX,
      .value = "K",
      .help = "rank of the adapters beside weights that stay as they are; 0: none" },
    { .name = "lora_module_name",
      .type = OPTION_STRING,
      .offset = offsetof(struct lora_options, module_name),
      .fallback = "decoder.layers.",
      .value = "TEXT",
      .help = "adapts linear layers with this in their names" },
    { .name = "lora_target_modules",
      .type = OPTION_STRING,
      .offset = offsetof(struct lora_options, targets),
      .value = "A,B",
      .help = "adapts linear layers whose names end so instead, e.g. q_proj,v_proj" },
    { .name = "only_optimize_lora",
      .type = OPTION_FLAG,
      .offset = offsetof(struct lora_options, only),
      .help = "adapters learn alone, and a reward head; else biases, norms and embeddings too" },
    { .name = "lora_learning_rate",
      .type = OPTION_REAL,
      .offset = offsetof(struct lora_options, learning_rate),
      .fallback = "5e-4",
      .min = 1e-12,
      .max = 10,
      .value = "X",
      .help = "highest rate of the adapters" },
    { .name = "lora_alpha",
      .type = OPTION_REAL,
      .offset = offsetof(struct lora_options, alpha),
      .fallback = "1",
      .min = 1e-6,
      .max = 1e6,
      .value = "X",
      .help = "adapters count alpha / K; 1 is DeepSpeed-Chat's" },
    { .name = "lora_dropout",
      .type = OPTION_REAL,
      .offset = offsetof(struct lora_options, dropout),
      .fallback = "0",
      .min = 0,
      .max = 0.99,
      .value = "P",
      .help = "dropout of what adapters are given" },
    { .name = "lora_adapter",
      .type = OPTION_STRING,
      .offset = offsetof(struct lora_options, adapter),
      .value = "DIR",
      .help = "begin with this adapter, in PEFT's form; K, alpha and layers are its own" },
    { 0 },
};

static const char *const ways[] = { "lora_dim=128", NULL }; /* the rank of DeepSpeed-Chat's scripts */

static bool is_on(const void *o)
{
    const struct lora_options *lora = o;

    return lora->dim > 0 || lora->adapter;
}

static int check(const void *o, const struct run_facts *facts, struct err *err)
{
    const struct lora_options *lora = o;

    if (lora->only && !is_on(o)) {
        err_set(err, ERR_USAGE, "--only_optimize_lora without adapters leaves nothing to learn");
        return err_hint(err, "Add --lora_dim, for example 8, or --lora_adapter.");
    }
    if (facts->trains || !is_on(o) || lora->adapter)
        return 0;
    err_set(err, ERR_USAGE, "--lora_dim makes a new adapter, which changes nothing where nothing learns");
    return err_hint(err, "Leave it away, or name an adapter with --lora_adapter.");
}

static double dropout(const void *o)
{
    return ((const struct lora_options *)o)->dropout;
}

/* Of a model that is what a learning one is at its start: a new adapter adds nothing yet, a saved one does. */
static void forget(void *o)
{
    struct lora_options *lora = o;

    lora->dim = lora->adapter ? lora->dim : 0;
    lora->only = lora->only && lora->adapter;
}

/* ---- what is adapted, and how ---- */

struct form {
    int64_t dim;
    double scale;
    const struct lora_options *options;
    json_t *config; /* owned: of an adapter, whose word then counts; or NULL */
};

static int refuse_config(const char *path, const char *key, struct err *err)
{
    err_set(err, ERR_INPUT, "the adapter asks for \"%s\", which is not supported", key);
    err_where(err, "file \"%s\"", path);
    return err_hint(err, "Plain LoRA is: one rank, lora_alpha / r, a list of target_modules.");
}

/* Keys that change what an adapter means: absent, null, false or empty. */
static int check_config(const json_t *config, const char *path, struct err *err)
{
    static const char *const keys[] = { "use_rslora",    "use_dora",      "fan_in_fan_out",  "lora_bias",
                                        "rank_pattern",  "alpha_pattern", "exclude_modules", "layers_to_transform",
                                        "layers_pattern" };
    const char *type = json_string_value(json_object_get(config, "peft_type"));

    if (!type || strcmp(type, "LORA") != 0)
        return refuse_config(path, "peft_type", err);
    for (int i = 0; i < COUNT_OF(keys); i++) {
        const json_t *value = json_object_get(config, keys[i]);
        if (value && !json_is_null(value) && !json_is_false(value) &&
            !((json_is_object(value) && json_object_size(value) == 0) ||
              (json_is_array(value) && json_array_size(value) == 0)))
            return refuse_config(path, keys[i], err);
    }
    return json_array_size(json_object_get(config, "target_modules")) > 0 ? 0
                                                                          : refuse_config(path, "target_modules", err);
}

static int read_config(struct form *f, struct err *err)
{
    char path[FILE_PATH_MAX];
    double alpha = 8; /* PEFT's default, as is r */

    f->dim = 8;
    if (file_join(path, f->options->adapter, "adapter_config.json", err) != 0 ||
        !(f->config = json_read(path, CONFIG_MAX, err)) || check_config(f->config, path, err) != 0 ||
        json_get_int(f->config, path, "r", 1, DIM_MAX, &f->dim, err) < 0 ||
        json_get_real(f->config, path, "lora_alpha", 1e-6, 1e6, &alpha, err) < 0)
        return -1;
    f->scale = alpha / (double)f->dim;
    if (f->options->dim == 0 || f->options->dim == f->dim)
        return 0;
    err_set(err, ERR_USAGE, "--lora_dim is %d, the adapter has the rank %d", (int)f->options->dim, (int)f->dim);
    err_where(err, "file \"%s\"", path);
    return err_hint(err, "Leave --lora_dim away: the adapter tells it.");
}

static void form_close(struct form *f)
{
    json_decref(f->config);
    f->config = NULL;
}

static int form_open(struct form *f, const struct lora_options *o, struct err *err)
{
    *f = (struct form){ .dim = o->dim, .options = o };
    if (!o->adapter) {
        f->scale = o->alpha / (double)o->dim;
        return 0;
    }
    if (read_config(f, err) == 0)
        return 0;
    form_close(f);
    return -1;
}

/* Whether name is the word of n letters, or ends in "." and it: what PEFT's target_modules mean. */
static bool ends_in(const char *name, const char *word, size_t n)
{
    const size_t length = strlen(name);

    return n > 0 && length >= n && strncmp(name + length - n, word, n) == 0 &&
           (length == n || name[length - n - 1] == '.');
}

/* name: a linear layer's, "model.decoder.layers.0.fc1". */
static bool takes(const struct form *f, const char *name)
{
    const json_t *list = json_object_get(f->config, "target_modules");

    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *word = json_string_value(json_array_get(list, i));
        if (word && ends_in(name, word, strlen(word)))
            return true;
    }
    if (f->config || !f->options->targets)
        return !f->config && strstr(name, f->options->module_name);
    for (const char *word = f->options->targets; *word; word += strcspn(word, ",") + (strchr(word, ',') != NULL))
        if (ends_in(name, word, strcspn(word, ",")))
            return true;
    return false;
}

/* ---- the graph ---- */

/* The name of the linear layer whose weight the node multiplies with, into stem; false: it is none, or is not taken. */
static bool is_taken(const struct graph *g, const struct form *f, const struct node *n, char stem[128])
{
    const struct value *w = n->op == OP_LINEAR && n->in[1] >= 0 ? &g->values[n->in[1]] : NULL;
    const char *name = w ? w->name + strlen(g->model) : "";
    const size_t length = strlen(name), tail = strlen(".weight");
    char full[160];

    if (!w || w->kind != KIND_PARAM || length <= tail || length >= 128 ||
        strcmp(name + length - tail, ".weight") != 0 ||
        strncmp(name, "embed_", 6) == 0) /* the head is the embedding, which is no linear layer's */
        return false;
    snprintf(stem, 128, "%.*s", (int)(length - tail), name);
    snprintf(full, sizeof full, OUTER "%s", stem);
    return takes(f, full);
}

static int like(struct graph *g, int value, struct shape shape, const char *stem, const char *part)
{
    const int made = graph_activation(g, shape, "%s.%s", stem, part);

    g->values[made].dtype = g->values[value].dtype;
    g->values[made].working = g->values[value].working;
    return made;
}

/* Where caches are filled nothing learns, and nothing is dropped. */
static bool drops(const struct graph *g, const struct form *f)
{
    for (int i = 0; i < g->n_nodes; i++)
        if (g->nodes[i].op == OP_KV_ATTENTION)
            return false;
    return f->options->dropout > 0;
}

/* The product at node i becomes z, to which s (x AT) BT is added. Returns the last node of it. */
static int adapt(struct graph *g, const struct form *f, int i, const char *stem, int site)
{
    const struct node n = g->nodes[i];
    const int y = n.out[0];
    const struct shape w = g->values[n.in[1]].shape, out = g->values[y].shape;
    const struct shape thin = shape_of(2, out.dim[0], f->dim);
    const int z = like(g, y, out, stem, "base");
    const int a = graph_param(g, shape_of(2, f->dim, w.dim[1]), "%s.lora_A.weight", stem);
    const int b = graph_param(g, shape_of(2, w.dim[0], f->dim), "%s.lora_B.weight", stem);
    int x = n.in[0];

    g->values[n.in[1]].frozen = true;
    g->nodes[i].out[0] = z;
    g->layer = n.layer;
    if (drops(g, f)) {
        const struct op_attrs attrs = { .p = (float)f->options->dropout, .site = FIRST_SITE + site };
        const int dropped = like(g, x, g->values[x].shape, stem, "lora_dropped");
        i = graph_insert_node(g, i + 1, OP_DROPOUT, attrs, NODE_LIST(x), NODE_LIST(dropped));
        x = dropped;
    }
    const int u = like(g, n.in[0], thin, stem, "lora_u"), scaled = like(g, n.in[0], thin, stem, "lora_scaled");
    i = graph_insert_node(g, i + 1, OP_LINEAR, (struct op_attrs){ 0 }, NODE_LIST(x, a), NODE_LIST(u));
    i = graph_insert_node(g, i + 1, OP_SCALE, (struct op_attrs){ .scale = f->scale }, NODE_LIST(u), NODE_LIST(scaled));
    return graph_insert_node(g, i + 1, OP_LINEAR, (struct op_attrs){ 0 }, NODE_LIST(scaled, b, -1, z), NODE_LIST(y));
}

static bool is_adapters(const char *name)
{
    return strstr(name, ".lora_A.weight") || strstr(name, ".lora_B.weight");
}

static int on_graph(const void *o, struct graph *g, struct err *err)
{
    struct form form;
    char stem[128];
    int n_linear = 0;

    if (form_open(&form, o, err) != 0)
        return -1;
    for (int i = 0; i < g->n_nodes && g->failure.code == ERR_NONE; i++) {
        const bool linear = g->nodes[i].op == OP_LINEAR;
        if (is_taken(g, &form, &g->nodes[i], stem))
            i = adapt(g, &form, i, stem, n_linear);
        n_linear += linear;
    }
    g->layer = -1;
    for (int i = 0; form.options->only && i < g->n_values; i++)
        if (g->values[i].kind == KIND_PARAM && !is_adapters(g->values[i].name) &&
            strcmp(g->values[i].name + strlen(g->model), "v_head.weight") != 0)
            g->values[i].frozen = true;
    form_close(&form);
    return 0;
}

/* ---- the plan ---- */

static int nothing_taken(const struct lora_options *o, struct err *err)
{
    if (o->adapter)
        err_set(err, ERR_INPUT, "the adapter in \"%s\" adapts no linear layer of this model", o->adapter);
    else
        err_set(err, ERR_USAGE, "--%s \"%s\" names no linear layer",
                o->targets ? "lora_target_modules" : "lora_module_name", o->targets ? o->targets : o->module_name);
    return err_hint(err, "Linear layers are " OUTER "layers.0.self_attn.q_proj (k_proj, v_proj, out_proj), " OUTER
                         "layers.0.fc1 (fc2), and so on.");
}

/* Adapters have a rate of their own, and a saved model is to be told by how much they count. */
static int on_plan(const void *o, struct plan *p, const char *model, struct err *err)
{
    const struct lora_options *lora = o;
    const int update = plan_find_program(p, model, "update");
    struct form form;
    int n = 0;

    if (form_open(&form, o, err) != 0)
        return -1;
    for (int i = 0; i < p->n_buffers; i++) {
        struct buffer *b = &p->buffers[i];
        if (b->kind != KIND_PARAM || b->group != GROUP_LORA || strcmp(b->model, model) != 0)
            continue;
        b->by = "lora";
        b->scale = form.scale;
        n++;
    }
    form_close(&form);
    for (int i = 0; update >= 0 && i < p->programs[update].n_steps; i++)
        if (p->programs[update].steps[i].attrs.group == GROUP_LORA)
            p->programs[update].steps[i].attrs.rate = lora->learning_rate;
    return n > 0 ? 0 : nothing_taken(lora, err);
}

const struct technique technique_lora = {
    .name = "lora",
    .summary = "LoRA",
    .paper = "Hu et al. 2021, arXiv:2106.09685",
    .exact = false,
    .freezes = true,
    .ways = ways,
    .options = options,
    .options_size = sizeof(struct lora_options),
    .is_on = is_on,
    .check = check,
    .drops = dropout,
    .forget = forget,
    .on_graph = on_graph,
    .on_plan = on_plan,
};
