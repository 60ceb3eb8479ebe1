#include "test.h"

#include "base/mem.h"
#include "base/json.h"
#include "data/split.h"

static struct split parse(const char *text)
{
    struct split s = { 0 };
    struct err err = { 0 };

    assert_int_equal(split_parse(&s, text, &err), 0);
    return s;
}

static void check_bounds(const char *text, int64_t n, int64_t b1, int64_t b2, int64_t b3)
{
    const struct split s = parse(text);
    int64_t b[SPLIT_PHASES + 1];

    split_bounds(&s, n, b);
    assert_int_equal(b[0], 0);
    assert_int_equal(b[1], b1);
    assert_int_equal(b[2], b2);
    assert_int_equal(b[3], b3);
}

TEST(bounds_of_known_sizes)
{
    (void)test_state;
    check_bounds("2,4,4", 76256, 15252, 45754, 76256);
    check_bounds("2,4,4", 5103, 1021, 3062, 5103);
    check_bounds("2,4,4", 1, 1, 1, 1);
    check_bounds("2,4,4", 2, 0, 1, 2);
    check_bounds("2,4,4", 0, 0, 0, 0);
    check_bounds("10,0,0", 7, 7, 7, 7);
    check_bounds("1,1", 5, 3, 5, 5);
    check_bounds("0.5,0.5,0", 3, 1, 3, 3);
}

TEST(nonsense_is_refused)
{
    const char *const bad[] = { "", ",", "2,4,", "a", "2;4;4", "-1,2,3", "0,0,0", "1,2,3,4", "nan", "inf,1,1", "2 4" };
    struct split s;
    struct err err;

    for (int i = 0; i < COUNT_OF(bad); i++)
        CHECK_ERR(split_parse(&s, bad[i], &err), &err, ERR_USAGE, "split");
}

static int64_t count_rows(const struct split *s, int64_t n, enum split_side side, char *seen)
{
    struct err err = { 0 };
    int64_t total = 0;

    for (int phase = 1; phase <= SPLIT_PHASES; phase++) {
        int64_t *rows, n_rows;
        assert_int_equal(split_rows(s, n, side, 1234, phase, &rows, &n_rows, &err), 0);
        for (int64_t i = 0; i < n_rows; i++) {
            assert_true(rows[i] >= 0 && rows[i] < n);
            seen[rows[i]]++;
        }
        total += n_rows;
        mem_free(rows);
    }
    return total;
}

TEST(phases_and_sides_share_no_record)
{
    const struct split s = parse("2,4,4");
    char seen[137] = { 0 };

    CHECK_EQ(count_rows(&s, 137, SPLIT_GIVEN, seen), 137);
    CHECK_EQ(count_rows(&s, 137, SPLIT_TRAIN_OF_ONE, seen), 123);
    CHECK_EQ(count_rows(&s, 137, SPLIT_EVAL_OF_ONE, seen), 14);
    for (int i = 0; i < 137; i++)
        CHECK_EQ(seen[i], 2);
}

static void check_first(const struct split *s, int64_t n, int phase, const json_t *first)
{
    struct err err = { 0 };
    int64_t *rows, n_rows;

    assert_int_equal(split_rows(s, n, SPLIT_GIVEN, 1234, phase, &rows, &n_rows, &err), 0);
    assert_true(n_rows >= (int64_t)json_array_size(first));
    for (size_t i = 0; i < json_array_size(first); i++)
        assert_int_equal(rows[i], json_integer_value(json_array_get(first, i)));
    mem_free(rows);
}

TEST(golden_split)
{
    const struct split s = parse("2,4,4");
    const char *key;
    const json_t *value;
    struct err err = { 0 };
    char path[4096];

    if (!test_shared())
        skip();
    snprintf(path, sizeof path, "%s/golden/data.json", test_shared());
    json_t *golden = json_read(path, 1 << 24, &err);
    CHECK(golden);
    json_object_foreach(json_object_get(golden, "split_examples"), key, value)
    {
        int64_t b[SPLIT_PHASES + 1];
        split_bounds(&s, strtoll(key, NULL, 10), b);
        for (size_t i = 0; i <= SPLIT_PHASES; i++)
            CHECK_EQ(b[i], json_integer_value(json_array_get(value, i)));
    }
    const json_t *first = json_object_get(golden, "first_of_phase");
    const int64_t n = json_integer_value(json_object_get(golden, "records"));
    for (int phase = 1; phase <= SPLIT_PHASES; phase++)
        check_first(&s, n, phase, json_array_get(first, (size_t)phase - 1));
    json_decref(golden);
}

TEST(no_memory_leaves_nothing)
{
    const struct split s = parse("2,4,4");
    struct err err = { 0 };
    int64_t *rows, n_rows;

    for (int n = 1; n <= 2; n++) {
        mem_fail_at(n);
        const int result = split_rows(&s, 50, SPLIT_TRAIN_OF_ONE, 1, 1, &rows, &n_rows, &err);
        mem_fail_at(0);
        CHECK_EQ(result, -1);
        CHECK_EQ(err.code, ERR_MEMORY);
        CHECK_EQ(mem_live_bytes(MEM_DATA), 0);
    }
}

TEST_MAIN(CASE(bounds_of_known_sizes), CASE(nonsense_is_refused), CASE(phases_and_sides_share_no_record),
          CASE(golden_split), CASE(no_memory_leaves_nothing))
