/* Ends of rows first, then what they share, then where each begins. */
#include "backend/live_rows.h"

#include <inttypes.h>

#include "graph/live.h"

/* Row b of a call of the step. */
static struct live_inputs row_of(void *const *in, const struct run_context *c, int64_t b)
{
    const int32_t *spans = in[0], *targets = in[1], *pairs = in[2];
    const int64_t Q = c->B / 2;
    return (struct live_inputs){ .span = spans + 2 * b,
                                 .targets = targets ? targets + b * c->T : NULL,
                                 .pair = pairs && b < 2 * Q ? pairs + PAIR_N * (b % Q) : NULL,
                                 .chosen = b < Q,
                                 .T = c->T };
}

/* The second half's rows leave to the first what begins alike. */
static void share(struct live_row *live, void *const *in, const struct run_context *c)
{
    const int32_t *ids = in[3];
    const int64_t Q = c->B / 2;

    for (int64_t b = Q; in[2] && ids && b < 2 * Q; b++) {
        const struct live_inputs chosen = row_of(in, c, b - Q), rejected = row_of(in, c, b);
        live[b].first = (int32_t)live_shared(&chosen, ids + (b - Q) * c->T, &rejected, ids + b * c->T);
        live[b].shares = live[b].first > 0 ? (int32_t)(b - Q) : -1;
    }
}

/* Padding joins the last rows, until their number is round: it is worked on as it would be in the whole batch. */
static void round_up(struct live_row *live, int64_t n, int64_t most, const struct run_context *c)
{
    int64_t wanted = n > 0 ? (n + LIVE_ROUND_TO - 1) / LIVE_ROUND_TO * LIVE_ROUND_TO : LIVE_ROUND_TO;

    wanted = wanted < most ? wanted : most;
    for (int64_t b = c->B - 1; b >= 0 && n < wanted; b--) {
        const int64_t room = c->T - live[b].end, more = wanted - n < room ? wanted - n : room;
        live[b].end += (int32_t)more;
        n += more;
    }
}

int live_rows_find(const struct kernel *k, void *const *in, void *const *out, const struct run_context *c,
                   struct err *err)
{
    const struct op_attrs *a = &k->step->attrs;
    const int64_t planned = kernel_out(k, 1)->shape.dim[0];
    struct live_row *live = out[0];
    int32_t *places = out[1];
    int64_t n = 0;

    for (int64_t b = 0; b < c->B; b++) {
        const struct live_inputs row = row_of(in, c, b);
        live[b] = (struct live_row){ .end = (int32_t)(a->padding ? c->T : live_end(&row)), .shares = -1 };
    }
    if (a->shares)
        share(live, in, c);
    for (int64_t b = 0; b < c->B; b++)
        n += live[b].end - live[b].first;
    if (n > planned) {
        err_set(err, ERR_RUN, "%" PRId64 " ids of a batch are not padding, %" PRId64 " were planned", n, planned);
        return err_hint(err, "Raise --max_packed_tokens, or leave it away.");
    }
    round_up(live, n, planned, c);
    n = 0;
    for (int64_t b = 0; b < c->B; b++) {
        live[b].begin = (int32_t)n;
        for (int32_t t = live[b].first; t < live[b].end; t++)
            places[n++] = (int32_t)(b * c->T) + t;
    }
    return 0;
}
