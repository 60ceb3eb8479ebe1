/* run/feed.h - tensors of a plan on their way into a file that rank 0 writes: as they are, in another type, or with an adapter
 * added to them. What lies in shards comes from its ranks piece by piece, so nobody ever has the whole model; all ranks go
 * through the same pieces in the same order. Called by run/weights.c and run/adapter.c. */
#ifndef TUNEUP_RUN_FEED_H
#define TUNEUP_RUN_FEED_H

#include "exec/exec.h"
#include "store/safetensors.h"

struct feed {
    const struct exec *e;
    struct stored_tensor *tensors; /* without data where rank 0 does not have it as it is to be written */
    int *buffers; /* of each tensor */
    int n;
    bool sends; /* some of it lies in shards */
    int64_t factors[2]; /* elements of the largest adapter's */
    void *piece; /* SAFETENSORS_PIECE bytes */
    float *values, *first, *second; /* of a piece, of an adapter's factors */
    int tensor; /* where it stands: the next piece */
    int64_t at;
};

int feed_init(struct feed *f, const struct exec *e, struct err *err);
void feed_free(struct feed *f);
/* One more tensor, of fp32, bf16 or fp16, under a name that outlives the feed. */
void feed_add(struct feed *f, int buffer, const char *name, enum dtype as);
/* Rank 0 calls write, with the source of what has no data; the others give what they hold. All ranks call it. */
int feed_save(struct feed *f,
              int (*write)(void *context, const struct feed *f, const struct tensor_source *source, struct err *err),
              void *context, struct err *err);

#endif
