/* Templates first (a cell without ranks), then cells_finish makes one cell for each rank count that its techniques can
 * run at. The built-in study and a study file take the same way. */
#include "study/cells.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/mem.h"
#include "base/option.h"
#include "base/rng.h"
#include "study/builtin.h"

const char *const cells_phases[CELLS_N_PHASES + 1] = { "sft", "reward", "ppo", NULL };

const struct technique_word technique_words[] = {
    { "bf16", "--dtype=bf16", "--dtype=fp32", false, 1, NULL },
    { "fp16", "--dtype=fp16", NULL, false, 1, NULL },
    { "gradient_checkpointing", "--gradient_checkpointing", "--no-gradient_checkpointing", true, 1, NULL },
    { "zero-1", "--zero_stage=1", "--zero_stage=0", true, 2, NULL },
    { "zero-2", "--zero_stage=2", NULL, true, 2, NULL },
    { "zero-3", "--zero_stage=3", NULL, true, 2, NULL },
    { "chunked_loss", "--chunked_loss", "--no-chunked_loss", true, 1, NULL },
    { "flash_attention", "--flash_attention", "--no-flash_attention", true, 1, NULL },
    { "fused_kernels", "--fused_kernels", "--no-fused_kernels", true, 1, NULL },
    { "norm_recompute", "--recompute_norms", "--no-recompute_norms", true, 1, NULL },
    { "activation_compression", "--activation_compression", "--no-activation_compression", false, 1, NULL },
    { "remove_padding", "--remove_padding", "--no-remove_padding", true, 1, NULL },
    { "share_prompts", "--share_prompts", "--no-share_prompts", true, 1, "reward" },
    { "optimizer8", "--optimizer_bits=8", "--optimizer_bits=32", false, 1, NULL },
    { "offload", "--offload", "--no-offload", true, 1, NULL },
    { "map_frozen", "--map_frozen", "--no-map_frozen", true, 1, NULL },
    { "lora", "--lora_dim=128", "--lora_dim=0", false, 1, NULL }, /* the rank of DeepSpeed-Chat's scripts */
    { "lora_only", "--only_optimize_lora", "--no-only_optimize_lora", false, 1, NULL },
    { "int8", "--int8_generation", "--no-int8_generation", false, 1, "ppo" },
    { "frozen_bf16", "--frozen_dtype=bf16", "--frozen_dtype=fp32", false, 1, "ppo" },
    { 0 },
};

/* The words that every built-in cell of a phase begins with; phase NULL: of every phase, value -1: a flag. */
static const struct {
    const char *phase, *option;
    int value;
} builtin_options[] = {
    { NULL, "--no-save_model", -1 },
    { NULL, "--no-enable_tensorboard", -1 },
    { NULL, "--eval_batches", BUILTIN_EVAL_BATCHES },
    { "sft", "--max_steps", BUILTIN_STEPS },
    { "sft", "--per_device_train_batch_size", BUILTIN_BATCH },
    { "sft", "--max_seq_len", BUILTIN_TOKENS },
    { "reward", "--max_steps", BUILTIN_STEPS },
    { "reward", "--per_device_train_batch_size", BUILTIN_PAIRS },
    { "reward", "--max_seq_len", BUILTIN_TOKENS },
    { "reward", "--dropout", 0 }, /* as DeepSpeed-Chat trains it; prompts can be shared then */
    { "ppo", "--max_steps", BUILTIN_ITERATIONS },
    { "ppo", "--per_device_generation_batch_size", BUILTIN_ANSWERS },
    { "ppo", "--per_device_training_batch_size", BUILTIN_ANSWERS },
    { "ppo", "--max_prompt_seq_len", BUILTIN_PROMPT_TOKENS },
    { "ppo", "--max_answer_seq_len", BUILTIN_ANSWER_TOKENS },
    { "ppo", "--num_warmup_steps", 0 },
};

/* A trailing '?' drops a technique at rank counts too small for it instead of dropping the cell. few_ranks: more ranks
 * would say little that the other cells do not. */
