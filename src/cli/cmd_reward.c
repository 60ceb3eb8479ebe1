/* tuneup reward: phase 2. Words to spec, then run/. */
#include "cli/training.h"

static struct spec spec;

static int sets(struct option_set *out)
{
    return spec_sets(&spec, &phase_reward, out);
}

static int run(struct command_line *line, struct err *err)
{
    if (training_no_words(line, err) != 0 || spec_check_train(&spec, err) != 0)
        return -1;
    return training_run(&run_batches, &spec, line, err);
}

const struct command cmd_reward = {
    .name = "reward",
    .summary = "train a reward model on chosen and rejected answers (phase 2)",
    .usage = "tuneup reward --model DIR --data FILE --output DIR [options]",
    .examples = "  tuneup reward --model opt-350m --data records.jsonl --output judge\n"
                "  tuneup reward --model opt-350m --data records.jsonl --output judge --reward_loss end \\\n"
                "                --per_device_train_batch_size 4 --gradient_accumulation_steps 4 --eval_interval 100\n"
                "  tuneup reward --model opt-350m --data records.jsonl --output judge --convention deepspeed-chat\n"
                "  tuneup score --model judge --data records.jsonl\n",
    .details = "A record has prompt, chosen and rejected. The model is a language model, which gets a new head "
               "(v_head.weight),\n"
               "or a reward model that is to learn more. It is written in DeepSpeed-Chat's form. Batch sizes count "
               "pairs: a pair\n"
               "is two rows. Loss, accuracy, mean scores and their margin are told of every update and evaluation. "
               "Checkpoints,\n"
               "signals and --resume are as in `tuneup sft`.",
    .computes = true,
    .sets = sets,
    .run = run,
};
