/* Two kinds of table: strings (token <-> id, once as spelt in the files and once as bytes) and pairs (two ids -> rank
 * and result). Both are at most half full, so that a search is one or two steps. */
#include "text/vocab.h"

#include <string.h>

#include "base/hash.h"
#include "base/log.h"
#include "base/mem.h"
#include "text/unicode.h"

const char *span_shown(struct span s, char out[SPAN_SHOWN])
{
    size_t n = s.n < 80 ? s.n : 80;
    char part[81] = "";

    while (n > 0 && n < s.n && ((unsigned char)s.s[n] & 0xC0) == 0x80)
        n--;
    if (n > 0)
        memcpy(part, s.s, n);
    return log_safe(out, SPAN_SHOWN, part);
}

static uint32_t table_size(int64_t n)
{
    uint32_t size = 16;

    while (size < 2 * n)
        size *= 2;
    return size;
}

/* The slot of a string: its own, or the free one where it belongs. */
static uint32_t string_slot(const struct strings *s, const char *text, size_t n)
{
    uint32_t at = (uint32_t)hash_bytes(text, n) & s->mask;

    for (; s->slots[at]; at = (at + 1) & s->mask) {
        const struct span have = strings_get(s, s->slots[at] - 1);
        if (have.n == n && memcmp(have.s, text, n) == 0)
            break;
    }
    return at;
}

int32_t strings_find(const struct strings *s, const char *text, size_t n)
{
    return n > s->longest ? -1 : s->slots[string_slot(s, text, n)] - 1;
}

static int copy_strings(struct strings *s, const struct span *by_id, struct err *err)
{
    size_t bytes = 0;

    for (int32_t i = 0; i < s->n; i++) {
        bytes += by_id[i].n;
        s->longest = by_id[i].n > s->longest ? by_id[i].n : s->longest;
    }
    if (bytes > UINT32_MAX)
        return err_set(err, ERR_INPUT, "the tokens have %zu bytes, more than a vocabulary can have", bytes);
    s->blob = mem_array((int64_t)bytes + 1, 1, 1, MEM_TEXT, err);
    if (!s->blob)
        return -1;
    bytes = 0;
    for (int32_t i = 0; i < s->n; i++) {
        if (by_id[i].n)
            memcpy(s->blob + bytes, by_id[i].s, by_id[i].n);
        bytes += by_id[i].n;
        s->start[i + 1] = (uint32_t)bytes;
    }
    return 0;
}

int strings_init(struct strings *out, const struct span *by_id, const bool *hashed, int32_t n, struct err *err)
{
    struct strings s = { .n = n, .mask = table_size(n) - 1 };

    *out = (struct strings){ 0 };
    s.start = mem_array((int64_t)n + 1, 1, sizeof *s.start, MEM_TEXT, err);
    s.slots = s.start ? mem_array((int64_t)s.mask + 1, 1, sizeof *s.slots, MEM_TEXT, err) : NULL;
    if (!s.slots || copy_strings(&s, by_id, err) != 0)
        goto failed;
    for (int32_t i = 0; i < n; i++) {
        if (by_id[i].n == 0 || (hashed && !hashed[i]))
            continue;
        int32_t *slot = &s.slots[string_slot(&s, by_id[i].s, by_id[i].n)];
        if (*slot) {
            err_set(err, ERR_INPUT, "ids %d and %d are the same token", *slot - 1, i);
            goto failed;
        }
        *slot = i + 1;
    }
    *out = s;
    return 0;
failed:
    strings_free(&s);
    return -1;
}

void strings_free(struct strings *s)
{
    mem_free(s->blob);
    mem_free(s->start);
    mem_free(s->slots);
    *s = (struct strings){ 0 };
}

/* The bytes that a token spells, into out (at least n bytes); false if a character is none of the alphabet. */
static bool spelt_bytes(struct span text, char *out, size_t *n_out)
{
    size_t n = 0;

    for (size_t at = 0; at < text.n;) {
        uint32_t code;
        const int length = unicode_step(text.s + at, text.n - at, &code);
        const int byte = length > 0 ? unicode_to_byte(code) : -1;

        if (byte < 0)
            return false;
        out[n++] = (char)byte;
        at += (size_t)length;
    }
    *n_out = n;
    return true;
}

