/* Machine profiles: the published table, and files that may be anything. */
#include "plan/profile.h"

#include <math.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "test.h"

TEST(every_machine_is_whole_and_says_where_from)
{
    struct err err = { 0 };
    int n = 0;

    for (const struct profile *p = profile_machines; p->name[0]; p++, n++) {
        CHECK_OK(profile_check(p, p->name, &err), &err);
        CHECK(p->describe[0] != '\0');
        CHECK(profile_find(p->name) == p); /* names are unique */
        CHECK(p->figures[PROFILE_BF16_FLOPS].value > p->figures[PROFILE_FP32_FLOPS].value);
        CHECK(p->figures[PROFILE_MATMUL_EFFICIENCY].value < 1);
    }
    CHECK(n >= 9);
    CHECK(profile_find("") == NULL && profile_find("abacus") == NULL);
}

static void file_name(char out[64])
{
    snprintf(out, 64, "/tmp/tuneup_profile_%d.json", (int)getpid());
}

/* A whole profile with two samples, as JSON. */
static json_t *whole(void)
{
    struct profile p = profile_machines[0];
    struct profile_sample samples[] = { { OP_LINEAR, PROFILE_BF16, 1, 1e9, 1e6, 1e-3, 0 },
                                        { OP_ADD, PROFILE_FP32, 2, 0, 1e6, 1e-4, 3 } };
    struct err err = { 0 };
    char path[64];
    void **test_state = NULL;

    file_name(path);
    p.samples = samples;
    p.n_samples = 2;
    p.threads = 6;
    snprintf(p.cpu, sizeof p.cpu, "A processor");
    CHECK_OK(profile_save(&p, path, &err), &err);
    json_t *json = json_read(path, 1 << 20, &err);
    CHECK(json != NULL);
    return json;
}

static int load_text(const char *text, struct err *err)
{
    struct profile p;
    char path[64];

    file_name(path);
    FILE *f = fopen(path, "w");
    fputs(text, f);
    fclose(f);
    const int result = profile_load(&p, path, err);
    if (result != 0 && p.n_samples != 0)
        fail_msg("not empty after an error");
    profile_free(&p);
    unlink(path);
    return result;
}

/* Takes the reference. */
static int load_json(json_t *json, struct err *err)
{
    char *text = json_dumps(json, 0);
    const int result = load_text(text, err);

    free(text);
    json_decref(json);
    return result;
}

TEST(what_is_saved_is_loaded)
{
    struct err err = { 0 };
    struct profile p;
    char path[64];

    json_decref(whole());
    file_name(path);
    CHECK_OK(profile_load(&p, path, &err), &err);
    CHECK_STR(p.name, profile_machines[0].name);
    CHECK_STR(p.cpu, "A processor");
    CHECK_EQ(p.n_samples, 2);
    CHECK_EQ(p.samples[0].op, OP_LINEAR);
    CHECK_EQ(p.samples[1].ranks, 2);
    CHECK_EQ(p.samples[1].threads, 3);
    CHECK_EQ(p.threads, 6);
    for (int i = 0; i < PROFILE_FIGURES; i++)
        CHECK(p.figures[i].value == profile_machines[0].figures[i].value);
    profile_free(&p);
    profile_free(&p); /* twice is fine */
    unlink(path);
}

static json_t *with_figure(const char *name, json_t *figure)
{
    json_t *json = whole();

    if (figure)
        json_object_set_new(json_object_get(json, "figures"), name, figure);
    else
        json_object_del(json_object_get(json, "figures"), name);
    return json;
}

TEST(every_figure_is_needed)
{
    struct err err;

    for (int i = 0; i < PROFILE_FIGURES; i++) {
        const char *name = profile_figure_name((enum profile_figure)i);
        CHECK_ERR(load_json(with_figure(name, NULL), &err), &err, ERR_INPUT, name);
        CHECK_ERR(load_json(with_figure(name, json_pack("{s:f, s:s}", "value", -1.0, "source", "x")), &err), &err,
                  ERR_INPUT, "");
        CHECK_ERR(load_json(with_figure(name, json_pack("{s:s, s:s}", "value", "much", "source", "x")), &err), &err,
                  ERR_INPUT, "");
        CHECK_ERR(load_json(with_figure(name, json_pack("{s:n, s:s}", "value", "source", "x")), &err), &err, ERR_INPUT,
                  name);
        CHECK_ERR(load_json(with_figure(name, json_pack("{s:f, s:s}", "value", 1e300, "source", "x")), &err), &err,
                  ERR_INPUT, "");
    }
    CHECK_ERR(load_json(with_figure("memory_bytes", json_pack("{s:f, s:s}", "value", 1e9, "source", "")), &err), &err,
              ERR_INPUT, "where it is from");
    char text[400] = "";
    memset(text, 'x', sizeof text - 1);
    CHECK_ERR(load_json(with_figure("memory_bytes", json_pack("{s:f, s:s}", "value", 1e9, "source", text)), &err), &err,
              ERR_INPUT, "too long");
}

