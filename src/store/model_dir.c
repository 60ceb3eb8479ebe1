/* Opening: find which of the forms the folder has, open each file, list all tensors under canonical names, sort. With an
 * index, every tensor must be in exactly the file that the index says, and nowhere else. */
#include "store/model_dir.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/log.h"
#include "base/mem.h"

#define INDEX_MAX ((size_t)16 << 20)
#define FILES_MAX 48
#define NAME_MAX_BYTES 96
#define CHUNK 8192

static const char *const prefixes[] = {
    "model.decoder.", "decoder.", "rwtransformer.decoder.",
    "rwtranrsformer.decoder.", /* misspelt in DeepSpeed-Chat until October 2023 */
};

const char *model_dir_canonical(const char *name)
{
    for (int i = 0; i < COUNT_OF(prefixes); i++)
        if (strncmp(name, prefixes[i], strlen(prefixes[i])) == 0)
            return name + strlen(prefixes[i]);
    return name;
}

static const struct stored_tensor *tensors_of(const struct model_file *f, int *n)
{
    *n = f->is_torch ? f->torch.n_tensors : f->safetensors.n_tensors;
    return f->is_torch ? f->torch.tensors : f->safetensors.tensors;
}

static int open_file(struct model_dir *m, const char *path, struct err *err)
{
    const size_t length = strlen(path);
    struct model_file *files = mem_resize(m->files, m->n_files + 1, sizeof *files, MEM_STORE, err);

    if (!files)
        return -1;
    m->files = files;
    struct model_file *f = &m->files[m->n_files];
    *f = (struct model_file){ .safetensors.map.slot = -1, .path = mem_strdup(path, MEM_STORE, err) };
    if (!f->path)
        return -1;
    m->n_files++;
    f->is_torch = length > 4 && strcmp(path + length - 4, ".bin") == 0;
    return f->is_torch ? torch_bin_open(&f->torch, path, err) : safetensors_open(&f->safetensors, path, err);
}

static int bad_index(struct err *err, const char *path)
{
    err_where(err, "file \"%s\"", path);
    return err_hint(err, "Use the index and the files that were saved together.");
}

/* Shards are files beside the index: no folders, nothing that leads out. */
static int check_shard_name(const char *name, const char *path, struct err *err)
{
    char safe[160];

    if (name && *name && !strchr(name, '/') && strcmp(name, ".") != 0 && strcmp(name, "..") != 0)
        return 0;
    err_set(err, ERR_INPUT, "\"%s\" is not the name of a file beside the index",
            name ? log_safe(safe, sizeof safe, name) : "");
    return bad_index(err, path);
}

static int open_shard(struct model_dir *m, const char *dir, const char *name, const char *index_path, struct err *err)
{
    char path[FILE_PATH_MAX];

    if (check_shard_name(name, index_path, err) != 0 || file_join(path, dir, name, err) != 0)
        return -1;
    for (int i = 0; i < m->n_files; i++)
        if (strcmp(m->files[i].path, path) == 0)
            return i;
    if (m->n_files == FILES_MAX) {
        err_set(err, ERR_INPUT, "the index lists more than %d files", FILES_MAX);
        return bad_index(err, index_path);
    }
    return open_file(m, path, err) == 0 ? m->n_files - 1 : -1;
}

static const char *shard_name(const struct model_dir *m, int i)
{
    const char *slash = strrchr(m->files[i].path, '/');

    return slash ? slash + 1 : m->files[i].path;
}

/* Both ways: each tensor of a shard is promised for that shard, and as many are there as are promised. */
static int check_against_map(const struct model_dir *m, const json_t *map, const char *path, struct err *err)
{
    size_t there = 0;
    char safe[160];

    for (int i = 0; i < m->n_files; i++) {
        int n;
        const struct stored_tensor *tensors = tensors_of(&m->files[i], &n);

        for (int k = 0; k < n; k++, there++) {
            const char *promised = json_string_value(json_object_get(map, tensors[k].name));

            log_safe(safe, sizeof safe, tensors[k].name);
            if (promised && strcmp(promised, shard_name(m, i)) == 0)
                continue;
            err_set(err, ERR_INPUT, "tensor \"%s\" is in \"%s\", the index says %s%s", safe, shard_name(m, i),
                    promised ? "it is in " : "nothing of it", promised ? promised : "");
            return bad_index(err, path);
        }
    }
    if (there == json_object_size(map))
        return 0;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)map, key, value)
    {
        bool found = false;
        for (int i = 0; i < m->n_files && !found; i++) {
            int n;
            const struct stored_tensor *tensors = tensors_of(&m->files[i], &n);
            for (int k = 0; k < n && !found; k++)
                found = strcmp(tensors[k].name, key) == 0;
        }
        if (!found) {
            err_set(err, ERR_INPUT, "tensor \"%s\" is not in \"%s\", where the index says it is",
                    log_safe(safe, sizeof safe, key), json_string_value(value));
            return bad_index(err, path);
        }
    }
    err_set(err, ERR_INPUT, "a tensor is in its file twice");
    return bad_index(err, path);
}

