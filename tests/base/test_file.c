/* base/file: what is not a regular file is refused by what it is; what is written appears whole or not at all. */
#include "base/file.h"

#include <sys/stat.h>
#include <unistd.h>

#include "base/mem.h"
#include "test.h"

static char folder[] = "/tmp/tuneup-test-file-XXXXXX";

/* A path in the test's own folder; valid until the second call after. */
static const char *at(const char *name)
{
    static char paths[2][FILE_PATH_MAX];
    static int next;
    char *path = paths[next ^= 1];

    snprintf(path, FILE_PATH_MAX, "%s/%s", folder, name);
    return path;
}

static int write_text(const char *path, const char *text, struct err *err)
{
    struct file_out o;

    if (file_out_open(&o, path, err) != 0)
        return -1;
    fputs(text, o.stream);
    return file_out_commit(&o, err);
}

static int n_entries(void)
{
    char command[128], line[16] = "";

    snprintf(command, sizeof command, "ls -A %s | wc -l", folder);
    FILE *f = popen(command, "r");
    if (!f || !fgets(line, sizeof line, f))
        fail_msg("could not list %s", folder);
    pclose(f);
    return (int)strtol(line, NULL, 10);
}

TEST(a_file_comes_back_as_it_was_written)
{
    struct err err = { 0 };
    struct file_map map;
    size_t n = 0;

    CHECK_OK(write_text(at("a"), "some words", &err), &err);
    char *text = file_read(at("a"), 100, &n, &err);
    CHECK_STR(text, "some words");
    CHECK_EQ(n, 10);
    mem_free(text);
    CHECK_OK(file_map_open(&map, at("a"), &err), &err);
    CHECK(map.bytes == 10 && memcmp(map.data, "some words", 10) == 0);
    file_map_close(&map);
    CHECK(!file_read(at("a"), 9, &n, &err));
    CHECK_OK(unlink(at("a")), &err);
}

TEST(an_aborted_file_leaves_nothing)
{
    struct err err = { 0 };
    struct file_out o;

    CHECK_OK(write_text(at("b"), "old", &err), &err);
    CHECK_OK(file_out_open(&o, at("b"), &err), &err);
    fputs("new", o.stream);
    file_out_abort(&o);
    file_out_abort(&o);
    size_t n = 0;
    char *text = file_read(at("b"), 100, &n, &err);
    CHECK_STR(text, "old");
    mem_free(text);
    CHECK_EQ(n_entries(), 1);
    CHECK_OK(unlink(at("b")), &err);
}

TEST(a_full_disk_is_an_error_and_no_file)
{
    struct err err = { 0 };
    struct file_out o;

    if (access("/dev/full", W_OK) != 0)
        skip();
    CHECK_OK(file_out_open(&o, at("g"), &err), &err);
    FILE *ours = o.stream;
    o.stream = fopen("/dev/full", "w");
    fputs("x", o.stream);
    CHECK_ERR(file_out_commit(&o, &err), &err, ERR_SYSTEM, "No space");
    fclose(ours);
    file_out_abort(&o);
    CHECK(!file_exists(at("g")));
    CHECK_EQ(n_entries(), 0);
}

TEST(what_is_no_regular_file_is_refused)
{
    struct err err = { 0 };
    struct file_map map;
    size_t n = 0;

    CHECK_EQ(mkfifo(at("f"), 0600), 0);
    CHECK_EQ(symlink("loop", at("loop")), 0);
    CHECK_ERR(file_map_open(&map, at("f"), &err), &err, ERR_INPUT, "FIFO");
    CHECK_ERR(file_map_open(&map, folder, &err), &err, ERR_INPUT, "folder");
    CHECK_ERR(file_map_open(&map, "/dev/null", &err), &err, ERR_INPUT, "device");
    CHECK(file_map_open(&map, at("loop"), &err) < 0);
    CHECK(!file_read(at("f"), 10, &n, &err));
    CHECK(!file_open_read(folder, &err));
    CHECK(!file_read(at("absent"), 10, &n, &err));
    CHECK(strstr(err.what, "absent") || strstr(err.where, "absent"));
    unlink(at("f"));
    unlink(at("loop"));
}

TEST(an_empty_file_is_empty)
{
    struct err err = { 0 };
    struct file_map map;

    CHECK_OK(write_text(at("empty"), "", &err), &err);
    CHECK_OK(file_map_open(&map, at("empty"), &err), &err);
    CHECK_EQ(map.bytes, 0);
    file_map_close(&map);
    file_map_close(&map);
    unlink(at("empty"));
}

/* What is mapped is the file as it was opened: replacing it does not touch it, writing to it does. */
TEST(a_mapped_file_tells_that_it_was_written_to)
{
    struct err err = { 0 };
    struct file_map map;

    CHECK_OK(write_text(at("mapped"), "before", &err), &err);
    CHECK_OK(file_map_open(&map, at("mapped"), &err), &err);
    CHECK_OK(write_text(at("mapped"), "behind", &err), &err); /* a new file of that name */
    CHECK(file_map_is_unchanged(&map) && memcmp(map.data, "before", 6) == 0);
    file_map_close(&map);
    CHECK_OK(file_map_open(&map, at("mapped"), &err), &err);
    FILE *f = fopen(at("mapped"), "ab");
    CHECK(f && fputs("!", f) >= 0 && fclose(f) == 0);
    CHECK(!file_map_is_unchanged(&map));
    file_map_close(&map);
    CHECK(file_map_is_unchanged(&map));
    unlink(at("mapped"));
}

TEST(folders_are_made_and_removed)
{
    struct err err = { 0 };

    CHECK_OK(file_make_dir(at("x/y/z"), &err), &err);
    CHECK_OK(file_make_dir(at("x/y/z"), &err), &err);
    CHECK(file_is_dir(at("x/y/z")));
    CHECK_OK(write_text(at("x/y/file"), "1", &err), &err);
    CHECK(file_make_dir(at("x/y/file/more"), &err) < 0);
    CHECK_OK(symlink(folder, at("x/out")), &err);
    CHECK_OK(file_remove_tree(at("x"), &err), &err);
    CHECK_OK(file_remove_tree(at("x"), &err), &err);
    CHECK(!file_exists(at("x")) && file_is_dir(folder)); /* the link went, not what it points to */
}

TEST(paths_that_are_too_long_are_refused)
{
    static char name[FILE_PATH_MAX];
    char out[FILE_PATH_MAX];
    struct err err = { 0 };

    memset(name, 'n', sizeof name - 1);
    CHECK_ERR(file_join(out, "a", name, &err), &err, ERR_INPUT, "");
    CHECK_OK(file_join(out, "a", "b", &err), &err);
    CHECK_STR(out, "a/b");
    CHECK(file_free_bytes(at("not/there/yet"), &err) > 0);
}

static int make_folder(void **state)
{
    (void)state;
    return mkdtemp(folder) ? 0 : -1;
}

static int remove_folder(void **state)
{
    struct err err;

    (void)state;
    return file_remove_tree(folder, &err);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        CASE(a_file_comes_back_as_it_was_written),
        CASE(an_aborted_file_leaves_nothing),
        CASE(a_full_disk_is_an_error_and_no_file),
        CASE(what_is_no_regular_file_is_refused),
        CASE(an_empty_file_is_empty),
        CASE(a_mapped_file_tells_that_it_was_written_to),
        CASE(folders_are_made_and_removed),
        CASE(paths_that_are_too_long_are_refused),
    };

    return cmocka_run_group_tests(tests, make_folder, remove_folder);
}
