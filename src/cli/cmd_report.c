/* "tuneup report": a study's file -> one HTML page that needs nothing else. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "cli/command.h"
#include "report/html.h"

struct report_options {
    const char *output, *figures;
};

static struct report_options options;

static const struct option table[] = {
    { .name = "output",
      .alias = "o",
      .type = OPTION_STRING,
      .offset = offsetof(struct report_options, output),
      .value = "FILE",
      .help = "where to write; report.html beside the study's file unless given" },
    { .name = "figures",
      .type = OPTION_STRING,
      .offset = offsetof(struct report_options, figures),
      .value = "DIR",
      .help = "write each figure there too, as SVG, PDF and PNG" },
    { 0 },
};

static int sets(struct option_set *out)
{
    out[0] = (struct option_set){ .title = "Report", .options = table, .values = &options };
    return 1;
}

static int run(struct command_line *line, struct err *err)
{
    char beside[FILE_PATH_MAX];

    if (line->n_words != 1) {
        err_set(err, ERR_USAGE, "one study's file is needed, %d words are given", line->n_words);
        return err_hint(err, "For example: tuneup report tuneup-study/study.db");
    }
    const char *study = line->words[0], *slash = strrchr(study, '/');
    const int n = slash ? (int)(slash - study + 1) : 0;
    if (snprintf(beside, sizeof beside, "%.*sreport.html", n, study) >= (int)sizeof beside)
        return err_set(err, ERR_USAGE, "the path \"%.80s...\" is too long", study);
    const char *output = options.output ? options.output : beside;
    if (html_report(study, output, options.figures, err) != 0)
        return -1;
    puts(output);
    return 0;
}

const struct command cmd_report = {
    .name = "report",
    .summary = "write a study's report: one HTML file with tables and figures",
    .usage = "tuneup report STUDY.db|RUNS.jsonl [--output FILE.html] [--figures DIR]",
    .examples = "  tuneup report tuneup-study/study.db\n"
                "  tuneup report tuneup-study/study.db --output opt.html --figures figures\n",
    .details =
        "Prints the path of the report. The file needs nothing else: no network, no script. Figures are drawn by\n"
        "gnuplot where it is installed; without it the report has its tables and says so.",
    .sets = sets,
    .run = run,
};
