/* tuneup eval: what a model makes of a data file, taken whole. */
#include <inttypes.h>

#include "cli/command.h"
#include "run/launch.h"
#include "run/run.h"

static struct spec spec;
static struct eval_options {
    int phase;
} eval;

static const struct option eval_options[] = {
    { .name = "phase",
      .type = OPTION_CHOICE,
      .offset = offsetof(struct eval_options, phase),
      .fallback = "sft",
      .choices = "sft|reward",
      .help = "what to evaluate: a language model's loss, or a reward model's loss and accuracy on pairs" },
    { 0 },
};

static int sets(struct option_set *out)
{
    out[0] = (struct option_set){ .title = "Evaluation", .options = eval_options, .values = &eval };
    return 1 + spec_sets(&spec, &phase_reward, &out[1]); /* phase 1 has no words of its own */
}

static void tell(const struct run_evaluation *e)
{
    const struct phase_metric *m = spec.phase->metrics;
    char words[256];

    if (!spec.json) {
        printf("%s  records %" PRId64 "  tokens %" PRId64 "\n",
               record_words(spec.phase, e->metrics, true, "  ", words, sizeof words), e->records, e->tokens);
        return;
    }
    printf("{");
    for (int i = 0; m[i].name; i++)
        printf("\"%s\": %.17g, ", m[i].name, e->metrics[i]);
    printf("\"records\": %" PRId64 ", \"tokens\": %" PRId64 "}\n", e->records, e->tokens);
}

static int run(struct command_line *line, struct err *err)
{
    const struct run_request request = { &run_batches, &spec, line->sets, line->n_sets, line->given, line->n_given };
    struct run_evaluation e;

    spec.phase = eval.phase == 1 ? &phase_reward : &phase_sft;
    if (!spec.model || !spec.data[0] || line->n_words > 0) {
        err_set(err, ERR_USAGE, "--model and --data are needed, and no other words");
        return err_hint(err, "For example: tuneup eval --model DIR --data FILE");
    }
    if (spec.eval_batches == 0)
        return err_set(err, ERR_USAGE, "--eval_batches 0 leaves nothing to evaluate");
    if (spec_check_judges(&spec, "eval", err) != 0)
        return -1;
    if (spec.ranks > 1 && !comm_launched())
        return launch_ranks((int)spec.ranks, line->argc, line->argv, err);
    if (run_evaluate(&request, &e, err) != 0)
        return -1;
    if (!e.tells)
        return 0;
    tell(&e);
    return 0;
}

const struct command cmd_eval = {
    .name = "eval",
    .summary = "loss of a model on a data file, and perplexity or accuracy",
    .usage = "tuneup eval [--phase sft|reward] --model DIR --data FILE [options]",
    .examples = "  tuneup eval --model out --data eval.jsonl\n"
                "  tuneup eval --phase sft --model out --data eval.jsonl --max_seq_len 256 --json\n"
                "  tuneup eval --phase reward --model judge --data eval.jsonl --json\n",
    .details =
        "Every record of the file is evaluated: no share is split off. A language model's loss is the mean of batch\n"
        "losses, as in DeepSpeed-Chat, so it depends a little on --per_device_eval_batch_size. A reward model's "
        "figures\n"
        "are means over pairs; with --convention deepspeed-chat those of loss and scores are over batches too.",
    .computes = true,
    .sets = sets,
    .run = run,
};
