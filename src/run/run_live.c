/* What the largest batch of a run has live: batches are a function of seed and rank, so all are known before the first one. */
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

static int most_of_rank(struct batcher *b, const struct run *r, const struct phase *phase, int64_t epochs,
                        int64_t n_batches, int64_t most[2], struct err *err)
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
            for (int i = 0; i < 2; i++)
                most[i] = n[i] > most[i] ? n[i] : most[i];
            left--;
        }
    }
    return 0;
}

int run_live_most(struct batcher *b, const struct run *r, const struct phase *phase, int64_t epochs, int64_t n_batches,
                  int64_t most[2], struct err *err)
{
    const int own = b->options.rank;
    const int64_t steps = batcher_steps(b), n = epochs < n_batches / steps ? epochs * steps : n_batches;
    int result = 0;

    if (n > RUN_LIVE_BATCHES)
        return 0;
    for (int rank = 0; rank < b->options.ranks && result == 0; rank++) {
        b->options.rank = rank;
        result = most_of_rank(b, r, phase, epochs, n_batches, most, err);
    }
    b->options.rank = own;
    return result == 0 ? batcher_epoch(b, 0, err) : -1;
}
