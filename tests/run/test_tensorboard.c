/* Event files byte by byte: lengths, masked checksums (of the known record, and of one that is taken apart here), fields. */
#include "run/tensorboard.h"

#include <dirent.h>
#include <unistd.h>

#include "base/file.h"
#include "base/mem.h"
#include "test.h"

/* CRC-32C another way than the code under test: by a table. */
static uint32_t crc32c_by_table(const unsigned char *p, size_t n)
{
    uint32_t table[256], crc = 0xffffffffu;

    for (uint32_t i = 0; i < 256; i++) {
        table[i] = i;
        for (int k = 0; k < 8; k++)
            table[i] = table[i] & 1 ? table[i] >> 1 ^ 0x82f63b78u : table[i] >> 1;
    }
    for (size_t i = 0; i < n; i++)
        crc = crc >> 8 ^ table[(crc ^ p[i]) & 0xff];
    return ~crc;
}

static uint32_t masked(const unsigned char *p, size_t n)
{
    const uint32_t crc = crc32c_by_table(p, n);

    return (crc >> 15 | crc << 17) + 0xa282ead8u;
}

static uint32_t get32(const char *p)
{
    uint32_t v;

    memcpy(&v, p, sizeof v);
    return v;
}

/* A record at p of which `left` bytes are there: checks both checksums, returns its payload and length. */
static const char *record_at(const char *p, size_t left, size_t *n)
{
    uint64_t length;
    void **test_state = NULL;

    CHECK(left >= 16);
    memcpy(&length, p, sizeof length);
    CHECK(length <= left - 16);
    CHECK_EQ(get32(p + 8), masked((const unsigned char *)p, 8));
    CHECK_EQ(get32(p + 12 + length), masked((const unsigned char *)p + 12, (size_t)length));
    *n = (size_t)length;
    return p + 12;
}

static char *only_file(const char *dir, size_t *n, struct err *err)
{
    char path[FILE_PATH_MAX] = "";
    DIR *d = opendir(dir);

    for (struct dirent *e; (e = readdir(d)) != NULL;)
        if (strncmp(e->d_name, "events.out.tfevents.", 20) == 0)
            file_join(path, dir, e->d_name, err);
    closedir(d);
    return file_read(path, 1 << 20, n, err);
}

TEST(checksum_is_that_of_the_standard)
{
    /* RFC 3720, B.4: 32 bytes of zeroes, and of ones. */
    unsigned char bytes[32] = { 0 };

    CHECK_EQ(crc32c_by_table(bytes, sizeof bytes), 0x8a9136aau);
    memset(bytes, 0xff, sizeof bytes);
    CHECK_EQ(crc32c_by_table(bytes, sizeof bytes), 0x62a8ab43u);
    /* The length of 24 of a file's first record, as TensorFlow writes it: 0x18 and 7 zeroes, then a3 7f 4b 22. */
    CHECK_EQ(masked((const unsigned char *)"\x18\0\0\0\0\0\0\0", 8), 0x224b7fa3u);
}

TEST(a_file_begins_with_its_version_and_holds_scalars)
{
    struct err err = { 0 };
    struct tensorboard t = { 0 };
    char dir[] = "/tmp/tuneup-test-XXXXXX";
    const float value = 2.5f;
    size_t bytes, n;

    CHECK(mkdtemp(dir));
    CHECK_OK(tensorboard_open(&t, dir, &err), &err);
    CHECK_OK(tensorboard_scalar(&t, 300, "train/loss", 2.5, &err), &err);
    char *text = only_file(dir, &bytes, &err); /* flushed: a viewer sees it before the end */
    CHECK(text);
    const char *p = record_at(text, bytes, &n);
    CHECK_EQ(n, 24);
    CHECK_EQ(p[0], 1 << 3 | 1); /* wall_time: double */
    CHECK(memcmp(p + 9,
                 "\x1a\x0d"
                 "brain.Event:2",
                 15) == 0);
    p += n + 4;
    p = record_at(p, bytes - (size_t)(p - text), &n);
    CHECK(memcmp(p + 9, "\x10\xac\x02", 3) == 0); /* step 300 as a varint */
    CHECK(memcmp(p + 12, "\x2a\x13\x0a\x11\x0a\x0a", 6) == 0); /* summary of one value that begins with its tag */
    CHECK(memcmp(p + 18, "train/loss\x15", 11) == 0);
    CHECK(memcmp(p + 29, &value, sizeof value) == 0);
    CHECK_EQ(n, 33);
    CHECK_EQ(p + n + 4 - text, bytes);
    mem_free(text);
    tensorboard_close(&t);
    tensorboard_close(&t);
    CHECK_OK(file_remove_tree(dir, &err), &err);
}

TEST(a_folder_that_is_not_there_is_an_error)
{
    struct err err = { 0 };
    struct tensorboard t = { 0 };

    CHECK_ERR(tensorboard_open(&t, "/tmp/tuneup-no-such-folder", &err), &err, ERR_SYSTEM, "tuneup-no-such-folder");
    CHECK(!t.file);
    tensorboard_close(&t);
}

TEST_MAIN(CASE(checksum_is_that_of_the_standard), CASE(a_file_begins_with_its_version_and_holds_scalars),
          CASE(a_folder_that_is_not_there_is_an_error))
