#include "test.h"

#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "base/mem.h"
#include "base/rng.h"
#include "text/bpe.h"
#include "text/unicode.h"
#include "tiny_bpe.h"

static const char *const words[] = { "h e", "l l", "he ll", "hell o", "\xC4\xA0 hello", "a a", "aa aa", NULL };

static struct bpe *tiny_open(struct tiny *t, const char *const *merges)
{
    struct err err = { 0 };
    struct bpe *b = NULL;

    tiny_init(t, merges);
    if (bpe_parse(&b, &t->files, &err) != 0)
        fail_msg("%s; %s", err.what, err.where);
    return b;
}

static const char *ids_text(const struct bpe *b, const char *text, size_t n)
{
    static char out[4096];
    struct err err = { 0 };
    int32_t *ids;
    int64_t n_ids;
    size_t at = 0;

    if (bpe_encode(b, text, n, true, &ids, &n_ids, &err) != 0)
        fail_msg("%s; %s", err.what, err.where);
    out[0] = '\0';
    for (int64_t i = 0; i < n_ids && at < sizeof out - 16; i++)
        at += (size_t)sprintf(out + at, "%s%d", i ? " " : "", ids[i]);
    mem_free(ids);
    return out;
}
#define CHECK_IDS(b, text, want) CHECK_STR(ids_text(b, text, sizeof(text) - 1), want)

TEST(text_becomes_the_ids_of_the_merges)
{
    struct tiny t;
    struct bpe *b = tiny_open(&t, words);

    CHECK_EQ(bpe_vocab_size(b), 267);
    CHECK_IDS(b, "", "2");
    CHECK_IDS(b, "hello", "2 263");
    CHECK_IDS(b, "hello hello", "2 263 264");
    CHECK_IDS(b, "aaaaaaa", "2 266 265 101");
    CHECK_IDS(b, "hell", "2 262");
    CHECK_IDS(b, "hello's", "2 263 43 119");
    CHECK_IDS(b, "a\0b", "2 101 4 102");
    CHECK_IDS(b, "hello</s><s><pad></s", "2 263 2 64 119 66 1 64 51 119");
    CHECK_IDS(b, "  \n", "2 36 36 14");
    bpe_close(b);
}

/* "  hello": the last space joins the word; a run before another kind of space does not. U+001C is no space. */
TEST(spaces_are_unicode_white_space)
{
    struct tiny t;
    struct bpe *b = tiny_open(&t, words);

    CHECK_IDS(b, "  hello", "2 36 264");
    CHECK_IDS(b, " \thello", "2 36 13 263");
    CHECK_IDS(b, "\x1C hello", "2 32 264");
    CHECK_IDS(b, " \xC2\x85", "2 36 198 137");
    bpe_close(b);
}

/* Each pair of letters would merge if the contraction before x were not a piece of its own. */
TEST(contractions_are_pieces)
{
    static const char *const merges[] = { "s x", "t x", "e x", "m x", "l x", "d x", "S x", NULL };
    struct tiny t;
    struct bpe *b = tiny_open(&t, merges);

    CHECK_IDS(b, "'sx'tx'mx'dx", "2 43 119 124 43 120 124 43 113 124 43 104 124");
    CHECK_IDS(b, "'rex'vex'llx", "2 43 118 105 124 43 122 105 124 43 112 112 124");
    CHECK_IDS(b, "'Sx 'sx", "2 43 266 36 43 260");
    bpe_close(b);
}

/* "abc" is a token, made of a and bc, but in "abc" a and b merge first. */
TEST(a_token_may_be_out_of_reach)
{
    static const char *const merges[] = { "a b", "b c", "a bc", NULL };
    struct tiny t;
    struct bpe *b = tiny_open(&t, merges);

    CHECK_IDS(b, "abc", "2 260 103");
    CHECK_IDS(b, "abc ab", "2 260 103 36 260");
    bpe_close(b);
}

