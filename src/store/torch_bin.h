/* store/torch_bin.h - pytorch_model.bin: a zip archive of a pickle, which describes the tensors, and one entry for each
 * storage. Pickle is a programming language; this reader knows the few opcodes and names that a plain state dict is made
 * of, executes nothing, and refuses the rest by name. Storages are read into memory, checked against their CRC.
 * Called by store/model_dir.c. Format: torch/serialization.py (zip form, since PyTorch 1.6), CPython's pickletools. */
#ifndef TUNEUP_STORE_TORCH_BIN_H
#define TUNEUP_STORE_TORCH_BIN_H

#include "store/safetensors.h"

struct torch_bin {
    struct stored_tensor *tensors; /* in the order of the dict; several may share one storage (a tied head) */
    int n_tensors;
    char *names;
    void **storages; /* owned */
    int n_storages;
};

/* ERR_INPUT: not a zip archive, a compressed entry, an opcode or global that has no place in a state dict, a tensor
 * that is not contiguous or leaves its storage. Memory: the bytes of the file. On error *b is empty. */
int torch_bin_open(struct torch_bin *b, const char *path, struct err *err);
/* The same for n bytes in memory, which may go afterwards; name is for messages. */
int torch_bin_parse(struct torch_bin *b, const unsigned char *data, size_t n, const char *name, struct err *err);
void torch_bin_close(struct torch_bin *b);

#endif
