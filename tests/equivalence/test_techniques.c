/* Every technique of the table, alone and in pairs with each other one, on one rank and on two, in each phase that learns from
 * rows: exact ones give the losses of the plain plan, the others stay near them. LoRA is another way to learn, so what it is
 * paired with is held to LoRA alone. A technique that is added to the table is asked for here by name. */
#include <math.h>
#include <unistd.h>

#include "engine.h"
#include "local_ranks.h"
#include "run/weights.h"

#define N_UPDATES 4
#define ROWS 4
#define MAX_UPDATES 10
#define MAX_ROWS 24
#define IDS 24
#define VOCABULARY 96
#define TOO_LARGE 24 /* a power of two: the scale at which gradients of these models overflow fp16 */

/* The words that switch a technique on, and all of them off. */
static const struct {
    const char *name, *on;
    int ranks; /* it needs at least these */
} switches[] = {
    { "lora", "--lora_dim 5 --lora_learning_rate 5e-3", 1 },
    { "lora", "--lora_dim 3 --only_optimize_lora --lora_alpha 3 --lora_target_modules fc2,q_proj", 1 },
    { "flash_attention", "--flash_attention", 1 },
    { "chunked_loss", "--chunked_loss --chunked_loss_rows 10", 1 },
    { "fused_kernels", "--fused_kernels", 1 },
    { "mixed_precision", "--dtype bf16", 1 },
    { "mixed_precision", "--dtype fp16 --initial_scale_power 10", 1 }, /* 2^16 would skip the first updates */
    { "gradient_checkpointing", "--gradient_checkpointing", 1 },
    { "norm_recompute", "--recompute_norms", 1 },
    { "map_frozen", "--map_frozen", 1 },
    { "zero", "--zero_stage 1", 2 },
    { "zero", "--zero_stage 2", 2 },
    { "zero", "--zero_stage 3 --zero_persistence_threshold 100", 2 },
    { "optimizer8", "--optimizer_bits 8", 1 },
    { "remove_padding", "--remove_padding", 1 },
    { "share_prompts", "--share_prompts", 1 },
    { "activation_compression", "--activation_compression", 1 },
    { "int8", "--int8_generation", 1 }, /* touches decoding alone: here, that it does no more */
    { "offload", "--offload --offload_piece 512", 1 },
};
#define ALL_OFF                                                                                                        \
    "--no-remove_padding --no-share_prompts --no-flash_attention --no-chunked_loss --no-fused_kernels "                \
    "--no-recompute_norms --no-activation_compression "

static const struct opt_shape shapes[] = {
    { .C = 32, .L = 3, .H = 4, .F = 48, .E = 16, .V = VOCABULARY, .position_rows = IDS + 2, .dropout = 0.1 },
    { .C = 32,
      .L = 2,
      .H = 2,
      .F = 64,
      .E = 32,
      .V = VOCABULARY,
      .position_rows = IDS + 2,
      .norm_before = true,
      .final_norm = true,
      .dropout = 0.1 },
};

/* Master weights begin as the weights, which lack nothing then; those in files begin with zeros. */
static void fill_masters(struct engine *e)
{
    const int update = plan_find_program(&e->plan, "", "update");

    for (int i = 0; i < e->plan.programs[update].n_steps; i++) {
        const struct op_step *s = &e->plan.programs[update].steps[i];
        if ((s->op != OP_ADAMW && s->op != OP_ADAMW8) || s->out[3] < 0 || e->plan.buffers[s->out[3]].dtype != REST16)
            continue;
        memset(exec_address(&e->exec, s->out[3]), 0, (size_t)s->attrs.count * sizeof(int16_t));
    }
}

/* What lives within a program begins as what is no number: nobody may rely on zeros there. */
static void spoil_transients(struct engine *e)
{
    for (int i = 0; i < e->plan.n_buffers; i++) {
        const struct buffer *b = &e->plan.buffers[i];
        if (!b->persistent && b->parent < 0 && b->first_step >= 0)
            memset(exec_address(&e->exec, i), 0xff, b->bytes);
    }
}

