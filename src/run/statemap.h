/* run/statemap.h - where the parts of a checkpoint keep the state of each tensor, so that a run of another number of ranks, or
 * with other shards, finds its own share there. A checkpoint's "shared" part is what every rank has alike, its "rank-N" parts
 * are shards; the map lists their pieces in order: what they are (param, m, v, master), in how many shards, and at which
 * elements of the whole each tensor lies. Called by run/resume.c. */
#ifndef TUNEUP_RUN_STATEMAP_H
#define TUNEUP_RUN_STATEMAP_H

#include "base/json.h"
#include "exec/exec.h"

/* Of the plan's buffers pieces[n], in the order in which they are written. NULL without memory. */
json_t *statemap_json(const struct plan *p, const int *pieces, int n, struct err *err);
/* Fills what this rank holds of the same buffers from a checkpoint in folder `path` that has another map. ERR_INPUT names what it
 * lacks; ERR_USAGE for moments in 8 bits, whose blocks begin where a share does. */
int statemap_load(struct exec *e, const int *pieces, int n, const json_t *map, const char *path, struct err *err);

#endif
