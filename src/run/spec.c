/* Names and defaults are DeepSpeed-Chat's where it has the option (training/step1_supervised_finetuning). */
#include "run/spec.h"

#include <inttypes.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>

#include "phases/schedule.h"

#define AT(field) .offset = offsetof(struct spec, field)

static const struct option input_options[] = {
    { .name = "model_name_or_path",
      .alias = "model",
      .type = OPTION_STRING,
      AT(model),
      .value = "DIR",
      .help = "model directory in Hugging Face's form" },
    { .name = "data_path",
      .alias = "data",
      .type = OPTION_STRING,
      AT(data),
      .many = SPEC_MAX_DATA,
      .value = "FILE ...",
      .help = "records as JSON lines or array, .gz too; or a folder with train and eval files; several are mixed" },
    { .name = "sft_only_data_path",
      .type = OPTION_STRING,
      AT(sft_only_data),
      .many = SPEC_MAX_DATA,
      .value = "FILE ...",
      .help = "more data for phase 1, all of it; other phases leave it alone" },
    { .name = "output_dir",
      .alias = "output",
      .type = OPTION_STRING,
      AT(output),
      .value = "DIR",
      .help = "where model, metrics and checkpoints go" },
    { .name = "data_split",
      .type = OPTION_STRING,
      AT(data_split),
      .fallback = "2,4,4",
      .value = "A,B,C",
      .help = "shares of the records for phases 1, 2, 3" },
    { .name = "max_seq_len",
      .type = OPTION_INT,
      AT(max_seq_len),
      .fallback = "512",
      .min = 2,
      .max = 1 << 20,
      .value = "N",
      .help = "ids a row; longer rows are cut" },
    { .name = "convention",
      .type = OPTION_CHOICE,
      AT(convention),
      .fallback = "tuneup",
      .choices = "tuneup|deepspeed-chat|paper",
      .help = "order of records, labels, loss of pairs: own; DeepSpeed-Chat's of today; of early 2024 (padding in the "
              "loss)" },
    { .name = "dropout",
      .type = OPTION_REAL,
      AT(dropout),
      .fallback = "-1",
      .min = -1,
      .max = 0.99,
      .value = "P",
      .help = "dropout; negative: as the model's config.json says" },
    { .name = "pad_to_max",
      .type = OPTION_FLAG,
      AT(pad_to_max),
      .help = "rows as long as they may be at most, as DeepSpeed-Chat pads them, not as the longest of their batch" },
    { .name = "skip_bad_records",
      .type = OPTION_FLAG,
      AT(skip_bad_records),
      .help = "leave faulty records out and list them, rather than stop" },
    { .name = "jsonfile_spaces",
      .type = OPTION_FLAG,
      AT(jsonfile_spaces),
      .help = "a space before prompt and answer, as DeepSpeed-Chat's local/jsonfile reader adds" },
    { .name = "allow_nonfinite",
      .type = OPTION_FLAG,
      AT(allow_nonfinite),
      .help = "load weights that hold NaN or infinity" },
    { 0 },
};

static const struct option training_options[] = {
    { .name = "per_device_train_batch_size",
      .alias = "batch_size",
      .type = OPTION_INT,
      AT(train_batch),
      .fallback = "16",
      .min = 1,
      .max = 1 << 20,
      .value = "N",
      .help = "records a rank in a micro-batch" },
    { .name = "per_device_eval_batch_size",
      .type = OPTION_INT,
      AT(eval_batch),
      .fallback = "16",
      .min = 1,
      .max = 1 << 20,
      .value = "N",
      .help = "records a rank in evaluation" },
    { .name = "gradient_accumulation_steps",
      .type = OPTION_INT,
      AT(accumulation),
      .fallback = "1",
      .min = 1,
      .max = 1 << 20,
      .value = "N",
      .help = "micro-batches an update" },
    { .name = "num_train_epochs",
      .type = OPTION_INT,
      AT(epochs),
      .fallback = "1",
      .min = 1,
      .max = 1 << 20,
      .value = "N",
      .help = "times through the data" },
    { .name = "max_steps",
      .type = OPTION_INT,
      AT(max_steps),
      .fallback = "0",
      .min = 0,
      .max = 1LL << 40,
      .value = "N",
      .help = "updates; 0: as the epochs give" },
    { .name = "learning_rate",
      .type = OPTION_REAL,
      AT(learning_rate),
      .min = 0,
      .max = 10,
      .value = "X",
      .help = "highest rate" },
    { .name = "weight_decay",
      .type = OPTION_REAL,
      AT(weight_decay),
      .fallback = "0",
      .min = 0,
      .max = 10,
      .value = "X",
      .help = "decay of everything but biases and norms" },
    { .name = "adam_beta1",
      .type = OPTION_REAL,
      AT(beta1),
      .fallback = "0.9",
      .min = 0,
      .max = 0.999999,
      .value = "X",
      .help = "AdamW's first decay" },
    { .name = "adam_beta2",
      .type = OPTION_REAL,
      AT(beta2),
      .fallback = "0.95",
      .min = 0,
      .max = 0.999999,
      .value = "X",
      .help = "AdamW's second decay" },
    { .name = "adam_epsilon",
      .type = OPTION_REAL,
      AT(epsilon),
      .fallback = "1e-8",
      .min = 1e-16,
      .max = 1,
      .value = "X",
      .help = "AdamW's epsilon" },
    { .name = "max_grad_norm",
      .type = OPTION_REAL,
      AT(clip),
      .fallback = "1.0",
      .min = 0,
      .max = 1e30,
      .value = "X",
      .help = "limit of the gradient's norm; 0: no clipping" },
    { .name = "lr_scheduler_type",
      .type = OPTION_CHOICE,
      AT(schedule),
      .fallback = "cosine",
      .choices = SCHEDULE_NAMES,
      .help = "learning rate over updates" },
    { .name = "num_warmup_steps",
      .type = OPTION_INT,
      AT(warmup),
      .fallback = "0",
      .min = 0,
      .max = 1LL << 40,
      .value = "N",
      .help = "updates of linear warm-up" },
    { .name = "seed",
      .type = OPTION_INT,
      AT(seed),
      .fallback = "1234",
      .min = 0,
      .max = 4294967295.0,
      .value = "N",
      .help = "of order, split, dropout and new heads" },
    { .name = "eval_batches",
      .alias = "eval_iters",
      .type = OPTION_INT,
      AT(eval_batches),
      .fallback = "-1",
      .min = -1,
      .max = 1 << 30,
      .value = "N",
      .help = "batches of an evaluation; -1: all, 0: none" },
    { .name = "eval_interval",
      .type = OPTION_INT,
      AT(eval_interval),
      .fallback = "0",
      .min = 0,
      .max = 1LL << 40,
      .value = "N",
      .help = "updates between evaluations; 0: at the start and after each epoch" },
    { 0 },
};

