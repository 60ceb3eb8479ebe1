/* Look-up, sums of two, ReLU, dropout and conversion. add and relu also meet parameters and single numbers: a tensor's rows are then
 * its own first extent, and only that of an activation shrinks with the batch. */
#include "backend/ref/ref.h"

#include "backend/dropout.h"

static int embed(const struct ref_call *r)
{
    const struct ref_tensor table = ref_in(r, 1), y = ref_out(r, 0);
    const int64_t N = ref_rows(r), C = y.width, V = kernel_in(r->kernel, 1)->shape.dim[0];
    const int32_t *ids = r->in[0];

    if (operands_check_ids(ids, N, 0, V, "token", r->err) != 0)
        return -1;
    for (int64_t n = 0; n < N; n++)
        for (int64_t c = 0; c < C; c++)
            ref_set(y, n * C + c, ref_get(table, ids[n] * C + c));
    return 0;
}

static int embed_grad(const struct ref_call *r)
{
    const struct ref_tensor dy = ref_in(r, 1), dtable = ref_out(r, 0);
    const int64_t N = ref_rows(r), C = dtable.width, V = kernel_out(r->kernel, 0)->shape.dim[0];
    const int32_t *ids = r->in[0];

    if (operands_check_ids(ids, N, 0, V, "token", r->err) != 0)
        return -1;
    for (int64_t v = 0; v < V; v++)
        for (int64_t c = 0; c < C; c++) {
            double sum = 0;

            for (int64_t n = 0; n < N && v != r->attrs->skip_row; n++)
                if (ids[n] == v)
                    sum += ref_get(dy, n * C + c);
            ref_give(r, dtable, v * C + c, sum);
        }
    return 0;
}

static int add(const struct ref_call *r)
{
    const struct ref_tensor a = ref_in(r, 0), b = ref_in(r, 1), y = ref_out(r, 0);

    for (int64_t i = 0, n = kernel_elements(r->kernel, r->c); i < n; i++)
        ref_set(y, i, ref_get(a, i) + ref_get(b, i));
    return 0;
}

static int relu(const struct ref_call *r)
{
    const struct ref_tensor x = ref_in(r, 0), y = ref_out(r, 0);

    for (int64_t i = 0, n = kernel_elements(r->kernel, r->c); i < n; i++)
        ref_set(y, i, ref_get(x, i) < 0 ? 0 : ref_get(x, i)); /* a NaN stays one */
    return 0;
}

static int relu_grad(const struct ref_call *r)
{
    const struct ref_tensor dy = ref_in(r, 0), y = ref_in(r, 1), dx = ref_out(r, 0);

    for (int64_t i = 0, n = kernel_elements(r->kernel, r->c); i < n; i++)
        ref_set(dx, i, ref_get(y, i) > 0 ? ref_get(dy, i) : 0);
    return 0;
}

double ref_dropped(const struct ref_call *r, int64_t n, int64_t ch, double x)
{
    const int64_t place = kernel_is_packed(r->kernel) ? r->c->places[n] : n;
    uint16_t draw[8];

    if (!r->c->training || r->attrs->p == 0)
        return x;
    dropout_draws(r->c, r->attrs->site, place, ch / 8, draw);
    return draw[ch % 8] < dropout_threshold(r->attrs->p) ? 0 : x / (1 - (double)r->attrs->p);
}

static int dropout(const struct ref_call *r)
{
    const struct ref_tensor x = ref_in(r, 0), y = ref_out(r, 0);
    const int64_t N = ref_rows(r), C = y.width;

    for (int64_t n = 0; n < N; n++)
        for (int64_t c = 0; c < C; c++)
            ref_set(y, n * C + c, ref_dropped(r, n, c, ref_get(x, n * C + c)));
    return 0;
}

static int scale(const struct ref_call *r)
{
    const struct ref_tensor x = ref_in(r, 0), y = ref_out(r, 0);

    for (int64_t i = 0, n = kernel_elements(r->kernel, r->c); i < n; i++)
        ref_set(y, i, r->attrs->scale * ref_get(x, i));
    return 0;
}

static int convert(const struct ref_call *r)
{
    const struct ref_tensor x = ref_in(r, 0), y = ref_out(r, 0);

    for (int64_t i = 0, n = kernel_elements(r->kernel, r->c); i < n; i++)
        ref_set(y, i, ref_get(x, i));
    return 0;
}

const struct ref_op ref_embed = { embed, NULL }, ref_embed_grad = { embed_grad, NULL }, ref_add = { add, NULL },
                    ref_relu = { relu, NULL }, ref_relu_grad = { relu_grad, NULL }, ref_dropout = { dropout, NULL },
                    ref_scale = { scale, NULL }, ref_convert = { convert, NULL };