static int open_index(struct model_dir *m, const char *dir, const char *path, struct err *err)
{
    json_t *index = json_read(path, INDEX_MAX, err);
    const json_t *map = json_object_get(index, "weight_map");
    const char *key;
    json_t *value;
    int result = -1;

    if (!index)
        return -1;
    if (!json_is_object(map) || json_object_size(map) == 0) {
        err_set(err, ERR_INPUT, "weight_map is missing or empty");
        bad_index(err, path);
        goto done;
    }
    json_object_foreach((json_t *)map, key, value)
    {
        if (open_shard(m, dir, json_string_value(value), path, err) < 0)
            goto done;
    }
    result = check_against_map(m, map, path, err);
done:
    json_decref(index);
    return result;
}

static const struct form {
    const char *name;
    bool is_index, is_torch;
} forms[] = {
    { "model.safetensors", false, false },
    { "model.safetensors.index.json", true, false },
    { "pytorch_model.bin", false, true },
    { "pytorch_model.bin.index.json", true, true },
};

/* 1 = the folder has the form and path, 0 = it has none. */
static int find_form(const char *dir, const struct form **form, char path[FILE_PATH_MAX], struct err *err)
{
    for (int i = 0; i < COUNT_OF(forms); i++) {
        if (file_join(path, dir, forms[i].name, err) != 0)
            return -1;
        *form = &forms[i];
        if (file_exists(path))
            return 1;
    }
    return 0;
}

static int open_weights(struct model_dir *m, const char *dir, struct err *err)
{
    const struct form *form;
    char path[FILE_PATH_MAX];
    const int found = find_form(dir, &form, path, err);

    if (found != 0)
        return found < 0 ? -1 : form->is_index ? open_index(m, dir, path, err) : open_file(m, path, err);
    err_set(err, ERR_INPUT, "\"%s\" has a config.json but no weights", dir);
    return err_hint(err, "Needed is model.safetensors, pytorch_model.bin, or several of either with their index.");
}

static int by_name(const void *a, const void *b)
{
    const struct model_tensor *x = a, *y = b;

    return strcmp(x->canonical, y->canonical);
}

static int list_tensors(struct model_dir *m, struct err *err)
{
    int64_t total = 0;

    for (int i = 0, n; i < m->n_files; i++) {
        tensors_of(&m->files[i], &n);
        total += n;
    }
    m->tensors = mem_array(total, 1, sizeof *m->tensors, MEM_STORE, err);
    if (!m->tensors)
        return -1;
    for (int i = 0, n; i < m->n_files; i++) {
        const struct stored_tensor *t = tensors_of(&m->files[i], &n);
        for (int k = 0; k < n; k++)
            m->tensors[m->n_tensors++] = (struct model_tensor){ model_dir_canonical(t[k].name), &t[k], i };
    }
    if (total > 0)
        qsort(m->tensors, (size_t)total, sizeof *m->tensors, by_name);
    for (int i = 1; i < m->n_tensors; i++)
        if (strcmp(m->tensors[i].canonical, m->tensors[i - 1].canonical) == 0) {
            char a[160], b[160];
            err_set(err, ERR_INPUT, "tensors \"%s\" and \"%s\" stand for the same parameter",
                    log_safe(a, sizeof a, m->tensors[i - 1].stored->name),
                    log_safe(b, sizeof b, m->tensors[i].stored->name));
            err_where(err, "file \"%s\"", m->files[m->tensors[i].file].path);
            return err_hint(err, "Keep one of them, and save the model again.");
        }
    return 0;
}

int model_dir_open(struct model_dir *m, const char *dir, struct err *err)
{
    *m = (struct model_dir){ 0 };
    if (hf_config_load(&m->config, dir, err) != 0 || open_weights(m, dir, err) != 0 || list_tensors(m, err) != 0) {
        model_dir_close(m);
        return -1;
    }
    m->is_reward = model_dir_find(m, "v_head.weight") != NULL;
    return 0;
}

