/* report/exports.h - the ratios as text for people and programs. Words from the study's file are made harmless for each
 * form: control characters for terminals, formula characters for spreadsheets, markup for Markdown. */
#ifndef TUNEUP_REPORT_EXPORTS_H
#define TUNEUP_REPORT_EXPORTS_H

#include <stdio.h>

#include "base/json.h"
#include "report/ratios.h"

void exports_table(FILE *out, const struct loaded *l, const struct comparisons *c); /* for the terminal */
void exports_markdown(FILE *out, const struct loaded *l, const struct comparisons *c);
/* A row for each ratio of each cell. */
void exports_csv(FILE *out, const struct loaded *l, const struct comparisons *c);
/* {"schema_version", "study", "comparisons": [{"phase", "cell", "ranks", "baseline", "techniques", "exact",
 * "quality": {"loss_difference" ("reward_difference" of PPO), "final_loss", "accuracy", ...},
 * "ratios": {"SpeedUp": {"value", "low", "high", "n", "verdict", "source", ...}, ...}}]}. What is unknown is null. NULL
 * when there is no memory. */
json_t *exports_json(const struct loaded *l, const struct comparisons *c);

#define EXPORTS_RANKS_SIZE 40
/* before + "2 ranks" + after; "" of a command, whose ranks only it knows. */
const char *exports_ranks(const struct load_cell *c, const char *before, const char *after,
                          char out[EXPORTS_RANKS_SIZE]);
/* "time, energy": in which ratios a run lies apart (ratios_outlier). */
#define EXPORTS_APART_SIZE 32
const char *exports_apart(unsigned apart, char out[EXPORTS_APART_SIZE]);
/* What ends a sentence with a text at its end: ".", or "" after one that is a sentence of its own. */
const char *exports_stop(const char *text);
/* "1.25"; very small and very large ones as "2e+05". */
void exports_number(double x, char *out, size_t size);
/* "1.25 [1.22, 1.28]", "~1.25 [...]" for an estimate, "1.25" for one run, "unavailable". */
void exports_ratio(const struct ratio *r, char *out, size_t size);
void exports_bytes(double bytes, char *out, size_t size); /* "1.25 GiB" */
/* Quoted for CSV, and harmless there: what a spreadsheet would take for a formula gets an apostrophe in front. */
void exports_csv_text(FILE *out, const char *text);
/* {"value", "low", "high", "n", "verdict", "source", "p", "p_holm", ...}; NULL without memory. */
json_t *exports_ratio_json(const struct ratio *r, enum ratio_kind kind);
/* "0", "0.12 %", "unknown": a loss_gap. */
void exports_gap(double gap, char *out, size_t size);
/* "accuracy 0.625, baseline 0.5": what the phase is judged by beside its loss; "" where there is none. */
void exports_quality(const struct comparison *row, char *out, size_t size);
/* The one reason why EnergyUp is unavailable in all rows, or NULL. */
const char *exports_energy_reason(const struct comparisons *c);

#endif
