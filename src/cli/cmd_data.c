/* "tuneup data new" writes the built-in task data; "tuneup data check" says what a data file holds and what training
 * would make of it: lengths, what is cut, how much is padding, and what is wrong on which line. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/command.h"
#include "data/sample.h"
#include "data/source.h"
#include "data/task.h"
#include "text/bpe.h"

/* ---- data new ---- */

static struct new_options {
    int64_t records, eval_records, seed;
    struct task_options task;
    bool force;
} new_options;

static const struct option new_table[] = {
    { .name = "records",
      .type = OPTION_INT,
      .offset = offsetof(struct new_options, records),
      .fallback = "2000",
      .min = 1,
      .max = (double)TASK_MAX_RECORDS,
      .value = "N",
      .help = "records of train.jsonl" },
    { .name = "eval_records",
      .type = OPTION_INT,
      .offset = offsetof(struct new_options, eval_records),
      .fallback = "200",
      .min = 1,
      .max = (double)TASK_MAX_RECORDS,
      .value = "N",
      .help = "records of eval.jsonl; their questions are in no train.jsonl" },
    { .name = "seed",
      .type = OPTION_INT,
      .offset = offsetof(struct new_options, seed),
      .fallback = "1234",
      .min = 0,
      .max = 1e15,
      .value = "N",
      .help = "the same seed writes the same files" },
    { .name = "kinds",
      .type = OPTION_STRING,
      .offset = offsetof(struct new_options, task.kinds),
      .value = "A,B",
      .help = "these kinds of tasks alone; a wrong one gets the list" },
    { .name = "plain",
      .type = OPTION_FLAG,
      .offset = offsetof(struct new_options, task.plain),
      .help = "no talk around question and answer: for small models that learn in minutes" },
    { .name = "force",
      .type = OPTION_FLAG,
      .offset = offsetof(struct new_options, force),
      .help = "replace files that are there" },
    { 0 },
};

static int new_sets(struct option_set *out)
{
    out[0] = (struct option_set){ .title = "Data", .options = new_table, .values = &new_options };
    return 1;
}

static int write_side(const char *folder, const char *name, int64_t n, bool eval, struct err *err)
{
    char path[FILE_PATH_MAX];

    if (file_join(path, folder, name, err) != 0 ||
        task_write(path, n, (uint64_t)new_options.seed, eval, &new_options.task, err) != 0)
        return -1;
    log_note("%s: %" PRId64 " records", path, n);
    return 0;
}

static int refuse_existing(const char *folder, const char *name, struct err *err)
{
    char path[FILE_PATH_MAX];

    if (file_join(path, folder, name, err) != 0)
        return -1;
    if (new_options.force || !file_exists(path))
        return 0;
    err_set(err, ERR_USAGE, "\"%s\" is there already", path);
    return err_hint(err, "Name another folder, or replace it with --force.");
}

static int run_new(struct command_line *line, struct err *err)
{
    if (line->n_words != 1) {
        err_set(err, ERR_USAGE, "data new needs one folder, %d words were given", line->n_words);
        return err_hint(err, "tuneup data new my-data");
    }
    const char *folder = line->words[0];
    if (refuse_existing(folder, "train.jsonl", err) != 0 || refuse_existing(folder, "eval.jsonl", err) != 0 ||
        file_make_dir(folder, err) != 0 || write_side(folder, "train.jsonl", new_options.records, false, err) != 0 ||
        write_side(folder, "eval.jsonl", new_options.eval_records, true, err) != 0)
        return -1;
    return 0;
}

const struct command cmd_data_new = {
    .name = "data new",
    .summary = "write the built-in task data",
    .usage = "tuneup data new DIR [options]",
    .examples = "  tuneup data new my-data\n"
                "  tuneup data new my-data --records 20000 --seed 7\n"
                "  tuneup data new my-data --plain --kinds fastest,oldest,largest\n",
    .details = "Writes DIR/train.jsonl and DIR/eval.jsonl: preference records (prompt, chosen, rejected) of everyday\n"
               "tasks whose answers can be checked, with lengths like those of real preference data.",
    .sets = new_sets,
    .run = run_new,
};

