/* "tuneup model new" makes a model folder of a published size with random weights, so that every other command can be
 * tried without downloading anything; "tuneup model info" shows what a folder holds and what is wrong with it. */
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "cli/command.h"
#include "store/model_dir.h"
#include "store/model_init.h"
#include "text/bpe.h"

#define MAX_PROBLEMS 32

struct new_options {
    const char *size, *tokenizer;
    int64_t vocab_size, hidden_size, n_layers, n_heads, ffn_dim, word_embed_proj_dim, max_positions, seed;
    int dtype;
    bool value_head, json;
};

static struct new_options wish;

static const struct option new_table[] = {
    { .name = "size",
      .type = OPTION_STRING,
      .offset = offsetof(struct new_options, size),
      .value = "SIZE",
      .help = "opt-tiny, opt-125m, opt-350m, opt-1.3b, opt-2.7b, opt-6.7b, opt-13b, opt-30b or opt-66b" },
    { .name = "tokenizer",
      .type = OPTION_STRING,
      .offset = offsetof(struct new_options, tokenizer),
      .value = "DIR",
      .help = "copy the tokenizer of this folder, and take the vocabulary's size from it" },
    { .name = "dtype",
      .type = OPTION_CHOICE,
      .offset = offsetof(struct new_options, dtype),
      .choices = "fp32|bf16|fp16",
      .fallback = "fp32",
      .help = "the type of the stored weights" },
    { .name = "seed",
      .type = OPTION_INT,
      .offset = offsetof(struct new_options, seed),
      .fallback = "1234",
      .value = "N",
      .help = "the same seed makes the same weights" },
    { .name = "vocab_size",
      .type = OPTION_INT,
      .offset = offsetof(struct new_options, vocab_size),
      .max = 16777216,
      .value = "N",
      .help = "instead of 50272, or of the tokenizer's" },
    { .name = "hidden_size",
      .type = OPTION_INT,
      .offset = offsetof(struct new_options, hidden_size),
      .max = 16777216,
      .value = "N",
      .help = "instead of the size's own" },
    { .name = "num_hidden_layers",
      .type = OPTION_INT,
      .offset = offsetof(struct new_options, n_layers),
      .max = 16777216,
      .value = "N",
      .help = "instead of the size's own" },
    { .name = "num_attention_heads",
      .type = OPTION_INT,
      .offset = offsetof(struct new_options, n_heads),
      .max = 16777216,
      .value = "N",
      .help = "instead of the size's own" },
    { .name = "ffn_dim",
      .type = OPTION_INT,
      .offset = offsetof(struct new_options, ffn_dim),
      .max = 16777216,
      .value = "N",
      .help = "instead of the size's own" },
    { .name = "word_embed_proj_dim",
      .type = OPTION_INT,
      .offset = offsetof(struct new_options, word_embed_proj_dim),
      .max = 16777216,
      .value = "N",
      .help = "instead of the size's own" },
    { .name = "max_position_embeddings",
      .type = OPTION_INT,
      .offset = offsetof(struct new_options, max_positions),
      .max = 16777216,
      .value = "N",
      .help = "instead of the size's own" },
    { .name = "value_head",
      .type = OPTION_FLAG,
      .offset = offsetof(struct new_options, value_head),
      .help = "a reward model: one score an id (v_head.weight)" },
    { .name = "json",
      .type = OPTION_FLAG,
      .offset = offsetof(struct new_options, json),
      .help = "print the result as JSON" },
    { 0 },
};

struct info_options {
    bool json, values;
};

static struct info_options show;

static const struct option info_table[] = {
    { .name = "json",
      .type = OPTION_FLAG,
      .offset = offsetof(struct info_options, json),
      .help = "print one JSON object" },
    { .name = "values",
      .type = OPTION_FLAG,
      .offset = offsetof(struct info_options, values),
      .help = "read every value too, and look for NaN and infinity" },
    { 0 },
};

