/* exec/disk.h - the block of TIER_FILE: one file a rank, of exactly the planned size, moved in pieces by threads of its own
 * while the program computes. The file has no name in its folder (O_TMPFILE, mode 0600): whatever ends the run, nothing of it
 * stays. Its space is reserved before the run starts. Where the file system takes it, pieces go around its cache (O_DIRECT), which
 * is memory too. Memory: one buffer of DISK_BOUNCE_BYTES, for the bytes that are asked for between programs.
 * Called by exec.c. */
#ifndef TUNEUP_EXEC_DISK_H
#define TUNEUP_EXEC_DISK_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"

#define DISK_BOUNCE_BYTES ((size_t)1 << 20)

struct disk;

/* A file of zeros. direct: pieces begin, and end but for the file's last one, on blocks of PLAN_FILE_BLOCK, as does the memory
 * that they go to. ERR_SYSTEM names folder and bytes when there is no such space. */
int disk_open(struct disk **out, const char *folder, size_t bytes, bool direct, struct err *err);
void disk_close(struct disk *d); /* after what has been started is over; accepts NULL */

/* Start moving a piece; the memory belongs to the disk until disk_wait. What goes wrong, disk_wait tells. */
void disk_read(struct disk *d, void *to, size_t offset, size_t bytes);
void disk_write(struct disk *d, const void *from, size_t offset, size_t bytes);
/* Until nothing is on its way to or from that memory. ERR_SYSTEM for the first piece that failed, whichever it was; after it no
 * piece is moved. */
int disk_wait(struct disk *d, const void *memory, struct err *err);

/* Any bytes at once, while nothing is on its way. */
int disk_get(struct disk *d, size_t offset, void *out, size_t bytes, struct err *err);
int disk_put(struct disk *d, size_t offset, const void *from, size_t bytes, struct err *err);

size_t disk_bytes(const struct disk *d); /* of the file, as the file system tells; 0 for NULL */
bool disk_is_direct(const struct disk *d); /* around the file system's cache */

/* For tests: the n-th read or write of a file from now on fails with this errno (0: it moves nothing, as at the file's end),
 * and all after it; n = 0: none fails. */
void disk_fail_at(int64_t n, int error);

#endif
