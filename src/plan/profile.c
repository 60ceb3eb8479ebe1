/* One table of figures serves checking, reading and writing. */
#include "plan/profile.h"

#include <math.h>
#include <string.h>

#include "base/mem.h"

#define FILE_MAX_BYTES ((size_t)8 << 20)
#define FORMAT "tuneup profile"
#define VERSION 1

static const struct {
    const char *name;
    double min, max;
} figures[PROFILE_FIGURES] = {
    [PROFILE_FP32_FLOPS] = { "fp32_flops", 1e6, 1e18 },
    [PROFILE_BF16_FLOPS] = { "bf16_flops", 1e6, 1e18 },
    [PROFILE_INT8_FLOPS] = { "int8_flops", 1e6, 1e18 },
    [PROFILE_BANDWIDTH] = { "memory_bandwidth", 1e6, 1e15 },
    [PROFILE_MEMORY] = { "memory_bytes", 1e6, 1e16 },
    [PROFILE_LINK_BANDWIDTH] = { "link_bandwidth", 1e3, 1e15 },
    [PROFILE_LINK_LATENCY] = { "link_latency", 0, 10 },
    [PROFILE_NODE_RANKS] = { "node_ranks", 1, 4096 },
    [PROFILE_NETWORK_BANDWIDTH] = { "network_bandwidth", 1e3, 1e15 },
    [PROFILE_NETWORK_LATENCY] = { "network_latency", 0, 10 },
    [PROFILE_DISK_BANDWIDTH] = { "disk_bandwidth", 1e3, 1e15 },
    [PROFILE_STATIC_POWER] = { "static_power", 0, 1e6 },
    [PROFILE_DYNAMIC_POWER] = { "dynamic_power", 0, 1e6 },
    [PROFILE_OP_OVERHEAD] = { "op_overhead", 0, 10 },
    [PROFILE_HOST_BANDWIDTH] = { "host_bandwidth", 1e3, 1e15 },
    [PROFILE_MATMUL_EFFICIENCY] = { "matmul_efficiency", 1e-6, 1e3 },
    [PROFILE_ATTENTION_EFFICIENCY] = { "attention_efficiency", 1e-6, 1e3 },
    [PROFILE_OTHER_EFFICIENCY] = { "other_efficiency", 1e-6, 1e3 },
};

static const char *const types[PROFILE_TYPES] = { "fp32", "bf16", "int8" };

const char *profile_figure_name(enum profile_figure f)
{
    return figures[f].name;
}

const char *profile_type_name(enum profile_type t)
{
    return types[t];
}

const struct profile *profile_find(const char *name)
{
    for (const struct profile *p = profile_machines; p->name[0]; p++)
        if (strcmp(p->name, name) == 0)
            return p;
    return NULL;
}

void profile_free(struct profile *p)
{
    mem_free(p->samples);
    *p = (struct profile){ 0 };
}

static int bad(const char *name, const char *key, const char *what, struct err *err)
{
    err_set(err, ERR_INPUT, "\"%s\" of the machine profile %s", key, what);
    err_where(err, "file \"%s\"", name);
    return err_hint(err, "`tuneup doctor --profile` measures this machine and writes a new one.");
}

int profile_check(const struct profile *p, const char *name, struct err *err)
{
    for (int i = 0; i < PROFILE_FIGURES; i++) {
        const double v = p->figures[i].value;
        if (!isfinite(v) || v < figures[i].min || v > figures[i].max)
            return bad(name, figures[i].name, "is missing or out of range", err);
        if (!p->figures[i].source[0])
            return bad(name, figures[i].name, "does not say where it is from", err);
    }
    for (int i = 0; i < p->n_samples; i++) {
        const struct profile_sample *s = &p->samples[i];
        if (s->ranks < 1 || s->ranks > 4096)
            return bad(name, "samples", "hold a number of ranks out of range", err);
        if (!(s->flops >= 0 && s->flops < 1e24 && s->bytes > 0 && s->bytes < 1e18 && s->seconds > 0 &&
              s->seconds < 1e6))
            return bad(name, "samples", "hold a number out of range", err);
    }
    return 0;
}

/* ---- files ---- */

static int copy_text(char *out, size_t size, const json_t *object, const char *path, const char *key, struct err *err)
{
    const char *text = "";

    if (json_get_string(object, path, key, &text, err) < 0)
        return -1;
    if (strlen(text) >= size)
        return bad(path, key, "is too long", err);
    snprintf(out, size, "%s", text);
    return 0;
}

static int index_of(const char *const *names, int n, const char *name)
{
    for (int i = 0; name && i < n; i++)
        if (strcmp(names[i], name) == 0)
            return i;
    return -1;
}

static int op_index(const char *name)
{
    for (int i = 0; name && i < OP_N; i++)
        if (strcmp(op_rule((enum op)i)->name, name) == 0)
            return i;
    return -1;
}

static int load_figures(struct profile *p, const json_t *all, const char *path, struct err *err)
{
    for (int i = 0; i < PROFILE_FIGURES; i++) {
        const json_t *one = json_object_get(all, figures[i].name);
        struct profile_value *v = &p->figures[i];

        v->value = NAN;
        if (!json_is_object(one))
            return bad(path, figures[i].name, "is missing", err);
        if (json_get_real(one, path, "value", figures[i].min, figures[i].max, &v->value, err) < 0 ||
            copy_text(v->source, sizeof v->source, one, path, "source", err) != 0)
            return err_where(err, "figure \"%s\", file \"%s\"", figures[i].name, path);
    }
    return 0;
}

