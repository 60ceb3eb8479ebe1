/* tuneup sft: phase 1. Words to spec, then run/. */
#include "cli/training.h"

static struct spec spec;

static int sets(struct option_set *out)
{
    return spec_sets(&spec, &phase_sft, out);
}

static int run(struct command_line *line, struct err *err)
{
    if (training_no_words(line, err) != 0 || spec_check_train(&spec, err) != 0)
        return -1;
    return training_run(&run_batches, &spec, line, err);
}

const struct command cmd_sft = {
    .name = "sft",
    .summary = "fine-tune a model on prompts and answers (phase 1)",
    .usage = "tuneup sft --model DIR --data FILE --output DIR [options]",
    .examples =
        "  tuneup sft --model opt-350m --data records.jsonl --output out\n"
        "  tuneup sft --model opt-350m --data records.jsonl --output out --ranks 2 --zero_stage 1 --dtype bf16 \\\n"
        "             --gradient_checkpointing --per_device_train_batch_size 4 --save_interval 100\n"
        "  tuneup sft --model opt-350m --data records.jsonl --output out --resume\n",
    .details = "Options are DeepSpeed-Chat's; '-' and '_' are alike. The output folder gets the model in Hugging "
               "Face's form,\n"
               "metrics.jsonl (a line an update), TensorBoard events, run.json and checkpoints. The first Ctrl-C "
               "finishes the\n"
               "step, saves and leaves; --resume goes on bit for bit. kill -USR1 prints status. A folder that already "
               "holds a\n"
               "model or checkpoints is left alone unless --resume or --overwrite is given.",
    .computes = true,
    .sets = sets,
    .run = run,
};
