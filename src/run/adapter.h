/* run/adapter.h - adapters of a model in a plan (parameters of GROUP_LORA, "LAYER.lora_A.weight" [K,in] and "LAYER.lora_B.weight"
 * [out,K]) <-> files: what is to be loaded fits, the sum of weights and adapter, and the adapter alone in PEFT's form. */
#ifndef TUNEUP_RUN_ADAPTER_H
#define TUNEUP_RUN_ADAPTER_H

#include "exec/exec.h"
#include "store/adapter_dir.h"

/* Every tensor of the files is one that the plan knows, of its shape, and every adapter of the plan is there. ERR_INPUT. */
int adapter_check(const struct plan *p, const char *model, bool reward, const struct model_dir *files, struct err *err);
/* The adapter (its A) beside weights w, or -1; and the B of an A. */
int adapter_of(const struct plan *p, int w);
int adapter_second(const struct plan *p, int a);
/* values[count] += scale * (B A) from element first of their product on; a and b are the factors in fp32. */
void adapter_add(const struct buffer *adapter, const float *a, const float *b, int64_t first, int64_t count,
                 float *values);
bool adapter_there(const struct plan *p, const char *model);
/* Writes the adapters, and all else that the model has learnt, into dir: together with base they are the trained model. All
 * ranks call it; rank 0 writes. */
int adapter_save(const struct exec *e, const char *model, const char *base, const char *dir, struct err *err);

#endif
