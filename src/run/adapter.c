/* The plan says all: what has an adapter, of what rank, and by how much it counts. */
#include "run/adapter.h"

#include <stdio.h>
#include <string.h>

#include "base/mem.h"
#include "graph/optimizer.h"
#include "run/feed.h"

#define A_TAIL ".lora_A.weight"
#define B_TAIL ".lora_B.weight"

static bool is_param(const struct buffer *b, const char *model)
{
    return b->kind == KIND_PARAM && !b->derived && strncmp(b->name, "flat/", 5) != 0 && strcmp(b->model, model) == 0;
}

static const char *canonical(const struct buffer *b)
{
    return b->name + strlen(b->model);
}

static bool ends(const char *name, const char *tail)
{
    const size_t n = strlen(name), t = strlen(tail);

    return n > t && strcmp(name + n - t, tail) == 0;
}

/* The parameter of the model with this canonical stem and tail, -1 = none. */
static int find(const struct plan *p, const char *model, const char *stem, int length, const char *tail)
{
    char name[192];

    snprintf(name, sizeof name, "%s%.*s%s", model, length, stem, tail);
    return plan_find(p, name);
}

int adapter_of(const struct plan *p, int w)
{
    const struct buffer *b = &p->buffers[w];
    const char *name = canonical(b);

    return ends(name, ".weight") ? find(p, b->model, name, (int)(strlen(name) - strlen(".weight")), A_TAIL) : -1;
}

int adapter_second(const struct plan *p, int a)
{
    const char *name = canonical(&p->buffers[a]);

    return find(p, p->buffers[a].model, name, (int)(strlen(name) - strlen(A_TAIL)), B_TAIL);
}

bool adapter_there(const struct plan *p, const char *model)
{
    for (int i = 0; i < p->n_buffers; i++)
        if (is_param(&p->buffers[i], model) && p->buffers[i].group == GROUP_LORA)
            return true;
    return false;
}

/* ---- loading ---- */

static int misfit(const struct model_dir *files, struct err *err)
{
    err_where(err, "file \"%s\"", files->files[0].path);
    return err_hint(err, "Use the adapter with the model that it was trained on.");
}

static int check_tensor(const struct plan *p, const char *model, const struct model_dir *files,
                        const struct model_tensor *t, struct err *err)
{
    char name[192], have[SHAPE_TEXT_MAX], need[SHAPE_TEXT_MAX];

    snprintf(name, sizeof name, "%s%s", model, t->canonical);
    const int b = plan_find(p, name);
    if (b < 0 || !is_param(&p->buffers[b], model)) {
        err_set(err, ERR_INPUT, "the adapter's tensor \"%s\" is of nothing that this run has", t->canonical);
        return misfit(files, err);
    }
    if (shape_equal(&t->stored->shape, &p->buffers[b].shape))
        return 0;
    err_set(err, ERR_INPUT, "the adapter's tensor \"%s\" has shape %s, the model needs %s", t->canonical,
            shape_print(&t->stored->shape, have), shape_print(&p->buffers[b].shape, need));
    return misfit(files, err);
}

int adapter_check(const struct plan *p, const char *model, bool reward, const struct model_dir *files, struct err *err)
{
    if (files->is_reward != reward) {
        err_set(err, ERR_INPUT, "the adapter is of a %s model, a %s model is to have it",
                files->is_reward ? "reward" : "language", reward ? "reward" : "language");
        return misfit(files, err);
    }
    for (int i = 0; i < files->n_tensors; i++)
        if (check_tensor(p, model, files, &files->tensors[i], err) != 0)
            return -1;
    for (int i = 0; i < p->n_buffers; i++) {
        const struct buffer *b = &p->buffers[i];
        if (!is_param(b, model) || b->group != GROUP_LORA || model_dir_find(files, canonical(b)))
            continue;
        err_set(err, ERR_INPUT, "the adapter lacks the tensor \"%s\"", canonical(b));
        return misfit(files, err);
    }
    return 0;
}

/* ---- the sum ---- */

/* The part of row m of w that lies in first .. first+count-1. */
static void add_row(float *out, const float *a, const float *b, float scale, int64_t K, int64_t width, int64_t m,
                    int64_t first, int64_t count)
{
    const int64_t begin = m * width > first ? m * width : first;
    const int64_t end = (m + 1) * width < first + count ? (m + 1) * width : first + count;
    float *to = out + (begin - first);

    for (int64_t k = 0; k < K; k++) {
        const float *row = a + k * width + (begin - m * width), factor = scale * b[m * K + k];
#pragma omp simd
        for (int64_t i = 0; i < end - begin; i++)
            to[i] += factor * row[i];
    }
}

void adapter_add(const struct buffer *adapter, const float *a, const float *b, int64_t first, int64_t count,
                 float *values)
{
    const int64_t K = adapter->shape.dim[0], width = adapter->shape.dim[1];

#pragma omp parallel for schedule(static)
    for (int64_t m = first / width; m < (first + count + width - 1) / width; m++)
        add_row(values, a, b, (float)adapter->scale, K, width, m, first, count);
}

/* ---- saving ---- */