/* Row i of all rows: its ids, right-padded. */
static int64_t row_of(int64_t i, bool alike, int32_t *ids)
{
    struct rng rng = { .seed = 3, .purpose = RNG_TASK, .stream = (uint32_t)i };
    const int64_t more = 2 * (int64_t)rng_below(&rng, IDS / 4); /* odd lengths: two ranks can share the targets */
    const int64_t n = IDS / 2 + 1 + (alike ? 0 : more);

    for (int64_t t = 0; t < IDS; t++)
        ids[t] = t < n ? (int32_t)rng_below(&rng, VOCABULARY) : 2;
    return n;
}

struct job {
    const struct phase *phase;
    const char *words;
    const struct opt_shape *shape;
    struct local_world *world;
    int rank, ranks;
    int updates;
    int64_t rows; /* of a micro-batch, of all ranks together */
    bool alike; /* all rows are as long, so that any number of ranks can share the targets; they come again */
    double losses[MAX_UPDATES], norms[MAX_UPDATES];
    float *gradients; /* of the last update: GRADIENTS_MAX; NULL: not asked */
    struct loss_scale scale; /* at the end */
    struct err err;
    int result;
};

/* Phase 1 gets new rows in every micro-batch. A reward model has nothing to learn from random pairs but themselves: it gets
 * those of the first update again. Of each micro-batch's rows, the first half are chosen, the others rejected; every other
 * row of both is one rank's, so that pairs stay together. */
static int64_t data_row(const struct job *job, int64_t i)
{
    return job->phase == &phase_reward || job->alike ? i % (2 * job->rows) : i;
}

/* Rejected rows begin as their chosen ones do, which stand half a micro-batch before. */
static int64_t text_of(const struct job *job, int64_t i, int32_t *ids)
{
    const int64_t row = data_row(job, i), n = row_of(row, job->alike, ids);
    int32_t chosen[IDS];

    if (job->phase == &phase_reward && !job->alike && row % job->rows >= job->rows / 2) {
        row_of(row - job->rows / 2, job->alike, chosen);
        memcpy(ids, chosen, (size_t)(IDS / 4 + row % 5) * sizeof *ids);
    }
    return n;
}

static int train(struct job *job, struct engine *e)
{
    int32_t ids[MAX_ROWS * IDS], positions[MAX_ROWS * IDS], targets[MAX_ROWS * IDS], spans[2 * MAX_ROWS];
    const int64_t B = job->rows / job->ranks;

    for (int u = 0; u < job->updates; u++)
        for (int micro = 0; micro < 2; micro++) {
            const int64_t first = (2 * u + micro) * job->rows + job->rank;
            struct batch b = {
                .B = B, .T = IDS, .ids = ids, .positions = positions, .targets = targets, .spans = spans
            };
            struct run_context c = {
                .first_row = first, .row_step = job->ranks, .seed = 11, .first_micro = micro == 0
            };
            double loss, rate;
            int64_t all_targets = 0;
            for (int64_t r = 0; r < job->rows; r++) { /* other ranks' too: every mean is over one number of targets */
                int32_t other[IDS];
                all_targets += text_of(job, (2 * u + micro) * job->rows + r, other) - 1;
            }
            for (int64_t r = 0; r < B; r++) {
                const int64_t n = text_of(job, first + r * job->ranks, &ids[r * IDS]);
                spans[2 * r] = 0;
                spans[2 * r + 1] = (int32_t)n;
                for (int64_t t = 0; t < IDS; t++) {
                    positions[r * IDS + t] = t < n ? (int32_t)t + 2 : 1;
                    targets[r * IDS + t] = t + 1 < n ? ids[r * IDS + t + 1] : -100;
                }
            }
            b.n_targets = all_targets / job->ranks;
            if (engine_micro_step(e, &b, &c, &loss, &job->err) != 0)
                return -1;
            job->losses[u] += loss / 2 / job->ranks;
            if (micro == 1 && trainer_step(&e->trainer, &c, &job->norms[u], &rate, &job->err) != 0)
                return -1;
        }
    return 0;
}