TEST(malformed_utf8_is_named_by_its_byte)
{
    static const char *const bad[] = { "\xff", "abc\xC3", "abcdefgh\xED\xA0\x80", "\xC0\x80", "\xF4\x90\x80\x80" };
    static const char *const where[] = { "byte 0 ", "byte 3 ", "byte 8 ", "byte 0 ", "byte 0 " };
    struct tiny t;
    struct bpe *b = tiny_open(&t, words);
    struct err err;
    int32_t *ids;
    int64_t n;

    for (int i = 0; i < COUNT_OF(bad); i++) {
        CHECK_ERR(bpe_encode(b, bad[i], strlen(bad[i]), true, &ids, &n, &err), &err, ERR_INPUT, where[i]);
        CHECK(!ids && n == 0);
    }
    bpe_close(b);
}

TEST(ids_become_text)
{
    struct tiny t;
    struct bpe *b = tiny_open(&t, words);
    struct err err = { 0 };
    const int32_t ids[] = { 2, 263, 264, -1, 400, 4, 230, 134, 101, 259 }; /* e2 82 'a' ff: two subparts */
    char *text;
    size_t n;

    CHECK_OK(bpe_decode(b, ids, COUNT_OF(ids), &text, &n, &err), &err);
    CHECK_EQ(n, 4 + 5 + 6 + 1 + 3 + 1 + 3);
    CHECK(memcmp(text,
                 "</s>hello hello\0\xEF\xBF\xBD"
                 "a\xEF\xBF\xBD",
                 n + 1) == 0);
    mem_free(text);
    CHECK_OK(bpe_decode(b, NULL, 0, &text, &n, &err), &err);
    CHECK_STR(text, "");
    mem_free(text);
    bpe_close(b);
}

/* The definition, word for word and slowly: what both ways of merge.c must equal. */
static int slow_merge(const struct vocab *v, const char *piece, int n, int32_t *ids)
{
    for (int i = 0; i < n; i++)
        ids[i] = v->byte_id[(unsigned char)piece[i]];
    for (;;) {
        int32_t best = INT32_MAX, merged = -1;
        int to = 0;
        for (int i = 0; i + 1 < n; i++) {
            const struct vocab_pair *p = vocab_pair(v, ids[i], ids[i + 1]);
            if (p->key && p->rank < best) {
                best = p->rank;
                merged = p->id;
            }
        }
        if (merged < 0)
            return n;
        const int32_t left = v->merges[best][0], right = v->merges[best][1];
        for (int i = 0; i < n; to++) {
            const int both = i + 1 < n && ids[i] == left && ids[i + 1] == right;
            ids[to] = both ? merged : ids[i];
            i += both ? 2 : 1;
        }
        n = to;
    }
}

TEST(short_and_long_pieces_follow_the_definition)
{
    /* "b b" after "bb b" is an order that no training makes: a merge whose part comes later. */
    static const char *const odd[] = { "a b", "bb b", "b a", "b b", "ab a", "a a", "ab ab", "aa b", "aba ba", NULL };
    struct rng r = { .seed = 7, .purpose = RNG_TASK };
    struct err err = { 0 };
    struct tiny t;
    struct bpe *b = tiny_open(&t, odd);

    for (int round = 0; round < 400; round++) {
        char piece[300];
        int32_t want[300], *ids;
        int64_t n_ids;
        const int n = 1 + (int)rng_below(&r, round % 2 ? 60 : 299);
        for (int i = 0; i < n; i++)
            piece[i] = (char)('a' + (int)rng_below(&r, 2));
        const int n_want = slow_merge(&b->vocab, piece, n, want);
        CHECK_OK(bpe_encode(b, piece, (size_t)n, false, &ids, &n_ids, &err), &err);
        CHECK_EQ(n_ids, n_want);
        CHECK(memcmp(ids, want, (size_t)n_want * sizeof *ids) == 0);
        mem_free(ids);
    }
    bpe_close(b);
}

TEST(a_megabyte_without_a_break_is_fine)
{
    const size_t n = 1 << 20;
    char *text = mem_array((int64_t)n, 1, 1, MEM_TEXT, &(struct err){ 0 });
    struct err err = { 0 };
    struct tiny t;
    struct bpe *b = tiny_open(&t, words);
    int32_t *ids;
    int64_t n_ids;

    memset(text, 'a', n);
    CHECK_OK(bpe_encode(b, text, n, false, &ids, &n_ids, &err), &err);
    CHECK_EQ(n_ids, n / 4);
    mem_free(ids);
    memset(text, ' ', n);
    text[n - 1] = 'b';
    CHECK_OK(bpe_encode(b, text, n, false, &ids, &n_ids, &err), &err);
    CHECK_EQ(n_ids, n);
    mem_free(ids);
    mem_free(text);
    bpe_close(b);
}

