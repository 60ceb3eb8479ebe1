/* base/mem: sizes that do not fit, bytes that are counted, allocations that are made to fail. */
#include "base/mem.h"
#include "test.h"

TEST(sizes_that_overflow_are_refused)
{
    struct err err = { 0 };

    CHECK(!mem_array(INT64_MAX, INT64_MAX, 8, MEM_OTHER, &err));
    CHECK_EQ(err.code, ERR_MEMORY);
    CHECK(!mem_array(INT64_MAX / 4, 1, 8, MEM_OTHER, &err));
    CHECK(!mem_array(-1, 1, 1, MEM_OTHER, &err));
}

TEST(nothing_is_a_valid_pointer)
{
    struct err err = { 0 };
    void *p = mem_array(0, 5, 8, MEM_OTHER, &err);

    CHECK(p);
    mem_free(p);
    mem_free(NULL);
}

TEST(memory_is_zero_when_new_and_when_grown)
{
    struct err err = { 0 };
    unsigned char *p = mem_array(10, 10, 1, MEM_OTHER, &err);

    for (int i = 0; i < 100; i++)
        CHECK_EQ(p[i], 0);
    memset(p, 1, 100);
    p = mem_resize(p, 5000, 1, MEM_OTHER, &err);
    CHECK(p);
    for (int i = 0; i < 5000; i++)
        CHECK_EQ(p[i], i < 100);
    mem_free(p);
}

TEST(bytes_are_counted_by_kind)
{
    struct err err = { 0 };
    const size_t text = mem_live_bytes(MEM_TEXT), other = mem_live_bytes(MEM_OTHER);
    char *p = mem_array(1, 1000, 1, MEM_TEXT, &err);

    CHECK(mem_live_bytes(MEM_TEXT) >= text + 1000);
    CHECK_EQ(mem_live_bytes(MEM_OTHER), other);
    CHECK(mem_peak_bytes(MEM_TEXT) >= text + 1000);
    mem_free(p);
    CHECK_EQ(mem_live_bytes(MEM_TEXT), text);
}

TEST(the_nth_allocation_fails_when_asked)
{
    struct err err = { 0 };

    mem_fail_at(2);
    char *first = mem_strdup("a", MEM_OTHER, &err), *second = mem_strdup("b", MEM_OTHER, &err);
    char *third = mem_printf(MEM_OTHER, &err, "%d", 3);
    mem_fail_at(0);
    CHECK(first && !second && !third);
    CHECK_EQ(err.code, ERR_MEMORY);
    mem_free(first);
    char *after = mem_strndup("abc", 2, MEM_OTHER, &err);
    CHECK_STR(after, "ab");
    mem_free(after);
}

TEST(a_failed_resize_keeps_what_there_was)
{
    struct err err = { 0 };
    char *p = mem_strdup("kept", MEM_OTHER, &err);

    CHECK(!mem_resize(p, INT64_MAX, 8, MEM_OTHER, &err));
    CHECK_STR(p, "kept");
    mem_fail_at(1);
    CHECK(!mem_resize(p, 100, 1, MEM_OTHER, &err));
    mem_fail_at(0);
    CHECK_STR(p, "kept");
    mem_free(p);
}

TEST(multiplication_says_when_it_does_not_fit)
{
    size_t out = 0;

    CHECK(mem_mul(3, 4, &out) && out == 12);
    CHECK(mem_mul(SIZE_MAX, 1, &out) && out == SIZE_MAX);
    CHECK(mem_mul(SIZE_MAX, 0, &out) && out == 0);
    CHECK(!mem_mul(SIZE_MAX / 2 + 1, 2, &out));
}

TEST_MAIN(CASE(sizes_that_overflow_are_refused), CASE(nothing_is_a_valid_pointer),
          CASE(memory_is_zero_when_new_and_when_grown), CASE(bytes_are_counted_by_kind),
          CASE(the_nth_allocation_fails_when_asked), CASE(a_failed_resize_keeps_what_there_was),
          CASE(multiplication_says_when_it_does_not_fit))
