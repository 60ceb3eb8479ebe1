/* The state is (epoch, step): the permutation is a function of the epoch, and a batch one of the step, so that seeking
 * costs one permutation at most. */
#include "data/batcher.h"

#include <inttypes.h>

#include "base/mem.h"
#include "data/shuffle.h"

#define TRIM_TO 8

/* Samples that one rank sees in an epoch. */
static int64_t samples_per_rank(const struct batcher *b)
{
    return (b->samples->n + b->options.ranks - 1) / b->options.ranks;
}

int64_t batcher_steps(const struct batcher *b)
{
    return (samples_per_rank(b) + b->options.B - 1) / b->options.B;
}

static int check(const struct samples *s, const struct batcher_options *o, struct err *err)
{
    if (o->B < 1 || o->T < 2)
        return err_set(err, ERR_USAGE, "a batch of %" PRId64 " x %" PRId64 " ids has nothing to predict", o->B, o->T);
    MUST(o->ranks >= 1 && o->rank >= 0 && o->rank < o->ranks);
    if (o->convention == CONVENTION_PAPER && (o->trim || o->left_pad)) {
        err_set(err, ERR_USAGE, "padding cannot be removed or put on the left where the loss counts it");
        return err_hint(err, "Use the present convention, in which padding is not in the loss.");
    }
    if (s->n < 1) {
        err_set(err, ERR_INPUT, "no sample is left to make batches of");
        return err_hint(err, "Check the data file, --data_split and the length limits.");
    }
    if (s->n > SHUFFLE_MAX)
        return err_set(err, ERR_INPUT, "there are %" PRId64 " samples, at most %" PRId64 " are supported", s->n,
                       SHUFFLE_MAX);
    if (s->max_ids > o->T)
        return err_set(err, ERR_INPUT, "samples of up to %" PRId64 " ids do not fit batches of %" PRId64, s->max_ids,
                       o->T);
    return 0;
}

static int allocate(struct batcher *b, struct err *err)
{
    const int64_t rows = b->options.B * samples_rows_each(b->samples), T = b->options.T;

    b->order = mem_array(b->samples->n, 1, sizeof *b->order, MEM_BATCH, err);
    b->batch.ids = mem_array(rows, T, sizeof *b->batch.ids, MEM_BATCH, err);
    b->batch.positions = mem_array(rows, T, sizeof *b->batch.positions, MEM_BATCH, err);
    b->batch.targets = mem_array(rows, T, sizeof *b->batch.targets, MEM_BATCH, err);
    b->batch.spans = mem_array(rows, 2, sizeof *b->batch.spans, MEM_BATCH, err);
    return b->order && b->batch.ids && b->batch.positions && b->batch.targets && b->batch.spans ? 0 : -1;
}

static void draw_order(struct batcher *b, int64_t epoch)
{
    for (int64_t i = 0; b->options.in_order && i < b->samples->n; i++)
        b->order[i] = i;
    if (!b->options.in_order && b->options.reference_order)
        shuffle_torch(0, b->samples->n, b->order);
    else if (!b->options.in_order)
        shuffle_epoch(b->options.seed, epoch, b->samples->n, b->order);
    b->epoch = epoch;
}

int batcher_init(struct batcher *out, const struct samples *s, const struct batcher_options *o, struct err *err)
{
    struct batcher b = { .samples = s, .options = *o };

    *out = (struct batcher){ 0 };
    if (check(s, o, err) != 0)
        return -1;
    /* Batches larger than the set are never full: do not pay for them. */
    if (b.options.B > samples_per_rank(&b))
        b.options.B = samples_per_rank(&b);
    if (allocate(&b, err) != 0) {
        batcher_free(&b);
        return -1;
    }
    draw_order(&b, 0);
    *out = b;
    return 0;
}

