/* Phase 3 on three and four ranks, which divide nothing, with every exact technique at once: the same answers, rewards, losses
 * and gradients as the plain plan on one. What is exact comes from the table, so a new technique is asked for unasked. */
#include <unistd.h>

#include "engine.h"
#include "equivalence/local_ranks.h"
#include "phases/ppo.h"

#define ROWS 12 /* of an iteration, all ranks together */
#define PROMPT 6
#define ANSWER 8
#define COLUMNS (PROMPT + ANSWER)
#define ITERATIONS 3
#define VOCABULARY 96

static const struct opt_shape shape = {
    .C = 32, .L = 2, .H = 4, .F = 48, .E = 16, .V = VOCABULARY, .position_rows = COLUMNS + 2, .dropout = 0.1
};

/* What an iteration does, to all ranks together. */
struct told {
    int32_t ids[ROWS * COLUMNS];
    double rewards; /* their sum */
    struct ppo_learned learned;
};

struct job {
    int zero_stage; /* -1: every technique off */
    int rank, ranks;
    struct local_world *world;
    struct told told[ITERATIONS];
    struct err err;
};

struct four {
    struct technique_values techniques;
    struct plan plan;
    struct backend backend;
    struct comm comm;
    struct exec exec;
    struct trainer actor, critic;
    struct generator generator;
    struct ppo ppo;
    struct ppo_experience experience;
};

/* All exact techniques that such a run does not refuse, in small pieces, since the models are small. */
static int choose(const struct job *job, struct technique_values *v, struct err *err)
{
    static char words[] = "--zero_persistence_threshold 40 --overlap_comm --offload_piece 512 --chunked_loss_rows 5";
    const struct run_facts facts = { .ranks = job->ranks, .trains = true, .dropout = shape.dropout };
    struct option_set sets[TECHNIQUES_MAX];
    struct option_given given[8];
    const char *rest[1];
    char text[sizeof words + 32], *save, *argv[16] = { text };
    int argc = 1, n_given, n_rest;

    for (int i = 0; techniques[i]; i++)
        technique_choose(v, i, job->zero_stage >= 0 && techniques[i]->exact && technique_ways(i) > 0 ? 0 : -1);
    if (job->zero_stage < 0)
        return 0;
    snprintf(text, sizeof text, "%s --zero_stage %d", words, job->zero_stage);
    for (char *word = strtok_r(text, " ", &save); word; word = strtok_r(NULL, " ", &save))
        argv[argc++] = word;
    const int n = technique_sets(sets, v),
              result = option_parse(sets, n, argc, argv, given, 8, &n_given, rest, 0, &n_rest, err);
    for (int i = 0; techniques[i]; i++)
        if (techniques[i]->check && techniques[i]->check(v->slot[i], &facts, err) != 0)
            technique_choose(v, i, -1);
    return result;
}

static int open_plan(struct four *f, const struct job *job, struct err *err)
{
    static const char *const prefixes[] = { "actor/", "reference/", "critic/", "reward/" };
    const int64_t B = ROWS / job->ranks;
    struct build b = { .phase = &phase_ppo,
                       .n_models = COUNT_OF(prefixes),
                       .extents = { [EXTENTS_PREFILL] = { .B = B, .T = PROMPT, .S = COLUMNS, .times = 1 },
                                    [EXTENTS_DECODE] = { .B = B, .T = 1, .S = COLUMNS, .times = ANSWER },
                                    [EXTENTS_SCORE] = { .B = B, .T = COLUMNS, .times = 1 },
                                    [EXTENTS_TRAIN] = { .B = B, .T = COLUMNS, .times = 2 } },
                       .micro_steps = 1,
                       .rank = job->rank,
                       .ranks = job->ranks };

    for (int i = 0; i < b.n_models; i++)
        b.models[i] = (struct build_model){ .prefix = prefixes[i], .shape = shape, .techniques = &f->techniques };
    if (choose(job, &f->techniques, err) != 0 || build_plan(&b, &f->plan, err) != 0)
        return -1;
    f->plan.file_folder = "/tmp";
    if (backend_open(&f->backend, "cpu", 1, err) != 0 ||
        exec_prepare(&f->exec, &f->plan, &f->backend, &f->comm, err) != 0 || exec_allocate(&f->exec, err) != 0)
        return -1;
    engine_random_weights(&f->plan, &f->exec);
    return 0;
}

