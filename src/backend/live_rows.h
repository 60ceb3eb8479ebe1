/* backend/live_rows.h - which places of a batch are live, for the kernel live_rows of every backend: integers alone, a few for each
 * row, so there is one way to do it. */
#ifndef TUNEUP_BACKEND_LIVE_ROWS_H
#define TUNEUP_BACKEND_LIVE_ROWS_H

#include "backend/backend.h"

#define LIVE_ROUND_TO 16 /* packed rows, so that few sizes of products are met */

/* The step's operands, as its run gets them. ERR_RUN when more rows are live than were planned. */
int live_rows_find(const struct kernel *k, void *const *in, void *const *out, const struct run_context *c,
                   struct err *err);

#endif
