/* Numbers of tokens to and from packed tensors. */
#include "backend/live_rows.h"
#include "backend/ref/ref.h"

static int live_rows(const struct ref_call *r)
{
    return live_rows_find(r->kernel, r->in, r->out, r->c, r->err);
}

/* Element `from` of x, which may be of integers, to element `to` of y. */
static void move(struct ref_tensor y, int64_t to, struct ref_tensor x, int64_t from)
{
    if (x.dtype == I32)
        ((int32_t *)y.data)[to] = ((const int32_t *)x.data)[from];
    else
        ref_set(y, to, ref_get(x, from));
}

static int pack(const struct ref_call *r)
{
    const int32_t *places = r->in[1];

    for (int64_t n = 0; n < ref_rows(r); n++)
        move(ref_out(r, 0), n, ref_in(r, 0), places[n]);
    return 0;
}

static int unpack(const struct ref_call *r)
{
    const struct ref_tensor x = ref_out(r, 0);
    const int32_t *places = r->in[1];

    memset(x.data, 0, (size_t)(r->c->B * r->c->T) * dtype_bytes(x.dtype));
    for (int64_t n = 0; n < ref_rows(r); n++)
        move(x, places[n], ref_in(r, 0), n);
    for (int64_t b = 0; b < r->c->B; b++)
        for (int64_t t = 0; t < r->c->live[b].first; t++)
            move(x, b * r->c->T + t, ref_in(r, 0), live_at(r->c->live, b, t));
    return 0;
}

const struct ref_op ref_live_rows = { live_rows, NULL }, ref_pack = { pack, NULL }, ref_unpack = { unpack, NULL };
