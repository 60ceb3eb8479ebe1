/* Every rule of the format with a file made by hand that breaks it, round trips, and failing allocations. */
#include "store/safetensors.h"

#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

#include "base/mem.h"
#include "test.h"

struct bytes {
    unsigned char data[4096];
    size_t n;
};

/* A file with this header and n bytes of data. */
static struct bytes file_of(const char *header, size_t n_data)
{
    struct bytes b = { .n = 8 + strlen(header) + n_data };

    for (int i = 0; i < 8; i++)
        b.data[i] = (unsigned char)(strlen(header) >> (8 * i));
    memcpy(b.data + 8, header, strlen(header));
    for (size_t i = 0; i < n_data; i++)
        b.data[8 + strlen(header) + i] = (unsigned char)i;
    return b;
}

static int parse(const struct bytes *b, struct safetensors *s, struct err *err)
{
    unsigned char *exact = malloc(b->n ? b->n : 1); /* its end is watched by the address sanitizer */

    memcpy(exact, b->data, b->n);
    const int result = safetensors_parse(s, exact, b->n, "made.safetensors", err);
    free(exact);
    return result;
}

TEST(reads_tensors_in_order_of_data)
{
    struct err err = { 0 };
    struct safetensors s;
    struct bytes b = file_of("{\"__metadata__\":{\"format\":\"pt\"},\"b\":{\"dtype\":\"F16\",\"shape\":[2,1],\"data_"
                             "offsets\":[4,8]},\"e\":{\"dtype\":\"F32\",\"shape\":[0,7],\"data_offsets\":[4,4]},\"a\":"
                             "{\"dtype\":\"F32\",\"shape\":[],\"data_offsets\":[0,4]},\"i\":{\"dtype\":\"I64\","
                             "\"shape\":[1],\"data_offsets\":[8,16]}}   ",
                             16);

    CHECK_OK(safetensors_parse(&s, b.data, b.n, "made", &err), &err);
    CHECK_EQ(s.n_tensors, 4);
    CHECK_STR(s.tensors[0].name, "a");
    CHECK_EQ(s.tensors[0].shape.rank, 0);
    CHECK_STR(s.tensors[1].name, "e");
    CHECK_EQ(s.tensors[1].bytes, 0);
    CHECK_EQ(s.tensors[2].dtype, F16);
    CHECK_EQ(*(const unsigned char *)s.tensors[2].data, 4);
    CHECK_STR(s.tensors[3].unsupported, "I64");
    CHECK(safetensors_find(&s, "b") == &s.tensors[2]);
    CHECK(!safetensors_find(&s, "c"));
    safetensors_close(&s);
    safetensors_close(&s);
}

#define ONE(rest) "{\"a\":{" rest "}}"
#define F32_2(offsets) "\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":" offsets

