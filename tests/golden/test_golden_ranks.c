/* The golden training run on two ranks, which take turns with the rows: the losses and weights are those of one. */
#include "equivalence/local_ranks.h"
#include "golden.h"

#define RANKS 2
#define MAX_UPDATES 16

struct job {
    const struct golden *golden;
    const char *words;
    int rank, result;
    double losses[MAX_UPDATES], norms[MAX_UPDATES];
    struct engine engine;
    struct err err;
};

static const json_t *run_of(const struct golden *g)
{
    return json_object_get(g->json, "train");
}

static int train(struct job *job)
{
    const json_t *batches = json_object_get(run_of(job->golden), "batches");

    for (size_t i = 0; i < json_array_size(batches); i++) {
        struct run_context c = { .first_row = job->rank, .row_step = RANKS, .first_micro = true };
        struct golden_rows r;
        double rate;

        golden_rows_of(&r, json_array_get(batches, i), "", false, job->rank, RANKS);
        if (sft_micro_step(&job->engine.sft, &r.batch, &c, &job->losses[i], &job->err) != 0 ||
            trainer_step(&job->engine.trainer, &c, &job->norms[i], &rate, &job->err) != 0)
            return -1;
    }
    return 0;
}

static void *run_job(void *argument)
{
    struct job *job = argument;
    const json_t *rows =
        json_object_get(json_array_get(json_object_get(run_of(job->golden), "batches"), 0), "input_ids");
    const int64_t B = (int64_t)json_array_size(rows) / RANKS, T = (int64_t)json_array_size(json_array_get(rows, 0));
    const struct trainer_options o = golden_options(run_of(job->golden));

    job->result = golden_engine(&job->engine, &job->golden->model, "cpu", job->words, B, T, 1, &o, &job->err);
    if (job->result == 0)
        job->result = train(job);
    return NULL;
}

/* One rank's failure would leave the other waiting: the program's own time limit ends that. */
static void run_ranks(void **test_state, struct job *jobs)
{
    struct local_world world = { .ranks = RANKS };
    pthread_t threads[RANKS];

    pthread_barrier_init(&world.barrier, NULL, RANKS);
    for (int r = 0; r < RANKS; r++) {
        local_comm(&jobs[r].engine.comm, &world, r);
        if (pthread_create(&threads[r], NULL, run_job, &jobs[r]) != 0)
            fail_msg("no thread");
    }
    for (int r = 0; r < RANKS; r++)
        pthread_join(threads[r], NULL);
    pthread_barrier_destroy(&world.barrier);
    for (int r = 0; r < RANKS; r++)
        CHECK_OK(jobs[r].result, &jobs[r].err);
}

static void check_ranks(void **test_state, const char *folder, const char *model, const char *words)
{
    struct golden g;
    struct job jobs[RANKS];
    char file[32];

    snprintf(file, sizeof file, "sft/%s", model);
    golden_open(test_state, &g, folder, file, model);
    for (int r = 0; r < RANKS; r++)
        jobs[r] = (struct job){ .golden = &g, .words = words, .rank = r };
    run_ranks(test_state, jobs);

    const json_t *losses = json_object_get(run_of(&g), "losses"), *norms = json_object_get(run_of(&g), "grad_norms");
    CHECK(json_array_size(losses) > 1 && json_array_size(losses) <= MAX_UPDATES);
    for (size_t i = 0; i < json_array_size(losses); i++) {
        const double loss = (jobs[0].losses[i] + jobs[1].losses[i]) / RANKS;
        CHECK_NEAR(loss, json_number_value(json_array_get(losses, i)), golden_tolerance(&g, "train_losses", loss));
        for (int r = 0; r < RANKS; r++)
            CHECK_NEAR(jobs[r].norms[i], json_number_value(json_array_get(norms, i)), 1e-4 * jobs[r].norms[i]);
    }
    for (int r = 0; r < RANKS; r++) { /* every rank holds all weights again, or its share */
        CHECK(golden_compare_arrays(&g, &jobs[r].engine, "final.", "", "train_final") > 30);
        engine_close(&jobs[r].engine);
    }
    golden_close(&g);
}

static void check_all(void **test_state, const char *folder)
{
    static const char *const models[] = { "post", "pre" };
    static const char *const variants[] = {
        "--zero_stage 0",
        "--zero_stage 1",
        "--zero_stage 2",
        "--zero_stage 3",
        "--zero_stage 1 --gradient_checkpointing --no-flash_attention --no-chunked_loss --no-fused_kernels",
        "--zero_stage 1 --remove_padding",
    };

    for (int m = 0; m < COUNT_OF(models); m++)
        for (int v = 0; v < COUNT_OF(variants); v++)
            check_ranks(test_state, folder, models[m], variants[v]);
}

TEST(two_ranks_train_as_one)
{
    check_all(test_state, GOLDEN_OWN);
}

TEST(shared_two_ranks_train_as_one)
{
    check_all(test_state, golden_shared());
}

TEST_MAIN(CASE(two_ranks_train_as_one), CASE(shared_two_ranks_train_as_one))
