/* An adapter's folder: what is written is read under the same names, PEFT's forms of names, and what is refused. */
#include "store/adapter_dir.h"

#include "base/file.h"
#include "base/mem.h"
#include "test.h"

static const float numbers[12] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12 };

static struct stored_tensor tensor(const char *name, int64_t rows, int64_t columns)
{
    return (struct stored_tensor){ .name = name,
                                   .dtype = F32,
                                   .shape = columns ? shape_of(2, rows, columns) : shape_of(1, rows),
                                   .data = numbers,
                                   .bytes = (size_t)(rows * (columns ? columns : 1)) * sizeof(float) };
}

static bool fc1(const void *context, const char *layer)
{
    (void)context;
    return strcmp(layer, "layers.0.fc1") == 0;
}

static void make_dir(char dir[64])
{
    snprintf(dir, 64, "/tmp/test_adapter_XXXXXX");
    assert_non_null(mkdtemp(dir));
}

static void save(void **test_state, const char *dir, bool reward)
{
    const struct stored_tensor tensors[] = {
        tensor("layers.0.fc1.lora_A.weight", 2, 3), tensor("layers.0.fc1.lora_B.weight", 4, 2),
        tensor("layers.0.fc1.bias", 4, 0), tensor("layers.0.final_layer_norm.bias", 3, 0), tensor("v_head.weight", 1, 3)
    };
    json_t *config = json_pack("{s:s}", "peft_type", "LORA");
    struct err err = { 0 };

    CHECK_OK(adapter_dir_save(dir, config, tensors, reward ? 5 : 4, reward, fc1, NULL, NULL, &err), &err);
    json_decref(config);
}

static bool has_stored(const struct model_dir *m, const char *canonical, const char *name)
{
    const struct stored_tensor *t = model_dir_find(m, canonical);

    return t && strcmp(t->name, name) == 0;
}

TEST(what_is_written_is_read)
{
    struct err err = { 0 };
    char dir[64];

    for (int reward = 0; reward < 2; reward++) {
        struct model_dir m;
        float out[8];
        make_dir(dir);
        save(test_state, dir, reward);
        CHECK_OK(adapter_dir_open(&m, dir, &err), &err);
        CHECK_EQ(m.is_reward, reward);
        CHECK_EQ(m.n_tensors, 4 + reward);
        CHECK(has_stored(&m, "layers.0.fc1.lora_A.weight",
                         reward ? "base_model.model.rwtransformer.decoder.layers.0.fc1.lora_A.weight"
                                : "base_model.model.model.decoder.layers.0.fc1.lora_A.weight"));
        CHECK(reward ||
              has_stored(&m, "layers.0.fc1.bias", "base_model.model.model.decoder.layers.0.fc1.base_layer.bias"));
        CHECK(reward || has_stored(&m, "layers.0.final_layer_norm.bias",
                                   "base_model.model.model.decoder.layers.0.final_layer_norm.bias"));
        CHECK_EQ(has_stored(&m, "v_head.weight", "base_model.model.v_head.weight"), reward);
        CHECK_OK(model_dir_read(&m, "layers.0.fc1.lora_B.weight", out, F32, 8, false, &err), &err);
        CHECK(memcmp(out, numbers, sizeof out) == 0);
        model_dir_close(&m);
        model_dir_close(&m);
        CHECK_OK(file_remove_tree(dir, &err), &err);
    }
}

TEST(names_of_another_form_are_refused)
{
    static const struct {
        const char *names[2], *says;
    } cases[] = {
        { { "layers.0.fc1.lora_A.weight" }, "not of an adapter's form" },
        { { "base_model.model.layers.0.fc1.lora_A.weight" }, "not of an adapter's form" },
        { { "model.decoder.layers.0.fc1.lora_A.weight" }, "not of an adapter's form" },
        { { "base_model.model.model.decoder.layers.0.fc1.bias",
            "base_model.model.model.decoder.layers.0.fc1.base_layer.bias" },
          "not of an adapter's form" },
        { { "base_model.model.model.decoder."
            "a_name_that_goes_on_and_on_and_on_and_on_and_on_and_on_and_on_and_on_and_on_and_on_and_on_and_on_and_on_"
            "and_"
            "on_and_on_and_on_and_on" },
          "not of an adapter's form" },
    };

    for (int i = 0; i < COUNT_OF(cases); i++) {
        const int n = cases[i].names[1] ? 2 : 1;
        const struct stored_tensor tensors[] = { tensor(cases[i].names[0], 2, 2), tensor(cases[i].names[n - 1], 2, 2) };
        struct err err = { 0 };
        struct model_dir m;
        char dir[64], path[FILE_PATH_MAX];
        make_dir(dir);
        CHECK_OK(file_join(path, dir, "adapter_model.safetensors", &err), &err);
        CHECK_OK(safetensors_save(path, tensors, n, &err), &err);
        CHECK_ERR(adapter_dir_open(&m, dir, &err), &err, ERR_INPUT, cases[i].says);
        CHECK(m.files == NULL);
        CHECK_OK(file_remove_tree(dir, &err), &err);
    }
}

TEST(a_folder_without_one_is_told)
{
    struct err err = { 0 };
    struct model_dir m;

    CHECK_ERR(adapter_dir_open(&m, "/tmp", &err), &err, ERR_INPUT, "there is no adapter_model.safetensors");
}

TEST(failing_allocations_leave_nothing)
{
    const size_t live = mem_live_bytes(MEM_STORE);
    struct err err = { 0 };
    struct model_dir m;
    char dir[64];
    int n = 1;

    make_dir(dir);
    save(test_state, dir, true);
    for (;; n++) {
        err = (struct err){ 0 };
        mem_fail_at(n);
        const int result = adapter_dir_open(&m, dir, &err);
        mem_fail_at(0);
        if (result == 0)
            break;
        CHECK_EQ(mem_live_bytes(MEM_STORE), live);
        CHECK_EQ(err.code, ERR_MEMORY);
    }
    CHECK(n > 4);
    model_dir_close(&m);
    CHECK_EQ(mem_live_bytes(MEM_STORE), live);
    CHECK_OK(file_remove_tree(dir, &err), &err);
}

TEST_MAIN(CASE(what_is_written_is_read), CASE(names_of_another_form_are_refused), CASE(a_folder_without_one_is_told),
          CASE(failing_allocations_leave_nothing))
