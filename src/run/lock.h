/* run/lock.h - one run at a time in an output folder: a file "run.lock" that is locked as long as the process lives, so that
 * one which was killed leaves nothing to clear away. */
#ifndef TUNEUP_RUN_LOCK_H
#define TUNEUP_RUN_LOCK_H

#include "base/file.h"

struct run_lock {
    bool is_held;
    int file;
    char path[FILE_PATH_MAX];
};

/* ERR_USAGE names the process that has it. */
int lock_take(struct run_lock *l, const char *dir, struct err *err);
void lock_release(struct run_lock *l); /* accepts one that is not held */

#endif
