/* run/tensorboard.h - scalars in TensorBoard's event files: records of length, checksum, protobuf, checksum. */
#ifndef TUNEUP_RUN_TENSORBOARD_H
#define TUNEUP_RUN_TENSORBOARD_H

#include <stdint.h>
#include <stdio.h>

#include "base/err.h"

struct tensorboard {
    FILE *file;
};

/* A new events.out.tfevents.TIME.HOST in dir. */
int tensorboard_open(struct tensorboard *t, const char *dir, struct err *err);
/* One scalar; flushed, so that a viewer sees it at once. */
int tensorboard_scalar(struct tensorboard *t, int64_t step, const char *tag, double value, struct err *err);
void tensorboard_close(struct tensorboard *t); /* accepts one that was never opened */

#endif
