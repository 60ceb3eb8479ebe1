/* tuneup ppo: phase 3. Words to spec, then run/. */
#include "cli/training.h"
#include "run/ppo_spec.h"

static struct ppo_spec spec;

static int sets(struct option_set *out)
{
    return ppo_spec_sets(&spec, out);
}

static int run(struct command_line *line, struct err *err)
{
    if (training_no_words(line, err) != 0 || ppo_spec_check(&spec, err) != 0)
        return -1;
    return training_run(&run_ppo, &spec.base, line, err);
}

const struct command cmd_ppo = {
    .name = "ppo",
    .summary = "let a model learn from a reward model's scores of its answers (phase 3)",
    .usage = "tuneup ppo --actor DIR --critic DIR --data FILE --output DIR [options]",
    .examples = "  tuneup ppo --actor out/sft --critic out/reward --data records.jsonl --output out/ppo\n"
                "  tuneup ppo --actor out/sft --critic out/reward --data records.jsonl --output out/ppo --ranks 2 \\\n"
                "             --actor_zero_stage 1 --critic_gradient_checkpointing --dtype bf16 --enable_ema\n"
                "  tuneup ppo --actor out/sft --critic out/reward --data records.jsonl --output out/ppo --resume\n",
    .details =
        "The actor answers prompts, the reward model scores the answers, and actor and critic learn from that "
        "while the\n"
        "reference, the actor as it was, holds the actor near. Options are DeepSpeed-Chat's; those of techniques "
        "are for both\n"
        "learning models, and with actor_ or critic_ before them for one. The output folder gets actor, critic "
        "and actor_ema in\n"
        "Hugging Face's form, metrics.jsonl (a line an iteration), TensorBoard events, run.json and "
        "checkpoints.",
    .computes = true,
    .sets = sets,
    .run = run,
};
