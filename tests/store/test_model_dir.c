/* Folders of every form: the golden models where they are, and small ones made here, whole and broken. */
#include "store/model_dir.h"

#include <math.h>
#include <unistd.h>

#include "base/mem.h"
#include "test.h"

#define TENSORS_MAX 128

/* A small model in memory: values count up, so that mixed-up tensors are seen. */
struct model {
    struct hf_config config;
    struct stored_tensor tensors[TENSORS_MAX];
    char names[TENSORS_MAX][96];
    int n;
};

static int add_tensor(void *context, const char *canonical, const struct shape *shape, struct err *err)
{
    struct model *m = context;
    const int64_t count = shape_count(shape);
    float *values = mem_array(count, 1, sizeof *values, MEM_OTHER, err);

    assert_non_null(values);
    for (int64_t i = 0; i < count; i++)
        values[i] = (float)(m->n * 1000) + (float)(i % 256);
    snprintf(m->names[m->n], sizeof m->names[m->n], "%s", canonical);
    m->tensors[m->n] = (struct stored_tensor){
        .name = m->names[m->n], .dtype = F32, .shape = *shape, .data = values, .bytes = (size_t)count * 4
    };
    m->n++;
    return 0;
}

static void make_model(struct model *m, bool reward)
{
    struct err err = { 0 };

    memset(m, 0, sizeof *m);
    assert_int_equal(hf_config_named(&m->config, "opt-350m", &err), 0);
    m->config.hidden_size = 8;
    m->config.n_layers = 2;
    m->config.n_heads = 2;
    m->config.ffn_dim = 16;
    m->config.word_embed_proj_dim = 4;
    m->config.vocab_size = 10;
    m->config.max_positions = 6;
    assert_int_equal(model_names(&m->config, reward, add_tensor, m, &err), 0);
}

static void free_model(struct model *m)
{
    for (int i = 0; i < m->n; i++)
        mem_free((void *)m->tensors[i].data);
    hf_config_free(&m->config);
}

static char *make_dir(char *dir)
{
    snprintf(dir, 64, "/tmp/tuneup-model-XXXXXX");
    assert_non_null(mkdtemp(dir));
    return dir;
}

