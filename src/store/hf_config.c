/* Two tables say which key is which field; loading, saving and the check for unknown keys all walk them. The limits are
 * far above any published model, and low enough that products of three of them fit 63 bits. */
#include "store/hf_config.h"

#include <inttypes.h>
#include <math.h>
#include <string.h>

#include "base/file.h"
#include "base/json.h"
#include "base/log.h"

#define FILE_MAX ((size_t)1 << 20)

static const struct {
    const char *key;
    size_t offset;
    int64_t max; /* from 1 */
    bool needed;
} sizes[] = {
    { "hidden_size", offsetof(struct hf_config, hidden_size), 1 << 17, true },
    { "num_hidden_layers", offsetof(struct hf_config, n_layers), 1000, true },
    { "num_attention_heads", offsetof(struct hf_config, n_heads), 1 << 12, true },
    { "ffn_dim", offsetof(struct hf_config, ffn_dim), 1 << 20, true },
    { "word_embed_proj_dim", offsetof(struct hf_config, word_embed_proj_dim), 1 << 17, false },
    { "vocab_size", offsetof(struct hf_config, vocab_size), 1 << 24, true },
    { "max_position_embeddings", offsetof(struct hf_config, max_positions), 1 << 24, true },
};

static const struct {
    const char *key;
    size_t offset;
    int64_t fallback;
} ids[] = {
    { "pad_token_id", offsetof(struct hf_config, pad_id), 1 },
    { "bos_token_id", offsetof(struct hf_config, bos_id), 2 },
    { "eos_token_id", offsetof(struct hf_config, eos_id), 2 },
};

static const struct {
    const char *key;
    size_t offset;
    double fallback;
} reals[] = {
    { "dropout", offsetof(struct hf_config, dropout), 0.1 },
    { "attention_dropout", offsetof(struct hf_config, attention_dropout), 0.0 },
    { "activation_dropout", offsetof(struct hf_config, activation_dropout), 0.0 },
    { "layerdrop", offsetof(struct hf_config, layerdrop), 0.0 },
    { "init_std", offsetof(struct hf_config, init_std), 0.02 },
};

static const struct {
    const char *key;
    size_t offset;
    bool fallback;
} flags[] = {
    { "do_layer_norm_before", offsetof(struct hf_config, norm_before), true },
    { "_remove_final_layer_norm", offsetof(struct hf_config, remove_final_norm), false },
    { "tie_word_embeddings", offsetof(struct hf_config, tied), true },
    { "enable_bias", offsetof(struct hf_config, bias), true },
};

/* Understood elsewhere or without meaning here: no note about them. */
static const char *const others[] = {
    "model_type",
    "activation_function",
    "layer_norm_elementwise_affine",
    "torch_dtype",
    "dtype",
    "architectures",
    "transformers_version",
    "_name_or_path",
    "use_cache",
    "prefix",
    "end_token_id",
};

static const struct {
    const char *name;
    int64_t C, L, H, F, E, positions;
    bool norm_before;
} named[] = {
    { "opt-tiny", 128, 4, 4, 512, 128, 512, true },        { "opt-125m", 768, 12, 12, 3072, 768, 2048, true },
    { "opt-350m", 1024, 24, 16, 4096, 512, 2048, false },  { "opt-1.3b", 2048, 24, 32, 8192, 2048, 2048, true },
    { "opt-2.7b", 2560, 32, 32, 10240, 2560, 2048, true }, { "opt-6.7b", 4096, 32, 32, 16384, 4096, 2048, true },
    { "opt-13b", 5120, 40, 40, 20480, 5120, 2048, true },  { "opt-30b", 7168, 48, 56, 28672, 7168, 2048, true },
    { "opt-66b", 9216, 64, 72, 36864, 9216, 2048, true },
};

static int64_t *int_at(const struct hf_config *c, size_t offset)
{
    return (int64_t *)((char *)c + offset);
}

static double *real_at(const struct hf_config *c, size_t offset)
{
    return (double *)((char *)c + offset);
}

static bool *flag_at(const struct hf_config *c, size_t offset)
{
    return (bool *)((char *)c + offset);
}

static int64_t nearest_divisor(int64_t of, int64_t to)
{
    for (int64_t apart = 1;; apart++) {
        if (to - apart >= 1 && of % (to - apart) == 0)
            return to - apart;
        if (to + apart <= of && of % (to + apart) == 0)
            return to + apart;
        if (to + apart > of && to - apart < 1)
            return 1;
    }
}