/* v->bytes from v->texts. A token with foreign characters (an added one) stands for its own UTF-8. */
static int make_bytes(struct vocab *v, const bool *literal, struct err *err)
{
    const size_t total = v->texts.start[v->n_ids];
    struct span *spans = mem_array(v->n_ids, 1, sizeof *spans, MEM_TEXT, err);
    bool *spelt = mem_array(v->n_ids, 1, sizeof *spelt, MEM_TEXT, err);
    char *buffer = mem_array((int64_t)total + 1, 1, 1, MEM_TEXT, err), *to = buffer;
    int failed = -1;

    if (!spans || !spelt || !buffer)
        goto done;
    MUST(v->texts.blob);
    for (int32_t i = 0; i < v->n_ids; i++) {
        const struct span text = strings_get(&v->texts, i);
        size_t n = 0;

        spelt[i] = spelt_bytes(text, to, &n);
        if (spelt[i] && literal && literal[i])
            spelt[i] = n > 0 && n == text.n && memcmp(to, text.s, n) == 0;
        spans[i] = spelt[i] ? (struct span){ to, n } : text;
        to += n;
    }
    failed = strings_init(&v->bytes, spans, spelt, v->n_ids, err);
done:
    mem_free(spans);
    mem_free(spelt);
    mem_free(buffer);
    return failed;
}

int vocab_init(struct vocab *out, const struct span *texts, const bool *literal, int32_t n_ids, int32_t max_merges,
               struct err *err)
{
    struct vocab v = { .n_ids = n_ids, .pair_mask = table_size(max_merges) - 1, .max_merges = max_merges };

    *out = (struct vocab){ 0 };
    v.pairs = mem_array((int64_t)v.pair_mask + 1, 1, sizeof *v.pairs, MEM_TEXT, err);
    v.merges = v.pairs ? mem_array(max_merges, 2, sizeof **v.merges, MEM_TEXT, err) : NULL;
    if (!v.merges || strings_init(&v.texts, texts, NULL, n_ids, err) != 0 || make_bytes(&v, literal, err) != 0) {
        vocab_free(&v);
        return -1;
    }
    for (int i = 0; i < 256; i++) {
        const char byte = (char)i;
        v.byte_id[i] = strings_find(&v.bytes, &byte, 1);
    }
    *out = v;
    return 0;
}

static int no_token(struct span left, struct span right, const char *what, struct err *err)
{
    char a[SPAN_SHOWN], b[SPAN_SHOWN];

    err_set(err, ERR_INPUT, "%s of the merge \"%s %s\" is no token of the vocabulary", what, span_shown(left, a),
            span_shown(right, b));
    return err_hint(err, "Use the vocabulary and the merges of the same tokenizer.");
}

/* The id of left and right written together. */
static int32_t find_joined(const struct vocab *v, struct span left, struct span right)
{
    char joined[1024];

    if (left.n + right.n > sizeof joined)
        return -1;
    memcpy(joined, left.s, left.n);
    memcpy(joined + left.n, right.s, right.n);
    return strings_find(&v->bytes, joined, left.n + right.n);
}

/* There, and made of the byte alphabet: an added token is no part of a merge. */
static bool is_spelt(const struct vocab *v, int32_t id)
{
    const struct span bytes = id < 0 ? (struct span){ 0 } : strings_get(&v->bytes, id);

    return id >= 0 && strings_find(&v->bytes, bytes.s, bytes.n) == id;
}

int vocab_add_merge(struct vocab *v, struct span left, struct span right, struct err *err)
{
    const int32_t l = strings_find(&v->texts, left.s, left.n), r = strings_find(&v->texts, right.s, right.n);

    MUST(v->n_merges < v->max_merges);
    if (!is_spelt(v, l) || !is_spelt(v, r))
        return no_token(left, right, is_spelt(v, l) ? "the right part" : "the left part", err);
    const int32_t id = find_joined(v, strings_get(&v->bytes, l), strings_get(&v->bytes, r));
    if (id < 0)
        return no_token(left, right, "the result", err);
    struct vocab_pair *pair = &v->pairs[vocab_pair(v, l, r) - v->pairs];
    if (pair->key)
        return err_set(err, ERR_INPUT, "this merge is the same as merge %d", pair->rank + 1);
    *pair = (struct vocab_pair){ (uint64_t)(l + 1) << 32 | (uint32_t)r, v->n_merges, id };
    v->merges[v->n_merges][0] = l;
    v->merges[v->n_merges++][1] = r;
    return 0;
}

void vocab_free(struct vocab *v)
{
    strings_free(&v->texts);
    strings_free(&v->bytes);
    mem_free(v->pairs);
    mem_free(v->merges);
    *v = (struct vocab){ 0 };
}
