/* Texts for the actor's language model loss: all of them one after the other, cut into rows of one length, so that no id is
 * padding; the remainder is left out, as the reference does. */
#include <inttypes.h>

#include "data/source.h"
#include "data/tokenize.h"
#include "run/ppo_run.h"

#define LONGEST ((int64_t)1 << 30) /* no text is cut before all are joined */

static int cut(const struct samples *whole, int64_t T, struct samples *out, struct err *err)
{
    for (int64_t at = 0; at + T <= whole->n_ids; at += T)
        if (samples_add(out, whole->ids + at, T, NULL, 0, err) != 0)
            return -1;
    return 0;
}

static int read_all(struct run *r, const char *path, struct samples *whole, struct err *err)
{
    const struct tokenize_options o = { inputs_convention(r->spec), r->spec->jsonfile_spaces };
    struct source source = { 0 };

    if (source_load(&source, path, r->spec->skip_bad_records, err) != 0)
        return -1;
    int result = 0;
    for (int64_t i = 0; result == 0 && i < source.n_records; i++)
        result = tokenize_records(whole, &source, &i, 1, r->inputs.tokenizer, &o, err);
    source_free(&source);
    return result;
}

int ppo_texts(struct run *r, struct samples *out, struct err *err)
{
    const struct ppo_spec *s = ppo_spec_of(r->spec);
    const int64_t T = s->base.max_seq_len + s->max_answer;
    struct samples whole = { 0 };
    int result = samples_init(&whole, SAMPLE_TEXT, LONGEST, bpe_eos(r->inputs.tokenizer), err);

    if (result == 0)
        result = read_all(r, s->unsupervised, &whole, err);
    if (result == 0)
        result = samples_init(out, SAMPLE_TEXT, T, bpe_eos(r->inputs.tokenizer), err);
    if (result == 0)
        result = cut(&whole, T, out, err);
    if (result == 0 && out->n == 0) {
        result = err_set(err, ERR_INPUT, "the texts of \"%s\" make %" PRId64 " ids, one row takes %" PRId64,
                         s->unsupervised, whole.n_ids, T);
        err_hint(err, "Give more texts, or lower --max_prompt_seq_len or --max_answer_seq_len.");
    }
    samples_free(&whole);
    return result;
}
