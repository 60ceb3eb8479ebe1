/* base/json: strict, with a place in every message. */
#include "base/json.h"
#include "test.h"

static json_t *parse(const char *text, struct err *err)
{
    *err = (struct err){ 0 };
    return json_parse(text, strlen(text), "some.json", 7, err);
}

TEST(what_is_not_json_is_refused_with_its_place)
{
    static const char *const bad[] = { "", "{", "{\"a\":1,}", "{\"a\":1} x", "{\"a\":NaN}", "\"\xff\"", "{a:1}" };
    struct err err;

    for (int i = 0; i < COUNT_OF(bad); i++) {
        json_t *got = parse(bad[i], &err);

        if (got)
            fail_msg("%s is accepted", bad[i]);
        CHECK_EQ(err.code, ERR_INPUT);
        CHECK(strstr(err.where, "some.json"));
    }
}

TEST(a_name_given_twice_is_refused)
{
    struct err err;

    CHECK(!parse("{\"a\":1,\"a\":2}", &err));
    CHECK(strstr(err.what, "uplicate"));
}

TEST(deep_nesting_is_refused)
{
    static char text[200001];
    struct err err;

    memset(text, '[', sizeof text - 1);
    CHECK(!parse(text, &err));
    CHECK_EQ(err.code, ERR_INPUT);
}

TEST(nul_inside_a_string_is_kept)
{
    struct err err;
    json_t *value = parse("\"a\\u0000b\"", &err);

    CHECK(value);
    CHECK_EQ(json_string_length(value), 3);
    json_decref(value);
}

TEST(members_are_checked_for_type_and_range)
{
    struct err err;
    json_t *o = parse("{\"n\":5,\"x\":0.5,\"yes\":true,\"s\":\"t\",\"none\":null}", &err);
    int64_t n = 1;
    double x = 1;
    bool yes = false;
    const char *s = "old";

    CHECK_EQ(json_get_int(o, "f", "n", 0, 5, &n, &err), 1);
    CHECK_EQ(n, 5);
    CHECK_ERR(json_get_int(o, "f", "n", 0, 4, &n, &err), &err, ERR_INPUT, "\"n\"");
    CHECK_ERR(json_get_int(o, "f", "x", 0, 9, &n, &err), &err, ERR_INPUT, "\"x\"");
    CHECK_EQ(json_get_int(o, "f", "absent", 0, 9, &n, &err), 0);
    CHECK_EQ(json_get_int(o, "f", "none", 0, 9, &n, &err), 0);
    CHECK_EQ(n, 5);
    CHECK_EQ(json_get_real(o, "f", "n", 0, 9, &x, &err), 1);
    CHECK(x == 5);
    CHECK_ERR(json_get_real(o, "f", "s", 0, 9, &x, &err), &err, ERR_INPUT, "\"s\"");
    CHECK_EQ(json_get_bool(o, "f", "yes", &yes, &err), 1);
    CHECK(yes);
    CHECK_ERR(json_get_bool(o, "f", "n", &yes, &err), &err, ERR_INPUT, "\"n\"");
    CHECK_EQ(json_get_string(o, "f", "s", &s, &err), 1);
    CHECK_STR(s, "t");
    CHECK_ERR(json_get_string(o, "f", "n", &s, &err), &err, ERR_INPUT, "\"n\"");
    json_decref(o);
}

TEST_MAIN(CASE(what_is_not_json_is_refused_with_its_place), CASE(a_name_given_twice_is_refused),
          CASE(deep_nesting_is_refused), CASE(nul_inside_a_string_is_kept),
          CASE(members_are_checked_for_type_and_range))