static int open_four(struct four *f, const struct job *job, struct err *err)
{
    const struct ppo_settings s = { .math = { .kl_coef = 0.1,
                                              .reward_clip = 5,
                                              .clip = PPO_CLIP,
                                              .value_clip = PPO_CLIP,
                                              .gamma = 1,
                                              .lambda = 0.95 },
                                    .epochs = 2,
                                    .micro_steps = 1,
                                    .seed = 11 };
    const struct trainer_options o = {
        .learning_rate = 1e-3, .weight_decay = 0.1, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .clip = 1
    };
    const struct generate_options answers = { .max_new_tokens = ANSWER,
                                              .sampling = { .temperature = 1, .top_p = 1, .seed = 5 },
                                              .end_id = 2,
                                              .pad_id = 2,
                                              .weights_move = true,
                                              .describe = true };

    if (job->world)
        local_comm(&f->comm, job->world, job->rank);
    else
        comm_alone(&f->comm);
    if (open_plan(f, job, err) != 0)
        return -1;
    trainer_init(&f->actor, &f->exec, "actor/", &o);
    trainer_init(&f->critic, &f->exec, "critic/", &o);
    ppo_open(&f->ppo, &f->exec, &s);
    f->ppo.actor = &f->actor;
    f->ppo.critic = &f->critic;
    if (ppo_experience_init(&f->experience, ROWS / job->ranks, COLUMNS, err) != 0)
        return -1;
    return generator_init(&f->generator, &f->exec, "actor/", &answers, err);
}

static void close_four(struct four *f)
{
    generator_free(&f->generator);
    ppo_experience_free(&f->experience);
    exec_free(&f->exec);
    if (f->backend.close)
        f->backend.close(&f->backend);
    plan_free(&f->plan);
}

/* Every R-th prompt, of 3 to 6 ids, padded on the left. */
static int answer(struct four *f, const struct job *job, int64_t iteration, struct err *err)
{
    int32_t ids[ROWS * PROMPT], begin[ROWS], end[ROWS];
    int64_t numbers[ROWS];
    const struct prompts p = {
        .B = ROWS / job->ranks, .P = PROMPT, .ids = ids, .begin = begin, .end = end, .rows = numbers
    };

    for (int64_t b = 0; b < p.B; b++) {
        numbers[b] = iteration * ROWS + job->rank + b * job->ranks;
        struct rng rng = { .seed = 3, .purpose = RNG_TASK, .stream = (uint32_t)numbers[b] };
        begin[b] = (int32_t)rng_below(&rng, 4);
        end[b] = PROMPT;
        for (int64_t t = 0; t < PROMPT; t++)
            ids[b * PROMPT + t] = t <= begin[b] ? 2 : 3 + (int32_t)rng_below(&rng, VOCABULARY - 3);
    }
    if (generator_run(&f->generator, &p, err) != 0)
        return -1;
    ppo_experience_clear(&f->experience);
    ppo_experience_answers(&f->experience, PPO_TUNEUP, &f->generator.result, numbers);
    return 0;
}

static int iterate(struct four *f, struct job *job, int64_t iteration, struct err *err)
{
    const struct ppo_experience *x = &f->experience;
    struct told *t = &job->told[iteration];

    if (answer(f, job, iteration, err) != 0 || ppo_score(&f->ppo, &f->experience, err) != 0)
        return -1;
    for (int64_t b = 0; b < x->n; b++) {
        memcpy(&t->ids[(job->rank + b * job->ranks) * COLUMNS], &x->ids[b * COLUMNS], COLUMNS * sizeof *x->ids);
        for (int64_t s = x->rows[b].begin; s < x->rows[b].end; s++)
            t->rewards += (double)x->rewards[b * COLUMNS + s];
    }
    return ppo_update(&f->ppo, &f->experience, iteration, &t->learned, err);
}

