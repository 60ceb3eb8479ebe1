/* Encoding: special tokens cut the text into parts, the pattern cuts a part into pieces, merges turn a piece into ids.
 * Nearly every piece of ordinary text is a token as a whole, hence the short way through b->whole. How a struct bpe
 * comes to be is in bpe_load.c. */
#include "text/bpe.h"

#include <inttypes.h>
#include <string.h>

#include "base/mem.h"
#include "text/merge.h"
#include "text/unicode.h"

enum { WHOLE_UNKNOWN, WHOLE_YES, WHOLE_NO };

struct encoder { /* what one call of bpe_encode works with */
    const struct bpe *b;
    struct piece_cursor cursor;
    struct merge_scratch scratch;
    int32_t *ids; /* room for one id a byte of text, and the bos */
    int64_t n;
};

static int encode_piece(struct encoder *e, const char *piece, size_t n, struct err *err)
{
    const struct bpe *b = e->b;
    const int32_t token = strings_find(&b->vocab.bytes, piece, n);
    int32_t *out = e->ids + e->n;

    if (token >= 0 && atomic_load_explicit(&b->whole[token], memory_order_relaxed) == WHOLE_YES) {
        e->ids[e->n++] = token;
        return 0;
    }
    const int64_t n_ids = merge_piece(&b->vocab, &e->scratch, piece, n, out, err);
    if (n_ids < 0)
        return -1;
    if (token >= 0)
        atomic_store_explicit(&b->whole[token], n_ids == 1 && out[0] == token ? WHOLE_YES : WHOLE_NO,
                              memory_order_relaxed);
    for (int64_t i = 0; i < n_ids; i++)
        if (out[i] < 0)
            out[i] = b->unk;
    e->n += n_ids;
    return 0;
}

static int encode_part(struct encoder *e, const char *text, size_t n, struct err *err)
{
    const char *piece;
    size_t n_piece;
    int more;

    piece_cursor_set(&e->cursor, text, n);
    while ((more = piece_cursor_step(&e->cursor, &piece, &n_piece, err)) > 0)
        if (encode_piece(e, piece, n_piece, err) != 0)
            return -1;
    return more;
}

/* The first special token at or after *at, and *at moved there; NULL and *at = n if there is none. */
static const struct bpe_special *find_special(const struct bpe *b, const char *text, size_t n, size_t *at)
{
    for (size_t i = *at; i < n && b->n_specials; i++) {
        if (!b->special_first[(unsigned char)text[i]])
            continue;
        for (int k = 0; k < b->n_specials; k++) {
            const struct span *s = &b->specials[k].text;
            if (s->n <= n - i && memcmp(text + i, s->s, s->n) == 0) {
                *at = i;
                return &b->specials[k];
            }
        }
    }
    *at = n;
    return NULL;
}

static int encode_text(struct encoder *e, const char *text, size_t n, struct err *err)
{
    for (size_t at = 0; at < n;) {
        size_t end = at;
        const struct bpe_special *special = find_special(e->b, text, n, &end);

        if (encode_part(e, text + at, end - at, err) != 0)
            return -1;
        if (special)
            e->ids[e->n++] = special->id;
        at = end + (special ? special->text.n : 0);
    }
    return 0;
}

static int check_text(const char *text, size_t n, struct err *err)
{
    if (n > MERGE_MAX_PIECE)
        return err_set(err, ERR_INPUT, "a text of %zu bytes is longer than the tokenizer takes (%d)", n,
                       MERGE_MAX_PIECE);
    const size_t bad = unicode_check(text, n);
    if (bad == n)
        return 0;
    err_set(err, ERR_INPUT, "the text is not valid UTF-8: byte 0x%02x", (unsigned)(unsigned char)text[bad]);
    err_where(err, "byte %zu of the text", bad);
    return err_hint(err, "Convert the text to UTF-8, for example with iconv.");
}

int bpe_encode(const struct bpe *b, const char *text, size_t n, bool add_bos, int32_t **ids, int64_t *n_ids,
               struct err *err)
{
    struct encoder e = { .b = b };
    int failed = -1;

    *ids = NULL;
    *n_ids = 0;
    if (check_text(text, n, err) != 0)
        return -1;
    e.ids = mem_array((int64_t)n + 1, 1, sizeof *e.ids, MEM_TEXT, err);
    if (!e.ids || piece_cursor_init(&e.cursor, &b->pieces, err) != 0)
        goto done;
    if (add_bos && b->add_bos)
        e.ids[e.n++] = b->bos;
    if (encode_text(&e, text, n, err) != 0)
        goto done;
    *ids = mem_resize(e.ids, e.n, sizeof *e.ids, MEM_TEXT, err);
    if (!*ids)
        goto done;
    *n_ids = e.n;
    e.ids = NULL;
    failed = 0;
done:
    mem_free(e.ids);
    merge_scratch_free(&e.scratch);
    piece_cursor_free(&e.cursor);
    return failed;
}

static struct span token_bytes(const struct bpe *b, int32_t id)
{
    return id < 0 || id >= b->vocab.n_ids ? (struct span){ 0 } : strings_get(&b->vocab.bytes, id);
}

int bpe_decode(const struct bpe *b, const int32_t *ids, int64_t n_ids, char **text, size_t *n, struct err *err)
{
    size_t n_raw = 0, at = 0;

    *text = NULL;
    *n = 0;
    for (int64_t i = 0; i < n_ids; i++)
        n_raw += token_bytes(b, ids[i]).n;
    char *raw = mem_array((int64_t)n_raw + 1, 1, 1, MEM_TEXT, err);
    if (!raw)
        return -1;
    for (int64_t i = 0; i < n_ids; i++) {
        const struct span s = token_bytes(b, ids[i]);
        if (s.n)
            memcpy(raw + at, s.s, s.n);
        at += s.n;
    }
    if (unicode_check(raw, n_raw) == n_raw) {
        *text = raw;
        *n = n_raw;
        return 0;
    }
    *n = unicode_repair(raw, n_raw, NULL);
    *text = mem_array((int64_t)*n + 1, 1, 1, MEM_TEXT, err);
    if (*text)
        unicode_repair(raw, n_raw, *text);
    mem_free(raw);
    return *text ? 0 : -1;
}

int32_t bpe_vocab_size(const struct bpe *b)
{
    return b->vocab.n_ids;
}

int32_t bpe_bos(const struct bpe *b)
{
    return b->bos;
}

int32_t bpe_eos(const struct bpe *b)
{
    return b->eos;
}

int32_t bpe_pad(const struct bpe *b)
{
    return b->pad;
}

void bpe_close(struct bpe *b)
{
    if (!b)
        return;
    vocab_free(&b->vocab);
    pieces_close(&b->pieces);
    mem_free(b->specials);
    mem_free(b->whole);
    json_decref(b->config);
    mem_free(b);
}
