#include "test.h"

#include <sys/stat.h>
#include <unistd.h>
#include <zlib.h>

#include "base/file.h"
#include "base/mem.h"
#include "data/source.h"

#define RECORD "{\"prompt\": \"p\", \"chosen\": \"c\", \"rejected\": \"r\"}"

static int parse(struct source *s, const char *text, bool skip_bad, struct err *err)
{
    return source_parse(s, text, strlen(text), "data.jsonl", skip_bad, err);
}

static void check_count(const char *text, int64_t n)
{
    struct err err = { 0 };
    struct source s;

    if (parse(&s, text, false, &err) != 0)
        fail_msg("\"%s\": %s; %s", text, err.what, err.where);
    assert_int_equal(s.n_records, n);
    source_free(&s);
    source_free(&s);
}

TEST(every_form_is_read)
{
    (void)test_state;
    check_count(RECORD, 1);
    check_count(RECORD "\n" RECORD, 2);
    check_count("\xEF\xBB\xBF" RECORD "\r\n" RECORD "\r\n", 2);
    check_count("\n\n  \t\r\n" RECORD "\n\n" RECORD "\n\n", 2);
    check_count("[" RECORD "]", 1);
    check_count("\xEF\xBB\xBF\n [\n" RECORD "\n,\r\n" RECORD "\n]\n\n", 2);
    check_count("{\"prompt\": \"only\", \"more\": [1, {\"x\": \"]\"}]}", 1);
    check_count("[{\"prompt\": \"a]},[\\\"\", \"more\": [[]]}, " RECORD "]", 2);
}

TEST(fields_keep_their_bytes)
{
    struct err err = { 0 };
    struct source s;

    CHECK_OK(parse(&s, "\n{\"prompt\": \"a\\u0000b\\u00e9\", \"chosen\": \"\", \"rejected\": null}", false, &err),
             &err);
    const struct record_text *r = &s.records[0];
    CHECK_EQ(r->line, 2);
    CHECK_EQ(r->prompt_n, 5);
    CHECK(memcmp(r->prompt, "a\0b\xc3\xa9", 6) == 0);
    CHECK(r->chosen && r->chosen_n == 0);
    CHECK(!r->rejected);
    source_free(&s);
}

TEST(lines_are_counted_in_arrays)
{
    struct err err = { 0 };
    struct source s;

    CHECK_OK(parse(&s, "[\n\n" RECORD ",\n{\n\"prompt\":\n\"x\"\n},\n\n" RECORD "]", false, &err), &err);
    CHECK_EQ(s.records[0].line, 3);
    CHECK_EQ(s.records[1].line, 4);
    CHECK_EQ(s.records[2].line, 9);
    source_free(&s);
}

TEST(faults_name_file_and_line)
{
    struct err err;
    struct source s;

    CHECK_ERR(parse(&s, RECORD "\n{\"prompt\": 3}", false, &err), &err, ERR_INPUT, "\"data.jsonl\", line 2");
    CHECK_ERR(parse(&s, RECORD "\n\n{\"prompt\": \"x\"", false, &err), &err, ERR_INPUT, "line 3");
    CHECK_ERR(parse(&s, RECORD "\n17\n", false, &err), &err, ERR_INPUT, "not a JSON object");
    CHECK_ERR(parse(&s, "{\"words\": \"x\"}", false, &err), &err, ERR_INPUT, "none of");
    CHECK_OK(parse(&s, "{\"text\": \"x\"}", false, &err), &err);
    CHECK_STR(s.records[0].text, "x");
    CHECK(!s.records[0].prompt);
    source_free(&s);
    CHECK_OK(parse(&s, "{\"prompt\": \"p\", \"text\": 3}", false, &err), &err); /* not looked at */
    source_free(&s);
    CHECK_ERR(parse(&s, "{\"prompt\": \"\xff\xfe\"}", false, &err), &err, ERR_INPUT, "line 1");
    CHECK_ERR(parse(&s, "{\"prompt\": \"a\", \"prompt\": \"b\"}", false, &err), &err, ERR_INPUT, "duplicate");
    CHECK_ERR(parse(&s, "", false, &err), &err, ERR_INPUT, "no record");
    CHECK_ERR(parse(&s, "[]", false, &err), &err, ERR_INPUT, "no record");
    CHECK_ERR(parse(&s, "[\n" RECORD, false, &err), &err, ERR_INPUT, "line 2");
    CHECK_ERR(parse(&s, "[" RECORD ",]", false, &err), &err, ERR_INPUT, "empty");
    CHECK_ERR(parse(&s, "[" RECORD "]\n}", false, &err), &err, ERR_INPUT, "follows");
    CHECK_ERR(parse(&s, "[\"\\", true, &err), &err, ERR_INPUT, "does not end");
    CHECK_EQ(mem_live_bytes(MEM_DATA), 0);
}

TEST(nesting_is_bounded)
{
    struct err err;
    struct source s;
    char *deep = malloc(200001);

    memset(deep, '[', 200000);
    memcpy(deep, "{\"x\":", 5);
    deep[200000] = '\0';
    CHECK_ERR(parse(&s, deep, false, &err), &err, ERR_INPUT, "line 1");
    free(deep);
}

