/* tuneup score: a reward model's score for each record of a data file. */
#include <inttypes.h>

#include "cli/command.h"
#include "run/launch.h"
#include "run/score.h"

static struct spec spec;

static int sets(struct option_set *out)
{
    return spec_sets(&spec, &phase_reward, out);
}

static void print(const struct score *s)
{
    if (s->n == 2)
        printf("{\"index\": %" PRId64 ", \"chosen\": %.9g, \"rejected\": %.9g}\n", s->index, s->value[0], s->value[1]);
    else
        printf("{\"index\": %" PRId64 ", \"score\": %.9g}\n", s->index, s->value[0]);
}

static int run(struct command_line *line, struct err *err)
{
    const struct run_request request = { &run_scores, &spec, line->sets, line->n_sets, line->given, line->n_given };
    struct scores scores;

    if (!spec.model || !spec.data[0] || line->n_words > 0) {
        err_set(err, ERR_USAGE, "--model and --data are needed, and no other words");
        return err_hint(err, "For example: tuneup score --model DIR --data FILE");
    }
    if (spec.data[1])
        return err_set(err, ERR_USAGE, "one data file has scores at a time, not \"%.80s\" too", spec.data[1]);
    if (spec_check_judges(&spec, "score", err) != 0)
        return -1;
    if (spec.ranks > 1 && !comm_launched())
        return launch_ranks((int)spec.ranks, line->argc, line->argv, err);
    if (score_file(&request, &scores, err) != 0)
        return -1;
    for (int64_t i = 0; scores.tells && i < scores.n; i++)
        print(&scores.list[i]);
    scores_free(&scores);
    return 0;
}

const struct command cmd_score = {
    .name = "score",
    .summary = "a reward model's score of each record of a data file",
    .usage = "tuneup score --model DIR --data FILE [options]",
    .examples = "  tuneup score --model judge --data records.jsonl\n"
                "  tuneup score --model judge --data answers.jsonl --per_device_eval_batch_size 4 >scores.jsonl\n",
    .details = "One JSON object a record, in the file's order: index, chosen and rejected; or index and score for a "
               "record with\n"
               "one text, which is prompt and chosen, a prompt alone, or a field \"text\". A text ends with "
               "\"<|endoftext|>\", as\n"
               "in training, and its last score is its score. Scores are compared with each other: they have no scale.",
    .computes = true,
    .sets = sets,
    .run = run,
};
