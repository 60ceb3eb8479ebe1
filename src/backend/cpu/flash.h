/* backend/cpu/flash.h - the forward pass of attention by blocks, for queries that stand somewhere among their keys. */
#ifndef TUNEUP_BACKEND_CPU_FLASH_H
#define TUNEUP_BACKEND_CPU_FLASH_H

#include "backend/cpu/heads.h"

struct flash {
    const struct heads *queries;
    const struct heads *keys; /* their T and spans: as many keys as a row has room for */
    int64_t at; /* query t is key at + t, and sees none after it; keys from at + T on are not read */
    const void *q, *k, *v;
    void *o;
    float *lse; /* [B*H,T], or NULL */
};

/* Floats of work that flash_head wants. */
int64_t flash_floats(const struct heads *keys);
/* All queries of head `head` of B*H. work is 64-byte aligned and the thread's own. */
void flash_head(const struct flash *f, float *work, int64_t head);

/* The same in bf16 by tiles, where g->tiles: what flash.c chooses. */
int64_t flash_tiles_floats(const struct heads *keys);
void flash_tiles_head(const struct flash *f, float *work, int64_t head);
int64_t flash_tiles_grad_floats(const struct heads *g);
void flash_tiles_grad_head(const struct heads *all, float *work, int64_t head, void *const *in, void *const *out);

#endif
