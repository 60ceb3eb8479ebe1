/* text/stream.h - token ids -> text as they come, one at a time: a character whose bytes are spread over several ids appears
 * when its last byte does, never broken. What comes out in all is what bpe_decode gives for all ids, special ones left out,
 * up to the first stop text if there is one. Called by cli/cmd_generate.c and cli/cmd_chat.c. */
#ifndef TUNEUP_TEXT_STREAM_H
#define TUNEUP_TEXT_STREAM_H

#include "text/bpe.h"

struct stream {
    const struct bpe *bpe; /* borrowed */
    const char *stop; /* borrowed; "" = none */
    bool stopped; /* the stop text has come: it and what follows are not given out */
    char held[4]; /* the beginning of a character */
    size_t n_held;
    char *text; /* owned: n_given bytes that the last call gave out, then what may be the beginning of the stop text */
    size_t n_given, n_text;
};

/* ERR_MEMORY. On error *s is empty. */
int stream_init(struct stream *s, const struct bpe *b, const char *stop, struct err *err);
/* What can be shown now that this id has come; it stays valid until the next call. Ids of special tokens and ids without a
 * token give nothing. Malformed UTF-8 becomes U+FFFD for each maximal subpart. */
struct span stream_push(struct stream *s, int32_t id);
/* What was held back: the beginning of a stop text, U+FFFD for a character that did not end. */
struct span stream_end(struct stream *s);
void stream_restart(struct stream *s); /* as after stream_init */
void stream_free(struct stream *s);

#endif