static int new_sets(struct option_set *out)
{
    out[0] = (struct option_set){ .title = "Model", .options = new_table, .values = &wish };
    return 1;
}

static int info_sets(struct option_set *out)
{
    out[0] = (struct option_set){ .title = "Model", .options = info_table, .values = &show };
    return 1;
}

static void override(int64_t *value, int64_t asked)
{
    if (asked > 0)
        *value = asked;
}

/* The ids of the tokenizer are the model's; 8 divides the embedding's rows, as DeepSpeed-Chat makes it. */
static int fit_tokenizer(struct hf_config *c, const struct bpe *b, struct err *err)
{
    const int64_t n = bpe_vocab_size(b);

    if (wish.vocab_size > 0 && wish.vocab_size < n) {
        err_set(err, ERR_USAGE, "--vocab_size %" PRId64 " is too small for the tokenizer's %" PRId64 " ids",
                wish.vocab_size, n);
        return err_hint(err, "Leave it away: %" PRId64 " is then taken.", (n + 7) / 8 * 8);
    }
    c->vocab_size = (n + 7) / 8 * 8;
    c->bos_id = bpe_bos(b);
    c->eos_id = bpe_eos(b);
    c->pad_id = bpe_pad(b);
    return 0;
}

static int make_config(struct hf_config *c, const struct bpe *b, struct err *err)
{
    if (hf_config_named(c, wish.size, err) != 0 || (b && fit_tokenizer(c, b, err) != 0))
        return -1;
    if (!hf_config_has_projection(c))
        override(&c->word_embed_proj_dim, wish.hidden_size);
    override(&c->vocab_size, wish.vocab_size);
    override(&c->hidden_size, wish.hidden_size);
    override(&c->n_layers, wish.n_layers);
    override(&c->n_heads, wish.n_heads);
    override(&c->ffn_dim, wish.ffn_dim);
    override(&c->word_embed_proj_dim, wish.word_embed_proj_dim);
    override(&c->max_positions, wish.max_positions);
    if (hf_config_check(c, "the command line", err) == 0)
        return 0;
    err->code = ERR_USAGE;
    return -1;
}

/* The tensors to make, in registration order; names are kept in one growing list. */
struct made {
    struct hf_config *config;
    enum dtype dtype;
    struct stored_tensor *tensors;
    int n;
    int64_t written, total;
    float *values; /* for conversion to 16 bits */
};

static int add_tensor(void *context, const char *canonical, const struct shape *shape, struct err *err)
{
    struct made *m = context;
    const int64_t count = shape_count(shape);
    struct stored_tensor *more = mem_resize(m->tensors, m->n + 1, sizeof *more, MEM_STORE, err);

    if (!more)
        return -1;
    m->tensors = more;
    m->tensors[m->n] = (struct stored_tensor){ .name = mem_strdup(canonical, MEM_STORE, err),
                                               .dtype = m->dtype,
                                               .shape = *shape,
                                               .bytes = (size_t)count * dtype_bytes(m->dtype) };
    if (!m->tensors[m->n].name)
        return -1;
    m->n++;
    m->total += count;
    return 0;
}

static int produce(void *context, int i, int64_t first, int64_t count, void *out, struct err *err)
{
    struct made *m = context;
    float *values = out;

    if (m->dtype != F32) {
        values = mem_resize(m->values, count, sizeof *values, MEM_STORE, err);
        if (!values)
            return -1;
        m->values = values;
    }
    model_init_fill(m->config, (uint64_t)wish.seed, m->tensors[i].name, first, count, values);
    if (m->dtype != F32)
        dtype_convert(out, m->dtype, values, F32, count);
    m->written += count;
    log_progress("writing: %.0f %%", 100.0 * (double)m->written / (double)m->total);
    return 0;
}

static void free_made(struct made *m)
{
    for (int i = 0; i < m->n; i++)
        mem_free((void *)m->tensors[i].name);
    mem_free(m->tensors);
    mem_free(m->values);
}

