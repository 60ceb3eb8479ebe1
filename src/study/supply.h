/* study/supply.h - the model and the data that a study's cells share: the user's own, or small ones made by this program's
 * own commands in the study's folder, once. */
#ifndef TUNEUP_STUDY_SUPPLY_H
#define TUNEUP_STUDY_SUPPLY_H

#include "base/err.h"
#include "base/file.h"
#include "study/cells.h"

struct supply {
    char model[FILE_PATH_MAX], data[FILE_PATH_MAX];
    int64_t model_bytes; /* of the model's folder */
};

/* Makes what is missing under folder/inputs by running `program data new`, `program tokenizer train`, `program model
 * new`; the folder appears when all of it is there. ERR_RUN with the command's last words when one fails, ERR_STOPPED
 * when a signal ended it. Nothing is made for a study of commands alone. */
int supply_prepare(struct supply *in, const struct cells *s, const char *folder, const char *program, struct err *err);
/* The last lines of a text file, at most size - 1 bytes, control characters made visible; "" if it cannot be read. */
void supply_tail(const char *path, char *out, size_t size);

#endif