int model_dir_look(struct model_dir *m, const char *dir, struct err *err)
{
    const struct form *form;
    char path[FILE_PATH_MAX];
    const int found = find_form(dir, &form, path, err);

    *m = (struct model_dir){ 0 };
    if (found <= 0 || form->is_torch)
        return found;
    return model_dir_open(m, dir, err) == 0 ? 1 : -1;
}

void model_dir_close(struct model_dir *m)
{
    for (int i = 0; i < m->n_files; i++) {
        safetensors_close(&m->files[i].safetensors);
        torch_bin_close(&m->files[i].torch);
        mem_free(m->files[i].path);
    }
    mem_free(m->files);
    mem_free(m->tensors);
    mem_free(m->names);
    hf_config_free(&m->config);
    *m = (struct model_dir){ 0 };
}

static const struct model_tensor *find(const struct model_dir *m, const char *canonical)
{
    const struct model_tensor key = { .canonical = canonical };

    return m->n_tensors ? bsearch(&key, m->tensors, (size_t)m->n_tensors, sizeof key, by_name) : NULL;
}

const struct stored_tensor *model_dir_find(const struct model_dir *m, const char *canonical)
{
    const struct model_tensor *t = find(m, canonical);

    return t ? t->stored : NULL;
}

struct naming {
    int (*each)(void *context, const char *canonical, const struct shape *shape, struct err *err);
    void *context;
    struct err *err;
    int result;
};

/* Does nothing once a call said stop, so that the list below needs no ifs. */
static void name_one(struct naming *n, const char *module, const char *kind, struct shape shape)
{
    char name[NAME_MAX_BYTES];

    if (n->result != 0)
        return;
    snprintf(name, sizeof name, "%s.%s", module, kind);
    n->result = n->each(n->context, name, &shape, n->err);
}

/* A linear [out,in] with bias [out]; a norm when in is 0. */
static void name_pair(struct naming *n, const char *module, int64_t out, int64_t in)
{
    name_one(n, module, "weight", in ? shape_of(2, out, in) : shape_of(1, out));
    name_one(n, module, "bias", shape_of(1, out));
}

static void name_layer(struct naming *n, int64_t layer, int64_t C, int64_t F)
{
    const struct {
        const char *name;
        int64_t out, in;
    } modules[] = {
        { "self_attn.k_proj", C, C },
        { "self_attn.v_proj", C, C },
        { "self_attn.q_proj", C, C },
        { "self_attn.out_proj", C, C },
        { "self_attn_layer_norm", C, 0 },
        { "fc1", F, C },
        { "fc2", C, F },
        { "final_layer_norm", C, 0 },
    };
    char module[NAME_MAX_BYTES - 16];

    for (int i = 0; i < COUNT_OF(modules); i++) {
        snprintf(module, sizeof module, "layers.%" PRId64 ".%s", layer, modules[i].name);
        name_pair(n, module, modules[i].out, modules[i].in);
    }
}

int model_names(const struct hf_config *c, bool reward,
                int (*each)(void *context, const char *canonical, const struct shape *shape, struct err *err),
                void *context, struct err *err)
{
    struct naming n = { each, context, err, 0 };
    const int64_t C = c->hidden_size, E = c->word_embed_proj_dim;

    if (reward)
        name_one(&n, "v_head", "weight", shape_of(2, (int64_t)1, E));
    name_one(&n, "embed_tokens", "weight", shape_of(2, c->vocab_size, E));
    name_one(&n, "embed_positions", "weight", shape_of(2, c->max_positions + 2, C));
    if (hf_config_has_projection(c)) {
        name_one(&n, "project_out", "weight", shape_of(2, E, C));
        name_one(&n, "project_in", "weight", shape_of(2, C, E));
    }
    if (hf_config_has_final_norm(c))
        name_pair(&n, "final_layer_norm", C, 0);
    for (int64_t i = 0; i < c->n_layers && n.result == 0; i++)
        name_layer(&n, i, C, c->ffn_dim);
    return n.result;
}

struct checking {
    const struct model_dir *m;
    int n_wanted, n_missing;
    char missing[900];
    size_t length;
};

static int wrong_shape(const struct model_dir *m, const struct model_tensor *t, const struct shape *wanted,
                       struct err *err)
{
    char have[SHAPE_TEXT_MAX], need[SHAPE_TEXT_MAX];

