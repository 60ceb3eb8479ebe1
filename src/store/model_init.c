/* Four draws from one Philox block: two pairs of Box and Muller (1958), in single precision. Element j takes draw j % 4
 * of block j / 4 in the stream of its tensor's name. */
#include "store/model_init.h"

#include <math.h>
#include <string.h>

#include "base/hash.h"
#include "base/rng.h"

#define BLOCKS 1024 /* at a time for one thread */

struct stream {
    uint64_t seed;
    uint32_t number;
    bool uniform;
    float scale; /* the deviation, or half the width of a uniform one */
};

static float unit(uint32_t v)
{
    return ((float)v + 0.5f) * 0x1p-32f;
}

static void normal_pair(uint32_t a, uint32_t b, float scale, float *out)
{
    const float radius = scale * sqrtf(-2.0f * logf(unit(a))), angle = 6.28318530718f * unit(b);

    out[0] = radius * cosf(angle);
    out[1] = radius * sinf(angle);
}

static void draw_block(const struct stream *s, uint64_t block, float out[4])
{
    const struct rng_block r = rng_philox((uint32_t)s->seed, (uint32_t)(s->seed >> 32), (uint32_t)block,
                                          (uint32_t)(block >> 32), RNG_INIT, s->number);

    if (s->uniform) {
        for (int i = 0; i < 4; i++)
            out[i] = s->scale * (2.0f * unit(r.v[i]) - 1.0f);
        return;
    }
    normal_pair(r.v[0], r.v[1], s->scale, out);
    normal_pair(r.v[2], r.v[3], s->scale, out + 2);
}

/* Blocks at the ends may be needed in part. */
static void draw(const struct stream *s, int64_t first, int64_t count, float *out)
{
    const int64_t block = first / 4, n_blocks = (first + count + 3) / 4 - block;

#pragma omp parallel for
    for (int64_t group = 0; group < (n_blocks + BLOCKS - 1) / BLOCKS; group++) {
        const int64_t begin = group * BLOCKS, end = begin + BLOCKS < n_blocks ? begin + BLOCKS : n_blocks;

        for (int64_t b = begin; b < end; b++) {
            const int64_t at = (block + b) * 4 - first;
            float four[4];

            draw_block(s, (uint64_t)(block + b), four);
            if (at >= 0 && at + 4 <= count) {
                memcpy(out + at, four, sizeof four);
                continue;
            }
            for (int i = 0; i < 4; i++)
                if (at + i >= 0 && at + i < count)
                    out[at + i] = four[i];
        }
    }
}

static void fill(float value, int64_t count, float *out)
{
    for (int64_t i = 0; i < count; i++)
        out[i] = value;
}

static bool ends_with(const char *name, const char *tail)
{
    const size_t n = strlen(name), m = strlen(tail);

    return n >= m && strcmp(name + n - m, tail) == 0;
}

/* The part of row `row` of width E that lies in first .. first+count-1. */
static void zero_row(int64_t row, int64_t E, int64_t first, int64_t count, float *out)
{
    const int64_t begin = row * E > first ? row * E : first;
    const int64_t end = (row + 1) * E < first + count ? (row + 1) * E : first + count;

    if (begin < end)
        fill(0, end - begin, out + (begin - first));
}

void model_init_uniform(uint64_t seed, const char *canonical, double half_width, int64_t first, int64_t count,
                        float *out)
{
    const struct stream s = { .seed = seed,
                              .number = (uint32_t)hash_bytes(canonical, strlen(canonical)),
                              .uniform = true,
                              .scale = (float)half_width };

    draw(&s, first, count, out);
}

void model_init_fill(const struct hf_config *c, uint64_t seed, const char *canonical, int64_t first, int64_t count,
                     float *out)
{
    const struct stream s = { .seed = seed,
                              .number = (uint32_t)hash_bytes(canonical, strlen(canonical)),
                              .scale = (float)c->init_std };

    if (ends_with(canonical, ".bias")) {
        fill(0, count, out);
        return;
    }
    if (ends_with(canonical, "layer_norm.weight")) {
        fill(1, count, out);
        return;
    }
    if (strcmp(canonical, "v_head.weight") == 0) {
        model_init_uniform(seed, canonical, 1 / sqrt((double)c->word_embed_proj_dim), first, count, out);
        return;
    }
    draw(&s, first, count, out);
    if (strcmp(canonical, "embed_tokens.weight") == 0)
        zero_row(c->pad_id, c->word_embed_proj_dim, first, count, out);
}
