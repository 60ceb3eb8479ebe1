#include "measure/sysfile.h"

#include <errno.h>

#include "fixture.h"

TEST(roots_can_be_moved)
{
    char path[FILE_PATH_MAX];

    CHECK_EQ(sysfile_path(path, SYSFILE_PROC, "%d/stat", 7), 0);
    CHECK_STR(path, "/proc/7/stat");
    sysfile_path(path, SYSFILE_CGROUP, "x");
    CHECK_STR(path, "/sys/fs/cgroup/x");
    setenv("TUNEUP_SYSFS_ROOT", "/a", 1);
    sysfile_path(path, SYSFILE_CGROUP, "x");
    CHECK_STR(path, "/a/fs/cgroup/x");
    setenv("TUNEUP_CGROUP_ROOT", "/c", 1);
    sysfile_path(path, SYSFILE_CGROUP, "x");
    CHECK_STR(path, "/c/x");
    sysfile_path(path, SYSFILE_SYS, "x");
    CHECK_STR(path, "/a/x");
    unsetenv("TUNEUP_SYSFS_ROOT");
    unsetenv("TUNEUP_CGROUP_ROOT");
    CHECK_EQ(sysfile_path(path, SYSFILE_SYS, "%0*d", FILE_PATH_MAX, 1), -ENAMETOOLONG);
}

TEST(numbers_are_read_strictly)
{
    const struct fixture f = fixture_new();
    static const struct {
        const char *text;
        int status;
        int64_t value;
    } cases[] = { { "42\n", 0, 42 },
                  { "9223372036854775807", 0, INT64_MAX },
                  { "9223372036854775808\n", -EINVAL, 0 },
                  { "-1\n", -EINVAL, 0 },
                  { "", -EINVAL, 0 },
                  { "max\n", -EINVAL, 0 },
                  { "12x\n", -EINVAL, 0 } };
    char path[128];
    int64_t value;

    snprintf(path, sizeof path, "%s/n", f.root);
    CHECK_EQ(sysfile_read_int(path, &value), -ENOENT);
    CHECK_EQ(sysfile_read_int(f.root, &value), -EISDIR);
    for (int i = 0; i < COUNT_OF(cases); i++) {
        fixture_write(&f, "n", cases[i].text);
        value = 0;
        CHECK_EQ(sysfile_read_int(path, &value), cases[i].status);
        if (cases[i].status == 0)
            CHECK_EQ(value, cases[i].value);
    }
    fixture_free(&f);
}

TEST(keys_are_whole_words)
{
    int64_t value = 0;

    CHECK(sysfile_find_int("PssAnon: 1 kB\nPss:   12 kB\n", "Pss:", &value));
    CHECK_EQ(value, 12);
    CHECK(sysfile_find_int("inactive_file 3\nactive_file 4", "active_file", &value));
    CHECK_EQ(value, 4);
    CHECK(!sysfile_find_int("Pss: kB\n", "Pss:", &value));
    CHECK(!sysfile_find_int("", "Pss:", &value));
}

TEST_MAIN(CASE(roots_can_be_moved), CASE(numbers_are_read_strictly), CASE(keys_are_whole_words))
