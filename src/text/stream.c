/* Bytes become text when they cannot be an unfinished character any more, and text is given out when it cannot be the
 * beginning of the stop text any more. */
#include "text/stream.h"

#include <string.h>

#include "base/mem.h"
#include "text/unicode.h"

#define REPLACEMENT_BYTES 3 /* U+FFFD for a single byte: the most that a byte can become */

static size_t most_raw(const struct stream *s)
{
    return s->bpe->vocab.bytes.longest + sizeof s->held;
}

/* Text held back and new text, and behind them the bytes that the latter is made from. */
int stream_init(struct stream *out, const struct bpe *b, const char *stop, struct err *err)
{
    struct stream s = { .bpe = b, .stop = stop };

    *out = (struct stream){ 0 };
    s.text = mem_array((int64_t)(strlen(stop) + (REPLACEMENT_BYTES + 1) * most_raw(&s)), 1, 1, MEM_TEXT, err);
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

/* How many bytes at the end of the text begin the stop text without completing it. */
static size_t begins_stop(const struct stream *s, size_t n_stop)
{
    size_t n = n_stop > 0 ? n_stop - 1 : 0;

    for (n = n < s->n_text ? n : s->n_text; n > 0; n--)
        if (memcmp(s->text + s->n_text - n, s->stop, n) == 0)
            break;
    return n;
}

static struct span give_out(struct stream *s, bool all)
{
    const size_t n_stop = strlen(s->stop);
    const char *stop = n_stop ? memmem(s->text, s->n_text, s->stop, n_stop) : NULL;

    if (stop) {
        s->stopped = true;
        s->n_text = (size_t)(stop - s->text);
    }
    s->n_given = s->n_text - (all || stop ? 0 : begins_stop(s, n_stop));
    return (struct span){ s->text, s->n_given };
}

/* Adds n bytes to the text; those of an unfinished character wait in s->held. */
static void add_bytes(struct stream *s, const char *raw, size_t n, size_t n_unfinished)
{
    s->n_text -= s->n_given;
    memmove(s->text, s->text + s->n_given, s->n_text);
    s->n_given = 0;
    s->n_text += unicode_repair(raw, n - n_unfinished, s->text + s->n_text);
    memcpy(s->held, raw + n - n_unfinished, n_unfinished);
    s->n_held = n_unfinished;
}

struct span stream_push(struct stream *s, int32_t id)
{
    const bool is_text = !s->stopped && id >= 0 && id < s->bpe->vocab.n_ids && !is_special(s->bpe, id);
    const struct span token = is_text ? strings_get(&s->bpe->vocab.bytes, id) : (struct span){ 0 };
    char *raw = s->text + strlen(s->stop) + REPLACEMENT_BYTES * most_raw(s);
    const size_t n = s->n_held + token.n;

    memcpy(raw, s->held, s->n_held);
    if (token.n)
        memcpy(raw + s->n_held, token.s, token.n);
    add_bytes(s, raw, n, unfinished(raw, n));
    return give_out(s, false);
}

struct span stream_end(struct stream *s)
{
    char raw[sizeof s->held];
    const size_t n = s->stopped ? 0 : s->n_held;

    memcpy(raw, s->held, n);
    add_bytes(s, raw, n, 0);
    return give_out(s, true);
}

void stream_restart(struct stream *s)
{
    s->stopped = false;
    s->n_held = s->n_given = s->n_text = 0;
}

void stream_free(struct stream *s)
{
    mem_free(s->text);
    *s = (struct stream){ 0 };
}