/* What was sent is what the plan says, to the byte: of all collectives and updates, of which skipped ones end early. */
static int check_sent(struct job *job, const struct engine *e)
{
    const struct program *update = &e->plan.programs[plan_find_program(&e->plan, "", "update")];
    double planned = cost_update(&e->plan).comm_bytes * job->updates, sent = 0;

    for (int i = 0; i < update->n_steps; i++)
        planned -= update->steps[i].cost.comm_bytes * (double)e->trainer.scale.skipped;
    for (int k = 0; k < COMM_COLLECTIVES; k++)
        sent += e->comm.sent[k].bytes;
    if (fabs(sent - planned) <= 1e-9 * planned)
        return 0;
    return err_set(&job->err, ERR_RUN, "%.17g bytes were sent, %.17g planned", sent, planned);
}

#define GRADIENTS_MAX 60000

static void read_gradients(const struct engine *e, float *out)
{
    int64_t n = 0;

    for (int i = 0; i < e->plan.n_buffers; i++) {
        const struct buffer *b = &e->plan.buffers[i];
        if (b->kind != KIND_GRAD || b->parent >= 0)
            continue;
        MUST(n + b->count <= GRADIENTS_MAX);
        dtype_convert(out + n, F32, exec_address(&e->exec, i), b->dtype, b->count);
        n += b->count;
    }
    MUST(n > 0);
}

static void *run_job(void *argument)
{
    struct job *job = argument;
    const struct trainer_options o = { .learning_rate = job->alike ? 1e-3 : 3e-3, /* rounding grows with the updates */
                                       .weight_decay = 0.1,
                                       .beta1 = 0.9,
                                       .beta2 = 0.95,
                                       .epsilon = 1e-8,
                                       .clip = 1,
                                       .schedule = SCHEDULE_CONSTANT };
    struct engine e = { .phase = job->phase, .shape = *job->shape };

    if (job->world)
        local_comm(&e.comm, job->world, job->rank);
    else
        comm_alone(&e.comm);
    job->result = engine_open(&e, "cpu", job->words, job->rows / job->ranks, IDS, 2, &o, &job->err);
    if (job->result == 0) {
        engine_random_weights(&e.plan, &e.exec);
        fill_masters(&e);
        spoil_transients(&e);
        job->result = train(job, &e);
        if (job->result == 0)
            job->result = check_sent(job, &e);
        if (job->result == 0 && job->gradients)
            read_gradients(&e, job->gradients);
        job->scale = e.trainer.scale;
    }
    engine_close(&e);
    if (job->result != 0 && job->world) { /* the other ranks wait in a collective for ever */
        fprintf(stderr, "%s, rank %d: %s (%s)\n", job->words, job->rank, job->err.what, job->err.where);
        _exit(1);
    }
    return NULL;
}

/* norms: of the gradient, which all ranks must agree on; scale: the loss's at the end; NULL = not asked. */
static void losses_of_job(void **test_state, const struct job *job, int ranks, const char *words, double *losses,
                          double *norms, struct loss_scale *scale)
{
    struct local_world world;
    struct job jobs[LOCAL_MAX_RANKS] = { 0 };
    pthread_t threads[LOCAL_MAX_RANKS];

    local_world_init(&world, ranks);
    for (int r = 0; r < ranks; r++) {
        jobs[r] = *job;
        jobs[r].words = words;
        jobs[r].world = ranks > 1 ? &world : NULL;
        jobs[r].rank = r;
        jobs[r].ranks = ranks;
        if (pthread_create(&threads[r], NULL, run_job, &jobs[r]) != 0)
            fail_msg("no thread");
    }
    for (int u = 0; u < job->updates; u++)
        losses[u] = 0;
    for (int r = 0; r < ranks; r++) {
        pthread_join(threads[r], NULL);
        CHECK_OK(jobs[r].result, &jobs[r].err);
        CHECK_EQ(memcmp(&jobs[r].scale, &jobs[0].scale, sizeof jobs[0].scale), 0);
        for (int u = 0; u < job->updates; u++) {
            losses[u] += jobs[r].losses[u];
            CHECK(jobs[r].norms[u] == jobs[0].norms[u] || (isnan(jobs[r].norms[u]) && isnan(jobs[0].norms[u])));
        }
    }
    if (norms)
        memcpy(norms, jobs[0].norms, sizeof jobs[0].norms);
    if (scale)
        *scale = jobs[0].scale;
    local_world_free(&world);
}

