/* run/weights.h - a model directory <-> the parameters of a plan, by canonical name. */
#ifndef TUNEUP_RUN_WEIGHTS_H
#define TUNEUP_RUN_WEIGHTS_H

#include "exec/exec.h"
#include "store/model_dir.h"

/* model: the prefix of a model's parameters in the plan, "" or "actor/". */

struct weights_source {
    const struct model_dir *files;
    const struct model_dir *adapter; /* checked; what it has is taken from there. NULL: adapters are new */
    bool allow_nonfinite;
    bool new_head; /* a v_head.weight that the plan has and the files have not is made, */
    uint64_t seed; /* from this, as new adapters are */
};

/* Fills every parameter, and this rank's share of the master weights, which take the file's own precision. Those of TIER_MAPPED
 * are bound to the source's files, which stay open as long as e is. */
int weights_load_from(struct exec *e, const char *model, const struct weights_source *s, struct err *err);
/* After that: closes all of which nothing is used where it lies. A pytorch_model.bin would stay in memory. */
void weights_close(const struct plan *p, const char *model, struct model_dir *files, struct model_dir *adapter);
int weights_load(struct exec *e, const char *model, const struct model_dir *m, bool allow_nonfinite, struct err *err);
/* The buffer of the master weights of flat buffer `flat`, and which of its elements this rank's share begins with; -1: none. */
int weights_master(const struct plan *p, int flat, int64_t *begin);
/* ERR_RUN names the first parameter that holds NaN or infinity, in what this rank has of it: such a model is not to replace a
 * good one. */
int weights_check(const struct exec *e, struct err *err); /* of every model */
/* Of all parameters that every rank has whole: ranks compare it. */
int weights_hash(const struct exec *e, const char *model, uint64_t *hash, struct err *err);
/* Writes config.json and model.safetensors, in the parameters' type, into dir: in the reward form when there is a v_head, and
 * with adapters added to their weights. All ranks call it: rank 0 writes, and of tensors in shards the others send what they
 * hold, a piece at a time: nobody ever has the whole model. */
int weights_save(const struct exec *e, const char *model, const struct hf_config *c, const char *dir, struct err *err);

#endif