static const struct {
    const char *phase, *name;
    bool few_ranks;
    const char *techniques[10];
} builtin_cells[] = {
    { "sft", "baseline", false, { 0 } },
    { "sft", "bf16", true, { "bf16" } },
    { "sft", "fp16", true, { "fp16" } },
    { "sft", "gradient_checkpointing", false, { "gradient_checkpointing" } },
    { "sft", "zero-1", false, { "zero-1" } },
    { "sft", "zero-2", false, { "zero-2" } },
    { "sft", "zero-3", false, { "zero-3" } },
    { "sft", "chunked_loss", true, { "chunked_loss" } },
    { "sft", "flash_attention", true, { "flash_attention" } },
    { "sft", "fused_kernels", true, { "fused_kernels" } },
    { "sft", "norm_recompute", true, { "norm_recompute" } },
    { "sft", "activation_compression", true, { "activation_compression" } },
    { "sft", "optimizer8", true, { "optimizer8" } },
    { "sft", "lora", true, { "lora" } },
    { "sft", "lora only", true, { "lora", "lora_only" } },
    { "sft", "remove_padding", true, { "remove_padding" } },
    { "sft", "offload", true, { "offload" } },
    { "sft",
      "all exact",
      false,
      { "chunked_loss", "flash_attention", "fused_kernels", "norm_recompute", "remove_padding" } },
    { "sft",
      "everything",
      false,
      { "bf16", "gradient_checkpointing", "zero-1?", "chunked_loss", "flash_attention", "fused_kernels",
        "norm_recompute", "remove_padding" } },
    /* A reward model has no vocabulary to chunk. */
    { "reward", "baseline", false, { 0 } },
    { "reward", "bf16", true, { "bf16" } },
    { "reward", "gradient_checkpointing", true, { "gradient_checkpointing" } },
    { "reward", "zero-1", false, { "zero-1" } },
    { "reward", "zero-2", false, { "zero-2" } },
    { "reward", "zero-3", false, { "zero-3" } },
    { "reward", "flash_attention", true, { "flash_attention" } },
    { "reward", "fused_kernels", true, { "fused_kernels" } },
    { "reward", "norm_recompute", true, { "norm_recompute" } },
    { "reward", "lora", true, { "lora" } },
    { "reward", "lora only", true, { "lora", "lora_only" } },
    { "reward", "remove_padding", true, { "remove_padding" } },
    { "reward", "share_prompts", true, { "remove_padding", "share_prompts" } },
    { "reward", "offload", true, { "offload" } },
    { "reward",
      "all exact",
      true,
      { "flash_attention", "fused_kernels", "norm_recompute", "remove_padding", "share_prompts" } },
    { "reward",
      "everything",
      false,
      { "bf16", "gradient_checkpointing", "zero-1?", "flash_attention", "fused_kernels", "norm_recompute",
        "remove_padding", "share_prompts" } },
    /* Of the techniques that gain least only all together: four models take their time. */
    { "ppo", "baseline", false, { 0 } },
    { "ppo", "bf16", true, { "bf16" } },
    { "ppo", "frozen_bf16", true, { "frozen_bf16" } },
    { "ppo", "int8", true, { "int8" } },
    { "ppo", "map_frozen", true, { "map_frozen" } },
    { "ppo", "gradient_checkpointing", true, { "gradient_checkpointing" } },
    { "ppo", "zero-1", false, { "zero-1" } },
    { "ppo", "zero-2", false, { "zero-2" } },
    { "ppo", "zero-3", false, { "zero-3" } },
    { "ppo", "chunked_loss", true, { "chunked_loss" } },
    { "ppo", "flash_attention", true, { "flash_attention" } },
    { "ppo", "lora only", true, { "lora", "lora_only" } },
    { "ppo", "remove_padding", true, { "remove_padding" } },
    { "ppo", "offload", true, { "offload" } },
    { "ppo",
      "all exact",
      true,
      { "chunked_loss", "flash_attention", "fused_kernels", "norm_recompute", "remove_padding" } },
    { "ppo",
      "everything",
      false,
      { "bf16", "frozen_bf16", "gradient_checkpointing", "zero-1?", "chunked_loss", "flash_attention", "fused_kernels",
        "norm_recompute", "remove_padding" } },
};

int cells_phase(const char *name)
{
    for (int i = 0; i < CELLS_N_PHASES; i++)
        if (strcmp(cells_phases[i], name) == 0)
            return i;
    return -1;
}

