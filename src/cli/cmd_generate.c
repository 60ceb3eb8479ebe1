/* tuneup generate: prompts of the command line or of a file -> what the model writes after them, batch by batch. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/log.h"
#include "base/mem.h"
#include "cli/command.h"
#include "cli/show.h"
#include "data/source.h"
#include "measure/clock.h"
#include "run/generation.h"
#include "text/stream.h"

#define MAX_FILE_BYTES ((size_t)1 << 31)

static struct generation_options options;
static struct generate_words {
    const char *prompt, *prompts;
    int64_t batch;
    bool json;
} words;

static const struct option table[] = {
    { .name = "prompt",
      .type = OPTION_STRING,
      .offset = offsetof(struct generate_words, prompt),
      .value = "TEXT",
      .help = "what the model goes on from; may be given many times" },
    { .name = "prompts",
      .type = OPTION_STRING,
      .offset = offsetof(struct generate_words, prompts),
      .value = "FILE",
      .help = "one prompt a line, or JSON records with \"prompt\" (.gz too)" },
    { .name = "batch_size",
      .type = OPTION_INT,
      .offset = offsetof(struct generate_words, batch),
      .fallback = "8",
      .min = 1,
      .max = 4096,
      .value = "N",
      .help = "prompts that are answered at a time" },
    { .name = "json",
      .type = OPTION_FLAG,
      .offset = offsetof(struct generate_words, json),
      .help = "one JSON object a prompt" },
    { 0 },
};

static int sets(struct option_set *out)
{
    out[0] = (struct option_set){ .title = "Prompts", .options = table, .values = &words };
    return 1 + generation_sets(&options, &out[1]);
}

/* ---- prompts: text, then ids */

struct prompt {
    char *text; /* owned, as are ids */
    size_t n;
    int64_t line; /* of the file; 0: of the command line */
    int32_t *ids;
    int64_t n_ids;
};

struct prompt_list {
    struct prompt *items;
    int64_t n, room;
};

static void free_list(struct prompt_list *l)
{
    for (int64_t i = 0; i < l->n; i++) {
        mem_free(l->items[i].text);
        mem_free(l->items[i].ids);
    }
    mem_free(l->items);
    *l = (struct prompt_list){ 0 };
}

static int add_prompt(struct prompt_list *l, const char *text, size_t n, int64_t line, struct err *err)
{
    if (l->n == l->room) {
        struct prompt *grown = mem_resize(l->items, 2 * l->room + 16, sizeof *grown, MEM_TEXT, err);
        if (!grown)
            return -1;
        l->items = grown;
        l->room = 2 * l->room + 16;
    }
    char *copy = mem_strndup(text, n, MEM_TEXT, err);
    if (!copy)
        return -1;
    l->items[l->n++] = (struct prompt){ .text = copy, .n = n, .line = line };
    return 0;
}

static int read_records(struct prompt_list *l, const char *path, struct err *err)
{
    struct source s;
    int result = source_load(&s, path, false, err);

    for (int64_t i = 0; result == 0 && i < s.n_records; i++) {
        const struct record_text *r = &s.records[i];
        if (r->prompt) {
            result = add_prompt(l, r->prompt, r->prompt_n, r->line, err);
            continue;
        }
        result = err_set(err, ERR_INPUT, "a record has no \"prompt\"");
        err_where(err, "file \"%s\", line %" PRId64, path, r->line);
    }
    source_free(&s);
    return result;
}

static int read_lines(struct prompt_list *l, const char *text, size_t n, struct err *err)
{
    int64_t line = 0;

    for (size_t at = 0, end; at < n; at = end + 1) {
        const char *stop = memchr(text + at, '\n', n - at);
        end = stop ? (size_t)(stop - text) : n;
        const size_t bytes = end - at - (end > at && text[end - 1] == '\r');
        line++;
        if (bytes > 0 && add_prompt(l, text + at, bytes, line, err) != 0)
            return -1;
    }
    return 0;
}

/* JSON and gzip are told apart from lines of text by how they begin. */
static int read_file(struct prompt_list *l, const char *path, struct err *err)
{
    size_t n;
    char *text = file_read(path, MAX_FILE_BYTES, &n, err);

    if (!text)
        return -1;
    const size_t mark = n >= 3 && memcmp(text, "\xEF\xBB\xBF", 3) == 0 ? 3 : 0;
    const char first = text[mark + strspn(text + mark, " \t\r\n")];
    const bool records = first == '{' || first == '[' || (n >= 2 && memcmp(text, "\x1f\x8b", 2) == 0);
    int result = records ? read_records(l, path, err) : read_lines(l, text + mark, n - mark, err);
    mem_free(text);
    if (result == 0 && l->n == 0) {
        result = err_set(err, ERR_INPUT, "there is no prompt in the file");
        err_where(err, "file \"%s\"", path);
    }
    return result;
}