static void losses_of(void **test_state, const struct phase *phase, const struct opt_shape *shape, int ranks,
                      const char *words, double *losses)
{
    const struct job job = { .phase = phase, .shape = shape, .updates = N_UPDATES, .rows = ROWS };

    losses_of_job(test_state, &job, ranks, words, losses, NULL, NULL);
}

static bool is_exact(const char *name)
{
    return techniques[technique_find(name)]->exact;
}

/* Where weights do not learn, the losses are not near the plain plan's. */
static bool is_apart(const char *name)
{
    return techniques[technique_find(name)]->freezes;
}

/* Two ways to have activations in 16 bits: refused together. */
static bool is_refused(const char *a, const char *b)
{
    return (strcmp(a, "mixed_precision") == 0 && strcmp(b, "activation_compression") == 0) ||
           (strcmp(b, "mixed_precision") == 0 && strcmp(a, "activation_compression") == 0);
}

static void compare(const struct phase *phase, const char *words, int ranks, bool exact, const double *got,
                    const double *want)
{
    for (int u = 0; u < N_UPDATES; u++)
        if (!(fabs(got[u] - want[u]) <= (exact ? 1e-6 : 0.01) * want[u]))
            fail_msg("%s %s, %d ranks, update %d: loss %.9g, expected %.9g", phase->name, words, ranks, u, got[u],
                     want[u]);
}

/* Sanitizers look at memory, not at losses: there a sample of the pairs has to do. */
static bool is_sampled(int i, int k)
{
#ifdef __SANITIZE_ADDRESS__
    return k == i || (i + k) % 5 == 0;
#else
    (void)i, (void)k;
    return true;
#endif
}

static void check_all(void **test_state, const struct phase *phase, const struct opt_shape *shape, int ranks)
{
    double plain[N_UPDATES], calm_plain[N_UPDATES], alone[2][N_UPDATES], got[N_UPDATES];
    struct opt_shape calm = *shape; /* for what dropout forbids */
    char words[512];

    calm.dropout = 0;
    losses_of(test_state, phase, shape, 1, ALL_OFF, plain);
    losses_of(test_state, phase, &calm, 1, ALL_OFF, calm_plain);
    CHECK(plain[N_UPDATES - 1] < plain[0]);
    for (int i = 0; i < COUNT_OF(switches); i++) {
        const bool apart = is_apart(switches[i].name);
        snprintf(words, sizeof words, ALL_OFF "%s", switches[i].on);
        for (int c = 0; c < 2 && apart; c++) {
            losses_of(test_state, phase, c ? &calm : shape, 1, words, alone[c]);
            CHECK(alone[c][N_UPDATES - 1] < alone[c][0]);
        }
        for (int k = i; k < COUNT_OF(switches); k++) {
            const bool exact = (apart || is_exact(switches[i].name)) && (k == i || is_exact(switches[k].name));
            const bool twice = k > i && (strcmp(switches[i].name, switches[k].name) == 0 || is_apart(switches[k].name));
            if (switches[i].ranks > ranks || switches[k].ranks > ranks || twice ||
                is_refused(switches[i].name, switches[k].name) || !is_sampled(i, k))
                continue;
            snprintf(words, sizeof words, ALL_OFF "%s %s", switches[i].on, k == i ? "" : switches[k].on);
            const bool is_calm = strstr(words, " --share_prompts") != NULL;
            const double *want = apart ? alone[is_calm] : is_calm ? calm_plain : plain;
            losses_of(test_state, phase, is_calm ? &calm : shape, ranks, words, got);
            compare(phase, words, ranks, exact, got, want);
        }
    }
}

TEST(every_technique_is_asked_for)
{
    CHECK_EQ(technique_find("no such technique"), -1);
    for (int i = 0; techniques[i]; i++) {
        bool found = false;
        for (int k = 0; k < COUNT_OF(switches); k++)
            found = found || strcmp(switches[k].name, techniques[i]->name) == 0;
        if (!found)
            fail_msg("add %s to the switches of this test", techniques[i]->name);
    }
}

