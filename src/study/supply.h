/* study/supply.h - the models and the data that a study's cells share: the user's own, or small ones made by this program's
 * own commands in the study's folder, once. The reward model that PPO's cells begin with is made of the study's model by
 * one step of `tuneup reward` that changes nothing but adds the head: what a step costs does not depend on what it has
 * learned. */
#ifndef TUNEUP_STUDY_SUPPLY_H
#define TUNEUP_STUDY_SUPPLY_H

#include "base/err.h"
#include "base/file.h"
#include "study/cells.h"

struct supply {
    char model[FILE_PATH_MAX], data[FILE_PATH_MAX];
    char reward_model[FILE_PATH_MAX]; /* "" in a study without PPO */
    int64_t model_bytes; /* of the models' folders */
};

/* Makes what is missing under folder/inputs by running `program data new`, `program tokenizer train`, `program model
 * new`, `program reward`; what is half made is made again. ERR_RUN with the command's last words when one fails, ERR_STOPPED
 * when a signal ended it. Nothing is made for a study of commands alone. */
int supply_prepare(struct supply *in, const struct cells *s, const char *folder, const char *program, struct err *err);
/* The last lines of a text file, at most size - 1 bytes, control characters made visible; "" if it cannot be read. */
void supply_tail(const char *path, char *out, size_t size);

#endif
