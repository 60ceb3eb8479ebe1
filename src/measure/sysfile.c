/* Plain open and read: these files have no size, and a short read is the whole answer only at end of file. */
#include "measure/sysfile.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/file.h"

static const char *root_of(const char *variable, const char *standard)
{
    const char *root = getenv(variable);

    return root && *root ? root : standard;
}

int sysfile_path(char *out, enum sysfile_root root, const char *format, ...)
{
    const char *folder, *below = "";
    va_list args;
    int n, rest;

    if (root == SYSFILE_PROC) {
        folder = root_of("TUNEUP_PROC_ROOT", "/proc");
    } else {
        const char *cgroup = root_of("TUNEUP_CGROUP_ROOT", NULL);
        folder = root == SYSFILE_CGROUP && cgroup ? cgroup : root_of("TUNEUP_SYSFS_ROOT", "/sys");
        below = root == SYSFILE_CGROUP && !cgroup ? "/fs/cgroup" : "";
    }
    n = snprintf(out, FILE_PATH_MAX, "%s%s/", folder, below);
    if (n < 0 || n >= FILE_PATH_MAX)
        return -ENAMETOOLONG;
    va_start(args, format);
    rest = vsnprintf(out + n, (size_t)(FILE_PATH_MAX - n), format, args);
    va_end(args);
    return rest < 0 || rest >= FILE_PATH_MAX - n ? -ENAMETOOLONG : 0;
}

ssize_t sysfile_read(const char *path, char *out, size_t size)
{
    const int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
    size_t n = 0;

    out[0] = '\0';
    if (fd < 0)
        return -errno;
    while (n < size - 1) {
        const ssize_t got = read(fd, out + n, size - 1 - n);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            const int number = errno;
            close(fd);
            out[0] = '\0';
            return -number;
        }
        if (got == 0)
            break;
        n += (size_t)got;
    }
    close(fd);
    out[n] = '\0';
    return (ssize_t)n;
}

/* Digits only: strtoll would accept a sign and turn overflow into a plausible number. Returns what follows, or NULL. */
static const char *parse_int(const char *text, int64_t *out)
{
    int64_t value = 0;
    const char *c = text;

    for (; *c >= '0' && *c <= '9'; c++)
        if (__builtin_mul_overflow(value, 10, &value) || __builtin_add_overflow(value, *c - '0', &value))
            return NULL;
    if (c == text)
        return NULL;
    *out = value;
    return c;
}

int sysfile_read_int(const char *path, int64_t *out)
{
    char text[64];
    const ssize_t n = sysfile_read(path, text, sizeof text);

    if (n < 0)
        return (int)n;
    const char *end = parse_int(text, out);
    return end && (*end == '\n' || *end == '\0') ? 0 : -EINVAL;
}

bool sysfile_find_int(const char *text, const char *key, int64_t *out)
{
    const size_t n = strlen(key);

    for (const char *line = text; line && *line; line = strchr(line, '\n'), line += line != NULL) {
        if (strncmp(line, key, n) != 0 || (line[n] != ' ' && line[n] != '\t'))
            continue;
        return parse_int(line + n + strspn(line + n, " \t"), out) != NULL;
    }
    return false;
}
