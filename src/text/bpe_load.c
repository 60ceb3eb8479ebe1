/* Tokenizer files -> struct bpe. First every token and its id is collected from wherever it is declared, then the
 * tables are made once, then the merges and the special tokens are looked up in them. Whatever would make ids differ
 * from the reference tokenizer's, without being supported here, is refused by name. */
#include "text/bpe.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "text/unicode.h"

#define MAX_FILE_BYTES ((size_t)256 << 20)

struct added { /* a token declared outside the vocabulary proper */
    struct span text;
    int32_t id; /* -1: the vocabulary must have it */
    const char *file;
};

struct load {
    const struct bpe_files *files;
    json_t *vocab, *tokenizer, *config, *special, *added_json; /* roots, owned; NULL = absent */
    struct added *added;
    int32_t n_added;
    struct span *texts; /* [n_ids] */
    bool *literal; /* [n_ids] added tokens */
    bool *special_ids; /* [n_ids] what b->specials holds already */
    int32_t n_ids;
    struct bpe *b;
};

static const char *const roles[] = { "bos_token", "eos_token", "unk_token", "pad_token" };

static int bad(const char *file, struct err *err)
{
    err->code = ERR_INPUT;
    return err_where(err, "file \"%s\"", file);
}

static int parse_root(json_t **root, const struct bpe_file *f, struct err *err)
{
    if (!f->text)
        return 0;
    *root = json_parse(f->text, f->n, f->name, 1, err);
    if (!*root)
        return -1;
    if (json_is_object(*root))
        return 0;
    err_set(err, ERR_INPUT, "the file is not a JSON object");
    return bad(f->name, err);
}

static int refuse(const char *file, const char *key, const char *why, struct err *err)
{
    err_set(err, ERR_INPUT, "the tokenizer's \"%s\" %s", key, why);
    err_where(err, "file \"%s\"", file);
    return err_hint(err, "tuneup reads byte-level BPE tokenizers in OPT's form.");
}

static bool is_off(const json_t *v)
{
    return !v || json_is_null(v) || json_is_false(v) || (json_is_string(v) && json_string_length(v) == 0) ||
           (json_is_number(v) && json_number_value(v) == 0);
}

/* tokenizer.json can describe any tokenizer; only GPT-2's is taken. */
static int check_tokenizer(const json_t *root, const char *file, struct err *err)
{
    static const char *const off[] = { "dropout", "continuing_subword_prefix", "end_of_word_suffix", "byte_fallback",
                                       "ignore_merges" };
    const json_t *model = json_object_get(root, "model"), *pre = json_object_get(root, "pre_tokenizer");
    const char *type = json_string_value(json_object_get(model, "type"));
    const char *pre_type = json_string_value(json_object_get(pre, "type"));

    if (type && strcmp(type, "BPE") != 0)
        return refuse(file, "model.type", "is not BPE", err);
    if (!json_is_object(json_object_get(model, "vocab")))
        return refuse(file, "model.vocab", "is not there, or no object", err);
    if (!json_is_array(json_object_get(model, "merges")))
        return refuse(file, "model.merges", "is not there, or no list", err);
    for (int i = 0; i < COUNT_OF(off); i++)
        if (!is_off(json_object_get(model, off[i])))
            return refuse(file, off[i], "is in use, which is not supported", err);
    if (!is_off(json_object_get(root, "normalizer")))
        return refuse(file, "normalizer", "is in use, which is not supported", err);
    if (!pre_type || strcmp(pre_type, "ByteLevel") != 0)
        return refuse(file, "pre_tokenizer", "is not ByteLevel", err);
    if (json_object_get(pre, "use_regex") && !json_is_true(json_object_get(pre, "use_regex")))
        return refuse(file, "use_regex", "is off, which is not supported", err);
    if (!json_is_false(json_object_get(pre, "add_prefix_space")))
        return refuse(file, "add_prefix_space", "is not false, which is not supported", err);
    return 0;
}

static int read_config(struct load *l, struct err *err)
{
    const char *file = l->files->config.name;
    bool prefix = false;

    l->b->add_bos = true;
    if (!l->config)
        return 0;
    if (json_get_bool(l->config, file, "add_bos_token", &l->b->add_bos, err) < 0 ||
        json_get_bool(l->config, file, "add_prefix_space", &prefix, err) < 0)
        return -1;
    if (prefix)
        return refuse(file, "add_prefix_space", "is true, which is not supported", err);
    l->b->config = json_incref(l->config);
    return 0;
}