static int write_model(const char *dir, struct hf_config *c, const struct bpe *b, struct err *err)
{
    static const enum dtype types[] = { F32, BF16, F16 }; /* as the option's choices */
    struct made m = { .config = c, .dtype = types[wish.dtype] };
    const struct tensor_source source = { produce, &m };
    int result = model_names(c, wish.value_head, add_tensor, &m, err);

    if (result == 0)
        result = file_make_dir(dir, err);
    if (result == 0 && b)
        result = bpe_save_files(b, dir, err);
    if (result == 0)
        result = model_dir_save_from(dir, c, m.tensors, m.n, wish.value_head, &source, err);
    log_progress("%s", "");
    free_made(&m);
    return result;
}

/* 331196416 -> "331,196,416". */
static const char *with_commas(char out[32], int64_t n)
{
    char digits[24];
    size_t length = 0;
    const int k = snprintf(digits, sizeof digits, "%" PRId64, n);

    for (int i = 0; i < k; i++) {
        if (i > 0 && (k - i) % 3 == 0 && digits[i - 1] != '-')
            out[length++] = ',';
        out[length++] = digits[i];
    }
    out[length] = '\0';
    return out;
}

static int print_json(json_t *value, struct err *err)
{
    char *text = value ? json_dumps(value, JSON_INDENT(2)) : NULL;

    json_decref(value);
    if (!text)
        return err_set(err, ERR_MEMORY, "could not make the JSON of the result");
    puts(text);
    free(text);
    return 0;
}

static int print_new(const char *dir, const struct hf_config *c, struct err *err)
{
    const char *dtype = dtype_name(wish.dtype == 1 ? BF16 : F32);
    const int64_t n = hf_config_parameters(c) + (wish.value_head ? c->word_embed_proj_dim : 0);
    char count[32];

    if (wish.json)
        return print_json(json_pack("{s:s, s:I, s:s, s:I}", "path", dir, "parameters", (json_int_t)n, "dtype", dtype,
                                    "vocab_size", (json_int_t)c->vocab_size),
                          err);
    printf("%s: %s parameters, %s, vocabulary %" PRId64 "\n", dir, with_commas(count, n), dtype, c->vocab_size);
    return 0;
}

static int one_dir(const struct command_line *line, const char **dir, struct err *err)
{
    if (line->n_words == 1) {
        *dir = line->words[0];
        return 0;
    }
    if (line->n_words > 1)
        err_set(err, ERR_USAGE, "unexpected word \"%.80s\"", line->words[1]);
    else
        err_set(err, ERR_USAGE, "the model's folder is not given");
    return err_hint(err, "Example: tuneup model new --size opt-125m my-model.");
}

static int refuse_existing(const char *dir, struct err *err)
{
    char path[FILE_PATH_MAX];

    if (file_join(path, dir, "config.json", err) != 0)
        return -1;
    if (!file_exists(path))
        return 0;
    err_set(err, ERR_USAGE, "there is a model in \"%s\" already", dir);
    return err_hint(err, "Give another folder, or remove this one first.");
}

static int run_new(struct command_line *line, struct err *err)
{
    struct hf_config config = { 0 };
    struct bpe *tokenizer = NULL;
    const char *dir = NULL;
    int result = -1;

    if (one_dir(line, &dir, err) != 0)
        return -1;
    if (!wish.size) {
        err_set(err, ERR_USAGE, "--size is not given");
        return err_hint(err, "Example: tuneup model new --size opt-125m %s.", dir);
    }
    if (refuse_existing(dir, err) == 0 && (!wish.tokenizer || bpe_open(&tokenizer, wish.tokenizer, err) == 0) &&
        make_config(&config, tokenizer, err) == 0 && write_model(dir, &config, tokenizer, err) == 0)
        result = print_new(dir, &config, err);
    bpe_close(tokenizer);
    hf_config_free(&config);
    return result;
}