int words_add(struct words *w, struct err *err, const char *format, ...)
{
    char text[8192];
    va_list args;

    va_start(args, format);
    const int n = vsnprintf(text, sizeof text, format, args);
    va_end(args);
    if (n < 0 || (size_t)n >= sizeof text)
        return err_set(err, ERR_USAGE, "a word of %d bytes is longer than %zu", n, sizeof text - 1);
    if (w->n == CELLS_MAX_WORDS)
        return err_set(err, ERR_USAGE, "more than %d words", CELLS_MAX_WORDS);
    char **grown = mem_resize(w->v, w->n + 2, sizeof *grown, MEM_RECORD, err);
    if (!grown)
        return -1;
    w->v = grown;
    w->v[w->n] = mem_strdup(text, MEM_RECORD, err);
    if (!w->v[w->n])
        return -1;
    w->v[++w->n] = NULL;
    return 0;
}

bool words_have(const struct words *w, const char *word)
{
    for (int i = 0; i < w->n; i++)
        if (strcmp(w->v[i], word) == 0)
            return true;
    return false;
}

static int words_copy(struct words *to, const struct words *from, struct err *err)
{
    for (int i = 0; i < from->n; i++)
        if (words_add(to, err, "%s", from->v[i]) != 0)
            return -1;
    return 0;
}

void words_free(struct words *w)
{
    for (int i = 0; i < w->n; i++)
        mem_free(w->v[i]);
    mem_free(w->v);
    *w = (struct words){ 0 };
}

static void cell_free(struct cell *c)
{
    mem_free(c->name);
    mem_free(c->phase);
    mem_free(c->baseline);
    mem_free(c->folder);
    mem_free(c->loss_pattern);
    words_free(&c->techniques);
    words_free(&c->parameters);
    words_free(&c->environment);
    words_free(&c->argv);
    *c = (struct cell){ 0 };
}

void cells_free(struct cells *s)
{
    for (int i = 0; i < s->n_cells; i++)
        cell_free(&s->cells[i]);
    mem_free(s->cells);
    mem_free(s->name);
    mem_free(s->model);
    mem_free(s->reward_model);
    mem_free(s->data);
    mem_free(s->ranks);
    words_free(&s->options);
    words_free(&s->parameters);
    for (int i = 0; i < CELLS_N_PHASES; i++)
        words_free(&s->phase_options[i]);
    *s = (struct cells){ 0 };
}

int cells_init(struct cells *s, const char *name, struct err *err)
{
    *s = (struct cells){
        .blocks = BUILTIN_BLOCKS, .warmup = BUILTIN_WARMUP, .seed = BUILTIN_SEED, .timeout_s = BUILTIN_TIMEOUT_S
    };
    s->name = mem_strdup(name, MEM_RECORD, err);
    return s->name ? 0 : -1;
}

struct cell *cells_add(struct cells *s, const char *name, const char *phase, const char *baseline, struct err *err)
{
    struct cell *grown;

    if (s->n_cells == CELLS_MAX) {
        err_set(err, ERR_USAGE, "a study of more than %d cells", CELLS_MAX);
        return NULL;
    }
    grown = mem_resize(s->cells, s->n_cells + 1, sizeof *grown, MEM_RECORD, err);
    if (!grown)
        return NULL;
    s->cells = grown;
    struct cell *c = &s->cells[s->n_cells];
    *c = (struct cell){ .is_command = cells_phase(phase) < 0 };
    c->name = mem_strdup(name, MEM_RECORD, err);
    c->phase = c->name ? mem_strdup(phase, MEM_RECORD, err) : NULL;
    c->baseline = c->phase ? mem_strdup(baseline, MEM_RECORD, err) : NULL;
    if (!c->baseline) {
        cell_free(c);
        return NULL;
    }
    s->n_cells++;
    return c;
}

static int set_ranks(struct cells *s, const int64_t *ranks, int n, struct err *err)
{
    int64_t *copy = mem_array(n, 1, sizeof *copy, MEM_RECORD, err);

    if (!copy)
        return -1;
    memcpy(copy, ranks, (size_t)n * sizeof *copy);
    mem_free(s->ranks);
    s->ranks = copy;
    s->n_ranks = n;
    return 0;
}

