/* text/vocab.h - the tokens and the merges of a byte-level BPE, in the form that encoding reads: dense arrays and open
 * hash tables, immutable once filled, so that any number of threads share one.
 * Memory: about 80 bytes a token and 24 to 48 a merge. */
#ifndef TUNEUP_TEXT_VOCAB_H
#define TUNEUP_TEXT_VOCAB_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"

#define VOCAB_MAX_IDS (1 << 22) /* larger ids are refused: the arrays below are as long as the largest id */

#define SPAN_SHOWN 336

struct span { /* borrowed bytes; n = 0: none */
    const char *s;
    size_t n;
};

/* A string for messages: at most 80 bytes of it, control characters made visible. Returns out. */
const char *span_shown(struct span s, char out[SPAN_SHOWN]);

/* Strings numbered 0..n-1, some of them absent, and the way back from a string to its number. */
struct strings {
    int32_t n;
    char *blob;
    uint32_t *start; /* [n+1] string i is blob[start[i] .. start[i+1]) */
    int32_t *slots; /* [mask+1] number + 1, 0 = free */
    uint32_t mask;
    size_t longest;
};
/* Copies by_id[0..n-1]. hashed[i] false (hashed may be NULL): string i cannot be found, only read. A string that is
 * there twice is ERR_INPUT. */
int strings_init(struct strings *s, const struct span *by_id, const bool *hashed, int32_t n, struct err *err);
void strings_free(struct strings *s);
int32_t strings_find(const struct strings *s, const char *text, size_t n); /* -1 = not there */
static inline struct span strings_get(const struct strings *s, int32_t i)
{
    return (struct span){ s->blob + s->start[i], s->start[i + 1] - s->start[i] };
}

struct vocab_pair { /* a slot of the table of merges */
    uint64_t key; /* (left id + 1) << 32 | right id; 0 = free */
    int32_t rank, id; /* its line among the merges, from 0; what it becomes */
};

struct vocab {
    int32_t n_ids; /* largest id + 1 */
    struct strings texts; /* as vocab.json spells them */
    struct strings bytes; /* what they stand for */
    int32_t byte_id[256]; /* the token of one byte, -1 = none */
    struct vocab_pair *pairs; /* [pair_mask+1] */
    uint32_t pair_mask;
    int32_t (*merges)[2]; /* [n_merges] left and right id, by rank */
    int32_t n_merges, max_merges;
};

/* texts[id] for id < n_ids, n = 0 where an id has no token. literal[id]: an added token, which stands for its own
 * characters, not for the bytes that they spell. Room is made for max_merges merges. On error *v is empty. */
int vocab_init(struct vocab *v, const struct span *texts, const bool *literal, int32_t n_ids, int32_t max_merges,
               struct err *err);
/* Appends the merge of the next rank. ERR_INPUT, without "where", if a part or the result is no token, or the pair is
 * there already. */
int vocab_add_merge(struct vocab *v, struct span left, struct span right, struct err *err);
void vocab_free(struct vocab *v);

static inline const struct vocab_pair *vocab_pair(const struct vocab *v, int32_t left, int32_t right)
{
    const uint64_t key = (uint64_t)(left + 1) << 32 | (uint32_t)right;
    uint32_t at = (uint32_t)((key * 0x9E3779B97F4A7C15u) >> 32) & v->pair_mask;

    while (v->pairs[at].key != key && v->pairs[at].key != 0)
        at = (at + 1) & v->pair_mask;
    return &v->pairs[at]; /* the pair, or the free slot where it would go: key 0, rank and id of no meaning */
}

#endif
