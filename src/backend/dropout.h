/* backend/dropout.h - which elements dropout keeps: a function of (seed, site, row of the data set, token, channel), so the
 * same in every backend, program, rank count and recomputation. Srivastava et al. 2014, JMLR 15; inverted form. */
#ifndef TUNEUP_BACKEND_DROPOUT_H
#define TUNEUP_BACKEND_DROPOUT_H

#include <stdint.h>

#include "backend/backend.h"
#include "base/rng.h"

static inline uint32_t dropout_threshold(float p)
{
    return (uint32_t)(p * 65536.0f + 0.5f);
}

/* Philox's key, and the words of its counter before the last one, for a token. */
struct dropout_stream {
    uint32_t key[2], counter[3];
};

/* place: b*T + t of the batch. */
static inline struct dropout_stream dropout_stream(const struct run_context *c, int32_t site, int64_t place)
{
    const int64_t b = place / c->T, t = place % c->T;
    const uint64_t row = (uint64_t)(c->first_row + b * c->row_step);

    return (struct dropout_stream){ { (uint32_t)c->seed ^ RNG_DROPOUT, (uint32_t)(c->seed >> 32) },
                                    { (uint32_t)row, (uint32_t)(row >> 32) ^ (uint32_t)site << 16, (uint32_t)t } };
}

/* The eight 16-bit draws for channels 8*c8 .. 8*c8+7: draw[i] < threshold drops channel i. */
static inline void dropout_draws(const struct run_context *c, int32_t site, int64_t place, int64_t c8, uint16_t draw[8])
{
    const struct dropout_stream s = dropout_stream(c, site, place);
    const struct rng_block r = rng_philox(s.key[0], s.key[1], s.counter[0], s.counter[1], s.counter[2], (uint32_t)c8);

    for (int i = 0; i < 4; i++) {
        draw[2 * i] = (uint16_t)r.v[i];
        draw[2 * i + 1] = (uint16_t)(r.v[i] >> 16);
    }
}

#endif
