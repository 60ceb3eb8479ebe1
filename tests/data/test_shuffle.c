#include "test.h"

#include "data/shuffle.h"

static void check_order(const int64_t *got, const int64_t *wanted, int n)
{
    for (int i = 0; i < n; i++)
        assert_int_equal(got[i], wanted[i]);
}

TEST(numpy_is_repeated)
{
    const int64_t zero[] = { 2, 8, 4, 9, 1, 6, 7, 3, 0, 5 }, other[] = { 7, 2, 9, 1, 0, 8, 4, 5, 6, 3 };
    int64_t got[10];

    (void)test_state;
    shuffle_numpy(0, 10, got);
    check_order(got, zero, 10);
    shuffle_numpy(1234, 10, got);
    check_order(got, other, 10);
}

TEST(torch_is_repeated)
{
    const int64_t zero[] = { 4, 1, 7, 5, 3, 9, 0, 8, 6, 2 }, other[] = { 5, 4, 8, 2, 6, 9, 1, 7, 0, 3 };
    int64_t got[10];

    (void)test_state;
    shuffle_torch(0, 10, got);
    check_order(got, zero, 10);
    shuffle_torch(1234, 10, got);
    check_order(got, other, 10);
}

TEST(every_shuffle_is_a_permutation)
{
    void (*const both[])(uint32_t, int64_t, int64_t *) = { shuffle_numpy, shuffle_torch };
    int64_t got[1000];

    for (int64_t n = 0; n <= 1000; n = n * 3 + 1)
        for (int k = 0; k < 3; k++) {
            int64_t sum = 0;
            char seen[1000] = { 0 };
            if (k < 2)
                both[k](7, n, got);
            else
                shuffle_epoch(7, 3, n, got);
            for (int64_t i = 0; i < n; i++) {
                CHECK(got[i] >= 0 && got[i] < n);
                sum += !seen[got[i]]++;
            }
            CHECK_EQ(sum, n);
        }
}

TEST(epochs_and_seeds_differ)
{
    int64_t a[64], b[64], c[64], again[64];

    shuffle_epoch(1, 0, 64, a);
    shuffle_epoch(1, 1, 64, b);
    shuffle_epoch(2, 0, 64, c);
    shuffle_epoch(1, 0, 64, again);
    CHECK(memcmp(a, b, sizeof a) != 0);
    CHECK(memcmp(a, c, sizeof a) != 0);
    CHECK(memcmp(a, again, sizeof a) == 0);
}

TEST_MAIN(CASE(numpy_is_repeated), CASE(torch_is_repeated), CASE(every_shuffle_is_a_permutation),
          CASE(epochs_and_seeds_differ))
