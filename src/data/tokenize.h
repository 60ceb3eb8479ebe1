/* data/tokenize.h - the records of a data file -> the samples of a phase, in DeepSpeed-Chat's form:
 * text: prompt + chosen + end, where the end is the end id (now) or "<|endoftext|>" as text (paper);
 * pair: prompt + chosen and prompt + rejected, each with "<|endoftext|>" as text in both conventions;
 * prompt: the prompt alone. All begin with the begin id. */
#ifndef TUNEUP_DATA_TOKENIZE_H
#define TUNEUP_DATA_TOKENIZE_H

#include <stdbool.h>

#include "data/sample.h"
#include "data/source.h"
#include "text/bpe.h"

struct tokenize_options {
    enum convention convention;
    bool jsonfile_spaces; /* a space before the prompt and each answer, as its local/jsonfile reader adds */
};

/* Adds records rows[0..n_rows-1] of the source to samples of any kind. A record without a field that the kind needs, or
 * with a text that cannot be encoded, is bad: ERR_INPUT naming its line, or counted in the source (source_bad_record). */
int tokenize_records(struct samples *s, struct source *source, const int64_t *rows, int64_t n_rows,
                     const struct bpe *bpe, const struct tokenize_options *o, struct err *err);

#endif