static void *run_job(void *argument)
{
    struct job *job = argument;
    struct four f = { 0 };
    int result = open_four(&f, job, &job->err);

    for (int64_t i = 0; i < ITERATIONS && result == 0; i++)
        result = iterate(&f, job, i, &job->err);
    close_four(&f);
    if (result != 0) { /* the other ranks wait in a collective for ever */
        fprintf(stderr, "ZeRO %d, rank %d of %d: %s (%s)\n", job->zero_stage, job->rank, job->ranks, job->err.what,
                job->err.where);
        _exit(1);
    }
    return NULL;
}

/* Of all ranks: ids side by side, rewards added, what was learnt as the first rank has it, which all must share. */
static void run_ranks(void **test_state, int ranks, int zero_stage, struct told *told)
{
    static struct job jobs[LOCAL_MAX_RANKS];
    struct local_world world;
    pthread_t threads[LOCAL_MAX_RANKS];

    local_world_init(&world, ranks);
    for (int r = 0; r < ranks; r++) {
        jobs[r] =
            (struct job){ .zero_stage = zero_stage, .rank = r, .ranks = ranks, .world = ranks > 1 ? &world : NULL };
        if (pthread_create(&threads[r], NULL, run_job, &jobs[r]) != 0)
            fail_msg("no thread");
    }
    for (int r = 0; r < ranks; r++)
        pthread_join(threads[r], NULL);
    memcpy(told, jobs[0].told, sizeof jobs[0].told);
    for (int i = 0; i < ITERATIONS; i++)
        for (int r = 1; r < ranks; r++) {
            const struct told *t = &jobs[r].told[i];
            for (int row = r; row < ROWS; row += ranks)
                memcpy(&told[i].ids[row * COLUMNS], &t->ids[row * COLUMNS], COLUMNS * sizeof *t->ids);
            told[i].rewards += t->rewards;
            CHECK(t->learned.actor_loss == told[i].learned.actor_loss);
            CHECK(t->learned.critic_norm == told[i].learned.critic_norm);
        }
    local_world_free(&world);
}

static void near(const char *what, int ranks, int zero_stage, int iteration, double got, double want, double within)
{
    if (!(fabs(got - want) <= within * fmax(fabs(want), 1)))
        fail_msg("%d ranks, ZeRO %d, iteration %d: %s %.9g, expected %.9g", ranks, zero_stage, iteration, what, got,
                 want);
}

TEST(three_and_four_ranks_learn_as_one)
{
    static struct told plain[ITERATIONS], got[ITERATIONS];

    run_ranks(test_state, 1, -1, plain);
    CHECK(memcmp(plain[0].ids, plain[1].ids, sizeof plain[0].ids) != 0);
    CHECK(plain[0].learned.n_updates == 2 && plain[0].learned.actor_norm > 0.01);
    for (int ranks = 3; ranks <= 4; ranks++)
        for (int stage = 0; stage <= 3; stage++) {
            run_ranks(test_state, ranks, stage, got);
            for (int i = 0; i < ITERATIONS; i++) {
                const struct ppo_learned *l = &got[i].learned, *w = &plain[i].learned;
                if (memcmp(got[i].ids, plain[i].ids, sizeof got[i].ids) != 0)
                    fail_msg("%d ranks, ZeRO %d, iteration %d: other answers", ranks, stage, i);
                near("rewards", ranks, stage, i, got[i].rewards, plain[i].rewards, 1e-5);
                near("actor loss", ranks, stage, i, l->actor_loss, w->actor_loss, 1e-6);
                near("critic loss", ranks, stage, i, l->critic_loss, w->critic_loss, 1e-6);
                near("actor norm", ranks, stage, i, l->actor_norm, w->actor_norm, 1e-5);
                near("critic norm", ranks, stage, i, l->critic_norm, w->critic_norm, 1e-5);
            }
        }
}

TEST_MAIN(CASE(three_and_four_ranks_learn_as_one))
