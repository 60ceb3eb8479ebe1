/* tests/measure/fixture.h - trees of small files in a temporary folder, where the meters are told to look. */
#ifndef TUNEUP_TESTS_MEASURE_FIXTURE_H
#define TUNEUP_TESTS_MEASURE_FIXTURE_H

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "base/file.h"
#include "test.h"

struct fixture {
    char root[64];
};

static inline struct fixture fixture_new(void)
{
    struct fixture f = { "/tmp/tuneup-test-XXXXXX" };

    if (!mkdtemp(f.root))
        fail_msg("mkdtemp failed");
    return f;
}

static inline void fixture_free(const struct fixture *f)
{
    struct err err;

    file_remove_tree(f->root, &err);
}

/* Appears whole, since a meter's thread may be reading. */
static inline void fixture_write(const struct fixture *f, const char *path, const char *text)
{
    char final[512], temporary[600], *slash;
    struct err err = { 0 };

    snprintf(final, sizeof final, "%s/%s", f->root, path);
    snprintf(temporary, sizeof temporary, "%s.new", final);
    slash = strrchr(final, '/');
    *slash = '\0';
    if (file_make_dir(final, &err) != 0)
        fail_msg("%s", err.what);
    *slash = '/';
    FILE *out = fopen(temporary, "w");
    if (!out || fputs(text, out) == EOF || fclose(out) != 0 || rename(temporary, final) != 0)
        fail_msg("could not write %s", final);
}

#endif
