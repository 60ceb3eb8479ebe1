/* cli/measure_sink.h - where the records of `tuneup measure` go: FILE.json, a line of FILE.jsonl, a study's file. All are opened
 * before the command runs, so that a long run is not lost to a wrong path. */
#ifndef TUNEUP_CLI_MEASURE_SINK_H
#define TUNEUP_CLI_MEASURE_SINK_H

#include "base/file.h"
#include "base/json.h"
#include "study/recorder.h"

struct measure_sink {
    const char *path, *db_path; /* borrowed; NULL = none */
    struct file_out whole; /* FILE.json */
    int lines; /* FILE.jsonl, or -1 */
    struct recorder recorder;
    bool recording;
};
int measure_sink_open(struct measure_sink *s, const char *path, const char *db_path, struct err *err);
int measure_sink_write(struct measure_sink *s, const json_t *record, struct err *err);
void measure_sink_close(struct measure_sink *s);

#endif
