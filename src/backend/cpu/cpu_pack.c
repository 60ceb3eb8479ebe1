/* Numbers of tokens to and from packed tensors: one a token, so nothing beside its hidden state. */
#include <string.h>

#include "backend/cpu/call.h"
#include "backend/live_rows.h"

static int live_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                    const struct run_context *c, struct err *err)
{
    (void)b;
    (void)scratch;
    return live_rows_find(k, in, out, c, err);
}

/* 32 bits each, whatever they mean. */
static int pack_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                    const struct run_context *c, struct err *err)
{
    const int32_t *x = in[0], *places = in[1];
    int32_t *y = out[0];

    (void)b;
    (void)scratch;
    (void)err;
    for (int64_t n = 0, rows = kernel_rows(k, c); n < rows; n++)
        y[n] = x[places[n]];
    return 0;
}

static int unpack_run(struct backend *b, const struct kernel *k, void *const *in, void *const *out, void *scratch,
                      const struct run_context *c, struct err *err)
{
    const int32_t *y = in[0], *places = in[1];
    int32_t *x = out[0];

    (void)b;
    (void)scratch;
    (void)err;
    memset(x, 0, (size_t)(c->B * c->T) * sizeof *x);
    for (int64_t n = 0, rows = kernel_rows(k, c); n < rows; n++)
        x[places[n]] = y[n];
    for (int64_t row = 0; row < c->B; row++)
        for (int64_t t = 0; t < c->live[row].first; t++)
            x[row * c->T + t] = y[live_at(c->live, row, t)];
    return 0;
}

const struct cpu_op cpu_live_rows = { cpu_no_scratch, live_run }, cpu_pack = { cpu_no_scratch, pack_run },
                    cpu_unpack = { cpu_no_scratch, unpack_run };