static const struct option optimize_options[] = {
    { .name = "optimize",
      .type = OPTION_CHOICE,
      AT(optimize),
      .fallback = "off",
      .choices = OPTIMIZE_GOALS,
      .help = "switch on what is predicted to be best for this goal; all: as balanced, among techniques too that "
              "change the "
              "numbers; techniques that are given stay" },
    { .name = "optimize_among",
      .type = OPTION_CHOICE,
      AT(optimize_among),
      .fallback = "exact",
      .choices = OPTIMIZE_AMONG,
      .help =
          "what --optimize may switch on: exact techniques; those too that round otherwise, as the goal all may; any, "
          "LoRA too, with which other weights learn" },
    { 0 },
};

struct option_set spec_optimize_set(struct spec *s)
{
    return (struct option_set){ .title = "Techniques by goal", .options = optimize_options, .values = s };
}

static const struct option run_options[] = {
    { .name = "ranks",
      .type = OPTION_INT,
      AT(ranks),
      .fallback = "0",
      .min = 0,
      .max = 4096,
      .value = "N",
      .help = "processes; starts mpirun. 0: as mpirun or srun started it, or one" },
    { .name = "threads",
      .type = OPTION_INT,
      AT(threads),
      .fallback = "0",
      .min = 0,
      .max = 4096,
      .value = "N",
      .help = "threads a rank; 0: OMP_NUM_THREADS, or cores / ranks of this machine" },
    { .name = "comm_timeout",
      .type = OPTION_REAL,
      AT(comm_timeout),
      .fallback = "1800",
      .min = 0,
      .max = 1e9,
      .value = "SECONDS",
      .help = "a rank that others wait for so long ends the run, by its name; 0: never" },
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
      .help = "refuse a run that needs more, e.g. 8GiB; default: what is free" },
    { .name = "save_interval",
      .type = OPTION_INT,
      AT(save_interval),
      .fallback = "0",
      .min = 0,
      .max = 1LL << 40,
      .value = "N",
      .help = "updates between checkpoints; 0: only when stopped by a signal" },
    { .name = "keep",
      .type = OPTION_INT,
      AT(keep),
      .fallback = "2",
      .min = 1,
      .max = 1000,
      .value = "N",
      .help = "checkpoints that are kept" },
    { .name = "resume",
      .type = OPTION_FLAG,
      AT(resume),
      .help = "go on from the newest checkpoint in the output folder" },
    { .name = "overwrite",
      .type = OPTION_FLAG,
      AT(overwrite),
      .help = "start again in a folder that holds a model or checkpoints, which else is refused" },
    { .name = "save_model",
      .type = OPTION_FLAG,
      AT(save_model),
      .fallback = "true",
      .help = "write the model at the end" },
    { .name = "enable_tensorboard",
      .alias = "tensorboard",
      .type = OPTION_FLAG,
      AT(tensorboard),
      .fallback = "true",
      .help = "write TensorBoard event files" },
    { .name = "measure_warmup",
      .type = OPTION_INT,
      AT(measure_warmup),
      .fallback = "2",
      .min = 0,
      .max = 1 << 20,
      .value = "N",
      .help = "first updates that the steady figures leave out" },
    { .name = "profile", .type = OPTION_FLAG, AT(profile), .help = "time by op at the end" },
    { .name = "json", .type = OPTION_FLAG, AT(json), .help = "the result as one JSON document on stdout" },
    { .name = "deepspeed", .type = OPTION_FLAG, AT(ignored_deepspeed), .help = "accepted, changes nothing" },
    { .name = "print_loss", .type = OPTION_FLAG, AT(ignored_print_loss), .help = "accepted, changes nothing" },
    { .name = "compute_fp32_loss",
      .type = OPTION_FLAG,
      AT(ignored_fp32_loss),
      .help = "accepted: the loss is always fp32" },
    { .name = "local_rank",
      .type = OPTION_INT,
      AT(ignored_local_rank),
      .fallback = "-1",
      .min = -1,
      .max = 1 << 20,
      .value = "N",
      .help = "accepted, changes nothing" },
    { .name = "data_output_path",
      .type = OPTION_STRING,
      AT(ignored_data_output_path),
      .value = "DIR",
      .help = "accepted, changes nothing" },
    { 0 },
};

