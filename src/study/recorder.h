/* study/recorder.h - single measured commands in a study's file: each label is a cell, each run of it a block, the first label the
 * baseline of the others. Its design is "recorded", so that nobody takes runs of one number for a pair. */
#ifndef TUNEUP_STUDY_RECORDER_H
#define TUNEUP_STUDY_RECORDER_H

#include "measure/job.h"
#include "measure/machine.h"
#include "measure/steps.h"
#include "study/study_store.h"

struct recorder {
    struct study_store store;
};
/* Opens or creates; ERR_INPUT: not a study's file; ERR_USAGE: the file of a study of another kind. */
int recorder_open(struct recorder *r, const char *path, struct err *err);
void recorder_close(struct recorder *r); /* accepts a closed one */
/* Adds to an outcome what the meter knows of a command: its steps, unless it has some, and the window after the warm-up, memory
 * of GPUs (what a device held beyond the start, from RECORDER_GPU_BYTES on, is a run's own peak: on GPUs that is the memory
 * that runs out), switches, I/O. s and w may be NULL. */
#define RECORDER_GPU_BYTES ((int64_t)64 << 20) /* less is not even a context of the driver's */
int recorder_outcome(struct outcome *o, const struct job_record *r, const struct steps *s, const struct steps_window *w,
                     struct err *err);
/* command: a JSON array of words; steps may be NULL. */
int recorder_add(struct recorder *r, const char *label, const json_t *command, const struct machine *machine,
                 const struct job_record *record, const struct steps *steps, const struct steps_window *w,
                 struct err *err);

#endif