static void write_text(const char *dir, const char *name, const char *text)
{
    char path[FILE_PATH_MAX];

    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* Puts the model's tensors with a prefix into DIR/file. */
static void write_weights(const char *dir, const char *file, const struct stored_tensor *tensors, int n,
                          const char *prefix)
{
    static char names[TENSORS_MAX][128];
    struct stored_tensor renamed[TENSORS_MAX];
    struct err err = { 0 };
    char path[FILE_PATH_MAX];

    for (int i = 0; i < n; i++) {
        snprintf(names[i], sizeof names[i], "%s%s", prefix, tensors[i].name);
        renamed[i] = tensors[i];
        renamed[i].name = names[i];
    }
    snprintf(path, sizeof path, "%s/%s", dir, file);
    assert_int_equal(safetensors_save(path, renamed, n, &err), 0);
}

static int open_and_check(const char *dir, struct err *err)
{
    struct model_dir m;

    if (model_dir_open(&m, dir, err) != 0)
        return -1;
    const int result = model_dir_check(&m, err);
    model_dir_close(&m);
    return result;
}

TEST(names_come_in_registration_order)
{
    struct model m;

    make_model(&m, true);
    CHECK_EQ(m.n, 5 + 2 * 16);
    CHECK_STR(m.names[0], "v_head.weight");
    CHECK_STR(m.names[1], "embed_tokens.weight");
    CHECK_STR(m.names[2], "embed_positions.weight");
    CHECK_STR(m.names[3], "project_out.weight");
    CHECK_STR(m.names[4], "project_in.weight");
    CHECK_STR(m.names[5], "layers.0.self_attn.k_proj.weight");
    CHECK_STR(m.names[36], "layers.1.final_layer_norm.bias");
    int64_t total = 0;
    for (int i = 1; i < m.n; i++)
        total += shape_count(&m.tensors[i].shape);
    CHECK_EQ(total, hf_config_parameters(&m.config));
    free_model(&m);
}

/* Where a tensor can be used as it lies, and whether there is anything that can be mapped at all. */
TEST(tensors_lie_in_mapped_files)
{
    struct err err = { 0 };
    struct model_dir d;
    struct model m;
    char dir[64], path[96];

    make_model(&m, false);
    make_dir(dir);
    CHECK_EQ(model_dir_look(&d, dir, &err), 0);
    CHECK_OK(model_dir_save(dir, &m.config, m.tensors, m.n, false, &err), &err);
    CHECK_EQ(model_dir_look(&d, dir, &err), 1);
    for (int i = 0; i < m.n; i++) {
        const struct stored_tensor *t = &m.tensors[i];
        const struct shape other = shape_of(1, (int64_t)3);
        const void *data = model_dir_mapped(&d, t->name, F32, &t->shape);
        CHECK(data && data == model_dir_find(&d, t->name)->data);
        CHECK(!model_dir_mapped(&d, t->name, BF16, &t->shape) && !model_dir_mapped(&d, t->name, F32, &other));
        CHECK_OK(model_dir_check_finite(&d, t->name, &err), &err);
    }
    CHECK(!model_dir_mapped(&d, "lm_head.weight", F32, &m.tensors[0].shape));
    model_dir_close(&d);
    write_text(dir, "pytorch_model.bin", "never read");
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    CHECK_EQ(unlink(path), 0);
    CHECK_EQ(model_dir_look(&d, dir, &err), 1);
    CHECK_EQ(d.n_files, 0);
    CHECK_OK(file_remove_tree(dir, &err), &err);
    free_model(&m);
}

TEST(what_is_saved_is_read_again)
{
    struct err err = { 0 };
    char dir[64];

    for (int reward = 0; reward < 2; reward++) {
        struct model m;
        struct model_dir d;
        float values[80];
        uint16_t halves[80];

        make_model(&m, reward);
        make_dir(dir);
        CHECK_OK(model_dir_save(dir, &m.config, m.tensors, m.n, reward, &err), &err);
        CHECK_OK(model_dir_open(&d, dir, &err), &err);
        CHECK_OK(model_dir_check(&d, &err), &err);
        CHECK_EQ(d.is_reward, reward);
        CHECK_EQ(d.n_tensors, m.n);
        CHECK_STR(d.config.torch_dtype, "float32");
        CHECK(safetensors_find(&d.files[0].safetensors,
                               reward ? "rwtransformer.decoder.layers.0.fc1.bias" : "model.decoder.layers.0.fc1.bias"));
        for (int i = 0; i < m.n; i++)
            CHECK(memcmp(model_dir_find(&d, m.names[i])->data, m.tensors[i].data, m.tensors[i].bytes) == 0);
        CHECK_OK(model_dir_read(&d, "embed_tokens.weight", values, F32, 40, false, &err), &err);
        CHECK(memcmp(values, m.tensors[reward].data, 160) == 0);
        CHECK_OK(model_dir_read(&d, "embed_tokens.weight", halves, BF16, 40, false, &err), &err);
        CHECK_NEAR(bf16_to_f32(halves[39]), values[39], 8);
        CHECK_OK(model_dir_read(&d, "embed_tokens.weight", halves, F16, 40, false, &err), &err);
        CHECK_EQ(halves[39], f16_from_f32(values[39]));
        CHECK_ERR(model_dir_read(&d, "embed_tokens.weight", values, F32, 41, false, &err), &err, ERR_INPUT, "41");
        CHECK_OK(model_dir_read_range(&d, "embed_tokens.weight", values + 40, F32, 7, 33, false, &err), &err);
        CHECK(memcmp(values + 40, values + 7, 33 * sizeof *values) == 0);
        CHECK_ERR(model_dir_read_range(&d, "embed_tokens.weight", values, F32, 8, 33, false, &err), &err, ERR_INPUT,
                  "33 from number 8");
        CHECK_ERR(model_dir_read(&d, "nothing.weight", values, F32, 1, false, &err), &err, ERR_INPUT, "missing");
        model_dir_close(&d);
        ((float *)m.tensors[reward].data)[3] = 65520; /* finite, but not in fp16 */
        CHECK_OK(model_dir_save(dir, &m.config, m.tensors, m.n, reward, &err), &err);
        CHECK_OK(model_dir_open(&d, dir, &err), &err);
        CHECK_OK(model_dir_read(&d, "embed_tokens.weight", halves, BF16, 40, false, &err), &err);
        CHECK_ERR(model_dir_read(&d, "embed_tokens.weight", halves, F16, 40, false, &err), &err, ERR_INPUT,
                  "infinity, in fp16, which ends at 65504");
        model_dir_close(&d);
        CHECK_OK(file_remove_tree(dir, &err), &err);
        free_model(&m);
    }
}

TEST(missing_tensors_are_all_named)
{
    struct err err = { 0 };
    struct model m;
    char dir[64];

    make_model(&m, false);
    make_dir(dir);
    CHECK_ERR(open_and_check(dir, &err), &err, ERR_INPUT, "no config.json");
    CHECK_OK(hf_config_save(&m.config, dir, F32, &err), &err);
    CHECK_ERR(open_and_check(dir, &err), &err, ERR_INPUT, "no weights");
    write_weights(dir, "model.safetensors", m.tensors + 1, m.n - 2, "decoder.");
    CHECK_ERR(open_and_check(dir, &err), &err, ERR_INPUT,
              "2 of 36 tensors are missing: embed_tokens.weight, layers.1.final_layer_norm.bias");
    write_weights(dir, "model.safetensors", m.tensors, 1, "decoder.");
    CHECK_ERR(open_and_check(dir, &err), &err, ERR_INPUT, "and others");
    CHECK_OK(file_remove_tree(dir, &err), &err);
    free_model(&m);
}

TEST(shapes_types_and_values_are_checked)
{
    struct err err = { 0 };
    struct model m;
    struct model_dir d;
    char dir[64];

    make_model(&m, false);
    make_dir(dir);
    m.config.vocab_size = 11;
    CHECK_OK(model_dir_save(dir, &m.config, m.tensors, m.n, false, &err), &err);
    CHECK_ERR(open_and_check(dir, &err), &err, ERR_INPUT, "has shape [10,4], the model needs [11,4]");
    m.config.vocab_size = 10;
    CHECK_OK(hf_config_save(&m.config, dir, F32, &err), &err);
    CHECK_OK(open_and_check(dir, &err), &err);
    m.tensors[3].dtype = I32;
    write_weights(dir, "model.safetensors", m.tensors, m.n, "model.decoder.");
    CHECK_ERR(open_and_check(dir, &err), &err, ERR_INPUT, "type I32");
    m.tensors[3].dtype = F32;
    for (int i = 0; i < 2; i++) {
        ((float *)m.tensors[7].data)[3] = i ? NAN : -INFINITY;
        write_weights(dir, "model.safetensors", m.tensors, m.n, "model.decoder.");
        CHECK_OK(model_dir_open(&d, dir, &err), &err);
        float values[64];
        CHECK_ERR(model_dir_read(&d, m.names[7], values, F32, shape_count(&m.tensors[7].shape), false, &err), &err,
                  ERR_INPUT, m.names[7]);
        CHECK_OK(model_dir_read(&d, m.names[7], values, F32, shape_count(&m.tensors[7].shape), true, &err), &err);
        CHECK(!isfinite(values[3]));
        model_dir_close(&d);
    }
    CHECK_OK(file_remove_tree(dir, &err), &err);
    free_model(&m);
}

TEST(a_head_must_be_the_embedding)
{
    struct err err = { 0 };
    struct model m;
    char dir[64];

    make_model(&m, false);
    make_dir(dir);
    CHECK_OK(hf_config_save(&m.config, dir, F32, &err), &err);
    m.tensors[m.n] = m.tensors[0];
    m.tensors[m.n].name = "lm_head.weight";
    write_weights(dir, "model.safetensors", m.tensors, m.n + 1, "");
    CHECK_OK(open_and_check(dir, &err), &err);
    m.tensors[m.n] = m.tensors[0];
    m.tensors[m.n].name = "lm_head.weight";
    m.tensors[m.n].data = memcpy(calloc(1, m.tensors[0].bytes), m.tensors[0].data, m.tensors[0].bytes);
    ((float *)m.tensors[m.n].data)[39] += 1;
    write_weights(dir, "model.safetensors", m.tensors, m.n + 1, "");
    CHECK_ERR(open_and_check(dir, &err), &err, ERR_INPUT, "tied head");
    free((void *)m.tensors[m.n].data);
    CHECK_OK(file_remove_tree(dir, &err), &err);
    free_model(&m);
}

TEST(one_parameter_under_two_names_is_refused)
{
    struct err err = { 0 };
    struct stored_tensor two[2];
    struct model m;
    char dir[64];

    make_model(&m, false);
    make_dir(dir);
    CHECK_OK(hf_config_save(&m.config, dir, F32, &err), &err);
    two[0] = two[1] = m.tensors[0];
    two[0].name = "model.decoder.embed_tokens.weight";
    two[1].name = "rwtransformer.decoder.embed_tokens.weight";
    write_weights(dir, "model.safetensors", two, 2, "");
    CHECK_ERR(open_and_check(dir, &err), &err, ERR_INPUT, "same parameter");
    CHECK_OK(file_remove_tree(dir, &err), &err);
    free_model(&m);
}

TEST(an_index_must_tell_the_truth)
{
    static const struct {
        const char *map, *says;
    } cases[] = {
        { "{\"weight_map\":{}}", "missing or empty" },
        { "[]", "missing or empty" },
        { "{\"weight_map\":{\"x\":\"../a.safetensors\"}}", "beside the index" },
        { "{\"weight_map\":{\"x\":\"/etc/passwd\"}}", "beside the index" },
        { "{\"weight_map\":{\"x\":\"..\"}}", "beside the index" },
        { "{\"weight_map\":{\"x\":\"\"}}", "beside the index" },
        { "{\"weight_map\":{\"x\":7}}", "beside the index" },
        { "{\"weight_map\":{\"x\":\"none.safetensors\"}}", "could not open" },
        { "{\"weight_map\":{\"embed_tokens.weight\":\"a.safetensors\"}}", "says nothing of it" },
        { "{\"weight_map\":{\"embed_tokens.weight\":\"b.safetensors\",\"embed_positions.weight\":\"a.safetensors\"}}",
          "is in \"" },
        { "{\"weight_map\":{\"embed_tokens.weight\":\"a.safetensors\",\"embed_positions.weight\":\"a.safetensors\","
          "\"y\":\"a.safetensors\"}}",
          "\"y\" is not in \"a.safetensors\"" },
        { "{\"weight_map\":{\"embed_tokens.weight\":\"a.safetensors\",\"embed_positions.weight\":\"a.safetensors\","
          "\"project_out.weight\":\"b.safetensors\"}}",
          "\"embed_tokens.weight\" is in \"b.safetensors\"" },
    };
    struct err err = { 0 };
    struct model m;
    char dir[64];

    make_model(&m, false);
    make_dir(dir);
    CHECK_OK(hf_config_save(&m.config, dir, F32, &err), &err);
    write_weights(dir, "a.safetensors", m.tensors, 2, "");
    const struct stored_tensor again[2] = { m.tensors[0], m.tensors[2] };
    write_weights(dir, "b.safetensors", again, 2, "");
    for (int i = 0; i < COUNT_OF(cases); i++) {
        write_text(dir, "model.safetensors.index.json", cases[i].map);
        CHECK_ERR(open_and_check(dir, &err), &err, ERR_INPUT, cases[i].says);
    }
    CHECK_OK(file_remove_tree(dir, &err), &err);
    free_model(&m);
}

TEST(failing_allocations_leave_nothing)
{
    const size_t live = mem_live_bytes(MEM_STORE);
    struct err err = { 0 };
    struct model m;
    char dir[64];
    int n = 1;

    make_model(&m, false);
    make_dir(dir);
    CHECK_OK(model_dir_save(dir, &m.config, m.tensors, m.n, false, &err), &err);
    for (;; n++) {
        err = (struct err){ 0 };
        mem_fail_at(n);
        const int result = open_and_check(dir, &err);
        mem_fail_at(0);
        CHECK_EQ(mem_live_bytes(MEM_STORE), live);
        if (result == 0)
            break;
        CHECK_EQ(err.code, ERR_MEMORY);
    }
    CHECK(n > 5);
    CHECK_OK(file_remove_tree(dir, &err), &err);
    free_model(&m);
}

/* The loaded values of two folders are the same within a tolerance. */
static void compare(const char *golden, const char *a, const char *b, double tolerance)
{
    struct err err = { 0 };
    struct model_dir x, y;
    char path[FILE_PATH_MAX];

    snprintf(path, sizeof path, "%s/%s", golden, a);
    if (model_dir_open(&x, path, &err) != 0 || model_dir_check(&x, &err) != 0)
        fail_msg("%s: %s", a, err.what);
    snprintf(path, sizeof path, "%s/%s", golden, b);
    if (model_dir_open(&y, path, &err) != 0 || model_dir_check(&y, &err) != 0)
        fail_msg("%s: %s", b, err.what);
    for (int i = 0; i < x.n_tensors; i++) {
        const int64_t count = shape_count(&x.tensors[i].stored->shape);
        float *p = malloc((size_t)count * 4), *q = malloc((size_t)count * 4);

        assert_int_equal(model_dir_read(&x, x.tensors[i].canonical, p, F32, count, false, &err), 0);
        if (strcmp(x.tensors[i].canonical, "lm_head.weight") != 0) {
            assert_int_equal(model_dir_read(&y, x.tensors[i].canonical, q, F32, count, false, &err), 0);
            for (int64_t k = 0; k < count; k++)
                if (!(fabs((double)p[k] - (double)q[k]) <= tolerance * (1e-3 + fabs((double)q[k]))))
                    fail_msg("%s of %s: %g is not %g", x.tensors[i].canonical, a, (double)p[k], (double)q[k]);
        }
        free(p);
        free(q);
    }
    model_dir_close(&x);
    model_dir_close(&y);
}

TEST(every_form_of_the_golden_models_is_read)
{
    static const char *const names[] = { "post",        "pre",        "wide",        "post-reference", "pre-reference",
                                         "post-reward", "pre-reward", "post-critic", "pre-critic" };
    char golden[FILE_PATH_MAX], path[FILE_PATH_MAX + 64];
    struct err err = { 0 };

    if (!test_shared())
        skip();
    snprintf(golden, sizeof golden, "%s/golden/models", test_shared());
    for (int i = 0; i < COUNT_OF(names); i++) {
        struct model_dir m;
        snprintf(path, sizeof path, "%s/%s", golden, names[i]);
        CHECK_OK(model_dir_open(&m, path, &err), &err);
        CHECK_OK(model_dir_check(&m, &err), &err);
        CHECK_EQ(m.is_reward, i >= 5);
        model_dir_close(&m);
    }
    compare(golden, "variants/sharded-headless-names", "pre", 0);
    compare(golden, "variants/safetensors-bfloat16-lm_head", "pre", 0.0045);
    compare(golden, "variants/bin-float16", "pre", 0.0006);
    compare(golden, "variants/reward-bin-old-prefix", "post-reward", 0.0006);
}

TEST_MAIN(CASE(names_come_in_registration_order), CASE(what_is_saved_is_read_again), CASE(tensors_lie_in_mapped_files),
          CASE(missing_tensors_are_all_named), CASE(shapes_types_and_values_are_checked),
          CASE(a_head_must_be_the_embedding), CASE(one_parameter_under_two_names_is_refused),
          CASE(an_index_must_tell_the_truth), CASE(failing_allocations_leave_nothing),
          CASE(every_form_of_the_golden_models_is_read))
