/* Names and defaults are DeepSpeed-Chat's where it has the option (training/step3_rlhf_finetuning). */
#include "run/ppo_spec.h"

#include <inttypes.h>

#include "phases/schedule.h"

#define AT(field) .offset = offsetof(struct ppo_spec, field)

static const struct option input_options[] = {
    { .name = "actor_model_name_or_path",
      .alias = "actor",
      .type = OPTION_STRING,
      AT(base.model),
      .value = "DIR",
      .help = "language model that learns, e.g. of phase 1" },
    { .name = "critic_model_name_or_path",
      .alias = "critic",
      .type = OPTION_STRING,
      AT(critic),
      .value = "DIR",
      .help = "reward model of phase 2: the start of the critic" },
    { .name = "reference_model_name_or_path",
      .type = OPTION_STRING,
      AT(reference),
      .value = "DIR",
      .help = "what the actor stays near; default: the actor's files" },
    { .name = "reward_model_name_or_path",
      .type = OPTION_STRING,
      AT(reward),
      .value = "DIR",
      .help = "what scores answers; default: the critic's files" },
    { .name = "data_path",
      .alias = "data",
      .type = OPTION_STRING,
      AT(base.data),
      .many = SPEC_MAX_DATA,
      .value = "FILE ...",
      .help = "records with prompts, as JSON lines or array, .gz too; or a folder with train and eval files" },
    { .name = "output_dir",
      .alias = "output",
      .type = OPTION_STRING,
      AT(base.output),
      .value = "DIR",
      .help = "where models, metrics and checkpoints go" },
    { .name = "data_split",
      .type = OPTION_STRING,
      AT(base.data_split),
      .fallback = "2,4,4",
      .value = "A,B,C",
      .help = "shares of the records for phases 1, 2, 3" },
    { .name = "max_prompt_seq_len",
      .type = OPTION_INT,
      AT(base.max_seq_len),
      .fallback = "256",
      .min = 2,
      .max = 1 << 20,
      .value = "N",
      .help = "ids of a prompt; longer prompts are left out, and counted" },
    { .name = "max_answer_seq_len",
      .type = OPTION_INT,
      AT(max_answer),
      .fallback = "256",
      .min = 1,
      .max = 1 << 20,
      .value = "N",
      .help = "ids of an answer" },
    { .name = "min_answer_seq_len",
      .type = OPTION_INT,
      AT(min_answer),
      .fallback = "0",
      .min = 0,
      .max = 1 << 20,
      .value = "N",
      .help = "ids of an answer before its end id is allowed" },
    { .name = "convention",
      .type = OPTION_CHOICE,
      AT(base.convention),
      .fallback = "tuneup",
      .choices = PPO_CONVENTION_NAMES,
      .help = "masks, end ids, sampling: own, or DeepSpeed-Chat's (docs/ppo.md)" },
    { .name = "actor_dropout",
      .type = OPTION_REAL,
      AT(base.dropout),
      .fallback = "-1",
      .min = -1,
      .max = 0.99,
      .value = "P",
      .help = "dropout; negative: as the model's config.json says" },
    { .name = "critic_dropout",
      .type = OPTION_REAL,
      AT(critic_dropout),
      .fallback = "-1",
      .min = -1,
      .max = 0.99,
      .value = "P",
      .help = "dropout; negative: as the model's config.json says" },
    { .name = "pad_to_max",
      .type = OPTION_FLAG,
      AT(base.pad_to_max),
      .help = "rows as long as they may be at most, as DeepSpeed-Chat pads them, not as the longest of their batch" },
    { .name = "skip_bad_records",
      .type = OPTION_FLAG,
      AT(base.skip_bad_records),
      .help = "leave faulty records out and list them, rather than stop" },
    { .name = "jsonfile_spaces",
      .type = OPTION_FLAG,
      AT(base.jsonfile_spaces),
      .help = "a space before the prompt, as DeepSpeed-Chat's local/jsonfile reader adds" },
    { .name = "allow_nonfinite",
      .type = OPTION_FLAG,
      AT(base.allow_nonfinite),
      .help = "load weights that hold NaN or infinity" },
    { 0 },
};

