/* text/bpe.h - text <-> token ids: the byte-level BPE of GPT-2 with OPT's files and conventions (a leading </s>).
 * Ids are exactly those of the Hugging Face tokenizer of the same files. A struct bpe never changes once it is open, so
 * any number of threads encode and decode with one. Memory for OPT's 50265 tokens: 4.7 MB. */
#ifndef TUNEUP_TEXT_BPE_H
#define TUNEUP_TEXT_BPE_H

#include <stdatomic.h>

#include "base/err.h"
#include "base/json.h"
#include "text/pieces.h"
#include "text/vocab.h"

struct bpe_special {
    struct span text; /* borrowed from the vocabulary */
    int32_t id;
};

struct bpe {
    struct vocab vocab;
    struct pieces pieces;
    struct bpe_special *specials; /* split out of a text before anything else; longest first */
    int n_specials;
    bool special_first[256]; /* some special begins with this byte */
    int32_t bos, eos, pad, unk;
    bool add_bos; /* tokenizer_config.json's add_bos_token; true without it */
    json_t *config; /* tokenizer_config.json as it was read, or NULL: what others keep there is saved again */
    /* [n_ids] does the piece that spells this token become it? 0 = not tried, 1 = yes, 2 = no. A memory of answers that
     * are always the same, so threads may race to write them. */
    _Atomic(unsigned char) *whole;
};

/* The folder's vocab.json and merges.txt, or its tokenizer.json where these are absent; what tokenizer_config.json,
 * special_tokens_map.json and added_tokens.json say where they are there. Without a word from them bos, eos and unk are
 * "</s>", pad is "<pad>" (or eos, if there is no "<pad>"). ERR_INPUT names file and line, or token.
 * Refused, because ids would differ in silence: a normalizer, another pre-tokenizer or pattern, add_prefix_space,
 * added tokens that strip or match whole words only. */
int bpe_open(struct bpe **out, const char *model_dir, struct err *err);
void bpe_close(struct bpe *b); /* accepts NULL */

/* Files in memory; text NULL = absent. Either vocab and merges or tokenizer must be there. */
struct bpe_file {
    const char *name; /* for messages */
    const char *text; /* borrowed */
    size_t n;
};
struct bpe_files {
    struct bpe_file vocab, merges, tokenizer, config, special, added;
};
int bpe_parse(struct bpe **out, const struct bpe_files *files, struct err *err);

/* *ids (from mem_array, the caller frees) and *n_ids. add_bos: the bos id first, unless the tokenizer's own
 * add_bos_token is false. Special tokens in the text become their ids. ERR_INPUT with the byte for malformed UTF-8. */
int bpe_encode(const struct bpe *b, const char *text, size_t n, bool add_bos, int32_t **ids, int64_t *n_ids,
               struct err *err);
/* *text (from mem_array, the caller frees, a zero byte follows it) and *n. Special tokens are kept, malformed UTF-8
 * becomes U+FFFD for each maximal subpart, ids without a token become nothing. */
int bpe_decode(const struct bpe *b, const int32_t *ids, int64_t n_ids, char **text, size_t *n, struct err *err);

int32_t bpe_vocab_size(const struct bpe *b); /* largest id + 1: at most the embedding's rows */
int32_t bpe_bos(const struct bpe *b);
int32_t bpe_eos(const struct bpe *b);
int32_t bpe_pad(const struct bpe *b);

/* Writes vocab.json, merges.txt, tokenizer_config.json and special_tokens_map.json into dir, which must exist. */
int bpe_save_files(const struct bpe *b, const char *dir, struct err *err);

#endif
