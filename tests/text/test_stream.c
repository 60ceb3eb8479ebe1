/* Streamed text against text decoded at once, for every way in which characters can be spread over ids. */
#include "text/stream.h"

#include "base/mem.h"
#include "base/rng.h"
#include "test.h"
#include "tiny_bpe.h"

/* "é" is one token, and so is the beginning of "😀" (F0 9F). */
static const char *const merges[] = { "\xC3\x83 \xC2\xA9", "\xC3\xB0 \xC5\x81", NULL };
#define BYTE(b) (4 + (b))
enum { E_ACUTE = 260, FACE_BEGINS = 261 };

static struct bpe *open_tiny(void **test_state)
{
    static struct tiny t;
    struct err err = { 0 };
    struct bpe *b;

    tiny_init(&t, merges);
    CHECK_OK(bpe_parse(&b, &t.files, &err), &err);
    return b;
}

static size_t put(char *out, size_t at, struct span s)
{
    if (s.n)
        memcpy(out + at, s.s, s.n);
    out[at + s.n] = 0;
    return at + s.n;
}

TEST(characters_appear_whole)
{
    static const struct {
        int32_t id;
        const char *text;
    } steps[] = { { BYTE('a'), "a" },
                  { E_ACUTE, "\xC3\xA9" },
                  { FACE_BEGINS, "" },
                  { BYTE(0x98), "" },
                  { BYTE(0x80), "\xF0\x9F\x98\x80" },
                  { BYTE(0xC3), "" },
                  { BYTE('b'), "\xEF\xBF\xBD"
                               "b" },
                  { 2, "" },
                  { 99999, "" },
                  { -1, "" },
                  { BYTE(0xFF), "\xEF\xBF\xBD" },
                  { BYTE(0xE2), "" },
                  { BYTE(0x82), "" } };
    struct bpe *b = open_tiny(test_state);
    struct stream s;
    struct err err = { 0 };
    char got[64];

    CHECK_OK(stream_init(&s, b, "", &err), &err);
    for (int i = 0; i < COUNT_OF(steps); i++) {
        put(got, 0, stream_push(&s, steps[i].id));
        CHECK_STR(got, steps[i].text);
    }
    put(got, 0, stream_end(&s));
    CHECK_STR(got, "\xEF\xBF\xBD");
    CHECK_EQ(stream_end(&s).n, 0);
    stream_free(&s);
    bpe_close(b);
}

/* Random bytes, most of them from the edges of what UTF-8 allows. */
TEST(streamed_text_is_the_text_decoded_at_once)
{
    static const unsigned char edges[] = { 'a',  0x7F, 0x80, 0x8F, 0x90, 0x9F, 0xA0, 0xBF, 0xC1, 0xC2, 0xDF,
                                           0xE0, 0xE1, 0xED, 0xEF, 0xF0, 0xF1, 0xF4, 0xF5, 0xFF, 0x98, 0x82 };
    struct bpe *b = open_tiny(test_state);
    struct rng r = { .seed = 5, .purpose = RNG_TASK };
    struct stream s;
    struct err err = { 0 };

    CHECK_OK(stream_init(&s, b, "", &err), &err);
    for (int round = 0; round < 3000; round++) {
        int32_t ids[12];
        const int n_ids = 1 + (int)rng_below(&r, COUNT_OF(ids));
        char got[128], *want;
        size_t n = 0, n_want;

        for (int i = 0; i < n_ids; i++) {
            const uint32_t k = rng_below(&r, COUNT_OF(edges) + 2);
            ids[i] = k < COUNT_OF(edges) ? BYTE(edges[k]) : (int32_t)(E_ACUTE + k - COUNT_OF(edges));
            n = put(got, n, stream_push(&s, ids[i]));
        }
        n = put(got, n, stream_end(&s));
        stream_restart(&s);
        CHECK_OK(bpe_decode(b, ids, n_ids, &want, &n_want, &err), &err);
        CHECK(n == n_want && memcmp(got, want, n) == 0);
        mem_free(want);
    }
    stream_free(&s);
    bpe_close(b);
}

/* Random texts of few letters: what comes out is all that stands before the stop text, wherever it is cut. */
TEST(a_stop_text_ends_the_text)
{
    static const char letters[] = "abc", stop_text[] = "aabaac";
    struct bpe *b = open_tiny(test_state);
    struct rng r = { .seed = 6, .purpose = RNG_TASK };
    struct stream s;
    struct err err = { 0 };

    CHECK_OK(stream_init(&s, b, stop_text, &err), &err);
    for (int round = 0; round < 3000; round++) {
        char text[48] = "", got[48] = "";
        size_t n = 0;
        for (size_t i = 0; i < 40; i++)
            text[i] = letters[rng_below(&r, 3)];
        if (round % 2)
            memcpy(text + rng_below(&r, 34), stop_text, strlen(stop_text));
        char *stop = strstr(text, stop_text);
        for (size_t i = 0; i < 40; i++)
            n = put(got, n, stream_push(&s, BYTE(text[i])));
        put(got, n, stream_end(&s));
        CHECK_EQ(s.stopped, stop != NULL);
        if (stop)
            *stop = 0;
        CHECK_STR(got, text);
        stream_restart(&s);
    }
    stream_free(&s);
    bpe_close(b);
}

TEST(memory_may_be_out)
{
    struct bpe *b = open_tiny(test_state);
    struct stream s;
    struct err err;

    mem_fail_at(1);
    CHECK_ERR(stream_init(&s, b, "", &err), &err, ERR_MEMORY, "");
    mem_fail_at(0);
    bpe_close(b);
}

TEST_MAIN(CASE(characters_appear_whole), CASE(streamed_text_is_the_text_decoded_at_once),
          CASE(a_stop_text_ends_the_text), CASE(memory_may_be_out))