static json_t *with(const char *key, json_t *value)
{
    json_t *json = whole();

    json_object_set_new(json, key, value);
    return json;
}

static json_t *with_sample(const char *key, json_t *value)
{
    json_t *json = whole();

    json_object_set_new(json_array_get(json_object_get(json, "samples"), 1), key, value);
    return json;
}

TEST(hostile_files_are_refused)
{
    struct err err;

    CHECK_ERR(load_text("", &err), &err, ERR_INPUT, "");
    CHECK_ERR(load_text("[]", &err), &err, ERR_INPUT, "format");
    CHECK_ERR(load_text("{}", &err), &err, ERR_INPUT, "format");
    CHECK_ERR(load_text("{\"format\": \"tuneup profile\", \"version\": NaN}", &err), &err, ERR_INPUT, "");
    CHECK_ERR(load_json(with("format", json_string("another")), &err), &err, ERR_INPUT, "format");
    CHECK_ERR(load_json(with("version", json_integer(99)), &err), &err, ERR_INPUT, "version");
    CHECK_ERR(load_json(with("figures", json_array()), &err), &err, ERR_INPUT, "");
    CHECK_ERR(load_json(with("samples", json_object()), &err), &err, ERR_INPUT, "samples");
    CHECK_ERR(load_json(with("ranks_share", json_string("yes")), &err), &err, ERR_INPUT, "ranks_share");
    CHECK_ERR(load_json(with("machine", json_pack("{s:s, s:i}", "cpu", "x", "cpus", -1)), &err), &err, ERR_INPUT,
              "cpus");
    CHECK_ERR(load_json(with_sample("op", json_string("teleport")), &err), &err, ERR_INPUT, "samples");
    CHECK_ERR(load_json(with_sample("op", json_integer(1)), &err), &err, ERR_INPUT, "samples");
    CHECK_ERR(load_json(with_sample("type", json_string("fp7")), &err), &err, ERR_INPUT, "samples");
    CHECK_ERR(load_json(with_sample("seconds", json_real(-1)), &err), &err, ERR_INPUT, "seconds");
    CHECK_ERR(load_json(with_sample("seconds", json_null()), &err), &err, ERR_INPUT, "samples");
    CHECK_ERR(load_json(with_sample("bytes", json_real(0)), &err), &err, ERR_INPUT, "bytes");
    CHECK_ERR(load_json(with_sample("flops", json_real(1e30)), &err), &err, ERR_INPUT, "flops");
    CHECK_ERR(load_json(with_sample("ranks", json_integer(0)), &err), &err, ERR_INPUT, "ranks");
    json_t *many = json_array();
    for (int i = 0; i <= PROFILE_MAX_SAMPLES; i++)
        json_array_append_new(many, json_object());
    CHECK_ERR(load_json(with("samples", many), &err), &err, ERR_INPUT, "samples");
    char folder[] = "/tmp";
    struct profile p;
    CHECK_ERR(profile_load(&p, folder, &err), &err, ERR_INPUT, "");
}

TEST(no_memory_is_an_error)
{
    struct err err;
    struct profile p;
    char path[64];
    int failures = 0;

    json_decref(whole());
    file_name(path);
    for (int64_t n = 1; n < 100; n++) {
        mem_fail_at(n);
        const int result = profile_load(&p, path, &err);
        mem_fail_at(0);
        if (result == 0)
            break;
        failures++;
        CHECK(p.samples == NULL);
    }
    CHECK(failures > 0);
    profile_free(&p);
    unlink(path);
}

TEST_MAIN(CASE(every_machine_is_whole_and_says_where_from), CASE(what_is_saved_is_loaded), CASE(every_figure_is_needed),
          CASE(hostile_files_are_refused), CASE(no_memory_is_an_error))