    err_set(err, ERR_INPUT, "tensor \"%s\" has shape %s, the model needs %s", t->canonical,
            shape_print(&t->stored->shape, have), shape_print(wanted, need));
    err_where(err, "file \"%s\"", m->files[t->file].path);
    return err_hint(err, "Use the config.json that came with this checkpoint.");
}

static int check_type(const struct model_dir *m, const struct model_tensor *t, struct err *err)
{
    if (t->stored->dtype != DTYPE_N && t->stored->dtype != I32)
        return 0;
    err_set(err, ERR_INPUT, "tensor \"%s\" has the type %s, needed is a floating-point one", t->canonical,
            t->stored->unsupported ? t->stored->unsupported : "I32");
    err_where(err, "file \"%s\"", m->files[t->file].path);
    return err_hint(err, "Save the model in float32, bfloat16 or float16.");
}

static int check_one(void *context, const char *canonical, const struct shape *shape, struct err *err)
{
    struct checking *c = context;
    const struct model_tensor *t = find(c->m, canonical);

    c->n_wanted++;
    if (t)
        return check_type(c->m, t, err) != 0            ? -1
               : !shape_equal(&t->stored->shape, shape) ? wrong_shape(c->m, t, shape, err)
                                                        : 0;
    c->n_missing++;
    if (c->length + strlen(canonical) + 3 < sizeof c->missing)
        c->length += (size_t)snprintf(c->missing + c->length, sizeof c->missing - c->length, "%s%s",
                                      c->length ? ", " : "", canonical);
    else
        c->length = sizeof c->missing; /* what follows is counted, not named */
    return 0;
}

static int check_head(const struct model_dir *m, struct err *err)
{
    const struct model_tensor *head = find(m, "lm_head.weight");
    const struct stored_tensor *embedding = model_dir_find(m, "embed_tokens.weight");

    if (!head || head->stored->data == embedding->data)
        return 0;
    if (!shape_equal(&head->stored->shape, &embedding->shape))
        return wrong_shape(m, head, &embedding->shape, err);
    if (head->stored->dtype == embedding->dtype && memcmp(head->stored->data, embedding->data, embedding->bytes) == 0)
        return 0;
    err_set(err, ERR_INPUT, "lm_head.weight differs from embed_tokens.weight, only a tied head is supported");
    err_where(err, "file \"%s\"", m->files[head->file].path);
    return err_hint(err, "All published OPT models tie the two; save the model with its head tied.");
}

static void note_extra(const struct model_dir *m)
{
    char safe[160];

    if (log_level() < LOG_VERBOSE)
        return;
    for (int i = 0; i < m->n_tensors; i++)
        if (!model_dir_uses(m, m->tensors[i].canonical))
            log_detail("tensor \"%s\" in \"%s\" is not used", log_safe(safe, sizeof safe, m->tensors[i].stored->name),
                       m->files[m->tensors[i].file].path);
}

int model_dir_check(const struct model_dir *m, struct err *err)
{
    struct checking c = { .m = m };

    if (model_names(&m->config, m->is_reward, check_one, &c, err) != 0)
        return -1;
    if (c.n_missing > 0) {
        err_set(err, ERR_INPUT, "%d of %d tensors are missing: %s%s", c.n_missing, c.n_wanted, c.missing,
                c.length == sizeof c.missing ? " and others" : "");
        err_where(err, "file \"%s\"%s", m->files[0].path, m->n_files > 1 ? " and the others of its index" : "");
        return err_hint(err, "Use the config.json that came with this checkpoint, or fetch the missing part of it.");
    }
    note_extra(m);
    return check_head(m, err);
}

static int match(void *context, const char *canonical, const struct shape *shape, struct err *err)
{
    (void)shape;
    (void)err;
    return strcmp(context, canonical) == 0;
}

bool model_dir_uses(const struct model_dir *m, const char *canonical)
{
    struct err err;

    return strcmp(canonical, "lm_head.weight") == 0 ||
           model_names(&m->config, m->is_reward, match, (void *)canonical, &err) != 0;
}

/* An exponent of ones is infinity or NaN; on bits, which compilers turn into vector code. */
static bool all_finite(const char *data, enum dtype dtype, int64_t n)
{
    uint32_t bad = 0;

    for (int64_t i = 0; i < n && dtype == F32; i++) {
        uint32_t bits;
        memcpy(&bits, data + 4 * i, 4);
        bad |= (bits & 0x7f800000u) == 0x7f800000u;
    }
    const uint32_t ones = dtype == F16 ? 0x7c00u : 0x7f80u;
    for (int64_t i = 0; i < n && (dtype == BF16 || dtype == F16); i++) {
        uint16_t bits;
        memcpy(&bits, data + 2 * i, 2);
        bad |= (bits & ones) == ones;
    }
    return bad == 0;
}

