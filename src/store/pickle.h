/* store/pickle.h - reads the pickle inside pytorch_model.bin into plain data: which storages there are, and which
 * tensors are made of them. Nothing is executed: a global is one of a fixed list or refused by name.
 * Called by store/torch_bin.c. Protocol 2, the one torch.save writes. Memory: proportional to the pickle's size. */
#ifndef TUNEUP_STORE_PICKLE_H
#define TUNEUP_STORE_PICKLE_H

#include <stdbool.h>

#include "base/err.h"
#include "tensor/dtype.h"
#include "tensor/shape.h"

/* A piece of the pickle's own bytes. */
struct pickle_text {
    const char *at;
    int n;
};

struct pickle_storage {
    struct pickle_text key; /* digits: the entry is "<archive>/data/<key>" */
    enum dtype dtype; /* DTYPE_N: none of ours, see unsupported */
    const char *unsupported;
    size_t element_bytes;
    int64_t count; /* elements */
};

struct pickle_tensor {
    struct pickle_text name;
    int storage; /* index */
    int64_t offset; /* elements from the storage's begin */
    struct shape shape, strides;
};

struct pickle {
    struct pickle_storage *storages;
    int n_storages;
    struct pickle_tensor *tensors; /* the members of the dict, in its order */
    int n_tensors;
};

/* data outlives *p. Shapes, offsets and counts are whole numbers from 0, strides any; nothing else about them is checked
 * here. ERR_INPUT names the opcode or global and the byte. On error *p is empty. */
int pickle_parse(struct pickle *p, const unsigned char *data, size_t n, const char *name, struct err *err);
void pickle_free(struct pickle *p);

#endif