static int load_sample(struct profile_sample *s, const json_t *one, const char *path, struct err *err)
{
    s->op = op_index(json_string_value(json_object_get(one, "op")));
    s->type = index_of(types, PROFILE_TYPES, json_string_value(json_object_get(one, "type")));
    if (s->op < 0 || s->type < 0)
        return bad(path, "samples", "name an op or a type that is not known here", err);
    int64_t ranks = 0;
    s->flops = s->bytes = s->seconds = -1;
    if (json_get_int(one, path, "ranks", 1, 4096, &ranks, err) < 0)
        return -1;
    s->ranks = (int)ranks;
    int64_t threads = 0;
    if (json_get_int(one, path, "threads", 0, 1 << 20, &threads, err) < 0)
        return -1;
    s->threads = (int)threads;
    if (json_get_real(one, path, "flops", 0, 1e24, &s->flops, err) < 0 ||
        json_get_real(one, path, "bytes", 1, 1e18, &s->bytes, err) < 0 ||
        json_get_real(one, path, "seconds", 1e-12, 1e6, &s->seconds, err) < 0)
        return -1;
    return 0;
}

static int load_samples(struct profile *p, const json_t *list, const char *path, struct err *err)
{
    const size_t n = json_array_size(list);

    if (!json_is_array(list) || n > PROFILE_MAX_SAMPLES)
        return bad(path, "samples", "is no list, or too long", err);
    if (n == 0)
        return 0;
    p->samples = mem_array((int64_t)n, 1, sizeof *p->samples, MEM_PLAN, err);
    if (!p->samples)
        return -1;
    for (size_t i = 0; i < n; i++)
        if (load_sample(&p->samples[i], json_array_get(list, i), path, err) != 0)
            return -1;
    p->n_samples = (int)n;
    return 0;
}

static int load_all(struct profile *p, const json_t *json, const char *path, struct err *err)
{
    const json_t *machine = json_object_get(json, "machine");
    const char *format = json_string_value(json_object_get(json, "format"));
    int64_t version = 0;

    if (!format || strcmp(format, FORMAT) != 0)
        return bad(path, "format", "is not \"" FORMAT "\"", err);
    if (json_get_int(json, path, "version", 0, INT64_MAX, &version, err) < 0)
        return -1;
    if (version != VERSION)
        return bad(path, "version", "is of another tuneup", err);
    if (copy_text(p->name, sizeof p->name, json, path, "name", err) != 0 ||
        copy_text(p->describe, sizeof p->describe, json, path, "describe", err) != 0 ||
        copy_text(p->cpu, sizeof p->cpu, machine, path, "cpu", err) != 0 ||
        json_get_int(machine, path, "cpus", 0, 1 << 20, &p->cpus, err) < 0 ||
        json_get_int(machine, path, "memory_gib", 0, 1 << 30, &p->memory_gib, err) < 0 ||
        json_get_int(machine, path, "threads", 0, 1 << 20, &p->threads, err) < 0 ||
        json_get_bool(json, path, "ranks_share", &p->shared, err) < 0)
        return -1;
    if (load_figures(p, json_object_get(json, "figures"), path, err) != 0 ||
        load_samples(p, json_object_get(json, "samples"), path, err) != 0)
        return -1;
    return profile_check(p, path, err);
}

int profile_load(struct profile *p, const char *path, struct err *err)
{
    json_t *json = json_read(path, FILE_MAX_BYTES, err);

    *p = (struct profile){ 0 };
    if (!json)
        return -1;
    const int result = json_is_object(json) ? load_all(p, json, path, err) : bad(path, "format", "is missing", err);
    json_decref(json);
    if (result != 0)
        profile_free(p);
    return result;
}

int profile_save(const struct profile *p, const char *path, struct err *err)
{
    json_t *values = json_object(), *samples = json_array();

    for (int i = 0; i < PROFILE_FIGURES; i++)
        json_object_set_new(values, figures[i].name,
                            json_pack("{s:f, s:s}", "value", p->figures[i].value, "source", p->figures[i].source));
    for (int i = 0; i < p->n_samples; i++) {
        const struct profile_sample *s = &p->samples[i];
        json_array_append_new(samples,
                              json_pack("{s:s, s:s, s:i, s:i, s:f, s:f, s:f}", "op", op_rule((enum op)s->op)->name,
                                        "type", types[s->type], "ranks", s->ranks, "threads", s->threads, "flops",
                                        s->flops, "bytes", s->bytes, "seconds", s->seconds));
    }
    json_t *json =
        json_pack("{s:s, s:i, s:s, s:s, s:s, s:{s:s, s:I, s:I, s:I}, s:b, s:o, s:o}", "format", FORMAT, "version",
                  VERSION, "name", p->name, "describe", p->describe, "tuneup", TUNEUP_VERSION, "machine", "cpu", p->cpu,
                  "cpus", (json_int_t)p->cpus, "memory_gib", (json_int_t)p->memory_gib, "threads",
                  (json_int_t)p->threads, "ranks_share", (int)p->shared, "figures", values, "samples", samples);
    if (!json)
        return err_set(err, ERR_MEMORY, "no memory for the machine profile");
    const int result = json_write(path, json, JSON_INDENT(1), err);
    json_decref(json);
    return result;
}
