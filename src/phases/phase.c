/* What phases have in common. */
#include "phases/phase.h"

#include "graph/live.h"

int64_t phase_live(const struct batch *b)
{
    int64_t n = 0;

    for (int64_t row = 0; row < b->B; row++)
        n += live_end(
            &(struct live_inputs){ .span = b->spans + 2 * row, .targets = b->targets + row * b->T, .T = b->T });
    return n;
}
