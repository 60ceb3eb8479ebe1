/* tuneup sft: phase 1. Words to spec; ranks, if more than one is asked for; then run/. */
#include <stdlib.h>

#include "cli/command.h"
#include "run/launch.h"
#include "run/run.h"
#include "run/stop.h"

static struct spec spec;

static int sets(struct option_set *out)
{
    return spec_sets(&spec, out);
}

static int exit_of_stop(void)
{
    if (getenv("TUNEUP_LAUNCHED")) /* the launcher knows which signal it was, and mpirun stays quiet about 0 */
        return 0;
    return stop_wanted() == 2 ? 130 : 143;
}

static int run(struct command_line *line, struct err *err)
{
    const struct run_request request = { &spec, line->sets, line->n_sets, line->given, line->n_given };

    if (line->n_words > 0)
        return err_set(err, ERR_USAGE, "unexpected word \"%.80s\"", line->words[0]);
    if (spec_check_train(&spec, err) != 0)
        return -1;
    if (spec.ranks > 1 && !comm_launched())
        return launch_ranks((int)spec.ranks, line->argc, line->argv, err);
    const int result = run_train(&request, err);
    if (result != 0 && err->code == ERR_STOPPED) {
        if (err->what[0])
            fprintf(stderr, "tuneup: %s\n  hint: %s\n", err->what, err->hint);
        return exit_of_stop();
    }
    return result;
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
    .sets = sets,
    .run = run,
};
