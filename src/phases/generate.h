/* phases/generate.h - prompts -> answers, id by id, with the weights and the block of a running exec.
 *
 * The plan has the programs "prefill", which fills the key-value caches from many columns at once, and "decode", one new id
 * a row and its logits; under the model's prefix where there are several. A column of a
 * row is a column of the caches: a prompt may begin anywhere (padded on the left, as the reference does it) and end anywhere
 * (ragged, padded on the right), and its answer follows at once. Position rows count from the row's own beginning, so where
 * the padding lies changes no number. Called by phases/ppo.c and run/generation.c. Memory: 8 bytes a column and row, and
 * the sampler's. */
#ifndef TUNEUP_PHASES_GENERATE_H
#define TUNEUP_PHASES_GENERATE_H

#include "exec/exec.h"
#include "phases/phase.h"
#include "phases/sampler.h"

/* Both programs of one model, for inference alone. */
extern const struct phase phase_generate;

struct prompts {
    int64_t B, P; /* rows and columns, at most those planned (P: of the caches) */
    const int32_t *ids; /* [B,P] */
    const int32_t *begin,
        *end; /* [B] row b is columns begin[b] .. end[b]-1, at least one; the others are not looked at */
    const int64_t *rows; /* [B] the rows' numbers for draws; NULL: 0, 1, ... */
    int64_t
        n_cached; /* columns before this one are as in the run before: their keys and values are taken as they are */
};

struct generated {
    int64_t B, S; /* rows of the last run, columns planned */
    int32_t *ids; /* [B,S] pad, prompt, answer with its end id, pad */
    int32_t *begin, *prompt_end, *end; /* [B] the answer is columns prompt_end .. end-1 */
    bool *ended; /* [B] by the end id, which is the last one */
    float *logprobs, *entropies; /* [B,S] of the answer's ids under the model as it is; NULL unless asked for */
};

/* After each new column: step is their number so far. 0 = go on, 1 = that is enough, -1 = error. */
typedef int generate_hook(void *context, const struct generated *g, int64_t step, struct err *err);

struct generate_options {
    int64_t max_new_tokens; /* of each row, which also ends in the last column of the caches */
    int64_t min_new_tokens; /* before which the end id is not picked */
    struct sampler_options sampling;
    int32_t end_id; /* -1: rows end at max_new_tokens alone */
    int32_t pad_id;
    bool weights_move; /* between runs: a copy that decode reads is made anew for each */
    bool describe; /* log-probabilities and entropies are wanted */
    generate_hook *hook; /* or NULL */
    void *hook_context;
};

struct generator {
    struct generate_options options; /* lengths and hook may be changed between runs */
    struct exec *exec; /* borrowed */
    int prefill, decode; /* programs */
    int gather; /* the one that makes the weights whole that both read; -1: they are, or the programs see to it */
    int quantize; /* the one that makes the copy of the weights that decode reads; -1: it reads the weights */
    bool quantized; /* it has run */
    bool together; /* the programs send between ranks: all ranks run them until the last one has ended */
    int64_t B, P, S, V; /* planned: rows, columns at a time, columns of the caches, ids */
    int32_t *ids, *positions, *spans, *at; /* in the block, as are: */
    const float *logits;
    int32_t *rows; /* [B] the row that each slot of the programs works on */
    int64_t n_slots;
    struct sampler sampler;
    struct generated result;
};

/* model: "", or the prefix of the one that answers ("actor/"). The exec is allocated. On error *g is empty. */
int generator_init(struct generator *g, struct exec *e, const char *model, const struct generate_options *o,
                   struct err *err);
/* Fills g->result, which the next run overwrites. ERR_USAGE when a row is empty or fills the caches; ERR_RUN when logits are not finite, naming row and id. */
int generator_run(struct generator *g, const struct prompts *p, struct err *err);
void generator_free(struct generator *g);

#endif