static int builtin_word(struct words *w, const char *option, int value, struct err *err)
{
    return value < 0 ? words_add(w, err, "%s", option) : words_add(w, err, "%s=%d", option, value);
}

int cells_builtin(struct cells *s, struct err *err)
{
    if (cells_init(s, "built-in", err) != 0 || set_ranks(s, (const int64_t[]){ 1, 2 }, 2, err) != 0)
        goto failed;
    s->builtin = true;
    for (int i = 0; i < COUNT_OF(builtin_options); i++) {
        const char *phase = builtin_options[i].phase;
        const int value = builtin_options[i].value;

        if (builtin_word(phase ? &s->phase_options[cells_phase(phase)] : &s->options, builtin_options[i].option, value,
                         err) != 0)
            goto failed;
    }
    for (int i = 0; i < COUNT_OF(builtin_cells); i++) {
        struct cell *c = cells_add(s, builtin_cells[i].name, builtin_cells[i].phase, "baseline", err);

        if (!c)
            goto failed;
        c->few_ranks = builtin_cells[i].few_ranks;
        for (const char *const *t = builtin_cells[i].techniques; *t; t++)
            if (words_add(&c->techniques, err, "%s", *t) != 0)
                goto failed;
    }
    return 0;
failed:
    cells_free(s);
    return -1;
}

/* ---- Finishing ---- */

static int replace(char **field, const char *value, struct err *err)
{
    char *copy = value ? mem_strdup(value, MEM_RECORD, err) : NULL;

    if (!value)
        return 0;
    if (!copy)
        return -1;
    mem_free(*field);
    *field = copy;
    return 0;
}

static bool is_in(const struct technique_word *t, const char *phase)
{
    return !t->phase || strcmp(t->phase, phase) == 0;
}

static int check_technique(const char *word, const char *phase, const struct technique_word **out, struct err *err)
{
    const size_t n = strcspn(word, "?");
    int best = 1 << 20;
    const char *nearest = "";

    for (const struct technique_word *t = technique_words; t->name; t++) {
        if (strlen(t->name) == n && strncmp(t->name, word, n) == 0 && !is_in(t, phase))
            return err_set(err, ERR_USAGE, "the technique \"%s\" is of phase %s, the cell of phase %s", t->name,
                           t->phase, phase);
        if (strlen(t->name) == n && strncmp(t->name, word, n) == 0) {
            *out = t;
            return 0;
        }
        const int d = option_distance(word, t->name);
        if (d < best) {
            best = d;
            nearest = t->name;
        }
    }
    err_set(err, ERR_USAGE, "unknown technique \"%.60s\"", word);
    char all[512] = "";
    size_t at = 0;
    for (const struct technique_word *t = technique_words; t->name && at < sizeof all; t++)
        at += (size_t)snprintf(all + at, sizeof all - at, "%s%s", at ? ", " : "", t->name);
    return err_hint(err, "Did you mean %s? The techniques are %s.", nearest, all);
}

/* One that is on has the same option, with another value. */
static bool is_off_by_another(const struct words *on, const struct technique_word *t)
{
    for (const struct technique_word *o = technique_words; o->name; o++)
        if (o != t && words_have(on, o->name) && strncmp(o->on, t->off, strcspn(t->off, "=") + 1) == 0)
            return true;
    return false;
}

/* The words of a phase's command line before the cell's own: the study's, the phase's, a word for every technique. */
static int compose(struct cell *c, const struct cells *from, struct err *err)
{
    if (words_copy(&c->argv, &from->options, err) != 0 ||
        words_copy(&c->argv, &from->phase_options[cells_phase(c->phase)], err) != 0)
        return -1;
    for (const struct technique_word *t = technique_words; t->name; t++) {
        const bool on = words_have(&c->techniques, t->name);

        if (!is_in(t, c->phase))
            continue;
        c->exact = c->exact && (!on || t->exact);
        if ((on || (t->off && !is_off_by_another(&c->techniques, t))) &&
            words_add(&c->argv, err, "%s", on ? t->on : t->off) != 0)
            return -1;
    }
    return 0;
}