/* ---- data check ---- */

static struct check_options {
    const char *model;
    int64_t max_seq_len;
    bool json;
} check_options;

static const struct option check_table[] = {
    { .name = "model_name_or_path",
      .alias = "model",
      .type = OPTION_STRING,
      .offset = offsetof(struct check_options, model),
      .value = "DIR",
      .help = "folder with the tokenizer, for lengths in ids; without it they are bytes" },
    { .name = "max_seq_len",
      .type = OPTION_INT,
      .offset = offsetof(struct check_options, max_seq_len),
      .fallback = "512",
      .min = 2,
      .max = 1e9,
      .value = "N",
      .help = "length to which training would cut and pad" },
    { .name = "json",
      .type = OPTION_FLAG,
      .offset = offsetof(struct check_options, json),
      .help = "print one JSON object" },
    { 0 },
};

static int check_sets(struct option_set *out)
{
    out[0] = (struct option_set){ .title = "Check", .options = check_table, .values = &check_options };
    return 1;
}

enum text { PROMPT, CHOSEN, REJECTED, N_TEXTS };

static const char *const text_names[] = { "prompt", "prompt + chosen", "prompt + rejected" };
static const char *const text_keys[] = { "prompt", "prompt_chosen", "prompt_rejected" };

/* What is said of one file. */
struct check {
    struct source source;
    int64_t n_fields[N_TEXTS], n_empty, n_alike; /* records with the field, with an empty text, with equal answers */
    int64_t first_empty, first_alike; /* lines */
    struct sample_stats stats[N_TEXTS];
};

static void look_at_fields(struct check *c)
{
    for (int64_t i = 0; i < c->source.n_records; i++) {
        const struct record_text *r = &c->source.records[i];
        const bool empty =
            (r->prompt && !r->prompt_n) || (r->chosen && !r->chosen_n) || (r->rejected && !r->rejected_n);
        const bool alike = r->chosen && r->rejected && r->chosen_n == r->rejected_n &&
                           memcmp(r->chosen, r->rejected, r->chosen_n) == 0;

        c->n_fields[PROMPT] += r->prompt != NULL;
        c->n_fields[CHOSEN] += r->chosen != NULL;
        c->n_fields[REJECTED] += r->rejected != NULL;
        if (empty && c->n_empty++ == 0)
            c->first_empty = r->line;
        if (alike && c->n_alike++ == 0)
            c->first_alike = r->line;
    }
}

/* The length of the two texts as one: in ids with the begin and, behind an answer, the end; or in bytes. */
static int length_of(const struct bpe *bpe, const char *a, size_t a_n, const char *b, size_t b_n, int64_t *out,
                     struct err *err)
{
    int32_t *ids = NULL;

    *out = (int64_t)(a_n + b_n);
    if (!bpe)
        return 0;
    char *text = mem_array(*out, 1, 1, MEM_DATA, err);
    if (!text)
        return -1;
    memcpy(text, a, a_n);
    if (b)
        memcpy(text + a_n, b, b_n);
    const int result = bpe_encode(bpe, text, a_n + b_n, true, &ids, out, err);
    *out += b != NULL;
    mem_free(ids);
    mem_free(text);
    return result;
}

static int measure(struct check *c, enum text which, const struct bpe *bpe, struct err *err)
{
    int64_t *lengths = mem_array(c->source.n_records, 1, sizeof *lengths, MEM_DATA, err), n = 0;
    int result = lengths ? 0 : -1;

    for (int64_t i = 0; i < c->source.n_records && result == 0; i++) {
        const struct record_text *r = &c->source.records[i];
        const char *answer = which == CHOSEN ? r->chosen : which == REJECTED ? r->rejected : NULL;
        const size_t answer_n = which == CHOSEN ? r->chosen_n : which == REJECTED ? r->rejected_n : 0;
        if (r->prompt && (which == PROMPT || answer))
            result = length_of(bpe, r->prompt, r->prompt_n, answer, answer_n, &lengths[n++], err);
    }
    if (result == 0)
        sample_stats_of(lengths, n, check_options.max_seq_len, &c->stats[which]);
    mem_free(lengths);
    return result;
}

