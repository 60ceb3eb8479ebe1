/* Rows are padded on the right, so an end says it all. */
#include "graph/live.h"

#include "graph/op.h"

static int64_t later(int64_t end, int64_t other, int64_t T)
{
    const int64_t inside = other < T ? other : T;

    return inside > end ? inside : end;
}

static int64_t compared_end(const int32_t *pair, bool chosen)
{
    const int64_t begin = pair[chosen ? PAIR_CHOSEN_BEGIN : PAIR_REJECTED_BEGIN];
    const int64_t last = pair[chosen ? PAIR_CHOSEN_LAST : PAIR_REJECTED_LAST], n = pair[PAIR_TERMS];

    return n < 1 ? 0 : begin + n < last + 1 ? begin + n : last + 1;
}

int64_t live_end(const struct live_inputs *in)
{
    int64_t end = later(0, in->span[1], in->T), t = in->T;

    if (in->pair)
        end = later(end, compared_end(in->pair, in->chosen), in->T);
    while (in->targets && t > end && in->targets[t - 1] < 0)
        t--;
    return in->targets ? later(end, t, in->T) : end;
}

static int64_t smaller(int64_t a, int64_t b)
{
    return a < b ? a : b;
}

int64_t live_shared(const struct live_inputs *chosen, const int32_t *chosen_ids, const struct live_inputs *rejected,
                    const int32_t *rejected_ids)
{
    const int32_t *pair = rejected->pair;
    int64_t most = smaller(rejected->T, smaller(chosen->span[1], rejected->span[1])), t = 0;

    if (chosen->span[0] != rejected->span[0])
        return 0;
    if (pair && pair[PAIR_TERMS] > 0)
        most = smaller(most, smaller(pair[PAIR_REJECTED_BEGIN], pair[PAIR_REJECTED_LAST]));
    while (t < most && chosen_ids[t] == rejected_ids[t])
        t++;
    return t;
}