/* Where types differ, piece by piece through an aligned buffer: the file's data may lie at any address. */
static bool convert(char *dst, enum dtype to, const struct stored_tensor *t, int64_t begin, int64_t count)
{
    const size_t from_bytes = dtype_bytes(t->dtype), to_bytes = dtype_bytes(to);
    const int64_t n_chunks = (count + CHUNK - 1) / CHUNK;
    bool finite = true;

#pragma omp parallel for reduction(&& : finite)
    for (int64_t i = 0; i < n_chunks; i++) {
        _Alignas(64) unsigned char aligned[CHUNK * 8];
        const int64_t first = i * CHUNK, n = count - first < CHUNK ? count - first : CHUNK;
        const char *in = (const char *)t->data + (size_t)(begin + first) * from_bytes;
        char *out = dst + (size_t)first * to_bytes;

        if (t->dtype == to) {
            memcpy(out, in, (size_t)n * to_bytes);
        } else {
            memcpy(aligned, in, (size_t)n * from_bytes);
            dtype_convert(out, to, aligned, t->dtype, n);
        }
        finite = all_finite(out, to, n) && finite;
    }
    return finite;
}

static int wrong_count(const struct model_dir *m, const struct model_tensor *t, int64_t first, int64_t count,
                       struct err *err)
{
    err_set(err, ERR_INPUT, "tensor \"%s\" has %" PRId64 " elements, the model needs %" PRId64 " from number %" PRId64,
            t->canonical, shape_count(&t->stored->shape), count, first);
    err_where(err, "file \"%s\"", m->files[t->file].path);
    return err_hint(err, "Use the config.json that came with this checkpoint.");
}

static int not_finite(const struct model_dir *m, const struct model_tensor *t, enum dtype to, struct err *err)
{
    err_set(err, ERR_INPUT, "tensor \"%s\" holds a NaN or infinity%s", t->canonical,
            to == F16 && t->stored->dtype != F16 ? ", in fp16, which ends at 65504" : "");
    err_where(err, "file \"%s\"", m->files[t->file].path);
    return err_hint(err, "The training that wrote it diverged, or the file is damaged; use an earlier checkpoint.");
}

static int read_values(const struct model_dir *m, const struct model_tensor *t, void *dst, enum dtype to, int64_t first,
                       int64_t count, bool allow_nonfinite, struct err *err)
{
    return convert(dst, to, t->stored, first, count) || allow_nonfinite ? 0 : not_finite(m, t, to, err);
}

static const struct model_tensor *find_readable(const struct model_dir *m, const char *canonical, struct err *err)
{
    const struct model_tensor *t = find(m, canonical);

    if (t)
        return check_type(m, t, err) == 0 ? t : NULL;
    err_set(err, ERR_INPUT, "tensor \"%s\" is missing", canonical);
    err_where(err, "file \"%s\"", m->files[0].path);
    return NULL;
}

int model_dir_read_range(const struct model_dir *m, const char *canonical, void *dst, enum dtype to, int64_t first,
                         int64_t count, bool allow_nonfinite, struct err *err)
{
    const struct model_tensor *t = find_readable(m, canonical, err);

    MUST((to == F32 || to == BF16 || to == F16) && first >= 0 && count >= 0);
    if (!t)
        return -1;
    const int64_t total = shape_count(&t->stored->shape);
    if (first > total || count > total - first)
        return wrong_count(m, t, first, count, err);
    return read_values(m, t, dst, to, first, count, allow_nonfinite, err);
}

int model_dir_read(const struct model_dir *m, const char *canonical, void *dst, enum dtype to, int64_t count,
                   bool allow_nonfinite, struct err *err)
{
    const struct model_tensor *t = find_readable(m, canonical, err);

    MUST(to == F32 || to == BF16 || to == F16);
    if (!t)
        return -1;
    if (count != shape_count(&t->stored->shape))
        return wrong_count(m, t, 0, count, err);
    return read_values(m, t, dst, to, 0, count, allow_nonfinite, err);
}