/* The value of the parameter whose name is name[0..n-1], the choice's before the cell's before the study's; NULL: none. */
static const char *parameter(const struct cells *from, const struct cells_choice *choice, const struct cell *c,
                             const char *name, size_t n)
{
    const char *const *lists[] = { choice->parameters, (const char *const *)c->parameters.v,
                                   (const char *const *)from->parameters.v };

    for (int i = 0; i < COUNT_OF(lists); i++)
        for (const char *const *p = lists[i]; p && *p; p++)
            if (strncmp(*p, name, n) == 0 && (*p)[n] == '=')
                return *p + n + 1;
    return NULL;
}

/* Adds the word with every ${name} replaced; "$${" stands for "${" itself. */
static int add_filled(struct words *to, const struct cells *from, const struct cells_choice *choice,
                      const struct cell *c, const char *word, struct err *err)
{
    char text[8192];
    size_t used = 0;

    for (const char *p = word; *p;) {
        const char *end = strncmp(p, "${", 2) == 0 ? strchr(p, '}') : NULL;
        const char *value = end ? parameter(from, choice, c, p + 2, (size_t)(end - p - 2)) : NULL;
        const int skip = strncmp(p, "$${", 3) == 0;

        if (end && !value) {
            err_set(err, ERR_USAGE, "cell \"%.80s\" needs the parameter \"%.*s\"", c->name, (int)(end - p - 2), p + 2);
            return err_hint(err, "Give it with --set %.*s=VALUE, or under \"parameters\" in the study file.",
                            (int)(end - p - 2), p + 2);
        }
        const int n = snprintf(text + used, sizeof text - used, "%.*s",
                               value  ? 8191
                               : skip ? 2
                                      : 1,
                               value ? value : p + skip);
        used += (size_t)n;
        if (used >= sizeof text)
            return err_set(err, ERR_USAGE, "a word of cell \"%.80s\" is longer than %zu bytes", c->name,
                           sizeof text - 1);
        p = value ? end + 1 : p + skip + (skip ? 2 : 1);
    }
    text[used] = '\0';
    return words_add(to, err, "%s", text);
}

static int fill(struct words *to, const struct cells *from, const struct cells_choice *choice, const struct cell *c,
                const struct words *words, struct err *err)
{
    for (int i = 0; i < words->n; i++)
        if (add_filled(to, from, choice, c, words->v[i], err) != 0)
            return -1;
    return 0;
}

/* The parameters of a folder are filled in too; a pattern is taken as it is: ${} means something else there. */
static int fill_command(struct cell *c, const struct cells *from, const struct cells_choice *choice,
                        const struct cell *template, struct err *err)
{
    struct words folder = { 0 };
    int result = 0;

    c->is_command = true;
    if (words_copy(&c->techniques, &template->techniques, err) != 0 ||
        fill(&c->argv, from, choice, template, &template->argv, err) != 0 ||
        fill(&c->environment, from, choice, template, &template->environment, err) != 0 ||
        replace(&c->loss_pattern, template->loss_pattern, err) != 0)
        return -1;
    if (template->folder) {
        result = add_filled(&folder, from, choice, template, template->folder, err);
        MUST(result != 0 || folder.v);
        if (result == 0)
            result = replace(&c->folder, folder.v[0], err);
    }
    words_free(&folder);
    return result;
}

/* The cell of a template at `ranks`: 1 = made, 0 = its techniques need more ranks, -1 = error. */
static int expand(struct cells *to, const struct cells *from, const struct cells_choice *choice,
                  const struct cell *template, int64_t ranks, struct err *err)
{
    const struct technique_word *t = NULL;

    for (int i = 0; i < template->techniques.n && !template->is_command; i++) {
        const char *word = template->techniques.v[i];

        if (check_technique(word, template->phase, &t, err) != 0)
            return -1;
        MUST(t);
        if (t->min_ranks > ranks && !strchr(word, '?'))
            return 0;
    }
    struct cell *c = cells_add(to, template->name, template->phase, template->baseline, err);
    if (!c)
        return -1;
    c->ranks = ranks;
    if (template->is_command)
        return fill_command(c, from, choice, template, err) == 0 ? 1 : -1;
    c->exact = true;
    for (int i = 0; i < template->techniques.n; i++) {
        if (check_technique(template->techniques.v[i], template->phase, &t, err) != 0)
            return -1;
        if (t->min_ranks <= ranks && words_add(&c->techniques, err, "%s", t->name) != 0)
            return -1;
    }
    if (compose(c, from, err) != 0)
        return -1;
    return words_copy(&c->argv, &template->argv, err) == 0 ? 1 : -1;
}

