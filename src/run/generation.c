/* Setting up for answers: what can be refused is refused in the order of its cost, weights are read last. */
#include "run/generation.h"

#include <inttypes.h>
#include <omp.h>
#include <stdlib.h>

#include "base/log.h"
#include "measure/machine.h"
#include "plan/print.h"
#include "run/adapter.h"
#include "run/spec.h"
#include "run/weights.h"

#define PREFILL_COLUMNS 512 /* of a prompt at a time: bounds the activations */
#define PROCESS_BYTES ((int64_t)256 << 20) /* beside the plan: libraries, generated kernels */

#define AT(field) .offset = offsetof(struct generation_options, field)

static const struct option model_options[] = {
    { .name = "model_name_or_path",
      .alias = "model",
      .type = OPTION_STRING,
      AT(model),
      .value = "DIR",
      .help = "model directory in Hugging Face's form, with its tokenizer" },
    { .name = "lora_adapter",
      .type = OPTION_STRING,
      AT(adapter),
      .value = "DIR",
      .help = "an adapter beside it, in PEFT's form, such as OUTPUT/adapter of a run with --lora_dim" },
    { .name = "allow_nonfinite",
      .type = OPTION_FLAG,
      AT(allow_nonfinite),
      .help = "load weights that hold NaN or infinity" },
    { .name = "threads",
      .type = OPTION_INT,
      AT(threads),
      .fallback = "0",
      .min = 0,
      .max = 4096,
      .value = "N",
      .help = "threads; 0: OMP_NUM_THREADS, or all cores" },
    { .name = "backend",
      .type = OPTION_CHOICE,
      AT(backend),
      .fallback = "cpu",
      .choices = SPEC_BACKENDS,
      .help = "kernels: the processor's, or the plain reference" },
    { .name = "memory_limit",
      .type = OPTION_STRING,
      AT(memory_limit),
      .value = "BYTES",
      .help = "refuse to start when more is needed, e.g. 8GiB; default: what is free" },
    { 0 },
};

static const struct option answer_options[] = {
    { .name = "max_new_tokens",
      .type = OPTION_INT,
      AT(max_new_tokens),
      .fallback = "256",
      .min = 1,
      .max = 1 << 20,
      .value = "N",
      .help = "ids of an answer at most; it ends before at the end token" },
    { .name = "min_new_tokens",
      .type = OPTION_INT,
      AT(min_new_tokens),
      .fallback = "0",
      .min = 0,
      .max = 1 << 20,
      .value = "N",
      .help = "ids before the end token is allowed" },
    { .name = "temperature",
      .type = OPTION_REAL,
      AT(temperature),
      .fallback = "0.8",
      .min = 0,
      .max = 1000,
      .value = "X",
      .help = "logits are divided by it; 0: greedy, always the likeliest token" },
    { .name = "top_k",
      .type = OPTION_INT,
      AT(top_k),
      .fallback = "0",
      .min = 0,
      .max = 1 << 30,
      .value = "N",
      .help = "draw from the N likeliest tokens; 0: from all" },
    { .name = "top_p",
      .type = OPTION_REAL,
      AT(top_p),
      .fallback = "0.95",
      .min = 1e-9,
      .max = 1,
      .value = "P",
      .help = "draw from the likeliest tokens that together reach probability P; 1: from all" },
    { .name = "seed",
      .type = OPTION_INT,
      AT(seed),
      .fallback = "1234",
      .min = 0,
      .max = 4294967295.0,
      .value = "N",
      .help = "of the draws: the same seed gives the same answers" },
    { 0 },
};

int generation_sets(struct generation_options *o, struct option_set *sets)
{
    struct option_set all[TECHNIQUES_MAX];

    option_defaults(all, technique_sets(all, &o->techniques));
    sets[0] = (struct option_set){ .title = "Model", .options = model_options, .values = o };
    sets[1] = (struct option_set){ .title = "Answers", .options = answer_options, .values = o };
    sets[2] = all[technique_find("mixed_precision")];
    while (strcmp(sets[2].options->name, "dtype") != 0) /* those before it are for training */
        sets[2].options++;
    sets[3] = all[technique_find("int8")];
    sets[4] = all[technique_find("map_frozen")];
    return 5;
}

/* ---- what is in the folder */

static int check_model(const struct generation *g, struct err *err)
{
    const char *dir = g->options->model;

    if (g->model.is_reward) {
        err_set(err, ERR_INPUT, "this is a reward model: it gives scores, not text");
        err_where(err, "folder \"%s\", tensor \"v_head.weight\"", dir);
        return err_hint(err, "Name a language model, such as the result of tuneup sft; tuneup score takes this one.");
    }
    if (model_dir_check(&g->model, err) != 0)
        return -1;
    if (bpe_vocab_size(g->tokenizer) <= g->model.config.vocab_size)
        return 0;
    err_set(err, ERR_INPUT, "the tokenizer has ids up to %d, the model has embeddings for %" PRId64,
            bpe_vocab_size(g->tokenizer) - 1, g->model.config.vocab_size);
    err_where(err, "folder \"%s\"", dir);
    return err_hint(err, "Use the tokenizer files that came with the model.");
}

