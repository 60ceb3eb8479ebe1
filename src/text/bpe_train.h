/* text/bpe_train.h - texts -> a byte-level BPE in OPT's form: ids 0 <s>, 1 <pad>, 2 </s>, 3 <unk>, 4..259 the bytes in
 * order, then one id a merge. The most frequent adjacent pair of ids, counted over all pieces of all texts, is merged
 * next; of equally frequent pairs the one with the smaller left id, then the smaller right id. So the result depends on
 * the texts alone, not on their order, the machine or the number of threads.
 * Memory: about 16 bytes a byte of the different pieces, and 60 a different pair. */
#ifndef TUNEUP_TEXT_BPE_TRAIN_H
#define TUNEUP_TEXT_BPE_TRAIN_H

#include "text/bpe.h"

#define BPE_TRAIN_MIN_IDS 260

/* Stops at vocab_size ids (260..VOCAB_MAX_IDS), or earlier when no pair occurs twice: bpe_vocab_size says how many there
 * are. A piece of over 1024 bytes is counted in parts of at most that length. The
 * caller closes *out. ERR_INPUT for malformed UTF-8, with text and byte; ERR_USAGE for vocab_size. */
int bpe_train(const char *const *texts, const size_t *sizes, int64_t n_texts, int32_t vocab_size, struct bpe **out,
              struct err *err);

#endif