static int collect(struct prompt_list *l, const struct command_line *line, struct err *err)
{
    if (line->n_words > 0 || (!words.prompt && !words.prompts)) {
        err_set(err, ERR_USAGE, line->n_words > 0 ? "\"%s\" is no option" : "there is no prompt%.0s",
                line->n_words > 0 ? line->words[0] : "");
        return err_hint(err, "For example: tuneup generate --model DIR --prompt \"Once upon a time\"");
    }
    for (int i = 0; i < line->n_given; i++)
        if (line->given[i].option == &table[0] &&
            add_prompt(l, line->given[i].text, strlen(line->given[i].text), 0, err) != 0)
            return -1;
    return words.prompts ? read_file(l, words.prompts, err) : 0;
}

/* The prompt, and what err says already. */
static int say_where(const struct prompt *p, int64_t i, struct err *err)
{
    char inner[128];

    snprintf(inner, sizeof inner, "%s%.100s", err->where[0] ? ", " : "", err->where);
    if (p->line > 0)
        return err_where(err, "file \"%s\", line %" PRId64 "%s", words.prompts, p->line, inner);
    return err_where(err, "prompt %" PRId64 "%s", i + 1, inner);
}

static int encode(struct prompt_list *l, const struct generation *g, int64_t *longest, struct err *err)
{
    const int64_t positions = g->positions;

    *longest = 0;
    for (int64_t i = 0; i < l->n; i++) {
        struct prompt *p = &l->items[i];
        if (p->n == 0) {
            err_set(err, ERR_USAGE, "a prompt is empty");
            return say_where(p, i, err);
        }
        if (bpe_encode(g->tokenizer, p->text, p->n, true, &p->ids, &p->n_ids, err) != 0)
            return say_where(p, i, err);
        if (p->n_ids >= positions) {
            err_set(err, ERR_INPUT, "a prompt has %" PRId64 " ids, the model has %" PRId64 " positions", p->n_ids,
                    positions);
            err_hint(err, "Shorten it: the answer needs positions too.");
            return say_where(p, i, err);
        }
        *longest = p->n_ids > *longest ? p->n_ids : *longest;
    }
    return 0;
}

/* ---- answers */

struct answering {
    struct generation *g;
    struct stream stream;
    bool live; /* text appears as it is made */
    double started_s, first_s;
};

static void show(struct span s)
{
    show_text(s.s, s.n);
}

static int on_column(void *context, const struct generated *r, int64_t step, struct err *err)
{
    struct answering *a = context;

    (void)err;
    if (step == 1)
        a->first_s = clock_seconds();
    if (a->live)
        show(stream_push(&a->stream, r->ids[r->end[0] - 1]));
    return 0;
}

static char *answer_text(struct answering *a, const int32_t *ids, int64_t n_ids, size_t *n, struct err *err)
{
    char *text = mem_array(1, 1, 1, MEM_TEXT, err), *grown = text;

    stream_restart(&a->stream);
    *n = 0;
    for (int64_t i = 0; grown && i <= n_ids; i++) {
        const struct span s = i < n_ids ? stream_push(&a->stream, ids[i]) : stream_end(&a->stream);
        grown = mem_resize(text, (int64_t)(*n + s.n + 1), 1, MEM_TEXT, err);
        if (!grown)
            break;
        text = grown;
        if (s.n)
            memcpy(text + *n, s.s, s.n);
        *n += s.n;
    }
    if (!grown) {
        mem_free(text);
        return NULL;
    }
    return text;
}

static int print_json(struct answering *a, const struct prompt *p, int64_t row, double seconds, struct err *err)
{
    const struct generated *r = &a->g->generator.result;
    const int32_t *ids = r->ids + row * r->S + r->prompt_end[row];
    const int64_t n_ids = r->end[row] - r->prompt_end[row];
    size_t n;
    char *text = answer_text(a, ids, n_ids, &n, err);
    json_t *list = json_array();

    for (int64_t i = 0; i < n_ids; i++)
        json_array_append_new(list, json_integer(ids[i]));
    json_t *o = !text ? NULL
                      : json_pack("{s:o, s:o, s:I, s:f, s:I, s:s}", "ids", list, "text", json_stringn(text, n),
                                  "new_tokens", (json_int_t)n_ids, "seconds", seconds, "prompt_tokens",
                                  (json_int_t)p->n_ids, "finish", r->ended[row] ? "end" : "length");
    mem_free(text);
    if (!text)
        json_decref(list);
    if (!o)
        return text ? err_set(err, ERR_MEMORY, "could not allocate an answer") : -1;
    json_dumpf(o, stdout, 0);
    putchar('\n');
    json_decref(o);
    return 0;
}

static int print_answer(struct answering *a, const struct prompt_list *l, int64_t i, int64_t row, double seconds,
                        struct err *err)
{
    const struct generated *r = &a->g->generator.result;

    if (words.json)
        return print_json(a, &l->items[i], row, seconds, err);
    if (l->n > 1)
        printf("%s==> %" PRId64 " <==\n", i > 0 ? "\n" : "", i + 1);
    for (int32_t s = r->prompt_end[row]; !a->live && s < r->end[row]; s++)
        show(stream_push(&a->stream, r->ids[row * r->S + s]));
    show(stream_end(&a->stream));
    stream_restart(&a->stream);
    putchar('\n');
    return 0;
}

