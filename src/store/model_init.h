/* store/model_init.h - the weights of a model that has not been trained. As in Hugging Face's OPT: weights and embeddings
 * normal(0, init_std), biases 0, norms 1, the padding token's row 0; a reward head uniform in +-1/sqrt(E).
 * A value depends on seed, tensor name and position alone, so any part can be made anywhere, by any number of threads.
 * Called by cli/cmd_model.c and run/weights.c (new heads and adapters). */
#ifndef TUNEUP_STORE_MODEL_INIT_H
#define TUNEUP_STORE_MODEL_INIT_H

#include "store/hf_config.h"

/* Elements first .. first+count-1 of a tensor, by its canonical name, into out. */
void model_init_fill(const struct hf_config *c, uint64_t seed, const char *canonical, int64_t first, int64_t count,
                     float *out);
/* The same of a tensor of any name, uniform in +-half_width. */
void model_init_uniform(uint64_t seed, const char *canonical, double half_width, int64_t first, int64_t count,
                        float *out);

#endif
