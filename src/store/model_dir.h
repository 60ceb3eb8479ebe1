/* store/model_dir.h - a model as Hugging Face keeps it: a folder with config.json and the weights, in one safetensors
 * file, in several that an index lists, or in pytorch_model.bin (one or several). Names with any of the known prefixes
 * are found under one canonical name, the part after "model.decoder.".
 * Called by phases (loading, saving) and cli/cmd_model.c. Memory: safetensors are mapped; pytorch_model.bin is read. */
#ifndef TUNEUP_STORE_MODEL_DIR_H
#define TUNEUP_STORE_MODEL_DIR_H

#include "store/hf_config.h"
#include "store/safetensors.h"
#include "store/torch_bin.h"

struct model_file {
    char *path;
    bool is_torch; /* which of the two is open */
    struct safetensors safetensors;
    struct torch_bin torch;
};

struct model_tensor {
    const char *canonical; /* "layers.0.fc1.weight", "embed_tokens.weight", "v_head.weight", "lm_head.weight" */
    const struct stored_tensor *stored;
    int file; /* index in files */
};

struct model_dir {
    struct hf_config config;
    struct model_file *files;
    int n_files;
    struct model_tensor *tensors; /* sorted by canonical name */
    int n_tensors;
    bool is_reward; /* has a v_head */
    char *names; /* canonical ones that had to be made (adapter_dir.c), or NULL */
};

/* ERR_INPUT: no model, a damaged file, a wrong index, a tensor that is there twice. On error *m is empty. */
int model_dir_open(struct model_dir *m, const char *dir, struct err *err);
/* The same without reading any weights: where they are in pytorch_model.bin, or there are none, *m is empty. 1 = there are
 * some, 0 = none. */
int model_dir_look(struct model_dir *m, const char *dir, struct err *err);
void model_dir_close(struct model_dir *m);
const char *model_dir_canonical(const char *name); /* without a known prefix: the end of name */
/* NULL if there is none. */
const struct stored_tensor *model_dir_find(const struct model_dir *m, const char *canonical);
/* All tensors that the configuration asks for are there with the right shapes: one error names all missing ones.
 * Others are told at -v. lm_head must equal the embedding where it is stored. */
int model_dir_check(const struct model_dir *m, struct err *err);
/* The model needs the tensor, or knows it (lm_head.weight). */
bool model_dir_uses(const struct model_dir *m, const char *canonical);
/* Converts the tensor's count elements to fp32, bf16 or fp16 in dst. ERR_INPUT names the tensor when it is missing, has
 * another count or a type that is no number here, or, unless allowed, holds a NaN or infinity (also one that only the
 * conversion makes). */
int model_dir_read(const struct model_dir *m, const char *canonical, void *dst, enum dtype to, int64_t count,
                   bool allow_nonfinite, struct err *err);
/* The same for the count elements from element first on: a rank's share, without the rest. */
int model_dir_read_range(const struct model_dir *m, const char *canonical, void *dst, enum dtype to, int64_t first,
                         int64_t count, bool allow_nonfinite, struct err *err);

/* Where the tensor lies in a mapped file, as numbers that can be used there: NULL unless it is of just that type and shape, in
 * safetensors, at a multiple of its type's size. Valid until m is closed. */
const void *model_dir_mapped(const struct model_dir *m, const char *canonical, enum dtype type,
                             const struct shape *shape);
/* ERR_INPUT, as model_dir_read's, when the tensor holds a NaN or infinity as it lies. */
int model_dir_check_finite(const struct model_dir *m, const char *canonical, struct err *err);
/* ERR_RUN when a mapped file has been written to since it was opened. */
int model_dir_check_unchanged(const struct model_dir *m, struct err *err);

/* Calls each for every tensor of the model, in the order in which PyTorch registers them (a reward model's v_head comes
 * first). Stops at the first result other than 0 and returns it. The name is valid during the call. */
int model_names(const struct hf_config *c, bool reward,
                int (*each)(void *context, const char *canonical, const struct shape *shape, struct err *err),
                void *context, struct err *err);

/* Writes config.json and model.safetensors into dir, which is made if needed; each file appears whole or not at all.
 * The n > 0 tensors are those of model_names, so without lm_head, which transformers ties; they have canonical names and
 * one dtype, which config.json tells, and are streamed. Those without data come from source, as in
 * safetensors_save_from. */
int model_dir_save(const char *dir, const struct hf_config *c, const struct stored_tensor *tensors, int n, bool reward,
                   struct err *err);
int model_dir_save_from(const char *dir, const struct hf_config *c, const struct stored_tensor *tensors, int n,
                        bool reward, const struct tensor_source *source, struct err *err);

#endif