static int add(struct load *l, struct span text, int64_t id, const char *file, struct err *err)
{
    if (text.n == 0 || id < -1 || id >= VOCAB_MAX_IDS) {
        char safe[SPAN_SHOWN];
        err_set(err, ERR_INPUT, "the added token \"%s\" has the id %" PRId64 ", it must %s", span_shown(text, safe), id,
                text.n == 0 ? "have characters" : "be below 4194304 and not negative");
        return bad(file, err);
    }
    if ((l->n_added & (l->n_added - 1)) == 0) { /* full at 0, 1, 2, 4, ... */
        struct added *more = mem_resize(l->added, l->n_added ? 2 * l->n_added : 1, sizeof *more, MEM_TEXT, err);
        if (!more)
            return -1;
        l->added = more;
    }
    l->added[l->n_added++] = (struct added){ text, (int32_t)id, file };
    return 0;
}

/* The text of a token that is given as a string, or as an object with "content". */
static int token_text(const json_t *v, const char *key, const char *file, struct span *out, struct err *err)
{
    static const char *const flags[] = { "lstrip", "rstrip", "single_word" };

    if (json_is_object(v)) {
        for (int i = 0; i < COUNT_OF(flags); i++)
            if (!is_off(json_object_get(v, flags[i])))
                return refuse(file, flags[i], "is set for an added token, which is not supported", err);
        v = json_object_get(v, "content");
    }
    if (!json_is_string(v))
        return refuse(file, key, "is neither a string nor an object with \"content\"", err);
    *out = (struct span){ json_string_value(v), json_string_length(v) };
    return 0;
}

static int add_value(struct load *l, const json_t *v, const char *key, int64_t id, const char *file, struct err *err)
{
    struct span text;

    return token_text(v, key, file, &text, err) != 0 ? -1 : add(l, text, id, file, err);
}

static int add_from_tokenizer(struct load *l, struct err *err)
{
    const json_t *list = json_object_get(l->tokenizer, "added_tokens");
    const char *file = l->files->tokenizer.name;

    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i), *id = json_object_get(v, "id");
        if (!json_is_integer(id) || json_integer_value(id) < 0)
            return refuse(file, "added_tokens", "has a token without an id", err);
        if (add_value(l, v, "added_tokens", json_integer_value(id), file, err) != 0)
            return -1;
    }
    return 0;
}

static int add_from_config(struct load *l, struct err *err)
{
    json_t *decoder = json_object_get(l->config, "added_tokens_decoder"), *v;
    const char *file = l->files->config.name, *key;

    json_object_foreach(decoder, key, v)
    {
        char *end;
        const long long id = strtoll(key, &end, 10);
        if (*key < '0' || *key > '9' || *end)
            return refuse(file, "added_tokens_decoder", "has a key that is no id", err);
        if (add_value(l, v, "added_tokens_decoder", id, file, err) != 0)
            return -1;
    }
    json_object_foreach(l->added_json, key, v)
    {
        char safe[SPAN_SHOWN];
        if (!json_is_integer(v) || json_integer_value(v) < 0)
            return refuse(l->files->added.name, span_shown((struct span){ key, strlen(key) }, safe), "has no id", err);
        if (add(l, (struct span){ key, strlen(key) }, json_integer_value(v), l->files->added.name, err) != 0)
            return -1;
    }
    return 0;
}

static int add_list(struct load *l, const json_t *root, const char *file, struct err *err)
{
    static const char key[] = "additional_special_tokens";
    const json_t *list = json_object_get(root, key);

    for (size_t i = 0; i < json_array_size(list); i++)
        if (add_value(l, json_array_get(list, i), key, -1, file, err) != 0)
            return -1;
    return 0;
}

/* The declared token of a role, n = 0 if there is none. special_tokens_map.json is the older file: it counts unless
 * tokenizer_config.json is of the newer form, with added_tokens_decoder, or alone declares the role. */
static int role_text(const struct load *l, const char *role, struct span *out, const char **file, struct err *err)
{
    const json_t *config = json_object_get(l->config, role), *special = json_object_get(l->special, role);
    const bool newer = json_object_get(l->config, "added_tokens_decoder") != NULL;
    const bool use_config = config && !json_is_null(config) && (newer || !special || json_is_null(special));
    const json_t *v = use_config ? config : special;

    *out = (struct span){ 0 };
    *file = use_config ? l->files->config.name : l->files->special.name;
    return !v || json_is_null(v) ? 0 : token_text(v, role, *file, out, err);
}