static int check_file(struct check *c, const char *path, const struct bpe *bpe, struct err *err)
{
    if (source_load(&c->source, path, true, err) != 0)
        return -1;
    look_at_fields(c);
    for (int i = 0; i < N_TEXTS; i++)
        if (measure(c, (enum text)i, bpe, err) != 0)
            return -1;
    return 0;
}

static void print_problems(const struct check *c)
{
    const struct source *s = &c->source;
    char safe[1024];

    if (c->n_empty)
        printf("note        %" PRId64 " records have an empty text, the first on line %" PRId64 "\n", c->n_empty,
               c->first_empty);
    if (c->n_alike)
        printf("note        %" PRId64 " records have equal answers, the first on line %" PRId64 "\n", c->n_alike,
               c->first_alike);
    for (int64_t i = 0; i < s->n_skipped && i < SOURCE_MAX_PROBLEMS; i++)
        printf("bad record  line %" PRId64 ": %s\n", s->problems[i].line,
               log_safe(safe, sizeof safe, s->problems[i].what));
    if (s->n_skipped > SOURCE_MAX_PROBLEMS)
        printf("            and %" PRId64 " more\n", s->n_skipped - SOURCE_MAX_PROBLEMS);
}

static void print_check(const struct check *c)
{
    const struct source *s = &c->source;
    char safe[FILE_PATH_MAX];

    printf("file        %s\n", log_safe(safe, sizeof safe, s->name));
    printf("records     %" PRId64 " good, %" PRId64 " bad\n", s->n_records, s->n_skipped);
    printf("fields      prompt %" PRId64 ", chosen %" PRId64 ", rejected %" PRId64 "\n\n", c->n_fields[PROMPT],
           c->n_fields[CHOSEN], c->n_fields[REJECTED]);
    printf("%-18s %8s %8s %8s %8s %8s %12s\n", check_options.model ? "length in ids" : "length in bytes", "10 %",
           "50 %", "90 %", "99 %", "longest", "sum");
    for (int i = 0; i < N_TEXTS; i++) {
        const struct sample_stats *t = &c->stats[i];
        if (t->n_rows)
            printf("%-18s %8" PRId64 " %8" PRId64 " %8" PRId64 " %8" PRId64 " %8" PRId64 " %12" PRId64 "\n",
                   text_names[i], t->p10, t->p50, t->p90, t->p99, t->longest, t->total);
    }
    putchar('\n');
    for (int i = CHOSEN; i < N_TEXTS && check_options.model; i++) {
        const struct sample_stats *t = &c->stats[i];
        if (t->n_rows)
            printf("%s at %" PRId64 " ids: %" PRId64 " cut (%.1f %%, %" PRId64 " ids lost), %.1f %% padding\n",
                   text_names[i], t->limit, t->n_cut, 100.0 * (double)t->n_cut / (double)t->n_rows, t->total_cut,
                   100 * t->padding);
    }
    print_problems(c);
}

/* NULL where there is no such text: never a 0 that looks measured. */
static json_t *stats_json(const struct sample_stats *t, bool limit)
{
    if (t->n_rows == 0)
        return json_null();
    json_t *o = json_pack("{s:I, s:I, s:I, s:I, s:I, s:I, s:I}", "records", (json_int_t)t->n_rows, "p10",
                          (json_int_t)t->p10, "p50", (json_int_t)t->p50, "p90", (json_int_t)t->p90, "p99",
                          (json_int_t)t->p99, "longest", (json_int_t)t->longest, "sum", (json_int_t)t->total);
    if (o && limit) {
        json_object_set_new(o, "cut", json_integer(t->n_cut));
        json_object_set_new(o, "ids_lost", json_integer(t->total_cut));
        json_object_set_new(o, "padding", json_real(t->padding));
    }
    return o;
}

