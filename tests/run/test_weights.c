/* A reward model made of a language model: its new head, and the form in which it is written. */
#include "run/weights.h"

#include <math.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "engine.h"
#include "equivalence/local_ranks.h"

#define LANGUAGE "tests/golden/data/models/post"
#define JUDGE "tests/golden/data/models/post-reward"

static void open_engine(void **test_state, struct engine *e, const struct model_dir *m, const char *words)
{
    const struct trainer_options o = { .learning_rate = 1, .total = 1 };
    struct err err = { 0 };

    *e = (struct engine){ .phase = &phase_reward };
    comm_alone(&e->comm);
    CHECK_OK(build_shape(&m->config, 0, &e->shape, &err), &err);
    CHECK_OK(engine_open(e, "ref", words, 2, 8, 1, &o, &err), &err);
}

static void open_model(void **test_state, struct model_dir *m, const char *dir)
{
    struct err err = { 0 };

    CHECK_OK(model_dir_open(m, dir, &err), &err);
}

/* Buffers of the head and of its master weights within the flat one that it is a view of. */
static const float *head_of(const struct engine *e)
{
    return exec_buffer(&e->exec, "v_head.weight");
}

TEST(a_new_head_is_drawn_from_the_seed)
{
    struct err err = { 0 };
    struct model_dir m;
    struct engine e;
    float first[64];

    open_model(test_state, &m, LANGUAGE);
    open_engine(test_state, &e, &m, "");
    const int64_t E = m.config.word_embed_proj_dim;
    struct weights_source from = { .files = &m, .new_head = true, .seed = 7 };
    CHECK(E <= COUNT_OF(first));
    CHECK_OK(weights_load_from(&e.exec, "", &from, &err), &err);
    for (int64_t i = 0; i < E; i++) {
        first[i] = head_of(&e)[i];
        CHECK(fabsf(first[i]) <= 1 / sqrtf((float)E));
    }
    CHECK(first[0] != 0 && first[0] != first[1]);
    CHECK_OK(weights_load_from(&e.exec, "", &from, &err), &err);
    CHECK(memcmp(first, head_of(&e), (size_t)E * sizeof *first) == 0);
    from.seed = 8;
    CHECK_OK(weights_load_from(&e.exec, "", &from, &err), &err);
    CHECK(memcmp(first, head_of(&e), (size_t)E * sizeof *first) != 0);
    from.new_head = false;
    CHECK_ERR(weights_load_from(&e.exec, "", &from, &err), &err, ERR_INPUT, "v_head.weight");
    engine_close(&e);
    model_dir_close(&m);
}

TEST(a_head_that_is_there_is_kept)
{
    struct err err = { 0 };
    struct model_dir m;
    struct engine e;
    float stored[64];

    open_model(test_state, &m, JUDGE);
    open_engine(test_state, &e, &m, "");
    const int64_t E = m.config.word_embed_proj_dim;
    const struct weights_source from = { .files = &m, .new_head = true, .seed = 7 };
    CHECK_OK(weights_load_from(&e.exec, "", &from, &err), &err);
    CHECK_OK(model_dir_read(&m, "v_head.weight", stored, F32, E, false, &err), &err);
    CHECK(memcmp(stored, head_of(&e), (size_t)E * sizeof *stored) == 0);
    engine_close(&e);
    model_dir_close(&m);
}

/* In 16 bits the head's master has what was drawn, and the head its rounding. */
static const char *master_of_head(const struct plan *p, const struct exec *e)
{
    const struct buffer *head = &p->buffers[plan_find(p, "v_head.weight")];

    for (int g = 0; g < p->n_programs; g++)
        for (int i = 0; i < p->programs[g].n_steps; i++) {
            const struct op_step *s = &p->programs[g].steps[i];
            if ((s->op == OP_ADAMW || s->op == OP_ADAMW8) && s->out[0] == head->parent)
                return (const char *)exec_address(e, s->out[3]) +
                       (size_t)(head->parent_begin - s->attrs.begin) * dtype_bytes(p->buffers[s->out[3]].dtype);
        }
    return NULL;
}