static int collect_added(struct load *l, struct err *err)
{
    if (add_from_tokenizer(l, err) != 0 || add_from_config(l, err) != 0 ||
        add_list(l, l->config, l->files->config.name, err) != 0 ||
        add_list(l, l->special, l->files->special.name, err) != 0)
        return -1;
    for (int i = 0; i < COUNT_OF(roles); i++) {
        struct span text;
        const char *file;
        if (role_text(l, roles[i], &text, &file, err) != 0 || (text.n && add(l, text, -1, file, err) != 0))
            return -1;
    }
    return 0;
}

static int place(struct load *l, int32_t id, struct span text, const char *file, struct err *err)
{
    struct span *have = &l->texts[id];
    char a[SPAN_SHOWN], b[SPAN_SHOWN];

    if (have->n && (have->n != text.n || memcmp(have->s, text.s, text.n) != 0)) {
        err_set(err, ERR_INPUT, "id %d belongs to two tokens, \"%s\" and \"%s\"", id, span_shown(*have, a),
                span_shown(text, b));
        return bad(file, err);
    }
    *have = text;
    return 0;
}

static const char *vocab_name(const struct load *l)
{
    return l->vocab ? l->files->vocab.name : l->files->tokenizer.name;
}

static int check_ids(struct load *l, json_t *vocab, struct err *err)
{
    const char *key;
    json_t *v;

    json_object_foreach(vocab, key, v)
    {
        char safe[SPAN_SHOWN];
        if (!json_is_integer(v) || json_integer_value(v) < 0 || json_integer_value(v) >= VOCAB_MAX_IDS || !*key) {
            err_set(err, ERR_INPUT, "the token \"%s\" has no id from 0 to %d",
                    span_shown((struct span){ key, strlen(key) }, safe), VOCAB_MAX_IDS - 1);
            return bad(vocab_name(l), err);
        }
        const int32_t id = (int32_t)json_integer_value(v);
        l->n_ids = id >= l->n_ids ? id + 1 : l->n_ids;
    }
    for (int32_t i = 0; i < l->n_added; i++)
        l->n_ids = l->added[i].id >= l->n_ids ? l->added[i].id + 1 : l->n_ids;
    const size_t n = json_object_size(vocab) + (size_t)l->n_added;
    if ((size_t)l->n_ids > 4 * n + 1024) { /* memory goes with the largest id: it must be of the order of the tokens */
        err_set(err, ERR_INPUT, "the largest id is %d, but there are only %zu tokens", l->n_ids - 1, n);
        return bad(vocab_name(l), err);
    }
    return 0;
}

static int collect_tokens(struct load *l, struct err *err)
{
    json_t *vocab = l->vocab ? l->vocab : json_object_get(json_object_get(l->tokenizer, "model"), "vocab"), *v;
    const char *key;

    if (check_ids(l, vocab, err) != 0)
        return -1;
    l->texts = mem_array(l->n_ids, 1, sizeof *l->texts, MEM_TEXT, err);
    l->literal = l->texts ? mem_array(l->n_ids, 1, sizeof *l->literal, MEM_TEXT, err) : NULL;
    l->special_ids = l->literal ? mem_array(l->n_ids, 1, sizeof *l->special_ids, MEM_TEXT, err) : NULL;
    if (!l->special_ids)
        return -1;
    json_object_foreach(vocab, key, v) if (place(l, (int32_t)json_integer_value(v), (struct span){ key, strlen(key) },
                                                 vocab_name(l), err) != 0) return -1;
    for (int32_t i = 0; i < l->n_added; i++) {
        const struct added *a = &l->added[i];
        if (a->id < 0)
            continue;
        if (place(l, a->id, a->text, a->file, err) != 0)
            return -1;
        l->literal[a->id] = true;
    }
    return 0;
}

/* One line of merges.txt, without its end. */
static int parse_merge(struct vocab *v, const char *s, size_t n, struct err *err)
{
    const char *space = memchr(s, ' ', n);
    const size_t left = space ? (size_t)(space - s) : 0;

    if (unicode_check(s, n) != n)
        return err_set(err, ERR_INPUT, "the line is not valid UTF-8");
    if (left == 0 || left + 1 == n || memchr(space + 1, ' ', n - left - 1))
        return err_set(err, ERR_INPUT, "a merge must be two tokens with one space between");
    return vocab_add_merge(v, (struct span){ s, left }, (struct span){ space + 1, n - left - 1 }, err);
}

