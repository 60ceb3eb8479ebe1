/* A single file serves both sides: 9 of 10 records to train on and 1 to evaluate with, as DeepSpeed-Chat cuts sets that have
 * no evaluation part. */
#include "run/inputs.h"

#include <inttypes.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "data/split.h"
#include "data/tokenize.h"

enum convention inputs_convention(const struct spec *s)
{
    return s->convention == SPEC_PAPER ? CONVENTION_PAPER : CONVENTION_NOW;
}

void inputs_tell_skipped(const struct source *source)
{
    if (source->n_skipped == 0)
        return;
    log_warning("%s: %" PRId64 " faulty records were left out:", source->name, source->n_skipped);
    for (int64_t i = 0; i < source->n_skipped && i < SOURCE_MAX_PROBLEMS; i++)
        log_warning("  line %" PRId64 ": %s", source->problems[i].line, source->problems[i].what);
}

/* All records in file order: evaluation of a file as it is. */
static int every_row(int64_t n, int64_t **rows, int64_t *n_rows, struct err *err)
{
    *rows = mem_array(n, 1, sizeof **rows, MEM_DATA, err);
    *n_rows = n;
    for (int64_t i = 0; *rows && i < n; i++)
        (*rows)[i] = i;
    return *rows ? 0 : -1;
}

/* split: shares of the phases; NULL: every record is wanted, as it stands. */
static int add_side(struct inputs *in, struct samples *out, const struct spec *s, struct source *source,
                    enum split_side side, const char *shares, struct err *err)
{
    const struct tokenize_options o = { inputs_convention(s), s->jsonfile_spaces };
    struct split split;
    int64_t *rows = NULL, n_rows = 0;

    if (shares && split_parse(&split, shares, err) != 0)
        return -1;
    int result =
        !shares ? every_row(source->n_records, &rows, &n_rows, err)
                : split_rows(&split, source->n_records, side, (uint32_t)s->seed, s->phase->number, &rows, &n_rows, err);
    if (result == 0)
        result = tokenize_records(out, source, rows, n_rows, in->tokenizer, &o, err);
    mem_free(rows);
    return result;
}

int inputs_load_eval(const struct spec *s, struct source *source, struct err *err)
{
    char train[FILE_PATH_MAX], eval[FILE_PATH_MAX];
    const int n_files = source_find(s->data[0], train, eval, err);

    return n_files < 0 ? -1 : source_load(source, n_files == 1 ? eval : train, s->skip_bad_records, err);
}

/* Loads one file of a set into one side, or, when it serves both, into both. */
static int add_file(struct inputs *in, const struct spec *s, const char *path, enum split_side side, const char *shares,
                    struct samples *out, struct err *err)
{
    struct source source = { 0 };

    if (source_load(&source, path, s->skip_bad_records, err) != 0)
        return -1;
    int result = add_side(in, out, s, &source, side, shares, err);
    if (result == 0 && side == SPLIT_TRAIN_OF_ONE)
        result = add_side(in, &in->eval, s, &source, SPLIT_EVAL_OF_ONE, shares, err);
    if (out == &in->train || !shares)
        in->n_records += source.n_records;
    inputs_tell_skipped(&source);
    in->n_skipped += source.n_skipped;
    source_free(&source);
    return result;
}

static int add_set(struct inputs *in, const struct spec *s, const char *data, const char *shares, struct err *err)
{
    char train[FILE_PATH_MAX], eval[FILE_PATH_MAX];
    const int n_files = source_find(data, train, eval, err);

    if (n_files < 0)
        return -1;
    if (n_files == 0)
        return add_file(in, s, train, SPLIT_TRAIN_OF_ONE, shares, &in->train, err);
    return add_file(in, s, train, SPLIT_GIVEN, shares, &in->train, err) != 0
               ? -1
               : add_file(in, s, eval, SPLIT_GIVEN, shares, &in->eval, err);
}

