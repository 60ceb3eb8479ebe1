/* "tuneup tokenizer train": a data file's texts, or any text file -> the four tokenizer files of a model folder. */
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "base/log.h"
#include "base/mem.h"
#include "cli/command.h"
#include "data/source.h"
#include "text/bpe_train.h"

struct tokenizer_options {
    const char *data, *text, *output;
    int64_t vocab_size;
};

static struct tokenizer_options options;

static const struct option table[] = {
    { .name = "data",
      .alias = "data_path",
      .type = OPTION_STRING,
      .offset = offsetof(struct tokenizer_options, data),
      .value = "FILE",
      .help = "records to learn from: prompt, chosen and rejected of each" },
    { .name = "text",
      .type = OPTION_STRING,
      .offset = offsetof(struct tokenizer_options, text),
      .value = "FILE",
      .help = "plain text to learn from" },
    { .name = "vocab_size",
      .type = OPTION_INT,
      .offset = offsetof(struct tokenizer_options, vocab_size),
      .fallback = "4096",
      .min = BPE_TRAIN_MIN_IDS,
      .max = VOCAB_MAX_IDS,
      .value = "N",
      .help = "ids in all: 4 special ones, 256 bytes, and the merges" },
    { .name = "output",
      .alias = "output_dir",
      .type = OPTION_STRING,
      .offset = offsetof(struct tokenizer_options, output),
      .value = "DIR",
      .help = "folder for vocab.json, merges.txt and their side files" },
    { 0 },
};

static int sets(struct option_set *out)
{
    out[0] = (struct option_set){ .title = "Tokenizer", .options = table, .values = &options };
    return 1;
}

struct texts { /* what there is to learn from; the texts are borrowed from source and file */
    struct source source;
    char *file;
    const char **text;
    size_t *bytes;
    int64_t n;
};

static void add_text(struct texts *t, const char *text, size_t n)
{
    if (!text)
        return;
    t->text[t->n] = text;
    t->bytes[t->n++] = n;
}

static int read_texts(struct texts *t, struct err *err)
{
    size_t n_file = 0;

    if (options.data && source_load(&t->source, options.data, false, err) != 0)
        return -1;
    if (options.text && !(t->file = file_read(options.text, (size_t)INT32_MAX, &n_file, err)))
        return -1;
    t->text = mem_array(3 * t->source.n_records + 1, 1, sizeof *t->text, MEM_TEXT, err);
    t->bytes = mem_array(3 * t->source.n_records + 1, 1, sizeof *t->bytes, MEM_TEXT, err);
    if (!t->text || !t->bytes)
        return -1;
    add_text(t, t->file, n_file);
    for (int64_t i = 0; i < t->source.n_records; i++) {
        const struct record_text *r = &t->source.records[i];
        add_text(t, r->prompt, r->prompt_n);
        add_text(t, r->chosen, r->chosen_n);
        add_text(t, r->rejected, r->rejected_n);
    }
    return 0;
}

static int train(const struct texts *t, struct err *err)
{
    struct bpe *b;

    if (bpe_train(t->text, t->bytes, t->n, (int32_t)options.vocab_size, &b, err) != 0)
        return -1;
    const int failed = file_make_dir(options.output, err) != 0 || bpe_save_files(b, options.output, err) != 0;
    if (!failed && bpe_vocab_size(b) < options.vocab_size)
        log_warning("no further pair of tokens occurs twice: the vocabulary has %d ids, not %" PRId64,
                    bpe_vocab_size(b), options.vocab_size);
    if (!failed)
        log_note("%d ids, %d merges: %s", bpe_vocab_size(b), b->vocab.n_merges, options.output);
    bpe_close(b);
    return failed ? -1 : 0;
}

static int run(struct command_line *line, struct err *err)
{
    struct texts t = { 0 };

    if (line->n_words > 0)
        return err_set(err, ERR_USAGE, "\"%s\" is no option of tokenizer train", line->words[0]);
    if ((!options.data && !options.text) || !options.output) {
        err_set(err, ERR_USAGE, "%s",
                options.output ? "there is nothing to learn from" : "no folder to write to is named");
        return err_hint(err, "tuneup tokenizer train --data FILE --vocab_size N --output DIR, or --text FILE.");
    }
    int failed = read_texts(&t, err);
    if (!failed)
        failed = train(&t, err);
    source_free(&t.source);
    mem_free(t.file);
    mem_free(t.text);
    mem_free(t.bytes);
    return failed;
}

const struct command cmd_tokenizer = {
    .name = "tokenizer train",
    .summary = "a tokenizer in OPT's form from text",
    .usage = "tuneup tokenizer train --data FILE|--text FILE [--vocab_size N] --output DIR",
    .examples = "  tuneup tokenizer train --data train.jsonl --vocab_size 4096 --output tiny\n"
                "  tuneup tokenizer train --text story.txt --vocab_size 1024 --output tiny\n",
    .details = "Byte-level BPE: ids 0 <s>, 1 <pad>, 2 </s>, 3 <unk>, then 256 bytes, then the merges, most frequent\n"
               "first. The same texts always give the same files.",
    .sets = sets,
    .run = run,
};
