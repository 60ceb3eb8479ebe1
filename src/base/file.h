/* base/file.h - reading files that may be anything, and writing files that appear whole or not at all. */
#ifndef TUNEUP_BASE_FILE_H
#define TUNEUP_BASE_FILE_H

#include <stdint.h>
#include <stdio.h>

#include "base/err.h"

#define FILE_PATH_MAX 4096

/* A regular file mapped read-only. A file that shrinks while mapped ends the program with a message naming it; one that is
 * replaced by rename stays what it was. */
struct file_map {
    const unsigned char *data; /* NULL for an empty file */
    size_t bytes;
    int slot; /* in the table that the SIGBUS handler reads */
    int fd; /* while there is data */
    int64_t modified_ns; /* when it was opened */
};
/* ERR_INPUT if path is no regular file (a FIFO, a folder, a device are refused by what they are). */
int file_map_open(struct file_map *m, const char *path, struct err *err);
void file_map_close(struct file_map *m);
bool file_map_is_unchanged(const struct file_map *m); /* its size, and the time at which it was last written */

/* The whole regular file, with a zero byte after its end; the caller frees it with mem_free. */
char *file_read(const char *path, size_t max_bytes, size_t *n, struct err *err);
/* Opens a regular file for reading. NULL and ERR_INPUT on error. */
FILE *file_open_read(const char *path, struct err *err);

/* A file being written under a temporary name in the folder of its final one. */
struct file_out {
    FILE *stream;
    char path[FILE_PATH_MAX], temporary[FILE_PATH_MAX];
};
int file_out_open(struct file_out *o, const char *path, struct err *err);
int file_out_commit(struct file_out *o, struct err *err); /* flush, fsync, rename, fsync the folder; frees o */
void file_out_abort(struct file_out *o); /* removes the temporary file; accepts an ended o */

int file_make_dir(const char *path, struct err *err); /* with parents; an existing folder is fine */
bool file_exists(const char *path);
bool file_is_dir(const char *path);
bool file_is_same(const char *a, const char *b); /* both are there, and one file or folder */
int file_sync_dir(const char *path, struct err *err);
int file_remove_tree(const char *path, struct err *err); /* the folder and what is in it; absent is fine */
/* folder + "/" + name into out[FILE_PATH_MAX]; ERR_INPUT when that is too long. */
int file_join(char *out, const char *folder, const char *name, struct err *err);
/* Bytes free for this user on the file system of path (or of its nearest existing parent); -1 and err on error. */
int64_t file_free_bytes(const char *path, struct err *err);

#endif