static int check_heads(const struct hf_config *c, const char *name, struct err *err)
{
    if (c->hidden_size % c->n_heads == 0)
        return 0;
    err_set(err, ERR_INPUT, "num_attention_heads %" PRId64 " does not divide hidden_size %" PRId64, c->n_heads,
            c->hidden_size);
    err_where(err, "%s", name);
    return err_hint(err, "The nearest number of heads that does is %" PRId64 ".",
                    nearest_divisor(c->hidden_size, c->n_heads));
}

static int check_ranges(const struct hf_config *c, const char *name, struct err *err)
{
    for (int i = 0; i < COUNT_OF(sizes); i++) {
        const int64_t v = *int_at(c, sizes[i].offset);

        if (v >= 1 && v <= sizes[i].max)
            continue;
        err_set(err, ERR_INPUT, "%s is %" PRId64 ", it can be 1 to %" PRId64, sizes[i].key, v, sizes[i].max);
        err_where(err, "%s", name);
        return err_hint(err, "The nearest accepted value is %" PRId64 ".", v < 1 ? (int64_t)1 : sizes[i].max);
    }
    for (int i = 0; i < COUNT_OF(ids); i++) {
        const int64_t v = *int_at(c, ids[i].offset);

        if (v >= 0 && v < c->vocab_size)
            continue;
        err_set(err, ERR_INPUT, "%s is %" PRId64 ", but vocab_size is %" PRId64, ids[i].key, v, c->vocab_size);
        err_where(err, "%s", name);
        return err_hint(err, "The nearest accepted value is %" PRId64 ".", v < 0 ? (int64_t)0 : c->vocab_size - 1);
    }
    for (int i = 0; i < COUNT_OF(reals); i++) {
        const double v = *real_at(c, reals[i].offset);

        if (v >= 0 && v < 1)
            continue;
        err_set(err, ERR_INPUT, "%s is %g, it can be 0 or more and less than 1", reals[i].key, v);
        err_where(err, "%s", name);
        return err_hint(err, "Its usual value is %g.", reals[i].fallback);
    }
    return 0;
}

static int unsupported(struct err *err, const char *name, const char *key, const char *value, const char *wanted)
{
    char safe[64];

    err_set(err, ERR_INPUT, "%s is %s, only %s is supported", key, log_safe(safe, sizeof safe, value), wanted);
    err_where(err, "%s", name);
    return err_hint(err, "All published OPT models have %s; convert this one, or use another.", wanted);
}

int hf_config_check(const struct hf_config *c, const char *name, struct err *err)
{
    if (check_ranges(c, name, err) != 0 || check_heads(c, name, err) != 0)
        return -1;
    if (!c->bias)
        return unsupported(err, name, "enable_bias", "false", "true");
    if (!c->tied)
        return unsupported(err, name, "tie_word_embeddings", "false", "true");
    if (c->layerdrop != 0) {
        char value[40];
        snprintf(value, sizeof value, "%g", c->layerdrop);
        return unsupported(err, name, "layerdrop", value, "0");
    }
    return 0;
}

static int check_type(const struct hf_config *c, const char *name, struct err *err)
{
    const char *type = NULL, *activation = "relu";
    bool affine = true;
    char safe[64];

    if (json_get_string(c->raw, name, "model_type", &type, err) < 0 ||
        json_get_string(c->raw, name, "activation_function", &activation, err) < 0 ||
        json_get_bool(c->raw, name, "layer_norm_elementwise_affine", &affine, err) < 0)
        return -1;
    if (!type || strcmp(type, "opt") != 0) {
        err_set(err, ERR_INPUT, "model_type is %s, supported is: opt",
                type ? log_safe(safe, sizeof safe, type) : "missing");
        err_where(err, "%s", name);
        return err_hint(err, "Use a model of the OPT family, such as facebook/opt-350m.");
    }
    if (strcmp(activation, "relu") != 0)
        return unsupported(err, name, "activation_function", activation, "relu");
    if (!affine)
        return unsupported(err, name, "layer_norm_elementwise_affine", "false", "true");
    return 0;
}

static int read_sizes(struct hf_config *c, const char *name, struct err *err)
{
    for (int i = 0; i < COUNT_OF(sizes); i++) {
        const int got = json_get_int(c->raw, name, sizes[i].key, INT64_MIN, INT64_MAX, int_at(c, sizes[i].offset), err);

        if (got < 0)
            return -1;
        if (got > 0)
            continue;
        if (sizes[i].needed) {
            err_set(err, ERR_INPUT, "%s is missing", sizes[i].key);
            err_where(err, "%s", name);
            return err_hint(err, "Use the config.json that came with this checkpoint.");
        }
        *int_at(c, sizes[i].offset) = c->hidden_size; /* word_embed_proj_dim */
    }
    return 0;
}

