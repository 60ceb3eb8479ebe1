/* store/adapter_dir.h - an adapter as PEFT keeps it: a folder with adapter_config.json and adapter_model.safetensors, whose
 * names begin with "base_model.model.". A reader sees it as a model directory without a configuration, under the same canonical
 * names: "layers.0.fc1.lora_A.weight" [K,in], "layers.0.fc1.lora_B.weight" [out,K], and what was trained beside them.
 * Called by run/adapter.c. Format: huggingface/peft, "PEFT checkpoint format". */
#ifndef TUNEUP_STORE_ADAPTER_DIR_H
#define TUNEUP_STORE_ADAPTER_DIR_H

#include "base/json.h"
#include "store/model_dir.h"

/* The tensors, by canonical name; is_reward: of a reward model. ERR_INPUT: none there, a damaged file, a name of another
 * form. On error *m is empty. model_dir_close closes it. */
int adapter_dir_open(struct model_dir *m, const char *dir, struct err *err);
/* Writes both files, each whole or not at all. adapted(context, canonical) tells of a linear layer whether it has an adapter: a
 * trained bias of such a one is named as PEFT does. config is written as it is. source: as in
 * safetensors_save_from. */
int adapter_dir_save(const char *dir, const json_t *config, const struct stored_tensor *tensors, int n, bool reward,
                     bool (*adapted)(const void *context, const char *layer), const void *context,
                     const struct tensor_source *source, struct err *err);

#endif
