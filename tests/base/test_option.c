/* base/option: a small table through every way a word can be right or wrong. */
#include "base/option.h"
#include "test.h"

struct values {
    bool fast, safe;
    int64_t steps;
    double rate;
    const char *model;
    int dtype;
};

static const struct option table[] = {
    { .name = "fast", .type = OPTION_FLAG, .offset = offsetof(struct values, fast), .help = "h" },
    { .name = "safe", .type = OPTION_FLAG, .offset = offsetof(struct values, safe), .fallback = "true", .help = "h" },
    { .name = "n_steps",
      .type = OPTION_INT,
      .offset = offsetof(struct values, steps),
      .fallback = "10",
      .min = 1,
      .max = 1e9,
      .value = "N",
      .help = "h" },
    { .name = "learning_rate",
      .alias = "lr",
      .type = OPTION_REAL,
      .offset = offsetof(struct values, rate),
      .value = "X",
      .help = "h" },
    { .name = "model_name_or_path",
      .alias = "model",
      .type = OPTION_STRING,
      .offset = offsetof(struct values, model),
      .value = "DIR",
      .help = "h" },
    { .name = "dtype",
      .type = OPTION_CHOICE,
      .offset = offsetof(struct values, dtype),
      .choices = "fp32|bf16|fp",
      .help = "h" },
    { 0 },
};

static struct values values;
static const struct option_set sets[] = { { .title = "Test", .options = table, .values = &values } };
static struct option_given given[4];
static const char *words[2];
static int n_given, n_words;

/* Parses "tuneup ARGS", the words of which are the further parameters. */
static int parse(struct err *err, int argc, const char *const *args)
{
    char *argv[16] = { (char *)"tuneup" };

    for (int i = 0; i < argc; i++)
        argv[i + 1] = (char *)args[i];
    values = (struct values){ 0 };
    option_defaults(sets, 1);
    return option_parse(sets, 1, argc + 1, argv, given, COUNT_OF(given), &n_given, words, COUNT_OF(words), &n_words,
                        err);
}
#define PARSE(err, ...)                                                                                                \
    parse(err, COUNT_OF(((const char *const[]){ __VA_ARGS__ })), (const char *const[]){ __VA_ARGS__ })

TEST(defaults_are_filled_in)
{
    struct err err = { 0 };

    CHECK_OK(parse(&err, 0, NULL), &err);
    CHECK(!values.fast && values.safe && values.rate == 0 && !values.model);
    CHECK_EQ(values.steps, 10);
}

TEST(every_form_of_an_option)
{
    struct err err = { 0 };

    CHECK_OK(PARSE(&err, "--fast", "--no-safe", "--n-steps=7", "--lr", "-1e-3"), &err);
    CHECK(values.fast && !values.safe && values.rate == -1e-3);
    CHECK_EQ(values.steps, 7);
    CHECK_EQ(n_given, 4);
    CHECK_OK(PARSE(&err, "--model", "a=b", "--n_steps", "1e6", "--dtype=fp", "--fast=false"), &err);
    CHECK_STR(values.model, "a=b");
    CHECK_EQ(values.steps, 1000000);
    CHECK_EQ(values.dtype, 2);
    CHECK(!values.fast);
}

TEST(words_and_the_end_of_options)
{
    struct err err = { 0 };

    CHECK_OK(PARSE(&err, "-", "--", "--fast"), &err);
    CHECK_EQ(n_words, 2);
    CHECK_STR(words[0], "-");
    CHECK_STR(words[1], "--fast");
    CHECK(!values.fast);
    CHECK_ERR(PARSE(&err, "a", "b", "c"), &err, ERR_USAGE, "unexpected word \"c\"");
}

TEST(wrong_words_are_refused_with_a_hint)
{
    struct err err = { 0 };

    CHECK_ERR(PARSE(&err, "--n_step", "3"), &err, ERR_USAGE, "Did you mean --n_steps?");
    CHECK_ERR(PARSE(&err, "--modle=x"), &err, ERR_USAGE, "Did you mean --model?");
    CHECK_ERR(PARSE(&err, "-x"), &err, ERR_USAGE, "unknown option -x");
    CHECK_ERR(PARSE(&err, "--no-dtype"), &err, ERR_USAGE, "unknown option");
    CHECK_ERR(PARSE(&err, "--model"), &err, ERR_USAGE, "needs a value");
    CHECK_ERR(PARSE(&err, "--fast=maybe"), &err, ERR_USAGE, "true or false");
    CHECK_ERR(PARSE(&err, "--dtype", "fp3"), &err, ERR_USAGE, "fp32|bf16|fp");
    CHECK_ERR(PARSE(&err, "--fast", "--fast", "--fast", "--fast", "--fast"), &err, ERR_USAGE, "more than 4 options");
}

TEST(numbers_are_checked)
{
    static const char *const bad_int[] = { "", "0", "1.5", "7x", " ", "nan", "inf", "1e10", "99999999999999999999" };
    struct err err = { 0 };

    for (int i = 0; i < COUNT_OF(bad_int); i++)
        CHECK_ERR(PARSE(&err, "--n_steps", bad_int[i]), &err, ERR_USAGE, "a whole number from 1 to 1000000000");
    CHECK_ERR(PARSE(&err, "--lr", "nan"), &err, ERR_USAGE, "a number");
    CHECK_ERR(PARSE(&err, "--lr", "1e999"), &err, ERR_USAGE, "a number");
}