TEST(refuses_every_broken_rule)
{
    static const struct {
        const char *header;
        size_t n_data;
        const char *says;
    } cases[] = {
        { "[]", 0, "not a JSON object" },
        { " {}", 0, "not a JSON object" },
        { "{}\n", 0, "not a JSON object" },
        { "{\"a\":}", 0, "not valid JSON" },
        { "{\"\xff\":1}", 0, "not valid JSON" },
        { "{} {}", 0, "not valid JSON" },
        { "{\"a\":1}", 0, "not an object" },
        { "{\"__metadata__\":{\"n\":1}}", 0, "not a string" },
        { "{\"__metadata__\":[]}", 0, "not an object" },
        { "{\"a\":{" F32_2("[0,8]") "},\"a\":{" F32_2("[8,16]") "}}", 16, "duplicate" },
        { ONE("\"shape\":[2],\"data_offsets\":[0,8]"), 8, "dtype" },
        { ONE("\"dtype\":\"Q4\",\"shape\":[2],\"data_offsets\":[0,8]"), 8, "\"Q4\" is unknown" },
        { ONE("\"dtype\":\"F32\",\"data_offsets\":[0,8]"), 8, "shape is missing" },
        { ONE("\"dtype\":\"F32\",\"shape\":[-2],\"data_offsets\":[0,8]"), 8, "whole number" },
        { ONE("\"dtype\":\"F32\",\"shape\":[2.0],\"data_offsets\":[0,8]"), 8, "whole number" },
        { ONE("\"dtype\":\"F32\",\"shape\":[4294967296,4294967296,2],\"data_offsets\":[0,8]"), 8, "overflow" },
        { ONE("\"dtype\":\"F32\",\"shape\":[9223372036854775807],\"data_offsets\":[0,8]"), 8, "overflow" },
        { ONE("\"dtype\":\"F32\",\"shape\":[99999999999999999999],\"data_offsets\":[0,8]"), 8, "not valid JSON" },
        { ONE("\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]"), 8, "12 bytes" },
        { ONE(F32_2("[0]")), 8, "two whole numbers" },
        { ONE(F32_2("[8,0]")), 8, "inside" },
        { ONE(F32_2("[-8,0]")), 8, "inside" },
        { ONE(F32_2("[0,8]")), 7, "inside" },
        { ONE(F32_2("[0,8]")), 9, "the file at byte 9" },
        { ONE(F32_2("[8,16]")), 16, "hole" },
        { "{\"a\":{" F32_2("[0,8]") "},\"b\":{" F32_2("[4,12]") "}}", 12, "overlaps" },
        { "{\"a\":{" F32_2("[0,8]") "},\"b\":{" F32_2("[9,17]") "}}", 17, "hole" },
        { "{}", 3, "end at byte 0" },
    };

    for (int i = 0; i < COUNT_OF(cases); i++) {
        struct err err = { 0 };
        struct safetensors s;
        const struct bytes b = file_of(cases[i].header, cases[i].n_data);
        CHECK_ERR(parse(&b, &s, &err), &err, ERR_INPUT, cases[i].says);
        CHECK(!s.tensors && !s.names);
    }
}

TEST(refuses_lengths_that_lie_and_every_cut)
{
    struct err err = { 0 };
    struct safetensors s;
    struct bytes b = file_of(ONE(F32_2("[0,8]")), 8);

    for (size_t n = 0; n < b.n; n++) {
        struct bytes cut = b;
        cut.n = n;
        CHECK(parse(&cut, &s, &err) < 0);
    }
    b.data[7] = 0x80;
    CHECK_ERR(parse(&b, &s, &err), &err, ERR_INPUT, "length");
    memset(b.data, 0xff, 8);
    CHECK_ERR(parse(&b, &s, &err), &err, ERR_INPUT, "length");
    memset(b.data, 0, 8);
    CHECK_ERR(parse(&b, &s, &err), &err, ERR_INPUT, "length");
}

TEST(more_than_six_dimensions_can_be_in_a_file)
{
    struct err err = { 0 };
    struct safetensors s;
    struct bytes b = file_of(ONE("\"dtype\":\"F32\",\"shape\":[1,1,1,1,1,1,2],\"data_offsets\":[0,8]"), 8);

    CHECK_OK(safetensors_parse(&s, b.data, b.n, "made", &err), &err);
    CHECK_STR(s.tensors[0].unsupported, "more than 6 dimensions");
    safetensors_close(&s);
}

TEST(failing_allocations_leave_nothing)
{
    const struct bytes b = file_of("{\"a\":{" F32_2("[0,8]") "},\"b\":{" F32_2("[8,16]") "}}", 16);
    const size_t live = mem_live_bytes(MEM_STORE);
    int n = 1;

    for (;; n++) {
        struct err err = { 0 };
        struct safetensors s;

        mem_fail_at(n);
        const int result = parse(&b, &s, &err);
        mem_fail_at(0);
        if (result == 0) {
            safetensors_close(&s);
            break;
        }
        CHECK_EQ(err.code, ERR_MEMORY);
        CHECK_EQ(mem_live_bytes(MEM_STORE), live);
    }
    CHECK_EQ(n, 4);
    CHECK_EQ(mem_live_bytes(MEM_STORE), live);
}

