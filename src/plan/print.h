/* plan/print.h - a plan for people and for programs. */
#ifndef TUNEUP_PLAN_PRINT_H
#define TUNEUP_PLAN_PRINT_H

#include <stdio.h>

#include "base/json.h"
#include "plan/plan.h"

/* "1.5 GiB" into out; returns out. */
#define PRINT_BYTES_MAX 32
const char *print_bytes(double bytes, char out[PRINT_BYTES_MAX]);
/* Memory by kind, without and with the techniques (plain may be NULL), who changed it, and what a step costs. */
void print_plan(FILE *out, const struct plan *p, const struct plan *plain);
/* Every step of a program: op, output, who put it there, flops. */
void print_program(FILE *out, const struct plan *p, int program);
/* {"memory": {kind: bytes}, "peak_bytes", "file_bytes", "mapped_bytes", "unmapped_bytes", "flops", "bytes_moved", "comm_bytes",
 * "file_bytes_moved"}: of this rank, an optimizer step. */
json_t *print_plan_json(const struct plan *p);
/* The plan's table in one line, for the hint of an error: "param 1.2 GiB, grad 1.2 GiB, ...". */
void print_kinds(const struct plan *p, char *out, size_t size);
/* How much of the frozen weights is mapped, and how much is not, in a sentence; empty where nothing of that was asked. */
const char *print_mapped(const struct plan *p, char *out, size_t size);

#endif
