/* A line of FILE.jsonl is one write, so that lines of concurrent measurements do not mix. */
#include "cli/measure_sink.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

static bool ends_with(const char *text, const char *end)
{
    const size_t n = strlen(text), k = strlen(end);

    return n > k && strcmp(text + n - k, end) == 0;
}

static int open_file(struct measure_sink *s, const char *path, struct err *err)
{
    if (ends_with(path, ".json"))
        return file_out_open(&s->whole, path, err);
    if (!ends_with(path, ".jsonl")) {
        err_set(err, ERR_USAGE, "cannot tell the form of \"%s\"", path);
        return err_hint(err, "Let the name end in .json for one record, or in .jsonl to add a line to the file.");
    }
    s->lines = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0666);
    return s->lines < 0 ? err_errno(err, "could not open \"%s\"", path) : 0;
}

int measure_sink_open(struct measure_sink *s, const char *path, const char *db_path, struct err *err)
{
    *s = (struct measure_sink){ .path = path, .db_path = db_path, .lines = -1 };
    if (path && open_file(s, path, err) != 0)
        return -1;
    if (!db_path)
        return 0;
    s->recording = recorder_open(&s->recorder, db_path, err) == 0;
    if (s->recording)
        return 0;
    measure_sink_close(s);
    return -1;
}

static int write_line(int fd, const char *path, const char *text, struct err *err)
{
    const size_t n = strlen(text);

    /* One write each: lines of concurrent measurements do not mix. */
    const ssize_t got = write(fd, text, n);
    if (got != (ssize_t)n || fsync(fd) != 0) {
        if (got >= 0 && got != (ssize_t)n)
            errno = ENOSPC;
        return err_errno(err, "could not add a line to \"%s\"", path);
    }
    return 0;
}

int measure_sink_write(struct measure_sink *s, const json_t *record, struct err *err)
{
    if (!s->path)
        return 0;
    char *text = json_dumps(record, s->whole.stream ? JSON_INDENT(2) : JSON_COMPACT);
    char *line = NULL;
    int status = -1;

    if (!text || asprintf(&line, "%s\n", text) < 0) {
        err_set(err, ERR_MEMORY, "no memory for the record");
    } else if (s->lines >= 0) {
        status = write_line(s->lines, s->path, line, err);
    } else if (fputs(line, s->whole.stream) == EOF) {
        err_errno(err, "could not write \"%s\"", s->path);
    } else {
        status = file_out_commit(&s->whole, err);
    }
    free(line);
    free(text);
    return status;
}

void measure_sink_close(struct measure_sink *s)
{
    file_out_abort(&s->whole);
    if (s->lines >= 0)
        close(s->lines);
    if (s->recording)
        recorder_close(&s->recorder);
    *s = (struct measure_sink){ .lines = -1 };
}