static void tell_rate(const struct answering *a, int64_t n_rows, double end_s)
{
    const struct generated *r = &a->g->generator.result;
    int64_t n_new = 0, n_prompt = 0;

    for (int64_t b = 0; b < n_rows; b++) {
        n_new += r->end[b] - r->prompt_end[b];
        n_prompt += r->prompt_end[b];
    }
    const double rest_s = end_s - a->first_s;
    const double rate = n_new > n_rows && rest_s > 0 ? (double)(n_new - n_rows) / rest_s : 0;
    log_note("%" PRId64 " prompt tokens in %.2f s, then %" PRId64 " tokens in %.2f s: %.1f tokens/s", n_prompt,
             a->first_s - a->started_s, n_new, rest_s, rate);
}

/* Prompts first .. first+n-1 of the list, as one batch. */
static int answer_batch(struct answering *a, const struct prompt_list *l, int64_t first, int64_t n, int64_t P,
                        struct err *err)
{
    int32_t *ids = mem_array(n, P, sizeof *ids, MEM_TEXT, err);
    int32_t *bounds = mem_array(n, 2, sizeof *bounds, MEM_TEXT, err);
    int64_t *rows = mem_array(n, 1, sizeof *rows, MEM_TEXT, err);
    int result = -1;

    if (!ids || !bounds || !rows)
        goto done;
    for (int64_t b = 0; b < n; b++) {
        const struct prompt *p = &l->items[first + b];
        memcpy(ids + b * P, p->ids, (size_t)p->n_ids * sizeof *ids);
        bounds[n + b] = (int32_t)p->n_ids;
        rows[b] = first + b;
    }
    const struct prompts p = { .B = n, .P = P, .ids = ids, .begin = bounds, .end = bounds + n, .rows = rows };
    a->started_s = clock_seconds();
    if (generator_run(&a->g->generator, &p, err) != 0)
        goto done;
    const double end_s = clock_seconds();
    result = 0;
    for (int64_t b = 0; b < n && result == 0; b++)
        result = print_answer(a, l, first + b, b, end_s - a->started_s, err);
    tell_rate(a, n, end_s);
done:
    mem_free(ids);
    mem_free(bounds);
    mem_free(rows);
    return result;
}

static int answer_all(struct generation *g, const struct prompt_list *l, int64_t longest, struct err *err)
{
    const int64_t B = l->n < words.batch ? l->n : words.batch, positions = g->positions;
    const int64_t wanted = longest + options.max_new_tokens;
    struct answering a = { .g = g, .live = l->n == 1 && !words.json };
    int result = generation_start(g, B, wanted < positions ? wanted : positions, err);

    if (result == 0)
        result = stream_init(&a.stream, g->tokenizer, "", err);
    g->generator.options.hook = on_column;
    g->generator.options.hook_context = &a;
    for (int64_t first = 0; result == 0 && first < l->n; first += B)
        result = answer_batch(&a, l, first, l->n - first < B ? l->n - first : B, longest, err);
    if (result == 0)
        result = generation_check_files(g, err);
    g->generator.options.hook = NULL;
    g->generator.options.hook_context = NULL;
    stream_free(&a.stream);
    return result;
}

static int run(struct command_line *line, struct err *err)
{
    struct generation g = { 0 };
    struct prompt_list l = { 0 };
    int64_t longest = 0;
    int result = collect(&l, line, err);

    if (result == 0)
        result = generation_open(&g, &options, err);
    if (result == 0)
        result = encode(&l, &g, &longest, err);
    if (result == 0)
        result = answer_all(&g, &l, longest, err);
    generation_close(&g);
    free_list(&l);
    return result;
}

const struct command cmd_generate = {
    .name = "generate",
    .summary = "text from a model: what it writes after a prompt",
    .usage = "tuneup generate --model DIR (--prompt TEXT | --prompts FILE) [options]",
    .examples = "  tuneup generate --model out --prompt \"Once upon a time\"\n"
                "  tuneup generate --model out --prompt \"2 + 2 =\" --max_new_tokens 8 --temperature 0 --json\n"
                "  tuneup generate --model out --prompts questions.jsonl --batch_size 16 --json > answers.jsonl\n"
                "  tuneup generate --model out --prompt $'\\n\\nHuman: How are you?\\n\\nAssistant:'\n",
    .details =
        "The answer to a single prompt appears as it is made. With --json each prompt gives one line, in the order "
        "given:\n"
        "{\"ids\": new ids with the end token, \"text\", \"new_tokens\", \"seconds\" of its batch, \"prompt_tokens\",\n"
        "\"finish\": \"end\" or \"length\"}. An answer ends at the end token, at --max_new_tokens or at the model's "
        "last\n"
        "position. Draws depend on --seed and the prompt's number alone, not on --batch_size.",
    .computes = true,
    .sets = sets,
    .run = run,
};