static int merges_from_text(struct load *l, struct err *err)
{
    const char *s = l->files->merges.text, *end = s + l->files->merges.n;

    for (int64_t line = 1; s < end; line++) {
        const char *stop = memchr(s, '\n', (size_t)(end - s)), *next = stop ? stop + 1 : end;
        size_t n = (size_t)((stop ? stop : end) - s);

        n -= n > 0 && s[n - 1] == '\r';
        const bool comment = line == 1 && n >= 8 && memcmp(s, "#version", 8) == 0;
        if (n > 0 && !comment && parse_merge(&l->b->vocab, s, n, err) != 0)
            return err_where(err, "file \"%s\", line %" PRId64, l->files->merges.name, line);
        s = next;
    }
    return 0;
}

static int merges_from_list(struct load *l, const json_t *list, struct err *err)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *m = json_array_get(list, i), *a = json_array_get(m, 0), *b = json_array_get(m, 1);
        int failed;

        if (json_is_string(m))
            failed = parse_merge(&l->b->vocab, json_string_value(m), json_string_length(m), err);
        else if (json_array_size(m) == 2 && json_is_string(a) && json_is_string(b))
            failed = vocab_add_merge(&l->b->vocab, (struct span){ json_string_value(a), json_string_length(a) },
                                     (struct span){ json_string_value(b), json_string_length(b) }, err);
        else
            failed = err_set(err, ERR_INPUT, "a merge must be a string, or a list of two strings");
        if (failed)
            return err_where(err, "file \"%s\", merge %zu", l->files->tokenizer.name, i + 1);
    }
    return 0;
}

static int make_vocab(struct load *l, struct err *err)
{
    const json_t *list = json_object_get(json_object_get(l->tokenizer, "model"), "merges");
    const struct bpe_file *merges = &l->files->merges;
    size_t n = 1;

    for (size_t i = 0; l->vocab && i < merges->n; i++)
        n += merges->text[i] == '\n';
    if (!l->vocab)
        n = json_array_size(list);
    if (n > VOCAB_MAX_IDS) {
        err_set(err, ERR_INPUT, "there are %zu merges, at most %d are accepted", n, VOCAB_MAX_IDS);
        return bad(l->vocab ? merges->name : l->files->tokenizer.name, err);
    }
    if (vocab_init(&l->b->vocab, l->texts, l->literal, l->n_ids, (int32_t)n, err) != 0)
        return err->code == ERR_INPUT ? bad(vocab_name(l), err) : -1;
    return l->vocab ? merges_from_text(l, err) : merges_from_list(l, list, err);
}

static int longer_first(const void *a, const void *b)
{
    const struct bpe_special *x = a, *y = b;

    return x->text.n != y->text.n ? (x->text.n < y->text.n ? 1 : -1) : (x->id > y->id) - (x->id < y->id);
}

static void add_special(struct load *l, int32_t id)
{
    struct bpe *b = l->b;
    const struct span text = strings_get(&b->vocab.texts, id);

    if (l->special_ids[id])
        return;
    l->special_ids[id] = true;
    b->special_first[(unsigned char)text.s[0]] = true;
    b->specials[b->n_specials++] = (struct bpe_special){ text, id };
}

/* The id of a role, or of its usual name where the files do not say; -1 = no such token. */
static int role_id(struct load *l, const char *role, const char *usual, int32_t *id, struct err *err)
{
    struct span text;
    const char *file;

    if (role_text(l, role, &text, &file, err) != 0)
        return -1;
    if (text.n == 0)
        text = (struct span){ usual, strlen(usual) };
    *id = strings_find(&l->b->vocab.texts, text.s, text.n);
    if (*id >= 0)
        add_special(l, *id);
    return 0;
}

static int find_specials(struct load *l, struct err *err)
{
    struct bpe *b = l->b;

    b->specials = mem_array((int64_t)l->n_added + COUNT_OF(roles), 1, sizeof *b->specials, MEM_TEXT, err);
    if (!b->specials)
        return -1;
    for (int32_t i = 0; i < l->n_added; i++) {
        const struct added *a = &l->added[i];
        const int32_t id = strings_find(&b->vocab.texts, a->text.s, a->text.n);
        char safe[SPAN_SHOWN];
        if (id < 0) {
            err_set(err, ERR_INPUT, "the special token \"%s\" is not in the vocabulary", span_shown(a->text, safe));
            return bad(a->file, err);
        }
        add_special(l, id);
    }
    if (role_id(l, "bos_token", "</s>", &b->bos, err) != 0 || role_id(l, "eos_token", "</s>", &b->eos, err) != 0 ||
        role_id(l, "unk_token", "</s>", &b->unk, err) != 0 || role_id(l, "pad_token", "<pad>", &b->pad, err) != 0)
        return -1;
    if (b->bos < 0 || b->eos < 0) {
        err_set(err, ERR_INPUT, "the vocabulary has no \"</s>\", and no file names another bos_token and eos_token");
        return bad(vocab_name(l), err);
    }
    b->unk = b->unk < 0 ? b->eos : b->unk;
    b->pad = b->pad < 0 ? b->eos : b->pad;
    qsort(b->specials, (size_t)b->n_specials, sizeof *b->specials, longer_first);
    return 0;
}

