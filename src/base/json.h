/* base/json.h - jansson with this project's errors: strict (no duplicate keys), positions in every message. Every file
 * of JSON from outside passes through here. Objects are jansson's: release with json_decref. */
#ifndef TUNEUP_BASE_JSON_H
#define TUNEUP_BASE_JSON_H

#include <jansson.h>
#include <stdint.h>

#include "base/err.h"

/* Parses text of n bytes. name is the file's name and line the number of the text's first line (1 for a whole file),
 * for messages. NUL inside strings is kept. NULL and ERR_INPUT on error. */
json_t *json_parse(const char *text, size_t n, const char *name, int64_t line, struct err *err);
/* The whole file; at most max_bytes. */
json_t *json_read(const char *path, size_t max_bytes, struct err *err);
/* Writes to a temporary name in the same folder, syncs, renames. flags are jansson's (JSON_INDENT(2)). */
int json_write(const char *path, const json_t *value, size_t flags, struct err *err);

/* Members of an object read from the file `name`. Absent or null: *out keeps its value and 0 is returned; of another
 * type or out of range: ERR_INPUT; else 1. */
int json_get_int(const json_t *object, const char *name, const char *key, int64_t min, int64_t max, int64_t *out,
                 struct err *err);
int json_get_real(const json_t *object, const char *name, const char *key, double min, double max, double *out,
                  struct err *err);
int json_get_bool(const json_t *object, const char *name, const char *key, bool *out, struct err *err);
int json_get_string(const json_t *object, const char *name, const char *key, const char **out, struct err *err);

#endif
