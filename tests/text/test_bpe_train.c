#include "test.h"

#include "base/mem.h"
#include "base/rng.h"
#include "text/bpe_train.h"

static struct bpe *train(const char *const *texts, int n, int32_t vocab_size)
{
    struct err err = { 0 };
    size_t sizes[8];
    struct bpe *b;

    for (int i = 0; i < n; i++)
        sizes[i] = strlen(texts[i]);
    if (bpe_train(texts, sizes, n, vocab_size, &b, &err) != 0)
        fail_msg("%s; %s", err.what, err.where);
    return b;
}

static const char *token(const struct bpe *b, int32_t id)
{
    static char out[64];
    const struct span s = strings_get(&b->vocab.bytes, id);

    snprintf(out, sizeof out, "%.*s", (int)s.n, s.s);
    return out;
}

TEST(the_form_is_that_of_opt)
{
    const char *const text = "";
    struct bpe *b = train(&text, 1, 300);

    CHECK_EQ(bpe_vocab_size(b), 260);
    CHECK_EQ(b->vocab.n_merges, 0);
    CHECK_EQ(bpe_bos(b), 2);
    CHECK_EQ(bpe_eos(b), 2);
    CHECK_EQ(bpe_pad(b), 1);
    CHECK_STR(token(b, 0), "<s>");
    CHECK_STR(token(b, 3), "<unk>");
    for (int i = 0; i < 256; i++)
        CHECK_EQ(b->vocab.byte_id[i], 4 + i);
    bpe_close(b);
}

/* Pairs at first: ab 4, bc 2, xy 4 (two texts of two). ab and xy tie: ab has the smaller left id. */
TEST(the_most_frequent_pair_is_first_and_ties_go_to_smaller_ids)
{
    const char *const texts[] = { "abc abc ab\nab", "xy\nxy\n", "xy\nxy\nz" };
    struct bpe *b = train(texts, COUNT_OF(texts), 400);

    CHECK_STR(token(b, 260), "ab");
    CHECK_STR(token(b, 261), "xy");
    CHECK_STR(token(b, 262), " ab");
    CHECK_EQ(bpe_vocab_size(b), 263); /* nothing else occurs twice */
    bpe_close(b);
}

TEST(a_run_is_counted_and_merged_without_overlap)
{
    const char *const text = "aaaaaaaa";
    struct bpe *b = train(&text, 1, 400);

    CHECK_STR(token(b, 260), "aa");
    CHECK_STR(token(b, 261), "aaaa");
    CHECK_EQ(bpe_vocab_size(b), 262);
    bpe_close(b);
}

/* The next merge by the definition alone: all pairs of the text, encoded with the merges so far, counted anew. One
 * piece, so that nothing but pairs is at stake. */
static int64_t slow_best(const int32_t *ids, int64_t n, int32_t best[2])
{
    int64_t most = 0;

    for (int64_t i = 0; i + 1 < n; i++) {
        int64_t count = 0;
        for (int64_t k = 0; k + 1 < n; k++)
            count += ids[k] == ids[i] && ids[k + 1] == ids[i + 1];
        const bool smaller = ids[i] < best[0] || (ids[i] == best[0] && ids[i + 1] < best[1]);
        if (count > most || (count == most && smaller)) {
            most = count;
            best[0] = ids[i];
            best[1] = ids[i + 1];
        }
    }
    return most;
}

TEST(a_long_piece_counts_to_its_end)
{
    static char text[1024 + 8];
    const char *const texts[] = { text };

    memset(text, 'a', 1024);
    memcpy(text + 1024, "bcbcbc", 7);
    struct bpe *b = train(texts, 1, 400);
    CHECK(strings_find(&b->vocab.bytes, "bc", 2) > 0);
    CHECK_EQ(strings_find(&b->vocab.bytes, "ab", 2), -1);
    bpe_close(b);
}