static int load_all(struct load *l, struct err *err)
{
    const struct bpe_files *f = l->files;

    if (f->vocab.text ? parse_root(&l->vocab, &f->vocab, err) : parse_root(&l->tokenizer, &f->tokenizer, err))
        return -1;
    if (parse_root(&l->config, &f->config, err) != 0 || parse_root(&l->special, &f->special, err) != 0 ||
        parse_root(&l->added_json, &f->added, err) != 0)
        return -1;
    if (l->tokenizer && check_tokenizer(l->tokenizer, f->tokenizer.name, err) != 0)
        return -1;
    if (read_config(l, err) != 0 || collect_added(l, err) != 0 || collect_tokens(l, err) != 0 ||
        make_vocab(l, err) != 0 || find_specials(l, err) != 0 || pieces_open(&l->b->pieces, err) != 0)
        return -1;
    l->b->whole = mem_array(l->n_ids, 1, sizeof *l->b->whole, MEM_TEXT, err);
    return l->b->whole ? 0 : -1;
}

int bpe_parse(struct bpe **out, const struct bpe_files *files, struct err *err)
{
    struct load l = { .files = files, .b = mem_array(1, 1, sizeof *l.b, MEM_TEXT, err) };
    const int failed = !l.b || load_all(&l, err) != 0;

    json_decref(l.vocab);
    json_decref(l.tokenizer);
    json_decref(l.config);
    json_decref(l.special);
    json_decref(l.added_json);
    mem_free(l.added);
    mem_free(l.texts);
    mem_free(l.literal);
    mem_free(l.special_ids);
    if (failed)
        bpe_close(l.b);
    *out = failed ? NULL : l.b;
    return failed ? -1 : 0;
}

struct open_file {
    const char *name;
    struct bpe_file *file;
    char path[FILE_PATH_MAX];
};

static int read_file(struct open_file *o, const char *dir, bool needed, struct err *err)
{
    if (file_join(o->path, dir, o->name, err) != 0)
        return -1;
    if (!needed && !file_exists(o->path))
        return 0;
    o->file->name = o->path;
    o->file->text = file_read(o->path, MAX_FILE_BYTES, &o->file->n, err);
    return o->file->text ? 0 : -1;
}

static bool has(const char *dir, const char *name)
{
    char path[FILE_PATH_MAX];
    struct err ignored;

    return file_join(path, dir, name, &ignored) == 0 && file_exists(path);
}

static int no_files(const char *dir, struct err *err)
{
    err_set(err, ERR_INPUT, "no tokenizer: vocab.json with merges.txt, or tokenizer.json, is needed");
    err_where(err, "folder \"%s\"", dir);
    return err_hint(err, "Copy the files that came with the model there, or make some with tuneup tokenizer train.");
}

int bpe_open(struct bpe **out, const char *model_dir, struct err *err)
{
    struct bpe_files f = { 0 };
    struct open_file files[] = { { "vocab.json", &f.vocab, "" },
                                 { "merges.txt", &f.merges, "" },
                                 { "tokenizer.json", &f.tokenizer, "" },
                                 { "tokenizer_config.json", &f.config, "" },
                                 { "special_tokens_map.json", &f.special, "" },
                                 { "added_tokens.json", &f.added, "" } };
    const bool pair = has(model_dir, "vocab.json") && has(model_dir, "merges.txt");
    const bool needed[] = { pair, pair, !pair, false, false, false };
    int failed = 0;

    *out = NULL;
    if (!pair && !has(model_dir, "tokenizer.json"))
        return no_files(model_dir, err);
    for (int i = 0; !failed && i < COUNT_OF(files); i++)
        if (i > 2 || needed[i])
            failed = read_file(&files[i], model_dir, needed[i], err);
    if (!failed)
        failed = bpe_parse(out, &f, err);
    for (int i = 0; i < COUNT_OF(files); i++)
        mem_free((char *)files[i].file->text);
    return failed;
}
