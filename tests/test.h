/* tests/test.h - the few words every test program uses, on top of cmocka.
 * TEST(name) { ... }   TEST_MAIN(CASE(name), ...)   A case that is left out of TEST_MAIN is an unused static function,
 * and the compiler says so. */
#ifndef TUNEUP_TEST_H
#define TUNEUP_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#include "base/err.h"

#define TEST(name) static void name(void **test_state)
#define CASE(name) cmocka_unit_test(name)
#define TEST_MAIN(...)                                                                                                 \
    int main(void)                                                                                                     \
    {                                                                                                                  \
        const struct CMUnitTest tests[] = { __VA_ARGS__ };                                                             \
        return cmocka_run_group_tests(tests, NULL, NULL);                                                              \
    }

#define CHECK(condition)                                                                                               \
    do {                                                                                                               \
        (void)test_state;                                                                                              \
        if (!(condition))                                                                                              \
            fail_msg("%s does not hold", #condition);                                                                  \
    } while (0)
#define CHECK_EQ(a, b)                                                                                                 \
    do {                                                                                                               \
        const long long left_ = (long long)(a), right_ = (long long)(b);                                               \
        (void)test_state;                                                                                              \
        if (left_ != right_)                                                                                           \
            fail_msg("%s is %lld, expected %s = %lld", #a, left_, #b, right_);                                         \
    } while (0)
#define CHECK_STR(a, b)                                                                                                \
    do {                                                                                                               \
        const char *left_ = (a), *right_ = (b);                                                                        \
        (void)test_state;                                                                                              \
        if (!left_ || strcmp(left_, right_) != 0)                                                                      \
            fail_msg("%s is \"%s\", expected \"%s\"", #a, left_ ? left_ : "(null)", right_);                           \
    } while (0)
#define CHECK_NEAR(a, b, tolerance)                                                                                    \
    do {                                                                                                               \
        const double left_ = (a), right_ = (b), allowed_ = (tolerance);                                                \
        const double apart_ = left_ > right_ ? left_ - right_ : right_ - left_;                                        \
        (void)test_state;                                                                                              \
        if (!(apart_ <= allowed_))                                                                                     \
            fail_msg("%s is %.9g, expected %.9g within %.3g", #a, left_, right_, allowed_);                            \
    } while (0)
/* A fallible call succeeded, or its error is shown. */
#define CHECK_OK(call, err)                                                                                            \
    do {                                                                                                               \
        (void)test_state;                                                                                              \
        if ((call) < 0)                                                                                                \
            fail_msg("%s failed: %s; %s; %s", #call, (err)->what, (err)->where, (err)->hint);                          \
    } while (0)
/* A fallible call failed with this code, and its words contain this text. */
#define CHECK_ERR(call, err, wanted_code, text)                                                                        \
    do {                                                                                                               \
        (void)test_state;                                                                                              \
        memset((err), 0, sizeof *(err));                                                                               \
        if ((call) >= 0)                                                                                               \
            fail_msg("%s did not fail", #call);                                                                        \
        if ((err)->code != (wanted_code))                                                                              \
            fail_msg("%s: code %d, expected %d (%s)", #call, (int)(err)->code, (int)(wanted_code), (err)->what);       \
        if (!strstr((err)->what, (text)) && !strstr((err)->where, (text)) && !strstr((err)->hint, (text)))             \
            fail_msg("%s says \"%s; %s; %s\", which lacks \"%s\"", #call, (err)->what, (err)->where, (err)->hint,      \
                     (text));                                                                                          \
    } while (0)

/* The read-only folder of golden numbers and real data beside a checkout, or NULL where there is none: skip() then. */
static inline const char *test_shared(void)
{
    const char *path = getenv("TUNEUP_SHARED");

    return path && *path ? path : NULL;
}

#endif