static json_t *check_json(const struct check *c)
{
    const struct source *s = &c->source;
    json_t *lengths = json_object(), *problems = json_array();

    for (int i = 0; i < N_TEXTS; i++)
        json_object_set_new(lengths, text_keys[i], stats_json(&c->stats[i], check_options.model && i != PROMPT));
    for (int64_t i = 0; i < s->n_skipped && i < SOURCE_MAX_PROBLEMS; i++)
        json_array_append_new(
            problems, json_pack("{s:I, s:s}", "line", (json_int_t)s->problems[i].line, "what", s->problems[i].what));
    return json_pack("{s:s, s:I, s:I, s:{s:I, s:I, s:I}, s:s, s:I, s:o, s:I, s:I, s:o}", "file", s->name, "records",
                     (json_int_t)s->n_records, "bad", (json_int_t)s->n_skipped, "fields", "prompt",
                     (json_int_t)c->n_fields[PROMPT], "chosen", (json_int_t)c->n_fields[CHOSEN], "rejected",
                     (json_int_t)c->n_fields[REJECTED], "unit", check_options.model ? "ids" : "bytes", "max_seq_len",
                     (json_int_t)check_options.max_seq_len, "lengths", lengths, "empty", (json_int_t)c->n_empty,
                     "equal_answers", (json_int_t)c->n_alike, "problems", problems);
}

static int show(const struct check *c, struct err *err)
{
    if (!check_options.json) {
        print_check(c);
        return 0;
    }
    json_t *o = check_json(c);
    const int result = o ? json_dumpf(o, stdout, JSON_COMPACT) : -1;
    json_decref(o);
    if (result != 0)
        return err_set(err, ERR_SYSTEM, "could not print what was found in \"%s\"", c->source.name);
    putchar('\n');
    return 0;
}

/* 0, or 2 when the file has bad records, or -1. */
static int check_and_show(const char *path, const struct bpe *bpe, struct err *err)
{
    struct check *c = mem_array(1, 1, sizeof *c, MEM_DATA, err);

    if (!c)
        return -1;
    int result = check_file(c, path, bpe, err);
    if (result == 0)
        result = show(c, err);
    if (result == 0 && c->source.n_skipped)
        result = 2;
    source_free(&c->source);
    mem_free(c);
    return result;
}

static int run_check(struct command_line *line, struct err *err)
{
    char train[FILE_PATH_MAX], eval[FILE_PATH_MAX];
    struct bpe *bpe = NULL;

    if (line->n_words != 1) {
        err_set(err, ERR_USAGE, "data check needs one file or folder, %d words were given", line->n_words);
        return err_hint(err, "tuneup data check my-data/train.jsonl");
    }
    if (source_find(line->words[0], train, eval, err) < 0 ||
        (check_options.model && bpe_open(&bpe, check_options.model, err) != 0))
        return -1;
    int result = check_and_show(train, bpe, err);
    if (result >= 0 && eval[0]) {
        if (!check_options.json)
            putchar('\n');
        const int second = check_and_show(eval, bpe, err);
        result = second < 0 || second > result ? second : result;
    }
    bpe_close(bpe);
    return result;
}

const struct command cmd_data_check = {
    .name = "data check",
    .summary = "what a data file holds, and what would be cut",
    .usage = "tuneup data check FILE|DIR [options]",
    .examples = "  tuneup data check my-data/train.jsonl\n"
                "  tuneup data check my-data --model models/opt-125m --max_seq_len 256\n",
    .details =
        "Reads JSON lines or a JSON array, also .gz, with prompt, chosen, rejected; a folder with train.jsonl and\n"
        "eval.jsonl is checked file by file (--json: one object a line). Bad records are listed with their lines\n"
        "and make the exit status 2.",
    .sets = check_sets,
    .run = run_check,
};
