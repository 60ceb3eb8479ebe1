/* run/inputs.h - from the words of a spec to tokenized samples: tokenizer, records, the phase's share of them. */
#ifndef TUNEUP_RUN_INPUTS_H
#define TUNEUP_RUN_INPUTS_H

#include "data/batcher.h"
#include "data/source.h"
#include "run/spec.h"
#include "store/hf_config.h"
#include "text/bpe.h"

struct inputs {
    struct bpe *tokenizer;
    struct samples train, eval;
    int64_t n_records, n_skipped;
};

/* The samples of the spec's phase. eval_only: a data file is taken whole as evaluation records, without any split. ERR_INPUT when nothing is
 * left, or when the tokenizer has ids that the model has no embedding for. On error *in is empty. */
int inputs_open(struct inputs *in, const struct spec *s, const struct hf_config *c, bool eval_only, struct err *err);
/* The tokenizer alone, with the same check. */
int inputs_open_tokenizer(struct inputs *in, const char *dir, const struct hf_config *c, struct err *err);
/* The records that a spec's data evaluates: the file, or the folder's eval file. */
int inputs_load_eval(const struct spec *s, struct source *source, struct err *err);
void inputs_tell_skipped(const struct source *source);
void inputs_close(struct inputs *in);
/* A number that tells two sets of samples apart: ranks compare it. */
uint64_t inputs_hash(const struct inputs *in);
enum convention inputs_convention(const struct spec *s);

#endif