/* Whether name is one of the words of "a,b,c". */
static bool listed(const char *list, const char *name)
{
    const size_t n = strlen(name);

    for (const char *p = list; *p; p += strcspn(p, ",") + (p[strcspn(p, ",")] != '\0'))
        if (strcspn(p, ",") == n && strncmp(p, name, n) == 0)
            return true;
    return false;
}

static bool chosen(const struct cells *s, const struct cells_choice *choice, const struct cell *c)
{
    if (choice->phases && !listed(choice->phases, c->phase))
        return false;
    if (!choice->cells || listed(choice->cells, c->name))
        return true;
    for (int i = 0; i < s->n_cells; i++) /* the baseline of a chosen cell */
        if (listed(choice->cells, s->cells[i].name) && strcmp(s->cells[i].baseline, c->name) == 0 &&
            strcmp(s->cells[i].phase, c->phase) == 0)
            return true;
    return false;
}

static const char *name_of(const struct cell *c)
{
    return c->name;
}

static const char *phase_of(const struct cell *c)
{
    return c->phase;
}

/* Every word of the list is the name, or the phase, of a cell. */
static int check_list(const struct cells *s, const char *list, const char *what,
                      const char *(*word)(const struct cell *), struct err *err)
{
    for (const char *p = list; *p; p += strcspn(p, ",") + (p[strcspn(p, ",")] != '\0')) {
        const int n = (int)strcspn(p, ",");
        char have[512] = "";
        bool found = false;

        for (int i = 0; i < s->n_cells; i++) {
            const char *name = word(&s->cells[i]);
            const size_t used = strlen(have);

            found = found || ((int)strlen(name) == n && strncmp(name, p, (size_t)n) == 0);
            if (!listed(have, name)) /* each once */
                snprintf(have + used, sizeof have - used, "%s%s", used ? "," : "", name);
        }
        if (!found) {
            err_set(err, ERR_USAGE, "the study has no %s \"%.*s\"", what, n, p);
            return err_hint(err, "It has: %s.", have);
        }
    }
    return 0;
}

static int parse_ranks(struct cells *s, const char *list, struct err *err)
{
    int64_t ranks[16];
    int n = 0;

    for (const char *p = list;; p++) {
        char *end;
        const long long value = strtoll(p, &end, 10);

        if (end == p || value < 1 || value > CELLS_MAX_RANKS || (*end != ',' && *end != '\0') || n == COUNT_OF(ranks)) {
            err_set(err, ERR_USAGE, "--ranks \"%.60s\" is no list of at most 16 rank counts", list);
            return err_hint(err, "Write them with commas between: --ranks 1,2.");
        }
        ranks[n++] = value;
        p = end;
        if (*p == '\0')
            break;
    }
    return set_ranks(s, ranks, n, err);
}

static int check_cells(const struct cells *s, struct err *err)
{
    for (int i = 0; i < s->n_cells; i++) {
        const struct cell *c = &s->cells[i];

        for (int k = 0; k < i; k++)
            if (s->cells[k].ranks == c->ranks && strcmp(s->cells[k].name, c->name) == 0 &&
                strcmp(s->cells[k].phase, c->phase) == 0)
                return err_set(err, ERR_USAGE, "two %s cells have the name \"%.80s\"", c->phase, c->name);
        if (cells_baseline(s, i) < 0) {
            err_set(err, ERR_USAGE, "the baseline \"%.80s\" of cell \"%.80s\" is no %s cell at %" PRId64 " ranks",
                    c->baseline, c->name, c->phase, c->ranks);
            return err_hint(err, "A ratio compares cells of one phase and one rank count; name such a cell.");
        }
    }
    return 0;
}