TEST(a_very_long_name_is_only_unknown)
{
    static char name[4096] = "--";
    struct err err = { 0 };

    memset(name + 2, 'x', sizeof name - 3);
    CHECK_ERR(PARSE(&err, name), &err, ERR_USAGE, "unknown option");
}

TEST(record_says_what_was_given)
{
    struct err err = { 0 };

    CHECK_OK(PARSE(&err, "--n_steps", "3"), &err);
    json_t *all = option_json(sets, 1, given, n_given), *steps = json_object_get(all, "n_steps");
    CHECK_EQ(json_integer_value(json_object_get(steps, "value")), 3);
    CHECK_STR(json_string_value(json_object_get(steps, "origin")), "command line");
    CHECK_STR(json_string_value(json_object_get(json_object_get(all, "dtype"), "origin")), "default");
    CHECK(json_is_null(json_object_get(json_object_get(all, "model_name_or_path"), "value")));
    json_decref(all);
}

TEST(a_set_with_a_prefix_inherits_what_is_not_given)
{
    struct values all, actor;
    const struct option_set two[] = {
        { .title = "All", .options = table, .values = &all },
        { .title = "Actor", .options = table, .values = &actor, .prefix = "actor_", .inherits = &all }
    };
    const char *const args[] = {
        "tuneup", "--actor-n_steps", "3", "--n-steps=5", "--dtype", "bf16", "--no-actor_safe"
    };
    char *argv[COUNT_OF(args)];
    struct err err = { 0 };

    for (int i = 0; i < COUNT_OF(args); i++)
        argv[i] = (char *)args[i];
    option_defaults(two, 2);
    CHECK_OK(option_parse(two, 2, COUNT_OF(args), argv, given, COUNT_OF(given), &n_given, words, 2, &n_words, &err),
             &err);
    CHECK_EQ(all.steps, 5);
    CHECK_EQ(actor.steps, 3);
    CHECK_EQ(actor.dtype, 1);
    CHECK(all.safe && !actor.safe);
    json_t *json = option_json(two, 2, given, n_given);
    CHECK_EQ(json_integer_value(json_object_get(json_object_get(json, "actor_n_steps"), "value")), 3);
    CHECK_STR(json_string_value(json_object_get(json_object_get(json, "actor_dtype"), "origin")), "command line");
    CHECK_STR(json_string_value(json_object_get(json_object_get(json, "actor_fast"), "origin")), "default");
    json_decref(json);
    argv[1] = (char *)"--actor_n_step";
    CHECK(option_parse(two, 2, 3, argv, given, COUNT_OF(given), &n_given, words, 2, &n_words, &err) != 0);
    CHECK(strstr(err.hint, "--actor_n_steps") != NULL);
}

TEST(distance_counts_letters)
{
    CHECK_EQ(option_distance("lr", "lr"), 0);
    CHECK_EQ(option_distance("zero-stage", "zero_stage"), 0);
    CHECK_EQ(option_distance("kitten", "sitting"), 3);
    CHECK_EQ(option_distance("", "abc"), 3);
}

TEST(an_option_may_take_many_words)
{
    static const struct option many[] = { { .name = "data", .type = OPTION_STRING, .many = 3, .help = "h" },
                                          { .name = "fast", .type = OPTION_FLAG, .offset = 64, .help = "h" },
                                          { 0 } };
    union {
        const char *data[4];
        char bytes[72];
    } v = { 0 };
    const struct option_set set = { .title = "Test", .options = many, .values = &v };
    char *argv[] = { (char *)"tuneup", (char *)"--data", (char *)"a", (char *)"b", (char *)"--fast", (char *)"c" };
    char *five[] = { (char *)"tuneup", (char *)"--data", (char *)"a", (char *)"b", (char *)"c", (char *)"d" };
    char *alone[] = { (char *)"tuneup", (char *)"--data=a", (char *)"b" };
    char text[32];
    struct err err = { 0 };

    CHECK_OK(option_parse(&set, 1, 6, argv, given, 4, &n_given, words, 2, &n_words, &err), &err);
    CHECK_STR(v.data[0], "a");
    CHECK_STR(v.data[1], "b");
    CHECK(!v.data[2]);
    CHECK_EQ(n_words, 1);
    CHECK_STR(words[0], "c");
    option_print(&many[0], &v, text, sizeof text);
    CHECK_STR(text, "a b");
    json_t *json = option_json(&set, 1, given, n_given);
    CHECK_EQ(json_array_size(json_object_get(json_object_get(json, "data"), "value")), 2);
    json_decref(json);
    CHECK_OK(option_parse(&set, 1, 3, alone, given, 4, &n_given, words, 2, &n_words, &err), &err);
    CHECK(!v.data[1] && n_words == 1);
    json = option_json(&set, 1, given, n_given);
    CHECK_STR(json_string_value(json_object_get(json_object_get(json, "data"), "value")), "a");
    json_decref(json);
    CHECK_ERR(option_parse(&set, 1, 6, five, given, 4, &n_given, words, 2, &n_words, &err), &err, ERR_USAGE,
              "at most 3 words");
}

TEST_MAIN(CASE(defaults_are_filled_in), CASE(every_form_of_an_option), CASE(words_and_the_end_of_options),
          CASE(wrong_words_are_refused_with_a_hint), CASE(numbers_are_checked), CASE(a_very_long_name_is_only_unknown),
          CASE(record_says_what_was_given), CASE(a_set_with_a_prefix_inherits_what_is_not_given),
          CASE(distance_counts_letters), CASE(an_option_may_take_many_words))
