/* Of the bytes held and those of the new token, all but an unfinished character at the end is given out. */
#include "text/stream.h"

#include <string.h>

#include "base/mem.h"
#include "text/unicode.h"

#define REPLACEMENT_BYTES 3 /* U+FFFD for a single byte: the most that a byte can become */

int stream_init(struct stream *out, const struct bpe *b, struct err *err)
{
    struct stream s = { .bpe = b };
    const int64_t most = (int64_t)(b->vocab.bytes.longest + sizeof s.held); /* bytes worked on at a time */

    *out = (struct stream){ 0 };
    s.text = mem_array(most, REPLACEMENT_BYTES + 1, 1, MEM_TEXT, err);
    if (!s.text)
        return -1;
    *out = s;
    return 0;
}

/* Bytes at the end that begin a character which more bytes may complete: 0..3. */
static size_t unfinished(const char *raw, size_t n)
{
    for (size_t back = 1; back <= 3 && back <= n; back++) {
        const unsigned char lead = (unsigned char)raw[n - back];
        uint32_t code;

        if (lead >= 0xC2 && lead <= 0xF4)
            return unicode_step(raw + n - back, back, &code) == -(int)back ? back : 0;
    }
    return 0;
}

static bool is_special(const struct bpe *b, int32_t id)
{
    for (int i = 0; i < b->n_specials; i++)
        if (b->specials[i].id == id)
            return true;
    return false;
}

/* raw lies in the last quarter of s->text, and the result, at most three times as long, in front of it. */
static struct span give_out(struct stream *s, const char *raw, size_t n, size_t n_held)
{
    const size_t n_text = unicode_repair(raw, n - n_held, s->text);

    memcpy(s->held, raw + n - n_held, n_held);
    s->n_held = n_held;
    return (struct span){ s->text, n_text };
}

struct span stream_push(struct stream *s, int32_t id)
{
    const bool is_text = id >= 0 && id < s->bpe->vocab.n_ids && !is_special(s->bpe, id);
    const struct span token = is_text ? strings_get(&s->bpe->vocab.bytes, id) : (struct span){ 0 };
    char *raw = s->text + REPLACEMENT_BYTES * (s->bpe->vocab.bytes.longest + sizeof s->held);
    const size_t n = s->n_held + token.n;

    memcpy(raw, s->held, s->n_held);
    if (token.n)
        memcpy(raw + s->n_held, token.s, token.n);
    return give_out(s, raw, n, unfinished(raw, n));
}

struct span stream_end(struct stream *s)
{
    char raw[sizeof s->held];
    const size_t n = s->n_held;

    memcpy(raw, s->held, n);
    return give_out(s, raw, n, 0);
}

void stream_free(struct stream *s)
{
    mem_free(s->text);
    *s = (struct stream){ 0 };
}
