/* Numbers of tokens to and from packed tensors. */
#include "backend/live_rows.h"
#include "backend/ref/ref.h"

static int live_rows(const struct ref_call *r)
{
    return live_rows_find(r->kernel, r->in, r->out, r->c, r->err);
}

/* Element `from` of the operand, which may be of integers, to element `to` of the result. */
static void move(const struct ref_call *r, int64_t to, int64_t from)
{
    const int32_t *whole = r->in[0];
    int32_t *out = r->out[0];

    if (ref_in(r, 0).dtype == I32)
        out[to] = whole[from];
    else
        ref_set(ref_out(r, 0), to, ref_get(ref_in(r, 0), from));
}

static int pack(const struct ref_call *r)
{
    const int32_t *places = r->in[1];

    for (int64_t n = 0; n < ref_rows(r); n++)
        move(r, n, places[n]);
    return 0;
}

static int unpack(const struct ref_call *r)
{
    const int32_t *places = r->in[1];

    memset(r->out[0], 0, (size_t)(r->c->B * r->c->T) * dtype_bytes(ref_out(r, 0).dtype));
    for (int64_t n = 0; n < ref_rows(r); n++)
        move(r, places[n], n);
    for (int64_t b = 0; b < r->c->B; b++)
        for (int64_t t = 0; t < r->c->live[b].first; t++)
            move(r, b * r->c->T + t, live_at(r->c->live, b, t));
    return 0;
}

const struct ref_op ref_live_rows = { live_rows, NULL }, ref_pack = { pack, NULL }, ref_unpack = { unpack, NULL };