static int open_adapter(struct generation *g, struct generation_options *o, struct err *err)
{
    if (!o->adapter)
        return 0;
    technique_set_text(&o->techniques, "lora_adapter", o->adapter);
    return adapter_dir_open(&g->adapter, o->adapter, err);
}

int generation_open(struct generation *g, struct generation_options *o, struct err *err)
{
    *g = (struct generation){ .options = o };
    comm_alone(&g->comm);
    if (!o->model) {
        err_set(err, ERR_USAGE, "--model is missing");
        return err_hint(err, "Name a model directory, such as the result of tuneup sft.");
    }
    if (model_dir_open(&g->model, o->model, err) == 0 && bpe_open(&g->tokenizer, o->model, err) == 0 &&
        check_model(g, err) == 0 && open_adapter(g, o, err) == 0) {
        g->positions = g->model.config.max_positions;
        return 0;
    }
    generation_close(g);
    return -1;
}

/* ---- the plan and its memory */

static int build(struct generation *g, int64_t B, int64_t S, struct err *err)
{
    struct build b = { .phase = &phase_generate,
                       .models = { { .prefix = "",
                                     .techniques = &g->options->techniques,
                                     .stored = &g->model,
                                     .adapter = &g->adapter } },
                       .n_models = 1,
                       .micro_steps = 1,
                       .ranks = 1 };

    b.extents[EXTENTS_PREFILL] =
        (struct extents){ .B = B, .T = S < PREFILL_COLUMNS ? S : PREFILL_COLUMNS, .S = S, .times = 1 };
    b.extents[EXTENTS_DECODE] = (struct extents){ .B = B, .T = 1, .S = S, .times = 1 };
    if (build_shape(&g->model.config, 0, &b.models[0].shape, err) != 0)
        return -1;
    return build_plan(&b, &g->plan, err);
}

static int threads_of(const struct generation_options *o)
{
    if (o->threads > 0)
        return (int)o->threads;
    return getenv("OMP_NUM_THREADS") ? omp_get_max_threads() : omp_get_num_procs();
}

static int check_memory(const struct generation *g, int64_t B, int64_t S, struct err *err)
{
    const int64_t needed = (int64_t)g->plan.tier_bytes[TIER_DEVICE] + PROCESS_BYTES;
    char have[PRINT_BYTES_MAX], want[PRINT_BYTES_MAX], kinds[256];
    int64_t limit = machine_memory_limit();

    if (g->options->memory_limit && spec_bytes(g->options->memory_limit, &limit, err) != 0)
        return -1;
    if (needed <= limit)
        return 0;
    print_kinds(&g->plan, kinds, sizeof kinds);
    err_set(err, ERR_INFEASIBLE, "%" PRId64 " row%s of %" PRId64 " ids need %s and the limit is %s", B,
            B == 1 ? "" : "s", S, print_bytes((double)needed, want), print_bytes((double)limit, have));
    err_where(err, "%s", kinds);
    return err_hint(err,
                    "--dtype bf16 halves it; so do fewer rows at a time, or shorter answers, for what is not weights.");
}

static struct generate_options answers(const struct generation *g)
{
    const struct generation_options *o = g->options;

    return (struct generate_options){
        .max_new_tokens = o->max_new_tokens,
        .min_new_tokens = o->min_new_tokens,
        .sampling = { o->temperature, o->top_k, o->top_p, (uint64_t)o->seed },
        .end_id = bpe_eos(g->tokenizer),
        .pad_id = bpe_pad(g->tokenizer),
    };
}

int generation_start(struct generation *g, int64_t B, int64_t S, struct err *err)
{
    const struct generate_options o = answers(g);
    char mapped[256];

    const struct weights_source from = { .files = &g->model,
                                         .adapter = g->options->adapter ? &g->adapter : NULL,
                                         .allow_nonfinite = g->options->allow_nonfinite };

    MUST(S <= g->positions);
    if (build(g, B, S, err) != 0 ||
        backend_open(&g->backend, g->options->backend == 1 ? "ref" : "cpu", threads_of(g->options), err) != 0 ||
        exec_prepare(&g->exec, &g->plan, &g->backend, &g->comm, err) != 0 || check_memory(g, B, S, err) != 0 ||
        (from.adapter && adapter_check(&g->plan, "", false, from.adapter, err) != 0) ||
        exec_allocate(&g->exec, err) != 0 || weights_load_from(&g->exec, "", &from, err) != 0)
        return -1;
    weights_close(&g->plan, "", &g->model, &g->adapter);
    if (print_mapped(&g->plan, mapped, sizeof mapped)[0])
        log_note("%s", mapped);
    return generator_init(&g->generator, &g->exec, "", &o, err);
}

int generation_check_files(const struct generation *g, struct err *err)
{
    return model_dir_check_unchanged(&g->model, err) != 0 ? -1 : model_dir_check_unchanged(&g->adapter, err);
}

void generation_close(struct generation *g)
{
    generator_free(&g->generator);
    exec_free(&g->exec);
    plan_free(&g->plan);
    if (g->backend.close)
        g->backend.close(&g->backend);
    bpe_close(g->tokenizer);
    model_dir_close(&g->model);
    model_dir_close(&g->adapter);
    *g = (struct generation){ 0 };
}
