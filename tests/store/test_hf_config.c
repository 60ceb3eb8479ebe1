/* Published sizes against their parameter counts, every refused value, and that unknown keys survive. */
#include "store/hf_config.h"

#include <unistd.h>

#include "base/file.h"
#include "base/json.h"
#include "test.h"

TEST(sizes_have_the_published_parameter_counts)
{
    static const struct {
        const char *name;
        int64_t parameters;
    } sizes[] = {
        { "opt-125m", 125239296 },  { "opt-350m", 331196416 },  { "opt-1.3b", 1315758080 }, { "opt-2.7b", 2651596800 },
        { "opt-6.7b", 6658473984 }, { "opt-13b", 12853473280 }, { "opt-30b", 29974540288 }, { "opt-66b", 65719701504 },
    };
    struct err err = { 0 };
    struct hf_config c;

    for (int i = 0; i < COUNT_OF(sizes); i++) {
        CHECK_OK(hf_config_named(&c, sizes[i].name, &err), &err);
        CHECK_EQ(hf_config_parameters(&c), sizes[i].parameters);
        CHECK_STR(hf_config_size_name(&c), sizes[i].name);
        CHECK_EQ(hf_config_has_projection(&c), strcmp(sizes[i].name, "opt-350m") == 0);
        CHECK_EQ(hf_config_has_final_norm(&c), strcmp(sizes[i].name, "opt-350m") != 0);
        hf_config_free(&c);
    }
    CHECK_ERR(hf_config_named(&c, "opt-175b", &err), &err, ERR_USAGE, "opt-66b");
}

static int parse(struct hf_config *c, const char *text, struct err *err)
{
    json_t *raw = json_parse(text, strlen(text), "config.json", 1, err);

    return raw ? hf_config_parse(c, raw, "config.json", err) : -1;
}

#define SIZES(C, L, H, F, V, P)                                                                                        \
    "\"model_type\":\"opt\",\"hidden_size\":" C ",\"num_hidden_layers\":" L ",\"num_attention_heads\":" H              \
    ",\"ffn_dim\":" F ",\"vocab_size\":" V ",\"max_position_embeddings\":" P
#define GOOD SIZES("96", "2", "8", "64", "512", "64")

TEST(absent_keys_have_their_defaults)
{
    struct err err = { 0 };
    struct hf_config c;

    CHECK_OK(parse(&c, "{" GOOD ",\"dtype\":\"bfloat16\",\"pad_token_id\":null}", &err), &err);
    CHECK_EQ(c.word_embed_proj_dim, 96);
    CHECK(c.norm_before && !c.remove_final_norm && c.tied && c.bias);
    CHECK_EQ(c.pad_id, 1);
    CHECK_EQ(c.eos_id, 2);
    CHECK_NEAR(c.dropout, 0.1, 0);
    CHECK_STR(c.torch_dtype, "bfloat16");
    hf_config_free(&c);
    hf_config_free(&c);
}

TEST(refuses_what_cannot_be)
{
    static const struct {
        const char *text, *says;
    } cases[] = {
        { "[]", "not a JSON object" },
        { "{}", "supported is: opt" },
        { "{\"model_type\":\"llama\"}", "model_type is llama, supported is: opt" },
        { "{\"model_type\":7}", "model_type" },
        { "{\"model_type\":\"opt\"}", "hidden_size is missing" },
        { "{" SIZES("-1", "2", "8", "64", "512", "64") "}", "hidden_size is -1" },
        { "{" SIZES("0", "2", "8", "64", "512", "64") "}", "hidden_size is 0" },
        { "{" SIZES("96", "2", "9", "64", "512", "64") "}", "nearest number of heads that does is 8" },
        { "{" SIZES("96", "2", "0", "64", "512", "64") "}", "num_attention_heads is 0" },
        { "{" SIZES("96", "9223372036854775807", "8", "64", "512", "64") "}", "accepted value is 1000" },
        { "{" SIZES("96", "99999999999999999999", "8", "64", "512", "64") "}", "not valid JSON" },
        { "{" SIZES("\"96\"", "2", "8", "64", "512", "64") "}", "hidden_size" },
        { "{" SIZES("96", "2.5", "8", "64", "512", "64") "}", "num_hidden_layers" },
        { "{" SIZES("96", "2", "8", "64", "2", "64") "}", "bos_token_id is 2, but vocab_size is 2" },
        { "{" GOOD ",\"pad_token_id\":-1}", "nearest accepted value is 0" },
        { "{" GOOD ",\"eos_token_id\":[2]}", "eos_token_id" },
        { "{" GOOD ",\"dropout\":1}", "dropout is 1" },
        { "{" GOOD ",\"attention_dropout\":-0.5}", "attention_dropout" },
        { "{" GOOD ",\"layerdrop\":0.1}", "layerdrop is 0.1, only 0" },
        { "{" GOOD ",\"enable_bias\":false}", "enable_bias is false" },
        { "{" GOOD ",\"tie_word_embeddings\":false}", "tie_word_embeddings" },
        { "{" GOOD ",\"layer_norm_elementwise_affine\":false}", "layer_norm_elementwise_affine" },
        { "{" GOOD ",\"activation_function\":\"gelu\"}", "activation_function is gelu" },
        { "{" GOOD ",\"do_layer_norm_before\":1}", "do_layer_norm_before" },
        { "{" GOOD ",\"vocab_size\":3}", "duplicate" },
    };

    for (int i = 0; i < COUNT_OF(cases); i++) {
        struct err err = { 0 };
        struct hf_config c;
        CHECK_ERR(parse(&c, cases[i].text, &err), &err, ERR_INPUT, cases[i].says);
        CHECK(!c.raw);
    }
}

TEST(unknown_keys_survive_saving)
{
    struct err err = { 0 };
    struct hf_config c, again;
    char dir[] = "/tmp/tuneup-config-XXXXXX";

    CHECK(mkdtemp(dir));
    CHECK_ERR(hf_config_load(&c, dir, &err), &err, ERR_INPUT, "no config.json");
    CHECK_OK(parse(&c, "{" GOOD ",\"mine\":{\"kept\":[1,2]},\"torch_dtype\":\"float16\"}", &err), &err);
    c.vocab_size = 520;
    c.dropout = 0;
    CHECK_OK(hf_config_save(&c, dir, F32, &err), &err);
    CHECK_OK(hf_config_load(&again, dir, &err), &err);
    CHECK_EQ(again.vocab_size, 520);
    CHECK_NEAR(again.dropout, 0, 0);
    CHECK_STR(again.torch_dtype, "float32");
    CHECK(json_equal(json_object_get(again.raw, "mine"), json_object_get(c.raw, "mine")));
    hf_config_free(&again);
    hf_config_free(&c);
    CHECK_OK(file_remove_tree(dir, &err), &err);
}

TEST_MAIN(CASE(sizes_have_the_published_parameter_counts), CASE(absent_keys_have_their_defaults),
          CASE(refuses_what_cannot_be), CASE(unknown_keys_survive_saving))
