/* Archives made with libzip around hand-written pickles: sizes, compression, storages and strides. */
#include "store/torch_bin.h"

#include <zip.h>

#include "base/mem.h"
#include "test.h"

#define TEXT(length, s) "X" length "\0\0\0" s
#define STORAGE(type, key, count)                                                                                      \
    "(" TEXT("\7", "storage") "ctorch\n" type "\n" TEXT("\1", key) TEXT("\3", "cpu") count "tQ"
#define TENSOR(type, count, offset, shape, strides)                                                                    \
    "ctorch._utils\n_rebuild_tensor_v2\n(" STORAGE(type, "0", count) offset shape strides                              \
        "\x89"                                                                                                         \
        "ccollections\nOrderedDict\n)RtR"
#define ONE(tensor) "\x80\x02}" TEXT("\1", "a") tensor "s."
#define GOOD ONE(TENSOR("FloatStorage", "K\6", "K\0", "K\2K\3\x86", "K\3K\1\x86"))

struct entry {
    const char *name;
    const void *data;
    size_t n;
    int method; /* ZIP_CM_STORE unless told */
};

static const float six[6] = { 1, 2, 3, 4, 5, 6 };

/* The archive's bytes, to be freed by free. */
static unsigned char *make_zip(const struct entry *entries, int n_entries, size_t *n)
{
    zip_error_t e;
    zip_source_t *source = zip_source_buffer_create(NULL, 0, 0, &e);
    zip_t *z = zip_open_from_source(source, ZIP_TRUNCATE, &e);
    zip_stat_t st;

    assert_non_null(z);
    zip_source_keep(source);
    for (int i = 0; i < n_entries; i++) {
        const zip_int64_t at =
            zip_file_add(z, entries[i].name, zip_source_buffer(z, entries[i].data, entries[i].n, 0), 0);
        assert_true(at >= 0);
        zip_set_file_compression(z, (zip_uint64_t)at, entries[i].method ? entries[i].method : ZIP_CM_STORE, 0);
    }
    assert_int_equal(zip_close(z), 0);
    zip_source_open(source);
    zip_source_stat(source, &st);
    unsigned char *data = malloc(st.size);
    assert_int_equal(zip_source_read(source, data, st.size), st.size);
    zip_source_close(source);
    zip_source_free(source);
    *n = st.size;
    return data;
}

static int parse(const struct entry *entries, int n_entries, struct torch_bin *b, struct err *err)
{
    size_t n;
    unsigned char *data = make_zip(entries, n_entries, &n);
    const int result = torch_bin_parse(b, data, n, "made.bin", err);

    free(data);
    return result;
}

#define PICKLE(text)                                                                                                   \
    {                                                                                                                  \
        "m/data.pkl", text, sizeof(text) - 1, 0                                                                        \
    }
#define SIX                                                                                                            \
    {                                                                                                                  \
        "m/data/0", six, sizeof six, 0                                                                                 \
    }

TEST(reads_tensors_and_shared_storages)
{
    const struct entry entries[] = {
        PICKLE("\x80\x02}(" TEXT("\1", "a") TENSOR("FloatStorage", "K\6", "K\0", "K\2K\3\x86", "K\3K\1\x86")
                   TEXT("\1", "b") TENSOR("FloatStorage", "K\6", "K\4", "K\1K\2\x86", "K\x63K\1\x86") "u."),
        SIX,
        { "m/byteorder", "little", 6, 0 },
    };
    struct err err = { 0 };
    struct torch_bin b;

    CHECK_OK(parse(entries, COUNT_OF(entries), &b, &err), &err);
    CHECK_EQ(b.n_tensors, 2);
    CHECK_EQ(b.n_storages, 1);
    CHECK_STR(b.tensors[0].name, "a");
    CHECK(memcmp(b.tensors[0].data, six, sizeof six) == 0);
    CHECK_NEAR(((const float *)b.tensors[1].data)[1], 6, 0);
    CHECK_EQ(b.tensors[1].bytes, 8);
    torch_bin_close(&b);
    torch_bin_close(&b);
}