/* Adds sets in the order of the command line; several are mixed, as DeepSpeed-Chat does it. */
static int add_sets(struct inputs *in, const struct spec *s, const char *const *data, const char *shares,
                    struct err *err)
{
    for (const char *const *d = data; *d; d++)
        if (add_set(in, s, *d, shares, err) != 0)
            return -1;
    if (!s->data[1] && data == s->data)
        return 0;
    return data[0] && (samples_shuffle(&in->train, (uint32_t)s->seed, err) != 0 ||
                       samples_shuffle(&in->eval, (uint32_t)s->seed, err) != 0)
               ? -1
               : 0;
}

static int load_whole(struct inputs *in, const struct spec *s, struct err *err)
{
    char train[FILE_PATH_MAX], eval[FILE_PATH_MAX];

    for (const char *const *d = s->data; *d; d++) {
        const int n_files = source_find(*d, train, eval, err);
        if (n_files < 0 || add_file(in, s, n_files == 1 ? eval : train, SPLIT_GIVEN, NULL, &in->eval, err) != 0)
            return -1;
    }
    return 0;
}

static int load_samples(struct inputs *in, const struct spec *s, bool eval_only, struct err *err)
{
    const enum sample_kind kind = s->phase->samples;
    const int32_t pad = bpe_eos(in->tokenizer);

    if (samples_init(&in->train, kind, s->max_seq_len, pad, err) != 0 ||
        samples_init(&in->eval, kind, s->max_seq_len, pad, err) != 0)
        return -1;
    if (eval_only)
        return load_whole(in, s, err);
    if (add_sets(in, s, s->data, s->data_split, err) != 0)
        return -1;
    return s->phase->number == 1 ? add_sets(in, s, s->sft_only_data, "10,0,0", err) : 0;
}

int inputs_open_tokenizer(struct inputs *in, const char *dir, const struct hf_config *c, struct err *err)
{
    *in = (struct inputs){ 0 };
    if (bpe_open(&in->tokenizer, dir, err) != 0)
        return -1;
    if (bpe_vocab_size(in->tokenizer) <= c->vocab_size)
        return 0;
    err_set(err, ERR_INPUT, "the tokenizer has ids up to %d, the model has embeddings for %" PRId64,
            bpe_vocab_size(in->tokenizer) - 1, c->vocab_size);
    err_where(err, "folder \"%s\"", dir);
    err_hint(err, "Use the tokenizer files that came with the model.");
    inputs_close(in);
    return -1;
}

static int nothing_left(const struct inputs *in, const struct spec *s, struct err *err)
{
    const int phase = s->phase->number;

    if (in->train.n_dropped > 0) {
        err_set(err, ERR_INPUT, "all %" PRId64 " prompts of \"%s\" are longer than %" PRId64 " ids",
                in->train.n_dropped, s->data[0], s->max_seq_len);
        return err_hint(err, "Raise --max_prompt_seq_len.");
    }
    err_set(err, ERR_INPUT, "no record of \"%s\" falls to phase %d", s->data[0], phase);
    return err_hint(err, "There are %" PRId64 " records and --data_split is %s; \"%d,%d,%d\" gives all to phase %d.",
                    in->n_records, s->data_split, phase == 1, phase == 2, phase == 3, phase);
}

int inputs_open(struct inputs *in, const struct spec *s, const struct hf_config *c, bool eval_only, struct err *err)
{
    if (inputs_open_tokenizer(in, s->model, c, err) != 0)
        return -1;
    int result = load_samples(in, s, eval_only, err);
    if (result == 0 && (eval_only ? in->eval.n : in->train.n) == 0)
        result = nothing_left(in, s, err);
    if (result != 0)
        inputs_close(in);
    return result;
}

void inputs_close(struct inputs *in)
{
    bpe_close(in->tokenizer);
    samples_free(&in->train);
    samples_free(&in->eval);
    *in = (struct inputs){ 0 };
}

static uint64_t samples_hash(const struct samples *s)
{
    const uint64_t ids = hash_bytes(s->ids, (size_t)s->n_ids * sizeof *s->ids);
    const size_t n_rows = (size_t)(s->n * samples_rows_each(s));

    return ids ^ hash_bytes(s->rows, n_rows * sizeof *s->rows);
}

uint64_t inputs_hash(const struct inputs *in)
{
    return samples_hash(&in->train) * 31 + samples_hash(&in->eval);
}
