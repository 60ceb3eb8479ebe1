/* "tuneup tokenize": text -> ids and back, of words on the command line, of standard input as a whole, or of one JSON
 * value a line. An error names the line, and the lines before it have been answered. */
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "base/json.h"
#include "base/mem.h"
#include "cli/command.h"
#include "text/bpe.h"

struct tokenize_options {
    const char *model;
    bool jsonl, decode, json, bos;
};

static struct tokenize_options options;

static const struct option table[] = {
    { .name = "model",
      .alias = "model_name_or_path",
      .type = OPTION_STRING,
      .offset = offsetof(struct tokenize_options, model),
      .value = "DIR",
      .help = "folder with vocab.json and merges.txt, or tokenizer.json" },
    { .name = "decode",
      .type = OPTION_FLAG,
      .offset = offsetof(struct tokenize_options, decode),
      .help = "ids to text instead of text to ids" },
    { .name = "jsonl",
      .type = OPTION_FLAG,
      .offset = offsetof(struct tokenize_options, jsonl),
      .help = "read one JSON value a line from standard input, write one JSON object a line" },
    { .name = "json",
      .type = OPTION_FLAG,
      .offset = offsetof(struct tokenize_options, json),
      .help = "print a JSON object" },
    { .name = "bos",
      .type = OPTION_FLAG,
      .offset = offsetof(struct tokenize_options, bos),
      .fallback = "true",
      .help = "begin with the tokenizer's first id, as training does (--no-bos: without)" },
    { 0 },
};

static int sets(struct option_set *out)
{
    out[0] = (struct option_set){ .title = "Tokens", .options = table, .values = &options };
    return 1;
}

static int print_ids(const struct bpe *b, const char *text, size_t n, struct err *err)
{
    const bool json = options.json || options.jsonl;
    int32_t *ids;
    int64_t n_ids;

    if (bpe_encode(b, text, n, options.bos, &ids, &n_ids, err) != 0)
        return -1;
    fputs(json ? "{\"ids\": [" : "", stdout);
    for (int64_t i = 0; i < n_ids; i++)
        printf("%s%" PRId32, i == 0 ? "" : json ? ", " : " ", ids[i]);
    puts(json ? "]}" : "");
    mem_free(ids);
    return 0;
}

static int print_text(const struct bpe *b, const int32_t *ids, int64_t n_ids, struct err *err)
{
    char *text;
    size_t n;

    if (bpe_decode(b, ids, n_ids, &text, &n, err) != 0)
        return -1;
    if (options.json || options.jsonl) {
        json_t *object = json_pack("{s:o}", "text", json_stringn(text, n));
        if (object)
            json_dumpf(object, stdout, 0);
        else
            err_set(err, ERR_MEMORY, "could not allocate the text of %zu bytes", n);
        mem_free(text);
        if (!object)
            return -1;
        json_decref(object);
    } else {
        fwrite(text, 1, n, stdout);
        mem_free(text);
    }
    putchar('\n');
    return 0;
}

static int decode_list(const struct bpe *b, const json_t *list, struct err *err)
{
    const int64_t n = (int64_t)json_array_size(list);
    int32_t *ids = mem_array(n, 1, sizeof *ids, MEM_TEXT, err);
    int failed = ids ? 0 : -1;

    for (int64_t i = 0; !failed && i < n; i++) {
        const json_t *v = json_array_get(list, (size_t)i);
        const json_int_t id = json_integer_value(v);
        if (!json_is_integer(v) || id < INT32_MIN || id > INT32_MAX)
            failed = err_set(err, ERR_INPUT, "item %" PRId64 " of the ids is no whole number of 32 bits", i + 1);
        else
            ids[i] = (int32_t)id;
    }
    if (!failed)
        failed = print_text(b, ids, n, err);
    mem_free(ids);
    return failed;
}

/* One line's value, bare or in an object. */
static int convert_value(const struct bpe *b, const json_t *v, struct err *err)
{
    const char *key = options.decode ? "ids" : "text";
    const json_t *inner = json_is_object(v) ? json_object_get(v, key) : v;

    if (options.decode && json_is_array(inner))
        return decode_list(b, inner, err);
    if (!options.decode && json_is_string(inner))
        return print_ids(b, json_string_value(inner), json_string_length(inner), err);
    err_set(err, ERR_INPUT, "the line is neither %s nor an object that has it as \"%s\"",
            options.decode ? "a list of ids" : "a JSON string", key);
    return err_hint(err, options.decode ? "For example [2, 31414] or {\"ids\": [2, 31414]}."
                                        : "For example \"Hello\" or {\"text\": \"Hello\"}.");
}

static int convert_line(const struct bpe *b, const char *line, size_t n, int64_t number, struct err *err)
{
    static const char name[] = "standard input";

    if (number == 1 && n >= 3 && memcmp(line, "\xEF\xBB\xBF", 3) == 0) {
        line += 3;
        n -= 3;
    }
    if (strspn(line, " \t\r\n") == n)
        return 0;
    json_t *v = json_parse(line, n, name, number, err);
    if (!v)
        return -1;
    const int failed = convert_value(b, v, err);
    if (failed)
        err_where(err, "file \"%s\", line %" PRId64, name, number);
    json_decref(v);
    return failed;
}