TEST(refuses_archives_that_lie)
{
    static const struct {
        struct entry entries[3];
        const char *says;
    } cases[] = {
        { { { "m/other", "x", 1, 0 } }, "no data.pkl" },
        { { PICKLE(GOOD) }, "no entry in the archive" },
        { { PICKLE(GOOD), { "data/0", six, sizeof six, 0 } }, "no entry in the archive" },
        { { PICKLE(GOOD), { "n/data.pkl", GOOD, sizeof GOOD - 1, 0 }, SIX }, "two pickles" },
        { { PICKLE(GOOD), { "m/data/0", six, sizeof six, ZIP_CM_DEFLATE } }, "compressed" },
        { { { "m/data.pkl", GOOD, sizeof GOOD - 1, ZIP_CM_DEFLATE }, SIX }, "compressed" },
        { { PICKLE(GOOD), { "m/data/0", six, sizeof six - 1, 0 } }, "23 bytes, expected are 24" },
        { { PICKLE(GOOD), SIX, { "m/byteorder", "big", 3, 0 } }, "little endian" },
        { { PICKLE(ONE(TENSOR("FloatStorage", "K\6", "K\1", "K\2K\3\x86", "K\3K\1\x86"))), SIX },
          "beyond its storage" },
        { { PICKLE(ONE(TENSOR("FloatStorage", "K\6", "K\7", "K\0\x85", "K\1\x85"))), SIX }, "beyond its storage" },
        { { PICKLE(ONE(TENSOR("FloatStorage", "K\6", "K\0", "K\3K\2\x86", "K\1K\3\x86"))), SIX }, "not contiguous" },
        { { PICKLE(ONE(TENSOR("FloatStorage", "K\6", "K\0", "K\2K\3\x86", "K\0K\0\x86"))), SIX }, "not contiguous" },
        { { PICKLE(ONE(TENSOR("FloatStorage", "K\6", "K\0", "\x8a\x08\0\0\0\0\0\0\0\x40\x8a\x08\0\0\0\0\0\0\0\x40\x86",
                              "K\1K\1\x86"))),
            SIX },
          "overflow" },
        { { PICKLE(ONE(TENSOR("DoubleStorage", "\x8a\x08\0\0\0\0\0\0\0\x40", "K\0", "K\1\x85", "K\1\x85"))), SIX },
          "larger than memory" },
        { { PICKLE("\x80\x02"
                   "cposix\nsystem\n."),
            SIX },
          "posix.system" },
    };

    for (int i = 0; i < COUNT_OF(cases); i++) {
        struct err err = { 0 };
        struct torch_bin b;
        int n = 0;
        while (n < 3 && cases[i].entries[n].name)
            n++;
        CHECK_ERR(parse(cases[i].entries, n, &b, &err), &err, ERR_INPUT, cases[i].says);
        CHECK(!b.tensors && !b.storages && !b.names);
    }
}

TEST(refuses_what_is_no_archive)
{
    static const unsigned char old[] = "\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19.";
    struct err err = { 0 };
    struct torch_bin b;

    CHECK_ERR(torch_bin_parse(&b, old, sizeof old, "x", &err), &err, ERR_INPUT, "before version 1.6");
    CHECK_ERR(torch_bin_parse(&b, old, 0, "x", &err), &err, ERR_INPUT, "not a zip archive");
    CHECK_ERR(torch_bin_parse(&b, (const unsigned char *)"PK\3\4 and so on", 14, "x", &err), &err, ERR_INPUT, "zip");
}

TEST(damage_anywhere_never_crashes_and_is_seen_in_the_data)
{
    const struct entry entries[] = { PICKLE(GOOD), SIX };
    size_t n;
    unsigned char *data = make_zip(entries, 2, &n);
    int read = 0;

    for (size_t i = 0; i < n; i++) {
        struct err err = { 0 };
        struct torch_bin b;

        data[i] ^= 0x41;
        if (torch_bin_parse(&b, data, n, "x", &err) == 0) {
            CHECK(memcmp(b.tensors[0].data, six, sizeof six) == 0); /* the checksum guards the data */
            read++;
        }
        torch_bin_close(&b);
        data[i] ^= 0x41;
        CHECK(torch_bin_parse(&b, data, i, "x", &err) < 0);
    }
    CHECK(read < (int)n / 2);
    free(data);
}

TEST(failing_allocations_leave_nothing)
{
    const struct entry entries[] = { PICKLE(GOOD), SIX, { "m/byteorder", "little", 6, 0 } };
    const size_t live = mem_live_bytes(MEM_STORE);
    int n = 1;

    for (;; n++) {
        struct err err = { 0 };
        struct torch_bin b;

        mem_fail_at(n);
        const int result = parse(entries, 3, &b, &err);
        mem_fail_at(0);
        torch_bin_close(&b);
        CHECK_EQ(mem_live_bytes(MEM_STORE), live);
        if (result == 0)
            break;
        CHECK_EQ(err.code, ERR_MEMORY);
    }
    CHECK(n > 8);
}

TEST_MAIN(CASE(reads_tensors_and_shared_storages), CASE(refuses_archives_that_lie), CASE(refuses_what_is_no_archive),
          CASE(damage_anywhere_never_crashes_and_is_seen_in_the_data), CASE(failing_allocations_leave_nothing))