static int read_rest(struct hf_config *c, const char *name, struct err *err)
{
    const char *dtype = "";

    for (int i = 0; i < COUNT_OF(ids); i++) {
        *int_at(c, ids[i].offset) = ids[i].fallback;
        if (json_get_int(c->raw, name, ids[i].key, INT64_MIN, INT64_MAX, int_at(c, ids[i].offset), err) < 0)
            return -1;
    }
    for (int i = 0; i < COUNT_OF(reals); i++) {
        *real_at(c, reals[i].offset) = reals[i].fallback;
        if (json_get_real(c->raw, name, reals[i].key, -HUGE_VAL, HUGE_VAL, real_at(c, reals[i].offset), err) < 0)
            return -1;
    }
    for (int i = 0; i < COUNT_OF(flags); i++) {
        *flag_at(c, flags[i].offset) = flags[i].fallback;
        if (json_get_bool(c->raw, name, flags[i].key, flag_at(c, flags[i].offset), err) < 0)
            return -1;
    }
    if (json_get_string(c->raw, name, "dtype", &dtype, err) < 0 ||
        json_get_string(c->raw, name, "torch_dtype", &dtype, err) < 0)
        return -1;
    snprintf(c->torch_dtype, sizeof c->torch_dtype, "%s", dtype);
    return 0;
}

static bool is_known(const char *key)
{
    for (int i = 0; i < COUNT_OF(sizes); i++)
        if (strcmp(key, sizes[i].key) == 0)
            return true;
    for (int i = 0; i < COUNT_OF(ids); i++)
        if (strcmp(key, ids[i].key) == 0)
            return true;
    for (int i = 0; i < COUNT_OF(reals); i++)
        if (strcmp(key, reals[i].key) == 0)
            return true;
    for (int i = 0; i < COUNT_OF(flags); i++)
        if (strcmp(key, flags[i].key) == 0)
            return true;
    for (int i = 0; i < COUNT_OF(others); i++)
        if (strcmp(key, others[i]) == 0)
            return true;
    return false;
}

static void note_unknown(const struct hf_config *c, const char *name)
{
    const char *key;
    json_t *value;
    char safe[80];

    if (log_level() < LOG_VERBOSE)
        return;
    json_object_foreach(c->raw, key, value)
    {
        if (!is_known(key))
            log_detail("%s: key \"%s\" is not used here", name, log_safe(safe, sizeof safe, key));
    }
}

int hf_config_parse(struct hf_config *c, json_t *raw, const char *name, struct err *err)
{
    *c = (struct hf_config){ .raw = raw };
    if (!json_is_object(raw)) {
        err_set(err, ERR_INPUT, "the configuration is not a JSON object");
        err_where(err, "%s", name);
        goto failed;
    }
    if (check_type(c, name, err) != 0 || read_sizes(c, name, err) != 0 || read_rest(c, name, err) != 0 ||
        hf_config_check(c, name, err) != 0)
        goto failed;
    note_unknown(c, name);
    return 0;
failed:
    hf_config_free(c);
    return -1;
}

int hf_config_load(struct hf_config *c, const char *dir, struct err *err)
{
    char path[FILE_PATH_MAX];

    *c = (struct hf_config){ 0 };
    if (file_join(path, dir, "config.json", err) != 0)
        return -1;
    if (!file_exists(path)) {
        err_set(err, ERR_INPUT, "there is no model in \"%s\": it has no config.json", dir);
        return err_hint(err,
                        "Give the folder of a Hugging Face OPT model, or make one: tuneup model new --size opt-125m "
                        "DIR.");
    }
    json_t *raw = json_read(path, FILE_MAX, err);
    return raw ? hf_config_parse(c, raw, path, err) : -1;
}

static const char *torch_name(enum dtype dtype)
{
    static const char *const names[DTYPE_N] = {
        [F32] = "float32", [BF16] = "bfloat16", [F16] = "float16", [I32] = "int32", [F64] = "float64"
    };

    return names[dtype];
}