TEST(every_merge_is_the_best_of_its_moment)
{
    struct rng r = { .seed = 3, .purpose = RNG_TASK };
    static char text[1001];
    static int32_t ids[1000];
    const char *const texts[] = { text };
    int64_t n = 1000;

    for (int64_t i = 0; i < n; i++) {
        text[i] = (char)('a' + (int)rng_below(&r, 3));
        ids[i] = 4 + text[i];
    }
    struct bpe *b = train(texts, 1, 330);
    CHECK(b->vocab.n_merges >= 60);
    for (int32_t m = 0; m < b->vocab.n_merges; m++) {
        int32_t best[2] = { 0 };
        int64_t to = 0;
        CHECK(slow_best(ids, n, best) >= 2);
        CHECK_EQ(b->vocab.merges[m][0], best[0]);
        CHECK_EQ(b->vocab.merges[m][1], best[1]);
        const int32_t id = vocab_pair(&b->vocab, best[0], best[1])->id;
        for (int64_t i = 0; i < n; to++) {
            const bool both = i + 1 < n && ids[i] == best[0] && ids[i + 1] == best[1];
            ids[to] = both ? id : ids[i];
            i += both ? 2 : 1;
        }
        n = to;
    }
    bpe_close(b);
}

TEST(the_order_of_the_texts_does_not_matter)
{
    const char *const one[] = { "the cat sat on the mat", "that hat on the rat",
                                "a cat that sat on \xC3\xA9t\xC3\xA9" };
    const char *const two[] = { one[2], one[0], one[1] };
    struct bpe *a = train(one, 3, 290), *b = train(two, 3, 290);

    CHECK_EQ(a->vocab.n_merges, b->vocab.n_merges);
    CHECK(a->vocab.n_merges > 5);
    CHECK(memcmp(a->vocab.merges, b->vocab.merges, (size_t)a->vocab.n_merges * sizeof *a->vocab.merges) == 0);
    bpe_close(a);
    bpe_close(b);
}

TEST(what_was_trained_round_trips)
{
    const char *const text =
        "She said: \"it's 12 o'clock,\r\n\tisn't it?\" She said: it's not. \xE4\xBD\xA0 \xE4\xBD\xA0";
    struct bpe *b = train(&text, 1, 280);
    struct err err = { 0 };
    int32_t *ids;
    int64_t n_ids;
    char *back;
    size_t n;

    CHECK_OK(bpe_encode(b, text, strlen(text), false, &ids, &n_ids, &err), &err);
    CHECK(n_ids < (int64_t)strlen(text) - 10);
    CHECK_OK(bpe_decode(b, ids, n_ids, &back, &n, &err), &err);
    CHECK_STR(back, text);
    mem_free(ids);
    mem_free(back);
    bpe_close(b);
}

TEST(bad_requests_are_refused)
{
    const char *const texts[] = { "fine", "b\xFF" };
    const size_t sizes[] = { 4, 2 };
    struct err err;
    struct bpe *b;

    CHECK_ERR(bpe_train(texts, sizes, 1, 259, &b, &err), &err, ERR_USAGE, "259");
    CHECK_ERR(bpe_train(texts, sizes, 2, 300, &b, &err), &err, ERR_INPUT, "text 2");
    CHECK_ERR(bpe_train(texts, sizes, 2, 300, &b, &err), &err, ERR_INPUT, "byte 1 ");
    CHECK(!b);
}

TEST(every_allocation_may_fail)
{
    const size_t live = mem_live_bytes(MEM_TEXT);
    const char *const text = "the cat sat on the mat that the rat sat on";
    const size_t size = strlen(text);
    struct err err = { 0 };
    struct bpe *b = NULL;
    int64_t n = 1;

    for (mem_fail_at(n); bpe_train(&text, &size, 1, 280, &b, &err) != 0; mem_fail_at(++n)) {
        CHECK_EQ(err.code, ERR_MEMORY);
        CHECK_EQ(mem_live_bytes(MEM_TEXT), live);
    }
    mem_fail_at(0);
    CHECK(n > 30);
    bpe_close(b);
}

TEST_MAIN(CASE(the_form_is_that_of_opt), CASE(the_most_frequent_pair_is_first_and_ties_go_to_smaller_ids),
          CASE(a_run_is_counted_and_merged_without_overlap), CASE(a_long_piece_counts_to_its_end),
          CASE(every_merge_is_the_best_of_its_moment), CASE(the_order_of_the_texts_does_not_matter),
          CASE(what_was_trained_round_trips), CASE(bad_requests_are_refused), CASE(every_allocation_may_fail))
