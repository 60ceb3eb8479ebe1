/* "tuneup report": a study's file -> one HTML page that needs nothing else. */
#include <stdio.h>
#include <string.h>

#include "base/file.h"
#include "cli/command.h"
#include "report/exports.h"
#include "report/html.h"

struct report_options {
    const char *output, *figures;
    int format;
};
enum { FORMAT_HTML, FORMAT_MD, FORMAT_CSV, FORMAT_JSON, FORMAT_PNG, FORMAT_PDF };

static struct report_options options;

static const struct option table[] = {
    { .name = "output",
      .alias = "o",
      .type = OPTION_STRING,
      .offset = offsetof(struct report_options, output),
      .value = "FILE",
      .help =
          "where to write (a folder for png and pdf); report.html, or what the format is, beside the study's file" },
    { .name = "format",
      .type = OPTION_CHOICE,
      .offset = offsetof(struct report_options, format),
      .fallback = "html",
      .choices = "html|md|csv|json|png|pdf",
      .help = "one page of HTML, tables in Markdown, ratios as CSV or JSON, or the figures alone" },
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

static int print_as(FILE *out, const struct loaded *l, const struct comparisons *c, struct err *err)
{
    if (options.format == FORMAT_MD)
        exports_markdown(out, l, c);
    else if (options.format == FORMAT_CSV)
        exports_csv(out, l, c);
    else {
        json_t *all = exports_json(l, c);
        const int failed = !all || json_dumpf(all, out, JSON_INDENT(2)) != 0 || fputc('\n', out) == EOF;

        json_decref(all);
        if (failed)
            return err_set(err, ERR_MEMORY, "could not put the ratios together");
    }
    return ferror(out) ? err_errno(err, "could not write the report") : 0;
}

static int write_text(const char *path, const struct loaded *l, const struct comparisons *c, struct err *err)
{
    struct file_out o;

    if (file_out_open(&o, path, err) != 0)
        return -1;
    if (print_as(o.stream, l, c, err) != 0) {
        file_out_abort(&o);
        return -1;
    }
    return file_out_commit(&o, err);
}

/* Every form but the page. */
static int write_other(const char *study, const char *output, struct err *err)
{
    struct comparisons c = { 0 };
    struct loaded l;
    int result = -1;

    if (load_study(&l, study, err) != 0)
        return -1;
    if (ratios_build(&c, &l, err) == 0)
        result = options.format == FORMAT_PNG   ? figures_save(output, "png", &l, &c, err)
                 : options.format == FORMAT_PDF ? figures_save(output, "pdf", &l, &c, err)
                                                : write_text(output, &l, &c, err);
    ratios_free(&c);
    load_free(&l);
    return result;
}

static int run(struct command_line *line, struct err *err)
{
    static const char *const names[] = {
        "report.html", "report.md", "ratios.csv", "ratios.json", "figures", "figures"
    };
    char beside[FILE_PATH_MAX];

    if (line->n_words != 1) {
        err_set(err, ERR_USAGE, "one study's file is needed, %d words are given", line->n_words);
        return err_hint(err, "For example: tuneup report tuneup-study/study.db");
    }
    const char *study = line->words[0], *slash = strrchr(study, '/');
    const int n = slash ? (int)(slash - study + 1) : 0;
    if (snprintf(beside, sizeof beside, "%.*s%s", n, study, names[options.format]) >= (int)sizeof beside)
        return err_set(err, ERR_USAGE, "the path \"%.80s...\" is too long", study);
    const char *output = options.output ? options.output : beside;
    if ((options.format == FORMAT_HTML ? html_report(study, output, options.figures, err)
                                       : write_other(study, output, err)) != 0)
        return -1;
    puts(output);
    return 0;
}

const struct command cmd_report = {
    .name = "report",
    .summary = "write a study's report: one HTML file with tables and figures",
    .usage = "tuneup report STUDY.db|RUNS.jsonl [--format F] [--output FILE] [--figures DIR]",
    .examples = "  tuneup report tuneup-study/study.db\n"
                "  tuneup report tuneup-study/study.db --output opt.html --figures figures\n"
                "  tuneup report tuneup-study/study.db --format md         tables for a text file\n"
                "  tuneup report tuneup-study/study.db --format pdf        the figures, for a paper\n",
    .details =
        "Prints the path of the report. The file needs nothing else: no network, no script. Figures are drawn by\n"
        "gnuplot where it is installed; without it the report has its tables and says so.",
    .sets = sets,
    .run = run,
};