static const struct option answer_options[] = {
    { .name = "per_device_generation_batch_size",
      .alias = "generation_batch_size",
      .type = OPTION_INT,
      AT(generation_batch),
      .fallback = "16",
      .min = 1,
      .max = 1 << 20,
      .value = "N",
      .help = "prompts a rank that are answered together" },
    { .name = "generation_batches",
      .type = OPTION_INT,
      AT(generation_batches),
      .fallback = "1",
      .min = 1,
      .max = 1 << 10,
      .value = "N",
      .help = "batches of prompts an iteration" },
    { .name = "temperature",
      .type = OPTION_REAL,
      AT(temperature),
      .fallback = "-1",
      .min = -1,
      .max = 100,
      .value = "X",
      .help = "of sampling; 0: greedy; negative: 1, and greedy with --convention deepspeed-chat" },
    { .name = "top_k",
      .type = OPTION_INT,
      AT(top_k),
      .fallback = "0",
      .min = 0,
      .max = 1 << 30,
      .value = "N",
      .help = "sample among the N likeliest ids; 0: all" },
    { .name = "top_p",
      .type = OPTION_REAL,
      AT(top_p),
      .fallback = "1",
      .min = 1e-6,
      .max = 1,
      .value = "X",
      .help = "sample among the likeliest ids that reach this probability together" },
    { .name = "sample_interval",
      .alias = "print_answers_interval",
      .type = OPTION_INT,
      AT(sample_interval),
      .fallback = "10",
      .min = 0,
      .max = 1LL << 40,
      .value = "N",
      .help = "iterations between sample texts on stderr; 0: none" },
    { .name = "eval_batches",
      .type = OPTION_INT,
      AT(base.eval_batches),
      .fallback = "8",
      .min = -1,
      .max = 1 << 30,
      .value = "N",
      .help = "batches of held-out prompts of an evaluation; -1: all, 0: none" },
    { .name = "eval_interval",
      .type = OPTION_INT,
      AT(base.eval_interval),
      .fallback = "0",
      .min = 0,
      .max = 1LL << 40,
      .value = "N",
      .help = "iterations between evaluations; 0: at the start and the end" },
    { 0 },
};

static const struct option ppo_options[] = {
    { .name = "kl_coef",
      .alias = "kl_ctl",
      .type = OPTION_REAL,
      AT(kl_coef),
      .fallback = "0.1",
      .min = 0,
      .max = 1e6,
      .value = "X",
      .help = "weight of the KL term in the rewards" },
    { .name = "reward_clip",
      .type = OPTION_REAL,
      AT(reward_clip),
      .fallback = "5",
      .min = 0,
      .max = 1e30,
      .value = "X",
      .help = "scores are clipped to +-X; 0: they are not" },
    { .name = "reward_center",
      .type = OPTION_REAL,
      AT(reward_center),
      .fallback = "0",
      .min = -1e30,
      .max = 1e30,
      .value = "X",
      .help = "is taken off the scores before they are clipped" },
    { .name = "missing_end_penalty",
      .alias = "missing_eos_penalty",
      .type = OPTION_REAL,
      AT(missing_end_penalty),
      .fallback = "0",
      .min = 0,
      .max = 1e30,
      .value = "X",
      .help = "is taken off the score of an answer that did not end within --max_answer_seq_len" },
    { .name = "gamma",
      .type = OPTION_REAL,
      AT(gamma),
      .fallback = "1",
      .min = 0,
      .max = 1,
      .value = "X",
      .help = "discount of later rewards" },
    { .name = "lambda",
      .alias = "lam",
      .type = OPTION_REAL,
      AT(lambda),
      .fallback = "0.95",
      .min = 0,
      .max = 1,
      .value = "X",
      .help = "of generalized advantage estimation" },
    { .name = "normalize_advantages",
      .type = OPTION_FLAG,
      AT(normalize),
      .help = "advantages of an iteration to mean 0 and deviation 1" },
    { .name = "ppo_epochs",
      .type = OPTION_INT,
      AT(ppo_epochs),
      .fallback = "1",
      .min = 1,
      .max = 1000,
      .value = "N",
      .help = "times over the answers of an iteration" },
    { .name = "enable_ema",
      .type = OPTION_FLAG,
      AT(average),
      .help = "keep and save a moving average of the actor's weights" },
    { .name = "unsupervised_data",
      .type = OPTION_STRING,
      AT(unsupervised),
      .value = "FILE",
      .help = "texts whose loss is mixed into the actor's updates" },
    { .name = "unsup_coef",
      .type = OPTION_REAL,
      AT(unsupervised_coef),
      .fallback = "27.8",
      .min = 0,
      .max = 1e6,
      .value = "X",
      .help = "weight of that loss" },
    { .name = "frozen_dtype",
      .type = OPTION_CHOICE,
      AT(frozen),
      .fallback = "bf16",
      .choices = "bf16|fp32|as_run",
      .help = "type of reference and reward model; as_run: that of actor and critic" },
    { 0 },
};

