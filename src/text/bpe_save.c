/* struct bpe -> the four files that make a folder readable by this program and by Hugging Face's tokenizers. What
 * tokenizer_config.json held is kept; only what is missing there is added. */
#include "text/bpe.h"

#include <inttypes.h>
#include <stdio.h>

#include "base/file.h"
#include "base/mem.h"

/* Takes value; false if memory ran out. */
static bool put(json_t *object, const char *key, json_t *value)
{
    return json_object_set_new(object, key, value) == 0;
}

static json_t *text_of(const struct bpe *b, int32_t id)
{
    const struct span s = strings_get(&b->vocab.texts, id);

    return json_stringn(s.s, s.n);
}

static int write_json(const char *dir, const char *name, json_t *value, bool complete, size_t flags, struct err *err)
{
    char path[FILE_PATH_MAX];
    int failed = -1;

    if (!value || !complete)
        err_set(err, ERR_MEMORY, "could not allocate what \"%s\" is written from", name);
    else if (file_join(path, dir, name, err) == 0)
        failed = json_write(path, value, flags, err);
    json_decref(value);
    return failed;
}

static int save_vocab(const struct bpe *b, const char *dir, struct err *err)
{
    json_t *vocab = json_object();
    bool complete = vocab != NULL;

    for (int32_t id = 0; complete && id < b->vocab.n_ids; id++) {
        const struct span s = strings_get(&b->vocab.texts, id);
        complete = s.n == 0 || json_object_setn_new(vocab, s.s, s.n, json_integer(id)) == 0;
    }
    return write_json(dir, "vocab.json", vocab, complete, 0, err);
}

static int save_merges(const struct bpe *b, const char *dir, struct err *err)
{
    char path[FILE_PATH_MAX];
    struct file_out out;

    if (file_join(path, dir, "merges.txt", err) != 0 || file_out_open(&out, path, err) != 0)
        return -1;
    bool written = fputs("#version: 0.2\n", out.stream) >= 0;
    for (int32_t i = 0; written && i < b->vocab.n_merges; i++) {
        const struct span l = strings_get(&b->vocab.texts, b->vocab.merges[i][0]);
        const struct span r = strings_get(&b->vocab.texts, b->vocab.merges[i][1]);
        written = fprintf(out.stream, "%.*s %.*s\n", (int)l.n, l.s, (int)r.n, r.s) > 0;
    }
    if (written)
        return file_out_commit(&out, err);
    err_errno(err, "could not write \"%s\"", path);
    file_out_abort(&out);
    return -1;
}

static bool put_roles(json_t *object, const struct bpe *b)
{
    return put(object, "bos_token", text_of(b, b->bos)) && put(object, "eos_token", text_of(b, b->eos)) &&
           put(object, "unk_token", text_of(b, b->unk)) && put(object, "pad_token", text_of(b, b->pad));
}

/* Every special token with its id: added_tokens_decoder. */
static json_t *specials_json(const struct bpe *b)
{
    json_t *object = json_object();
    bool complete = object != NULL;

    for (int i = 0; complete && i < b->n_specials; i++) {
        char id[16];
        snprintf(id, sizeof id, "%" PRId32, b->specials[i].id);
        json_t *token = json_pack("{s:o, s:b, s:b, s:b, s:b, s:b}", "content", text_of(b, b->specials[i].id), "lstrip",
                                  0, "normalized", 0, "rstrip", 0, "single_word", 0, "special", 1);
        complete = put(object, id, token);
    }
    if (complete)
        return object;
    json_decref(object);
    return NULL;
}

static int save_config(const struct bpe *b, const char *dir, struct err *err)
{
    json_t *config = json_object(), *specials = specials_json(b);
    bool complete = config && specials && put_roles(config, b) &&
                    put(config, "add_bos_token", json_boolean(b->add_bos)) &&
                    put(config, "add_prefix_space", json_false()) && put(config, "errors", json_string("replace")) &&
                    put(config, "tokenizer_class", json_string("GPT2Tokenizer"));

    complete = complete && (!b->config || json_object_update(config, b->config) == 0) && put_roles(config, b) &&
               json_object_set(config, "added_tokens_decoder", specials) == 0;
    json_decref(specials);
    return write_json(dir, "tokenizer_config.json", config, complete, JSON_INDENT(2), err);
}

static int save_special_map(const struct bpe *b, const char *dir, struct err *err)
{
    json_t *map = json_object();
    const bool complete = map && put_roles(map, b);

    return write_json(dir, "special_tokens_map.json", map, complete, JSON_INDENT(2), err);
}

int bpe_save_files(const struct bpe *b, const char *dir, struct err *err)
{
    return save_vocab(b, dir, err) != 0 || save_merges(b, dir, err) != 0 || save_config(b, dir, err) != 0 ||
                   save_special_map(b, dir, err) != 0
               ? -1
               : 0;
}