struct lists {
    json_t *targets, *modules;
    bool biases, reward;
    int64_t dim;
    double scale;
};

struct saving {
    const struct plan *plan;
    const char *model, *base, *dir;
    struct lists lists;
};

static bool adapted(const void *context, const char *layer)
{
    const struct saving *s = context;

    return find(s->plan, s->model, layer, (int)strlen(layer), A_TAIL) >= 0;
}

/* Does every linear layer whose name ends so have an adapter? Then its last word tells it to PEFT. */
static bool all_adapted(const struct saving *s, const char *last)
{
    char tail[176];

    snprintf(tail, sizeof tail, "%s.weight", last);
    for (int i = 0; i < s->plan->n_buffers; i++) {
        const struct buffer *b = &s->plan->buffers[i];
        if (is_param(b, s->model) && ends(canonical(b), tail) && adapter_of(s->plan, i) < 0)
            return false;
    }
    return true;
}

/* Adds a word once. */
static void add_word(json_t *list, const char *word)
{
    size_t i;
    json_t *there;

    json_array_foreach(list, i, there)
    {
        if (strcmp(json_string_value(there), word) == 0)
            return;
    }
    json_array_append_new(list, json_string(word));
}

/* The module of a parameter: "layers.0.fc1" of its weight. as_written: with what a full name has before it. */
static void module_of(const char *name, const char *tail, char out[160], bool full, bool reward)
{
    const int length = (int)(strlen(name) - strlen(tail));

    snprintf(out, 160, "%s%.*s", !full ? "" : reward ? "rwtransformer.decoder." : "model.decoder.", length, name);
}

static const char *last_word(const char *module)
{
    const char *dot = strrchr(module, '.');

    return dot ? dot + 1 : module;
}

/* What PEFT is to be told of a parameter that has learnt. */
static void describe(const struct saving *s, const struct buffer *b, struct lists *lists)
{
    const char *name = canonical(b);
    char module[160], last[162];

    if (ends(name, A_TAIL)) {
        module_of(name, A_TAIL, module, false, false);
        snprintf(last, sizeof last, ".%s", last_word(module));
        lists->dim = b->shape.dim[0];
        lists->scale = b->scale;
        module_of(name, A_TAIL, module, true, lists->reward);
        add_word(lists->targets, all_adapted(s, last) ? last + 1 : module);
    } else if (ends(name, ".bias") && !strstr(name, "norm.")) {
        lists->biases = true;
    } else if (!ends(name, B_TAIL)) {
        snprintf(module, sizeof module, "%s", name);
        module[strlen(module) - strlen(last_word(module)) - 1] = '\0';
        add_word(lists->modules, last_word(module));
    }
}

static json_t *config_of(const struct lists *lists, const char *base, struct err *err)
{
    json_t *config =
        json_pack("{s:s, s:s?, s:s, s:I, s:f, s:O, s:s, s:b, s:b}", "peft_type", "LORA", "task_type",
                  lists->reward ? NULL : "CAUSAL_LM", "base_model_name_or_path", base, "r", (json_int_t)lists->dim,
                  "lora_alpha", lists->scale * (double)lists->dim, "target_modules", lists->targets, "bias",
                  lists->biases ? "all" : "none", "fan_in_fan_out", 0, "inference_mode", 1);

    if (!config)
        err_set(err, ERR_MEMORY, "there is no memory for the adapter's description");
    else if (json_array_size(lists->modules) > 0)
        json_object_set(config, "modules_to_save", lists->modules);
    return config;
}

static bool has_learnt(const struct plan *p, const struct buffer *b)
{
    return b->group == GROUP_LORA ||
           (b->parent >= 0 && strncmp(p->buffers[b->parent].name, "flat/", 5) == 0 && p->buffers[b->parent].group >= 0);
}

static int write_adapter(void *context, const struct feed *f, const struct tensor_source *source, struct err *err)
{
    const struct saving *s = context;
    json_t *config = config_of(&s->lists, s->base, err);
    const int result =
        config ? adapter_dir_save(s->dir, config, f->tensors, f->n, s->lists.reward, adapted, s, source, err) : -1;

    json_decref(config);
    return result;
}

int adapter_save(const struct exec *e, const char *model, const char *base, const char *dir, struct err *err)
{
    const struct plan *p = e->plan;
    struct saving saving = { .plan = p, .model = model, .base = base, .dir = dir };
    struct lists *lists = &saving.lists;
    struct feed feed;
    int result = comm_agree(e->comm, feed_init(&feed, e, err), err);

    lists->targets = json_array();
    lists->modules = json_array();
    lists->reward = find(p, model, "v_head", 6, ".weight") >= 0;
    for (int i = 0; i < p->n_buffers && result == 0; i++)
        if (is_param(&p->buffers[i], model) && has_learnt(p, &p->buffers[i])) {
            describe(&saving, &p->buffers[i], lists);
            feed_add(&feed, i, canonical(&p->buffers[i]), p->buffers[i].dtype);
        }
    if (result == 0)
        result = feed_save(&feed, write_adapter, &saving, err);
    json_decref(lists->targets);
    json_decref(lists->modules);
    feed_free(&feed);
    return result;
}