TEST(bad_records_are_counted_and_listed)
{
    struct err err = { 0 };
    struct source s;

    CHECK_OK(parse(&s, "rubbish\n" RECORD "\n{\"prompt\": []}\n" RECORD "\n\x01", true, &err), &err);
    CHECK_EQ(s.n_records, 2);
    CHECK_EQ(s.n_skipped, 3);
    CHECK_EQ(s.problems[0].line, 1);
    CHECK_EQ(s.problems[1].line, 3);
    CHECK_EQ(s.problems[2].line, 5);
    CHECK_STR(s.problems[1].what, "\"prompt\" is not a string");
    CHECK_EQ(err.code, ERR_NONE);
    source_free(&s);
    CHECK_ERR(parse(&s, "x\ny", true, &err), &err, ERR_INPUT, "no good record");
}

TEST(long_lines_are_fine)
{
    const size_t n = 3 << 20;
    struct err err = { 0 };
    struct source s;
    char *text = malloc(n + 64);

    memset(text, 'x', n + 64);
    memcpy(text, "{\"prompt\": \"", 12);
    memcpy(text + n, "\"}", 3);
    CHECK_OK(parse(&s, text, false, &err), &err);
    CHECK_EQ(s.records[0].prompt_n, n - 12);
    source_free(&s);
    free(text);
}

static void write_bytes(const char *path, const void *data, size_t n)
{
    FILE *f = fopen(path, "wb");

    assert_non_null(f);
    assert_int_equal(fwrite(data, 1, n, f), n);
    fclose(f);
}

static void write_gzip(const char *path, const char *text, const char *mode)
{
    gzFile f = gzopen(path, mode);

    assert_non_null(f);
    assert_true(gzputs(f, text) > 0);
    assert_int_equal(gzclose(f), Z_OK);
}

/* A fresh folder's file, inside the build's working folder for temporary files. */
static const char *temporary(char *folder, char *path, const char *name)
{
    snprintf(folder, 64, "/tmp/tuneup-source-XXXXXX");
    assert_non_null(mkdtemp(folder));
    snprintf(path, 128, "%s/%s", folder, name);
    return path;
}

static void remove_folder(const char *folder)
{
    struct err err = { 0 };

    assert_int_equal(file_remove_tree(folder, &err), 0);
}

TEST(gzip_is_told_by_content)
{
    struct err err = { 0 };
    struct source s;
    char folder[64], path[128];

    write_gzip(temporary(folder, path, "data.txt"), RECORD "\n", "wb");
    write_gzip(path, RECORD "\n", "ab"); /* a second member */
    CHECK_OK(source_load(&s, path, false, &err), &err);
    CHECK_EQ(s.n_records, 2);
    source_free(&s);

    CHECK_EQ(truncate(path, 50), 0);
    CHECK_ERR(source_load(&s, path, false, &err), &err, ERR_INPUT, "gzip");
    write_bytes(path, "\x1f\x8b rubbish", 10);
    CHECK_ERR(source_load(&s, path, false, &err), &err, ERR_INPUT, path);
    remove_folder(folder);
    CHECK_ERR(source_load(&s, path, false, &err), &err, ERR_INPUT, "tuneup data new");
    CHECK_EQ(mem_live_bytes(MEM_DATA), 0);
}

TEST(folder_is_a_set_with_two_sides)
{
    struct err err = { 0 };
    char folder[64], path[128], train[FILE_PATH_MAX], eval[FILE_PATH_MAX];

    write_bytes(temporary(folder, path, "train.json"), RECORD, strlen(RECORD));
    CHECK_ERR(source_find(folder, train, eval, &err), &err, ERR_INPUT, "eval.jsonl");
    CHECK_EQ(source_find(path, train, eval, &err), 0);
    CHECK_STR(train, path);
    CHECK_STR(eval, "");
    snprintf(path, sizeof path, "%s/eval.jsonl.gz", folder);
    write_gzip(path, RECORD, "wb");
    CHECK_EQ(source_find(folder, train, eval, &err), 1);
    CHECK_STR(eval, path);
    remove_folder(folder);
}

TEST(no_memory_leaves_nothing)
{
    struct err err = { 0 };
    struct source s;
    char folder[64], path[128];
    int result = -1;

    write_gzip(temporary(folder, path, "data.jsonl.gz"), "[" RECORD "," RECORD "]", "wb");
    for (int n = 1; result != 0; n++) {
        CHECK(n < 100);
        err = (struct err){ 0 };
        mem_fail_at(n);
        result = source_load(&s, path, true, &err);
        mem_fail_at(0);
        if (result != 0) {
            CHECK_EQ(err.code, ERR_MEMORY);
            CHECK_EQ(mem_live_bytes(MEM_DATA), 0);
        }
    }
    CHECK_EQ(s.n_records, 2);
    source_free(&s);
    remove_folder(folder);
}

TEST_MAIN(CASE(every_form_is_read), CASE(fields_keep_their_bytes), CASE(lines_are_counted_in_arrays),
          CASE(faults_name_file_and_line), CASE(nesting_is_bounded), CASE(bad_records_are_counted_and_listed),
          CASE(long_lines_are_fine), CASE(gzip_is_told_by_content), CASE(folder_is_a_set_with_two_sides),
          CASE(no_memory_leaves_nothing))
