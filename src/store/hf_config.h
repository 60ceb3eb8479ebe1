/* store/hf_config.h - config.json of a Hugging Face OPT model. Every number is checked for sign, range and consistency
 * before anything is computed from it; what this program cannot do (another activation, no biases, an untied head) is
 * refused rather than ignored. Unknown keys are kept and written back.
 * Called by store/model_dir.c, models/opt.c (sizes) and run/build.c. */
#ifndef TUNEUP_STORE_HF_CONFIG_H
#define TUNEUP_STORE_HF_CONFIG_H

#include <stdbool.h>
#include <stdint.h>

#include "base/err.h"
#include "base/json.h"
#include "tensor/dtype.h"

struct hf_config {
    int64_t hidden_size, n_layers, n_heads, ffn_dim, word_embed_proj_dim, vocab_size, max_positions;
    bool norm_before,
        remove_final_norm; /* the model has a norm after its last layer when norm_before and not removed */
    bool tied, bias; /* always true: anything else is refused */
    double dropout, attention_dropout, activation_dropout, layerdrop, init_std;
    int64_t pad_id, bos_id, eos_id; /* in 0..vocab_size-1 */
    char torch_dtype[16]; /* as written in the file, "" if it is not */
    json_t *raw; /* owned: the file as it was */
};

/* Reads DIR/config.json. ERR_INPUT names key, value and what would do. On error *c is empty. */
int hf_config_load(struct hf_config *c, const char *dir, struct err *err);
/* The same for a parsed file, which *c owns from now on (in case of an error too); name is for messages. */
int hf_config_parse(struct hf_config *c, json_t *raw, const char *name, struct err *err);
/* Writes DIR/config.json: raw with this struct's values, and dtype as torch_dtype. */
int hf_config_save(const struct hf_config *c, const char *dir, enum dtype dtype, struct err *err);
void hf_config_free(struct hf_config *c);

/* A published size: "opt-125m" ... "opt-66b", or "opt-tiny" for trying things out. ERR_USAGE lists them. */
int hf_config_named(struct hf_config *c, const char *size, struct err *err);
/* The published size with these extents (the vocabulary and the positions may differ), or NULL. */
const char *hf_config_size_name(const struct hf_config *c);
/* Ranges and consistency, after fields were changed by hand; name is for messages. */
int hf_config_check(const struct hf_config *c, const char *name, struct err *err);

bool hf_config_has_final_norm(const struct hf_config *c);
bool hf_config_has_projection(const struct hf_config *c); /* E differs from C */
/* Elements of all tensors, the tied head counted once, without a reward head. */
int64_t hf_config_parameters(const struct hf_config *c);

#endif
