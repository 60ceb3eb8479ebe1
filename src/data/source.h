/* data/source.h - a data file -> its records as text. Reads JSON lines and JSON arrays of objects, plain or gzip (told
 * apart by content, not by name), with or without a byte order mark, with either line end. Which fields a phase needs
 * is sample.c's business; here a record has at least one of them.
 * Memory: the text of the fields, at most the size of the (unpacked) file. */
#ifndef TUNEUP_DATA_SOURCE_H
#define TUNEUP_DATA_SOURCE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#include "base/err.h"
#include "base/file.h"

#define SOURCE_MAX_PROBLEMS 20

/* Zero-terminated UTF-8, but may hold zero bytes inside: use the lengths. NULL = absent. */
struct record_text {
    const char *prompt, *chosen, *rejected;
    const char *text; /* a whole text, of a record that has none of the other three: to be scored */
    size_t prompt_n, chosen_n, rejected_n, text_n;
    int64_t line; /* where the record begins, from 1 */
};

struct source_problem {
    int64_t line;
    char what[200];
};

struct source {
    char *name; /* owned: the path, for messages */
    struct record_text *records; /* owned; the texts point into arena */
    int64_t n_records, capacity;
    char *arena; /* owned */
    size_t arena_used;
    bool skip_bad;
    int64_t n_skipped; /* records left out because of skip_bad */
    struct source_problem problems[SOURCE_MAX_PROBLEMS]; /* the first min(n_skipped, SOURCE_MAX_PROBLEMS) of them */
};

/* Reads a regular file. Errors: ERR_INPUT names file, line and fault; with skip_bad a faulty record is counted and
 * listed instead. A file without any good record is an error in both cases. On error *s is empty. */
int source_load(struct source *s, const char *path, bool skip_bad, struct err *err);
/* The same from n bytes in memory (not gzip); name is for messages. */
int source_parse(struct source *s, const char *text, size_t n, const char *name, bool skip_bad, struct err *err);
void source_free(struct source *s);

/* Counts and lists a record that cannot be used, as skip_bad asks: 0; without skip_bad -1, and err says which record
 * of which file it is. err holds what is wrong with it; anything but ERR_INPUT is never skipped. */
int source_bad_record(struct source *s, int64_t line, struct err *err);

/* What a --data argument means. A folder holds train.jsonl or train.json and eval.jsonl or eval.json (each may end in
 * .gz): 1, and their paths. Anything else is a single file: 0, train = path, eval = "". Both have FILE_PATH_MAX bytes. */
int source_find(const char *path, char *train, char *eval, struct err *err);

#endif