TEST(prompts_are_not_shared_through_dropout)
{
    struct trainer_options o = { 0 };
    struct engine e = { .phase = &phase_reward, .shape = shapes[0] };
    struct err err = { 0 };

    comm_alone(&e.comm);
    CHECK_ERR(engine_open(&e, "cpu", "--share_prompts", ROWS, IDS, 1, &o, &err), &err, ERR_USAGE,
              "--share_prompts with dropout 0.1");
    engine_close(&e);
}

TEST(activations_are_in_16_bits_once)
{
    struct trainer_options o = { 0 };
    struct engine e = { .phase = &phase_sft, .shape = shapes[0] };
    struct err err = { 0 };

    comm_alone(&e.comm);
    CHECK_ERR(engine_open(&e, "cpu", "--activation_compression --dtype bf16", ROWS, IDS, 1, &o, &err), &err, ERR_USAGE,
              "--activation_compression with a --dtype of 16 bits");
    engine_close(&e);
}

static void first_gradients(void **test_state, const struct phase *phase, const char *words, double *loss, float *out)
{
    const struct job job = { .phase = phase, .shape = &shapes[0], .updates = 1, .rows = ROWS, .gradients = out };

    memset(out, 0, GRADIENTS_MAX * sizeof *out);
    losses_of_job(test_state, &job, 1, words, loss, NULL, NULL);
}

/* |x - y| / |y| */
static double distance(const float *x, const float *y)
{
    double apart = 0, all = 0;

    for (int64_t i = 0; i < GRADIENTS_MAX; i++) {
        apart += ((double)x[i] - (double)y[i]) * ((double)x[i] - (double)y[i]);
        all += (double)y[i] * (double)y[i];
    }
    return sqrt(apart / all);
}

/* The forward pass is as it was, to the bit; gradients are rounded, but less than those of a run in bf16. */
TEST(compressed_activations_are_read_by_the_backward_pass_alone)
{
    static float plain[GRADIENTS_MAX], compressed[GRADIENTS_MAX], bf16[GRADIENTS_MAX];
    static const char *const with[] = { ALL_OFF, "", "--gradient_checkpointing", "--remove_padding" };
    const struct phase *const phases[] = { &phase_sft, &phase_reward };
    double loss[MAX_UPDATES], same[MAX_UPDATES], other[MAX_UPDATES];
    char words[256];

    for (int i = 0; i < COUNT_OF(with) * COUNT_OF(phases); i++) {
        const struct phase *phase = phases[i % COUNT_OF(phases)];
        const char *base = with[i / COUNT_OF(phases)];
        first_gradients(test_state, phase, base, loss, plain);
        snprintf(words, sizeof words, "%s --dtype bf16", base);
        first_gradients(test_state, phase, words, other, bf16);
        snprintf(words, sizeof words, "%s --activation_compression", base);
        first_gradients(test_state, phase, words, same, compressed);
        CHECK(same[0] == loss[0] && other[0] != loss[0]);
        const double rounded = distance(compressed, plain), whole = distance(bf16, plain);
        if (!(rounded > 0 && rounded < whole))
            fail_msg("%s %s: gradients are off by %.3g, in bf16 by %.3g", phase->name, words, rounded, whole);
    }
}

TEST(pairs_on_one_rank)
{
    for (int s = 0; s < COUNT_OF(shapes); s++)
        check_all(test_state, &phase_sft, &shapes[s], 1);
}

/* The decoder is the same one: a shape each will do. */
TEST(reward_pairs_on_one_rank)
{
    check_all(test_state, &phase_reward, &shapes[0], 1);
}

TEST(pairs_on_two_ranks)
{
    for (int s = 0; s < COUNT_OF(shapes); s++)
        check_all(test_state, &phase_sft, &shapes[s], 2);
}

TEST(reward_pairs_on_two_ranks)
{
    check_all(test_state, &phase_reward, &shapes[1], 2);
}

static void check_close(const struct job *job, const char *words, int ranks, const char *what, const double *got,
                        const double *want)
{
    for (int u = 0; u < job->updates; u++)
        if (!(fabs(got[u] - want[u]) <= 1e-6 * want[u]))
            fail_msg("%s %s, %d ranks, update %d: %s %.9g, expected %.9g", job->phase->name, words, ranks, u, what,
                     got[u], want[u]);
}

