/* The table of techniques. Order is meaning: each sees what the ones before it did. */
#include "techniques/technique.h"

#include <string.h>

extern const struct technique technique_mixed_precision, technique_flash_attention, technique_chunked_loss,
    technique_fused_kernels, technique_recompute, technique_norm_recompute, technique_zero, technique_optimizer8,
    technique_activation_compression, technique_int8, technique_remove_padding, technique_share_prompts,
    technique_map_frozen, technique_offload, technique_lora;

const struct technique *const techniques[] = {
    &technique_lora,
    &technique_remove_padding,
    &technique_share_prompts,
    &technique_flash_attention,
    &technique_chunked_loss,
    &technique_fused_kernels,
    &technique_mixed_precision,
    &technique_recompute,
    &technique_norm_recompute,
    &technique_activation_compression,
    &technique_int8,
    &technique_map_frozen,
    &technique_zero,
    &technique_optimizer8,
    &technique_offload,
    NULL,
};

int technique_sets(struct option_set *sets, struct technique_values *values)
{
    int n = 0;

    for (; techniques[n]; n++) {
        MUST(n < TECHNIQUES_MAX && techniques[n]->options_size <= TECHNIQUE_OPTIONS_MAX);
        sets[n] = (struct option_set){ .title = techniques[n]->summary,
                                       .options = techniques[n]->options,
                                       .values = values->slot[n] };
    }
    return n;
}

int technique_sets_of(struct option_set *sets, struct technique_values *values, const char *title, const char *prefix,
                      const struct technique_values *all)
{
    const int n = technique_sets(sets, values);

    for (int i = 0; i < n; i++) {
        sets[i].title = title;
        sets[i].prefix = prefix;
        sets[i].inherits = all->slot[i];
    }
    return n;
}

bool technique_is_on(const struct technique_values *v, int i)
{
    return techniques[i]->is_on(v->slot[i]);
}

const char *technique_name(const struct technique_values *v, int i)
{
    return techniques[i]->called ? techniques[i]->called(v->slot[i]) : techniques[i]->name;
}

static bool has_flag(int i)
{
    return techniques[i]->options->name && techniques[i]->options->type == OPTION_FLAG;
}

int technique_ways(int i)
{
    int n = 0;

    while (techniques[i]->ways && techniques[i]->ways[n])
        n++;
    return techniques[i]->ways ? n : has_flag(i);
}

static void set_word(void *values, const struct option *o, const char *name, size_t n, const char *text)
{
    struct err err;

    for (; o->name; o++)
        if (strlen(o->name) == n && strncmp(o->name, name, n) == 0) {
            MUST(option_set_text(o, values, text, &err) == 0);
            return;
        }
    MUST(false);
}

void technique_choose(struct technique_values *v, int i, int k)
{
    const struct option_set set = { .options = techniques[i]->options, .values = v->slot[i] };
    struct err err;

    MUST(k < technique_ways(i));
    option_defaults(&set, 1);
    for (const struct option *o = set.options; o->name && k < 0; o++)
        if (o->type == OPTION_FLAG)
            MUST(option_set_text(o, set.values, "false", &err) == 0);
    if (k < 0)
        return;
    const char *way = techniques[i]->ways ? techniques[i]->ways[k] : NULL, *equals = way ? strchr(way, '=') : NULL;
    if (equals)
        set_word(set.values, set.options, way, (size_t)(equals - way), equals + 1);
    else
        set_word(set.values, set.options, set.options->name, strlen(set.options->name), "true");
}

const char *technique_print(int i, int k, char *out, size_t size)
{
    const char *way = k >= 0 && techniques[i]->ways ? techniques[i]->ways[k] : NULL;
    const char *equals = way ? strchr(way, '=') : NULL;

    if (equals)
        snprintf(out, size, "--%.*s %s", (int)(equals - way), way, equals + 1);
    else
        snprintf(out, size, "%s%s", k < 0 ? "--no-" : "--", techniques[i]->options->name);
    return out;
}

bool technique_freezes(const struct technique_values *v)
{
    for (int i = 0; techniques[i]; i++)
        if (techniques[i]->freezes && technique_is_on(v, i))
            return true;
    return false;
}

void technique_forget(struct technique_values *v)
{
    for (int i = 0; techniques[i]; i++)
        if (techniques[i]->forget)
            techniques[i]->forget(v->slot[i]);
}

/* Where a string option's value lies. */
static size_t place_of(const char *option)
{
    for (int i = 0; techniques[i]; i++)
        for (const struct option *o = techniques[i]->options; o->name; o++)
            if (o->type == OPTION_STRING && strcmp(o->name, option) == 0)
                return (size_t)i * TECHNIQUE_OPTIONS_MAX + o->offset;
    MUST(false);
    return 0;
}

const char *technique_text(const struct technique_values *v, const char *option)
{
    const char *text;

    memcpy(&text, (const char *)v->slot + place_of(option), sizeof text);
    return text;
}

void technique_set_text(struct technique_values *v, const char *option, const char *text)
{
    memcpy((char *)v->slot + place_of(option), &text, sizeof text);
}

int technique_find(const char *name)
{
    for (int i = 0; techniques[i]; i++)
        if (strcmp(techniques[i]->name, name) == 0)
            return i;
    return -1;
}

struct run_facts technique_facts(const struct technique_values *v, const struct run_facts *facts)
{
    struct run_facts all = *facts;

    for (int i = 0; techniques[i]; i++) {
        if (!technique_is_on(v, i))
            continue;
        if (techniques[i]->drops && techniques[i]->drops(v->slot[i]) > all.dropout)
            all.dropout = techniques[i]->drops(v->slot[i]);
        all.narrow |= techniques[i]->narrows;
    }
    return all;
}

int technique_check(const struct technique_values *v, const struct run_facts *facts, struct err *err)
{
    const struct run_facts all = technique_facts(v, facts);

    for (int i = 0; techniques[i]; i++)
        if (techniques[i]->check && techniques[i]->check(v->slot[i], &all, err) != 0)
            return -1;
    return 0;
}

int technique_on_graph(const struct technique_values *v, struct graph *g, struct err *err)
{
    for (int i = 0; techniques[i]; i++) {
        if (!techniques[i]->on_graph || !technique_is_on(v, i))
            continue;
        g->by = technique_name(v, i);
        if (techniques[i]->on_graph(v->slot[i], g, err) != 0 || graph_check(g, err) != 0)
            return -1;
    }
    return 0;
}

int technique_on_plan(const struct technique_values *v, struct plan *p, const char *model, struct err *err)
{
    for (int i = 0; techniques[i]; i++)
        if (techniques[i]->on_plan && technique_is_on(v, i) && techniques[i]->on_plan(v->slot[i], p, model, err) != 0)
            return -1;
    return 0;
}