static const struct option training_options[] = {
    { .name = "per_device_training_batch_size",
      .alias = "batch_size",
      .type = OPTION_INT,
      AT(base.train_batch),
      .fallback = "16",
      .min = 1,
      .max = 1 << 20,
      .value = "N",
      .help = "rows a rank in a micro-batch" },
    { .name = "gradient_accumulation_steps",
      .type = OPTION_INT,
      AT(base.accumulation),
      .fallback = "1",
      .min = 1,
      .max = PPO_MAX_MICRO_STEPS,
      .value = "N",
      .help = "micro-batches an update" },
    { .name = "num_train_epochs",
      .type = OPTION_INT,
      AT(base.epochs),
      .fallback = "1",
      .min = 1,
      .max = 1 << 20,
      .value = "N",
      .help = "times through the prompts" },
    { .name = "max_steps",
      .type = OPTION_INT,
      AT(base.max_steps),
      .fallback = "0",
      .min = 0,
      .max = 1LL << 40,
      .value = "N",
      .help = "iterations; 0: as the epochs give" },
    { .name = "actor_learning_rate",
      .type = OPTION_REAL,
      AT(base.learning_rate),
      .fallback = "9.65e-6",
      .min = 0,
      .max = 10,
      .value = "X",
      .help = "highest rate of the actor" },
    { .name = "critic_learning_rate",
      .type = OPTION_REAL,
      AT(critic_rate),
      .fallback = "5e-6",
      .min = 0,
      .max = 10,
      .value = "X",
      .help = "highest rate of the critic" },
    { .name = "actor_weight_decay",
      .type = OPTION_REAL,
      AT(base.weight_decay),
      .fallback = "0",
      .min = 0,
      .max = 10,
      .value = "X",
      .help = "decay of everything but biases and norms" },
    { .name = "critic_weight_decay",
      .type = OPTION_REAL,
      AT(critic_decay),
      .fallback = "0",
      .min = 0,
      .max = 10,
      .value = "X",
      .help = "decay of everything but biases and norms" },
    { .name = "adam_beta1",
      .type = OPTION_REAL,
      AT(base.beta1),
      .fallback = "0.9",
      .min = 0,
      .max = 0.999999,
      .value = "X",
      .help = "AdamW's first decay" },
    { .name = "adam_beta2",
      .type = OPTION_REAL,
      AT(base.beta2),
      .fallback = "0.95",
      .min = 0,
      .max = 0.999999,
      .value = "X",
      .help = "AdamW's second decay" },
    { .name = "adam_epsilon",
      .type = OPTION_REAL,
      AT(base.epsilon),
      .fallback = "1e-8",
      .min = 1e-16,
      .max = 1,
      .value = "X",
      .help = "AdamW's epsilon" },
    { .name = "max_grad_norm",
      .type = OPTION_REAL,
      AT(base.clip),
      .fallback = "1.0",
      .min = 0,
      .max = 1e30,
      .value = "X",
      .help = "limit of the gradient's norm; 0: no clipping" },
    { .name = "lr_scheduler_type",
      .type = OPTION_CHOICE,
      AT(base.schedule),
      .fallback = "cosine",
      .choices = SCHEDULE_NAMES,
      .help = "learning rate over updates" },
    { .name = "num_warmup_steps",
      .type = OPTION_INT,
      AT(base.warmup),
      .fallback = "100",
      .min = 0,
      .max = 1LL << 40,
      .value = "N",
      .help = "updates of linear warm-up" },
    { .name = "seed",
      .type = OPTION_INT,
      AT(base.seed),
      .fallback = "1234",
      .min = 0,
      .max = 4294967295.0,
      .value = "N",
      .help = "of order, split, sampling and dropout" },
    { .name = "enable_hybrid_engine",
      .type = OPTION_FLAG,
      AT(ignored_hybrid_engine),
      .help = "accepted: training and generation always share weights" },
    { .name = "release_inference_cache",
      .type = OPTION_FLAG,
      AT(ignored_flags[0]),
      .help = "accepted, changes nothing" },
    { .name = "unpin_actor_parameters",
      .type = OPTION_FLAG,
      AT(ignored_flags[1]),
      .help = "accepted, changes nothing" },
    { .name = "print_answers", .type = OPTION_FLAG, AT(ignored_flags[2]), .help = "accepted: see --sample_interval" },
    { .name = "align_overflow",
      .type = OPTION_FLAG,
      AT(ignored_align_overflow),
      .help = "accepted: without a loss scale nothing overflows" },
    { 0 },
};

