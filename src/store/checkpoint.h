/* store/checkpoint.h - checkpoints that are whole or not there. DIR/checkpoint-<step> appears by one rename after
 * everything in it is durable, and its manifest.json carries the size and the XXH3 hash (64 bits) of each part, so that
 * damage is found when it is loaded and the one before is taken.
 * Writing: rank 0 begins; every rank writes its parts into the same temporary folder; rank 0 gathers their
 * checkpoint_part and commits. Called by run/resume.c. Memory: none to speak of; parts are streamed, and what is not in memory
 * passes through a megabyte. */
#ifndef TUNEUP_STORE_CHECKPOINT_H
#define TUNEUP_STORE_CHECKPOINT_H

#include <stdint.h>

#include "base/err.h"
#include "base/file.h"
#include "base/json.h"

#define CHECKPOINT_NAME_MAX 64

struct checkpoint_part {
    char name[CHECKPOINT_NAME_MAX]; /* a file name: letters, digits, '.', '-', '_' */
    uint64_t bytes, hash;
};

/* Where pieces are that are not in memory: their bytes at .. at+bytes, each piece by its number. */
struct checkpoint_elsewhere {
    int (*get)(void *context, int number, size_t at, void *out, size_t bytes, struct err *err);
    int (*put)(void *context, int number, size_t at, const void *from, size_t bytes, struct err *err);
    void *context;
};

struct checkpoint_piece {
    const void *data; /* NULL: elsewhere */
    size_t bytes;
    const struct checkpoint_elsewhere *elsewhere;
    int number;
};

struct checkpoint_piece_out {
    void *data; /* NULL: elsewhere */
    size_t bytes;
    const struct checkpoint_elsewhere *elsewhere;
    int number;
};

/* Makes DIR/.checkpoint-<step>.tmp, and DIR; its path goes to tmp[FILE_PATH_MAX]. What earlier runs left unfinished in
 * DIR is removed, so one run at a time may write there. */
int checkpoint_begin(const char *dir, int64_t step, char *tmp, struct err *err);
/* Writes the pieces one after another as one part and syncs it. Free space is checked first. */
int checkpoint_write_part(const char *tmp, const char *name, const struct checkpoint_piece *pieces, int n,
                          struct checkpoint_part *out, struct err *err);
/* Writes manifest.json {step, state, parts, hash}, syncs, and renames the folder to DIR/checkpoint-<step>; an older one
 * of the same step is replaced in the same instant. */
int checkpoint_commit(const char *dir, int64_t step, const char *tmp, const json_t *state,
                      const struct checkpoint_part *parts, int n, struct err *err);

/* The newest checkpoint that is whole: sizes and hashes of all parts are verified. 1 = found: path[FILE_PATH_MAX], step
 * and state (owned by the caller) are set; 0 = none; -1 = error. The names of newer ones that are damaged go to damaged,
 * "" if none are. */
int checkpoint_newest(const char *dir, char *path, int64_t *step, json_t **state, char *damaged, size_t damaged_size,
                      struct err *err);
/* Fills the buffers in order from a part; their sizes must add up to the part's. */
int checkpoint_read_part(const char *path, const char *name, const struct checkpoint_piece_out *pieces, int n,
                         struct err *err);
/* The same for `bytes` bytes of a part, from byte `begin` on. */
int checkpoint_read_range(const char *path, const char *name, int64_t begin, void *data, size_t bytes, struct err *err);
/* Removes all but the `keep` newest (at least 1). Call it after checkpoint_commit. */
int checkpoint_prune(const char *dir, int keep, struct err *err);
/* How many there are, whole or not; -1 = error. */
int64_t checkpoint_count(const char *dir, struct err *err);
/* Removes those of later steps than this one (-1: all), which would be taken for newer than what is written next. */
int checkpoint_remove_after(const char *dir, int64_t step, struct err *err);

#endif
