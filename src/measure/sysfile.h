/* measure/sysfile.h - the small text files in which the kernel tells things, under roots that can be moved: tests put
 * trees of their own there, containers mount the host's. A missing file is ordinary here, so these functions return
 * -errno and leave the words to the caller. */
#ifndef TUNEUP_MEASURE_SYSFILE_H
#define TUNEUP_MEASURE_SYSFILE_H

#include <stdint.h>
#include <sys/types.h>

#include "base/err.h"

enum sysfile_root {
    SYSFILE_PROC, /* TUNEUP_PROC_ROOT, else /proc */
    SYSFILE_SYS, /* TUNEUP_SYSFS_ROOT, else /sys */
    SYSFILE_CGROUP, /* TUNEUP_CGROUP_ROOT, else fs/cgroup under SYSFILE_SYS */
};

/* root + "/" + the formatted rest, into out[FILE_PATH_MAX]; -ENAMETOOLONG when it does not fit. */
int sysfile_path(char *out, enum sysfile_root root, const char *format, ...) ERR_PRINTF(3, 4);
/* At most size - 1 bytes and a terminating zero. The count, or -errno. */
ssize_t sysfile_read(const char *path, char *out, size_t size);
/* The file holds one decimal number >= 0, as counters and limits are: 0, -errno, or -EINVAL for anything else. */
int sysfile_read_int(const char *path, int64_t *out);
/* The number behind "key" at the start of a line ("MemTotal:", "inactive_file"); false when there is no such line. */
bool sysfile_find_int(const char *text, const char *key, int64_t *out);

#endif
