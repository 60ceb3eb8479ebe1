/* Options: amounts of memory, DeepSpeed-Chat's defaults, what must be given. */
#include "run/spec.h"

#include "base/option.h"
#include "test.h"

#define MAX_SETS (TECHNIQUES_MAX + 8)

static int defaults(struct spec *s, struct option_set *sets)
{
    *s = (struct spec){ 0 };
    const int n = spec_sets(s, &phase_sft, sets);

    option_defaults(sets, n);
    return n;
}

TEST(amounts_of_memory)
{
    static const struct {
        const char *text;
        int64_t bytes;
    } want[] = {
        { "1", 1 },       { "1073741824", 1 << 30 }, { "8GiB", (int64_t)8 << 30 }, { "500M", (int64_t)500 << 20 },
        { "1.5K", 1536 }, { "2GB", 2000000000 },     { "1TiB", (int64_t)1 << 40 }, { "64B", 64 }
    };
    static const char *const wrong[] = {
        "", "GiB", "8gib ", "-1G", "0", "lots", "nan", "inf", "1e30GiB", "8GiB9", "8 X"
    };
    struct err err = { 0 };
    int64_t bytes;

    for (int i = 0; i < COUNT_OF(want); i++) {
        CHECK_OK(spec_bytes(want[i].text, &bytes, &err), &err);
        CHECK_EQ(bytes, want[i].bytes);
    }
    for (int i = 0; i < COUNT_OF(wrong); i++)
        CHECK_ERR(spec_bytes(wrong[i], &bytes, &err), &err, ERR_USAGE, "no amount of memory");
}

/* training/step1_supervised_finetuning/main.py of DeepSpeed-Chat. */
TEST(defaults_are_the_references)
{
    struct option_set sets[MAX_SETS];
    struct spec s;

    CHECK(defaults(&s, sets) <= MAX_SETS);
    CHECK_STR(s.data_split, "2,4,4");
    CHECK_EQ(s.train_batch, 16);
    CHECK_EQ(s.eval_batch, 16);
    CHECK_EQ(s.max_seq_len, 512);
    CHECK_NEAR(s.learning_rate, 1e-3, 0);
    CHECK_NEAR(s.weight_decay, 0, 0);
    CHECK_EQ(s.epochs, 1);
    CHECK_EQ(s.accumulation, 1);
    CHECK_STR("cosine", s.schedule == 1 ? "cosine" : "another");
    CHECK_EQ(s.warmup, 0);
    CHECK_EQ(s.seed, 1234);
    CHECK_NEAR(s.beta1, 0.9, 0);
    CHECK_NEAR(s.beta2, 0.95, 0);
    CHECK_NEAR(s.epsilon, 1e-8, 0);
    CHECK_NEAR(s.clip, 1, 0);
    CHECK(!s.resume && !s.overwrite && s.save_model && s.tensorboard);
    for (int i = 0; techniques[i]; i++)
        CHECK(strcmp(techniques[i]->name, "zero") != 0 || !technique_is_on(&s.techniques, i));
}

TEST(no_two_options_have_one_name)
{
    struct option_set sets[MAX_SETS];
    struct spec s;
    const int n = defaults(&s, sets);
    const struct option *all[256];
    int n_all = 0;

    for (int i = 0; i < n; i++)
        for (const struct option *o = sets[i].options; o->name; o++)
            all[n_all++] = o;
    for (int a = 0; a < n_all; a++)
        for (int b = 0; b < n_all; b++) {
            CHECK(a == b || strcmp(all[a]->name, all[b]->name) != 0);
            CHECK(a == b || !all[a]->alias || strcmp(all[a]->alias, all[b]->name) != 0);
            CHECK(a == b || !all[a]->alias || !all[b]->alias || strcmp(all[a]->alias, all[b]->alias) != 0);
        }
}

TEST(what_must_be_given_is_named)
{
    struct option_set sets[MAX_SETS];
    struct err err = { 0 };
    struct spec s;

    defaults(&s, sets);
    CHECK_ERR(spec_check_train(&s, &err), &err, ERR_USAGE, "--model is missing");
    s.model = "m";
    CHECK_ERR(spec_check_train(&s, &err), &err, ERR_USAGE, "--data is missing");
    s.data[0] = "d";
    CHECK_ERR(spec_check_train(&s, &err), &err, ERR_USAGE, "--output is missing");
    s.output = "o";
    CHECK_OK(spec_check_train(&s, &err), &err);
    s.resume = s.overwrite = true;
    CHECK_ERR(spec_check_train(&s, &err), &err, ERR_USAGE, "exclude each other");
}

TEST_MAIN(CASE(amounts_of_memory), CASE(defaults_are_the_references), CASE(no_two_options_have_one_name),
          CASE(what_must_be_given_is_named))