/* raw with the struct's values; NULL when there is no memory. */
static json_t *merged(const struct hf_config *c, enum dtype dtype)
{
    json_t *out = c->raw ? json_copy(c->raw) : json_object();
    int failed = out ? 0 : -1;

    for (int i = 0; i < COUNT_OF(sizes) && !failed; i++)
        failed = json_object_set_new(out, sizes[i].key, json_integer(*int_at(c, sizes[i].offset)));
    for (int i = 0; i < COUNT_OF(ids) && !failed; i++)
        failed = json_object_set_new(out, ids[i].key, json_integer(*int_at(c, ids[i].offset)));
    for (int i = 0; i < COUNT_OF(reals) && !failed; i++)
        failed = json_object_set_new(out, reals[i].key, json_real(*real_at(c, reals[i].offset)));
    for (int i = 0; i < COUNT_OF(flags) && !failed; i++)
        failed = json_object_set_new(out, flags[i].key, json_boolean(*flag_at(c, flags[i].offset)));
    if (!failed)
        failed = json_object_set_new(out, "torch_dtype", json_string(torch_name(dtype)));
    if (!failed && json_object_get(out, "dtype")) /* the key's newer name */
        failed = json_object_set_new(out, "dtype", json_string(torch_name(dtype)));
    if (failed) {
        json_decref(out);
        return NULL;
    }
    return out;
}

int hf_config_save(const struct hf_config *c, const char *dir, enum dtype dtype, struct err *err)
{
    char path[FILE_PATH_MAX];

    if (file_join(path, dir, "config.json", err) != 0)
        return -1;
    json_t *out = merged(c, dtype);
    if (!out)
        return err_set(err, ERR_MEMORY, "could not make \"%s\"", path);
    const int result = json_write(path, out, JSON_INDENT(2) | JSON_REAL_PRECISION(15), err);
    json_decref(out);
    return result;
}

void hf_config_free(struct hf_config *c)
{
    json_decref(c->raw);
    *c = (struct hf_config){ 0 };
}

static int unknown_size(const char *size, struct err *err)
{
    char list[256];
    size_t n = 0;

    for (int i = 0; i < COUNT_OF(named); i++)
        n += (size_t)snprintf(list + n, sizeof list - n, "%s%s", i ? ", " : "", named[i].name);
    err_set(err, ERR_USAGE, "there is no model size \"%.40s\"", size);
    return err_hint(err, "The sizes are %s.", list);
}

int hf_config_named(struct hf_config *c, const char *size, struct err *err)
{
    int i = 0;

    *c = (struct hf_config){ 0 };
    while (i < COUNT_OF(named) && strcmp(size, named[i].name) != 0)
        i++;
    if (i == COUNT_OF(named))
        return unknown_size(size, err);
    json_t *raw = json_pack("{s:[s], s:s, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:b, s:b, s:s, s:b}", "architectures",
                            "OPTForCausalLM", "model_type", "opt", "activation_function", "relu", "hidden_size",
                            (json_int_t)named[i].C, "num_hidden_layers", (json_int_t)named[i].L, "num_attention_heads",
                            (json_int_t)named[i].H, "ffn_dim", (json_int_t)named[i].F, "word_embed_proj_dim",
                            (json_int_t)named[i].E, "vocab_size", (json_int_t)50272, "max_position_embeddings",
                            (json_int_t)named[i].positions, "do_layer_norm_before", named[i].norm_before,
                            "layer_norm_elementwise_affine", true, "prefix", "</s>", "use_cache", true);
    if (!raw)
        return err_set(err, ERR_MEMORY, "could not make the configuration of %s", size);
    return hf_config_parse(c, raw, size, err);
}

const char *hf_config_size_name(const struct hf_config *c)
{
    for (int i = 0; i < COUNT_OF(named); i++)
        if (c->hidden_size == named[i].C && c->n_layers == named[i].L && c->n_heads == named[i].H &&
            c->ffn_dim == named[i].F && c->word_embed_proj_dim == named[i].E && c->norm_before == named[i].norm_before)
            return named[i].name;
    return NULL;
}

bool hf_config_has_final_norm(const struct hf_config *c)
{
    return c->norm_before && !c->remove_final_norm;
}

bool hf_config_has_projection(const struct hf_config *c)
{
    return c->word_embed_proj_dim != c->hidden_size;
}

int64_t hf_config_parameters(const struct hf_config *c)
{
    const int64_t C = c->hidden_size, F = c->ffn_dim, E = c->word_embed_proj_dim;
    const int64_t layer = 4 * (C * C + C) + 2 * C * F + F + C + 4 * C;

    return c->vocab_size * E + (c->max_positions + 2) * C + (hf_config_has_projection(c) ? 2 * C * E : 0) +
           (hf_config_has_final_norm(c) ? 2 * C : 0) + c->n_layers * layer;
}