static bool has_cell(const struct cells *s, const struct cell *c)
{
    for (int i = 0; i < s->n_cells; i++)
        if (strcmp(s->cells[i].name, c->name) == 0 && strcmp(s->cells[i].phase, c->phase) == 0)
            return true;
    return false;
}

/* The cells of one phase: all of one rank count, then all of the next. Commands start what they start: they stand once. */
static int expand_phase(struct cells *to, const struct cells *from, const char *phase,
                        const struct cells_choice *choice, struct err *err)
{
    const int n_ranks = from->n_ranks > 0 ? from->n_ranks : 1;

    for (int k = 0; k < n_ranks; k++)
        for (int i = 0; i < from->n_cells; i++) {
            const struct cell *template = &from->cells[i];
            const int64_t ranks = template->is_command || from->n_ranks == 0 ? 1 : from->ranks[k];
            const bool once = template->is_command || (template->few_ranks && !choice->ranks);

            if (strcmp(template->phase, phase) == 0 && chosen(from, choice, template) && (k == 0 || !once) &&
                expand(to, from, choice, template, ranks, err) < 0)
                return -1;
        }
    return 0;
}

static bool begins_phase(const struct cells *s, int cell)
{
    for (int i = 0; i < cell; i++)
        if (strcmp(s->cells[i].phase, s->cells[cell].phase) == 0)
            return false;
    return true;
}

static int expand_all(struct cells *to, const struct cells *from, const struct cells_choice *choice, struct err *err)
{
    for (int i = 0; i < CELLS_N_PHASES; i++)
        if (expand_phase(to, from, cells_phases[i], choice, err) != 0)
            return -1;
    for (int i = 0; i < from->n_cells; i++) /* the phases of commands, in the order in which they first appear */
        if (cells_phase(from->cells[i].phase) < 0 && begins_phase(from, i) &&
            expand_phase(to, from, from->cells[i].phase, choice, err) != 0)
            return -1;
    for (int i = 0; i < from->n_cells; i++)
        if (chosen(from, choice, &from->cells[i]) && !has_cell(to, &from->cells[i]) &&
            (choice->cells || !from->builtin)) {
            err_set(err, ERR_USAGE, "cell \"%.80s\" needs more ranks than the study has", from->cells[i].name);
            return err_hint(err, "Add a larger rank count: --ranks 1,2, or \"ranks: [1, 2]\" in the study file.");
        }
    return 0;
}

int cells_finish(struct cells *s, const struct cells_choice *choice, struct err *err)
{
    struct cells full = { 0 };

    if (replace(&s->model, choice->model, err) != 0 || replace(&s->reward_model, choice->reward_model, err) != 0 ||
        replace(&s->data, choice->data, err) != 0)
        return -1;
    if (choice->blocks > 0)
        s->blocks = choice->blocks;
    if (choice->ranks && parse_ranks(s, choice->ranks, err) != 0)
        return -1;
    if ((choice->phases && check_list(s, choice->phases, "phase", phase_of, err) != 0) ||
        (choice->cells && check_list(s, choice->cells, "cell", name_of, err) != 0))
        return -1;
    if (expand_all(&full, s, choice, err) != 0 || check_cells(&full, err) != 0) {
        cells_free(&full);
        return -1;
    }
    if (full.n_cells == 0)
        return err_set(err, ERR_USAGE, "the study has no cells");
    for (int i = 0; i < s->n_cells; i++)
        cell_free(&s->cells[i]);
    mem_free(s->cells);
    s->cells = full.cells;
    s->n_cells = full.n_cells;
    return 0;
}

bool cells_have_phase(const struct cells *s, const char *phase)
{
    for (int i = 0; i < s->n_cells; i++)
        if (!s->cells[i].is_command && (!phase || strcmp(s->cells[i].phase, phase) == 0))
            return true;
    return false;
}

int cells_baseline(const struct cells *s, int cell)
{
    const struct cell *c = &s->cells[cell];

    for (int i = 0; i < s->n_cells; i++)
        if (s->cells[i].ranks == c->ranks && strcmp(s->cells[i].name, c->baseline) == 0 &&
            strcmp(s->cells[i].phase, c->phase) == 0)
            return i;
    return -1;
}