static int convert_lines(const struct bpe *b, struct err *err)
{
    char *line = NULL;
    size_t room = 0;
    int failed = 0;
    ssize_t n;

    for (int64_t number = 1; !failed && (n = getline(&line, &room, stdin)) > 0; number++)
        failed = convert_line(b, line, (size_t)n, number, err);
    if (!failed && ferror(stdin))
        failed = err_errno(err, "could not read standard input");
    free(line);
    return failed;
}

static char *read_stdin(size_t *n, struct err *err)
{
    size_t room = 1 << 16;
    char *text = mem_array((int64_t)room, 1, 1, MEM_TEXT, err), *more = text;

    for (*n = 0; more; more = mem_resize(text, (int64_t)(room *= 2), 1, MEM_TEXT, err)) {
        text = more;
        *n += fread(text + *n, 1, room - 1 - *n, stdin);
        if (*n < room - 1)
            break;
    }
    if (more && !ferror(stdin))
        return text;
    if (more)
        err_errno(err, "could not read standard input");
    mem_free(text);
    return NULL;
}

/* The words with single spaces between them, or standard input where there are none. */
static char *plain_text(const struct command_line *line, size_t *n, struct err *err)
{
    size_t total = 1;
    char *text;

    if (line->n_words == 0)
        return read_stdin(n, err);
    for (int i = 0; i < line->n_words; i++)
        total += strlen(line->words[i]) + 1;
    text = mem_array((int64_t)total, 1, 1, MEM_TEXT, err);
    if (!text)
        return NULL;
    *n = 0;
    for (int i = 0; i < line->n_words; i++)
        *n += (size_t)snprintf(text + *n, total - *n, "%s%s", i ? " " : "", line->words[i]);
    return text;
}

/* "2 31414" or "[2, 31414]". */
static int decode_words(const struct bpe *b, const char *text, struct err *err)
{
    int32_t *ids = mem_array((int64_t)strlen(text) / 2 + 1, 1, sizeof *ids, MEM_TEXT, err);
    int64_t n = 0;
    int failed = ids ? 0 : -1;

    for (const char *s = text + strspn(text, " \t\r\n,[]"); !failed && *s; s += strspn(s, " \t\r\n,[]")) {
        char *end;
        const long long id = strtoll(s, &end, 10);
        if (end == s || id < INT32_MIN || id > INT32_MAX || !strchr(" \t\r\n,[]", *end))
            failed = err_set(err, ERR_USAGE, "\"%.*s\" is no id", (int)strcspn(s, " \t\r\n,[]"), s);
        else
            ids[n++] = (int32_t)id;
        s = end;
    }
    if (!failed)
        failed = print_text(b, ids, n, err);
    mem_free(ids);
    return failed;
}

static int convert_plain(const struct bpe *b, const struct command_line *line, struct err *err)
{
    size_t n;
    char *text = plain_text(line, &n, err);

    if (!text)
        return -1;
    const int failed = options.decode ? decode_words(b, text, err) : print_ids(b, text, n, err);
    mem_free(text);
    return failed;
}

static int run(struct command_line *line, struct err *err)
{
    struct bpe *b;

    if (!options.model) {
        err_set(err, ERR_USAGE, "no tokenizer is named");
        return err_hint(err, "Give the model's folder: tuneup tokenize --model DIR TEXT.");
    }
    if (options.jsonl && line->n_words > 0)
        return err_set(err, ERR_USAGE, "--jsonl reads standard input, but there are words too: \"%s\"", line->words[0]);
    if (bpe_open(&b, options.model, err) != 0)
        return -1;
    const int failed = options.jsonl ? convert_lines(b, err) : convert_plain(b, line, err);
    bpe_close(b);
    return failed;
}

const struct command cmd_tokenize = {
    .name = "tokenize",
    .summary = "text to token ids, and back",
    .usage = "tuneup tokenize --model DIR [TEXT...] [--decode] [--jsonl] [--json] [--no-bos]",
    .examples = "  tuneup tokenize --model opt-350m Hello, my dog is cute\n"
                "  tuneup tokenize --model opt-350m --decode 2 31414 6 127 2335\n"
                "  tuneup tokenize --model opt-350m --json < story.txt\n"
                "  tuneup tokenize --model opt-350m --jsonl < texts.jsonl > ids.jsonl\n",
    .details = "Without --jsonl the words are the text (standard input, if there are none), and ids are printed with\n"
               "spaces between. With it each input line is a JSON string or an object with \"text\", each output line\n"
               "{\"ids\": [...]}; with --decode a list or an object with \"ids\", and {\"text\": \"...\"}.",
    .sets = sets,
    .run = run,
};
