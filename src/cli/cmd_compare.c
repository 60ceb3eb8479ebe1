/* "tuneup compare": a study's ratios, on stdout. */
#include <stdlib.h>

#include "base/json.h"
#include "cli/command.h"
#include "report/exports.h"
#include "report/headlines.h"

struct compare_options {
    bool json, csv, markdown;
};

static struct compare_options options;

static const struct option table[] = {
    { .name = "json",
      .type = OPTION_FLAG,
      .offset = offsetof(struct compare_options, json),
      .help = "one JSON document" },
    { .name = "csv",
      .type = OPTION_FLAG,
      .offset = offsetof(struct compare_options, csv),
      .help = "a row for each ratio of each cell, for spreadsheets" },
    { .name = "markdown",
      .type = OPTION_FLAG,
      .offset = offsetof(struct compare_options, markdown),
      .help = "tables for a text file" },
    { 0 },
};

static int sets(struct option_set *out)
{
    out[0] =
        (struct option_set){ .title = "Form (a table for people unless told)", .options = table, .values = &options };
    return 1;
}

static int print_json(const struct loaded *l, const struct comparisons *c, struct err *err)
{
    json_t *all = exports_json(l, c);

    if (!all)
        return err_set(err, ERR_MEMORY, "could not put the ratios together");
    const int failed = json_dumpf(all, stdout, JSON_INDENT(2)) != 0 || fputc('\n', stdout) == EOF;
    json_decref(all);
    return failed ? err_errno(err, "could not write the ratios") : 0;
}

static int run(struct command_line *line, struct err *err)
{
    struct comparisons c = { 0 };
    struct loaded l;
    int result = -1;

    if (line->n_words < 1) {
        err_set(err, ERR_USAGE, "a study's file, or lists of runs, are needed");
        return err_hint(err, "For example: tuneup compare tuneup-study/study.db");
    }
    if (options.json + options.csv + options.markdown > 1)
        return err_set(err, ERR_USAGE, "--json, --csv and --markdown exclude each other");
    if (load_runs(&l, line->words, line->n_words, err) != 0)
        return -1;
    if (ratios_build(&c, &l, err) == 0) {
        result = 0;
        if (options.json)
            result = print_json(&l, &c, err);
        else if (options.csv)
            exports_csv(stdout, &l, &c);
        else if (options.markdown)
            exports_markdown(stdout, &l, &c);
        else
            exports_table(stdout, &l, &c);
    }
    ratios_free(&c);
    load_free(&l);
    return result;
}

const struct command cmd_compare = {
    .name = "compare",
    .summary = "SpeedUp, MemoryUp and EnergyUp of a study, with intervals and verdicts",
    .usage = "tuneup compare STUDY.db|RUNS.jsonl|RUNS.csv... [--json | --csv | --markdown]",
    .examples = "  tuneup compare tuneup-study/study.db\n"
                "  tuneup compare tuneup-study/study.db --csv > ratios.csv\n"
                "  tuneup compare runs.jsonl       what `tuneup measure --label L -o runs.jsonl` wrote\n"
                "  tuneup compare plain.csv zero1.csv     CodeCarbon's emissions.csv, Zeus's log, any table of runs\n",
    .details =
        "Each ratio is baseline over variant, so above 1 is better. A study that is still running can be read.\n"
        "In lists of runs the first label (of several tables: the first file) is the baseline of the others, and\n"
        "runs are compared unpaired. A table needs a column \"seconds\"; it may have label, peak_bytes, joules,\n"
        "domains, final_loss, tokens and machine. Runs of other machines, counters or work are not compared.",
    .sets = sets,
    .run = run,
};
