/* "tuneup runs ls|show|rm|export": the runs in a study's file, one by one. */
#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>

#include "base/log.h"
#include "cli/command.h"
#include "report/runs.h"
#include "study/study_store.h"

struct runs_options {
    bool json, csv, jsonl;
};

static struct runs_options options;

static const struct option ls_table[] = {
    { .name = "json",
      .type = OPTION_FLAG,
      .offset = offsetof(struct runs_options, json),
      .help = "one JSON document: a list of runs" },
    { 0 },
};
static const struct option export_table[] = {
    { .name = "csv",
      .type = OPTION_FLAG,
      .offset = offsetof(struct runs_options, csv),
      .help = "a table for spreadsheets, a row a run" },
    { .name = "jsonl",
      .type = OPTION_FLAG,
      .offset = offsetof(struct runs_options, jsonl),
      .help = "a line of JSON a run, with its steps and its own record (unless told)" },
    { 0 },
};
static const struct option none[] = { { 0 } };

static int ls_sets(struct option_set *out)
{
    out[0] = (struct option_set){ .title = "Form", .options = ls_table, .values = &options };
    return 1;
}

static int export_sets(struct option_set *out)
{
    out[0] = (struct option_set){ .title = "Form", .options = export_table, .values = &options };
    return 1;
}

static int no_sets(struct option_set *out)
{
    out[0] = (struct option_set){ .title = "Runs", .options = none, .values = &options };
    return 1;
}

static int needs_words(const struct command_line *line, int n, const char *example, struct err *err)
{
    if (line->n_words >= n)
        return 0;
    err_set(err, ERR_USAGE, "%d words are needed, %d are given", n, line->n_words);
    return err_hint(err, "For example: tuneup runs %s", example);
}

static int parse_id(const char *word, int64_t *out, struct err *err)
{
    char *end;

    errno = 0;
    *out = strtoll(word, &end, 10);
    if (end != word && *end == '\0' && errno == 0 && *out > 0)
        return 0;
    err_set(err, ERR_USAGE, "\"%.60s\" is no run's number", word);
    return err_hint(err, "`tuneup runs ls` shows the numbers.");
}

static int print(json_t *value, size_t flags, struct err *err)
{
    if (!value)
        return err_set(err, ERR_MEMORY, "could not put the runs together");
    const int failed = json_dumpf(value, stdout, flags) != 0 || fputc('\n', stdout) == EOF;
    json_decref(value);
    return failed ? err_errno(err, "could not write the runs") : 0;
}

static int ls(struct command_line *line, struct err *err)
{
    struct loaded l;
    int result = 0;

    if (needs_words(line, 1, "ls tuneup-study/study.db", err) != 0 ||
        load_runs(&l, line->words, line->n_words, err) != 0)
        return -1;
    if (options.json) {
        json_t *all = json_array();

        for (int i = 0; i < l.n_runs; i++)
            json_array_append_new(all, runs_json(&l, &l.runs[i], false));
        result = print(all, JSON_INDENT(2), err);
    } else {
        runs_table(stdout, &l);
    }
    load_free(&l);
    return result;
}

static int no_such_run(int64_t id, const char *path, struct err *err)
{
    err_set(err, ERR_USAGE, "there is no run %" PRId64, id);
    err_where(err, "file \"%s\"", path);
    return err_hint(err, "`tuneup runs ls` shows the numbers.");
}

static int show(struct command_line *line, struct err *err)
{
    struct loaded l;
    int64_t id;

    if (needs_words(line, 2, "show tuneup-study/study.db 3", err) != 0 || parse_id(line->words[1], &id, err) != 0 ||
        load_study(&l, line->words[0], err) != 0)
        return -1;
    const struct load_run *r = runs_find(&l, id);
    const int result = r ? print(runs_json(&l, r, true), JSON_INDENT(2), err) : no_such_run(id, line->words[0], err);
    load_free(&l);
    return result;
}

/* Together or not at all: a number that is not there keeps the others. */
static int rm(struct command_line *line, struct err *err)
{
    struct study_store store;
    int result = 0;

    if (needs_words(line, 2, "rm tuneup-study/study.db 3 7", err) != 0)
        return -1;
    if (study_store_open_existing(&store, line->words[0], err) != 0)
        return -1;
    result = db_begin(&store.db, err);
    for (int i = 1; result == 0 && i < line->n_words; i++) {
        int64_t id;

        if (parse_id(line->words[i], &id, err) != 0 || study_store_remove(&store, id, err) < 0)
            result = -1;
    }
    result = db_end(&store.db, result, err);
    study_store_close(&store);
    if (result == 0)
        log_note("removed %d run%s; `tuneup study` with the same words runs them again", line->n_words - 1,
                 line->n_words == 2 ? "" : "s");
    return result;
}

static int export(struct command_line *line, struct err *err)
{
    struct loaded l;
    int result = 0;

    if (options.csv && options.jsonl)
        return err_set(err, ERR_USAGE, "--csv and --jsonl exclude each other");
    if (needs_words(line, 1, "export tuneup-study/study.db --csv", err) != 0 ||
        load_runs(&l, line->words, line->n_words, err) != 0)
        return -1;
    if (options.csv)
        runs_csv(stdout, &l, true);
    for (int i = 0; i < l.n_runs && !options.csv && result == 0; i++)
        result = print(runs_json(&l, &l.runs[i], true), JSON_COMPACT, err);
    load_free(&l);
    return result;
}

const struct command cmd_runs_ls = {
    .name = "runs ls",
    .summary = "list the runs in a study's file",
    .usage = "tuneup runs ls STUDY.db [--json]",
    .examples = "  tuneup runs ls tuneup-study/study.db\n",
    .details = "Reads whatever tuneup compare reads; a study that is still running can be read.",
    .sets = ls_sets,
    .run = ls,
};

const struct command cmd_runs_show = {
    .name = "runs show",
    .summary = "show all that is known of one run",
    .usage = "tuneup runs show STUDY.db ID",
    .examples = "  tuneup runs show tuneup-study/study.db 3\n",
    .details = "Prints one JSON document: times, memory by kind, energy, what disturbed it, its steps, its own record.",
    .sets = no_sets,
    .run = show,
};

const struct command cmd_runs_rm = {
    .name = "runs rm",
    .summary = "remove runs from a study's file, so that they are run again",
    .usage = "tuneup runs rm STUDY.db ID...",
    .examples = "  tuneup runs rm tuneup-study/study.db 3 7\n",
    .details = "For runs that something disturbed. All of them go, or none when one is not there.",
    .sets = no_sets,
    .run = rm,
};

const struct command cmd_runs_export = {
    .name = "runs export",
    .summary = "print all runs of a study for other programs",
    .usage = "tuneup runs export STUDY.db [--csv | --jsonl]",
    .examples = "  tuneup runs export tuneup-study/study.db > runs.jsonl\n"
                "  tuneup runs export tuneup-study/study.db --csv > runs.csv\n",
    .details = "The columns are those of docs/schema.md.",
    .sets = export_sets,
    .run = export,
};