/* Shards of any number of ranks, of which three divide nothing: ten updates, each loss within 1e-6 of the plain run's. Norms
 * are compared at first, before weights have come apart by rounding. */
static void check_ranks(void **test_state, const struct phase *phase, const struct opt_shape *shape, int64_t rows)
{
    static const char *const words[] = { "--zero_stage 0",
                                         "--zero_stage 1",
                                         "--zero_stage 2",
                                         "--zero_stage 3",
                                         "--zero_stage 3 --zero_persistence_threshold 0",
                                         "--zero_stage 2 --overlap_comm",
                                         "--zero_stage 3 --zero_persistence_threshold 40 --overlap_comm",
                                         "--zero_stage 3 --zero_persistence_threshold 40 --gradient_checkpointing",
                                         "--zero_stage 2 --zero_persistence_threshold 0 --gradient_checkpointing" };
    const struct job job = { .phase = phase, .shape = shape, .updates = MAX_UPDATES, .rows = rows, .alike = true };
    double plain[MAX_UPDATES], plain_norms[MAX_UPDATES], got[MAX_UPDATES], norms[MAX_UPDATES];

    losses_of_job(test_state, &job, 1, ALL_OFF, plain, plain_norms, NULL);
    CHECK(plain[MAX_UPDATES - 1] < plain[0]);
    for (int ranks = 2; ranks <= 4; ranks++)
        for (int i = 0; i < COUNT_OF(words); i++) {
            losses_of_job(test_state, &job, ranks, words[i], got, norms, NULL);
            check_close(&job, words[i], ranks, "loss", got, plain);
            for (int u = 0; u < MAX_UPDATES; u++)
                CHECK_NEAR(norms[u], plain_norms[u], 1e-5 * plain_norms[u]);
        }
}

TEST(any_number_of_ranks_shards)
{
    check_ranks(test_state, &phase_sft, &shapes[0], 12);
    check_ranks(test_state, &phase_sft, &shapes[1], 12);
    check_ranks(test_state, &phase_reward, &shapes[1], 24);
}

/* The clones of a layer's forward steps are the same kernels on the same numbers. */
TEST(recomputation_gives_the_same_bits)
{
    for (int s = 0; s < COUNT_OF(shapes); s++) {
        double plain[N_UPDATES], again[N_UPDATES];
        losses_of(test_state, &phase_sft, &shapes[s], 1, "--no-recompute_norms", plain);
        losses_of(test_state, &phase_sft, &shapes[s], 1, "--recompute_norms", again);
        for (int u = 0; u < N_UPDATES; u++)
            CHECK(plain[u] == again[u]);
        losses_of(test_state, &phase_sft, &shapes[s], 1, "--gradient_checkpointing", again);
        for (int u = 0; u < N_UPDATES; u++)
            CHECK(plain[u] == again[u]);
    }
}

/* The same updates in pieces, whatever the state is and whoever has it. */
TEST(offload_gives_the_same_bits)
{
    static const char *const with[] = { "",
                                        "--dtype bf16",
                                        "--optimizer_bits 8 --dtype bf16",
                                        "--gradient_checkpointing",
                                        "--zero_stage 1",
                                        "--zero_stage 1 --optimizer_bits 8",
                                        "--zero_stage 2 --dtype bf16",
                                        "--zero_stage 3 --zero_persistence_threshold 100 --dtype bf16",
                                        "--dtype fp16 --initial_scale_power 10",
                                        "--zero_stage 2 --dtype fp16 --initial_scale_power 10 --optimizer_bits 8" };
    static const char *const pieces[] = { "--offload", "--offload --offload_piece 256",
                                          "--offload --offload_piece 1500", "--offload --offload_params" };
    char words[256];

    for (int i = 0; i < COUNT_OF(with); i++)
        for (int k = 0; k < COUNT_OF(pieces); k++) {
            const int ranks = strstr(with[i], "zero") ? 2 : 1;
            if (ranks > 1 && strstr(pieces[k], "params")) /* which is refused */
                continue;
            double plain[N_UPDATES], got[N_UPDATES];
            losses_of(test_state, &phase_sft, &shapes[0], ranks, with[i], plain);
            snprintf(words, sizeof words, "%s %s", with[i], pieces[k]);
            losses_of(test_state, &phase_sft, &shapes[0], ranks, words, got);
            for (int u = 0; u < N_UPDATES; u++)
                CHECK(plain[u] == got[u]);
        }
}

