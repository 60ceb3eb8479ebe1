/* From text to batches, against what DeepSpeed-Chat makes of the same file. */
#include "test.h"

#include "base/json.h"
#include "base/mem.h"
#include "data/batcher.h"
#include "data/split.h"
#include "data/tokenize.h"

struct setting {
    json_t *golden;
    struct source source;
    struct bpe *bpe;
};

static bool start(struct setting *x)
{
    struct err err = { 0 };
    char path[4096];

    *x = (struct setting){ 0 };
    if (!test_shared())
        return false;
    snprintf(path, sizeof path, "%s/golden/data.json", test_shared());
    x->golden = json_read(path, 1 << 24, &err);
    assert_non_null(x->golden);
    snprintf(path, sizeof path, "%s/data/preferences/eval.jsonl", test_shared());
    assert_int_equal(source_load(&x->source, path, false, &err), 0);
    snprintf(path, sizeof path, "%s/data/opt-tokenizer", test_shared());
    assert_int_equal(bpe_open(&x->bpe, path, &err), 0);
    return true;
}

static void stop(struct setting *x)
{
    json_decref(x->golden);
    source_free(&x->source);
    bpe_close(x->bpe);
}

/* The samples of a phase of the file. */
static struct samples phase_samples(struct setting *x, enum sample_kind kind, int64_t max_ids,
                                    struct tokenize_options o)
{
    struct split split;
    struct samples s;
    struct err err = { 0 };
    int64_t *rows, n_rows;

    assert_int_equal(split_parse(&split, "2,4,4", &err), 0);
    assert_int_equal(split_rows(&split, x->source.n_records, SPLIT_GIVEN, 1234, (int)kind + 1, &rows, &n_rows, &err),
                     0);
    assert_int_equal(samples_init(&s, kind, max_ids, bpe_eos(x->bpe), &err), 0);
    if (tokenize_records(&s, &x->source, rows, n_rows, x->bpe, &o, &err) != 0)
        fail_msg("%s; %s", err.what, err.where);
    mem_free(rows);
    return s;
}

/* Row r of the samples, padded, against an array of ids. */
static void check_row(const struct samples *s, int64_t r, bool left, const json_t *ids)
{
    const struct sample_row *row = &s->rows[r];
    const int64_t T = (int64_t)json_array_size(ids), begin = left ? T - row->n : 0;

    assert_int_equal(T, s->max_ids);
    for (int64_t t = 0; t < T; t++) {
        const bool real = t >= begin && t < begin + row->n;
        assert_int_equal(real ? s->ids[row->at + t - begin] : s->pad,
                         json_integer_value(json_array_get(ids, (size_t)t)));
    }
}

static void check_phase_1(struct setting *x, const char *key, struct tokenize_options o)
{
    const json_t *examples = json_object_get(x->golden, "phase_1");
    struct samples s = phase_samples(x, SAMPLE_TEXT, 96, o);

    for (size_t i = 0; i < json_array_size(examples); i++)
        check_row(&s, (int64_t)i, false, json_object_get(json_array_get(examples, i), key));
    samples_free(&s);
}

TEST(golden_phase_1)
{
    struct setting x;

    (void)test_state;
    if (!start(&x))
        skip();
    check_phase_1(&x, "input_ids", (struct tokenize_options){ CONVENTION_NOW, false });
    check_phase_1(&x, "input_ids_old", (struct tokenize_options){ CONVENTION_PAPER, false });
    check_phase_1(&x, "input_ids_local_jsonfile", (struct tokenize_options){ CONVENTION_NOW, true });
    stop(&x);
}

/* Mask and labels as the batcher says them, for the first four samples in the reference's order. */
TEST(golden_labels)
{
    struct setting x;
    struct err err = { 0 };
    struct batcher b;

    if (!start(&x))
        skip();
    struct samples s = phase_samples(&x, SAMPLE_TEXT, 96, (struct tokenize_options){ CONVENTION_NOW, false });
    const struct batcher_options o = { .B = 40, .T = 96, .ranks = 1, .reference_order = true };
    const json_t *examples = json_object_get(x.golden, "phase_1");
    CHECK_OK(batcher_init(&b, &s, &o, &err), &err);
    CHECK_EQ(batcher_step(&b, &err), 1);
    for (int64_t i = 0; i < b.batch.B; i++) {
        if (b.order[i] >= (int64_t)json_array_size(examples))
            continue;
        const json_t *example = json_array_get(examples, (size_t)b.order[i]);
        for (size_t t = 0; t < 96; t++) {
            const json_t *label = json_array_get(json_object_get(example, "labels"), t + 1);
            const int64_t mask = json_integer_value(json_array_get(json_object_get(example, "attention_mask"), t));
            CHECK_EQ(b.batch.targets[i * 96 + (int64_t)t], t == 95 ? -100 : json_integer_value(label));
            CHECK_EQ(b.batch.positions[i * 96 + (int64_t)t], mask ? (int64_t)t + 2 : 1);
            CHECK_EQ((int64_t)t < b.batch.spans[2 * i + 1], mask);
        }
    }
    batcher_free(&b);
    samples_free(&s);
    stop(&x);
}

