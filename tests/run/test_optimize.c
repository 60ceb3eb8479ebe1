/* The search over techniques: deterministic, exact where the goal says so, never against a word that was given. */
#include "run/optimize.h"

#include "run/ppo_spec.h"
#include "test.h"

struct asked {
    struct spec spec;
    struct option_set sets[64];
    int n_sets;
    struct run_model models[RUN_MAX_MODELS];
    struct backend backend;
    struct predictor predictor;
    struct optimize_question q;
};

static void ask(struct asked *a, int ranks)
{
    struct err err = { 0 };
    void **test_state = NULL;

    *a = (struct asked){ 0 };
    a->n_sets = spec_sets(&a->spec, &phase_sft, a->sets);
    option_defaults(a->sets, a->n_sets);
    a->spec.model = "";
    a->spec.train_batch = a->spec.eval_batch = 2;
    a->spec.max_seq_len = 64;
    run_batches.models(&a->spec, true, a->models);
    CHECK_OK(hf_config_named(&a->models[0].config, "opt-tiny", &err), &err);
    CHECK_OK(backend_open(&a->backend, "ref", 1, &err), &err);
    CHECK_OK(predict_open(&a->predictor, profile_find("laptop"), ranks, ranks, 0, &err), &err);
    a->q = (struct optimize_question){ .form = &run_batches,
                                       .spec = &a->spec,
                                       .models = a->models,
                                       .trains = true,
                                       .ranks = ranks,
                                       .local_ranks = 1,
                                       .predictor = &a->predictor,
                                       .backend = &a->backend };
}

static void forget(struct asked *a)
{
    hf_config_free(&a->models[0].config);
    predict_close(&a->predictor);
    a->backend.close(&a->backend);
}

static bool same(const struct optimize_choice *a, const struct optimize_choice *b)
{
    return memcmp(a, b, sizeof *a) == 0;
}

TEST(a_search_is_deterministic_and_no_worse)
{
    struct err err = { 0 };

    for (int ranks = 1; ranks <= 2; ranks++)
        for (int goal = GOAL_SPEED; goal <= GOAL_ALL; goal++) {
            struct optimize_choice keep = optimize_keep(), first, again;
            struct optimize_cost asked, best, cost;
            struct asked a;
            ask(&a, ranks);
            CHECK_OK(optimize_cost(&a.q, &keep, &asked, &err), &err);
            CHECK_OK(optimize_search(&a.q, goal, &first, &best, &err), &err);
            CHECK_OK(optimize_search(&a.q, goal, &again, &cost, &err), &err);
            CHECK(same(&first, &again));
            CHECK(goal != GOAL_SPEED || best.seconds <= asked.seconds);
            CHECK(goal != GOAL_MEMORY || best.bytes <= asked.bytes);
            CHECK(goal != GOAL_ENERGY || best.joules <= asked.joules);
            optimize_apply(&a.q, &a.spec, &first); /* what was predicted is what is planned */
            CHECK_OK(optimize_cost(&a.q, &keep, &cost, &err), &err);
            CHECK_EQ(cost.bytes, best.bytes);
            for (int i = 0; techniques[i]; i++)
                CHECK(goal == GOAL_ALL || techniques[i]->exact || !technique_is_on(&a.spec.techniques, i));
            forget(&a);
        }
}

/* No change of one technique is better than what is found. */
TEST(nothing_nearer_is_better)
{
    struct optimize_choice best, other;
    struct optimize_cost cost, c;
    struct err err = { 0 };
    struct asked a;

    ask(&a, 2);
    CHECK_OK(optimize_search(&a.q, GOAL_MEMORY, &best, &cost, &err), &err);
    for (int i = 0; techniques[i]; i++)
        for (int k = OPTIMIZE_OFF; k < technique_ways(i) && techniques[i]->exact; k++) {
            other = best;
            other.way[i] = k;
            CHECK(optimize_cost(&a.q, &other, &c, &err) != 0 || (double)c.bytes > 0.99 * (double)cost.bytes);
        }
    forget(&a);
}