static int parse_with(const char *merges, const char *vocab, const char *config, struct err *err)
{
    struct tiny t;
    struct bpe *b;

    tiny_init(&t, words);
    if (merges)
        t.files.merges = (struct bpe_file){ "merges.txt", merges, strlen(merges) };
    if (vocab)
        t.files.vocab = (struct bpe_file){ "vocab.json", vocab, strlen(vocab) };
    if (config)
        t.files.config = (struct bpe_file){ "config", config, strlen(config) };
    const int failed = bpe_parse(&b, &t.files, err);
    bpe_close(b);
    return failed;
}

TEST(bad_files_are_refused_by_name_and_line)
{
    static const struct {
        const char *merges, *vocab, *config, *says;
    } bad[] = {
        { "#version: 0.2\nh e\nl  l\n", NULL, NULL, "line 3" },
        { "h e\nq q\n", NULL, NULL, "line 2" },
        { "h \xC4\x80\xC4\n", NULL, NULL, "UTF-8" },
        { "h e\nl l\n\nh e\n", NULL, NULL, "line 4" },
        { "h e", "{\"</s>\": 0, \"h\": 1}", NULL, "the right part" },
        { "h e", "{\"</s>\": 0, \"h\": 1, \"e\": 2}", NULL, "the result" },
        { "", "{\"</s>\": 0, \"h\": 0}", NULL, "id 0 belongs to two tokens" },
        { "", "{\"</s>\": 0, \"h\": -1}", NULL, "\"h\" has no id" },
        { "", "{\"</s>\": 0, \"h\": 1.5}", NULL, "\"h\" has no id" },
        { "", "{\"</s>\": 0, \"h\": 4194304}", NULL, "\"h\" has no id" },
        { "", "{\"</s>\": 0, \"h\": 4194303}", NULL, "only 2 tokens" },
        { "", "{\"</s>\": 0, \"</s>\": 1}", NULL, "line 1" },
        { "", "{\"</s>\": 0, \"\": 1}", NULL, "has no id" },
        { "", "[1]", NULL, "not a JSON object" },
        { "", "{\"</s>\": ", NULL, "not valid JSON" },
        { "", "{\"a\": 0}", NULL, "no \"</s>\"" },
        { NULL, NULL, "{\"bos_token\": \"<nothing>\"}", "<nothing>" },
        { NULL, NULL, "{\"bos_token\": 5}", "bos_token" },
        { NULL, NULL, "{\"add_prefix_space\": true}", "add_prefix_space" },
        { NULL, NULL, "{\"pad_token\": {\"content\": \"<pad>\", \"lstrip\": true}}", "lstrip" },
        { NULL, NULL, "{\"added_tokens_decoder\": {\"2\": \"<x>\"}}", "id 2 belongs" },
        { NULL, NULL, "{\"added_tokens_decoder\": {\"500\": \"hello\"}}", "same token" },
        { NULL, NULL, "{\"added_tokens_decoder\": {\"x\": \"<x>\"}}", "no id" },
    };
    struct err err;

    for (int i = 0; i < COUNT_OF(bad); i++)
        CHECK_ERR(parse_with(bad[i].merges, bad[i].vocab, bad[i].config, &err), &err, ERR_INPUT, bad[i].says);
    CHECK_ERR(bpe_open(&(struct bpe *){ NULL }, "/nowhere", &err), &err, ERR_INPUT, "vocab.json");
}

