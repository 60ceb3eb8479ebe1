/* run/generation.h - a language model set up to answer: model folder and tokenizer, a plan of prefill and decode, weights.
 * Called by cli/cmd_generate.c and cli/cmd_chat.c: open, look at the tokenizer and the positions, encode the prompts, start. */
#ifndef TUNEUP_RUN_GENERATION_H
#define TUNEUP_RUN_GENERATION_H

#include "base/option.h"
#include "phases/generate.h"
#include "run/build.h"
#include "store/model_dir.h"
#include "text/bpe.h"

struct generation_options {
    const char *model, *adapter;
    int64_t max_new_tokens, min_new_tokens, top_k, seed;
    double temperature, top_p;
    int64_t threads;
    int backend;
    const char *memory_limit;
    bool allow_nonfinite;
    struct technique_values techniques; /* offered are the options that change how weights lie, and: adapter */
};

struct generation {
    const struct generation_options *options; /* borrowed */
    struct model_dir model, adapter; /* until the weights are loaded, or to the end where some are mapped */
    int64_t positions; /* of the model: ids of a prompt and its answer */
    struct bpe *tokenizer;
    struct comm comm;
    struct plan plan;
    struct backend backend;
    struct exec exec;
    struct generator generator;
};

/* The option sets of both commands; returns how many. */
int generation_sets(struct generation_options *o, struct option_set *sets);
/* Reads what the folder holds. ERR_USAGE: no model is named. ERR_INPUT: no model or tokenizer there, a reward model, a
 * tokenizer with more ids than the model has. On error *g is empty. */
int generation_open(struct generation *g, struct generation_options *o, struct err *err);
/* Makes room for B rows of S columns, prompts and answers together, S at most the model's positions; loads the weights.
 * ERR_INFEASIBLE when that exceeds --memory_limit or what the machine has. */
int generation_start(struct generation *g, int64_t B, int64_t S, struct err *err);
/* ERR_RUN when a file that is mapped was written to: what was answered since may be wrong. */
int generation_check_files(const struct generation *g, struct err *err);
void generation_close(struct generation *g);

#endif