static int count_up(void *context, int i, int64_t first, int64_t count, void *out, struct err *err)
{
    (void)err;
    *(int64_t *)context += count;
    for (int64_t k = 0; k < count; k++)
        ((float *)out)[k] = (float)(i * 100 + first + k);
    return 0;
}

TEST(what_is_saved_is_read_again)
{
    struct err err = { 0 };
    struct safetensors s;
    char dir[] = "/tmp/tuneup-store-XXXXXX", path[64];
    const float x[6] = { 1, -2, 3, 4, 5, 6.5f };
    const int32_t ids[3] = { 7, 8, 9 };
    int64_t produced = 0;
    const struct tensor_source source = { count_up, &produced };
    const int64_t big = (4 << 20) / 4 + 5; /* more than one piece */
    const struct stored_tensor tensors[] = {
        { .name = "x", .dtype = F32, .shape = shape_of(2, (int64_t)2, (int64_t)3), .data = x, .bytes = sizeof x },
        { .name = "sm\xc3\xb8rrebr\xc3\xb8\"d",
          .dtype = I32,
          .shape = shape_of(1, (int64_t)3),
          .data = ids,
          .bytes = sizeof ids },
        { .name = "made", .dtype = F32, .shape = shape_of(1, big), .bytes = (size_t)big * 4 },
        { .name = "empty", .dtype = BF16, .shape = shape_of(1, (int64_t)0) },
    };

    CHECK(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    CHECK_OK(safetensors_save_from(path, tensors, COUNT_OF(tensors), &source, &err), &err);
    CHECK_EQ(produced, big);
    CHECK_OK(safetensors_open(&s, path, &err), &err);
    CHECK_EQ(s.n_tensors, 4);
    CHECK_EQ((uintptr_t)s.tensors[0].data % 8, 0);
    CHECK(memcmp(safetensors_find(&s, "x")->data, x, sizeof x) == 0);
    CHECK(memcmp(safetensors_find(&s, "sm\xc3\xb8rrebr\xc3\xb8\"d")->data, ids, sizeof ids) == 0);
    CHECK_NEAR(((const float *)safetensors_find(&s, "made")->data)[big - 1], (double)(200 + big - 1), 0);
    safetensors_close(&s);
    CHECK_OK(file_remove_tree(dir, &err), &err);
}

TEST(a_failed_write_leaves_the_old_file)
{
    struct err err = { 0 };
    struct rlimit limit, before;
    struct safetensors s;
    char dir[] = "/tmp/tuneup-store-XXXXXX", path[64];
    static float x[65536];
    const float one = 1;
    struct stored_tensor t = { .name = "x", .dtype = F32, .data = &one, .bytes = 4 };

    CHECK(mkdtemp(dir));
    snprintf(path, sizeof path, "%s/model.safetensors", dir);
    CHECK_OK(safetensors_save(path, &t, 1, &err), &err);
    t = (struct stored_tensor){
        .name = "x", .dtype = F32, .shape = shape_of(1, (int64_t)65536), .data = x, .bytes = sizeof x
    };
    signal(SIGXFSZ, SIG_IGN);
    getrlimit(RLIMIT_FSIZE, &before);
    limit = before;
    limit.rlim_cur = 100000;
    setrlimit(RLIMIT_FSIZE, &limit);
    const int result = safetensors_save(path, &t, 1, &err);
    setrlimit(RLIMIT_FSIZE, &before);
    CHECK(result < 0);
    CHECK_EQ(err.code, ERR_SYSTEM);
    CHECK_OK(safetensors_open(&s, path, &err), &err);
    CHECK_EQ(s.tensors[0].bytes, 4);
    safetensors_close(&s);
    CHECK(unlink(path) == 0);
    CHECK(rmdir(dir) == 0); /* no temporary file is left in it */
}

TEST_MAIN(CASE(reads_tensors_in_order_of_data), CASE(refuses_every_broken_rule),
          CASE(refuses_lengths_that_lie_and_every_cut), CASE(more_than_six_dimensions_can_be_in_a_file),
          CASE(failing_allocations_leave_nothing), CASE(what_is_saved_is_read_again),
          CASE(a_failed_write_leaves_the_old_file))