TEST(masters_of_a_new_head_are_exact)
{
    struct err err = { 0 };
    struct model_dir m;
    struct engine exact, half;

    open_model(test_state, &m, LANGUAGE);
    open_engine(test_state, &exact, &m, "");
    open_engine(test_state, &half, &m, "--dtype bf16");
    const struct weights_source from = { .files = &m, .new_head = true, .seed = 7 };
    CHECK_OK(weights_load_from(&exact.exec, "", &from, &err), &err);
    CHECK_OK(weights_load_from(&half.exec, "", &from, &err), &err);
    const uint16_t *rounded = exec_buffer(&half.exec, "v_head.weight");
    const int16_t *rest = (const void *)master_of_head(&half.plan, &half.exec);
    CHECK(rest != NULL);
    for (int64_t i = 0; i < m.config.word_embed_proj_dim; i++) {
        CHECK(fp32_whole(rounded[i], rest[i]) == head_of(&exact)[i]);
        CHECK(rounded[i] == bf16_from_f32(head_of(&exact)[i]));
    }
    engine_close(&half);
    open_engine(test_state, &half, &m, "--dtype fp16");
    CHECK_OK(weights_load_from(&half.exec, "", &from, &err), &err);
    rounded = exec_buffer(&half.exec, "v_head.weight");
    const float *master = (const void *)master_of_head(&half.plan, &half.exec);
    CHECK(master != NULL);
    for (int64_t i = 0; i < m.config.word_embed_proj_dim; i++) {
        CHECK(master[i] == head_of(&exact)[i]);
        CHECK(rounded[i] == f16_from_f32(head_of(&exact)[i]));
    }
    engine_close(&exact);
    engine_close(&half);
    model_dir_close(&m);
}

TEST(the_form_that_is_written_is_the_models)
{
    static const struct {
        const char *from;
        const struct phase *phase;
    } forms[] = { { LANGUAGE, &phase_sft }, { JUDGE, &phase_reward } };
    const struct trainer_options o = { .total = 1 };
    char dir[] = "/tmp/test_weights_XXXXXX";
    struct err err = { 0 };

    CHECK(mkdtemp(dir) != NULL);
    for (int i = 0; i < COUNT_OF(forms); i++) {
        struct model_dir m, written;
        struct engine e = { .phase = forms[i].phase };
        open_model(test_state, &m, forms[i].from);
        comm_alone(&e.comm);
        CHECK_OK(build_shape(&m.config, 0, &e.shape, &err), &err);
        CHECK_OK(engine_open(&e, "ref", "", 2, 8, 1, &o, &err), &err);
        CHECK_OK(weights_load(&e.exec, "", &m, false, &err), &err);
        CHECK_OK(weights_save(&e.exec, "", &m.config, dir, &err), &err);
        open_model(test_state, &written, dir);
        CHECK_EQ(written.is_reward, m.is_reward);
        CHECK_OK(model_dir_check(&written, &err), &err);
        uint64_t hash, again;
        CHECK_OK(weights_hash(&e.exec, "", &hash, &err), &err);
        CHECK_OK(weights_load(&e.exec, "", &written, false, &err), &err);
        CHECK_OK(weights_hash(&e.exec, "", &again, &err), &err);
        CHECK(again == hash);
        model_dir_close(&written);
        engine_close(&e);
        model_dir_close(&m);
    }
    CHECK_OK(file_remove_tree(dir, &err), &err);
}

/* ---- shards: three ranks, none of which has the whole model ---- */

struct sharer {
    struct local_world *world;
    const struct model_dir *from;
    const char *dir;
    int rank, saved;
    struct err err, save_err;
};

