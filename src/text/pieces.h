/* text/pieces.h - GPT-2's pattern: a text -> the pieces that merges never cross. In order, at each place:
 *   's 't 're 've 'm 'll 'd | ?letters | ?numbers | ?others | spaces not before a non-space | spaces
 * ("?" is one optional U+0020). Space is exactly Unicode White_Space, spelt out because libraries differ on U+180E and
 * U+001C-U+001F. Letters and numbers are PCRE2's \p{L} and \p{N}: the library's Unicode version decides on the newest. */
#ifndef TUNEUP_TEXT_PIECES_H
#define TUNEUP_TEXT_PIECES_H

#include "base/err.h"

struct pieces { /* the compiled pattern: immutable, shared by threads */
    void *memory, *code; /* PCRE2's */
};
int pieces_open(struct pieces *p, struct err *err);
void pieces_close(struct pieces *p);

struct piece_cursor { /* one thread's walk */
    const struct pieces *pieces; /* borrowed */
    void *match; /* PCRE2's */
    const char *text; /* borrowed, well-formed UTF-8 */
    size_t n, at;
};
int piece_cursor_init(struct piece_cursor *c, const struct pieces *p, struct err *err);
void piece_cursor_set(struct piece_cursor *c, const char *text, size_t n);
/* The next piece in *piece, *n: 1, or 0 at the end of the text, -1 on error. Pieces follow each other without gaps. */
int piece_cursor_step(struct piece_cursor *c, const char **piece, size_t *n, struct err *err);
void piece_cursor_free(struct piece_cursor *c);

#endif