/* What "info" finds out. */
struct facts {
    int64_t elements, bytes;
    int by_dtype[DTYPE_N + 1];
    struct err problems[MAX_PROBLEMS];
    int n_problems;
    json_t *unused; /* names */
};

static struct err *next_problem(struct facts *f)
{
    static struct err spare;

    return f->n_problems < MAX_PROBLEMS ? &f->problems[f->n_problems++] : &spare;
}

static int look_at_values(const struct model_dir *m, const struct stored_tensor *t, const char *canonical,
                          struct facts *f, struct err *err)
{
    const int64_t count = shape_count(&t->shape);
    struct err problem = { 0 };

    if (t->dtype == DTYPE_N || t->dtype == I32)
        return 0;
    float *values = mem_array(count, 1, sizeof *values, MEM_STORE, err);
    if (!values)
        return -1;
    if (model_dir_read(m, canonical, values, F32, count, false, &problem) != 0)
        *next_problem(f) = problem;
    mem_free(values);
    return 0;
}

static int gather(const struct model_dir *m, struct facts *f, struct err *err)
{
    struct err problem = { 0 };

    f->unused = json_array();
    if (model_dir_check(m, &problem) != 0)
        *next_problem(f) = problem;
    for (int i = 0; i < m->n_tensors; i++) {
        const struct stored_tensor *t = m->tensors[i].stored;

        f->bytes += (int64_t)t->bytes;
        f->by_dtype[t->dtype]++;
        if (!model_dir_uses(m, m->tensors[i].canonical))
            json_array_append_new(f->unused, json_string(t->name));
        else if (strcmp(m->tensors[i].canonical, "lm_head.weight") != 0)
            f->elements += shape_count(&t->shape);
        if (show.values && look_at_values(m, t, m->tensors[i].canonical, f, err) != 0)
            return -1;
    }
    return 0;
}

/* "fp32", or "fp16 144, fp32 4" where they are mixed. */
static const char *dtypes_text(const struct facts *f, char *out, size_t size)
{
    int kinds = 0;
    size_t n = 0;

    out[0] = '\0';
    for (int t = 0; t <= DTYPE_N; t++)
        kinds += f->by_dtype[t] > 0;
    for (int t = 0; t <= DTYPE_N; t++) {
        const char *name = t == DTYPE_N ? "other" : dtype_name((enum dtype)t);

        if (f->by_dtype[t] > 0 && kinds == 1)
            snprintf(out, size, "%s", name);
        else if (f->by_dtype[t] > 0)
            n += (size_t)snprintf(out + n, size - n, "%s%s %d", n ? ", " : "", name, f->by_dtype[t]);
    }
    return out;
}

static const char *form_of(const struct model_dir *m)
{
    return m->files[0].is_torch ? "pytorch_model.bin" : "safetensors";
}

static json_t *info_json(const char *dir, const struct model_dir *m, const struct facts *f)
{
    const struct hf_config *c = &m->config;
    const char *size = hf_config_size_name(c);
    json_t *problems = json_array();
    char dtypes[128];

    for (int i = 0; i < f->n_problems; i++)
        json_array_append_new(problems, json_pack("{s:s, s:s, s:s}", "what", f->problems[i].what, "where",
                                                  f->problems[i].where, "hint", f->problems[i].hint));
    return json_pack("{s:s, s:s, s:s?, s:s, s:i, s:I, s:i, s:I, s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:s, s:O, s:o}",
                     "path", dir, "kind", m->is_reward ? "reward" : "language", "size", size, "form", form_of(m),
                     "files", m->n_files, "parameters", (json_int_t)f->elements, "tensors", m->n_tensors, "bytes",
                     (json_int_t)f->bytes, "dtype", dtypes_text(f, dtypes, sizeof dtypes), "hidden_size",
                     (json_int_t)c->hidden_size, "num_hidden_layers", (json_int_t)c->n_layers, "num_attention_heads",
                     (json_int_t)c->n_heads, "ffn_dim", (json_int_t)c->ffn_dim, "word_embed_proj_dim",
                     (json_int_t)c->word_embed_proj_dim, "vocab_size", (json_int_t)c->vocab_size,
                     "max_position_embeddings", (json_int_t)c->max_positions, "norm",
                     c->norm_before ? "before" : "after", "unused", f->unused, "problems", problems);
}