const void *model_dir_mapped(const struct model_dir *m, const char *canonical, enum dtype type,
                             const struct shape *shape)
{
    const struct model_tensor *t = find(m, canonical);

    if (!t || m->files[t->file].is_torch || t->stored->dtype != type || !shape_equal(&t->stored->shape, shape) ||
        (uintptr_t)t->stored->data % dtype_bytes(type) != 0)
        return NULL;
    return t->stored->data;
}

int model_dir_check_finite(const struct model_dir *m, const char *canonical, struct err *err)
{
    const struct model_tensor *t = find_readable(m, canonical, err);

    if (!t)
        return -1;
    const int64_t count = shape_count(&t->stored->shape), n_chunks = (count + CHUNK - 1) / CHUNK;
    const size_t size = dtype_bytes(t->stored->dtype);
    bool finite = true;

#pragma omp parallel for reduction(&& : finite)
    for (int64_t i = 0; i < n_chunks; i++) {
        const int64_t first = i * CHUNK, n = count - first < CHUNK ? count - first : CHUNK;
        finite = all_finite((const char *)t->stored->data + (size_t)first * size, t->stored->dtype, n) && finite;
    }
    return finite ? 0 : not_finite(m, t, t->stored->dtype, err);
}

int model_dir_check_unchanged(const struct model_dir *m, struct err *err)
{
    for (int i = 0; i < m->n_files; i++) {
        if (m->files[i].is_torch || file_map_is_unchanged(&m->files[i].safetensors.map))
            continue;
        err_set(err, ERR_RUN, "the model's file \"%s\" was written to while the run used it", m->files[i].path);
        return err_hint(err, "What was computed since may be wrong. Leave the file alone while a run maps it, or go "
                             "without --map_frozen.");
    }
    return 0;
}

static const char *full_prefix(const char *canonical, bool reward)
{
    if (strcmp(canonical, "v_head.weight") == 0)
        return "";
    return reward ? "rwtransformer.decoder." : "model.decoder.";
}

/* The configuration with the architecture's name in it. */
static int save_config(const char *dir, const struct hf_config *c, enum dtype dtype, bool reward, struct err *err)
{
    struct hf_config named = *c;
    json_t *architectures = json_pack("[s]", reward ? "OPTModel" : "OPTForCausalLM");
    int result = -1;

    named.raw = c->raw ? json_copy(c->raw) : json_object();
    if (json_object_set_new(named.raw, "architectures", architectures) != 0 ||
        (!json_object_get(named.raw, "model_type") &&
         json_object_set_new(named.raw, "model_type", json_string("opt")) != 0))
        err_set(err, ERR_MEMORY, "could not make the configuration for \"%s\"", dir);
    else
        result = hf_config_save(&named, dir, dtype, err);
    json_decref(named.raw);
    return result;
}

/* Full names, all in one block of n * NAME_MAX_BYTES. */
static void rename_all(const struct stored_tensor *tensors, int n, bool reward, struct stored_tensor *out, char *names)
{
    for (int i = 0; i < n; i++) {
        char *name = names + (size_t)i * NAME_MAX_BYTES;

        MUST(snprintf(name, NAME_MAX_BYTES, "%s%s", full_prefix(tensors[i].name, reward), tensors[i].name) <
             NAME_MAX_BYTES);
        MUST(tensors[i].dtype == tensors[0].dtype);
        out[i] = tensors[i];
        out[i].name = name;
    }
}

int model_dir_save_from(const char *dir, const struct hf_config *c, const struct stored_tensor *tensors, int n,
                        bool reward, const struct tensor_source *source, struct err *err)
{
    char path[FILE_PATH_MAX];
    char *names = mem_array(n, NAME_MAX_BYTES, 1, MEM_STORE, err);
    struct stored_tensor *renamed = names ? mem_array(n, 1, sizeof *renamed, MEM_STORE, err) : NULL;
    int result = -1;

    MUST(n > 0);
    if (renamed && file_make_dir(dir, err) == 0 && file_join(path, dir, "model.safetensors", err) == 0) {
        rename_all(tensors, n, reward, renamed, names);
        result = safetensors_save_from(path, renamed, n, source, err);
    }
    if (result == 0)
        result = save_config(dir, c, tensors[0].dtype, reward, err);
    mem_free(renamed);
    mem_free(names);
    return result;
}

int model_dir_save(const char *dir, const struct hf_config *c, const struct stored_tensor *tensors, int n, bool reward,
                   struct err *err)
{
    return model_dir_save_from(dir, c, tensors, n, reward, NULL, err);
}
