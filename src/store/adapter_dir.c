/* Names are those of PyTorch's modules: what PEFT wraps is called base_layer, and what it was asked to train beside adapters has
 * its own name. */
#include "store/adapter_dir.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"

#define NAME_MAX_BYTES 128
#define OUTER "base_model.model."
#define BASE ".base_layer."

static int by_name(const void *a, const void *b)
{
    const struct model_tensor *x = a, *y = b;

    return strcmp(x->canonical, y->canonical);
}

static int bad_name(const char *name, const char *path, struct err *err)
{
    char safe[160];

    err_set(err, ERR_INPUT, "the name of tensor \"%s\" is not of an adapter's form", log_safe(safe, sizeof safe, name));
    err_where(err, "file \"%s\"", path);
    return err_hint(err, "Names begin with " OUTER "model.decoder., as PEFT saves them.");
}

/* "base_model.model.model.decoder.layers.0.fc1.base_layer.bias" -> "layers.0.fc1.bias" */
static int name_tensor(const char *stored, char out[NAME_MAX_BYTES], bool *reward, const char *path, struct err *err)
{
    const bool outer = strncmp(stored, OUTER, strlen(OUTER)) == 0;
    const char *inner = stored + (outer ? strlen(OUTER) : 0), *canonical = model_dir_canonical(inner);
    const char *base = strstr(canonical, BASE);
    const bool head = strcmp(canonical, "v_head.weight") == 0;

    if (!outer || (canonical == inner && !head) || strlen(canonical) >= NAME_MAX_BYTES)
        return bad_name(stored, path, err);
    *reward = *reward || head || strncmp(inner, "rw", 2) == 0;
    if (base)
        snprintf(out, NAME_MAX_BYTES, "%.*s.%s", (int)(base - canonical), canonical, base + strlen(BASE));
    else
        snprintf(out, NAME_MAX_BYTES, "%s", canonical);
    return 0;
}

static int list(struct model_dir *m, struct err *err)
{
    const struct model_file *f = &m->files[0];
    const int n = f->safetensors.n_tensors;

    m->names = mem_array(n, NAME_MAX_BYTES, 1, MEM_STORE, err);
    m->tensors = m->names ? mem_array(n, 1, sizeof *m->tensors, MEM_STORE, err) : NULL;
    if (!m->tensors)
        return -1;
    for (int i = 0; i < n; i++) {
        char *name = m->names + (size_t)i * NAME_MAX_BYTES;
        if (name_tensor(f->safetensors.tensors[i].name, name, &m->is_reward, f->path, err) != 0)
            return -1;
        m->tensors[m->n_tensors++] = (struct model_tensor){ name, &f->safetensors.tensors[i], 0 };
    }
    if (n > 0)
        qsort(m->tensors, (size_t)n, sizeof *m->tensors, by_name);
    for (int i = 1; i < n; i++)
        if (strcmp(m->tensors[i].canonical, m->tensors[i - 1].canonical) == 0)
            return bad_name(m->tensors[i].stored->name, f->path, err);
    return 0;
}

static int open_file(struct model_dir *m, const char *dir, struct err *err)
{
    char path[FILE_PATH_MAX];

    if (file_join(path, dir, "adapter_model.safetensors", err) != 0)
        return -1;
    if (!file_exists(path)) {
        err_set(err, ERR_INPUT, "there is no adapter_model.safetensors in \"%s\"", dir);
        return err_hint(err,
                        "Name a folder that PEFT or tuneup has saved, such as OUTPUT/adapter; an adapter_model.bin "
                        "must be saved as safetensors first.");
    }
    m->files = mem_array(1, 1, sizeof *m->files, MEM_STORE, err);
    if (!m->files)
        return -1;
    m->n_files = 1;
    m->files[0] = (struct model_file){ .safetensors.map.slot = -1, .path = mem_strdup(path, MEM_STORE, err) };
    return m->files[0].path ? safetensors_open(&m->files[0].safetensors, path, err) : -1;
}

int adapter_dir_open(struct model_dir *m, const char *dir, struct err *err)
{
    *m = (struct model_dir){ 0 };
    if (open_file(m, dir, err) == 0 && list(m, err) == 0)
        return 0;
    model_dir_close(m);
    return -1;
}

/* ---- writing ---- */

static bool is_bias(const char *canonical, char layer[NAME_MAX_BYTES])
{
    const size_t n = strlen(canonical), tail = strlen(".bias");

    if (n <= tail || n >= NAME_MAX_BYTES || strcmp(canonical + n - tail, ".bias") != 0)
        return false;
    snprintf(layer, NAME_MAX_BYTES, "%.*s", (int)(n - tail), canonical);
    return true;
}

int adapter_dir_save(const char *dir, const json_t *config, const struct stored_tensor *tensors, int n, bool reward,
                     bool (*adapted)(const void *context, const char *layer), const void *context,
                     const struct tensor_source *source, struct err *err)
{
    const char *inner = reward ? "rwtransformer.decoder." : "model.decoder.";
    char path[FILE_PATH_MAX], layer[NAME_MAX_BYTES];
    char *names = mem_array(n, 2 * NAME_MAX_BYTES, 1, MEM_STORE, err);
    struct stored_tensor *named = names ? mem_array(n, 1, sizeof *named, MEM_STORE, err) : NULL;
    int result = named ? file_make_dir(dir, err) : -1;

    for (int i = 0; i < n && result == 0; i++) {
        const char *canonical = tensors[i].name;
        char *name = names + (size_t)i * 2 * NAME_MAX_BYTES;
        const bool wrapped = is_bias(canonical, layer) && adapted(context, layer);
        named[i] = tensors[i];
        named[i].name = name;
        if (wrapped)
            snprintf(name, 2 * NAME_MAX_BYTES, OUTER "%s%s" BASE "bias", inner, layer);
        else
            snprintf(name, 2 * NAME_MAX_BYTES, OUTER "%s%s", strcmp(canonical, "v_head.weight") == 0 ? "" : inner,
                     canonical);
    }
    if (result == 0)
        result = file_join(path, dir, "adapter_model.safetensors", err);
    if (result == 0)
        result = safetensors_save_from(path, named, n, source, err);
    if (result == 0)
        result = file_join(path, dir, "adapter_config.json", err);
    if (result == 0)
        result = json_write(path, config, JSON_INDENT(2), err);
    mem_free(named);
    mem_free(names);
    return result;
}
