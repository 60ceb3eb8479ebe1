/* What phases/ppo.c does without a model: the experience, and how many updates it makes. The rest is in test_golden_ppo. */
#include "phases/ppo.h"

#include "base/mem.h"
#include "test.h"

TEST(answers_become_rows)
{
    int32_t ids[2 * 8] = { 9, 2, 5, 6, 10, 11, 2, 9, 2, 7, 12, 13, 14, 15, 16, 17 };
    int32_t begin[] = { 1, 0 }, prompt_end[] = { 4, 2 }, end[] = { 7, 8 };
    float entropies[2 * 8] = { 0, 0, 0, 0, 1, 2, 3, 9, 0, 0, 1, 1, 1, 1, 1, 1 };
    bool ended[] = { true, false };
    const struct generated g = { .B = 2,
                                 .S = 8,
                                 .ids = ids,
                                 .begin = begin,
                                 .prompt_end = prompt_end,
                                 .end = end,
                                 .ended = ended,
                                 .entropies = entropies };
    const int64_t numbers[] = { 40, 42 };
    struct ppo_experience x;
    struct err err = { 0 };

    CHECK_OK(ppo_experience_init(&x, 3, 8, &err), &err);
    ppo_experience_answers(&x, PPO_TUNEUP, &g, numbers);
    CHECK_EQ(x.n, 2);
    CHECK_EQ(x.ids[0], 2); /* rows begin where their prompt does */
    CHECK_EQ(x.ids[5], 2);
    CHECK_EQ(x.rows[0].begin, 2);
    CHECK_EQ(x.rows[0].n_answer, 2);
    CHECK(x.rows[0].ended && !x.rows[1].ended);
    CHECK_EQ(x.rows[1].begin, 1);
    CHECK_EQ(x.rows[1].n_answer, 6);
    CHECK_EQ(x.rows[1].actions_end, 7);
    CHECK_EQ(x.numbers[1], 42);
    CHECK_NEAR(x.entropy, 12, 0);
    CHECK_NEAR(x.n_entropy, 9, 0);
    ppo_experience_clear(&x);
    CHECK_EQ(x.n, 0);
    CHECK_NEAR(x.entropy, 0, 0);
    ppo_experience_free(&x);
    ppo_experience_free(&x);
}

TEST(updates_are_counted_by_pieces)
{
    struct ppo_settings s = { .epochs = 3, .micro_steps = 2 };

    CHECK_EQ(ppo_updates(&s, 4, 16), 6);
    CHECK_EQ(ppo_updates(&s, 4, 17), 9); /* the last has one piece of one row */
    s.micro_steps = 8;
    CHECK_EQ(ppo_updates(&s, 4, 16), 3);
}

TEST(an_allocation_that_fails_leaves_nothing)
{
    const size_t before = mem_live_bytes(MEM_BATCH);

    for (int64_t n = 1;; n++) {
        struct ppo_experience x;
        struct err err = { 0 };
        mem_fail_at(n);
        const int result = ppo_experience_init(&x, 4, 16, &err);
        mem_fail_at(0);
        if (result == 0) {
            ppo_experience_free(&x);
            CHECK(n > 5);
            break;
        }
        CHECK_EQ(err.code, ERR_MEMORY);
        CHECK(!x.rows && x.room == 0);
        CHECK_EQ(mem_live_bytes(MEM_BATCH), before);
    }
    CHECK_EQ(mem_live_bytes(MEM_BATCH), before);
}

TEST_MAIN(CASE(answers_become_rows), CASE(updates_are_counted_by_pieces), CASE(an_allocation_that_fails_leaves_nothing))