/* Frozen weights where files have them, which are at odd addresses: with whoever shards, offloads or makes things again. */
TEST(mapped_weights_give_the_same_bits)
{
    static const char *const with[] = { "--lora_dim 5",
                                        "--lora_dim 5 --only_optimize_lora --dtype bf16",
                                        "--lora_dim 3 --only_optimize_lora --gradient_checkpointing",
                                        "--lora_dim 3 --no-flash_attention --no-fused_kernels --no-chunked_loss",
                                        "--lora_dim 5 --offload --offload_params",
                                        "--lora_dim 5 --zero_stage 2 --dtype bf16",
                                        "--lora_dim 5 --zero_stage 3 --zero_persistence_threshold 100",
                                        "--lora_dim 5 --zero_stage 3 --only_optimize_lora --overlap_comm" };
    static const struct phase *const phases[] = { &phase_sft, &phase_reward };
    char words[256];

    for (int i = 0; i < COUNT_OF(with); i++)
        for (int k = 0; k < COUNT_OF(phases); k++) {
            const int ranks = strstr(with[i], "zero") ? 2 : 1;
            double plain[N_UPDATES], got[N_UPDATES];
            losses_of(test_state, phases[k], &shapes[0], ranks, with[i], plain);
            snprintf(words, sizeof words, "%s --map_frozen", with[i]);
            losses_of(test_state, phases[k], &shapes[0], ranks, words, got);
            for (int u = 0; u < N_UPDATES; u++)
                CHECK(plain[u] == got[u]);
        }
}

/* A run whose scale is too large at first skips, with nothing changed, until it is not; from there on it is bit for bit the run
 * that began with that scale: the rows are the same in each update. */
TEST(skipped_updates_leave_no_trace)
{
    static const char *const with[] = { "",
                                        "--no-fused_kernels",
                                        "--lora_dim 4 --gradient_checkpointing",
                                        "--optimizer_bits 8",
                                        "--offload --offload_piece 512",
                                        "--zero_stage 0",
                                        "--zero_stage 1",
                                        "--zero_stage 2 --overlap_comm",
                                        "--zero_stage 3 --zero_persistence_threshold 100" };
    struct opt_shape calm = shapes[0];
    struct job job = { .phase = &phase_reward, .shape = &calm, .updates = MAX_UPDATES, .rows = ROWS };
    struct loss_scale scale;
    char words[256];

    calm.dropout = 0;
    for (int i = 0; i < COUNT_OF(with); i++) {
        const int ranks = strstr(with[i], "zero") ? 2 : 1;
        double late[MAX_UPDATES], early[MAX_UPDATES], late_norms[MAX_UPDATES], early_norms[MAX_UPDATES];
        int first = 0; /* that is not skipped; later ones may be too, as gradients grow */
        snprintf(words, sizeof words, "%s --dtype fp16 --loss_scale_hysteresis 1 --initial_scale_power %d", with[i],
                 TOO_LARGE);
        losses_of_job(test_state, &job, ranks, words, late, late_norms, &scale);
        CHECK_NEAR(scale.value, ldexp(1, TOO_LARGE - (int)scale.skipped), 0);
        while (first < MAX_UPDATES && !isfinite(late_norms[first]))
            first++;
        CHECK(first > 1 && first < MAX_UPDATES - 3);
        snprintf(words, sizeof words, "%s --dtype fp16 --loss_scale_hysteresis 1 --initial_scale_power %d", with[i],
                 TOO_LARGE - first);
        losses_of_job(test_state, &job, ranks, words, early, early_norms, NULL);
        for (int u = 0; u < MAX_UPDATES; u++)
            CHECK(late[u] == early[u < first ? 0 : u - first]);
        for (int u = first; u < MAX_UPDATES; u++)
            CHECK(late_norms[u] == early_norms[u - first] ||
                  (!isfinite(late_norms[u]) && !isfinite(early_norms[u - first])));
        CHECK(late[MAX_UPDATES - 1] < late[0]);
    }
}