TEST(added_tokens_and_config_are_heeded)
{
    static const char config[] = "{\"add_bos_token\": false, \"eos_token\": {\"content\": \"<|end|>\"}, "
                                 "\"added_tokens_decoder\": {\"261\": \"ll\", \"270\": {\"content\": \"<|end|>\"}, "
                                 "\"271\": {\"content\": \"<|end|>\xC3\xA9\"}}}";
    struct err err = { 0 };
    struct tiny t;
    struct bpe *b;
    const int32_t id = 271;
    char *text;
    size_t n;

    tiny_init(&t, words);
    t.files.config = (struct bpe_file){ "config", config, strlen(config) };
    CHECK_OK(bpe_parse(&b, &t.files, &err), &err);
    CHECK_EQ(bpe_eos(b), 270);
    CHECK_EQ(bpe_bos(b), 2);
    CHECK_EQ(bpe_pad(b), 1);
    CHECK_EQ(bpe_vocab_size(b), 272);
    CHECK_IDS(b, "hello<|end|>\xC3\xA9<|end|>a</s>", "260 261 115 271 270 101 2");
    CHECK_OK(bpe_decode(b, &id, 1, &text, &n, &err), &err);
    CHECK_STR(text, "<|end|>\xC3\xA9");
    mem_free(text);
    bpe_close(b);
}

TEST(tokenizer_json_is_read)
{
    static const char text[] =
        "{\"model\": {\"type\": \"BPE\", \"vocab\": {\"</s>\": 0, \"h\": 1, \"e\": 2, \"he\": 3, \"hh\": 4}, "
        "\"merges\": [\"h e\", [\"h\", \"h\"]]}, \"normalizer\": null, "
        "\"pre_tokenizer\": {\"type\": \"ByteLevel\", \"add_prefix_space\": false, \"use_regex\": true}, "
        "\"added_tokens\": [{\"id\": 5, \"content\": \"<x>\"}]}";
    struct bpe_files files = { .tokenizer = { "tokenizer.json", text, sizeof text - 1 } };
    struct err err = { 0 };
    char other[sizeof text];
    struct bpe *b;

    CHECK_OK(bpe_parse(&b, &files, &err), &err);
    CHECK_IDS(b, "hehhhe<x>z", "0 3 4 3 5 0");
    bpe_close(b);
    strcpy(other, text);
    memcpy(strstr(other, "ByteLevel"), "Metaspace", 9);
    files.tokenizer.text = other;
    CHECK_ERR(bpe_parse(&b, &files, &err), &err, ERR_INPUT, "pre_tokenizer");
}

TEST(saved_files_are_the_same_tokenizer)
{
    char dir[] = "/tmp/tuneup-bpe-XXXXXX";
    struct err err = { 0 };
    struct tiny t;
    struct bpe *b = tiny_open(&t, words), *again;

    CHECK(mkdtemp(dir));
    CHECK_OK(bpe_save_files(b, dir, &err), &err);
    CHECK_OK(bpe_open(&again, dir, &err), &err);
    CHECK_EQ(bpe_vocab_size(again), bpe_vocab_size(b));
    CHECK_EQ(again->vocab.n_merges, b->vocab.n_merges);
    CHECK_EQ(again->n_specials, b->n_specials);
    CHECK_EQ(bpe_pad(again), 1);
    CHECK_IDS(again, "hello</s> hello", "2 263 2 264");
    bpe_close(again);
    bpe_close(b);
    CHECK_OK(file_remove_tree(dir, &err), &err);
}

TEST(every_allocation_may_fail)
{
    const size_t live = mem_live_bytes(MEM_TEXT);
    struct err err = { 0 };
    struct tiny t;
    struct bpe *b = NULL;
    int64_t n = 1, n_ids;
    int32_t *ids = NULL;
    char *text = NULL, letters[200];
    size_t n_text;

    memset(letters, 'a', sizeof letters);
    tiny_init(&t, words);
    for (mem_fail_at(n); bpe_parse(&b, &t.files, &err) != 0; mem_fail_at(++n)) {
        CHECK_EQ(err.code, ERR_MEMORY);
        CHECK_EQ(mem_live_bytes(MEM_TEXT), live);
    }
    CHECK(n > 15);
    for (mem_fail_at(n = 1); bpe_encode(b, letters, sizeof letters, true, &ids, &n_ids, &err) != 0; mem_fail_at(++n))
        CHECK_EQ(err.code, ERR_MEMORY);
    CHECK(n > 5);
    ids[0] = 259; /* not UTF-8: the way through repair */
    for (mem_fail_at(n = 1); bpe_decode(b, ids, n_ids, &text, &n_text, &err) != 0; mem_fail_at(++n))
        CHECK_EQ(err.code, ERR_MEMORY);
    mem_fail_at(0);
    CHECK_EQ(n, 3);
    mem_free(ids);
    mem_free(text);
    bpe_close(b);
    CHECK_EQ(mem_live_bytes(MEM_TEXT), live);
}