TEST(given_words_win)
{
    struct optimize_choice best;
    struct optimize_cost cost;
    struct err err = { 0 };
    struct asked a;

    ask(&a, 1);
    for (int i = 0; techniques[i]; i++) {
        const struct option_given given = { techniques[i]->options, "", a.spec.techniques.slot[i] };
        memset(a.q.pinned, 0, sizeof a.q.pinned);
        optimize_pin(&a.q, &given, 1);
        for (int k = 0; techniques[k]; k++)
            CHECK_EQ(a.q.pinned[k], k == i);
        CHECK_OK(optimize_search(&a.q, GOAL_ALL, &best, &cost, &err), &err);
        CHECK_EQ(best.way[i], OPTIMIZE_KEEP);
    }
    forget(&a);
}

TEST(ways_switch_on_and_off)
{
    struct technique_values v;
    char words[64];

    for (int i = 0; techniques[i]; i++) {
        technique_choose(&v, i, -1);
        CHECK(!technique_is_on(&v, i));
        for (int k = 0; k < technique_ways(i); k++) {
            technique_choose(&v, i, k);
            CHECK(technique_is_on(&v, i));
            CHECK(strncmp(technique_print(i, k, words, sizeof words), "--", 2) == 0);
        }
    }
}

/* A search takes what changes numbers only where it may, and LoRA only where it may take anything; the rest is told. */
TEST(inexact_techniques_are_allowed_first)
{
    const int lora = technique_find("lora"), narrow = technique_find("mixed_precision");

    for (int among = AMONG_EXACT; among <= AMONG_ANY; among++) {
        struct optimize_choice best;
        struct optimize_cost cost;
        struct err err = { 0 };
        struct asked a;

        ask(&a, 1);
        a.models[0].config.hidden_size = a.models[0].config.word_embed_proj_dim = 512; /* adapters are thin there */
        a.models[0].config.ffn_dim = 2048;
        a.spec.optimize = GOAL_MEMORY;
        a.spec.optimize_among = among;
        CHECK_OK(optimize_search(&a.q, GOAL_MEMORY, &best, &cost, &err), &err);
        optimize_apply(&a.q, &a.spec, &best);
        CHECK_EQ(technique_is_on(&a.spec.techniques, narrow), among >= AMONG_INEXACT);
        CHECK_EQ(technique_is_on(&a.spec.techniques, lora), among == AMONG_ANY);
        json_t *told = optimize_explain(&a.q, &best, &cost);
        const json_t *left = json_object_get(told, "left_out");
        bool found = false;
        for (size_t i = 0; i < json_array_size(left); i++) {
            const json_t *row = json_array_get(left, i);
            if (strcmp(json_string_value(json_object_get(row, "technique")), "lora") != 0)
                continue;
            found = true;
            CHECK(strstr(json_string_value(json_object_get(row, "why")), "--optimize_among any allows it") != NULL);
            CHECK(json_real_value(json_object_get(row, "seconds_with")) > 0);
        }
        CHECK_EQ(found, among < AMONG_ANY);
        json_decref(told);
        forget(&a);
    }
}

TEST(a_suggestion_says_what_each_switch_saves)
{
    const struct optimize_choice keep = optimize_keep();
    struct optimize_cost cost;
    struct err err = { 0 };
    char hint[1000];
    struct asked a;

    ask(&a, 1);
    CHECK_OK(optimize_cost(&a.q, &keep, &cost, &err), &err);
    optimize_suggest(&a.q, 0, cost.bytes - 1, hint, sizeof hint);
    CHECK(strstr(hint, "--offload (") && strstr(hint, " less) would fit, with ")); /* which saves most */
    optimize_suggest(&a.q, 0, cost.bytes * 3 / 4, hint, sizeof hint);
    CHECK(strstr(hint, "would fit, with "));
    optimize_suggest(&a.q, 0, 1000, hint, sizeof hint);
    CHECK(strstr(hint, "No switch makes it fit"));
    forget(&a);
}

TEST_MAIN(CASE(a_search_is_deterministic_and_no_worse), CASE(nothing_nearer_is_better), CASE(given_words_win),
          CASE(ways_switch_on_and_off), CASE(inexact_techniques_are_allowed_first),
          CASE(a_suggestion_says_what_each_switch_saves))