static void *share(void *sharer)
{
    const struct trainer_options o = { .total = 1 };
    struct sharer *s = sharer;
    struct engine e = { .phase = &phase_reward };

    local_comm(&e.comm, s->world, s->rank);
    if (build_shape(&s->from->config, 0, &e.shape, &s->err) != 0 ||
        engine_open(&e, "ref", "--zero_stage 3 --zero_persistence_threshold 20", 2, 8, 1, &o, &s->err) != 0 ||
        weights_load(&e.exec, "", s->from, false, &s->err) != 0) {
        fprintf(stderr, "rank %d: %s\n", s->rank, s->err.what);
        _exit(1); /* the others wait for ever */
    }
    const int embedding = plan_find(&e.plan, "embed_tokens.weight");
    int64_t first, n;
    exec_held(&e.exec, embedding, &first, &n);
    if (n >= shape_count(&e.plan.buffers[embedding].shape))
        err_set(&s->err, ERR_RUN, "rank %d has the whole embedding", s->rank);
    s->saved = weights_save(&e.exec, "", &s->from->config, s->dir, &s->save_err);
    engine_close(&e);
    return NULL;
}

static void share_all(struct sharer s[3], const struct model_dir *from, const char *dir)
{
    struct local_world world;
    pthread_t threads[3];

    local_world_init(&world, 3);
    for (int r = 0; r < 3; r++) {
        s[r] = (struct sharer){ .world = &world, .from = from, .dir = dir, .rank = r };
        assert_int_equal(pthread_create(&threads[r], NULL, share, &s[r]), 0);
    }
    for (int r = 0; r < 3; r++)
        pthread_join(threads[r], NULL);
    local_world_free(&world);
}

static void check_equal(void **test_state, const struct model_dir *a, const struct model_dir *b)
{
    CHECK_EQ(a->n_tensors, b->n_tensors);
    for (int i = 0; i < a->n_tensors; i++) {
        const struct stored_tensor *x = a->tensors[i].stored, *y = b->tensors[i].stored;
        const int64_t n = shape_count(&x->shape);
        CHECK_STR(a->tensors[i].canonical, b->tensors[i].canonical);
        CHECK(n == shape_count(&y->shape) && y->dtype == F32);
        for (int64_t k = 0; k < n; k++) {
            float v[2];
            dtype_convert(&v[0], F32, (const char *)x->data + (size_t)k * dtype_bytes(x->dtype), x->dtype, 1);
            memcpy(&v[1], (const char *)y->data + (size_t)k * sizeof(float), sizeof(float));
            CHECK(v[0] == v[1]);
        }
    }
}

TEST(shards_are_loaded_and_saved_as_the_whole)
{
    char dir[] = "/tmp/test_weights_XXXXXX";
    struct err err = { 0 };
    struct model_dir m, written;
    struct sharer s[3];

    CHECK(mkdtemp(dir) != NULL);
    open_model(test_state, &m, JUDGE);
    share_all(s, &m, dir);
    for (int r = 0; r < 3; r++) {
        CHECK_EQ(s[r].err.code, ERR_NONE);
        CHECK_OK(s[r].saved, &s[r].save_err);
    }
    open_model(test_state, &written, dir);
    check_equal(test_state, &m, &written);
    model_dir_close(&written);
    /* Where rank 0 cannot write, the others come to an end all the same. */
    char blocked[64];
    snprintf(blocked, sizeof blocked, "%s/model.safetensors", dir); /* a file */
    share_all(s, &m, blocked);
    CHECK_EQ(s[0].saved, -1);
    CHECK_EQ(s[1].saved + s[2].saved, 0);
    model_dir_close(&m);
    CHECK_OK(file_remove_tree(dir, &err), &err);
}

/* ---- frozen weights where they lie ---- */

#define ROWS 2
#define IDS 8

