/* store/safetensors.h - the safetensors container: 8 bytes of header length, a JSON header, then the tensors' bytes.
 * The reader maps the file and checks every rule of the format before it hands out a pointer; nothing is copied. The
 * writer streams, and its file appears whole or not at all.
 * Called by store/model_dir.c and by tests that read golden numbers. Format: huggingface/safetensors, "Format". */
#ifndef TUNEUP_STORE_SAFETENSORS_H
#define TUNEUP_STORE_SAFETENSORS_H

#include "base/err.h"
#include "base/file.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

/* A tensor as it lies in a file. Borrowed from the reader that made it. */
struct stored_tensor {
    const char *name;
    enum dtype dtype; /* DTYPE_N when unsupported is set */
    struct shape shape;
    const void *data; /* little endian, row-major; may be unaligned */
    size_t bytes;
    const char *unsupported; /* NULL, or what keeps us from computing with it: "I64", "more than 6 dimensions" */
};

struct safetensors {
    struct file_map map;
    struct stored_tensor *tensors; /* in the order of their data */
    int n_tensors;
    char *names;
};

/* ERR_INPUT names the broken rule and the tensor. On error *s is empty. */
int safetensors_open(struct safetensors *s, const char *path, struct err *err);
/* The same for n bytes in memory, which outlive *s; name is for messages. */
int safetensors_parse(struct safetensors *s, const unsigned char *data, size_t n, const char *name, struct err *err);
void safetensors_close(struct safetensors *s);
/* NULL if there is none. Looks at all names. */
const struct stored_tensor *safetensors_find(const struct safetensors *s, const char *name);

#define SAFETENSORS_PIECE ((int64_t)4 << 20) /* bytes that a source makes at a time */

/* Makes the values of tensors that are not in memory: count elements from element first of tensor i into out. */
struct tensor_source {
    int (*produce)(void *context, int i, int64_t first, int64_t count, void *out, struct err *err);
    void *context;
};
/* Writes n tensors in the given order, with the metadata {"format":"pt"} that transformers asks for. Free space is
 * checked first. Tensors whose data is NULL come from source (may be NULL when there are none), SAFETENSORS_PIECE at a time, in order. */
int safetensors_save(const char *path, const struct stored_tensor *tensors, int n, struct err *err);
int safetensors_save_from(const char *path, const struct stored_tensor *tensors, int n,
                          const struct tensor_source *source, struct err *err);

#endif
