/* report/csv_import.h - other tools' tables of runs, as records of the form that `tuneup measure` writes, so that recorded.c
 * reads all of them alike. Known by its header line:
 *   - CodeCarbon's emissions.csv (duration, energy_consumed in kWh). Its energy counts as estimated: the file does not say
 *     which part a counter measured, and that of memory is always a model;
 *   - the log of Zeus's monitor (window_name, elapsed_time, gpu0_energy ... in joules), measured;
 *   - any table with a column "seconds", and where they are known "label" (or "name", "cell"), "peak_bytes" (or "peak_mib"),
 *     "joules", "domains", "final_loss" (or "loss"), "exit_status", "machine", "tokens". Other columns are left alone.
 * RFC 4180: quoted fields may hold commas, quotes and line ends; CRLF and a byte-order mark are fine. */
#ifndef TUNEUP_REPORT_CSV_IMPORT_H
#define TUNEUP_REPORT_CSV_IMPORT_H

#include <stddef.h>

#include "base/err.h"
#include "base/json.h"

enum { CSV_IMPORT_MAX_COLUMNS = 256 };

/* An array of records; NULL and ERR_INPUT with the line on error. label: what rows without one are called; NULL: what the
 * tool calls them. */
json_t *csv_import_records(const char *text, size_t n, const char *path, const char *label, struct err *err);

#endif