/* The same tensors, beginning at byte `by` of a line of 64: spaces behind the header. */
static void shift(void **test_state, const char *dir, size_t by)
{
    char path[FILE_PATH_MAX];
    struct err err = { 0 };
    size_t n;
    uint64_t length;

    CHECK_OK(file_join(path, dir, "model.safetensors", &err), &err);
    char *text = file_read(path, SIZE_MAX / 2, &n, &err);
    CHECK(text != NULL);
    memcpy(&length, text, 8);
    const size_t begin = 8 + (size_t)length, spaces = (64 + by - begin % 64) % 64;
    const uint64_t longer = length + spaces;
    FILE *f = fopen(path, "wb");
    CHECK(f != NULL);
    fwrite(&longer, 8, 1, f);
    fwrite(text + 8, 1, (size_t)length, f);
    fprintf(f, "%*s", (int)spaces, "");
    fwrite(text + begin, 1, n - begin, f);
    CHECK_EQ(fclose(f), 0);
    mem_free(text);
}

/* Into dir, in the type that the words say. */
static void write_model(void **test_state, const char *dir, const char *words, size_t by)
{
    const struct trainer_options o = { .total = 1 };
    struct engine e = { .phase = &phase_sft };
    struct err err = { 0 };
    struct model_dir m;

    open_model(test_state, &m, LANGUAGE);
    comm_alone(&e.comm);
    CHECK_OK(build_shape(&m.config, 0, &e.shape, &err), &err);
    CHECK_OK(engine_open(&e, "ref", words, ROWS, IDS, 1, &o, &err), &err);
    CHECK_OK(weights_load(&e.exec, "", &m, false, &err), &err);
    CHECK_OK(weights_save(&e.exec, "", &m.config, dir, &err), &err);
    engine_close(&e);
    model_dir_close(&m);
    shift(test_state, dir, by);
}

static double loss_of(void **test_state, struct engine *e)
{
    int32_t ids[ROWS * IDS], positions[ROWS * IDS], targets[ROWS * IDS], spans[2 * ROWS] = { 0, IDS, 0, IDS };
    struct batch b = { .B = ROWS, .T = IDS, .ids = ids, .positions = positions, .targets = targets, .spans = spans };
    struct run_context c = { .row_step = 1, .first_micro = true };
    struct err err = { 0 };
    double loss, norm, rate;

    for (int i = 0; i < ROWS * IDS; i++) {
        ids[i] = 3 + i * 7 % 90;
        positions[i] = i % IDS + 2;
        targets[i] = 3 + (i + 1) * 7 % 90;
    }
    b.n_targets = (int64_t)ROWS * IDS;
    CHECK_OK(engine_micro_step(e, &b, &c, &loss, &err), &err);
    CHECK_OK(trainer_step(&e->trainer, &c, &norm, &rate, &err), &err);
    return loss;
}

/* The losses of three updates of adapters, from the weights in dir; how many bytes of them are mapped, and how many are not. */
static void losses_of(void **test_state, const char *dir, const char *backend, const char *words, double losses[3],
                      size_t bytes[2])
{
    const struct trainer_options o = {
        .learning_rate = 1e-2, .beta1 = 0.9, .beta2 = 0.95, .epsilon = 1e-8, .total = 3
    };
    struct engine e = { .phase = &phase_sft };
    struct err err = { 0 };
    struct model_dir m;

    open_model(test_state, &m, dir);
    e.stored = &m;
    comm_alone(&e.comm);
    CHECK_OK(build_shape(&m.config, 0, &e.shape, &err), &err);
    CHECK_OK(engine_open(&e, backend, words, ROWS, IDS, 1, &o, &err), &err);
    CHECK_OK(weights_load(&e.exec, "", &m, false, &err), &err);
    bytes[0] = e.plan.tier_bytes[TIER_MAPPED];
    bytes[1] = e.plan.unmapped_bytes;
    CHECK_EQ(e.exec.mapped_bytes, bytes[0]);
    CHECK_EQ(e.exec.block_bytes, e.plan.tier_bytes[TIER_DEVICE]);
    if (bytes[0] > 0) /* nothing was copied */
        CHECK(exec_buffer(&e.exec, "layers.1.fc1.weight") == model_dir_find(&m, "layers.1.fc1.weight")->data);
    for (int i = 0; i < 3; i++)
        losses[i] = loss_of(test_state, &e);
    engine_close(&e);
    model_dir_close(&m);
}