TEST(golden_phase_2)
{
    struct setting x;

    if (!start(&x))
        skip();
    struct samples s = phase_samples(&x, SAMPLE_PAIR, 128, (struct tokenize_options){ CONVENTION_NOW, false });
    const json_t *examples = json_object_get(x.golden, "phase_2");
    for (size_t i = 0; i < json_array_size(examples); i++) {
        check_row(&s, 2 * (int64_t)i, false, json_object_get(json_array_get(examples, i), "chosen"));
        check_row(&s, 2 * (int64_t)i + 1, false, json_object_get(json_array_get(examples, i), "rejected"));
    }
    CHECK_EQ(s.n, 80);
    samples_free(&s);
    stop(&x);
}

TEST(golden_phase_3)
{
    struct setting x;

    if (!start(&x))
        skip();
    struct samples s = phase_samples(&x, SAMPLE_PROMPT, 64, (struct tokenize_options){ CONVENTION_NOW, false });
    const json_t *phase = json_object_get(x.golden, "phase_3"), *ids = json_object_get(phase, "input_ids");
    for (size_t i = 0; i < json_array_size(ids); i++)
        check_row(&s, (int64_t)i, true, json_array_get(ids, i));
    CHECK_EQ(s.n, json_integer_value(json_object_get(phase, "kept")));
    CHECK_EQ(s.n_dropped, json_integer_value(json_object_get(phase, "dropped")));
    samples_free(&s);
    stop(&x);
}

/* A tokenizer of single bytes with the four special tokens, in memory. */
static struct bpe *byte_tokenizer(void)
{
    static char vocab[8192];
    struct bpe_files files = { .merges = { "merges.txt", "#version: 0.2\n", 14 } };
    struct bpe *b = NULL;
    struct err err = { 0 };
    size_t n = (size_t)sprintf(vocab, "{\"<s>\": 0, \"<pad>\": 1, \"</s>\": 2, \"<unk>\": 3");
    int id = 4, other = 256;

    for (int byte = 0; byte < 256; byte++) {
        const bool plain = (byte >= 33 && byte <= 126) || (byte >= 161 && byte <= 172) || byte >= 174;
        n += (size_t)sprintf(vocab + n, ", \"\\u%04x\": %d", (unsigned)(plain ? byte : other++), id++);
    }
    n += (size_t)sprintf(vocab + n, "}");
    files.vocab = (struct bpe_file){ "vocab.json", vocab, n };
    if (bpe_parse(&b, &files, &err) != 0)
        fail_msg("%s; %s", err.what, err.where);
    return b;
}

static int tokenize_all(struct samples *s, enum sample_kind kind, const char *text, bool skip_bad,
                        const struct bpe *bpe, int64_t *n_skipped, struct err *err)
{
    const int64_t rows[] = { 0, 1, 2, 3 };
    struct source source;
    int result = source_parse(&source, text, strlen(text), "f", skip_bad, err);

    *s = (struct samples){ 0 };
    if (result == 0)
        result = samples_init(s, kind, 64, 2, err);
    if (result == 0)
        result = tokenize_records(s, &source, rows, source.n_records, bpe, &(struct tokenize_options){ 0 }, err);
    *n_skipped = source.n_skipped;
    source_free(&source);
    return result;
}

TEST(missing_fields_name_their_line)
{
    const char *text = "{\"prompt\": \"a\", \"chosen\": \"b\"}\n\n{\"prompt\": \"a\"}\n{\"chosen\": \"b\"}";
    struct bpe *bpe = byte_tokenizer();
    struct samples s;
    struct err err = { 0 };
    int64_t n_skipped;

    CHECK_ERR(tokenize_all(&s, SAMPLE_TEXT, text, false, bpe, &n_skipped, &err), &err, ERR_INPUT, "line 3");
    samples_free(&s);
    CHECK_ERR(tokenize_all(&s, SAMPLE_PROMPT, text, false, bpe, &n_skipped, &err), &err, ERR_INPUT, "line 4");
    samples_free(&s);
    CHECK_ERR(tokenize_all(&s, SAMPLE_PAIR, text, false, bpe, &n_skipped, &err), &err, ERR_INPUT, "\"rejected\"");
    samples_free(&s);
    CHECK_OK(tokenize_all(&s, SAMPLE_TEXT, text, true, bpe, &n_skipped, &err), &err);
    CHECK_EQ(n_skipped, 2);
    CHECK_EQ(s.n, 1);
    CHECK_EQ(s.rows[0].n, 4); /* begin, a, b, end */
    CHECK_EQ(s.ids[3], 2);
    samples_free(&s);
    bpe_close(bpe);
}

TEST(no_memory_leaves_nothing)
{
    const char *text = "{\"prompt\": \"a\", \"chosen\": \"b\", \"rejected\": \"c\"}";
    struct bpe *bpe = byte_tokenizer();
    int result = -1;

    for (int n = 1; result != 0; n++) {
        struct samples s;
        struct err err = { 0 };
        int64_t n_skipped;
        CHECK(n < 100);
        mem_fail_at(n);
        result = tokenize_all(&s, SAMPLE_PAIR, text, true, bpe, &n_skipped, &err);
        mem_fail_at(0);
        CHECK_EQ(err.code, result == 0 ? ERR_NONE : ERR_MEMORY);
        samples_free(&s);
        CHECK_EQ(mem_live_bytes(MEM_DATA), 0);
    }
    bpe_close(bpe);
}

TEST_MAIN(CASE(golden_phase_1), CASE(golden_labels), CASE(golden_phase_2), CASE(golden_phase_3),
          CASE(missing_fields_name_their_line), CASE(no_memory_leaves_nothing))