int ppo_spec_sets(struct ppo_spec *s, struct option_set *sets)
{
    int n = 0;

    s->base.phase = &phase_ppo;
    sets[n++] = (struct option_set){ .title = "Models and data", .options = input_options, .values = s };
    sets[n++] = (struct option_set){ .title = "Answers", .options = answer_options, .values = s };
    sets[n++] = (struct option_set){ .title = "PPO", .options = ppo_options, .values = s };
    sets[n++] = (struct option_set){ .title = "Training", .options = training_options, .values = s };
    n += technique_sets(&sets[n], &s->base.techniques);
    n += technique_sets_of(&sets[n], &s->actor, "The actor alone", "actor_", &s->base.techniques);
    n += technique_sets_of(&sets[n], &s->critic_techniques, "The critic alone", "critic_", &s->base.techniques);
    sets[n++] = spec_optimize_set(&s->base);
    sets[n++] = spec_run_set(&s->base);
    return n;
}

struct ppo_settings ppo_spec_settings(const struct ppo_spec *s)
{
    const bool reference = s->base.convention == SPEC_DEEPSPEED_CHAT;

    return (struct ppo_settings){
        .math = { .convention = reference ? PPO_DEEPSPEED_CHAT : PPO_TUNEUP,
                  .kl_coef = s->kl_coef,
                  .reward_clip = s->reward_clip,
                  .reward_center = s->reward_center,
                  .missing_end_penalty = s->missing_end_penalty,
                  .clip = PPO_CLIP,
                  .value_clip = PPO_CLIP,
                  .gamma = s->gamma,
                  .lambda = s->lambda },
        .normalize = s->normalize,
        .pad_to_max = s->base.pad_to_max,
        .epochs = s->ppo_epochs,
        .micro_steps = s->base.accumulation,
        .unsupervised_coef = s->unsupervised ? s->unsupervised_coef : 0,
        .seed = (uint64_t)s->base.seed,
    };
}

/* Micro-batches of the answers that one iteration has at least. */
static int64_t pieces_of(const struct ppo_spec *s)
{
    return (s->generation_batch * s->generation_batches + s->base.train_batch - 1) / s->base.train_batch;
}

int64_t ppo_spec_rollouts(const struct ppo_spec *s)
{
    const int64_t pieces = pieces_of(s), wanted = s->base.accumulation;

    return wanted > pieces ? s->generation_batches * (wanted / pieces) : s->generation_batches;
}

static int missing(const char *option, const char *what, struct err *err)
{
    err_set(err, ERR_USAGE, "--%s is missing", option);
    return err_hint(err, "%s", what);
}

/* Every update has the same number of micro-batches, and its answers are made with the weights that it changes. */
static int check_accumulation(const struct ppo_spec *s, struct err *err)
{
    const int64_t pieces = pieces_of(s), wanted = s->base.accumulation;

    if (pieces % wanted == 0 || wanted % pieces == 0)
        return 0;
    err_set(err, ERR_USAGE,
            "--gradient_accumulation_steps %" PRId64 " does not divide the %" PRId64
            " micro-batches of an iteration, nor they it",
            wanted, pieces);
    return err_hint(err, "An iteration has ceil(generation_batches * per_device_generation_batch_size / "
                         "per_device_training_batch_size) of them.");
}

int ppo_spec_complete(struct ppo_spec *s, struct err *err)
{
    const bool reference = s->base.convention == SPEC_DEEPSPEED_CHAT;

    if (!s->base.model)
        return missing("actor_model_name_or_path", "Name the model of phase 1.", err);
    if (!s->critic)
        return missing("critic_model_name_or_path", "Name the reward model of phase 2; `tuneup reward` makes one.",
                       err);
    if (s->min_answer > s->max_answer) {
        err_set(err, ERR_USAGE, "--min_answer_seq_len %" PRId64 " is more than --max_answer_seq_len %" PRId64,
                s->min_answer, s->max_answer);
        return err_hint(err, "Lower the first or raise the second.");
    }
    s->reference = s->reference ? s->reference : s->base.model;
    s->reward = s->reward ? s->reward : s->critic;
    s->temperature = s->temperature >= 0 ? s->temperature : reference ? 0 : 1;
    s->base.eval_batch = s->generation_batch;
    return check_accumulation(s, err);
}

int ppo_spec_check(struct ppo_spec *s, struct err *err)
{
    if (ppo_spec_complete(s, err) != 0)
        return -1;
    return spec_check_train(&s->base, err);
}