TEST(frozen_weights_are_used_where_they_lie)
{
    static const struct {
        const char *stored, *run;
        size_t by; /* where the tensors begin */
        bool maps;
    } cases[] = { { "", "", 0, true },
                  { "", "", 4, true },
                  { "", "", 2, false }, /* no place for fp32 */
                  { "--dtype bf16", "--dtype bf16", 2, true },
                  { "--dtype bf16", "", 0, false }, /* another type */
                  { "", "--dtype bf16", 0, false } };
    static const char *const backends[] = { "ref", "cpu" };
    char dir[] = "/tmp/test_weights_XXXXXX", words[128];
    struct err err = { 0 };

    CHECK(mkdtemp(dir) != NULL);
    for (int i = 0; i < COUNT_OF(cases); i++) {
        write_model(test_state, dir, cases[i].stored, cases[i].by);
        for (int k = 0; k < COUNT_OF(backends); k++) {
            double plain[3], mapped[3];
            size_t none[2], bytes[2];
            snprintf(words, sizeof words, "--lora_dim 3 --only_optimize_lora %s", cases[i].run);
            losses_of(test_state, dir, backends[k], words, plain, none);
            snprintf(words, sizeof words, "--lora_dim 3 --only_optimize_lora --map_frozen %s", cases[i].run);
            losses_of(test_state, dir, backends[k], words, mapped, bytes);
            CHECK(memcmp(plain, mapped, sizeof plain) == 0 && plain[2] != plain[0]);
            CHECK_EQ(none[0] + none[1], 0);
            CHECK(bytes[cases[i].maps ? 0 : 1] > 20000 && bytes[cases[i].maps ? 1 : 0] == 0);
        }
    }
    CHECK_OK(file_remove_tree(dir, &err), &err);
}

TEST(mapped_weights_are_looked_at)
{
    const struct trainer_options o = { .total = 1 };
    char dir[] = "/tmp/test_weights_XXXXXX", path[FILE_PATH_MAX];
    struct engine e = { .phase = &phase_sft };
    struct err err = { 0 };
    struct model_dir m;
    const float nan = NAN;

    CHECK(mkdtemp(dir) != NULL);
    write_model(test_state, dir, "", 0);
    CHECK_OK(file_join(path, dir, "model.safetensors", &err), &err);
    FILE *f = fopen(path, "r+b");
    CHECK(f && fseek(f, -8, SEEK_END) == 0 && fwrite(&nan, 4, 1, f) == 1 && fclose(f) == 0);
    open_model(test_state, &m, dir);
    e.stored = &m;
    comm_alone(&e.comm);
    CHECK_OK(build_shape(&m.config, 0, &e.shape, &err), &err);
    CHECK_OK(engine_open(&e, "ref", "--lora_dim 3 --only_optimize_lora --map_frozen", ROWS, IDS, 1, &o, &err), &err);
    CHECK_ERR(weights_load(&e.exec, "", &m, false, &err), &err, ERR_INPUT, "holds a NaN or infinity");
    CHECK_OK(weights_load(&e.exec, "", &m, true, &err), &err);
    CHECK_OK(model_dir_check_unchanged(&m, &err), &err);
    CHECK_EQ(truncate(path, 1), 0); /* nothing of it is read any more */
    CHECK_ERR(model_dir_check_unchanged(&m, &err), &err, ERR_RUN, path);
    engine_close(&e);
    model_dir_close(&m);
    CHECK_OK(file_remove_tree(dir, &err), &err);
}

TEST_MAIN(CASE(frozen_weights_are_used_where_they_lie), CASE(mapped_weights_are_looked_at),
          CASE(shards_are_loaded_and_saved_as_the_whole), CASE(a_new_head_is_drawn_from_the_seed),
          CASE(a_head_that_is_there_is_kept), CASE(masters_of_a_new_head_are_exact),
          CASE(the_form_that_is_written_is_the_models))