/* The phases differ in one default of the table. */
static void fill_training(struct spec *s)
{
    MUST(COUNT_OF(training_options) <= SPEC_TRAINING_OPTIONS);
    memcpy(s->training, training_options, sizeof training_options);
    for (struct option *o = s->training; o->name; o++)
        if (strcmp(o->name, "learning_rate") == 0)
            o->fallback = s->phase->learning_rate;
}

struct option_set spec_run_set(struct spec *s)
{
    return (struct option_set){ .title = "The run", .options = run_options, .values = s };
}

int spec_sets(struct spec *s, const struct phase *phase, struct option_set *sets)
{
    int n = 0;

    MUST(phase->options_bytes <= SPEC_PHASE_BYTES);
    s->phase = phase;
    fill_training(s);
    sets[n++] = (struct option_set){ .title = "Model and data", .options = input_options, .values = s };
    sets[n++] = (struct option_set){ .title = "Training", .options = s->training, .values = s };
    if (phase->options)
        sets[n++] = (struct option_set){ .title = "The phase", .options = phase->options, .values = s->phase_options };
    n += technique_sets(&sets[n], &s->techniques);
    sets[n++] = spec_optimize_set(s);
    sets[n++] = spec_run_set(s);
    return n;
}

const char *spec_backend_name(const struct spec *s)
{
    return s->backend == 1 ? "ref" : "cpu";
}

int spec_check_judges(const struct spec *s, const char *command, struct err *err)
{
    if (s->optimize == GOAL_OFF)
        return 0;
    err_set(err, ERR_USAGE, "--optimize is for what trains, `tuneup %s` does not", command);
    return err_hint(err, "Leave it out: every technique can be given by its own word.");
}

int spec_check_optimize(const struct spec *s, struct err *err)
{
    if (s->optimize != GOAL_OFF || s->optimize_among == AMONG_EXACT)
        return 0;
    err_set(err, ERR_USAGE, "--optimize_among without --optimize chooses nothing");
    return err_hint(err, "Add a goal, for example --optimize memory.");
}

static int missing(const char *option, const char *what, struct err *err)
{
    err_set(err, ERR_USAGE, "--%s is missing", option);
    return err_hint(err, "%s", what);
}

int spec_check_train(const struct spec *s, struct err *err)
{
    if (!s->model)
        return missing("model", "Name a model directory; `tuneup model new` makes one.", err);
    if (!s->data[0])
        return missing("data", "Name a data file; `tuneup data new` makes one.", err);
    if (!s->output)
        return missing("output", "Name the folder that model, metrics and checkpoints go to.", err);
    if (spec_check_optimize(s, err) != 0)
        return -1;
    if (!s->resume || !s->overwrite)
        return 0;
    err_set(err, ERR_USAGE, "--resume and --overwrite exclude each other");
    return err_hint(err, "--resume goes on with the run in the output folder, --overwrite drops it.");
}

int spec_bytes(const char *text, int64_t *bytes, struct err *err)
{
    static const struct {
        const char *suffix;
        double factor;
    } units[] = { { "", 1 },
                  { "B", 1 },
                  { "K", 1024.0 },
                  { "KiB", 1024.0 },
                  { "M", 1048576.0 },
                  { "MiB", 1048576.0 },
                  { "G", 1073741824.0 },
                  { "GiB", 1073741824.0 },
                  { "T", 1099511627776.0 },
                  { "TiB", 1099511627776.0 },
                  { "MB", 1e6 },
                  { "GB", 1e9 } };
    char *end;
    const double value = strtod(text, &end);

    for (int i = 0; i < COUNT_OF(units); i++)
        if (end != text && strcmp(end, units[i].suffix) == 0 && value > 0 && value * units[i].factor < 9e18) {
            *bytes = (int64_t)(value * units[i].factor);
            return 0;
        }
    err_set(err, ERR_USAGE, "\"%.60s\" is no amount of memory", text);
    return err_hint(err, "Write a number with a unit, for example 8GiB or 500M.");
}