static void print_info(const char *dir, const struct model_dir *m, const struct facts *f)
{
    const struct hf_config *c = &m->config;
    const char *size = hf_config_size_name(c);
    char count[32], dtypes[128], safe[256];

    printf("%-12s %s\n", "folder", dir);
    printf("%-12s %s%s%s%s\n", "model", m->is_reward ? "reward model" : "language model", size ? " (" : "",
           size ? size : "", size ? ")" : "");
    printf("%-12s %s\n", "parameters", with_commas(count, f->elements));
    printf("%-12s hidden %" PRId64 ", layers %" PRId64 ", heads %" PRId64 ", feed-forward %" PRId64
           ", embedding %" PRId64 ", norm %s\n",
           "shape", c->hidden_size, c->n_layers, c->n_heads, c->ffn_dim, c->word_embed_proj_dim,
           c->norm_before ? "before" : "after");
    printf("%-12s %" PRId64 "\n%-12s %" PRId64 "\n", "vocabulary", c->vocab_size, "positions", c->max_positions);
    printf("%-12s %s, %d file%s, %d tensors, %s, %.1f MiB\n", "stored as", form_of(m), m->n_files,
           m->n_files == 1 ? "" : "s", m->n_tensors, dtypes_text(f, dtypes, sizeof dtypes),
           (double)f->bytes / 1048576.0);
    for (size_t i = 0; i < json_array_size(f->unused); i++)
        printf("%-12s %s\n", i ? "" : "not used",
               log_safe(safe, sizeof safe, json_string_value(json_array_get(f->unused, i))));
    for (int i = 0; i < f->n_problems; i++)
        printf("%-12s %s (%s)\n", i ? "" : "problems", f->problems[i].what, f->problems[i].where);
    if (f->n_problems == 0)
        printf("%-12s none%s\n", "problems", show.values ? "" : "; --values looks for NaN and infinity too");
}

static int run_info(struct command_line *line, struct err *err)
{
    static struct facts facts;
    struct model_dir m;
    const char *dir = NULL;

    if (one_dir(line, &dir, err) != 0 || model_dir_open(&m, dir, err) != 0)
        return -1;
    int result = gather(&m, &facts, err);
    if (result == 0 && show.json)
        result = print_json(info_json(dir, &m, &facts), err);
    else if (result == 0)
        print_info(dir, &m, &facts);
    json_decref(facts.unused);
    model_dir_close(&m);
    return result == 0 && facts.n_problems > 0 ? err_exit_code(ERR_INPUT) : result;
}

const struct command cmd_model_new = {
    .name = "model new",
    .summary = "make a model folder of a published size with random weights",
    .usage = "tuneup model new --size SIZE DIR [options]",
    .examples = "  tuneup model new --size opt-350m my-opt\n"
                "  tuneup model new --size opt-tiny --tokenizer my-tokenizer small\n"
                "  tuneup model new --size opt-125m --num_hidden_layers 6 half\n",
    .details =
        "Writes config.json and model.safetensors, which Hugging Face's transformers load too: weights normal "
        "with\ndeviation 0.02, biases 0. Such a model says nothing sensible, but costs what a trained one costs.",
    .sets = new_sets,
    .run = run_new,
};

const struct command cmd_model_info = {
    .name = "model info",
    .summary = "what a model folder holds, and what is wrong with it",
    .usage = "tuneup model info DIR [options]",
    .examples = "  tuneup model info my-opt\n"
                "  tuneup model info --values --json my-opt\n",
    .details = "Exit status 2 if the weights and config.json do not go together.",
    .sets = info_sets,
    .run = run_info,
};