/* The update before the scale doubles divides by what its gradients were made with. */
TEST(a_scale_that_grows_is_undone_as_it_was)
{
    static const char *const windows[] = { "--loss_scale_window 1", "--loss_scale_window 2" };
    const struct trainer_options o = { .learning_rate = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .clip = 1 };
    struct engine e[2] = { { .shape = shapes[0] }, { .shape = shapes[0] } };
    struct job jobs[2];
    char words[128];

    for (int i = 0; i < 2; i++) {
        jobs[i] = (struct job){ .phase = &phase_sft, .shape = &shapes[0], .updates = 1, .rows = ROWS, .ranks = 1 };
        snprintf(words, sizeof words, "--dtype fp16 --initial_scale_power 8 %s", windows[i]);
        comm_alone(&e[i].comm);
        CHECK_OK(engine_open(&e[i], "cpu", words, ROWS, IDS, 2, &o, &jobs[i].err), &jobs[i].err);
        engine_random_weights(&e[i].plan, &e[i].exec);
        CHECK_OK(train(&jobs[i], &e[i]), &jobs[i].err);
        CHECK_NEAR(e[i].trainer.scale.value, i ? 256 : 512, 0);
    }
    CHECK(jobs[0].norms[0] == jobs[1].norms[0]);
    const int m = plan_find(&e[0].plan, "flat/m.decay");
    CHECK_EQ(memcmp(exec_address(&e[0].exec, m), exec_address(&e[1].exec, m), e[0].plan.buffers[m].bytes), 0);
    for (int i = 0; i < 2; i++)
        engine_close(&e[i]);
}

TEST(an_overflow_at_the_smallest_scale_ends_the_run)
{
    const struct trainer_options o = { .learning_rate = 1e-3, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8 };
    struct job job = { .phase = &phase_sft, .shape = &shapes[0], .updates = MAX_UPDATES, .rows = ROWS, .ranks = 1 };
    struct engine e = { .phase = job.phase, .shape = shapes[0] };
    struct err err = { 0 };

    comm_alone(&e.comm);
    CHECK_ERR(engine_open(&e, "cpu", "--dtype fp16 --min_loss_scale 131072", ROWS, IDS, 2, &o, &err), &err, ERR_USAGE,
              "the loss scale begins at 2^16, below --min_loss_scale");
    engine_close(&e);
    comm_alone(&e.comm);
    e.phase = job.phase;
    e.shape = shapes[0];
    CHECK_OK(engine_open(&e, "cpu", "--dtype fp16 --initial_scale_power 40 --min_loss_scale 549755813888", ROWS, IDS, 2,
                         &o, &err),
             &err); /* 2^39: two skips with hysteresis */
    engine_random_weights(&e.plan, &e.exec);
    CHECK_ERR(train(&job, &e), &job.err, ERR_RUN, "the gradient is not finite");
    CHECK(strstr(job.err.hint, "--min_loss_scale") != NULL && strcmp(job.err.where, "update 3") == 0);
    CHECK_EQ(e.trainer.n_updates, 0);
    engine_close(&e);
}

TEST_MAIN(CASE(skipped_updates_leave_no_trace), CASE(a_scale_that_grows_is_undone_as_it_was),
          CASE(an_overflow_at_the_smallest_scale_ends_the_run), CASE(every_technique_is_asked_for),
          CASE(prompts_are_not_shared_through_dropout), CASE(activations_are_in_16_bits_once),
          CASE(compressed_activations_are_read_by_the_backward_pass_alone), CASE(pairs_on_one_rank),
          CASE(pairs_on_two_ranks), CASE(reward_pairs_on_one_rank), CASE(reward_pairs_on_two_ranks),
          CASE(recomputation_gives_the_same_bits), CASE(any_number_of_ranks_shards), CASE(offload_gives_the_same_bits),
          CASE(mapped_weights_give_the_same_bits))