/* Calls check for each line of a golden file; returns how many there were, -1 without the shared folder. */
static int each_golden(const char *name, const char *model, void (*check)(const struct bpe *b, const json_t *line))
{
    struct err err = { 0 };
    char path[FILE_PATH_MAX], dir[FILE_PATH_MAX], *line = NULL;
    struct bpe *b;
    size_t room = 0;
    int n = 0;

    if (!test_shared())
        return -1;
    snprintf(path, sizeof path, "%s/golden/%s", test_shared(), name);
    snprintf(dir, sizeof dir, "%s/%s", test_shared(), model);
    FILE *f = file_open_read(path, &err);
    if (!f || bpe_open(&b, dir, &err) != 0)
        fail_msg("%s; %s", err.what, err.where);
    for (ssize_t got; (got = getline(&line, &room, f)) > 0; n++) {
        json_t *v = json_parse(line, (size_t)got, path, n + 1, &err);
        if (!v)
            fail_msg("%s; %s", err.what, err.where);
        check(b, v);
        json_decref(v);
    }
    free(line);
    fclose(f);
    bpe_close(b);
    return n;
}

static void check_encode(const struct bpe *b, const json_t *line)
{
    const json_t *text = json_object_get(line, "text"), *want = json_object_get(line, "ids");
    struct err err = { 0 };
    int32_t *ids;
    int64_t n;

    if (bpe_encode(b, json_string_value(text), json_string_length(text), true, &ids, &n, &err) != 0)
        fail_msg("%s; %s", err.what, err.where);
    int wrong = (size_t)n != json_array_size(want);
    for (int64_t i = 0; !wrong && i < n; i++)
        wrong = ids[i] != json_integer_value(json_array_get(want, (size_t)i));
    if (wrong)
        fail_msg("line %lld differs", (long long)json_integer_value(json_object_get(line, "id")));
    mem_free(ids);
}

static void check_decode(const struct bpe *b, const json_t *line)
{
    const json_t *want = json_object_get(line, "text"), *list = json_object_get(line, "ids");
    struct err err = { 0 };
    int32_t ids[4096];
    char *text;
    size_t n;

    for (size_t i = 0; i < json_array_size(list); i++)
        ids[i] = (int32_t)json_integer_value(json_array_get(list, i));
    if (bpe_decode(b, ids, (int64_t)json_array_size(list), &text, &n, &err) != 0)
        fail_msg("%s; %s", err.what, err.where);
    if (n != json_string_length(want) || memcmp(text, json_string_value(want), n) != 0)
        fail_msg("line %lld differs: %s", (long long)json_integer_value(json_object_get(line, "id")), text);
    mem_free(text);
}

TEST(golden_texts_give_golden_ids)
{
    const int n = each_golden("tokenizer.jsonl", "data/opt-tokenizer", check_encode);

    if (n < 0)
        skip();
    CHECK_EQ(n, 300);
}

TEST(golden_ids_give_golden_texts)
{
    const int n = each_golden("tokenizer_decode.jsonl", "data/opt-tokenizer", check_decode);

    if (n < 0)
        skip();
    CHECK_EQ(n, 40);
}

TEST_MAIN(CASE(text_becomes_the_ids_of_the_merges), CASE(spaces_are_unicode_white_space), CASE(contractions_are_pieces),
          CASE(a_token_may_be_out_of_reach), CASE(malformed_utf8_is_named_by_its_byte), CASE(ids_become_text),
          CASE(short_and_long_pieces_follow_the_definition), CASE(a_megabyte_without_a_break_is_fine),
          CASE(bad_files_are_refused_by_name_and_line), CASE(added_tokens_and_config_are_heeded),
          CASE(tokenizer_json_is_read), CASE(saved_files_are_the_same_tokenizer), CASE(every_allocation_may_fail),
          CASE(golden_texts_give_golden_ids), CASE(golden_ids_give_golden_texts))
