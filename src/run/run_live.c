/* What the batches of a run have live, the largest and all on the average: they are a function of seed and rank, so all are known
 * before the first one. */
#include "run/run.h"
#include "text/bpe.h"

static int count(const struct run *r, const struct phase *phase, const struct batch *b, int64_t n[2], struct err *err)
{
    const struct phase_facts facts = { r->spec->convention != SPEC_TUNEUP, bpe_eos(r->inputs.tokenizer) };

    if (phase)
        return phase->live(r->spec->phase_options, &facts, b, n, err);
    n[0] = n[1] = phase_live(b);
    return 0;
}

struct sums {
    int64_t batches, T, live[2], most[2];
};

static void add(struct sums *s, const struct batch *b, const int64_t n[2])
{
    s->batches++;
    s->T += b->T;
    for (int i = 0; i < 2; i++) {
        s->live[i] += n[i];
        s->most[i] = n[i] > s->most[i] ? n[i] : s->most[i];
    }
}

static int sum_rank(struct batcher *b, const struct run *r, const struct phase *phase, int64_t epochs,
                    int64_t n_batches, struct sums *s, struct err *err)
{
    int64_t left = n_batches;

    for (int64_t epoch = 0; epoch < epochs && left > 0; epoch++) {
        int more;
        if (batcher_epoch(b, epoch, err) != 0)
            return -1;
        while (left > 0 && (more = batcher_step(b, err)) != 0) {
            int64_t n[2];
            if (more < 0 || count(r, phase, &b->batch, n, err) != 0)
                return -1;
            add(s, &b->batch, n);
            left--;
        }
    }
    return 0;
}

int run_live_find(struct batcher *b, const struct run *r, const struct phase *phase, int64_t epochs, int64_t n_batches,
                  struct extents_live *out, struct err *err)
{
    const int own = b->options.rank;
    const int64_t steps = batcher_steps(b), n = epochs < n_batches / steps ? epochs * steps : n_batches;
    struct sums s = { 0 };
    int result = 0;

    *out = (struct extents_live){ 0 };
    if (n > RUN_LIVE_BATCHES)
        return 0;
    for (int rank = 0; rank < b->options.ranks && result == 0; rank++) {
        b->options.rank = rank;
        result = sum_rank(b, r, phase, epochs, n_batches, &s, err);
    }
    b->options.rank = own;
    if (s.batches > 0)
        *out = (struct extents_live){ .most = { s.most[0], s.most[1] },
                                      .mean = { s.live[0] / s.batches, s.live[1] / s.batches },
                                      .mean_T = s.T / s.batches };
    return result == 0 ? batcher_epoch(b, 0, err) : -1;
}