void batcher_free(struct batcher *b)
{
    mem_free(b->order);
    mem_free(b->batch.ids);
    mem_free(b->batch.positions);
    mem_free(b->batch.targets);
    mem_free(b->batch.spans);
    *b = (struct batcher){ 0 };
}

int batcher_epoch(struct batcher *b, int64_t epoch, struct err *err)
{
    return batcher_seek(b, epoch, 0, err);
}

int batcher_seek(struct batcher *b, int64_t epoch, int64_t step, struct err *err)
{
    if (epoch < 0 || epoch > UINT32_MAX || step < 0 || step > batcher_steps(b))
        return err_set(err, ERR_INPUT, "there is no step %" PRId64 " of epoch %" PRId64 ": an epoch has %" PRId64, step,
                       epoch, batcher_steps(b));
    if (epoch != b->epoch && !b->options.reference_order)
        draw_order(b, epoch);
    b->epoch = epoch;
    b->next_step = step;
    return 0;
}

/* The row of sample i of the coming batch; k = 1 is the rejected row of a pair. */
static const struct sample_row *row_of(const struct batcher *b, int64_t i, int64_t k)
{
    const int64_t place = b->batch.first_row + i * b->batch.row_stride;
    const int64_t sample = b->order[place % b->samples->n];

    return &b->samples->rows[sample * samples_rows_each(b->samples) + k];
}

static int64_t longest_row(const struct batcher *b, int64_t n)
{
    int64_t longest = 0;

    for (int64_t i = 0; i < n; i++)
        for (int64_t k = 0; k < samples_rows_each(b->samples); k++)
            if (row_of(b, i, k)->n > longest)
                longest = row_of(b, i, k)->n;
    return longest;
}

/* Row r of the batch. Text stands at [begin, end) of it; a target belongs to the position before its id. */
static void fill_row(struct batcher *b, int64_t r, const struct sample_row *row)
{
    struct batch *batch = &b->batch;
    const int64_t T = batch->T, begin = b->options.left_pad ? T - row->n : 0, end = begin + row->n;
    const int32_t *text = b->samples->ids + row->at;
    const bool count_padding = b->options.convention == CONVENTION_PAPER;
    int32_t *ids = batch->ids + r * T, *positions = batch->positions + r * T, *targets = batch->targets + r * T;

    for (int64_t t = 0; t < T; t++) {
        const bool real = t >= begin && t < end;
        ids[t] = real ? text[t - begin] : b->samples->pad;
        positions[t] = real ? (int32_t)(t - begin) + 2 : 1;
    }
    for (int64_t t = 0; t < T; t++) {
        const bool counts = t + 1 < T && (count_padding || (t >= begin && t + 1 < end));
        targets[t] = counts ? ids[t + 1] : BATCH_NO_TARGET;
        batch->n_targets += counts;
    }
    batch->spans[2 * r] = (int32_t)begin;
    batch->spans[2 * r + 1] = (int32_t)end;
    batch->n_tokens += row->n;
}

int batcher_step(struct batcher *b, struct err *err)
{
    struct batch *batch = &b->batch;
    const int64_t done = b->next_step * b->options.B, left = samples_per_rank(b) - done;
    const int64_t n = left < b->options.B ? left : b->options.B, each = samples_rows_each(b->samples);

    (void)err; /* reading samples from a file would fail here */
    if (n <= 0)
        return 0;
    batch->first_row = done * b->options.ranks + b->options.rank;
    batch->row_stride = b->options.ranks;
    batch->B = n * each;
    batch->T = b->options.T;
    if (b->options.trim) {
        const int64_t rounded = (longest_row(b, n) + TRIM_TO - 1) / TRIM_TO * TRIM_TO;
        batch->T = rounded < batch->T ? rounded : batch->T;
    }
    batch->n_targets = batch->n_tokens = 0;
    for (int64_t k = 0; k < each; k++)
        for (int64_t i = 0; i < n; i++)
            fill_row(b, k * n + i, row_of(b, i, k));
    b->next_step++;
    return 1;
}