/* Fisher and Yates's shuffle, from a stream of its own for each block. */
void cells_order(const struct cells *s, int64_t block, int *order)
{
    struct rng r = { .seed = (uint64_t)s->seed, .purpose = RNG_STUDY, .stream = (uint32_t)block };

    for (int i = 0; i < s->n_cells; i++)
        order[i] = i;
    for (int i = s->n_cells - 1; i > 0; i--) {
        const int k = (int)rng_below(&r, (uint32_t)i + 1), kept = order[i];

        order[i] = order[k];
        order[k] = kept;
    }
}

/* ---- As stored ---- */

static json_t *words_json(const struct words *w)
{
    json_t *list = json_array();

    for (int i = 0; i < w->n; i++)
        json_array_append_new(list, json_string(w->v[i]));
    return list;
}

/* Only what is there: files of earlier versions have no such keys. */
static void add_command(json_t *one, const struct cell *c)
{
    if (c->is_command && strcmp(c->phase, "command") != 0)
        json_object_set_new(one, "command", json_true());
    if (c->environment.n > 0)
        json_object_set_new(one, "environment", words_json(&c->environment));
    if (c->folder)
        json_object_set_new(one, "folder", json_string(c->folder));
    if (c->loss_pattern)
        json_object_set_new(one, "loss_pattern", json_string(c->loss_pattern));
}

json_t *cells_json(const struct cells *s)
{
    json_t *all = json_pack("{s:s, s:s?, s:s?, s:s?, s:I, s:I, s:I, s:f, s:[]}", "name", s->name, "model", s->model,
                            "reward_model", s->reward_model, "data", s->data, "blocks", (json_int_t)s->blocks, "warmup",
                            (json_int_t)s->warmup, "seed", (json_int_t)s->seed, "timeout", s->timeout_s, "cells");

    for (int i = 0; all && i < s->n_cells; i++) {
        const struct cell *c = &s->cells[i];
        json_t *one = json_pack("{s:s, s:s, s:s, s:I, s:b, s:o, s:o}", "name", c->name, "phase", c->phase, "baseline",
                                c->baseline, "ranks", (json_int_t)c->ranks, "exact", c->exact, "techniques",
                                words_json(&c->techniques), "argv", words_json(&c->argv));

        add_command(one, c);
        if (!one || json_array_append_new(json_object_get(all, "cells"), one) != 0) {
            json_decref(all);
            return NULL;
        }
    }
    return all;
}

/* Files of earlier versions lack keys that are null now. */
static bool same(const json_t *a, const json_t *b)
{
    return json_equal(a, b) || ((!a || json_is_null(a)) && (!b || json_is_null(b)));
}

static void say_difference(const char *what, const json_t *a, const json_t *b, char *out, size_t size)
{
    char *before = a ? json_dumps(a, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;
    char *now = b ? json_dumps(b, JSON_ENCODE_ANY | JSON_COMPACT) : NULL;

    snprintf(out, size, "%s was %.200s and is now %.200s", what, before ? before : "absent", now ? now : "absent");
    free(before);
    free(now);
}

bool cells_difference(const json_t *stored, const json_t *asked, char *out, size_t size)
{
    static const char *const keys[] = {
        "name", "model", "reward_model", "data", "blocks", "warmup", "seed", "timeout"
    };
    const json_t *before = json_object_get(stored, "cells"), *now = json_object_get(asked, "cells");

    for (int i = 0; i < COUNT_OF(keys); i++) {
        const json_t *a = json_object_get(stored, keys[i]), *b = json_object_get(asked, keys[i]);

        if (!same(a, b)) {
            say_difference(keys[i], a, b, out, size);
            return true;
        }
    }
    if (json_array_size(before) != json_array_size(now)) {
        snprintf(out, size, "it had %zu cells and has now %zu", json_array_size(before), json_array_size(now));
        return true;
    }
    for (size_t i = 0; i < json_array_size(now); i++) {
        char what[32];

        if (json_equal(json_array_get(before, i), json_array_get(now, i)))
            continue;
        snprintf(what, sizeof what, "cell %zu", i + 1);
        say_difference(what, json_array_get(before, i), json_array_get(now, i), out, size);
        return true;
    }
    return false;
}
