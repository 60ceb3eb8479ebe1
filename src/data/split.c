/* Bounds are sums of rounded shares; what rounding leaves over goes to the first part. A set that comes in one file is
 * first cut 9 to 1 by the same procedure, and each side is then split as if it had come alone. */
#include "data/split.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>

#include "base/mem.h"
#include "data/shuffle.h"

int split_parse(struct split *s, const char *text, struct err *err)
{
    struct split parsed = { 0 };
    const char *at = text;
    double sum = 0;
    int n = 0;

    for (;; at++) {
        char *end;
        const double part = n < SPLIT_PHASES ? strtod(at, &end) : -1;
        if (n == SPLIT_PHASES || end == at || !(part >= 0 && part <= 1e9) || (*end && *end != ','))
            break;
        parsed.part[n++] = part;
        sum += part;
        at = end;
        if (!*at) {
            if (sum <= 0)
                break;
            *s = parsed;
            return 0;
        }
    }
    err_set(err, ERR_USAGE, "\"%.80s\" does not say how to split data", text);
    return err_hint(err, "Give three shares, for phases 1, 2 and 3: 2,4,4 or 10,0,0.");
}

void split_bounds(const struct split *s, int64_t n, int64_t bounds[SPLIT_PHASES + 1])
{
    double sum = 0;

    for (int i = 0; i < SPLIT_PHASES; i++)
        sum += s->part[i];
    bounds[0] = 0;
    for (int i = 0; i < SPLIT_PHASES; i++) /* rint: a half goes to the even neighbour */
        bounds[i + 1] = bounds[i] + (int64_t)rint(s->part[i] / sum * (double)n);
    const int64_t over = bounds[SPLIT_PHASES] - n;
    for (int i = 1; i <= SPLIT_PHASES; i++)
        bounds[i] = bounds[i] > over ? bounds[i] - over : 0;
}

/* The shuffled records of one part. */
static int64_t *take(const struct split *s, int64_t n, uint32_t seed, int part, int64_t *n_taken, struct err *err)
{
    int64_t bounds[SPLIT_PHASES + 1];
    int64_t *order = mem_array(n, 1, sizeof *order, MEM_DATA, err);

    if (!order)
        return NULL;
    shuffle_numpy(seed, n, order);
    split_bounds(s, n, bounds);
    *n_taken = bounds[part + 1] - bounds[part];
    for (int64_t i = 0; i < *n_taken; i++)
        order[i] = order[bounds[part] + i];
    return order;
}

int split_rows(const struct split *s, int64_t n, enum split_side side, uint32_t seed, int phase, int64_t **rows,
               int64_t *n_rows, struct err *err)
{
    static const struct split nine_to_one = { { 9, 1 } };
    int64_t *outer = NULL, n_side = n;

    MUST(phase >= 1 && phase <= SPLIT_PHASES);
    if (n > SHUFFLE_MAX)
        return err_set(err, ERR_INPUT, "the data set has %" PRId64 " records, at most %" PRId64 " are supported", n,
                       SHUFFLE_MAX);
    if (side != SPLIT_GIVEN) {
        outer = take(&nine_to_one, n, seed, side == SPLIT_EVAL_OF_ONE, &n_side, err);
        if (!outer)
            return -1;
    }
    *rows = take(s, n_side, seed, phase - 1, n_rows, err);
    if (*rows && outer)
        for (int64_t i = 0; i < *n_rows; i++)
            (*rows)[i] = outer[(*rows)[i]];
    mem_free(outer);
    return *rows ? 0 : -1;
}
